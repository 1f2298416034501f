"""A Matrix client made of the standard library: bytes out, bytes in. What they mean is left to the package."""

from __future__ import annotations

import http.client
import json
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from matrix_e2e_keys import (
    JsonObject,
    KeysQueryRequest,
    KeysQueryResponse,
    OwnIdentity,
    QueryResult,
    check_query,
    parse_json,
)

V3 = "/_matrix/client/v3"
PASSWORD = "correct horse"  # of users that live for seconds


class HttpFailure(Exception):
    """There was no answer."""


class Http:
    """Requests to one server, with an access token if there is one."""

    def __init__(self, base_url: str, token: str | None = None) -> None:
        self._netloc = urllib.parse.urlsplit(base_url).netloc
        self._token = token

    def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float = 30) -> tuple[int, bytes]:
        """Return status and body of the answer."""
        headers = {"Content-Type": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        connection = http.client.HTTPConnection(self._netloc, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise HttpFailure(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def post(self, path: str, body: object, *, status: int = 200) -> bytes:
        """Return the body of the answer, which must have the expected status."""
        got, answer = self.request("POST", V3 + path, json.dumps(body).encode())
        assert got == status, f"{path}: {got} {answer!r}"
        return answer


class Client:
    """One logged-in device and the key endpoints it uses."""

    def __init__(self, base_url: str, login: Mapping[str, Any]) -> None:
        self.user_id: str = login["user_id"]
        self.device_id: str = login["device_id"]
        self.base_url = base_url
        self.http = Http(base_url, login["access_token"])

    @classmethod
    def register(cls, base_url: str, device_id: str, display_name: str | None) -> Client:
        """Register a fresh user with one device."""
        body = {
            "username": f"u{uuid.uuid4().hex[:12]}",
            "password": PASSWORD,
            "device_id": device_id,
            "initial_device_display_name": display_name,
            "auth": {"type": "m.login.dummy"},
        }
        return cls(base_url, json.loads(Http(base_url).post("/register", body)))

    def another_device(self, device_id: str) -> Client:
        """Log the same user in on another device."""
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": PASSWORD,
            "device_id": device_id,
        }
        return Client(self.base_url, json.loads(Http(self.base_url).post("/login", body)))

    def upload(self, **members: object) -> dict[str, int]:
        """POST /keys/upload; return the counts."""
        counts: dict[str, int] = json.loads(self.http.post("/keys/upload", members))["one_time_key_counts"]
        return counts

    def upload_cross_signing(self, keys: Mapping[str, Any]) -> None:
        """POST /keys/device_signing/upload, for the first time."""
        self.http.post("/keys/device_signing/upload", keys)

    def replace_cross_signing(self, keys: Mapping[str, Any]) -> None:
        """POST /keys/device_signing/upload once more, which takes the password."""
        path = "/keys/device_signing/upload"
        session = json.loads(self.http.post(path, keys, status=401))["session"]
        auth = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": self.user_id},
            "password": PASSWORD,
            "session": session,
        }
        self.http.post(path, {**keys, "auth": auth})

    def upload_signatures(self, signed: Mapping[str, Mapping[str, JsonObject]]) -> None:
        """POST /keys/signatures/upload; the server must like all of them."""
        answer = json.loads(self.http.post("/keys/signatures/upload", signed))
        assert answer == {"failures": {}}, answer

    def ask(self, request: KeysQueryRequest) -> bytes:
        """POST /keys/query; return the answer as it came."""
        return self.http.post("/keys/query", request.to_json())

    def query(self, request: KeysQueryRequest, *, own: OwnIdentity | None = None) -> QueryResult:
        """POST /keys/query; return what the package makes of the answer."""
        return check_query(request, KeysQueryResponse.from_bytes(self.ask(request)), own_user_id=self.user_id, own=own)

    def claim(self, user_id: str, device_id: str) -> dict[str, Any]:
        """POST /keys/claim for one device; return key id to key, empty if there is none."""
        asked = {user_id: {device_id: "signed_curve25519"}}
        answer: Any = parse_json(self.http.post("/keys/claim", {"one_time_keys": asked}))
        assert answer["failures"] == {}
        claimed: dict[str, Any] = answer["one_time_keys"].get(user_id, {}).get(device_id, {})
        return claimed


MakeClient: TypeAlias = Callable[..., Client]
"""A fixture: ``new_client(device_id="DEVICE", display_name=None)`` registers a fresh user."""
