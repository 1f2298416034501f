"""Unpadded base64, read strictly.

Specification: appendices, "Unpadded Base64". Decoding and encoding go through the ``unpaddedbase64`` package, which
skips foreign characters, takes the URL-safe alphabet and ignores spare bits; this module is the strictness.

Facts:

* Two different texts never decode to the same bytes here, except that correct ``=`` padding may be present: decoders
  "SHOULD accept input with or without padding characters wherever possible".
* The spare bits of the last character must be zero. The one exception is a private seed that our own caller hands in
  (the specification's own test seed has spare bits), see :func:`decode_seed`.
* A length is always the length of the decoded bytes, never of the text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Final

import unpaddedbase64

__all__ = ["decode", "decode_fixed", "decode_loosely", "decode_seed", "encode"]

_ALPHABET_AND_PADDING: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9+/_-]")
_BATCH: Final = 256


def encode(data: bytes) -> str:
    """Return ``data`` as unpadded base64."""
    return unpaddedbase64.encode_base64(data)


def decode(text: object) -> bytes | None:
    """Return the bytes that ``text`` stands for, or ``None`` if it is not base64 in its one canonical form.

    Correct padding is tolerated. Anything that is not a ``str`` is not base64.
    """
    unpadded = _unpadded(text)
    if unpadded is None:
        return None
    decoded = unpaddedbase64.decode_base64(unpadded)
    return decoded if encode(decoded) == unpadded else None


def decode_seed(text: object) -> bytes | None:
    """Like :func:`decode`, but spare bits in the last character are ignored. For a caller's own private seed only."""
    unpadded = _unpadded(text)
    return None if unpadded is None else unpaddedbase64.decode_base64(unpadded)


def _unpadded(text: object) -> str | None:
    """Return ``text`` without its padding, ``None`` if alphabet, padding or length are not those of base64."""
    if type(text) is not str or not _ALPHABET_AND_PADDING.fullmatch(text):
        return None
    unpadded = text.rstrip("=")
    is_padded_right = len(unpadded) == len(text) or len(text) % 4 == 0
    return unpadded if is_padded_right and len(unpadded) % 4 != 1 else None


def decode_loosely(text: str) -> bytes | None:
    """Return what the most lenient decoder would read, ``None`` if nothing.

    Foreign characters are skipped, either alphabet is taken, padding and spare bits do not matter. For finding texts
    that somebody else may take for a key; never for reading one.
    """
    try:
        return unpaddedbase64.decode_base64(_FOREIGN.sub("", text))
    except binascii.Error:
        return None


def decode_fixed(texts: Sequence[object], size: int) -> list[bytes | None]:
    """Return ``[decode(t) if it has size bytes else None for t in texts]``, in one go.

    Args:
        texts: what stands where base64 should stand.
        size: the number of bytes each must decode to.

    Strategy: ``unpaddedbase64`` takes longer to start than to decode. So the texts are joined, each filled up with
    ``A`` (zero bits) to a multiple of four characters, and decoded as one. The bytes that come from the filling are
    zero exactly if the spare bits were. If any text is not of the expected length, alphabet and form, all are
    decoded one by one.
    """
    decoded: list[bytes | None] = []
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        joint = _decode_jointly(batch, size)
        decoded += joint or [_sized(decode(text), size) for text in batch]
    return decoded


def _decode_jointly(texts: Sequence[object], size: int) -> list[bytes] | None:
    spare = -size % 3
    length = (size * 4 + 2) // 3
    filling = "A" * spare
    try:
        joined = filling.join(texts) + filling  # type: ignore[arg-type]  # what is not a string raises
        if set(map(len, texts)) != {length} or "-" in joined or "_" in joined:  # type: ignore[arg-type]
            return None
        whole = unpaddedbase64.decode_base64(joined)
    except (TypeError, UnicodeEncodeError, binascii.Error):
        return None
    # A character outside the alphabet gives no bits: if the bytes are all there, there was none.
    stride = size + spare
    if len(whole) != stride * len(texts) or any(any(whole[size + place :: stride]) for place in range(spare)):
        return None
    return [whole[at : at + size] for at in range(0, len(whole), stride)]


def _sized(data: bytes | None, size: int) -> bytes | None:
    return data if data is not None and len(data) == size else None
