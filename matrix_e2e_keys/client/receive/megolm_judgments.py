"""What comes of a Megolm message after it was decrypted: an event, or the checks that it did not pass.

Specification: client-server API, "m.megolm.v1.aes-sha2".
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from attrs import frozen

from matrix_e2e_keys.client.receive.inbound_sessions import InboundSession
from matrix_e2e_keys.client.receive.replay_guard import ReplayVerdict
from matrix_e2e_keys.client.receive.sender_values import OlmSender
from matrix_e2e_keys.errors import quoted
from matrix_e2e_keys.events.judgments import Judgment
from matrix_e2e_keys.events.received import RoomEvent
from matrix_e2e_keys.sealed import Sealed, constructor_of

__all__ = [
    "DecryptedRoomEvent",
    "MegolmCheck",
    "MegolmJudgment",
    "new_decrypted_room_event",
]


class MegolmCheck(enum.StrEnum):
    """A check of a decrypted event of a room."""

    ENVELOPE = "envelope"
    """It is an ``m.room.encrypted`` of Megolm, and no state event."""
    PLAINTEXT = "plaintext"
    """What came out is an event, an object with a type and a content."""
    ROOM = "room"
    """The event, the plaintext and the session name the same room."""
    SESSION = "session"
    """The event names the session that has decrypted it."""
    SENDER = "sender"
    """Whoever made the session has sent the event; or, if that is allowed, another one whose device is vouched for. If
    the key was handed on, no other user is known to have the keys of the device that is said to have made it."""
    INDEX = "index"
    """The session opens this message, and the index that the ratchet returned is the one that the message states."""
    REPLAY = "replay"
    """No other event of this sender had this message."""
    INSIDE = "inside"
    """What is inside is no state event, and not encrypted once more."""


@frozen(repr=False)
class DecryptedRoomEvent(metaclass=Sealed):
    """An event that came out of a Megolm message and passed every check. Only :func:`check_megolm_event` makes one.

    Attributes:
        type: the type of the event inside.
        content: its content, as the sender wrote it, with the ``m.relates_to`` that stands outside of the encryption,
            and without one if none stands there.
        room_id: the room.
        event_id: the id of the event.
        sender_user_id: who has sent the event. If :attr:`sender` is ``None``, according to the servers alone.
        origin_server_ts: when it was sent, in milliseconds since the epoch, according to the sender's server.
        session: the session, with :attr:`sender`.
        sender: the device that made the session, and how sure one is of it by now; ``None`` if the key was handed on by
            somebody: see :attr:`InboundSession.forwarder`.
        message_index: which message of the session it is.
        has_impersonated_sender: whether another user made the session, or is said to. Then the user has to be warned.
        replay: what the guard said; ``None`` if there was no guard. With :attr:`ReplayVerdict.NOT_REMEMBERED` the
            message may have been shown before. With :attr:`ReplayVerdict.DISPUTED` the user has to be warned: another
            user has sent the same message, and one of them has copied it.
        unsigned: what the server added, as it was received; ``None`` if that is no object.
    """

    type: str
    content: Mapping[str, Any]
    room_id: str
    event_id: str
    sender_user_id: str
    origin_server_ts: int
    session: InboundSession
    sender: OlmSender | None
    message_index: int
    has_impersonated_sender: bool
    replay: ReplayVerdict | None
    unsigned: Mapping[str, Any] | None

    def to_event(self) -> RoomEvent:
        """Return the event as if it had not been encrypted. It is never a state event.

        Nothing of the plaintext is in it but the type and the content; and nothing of the event around it but what the
        attributes here name.
        """
        return RoomEvent(
            type=self.type,
            sender=self.sender_user_id,
            content=self.content,
            room_id=self.room_id,
            event_id=self.event_id,
            origin_server_ts=self.origin_server_ts,
            extra={} if self.unsigned is None else {"unsigned": dict(self.unsigned)},
        )

    def __repr__(self) -> str:
        warning = ", impersonated" if self.has_impersonated_sender else ""
        warning += ", disputed" if self.replay is ReplayVerdict.DISPUTED else ""
        return f"<DecryptedRoomEvent {quoted(self.type)} {quoted(self.event_id)} in {self.session!r}{warning}>"


new_decrypted_room_event: Final = constructor_of(DecryptedRoomEvent)


@frozen(kw_only=True)
class MegolmJudgment(Judgment[DecryptedRoomEvent, MegolmCheck]):
    """What the checks of a Megolm event said.

    Attributes:
        event: the event, if it passed all of them.
        failed: the checks that it did not pass, in the order of :class:`MegolmCheck`. Paths lead into the plaintext;
            with :attr:`MegolmCheck.ENVELOPE`, :attr:`MegolmCheck.SESSION` and :attr:`MegolmCheck.INDEX` into the
            content around it.
    """

    event_kind: ClassVar[type] = DecryptedRoomEvent
