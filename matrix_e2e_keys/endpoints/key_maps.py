"""The maps of device keys and cross-signing keys that answers to ``/keys/query`` consist of, in both APIs.

Strategy: the document is read piece by piece and the entries in batches; see :mod:`~matrix_e2e_keys.json_pieces`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from matrix_e2e_keys.endpoints.entries import EntryBatch, not_a_user_id, rejected_user_entry, user_entries
from matrix_e2e_keys.endpoints.members import frozen_map, instances
from matrix_e2e_keys.errors import Reason, Refusal
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.json_pieces import Piece
from matrix_e2e_keys.json_trees import thaw, wrong_type
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, read_cross_signing_keys
from matrix_e2e_keys.models.device_keys import DeviceKeys, read_device_keys
from matrix_e2e_keys.outcome import Rejection, rejected

__all__ = ["DeviceMap", "KeyMap", "device_maps", "key_map", "read_key_maps"]

DeviceMap: TypeAlias = Mapping[str, DeviceKeys | Rejection]
"""Device id to device keys; a rejection where the entry is not well formed."""

KeyMap: TypeAlias = Mapping[str, CrossSigningKey | Rejection]
"""User id to cross-signing key; a rejection where the entry is not well formed."""

_KEY_MAPS: Final = ("master_keys", "self_signing_keys", "user_signing_keys")
_ENTRY_MAPS: Final = ("device_keys", *_KEY_MAPS)


def device_maps(value: object, *at: str | int) -> Mapping[str, DeviceMap | Rejection]:
    """Take user id to device id to device keys. Users and devices may be rejections."""
    return user_entries(_devices)(value, *at)


def key_map(value: object, *at: str | int) -> KeyMap:
    """Take user id to cross-signing key. Keys may be rejections."""
    return user_entries(instances(CrossSigningKey))(value, *at)


def _devices(value: object, *at: str | int) -> DeviceMap:
    devices = frozen_map(value, *at)
    for name, device in devices.items():
        if type(device) is not DeviceKeys:
            instances(DeviceKeys, Rejection)(device, *at, name)
    return devices


def read_key_maps(
    pieces: Iterable[Piece], known: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any], tuple[Rejection, ...]]:
    """Read an answer from its pieces.

    Args:
        pieces: the answer.
        known: the members of such an answer.

    Returns:
        The ``known`` members, empty where there is none; all other members; and what is no map though it should be.

    Raises:
        Refusal: it holds members, but no known one.
    """
    maps: dict[str, Any] = {}
    devices = EntryBatch(read_device_keys)
    keys = EntryBatch(read_cross_signing_keys)
    for member, name, value in pieces:
        if name is None:
            maps[member] = value
        elif member not in known or member not in _ENTRY_MAPS:
            maps[member][name] = thaw(value)
        elif not is_user_id(name):
            # One rejection for all of it: a name may be long, and devices many.
            maps[member][name] = rejected_user_entry(not_a_user_id(name), value, member, name)
        elif member in _KEY_MAPS:
            keys.add(maps[member], {name: value}, member)
        elif type(value) is dict:
            of_user: dict[str, Any] = {}
            maps[member][name] = of_user
            devices.add(of_user, value, member, name)
        else:
            refusal = wrong_type("the devices of a user must be an object", value)
            maps[member][name] = rejected_user_entry(refusal, value, member, name)
    devices.read()
    keys.read()
    if maps and not any(name in maps for name in known):
        raise Refusal(Reason.NOT_AN_ANSWER, "no member of an answer is there")
    malformed: list[Rejection] = []
    for name in known:
        value = maps.setdefault(name, {})
        if type(value) is not dict:
            malformed.append(rejected(wrong_type(f"{name} must be an object", value), value, (name,)))
            maps[name] = {}
    return {name: maps.pop(name) for name in known}, thaw(maps), tuple(malformed)
