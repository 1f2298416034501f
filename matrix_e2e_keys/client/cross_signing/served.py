"""What a server really serves, compared with what was uploaded.

Specification: client-server API, "Cross-signing"; ``cross_signing.yaml``.

Facts:

* What has to be served follows from what was uploaded, never from what is served: the same signed bytes, and under the
  same signer and key id a signature that is good.
* An entry that :func:`~matrix_e2e_keys.check_query` refused is not served: other clients refuse it as well.
* What is not served yet may be served next time: the first answer after a change can lack one's own user-signing
  signature while the next one has it. Ask again before anything is uploaded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.client.cross_signing.signatures import uploaded_objects
from matrix_e2e_keys.client.queries.query import QueryResult
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    VerificationError,
    json_pointer,
    quoted,
    raised_as,
)
from matrix_e2e_keys.keys import Ed25519PublicKey, KeyId
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = [
    "SignatureConfirmation",
    "UnservedSignature",
    "UploadedSignature",
    "confirm_signatures",
    "verify_served_device",
]


@frozen(kw_only=True)
class UploadedSignature:
    """One signature that was uploaded.

    Attributes:
        user_id: whose key was signed.
        name: the device id, or the public key of a cross-signing key.
        signed_by: the user who signed.
        key_id: the key that signed, ``"ed25519:..."``.
    """

    user_id: str
    name: str
    signed_by: str
    key_id: str


@frozen(kw_only=True)
class UnservedSignature:
    """A signature that was uploaded and that nobody sees.

    Attributes:
        signature: which one.
        reason: ``MISSING_SIGNATURE`` or ``INVALID_SIGNATURE`` if the object is served, and the signature is not there
            or not good; ``OWN_DEVICE_ALTERED`` or ``IDENTITY_CHANGED`` if another object is served in its place;
            ``NOT_SERVED`` if none is; ``UNREQUESTED`` if nobody asked about the user. If what is served was refused,
            the reason for that.
        detail: one sentence for people.
    """

    signature: UploadedSignature
    reason: Reason
    detail: str

    def to_error(self) -> VerificationError:
        """Return the same finding as an exception. Its path goes into what was uploaded."""
        it = self.signature
        path = json_pointer((it.user_id, it.name, "signatures", it.signed_by, it.key_id))
        return VerificationError(self.reason, self.detail, path=path)


@frozen(kw_only=True)
class SignatureConfirmation:
    """Which of the uploaded signatures the server serves. It has no truth value.

    Attributes:
        served: those that everybody sees who may see them.
        missing: those that are not served, or not yet.
    """

    served: tuple[UploadedSignature, ...]
    missing: tuple[UnservedSignature, ...]

    @property
    def is_complete(self) -> bool:
        """Whether all of them are served."""
        return not self.missing

    def require_all(self) -> None:
        """Stop at what is not served.

        Raises:
            VerificationError: for the first signature that is not.
        """
        for missing in self.missing:
            raise missing.to_error()

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, "a SignatureConfirmation has no truth value: ask .is_complete")


def confirm_signatures(
    request: SignaturesUploadRequest,
    result: QueryResult,
    *,
    own_device: VerifiedDevice | None = None,
    verifier: Verifier = LIBSODIUM,
) -> SignatureConfirmation:
    """Compare what was uploaded with what a later ``/keys/query`` serves.

    An entry that :func:`~matrix_e2e_keys.check_query` refused is not served. Other clients would refuse it as well.

    Args:
        request: what was uploaded.
        result: what a later answer about the same users amounts to.
        own_device: needed if one's own device signed something. The key of any other signer is its key id.
        verifier: who checks.

    Returns:
        For each uploaded signature whether it is served. What is missing may be there in the next answer.

    Raises:
        LocalProtocolError: an argument has the wrong type; nothing was uploaded; or the key of a signer is not known.
    """
    if type(result) is not QueryResult:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a QueryResult is needed", path="/result")
    if own_device is not None and type(own_device) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/own_device")
    check_verifier(verifier)
    questions: list[tuple[DeviceKeys | CrossSigningKey, UploadedSignature, Ed25519PublicKey]] = []
    for user_id, name, signed in uploaded_objects(request):
        with raised_as(LocalProtocolError, "request", user_id, name):
            uploaded = _typed(signed)
            for entity, key_id, key in _signers(signed, own_device):
                signature = UploadedSignature(user_id=user_id, name=name, signed_by=entity, key_id=key_id)
                questions.append((uploaded, signature, key))
    served: list[UploadedSignature] = []
    missing: list[UnservedSignature] = []
    for uploaded, signature, key in questions:
        try:
            _served(signature, uploaded, result).verify(
                entity=signature.signed_by, key_id=signature.key_id, key=key, verifier=verifier
            )
        except VerificationError as error:
            missing.append(UnservedSignature(signature=signature, reason=error.reason, detail=error.detail))
        else:
            served.append(signature)
    return SignatureConfirmation(served=tuple(served), missing=tuple(missing))


def verify_served_device(device_keys: DeviceKeys, result: QueryResult) -> VerifiedDevice:
    """Check that a server serves one's own device keys as they were uploaded: all of them, and signed by the device.

    Args:
        device_keys: what was uploaded, from one's own storage.
        result: what a later answer about oneself amounts to.

    Returns:
        The device as it is served.

    Raises:
        VerificationError: the device is not served, or not with the same signed bytes, or was refused. For the
            reasons see :class:`UnservedSignature`.
        LocalProtocolError: an argument has the wrong type.
    """
    if type(device_keys) is not DeviceKeys:
        raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
    if type(result) is not QueryResult:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a QueryResult is needed", path="/result")
    user_id, device_id = device_keys.user_id, device_keys.device_id
    device = result.devices.accepted.get(user_id, {}).get(device_id)
    if device is None:
        raise _not_served(user_id, device_id, True, result)
    if device.keys != device_keys:
        raise _altered(device.keys)
    return device


def _typed(signed: SignedJson) -> DeviceKeys | CrossSigningKey:
    obj = signed.to_json()
    return CrossSigningKey.from_json(obj) if "usage" in obj else DeviceKeys.from_json(obj)


def _signers(signed: SignedJson, own_device: VerifiedDevice | None) -> Iterator[tuple[str, str, Ed25519PublicKey]]:
    """Yield who signed, under which key id, and with which key.

    Raises:
        LocalProtocolError: the key of one is not known.
    """
    for entity, by_entity in signed.signatures.items():
        for text in by_entity:
            with raised_as(LocalProtocolError, "signatures", entity, text):
                yield entity, text, _signing_key(entity, KeyId.parse(text), own_device)


def _signing_key(entity: str, key_id: KeyId, own_device: VerifiedDevice | None) -> Ed25519PublicKey:
    if key_id.algorithm != ED25519:
        raise LocalProtocolError(
            Reason.UNSUPPORTED_ALGORITHM, f"{quoted(key_id.algorithm)} is not an algorithm this library verifies"
        )
    if own_device is not None and (entity, key_id.name) == (own_device.user_id, own_device.device_id):
        return own_device.ed25519_key
    raw = unpadded_base64.decode(key_id.name)
    if raw is None or unpadded_base64.encode(raw) != key_id.name:
        raise LocalProtocolError(
            Reason.MISSING_KEY, f"the key of {quoted(str(key_id))} is not known: give the device as own_device"
        )
    return Ed25519PublicKey(raw)


def _served(signature: UploadedSignature, uploaded: DeviceKeys | CrossSigningKey, result: QueryResult) -> SignedJson:
    """Return what is served in the place of what was uploaded.

    Raises:
        VerificationError: nothing, or something else.
    """
    user_id, name = signature.user_id, signature.name
    served: DeviceKeys | CrossSigningKey | None
    if isinstance(uploaded, DeviceKeys):
        device = result.devices.accepted.get(user_id, {}).get(name)
        served = None if device is None else device.keys
    else:
        identity = result.identities.accepted.get(user_id)
        keys = () if identity is None else (identity.master_key, identity.self_signing_key, identity.user_signing_key)
        served = next((key for key in keys if key is not None and key.usage == uploaded.usage), None)
    if served is None:
        raise _not_served(user_id, name, isinstance(uploaded, DeviceKeys), result)
    if served != uploaded:
        raise _altered(served)
    return served.signed


def _altered(served: DeviceKeys | CrossSigningKey) -> VerificationError:
    reason = Reason.OWN_DEVICE_ALTERED if isinstance(served, DeviceKeys) else Reason.IDENTITY_CHANGED
    return VerificationError(reason, f"{served!r} is served with other signed members than were uploaded")


def _not_served(user_id: str, name: str, is_device: bool, result: QueryResult) -> VerificationError:
    """Return why nothing is served under a name."""
    if user_id not in result.users:
        return VerificationError(Reason.UNREQUESTED, f"nobody asked about {quoted(user_id)}")
    partition = result.devices if is_device else result.identities
    for rejection in (*partition.rejected, *partition.unsupported):
        if rejection.user_id == user_id and rejection.device_id in (None, name):
            return VerificationError(rejection.reason, f"what is served was refused: {rejection.detail}")
    answer = result.users[user_id]
    return VerificationError(
        Reason.NOT_SERVED, f"{quoted(name)} of {quoted(user_id)} is not served; the answer about the user is: {answer}"
    )
