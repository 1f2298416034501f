"""A toy homeserver on Starlette: ``uvicorn --factory asgi_homeserver:make_app``. The transport is all it would need.

The toy believes whatever it is told, and the token "Bearer @user:server DEVICE". A homeserver checks; see its manual.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from starlette import applications, requests, responses, routing

import matrix_e2e_keys as keys


class Toy:
    def __init__(self) -> None:
        self.devices: dict[str, dict[str, Any]] = defaultdict(dict)
        self.one_time_keys: dict[Any, dict[str, Any]] = defaultdict(dict)
        self.masters: dict[str, Any] = {}
        self.inbox: list[Any] = []

    def keys_upload(self, user: str, device: str, request: keys.KeysUploadRequest) -> keys.Response:
        for key in [request.device_keys, *request.one_time_keys.values(), *request.malformed]:
            if isinstance(key, keys.Rejection):
                raise key.to_error()
        if request.device_keys is not None:
            self.devices[user][device] = request.device_keys
        held = self.one_time_keys[user, device]
        held.update(request.one_time_keys)
        return keys.KeysUploadResponse(one_time_key_counts={"signed_curve25519": len(held)})

    def keys_query(self, _user: str, _device: str, request: keys.KeysQueryRequest) -> keys.Response:
        masters = {user: self.masters[user] for user in request.asked if user in self.masters}
        known = {user: self.devices[user] for user in request.asked}
        return keys.KeysQueryResponse(device_keys=known, master_keys=masters)

    def keys_claim(self, _user: str, _device: str, request: keys.KeysClaimRequest) -> keys.Response:
        wanted = [(user, device) for user, devices in request.asked.items() for device in devices]
        claimed: dict[str, dict[str, Any]] = defaultdict(dict)
        for user, device in [place for place in wanted if self.one_time_keys[place]]:
            claimed[user][device] = dict([self.one_time_keys[user, device].popitem()])
        return keys.KeysClaimResponse(one_time_keys=claimed)

    def keys_changes(self, _user: str, _device: str, _request: keys.KeysChangesRequest) -> keys.Response:
        return keys.KeysChangesResponse(changed=tuple(self.devices))

    def device_signing_upload(self, user: str, _: str, request: keys.DeviceSigningUploadRequest) -> keys.Response:
        if user in self.masters and request.auth is None:
            flow = keys.AuthenticationFlow(stages=("m.login.password",))
            raise keys.MatrixError(status=401, errcode=None, user_interactive=keys.UserInteractiveAuth(flows=(flow,)))
        self.masters[user] = request.master_key
        return keys.DeviceSigningUploadResponse()

    def send_to_device(self, user: str, _device: str, request: keys.SendToDeviceRequest) -> keys.Response:
        self.inbox.append((user, request.event_type, request.messages))
        return keys.SendToDeviceResponse()


def make_app(toy: Toy | None = None) -> applications.Starlette:
    homeserver = toy or Toy()

    async def answer(request: requests.Request) -> responses.Response:
        path, query = request.scope["raw_path"], request.scope["query_string"]  # as on the wire, not decoded
        http = keys.HttpRequest(method=request.method, path=path, query=query, body=await request.body())
        try:
            incoming = keys.read_request(http)
            handle = getattr(homeserver, incoming.request.endpoint.name, None)
            if handle is None:
                raise keys.MatrixError(status=404, errcode="M_UNRECOGNIZED")
            user, _, device = request.headers.get("authorization", "").removeprefix("Bearer ").partition(" ")
            result = handle(user, device, incoming.request).to_http(incoming.dialect)
        except keys.E2EKeysError as error:
            result = keys.MatrixError.answering(error).to_http()
        headers = {**result.headers, "content-type": "application/json"}
        return responses.Response(result.body, result.status, headers)

    return applications.Starlette(routes=[routing.Route("/{path:path}", answer, methods=["GET", "POST", "PUT"])])
