"""``GET /_matrix/federation/v1/user/devices/{userId}``: all devices of a user, and where in the stream that is.

Specification: server-server API, "Device Management".

Facts:

* The ``stream_id`` is matched with the one in ``m.device_list_update``. It belongs to this answer only, which is why a
  server that has lost its place asks here and not at ``user/keys/query``.
* Names are singular here: ``master_key``, ``self_signing_key``. ``null`` means that there is none.

Deviation: a device without ``keys`` is read and written, though the schema requires them: it takes no part in
encryption, and is a device all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.dialects import ENDPOINTS, Endpoint
from matrix_e2e_keys.endpoints.entries import (
    list_member,
    malformed_members,
    or_rejection,
    read_cross_signing_key,
    read_device,
    read_entry,
    read_optional,
    write_entry,
    write_malformed,
    write_optional,
)
from matrix_e2e_keys.endpoints.members import (
    device_id,
    extra_beside,
    instances,
    integer,
    list_of,
    opaque_string,
    optional,
    settle,
    user_id,
)
from matrix_e2e_keys.endpoints.messages import Request, Response, others, required
from matrix_e2e_keys.json_trees import JsonObject, object_in, thaw
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection

__all__ = ["UserDevice", "UserDevicesRequest", "UserDevicesResponse"]

_DEVICE_MEMBERS: Final = ("device_id", "keys", "device_display_name")
_KEYS: Final = ("master_key", "self_signing_key")
_RESPONSE_MEMBERS: Final = ("user_id", "stream_id", "devices", *_KEYS)


@frozen(kw_only=True)
class UserDevicesRequest(Request["UserDevicesResponse"]):
    """What is asked.

    Attributes:
        user_id: whose devices. "Must be a user local to the receiving homeserver."
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_devices"]

    user_id: str

    def __attrs_post_init__(self) -> None:
        settle(self, user_id=user_id)

    def _parameters(self) -> Mapping[str, str | None]:
        return {"user_id": self.user_id}

    @classmethod
    def answer_type(cls) -> type[UserDevicesResponse]:
        """Return the class of the answers."""
        return UserDevicesResponse


@frozen(kw_only=True)
class UserDevice:
    """One device of a user.

    Attributes:
        device_id: its id.
        keys: its keys, ``None`` if it has none.
        device_display_name: its name, if the server tells. Untrusted.
        extra: members that the specification does not name.
    """

    device_id: str
    keys: DeviceKeys | Rejection | None = None
    device_display_name: str | None = None
    extra: Mapping[str, Any] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            device_id=device_id,
            keys=optional(instances(DeviceKeys, Rejection)),
            device_display_name=optional(opaque_string),
            extra=extra_beside(*_DEVICE_MEMBERS),
        )

    def to_json(self) -> JsonObject:
        """Return the device as it stands in ``devices``."""
        body: JsonObject = thaw(dict(self.extra))
        body["device_id"] = self.device_id
        write_optional(body, self, "keys", refused={})
        if self.device_display_name is not None:
            body["device_display_name"] = self.device_display_name
        return body


def _read_device(tree: Any, place: int) -> UserDevice:
    body = object_in(tree, "a device")
    return UserDevice(
        device_id=required(body, "device_id"),
        keys=read_optional(read_device, body, "keys", "devices", place, null_is_absent=True),
        device_display_name=body.get("device_display_name"),
        extra=thaw(others(body, *_DEVICE_MEMBERS)),
    )


@frozen(kw_only=True)
class UserDevicesResponse(Response):
    """What is answered. Nothing in it has been verified.

    Attributes:
        user_id: whose devices, according to the answer.
        stream_id: the version of the list.
        devices: the devices; a rejection where an entry is not well formed.
        master_key: the master key, ``None`` if there is none.
        self_signing_key: the self-signing key, ``None`` if there is none.
        extra: members that the specification does not name.
        malformed: ``devices`` if it is no list.
    """

    endpoint: ClassVar[Endpoint] = ENDPOINTS["user_devices"]

    user_id: str
    stream_id: int
    devices: tuple[UserDevice | Rejection, ...]
    master_key: CrossSigningKey | Rejection | None = None
    self_signing_key: CrossSigningKey | Rejection | None = None
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        key = optional(instances(CrossSigningKey, Rejection))
        settle(
            self,
            user_id=user_id,
            stream_id=integer,
            devices=list_of(or_rejection(instances(UserDevice))),
            master_key=key,
            self_signing_key=key,
            extra=extra_beside(*_RESPONSE_MEMBERS),
            malformed=malformed_members(self, "devices"),
        )

    def to_json(self) -> JsonObject:
        """Return the response body. What was malformed stands in it as it was received, or as ``null``."""
        body: JsonObject = thaw(dict(self.extra))
        body.update(user_id=self.user_id, stream_id=self.stream_id)
        body["devices"] = [write_entry(device) for device in self.devices]
        write_optional(body, self, *_KEYS, refused={})
        return write_malformed(body, self.malformed)

    @classmethod
    def _read_tree(cls, tree: dict[str, Any]) -> Self:
        malformed: list[Rejection] = []
        devices = list_member(required(tree, "devices"), "devices", malformed)
        return cls(
            user_id=required(tree, "user_id"),
            stream_id=required(tree, "stream_id"),
            devices=tuple(
                read_entry(partial(_read_device, place=place), device, "devices", place)
                for place, device in enumerate(devices)
            ),
            master_key=read_optional(read_cross_signing_key, tree, "master_key", null_is_absent=True),
            self_signing_key=read_optional(read_cross_signing_key, tree, "self_signing_key", null_is_absent=True),
            extra=thaw(others(tree, *_RESPONSE_MEMBERS)),
            malformed=tuple(malformed),
        )
