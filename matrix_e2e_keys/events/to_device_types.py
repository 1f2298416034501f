"""Which events are sent to devices to carry keys or to talk about them, and how each is read.

Specification: client-server API, "Sharing keys between devices", "Sharing keys between users", "Secrets"; the events.

Facts:

* What carries a key or a secret is sent encrypted only. In the open it is refused: it could come from any server on the
  way, and has been read by all of them.
* Requests and notices are sent in the open, and may be encrypted. ``m.dummy`` "typically" is encrypted; in the open it
  means nothing, and does no harm.
* ``m.room.encrypted`` is the envelope and none of these: see :func:`~matrix_e2e_keys.read_encrypted_content`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted
from matrix_e2e_keys.events.key_bundles import RoomKeyBundleContent
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.secrets import DummyContent, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent
from matrix_e2e_keys.frozen_maps import FrozenMap

__all__ = [
    "ENCRYPTED_ONLY",
    "PLAINTEXT_ALLOWED",
    "TO_DEVICE_CONTENTS",
    "UNSTABLE_WITHHELD",
    "ToDeviceContent",
    "read_plaintext_content",
    "read_to_device_content",
]

ToDeviceContent: TypeAlias = (
    RoomKeyContent
    | ForwardedRoomKeyContent
    | RoomKeyBundleContent
    | RoomKeyWithheldContent
    | RoomKeyRequestContent
    | SecretRequestContent
    | SecretSendContent
    | DummyContent
)
"""The content of an event that carries keys or talks about them."""

UNSTABLE_WITHHELD: Final = "org.matrix.room_key.withheld"
"""What ``m.room_key.withheld`` was called before it was specified. Some still send it under both names."""

_Kinds: TypeAlias = Mapping[str, type[ToDeviceContent]]

_SECRET: Final[_Kinds] = {
    kind.event_type: kind for kind in (RoomKeyContent, ForwardedRoomKeyContent, RoomKeyBundleContent, SecretSendContent)
}
_OPEN: Final[_Kinds] = {
    **{
        kind.event_type: kind
        for kind in (RoomKeyWithheldContent, RoomKeyRequestContent, SecretRequestContent, DummyContent)
    },
    UNSTABLE_WITHHELD: RoomKeyWithheldContent,
}

ENCRYPTED_ONLY: Final[frozenset[str]] = frozenset(_SECRET)
"""The types of events that are refused in the open."""

PLAINTEXT_ALLOWED: Final[frozenset[str]] = frozenset(_OPEN)
"""The types of events that are taken in the open, and encrypted as well."""

TO_DEVICE_CONTENTS: Final[_Kinds] = FrozenMap({**_SECRET, **_OPEN})
"""Type of an event to the class of its content."""


def read_to_device_content(event_type: str, content: object) -> ToDeviceContent | None:
    """Read the content of an event that was sent to this device, and came out of an Olm message.

    Args:
        event_type: the type of the event.
        content: its content.

    Returns:
        The content; ``None`` if the type is not in :data:`TO_DEVICE_CONTENTS`.

    Raises:
        RemoteProtocolError: the content is malformed, or about an algorithm that is not known. ``path`` points into
            the content.
        LocalProtocolError: the type is no string.
    """
    kind = TO_DEVICE_CONTENTS.get(_checked(event_type))
    return None if kind is None else kind.from_json(content)


def read_plaintext_content(event_type: str, content: object) -> ToDeviceContent | None:
    """Read the content of an event that was sent to this device in the open.

    Args:
        event_type: the type of the event.
        content: its content.

    Returns:
        The content; ``None`` if the type is not in :data:`TO_DEVICE_CONTENTS`.

    Raises:
        RemoteProtocolError: such an event is taken encrypted only; or as of :func:`read_to_device_content`.
        LocalProtocolError: the type is no string.
    """
    if _checked(event_type) in ENCRYPTED_ONLY:
        raise RemoteProtocolError(Reason.NOT_ENCRYPTED, f"{quoted(event_type)} is taken encrypted only")
    return read_to_device_content(event_type, content)


def _checked(event_type: object) -> str:
    if type(event_type) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the type of an event is a string", path="/event_type")
    return event_type
