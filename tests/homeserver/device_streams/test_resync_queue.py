"""Whom to ask about next: the same as if everybody were looked at each time, at the cost of looking at a few."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys.back_off import BackOff
from matrix_e2e_keys.homeserver.device_streams.remote_lists import RemoteDeviceLists
from matrix_e2e_keys.homeserver.device_streams.remote_values import Resync
from matrix_e2e_keys.homeserver.device_streams.resync_queue import ResyncQueue

MINUTE = 60_000
USERS = [f"@u{number}:{server}.example" for number in range(4) for server in "bcd"]


def home(user_id: str) -> str:
    return user_id.partition(":")[2]


class Scan:
    """The plain way: of all who wait, the first whom one may ask about."""

    def __init__(self) -> None:
        self.due: dict[str, None] = {}
        self.flights: dict[str, int] = {}
        self.servers, self.users = BackOff(), BackOff()

    def askable(self) -> list[tuple[int, str]]:
        busy = Counter(map(home, self.flights))
        return [
            (max(self.servers.ready_at(home(user)), self.users.ready_at(user)), user)
            for user in self.due
            if busy[home(user)] < 2
        ]

    def add(self, user: str) -> None:
        if user not in self.flights:
            self.due[user] = None

    def discard(self, user: str) -> None:
        self.due.pop(user, None)
        self.flights.pop(user, None)
        self.users.succeeded(user)

    def next(self, now: int) -> str | None:
        return next((user for at, user in self.askable() if at <= now), None)

    def next_wake_at(self, now: int) -> int | None:
        return min((max(now, at) for at, _ in self.askable()), default=None)


class LikeAScan(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now = 0
        self.plain = Scan()
        self.queue = ResyncQueue(2)
        self.asked: list[Resync] = []

    @rule(user=st.sampled_from(USERS))
    def add(self, user: str) -> None:
        self.plain.add(user)
        self.queue.add(user)

    @rule(user=st.sampled_from(USERS))
    def discard(self, user: str) -> None:
        self.plain.discard(user)
        self.queue.discard(user)

    @rule(many=st.integers(1, 4))
    def ask(self, many: int) -> None:
        for _ in range(many):
            found = self.queue.next(self.now)
            assert (None if found is None else found.user_id) == self.plain.next(self.now)
            if found is None:
                return
            assert (found.server_name, found.request.user_id) == (home(found.user_id), found.user_id)
            del self.plain.due[found.user_id]
            self.plain.flights[found.user_id] = found.number
            self.asked.append(found)

    @rule(data=st.data(), fate=st.sampled_from(["answered", "useless", "failed"]), wish=st.sampled_from([0, 90_000]))
    def answer(self, data: st.DataObject, fate: str, wish: int) -> None:
        if not self.asked:
            return
        resync = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        user, server = resync.user_id, resync.server_name
        is_awaited = self.plain.flights.get(user) == resync.number
        assert self.queue.is_awaited(resync) is is_awaited
        if not is_awaited:
            return
        del self.plain.flights[user]
        if fate == "failed":
            self.plain.servers.failed(server, self.now, at_least_ms=max(30_000, wish))
            self.queue.failed(resync, self.now, wish)
        else:
            self.plain.servers.succeeded(server)
        if fate == "useless":
            self.plain.users.failed(user, self.now, at_least_ms=30_000)
            self.queue.useless(resync, self.now)
        if fate == "answered":
            self.plain.users.succeeded(user)
            self.queue.answered(resync)
        else:
            self.plain.add(user)

    @rule(later=st.sampled_from([1_000, 29_999, 30_000, MINUTE, 10 * MINUTE]))
    def wait(self, later: int) -> None:
        self.now += later

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "plain"):
            return
        assert self.queue.next_wake_at(self.now) == self.plain.next_wake_at(self.now)
        assert {user for user in USERS if self.queue.is_in_flight(user)} == set(self.plain.flights)
        there = {*self.plain.due, *self.plain.flights}
        assert set(self.queue._lines) == set(map(home, there)), "nothing is kept of a server nobody is asked about"


TestLikeAScan = LikeAScan.TestCase


def test_whoever_is_ready_again_is_before_those_who_came_later() -> None:
    queue = ResyncQueue(4)
    queue.add("@first:b.example")
    resync = queue.next(0)
    assert resync is not None
    queue.useless(resync, 0)
    for user in ("@x:c.example", "@second:b.example", "@y:c.example"):
        queue.add(user)
    order = [queue.next(now) for now in (1, 30_000, 30_000, 30_000)]
    names = ["@x:c.example", "@first:b.example", "@second:b.example", "@y:c.example"]
    assert [None if found is None else found.user_id for found in order] == names


def calls(of: Callable[[], Any]) -> int:
    """How many functions are called, in Python or not."""
    counted = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        of()
    finally:
        sys.setprofile(before)
    return counted


def tracking(users: int, servers: int) -> RemoteDeviceLists:
    made = RemoteDeviceLists()
    for number in range(users):
        made.track(f"@u{number}:s{number % servers}.example", now=0)
    return made


def fail_all(made: RemoteDeviceLists) -> None:
    while (resync := made.next_resync(now=0)) is not None:
        made.receive_failure(resync, now=0)


class TestCost:
    """What is called for one user does not depend on how many wait."""

    @pytest.mark.parametrize("servers", [1, 50, 2000])
    def test_of_all_who_join_a_room_is_the_same_for_each(self, servers: int) -> None:
        def a_room(users: int) -> float:
            made = tracking(users, min(servers, users))

            def ask_all() -> None:
                while (resync := made.next_resync(now=0)) is not None:
                    made._queue.answered(resync)

            return calls(ask_all) / users

        assert a_room(2000) < 1.5 * a_room(200)

    @pytest.mark.parametrize("servers", [1, 50, 2000])
    def test_of_joining_is_the_same_for_each(self, servers: int) -> None:
        assert calls(lambda: tracking(2000, servers)) < 15 * calls(lambda: tracking(200, min(servers, 200)))

    @pytest.mark.parametrize("servers", [1, 50, 2000])
    def test_of_waiting_for_servers_that_fail_is_next_to_nothing(self, servers: int) -> None:
        """Users of servers that do not answer hold nobody up, however many they are."""
        made = tracking(2000, servers)
        fail_all(made)
        assert made.next_wake_at(now=0) == 30_000
        assert calls(lambda: made.next_resync(now=29_999)) < 30
        assert calls(lambda: made.next_wake_at(now=29_999)) < 30
        made.track("@late:z.example", now=29_999)
        found: list[Resync | None] = []
        assert calls(lambda: found.append(made.next_resync(now=29_999))) < 150
        assert found[0] is not None
        assert found[0].user_id == "@late:z.example"

    def test_of_users_whose_answers_are_of_no_use_too(self) -> None:
        made = tracking(2000, 20)
        while (resync := made.next_resync(now=0)) is not None:
            made._queue.useless(resync, 0)
        assert made.next_wake_at(now=0) == 30_000
        assert calls(lambda: made.next_resync(now=29_999)) < 30
        assert calls(lambda: made.next_wake_at(now=29_999)) < 30


class TestAClockThatIsSetBack:
    def test_makes_what_waits_wait_longer(self) -> None:
        made = tracking(2, 1)
        fail_all(made)
        assert made.next_resync(now=-MINUTE) is None
        assert made.next_wake_at(now=-MINUTE) == 30_000

    def test_leaves_ready_what_was_found_to_be(self) -> None:
        made = tracking(2, 2)
        fail_all(made)
        assert made.next_resync(now=30_000) is not None
        assert made.next_wake_at(now=0) == 0
        assert made.next_resync(now=0) is not None
