"""``POST /_matrix/client/v3/keys/query``: the devices and identities of users.

Specification: client-server API, "Key management API".

Facts:

* Decoding finds out what each entry is, and judges nothing else. An entry that is not even well formed is set aside
  as a :class:`~matrix_e2e_keys.Rejection` in its place, and the entries beside it are none the worse. Only a frame
  that cannot be looked into (not JSON, too large, far too deep, not an object, nothing of an answer) is an error.
* Whether the answer answers the question is judged by :func:`~matrix_e2e_keys.check_query`.
* In a request, a name that is no user id is set aside too, and nothing need be answered about it. What is not even a
  list of device ids refuses the request.

Deviations: no member of the response is required, since servers leave empty ones out. Where ``failures`` or one of
the maps has the wrong type, that map alone is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.asked import (
    AskedDevices,
    all_of_each,
    asked_devices,
    asked_of,
    read_asked,
    read_timeout,
    write_asked,
)
from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import malformed_members, write_members
from matrix_e2e_keys.endpoints.key_maps import DeviceMap, KeyMap, device_maps, key_map, read_key_maps
from matrix_e2e_keys.endpoints.members import count, extra_beside, json_object, optional, settle
from matrix_e2e_keys.endpoints.messages import BodyRequest, Response, others
from matrix_e2e_keys.errors import LocalProtocolError, RemoteProtocolError, raised_as
from matrix_e2e_keys.json_pieces import NotPlain, parse_pieces, pieces_of
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits, JsonObject, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["KeysQueryRequest", "KeysQueryResponse"]

_REQUEST_MEMBERS: Final = ("device_keys", "timeout")
_ENTRY_MAPS: Final = ("device_keys", "master_keys", "self_signing_keys", "user_signing_keys")
_RESPONSE_MEMBERS: Final = (*_ENTRY_MAPS, "failures")


@frozen(kw_only=True)
class KeysQueryRequest(BodyRequest["KeysQueryResponse"]):
    """What is asked.

    Attributes:
        device_keys: user id to device ids; no device ids means all devices of the user.
        timeout: milliseconds the server may wait for other servers, ``None`` to leave it to the server.
        extra: members that the specification does not name.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_query"]

    device_keys: AskedDevices
    timeout: int | None = None
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, device_keys=asked_devices, timeout=optional(count), extra=extra_beside(*_REQUEST_MEMBERS))

    @classmethod
    def for_users(cls, user_ids: Iterable[str], *, timeout: int | None = None) -> Self:
        """Ask for all devices of some users; of a mapping, those whose ids are its names.

        Raises:
            LocalProtocolError: one of them is not a user id.
        """
        with raised_as(LocalProtocolError):
            return cls(device_keys=all_of_each(user_ids), timeout=timeout)

    @classmethod
    def for_devices(cls, device_ids: Mapping[str, Iterable[str]], *, timeout: int | None = None) -> Self:
        """Ask for some devices of some users; no devices means all of them.

        Raises:
            LocalProtocolError: a user or device id is none, or the timeout is not a number of milliseconds.
        """
        return cls(device_keys=device_ids, timeout=timeout)  # type: ignore[arg-type]  # the check makes tuples of them

    @property
    def asked(self) -> Mapping[str, tuple[str, ...]]:
        """The users who are asked about, without the names that are no user ids."""
        return asked_of(self.device_keys)

    def to_json(self) -> JsonObject:
        """Return the request body."""
        body: JsonObject = thaw(dict(self.extra))
        body["device_keys"] = write_asked(self.device_keys)
        if self.timeout is not None:
            body["timeout"] = self.timeout
        return body

    @classmethod
    def _read_body(cls, body: dict[str, Any]) -> Self:
        return cls(
            device_keys=read_asked(body, "device_keys"),
            timeout=read_timeout(body),
            extra=thaw(others(body, *_REQUEST_MEMBERS)),
        )

    @classmethod
    def answer_type(cls) -> type[KeysQueryResponse]:
        """Return the class of the answers."""
        return KeysQueryResponse


@frozen(kw_only=True)
class KeysQueryResponse(Response):
    """What is answered. Nothing in it has been verified.

    Attributes:
        device_keys: user id to device id to device keys.
        master_keys: user id to master key.
        self_signing_keys: user id to self-signing key.
        user_signing_keys: user id to user-signing key. A server shows it only to its owner.
        failures: server name to whatever the server says of the server it could not reach. Untrusted.
        extra: members that the specification does not name.
        malformed: whole maps that are none.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["keys_query"]

    device_keys: Mapping[str, DeviceMap | Rejection] = field(factory=dict)
    master_keys: KeyMap = field(factory=dict)
    self_signing_keys: KeyMap = field(factory=dict)
    user_signing_keys: KeyMap = field(factory=dict)
    failures: Mapping[str, Any] = field(factory=dict)
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            device_keys=device_maps,
            master_keys=key_map,
            self_signing_keys=key_map,
            user_signing_keys=key_map,
            failures=json_object,
            extra=extra_beside(*_RESPONSE_MEMBERS),
            malformed=malformed_members(self, *_RESPONSE_MEMBERS),
        )

    @classmethod
    def from_bytes(cls, body: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS) -> Self:
        """Read a response body.

        Raises:
            RemoteProtocolError: the body is not the frame of an answer. A malformed entry in it is no error.
        """
        pieces = parse_pieces(body, limits=limits)
        with raised_as(RemoteProtocolError):
            try:
                return cls._of(read_key_maps(pieces, _RESPONSE_MEMBERS))
            except NotPlain:
                return super().from_bytes(body, limits=limits)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        return cls._of(read_key_maps(pieces_of(tree), _RESPONSE_MEMBERS))

    @classmethod
    def _of(cls, read: tuple[dict[str, Any], dict[str, Any], tuple[Rejection, ...]]) -> Self:
        maps, extra, malformed = read
        return cls(**maps, extra=extra, malformed=malformed)

    @property
    def user_ids(self) -> frozenset[str]:
        """Every user the answer mentions in one of its maps."""
        return frozenset().union(self.device_keys, self.master_keys, self.self_signing_keys, self.user_signing_keys)

    def to_json(self) -> JsonObject:
        """Return the response body.

        A malformed entry stands in it as it was received, so that it is refused again. Where that cannot be written
        in canonical JSON (a duplicate member, a number), ``null`` stands in its place: what was refused must not
        come out as something that is accepted.
        """
        return write_members(thaw(dict(self.extra)), self, *_RESPONSE_MEMBERS)
