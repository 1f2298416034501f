"""What a homeserver's decisions cost, next to the check of one signature.

    python tests/bench/bench_homeserver.py [--users N] [--rounds N]

Each user has three devices, a master key and a self-signing key. Ratios are those of pairs in one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable

from matrix_e2e_keys import KeysQueryRequest, KeysUploadRequest, UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.homeserver import (
    STRICT,
    DeviceKeyPool,
    DeviceRecord,
    KeyWanted,
    PooledKey,
    Requester,
    UploadView,
    UserKeys,
    decide_claims,
    decide_keys_upload,
    decide_user_keys_query,
    plan_query,
    read_authorization,
    sign_request,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

CHECKS = 100


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    people = [SampleUser(f"@u{number}:a.example") for number in range(options.users)]
    alice, device = people[0], people[0].device("A")
    stored = {
        user.user_id: UserKeys(
            user_id=user.user_id,
            devices={name: DeviceRecord(device_id=name, keys=user.device(name).signed) for name in "ABC"},
            master_key=user.master_key,
            self_signing_key=user.self_signing_key,
        )
        for user in people
    }
    me = Requester(user_id=alice.user_id, device_id="A")
    query = KeysQueryRequest.for_users(list(stored))
    incoming = UserKeysQueryRequest.for_users(list(stored))
    told = decide_user_keys_query(incoming, origin="b.example", server_name="a.example", local=stored)
    answer = UserKeysQueryResponse.from_http(told.to_http())
    keys = [alice.one_time_key("A", f"K{number:03}") for number in range(100)]
    upload = KeysUploadRequest.from_bytes(
        json.dumps(KeysUploadRequest.for_keys(device_keys=device, one_time_keys=keys).to_json()).encode()
    )
    view = UploadView(user=stored[alice.user_id])
    pooled = tuple(
        PooledKey(key_id=key_id, key=key.signed, uploaded=1)
        for key_id, key in upload.one_time_keys.items()
        if not isinstance(key, str) and getattr(key, "signed", None) is not None
    )
    pools = {(alice.user_id, "A"): DeviceKeyPool(one_time_keys=pooled)}
    wanted = [KeyWanted(user_id=alice.user_id, device_id="A", algorithm="signed_curve25519")] * 50
    signer = sample_secret_key("a.example").signer("ed25519:1")
    http = incoming.to_http()
    headers = sign_request(http, origin="a.example", destination="b.example", signers=signer)
    claim = read_authorization(headers, server_name="b.example")

    def local() -> object:
        plan = plan_query(query, requester=me, server_name="a.example")
        return plan.answer(local=stored, remote={}).response.to_http()

    def remote() -> object:
        plan = plan_query(query, requester=Requester(user_id="@x:b.example"), server_name="b.example")
        return plan.answer(local={}, remote={"a.example": answer}).response.to_http()

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "answer a query, own users, per device": (3 * len(people), local),
        "answer a query, another server's users, per device": (3 * len(people), remote),
        "read and decide an upload of 100 one-time keys, per key": (
            100,
            lambda: decide_keys_upload(KeysUploadRequest.from_json(upload.to_json()), requester=me, view=view),
        ),
        "the same, every key's signature checked": (
            100,
            lambda: decide_keys_upload(
                KeysUploadRequest.from_json(upload.to_json()), requester=me, view=view, policy=STRICT
            ),
        ),
        "hand out 50 of 100 keys, per key": (50, lambda: decide_claims(wanted, pools=pools)),
        "check who sent a request": (
            1,
            lambda: claim.verify(http, keys={"ed25519:1": signer.public_key}, received_ts=0, now=0),
        ),
    }

    def floor_work() -> object:
        return [device.verify() for _ in range(CHECKS)]

    ratios: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, (times, work) in works.items():
            floor = seconds(floor_work) / CHECKS
            ratios[name].append(seconds(work) / times / floor)
    print(f"{3 * len(people)} devices of {len(people)} users; 1.00 is DeviceKeys.verify(), the check of one signature")
    for name, measured in ratios.items():
        print(f"{name:58} {statistics.median(measured):6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
