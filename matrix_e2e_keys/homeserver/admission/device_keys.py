"""Device keys that are uploaded: whether to take them, and what becomes of the signatures.

Specification: client-server API, "Device keys", "Uploading keys", "Key and signature security";
``definitions/device_keys.yaml``.

Facts:

* Whose keys they are is checked by every policy, and so is that they can be served. Whether the device signed them, and
  what its keys are called, is a matter of policy.
* A device signs for itself under key ids that end in its own id. Any other signature of the owner is kept only if it is
  a good one by the current self-signing key; it is left out without a word otherwise, since clients send what they
  were served once.
* The same bytes again: the signatures are merged. So a client that knows nothing of cross-signing undoes nothing. Other
  bytes: all earlier signatures go. With either, a signature on the master key goes that is not by the device's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.homeserver.admission.signature_roles import device_signing_key
from matrix_e2e_keys.homeserver.admission.uploaded_objects import (
    check_servable,
    check_signature_count,
    master_key_without,
    of_owner,
    read_loosely,
    refusal,
)
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    Effect,
    IdentityChanged,
    StoreCrossSigningKey,
    StoreDeviceKeys,
)
from matrix_e2e_keys.homeserver.policies import Limits, Policy
from matrix_e2e_keys.homeserver.stored_keys import USAGES, UserKeys
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, ask, new_signed_json, parts_of, signature_text
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = ["AdmittedDeviceKeys", "admit_device_keys", "check_device_count"]

_WHAT: Final = "device_keys"


@frozen(kw_only=True)
class AdmittedDeviceKeys:
    """Device keys that are taken.

    Attributes:
        keys: what the device has afterwards, ``None`` if it has no keys.
        effects: what to store.
        notices: whom to tell.
    """

    keys: SignedJson | None
    effects: tuple[Effect, ...] = ()
    notices: tuple[Effect, ...] = ()


def admit_device_keys(
    entry: DeviceKeys | Rejection, *, device_id: str, user: UserKeys, policy: Policy, verifier: Verifier
) -> AdmittedDeviceKeys:
    """Say what becomes of uploaded device keys.

    Args:
        entry: the keys as they were uploaded.
        device_id: the device that uploads them. The user has it.
        user: its owner.
        policy: how much is checked.
        verifier: who checks signatures.

    Raises:
        MatrixError: they are refused.
        RemoteProtocolError: they are malformed.
        VerificationError: the device did not sign them.
    """
    signed = _read(entry, policy)
    check_signature_count(signed, policy.limits, _WHAT)
    content = signed.content
    _check_owner(content, user, device_id)
    # "Servers therefore must ensure that device IDs will not collide with cross-signing public keys."
    if user.has_key_called(device_id):
        raise refusal("M_FORBIDDEN", "Key ID in use", status=403)
    if policy.checks_device_keys and isinstance(entry, DeviceKeys):
        _check_keys(entry, user, verifier)
    stored = user.devices[device_id].keys
    if stored is None:
        check_device_count(user, policy.limits)
    keys = _with_signatures(signed, stored, device_id, user, verifier)
    # Merging may add one to what was uploaded.
    check_signature_count(keys, policy.limits, _WHAT)
    check_servable(keys, policy.limits, _WHAT)
    if stored is not None and keys == stored and keys.signatures == stored.signatures:
        return AdmittedDeviceKeys(keys=stored)
    effects: list[Effect] = [StoreDeviceKeys(user_id=user.user_id, device_id=device_id, keys=keys)]
    notices: list[Effect] = [DeviceChanged(user_id=user.user_id, device_id=device_id)]
    master_key = _master_key_beside(keys, device_id, user, verifier)
    if master_key is not None:
        effects.append(StoreCrossSigningKey(user_id=user.user_id, usage="master", key=master_key))
        notices.append(IdentityChanged(user_id=user.user_id))
    return AdmittedDeviceKeys(keys=keys, effects=tuple(effects), notices=tuple(notices))


def check_device_count(user: UserKeys, limits: Limits) -> None:
    """Refuse keys for one more device, if the user has keys for as many as may be.

    Raises:
        MatrixError: there are too many.
    """
    count = sum(device.keys is not None for device in user.devices.values())
    if count >= limits.devices_per_user:
        text = f"There are {count} devices with keys, and the limit is {limits.devices_per_user}"
        raise refusal("M_TOO_LARGE", text)


def _read(entry: DeviceKeys | Rejection, policy: Policy) -> SignedJson:
    if isinstance(entry, DeviceKeys):
        return entry.signed
    if policy.checks_device_keys:
        raise entry.to_error()
    signed = read_loosely(entry)
    if type(signed) is not SignedJson or not _has_deployed_shape(signed.content):
        raise entry.to_error()
    return signed


def _has_deployed_shape(content: dict[str, Any]) -> bool:
    """Tell whether the members are there that the specification requires, and of the right kind."""
    algorithms, keys = content.get("algorithms"), content.get("keys")
    return (
        type(content.get("user_id")) is str
        and type(content.get("device_id")) is str
        and type(algorithms) is list
        and all(type(name) is str for name in algorithms)
        and type(keys) is dict
        and all(type(text) is str for text in keys.values())
    )


def _check_owner(content: Mapping[str, Any], user: UserKeys, device_id: str) -> None:
    # "Must match the user ID used when logging in."
    if content["user_id"] != user.user_id:
        text = "Provided `user_id` in `device_keys` does not match that of the authenticated user"
        raise refusal("M_BAD_JSON", text)
    # "Must match the device ID used when logging in."
    if content["device_id"] != device_id:
        text = "Provided `device_id` in `device_keys` does not match that of the authenticated user device"
        raise refusal("M_BAD_JSON", text)


def _check_keys(entry: DeviceKeys, user: UserKeys, verifier: Verifier) -> None:
    if entry.raw_ed25519 is None:
        raise refusal("M_INVALID_PARAM", "There is no Ed25519 key in device_keys")
    # "must be signed by the device's Ed25519 key"
    entry.verify(verifier=verifier)
    identity_keys = (user.key_of(usage) for usage in USAGES)
    if entry.raw_ed25519 in [key.raw for key in identity_keys if key is not None]:
        raise refusal("M_INVALID_PARAM", "The Ed25519 key in device_keys is a cross-signing key")


def _with_signatures(
    signed: SignedJson, stored: SignedJson | None, device_id: str, user: UserKeys, verifier: Verifier
) -> SignedJson:
    """Return what to store: the object with those signatures by its owner that are worth anything."""
    uploaded = signed.signatures.get(user.user_id, {})
    held = stored.signatures.get(user.user_id, {}) if stored == signed and stored is not None else {}
    kept = {key_id: text for key_id, text in {**held, **uploaded}.items() if key_id.partition(":")[2] == device_id}
    signer = user.self_signing_key
    if signer is not None and signer.raw is not None:
        texts = [by[signer.key_name] for by in (uploaded, held) if signer.key_name in by]
        answers = ask([(signed.canonical, text, signer.raw) for text in texts], verifier)
        good = [text for text, is_good in zip(texts, answers, strict=True) if is_good]
        if good:
            kept[signer.key_name] = good[0]
    parts = parts_of(of_owner(signed, user.user_id))
    return new_signed_json(parts._replace(signatures={user.user_id: kept} if kept else {}))


def _master_key_beside(keys: SignedJson, device_id: str, user: UserKeys, verifier: Verifier) -> CrossSigningKey | None:
    """Return the master key without what the device signed with another key, ``None`` if there is no such thing."""
    without = master_key_without(user, frozenset({device_id}))
    if without is None or user.master_key is None:
        return None
    raw = device_signing_key(device_id, keys)
    if raw is None:
        return without
    name = f"{ED25519}:{device_id}"
    parts = parts_of(user.master_key.signed)
    is_good = ask([(parts.canonical, signature_text(parts, user.user_id, name), raw)], verifier) == [True]
    return None if is_good else without
