"""Uploading the keys of one's own device: what to upload, and what to make of a refusal.

Specification: client-server API, "Uploading keys", "Device keys". None of how a server refuses one-time keys: with
status 400, ``M_UNKNOWN`` and a text that clients have come to read: ``One time key <key id> already exists. Old key:
<JSON>; new key: <text>``.

Facts:

* An upload of device keys replaces the whole object, with all of its signatures. To upload what was built at the login
  destroys the cross-signature that was added since; :func:`plan_device_upload` finds out before.
* The identity keys of a device never change. Another key needs another device id: everybody else has the old one.
* A refusal for a one-time key means that the client has lost part of its state, or that an upload was repeated with
  other keys. Sending the same request again never helps.
* Nothing of the refused request's one-time keys is stored; its device keys may be.
* The text is the server's word. What the new key was is taken from the request, not from the text.
"""

from __future__ import annotations

import contextlib
import enum
import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from attrs import frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import CURVE25519, ED25519
from matrix_e2e_keys.endpoints.client_server.keys_upload import KeysUploadRequest
from matrix_e2e_keys.endpoints.matrix_error import MatrixError
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, VerificationError, quoted
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.models.user_identity import UserIdentity
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.signing.signed_json import SignedJson
from matrix_e2e_keys.signing.verifiers import LIBSODIUM, Verifier, check_verifier

__all__ = [
    "DeviceUploadPlan",
    "DeviceUploadVerdict",
    "OneTimeKeyConflict",
    "one_time_key_conflict",
    "plan_device_upload",
]

_KEY_BYTES: Final = 32

_TEXT: Final = re.compile(r"One time key (?P<key_id>\S+) already exists\. Old key: ", re.DOTALL)
_JSON: Final = json.JSONDecoder()


@frozen(kw_only=True)
class OneTimeKeyConflict:
    """A one-time key that was not uploaded, since the server holds another one under its id.

    Attributes:
        uploaded: the key that was to be uploaded.
        held: the key that the server says it holds, ``None`` if that cannot be read.
    """

    uploaded: OneTimeKey
    held: OneTimeKey | None

    @property
    def key_id(self) -> str:
        """The id of both."""
        return str(self.uploaded.key_id)

    @property
    def is_same_key(self) -> bool:
        """Whether the key itself is the same, and only something around it differs.

        Then the key may be regarded as uploaded. Otherwise its id must never be used again, and neither must any other
        that may have been used before: generate keys with higher ids.
        """
        return (
            self.held is not None
            and self.held.public_key is not None
            and (self.held.public_key == self.uploaded.public_key)
        )


def one_time_key_conflict(request: KeysUploadRequest, error: MatrixError) -> OneTimeKeyConflict | None:
    """Return which one-time key an upload was refused for, ``None`` if it was refused for something else.

    Args:
        request: the upload.
        error: its answer.

    Raises:
        LocalProtocolError: an argument has the wrong type.
    """
    if type(request) is not KeysUploadRequest or type(error) is not MatrixError:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a KeysUploadRequest and a MatrixError are needed")
    said = _TEXT.match(error.error)
    if said is None:
        return None
    uploaded = request.one_time_keys.get(said["key_id"])
    if not isinstance(uploaded, OneTimeKey):
        return None
    return OneTimeKeyConflict(uploaded=uploaded, held=_held(said["key_id"], error.error[said.end() :]))


def _held(key_id: str, text: str) -> OneTimeKey | None:
    """Read the key at the beginning of ``text``: an object or a string, as JSON."""
    try:
        _, end = _JSON.raw_decode(text)
        return OneTimeKey.from_json(key_id, parse_frame(text[:end]))
    except (ValueError, RecursionError, RemoteProtocolError):
        return None


# --------------------------------------------------------------------------------------------------------------
# Device keys
# --------------------------------------------------------------------------------------------------------------


class DeviceUploadVerdict(enum.StrEnum):
    """Whether to upload device keys. The values are stable: programs may compare and store them."""

    UNCHANGED = "unchanged"
    """The server has them already, with all their signatures."""
    UPLOAD = "upload"
    REFUSED = "refused"
    """The upload would do damage."""


@frozen(kw_only=True)
class DeviceUploadPlan:
    """What to do about the keys of one's own device.

    Attributes:
        verdict: whether to upload.
        upload: what to upload, signatures that the server holds included; ``None`` unless that is the verdict.
        reason: why it is refused, ``None`` if it is not: ``WOULD_CHANGE_KEYS`` or ``WOULD_LOSE_SIGNATURE``.
        detail: one sentence for people.
    """

    verdict: DeviceUploadVerdict
    upload: DeviceKeys | None = None
    reason: Reason | None = None
    detail: str


def plan_device_upload(
    device_keys: DeviceKeys,
    served: DeviceKeys | Rejection | None,
    *,
    identity: UserIdentity | None = None,
    verifier: Verifier = LIBSODIUM,
) -> DeviceUploadPlan:
    """Say whether to upload the keys of one's own device, after looking at what the server has.

    The server's identity keys are compared whatever stands around them, since others may have seen them in better
    shape. Of a malformed entry, or one that is not signed by its own device, nothing else is worth anything: everybody
    ignores such a device, so an upload repairs it.

    Args:
        device_keys: what is to be uploaded: the keys of this device, signed by itself.
        served: what a recent ``/keys/query`` answer has under the id of this device, accepted or rejected; ``None`` if
            there is nothing.
        identity: one's own cross-signing identity. With it, only a good signature by its self-signing key counts as one
            that must not be lost. Without it, any signature by another than the device does.
        verifier: who checks.

    Returns:
        The plan. ``WOULD_CHANGE_KEYS``: log in anew, under a new device id. ``WOULD_LOSE_SIGNATURE``: have
        ``device_keys`` signed by the self-signing key first.

    Raises:
        LocalProtocolError: ``device_keys`` are not signed by their own device, ``served`` is about another device, or
            an argument has the wrong type.
    """
    check_verifier(verifier)
    if type(device_keys) is not DeviceKeys:
        raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys are needed", path="/device_keys")
    if identity is not None and type(identity) is not UserIdentity:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the identity must be a UserIdentity", path="/identity")
    if identity is not None and identity.user_id != device_keys.user_id:
        raise LocalProtocolError(Reason.USER_ID_MISMATCH, f"{identity!r} is another user's", path="/identity")
    _check_served(device_keys, served)
    try:
        own = device_keys.verify(identity=identity, verifier=verifier)
    except VerificationError as error:
        raise LocalProtocolError(error.reason, error.detail, path="/device_keys" + error.path) from None
    if served is None:
        return _upload(device_keys, "the server does not have this device")
    found, held = (served, served.keys) if isinstance(served, DeviceKeys) else _read(served.raw, device_keys)
    changed = _changed_keys(device_keys, held)
    if changed:
        detail = f"the server has another key under {quoted(changed[0])}; a new key needs a new device id"
        return _refused(Reason.WOULD_CHANGE_KEYS, detail)
    if found is None:
        return _upload(device_keys, "what the server has is malformed, and nobody accepts it")
    try:
        known = found.verify(identity=identity, verifier=verifier)
    except VerificationError as error:
        return _upload(device_keys, f"nobody accepts what the server has: {error.detail}")
    return _compare(own, known, identity)


def _check_served(device_keys: DeviceKeys, served: object) -> None:
    if served is None:
        return
    if not isinstance(served, DeviceKeys | Rejection):
        raise LocalProtocolError(Reason.WRONG_TYPE, "DeviceKeys or a Rejection are needed", path="/served")
    if (served.user_id, served.device_id) != (device_keys.user_id, device_keys.device_id):
        detail = f"what is served is not about the device {quoted(device_keys.device_id)}"
        raise LocalProtocolError(Reason.DEVICE_ID_MISMATCH, detail, path="/served")


def _read(raw: Any, device_keys: DeviceKeys) -> tuple[DeviceKeys | None, Mapping[str, object]]:
    """Return what was rejected, if it is well formed and was rejected for something else; and the keys in it."""
    with contextlib.suppress(RemoteProtocolError):
        found = DeviceKeys.from_json(raw)
        if (found.user_id, found.device_id) == (device_keys.user_id, device_keys.device_id):
            return found, found.keys
    keys = raw.get("keys") if type(raw) is dict else None
    own = _identity_key_names(device_keys)
    return None, {name: keys.get(name) for name in own} if type(keys) is dict else {}


def _changed_keys(device_keys: DeviceKeys, held: Mapping[str, object]) -> list[str]:
    """Return the names under which the server has other keys than those to be uploaded.

    A text that nobody can take for an identity key has been no key to anybody.
    """
    changed: list[str] = []
    for name, text in held.items():
        mine = device_keys.keys.get(name)
        if name in _identity_key_names(device_keys):
            raw = unpadded_base64.decode_loosely(text) if type(text) is str else None
            is_other = raw is not None and len(raw) == _KEY_BYTES and raw != unpadded_base64.decode(mine)
        else:
            is_other = text != mine
        if is_other:
            changed.append(name)
    return changed


def _identity_key_names(device_keys: DeviceKeys) -> tuple[str, str]:
    return f"{ED25519}:{device_keys.device_id}", f"{CURVE25519}:{device_keys.device_id}"


_Signatures: TypeAlias = dict[tuple[str, str], str]
"""Entity and key id to text."""


def _worth_keeping(device: VerifiedDevice, identity: UserIdentity | None) -> _Signatures:
    """Return the signatures by others than the device itself, as far as they are worth anything."""
    signatures = {
        (entity, key_id): text
        for entity, by_entity in device.keys.signed.signatures.items()
        for key_id, text in by_entity.items()
        if (entity, key_id) != (device.user_id, f"{ED25519}:{device.device_id}")
    }
    if identity is None:
        return signatures
    place = (identity.user_id, identity.self_signing_key.key_name)
    return {place: signatures[place]} if device.is_cross_signed else {}


def _compare(own: VerifiedDevice, known: VerifiedDevice, identity: UserIdentity | None) -> DeviceUploadPlan:
    """Compare what is to be uploaded with what the server has, both signed by the device."""
    mine, theirs = _worth_keeping(own, identity), _worth_keeping(known, identity)
    if own.keys != known.keys:
        lost = sorted(theirs.keys() - mine.keys())
        if lost:
            entity, key_id = lost[0]
            detail = f"the signature by {quoted(entity)} under {quoted(key_id)} would be lost; make a new one first"
            return _refused(Reason.WOULD_LOSE_SIGNATURE, detail)
        return _upload(own.keys, "the server has an older version of this device")
    if mine.items() <= theirs.items():
        detail = "the server has the same, and every signature"
        return DeviceUploadPlan(verdict=DeviceUploadVerdict.UNCHANGED, detail=detail)
    whole = own.keys.to_json()
    signatures: Any = whole["signatures"]
    for (entity, key_id), text in {**theirs, **mine}.items():
        signatures.setdefault(entity, {})[key_id] = text
    detail = "the server has the same, and lacks a signature"
    return _upload(own.keys.with_signed(SignedJson.from_json(whole)), detail)


def _refused(reason: Reason, detail: str) -> DeviceUploadPlan:
    return DeviceUploadPlan(verdict=DeviceUploadVerdict.REFUSED, reason=reason, detail=detail)


def _upload(device_keys: DeviceKeys, detail: str) -> DeviceUploadPlan:
    return DeviceUploadPlan(verdict=DeviceUploadVerdict.UPLOAD, upload=device_keys, detail=detail)
