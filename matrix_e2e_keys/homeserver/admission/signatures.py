"""Admission of ``/keys/signatures/upload``: which signatures are stored, each judged for itself.

Specification: ``cross_signing.yaml``, "Publishes cross-signing signatures for the user"; client-server API,
"Cross-signing".

Facts:

* A self-signing key signs the devices of its owner, a device the master key of its owner, a user-signing key the master
  keys of others. Nothing else is a signature to store. Who signs is found by what is stored; see
  :mod:`~matrix_e2e_keys.homeserver.admission.signature_roles`.
* A signature is verified over what is stored, which what is uploaded must equal in all that is signed. Only signatures
  are taken from the request.
* A signature under the key id of a stored one takes its place if it is good. If it is not, the stored one stays, and
  the target fails.
* Clients send the signatures along that an object has already. One that equals what is stored, and one of a key on
  itself, fails nobody; nor does it make an upload a success by itself, unless it is one to store.
* A target fails if no signature on it is one to store, or if a new one is refused. The good ones beside it are stored
  all the same.
* What is no object, or stands under no user id, fails, and costs nobody else anything. If a user's entry holds no key
  that could be named, the failure stands under the empty name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from attrs import frozen

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.endpoints.client_server.signatures_upload import (
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
)
from matrix_e2e_keys.endpoints.members import boolean, instances, map_of, optional
from matrix_e2e_keys.errors import LocalProtocolError, Reason, json_pointer, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.homeserver.admission.signature_cases import (
    COLLISION,
    DIFFERENT,
    TOO_MANY,
    UNKNOWN,
    Case,
    Fault,
    OfferedSignature,
    SignatureJudgment,
    Target,
    invalid,
    no_master_key,
    not_found,
)
from matrix_e2e_keys.homeserver.admission.signature_roles import OwnKeys, Role, SigningKey, check_own
from matrix_e2e_keys.homeserver.decisions import Decision, Requester, check_requester, refuse
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    Effect,
    IdentityChanged,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDeviceKeys,
    StoreSignature,
    guarded,
)
from matrix_e2e_keys.homeserver.policies import SPEC, Limits, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import UserKeys, UserSignature
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.keys import Ed25519Signature
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, ask
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["SignatureJudgment", "SignaturesDecision", "decide_signatures_upload", "signed_users"]


@frozen(kw_only=True)
class SignaturesDecision(Decision[SignaturesUploadResponse]):
    """What to store, and what to answer.

    Attributes:
        judgments: what became of each signature that the requester uploaded as his own, in the order of the request.
            Signatures under the names of others are never looked at.
    """

    judgments: tuple[SignatureJudgment, ...] = ()


def signed_users(request: SignaturesUploadRequest, *, requester: Requester) -> tuple[str, ...]:
    """Return the users, other than the requester, whose master keys are needed in order to decide.

    Those of other servers are to be asked for there.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    own_user_id = check_requester(requester).user_id
    return tuple(
        user_id
        for user_id, objects in _checked(request).signed_objects.items()
        if not isinstance(objects, Rejection)
        and user_id != own_user_id
        and any(type(signed) is SignedJson for signed in objects.values())
    )


def decide_signatures_upload(
    request: SignaturesUploadRequest,
    *,
    requester: Requester,
    stored: UserKeys,
    others: Mapping[str, CrossSigningKey | None] = FrozenMap({}),
    policy: Policy = SPEC,
    deployed_failures: bool = False,
    verifier: Verifier = LIBSODIUM,
) -> SignaturesDecision:
    """Decide about an upload of signatures.

    Args:
        request: what is uploaded.
        requester: who uploads.
        stored: what is stored of that user, with all of his devices.
        others: user id to master key, for :func:`signed_users`; ``None`` if that user has none.
        policy: how much is too much.
        deployed_failures: whether a failure is written ``{status, errcode, message}``, as deployed servers do, and not
            ``{errcode, error}``.
        verifier: who checks signatures.

    Returns:
        What to store, the answer, and what became of each signature.

    Raises:
        LocalProtocolError: an argument has the wrong type, or ``stored`` is of another user.
    """
    _checked(request)
    requester, stored = check_own(requester, stored)
    limits = check_policy(policy).limits
    check_verifier(verifier)
    with raised_as(LocalProtocolError):
        others = map_of(optional(instances(CrossSigningKey)))(others, "others")
        boolean(deployed_failures, "deployed_failures")
    entries = list(_entries(request))
    if len(request.signed_objects) > limits.users_per_request:
        return SignaturesDecision(answer=refuse(400, "M_TOO_LARGE", "Too many users").answer)
    if len(entries) > limits.devices_per_request:
        return SignaturesDecision(answer=refuse(400, "M_TOO_LARGE", "Too many keys").answer)
    upload = _Upload(user=stored, own=OwnKeys.of(stored), others=others, limits=limits)
    cases = upload.judge(entries, verifier)
    return SignaturesDecision(
        answer=_answer(cases, is_deployed_form=deployed_failures),
        effects=guarded(upload.effects(cases), stored),
        judgments=tuple(judgment for case in cases for judgment in case.judgments()),
    )


def _checked(request: object) -> SignaturesUploadRequest:
    if type(request) is not SignaturesUploadRequest:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a SignaturesUploadRequest is needed", path="/request")
    return request


_Entry: TypeAlias = tuple[str, str, SignedJson | Rejection]


def _entries(request: SignaturesUploadRequest) -> Iterator[_Entry]:
    """Yield user id, target and object; for a user whose entry is malformed, the names that stand in it."""
    for user_id, objects in request.signed_objects.items():
        if isinstance(objects, Rejection):
            raw: Any = objects.raw
            names = [name for name in raw if type(name) is str] if type(raw) is dict else []
            for name in names or [""]:
                yield user_id, name, objects
        else:
            for name, signed in objects.items():
                yield user_id, name, signed


def _answer(cases: Iterable[Case], *, is_deployed_form: bool) -> SignaturesUploadResponse:
    by_user: dict[str, dict[str, SignatureFailure]] = {}
    for case in cases:
        fault = case.fault
        if fault is not None:
            by_user.setdefault(case.user_id, {})[case.name] = fault.to_failure(is_deployed_form=is_deployed_form)
    failures: dict[str, Any] = {}
    for user_id, failed in by_user.items():
        if is_user_id(user_id):
            failures[user_id] = failed
        else:  # only a rejection can stand under such a name; it is written as what is in it
            failures[user_id] = Rejection(
                path=json_pointer(("failures", user_id)),
                reason=Reason.INVALID_IDENTIFIER,
                detail="the failures of what is no user id",
                raw={name: failure.to_json() for name, failure in failed.items()},
                user_id=user_id,
            )
    return SignaturesUploadResponse(failures=failures)


@frozen(kw_only=True)
class _Upload:
    """What an upload is judged against."""

    user: UserKeys
    own: OwnKeys
    others: Mapping[str, CrossSigningKey | None]
    limits: Limits

    # ----------------------------------------------------------------------------------------------------------
    # Judging
    # ----------------------------------------------------------------------------------------------------------

    def judge(self, entries: Iterable[_Entry], verifier: Verifier) -> list[Case]:
        """Judge all signatures, with one question to the verifier."""
        cases = [self._case(*entry) for entry in entries]
        asked = [
            (made, made.signer.raw)
            for case in cases
            for made in case.signatures
            if isinstance(made.signer, SigningKey) and made.signer.role is made.target.signer
        ]
        answers = ask([(made.target.stored.canonical, made.text, raw) for made, raw in asked], verifier)
        for (made, _), is_good in zip(asked, answers, strict=True):
            made.is_good = is_good
        return cases

    def _case(self, user_id: str, name: str, uploaded: SignedJson | Rejection) -> Case:
        if isinstance(uploaded, Rejection):
            return Case(user_id, name, Fault("M_INVALID_PARAM", "Invalid parameter", uploaded.reason))
        target = self._own_target(name) if user_id == self.user.user_id else self._others_target(user_id, name)
        if isinstance(target, Fault):
            return Case(user_id, name, target)
        if uploaded != target.stored:
            return Case(user_id, name, DIFFERENT)
        made = uploaded.signatures.get(self.user.user_id, {})
        if not made:
            return Case(user_id, name, invalid(Reason.MISSING_SIGNATURE))
        count = max(sum(map(len, uploaded.signatures.values())), len(made.keys() | target.kept.keys()))
        if count > self.limits.signatures_per_object:
            return Case(user_id, name, TOO_MANY)
        signatures = [OfferedSignature(target, key_id, text, self.own.signer(key_id)) for key_id, text in made.items()]
        return Case(user_id, name, target, signatures)

    def _own_target(self, name: str) -> Target | Fault:
        roles = self.own.roles.get(name, ())
        master, device = self.user.master_key, self.user.devices.get(name)
        if len(roles) > 1:
            return COLLISION
        if roles == (Role.MASTER,) and master is not None:
            # "The master signing key may also be signed by the user's own device keys".
            return self._own(name, master.signed, Role.DEVICE)
        if device is not None and device.keys is not None:
            # The self-signing key "signs the user's own device keys".
            if self.user.self_signing_key is not None:
                return self._own(name, device.keys, Role.SELF_SIGNING)
            missing = f"No self_signing key found for {self.user.user_id}"
            return not_found(missing, Reason.MISSING_SELF_SIGNING_KEY)
        if roles and device is None:
            return invalid(Reason.WRONG_USAGE)
        return UNKNOWN if master is not None else no_master_key(self.user.user_id)

    def _own(self, name: str, stored: SignedJson, signer: Role) -> Target:
        kept = stored.signatures.get(self.user.user_id, {})
        return Target(stored=stored, signer=signer, kept=kept, self_signer=f"{ED25519}:{name}")

    def _others_target(self, user_id: str, name: str) -> Target | Fault:
        if self.user.user_signing_key is None:
            return not_found(f"No user_signing key found for {self.user.user_id}")
        master = self.others.get(user_id)
        if master is None or (master.user_id, master.usage) != (user_id, Role.MASTER) or master.raw is None:
            return no_master_key(user_id)
        if name != master.key_id.name:
            return UNKNOWN
        # The user-signing key "signs other users' master signing keys".
        kept = {
            made.signer_key_id: made.signature
            for made in self.user.signatures
            if (made.user_id, made.master_key_id) == (user_id, master.key_name)
        }
        return Target(stored=master.signed, signer=Role.USER_SIGNING, kept=kept)

    # ----------------------------------------------------------------------------------------------------------
    # Storing
    # ----------------------------------------------------------------------------------------------------------

    def effects(self, cases: Iterable[Case]) -> tuple[Effect, ...]:
        """Return what to do: only for signatures that are not stored yet, however often they are sent."""
        stores: list[Effect] = []
        notices: list[Effect] = []
        signed: list[str] = []
        user_id, master = self.user.user_id, self.user.master_key
        for case in cases:
            target, made = case.target, case.to_store()
            if isinstance(target, Fault) or not made:
                continue
            if target.signer is Role.USER_SIGNING:
                stores += [self._stored_apart(case, key_id, signature) for key_id, signature in made.items()]
                signed.append(case.user_id)
                continue
            merged = target.stored
            for key_id, signature in made.items():
                merged = merged.with_signature(user_id, key_id, signature)
            if target.signer is Role.DEVICE and master is not None:
                stores.append(StoreCrossSigningKey(user_id=user_id, usage="master", key=master.with_signed(merged)))
                notices.append(IdentityChanged(user_id=user_id))
            else:
                stores.append(StoreDeviceKeys(user_id=user_id, device_id=case.name, keys=merged))
                notices.append(DeviceChanged(user_id=user_id, device_id=case.name))
        if signed:
            notices.append(SignedOthers(user_id=user_id, signed=tuple(signed)))
        return (*stores, *notices)

    def _stored_apart(self, case: Case, key_id: str, signature: Ed25519Signature) -> Effect:
        return StoreSignature(
            signature=UserSignature(
                signer_id=self.user.user_id,
                signer_key_id=key_id,
                user_id=case.user_id,
                master_key_id=f"{ED25519}:{case.name}",
                signature=signature.to_base64(),
            )
        )
