"""Drive the key endpoints with httpx, blocking or async: the whole transport of a client.

    with Client("https://matrix.example.org", token) as client:
        answer = client.send(KeysQueryRequest.for_users(["@bob:b.example"]))

Whatever the server refuses comes as a MatrixError; what cannot be reached, as httpx says it.
"""

from __future__ import annotations

from typing import Any, Self, TypeVar

import httpx

from matrix_e2e_keys import Dialect, HttpRequest, HttpResponse, Request, Response

Answer = TypeVar("Answer", bound=Response)


def _arguments(request: HttpRequest, token: str) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {token}"}
    if request.body:
        headers["content-type"] = "application/json"
    # The target is encoded already, and must reach the wire as it is.
    return {"method": request.method, "url": request.target, "content": request.body or None, "headers": headers}


def _answer(response: httpx.Response) -> HttpResponse:
    return HttpResponse(status=response.status_code, body=response.content, headers=response.headers)


class Client:
    """One logged-in device, blocking."""

    def __init__(self, base_url: str, token: str, *, dialect: Dialect | None = None) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=30)
        self._token = token
        self._dialect = dialect

    def send(self, request: Request[Answer]) -> Answer:
        """Send a request, and return the answer that belongs to it."""
        response = self._http.request(**_arguments(request.to_http(self._dialect), self._token))
        return request.read_answer(_answer(response))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()


class AsyncClient:
    """One logged-in device, async."""

    def __init__(self, base_url: str, token: str, *, dialect: Dialect | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=30)
        self._token = token
        self._dialect = dialect

    async def send(self, request: Request[Answer]) -> Answer:
        """Send a request, and return the answer that belongs to it."""
        response = await self._http.request(**_arguments(request.to_http(self._dialect), self._token))
        return request.read_answer(_answer(response))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
