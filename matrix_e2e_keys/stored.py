"""Reading back what a state machine stored: JSON that may have been damaged, or written by somebody else.

Every fault is the caller's, since he stored it, and is named with its place in the whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError, json_pointer, raised_as

__all__ = ["Stored"]


class Stored:
    """An object that was stored, with its place in the whole."""

    def __init__(self, obj: object, *at: str) -> None:
        if type(obj) is not dict or any(type(name) is not str for name in obj):
            raise LocalProtocolError(Reason.WRONG_TYPE, "an object was stored here", path=json_pointer(at))
        self._members: dict[str, Any] = obj
        self._at = at

    def path(self, *names: str) -> str:
        """Return the place of a member in the whole, as a JSON Pointer."""
        return json_pointer((*self._at, *names))

    def require_version(self, known: int) -> None:
        """Refuse what another version of this library stored.

        Raises:
            LocalProtocolError: the member ``version`` is not ``known``.
        """
        if self.member("version", int) != known:
            raise LocalProtocolError(Reason.INVALID_VALUE, f"only version {known} is known", path=self.path("version"))

    def member(self, name: str, *kinds: type) -> Any:
        """Return a member whose type is one of ``kinds``; of any type if there are none.

        Raises:
            LocalProtocolError: it is not there, or of another type.
        """
        path = self.path(name)
        if name not in self._members:
            raise LocalProtocolError(Reason.MISSING_MEMBER, f"there is no {name}", path=path)
        value = self._members[name]
        if kinds and type(value) not in kinds:
            raise LocalProtocolError(Reason.WRONG_TYPE, f"{name} cannot be a {type(value).__name__}", path=path)
        return value

    def items(self, name: str, *kinds: type) -> Iterator[tuple[str, Any]]:
        """Yield the members of the object ``name``.

        Raises:
            LocalProtocolError: it is none, or one of them is not of one of ``kinds``.
        """
        inner = self.object(name)
        for key in inner._members:
            yield key, inner.member(key, *kinds)

    def values(self, name: str, *kinds: type) -> list[Any]:
        """Return the list ``name``.

        Raises:
            LocalProtocolError: it is none, or an item is not of one of ``kinds``.
        """
        listed: list[Any] = self.member(name, list)
        for place, value in enumerate(listed):
            if type(value) not in kinds:
                raise LocalProtocolError(
                    Reason.WRONG_TYPE,
                    f"{name} cannot hold a {type(value).__name__}",
                    path=self.path(name, str(place)),
                )
        return listed

    def elements(self, name: str) -> Iterator[Stored]:
        """Yield the items of the list ``name``, which are objects.

        Raises:
            LocalProtocolError: it is none, or one of them is none.
        """
        for place, value in enumerate(self.member(name, list)):
            yield Stored(value, *self._at, name, str(place))

    def object(self, name: str) -> Stored:
        """Return the object ``name``.

        Raises:
            LocalProtocolError: it is none.
        """
        return Stored(self.member(name), *self._at, name)

    def optional(self, name: str) -> Stored | None:
        """Return the object ``name``, ``None`` if ``null`` stands there.

        Raises:
            LocalProtocolError: it is neither.
        """
        return None if self.member(name) is None else self.object(name)

    def objects(self, name: str) -> Iterator[tuple[str, Stored]]:
        """Yield the members of the object ``name``, which are objects.

        Raises:
            LocalProtocolError: it is none, or one of them is none.
        """
        inner = self.object(name)
        for key in inner._members:
            yield key, inner.object(key)

    @contextlib.contextmanager
    def reading(self, *names: str) -> Generator[None, None, None]:
        """Whatever is refused inside was found at ``names``, and is a :class:`LocalProtocolError`."""
        at = (*self._at, *names)
        with raised_as(LocalProtocolError, *at):
            try:
                yield
            except VerificationError as error:  # signatures are checked anew
                raise LocalProtocolError(error.reason, error.detail, path=error.path) from None
