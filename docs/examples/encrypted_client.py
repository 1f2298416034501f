"""An encrypted client on vodozemac and SQLite: what it stores and when, to whom it writes, and what it believes.

    client = EncryptedClient(transport, Store("alice.db", key), user_id="@alice:a.example", device_id="PHONE")
    client.set_up_identity()  # on the first device; it signs the others
    client.sync()  # again and again
    client.send("!room:a.example", "m.room.message", {"msgtype": "m.text", "body": "Hello"})

Three rules of order. What ``/sync`` has brought is stored together with its token, before the next one: then the server
forgets the messages to this device. What a ratchet has encrypted is stored, with the ratchet, before it is sent: one
that comes back from before a crash encrypts two messages with one key. Who may have a session key is stored before it
is sent to them; that they were sent it, afterwards. If a method raises what its docstring does not name, throw the
client away, and make it anew from the store.

Left out: attachments, key backup, bundles of history, secrets (``m.secret.request``), lazy loading of members, and
verification by emoji: whoever has compared keys says so to ``client.machine``.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import nacl.secret
import vodozemac

import matrix_e2e_keys as m

LOG = logging.getLogger(__name__)
ENCRYPTED = "m.room.encrypted"
# vodozemac's Python package forgets a fallback key when the next but one is made, and not when it is asked to.
SUPPLY = m.SupplyPolicy(fallback_grace_ms=10**12)
PARTS: Mapping[str, Any] = {"guard": m.ReplayGuard, "no_olm": m.NoOlmMemory, "requests": m.KeyRequests}
PLAIN = ("since", "rooms", "messages", "unread", "outbox", "asking")
Messages = dict[str, dict[str, m.EventContent]]


class Transport(Protocol):
    """The way to the homeserver. It raises an OSError if there is no answer."""

    def send(self, request: m.HttpRequest) -> m.HttpResponse: ...

    def sync(self, since: str | None) -> bytes: ...

    def send_event(self, room_id: str, event_type: str, txn_id: str, content: Mapping[str, Any]) -> None: ...


class Store:
    """One file, one row. A real store has a row for each session, and writes those that changed in one transaction."""

    def __init__(self, path: str, key: bytes) -> None:
        self.key = key  # encrypts ratchets and seeds; 32 bytes, which lie elsewhere
        self._db = sqlite3.connect(path)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 0), value TEXT NOT NULL)"
        )

    def load(self) -> dict[str, Any] | None:
        row = self._db.execute("SELECT value FROM state").fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def save(self, state: Mapping[str, Any]) -> None:
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO state VALUES (0, ?)", [json.dumps(state)])

    def close(self) -> None:
        self._db.close()


class Olm:
    """The account of a device, and its sessions: by the identity key of the other one, first the one to write with."""

    def __init__(self, account: Any) -> None:
        self.account = account
        self.sessions: dict[str, list[Any]] = {}
        self.identity_key = from_olm(account.curve25519_key)

    def has_session(self, device: m.VerifiedDevice) -> bool:
        return device.curve25519_key is not None and device.curve25519_key.to_base64() in self.sessions

    def open(self, key: m.VerifiedOneTimeKey) -> None:
        """Begin a session, by a key that was claimed. A ValueError says that nothing comes of it."""
        assert key.device.curve25519_key is not None  # no key is claimed of a device without
        session = self.account.create_outbound_session(to_olm(key.device.curve25519_key), to_olm(key.public_key))
        self.sessions.setdefault(key.device.curve25519_key.to_base64(), []).insert(0, session)

    def encrypt(self, payload: m.OlmPayload, device: m.VerifiedDevice) -> m.OlmEncryptedContent:
        assert device.curve25519_key is not None  # there is a session
        message = self.sessions[device.curve25519_key.to_base64()][0].encrypt(payload.encode())
        ciphertext = m.OlmCiphertext.from_parts(*message.to_parts())
        return m.OlmEncryptedContent.build(sender_key=self.identity_key, messages={device.curve25519_key: ciphertext})

    def decrypt(self, content: m.OlmEncryptedContent) -> tuple[bytes, bool]:
        """Return what is inside, and whether it began a session. A ValueError says that it cannot be decrypted."""
        mine, name = content.my_ciphertext(self.identity_key), content.sender_key.to_base64()
        message = vodozemac.AnyOlmMessage.from_parts(mine.message_type, mine.message)
        first, sessions = message.to_pre_key(), self.sessions.get(name, [])
        matching = [session for session in sessions if first is None or session.session_matches(first)]
        for session in matching:
            try:
                plaintext = session.decrypt(message)
            except ValueError:
                continue
            # "use the session that last received and successfully decrypted a message"
            self.sessions[name] = [session, *(other for other in sessions if other is not session)]
            return bytes(plaintext), False
        if first is None or matching:
            # A server can deliver a first message twice. With a fallback key it would open its session once more, from
            # its beginning, and that one would take the place of the one in use.
            raise ValueError("no session decrypts the message")
        session, plaintext = self.account.create_inbound_session(to_olm(content.sender_key), first)
        if session.session_id in [other.session_id for other in sessions]:
            raise ValueError("the session is there already")
        self.sessions[name] = [session, *sessions]
        return bytes(plaintext), True


def to_olm(key: m.Curve25519PublicKey) -> Any:
    return vodozemac.Curve25519PublicKey.from_base64(key.to_base64())


def from_olm(key: Any) -> m.Curve25519PublicKey:
    return m.Curve25519PublicKey.from_base64(key.to_base64())


def ratchet_of(key: m.MegolmSessionKey) -> Any:
    if key.is_signed:
        return vodozemac.InboundGroupSession(vodozemac.SessionKey(key.text))
    return vodozemac.InboundGroupSession.import_session(vodozemac.ExportedSessionKey(key.text))


def room_key(session: m.OutboundSession, ratchet: Any) -> m.RoomKeyContent:
    key, shared_history = ratchet.session_key.to_base64(), session.shared_history
    return m.RoomKeyContent.build(room_id=session.room_id, session_key=key, shared_history=shared_history)


def name_of(device: m.VerifiedDevice) -> tuple[str, str]:
    return device.user_id, device.device_id


def listed(devices: Mapping[str, Mapping[str, m.VerifiedDevice]]) -> list[m.VerifiedDevice]:
    return [device for of_user in devices.values() for device in of_user.values()]


def room_events(answer: Any) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the room and the event of each in an answer of ``/sync``, and whether others before it are left out."""
    for section in ("join", "leave"):
        for room_id, room in answer.get("rooms", {}).get(section, {}).items():
            timeline = room.get("timeline", {})
            for event in (*room.get("state", {}).get("events", ()), *timeline.get("events", ())):
                if isinstance(event, dict):
                    yield room_id, event, bool(timeline.get("limited"))


class EncryptedClient:
    """A device that is logged in. Not for several threads."""

    def __init__(
        self,
        transport: Transport,
        store: Store,
        *,
        user_id: str,
        device_id: str,
        policy: m.RecipientPolicy = m.RecipientPolicy.CROSS_SIGNED_ONLY,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.transport, self.store, self.policy, self.now = transport, store, policy, clock
        self.user_id, self.device_id = user_id, device_id
        self.inbound: dict[str, tuple[m.InboundSession, Any]] = {}  # by session id, with the ratchet
        self.outbound: dict[str, tuple[m.OutboundSession, Any]] = {}  # by room id, with the ratchet
        self.guard, self.no_olm = m.ReplayGuard(), m.NoOlmMemory()
        self.requests = m.KeyRequests(own_user_id=user_id, own_device_id=device_id)
        self.since: str | None = None
        self.rooms: dict[str, dict[str, Any]] = {}  # what their state says
        self.messages: dict[str, dict[str, Any]] = {}  # event id to what was read
        self.unread: dict[str, list[list[Any]]] = {}  # session id to [room id, event] of what waits for its key
        self.outbox: list[dict[str, Any]] = []  # what is encrypted, and was not taken by the server
        self.asking: list[dict[str, Any]] = []  # requests for keys that are to be answered
        self._writing_to: set[tuple[str, str]] = set()
        state = store.load()
        account = vodozemac.Account.from_pickle(state["account"], store.key) if state else vodozemac.Account()
        self.olm, signer = Olm(account), m.VodozemacSigner.of(account, device_id)
        if state:
            self.machine = m.KeyMachine.from_json(state["machine"], signer=signer, policy=SUPPLY)
            self._restore(state, store.key)
        else:
            key = self.olm.identity_key
            keys = m.DeviceKeys.build(user_id=user_id, device_id=device_id, curve25519_key=key, signer=signer)
            self.machine = m.KeyMachine.create(keys, signer=signer, policy=SUPPLY)
        self.go_on()

    def _restore(self, state: Mapping[str, Any], key: bytes) -> None:
        if state["seeds"]:
            seeds = json.loads(nacl.secret.SecretBox(key).decrypt(bytes.fromhex(state["seeds"])))
            self.machine.signing.use_secrets(m.CrossSigningSecrets.from_seeds(self.user_id, seeds))
        for name, pickles in state["olm"].items():
            self.olm.sessions[name] = [vodozemac.Session.from_pickle(pickle, key) for pickle in pickles]
        for obj, pickle in state["inbound"]:
            inbound = m.InboundSession.from_json(obj)
            self.inbound[inbound.session_id] = inbound, vodozemac.InboundGroupSession.from_pickle(pickle, key)
        for obj, pickle in state["outbound"]:
            outbound = m.OutboundSession.from_json(obj)
            self.outbound[outbound.room_id] = outbound, vodozemac.GroupSession.from_pickle(pickle, key)
        vars(self).update({name: kind.from_json(state[name]) for name, kind in PARTS.items()})
        vars(self).update({name: state[name] for name in PLAIN})

    def save(self) -> None:
        """Store everything in one transaction."""
        key, machine, secrets = self.store.key, self.machine.to_json(), self.machine.signing.secrets
        seeds = None if secrets is None else json.dumps(secrets.export_seeds()).encode()
        state = {
            "machine": machine,
            "account": self.olm.account.pickle(key),
            "seeds": seeds and nacl.secret.SecretBox(key).encrypt(seeds).hex(),
            "olm": {name: [session.pickle(key) for session in of] for name, of in self.olm.sessions.items()},
            "inbound": [(session.to_json(), ratchet.pickle(key)) for session, ratchet in self.inbound.values()],
            "outbound": [(session.to_json(), ratchet.pickle(key)) for session, ratchet in self.outbound.values()],
        }
        parts = {name: getattr(self, name).to_json() for name in PARTS}
        self.store.save({**state, **parts, **{name: getattr(self, name) for name in PLAIN}})
        self.machine.mark_stored(machine)

    # Keys ------------------------------------------------------------------------------------------------------

    def set_up_identity(self) -> None:
        """Make an identity for cross-signing. It is stored before it is uploaded."""
        self.machine.start_bootstrap(m.CrossSigningSecrets.generate(self.user_id))
        self.go_on()

    def go_on(self) -> None:
        """Send what there is to send, until that is all. Call it at ``machine.next_wake_at()``, too."""
        while True:
            self._make_keys()
            self.save()
            requests = self.machine.outgoing_requests(self.now())
            if not requests:
                break
            for outgoing in requests:
                self._exchange(outgoing)
        self.flush()

    def _make_keys(self) -> None:
        needed, account = self.machine.supply.needed(self.now()), self.olm.account
        if needed.one_time_keys:
            account.generate_one_time_keys(needed.one_time_keys)
            self.machine.add_one_time_keys({name: from_olm(key) for name, key in account.one_time_keys.items()})
        if needed.fallback_key:
            account.generate_fallback_key()
            ((name, key),) = account.fallback_key.items()
            self.machine.add_fallback_key(name, from_olm(key), self.now())
        account.mark_keys_as_published()

    def _exchange(self, outgoing: m.OutgoingRequest) -> None:
        try:
            answer = outgoing.request.read_answer(self.transport.send(outgoing.request.to_http()))
        except (m.E2EKeysError, OSError) as error:
            why = error if isinstance(error, m.E2EKeysError) else None
            received = self.machine.receive_error(outgoing.request_id, why, self.now())
            LOG.warning("%s: %s", error, received.authentication)
        else:
            received = self.machine.receive_response(outgoing.request_id, answer, self.now())
        for change in received.changes:
            LOG.info("%s: %s", change.kind, change.detail)
        for of_user in received.sessions.values():
            for key in of_user.values():
                try:
                    self.olm.open(key)
                except ValueError:
                    self.machine.sessions.session_failed(key.device, self.now())
                    continue
                self._session_opened(key.device)
                if name_of(key.device) not in self._writing_to:  # in place of a broken one: nothing else tells of it
                    self._post(ENCRYPTED, self._encrypt(m.DummyContent.build(), [key.device]))

    def _session_opened(self, device: m.VerifiedDevice) -> None:
        self.machine.sessions.session_opened(device)
        self.no_olm.forget([name_of(device)])

    def _open_sessions(self, devices: Iterable[m.VerifiedDevice]) -> None:
        """Claim keys of devices to which something is about to be written."""
        wanted = [device for device in devices if not self.olm.has_session(device)]
        self._writing_to = {name_of(device) for device in wanted}
        self.machine.sessions.want(wanted)
        self.go_on()
        self._writing_to = set()

    # The outbox ------------------------------------------------------------------------------------------------

    def _encrypt(self, content: m.EventContent, devices: Iterable[m.VerifiedDevice]) -> Messages:
        messages: Messages = {}
        for device in devices:
            payload = self.machine.olm_payload(content.event_type, content.to_json(), device)
            messages.setdefault(device.user_id, {})[device.device_id] = self.olm.encrypt(payload, device)
        return messages

    def _post(
        self, event_type: str, messages: Mapping[str, Mapping[str, m.EventContent]], *, key_of: str | None = None
    ) -> None:
        for request in m.to_device_requests(event_type=event_type, messages=messages, txn_id=uuid.uuid4().hex):
            item = {"type": event_type, "txn_id": request.txn_id, "content": request.to_json(), "key_of": key_of}
            self.outbox.append(item)

    def flush(self) -> bool:
        """Send what is in the outbox, keys before what they open, and return whether that was all.

        Whatever was not answered is sent again with the same transaction id, also after a restart.
        """
        if self.outbox:
            self.save()
        while self.outbox:
            try:
                self._send(self.outbox[0])
            except (m.E2EKeysError, OSError) as error:
                if not isinstance(error, m.MatrixError) or error.status == 429 or error.status >= 500:
                    return False
                LOG.warning("the server refuses: %s", error)  # who was to get a key is in the next plan again
            del self.outbox[0]
            self.save()
        return True

    def _send(self, item: Mapping[str, Any]) -> None:
        if "room_id" in item:
            self.transport.send_event(item["room_id"], ENCRYPTED, item["txn_id"], item["content"])
            return
        request = m.SendToDeviceRequest.from_json(item["content"], event_type=item["type"], txn_id=item["txn_id"])
        request.read_answer(self.transport.send(request.to_http()))
        sent = item["content"]["messages"]
        for session, _ in self.outbound.values():
            if session.session_id == item["key_of"]:
                session.confirm_sharing((user_id, name) for user_id in sent for name in sent[user_id])

    # Writing ---------------------------------------------------------------------------------------------------

    def send(self, room_id: str, event_type: str, content: Mapping[str, Any]) -> None:
        """Encrypt an event for those who may read it, and send it; or keep it in the outbox, if that fails.

        Raises:
            OSError: the outbox cannot be sent, so that it is not known who has which key. Try again later.
            VerificationError: the policy stops. The user has to decide.
            ValueError: the room is not encrypted, or not in a way that is supported.
        """
        room = self.rooms.get(room_id, {"encryption": None})
        settings = room["encryption"] and m.RoomEncryption.from_json(room["encryption"])
        if not settings or not settings.is_supported:
            raise ValueError("nothing can be encrypted here")
        if not self.flush():
            raise OSError("the outbox cannot be sent")
        self.go_on()  # asks for the devices of those who are unknown, or out of date
        claimed: set[tuple[str, str]] = set()
        while True:  # what is decided here holds until the next request
            recipients = self.machine.devices_for(self._readers(room), self.policy).require()
            session, ratchet = self._own_session(room_id, settings, recipients)
            without = [name_of(device) for device in listed(recipients.devices) if not self.olm.has_session(device)]
            unreachable = self.machine.sessions.without_session
            plan = m.plan_sharing(session, recipients, without_olm=without, unreachable=unreachable, memory=self.no_olm)
            lacking = [device for device in listed(plan.claim) if name_of(device) not in claimed]
            if not lacking:
                break
            claimed.update(map(name_of, lacking))
            self._open_sessions(lacking)
        devices = listed(plan.share)
        session.start_sharing(devices, message_index=ratchet.message_index)
        self._post(ENCRYPTED, self._encrypt(room_key(session, ratchet), devices), key_of=session.session_id)
        payload = m.MegolmPayload.build(event_type=event_type, content=content, room_id=room_id)
        session.mark_encrypted(message_index=ratchet.message_index, now=self.now())
        ciphertext = ratchet.encrypt(payload.encode()).to_base64()
        encrypted = m.MegolmEncryptedContent.build(
            session_id=session.session_id,
            ciphertext=ciphertext,
            relates_to=content.get("m.relates_to"),
            sender_key=self.olm.identity_key,  # this and the next one are for older clients
            sender_device_id=self.device_id,
        )
        self.outbox.append({"room_id": room_id, "txn_id": uuid.uuid4().hex, "content": encrypted.to_json()})
        if self.flush():
            self._tell(session, plan)

    def _readers(self, room: Mapping[str, Any]) -> list[str]:
        """Return who may read what is said now."""
        memberships = ["join"] if room["visibility"] == m.HistoryVisibility.JOINED else ["join", "invite"]
        return [user_id for user_id, membership in room["members"].items() if membership in memberships]

    def _own_session(
        self, room_id: str, settings: m.RoomEncryption, recipients: m.Recipients
    ) -> tuple[m.OutboundSession, Any]:
        """Return the session to write with: the one there is, unless it has to go."""
        room, visibility = self.rooms[room_id], self.rooms[room_id]["visibility"]
        visibility = visibility and m.HistoryVisibility(visibility)
        if room_id in self.outbound:
            session, ratchet = self.outbound[room_id]
            reasons = m.rotation_reasons(
                session,
                settings=settings,
                visibility=visibility,
                members=self._readers(room),
                recipients=recipients,
                message_index=ratchet.message_index,
                now=self.now(),
            )
            if not reasons:
                return session, ratchet
            LOG.info("a new session: %s", [reason.kind for reason in reasons])
        ratchet, shared_history = vodozemac.GroupSession(), m.shares_history(visibility)
        session = m.OutboundSession(
            room_id=room_id, session_id=ratchet.session_id, created_at=self.now(), shared_history=shared_history
        )
        self.outbound[room_id] = session, ratchet
        # What one has said oneself comes back, and is read like everything else.
        self._take(m.session_of_own(room_key(session, ratchet), own=self.machine.device))
        return session, ratchet

    def _tell(self, session: m.OutboundSession, plan: m.SharingPlan) -> None:
        """Tell devices why they get no key. Those who are not reached are in the next plan again."""
        contents = plan.withheld_contents(self.olm.identity_key)
        event_type = m.RoomKeyWithheldContent.event_type
        try:
            for request in m.to_device_requests(event_type=event_type, messages=contents, txn_id=uuid.uuid4().hex):
                request.read_answer(self.transport.send(request.to_http()))
        except (m.E2EKeysError, OSError):
            return
        session.mark_told(plan.withheld)
        self.no_olm.mark_told(plan)
        self.save()

    # Reading ---------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Take over what is new, and store it with its token. Only then send what follows from it.

        Raises:
            OSError: there is no answer.
            E2EKeysError: it cannot be read. Nothing has changed.
        """
        body = self.transport.sync(self.since)
        keys, to_device, answer = m.SyncKeys.from_sync_v2(body), m.ToDeviceEvents.from_sync_v2(body), json.loads(body)
        events = list(room_events(answer))
        self.machine.receive_sync(keys, since=self.since, next_batch=answer["next_batch"], now=self.now())
        for room_id, event, is_limited in events:
            self._receive_state(room_id, event, is_limited=is_limited)
        for room in self.rooms.values():
            if room["encryption"] and room["members"].get(self.user_id) == "join":
                self.machine.lists.track(self._readers(room))
        received = m.sort_to_device(to_device, own=self.machine.device)
        for encrypted in received.encrypted:
            self._receive_encrypted(encrypted)
        for plain in received.plain:
            if isinstance(plain.content, m.RoomKeyRequestContent):
                self.asking.append(plain.event.to_json())
        for refused in received.rejected:
            LOG.warning("refused: %s %s", refused.path, refused.detail)
        for room_id, event, _ in events:
            if event.get("type") == ENCRYPTED:
                self._read(room_id, event)
        self.since = answer["next_batch"]
        self.save()  # a crash before this loses nothing: the same comes again
        self.go_on()
        self._ask()
        self._answer()
        self.flush()

    def _receive_state(self, room_id: str, event: Mapping[str, Any], *, is_limited: bool) -> None:
        room = self.rooms.setdefault(room_id, {"encryption": None, "visibility": "shared", "members": {}})
        content = event.get("content")
        match event.get("type"), event.get("state_key"):
            case "m.room.encryption", "":  # whatever stands in it
                old = room["encryption"] and m.RoomEncryption.from_json(room["encryption"])
                settings = old.updated(content).settings if old else m.RoomEncryption.from_content(content)
                room["encryption"] = settings.to_json()
            case "m.room.history_visibility", "":
                room["visibility"] = m.HistoryVisibility.from_content(content or {})
            case "m.room.member", str(user_id) if m.is_user_id(user_id) and isinstance(content, dict):
                membership = content.get("membership")
                room["members"][user_id] = membership
                if room_id in self.outbound:  # whoever left may be back when the next message is written
                    session, _ = self.outbound[room_id]
                    if membership not in ("join", "invite", "knock") or (is_limited and membership != "join"):
                        session.mark_left([user_id])
                    elif membership == "invite" and session.shared_history:
                        session.mark_history_shared([user_id])
            case _:
                pass

    def _receive_encrypted(self, encrypted: m.EncryptedToDevice) -> None:
        try:
            plaintext, is_new = self.olm.decrypt(encrypted.content)
        except ValueError:
            self.machine.receive_undecryptable(encrypted.event, self.now())
            return
        judgment = self.machine.receive_olm_event(encrypted.event, plaintext, self.now()).judgment
        known = self.machine.users.users
        try:
            event = judgment.require()
            if is_new and event.sender.device is not None:
                self._session_opened(event.sender.device)
            content = m.read_inside(event)
            if isinstance(content, m.RoomKeyContent):
                held, _ = self._held(content.session_id)
                self._take(m.judge_room_key(event, held=held, known=known, connects=self._connects))
            elif isinstance(content, m.ForwardedRoomKeyContent) and self.user_id in known:
                held, _ = self._held(content.session_id)
                forward = self.requests.check_forward(event, own=known[self.user_id])
                self._take(m.session_from_forward(forward, held=held, connects=self._connects))
        except (m.RemoteProtocolError, m.VerificationError) as error:
            LOG.warning("refused, from %s: %s", encrypted.event.sender, error)

    def _held(self, session_id: str) -> tuple[m.InboundSession | None, Any]:
        return self.inbound.get(session_id, (None, None))

    def _take(self, decision: m.RoomKeyDecision) -> None:
        """Do what was decided about a session key, and read what has waited for it."""
        session = decision.session
        if decision.action is m.RoomKeyAction.REFUSE or session is None:
            LOG.warning("a room key is refused: %s", decision.detail)
            return
        try:
            ratchet = ratchet_of(decision.key) if decision.key else self.inbound[session.session_id][1]
        except ValueError as error:
            LOG.warning("a room key is refused: %s", error)
            return
        self.inbound[session.session_id] = session, ratchet
        for room_id, event in self.unread.pop(session.session_id, []):
            self._read(room_id, event)
        if session.session_id not in self.unread:  # a key that opens too little is still missing
            done = self.requests.settle_key(session.room_id, session.session_id, by=session.forwarder)
            if done is not None:
                self._post(done.event_type, done.messages)

    def _connects(self, key: m.MegolmSessionKey) -> bool:
        """Tell whether a key and what is held of its session are the same at the later of both first indices."""
        _, held = self.inbound[key.session_id]
        try:
            new = ratchet_of(key)
        except ValueError:
            return False
        index = max(held.first_known_index, new.first_known_index)
        return bool(held.export_at(index).to_base64() == new.export_at(index).to_base64())

    def _read(self, room_id: str, obj: dict[str, Any]) -> None:
        try:
            event = m.RoomEvent.from_json(obj, room_id=room_id)
            opened = m.open_megolm_event(event)
            session, ratchet = self._held(opened.session_id)
            if session is None or session.room_id != room_id or opened.message_index < session.first_index:
                self.unread.setdefault(opened.session_id, []).append([room_id, obj])
                return
            decrypted = ratchet.decrypt(vodozemac.MegolmMessage.from_base64(opened.ciphertext))
            plaintext, index, known = bytes(decrypted.plaintext), decrypted.message_index, self.machine.users.users
            shown = m.check_megolm_event(
                event, plaintext, message_index=index, session=session, guard=self.guard, known=known
            ).require()
        except (m.RemoteProtocolError, m.VerificationError, ValueError) as error:
            LOG.warning("%s is not shown: %s", obj.get("event_id"), error)
            return
        self.messages[event.event_id] = {**shown.to_event().to_json(), "session_id": session.session_id}

    def trust(self, event_id: str) -> m.SenderTrust | None:
        """Return how sure one is by now of who wrote a message; ``None`` if one has only the word of the servers."""
        sender = self.inbound[self.messages[event_id]["session_id"]][0].sender
        if sender is None:  # somebody else has handed on the key
            return None
        try:
            return m.reassess_sender(sender, known=self.machine.users.users).trust
        except m.VerificationError:
            return None

    # Keys that are missing, here and elsewhere -----------------------------------------------------------------

    def _ask(self) -> None:
        """Ask one's other verified devices for the keys that messages wait for."""
        own = self.machine.users.users.get(self.user_id)
        for session_id, waiting in self.unread.items():
            if own is not None:
                room_id, request_id = waiting[0][0], uuid.uuid4().hex
                asked = self.requests.ask_for_key(room_id, session_id, request_id=request_id, own=own)
                if asked is not None:
                    self._post(asked.event_type, asked.messages)

    def _answer(self) -> None:
        """Give keys to the devices of one's own that ask for them, if they are verified."""
        for obj in list(self.asking):
            event = m.ToDeviceEvent.from_json(obj)
            body = m.RoomKeyRequestContent.from_json(event.content).body
            session, ratchet = self._held(body.session_id if body else "")
            decision = m.judge_key_request(
                event,
                known=self.machine.users.users,
                own_user_id=self.user_id,
                own_device_id=self.device_id,
                has_session=bool(body and session and session.room_id == body.room_id),
            )
            if decision.verdict is m.SharingVerdict.SHARE and session and decision.device:
                self._open_sessions([decision.device])
                if self.olm.has_session(decision.device):
                    forward = self._forward(session, ratchet, decision.first_index)
                    self._post(ENCRYPTED, self._encrypt(forward, [decision.device]))
            self.asking.remove(obj)

    def _forward(self, session: m.InboundSession, ratchet: Any, index: int) -> m.ForwardedRoomKeyContent:
        maker, forwarder = session.sender, session.forwarder
        curve25519_key = session.claimed_curve25519_key if maker is None else maker.curve25519_key
        ed25519_key = session.claimed_ed25519_key if maker is None else maker.ed25519_key
        assert curve25519_key is not None  # there is a maker,
        assert ed25519_key is not None  # or what was said of him
        return m.ForwardedRoomKeyContent.build(
            room_id=session.room_id,
            session_key=ratchet.export_at(max(index, ratchet.first_known_index)).to_base64(),
            sender_key=curve25519_key,
            sender_claimed_ed25519_key=ed25519_key,
            forwarding_chain=[] if forwarder is None else [forwarder.curve25519_key],
            shared_history=session.shared_history,
        )
