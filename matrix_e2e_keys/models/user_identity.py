"""User identities: a master key, and what it vouches for.

Specification: client-server API, "Cross-signing".

Facts:

* The master key signs the self-signing and the user-signing key of the same user. The self-signing key signs the
  user's devices, the user-signing key other users' master keys.
* :class:`UserIdentity` is consistent in itself: its keys are those the master key vouches for. Whether that master
  key is the right one is a question of trust, which only the caller can answer: :meth:`UserIdentity.confirm_as_own`
  takes the answer for one's own identity, and gives the :class:`OwnIdentity` that alone can vouch for other users.
* There is no identity without a self-signing key: nothing could be done with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, cast

from attrs import field, frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, VerificationError, quoted
from matrix_e2e_keys.identifiers import UserId
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signed_json import (
    SignatureQuestion,
    SignedJson,
    SignedParts,
    ask,
    parts_of,
    signature_text,
    why_not,
)
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["OwnIdentity", "UserIdentity", "verify_identities"]


@frozen(repr=False)
class UserIdentity(metaclass=Sealed):
    """The cross-signing keys of one user that are consistent with each other. Only a check makes one.

    Attributes:
        user_id: the user.
        master_key: who the user is.
        self_signing_key: signed by the master key; signs the user's devices.
        user_signing_key: signed by the master key; signs other users' master keys. Only the user himself is shown it.
        self_signing_public_key: the key in ``self_signing_key``.
    """

    user_id: UserId
    master_key: CrossSigningKey
    self_signing_key: CrossSigningKey
    user_signing_key: CrossSigningKey | None
    self_signing_public_key: Ed25519PublicKey = field(eq=False)

    @classmethod
    def verify(
        cls,
        *,
        master_key: CrossSigningKey,
        self_signing_key: CrossSigningKey,
        user_signing_key: CrossSigningKey | None = None,
        verifier: Verifier = LIBSODIUM,
    ) -> UserIdentity:
        """Check that the keys of one user belong together.

        Raises:
            VerificationError: they do not; ``path`` starts with the member that is at fault.
        """
        keys = (master_key, self_signing_key, *(() if user_signing_key is None else (user_signing_key,)))
        if any(type(key) is not CrossSigningKey for key in keys):
            raise LocalProtocolError(Reason.WRONG_TYPE, "an identity is made of CrossSigningKey objects")
        given: dict[Usage, CrossSigningKey | Refusal] = {"master": master_key, "self_signing": self_signing_key}
        if user_signing_key is not None:
            given["user_signing"] = user_signing_key
        ((identity, refusals),) = verify_identities([(master_key.user_id, given)], verifier)
        if identity is None or refusals:
            # A key that is refused for the sake of another comes after the one at fault.
            role, refusal = min(refusals.items(), key=lambda item: item[1].reason in _FOR_THE_SAKE_OF_ANOTHER)
            raise refusal.to_error(VerificationError, f"{role}_key")
        return identity

    @property
    def master_public_key(self) -> Ed25519PublicKey:
        """The key in ``master_key``: what one compares, pins and confirms."""
        return Ed25519PublicKey(_raw(self.master_key))

    @property
    def raw_keys(self) -> tuple[bytes, ...]:
        """The bytes of the master, the self-signing and, if it is there, the user-signing key."""
        keys = (self.master_key, self.self_signing_key, self.user_signing_key)
        return tuple([_raw(key) for key in keys if key is not None])

    def confirm_as_own(self, *, master_key: Ed25519PublicKey) -> OwnIdentity:
        """Return this identity as one's own, after comparing its master key with the one the caller knows to be his.

        Args:
            master_key: the public half of one's own master key, from one's own storage: never from a server.

        Raises:
            VerificationError: it is another key.
        """
        if type(master_key) is not Ed25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the master key must be an Ed25519PublicKey")
        if self.master_key.public_key != master_key:
            raise VerificationError(Reason.KEY_ID_NOT_KEY, "the identity has another master key than the one known")
        return _new_own(self)

    def with_master_signatures(self, signed: SignedJson) -> UserIdentity:
        """Return the same identity whose master key carries other signatures, or another ``unsigned`` part.

        Raises:
            LocalProtocolError: the signed bytes of ``signed`` are not those of the master key.
        """
        return _new_identity(
            self.user_id,
            self.master_key.with_signed(signed),
            self.self_signing_key,
            self.user_signing_key,
            self.self_signing_public_key,
        )

    def with_master_key_of(self, other: UserIdentity) -> UserIdentity:
        """Return the same identity with the master key object of ``other``, around the same public key.

        Raises:
            LocalProtocolError: ``other`` has another master key.
        """
        self._require_same_master_key(other)
        return _new_identity(
            self.user_id,
            other.master_key,
            self.self_signing_key,
            self.user_signing_key,
            self.self_signing_public_key,
        )

    def _require_same_master_key(self, other: object) -> None:
        if (
            type(other) is not UserIdentity
            or other.user_id != self.user_id
            or other.master_public_key != self.master_public_key
        ):
            raise LocalProtocolError(Reason.INVALID_VALUE, "the other identity has another master key", path="/other")

    def with_user_signing_key_of(self, other: UserIdentity) -> UserIdentity:
        """Return the same identity with the user-signing key of ``other``, for which the same master key vouched.

        Raises:
            LocalProtocolError: ``other`` has another master key, or its user-signing key is the self-signing key here.
        """
        self._require_same_master_key(other)
        if other.user_signing_key is not None and _raw(other.user_signing_key) == _raw(self.self_signing_key):
            raise LocalProtocolError(Reason.KEY_REUSED, "that key is the self-signing key here", path="/other")
        return _new_identity(
            self.user_id,
            self.master_key,
            self.self_signing_key,
            other.user_signing_key,
            self.self_signing_public_key,
        )

    def _question_about(self, user_id: str, parts: SignedParts) -> SignatureQuestion | None:
        """Return the question whether the self-signing key signed an object of a user.

        ``None`` if the object carries nothing under the name of that key, or belongs to another user.
        """
        if user_id != self.user_id:
            return None
        text = signature_text(parts, user_id, self.self_signing_key.key_name)
        return None if text is None else (parts.canonical, text, self.self_signing_public_key.raw)

    def _why_not_signed(self, parts: SignedParts) -> Refusal:
        """Return what to say if the answer is no."""
        return why_not(parts, self.user_id, self.self_signing_key.key_name)

    def __repr__(self) -> str:
        return f"<UserIdentity of {quoted(self.user_id)}, {quoted(self.master_key.key_name)}>"


@frozen(repr=False)
class OwnIdentity(metaclass=Sealed):
    """One's own identity, whose master key the caller has confirmed. It alone can vouch for other users."""

    identity: UserIdentity

    @property
    def user_id(self) -> UserId:
        """Oneself."""
        return self.identity.user_id

    @property
    def master_public_key(self) -> Ed25519PublicKey:
        """The master key that was confirmed."""
        return self.identity.master_public_key

    def verify_user(self, other: UserIdentity, *, verifier: Verifier = LIBSODIUM) -> None:
        """Check that one has verified another user: one's user-signing key signed the other's master key.

        Raises:
            VerificationError: it did not.
        """
        _check_identities([other])
        key = self.identity.user_signing_key
        if key is None:
            raise VerificationError(Reason.MISSING_KEY, "one's own user-signing key is not known")
        if other.user_id not in self.verified_users([other], verifier=verifier):
            parts = parts_of(other.master_key.signed)
            raise why_not(parts, self.user_id, key.key_name).to_error(VerificationError)

    def verified_users(self, others: Sequence[UserIdentity], *, verifier: Verifier = LIBSODIUM) -> frozenset[UserId]:
        """Return which of ``others`` one has verified, as :meth:`verify_user` would check one by one."""
        _check_identities(others)
        key = self.identity.user_signing_key
        if key is None:
            return frozenset()
        raw = _raw(key)
        questions: list[SignatureQuestion] = []
        for other in others:
            parts = parts_of(other.master_key.signed)
            questions.append((parts.canonical, signature_text(parts, self.user_id, key.key_name), raw))
        answers = ask(questions, verifier)
        return frozenset([other.user_id for other, is_good in zip(others, answers, strict=True) if is_good])

    def __repr__(self) -> str:
        return f"<OwnIdentity of {quoted(self.user_id)}, {quoted(self.identity.master_key.key_name)}>"


_new_identity: Final = constructor_of(UserIdentity)
_new_own: Final = constructor_of(OwnIdentity)


# --------------------------------------------------------------------------------------------------------------
# Many at once
# --------------------------------------------------------------------------------------------------------------

GivenKeys: TypeAlias = Mapping[Usage, CrossSigningKey | Refusal]
"""The keys of one user by the role they are offered for; a refusal where a key was refused before."""

_SUBORDINATES: Final[tuple[Usage, ...]] = ("self_signing", "user_signing")

_FOR_THE_SAKE_OF_ANOTHER: Final = frozenset(
    {
        Reason.MISSING_MASTER_KEY,
        Reason.MASTER_KEY_REFUSED,
        Reason.MISSING_SELF_SIGNING_KEY,
        Reason.SELF_SIGNING_KEY_REFUSED,
    }
)


def verify_identities(
    users: Sequence[tuple[str, GivenKeys]], verifier: Verifier, *, require_prime_order: bool = False
) -> list[tuple[UserIdentity | None, dict[Usage, Refusal]]]:
    """Check which keys of each user belong together.

    Args:
        users: for each user, the id under which the keys were offered, and the keys.
        verifier: who checks.
        require_prime_order: refuse keys with a small-order component, see
            :meth:`~matrix_e2e_keys.Ed25519PublicKey.require_prime_order`.

    Returns:
        For each user: the identity if there is one, and why each key that is not part of it is refused.
    """
    outcomes: list[dict[Usage, Refusal]] = []
    questions: list[SignatureQuestion] = []
    asked: list[tuple[dict[Usage, Refusal], Usage, SignedParts, str, str]] = []
    for user_id, given in users:
        refusals = _refusals_by_role(user_id, given, require_prime_order)
        outcomes.append(refusals)
        master = given.get("master")
        for role in _SUBORDINATES:
            key = given.get(role)
            if role not in refusals and isinstance(key, CrossSigningKey) and isinstance(master, CrossSigningKey):
                parts, name = parts_of(key.signed), master.key_name
                questions.append((parts.canonical, signature_text(parts, user_id, name), _raw(master)))
                asked.append((refusals, role, parts, user_id, name))
    for (refusals, role, parts, user_id, name), is_good in zip(asked, ask(questions, verifier), strict=True):
        if not is_good:
            refusals[role] = why_not(parts, user_id, name)
    return [(_identity(given, refusals), refusals) for (_, given), refusals in zip(users, outcomes, strict=True)]


def _refusals_by_role(user_id: str, given: GivenKeys, require_prime_order: bool) -> dict[Usage, Refusal]:
    """Return what speaks against each key before any signature is looked at."""
    refusals: dict[Usage, Refusal] = {}
    taken: set[bytes] = set()
    for role in ("master", "self_signing", "user_signing"):
        key = given.get(role)
        if key is None:
            continue
        refusal = key if isinstance(key, Refusal) else _key_refusal(user_id, role, key, require_prime_order)
        if refusal is None and isinstance(key, CrossSigningKey):
            raw = _raw(key)
            if raw in taken:
                refusal = Refusal(Reason.KEY_REUSED, "the same key is offered for two roles", "keys")
            taken.add(raw)
        if refusal is None and role != "master" and ("master" in refusals or "master" not in given):
            refusal = (
                Refusal(Reason.MASTER_KEY_REFUSED, "the master key of this user is refused")
                if "master" in refusals
                else Refusal(Reason.MISSING_MASTER_KEY, "there is no master key of this user")
            )
        if refusal is not None:
            refusals[role] = refusal
    return refusals


def _key_refusal(user_id: str, role: Usage, key: CrossSigningKey, require_prime_order: bool) -> Refusal | None:
    if key.user_id != user_id:
        detail = f"the key of {quoted(user_id)} says it belongs to {quoted(key.user_id)}"
        return Refusal(Reason.USER_ID_MISMATCH, detail, "user_id")
    if key.usage != role:
        return Refusal(Reason.WRONG_USAGE, f"a key for {quoted(key.usage)} stands where {role} belongs", "usage")
    if key.raw is None:
        detail = f"{quoted(key.key_id.algorithm)} is not an algorithm this library knows"
        return Refusal(Reason.UNSUPPORTED_ALGORITHM, detail, "keys")
    if require_prime_order:
        try:
            Ed25519PublicKey(key.raw).require_prime_order()
        except RemoteProtocolError as error:
            return Refusal(error.reason, error.detail, "keys", key.key_name)
    return None


def _identity(given: GivenKeys, refusals: dict[Usage, Refusal]) -> UserIdentity | None:
    """Return the identity left after ``refusals``; complete these where one key stands or falls with another."""
    accepted: dict[Usage, CrossSigningKey] = {
        role: key for role, key in given.items() if role not in refusals and isinstance(key, CrossSigningKey)
    }
    master, self_signing = accepted.get("master"), accepted.get("self_signing")
    if master is not None and self_signing is not None:
        signer = Ed25519PublicKey(_raw(self_signing))
        return _new_identity(master.user_id, master, self_signing, accepted.get("user_signing"), signer)
    for role in accepted:
        refusals[role] = (
            Refusal(Reason.SELF_SIGNING_KEY_REFUSED, "the self-signing key of this user is refused")
            if "self_signing" in given
            else Refusal(Reason.MISSING_SELF_SIGNING_KEY, "there is no self-signing key of this user")
        )
    return None


def _check_identities(others: object) -> None:
    if not isinstance(others, Sequence) or any(type(other) is not UserIdentity for other in others):
        raise LocalProtocolError(Reason.WRONG_TYPE, "other users are given as UserIdentity", path="/other")


def _raw(key: CrossSigningKey) -> bytes:
    """Return the bytes of a cross-signing key that has passed :func:`_key_refusal`, and so is an Ed25519 key."""
    return cast("bytes", key.raw)
