"""The guard against replays: what it says, what it forgets, and that nothing forgotten is ever taken for new."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from events.odd_values import ODD, only_own_errors
from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.client.receive.message_index import MAX_MESSAGE_INDEX
from matrix_e2e_keys.client.receive.name_table import NameTable
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard, ReplayVerdict
from matrix_e2e_keys.errors import LocalProtocolError, Reason

ROOM, OTHER_ROOM = "!room:a.example", "!other:a.example"
ALICE, EVE, CAROL, DAVE, FRED = (f"@{name}:a.example" for name in ("alice", "eve", "carol", "dave", "fred"))
NEW, SAME, REPLAYED, DISPUTED, NOT_REMEMBERED = ReplayVerdict


def message(index: Any = 0, event_id: Any = "$e", ts: Any = 1, sender: Any = ALICE, **changed: Any) -> dict[str, Any]:
    """A message and its event, as a guard asks for them."""
    return {
        "room_id": ROOM,
        "session_id": "S",
        "message_index": index,
        "sender": sender,
        "event_id": event_id,
        "origin_server_ts": ts,
        **changed,
    }


def guard(*messages: dict[str, Any], **bounds: int) -> ReplayGuard:
    made = ReplayGuard(**bounds)
    for one in messages:
        made.record(**one)
    return made


def again(made: ReplayGuard, **bounds: int) -> ReplayGuard:
    """The guard after a restart."""
    return ReplayGuard.from_json(json.loads(json.dumps(made.to_json())), **bounds)


class TestWhatItSays:
    """Attack 59: a message that is delivered a second time."""

    @pytest.mark.parametrize(
        ("asked", "verdict"),
        [
            (message(), SAME),
            (message(event_id="$other"), REPLAYED),
            (message(ts=2), REPLAYED),
            (message(index=1), NEW),
            (message(session_id="T"), NEW),
            (message(room_id=OTHER_ROOM), NEW),
        ],
    )
    def test_a_message_is_room_session_and_index_and_an_event_is_its_id_and_timestamp(
        self, asked: dict[str, Any], verdict: ReplayVerdict
    ) -> None:
        made = guard(message())
        assert made.check(**asked) is verdict
        assert again(made).check(**asked) is verdict
        assert made.record(**asked) is verdict

    def test_to_ask_changes_nothing(self) -> None:
        made = guard()
        assert [made.check(**message()) for _ in range(2)] == [NEW, NEW]
        assert made.to_json() == guard().to_json()
        assert len(made) == 0

    def test_to_ask_is_no_use_of_a_session(self) -> None:
        made = guard(message(session_id="A"), message(session_id="B"), max_entries=2)
        made.check(**message(session_id="A"))
        made.record(**message(session_id="C"))
        assert made.check(**message(session_id="A")) is NOT_REMEMBERED
        assert made.check(**message(session_id="B")) is SAME

    def test_the_first_event_is_the_one_that_counts(self) -> None:
        made = guard(message(), message(event_id="$other"))
        assert made.check(**message()) is SAME
        assert made.check(**message(event_id="$other")) is REPLAYED
        assert len(made) == 1

    def test_an_event_may_have_several_messages(self) -> None:
        """That is for servers to explain; nobody is shown a message twice."""
        assert guard(message()).check(**message(index=5)) is NEW

    def test_event_ids_are_kept_as_they_are(self) -> None:
        long = "$" + "é" * 127
        made = guard(message(event_id=long))
        assert again(made).check(**message(event_id=long)) is SAME
        assert again(made).check(**message(event_id=long[:-1])) is REPLAYED

    def test_event_ids_have_at_most_255_bytes(self) -> None:
        """Otherwise a server fills the memory with as many entries as there may be."""
        for event_id in ("$" + "x" * 255, "$" + "é" * 128):
            with pytest.raises(LocalProtocolError) as caught:
                guard().check(**message(event_id=event_id))
            assert (caught.value.path, caught.value.reason) == ("/event_id", Reason.INVALID_IDENTIFIER)

    @pytest.mark.parametrize("index", [0, MAX_MESSAGE_INDEX])
    def test_the_first_and_the_last_index(self, index: int) -> None:
        made = guard(message(index))
        assert (made.check(**message(index)), made.check(**message(7))) == (SAME, NEW)


class TestSenders:
    """Attacks 57 and 59: a member sends the message of another as his own, before it arrives."""

    def test_no_user_keeps_out_anothers_event(self) -> None:
        made = guard(message(event_id="$evil", sender=EVE))
        assert made.check(**message()) is DISPUTED
        assert made.record(**message()) is DISPUTED
        for one in (made, again(made)):
            assert one.check(**message()) is SAME
            assert one.check(**message(event_id="$other")) is REPLAYED
            assert one.check(**message(event_id="$evil", sender=EVE)) is SAME
            assert one.check(**message(event_id="$e", sender=EVE)) is REPLAYED
            assert one.check(**message(sender=CAROL)) is DISPUTED
        assert len(made) == 2

    def test_of_one_message_few_senders_are_remembered(self) -> None:
        """A server can make up as many as it likes."""
        made = guard(*[message(sender=sender) for sender in (EVE, CAROL, DAVE, ALICE, FRED)])
        assert len(made) == 4
        assert [made.check(**message(sender=sender)) for sender in (EVE, ALICE, FRED)] == [SAME, SAME, DISPUTED]
        assert again(made).to_json() == made.to_json()

    @pytest.mark.parametrize("bounds", [{"max_entries": 3}, {"max_session_entries": 3}])
    def test_nothing_is_forgotten_for_a_further_sender(self, bounds: dict[str, int]) -> None:
        made = guard(message(0), message(1), message(2), message(1, sender=EVE), **bounds)
        assert [made.check(**message(index)) for index in range(3)] == [SAME] * 3
        assert made.check(**message(1, sender=EVE)) is DISPUTED
        assert len(made) == 3

    def test_no_other_session_is_forgotten_for_a_further_sender(self) -> None:
        made = guard(message(session_id="T"), message(0), message(1), message(1, sender=EVE), max_entries=3)
        assert made.check(**message(session_id="T")) is SAME
        assert len(made) == 3

    def test_what_further_senders_take_is_forgotten_with_the_message(self) -> None:
        made = guard(message(0), message(0, sender=EVE), message(1), message(2), max_session_entries=3)
        assert [made.check(**message(index)) for index in range(3)] == [NOT_REMEMBERED, SAME, SAME]
        assert made.check(**message(0, sender=EVE)) is NOT_REMEMBERED
        assert len(made) == 2
        made.record(**message(3))
        assert made.check(**message(1)) is SAME, "there was room for one"
        made.record(**message(4))
        assert [made.check(**message(index)) for index in (1, 2, 4)] == [NOT_REMEMBERED, SAME, SAME]

    def test_a_session_is_forgotten_with_all_senders(self) -> None:
        made = guard(message(), message(sender=EVE), message(session_id="T"), message(1, session_id="T"), max_entries=3)
        assert len(made) == 2
        assert made.check(**message(sender=EVE)) is NOT_REMEMBERED
        made.forget_session(ROOM, "T")
        assert len(made) == 0

    @pytest.mark.parametrize("bounds", [{"max_entries": 1}, {"max_session_entries": 1}])
    def test_with_less_room_after_a_restart(self, bounds: dict[str, int]) -> None:
        made = again(guard(message(), message(sender=EVE), message(sender=CAROL)), **bounds)
        assert len(made) == 1
        assert [made.check(**message(sender=sender)) for sender in (ALICE, EVE, CAROL)] == [SAME, DISPUTED, DISPUTED]
        assert made.check(**message(7)) is NEW

    def test_many_stored_senders_of_one_message_take_no_room(self) -> None:
        obj: Any = guard(message()).to_json()
        obj["sessions"][0]["seen"] = [[0, f"@u{number}:a.example", "$e", 1] for number in range(9)]
        assert len(ReplayGuard.from_json(obj)) == 4


class TestForgetting:
    def test_the_sessions_that_were_not_used_for_longest_go_first(self) -> None:
        made = guard(*[message(session_id=name) for name in "ABC"], max_entries=3)
        assert made.record(**message(session_id="A")) is SAME
        made.record(**message(session_id="D"))
        assert {name: made.check(**message(session_id=name)) for name in "ABCDE"} == {
            "A": SAME,
            "B": NOT_REMEMBERED,
            "C": SAME,
            "D": SAME,
            "E": NEW,
        }
        assert len(made) == 3

    def test_a_new_message_is_a_use_of_its_session(self) -> None:
        made = guard(*[message(session_id=name) for name in "AB"], message(1, session_id="A"), max_entries=3)
        made.record(**message(session_id="C"))
        assert made.check(**message(session_id="A")) is SAME
        assert made.check(**message(session_id="B")) is NOT_REMEMBERED

    def test_a_replayed_message_is_none(self) -> None:
        made = guard(message(session_id="A"), message(session_id="B"), max_entries=2)
        made.record(**message(session_id="A", event_id="$evil"))
        made.record(**message(session_id="C"))
        assert made.check(**message(session_id="B")) is SAME

    def test_a_session_is_forgotten_as_a_whole_up_to_its_highest_index(self) -> None:
        made = guard(message(9), message(4), message(session_id="T"), message(1, session_id="T"), max_entries=3)
        assert [made.check(**message(index)) for index in (4, 9, 10)] == [NOT_REMEMBERED, NOT_REMEMBERED, NEW]
        assert len(made) == 2
        assert [again(made).check(**message(index)) for index in (9, 10)] == [NOT_REMEMBERED, NEW]

    def test_of_one_session_the_lowest_indices_go_first(self) -> None:
        made = guard(*[message(index) for index in (5, 2, 8, 3)], max_session_entries=2)
        assert [made.check(**message(index)) for index in (0, 2, 3, 5, 8)] == [NOT_REMEMBERED] * 3 + [SAME] * 2
        assert [made.check(**message(index)) for index in (4, 6, 7, 9)] == [NEW, NEW, NEW, NEW]

    def test_to_see_an_old_message_again_makes_no_other_new(self) -> None:
        made = guard(*[message(index) for index in (5, 8, 9)], max_session_entries=2)
        assert made.record(**message(2)) is NOT_REMEMBERED
        assert [made.check(**message(index)) for index in (2, 5, 6)] == [NOT_REMEMBERED, NOT_REMEMBERED, NEW]

    def test_one_session_has_no_more_room_than_all(self) -> None:
        made = guard(*[message(index) for index in range(6)], max_entries=2)
        assert len(made) == 2
        assert [made.check(**message(index)) for index in range(7)] == [NOT_REMEMBERED] * 4 + [SAME] * 2 + [NEW]

    def test_what_is_seen_again_is_remembered_again(self) -> None:
        made = guard(message(7), message(session_id="T"), max_entries=1)
        assert made.record(**message(7, "$again")) is NOT_REMEMBERED
        assert made.check(**message(7, "$again")) is SAME
        assert made.check(**message(7)) is REPLAYED, "the first one was forgotten"
        for one in (made, again(made, max_entries=1)):
            assert [one.check(**message(index)) for index in (6, 8)] == [NOT_REMEMBERED, NEW]

    def test_how_far_a_session_had_got_is_never_less_than_before(self) -> None:
        made = guard(message(9), message(session_id="T"), message(3), message(session_id="T"), max_entries=1)
        assert [made.check(**message(index)) for index in (9, 10)] == [NOT_REMEMBERED, NEW]

    def test_of_a_session_of_which_nothing_is_left_nothing_is_new(self) -> None:
        made = guard(*[message(session_id=name) for name in "ABC"], max_entries=1, max_marks=1)
        asked = [message(3, session_id=name) for name in "ABCD"]
        assert [made.check(**one) for one in asked] == [NOT_REMEMBERED, NEW, NEW, NEW]
        assert [again(made).check(**one) for one in asked] == [NOT_REMEMBERED, NEW, NEW, NEW]
        made.record(**message(3, session_id="A"))
        assert made.check(**message(3, session_id="A")) is SAME
        assert made.check(**message(MAX_MESSAGE_INDEX, session_id="A")) is NOT_REMEMBERED
        restored = again(made)
        assert restored.check(**message(MAX_MESSAGE_INDEX, session_id="A")) is NOT_REMEMBERED

    def test_marks_may_be_none(self) -> None:
        made = guard(message(), message(session_id="T"), max_entries=1, max_marks=0)
        assert made.to_json()["marks"] == []
        assert made.check(**message(99)) is NOT_REMEMBERED

    def test_other_bounds_after_a_restart(self) -> None:
        made = guard(*[message(index, session_id=name) for name in "ABC" for index in range(3)])
        small = again(made, max_entries=4, max_session_entries=2, max_marks=0)
        assert len(small) == 4
        verdicts = [small.check(**message(index, session_id=name)) for name in "ABC" for index in range(4)]
        assert verdicts == [NOT_REMEMBERED] * 5 + [SAME] * 2 + [NEW] + [NOT_REMEMBERED] + [SAME] * 2 + [NEW]

    def test_a_session_or_a_room_is_forgotten_if_told_so(self) -> None:
        elsewhere = message(room_id=OTHER_ROOM)
        made = guard(message(), message(session_id="T"), message(1, session_id="T"), message(session_id="U"), elsewhere)
        made.forget_session(ROOM, "T")
        made.forget_session(ROOM, "unknown")
        assert [made.check(**one) for one in (message(), message(session_id="T"), elsewhere)] == [SAME, NEW, SAME]
        assert len(made) == 3
        made.forget_room(ROOM)
        assert [made.check(**one) for one in (message(), message(session_id="U"), elsewhere)] == [NEW, NEW, SAME]
        assert len(made) == 1

    def test_marks_are_forgotten_too(self) -> None:
        made = guard(message(), message(session_id="T"), message(session_id="U"), max_entries=1)
        made.forget_session(ROOM, "S")
        assert [made.check(**message(session_id=name)) for name in "ST"] == [NEW, NOT_REMEMBERED]
        made.forget_room(ROOM)
        assert made.to_json() == guard().to_json()


class TestTheTable:
    def test_what_was_added_is_there_and_little_else(self) -> None:
        table = NameTable()
        for number in range(2000):
            table.add((ROOM, f"in{number}"))
        assert all((ROOM, f"in{number}") in table for number in range(2000))
        assert sum((ROOM, f"out{number}") in table for number in range(2000)) < 20

    def test_the_parts_of_a_name_are_kept_apart(self) -> None:
        table = NameTable()
        table.add(("!ab", "c"))
        assert ("!a", "bc") not in table


class TestBounds:
    @pytest.mark.parametrize("name", ["max_entries", "max_session_entries", "max_marks"])
    @pytest.mark.parametrize("value", [-1, True, 1.0, "1", None])
    def test_bounds_are_integers(self, name: str, value: Any) -> None:
        for make in (ReplayGuard, lambda **bounds: ReplayGuard.from_json(guard().to_json(), **bounds)):
            with pytest.raises(LocalProtocolError) as caught:
                make(**{name: value})
            assert (caught.value.path, caught.value.reason) == (f"/{name}", Reason.INVALID_VALUE)

    @pytest.mark.parametrize("name", ["max_entries", "max_session_entries"])
    def test_something_has_to_be_remembered(self, name: str) -> None:
        bounds: dict[str, Any] = {name: 0}
        with pytest.raises(LocalProtocolError):
            ReplayGuard(**bounds)

    def test_the_defaults(self) -> None:
        made = ReplayGuard()
        assert (made.max_entries, made.max_session_entries, made.max_marks) == (100_000, 10_000, 50_000)


class TestOddValues:
    @pytest.mark.parametrize("name", list(message()))
    @pytest.mark.parametrize("method", ["check", "record"])
    def test_nothing_foreign_comes_out_and_what_raises_changes_nothing(self, name: str, method: str) -> None:
        made, refusals = guard(message()), set()

        def call(value: Any) -> None:
            before = json.dumps(made.to_json())
            try:
                getattr(made, method)(**{**message(), name: value})
            except LocalProtocolError as error:
                refusals.add((error.path, json.dumps(made.to_json()) == before))
                raise

        assert only_own_errors(call) >= len(ODD) - 6
        assert refusals == {(f"/{name}", True)}

    @pytest.mark.parametrize("index", [-1, 2**32, True, 1.0, "1"])
    def test_an_index_is_an_unsigned_integer_of_32_bits(self, index: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            guard().check(**message(index))
        assert caught.value.path == "/message_index"

    def test_what_is_forgotten(self) -> None:
        only_own_errors(lambda value: guard().forget_room(value))
        only_own_errors(lambda value: guard().forget_session(value, "S"))
        assert only_own_errors(lambda value: guard().forget_session(ROOM, value)) >= len(ODD) - 4

    def test_what_is_restored(self) -> None:
        assert only_own_errors(ReplayGuard.from_json) == len(ODD)


class TestDamagedState:
    @staticmethod
    def stored() -> dict[str, Any]:
        made = guard(
            message(session_id="A"),
            message(session_id="B"),
            message(2),
            message(5, "$f", 3),
            max_entries=3,
            max_marks=1,
        )
        made.record(**message(session_id="Z"))
        made.record(**message(1, session_id="Z"))
        made.record(**message(2, session_id="Z"))
        made.record(**message(7, room_id=OTHER_ROOM))
        obj: dict[str, Any] = json.loads(json.dumps(made.to_json()))
        assert obj["table"] is not None
        assert len(obj["marks"]) == len(obj["sessions"]) == 1
        return obj

    def test_it_comes_back_as_it_was(self) -> None:
        obj = self.stored()
        assert json.loads(json.dumps(ReplayGuard.from_json(obj).to_json())) == obj

    @pytest.mark.parametrize("name", ["version", "sessions", "marks", "table"])
    def test_each_member_has_to_be_there_and_of_its_type(self, name: str) -> None:
        for value in (..., 5.0, [5], {"x": 5}):
            obj = self.stored()
            obj[name] = value
            if value is ...:
                del obj[name]
            with pytest.raises(LocalProtocolError) as caught:
                ReplayGuard.from_json(obj)
            assert caught.value.path.startswith(f"/{name}")

    @pytest.mark.parametrize(
        ("way", "value"),
        [
            (("version",), 2),
            (("sessions", 0, "room_id"), "room"),
            (("sessions", 0, "room_id"), 5),
            (("sessions", 0, "session_id"), ""),
            (("sessions", 0, "session_id"), None),
            (("sessions", 0, "forgotten"), -1),
            (("sessions", 0, "forgotten"), 2**32),
            (("sessions", 0, "forgotten"), True),
            (("sessions", 0, "seen"), []),
            (("sessions", 0, "seen"), {}),
            (("sessions", 0, "seen", 0), {}),
            (("sessions", 0, "seen", 0), [1, "$e", 1]),
            (("sessions", 0, "seen", 0), [1, ALICE, "$e", 1, 1]),
            (("sessions", 0, "seen", 0, 0), -1),
            (("sessions", 0, "seen", 0, 0), "1"),
            (("sessions", 0, "seen", 0, 1), "alice"),
            (("sessions", 0, "seen", 0, 2), ""),
            (("sessions", 0, "seen", 0, 2), "\ud800"),
            (("sessions", 0, "seen", 0, 2), "x" * 256),
            (("sessions", 0, "seen", 0, 3), -1),
            (("sessions", 0, "seen", 0, 3), 1.0),
            (("marks", 0), []),
            (("marks", 0, "room_id"), "room"),
            (("marks", 0, "session_id"), ""),
            (("marks", 0, "forgotten"), None),
            (("marks", 0, "forgotten"), -1),
            (("table",), "AAAA"),
            (("table",), "?"),
            (("table",), 5),
        ],
    )
    def test_the_place_is_named(self, way: tuple[Any, ...], value: Any) -> None:
        obj: Any = self.stored()
        at = obj
        for step in way[:-1]:
            at = at[step]
        at[way[-1]] = value
        with pytest.raises(LocalProtocolError) as caught:
            ReplayGuard.from_json(obj)
        assert caught.value.path == "/" + "/".join(map(str, way))

    @pytest.mark.parametrize(
        ("place", "path"),
        [("sessions", "/sessions/1/session_id"), ("marks", "/marks/1/session_id")],
    )
    def test_a_session_stands_there_once(self, place: str, path: str) -> None:
        obj = self.stored()
        obj[place] *= 2
        with pytest.raises(LocalProtocolError) as caught:
            ReplayGuard.from_json(obj)
        assert caught.value.path == path

    def test_a_session_has_no_mark_beside_it(self) -> None:
        obj = self.stored()
        obj["marks"][0].update({name: obj["sessions"][0][name] for name in ("room_id", "session_id")})
        with pytest.raises(LocalProtocolError) as caught:
            ReplayGuard.from_json(obj)
        assert caught.value.path == "/marks/0/session_id"

    def test_a_sender_stands_there_once_for_an_index(self) -> None:
        obj = self.stored()
        obj["sessions"][0]["seen"] *= 2
        with pytest.raises(LocalProtocolError) as caught:
            ReplayGuard.from_json(obj)
        assert caught.value.path == "/sessions/0/seen/1/1"

    def test_a_table_of_another_size(self) -> None:
        obj = self.stored()
        obj["table"] = unpadded_base64.encode(bytes(2**14 + 1))
        with pytest.raises(LocalProtocolError):
            ReplayGuard.from_json(obj)


# --------------------------------------------------------------------------------------------------------------
# Against a memory without bounds
# --------------------------------------------------------------------------------------------------------------

_SESSIONS = st.sampled_from("ABCDEFGH")
_INDICES = st.integers(0, 6)
_EVENTS = st.sampled_from(["$1", "$2"])
_SENDERS = st.sampled_from([ALICE, ALICE, EVE, CAROL])


class Replays(RuleBasedStateMachine):
    """A guard with next to no room, beside one that never forgets.

    Nothing that was seen is new, no event is replayed that is the only one of its sender, and none is disputed of which
    no other sender had the message.
    """

    @initialize(max_entries=st.integers(1, 4), max_session_entries=st.integers(1, 3), max_marks=st.integers(0, 2))
    def begin(self, **bounds: int) -> None:
        self.bounds = bounds
        self.guard = ReplayGuard(**bounds)
        self.seen: dict[tuple[str, int], dict[str, set[str]]] = {}

    @rule(session=_SESSIONS, index=_INDICES, event=_EVENTS, sender=_SENDERS, tell=st.booleans())
    def see(self, session: str, index: int, event: str, sender: str, tell: bool) -> None:
        one = message(index, event, session_id=session, sender=sender)
        verdict = self.guard.check(**one)
        before = self.seen.get((session, index), {})
        if before:
            assert verdict is not NEW, "it was seen, and is taken for new"
        if verdict is SAME:
            assert event in before[sender]
        if verdict is REPLAYED:
            assert before[sender] - {event}
        if verdict is DISPUTED:
            assert set(before) - {sender}
        if not tell:
            return
        assert self.guard.record(**one) is verdict
        if verdict is not REPLAYED:
            self.seen.setdefault((session, index), {}).setdefault(sender, set()).add(event)
        if verdict not in (REPLAYED, DISPUTED) and self.bounds["max_session_entries"] > 1 < self.bounds["max_entries"]:
            is_the_lowest = index <= self.guard._forgotten((ROOM, session))
            assert is_the_lowest or self.guard.check(**one) is SAME

    @rule()
    def restart(self) -> None:
        self.guard = again(self.guard, **self.bounds)

    @precondition(lambda self: self.bounds["max_marks"] == 2)
    @rule(session=_SESSIONS)
    def forget(self, session: str) -> None:
        self.guard.forget_session(ROOM, session)
        for name in [name for name in self.seen if name[0] == session]:
            del self.seen[name]

    @invariant()
    def there_is_no_more_than_there_may_be(self) -> None:
        stored: dict[str, Any] = self.guard.to_json()
        sizes = [len(session["seen"]) for session in stored["sessions"]]
        assert sum(sizes) == len(self.guard) <= self.bounds["max_entries"]
        assert max(sizes, default=0) <= self.bounds["max_session_entries"]
        assert len(stored["marks"]) <= self.bounds["max_marks"]


TestAgainstAMemoryWithoutBounds = Replays.TestCase
TestAgainstAMemoryWithoutBounds.settings = settings(stateful_step_count=12)
