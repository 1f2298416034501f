"""Two devices that write to each other without a homeserver: one of ours, and an OlmMachine.

A :class:`Ratchets` is what an app has to add to this library in order to read and write encrypted events: an Olm
account, its sessions, and the order in which they are tried. An :class:`OlmPeer` is an OlmMachine that is told what a
homeserver would tell it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from interop.olm_machine import MakeOlmMachine, OlmMachine, OlmReceived, OlmRequest, OlmRoomEvent
from interop.people import USAGES, Person
from matrix_e2e_keys import (
    CrossSigningKey,
    Curve25519PublicKey,
    DeviceKeys,
    DeviceSigningUploadRequest,
    JsonObject,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    OneTimeKey,
    OwnIdentity,
    Rejection,
    SignaturesUploadRequest,
    UserIdentity,
    VerifiedDevice,
    check_query,
)
from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.client.receive.megolm_events import check_megolm_event, open_megolm_event
from matrix_e2e_keys.client.receive.megolm_judgments import MegolmJudgment
from matrix_e2e_keys.client.receive.olm_events import check_olm_event, open_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent, OlmJudgment
from matrix_e2e_keys.client.receive.received_sessions import judge_room_key
from matrix_e2e_keys.client.receive.replay_guard import ReplayGuard
from matrix_e2e_keys.client.receive.room_key_decisions import RoomKeyDecision
from matrix_e2e_keys.client.receive.senders import reassess_sender
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.events.contents import EventContent
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
)
from matrix_e2e_keys.events.olm_formats import MegolmSessionKey, OlmMessageType
from matrix_e2e_keys.events.payloads import MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.events.room_keys import RoomKeyContent
from matrix_e2e_keys.models.merged_signatures import merge_signatures

ROOM = "!room:example.org"
OUR_USER, OUR_DEVICE = "@ours:example.org", "OURS"
THEIR_USER, THEIR_DEVICE = "@theirs:example.org", "THEIRS"
ROOM_KEY = "m.room_key"
MESSAGE = "m.room.message"


def vodozemac() -> Any:
    """Return the library of the ratchets, which is used beyond its stubs."""
    import vodozemac as library  # noqa: PLC0415 - the fixtures decide what happens if it is missing

    return library


def text_message(body: str) -> dict[str, Any]:
    """Return the content of a message to people."""
    return {"msgtype": "m.text", "body": body}


def to_device_event(sender: str, content: OlmEncryptedContent | Mapping[str, Any]) -> dict[str, Any]:
    """Return an encrypted message to a device as a server delivers it."""
    plain = content.to_json() if isinstance(content, OlmEncryptedContent) else dict(content)
    return {"type": ENCRYPTED, "sender": sender, "content": plain}


def room_event(
    sender: str, content: MegolmEncryptedContent | Mapping[str, Any], event_id: str = "$1"
) -> dict[str, Any]:
    """Return an encrypted event of the room as a server delivers it."""
    plain = content.to_json() if isinstance(content, MegolmEncryptedContent) else dict(content)
    return {
        "type": ENCRYPTED,
        "sender": sender,
        "content": plain,
        "room_id": ROOM,
        "event_id": event_id,
        "origin_server_ts": 1_700_000_000_000,
        "unsigned": {},
    }


# --------------------------------------------------------------------------------------------------------------
# Ours
# --------------------------------------------------------------------------------------------------------------


class Ratchets:
    """The Olm account of one device of ours, and its sessions with others.

    Attributes:
        account: the account.
        own: the device.
    """

    def __init__(self, account: Any, own: VerifiedDevice) -> None:
        self._olm = vodozemac()
        self.account, self.own = account, own
        self._sessions: dict[Curve25519PublicKey, list[Any]] = {}  # the one to write with comes first

    @property
    def curve25519_key(self) -> Curve25519PublicKey:
        """The Olm identity key."""
        assert self.own.curve25519_key is not None
        return self.own.curve25519_key

    def open_session(self, device: VerifiedDevice, key: Curve25519PublicKey) -> None:
        """Open a session with a one-time key of a device."""
        theirs = identity_key(device)
        opened = self.account.create_outbound_session(self._olm_key(theirs), self._olm_key(key))
        self._sessions.setdefault(theirs, []).insert(0, opened)

    def sessions_with(self, device: VerifiedDevice) -> list[Any]:
        """Return the sessions with a device, the one to write with first."""
        return list(self._sessions.get(identity_key(device), ()))

    def encrypt(self, device: VerifiedDevice, plaintext: bytes) -> OlmCiphertext:
        """Return a message for a device with which there is a session."""
        return OlmCiphertext.from_parts(*self._sessions[identity_key(device)][0].encrypt(plaintext).to_parts())

    def encrypt_for(self, plaintexts: Iterable[tuple[VerifiedDevice, bytes]]) -> OlmEncryptedContent:
        """Return one content with a message for each of some devices."""
        messages = {identity_key(device): self.encrypt(device, plaintext) for device, plaintext in plaintexts}
        return OlmEncryptedContent.build(sender_key=self.curve25519_key, messages=messages)

    def payload(self, device: VerifiedDevice, event_type: str, content: Mapping[str, Any]) -> OlmPayload:
        """Return what this device says to another."""
        return OlmPayload.build(event_type=event_type, content=content, sender=self.own, recipient=device)

    def write(self, content: EventContent, *devices: VerifiedDevice) -> OlmEncryptedContent:
        """Return one content with the same event for each of some devices."""
        plain = content.to_json()
        return self.encrypt_for((it, self.payload(it, content.event_type, plain).encode()) for it in devices)

    def decrypt(self, event: ToDeviceEvent) -> bytes:
        """Return what is inside of a message to this device."""
        content = open_olm_event(event, own=self.own)
        mine = content.my_ciphertext(self.curve25519_key)
        message = self._olm.AnyOlmMessage.from_parts(int(mine.message_type), mine.message)
        sessions = self._sessions.setdefault(content.sender_key, [])
        if mine.message_type is OlmMessageType.PRE_KEY:
            pre_key = message.to_pre_key()
            if not any(session.session_matches(pre_key) for session in sessions):
                theirs = self._olm_key(content.sender_key)
                session, plaintext = self.account.create_inbound_session(theirs, pre_key)
                sessions.insert(0, session)
                return bytes(plaintext)
            sessions = [session for session in sessions if session.session_matches(pre_key)]
        for session in sessions:
            try:
                plaintext = session.decrypt(message)
            except self._olm.OlmDecryptionException:
                continue
            everything = self._sessions[content.sender_key]
            everything.insert(0, everything.pop(everything.index(session)))
            return bytes(plaintext)
        raise AssertionError("no session opens the message")

    def read(self, event: ToDeviceEvent, known: Mapping[str, KnownUser]) -> OlmJudgment:
        """Return what this library makes of a message to this device."""
        return check_olm_event(event, self.decrypt(event), own=self.own, known=known)

    def _olm_key(self, key: Curve25519PublicKey) -> Any:
        return self._olm.Curve25519PublicKey.from_base64(key.to_base64())


def identity_key(device: VerifiedDevice) -> Curve25519PublicKey:
    """Return the Olm identity key that a device must have."""
    assert device.curve25519_key is not None
    return device.curve25519_key


class OutboundRatchet:
    """A Megolm session of ours in the room.

    Attributes:
        session_id: its id.
    """

    def __init__(self, room_id: str = ROOM) -> None:
        self._session = vodozemac().GroupSession()
        self.room_id = room_id
        self.session_id: str = self._session.session_id

    @property
    def message_index(self) -> int:
        """The index of the next message."""
        index: int = self._session.message_index
        return index

    def key(self, *, shared_history: bool = True) -> RoomKeyContent:
        """Return what opens all that is encrypted from now on."""
        return RoomKeyContent.build(
            room_id=self.room_id,
            session_key=self._session.session_key.to_base64(),
            shared_history=shared_history,
        )

    def encrypt(
        self, event_type: str, content: Mapping[str, Any], *, named_sender: VerifiedDevice | None = None
    ) -> MegolmEncryptedContent:
        """Return the content of an ``m.room.encrypted``, with the members that are deprecated if a sender is named."""
        payload = MegolmPayload.build(event_type=event_type, content=content, room_id=self.room_id)
        return self.encrypt_text(payload.encode(), named_sender=named_sender, relates_to=content.get("m.relates_to"))

    def encrypt_text(
        self,
        plaintext: bytes,
        *,
        named_sender: VerifiedDevice | None = None,
        relates_to: Mapping[str, Any] | None = None,
    ) -> MegolmEncryptedContent:
        """Return the content of an ``m.room.encrypted`` with any plaintext."""
        return MegolmEncryptedContent.build(
            session_id=self.session_id,
            ciphertext=self._session.encrypt(plaintext).to_base64(),
            sender_key=None if named_sender is None else named_sender.curve25519_key,
            sender_device_id=None if named_sender is None else named_sender.device_id,
            relates_to=relates_to,
        )


class InboundRatchet:
    """A Megolm session of somebody else.

    Attributes:
        session_id: its id.
    """

    def __init__(self, key: MegolmSessionKey) -> None:
        self._olm = vodozemac()
        if key.is_signed:
            self._session = self._olm.InboundGroupSession(self._olm.SessionKey(key.text))
        else:
            self._session = self._olm.InboundGroupSession.import_session(self._olm.ExportedSessionKey(key.text))
        self.session_id: str = self._session.session_id

    def export(self, index: int) -> str:
        """Return the key in the export format. It opens what was encrypted from a message on."""
        text: str = self._session.export_at(index).to_base64()
        return text

    def decrypt(self, ciphertext: str) -> tuple[bytes, int]:
        """Return what is inside of a message, and its index."""
        found = self._session.decrypt(self._olm.MegolmMessage.from_base64(ciphertext))
        return bytes(found.plaintext), found.message_index


class RoomReader:
    """The Megolm sessions of others, and what this library remembers of them.

    Attributes:
        known: returns what is known of users.
        sessions: session id to what is remembered of the session.
    """

    def __init__(self, known: Callable[[], Mapping[str, KnownUser]] = dict) -> None:
        self.known = known
        self.sessions: dict[str, InboundSession] = {}
        self._ratchets: dict[str, InboundRatchet] = {}
        self._guard = ReplayGuard()

    def take_room_key(self, event: DecryptedOlmEvent) -> InboundSession:
        """Take over an ``m.room_key``, which has to be good."""
        session_id = event.content["session_id"]
        return self.take(judge_room_key(event, held=self.sessions.get(session_id)))

    def take(self, decision: RoomKeyDecision) -> InboundSession:
        """Do what was decided about a key; it must not have been refused."""
        session = decision.require()
        self.sessions[session.session_id] = session
        if decision.key is not None:
            self._ratchets[session.session_id] = InboundRatchet(decision.key)
        return session

    def restart(self) -> None:
        """Write down what this library remembers, and begin with what was written."""
        written = json.dumps([{name: it.to_json() for name, it in self.sessions.items()}, self._guard.to_json()])
        sessions, guard = json.loads(written)
        self.sessions = {session_id: InboundSession.from_json(obj) for session_id, obj in sessions.items()}
        self._guard = ReplayGuard.from_json(guard)

    def look_again(self, known: Mapping[str, KnownUser]) -> None:
        """Look again at who has made the sessions."""
        for session_id, session in self.sessions.items():
            if session.sender is not None:
                self.sessions[session_id] = session.with_sender(reassess_sender(session.sender, known=known))

    def read(self, event: RoomEvent) -> MegolmJudgment | None:
        """Return what this library makes of an encrypted event of a room; ``None`` if its key is missing."""
        content = open_megolm_event(event)
        session = self.sessions.get(content.session_id)
        if session is None:
            return None
        plaintext, index = self._ratchets[session.session_id].decrypt(content.ciphertext)
        return check_megolm_event(
            event, plaintext, message_index=index, session=session, known=self.known(), guard=self._guard
        )


class OurDevice(Ratchets):
    """A device of ours, of a user with an identity, and what it knows of others.

    Attributes:
        person: the private keys.
        known: what is known of users.
        published: the one-time keys that were given away.
        rooms: what it can read in rooms.
    """

    def __init__(self, user_id: str = OUR_USER, device_id: str = OUR_DEVICE) -> None:
        self.person = Person(user_id, device_id)
        super().__init__(self.person.account, self.person.device_keys().verify())
        self.known: dict[str, KnownUser] = {}
        self.published: list[Curve25519PublicKey] = []
        self.rooms = RoomReader(lambda: self.known)

    def one_time_key(self) -> OneTimeKey:
        """Return a fresh one-time key to give away."""
        (key,) = self.person.one_time_keys(1).values()
        self.published.append(key.verify(device=self.own).public_key)
        return key

    @property
    def identity(self) -> OwnIdentity:
        """The identity of the user."""
        master, self_signing, user_signing = (self.person.cross_signing_key(usage) for usage in USAGES)
        found = UserIdentity.verify(master_key=master, self_signing_key=self_signing, user_signing_key=user_signing)
        return found.confirm_as_own(master_key=found.master_public_key)

    def learn(self, answer: Mapping[str, Any]) -> None:
        """Take over an answer to ``/keys/query``."""
        request = KeysQueryRequest.for_users(answer["device_keys"])
        response = KeysQueryResponse.from_json(answer)
        result = check_query(request, response, own_user_id=self.own.user_id, own=self.identity, known=self.known)
        self.known |= result.known

    def verified(self, master_key: CrossSigningKey) -> dict[str, Any]:
        """Return a master key with the signature of a user who has compared it."""
        return self.person.sign(master_key.to_json(), "user_signing")

    def read_event(self, event: Mapping[str, Any]) -> OlmJudgment:
        """Return what this library makes of a message to this device, by what is known now."""
        return self.read(ToDeviceEvent.from_json(event), self.known)

    def answer(self, *, is_cross_signed: bool = True) -> dict[str, Any]:
        """Return an answer to ``/keys/query`` about this user."""
        if not is_cross_signed:
            return query_answer(self.person.device_keys())
        keys = {usage: self.person.cross_signing_key(usage).to_json() for usage in ("master", "self_signing")}
        return query_answer(self.person.cross_signed_device(), **keys)


def query_answer(
    device: DeviceKeys, *, master: JsonObject | None = None, self_signing: JsonObject | None = None
) -> dict[str, Any]:
    """Return an answer to ``/keys/query`` about one user."""
    user_id = device.user_id
    return {
        "device_keys": {user_id: {device.device_id: device.to_json()}},
        "failures": {},
        "master_keys": {} if master is None else {user_id: master},
        "self_signing_keys": {} if self_signing is None else {user_id: self_signing},
        "user_signing_keys": {},
    }


# --------------------------------------------------------------------------------------------------------------
# Theirs
# --------------------------------------------------------------------------------------------------------------


class OlmPeer:
    """An OlmMachine that is told what a homeserver would tell it.

    Attributes:
        machine: the machine.
        device: its device.
    """

    def __init__(
        self, new_olm_machine: MakeOlmMachine, user_id: str = THEIR_USER, device_id: str = THEIR_DEVICE
    ) -> None:
        self.machine: OlmMachine = new_olm_machine(user_id, device_id)
        upload, query = self.machine.outgoing()
        keys = KeysUploadRequest.from_bytes(upload.body)
        assert type(keys.device_keys) is DeviceKeys
        self._keys = keys.device_keys
        self.device = self._keys.verify()
        self._one_time_keys = [key for key in keys.one_time_keys.values() if isinstance(key, OneTimeKey)]
        self._identity: dict[str, CrossSigningKey] = {}
        self.machine.receive(upload, json.dumps({"one_time_key_counts": {"signed_curve25519": 50}}))
        self.machine.receive(query, json.dumps(self.answer()))

    def next_one_time_key(self) -> Curve25519PublicKey:
        """Return a one-time key, each once."""
        return self._one_time_keys.pop().verify(device=self.device).public_key

    def bootstrap(self) -> None:
        """Make an identity, and sign the device with it."""
        made = self.machine.call("bootstrap")
        keys = DeviceSigningUploadRequest.from_bytes(made["signing_keys"])
        for usage, key in (("master", keys.master_key), ("self_signing", keys.self_signing_key)):
            assert type(key) is CrossSigningKey
            self._identity[usage] = key
        signatures = SignaturesUploadRequest.from_bytes(made["signatures"])
        of_user = signatures.signed_objects[self.device.user_id]
        assert not isinstance(of_user, Rejection)
        signed = of_user[self.device.device_id]
        assert not isinstance(signed, Rejection)
        self._keys = merge_signatures(self._keys, DeviceKeys.from_json(signed.to_json()))

    @property
    def master_key(self) -> CrossSigningKey:
        """The master key of its user."""
        return self._identity["master"]

    def answer(self, *, master: JsonObject | None = None) -> dict[str, Any]:
        """Return an answer to ``/keys/query`` about this user; with another form of the master key, if it is given."""
        keys = {usage: key.to_json() for usage, key in self._identity.items()}
        return query_answer(self._keys, **(keys if master is None else {**keys, "master": master}))

    def learn(self, answer: Mapping[str, Any]) -> None:
        """Ask for users, and take over an answer to ``/keys/query``."""
        user_ids = list(answer["device_keys"])
        self.machine.call("track", users=user_ids)
        self.machine.receive_sync(changed=user_ids)
        (request,) = [it for it in self.machine.outgoing() if it.kind == "KeysQuery"]
        self.machine.receive(request, json.dumps(answer))

    def open_session(self, ours: OurDevice, *, has_keys: bool = True) -> None:
        """Claim a one-time key of a device of ours, which the machine has to know. It may have none left."""
        claim = OlmRequest(**self.machine.call("missing_sessions", users=[ours.own.user_id]))
        keys: dict[str, Any] = {}
        if has_keys:
            key = ours.one_time_key()
            keys = {ours.own.user_id: {ours.own.device_id: {str(key.key_id): key.to_json()}}}
        self.machine.receive(claim, json.dumps({"one_time_keys": keys, "failures": {}}))

    def messages(self, requests: Iterable[OlmRequest], ours: OurDevice) -> list[dict[str, Any]]:
        """Take messages to devices from the machine; return those for a device of ours, as a server delivers them."""
        delivered: list[dict[str, Any]] = []
        for request in requests:
            self.machine.receive(request, "{}")
            messages = json.loads(request.body)["messages"].get(ours.own.user_id, {})
            content = messages.get(ours.own.device_id, messages.get("*"))
            if content is not None:
                delivered.append({"type": request.event_type, "sender": self.device.user_id, "content": content})
        return delivered

    def outgoing_messages(self, ours: OurDevice) -> list[dict[str, Any]]:
        """Take all messages to devices from the machine; return those for a device of ours."""
        return self.messages([it for it in self.machine.outgoing() if it.kind == "ToDevice"], ours)

    def share_room_key(self, ours: OurDevice, room_id: str = ROOM, **how: str) -> list[dict[str, Any]]:
        """Make the room key known to our user; return the messages to our device."""
        return self.messages(self.machine.share_room_key(room_id, ours.own.user_id, **how), ours)

    def receive(self, content: OlmEncryptedContent | Mapping[str, Any], sender: str = OUR_USER) -> OlmReceived:
        """Return what the machine makes of an encrypted message to its device."""
        (received,) = self.machine.receive_sync([to_device_event(sender, content)])
        return received

    def read(self, content: MegolmEncryptedContent | Mapping[str, Any], **how: str) -> OlmRoomEvent:
        """Return what the machine makes of an encrypted event of the room, sent by our user."""
        return self.machine.decrypt_room_event(ROOM, room_event(OUR_USER, content), **how)
