"""Which rows changed since somebody last asked, for whoever stores each by itself.

Fact: a row that came and went in between is not named, since nobody has stored it. So no more is remembered than there
are rows, and rows that were there at first.
"""

from __future__ import annotations

from attrs import define, field

__all__ = ["ChangedRows"]


@define
class ChangedRows:
    """The names of the rows."""

    _is_new: dict[str, bool] = field(factory=dict, init=False)
    """Of the rows that changed, whether nobody has ever been told about them."""

    def added(self, name: str) -> None:
        """Note that a row is there that was not."""
        self._is_new[name] = name not in self._is_new

    def altered(self, name: str) -> None:
        """Note that a row is different."""
        self._is_new.setdefault(name, False)

    def removed(self, name: str) -> None:
        """Note that a row is gone."""
        if not self._is_new.pop(name, False):
            self._is_new[name] = False

    def take(self) -> frozenset[str]:
        """Return the rows that changed since the last call."""
        changed = frozenset(self._is_new)
        self._is_new.clear()
        return changed
