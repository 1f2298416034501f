"""How far above the floor a cold /keys/query answer is judged.

The floor is what cannot be avoided: ``json.loads`` of the body, and one call of libsodium per signature in question.
Floor and library run in turns, in one process, and the ratio of each pair counts: machines are noisy.

    python tests/bench/bench_query.py [--devices N] [--per-user N] [--rounds N]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import nacl.bindings

from matrix_e2e_keys import (
    CachingVerifier,
    ExecutorVerifier,
    KeysQueryRequest,
    KeysQueryResponse,
    SignatureCheck,
    Verifier,
    check_query,
)
from matrix_e2e_keys.signing.verifiers import LIBSODIUM
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer


def make_body(devices: int, per_user: int, *, cross_signed: bool) -> bytes:
    """Return the body of an answer about ``devices`` devices, with display names as a server adds them."""
    users = [SampleUser(f"@user{number}:example.org") for number in range(devices // per_user)]
    body = keys_query_answer(
        (user, [user.device(f"DEVICE{number:04}", cross_signed=cross_signed) for number in range(per_user)])
        for user in users
    )
    if not cross_signed:
        body |= {"master_keys": {}, "self_signing_keys": {}}
    for of_user in body["device_keys"].values():  # type: ignore[attr-defined]
        for device in of_user.values():
            device["unsigned"] = {"device_display_name": "phone"}
    return json.dumps(body, separators=(",", ":")).encode()


class Recording:
    """A verifier that keeps the questions it was asked."""

    def __init__(self) -> None:
        self.checks: list[SignatureCheck] = []

    def verify_many(self, checks: list[SignatureCheck], /) -> list[bool]:
        self.checks += checks
        return LIBSODIUM.verify_many(checks)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    result = work()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def compare(
    name: str, body: bytes, devices: int, rounds: int, verifier: Verifier = LIBSODIUM, *, warm: bool = False
) -> None:
    request = KeysQueryRequest.for_users(json.loads(body)["device_keys"])
    recording = Recording()
    result = check_query(request, KeysQueryResponse.from_bytes(body), verifier=recording)
    assert sum(map(len, result.devices.accepted.values())) == devices
    del result
    checks = recording.checks

    def floor() -> None:
        json.loads(body)
        for key, message, signature in checks:
            nacl.bindings.crypto_sign_open(signature + message, key)

    def ours() -> object:
        return check_query(request, KeysQueryResponse.from_bytes(body), verifier=verifier)

    if warm:
        ours()
    pairs: list[tuple[float, float]] = []
    for number in range(rounds):
        gc.collect()
        first, second = (floor, ours) if number % 2 else (ours, floor)
        one, two = seconds(first), seconds(second)
        pairs.append((one, two) if number % 2 else (two, one))
    ratio = statistics.median(mine / least for least, mine in pairs)
    least = statistics.median(least for least, _ in pairs) / devices * 1e6
    mine = statistics.median(mine for _, mine in pairs) / devices * 1e6
    print(
        f"{name:34} {devices:7} devices {len(checks) / devices:5.2f} signatures each: "
        f"floor {least:7.2f} us, ours {mine:7.2f} us a device, ratio {ratio:.3f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--per-user", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    devices = options.devices - options.devices % options.per_user
    cross_signed = make_body(devices, options.per_user, cross_signed=True)
    compare("cross-signed, cold", cross_signed, devices, options.rounds)
    compare("not cross-signed, cold", make_body(devices, options.per_user, cross_signed=False), devices, options.rounds)
    with ThreadPoolExecutor(2) as executor:
        verifier = ExecutorVerifier(executor=executor)
        compare("cross-signed, cold, two threads", cross_signed, devices, options.rounds, verifier)
    remembered = CachingVerifier(capacity=3 * devices)
    compare("cross-signed, remembered", cross_signed, devices, options.rounds, remembered, warm=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
