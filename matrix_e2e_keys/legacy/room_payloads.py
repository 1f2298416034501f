"""What is inside of an event that was encrypted with Olm for every single device, as the draft of 2015 has it.

Specification: the draft "End to End Encryption" of July 2015, "Using Olm".

Facts:

* "We include the room ID in the payload, because otherwise the homeserver would be able to change the room a message
  was sent in." For the ``fingerprint`` see :func:`~matrix_e2e_keys.legacy.participant_fingerprint`.
* "Encrypting state events is not supported." A payload with a ``state_key`` is neither built nor read.
* Parsed is not believed: :func:`~matrix_e2e_keys.legacy.check_room_payload` judges what was decrypted.

Do not send such events to clients of today. What one device says to another is an :class:`~matrix_e2e_keys.OlmPayload`
now, and what is said in a room a :class:`~matrix_e2e_keys.MegolmPayload`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.canonical_json import encode_canonical_json
from matrix_e2e_keys.endpoints.members import json_object, opaque_string
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, raised_as
from matrix_e2e_keys.events.contents import Member, Record, json_member, mapping_of, some_string
from matrix_e2e_keys.events.contents import room_id as a_room_id
from matrix_e2e_keys.events.encrypted import ENCRYPTED
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.fingerprints import fingerprint_of

__all__ = ["NO_STATE", "STATE_KEY", "LegacyRoomPayload"]

STATE_KEY: Final = "state_key"
NO_STATE: Final = "encrypting state events is not supported"


@frozen(kw_only=True)
class LegacyRoomPayload(Record):
    """The plaintext of an event of a room, in the draft of 2015.

    Attributes:
        type: the type of the event inside.
        content: its content.
        room_id: the room it was sent in.
        fingerprint: what the sender says of the participating keys, as it stands there; ``None`` if nothing does.
        extra: members that the draft does not name; never a ``state_key``.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "type": Member(some_string),
        "content": json_member(),
        "room_id": Member(a_room_id),
        "fingerprint": Member(opaque_string, opaque_string, is_required=False),
    }

    type: str
    content: Mapping[str, Any] = field(repr=False)
    room_id: str
    fingerprint: str | None = None

    def _check_whole(self) -> None:
        if STATE_KEY in self.extra:
            raise Refusal(Reason.STATE_EVENT, NO_STATE, "extra", STATE_KEY)

    @classmethod
    def build(
        cls,
        *,
        event_type: str,
        content: Mapping[str, Any],
        room_id: str,
        participants: Iterable[Curve25519PublicKey],
        extra: Mapping[str, Any] | None = None,
    ) -> Self:
        """Build what is said in a room. The same payload is encrypted for every device.

        Args:
            event_type: the type of the event inside.
            content: its content, which canonical JSON must be able to represent.
            room_id: the room.
            participants: the Olm identity keys of all devices it will be encrypted for, and of one's own.
            extra: further members.

        Raises:
            LocalProtocolError: an argument has the wrong type, there is no participant, or what is inside would be
                encrypted twice, or be a state event.
        """
        with raised_as(LocalProtocolError):
            if some_string(event_type, "event_type") == ENCRYPTED:
                raise Refusal(Reason.NESTED_ENCRYPTION, "it would be encrypted twice", "event_type")
            beside = mapping_of(json_object)({} if extra is None else extra, "extra")
            fingerprint = fingerprint_of(participants, "participants")
        return cls(type=event_type, content=content, room_id=room_id, fingerprint=fingerprint, extra=beside)

    @classmethod
    def from_bytes(cls, plaintext: bytes) -> Self:
        """Read a plaintext, without judging whether it is true.

        Raises:
            RemoteProtocolError: it is malformed, or a state event. ``path`` points into it.
            LocalProtocolError: it is neither bytes nor text.
        """
        if type(plaintext) not in (bytes, bytearray, str):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a plaintext is bytes or text", path="/plaintext")
        frame = parse_frame(plaintext)
        with raised_as(RemoteProtocolError):
            if STATE_KEY in object_in(frame, "the plaintext"):
                raise Refusal(Reason.STATE_EVENT, NO_STATE, STATE_KEY)
            return cls.read_tree(frame, "the plaintext")

    def encode(self) -> bytes:
        """Return the plaintext for a ratchet to encrypt: canonical JSON.

        Raises:
            LocalProtocolError: canonical JSON cannot represent the content. ``path`` says what.
        """
        return encode_canonical_json(self.to_json())
