"""What is to be sent to other servers without being asked, one transaction at a time for each of them.

Specification: server-server API, "Transactions".

Facts:

* "The sending server must wait and retry for a 200 OK response before sending a transaction with a different
  ``txnId``": what failed is sent again as it was, ever more rarely.
* Updates of device lists go before messages to devices, so that whoever gets a message can know who has sent it.
* For each server, the latest ten thousand messages wait.
* What a server refuses for good (a status of 4xx that waiting does not change) must not hold up what comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

from attrs import define, field, frozen

from matrix_e2e_keys.back_off import BackOff, BatchSize, check_now, earliest
from matrix_e2e_keys.endpoints.federation.edus import DirectToDevice, Edu, read_edu
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest
from matrix_e2e_keys.endpoints.http_values import encode_body
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.homeserver.device_streams.outbox import DeviceListOutbox, OutboundUpdates, edus_of
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.identifiers import parse_server_name
from matrix_e2e_keys.stored import Stored

__all__ = ["MAX_TRANSACTION_BYTES", "Transactions"]

_VERSION: Final = 1
_MAX_EDUS: Final = 100
_MAX_WAITING: Final = 10_000
MAX_TRANSACTION_BYTES: Final = 4 * 1024 * 1024
"""How many bytes of messages go into one transaction, and how many one message to a server may have."""

FindUsers = Callable[[Iterable[str]], Mapping[str, UserKeys]]


@frozen
class _Pending:
    """A transaction that has not been taken. It holds updates or messages, and not both."""

    request: SendTransactionRequest
    updates: OutboundUpdates | None = None
    messages: int = 0
    """How many of the messages that wait are in it."""


@define
class _Waiting:
    """The messages that wait for one server, with the number of bytes of each."""

    messages: list[tuple[DirectToDevice, int]] = field(factory=list)
    batch: BatchSize = field(factory=lambda: BatchSize(_MAX_EDUS))

    def first(self) -> list[Edu]:
        """Return what goes into one transaction: at least one message, but not too many bytes."""
        chosen: list[Edu] = []
        room = MAX_TRANSACTION_BYTES
        for message, size in self.messages[: self.batch.size]:
            room -= size
            if chosen and room < 0:
                break
            chosen.append(message)
        return chosen


@define(kw_only=True)
class Transactions:
    """The transactions of a server.

    Attributes:
        server_name: one's own server.
        outbox: the updates of device lists.
    """

    server_name: str
    outbox: DeviceListOutbox = field(factory=DeviceListOutbox)
    _waiting: dict[str, _Waiting] = field(factory=dict, init=False)
    _pending: dict[str, _Pending] = field(factory=dict, init=False)
    _in_flight: set[str] = field(factory=set, init=False)
    _back_off: BackOff = field(factory=BackOff, init=False)
    _sent: int = field(default=0, init=False)

    def add_message(self, server_name: str, message: DirectToDevice) -> None:
        """Send messages to devices of a server. They must fit into a transaction; see :meth:`carrying`."""
        size = len(encode_body(message.to_json()))
        messages = self._waiting.setdefault(server_name, _Waiting()).messages
        messages.append((message, size))
        if len(messages) > _MAX_WAITING:  # it has been away for long: the oldest that is not under way is dropped
            pending = self._pending.get(server_name)
            del messages[0 if pending is None else pending.messages]

    def carrying(self, edus: Iterable[Edu], *, now: int, txn_id: str) -> SendTransactionRequest:
        """Return the transaction that carries some EDUs."""
        return SendTransactionRequest(txn_id=txn_id, origin=self.server_name, origin_server_ts=now, edus=tuple(edus))

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that something is to be sent to and nothing is on its way to."""
        waiting = {*self._pending, *self._waiting, *self.outbox.destinations_waiting}
        return tuple(sorted(waiting - self._in_flight))

    def next(
        self, *, now: int, users: FindUsers, shows_display_names: bool
    ) -> tuple[str, SendTransactionRequest] | None:
        """Return a transaction to send now and the server to send it to, ``None`` if there is none.

        Args:
            now: milliseconds since the epoch.
            users: returns what is stored of some users.
            shows_display_names: whether other servers may know what devices are called.
        """
        check_now(now)
        for server_name in self.servers:
            if now < self._back_off.ready_at(server_name):
                continue
            pending = self._pending.get(server_name) or self._make(server_name, now, users, shows_display_names)
            if pending is not None:
                self._pending[server_name] = pending
                self._in_flight.add(server_name)
                return server_name, pending.request
        return None

    def _make(self, server_name: str, now: int, users: FindUsers, shows_display_names: bool) -> _Pending | None:
        updates = self.outbox.next_transaction(server_name, now=now)
        if updates is not None:
            about = {poke.user_id for poke in updates.pokes}
            edus: Iterable[Edu] = edus_of(updates, users=users(about), shows_display_names=shows_display_names)
            return _Pending(self.carrying(edus, now=now, txn_id=self._next_id(now)), updates)
        messages = self._waiting[server_name].first() if server_name in self._waiting else []
        if not messages:
            return None
        request = self.carrying(messages, now=now, txn_id=self._next_id(now))
        return _Pending(request, messages=len(messages))

    def _next_id(self, now: int) -> str:
        self._sent += 1
        return f"{now}-{self._sent}"

    def receive_delivered(self, server_name: str) -> None:
        """Note that a server has taken what was on its way to it."""
        self._in_flight.discard(server_name)
        pending = self._pending.pop(server_name, None)
        if pending is None:
            return
        self._back_off.succeeded(server_name)
        if pending.updates is not None:
            self.outbox.receive_delivered(pending.updates)
        else:
            self._waiting[server_name].batch.succeeded(pending.messages)
            self._drop(server_name, pending.messages)

    def receive_failed(self, server_name: str, *, now: int, retry_after_ms: int = 0) -> None:
        """Note that a server has not taken what was on its way to it, or has not said so. It is sent again."""
        check_now(now)
        if server_name in self._in_flight:
            self._in_flight.discard(server_name)
            self._back_off.failed(server_name, now, at_least_ms=retry_after_ms)

    def receive_refused(self, server_name: str, *, now: int) -> None:
        """Note that a server does not take what was on its way to it, and never will.

        Of several messages, fewer are sent at once the next time; a single one is dropped. Updates of device lists are
        dropped too: the next one begins a new chain, and makes the server ask for all devices.
        """
        self.receive_failed(server_name, now=now)
        pending = self._pending.pop(server_name, None)
        if pending is None:
            return
        if pending.updates is not None:
            self.outbox.forget_destination(server_name)
        elif pending.messages > 1:
            self._waiting[server_name].batch.failed(pending.messages)
        else:
            self._drop(server_name, 1)

    def _drop(self, server_name: str, messages: int) -> None:
        waiting = self._waiting[server_name]
        del waiting.messages[:messages]
        if not waiting.messages:
            del self._waiting[server_name]

    def heard_from(self, server_name: str) -> None:
        """Note that a server is there: what waits for it is sent at once."""
        self._back_off.succeeded(server_name)

    def next_wake_at(self) -> int | None:
        """Return when something can be sent, in milliseconds since the epoch; ``None`` if nothing waits."""
        return earliest(self._back_off.ready_at(server_name) for server_name in self.servers)

    def to_json(self) -> dict[str, Any]:
        """Return everything, as plain JSON values. What is on its way will be sent again."""
        return {
            "version": _VERSION,
            "outbox": self.outbox.to_json(),
            "sent": self._sent,
            "messages": {
                server_name: [message.to_json() for message, _ in waiting.messages]
                for server_name, waiting in self._waiting.items()
            },
        }

    @classmethod
    def from_json(cls, obj: object, *, server_name: str) -> Self:
        """Read back what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        with stored.reading("outbox"):
            outbox = DeviceListOutbox.from_json(stored.member("outbox"))
        transactions = cls(server_name=server_name, outbox=outbox)
        transactions._sent = stored.member("sent", int)
        if transactions._sent < 0:
            raise LocalProtocolError(Reason.INVALID_VALUE, "a number cannot be negative", path="/sent")
        for server, messages in stored.items("messages", list):
            with stored.reading("messages", server):
                parse_server_name(server)
            for place, message in enumerate(messages):
                with stored.reading("messages", server, str(place)):
                    edu = read_edu(message)
                    if isinstance(edu, DirectToDevice):
                        transactions.add_message(server, edu)
        return transactions
