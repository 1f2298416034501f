"""Attacks on messages: by whoever delivers them, or takes part in the conversation.

Fact: all of them leave the encryption alone. What is refused here, a ratchet opens without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import evolve

from matrix_e2e_keys.client.receive.key_requests import KeyRequests
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyAction
from matrix_e2e_keys.client.receive.to_device import sort_to_device
from matrix_e2e_keys.demo.attacks import Attack, Refused, first
from matrix_e2e_keys.demo.conversation import Conversation, Talker, olm_key, room_event
from matrix_e2e_keys.demo.ratchets import OutboundRatchet
from matrix_e2e_keys.demo.stage import ALICE, BOB, ROOM
from matrix_e2e_keys.errors import Reason
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import ENCRYPTED
from matrix_e2e_keys.events.payloads import MegolmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent
from matrix_e2e_keys.events.secrets import DummyContent

__all__ = ["ON_MESSAGES_TO_DEVICES", "ON_MESSAGES_TO_ROOMS"]

_OTHER_ROOM: Final = "!other:a.example"

# --------------------------------------------------------------------------------------------------------------
# Messages to devices
# --------------------------------------------------------------------------------------------------------------


def _delivered(sender: str, content: EventContent, *, event_type: str = ENCRYPTED) -> ToDeviceEvent:
    """Return a message to a device, as a server delivers it."""
    return ToDeviceEvent.from_json({"type": event_type, "sender": sender, "content": content.to_json()})


def _change_sender(talk: Conversation) -> Refused | None:
    content = talk.phone.write(talk.laptop.device.own, DummyContent.event_type, {})
    return first(talk.laptop.read(_delivered("@mallory:b.example", content)).failed)


def _pass_on(talk: Conversation) -> Refused | None:
    """Encrypt for LAPTOP what names the key of TABLET."""
    laptop = talk.laptop.device.own
    payload = talk.phone.device.machine.olm_payload(DummyContent.event_type, {}, laptop)
    payload = evolve(payload, recipient_keys=talk.tablet.device.own.ed25519_key)
    return first(talk.laptop.read(_delivered(ALICE, talk.phone.encrypt(laptop, payload))).failed)


def _sorted(talker: Talker, event: ToDeviceEvent) -> Refused | None:
    """Return what a device has against a message before it decrypts anything."""
    return first(sort_to_device([event], own=talker.device.own).rejected)


def _deliver_elsewhere(talk: Conversation) -> Refused | None:
    return _sorted(talk.tablet, talk.delivered["LAPTOP"])


def _send_megolm(talk: Conversation) -> Refused | None:
    event = talk.said[0]
    return _sorted(talk.laptop, ToDeviceEvent(type=event.type, sender=event.sender, content=event.content))


def _send_key_in_the_open(talk: Conversation) -> Refused | None:
    key = talk.writer.room_key
    return _sorted(talk.laptop, _delivered(ALICE, key, event_type=key.event_type))


def _read(reader: Talker, writer: Talker, event_type: str, content: Mapping[str, Any]) -> DecryptedOlmEvent:
    """Let one device write to another, and return what the other one reads."""
    event = _delivered(writer.device.own.user_id, writer.write(reader.device.own, event_type, content))
    return reader.read(event).require()


def _misname_session(talk: Conversation) -> Refused | None:
    key = talk.writer.room_key
    content = {**key.to_json(), "session_id": OutboundRatchet(talk.olm).session_id}
    decision = talk.readers["LAPTOP"].take_key(_read(talk.laptop, talk.phone, key.event_type, content))
    return decision if decision.action is RoomKeyAction.REFUSE else None


def _forward_unasked(talk: Conversation) -> None:
    """Let Bob forward a key to Alice that she has not asked for."""
    phone = talk.phone.device
    ((_, ratchet),) = talk.readers["LAPTOP"].sessions.values()
    content = ForwardedRoomKeyContent.build(
        room_id=ROOM,
        session_key=ratchet.export(),
        sender_key=olm_key(phone.own),
        sender_claimed_ed25519_key=phone.own.ed25519_key,
    )
    event = _read(talk.phone, talk.laptop, content.event_type, content.to_json())
    KeyRequests(own_user_id=ALICE, own_device_id="PHONE").check_forward(event, own=phone.knows(ALICE))


ON_MESSAGES_TO_DEVICES: Final[tuple[Attack[Conversation], ...]] = (
    Attack(
        what="delivers what PHONE wrote as if it were from Mallory",
        how="Alice's name is inside",
        reason=Reason.SENDER_MISMATCH,
        path="/sender",
        carry_out=_change_sender,
    ),
    Attack(
        what="passes on to LAPTOP what is for TABLET",
        how="TABLET's key is inside",
        reason=Reason.RECIPIENT_KEY_MISMATCH,
        path="/recipient_keys/ed25519",
        carry_out=_pass_on,
    ),
    Attack(
        what="delivers to TABLET what is for LAPTOP",
        how="nothing in it is for TABLET",
        reason=Reason.NOT_FOR_THIS_DEVICE,
        path="/events/0/content/ciphertext",
        carry_out=_deliver_elsewhere,
    ),
    Attack(
        what="sends a device what is encrypted for a room",
        how="that is for rooms only",
        reason=Reason.WRONG_ALGORITHM,
        path="/events/0/content/algorithm",
        carry_out=_send_megolm,
    ),
    Attack(
        what="sends a room key that is not encrypted",
        how="nobody knows who made it",
        reason=Reason.NOT_ENCRYPTED,
        path="/events/0/type",
        carry_out=_send_key_in_the_open,
    ),
    Attack(
        what="sends a room key under another session's name",
        how="the key says its own",
        reason=Reason.SESSION_MISMATCH,
        path="/session_id",
        carry_out=_misname_session,
    ),
    Attack(
        what="forwards a room key to PHONE",
        how="PHONE has not asked for it",
        reason=Reason.UNREQUESTED,
        path="/session_id",
        carry_out=_forward_unasked,
    ),
)

# --------------------------------------------------------------------------------------------------------------
# Messages to rooms
# --------------------------------------------------------------------------------------------------------------


def _failed(talk: Conversation, event: RoomEvent) -> Refused | None:
    """Return what LAPTOP has against an event that the key of the room decrypts."""
    reader = talk.readers["LAPTOP"]
    ((session, ratchet),) = reader.sessions.values()
    return first(reader.read_with(session, ratchet, event).failed)


def _move(talk: Conversation) -> Refused | None:
    return _failed(talk, room_event(ALICE, talk.writer.say("I agree"), event_id="$moved", room_id=_OTHER_ROOM))


def _replay(talk: Conversation) -> Refused | None:
    return _failed(talk, evolve(talk.said[0], event_id="$again"))


def _say_as_somebody_else(talk: Conversation) -> Refused | None:
    return _failed(talk, room_event(BOB, talk.writer.say("I agree"), event_id="$mine"))


def _hide_state(talk: Conversation) -> Refused | None:
    payload = MegolmPayload(type="m.room.name", content={"name": "Ours"}, room_id=ROOM, extra={"state_key": ""})
    return _failed(talk, room_event(ALICE, talk.writer.encrypt(payload), event_id="$state"))


ON_MESSAGES_TO_ROOMS: Final[tuple[Attack[Conversation], ...]] = (
    Attack(
        what="moves a message to another room",
        how="it says for which room it is",
        reason=Reason.ROOM_MISMATCH,
        carry_out=_move,
    ),
    Attack(
        what="delivers a message once more, as a new one",
        how="LAPTOP has seen its number",
        reason=Reason.REPLAYED,
        carry_out=_replay,
    ),
    Attack(
        what="delivers a message of Alice as one of Bob",
        how="the session is Alice's",
        reason=Reason.SENDER_MISMATCH,
        carry_out=_say_as_somebody_else,
    ),
    Attack(
        what="hides a new name for the room in a message",
        how="encrypted events set no state",
        reason=Reason.STATE_EVENT,
        path="/state_key",
        carry_out=_hide_state,
    ),
)
