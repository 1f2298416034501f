"""Signers: who can put a signature under canonical bytes.

Facts:

* A :class:`Signer` is a key id, a public key and ``sign``. Anything with these three can sign: the private key of
  this library, an HSM, or one of the adapters for PyNaCl, signedjson and vodozemac keys below. The adapters import
  none of these packages; they use what the object at hand offers.
* What a signer returns is verified before it is used. A signer whose public key does not fit its signatures is found
  where it signs, not where somebody fails to verify.
* Private keys do not show in ``repr`` and refuse to be pickled. Python gives no way to wipe memory or to promise
  constant time, so neither is promised.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn, Protocol

import nacl.signing
from attrs import field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, VerificationError, raised_as
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Ed25519PublicKey, Ed25519Signature, KeyId
from matrix_e2e_keys.signing.signed_json import SignedJson, local_key_id

__all__ = [
    "Ed25519SecretKey",
    "NaclSigner",
    "SecretKeySigner",
    "SignedjsonSigner",
    "Signer",
    "VodozemacSigner",
    "add_signature",
    "check_signer",
    "sign_json",
]

_SEED_BYTES: Final = 32
_NOT_COPIED: Final = "a private key is not pickled or copied; export its seed"


class Signer(Protocol):
    """Puts an Ed25519 signature under bytes."""

    @property
    def key_id(self) -> KeyId:
        """The key id under which the signature is stored."""
        ...  # pragma: no cover

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half of the key that signs."""
        ...  # pragma: no cover

    def sign(self, message: bytes, /) -> Ed25519Signature:
        """Return the signature over ``message``."""
        ...  # pragma: no cover


def _signing_key(seed: bytes) -> nacl.signing.SigningKey:
    if type(seed) is not bytes or len(seed) != _SEED_BYTES:
        raise LocalProtocolError(Reason.WRONG_LENGTH, f"the seed of an Ed25519 key is {_SEED_BYTES} bytes")
    return nacl.signing.SigningKey(seed)


@frozen(repr=False, eq=False)
class Ed25519SecretKey:
    """A private Ed25519 key, made from its 32-byte seed. It has no equality: compare public keys."""

    _key: nacl.signing.SigningKey = field(alias="seed", converter=_signing_key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        return Ed25519PublicKey(bytes(self._key.verify_key))

    @classmethod
    def generate(cls) -> Ed25519SecretKey:
        """Return a fresh key from the operating system's random source."""
        return cls(bytes(nacl.signing.SigningKey.generate()))

    @classmethod
    def from_base64(cls, seed: str) -> Ed25519SecretKey:
        """Read a 32-byte seed. Spare bits in the last character are ignored, as in the specification's test seed.

        Raises:
            LocalProtocolError: not base64, or not 32 bytes. The text is not quoted.
        """
        decoded = unpadded_base64.decode_seed(seed)
        if decoded is None:
            raise LocalProtocolError(Reason.INVALID_BASE64, "the seed is not unpadded base64")
        return cls(decoded)

    def export_base64(self) -> str:
        """Return the 32-byte seed as unpadded base64. Whoever has it can sign."""
        return unpadded_base64.encode(bytes(self._key))

    def sign(self, message: bytes, /) -> Ed25519Signature:
        """Return the signature over ``message``.

        Raises:
            LocalProtocolError: ``message`` is not ``bytes``.
        """
        return Ed25519Signature(bytes(self._key.sign(_message(message)).signature))

    def signer(self, key_id: KeyId | str) -> SecretKeySigner:
        """Return a :class:`Signer` that uses this key under ``key_id``, for example ``"ed25519:JLAFKJWSCS"``.

        Raises:
            LocalProtocolError: the key id is none, or names another algorithm.
        """
        return SecretKeySigner(key_id=_ed25519_key_id(key_id), secret_key=self)

    def cross_signer(self) -> SecretKeySigner:
        """Return a :class:`Signer` for a cross-signing key, whose key id is its public key."""
        return self.signer(KeyId(ED25519, self.public_key.to_base64()))

    def __repr__(self) -> str:
        return f"<Ed25519SecretKey of {self.public_key.to_base64()}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, _NOT_COPIED)


@frozen(kw_only=True)
class SecretKeySigner:
    """A :class:`Signer` made of a private key and the key id it goes by."""

    key_id: KeyId
    secret_key: Ed25519SecretKey

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half of the key."""
        return self.secret_key.public_key

    def sign(self, message: bytes, /) -> Ed25519Signature:
        """Return the signature over ``message``."""
        return self.secret_key.sign(message)


@frozen(kw_only=True)
class NaclSigner:
    """A :class:`Signer` around a ``nacl.signing.SigningKey``."""

    key_id: KeyId
    public_key: Ed25519PublicKey
    _key: nacl.signing.SigningKey = field(repr=False, alias="key")

    @classmethod
    def of(cls, key: nacl.signing.SigningKey, key_id: KeyId | str) -> NaclSigner:
        """Return a signer that uses ``key`` under ``key_id``.

        Raises:
            LocalProtocolError: the key is not a ``SigningKey``, or the key id is none.
        """
        if not isinstance(key, nacl.signing.SigningKey):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a NaclSigner needs a nacl.signing.SigningKey")
        return cls(key_id=_ed25519_key_id(key_id), public_key=Ed25519PublicKey(bytes(key.verify_key)), key=key)

    def sign(self, message: bytes, /) -> Ed25519Signature:
        """Return the signature over ``message``."""
        return Ed25519Signature(bytes(self._key.sign(_message(message)).signature))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError(Reason.INVALID_VALUE, _NOT_COPIED)


class SignedjsonSigner:
    """A :class:`Signer` around a key of the ``signedjson`` package: a PyNaCl key with ``alg`` and ``version``."""

    @staticmethod
    def of(key: Any) -> NaclSigner:
        """Return a signer that uses ``key`` under the key id it carries.

        Raises:
            LocalProtocolError: the key has no ``alg`` and ``version``, or is not an Ed25519 signing key.
        """
        algorithm, version = getattr(key, "alg", None), getattr(key, "version", None)
        if type(algorithm) is not str or type(version) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a signedjson key carries its key id in .alg and .version")
        return NaclSigner.of(key, KeyId(algorithm, version))


class _VodozemacKey(Protocol):
    def to_base64(self) -> str: ...  # pragma: no cover


class _VodozemacAccount(Protocol):
    @property
    def ed25519_key(self) -> _VodozemacKey: ...  # pragma: no cover

    def sign(self, message: bytes, /) -> _VodozemacKey: ...  # pragma: no cover


@frozen(kw_only=True)
class VodozemacSigner:
    """A :class:`Signer` around a vodozemac ``Account``: the identity key of a device."""

    key_id: KeyId
    public_key: Ed25519PublicKey
    _account: _VodozemacAccount = field(repr=False, alias="account")

    @classmethod
    def of(cls, account: _VodozemacAccount, device_id: str) -> VodozemacSigner:
        """Return a signer that uses ``account`` under ``ed25519:<device_id>``.

        Raises:
            LocalProtocolError: the device id is empty, or the account is none.
        """
        try:
            public_key = Ed25519PublicKey.from_base64(account.ed25519_key.to_base64())
        except (AttributeError, TypeError, E2EKeysError):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a VodozemacSigner needs a vodozemac Account") from None
        return cls(key_id=KeyId(ED25519, device_id), public_key=public_key, account=account)

    def sign(self, message: bytes, /) -> Ed25519Signature:
        """Return the signature over ``message``."""
        return Ed25519Signature.from_base64(self._account.sign(_message(message)).to_base64())


def sign_json(obj: object, *, entity: str, signer: Signer) -> JsonObject:
    """Return a copy of the JSON object ``obj`` with a signature by ``entity`` added.

    ``signatures`` and ``unsigned`` are kept and not signed. A signature under the same entity and key id is replaced.

    Args:
        obj: a ``dict``. It is not changed.
        entity: the user id or server name that signs.
        signer: who signs, see :class:`Signer`.

    Raises:
        LocalProtocolError: the object has no canonical encoding, ``signatures`` in it is malformed, or the signer's
            signature does not fit its public key.
    """
    with raised_as(LocalProtocolError):  # what is being signed is the caller's own
        signed = SignedJson.from_json(obj)
    return add_signature(signed, entity=entity, signer=signer).to_json()


def add_signature(signed: SignedJson, *, entity: str, signer: Signer) -> SignedJson:
    """Return ``signed`` with a signature by ``entity`` added.

    Raises:
        LocalProtocolError: an argument has the wrong type, or the signer's signature does not fit its public key.
    """
    check_signer(signer)
    key_id, public_key, sign = signer.key_id, signer.public_key, signer.sign
    result = signed.with_signature(entity, key_id, sign(signed.canonical))
    try:
        result.verify(entity=entity, key_id=key_id, key=public_key)
    except VerificationError as error:
        raise LocalProtocolError(
            error.reason, f"the signer {key_id} does not sign with its own public key", path=error.path
        ) from None
    return result


def check_signer(signer: object) -> None:
    """Refuse what is no :class:`Signer`.

    Raises:
        LocalProtocolError: it is none.
    """
    if not all(hasattr(signer, name) for name in ("key_id", "public_key", "sign")):
        raise LocalProtocolError(Reason.WRONG_TYPE, f"{type(signer).__name__} is not a Signer", path="/signer")
    if type(getattr(signer, "public_key", None)) is not Ed25519PublicKey:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a signer's key must be an Ed25519PublicKey", path="/signer")


def _message(message: object) -> bytes:
    if type(message) is not bytes:
        raise LocalProtocolError(Reason.WRONG_TYPE, f"bytes are signed, not {type(message).__name__}")
    return message


def _ed25519_key_id(key_id: KeyId | str) -> KeyId:
    parsed = local_key_id(key_id)
    if parsed.algorithm != ED25519:
        raise LocalProtocolError(
            Reason.UNSUPPORTED_ALGORITHM, f"an Ed25519 key cannot sign as {parsed}", path="/key_id"
        )
    return parsed
