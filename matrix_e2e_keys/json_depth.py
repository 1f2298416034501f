"""How deeply a JSON text is nested, found without recursing into it.

Facts:

* Readers and encoders of JSON recurse. A text of a million opening brackets must be refused by something that does
  not, also in a thread with a small stack.
* A document that holds many people's data may hold one place that is nested too deeply. That place is cut out, so
  that it costs only the entry it stands in. Only a document beyond ``MAX_FRAME_DEPTH`` is refused whole.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final

from matrix_e2e_keys.errors import Reason, RemoteProtocolError

__all__ = ["CUT", "MAX_FRAME_DEPTH", "cut_deep_places", "depth"]

MAX_FRAME_DEPTH: Final = 1000
"""A document nested deeper than this is refused whole. No reader that recurses relays such a document."""

# Consumes an unterminated string too, so that no input makes the search start over at every quote.
_STRING_BYTES: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_STRING_OR_BRACKET: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_ONE_BRACKET: Final = bytes.maketrans(b"[]", b"{}")
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(b'{}[]"'))
_STEPS: Final = {ord("{"): 1, ord("}"): -1}
_PEELS: Final = 16


def depth(raw: bytes) -> int:
    """Return the nesting of ``raw``: exact for JSON up to ``MAX_FRAME_DEPTH`` + 1, never too small for anything else.

    Strategy: keep only brackets and quotes. While no string holds a bracket or an escape, every string has become
    ``""`` and drops out; otherwise a quote is left over (before a bracket inside a string stands an odd number of
    quotes), and the strings are cut out with a regular expression. Then each removal of ``{}`` peels the innermost
    level off everything at once: an honest answer is gone after six. What is left is counted bracket by bracket.
    """
    if b"\\" in raw:
        raw = _STRING_BYTES.sub(b"", raw)
    brackets = raw.translate(_ONE_BRACKET, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _STRING_BYTES.sub(b"", raw).translate(_ONE_BRACKET, _NOT_STRUCTURE).replace(b'"', b"")
    for levels in range(_PEELS):
        if not brackets:
            return levels
        if b"{" * (MAX_FRAME_DEPTH + 1) in brackets:
            return MAX_FRAME_DEPTH + 1
        brackets = brackets.replace(b"{}", b"")
    return _PEELS + max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


CUT: Final = "1e999999999"
"""Stands in the text for a place that was cut out. Whoever writes it himself is refused all the same."""


def cut_deep_places(text: str, max_depth: int) -> str:
    """Return ``text`` with every place that is nested deeper than ``max_depth`` replaced by ``CUT``."""
    kept: list[str] = []
    depth = resume = start = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        character = text[token.start()]
        if character in "[{":
            depth += 1
            if depth == max_depth + 1:
                start = token.start()
            elif depth > MAX_FRAME_DEPTH:
                raise RemoteProtocolError(Reason.TOO_DEEP, f"the document is nested more than {MAX_FRAME_DEPTH} deep")
        elif character in "]}":
            if depth == max_depth + 1:
                kept += (text[resume:start], CUT)
                resume = token.end()
            depth -= 1
    if depth != 0:
        raise RemoteProtocolError(Reason.NOT_JSON, "not JSON: brackets do not match")
    kept.append(text[resume:])
    return "".join(kept)
