"""What is inside the encryption: the plaintext of an Olm message, and of a Megolm message.

Specification: client-server API, "m.olm.v1.curve25519-aes-sha2" (``definitions/olm_plaintext.yaml``),
"m.megolm.v1.aes-sha2".

Facts:

* "We include the room ID in the encrypted message, because otherwise the homeserver would be able to change the room a
  message was sent in"; for the same reason an Olm message names sender and recipient, and their signing keys.
* Parsed is not believed: :func:`~matrix_e2e_keys.check_olm_event` and :func:`~matrix_e2e_keys.check_megolm_event` judge
  what was decrypted.
* Encrypting state events is not supported: no payload has a ``state_key``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.endpoints.entries import read_device
from matrix_e2e_keys.endpoints.members import json_object, user_id
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    printable,
    quoted,
    raised_as,
)
from matrix_e2e_keys.events.contents import (
    Member,
    Record,
    ed25519_member,
    json_member,
    mapping_of,
    room_id,
    some_string,
)
from matrix_e2e_keys.events.encrypted import ENCRYPTED
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in, wrong_type
from matrix_e2e_keys.keys import Ed25519PublicKey
from matrix_e2e_keys.models.device_keys import DeviceKeys, VerifiedDevice

__all__ = [
    "MSC4147_DEVICE_KEYS",
    "SENDER_DEVICE_KEYS",
    "MegolmPayload",
    "OlmPayload",
    "sent_along",
    "signing_keys_member",
]

SENDER_DEVICE_KEYS: Final = "sender_device_keys"
MSC4147_DEVICE_KEYS: Final = "org.matrix.msc4147.device_keys"
"""What ``sender_device_keys`` was called before version 1.15."""

_ED25519: Final = "ed25519"
_FOR_CROSS_SIGNED: Final = frozenset({"m.room_key_bundle"})


def signing_keys_member() -> Member:
    """Return the member that holds ``{"ed25519": key}``; keys of other algorithms are passed over."""
    key = ed25519_member()

    def read(tree: Any, *at: str | int) -> Any:
        keys = object_in(tree, str(at[-1]), *at)
        if _ED25519 not in keys:
            raise Refusal(Reason.MISSING_MEMBER, f"there is no {_ED25519}", *at)
        return key.read(keys[_ED25519], *at, _ED25519)

    return Member(key.check, read, lambda value: {_ED25519: value.to_base64()})


def _check_device(value: object, *at: str | int) -> DeviceKeys:
    if type(value) is not DeviceKeys:
        raise wrong_type(f"{at[-1]} must be DeviceKeys", value, *at)
    return value


def _read_device(tree: Any, *at: str | int) -> DeviceKeys:
    try:
        return read_device(tree)
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, *at, *refusal.at) from None


@frozen(kw_only=True)
class _Payload(Record):
    """What is inside of a message."""

    def encode(self) -> bytes:
        """Return the plaintext for a ratchet to encrypt: canonical JSON.

        Raises:
            LocalProtocolError: canonical JSON cannot represent the content. ``path`` says what.
        """
        return encode_canonical_json(self.to_json())


@frozen(kw_only=True)
class OlmPayload(_Payload):
    """The plaintext of an Olm message.

    Attributes:
        type: the type of the event inside.
        content: its content.
        sender: who sends it.
        recipient: the user it is for.
        recipient_keys: the signing key of the device it is for.
        keys: the signing key of the device that sends it.
        sender_device_keys: the keys of that device, signed; ``None`` from clients that do not send them yet.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "type": Member(some_string),
        "content": json_member(),
        "sender": Member(user_id),
        "recipient": Member(user_id),
        "recipient_keys": signing_keys_member(),
        "keys": signing_keys_member(),
        SENDER_DEVICE_KEYS: Member(_check_device, _read_device, lambda value: value.to_json(), is_required=False),
    }

    type: str
    content: Mapping[str, Any] = field(repr=False)
    sender: str
    recipient: str
    recipient_keys: Ed25519PublicKey
    keys: Ed25519PublicKey
    sender_device_keys: DeviceKeys | None = None

    @classmethod
    def build(
        cls,
        *,
        event_type: str,
        content: Mapping[str, Any],
        sender: VerifiedDevice,
        recipient: VerifiedDevice,
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build what one device says to another.

        Args:
            event_type: the type of the event inside.
            content: its content, which canonical JSON must be able to represent.
            sender: one's own device. Its keys are sent along, with the signatures they have.
            recipient: the device that it is for. Whether its owner has cross-signed it, it has to know: verify it with
                the owner's identity if it is sent an ``m.room_key_bundle``.
            extra: further members.

        Raises:
            LocalProtocolError: an argument has the wrong type; a device does not speak Olm, or it is the same one
                twice; what is inside would be encrypted twice, or be a state event; or it is an ``m.room_key_bundle``,
                and the owner of the recipient has not cross-signed it (``UNVERIFIED_DEVICE``).
        """
        for name, device in (("sender", sender), ("recipient", recipient)):
            if type(device) is not VerifiedDevice:
                raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path=f"/{name}")
            if not device.supports_olm:
                raise LocalProtocolError(Reason.MISSING_KEY, "the device does not speak Olm", path=f"/{name}")
        if sender.curve25519_key == recipient.curve25519_key:
            raise LocalProtocolError(
                Reason.KEY_REUSED, "both devices have the same Olm identity key", path="/recipient"
            )
        _check_inside(event_type)
        if event_type in _FOR_CROSS_SIGNED and not recipient.is_cross_signed:
            # "MUST NOT send the m.room.key_bundle message to devices that have not been correctly cross-signed"
            detail = f"{quoted(event_type)} is only sent to devices that their owner has cross-signed"
            raise LocalProtocolError(Reason.UNVERIFIED_DEVICE, detail, path="/recipient")
        with raised_as(LocalProtocolError):
            beside = mapping_of(json_object)({} if extra is None else extra, "extra")
            if "state_key" in beside:
                raise Refusal(Reason.STATE_EVENT, "state events are not encrypted", "extra", "state_key")
            if MSC4147_DEVICE_KEYS in beside:
                detail = f"the device keys are sent as {SENDER_DEVICE_KEYS}"
                raise Refusal(Reason.INVALID_VALUE, detail, "extra", MSC4147_DEVICE_KEYS)
        return cls(
            type=event_type,
            content=content,
            sender=sender.user_id,
            recipient=recipient.user_id,
            recipient_keys=recipient.ed25519_key,
            keys=sender.ed25519_key,
            sender_device_keys=sent_along(sender),
            extra=beside,
        )

    @classmethod
    def from_bytes(cls, plaintext: bytes) -> Self:
        """Read a plaintext, without judging whether it is true.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into it.
            LocalProtocolError: it is neither bytes nor text.
        """
        frame = _frame(plaintext)
        with raised_as(RemoteProtocolError):
            tree = object_in(frame, "the plaintext")
            if MSC4147_DEVICE_KEYS in tree:
                tree.setdefault(SENDER_DEVICE_KEYS, tree.pop(MSC4147_DEVICE_KEYS))
            return cls.read_tree(tree, "the plaintext")


@frozen(kw_only=True)
class MegolmPayload(_Payload):
    """The plaintext of a Megolm message.

    Attributes:
        type: the type of the event inside.
        content: its content.
        room_id: the room it was sent in.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "type": Member(some_string),
        "content": json_member(),
        "room_id": Member(room_id),
    }

    type: str
    content: Mapping[str, Any] = field(repr=False)
    room_id: str

    @classmethod
    def build(cls, *, event_type: str, content: Mapping[str, Any], room_id: str) -> Self:
        """Build what is said in a room.

        ``m.relates_to`` is left out: it belongs into the content around the ciphertext; see
        :meth:`MegolmEncryptedContent.build`.

        Args:
            event_type: the type of the event inside.
            content: its content, which canonical JSON must be able to represent.
            room_id: the room.

        Raises:
            LocalProtocolError: an argument has the wrong type, or what is inside would be encrypted twice.
        """
        _check_inside(event_type)
        with raised_as(LocalProtocolError):
            inside = dict(json_member().check(content, "content"))
        inside.pop("m.relates_to", None)
        return cls(type=event_type, content=inside, room_id=room_id)

    @classmethod
    def from_bytes(cls, plaintext: bytes) -> Self:
        """Read a plaintext, without judging whether it is true.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into it.
            LocalProtocolError: it is neither bytes nor text.
        """
        frame = _frame(plaintext)
        with raised_as(RemoteProtocolError):
            return cls.read_tree(frame, "the plaintext")


def _frame(plaintext: object) -> Any:
    if type(plaintext) not in (bytes, bytearray, str):
        raise LocalProtocolError(Reason.WRONG_TYPE, "a plaintext is bytes or text", path="/plaintext")
    return parse_frame(plaintext)


def _check_inside(event_type: object) -> None:
    """Refuse to build what nobody would take."""
    with raised_as(LocalProtocolError):
        if some_string(event_type, "event_type") == ENCRYPTED:
            raise Refusal(Reason.NESTED_ENCRYPTION, "it would be encrypted twice", "event_type")


def sent_along(device: VerifiedDevice) -> DeviceKeys:
    """Return the keys of one's device as they are sent along: without what servers have added to them.

    Of the signatures, the device's own stays, and that of the identity that was found to have signed it. Whatever else
    a server puts there would travel inside of the encryption. If nobody looked for an identity, everything of the owner
    stays that may be a signature.

    Raises:
        LocalProtocolError: it is no VerifiedDevice.
    """
    if type(device) is not VerifiedDevice:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a VerifiedDevice is needed", path="/device")
    obj = device.keys.to_json()
    signatures = device.keys.signed.signatures.get(device.user_id, {})
    if device.cross_signed_by is None:
        kept = [name for name, text in signatures.items() if _may_be_signature(name, text)]
    else:
        kept = [f"{_ED25519}:{device.device_id}", f"{_ED25519}:{device.cross_signed_by.to_base64()}"]
    obj.pop("unsigned", None)
    obj["signatures"] = {device.user_id: {name: text for name, text in signatures.items() if name in kept}}
    return DeviceKeys.from_json(obj)


def _may_be_signature(name: str, text: str) -> bool:
    raw = unpadded_base64.decode(text)
    return name.startswith(f"{_ED25519}:") and name == printable(name) and raw is not None and len(raw) == 64
