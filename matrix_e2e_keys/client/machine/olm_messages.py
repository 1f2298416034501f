"""What a machine knows about messages between devices.

Specification: client-server API, "Sharing" of secrets.
"""

from __future__ import annotations

from typing import Final

from matrix_e2e_keys.client.receive.olm_events import open_olm_event
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.known_user import KnownUser
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.encrypted import OlmEncryptedContent
from matrix_e2e_keys.events.key_bundles import RoomKeyBundleContent
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.events.secrets import SecretSendContent
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import VerifiedDevice

__all__ = ["check_may_have", "other_sender_key", "own_as_served", "used_key"]


def own_as_served(own: VerifiedDevice, oneself: KnownUser | None) -> VerifiedDevice:
    """Return this device as it is sent along: with the signature of one's identity, if the server has it.

    What else the server serves with the device is not taken over.
    """
    served = None if oneself is None else oneself.devices.get(own.device_id)
    if served is None or not served.is_cross_signed or served.keys != own.keys:
        return own
    return served


def check_may_have(event_type: str, recipient: VerifiedDevice, *, own_user_id: str, owner: KnownUser | None) -> None:
    """Refuse to send a secret to anybody but a verified device of one's own, and a history to a device nobody signed.

    Args:
        event_type: what is sent.
        recipient: to whom.
        own_user_id: oneself.
        owner: what is known of the recipient's user.

    Raises:
        LocalProtocolError: it is one of these, and somebody else.
    """
    if event_type not in _MAY_HAVE:
        return
    if event_type == SecretSendContent.event_type and recipient.user_id != own_user_id:
        detail = f"{recipient!r} is not one's own: secrets are for one's own devices"
        raise LocalProtocolError(Reason.NOT_OWN_USER, detail, path="/recipient")
    device = None if owner is None else owner.devices.get(recipient.device_id)
    if (
        owner is None
        or owner.collision is not None
        or device is None
        or device.keys.raw_keys != recipient.keys.raw_keys
        or device_trust(owner, recipient.device_id) not in _MAY_HAVE[event_type]
        or (event_type == RoomKeyBundleContent.event_type and not device.is_cross_signed)
    ):
        detail = f"{recipient!r} is not a device that may have an {event_type}"
        raise LocalProtocolError(Reason.UNVERIFIED_DEVICE, detail, path="/recipient")


# A history "MUST NOT" go "to devices that have not been correctly cross-signed by their owner".
_MAY_HAVE: Final = {
    SecretSendContent.event_type: frozenset({DeviceTrust.VERIFIED}),
    RoomKeyBundleContent.event_type: frozenset({DeviceTrust.VERIFIED, DeviceTrust.CROSS_SIGNED}),
}


def used_key(event: ToDeviceEvent, own: VerifiedDevice) -> Curve25519PublicKey | None:
    """Return which of one's own keys a message used, ``None`` if it was not the first of a session."""
    content = _content(event, own)
    if content is None or own.curve25519_key is None:
        return None
    header = content.my_ciphertext(own.curve25519_key).pre_key_header
    return None if header is None else header.one_time_key


def other_sender_key(event: ToDeviceEvent, own: VerifiedDevice) -> Curve25519PublicKey | None:
    """Return the key of the device that a message names as its sender; ``None`` if it is this one, or no message."""
    content = _content(event, own)
    return None if content is None or content.sender_key == own.curve25519_key else content.sender_key


def _content(event: ToDeviceEvent, own: VerifiedDevice) -> OlmEncryptedContent | None:
    """Return the content of an Olm message for this device, ``None`` if it is none."""
    try:
        return open_olm_event(event, own=own)
    except RemoteProtocolError:
        return None
