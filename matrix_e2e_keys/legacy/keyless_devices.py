"""Devices without keys in answers about keys, as the draft of 2015 has them.

Specification: the draft "End to End Encryption" of July 2015.

Facts:

* A homeserver of the draft names every device of a user, also those that do not encrypt: with no algorithms and no
  keys.
* Nobody signs such an object but servers, and it is never a verified device.
* Today's servers leave such devices out. Do not put them into an answer to a client of today.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve

from matrix_e2e_keys.endpoints.members import device_id as a_device_id
from matrix_e2e_keys.endpoints.members import list_of, map_of
from matrix_e2e_keys.endpoints.members import user_id as a_user_id
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.legacy.countersigning import KeysAnswer, check_answer
from matrix_e2e_keys.models.device_keys import DeviceKeys

__all__ = ["keyless_device", "with_keyless_devices"]


def keyless_device(user_id: str, device_id: str) -> DeviceKeys:
    """Return what stands for a device that does not encrypt: no algorithms, no keys, no signature.

    Args:
        user_id: the owner.
        device_id: the device.

    Raises:
        LocalProtocolError: one of them is none.
    """
    with raised_as(LocalProtocolError):
        return DeviceKeys.from_json({"user_id": user_id, "device_id": device_id, "algorithms": [], "keys": {}})


def with_keyless_devices(response: KeysAnswer, device_ids: Mapping[str, Iterable[str]]) -> KeysAnswer:
    """Return an answer that also names the devices without keys. What it says already stays as it is.

    Args:
        response: an answer to a client or to a server.
        device_ids: user id to the ids of all devices of the user that were asked for.

    Raises:
        LocalProtocolError: it is another answer, or a user or device id is none.
    """
    check_answer(response)
    with raised_as(LocalProtocolError):
        listed = map_of(list_of(a_device_id))(device_ids, "device_ids")
        for user_id in listed:
            a_user_id(user_id, "device_ids", user_id)
    device_keys: dict[str, Any] = dict(response.device_keys)
    for user_id, ids in listed.items():
        known = device_keys.get(user_id, {})
        if isinstance(known, Mapping):
            added = {name: keyless_device(user_id, name) for name in ids if name not in known}
            device_keys[user_id] = {**known, **added}
    return evolve(response, device_keys=device_keys)
