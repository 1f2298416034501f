"""One link of a proof: who vouches for which key, how, and whether that holds."""

from __future__ import annotations

import enum
from typing import Final, Literal, TypeAlias

from attrs import frozen

from matrix_e2e_keys.errors import Reason, VerificationError, quoted
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.verifiers import Verifier

__all__ = ["KeyName", "KeyRole", "LinkVerdict", "TrustLink", "name_of", "signature_link"]

KeyRole: TypeAlias = Literal["device", "master", "self_signing", "user_signing"]

_ROLES: Final[dict[str, str]] = {
    "device": "device key",
    "master": "master key",
    "self_signing": "self-signing key",
    "user_signing": "user-signing key",
}


class LinkVerdict(enum.StrEnum):
    """Whether a link holds."""

    GOOD = "good"
    """There is a signature, and it is good."""
    MISSING = "missing"
    """There is no such signature, or no such key."""
    BAD = "bad"
    """There is a signature, and it is not good."""
    CONFIRMED = "confirmed"
    """Oneself has confirmed the key. No signature is needed."""
    PINNED = "pinned"
    """The key is the one that was seen first, or accepted since. No signature says so."""
    CHANGED = "changed"
    """The key is not the one that was pinned or verified."""
    OUTDATED = "outdated"
    """Oneself vouches for the key, and what is known of the user was judged without that."""
    IGNORED = "ignored"
    """Oneself wants it sent to, though nobody has verified it."""
    DENIED = "denied"
    """Oneself does not want it."""


_HOLDS: Final = frozenset({LinkVerdict.GOOD, LinkVerdict.CONFIRMED, LinkVerdict.PINNED, LinkVerdict.IGNORED})


@frozen(kw_only=True)
class KeyName:
    """A key, by whose it is and what it is for.

    Attributes:
        user_id: the owner.
        role: what it is for.
        key_id: ``ed25519:<device id>`` or ``ed25519:<public key>``.
    """

    user_id: str
    role: KeyRole
    key_id: str

    @property
    def title(self) -> str:
        """What kind of key it is, for people."""
        return _ROLES[self.role]


@frozen(kw_only=True)
class TrustLink:
    """One question and its answer: does ``signer`` vouch for ``key``?

    Attributes:
        key: the key that is vouched for.
        signer: the key that vouches for it; ``None`` for oneself, who needs no signature.
        signature: the signature as it was received, ``None`` if there is none.
        verdict: the answer.
        reason: why not, for programs; ``None`` if the link holds.
        detail: one sentence for people.
    """

    key: KeyName
    signer: KeyName | None
    signature: str | None = None
    verdict: LinkVerdict
    reason: Reason | None = None
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the link holds."""
        return self.verdict in _HOLDS


def name_of(key: CrossSigningKey) -> KeyName:
    """Internal: return the name of a key of an identity."""
    role: KeyRole = key.usage  # type: ignore[assignment]  # in an identity, each key has one of the three usages
    return KeyName(user_id=key.user_id, role=role, key_id=key.key_name)


def signature_link(
    signed: SignedJson, key: KeyName, signer: KeyName, signer_key: Ed25519PublicKey, verifier: Verifier
) -> TrustLink:
    """Internal: ask whether ``signer`` signed the object of ``key``."""
    text = signed.signatures.get(signer.user_id, {}).get(signer.key_id)
    whose = "itself" if signer == key else f"the {signer.title} of {quoted(signer.user_id)}"
    try:
        signed.verify(entity=signer.user_id, key_id=signer.key_id, key=signer_key, verifier=verifier)
    except VerificationError as error:
        verdict = LinkVerdict.MISSING if error.reason is Reason.MISSING_SIGNATURE else LinkVerdict.BAD
        return TrustLink(
            key=key, signer=signer, signature=text, verdict=verdict, reason=error.reason, detail=error.detail
        )
    return TrustLink(
        key=key, signer=signer, signature=text, verdict=LinkVerdict.GOOD, detail=f"it is signed by {whose}"
    )
