"""What waits for one destination, and what is on its way to it.

Facts:

* There is one poke for each device, and one for each identity: a newer one takes the place of the one that waits. One
  that is on its way is not held back by it.
* "The sending server must wait and retry for a 200 OK response before sending a transaction with a different
  ``txnId``": what failed is sent again as it was, for a day.
* The chain of a user begins with the last number that was delivered. What a newer poke has replaced is left out of it,
  since the newer one says all of it.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.device_streams.outbox_values import DevicePoke, IdentityPoke, OutboundUpdates, Poke
from matrix_e2e_keys.identifiers import parse_user_id
from matrix_e2e_keys.json_trees import JsonObject, JsonValue
from matrix_e2e_keys.stored import Stored

__all__ = ["Name", "OutboxQueue"]

# "Must not include more than 100 EDUs."
_MAX_POKES: Final = 100

Name = tuple[str, str | None]
"""Whose device, or whose identity."""


def _name(poke: Poke) -> Name:
    return poke.user_id, poke.device_id if isinstance(poke, DevicePoke) else None


def _stream_id(poke: Poke) -> int:
    return poke.stream_id if isinstance(poke, DevicePoke) else 0


@define
class _Waiting:
    stream_id: int
    """The number of the update, zero for an identity."""
    since: int


@define
class _Flight:
    updates: OutboundUpdates
    since: dict[Name, int]
    is_out: bool = True
    """Whether its outcome is awaited. Otherwise it has failed."""


@define
class OutboxQueue:
    """The queue of one destination."""

    _waiting: dict[Name, _Waiting] = field(factory=dict, init=False)
    _delivered: dict[str, int] = field(factory=dict, init=False)
    _restarts: set[str] = field(factory=set, init=False)
    """Users of whom something was left out: the next update of theirs begins a new chain."""
    _flight: _Flight | None = field(default=None, init=False)

    @property
    def is_waiting(self) -> bool:
        """Whether something is to be sent, and nothing is on its way."""
        return bool(self._waiting) if self._flight is None else not self._flight.is_out

    def put(self, user_id: str, device_id: str | None, stream_id: int, now: int) -> None:
        """Let a poke wait, at the end and in the place of the one that was there."""
        self._waiting.pop((user_id, device_id), None)
        self._waiting[user_id, device_id] = _Waiting(stream_id, now)

    # ----------------------------------------------------------------------------------------------------------
    # On the way
    # ----------------------------------------------------------------------------------------------------------

    def next(self, number: int, destination: str) -> OutboundUpdates | None:
        """Return what to send, ``None`` if that is nothing; ``number`` is for what has not been sent before."""
        if not self.is_waiting:
            return None
        if self._flight is not None:
            self._flight.is_out = True
            return self._flight.updates
        taken = {name: self._waiting.pop(name) for name in list(self._waiting)[:_MAX_POKES]}
        updates = OutboundUpdates(number=number, destination=destination, pokes=self._chained(taken))
        self._flight = _Flight(updates, {name: waiting.since for name, waiting in taken.items()})
        return updates

    def _chained(self, taken: dict[Name, _Waiting]) -> tuple[Poke, ...]:
        before: dict[str, int] = {}
        pokes: list[Poke] = []
        for (user_id, device_id), waiting in taken.items():
            if device_id is None:
                pokes.append(IdentityPoke(user_id=user_id))
                continue
            if user_id in self._restarts:
                self._restarts.remove(user_id)
                self._delivered.pop(user_id, None)
            last = before.get(user_id, self._delivered.get(user_id))
            stream_id = before[user_id] = waiting.stream_id
            prev_ids = () if last is None else (last,)
            pokes.append(DevicePoke(user_id=user_id, device_id=device_id, stream_id=stream_id, prev_ids=prev_ids))
        return tuple(pokes)

    def delivered(self, updates: OutboundUpdates) -> bool:
        """Note that updates arrived; tell whether they were on their way."""
        if self._flight is None or not self._flight.is_out or self._flight.updates != updates:
            return False
        self._flight = None
        for poke in updates.pokes:
            if isinstance(poke, DevicePoke):
                self._note(poke.user_id, poke.stream_id)
        return True

    def failed(self, updates: OutboundUpdates) -> bool:
        """Note that updates did not arrive; tell whether they were on their way."""
        if self._flight is None or not self._flight.is_out or self._flight.updates != updates:
            return False
        self._flight.is_out = False
        return True

    def resynced(self, user_id: str, stream_id: int) -> None:
        """Note that the destination was given all devices of a user, as of a number."""
        self._note(user_id, stream_id)
        self._restarts.discard(user_id)
        for name, waiting in list(self._waiting.items()):
            if name[0] == user_id and name[1] is not None and waiting.stream_id <= stream_id:
                del self._waiting[name]

    def _note(self, user_id: str, stream_id: int) -> None:
        self._delivered[user_id] = max(stream_id, self._delivered.get(user_id, 0))

    def prune(self, before: int) -> bool:
        """Leave one poke of those that have waited since ``before`` or longer, for each user.

        Returns:
            Whether the queue is another now.
        """
        flight = self._flight
        if flight is not None and not flight.is_out and min(flight.since.values()) <= before:
            taken = {
                _name(poke): _Waiting(_stream_id(poke), flight.since[_name(poke)]) for poke in flight.updates.pokes
            }
            self._waiting = {**{name: taken[name] for name in taken if name not in self._waiting}, **self._waiting}
            self._flight = None
        is_changed = self._flight is not flight
        old = [name for name, waiting in self._waiting.items() if waiting.since <= before]
        newest = {user_id: device_id for user_id, device_id in old if device_id is not None}
        for user_id, device_id in old:
            if user_id in newest and newest[user_id] != device_id:
                del self._waiting[user_id, device_id]
                is_changed = True
        if newest.keys() - self._restarts or newest.keys() & self._delivered.keys():
            is_changed = True
        for user_id in newest:
            self._delivered.pop(user_id, None)
            self._restarts.add(user_id)
        return is_changed

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return everything. What is on its way counts as failed."""
        flight: JsonValue = None
        if self._flight is not None:
            updates = self._flight.updates
            flight = {
                "number": updates.number,
                "pokes": [
                    {**_entry(poke), "prev_ids": _prev_ids(poke), "since": self._flight.since[_name(poke)]}
                    for poke in updates.pokes
                ],
            }
        return {
            "waiting": [
                {"user_id": user_id, "device_id": device_id, "stream_id": waiting.stream_id, "since": waiting.since}
                for (user_id, device_id), waiting in self._waiting.items()
            ],
            "delivered": {**self._delivered},
            "restarts": [*sorted(self._restarts)],
            "flight": flight,
        }

    @classmethod
    def from_stored(cls, stored: Stored, destination: str, *, newest: int, number: int) -> OutboxQueue:
        """Restore a queue.

        Args:
            stored: what :meth:`to_json` returned.
            destination: whose queue it is.
            newest: the highest number that an update has.
            number: the highest number that a transaction has.

        Raises:
            LocalProtocolError: it is damaged.
        """
        queue = cls()
        for poke, since in _read_pokes(stored, "waiting", newest, prev_ids=False):
            queue._waiting[_name(poke)] = _Waiting(_stream_id(poke), since)
        for user_id, stream_id in stored.items("delivered", int):
            with stored.reading("delivered", user_id):
                queue._delivered[parse_user_id(user_id)] = _in_range(stream_id, newest)
        for place, user_id in enumerate(stored.values("restarts", str)):
            with stored.reading("restarts", str(place)):
                queue._restarts.add(parse_user_id(user_id))
        flight = stored.optional("flight")
        if flight is not None:
            pokes = _read_pokes(flight, "pokes", newest, prev_ids=True)
            sent = flight.member("number", int)
            with stored.reading("flight", "number"):
                _in_range(sent, number)
            with stored.reading("flight", "pokes"):
                if not 0 < len(pokes) <= _MAX_POKES:
                    raise LocalProtocolError(Reason.INVALID_VALUE, f"not 1 to {_MAX_POKES} pokes")
            updates = OutboundUpdates(number=sent, destination=destination, pokes=tuple(poke for poke, _ in pokes))
            queue._flight = _Flight(updates, {_name(poke): since for poke, since in pokes}, is_out=False)
        return queue


def _entry(poke: Poke) -> JsonObject:
    user_id, device_id = _name(poke)
    return {"user_id": user_id, "device_id": device_id, "stream_id": _stream_id(poke)}


def _prev_ids(poke: Poke) -> list[JsonValue]:
    return list(poke.prev_ids) if isinstance(poke, DevicePoke) else []


def _read_pokes(stored: Stored, name: str, newest: int, *, prev_ids: bool) -> list[tuple[Poke, int]]:
    pokes: list[tuple[Poke, int]] = []
    before = 0
    names: set[Name] = set()
    for place, entry in enumerate(stored.elements(name)):
        user_id, since = entry.member("user_id", str), entry.member("since", int)
        device_id, stream_id = entry.member("device_id", str, type(None)), entry.member("stream_id", int)
        before_it = tuple(entry.values("prev_ids", int)) if prev_ids else ()
        with stored.reading(name, str(place)):
            poke: Poke = IdentityPoke(user_id=user_id)
            if device_id is not None:
                # Updates wait in the order of their numbers.
                if not before < stream_id <= newest:
                    raise LocalProtocolError(Reason.INVALID_VALUE, "the number is not in order", path="/stream_id")
                before = stream_id
                poke = DevicePoke(user_id=user_id, device_id=device_id, stream_id=stream_id, prev_ids=before_it)
            if _name(poke) in names:
                raise LocalProtocolError(Reason.INVALID_VALUE, "it waits twice")
        names.add(_name(poke))
        pokes.append((poke, since))
    return pokes


def _in_range(number: int, highest: int) -> int:
    if not 0 < number <= highest:
        raise LocalProtocolError(Reason.INVALID_VALUE, f"the number is not 1 to {highest}")
    return number
