"""Which of two keys of one session is the better one: the whole table, with every pair of sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import vodozemac
from attrs import evolve

from client.receive.megolm_people import (
    CAROL,
    KNOWN_ALICE,
    OTHER_ROOM,
    ROOM,
    VERIFIED_ALICE,
    Connects,
    Group,
    historic,
    no,
    offered,
    room_key,
    room_key_content,
    session,
    signed_at,
    yes,
)
from client.receive.olm_people import (
    ALICE_USER,
    EVE,
    EVE_USER,
    LAPTOP,
    PHONE,
    Person,
    known,
    learned,
    letter,
    without_keys,
)
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.received_sessions import judge_room_key, session_of_own, sessions_from_bundle
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction, RoomKeyDecision
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.key_bundles import RoomKeyBundle
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey
from matrix_e2e_keys.events.room_keys import RoomKeyContent

A, R, S = RoomKeyAction, Reason, SessionSource
GROUP = Group()
FIRST, HELD, LAST = 1, 4, 7
for at in (0, FIRST, HELD, LAST):
    signed_at(GROUP, at)

RANKS = [{S.ROOM_KEY}, {S.FORWARDED}, {S.EXPORT, S.BACKUP}, {S.HISTORY_BUNDLE}]
PAIRS = [(new, held) for new in S for held in S]


def rank(source: SessionSource) -> int:
    """How good a source is: 0 is the best."""
    return next(place for place, sources in enumerate(RANKS) if source in sources)


BETTER = [(new, held) for new, held in PAIRS if rank(new) < rank(held)]
NOT_BETTER = [(new, held) for new, held in PAIRS if rank(new) >= rank(held)]
NOT_CERTAIN = [(new, held) for new, held in NOT_BETTER if new is not S.ROOM_KEY]
BUNDLE = S.HISTORY_BUNDLE


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
    def test_that_does_not_connect(self, new: SessionSource, held: SessionSource, index: int) -> None:
        """What is held was put together by somebody, in order to keep the true key out."""
        decision = offered(new, GROUP, index, held=session(held, GROUP, HELD), connects=no)
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
    def test_that_does_not_connect_and_opens_more(self, new: SessionSource, held: SessionSource) -> None:
        """Somebody has put together a key that claims to open more."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, FIRST, held=before, connects=no)
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
        if new is BUNDLE:  # there it stands among the rejected
            return
        if held is BUNDLE:  # see TestABundle
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
    def test_a_better_one_that_does_not_connect_is_not(
        self, new: SessionSource, held: SessionSource, changed: Any, reason: Reason, path: str
    ) -> None:
        """Otherwise whoever knows a session id could keep its key out, with one that he has put together."""
        before = session(held, GROUP, HELD)
        decision = offered(new, GROUP, LAST, held=before, connects=no, **self.changed(changed))
        is_elsewhere = held is BUNDLE and "room_id" in changed
        assert outcome(decision) == (A.STORE if is_elsewhere else A.REPLACE, None)
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


class TestABundle:
    """Whoever invites somebody can put anything into a bundle. It keeps out nothing that is surer."""

    @pytest.mark.parametrize("new", [source for source in S if source is not BUNDLE])
    @pytest.mark.parametrize("maker", [EVE, LAPTOP])
    @pytest.mark.parametrize(("index", "action"), [(FIRST, A.REPLACE), (HELD, A.REPLACE), (LAST, A.UPGRADE_SENDER)])
    def test_with_a_true_key_and_a_false_maker(
        self, new: SessionSource, maker: Person, index: int, action: RoomKeyAction
    ) -> None:
        """The session is of whom the better key says, and the ratchet stays, if it opens more."""
        before = session(BUNDLE, GROUP, HELD, maker=maker)
        decision = offered(new, GROUP, index, held=before, connects=yes)
        assert outcome(decision) == (action, None)
        after = decision.require()
        assert (after.source, after.first_index) == (new, min(index, HELD))
        made_by = after.claimed_ed25519_key if after.sender is None else after.sender.ed25519_key
        assert made_by == PHONE.ed25519_key

    @pytest.mark.parametrize("new", list(S))
    @pytest.mark.parametrize("connects", [None, yes, no])
    @pytest.mark.parametrize("index", [FIRST, HELD, LAST])
    def test_for_another_room(self, new: SessionSource, connects: Connects, index: int) -> None:
        """Neither of two rooms keeps the other out, nor takes its place: both are looked up by their own name."""
        before = session(BUNDLE, GROUP, HELD, room_id=OTHER_ROOM)
        decision = offered(new, GROUP, index, held=before, connects=connects)
        assert outcome(decision) == (A.STORE, None)
        assert takes_the_key(decision, index)
        assert decision.require().lookup_key == (ROOM, GROUP.session_id) != before.lookup_key
        assert decision.require().to_json() == session(new, GROUP, index).to_json()

    def test_is_no_reason_to_take_another_one(self) -> None:
        before = session(BUNDLE, GROUP, HELD, maker=EVE)
        bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[historic(GROUP, FIRST)])
        held = {GROUP.session_id: before}
        judged = sessions_from_bundle(
            bundle, room_id=ROOM, inviter=CAROL.user_id, forwarder=CAROL, held=held, connects=yes
        )
        assert [one.reason for one in judged.rejected] == [R.SENDER_MISMATCH]

    @pytest.mark.parametrize("held", [source for source in S if source is not BUNDLE])
    def test_takes_nothing_over(self, held: SessionSource) -> None:
        before = session(held, GROUP, HELD)
        assert offered(BUNDLE, GROUP, LAST, held=before, connects=no).session is before


VERIFIED_EVE = known(EVE_USER, EVE.signed_keys, verified=True)
KNOWN_EVE = known(EVE_USER, EVE.signed_keys)
BLACKLISTED_EVE = {
    EVE.user_id: KNOWN_EVE[EVE.user_id].with_trust(EVE.ed25519_key, LocalTrust.BLACKLISTED),
}
Users = Mapping[str, KnownUser]


class TestTheOwner:
    """Attack 57: a member sends on the key of another's session as his own, before its maker does."""

    def held_by_eve(self, users: Users) -> InboundSession:
        return session(S.ROOM_KEY, GROUP, HELD, maker=EVE, users=users)

    @pytest.mark.parametrize("users", [{}, BLACKLISTED_EVE])
    @pytest.mark.parametrize("maker", [KNOWN_ALICE, VERIFIED_ALICE])
    @pytest.mark.parametrize(
        ("index", "action"), [(FIRST, A.REPLACE), (HELD, A.UPGRADE_SENDER), (LAST, A.UPGRADE_SENDER)]
    )
    def test_for_whom_an_identity_vouches_takes_over_from_whom_none_does(
        self, users: Users, maker: Users, index: int, action: RoomKeyAction
    ) -> None:
        held = self.held_by_eve(users)
        assert held.trust is SenderTrust.DEVICE_KNOWN
        decision = offered(S.ROOM_KEY, GROUP, index, held=held, users=maker)
        assert outcome(decision) == (action, None)
        assert (decision.key is not None) is (action is A.REPLACE)
        after = decision.require()
        assert after.sender is not None
        assert (after.sender.user_id, after.first_index) == (PHONE.user_id, min(index, HELD))

    @pytest.mark.parametrize("users", [KNOWN_EVE, VERIFIED_EVE])
    @pytest.mark.parametrize("maker", [{}, KNOWN_ALICE, VERIFIED_ALICE])
    def test_for_whom_an_identity_vouches_stays(self, users: Users, maker: Users) -> None:
        held = self.held_by_eve(users)
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=held, users=maker)
        assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)

    def test_stays_where_an_identity_vouches_for_neither(self) -> None:
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=self.held_by_eve({}), users={})
        assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)

    def test_whose_identity_is_a_new_one_neither_takes_over_nor_loses(self) -> None:
        eve, alice = (evolve(user, generation=1) for user in (EVE_USER, ALICE_USER))
        changed = {
            **learned(KNOWN_EVE, eve, [EVE.keys(cross_signed_by=eve)]),
            **learned(KNOWN_ALICE, alice, [PHONE.keys(cross_signed_by=alice)]),
        }
        for users, maker, trust in (({}, changed, SenderTrust.DEVICE_KNOWN), (changed, {}, SenderTrust.OWNER_CHANGED)):
            held = self.held_by_eve(users)
            assert held.trust is trust
            decision = offered(S.ROOM_KEY, GROUP, FIRST, held=held, users=maker or VERIFIED_ALICE)
            assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)

    def test_takes_over_in_no_other_room(self) -> None:
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=self.held_by_eve({}), room_id=OTHER_ROOM)
        assert outcome(decision) == (A.REFUSE, R.ROOM_MISMATCH)

    @pytest.mark.parametrize(
        ("then", "now", "action"),
        [
            ({}, {**KNOWN_EVE}, A.REFUSE),
            ({}, {}, A.UPGRADE_SENDER),
            (KNOWN_EVE, BLACKLISTED_EVE, A.UPGRADE_SENDER),
            (KNOWN_EVE, {}, A.REFUSE),
        ],
    )
    def test_is_seen_as_one_knows_him_now(self, then: Users, now: Users, action: RoomKeyAction) -> None:
        held = self.held_by_eve(then)
        content = room_key_content(GROUP, signed_at(GROUP, LAST))
        decision = judge_room_key(room_key(content, users=VERIFIED_ALICE), held=held, known={**VERIFIED_ALICE, **now})
        assert decision.action is action

    def test_whose_keys_belong_to_two_devices_does_not_stay(self) -> None:
        content = room_key_content(GROUP, signed_at(GROUP, HELD))
        event = without_keys(letter(EVE, event_type="m.room_key", content=content)).judged(known={}).require()
        held = judge_room_key(event, held=None).require()
        assert held.trust is SenderTrust.UNKNOWN_DEVICE
        other = Person(user=EVE_USER, device_id="OTHER", account=vodozemac.Account())
        now = known(EVE_USER, other.keys(curve25519_key=EVE.curve25519_key))
        decision = judge_room_key(room_key(content), held=held, known=now)
        assert decision.action is A.UPGRADE_SENDER

    def test_of_one_own_session_stays(self) -> None:
        content = RoomKeyContent.from_json(room_key_content(GROUP, signed_at(GROUP, LAST)))
        held = session_of_own(content, own=PHONE.device).require()
        event = room_key(content.to_json(), sender=EVE, users=VERIFIED_EVE)
        for now in ({}, known(ALICE_USER, PHONE.keys()), known(ALICE_USER, PHONE.signed_keys)):
            decision = judge_room_key(event, held=held, known=now)
            assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)
        unsigned = session_of_own(content, own=PHONE.keys().verify()).require()
        decision = judge_room_key(event, held=unsigned, known=known(ALICE_USER, PHONE.keys()))
        assert outcome(decision) == (A.REFUSE, R.SENDER_MISMATCH)

    @pytest.mark.parametrize(
        ("index", "action"), [(FIRST, A.REPLACE), (HELD, A.UPGRADE_SENDER), (LAST, A.UPGRADE_SENDER)]
    )
    @pytest.mark.parametrize("now", [None, VERIFIED_ALICE])
    def test_may_be_known_better_by_now(self, index: int, action: RoomKeyAction, now: Users | None) -> None:
        held = session(S.ROOM_KEY, GROUP, HELD, users={})
        content = room_key_content(GROUP, signed_at(GROUP, index))
        decision = judge_room_key(room_key(content), held=held, known=now)
        assert outcome(decision) == (action, None)
        assert (decision.require().trust, decision.require().first_index) == (SenderTrust.VERIFIED, min(index, HELD))

    def test_is_never_known_less(self) -> None:
        held = session(S.ROOM_KEY, GROUP, HELD)
        decision = offered(S.ROOM_KEY, GROUP, FIRST, held=held, users={})
        assert (decision.action, decision.require().sender) == (A.REPLACE, held.sender)
        assert outcome(offered(S.ROOM_KEY, GROUP, HELD, held=held, users={})) == (A.KEEP, None)

    def test_is_nobody_where_a_key_was_handed_on(self) -> None:
        held = session(S.BACKUP, GROUP, HELD)
        content = room_key_content(GROUP, signed_at(GROUP, LAST))
        decision = judge_room_key(room_key(content), held=held, known=VERIFIED_ALICE, connects=yes)
        assert decision.action is A.UPGRADE_SENDER

    @pytest.mark.parametrize("value", [5, [], {PHONE.user_id: 5}])
    def test_of_known_users_only(self, value: Any) -> None:
        held = session(S.ROOM_KEY, GROUP, HELD)
        with pytest.raises(LocalProtocolError) as caught:
            judge_room_key(room_key(room_key_content(GROUP)), held=held, known=value)
        assert caught.value.path.startswith("/known")


class TestWhatIsRemembered:
    @pytest.mark.parametrize("index", [HELD, LAST])
    @pytest.mark.parametrize(
        ("held", "new", "action"),
        [(True, False, A.UPGRADE_SENDER), (False, True, A.KEEP), (True, True, A.KEEP), (False, False, A.KEEP)],
    )
    def test_a_maker_who_contradicts_himself_shares_nothing(
        self, held: bool, new: bool, action: RoomKeyAction, index: int
    ) -> None:
        before = session(S.ROOM_KEY, GROUP, HELD, shared=held)
        decision = offered(S.ROOM_KEY, GROUP, index, held=before, shared=new)
        assert (decision.action, decision.key) == (action, None)
        assert decision.require().shared_history is (held and new)
        assert decision.require().first_index == HELD

    @pytest.mark.parametrize(("held", "new"), [(True, False), (False, True)])
    def test_nor_does_a_new_owner_share_what_the_first_one_did_not(self, held: bool, new: bool) -> None:
        before = session(S.ROOM_KEY, GROUP, HELD, shared=held, maker=EVE, users={})
        after = offered(S.ROOM_KEY, GROUP, LAST, held=before, shared=new).require()
        assert after.shared_history is False

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
    NEEDED = [(new, held, LAST) for new, held in BETTER] + [(new, held, FIRST) for new, held in NOT_CERTAIN]

    @pytest.mark.parametrize(("new", "held", "index"), NEEDED)
    def test_it_is_missed_where_it_would_have_to_be_asked(
        self, new: SessionSource, held: SessionSource, index: int
    ) -> None:
        """To take its absence for "no" would let any member replace what one has from a backup."""
        with pytest.raises(LocalProtocolError) as caught:
            offered(new, GROUP, index, held=session(held, GROUP, HELD))
        assert (caught.value.path, caught.value.reason) == ("/connects", R.WRONG_TYPE)

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
