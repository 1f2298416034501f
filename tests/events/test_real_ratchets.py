"""Whole conversations with the ratchets of vodozemac: what one device builds, the other reads, and nobody else."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from attrs import evolve

from interop.encrypted_peers import (
    MESSAGE,
    ROOM,
    InboundRatchet,
    OurDevice,
    OutboundRatchet,
    room_event,
    text_message,
    to_device_event,
    vodozemac,
)
from matrix_e2e_keys.client.receive.olm_events import open_olm_event
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.errors import Reason, RemoteProtocolError
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import MegolmEncryptedContent, OlmEncryptedContent, read_encrypted_content
from matrix_e2e_keys.events.olm_formats import OlmMessageType, PreKeyHeader, read_megolm_session_key
from matrix_e2e_keys.events.payloads import MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent

ALICE, BOB, CAROL = "@alice:a.example", "@bob:b.example", "@carol:c.example"
NOTE = "org.example.note"
ODD = {"": "", '\u2028\0\\"': ["\N{WAVING HAND SIGN}", None, True, -(2**53 - 1)], "e\u0301": {"\u00e9": {}}}

PRE_KEY, NORMAL = OlmMessageType


@pytest.fixture
def alice() -> OurDevice:
    return OurDevice(ALICE, "PHONE")


@pytest.fixture
def bob() -> OurDevice:
    return OurDevice(BOB, "LAPTOP")


def open_session(sender: OurDevice, recipient: OurDevice) -> None:
    sender.open_session(recipient.own, recipient.one_time_key().verify(device=recipient.own).public_key)


def over_the_wire(sender: OurDevice, content: OlmEncryptedContent) -> ToDeviceEvent:
    """Return an encrypted content as it arrives, after it was text."""
    return ToDeviceEvent.from_json(json.loads(json.dumps(to_device_event(sender.own.user_id, content))))


def write(sender: OurDevice, recipient: OurDevice, content: dict[str, Any]) -> ToDeviceEvent:
    payload = sender.payload(recipient.own, NOTE, content).encode()
    return over_the_wire(sender, sender.encrypt_for([(recipient.own, payload)]))


def header_of(recipient: OurDevice, event: ToDeviceEvent) -> tuple[OlmMessageType, PreKeyHeader | None]:
    message = open_olm_event(event, own=recipient.own).my_ciphertext(recipient.curve25519_key)
    return message.message_type, message.pre_key_header


class TestOlm:
    def test_what_one_builds_the_other_reads(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)

        event = write(alice, bob, ODD)

        assert bob.decrypt(event) == alice.payload(bob.own, NOTE, ODD).encode()

    def test_the_plaintext_names_both_devices(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)

        payload = OlmPayload.from_bytes(bob.decrypt(write(alice, bob, ODD)))

        assert payload == alice.payload(bob.own, NOTE, ODD)
        assert (payload.sender, payload.keys) == (ALICE, alice.own.ed25519_key)
        assert (payload.recipient, payload.recipient_keys) == (BOB, bob.own.ed25519_key)
        assert payload.sender_device_keys == alice.own.keys

    def test_the_messages_open_a_session_until_there_is_an_answer(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        events = [write(alice, bob, {"number": number}) for number in range(3)]

        headers = [header_of(bob, event) for event in events]
        assert [message_type for message_type, _ in headers] == [PRE_KEY] * 3
        assert len({header for _, header in headers}) == 1
        header = headers[0][1]
        assert header is not None
        assert [header.one_time_key] == bob.published
        assert header.identity_key == alice.curve25519_key

        for number, event in enumerate(events):
            assert bob.read(event, {}).require().content == {"number": number}
        assert len(bob.sessions_with(alice.own)) == 1

        answer = write(bob, alice, {})
        assert header_of(alice, answer) == (NORMAL, None)
        assert alice.read(answer, {}).require().one_time_key is None
        assert header_of(bob, write(alice, bob, {})) == (NORMAL, None)

    def test_a_long_conversation_is_read_in_both_directions(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        assert bob.read(write(alice, bob, {}), {}).event is not None

        for count, (sender, recipient) in zip(range(12), itertools.cycle([(bob, alice), (alice, bob)]), strict=False):
            events = [write(sender, recipient, {"number": number}) for number in range(count % 4)]
            read = [recipient.read(event, {}).require().content for event in reversed(events)]
            assert [it["number"] for it in read] == [*reversed(range(count % 4))]

    def test_the_150th_message_without_an_answer_is_read(self, alice: OurDevice, bob: OurDevice) -> None:
        """Its index takes more than one byte."""
        open_session(alice, bob)
        for _ in range(149):
            alice.encrypt(bob.own, b"lost")
        assert bob.read(write(alice, bob, ODD), {}).require().content == ODD

    def test_each_reads_its_message_in_one_content_for_several_devices(self, alice: OurDevice) -> None:
        others = [OurDevice(BOB, "LAPTOP"), OurDevice(BOB, "PHONE"), OurDevice(CAROL, "TABLET")]
        for other in others:
            open_session(alice, other)
        messages = [(it.own, alice.payload(it.own, NOTE, {"for": it.own.device_id}).encode()) for it in others]

        event = over_the_wire(alice, alice.encrypt_for(messages))

        for other in others:
            assert other.read(event, {}).require().content == {"for": other.own.device_id}
        with pytest.raises(RemoteProtocolError) as caught:
            open_olm_event(event, own=OurDevice(CAROL, "WATCH").own)
        assert caught.value.reason is Reason.NOT_FOR_THIS_DEVICE

    def test_both_may_open_a_session_at_the_same_time(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        open_session(bob, alice)
        crossing = write(alice, bob, {"by": "alice"}), write(bob, alice, {"by": "bob"})

        assert bob.read(crossing[0], {}).require().content == {"by": "alice"}
        assert alice.read(crossing[1], {}).require().content == {"by": "bob"}

        assert len(alice.sessions_with(bob.own)) == len(bob.sessions_with(alice.own)) == 2
        for sender, recipient in ((alice, bob), (bob, alice)):
            assert recipient.read(write(sender, recipient, {"and": "on"}), {}).require().content == {"and": "on"}

    def test_the_message_of_another_session_under_the_name_of_this_device_is_refused(
        self, alice: OurDevice, bob: OurDevice
    ) -> None:
        eve = OurDevice("@eve:a.example", "PHONE")
        open_session(eve, bob)
        event = write(eve, bob, {})
        content = {**event.content, "sender_key": alice.curve25519_key.to_base64()}

        with pytest.raises(RemoteProtocolError) as caught:
            open_olm_event(evolve(event, content=content), own=bob.own)

        assert (caught.value.reason, caught.value.path) == (Reason.SENDER_KEY_MISMATCH, "/sender_key")


def share(ratchet: OutboundRatchet, alice: OurDevice, bob: OurDevice) -> InboundRatchet:
    """Send the key of a session; return the session that the other one has then."""
    event = over_the_wire(alice, alice.write(ratchet.key(), bob.own))
    received = bob.read(event, {}).require()
    assert (received.type, received.sender.trust) == (RoomKeyContent.event_type, SenderTrust.DEVICE_KNOWN)
    content = RoomKeyContent.from_json(received.content)
    assert content == ratchet.key()
    return InboundRatchet(content.require_session_id())


def say(ratchet: OutboundRatchet, content: dict[str, Any]) -> MegolmEncryptedContent:
    """Return what is said in the room as it arrives, after it was text."""
    event = RoomEvent.from_json(json.loads(json.dumps(room_event(ALICE, ratchet.encrypt(MESSAGE, content)))))
    arrived = read_encrypted_content(event.content)
    assert isinstance(arrived, MegolmEncryptedContent)
    return arrived


def session_id_of(session_key: str) -> str:
    """Ask the ratchet to which session a key belongs."""
    return InboundRatchet(read_megolm_session_key(session_key)).session_id


class TestMegolm:
    def test_who_is_sent_the_key_reads_what_is_said(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        ratchet = OutboundRatchet()
        inbound = share(ratchet, alice, bob)

        for index, content in enumerate([ODD, text_message("Hello"), {}]):
            said = say(ratchet, content)
            assert said.session_id == inbound.session_id == ratchet.session_id
            assert said.message_index == index
            plaintext, found = inbound.decrypt(said.ciphertext)
            assert found == index
            assert MegolmPayload.from_bytes(plaintext) == MegolmPayload.build(
                event_type=MESSAGE, content=content, room_id=ROOM
            )

    def test_a_key_that_is_sent_later_opens_what_is_said_from_then_on(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        ratchet = OutboundRatchet()
        before = [say(ratchet, {"number": number}) for number in range(200)]
        key = ratchet.key()
        inbound = share(ratchet, alice, bob)

        after = say(ratchet, {"number": 200})

        assert (key.key.first_index, key.key.is_signed) == (200, True)
        assert [it.message_index for it in before] == list(range(200))
        plaintext, index = inbound.decrypt(after.ciphertext)
        assert (MegolmPayload.from_bytes(plaintext).content, index) == ({"number": 200}, 200)
        with pytest.raises(vodozemac().MegolmDecryptionException):
            inbound.decrypt(before[-1].ciphertext)

    def test_a_key_that_is_handed_on_opens_the_session_that_it_names(self, alice: OurDevice) -> None:
        ratchet = OutboundRatchet()
        original = InboundRatchet(ratchet.key().key)
        said = [say(ratchet, {"number": number}) for number in range(3)]

        forwarded = ForwardedRoomKeyContent.build(
            room_id=ROOM,
            session_key=original.export(1),
            sender_key=alice.curve25519_key,
            sender_claimed_ed25519_key=alice.own.ed25519_key,
        )
        read = ForwardedRoomKeyContent.from_json(json.loads(json.dumps(forwarded.to_json())))
        inbound = InboundRatchet(read.require_session_id(session_id_of))

        assert (read.session_id, read.key.first_index, read.key.is_signed) == (ratchet.session_id, 1, False)
        assert [inbound.decrypt(it.ciphertext)[1] for it in said[1:]] == [1, 2]

    def test_a_relation_stands_outside_of_the_encryption_only(self) -> None:
        relation = {"rel_type": "m.thread", "event_id": "$root"}
        ratchet = OutboundRatchet()
        inbound = InboundRatchet(ratchet.key().key)
        content = {**text_message("Hello"), "m.relates_to": relation}

        said = ratchet.encrypt(MESSAGE, content)

        assert said.relates_to == relation
        plaintext, _ = inbound.decrypt(said.ciphertext)
        assert MegolmPayload.from_bytes(plaintext).content == text_message("Hello")


class TestBoth:
    def test_from_a_key_to_a_message_with_a_sender(self, alice: OurDevice, bob: OurDevice) -> None:
        open_session(alice, bob)
        bob.learn(alice.answer())
        ratchet = OutboundRatchet()
        key: EventContent = ratchet.key()

        session = bob.rooms.take_room_key(bob.read_event(to_device_event(ALICE, alice.write(key, bob.own))).require())
        encrypted = ratchet.encrypt(MESSAGE, text_message("Hello"), named_sender=alice.own)
        judgment = bob.rooms.read(RoomEvent.from_json(room_event(ALICE, encrypted)))

        assert judgment is not None
        message = judgment.require()
        assert (message.type, message.content, message.message_index) == (MESSAGE, text_message("Hello"), 0)
        assert (message.sender, message.session) == (session.sender, session)
        assert message.sender is not None
        assert (message.sender.user_id, message.sender.trust) == (ALICE, SenderTrust.UNVERIFIED)
