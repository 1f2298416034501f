"""Cross-signing keys: master, self-signing, user-signing.

Specification: client-server API, "Cross-signing"; ``definitions/cross_signing_key.yaml``.

Facts:

* A cross-signing key object holds "exactly one property" in ``keys``, named ``<algorithm>:<unpadded_base64>``, whose
  value is that same public key; and exactly one usage here, since a key that plays two roles can be taken for the
  wrong one.
* What the three keys are to each other is the subject of :mod:`matrix_e2e_keys.models.user_identity`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.identifiers import UserId, parse_user_id, read_identifier
from matrix_e2e_keys.json_trees import JsonObject, snapshot, wrong_type
from matrix_e2e_keys.keys import Ed25519PublicKey, KeyId, ed25519_fault
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signed_json import (
    SignedJson,
    SignedParts,
    new_signed_json,
    parts_of,
    read_signed_objects,
    require_same_bytes,
)
from matrix_e2e_keys.signing.signers import Signer, add_signature

__all__ = ["CrossSigningKey", "Usage", "read_cross_signing_keys"]

Usage: TypeAlias = Literal["master", "self_signing", "user_signing"]

_KEY_BYTES: Final = 32
_KEY_TEXT: Final = 43
_ED25519_PREFIX: Final = ED25519 + ":"


@frozen(eq=False, repr=False)
class CrossSigningKey(metaclass=Sealed):
    """A well-formed cross-signing key. Nothing about it has been verified.

    Made by :meth:`from_json` and :meth:`build`. Two are equal if the same bytes are signed.

    Attributes:
        user_id: the owner, according to the object.
        usage: its one role. A role that this library does not know is kept.
        key_name: ``<algorithm>:<public key>``, as text.
        raw: the 32 bytes of the key, ``None`` if it is of an algorithm this library does not know.
    """

    _parts: SignedParts
    user_id: UserId
    usage: str
    key_name: str
    raw: bytes | None

    @property
    def key_id(self) -> KeyId:
        """The key id, ``<algorithm>:<public key>``."""
        return KeyId.parse(self.key_name)

    @property
    def public_key(self) -> Ed25519PublicKey | None:
        """The key, ``None`` if it is of an algorithm this library does not know."""
        return None if self.raw is None else Ed25519PublicKey(self.raw)

    @property
    def signed(self) -> SignedJson:
        """The object as received, with its signed bytes, signatures and ``unsigned``."""
        return new_signed_json(self._parts)

    @classmethod
    def from_json(cls, obj: object) -> CrossSigningKey:
        """Read a cross-signing key; the value given is copied, unknown members are kept.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the object.
        """
        (key,) = read_cross_signing_keys([snapshot(obj)])
        if isinstance(key, Refusal):
            raise key.to_error(RemoteProtocolError)
        return key

    @classmethod
    def build(
        cls,
        *,
        user_id: str,
        usage: Usage,
        public_key: Ed25519PublicKey,
        signer: Signer | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> CrossSigningKey:
        """Build a cross-signing key of one's own.

        Args:
            user_id: the owner.
            usage: ``"master"``, ``"self_signing"`` or ``"user_signing"``.
            public_key: the key.
            signer: the master key, for a self-signing or user-signing key; for a master key, a device or nothing.
            extra: further members to sign. They cannot replace the members above.

        Raises:
            LocalProtocolError: the parts do not make an acceptable object.
        """
        if usage not in get_args(Usage):
            raise LocalProtocolError(Reason.WRONG_USAGE, f"{quoted(usage)} is not a usage", path="/usage")
        if type(public_key) is not Ed25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a cross-signing key must be an Ed25519PublicKey")
        text = public_key.to_base64()
        obj = {**checked_extra(extra), "user_id": user_id, "usage": [usage], "keys": {f"{ED25519}:{text}": text}}
        with raised_as(LocalProtocolError):
            key = cls.from_json(obj)
        if signer is None:
            return key
        return key.with_signed(add_signature(key.signed, entity=user_id, signer=signer))

    def with_signed(self, signed: SignedJson) -> CrossSigningKey:
        """Return the same key with other signatures or another ``unsigned`` part.

        Raises:
            LocalProtocolError: the signed bytes of ``signed`` are not those of this object.
        """
        require_same_bytes(signed, self.signed)
        return _new_key(parts_of(signed), self.user_id, self.usage, self.key_name, self.raw)

    def to_json(self) -> JsonObject:
        """Return the whole object, with everything it came with, as plain values the caller may change."""
        return self.signed.to_json()

    def __eq__(self, other: object) -> bool:
        if type(other) is not CrossSigningKey:
            return NotImplemented
        return self._parts.canonical == other._parts.canonical

    def __hash__(self) -> int:
        return hash(self._parts.canonical)

    def __repr__(self) -> str:
        return f"<CrossSigningKey {self.usage} of {quoted(self.user_id)}, {quoted(self.key_name)}>"


def checked_extra(extra: Mapping[str, object] | None) -> dict[str, object]:
    """Return the members that a caller adds to an object of his own; signatures are not among them.

    Raises:
        LocalProtocolError: it is not a mapping.
    """
    if extra is not None and not isinstance(extra, Mapping):
        raise LocalProtocolError(Reason.WRONG_TYPE, "extra must be a mapping", path="/extra")
    return {name: member for name, member in (extra or {}).items() if name != "signatures"}


_new_key: Final = constructor_of(CrossSigningKey)


def read_cross_signing_keys(trees: Sequence[Any]) -> list[CrossSigningKey | Refusal]:
    """Read cross-signing keys from trees that nobody else changes."""
    outcomes: list[Any] = list(read_signed_objects(trees))
    texts: list[str | None] = []
    shapes: list[tuple[UserId, str, str, str] | None] = []
    for tree, outcome in zip(trees, outcomes, strict=True):
        try:
            shape = _shape(tree) if type(outcome) is SignedParts else None
        except Refusal as refusal:
            outcomes[len(shapes)] = refusal.with_traceback(None)
            shape = None
        shapes.append(shape)
        texts.append(None if shape is None else shape[3])
    for index, (shape, raw) in enumerate(zip(shapes, unpadded_base64.decode_fixed(texts, _KEY_BYTES), strict=True)):
        if shape is None:
            continue
        user_id, usage, key_name, text = shape
        if not key_name.startswith(_ED25519_PREFIX):
            outcomes[index] = _new_key(outcomes[index], user_id, usage, key_name, None)
        elif raw is None or len(text) != _KEY_TEXT or ed25519_fault(raw) is not None:
            outcomes[index] = _key_refusal(key_name, text)
        else:
            outcomes[index] = _new_key(outcomes[index], user_id, usage, key_name, raw)
    return outcomes


def _shape(tree: dict[str, Any]) -> tuple[UserId, str, str, str]:
    """Return the typed members of a cross-signing key, the key still as text."""
    for name in ("user_id", "usage", "keys"):
        if name not in tree:
            raise Refusal(Reason.MISSING_MEMBER, f"the cross-signing key has no {name}", name)
    user_id = read_identifier(parse_user_id, tree["user_id"], "user_id")
    usage = tree["usage"]
    if type(usage) is not list:
        raise wrong_type("usage must be an array", usage, "usage")
    for place, name in enumerate(usage):
        if type(name) is not str:
            raise wrong_type("a usage must be a string", name, "usage", place)
    if len(usage) != 1:
        raise Refusal(Reason.WRONG_USAGE, f"a cross-signing key has exactly one usage, not {len(usage)}", "usage")
    keys = tree["keys"]
    if type(keys) is not dict:
        raise wrong_type("keys must be an object", keys, "keys")
    if len(keys) != 1:
        reason = Reason.TOO_MANY_KEYS if keys else Reason.MISSING_KEY
        raise Refusal(reason, f"a cross-signing key object holds exactly one key, not {len(keys)}", "keys")
    ((name, text),) = keys.items()
    if type(text) is not str:
        raise wrong_type("a key must be a string", text, "keys", name)
    algorithm, colon, named = name.partition(":")
    if not algorithm or not colon:
        raise Refusal(Reason.INVALID_KEY_ID, f'{quoted(name)} is not of the form "<algorithm>:<key>"', "keys", name)
    if named != text or not text:
        raise Refusal(Reason.KEY_ID_NOT_KEY, f"the key id {quoted(name)} does not name the key itself", "keys", name)
    return user_id, usage[0], name, text


def _key_refusal(key_name: str, text: str) -> Refusal:
    place = "keys", key_name
    try:
        Ed25519PublicKey.from_base64(text)
    except RemoteProtocolError as error:
        return Refusal(error.reason, error.detail, *place)
    return Refusal(Reason.INVALID_BASE64, "a key that is also an identifier must be unpadded base64", *place)
