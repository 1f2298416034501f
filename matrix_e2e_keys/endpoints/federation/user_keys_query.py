"""``POST /_matrix/federation/v1/user/keys/query``: the devices and identities of another server's users.

Specification: server-server API, "End-to-End Encryption".

Facts:

* "Requested users must be local to the receiving homeserver."
* Over federation, there are no user-signing keys. One that is sent all the same is a member nobody knows.
* A malformed entry is set aside, as in the client-server API.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.asked import AskedDevices, all_of_each, asked_devices, asked_of, read_asked, write_asked
from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, write_members
from matrix_e2e_keys.endpoints.key_maps import DeviceMap, KeyMap, device_maps, key_map, read_key_maps
from matrix_e2e_keys.endpoints.members import extra_beside, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, required
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.json_pieces import pieces_of
from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["UserKeysQueryRequest", "UserKeysQueryResponse"]

_REQUEST_MEMBERS: Final = ("device_keys",)
_RESPONSE_MEMBERS: Final = ("device_keys", "master_keys", "self_signing_keys")


@frozen(kw_only=True)
class UserKeysQueryRequest(BodyRequest["UserKeysQueryResponse"]):
    """What is asked.

    Attributes:
        device_keys: user id to device ids; no device ids means all devices of the user.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_keys_query"]

    device_keys: AskedDevices
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, device_keys=asked_devices, extra=extra_beside(*_REQUEST_MEMBERS))

    @classmethod
    def for_users(cls, user_ids: Iterable[str]) -> Self:
        """Ask for all devices of some users; of a mapping, those whose ids are its names.

        Raises:
            LocalProtocolError: one of them is not a user id.
        """
        with raised_as(LocalProtocolError):
            return cls(device_keys=all_of_each(user_ids))

    @classmethod
    def for_devices(cls, device_ids: Mapping[str, Iterable[str]]) -> Self:
        """Ask for some devices of some users; no devices means all of them.

        Raises:
            LocalProtocolError: a user or device id is none.
        """
        return cls(device_keys=device_ids)  # type: ignore[arg-type]  # the check makes tuples of them

    @property
    def asked(self) -> Mapping[str, tuple[str, ...]]:
        """The users who are asked about, without the names that are no user ids."""
        return asked_of(self.device_keys)

    def to_json(self) -> JsonObject:
        """Return the request body."""
        body: JsonObject = thaw(dict(self.extra))
        body["device_keys"] = write_asked(self.device_keys)
        return body

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        return cls(device_keys=read_asked(body, "device_keys"), extra=thaw(others(body, *_REQUEST_MEMBERS)))

    @classmethod
    def answer_type(cls) -> type[UserKeysQueryResponse]:
        """Return the class of the answers."""
        return UserKeysQueryResponse


@frozen(kw_only=True)
class UserKeysQueryResponse(Response):
    """What is answered. Nothing in it has been verified.

    Attributes:
        device_keys: user id to device id to device keys.
        master_keys: user id to master key.
        self_signing_keys: user id to self-signing key.
        extra: members that the specification does not name.
        malformed: whole maps that are none.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_keys_query"]

    device_keys: Mapping[str, DeviceMap | Rejection] = field(factory=dict)
    master_keys: KeyMap = field(factory=dict)
    self_signing_keys: KeyMap = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            device_keys=device_maps,
            master_keys=key_map,
            self_signing_keys=key_map,
            extra=extra_beside(*_RESPONSE_MEMBERS),
            malformed=malformed_members(self, *_RESPONSE_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the response body. What was malformed stands in it as it was received, or as ``null``."""
        return write_members(thaw(dict(self.extra)), self, *_RESPONSE_MEMBERS)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        required(tree, "device_keys")
        maps, extra, malformed = read_key_maps(pieces_of(tree), _RESPONSE_MEMBERS)
        return cls(**maps, extra=extra, malformed=malformed)
