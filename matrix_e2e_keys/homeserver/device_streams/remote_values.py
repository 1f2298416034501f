"""What becomes of what another server tells about the devices of its users, as plain values."""

from __future__ import annotations

import enum
from typing import TypeAlias

from attrs import frozen

from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesRequest
from matrix_e2e_keys.homeserver.effects import DeviceChanged, IdentityChanged
from matrix_e2e_keys.outcome import Rejection

__all__ = ["EduOutcome", "EduReason", "EduVerdict", "ListNotice", "Resync"]

ListNotice: TypeAlias = DeviceChanged | IdentityChanged
"""What one's own users are to be told about a user of another server."""


class EduVerdict(enum.StrEnum):
    """What was done. The values are stable."""

    APPLIED = "applied"
    """The copy is what the other server has, as far as it has told."""
    NEEDS_RESYNC = "needs-resync"
    """The copy may be out of date until all devices were asked for."""
    IGNORED = "ignored"
    """Nothing came of it."""


class EduReason(enum.StrEnum):
    """Why something was not simply applied. The values are stable."""

    NOT_OF_ORIGIN = "not-of-origin"
    """The user is one of another server than the one that speaks."""
    NOT_TRACKED = "not-tracked"
    """No room is shared with the user."""
    ALREADY_SEEN = "already-seen"
    """It has been told before."""
    NOTHING_NEW = "nothing-new"
    """The identity is known already."""
    NOT_AWAITED = "not-awaited"
    """Nobody waits for this answer any more."""
    RESYNC_DUE = "resync-due"
    """All devices are to be asked for anyway."""
    NO_PREDECESSOR = "no-predecessor"
    """The update names no update before it."""
    GAP = "gap"
    """An update before it is unknown."""
    OUT_OF_ORDER = "out-of-order"
    """It is older than what is known, and was not seen then."""
    MALFORMED = "malformed"
    """Keys in it, or the answer itself, are refused."""
    TOO_MANY_DEVICES = "too-many-devices"
    """The user has more devices than are kept."""
    UNCONFIRMED = "unconfirmed"
    """The identity is taken over in the place of another, though nothing says which of the two is newer."""
    OVERTAKEN = "overtaken"
    """The answer is taken over, though more was told while it was on its way."""


@frozen(kw_only=True)
class EduOutcome:
    """What came of an EDU, or of an answer.

    Attributes:
        verdict: what was done.
        reason: why it was not simply applied, ``None`` if it was.
        changed: whom one's own users are to be told about.
        refused: what in it does not count; paths begin at the content of the EDU, or at the answer.
    """

    verdict: EduVerdict
    reason: EduReason | None = None
    changed: tuple[ListNotice, ...] = ()
    refused: tuple[Rejection, ...] = ()


@frozen(kw_only=True)
class Resync:
    """A request for all devices of a user, to be sent.

    Attributes:
        number: names the request. Not to be kept over a restart.
        user_id: whose devices.
        server_name: whom to ask.
        request: what to ask.
    """

    number: int
    user_id: str
    server_name: str
    request: UserDevicesRequest
