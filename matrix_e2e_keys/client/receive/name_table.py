"""Names of which only a few bits are kept: a Bloom filter of a fixed size.

Facts:

* A name that was added is always found. One that was not is found at times: after some 10,000 names, fewer than one in
  200; after 50,000, more than one in three.
* Nothing can be taken out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.errors import LocalProtocolError, Reason
from matrix_e2e_keys.stored import Stored

__all__ = ["NameTable"]

_BYTES: Final = 2**14
_HASHES: Final = 4


@define
class NameTable:
    """Internal: pairs of names that were added."""

    _bits: bytearray = field(factory=lambda: bytearray(_BYTES), init=False, repr=False)

    def add(self, name: tuple[str, str]) -> None:
        """Add a pair, the first of which holds no NUL."""
        for place in _places(name):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, name: tuple[str, str]) -> bool:
        return all(self._bits[place >> 3] & (1 << (place & 7)) for place in _places(name))

    def to_json(self) -> str | None:
        """Return what has to survive a restart; ``None`` if nothing was added."""
        return unpadded_base64.encode(bytes(self._bits)) if any(self._bits) else None

    @classmethod
    def restore(cls, stored: Stored, name: str) -> NameTable:
        """Restore a table that stands under ``name`` in something.

        Raises:
            LocalProtocolError: it is not what :meth:`to_json` returned.
        """
        table = cls()
        kept = stored.member(name, str, type(None))
        if kept is not None:
            bits = unpadded_base64.decode(kept)
            if bits is None or len(bits) != _BYTES:
                detail = f"{name} is {_BYTES} bytes in base64"
                raise LocalProtocolError(Reason.INVALID_VALUE, detail, path=stored.path(name))
            table._bits = bytearray(bits)
        return table


def _places(name: tuple[str, str]) -> Iterator[int]:
    """Yield which bits stand for a pair."""
    digest = hashlib.sha256("\0".join(name).encode()).digest()
    for start in range(0, 4 * _HASHES, 4):
        yield int.from_bytes(digest[start : start + 4], "big") % (8 * _BYTES)
