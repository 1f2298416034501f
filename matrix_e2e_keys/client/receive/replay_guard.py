"""Which message of which Megolm session was which event: so that no server shows a message a second time.

Specification: client-server API, "m.megolm.v1.aes-sha2".

Facts:

* "They should reject messages with a ratchet index that they have already decrypted." To decrypt the same event twice
  is all right: it has the same event id *and* the same timestamp. A server that serves one event with two timestamps
  lies about one of them.
* A message is named by room, session and index. What the event says of its sender's device does not matter.
* A guard is asked before a message counts, and told afterwards. What was refused for another reason leaves no trace;
  otherwise a forged copy could keep the true event out.
* Of each sender, the first event of a message is the one that counts. Where a session's key was handed on, nobody can
  tell whose its messages are, and anybody can send a copy of one as his own. So no event of one user keeps out that of
  another: both are *disputed*, as soon as there are two.
* At most four senders are remembered of one message, and those after the first only while nothing has to be forgotten
  for them. The event of a sender who is not remembered is disputed as well.
* Memory is bounded, and what had to be forgotten is never taken for something new. Of a session whose events were
  forgotten, the highest index is kept. Of a session of which nothing is kept, a bit in a table of fixed size remains.
  In that table another session may look like one that was forgotten, never the other way round.
"""

from __future__ import annotations

import enum
import heapq
from collections import OrderedDict
from typing import Final, TypeVar

from attrs import define, field

from matrix_e2e_keys.client.receive.message_index import MAX_MESSAGE_INDEX, message_index_of
from matrix_e2e_keys.client.receive.name_table import NameTable
from matrix_e2e_keys.endpoints.members import Check, count, user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, raised_as
from matrix_e2e_keys.events.contents import room_id as _room_id
from matrix_e2e_keys.events.contents import some_string
from matrix_e2e_keys.events.received import event_id as check_event_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.stored import Stored

__all__ = ["ReplayGuard", "ReplayVerdict"]

T = TypeVar("T")

_VERSION: Final = 1
_MAX_ENTRIES: Final = 100_000
_MAX_SESSION_ENTRIES: Final = 10_000
_MAX_MARKS: Final = 50_000
_MAX_SENDERS: Final = 4
_NONE_FORGOTTEN: Final = -1
_ROOM_ID: Final = "room_id"
_SESSION_ID: Final = "session_id"

_Name = tuple[str, str]
_Seen = tuple[str, str, int]
"""A sender, and the event: its id and timestamp."""


class ReplayVerdict(enum.StrEnum):
    """What a guard says of an event. The values are stable."""

    NEW = "new"
    """No event had this message."""
    SAME_EVENT = "same-event"
    """This event had this message before."""
    REPLAYED = "replayed"
    """Another event of this sender had this message before, or this one at another time."""
    DISPUTED = "disputed"
    """Another user's event had this message; one of them has copied it. Show it with a warning. What else was known of
    this message may be forgotten: then it may have been seen before."""
    NOT_REMEMBERED = "not-remembered"
    """It may have been seen before, since what was known of this part of the session had to be forgotten."""


@define
class _Session:
    """What is known of one session.

    Attributes:
        seen: message index to what was seen of it, of each sender once.
        lowest: a heap of the same indices.
        size: how many senders' events there are.
        forgotten: the highest index whose event was forgotten.
    """

    seen: dict[int, tuple[_Seen, ...]] = field(factory=dict)
    lowest: list[int] = field(factory=list, eq=False)
    size: int = 0
    forgotten: int = _NONE_FORGOTTEN

    def add(self, index: int, event: _Seen) -> None:
        """Remember an event of a sender of whom none is remembered at this index."""
        if index not in self.seen:
            heapq.heappush(self.lowest, index)
        self.seen[index] = (*self.seen.get(index, ()), event)
        self.size += 1

    def forget_lowest(self) -> None:
        """Forget all that is known of the message with the lowest index."""
        index = heapq.heappop(self.lowest)
        self.size -= len(self.seen.pop(index))
        self.forgotten = max(self.forgotten, index)


@define(kw_only=True)
class ReplayGuard:
    """Remembers which event every decrypted message was. A state machine without input or output.

    Attributes:
        max_entries: how many events are remembered. Those of the sessions that were not used for longest are
            forgotten first.
        max_session_entries: how many of one session. Those with the lowest index are forgotten first.
        max_marks: for how many sessions whose messages were forgotten it is known how far they had got.
    """

    max_entries: int = _MAX_ENTRIES
    max_session_entries: int = _MAX_SESSION_ENTRIES
    max_marks: int = _MAX_MARKS
    # Both in the order of the last use. A session is in one of them: with events, or with only a mark.
    _sessions: OrderedDict[_Name, _Session] = field(factory=OrderedDict, init=False, repr=False)
    _marks: OrderedDict[_Name, int] = field(factory=OrderedDict, init=False, repr=False)
    _table: NameTable = field(factory=NameTable, init=False, repr=False)
    _size: int = field(default=0, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        for name, least in (("max_entries", 1), ("max_session_entries", 1), ("max_marks", 0)):
            value: object = getattr(self, name)
            if type(value) is not int or value < least:
                detail = f"{name} must be an integer of at least {least}"
                raise LocalProtocolError(Reason.INVALID_VALUE, detail, path=f"/{name}")

    def __len__(self) -> int:
        return self._size

    def check(
        self, *, room_id: str, session_id: str, message_index: int, sender: str, event_id: str, origin_server_ts: int
    ) -> ReplayVerdict:
        """Return whether a message was seen before. Nothing changes.

        Args:
            room_id: the room.
            session_id: the session, which is one of this room.
            message_index: which message of the session it is, as the ratchet says.
            sender: the user who has sent the event that it came in.
            event_id: that event.
            origin_server_ts: the timestamp of that event, in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type, or cannot be what it should.
        """
        name = _name(room_id, session_id)
        index = _argument(message_index_of, message_index, "message_index")
        return self._verdict(name, index, _event(sender, event_id, origin_server_ts))

    def record(
        self, *, room_id: str, session_id: str, message_index: int, sender: str, event_id: str, origin_server_ts: int
    ) -> ReplayVerdict:
        """Remember an event that passed every check.

        Of a message that another event of the sender had, nothing changes.

        Args:
            room_id: the room.
            session_id: the session.
            message_index: which message of the session it is.
            sender: the user who has sent the event that it came in.
            event_id: that event.
            origin_server_ts: the timestamp of that event, in milliseconds.

        Returns:
            What :meth:`check` said until now.

        Raises:
            LocalProtocolError: an argument has the wrong type, or cannot be what it should.
        """
        name = _name(room_id, session_id)
        index = _argument(message_index_of, message_index, "message_index")
        event = _event(sender, event_id, origin_server_ts)
        verdict = self._verdict(name, index, event)
        if verdict is ReplayVerdict.SAME_EVENT:
            self._sessions.move_to_end(name)
        elif verdict is ReplayVerdict.DISPUTED:
            session = self._sessions[name]
            is_full = session.size >= self._session_limit or self._size >= self.max_entries
            if not is_full and len(session.seen[index]) < _MAX_SENDERS:
                self._put(name, index, event)
        elif verdict is not ReplayVerdict.REPLAYED:
            self._trim(self._put(name, index, event))
            self._make_room()
        return verdict

    def forget_session(self, room_id: str, session_id: str) -> None:
        """Forget a session whose key was deleted. With the key, all its messages would be new.

        Raises:
            LocalProtocolError: an argument has the wrong type, or cannot be what it should.
        """
        self._forget([_name(room_id, session_id)])

    def forget_room(self, room_id: str) -> None:
        """Forget a room, all keys of which were deleted.

        Raises:
            LocalProtocolError: it is no room id.
        """
        room = _argument(_room_id, room_id, "room_id")
        self._forget([name for name in (*self._sessions, *self._marks) if name[0] == room])

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. It tells which messages were read when, and is otherwise public."""
        return {
            "version": _VERSION,
            "sessions": [
                {
                    **_name_to_json(name),
                    "forgotten": None if session.forgotten == _NONE_FORGOTTEN else session.forgotten,
                    "seen": [[index, *event] for index, events in session.seen.items() for event in events],
                }
                for name, session in self._sessions.items()
            ],
            "marks": [{**_name_to_json(name), "forgotten": index} for name, index in self._marks.items()],
            "table": self._table.to_json(),
        }

    @classmethod
    def from_json(
        cls,
        obj: object,
        *,
        max_entries: int = _MAX_ENTRIES,
        max_session_entries: int = _MAX_SESSION_ENTRIES,
        max_marks: int = _MAX_MARKS,
    ) -> ReplayGuard:
        """Restore a guard. The bounds are not stored: they may be others from now on.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned, or a bound is none.
        """
        guard = cls(max_entries=max_entries, max_session_entries=max_session_entries, max_marks=max_marks)
        stored = Stored(obj)
        stored.require_version(_VERSION)
        for session in stored.elements("sessions"):
            guard._restore_session(session)
        for mark in stored.elements("marks"):
            name = guard._restore_name(mark)
            guard._marks[name] = _restore_forgotten(mark, int)
        guard._table = NameTable.restore(stored, "table")
        guard._make_room()
        return guard

    def _verdict(self, name: _Name, index: int, event: _Seen) -> ReplayVerdict:
        session = self._sessions.get(name)
        seen = () if session is None else session.seen.get(index, ())
        for one in seen:
            if one[0] == event[0]:
                return ReplayVerdict.SAME_EVENT if one == event else ReplayVerdict.REPLAYED
        if seen:
            return ReplayVerdict.DISPUTED
        return ReplayVerdict.NEW if index > self._forgotten(name) else ReplayVerdict.NOT_REMEMBERED

    def _forgotten(self, name: _Name) -> int:
        """Return up to which index messages of a session may have been forgotten."""
        session = self._sessions.get(name)
        if session is not None:
            return session.forgotten
        if name in self._marks:
            return self._marks[name]
        return MAX_MESSAGE_INDEX if name in self._table else _NONE_FORGOTTEN

    def _put(self, name: _Name, index: int, event: _Seen) -> _Session:
        """Remember an event of a sender of whom none is remembered for this message."""
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = _Session(forgotten=self._forgotten(name))
            self._marks.pop(name, None)
        self._sessions.move_to_end(name)
        session.add(index, event)
        self._size += 1
        return session

    @property
    def _session_limit(self) -> int:
        return min(self.max_session_entries, self.max_entries)

    def _trim(self, session: _Session) -> None:
        """Forget what is too much of one session. What is known of one message is never too much by itself."""
        self._size -= session.size
        while session.size > self._session_limit:
            session.forget_lowest()
        self._size += session.size

    def _make_room(self) -> None:
        """Forget what is too much of all sessions. The one that was used last is not too much by itself."""
        while self._size > self.max_entries:
            name, session = self._sessions.popitem(last=False)
            self._size -= session.size
            self._marks[name] = max(session.forgotten, *session.seen)
        while len(self._marks) > self.max_marks:
            self._table.add(self._marks.popitem(last=False)[0])

    def _forget(self, names: list[_Name]) -> None:
        for name in names:
            self._marks.pop(name, None)
            session = self._sessions.pop(name, None)
            if session is not None:
                self._size -= session.size

    def _restore_name(self, stored: Stored) -> _Name:
        """Return which session something stored is about."""
        with stored.reading():
            room = _room_id(stored.member(_ROOM_ID), _ROOM_ID)
            name = room, some_string(stored.member(_SESSION_ID), _SESSION_ID)
            if name in self._sessions or name in self._marks:
                raise Refusal(Reason.INVALID_VALUE, "the session is there already", _SESSION_ID)
        return name

    def _restore_session(self, stored: Stored) -> None:
        name = self._restore_name(stored)
        session = _Session(forgotten=_restore_forgotten(stored, int, type(None)))
        for place, row in enumerate(stored.values("seen", list)):
            with stored.reading("seen", str(place)):
                if len(row) != 4:
                    detail = "an index, a sender, an event id and a timestamp belong here"
                    raise Refusal(Reason.INVALID_VALUE, detail)
                index = message_index_of(row[0], 0)
                event = user_id(row[1], 1), check_event_id(row[2], 2), count(row[3], 3)
                others = session.seen.get(index, ())
                if any(event[0] == other[0] for other in others):
                    raise Refusal(Reason.INVALID_VALUE, "an event of the sender is there already", 1)
                if len(others) < min(_MAX_SENDERS, self._session_limit):
                    session.add(index, event)
        if not session.seen:
            raise LocalProtocolError(Reason.INVALID_VALUE, "there is no event", path=stored.path("seen"))
        self._sessions[name] = session
        self._size += session.size
        self._trim(session)


def _name_to_json(name: _Name) -> JsonObject:
    return {_ROOM_ID: name[0], _SESSION_ID: name[1]}


def _restore_forgotten(stored: Stored, *kinds: type) -> int:
    forgotten = stored.member("forgotten", *kinds)
    with stored.reading():
        return _NONE_FORGOTTEN if forgotten is None else message_index_of(forgotten, "forgotten")


def _argument(check: Check[T], value: object, name: str) -> T:
    with raised_as(LocalProtocolError):
        return check(value, name)


def _name(room_id: object, session_id: object) -> _Name:
    return _argument(_room_id, room_id, "room_id"), _argument(some_string, session_id, "session_id")


def _event(sender: object, event_id: object, origin_server_ts: object) -> _Seen:
    return (
        _argument(user_id, sender, "sender"),
        _argument(check_event_id, event_id, "event_id"),
        _argument(count, origin_server_ts, "origin_server_ts"),
    )
