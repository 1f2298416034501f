"""The transports of docs/examples, on loopback: the life of two users of two servers, blocking and async."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import pytest
from attrs import evolve

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V3,
    DeviceKeys,
    DeviceSigningUploadRequest,
    Dialect,
    Ed25519SecretKey,
    HttpRequest,
    KeysChangesRequest,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    MatrixError,
    OneTimeKey,
    QueryResult,
    Request,
    SendToDeviceRequest,
    SignaturesUploadRequest,
    SyncKeys,
    check_query,
)
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
LENGTHS = {"asgi_homeserver": 130, "httpx_client": 80}
SERVERS = ("a.example", "b.example:1234")  # one whose port is the usual one, and one that names its port
ALICE, BOB = SampleUser(f"@alice:{SERVERS[0]}"), SampleUser(f"@bob:{SERVERS[1]}")
PHONE, LAPTOP = "a/b%2F?#", "LAPTOP"
SIGNED = "signed_curve25519"
SECONDS = 10.0


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where attrs and dataclasses would look for it
    spec.loader.exec_module(module)
    return module


HOMESERVER = example("asgi_homeserver")
CLIENT = example("httpx_client")


@pytest.mark.parametrize("name", LENGTHS)
def test_a_transport_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < LENGTHS[name]


def authenticate(requester: Requester, auth: Mapping[str, Any]) -> bool:
    return (auth["type"], auth.get("password")) == ("m.login.password", f"secret of {requester.user_id}")


# --------------------------------------------------------------------------------------------------------------
# Two servers
# --------------------------------------------------------------------------------------------------------------


class Net:
    """Where servers are, by name and port; and what is wrong with the way there."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self.down: set[str] = set()
        self.refusing: set[str] = set()
        self.delay = 0.0
        self.targets: list[str] = []

    def transport(self) -> Any:
        """Return what servers ask each other through: HTTP without TLS, so that no certificates are needed."""
        net = self

        class Transport(httpx.AsyncHTTPTransport):  # type: ignore[misc, name-defined, unused-ignore]
            async def handle_async_request(self, request: Any) -> Any:
                name = request.url.netloc.decode()
                if name in net.down or name not in net.ports:
                    raise httpx.ConnectError(f"{name} cannot be reached")
                if name in net.refusing:
                    return httpx.Response(503, json={})
                await asyncio.sleep(net.delay)
                net.targets.append(request.extensions["target"].decode())
                request.url = httpx.URL(f"http://127.0.0.1:{net.ports[name]}")
                return await super().handle_async_request(request)

        return Transport(verify=False)


class Server:
    """A homeserver in a thread."""

    def __init__(self, net: Net, server_name: str) -> None:
        self._net = net
        self._directory = KeyDirectory.create(
            server_name, signers=Ed25519SecretKey.generate().signer("ed25519:1"), authenticate=authenticate
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        net.ports[server_name if ":" in server_name else f"{server_name}:8448"] = port
        self.base_url = f"http://127.0.0.1:{port}"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(SECONDS)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with httpx.AsyncClient(transport=self._net.transport()) as http:
            self._homeserver = HOMESERVER.Homeserver(self._directory, http)
            app = HOMESERVER.make_app(self._homeserver)
            config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
            self._server = uvicorn.Server(config)
            serving = asyncio.create_task(self._server.serve([self._listener]))
            while not self._server.started:
                assert not serving.done()
                await asyncio.sleep(0.005)
            self._ready.set()
            await serving

    def call(self, function: Callable[[KeyDirectory], Any]) -> Any:
        """Do something in the thread of the server that no request does."""

        async def called() -> Any:
            result = function(self._directory)
            self._homeserver.send_out()
            return result

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(SECONDS)

    def join(self, user_id: str) -> None:
        """Note that a user is in the room."""
        self.call(lambda it: it.join(user_id, "!room:a.example", now=HOMESERVER.now()))

    def begin_to_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.begin_to_stop()
        self._thread.join(SECONDS)
        self._listener.close()
        assert not self._thread.is_alive()


class Servers(NamedTuple):
    """Two homeservers. Alice and Bob are logged in, and share a room."""

    net: Net
    a: Server
    b: Server
    http: Any
    """What asks the servers where the clients of the examples do not."""

    def of(self, user: SampleUser) -> Server:
        return self.a if user is ALICE else self.b


@pytest.fixture
def servers() -> Iterator[Servers]:
    net = Net()
    running = [Server(net, name) for name in SERVERS]
    a, b = running
    a.call(lambda it: it.log_in(ALICE.user_id, PHONE, display_name="a phone", now=HOMESERVER.now()))
    b.call(lambda it: it.log_in(BOB.user_id, LAPTOP, now=HOMESERVER.now()))
    for server in running:
        for user in (ALICE, BOB):
            server.join(user.user_id)
    with httpx.Client(verify=False, timeout=30) as http:  # there is no TLS here
        yield Servers(net, a, b, http)
    for server in running:
        server.begin_to_stop()
    for server in running:
        server.stop()


def token_of(user: SampleUser) -> str:
    return f"{user.user_id} {PHONE if user is ALICE else LAPTOP}"


def sync(servers: Servers, user: SampleUser, since: str | None = None, *, timeout: int = 0) -> Any:
    """Return what /sync says, decoded."""
    answer = servers.http.get(
        f"{servers.of(user).base_url}/_matrix/client/v3/sync",
        params={"timeout": timeout, **({} if since is None else {"since": since})},
        headers={"authorization": f"Bearer {token_of(user)}"},
    )
    assert answer.status_code == 200, answer.content
    return answer.json()


def quiet(servers: Servers, user: SampleUser) -> str:
    """Wait until the servers, which have just met, have told each other all they have; return the token after that."""
    since = sync(servers, user)["next_batch"]
    while (after := sync(servers, user, since, timeout=200)["next_batch"]) != since:
        since = after
    return str(since)


def eventually(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------------------
# The story
# --------------------------------------------------------------------------------------------------------------

Story: TypeAlias = Generator[tuple[SampleUser, Request[Any]], Any, None]
"""Yields who sends what; what is sent back is the answer, or the error."""


def keys(user: SampleUser, device_id: str, *names: str) -> dict[str, OneTimeKey]:
    return {f"{SIGNED}:{name}": user.one_time_key(device_id, name) for name in names}


def refused(answer: object) -> tuple[int, str | None]:
    assert isinstance(answer, MatrixError)
    return answer.status, answer.errcode


def looked_up(user: SampleUser, *others: SampleUser) -> Generator[tuple[SampleUser, Request[Any]], Any, QueryResult]:
    request = KeysQueryRequest.for_users([other.user_id for other in others])
    answer = yield user, request
    assert answer.failures == {}
    result = check_query(request, answer, own_user_id=user.user_id)
    assert result.devices.rejected == result.identities.rejected == ()
    return result


def uploads() -> Story:
    """Alice uploads her keys. What is wrong is refused, and nothing of it stored."""
    device = ALICE.device(PHONE, cross_signed=False)
    unsigned = KeysUploadRequest(device_keys=DeviceKeys.from_json({**device.to_json(), "algorithms": ["m.other"]}))
    assert refused((yield ALICE, unsigned)) == (400, "M_INVALID_SIGNATURE")
    malformed = KeysUploadRequest.from_json({"device_keys": {**device.to_json(), "user_id": 5}})
    assert refused((yield ALICE, malformed)) == (400, "M_BAD_JSON")
    foreign = KeysUploadRequest(device_keys=BOB.device(LAPTOP), one_time_keys=keys(ALICE, PHONE, "A"))
    assert refused((yield ALICE, foreign)) == (400, "M_BAD_JSON")
    assert dict((yield ALICE, KeysUploadRequest()).one_time_key_counts) == {SIGNED: 0}

    fallback = ALICE.one_time_key(PHONE, "F", fallback=True)
    good = KeysUploadRequest.for_keys(
        device_keys=device, one_time_keys=keys(ALICE, PHONE, "A", "B").values(), fallback_keys=[fallback]
    )
    for _ in range(2):  # the second time, the first answer was lost
        assert dict((yield ALICE, good).one_time_key_counts) == {SIGNED: 2}
    other = OneTimeKey.build(
        key_id=f"{SIGNED}:A",
        key=sample_curve25519_key("another"),
        user_id=ALICE.user_id,
        signer=ALICE.device_signer(PHONE),
    )
    answer = yield ALICE, KeysUploadRequest.for_keys(one_time_keys=[other, *keys(ALICE, PHONE, "C").values()])
    assert refused(answer) == (400, "M_UNKNOWN")
    assert answer.error.startswith(f"One time key {SIGNED}:A already exists. Old key: ")
    yield BOB, KeysUploadRequest(device_keys=BOB.device(LAPTOP), one_time_keys=keys(BOB, LAPTOP, "A"))


def claims(servers: Servers) -> Story:
    """Bob, of the other server, looks up Alice's device, and claims its keys until there are none."""
    since = sync(servers, ALICE)
    assert SyncKeys.from_sync_v2(since).one_time_key_counts == {SIGNED: 2}
    assert SyncKeys.from_sync_v2(since).unused_fallback_key_types == (SIGNED,)
    device = (yield from looked_up(BOB, ALICE)).devices.accepted[ALICE.user_id][PHONE]
    claimed = []
    for _ in range(4):
        answer = yield BOB, KeysClaimRequest.for_devices({ALICE.user_id: [PHONE]})
        ((key_id, key),) = answer.one_time_keys[ALICE.user_id][PHONE].items()
        key.verify(device=device)
        claimed.append(str(key_id))
    assert claimed == [f"{SIGNED}:{name}" for name in "ABFF"]
    now = SyncKeys.from_sync_v2(sync(servers, ALICE, since["next_batch"]))
    assert (now.one_time_key_counts, now.unused_fallback_key_types) == ({SIGNED: 0}, ())
    nobody = yield BOB, KeysClaimRequest.for_devices({"@nobody:c.example": ["X"], BOB.user_id: ["GONE"]})
    assert ({*nobody.failures}, dict(nobody.one_time_keys)) == ({"c.example"}, {})


def changes(servers: Servers) -> Story:
    """Alice hears that Bob has another device, in both of the ways."""
    yield from looked_up(ALICE, BOB)
    since = sync(servers, ALICE)["next_batch"]
    servers.b.call(lambda it: it.log_in(BOB.user_id, "TABLET", now=HOMESERVER.now()))
    eventually(lambda: sync(servers, ALICE, since).get("device_lists", {}).get("changed") == [BOB.user_id])
    answer = yield ALICE, KeysChangesRequest(from_token=since, to_token="s9 +&=%ü")
    assert (answer.changed, answer.left) == ((BOB.user_id,), ())
    assert refused((yield ALICE, KeysChangesRequest(from_token="s1 +&=%ü", to_token=since))) == (400, "M_UNKNOWN")


def messages(servers: Servers) -> Story:
    """Alice and Bob write to each other's devices, and Alice to her own."""
    content = {"text": "\N{PILE OF POO} \u2028"}
    for sender, receiver in ((ALICE, BOB), (BOB, ALICE), (ALICE, ALICE)):
        since = sync(servers, receiver)["next_batch"]
        for _ in range(2):  # the same transaction
            yield (
                sender,
                SendToDeviceRequest(
                    event_type="m.x/y z",
                    txn_id=f"%2F ü? {receiver.user_id}",
                    messages={receiver.user_id: {"*": content}},
                ),
            )
        answer = sync(servers, receiver, since, timeout=10_000)
        while not answer["to_device"]["events"]:
            answer = sync(servers, receiver, answer["next_batch"], timeout=10_000)
        assert answer["to_device"]["events"] == [{"sender": sender.user_id, "type": "m.x/y z", "content": content}]
        assert sync(servers, receiver, answer["next_batch"])["to_device"]["events"] == []


def identities() -> Story:
    """Alice and Bob set up cross-signing and verify each other; then Alice begins anew, which takes the password."""
    for user, device_id in ((ALICE, PHONE), (BOB, LAPTOP)):
        upload = DeviceSigningUploadRequest(
            master_key=user.master_key, self_signing_key=user.self_signing_key, user_signing_key=user.user_signing_key
        )
        for _ in range(2):  # the second time, nothing is new
            assert (yield user, upload).to_json() == {}
        answer = yield user, SignaturesUploadRequest.for_keys([user.device(device_id)])
        assert answer.failures == {}

    for user, other, name in ((ALICE, BOB, LAPTOP), (BOB, ALICE, PHONE)):
        signed = yield user, SignaturesUploadRequest.for_keys([user.verified(other.master_key)])
        assert signed.failures == {}
        wrong = evolve(user, generation=1).verified(other.master_key)
        failures = (yield user, SignaturesUploadRequest.for_keys([wrong])).failures
        assert [*failures] == [other.user_id]
        result = yield from looked_up(user, user, other)
        own = result.identities.accepted[user.user_id].confirm_as_own(master_key=user.master_public_key)
        own.verify_user(result.identities.accepted[other.user_id])
        assert result.devices.accepted[other.user_id][name].is_cross_signed
        seen = result.identities.accepted[user.user_id].master_key
        assert {*seen.signed.signatures} <= {user.user_id}  # whom the other has verified is nobody else's business

    anew = evolve(ALICE, generation=1)
    upload = DeviceSigningUploadRequest(master_key=anew.master_key, self_signing_key=anew.self_signing_key)
    question = yield ALICE, upload
    assert refused(question)[0] == 401
    assert question.user_interactive is not None
    assert question.user_interactive.flows[0].stages == ("m.login.password",)
    for user, status in ((BOB, 401), (ALICE, 200)):
        auth = question.user_interactive.auth("m.login.password", {"password": f"secret of {user.user_id}"})
        answer = yield ALICE, upload.with_auth(auth)
        assert answer.to_json() == {} if status == 200 else refused(answer)[0] == status
    result = yield from looked_up(ALICE, ALICE)
    assert result.identities.accepted[ALICE.user_id].master_key == anew.master_key
    assert not result.devices.accepted[ALICE.user_id][PHONE].is_cross_signed


def story(servers: Servers, dialect: Dialect) -> Story:
    yield from uploads()
    yield from claims(servers)
    yield from changes(servers)
    yield from messages(servers)
    if dialect is CLIENT_V3:
        yield from identities()


@pytest.mark.parametrize("dialect", [CLIENT_V3, CLIENT_R0], ids=lambda dialect: dialect.name)
def test_a_life_with_the_blocking_client(servers: Servers, dialect: Dialect) -> None:
    telling, answer = story(servers, dialect), None
    with (
        CLIENT.Client(servers.a.base_url, token_of(ALICE), dialect=dialect) as alice,
        CLIENT.Client(servers.b.base_url, token_of(BOB), dialect=dialect) as bob,
    ):
        while True:
            try:
                user, request = telling.send(answer)
            except StopIteration:
                break
            try:
                answer = (alice if user is ALICE else bob).send(request)
            except MatrixError as error:
                answer = error


def test_a_life_with_the_async_client(servers: Servers) -> None:
    async def tell() -> None:
        telling, answer = story(servers, CLIENT_V3), None
        async with (
            CLIENT.AsyncClient(servers.a.base_url, token_of(ALICE)) as alice,
            CLIENT.AsyncClient(servers.b.base_url, token_of(BOB)) as bob,
        ):
            while True:
                try:
                    user, request = telling.send(answer)
                except StopIteration:
                    break
                try:
                    answer = await (alice if user is ALICE else bob).send(request)
                except MatrixError as error:
                    answer = error

    asyncio.run(tell())


# --------------------------------------------------------------------------------------------------------------
# Beside the story
# --------------------------------------------------------------------------------------------------------------


def asked(servers: Servers, server: Server, request: HttpRequest, authorization: str | None) -> tuple[int, Any]:
    """Return status and body of the answer to a request as it stands."""
    headers = {} if authorization is None else {"authorization": authorization}
    url = server.base_url + request.target
    answer = servers.http.request(request.method, url, content=request.body, headers=headers)
    return answer.status_code, answer.json()


def test_what_cannot_be_read_is_refused(servers: Servers) -> None:
    def error(request: HttpRequest) -> tuple[int, str]:
        status, body = asked(servers, servers.a, request, f"Bearer {token_of(ALICE)}")
        return status, body["errcode"]

    query = KeysQueryRequest.for_users([]).to_http()
    assert error(HttpRequest(method="GET", path=query.path)) == (405, "M_UNRECOGNIZED")
    assert error(HttpRequest(method="POST", path="/_matrix/client/v3/keys")) == (404, "M_UNRECOGNIZED")
    assert error(HttpRequest(method="POST", path="/_matrix/client/v3/sync")) == (404, "M_UNRECOGNIZED")
    assert error(HttpRequest(method="POST", path=query.path, body=b"{")) == (400, "M_NOT_JSON")
    assert error(HttpRequest(method="GET", path="/_matrix/client/v3/keys/changes")) == (400, "M_MISSING_PARAM")
    assert error(HttpRequest(method="GET", path="/_matrix/client/v3/sync", query="since=nonsense")) == (
        400,
        "M_UNKNOWN",
    )
    assert error(HttpRequest(method="GET", path="/_matrix/federation/v1/user/devices/%40alice%3Aa.example")) == (
        401,
        "M_UNAUTHORIZED",
    )


@pytest.mark.parametrize(
    ("authorization", "errcode"),
    [
        (None, "M_MISSING_TOKEN"),
        ("Bearer", "M_MISSING_TOKEN"),
        ("Bearer nonsense", "M_MISSING_TOKEN"),
        ("Bearer nonsense PHONE", "M_MISSING_TOKEN"),
        (f"Bearer {ALICE.user_id}", "M_MISSING_TOKEN"),
        (f"Bearer {ALICE.user_id} OTHER", "M_UNKNOWN_TOKEN"),
        (f"Bearer {BOB.user_id} {LAPTOP}", "M_UNKNOWN_TOKEN"),
    ],
)
def test_who_is_not_logged_in_is_told_so(servers: Servers, authorization: str | None, errcode: str) -> None:
    requests = [
        KeysQueryRequest.for_users([]).to_http(),
        HttpRequest(method="GET", path="/_matrix/client/v3/sync", query="timeout=10000"),
    ]
    for request in requests:
        status, body = asked(servers, servers.a, request, authorization)
        assert (status, body["errcode"]) == (401, errcode)


def test_servers_that_do_not_exist_are_failures(servers: Servers) -> None:
    names = ["xn--a", "a..b", "a" * 64, "1.2.3.4.5", "[::1]:1", "c.example", "d.example:65535"]
    query = KeysQueryRequest.for_users([ALICE.user_id, *(f"@x:{name}" for name in names)])
    status, body = asked(servers, servers.a, query.to_http(), f"Bearer {token_of(ALICE)}")
    assert (status, {*body["failures"]}) == (200, {*names})


def test_what_one_server_asks_another_stands_on_the_wire_as_it_was_signed(servers: Servers) -> None:
    user = SampleUser(f"@!~*'();,+$_-.=/?#%2F[]:{SERVERS[1]}")
    servers.a.join(user.user_id)
    quoted = urllib.parse.quote(user.user_id, safe="")
    eventually(lambda: f"/_matrix/federation/v1/user/devices/{quoted}" in servers.net.targets)


def test_a_sync_waits_until_something_is_new_and_no_longer_than_it_may(servers: Servers) -> None:
    since = quiet(servers, BOB)
    began = time.monotonic()
    assert sync(servers, BOB, since, timeout=200)["next_batch"] == since
    assert 0.15 < time.monotonic() - began < 5

    answers: list[Any] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(sync(servers, BOB, since, timeout=20_000))) for _ in range(3)
    ]
    began = time.monotonic()
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert answers == []
    asked(servers, servers.a, message_to_bob(1), f"Bearer {token_of(ALICE)}")
    for thread in waiting:
        thread.join(SECONDS)
    assert time.monotonic() - began < 8
    assert [event["content"] for answer in answers for event in answer["to_device"]["events"]] == [{"n": 1}] * 3


def message_to_bob(number: int) -> HttpRequest:
    messages = {BOB.user_id: {LAPTOP: {"n": number}}}
    return SendToDeviceRequest(event_type="m.x", txn_id=f"{number}", messages=messages).to_http()


@pytest.mark.parametrize("fault", ["down", "refusing"])
def test_what_could_not_be_sent_is_sent_when_the_other_server_is_heard_of(servers: Servers, fault: str) -> None:
    quiet(servers, ALICE)
    since = quiet(servers, BOB)
    out_of_order: set[str] = getattr(servers.net, fault)
    out_of_order.add(SERVERS[1])
    asked(servers, servers.a, message_to_bob(1), f"Bearer {token_of(ALICE)}")
    query = KeysQueryRequest.for_users([f"@somebody:{SERVERS[1]}"]).to_http()
    _, body = asked(servers, servers.a, query, f"Bearer {token_of(ALICE)}")
    assert {*body["failures"]} == {SERVERS[1]}
    out_of_order.clear()
    assert sync(servers, BOB, since, timeout=300)["to_device"]["events"] == []

    asked(servers, servers.b, KeysClaimRequest.for_devices({ALICE.user_id: ["X"]}).to_http(), f"Bearer {token_of(BOB)}")

    eventually(lambda: len(sync(servers, BOB, since)["to_device"]["events"]) == 1)


def test_what_waits_behind_a_transaction_is_sent_after_it(servers: Servers) -> None:
    since = sync(servers, BOB)["next_batch"]
    servers.net.delay = 0.3
    for number in (1, 2):
        asked(servers, servers.a, message_to_bob(number), f"Bearer {token_of(ALICE)}")

    eventually(lambda: len(sync(servers, BOB, since)["to_device"]["events"]) == 2)


def test_what_failed_is_sent_again_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time does not pass in it: whoever would wait makes it later instead."""
    clock = began = 1_790_000_000_000
    sent_after: list[int] = []

    async def answer(request: Any) -> Any:
        sent_after.append((clock - began) // 1000)
        return httpx.Response(200 if len(sent_after) == 3 else 502, json={"pdus": {}})

    async def tell() -> None:
        def call_later(delay: float, callback: Callable[[], None]) -> asyncio.Handle:
            nonlocal clock
            clock += int(delay * 1000)
            return loop.call_soon(callback)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(HOMESERVER, "now", lambda: clock)
        directory = KeyDirectory.create("a.example", signers=Ed25519SecretKey.generate().signer("ed25519:1"))
        directory.log_in(ALICE.user_id, PHONE, now=clock)
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            homeserver = HOMESERVER.Homeserver(directory, http)
            monkeypatch.setattr(loop, "call_later", call_later)
            requester = Requester(user_id=ALICE.user_id, device_id=PHONE)
            directory.receive_client_request(message_to_bob(1), requester=requester, now=clock)
            homeserver.send_out()
            for _ in range(1000):
                await asyncio.sleep(0)

    asyncio.run(tell())
    assert sent_after == [0, 15, 45]


def test_without_arguments_it_is_a_server_for_two_devices_of_alice() -> None:
    app = HOMESERVER.make_app()

    async def ask() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            path = "/_matrix/client/v3/keys/upload"
            headers = {"authorization": "Bearer @alice:localhost B"}
            return (await client.post(path, content=b"{}", headers=headers)).json()

    assert asyncio.run(ask()) == {"one_time_key_counts": {SIGNED: 0}}
