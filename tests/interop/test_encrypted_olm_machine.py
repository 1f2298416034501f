"""One OlmMachine and one device of ours write to each other: room keys, messages, requests, and what is withheld."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest

from interop.encrypted_peers import (
    MESSAGE,
    OUR_DEVICE,
    OUR_USER,
    ROOM,
    ROOM_KEY,
    THEIR_DEVICE,
    THEIR_USER,
    InboundRatchet,
    OlmPeer,
    OurDevice,
    OutboundRatchet,
    identity_key,
    room_event,
    text_message,
    to_device_event,
)
from interop.olm_machine import MakeOlmMachine
from interop.people import USAGES
from matrix_e2e_keys import Ed25519SecretKey
from matrix_e2e_keys.client.receive.inbound_sessions import SessionSource
from matrix_e2e_keys.client.receive.key_requests import KeyRequests
from matrix_e2e_keys.client.receive.megolm_judgments import DecryptedRoomEvent, MegolmCheck
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.received_sessions import session_from_forward
from matrix_e2e_keys.client.receive.sender_values import SenderTrust
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.events.encrypted import OlmEncryptedContent, read_encrypted_content
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle, RoomKeyBundleContent
from matrix_e2e_keys.events.key_requests import RequestAction, RoomKeyRequestContent
from matrix_e2e_keys.events.olm_formats import OlmMessageType
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode

pytestmark = pytest.mark.interop

CAROL = "@carol:example.org"
HELLO = text_message("Hello \N{WAVING HAND SIGN}, \u00e9, \u2028 and \\")


@pytest.fixture
def ours() -> OurDevice:
    return OurDevice()


@pytest.fixture
def theirs(new_olm_machine: MakeOlmMachine) -> OlmPeer:
    """An OlmMachine that knows nobody yet. Its user has no identity."""
    return OlmPeer(new_olm_machine)


@pytest.fixture
def acquainted(ours: OurDevice, theirs: OlmPeer) -> tuple[OurDevice, OlmPeer]:
    """Both, with identities, and each knows of the other. There is no session yet."""
    theirs.bootstrap()
    theirs.learn(ours.answer())
    ours.learn(theirs.answer())
    return ours, theirs


Pair = tuple[OurDevice, OlmPeer]


def open_room_key(ours: OurDevice, theirs: OlmPeer) -> DecryptedOlmEvent:
    """Let the machine share its room key; return what arrives, once it is taken."""
    (event,) = theirs.share_room_key(ours)
    opened = ours.read_event(event).require()
    ours.rooms.take_room_key(opened)
    return opened


def read_message(ours: OurDevice, theirs: OlmPeer, content: object, event_id: str = "$1") -> DecryptedRoomEvent:
    """Let the machine say something in the room; return it as it is read."""
    encrypted = theirs.machine.encrypt_room_event(ROOM, MESSAGE, content)
    judgment = ours.rooms.read(RoomEvent.from_json(room_event(THEIR_USER, encrypted, event_id)))
    assert judgment is not None
    return judgment.require()


def message_type(event: Mapping[str, Any], ours: OurDevice) -> OlmMessageType:
    """Return whether a message opens a session."""
    content = read_encrypted_content(event["content"])
    assert isinstance(content, OlmEncryptedContent)
    return content.my_ciphertext(ours.curve25519_key).message_type


# --------------------------------------------------------------------------------------------------------------
# What they send us
# --------------------------------------------------------------------------------------------------------------


def test_we_open_the_room_key_of_an_olm_machine_and_read_its_messages(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours)

    event = open_room_key(ours, theirs)

    assert event.type == ROOM_KEY
    assert event.one_time_key in ours.published
    (session,) = ours.rooms.sessions.values()
    assert (session.room_id, session.first_index, session.source) == (ROOM, 0, SessionSource.ROOM_KEY)
    assert session.sender == event.sender
    assert session.shared_history is True
    for index, content in enumerate([HELLO, text_message("again")]):
        message = read_message(ours, theirs, content, f"${index}")
        assert (message.type, message.content, message.message_index) == (MESSAGE, content, index)
        assert (message.sender_user_id, message.sender) == (THEIR_USER, session.sender)
        assert message.sender is not None
        assert message.sender.trust is SenderTrust.UNVERIFIED


def test_a_message_of_an_olm_machine_that_a_server_moves_ascribes_or_repeats_is_refused(acquainted: Pair) -> None:
    """Attacks 57 and 59."""
    ours, theirs = acquainted
    theirs.open_session(ours)
    open_room_key(ours, theirs)
    event = room_event(THEIR_USER, theirs.machine.encrypt_room_event(ROOM, MESSAGE, HELLO))

    def failed(**members: object) -> set[MegolmCheck]:
        judgment = ours.rooms.read(RoomEvent.from_json({**event, **members}))
        assert judgment is not None
        return {it.check for it in judgment.failed}

    assert failed(room_id="!other:example.org") == {MegolmCheck.ROOM}
    assert failed(sender="@eve:example.org") == {MegolmCheck.SENDER}
    assert failed() == set()
    assert failed() == set()
    assert failed(event_id="$other") == {MegolmCheck.REPLAY}
    assert failed(origin_server_ts=1) == {MegolmCheck.REPLAY}


def test_what_a_server_says_is_the_sender_of_a_message_is_not_looked_at(acquainted: Pair) -> None:
    """Attack 58."""
    ours, theirs = acquainted
    theirs.open_session(ours)
    open_room_key(ours, theirs)
    content = theirs.machine.encrypt_room_event(ROOM, MESSAGE, HELLO)
    assert content.pop("sender_key") == identity_key(theirs.device).to_base64()
    content["device_id"] = OUR_DEVICE

    judgment = ours.rooms.read(RoomEvent.from_json(room_event(THEIR_USER, content)))

    assert judgment is not None
    sender = judgment.require().sender
    assert sender is not None
    assert (sender.user_id, sender.curve25519_key) == (THEIR_USER, theirs.device.curve25519_key)


def test_who_has_sent_a_room_key_shows_more_and_more(ours: OurDevice, theirs: OlmPeer) -> None:
    theirs.learn(ours.answer())
    theirs.open_session(ours)
    (event,) = theirs.share_room_key(ours)
    first = ours.read_event(event).require().sender
    assert (first.user_id, first.curve25519_key, first.ed25519_key) == (
        THEIR_USER,
        theirs.device.curve25519_key,
        theirs.device.ed25519_key,
    )
    assert first.device is not None  # it came along
    assert first.device.device_id == THEIR_DEVICE
    assert first.trust is SenderTrust.DEVICE_KNOWN

    ours.learn(theirs.answer())
    trusts = [reassess_sender(first, known=ours.known).trust]
    theirs.bootstrap()
    ours.learn(theirs.answer())
    trusts.append(reassess_sender(first, known=ours.known).trust)
    ours.learn(theirs.answer(master=ours.verified(theirs.master_key)))
    trusts.append(reassess_sender(first, known=ours.known).trust)
    theirs.bootstrap()
    ours.learn(theirs.answer())
    trusts.append(reassess_sender(first, known=ours.known).trust)

    assert trusts == [
        SenderTrust.DEVICE_KNOWN,
        SenderTrust.UNVERIFIED,
        SenderTrust.VERIFIED,
        SenderTrust.OWNER_CHANGED,
    ]


@pytest.mark.parametrize("trust", [SenderTrust.UNVERIFIED, SenderTrust.VERIFIED])
def test_a_room_key_of_a_device_that_is_known_by_then_says_so_at_once(acquainted: Pair, trust: SenderTrust) -> None:
    ours, theirs = acquainted
    if trust is SenderTrust.VERIFIED:
        ours.learn(theirs.answer(master=ours.verified(theirs.master_key)))
    theirs.open_session(ours)

    sender = open_room_key(ours, theirs).sender

    assert sender.trust is trust
    assert sender.device is not None
    assert sender.device.is_cross_signed


def test_a_device_that_vouches_for_itself_need_not_be_served(ours: OurDevice, theirs: OlmPeer) -> None:
    """The signature of its owner's identity comes along with the message."""
    theirs.bootstrap()
    theirs.learn(theirs.answer())
    theirs.learn(ours.answer())
    ours.learn({**theirs.answer(), "device_keys": {THEIR_USER: {}}})
    theirs.open_session(ours)

    sender = open_room_key(ours, theirs).sender

    assert ours.known[THEIR_USER].devices == {}
    assert sender.trust is SenderTrust.UNVERIFIED


def test_after_our_answer_an_olm_machine_writes_normal_messages_and_so_do_we(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours)
    (first,) = theirs.share_room_key(ours)
    assert message_type(first, ours) is OlmMessageType.PRE_KEY
    assert ours.read_event(first).event is not None

    for number in range(2):
        ratchet = OutboundRatchet()
        answer = ours.write(ratchet.key(), theirs.device)
        assert answer.my_ciphertext(identity_key(theirs.device)).message_type is OlmMessageType.NORMAL
        assert theirs.receive(answer).outcome == "Decrypted"
        assert theirs.read(ratchet.encrypt(MESSAGE, HELLO)).event is not None

        content = theirs.machine.encrypt_to_device(OUR_USER, OUR_DEVICE, "org.example.note", {"number": number})
        event = {"type": "m.room.encrypted", "sender": THEIR_USER, "content": content}
        assert message_type(event, ours) is OlmMessageType.NORMAL
        note = ours.read_event(event).require()
        assert (note.type, note.content, note.one_time_key) == ("org.example.note", {"number": number}, None)
        assert note.sender.trust is SenderTrust.UNVERIFIED


def test_a_second_pre_key_message_of_a_session_is_read_with_that_session(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours)
    (first,) = theirs.share_room_key(ours)
    (second,) = theirs.share_room_key(ours, "!other:example.org")
    assert message_type(second, ours) is OlmMessageType.PRE_KEY

    events = [ours.read_event(it).require() for it in (first, second)]

    assert [it.content["room_id"] for it in events] == [ROOM, "!other:example.org"]
    assert events[0].one_time_key == events[1].one_time_key
    assert len(ours.sessions_with(theirs.device)) == 1


def test_we_read_what_an_olm_machine_writes_after_it_has_made_a_new_room_key(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours)
    open_room_key(ours, theirs)
    before = read_message(ours, theirs, HELLO, "$before")

    assert theirs.machine.call("discard_room_key", room_id=ROOM)
    open_room_key(ours, theirs)
    after = read_message(ours, theirs, HELLO, "$after")

    assert before.session.session_id != after.session.session_id
    assert (before.message_index, after.message_index) == (0, 0)


# --------------------------------------------------------------------------------------------------------------
# What we send them
# --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_named", [True, False], ids=["with sender_key and device_id", "without"])
@pytest.mark.parametrize("shared_history", [True, False])
def test_an_olm_machine_reads_our_room_key_and_our_message(
    acquainted: Pair, is_named: bool, shared_history: bool
) -> None:
    ours, theirs = acquainted
    ours.open_session(theirs.device, theirs.next_one_time_key())
    ratchet = OutboundRatchet()

    received = theirs.receive(ours.write(ratchet.key(shared_history=shared_history), theirs.device))
    message = ratchet.encrypt(MESSAGE, HELLO, named_sender=ours.own if is_named else None).to_json()
    read = theirs.read(message, trust="CrossSigned")

    names = [ours.curve25519_key.to_base64(), OUR_DEVICE] if is_named else [None, None]
    assert [message.get(name) for name in ("sender_key", "device_id")] == names
    assert (received.outcome, received.sender) == ("Decrypted", OUR_USER)
    assert received.event["type"] == ROOM_KEY
    assert received.event["content"]["session_id"] == ratchet.session_id
    assert received.event["content"]["shared_history"] is shared_history
    assert read.event is not None
    assert (read.event["type"], read.event["content"]) == (MESSAGE, HELLO)
    assert (read.sender, read.device_id) == (OUR_USER, OUR_DEVICE)
    assert (read.curve25519, read.ed25519) == (ours.curve25519_key.to_base64(), ours.own.ed25519_key.to_base64())


def test_an_olm_machine_that_wants_it_takes_our_message_only_once_our_device_is_cross_signed(
    ours: OurDevice, theirs: OlmPeer
) -> None:
    theirs.learn(ours.answer(is_cross_signed=False))
    ours.open_session(theirs.device, theirs.next_one_time_key())
    ratchet = OutboundRatchet()
    assert theirs.receive(ours.write(ratchet.key(), theirs.device)).outcome == "Decrypted"
    message = ratchet.encrypt(MESSAGE, HELLO)
    assert theirs.read(message, trust="CrossSigned").refused == "UnsignedSenderDevice"

    theirs.learn(ours.answer())

    assert theirs.read(message, trust="CrossSigned").event is not None


def test_an_olm_machine_reads_its_part_of_a_content_for_several_devices(acquainted: Pair) -> None:
    ours, theirs = acquainted
    their_key = theirs.device.keys.keys[f"curve25519:{THEIR_DEVICE}"]
    phones = (OurDevice(CAROL, "PHONE") for _ in itertools.count())
    carol = next(it for it in phones if it.curve25519_key.to_base64() > their_key)
    ours.open_session(carol.own, carol.one_time_key().verify(device=carol.own).public_key)
    ours.open_session(theirs.device, theirs.next_one_time_key())
    ratchet = OutboundRatchet()
    key = ratchet.key()

    content = ours.write(key, theirs.device, carol.own)

    assert list(content.ciphertext) == [their_key, carol.curve25519_key.to_base64()]
    assert theirs.receive(content).outcome == "Decrypted"
    assert theirs.read(ratchet.encrypt(MESSAGE, HELLO)).event is not None
    received = carol.read_event(to_device_event(OUR_USER, content)).require()
    assert RoomKeyContent.from_json(received.content) == key


def test_an_olm_machine_tells_who_wrote_with_which_key(acquainted: Pair) -> None:
    ours, theirs = acquainted
    ours.open_session(theirs.device, theirs.next_one_time_key())
    note = ours.encrypt_for([(theirs.device, ours.payload(theirs.device, "org.example.note", {"a": 1}).encode())])

    received = theirs.receive(note)

    assert received.outcome == "Decrypted"
    assert (received.event["type"], received.event["content"]) == ("org.example.note", {"a": 1})
    assert (received.sender, received.device_id) == (OUR_USER, OUR_DEVICE)
    assert received.curve25519 == ours.curve25519_key.to_base64()


# --------------------------------------------------------------------------------------------------------------
# What is withheld, asked for and passed on
# --------------------------------------------------------------------------------------------------------------


def test_an_olm_machine_that_cannot_open_a_session_tells_us_so(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours, has_keys=False)

    (event,) = theirs.share_room_key(ours)

    assert event["type"] == RoomKeyWithheldContent.event_type
    content = RoomKeyWithheldContent.from_json(event["content"])
    assert (content.known_code, content.room_id, content.session_id) == (WithheldCode.NO_OLM, None, None)
    assert content.sender_key == theirs.device.curve25519_key


def test_an_olm_machine_that_does_not_trust_our_device_tells_us_so(acquainted: Pair) -> None:
    ours, theirs = acquainted
    theirs.open_session(ours)

    (event,) = theirs.share_room_key(ours, strategy="onlyTrustedDevices")

    content = RoomKeyWithheldContent.from_json(event["content"])
    encrypted = theirs.machine.encrypt_room_event(ROOM, MESSAGE, HELLO)
    assert content.known_code is WithheldCode.UNVERIFIED
    assert (content.room_id, content.session_id) == (ROOM, encrypted["session_id"])


@pytest.mark.parametrize("code", [WithheldCode.UNVERIFIED, WithheldCode.BLACKLISTED, WithheldCode.NO_OLM])
def test_an_olm_machine_knows_why_we_withhold_a_key(acquainted: Pair, code: WithheldCode) -> None:
    ours, theirs = acquainted
    ratchet = OutboundRatchet()
    about = {} if code is WithheldCode.NO_OLM else {"room_id": ROOM, "session_id": ratchet.session_id}
    content = RoomKeyWithheldContent.build(code=code, sender_key=ours.curve25519_key, **about)
    event = {"type": content.event_type, "sender": OUR_USER, "content": content.to_json()}

    (received,) = theirs.machine.receive_sync([event])
    assert received.outcome == "PlainText"

    read = theirs.read(ratchet.encrypt(MESSAGE, HELLO))
    assert (read.event, read.refused) == (None, "MissingRoomKey")
    assert (read.withheld is not None) is (code is not WithheldCode.NO_OLM)


@pytest.fixture
def second(theirs: OlmPeer) -> OurDevice:
    """A device of ours of their user, cross-signed like theirs. Each knows the other."""
    theirs.bootstrap()
    device = OurDevice(THEIR_USER, "SECOND")
    seeds = theirs.machine.call("export_cross_signing")
    device.person.secrets = {usage: Ed25519SecretKey.from_base64(seeds[usage]) for usage in USAGES}
    answer = theirs.answer()
    answer["device_keys"][THEIR_USER].update(device.answer()["device_keys"][THEIR_USER])
    device.learn(answer)
    theirs.learn(answer)
    device.open_session(theirs.device, theirs.next_one_time_key())
    return device


def test_an_olm_machine_asks_our_device_of_its_user_for_a_key_and_takes_it(
    ours: OurDevice, theirs: OlmPeer, second: OurDevice
) -> None:
    theirs.learn(ours.answer())
    ratchet = OutboundRatchet()
    exported = InboundRatchet(ratchet.key().key).export(0)
    message = ratchet.encrypt(MESSAGE, HELLO, named_sender=ours.own)
    assert theirs.read(message).refused == "MissingRoomKey"

    (event,) = theirs.outgoing_messages(second)

    assert event["type"] == RoomKeyRequestContent.event_type
    request = RoomKeyRequestContent.from_json(event["content"])
    assert (request.action, request.requesting_device_id) == (RequestAction.REQUEST, THEIR_DEVICE)
    assert request.body is not None
    assert (request.body.room_id, request.body.session_id) == (ROOM, ratchet.session_id)

    forwarded = ForwardedRoomKeyContent.build(
        room_id=ROOM,
        session_key=exported,
        sender_key=ours.curve25519_key,
        sender_claimed_ed25519_key=ours.own.ed25519_key,
    )
    received = theirs.receive(second.write(forwarded, theirs.device), THEIR_USER)
    read = theirs.read(message)

    assert (received.outcome, received.device_id, received.verified) == ("Decrypted", "SECOND", True)
    assert read.event is not None
    assert read.event["content"] == HELLO
    (event,) = theirs.outgoing_messages(second)
    cancellation = RoomKeyRequestContent.from_json(event["content"])
    assert cancellation == RoomKeyRequestContent.build_cancellation(
        request_id=request.request_id, requesting_device_id=THEIR_DEVICE
    )


def test_an_olm_machine_forwards_a_key_that_our_device_of_its_user_asks_for(
    ours: OurDevice, theirs: OlmPeer, second: OurDevice
) -> None:
    theirs.learn(ours.answer())
    ours.open_session(theirs.device, theirs.next_one_time_key())
    ratchet = OutboundRatchet()
    assert theirs.receive(ours.write(ratchet.key(), theirs.device)).outcome == "Decrypted"
    own, requests = second.known[THEIR_USER], KeyRequests(own_user_id=THEIR_USER, own_device_id="SECOND")

    asked = requests.ask_for_key(ROOM, ratchet.session_id, request_id="1", own=own)
    assert asked is not None
    assert asked.device_ids == (THEIR_DEVICE,)
    event = {"type": asked.event_type, "sender": THEIR_USER, "content": asked.content.to_json()}
    theirs.machine.receive_sync([event])
    theirs.open_session(second)
    theirs.machine.receive_sync()
    (answer,) = theirs.outgoing_messages(second)
    accepted = requests.check_forward(second.read_event(answer).require(), own=own)

    assert accepted.forwarder.trust is SenderTrust.VERIFIED
    assert accepted.content.sender_key == ours.curve25519_key
    assert accepted.content.sender_claimed_ed25519_key == ours.own.ed25519_key
    forwarded = session_from_forward(accepted, held=None)
    assert second.rooms.take(forwarded).forwarder == accepted.forwarder
    message = RoomEvent.from_json(room_event(OUR_USER, ratchet.encrypt(MESSAGE, HELLO)))
    judgment = second.rooms.read(message)
    assert judgment is not None
    read = judgment.require()
    assert (read.content, read.message_index, read.sender) == (HELLO, 0, None)


# --------------------------------------------------------------------------------------------------------------
# The history of a room
# --------------------------------------------------------------------------------------------------------------

MXC = "mxc://example.org/bundle"


def announced(made: dict[str, Any]) -> RoomKeyBundleContent:
    """Return the content of the message that tells where a bundle lies."""
    file = {**json.loads(made["encryption_info"]), "url": MXC}
    return RoomKeyBundleContent.from_json({"room_id": ROOM, "file": file})


def test_a_bundle_of_an_olm_machine_holds_the_key_that_we_have_marked_as_shareable(acquainted: Pair) -> None:
    ours, theirs = acquainted
    ours.open_session(theirs.device, theirs.next_one_time_key())
    shareable, not_shareable = OutboundRatchet(), OutboundRatchet()
    assert theirs.receive(ours.write(shareable.key(shared_history=True), theirs.device)).outcome == "Decrypted"
    assert theirs.receive(ours.write(not_shareable.key(shared_history=False), theirs.device)).outcome == "Decrypted"

    made = theirs.machine.call("room_key_bundle", room_id=ROOM)

    file = announced(made).file
    bundle = RoomKeyBundle.from_bytes(made["bundle"].encode()).for_room(ROOM)
    assert (file.v, file.key.alg) == ("v2", "A256CTR")
    (key,) = bundle.room_keys
    (notice,) = bundle.withheld
    assert bundle.rejected == bundle.unsupported == ()
    assert key.require_session_id().session_id == shareable.session_id
    assert (key.sender_key, key.sender_claimed_ed25519_key) == (ours.curve25519_key, ours.own.ed25519_key)
    assert (notice.session_id, notice.known_code) == (not_shareable.session_id, WithheldCode.HISTORY_NOT_SHARED)


def test_an_olm_machine_reads_history_with_our_bundle(acquainted: Pair) -> None:
    ours, theirs = acquainted
    carol = OurDevice(CAROL, "PHONE")
    ratchet = OutboundRatchet()
    inbound = InboundRatchet(ratchet.key().key)
    said = room_event(CAROL, ratchet.encrypt(MESSAGE, HELLO))
    assert theirs.machine.decrypt_room_event(ROOM, said).refused == "MissingRoomKey"

    key = HistoricRoomKey.build(
        room_id=ROOM,
        session_key=inbound.export(0),
        sender_key=carol.curve25519_key,
        sender_claimed_ed25519_key=carol.own.ed25519_key,
    )
    bundle = RoomKeyBundle.build(room_id=ROOM, room_keys=[key])
    made = theirs.machine.call("encrypt_file", text=bundle.encode().decode())
    content = RoomKeyBundleContent.build(room_id=ROOM, file=announced(made).file)
    ours.open_session(theirs.device, theirs.next_one_time_key())
    cross_signed = ours.known[THEIR_USER].devices[theirs.device.device_id]  # it is sent to no other
    assert theirs.receive(ours.write(content, cross_signed)).outcome == "Decrypted"
    taken = theirs.machine.call("receive_room_key_bundle", room_id=ROOM, user_id=OUR_USER, file=made["file"])

    read = theirs.machine.decrypt_room_event(ROOM, said)
    assert taken == MXC
    assert read.event is not None
    assert read.event["content"] == HELLO
    assert read.curve25519 == carol.curve25519_key.to_base64()
