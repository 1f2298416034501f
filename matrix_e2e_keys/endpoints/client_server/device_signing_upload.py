"""``POST /_matrix/client/v3/keys/device_signing/upload``: one's own cross-signing keys.

Specification: client-server API, "Cross-signing", "User-Interactive Authentication API".

Facts:

* A server that wants to know whether it is really the user answers with status 401
  (:attr:`MatrixError.user_interactive <matrix_e2e_keys.MatrixError.user_interactive>`); then the same keys are sent
  again, with ``auth``: :meth:`DeviceSigningUploadRequest.with_auth`.
* Decoding finds out what each key is. Roles, owners and signatures are judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import evolve, field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import (
    read_cross_signing_key,
    read_optional,
    write_optional,
)
from matrix_e2e_keys.endpoints.members import extra_beside, instances, json_object, optional, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, EmptyResponse, others
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.outcome import Rejection

__all__ = ["DeviceSigningUploadRequest", "DeviceSigningUploadResponse"]

_KEYS: Final = ("master_key", "self_signing_key", "user_signing_key")
_MEMBERS: Final = (*_KEYS, "auth")


@frozen(kw_only=True)
class DeviceSigningUploadRequest(BodyRequest["DeviceSigningUploadResponse"]):
    """What is uploaded.

    Attributes:
        master_key: the master key, ``None`` to keep the one that is there.
        self_signing_key: the self-signing key, signed by the master key.
        user_signing_key: the user-signing key, signed by the master key.
        auth: what proves that it is the user; it may hold a password, and is left out of ``repr``.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["device_signing_upload"]

    master_key: CrossSigningKey | Rejection | None = None
    self_signing_key: CrossSigningKey | Rejection | None = None
    user_signing_key: CrossSigningKey | Rejection | None = None
    auth: Mapping[str, Any] | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        key = optional(instances(CrossSigningKey, Rejection))
        settle(
            self,
            master_key=key,
            self_signing_key=key,
            user_signing_key=key,
            auth=optional(json_object),
            extra=extra_beside(*_MEMBERS),
        )

    def with_auth(self, auth: Mapping[str, Any]) -> Self:
        """Return the same request with a proof, for example ``error.user_interactive.auth("m.login.password", ...)``.

        Raises:
            LocalProtocolError: it is not a JSON object.
        """
        return evolve(self, auth=auth)

    def to_json(self) -> JsonObject:
        """Return the request body. What is ``None`` is left out."""
        body: JsonObject = thaw(dict(self.extra))
        write_optional(body, self, *_KEYS)
        if self.auth is not None:
            body["auth"] = thaw(dict(self.auth))
        return body

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        return cls(
            master_key=read_optional(read_cross_signing_key, body, "master_key"),
            self_signing_key=read_optional(read_cross_signing_key, body, "self_signing_key"),
            user_signing_key=read_optional(read_cross_signing_key, body, "user_signing_key"),
            auth=_read_auth(body["auth"]) if "auth" in body else None,
            extra=thaw(others(body, *_MEMBERS)),
        )

    @classmethod
    def answer_type(cls) -> type[DeviceSigningUploadResponse]:
        """Return the class of the answers."""
        return DeviceSigningUploadResponse


def _read_auth(tree: Any) -> dict[str, Any]:
    auth: dict[str, Any] = thaw(object_in(tree, "auth", "auth"))
    return auth


@frozen(kw_only=True)
class DeviceSigningUploadResponse(EmptyResponse):
    """The server has stored the keys.

    Attributes:
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["device_signing_upload"]
