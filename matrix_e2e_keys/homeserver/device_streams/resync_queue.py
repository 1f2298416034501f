"""Whose devices are to be asked for, whom one is waiting for, and when to try again.

Facts:

* A few requests are on their way to one server at once, and one about each user.
* A server that cannot be reached costs its own users a delay, and nobody else anything. An answer that is of no use
  costs the user whom it is about a delay, and no other user of that server.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff, earliest
from matrix_e2e_keys.endpoints.federation.user_devices import UserDevicesRequest
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.device_streams.remote_values import Resync
from matrix_e2e_keys.identifiers import home_of

__all__ = ["ResyncQueue"]

_RETRY_MS: Final = 30_000


@define
class ResyncQueue:
    """The requests for all devices of users.

    Attributes:
        per_server: how many of them may be on their way to one server at once.
    """

    per_server: int
    _due: dict[str, None] = field(factory=dict, init=False)
    """Users whose turn comes, in that order."""
    _flights: dict[str, int] = field(factory=dict, init=False)
    """Users about whom a request is on its way, and its number."""
    _number: int = field(default=0, init=False)
    _servers: BackOff = field(factory=BackOff, init=False)
    _users: BackOff = field(factory=BackOff, init=False)

    def add(self, user_id: str) -> None:
        """Note that the devices of a user are to be asked for, unless a request is on its way."""
        if user_id not in self._flights:
            self._due[user_id] = None

    def discard(self, user_id: str) -> None:
        """Note that nothing is to be asked about a user. An answer that is on its way is not awaited any more."""
        self._due.pop(user_id, None)
        self._flights.pop(user_id, None)
        self._users.succeeded(user_id)

    def is_in_flight(self, user_id: str) -> bool:
        """Tell whether a request about a user is on its way."""
        return user_id in self._flights

    def next(self, now: int) -> Resync | None:
        """Return what to ask next, ``None`` if there is nothing to ask at this time."""
        for user_id in self._askable():
            if self._ready_at(user_id) <= now:
                del self._due[user_id]
                self._number += 1
                self._flights[user_id] = self._number
                request = UserDevicesRequest(user_id=user_id)
                return Resync(number=self._number, user_id=user_id, server_name=home_of(user_id), request=request)
        return None

    def next_wake_at(self, now: int) -> int | None:
        """Return when there is something to ask, ``now`` at the earliest; ``None`` if that depends on others."""
        return earliest(max(now, self._ready_at(user_id)) for user_id in self._askable())

    def _askable(self) -> list[str]:
        busy = Counter(map(home_of, self._flights))
        return [user_id for user_id in self._due if busy[home_of(user_id)] < self.per_server]

    def _ready_at(self, user_id: str) -> int:
        return max(self._servers.ready_at(home_of(user_id)), self._users.ready_at(user_id))

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
        del self._flights[resync.user_id]
        self._servers.succeeded(resync.server_name)
        self._users.succeeded(resync.user_id)

    def useless(self, resync: Resync, now: int) -> None:
        """Note that an answer came and cannot be used."""
        del self._flights[resync.user_id]
        self._servers.succeeded(resync.server_name)
        self._users.failed(resync.user_id, now, at_least_ms=_RETRY_MS)
        self.add(resync.user_id)

    def failed(self, resync: Resync, now: int, at_least_ms: int) -> None:
        """Note that the server gave no answer."""
        del self._flights[resync.user_id]
        self._servers.failed(resync.server_name, now, at_least_ms=max(_RETRY_MS, at_least_ms))
        self.add(resync.user_id)
