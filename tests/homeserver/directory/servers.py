"""Homeservers to play scenarios on, as their users and their neighbors see them: JSON in, JSON out, over real bytes.

A scenario asks with plain objects and looks at plain objects, so that the format on the wire is what is tested. It
knows no more of the servers than a :class:`World` says: the same scenario can be played on servers of any make.

:class:`LocalWorld` is a world of :class:`KeyDirectory` in one process. :class:`Peer` is a neighbor that says whatever
the test wants it to.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from matrix_e2e_keys import HttpRequest, HttpResponse
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.homeserver.directory.local_federation import LocalFederation
from matrix_e2e_keys.homeserver.directory.values import Exchange, ServerRequest
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request
from matrix_e2e_keys.homeserver.policies import SPEC, Policy
from matrix_e2e_keys.models.server_keys import ServerKeys
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key

__all__ = ["PASSWORD", "Answer", "Client", "LocalUser", "LocalWorld", "Peer", "User", "World", "device_edu", "without"]

Json = dict[str, Any]

PASSWORD: Final[Json] = {"type": "m.login.password", "password": "secret"}
"""The ``auth`` that proves who one is."""

SERVERS: Final = ("one.example", "two.example", "three.example:8448")
HOUR_MS: Final = 3_600_000


class Answer(NamedTuple):
    """What a server said."""

    status: int
    body: Any

    @property
    def good(self) -> Json:
        """The body, which must be that of a good answer."""
        assert self.status == 200, self
        return self.body  # type: ignore[no-any-return]

    @property
    def error(self) -> tuple[int, str | None]:
        """The status and the error code."""
        return self.status, self.body.get("errcode")


def answer_of(response: HttpResponse) -> Answer:
    return Answer(response.status, json.loads(response.body))


def http(method: str, path: str, body: object = None, query: str = "") -> HttpRequest:
    """Return a request. Bytes are sent as they are."""
    sent = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return HttpRequest(method=method, path=path, query=query, body=sent)


class User(ABC):
    """Somebody with an account.

    Attributes:
        user_id: the user.
        server: the place of the user's server in :data:`SERVERS`.
        sample: the keys of the user.
    """

    def __init__(self, user_id: str, server: int) -> None:
        self.user_id, self.server = user_id, server
        self.sample = SampleUser(user_id)

    @abstractmethod
    def log_in(self, device_id: str, *, display_name: str | None = None) -> Client: ...

    def identity(self, *roles: str, generation: int = 0) -> Json:
        """Return a body with cross-signing keys: all of them, or those of some roles."""
        sample = SampleUser(self.user_id, generation)
        return {
            f"{role}_key": getattr(sample, f"{role}_key").to_json()
            for role in roles or ("master", "self_signing", "user_signing")
        }

    @property
    def master_name(self) -> str:
        """The public master key, which is what it is called."""
        return self.sample.master_key.key_id.name


class Client(ABC):
    """A device that is logged in. Whoever asks servers of another make implements what is abstract."""

    def __init__(self, user: User, device_id: str) -> None:
        self.user, self.device_id = user, device_id

    @abstractmethod
    def send(self, request: HttpRequest) -> HttpResponse:
        """Ask the server of the user."""

    @abstractmethod
    def sync(self, since: str | None = None) -> Json:
        """Return the body of an answer to ``/sync``."""

    @abstractmethod
    def rename(self, name: str) -> None: ...

    @abstractmethod
    def log_out(self) -> None: ...

    # The endpoints.

    def ask(self, request: HttpRequest) -> Answer:
        return answer_of(self.send(request))

    def post(self, path: str, body: object, *, version: str = "v3") -> Answer:
        return self.ask(http("POST", f"/_matrix/client/{version}/keys/{path}", body))

    def upload(self, body: object) -> Answer:
        return self.post("upload", body)

    def query(self, body: object) -> Answer:
        return self.post("query", body)

    def claim(self, body: object) -> Answer:
        return self.post("claim", body)

    def device_signing(self, body: object) -> Answer:
        return self.post("device_signing/upload", body)

    def signatures(self, body: object) -> Answer:
        return self.post("signatures/upload", body)

    def changes(self, since: str, until: str) -> Answer:
        query = urlencode({"from": since, "to": until})
        return self.ask(http("GET", "/_matrix/client/v3/keys/changes", query=query))

    def send_to_device(self, event_type: str, messages: object, *, txn_id: str) -> Answer:
        return self.ask(http("PUT", f"/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}", {"messages": messages}))

    # What a client sends all the time.

    def device_keys(self, **extra: object) -> Json:
        """Return the keys of the device, self-signed."""
        return self.user.sample.device(self.device_id, cross_signed=False, extra=extra or None).to_json()

    def one_time_key(self, name: str, *, fallback: bool = False) -> tuple[str, Json]:
        key = self.user.sample.one_time_key(self.device_id, name, fallback=fallback)
        tree = key.to_json()
        assert isinstance(tree, dict)
        return str(key.key_id), tree

    def one_time_keys(self, *names: str) -> dict[str, Json]:
        return dict(map(self.one_time_key, names))

    def publish(self, *one_time_keys: str) -> Json:
        """Upload the keys of the device."""
        body = {"device_keys": self.device_keys()}
        if one_time_keys:
            body["one_time_keys"] = self.one_time_keys(*one_time_keys)
        return self.upload(body).good

    def query_of(self, *users: User) -> Json:
        return self.query({"device_keys": {user.user_id: [] for user in users}}).good

    def devices_of(self, user: User) -> Json:
        """Return what is served about a user, without what the server says for itself."""
        devices = self.query_of(user)["device_keys"].get(user.user_id, {})
        return {name: without(keys, "unsigned") for name, keys in devices.items()}

    def claim_of(self, other: Client, algorithm: str = "signed_curve25519") -> Json:
        """Claim a key of a device and return what stands for it: key id to key, or nothing."""
        answer = self.claim({"one_time_keys": {other.user.user_id: {other.device_id: algorithm}}}).good
        keys = answer["one_time_keys"]
        if keys == {}:
            return {}
        assert {user: list(devices) for user, devices in keys.items()} == {other.user.user_id: [other.device_id]}
        found: Json = keys[other.user.user_id][other.device_id]
        return found

    def set_up_identity(self, **more: object) -> None:
        """Upload the three cross-signing keys."""
        assert self.device_signing({**self.user.identity(), **more}).good == {}

    def upload_signatures(self, user: User, signed: dict[str, Json]) -> Json:
        answer = self.signatures({user.user_id: signed}).good
        failures: Json = answer.get("failures", {})
        return failures

    def changed_since(self, since: str | None) -> list[str]:
        changed: list[str] = self.sync(since)["device_lists"]["changed"]
        return changed

    def left_since(self, since: str | None) -> list[str]:
        left: list[str] = self.sync(since)["device_lists"]["left"]
        return left

    @property
    def token(self) -> str:
        token: str = self.sync()["next_batch"]
        return token


class World(ABC):
    """Homeservers that reach each other."""

    @abstractmethod
    def new_user(self, name: str, *, server: int = 0) -> User: ...

    @abstractmethod
    def join(self, user: User, room: str) -> None: ...

    @abstractmethod
    def leave(self, user: User, room: str) -> None: ...

    @abstractmethod
    def share_room(self, *users: User) -> str:
        """Let users share a room that nobody else is in; return it."""

    @abstractmethod
    def settle(self) -> None:
        """Let the servers tell each other what they have to tell."""

    @abstractmethod
    def down(self, server: int) -> None: ...

    @abstractmethod
    def up(self, server: int) -> None: ...

    @abstractmethod
    def restart(self, server: int) -> None: ...

    @abstractmethod
    def later(self, milliseconds: int) -> None: ...


# --------------------------------------------------------------------------------------------------------------
# Directories in one process
# --------------------------------------------------------------------------------------------------------------


class LocalClient(Client):
    """A device, at a :class:`KeyDirectory`."""

    user: LocalUser

    def __init__(self, world: LocalWorld, user: LocalUser, device_id: str) -> None:
        super().__init__(user, device_id)
        self.world = world

    @property
    def requester(self) -> Requester:
        return Requester(user_id=self.user.user_id, device_id=self.device_id)

    def send(self, request: HttpRequest) -> HttpResponse:
        return self.world.exchange(self.user.server, request, requester=self.requester)

    def ask_as(self, requester: Requester, request: HttpRequest) -> Answer:
        return answer_of(self.world.exchange(self.user.server, request, requester=requester))

    def sync(self, since: str | None = None) -> Json:
        answer = self.world.directory(self.user.server).sync(self.requester, since=since)
        body: Json = json.loads(json.dumps(answer.to_json()))
        return body

    def rename(self, name: str) -> None:
        directory = self.world.directory(self.user.server)
        directory.rename_device(self.user.user_id, self.device_id, name, now=self.world.now)

    def log_out(self) -> None:
        directory = self.world.directory(self.user.server)
        directory.delete_devices(self.user.user_id, [self.device_id], now=self.world.now)


class LocalUser(User):
    """A user of a :class:`KeyDirectory`."""

    def __init__(self, world: LocalWorld, user_id: str, server: int) -> None:
        super().__init__(user_id, server)
        self.world = world

    def log_in(self, device_id: str, *, display_name: str | None = None) -> LocalClient:
        directory = self.world.directory(self.server)
        directory.log_in(self.user_id, device_id, display_name=display_name, now=self.world.now)
        return LocalClient(self.world, self, device_id)


class LocalWorld(World):
    """Some :class:`KeyDirectory`, wired to each other, and maybe neighbors that only pretend."""

    def __init__(self, *, policy: Policy = SPEC, shows_display_names: bool = False) -> None:
        self.now = 1_700_000_000_000
        self.policy, self.shows_display_names = policy, shows_display_names
        self.peers: dict[str, Peer] = {}
        self.federation = LocalFederation(
            KeyDirectory.create(
                name,
                signers=sample_secret_key(name).signer("ed25519:1"),
                policy=policy,
                authenticate=lambda _, auth: dict(auth) == PASSWORD,
                shows_display_names=shows_display_names,
            )
            for name in SERVERS
        )
        self._rooms = 0

    def directory(self, server: int) -> KeyDirectory:
        return self.federation[SERVERS[server]]

    def new_user(self, name: str, *, server: int = 0) -> LocalUser:
        return LocalUser(self, f"@{name}:{SERVERS[server]}", server)

    def new_client(self, name: str, device_id: str = "PHONE", *, server: int = 0) -> LocalClient:
        """Return the device of a new user, with its keys uploaded."""
        client = self.new_user(name, server=server).log_in(device_id)
        client.publish()
        return client

    def share_room(self, *users: User) -> str:
        self._rooms += 1
        room = f"!room{self._rooms}:{SERVERS[0]}"
        for user in users:
            self.join(user, room)
        return room

    def join(self, user: User, room: str) -> None:
        self._everywhere(lambda directory: directory.join(user.user_id, room, now=self.now))

    def leave(self, user: User, room: str) -> None:
        self._everywhere(lambda directory: directory.leave(user.user_id, room, now=self.now))

    def _everywhere(self, act: Callable[[KeyDirectory], None]) -> None:
        for server in range(len(SERVERS)):
            act(self.directory(server))

    def down(self, server: int) -> None:
        self.federation.down.add(SERVERS[server])

    def up(self, server: int) -> None:
        self.federation.down.discard(SERVERS[server])

    def later(self, milliseconds: int) -> None:
        self.now += milliseconds

    def restart(self, server: int) -> None:
        before = self.directory(server)
        self.federation.replace(
            KeyDirectory.from_json(
                json.loads(json.dumps(before.to_json())),
                signers=sample_secret_key(before.server_name).signer("ed25519:1"),
                policy=self.policy,
                authenticate=lambda _, auth: dict(auth) == PASSWORD,
                shows_display_names=self.shows_display_names,
            )
        )

    # ----------------------------------------------------------------------------------------------------------
    # The wires
    # ----------------------------------------------------------------------------------------------------------

    def exchange(self, server: int, request: HttpRequest, *, requester: Requester) -> HttpResponse:
        if not self.peers:
            return self.federation.exchange(SERVERS[server], request, requester=requester, now=self.now)
        directory = self.directory(server)
        return self.finished(directory.receive_client_request(request, requester=requester, now=self.now))

    def finished(self, exchange: Exchange) -> HttpResponse:
        while exchange.response is None:
            answers = {request.server_name: self.sent(request) for request in exchange.requests}
            exchange = exchange.proceed(answers, now=self.now)
        return exchange.response

    def sent(self, request: ServerRequest) -> HttpResponse | None:
        peer = self.peers.get(request.server_name)
        return self.federation.send(request, now=self.now) if peer is None else peer.answer(request)

    def settle(self) -> None:
        if not self.peers:
            self.federation.settle(now=self.now)
            return
        for _ in range(1000):
            is_quiet = True
            for server in range(len(SERVERS)):
                directory = self.directory(server)
                request = (
                    None if directory.server_name in self.federation.down else directory.next_request(now=self.now)
                )
                if request is not None:
                    is_quiet = False
                    directory.receive_answer(request, self.sent(request), now=self.now)
            if is_quiet:
                return
        raise AssertionError("the servers never stop talking")


# --------------------------------------------------------------------------------------------------------------
# A neighbor that the test speaks for
# --------------------------------------------------------------------------------------------------------------


class Peer:
    """A homeserver that is nothing but a name, a key and the answers that a test gives it.

    Attributes:
        asked: method, path and body of what it was asked, its own keys left out.
        answers: path to what it answers: a status and a body, or ``None`` if no answer comes.
        edus: what it was told in transactions.
    """

    def __init__(self, world: LocalWorld, name: str = "peer.example") -> None:
        self.world, self.name = world, name
        self.signer = sample_secret_key(name).signer("ed25519:1")
        self.asked: list[tuple[str, str, Any]] = []
        self.answers: dict[str, tuple[int, object] | None] = {}
        self.edus: list[Json] = []
        self._transactions = 0
        world.peers[name] = self

    def user(self, name: str) -> SampleUser:
        return SampleUser(f"@{name}:{self.name}")

    # What it says when it is asked.

    def answer(self, request: ServerRequest) -> HttpResponse | None:
        method, path = request.request.method, request.request.path
        body = json.loads(request.request.body) if request.request.body else None
        if path == "/_matrix/key/v2/server":
            keys = ServerKeys.build(
                server_name=self.name, signers=[self.signer], valid_until_ts=self.world.now + 24 * HOUR_MS
            )
            return HttpResponse(status=200, body=json.dumps(keys.to_json()).encode())
        self.asked.append((method, path, body))
        if path.startswith("/_matrix/federation/v1/send/"):
            self.edus += body["edus"]
        given = self.answers.get(path, (200, {"pdus": {}}) if "/send/" in path else None)
        return None if given is None else HttpResponse(status=given[0], body=json.dumps(given[1]).encode())

    def answers_devices(self, user: SampleUser, stream_id: int, devices: Iterable[Json], **more: object) -> None:
        """Say what it answers when it is asked for all devices of a user."""
        body: Json = {
            "user_id": user.user_id,
            "stream_id": stream_id,
            "devices": [{"device_id": keys["device_id"], "keys": keys} for keys in devices],
            **more,
        }
        self.answers[f"/_matrix/federation/v1/user/devices/{quote(user.user_id, safe='')}"] = (200, body)

    def answers_query(self, **members: object) -> None:
        self.answers["/_matrix/federation/v1/user/keys/query"] = (200, {"device_keys": {}, **members})

    def answers_claim(self, one_time_keys: object) -> None:
        self.answers["/_matrix/federation/v1/user/keys/claim"] = (200, {"one_time_keys": one_time_keys})

    @property
    def asked_paths(self) -> list[str]:
        return [path.removeprefix("/_matrix/federation/v1/") for _, path, _ in self.asked]

    # What it asks and tells.

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        server: int = 0,
        authorization: Iterable[str] | None = None,
    ) -> Answer:
        """Send a request to a server and return the answer."""
        request = http(method, f"/_matrix/federation/v1/{path}", body)
        headers = sign_request(request, origin=self.name, destination=SERVERS[server], signers=self.signer)
        directory = self.world.directory(server)
        exchange = directory.receive_server_request(
            request, authorization=headers if authorization is None else authorization, now=self.world.now
        )
        return answer_of(self.world.finished(exchange))

    def query(self, device_keys: object, *, server: int = 0) -> Answer:
        return self.ask("POST", "user/keys/query", {"device_keys": device_keys}, server=server)

    def claim(self, one_time_keys: object, *, server: int = 0) -> Answer:
        return self.ask("POST", "user/keys/claim", {"one_time_keys": one_time_keys}, server=server)

    def devices(self, user_id: str, *, server: int = 0) -> Answer:
        return self.ask("GET", f"user/devices/{quote(user_id, safe='')}", server=server)

    def tell(self, *edus: Json, server: int = 0) -> None:
        """Send a transaction, and let the world come to rest."""
        self._transactions += 1
        body = {"origin": self.name, "origin_server_ts": self.world.now, "pdus": [], "edus": list(edus)}
        answer = self.ask("PUT", f"send/{self._transactions}", body, server=server)
        assert answer.status == 200, answer
        self.world.settle()

    def updates(self, user: User) -> list[Json]:
        """Return what it was told of the devices of a user."""
        return [
            edu["content"]
            for edu in self.edus
            if edu["edu_type"] == "m.device_list_update" and edu["content"]["user_id"] == user.user_id
        ]

    def identities(self, user: User) -> list[Json]:
        """Return what it was told of the identity of a user."""
        return [
            edu["content"]
            for edu in self.edus
            if edu["edu_type"] == "m.signing_key_update" and edu["content"]["user_id"] == user.user_id
        ]


def device_edu(
    user: SampleUser, device_id: str, stream_id: int, prev_id: Iterable[int] = (), **members: object
) -> Json:
    """Return the EDU that tells of a device."""
    content: Json = {
        "user_id": user.user_id,
        "device_id": device_id,
        "stream_id": stream_id,
        "prev_id": list(prev_id),
        **members,
    }
    return {"edu_type": "m.device_list_update", "content": content}


def without(tree: Json, *names: str) -> Json:
    """Return an object without some members."""
    return {name: value for name, value in tree.items() if name not in names}
