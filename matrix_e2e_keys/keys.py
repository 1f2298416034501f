"""Public keys, signatures and key ids as types of their own.

Specification: appendices, "Cryptographic key representation"; client-server API, "Key algorithms".

Facts:

* An Ed25519 key is accepted exactly if libsodium would ever accept a signature by it: 32 bytes, the canonical
  encoding of a point, not of small order. A small-order key can make one signature valid for every message.
* A point of mixed order passes libsodium and vodozemac alike, and passes here. No honest generator makes one;
  :meth:`Ed25519PublicKey.require_prime_order` is the (slow) policy for keys that name a person.
* A Curve25519 key is refused if its shared secret would be zero for everyone (the low-order points) or if it is not
  in the one canonical encoding. Points on the twist are fine: X25519 is defined for them.
* Keys compare by bytes, and an Ed25519 key never equals a Curve25519 key.
"""

from __future__ import annotations

from typing import Final

import nacl.bindings
import nacl.exceptions
from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted

__all__ = ["Curve25519PublicKey", "Ed25519PublicKey", "Ed25519Signature", "KeyId"]

_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_P: Final = 2**255 - 19
_SIGN_BIT: Final = 0x80


@frozen(order=True)
class KeyId:
    """The name of a key: ``<algorithm>:<name>``.

    The algorithm ends at the first colon; the name is a device id, a public key, or a server's own choice, and may
    hold colons itself.
    """

    algorithm: str
    name: str

    def __attrs_post_init__(self) -> None:
        for part in (self.algorithm, self.name):
            if type(part) is not str or not part:
                raise LocalProtocolError(Reason.INVALID_KEY_ID, "both parts of a key id must be non-empty strings")
        if ":" in self.algorithm:
            raise LocalProtocolError(Reason.INVALID_KEY_ID, "the algorithm of a key id cannot hold a colon")

    @classmethod
    def parse(cls, text: object) -> KeyId:
        """Read ``<algorithm>:<name>``.

        Raises:
            RemoteProtocolError: it is not a string, or one of the parts is missing.
        """
        if type(text) is not str:
            raise RemoteProtocolError(Reason.WRONG_TYPE, f"a key id must be a string, not {type(text).__name__}")
        algorithm, _, name = text.partition(":")
        if not algorithm or not name:
            raise RemoteProtocolError(Reason.INVALID_KEY_ID, f'{quoted(text)} is not of the form "<algorithm>:<name>"')
        return cls(algorithm, name)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.name}"


def _raw_bytes(raw: object, size: int, what: str) -> bytes:
    if type(raw) is not bytes:
        raise LocalProtocolError(Reason.WRONG_TYPE, f"{what} is made from bytes, not from {type(raw).__name__}")
    if len(raw) != size:
        raise RemoteProtocolError(Reason.WRONG_LENGTH, f"{what} has {size} bytes, not {len(raw)}")
    return raw


def _decoded(text: object, what: str) -> bytes:
    if type(text) is not str:
        raise RemoteProtocolError(Reason.WRONG_TYPE, f"{what} must be a base64 string, not {type(text).__name__}")
    raw = unpadded_base64.decode(text)
    if raw is None:
        raise RemoteProtocolError(Reason.INVALID_BASE64, f"{quoted(text)} is not {what} in unpadded base64")
    return raw


@frozen(repr=False)
class Ed25519PublicKey:
    """A public key that verifies signatures."""

    raw: bytes

    def __attrs_post_init__(self) -> None:
        raw = _raw_bytes(self.raw, _KEY_BYTES, "an Ed25519 key")
        fault = ed25519_fault(raw)
        if fault is not None:
            raise RemoteProtocolError(*fault)

    @classmethod
    def from_base64(cls, text: str) -> Ed25519PublicKey:
        """Read a key; correct padding is tolerated.

        Raises:
            RemoteProtocolError: not base64, not 32 bytes, of small order, or not the canonical encoding of a point.
        """
        return cls(_decoded(text, "an Ed25519 key"))

    def to_base64(self) -> str:
        """Return the key as unpadded base64."""
        return unpadded_base64.encode(self.raw)

    def require_prime_order(self) -> None:
        """Refuse a key outside the prime-order subgroup. Costs about as much as verifying a signature.

        Raises:
            RemoteProtocolError: the key has a small-order component, or libsodium cannot be trusted to tell.
        """
        if not _POINT_CHECK_WORKS or not nacl.bindings.crypto_core_ed25519_is_valid_point(self.raw):
            raise RemoteProtocolError(Reason.MIXED_ORDER_KEY, "the Ed25519 key is not in the prime-order subgroup")

    def __repr__(self) -> str:
        return f"Ed25519PublicKey({self.to_base64()!r})"


@frozen(repr=False)
class Curve25519PublicKey:
    """A public key for Diffie-Hellman: the identity key of a device, or a one-time key."""

    raw: bytes

    def __attrs_post_init__(self) -> None:
        raw = _raw_bytes(self.raw, _KEY_BYTES, "a Curve25519 key")
        fault = curve25519_fault(raw)
        if fault is not None:
            raise RemoteProtocolError(*fault)

    @classmethod
    def from_base64(cls, text: str) -> Curve25519PublicKey:
        """Read a key; correct padding is tolerated.

        Raises:
            RemoteProtocolError: not base64, not 32 bytes, of low order, or not canonically encoded.
        """
        return cls(_decoded(text, "a Curve25519 key"))

    def to_base64(self) -> str:
        """Return the key as unpadded base64."""
        return unpadded_base64.encode(self.raw)

    def __repr__(self) -> str:
        return f"Curve25519PublicKey({self.to_base64()!r})"


@frozen(repr=False)
class Ed25519Signature:
    """A signature: 64 bytes. Whether it is one by anybody is a question for a verifier."""

    raw: bytes

    def __attrs_post_init__(self) -> None:
        _raw_bytes(self.raw, _SIGNATURE_BYTES, "an Ed25519 signature")

    @classmethod
    def from_base64(cls, text: str) -> Ed25519Signature:
        """Read a signature; correct padding is tolerated.

        Raises:
            RemoteProtocolError: not base64, or not 64 bytes.
        """
        return cls(_decoded(text, "an Ed25519 signature"))

    def to_base64(self) -> str:
        """Return the signature as unpadded base64."""
        return unpadded_base64.encode(self.raw)

    def __repr__(self) -> str:
        return f"Ed25519Signature({self.to_base64()!r})"


# --------------------------------------------------------------------------------------------------------------
# Which 32 bytes are a key
# --------------------------------------------------------------------------------------------------------------

Fault = tuple[Reason, str]


def _encodings(*integers: int) -> frozenset[bytes]:
    return frozenset(integer.to_bytes(_KEY_BYTES, "little") for integer in integers)


# The y coordinates of the eight points of order 1, 2, 4 and 8, and the u coordinates that X25519 maps to zero (those
# of the same points, and -1 on the twist). tests/test_keys.py derives both from the equations of the curves.
_SMALL_ORDER_Y: Final = _encodings(
    0,
    1,
    _P - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
)
_LOW_ORDER_U: Final = _encodings(
    0,
    1,
    _P - 1,
    0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
)
_SMALL_ORDER_ED25519: Final = _SMALL_ORDER_Y | {raw[:-1] + bytes([raw[-1] | _SIGN_BIT]) for raw in _SMALL_ORDER_Y}


def _not_reduced(raw: bytes) -> bool:
    """Tell whether the lower 255 bits are p or more. One key in 2**250 gets past the first comparison."""
    return raw[31] & 0x7F == 0x7F and int.from_bytes(raw, "little") & (2**255 - 1) >= _P


def ed25519_fault(raw: bytes) -> Fault | None:
    """Return why 32 bytes are not an acceptable Ed25519 key, ``None`` if they are.

    Whether they are a point at all is left to verification, which fails if they are not.
    """
    if raw in _SMALL_ORDER_ED25519:
        return Reason.WEAK_KEY, "the Ed25519 key is a point of small order"
    if _not_reduced(raw):
        return Reason.NON_CANONICAL_KEY, "the Ed25519 key is not in its canonical encoding"
    return None


def is_ed25519_point(raw: bytes) -> bool:
    """Internal: tell whether 32 bytes are a point at all, of whatever order. For keys whose signature nobody asks for.

    Costs about a quarter of verifying a signature.
    """
    try:
        nacl.bindings.crypto_core_ed25519_add(raw, raw)
    except nacl.exceptions.RuntimeError:
        return False
    return True


def curve25519_fault(raw: bytes) -> Fault | None:
    """Return why 32 bytes are not an acceptable Curve25519 key, ``None`` if they are."""
    if raw in _LOW_ORDER_U:
        return Reason.WEAK_KEY, "the Curve25519 key is a point of low order"
    if raw[31] & _SIGN_BIT or _not_reduced(raw):
        return Reason.NON_CANONICAL_KEY, "the Curve25519 key is not in its canonical encoding"
    return None


# A point of mixed order: a prime-order point plus the point of order two, which negates y. libsodium before the fix for
# CVE-2025-69277 took some of these for prime-order points; if ours does, require_prime_order refuses every key.
_MIXED_ORDER: Final = (_P - 4 * pow(5, -1, _P) % _P).to_bytes(_KEY_BYTES, "little")
_POINT_CHECK_WORKS: Final = not nacl.bindings.crypto_core_ed25519_is_valid_point(_MIXED_ORDER)
