"""Reading a JSON document that holds many people's data.

Facts:

* Such a document is not refused for one of them. A :class:`~matrix_e2e_keys.json_trees.RefusedPlace` is left at each
  float, NaN, integer out of range, duplicate member and over-deep value. Whatever *contains* the place fails to
  encode, and is refused with its path; everything else is untouched.
* Only the document's own faults refuse it: not UTF-8, not JSON, too large, far too deep.
* No hook of the decoder raises, rounds or chooses, so that what the bytes say is never lost.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from typing import Any, Final

from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, quoted
from matrix_e2e_keys.json_depth import CUT, cut_deep_places, depth
from matrix_e2e_keys.json_trees import (
    DEFAULT_LIMITS,
    FULL_STACK,
    MAX_SAFE_INTEGER,
    JsonLimits,
    Numbers,
    RefusedPlace,
    check_limits,
    check_mode,
    out_of_range,
)

__all__ = ["open_frame", "parse_frame"]

_SAFE_DIGITS: Final = len(str(MAX_SAFE_INTEGER))


def parse_frame(data: object, *, numbers: Numbers = "refuse", limits: JsonLimits = DEFAULT_LIMITS) -> Any:
    """Parse a document that holds many people's data; mark what canonical JSON cannot represent.

    The result consists of plain JSON values and :class:`RefusedPlace`. Strings may hold lone surrogates; they fail
    to encode like a refused place does, and :func:`refused_places` reports them.

    Raises:
        RemoteProtocolError: only for the frame's own faults: not UTF-8, not JSON, too large, far too deep.
        LocalProtocolError: ``data`` is neither bytes nor text.
    """
    text, decoder = open_frame(data, numbers, limits)
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise RemoteProtocolError(
            Reason.NOT_JSON, f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise RemoteProtocolError(Reason.TOO_DEEP, FULL_STACK) from None


def open_frame(data: object, numbers: Numbers, limits: JsonLimits) -> tuple[str, json.JSONDecoder]:
    """Return the text of a document, with places cut out that are nested too deeply, and a decoder for it.

    Raises:
        RemoteProtocolError, LocalProtocolError: see :func:`parse_frame`.
    """
    check_mode(numbers)
    check_limits(limits)
    text, raw = _text_and_bytes(data, limits)
    if not text or text[0] == "\ufeff":
        raise RemoteProtocolError(
            Reason.NOT_JSON, "the document starts with a byte order mark" if text else "the document is empty"
        )
    if depth(raw) > limits.max_depth:
        text = cut_deep_places(text, limits.max_depth)
    if numbers == "refuse" and limits.max_digits == DEFAULT_LIMITS.max_digits:
        return text, _DECODER
    return text, _make_decoder(numbers, limits.max_digits)


def _text_and_bytes(data: object, limits: JsonLimits) -> tuple[str, bytes]:
    """Return ``data`` both as text and as UTF-8 bytes."""
    if isinstance(data, bytearray):
        data = bytes(data)
    if isinstance(data, bytes):
        raw = data
    elif isinstance(data, str):
        # A lone surrogate in text is a fault of one string in it, not of the frame.
        raw = data.encode("utf-8", "surrogatepass")
    else:
        raise LocalProtocolError(Reason.WRONG_TYPE, f"JSON is read from bytes or str, not from {type(data).__name__}")
    if len(raw) > limits.max_bytes:
        raise RemoteProtocolError(
            Reason.TOO_LARGE, f"the document has {len(raw)} bytes, over the limit of {limits.max_bytes}"
        )
    if isinstance(data, str):
        return data, raw
    try:
        return raw.decode("utf-8"), raw
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(
            Reason.NOT_UTF8, f"the document is not UTF-8: {error.reason} at byte {error.start}"
        ) from None


def _refused_number(reason: Reason, detail: str, literal: str) -> RefusedPlace:
    value: object = literal
    with contextlib.suppress(ValueError):  # more digits than the interpreter converts
        if literal.lstrip("-").isdigit():
            value = int(literal)
        elif math.isfinite(float(literal)):
            value = float(literal)
    return RefusedPlace(reason=reason, detail=detail, value=value)


def _make_decoder(numbers: Numbers, max_digits: int) -> json.JSONDecoder:
    """Return a decoder whose hooks leave a :class:`RefusedPlace` instead of raising, rounding or choosing."""

    def read_integer(literal: str) -> int | RefusedPlace:
        if len(literal) > max_digits:
            return _too_many_digits(literal)
        if len(literal) <= _SAFE_DIGITS + 1:
            value = int(literal)
            if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER and (value or literal == "0" or numbers != "refuse"):
                return value
            if value == 0:
                return RefusedPlace(reason=Reason.NEGATIVE_ZERO, detail="negative zero may not appear", value=value)
        return _refused_number(Reason.INTEGER_OUT_OF_RANGE, out_of_range(literal), literal)

    def _too_many_digits(literal: str) -> RefusedPlace:
        detail = f"a number of {len(literal)} characters, over the limit of {max_digits}"
        return RefusedPlace(reason=Reason.TOO_MANY_DIGITS, detail=detail, value=literal)

    def read_fraction(literal: str) -> int | RefusedPlace:
        if literal == CUT:
            return RefusedPlace(reason=Reason.TOO_DEEP, detail="nested too deeply", value=None)
        if len(literal) > max_digits:
            return _too_many_digits(literal)
        integer = _integer_of(literal) if numbers == "normalise" else None
        if integer is not None:
            return integer
        return _refused_number(Reason.NOT_AN_INTEGER, f"the number {literal} is not written as an integer", literal)

    def read_constant(literal: str) -> RefusedPlace:
        return _refused_number(Reason.NOT_AN_INTEGER, f"{literal} is not a JSON number", literal)

    return json.JSONDecoder(
        object_pairs_hook=_members,
        parse_int=read_integer,
        parse_float=read_fraction,
        parse_constant=read_constant,
    )


# No number of 4000 digits gets into range with a longer exponent, in either direction.
_EXPONENT_DIGITS: Final = 6


def _integer_of(literal: str) -> int | None:
    """Return the integer in range that a JSON number stands for, if there is one.

    Digits are moved, not calculated with: nothing is rounded, and no exponent makes a number large.
    """
    mantissa, _, exponent = literal.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    power = exponent.lstrip("+-0") or "0"
    if not significant:
        return 0
    if len(power) > _EXPONENT_DIGITS:
        return None
    zeros = (-int(power) if exponent.startswith("-") else int(power)) - len(fraction) + len(digits) - len(significant)
    if zeros < 0 or len(significant) + zeros > _SAFE_DIGITS:
        return None
    value = int(significant + "0" * zeros)
    if value > MAX_SAFE_INTEGER:
        return None
    return -value if literal.startswith("-") else value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        for name in [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
            members[name] = RefusedPlace(
                reason=Reason.DUPLICATE_MEMBER, detail=f"{quoted(name)} appears twice", value=members[name]
            )
    return members


_DECODER: Final = _make_decoder("refuse", DEFAULT_LIMITS.max_digits)
