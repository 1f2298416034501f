"""``POST /_matrix/client/v3/keys/query``: the devices and identities of users.

Specification: client-server API, "Key management API".

Facts:

* One shape for both sides: a client encodes the request and decodes the response, a homeserver the other way round.
* Decoding finds out what each entry is, and judges nothing else. An entry that is not even well formed is set aside
  as a :class:`~matrix_e2e_keys.Rejection` in its place, and the entries beside it are none the worse. Only a frame
  that cannot be looked into (not JSON, too large, far too deep, not an object, nothing of an answer) is an error.
* Whether the answer answers the question is judged by :func:`~matrix_e2e_keys.check_query`.

Deviations: no member of the response is required, since servers leave empty ones out. Where ``failures`` or one of
the maps has the wrong type, that map alone is rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

from attrs import field, frozen

from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    json_pointer,
    quoted,
)
from matrix_e2e_keys.identifiers import is_user_id, parse_device_id, parse_user_id, read_identifier
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_pieces import NotPlain, Piece, parse_pieces, pieces_of
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, JsonLimits, JsonObject, raise_refused, snapshot, thaw, wrong_type
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, read_cross_signing_keys
from matrix_e2e_keys.models.device_keys import DeviceKeys, read_device_keys
from matrix_e2e_keys.outcome import Rejection

__all__ = ["KeysQueryRequest", "KeysQueryResponse"]

T = TypeVar("T")

DeviceMap: TypeAlias = Mapping[str, DeviceKeys | Rejection]
"""Device id to device keys; a rejection where the entry is not well formed."""

KeyMap: TypeAlias = Mapping[str, CrossSigningKey | Rejection]
"""User id to cross-signing key; a rejection where the entry is not well formed."""

_REQUEST_MEMBERS: Final = ("device_keys", "timeout")
_KEY_MAPS: Final = ("master_keys", "self_signing_keys", "user_signing_keys")
_ENTRY_MAPS: Final = ("device_keys", *_KEY_MAPS)
_RESPONSE_MEMBERS: Final = (*_ENTRY_MAPS, "failures")


def _frozen_map(mapping: Mapping[str, T]) -> Mapping[str, T]:
    if not isinstance(mapping, Mapping):
        raise LocalProtocolError(Reason.WRONG_TYPE, f"a mapping is needed, not {type(mapping).__name__}")
    copied = dict(mapping)
    if not all(type(name) is str for name in copied):
        raise LocalProtocolError(Reason.WRONG_TYPE, "the names in a mapping must be strings")
    return MappingProxyType(copied)


def _frozen_devices(devices: Mapping[str, DeviceMap | Rejection]) -> Mapping[str, DeviceMap | Rejection]:
    return _frozen_map(
        {user: of if isinstance(of, Rejection) else _frozen_map(of) for user, of in _frozen_map(devices).items()}
    )


def _frozen_keys(keys: KeyMap) -> KeyMap:
    return _frozen_map(keys)


def _frozen_values(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({name: thaw(value) for name, value in _frozen_map(values).items()})


def _frozen_rejections(rejections: Iterable[Rejection]) -> tuple[Rejection, ...]:
    if not isinstance(rejections, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, "several rejections are needed", path="/malformed")
    kept = tuple(rejections)
    if any(type(rejection) is not Rejection for rejection in kept):
        raise LocalProtocolError(Reason.WRONG_TYPE, "what is malformed is named by rejections", path="/malformed")
    return kept


def _frozen_asked(asked: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    return _frozen_map({user: tuple(_listed(devices)) for user, devices in _frozen_map(asked).items()})


def _listed(items: Iterable[str]) -> list[str]:
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise LocalProtocolError(Reason.WRONG_TYPE, f"several ids are needed, not a {type(items).__name__}")
    listed = list(items)
    for item in listed:
        if type(item) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, f"an id must be a string, not {type(item).__name__}")
    return listed


@frozen(kw_only=True)
class KeysQueryRequest:
    """What is asked.

    Attributes:
        device_keys: user id to device ids; no device ids means all devices of the user.
        timeout: milliseconds the server may wait for other servers, ``None`` to leave it to the server.
        extra: members that the specification does not name.
    """

    device_keys: Mapping[str, tuple[str, ...]] = field(converter=_frozen_asked)
    timeout: int | None = None
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_values)

    def __attrs_post_init__(self) -> None:
        try:
            _check_asked(self.device_keys, self.timeout)
        except Refusal as refusal:
            raise refusal.to_error(LocalProtocolError) from None

    @classmethod
    def for_users(cls, user_ids: Iterable[str], *, timeout: int | None = None) -> KeysQueryRequest:
        """Ask for all devices of some users.

        Raises:
            LocalProtocolError: one of them is not a user id.
        """
        return cls.for_devices(dict.fromkeys(_listed(user_ids), ()), timeout=timeout)

    @classmethod
    def for_devices(cls, device_ids: Mapping[str, Iterable[str]], *, timeout: int | None = None) -> KeysQueryRequest:
        """Ask for some devices of some users; no devices means all of them.

        Raises:
            LocalProtocolError: a user or device id is none, or the timeout is not a number of milliseconds.
        """
        body: dict[str, Any] = {
            "device_keys": {user_id: _listed(devices) for user_id, devices in _frozen_map(device_ids).items()}
        }
        if timeout is not None:
            body["timeout"] = timeout
        try:
            return cls.from_json(body)
        except RemoteProtocolError as error:
            raise LocalProtocolError(error.reason, error.detail, path=error.path) from None

    @classmethod
    def from_bytes(cls, body: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS) -> KeysQueryRequest:
        """Decode a request body.

        Raises:
            RemoteProtocolError: it is not a request. A homeserver answers with its ``errcode`` and ``http_status``.
        """
        return _read_request(parse_frame(body, limits=limits))

    @classmethod
    def from_json(cls, obj: object) -> KeysQueryRequest:
        """Decode a request body that has been parsed already; the value given is copied.

        Raises:
            RemoteProtocolError: it is not a request.
        """
        return _read_request(snapshot(obj))

    def to_json(self) -> JsonObject:
        """Return the request body."""
        body: JsonObject = {name: thaw(value) for name, value in self.extra.items() if name not in _REQUEST_MEMBERS}
        body["device_keys"] = {user_id: list(devices) for user_id, devices in self.device_keys.items()}
        if self.timeout is not None:
            body["timeout"] = self.timeout
        return body


def _check_asked(device_keys: Mapping[str, Iterable[str]], timeout: object) -> None:
    """Refuse what cannot be asked, whoever asks."""
    for user_id, device_ids in device_keys.items():
        read_identifier(parse_user_id, user_id, "device_keys", user_id)
        for place, device_id in enumerate(device_ids):
            read_identifier(parse_device_id, device_id, "device_keys", user_id, place)
    if timeout is not None and type(timeout) is not int:
        raise wrong_type("the timeout must be an integer", timeout, "timeout")
    if timeout is not None and timeout < 0:
        raise Refusal(Reason.INVALID_VALUE, "the timeout cannot be negative", "timeout")


def _read_request(tree: Any) -> KeysQueryRequest:
    try:
        if type(tree) is not dict:
            raise wrong_type("the request must be an object", tree)
        raise_refused(tree, RemoteProtocolError)
        if "device_keys" not in tree:
            raise Refusal(Reason.MISSING_MEMBER, "the request has no device_keys", "device_keys")
        if type(tree["device_keys"]) is not dict:
            raise wrong_type("device_keys must be an object", tree["device_keys"], "device_keys")
        for user_id, devices in tree["device_keys"].items():
            if type(devices) is not list:
                raise wrong_type("the devices of a user must be an array", devices, "device_keys", user_id)
            for place, device_id in enumerate(devices):
                if type(device_id) is not str:
                    raise wrong_type("a device id must be a string", device_id, "device_keys", user_id, place)
        timeout = tree.get("timeout")
        if "timeout" in tree and timeout is None:
            raise wrong_type("the timeout must be an integer", timeout, "timeout")
        _check_asked(tree["device_keys"], timeout)
    except Refusal as refusal:
        raise refusal.to_error(RemoteProtocolError) from None
    extra = {name: value for name, value in tree.items() if name not in _REQUEST_MEMBERS}
    return KeysQueryRequest(device_keys=tree["device_keys"], timeout=timeout, extra=extra)


@frozen(kw_only=True)
class KeysQueryResponse:
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

    device_keys: Mapping[str, DeviceMap | Rejection] = field(factory=dict, converter=_frozen_devices)
    master_keys: KeyMap = field(factory=dict, converter=_frozen_keys)
    self_signing_keys: KeyMap = field(factory=dict, converter=_frozen_keys)
    user_signing_keys: KeyMap = field(factory=dict, converter=_frozen_keys)
    failures: Mapping[str, Any] = field(factory=dict, converter=_frozen_values)
    extra: Mapping[str, Any] = field(factory=dict, converter=_frozen_values)
    malformed: tuple[Rejection, ...] = field(default=(), converter=_frozen_rejections)

    @classmethod
    def from_bytes(cls, body: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS) -> KeysQueryResponse:
        """Decode a response body.

        Raises:
            RemoteProtocolError: the body is not the frame of an answer. A malformed entry in it is no error.
        """
        try:
            return _read_response(parse_pieces(body, limits=limits))
        except NotPlain:
            return _read_tree(parse_frame(body, limits=limits))

    @classmethod
    def from_json(cls, obj: object) -> KeysQueryResponse:
        """Decode a response body that has been parsed already; the value given is copied.

        A parser that keeps the last of two members of the same name has dropped the other by now. Only
        :meth:`from_bytes` sees that.

        Raises:
            RemoteProtocolError: it is not the frame of an answer. A malformed entry in it is no error.
        """
        return _read_tree(snapshot(obj))

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
        body: JsonObject = {name: thaw(value) for name, value in self.extra.items() if name not in _RESPONSE_MEMBERS}
        body["device_keys"] = {
            user_id: _entry_to_json(devices)
            if isinstance(devices, Rejection)
            else {device_id: _entry_to_json(device) for device_id, device in devices.items()}
            for user_id, devices in self.device_keys.items()
        }
        for name in _KEY_MAPS:
            body[name] = {user_id: _entry_to_json(key) for user_id, key in getattr(self, name).items()}
        body["failures"] = {server: thaw(failure) for server, failure in self.failures.items()}
        for rejection in self.malformed:
            body[rejection.path.removeprefix("/")] = _entry_to_json(rejection)
        return body


_NOT_CANONICAL: Final = frozenset(
    {
        Reason.DUPLICATE_MEMBER,
        Reason.NOT_AN_INTEGER,
        Reason.INTEGER_OUT_OF_RANGE,
        Reason.TOO_MANY_DIGITS,
        Reason.NEGATIVE_ZERO,
        Reason.LONE_SURROGATE,
        Reason.NOT_A_JSON_VALUE,
        Reason.TOO_DEEP,
    }
)


def _entry_to_json(entry: Any) -> Any:
    if isinstance(entry, Rejection):
        return None if entry.reason in _NOT_CANONICAL else thaw(entry.raw)
    if isinstance(entry, DeviceKeys | CrossSigningKey):
        return entry.to_json()
    raise LocalProtocolError(Reason.WRONG_TYPE, f"a response holds models, not {type(entry).__name__}")


def _read_tree(tree: Any) -> KeysQueryResponse:
    if type(tree) is not dict:
        raise wrong_type("the answer must be an object", tree).to_error(RemoteProtocolError)
    return _read_response(pieces_of(tree))


def _read_response(pieces: Iterable[Piece]) -> KeysQueryResponse:
    maps: dict[str, Any] = {}
    devices = _Batch(read_device_keys)
    keys = _Batch(read_cross_signing_keys)
    for member, name, value in pieces:
        if name is None:
            maps[member] = value
        elif member in _ENTRY_MAPS and not is_user_id(name):
            # One rejection for all of it: a name may be long, and devices many.
            refusal = Refusal(Reason.INVALID_IDENTIFIER, f"{quoted(name)} is not a user id")
            maps[member][name] = _rejection(refusal, value, member, name)
        elif member in _KEY_MAPS:
            keys.add(maps[member], {name: value}, member)
        elif member != "device_keys":
            maps[member][name] = thaw(value)
        elif type(value) is dict:
            of_user: dict[str, Any] = {}
            maps[member][name] = of_user
            devices.add(of_user, value, member, name)
        else:
            refusal = wrong_type("the devices of a user must be an object", value)
            maps[member][name] = _rejection(refusal, value, member, name)
    devices.read()
    keys.read()
    if maps and not any(name in maps for name in _RESPONSE_MEMBERS):
        raise RemoteProtocolError(Reason.NOT_AN_ANSWER, "no member of a /keys/query answer is there")
    malformed: list[Rejection] = []
    for name in _RESPONSE_MEMBERS:
        value = maps.setdefault(name, {})
        if type(value) is not dict:
            malformed.append(_rejection(wrong_type(f"{name} must be an object", value), value, name))
            maps[name] = {}
    return KeysQueryResponse(
        **{name: maps.pop(name) for name in _RESPONSE_MEMBERS},
        extra={name: thaw(value) for name, value in maps.items()},
        malformed=tuple(malformed),
    )


_BATCH: Final = 64


class _Batch:
    """Entries that wait to be read: many at once for speed, not so many that the processor's cache cannot hold them."""

    def __init__(self, read: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._read = read
        self._waiting: list[tuple[dict[str, Any], tuple[str, ...], str, Any]] = []

    def add(self, into: dict[str, Any], trees: dict[str, Any], *at: str) -> None:
        """Take over entries that stand at ``at``. What they are will be found in ``into``, under the same names."""
        self._waiting += [(into, at, name, tree) for name, tree in trees.items()]
        if len(self._waiting) >= _BATCH:
            self.read()

    def read(self) -> None:
        """Read what waits."""
        for start in range(0, len(self._waiting), 2 * _BATCH):
            part = self._waiting[start : start + 2 * _BATCH]
            outcomes = self._read([tree for _, _, _, tree in part])
            for (into, at, name, tree), outcome in zip(part, outcomes, strict=True):
                into[name] = _rejection(outcome, tree, *at, name) if isinstance(outcome, Refusal) else outcome
        self._waiting.clear()


def _rejection(refusal: Refusal, tree: Any, *at: str) -> Rejection:
    """Return the rejection of the entry ``tree``, which stands at ``at``: map, user id, device id."""
    return Rejection(
        path=json_pointer((*at, *refusal.at)),
        reason=refusal.reason,
        detail=refusal.detail,
        raw=thaw(tree),
        user_id=at[1] if len(at) > 1 else None,
        device_id=at[2] if len(at) > 2 else None,
    )
