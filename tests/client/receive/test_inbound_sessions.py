"""What is remembered of a session: by what it is found, whose it is, and that damage is noticed."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from attrs import evolve

from client.receive.megolm_people import (
    CAROL,
    KNOWN_ALICE,
    ROOM,
    TABLET,
    Group,
    accepted,
    forward,
    room_key,
    room_key_content,
)
from client.receive.megolm_people import session as session_from
from client.receive.olm_people import ALICE_USER, EVE, LAPTOP, PHONE, known, learned
from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.received_sessions import judge_room_key, session_from_forward
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.withheld import WithheldNotice

S = SessionSource
GROUP = Group()
SESSIONS = {source: session_from(source, GROUP) for source in S}
HANDED_ON = [source for source in S if source is not S.ROOM_KEY]


def again(session: InboundSession) -> InboundSession:
    return InboundSession.from_json(json.loads(json.dumps(session.to_json())))


class TestWhatItIs:
    @pytest.mark.parametrize("source", list(S))
    def test_by_what_it_is_found(self, source: SessionSource) -> None:
        """Attack 58: by room and session id alone."""
        session = SESSIONS[source]
        assert session.lookup_key == (session.room_id, session.session_id) == (ROOM, GROUP.session_id)
        assert session.source is source
        assert session.first_index == 0

    def test_a_key_from_its_maker_binds_the_session_to_the_device(self) -> None:
        session = SESSIONS[S.ROOM_KEY]
        assert session.sender is not None
        assert session.sender.ed25519_key == PHONE.ed25519_key
        assert session.trust is session.sender.trust is SenderTrust.VERIFIED
        assert (session.forwarder, session.claimed_curve25519_key, session.claimed_ed25519_key) == (None, None, None)

    @pytest.mark.parametrize("source", HANDED_ON)
    def test_a_key_that_was_handed_on_does_not(self, source: SessionSource) -> None:
        session = SESSIONS[source]
        assert session.sender is None
        assert session.trust is SenderTrust.UNKNOWN_DEVICE
        assert session.claimed_curve25519_key == PHONE.curve25519_key
        assert session.claimed_ed25519_key == PHONE.ed25519_key

    @pytest.mark.parametrize(
        ("source", "forwarder"),
        [(S.FORWARDED, TABLET), (S.HISTORY_BUNDLE, CAROL), (S.EXPORT, None), (S.BACKUP, None), (S.ROOM_KEY, None)],
    )
    def test_who_handed_it_on_is_remembered(self, source: SessionSource, forwarder: Any) -> None:
        """ "Bob's client MUST remember who he received the keys from" """
        assert SESSIONS[source].forwarder == forwarder
        restored = again(SESSIONS[source]).forwarder
        assert (restored is None) is (forwarder is None)
        assert restored is None or restored.to_json() == forwarder.to_json()

    def test_only_a_check_makes_one(self) -> None:
        with pytest.raises(LocalProtocolError):
            InboundSession()
        with pytest.raises(LocalProtocolError):
            evolve(SESSIONS[S.BACKUP], sender=TABLET)

    def test_it_shows_no_secret(self) -> None:
        for session in SESSIONS.values():
            assert GROUP.first_key[20:60] not in repr(session) + json.dumps(session.to_json())
            assert GROUP.exported()[20:60] not in repr(session) + json.dumps(session.to_json())
            assert ROOM in repr(session)
        assert ALICE_USER.user_id in repr(SESSIONS[S.ROOM_KEY])


class TestTheSenderLater:
    def test_may_be_known_better(self) -> None:
        session = judge_room_key(room_key(room_key_content(GROUP), users={}), held=None).require()
        assert session.sender is not None
        assert session.trust is SenderTrust.DEVICE_KNOWN
        seen = session.with_sender(reassess_sender(session.sender, known=KNOWN_ALICE))
        assert seen.trust is SenderTrust.UNVERIFIED
        assert seen.to_json() == {**session.to_json(), "sender": seen.to_json()["sender"]}
        assert session.trust is SenderTrust.DEVICE_KNOWN, "the session itself has not changed"

    def test_may_be_blacklisted(self) -> None:
        session = SESSIONS[S.ROOM_KEY]
        user = KNOWN_ALICE[ALICE_USER.user_id].with_trust(PHONE.ed25519_key, LocalTrust.BLACKLISTED)
        assert session.sender is not None
        seen = session.with_sender(reassess_sender(session.sender, known={user.user_id: user}))
        assert seen.sender is not None
        assert seen.sender.local_trust is LocalTrust.BLACKLISTED

    def test_is_never_another_device(self) -> None:
        laptop = room_key({}, sender=LAPTOP, users=known(ALICE_USER, LAPTOP.signed_keys), event_type="m.dummy").sender
        for other in (laptop, CAROL, TABLET):
            found = refusal(lambda other=other: SESSIONS[S.ROOM_KEY].with_sender(other), LocalProtocolError)
            assert found == ("/sender", Reason.SENDER_MISMATCH)

    @pytest.mark.parametrize("source", HANDED_ON)
    def test_is_never_made_up(self, source: SessionSource) -> None:
        sender = SESSIONS[S.ROOM_KEY].sender
        assert sender is not None
        found = refusal(lambda: SESSIONS[source].with_sender(sender), LocalProtocolError)
        assert found == ("/sender", Reason.WRONG_STATE)

    def test_odd_values(self) -> None:
        assert only_own_errors(SESSIONS[S.ROOM_KEY].with_sender) == len(ODD)


class TestStored:
    @pytest.mark.parametrize("source", list(S))
    def test_it_comes_back_as_it_was(self, source: SessionSource) -> None:
        assert again(SESSIONS[source]).to_json() == SESSIONS[source].to_json()

    def test_all_of_it_comes_back(self) -> None:
        notice = WithheldNotice(code="m.unverified")
        content = forward(GROUP, 3, withheld=notice)
        session = session_from_forward(accepted(content), held=None).require()
        restored = again(session)
        assert (restored.withheld, restored.first_index, restored.shared_history) == ("m.unverified", 3, False)
        shared = judge_room_key(room_key(room_key_content(GROUP, shared=True)), held=None).require()
        assert again(shared).shared_history is True

    def test_signatures_are_checked_again(self) -> None:
        class Refusing:
            def verify_many(self, questions: Any) -> list[bool]:
                return [False for _ in questions]

        stored = SESSIONS[S.ROOM_KEY].to_json()
        found = refusal(lambda: InboundSession.from_json(stored, verifier=Refusing()), LocalProtocolError)
        assert found[0].startswith("/sender/device")
        only_own_errors(lambda value: InboundSession.from_json(stored, verifier=value))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("version", 2),
            ("version", True),
            ("room_id", "room"),
            ("room_id", None),
            ("session_id", "x"),
            ("session_id", None),
            ("first_index", -1),
            ("first_index", 2**32),
            ("first_index", 1.0),
            ("first_index", True),
            ("source", "olm"),
            ("source", ["room-key"]),
            ("shared_history", 1),
            ("shared_history", None),
            ("sender", []),
            ("sender", None),
            ("forwarder", SESSIONS[S.ROOM_KEY].to_json()["sender"]),
            ("claimed_curve25519_key", PHONE.curve25519_key.to_base64()),
            ("claimed_ed25519_key", PHONE.ed25519_key.to_base64()),
            ("claimed_ed25519_key", "x"),
            ("claimed_curve25519_key", 5),
            ("withheld", 5),
        ],
    )
    def test_damage_is_found_and_named(self, name: str, value: Any) -> None:
        stored: Any = SESSIONS[S.ROOM_KEY].to_json()
        stored[name] = value
        assert refusal(lambda: InboundSession.from_json(stored), LocalProtocolError)[0] == f"/{name}"

    def test_there_is_one_way_to_write_a_session_id(self) -> None:
        stored = {**SESSIONS[S.BACKUP].to_json(), "session_id": GROUP.session_id + "="}
        assert InboundSession.from_json(stored).session_id == GROUP.session_id

    @pytest.mark.parametrize("name", list(SESSIONS[S.BACKUP].to_json()))
    def test_each_member_has_to_be_there(self, name: str) -> None:
        stored: Any = SESSIONS[S.BACKUP].to_json()
        del stored[name]
        found = refusal(lambda: InboundSession.from_json(stored), LocalProtocolError)
        assert found == (f"/{name}", Reason.MISSING_MEMBER)

    @pytest.mark.parametrize(
        ("source", "changed", "path"),
        [
            (S.BACKUP, {"source": "room-key"}, "/sender"),
            (S.BACKUP, {"source": "forwarded"}, "/forwarder"),
            (S.BACKUP, {"source": "history-bundle"}, "/forwarder"),
            (S.FORWARDED, {"source": "export"}, "/forwarder"),
            (S.HISTORY_BUNDLE, {"forwarder": None}, "/forwarder"),
            (S.EXPORT, {"claimed_curve25519_key": None}, "/claimed_curve25519_key"),
            (S.EXPORT, {"claimed_ed25519_key": None}, "/claimed_ed25519_key"),
            (S.EXPORT, {"sender": SESSIONS[S.ROOM_KEY].to_json()["sender"]}, "/sender"),
        ],
    )
    def test_what_no_check_makes_is_refused(self, source: SessionSource, changed: Any, path: str) -> None:
        """Above all, that a key which was handed on gets an owner."""
        stored = {**SESSIONS[source].to_json(), **changed}
        found = refusal(lambda: InboundSession.from_json(stored), LocalProtocolError)
        assert found == (path, Reason.INVALID_VALUE)

    def test_a_damaged_sender_is_named(self) -> None:
        stored: Any = copy.deepcopy(SESSIONS[S.ROOM_KEY].to_json())
        stored["sender"]["user_id"] = EVE.user_id
        assert refusal(lambda: InboundSession.from_json(stored), LocalProtocolError)[0].startswith("/sender")

    def test_odd_values(self) -> None:
        assert only_own_errors(InboundSession.from_json) == len(ODD)
        for name in SESSIONS[S.ROOM_KEY].to_json():
            stored = SESSIONS[S.ROOM_KEY].to_json()
            only_own_errors(lambda value, stored=stored, name=name: InboundSession.from_json({**stored, name: value}))

    def test_whatever_was_learned_meanwhile_comes_later(self) -> None:
        """What is restored says no more than what was stored; what is known by now is for a reassessment to say."""
        session = again(SESSIONS[S.ROOM_KEY])
        assert session.sender is not None
        after_reset = learned(KNOWN_ALICE, evolve(ALICE_USER, generation=1), [PHONE.keys()])
        seen = session.with_sender(reassess_sender(session.sender, known=after_reset))
        assert seen.trust is SenderTrust.OWNER_CHANGED
