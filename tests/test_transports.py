"""The transports of docs/examples, on loopback against each other: every client-server endpoint, blocking and async."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V3,
    DeviceSigningUploadRequest,
    HttpRequest,
    KeysChangesRequest,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    MatrixError,
    OneTimeKey,
    Request,
    SendToDeviceRequest,
    SignaturesUploadRequest,
    check_query,
)
from matrix_e2e_keys.testing.samples import SampleUser

httpx = pytest.importorskip("httpx")
pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
ALICE = SampleUser("@alice:a.example")
DEVICE = "a/b%2F?#"
TOKEN = f"{ALICE.user_id} {DEVICE}"


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


@pytest.mark.parametrize("name", ["asgi_homeserver", "httpx_client"])
def test_a_transport_is_short(name: str) -> None:
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


@pytest.fixture
def toy() -> Any:
    return HOMESERVER.Toy()


@pytest.fixture
def base_url(toy: Any) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(HOMESERVER.make_app(toy), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive()


def one_time_keys(*names: str) -> dict[str, OneTimeKey]:
    return {f"signed_curve25519:{name}": ALICE.one_time_key(DEVICE, name) for name in names}


def story(dialect: Any) -> Generator[Request[Any], Any, None]:
    """Yield requests; what is sent back is the answer, or the error."""
    device = ALICE.device(DEVICE)
    uploaded = yield KeysUploadRequest(device_keys=device, one_time_keys=one_time_keys("A", "B"))
    assert dict(uploaded.one_time_key_counts) == {"signed_curve25519": 2}

    request = KeysQueryRequest.for_devices({ALICE.user_id: [DEVICE]})
    result = check_query(request, (yield request))
    assert list(result.devices.accepted[ALICE.user_id]) == [DEVICE]
    verified = result.devices.accepted[ALICE.user_id][DEVICE]

    claimed = yield KeysClaimRequest.for_devices({ALICE.user_id: [DEVICE]})
    (key,) = claimed.one_time_keys[ALICE.user_id][DEVICE].values()
    key.verify(device=verified)

    changes = yield KeysChangesRequest(from_token="s1 +&=%ü", to_token="s2")
    assert changes.changed == (ALICE.user_id,)

    sent = yield SendToDeviceRequest(
        event_type="m.x/y z", txn_id="%2F ü?", messages={ALICE.user_id: {"*": {"text": "\N{PILE OF POO}"}}}
    )
    assert sent.to_json() == {}

    refused = yield KeysUploadRequest.from_json({"device_keys": {**device.to_json(), "user_id": 5}})
    assert isinstance(refused, MatrixError)
    assert (refused.status, refused.errcode) == (400, "M_BAD_JSON")

    if dialect is CLIENT_V3:
        keys = DeviceSigningUploadRequest(master_key=ALICE.master_key)
        assert (yield keys).to_json() == {}
        challenge = yield keys
        assert isinstance(challenge, MatrixError)
        assert challenge.user_interactive is not None
        assert challenge.user_interactive.flows[0].stages == ("m.login.password",)
        assert (yield keys.with_auth(challenge.user_interactive.auth("m.login.password"))).to_json() == {}

        unknown = yield SignaturesUploadRequest.for_keys([device])
        assert isinstance(unknown, MatrixError)
        assert (unknown.status, unknown.errcode) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize("dialect", [CLIENT_V3, CLIENT_R0], ids=lambda dialect: dialect.name)
def test_blocking(base_url: str, toy: Any, dialect: Any) -> None:
    telling = story(dialect)
    with CLIENT.Client(base_url, TOKEN, dialect=dialect) as client, contextlib.suppress(StopIteration):
        request = next(telling)
        while True:
            try:
                answer = client.send(request)
            except MatrixError as error:
                answer = error
            request = telling.send(answer)
    assert [(sender, event_type) for sender, event_type, _ in toy.inbox] == [(ALICE.user_id, "m.x/y z")]


def test_async(base_url: str, toy: Any) -> None:
    async def tell() -> None:
        telling = story(CLIENT_V3)
        async with CLIENT.AsyncClient(base_url, TOKEN) as client:
            with contextlib.suppress(StopIteration):
                request = next(telling)
                while True:
                    try:
                        answer = await client.send(request)
                    except MatrixError as error:
                        answer = error
                    request = telling.send(answer)

    asyncio.run(tell())
    assert len(toy.inbox) == 1


def test_what_the_server_cannot_read(base_url: str) -> None:
    def answer(request: HttpRequest, **headers: str) -> tuple[int, Any]:
        response = httpx.request(request.method, base_url + request.target, content=request.body, headers=headers)
        return response.status_code, response.json()["errcode"]

    query = KeysQueryRequest.for_users([]).to_http()
    assert answer(HttpRequest(method="GET", path=query.path)) == (405, "M_UNRECOGNIZED")
    assert answer(HttpRequest(method="POST", path="/_matrix/client/v3/keys")) == (404, "M_UNRECOGNIZED")
    assert answer(HttpRequest(method="POST", path=query.path, body=b"{")) == (400, "M_NOT_JSON")
    assert answer(HttpRequest(method="GET", path="/_matrix/client/v3/keys/changes")) == (400, "M_MISSING_PARAM")
