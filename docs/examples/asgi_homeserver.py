"""The homeserver's half of end-to-end encryption behind HTTP: ``uvicorn --factory asgi_homeserver:make_app``.

A KeyDirectory decides everything; here are bytes in and bytes out, for clients and for other servers. Three things are
simpler than in earnest: the access token is "@user:server DEVICE"; who is in which room is told by calling
``directory.join``; and a server is where its name says, on port 8448 if it names none. Nothing is stored here, and
nothing limits how much is sent or answered: in earnest, proxies on both sides do.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import httpx
from starlette import applications, requests, responses, routing

import matrix_e2e_keys as keys
from matrix_e2e_keys import homeserver as hs


def now() -> int:
    return time.time_ns() // 1_000_000


class Homeserver:
    """A directory with a transport around it. Everything runs in one event loop, so that nothing needs a lock."""

    def __init__(self, directory: hs.KeyDirectory, http: httpx.AsyncClient) -> None:
        self.directory = directory
        self._http = http
        self._news = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def answer(self, request: requests.Request) -> responses.Response:
        """Answer any request, to the client-server or the server-server API."""
        path, query = request.scope["raw_path"], request.scope["query_string"]  # as on the wire, not decoded
        http = keys.HttpRequest(method=request.method, path=path, query=query, body=await request.body())
        authorization = request.headers.getlist("authorization")
        try:
            if http.path.startswith(("/_matrix/federation/", "/_matrix/key/")):
                exchange = self.directory.receive_server_request(http, authorization=authorization, now=now())
                result = await self._finished(exchange)
            elif (http.method, http.path) == ("GET", "/_matrix/client/v3/sync"):
                result = await self._sync(self._requester(authorization), request.query_params)
            else:
                requester = self._requester(authorization)
                exchange = self.directory.receive_client_request(http, requester=requester, now=now())
                result = await self._finished(exchange)
        except keys.E2EKeysError as error:
            result = keys.MatrixError.answering(error).to_http()
        self.send_out()
        return responses.Response(result.body, result.status, dict(result.headers), "application/json")

    def _requester(self, authorization: list[str]) -> hs.Requester:
        user_id, _, device_id = "".join(authorization).removeprefix("Bearer ").partition(" ")
        try:
            return hs.Requester(user_id=user_id, device_id=device_id)
        except keys.E2EKeysError:
            raise keys.MatrixError(status=401, errcode="M_MISSING_TOKEN", error="Missing access token") from None

    async def _sync(self, requester: hs.Requester, query: Any) -> keys.HttpResponse:
        """Say what is new, as soon as there is something."""
        since, timeout = query.get("since"), query.get("timeout", "")
        seconds = min(int(timeout[:9]), 30_000) / 1000 if timeout.isdecimal() else 0
        answer = self.directory.sync(requester, since=since)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while answer.next_batch == since:
                    await self._news.wait()
                    answer = self.directory.sync(requester, since=since)
        return keys.HttpResponse(status=200, body=json.dumps(answer.to_json()).encode())

    async def _finished(self, exchange: hs.Exchange) -> keys.HttpResponse:
        """Ask other servers, all at once, for what an answer takes."""
        while exchange.response is None:
            answers = await asyncio.gather(*map(self._sent, exchange.requests))
            names = [request.server_name for request in exchange.requests]
            exchange = exchange.proceed(dict(zip(names, answers, strict=True)), now=now())
        return exchange.response

    async def _sent(self, request: hs.ServerRequest) -> keys.HttpResponse | None:
        headers = [("content-type", "application/json"), *(("authorization", it) for it in request.authorization)]
        try:
            base = httpx.URL(f"https://{request.server_name}")
            response = await self._http.request(
                request.request.method,
                base if base.port else base.copy_with(port=8448),
                content=request.request.body or None,
                headers=headers,
                timeout=request.timeout_ms / 1000,
                extensions={"target": request.request.target.encode()},  # on the wire as it was signed
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):  # the last two: the name is none that exists
            return None
        return keys.HttpResponse(status=response.status_code, body=response.content, headers=response.headers)

    def send_out(self) -> None:
        """Tell clients and other servers what is new, and later what failed. Call it after every change."""
        self._news.set()  # whoever waits looks
        self._news.clear()
        loop = asyncio.get_running_loop()
        while (request := self.directory.next_request(now=now())) is not None:
            task = loop.create_task(self._send(request))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self.directory.next_wake_at(now=now())
        self._timer = None if wake_at is None else loop.call_later(max(1, wake_at - now()) / 1000, self.send_out)

    async def _send(self, request: hs.ServerRequest) -> None:
        self.directory.receive_answer(request, await self._sent(request), now=now())
        self.send_out()


def make_app(homeserver: Homeserver | None = None) -> applications.Starlette:
    """Return the application; without a homeserver, one for ``@alice:localhost`` and her devices A and B."""
    if homeserver is None:
        signer = keys.Ed25519SecretKey.generate().signer("ed25519:1")
        directory = hs.KeyDirectory.create("localhost", signers=signer)
        for device_id in ("A", "B"):
            directory.log_in("@alice:localhost", device_id, now=now())
        homeserver = Homeserver(directory, httpx.AsyncClient())
    methods = ["GET", "POST", "PUT"]
    return applications.Starlette(routes=[routing.Route("/{path:path}", homeserver.answer, methods=methods)])
