"""The stream: whose devices changed when, for whom."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from matrix_e2e_keys import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.directory.change_stream import ChangeStream
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE, BOB, CAROL, DAVE = "@alice:a.example", "@bob:b.example", "@carol:c.example", "@dave:d.example"
ROOM = "!room:a.example"


def stream(*members: str) -> ChangeStream:
    """A stream with one room; each join is an event."""
    made = ChangeStream()
    for member in members:
        move(made, member)
    return made


def move(made: ChangeStream, user: str, *, joins: bool = True) -> None:
    made.rooms.set_member(ROOM, user, joins=joins, position=made.next_position())


def lists(made: ChangeStream, viewer: str, since: int) -> tuple[list[str], list[str]]:
    found = made.lists_since(viewer, since)
    return list(found.changed), list(found.left)


class TestTokens:
    def test_stand_for_positions(self) -> None:
        made = ChangeStream()
        assert (made.token, made.position_of("s0")) == ("s0", 0)
        assert made.next_position() == 1
        assert (made.token, made.position_of("s1"), made.position_of("s0")) == ("s1", 1, 0)

    @pytest.mark.parametrize(
        "token", ["", "s", "1", "s3", "s-1", "s01", "s+1", "s1 ", " s1", "S1", "s1\n", "s1.0", "s٣", "s" + "9" * 17]
    )
    def test_of_nobody(self, token: str) -> None:
        assert stream(ALICE, BOB).position_of(token) is None


class TestLists:
    def test_whoever_shares_a_room_is_told(self) -> None:
        made = stream(ALICE, BOB)
        since = made.position
        made.moved(BOB)
        made.moved(CAROL)
        assert lists(made, ALICE, since) == ([BOB], [])
        assert lists(made, BOB, since) == ([BOB], [])
        assert lists(made, CAROL, since) == ([CAROL], [])
        assert lists(made, DAVE, since) == ([], [])
        assert lists(made, ALICE, made.position) == ([], [])

    def test_a_change_counts_from_right_before_it(self) -> None:
        made = stream(ALICE, BOB)
        made.moved(BOB)
        assert lists(made, ALICE, made.position - 1) == ([BOB], [])
        assert lists(made, ALICE, made.position) == ([], [])

    def test_the_latest_change_counts(self) -> None:
        made = stream(ALICE, BOB)
        made.moved(BOB)
        since = made.position
        assert lists(made, ALICE, since) == ([], [])
        made.moved(BOB)
        assert lists(made, ALICE, since) == ([BOB], [])

    def test_whoever_came_or_went(self) -> None:
        made = stream(ALICE, BOB)
        since = made.position
        move(made, CAROL)
        move(made, BOB, joins=False)
        assert lists(made, ALICE, since) == ([CAROL], [BOB])
        move(made, BOB)
        assert lists(made, ALICE, since) == ([BOB, CAROL], [])

    def test_whoever_left_and_came_back_has_changed(self) -> None:
        made = stream(ALICE, BOB)
        since = made.position
        move(made, BOB, joins=False)
        move(made, BOB)
        assert lists(made, ALICE, since) == ([BOB], [])

    def test_what_one_signed_is_told_to_oneself_only(self) -> None:
        made = stream(ALICE, BOB, CAROL)
        since = made.position
        made.signed(ALICE, [BOB])
        made.signed(ALICE, [DAVE])
        assert lists(made, ALICE, since) == ([BOB, DAVE], [])
        assert lists(made, BOB, since) == ([], [])
        assert lists(made, ALICE, made.position) == ([], [])
        assert lists(made, ALICE, made.position - 1) == ([DAVE], [])

    def test_one_signs_again(self) -> None:
        made = stream(ALICE, BOB)
        made.signed(ALICE, [BOB])
        since = made.position
        made.signed(ALICE, [BOB])
        assert lists(made, ALICE, since) == ([BOB], [])


class TestStoring:
    def filled(self) -> ChangeStream:
        made = stream(ALICE, BOB)
        made.moved(BOB)
        made.signed(ALICE, [BOB, CAROL])
        made.signed(BOB, [ALICE])
        move(made, BOB, joins=False)
        made.next_position()
        return made

    def test_everything_comes_back(self) -> None:
        made = self.filled()
        restored = ChangeStream.from_json(json.loads(json.dumps(made.to_json())))
        assert restored.to_json() == made.to_json()
        assert (restored.position, restored.token) == (made.position, made.token)
        for viewer in (ALICE, BOB, CAROL):
            for since in range(made.position + 1):
                assert lists(restored, viewer, since) == lists(made, viewer, since)

    def test_nothing_comes_back_as_nothing(self) -> None:
        assert ChangeStream.from_json(ChangeStream().to_json()).token == "s0"

    def test_the_latest_event_may_be_a_move(self) -> None:
        made = stream(ALICE, BOB)
        assert ChangeStream.from_json(made.to_json()).rooms.latest == made.position

    @pytest.mark.parametrize(
        "damage",
        [
            {"position": 3},
            {"position": -1, "moved": {}, "rooms": {"version": 1, "history": []}},
            {"moved": {BOB: 8}},
            {"moved": {BOB: -1}},
            {"rooms": {"version": 1, "history": [[8, ROOM, ALICE, True]]}},
        ],
    )
    def test_positions_are_in_the_stream(self, damage: dict[str, object]) -> None:
        assert self.filled().position == 8
        with pytest.raises(LocalProtocolError) as caught:
            ChangeStream.from_json({**self.filled().to_json(), "position": 7, **damage})
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/position")

    @pytest.mark.parametrize(
        ("damage", "path"),
        [
            ({"version": 0}, "/version"),
            ({"position": "8"}, "/position"),
            ({"moved": {BOB: "1"}}, f"/moved/{BOB}"),
            ({"signed": {ALICE: {BOB: None}}}, f"/signed/{ALICE}/{BOB}"),
            ({"signed": {ALICE: []}}, f"/signed/{ALICE}"),
            ({"rooms": {"version": 1, "history": [[]]}}, "/rooms/history/0"),
            ({"rooms": None}, "/rooms"),
        ],
    )
    def test_a_damaged_member_is_named(self, damage: dict[str, object], path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            ChangeStream.from_json({**self.filled().to_json(), **damage})
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            ({"moved": {"nobody": 1}}, Reason.INVALID_IDENTIFIER),
            ({"signed": {ALICE: {"nobody": 1}}}, Reason.INVALID_IDENTIFIER),
            ({"signed": {"nobody": {}}}, Reason.INVALID_IDENTIFIER),
            ({"signed": {ALICE: {BOB: 9}}}, Reason.INVALID_VALUE),
            ({"signed": {ALICE: {BOB: -1}}}, Reason.INVALID_VALUE),
        ],
    )
    def test_what_is_no_user_or_no_position_is_not_read(self, damage: dict[str, object], reason: Reason) -> None:
        """The first would show as an error of ``/sync`` later on, the second as a change that is told for ever."""
        with pytest.raises(LocalProtocolError) as caught:
            ChangeStream.from_json({**self.filled().to_json(), **damage})
        assert caught.value.reason is reason

    @given(json_like_values())
    def test_nothing_else_is_raised(self, obj: object) -> None:
        for name in ("version", "position", "rooms", "moved", "signed"):
            try:
                ChangeStream.from_json({**self.filled().to_json(), name: obj})
                ChangeStream.from_json(obj)
            except LocalProtocolError:
                pass
