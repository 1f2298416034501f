"""Names with a rank each, of which the one of the lowest rank is wanted.

Fact: a call costs the logarithm of how many names there are, on average. What is gone is left in the heap until it
comes to the front, or until more is gone than there.
"""

from __future__ import annotations

import heapq
from typing import Final

from attrs import define, field

__all__ = ["Ranking"]

_GONE_AT_LEAST: Final = 16


@define
class Ranking:
    """The names. Of several of the same rank, the one that sorts first is first."""

    _ranks: dict[str, int] = field(factory=dict, init=False)
    _heap: list[tuple[int, str]] = field(factory=list, init=False)

    @property
    def lowest(self) -> int | None:
        """The rank of the first name, ``None`` if there are no names."""
        return self._ranks[self.first()] if self._ranks else None

    def put(self, name: str, rank: int) -> None:
        """Give a name a rank, in the place of the one it had."""
        if self._ranks.get(name) != rank:
            self._ranks[name] = rank
            heapq.heappush(self._heap, (rank, name))
            self._shrink()

    def first(self) -> str:
        """Return the first name. There must be one."""
        while self._ranks.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][1]

    def take(self) -> str:
        """Take the first name out and return it. There must be one."""
        name = self.first()
        self.discard(name)
        return name

    def discard(self, name: str) -> None:
        """Take a name out, if it is there."""
        if self._ranks.pop(name, None) is not None:
            self._shrink()

    def _shrink(self) -> None:
        if len(self._heap) > 2 * len(self._ranks) + _GONE_AT_LEAST:
            self._heap = [(rank, name) for name, rank in self._ranks.items()]
            heapq.heapify(self._heap)
