"""What one server tells another about keys without being asked: ephemeral data units (EDUs).

Specification: server-server API, "Device Management", "Send-to-device messaging", "EDUs".

Facts:

* An EDU is ``{edu_type, content}``. They travel in transactions together with much that has nothing to do with keys;
  :func:`read_edus` reads those of this library and keeps the others as they are.
* Whether the server that sends them may speak for the user is judged elsewhere.
* A malformed EDU is one server's word about one user: the other EDUs of the transaction stand.

Deviation: a ``message_id`` of more than 32 characters is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final, Self, TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.endpoints.entries import (
    read_cross_signing_key,
    read_device,
    read_entry,
    read_optional,
    write_entries,
    write_optional,
)
from matrix_e2e_keys.endpoints.members import (
    boolean,
    called,
    device_id,
    extra_beside,
    instances,
    integer,
    json_object,
    list_of,
    opaque_string,
    optional,
    settle,
    user_id,
)
from matrix_e2e_keys.endpoints.messages import others, required
from matrix_e2e_keys.endpoints.to_device_messages import ToDeviceMessages, read_messages, to_device_messages
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, raised_as
from matrix_e2e_keys.json_trees import JsonObject, object_in, snapshot, thaw, wrong_type
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection

__all__ = [
    "EDU_TYPES",
    "DeviceListUpdate",
    "DirectToDevice",
    "Edu",
    "SigningKeyUpdate",
    "UnknownEdu",
    "read_edu",
    "read_edu_trees",
    "read_edus",
]

_EDU: Final = ("edu_type", "content")
_UPDATE: Final = ("user_id", "device_id", "stream_id", "prev_id", "deleted", "device_display_name", "keys")
_KEYS: Final = ("master_key", "self_signing_key")
_SIGNING: Final = ("user_id", *_KEYS)
_DIRECT: Final = ("sender", "type", "message_id", "messages")


def _edu(edu_type: str, content: JsonObject, beside: Mapping[str, Any]) -> JsonObject:
    return {**thaw(dict(beside)), "edu_type": edu_type, "content": content}


@frozen(kw_only=True)
class DeviceListUpdate:
    """``m.device_list_update``: a device was added, changed or removed.

    Attributes:
        user_id: whose device.
        device_id: the device.
        stream_id: the number of this update among those of the user.
        prev_ids: the numbers of the updates right before (``prev_id`` on the wire), none for the first one.
        deleted: whether the device is gone.
        device_display_name: its name, if the server tells. Untrusted.
        keys: its keys, ``None`` if it has none.
        extra: members of ``content`` that the specification does not name.
        beside: members beside ``content``.
    """

    edu_type: ClassVar[str] = "m.device_list_update"

    user_id: str
    device_id: str
    stream_id: int
    prev_ids: tuple[int, ...] = ()
    deleted: bool = False
    device_display_name: str | None = None
    keys: DeviceKeys | Rejection | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    beside: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            user_id=user_id,
            device_id=device_id,
            stream_id=integer,
            prev_ids=called("prev_id", list_of(integer)),
            deleted=boolean,
            device_display_name=optional(opaque_string),
            keys=optional(instances(DeviceKeys, Rejection)),
            extra=extra_beside(*_UPDATE),
            beside=extra_beside(*_EDU),
        )

    def to_json(self) -> JsonObject:
        """Return the EDU."""
        content: JsonObject = thaw(dict(self.extra))
        content.update(user_id=self.user_id, device_id=self.device_id, stream_id=self.stream_id)
        content["prev_id"] = list(self.prev_ids)
        if self.deleted:
            content["deleted"] = True
        if self.device_display_name is not None:
            content["device_display_name"] = self.device_display_name
        write_optional(content, self, "keys", refused={})
        return _edu(self.edu_type, content, self.beside)

    @classmethod
    def _read(cls, content: dict[str, Any], beside: dict[str, Any], *at: str | int) -> Self:
        return cls(
            user_id=required(content, "user_id"),
            device_id=required(content, "device_id"),
            stream_id=required(content, "stream_id"),
            prev_ids=content.get("prev_id", ()),
            deleted=content.get("deleted", False),
            device_display_name=content.get("device_display_name"),
            keys=read_optional(read_device, content, "keys", *at, null_is_absent=True),
            extra=thaw(others(content, *_UPDATE)),
            beside=beside,
        )


@frozen(kw_only=True)
class SigningKeyUpdate:
    """``m.signing_key_update``: a user has other cross-signing keys.

    Attributes:
        user_id: whose keys.
        master_key: the master key, ``None`` if it is not told.
        self_signing_key: the self-signing key, ``None`` if it is not told.
        extra: members of ``content`` that the specification does not name.
        beside: members beside ``content``.
    """

    edu_type: ClassVar[str] = "m.signing_key_update"

    user_id: str
    master_key: CrossSigningKey | Rejection | None = None
    self_signing_key: CrossSigningKey | Rejection | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    beside: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        key = optional(instances(CrossSigningKey, Rejection))
        settle(
            self,
            user_id=user_id,
            master_key=key,
            self_signing_key=key,
            extra=extra_beside(*_SIGNING),
            beside=extra_beside(*_EDU),
        )

    def to_json(self) -> JsonObject:
        """Return the EDU."""
        content: JsonObject = thaw(dict(self.extra))
        content["user_id"] = self.user_id
        write_optional(content, self, *_KEYS, refused={})
        return _edu(self.edu_type, content, self.beside)

    @classmethod
    def _read(cls, content: dict[str, Any], beside: dict[str, Any], *at: str | int) -> Self:
        def key(name: str) -> Any:
            return read_optional(read_cross_signing_key, content, name, *at, null_is_absent=True)

        return cls(
            user_id=required(content, "user_id"),
            master_key=key("master_key"),
            self_signing_key=key("self_signing_key"),
            extra=thaw(others(content, *_SIGNING)),
            beside=beside,
        )


@frozen(kw_only=True)
class DirectToDevice:
    """``m.direct_to_device``: messages to devices of the receiving server.

    Attributes:
        sender: who sends them.
        event_type: the type of all the messages (``type`` on the wire).
        message_id: unique, so that a repeated message is known as such.
        messages: user id to device id, or ``*``, to content.
        extra: members of ``content`` that the specification does not name.
        beside: members beside ``content``.
    """

    edu_type: ClassVar[str] = "m.direct_to_device"

    sender: str
    event_type: str
    message_id: str
    messages: ToDeviceMessages
    extra: Mapping[str, Any] = field(factory=dict)
    beside: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            sender=user_id,
            event_type=called("type", opaque_string),
            message_id=opaque_string,
            messages=to_device_messages,
            extra=extra_beside(*_DIRECT),
            beside=extra_beside(*_EDU),
        )

    def to_json(self) -> JsonObject:
        """Return the EDU. What was malformed stands in it as it was received, or as ``null``."""
        content: JsonObject = thaw(dict(self.extra))
        content.update(sender=self.sender, type=self.event_type, message_id=self.message_id)
        content["messages"] = write_entries(self.messages)
        return _edu(self.edu_type, content, self.beside)

    @classmethod
    def _read(cls, content: dict[str, Any], beside: dict[str, Any], *at: str | int) -> Self:
        messages = required(content, "messages")
        object_in(messages, "messages", "messages")
        return cls(
            sender=required(content, "sender"),
            event_type=required(content, "type"),
            message_id=required(content, "message_id"),
            messages=read_messages(messages, *at, "messages"),
            extra=thaw(others(content, *_DIRECT)),
            beside=beside,
        )


@frozen(kw_only=True)
class UnknownEdu:
    """An EDU that has nothing to do with keys, or that this library does not know.

    Attributes:
        edu_type: its type.
        content: its content.
        beside: members beside ``content``.
    """

    edu_type: str
    content: Mapping[str, Any]
    beside: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(self, edu_type=_unknown_type, content=json_object, beside=extra_beside(*_EDU))

    def to_json(self) -> JsonObject:
        """Return the EDU."""
        return _edu(self.edu_type, thaw(dict(self.content)), self.beside)


Edu: TypeAlias = DeviceListUpdate | SigningKeyUpdate | DirectToDevice | UnknownEdu

EDU_TYPES: Final = (DeviceListUpdate, SigningKeyUpdate, DirectToDevice, UnknownEdu)

_KNOWN: Final[Mapping[str, type[DeviceListUpdate | SigningKeyUpdate | DirectToDevice]]] = {
    kind.edu_type: kind for kind in (DeviceListUpdate, SigningKeyUpdate, DirectToDevice)
}


def _unknown_type(value: object, *at: str | int) -> str:
    edu_type = opaque_string(value, *at)
    if edu_type in _KNOWN:
        raise Refusal(Reason.INVALID_VALUE, f"{edu_type} is a type that this library knows", *at)
    return edu_type


def _read_edu(tree: Any, *at: str | int) -> Edu:
    """Read the EDU that stands at ``at``; what is refused is a place inside it."""
    edu = object_in(tree, "an EDU")
    edu_type = opaque_string(required(edu, "edu_type"), "edu_type")
    content = required(edu, "content")
    object_in(content, "content", "content")
    beside = thaw(others(edu, *_EDU))
    kind = _KNOWN.get(edu_type)
    if kind is None:
        return UnknownEdu(edu_type=edu_type, content=thaw(content), beside=beside)
    with raised_as(LocalProtocolError, "content"):
        return kind._read(content, beside, *at, "content")


def _read_edu_at(place: int, tree: Any) -> Edu:
    return _read_edu(tree, "edus", place)


def read_edu(obj: object) -> Edu:
    """Read one EDU; the value given is copied.

    Raises:
        RemoteProtocolError: it is malformed.
    """
    with raised_as(RemoteProtocolError):
        return _read_edu(snapshot(obj))


def read_edus(edus: object) -> tuple[Edu | Rejection, ...]:
    """Read the ``edus`` of a transaction, a list; the value given is copied.

    Returns:
        One EDU for each entry, a rejection where it is malformed; paths begin at ``/edus``.

    Raises:
        RemoteProtocolError: it is not a list.
    """
    tree = snapshot(edus)
    if type(tree) is not list:
        raise wrong_type("edus must be an array", tree, "edus").to_error(RemoteProtocolError)
    return read_edu_trees(tree)


def read_edu_trees(trees: list[Any]) -> tuple[Edu | Rejection, ...]:
    """Read the ``edus`` of a transaction from trees that nobody else changes."""
    return tuple(read_entry(partial(_read_edu_at, place), edu, "edus", place) for place, edu in enumerate(trees))
