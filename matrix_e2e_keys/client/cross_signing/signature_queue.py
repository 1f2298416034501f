"""Signatures on their way: to be uploaded, uploaded, and seen to be served.

Specification: client-server API, "Cross-signing"; ``cross_signing.yaml``.

Facts:

* A signature that the server refused is reported and given up: the same bytes would be refused again.
* A signature that it took is kept until a query serves it. Until then nobody can rely on it.

Nothing is sent here. The clock is the caller's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from attrs import define, field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.back_off import BackOff, BatchSize, check_now, granted
from matrix_e2e_keys.client.cross_signing.served import SignatureConfirmation, confirm_signatures
from matrix_e2e_keys.client.cross_signing.signatures import SignaturesUploadResult, check_signatures_upload
from matrix_e2e_keys.client.queries.query import QueryResult
from matrix_e2e_keys.endpoints.client_server.signatures_upload import SignaturesUploadRequest, SignaturesUploadResponse
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.cross_signing import CrossSigningKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.stored import Stored

__all__ = ["OutgoingSignatures", "SignatureQueue"]

_VERSION: Final = 1
_SERVER: Final = ""
_KEY_BYTES: Final = 32
_MAX_BATCH: Final = 100
_Name = tuple[str, str]


@frozen(kw_only=True)
class OutgoingSignatures:
    """Signatures to upload.

    Attributes:
        upload_id: to be named when the answer arrives. Not to be kept over a restart.
        request: what to upload.
    """

    upload_id: int
    request: SignaturesUploadRequest


@define
class _Entry:
    key: DeviceKeys | CrossSigningKey
    is_uploaded: bool = False


@define
class SignatureQueue:
    """Signatures that one has made, until everybody can see them. A state machine without input or output."""

    _entries: dict[_Name, _Entry] = field(factory=dict, init=False)
    _last_upload: int = field(default=0, init=False)
    _in_flight: tuple[OutgoingSignatures, dict[_Name, DeviceKeys | CrossSigningKey]] | None = field(
        default=None, init=False
    )
    _back_off: BackOff = field(factory=BackOff, init=False, repr=False)
    _batch: BatchSize = field(factory=lambda: BatchSize(_MAX_BATCH), init=False, repr=False)

    @property
    def waiting(self) -> frozenset[tuple[str, str]]:
        """User id and name (device id or public key) of what is still to be uploaded."""
        return frozenset(name for name, entry in self._entries.items() if not entry.is_uploaded)

    @property
    def unconfirmed(self) -> frozenset[tuple[str, str]]:
        """User id and name of what was uploaded and not seen to be served so far."""
        return frozenset(name for name, entry in self._entries.items() if entry.is_uploaded)

    def add(self, key: DeviceKeys | CrossSigningKey) -> None:
        """Note signatures to upload.

        Args:
            key: a key with the new signatures and no other, as :class:`~matrix_e2e_keys.CrossSigningSecrets` signs it.

        Raises:
            LocalProtocolError: it is no such key, carries no signature, or one that is never uploaded: whose signer is
                neither a cross-signing key nor a device over its owner's master key.
        """
        if type(key) not in (DeviceKeys, CrossSigningKey):
            raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys or a CrossSigningKey are needed", path="/key")
        if not any(key.signed.signatures.values()):
            raise LocalProtocolError(Reason.MISSING_SIGNATURE, "the key carries no signature", path="/key")
        for entity, key_id in _signers(key):
            if not (_is_named_by_key(key_id) or (isinstance(key, CrossSigningKey) and entity == key.user_id)):
                detail = f"a signature under {quoted(key_id)} is not one to upload"
                raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/key")
        name = _name_of(key)
        before = self._entries.get(name)
        self._entries[name] = _Entry(key if before is None else _merged(before.key, key))

    def next_upload(self, now: int) -> OutgoingSignatures | None:
        """Return what to upload next, ``None`` if there is nothing at this time. One upload is in flight at a time.

        Args:
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: ``now`` is no integer.
        """
        now = check_now(now)
        ready_at = self.next_upload_at()
        if ready_at is None or now < ready_at:
            return None
        waiting = [(name, entry.key) for name, entry in self._entries.items() if not entry.is_uploaded]
        keys = dict(waiting[: self._batch.size])
        self._last_upload += 1
        outgoing = OutgoingSignatures(
            upload_id=self._last_upload, request=SignaturesUploadRequest.for_keys(keys.values())
        )
        self._in_flight = outgoing, keys
        return outgoing

    def next_upload_at(self) -> int | None:
        """Return the time from which :meth:`next_upload` has something; ``None`` if that depends on something else."""
        return None if self._in_flight is not None or not self.waiting else self._back_off.ready_at(_SERVER)

    def receive_response(self, upload_id: int, response: SignaturesUploadResponse) -> SignaturesUploadResult | None:
        """Take over an answer. An answer to anything but the upload in flight is ignored.

        Returns:
            What it amounts to. What was refused is given up; of what nobody can tell, a later query will.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(response) is not SignaturesUploadResponse:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a SignaturesUploadResponse is needed", path="/response")
        sent = self._sent(upload_id)
        if sent is None:
            return None
        outgoing, keys = sent
        result = check_signatures_upload(outgoing.request, response)
        refused = {(it.user_id, it.name) for it in result.refused}
        for name, key in keys.items():
            entry = self._entries.get(name)
            if entry is None or entry.key is not key:
                continue  # signed anew meanwhile
            if name in refused:
                del self._entries[name]
            else:
                entry.is_uploaded = True
        self._in_flight = None
        self._batch.succeeded(len(keys))
        self._back_off.succeeded(_SERVER)
        return result

    def receive_error(self, upload_id: int, error: MatrixError | None, now: int) -> None:
        """Note that an upload failed. It will be sent again, later. The failure of another upload is ignored.

        Args:
            upload_id: which upload.
            error: what the server answered, ``None`` if there was no answer that can be read.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        now = check_now(now)
        if error is not None and type(error) is not MatrixError:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a MatrixError is needed", path="/error")
        sent = self._sent(upload_id)
        if sent is not None:
            self._in_flight = None
            self._batch.failed(len(sent[1]))  # and the others come first the next time
            self._entries.update({name: self._entries.pop(name) for name in sent[1] if name in self._entries})
            delay = 0 if error is None else granted(error.retry_after_ms)
            self._back_off.failed(_SERVER, now, at_least_ms=delay)

    def confirm(self, result: QueryResult, *, own_device: VerifiedDevice) -> SignatureConfirmation | None:
        """See which of the uploaded signatures are served. Those that are need no further care.

        Args:
            result: what a later answer amounts to.
            own_device: this device, which may have signed one's own master key.

        Returns:
            What is served and what is not, of those users who were asked about; ``None`` if nothing is open about them.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(result) is not QueryResult or type(own_device) is not VerifiedDevice:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a QueryResult and a VerifiedDevice are needed")
        open_keys = [
            entry.key for entry in self._entries.values() if entry.is_uploaded and entry.key.user_id in result.users
        ]
        if not open_keys:
            return None
        confirmation = confirm_signatures(SignaturesUploadRequest.for_keys(open_keys), result, own_device=own_device)
        missing = {(it.signature.user_id, it.signature.name) for it in confirmation.missing}
        for key in open_keys:
            if _name_of(key) not in missing:
                del self._entries[_name_of(key)]
        return confirmation

    def withdraw_unless_by(self, key_ids: Collection[str]) -> None:
        """Give up what other keys have signed: they are not one's own any more.

        Args:
            key_ids: the key ids of one's own keys as they are now, ``"ed25519:..."``.

        Raises:
            LocalProtocolError: they are not several.
        """
        if isinstance(key_ids, str) or not isinstance(key_ids, Collection):
            raise LocalProtocolError(Reason.WRONG_TYPE, "several key ids are needed", path="/key_ids")
        for name, entry in list(self._entries.items()):
            if any(key_id not in key_ids for _, key_id in _signers(entry.key)):
                del self._entries[name]

    def upload_again(self) -> None:
        """Upload once more what was uploaded and is not served."""
        for entry in self._entries.values():
            entry.is_uploaded = False

    def _sent(self, upload_id: object) -> tuple[OutgoingSignatures, dict[_Name, DeviceKeys | CrossSigningKey]] | None:
        if type(upload_id) is not int:
            raise LocalProtocolError(Reason.WRONG_TYPE, "the id of an upload is an integer", path="/upload_id")
        sent = self._in_flight
        return sent if sent is not None and sent[0].upload_id == upload_id else None

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. What is in flight is sent again."""
        return {
            "version": _VERSION,
            "signatures": [
                {
                    "kind": "device" if isinstance(entry.key, DeviceKeys) else "cross-signing",
                    "key": entry.key.to_json(),
                    "is_uploaded": entry.is_uploaded,
                }
                for entry in self._entries.values()
            ],
        }

    @classmethod
    def from_json(cls, obj: object) -> SignatureQueue:
        """Restore a queue.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        return cls.restore(Stored(obj))

    @classmethod
    def restore(cls, stored: Stored) -> SignatureQueue:
        """Internal: :meth:`from_json` for a queue that is part of something."""
        stored.require_version(_VERSION)
        queue = cls()
        for kept in stored.elements("signatures"):
            kind, obj = kept.member("kind", str), kept.member("key", dict)
            is_uploaded = kept.member("is_uploaded", bool)
            with kept.reading("kind"):
                if kind not in _KINDS:
                    raise LocalProtocolError(Reason.INVALID_VALUE, "a device or a cross-signing key is signed")
            with kept.reading("key"):
                key = _KINDS[kind].from_json(obj)
            with kept.reading():
                queue.add(key)
            queue._entries[_name_of(key)].is_uploaded = is_uploaded
        return queue


_KINDS: Final[dict[str, type[DeviceKeys | CrossSigningKey]]] = {
    "device": DeviceKeys,
    "cross-signing": CrossSigningKey,
}


def _signers(key: DeviceKeys | CrossSigningKey) -> Iterator[tuple[str, str]]:
    """Yield who signed, and under which key id."""
    for entity, by_entity in key.signed.signatures.items():
        for key_id in by_entity:
            yield entity, key_id


def _is_named_by_key(key_id: str) -> bool:
    """Tell whether the name in a key id is a public key."""
    name = key_id.partition(":")[2]
    raw = unpadded_base64.decode(name)
    return raw is not None and len(raw) == _KEY_BYTES and unpadded_base64.encode(raw) == name


def _name_of(key: DeviceKeys | CrossSigningKey) -> _Name:
    return key.user_id, key.device_id if isinstance(key, DeviceKeys) else key.key_id.name


def _merged(before: DeviceKeys | CrossSigningKey, key: DeviceKeys | CrossSigningKey) -> DeviceKeys | CrossSigningKey:
    """Return ``key`` with the signatures of ``before`` beside its own, if the same bytes are signed."""
    if isinstance(before, DeviceKeys) and isinstance(key, DeviceKeys) and before == key:
        return merge_signatures(before, key)
    if isinstance(before, CrossSigningKey) and isinstance(key, CrossSigningKey) and before == key:
        return merge_signatures(before, key)
    return key
