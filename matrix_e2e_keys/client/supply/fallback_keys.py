"""When to replace one's own fallback key, and when to forget the one before.

Specification: client-server API, "One-time and fallback keys", "Uploading keys"; ``device_unused_fallback_key_types``.

Facts:

* "Fallback keys should be replaced with new fallback keys as soon as possible after they have been used." The server
  says so in ``/sync``, or a message proves it. What ``/sync`` says may be older than the last upload, so a key stays
  for a minute at least; and twice as long each time one is used that was never said to be unused.
* "Clients should keep the private keys for at most 2 fallback keys", and remove the old one "after an hour since the
  first message".
* A clock may be set back: what would have happened in the future happened now.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from matrix_e2e_keys.client.supply.key_counts import longer
from matrix_e2e_keys.client.supply.key_names import KeyNames, OwnKeyReader
from matrix_e2e_keys.errors import LocalProtocolError, Reason, quoted
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.stored import Stored

__all__ = ["AT_ONCE", "FallbackKey", "FallbackKeys"]

AT_ONCE: Final = -(2**62)
"""A time that has always passed."""


@define(kw_only=True)
class FallbackKey:
    """Internal: one fallback key. Times are milliseconds of the caller's clock."""

    signed: OneTimeKey
    revision: int
    added_at: int
    acknowledged_at: int | None = None
    """When the server was known to have it."""
    used_at: int | None = None
    """When the first message arrived that used it."""
    is_said_used: bool = False
    was_said_unused: bool = False

    def settle(self, now: int) -> None:
        """Let nothing have happened after ``now``."""
        self.added_at = min(self.added_at, now)
        self.acknowledged_at = None if self.acknowledged_at is None else min(self.acknowledged_at, now)
        self.used_at = None if self.used_at is None else min(self.used_at, now)

    def receive_use(self, now: int) -> None:
        """Note a message that used the key. So the server has it."""
        if self.used_at is None:
            self.used_at = now
        if self.acknowledged_at is None:
            self.acknowledged_at = now

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        return {
            "name": self.signed.key_id.name,
            "key": self.signed.to_json(),
            "added_at": self.added_at,
            "acknowledged_at": self.acknowledged_at,
            "used_at": self.used_at,
            "is_said_used": self.is_said_used,
            "was_said_unused": self.was_said_unused,
        }

    @classmethod
    def restore(cls, stored: Stored, names: KeyNames, reader: OwnKeyReader, revision: int) -> FallbackKey:
        """Read back a fallback key. It was stored, so it may be uploaded."""
        name = stored.member("name", str)
        return cls(
            signed=reader.read(stored, "key", name, names, is_fallback=True),
            revision=revision,
            added_at=stored.member("added_at", int),
            acknowledged_at=stored.member("acknowledged_at", int, type(None)),
            used_at=stored.member("used_at", int, type(None)),
            is_said_used=stored.member("is_said_used", bool),
            was_said_unused=stored.member("was_said_unused", bool),
        )


@define
class FallbackKeys:
    """Internal: the fallback key the server has or is to be given, and the one before."""

    current: FallbackKey | None = None
    previous: FallbackKey | None = None
    _never_unused: int = 0
    """How many keys in a row were replaced without ever being said to be unused."""

    @property
    def pending(self) -> FallbackKey | None:
        """The key that the server is not known to have."""
        return None if self.current is None or self.current.acknowledged_at is not None else self.current

    def add(self, key: FallbackKey) -> None:
        """Replace the current key. What was the previous one is forgotten.

        Raises:
            LocalProtocolError: the current key is not known to be uploaded. It would be forgotten too early.
        """
        if self.pending is not None:
            name = quoted(self.pending.signed.key_id.name)
            raise LocalProtocolError(Reason.WRONG_STATE, f"the fallback key {name} has not been uploaded yet")
        if self.current is not None:
            self._never_unused = 0 if self.current.was_said_unused else self._never_unused + 1
        self.previous, self.current = self.current, key

    def receive_list(self, *, is_unused: bool) -> None:
        """Take over whether ``/sync`` lists the key as unused."""
        if self.current is not None and self.pending is None:
            self.current.is_said_used = not is_unused
            self.current.was_said_unused = self.current.was_said_unused or is_unused

    def due_at(self, max_age_ms: int) -> int | None:
        """Return from when on a new key is needed, ``None`` if that depends on the server."""
        if self.current is None:
            return AT_ONCE
        acknowledged_at = self.current.acknowledged_at
        if acknowledged_at is None:
            return None
        due = self.current.added_at + max_age_ms
        if self.current.is_said_used or self.current.used_at is not None:
            due = min(due, acknowledged_at + longer(self._never_unused))
        return due

    def forget_at(self, grace_ms: int) -> int | None:
        """Return from when on the previous key is to be forgotten, ``None`` if that depends on what arrives.

        That is some time after the first message that used either key. Others were given the previous one until the
        server had the current one.
        """
        if self.previous is None or self.current is None or self.current.acknowledged_at is None:
            return None
        uses = [key.used_at for key in (self.current, self.previous) if key.used_at is not None]
        return max(self.current.acknowledged_at, min(uses)) + grace_ms if uses else None

    def settle(self, now: int) -> None:
        """Let nothing have happened after ``now``."""
        for key in (self.current, self.previous):
            if key is not None:
                key.settle(now)

    def to_json(self) -> JsonObject:
        """Return what has to survive a restart."""
        return {
            "current": None if self.current is None else self.current.to_json(),
            "previous": None if self.previous is None else self.previous.to_json(),
            "never_unused": self._never_unused,
        }

    @classmethod
    def restore(cls, stored: Stored, names: KeyNames, reader: OwnKeyReader, revision: int) -> FallbackKeys:
        """Read back what :meth:`to_json` returned."""
        keys: list[FallbackKey | None] = []
        for member in ("current", "previous"):
            kept = stored.optional(member)
            keys.append(None if kept is None else FallbackKey.restore(kept, names, reader, revision))
        current, previous = keys
        never_unused: int = stored.member("never_unused", int)
        with stored.reading("never_unused"):
            if never_unused < 0:
                raise LocalProtocolError(Reason.INVALID_VALUE, "a number of keys cannot be negative")
        with stored.reading("previous"):
            if previous is not None and (current is None or current.signed == previous.signed):
                raise LocalProtocolError(Reason.INVALID_VALUE, "no other key came after the previous one")
        return cls(current, previous, never_unused)
