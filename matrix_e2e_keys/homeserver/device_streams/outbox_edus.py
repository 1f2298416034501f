"""Updates in the words of the protocol: one EDU for each poke, which says what holds at this moment.

Specification: server-server API, "Device Management", "End-to-End Encryption".
"""

from __future__ import annotations

from collections.abc import Mapping

from matrix_e2e_keys.endpoints.federation.edus import DeviceListUpdate, Edu, SigningKeyUpdate
from matrix_e2e_keys.endpoints.members import boolean, instances, map_of
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.homeserver.device_streams.outbox_values import DevicePoke, OutboundUpdates
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys, device_entry
from matrix_e2e_keys.homeserver.visibility import ServerViewer, visible_device, visible_key
from matrix_e2e_keys.models.cross_signing import CrossSigningKey

__all__ = ["edus_of"]


def edus_of(
    updates: OutboundUpdates, *, users: Mapping[str, UserKeys], shows_display_names: bool = False
) -> tuple[Edu, ...]:
    """Return the EDUs of a transaction, one for each poke, in their order.

    Args:
        updates: what to tell.
        users: user id to what is stored of the user now. Who is not there has no device and no identity.
        shows_display_names: whether other servers may know what devices are called.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        instances(OutboundUpdates)(updates, "updates")
        known = map_of(instances(UserKeys))(users, "users")
        boolean(shows_display_names, "shows_display_names")
    viewer = ServerViewer(server_name=updates.destination)
    edus: list[Edu] = []
    for poke in updates.pokes:
        owner = known.get(poke.user_id) or UserKeys(user_id=poke.user_id)
        if isinstance(poke, DevicePoke):
            edus.append(_device_update(poke, owner, viewer, shows_display_names))
        else:
            edus.append(
                SigningKeyUpdate(
                    user_id=poke.user_id,
                    master_key=_shown(owner.master_key, owner, viewer),
                    self_signing_key=_shown(owner.self_signing_key, owner, viewer),
                )
            )
    return tuple(edus)


def _device_update(
    poke: DevicePoke, owner: UserKeys, viewer: ServerViewer, shows_display_names: bool
) -> DeviceListUpdate:
    device: DeviceRecord | None = owner.devices.get(poke.device_id)
    keys = None if device is None else device.keys
    return DeviceListUpdate(
        user_id=poke.user_id,
        device_id=poke.device_id,
        stream_id=poke.stream_id,
        prev_ids=poke.prev_ids,
        deleted=device is None,
        device_display_name=device.display_name if device is not None and shows_display_names else None,
        # What was admitted though it is no DeviceKeys is told as it is.
        keys=None if keys is None else device_entry(visible_device(keys, owner=owner, viewer=viewer), "keys"),
    )


def _shown(key: CrossSigningKey | None, owner: UserKeys, viewer: ServerViewer) -> CrossSigningKey | None:
    return None if key is None else visible_key(key, owner=owner, viewer=viewer)
