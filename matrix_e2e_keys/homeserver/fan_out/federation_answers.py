"""What this server tells other servers of its users: ``/user/keys/query`` and ``/user/devices``.

Specification: server-server API, "End-to-End Encryption", "Device Management".

Facts:

* "Requested users must be local to the receiving homeserver": a request that names anybody else is refused as a whole.
  What this server knows of the users of others is theirs to tell.
* Another server sees what everybody may see. No user-signing key and no signature by one leaves this server.
* The names of devices are told only if the caller says so. Nothing else is told that a client has put into
  ``unsigned``.
* Of a user who does not exist it is said that there are no devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matrix_e2e_keys.endpoints.entries import read_device, read_entry
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevice, UserDevicesRequest, UserDevicesResponse
from matrix_e2e_keys.endpoints.federation.user_keys_query import UserKeysQueryRequest, UserKeysQueryResponse
from matrix_e2e_keys.endpoints.members import boolean, instances, integer, optional
from matrix_e2e_keys.errors import LocalProtocolError, Reason, raised_as
from matrix_e2e_keys.homeserver.decisions import Decision
from matrix_e2e_keys.homeserver.fan_out.asked_servers import (
    first_foreigner,
    refused_size,
    user_views,
)
from matrix_e2e_keys.homeserver.fan_out.shown_users import ShownUsers, shown_name
from matrix_e2e_keys.homeserver.policies import SPEC, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys
from matrix_e2e_keys.homeserver.visibility import ServerViewer, visible_device, visible_key
from matrix_e2e_keys.identifiers import check_server_name

__all__ = ["decide_user_devices", "decide_user_keys_query"]


def decide_user_keys_query(
    request: UserKeysQueryRequest,
    *,
    origin: str,
    server_name: str,
    local: Mapping[str, UserKeys],
    shows_display_names: bool = False,
    policy: Policy = SPEC,
) -> Decision[UserKeysQueryResponse]:
    """Decide what to answer another server's query.

    Args:
        request: what it asks.
        origin: which server, as its signature proves.
        server_name: this server.
        local: what is stored of the users who are asked about. Who is missing is unknown.
        shows_display_names: whether to tell the names of devices.
        policy: how much may be asked.

    Returns:
        The answer; or 400 ``M_TOO_LARGE``, 400 ``M_UNKNOWN`` if somebody is no user of this server, 400
        ``M_INVALID_PARAM`` if a name is no user id. There are no effects.

    Raises:
        LocalProtocolError: an argument has the wrong type, or a user stands under another name.
    """
    viewer = _viewer(request, UserKeysQueryRequest, origin, server_name, shows_display_names)
    views = user_views(local, "local")
    asked = request.device_keys
    refusal = refused_size(asked, check_policy(policy).limits) or first_foreigner(asked, server_name)
    if refusal is not None:
        return Decision(answer=refusal)
    shown = ShownUsers(viewer=viewer, shows_display_names=shows_display_names)
    for user_id, device_ids in request.asked.items():
        shown.add(views.get(user_id, UserKeys(user_id=user_id)), device_ids)
    shown.finish()
    return Decision(
        answer=UserKeysQueryResponse(
            device_keys=shown.device_keys,
            master_keys=shown.keys["master_keys"],
            self_signing_keys=shown.keys["self_signing_keys"],
        )
    )


def decide_user_devices(
    request: UserDevicesRequest,
    *,
    origin: str,
    server_name: str,
    stored: UserKeys | None,
    stream_id: int,
    shows_display_names: bool = False,
) -> Decision[UserDevicesResponse]:
    """Decide what to answer another server that asks for all devices of a user.

    Args:
        request: what it asks.
        origin: which server, as its signature proves.
        server_name: this server.
        stored: what is stored of the user, ``None`` if there is no such user.
        stream_id: the number of the newest update of the user's devices that other servers were told, or will be.
        shows_display_names: whether to tell the names of devices.

    Returns:
        The answer; or 400 ``M_UNKNOWN`` if it is no user of this server. There are no effects.

    Raises:
        LocalProtocolError: an argument has the wrong type, or somebody else is stored.
    """
    viewer = _viewer(request, UserDevicesRequest, origin, server_name, shows_display_names)
    with raised_as(LocalProtocolError):
        optional(instances(UserKeys))(stored, "stored")
        integer(stream_id, "stream_id")
    refusal = first_foreigner({request.user_id: ()}, server_name)
    if refusal is not None:
        return Decision(answer=refusal)
    user = UserKeys(user_id=request.user_id) if stored is None else stored
    if user.user_id != request.user_id:
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, "somebody else is stored", path="/stored")
    keys: dict[str, Any] = {
        name: None if key is None else visible_key(key, owner=user, viewer=viewer)
        for name, key in (("master_key", user.master_key), ("self_signing_key", user.self_signing_key))
    }
    return Decision(
        answer=UserDevicesResponse(
            user_id=user.user_id,
            stream_id=stream_id,
            devices=tuple(
                _device(device_id, place, device, user, viewer, shows=shows_display_names)
                for place, (device_id, device) in enumerate(user.devices.items())
            ),
            **keys,
        )
    )


def _device(
    device_id: str, place: int, device: DeviceRecord, user: UserKeys, viewer: ServerViewer, *, shows: bool
) -> UserDevice:
    keys = None
    if device.keys is not None:
        tree = visible_device(device.keys, owner=user, viewer=viewer).to_json()
        keys = read_entry(read_device, tree, "devices", place, "keys")
    return UserDevice(device_id=device_id, keys=keys, device_display_name=shown_name(device, shows=shows))


def _viewer(request: Any, kind: type, origin: Any, server_name: Any, shows_display_names: Any) -> ServerViewer:
    """Return who looks, after a look at the arguments that both decisions have."""
    with raised_as(LocalProtocolError):
        instances(kind)(request, "request")
        boolean(shows_display_names, "shows_display_names")
    check_server_name(server_name, "server_name")
    return ServerViewer(server_name=check_server_name(origin, "origin"))
