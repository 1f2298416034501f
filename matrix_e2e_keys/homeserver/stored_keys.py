"""What a homeserver has stored about keys, as the decisions want to see it.

Facts:

* Device keys and one-time keys are stored as they were received: what is signed, the signatures and nothing else
  (:class:`~matrix_e2e_keys.SignedJson`), or a bare string. A homeserver may keep keys that it does not understand.
* Signatures by the owner stand on the object itself. They go with it: other bytes, other signatures.
* Signatures by a user on the master keys of others are stored apart, since only who made them may see them.
* Everything here is a view that the caller makes from his database. Nothing is looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeAlias, get_args

from attrs import field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.entries import read_device, read_entry
from matrix_e2e_keys.endpoints.members import (
    boolean,
    device_id,
    instances,
    integer,
    list_of,
    map_of,
    opaque_string,
    optional,
    settle,
    strings,
    user_id,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey, read_one_time_key
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = [
    "USAGES",
    "DeviceRecord",
    "FallbackKeyRecord",
    "StoredKey",
    "UserKeys",
    "UserSignature",
    "algorithm_of",
    "device_entry",
    "is_called_like",
    "key_digest",
    "one_time_key_entry",
    "stored_key",
]

StoredKey: TypeAlias = SignedJson | str
"""A one-time or fallback key: the signed object, or a bare string."""

_KEY_BYTES: Final = 32

USAGES: tuple[Usage, ...] = get_args(Usage)
"""The three roles of cross-signing keys, the master key first."""


def stored_key(value: object, *at: str | int) -> Any:
    """Take a one-time or fallback key.

    Raises:
        Refusal: it is neither a signed object nor a string.
    """
    return instances(SignedJson, str)(value, *at)


def algorithm_of(key_id: str) -> str:
    """Internal: return the algorithm in the id of a one-time or fallback key."""
    return key_id.partition(":")[0]


def key_digest(key: StoredKey) -> str:
    """Return what names a one-time key beyond its id: unpadded base64 of SHA-256 over the 32 bytes of the key, or over
    its text if that is not the base64 of 32 bytes.

    Two objects with the same key in them are one key, whatever else is signed. It is what to remember of a key that was
    given away.

    Args:
        key: the signed object, or the bare string; of a :class:`~matrix_e2e_keys.OneTimeKey`, what is stored of it.

    Raises:
        LocalProtocolError: it is neither.
    """
    if type(key) is not SignedJson and type(key) is not str:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SignedJson or a string is needed", path="/key")
    text = key if type(key) is str else _key_text(key)  # type: ignore[arg-type]
    (raw,) = unpadded_base64.decode_fixed([text], _KEY_BYTES)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass") if raw is None else raw).digest()
    return unpadded_base64.encode(digest)


def is_called_like(device_id: str, key_name: str) -> bool:
    """Internal: tell whether a device can be taken for a public key, however its id is written."""
    if device_id == key_name:
        return True
    raw = unpadded_base64.decode_loosely(key_name)
    return raw is not None and raw == unpadded_base64.decode_loosely(device_id)


def _key_text(key: SignedJson) -> str:
    text = key.content.get("key")
    return text if type(text) is str else key.canonical.decode()


@frozen(kw_only=True)
class DeviceRecord:
    """A device of a user.

    Attributes:
        device_id: its id.
        keys: its keys as they were uploaded, with the signatures of its owner; ``None`` if it has none.
        display_name: its name, ``None`` if it has none.
    """

    device_id: str
    keys: SignedJson | None = None
    display_name: str | None = None

    def __attrs_post_init__(self) -> None:
        settle(self, device_id=device_id, keys=optional(instances(SignedJson)), display_name=optional(opaque_string))


@frozen(kw_only=True)
class FallbackKeyRecord:
    """The fallback key that a device has of one algorithm.

    Attributes:
        key_id: its id, ``<algorithm>:<name>``.
        key: the key.
        is_used: whether it was given to anybody.
    """

    key_id: str
    key: StoredKey
    is_used: bool = False

    def __attrs_post_init__(self) -> None:
        settle(self, key_id=opaque_string, key=stored_key, is_used=boolean)


@frozen(kw_only=True)
class UserSignature:
    """A signature by a user's user-signing key on the master key of somebody else.

    Attributes:
        signer_id: who signed.
        signer_key_id: with which key, ``ed25519:<public key>``.
        user_id: whose master key.
        master_key_id: which one, ``ed25519:<public key>``.
        signature: the signature, in unpadded base64.
    """

    signer_id: str
    signer_key_id: str
    user_id: str
    master_key_id: str
    signature: str

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            signer_id=user_id,
            signer_key_id=opaque_string,
            user_id=user_id,
            master_key_id=opaque_string,
            signature=opaque_string,
        )


def _devices(value: object, *at: str | int) -> Mapping[str, DeviceRecord]:
    devices: Mapping[str, DeviceRecord] = map_of(instances(DeviceRecord))(value, *at)
    for name, device in devices.items():
        if device.device_id != name:
            raise Refusal(Reason.DEVICE_ID_MISMATCH, f"this is the device {quoted(device.device_id)}", *at, name)
    return devices


@frozen(kw_only=True)
class UserKeys:
    """The devices and the identity of one user.

    Attributes:
        user_id: the user.
        devices: device id to device, those without keys included.
        master_key: the master key, with the signatures by itself and by the user's devices; ``None`` if there is none.
        self_signing_key: the self-signing key, ``None`` if there is none.
        user_signing_key: the user-signing key, ``None`` if there is none.
        earlier_keys: public keys, in unpadded base64 (``key.key_id.name``), of cross-signing keys the user had before.
            No device may be called like one of them.
        signatures: what the user signed of others. An upload of signatures is decided on them; an answer to a query is
            told them apart.
        revision: a number of the caller's that changes with anything of the above but ``signatures``. If it is given, a
            decision made from this view begins with :class:`~matrix_e2e_keys.homeserver.IfUnchanged`. ``None`` is for
            callers who read the view in the very transaction that writes, with the user locked. Left out of equality.
    """

    user_id: str
    devices: Mapping[str, DeviceRecord] = field(factory=dict)
    master_key: CrossSigningKey | None = None
    self_signing_key: CrossSigningKey | None = None
    user_signing_key: CrossSigningKey | None = None
    earlier_keys: frozenset[str] = frozenset()
    signatures: tuple[UserSignature, ...] = ()
    revision: int | None = field(default=None, eq=False)

    def __attrs_post_init__(self) -> None:
        key = optional(instances(CrossSigningKey))
        settle(
            self,
            user_id=user_id,
            devices=_devices,
            master_key=key,
            self_signing_key=key,
            user_signing_key=key,
            earlier_keys=_names,
            signatures=list_of(instances(UserSignature)),
            revision=optional(integer),
        )
        for usage in USAGES:
            held = self.key_of(usage)
            if held is not None and (held.user_id, held.usage) != (self.user_id, usage):
                detail = f"this is the {held.usage} key of {quoted(held.user_id)}"
                raise LocalProtocolError(Reason.WRONG_USAGE, detail, path=f"/{usage}_key")

    def key_of(self, usage: str) -> CrossSigningKey | None:
        """Return the key of one of :data:`USAGES`, ``None`` if there is none."""
        key: CrossSigningKey | None = getattr(self, f"{usage}_key") if usage in USAGES else None
        return key

    def has_key_called(self, device_id: str) -> bool:
        """Tell whether a device of this id could be taken for a cross-signing key, current or earlier.

        Base64 is read as leniently as anybody might: with padding, in either alphabet.
        """
        return any(is_called_like(device_id, name) for name in self.identity_key_names)

    @property
    def identity_key_names(self) -> frozenset[str]:
        """Public keys, current and earlier ones, in unpadded base64. No device may be called like one of them."""
        current = (self.key_of(usage) for usage in USAGES)
        return self.earlier_keys | {key.key_id.name for key in current if key is not None}


def _names(value: object, *at: str | int) -> frozenset[str]:
    return frozenset(strings(tuple(value) if isinstance(value, frozenset | set) else value, *at))


def device_entry(keys: SignedJson, *at: str | int) -> DeviceKeys | Rejection:
    """Return stored device keys as answers hold them: a rejection, which is written as it is, if malformed."""
    entry: DeviceKeys | Rejection = read_entry(read_device, keys.to_json(), *at)
    return entry


def one_time_key_entry(key_id: str, key: StoredKey, *at: str | int) -> OneTimeKey | Rejection:
    """Return a stored one-time key as answers hold it: a rejection, which is written as it is, if malformed."""
    tree = key if type(key) is str else key.to_json()  # type: ignore[union-attr]
    try:
        return read_one_time_key(key_id, tree)
    except Refusal as refusal:
        return rejected(refusal, tree, (*at, key_id))
