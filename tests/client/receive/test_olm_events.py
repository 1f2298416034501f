"""What a decrypted Olm event is worth: every check, each alone and all at once, and everything that may be handed in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import vodozemac
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from client.receive.olm_people import (
    ALICE_USER,
    BOB,
    BOB_USER,
    BOBS_TABLET,
    EVE,
    EVE_USER,
    LAPTOP,
    PHONE,
    Letter,
    Person,
    known,
    learned,
    letter,
    person,
    sealed_event,
    signed_anew,
    without_keys,
)
from events.odd_values import Hostile, Names, only_own_errors
from json_strategies import safe_values
from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.client.receive.olm_events import check_olm_event, open_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent, OlmCheck, OlmJudgment
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.judgments import FailedCheck
from matrix_e2e_keys.events.olm_formats import OlmMessageType
from matrix_e2e_keys.events.payloads import OlmPayload
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.verifiers import LIBSODIUM

C, R = OlmCheck, Reason
SDK = "sender_device_keys"
MSC4147 = "org.matrix.msc4147.device_keys"

KNOWN = learned(known(ALICE_USER, PHONE.signed_keys, LAPTOP.signed_keys), BOB_USER, [BOB.signed_keys], verified=True)
NOBODY: Mapping[str, KnownUser] = {}
SHOWN = {"nobody is known": NOBODY, "the sender is known": KNOWN}


def checks(judgment: OlmJudgment) -> list[OlmCheck]:
    """The checks that failed; each once, in their order."""
    failed = [it.check for it in judgment.failed]
    assert (judgment.event is None) is bool(failed)
    assert failed == sorted(failed, key=list(OlmCheck).index)
    assert list(dict.fromkeys(failed)) == failed
    return failed


def one(judgment: OlmJudgment) -> tuple[OlmCheck, Reason, str]:
    """The only check that failed."""
    (failed,) = judgment.failed
    assert judgment.event is None
    assert failed.detail.isprintable()
    return failed.check, failed.reason, failed.path


def accepted(judgment: OlmJudgment) -> DecryptedOlmEvent:
    assert judgment.failed == ()
    assert judgment.event is not None
    return judgment.event


class TestAGoodEvent:
    def test_from_one_device_to_another(self) -> None:
        """A real message, through real ratchets, of both types."""
        alice, bob = person(ALICE_USER, "NEW"), person(BOB_USER, "OTHER")
        payload = letter(alice, bob, event_type="m.dummy", content={"a": [1]}).plaintext
        event = sealed_event(alice, bob, payload)
        mine = open_olm_event(event, own=bob.device).my_ciphertext(bob.curve25519_key)
        message = vodozemac.AnyOlmMessage.from_parts(int(mine.message_type), mine.message)
        session, plaintext = bob.account.create_inbound_session(alice.account.curve25519_key, message.to_pre_key())
        judgment = check_olm_event(event, plaintext, own=bob.device, known={})
        received = accepted(judgment)
        assert judgment.require() is received
        assert (received.type, received.content, received.extra) == ("m.dummy", {"a": [1]}, {})
        assert received.sender.user_id == ALICE_USER.user_id
        assert (received.sender.curve25519_key, received.sender.ed25519_key) == (
            alice.curve25519_key,
            alice.ed25519_key,
        )
        assert received.sender.device == alice.keys().verify()
        assert mine.pre_key_header is not None
        assert received.one_time_key == mine.pre_key_header.one_time_key

        answer = letter(bob, alice).plaintext
        kind, text = session.encrypt(answer).to_parts()
        assert kind == OlmMessageType.NORMAL
        event = ToDeviceEvent.from_json(
            {
                "type": "m.room.encrypted",
                "sender": bob.user_id,
                "content": {
                    "algorithm": OLM_V1,
                    "sender_key": bob.curve25519_key.to_base64(),
                    "ciphertext": {alice.curve25519_key.to_base64(): {"type": 1, "body": unpadded_base64.encode(text)}},
                },
            }
        )
        received = accepted(check_olm_event(event, answer, own=alice.device, known={}))
        assert received.one_time_key is None
        assert received.sender.user_id == BOB_USER.user_id

    def test_from_another_device_of_oneself(self) -> None:
        users = learned({}, BOB_USER, [BOB.signed_keys, BOBS_TABLET.signed_keys], verified=True)
        sender = accepted(letter(BOBS_TABLET).judged(known=users)).sender
        assert (sender.user_id, sender.trust) == (BOB_USER.user_id, SenderTrust.VERIFIED)

    def test_other_members_are_kept_and_have_no_meaning(self) -> None:
        it = letter()
        it.payload["sender_device"] = "LAPTOP"
        it.payload["room_id"] = 1.5
        it.payload["keys"]["curve25519"] = "x"
        it.payload["recipient_keys"]["other"] = None
        event = accepted(it.judged(known=KNOWN))
        assert event.extra == {"sender_device": "LAPTOP", "room_id": 1.5}
        assert event.sender.device is not None
        assert event.sender.device.device_id == "PHONE"

    def test_content_is_as_it_was_written(self) -> None:
        content = {"a": 1.5, "b": 2**60, "c": "\ud800", "d": {"e": [None, True]}}
        it = letter()
        it.payload["content"] = content
        plaintext = b'{"a":1.5,"b":1152921504606846976,"c":"\\ud800","d":{"e":[null,true]}}'
        plaintext = it.plaintext.replace(
            json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), plaintext
        )
        judgment = check_olm_event(it.received, plaintext, own=BOB.device, known={})
        assert accepted(judgment).content == content

    def test_nobody_can_change_it(self) -> None:
        it = letter(content={"a": [1]})
        it.payload["b"] = [2]
        event = accepted(it.judged())
        for members, name in ((event.content, "a"), (event.extra, "b")):
            members[name].append(3)
            assert members[name] in ([1], [2])
            changeable: Any = members
            with pytest.raises(TypeError):
                changeable[name] = 5

    def test_the_representation_shows_no_content(self) -> None:
        event = accepted(letter(content={"session_key": "SECRET"}).judged())
        assert repr(event) == ("<DecryptedOlmEvent 'm.dummy' of <OlmSender '@alice:a.example', 'PHONE', device-known>>")
        assert "SECRET" not in repr(letter(content={"session_key": "SECRET"}).judged())

    @pytest.mark.parametrize("plaintext", [bytes, bytearray])
    def test_bytes_of_either_kind(self, plaintext: Callable[[bytes], Any]) -> None:
        it = letter()
        given_bytes = plaintext(it.plaintext)
        accepted(check_olm_event(it.received, given_bytes, own=BOB.device, known={}))
        assert given_bytes == it.plaintext


# --------------------------------------------------------------------------------------------------------------
# One thing is wrong
# --------------------------------------------------------------------------------------------------------------


def put(value: Any, *at: str) -> Callable[[Letter], None]:
    """Put something into a place of the payload."""

    def change(it: Letter) -> None:
        tree = it.payload
        for name in at[:-1]:
            tree = tree[name]
        tree[at[-1]] = copy.deepcopy(value)

    return change


def drop(*at: str) -> Callable[[Letter], None]:
    """Take something out of the payload."""

    def change(it: Letter) -> None:
        tree = it.payload
        for name in at[:-1]:
            tree = tree[name]
        del tree[at[-1]]

    return change


def keys_of(obj: dict[str, Any], signer: Person, *, entity: str | None = None) -> Callable[[Letter], None]:
    """Send along device keys that were signed anew, by whom is told."""
    return put(signed_anew(obj, signer.signer, entity=entity), SDK)


def changed(**members: Any) -> dict[str, Any]:
    return {**PHONE.keys().to_json(), **members}


GHOST = person(ALICE_USER, "PHONE")
"""A device of the same name with other keys."""

TEXT = PHONE.ed25519_key.to_base64()
OTHER = EVE.ed25519_key.to_base64()
UNSIGNED = PHONE.keys().to_json()
BAD_SIGNATURE = copy.deepcopy(UNSIGNED)
BAD_SIGNATURE["signatures"][PHONE.user_id]["ed25519:PHONE"] = GHOST.keys().to_json()["signatures"][PHONE.user_id][
    "ed25519:PHONE"
]
BY_OTHERS = copy.deepcopy(PHONE.signed_keys.to_json())
del BY_OTHERS["signatures"][PHONE.user_id]["ed25519:PHONE"]

SINGLE: dict[str, tuple[Callable[[Letter], None], OlmCheck, Reason, str]] = {
    "sender: another": (put(EVE.user_id, "sender"), C.SENDER, R.SENDER_MISMATCH, "/sender"),
    "sender: other capitals": (put("@Alice:a.example", "sender"), C.SENDER, R.SENDER_MISMATCH, "/sender"),
    "sender: missing": (drop("sender"), C.SENDER, R.MISSING_MEMBER, ""),
    "sender: no user id": (put("alice", "sender"), C.SENDER, R.INVALID_IDENTIFIER, "/sender"),
    "sender: a number": (put(5, "sender"), C.SENDER, R.WRONG_TYPE, "/sender"),
    "sender: null": (put(None, "sender"), C.SENDER, R.WRONG_TYPE, "/sender"),
    "keys: missing": (drop("keys"), C.KEYS, R.MISSING_MEMBER, ""),
    "keys: empty": (put({}, "keys"), C.KEYS, R.MISSING_MEMBER, "/keys"),
    "keys: a list": (put([TEXT], "keys"), C.KEYS, R.WRONG_TYPE, "/keys"),
    "keys: a text": (put(TEXT, "keys"), C.KEYS, R.WRONG_TYPE, "/keys"),
    "keys.ed25519: null": (put(None, "keys", "ed25519"), C.KEYS, R.WRONG_TYPE, "/keys/ed25519"),
    "keys.ed25519: no base64": (put("!", "keys", "ed25519"), C.KEYS, R.INVALID_BASE64, "/keys/ed25519"),
    "keys.ed25519: short": (put("AAAA", "keys", "ed25519"), C.KEYS, R.WRONG_LENGTH, "/keys/ed25519"),
    "keys.ed25519: weak": (put("A" * 43, "keys", "ed25519"), C.KEYS, R.WEAK_KEY, "/keys/ed25519"),
    "recipient: another": (put(EVE.user_id, "recipient"), C.RECIPIENT, R.RECIPIENT_MISMATCH, "/recipient"),
    "recipient: the sender": (put(PHONE.user_id, "recipient"), C.RECIPIENT, R.RECIPIENT_MISMATCH, "/recipient"),
    "recipient: missing": (drop("recipient"), C.RECIPIENT, R.MISSING_MEMBER, ""),
    "recipient: several": (put([BOB.user_id], "recipient"), C.RECIPIENT, R.WRONG_TYPE, "/recipient"),
    "recipient: no user id": (put("", "recipient"), C.RECIPIENT, R.INVALID_IDENTIFIER, "/recipient"),
    "recipient_keys: of another device": (
        put(BOBS_TABLET.ed25519_key.to_base64(), "recipient_keys", "ed25519"),
        C.RECIPIENT_KEYS,
        R.RECIPIENT_KEY_MISMATCH,
        "/recipient_keys/ed25519",
    ),
    "recipient_keys: missing": (drop("recipient_keys"), C.RECIPIENT_KEYS, R.MISSING_MEMBER, ""),
    "recipient_keys: empty": (put({}, "recipient_keys"), C.RECIPIENT_KEYS, R.MISSING_MEMBER, "/recipient_keys"),
    "recipient_keys: null": (put(None, "recipient_keys"), C.RECIPIENT_KEYS, R.WRONG_TYPE, "/recipient_keys"),
    "recipient_keys: other algorithm": (
        put({"curve25519": BOB.curve25519_key.to_base64()}, "recipient_keys"),
        C.RECIPIENT_KEYS,
        R.MISSING_MEMBER,
        "/recipient_keys",
    ),
    "recipient_keys.ed25519: short": (
        put("AAAA", "recipient_keys", "ed25519"),
        C.RECIPIENT_KEYS,
        R.WRONG_LENGTH,
        "/recipient_keys/ed25519",
    ),
    "device keys: null": (put(None, SDK), C.DEVICE_KEYS, R.WRONG_TYPE, f"/{SDK}"),
    "device keys: a list": (put([UNSIGNED], SDK), C.DEVICE_KEYS, R.WRONG_TYPE, f"/{SDK}"),
    "device keys: empty": (put({}, SDK), C.DEVICE_KEYS, R.MISSING_MEMBER, f"/{SDK}/user_id"),
    "device keys: user_id missing": (drop(SDK, "user_id"), C.DEVICE_KEYS, R.MISSING_MEMBER, f"/{SDK}/user_id"),
    "device keys: user_id malformed": (
        put("alice", SDK, "user_id"),
        C.DEVICE_KEYS,
        R.INVALID_IDENTIFIER,
        f"/{SDK}/user_id",
    ),
    "device keys: ed25519 malformed": (
        put("AAAA", SDK, "keys", "ed25519:PHONE"),
        C.DEVICE_KEYS,
        R.WRONG_LENGTH,
        f"/{SDK}/keys/ed25519:PHONE",
    ),
    "device keys: curve25519 malformed": (
        put(None, SDK, "keys", "curve25519:PHONE"),
        C.DEVICE_KEYS,
        R.WRONG_TYPE,
        f"/{SDK}/keys/curve25519:PHONE",
    ),
    "device keys: signatures malformed": (
        put([], SDK, "signatures"),
        C.DEVICE_KEYS,
        R.WRONG_TYPE,
        f"/{SDK}/signatures",
    ),
    "device keys: of Eve, signed as hers": (
        keys_of(changed(user_id=EVE.user_id), PHONE),
        C.DEVICE_KEYS_USER,
        R.USER_ID_MISMATCH,
        f"/{SDK}/user_id",
    ),
    "device keys: another Olm identity key, signed": (
        put(PHONE.keys(curve25519_key=EVE.curve25519_key).to_json(), SDK),
        C.DEVICE_KEYS_CURVE25519,
        R.SENDER_KEY_MISMATCH,
        f"/{SDK}/keys/curve25519:PHONE",
    ),
    "device keys: no Olm identity key, signed": (
        keys_of(changed(keys={"ed25519:PHONE": TEXT}), PHONE),
        C.DEVICE_KEYS_CURVE25519,
        R.SENDER_KEY_MISMATCH,
        f"/{SDK}/keys/curve25519:PHONE",
    ),
    "device keys: another signing key, signed": (
        put(GHOST.keys(curve25519_key=PHONE.curve25519_key).to_json(), SDK),
        C.DEVICE_KEYS_ED25519,
        R.SENDER_KEY_MISMATCH,
        f"/{SDK}/keys/ed25519:PHONE",
    ),
    "device keys: another's signature": (
        put(BAD_SIGNATURE, SDK),
        C.DEVICE_KEYS_SIGNATURE,
        R.INVALID_SIGNATURE,
        f"/{SDK}/signatures/@alice:a.example/ed25519:PHONE",
    ),
    "device keys: changed after signing": (
        put("x", SDK, "more"),
        C.DEVICE_KEYS_SIGNATURE,
        R.INVALID_SIGNATURE,
        f"/{SDK}/signatures/@alice:a.example/ed25519:PHONE",
    ),
    "device keys: signature malformed": (
        put("!", SDK, "signatures", PHONE.user_id, "ed25519:PHONE"),
        C.DEVICE_KEYS_SIGNATURE,
        R.INVALID_SIGNATURE,
        f"/{SDK}/signatures/@alice:a.example/ed25519:PHONE",
    ),
    "device keys: not signed": (drop(SDK, "signatures"), C.DEVICE_KEYS_SIGNATURE, R.MISSING_SIGNATURE, f"/{SDK}"),
    "device keys: signed by the identity only": (
        put(BY_OTHERS, SDK),
        C.DEVICE_KEYS_SIGNATURE,
        R.MISSING_SIGNATURE,
        f"/{SDK}",
    ),
    "device keys: signed under another name": (
        keys_of(UNSIGNED, PHONE, entity=EVE.user_id),
        C.DEVICE_KEYS_SIGNATURE,
        R.MISSING_SIGNATURE,
        f"/{SDK}",
    ),
    "type: missing": (drop("type"), C.PLAINTEXT, R.MISSING_MEMBER, ""),
    "type: empty": (put("", "type"), C.PLAINTEXT, R.INVALID_VALUE, "/type"),
    "type: a number": (put(1, "type"), C.PLAINTEXT, R.WRONG_TYPE, "/type"),
    "content: missing": (drop("content"), C.PLAINTEXT, R.MISSING_MEMBER, ""),
    "content: null": (put(None, "content"), C.PLAINTEXT, R.WRONG_TYPE, "/content"),
    "content: a list": (put([], "content"), C.PLAINTEXT, R.WRONG_TYPE, "/content"),
    "content: what is no number": (put(float("nan"), "content", "a"), C.PLAINTEXT, R.NOT_AN_INTEGER, "/content/a"),
    "beside it: what is no number": (put([float("inf")], "b"), C.PLAINTEXT, R.NOT_AN_INTEGER, "/b/0"),
    "a state event": (put("", "state_key"), C.INSIDE, R.STATE_EVENT, "/state_key"),
    "a state event, malformed": (put(None, "state_key"), C.INSIDE, R.STATE_EVENT, "/state_key"),
    "encrypted once more": (put("m.room.encrypted", "type"), C.INSIDE, R.NESTED_ENCRYPTION, "/type"),
    "device keys under both names": (
        put(GHOST.keys().to_json(), MSC4147),
        C.DEVICE_KEYS,
        R.DUPLICATE_MEMBER,
        f"/{MSC4147}",
    ),
}

TWICE = {
    "keys.ed25519: another": (
        put(OTHER, "keys", "ed25519"),
        {C.DEVICE_KEYS_ED25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/ed25519:PHONE")},
        {C.KEYS: (R.SENDER_KEY_MISMATCH, "/keys/ed25519")},
    ),
    "keys.ed25519: of the other device": (
        put(LAPTOP.ed25519_key.to_base64(), "keys", "ed25519"),
        {C.DEVICE_KEYS_ED25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/ed25519:PHONE")},
        {C.KEYS: (R.SENDER_KEY_MISMATCH, "/keys/ed25519")},
    ),
    "device keys: of the other device": (
        put(LAPTOP.signed_keys.to_json(), SDK),
        {
            C.DEVICE_KEYS_CURVE25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/curve25519:LAPTOP"),
            C.DEVICE_KEYS_ED25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/ed25519:LAPTOP"),
        },
        {},
    ),
    "device keys: of Eve's device": (
        put(EVE.signed_keys.to_json(), SDK),
        {
            C.DEVICE_KEYS_USER: (R.USER_ID_MISMATCH, f"/{SDK}/user_id"),
            C.DEVICE_KEYS_CURVE25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/curve25519:PHONE"),
            C.DEVICE_KEYS_ED25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/ed25519:PHONE"),
        },
        {},
    ),
    "device keys: no signing key": (
        put(changed(keys={"curve25519:PHONE": PHONE.curve25519_key.to_base64()}), SDK),
        {
            C.DEVICE_KEYS_ED25519: (R.SENDER_KEY_MISMATCH, f"/{SDK}/keys/ed25519:PHONE"),
            C.DEVICE_KEYS_SIGNATURE: (R.MISSING_KEY, f"/{SDK}/keys"),
        },
        {},
    ),
}
"""What fails more than one check: the checks, and those that fail besides if the devices of the sender are known."""


class TestOneThingIsWrong:
    @pytest.mark.parametrize("users", SHOWN.values(), ids=SHOWN)
    @pytest.mark.parametrize(("change", "check", "reason", "path"), SINGLE.values(), ids=SINGLE)
    def test_exactly_its_check_fails(
        self,
        change: Callable[[Letter], None],
        check: OlmCheck,
        reason: Reason,
        path: str,
        users: Mapping[str, KnownUser],
    ) -> None:
        """Attack 57: every field alone, changed, missing or malformed; zero accepted."""
        it = letter()
        change(it)
        judgment = it.judged(known=users)
        assert one(judgment) == (check, reason, path)
        with pytest.raises(VerificationError) as caught:
            judgment.require()
        assert (caught.value.reason, caught.value.path) == (reason, path)

    @pytest.mark.parametrize(("change", "always", "besides"), TWICE.values(), ids=TWICE)
    def test_all_that_fail_are_named(
        self,
        change: Callable[[Letter], None],
        always: dict[OlmCheck, tuple[Reason, str]],
        besides: dict[OlmCheck, tuple[Reason, str]],
    ) -> None:
        """Attack 57."""
        it = letter()
        change(it)
        for users, expected in ((NOBODY, always), (KNOWN, {**always, **besides})):
            judgment = it.judged(known=users)
            checks(judgment)
            assert {failed.check: (failed.reason, failed.path) for failed in judgment.failed} == expected

    @pytest.mark.parametrize("users", SHOWN.values(), ids=SHOWN)
    def test_the_event_around_it_names_another_sender(self, users: Mapping[str, KnownUser]) -> None:
        """Attacks 38 and 57: the server says that Alice's message is Eve's."""
        it = letter()
        it.event["sender"] = EVE.user_id
        assert checks(it.judged(known=users)) == [C.SENDER, C.DEVICE_KEYS_USER]
        assert checks(without_keys(it).judged(known=users)) == [C.SENDER]

    def test_it_is_for_another_user_or_device(self) -> None:
        """Attack 57: Eve passes on what Alice has written to her."""
        it = letter(PHONE, EVE)
        judgment = it.judged()
        assert checks(judgment) == [C.ENVELOPE, C.RECIPIENT, C.RECIPIENT_KEYS]
        assert judgment.failed[0].reason is R.NOT_FOR_THIS_DEVICE
        assert checks(letter(PHONE, BOBS_TABLET).judged()) == [C.ENVELOPE, C.RECIPIENT_KEYS]

    def test_everything_at_once(self) -> None:
        """Attack 57: all that can fail together are reported, in order."""
        it = letter()
        it.event["content"]["ciphertext"] = {}
        it.event["sender"] = EVE.user_id
        it.payload |= {"recipient": EVE.user_id, "state_key": "", "type": "", "keys": {}}
        it.payload["recipient_keys"] = {"ed25519": TEXT}
        it.payload[SDK]["more"] = 1
        judgment = it.judged()
        assert checks(judgment) == [
            C.ENVELOPE,
            C.PLAINTEXT,
            C.SENDER,
            C.KEYS,
            C.RECIPIENT,
            C.RECIPIENT_KEYS,
            C.DEVICE_KEYS_USER,
            C.DEVICE_KEYS_SIGNATURE,
            C.INSIDE,
        ]
        with pytest.raises(VerificationError) as caught:
            judgment.require()
        assert (caught.value.reason, caught.value.path) == (R.NOT_FOR_THIS_DEVICE, "/ciphertext")

    def test_all_of_the_device_keys_at_once(self) -> None:
        """Attack 57."""
        it = letter()
        it.payload[SDK] = EVE.keys(device_id="X").to_json()
        it.payload[SDK]["signatures"] = {}
        assert checks(it.judged()) == [
            C.DEVICE_KEYS_USER,
            C.DEVICE_KEYS_CURVE25519,
            C.DEVICE_KEYS_ED25519,
            C.DEVICE_KEYS_SIGNATURE,
        ]

    @pytest.mark.parametrize(
        ("plaintext", "reason"),
        [
            (b"", R.NOT_JSON),
            (b"x", R.NOT_JSON),
            (b"\xff", R.NOT_UTF8),
            (b"[]", R.WRONG_TYPE),
            (b"null", R.WRONG_TYPE),
            (b"1.5", R.NOT_AN_INTEGER),
            (b"[" * 1000, R.NOT_JSON),
            (b"[" * 1000 + b"]" * 1000, R.WRONG_TYPE),
        ],
    )
    def test_a_plaintext_that_is_no_object(self, plaintext: bytes, reason: Reason) -> None:
        judgment = check_olm_event(letter().received, plaintext, own=BOB.device, known={})
        assert one(judgment) == (C.PLAINTEXT, reason, "")

    @pytest.mark.parametrize("name", ["type", "content", "sender", "recipient", "keys", "recipient_keys", SDK, "more"])
    def test_a_member_twice(self, name: str) -> None:
        """Attack 57: two readers could take different ones."""
        it = letter()
        it.payload["more"] = 1
        member = json.dumps({name: it.payload[name]})[1:-1].encode()
        plaintext = b"{" + member + b"," + it.plaintext[1:]
        judgment = check_olm_event(it.received, plaintext, own=BOB.device, known=KNOWN)
        assert [(failed.reason, failed.path) for failed in judgment.failed] == [(R.DUPLICATE_MEMBER, f"/{name}")]

    def test_a_sender_twice_in_what_was_signed(self) -> None:
        it = letter()
        plaintext = it.plaintext.replace(b'"user_id":', b'"user_id": "@eve:e.example", "user_id":')
        judgment = check_olm_event(it.received, plaintext, own=BOB.device, known=KNOWN)
        assert one(judgment) == (C.DEVICE_KEYS, R.DUPLICATE_MEMBER, f"/{SDK}/user_id")


class TestTheEnvelope:
    def test_megolm_is_refused(self) -> None:
        """Attack 56: whoever has the session of a room could speak to a device as its user."""
        group = vodozemac.GroupSession()
        content = {
            "algorithm": MEGOLM_V1,
            "session_id": group.session_id,
            "ciphertext": group.encrypt(b"{}").to_base64(),
            "sender_key": PHONE.curve25519_key.to_base64(),
        }
        self.refused(R.WRONG_ALGORITHM, "/algorithm", content)

    def test_the_algorithm_counts_and_not_the_shape(self) -> None:
        """Attack 56."""
        shape = letter().event["content"]
        self.refused(R.MISSING_MEMBER, "", {**shape, "algorithm": MEGOLM_V1})
        self.refused(
            R.WRONG_ALGORITHM, "/algorithm", {**MEGOLM, **shape, "algorithm": MEGOLM_V1, "ciphertext": MESSAGE}
        )
        self.refused(R.UNSUPPORTED_ALGORITHM, "/algorithm", {**shape, "algorithm": "m.olm.v2"})
        self.refused(R.WRONG_TYPE, "/algorithm", {**shape, "algorithm": None})
        self.refused(
            R.MISSING_MEMBER,
            "",
            {**MEGOLM, "algorithm": OLM_V1, "sender_key": shape["sender_key"]},
        )

    def refused(self, reason: Reason, path: str, content: dict[str, Any]) -> None:
        it = letter()
        it.event["content"] = content
        with pytest.raises(RemoteProtocolError) as caught:
            open_olm_event(it.received, own=BOB.device)
        assert (caught.value.reason, caught.value.path) == (reason, path)
        for users in SHOWN.values():
            assert one(it.judged(known=users)) == (C.ENVELOPE, reason, path)

    def test_an_event_in_the_open(self) -> None:
        """Attack 56: what was not encrypted does not become so by its content."""
        it = letter()
        it.event["type"] = "m.room_key"
        with pytest.raises(RemoteProtocolError) as caught:
            open_olm_event(it.received, own=BOB.device)
        assert caught.value.reason is R.NOT_ENCRYPTED
        assert one(it.judged(known=KNOWN)) == (C.ENVELOPE, R.NOT_ENCRYPTED, "")

    def test_the_pre_key_names_another_identity_key(self) -> None:
        """Attack 38: Eve, or the server, puts her key over Alice's message."""
        it = letter(keys=PHONE.keys())
        it.event["content"]["sender_key"] = EVE.curve25519_key.to_base64()
        assert one(without_keys(it).judged()) == (C.ENVELOPE, R.SENDER_KEY_MISMATCH, "/sender_key")
        with pytest.raises(RemoteProtocolError):
            open_olm_event(it.received, own=BOB.device)

    def test_what_stands_there_for_others_does_not_matter(self) -> None:
        """Attack 60."""
        it = letter()
        it.event["content"]["ciphertext"] |= {
            "x": 5,
            EVE.curve25519_key.to_base64(): {"type": True, "body": ""},
            "A" * 43: {"type": 0, "body": MESSAGE},
        }
        accepted(it.judged())

    def test_two_messages_for_this_device(self) -> None:
        """Attack 60: two readers could take different ones."""
        it = letter()
        mine = BOB.curve25519_key.to_base64()
        it.event["content"]["ciphertext"][mine + "="] = it.event["content"]["ciphertext"][mine]
        assert one(it.judged()) == (C.ENVELOPE, R.DUPLICATE_MEMBER, "/ciphertext")

    @pytest.mark.parametrize("entry", [None, 5, {}, {"type": True, "body": ""}, {"type": 1, "body": "AAAA"}])
    def test_what_stands_there_for_this_device_does(self, entry: Any) -> None:
        """Attack 60."""
        it = letter()
        it.event["content"]["ciphertext"][BOB.curve25519_key.to_base64()] = entry
        (failed,) = it.judged().failed
        assert failed.check is C.ENVELOPE
        assert failed.path.startswith("/ciphertext/")


MEGOLM = {"session_id": "x"}
MESSAGE = vodozemac.GroupSession().encrypt(b"{}").to_base64()


class TestWhoseKeysTheyAre:
    def test_eves_record_of_her_own_user(self) -> None:
        """Attack 38: Eve's device keys, validly signed, hold Alice's Olm identity key. Alice's event is not hers."""
        record = EVE.keys(curve25519_key=PHONE.curve25519_key, cross_signed_by=EVE_USER)
        users = learned(KNOWN, EVE_USER, [record], verified=True)
        it = letter()
        assert accepted(it.judged(known=users)).sender.user_id == ALICE_USER.user_id
        it.event["sender"] = EVE.user_id
        assert checks(it.judged(known=users)) == [C.SENDER, C.KEYS, C.DEVICE_KEYS_USER]
        assert checks(without_keys(it).judged(known=users)) == [C.SENDER, C.KEYS]

    def test_eve_writes_as_alice_with_her_own_session(self) -> None:
        """Attack 38: the server says that the event is Alice's, and so does the plaintext. The keys are Eve's."""
        it = letter(EVE)
        it.event["sender"] = it.payload["sender"] = ALICE_USER.user_id
        assert checks(it.judged(known=KNOWN)) == [C.DEVICE_KEYS_USER]
        it = without_keys(it)
        assert accepted(it.judged(known=KNOWN)).sender.trust is SenderTrust.UNKNOWN_DEVICE
        it.payload["keys"] = {"ed25519": PHONE.ed25519_key.to_base64()}
        assert one(it.judged(known=KNOWN)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")

    def test_a_second_device_of_the_same_user_by_the_server(self) -> None:
        """Attack 38: the server lists a device of Alice with the Olm identity key of her phone."""
        false = person(ALICE_USER, "FALSE")
        listed = false.keys(curve25519_key=PHONE.curve25519_key)
        both = known(ALICE_USER, listed, PHONE.signed_keys, verified=True)
        for it in (letter(), without_keys(letter())):
            sender = accepted(it.judged(known=both)).sender
            assert (sender.device, sender.trust) == (both[ALICE_USER.user_id].devices["PHONE"], SenderTrust.VERIFIED)
        alone = known(ALICE_USER, listed, verified=True)
        assert one(without_keys(letter()).judged(known=alone)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")
        sender = accepted(letter().judged(known=alone)).sender
        assert (sender.device, sender.trust) == (
            PHONE.signed_keys.verify(identity=_identity(alone)),
            SenderTrust.VERIFIED,
        )

    def test_the_claim_of_an_unsigned_device_against_that_of_another(self) -> None:
        """Attack 38: nobody's owner has signed either, so the one that the server lists is not thrown out."""
        false = person(ALICE_USER, "FALSE")
        users = known(ALICE_USER, false.keys(curve25519_key=PHONE.curve25519_key))
        assert one(letter(keys=PHONE.keys()).judged(known=users)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")
        users = known(ALICE_USER, false.keys(curve25519_key=PHONE.curve25519_key, cross_signed_by=ALICE_USER))
        assert one(letter().judged(known=users)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")

    def test_the_signing_key_of_another_device(self) -> None:
        """Attack 38: whoever has a session names a device that one trusts."""
        it = without_keys(letter(EVE))
        it.event["sender"] = it.payload["sender"] = ALICE_USER.user_id
        it.payload["keys"] = {"ed25519": TEXT}
        trusted = {ALICE_USER.user_id: KNOWN[ALICE_USER.user_id].with_trust(PHONE.ed25519_key, LocalTrust.VERIFIED)}
        assert one(it.judged(known=trusted)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")
        sender = accepted(it.judged()).sender
        assert (sender.trust, sender.device) == (SenderTrust.UNKNOWN_DEVICE, None)

    def test_under_the_name_of_another_device(self) -> None:
        """Attacks 35 and 38: the phone calls itself the laptop."""
        it = letter(keys=PHONE.keys(device_id="LAPTOP"))
        assert one(it.judged(known=KNOWN)) == (C.SENDER_DEVICE, R.SIGNING_KEY_CHANGED, "/keys/ed25519")

    def test_under_a_name_of_its_own_making(self) -> None:
        it = letter(keys=PHONE.keys(device_id="NEW"))
        assert one(it.judged(known=KNOWN)) == (C.SENDER_DEVICE, R.DEVICE_ID_MISMATCH, "/keys/ed25519")
        accepted(it.judged())

    def test_another_device_under_a_known_name(self) -> None:
        """Attack 34: the signing key of a known device does not change, whoever has signed the new one."""
        for keys in (GHOST.keys(), GHOST.signed_keys):
            it = letter(GHOST, keys=keys)
            assert one(it.judged(known=KNOWN)) == (C.SENDER_DEVICE, R.SIGNING_KEY_CHANGED, "/keys/ed25519")
            accepted(it.judged(known=known(ALICE_USER, LAPTOP.signed_keys)))

    def test_another_device_under_the_name_of_one_that_is_gone(self) -> None:
        """Its owner has logged in anew: taken, as it is in an answer to a query."""
        gone = learned(KNOWN, ALICE_USER, [LAPTOP.signed_keys])
        assert gone[ALICE_USER.user_id].removed_devices == {"PHONE": PHONE.ed25519_key}
        assert accepted(letter(GHOST).judged(known=gone)).sender.trust is SenderTrust.UNVERIFIED
        assert accepted(letter(GHOST, keys=GHOST.keys()).judged(known=gone)).sender.trust is SenderTrust.DEVICE_KNOWN

    def test_device_keys_of_before(self) -> None:
        """Attack 42: a signature has no date. Old device keys do not make a session with another key the device's."""
        new = PHONE.keys(curve25519_key=Curve25519PublicKey.from_base64(_fresh()), cross_signed_by=ALICE_USER)
        users = known(ALICE_USER, new)
        it = letter()
        assert accepted(it.judged(known=users)).sender.device == PHONE.signed_keys.verify(identity=_identity(users))
        assert one(without_keys(it).judged(known=users)) == (C.KEYS, R.SENDER_KEY_MISMATCH, "/keys/ed25519")
        it.payload[SDK] = new.to_json()
        assert checks(it.judged(known=users)) == [C.KEYS, C.DEVICE_KEYS_CURVE25519]

    def test_device_keys_signed_by_an_identity_of_before(self) -> None:
        """Attack 42: what a replaced identity has signed counts as not signed."""
        users = learned(KNOWN, evolve(ALICE_USER, generation=1), [LAPTOP.keys()])
        assert accepted(letter().judged(known=users)).sender.trust is SenderTrust.DEVICE_KNOWN

    @pytest.mark.parametrize(
        "wrong",
        [
            ALICE_USER.one_time_key("PHONE", "AAAAAQ").to_json(),
            ALICE_USER.master_key.to_json(),
            ALICE_USER.self_signing_key.to_json(),
            {**ALICE_USER.self_signing_key.to_json(), "device_id": "PHONE", "algorithms": []},
            {**UNSIGNED, "keys": ALICE_USER.self_signing_key.to_json()["keys"]},
        ],
    )
    def test_another_signed_object_in_their_place(self, wrong: Any) -> None:
        """Attack 43."""
        it = letter()
        it.payload[SDK] = wrong
        for users in SHOWN.values():
            assert set(checks(it.judged(known=users))) & {
                C.DEVICE_KEYS,
                C.DEVICE_KEYS_CURVE25519,
                C.DEVICE_KEYS_ED25519,
                C.DEVICE_KEYS_SIGNATURE,
            }

    def test_a_one_time_key_that_the_device_has_signed(self) -> None:
        """Attack 43: the signature of a one-time key is none over device keys."""
        one_time = signed_anew({"key": PHONE.curve25519_key.to_base64()}, PHONE.signer, entity=PHONE.user_id)
        it = letter()
        it.payload[SDK]["signatures"] = one_time["signatures"]
        assert one(it.judged())[:2] == (C.DEVICE_KEYS_SIGNATURE, R.INVALID_SIGNATURE)
        it.payload[SDK] = one_time
        assert one(it.judged())[0] is C.DEVICE_KEYS


def _fresh() -> str:
    return vodozemac.Account().curve25519_key.to_base64()


def _identity(users: Mapping[str, KnownUser]) -> Any:
    return users[ALICE_USER.user_id].identity


class TestThisDeviceItself:
    @pytest.mark.parametrize("users", SHOWN.values(), ids=SHOWN)
    def test_does_not_write_to_itself(self, users: Mapping[str, KnownUser]) -> None:
        """Attack 57: nobody else has its keys, so a server or a peer has played something back."""
        mirror = evolve(BOB, device_id="MIRROR")
        it = letter(PHONE, BOB)
        it.event = sealed_event(mirror, BOB, b"").to_json()
        it.payload = {**it.payload, "sender": BOB.user_id, "keys": it.payload["recipient_keys"]}
        for keys in (None, BOB.signed_keys, mirror.signed_keys):
            it.payload[SDK] = None if keys is None else keys.to_json()
            named = it if keys is not None else without_keys(it)
            assert one(named.judged(known=users)) == (C.SENDER_DEVICE, R.KEY_REUSED, "/keys/ed25519")

    @pytest.mark.parametrize("sender", [PHONE, BOBS_TABLET])
    def test_nobody_else_has_its_signing_key(self, sender: Person) -> None:
        """Attack 57: somebody names the recipient's own signing key as his."""
        it = without_keys(letter(sender))
        it.payload["keys"] = it.payload["recipient_keys"]
        assert one(it.judged()) == (C.SENDER_DEVICE, R.KEY_REUSED, "/keys/ed25519")

    def test_nobody_else_has_its_olm_identity_key(self) -> None:
        """Attack 38: another device has signed this device's Olm identity key as its own."""
        it = letter(BOBS_TABLET, keys=BOBS_TABLET.keys(curve25519_key=PHONE.curve25519_key))
        it.event = sealed_event(evolve(BOB, device_id="MIRROR"), BOB, b"").to_json()
        it.payload[SDK] = BOBS_TABLET.keys(curve25519_key=BOB.curve25519_key).to_json()
        for named in (it, without_keys(it)):
            assert one(named.judged()) == (C.SENDER_DEVICE, R.KEY_REUSED, "/keys/ed25519")

    def test_no_other_device_of_oneself_has_its_name(self) -> None:
        """Attack 35: the server lists this device with other keys, or does not list it at all."""
        double = person(BOB_USER, BOB.device_id)
        for users in (NOBODY, KNOWN, known(BOB_USER, double.signed_keys, verified=True)):
            judgment = letter(double).judged(known=users)
            assert one(judgment) == (C.SENDER_DEVICE, R.OWN_DEVICE_ALTERED, f"/{SDK}/device_id")

    def test_a_device_of_another_user_may(self) -> None:
        accepted(letter(person(ALICE_USER, BOB.device_id)).judged(known=KNOWN))


class TestDevicesThatOnlyReceive:
    DEHYDRATED = person(ALICE_USER, "DEHYDRATED")
    KEYS = DEHYDRATED.keys(cross_signed_by=ALICE_USER, extra={"dehydrated": True})

    @pytest.mark.parametrize("listed", [[], [KEYS]])
    def test_do_not_send(self, listed: list[DeviceKeys]) -> None:
        it = letter(self.DEHYDRATED, keys=self.KEYS)
        for users in ({}, known(ALICE_USER, *listed)):
            assert one(it.judged(known=users)) == (C.SENDER_DEVICE, R.DEHYDRATED_SENDER, "/keys/ed25519")

    def test_also_if_only_the_server_says_what_it_is(self) -> None:
        """Whoever has found the keys can sign device keys that do not say it; cross-sign them he cannot."""
        for keys in (self.KEYS, self.DEHYDRATED.keys(extra={"dehydrated": True})):
            users = known(ALICE_USER, keys)
            for device_id in ("DEHYDRATED", "NEW"):
                it = letter(self.DEHYDRATED, keys=self.DEHYDRATED.keys(device_id=device_id))
                assert one(it.judged(known=users)) == (C.SENDER_DEVICE, R.DEHYDRATED_SENDER, "/keys/ed25519")
                assert one(without_keys(it).judged(known=users))[1] is R.DEHYDRATED_SENDER
        other = person(ALICE_USER, "NEW")
        stolen = letter(self.DEHYDRATED, keys=other.keys(curve25519_key=self.DEHYDRATED.curve25519_key))
        stolen.payload["keys"] = {"ed25519": other.ed25519_key.to_base64()}
        assert one(stolen.judged(known=known(ALICE_USER, self.KEYS)))[:2] == (C.KEYS, R.SENDER_KEY_MISMATCH)

    @pytest.mark.parametrize("value", [False, None, "true", 1])
    def test_only_true_says_it(self, value: Any) -> None:
        keys = self.DEHYDRATED.keys(extra={"dehydrated": value})
        accepted(letter(self.DEHYDRATED, keys=keys).judged(known=known(ALICE_USER, keys)))


class TestDeviceKeysThatMayBeMissing:
    @pytest.mark.parametrize("event_type", ["m.room_key", "m.dummy", "m.secret.send"])
    def test_older_clients_do_not_send_them(self, event_type: str) -> None:
        it = without_keys(letter(event_type=event_type))
        unknown = accepted(it.judged()).sender
        assert (unknown.trust, unknown.device) == (SenderTrust.UNKNOWN_DEVICE, None)
        sender = accepted(it.judged(known=KNOWN)).sender
        assert sender.device == KNOWN[ALICE_USER.user_id].devices["PHONE"]

    def test_a_key_bundle_needs_them(self) -> None:
        it = letter(event_type="m.room_key_bundle")
        accepted(it.judged())
        assert one(without_keys(it).judged(known=KNOWN)) == (C.DEVICE_KEYS, R.MISSING_MEMBER, "")

    def test_under_the_name_they_had_before(self) -> None:
        it = letter(event_type="m.room_key_bundle")
        good = it.payload.pop(SDK)
        it.payload[MSC4147] = good
        event = accepted(it.judged())
        assert event.sender.device == PHONE.keys().verify()
        assert event.extra == {}
        it.payload[MSC4147] = {**good, "more": 1}
        assert one(it.judged())[0] is C.DEVICE_KEYS_SIGNATURE

    def test_under_both_names(self) -> None:
        """They have to be the same: two readers could take different ones."""
        it = letter()
        it.payload[MSC4147] = copy.deepcopy(it.payload[SDK])
        assert accepted(it.judged()).extra == {}
        it.payload[SDK]["more"] = 1
        assert checks(it.judged()) == [C.DEVICE_KEYS, C.DEVICE_KEYS_SIGNATURE]
        it.payload[MSC4147] = None
        assert checks(it.judged()) == [C.DEVICE_KEYS, C.DEVICE_KEYS_SIGNATURE]

    def test_what_the_server_would_add_has_no_meaning(self) -> None:
        it = letter()
        it.payload[SDK]["unsigned"] = {"device_display_name": 1.5}
        accepted(it.judged())


# --------------------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------------------


class TestResults:
    def test_have_no_truth_value(self) -> None:
        for judgment in (letter().judged(), letter(PHONE, EVE).judged()):
            with pytest.raises(LocalProtocolError):
                bool(judgment)

    def test_cannot_be_forged(self) -> None:
        event = accepted(letter().judged())
        forgeries: list[Callable[[], object]] = [
            lambda: evolve(event, type="m.room_key"),
            lambda: DecryptedOlmEvent("m.room_key", {}, event.sender, None, {}),
            lambda: event.__init__("m.room_key", {}, event.sender, None, {}),  # type: ignore[misc]
            lambda: type("Mine", (DecryptedOlmEvent,), {}),
        ]
        for forge in forgeries:
            with pytest.raises(LocalProtocolError):
                forge()
        assert event.type == "m.dummy"

    def test_a_judgment_says_one_thing(self) -> None:
        good = letter().judged()
        failed = letter(PHONE, EVE).judged().failed
        assert OlmJudgment(event=good.event) == good
        for event, checks_of in (
            (None, ()),
            (good.event, failed),
            (object(), ()),
            (None, list(failed)),
            (None, ("sender",)),
            (good.event, None),
        ):
            with pytest.raises(LocalProtocolError):
                OlmJudgment(event=event, failed=checks_of)  # type: ignore[arg-type]

    def test_checks_have_stable_names(self) -> None:
        assert [str(check) for check in OlmCheck] == [
            "envelope",
            "plaintext",
            "sender",
            "keys",
            "recipient",
            "recipient-keys",
            "sender-device-keys",
            "sender-device-keys-user",
            "sender-device-keys-curve25519",
            "sender-device-keys-ed25519",
            "sender-device-keys-signature",
            "sender-device",
            "inside",
        ]


# --------------------------------------------------------------------------------------------------------------
# Whatever is handed in
# --------------------------------------------------------------------------------------------------------------


class _Raising:
    def verify_many(self, questions: Any, /) -> Any:
        raise ZeroDivisionError


class _Silent:
    def verify_many(self, questions: Any, /) -> Any:
        return []


class _No:
    def verify_many(self, questions: Any, /) -> Any:
        return [False for _ in questions]


class _Bytes(bytes):
    def __bytes__(self) -> bytes:
        raise ValueError


class TestArguments:
    def test_of_other_types(self) -> None:
        it = letter()
        good: dict[str, Any] = {
            "event": it.received,
            "plaintext": it.plaintext,
            "own": BOB.device,
            "known": KNOWN,
            "verifier": LIBSODIUM,
        }
        for name in good:

            def call(value: Any, name: str = name) -> object:
                values = {**good, name: value}
                return check_olm_event(values.pop("event"), values.pop("plaintext"), **values)

            assert only_own_errors(call) > 25
        for name in ("event", "own"):

            def open_it(value: Any, name: str = name) -> object:
                values = {"event": it.received, "own": BOB.device, name: value}
                return open_olm_event(values["event"], own=values["own"])

            assert only_own_errors(open_it) > 30

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("event", OlmPayload, R.WRONG_TYPE),
            ("plaintext", "{}", R.WRONG_TYPE),
            ("plaintext", _Bytes(b"{}"), R.WRONG_TYPE),
            ("plaintext", memoryview(b"{}"), R.WRONG_TYPE),
            ("own", BOB.signed_keys, R.WRONG_TYPE),
            ("own", BOB_USER, R.WRONG_TYPE),
            ("known", [], R.WRONG_TYPE),
            ("known", Hostile(), R.INVALID_VALUE),
            ("known", {PHONE.user_id: 5}, R.WRONG_TYPE),
            ("known", {PHONE.user_id: KNOWN[BOB.user_id]}, R.USER_ID_MISMATCH),
            ("verifier", 5, R.WRONG_TYPE),
            ("verifier", _Raising(), R.INVALID_VALUE),
            ("verifier", _Silent(), R.INVALID_VALUE),
        ],
    )
    def test_say_where(self, name: str, value: Any, reason: Reason) -> None:
        it = letter()
        values = {
            "event": it.received,
            "plaintext": it.plaintext,
            "own": BOB.device,
            "known": {},
            "verifier": LIBSODIUM,
        }
        values[name] = value
        with pytest.raises(LocalProtocolError) as caught:
            check_olm_event(values.pop("event"), values.pop("plaintext"), **values)
        assert caught.value.reason is reason
        assert caught.value.path.startswith(f"/{name}") or type(value) is _Silent

    def test_a_mapping_of_any_class(self) -> None:
        assert accepted(letter().judged(known=Names(KNOWN))).sender.trust is SenderTrust.UNVERIFIED

    def test_the_verifier_is_asked(self) -> None:
        assert one(letter().judged(verifier=_No())) == (
            C.DEVICE_KEYS_SIGNATURE,
            R.INVALID_SIGNATURE,
            f"/{SDK}/signatures/@alice:a.example/ed25519:PHONE",
        )

    def test_a_device_without_an_olm_identity_key_receives_nothing(self) -> None:
        obj = BOB.keys().to_json()
        del obj["keys"]["curve25519:DESK"]  # type: ignore[union-attr, arg-type]
        own = DeviceKeys.from_json(signed_anew(obj, BOB.signer)).verify()
        with pytest.raises(LocalProtocolError) as caught:
            open_olm_event(letter().received, own=own)
        assert (caught.value.reason, caught.value.path) == (R.MISSING_KEY, "/own")

    def test_nothing_is_changed(self) -> None:
        it = letter()
        event, plaintext, users = it.received, bytearray(it.plaintext), dict(KNOWN)
        check_olm_event(event, plaintext, own=BOB.device, known=users)  # type: ignore[arg-type]
        assert (event, plaintext, users) == (it.received, it.plaintext, KNOWN)

    @given(st.binary(max_size=40) | st.sampled_from([b"{}", b'{"type":', b'{"keys":[]}', b'{"sender_device_keys":{}}']))
    def test_any_plaintext(self, plaintext: bytes) -> None:
        judgment = check_olm_event(PLAIN.received, plaintext, own=BOB.device, known=KNOWN)
        assert judgment.event is None
        assert judgment.failed


PLAIN = letter(content={"a": {"b": [1, 2]}, "c": "d"})
PLAIN.payload["other"] = {"x": [1]}
VALID = accepted(PLAIN.judged(known=KNOWN))


def places(tree: Any, *above: str | int) -> list[tuple[str | int, ...]]:
    """Every place in a tree."""
    listed: list[tuple[str | int, ...]] = []
    for name, member in tree.items() if isinstance(tree, dict) else enumerate(tree):
        listed.append((*above, name))
        if isinstance(member, dict | list):
            listed += places(member, *above, name)
    return listed


PLACES = places(PLAIN.payload)


def mutated(at: tuple[str | int, ...], value: Any) -> Letter:
    it = copy.deepcopy(PLAIN)
    tree: Any = it.payload
    for name in at[:-1]:
        tree = tree[name]
    tree[at[-1]] = value
    return it


def never_another_meaning(at: tuple[str | int, ...], value: Any) -> None:
    for users in SHOWN.values():
        event = mutated(at, value).judged(known=users).event
        if event is None:
            continue
        assert event.sender.user_id == VALID.sender.user_id
        assert event.sender.is_the_same_device_as(VALID.sender)
        assert event.sender.trust <= VALID.sender.trust
        assert event.sender.device == VALID.sender.device or event.sender.trust is SenderTrust.DEVICE_KNOWN
        assert event.sender.device is not None
        assert event.sender.device.keys == PHONE.keys()
        if at[0] != "type":
            assert event.type == VALID.type
        if at[0] != "content":
            assert event.content == VALID.content
        if at[0] != "other":
            assert event.extra == VALID.extra


@given(st.sampled_from(PLACES), safe_values | st.sampled_from([TEXT, OTHER, BOB.user_id, EVE.user_id, UNSIGNED]))
def test_a_mutated_payload_never_means_something_else(at: tuple[str | int, ...], value: Any) -> None:
    """Attack 57: any member, at any depth, becomes anything."""
    never_another_meaning(at, value)


def test_no_place_is_forgotten() -> None:
    """Attack 57: every member, at any depth, becomes the simplest things there are."""
    for at in PLACES:
        for value in (None, [], {}, "", 0, TEXT, EVE.user_id):
            never_another_meaning(at, value)


def test_every_member_is_needed() -> None:
    """Attack 57: without any member of those that the specification names, but the device keys, nothing is accepted."""
    for at in PLACES:
        if at[0] in ("content", "other", "type") or at == (SDK,):
            continue
        it = copy.deepcopy(PLAIN)
        tree: Any = it.payload
        for name in at[:-1]:
            tree = tree[name]
        del tree[at[-1]]
        event = it.judged().event
        by_identity = at[:2] == (SDK, "signatures") and "ed25519:PHONE" not in at and len(at) == 4
        assert (event is not None) is by_identity, at


@given(st.data())
def test_any_event(data: st.DataObject) -> None:
    """Whatever a server puts around the message: no foreign exception, and nobody else's name on it."""
    it = copy.deepcopy(PLAIN)
    at = data.draw(st.sampled_from(places(it.event)))
    tree: Any = it.event
    for name in at[:-1]:
        tree = tree[name]
    tree[at[-1]] = data.draw(safe_values | st.sampled_from([EVE.user_id, OLM_V1, MEGOLM_V1, 0, 1]))
    try:
        event = it.judged(known=KNOWN).event
    except E2EKeysError:
        return
    assert event is None or event.sender.is_the_same_device_as(VALID.sender)


def test_failed_checks_are_values() -> None:
    failed = FailedCheck(check=C.SENDER, reason=R.SENDER_MISMATCH, detail="x", path="/sender")
    assert failed == evolve(failed)
    assert parse_user_id(PHONE.user_id) == VALID.sender.user_id
