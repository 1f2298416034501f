"""Messages to devices, until they are fetched.

Facts:

* "Messages are sent to the client in ``/sync``, and are deleted once the client has acknowledged them by using the
  ``next_batch`` token": the next ``since``.
* A message that comes twice (a transaction that was repeated) is kept once, by who sent it and its id.
"""

from __future__ import annotations

from typing import Any, Final, Self

from attrs import define, field

from matrix_e2e_keys.json_trees import JsonObject, thaw
from matrix_e2e_keys.stored import Stored

__all__ = ["Mailbox"]

_VERSION: Final = 1
_REMEMBERED: Final = 10_000


@define
class Mailbox:
    """The messages of all devices. Made empty, or by :meth:`from_json`."""

    _waiting: dict[str, dict[str, list[tuple[int, JsonObject]]]] = field(factory=dict, init=False)
    _seen: dict[str, None] = field(factory=dict, init=False)
    """The names of what has come, the oldest first."""

    def is_new(self, name: str) -> bool:
        """Tell whether something of that name comes for the first time, and remember it."""
        if name in self._seen:
            return False
        self._seen[name] = None
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True

    def put(self, user_id: str, device_id: str, event: JsonObject, *, position: int) -> None:
        """Keep a message for a device."""
        self._waiting.setdefault(user_id, {}).setdefault(device_id, []).append((position, thaw(event)))

    def fetch(self, user_id: str, device_id: str, *, after: int) -> tuple[JsonObject, ...]:
        """Return the messages of a device that are later than a position, and forget the earlier ones."""
        devices = self._waiting.get(user_id, {})
        kept = [(position, event) for position, event in devices.pop(device_id, []) if position > after]
        if kept:
            devices[device_id] = kept
        return tuple(thaw(event) for _, event in kept)

    def forget(self, user_id: str, device_id: str) -> None:
        """Forget the messages of a device that is gone."""
        self._waiting.get(user_id, {}).pop(device_id, None)

    def to_json(self) -> dict[str, Any]:
        """Return everything, as plain JSON values."""
        return {
            "version": _VERSION,
            "seen": list(self._seen),
            "waiting": [
                {"user_id": user_id, "device_id": device_id, "position": position, "event": thaw(event)}
                for user_id, devices in self._waiting.items()
                for device_id, events in devices.items()
                for position, event in events
            ],
        }

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read back what :meth:`to_json` returned.

        Raises:
            LocalProtocolError: it is damaged; ``path`` says where.
        """
        stored = Stored(obj)
        stored.require_version(_VERSION)
        mailbox = cls()
        mailbox._seen = dict.fromkeys(stored.values("seen", str))
        for message in stored.elements("waiting"):
            mailbox.put(
                message.member("user_id", str),
                message.member("device_id", str),
                message.member("event", dict),
                position=message.member("position", int),
            )
        return mailbox
