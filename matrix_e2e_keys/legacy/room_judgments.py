"""What comes of an event of the draft of 2015 after it was decrypted: a payload, or the checks that it did not pass.

Specification: the draft "End to End Encryption" of July 2015, "Using Olm".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import NoneType
from typing import Any, ClassVar, Final

from attrs import frozen

from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.events.judgments import Judgment
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.legacy.fingerprints import ParticipantReport
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = [
    "CheckedRoomPayload",
    "RoomPayloadCheck",
    "RoomPayloadJudgment",
    "new_checked_payload",
]


class RoomPayloadCheck(enum.StrEnum):
    """A check of a decrypted event of the draft of 2015."""

    ENVELOPE = "envelope"
    """It is an ``m.room.encrypted`` of Olm, with a message for this device, whose pre-key names the ``sender_key``."""
    PLAINTEXT = "plaintext"
    """What came out is an event, an object with a type and a content."""
    ROOM = "room"
    """``room_id`` is the room of the event around it."""
    STATE = "state"
    """Neither the event nor what is inside is a state event."""
    INSIDE = "inside"
    """What is inside is not encrypted once more."""
    SENDER_DEVICE = "sender-device"
    """``sender_key`` is the Olm identity key of one expected device, and of no other; and its owner is the sender."""
    FINGERPRINT = "fingerprint"
    """``fingerprint`` is that of the expected participants, if it is stated."""
    PARTICIPANTS = "participants"
    """The event is for nobody who was not expected; unless the fingerprint says that the sender knows of nobody else,
    so that it was a server that added them."""


@frozen(repr=False)
class CheckedRoomPayload(metaclass=Sealed):
    """An event that came out of an Olm message and passed every check. Only :func:`check_room_payload` makes one.

    Attributes:
        type: the type of the event inside.
        content: its content, as the sender wrote it.
        room_id: the room it was sent in.
        sender: the device that has sent it, as far as the draft can tell.
        participants: who takes part. The fingerprint was a match, or none was stated.
        one_time_key: which of one's own one-time keys a pre-key message was made with; ``None`` if it is a normal
            message. Tell :meth:`~matrix_e2e_keys.KeySupply.receive_use`.
        extra: what else stood in the plaintext. Nothing of it was checked.
    """

    type: str
    content: Mapping[str, Any]
    room_id: str
    sender: VerifiedDevice
    participants: ParticipantReport
    one_time_key: Curve25519PublicKey | None
    extra: Mapping[str, Any]

    def __repr__(self) -> str:
        return (
            f"<CheckedRoomPayload {quoted(self.type)} of {self.sender!r}, fingerprint {self.participants.fingerprint}>"
        )


new_checked_payload: Final = constructor_of(CheckedRoomPayload)


@frozen(kw_only=True)
class RoomPayloadJudgment(Judgment[CheckedRoomPayload, RoomPayloadCheck]):
    """What the checks of an event of the draft said.

    Attributes:
        event: the event, if it passed all of them.
        failed: the checks that it did not pass, in the order of :class:`RoomPayloadCheck`. Paths begin with ``/event``
            or ``/plaintext``.
        participants: who takes part, also if the event is refused. ``None`` if it is not of Olm, or holds no object.
    """

    event_kind: ClassVar[type] = CheckedRoomPayload

    participants: ParticipantReport | None = None

    def __attrs_post_init__(self) -> None:
        Judgment.__attrs_post_init__(self)
        if type(self.participants) not in (NoneType, ParticipantReport):
            detail = "participants must be a ParticipantReport"
            raise LocalProtocolError(Reason.WRONG_TYPE, detail, path="/participants")
