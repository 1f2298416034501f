"""Who may see which signature.

Specification: client-server API, "Cross-signing", "Key and signature security".

Facts:

* Of the signatures on a key, everybody may see those by its owner, but for those by the owner's user-signing key,
  which only the owner may see. One may also see what one signed oneself. That is all, whatever is stored.
* So nobody learns from keys who has verified whom: not from one's own master key either, and no server does.
* A user-signing key is shown to its owner only.
* What comes out is a new object. ``unsigned`` is left out: it is not the owner's word, and who serves the key adds his
  own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from attrs import frozen

from matrix_e2e_keys.endpoints.members import instances, list_of, server_name, settle
from matrix_e2e_keys.endpoints.members import user_id as checked_user_id
from matrix_e2e_keys.errors import LocalProtocolError, raised_as
from matrix_e2e_keys.homeserver.stored_keys import StoredKey, UserKeys, UserSignature, stored_key
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.signing.signed_json import SignedJson, new_signed_json, parts_of

__all__ = ["ServerViewer", "UserViewer", "Viewer", "visible_device", "visible_key", "visible_one_time_key"]


@frozen(kw_only=True)
class UserViewer:
    """A user of this server looks.

    Attributes:
        user_id: who.
    """

    user_id: str

    def __attrs_post_init__(self) -> None:
        settle(self, user_id=checked_user_id)


@frozen(kw_only=True)
class ServerViewer:
    """Another server looks, on behalf of whomever.

    Attributes:
        server_name: which one.
    """

    server_name: str

    def __attrs_post_init__(self) -> None:
        settle(self, server_name=server_name)


Viewer: TypeAlias = UserViewer | ServerViewer
"""Who looks."""


def visible_device(keys: SignedJson, *, owner: UserKeys, viewer: Viewer) -> SignedJson:
    """Return device keys as ``viewer`` may see them.

    Args:
        keys: device keys of ``owner``, with whatever signatures.
        owner: whose device it is.
        viewer: who looks.

    Returns:
        The same keys, with the signatures that may be seen, without ``unsigned``. Everybody may see the keys.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    _check(owner, viewer)
    with raised_as(LocalProtocolError):
        instances(SignedJson)(keys, "keys")
    return _signed_by_owner(keys, owner, viewer)


def visible_key(
    key: CrossSigningKey, *, owner: UserKeys, viewer: Viewer, signatures: Iterable[UserSignature] = ()
) -> CrossSigningKey | None:
    """Return a cross-signing key as ``viewer`` may see it.

    Args:
        key: a cross-signing key of ``owner``, with whatever signatures.
        owner: whose key it is.
        viewer: who looks.
        signatures: what ``viewer`` signed. Those by anybody else, or on anything else, are not looked at.

    Returns:
        The same key, with the signatures that may be seen, without ``unsigned``; ``None`` if the key is not to be seen
        at all.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    _check(owner, viewer)
    with raised_as(LocalProtocolError):
        instances(CrossSigningKey)(key, "key")
        of_viewer: tuple[UserSignature, ...] = list_of(instances(UserSignature))(signatures, "signatures")
    # A role that nobody knows may be one that tells of others, as the user-signing key does.
    if key.usage not in ("master", "self_signing") and not _is_owner(owner, viewer):
        return None
    signed = _signed_by_owner(key.signed, owner, viewer)
    if key.usage == "master" and type(viewer) is UserViewer:
        # "signatures made by the user's own master signing, self-signing or user-signing keys"
        for signature in of_viewer:
            about = (signature.signer_id, signature.user_id, signature.master_key_id)
            if about == (viewer.user_id, owner.user_id, key.key_name):
                signed = _with_signature(signed, signature)
    return key.with_signed(signed)


def visible_one_time_key(key: StoredKey, *, user_id: str) -> StoredKey:
    """Return a one-time or fallback key as whoever claims it may see it: with the signatures of its owner only.

    Args:
        key: the key, a signed object or a bare string.
        user_id: whose key it is.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    with raised_as(LocalProtocolError):
        taken: Any = stored_key(key, "key")
        checked_user_id(user_id, "user_id")
    return taken if type(taken) is str else _signed_by(taken, user_id, frozenset())


def _check(owner: object, viewer: object) -> None:
    with raised_as(LocalProtocolError):
        instances(UserKeys)(owner, "owner")
        instances(UserViewer, ServerViewer)(viewer, "viewer")


def _is_owner(owner: UserKeys, viewer: Viewer) -> bool:
    return type(viewer) is UserViewer and viewer.user_id == owner.user_id


def _signed_by_owner(signed: SignedJson, owner: UserKeys, viewer: Viewer) -> SignedJson:
    # "Users will not be able to see signatures made by other users' user-signing keys."
    hidden = frozenset[str]() if _is_owner(owner, viewer) else _user_signing_names(owner)
    return _signed_by(signed, owner.user_id, hidden)


def _user_signing_names(owner: UserKeys) -> frozenset[str]:
    """Return the public keys that are, or may once have been, user-signing keys of ``owner``."""
    shown = (owner.master_key, owner.self_signing_key)
    names = owner.earlier_keys - {key.key_id.name for key in shown if key is not None}
    return names if owner.user_signing_key is None else names | {owner.user_signing_key.key_id.name}


def _signed_by(signed: SignedJson, user_id: str, hidden: frozenset[str]) -> SignedJson:
    """Return ``signed`` with the signatures of one user only, but for those by keys whose names are ``hidden``."""
    parts = parts_of(signed.with_unsigned(None))
    if parts.signatures is None:
        return new_signed_json(parts)
    kept: dict[str, dict[str, str]] = {}
    if user_id in parts.signatures:
        by_owner = parts.signatures[user_id]
        kept[user_id] = {name: text for name, text in by_owner.items() if name.partition(":")[2] not in hidden}
    return new_signed_json(parts._replace(signatures=kept))


def _with_signature(signed: SignedJson, signature: UserSignature) -> SignedJson:
    parts = parts_of(signed)
    signatures = dict(parts.signatures or {})
    by_signer = signatures.get(signature.signer_id, {})
    signatures[signature.signer_id] = {**by_signer, signature.signer_key_id: signature.signature}
    return new_signed_json(parts._replace(signatures=signatures))
