"""One-time and fallback keys that are uploaded: which of them are new, and which are refused.

Specification: client-server API, "One-time and fallback keys"; ``keys.yaml``, ``definitions/one_time_keys.yaml``. It
does not say what a server answers if another key is held under the id: clients read the text of deployed servers.

Facts:

* A key id is ``<algorithm>:<name>`` with one colon.
* The same key under the same id again is a retry: the one that is held stays, with its signatures. What a key is
  beyond its id, :func:`~matrix_e2e_keys.homeserver.key_digest` says: one that is held or was claimed is never
  stored again, under whatever id, so that no two people are given the same key.
* Another key under an id that is held is a conflict, and nothing of the upload is stored. Under an id that was claimed
  it is refused too, unless the policy lets it pass.
* A fallback key with the same digest as the one that is held is the same key: it keeps its id and whether it was used,
  and nothing is stored. So a retry never makes a used key look unused, however its members are ordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from attrs import frozen

from matrix_e2e_keys.algorithms import ED25519, SIGNED_CURVE25519
from matrix_e2e_keys.canonical_json import encode_tree
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.one_time_key_maps import OneTimeKeyMap
from matrix_e2e_keys.errors import Refusal, RemoteProtocolError, VerificationError, printable, quoted
from matrix_e2e_keys.homeserver.admission.uploaded_objects import (
    check_servable,
    check_signature_count,
    of_owner,
    read_loosely,
    refusal,
)
from matrix_e2e_keys.homeserver.policies import Policy
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord, StoredKey, algorithm_of, device_entry, key_digest
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.one_time_keys import OneTimeKey, verify_one_time_keys
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, parts_of, signature_text
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = [
    "FALLBACK_KEYS",
    "ONE_TIME_KEYS",
    "check_device_signatures",
    "is_key_id",
    "new_fallback_keys",
    "new_one_time_keys",
    "read_keys",
    "storable",
]

ONE_TIME_KEYS: Final = "one_time_keys"
FALLBACK_KEYS: Final = "fallback_keys"


# --------------------------------------------------------------------------------------------------------------
# What was uploaded
# --------------------------------------------------------------------------------------------------------------


def is_key_id(key_id: str) -> bool:
    """Tell whether a name is ``<algorithm>:<name>`` with one colon, and can be stored as text."""
    algorithm, _, name = key_id.partition(":")
    return bool(algorithm and name) and ":" not in name and "\x00" not in key_id and key_id == printable(key_id)


def storable(entry: OneTimeKey | Rejection) -> StoredKey | None:
    """Return what would be stored of an entry under the most lenient policy, ``None`` if nothing."""
    try:
        return _read_storable(entry)
    except RemoteProtocolError:
        return None


def _read_storable(entry: OneTimeKey | Rejection) -> StoredKey:
    if isinstance(entry, OneTimeKey):
        return entry.key if entry.signed is None else entry.signed
    key = read_loosely(entry)
    if type(key) is SignedJson:
        content = key.content
        if type(content.get("key")) is not str or type(content.get("fallback", False)) is not bool:
            raise entry.to_error()
    return key


def read_keys(keys: OneTimeKeyMap, member: str, *, owner: str, device_id: str, policy: Policy) -> dict[str, StoredKey]:
    """Return uploaded keys as they would be stored.

    Args:
        keys: key id to key.
        member: :data:`ONE_TIME_KEYS` or :data:`FALLBACK_KEYS`.
        owner: who uploads them.
        device_id: with which device.
        policy: how much is checked.

    Raises:
        MatrixError: one of them is refused.
        RemoteProtocolError: one of them is malformed.
    """
    limit = policy.limits.key_id_bytes
    for key_id in keys:
        if not is_key_id(key_id):
            text = f'Invalid {member} key {quoted(key_id)}. Expected "<algorithm>:<device_id>".'
            raise refusal("M_BAD_JSON", text)
        if len(key_id.encode()) > limit:
            raise refusal("M_TOO_LARGE", f"There are more than {limit} bytes in the key id {quoted(key_id)}")
    place = _Place(member=member, owner=owner, device_id=device_id)
    return {key_id: _read_key(key_id, entry, place, policy) for key_id, entry in keys.items()}


@frozen(kw_only=True)
class _Place:
    member: str
    owner: str
    device_id: str


def _read_key(key_id: str, entry: OneTimeKey | Rejection, place: _Place, policy: Policy) -> StoredKey:
    if policy.checks_one_time_keys and isinstance(entry, Rejection):
        raise entry.to_error()
    key, what = _read_storable(entry), f"the key {quoted(key_id)} of {place.member}"
    if type(key) is SignedJson:
        check_signature_count(key, policy.limits, what)
        if policy.checks_one_time_keys and isinstance(entry, OneTimeKey):
            _check_object(entry, key, place, what)
        key = of_owner(key, place.owner)
    check_servable(key, policy.limits, what)
    return key


def _check_object(entry: OneTimeKey, key: SignedJson, place: _Place, what: str) -> None:
    # The member `fallback` "should be included to denote that the key is a fallback key".
    if entry.fallback is not (place.member == FALLBACK_KEYS):
        text = f"A fallback key says fallback: true, and a one-time key does not; see {what}"
        raise refusal("M_INVALID_PARAM", text)
    # "`signed_curve25519` one-time keys, signed by the device's Ed25519 key"
    is_signed = signature_text(parts_of(key), place.owner, f"{ED25519}:{place.device_id}") is not None
    if entry.key_id.algorithm == SIGNED_CURVE25519 and not is_signed:
        raise refusal("M_INVALID_SIGNATURE", f"There is no signature by the device on {what}")


def check_device_signatures(
    keys: Iterable[OneTimeKey | Rejection], device_keys: SignedJson | None, verifier: Verifier
) -> None:
    """Check that the device signed those of its keys that are to be signed.

    Args:
        keys: one-time and fallback keys.
        device_keys: the keys that the device has, or is about to have.
        verifier: who checks.

    Raises:
        MatrixError: there are no device keys to check them with.
        VerificationError: the device did not sign one of them, or not itself; or one is also a key of the device.
    """
    signed = [key for key in keys if isinstance(key, OneTimeKey) and key.key_id.algorithm == SIGNED_CURVE25519]
    if not signed:
        return
    entry = None if device_keys is None else device_entry(device_keys)
    if not isinstance(entry, DeviceKeys):
        raise refusal("M_INVALID_SIGNATURE", "The device has no keys to check its one-time keys with")
    device = entry.verify(verifier=verifier)
    for key, verdict in zip(signed, verify_one_time_keys([(key, device) for key in signed], verifier), strict=True):
        if isinstance(verdict, Refusal):
            raise verdict.to_error(VerificationError, str(key.key_id))


# --------------------------------------------------------------------------------------------------------------
# What is new
# --------------------------------------------------------------------------------------------------------------


def new_one_time_keys(
    keys: Mapping[str, StoredKey],
    *,
    held: Mapping[str, StoredKey],
    claimed: Mapping[str, str],
    digests: frozenset[str],
    fallback_digests: frozenset[str],
    policy: Policy,
) -> dict[str, StoredKey]:
    """Return those of some one-time keys that are to be stored.

    Args:
        keys: what was uploaded.
        held: unclaimed keys by id.
        claimed: digests of claimed keys by id.
        digests: digests of all keys that are held or were claimed.
        fallback_digests: digests of the fallback keys that are held.
        policy: how much is checked.

    Raises:
        MatrixError: there is a conflict.
    """
    known = set(digests)
    new: dict[str, StoredKey] = {}
    for key_id, key in keys.items():
        if key_id in held:
            if held[key_id] != key:
                raise _conflict(key_id, held[key_id], key)
            continue
        digest = key_digest(key)
        # "Servers must ensure that each one-time key is only claimed once"
        if digest in known:
            continue
        if policy.refuses_claimed_ids and key_id in claimed:
            raise refusal("M_UNKNOWN", f"One time key {key_id} has been claimed before")
        if policy.checks_one_time_key_signatures and digest in fallback_digests:
            raise refusal("M_INVALID_PARAM", f"One time key {key_id} is the fallback key")
        known.add(digest)
        new[key_id] = key
    return new


def _conflict(key_id: str, old: StoredKey, new: StoredKey) -> MatrixError:
    """Return the error whose text clients read: they cut at the semicolon, and take single quotes for double ones."""
    shown = _as_json(new).replace("'", "\\u0027").replace('"', "'")
    return refusal("M_UNKNOWN", f"One time key {key_id} already exists. Old key: {_as_json(old)}; new key: {shown}")


def _as_json(key: StoredKey) -> str:
    """Return a key as canonical JSON, but for semicolons, which are escaped."""
    tree = key if type(key) is str else key.to_json()  # type: ignore[union-attr]
    return (encode_tree(tree) or b"null").decode().replace(";", "\\u003b")


def new_fallback_keys(
    keys: Mapping[str, StoredKey],
    *,
    held: Mapping[str, FallbackKeyRecord],
    one_time_digests: frozenset[str],
    policy: Policy,
) -> dict[str, StoredKey]:
    """Return those of some fallback keys that are to be stored, one of an algorithm at most.

    Args:
        keys: what was uploaded.
        held: fallback keys by algorithm.
        one_time_digests: digests of one-time keys that are held, were claimed, or are uploaded too.
        policy: how much is checked.

    Raises:
        MatrixError: there are two of one algorithm, or one of them is a one-time key too.
    """
    by_algorithm: dict[str, str] = {}
    for key_id in keys:
        # "There can only be at most one key per algorithm uploaded"
        if policy.checks_one_time_keys and algorithm_of(key_id) in by_algorithm:
            text = f"There can only be one {quoted(algorithm_of(key_id))} fallback key"
            raise refusal("M_INVALID_PARAM", text)
        by_algorithm[algorithm_of(key_id)] = key_id
    new: dict[str, StoredKey] = {}
    for algorithm, key_id in by_algorithm.items():
        digest = key_digest(keys[key_id])
        if algorithm in held and key_digest(held[algorithm].key) == digest:
            continue
        if policy.checks_one_time_key_signatures and digest in one_time_digests:
            raise refusal("M_INVALID_PARAM", f"Fallback key {key_id} is a one-time key too")
        new[key_id] = keys[key_id]
    return new
