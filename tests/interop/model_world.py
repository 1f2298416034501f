"""The same users on two pairs of homeservers: ``KeyDirectory`` here, a real server there. Each request goes to both.

The servers of both pairs have the same names, so that users, signatures and answers are the same text on both sides.
Only tokens and sessions differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from interop.matrix_http import PASSWORD, V3, Client, Http
from interop.synapse_server import SynapseServer
from matrix_e2e_keys import HttpRequest, HttpResponse, MatrixError, Signer, sign_json
from matrix_e2e_keys.homeserver import COMPAT, KeyDirectory, LocalFederation, Requester
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

Json = dict[str, Any]

NO_VERDICT = "no verdict"

ROLES = ("master", "self_signing", "user_signing")

STEP_MS = 600_000
"""The clock of our side: far enough between steps that nobody claims too much in an hour."""


class Answer(NamedTuple):
    """What one side said."""

    status: int
    body: Any

    @classmethod
    def of(cls, response: HttpResponse) -> Answer:
        """Read an answer. One that is no JSON is none of this library's business, and is compared as text."""
        try:
            return cls(response.status, json.loads(response.body))
        except ValueError:
            return cls(response.status, response.body.decode("utf-8", "replace"))

    @property
    def verdict(self) -> str:
        """The status, and the error code if there is one. An answer of status 5xx judges nothing."""
        if self.status >= 500:
            return NO_VERDICT
        errcode = self.body.get("errcode") if isinstance(self.body, dict) and self.status >= 400 else None
        return f"{self.status} {errcode}" if errcode is not None else str(self.status)


Event = tuple[str, ...]
"""What happened, and to whom or what: ``deleted user device``, for example."""


class Seen(NamedTuple):
    """What was asked, and what both sides said.

    Attributes:
        kind: which step it is.
        asker: the device that asked.
        request: what was asked: the body, or what names the step.
        here: what ``KeyDirectory`` said.
        there: what the real server said.
        before: what had happened before.
        news: what of it happened since the device asked for news the last time.
    """

    kind: str
    asker: Device
    request: Any
    here: Answer
    there: Answer
    before: tuple[Event, ...]
    news: tuple[Event, ...]

    @property
    def viewer(self) -> str:
        """The user who asked."""
        return self.asker.user.user_id


class Tokens(NamedTuple):
    """Where a device stands in ``/sync``, on both sides."""

    here: str
    there: str


def post(path: str, body: object) -> HttpRequest:
    """Return a request. Bytes are sent as they are."""
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HttpRequest(method="POST", path=V3 + path, body=sent)


def unsigned(obj: Mapping[str, Any]) -> Json:
    """Return an object without its signatures."""
    return {name: value for name, value in obj.items() if name != "signatures"}


def spoiled(obj: Mapping[str, Any]) -> Json:
    """Return an object whose last signature is not good."""
    ((user_id, by_user),) = obj["signatures"].items()
    *_, (key_id, text) = by_user.items()
    wrong = ("B" if text[0] == "A" else "A") + text[1:]
    return {**obj, "signatures": {user_id: {**by_user, key_id: wrong}}}


def managed(act: Callable[[], object]) -> Answer:
    """Return the answer to what is no request to a directory: it is told about log-ins, names and log-outs."""
    try:
        act()
    except MatrixError as error:
        return Answer.of(error.to_http())
    return Answer(200, {})


class World:
    """Both pairs."""

    def __init__(self, *synapses: SynapseServer) -> None:
        self.synapses = synapses
        self.now = 1_700_000_000_000
        self.step_ms = STEP_MS
        self.events: list[Event] = []
        self.users: dict[str, User] = {}
        self.federation = LocalFederation(
            KeyDirectory.create(
                server.server_name,
                signers=sample_secret_key(server.server_name).signer("ed25519:1"),
                policy=COMPAT,
                authenticate=lambda _, auth: auth.get("password") == PASSWORD,
            )
            for server in synapses
        )

    def directory(self, server: int) -> KeyDirectory:
        """Return our server, the first or the second one."""
        return self.federation[self.synapses[server].server_name]

    def later(self) -> int:
        """Let time pass on our side; return what time it is."""
        self.now += self.step_ms
        return self.now

    def new_user(self, *, server: int = 0, device_id: str = "PHONE", display_name: str | None = None) -> Device:
        """Return the first device of a fresh user."""
        client = Client.register(self.synapses[server].base_url, device_id, display_name)
        self.directory(server).log_in(client.user_id, device_id, display_name=display_name, now=self.later())
        user = User(client.user_id, server)
        user.names[device_id] = display_name
        self.users[user.user_id] = user
        return Device(self, user, client)

    def share_room(self, *devices: Device) -> Room:
        """Let some users of one server share a room."""
        first, *others = devices
        room_id = first.client.http.post("/createRoom", {"preset": "public_chat"})["room_id"]
        room = Room(self, room_id, first.user.server)
        self.directory(room.server).join(first.user.user_id, room_id, now=self.later())
        self.events.append(("joined", first.user.user_id))
        for device in others:
            room.join(device)
        return room


class Room(NamedTuple):
    """A room of users of one server."""

    world: World
    room_id: str
    server: int

    def join(self, device: Device) -> None:
        """Let the user of a device join."""
        device.client.http.post(f"/join/{quote(self.room_id, safe='')}", {})
        self.world.directory(self.server).join(device.user.user_id, self.room_id, now=self.world.later())
        self.world.events.append(("joined", device.user.user_id))

    def leave(self, device: Device) -> None:
        """Let the user of a device leave."""
        device.client.http.post(f"/rooms/{quote(self.room_id, safe='')}/leave", {})
        self.world.directory(self.server).leave(device.user.user_id, self.room_id, now=self.world.later())
        self.world.events.append(("left", device.user.user_id))


class User:
    """Somebody with an account on both sides.

    Attributes:
        generation: counts the identities. No key pair is used for two of them.
        stored: what both sides have stored of the user, as far as it is needed to tell what happens: role to public
            cross-signing key, device id to what its keys say.
        names: device id to the name of the device.
        signatures: device id to the signatures that were last uploaded with its keys.
    """

    def __init__(self, user_id: str, server: int) -> None:
        self.user_id, self.server = user_id, server
        self.generation = 0
        self.stored: dict[str, Any] = {}
        self.names: dict[str, str | None] = {}
        self.signatures: dict[str, Any] = {}

    def signer(self, name: str) -> Signer:
        """Return who signs with a cross-signing key, by its role, or with the key of a device, by its id."""
        return self.sample.secret(name).cross_signer() if name in ROLES else self.sample.device_signer(name)

    def public_key(self, role: str) -> str:
        """Return a public cross-signing key."""
        return self.sample.secret(role).public_key.to_base64()

    def signed(self, obj: object, *names: str) -> Json:
        """Return an object with signatures by some of the user's keys."""
        for name in names:
            obj = sign_json(obj, entity=self.user_id, signer=self.signer(name))
        return obj  # type: ignore[return-value]  # an object if sign_json took it

    def key(self, role: str, **changes: object) -> Json:
        """Return a cross-signing key, with changes made before the master key signed it."""
        key = unsigned({**self.identity(role)[f"{role}_key"], **changes})
        return key if role == "master" else self.signed(key, "master")

    @property
    def sample(self) -> SampleUser:
        """The keys of the user, of the present generation."""
        return SampleUser(self.user_id, self.generation)

    def identity(self, *roles: str) -> Json:
        """Return a body with cross-signing keys: all of them, or those of some roles."""
        return {
            f"{role}_key": getattr(self.sample, f"{role}_key").to_json()
            for role in roles or ("master", "self_signing", "user_signing")
        }


class Device:
    """A device that is logged in on both sides."""

    def __init__(self, world: World, user: User, client: Client) -> None:
        self.world, self.user, self.client = world, user, client
        self.device_id = client.device_id
        self.tokens: Tokens | None = None
        self.heard = len(world.events)

    @property
    def requester(self) -> Requester:
        """Who asks, on our side."""
        return Requester(user_id=self.user.user_id, device_id=self.device_id)

    # ----------------------------------------------------------------------------------------------------------
    # Requests about keys
    # ----------------------------------------------------------------------------------------------------------

    def ask(self, kind: str, request: HttpRequest, body: object, *, here: HttpRequest | None = None) -> Seen:
        """Ask both sides; ours something else if ``here`` is given."""
        response = self.world.federation.exchange(
            self.world.synapses[self.user.server].server_name,
            request if here is None else here,
            requester=self.requester,
            now=self.world.later(),
        )
        return self.seen(kind, body, Answer.of(response), Answer.of(self.client.http.send(request)))

    def seen(self, kind: str, request: object, here: Answer, there: Answer) -> Seen:
        """Return what was seen, and what had happened until then."""
        before = tuple(self.world.events)
        return Seen(kind, self, request, here, there, before, before[self.heard :])

    def upload(self, body: object) -> Seen:
        """Upload keys."""
        seen = self.ask("upload", post("/keys/upload", body), body)
        if isinstance(body, dict):
            self._note_upload(body, is_good=(seen.here.status, seen.there.status) == (200, 200))
        return seen

    def _note_upload(self, body: Json, *, is_good: bool) -> None:
        note, place = self.world.events.append, (self.user.user_id, self.device_id)
        keys = body.get("one_time_keys") or {}
        device = body.get("device_keys")
        if not is_good:
            note(("refused", *place))
            return
        for key_id, key in keys.items():
            note(("uploaded", *place, key_id, key["key"] if isinstance(key, dict) else key))
        for key in (body.get("fallback_keys") or {}).values():
            note(("fallback", *place, key["key"] if isinstance(key, dict) else key))
        if device is not None:
            content = unsigned(device)
            for key_id in device["signatures"].get(self.user.user_id, {}):
                note(("uploaded a signature", *place, key_id.partition(":")[2]))
            if self.user.stored.get(self.device_id, content) != content:
                note(("other keys", *place))
            elif self.device_id in self.user.stored:
                note(("same keys", *place))
                if device["signatures"] != self.user.signatures.get(self.device_id):
                    note(("other signatures", *place))
            self.user.signatures[self.device_id] = device["signatures"]
            self.user.stored[self.device_id] = content

    def query(self, body: object) -> Seen:
        """Query keys."""
        return self.ask("query", post("/keys/query", body), body)

    def query_of(self, *devices: Device) -> Seen:
        """Query all keys of some users."""
        return self.query({"device_keys": {device.user.user_id: [] for device in devices}})

    def claim(self, body: object) -> Seen:
        """Claim keys."""
        seen = self.ask("claim", post("/keys/claim", body), body)
        if (seen.here.status, seen.there.status) == (200, 200):
            for user_id, devices in seen.there.body["one_time_keys"].items():
                for device_id in devices:
                    self.world.events.append(("claimed", self.user.user_id, user_id, device_id))
        return seen

    def claim_of(self, *devices: Device, algorithm: str = "signed_curve25519") -> Seen:
        """Claim a key of each of some devices."""
        wanted: Json = {}
        for device in devices:
            wanted.setdefault(device.user.user_id, {})[device.device_id] = algorithm
        return self.claim({"one_time_keys": wanted})

    def signatures(self, body: object) -> Seen:
        """Upload signatures."""
        seen = self.ask("signatures", post("/keys/signatures/upload", body), body)
        if isinstance(body, dict) and seen.there.status == 200:
            failed = seen.there.body["failures"]
            for user_id, of_user in body.items():
                for name, signed in (of_user or {}).items():
                    if name not in failed.get(user_id, {}):
                        for key_id in signed["signatures"].get(self.user.user_id, {}):
                            self.world.events.append(("signed", self.user.user_id, name, key_id.partition(":")[2]))
        return seen

    def sign(self, owner: Device, name: str, signed: object) -> Seen:
        """Upload one object with signatures."""
        return self.signatures({owner.user.user_id: {name: signed}})

    def device_signing(self, body: object, *, auth: Mapping[str, Any] | None = None) -> Seen:
        """Upload cross-signing keys; with ``auth``, in the session that the real server has begun for this body."""
        path = "/keys/device_signing/upload"
        request, here = post(path, body), None
        if auth is not None and isinstance(body, dict):
            answer = Answer.of(self.client.http.send(request))
            session = answer.body.get("session") if isinstance(answer.body, dict) else None
            there = {**auth} if session is None else {**auth, "session": session}
            request, here = post(path, {**body, "auth": there}), post(path, {**body, "auth": dict(auth)})
        seen = self.ask("device_signing", request, body, here=here)
        if isinstance(body, dict):
            self._note_identity(body, is_good=(seen.here.status, seen.there.status) == (200, 200))
        return seen

    def _note_identity(self, body: Json, *, is_good: bool) -> None:
        note, stored = self.world.events.append, self.user.stored
        if not is_good:
            note(("refused identity", self.user.user_id))
            return
        for role in ROLES:
            key = body.get(f"{role}_key")
            if key is not None:
                ((_, text),) = key["keys"].items()
                if stored.get(role, text) != text:
                    note(("replaced", self.user.user_id, stored[role]))
                    note(("replaced role", self.user.user_id, role))
                stored[role] = text

    @property
    def password(self) -> Json:
        """What proves that it is the user."""
        return {"type": "m.login.password", **self.client.credentials()}

    # ----------------------------------------------------------------------------------------------------------
    # What is new
    # ----------------------------------------------------------------------------------------------------------

    def sync(self, since: Tokens | None = None) -> tuple[Seen, Tokens]:
        """Return what is new since then, and where the device stands now."""
        answer = self.directory.sync(self.requester, since=None if since is None else since.here)
        query = {"timeout": "0", **({} if since is None else {"since": since.there})}
        there = Answer.of(self.client.http.send(HttpRequest(method="GET", path=f"{V3}/sync", query=urlencode(query))))
        assert there.status == 200, there
        here = Answer(200, json.loads(json.dumps(answer.to_json())))
        seen = self.seen("sync", None, here, there)
        self.heard = len(self.world.events)
        return seen, Tokens(answer.next_batch, there.body["next_batch"])

    def catch_up(self) -> tuple[Seen, Seen]:
        """Return what is new since the last time, by ``/sync`` and by ``/keys/changes``."""
        since, heard = self.tokens, self.heard
        seen, self.tokens = self.sync(since)
        if since is None:
            return seen, seen
        self.heard = heard
        changes = self.changes(since, self.tokens)
        self.heard = len(self.world.events)
        return seen, changes

    def changes(self, since: Tokens, until: Tokens) -> Seen:
        """Ask whose devices changed in between."""
        here, there = (
            HttpRequest(method="GET", path=f"{V3}/keys/changes", query=urlencode({"from": begin, "to": end}))
            for begin, end in zip(since, until, strict=True)
        )
        return self.ask("changes", there, None, here=here)

    # ----------------------------------------------------------------------------------------------------------
    # Devices
    # ----------------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> KeyDirectory:
        """Our server of this user."""
        return self.world.directory(self.user.server)

    def log_in(self, device_id: str) -> tuple[Seen, Device | None]:
        """Log the user in on a device, on both sides; return the answers, and the device if both say yes."""
        body = {"type": "m.login.password", **self.client.credentials(), "device_id": device_id}
        response = Http(self.client.base_url).send(post("/login", body))
        there = Answer.of(response)
        here = managed(lambda: self.directory.log_in(self.user.user_id, device_id, now=self.world.later()))
        device = None
        if here.status == there.status == 200:
            self.user.names.setdefault(device_id, None)
            device = Device(self.world, self.user, Client(self.client.base_url, there.body))
        return self.seen("log_in", device_id, here, there), device

    def log_out(self) -> Seen:
        """Log out, which deletes the device."""
        here = managed(
            lambda: self.directory.delete_devices(self.user.user_id, [self.device_id], now=self.world.later())
        )
        self.world.events.append(("deleted", self.user.user_id, self.device_id))
        self.user.stored.pop(self.device_id, None)
        self.user.names.pop(self.device_id, None)
        return self.seen("log_out", self.device_id, here, Answer.of(self.client.http.send(post("/logout", {}))))

    def rename(self, device_id: str, name: str | None) -> Seen:
        """Rename a device of the user."""
        body = {} if name is None else {"display_name": name}
        path = f"{V3}/devices/{quote(device_id, safe='')}"
        request = HttpRequest(method="PUT", path=path, body=json.dumps(body).encode())
        here = managed(lambda: self.directory.rename_device(self.user.user_id, device_id, name, now=self.world.later()))
        there = Answer.of(self.client.http.send(request))
        if there.status == 200:
            if name in (None, self.user.names.get(device_id)):
                self.world.events.append(("same name", self.user.user_id))
            else:
                self.user.names[device_id] = name
        return self.seen("rename", (device_id, name), here, there)

    # ----------------------------------------------------------------------------------------------------------
    # What it has to say
    # ----------------------------------------------------------------------------------------------------------

    def keys(self, **extra: object) -> Json:
        """Return the device keys, signed by the device."""
        return self.user.sample.device(self.device_id, cross_signed=False, extra=extra or None).to_json()

    def one_time_key(self, name: str, *, fallback: bool = False, seed: str = "") -> Json:
        """Return a one-time or fallback key by its id. Another seed is another key of the same name."""
        key = self.user.sample.one_time_key(self.device_id, seed + name, fallback=fallback)
        return {f"signed_curve25519:{name}": key.to_json()}

    def one_time_keys(self, *names: str) -> Json:
        """Return one-time keys by their ids."""
        return {key_id: key for name in names for key_id, key in self.one_time_key(name).items()}
