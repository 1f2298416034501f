"""The signed JSON object as an immutable value, and the questions one can ask of its signatures.

Specification: appendices, "Signing JSON" and "Checking for a Signature".

Facts:

* The bytes that are signed are the canonical encoding of the object without its top-level ``signatures`` and
  ``unsigned``. They are made once, from what was received, and kept. Nothing is ever re-serialized from typed
  attributes in order to verify, so unknown members survive, and so does what they mean to the signature.
* The caller names who must have signed: entity, key id, key. What the object happens to contain never decides what
  is asked of it; an object without signatures is never a good one.
* Only the signature in question is looked at. Others may be broken, or a million: they cost nothing.
* ``signatures`` and ``unsigned`` *inside* the object are ordinary, signed members.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.canonical_json import encode_objects
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    json_pointer,
    printable,
    quoted,
)
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import (
    DEFAULT_LIMITS,
    WIDEST_LIMITS,
    JsonLimits,
    JsonObject,
    refused_places,
    snapshot,
    thaw,
    wrong_type,
)
from matrix_e2e_keys.keys import Ed25519PublicKey, Ed25519Signature, KeyId
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, answered

__all__ = ["SignatureQuestion", "SignedJson", "SignedParts", "ask", "read_signed_objects", "verify_json"]

_SIGNATURE_BYTES: Final = 64


class SignedParts(NamedTuple):
    """Internal: a signed object taken apart. Nobody changes the two trees."""

    canonical: bytes
    """The signed bytes."""
    signatures: dict[str, dict[str, str]] | None
    """Entity to key id to text, ``None`` if there is no such member."""
    unsigned: Any
    """A tree, ``ABSENT`` if there is no such member."""


class _Absent(enum.Enum):
    ABSENT = enum.auto()  # an enum member stays itself when it is copied or pickled


ABSENT: Final = _Absent.ABSENT


@frozen(eq=False, repr=False)
class SignedJson(metaclass=Sealed):
    """A JSON object with signatures, as it was received or built.

    Two of them are equal if the same bytes are signed: signatures and ``unsigned`` are left out.
    """

    _parts: SignedParts

    @property
    def canonical(self) -> bytes:
        """The signed bytes."""
        return self._parts.canonical

    @classmethod
    def from_json(cls, obj: object) -> SignedJson:
        """Take over a JSON object; the value given is copied.

        Raises:
            RemoteProtocolError: it is not an object, ``signatures`` is not a map of maps of strings, or a signed
                part has no canonical encoding.
        """
        return _read_one(snapshot(obj))

    @classmethod
    def from_bytes(cls, data: bytes | str, *, limits: JsonLimits = DEFAULT_LIMITS) -> SignedJson:
        """Read a JSON object from a document.

        Raises:
            RemoteProtocolError: see :meth:`from_json` and :func:`~matrix_e2e_keys.parse_json`.
        """
        return _read_one(parse_frame(data, limits=limits))

    def to_json(self) -> JsonObject:
        """Return the whole object, with ``signatures`` and ``unsigned``, as plain values the caller may change."""
        whole = self.content
        if self._parts.signatures is not None:
            whole["signatures"] = thaw(self._parts.signatures)
        if self._parts.unsigned is not ABSENT:
            whole["unsigned"] = thaw(self._parts.unsigned)
        return whole

    @property
    def content(self) -> JsonObject:
        """The signed members, without ``signatures`` and ``unsigned``, as a copy the caller may change."""
        content: JsonObject
        try:
            content = json.loads(self.canonical)  # nothing in it is to be refused: it was encoded here
        except RecursionError:
            content = parse_frame(self.canonical, limits=WIDEST_LIMITS)  # finds the right words
        return content

    @property
    def signatures(self) -> Mapping[str, Mapping[str, str]]:
        """All signatures as received, entity to key id to base64. None of them has been verified."""
        by_entity = self._parts.signatures or {}
        return MappingProxyType({entity: MappingProxyType(by) for entity, by in by_entity.items()})

    @property
    def untrusted_unsigned(self) -> Any:
        """A copy of ``unsigned``: whatever a server cared to add. ``None`` if there is none."""
        return None if self._parts.unsigned is ABSENT else thaw(self._parts.unsigned)

    def verify(
        self, *, entity: str, key_id: KeyId | str, key: Ed25519PublicKey, verifier: Verifier = LIBSODIUM
    ) -> None:
        """Check that ``entity`` signed this object with ``key``.

        Args:
            entity: the user id or server name that must have signed.
            key_id: the key id under which the signature must stand.
            key: the public key itself; it must come from somewhere the caller trusts.
            verifier: who checks.

        Raises:
            VerificationError: there is no such signature, or it is not one by that key over these bytes.
            LocalProtocolError: an argument has the wrong type.
        """
        key_id = local_key_id(key_id)
        if type(key) is not Ed25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the key must be an Ed25519PublicKey", path="/key")
        if type(entity) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the entity must be a string", path="/entity")
        if key_id.algorithm != ED25519:
            raise VerificationError(
                Reason.UNSUPPORTED_ALGORITHM, f"{quoted(key_id.algorithm)} is not an algorithm this library verifies"
            )
        text = signature_text(self._parts, entity, str(key_id))
        if ask([(self.canonical, text, key.raw)], verifier) != [True]:
            raise why_not(self._parts, entity, str(key_id)).to_error(VerificationError)

    def with_signature(self, entity: str, key_id: KeyId | str, signature: Ed25519Signature) -> SignedJson:
        """Return the same object with one more signature; one under the same entity and key id is replaced.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(entity) is not str or type(signature) is not Ed25519Signature:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a signature needs an entity and an Ed25519Signature")
        name = str(local_key_id(key_id))
        if not entity or entity != printable(entity):
            raise LocalProtocolError(Reason.INVALID_IDENTIFIER, f"{quoted(entity)} cannot sign", path="/entity")
        if name != printable(name):
            raise LocalProtocolError(Reason.INVALID_KEY_ID, f"{quoted(name)} cannot be a key id", path="/key_id")
        signatures = dict(self._parts.signatures or {})
        signatures[entity] = {**signatures.get(entity, {}), name: signature.to_base64()}
        return new_signed_json(self._parts._replace(signatures=signatures))

    def without_signatures(self) -> SignedJson:
        """Return the same object with no signature at all."""
        return new_signed_json(self._parts._replace(signatures=None))

    def with_unsigned(self, unsigned: Mapping[str, object] | None) -> SignedJson:
        """Return the same object with another ``unsigned`` part, or with none.

        Raises:
            LocalProtocolError: it is not a JSON object.
        """
        if unsigned is None:
            return new_signed_json(self._parts._replace(unsigned=ABSENT))
        if type(unsigned) is not dict:
            raise LocalProtocolError(Reason.WRONG_TYPE, "unsigned must be a dict", path="/unsigned")
        tree = snapshot(unsigned)
        for place, reason, detail in refused_places(tree, ("unsigned",)):
            raise LocalProtocolError(reason, detail, path=json_pointer(place))
        return new_signed_json(self._parts._replace(unsigned=tree))

    def __eq__(self, other: object) -> bool:
        return self.canonical == other.canonical if type(other) is SignedJson else NotImplemented

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"<SignedJson of {len(self.canonical)} bytes, signed by {sorted(self.signatures)}>"


new_signed_json: Final = constructor_of(SignedJson)


def verify_json(
    obj: object, *, entity: str, key_id: KeyId | str, key: Ed25519PublicKey, verifier: Verifier = LIBSODIUM
) -> SignedJson:
    """Check that ``entity`` signed the JSON object ``obj`` with ``key``.

    Args:
        obj: the object as received, a ``dict``. It is not changed.
        entity: the user id or server name that must have signed.
        key_id: the key id under which the signature must stand, ``"ed25519:..."``.
        key: the public key itself; it must come from somewhere the caller trusts.
        verifier: who checks.

    Returns:
        The object as an immutable value. Its ``content`` is what was signed, and nothing else.

    Raises:
        VerificationError: there is no such signature, or it is not one by that key over this object.
        RemoteProtocolError: the object is not a signed JSON object at all, or has no canonical encoding.
        LocalProtocolError: an argument has the wrong type.
    """
    signed = SignedJson.from_json(obj)
    signed.verify(entity=entity, key_id=key_id, key=key, verifier=verifier)
    return signed


# --------------------------------------------------------------------------------------------------------------
# Many at once
# --------------------------------------------------------------------------------------------------------------

SignatureQuestion: TypeAlias = tuple[bytes, str | None, bytes]
"""What is signed, the signature as text (``None`` if there is none), and 32 bytes that are an Ed25519 key."""


def signature_text(parts: SignedParts, entity: str, key_id: str) -> str | None:
    """Return what stands where the signature of ``entity`` under ``key_id`` should stand."""
    by_entity = None if parts.signatures is None else parts.signatures.get(entity)
    return None if by_entity is None else by_entity.get(key_id)


def ask(questions: Sequence[SignatureQuestion], verifier: Verifier) -> list[bool]:
    """Return, for each question, whether there is a signature and it is good."""
    signatures = unpadded_base64.decode_fixed([text for _, text, _ in questions], _SIGNATURE_BYTES)
    checks = [
        (key, message, signature)
        for (message, _, key), signature in zip(questions, signatures, strict=True)
        if signature is not None
    ]
    answers = answered(verifier, checks)
    if len(answers) == len(questions):
        return answers
    remaining = iter(answers)
    return [signature is not None and next(remaining) for signature in signatures]


def why_not(parts: SignedParts, entity: str, key_id: str) -> Refusal:
    """Return what to say of a signature that is not there or not good."""
    text = signature_text(parts, entity, key_id)
    whose = f"signature by {quoted(entity)} under {quoted(key_id)}"
    place = ("signatures", entity, key_id)
    if text is None:
        return Refusal(Reason.MISSING_SIGNATURE, f"there is no {whose}")
    if unpadded_base64.decode_fixed([text], _SIGNATURE_BYTES) == [None]:
        return Refusal(Reason.INVALID_SIGNATURE, f"the {whose} is not 64 bytes of unpadded base64", *place)
    return Refusal(Reason.INVALID_SIGNATURE, f"the {whose} is not one over this object", *place)


def split_signed(tree: Any) -> tuple[dict[str, Any], dict[str, dict[str, str]] | None, Any]:
    """Take a signed object apart: what is signed, the signatures, and ``unsigned``.

    Raises:
        Refusal: it is not an object, or ``signatures`` in it is not a map of maps of strings.
    """
    if type(tree) is not dict:
        raise wrong_type("a signed object must be an object", tree)
    content = tree.copy()
    signatures = content.pop("signatures", None)
    unsigned = content.pop("unsigned", ABSENT)
    if type(signatures) is dict:
        for entity, by_entity in signatures.items():
            if type(by_entity) is not dict:
                raise wrong_type("the signatures of an entity must be an object", by_entity, "signatures", entity)
            for key_id, text in by_entity.items():
                if type(text) is not str:
                    raise wrong_type("a signature must be a string", text, "signatures", entity, key_id)
    elif signatures is not None or "signatures" in tree:
        raise wrong_type("signatures must be an object", signatures, "signatures")
    return content, signatures, unsigned


def read_signed_objects(trees: Sequence[Any]) -> list[SignedParts | Refusal]:
    """Take signed objects apart, from trees that nobody else changes: one canonicalization per object."""
    outcomes: list[Any] = []
    contents: list[dict[str, Any]] = []
    for tree in trees:
        try:
            content, *rest = split_signed(tree)
        except Refusal as refusal:
            outcomes.append(refusal.with_traceback(None))
        else:
            contents.append(content)
            outcomes.append(rest)
    encoded = iter(encode_contents(contents))
    for index, outcome in enumerate(outcomes):
        if type(outcome) is list:
            canonical = next(encoded)
            outcomes[index] = canonical if isinstance(canonical, Refusal) else SignedParts(canonical, *outcome)
    return outcomes


def encode_contents(contents: Sequence[dict[str, Any]]) -> list[bytes | Refusal]:
    """Return the canonical bytes of each of ``contents``, or why there are none."""
    encoded: list[Any] = encode_objects(contents)
    for index, canonical in enumerate(encoded):
        if canonical is None:
            encoded[index] = _unencodable(contents[index])
    return encoded


def _unencodable(content: dict[str, Any]) -> Refusal:
    for place, reason, detail in refused_places(content):
        return Refusal(reason, detail, *place)
    return Refusal(Reason.TOO_DEEP, "the stack is too full to encode nested JSON")


def parts_of(signed: SignedJson) -> SignedParts:
    """Return what ``signed`` consists of."""
    return signed._parts


def _read_one(tree: Any) -> SignedJson:
    (parts,) = read_signed_objects([tree])
    if isinstance(parts, Refusal):
        raise parts.to_error(RemoteProtocolError)
    return new_signed_json(parts)


def require_same_bytes(signed: object, before: SignedJson) -> None:
    """Refuse to exchange the signatures of ``before`` for those of another object.

    Raises:
        LocalProtocolError: the signed bytes of ``signed`` are others, or it is no :class:`SignedJson`.
    """
    if type(signed) is not SignedJson or signed != before:
        raise LocalProtocolError(Reason.INVALID_VALUE, "signatures can only be exchanged over the same bytes")


def local_key_id(key_id: KeyId | str) -> KeyId:
    """Return a key id that our own caller names.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(key_id) is KeyId:
        return key_id
    try:
        return KeyId.parse(key_id)
    except RemoteProtocolError as error:
        raise LocalProtocolError(error.reason, error.detail, path="/key_id") from None
