"""Which of two keys of one session is the better one: the whole table, with every pair of sources."""

from __future__ import annotations

from typing import Any

import pytest
import vodozemac
from attrs import evolve

from client.receive.megolm_people import (
    OTHER_ROOM,
    VERIFIED_ALICE,
    Connects,
    Group,
    no,
    offered,
    session,
    signed_at,
    yes,
)
from client.receive.olm_people import EVE, EVE_USER, LAPTOP, PHONE, Person, known
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction, RoomKeyDecision
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey

A, R, S = RoomKeyAction, Reason, SessionSource
GROUP = Group()
FIRST, HELD, LAST = 1, 4, 7
for at in (0, FIRST, HELD, LAST):
    signed_at(GROUP, at)

RANKS = [{S.ROOM_KEY}, {S.FORWARDED}, {S.EXPORT, S.BACKUP, S.HISTORY_BUNDLE}]
PAIRS = [(new, held) for new in S for held in S]


def rank(source: SessionSource) -> int:
    """How good a source is: 0 is the best."""
    return next(place for place, sources in enumerate(RANKS) if source in sources)


BETTER = [(new, held) for new, held in PAIRS if rank(new) < rank(held)]
NOT_BETTER = [(new, held) for new, held in PAIRS if rank(new) >= rank(held)]
NOT_CERTAIN = [(new, held) for new, held in NOT_BETTER if new is not S.ROOM_KEY]
NOT_CONNECTED: list[Connects] = [None, no]


def outcome(decision: RoomKeyDecision) -> tuple[RoomKeyAction, Reason | None]:
    return decision.action, decision.reason


def takes_the_key(decision: RoomKeyDecision, index: int) -> bool:
    return decision.key is not None and decision.key.first_index == index


class TestNothingHeld:
    @pytest.mark.parametrize("source", list(S))
    def test_it_is_stored(self, source: SessionSource) -> None:
        decision = offered(source, GROUP, HELD)
        assert outcome(decision) == (A.STORE, None)
        assert takes_the_key(decision, HELD)
        assert decision.require().source is source
        assert decision.require().first_index == HELD


class TestABetterOne:
    @pytest.mark.parametrize(("new", "held"), BETTER)
    @pytest.mark.parametrize("index", [FIRST, HELD])
    def test_that_connects_and_opens_as_much(self, new: SessionSource, held: SessionSource, index: int) -> None:
        decision = offered(new, GROUP, index, held=session(held, GROUP, HELD), connects=yes)
        assert outcome(decision) == (A.REPLACE, None)
        assert takes_the_key(decision, index)
        assert (decision.require().source, decision.require().first_index) == (new, index)

    @pytest.mark.parametrize(("new", "held"), BETTER)
    def test_that_connects_and_opens_less(self, new: SessionSource, held: SessionSource) -> None:
        """What was handed on before opens more; whose it is, the better one says."""
        decision = offered(new, GROUP, LAST, held=session(held, GROUP, HELD), connects=yes)
        assert outcome(decision) == (A.UPGRADE_SENDER, None)
        assert decision.key is None
        kept = decision.require()
        assert (kept.source, kept.first_index) == (new, HELD)
        assert (kept.sender is None) is (new is not S.ROOM_KEY)

    @pytest.mark.parametrize(("new", "held"), BETTER)
    @pytest.mark.parametrize("index", [FIRST, HELD, LAST])
    @pytest.mark.parametrize("connects", NOT_CONNECTED)
    def test_that_does_not_connect(
        self, new: SessionSource, held: SessionSource, index: int, connects: Connects
    ) -> None:
        """What is held was put together by somebody, in order to keep the true key out."""
        decision = offered(new, GROUP, index, held=session(held, GROUP, HELD), connects=connects)
        assert outcome(decision) == (A.REPLACE, None)
        assert takes_the_key(decision, index)
        assert decision.require().first_index == index


class TestAnotherOne:
    @pytest.mark.parametrize(("new", "held"), NOT_BETTER)
    def test_that_connects_and_opens_more(self, new: SessionSource, held: SessionSource) -> None:
        """Whose the session is, and who handed it on, stays as it is held."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, FIRST, held=before, connects=yes)
        assert outcome(decision) == (A.REPLACE, None)
        assert takes_the_key(decision, FIRST)
        after = decision.require()
        assert (after.source, after.sender, after.forwarder) == (held, before.sender, before.forwarder)
        assert after.first_index == FIRST

    @pytest.mark.parametrize(("new", "held"), NOT_CERTAIN)
    @pytest.mark.parametrize("connects", NOT_CONNECTED)
    def test_that_does_not_connect_and_opens_more(
        self, new: SessionSource, held: SessionSource, connects: Connects
    ) -> None:
        """Somebody has put together a key that claims to open more."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, FIRST, held=before, connects=connects)
        assert outcome(decision) == (A.KEEP, R.SESSION_MISMATCH)
        assert (decision.key, decision.session) == (None, before)

    @pytest.mark.parametrize("connects", [None, no, yes])
    def test_a_maker_may_send_an_earlier_key(self, connects: Connects) -> None:
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=session(S.ROOM_KEY, GROUP, HELD), connects=connects)
        assert outcome(decision) == (A.REPLACE, None)
        assert takes_the_key(decision, FIRST)

    @pytest.mark.parametrize(("new", "held"), NOT_BETTER)
    @pytest.mark.parametrize(("index", "reason"), [(HELD, None), (LAST, R.LATER_INDEX)])
    @pytest.mark.parametrize("connects", [None, no, yes])
    def test_that_opens_no_more(
        self, new: SessionSource, held: SessionSource, index: int, reason: Reason | None, connects: Connects
    ) -> None:
        """A key that is sent again at a later message takes nothing away."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, index, held=before, connects=connects)
        assert outcome(decision) == (A.KEEP, reason)
        assert (decision.key, decision.session) == (None, before)


class TestContradictions:
    CASES = (
        ({"room_id": OTHER_ROOM}, R.ROOM_MISMATCH, "/room_id"),
        ({"maker": EVE}, R.SENDER_MISMATCH, ""),
        ({"maker": LAPTOP}, R.SENDER_MISMATCH, ""),
    )

    @staticmethod
    def changed(changed: dict[str, Any]) -> dict[str, Any]:
        """With what is known of whoever sends it."""
        return {**changed, "users": known(EVE_USER, EVE.signed_keys)} if changed.get("maker") is EVE else changed

    @pytest.mark.parametrize(("new", "held"), PAIRS)
    @pytest.mark.parametrize(("changed", "reason", "path"), CASES)
    @pytest.mark.parametrize("index", [FIRST, LAST])
    def test_a_key_that_connects_is_refused(
        self, new: SessionSource, held: SessionSource, changed: Any, reason: Reason, path: str, index: int
    ) -> None:
        """Whoever has a key can send it on, and say that it is his, or of another room."""
        if new is S.HISTORY_BUNDLE:  # there it stands among the rejected
            return
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, index, held=before, connects=yes, **self.changed(changed))
        assert outcome(decision) == (A.REFUSE, reason)
        assert (decision.key, decision.session, decision.path) == (None, before, path)
        with pytest.raises(VerificationError) as caught:
            decision.require()
        assert (caught.value.reason, caught.value.path) == (reason, path)

    @pytest.mark.parametrize(("new", "held"), BETTER)
    @pytest.mark.parametrize(("changed", "reason", "path"), CASES)
    @pytest.mark.parametrize("connects", NOT_CONNECTED)
    def test_a_better_one_that_does_not_connect_is_not(
        self, new: SessionSource, held: SessionSource, changed: Any, reason: Reason, path: str, connects: Connects
    ) -> None:
        """Otherwise whoever knows a session id could keep its key out, with one that he has put together."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, LAST, held=before, connects=connects, **self.changed(changed))
        assert outcome(decision) == (A.REPLACE, None)
        assert decision.require().source is new
        assert decision.require().room_id == changed.get("room_id", before.room_id)

    def test_two_users_with_the_same_keys_are_not_the_same(self) -> None:
        """Attack 38: another user claims the device's keys."""
        users = known(EVE_USER)
        twin = Person(user=EVE_USER, device_id=PHONE.device_id, account=PHONE.account)
        held = session(S.ROOM_KEY, GROUP, HELD)
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=held, maker=twin, users=users)
        assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)

    def test_a_sender_whom_one_knows_better_by_now_is_the_same(self) -> None:
        held = session(S.ROOM_KEY, GROUP, HELD, users={})
        assert offered(S.ROOM_KEY, GROUP, FIRST, held=held, users=VERIFIED_ALICE).action is A.REPLACE


class TestWhatIsRemembered:
    @pytest.mark.parametrize(
        ("new", "held", "index", "shared"),
        [
            # new, held: what each says; what comes of it
            ((S.ROOM_KEY, True), (S.ROOM_KEY, True), FIRST, True),
            ((S.ROOM_KEY, True), (S.ROOM_KEY, False), FIRST, False),
            ((S.ROOM_KEY, False), (S.ROOM_KEY, True), FIRST, False),
            ((S.ROOM_KEY, False), (S.HISTORY_BUNDLE, True), LAST, False),
            ((S.ROOM_KEY, True), (S.BACKUP, False), LAST, True),
            ((S.BACKUP, True), (S.ROOM_KEY, False), FIRST, False),
            ((S.BACKUP, False), (S.ROOM_KEY, True), FIRST, True),
            ((S.FORWARDED, False), (S.BACKUP, True), LAST, True),
            ((S.HISTORY_BUNDLE, True), (S.BACKUP, False), FIRST, True),
            ((S.BACKUP, False), (S.EXPORT, False), FIRST, False),
        ],
    )
    def test_whether_it_may_be_shared_is_for_its_maker_to_say(
        self, new: tuple[SessionSource, bool], held: tuple[SessionSource, bool], index: int, shared: bool
    ) -> None:
        before = session(held[0], GROUP, HELD, shared=held[1])
        after = offered(new[0], GROUP, index, shared=new[1], held=before, connects=yes)
        assert after.action in (A.REPLACE, A.UPGRADE_SENDER)
        assert after.require().shared_history is shared

    @pytest.mark.parametrize(
        ("index", "held_at", "code"), [(LAST, HELD, "m.held"), (HELD, HELD, "m.held"), (FIRST, HELD, None)]
    )
    def test_why_the_first_part_is_missing_is_known_as_long_as_it_is(
        self, index: int, held_at: int, code: str | None
    ) -> None:
        stored: Any = {**session(S.FORWARDED, GROUP, held_at).to_json(), "withheld": "m.held"}
        decision = offered(S.ROOM_KEY, GROUP, index, held=InboundSession.from_json(stored), connects=yes)
        assert decision.require().withheld == code


class TestConnects:
    def test_real_ratchets_are_compared_by_turning_the_earlier_one_on(self) -> None:
        """Vodozemac exports the same at the same message if, and only if, they are of one ratchet."""
        group = Group()
        held_ratchet = vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(group.exported(2)))

        def connects(key: MegolmSessionKey) -> bool:
            asked.append(key.first_index)
            new = vodozemac.InboundGroupSession(vodozemac.SessionKey(key.text))
            index = max(new.first_known_index, held_ratchet.first_known_index)
            here, there = new.export_at(index), held_ratchet.export_at(index)
            assert here is not None
            assert there is not None
            return here.to_base64() == there.to_base64()

        asked: list[int] = []
        held = session(S.BACKUP, group, 2)
        assert offered(S.ROOM_KEY, group, 0, held=held, connects=connects).action is A.REPLACE
        assert offered(S.ROOM_KEY, group, 5, held=held, connects=connects).action is A.UPGRADE_SENDER
        assert asked == [0, 5]

    @pytest.mark.parametrize("answer", [None, 1, 0, "yes", [], object()])
    def test_it_answers_with_a_boolean(self, answer: Any) -> None:
        held = session(S.BACKUP, GROUP, HELD)
        with pytest.raises(LocalProtocolError) as caught:
            offered(S.ROOM_KEY, GROUP, LAST, held=held, connects=lambda _: answer)
        assert (caught.value.path, caught.value.reason) == ("/connects", R.WRONG_TYPE)

    @pytest.mark.parametrize("error", [ValueError("secret"), RecursionError(), VerificationError(R.NOT_JSON, "secret")])
    def test_whatever_it_raises_is_the_callers_fault(self, error: Exception) -> None:
        def connects(_: MegolmSessionKey) -> bool:
            raise error

        held = session(S.BACKUP, GROUP, HELD)
        with pytest.raises(LocalProtocolError) as caught:
            offered(S.ROOM_KEY, GROUP, LAST, held=held, connects=connects)
        assert caught.value.path == "/connects"
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("value", [5, "x", True, object()])
    def test_it_can_be_called(self, value: Any) -> None:
        held = session(S.BACKUP, GROUP, HELD)
        with pytest.raises(LocalProtocolError) as caught:
            offered(S.ROOM_KEY, GROUP, LAST, held=held, connects=value)
        assert (caught.value.path, caught.value.reason) == ("/connects", R.WRONG_TYPE)


class TestDecisions:
    def test_what_is_held_is_of_the_same_session(self) -> None:
        for source in S:
            with pytest.raises(LocalProtocolError) as caught:
                offered(source, GROUP, LAST, held=session(S.BACKUP, Group()), connects=yes)
            assert (caught.value.path, caught.value.reason) == ("/held", R.SESSION_MISMATCH)

    def test_have_no_truth_value(self) -> None:
        with pytest.raises(LocalProtocolError):
            bool(offered(S.BACKUP, GROUP))

    def test_only_a_check_makes_one(self) -> None:
        with pytest.raises(LocalProtocolError):
            RoomKeyDecision()
        with pytest.raises(LocalProtocolError):
            evolve(offered(S.BACKUP, GROUP), action=A.STORE)

    def test_they_show_no_secret(self) -> None:
        decision = offered(S.ROOM_KEY, GROUP, LAST)
        assert decision.key is not None
        assert decision.key.text[20:60] not in repr(decision)
        assert "store" in repr(decision)
        kept = offered(S.ROOM_KEY, GROUP, LAST, held=session(S.ROOM_KEY, GROUP, HELD))
        assert "(later-index)" in repr(kept)

    def test_what_is_kept_is_nothing_wrong(self) -> None:
        held = session(S.ROOM_KEY, GROUP, HELD)
        assert offered(S.ROOM_KEY, GROUP, LAST, held=held).require() is held
