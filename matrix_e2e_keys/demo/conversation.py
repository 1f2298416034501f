"""Messages: what a device does with its ratchets, and with the checks around them.

Fact: a ratchet says that nobody has altered a message, and with which key it was encrypted. Who has sent it, to whom
and to which room, is for the checks. So each message is opened by a ratchet first, and then judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define, field

from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.client.receive.megolm_events import check_megolm_event, open_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import MegolmJudgment
from matrix_e2e_keys.client.receive.olm_events import open_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent, OlmJudgment
from matrix_e2e_keys.client.receive.received_sessions import judge_room_key
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyDecision
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.sharing import NoOlmMemory, plan_sharing
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.demo.ratchets import InboundRatchet, OlmAccount, OutboundRatchet, Vodozemac
from matrix_e2e_keys.demo.stage import ALICE, NOW, ROOM, Device, Stage
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.events.encrypted import ENCRYPTED, MegolmEncryptedContent, OlmEncryptedContent
from matrix_e2e_keys.events.payloads import MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.events.to_device_batches import to_device_requests
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["MESSAGE", "Conversation", "RoomReader", "RoomWriter", "Talker", "olm_key", "room_event"]

MESSAGE: Final = "m.room.message"


def olm_key(device: VerifiedDevice) -> Curve25519PublicKey:
    """Return the key with which sessions with a device are opened.

    Raises:
        LocalProtocolError: it has none. There is no such device in the story.
    """
    if device.curve25519_key is None:
        raise LocalProtocolError(Reason.MISSING_KEY, "this device cannot be written to", path="/device")
    return device.curve25519_key


def room_event(sender: str, content: MegolmEncryptedContent, *, event_id: str, room_id: str = ROOM) -> RoomEvent:
    """Return an encrypted event of the room, as a server delivers it."""
    event = {
        "type": ENCRYPTED,
        "sender": sender,
        "event_id": event_id,
        "origin_server_ts": NOW,
        "content": content.to_json(),
    }
    return RoomEvent.from_json(event, room_id=room_id)


@define(eq=False)
class Talker:
    """A device that talks to other devices, through Olm.

    Attributes:
        device: the device.
        account: its ratchets.
        messages: how many messages it has encrypted.
    """

    device: Device
    account: OlmAccount
    messages: int = field(default=0, init=False)

    def open_sessions(self) -> None:
        """Open a session with each device of which a one-time key was claimed."""
        for key in self.device.claimed:
            self.account.open_session(olm_key(key.device), key.public_key)

    def write(self, recipient: VerifiedDevice, event_type: str, content: Mapping[str, Any]) -> OlmEncryptedContent:
        """Encrypt something for one device, with the names and keys that it has to check."""
        return self.encrypt(recipient, self.device.machine.olm_payload(event_type, content, recipient))

    def encrypt(self, recipient: VerifiedDevice, payload: OlmPayload) -> OlmEncryptedContent:
        """Encrypt for one device whatever it is."""
        self.messages += 1
        message = self.account.encrypt(olm_key(recipient), payload.encode())
        return OlmEncryptedContent.build(sender_key=self.account.identity_key, messages={olm_key(recipient): message})

    def decrypt(self, event: ToDeviceEvent) -> bytes:
        """Return what is inside of a message to this device, whoever has sent it.

        Raises:
            RemoteProtocolError: there is no message for this device in it, or not one that may be sent to devices.
        """
        content = open_olm_event(event, own=self.device.own)
        return self.account.decrypt(content.sender_key, content.my_ciphertext(self.account.identity_key))

    def read(self, event: ToDeviceEvent) -> OlmJudgment:
        """Decrypt a message to this device, and judge it."""
        return self.device.machine.receive_olm_event(event, self.decrypt(event), NOW).judgment


@define(eq=False)
class RoomWriter:
    """A device that writes to the room, with a Megolm session of its own.

    Attributes:
        talker: the device.
        ratchet: the session.
        session: what is remembered of it.
    """

    talker: Talker
    ratchet: OutboundRatchet
    session: OutboundSession

    @classmethod
    def begin(cls, olm: Vodozemac, talker: Talker) -> RoomWriter:
        """Make a session."""
        ratchet = OutboundRatchet(olm)
        session = OutboundSession(room_id=ROOM, session_id=ratchet.session_id, created_at=NOW, shared_history=False)
        return cls(talker=talker, ratchet=ratchet, session=session)

    @property
    def room_key(self) -> RoomKeyContent:
        """What others are sent, in order to read what is said from now on."""
        return RoomKeyContent.build(
            room_id=ROOM, session_key=self.ratchet.session_key, shared_history=self.session.shared_history
        )

    def share_key(self, recipients: Recipients) -> int:
        """Send the key to everybody who is to have it and does not, and return how many devices those are."""
        plan = plan_sharing(self.session, recipients, without_olm=(), unreachable=(), memory=NoOlmMemory())
        devices = [device for of_user in plan.share.values() for device in of_user.values()]
        self.session.start_sharing(
            devices, message_index=self.ratchet.message_index
        )  # here a real client writes it down
        key = self.room_key
        messages = {
            user_id: {
                name: self.talker.write(device, key.event_type, key.to_json()) for name, device in of_user.items()
            }
            for user_id, of_user in plan.share.items()
        }
        (request,) = to_device_requests(event_type=ENCRYPTED, messages=messages, txn_id="room-key")
        request.read_answer(self.talker.device.send(request))
        self.session.confirm_sharing([(device.user_id, device.device_id) for device in devices])
        return len(devices)

    def say(self, body: str) -> MegolmEncryptedContent:
        """Encrypt a message to the room, once for all."""
        payload = MegolmPayload.build(event_type=MESSAGE, content={"msgtype": "m.text", "body": body}, room_id=ROOM)
        return self.encrypt(payload)

    def encrypt(self, payload: MegolmPayload) -> MegolmEncryptedContent:
        """Encrypt for the room whatever it is."""
        self.session.mark_encrypted(message_index=self.ratchet.message_index, now=NOW)
        ciphertext = self.ratchet.encrypt(payload.encode())
        return MegolmEncryptedContent.build(session_id=self.ratchet.session_id, ciphertext=ciphertext, relates_to=None)


@define(eq=False)
class RoomReader:
    """A device that reads what is said in rooms.

    Attributes:
        olm: the library of the ratchets.
        guard: knows which messages it has seen.
        known: what it knows of users, as of when it last looked.
        sessions: room and session id to what is remembered of a session, and its ratchet.
    """

    olm: Vodozemac
    guard: ReplayGuard = field(factory=ReplayGuard, init=False)
    known: Mapping[str, KnownUser] = field(factory=dict, init=False)
    sessions: dict[tuple[str, str], tuple[InboundSession, InboundRatchet]] = field(factory=dict, init=False)

    def take_key(self, event: DecryptedOlmEvent) -> RoomKeyDecision:
        """Judge a room key, and keep it if it is good and opens more than what is held."""
        held = [
            session for session, _ in self.sessions.values() if session.session_id == event.content.get("session_id")
        ]
        decision = judge_room_key(event, held=held[0] if held else None)
        if decision.session is not None and decision.key is not None:
            ratchet = InboundRatchet.of(self.olm, decision.key.text)
            self.sessions[decision.session.lookup_key] = decision.session, ratchet
        return decision

    def look_again(self, known: Mapping[str, KnownUser]) -> None:
        """See the makers of all sessions as one sees them now: somebody may be verified by now."""
        self.known = known
        for lookup_key, (session, ratchet) in self.sessions.items():
            maker = session.sender
            seen = session if maker is None else session.with_sender(reassess_sender(maker, known=known))
            self.sessions[lookup_key] = seen, ratchet

    def read(self, event: RoomEvent) -> MegolmJudgment:
        """Decrypt a message of a room with the session of its room and its session id, and judge it."""
        return self.read_with(*self.sessions[event.room_id, open_megolm_event(event).session_id], event)

    def read_with(self, session: InboundSession, ratchet: InboundRatchet, event: RoomEvent) -> MegolmJudgment:
        """Decrypt a message with a session that may be the right one, and judge it."""
        plaintext, message_index = ratchet.decrypt(open_megolm_event(event).ciphertext)
        return check_megolm_event(
            event, plaintext, message_index=message_index, session=session, known=self.known, guard=self.guard
        )


@define(eq=False)
class Conversation:
    """Everybody who talks, and what was said.

    Attributes:
        olm: the library of the ratchets.
        phone: Alice's device, which writes.
        tablet: her other device.
        laptop: Bob's device.
        writer: what PHONE writes to the room with.
        readers: device id to what the others read with.
        delivered: device id to the message that has brought the room key to a device.
        said: what was said in the room.
    """

    olm: Vodozemac = field(repr=False)
    phone: Talker
    tablet: Talker
    laptop: Talker
    writer: RoomWriter
    readers: dict[str, RoomReader] = field(init=False)
    delivered: dict[str, ToDeviceEvent] = field(factory=dict, init=False)
    said: list[RoomEvent] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.readers = {talker.device.own.device_id: RoomReader(self.olm) for talker in (self.tablet, self.laptop)}

    @classmethod
    def begin(cls, olm: Vodozemac, stage: Stage, accounts: Mapping[str, OlmAccount]) -> Conversation:
        """Give everybody ratchets: the accounts from which the devices on the stage have their keys, by device id."""
        phone, tablet, laptop = (Talker(device, accounts[device.own.device_id]) for device in stage.devices)
        writer = RoomWriter.begin(olm, phone)
        return cls(olm=olm, phone=phone, tablet=tablet, laptop=laptop, writer=writer)

    @property
    def messages(self) -> int:
        """How many messages were encrypted, to devices and to the room."""
        to_devices = sum(talker.messages for talker in (self.phone, self.tablet, self.laptop))
        return to_devices + self.writer.session.message_count

    def receive_room_key(self, talker: Talker) -> RoomKeyDecision:
        """Let a device hear what it was sent, and take the room key out of it."""
        talker.device.go_on()
        (event,) = talker.device.to_device.accepted
        device_id = talker.device.own.device_id
        self.delivered[device_id] = event
        return self.readers[device_id].take_key(talker.read(event).require())

    def say(self, body: str) -> RoomEvent:
        """Let PHONE say something in the room, and return the event."""
        event = room_event(ALICE, self.writer.say(body), event_id=f"${len(self.said) + 1}")
        self.said.append(event)
        return event
