"""The strategies for encrypted events produce what they say."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import vodozemac
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from matrix_e2e_keys.errors import RemoteProtocolError, VerificationError
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
    read_encrypted_content,
)
from matrix_e2e_keys.events.olm_formats import OlmMessageType, megolm_message_index, read_megolm_session_key
from matrix_e2e_keys.events.payloads import MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.testing import event_strategies as events
from matrix_e2e_keys.testing.event_strategies import OlmPair
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

FEW = settings(max_examples=25)
FIND = settings(max_examples=2000, database=None, phases=[Phase.generate])
MINE, ALICE = sample_curve25519_key("mine"), sample_curve25519_key("alice")
PAIR = OlmPair()


def exists(strategy: st.SearchStrategy[Any], condition: Any) -> bool:
    """Whether the strategy produces, within reason, something of which the condition holds."""
    find(strategy, condition, settings=FIND)
    return True


def over_the_wire(value: Any) -> Any:
    return type(value).from_json(json.loads(json.dumps(value.to_json())))


@pytest.mark.parametrize("name", sorted(set(events.__all__) - {"OlmPair"}))
def test_each_says_what_it_produces(name: str) -> None:
    function = getattr(events, name)
    assert inspect.getdoc(function)
    assert "SearchStrategy" in str(inspect.signature(function).return_annotation)


class TestMessages:
    @FEW
    @given(events.olm_ciphertexts(ALICE))
    def test_olm(self, message: OlmCiphertext) -> None:
        header = message.pre_key_header
        assert (header is None) is (message.message_type is OlmMessageType.NORMAL)
        assert header is None or header.identity_key == ALICE
        vodozemac.AnyOlmMessage.from_parts(int(message.message_type), message.message)
        if header is not None:
            vodozemac.PreKeyMessage.from_base64(message.body)

    @FEW
    @given(events.megolm_ciphertexts(), events.megolm_ciphertexts(message_index=300))
    def test_megolm(self, message: str, numbered: str) -> None:
        assert vodozemac.MegolmMessage.from_base64(message).message_index() == megolm_message_index(message)
        assert megolm_message_index(numbered) == 300

    @FEW
    @given(events.megolm_session_keys(exported=False))
    def test_session_keys_to_share(self, text: str) -> None:
        key = read_megolm_session_key(text)
        inbound = vodozemac.InboundGroupSession(vodozemac.SessionKey(text))
        assert (key.session_id, key.first_index, key.is_signed) == (inbound.session_id, inbound.first_known_index, True)

    @FEW
    @given(events.megolm_session_keys(exported=True))
    def test_exported_session_keys(self, text: str) -> None:
        key = read_megolm_session_key(text)
        inbound = vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(text))
        assert (key.session_id, key.first_index, key.is_signed) == (
            inbound.session_id,
            inbound.first_known_index,
            False,
        )

    def test_both_kinds(self) -> None:
        for signed in (True, False):
            assert exists(
                events.megolm_session_keys(),
                lambda text, signed=signed: read_megolm_session_key(text).is_signed is signed,
            )
        for kind in OlmMessageType:
            assert exists(events.olm_ciphertexts(), lambda message, kind=kind: message.message_type is kind)
        assert exists(events.megolm_ciphertexts(), lambda message: megolm_message_index(message) == 2**32 - 1)


class TestAroundTheEncryption:
    @FEW
    @given(events.olm_encrypted_contents(sender_key=ALICE, recipient_key=MINE))
    def test_olm(self, content: OlmEncryptedContent) -> None:
        assert over_the_wire(content) == content
        assert read_encrypted_content(content.to_json()) == content
        assert content.sender_key == ALICE
        header = content.my_ciphertext(MINE).pre_key_header
        assert header is None or header.identity_key == ALICE

    @FEW
    @given(events.megolm_encrypted_contents(session_id="s"))
    def test_megolm(self, content: MegolmEncryptedContent) -> None:
        assert over_the_wire(content) == content
        assert read_encrypted_content(content.to_json()) == content
        assert content.session_id == "s"

    @FEW
    @given(events.to_device_events(sender="@a:b"))
    def test_to_device_events(self, event: ToDeviceEvent) -> None:
        assert over_the_wire(event) == event
        assert event.sender == "@a:b"
        if event.type == ENCRYPTED:
            assert type(read_encrypted_content(event.content)) is OlmEncryptedContent

    @FEW
    @given(events.room_events(sender="@a:b", room_id="!r:b"))
    def test_room_events(self, event: RoomEvent) -> None:
        assert over_the_wire(event) == event
        assert (event.sender, event.room_id) == ("@a:b", "!r:b")
        if event.type == ENCRYPTED:
            assert type(read_encrypted_content(event.content)) is MegolmEncryptedContent

    def test_what_may_be_there(self) -> None:
        contents = events.olm_encrypted_contents()
        assert exists(contents, lambda content: len(content.ciphertext) > 2)
        assert exists(contents, lambda content: any(type(entry) is Rejection for entry in content.ciphertext.values()))
        assert exists(contents, lambda content: bool(content.extra))
        megolm = events.megolm_encrypted_contents()
        for name in ("untrusted_sender_key", "untrusted_device_id", "relates_to"):
            assert exists(megolm, lambda content, name=name: getattr(content, name) is None)
            assert exists(megolm, lambda content, name=name: bool(getattr(content, name)))
        for strategy in (events.to_device_events(), events.room_events()):
            assert exists(strategy, lambda event: event.type == ENCRYPTED)
            assert exists(strategy, lambda event: event.type != ENCRYPTED and bool(event.content))
        assert exists(events.room_events(), lambda event: event.state_key is not None)
        assert exists(events.room_events(), lambda event: event.state_key is None)


class TestInside:
    @FEW
    @given(events.olm_payloads())
    def test_olm(self, payload: OlmPayload) -> None:
        assert OlmPayload.from_bytes(payload.encode()) == payload
        assert (payload.sender, payload.keys) == (PAIR.sender.user_id, PAIR.sending_device.ed25519_key)
        assert payload.recipient == PAIR.recipient.user_id
        assert payload.recipient_keys == PAIR.receiving_device.ed25519_key
        assert payload.sender_device_keys in (None, PAIR.sending_device.keys)
        assert payload.type != ENCRYPTED
        assert "state_key" not in payload.extra

    @FEW
    @given(events.megolm_payloads(room_id="!r:b"))
    def test_megolm(self, payload: MegolmPayload) -> None:
        assert MegolmPayload.from_bytes(payload.encode()) == payload
        assert payload.room_id == "!r:b"

    def test_what_may_be_there(self) -> None:
        for strategy in (events.olm_payloads(), events.megolm_payloads()):
            assert exists(strategy, lambda payload: bool(payload.content))
        assert exists(events.olm_payloads(), lambda payload: payload.sender_device_keys is None)
        assert exists(events.olm_payloads(), lambda payload: payload.sender_device_keys is not None)
        assert exists(events.olm_payloads(), lambda payload: bool(payload.extra))


CHANGES = [*events._CHANGES, *events._TWICE, events._CUT_OFF]
OTHER = "@somebody:else.example"


class TestMutations:
    def test_each_kind_is_produced(self) -> None:
        for kind in (events._CHANGES, events._TWICE, [events._CUT_OFF]):
            assert exists(events.mutated_olm_payloads(), lambda made, kind=kind: made[1] in kind)

    @pytest.mark.parametrize(
        "change", [change for change in CHANGES if change[-4:] in ("null", "sing", "wice", " off")]
    )
    @settings(max_examples=8)
    @given(data=st.data())
    def test_what_is_malformed_is_refused(self, change: str, data: st.DataObject) -> None:
        plaintext, changed = data.draw(events.mutated_olm_payloads(change=change))
        assert changed == change
        with pytest.raises(RemoteProtocolError) as caught:
            OlmPayload.from_bytes(plaintext)
        if change.endswith(("null", "twice")):
            assert caught.value.path == "/" + change.split(maxsplit=1)[0].replace(".", "/")

    @pytest.mark.parametrize("change", ["sender an array", "content an array", "keys a string"])
    @settings(max_examples=8)
    @given(data=st.data())
    def test_what_has_another_type_is_refused(self, change: str, data: st.DataObject) -> None:
        with pytest.raises(RemoteProtocolError):
            OlmPayload.from_bytes(data.draw(events.mutated_olm_payloads(change=change))[0])

    @pytest.mark.parametrize(
        ("change", "truth"),
        {
            "sender": lambda made: made.sender == OTHER,
            "recipient": lambda made: made.recipient == OTHER,
            "keys.ed25519": lambda made: made.keys != PAIR.sending_device.ed25519_key,
            "recipient_keys.ed25519": lambda made: made.recipient_keys != PAIR.receiving_device.ed25519_key,
            "sender_device_keys.user_id": lambda made: made.sender_device_keys.user_id == OTHER,
            "sender_device_keys.curve25519": lambda made: (
                made.sender_device_keys.curve25519_key == sample_curve25519_key("somebody else")
            ),
            "sender_device_keys.ed25519": lambda made: (
                made.sender_device_keys.ed25519_key not in (None, PAIR.sending_device.ed25519_key)
            ),
            "sender_device_keys.signatures": lambda made: made.sender_device_keys == PAIR.sending_device.keys,
            "state_key": lambda made: made.extra["state_key"] == "",
            "type encrypted": lambda made: made.type == ENCRYPTED,
        }.items(),
        ids=lambda value: value if type(value) is str else "",
    )
    @settings(max_examples=8)
    @given(data=st.data())
    def test_what_is_a_lie_can_be_read_and_is_the_only_one(self, change: str, truth: Any, data: st.DataObject) -> None:
        plaintext, _ = data.draw(events.mutated_olm_payloads(change=change))
        made = OlmPayload.from_bytes(plaintext)
        assert truth(made)
        keys = made.sender_device_keys
        assert keys is not None
        true = {
            "sender": made.sender == PAIR.sender.user_id,
            "recipient": made.recipient == PAIR.recipient.user_id,
            "keys.ed25519": made.keys == PAIR.sending_device.ed25519_key,
            "recipient_keys.ed25519": made.recipient_keys == PAIR.receiving_device.ed25519_key,
            "sender_device_keys.user_id": keys.user_id == PAIR.sender.user_id,
            "sender_device_keys.curve25519": keys.curve25519_key == PAIR.sending_device.curve25519_key,
            "sender_device_keys.ed25519": keys.ed25519_key == PAIR.sending_device.ed25519_key,
            "sender_device_keys.signatures": is_self_signed(keys),
            "state_key": "state_key" not in made.extra,
            "type encrypted": made.type != ENCRYPTED,
        }
        assert [name for name, is_true in true.items() if not is_true] == [change]

    @settings(max_examples=5)
    @given(st.data())
    def test_of_other_devices(self, data: st.DataObject) -> None:
        pair = OlmPair(sender=SampleUser("@x:y"), sender_device_id="ONE", recipient=SampleUser("@x:y"))
        plaintext, _ = data.draw(events.mutated_olm_payloads(pair, "recipient"))
        made = OlmPayload.from_bytes(plaintext)
        assert (made.sender, made.recipient, made.sender_device_keys) == ("@x:y", OTHER, pair.sending_device.keys)


def is_self_signed(keys: Any) -> bool:
    try:
        keys.verify()
    except VerificationError:
        return False
    return True
