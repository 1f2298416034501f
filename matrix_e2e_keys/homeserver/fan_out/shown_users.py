"""Users as the answers to queries show them, in both APIs.

Specification: client-server API, "Key management API"; server-server API, "End-to-End Encryption".

Facts:

* A device without keys is left out, and so is one that was asked for and does not exist.
* Every device has ``unsigned``. It holds the name of the device if it has one and it is to be shown, and nothing that
  anybody else has put there.
* What is stored and malformed is written as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from attrs import define, field

from matrix_e2e_keys.endpoints.entries import EntryBatch
from matrix_e2e_keys.homeserver.stored_keys import USAGES, DeviceRecord, UserKeys, UserSignature
from matrix_e2e_keys.homeserver.visibility import Viewer, visible_device, visible_key
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import read_device_keys

__all__ = ["ShownUsers", "shown_name"]


def shown_name(device: DeviceRecord, *, shows: bool) -> str | None:
    """Return the name of a device, ``None`` if it has none or it is not to be shown."""
    return device.display_name if shows else None


@define(kw_only=True)
class ShownUsers:
    """The maps of an answer, as they are filled.

    Attributes:
        viewer: who looks.
        shows_display_names: whether the names of devices are told.
        signatures: what the viewer signed, by the user that was signed.
        device_keys: user id to device id to device keys.
        keys: name of a map, for example ``master_keys``, to user id to key.
    """

    viewer: Viewer
    shows_display_names: bool
    signatures: Mapping[str, list[UserSignature]] = field(factory=dict)
    device_keys: dict[str, dict[str, Any]] = field(factory=dict, init=False)
    keys: dict[str, dict[str, CrossSigningKey]] = field(factory=dict, init=False)
    _batch: EntryBatch = field(factory=lambda: EntryBatch(read_device_keys), init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.keys = {f"{usage}_keys": {} for usage in USAGES}

    def add(self, user: UserKeys, asked: Collection[str], *, has_list: bool = True) -> None:
        """Show a user.

        Args:
            user: devices and identity.
            asked: the devices that were asked for, none of which means all.
            has_list: whether it is known which devices there are. If not, only the identity is shown.
        """
        if has_list:
            self._add_devices(user, asked)
        signatures = self.signatures.get(user.user_id, ())
        for usage in USAGES:
            key = user.key_of(usage)
            shown = None if key is None else visible_key(key, owner=user, viewer=self.viewer, signatures=signatures)
            if shown is not None:
                self.keys[f"{usage}_keys"][user.user_id] = shown

    def _add_devices(self, user: UserKeys, asked: Collection[str]) -> None:
        of_user = self.device_keys[user.user_id] = {}
        device_ids = [name for name in dict.fromkeys(asked) if name in user.devices] if asked else user.devices
        trees: JsonObject = {}
        for device_id in device_ids:
            device = user.devices[device_id]
            if device.keys is not None:
                # "the same as uploaded via /keys/upload, with the addition of an unsigned property"
                tree = visible_device(device.keys, owner=user, viewer=self.viewer).to_json()
                name = shown_name(device, shows=self.shows_display_names)
                tree["unsigned"] = {} if name is None else {"device_display_name": name}
                trees[device_id] = tree
        self._batch.add(of_user, trees, "device_keys", user.user_id)

    def finish(self) -> None:
        """Read what is still waiting to be read."""
        self._batch.read()
