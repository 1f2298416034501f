"""What is to be sent to other servers without being asked, one transaction at a time for each of them.

Specification: server-server API, "Transactions".

Facts:

* "The sending server must wait and retry for a 200 OK response before sending a transaction with a different
  ``txnId``": what failed is sent again as it was, ever more rarely.
* Updates of device lists go before messages to devices, so that whoever gets a message can know who has sent it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

from attrs import define, field, frozen

from matrix_e2e_keys.back_off import BackOff, check_now, earliest
from matrix_e2e_keys.endpoints.federation.edus import DirectToDevice, Edu, read_edu
from matrix_e2e_keys.endpoints.federation.send_transaction import SendTransactionRequest
from matrix_e2e_keys.homeserver.device_streams.outbox import DeviceListOutbox, OutboundUpdates, edus_of
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.stored import Stored

__all__ = ["Transactions"]

_VERSION: Final = 1
_MAX_EDUS: Final = 100

FindUsers = Callable[[Iterable[str]], Mapping[str, UserKeys]]


@frozen
class _Pending:
    request: SendTransactionRequest
    updates: OutboundUpdates | None
    messages: int
    """How many of the messages that wait are in it."""


@define(kw_only=True)
class Transactions:
    """The transactions of a server.

    Attributes:
        server_name: one's own server.
        outbox: the updates of device lists.
    """

    server_name: str
    outbox: DeviceListOutbox = field(factory=DeviceListOutbox)
    _messages: dict[str, list[DirectToDevice]] = field(factory=dict, init=False)
    _pending: dict[str, _Pending] = field(factory=dict, init=False)
    _in_flight: set[str] = field(factory=set, init=False)
    _back_off: BackOff = field(factory=BackOff, init=False)
    _sent: int = field(default=0, init=False)

    def add_message(self, server_name: str, message: DirectToDevice) -> None:
        """Send messages to devices of a server."""
        self._messages.setdefault(server_name, []).append(message)

    @property
    def servers(self) -> tuple[str, ...]:
        """The servers that something is to be sent to and nothing is on its way to."""
        waiting = {*self._pending, *self._messages, *self.outbox.destinations_waiting}
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
        edus: list[Edu] = []
        if updates is not None:
            about = {poke.user_id for poke in updates.pokes}
            edus += edus_of(updates, users=users(about), shows_display_names=shows_display_names)
        messages = self._messages.get(server_name, [])[: _MAX_EDUS - len(edus)]
        edus += messages
        if not edus:
            return None
        self._sent += 1
        request = SendTransactionRequest(
            txn_id=f"{now}-{self._sent}", origin=self.server_name, origin_server_ts=now, edus=tuple(edus)
        )
        return _Pending(request, updates, len(messages))

    def receive_delivered(self, server_name: str) -> None:
        """Note that a server has taken what was on its way to it."""
        self._in_flight.discard(server_name)
        pending = self._pending.pop(server_name, None)
        if pending is None:
            return
        self._back_off.succeeded(server_name)
        if pending.updates is not None:
            self.outbox.receive_delivered(pending.updates)
        rest = self._messages.pop(server_name, [])[pending.messages :]
        if rest:
            self._messages[server_name] = rest

    def receive_failed(self, server_name: str, *, now: int, retry_after_ms: int = 0) -> None:
        """Note that a server has not taken what was on its way to it, or has not said so."""
        if server_name in self._in_flight:
            self._in_flight.discard(server_name)
            self._back_off.failed(server_name, check_now(now), at_least_ms=retry_after_ms)

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
                server_name: [message.to_json() for message in messages]
                for server_name, messages in self._messages.items()
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
        for server, messages in stored.items("messages", list):
            for place, message in enumerate(messages):
                with stored.reading("messages", server, str(place)):
                    edu = read_edu(message)
                    if isinstance(edu, DirectToDevice):
                        transactions.add_message(server, edu)
        return transactions
