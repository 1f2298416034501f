"""How long reading an answer takes, next to ``json.loads`` of the same bytes; and whether it grows with the square.

Good answers as servers send them, and hostile ones. Each is read at two sizes, the second four times the first: a
growth of about 4 is linear. Ratios are those of pairs in one process, since machines are noisy.

    python tests/bench/bench_endpoints.py [--rounds N] [--size N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from matrix_e2e_keys import (
    KeysChangesResponse,
    KeysClaimResponse,
    RemoteProtocolError,
    SendToDeviceRequest,
    SignaturesUploadResponse,
    SyncKeys,
    UserDevicesResponse,
)
from matrix_e2e_keys.testing.samples import SampleUser

ALICE = SampleUser("@alice:a.example")
KEY = ALICE.one_time_key("PHONE", "AAAAAQ").to_json()
DEVICE = ALICE.device("PHONE").to_json()


def to_device(body: bytes) -> object:
    return SendToDeviceRequest.from_bytes(body, event_type="m.room.encrypted", txn_id="1")


CASES: dict[str, tuple[Callable[[bytes], object], Callable[[int], Any]]] = {
    "claim, good keys": (
        KeysClaimResponse.from_bytes,
        lambda n: {"one_time_keys": {f"@u{i}:x": {"D": {"signed_curve25519:AAAAAQ": KEY}} for i in range(n)}},
    ),
    "claim, nonsense for keys": (
        KeysClaimResponse.from_bytes,
        lambda n: {"one_time_keys": {"@a:b": {"D": {f"x:{i}": 1 for i in range(n)}}}},
    ),
    "claim, a long name of a device": (
        KeysClaimResponse.from_bytes,
        lambda n: {"one_time_keys": {"@a:b": {"D" * 10 * n: {f"x:{i}": 1 for i in range(n)}}}},
    ),
    "claim, deep and wide beside it": (
        KeysClaimResponse.from_bytes,
        lambda n: {"one_time_keys": {}, "x": json.loads("[" * 100 + ",".join(["1"] * 10 * n) + "]" * 100)},
    ),
    "changes, good users": (KeysChangesResponse.from_bytes, lambda n: {"changed": [f"@u{i}:x" for i in range(n)]}),
    "changes, no users": (KeysChangesResponse.from_bytes, lambda n: {"changed": ["x"] * n}),
    "sync, no users": (SyncKeys.from_sync_v2, lambda n: {"device_lists": {"changed": ["x"] * n}}),
    "devices of a user": (
        UserDevicesResponse.from_bytes,
        lambda n: {"user_id": "@a:b", "stream_id": 1, "devices": [{"device_id": "D", "keys": DEVICE}] * n},
    ),
    "to-device messages": (
        to_device,
        lambda n: {"messages": {f"@u{i}:x": {"D": {"ciphertext": {"k": {"type": 0, "body": "x"}}}} for i in range(n)}},
    ),
    "failures of signatures": (
        SignaturesUploadResponse.from_bytes,
        lambda n: {"failures": {"@a:b": {f"D{i}": {"errcode": "M_X", "error": "y"} for i in range(n)}}},
    ),
}


def seconds(work: Callable[[bytes], object], body: bytes) -> float:
    start = time.perf_counter()
    try:
        work(body)
    except RemoteProtocolError as error:
        sys.exit(f"it should have been read: {error}")
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for name, (read, make) in CASES.items():
        small, large = (json.dumps(make(size)).encode() for size in (options.size, 4 * options.size))
        ratios, growths = [], []
        for _ in range(options.rounds):
            of_small, of_large, floor = seconds(read, small), seconds(read, large), seconds(json.loads, large)
            ratios.append(of_large / floor)
            growths.append(of_large / of_small)
        print(
            f"{name:32} {len(large) / 1000:7.0f} kB  {statistics.median(ratios):6.1f} times json.loads, "
            f"grows {statistics.median(growths):4.1f} times"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
