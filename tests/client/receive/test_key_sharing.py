"""What is answered to devices that ask, line by line; and a key that goes all the way from one device to another."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
import vodozemac
from attrs import evolve, frozen

from client.receive.megolm_people import ROOM, Group
from client.receive.olm_people import (
    ALICE_USER,
    BOB,
    BOB_USER,
    EVE,
    PHONE,
    Person,
    known,
    learned,
    letter,
    person,
    sealed_event,
    signed_anew,
)
from events.odd_values import ODD, HalfHostile, Hostile, Names, Number, Text, only_own_errors, refusal
from matrix_e2e_keys.client.receive.key_requests import KeyRequests
from matrix_e2e_keys.client.receive.key_sharing import (
    SharingDecision,
    SharingVerdict,
    judge_key_request,
    judge_secret_request,
)
from matrix_e2e_keys.client.receive.message_index import MAX_MESSAGE_INDEX
from matrix_e2e_keys.client.receive.olm_events import check_olm_event, open_olm_event
from matrix_e2e_keys.client.receive.received_sessions import session_from_forward
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.payloads import OlmPayload
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent
from matrix_e2e_keys.events.secrets import SecretRequestContent
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.models.device_keys import DeviceKeys

R, V, W = Reason, SharingVerdict, WithheldCode
ME, ALICE = BOB_USER.user_id, ALICE_USER.user_id
GROUP = Group()
SHARE, WITHHOLD, IGNORE, CANCEL = V


def without_olm(user: Any, device_id: str) -> DeviceKeys:
    someone = person(user, device_id)
    obj: Any = someone.keys().to_json()
    del obj["keys"][f"curve25519:{device_id}"]
    return DeviceKeys.from_json(signed_anew(obj, someone.signer))


def trusting(user: KnownUser, **decided: LocalTrust) -> KnownUser:
    for device_id, trust in decided.items():
        user = user.with_trust(user.devices[device_id].ed25519_key, trust)
    return user


def everybody(*, verified: bool = True) -> dict[str, KnownUser]:
    """What is known of Bob, who is oneself, and of Alice."""
    own = [BOB.signed_keys, *[BOB_USER.device(name) for name in ("GOOD", "BLOCKED")], without_olm(BOB_USER, "MUTE")]
    own += [BOB_USER.device(name, cross_signed=False) for name in ("PLAIN", "COMPARED")]
    own += [BOB_USER.device("STORED", extra={"dehydrated": True})]
    alices = [*[ALICE_USER.device(name) for name in ("GOOD", "BLOCKED", "DESK")], without_olm(ALICE_USER, "MUTE")]
    alices += [ALICE_USER.device("STORED", extra={"dehydrated": True})]
    me = known(BOB_USER, *own, verified=verified)[ME]
    alice = known(ALICE_USER, *alices, verified=True)[ALICE]
    return {
        ME: trusting(me, BLOCKED=LocalTrust.BLACKLISTED, COMPARED=LocalTrust.VERIFIED, MUTE=LocalTrust.VERIFIED),
        ALICE: trusting(alice, BLOCKED=LocalTrust.BLACKLISTED),
    }


KNOWN = everybody()
UNSURE = everybody(verified=False)
CHANGED = {
    **KNOWN,
    ME: learned(KNOWN, evolve(BOB_USER, generation=1), [evolve(BOB_USER, generation=1).device("GOOD")])[ME],
}
COLLIDING = {user_id: evolve(user, collision="GOOD") for user_id, user in KNOWN.items()}


def key_request(sender: str = ME, device_id: str = "GOOD", **changed: Any) -> ToDeviceEvent:
    content = RoomKeyRequestContent.build(
        request_id="1", requesting_device_id=device_id, room_id=ROOM, session_id=GROUP.session_id
    )
    obj = {**content.to_json(), **changed}
    return ToDeviceEvent(type=content.event_type, sender=sender, content=obj)


def secret_request(sender: str = ME, device_id: str = "GOOD", **changed: Any) -> ToDeviceEvent:
    content = SecretRequestContent.build(name="m.megolm_backup.v1", request_id="1", requesting_device_id=device_id)
    return ToDeviceEvent(type=content.event_type, sender=sender, content={**content.to_json(), **changed})


def judge_key(
    event: ToDeviceEvent,
    *,
    known: Any = KNOWN,
    has_session: bool = True,
    shared_from: int | None = None,
) -> SharingDecision:
    return judge_key_request(
        event,
        known=known,
        own_user_id=ME,
        own_device_id=BOB.device_id,
        has_session=has_session,
        shared_from=shared_from,
    )


def judge_secret(event: ToDeviceEvent, *, known: Any = KNOWN) -> SharingDecision:
    return judge_secret_request(event, known=known, own_user_id=ME, own_device_id=BOB.device_id)


@frozen(kw_only=True)
class Row:
    """Who asks, and what is answered: if it was not given the session before, and if it was, from message 3 on."""

    sender: str = ME
    device_id: str = "GOOD"
    known: Any = KNOWN
    not_given: tuple[SharingVerdict, WithheldCode | None, Reason | None]
    given: tuple[SharingVerdict, WithheldCode | None, Reason | None]
    from_first: bool = False
    secret: tuple[SharingVerdict, Reason | None]


def alike(verdict: SharingVerdict, code: WithheldCode | None, reason: Reason | None, **more: Any) -> Row:
    """A row where it does not matter what was given before, nor what is asked for."""
    secret = more.pop("secret", (verdict, reason))
    return Row(not_given=(verdict, code, reason), given=(verdict, code, reason), secret=secret, **more)


GIVEN = (SHARE, None, None)
NOT_VERIFIED = (WITHHOLD, W.UNVERIFIED, R.UNVERIFIED_DEVICE)
NOT_OURS = (WITHHOLD, W.UNAUTHORISED, R.NOT_OWN_USER)
NO_SECRET = (IGNORE, R.UNVERIFIED_DEVICE)

TABLE = {
    "this device": alike(IGNORE, None, R.UNREQUESTED, device_id="DESK"),
    "a device of oneself that is not known": alike(IGNORE, None, R.UNVERIFIED_DEVICE, device_id="NEW"),
    "a device of somebody that is not known": alike(IGNORE, None, R.UNVERIFIED_DEVICE, sender=ALICE, device_id="NEW"),
    "a user that is not known": alike(IGNORE, None, R.UNVERIFIED_DEVICE, sender=EVE.user_id),
    "oneself, of whom nothing is known": alike(IGNORE, None, R.UNVERIFIED_DEVICE, known={}),
    "a dehydrated device of oneself": alike(IGNORE, None, R.DEHYDRATED_SENDER, device_id="STORED"),
    "a dehydrated device of somebody": alike(IGNORE, None, R.DEHYDRATED_SENDER, sender=ALICE, device_id="STORED"),
    "a device of oneself without Olm": alike(IGNORE, None, R.MISSING_KEY, device_id="MUTE"),
    "a device of somebody without Olm": alike(IGNORE, None, R.MISSING_KEY, sender=ALICE, device_id="MUTE"),
    "a blocked device of oneself": alike(
        WITHHOLD, W.BLACKLISTED, R.UNTRUSTED_SENDER, device_id="BLOCKED", secret=NO_SECRET
    ),
    "a blocked device of somebody": alike(
        WITHHOLD,
        W.BLACKLISTED,
        R.UNTRUSTED_SENDER,
        sender=ALICE,
        device_id="BLOCKED",
        secret=(IGNORE, R.NOT_OWN_USER),
    ),
    "a verified device": alike(*GIVEN, from_first=True),
    "a device that was compared": alike(*GIVEN, device_id="COMPARED", from_first=True),
    "a device that is not signed": Row(device_id="PLAIN", not_given=NOT_VERIFIED, given=GIVEN, secret=NO_SECRET),
    "a device of an identity that nobody has confirmed": Row(
        known=UNSURE, not_given=NOT_VERIFIED, given=GIVEN, secret=NO_SECRET
    ),
    "a device of an identity that has changed": Row(
        known=CHANGED, not_given=NOT_VERIFIED, given=GIVEN, secret=NO_SECRET
    ),
    "a verified device, and one has the name of a key": Row(
        known=COLLIDING, not_given=NOT_VERIFIED, given=GIVEN, secret=(IGNORE, R.IDENTIFIER_COLLISION)
    ),
    "a device that was compared, and one has the name of a key": Row(
        device_id="COMPARED",
        known=COLLIDING,
        not_given=NOT_VERIFIED,
        given=GIVEN,
        secret=(IGNORE, R.IDENTIFIER_COLLISION),
    ),
    "a device that is not signed, and one has the name of a key": Row(
        device_id="PLAIN", known=COLLIDING, not_given=NOT_VERIFIED, given=GIVEN, secret=NO_SECRET
    ),
    "a verified device, and one of somebody else has the name of a key": alike(
        *GIVEN, known={**KNOWN, ALICE: COLLIDING[ALICE]}, from_first=True
    ),
    "a device of somebody who is verified": Row(
        sender=ALICE, not_given=NOT_OURS, given=GIVEN, secret=(IGNORE, R.NOT_OWN_USER)
    ),
    "a device of somebody that has the name of this one": Row(
        sender=ALICE, device_id="DESK", not_given=NOT_OURS, given=GIVEN, secret=(IGNORE, R.NOT_OWN_USER)
    ),
}
rows = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)


def summary(decision: SharingDecision) -> tuple[SharingVerdict, WithheldCode | None, Reason | None]:
    return decision.verdict, decision.code, decision.reason


def check_names(decision: SharingDecision, row: Row) -> None:
    assert (decision.request_id, decision.user_id, decision.device_id) == ("1", row.sender, row.device_id)
    assert decision.detail
    if decision.verdict in (SHARE, WITHHOLD):
        assert decision.device == row.known[row.sender].devices[row.device_id]
    else:
        assert decision.device is None
    assert (decision.reason is None) is (decision.verdict in (SHARE, CANCEL))


class TestRequestsForKeys:
    """Attack 61, from the other side: nobody gets a key by asking who would not have got it."""

    @rows
    def test_of_a_device_that_was_not_given_the_session(self, row: Row) -> None:
        decision = judge_key(key_request(row.sender, row.device_id), known=row.known)
        assert (summary(decision), decision.first_index) == (row.not_given, 0)
        check_names(decision, row)

    @rows
    def test_of_a_device_that_was_given_the_session(self, row: Row) -> None:
        decision = judge_key(key_request(row.sender, row.device_id), known=row.known, shared_from=3)
        index = 3 if row.given is GIVEN and not row.from_first else 0
        assert (summary(decision), decision.first_index) == (row.given, index)
        check_names(decision, row)

    @rows
    @pytest.mark.parametrize("shared_from", [None, 3])
    def test_for_a_session_that_is_not_there(self, row: Row, shared_from: int | None) -> None:
        """Only those who would get it are told that it is not there."""
        expected = row.not_given if shared_from is None else row.given
        if expected == GIVEN:
            expected = (WITHHOLD, W.UNAVAILABLE, R.MISSING_KEY)
        event = key_request(row.sender, row.device_id)
        decision = judge_key(event, known=row.known, has_session=False, shared_from=shared_from)
        assert (summary(decision), decision.first_index) == (expected, 0)
        check_names(decision, row)

    @rows
    @pytest.mark.parametrize("body", [..., {"algorithm": 5}])
    def test_that_are_taken_back(self, row: Row, body: Any) -> None:
        changed = (
            {"action": "request_cancellation"} if body is ... else {"action": "request_cancellation", "body": body}
        )
        event = key_request(row.sender, row.device_id, **changed)
        decision = judge_key(event, known=row.known, shared_from=3)
        assert summary(decision) == (CANCEL, None, None)
        check_names(decision, row)

    @pytest.mark.parametrize("index", [0, 1, MAX_MESSAGE_INDEX])
    def test_the_first_index_is_where_it_was_given(self, index: int) -> None:
        for sender, expected in ((ALICE, index), (ME, 0)):
            decision = judge_key(key_request(sender), shared_from=index)
            assert (decision.verdict, decision.first_index) == (SHARE, expected)

    def test_where_it_was_given_an_outbound_session_knows(self) -> None:
        outbound = OutboundSession(room_id=ROOM, session_id=GROUP.session_id, created_at=0, shared_history=False)
        device = KNOWN[ALICE].devices["GOOD"]
        assert outbound.share_with(device) is None
        outbound.start_sharing([device], message_index=5)
        share = outbound.share_with(device)
        assert share is not None
        assert judge_key(key_request(ALICE), shared_from=share.message_index).first_index == 5

    @pytest.mark.parametrize(
        ("event", "path", "reason"),
        [
            (secret_request(), "", R.INVALID_VALUE),
            (evolve(key_request(), type="m.room_key"), "", R.INVALID_VALUE),
            (key_request(body={}), "/body", R.MISSING_MEMBER),
            (key_request(action="x"), "/action", R.INVALID_VALUE),
            (key_request(requesting_device_id=5), "/requesting_device_id", R.WRONG_TYPE),
            (key_request(request_id=""), "/request_id", R.INVALID_VALUE),
            (
                key_request(body={"algorithm": "m.new", "room_id": ROOM, "session_id": "S"}),
                "/body/algorithm",
                R.UNSUPPORTED_ALGORITHM,
            ),
        ],
        ids=itertools.count(),
    )
    def test_that_are_none(self, event: ToDeviceEvent, path: str, reason: Reason) -> None:
        assert refusal(lambda: judge_key(event), RemoteProtocolError) == (path, reason)


class TestRequestsForSecrets:
    """Attack 61, from the other side: secrets are for one's own verified devices."""

    @rows
    def test_of_a_device(self, row: Row) -> None:
        decision = judge_secret(secret_request(row.sender, row.device_id), known=row.known)
        assert (decision.verdict, decision.reason) == row.secret
        assert (decision.code, decision.first_index) == (None, 0)
        check_names(decision, row)

    @rows
    def test_that_are_taken_back(self, row: Row) -> None:
        event = secret_request(row.sender, row.device_id, action="request_cancellation", name=5)
        decision = judge_secret(event, known=row.known)
        assert summary(decision) == (CANCEL, None, None)
        check_names(decision, row)

    @pytest.mark.parametrize(
        ("event", "path", "reason"),
        [
            (key_request(), "", R.INVALID_VALUE),
            (secret_request(name=None), "", R.MISSING_MEMBER),
            (secret_request(name=5), "/name", R.WRONG_TYPE),
            (secret_request(requesting_device_id=""), "/requesting_device_id", R.INVALID_IDENTIFIER),
        ],
        ids=itertools.count(),
    )
    def test_that_are_none(self, event: ToDeviceEvent, path: str, reason: Reason) -> None:
        assert refusal(lambda: judge_secret(event), RemoteProtocolError) == (path, reason)


WRONG_USER = {ME: KNOWN[ALICE]}
ARGUMENTS: dict[str, Any] = {"event": key_request(), "known": KNOWN, "own_user_id": ME, "own_device_id": "DESK"}
KEY_ARGUMENTS: dict[str, Any] = {**ARGUMENTS, "has_session": True, "shared_from": None}
SECRET_ARGUMENTS: dict[str, Any] = {**ARGUMENTS, "event": secret_request()}


class TestArguments:
    @pytest.mark.parametrize(
        ("judge", "good", "name", "taken"),
        [
            # A mapping without the user will do.
            *[
                (judge_key_request, KEY_ARGUMENTS, name, taken)
                for name, taken in {
                    "event": 0,
                    "known": 6,
                    "own_user_id": 0,
                    "own_device_id": 2,
                    "has_session": 1,
                    "shared_from": 2,
                }.items()
            ],
            *[
                (judge_secret_request, SECRET_ARGUMENTS, name, taken)
                for name, taken in {"event": 0, "known": 6, "own_user_id": 0, "own_device_id": 2}.items()
            ],
        ],
        ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
    )
    def test_nothing_foreign_comes_out(
        self, judge: Callable[..., SharingDecision], good: dict[str, Any], name: str, taken: int
    ) -> None:
        def with_value(value: Any) -> None:
            try:
                judge(**{**good, name: value})
            except E2EKeysError as error:
                found.add((type(error), error.path))
                raise

        found: set[Any] = set()
        assert judge(**good).verdict is SHARE
        assert only_own_errors(with_value) == len(ODD) - taken
        assert found == {(LocalProtocolError, f"/{name}")}

    @pytest.mark.parametrize(
        ("known", "path", "reason"),
        [
            (Hostile(), "/known", R.INVALID_VALUE),
            (HalfHostile(), "/known", R.INVALID_VALUE),
            (list(KNOWN.items()), "/known", R.WRONG_TYPE),
            ({ME: 5}, f"/known/{ME}", R.WRONG_TYPE),
            (WRONG_USER, f"/known/{ME}", R.USER_ID_MISMATCH),
        ],
        ids=itertools.count(),
    )
    def test_what_is_known_is_the_callers(self, known: Any, path: str, reason: Reason) -> None:
        for judge, event in ((judge_key, key_request()), (judge_secret, secret_request())):
            found = refusal(lambda judge=judge, event=event: judge(event, known=known), LocalProtocolError)
            assert found == (path, reason)

    def test_any_mapping_will_do_and_nobody_else_in_it_is_looked_at(self) -> None:
        users = Names({**KNOWN, "nobody": 5})
        assert judge_key(key_request(), known=users).verdict is SHARE
        assert judge_secret(secret_request(), known=users).verdict is SHARE

    @pytest.mark.parametrize("index", [-1, 2**32, 10**5000], ids=["-1", "2**32", "huge"])
    def test_an_index_has_32_bits(self, index: int) -> None:
        found = refusal(lambda: judge_key(key_request(), shared_from=index), LocalProtocolError)
        assert found == ("/shared_from", R.INVALID_VALUE)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("own_user_id", Text(ME)),
            ("own_device_id", Text("DESK")),
            ("has_session", 1),
            ("has_session", None),
            ("shared_from", True),
            ("shared_from", Number(3)),
        ],
    )
    def test_of_other_types(self, name: str, value: Any) -> None:
        found = refusal(lambda: judge_key_request(**{**KEY_ARGUMENTS, name: value}), LocalProtocolError)
        assert found == (f"/{name}", R.WRONG_TYPE)

    def test_what_is_wrong_with_them_goes_before_what_is_wrong_with_the_event(self) -> None:
        for judge, good in ((judge_key_request, KEY_ARGUMENTS), (judge_secret_request, SECRET_ARGUMENTS)):
            arguments: dict[str, Any] = {**good, "event": letter().received, "own_user_id": "me"}
            found = refusal(lambda judge=judge, given=arguments: judge(**given), LocalProtocolError)  # type: ignore[operator]
            assert found == ("/own_user_id", R.INVALID_IDENTIFIER)


def opened(event: ToDeviceEvent, recipient: Person, *, users: dict[str, KnownUser]) -> Any:
    """What a device makes of an event that was encrypted for it: a ratchet opens it, and every check is made."""
    content = open_olm_event(event, own=recipient.device)
    ciphertext = content.my_ciphertext(recipient.curve25519_key)
    sender_key = vodozemac.Curve25519PublicKey.from_base64(content.sender_key.to_base64())
    message = vodozemac.PreKeyMessage.from_base64(ciphertext.body)
    _, plaintext = recipient.account.create_inbound_session(sender_key, message)
    return check_olm_event(event, plaintext, own=recipient.device, known=users).require()


class TestOneConversation:
    def test_a_key_goes_from_one_device_to_another(self) -> None:
        """Alice has said something in a room before Bob had a desk: the desk gets the key of his tablet."""
        desk, tablet, laptop = (person(BOB_USER, name) for name in ("DESK", "TABLET", "LAPTOP"))
        bob = known(BOB_USER, *[one.signed_keys for one in (desk, tablet, laptop)], verified=True)
        own = bob[ME]
        group = Group()
        said = group.say("before there was a desk", sender=PHONE)
        kept = vodozemac.InboundGroupSession(vodozemac.SessionKey(group.first_key))

        asking = KeyRequests(own_user_id=ME, own_device_id="DESK")
        asked = asking.ask_for_key(ROOM, group.session_id, request_id="r1", own=own)
        assert asked is not None
        assert asked.device_ids == ("TABLET", "LAPTOP")
        asking = KeyRequests.from_json(json.loads(json.dumps(asking.to_json())))

        obj = {"type": asked.event_type, "sender": ME, "content": json.loads(json.dumps(asked.content.to_json()))}
        request = ToDeviceEvent.from_json(obj)
        decision = judge_key_request(
            request, known=bob, own_user_id=ME, own_device_id="TABLET", has_session=True, shared_from=None
        )
        assert decision.verdict is SHARE
        assert decision.device is not None
        assert decision.device == own.devices["DESK"]
        exported = kept.export_at(max(decision.first_index, kept.first_known_index))
        assert exported is not None
        content = ForwardedRoomKeyContent.build(
            room_id=ROOM,
            session_key=exported.to_base64(),
            sender_key=PHONE.curve25519_key,
            sender_claimed_ed25519_key=PHONE.ed25519_key,
        )
        payload = OlmPayload.build(
            event_type=content.event_type, content=content.to_json(), sender=tablet.device, recipient=decision.device
        )
        event = opened(sealed_event(tablet, desk, payload.encode()), desk, users=dict(bob))

        forward = asking.check_forward(event, own=own, session_id_of=lambda text: imported(text).session_id)
        taken = session_from_forward(forward, held=None)
        assert taken.action is RoomKeyAction.STORE
        assert taken.key is not None
        ratchet = imported(taken.key.text)
        decrypted = ratchet.decrypt(vodozemac.MegolmMessage.from_base64(said.content["ciphertext"]))
        assert json.loads(decrypted.plaintext)["content"]["body"] == "before there was a desk"

        settled = asking.settle_key(ROOM, group.session_id, by=forward.forwarder)
        assert settled is not None
        assert settled.messages == {
            ME: {"LAPTOP": RoomKeyRequestContent.build_cancellation(request_id="r1", requesting_device_id="DESK")}
        }
        cancellation = ToDeviceEvent(type=settled.event_type, sender=ME, content=settled.content.to_json())
        at_laptop = judge_key_request(
            cancellation, known=bob, own_user_id=ME, own_device_id="LAPTOP", has_session=True, shared_from=None
        )
        assert (at_laptop.verdict, at_laptop.request_id, at_laptop.device_id) == (CANCEL, "r1", "DESK")
        assert asking.keys == frozenset()


def imported(text: str) -> Any:
    return vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(text))
