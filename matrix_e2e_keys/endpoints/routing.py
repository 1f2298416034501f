"""Which request it is that came in.

A homeserver that has a router of its own calls :meth:`Request.from_http` of the class it expects; one that has none
calls :func:`read_request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.endpoints.client_server.device_signing_upload import DeviceSigningUploadRequest
from matrix_e2e_keys.endpoints.client_server.keys_changes import KeysChangesRequest
from matrix_e2e_keys.endpoints.client_server.keys_claim import KeysClaimRequest
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.endpoints.dialects import Dialect, Match, find_endpoint
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest
from matrix_e2e_keys.endpoints.federation.server_keys import ServerKeysRequest
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesRequest
from matrix_e2e_keys.endpoints.federation.user_keys_claim import UserKeysClaimRequest
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest
from matrix_e2e_keys.endpoints.http_values import HttpRequest
from matrix_e2e_keys.endpoints.messages import Request
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits

__all__ = ["IncomingRequest", "read_request"]

_REQUESTS: Final[Mapping[str, type[Request[Any]]]] = MappingProxyType(
    {
        request.endpoint.name: request
        for request in (
            KeysUploadRequest,
            KeysQueryRequest,
            KeysClaimRequest,
            KeysChangesRequest,
            DeviceSigningUploadRequest,
            SignaturesUploadRequest,
            SendToDeviceRequest,
            UserKeysQueryRequest,
            UserKeysClaimRequest,
            UserDevicesRequest,
            SendTransactionRequest,
            ServerKeysRequest,
        )
    }
)


@frozen(kw_only=True)
class IncomingRequest:
    """A request that was received.

    Attributes:
        request: one of the request classes.
        dialect: the dialect it came in. Answer in the same: ``response.to_http(incoming.dialect)``.
    """

    request: Request[Any]
    dialect: Dialect


def read_request(
    request: HttpRequest, *, match: Match | None = None, limits: JsonLimits = DEFAULT_LIMITS
) -> IncomingRequest:
    """Read a request to any endpoint in any dialect.

    Args:
        request: as it was received, its path still percent-encoded.
        match: what :func:`find_endpoint` has found. A homeserver that authenticates before it reads a body calls that
            first: ``match.endpoint.authentication`` says what has to be proved.
        limits: depth, size and digits of the body.

    Raises:
        RemoteProtocolError: there is no such endpoint (404, 405), or the request is malformed. A homeserver answers
            with :meth:`MatrixError.answering`.
    """
    match = find_endpoint(request) if match is None else match
    if type(match) is not Match or match.endpoint.name not in _REQUESTS:
        raise LocalProtocolError(Reason.WRONG_TYPE, "what find_endpoint returns is needed", path="/match")
    read = _REQUESTS[match.endpoint.name]
    return IncomingRequest(request=read.from_match(match, request, limits=limits), dialect=match.dialect)
