"""A large JSON document, piece by piece, so that no more of it is in memory as a tree than is being read.

Facts:

* What is read while it is still in the processor's cache, and freed before the next piece comes, costs half of what
  reading a whole tree costs, and gives the garbage collector next to nothing to look at.
* A document is an object of objects here: the pieces are the members of its members. Whatever is not plain (a name
  twice at these two levels, no object at the top, no JSON at all) raises :class:`NotPlain`, possibly after many
  pieces. Then :func:`~matrix_e2e_keys.json_frames.parse_frame` has to read the whole, and to say what is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from matrix_e2e_keys.json_frames import open_frame
from matrix_e2e_keys.json_trees import JsonLimits

__all__ = ["NotPlain", "Piece", "parse_pieces", "pieces_of"]

Piece: TypeAlias = tuple[str, str | None, Any]
"""Member of the document, member of that member, tree. An object is announced by ``(member, None, {})``, then come
its members; any other value is one piece, ``(member, None, tree)``."""


class NotPlain(Exception):  # noqa: N818 - never leaves the library
    """Internal: the document has to be read as a whole. All pieces so far are void."""


def parse_pieces(data: object, *, limits: JsonLimits) -> Iterator[Piece]:
    """Yield the pieces of a document. Together they are what ``parse_frame`` returns.

    Raises:
        NotPlain: while the pieces are taken; see above.
        RemoteProtocolError, LocalProtocolError: the document is refused before it is read, as in ``parse_frame``.
    """
    return _pieces(_Reader(*open_frame(data, "refuse", limits)))


def _pieces(reader: _Reader) -> Iterator[Piece]:
    try:
        reader.take(_SPACE)
        if not reader.enters_object():
            raise NotPlain
        for member in reader.names():
            if reader.enters_object():
                yield member, None, {}
                for name in reader.names():
                    yield member, name, reader.value()
            else:
                yield member, None, reader.value()
        reader.take(_END)
    except (json.JSONDecodeError, RecursionError):
        raise NotPlain from None


def pieces_of(tree: dict[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of a document that is a tree already, and let go of them: the tree is emptied on the way."""
    for member in list(tree):
        value = tree.pop(member)
        if type(value) is dict:
            yield member, None, {}
            for name in list(value):
                yield member, name, value.pop(name)
        else:
            yield member, None, value


_SPACE: Final = re.compile(r"[ \t\n\r]*")
_OPEN: Final = re.compile(r"\{[ \t\n\r]*")
_CLOSE: Final = re.compile(r"\}[ \t\n\r]*")
_COLON: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")
_NEXT: Final = re.compile(r"[ \t\n\r]*(?:,[ \t\n\r]*(?=\")|(\}))")
_END: Final = re.compile(r"[ \t\n\r]*\Z")


class _Reader:
    """A place in a JSON text. It stands at the beginning of a token, or behind a value."""

    def __init__(self, text: str, decoder: json.JSONDecoder) -> None:
        self._text = text
        self._decoder = decoder
        self._at = 0

    def enters_object(self) -> bool:
        """Step into the object that begins here, if there is one."""
        return self._takes(_OPEN) is not None

    def names(self) -> Iterator[str]:
        """Yield the name of each member of an object that was entered. Whoever gets it reads the value."""
        if self._takes(_CLOSE):
            return
        seen: set[str] = set()
        is_last = False
        while not is_last:
            name = self.value()
            if type(name) is not str or name in seen:
                raise NotPlain
            seen.add(name)
            self.take(_COLON)
            yield name
            is_last = self.take(_NEXT).lastindex is not None

    def value(self) -> Any:
        """Read one value."""
        value, self._at = self._decoder.raw_decode(self._text, self._at)
        return value

    def take(self, token: re.Pattern[str]) -> re.Match[str]:
        """Step over ``token``, which has to stand here."""
        match = self._takes(token)
        if match is None:
            raise NotPlain
        return match

    def _takes(self, token: re.Pattern[str]) -> re.Match[str] | None:
        match = token.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match
