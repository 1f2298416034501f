"""The homeserver of docs/examples, served by uvicorn: plain for clients, and over TLS for other servers.

Everything of it runs in one event loop, in a thread of its own; the test talks to it over HTTP like anybody else. What
no request does (logging in, who is in which room, who can be reached) is called in that loop, see :meth:`AsgiHomeserver.call`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar, cast

import pytest

from interop.certificates import Certificates
from interop.federation_http import send_over_tls
from interop.matrix_http import PASSWORD, Client
from interop.ports import free_port
from interop.room_joins import join_room
from matrix_e2e_keys import Ed25519SecretKey, HttpRequest, HttpResponse
from matrix_e2e_keys.homeserver.decisions import Requester
from matrix_e2e_keys.homeserver.directory.key_directory import KeyDirectory
from matrix_e2e_keys.homeserver.federation_auth.authorization import sign_request

EXAMPLE: Final = Path(__file__).parents[2] / "docs" / "examples" / "asgi_homeserver.py"
START_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
PATIENCE_SECONDS: Final = 10.0

Result = TypeVar("Result")


class Seen(NamedTuple):
    """A request, as it stood on the wire."""

    method: str
    target: str


def load_example() -> ModuleType:
    """Import the example from where it stands."""
    spec = importlib.util.spec_from_file_location("asgi_homeserver_of_the_rig", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def authenticate(requester: Requester, auth: Mapping[str, Any]) -> bool:
    """Tell whether somebody has given the password, and the user's own name."""
    identifier = auth.get("identifier")
    name = identifier.get("user") if isinstance(identifier, Mapping) else None
    return (auth.get("type"), name, auth.get("password")) == ("m.login.password", requester.user_id, PASSWORD)


class AsgiHomeserver:
    """The server. It answers between :meth:`start` and :meth:`stop`, and remembers everything over a stop.

    Attributes:
        server_name: its name, which says where other servers reach it.
        base_url: where clients reach it.
        signer: what it signs with.
        received: what other servers asked, in order.
        sent: what it asked other servers, in order, and what it told them.
        is_cut_off: whether nothing that it sends to other servers arrives.
        lost: how much of it did not.
        statuses: the statuses of all its answers.
        errors: what was raised where nobody waited for it.
        certificates: what it shows, and how it knows others.
    """

    def __init__(self, certificates: Certificates) -> None:
        import httpx  # noqa: PLC0415 - the fixtures decide what happens if it is missing

        self._client_port, self._federation_port = free_port(), free_port()
        self.server_name = f"localhost:{self._federation_port}"
        self.base_url = f"http://127.0.0.1:{self._client_port}"
        self.signer = Ed25519SecretKey.generate().signer("ed25519:asgi")
        self.received: list[Seen] = []
        self.sent: list[Seen] = []
        self.statuses: list[int] = []
        self.errors: list[dict[str, Any]] = []
        self.is_cut_off = False
        self.lost = 0
        self.certificates = certificates
        self._httpx = httpx
        self._example = load_example()
        self._directory = KeyDirectory.create(self.server_name, signers=self.signer, authenticate=authenticate)
        self._homeserver: Any = None
        self._rooms: dict[str, list[str]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[Any] = []
        self._thread: threading.Thread | None = None

    # ----------------------------------------------------------------------------------------------------------
    # Running
    # ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen. Works again after a stop, under the same name: everything is restored from what was stored."""
        assert self._thread is None
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(START_SECONDS)

    def stop(self) -> None:
        """Stop listening and hang up, and keep what :meth:`KeyDirectory.to_json` says. To stop twice is fine."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        for server in self._servers:
            server.should_exit = True
        thread.join(STOP_SECONDS)
        assert not thread.is_alive()
        self._directory = KeyDirectory.from_json(
            self._directory.to_json(), signers=self.signer, authenticate=authenticate
        )

    async def _serve(self, ready: threading.Event) -> None:
        import uvicorn  # noqa: PLC0415

        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        async with self._httpx.AsyncClient(
            verify=self.certificates.client_context(), trust_env=False, event_hooks={"request": [self._note_sent]}
        ) as http:
            self._homeserver = self._example.Homeserver(self._directory, http)
            app = self._watched(self._example.make_app(self._homeserver))
            tls = {"ssl_certfile": self.certificates.certificate, "ssl_keyfile": self.certificates.private_key}
            ports: dict[int, Any] = {self._client_port: {}, self._federation_port: tls}
            quiet: Any = {"log_level": logging.CRITICAL, "lifespan": "off", "timeout_graceful_shutdown": 1}
            self._servers = [
                uvicorn.Server(uvicorn.Config(app, port=port, **quiet, **options)) for port, options in ports.items()
            ]
            serving = [asyncio.create_task(server.serve()) for server in self._servers]
            while not all(server.started for server in self._servers):
                assert not any(task.done() for task in serving)
                await asyncio.sleep(0.005)
            self._homeserver.send_out()  # what was left over when it was stopped
            ready.set()
            await asyncio.gather(*serving)
            for server in self._servers:
                for connection in [*server.server_state.connections]:
                    connection.transport.abort()  # the peer keeps it for later, and does not say goodbye
        await asyncio.sleep(0.05)

    def _watched(self, app: Any) -> Any:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
            if target.startswith((b"/_matrix/federation/", b"/_matrix/key/")):
                self.received.append(Seen(scope["method"], target.decode("ascii")))

            async def noted(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.statuses.append(message["status"])
                await send(message)

            await app(scope, receive, noted)

        return watched

    async def _note_sent(self, request: Any) -> None:
        if self.is_cut_off:
            self.lost += 1
            raise self._httpx.ConnectError("the line is cut")
        self.sent.append(Seen(request.method, request.extensions["target"].decode("ascii")))

    # ----------------------------------------------------------------------------------------------------------
    # What no request does
    # ----------------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[KeyDirectory], Result]) -> Result:
        """Call something in the server's loop, and let it send out what follows from it."""

        async def called() -> Result:
            result = function(self._directory)
            self._homeserver.send_out()
            return result

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(PATIENCE_SECONDS)

    def new_client(self, device_id: str = "DEVICE", display_name: str | None = None) -> AsgiClient:
        """Let a fresh user log in on one device."""
        return self.log_in(f"@u{uuid.uuid4().hex[:12]}:{self.server_name}", device_id, display_name)

    def log_in(self, user_id: str, device_id: str, display_name: str | None = None) -> AsgiClient:
        """Let a user log in on a device."""
        self.call(lambda it: it.log_in(user_id, device_id, display_name=display_name, now=self.now()))
        return AsgiClient(self, user_id, device_id)

    def log_out(self, client: Client) -> None:
        """Delete a device."""
        self.call(lambda it: it.delete_devices(client.user_id, [client.device_id], now=self.now()))

    def share_a_room(self, *user_ids: str) -> None:
        """Put users, of whatever server, into a room of which only this server knows."""
        room_id = f"!{uuid.uuid4().hex}:{self.server_name}"
        for user_id in user_ids:
            self.call(partial(KeyDirectory.join, user_id=user_id, room_id=room_id, now=self.now()))

    def leave_rooms(self, user_id: str) -> None:
        """Note that a user is in no room any more. The servers of those rooms are not told."""
        for room_id in self._rooms.pop(user_id, ()):
            self.call(partial(KeyDirectory.leave, user_id=user_id, room_id=room_id, now=self.now()))

    def join_room_of(self, server_name: str, room_id: str, user_id: str, *members: str) -> None:
        """Let a user join a public room of version 10 of another server, in which ``members`` are already."""
        join_room(cast("Any", self), server_name, room_id, user_id)
        self._rooms.setdefault(user_id, []).append(room_id)
        for member in (user_id, *members):
            self.call(partial(KeyDirectory.join, user_id=member, room_id=room_id, now=self.now()))

    def send(self, server_name: str, request: HttpRequest) -> HttpResponse:
        """Sign and send a request of whatever kind to another server."""
        (header,) = sign_request(request, origin=self.server_name, destination=server_name, signers=self.signer)
        return send_over_tls(server_name, self.certificates, request, header)

    def now(self) -> int:
        """Return the time as Matrix counts it."""
        return time.time_ns() // 1_000_000

    def is_up_to_date(self, user_id: str) -> bool:
        """Tell whether the copy of the devices of another server's user is complete."""
        return self.call(lambda it: it._state.remote.cached(user_id) is not None)


class AsgiClient(Client):
    """One logged-in device of a user of an :class:`AsgiHomeserver`."""

    def __init__(self, server: AsgiHomeserver, user_id: str, device_id: str) -> None:
        token = f"{user_id} {device_id}"
        super().__init__(server.base_url, {"user_id": user_id, "device_id": device_id, "access_token": token})
        self.server = server

    def another_device(self, device_id: str) -> AsgiClient:
        """Log the same user in on another device."""
        return self.server.log_in(self.user_id, device_id)


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Wait until something has become true, and fail if it does not."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > end:
            pytest.fail(f"in vain: {what}")
        time.sleep(0.02)


def running_homeservers(certificates: Certificates) -> Iterator[Callable[[], AsgiHomeserver]]:
    """Yield what makes servers that run; stop them in the end. None of them may ever have failed."""
    from interop.conftest import require  # noqa: PLC0415 - pytest has a copy of its own

    for package in ("httpx", "starlette", "uvicorn"):
        require(there=importlib.util.find_spec(package) is not None, what=f"the Python package {package}")
    servers: list[AsgiHomeserver] = []

    def make() -> AsgiHomeserver:
        servers.append(AsgiHomeserver(certificates))
        servers[-1].start()
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
    for server in servers:
        assert server.errors == []
        assert [status for status in server.statuses if status >= 500] == []
