"""What is inside of the encryption: built, written, encrypted by vodozemac, and read."""

from __future__ import annotations

import json
from typing import Any

import pytest
import vodozemac
from attrs import evolve
from hypothesis import given

from events.odd_values import HalfHostile, Hostile, Names, Text, error_of, only_own_errors, refusal
from events.vodozemac_world import curve25519_of, ed25519_of, olm_message, olm_talk, sealed_by
from json_strategies import modest, wild_values
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.encrypted import ENCRYPTED
from matrix_e2e_keys.events.payloads import (
    MSC4147_DEVICE_KEYS,
    SENDER_DEVICE_KEYS,
    MegolmPayload,
    OlmPayload,
    sent_along,
    signing_keys_member,
)
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.signing.signers import VodozemacSigner, sign_json
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

R = Reason
ALICE, BOB = SampleUser("@alice:a.example"), SampleUser("@bob:b.example")
PHONE, LAPTOP = ALICE.device("PHONE").verify(), BOB.device("LAPTOP").verify()
ROOM = "!r:a.example"


def payload(**arguments: Any) -> OlmPayload:
    good: dict[str, Any] = {"event_type": "m.dummy", "content": {}, "sender": PHONE, "recipient": LAPTOP}
    return OlmPayload.build(**{**good, **arguments})


def plain(**members: Any) -> dict[str, Any]:
    """A plaintext as other clients write it: without device keys."""
    return {
        "type": "m.dummy",
        "content": {"a": 1},
        "sender": ALICE.user_id,
        "recipient": BOB.user_id,
        "recipient_keys": {"ed25519": LAPTOP.ed25519_key.to_base64()},
        "keys": {"ed25519": PHONE.ed25519_key.to_base64()},
        **members,
    }


def reading(document: Any) -> tuple[str, Reason]:
    text = json.dumps(document) if type(document) is dict else document
    return refusal(lambda: OlmPayload.from_bytes(text), RemoteProtocolError)


class TestOlm:
    def test_through_a_real_session(self) -> None:
        talk = olm_talk()
        devices: list[VerifiedDevice] = []
        for user_id, account in (("@alice:a.example", talk.alice), ("@bob:b.example", talk.bob)):
            signer = VodozemacSigner.of(account, "D")
            keys = DeviceKeys.build(
                user_id=user_id, device_id="D", curve25519_key=curve25519_of(account), signer=signer
            )
            devices.append(keys.verify())
        alice, bob = vodozemac.Account(), talk.bob
        bob.generate_one_time_keys(1)
        (one_time_key, *_) = bob.one_time_keys.values()
        session = alice.create_outbound_session(bob.curve25519_key, one_time_key)
        sent = OlmPayload.build(
            event_type="m.room_key", content={"a": "ü"}, sender=devices[0], recipient=devices[1], extra={"x": 1}
        )
        message = vodozemac.PreKeyMessage.from_base64(sealed_by(session, sent.encode()).body)
        _, plaintext = bob.create_inbound_session(alice.curve25519_key, message)
        arrived = OlmPayload.from_bytes(plaintext)
        assert arrived == sent
        assert (arrived.type, arrived.content, arrived.extra) == ("m.room_key", {"a": "ü"}, {"x": 1})
        assert (arrived.sender, arrived.recipient) == ("@alice:a.example", "@bob:b.example")
        assert (arrived.keys, arrived.recipient_keys) == (ed25519_of(talk.alice), ed25519_of(talk.bob))
        assert arrived.sender_device_keys == devices[0].keys
        assert olm_message(talk.pre_key).to_parts()[0] == 0

    def test_what_is_written_is_what_the_specification_shows(self) -> None:
        built = payload(content={"a": 1})
        assert json.loads(built.encode()) == {**plain(), SENDER_DEVICE_KEYS: PHONE.keys.to_json()}
        assert built.encode() == encode_canonical_json(built.to_json())

    def test_without_device_keys(self) -> None:
        read = OlmPayload.from_bytes(json.dumps(plain()))
        assert read.sender_device_keys is None
        assert json.loads(read.encode()) == plain()
        assert read == evolve(payload(content={"a": 1}), sender_device_keys=None)

    def test_everything_comes_back(self) -> None:
        obj = plain(**{"org.matrix.msgid": "x", "sender_device": "PHONE"})
        read = OlmPayload.from_bytes(json.dumps(obj))
        assert read.extra == {"org.matrix.msgid": "x", "sender_device": "PHONE"}
        assert OlmPayload.from_bytes(read.encode()) == read

    def test_keys_of_other_algorithms_are_passed_over(self) -> None:
        obj = plain(keys={"ed25519": PHONE.ed25519_key.to_base64(), "curve25519": 5})
        read = OlmPayload.from_bytes(json.dumps(obj))
        assert read.keys == PHONE.ed25519_key
        assert read.to_json()["keys"] == {"ed25519": PHONE.ed25519_key.to_base64()}

    def test_the_older_name_of_the_device_keys(self) -> None:
        keys = PHONE.keys.to_json()
        read = OlmPayload.from_bytes(json.dumps(plain(**{MSC4147_DEVICE_KEYS: keys})))
        assert read.sender_device_keys == PHONE.keys
        assert read.extra == {}
        other = ALICE.device("OTHER").to_json()
        both = {MSC4147_DEVICE_KEYS: other, SENDER_DEVICE_KEYS: keys}
        assert OlmPayload.from_bytes(json.dumps(plain(**both))).sender_device_keys == PHONE.keys
        assert reading(plain(**{MSC4147_DEVICE_KEYS: other, SENDER_DEVICE_KEYS: None}))[0] == "/" + SENDER_DEVICE_KEYS
        assert reading(plain(**{MSC4147_DEVICE_KEYS: 5})) == ("/" + SENDER_DEVICE_KEYS, R.WRONG_TYPE)

    def test_what_the_server_added_to_the_device_is_not_sent(self) -> None:
        obj = {**PHONE.keys.to_json(), "unsigned": {"device_display_name": "x"}}
        sent = payload(sender=DeviceKeys.from_json(obj).verify()).to_json()[SENDER_DEVICE_KEYS]
        assert sent == PHONE.keys.to_json()
        assert sent_along(PHONE).to_json() == PHONE.keys.to_json()
        signed = sign_json(PHONE.keys.to_json(), entity="a.example", signer=sample_secret_key("a").signer("ed25519:1"))
        assert sent_along(DeviceKeys.from_json(signed).verify()).to_json() == PHONE.keys.to_json()

    def test_nothing_but_signatures_goes_along(self) -> None:
        """A server could otherwise mark what a device says, or make it unspeakable."""
        obj = PHONE.keys.to_json()
        good = obj["signatures"][ALICE.user_id]
        padded = next(iter(good.values())) + "=="
        tags = {"tracker": "id", "ed25519:tracker": "id", "ed25519:\ud800": padded, "ed25519:OTHER": padded}
        marked = DeviceKeys.from_json({**obj, "signatures": {ALICE.user_id: {**good, **tags}, "@x:y": dict(good)}})
        unseen = sent_along(marked.verify()).to_json()["signatures"]
        assert unseen == {ALICE.user_id: {**good, "ed25519:OTHER": padded}}
        identity = UserIdentity.verify(
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
            user_signing_key=ALICE.user_signing_key,
        )
        device = marked.verify(identity=identity)
        assert device.is_cross_signed
        assert sent_along(device).to_json()["signatures"] == {ALICE.user_id: good}
        assert len(good) == 2

    def test_a_device_that_has_the_key_and_names_no_algorithm(self) -> None:
        obj = {**PHONE.keys.to_json(), "algorithms": []}
        mute = DeviceKeys.from_json(
            sign_json({**obj, "signatures": {}}, entity=ALICE.user_id, signer=ALICE.device_signer(PHONE.device_id))
        ).verify()
        assert refusal(lambda: payload(sender=mute), LocalProtocolError) == ("/sender", R.MISSING_KEY)
        assert refusal(lambda: payload(recipient=mute), LocalProtocolError) == ("/recipient", R.MISSING_KEY)

    def test_device_keys_have_one_name(self) -> None:
        extra = {MSC4147_DEVICE_KEYS: PHONE.keys.to_json()}
        assert refusal(lambda: payload(extra=extra), LocalProtocolError) == (
            f"/extra/{MSC4147_DEVICE_KEYS}",
            R.INVALID_VALUE,
        )

    def test_what_is_no_device_does_not_go_along(self) -> None:
        assert refusal(lambda: sent_along(PHONE.keys), LocalProtocolError) == (  # type: ignore[arg-type]
            "/device",
            R.WRONG_TYPE,
        )

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"type": ""}, "/type", R.INVALID_VALUE),
            ({"type": None}, "/type", R.WRONG_TYPE),
            ({"content": None}, "/content", R.WRONG_TYPE),
            ({"content": []}, "/content", R.WRONG_TYPE),
            ({"sender": None}, "/sender", R.WRONG_TYPE),
            ({"sender": "alice"}, "/sender", R.INVALID_IDENTIFIER),
            ({"recipient": ["@bob:b.example"]}, "/recipient", R.WRONG_TYPE),
            ({"recipient": ""}, "/recipient", R.INVALID_IDENTIFIER),
            ({"keys": None}, "/keys", R.WRONG_TYPE),
            ({"keys": "x"}, "/keys", R.WRONG_TYPE),
            ({"keys": {}}, "/keys", R.MISSING_MEMBER),
            ({"keys": {"ed25519": None}}, "/keys/ed25519", R.WRONG_TYPE),
            ({"keys": {"ed25519": "x"}}, "/keys/ed25519", R.INVALID_BASE64),
            ({"keys": {"ed25519": "A" * 43}}, "/keys/ed25519", R.WEAK_KEY),
            ({"recipient_keys": {"ed25519": "AAAA"}}, "/recipient_keys/ed25519", R.WRONG_LENGTH),
            ({"recipient_keys": []}, "/recipient_keys", R.WRONG_TYPE),
            ({SENDER_DEVICE_KEYS: None}, "/sender_device_keys", R.WRONG_TYPE),
            ({SENDER_DEVICE_KEYS: {}}, "/sender_device_keys/user_id", R.MISSING_MEMBER),
            ({SENDER_DEVICE_KEYS: {**PHONE.keys.to_json(), "keys": 5}}, "/sender_device_keys/keys", R.WRONG_TYPE),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        assert reading(plain(**members)) == (path, reason)

    @pytest.mark.parametrize("name", plain())
    def test_what_is_missing(self, name: str) -> None:
        obj = plain()
        del obj[name]
        assert reading(obj) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize("name", plain())
    def test_what_stands_twice(self, name: str) -> None:
        """Two readers could take different ones."""
        text = json.dumps(plain())
        assert reading(f'{text[:-1]}, "{name}": {json.dumps(plain()[name])}}}') == (f"/{name}", R.DUPLICATE_MEMBER)

    def test_what_stands_twice_deeper(self) -> None:
        text = json.dumps(plain())
        key = PHONE.ed25519_key.to_base64()
        twice = text.replace(f'"{key}"', f'"{key}", "ed25519": "{key}"')
        assert reading(twice) == ("/keys/ed25519", R.DUPLICATE_MEMBER)
        assert reading(text.replace('"a": 1', '"a": 1, "a": 1')) == ("/content/a", R.DUPLICATE_MEMBER)
        keys = json.dumps(plain(**{SENDER_DEVICE_KEYS: PHONE.keys.to_json()}))
        twice = keys.replace('"device_id":', '"device_id": "PHONE", "device_id":')
        path, reason = reading(twice)
        assert (path, reason) == ("/sender_device_keys/device_id", R.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("document", "reason"),
        [
            ("", R.NOT_JSON),
            ("{", R.NOT_JSON),
            ("[]", R.WRONG_TYPE),
            ("null", R.WRONG_TYPE),
            (b"\xff", R.NOT_UTF8),
            (b"\x00" * 5, R.NOT_JSON),
            ("[" * 2000, R.TOO_DEEP),
            ("NaN", R.NOT_AN_INTEGER),
        ],
    )
    def test_what_is_no_event(self, document: Any, reason: Reason) -> None:
        assert reading(document) == ("", reason)
        assert refusal(lambda: MegolmPayload.from_bytes(document), RemoteProtocolError) == ("", reason)

    def test_every_truncation(self) -> None:
        whole = json.dumps(plain()).encode()
        for length in range(len(whole)):
            with pytest.raises(RemoteProtocolError):
                OlmPayload.from_bytes(whole[:length])

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"event_type": ""}, "/event_type", R.INVALID_VALUE),
            ({"event_type": None}, "/event_type", R.WRONG_TYPE),
            ({"event_type": Text("m.dummy")}, "/event_type", R.WRONG_TYPE),
            ({"event_type": Hostile()}, "/event_type", R.WRONG_TYPE),
            ({"event_type": ENCRYPTED}, "/event_type", R.NESTED_ENCRYPTION),
            ({"content": None}, "/content", R.WRONG_TYPE),
            ({"content": HalfHostile()}, "/content", R.INVALID_VALUE),
            ({"content": {"a": object()}}, "/content/a", R.NOT_A_JSON_VALUE),
            ({"sender": PHONE.keys}, "/sender", R.WRONG_TYPE),
            ({"sender": ALICE.user_id}, "/sender", R.WRONG_TYPE),
            ({"recipient": None}, "/recipient", R.WRONG_TYPE),
            ({"recipient": PHONE}, "/recipient", R.KEY_REUSED),
            ({"extra": {"state_key": ""}}, "/extra/state_key", R.STATE_EVENT),
            ({"extra": Names({"state_key": None})}, "/extra/state_key", R.STATE_EVENT),
            ({"extra": {"type": "x"}}, "/extra/type", R.INVALID_VALUE),
            ({"extra": {SENDER_DEVICE_KEYS: {}}}, "/extra/sender_device_keys", R.INVALID_VALUE),
            ({"extra": []}, "/extra", R.WRONG_TYPE),
            ({"extra": Hostile()}, "/extra", R.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_what_cannot_be_built(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        assert refusal(lambda: payload(**arguments), LocalProtocolError) == (path, reason)

    @pytest.mark.parametrize("role", ["sender", "recipient"])
    def test_a_device_that_does_not_speak_olm(self, role: str) -> None:
        obj = BOB.device("OLD").to_json()
        del obj["signatures"], obj["keys"]["curve25519:OLD"]  # type: ignore[union-attr]
        signature = BOB.device_signer("OLD").sign(encode_canonical_json(obj)).to_base64()
        old = DeviceKeys.from_json({**obj, "signatures": {BOB.user_id: {"ed25519:OLD": signature}}}).verify()
        assert refusal(lambda: payload(**{role: old}), LocalProtocolError) == (f"/{role}", R.MISSING_KEY)

    def test_two_devices_with_the_same_olm_identity_key(self) -> None:
        twin = DeviceKeys.build(
            user_id=BOB.user_id,
            device_id="TWIN",
            curve25519_key=sample_curve25519_key(f"{ALICE.user_id} PHONE"),
            signer=BOB.device_signer("TWIN"),
        ).verify()
        assert refusal(lambda: payload(recipient=twin), LocalProtocolError) == ("/recipient", R.KEY_REUSED)

    def test_what_canonical_json_cannot_represent_is_not_encrypted(self) -> None:
        for value, reason in ((1.5, R.NOT_AN_INTEGER), (2**53, R.INTEGER_OUT_OF_RANGE), ("\ud800", R.LONE_SURROGATE)):
            built = payload(content={"a": [value]})
            assert refusal(built.encode, LocalProtocolError) == ("/content/a/0", reason)

    def test_nothing_is_shared(self) -> None:
        content: dict[str, Any] = {"a": []}
        extra: dict[str, Any] = {"b": []}
        built = payload(content=content, extra=extra)
        content["a"].append(1)
        extra["b"].append(1)
        assert (built.content, built.extra) == ({"a": []}, {"b": []})

    def test_the_secret_inside_is_shown_nowhere(self) -> None:
        secret = {"session_key": "tell-nobody"}
        assert "nobody" not in repr(payload(content=secret))
        assert "nobody" not in repr(MegolmPayload(type="m", content=secret, room_id=ROOM))
        for document in (plain(content=secret, sender=5), plain(content=secret, keys={}), plain(content=["nobody"])):
            with pytest.raises(RemoteProtocolError) as caught:
                OlmPayload.from_bytes(json.dumps(document))
            assert "nobody" not in str(caught.value)
        with pytest.raises(RemoteProtocolError) as caught:
            OlmPayload.from_bytes(json.dumps(plain(content=secret))[:-1])
        assert "nobody" not in str(caught.value)
        assert "nobody" not in repr(caught.value)

    def test_the_member_of_signing_keys(self) -> None:
        key = sample_secret_key("x").public_key
        member = signing_keys_member()
        assert member.write(member.read({"ed25519": key.to_base64()}, "keys")) == {"ed25519": key.to_base64()}
        assert type(member.check(key, "keys")) is Ed25519PublicKey


class TestHistory:
    def test_a_bundle_goes_to_no_device_that_is_not_cross_signed(self) -> None:
        """ "due to the risk of sharing significant amounts of encrypted content with an attacker-controlled device" """
        found = refusal(lambda: payload(event_type="m.room_key_bundle"), LocalProtocolError)
        assert found == ("/recipient", R.UNVERIFIED_DEVICE)
        identity = UserIdentity.verify(master_key=BOB.master_key, self_signing_key=BOB.self_signing_key)
        signed = BOB.device("LAPTOP").verify(identity=identity)
        assert signed.is_cross_signed
        assert payload(event_type="m.room_key_bundle", recipient=signed).type == "m.room_key_bundle"
        unsigned = BOB.device("OTHER", cross_signed=False).verify(identity=identity)
        found = refusal(lambda: payload(event_type="m.room_key_bundle", recipient=unsigned), LocalProtocolError)
        assert found == ("/recipient", R.UNVERIFIED_DEVICE)


class TestMegolm:
    def test_through_a_real_session(self) -> None:
        session = vodozemac.GroupSession()
        inbound = vodozemac.InboundGroupSession(session.session_key)
        sent = MegolmPayload.build(event_type="m.room.message", content={"body": "ü"}, room_id=ROOM)
        assert json.loads(sent.encode()) == {"type": "m.room.message", "content": {"body": "ü"}, "room_id": ROOM}
        opened = inbound.decrypt(session.encrypt(sent.encode()))
        assert MegolmPayload.from_bytes(opened.plaintext) == sent

    def test_everything_comes_back(self) -> None:
        document = json.dumps({"type": "m", "content": {"a": [1.5]}, "room_id": ROOM, "x": None})
        read = MegolmPayload.from_bytes(document)
        assert read == MegolmPayload(type="m", content={"a": [1.5]}, room_id=ROOM, extra={"x": None})
        assert MegolmPayload.from_bytes(json.dumps(read.to_json())) == read

    def test_the_relation_is_left_to_the_content_around(self) -> None:
        content: dict[str, Any] = {"m.relates_to": {"event_id": "$x"}, "m.relates": 1, "in": {"m.relates_to": 2}}
        built = MegolmPayload.build(event_type="m", content=content, room_id=ROOM)
        assert built.content == {"m.relates": 1, "in": {"m.relates_to": 2}}
        assert "m.relates_to" in content

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"room_id": None}, "/room_id", R.WRONG_TYPE),
            ({"room_id": "@a:b"}, "/room_id", R.INVALID_IDENTIFIER),
            ({"type": 5}, "/type", R.WRONG_TYPE),
            ({"content": "x"}, "/content", R.WRONG_TYPE),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        document = json.dumps({"type": "m", "content": {}, "room_id": ROOM, **members})
        assert refusal(lambda: MegolmPayload.from_bytes(document), RemoteProtocolError) == (path, reason)

    @pytest.mark.parametrize("name", ["type", "content", "room_id"])
    def test_what_is_missing(self, name: str) -> None:
        """Attack 59: without a room inside, the server could move it."""
        obj = {"type": "m", "content": {}, "room_id": ROOM}
        del obj[name]
        read = lambda: MegolmPayload.from_bytes(json.dumps(obj))  # noqa: E731
        assert refusal(read, RemoteProtocolError) == ("", R.MISSING_MEMBER)

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"event_type": ENCRYPTED}, "/event_type", R.NESTED_ENCRYPTION),
            ({"event_type": 5}, "/event_type", R.WRONG_TYPE),
            ({"content": []}, "/content", R.WRONG_TYPE),
            ({"content": Hostile()}, "/content", R.INVALID_VALUE),
            ({"room_id": "r"}, "/room_id", R.INVALID_IDENTIFIER),
            ({"room_id": None}, "/room_id", R.WRONG_TYPE),
        ],
    )
    def test_what_cannot_be_built(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        good: dict[str, Any] = {"event_type": "m", "content": {}, "room_id": ROOM}
        make = lambda: MegolmPayload.build(**{**good, **arguments})  # noqa: E731
        assert refusal(make, LocalProtocolError) == (path, reason)


class TestAnything:
    """Nothing foreign comes out of any function, for any argument."""

    def test_each_argument(self) -> None:
        assert only_own_errors(OlmPayload.from_bytes) > 30
        assert only_own_errors(MegolmPayload.from_bytes) > 30
        assert only_own_errors(sent_along) > 30
        for name in ("event_type", "content", "sender", "recipient", "extra"):
            assert only_own_errors(lambda value, name=name: payload(**{name: value})) > 20
        for name in OlmPayload.members:
            assert only_own_errors(lambda value, name=name: evolve(payload(), **{name: value})) > 20
        good: dict[str, Any] = {"event_type": "m", "content": {}, "room_id": ROOM}
        for name in good:
            build = lambda value, name=name: MegolmPayload.build(**{**good, name: value})  # noqa: E731
            assert only_own_errors(build) > 20

    def test_each_member(self) -> None:
        for name in (*plain(), SENDER_DEVICE_KEYS):
            for value in (None, True, 0, 1.5, "", "x", "\ud800", [], {}, [[]], {"ed25519": {}}, 10**30):
                text = json.dumps(plain(**{name: value}))
                error = error_of(lambda text=text: OlmPayload.from_bytes(text))
                assert error is None or error.path.startswith("/" + name)
                assert type(error) in (RemoteProtocolError, type(None))

    @modest
    @given(wild_values)
    def test_any_content(self, value: Any) -> None:
        error = error_of(lambda: payload(content={"a": value}).encode())
        if error is None:
            built = payload(content={"a": value})
            assert OlmPayload.from_bytes(built.encode()) == built
        else:
            assert type(error) is LocalProtocolError
            assert error.path.startswith("/content/a")
