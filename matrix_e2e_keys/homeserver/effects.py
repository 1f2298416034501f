"""What a homeserver's store is to do, and whom to tell, as plain values.

Facts:

* Each effect says what has to hold when it is applied. A store that finds that it does not (somebody else was faster)
  gives up the transaction, reads again and decides again.
* Effects that are applied twice change nothing the second time, or are found not to hold; notices may be told twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.endpoints.members import map_of, settle
from matrix_e2e_keys.homeserver.stored_keys import StoredKey, UserKeys, UserSignature, stored_key
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = [
    "NOTICES",
    "DeleteDevice",
    "DeviceChanged",
    "DropCrossSigningKey",
    "DropSignaturesBy",
    "DropSignaturesOn",
    "Effect",
    "ForgetOneTimeKeys",
    "IdentityChanged",
    "IfUnchanged",
    "MarkFallbackKeyUsed",
    "SignedOthers",
    "StoreCrossSigningKey",
    "StoreDevice",
    "StoreDeviceKeys",
    "StoreFallbackKey",
    "StoreOneTimeKeys",
    "StoreSignature",
    "TakeOneTimeKey",
    "guarded",
]


@frozen(kw_only=True)
class IfUnchanged:
    """Nothing to do: what follows holds only if the user is still as the decision saw him. To a database that is
    ``UPDATE users SET revision = revision + 1 WHERE user_id = ... AND revision = ...``, and whether that was a row.

    Attributes:
        user_id: the user.
        revision: the :attr:`~matrix_e2e_keys.homeserver.UserKeys.revision` of the view.
    """

    user_id: str
    revision: int


@frozen(kw_only=True)
class StoreDevice:
    """Add a device without keys, or rename the one that is there. Holds if no cross-signing key of the user, current or
    earlier, is called like it.

    Attributes:
        user_id: the owner.
        device_id: the device.
        display_name: its name, ``None`` for none.
    """

    user_id: str
    device_id: str
    display_name: str | None = None


@frozen(kw_only=True)
class DeleteDevice:
    """Delete a device and all that is its own: keys, one-time keys, fallback keys, and what is remembered of them.
    Holds always.

    Attributes:
        user_id: the owner.
        device_id: the device.
    """

    user_id: str
    device_id: str


@frozen(kw_only=True)
class StoreDeviceKeys:
    """Replace the keys of a device. Holds if the device still exists, with the keys that the decision saw.

    Attributes:
        user_id: the owner.
        device_id: the device.
        keys: its keys, with the signatures of its owner.
    """

    user_id: str
    device_id: str
    keys: SignedJson


@frozen(kw_only=True)
class StoreOneTimeKeys:
    """Add one-time keys, later than all that are there. Holds if none of the ids is held, none of the keys is
    held or was claimed under any id, and the device still exists.

    Attributes:
        user_id: the owner.
        device_id: the device.
        keys: key id to key. Keys of one upload are equally old.
    """

    user_id: str
    device_id: str
    keys: Mapping[str, StoredKey] = field()

    def __attrs_post_init__(self) -> None:
        settle(self, keys=map_of(stored_key))


@frozen(kw_only=True)
class ForgetOneTimeKeys:
    """Forget the one-time and fallback keys of a device that has begun anew, with another signing key, and the ids of
    those that were claimed. Their digests are kept. Holds always.

    Attributes:
        user_id: the owner.
        device_id: the device.
    """

    user_id: str
    device_id: str


@frozen(kw_only=True)
class StoreFallbackKey:
    """Replace the fallback key of one algorithm by one that has not been used. Holds if the device still exists.
    If that very key is there already, by its digest, nothing is done: it may have been used meanwhile.

    Attributes:
        user_id: the owner.
        device_id: the device.
        key_id: the id of the key; the algorithm is what stands before its first colon.
        key: the key.
    """

    user_id: str
    device_id: str
    key_id: str
    key: StoredKey


@frozen(kw_only=True)
class TakeOneTimeKey:
    """Remove a one-time key in order to give it away, and remember that it was. Holds if that key is still there.

    It is what makes a key single-use. A database says it in one statement, ``DELETE ... RETURNING``, and looks whether
    a row came back. If none did, nothing of the claim may be answered: decide again.

    Attributes:
        user_id: the owner.
        device_id: the device.
        key_id: the id of the key.
        digest: what to remember, with the id, for as long as the device exists; see
            :func:`~matrix_e2e_keys.homeserver.key_digest`.
    """

    user_id: str
    device_id: str
    key_id: str
    digest: str


@frozen(kw_only=True)
class MarkFallbackKeyUsed:
    """Remember that a fallback key was given away. Holds if that key is still the fallback key of its algorithm.

    Attributes:
        user_id: the owner.
        device_id: the device.
        key_id: the id of the key.
        digest: what names the key beyond its id; see :func:`~matrix_e2e_keys.homeserver.key_digest`.
    """

    user_id: str
    device_id: str
    key_id: str
    digest: str


@frozen(kw_only=True)
class StoreCrossSigningKey:
    """Replace a cross-signing key; the public key of the one before joins those the user had. Holds if the identity is
    the one that the decision saw, and no device of the user is called like the new key.

    Attributes:
        user_id: the owner.
        usage: its role.
        key: the key, with the signatures of its owner.
    """

    user_id: str
    usage: Usage
    key: CrossSigningKey


@frozen(kw_only=True)
class DropCrossSigningKey:
    """Forget a cross-signing key that the new master key has not signed. Its public key stays among the earlier ones.
    Holds always.

    Attributes:
        user_id: the owner.
        usage: its role.
    """

    user_id: str
    usage: Usage


@frozen(kw_only=True)
class StoreSignature:
    """Keep a signature on somebody else's master key, in the place of the one that the signer made before. Holds if the
    user-signing key and, as far as it is known here, the master key are still those that the signature names.

    Attributes:
        signature: the signature.
    """

    signature: UserSignature


@frozen(kw_only=True)
class DropSignaturesBy:
    """Forget all that a user signed of others: the key that signed is gone. Holds always.

    Attributes:
        user_id: who signed.
    """

    user_id: str


@frozen(kw_only=True)
class DropSignaturesOn:
    """Forget what others signed of a user: the key that was signed is gone. Holds always.

    Attributes:
        user_id: whose master key.
    """

    user_id: str


@frozen(kw_only=True)
class DeviceChanged:
    """A notice: a device is new, changed, renamed or gone. Whoever shares a room is told, and so are their servers.

    Attributes:
        user_id: the owner.
        device_id: the device.
    """

    user_id: str
    device_id: str


@frozen(kw_only=True)
class IdentityChanged:
    """A notice: the master key or the self-signing key is another, or has other signatures that all may see.

    Attributes:
        user_id: the user.
    """

    user_id: str


@frozen(kw_only=True)
class SignedOthers:
    """A notice for the user's own devices only: the user-signing key is another, or signed somebody.

    Attributes:
        user_id: the user.
        signed: who was signed, or nobody.
    """

    user_id: str
    signed: tuple[str, ...] = ()


Effect: TypeAlias = (
    IfUnchanged
    | StoreDevice
    | DeleteDevice
    | StoreDeviceKeys
    | ForgetOneTimeKeys
    | StoreOneTimeKeys
    | StoreFallbackKey
    | TakeOneTimeKey
    | MarkFallbackKeyUsed
    | StoreCrossSigningKey
    | DropCrossSigningKey
    | StoreSignature
    | DropSignaturesBy
    | DropSignaturesOn
    | DeviceChanged
    | IdentityChanged
    | SignedOthers
)
"""What a store is to do, or whom to tell."""

NOTICES: Final = (DeviceChanged, IdentityChanged, SignedOthers)


def guarded(effects: Iterable[Effect], *views: UserKeys) -> tuple[Effect, ...]:
    """Internal: return effects that hold only if the users whose views have a revision are unchanged."""
    listed = tuple(effects)
    conditions = (
        IfUnchanged(user_id=view.user_id, revision=view.revision) for view in views if view.revision is not None
    )
    return (*conditions, *listed) if listed else ()
