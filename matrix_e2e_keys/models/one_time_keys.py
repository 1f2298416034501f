"""One-time keys and fallback keys.

Specification: client-server API, "One-time and fallback keys"; ``definitions/one_time_keys.yaml``.

Facts:

* Two forms exist on the wire. A ``signed_curve25519`` key is an object ``{key, signatures, fallback?}``, signed by its
  device; ``fallback: true`` is part of what is signed. A key of another algorithm may be a bare string: so were the
  ``curve25519`` keys of the 2015 draft, deliberately unsigned. A bare string can never be verified.
* The key id names the algorithm and the key; it is not part of the signed object. The same id may name a one-time key
  and, later, a fallback key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys.algorithms import CURVE25519, ED25519, SIGNED_CURVE25519
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.json_trees import JsonObject, JsonValue, refused_places, snapshot, wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, KeyId
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signed_json import (
    SignatureQuestion,
    SignedJson,
    ask,
    new_signed_json,
    parts_of,
    read_signed_objects,
    signature_text,
    why_not,
)
from matrix_e2e_keys.signing.signers import Signer, add_signature
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["OneTimeKey", "VerifiedOneTimeKey", "read_one_time_key", "verify_one_time_keys"]


@frozen(repr=False)
class OneTimeKey(metaclass=Sealed):
    """A well-formed one-time or fallback key. Nothing about it has been verified.

    Made by :meth:`from_json` and :meth:`build`. Two are equal if key id, key and signed bytes are the same.

    Attributes:
        key_id: ``<algorithm>:<name>``.
        key: the key as text.
        fallback: whether it says it is a fallback key.
        signed: the object form as received, ``None`` for a bare string.
        public_key: the Curve25519 key, ``None`` for algorithms this library does not know.
    """

    key_id: KeyId
    key: str
    fallback: bool
    signed: SignedJson | None
    public_key: Curve25519PublicKey | None

    @classmethod
    def from_json(cls, key_id: KeyId | str, value: object) -> OneTimeKey:
        """Read a one-time key; the value given is copied, unknown members are kept.

        Args:
            key_id: the name under which it stands.
            value: an object or a string.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the value.
        """
        with raised_as(RemoteProtocolError):
            return read_one_time_key(key_id, snapshot(value))

    @classmethod
    def build(
        cls, *, key_id: KeyId | str, key: Curve25519PublicKey, user_id: str, signer: Signer, fallback: bool = False
    ) -> OneTimeKey:
        """Build and sign a one-time key, or with ``fallback=True`` a fallback key, of one's own device.

        Args:
            key_id: ``signed_curve25519:<name>``.
            key: the public half.
            user_id: the owner of the device.
            signer: the device's ed25519 key, under the key id ``ed25519:<device_id>``.
            fallback: whether it is a fallback key.

        Raises:
            LocalProtocolError: the parts do not make an acceptable object.
        """
        if type(key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a one-time key must be a Curve25519PublicKey")
        obj: JsonObject = {"key": key.to_base64()}
        if fallback:
            obj["fallback"] = True
        with raised_as(LocalProtocolError):
            one_time_key = cls.from_json(key_id, obj)
        if one_time_key.signed is None or one_time_key.key_id.algorithm != SIGNED_CURVE25519:
            raise LocalProtocolError(Reason.INVALID_KEY_ID, f"a signed key is named {SIGNED_CURVE25519}:<name>")
        signed = add_signature(one_time_key.signed, entity=user_id, signer=signer)
        return _new(one_time_key.key_id, one_time_key.key, fallback, signed, key)

    def to_json(self) -> JsonValue:
        """Return the object or the string, as a value the caller may change."""
        return self.key if self.signed is None else self.signed.to_json()

    def verify(self, *, device: VerifiedDevice, verifier: Verifier = LIBSODIUM) -> VerifiedOneTimeKey:
        """Check that ``device`` signed this key.

        Args:
            device: the device the key was claimed from, verified before.
            verifier: who checks.

        Raises:
            VerificationError: it did not, or the key is a bare string, which nobody can have signed, or it is of an
                algorithm this library does not know, or it is also one of the device's own keys.
        """
        if type(device) is not VerifiedDevice:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a one-time key is verified against a VerifiedDevice")
        (verdict,) = verify_one_time_keys([(self, device)], verifier)
        if isinstance(verdict, Refusal):
            raise verdict.to_error(VerificationError)
        return verdict

    def __repr__(self) -> str:
        return f"<OneTimeKey {quoted(str(self.key_id))}{' (fallback)' if self.fallback else ''}>"


_new: Final = constructor_of(OneTimeKey)


@frozen(repr=False)
class VerifiedOneTimeKey(metaclass=Sealed):
    """A one-time or fallback key that its device signed. Only a check makes one.

    Attributes:
        device: the device.
        one_time_key: the key as it was handed out.
    """

    device: VerifiedDevice
    one_time_key: OneTimeKey

    @property
    def key_id(self) -> KeyId:
        """The id under which it was handed out. It is not signed."""
        return self.one_time_key.key_id

    @property
    def public_key(self) -> Curve25519PublicKey:
        """The key to make a session with."""
        return self.one_time_key.public_key  # type: ignore[return-value]  # a verified one has one

    @property
    def is_fallback(self) -> bool:
        """Whether its device says that it is a fallback key.

        Others are given the same key, so that a first message made with it can be replayed.
        """
        return self.one_time_key.fallback

    def __repr__(self) -> str:
        return f"<VerifiedOneTimeKey of {self.device!r}, {self.one_time_key!r}>"


_new_verified: Final = constructor_of(VerifiedOneTimeKey)


def verify_one_time_keys(
    keys: Sequence[tuple[OneTimeKey, VerifiedDevice]], verifier: Verifier
) -> list[VerifiedOneTimeKey | Refusal]:
    """Check one-time keys, each against its device."""
    questions: list[SignatureQuestion] = []
    for one_time_key, device in keys:
        parts = None if one_time_key.signed is None else parts_of(one_time_key.signed)
        text = None if parts is None else signature_text(parts, device.user_id, f"{ED25519}:{device.device_id}")
        questions.append((b"" if parts is None else parts.canonical, text, device.ed25519_key.raw))
    verdicts: list[VerifiedOneTimeKey | Refusal] = []
    for (one_time_key, device), is_good in zip(keys, ask(questions, verifier), strict=True):
        if one_time_key.signed is None:
            verdicts.append(Refusal(Reason.MISSING_SIGNATURE, "a key that is a bare string has no signature"))
        elif one_time_key.public_key is None:
            algorithm = quoted(one_time_key.key_id.algorithm)
            detail = f"{algorithm} is not an algorithm this library knows keys of"
            verdicts.append(Refusal(Reason.UNSUPPORTED_ALGORITHM, detail))
        elif not is_good:
            parts = parts_of(one_time_key.signed)
            verdicts.append(why_not(parts, device.user_id, f"{ED25519}:{device.device_id}"))
        elif one_time_key.public_key.raw in device.keys.raw_keys:
            verdicts.append(Refusal(Reason.KEY_REUSED, "the one-time key is also a key of the device itself", "key"))
        else:
            verdicts.append(_new_verified(device, one_time_key))
    return verdicts


def read_one_time_key(key_id: KeyId | str, tree: Any) -> OneTimeKey:
    """Read a one-time key from a tree that nobody else changes.

    Raises:
        Refusal: it is malformed.
    """
    key_id = key_id if type(key_id) is KeyId else _read_key_id(key_id)
    signed: SignedJson | None = None
    fallback: Any = False
    place: tuple[str, ...] = ()
    if type(tree) is str:
        if key_id.algorithm == SIGNED_CURVE25519:
            raise Refusal(Reason.WRONG_TYPE, f"a {SIGNED_CURVE25519} key must be an object, not a string")
        for _, reason, detail in refused_places(tree):
            raise Refusal(reason, detail)
        key = tree
    elif type(tree) is dict:
        (result,) = read_signed_objects([tree])
        if isinstance(result, Refusal):
            raise result
        signed = new_signed_json(result)
        place = ("key",)
        if "key" not in tree:
            raise Refusal(Reason.MISSING_MEMBER, "the one-time key has no key", *place)
        key = tree["key"]
        if type(key) is not str:
            raise wrong_type("the key must be a string", key, *place)
        fallback = tree.get("fallback", False)
        if type(fallback) is not bool:
            raise wrong_type("fallback must be a boolean", fallback, "fallback")
    else:
        raise wrong_type("a one-time key must be an object or a string", tree)
    public_key = None
    if key_id.algorithm in (SIGNED_CURVE25519, CURVE25519):
        try:
            public_key = Curve25519PublicKey.from_base64(key)
        except RemoteProtocolError as error:
            raise Refusal(error.reason, error.detail, *place) from None
    return _new(key_id, key, fallback, signed, public_key)


def _read_key_id(text: object) -> KeyId:
    try:
        return KeyId.parse(text)
    except RemoteProtocolError as error:
        raise Refusal(error.reason, error.detail) from None
