"""One's own device as a signer, and as what is signed, beside one's cross-signing keys.

Specification: client-server API, "Cross-signing", "Key and signature security".

Facts:

* A device signs its owner's master key, so that whoever has verified the device can trust the identity.
* "Device key IDs and cross-signing key IDs occupy the same namespace": a device whose id can be taken for one of its
  owner's keys is refused. Bytes decide, and what the most lenient decoder makes of the id.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.signers import Signer, add_signature, check_signer

__all__ = ["check_apart", "check_device_signer", "check_own_signer", "sign_own_master_key", "signed_once"]


def sign_own_master_key(master_key: CrossSigningKey, *, device: VerifiedDevice, signer: Signer) -> CrossSigningKey:
    """Sign one's own master key with one's own device: whoever has verified the device can trust the identity.

    Args:
        master_key: one's own, compared with what one knows it to be.
        device: one's own device.
        signer: its private half, under the key id ``ed25519:<device_id>``.

    Returns:
        The master key with this signature and no other, and without ``unsigned``.

    Raises:
        LocalProtocolError: the key is no master key, or that of another user; the signer is not that of the device;
            or the device can be taken for the key.
    """
    if type(master_key) is not CrossSigningKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a CrossSigningKey is needed", path="/master_key")
    check_own_signer(device, signer, "signer")
    if master_key.usage != "master":
        raise LocalProtocolError(
            Reason.WRONG_USAGE, f"a device does not sign a {quoted(master_key.usage)} key", path="/master_key"
        )
    if master_key.user_id != device.user_id:
        raise LocalProtocolError(
            Reason.NOT_OWN_USER, f"{device!r} does not sign the key of {quoted(master_key.user_id)}", path="/master_key"
        )
    if master_key.raw is None:
        raise LocalProtocolError(
            Reason.UNSUPPORTED_ALGORITHM, f"{quoted(master_key.key_name)} is not an Ed25519 key", path="/master_key"
        )
    check_device_signer(signer, frozenset([master_key.raw]), "signer")
    return master_key.with_signed(signed_once(master_key.signed, device.user_id, signer))


def check_own_signer(device: VerifiedDevice, signer: Signer, name: str) -> None:
    """Refuse a signer, given as the argument ``name``, that is not that of ``device``.

    Raises:
        LocalProtocolError: it is not, or one of both is none.
    """
    if type(device) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/device")
    check_signer(signer)
    if str(signer.key_id) != f"{ED25519}:{device.device_id}":
        raise LocalProtocolError(
            Reason.KEY_ID_NOT_DEVICE, f"the signer is {quoted(str(signer.key_id))}, not {device!r}", path=f"/{name}"
        )
    if signer.public_key != device.ed25519_key:
        raise LocalProtocolError(
            Reason.PRIVATE_KEY_MISMATCH, f"the signer has another key than {device!r}", path=f"/{name}"
        )


def check_apart(device: DeviceKeys, raws: AbstractSet[bytes]) -> None:
    """Refuse a device that can be taken for one of the cross-signing keys ``raws``.

    Raises:
        LocalProtocolError: its id or one of its keys is one of them.
    """
    _check_device_id(device.device_id, raws, "device")
    if not raws.isdisjoint(device.raw_keys):
        raise LocalProtocolError(
            Reason.KEY_REUSED, "a key of the device is also a cross-signing key of its owner", path="/device"
        )


def check_device_signer(signer: Signer, raws: AbstractSet[bytes], name: str) -> None:
    """Refuse a signer for a device that can be taken for one of the cross-signing keys ``raws``."""
    check_signer(signer)
    algorithm, _, device_id = str(signer.key_id).partition(":")
    if algorithm != ED25519:
        raise LocalProtocolError(
            Reason.UNSUPPORTED_ALGORITHM, f"a device does not sign as {quoted(str(signer.key_id))}", path=f"/{name}"
        )
    _check_device_id(device_id, raws, name)
    if signer.public_key.raw in raws:
        raise LocalProtocolError(Reason.KEY_REUSED, "the signer is one of the cross-signing keys", path=f"/{name}")


def _check_device_id(device_id: str, raws: AbstractSet[bytes], name: str) -> None:
    if unpadded_base64.decode_loosely(device_id) in raws:
        raise LocalProtocolError(
            Reason.IDENTIFIER_COLLISION,
            f"the device id {quoted(device_id)} is also a cross-signing key of its owner",
            path=f"/{name}",
        )


def signed_once(signed: SignedJson, user_id: str, signer: Signer) -> SignedJson:
    """Return ``signed`` with a signature by ``signer`` and nothing else beside what is signed."""
    return add_signature(signed.without_signatures().with_unsigned(None), entity=user_id, signer=signer)
