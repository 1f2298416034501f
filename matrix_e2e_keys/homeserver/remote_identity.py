"""The cross-signing keys that another server tells of one of its users, judged before they count.

Specification: server-server API, "Device Management"; client-server API, "Cross-signing".

Facts:

* One function judges them, wherever they stand: in an answer to a query, among the devices of a user, in an
  ``m.signing_key_update``. What it lets through is the user's, plays its role, and the self-signing key is signed by
  the master key.
* What is told beside nothing is judged against what was known: a self-signing key that comes alone must be signed by
  the known master key, and the known self-signing key counts only while the master key has signed it.
* Signatures are kept if the owner made them. Those by others are nobody's business here. Whether the owner's are good
  is for clients to find out, but for the one by the master key on the self-signing key.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from matrix_e2e_keys.endpoints.members import boolean, instances, list_of, optional, settle
from matrix_e2e_keys.endpoints.members import user_id as checked_user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import SignedJson, ask, new_signed_json, parts_of, signature_text, why_not
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["RemoteIdentity", "signed_by_owner", "verified_identity"]

_USAGES: Final[tuple[Usage, ...]] = ("master", "self_signing")


@frozen(kw_only=True)
class RemoteIdentity:
    """The cross-signing keys that count from now on.

    Attributes:
        master_key: the one that was told, or the known one if none was told or it is refused; ``None`` if there is
            none.
        self_signing_key: likewise, if ``master_key`` has signed it.
        refused: the keys that do not count, at ``/master_key`` or ``/self_signing_key``.
        is_replaced: whether another master key was known. Nobody should overlook that.
    """

    master_key: CrossSigningKey | None
    self_signing_key: CrossSigningKey | None
    refused: tuple[Rejection, ...]
    is_replaced: bool

    def __attrs_post_init__(self) -> None:
        key = optional(instances(CrossSigningKey))
        settle(
            self,
            master_key=key,
            self_signing_key=key,
            refused=list_of(instances(Rejection)),
            is_replaced=boolean,
        )


def signed_by_owner(signed: SignedJson, user_id: str) -> SignedJson:
    """Return a signed object with the signatures of one user only, and without ``unsigned``."""
    parts = parts_of(signed.with_unsigned(None))
    of_owner = (parts.signatures or {}).get(user_id)
    return new_signed_json(parts._replace(signatures=None if of_owner is None else {user_id: of_owner}))


def verified_identity(
    user_id: str,
    *,
    master_key: CrossSigningKey | Rejection | None,
    self_signing_key: CrossSigningKey | Rejection | None,
    known: UserKeys | None = None,
    verifier: Verifier = LIBSODIUM,
) -> RemoteIdentity:
    """Judge the cross-signing keys of a user of another server.

    Args:
        user_id: the user whose keys they should be.
        master_key: what was told, a rejection if it was malformed; ``None`` if nothing was.
        self_signing_key: likewise.
        known: what was known of that user before.
        verifier: who checks the signature.

    Returns:
        The keys that count now. Nothing that was told raises an error; what is refused is named.

    Raises:
        LocalProtocolError: an argument has the wrong type, or ``known`` is somebody else.
    """
    check_verifier(verifier)
    with raised_as(LocalProtocolError):
        checked_user_id(user_id, "user_id")
        told = {
            usage: optional(instances(CrossSigningKey, Rejection))(key, f"{usage}_key")
            for usage, key in zip(_USAGES, (master_key, self_signing_key), strict=True)
        }
        optional(instances(UserKeys))(known, "known")
    if known is not None and known.user_id != user_id:
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, "somebody else is known", path="/known")
    refused: list[Rejection] = []
    masters = [_own_key(user_id, "master", told["master"], refused), None if known is None else known.master_key]
    master = next((key for key in masters if key is not None), None)
    self_signing = _vouched(_own_key(user_id, "self_signing", told["self_signing"], refused), master, refused, verifier)
    if self_signing is None and known is not None:
        self_signing = _vouched(known.self_signing_key, master, [], verifier)
    before = masters[1]
    return RemoteIdentity(
        master_key=master,
        self_signing_key=self_signing,
        refused=tuple(refused),
        is_replaced=master is not None and before is not None and before.key_name != master.key_name,
    )


def _own_key(
    user_id: str, usage: Usage, told: CrossSigningKey | Rejection | None, refused: list[Rejection]
) -> CrossSigningKey | None:
    """Return the key that was told, with its owner's signatures, if it is his and plays the role."""
    name = f"{usage}_key"
    if type(told) is Rejection:
        refusal = Refusal(told.reason, told.detail)
        refused.append(rejected(refusal, told.raw, (name,), user_id=user_id))
        return None
    if type(told) is not CrossSigningKey:
        return None
    if told.user_id != user_id:
        refusal = Refusal(Reason.USER_ID_MISMATCH, f"the key is one of {quoted(told.user_id)}", "user_id")
    elif told.usage != usage:
        refusal = Refusal(Reason.WRONG_USAGE, f"the key is for {quoted(told.usage)}", "usage")
    elif told.raw is None:
        refusal = Refusal(Reason.UNSUPPORTED_ALGORITHM, f"{quoted(told.key_name)} is not an ed25519 key", "keys")
    else:
        return told.with_signed(signed_by_owner(told.signed, user_id))
    refused.append(rejected(refusal, told.to_json(), (name,), user_id=user_id))
    return None


def _vouched(
    key: CrossSigningKey | None, master: CrossSigningKey | None, refused: list[Rejection], verifier: Verifier
) -> CrossSigningKey | None:
    """Return the self-signing key if the master key has signed it."""
    if key is None:
        return None
    if master is None or master.raw is None:
        refusal = Refusal(Reason.MISSING_MASTER_KEY, "no master key is known that could have signed it")
    elif key.raw == master.raw:
        refusal = Refusal(Reason.KEY_REUSED, "it is the master key itself", "keys")
    else:
        # "Self-signing and user-signing keys MUST be signed by the master key."
        parts = parts_of(key.signed)
        text = signature_text(parts, key.user_id, master.key_name)
        if ask([(parts.canonical, text, master.raw)], verifier) == [True]:
            return key
        refusal = why_not(parts, key.user_id, master.key_name)
    refused.append(rejected(refusal, key.to_json(), ("self_signing_key",), user_id=key.user_id))
    return None
