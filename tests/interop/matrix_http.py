"""A Matrix client made of the standard library: bytes out, bytes in. What they mean is left to the package."""

from __future__ import annotations

import http.client
import json
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

from matrix_e2e_keys import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    Dialect,
    HttpRequest,
    HttpResponse,
    JsonObject,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    MatrixError,
    OneTimeKey,
    OwnIdentity,
    QueryResult,
    Rejection,
    Request,
    Response,
    SendToDeviceRequest,
    SendToDeviceResponse,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SyncKeys,
    check_query,
    parse_json,
)

V3 = "/_matrix/client/v3"
PASSWORD = "correct horse"  # of users that live for seconds

Answer = TypeVar("Answer", bound=Response)


class HttpFailure(Exception):
    """There was no answer."""


def exchange(connection: http.client.HTTPConnection, request: HttpRequest, headers: Mapping[str, str]) -> HttpResponse:
    """Send a request and return the answer. The connection is closed.

    Raises:
        HttpFailure: there was no answer.
    """
    sent = {"Content-Type": "application/json", **headers} if request.body else dict(headers)
    try:
        connection.request(request.method, request.target, request.body or None, sent)
        response = connection.getresponse()
        return HttpResponse(status=response.status, body=response.read(), headers=dict(response.getheaders()))
    except (OSError, http.client.HTTPException) as error:
        raise HttpFailure(f"{request.method} {request.target}: {error!r}") from error
    finally:
        connection.close()


class Http:
    """Requests to one server, with an access token if there is one."""

    def __init__(self, base_url: str, token: str | None = None) -> None:
        self._netloc = urllib.parse.urlsplit(base_url).netloc
        self._token = token

    def send(self, request: HttpRequest, *, timeout: float = 30) -> HttpResponse:
        """Return the answer, whatever it is.

        Raises:
            HttpFailure: there was none.
        """
        headers = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        return exchange(http.client.HTTPConnection(self._netloc, timeout=timeout), request, headers)

    def post(self, path: str, body: object) -> Any:
        """Ask for something that has nothing to do with keys; return the answer, which must be a good one."""
        answer = self.send(HttpRequest(method="POST", path=V3 + path, body=json.dumps(body).encode()))
        assert answer.status == 200, f"{path}: {answer.status} {answer.body!r}"
        return parse_json(answer.body)


class Sync(NamedTuple):
    """What an answer to /sync says."""

    next_batch: str
    keys: SyncKeys
    to_device: list[JsonObject]


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
        return cls(base_url, Http(base_url).post("/register", body))

    def another_device(self, device_id: str) -> Client:
        """Log the same user in on another device."""
        body = {"type": "m.login.password", **self.credentials(), "device_id": device_id}
        return Client(self.base_url, Http(self.base_url).post("/login", body))

    def credentials(self) -> dict[str, object]:
        """Return what proves who the user is."""
        return {"identifier": {"type": "m.id.user", "user": self.user_id}, "password": PASSWORD}

    def ask(self, request: Request[Answer], dialect: Dialect | None = None) -> Answer:
        """Send a request; return what the package reads in the answer.

        Raises:
            MatrixError: the server refused.
        """
        return request.read_answer(self.http.send(request.to_http(dialect)))

    def refused(self, request: HttpRequest) -> MatrixError:
        """Send a request, which the server must refuse; return how it does."""
        return MatrixError.from_http(self.http.send(request))

    def upload(self, **members: Any) -> dict[str, int]:
        """Upload ``device_keys``, ``one_time_keys`` and ``fallback_keys``; return the counts."""
        return dict(self.ask(KeysUploadRequest(**members)).one_time_key_counts)

    def upload_cross_signing(self, request: DeviceSigningUploadRequest) -> None:
        """Upload cross-signing keys for the first time, which takes no password."""
        assert self.ask(request) == DeviceSigningUploadResponse()

    def replace_cross_signing(self, request: DeviceSigningUploadRequest) -> None:
        """Upload cross-signing keys once more, which takes the password."""
        question = self.refused(request.to_http()).user_interactive
        assert question is not None
        auth = question.auth("m.login.password", self.credentials())
        assert self.ask(request.with_auth(auth)) == DeviceSigningUploadResponse()

    def upload_signatures(self, request: SignaturesUploadRequest) -> None:
        """Upload signatures; the server must like all of them."""
        assert self.ask(request) == SignaturesUploadResponse()

    def query(self, request: KeysQueryRequest, *, own: OwnIdentity | None = None) -> QueryResult:
        """Query keys; return what the package makes of the answer."""
        return check_query(request, self.ask(request), own_user_id=self.user_id, own=own)

    def claim(self, user_id: str, device_id: str) -> Mapping[str, OneTimeKey | Rejection]:
        """Claim a key of one device; return key id to key, empty if there is none."""
        answer = self.ask(KeysClaimRequest.for_devices({user_id: [device_id]}))
        assert answer.failures == {}
        assert answer.malformed == ()
        of_user = answer.one_time_keys.get(user_id, {})
        assert not isinstance(of_user, Rejection)
        of_device = of_user.get(device_id, {})
        assert not isinstance(of_device, Rejection)
        return of_device

    def claim_one(self, user_id: str, device_id: str) -> OneTimeKey:
        """Claim a key of one device, which must have one left."""
        (key,) = self.claim(user_id, device_id).values()
        assert isinstance(key, OneTimeKey)
        return key

    def send_to_device(self, event_type: str, txn_id: str, messages: Mapping[str, Any]) -> None:
        """Send messages to devices."""
        request = SendToDeviceRequest(event_type=event_type, txn_id=txn_id, messages=messages)
        assert self.ask(request) == SendToDeviceResponse()

    def sync(self, since: Sync | None = None, *, wait: bool = False) -> Sync:
        """Return what is new, at once; or with ``wait`` as soon as there is something."""
        query = {"timeout": "10000" if wait else "0", **({} if since is None else {"since": since.next_batch})}
        request = HttpRequest(method="GET", path=f"{V3}/sync", query=urllib.parse.urlencode(query))
        answer = self.http.send(request)
        assert answer.status == 200, answer.body
        body: Any = parse_json(answer.body)
        return Sync(body["next_batch"], SyncKeys.from_sync_v2(body), body.get("to_device", {}).get("events", []))


MakeClient: TypeAlias = Callable[..., Client]
"""A fixture: ``new_client(device_id="DEVICE", display_name=None)`` registers a fresh user."""
