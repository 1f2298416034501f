"""Whose devices are to be asked for, whom one is waiting for, and when to try again.

Facts:

* A few requests are on their way to one server at once, and one about each user.
* A server that cannot be reached costs its own users a delay, and nobody else anything. An answer that is of no use
  costs the user whom it is about a delay, and no other user of that server.
* Of all who can be asked about, whoever has waited longest is first.
* There is a queue for each server. What to ask next costs the logarithm of how many wait, whether or not their servers
  can be reached.
* If the clock is set back, what waits for a time waits longer. What was found to be ready stays so.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.device_streams.ranking import Ranking
from matrix_e2e_keys.homeserver.device_streams.remote_values import Resync
from matrix_e2e_keys.identifiers import home_of

__all__ = ["ResyncQueue"]

_RETRY_MS: Final = 30_000
_LONG_AGO: Final = -(2**62)


@define
class _Line:
    """The users of one server who are to be asked about. Each is either ready or waiting."""

    ready: Ranking = field(factory=Ranking)
    """By their places in the order of all users."""
    waiting: Ranking = field(factory=Ranking)
    """By the times when they are ready."""
    in_flight: int = 0

    @property
    def ready_at(self) -> int | None:
        """When somebody is ready, ``None`` if nobody is to be asked about."""
        return self.waiting.lowest if self.ready.lowest is None else _LONG_AGO


@define
class ResyncQueue:
    """The requests for all devices of users.

    Attributes:
        per_server: how many of them may be on their way to one server at once.
    """

    per_server: int
    _places: dict[str, int] = field(factory=dict, init=False)
    """Users who are to be asked about. Whoever came later has a higher number."""
    _last_place: int = field(default=0, init=False)
    _flights: dict[str, int] = field(factory=dict, init=False)
    """Users about whom a request is on its way, and its number."""
    _number: int = field(default=0, init=False)
    _lines: dict[str, _Line] = field(factory=dict, init=False)
    """By server. Nobody keeps an empty one."""
    _ready: Ranking = field(factory=Ranking, init=False)
    """Servers that can be asked, by the place of their first user."""
    _waiting: Ranking = field(factory=Ranking, init=False)
    """Servers where somebody will be ready who is not, by the time. One may be among the ready ones as well."""
    _servers: BackOff = field(factory=BackOff, init=False)
    _users: BackOff = field(factory=BackOff, init=False)

    def add(self, user_id: str) -> None:
        """Note that the devices of a user are to be asked for, unless a request is on its way."""
        if user_id in self._flights or user_id in self._places:
            return
        self._last_place += 1
        self._places[user_id] = self._last_place
        server_name = home_of(user_id)
        line = self._lines.setdefault(server_name, _Line())
        line.waiting.put(user_id, self._users.ready_at(user_id))
        self._rank(server_name)

    def discard(self, user_id: str) -> None:
        """Note that nothing is to be asked about a user. An answer that is on its way is not awaited any more."""
        self._users.succeeded(user_id)
        if user_id in self._flights:
            self._land(user_id)
        elif self._places.pop(user_id, None) is not None:
            server_name = home_of(user_id)
            self._lines[server_name].ready.discard(user_id)
            self._lines[server_name].waiting.discard(user_id)
            self._rank(server_name)

    def is_in_flight(self, user_id: str) -> bool:
        """Tell whether a request about a user is on its way."""
        return user_id in self._flights

    def next(self, now: int) -> Resync | None:
        """Return what to ask next, ``None`` if there is nothing to ask at this time."""
        while (ready_at := self._waiting.lowest) is not None and ready_at <= now:
            self._wake(self._waiting.take(), now)
        if self._ready.lowest is None:
            return None
        server_name = self._ready.first()
        line = self._lines[server_name]
        user_id = line.ready.take()
        del self._places[user_id]
        self._number += 1
        self._flights[user_id] = self._number
        line.in_flight += 1
        self._rank(server_name)
        request = UserDevicesRequest(user_id=user_id)
        return Resync(number=self._number, user_id=user_id, server_name=server_name, request=request)

    def next_wake_at(self, now: int) -> int | None:
        """Return when there is something to ask, ``now`` at the earliest; ``None`` if that depends on others."""
        if self._ready.lowest is not None:
            return now
        ready_at = self._waiting.lowest
        return None if ready_at is None else max(now, ready_at)

    def _wake(self, server_name: str, now: int) -> None:
        """Take notice of who is ready at a server where somebody is."""
        line = self._lines[server_name]
        while (ready_at := line.waiting.lowest) is not None and ready_at <= now:
            user_id = line.waiting.take()
            line.ready.put(user_id, self._places[user_id])
        self._ready.put(server_name, self._places[line.ready.first()])
        if ready_at is not None:
            self._waiting.put(server_name, ready_at)

    def _rank(self, server_name: str) -> None:
        """Take notice of what has changed at a server: let it wait until somebody is ready there, if so at once."""
        self._ready.discard(server_name)
        self._waiting.discard(server_name)
        line = self._lines[server_name]
        user_ready_at = line.ready_at
        if user_ready_at is not None:
            if line.in_flight < self.per_server:
                self._waiting.put(server_name, max(self._servers.ready_at(server_name), user_ready_at))
        elif not line.in_flight:
            del self._lines[server_name]

    def is_awaited(self, resync: Resync) -> bool:
        """Tell whether the answer to a request is awaited.

        Raises:
            LocalProtocolError: it is no request.
        """
        if type(resync) is not Resync:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Resync is needed", path="/resync")
        return self._flights.get(resync.user_id) == resync.number

    def answered(self, resync: Resync) -> None:
        """Note that an answer came and can be used."""
        self._servers.succeeded(resync.server_name)
        self._users.succeeded(resync.user_id)
        self._land(resync.user_id)

    def useless(self, resync: Resync, now: int) -> None:
        """Note that an answer came and cannot be used."""
        self._servers.succeeded(resync.server_name)
        self._users.failed(resync.user_id, now, at_least_ms=_RETRY_MS)
        self._land(resync.user_id)
        self.add(resync.user_id)

    def failed(self, resync: Resync, now: int, at_least_ms: int) -> None:
        """Note that the server gave no answer."""
        self._servers.failed(resync.server_name, now, at_least_ms=max(_RETRY_MS, at_least_ms))
        self._land(resync.user_id)
        self.add(resync.user_id)

    def _land(self, user_id: str) -> None:
        """Take notice that nothing is on its way about a user any more."""
        server_name = home_of(user_id)
        del self._flights[user_id]
        self._lines[server_name].in_flight -= 1
        self._rank(server_name)
