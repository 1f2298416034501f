"""The life of a device: it comes with a log-in, is renamed, and goes.

Specification: client-server API, "Login", "Device Management", "Cross-signing", "Key and signature security".

Facts:

* Device ids and the public keys of cross-signing keys are names in one namespace. Who logs in cannot have the name of a
  key that the user has or had; the other way round is checked where cross-signing keys are uploaded.
* To log in with the id of a device that is there changes nothing of it: its keys stay, since the client may still have
  the private ones, and so does its name.
* A device that goes takes along all that is its own, and its signature on the master key too. So a device that comes
  later under the same id starts clean.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from matrix_e2e_keys.endpoints.members import instances, optional, strings
from matrix_e2e_keys.errors import LocalProtocolError, RemoteProtocolError, printable, raised_as
from matrix_e2e_keys.homeserver.admission.device_keys import check_device_count
from matrix_e2e_keys.homeserver.admission.uploaded_objects import master_key_without, refusal
from matrix_e2e_keys.homeserver.effects import (
    DeleteDevice,
    DeviceChanged,
    Effect,
    IdentityChanged,
    StoreCrossSigningKey,
    StoreDevice,
    guarded,
)
from matrix_e2e_keys.homeserver.policies import SPEC, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.identifiers import parse_device_id

__all__ = ["decide_delete_devices", "decide_log_in", "decide_rename"]

_LONGEST_NAME: Final = 100


def decide_log_in(
    device_id: str, *, stored: UserKeys, display_name: str | None = None, policy: Policy = SPEC
) -> tuple[Effect, ...]:
    """Say what becomes of a log-in that names its device.

    Args:
        device_id: the device, as the client named it or as the server made it up.
        stored: the user.
        display_name: the name of a new device, ``None`` for none. A device that is there keeps its own.
        policy: its limit on devices with keys is the only thing that counts here.

    Returns:
        What to store and whom to tell; nothing if the device is there.

    Raises:
        MatrixError: the id cannot be one, or is the name of a cross-signing key; the name is too long; or the user has
            so many devices with keys that this one could never have any.
        LocalProtocolError: an argument has the wrong type.
    """
    _check_arguments(device_id, display_name, stored)
    limits = check_policy(policy).limits
    try:
        parse_device_id(device_id)
    except RemoteProtocolError as error:
        raise refusal("M_INVALID_PARAM", printable(error.detail)) from None
    # "servers MUST not allow devices to have the same IDs as cross-signing keys"
    if stored.has_key_called(device_id):
        raise refusal("M_FORBIDDEN", "The device ID is in use")
    _check_name(display_name)
    # "Ignored if `device_id` corresponds to a known device."
    if device_id in stored.devices:
        return ()
    check_device_count(stored, limits)
    return _named(device_id, stored, display_name)


def decide_rename(device_id: str, *, stored: UserKeys, display_name: str | None) -> tuple[Effect, ...]:
    """Say what becomes of a new name for a device.

    Args:
        device_id: the device.
        stored: the user.
        display_name: the name; ``None`` leaves it as it is.

    Returns:
        What to store and whom to tell; nothing if the device has that name.

    Raises:
        MatrixError: there is no such device, or the name is too long.
        LocalProtocolError: an argument has the wrong type.
    """
    _check_arguments(device_id, display_name, stored)
    device = stored.devices.get(device_id)
    if device is None:
        raise refusal("M_NOT_FOUND", "Unknown device", status=404)
    _check_name(display_name)
    # "If not given, the display name is unchanged."
    if display_name in (None, device.display_name):
        return ()
    return _named(device_id, stored, display_name)


def decide_delete_devices(device_ids: Iterable[str], *, stored: UserKeys) -> tuple[Effect, ...]:
    """Say what becomes of devices that are deleted, or logged out.

    Args:
        device_ids: the devices. Those that are gone already are nobody's concern.
        stored: the user.

    Returns:
        What to do and whom to tell.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        names = dict.fromkeys(strings(device_ids, "device_ids"))
        instances(UserKeys)(stored, "stored")
    user_id = stored.user_id
    gone = [device_id for device_id in names if device_id in stored.devices]
    effects: list[Effect] = [DeleteDevice(user_id=user_id, device_id=device_id) for device_id in gone]
    notices: list[Effect] = [DeviceChanged(user_id=user_id, device_id=device_id) for device_id in gone]
    master_key = master_key_without(stored, frozenset(names))
    if master_key is not None:
        effects.append(StoreCrossSigningKey(user_id=user_id, usage="master", key=master_key))
        notices.append(IdentityChanged(user_id=user_id))
    return guarded((*effects, *notices), stored)


def _check_arguments(device_id: object, display_name: object, stored: object) -> None:
    with raised_as(LocalProtocolError):
        instances(str)(device_id, "device_id")
        optional(instances(str))(display_name, "display_name")
        instances(UserKeys)(stored, "stored")


def _check_name(display_name: str | None) -> None:
    if display_name is None:
        return
    if len(display_name) > _LONGEST_NAME:
        raise refusal("M_TOO_LARGE", f"Device display name is too long (max {_LONGEST_NAME})")
    if display_name != printable(display_name):
        raise refusal("M_INVALID_PARAM", "Device display name holds a lone surrogate")


def _named(device_id: str, stored: UserKeys, display_name: str | None) -> tuple[Effect, ...]:
    effects: tuple[Effect, ...] = (
        StoreDevice(user_id=stored.user_id, device_id=device_id, display_name=display_name),
        DeviceChanged(user_id=stored.user_id, device_id=device_id),
    )
    return guarded(effects, stored)
