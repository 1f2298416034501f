"""What a decrypted event of a room is worth: every check, each alone and all at once, with a real ratchet."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import vodozemac
from attrs import evolve

from client.receive.megolm_people import (
    KNOWN_ALICE,
    OTHER_ROOM,
    ROOM,
    VERIFIED_ALICE,
    Group,
    Said,
    room_key,
    room_key_content,
    session,
)
from client.receive.olm_people import ALICE_USER, EVE, EVE_USER, PHONE, Person, known, learned, letter, without_keys
from events.odd_values import ODD, Hostile, only_own_errors
from matrix_e2e_keys.algorithms import OLM_V1
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession, SessionSource
from matrix_e2e_keys.client.receive.megolm_events import SenderPolicy, check_megolm_event, open_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import (
    DecryptedRoomEvent,
    MegolmCheck,
    MegolmJudgment,
)
from matrix_e2e_keys.client.receive.received_sessions import judge_room_key
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard, ReplayVerdict
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.judgments import FailedCheck
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.signing.verifiers import LIBSODIUM

C, R = MegolmCheck, Reason
GROUP = Group()
SESSION = session(SessionSource.ROOM_KEY, GROUP)
ALLOW = SenderPolicy.ALLOW_IMPERSONATION


def failures(judgment: MegolmJudgment) -> list[tuple[MegolmCheck, Reason, str]]:
    assert judgment.event is None
    return [(one.check, one.reason, one.path) for one in judgment.failed]


class TestAGoodEvent:
    def test_comes_out_with_everything_that_was_checked(self) -> None:
        said = GROUP.say("hello", event_id="$hello")
        event = said.judged(SESSION, guard=ReplayGuard()).require()
        assert (event.type, dict(event.content)) == ("m.room.message", {"msgtype": "m.text", "body": "hello"})
        assert (event.room_id, event.event_id, event.sender_user_id) == (ROOM, "$hello", PHONE.user_id)
        assert event.origin_server_ts == said.event["origin_server_ts"]
        assert event.message_index == said.index
        assert event.session is SESSION
        assert event.sender is SESSION.sender
        assert event.has_impersonated_sender is False
        assert event.replay is ReplayVerdict.NEW
        assert event.unsigned == {"age": 5}

    def test_the_way_from_the_key_to_the_message(self) -> None:
        """As a client goes it: the key, the lookup by room and session id, the ratchet, the checks."""
        group, guard = Group(), ReplayGuard()
        decision = judge_room_key(room_key(room_key_content(group)), held=None)
        assert decision.key is not None
        ratchet = vodozemac.InboundGroupSession(vodozemac.SessionKey(decision.key.text))
        store = {decision.require().lookup_key: (decision.require(), ratchet)}
        for body in ("one", "two"):
            event = group.say(body).received
            content = open_megolm_event(event)
            found, its_ratchet = store[event.room_id, content.session_id]
            decrypted = its_ratchet.decrypt(vodozemac.MegolmMessage.from_base64(content.ciphertext))
            read = check_megolm_event(
                event,
                decrypted.plaintext,
                message_index=decrypted.message_index,
                session=found,
                known=VERIFIED_ALICE,
                guard=guard,
            ).require()
            assert read.content["body"] == body
            assert read.sender is not None
            assert read.sender.trust is SenderTrust.VERIFIED

    def test_it_says_nothing_of_its_content(self) -> None:
        event = GROUP.say("a secret").judged(SESSION).require()
        assert "a secret" not in repr(event) + repr(event.to_event()) + repr(GROUP.say("a secret").judged(SESSION))
        assert PHONE.user_id in repr(event)
        assert "impersonated" not in repr(event)

    def test_bytes_that_may_be_changed(self) -> None:
        said = GROUP.say("x")
        plaintext: Any = bytearray(said.plaintext)
        assert check_megolm_event(
            said.received, plaintext, message_index=said.index, session=SESSION, known={}, guard=None
        ).event

    def test_only_the_check_makes_one(self) -> None:
        with pytest.raises(LocalProtocolError):
            DecryptedRoomEvent()
        with pytest.raises(LocalProtocolError):
            evolve(GROUP.say("x").judged(SESSION).require(), type="m.room.member")


class TestTheEnvelope:
    @pytest.mark.parametrize(
        ("changed", "reason", "path"),
        [
            ({"type": "m.room.message"}, R.NOT_ENCRYPTED, ""),
            ({"state_key": ""}, R.STATE_EVENT, ""),
            ({"content": {"algorithm": OLM_V1, "sender_key": PHONE.curve25519_key.to_base64(), "ciphertext": {}}},
             R.WRONG_ALGORITHM, "/algorithm"),
            ({"content": {"algorithm": "m.new"}}, R.UNSUPPORTED_ALGORITHM, "/algorithm"),
            ({"content": {}}, R.MISSING_MEMBER, ""),
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, changed: dict[str, Any], reason: Reason, path: str) -> None:
        """Attack 56: what is meant for devices is not read in a room. Which it is, the algorithm says."""
        said = GROUP.say("x")
        said.event.update(changed)
        with pytest.raises(RemoteProtocolError) as caught:
            open_megolm_event(said.received)
        assert (caught.value.reason, caught.value.path) == (reason, path)
        assert failures(said.judged(SESSION)) == [(C.ENVELOPE, reason, path)]

    @pytest.mark.parametrize("name", ["sender_key", "device_id"])
    @pytest.mark.parametrize("value", [..., "", "/", EVE.curve25519_key.to_base64(), EVE.device_id])
    def test_who_the_content_says_has_sent_it_does_not_matter(self, name: str, value: Any) -> None:
        """Attack 58: sessions are looked up by room and session id; the rest is ``untrusted_*``."""
        said = GROUP.say("x")
        said.content[name] = value
        if value is ...:
            del said.content[name]
        assert said.judged(SESSION).require().sender is SESSION.sender
        content = open_megolm_event(said.received)
        assert (said.received.room_id, content.session_id) == SESSION.lookup_key
        assert not hasattr(content, name)

    def test_what_stands_in_the_open_is_not_believed(self) -> None:
        said = GROUP.say("x")
        said.content.update(type="m.room.member", body="another", content={"body": "another"})
        assert said.judged(SESSION).require().content["body"] == "x"


class TestThePlaintext:
    @pytest.mark.parametrize(
        ("plaintext", "reason"),
        [(b"", R.NOT_JSON), (b"\xff", R.NOT_UTF8), (b"[]", R.WRONG_TYPE), (b'"x"', R.WRONG_TYPE)],
    )
    def test_is_an_object(self, plaintext: bytes, reason: Reason) -> None:
        said = GROUP.say("x")
        judged = check_megolm_event(
            said.received, plaintext, message_index=said.index, session=SESSION, known={}, guard=None
        )
        assert failures(judged) == [(C.PLAINTEXT, reason, "")]

    @pytest.mark.parametrize(
        ("name", "value", "failed"),
        [
            ("type", ..., (C.PLAINTEXT, R.MISSING_MEMBER, "")),
            ("type", 5, (C.PLAINTEXT, R.WRONG_TYPE, "/type")),
            ("type", "", (C.PLAINTEXT, R.INVALID_VALUE, "/type")),
            ("content", ..., (C.PLAINTEXT, R.MISSING_MEMBER, "")),
            ("content", [], (C.PLAINTEXT, R.WRONG_TYPE, "/content")),
            ("content", {"x": float("nan")}, (C.PLAINTEXT, R.NOT_AN_INTEGER, "/content/x")),
            ("room_id", ..., (C.ROOM, R.MISSING_MEMBER, "")),
            ("room_id", None, (C.ROOM, R.WRONG_TYPE, "/room_id")),
            ("room_id", "room", (C.ROOM, R.INVALID_IDENTIFIER, "/room_id")),
            ("room_id", OTHER_ROOM, (C.ROOM, R.ROOM_MISMATCH, "/room_id")),
            ("type", "m.room.encrypted", (C.INSIDE, R.NESTED_ENCRYPTION, "/type")),
            ("state_key", "", (C.INSIDE, R.STATE_EVENT, "/state_key")),
            ("state_key", None, (C.INSIDE, R.STATE_EVENT, "/state_key")),
        ],
    )
    def test_each_member_alone(self, name: str, value: Any, failed: tuple[MegolmCheck, Reason, str]) -> None:
        """Attack 59: a message without a room, or of another one, is refused; so is what would set a room's state."""
        said = GROUP.say("x")
        said.inside[name] = value
        if value is ...:
            del said.inside[name]
        assert failures(said.judged(SESSION)) == [failed]

    def test_a_room_that_stands_there_twice(self) -> None:
        said = GROUP.say("x")
        plaintext = said.plaintext[:-1] + f',"room_id":"{ROOM}"}}'.encode()
        judged = check_megolm_event(
            said.received, plaintext, message_index=said.index, session=SESSION, known={}, guard=None
        )
        assert failures(judged) == [(C.ROOM, R.DUPLICATE_MEMBER, "/room_id")]

    def test_a_sender_in_the_plaintext_is_nothing(self) -> None:
        said = GROUP.say("x")
        said.inside.update(sender=EVE.user_id, event_id="$evil", origin_server_ts=0, unsigned={"evil": True})
        event = said.judged(SESSION).require().to_event()
        assert event.to_json() == {**said.event, "type": "m.room.message", "content": said.inside["content"]}

    def test_fractions_in_a_content_are_passed_on(self) -> None:
        said = GROUP.say("x")
        said.inside["content"] = {"geo": 1.5, "big": 2**60}
        assert said.judged(SESSION).require().content == {"geo": 1.5, "big": 2**60}


INSIDE = {"rel_type": "m.thread", "event_id": "$inside"}
OUTSIDE = {"rel_type": "m.thread", "event_id": "$outside"}


class TestRelations:
    @pytest.mark.parametrize("inside", [None, INSIDE])
    @pytest.mark.parametrize("outside", [None, OUTSIDE])
    def test_only_the_one_outside_counts_also_if_there_is_none(self, inside: Any, outside: Any) -> None:
        said = GROUP.say("x")
        plain = copy.deepcopy(said.inside["content"])
        if inside:
            said.inside["content"]["m.relates_to"] = inside
        if outside:
            said.content["m.relates_to"] = outside
        event = said.judged(SESSION).require()
        assert event.content == (plain if outside is None else {**plain, "m.relates_to": outside})

    def test_others_with_such_a_name_deeper_down_stay(self) -> None:
        said = GROUP.say("x")
        said.inside["content"]["m.new_content"] = {"m.relates_to": INSIDE}
        assert said.judged(SESSION).require().content["m.new_content"] == {"m.relates_to": INSIDE}


class TestTheRoom:
    def test_an_event_that_was_moved(self) -> None:
        """Attack 59: the server serves the event in another room."""
        said = GROUP.say("x")
        said.event["room_id"] = OTHER_ROOM
        assert failures(said.judged(SESSION)) == [
            (C.ROOM, R.ROOM_MISMATCH, ""),
            (C.ROOM, R.ROOM_MISMATCH, "/room_id"),
        ]

    def test_an_event_that_was_moved_with_its_plaintext(self) -> None:
        """Attack 59: whoever made the session says so as well; but its key was sent for one room."""
        said = GROUP.say("x", room_id=OTHER_ROOM)
        assert failures(said.judged(SESSION)) == [(C.ROOM, R.ROOM_MISMATCH, "")]


class TestTheSession:
    def test_another_one_than_the_event_names(self) -> None:
        said = GROUP.say("x")
        said.content["session_id"] = Group().session_id
        assert failures(said.judged(SESSION)) == [(C.SESSION, R.SESSION_MISMATCH, "/session_id")]

    def test_the_index_that_the_ratchet_says_is_the_one_of_the_message(self) -> None:
        said = GROUP.say("x")
        said.index += 1
        assert failures(said.judged(SESSION)) == [(C.INDEX, R.INVALID_VALUE, "/ciphertext")]

    @pytest.mark.parametrize("source", list(SessionSource))
    def test_a_key_opens_nothing_from_before_it(self, source: SessionSource) -> None:
        group = Group()
        before, after = group.say("before"), group.say("after")
        later = session(source, group, 2) if source is SessionSource.ROOM_KEY else session(source, group, 1)
        at, beyond = (after, group.say("x")) if source is SessionSource.ROOM_KEY else (before, after)
        assert later.first_index == at.index + 1
        assert failures(at.judged(later)) == [(C.INDEX, R.LATER_INDEX, "/ciphertext")]
        assert beyond.judged(later).event


class TestTheSender:
    def test_another_user_than_the_one_who_made_the_session(self) -> None:
        """Attack 57: a server that shows a message as if another user had sent it (CVE-2025-48937)."""
        said = GROUP.say("x")
        said.event["sender"] = EVE.user_id
        assert failures(said.judged(SESSION)) == [(C.SENDER, R.SENDER_MISMATCH, "")]

    def test_a_bot_may_speak_for_others_if_one_says_so(self) -> None:
        said = GROUP.say("x")
        said.event["sender"] = EVE.user_id
        event = said.judged(SESSION, policy=ALLOW).require()
        assert event.has_impersonated_sender
        assert event.sender_user_id == event.to_event().sender == EVE.user_id
        assert event.sender is not None
        assert event.sender.user_id == PHONE.user_id
        assert "impersonated" in repr(event)

    def test_nobody_is_impersonated_by_himself(self) -> None:
        assert GROUP.say("x").judged(SESSION, policy=ALLOW).require().has_impersonated_sender is False

    @pytest.mark.parametrize(
        ("users", "is_allowed"),
        [
            (KNOWN_ALICE, True),
            (known(ALICE_USER), True),  # its keys, signed by the identity that is known, came with the message
            ({}, False),
        ],
    )
    def test_whose_device_the_owner_vouches_for(self, users: dict[str, KnownUser], is_allowed: bool) -> None:
        """ "provided the session creator's device is cross-signed" """
        said = GROUP.say("x")
        said.event["sender"] = EVE.user_id
        made_by = judge_room_key(room_key(room_key_content(GROUP), users=users), held=None).require()
        judged = said.judged(evolve_index(made_by), policy=ALLOW)
        assert (judged.event is not None) is is_allowed
        if not is_allowed:
            assert failures(judged) == [(C.SENDER, R.UNTRUSTED_SENDER, "")]

    def test_a_device_that_was_blacklisted_speaks_for_nobody_else(self) -> None:
        said = GROUP.say("x")
        user = KNOWN_ALICE[ALICE_USER.user_id].with_trust(PHONE.ed25519_key, LocalTrust.BLACKLISTED)
        assert SESSION.sender is not None
        seen_now = SESSION.with_sender(reassess_sender(SESSION.sender, known={ALICE_USER.user_id: user}))
        assert said.judged(seen_now, policy=ALLOW).require().sender is seen_now.sender
        said.event["sender"] = EVE.user_id
        assert failures(said.judged(seen_now, policy=ALLOW)) == [(C.SENDER, R.UNTRUSTED_SENDER, "")]

    @pytest.mark.parametrize("source", [one for one in SessionSource if one is not SessionSource.ROOM_KEY])
    def test_of_a_key_that_was_handed_on_nobody_can_say(self, source: SessionSource) -> None:
        group = Group()
        held = session(source, group)
        said = group.say("x")
        for user_id in (PHONE.user_id, EVE.user_id):
            said.event["sender"] = user_id
            event = said.judged(held).require()
            assert (event.sender, event.has_impersonated_sender) == (None, False)
            assert event.session.trust is SenderTrust.UNKNOWN_DEVICE


class TestTheSenderByNow:
    """How sure one is of a sender follows from what is known now, and not from what was known when the key came."""

    @pytest.mark.parametrize(
        ("users", "trust"),
        [({}, SenderTrust.VERIFIED), (KNOWN_ALICE, SenderTrust.UNVERIFIED), (VERIFIED_ALICE, SenderTrust.VERIFIED)],
    )
    def test_is_in_the_result_and_in_its_session(self, users: dict[str, KnownUser], trust: SenderTrust) -> None:
        event = GROUP.say("x").judged(SESSION, known=users).require()
        assert event.sender is not None
        assert event.sender.trust is event.session.trust is trust
        assert event.session.sender is event.sender
        assert SESSION.trust is SenderTrust.VERIFIED

    def test_whose_device_is_blacklisted(self) -> None:
        user = VERIFIED_ALICE[ALICE_USER.user_id].with_trust(PHONE.ed25519_key, LocalTrust.BLACKLISTED)
        event = GROUP.say("x").judged(SESSION, known={user.user_id: user}).require()
        assert event.sender is not None
        assert (event.sender.trust, event.sender.local_trust) == (SenderTrust.DEVICE_KNOWN, LocalTrust.BLACKLISTED)
        said = GROUP.say("x")
        said.event["sender"] = EVE.user_id
        judged = said.judged(SESSION, known={user.user_id: user}, policy=ALLOW)
        assert failures(judged) == [(C.SENDER, R.UNTRUSTED_SENDER, "")]

    def test_whose_identity_is_another_one_by_now(self) -> None:
        user = evolve(ALICE_USER, generation=1)
        event = GROUP.say("x").judged(SESSION, known=learned(VERIFIED_ALICE, user, [PHONE.keys()])).require()
        assert event.sender is not None
        assert event.sender.trust is SenderTrust.OWNER_CHANGED

    def test_whose_keys_are_those_of_two_devices(self) -> None:
        group = Group()
        event = without_keys(letter(PHONE, event_type="m.room_key", content=room_key_content(group))).judged(known={})
        held = judge_room_key(event.require(), held=None).require()
        other = Person(user=ALICE_USER, device_id="OTHER", account=vodozemac.Account())
        users = known(ALICE_USER, other.keys(curve25519_key=PHONE.curve25519_key))
        said, guard = group.say("x"), ReplayGuard()
        assert said.judged(held).event
        assert failures(said.judged(held, known=users, guard=guard)) == [(C.SENDER, R.SENDER_KEY_MISMATCH, "")]
        assert len(guard) == 0
        said.event["sender"] = EVE.user_id
        both = [(C.SENDER, R.SENDER_KEY_MISMATCH, ""), (C.SENDER, R.SENDER_MISMATCH, "")]
        assert failures(said.judged(held, known=users)) == both

    def test_after_a_restart(self) -> None:
        restored = InboundSession.from_json(json.loads(json.dumps(SESSION.to_json())))
        event = GROUP.say("x").judged(restored, known=VERIFIED_ALICE).require()
        assert event.session == SESSION


HANDED_ON = [one for one in SessionSource if one is not SessionSource.ROOM_KEY]
EVERYBODY = {**known(EVE_USER, EVE.signed_keys), **KNOWN_ALICE}


@pytest.mark.parametrize("source", HANDED_ON)
class TestACopy:
    """Attacks 57 and 59: a member sends the message of another as his own; the key was handed on to oneself."""

    @staticmethod
    def copied(said: Said) -> Said:
        return Said({**said.event, "sender": EVE.user_id, "event_id": "$evil"}, said.inside, said.index)

    def test_is_refused_if_one_knows_the_device_that_is_said_to_have_made_the_session(
        self, source: SessionSource
    ) -> None:
        group, guard = Group(), ReplayGuard()
        held, said = session(source, group), group.say("I, Alice, say so")
        assert failures(self.copied(said).judged(held, known=EVERYBODY, guard=guard)) == [
            (C.SENDER, R.SENDER_MISMATCH, "")
        ]
        event = said.judged(held, known=EVERYBODY, guard=guard).require()
        assert (event.sender, event.replay, event.session) == (None, ReplayVerdict.NEW, held)

    def test_does_not_keep_out_the_true_one(self, source: SessionSource) -> None:
        group, guard = Group(), ReplayGuard()
        held, said = session(source, group), group.say("I, Alice, say so")
        copy_ = self.copied(said)
        assert copy_.judged(held, guard=guard).require().replay is ReplayVerdict.NEW
        event = said.judged(held, guard=guard).require()
        assert event.replay is ReplayVerdict.DISPUTED
        assert "disputed" in repr(event)
        assert said.judged(held, guard=guard).require().replay is ReplayVerdict.SAME_EVENT
        said.event["event_id"] = "$again"
        assert failures(said.judged(held, guard=guard)) == [(C.REPLAY, R.REPLAYED, "")]

    def test_passes_for_an_impersonation_where_that_is_allowed(self, source: SessionSource) -> None:
        group = Group()
        held, copy_ = session(source, group), self.copied(group.say("x"))
        event = copy_.judged(held, known=EVERYBODY, policy=ALLOW).require()
        assert (event.sender, event.has_impersonated_sender) == (None, True)
        unsigned = {**EVERYBODY, **learned({}, ALICE_USER, [PHONE.keys()])}
        judged = copy_.judged(held, known=unsigned, policy=ALLOW)
        assert failures(judged) == [(C.SENDER, R.UNTRUSTED_SENDER, "")]

    def test_both_keys_are_those_of_the_device(self, source: SessionSource) -> None:
        """Anybody can list another's Olm identity key as his own; nobody his signing key."""
        group = Group()
        held, said = session(source, group), group.say("x")
        users = {**known(EVE_USER, EVE.keys(curve25519_key=PHONE.curve25519_key)), **KNOWN_ALICE}
        assert said.judged(held, known=users).event
        del users[ALICE_USER.user_id]
        assert said.judged(held, known=users).event

    def test_whoever_else_has_both_keys_takes_nothing_from_their_owner(self, source: SessionSource) -> None:
        group = Group()
        held, said = session(source, group), group.say("x")
        twin = Person(user=EVE_USER, device_id=PHONE.device_id, account=PHONE.account)
        for users in ({**known(EVE_USER, twin.keys()), **KNOWN_ALICE}, {**KNOWN_ALICE, **known(EVE_USER, twin.keys())}):
            assert said.judged(held, known=users).event
        carol = Said({**said.event, "sender": "@carol:c.example"}, said.inside, said.index)
        for users in ({**known(EVE_USER), **KNOWN_ALICE}, {**KNOWN_ALICE, **known(EVE_USER)}):
            assert failures(carol.judged(held, known=users)) == [(C.SENDER, R.SENDER_MISMATCH, "")]

    @pytest.mark.parametrize("value", [{"@x:y": 5}, {PHONE.user_id: 5}, Hostile()])
    def test_of_known_users_only(self, source: SessionSource, value: Any) -> None:
        group = Group()
        with pytest.raises(LocalProtocolError) as caught:
            group.say("x").judged(session(source, group), known=value)
        assert caught.value.path.startswith("/known")


def evolve_index(made: InboundSession) -> InboundSession:
    """The session as if its key had come at the beginning."""
    stored: JsonObject = json.loads(json.dumps(made.to_json()))
    return InboundSession.from_json({**stored, "first_index": 0})


class TestReplays:
    def test_the_same_event_twice_is_all_right(self) -> None:
        """Attack 59: also after a restart."""
        guard, said = ReplayGuard(), GROUP.say("x")
        assert said.judged(SESSION, guard=guard).require().replay is ReplayVerdict.NEW
        guard = ReplayGuard.from_json(json.loads(json.dumps(guard.to_json())))
        assert said.judged(SESSION, guard=guard).require().replay is ReplayVerdict.SAME_EVENT

    @pytest.mark.parametrize("changed", [{"event_id": "$again"}, {"origin_server_ts": 1}])
    def test_the_message_once_more_under_another_name(self, changed: dict[str, Any]) -> None:
        """Attack 59: the server delivers the message again, as another event or at another time."""
        guard, said = ReplayGuard(), GROUP.say("yes")
        assert said.judged(SESSION, guard=guard).event
        said.event.update(changed)
        assert failures(said.judged(SESSION, guard=guard)) == [(C.REPLAY, R.REPLAYED, "")]
        assert len(guard) == 1

    @pytest.mark.parametrize("name", ["sender_key", "device_id"])
    def test_under_another_device_it_is_the_same_message(self, name: str) -> None:
        """Attacks 58 and 59."""
        guard, said = ReplayGuard(), GROUP.say("yes")
        assert said.judged(SESSION, guard=guard).event
        said.event["event_id"] = "$again"
        said.content[name] = "another"
        assert failures(said.judged(SESSION, guard=guard)) == [(C.REPLAY, R.REPLAYED, "")]

    def test_what_fails_leaves_no_trace(self) -> None:
        """Otherwise a forged copy, delivered first, would keep the true event out."""
        guard, said = ReplayGuard(), GROUP.say("x")
        forged = Said(copy.deepcopy(said.event), said.inside, said.index)
        forged.event.update(event_id="$forged", sender=EVE.user_id)
        assert forged.judged(SESSION, guard=guard).event is None
        assert said.judged(SESSION, guard=guard).require().replay is ReplayVerdict.NEW

    def test_a_guard_that_had_to_forget_says_so(self) -> None:
        guard, first = ReplayGuard(max_entries=1), GROUP.say("x")
        for said in (first, GROUP.say("y")):
            assert said.judged(SESSION, guard=guard).event
        assert first.judged(SESSION, guard=guard).require().replay is ReplayVerdict.NOT_REMEMBERED

    def test_without_a_guard_nothing_is_said_of_it(self) -> None:
        assert GROUP.say("x").judged(SESSION).require().replay is None

    def test_messages_of_other_sessions_have_the_same_index(self) -> None:
        guard = ReplayGuard()
        for group in (Group(), Group()):
            held = session(SessionSource.ROOM_KEY, group)
            assert group.say("x").judged(held, guard=guard).require().message_index == 0


class TestAllAtOnce:
    def test_every_check_that_failed_is_named_in_order(self) -> None:
        guard, said = ReplayGuard(), GROUP.say("x")
        said.event["sender"] = EVE.user_id
        assert said.judged(SESSION, guard=guard, policy=ALLOW).event
        said.event["event_id"] = "$again"
        said.content["session_id"] = Group().session_id
        said.inside = {"type": "m.room.encrypted", "content": 5, "room_id": OTHER_ROOM, "state_key": ""}
        assert failures(said.judged(SESSION, guard=guard)) == [
            (C.PLAINTEXT, R.WRONG_TYPE, "/content"),
            (C.ROOM, R.ROOM_MISMATCH, "/room_id"),
            (C.SESSION, R.SESSION_MISMATCH, "/session_id"),
            (C.SENDER, R.SENDER_MISMATCH, ""),
            (C.REPLAY, R.REPLAYED, ""),
            (C.INSIDE, R.NESTED_ENCRYPTION, "/type"),
            (C.INSIDE, R.STATE_EVENT, "/state_key"),
        ]

    def test_without_an_envelope_the_rest_is_checked(self) -> None:
        said = GROUP.say("x")
        said.event.update(content={}, sender=EVE.user_id)
        del said.inside["room_id"]
        checks = [one.check for one in said.judged(SESSION).failed]
        assert checks == [C.ENVELOPE, C.ROOM, C.SENDER]

    def test_the_first_one_is_raised(self) -> None:
        said = GROUP.say("x")
        said.inside["room_id"] = OTHER_ROOM
        with pytest.raises(VerificationError) as caught:
            said.judged(SESSION).require()
        assert (caught.value.reason, caught.value.path) == (R.ROOM_MISMATCH, "/room_id")

    def test_nothing_of_the_content_is_quoted(self) -> None:
        said = GROUP.say("x")
        said.inside.update(content=["SECRET"], type=["SECRET"], room_id=["SECRET"], state_key="SECRET")
        assert "SECRET" not in repr(said.judged(SESSION))

    def test_nothing_that_was_given_is_changed(self) -> None:
        said = GROUP.say("x")
        said.content["m.relates_to"] = {"a": 1}
        event, before = said.received, copy.deepcopy(said.event)
        judged = said.judged(SESSION).require()
        judged.to_event().to_json()["content"]["m.relates_to"]["a"] = 2  # type: ignore[call-overload,index]
        assert judged.unsigned is not None
        judged.to_event().to_json()["unsigned"]["age"] = 2  # type: ignore[call-overload,index]
        assert (event.to_json(), judged.content["m.relates_to"], judged.unsigned) == (before, {"a": 1}, {"age": 5})


class TestTheEventAfterwards:
    def test_is_rebuilt_from_what_was_checked(self) -> None:
        said = GROUP.say("x")
        said.event["evil"] = True
        event = said.judged(SESSION).require().to_event()
        assert event == RoomEvent.from_json(
            {
                "type": "m.room.message",
                "sender": PHONE.user_id,
                "content": {"msgtype": "m.text", "body": "x"},
                "room_id": ROOM,
                "event_id": said.event["event_id"],
                "origin_server_ts": said.event["origin_server_ts"],
                "unsigned": {"age": 5},
            }
        )

    @pytest.mark.parametrize("unsigned", [..., None, 5, []])
    def test_unsigned_is_an_object_or_not_there(self, unsigned: Any) -> None:
        said = GROUP.say("x")
        said.event["unsigned"] = unsigned
        if unsigned is ...:
            del said.event["unsigned"]
        event = said.judged(SESSION).require()
        assert event.unsigned is None
        assert "unsigned" not in event.to_event().to_json()

    def test_it_never_sets_the_state_of_a_room(self) -> None:
        said = GROUP.say("x")
        said.inside.update(type="m.room.member", content={"membership": "join"})
        event = said.judged(SESSION).require().to_event()
        assert event.state_key is None
        assert "state_key" not in event.to_json()


EVENT = GROUP.say("x").judged(SESSION).require()
FAILED = FailedCheck(check=C.ROOM, reason=R.ROOM_MISMATCH, detail="x", path="")


class TestJudgments:
    def test_have_no_truth_value(self) -> None:
        with pytest.raises(LocalProtocolError):
            bool(GROUP.say("x").judged(SESSION))

    @pytest.mark.parametrize(
        ("event", "failed"),
        [(None, ()), (EVENT, (FAILED,)), (5, ()), (None, [FAILED]), (None, (5,))],
    )
    def test_hold_an_event_or_what_failed(self, event: Any, failed: Any) -> None:
        with pytest.raises(LocalProtocolError):
            MegolmJudgment(event=event, failed=failed)

    def test_may_be_made_by_others_who_have_an_event(self) -> None:
        assert MegolmJudgment(event=EVENT).require() is EVENT
        assert MegolmJudgment(event=None, failed=(FAILED,)).failed == (FAILED,)


class TestOddValues:
    @pytest.mark.parametrize(
        "name", ["event", "plaintext", "message_index", "session", "known", "guard", "sender_policy", "verifier"]
    )
    def test_nothing_foreign_comes_out(self, name: str) -> None:
        said = GROUP.say("x")
        good: dict[str, Any] = {
            "event": said.received,
            "plaintext": said.plaintext,
            "message_index": said.index,
            "session": SESSION,
            "known": {},
            "guard": None,
            "sender_policy": SenderPolicy.SAME_USER,
            "verifier": LIBSODIUM,
        }

        def call(value: Any) -> None:
            arguments = {**good, name: value}
            event, plaintext = arguments.pop("event"), arguments.pop("plaintext")
            try:
                check_megolm_event(event, plaintext, **arguments)
            except LocalProtocolError as error:
                paths.add(error.path)
                raise

        paths: set[str] = set()
        accepted = {"plaintext": 2, "message_index": 1, "guard": 1, "known": 6}
        assert only_own_errors(call) == len(ODD) - accepted.get(name, 0)
        assert paths == {f"/{name}"}

    def test_nor_is_anything_else_opened(self) -> None:
        assert only_own_errors(open_megolm_event) == len(ODD)

    @pytest.mark.parametrize("value", ["same-user", "allow-impersonation"])
    def test_a_policy_is_named_by_its_value_of_the_enumeration(self, value: Any) -> None:
        with pytest.raises(LocalProtocolError):
            GROUP.say("x").judged(SESSION, policy=value)

    @pytest.mark.parametrize("name", ["type", "content", "room_id", "state_key", "m.relates_to"])
    def test_whatever_stands_inside(self, name: str) -> None:
        said = GROUP.say("x")

        def call(value: Any) -> None:
            try:
                plaintext = json.dumps({**said.inside, name: value}).encode()
            except (TypeError, ValueError, RuntimeError):  # it cannot be written at all
                return
            judged = check_megolm_event(
                said.received, plaintext, message_index=said.index, session=SESSION, known={}, guard=None
            )
            assert (judged.event is None) is bool(judged.failed)

        assert only_own_errors(call) == 0
