"""What a client's memory costs, next to judging the same answer without any.

    python tests/bench/bench_client.py [--users N] [--rounds N]

Each user has four devices, one of which is not cross-signed. Ratios are those of pairs in one process.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable

from matrix_e2e_keys import (
    KeysQueryRequest,
    KeysQueryResponse,
    KnownUsers,
    RecipientPolicy,
    check_query,
    explain_device,
    select_recipients,
)
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer

OWN = "@u0:x.example"


def seconds(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    people = [SampleUser(f"@u{number}:x.example") for number in range(options.users)]
    answer = keys_query_answer(
        [(user, [user.device(name, cross_signed=name != "D") for name in "ABCD"]) for user in people], viewer=OWN
    )
    request = KeysQueryRequest.for_users([user.user_id for user in people])
    response = KeysQueryResponse.from_bytes(json.dumps(answer).encode())
    users = KnownUsers(own_user_id=OWN)
    users.take(users.judge(request, response), request.asked)
    users.confirm_own_identity(people[0].master_public_key)
    state = json.loads(json.dumps(users.to_json()))

    def recipients() -> object:
        return select_recipients(
            request.asked,
            known=users.users,
            policy=RecipientPolicy.CROSS_SIGNED_ONLY,
            own_user_id=OWN,
            own_device_id="A",
        )

    works: dict[str, Callable[[], object]] = {
        "judge, nothing known": lambda: check_query(request, response, known={}),
        "judge, everything known": lambda: users.judge(request, response),
        "judge and take": lambda: users.take(users.judge(request, response), request.asked),
        "store": lambda: json.dumps(users.to_json()),
        "restore": lambda: KnownUsers.from_json(state),
        "select recipients": recipients,
        "explain every device": lambda: [
            explain_device(user, device_id, own=users.own)
            for user in users.users.values()
            for device_id in user.devices
        ],
    }
    ratios: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.rounds):
        for name, work in works.items():
            floor = seconds(lambda: check_query(request, response))
            ratios[name].append(seconds(work) / floor)
    devices = 4 * len(people)
    print(f"{devices} devices of {len(people)} users; 1.00 is check_query without any memory")
    for name, measured in ratios.items():
        print(f"{name:28} {statistics.median(measured):6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
