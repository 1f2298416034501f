"""A homeserver in memory: as much of the client-server API as keys need, over real bytes.

It keeps what clients upload, hands it out to whom it may, and remembers every upload for tests to look at. It trusts
its users with nothing but their names::

    server = FakeServer(passwords={"@alice:a.example": "secret"})
    server.log_in("@alice:a.example", "PHONE")
    answer = server.exchange("@alice:a.example", "PHONE", request)    # raises MatrixError
    keys, token = server.sync("@alice:a.example", "PHONE", since=None)

What it does as real servers do, since clients suffer from it:

* One-time keys are unique by id among those that are not claimed. If one is not, none of the upload is taken; the
  device keys beside it are.
* An upload of device keys replaces the whole object, with all signatures.
* Whoever has an identity and uploads another one has to give the password first.
* Signatures are refused one by one, in an answer of status 200.
* A user-signing key is shown to its owner only, a signature on somebody else's master key to the signer only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from attrs import define, field, frozen

from matrix_e2e_keys.client.machine.values import MachineRequest
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.endpoints.client_server.sync import SyncKeys
from matrix_e2e_keys.endpoints.http_values import HttpRequest, HttpResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.routing import read_request
from matrix_e2e_keys.endpoints.user_interactive import AuthenticationFlow, UserInteractiveAuth
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = ["FakeServer", "token"]

_PASSWORD: Final = "m.login.password"
_SESSION: Final = "session"
_ROLES: Final = ("master_key", "self_signing_key", "user_signing_key")

Json = dict[str, Any]
DeviceName = tuple[str, str]


@define
class Device:
    """A device that is logged in."""

    keys: Json | None = None
    one_time_keys: dict[str, Json] = field(factory=dict)
    fallback_keys: dict[str, Json] = field(factory=dict)
    used_fallback_keys: set[str] = field(factory=set)

    @property
    def counts(self) -> dict[str, int]:
        return {"signed_curve25519": len(self.one_time_keys)}

    @property
    def unused_fallback_types(self) -> list[str]:
        return sorted({key_id.partition(":")[0] for key_id in self.fallback_keys.keys() - self.used_fallback_keys})


@define
class User:
    """A user: devices, and an identity if there is one."""

    devices: dict[str, Device] = field(factory=dict)
    identity: dict[str, Json] = field(factory=dict)
    """Role to key, with all signatures there are."""


@frozen
class Event:
    """Something that ``/sync`` tells: somebody has changed, or is gone from all common rooms."""

    user_id: str
    audience: str | None = None
    """Who is told, everybody if ``None``."""
    has_left: bool = False


def token(position: int) -> str:
    """Return the token of a position in the stream."""
    return f"s{position}"


@define
class FakeServer:
    """The server.

    Attributes:
        passwords: user id to password. Whoever has none replaces an identity without being asked.
        users: user id to user.
        stream: what has happened.
        record: user id and device id to key id to every form in which a one-time or fallback key was ever uploaded.
    """

    passwords: Mapping[str, str] = field(factory=dict)
    users: dict[str, User] = field(factory=dict)
    stream: list[Event] = field(factory=list)
    record: dict[DeviceName, dict[str, set[str]]] = field(factory=dict)

    # ----------------------------------------------------------------------------------------------------------
    # Devices and rooms
    # ----------------------------------------------------------------------------------------------------------

    def log_in(self, user_id: str, device_id: str) -> None:
        """Let a device log in."""
        self.users.setdefault(user_id, User()).devices[device_id] = Device()

    def log_out(self, user_id: str, device_id: str) -> None:
        """Delete a device. Nothing of it is left."""
        del self.users[user_id].devices[device_id]
        self._tell(user_id)

    def leave(self, user_id: str, other: str) -> None:
        """Let two users share no room any more."""
        self.stream += [Event(user_id, other, has_left=True), Event(other, user_id, has_left=True)]

    def _tell(self, user_id: str, audience: str | None = None) -> None:
        self.stream.append(Event(user_id, audience))

    # ----------------------------------------------------------------------------------------------------------
    # What /sync says
    # ----------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> int:
        """Where the stream ends."""
        return len(self.stream)

    def sync(self, user_id: str, device_id: str, since: int | None, until: int | None = None) -> tuple[SyncKeys, str]:
        """Return what an answer to ``/sync`` says about keys, and its ``next_batch``.

        Args:
            user_id: who asks.
            device_id: with which device.
            since: from which position on, ``None`` for an initial sync.
            until: up to which position, if the answer lags behind.
        """
        until = self.position if until is None else until
        device = self.users[user_id].devices[device_id]
        body: Json = {
            "next_batch": token(until),
            "device_one_time_keys_count": device.counts,
            "device_unused_fallback_key_types": device.unused_fallback_types,
        }
        if since is not None:
            body["device_lists"] = self._lists(user_id, since, until)
        return SyncKeys.from_sync_v2(json.dumps(body).encode()), token(until)

    def _lists(self, user_id: str, since: int, until: int) -> Json:
        """Return whose devices changed, and who left; whoever did both is named by what was last."""
        last = {
            event.user_id: event.has_left for event in self.stream[since:until] if event.audience in (None, user_id)
        }
        return {
            "changed": [other for other, has_left in last.items() if not has_left],
            "left": [other for other, has_left in last.items() if has_left],
        }

    # ----------------------------------------------------------------------------------------------------------
    # Requests
    # ----------------------------------------------------------------------------------------------------------

    def exchange(self, user_id: str, device_id: str, request: MachineRequest) -> Any:
        """Carry a request to the server as bytes, and its answer back.

        Raises:
            MatrixError: the server refused.
        """
        return request.read_answer(self.receive(user_id, device_id, request.to_http()))

    def receive(self, user_id: str, device_id: str, http: HttpRequest) -> HttpResponse:
        """Answer a request."""
        try:
            request = read_request(http).request
            if device_id not in self.users[user_id].devices:
                raise MatrixError(status=401, errcode="M_UNKNOWN_TOKEN", error="the device is gone")
            body = _HANDLERS[type(request)](self, user_id, device_id, request)
        except E2EKeysError as error:
            return MatrixError.answering(error).to_http()
        return HttpResponse(status=200, body=json.dumps(body).encode())

    def _keys_upload(self, user_id: str, device_id: str, request: KeysUploadRequest) -> Json:
        device = self.users[user_id].devices[device_id]
        uploaded = request.to_json()
        keys: Any = uploaded.get("device_keys")
        one_time_keys: Any = uploaded.get("one_time_keys", {})
        fallback_keys: Any = uploaded.get("fallback_keys", {})
        for key_id, key in (*one_time_keys.items(), *fallback_keys.items()):
            of_device = self.record.setdefault((user_id, device_id), {})
            of_device.setdefault(key_id, set()).add(json.dumps(key, sort_keys=True))
        if keys is not None:
            if (keys["user_id"], keys["device_id"]) != (user_id, device_id):
                raise MatrixError(status=400, errcode="M_INVALID_PARAM", error="these are the keys of another device")
            if keys != device.keys:
                device.keys = keys
                self._tell(user_id)
        for key_id, key in one_time_keys.items():
            held = device.one_time_keys.get(key_id, key)
            if held != key:
                text = f"One time key {key_id} already exists. Old key: {json.dumps(held)}; new key: {key!r}"
                raise MatrixError(status=400, error=text)
        device.one_time_keys.update(one_time_keys)
        if fallback_keys and fallback_keys != device.fallback_keys:
            device.fallback_keys = fallback_keys
            device.used_fallback_keys.clear()
        return {"one_time_key_counts": device.counts}

    def _keys_query(self, user_id: str, _device_id: str, request: KeysQueryRequest) -> Json:
        body: Json = {"device_keys": {}, "failures": {}, **{f"{role}s": {} for role in _ROLES}}
        for asked, device_ids in request.asked.items():
            user = self.users.get(asked, User())
            body["device_keys"][asked] = {
                device_id: {**device.keys, "unsigned": {"device_display_name": f"the {device_id}"}}
                for device_id, device in user.devices.items()
                if device.keys is not None and (not device_ids or device_id in device_ids)
            }
            for role, key in user.identity.items():
                if role != "user_signing_key" or asked == user_id:
                    shown = {who: by for who, by in key.get("signatures", {}).items() if who in (asked, user_id)}
                    body[f"{role}s"][asked] = {**key, "signatures": shown}
        return body

    def _keys_claim(self, _user_id: str, _device_id: str, request: KeysClaimRequest) -> Json:
        claimed: dict[str, dict[str, Json]] = {}
        for asked, devices in request.asked.items():
            for device_id in devices:
                device = self.users.get(asked, User()).devices.get(device_id, Device())
                key_id = next(iter(device.one_time_keys), None)
                if key_id is not None:
                    claimed.setdefault(asked, {})[device_id] = {key_id: device.one_time_keys.pop(key_id)}
                elif device.fallback_keys:
                    device.used_fallback_keys.update(device.fallback_keys)
                    claimed.setdefault(asked, {})[device_id] = dict(device.fallback_keys)
        return {"one_time_keys": claimed, "failures": {}}

    def _keys_changes(self, user_id: str, _device_id: str, request: KeysChangesRequest) -> Json:
        return self._lists(user_id, int(request.from_token[1:]), int(request.to_token[1:]))

    def _device_signing_upload(self, user_id: str, _device_id: str, request: DeviceSigningUploadRequest) -> Json:
        user = self.users[user_id]
        uploaded = request.to_json()
        uploaded_keys: dict[str, Any] = {role: uploaded[role] for role in _ROLES if role in uploaded}
        if all(role in user.identity and _is_same(user.identity[role], key) for role, key in uploaded_keys.items()):
            return {}
        if user.identity:
            self._authenticate(user_id, uploaded.get("auth"))
        user.identity.update(uploaded_keys)
        self._tell(user_id)
        return {}

    def _authenticate(self, user_id: str, auth: Any) -> None:
        password = self.passwords.get(user_id)
        if password is None:
            return
        if auth is not None and auth.get("session") == _SESSION and auth.get("password") == password:
            return
        flows = UserInteractiveAuth(flows=(AuthenticationFlow(stages=(_PASSWORD,)),), session=_SESSION)
        if auth is None:
            raise MatrixError(status=401, errcode=None, user_interactive=flows)
        raise MatrixError(status=401, errcode="M_FORBIDDEN", error="wrong password", user_interactive=flows)

    def _signatures_upload(self, user_id: str, _device_id: str, request: SignaturesUploadRequest) -> Json:
        failures: dict[str, Json] = {}
        uploaded: Any = request.to_json()
        for whose, objects in uploaded.items():
            for name, signed in objects.items():
                try:
                    self._add_signatures(user_id, whose, name, signed)
                except E2EKeysError as error:
                    failures.setdefault(whose, {})[name] = MatrixError.answering(error).to_json()
        return {"failures": failures}

    def _add_signatures(self, user_id: str, whose: str, name: str, signed: Json) -> None:
        """Add the signatures of a user to a device or a master key, if the user may sign that."""
        user, target = self.users[user_id], self.users.get(whose, User())
        device, master = target.devices.get(name), target.identity.get("master_key")
        if whose == user_id and device is not None and device.keys is not None:
            held, signers = device.keys, [user.identity.get("self_signing_key")]
        elif master is not None and name in master["keys"].values():
            own_devices = [it.keys for it in user.devices.values()]
            held, signers = master, own_devices if whose == user_id else [user.identity.get("user_signing_key")]
        else:
            raise MatrixError(status=404, errcode="M_NOT_FOUND", error="there is no such key")
        if not _is_same(held, signed):
            raise MatrixError(status=400, errcode="M_INVALID_SIGNATURE", error="another key was signed")
        known: dict[str, str] = {}
        for signer in signers:
            known.update({} if signer is None else signer["keys"])
        for key_id, text in signed["signatures"][user_id].items():
            if key_id not in known:
                raise MatrixError(status=400, errcode="M_INVALID_SIGNATURE", error="that key signs nothing here")
            key = Ed25519PublicKey.from_base64(known[key_id])
            SignedJson.from_json(signed).verify(entity=user_id, key_id=key_id, key=key)
            held.setdefault("signatures", {}).setdefault(user_id, {})[key_id] = text
        self._tell(whose, None if whose == user_id else user_id)

    # ----------------------------------------------------------------------------------------------------------
    # What tests look at
    # ----------------------------------------------------------------------------------------------------------

    def device(self, user_id: str, device_id: str) -> DeviceKeys | None:
        """Return the keys of a device as they are held."""
        device = self.users[user_id].devices.get(device_id)
        return None if device is None or device.keys is None else DeviceKeys.from_json(device.keys)

    def master_key(self, user_id: str) -> CrossSigningKey | None:
        """Return a master key as it is held, with everybody's signatures."""
        key = self.users[user_id].identity.get("master_key")
        return None if key is None else CrossSigningKey.from_json(key)

    def one_time_keys(self, user_id: str, device_id: str) -> list[OneTimeKey]:
        """Return the one-time keys of a device that nobody has claimed."""
        return [OneTimeKey.from_json(*it) for it in self.users[user_id].devices[device_id].one_time_keys.items()]


def _is_same(one: Json, other: Json) -> bool:
    """Tell whether the same bytes are signed."""
    return SignedJson.from_json(one) == SignedJson.from_json(other)


_HANDLERS: Final[dict[type, Callable[[FakeServer, str, str, Any], Json]]] = {
    KeysUploadRequest: FakeServer._keys_upload,
    KeysQueryRequest: FakeServer._keys_query,
    KeysClaimRequest: FakeServer._keys_claim,
    KeysChangesRequest: FakeServer._keys_changes,
    DeviceSigningUploadRequest: FakeServer._device_signing_upload,
    SignaturesUploadRequest: FakeServer._signatures_upload,
}
