"""Device keys that say when they may be used, as in the draft of 2015.

Specification: the draft "End to End Encryption" of July 2015.

Facts:

* ``valid_after_ts`` and ``valid_until_ts`` are milliseconds since the epoch, and signed by the device. Both moments
  belong to the time in which the keys may be used.
* Today's specification does not know them, and nobody who follows it looks at them.
* What stands in their place and is no integer states nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from matrix_e2e_keys.algorithms import OLM_V1
from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.endpoints.members import count
from matrix_e2e_keys.errors import LocalProtocolError, Reason, raised_as
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.signing.signers import Signer

__all__ = ["Validity", "legacy_device_keys", "validity"]


class Validity(enum.StrEnum):
    """Whether device keys may be used, as they say themselves."""

    NOT_YET = "not-yet"
    VALID = "valid"
    EXPIRED = "expired"
    """Not any more; or never, if they expire before they become valid."""
    UNSTATED = "unstated"
    """They state neither beginning nor end."""


def validity(device: DeviceKeys, *, now: int) -> Validity:
    """Return whether device keys may be used, as they say themselves.

    Args:
        device: the device keys.
        now: the time, in milliseconds since the epoch.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    if type(device) is not DeviceKeys:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the device must be DeviceKeys", path="/device")
    check_now(now)
    after, until = device.valid_after_ts, device.valid_until_ts
    if until is not None and (now > until or (after is not None and after > until)):
        return Validity.EXPIRED
    if after is not None and now < after:
        return Validity.NOT_YET
    return Validity.UNSTATED if after is None and until is None else Validity.VALID


def legacy_device_keys(
    *,
    user_id: str,
    device_id: str,
    curve25519_key: Curve25519PublicKey,
    signer: Signer,
    valid_after_ts: int,
    valid_until_ts: int,
    algorithms: Sequence[str] = (OLM_V1,),
) -> DeviceKeys:
    """Build and sign the keys of one's own device, as the draft has them.

    Args:
        user_id: the owner.
        device_id: the device.
        curve25519_key: its Olm identity key.
        signer: its ed25519 key, under the key id ``ed25519:<device_id>``.
        valid_after_ts: from when on the keys may be used, in milliseconds since the epoch.
        valid_until_ts: until when, in milliseconds since the epoch.
        algorithms: the messaging algorithms it supports.

    Raises:
        LocalProtocolError: the parts do not make an acceptable object, or the end is before the beginning.
    """
    with raised_as(LocalProtocolError):
        count(valid_after_ts, "valid_after_ts")
        count(valid_until_ts, "valid_until_ts")
    if valid_after_ts > valid_until_ts:
        raise LocalProtocolError(
            Reason.INVALID_VALUE, "the keys would expire before they become valid", path="/valid_until_ts"
        )
    return DeviceKeys.build(
        user_id=user_id,
        device_id=device_id,
        curve25519_key=curve25519_key,
        signer=signer,
        algorithms=algorithms,
        extra={"valid_after_ts": valid_after_ts, "valid_until_ts": valid_until_ts},
    )
