"""The signing keys that a homeserver publishes.

Specification: server-server API, "Publishing Keys"; ``definitions/keys.yaml``.

Facts:

* The document is "signed using the ``verify_keys``": every Ed25519 key in it must have signed it here, so that nobody
  publishes a key that he does not have.
* Every key signs the whole document, so there are at most 64 of them here.
* The document says for itself whose keys they are. That it was fetched from that server (over TLS, or from a notary) is
  for the caller to know.
* "Servers MUST use the lesser of this field and 7 days into the future when determining if a key is valid."
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from attrs import frozen

from matrix_e2e_keys.algorithms import ED25519
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    VerificationError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import ServerName, parse_server_name, read_identifier
from matrix_e2e_keys.json_trees import JsonObject, snapshot, wrong_type
from matrix_e2e_keys.keys import Ed25519PublicKey, KeyId
from matrix_e2e_keys.models.cross_signing import checked_extra
from matrix_e2e_keys.sealed import Sealed, constructor_of
from matrix_e2e_keys.signing.signed_json import SignedJson, new_signed_json, read_signed_objects, require_same_bytes
from matrix_e2e_keys.signing.signers import Signer, add_signature, check_signer
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier

__all__ = ["OldVerifyKey", "ServerKeys", "VerifiedServerKeys", "read_server_keys"]

T = TypeVar("T")

_MAX_KEYS: Final = 64
_SEVEN_DAYS_MS: Final = 7 * 24 * 60 * 60 * 1000


@frozen
class OldVerifyKey:
    """A key that a server does not sign with any more.

    Attributes:
        key: the key.
        expired_ts: milliseconds since the epoch at which the server stopped using it.
    """

    key: Ed25519PublicKey
    expired_ts: int

    def __attrs_post_init__(self) -> None:
        if type(self.key) is not Ed25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "an old key must be an Ed25519PublicKey", path="/key")
        if type(self.expired_ts) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "expired_ts must be an integer", path="/expired_ts")


@frozen(eq=False, repr=False)
class ServerKeys(metaclass=Sealed):
    """A well-formed document of a server's keys. Nothing about it has been verified.

    Made by :meth:`from_json` and :meth:`build`. Two are equal if the same bytes are signed.

    Attributes:
        signed: the document as received.
        server_name: whose keys, according to the document.
        valid_until_ts: milliseconds since the epoch until which the list may be used, or less; see
            :meth:`VerifiedServerKeys.usable_until`.
    """

    signed: SignedJson
    server_name: ServerName
    _verify_keys: dict[str, Ed25519PublicKey]
    _old_verify_keys: dict[str, OldVerifyKey]
    valid_until_ts: int

    @property
    def verify_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Key id to key. Keys of algorithms this library does not know are left out."""
        return FrozenMap(self._verify_keys)

    @property
    def old_verify_keys(self) -> Mapping[str, OldVerifyKey]:
        """Key id to key that is not used any more."""
        return FrozenMap(self._old_verify_keys)

    @classmethod
    def from_json(cls, obj: object) -> ServerKeys:
        """Read a document; the value given is copied, unknown members are kept.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the document.
        """
        with raised_as(RemoteProtocolError):
            return read_server_keys(snapshot(obj))

    @classmethod
    def build(
        cls,
        *,
        server_name: str,
        signers: Iterable[Signer],
        valid_until_ts: int,
        old_verify_keys: Mapping[str, OldVerifyKey] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> ServerKeys:
        """Build and sign the document of one's own server.

        Args:
            server_name: one's own server.
            signers: the keys the server signs with, under key ids ``ed25519:<version>``. All of them sign.
            valid_until_ts: milliseconds since the epoch until which others may use the list.
            old_verify_keys: key id to key that was used before.
            extra: further members to sign. They cannot replace the members above.

        Raises:
            LocalProtocolError: the parts do not make an acceptable document.
        """
        if not isinstance(signers, Iterable):
            raise LocalProtocolError(Reason.WRONG_TYPE, "several signers are needed", path="/signers")
        all_signers = tuple(signers)
        keys: dict[str, object] = {}
        for signer in all_signers:
            check_signer(signer)
            key_id = str(signer.key_id)
            if key_id in keys:
                raise LocalProtocolError(
                    Reason.INVALID_KEY_ID, f"two signers are called {quoted(key_id)}", path="/signers"
                )
            keys[key_id] = {"key": signer.public_key.to_base64()}
        if not keys:
            raise LocalProtocolError(Reason.MISSING_KEY, "somebody must sign", path="/signers")
        old: dict[str, object] = {}
        if not isinstance(old_verify_keys, Mapping | None):
            raise LocalProtocolError(Reason.WRONG_TYPE, "the old keys must be a mapping", path="/old_verify_keys")
        for key_id, old_key in (old_verify_keys or {}).items():
            if type(old_key) is not OldVerifyKey:
                raise LocalProtocolError(
                    Reason.WRONG_TYPE, "an old key must be an OldVerifyKey", path="/old_verify_keys"
                )
            old[str(key_id)] = {"key": old_key.key.to_base64(), "expired_ts": old_key.expired_ts}
        obj = {
            **checked_extra(extra),
            "server_name": server_name,
            "verify_keys": keys,
            "old_verify_keys": old,
            "valid_until_ts": valid_until_ts,
        }
        with raised_as(LocalProtocolError):
            document = cls.from_json(obj)
        signed = document.signed
        for signer in all_signers:
            signed = add_signature(signed, entity=server_name, signer=signer)
        return document.with_signed(signed)

    def with_signed(self, signed: SignedJson) -> ServerKeys:
        """Return the same document with other signatures, for example a notary's.

        Raises:
            LocalProtocolError: the signed bytes of ``signed`` are not those of this document.
        """
        require_same_bytes(signed, self.signed)
        return _new(signed, self.server_name, self._verify_keys, self._old_verify_keys, self.valid_until_ts)

    def to_json(self) -> JsonObject:
        """Return the whole document, with everything it came with, as plain values the caller may change."""
        return self.signed.to_json()

    def verify(self, *, server_name: str, verifier: Verifier = LIBSODIUM) -> VerifiedServerKeys:
        """Check that the document is that of a server, and that all its keys have signed it.

        Args:
            server_name: the server that was asked.
            verifier: who checks.

        Raises:
            VerificationError: it is another server's, it holds no key, or one of the keys has not signed it.
        """
        if type(server_name) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the server name must be a string", path="/server_name")
        if self.server_name != server_name:
            raise VerificationError(
                Reason.SERVER_NAME_MISMATCH,
                f"these are the keys of {quoted(self.server_name)}, not of {quoted(server_name)}",
                path="/server_name",
            )
        if not self.verify_keys:
            raise VerificationError(Reason.MISSING_KEY, "the document holds no Ed25519 key", path="/verify_keys")
        for key_id, key in self.verify_keys.items():
            self.signed.verify(entity=server_name, key_id=key_id, key=key, verifier=verifier)
        return _new_verified(self)

    def __eq__(self, other: object) -> bool:
        return self.signed == other.signed if type(other) is ServerKeys else NotImplemented

    def __hash__(self) -> int:
        return hash(self.signed)

    def __repr__(self) -> str:
        return f"<ServerKeys of {quoted(self.server_name)}, {sorted(self.verify_keys)}>"


_new: Final = constructor_of(ServerKeys)


@frozen(repr=False)
class VerifiedServerKeys(metaclass=Sealed):
    """The keys of a server, which have all signed the document that names them. Only a check makes one.

    Attributes:
        document: the document.
    """

    document: ServerKeys

    @property
    def server_name(self) -> ServerName:
        """Whose keys."""
        return self.document.server_name

    @property
    def verify_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """Key id to the key the server signs with."""
        return self.document.verify_keys

    def usable_until(self, received_ts: int) -> int:
        """Return until when the keys may be used, in milliseconds since the epoch.

        "Servers MUST use the lesser of this field and 7 days into the future when determining if a key is valid."

        Args:
            received_ts: when the document was received, in milliseconds since the epoch.
        """
        if type(received_ts) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a time is an integer of milliseconds", path="/received_ts")
        return min(self.document.valid_until_ts, received_ts + _SEVEN_DAYS_MS)

    def __repr__(self) -> str:
        return f"<VerifiedServerKeys of {quoted(self.server_name)}>"


_new_verified: Final = constructor_of(VerifiedServerKeys)


# --------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------


def read_server_keys(tree: Any) -> ServerKeys:
    """Read a document from a tree that nobody else changes.

    Raises:
        Refusal: it is malformed.
    """
    (parts,) = read_signed_objects([tree])
    if isinstance(parts, Refusal):
        raise parts
    for name in ("server_name", "verify_keys", "valid_until_ts"):
        if name not in tree:
            raise Refusal(Reason.MISSING_MEMBER, f"the server keys have no {name}", name)
    if type(tree["verify_keys"]) is dict and len(tree["verify_keys"]) > _MAX_KEYS:
        detail = f"a server signs with at most {_MAX_KEYS} keys, not {len(tree['verify_keys'])}"
        raise Refusal(Reason.TOO_MANY_KEYS, detail, "verify_keys")
    return _new(
        new_signed_json(parts),
        read_identifier(parse_server_name, tree["server_name"], "server_name"),
        _read_keys(tree["verify_keys"], "verify_keys", lambda key, _entry, *_at: key),
        _read_keys(tree.get("old_verify_keys", {}), "old_verify_keys", _old_key),
        _timestamp(tree["valid_until_ts"], "valid_until_ts"),
    )


def _read_keys(tree: Any, name: str, make: Callable[..., T]) -> dict[str, T]:
    if type(tree) is not dict:
        raise wrong_type(f"{name} must be an object", tree, name)
    keys: dict[str, T] = {}
    for key_id, entry in tree.items():
        try:
            algorithm = KeyId.parse(key_id).algorithm
        except RemoteProtocolError as error:
            raise Refusal(error.reason, error.detail, name, key_id) from None
        if type(entry) is not dict:
            raise wrong_type("a verify key must be an object", entry, name, key_id)
        if "key" not in entry:
            raise Refusal(Reason.MISSING_MEMBER, "the verify key has no key", name, key_id, "key")
        if algorithm == ED25519:
            try:
                key = Ed25519PublicKey.from_base64(entry["key"])
            except RemoteProtocolError as error:
                raise Refusal(error.reason, error.detail, name, key_id, "key") from None
            keys[key_id] = make(key, entry, name, key_id)
    return keys


def _old_key(key: Ed25519PublicKey, entry: dict[str, Any], *at: str) -> OldVerifyKey:
    if "expired_ts" not in entry:
        raise Refusal(Reason.MISSING_MEMBER, "the old key has no expired_ts", *at, "expired_ts")
    return OldVerifyKey(key, _timestamp(entry["expired_ts"], *at, "expired_ts"))


def _timestamp(value: Any, *at: str) -> int:
    if type(value) is not int:
        raise wrong_type(f"{at[-1]} must be an integer", value, *at)
    return value
