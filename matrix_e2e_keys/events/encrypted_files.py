"""Where an encrypted file lies, and the key that opens it.

Specification: client-server API, "Sending encrypted attachments" (``definitions/encrypted_file.yaml``), "Matrix Content
(mxc://) URIs"; RFC 7517.

Facts:

* The server that keeps the file can change it. AES-CTR does not notice: compare the hash of what was downloaded before
  it is decrypted.
* A media id is part of a path on servers and disks. Nothing but letters, digits, ``-`` and ``_`` can stand in one.
* The key is in *URL-safe* unpadded base64, all else in the usual one.
* The key is a secret: it appears in no error and no ``repr``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.members import boolean, opaque_string, strings
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, quoted, raised_as
from matrix_e2e_keys.events.contents import Member, Record, bytes_of, callers_own, one_of
from matrix_e2e_keys.events.shared_members import bytes_member, record_member
from matrix_e2e_keys.identifiers import ServerName, parse_server_name

__all__ = ["EncryptedFile", "FileHashes", "FileKey"]

_KEY_BYTES: Final = 32
_COUNTER_BYTES: Final = 16
_HASH_BYTES: Final = 32
_OPS: Final = ("encrypt", "decrypt")
_MXC: Final = re.compile(r"mxc://([^/]+)/([A-Za-z0-9_-]+)")
_URL_SAFE: Final = str.maketrans("-_+/", "+/-_")


def _content_uri(value: object, *at: str | int) -> str:
    """Take the address of a file."""
    url = opaque_string(value, *at)
    found = _MXC.fullmatch(url)
    if not found:
        raise Refusal(Reason.INVALID_VALUE, f"{quoted(url)} is not of the form mxc://<server>/<media id>", *at)
    try:
        parse_server_name(found[1])
    except RemoteProtocolError as error:
        raise Refusal(error.reason, error.detail, *at) from None
    return url


def _read_key(tree: Any, what: str, *at: str | int) -> bytes:
    # What stands in one alphabet only changes places: a character of the wrong one stays wrong.
    return bytes_of(tree.translate(_URL_SAFE) if type(tree) is str else tree, what, *at)


def _write_key(raw: bytes) -> str:
    return unpadded_base64.encode(raw).translate(_URL_SAFE)


def _operations(value: object, *at: str | int) -> tuple[str, ...]:
    """Take what a key is for."""
    with callers_own(*at):
        texts = strings(value, *at)
    for text in _OPS:
        if text not in texts:
            # "Must at least contain encrypt and decrypt."
            raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} must contain {quoted(text)}", *at)
    return texts


def _true(value: object, *at: str | int) -> bool:
    if not boolean(value, *at):
        raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} must be true", *at)
    return True


@frozen(kw_only=True)
class FileKey(Record):
    """The key of a file, as a JSON Web Key.

    Attributes:
        k: the 32 bytes of the key. A secret.
        kty: ``oct``.
        alg: ``A256CTR``.
        key_ops: what it is for; ``encrypt`` and ``decrypt`` at least.
        ext: ``True``.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "kty": Member(one_of("oct")),
        "alg": Member(one_of("A256CTR")),
        "key_ops": Member(_operations, write=list),
        "k": bytes_member(_KEY_BYTES, decode=_read_key, encode=_write_key),
        "ext": Member(_true),
    }

    k: bytes = field(repr=False)
    kty: str = "oct"
    alg: str = "A256CTR"
    key_ops: tuple[str, ...] = _OPS
    ext: bool = True


@frozen(kw_only=True)
class FileHashes(Record):
    """Hashes of an encrypted file.

    Attributes:
        sha256: the 32 bytes of the SHA-256 of the ciphertext.
        extra: hashes by other algorithms.
    """

    members: ClassVar[Mapping[str, Member]] = {"sha256": bytes_member(_HASH_BYTES)}

    sha256: bytes


@frozen(kw_only=True)
class EncryptedFile(Record):
    """An encrypted file.

    Attributes:
        url: its address, ``mxc://<server>/<media id>``.
        key: the key that opens it.
        iv: the 16 bytes of the first counter block of AES-CTR.
        hashes: hashes of the ciphertext.
        v: the version of all this, ``v2``.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "url": Member(_content_uri),
        "key": record_member(FileKey),
        "iv": bytes_member(_COUNTER_BYTES),
        "hashes": record_member(FileHashes),
        "v": Member(one_of("v2")),
    }

    url: str
    key: FileKey
    iv: bytes
    hashes: FileHashes
    v: str = "v2"

    @classmethod
    def build(cls, *, url: str, key: bytes, iv: bytes, sha256: bytes) -> Self:
        """Build the description of a file that was uploaded.

        Args:
            url: its address, as the server gave it.
            key: the 32 bytes of the key for AES-256-CTR. It is not quoted in any error.
            iv: the 16 bytes of the first counter block.
            sha256: the 32 bytes of the SHA-256 of the ciphertext.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        with raised_as(LocalProtocolError, "key"):
            file_key = FileKey(k=key)
        return cls(url=url, key=file_key, iv=iv, hashes=FileHashes(sha256=sha256))

    @property
    def server_name(self) -> ServerName:
        """The server that has the file."""
        return parse_server_name(self.url.split("/")[2])

    @property
    def media_id(self) -> str:
        """The name of the file on that server."""
        return self.url.split("/")[3]
