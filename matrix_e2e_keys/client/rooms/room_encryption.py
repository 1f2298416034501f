"""How a room is encrypted, as a client has to remember it: once encrypted, always encrypted.

Specification: client-server API, ``m.room.encryption``, "Messaging Algorithms" (``m.megolm.v1.aes-sha2``), "Room
History Visibility", "Shareable encryption sessions".

Facts:

* That there is such a state event means that the room is encrypted, whatever stands in it. An algorithm that is not
  supported means that nothing can be sent there; it never means that something may be sent in the clear.
* What a later event says about the algorithm can only make a room usable. An event that names none, or one that is not
  supported, or that is redacted, is refused as a whole.
* The periods of rotation may be changed by whoever may change the state of the room, in both directions. That they
  were loosened is told.
* A rotation period lies between an hour and four weeks. A session has to live long enough to be shared before it is
  too old, otherwise nothing could ever be sent; and nobody may make one live for ever.
* A session encrypts between 1 and 10,000 messages. That is enough for any session to be of use.
* What is malformed counts as not stated. For what is not stated, the recommended defaults hold: a week, 100 messages.

Deviation: "By default if no ``history_visibility`` is set, or if the value is not understood, the visibility is assumed
to be ``shared``". Here only a room without such an event is. A key that was passed on cannot be taken back, so a value
that is not understood shares nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final, Self

from attrs import evolve, field, frozen

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.client.rooms.arguments import reading_argument
from matrix_e2e_keys.endpoints.members import count, opaque_string
from matrix_e2e_keys.errors import (
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    json_pointer,
    quoted,
    raised_as,
)
from matrix_e2e_keys.json_trees import JsonObject, object_in, snapshot
from matrix_e2e_keys.outcome import Notice
from matrix_e2e_keys.stored import Stored

__all__ = ["EncryptionChange", "HistoryVisibility", "RoomEncryption", "RoomEncryptionChange", "shares_history"]

_VERSION: Final = 1
_PERIOD: Final = "rotation_period_ms"
_MESSAGES: Final = "rotation_period_msgs"
_DEFAULT_PERIOD_MS: Final = 604_800_000
_DEFAULT_MESSAGES: Final = 100
_BOUNDS: Final = {_PERIOD: (3_600_000, 2_419_200_000), _MESSAGES: (1, 10_000)}
_DEFAULTS: Final = {_PERIOD: _DEFAULT_PERIOD_MS, _MESSAGES: _DEFAULT_MESSAGES}


class EncryptionChange(enum.StrEnum):
    """What another event changed about the encryption of a room."""

    ALGORITHM = "algorithm"
    """The algorithm was not supported, and now is."""
    ROTATION_TIGHTENED = "rotation-tightened"
    """Sessions live shorter, or for fewer messages."""
    ROTATION_LOOSENED = "rotation-loosened"
    """Sessions live longer, or for more messages. Whoever may change the room's state wanted that, or a malformed value
    made the default hold."""


@frozen(kw_only=True)
class RoomEncryption:
    """How a room is encrypted.

    Attributes:
        algorithm: the algorithm in force, ``None`` if no event named one. Ask :attr:`is_supported` before sending.
        rotation_period_ms: how long a session may be used, in milliseconds: an hour to four weeks.
        rotation_period_msgs: how many messages a session may encrypt: 1 to 10,000.
        notices: what in the last event was not taken as it stood; paths point into its content. Left out of equality,
            and not kept over a restart.
    """

    algorithm: str | None
    rotation_period_ms: int = _DEFAULT_PERIOD_MS
    rotation_period_msgs: int = _DEFAULT_MESSAGES
    notices: tuple[Notice, ...] = field(default=(), eq=False)

    def __attrs_post_init__(self) -> None:
        with raised_as(LocalProtocolError):
            if self.algorithm is not None:
                opaque_string(self.algorithm, "algorithm")
            for name, (least, most) in _BOUNDS.items():
                if not least <= count(getattr(self, name), name) <= most:
                    raise Refusal(Reason.INVALID_VALUE, f"{name} lies between {least} and {most}", name)
            if type(self.notices) is not tuple or any(type(notice) is not Notice for notice in self.notices):
                raise Refusal(Reason.WRONG_TYPE, "notices are a tuple of Notices", "notices")

    @property
    def is_supported(self) -> bool:
        """Whether one can send in the room. If not, nothing may be sent, least of all unencrypted."""
        return self.algorithm == MEGOLM_V1

    def require_supported(self) -> Self:
        """Return this, unless the algorithm is not supported.

        Raises:
            RemoteProtocolError: nothing can be sent in the room.
        """
        if not self.is_supported:
            detail = f"the room is encrypted with {quoted(self.algorithm)}, which is not supported"
            raise RemoteProtocolError(Reason.UNSUPPORTED_ALGORITHM, detail, path="/algorithm")
        return self

    @classmethod
    def from_content(cls, content: object) -> RoomEncryption:
        """Read the first ``m.room.encryption`` of a room that one sees. For those after it, see :meth:`updated`.

        Args:
            content: the content of the state event with the empty state key, whatever it is. An event that was redacted
                is an event as well: the room was encrypted, so it is.

        Raises:
            LocalProtocolError: the methods of a mapping of one's own raise something.
        """
        return _read(content)

    def updated(self, content: object) -> RoomEncryptionChange:
        """Return what another ``m.room.encryption`` makes of this.

        Args:
            content: its content, whatever it is.

        Raises:
            LocalProtocolError: the methods of a mapping of one's own raise something.
        """
        stated = _read(content)
        if not stated.is_supported:
            return RoomEncryptionChange(settings=evolve(self, notices=stated.notices))
        changes: set[EncryptionChange] = set()
        if not self.is_supported:
            changes.add(EncryptionChange.ALGORITHM)
        for name in _BOUNDS:
            before, after = getattr(self, name), getattr(stated, name)
            if after < before:
                changes.add(EncryptionChange.ROTATION_TIGHTENED)
            elif after > before:
                changes.add(EncryptionChange.ROTATION_LOOSENED)
        return RoomEncryptionChange(settings=stated, changes=frozenset(changes))

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart, for each encrypted room and for good."""
        return {
            "version": _VERSION,
            "algorithm": self.algorithm,
            _PERIOD: self.rotation_period_ms,
            _MESSAGES: self.rotation_period_msgs,
        }

    @classmethod
    def from_json(cls, obj: object) -> RoomEncryption:
        """Restore what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is not that.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        return cls(
            algorithm=stored.member("algorithm", str, type(None)),
            rotation_period_ms=stored.member(_PERIOD, int),
            rotation_period_msgs=stored.member(_MESSAGES, int),
        )


@frozen(kw_only=True)
class RoomEncryptionChange:
    """What another event made of the encryption of a room.

    Attributes:
        settings: how the room is encrypted from now on. ``settings.notices`` names what was refused, and why.
        changes: what is different. Empty if nothing is, or if the event was refused.
    """

    settings: RoomEncryption
    changes: frozenset[EncryptionChange] = frozenset()


def _read(content: object) -> RoomEncryption:
    """Read a content of any kind. An algorithm that is not supported is kept, and noticed."""
    notices: list[Notice] = []
    algorithm: str | None = None
    values = dict(_DEFAULTS)
    members = _members(content)
    try:
        tree = object_in(members, "the content of m.room.encryption")
        values |= {name: _number(tree, name, notices) for name in _BOUNDS}
        if "algorithm" not in tree:
            raise Refusal(Reason.MISSING_MEMBER, "there is no algorithm")
        algorithm = opaque_string(tree["algorithm"], "algorithm")
        if algorithm != MEGOLM_V1:
            raise Refusal(Reason.UNSUPPORTED_ALGORITHM, f"{quoted(algorithm)} is not supported", "algorithm")
    except Refusal as refusal:
        notices.append(_notice(refusal))
    return RoomEncryption(
        algorithm=algorithm,
        rotation_period_ms=values[_PERIOD],
        rotation_period_msgs=values[_MESSAGES],
        notices=tuple(notices),
    )


def _members(content: object) -> Any:
    """Return what is looked at of a content, or what stands there if that is no object."""
    with reading_argument("content"):
        if not isinstance(content, Mapping):
            return content
        # What an event holds is a mapping, but no dict.
        return {name: snapshot(content[name]) for name in ("algorithm", *_BOUNDS) if name in content}


def _number(tree: Mapping[str, Any], name: str, notices: list[Notice]) -> int:
    """Return a number within its bounds; the default if none is stated."""
    least, most = _BOUNDS[name]
    if name not in tree:
        return _DEFAULTS[name]
    try:
        stated = count(tree[name], name)
        if stated == 0:
            raise Refusal(Reason.INVALID_VALUE, f"{name} cannot be zero", name)
    except Refusal as refusal:
        notices.append(_notice(refusal))
        return _DEFAULTS[name]
    taken = max(least, min(stated, most))
    if taken != stated:
        detail = f"{name} lies between {least} and {most}: {taken} is taken instead of {stated}"
        notices.append(_notice(Refusal(Reason.INVALID_VALUE, detail, name)))
    return taken


def _notice(refusal: Refusal) -> Notice:
    return Notice(path=json_pointer(refusal.at), reason=refusal.reason, detail=refusal.detail)


# --------------------------------------------------------------------------------------------------------------
# History visibility
# --------------------------------------------------------------------------------------------------------------


class HistoryVisibility(enum.StrEnum):
    """Who may see what was written in a room before."""

    WORLD_READABLE = "world_readable"
    SHARED = "shared"
    INVITED = "invited"
    JOINED = "joined"

    @classmethod
    def from_content(cls, content: object) -> HistoryVisibility | None:
        """Read ``m.room.history_visibility``.

        Args:
            content: the content of the state event, whatever it is; ``None`` if one knows that the room has none.

        Returns:
            The visibility; ``None`` if it is not understood.

        Raises:
            LocalProtocolError: the methods of a mapping of one's own raise something.
        """
        if content is None:
            return cls.SHARED
        with reading_argument("content"):
            named = content.get("history_visibility") if isinstance(content, Mapping) else None
        return cls(named) if type(named) is str and named in list(cls) else None


def shares_history(visibility: HistoryVisibility | None) -> bool:
    """Tell whether a session that is begun now may be shared with those who come later: its ``shared_history``.

    "If it is ``shared`` or ``world_readable``, then when the client sends the Megolm keys to room members [...] it
    SHOULD set ``shared_history`` to ``true``."

    Args:
        visibility: as :meth:`HistoryVisibility.from_content` reads it; ``None`` if it is not understood.

    Raises:
        LocalProtocolError: it is no HistoryVisibility.
    """
    if visibility is not None and type(visibility) is not HistoryVisibility:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a HistoryVisibility is needed", path="/visibility")
    return visibility in (HistoryVisibility.SHARED, HistoryVisibility.WORLD_READABLE)
