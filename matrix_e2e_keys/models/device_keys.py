"""Device keys: the identity of one device, signed by itself, and by its owner if cross-signed.

Specification: client-server API, "Device keys", "Uploading keys"; ``definitions/device_keys.yaml``.

Facts:

* ``keys`` maps ``<algorithm>:<device_id>`` to a public key. The ed25519 key signs the object; a device that speaks
  Olm has a curve25519 key too. Keys of other algorithms are kept and not looked into.
* :class:`DeviceKeys` is well formed, and no more than that. :class:`VerifiedDevice` signed itself, and knows whether
  a self-signing key signed it. Only the checks below make one.
* The display name in ``unsigned`` is whatever the server says. It is not part of equality or of any judgment.

Deviations: a device without an ed25519 key is well formed here, so that a homeserver can keep it, but never becomes a
verified device. ``valid_after_ts`` and ``valid_until_ts`` of the 2015 draft are read if they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.identifiers import DeviceId, UserId
from matrix_e2e_keys.json_trees import JsonObject, snapshot
from matrix_e2e_keys.keys import (
    Curve25519PublicKey,
    Ed25519PublicKey,
    curve25519_fault,
    ed25519_fault,
)
from matrix_e2e_keys.models.cross_signing import checked_extra
from matrix_e2e_keys.models.device_key_shapes import CURVE25519_PREFIX, ED25519_PREFIX, key_refusal, read_shape
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signed_json import (
    SignatureQuestion,
    SignedJson,
    SignedParts,
    ask,
    encode_contents,
    new_signed_json,
    parts_of,
    require_same_bytes,
    signature_text,
    split_signed,
    why_not,
)
from matrix_e2e_keys.signing.signers import Signer, add_signature, check_signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["DeviceKeys", "VerifiedDevice", "read_device_keys", "verify_devices"]

_KEY_BYTES: Final = 32


@frozen(eq=False, repr=False)
class DeviceKeys(metaclass=Sealed):
    """A well-formed device keys object. Nothing about it has been verified.

    Made by :meth:`from_json` and :meth:`build`. Two are equal if the same bytes are signed.

    Attributes:
        user_id: the owner, according to the object.
        device_id: the device, according to the object.
        algorithms: the messaging algorithms the device says it supports.
        raw_ed25519: the 32 bytes of the signing key, ``None`` if the device has none.
        raw_curve25519: the 32 bytes of the Olm identity key, ``None`` if the device has none.
    """

    _parts: SignedParts
    user_id: UserId
    device_id: DeviceId
    algorithms: tuple[str, ...]
    _keys: dict[str, str]
    raw_ed25519: bytes | None
    raw_curve25519: bytes | None
    _self_signature: str | None

    @property
    def keys(self) -> Mapping[str, str]:
        """All keys, ``<algorithm>:<device_id>`` to text."""
        return MappingProxyType(self._keys)

    @property
    def signed(self) -> SignedJson:
        """The object as received, with its signed bytes, signatures and ``unsigned``."""
        return new_signed_json(self._parts)

    @classmethod
    def from_json(cls, obj: object) -> DeviceKeys:
        """Read a device keys object; the value given is copied, unknown members are kept.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the object.
        """
        (device,) = read_device_keys([snapshot(obj)])
        if isinstance(device, Refusal):
            raise device.to_error(RemoteProtocolError)
        return device

    @classmethod
    def build(
        cls,
        *,
        user_id: str,
        device_id: str,
        curve25519_key: Curve25519PublicKey,
        signer: Signer,
        algorithms: Sequence[str] = (OLM_V1, MEGOLM_V1),
        extra: Mapping[str, object] | None = None,
    ) -> DeviceKeys:
        """Build and sign the keys of one's own device.

        Args:
            user_id: the owner.
            device_id: the device.
            curve25519_key: its Olm identity key.
            signer: its ed25519 key, under the key id ``ed25519:<device_id>``.
            algorithms: the messaging algorithms it supports.
            extra: further members to sign. They cannot replace the members above.

        Raises:
            LocalProtocolError: the parts do not make an acceptable object.
        """
        if type(curve25519_key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the identity key must be a Curve25519PublicKey")
        if type(device_id) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the device id must be a string", path="/device_id")
        if isinstance(algorithms, str) or not isinstance(algorithms, Sequence):
            raise LocalProtocolError(Reason.WRONG_TYPE, "algorithms must be several strings", path="/algorithms")
        check_signer(signer)
        if str(signer.key_id) != f"{ED25519_PREFIX}{device_id}":
            raise LocalProtocolError(
                Reason.KEY_ID_NOT_DEVICE, f"the signer is {quoted(str(signer.key_id))}, not the device's own key"
            )
        obj = {
            **checked_extra(extra),
            "user_id": user_id,
            "device_id": device_id,
            "algorithms": list(algorithms),
            "keys": {
                f"{CURVE25519_PREFIX}{device_id}": curve25519_key.to_base64(),
                f"{ED25519_PREFIX}{device_id}": signer.public_key.to_base64(),
            },
        }
        with raised_as(LocalProtocolError):
            device = cls.from_json(obj)
        return device.with_signed(add_signature(device.signed, entity=user_id, signer=signer))

    def with_signed(self, signed: SignedJson) -> DeviceKeys:
        """Return the same device keys with other signatures or another ``unsigned`` part.

        Raises:
            LocalProtocolError: the signed bytes of ``signed`` are not those of this object.
        """
        require_same_bytes(signed, self.signed)
        return _with_parts(
            parts_of(signed),
            self.user_id,
            self.device_id,
            self.algorithms,
            self._keys,
            self.raw_ed25519,
            self.raw_curve25519,
        )

    def to_json(self) -> JsonObject:
        """Return the whole object, with everything it came with, as plain values the caller may change."""
        return self.signed.to_json()

    @property
    def ed25519_key(self) -> Ed25519PublicKey | None:
        """The signing key, ``None`` if the device has none."""
        return None if self.raw_ed25519 is None else Ed25519PublicKey(self.raw_ed25519)

    @property
    def curve25519_key(self) -> Curve25519PublicKey | None:
        """The Olm identity key, ``None`` if the device has none."""
        return None if self.raw_curve25519 is None else Curve25519PublicKey(self.raw_curve25519)

    @property
    def raw_keys(self) -> tuple[bytes, ...]:
        """The bytes of the ed25519 and curve25519 keys there are."""
        return tuple([raw for raw in (self.raw_ed25519, self.raw_curve25519) if raw is not None])

    @property
    def supports_olm(self) -> bool:
        """Whether the device says so *and* has the key for it."""
        return self.raw_curve25519 is not None and OLM_V1 in self.algorithms

    @property
    def is_dehydrated(self) -> bool:
        """Whether it is a device that only receives, until its owner takes it over (MSC3814)."""
        return self.signed.content.get("dehydrated") is True

    @property
    def untrusted_display_name(self) -> str | None:
        """The display name the server gives the device. May hold control characters; never decide by it."""
        unsigned = self.signed.untrusted_unsigned
        name = unsigned.get("device_display_name") if type(unsigned) is dict else None
        return name if type(name) is str else None

    @property
    def valid_after_ts(self) -> int | None:
        """Milliseconds since the epoch before which the keys are not to be used, if stated (2015 draft)."""
        return self._timestamp("valid_after_ts")

    @property
    def valid_until_ts(self) -> int | None:
        """Milliseconds since the epoch after which the keys are not to be used, if stated (2015 draft)."""
        return self._timestamp("valid_until_ts")

    def _timestamp(self, name: str) -> int | None:
        value = self.signed.content.get(name)
        return value if type(value) is int else None

    def verify(self, *, identity: UserIdentity | None = None, verifier: Verifier = LIBSODIUM) -> VerifiedDevice:
        """Check that the device signed itself, and whether ``identity`` signed it.

        Whether the object stood where it claims to belong is for the caller to check.

        Args:
            identity: the identity of the owner, if known. It is not an error if it did not sign the device; see
                :attr:`VerifiedDevice.cross_signed_by`.
            verifier: who checks.

        Raises:
            VerificationError: the device did not sign itself, or has no key to do so.
        """
        if identity is not None and type(identity) is not UserIdentity:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the identity must be a UserIdentity", path="/identity")
        ((verdict, _),) = verify_devices([self], [identity], verifier)
        if isinstance(verdict, Refusal):
            raise verdict.to_error(VerificationError)
        return verdict

    def __eq__(self, other: object) -> bool:
        if type(other) is not DeviceKeys:
            return NotImplemented
        return self._parts.canonical == other._parts.canonical

    def __hash__(self) -> int:
        return hash(self._parts.canonical)

    def __repr__(self) -> str:
        return f"<DeviceKeys of {quoted(self.user_id)} {quoted(self.device_id)}>"


@frozen(eq=True, repr=False)
class VerifiedDevice(metaclass=Sealed):
    """A device that signed itself. Only a check makes one.

    Attributes:
        keys: the device keys.
        cross_signed_by: the self-signing key that signed the device, ``None`` if none was found to. It says who
            signed, not whether the signer is still current: compare it with the identity you trust.
    """

    keys: DeviceKeys
    cross_signed_by: Ed25519PublicKey | None

    @property
    def user_id(self) -> UserId:
        """The owner."""
        return self.keys.user_id

    @property
    def device_id(self) -> DeviceId:
        """The device."""
        return self.keys.device_id

    @property
    def ed25519_key(self) -> Ed25519PublicKey:
        """The key the device signs with."""
        return Ed25519PublicKey(self.keys.raw_ed25519)  # type: ignore[arg-type]  # a verified device has one

    @property
    def curve25519_key(self) -> Curve25519PublicKey | None:
        """The Olm identity key, ``None`` if the device has none."""
        return self.keys.curve25519_key

    @property
    def supports_olm(self) -> bool:
        """Whether the device says so *and* has the key for it."""
        return self.keys.supports_olm

    @property
    def is_cross_signed(self) -> bool:
        """Whether its owner's self-signing key signed the device when it was checked."""
        return self.cross_signed_by is not None

    def __repr__(self) -> str:
        signed = "cross-signed" if self.is_cross_signed else "not cross-signed"
        return f"<VerifiedDevice {quoted(self.user_id)} {quoted(self.device_id)}, {signed}>"


_new_device: Final = constructor_of(DeviceKeys)


def _with_parts(parts: SignedParts, user_id: str, device_id: str, *rest: Any) -> DeviceKeys:
    self_signature = signature_text(parts, user_id, ED25519_PREFIX + device_id)
    return _new_device(parts, user_id, device_id, *rest, self_signature)


_new_verified: Final = constructor_of(VerifiedDevice)


# --------------------------------------------------------------------------------------------------------------
# Many at once
# --------------------------------------------------------------------------------------------------------------


def read_device_keys(trees: Sequence[Any]) -> list[DeviceKeys | Refusal]:
    """Read device keys objects from trees that nobody else changes.

    Strategy: check all shapes, then encode all contents, then decode all keys, since canonicaljson and
    unpaddedbase64 take longer to start than to work.
    """
    outcomes: list[Any] = []
    contents: list[dict[str, Any]] = []
    texts: list[str | None] = []
    known: dict[Any, Any] = {}
    for tree in trees:
        try:
            content, signatures, unsigned = split_signed(tree)
            user_id, device_id, algorithms, keys, ed25519_text, curve25519_text = read_shape(content, known)
        except Refusal as refusal:
            outcomes.append(refusal.with_traceback(None))
        else:
            outcomes.append((signatures, unsigned, user_id, device_id, algorithms, keys))
            contents.append(content)
            texts += (ed25519_text, curve25519_text)
    encoded = iter(encode_contents(contents))
    decoded = iter(unpadded_base64.decode_fixed(texts, _KEY_BYTES))
    for index, outcome in enumerate(outcomes):
        if type(outcome) is not tuple:
            continue
        canonical, ed25519, curve25519 = next(encoded), next(decoded), next(decoded)
        signatures, unsigned, user_id, device_id, algorithms, keys = outcome
        if type(canonical) is not bytes:
            outcomes[index] = canonical
        elif (
            ed25519 is not None
            and curve25519 is not None
            and ed25519 != curve25519
            and ed25519_fault(ed25519) is None
            and curve25519_fault(curve25519) is None
        ) or not (bad_key := key_refusal(device_id, keys)):
            parts = SignedParts(canonical, signatures, unsigned)
            outcomes[index] = _with_parts(parts, user_id, device_id, algorithms, keys, ed25519, curve25519)
        else:
            outcomes[index] = bad_key
    return outcomes


def verify_devices(
    devices: Sequence[DeviceKeys], identities: Sequence[UserIdentity | None], verifier: Verifier
) -> list[tuple[VerifiedDevice | Refusal, Refusal | None]]:
    """Check devices, each against the identity of its owner if there is one.

    Returns:
        For each device: the verified device, or why it is none; and why a cross-signature that it does carry is not
        a good one.
    """
    # Without a key there is nothing to ask, as there is without a signature.
    questions: list[SignatureQuestion] = [
        (device._parts.canonical, device._self_signature, raw)
        if (raw := device.raw_ed25519) is not None
        else (b"", None, b"")
        for device in devices
    ]
    signers: dict[int, UserIdentity] = {}
    for index, (device, identity) in enumerate(zip(devices, identities, strict=True)):
        if identity is not None and (question := identity._question_about(device.user_id, device._parts)):
            signers[index] = identity
            questions.append(question)
    answers = ask(questions, verifier)
    if not signers and all(answers):
        return [(_new_verified(device, None), None) for device in devices]
    cross_signed = dict(zip(signers, answers[len(devices) :], strict=True))
    verdicts: list[tuple[VerifiedDevice | Refusal, Refusal | None]] = []
    for index, (device, is_good) in enumerate(zip(devices, answers[: len(devices)], strict=True)):
        if not is_good:
            verdicts.append((_why_not_verified(device), None))
        elif index not in signers:
            verdicts.append((_new_verified(device, None), None))
        elif cross_signed[index]:
            verdicts.append((_new_verified(device, signers[index].self_signing_public_key), None))
        else:
            verdicts.append((_new_verified(device, None), signers[index]._why_not_signed(device._parts)))
    return verdicts


def _why_not_verified(device: DeviceKeys) -> Refusal:
    if device.raw_ed25519 is None:
        return Refusal(Reason.MISSING_KEY, "the device has no ed25519 key to sign itself with", "keys")
    return why_not(device._parts, device.user_id, ED25519_PREFIX + device.device_id)
