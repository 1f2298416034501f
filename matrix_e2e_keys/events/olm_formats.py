"""What can be read of a message or a session key without any secret: the open parts of the formats of Olm and Megolm.

Specification: "Olm: A Cryptographic Ratchet", "Message format", "Pre-key messages"; "Megolm group ratchet", "Message
format", "Session sharing format", "Session export format".

Facts:

* Messages are a version byte, 3, then fields: a tag, and an integer or a text of bytes; a message authentication code
  follows, and in Megolm a signature. Tags that are not recognized are skipped. A recognized one that stands twice is
  refused: two readers could take different fields. So is an integer that does not fit into 64 bits.
* The signing key of a Megolm session is its id, in unpadded base64. So a session key says by itself which session it
  belongs to, and from which message on it opens it.
* In the session sharing format the whole is signed by that key. In the export format nothing is; that the key is a
  point is checked, since no ratchet takes it otherwise.

No ratchet is turned here, and nothing is decrypted. Session keys are secrets: they appear in no error and no ``repr``.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, Final

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.errors import Reason, Refusal, RemoteProtocolError
from matrix_e2e_keys.events.contents import bytes_of
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey, is_ed25519_point
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.verifiers import LIBSODIUM

__all__ = [
    "MegolmSessionKey",
    "OlmMessageType",
    "PreKeyHeader",
    "megolm_message_index",
    "olm_body",
    "read_megolm_session_key",
    "read_pre_key_header",
]

_VERSION: Final = 3
_MAC_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES: Final = 32
_RATCHET_BYTES: Final = 128
_INDEX_BYTES: Final = 4
_SHARED: Final = 2
_EXPORTED: Final = 1
_OPEN_BYTES: Final = 1 + _INDEX_BYTES + _RATCHET_BYTES + _KEY_BYTES
_MAX_VARINT_BYTES: Final = 10
_MAX_VARINT: Final = 2**64 - 1
_MAX_INDEX: Final = 2**32 - 1


class OlmMessageType(enum.IntEnum):
    """The ``type`` of an Olm message."""

    PRE_KEY = 0
    """It holds what the recipient needs to open a session."""
    NORMAL = 1
    """It can only be read with a session that is there."""


@frozen(kw_only=True)
class PreKeyHeader:
    """The keys that a pre-key message names. Whoever sent it may have written anything there.

    Attributes:
        one_time_key: which of the recipient's one-time or fallback keys the session was made with.
        base_key: the sender's key for this session only.
        identity_key: the sender's Olm identity key. It must be the ``sender_key`` of the content around the message.
    """

    one_time_key: Curve25519PublicKey
    base_key: Curve25519PublicKey
    identity_key: Curve25519PublicKey


@frozen(repr=False)
class MegolmSessionKey(metaclass=Sealed):
    """What a session key says of itself. Only :func:`read_megolm_session_key` makes one.

    Attributes:
        session_id: the id of the session: its signing key in unpadded base64.
        first_index: the first message that the key opens.
        is_signed: whether it is in the session sharing format, in which the session's own key signs it. That was
            checked. In the export format anybody may have put it together.
        text: the session key itself. A secret.
    """

    session_id: str
    first_index: int
    is_signed: bool
    text: str

    def __repr__(self) -> str:
        signed = "signed" if self.is_signed else "not signed"
        return f"<MegolmSessionKey of {self.session_id!r} from {self.first_index}, {signed}>"


_new_session_key: Final = constructor_of(MegolmSessionKey)


def read_pre_key_header(body: str) -> PreKeyHeader:
    """Return the keys that the ``body`` of a pre-key message names.

    Tell :meth:`~matrix_e2e_keys.KeySupply.receive_use` about the one-time key, once the message was decrypted.

    Args:
        body: the message in unpadded base64.

    Raises:
        RemoteProtocolError: it is no pre-key message.
    """
    try:
        fields = olm_body(body, OlmMessageType.PRE_KEY)
        keys = [_key(Curve25519PublicKey, fields[tag], name) for tag, name in _PRE_KEY_FIELDS.items()]
    except Refusal as refusal:
        raise refusal.to_error(RemoteProtocolError) from None
    return PreKeyHeader(one_time_key=keys[0], base_key=keys[1], identity_key=keys[2])


def megolm_message_index(ciphertext: str) -> int:
    """Return the index that a Megolm message states.

    For asking whether a session key opens it. The index that counts is the one that the ratchet returns with the
    plaintext.

    Args:
        ciphertext: the message in unpadded base64.

    Raises:
        RemoteProtocolError: it is no Megolm message.
    """
    try:
        return megolm_body(ciphertext)
    except Refusal as refusal:
        raise refusal.to_error(RemoteProtocolError) from None


def read_megolm_session_key(text: str) -> MegolmSessionKey:
    """Return what a Megolm session key says of itself, in the session sharing or the session export format.

    Args:
        text: the session key in unpadded base64.

    Raises:
        RemoteProtocolError: it is in neither format, its signing key is none, or its signature is not good. The text is
            not quoted.
    """
    try:
        raw = bytes_of(text, "a session key")
        signature = _session_key_signature(raw)
        signing_key = _key(Ed25519PublicKey, raw[_OPEN_BYTES - _KEY_BYTES : _OPEN_BYTES], "the signing key")
        question = (signing_key.raw, raw[:_OPEN_BYTES], signature or b"")
        if signature is None and not is_ed25519_point(signing_key.raw):
            raise Refusal(Reason.NON_CANONICAL_KEY, "the signing key: the Ed25519 key is not a point of its curve")
        if signature is not None and LIBSODIUM.verify_many([question]) != [True]:
            raise Refusal(Reason.INVALID_SIGNATURE, "the session key is not signed by the session's own key")
    except Refusal as refusal:
        raise refusal.to_error(RemoteProtocolError) from None
    return _new_session_key(
        signing_key.to_base64(),
        int.from_bytes(raw[1 : 1 + _INDEX_BYTES], "big"),
        signature is not None,
        unpadded_base64.encode(raw),
    )


def _session_key_signature(raw: bytes) -> bytes | None:
    """Return the signature of a session key in the sharing format, ``None`` if it is in the export format."""
    if raw[0] == _SHARED and len(raw) == _OPEN_BYTES + _SIGNATURE_BYTES:
        return raw[_OPEN_BYTES:]
    if raw[0] == _EXPORTED and len(raw) == _OPEN_BYTES:
        return None
    if len(raw) in (_OPEN_BYTES, _OPEN_BYTES + _SIGNATURE_BYTES):
        raise Refusal(Reason.INVALID_VALUE, "the version of the session key is not that of a key of its length")
    raise Refusal(Reason.WRONG_LENGTH, f"no session key has {len(raw)} bytes")


# --------------------------------------------------------------------------------------------------------------
# Messages
# --------------------------------------------------------------------------------------------------------------

_Fields = dict[int, Any]

_INTEGER, _TEXT = 0, 2
_PRE_KEY_FIELDS: Final = {0x0A: "the one-time key", 0x12: "the base key", 0x1A: "the identity key"}
_PRE_KEY_MESSAGE: Final = 0x22
_RATCHET_KEY, _CHAIN_INDEX, _OLM_CIPHERTEXT = 0x0A, 0x10, 0x22
_MESSAGE_INDEX, _MEGOLM_CIPHERTEXT = 0x08, 0x12


def olm_body(body: object, message_type: OlmMessageType, *at: str | int) -> _Fields:
    """Return the recognized fields of an Olm message, each by its tag.

    Raises:
        Refusal: it is no message of that type.
    """
    raw = bytes_of(body, "the body of a message", *at)
    try:
        if message_type is OlmMessageType.NORMAL:
            return _normal_message(raw)
        fields = _fields(raw, _PRE_KEY_FIELDS.keys() | {_PRE_KEY_MESSAGE})
        _normal_message(fields[_PRE_KEY_MESSAGE])
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, *at) from None
    return fields


def megolm_body(ciphertext: object, *at: str | int) -> int:
    """Return the index of a Megolm message.

    Raises:
        Refusal: it is none.
    """
    raw = bytes_of(ciphertext, "the ciphertext", *at)
    try:
        fields = _fields(_without(raw, _MAC_BYTES + _SIGNATURE_BYTES), {_MESSAGE_INDEX, _MEGOLM_CIPHERTEXT})
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, *at) from None
    index: int = fields[_MESSAGE_INDEX]
    if index > _MAX_INDEX:
        raise Refusal(Reason.INVALID_VALUE, "the index of a message has at most 32 bits", *at)
    return index


def _normal_message(raw: bytes) -> _Fields:
    fields = _fields(_without(raw, _MAC_BYTES), {_RATCHET_KEY, _CHAIN_INDEX, _OLM_CIPHERTEXT})
    if len(fields[_RATCHET_KEY]) != _KEY_BYTES:
        raise _truncated()
    return fields


def _without(raw: bytes, count: int) -> bytes:
    """Return a message without what follows its fields."""
    if len(raw) <= count:
        raise _truncated()
    return raw[:-count]


def _fields(raw: bytes, required: set[int]) -> _Fields:
    """Return those fields of a message that have to be there, each by its tag."""
    if raw[0] != _VERSION:
        raise Refusal(Reason.INVALID_VALUE, f"the version of a message is {_VERSION}, not {raw[0]}")
    fields: _Fields = {}
    for tag, value in _read_fields(raw):
        if tag not in required:
            continue
        if tag in fields:
            raise Refusal(Reason.DUPLICATE_MEMBER, f"the field {tag:#04x} stands twice in the message")
        fields[tag] = value
    for tag in sorted(required):
        if tag not in fields:
            raise Refusal(Reason.MISSING_MEMBER, f"the field {tag:#04x} is missing in the message")
    return fields


def _read_fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    at = 1
    while at < len(raw):
        tag, at = _varint(raw, at)
        value, at = _varint(raw, at)
        if tag & 7 == _TEXT:
            end = at + value
            if end > len(raw):
                raise _truncated()
            yield tag, raw[at:end]
            at = end
        elif tag & 7 == _INTEGER:
            yield tag, value
        else:
            raise Refusal(Reason.INVALID_VALUE, f"the message holds a field of an unknown kind, {tag:#04x}")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return the integer at a place: seven bits a byte, the lowest first, and the place behind it."""
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if at >= len(raw):
            raise _truncated()
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80 and value <= _MAX_VARINT:
            return value, at
    raise Refusal(Reason.INVALID_VALUE, "an integer in the message has more than 64 bits")


def _truncated() -> Refusal:
    return Refusal(Reason.WRONG_LENGTH, "the message is cut off, or not one of this type")


def _key(kind: type[Any], raw: bytes, name: str) -> Any:
    try:
        return kind(raw)
    except RemoteProtocolError as error:
        raise Refusal(error.reason, f"{name}: {error.detail}") from None
