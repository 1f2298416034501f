"""JSON as a tree of plain values, with a marker wherever canonical JSON has no representation.

Facts:

* A document that holds many people's data is not refused for one of them. :func:`parse_frame` reads such a document
  and leaves a :class:`RefusedPlace` at each float, NaN, integer out of range, duplicate member and over-deep value.
  Whatever *contains* the place fails to encode, and is refused with its path; everything else is untouched.
* A lone surrogate needs no marker: a string that holds one cannot be encoded as UTF-8.
* :func:`snapshot` makes the same kind of tree from a caller's Python value, as a copy that nobody else can change.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen

from matrix_e2e_keys.errors import (
    E2EKeysError,
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    json_pointer,
    printable,
    quoted,
)
from matrix_e2e_keys.json_depth import CUT, cut_deep_places, depth

__all__ = [
    "DEFAULT_LIMITS",
    "MAX_SAFE_INTEGER",
    "JsonLimits",
    "JsonObject",
    "JsonValue",
    "Numbers",
    "RefusedPlace",
    "Segments",
    "open_frame",
    "parse_frame",
    "raise_refused",
    "refused_places",
    "snapshot",
    "thaw",
    "wrong_type",
]

JsonValue: TypeAlias = bool | int | str | list["JsonValue"] | dict[str, "JsonValue"] | None
"""A value that canonical JSON can represent. ``float`` is not part of it."""

JsonObject: TypeAlias = dict[str, JsonValue]

Numbers: TypeAlias = Literal["refuse", "normalise"]
"""What to do with ``-0`` and with numbers written with a fraction or exponent whose value is an integer in range."""

Segments: TypeAlias = tuple[str | int, ...]
"""A place inside a document: member names and array indices from the top."""

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer in canonical JSON; the smallest is its negative."""

_DEPTH_CEILING: Final = 400
_FULL_STACK: Final = "the stack is too full for nested JSON"
_DIGITS_CEILING: Final = 4000
_SAFE_DIGITS: Final = len(str(MAX_SAFE_INTEGER))


@frozen(kw_only=True)
class JsonLimits:
    """Limits for reading JSON. Each is checked before the cost it guards against arises.

    Attributes:
        max_depth: how many arrays and objects may be nested, 1 to 400. The default, 128, is what serde_json allows.
        max_bytes: the size of a document in UTF-8 bytes.
        max_digits: the length of one number as it is written, in characters.
    """

    max_depth: int = 128
    max_bytes: int = 256 * 1024 * 1024
    max_digits: int = 32

    def __attrs_post_init__(self) -> None:
        for name, ceiling in (("max_depth", _DEPTH_CEILING), ("max_bytes", None), ("max_digits", _DIGITS_CEILING)):
            value: object = getattr(self, name)
            if type(value) is not int or value < 1 or (ceiling is not None and value > ceiling):
                above = "" if ceiling is None else f" and at most {ceiling}"
                raise LocalProtocolError(
                    Reason.INVALID_VALUE, f"{name} must be an integer of at least 1{above}", path=f"/{name}"
                )


DEFAULT_LIMITS: Final = JsonLimits()

WIDEST_LIMITS: Final = JsonLimits(max_depth=_DEPTH_CEILING, max_bytes=2**62, max_digits=_DIGITS_CEILING)
"""For what has passed other limits before."""


@frozen(kw_only=True, eq=False)
class RefusedPlace:
    """What stands in a parsed document where canonical JSON has no representation.

    Not a ``dict``, ``list`` or ``str``, so no encoder takes it and no type check passes it.

    Attributes:
        reason: why.
        detail: one sentence, without the path.
        value: the nearest plain Python value, for showing people what was received.
    """

    reason: Reason
    detail: str
    value: Any = field(repr=False)


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
        raise RemoteProtocolError(Reason.TOO_DEEP, _FULL_STACK) from None


def check_mode(numbers: object) -> None:
    """Refuse what is no :data:`Numbers`.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(numbers) is not str or numbers not in ("refuse", "normalise"):
        raise LocalProtocolError(Reason.INVALID_VALUE, 'numbers must be "refuse" or "normalise"', path="/numbers")


def open_frame(data: object, numbers: Numbers, limits: JsonLimits) -> tuple[str, json.JSONDecoder]:
    """Return the text of a document, with places cut out that are nested too deeply, and a decoder for it.

    Raises:
        RemoteProtocolError, LocalProtocolError: see :func:`parse_frame`.
    """
    check_mode(numbers)
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
    try:
        value: object = int(literal) if literal.lstrip("-").isdigit() else float(literal)
    except ValueError:  # more digits than the interpreter converts
        value = literal
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
        return _refused_number(Reason.INTEGER_OUT_OF_RANGE, _out_of_range(literal), literal)

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


def _out_of_range(number: object) -> str:
    return f"the integer {number} is outside +-(2**53 - 1)"


# No number of _DIGITS_CEILING digits gets into range with a longer exponent, in either direction.
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


def snapshot(value: object, *, numbers: Numbers = "refuse", limits: JsonLimits = DEFAULT_LIMITS) -> Any:
    """Return a deep copy of ``value`` in the form :func:`parse_frame` returns.

    Whatever is not a JSON value (a float, a tuple, a subclass, a name that is not a string, a value that contains
    itself) becomes a :class:`RefusedPlace`. The value is not changed, and none of its methods is called.

    Raises:
        LocalProtocolError: ``numbers`` is not a mode.
    """
    check_mode(numbers)
    try:
        return _copy(value, numbers, limits.max_depth, set())
    except RecursionError:
        return RefusedPlace(reason=Reason.TOO_DEEP, detail=_FULL_STACK, value=None)


def _copy(value: Any, numbers: Numbers, room: int, above: set[int]) -> Any:
    """Copy a value. ``room`` says how deep it may be, ``above`` which objects it stands in."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is int:
        if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            return value
        digits = value.bit_length() * 0.30103
        shown = value if digits < 40 else f"of about {digits:.0f} digits"
        return RefusedPlace(reason=Reason.INTEGER_OUT_OF_RANGE, detail=_out_of_range(shown), value=value)
    if kind is dict or kind is list:
        if room == 0:
            return RefusedPlace(reason=Reason.TOO_DEEP, detail="nested too deeply", value=None)
        if id(value) in above:
            return RefusedPlace(reason=Reason.TOO_DEEP, detail="the value contains itself", value=None)
        above.add(id(value))
        copied = (
            [_copy(item, numbers, room - 1, above) for item in value]
            if kind is list
            else _copy_members(value, numbers, room - 1, above)
        )
        above.remove(id(value))
        return copied
    if kind is float:
        if numbers == "normalise" and value.is_integer() and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            return int(value)
        return RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail=f"{value!r} is not an integer", value=value)
    if kind is RefusedPlace:
        return value
    detail = f"a Python value of type {kind.__name__} is not a JSON value"
    return RefusedPlace(reason=Reason.NOT_A_JSON_VALUE, detail=detail, value=None)


def _copy_members(members: dict[Any, Any], numbers: Numbers, room: int, above: set[int]) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    nameless: list[str] = []
    for name, member in members.items():
        if type(name) is str:
            copied[name] = _copy(member, numbers, room, above)
        else:
            nameless.append(type(name).__name__)
    for kind in nameless:
        shown = f"<{kind}>"
        while shown in copied:  # it must not hide a member whose name happens to be the same
            shown += "'"
        detail = f"a member name is of type {kind}, not str"
        copied[shown] = RefusedPlace(reason=Reason.NOT_A_JSON_VALUE, detail=detail, value=None)
    return copied


def thaw(tree: Any) -> Any:
    """Return a copy of ``tree`` that the caller may own: refused places become the nearest Python value.

    Raises:
        RemoteProtocolError: the stack is too full.
    """
    try:
        return _thaw(tree)
    except RecursionError:
        raise RemoteProtocolError(Reason.TOO_DEEP, _FULL_STACK) from None


def _thaw(tree: Any) -> Any:
    if type(tree) is dict:
        return {name: _thaw(member) for name, member in tree.items()}
    if type(tree) is list:
        return [_thaw(item) for item in tree]
    if type(tree) is RefusedPlace:
        return _thaw(tree.value)
    return tree


def refused_places(tree: Any, at: Segments = ()) -> Iterator[tuple[Segments, Reason, str]]:
    """Yield every place in ``tree`` that has no canonical encoding: where, why, and a sentence."""
    stack: list[tuple[Segments, Any]] = [(at, tree)]
    while stack:
        place, value = stack.pop()
        if type(value) is dict:
            for name in value:
                if _has_lone_surrogate(name):
                    yield (*place, name), Reason.LONE_SURROGATE, "the member name holds a lone surrogate"
            stack += [((*place, name), member) for name, member in reversed(value.items())]
        elif type(value) is list:
            stack += [((*place, index), value[index]) for index in range(len(value) - 1, -1, -1)]
        elif type(value) is RefusedPlace:
            yield place, value.reason, value.detail
        elif type(value) is str and _has_lone_surrogate(value):
            yield place, Reason.LONE_SURROGATE, "the string holds a lone surrogate"


def wrong_type(expected: str, value: Any, *at: str | int) -> Refusal:
    """Return the refusal of ``value``, which stands at ``at`` where ``expected`` should stand.

    ``expected`` is the beginning of the sentence, for example ``"signatures must be an object"``.
    """
    if type(value) is RefusedPlace:
        return Refusal(value.reason, value.detail, *at)
    return Refusal(Reason.WRONG_TYPE, f"{expected}, not {_KINDS.get(type(value), 'a number')}", *at)


_KINDS: Final = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def raise_refused(tree: Any, error: Callable[..., E2EKeysError], at: Segments = ()) -> None:
    """Raise ``error`` for the first refused place in ``tree``, if there is one."""
    for place, reason, detail in refused_places(tree, at):
        raise error(reason, detail, path=json_pointer(place))


def _has_lone_surrogate(text: str) -> bool:
    return not text.isascii() and text != printable(text)
