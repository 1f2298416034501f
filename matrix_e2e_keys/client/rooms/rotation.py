"""When an outbound Megolm session has to go, and why.

Specification: client-server API, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Shareable encryption sessions".

Facts:

* "Clients MUST rotate their outgoing Megolm session (i.e. discard the existing session, and create and share a new
  session before sending more room messages)" for each of the reasons here. Ask before each message.
* Who may have the key counts, not who was certainly sent it.
* A ratchet that stands before a message that was encrypted would encrypt two messages with one key, which shows what
  is in both. That happens when it is restored from before a crash, though everybody has the key.
* A device that is added is no reason: it gets the ratchet as it stands.
* If a policy stops, no devices are chosen. That says nothing of those that were: only what does not depend on devices
  is asked then, and nothing is sent.
* A device of a user of whom nothing is known cannot be judged, so the session of which it may have the key has to go.
  That happens once: nothing is shared with such a user.
* One's own other devices are devices like all others. This device is never among them.
* The algorithm is no reason: one that is supported stays for good, and in a room with another one there is no session.
* A clock that was set back must not make a session live longer, so a session that was made or used in the future has to
  go. What time passed unseen between the last message and the moment at which it was set back, nobody can tell.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from matrix_e2e_keys.back_off import check_now
from matrix_e2e_keys.client.rooms.arguments import Chosen, check_members, check_recipients
from matrix_e2e_keys.client.rooms.key_shares import check_index
from matrix_e2e_keys.client.rooms.outbound_sessions import OutboundSession
from matrix_e2e_keys.client.rooms.room_encryption import HistoryVisibility, RoomEncryption, shares_history
from matrix_e2e_keys.client.trust.recipients import Recipients
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted, raised_as

__all__ = ["RotationKind", "RotationReason", "rotation_reasons"]


class RotationKind(enum.StrEnum):
    """Why a session has to go."""

    TOO_OLD = "too-old"
    """It has been in use for the period that the room sets, or was made or used in the future."""
    TOO_MANY_MESSAGES = "too-many-messages"
    """It has encrypted as many messages as the room sets."""
    RATCHET_SET_BACK = "ratchet-set-back"
    """The ratchet stands before a message that was encrypted, and would encrypt two with one key."""
    VISIBILITY_CHANGED = "visibility-changed"
    """It may be shared with those who come later, and one that is begun now may not; or the other way round."""
    MEMBER_LEFT = "member-left"
    """A user was seen to leave; or may have the key, and is not in the room."""
    DEVICE_REMOVED = "device-removed"
    """A device may have the key, and is not chosen any more, for it is gone, blacklisted, or not good enough; or for
    nothing is known of its user now."""
    DEVICE_REPLACED = "device-replaced"
    """A device may have the key, and under its name there is another one, with other keys."""


_ORDER: Final = tuple(RotationKind)


@frozen(kw_only=True)
class RotationReason:
    """Why a session has to go.

    Attributes:
        kind: why.
        user_id: because of whom, if it is because of somebody.
        device_id: because of which device of theirs, if it is because of a device.
    """

    kind: RotationKind
    user_id: str | None = None
    device_id: str | None = None


def rotation_reasons(
    session: OutboundSession,
    *,
    settings: RoomEncryption,
    visibility: HistoryVisibility | None,
    members: Iterable[str],
    recipients: Recipients,
    message_index: int,
    now: int,
) -> tuple[RotationReason, ...]:
    """Return why a session must not encrypt the next message.

    Args:
        session: the session.
        settings: how the room is encrypted.
        visibility: the room's history visibility now; ``None`` if it is not understood.
        members: who may read in the room: those who have joined; and those who are invited, unless the history
            visibility is ``joined``. Everybody whose devices are chosen from is among them. They are taken as the state
            of the room names them: what is no user id (:func:`~matrix_e2e_keys.is_user_id`) has no devices, and does no
            harm. :func:`~matrix_e2e_keys.select_recipients` takes user ids only.
        recipients: who would get the key of a session that is begun now.
        message_index: the index at which the ratchet stands: that of the next message.
        now: the caller's time in milliseconds, on the clock of :attr:`OutboundSession.created_at`.

    Returns:
        Every reason there is, in the order of :class:`RotationKind`. Empty if the session may be used, once the devices
        that need its key have been sent it (:func:`~matrix_e2e_keys.plan_sharing`).

    Raises:
        LocalProtocolError: an argument has the wrong type; a recipient is not a member; or the algorithm of the room is
            not supported.
    """
    if type(session) is not OutboundSession:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the session must be an OutboundSession", path="/session")
    if type(settings) is not RoomEncryption:
        raise LocalProtocolError(Reason.WRONG_TYPE, "the settings must be a RoomEncryption", path="/settings")
    if not settings.is_supported:
        detail = "the algorithm of the room is not supported: nothing can be sent there"
        raise LocalProtocolError(Reason.UNSUPPORTED_ALGORITHM, detail, path="/settings")
    shared_history = shares_history(visibility)
    present = check_members(members, "members")
    chosen = check_recipients(recipients)
    for user_id in sorted(chosen.users - present):
        detail = f"{quoted(user_id)} is a recipient, and no member of the room"
        raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/members")
    with raised_as(LocalProtocolError):
        index = check_index(message_index, "message_index")
    reasons: list[RotationReason] = []
    if not session.last_used_at <= check_now(now) < session.created_at + settings.rotation_period_ms:
        reasons.append(RotationReason(kind=RotationKind.TOO_OLD))
    if max(session.message_count, index) >= settings.rotation_period_msgs:
        reasons.append(RotationReason(kind=RotationKind.TOO_MANY_MESSAGES))
    if index < session.message_count:
        reasons.append(RotationReason(kind=RotationKind.RATCHET_SET_BACK))
    if session.shared_history is not shared_history:
        reasons.append(RotationReason(kind=RotationKind.VISIBILITY_CHANGED))
    reasons += _about_users(session, present)
    if not chosen.is_stopped:
        reasons += _about_devices(session, present, chosen)
    return tuple(reasons)


def _about_users(session: OutboundSession, present: frozenset[str]) -> Iterator[RotationReason]:
    """Yield who is gone, or was."""
    may_have_it = session.history_shared_with.union(user_id for user_id, _ in session.shares)
    for user_id in sorted(session.left | (may_have_it - present)):
        yield RotationReason(kind=RotationKind.MEMBER_LEFT, user_id=user_id)


def _about_devices(session: OutboundSession, present: frozenset[str], chosen: Chosen) -> list[RotationReason]:
    """Return which devices of those who are there must not have the key."""
    found: list[RotationReason] = []
    for (user_id, device_id), share in session.shares.items():
        if user_id not in present:
            continue
        device = chosen.devices.get((user_id, device_id))
        if device is None:
            kind = RotationKind.DEVICE_REMOVED
        elif not share.is_with(device):
            kind = RotationKind.DEVICE_REPLACED
        else:
            continue
        found.append(RotationReason(kind=kind, user_id=user_id, device_id=device_id))
    return sorted(found, key=lambda reason: (_ORDER.index(reason.kind), reason.user_id, reason.device_id))
