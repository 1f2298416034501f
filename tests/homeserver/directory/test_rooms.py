"""Rooms: who shares one with whom, now and before."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.directory.rooms import Rooms
from matrix_e2e_keys.identifiers import home_of
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE, BOB, CAROL, DORA = USERS = ("@alice:a.example", "@bob:b.example", "@carol:c.example", "@dora:a.example")
ONE, TWO = ROOMS = ("!one:a.example", "!two:a.example")

Move = tuple[str, str, bool]


def played(*moves: Move) -> Rooms:
    """Rooms after some moves, at the positions 1, 2, and so on."""
    rooms = Rooms()
    for position, (room, user, joins) in enumerate(moves, 1):
        rooms.set_member(room, user, joins=joins, position=position)
    return rooms


class TestMembers:
    def test_nobody_at_first(self) -> None:
        rooms = Rooms()
        assert (rooms.members(ONE), rooms.sharing(ALICE), rooms.latest) == (set(), set(), 0)

    def test_joining_and_leaving(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, BOB, True), (TWO, CAROL, True))
        assert rooms.members(ONE) == {ALICE, BOB}
        assert rooms.sharing(ALICE) == {ALICE, BOB}
        assert rooms.sharing(BOB) == {ALICE, BOB, CAROL}
        assert rooms.latest == 4
        assert rooms.set_member(ONE, BOB, joins=False, position=9)
        assert rooms.sharing(ALICE) == {ALICE}
        assert rooms.latest == 9

    def test_a_move_that_changes_nothing_is_none(self) -> None:
        rooms = played((ONE, ALICE, True))
        assert not rooms.set_member(ONE, ALICE, joins=True, position=2)
        assert not rooms.set_member(ONE, BOB, joins=False, position=3)
        assert rooms.latest == 1

    def test_what_was_returned_does_not_change(self) -> None:
        rooms = played((ONE, ALICE, True))
        before = rooms.members(ONE)
        rooms.set_member(ONE, BOB, joins=True, position=2)
        assert before == {ALICE}


class TestServers:
    """Which servers are in a room, counted as users come and go."""

    def test_of_a_room(self) -> None:
        rooms = Rooms()
        assert rooms.servers(ONE) == set()
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (ONE, DORA, True), (TWO, CAROL, True))
        assert (rooms.servers(ONE), rooms.servers(TWO)) == ({"a.example", "b.example"}, {"c.example"})

    def test_the_last_of_a_server_takes_it_along(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, DORA, True), (ONE, BOB, True), (ONE, ALICE, False))
        assert rooms.servers(ONE) == {"a.example", "b.example"}
        rooms.set_member(ONE, DORA, joins=False, position=9)
        assert rooms.servers(ONE) == {"b.example"}
        rooms.set_member(ONE, BOB, joins=False, position=10)
        assert rooms.servers(ONE) == set()

    def test_of_all_rooms_of_a_user(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, BOB, True), (TWO, CAROL, True))
        assert rooms.servers_sharing(ALICE) == {"a.example", "b.example"}
        assert rooms.servers_sharing(BOB) == {"a.example", "b.example", "c.example"}
        assert rooms.servers_sharing(DORA) == set()

    def test_with_which_server_one_shares_a_room(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, BOB, True), (TWO, CAROL, True))
        assert rooms.shares_with(ALICE, "b.example")
        assert not rooms.shares_with(ALICE, "c.example")
        assert not rooms.shares_with(DORA, "a.example")
        assert not rooms.shares_with(DORA, "a.example", beside=ONE)

    def test_with_which_server_one_shares_another_room(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, BOB, True), (TWO, CAROL, True))
        assert not rooms.shares_with(ALICE, "b.example", beside=ONE)
        assert rooms.shares_with(ALICE, "b.example", beside=TWO)
        rooms.set_member(TWO, ALICE, joins=True, position=9)
        assert rooms.shares_with(ALICE, "b.example", beside=ONE)
        assert not rooms.shares_with(ALICE, "c.example", beside=TWO)

    def test_what_was_returned_does_not_change(self) -> None:
        rooms = played((ONE, ALICE, True))
        before = rooms.servers(ONE), rooms.servers_sharing(ALICE)
        rooms.set_member(ONE, BOB, joins=True, position=2)
        assert before == ({"a.example"}, {"a.example"})

    @given(st.lists(st.tuples(st.sampled_from(ROOMS), st.sampled_from(USERS), st.booleans()), max_size=12))
    def test_are_those_of_the_members(self, moves: list[Move]) -> None:
        rooms = played(*moves)
        for room in ROOMS:
            assert rooms.servers(room) == {home_of(user) for user in rooms.members(room)}
        for user in USERS:
            assert rooms.servers_sharing(user) == {home_of(other) for other in rooms.sharing(user)}
            for server in ("a.example", "b.example"):
                assert rooms.shares_with(user, server) is (server in rooms.servers_sharing(user))
                for room in ROOMS:
                    others = [other for other in ROOMS if other != room and user in rooms.members(other)]
                    expected = any(server in rooms.servers(other) for other in others)
                    assert rooms.shares_with(user, server, beside=room) is expected

    def test_are_told_without_looking_at_the_members(self) -> None:
        """Attack 49: what is asked at every change of a device does not cost more in a room of many."""
        rooms = Rooms()
        for number in range(1000):
            rooms.set_member(ONE, f"@u{number}:a.example", joins=True, position=number + 1)
        rooms._members[ONE] = Untouchable()
        assert rooms.servers(ONE) == rooms.servers_sharing("@u7:a.example") == {"a.example"}
        assert rooms.shares_with("@u7:a.example", "a.example")


class Untouchable(set[str]):
    """Members that nobody may go through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("somebody goes through all members")


class TestThePast:
    def test_who_shared_a_room(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (ONE, BOB, False), (ONE, CAROL, True), (ONE, ALICE, False))
        shared = [rooms.sharing_at(ALICE, position) for position in range(6)]
        assert shared == [set(), {ALICE}, {ALICE, BOB}, {ALICE}, {ALICE, CAROL}, set()]
        assert rooms.members(ONE) == {CAROL}

    def test_whom_one_met(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, BOB, True), (TWO, CAROL, True), (TWO, ALICE, True))
        assert rooms.met_since(ALICE, 5) == set()
        assert rooms.met_since(ALICE, 4) == {ALICE, BOB, CAROL}
        assert rooms.met_since(ALICE, 1) == {ALICE, BOB, CAROL}
        assert rooms.met_since(CAROL, 4) == {ALICE}
        assert rooms.met_since(BOB, 3) == {ALICE, CAROL}

    def test_meeting_again_counts(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (ONE, BOB, False), (ONE, BOB, True))
        assert rooms.met_since(ALICE, 2) == {BOB}

    def test_whom_one_only_met_before_is_not_met(self) -> None:
        rooms = played((ONE, ALICE, True), (ONE, BOB, True), (TWO, CAROL, True))
        assert rooms.met_since(ALICE, 1) == {BOB}
        assert rooms.met_since(CAROL, 0) == {CAROL}

    @given(st.lists(st.tuples(st.sampled_from(ROOMS), st.sampled_from(USERS), st.booleans()), max_size=12))
    def test_the_past_is_what_it_was(self, moves: list[Move]) -> None:
        now = played(*moves)
        for position in range(len(moves) + 1):
            then = played(*moves[:position])
            for user in USERS:
                assert now.sharing_at(user, position) == then.sharing(user)
                assert now.sharing(user) - now.sharing_at(user, position) <= now.met_since(user, position)


class TestStoring:
    @given(st.lists(st.tuples(st.sampled_from(ROOMS), st.sampled_from(USERS), st.booleans()), max_size=12))
    def test_everything_comes_back(self, moves: list[Move]) -> None:
        rooms = played(*moves)
        restored = Rooms.from_json(json.loads(json.dumps(rooms.to_json())))
        assert restored.to_json() == rooms.to_json()
        assert restored.latest == rooms.latest
        for user in USERS:
            assert restored.sharing(user) == rooms.sharing(user)
            assert restored.sharing_at(user, 3) == rooms.sharing_at(user, 3)

    @pytest.mark.parametrize(
        "event",
        [
            [],
            [1, ONE, ALICE],
            [1, ONE, ALICE, True, 1],
            ["1", ONE, ALICE, True],
            [True, ONE, ALICE, True],
            [1, None, ALICE, True],
            [1, ONE, 7, True],
            [1, ONE, ALICE, 1],
            [1, ONE, "alice", True],
            [1, ONE, ALICE, False],
            [-1, ONE, ALICE, True],
            [2, TWO, ALICE, True],
            [5, TWO, ALICE, True],
        ],
    )
    def test_a_damaged_move_is_named(self, event: list[Any]) -> None:
        stored = {"version": 1, "history": [[5, TWO, ALICE, True], event]}
        with pytest.raises(LocalProtocolError) as caught:
            Rooms.from_json(stored)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/history/1")

    def test_two_moves_may_have_one_position(self) -> None:
        history = [[1, ONE, ALICE, True], [1, ONE, BOB, True]]
        assert Rooms.from_json({"version": 1, "history": history}).members(ONE) == {ALICE, BOB}

    def test_another_version_is_not_read(self) -> None:
        with pytest.raises(LocalProtocolError):
            Rooms.from_json({"version": 2, "history": []})

    @given(json_like_values())
    def test_nothing_else_is_raised(self, obj: object) -> None:
        for stored in (obj, {"version": 1, "history": obj}, {"version": 1, "history": [obj]}):
            with contextlib.suppress(LocalProtocolError):
                Rooms.from_json(stored)
