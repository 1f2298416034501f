"""Devices that are real: a KeyMachine, an Olm account and a client of a homeserver.

What a :class:`Device` knows is stored before anything of it is sent, as an app has to. One that is ``forgetful`` is
started anew from what it stored after every round of requests, so that whatever is not stored is missed.
"""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import pytest

from interop.matrix_http import V3, Client, Sync
from matrix_e2e_keys import (
    Curve25519PublicKey,
    DeviceKeys,
    Ed25519PublicKey,
    HttpRequest,
    KeysUploadRequest,
    MatrixError,
    VerifiedDevice,
    VodozemacSigner,
)
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.machine.key_machine import KeyMachine
from matrix_e2e_keys.client.machine.values import MachineRequest, Received
from matrix_e2e_keys.client.supply.values import KeyUse, SupplyPolicy
from matrix_e2e_keys.client.users.changes import ChangeKind, KeyChange
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.models.one_time_keys import VerifiedOneTimeKey

SECOND = 1000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

PICKLE_KEY = bytes(32)
FEW_KEYS = SupplyPolicy(target=5)
OLM_V1 = "m.olm.v1.curve25519-aes-sha2"
ONE_TIME_KEY_TAG = b"\x03\x0a\x20"
"""How a pre-key message begins: version 3, then the 32 bytes of the receiver's one-time key."""
ROUNDS = 20


class Kept(NamedTuple):
    """What a device has stored, all of it as text."""

    machine: str
    account: str
    sessions: dict[str, str]
    seeds: str
    since: Sync | None


class OlmMessage(NamedTuple):
    """A message that was decrypted, and which of the device's keys it used."""

    plaintext: str
    used: KeyUse


class Device:
    """One device. Its clock stands still unless somebody sets it, or a round of requests is sent.

    Attributes:
        client: how it reaches the homeserver.
        machine: what it knows of keys.
        account: the private half of its own.
        now: its clock, in milliseconds.
        sent: what was sent, the latest last.
        received: what came of it.
        forgetful: whether it is started anew after every round of requests.
        answers_questions: whether it gives the password when the server asks for it.
    """

    def __init__(self, client: Client, policy: SupplyPolicy = FEW_KEYS, *, forgetful: bool = False) -> None:
        import vodozemac  # noqa: PLC0415 - the fixtures decide what happens if it is missing

        self._olm: Any = vodozemac
        self.client = client
        self.user_id, self.device_id = client.user_id, client.device_id
        self.account: Any = vodozemac.Account()  # used beyond its stubs
        self.now = 1_000 * DAY
        self.sent: list[MachineRequest] = []
        self.received: list[Received] = []
        self.answers_questions = True
        self.forgetful, self._policy = forgetful, policy
        self._since: Sync | None = None
        self._inbox: list[Any] = []
        self._sessions: dict[str, Any] = {}
        self._seeds: dict[str, str] = {}
        signer = VodozemacSigner.of(self.account, self.device_id)
        keys = DeviceKeys.build(
            user_id=self.user_id, device_id=self.device_id, curve25519_key=self.curve25519_key, signer=signer
        )
        self.machine = KeyMachine.create(keys, signer=signer, policy=policy)
        self.kept = self.store()

    @property
    def curve25519_key(self) -> Curve25519PublicKey:
        """The Olm identity key."""
        return curve25519(self.account.curve25519_key)

    @property
    def ed25519_key(self) -> Ed25519PublicKey:
        """The signing key, as it is shown to whoever compares it."""
        return Ed25519PublicKey.from_base64(self.account.ed25519_key.to_base64())

    @property
    def signer(self) -> VodozemacSigner:
        """The private half of the signing key."""
        return VodozemacSigner.of(self.account, self.device_id)

    # ----------------------------------------------------------------------------------------------------------
    # Storing, and starting anew
    # ----------------------------------------------------------------------------------------------------------

    def store(self) -> Kept:
        """Store everything in one transaction; return it."""
        state = json.dumps(self.machine.to_json())
        sessions = {key: session.pickle(PICKLE_KEY) for key, session in self._sessions.items()}
        seeds = json.dumps(self._seeds)
        self.kept = Kept(state, self.account.pickle(PICKLE_KEY), sessions, seeds, self._since)
        self.machine.mark_stored(json.loads(state))
        return self.kept

    def restart(self, kept: Kept | None = None) -> None:
        """Forget everything that was not stored; begin with what was stored last, or with what was before that."""
        self.kept = self.kept if kept is None else kept
        self.account = self._olm.Account.from_pickle(self.kept.account, PICKLE_KEY)
        self._sessions = {
            key: self._olm.Session.from_pickle(text, PICKLE_KEY) for key, text in self.kept.sessions.items()
        }
        self._since, self._seeds = self.kept.since, json.loads(self.kept.seeds)
        self.machine = KeyMachine.from_json(json.loads(self.kept.machine), signer=self.signer, policy=self._policy)
        assert json.dumps(self.machine.to_json()) == self.kept.machine
        if self._seeds:
            self.use_seeds(self._seeds)

    # ----------------------------------------------------------------------------------------------------------
    # Traffic
    # ----------------------------------------------------------------------------------------------------------

    def sync(self, *, wait: bool = False) -> None:
        """Ask what is new, and hand it over."""
        before, self._since = self._since, self.client.sync(self._since, wait=wait)
        since = None if before is None else before.next_batch
        keys, next_batch = self._since.keys, self._since.next_batch
        self.machine.receive_sync(keys, since=since, next_batch=next_batch, now=self.now)
        self._inbox = self._since.to_device

    def lose_sync_token(self) -> None:
        """Begin with an initial sync the next time."""
        self._since = None

    def flush(self) -> None:
        """Make the keys that are needed, and send what there is to send, until there is nothing."""
        for _ in range(ROUNDS):
            if not self.send_round():
                return
        pytest.fail(f"{self.device_id} does not come to rest: {self.sent[-3:]}")

    def send_round(self) -> bool:
        """Send what there is to send now; return whether there was anything."""
        self._make_keys()
        self.store()
        outgoing = self.machine.outgoing_requests(self.now)
        is_asked = False
        for it in outgoing:
            request: Any = it.request  # one of six kinds, each with its own answer
            self.sent.append(request)
            try:
                response = self.client.ask(request)
            except MatrixError as error:
                received = self.machine.receive_error(it.request_id, error, self.now)
            else:
                received = self.machine.receive_response(it.request_id, response, self.now)
            self._take(received)
            is_asked = is_asked or received.authentication is not None
        self.now += SECOND
        if outgoing:
            self.store()
            if self.forgetful and not is_asked:  # the answer to a question holds a password, and is never stored
                self.restart()
        return bool(outgoing)

    def catch_up(self, *, wait: bool = False) -> None:
        """Ask what is new, and do what follows from it."""
        self.sync(wait=wait)
        self.flush()

    def catch_up_until(self, is_there: Callable[[], bool]) -> None:
        """Catch up until something has become true."""
        self.catch_up()
        for _ in range(5):
            if is_there():
                return
            self.catch_up(wait=True)
        if not is_there():
            pytest.fail(f"{self.device_id} does not get to know of it: {[it.changes for it in self.received]}")

    def look_at(self, *user_ids: str) -> None:
        """Ask about users, whether anything has changed or not."""
        self.machine.lists.track(user_ids)
        self.machine.lists.mark_outdated(user_ids)
        self.flush()

    def _make_keys(self) -> None:
        needed = self.machine.supply.needed(self.now)
        if needed.one_time_keys:
            self.account.generate_one_time_keys(needed.one_time_keys)
            keys = {name: curve25519(key) for name, key in self.account.one_time_keys.items()}
            self.machine.supply.add_one_time_keys(keys, signer=self.signer)
        if needed.fallback_key:
            self.account.generate_fallback_key()
            ((name, key),) = self.account.fallback_key.items()
            self.machine.supply.add_fallback_key(name, curve25519(key), signer=self.signer, now=self.now)
        if needed.forget_previous_fallback_key:
            forget = getattr(self.account, "forget_fallback_key", None)
            if forget is not None:  # else the account drops it with the next one
                forget()
            self.machine.supply.previous_fallback_forgotten()
        self.account.mark_keys_as_published()  # from here on, the supply sees to that

    def _take(self, received: Received) -> None:
        self.received.append(received)
        if received.authentication is not None and self.answers_questions:
            proof = received.authentication.auth("m.login.password", self.client.credentials())
            self.machine.signing.authenticate(proof)
        if received.stale_secrets:
            secrets = self.machine.signing.secrets
            self._seeds = {} if secrets is None else secrets.export_seeds()
        for of_user in received.sessions.values():
            for key in of_user.values():
                self._open_session(key)

    # ----------------------------------------------------------------------------------------------------------
    # What came of it
    # ----------------------------------------------------------------------------------------------------------

    def forget_news(self) -> None:
        """Begin :attr:`sent` and :attr:`received` anew."""
        self.sent, self.received = [], []

    @property
    def changes(self) -> list[KeyChange]:
        """What has changed, the latest last."""
        return [change for received in self.received for change in received.changes]

    def kinds(self, user_id: str) -> list[ChangeKind]:
        """Return what has changed about a user, the latest last."""
        return [change.kind for change in self.changes if change.user_id == user_id]

    @property
    def uploads(self) -> list[KeysUploadRequest]:
        """The uploads of keys that were sent, the latest last."""
        return [it for it in self.sent if isinstance(it, KeysUploadRequest)]

    def user(self, user_id: str) -> KnownUser:
        """Return what is known of a user."""
        return self.machine.users.users[user_id]

    def state_of(self, user_id: str) -> IdentityState:
        """Return what one makes of a user's identity."""
        return self.user(user_id).pin.state

    # ----------------------------------------------------------------------------------------------------------
    # Cross-signing
    # ----------------------------------------------------------------------------------------------------------

    @property
    def master_key(self) -> Ed25519PublicKey:
        """The user's own master key, as it is shown to whoever compares it."""
        own = self.machine.users.own
        assert own is not None
        return own.identity.master_public_key

    def bootstrap(self, *, reset: bool = False) -> None:
        """Set up cross-signing, with new keys."""
        self.begin_bootstrap(reset=reset)
        self.flush()

    def begin_bootstrap(self, *, reset: bool = False) -> None:
        """Make new cross-signing keys, and store them; send nothing."""
        secrets = CrossSigningSecrets.generate(self.user_id)
        self._seeds = secrets.export_seeds()
        self.machine.start_bootstrap(secrets, reset=reset)
        self.store()

    def export_seeds(self) -> dict[str, str]:
        """Return the user's private keys, as another device of the user is given them."""
        assert self.machine.signing.secrets is not None
        return self.machine.signing.secrets.export_seeds()

    def use_seeds(self, seeds: dict[str, str]) -> None:
        """Take over the user's private keys."""
        self.machine.signing.use_secrets(CrossSigningSecrets.from_seeds(self.user_id, seeds))
        self._seeds = seeds

    # ----------------------------------------------------------------------------------------------------------
    # Olm
    # ----------------------------------------------------------------------------------------------------------

    def open_sessions(self, devices: Iterable[VerifiedDevice]) -> None:
        """Claim keys of devices, and open sessions with them."""
        self.machine.sessions.want(devices)
        self.flush()

    def _open_session(self, key: VerifiedOneTimeKey) -> None:
        device = key.device
        assert device.curve25519_key is not None
        theirs = device.curve25519_key.to_base64()
        self._sessions[theirs] = self.account.create_outbound_session(
            self._olm.Curve25519PublicKey.from_base64(theirs),
            self._olm.Curve25519PublicKey.from_base64(key.public_key.to_base64()),
        )
        self.machine.sessions.session_opened(device)

    def send(self, device: VerifiedDevice, plaintext: str) -> None:
        """Encrypt for a device with which there is a session, and send."""
        assert device.curve25519_key is not None
        theirs = device.curve25519_key.to_base64()
        kind, body = self._sessions[theirs].encrypt(plaintext.encode()).to_parts()
        self.store()
        content = {
            "algorithm": OLM_V1,
            "sender_key": self.curve25519_key.to_base64(),
            "ciphertext": {theirs: {"type": kind, "body": base64.b64encode(body).decode()}},
        }
        messages: dict[str, Any] = {device.user_id: {device.device_id: content}}
        self.client.send_to_device("m.room.encrypted", f"{self.device_id}-{self.now}", messages)
        self.now += SECOND

    def read(self) -> list[OlmMessage]:
        """Wait for messages that begin sessions; return them, decrypted."""
        for _ in range(5):
            self.sync(wait=True)
            events = [it for it in self._inbox if it["type"] == "m.room.encrypted"]
            if events:
                messages = [self._decrypt(it["content"]) for it in events]
                self.store()
                return messages
        pytest.fail(f"nothing arrives at {self.device_id}")

    def _decrypt(self, content: Any) -> OlmMessage:
        own, theirs = self.curve25519_key.to_base64(), content["sender_key"]
        message = content["ciphertext"][own]
        assert message["type"] == 0
        body = base64.b64decode(message["body"] + "==")
        session, plaintext = self.account.create_inbound_session(
            self._olm.Curve25519PublicKey.from_base64(theirs), self._olm.AnyOlmMessage.from_parts(0, body).to_pre_key()
        )
        self._sessions[theirs] = session
        assert body.startswith(ONE_TIME_KEY_TAG)
        used = Curve25519PublicKey(body[len(ONE_TIME_KEY_TAG) :][:32])
        return OlmMessage(plaintext.decode(), self.machine.supply.receive_use(used, self.now))


def curve25519(key: Any) -> Curve25519PublicKey:
    """Return a key of the Olm library as one of this library."""
    return Curve25519PublicKey.from_base64(key.to_base64())


# --------------------------------------------------------------------------------------------------------------
# Rooms: whoever shares one hears of the others' devices
# --------------------------------------------------------------------------------------------------------------


def share_an_encrypted_room(device: Device, *others: Device) -> None:
    """Put users into an encrypted room, wherever they are at home; each tracks everybody."""
    encryption = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
    body = {"preset": "public_chat", "initial_state": [encryption]}
    room_id: str = device.client.http.post("/createRoom", body)["room_id"]
    server_name = device.user_id.partition(":")[2]
    for other in others:
        request = HttpRequest(
            method="POST",
            path=f"{V3}/join/{urllib.parse.quote(room_id, safe='')}",
            query=urllib.parse.urlencode({"server_name": server_name}),
            body=b"{}",
        )
        answer = other.client.http.send(request)
        assert answer.status == 200, answer.body
    everybody = [device, *others]
    for each in everybody:
        each.machine.lists.track([it.user_id for it in everybody])


MakeDevice: TypeAlias = Callable[..., Device]
"""A fixture: ``new_device(client, policy=FEW_KEYS)``."""
