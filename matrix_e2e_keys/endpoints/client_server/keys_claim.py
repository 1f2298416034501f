"""``POST /_matrix/client/v3/keys/claim``: one-time keys of the devices that one wants to write to.

Specification: client-server API, "Key management API", "Claiming one-time keys".

Facts:

* The answer gives each key an id that names its algorithm. Whether the key is one that was asked for, of the right
  device and signed by it, is judged elsewhere.
* Nothing is claimed twice: a request that failed may have claimed keys all the same, and so cannot simply be repeated
  at no cost.
* In a request, a name that is no user id is set aside; what else is malformed refuses the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.algorithms import SIGNED_CURVE25519
from matrix_e2e_keys.endpoints.asked import (
    AskedKeys,
    asked_keys,
    asked_of,
    one_of_each,
    read_asked,
    read_timeout,
    write_asked,
)
from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Dialect, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, read_member, write_members
from matrix_e2e_keys.endpoints.members import count, extra_beside, json_object, optional, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others, required
from matrix_e2e_keys.endpoints.one_time_key_maps import ClaimedKeys, check_form, claimed_keys, read_claimed_keys
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, raised_as
from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["KeysClaimRequest", "KeysClaimResponse"]

_REQUEST_MEMBERS: Final = ("one_time_keys", "timeout")
_RESPONSE_MEMBERS: Final = ("one_time_keys", "failures")


@frozen(kw_only=True)
class KeysClaimRequest(BodyRequest["KeysClaimResponse"]):
    """What is claimed.

    Attributes:
        one_time_keys: user id to device id to algorithm.
        timeout: milliseconds the server may wait for other servers, ``None`` to leave it to the server.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_claim"]

    one_time_keys: AskedKeys
    timeout: int | None = None
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, one_time_keys=asked_keys, timeout=optional(count), extra=extra_beside(*_REQUEST_MEMBERS))

    @classmethod
    def for_devices(
        cls,
        device_ids: Mapping[str, Iterable[str]],
        *,
        algorithm: str = SIGNED_CURVE25519,
        timeout: int | None = None,
    ) -> Self:
        """Claim one key of each of some devices.

        Args:
            device_ids: user id to device ids.
            algorithm: what kind of key.
            timeout: see the class.

        Raises:
            LocalProtocolError: a user or device id is none, or the timeout is not a number of milliseconds.
        """
        with raised_as(LocalProtocolError):
            return cls(one_time_keys=one_of_each(device_ids, algorithm), timeout=timeout)

    @property
    def asked(self) -> Mapping[str, Mapping[str, str]]:
        """What is claimed of whom, without the names that are no user ids."""
        return asked_of(self.one_time_keys)

    def to_json(self) -> JsonObject:
        """Return the request body."""
        body: JsonObject = thaw(dict(self.extra))
        body["one_time_keys"] = write_asked(self.one_time_keys)
        if self.timeout is not None:
            body["timeout"] = self.timeout
        return body

    def _check_dialect(self, dialect: Dialect) -> None:
        for user_id, devices in self.asked.items() if dialect.bare_one_time_keys else ():
            for device_id, algorithm in devices.items():
                if algorithm == SIGNED_CURVE25519:
                    detail = f"{dialect.name} has bare one-time keys only"
                    raise Refusal(Reason.NOT_IN_DIALECT, detail, "one_time_keys", user_id, device_id)

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        return cls(
            one_time_keys=read_asked(body, "one_time_keys"),
            timeout=read_timeout(body),
            extra=thaw(others(body, *_REQUEST_MEMBERS)),
        )

    @classmethod
    def answer_type(cls) -> type[KeysClaimResponse]:
        """Return the class of the answers."""
        return KeysClaimResponse


@frozen(kw_only=True)
class KeysClaimResponse(Response):
    """What is handed out. Nothing in it has been verified.

    Attributes:
        one_time_keys: user id to device id to key id to key.
        failures: server name to whatever the server says of the server it could not reach. Untrusted.
        extra: members that the specification does not name.
        malformed: whole maps that are none.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_claim"]

    one_time_keys: ClaimedKeys = field(factory=dict)
    failures: Mapping[str, Any] = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            one_time_keys=claimed_keys,
            failures=json_object,
            extra=extra_beside(*_RESPONSE_MEMBERS),
            malformed=malformed_members(self, *_RESPONSE_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the response body. What was malformed stands in it as it was received, or as ``null``."""
        return write_members(thaw(dict(self.extra)), self, *_RESPONSE_MEMBERS)

    def _check_dialect(self, dialect: Dialect) -> None:
        check_form(self.one_time_keys, dialect, "one_time_keys")

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        malformed: list[Rejection] = []
        required(tree, "one_time_keys")
        return cls(
            one_time_keys=read_member(tree, "one_time_keys", read_claimed_keys, malformed),
            failures=read_member(tree, "failures", lambda failures, _: thaw(failures), malformed),
            extra=thaw(others(tree, *_RESPONSE_MEMBERS)),
            malformed=tuple(malformed),
        )
