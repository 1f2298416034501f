"""Who shares a room with whom, now and at any earlier point of the stream.

Fact: a room is a name and its members. Whether it is encrypted is not known here: all rooms count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, Self

from attrs import define, field

from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.identifiers import home_of, is_user_id
from matrix_e2e_keys.stored import Stored

__all__ = ["Rooms"]

_VERSION: Final = 1


@define
class Rooms:
    """Rooms and their members. Made empty, or by :meth:`from_json`."""

    _members: dict[str, set[str]] = field(factory=dict, init=False)
    _rooms: dict[str, set[str]] = field(factory=dict, init=False)
    """User to rooms."""
    _servers: dict[str, Counter[str]] = field(factory=dict, init=False)
    """Room to server to how many of its users are in it."""
    _history: list[tuple[int, str, str, bool]] = field(factory=list, init=False)
    """Position, room, user, and whether the user joined or left."""

    @property
    def latest(self) -> int:
        """The position of the latest move, zero if there was none."""
        return self._history[-1][0] if self._history else 0

    def members(self, room_id: str) -> frozenset[str]:
        """Return who is in a room."""
        return frozenset(self._members.get(room_id, ()))

    def sharing(self, user_id: str) -> frozenset[str]:
        """Return who shares a room with a user, the user included if in any."""
        return frozenset().union(*(self._members[room_id] for room_id in self._rooms.get(user_id, ())))

    def servers(self, room_id: str) -> frozenset[str]:
        """Return the servers whose users are in a room."""
        return frozenset(self._servers.get(room_id, ()))

    def servers_sharing(self, user_id: str) -> frozenset[str]:
        """Return the servers whose users share a room with a user, the user's own included if in any."""
        return frozenset().union(*(self._servers[room_id] for room_id in self._rooms.get(user_id, ())))

    def shares_with(self, user_id: str, server_name: str, *, beside: str | None = None) -> bool:
        """Tell whether a user is in a room, other than the one named, with any user of a server."""
        rooms = self._rooms.get(user_id, set()) - {beside}
        return any(server_name in self._servers[room_id] for room_id in rooms)

    def set_member(self, room_id: str, user_id: str, *, joins: bool, position: int) -> bool:
        """Let a user join or leave a room. Return whether that changed anything."""
        members = self._members.setdefault(room_id, set())
        if (user_id in members) is joins:
            return False
        servers, server_name = self._servers.setdefault(room_id, Counter()), home_of(user_id)
        if joins:
            members.add(user_id)
            self._rooms.setdefault(user_id, set()).add(room_id)
            servers[server_name] += 1
        else:
            members.discard(user_id)
            self._rooms[user_id].discard(room_id)
            servers[server_name] -= 1
            self._servers[room_id] = +servers  # without those that have nobody there any more
        self._history.append((position, room_id, user_id, joins))
        return True

    def sharing_at(self, user_id: str, position: int) -> frozenset[str]:
        """Return who shared a room with a user at a position of the stream."""
        later = list(self._since(position))
        rooms = {room_id for _, room_id, _, _ in later}.union(self._rooms.get(user_id, ()))
        members = {room_id: set(self._members[room_id]) for room_id in rooms}
        for _, room_id, other, joined in later:
            (members[room_id].discard if joined else members[room_id].add)(other)
        return frozenset().union(*(users for users in members.values() if user_id in users))

    def met_since(self, user_id: str, position: int) -> frozenset[str]:
        """Return who came to share a room with a user since a position, be it again, or be it in one more room."""
        met: set[str] = set()
        for _, room_id, other, joined in self._since(position):
            members = self._members[room_id]
            if joined and user_id in members:
                met |= members if other == user_id else {other}
        return frozenset(met)

    def _since(self, position: int) -> Iterator[tuple[int, str, str, bool]]:
        """Yield what happened after a position, the latest first."""
        for event in reversed(self._history):
            if event[0] <= position:
                break
            yield event

    def to_json(self) -> dict[str, Any]:
        """Return everything, as plain JSON values."""
        return {"version": _VERSION, "history": [list(event) for event in self._history]}

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read back what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        rooms = cls()
        last = 0
        for place, event in enumerate(stored.values("history", list)):
            with stored.reading("history", str(place)):
                if [type(part) for part in event] != [int, str, str, bool] or event[0] < last:
                    raise LocalProtocolError(Reason.INVALID_VALUE, "a position, a room, a user and a move are stored")
                last, room_id, user_id, joins = event
                if not is_user_id(user_id) or not rooms.set_member(room_id, user_id, joins=joins, position=last):
                    raise LocalProtocolError(Reason.INVALID_VALUE, "nobody can move so")
        return rooms
