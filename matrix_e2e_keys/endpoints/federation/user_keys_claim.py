"""``POST /_matrix/federation/v1/user/keys/claim``: one-time keys of another server's devices.

Specification: server-server API, "End-to-End Encryption".

Facts:

* "Requested users must be local to the receiving homeserver."
* There are no ``failures``: the server that is asked answers for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.algorithms import SIGNED_CURVE25519
from matrix_e2e_keys.endpoints.asked import AskedKeys, asked_keys, asked_of, one_of_each, read_asked, write_asked
from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, read_member, write_members
from matrix_e2e_keys.endpoints.members import extra_beside, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, required
from matrix_e2e_keys.endpoints.one_time_key_maps import ClaimedKeys, claimed_keys, read_claimed_keys
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["UserKeysClaimRequest", "UserKeysClaimResponse"]

_MEMBERS: Final = ("one_time_keys",)


@frozen(kw_only=True)
class UserKeysClaimRequest(BodyRequest["UserKeysClaimResponse"]):
    """What is claimed.

    Attributes:
        one_time_keys: user id to device id to algorithm.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_keys_claim"]

    one_time_keys: AskedKeys
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, one_time_keys=asked_keys, extra=extra_beside(*_MEMBERS))

    @classmethod
    def for_devices(cls, device_ids: Mapping[str, Iterable[str]], *, algorithm: str = SIGNED_CURVE25519) -> Self:
        """Claim one key of each of some devices.

        Args:
            device_ids: user id to device ids.
            algorithm: what kind of key.

        Raises:
            LocalProtocolError: a user or device id is none.
        """
        with raised_as(LocalProtocolError):
            return cls(one_time_keys=one_of_each(device_ids, algorithm))

    @property
    def asked(self) -> Mapping[str, Mapping[str, str]]:
        """What is claimed of whom, without the names that are no user ids."""
        return asked_of(self.one_time_keys)

    def to_json(self) -> JsonObject:
        """Return the request body."""
        body: JsonObject = thaw(dict(self.extra))
        body["one_time_keys"] = write_asked(self.one_time_keys)
        return body

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        return cls(one_time_keys=read_asked(body, "one_time_keys"), extra=thaw(others(body, *_MEMBERS)))

    @classmethod
    def answer_type(cls) -> type[UserKeysClaimResponse]:
        """Return the class of the answers."""
        return UserKeysClaimResponse


@frozen(kw_only=True)
class UserKeysClaimResponse(Response):
    """What is handed out. Nothing in it has been verified.

    Attributes:
        one_time_keys: user id to device id to key id to key.
        extra: members that the specification does not name.
        malformed: ``one_time_keys`` if it is no map.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_keys_claim"]

    one_time_keys: ClaimedKeys = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            one_time_keys=claimed_keys,
            extra=extra_beside(*_MEMBERS),
            malformed=malformed_members(self, *_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the response body. What was malformed stands in it as it was received, or as ``null``."""
        return write_members(thaw(dict(self.extra)), self, *_MEMBERS)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        malformed: list[Rejection] = []
        required(tree, "one_time_keys")
        return cls(
            one_time_keys=read_member(tree, "one_time_keys", read_claimed_keys, malformed),
            extra=thaw(others(tree, *_MEMBERS)),
            malformed=tuple(malformed),
        )
