"""The stream of a homeserver: whose devices changed when, for whom. What ``/sync`` and ``/keys/changes`` say is read
off it.

Fact: of each user the latest change is kept, and not those before. Whoever asks about a stretch that ended before it is
told about it too early, which costs a query and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Self

from attrs import define, field

from matrix_e2e_keys.endpoints.client_server.sync import DeviceLists
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.homeserver.device_streams.changes import device_list_changes
from matrix_e2e_keys.homeserver.directory.rooms import Rooms
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.stored import Stored

__all__ = ["ChangeStream"]

_VERSION: Final = 1
_TOKEN: Final = re.compile(r"s(0|[1-9][0-9]{0,15})")


@define
class ChangeStream:
    """The stream. Made empty, or by :meth:`from_json`.

    Attributes:
        position: the number of the latest event, zero if there was none.
        rooms: who shares a room with whom.
    """

    position: int = field(default=0, init=False)
    rooms: Rooms = field(factory=Rooms, init=False)
    _moved: dict[str, int] = field(factory=dict, init=False)
    _signed: dict[str, dict[str, int]] = field(factory=dict, init=False)

    @property
    def token(self) -> str:
        """The token of the latest event."""
        return f"s{self.position}"

    def position_of(self, token: str) -> int | None:
        """Return the position that a token stands for, ``None`` if it is none of this stream's."""
        match = _TOKEN.fullmatch(token)
        position = -1 if match is None else int(match[1])
        return position if 0 <= position <= self.position else None

    def next_position(self) -> int:
        """Return the position of an event that happens now."""
        self.position += 1
        return self.position

    def moved(self, user_id: str) -> None:
        """Note that the devices or the identity of a user changed, for all who may know."""
        self._moved[user_id] = self.next_position()

    def signed(self, user_id: str, others: Iterable[str]) -> None:
        """Note that a user signed others, or has another key to do so: only the user is told."""
        by_user = self._signed.setdefault(user_id, {})
        for other in others:
            by_user[other] = self.next_position()

    def lists_since(self, user_id: str, position: int) -> DeviceLists:
        """Return whose devices changed, and with whom no room is shared any more, for one user since a position."""
        return device_list_changes(
            user_id,
            moved=[other for other, at in self._moved.items() if at > position],
            shared_before=self.rooms.sharing_at(user_id, position),
            shared_now=self.rooms.sharing(user_id),
            newly_met=self.rooms.met_since(user_id, position),
            signed=[other for other, at in self._signed.get(user_id, {}).items() if at > position],
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything, as plain JSON values."""
        return {
            "version": _VERSION,
            "position": self.position,
            "rooms": self.rooms.to_json(),
            "moved": dict(self._moved),
            "signed": {user_id: dict(others) for user_id, others in self._signed.items()},
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read back what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        stream = cls()
        stream.position = stored.member("position", int)
        with stored.reading("rooms"):
            stream.rooms = Rooms.from_json(stored.member("rooms"))
        stream._moved = dict(stored.items("moved", int))
        for user_id, _ in stored.objects("signed"):
            stream._signed[user_id] = dict(stored.object("signed").items(user_id, int))
        latest = [stream.rooms.latest, *stream._moved.values()]
        users = [*stream._moved, *stream._signed]
        for others in stream._signed.values():
            latest += others.values()
            users += others
        for user_id in users:
            if not is_user_id(user_id):
                raise LocalProtocolError(Reason.INVALID_IDENTIFIER, f"{quoted(user_id)} is not a user id")
        if min(latest) < 0 or max(latest) > stream.position:
            raise LocalProtocolError(Reason.INVALID_VALUE, "a position is out of the stream", path="/position")
        return stream
