"""Judgments and inspections, whatever is judged."""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import pytest
from attrs import frozen

from matrix_e2e_keys.endpoints.members import integer, opaque_string
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.contents import Member
from matrix_e2e_keys.events.judgments import FailedCheck, Inspection, Judgment


class Check(enum.StrEnum):
    # Not in the order of the alphabet.
    FIRST = "z"
    SECOND = "a"
    THIRD = "m"


@frozen
class Event:
    number: int


class EventJudgment(Judgment[Event, Check]):
    event_kind: ClassVar[type] = Event


class EventInspection(Inspection[Check]):
    members: ClassVar[dict[str, Member]] = {"number": Member(integer), "text": Member(opaque_string)}


class InsideInspection(EventInspection):
    plaintext_at: ClassVar[tuple[str, ...]] = ("a/b", "plaintext")


FAILED = FailedCheck(check=Check.SECOND, reason=Reason.ROOM_MISMATCH, detail="no", path="/x")


class TestJudgment:
    def test_there_is_an_event(self) -> None:
        assert EventJudgment(event=Event(1)).require() == Event(1)
        assert EventJudgment(event=Event(1)).failed == ()

    def test_the_first_check_that_failed_is_raised(self) -> None:
        other = FailedCheck(check=Check.THIRD, reason=Reason.REPLAYED, detail="again", path="")
        with pytest.raises(VerificationError) as error:
            EventJudgment(event=None, failed=(FAILED, other)).require()
        assert (error.value.reason, error.value.detail, error.value.path) == (Reason.ROOM_MISMATCH, "no", "/x")

    def test_it_has_no_truth_value(self) -> None:
        for judgment in (EventJudgment(event=Event(1)), EventJudgment(event=None, failed=(FAILED,))):
            with pytest.raises(LocalProtocolError, match="EventJudgment"):
                bool(judgment)

    @pytest.mark.parametrize("arguments", [{"event": None}, {"event": Event(1)}, {"event": None, "failed": (FAILED,)}])
    def test_what_all_have_in_common_judges_nothing(self, arguments: Any) -> None:
        with pytest.raises(LocalProtocolError, match="Judgment does not say what it judges") as error:
            Judgment(**arguments)
        assert error.value.reason is Reason.WRONG_TYPE

    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            ({"event": None}, "/event"),
            ({"event": 1}, "/event"),
            ({"event": Event(1), "failed": (FAILED,)}, "/event"),
            ({"event": None, "failed": [FAILED]}, "/failed"),
            ({"event": None, "failed": (FAILED, "x")}, "/failed"),
        ],
        ids=["nothing", "no event", "both", "a list", "no check"],
    )
    def test_what_contradicts_itself(self, arguments: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as error:
            EventJudgment(**arguments)
        assert error.value.path == path


class TestInspection:
    def test_failures_are_in_the_order_of_the_checks_and_then_of_their_finding(self) -> None:
        inspection = EventInspection()
        for check, detail in ((Check.THIRD, "1"), (Check.FIRST, "2"), (Check.SECOND, "3"), (Check.FIRST, "4")):
            inspection.fail(check, Reason.REPLAYED, detail)
        assert [it.detail for it in inspection.in_order()] == ["2", "4", "3", "1"]
        assert EventInspection().in_order() == ()

    def test_a_place_is_a_pointer(self) -> None:
        inspection = EventInspection()
        inspection.fail(Check.FIRST, Reason.REPLAYED, "x", "a/b", 0)
        assert inspection.failed[0].path == "/a~1b/0"

    @pytest.mark.parametrize(
        ("error", "path"),
        [
            (Refusal(Reason.WRONG_TYPE, "x", "y"), "/above/y"),
            (RemoteProtocolError(Reason.WRONG_TYPE, "x", path="/y"), "/above/y"),
            (LocalProtocolError(Reason.WRONG_TYPE, "x"), "/above"),
        ],
    )
    def test_what_is_refused_fails_the_check(self, error: Exception, path: str) -> None:
        def refuse() -> int:
            raise error

        inspection = EventInspection()
        assert inspection.trying(Check.THIRD, refuse, "above") is None
        assert inspection.failed == [FailedCheck(check=Check.THIRD, reason=Reason.WRONG_TYPE, detail="x", path=path)]
        assert inspection.trying(Check.THIRD, lambda: 5) == 5
        assert len(inspection.failed) == 1

    @pytest.mark.parametrize(("kind", "at"), [(EventInspection, ""), (InsideInspection, "/a~1b/plaintext")])
    def test_members(self, kind: type[EventInspection], at: str) -> None:
        inspection = kind()
        assert inspection.member({"number": 3}, "number", Check.FIRST) == 3
        assert inspection.member({"number": "3"}, "number", Check.FIRST) is None
        assert inspection.member({}, "text", Check.SECOND) is None
        found = [(it.check, it.reason, it.path) for it in inspection.failed]
        assert found == [
            (Check.FIRST, Reason.WRONG_TYPE, f"{at}/number"),
            (Check.SECOND, Reason.MISSING_MEMBER, at),
        ]
