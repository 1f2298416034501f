"""One's own one-time keys: those that wait to be uploaded, and the names of all others.

Specification: client-server API, "One-time and fallback keys".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import define, field

from matrix_e2e_keys.client.supply.key_names import KeyNames, OwnKeyReader
from matrix_e2e_keys.json_trees import JsonObject
from matrix_e2e_keys.keys import Curve25519PublicKey
from matrix_e2e_keys.models.one_time_keys import OneTimeKey
from matrix_e2e_keys.stored import Stored

__all__ = ["OneTimePool"]


@define
class _Pending:
    key: OneTimeKey
    revision: int


@define
class OneTimePool:
    """Internal: the one-time keys that were ever added.

    Attributes:
        names: all of them, be they pending, uploaded, used or given up.
    """

    names: KeyNames = field(factory=KeyNames)
    _pending: dict[str, _Pending] = field(factory=dict)

    @property
    def pending(self) -> int:
        """How many keys the server is not known to have."""
        return len(self._pending)

    def ready(self, stored: int) -> list[str]:
        """Return the names of the pending keys that were added by the revision ``stored``, oldest first."""
        return [name for name, pending in self._pending.items() if pending.revision <= stored]

    def signed(self, name: str) -> OneTimeKey:
        """Return a pending key."""
        return self._pending[name].key

    def add(self, keys: Mapping[str, tuple[Curve25519PublicKey, OneTimeKey]], *, revision: int, cap: int) -> None:
        """Add keys, bare and signed. Of all but the newest ``cap`` nothing is remembered."""
        for name, (key, signed) in keys.items():
            self.names.add(name, key)
            self._pending[name] = _Pending(signed, revision)
        self.names.forget_oldest(cap, spared=self._pending)

    def settle(self, names: Iterable[str]) -> None:
        """Note that keys are not to be uploaded any more: they are, or are used, or given up."""
        for name in names:
            self._pending.pop(name, None)

    def pending_to_json(self) -> JsonObject:
        """Return the pending keys by name, as they were signed."""
        return {name: pending.key.to_json() for name, pending in self._pending.items()}

    def restore_pending(self, stored: Stored, reader: OwnKeyReader, revision: int) -> None:
        """Read back the member ``pending``. Its keys were stored, so they may be uploaded."""
        members = stored.object("pending")
        for name, _ in stored.items("pending"):
            key = reader.read(members, name, name, self.names, is_fallback=False)
            self._pending[name] = _Pending(key, revision)
