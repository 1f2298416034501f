"""The maps of one-time keys that answers to ``/keys/claim`` consist of, in both APIs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from matrix_e2e_keys.endpoints.dialects import Dialect
from matrix_e2e_keys.endpoints.entries import or_rejection, read_one_time_keys, read_users, user_entries
from matrix_e2e_keys.endpoints.members import Check, frozen_map, instances, map_of
from matrix_e2e_keys.errors import Reason, Refusal
from matrix_e2e_keys.identifiers import parse_device_id, read_identifier
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.outcome import Rejection, rejected

__all__ = ["ClaimedKeys", "OneTimeKeyMap", "check_form", "claimed_keys", "one_time_key_map", "read_claimed_keys"]

OneTimeKeyMap: TypeAlias = Mapping[str, OneTimeKey | Rejection]
"""Key id to one-time or fallback key; a rejection where the entry is not well formed."""

ClaimedKeys: TypeAlias = Mapping[str, Mapping[str, OneTimeKeyMap | Rejection] | Rejection]
"""User id to device id to key id to key; a rejection wherever something else stands."""


def one_time_key_map(value: object, *at: str | int) -> OneTimeKeyMap:
    """Take key id to one-time key. Keys may be rejections; a key stands under its own id."""
    check: Check[Any] = instances(OneTimeKey, Rejection)
    keys = frozen_map(value, *at)
    for name, key in keys.items():
        if type(check(key, *at, name)) is OneTimeKey and str(key.key_id) != name:
            raise Refusal(Reason.INVALID_KEY_ID, "the key has another id than the one it stands under", *at, name)
    return keys


def claimed_keys(value: object, *at: str | int) -> ClaimedKeys:
    """Take user id to device id to key id to one-time key. Each of them may be a rejection."""
    return user_entries(map_of(or_rejection(one_time_key_map)))(value, *at)


def read_claimed_keys(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Read what was claimed. One malformed entry costs nothing but itself."""

    def read_user(devices: Any, user: str) -> dict[str, Any]:
        object_in(devices, "the devices of a user")
        return {device: read_device(keys, user, device) for device, keys in devices.items()}

    # One rejection for all keys of a device whose name is no device id: it may be long, and they may be many.

    def read_device(keys: Any, user: str, device: str) -> Any:
        try:
            read_identifier(parse_device_id, device, "device_id")
            object_in(keys, "the keys of a device")
        except Refusal as refusal:
            bare = Refusal(refusal.reason, refusal.detail)
            return rejected(bare, keys, (name, user, device), user_id=user, device_id=device)
        return read_one_time_keys(keys, name, user, device, user=user, device=device)

    return read_users(tree, read_user, name)


def check_form(keys: Any, dialect: Dialect, *at: str | int) -> None:
    """Refuse keys, or maps of keys, that are signed objects where the dialect has bare strings only."""
    if not dialect.bare_one_time_keys:
        return
    if isinstance(keys, Mapping):
        for name, key in keys.items():
            check_form(key, dialect, *at, name)
    elif type(keys) is OneTimeKey and keys.signed is not None:
        raise Refusal(Reason.NOT_IN_DIALECT, f"{dialect.name} has bare one-time keys only", *at)
