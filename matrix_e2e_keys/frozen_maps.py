"""A mapping that nobody can change, and that can be copied, pickled and shown.

Fact: ``types.MappingProxyType`` is faster by a little, and can be neither copied deeply nor pickled.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import TypeVar

__all__ = ["FrozenMap"]

Key = TypeVar("Key")
Value_co = TypeVar("Value_co", covariant=True)


class FrozenMap(Mapping[Key, Value_co]):
    """A mapping without a way to change it. It takes over the ``dict`` it is made of: give it one of your own."""

    __slots__ = ("_members",)

    def __init__(self, members: dict[Key, Value_co]) -> None:
        self._members = members

    def __getitem__(self, name: Key) -> Value_co:
        return self._members[name]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def keys(self) -> KeysView[Key]:
        """Return a view of the names."""
        return self._members.keys()

    def values(self) -> ValuesView[Value_co]:
        """Return a view of the values."""
        return self._members.values()

    def items(self) -> ItemsView[Key, Value_co]:
        """Return a view of names and values."""
        return self._members.items()

    def __eq__(self, other: object) -> bool:
        return self._members == (other._members if isinstance(other, FrozenMap) else other)

    __hash__ = None  # type: ignore[assignment]  # as of every mapping

    def __repr__(self) -> str:
        return repr(self._members)
