"""Hypothesis strategies, and samples, of session keys and of the events that carry them or talk about them.

Facts:

* Session keys are as real as a ratchet's: of the right format, and signed by the session's own key where they have to
  be. A ratchet takes them. Their sessions are a small fixed set, the same on every machine.
* What is produced comes back as it was: ``type(x).from_json(x.to_json()) == x``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from hypothesis import strategies as st

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.events.encrypted_files import EncryptedFile
from matrix_e2e_keys.events.key_bundles import HistoricRoomKey, RoomKeyBundle, RoomKeyBundleContent
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.room_keys import UNSTABLE_SHARED_HISTORY, ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.secrets import DummyContent, SecretName, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.to_device_types import ToDeviceContent
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent, WithheldCode
from matrix_e2e_keys.signing.signers import Ed25519SecretKey
from matrix_e2e_keys.testing.message_strategies import json_objects
from matrix_e2e_keys.testing.samples import sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import device_ids

__all__ = [
    "encrypted_files",
    "forwarded_room_key_contents",
    "historic_room_keys",
    "room_ids",
    "room_key_bundle_contents",
    "room_key_bundles",
    "room_key_contents",
    "room_key_request_contents",
    "room_key_withheld_contents",
    "sample_exported_session_key",
    "sample_session_key",
    "secret_request_contents",
    "secret_send_contents",
    "to_device_contents",
]

_SHARED: Final = b"\x02"
_EXPORTED: Final = b"\x01"
_RATCHET_BYTES: Final = 128

_SESSIONS: Final = st.sampled_from(["one", "two", "three"])
_INDICES: Final = st.integers(0, 3) | st.just(2**32 - 1)
_CURVE25519_KEYS: Final = st.sampled_from(["a", "b", "c"]).map(sample_curve25519_key)
_ED25519_KEYS: Final = st.sampled_from(["a", "b", "c"]).map(lambda name: sample_secret_key(name).public_key)
_TEXTS: Final = st.sampled_from(["x", "1495474790150.19", "a/b~c", "\N{PILE OF POO}"])
_CODES: Final = st.sampled_from([code.value for code in WithheldCode]) | st.sampled_from(["org.example.x", "m.later"])


def sample_session_key(name: str, index: int = 0) -> str:
    """Return the key of the session that belongs to ``name``, from a message on, in the session sharing format."""
    signed = _SHARED + _open_part(name, index)
    return unpadded_base64.encode(signed + _signing_key(name).sign(signed).raw)


def sample_exported_session_key(name: str, index: int = 0) -> str:
    """Return the key of the session that belongs to ``name``, from a message on, in the session export format."""
    return unpadded_base64.encode(_EXPORTED + _open_part(name, index))


def _open_part(name: str, index: int) -> bytes:
    ratchet = hashlib.shake_256(f"matrix-e2e-keys sample ratchet {name} {index}".encode()).digest(_RATCHET_BYTES)
    return index.to_bytes(4, "big") + ratchet + _signing_key(name).public_key.raw


def _signing_key(name: str) -> Ed25519SecretKey:
    return sample_secret_key(f"session {name}")


def room_ids() -> st.SearchStrategy[str]:
    """Room ids, with a server name and without."""
    return st.sampled_from(
        ["!Cuyf34gef24t:localhost", "!another:b.example:8448", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"]
    )


def _extra(draw: st.DrawFn, kind: Any, *more: str) -> dict[str, Any]:
    return draw(json_objects(*kind.members, *more))


def _session(draw: st.DrawFn, session_key: Any) -> dict[str, Any]:
    """The members of what holds a session key. Rarely, the session id is another's."""
    name = draw(_SESSIONS)
    claimed = draw(st.sampled_from([name, name, name, "another"]))
    return {
        "room_id": draw(room_ids()),
        "session_id": _signing_key(claimed).public_key.to_base64(),
        "session_key": session_key(name, draw(_INDICES)),
    }


@st.composite
def room_key_contents(draw: st.DrawFn) -> RoomKeyContent:
    """Contents of ``m.room_key``; the session id may be wrong."""
    return RoomKeyContent(
        **_session(draw, sample_session_key),
        shared_history=draw(st.booleans()),
        extra=_extra(draw, RoomKeyContent, *UNSTABLE_SHARED_HISTORY),
    )


@st.composite
def forwarded_room_key_contents(draw: st.DrawFn) -> ForwardedRoomKeyContent:
    """Contents of ``m.forwarded_room_key``; the session id may be wrong."""
    return ForwardedRoomKeyContent(
        **_session(draw, sample_exported_session_key),
        sender_key=draw(_CURVE25519_KEYS),
        sender_claimed_ed25519_key=draw(_ED25519_KEYS),
        forwarding_curve25519_key_chain=tuple(draw(st.lists(_CURVE25519_KEYS, max_size=2))),
        withheld=draw(st.none() | room_key_withheld_contents().map(lambda content: content.notice)),
        shared_history=draw(st.booleans()),
        extra=_extra(draw, ForwardedRoomKeyContent, *UNSTABLE_SHARED_HISTORY),
    )


@st.composite
def room_key_withheld_contents(draw: st.DrawFn, *, is_for_bundle: bool = False) -> RoomKeyWithheldContent:
    """Contents of ``m.room_key.withheld``, with codes that are known, custom, or of later versions.

    Args:
        draw: supplied by Hypothesis.
        is_for_bundle: whether all are about one session, as the entries of a bundle are.
    """
    code = draw(_CODES)
    has_session = is_for_bundle or code != WithheldCode.NO_OLM or draw(st.booleans())
    return RoomKeyWithheldContent(
        code=code,
        sender_key=draw(_CURVE25519_KEYS),
        room_id=draw(room_ids()) if has_session else None,
        session_id=_signing_key(draw(_SESSIONS)).public_key.to_base64() if has_session else None,
        reason=draw(st.none() | _TEXTS),
        extra=_extra(draw, RoomKeyWithheldContent),
    )


@st.composite
def room_key_request_contents(draw: st.DrawFn) -> RoomKeyRequestContent:
    """Contents of ``m.room_key_request``: requests and cancellations."""
    request_id, device_id = draw(_TEXTS), draw(device_ids())
    if draw(st.booleans()):
        return RoomKeyRequestContent.build_cancellation(request_id=request_id, requesting_device_id=device_id)
    return RoomKeyRequestContent.build(
        request_id=request_id,
        requesting_device_id=device_id,
        room_id=draw(room_ids()),
        session_id=_signing_key(draw(_SESSIONS)).public_key.to_base64(),
        sender_key=draw(st.none() | _CURVE25519_KEYS),
    )


@st.composite
def secret_request_contents(draw: st.DrawFn) -> SecretRequestContent:
    """Contents of ``m.secret.request``: requests and cancellations."""
    request_id, device_id = draw(_TEXTS), draw(device_ids())
    if draw(st.booleans()):
        return SecretRequestContent.build_cancellation(request_id=request_id, requesting_device_id=device_id)
    name = draw(st.sampled_from(SecretName) | st.just("org.example.secret"))
    return SecretRequestContent.build(name=name, request_id=request_id, requesting_device_id=device_id)


def secret_send_contents() -> st.SearchStrategy[SecretSendContent]:
    """Contents of ``m.secret.send``."""
    return st.builds(SecretSendContent, request_id=_TEXTS, secret=_TEXTS, extra=json_objects("request_id", "secret"))


@st.composite
def encrypted_files(draw: st.DrawFn) -> EncryptedFile:
    """Where encrypted files lie, and the keys that open them."""
    return EncryptedFile.build(
        url=draw(st.sampled_from(["mxc://example.org/FHyPlCeYUSFFxlgbQYZmoEoe", "mxc://[::1]:8448/a-b_c"])),
        key=draw(st.binary(min_size=32, max_size=32)),
        iv=draw(st.binary(min_size=16, max_size=16)),
        sha256=draw(st.binary(min_size=32, max_size=32)),
    )


@st.composite
def room_key_bundle_contents(draw: st.DrawFn) -> RoomKeyBundleContent:
    """Contents of ``m.room_key_bundle``."""
    extra = _extra(draw, RoomKeyBundleContent)
    return RoomKeyBundleContent(room_id=draw(room_ids()), file=draw(encrypted_files()), extra=extra)


@st.composite
def historic_room_keys(draw: st.DrawFn) -> HistoricRoomKey:
    """Entries in ``room_keys`` of a bundle; the session id may be wrong."""
    return HistoricRoomKey(
        **_session(draw, sample_exported_session_key),
        sender_key=draw(_CURVE25519_KEYS),
        sender_claimed_ed25519_key=draw(_ED25519_KEYS),
        extra=_extra(draw, HistoricRoomKey),
    )


@st.composite
def room_key_bundles(draw: st.DrawFn) -> RoomKeyBundle:
    """Bundles as somebody may have made them: about several rooms, with the same session twice, or with wrong ids.

    No session is in both sections: it would come back as refused.
    """
    withheld = draw(st.lists(room_key_withheld_contents(is_for_bundle=True), max_size=3))
    taken = {(notice.room_id, notice.session_id) for notice in withheld}
    keys = draw(st.lists(historic_room_keys(), max_size=3))
    return RoomKeyBundle(
        room_keys=tuple(
            key
            for key in keys
            if taken.isdisjoint((key.room_id, name) for name in (key.session_id, key.key.session_id))
        ),
        withheld=tuple(withheld),
        extra=draw(json_objects("room_keys", "withheld")),
    )


def to_device_contents() -> st.SearchStrategy[ToDeviceContent]:
    """Contents of every kind that carries keys or talks about them."""
    return st.one_of(
        room_key_contents(),
        forwarded_room_key_contents(),
        room_key_bundle_contents(),
        room_key_withheld_contents(),
        room_key_request_contents(),
        secret_request_contents(),
        secret_send_contents(),
        st.builds(DummyContent, extra=json_objects()),
    )
