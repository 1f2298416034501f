"""Signatures on the way to being stored: on what, by whom, and why not.

Specification: ``cross_signing.yaml``, "Publishes cross-signing signatures for the user".

Fact: each signature is judged for itself; a target fails for one reason, which is what the client is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignatureFailure
from matrix_e2e_keys.errors import Reason
from matrix_e2e_keys.homeserver.admission.signature_roles import Role, SigningKey
from matrix_e2e_keys.keys import Ed25519Signature
from matrix_e2e_keys.signing.signed_json import SignedJson

__all__ = [
    "COLLISION",
    "DIFFERENT",
    "TOO_MANY",
    "UNKNOWN",
    "Case",
    "Fault",
    "OfferedSignature",
    "SignatureJudgment",
    "Target",
    "invalid",
    "no_master_key",
    "not_found",
]


@frozen(kw_only=True)
class SignatureJudgment:
    """What became of one signature, or of all on one target.

    Attributes:
        user_id: under whose name the target stood.
        target: the device id or public key under which it stood; the empty string if there was none.
        signer_key_id: the key id under which the signature stood; ``None`` if the target was refused as a whole.
        reason: why it was refused, ``None`` if it is good: then it is stored now, or was before.
        is_new: whether a refusal makes the target fail. It does not for a signature that equals a stored one, and for
            one of a key on itself.
    """

    user_id: str
    target: str
    signer_key_id: str | None
    reason: Reason | None
    is_new: bool = True


@frozen
class Fault:
    """Why a target fails."""

    errcode: str
    error: str
    reason: Reason
    status: int = 400

    def to_failure(self, *, is_deployed_form: bool) -> SignatureFailure:
        """Return what the client is told, in one of the two forms."""
        if is_deployed_form:
            return SignatureFailure(status=self.status, errcode=self.errcode, message=f"{self.status}: {self.error}")
        return SignatureFailure(errcode=self.errcode, error=self.error)


def not_found(error: str, reason: Reason = Reason.MISSING_KEY) -> Fault:
    """Return the fault that something is not there."""
    return Fault("M_NOT_FOUND", error, reason, 404)


def invalid(reason: Reason) -> Fault:
    """Return the fault that nothing good signed."""
    return Fault("M_INVALID_SIGNATURE", "Invalid signature", reason)


def no_master_key(user_id: str) -> Fault:
    """Return the fault that a user has no master key, or none that counts."""
    return not_found(f"No master key found for {user_id}", Reason.MISSING_MASTER_KEY)


UNKNOWN: Final = not_found("Unknown device")
COLLISION: Final = Fault("M_INVALID_PARAM", "Key ID in use", Reason.IDENTIFIER_COLLISION)
# "The signed JSON object must match the key previously uploaded or retrieved for the given key ID"
DIFFERENT: Final = Fault("M_UNKNOWN", "Key does not match", Reason.WOULD_CHANGE_KEYS)
TOO_MANY: Final = Fault("M_TOO_LARGE", "Too many signatures", Reason.TOO_LARGE)


@frozen(kw_only=True)
class Target:
    """What can be signed.

    Attributes:
        stored: what is stored of it.
        signer: the role of the keys that may sign it.
        kept: the signatures of the requester on it that are stored, by key id.
        self_signer: the key id of its own signature, if it is the requester's.
    """

    stored: SignedJson
    signer: Role
    kept: Mapping[str, str]
    self_signer: str | None = None


@define
class OfferedSignature:
    """A signature under way."""

    target: Target
    key_id: str
    text: str
    signer: SigningKey | Reason
    is_good: bool = False

    @property
    def is_new(self) -> bool:
        """Whether it is more than what the target carries anyway."""
        return self.key_id != self.target.self_signer and self.text != self.target.kept.get(self.key_id)

    @property
    def reason(self) -> Reason | None:
        """Why it is not to be stored."""
        if isinstance(self.signer, Reason):
            return self.signer
        if self.signer.role is not self.target.signer:
            return Reason.WRONG_USAGE
        return None if self.is_good else Reason.INVALID_SIGNATURE


@define
class Case:
    """One entry of the request: what is to be signed and the signatures, or why it is refused as a whole."""

    user_id: str
    name: str
    target: Target | Fault
    signatures: list[OfferedSignature] = field(factory=list)

    @property
    def fault(self) -> Fault | None:
        """Why it fails, if it does."""
        if isinstance(self.target, Fault):
            return self.target
        reasons = [made.reason for made in self.signatures]
        is_refused = any(made.is_new and made.reason is not None for made in self.signatures)
        return None if None in reasons and not is_refused else invalid(Reason.INVALID_SIGNATURE)

    def to_store(self) -> dict[str, Ed25519Signature]:
        """Return the good signatures that are not stored as they are, by key id."""
        good = {
            made.key_id: (Ed25519Signature.from_base64(made.text), made.target.kept.get(made.key_id))
            for made in self.signatures
            if made.reason is None
        }
        return {key_id: signature for key_id, (signature, kept) in good.items() if signature.to_base64() != kept}

    def judgments(self) -> Iterator[SignatureJudgment]:
        """Yield what became of each signature."""
        if isinstance(self.target, Fault):
            yield SignatureJudgment(
                user_id=self.user_id, target=self.name, signer_key_id=None, reason=self.target.reason
            )
        for made in self.signatures:
            yield SignatureJudgment(
                user_id=self.user_id,
                target=self.name,
                signer_key_id=made.key_id,
                reason=made.reason,
                is_new=made.is_new,
            )
