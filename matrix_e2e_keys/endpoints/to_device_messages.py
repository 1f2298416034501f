"""Messages to devices, as both APIs carry them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from matrix_e2e_keys.endpoints.entries import or_rejection, read_entry, read_users, user_entries
from matrix_e2e_keys.endpoints.members import Check, frozen_map, json_object, map_of
from matrix_e2e_keys.errors import Refusal
from matrix_e2e_keys.json_trees import WIDEST_LIMITS, object_in, refused_places, snapshot, thaw
from matrix_e2e_keys.outcome import Rejection

__all__ = ["ToDeviceMessages", "read_messages", "to_device_messages"]

ToDeviceMessages: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any] | Rejection] | Rejection]
"""User id to device id, or ``*``, to content; a rejection wherever something else stands."""


def _content(value: object, *at: str | int) -> Mapping[str, Any]:
    """Take a content, which canonical JSON must be able to represent."""
    for place, reason, detail in refused_places(snapshot(dict(frozen_map(value, *at)), limits=WIDEST_LIMITS), at):
        raise Refusal(reason, detail, *place)
    return json_object(value, *at)


to_device_messages: Check[ToDeviceMessages] = user_entries(map_of(or_rejection(_content)))


def read_messages(tree: dict[str, Any], *at: str | int) -> dict[str, Any]:
    """Read what is sent to whom. One malformed entry costs nothing but itself."""

    def read_user(devices: Any, user: str) -> dict[str, Any]:
        object_in(devices, "the messages to a user")
        return {
            device: read_entry(_read_content, content, *at, user, device, user=user, device=device)
            for device, content in devices.items()
        }

    return read_users(tree, read_user, *at)


def _read_content(tree: Any) -> dict[str, Any]:
    object_in(tree, "the content of a message")
    for place, reason, detail in refused_places(tree):
        raise Refusal(reason, detail, *place)
    content: dict[str, Any] = thaw(tree)
    return content
