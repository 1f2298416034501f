"""Hypothesis strategies for encrypted events: what is around the encryption, what is inside, and what went wrong there.

Facts:

* Ciphertexts and session keys have the real format, and hold nothing: no ratchet opens them. A session key in the
  sharing format is signed as it should be.
* What is produced comes back as it was: ``type(x).from_json(x.to_json()) == x``, and
  ``type(x).from_bytes(x.encode()) == x`` of a payload.
* Keys are those of the samples, so that a test can name them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any, Final

from attrs import evolve, frozen
from hypothesis import strategies as st

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.events.encrypted import (
    ENCRYPTED,
    MegolmEncryptedContent,
    OlmCiphertext,
    OlmEncryptedContent,
)
from matrix_e2e_keys.events.olm_formats import OlmMessageType
from matrix_e2e_keys.events.payloads import SENDER_DEVICE_KEYS, MegolmPayload, OlmPayload
from matrix_e2e_keys.events.received import RoomEvent, ToDeviceEvent
from matrix_e2e_keys.json_trees import MAX_SAFE_INTEGER
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice
from matrix_e2e_keys.testing.message_strategies import json_objects
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import canonical_json_objects, device_ids, user_ids

__all__ = [
    "OlmPair",
    "megolm_ciphertexts",
    "megolm_encrypted_contents",
    "megolm_payloads",
    "megolm_session_keys",
    "mutated_olm_payloads",
    "olm_ciphertexts",
    "olm_encrypted_contents",
    "olm_payloads",
    "room_events",
    "to_device_events",
]

_EVENT_TYPES: Final = st.sampled_from(["m.room_key", "m.dummy", "org.example/x", "m.room.message", "\N{PILE OF POO}"])
_ROOM_IDS: Final = st.sampled_from(["!room:a.example", "!Ax/~-_9", "!x:[1234::1]:8448"])
_COUNTERS: Final = st.sampled_from([0, 1, 127, 128, 2**32 - 1]) | st.integers(0, 2**32 - 1)
_RARELY: Final = st.sampled_from([False, False, False, True])
_MAC_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_RATCHET_BYTES: Final = 128

_ALICE: Final = SampleUser("@alice:a.example")
_BOB: Final = SampleUser("@bob:b.example")


@cache
def _device(user: SampleUser, device_id: str) -> VerifiedDevice:
    return user.device(device_id).verify()


@frozen(kw_only=True)
class OlmPair:
    """Two devices that write to each other.

    Attributes:
        sender: the user who sends.
        sender_device_id: from which device.
        recipient: the user who receives.
        recipient_device_id: on which device.
    """

    sender: SampleUser = _ALICE
    sender_device_id: str = "PHONE"
    recipient: SampleUser = _BOB
    recipient_device_id: str = "LAPTOP"

    @property
    def sending_device(self) -> VerifiedDevice:
        """The device that sends."""
        return _device(self.sender, self.sender_device_id)

    @property
    def receiving_device(self) -> VerifiedDevice:
        """The device that receives."""
        return _device(self.recipient, self.recipient_device_id)


_PAIR: Final = OlmPair()


# --------------------------------------------------------------------------------------------------------------
# Messages and session keys
# --------------------------------------------------------------------------------------------------------------


@cache
def _curve25519_keys() -> st.SearchStrategy[Curve25519PublicKey]:
    return st.integers(0, 7).map(lambda number: sample_curve25519_key(f"number {number}"))


@cache
def _raw_keys() -> st.SearchStrategy[bytes]:
    return _curve25519_keys().map(attrgetter("raw"))


@cache  # a strategy is made once: making one takes longer than drawing from it
def _contents() -> st.SearchStrategy[dict[str, Any]]:
    """Objects that canonical JSON can represent."""
    return canonical_json_objects(max_leaves=3).map(dict[str, Any])


@cache
def _session_ids() -> st.SearchStrategy[str]:
    return st.integers(0, 7).map(lambda number: sample_secret_key(f"session {number}").public_key.to_base64())


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _text(tag: int, text: bytes) -> bytes:
    return _varint(tag) + _varint(len(text)) + text


@cache
def _trailers(size: int) -> st.SearchStrategy[bytes]:
    """Codes and signatures of a size."""
    return st.integers(0, 255).map(lambda byte: bytes([byte]) * size)


@cache
def _blocks() -> st.SearchStrategy[bytes]:
    """What AES in CBC mode produces: whole blocks."""
    return st.builds(lambda byte, blocks: bytes([byte]) * 16 * blocks, st.integers(0, 255), st.sampled_from([1, 2, 9]))


@cache
def _unknown_fields() -> st.SearchStrategy[bytes]:
    """Fields that nobody knows; more often than not none."""
    return st.sampled_from([b"", b"", _varint(0x2A) + b"\x01x", _varint(0x130) + _varint(2**63)])


@st.composite
def olm_ciphertexts(draw: st.DrawFn, sender_key: Curve25519PublicKey | None = None) -> OlmCiphertext:
    """Messages for a device, of both types.

    Args:
        draw: supplied by Hypothesis.
        sender_key: the Olm identity key that a pre-key message names; any by default.
    """
    keys = _raw_keys()
    message = b"\x03" + _text(0x0A, draw(keys)) + b"\x10" + _varint(draw(_COUNTERS)) + _text(0x22, draw(_blocks()))
    message += draw(_unknown_fields()) + draw(_trailers(_MAC_BYTES))
    kind = draw(st.sampled_from(OlmMessageType))
    if kind is OlmMessageType.PRE_KEY:
        identity_key = draw(keys) if sender_key is None else sender_key.raw
        message = (
            b"\x03"
            + _text(0x0A, draw(keys))
            + _text(0x12, draw(keys))
            + _text(0x1A, identity_key)
            + _text(0x22, message)
        )
        message += draw(_unknown_fields())
    return OlmCiphertext(
        message_type=kind, body=unpadded_base64.encode(message), extra=draw(json_objects("type", "body"))
    )


@st.composite
def megolm_ciphertexts(draw: st.DrawFn, message_index: int | None = None) -> str:
    """Megolm messages in unpadded base64.

    Args:
        draw: supplied by Hypothesis.
        message_index: the index that the message states; any by default.
    """
    index = draw(_COUNTERS) if message_index is None else message_index
    message = b"\x03\x08" + _varint(index) + _text(0x12, draw(_blocks())) + draw(_unknown_fields())
    return unpadded_base64.encode(message + draw(_trailers(_MAC_BYTES)) + draw(_trailers(_SIGNATURE_BYTES)))


@st.composite
def megolm_session_keys(draw: st.DrawFn, *, exported: bool | None = None) -> str:
    """Megolm session keys in unpadded base64. Its signing key is that of a sample.

    Args:
        draw: supplied by Hypothesis.
        exported: whether they are in the export format, and not in the sharing format; either by default.
    """
    is_exported = draw(st.booleans()) if exported is None else exported
    signing_key = sample_secret_key(f"session {draw(st.integers(0, 7))}")
    index = draw(_COUNTERS).to_bytes(4, "big")
    open_part = index + draw(_trailers(_RATCHET_BYTES)) + signing_key.public_key.raw
    if is_exported:
        return unpadded_base64.encode(b"\x01" + open_part)
    return unpadded_base64.encode(b"\x02" + open_part + signing_key.sign(b"\x02" + open_part).raw)


# --------------------------------------------------------------------------------------------------------------
# Around the encryption
# --------------------------------------------------------------------------------------------------------------

_NOT_MESSAGES: Final[st.SearchStrategy[Any]] = st.sampled_from(
    [None, 7, [], {}, {"type": True, "body": ""}, {"type": 0, "body": ""}, {"type": 2, "body": "AwA"}]
)


@st.composite
def olm_encrypted_contents(
    draw: st.DrawFn, *, sender_key: Curve25519PublicKey | None = None, recipient_key: Curve25519PublicKey | None = None
) -> OlmEncryptedContent:
    """Contents for one device or several. Something malformed may stand there for a device of somebody else.

    Args:
        draw: supplied by Hypothesis.
        sender_key: the Olm identity key of the sender; any by default.
        recipient_key: the Olm identity key of a device that there is a message for; any by default.
    """
    sending = draw(_curve25519_keys()) if sender_key is None else sender_key
    receiving = draw(_curve25519_keys()) if recipient_key is None else recipient_key
    messages = {receiving: draw(olm_ciphertexts(sending))}
    for key in draw(st.lists(_curve25519_keys(), max_size=2)):
        messages.setdefault(key, draw(olm_ciphertexts(sending)))
    content = OlmEncryptedContent.build(sender_key=sending, messages=messages)
    obj: dict[str, Any] = content.to_json() | draw(json_objects(*OlmEncryptedContent.members))
    if draw(_RARELY):
        name = draw(st.sampled_from([sample_curve25519_key("somebody else").to_base64(), "", "a/b~c", "x" * 43]))
        obj["ciphertext"][name] = draw(_NOT_MESSAGES)
    return OlmEncryptedContent.from_json(obj)


@st.composite
def megolm_encrypted_contents(draw: st.DrawFn, *, session_id: str | None = None) -> MegolmEncryptedContent:
    """Contents for a room, with the deprecated members or without.

    Args:
        draw: supplied by Hypothesis.
        session_id: the session; any by default.
    """
    return MegolmEncryptedContent(
        session_id=draw(_session_ids()) if session_id is None else session_id,
        ciphertext=draw(megolm_ciphertexts()),
        untrusted_sender_key=draw(st.none() | st.just("") | _curve25519_keys().map(Curve25519PublicKey.to_base64)),
        untrusted_device_id=draw(st.none() | st.just("") | device_ids()),
        relates_to=draw(st.none() | json_objects()),
        extra=draw(json_objects(*MegolmEncryptedContent.members)),
    )


def _content(draw: st.DrawFn, event_type: str, encrypted: st.SearchStrategy[Any]) -> Any:
    return draw(encrypted).to_json() if event_type == ENCRYPTED else draw(json_objects())


@st.composite
def to_device_events(draw: st.DrawFn, *, sender: str | None = None) -> ToDeviceEvent:
    """Messages to a device, as a server delivers them; often encrypted with Olm.

    Args:
        draw: supplied by Hypothesis.
        sender: the user who sends; any by default.
    """
    event_type = draw(st.just(ENCRYPTED) | _EVENT_TYPES)
    return ToDeviceEvent(
        type=event_type,
        sender=draw(user_ids()) if sender is None else sender,
        content=_content(draw, event_type, olm_encrypted_contents()),
        extra=draw(json_objects(*ToDeviceEvent.members)),
    )


@st.composite
def room_events(draw: st.DrawFn, *, sender: str | None = None, room_id: str | None = None) -> RoomEvent:
    """Events of a room, as a server delivers them; often encrypted with Megolm, sometimes state events.

    Args:
        draw: supplied by Hypothesis.
        sender: the user who sends; any by default.
        room_id: the room; any by default.
    """
    event_type = draw(st.just(ENCRYPTED) | _EVENT_TYPES)
    return RoomEvent(
        type=event_type,
        sender=draw(user_ids()) if sender is None else sender,
        content=_content(draw, event_type, megolm_encrypted_contents()),
        room_id=draw(_ROOM_IDS) if room_id is None else room_id,
        event_id=draw(st.sampled_from(["$event", "$abc:a.example", "$/+_-"])),
        origin_server_ts=draw(st.sampled_from([0, 1_700_000_000_000, MAX_SAFE_INTEGER])),
        state_key=draw(st.none() | st.sampled_from(["", "@a:b"])),
        extra=draw(json_objects(*RoomEvent.members)),
    )


# --------------------------------------------------------------------------------------------------------------
# Inside of the encryption
# --------------------------------------------------------------------------------------------------------------


@st.composite
def olm_payloads(draw: st.DrawFn, pair: OlmPair = _PAIR) -> OlmPayload:
    """What one device says to another, with the keys of the sender or without. All of it is true.

    Args:
        draw: supplied by Hypothesis.
        pair: the devices.
    """
    extra = draw(_contents())
    known = {*OlmPayload.members, "state_key"}
    payload = OlmPayload.build(
        event_type=draw(_EVENT_TYPES),
        content=draw(_contents()),
        sender=pair.sending_device,
        recipient=pair.receiving_device,
        extra={name: value for name, value in extra.items() if name not in known},
    )
    return evolve(payload, sender_device_keys=None) if draw(_RARELY) else payload


@st.composite
def megolm_payloads(draw: st.DrawFn, *, room_id: str | None = None) -> MegolmPayload:
    """What is said in a room.

    Args:
        draw: supplied by Hypothesis.
        room_id: the room; any by default.
    """
    content = draw(_contents())
    room = draw(_ROOM_IDS) if room_id is None else room_id
    return MegolmPayload.build(event_type=draw(_EVENT_TYPES), content=content, room_id=room)


_Change = Callable[[dict[str, Any], OlmPair], None]


def _other_key() -> str:
    return sample_secret_key("somebody else").public_key.to_base64()


def _set(value: Any, *way: str) -> _Change:
    def change(obj: dict[str, Any], _pair: OlmPair) -> None:
        for name in way[:-1]:
            obj = obj[name]
        obj[way[-1]] = value() if callable(value) else copy.deepcopy(value)

    return change


def _drop(*way: str) -> _Change:
    def change(obj: dict[str, Any], _pair: OlmPair) -> None:
        for name in way[:-1]:
            obj = obj[name]
        del obj[way[-1]]

    return change


def _other_device(**parts: Callable[[OlmPair], Any]) -> _Change:
    """Put in other device keys, which are signed as they should be."""

    def change(obj: dict[str, Any], pair: OlmPair) -> None:
        own: dict[str, Any] = {
            "user_id": pair.sender.user_id,
            "device_id": pair.sender_device_id,
            "curve25519_key": pair.sending_device.curve25519_key,
            "signer": pair.sender.device_signer(pair.sender_device_id),
        }
        built = DeviceKeys.build(**(own | {name: part(pair) for name, part in parts.items()}))
        obj[SENDER_DEVICE_KEYS] = built.to_json()

    return change


def _other_signature(obj: dict[str, Any], pair: OlmPair) -> None:
    signatures = obj[SENDER_DEVICE_KEYS]["signatures"][pair.sender.user_id]
    signatures[f"ed25519:{pair.sender_device_id}"] = sample_secret_key("somebody else").sign(b"").to_base64()


_REQUIRED: Final = ("type", "content", "sender", "recipient", "recipient_keys", "keys")

_CHANGES: Final[dict[str, _Change]] = {
    "sender": _set("@somebody:else.example", "sender"),
    "recipient": _set("@somebody:else.example", "recipient"),
    "keys.ed25519": _set(_other_key, "keys", "ed25519"),
    "recipient_keys.ed25519": _set(_other_key, "recipient_keys", "ed25519"),
    "sender_device_keys.user_id": _other_device(user_id=lambda _pair: "@somebody:else.example"),
    "sender_device_keys.curve25519": _other_device(curve25519_key=lambda _pair: sample_curve25519_key("somebody else")),
    "sender_device_keys.ed25519": _other_device(
        signer=lambda pair: sample_secret_key("somebody else").signer(f"ed25519:{pair.sender_device_id}")
    ),
    "sender_device_keys.signatures": _other_signature,
    "state_key": _set("", "state_key"),
    "type encrypted": _set(ENCRYPTED, "type"),
    **{f"{name} missing": _drop(name) for name in _REQUIRED},
    **{f"{name} null": _set(None, name) for name in (*_REQUIRED, SENDER_DEVICE_KEYS)},
    **{f"{name}.ed25519 missing": _drop(name, "ed25519") for name in ("keys", "recipient_keys")},
    **{f"{name}.ed25519 null": _set(None, name, "ed25519") for name in ("keys", "recipient_keys")},
    "sender an array": _set([], "sender"),
    "content an array": _set([], "content"),
    "keys a string": _set(_other_key, "keys"),
}
_TWICE: Final = {f"{name} twice": name for name in _REQUIRED}
_CUT_OFF: Final = "cut off"


@st.composite
def mutated_olm_payloads(draw: st.DrawFn, pair: OlmPair = _PAIR, change: str | None = None) -> tuple[bytes, str]:
    """What nobody may take for a message of one device to the other: the plaintext, and what was changed in it.

    It is one change. Device keys that are put in are signed as they should be, unless the signature is what was
    changed.

    Args:
        draw: supplied by Hypothesis.
        pair: the devices.
        change: which of the changes; any of them by default.
    """
    changed = draw(st.sampled_from([*_CHANGES, *_TWICE, _CUT_OFF])) if change is None else change
    payload = draw(olm_payloads(pair))
    whole = evolve(payload, sender_device_keys=pair.sending_device.keys)
    obj: dict[str, Any] = whole.to_json()
    if changed in _CHANGES:
        _CHANGES[changed](obj, pair)
        return encode_canonical_json(obj), changed
    encoded = encode_canonical_json(obj)
    if changed in _TWICE:
        name = _TWICE[changed]
        return encode_canonical_json({name: obj[name]})[:-1] + b"," + encoded[1:], changed
    return encoded[: -draw(st.integers(1, len(encoded) - 1))], changed
