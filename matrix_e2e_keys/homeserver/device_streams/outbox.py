"""What this server tells others about the devices and identities of its users: to whom, in which order, until it is
known there.

Specification: server-server API, "Device Management".

Facts:

* "Servers send ``m.device_list_update`` EDUs in a sequence per origin user, each with a unique ``stream_id``. They also
  include a pointer to the most recent previous EDU(s)". The numbers are of one growing sequence for the whole server;
  the pointer is to the update before *at that destination*, and each destination has its own chain.
* Who has no update before it asks for all devices, and so does who has missed one: nothing is lost for good.
* An identity has no numbers. A poke about one takes none, so it never breaks a chain.
* Whoever has been away for more than a day is told about one device of each user, as if it were the first: it asks for
  the others.

Nothing is sent here. :meth:`DeviceListOutbox.next_transaction` says what to send, :func:`edus_of` in which words. Store
the outbox in the transaction that stores what has changed, before anything is sent: a number must not be given twice.
One process must own it: two that have read the same outbox give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, field

from matrix_e2e_keys.back_off import BackOff, check_now, earliest, granted
from matrix_e2e_keys.endpoints.members import device_id as checked_device_id
from matrix_e2e_keys.endpoints.members import list_of, server_name
from matrix_e2e_keys.endpoints.members import user_id as checked_user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, raised_as
from matrix_e2e_keys.homeserver.device_streams.changed_rows import ChangedRows
from matrix_e2e_keys.homeserver.device_streams.names import names_in
from matrix_e2e_keys.homeserver.device_streams.outbox_edus import edus_of
from matrix_e2e_keys.homeserver.device_streams.outbox_queue import OutboxQueue
from matrix_e2e_keys.homeserver.device_streams.outbox_values import DevicePoke, IdentityPoke, OutboundUpdates, Poke
from matrix_e2e_keys.identifiers import parse_server_name, parse_user_id
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.stored import Stored

__all__ = ["DeviceListOutbox", "DevicePoke", "IdentityPoke", "OutboundUpdates", "Poke", "edus_of"]

_VERSION: Final = 1
_DAY_MS: Final = 86_400_000


@define(kw_only=True)
class DeviceListOutbox:
    """What other servers are still to be told. A state machine without input or output.

    Made empty, or by :meth:`from_json`. Times are milliseconds on the caller's clock. An own server among the
    destinations would be told as well: leave it out, and leave out the users of others.

    Stored as a whole with :meth:`to_json`, or in rows: one for each destination (:meth:`destination_to_json`), one for
    each user (:meth:`stream_id_of`) and one for :meth:`head_to_json`. :meth:`take_changed` says which destinations
    changed. For :meth:`from_json` put them together::

        {**head, "users": {user_id: stream_id, ...}, "destinations": {server_name: row, ...}}
    """

    _newest: int = field(default=0, init=False)
    _number: int = field(default=0, init=False)
    _of_user: dict[str, int] = field(factory=dict, init=False)
    _queues: dict[str, OutboxQueue] = field(factory=dict, init=False)
    _back_off: BackOff = field(factory=BackOff, init=False, repr=False)
    _changed: ChangedRows = field(factory=ChangedRows, init=False, repr=False, eq=False)

    # ----------------------------------------------------------------------------------------------------------
    # What has changed
    # ----------------------------------------------------------------------------------------------------------

    def device_changed(self, user_id: str, device_id: str, *, destinations: Iterable[str], now: int) -> int:
        """Note that a device is new, changed, renamed or gone.

        Args:
            user_id: the owner, a user of this server.
            device_id: the device.
            destinations: the servers to tell: those that share a room with the user. Of a mapping, its names.
            now: the caller's time in milliseconds.

        Returns:
            The number of the update. Even if nobody is told, it is taken.

        Raises:
            LocalProtocolError: an argument is not what it should be.
        """
        with raised_as(LocalProtocolError):
            checked_device_id(device_id, "device_id")
        self._put(user_id, device_id, destinations, now)
        return self._newest

    def identity_changed(self, user_id: str, *, destinations: Iterable[str], now: int) -> None:
        """Note that the master key or the self-signing key of a user is another, or has other signatures.

        Args:
            user_id: a user of this server.
            destinations: the servers to tell. Of a mapping, its names.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument is not what it should be.
        """
        self._put(user_id, None, destinations, now)

    def _put(self, user_id: str, device_id: str | None, destinations: Iterable[str], now: int) -> None:
        with raised_as(LocalProtocolError):
            checked_user_id(user_id, "user_id")
            servers = list_of(server_name)(names_in(destinations), "destinations")
        check_now(now)
        stream_id = 0
        if device_id is not None:
            self._newest += 1
            stream_id = self._of_user[user_id] = self._newest
        for destination in servers:
            if destination not in self._queues:
                self._queues[destination] = OutboxQueue()
                self._changed.added(destination)
            self._queues[destination].put(user_id, device_id, stream_id, now)
            self._changed.altered(destination)

    def stream_id_of(self, user_id: str) -> int:
        """Return the number of the newest update of a user, zero if there is none: for ``user/devices``."""
        return self._of_user.get(user_id, 0) if type(user_id) is str else 0

    # ----------------------------------------------------------------------------------------------------------
    # Transactions
    # ----------------------------------------------------------------------------------------------------------

    @property
    def destinations_waiting(self) -> tuple[str, ...]:
        """The servers that something is to be sent to and nothing is on its way to, be it time to send or not."""
        return tuple(sorted(destination for destination, queue in self._queues.items() if queue.is_waiting))

    def next_transaction(self, destination: str, *, now: int) -> OutboundUpdates | None:
        """Return what to send to a server, ``None`` if there is nothing to send to it at this time.

        Nothing else is sent to it before the outcome is known. What failed is sent again as it was.

        Args:
            destination: the server.
            now: the caller's time in milliseconds.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        check_now(now)
        queue = self._queue(destination)
        if queue is None or now < self._back_off.ready_at(destination):
            return None
        updates = queue.next(self._number + 1, destination)
        if updates is not None and updates.number > self._number:
            self._number = updates.number
            self._changed.altered(destination)
        return updates

    def receive_delivered(self, updates: OutboundUpdates) -> None:
        """Note that a server has taken updates. Those that are not on their way are of no interest.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        queue = self._queue(_checked(updates).destination)
        if queue is not None and queue.delivered(updates):
            self._changed.altered(updates.destination)
            self._back_off.succeeded(updates.destination)

    def receive_failed(self, updates: OutboundUpdates, *, now: int, retry_after_ms: int | None = None) -> None:
        """Note that a server has not taken updates, or has not said so. Those not on their way are of no interest.

        Args:
            updates: which.
            now: the caller's time in milliseconds.
            retry_after_ms: how long the server wants one to wait, if it says so.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if type(retry_after_ms) not in (int, type(None)):
            raise LocalProtocolError(Reason.WRONG_TYPE, "a delay is an integer", path="/retry_after_ms")
        check_now(now)
        queue = self._queue(_checked(updates).destination)
        if queue is not None and queue.failed(updates):
            self._back_off.failed(updates.destination, now, at_least_ms=granted(retry_after_ms))

    def receive_resync(self, destination: str, user_id: str) -> None:
        """Note that a server keeps all devices of a user as they are now: what waited to be told about them it knows.

        That it was sent an answer is not enough: the answer may be lost, or not be used for its list. To leave this out
        costs an update too many.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        with raised_as(LocalProtocolError):
            checked_user_id(user_id, "user_id")
        queue = self._queue(destination)
        if queue is not None and user_id in self._of_user:
            queue.resynced(user_id, self._of_user[user_id])
            self._changed.altered(destination)

    def forget_destination(self, destination: str) -> None:
        """Forget a server for good. If there is something to tell it one day, it begins anew.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        if self._queue(destination) is not None:
            del self._queues[destination]
            self._changed.removed(destination)
            self._back_off.succeeded(destination)

    def prune(self, *, now: int) -> None:
        """Shrink what has waited for more than a day to one device of each user, which begins a new chain.

        Raises:
            LocalProtocolError: the time is no integer.
        """
        before = check_now(now) - _DAY_MS
        for destination, queue in self._queues.items():
            if queue.prune(before):
                self._changed.altered(destination)

    def next_wake_at(self, *, now: int) -> int | None:
        """Return when there is something to send, ``now`` at the earliest; ``None`` if that depends on others.

        Raises:
            LocalProtocolError: the time is no integer.
        """
        check_now(now)
        return earliest(max(now, self._back_off.ready_at(destination)) for destination in self.destinations_waiting)

    def _queue(self, destination: str, name: str = "destination") -> OutboxQueue | None:
        if type(destination) is not str:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a destination is a string", path=f"/{name}")
        return self._queues.get(destination)

    # ----------------------------------------------------------------------------------------------------------
    # Over a restart
    # ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart. What is on its way is sent again; delays are forgotten."""
        return {
            **self.head_to_json(),
            "users": {**self._of_user},
            "destinations": {destination: queue.to_json() for destination, queue in self._queues.items()},
        }

    def head_to_json(self) -> JsonObject:
        """Return what of :meth:`to_json` is about nobody in particular: ``version``, ``newest`` and ``number``.

        It is another after each :meth:`device_changed`, and where :meth:`next_transaction` returns something new.
        """
        return {"version": _VERSION, "newest": self._newest, "number": self._number}

    def destination_to_json(self, server_name: str) -> JsonObject | None:
        """Return what :meth:`to_json` has about one server, ``None`` if it has nothing.

        Raises:
            LocalProtocolError: an argument has the wrong type.
        """
        queue = self._queue(server_name, "server_name")
        return None if queue is None else queue.to_json()

    def take_changed(self) -> frozenset[str]:
        """Return the servers whose rows changed since the last call, or since the outbox was made or restored.

        Write the row of each, or delete it if :meth:`destination_to_json` returns ``None``. They are named once: if
        they could not be stored, keep them for the next time. This is not part of what is stored.
        """
        return self._changed.take()

    @classmethod
    def from_json(cls, obj: object) -> DeviceListOutbox:
        """Restore an outbox.

        Args:
            obj: what :meth:`to_json` returned, or the rows put together.

        Raises:
            LocalProtocolError: it is something else.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        outbox = cls()
        for name in ("newest", "number"):
            if stored.member(name, int) < 0:
                raise LocalProtocolError(Reason.INVALID_VALUE, f"{name} cannot be negative", path=f"/{name}")
        outbox._newest = stored.member("newest")
        outbox._number = stored.member("number")
        for user_id, stream_id in stored.items("users", int):
            with stored.reading("users", user_id):
                if not 0 < stream_id <= outbox._newest:
                    raise LocalProtocolError(Reason.INVALID_VALUE, "the number is newer than the newest")
                outbox._of_user[parse_user_id(user_id)] = stream_id
        for destination, queue in stored.objects("destinations"):
            with stored.reading("destinations", destination):
                parse_server_name(destination)
            restored = OutboxQueue.from_stored(queue, destination, newest=outbox._newest, number=outbox._number)
            outbox._queues[destination] = restored
        return outbox


def _checked(updates: object) -> OutboundUpdates:
    if type(updates) is not OutboundUpdates:
        raise LocalProtocolError(Reason.WRONG_TYPE, "OutboundUpdates are needed", path="/updates")
    return updates
