"""What an uploaded object may be whatever it is, and what of it is stored.

Specification: client-server API, "Key management API"; appendices, "Canonical JSON", "Signing JSON".

Facts:

* Stored is what is signed, and the signatures of its owner. Signatures by others and ``unsigned`` are not: others would
  take them for something that the server vouches for.
* What is stored can be served: it has a canonical encoding, and it is not nested so deeply that an answer or a
  transaction that holds it would be refused by those who read 128 levels.
"""

from __future__ import annotations

from typing import Final

from matrix_e2e_keys.canonical_json import encode_tree
from matrix_e2e_keys.endpoints.entries import write_entry
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.homeserver.policies import Limits
from matrix_e2e_keys.homeserver.stored_keys import StoredKey, UserKeys
from matrix_e2e_keys.json_depth import depth
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import ABSENT, SignedJson, new_signed_json, parts_of

__all__ = ["check_servable", "check_signature_count", "master_key_without", "of_owner", "read_loosely", "refusal"]

_MAX_DEPTH: Final = 100


def refusal(errcode: str, error: str, *, status: int = 400) -> MatrixError:
    """Return the error to answer with."""
    return MatrixError(status=status, errcode=errcode, error=error)


def read_loosely(rejection: Rejection) -> SignedJson | str:
    """Return an entry that is not well formed, if it is a signed object or a string all the same.

    Raises:
        RemoteProtocolError: it is neither, or has no canonical encoding.
    """
    tree = write_entry(rejection)  # None where canonical JSON cannot carry it
    if type(tree) is str:
        return tree
    if type(tree) is not dict:
        raise rejection.to_error()
    return SignedJson.from_json(tree)


def of_owner(signed: SignedJson, owner: str) -> SignedJson:
    """Return the object with the signatures of its owner, and nothing else that is not signed."""
    parts = parts_of(signed)
    signatures = {} if parts.signatures is None else parts.signatures
    kept = {owner: signatures[owner]} if owner in signatures else {}
    return new_signed_json(parts._replace(signatures=kept, unsigned=ABSENT))


def check_signature_count(signed: SignedJson, limits: Limits, what: str) -> None:
    """Refuse an object with too many signatures, or without a place for them.

    Raises:
        MatrixError: it has.
    """
    signatures = parts_of(signed).signatures
    if signatures is None:
        raise refusal("M_BAD_JSON", f"There are no signatures in {what}")
    count = sum(map(len, signatures.values()))
    if count > limits.signatures_per_object:
        text = f"There are {count} signatures in {what}, over the limit of {limits.signatures_per_object}"
        raise refusal("M_TOO_LARGE", text)


def check_servable(key: StoredKey, limits: Limits, what: str) -> None:
    """Refuse what could be stored and not be served.

    Raises:
        MatrixError: it has no canonical encoding, is too long, or is nested too deeply.
    """
    encoded = encode_tree(key if type(key) is str else key.to_json())  # type: ignore[union-attr]
    if encoded is None:
        raise refusal("M_BAD_JSON", f"There is no canonical JSON for {what}")
    if len(encoded) > limits.object_bytes:
        text = f"There are {len(encoded)} bytes in {what}, over the limit of {limits.object_bytes}"
        raise refusal("M_TOO_LARGE", text)
    if depth(encoded) > _MAX_DEPTH:
        raise refusal("M_BAD_JSON", f"There are more than {_MAX_DEPTH} levels in {what}")


def master_key_without(user: UserKeys, device_ids: frozenset[str]) -> CrossSigningKey | None:
    """Return the user's master key without the signatures by some devices; ``None`` if it bears none of them.

    What is called like a cross-signing key is no device.
    """
    master_key, device_ids = user.master_key, device_ids - user.identity_key_names
    if master_key is None:
        return None
    parts = parts_of(master_key.signed)
    signatures = dict(parts.signatures or {})
    own = signatures.get(user.user_id, {})
    kept = {key_id: text for key_id, text in own.items() if key_id.partition(":")[2] not in device_ids}
    if len(kept) == len(own):
        return None
    del signatures[user.user_id]
    if kept:
        signatures[user.user_id] = kept
    return master_key.with_signed(new_signed_json(parts._replace(signatures=signatures or None)))
