"""What a machine knows about messages between devices."""

from __future__ import annotations

from matrix_e2e_keys.client.receive.olm_events import open_olm_event
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.errors import RemoteProtocolError
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["own_as_served", "used_key"]


def own_as_served(own: VerifiedDevice, oneself: KnownUser | None) -> VerifiedDevice:
    """Return this device as it is sent along: with the signature of one's identity, if the server has it."""
    served = None if oneself is None else oneself.devices.get(own.device_id)
    if served is None or not served.is_cross_signed or served.keys.raw_keys != own.keys.raw_keys:
        return own
    return served


def used_key(event: ToDeviceEvent, own: VerifiedDevice) -> Curve25519PublicKey | None:
    """Return which of one's own keys a message used, ``None`` if it was not the first of a session."""
    try:
        content = open_olm_event(event, own=own)
    except RemoteProtocolError:
        return None
    header = None if own.curve25519_key is None else content.my_ciphertext(own.curve25519_key).pre_key_header
    return None if header is None else header.one_time_key
