"""Admission of ``/keys/device_signing/upload``: which cross-signing keys of a user are stored.

Specification: ``cross_signing.yaml``, "Publishes cross-signing keys for the user"; client-server API, "Cross-signing".

Facts:

* Everything is judged before anything is stored, and before the user is asked to authenticate: nobody types a password
  for an upload that will be refused.
* With another master key the user is another. What others signed of the old one goes, and so does a key that the new
  master key has not signed. With another self-signing key the signatures of the old one on the devices go, with another
  user-signing key those on other users.
* Of a master key, the signatures by itself and by the user's devices are kept, if they are good; of the other keys, the
  one by the master key. All others are left out, and so is ``unsigned``: they would be shown to everybody.
* An earlier key may come back. A device id, or the key of a device, cannot be a cross-signing key.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from attrs import define, field

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.endpoints.client_server.device_signing_upload import (
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
)
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.endpoints.user_interactive import AuthenticationFlow, UserInteractiveAuth
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.admission.authentication import (
    NoOp,
    RequireAuthentication,
    authentication_needed,
    supplied_keys,
)
from matrix_e2e_keys.homeserver.admission.signature_roles import device_signing_key
from matrix_e2e_keys.homeserver.admission.uploaded_objects import check_servable, refusal
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    DropCrossSigningKey,
    DropSignaturesBy,
    DropSignaturesOn,
    Effect,
    IdentityChanged,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDeviceKeys,
    guarded,
)
from matrix_e2e_keys.homeserver.policies import SPEC, Limits, Policy, check_policy
from matrix_e2e_keys.homeserver.stored_keys import USAGES, UserKeys, is_called_like
from matrix_e2e_keys.keys import Ed25519Signature
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, Usage
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson, ask, new_signed_json, parts_of, signature_text
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = ["decide_device_signing_upload"]

_PASSWORD: Final = UserInteractiveAuth(flows=(AuthenticationFlow(stages=("m.login.password",)),))
_SIGNED: Final[tuple[Usage, ...]] = USAGES[1:]


def decide_device_signing_upload(
    request: DeviceSigningUploadRequest,
    *,
    requester: Requester,
    stored: UserKeys,
    policy: Policy = SPEC,
    challenge: UserInteractiveAuth | None = None,
    verifier: Verifier = LIBSODIUM,
) -> Decision[DeviceSigningUploadResponse]:
    """Decide about an upload of cross-signing keys.

    Whether ``auth`` in the request proves anything is for the caller to find out beforehand: see
    :attr:`Requester.has_authenticated <matrix_e2e_keys.homeserver.Requester.has_authenticated>`. It must have
    been completed for this very request, not for another one in the same session.

    Args:
        request: what is uploaded.
        requester: who uploads.
        stored: what is stored of that user, with all of his devices.
        policy: how much is too much.
        challenge: what to ask for if the user has to authenticate; by default, the password, without a session.
        verifier: who checks signatures.

    Returns:
        What to store, and the answer. A request for authentication is an error of status 401.

    Raises:
        LocalProtocolError: an argument has the wrong type, or ``stored`` is of another user.
    """
    kind = authentication_needed(request, requester=requester, stored=stored)
    limits = check_policy(policy).limits
    check_verifier(verifier)
    if challenge is not None and type(challenge) is not UserInteractiveAuth:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a challenge is a UserInteractiveAuth", path="/challenge")
    if type(kind) is NoOp:
        return Decision(answer=DeviceSigningUploadResponse())
    upload = _Upload(user=stored, limits=limits, verifier=verifier)
    try:
        upload.judge(supplied_keys(request))
    except MatrixError as error:
        return Decision(answer=error.with_traceback(None))
    if type(kind) is RequireAuthentication:
        asked = _PASSWORD if challenge is None else challenge
        return Decision(answer=MatrixError(status=401, errcode=None, user_interactive=asked))
    return Decision(answer=DeviceSigningUploadResponse(), effects=guarded(upload.effects(), stored))


@define(kw_only=True)
class _Upload:
    """One decision under way."""

    user: UserKeys
    limits: Limits
    verifier: Verifier
    keys: dict[Usage, CrossSigningKey] = field(factory=dict)
    """The keys that the user has afterwards, as they are to be stored."""
    is_other_master: bool = False

    # ----------------------------------------------------------------------------------------------------------
    # Judging
    # ----------------------------------------------------------------------------------------------------------

    def judge(self, supplied: dict[Usage, CrossSigningKey | Rejection]) -> None:
        """Judge what is supplied.

        Raises:
            MatrixError: it is refused.
        """
        master = self._take_master(supplied.get("master"))
        for usage in _SIGNED:
            if usage in supplied:
                key = self._well_formed(usage, supplied[usage])
                # "Must be signed by the accompanying master signing key, or by the user's most recently uploaded
                # master signing key if no master signing key is included in the request."
                signed = self._signed_by(master, key)
                if signed is None:
                    raise refusal("M_INVALID_SIGNATURE", f"Invalid signature on {usage} key")
                self.keys[usage] = key.with_signed(signed)
            else:
                kept = self.user.key_of(usage)
                if kept is not None and (not self.is_other_master or self._signed_by(master, kept) is not None):
                    self.keys[usage] = kept
        for usage in supplied:
            self._refuse_collision(self.keys[usage])
            check_servable(self.keys[usage].signed, self.limits, f"the {usage} key")

    def _take_master(self, supplied: CrossSigningKey | Rejection | None) -> CrossSigningKey:
        """Return the master key that the user has afterwards."""
        master = self.user.master_key
        if supplied is not None:
            given = self._well_formed("master", supplied)
            self.is_other_master = given != master
            if self.is_other_master:
                master = given.with_signed(self._with_good_signatures(given, self._signers_of_master(given)))
        if master is None:
            raise refusal("M_MISSING_PARAM", "No master key available")
        self.keys["master"] = master
        return master

    def _well_formed(self, usage: Usage, key: CrossSigningKey | Rejection) -> CrossSigningKey:
        """Return a key that is one of this user, for this role, and of an algorithm that can be used."""
        if (
            type(key) is not CrossSigningKey
            or (key.user_id, key.usage) != (self.user.user_id, usage)
            or key.raw is None
        ):
            raise refusal("M_INVALID_PARAM", f"Invalid {usage} key")
        if sum(map(len, key.signed.signatures.values())) > self.limits.signatures_per_object:
            raise refusal("M_TOO_LARGE", f"There are too many signatures on the {usage} key")
        return key

    def _signed_by(self, master: CrossSigningKey, key: CrossSigningKey) -> SignedJson | None:
        """Return a key with the signature by the master key and no other, ``None`` if there is none that is good."""
        signers = {} if master.raw is None else {master.key_name: master.raw}
        signed = self._with_good_signatures(key, signers)
        return signed if signed.signatures else None

    def _signers_of_master(self, master: CrossSigningKey) -> dict[str, bytes]:
        """Return the keys whose signatures on a new master key are kept, by key id: itself, and the user's devices."""
        signers = {} if master.raw is None else {master.key_name: master.raw}
        for key_id in master.signed.signatures.get(self.user.user_id, {}):
            algorithm, _, name = key_id.partition(":")
            device = self.user.devices.get(name) if algorithm == ED25519 else None
            raw = None if device is None else device_signing_key(name, device.keys)
            if raw is not None:
                signers[key_id] = raw
        return signers

    def _with_good_signatures(self, key: CrossSigningKey, signers: dict[str, bytes]) -> SignedJson:
        """Return a key with those signatures of its owner that are good, of those by ``signers``."""
        parts = parts_of(key.signed)
        texts = {key_id: signature_text(parts, self.user.user_id, key_id) for key_id in signers}
        answers = ask([(parts.canonical, texts[key_id], raw) for key_id, raw in signers.items()], self.verifier)
        kept = key.signed.without_signatures().with_unsigned(None)
        for (key_id, text), is_good in zip(texts.items(), answers, strict=True):
            if text is not None and is_good:
                kept = kept.with_signature(self.user.user_id, key_id, Ed25519Signature.from_base64(text))
        return kept

    def _refuse_collision(self, key: CrossSigningKey) -> None:
        """Refuse a key that could be taken for another one."""
        devices = self.user.devices
        # "The public key of one of the keys is the same as one of the user's device IDs": however it is written.
        if any(is_called_like(device_id, key.key_id.name) for device_id in devices):
            raise refusal("M_FORBIDDEN", "Key ID in use", status=403)
        raws = [other.raw for other in self.keys.values() if other is not key]
        raws += [device_signing_key(device_id, device.keys) for device_id, device in devices.items()]
        if key.raw in raws:
            raise refusal("M_INVALID_PARAM", f"The {key.usage} key is in use as another key")

    # ----------------------------------------------------------------------------------------------------------
    # Storing
    # ----------------------------------------------------------------------------------------------------------

    def effects(self) -> Iterator[Effect]:
        """Yield what to do: only for what is another than before."""
        user_id = self.user.user_id
        changed = [usage for usage in USAGES if self.keys.get(usage) != self.user.key_of(usage)]
        for usage in USAGES:
            before, after = self.user.key_of(usage), self.keys.get(usage)
            if after is None and before is not None:
                yield DropCrossSigningKey(user_id=user_id, usage=usage)
            elif after is not None and after is not before and (usage in changed or self.is_other_master):
                yield StoreCrossSigningKey(user_id=user_id, usage=usage, key=after)
        if "master" in changed and self.user.master_key is not None:
            yield DropSignaturesOn(user_id=user_id)
        if self._is_gone("user_signing"):
            yield DropSignaturesBy(user_id=user_id)
        unsigned = dict(self._devices_without_signature()) if self._is_gone("self_signing") else {}
        for device_id, keys in unsigned.items():
            yield StoreDeviceKeys(user_id=user_id, device_id=device_id, keys=keys)
        for device_id in unsigned:
            yield DeviceChanged(user_id=user_id, device_id=device_id)
        if "master" in changed or "self_signing" in changed:
            yield IdentityChanged(user_id=user_id)
        if "user_signing" in changed:
            yield SignedOthers(user_id=user_id)

    def _is_gone(self, usage: Usage) -> bool:
        """Tell whether the user had a key that can sign no more. The same key in another object can."""
        before, after = self.user.key_of(usage), self.keys.get(usage)
        return before is not None and (after is None or after.key_name != before.key_name)

    def _devices_without_signature(self) -> Iterator[tuple[str, SignedJson]]:
        """Yield the devices that the self-signing key had signed, without its signature."""
        gone = self.user.self_signing_key
        for device_id, device in self.user.devices.items():
            signatures = {} if device.keys is None else parts_of(device.keys).signatures or {}
            of_owner = signatures.get(self.user.user_id, {})
            if device.keys is not None and gone is not None and gone.key_name in of_owner:
                kept = {key_id: text for key_id, text in of_owner.items() if key_id != gone.key_name}
                parts = parts_of(device.keys)._replace(signatures={**signatures, self.user.user_id: kept})
                yield device_id, new_signed_json(parts)
