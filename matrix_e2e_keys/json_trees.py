"""JSON as a tree of plain values, with a marker wherever canonical JSON has no representation.

Facts:

* The marker is a :class:`RefusedPlace`: neither a ``dict`` nor a ``list`` nor a ``str``, so no shape check passes it
  and no encoder takes it.
* A lone surrogate needs no marker: a string that holds one cannot be encoded as UTF-8.
* :func:`snapshot` makes such a tree from a caller's Python value, as a copy that nobody else can change;
  :mod:`~matrix_e2e_keys.json_frames` makes one from bytes.
"""

from __future__ import annotations

import math
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
)

__all__ = [
    "DEFAULT_LIMITS",
    "FULL_STACK",
    "MAX_SAFE_INTEGER",
    "WIDEST_LIMITS",
    "JsonLimits",
    "JsonObject",
    "JsonValue",
    "Numbers",
    "RefusedPlace",
    "Segments",
    "check_limits",
    "check_mode",
    "object_in",
    "out_of_range",
    "raise_refused",
    "refused_nodes",
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
FULL_STACK: Final = "the stack is too full for nested JSON"
_DIGITS_CEILING: Final = 4000


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


def check_mode(numbers: object) -> None:
    """Refuse what is no :data:`Numbers`.

    Raises:
        LocalProtocolError: it is none.
    """
    if type(numbers) is not str or numbers not in ("refuse", "normalise"):
        raise LocalProtocolError(Reason.INVALID_VALUE, 'numbers must be "refuse" or "normalise"', path="/numbers")


def check_limits(limits: object) -> None:
    """Refuse what are no :class:`JsonLimits`.

    Raises:
        LocalProtocolError: they are none.
    """
    if type(limits) is not JsonLimits:
        raise LocalProtocolError(Reason.WRONG_TYPE, "limits must be JsonLimits", path="/limits")


def out_of_range(number: object) -> str:
    """Return what to say of an integer that canonical JSON cannot represent."""
    return f"the integer {number} is outside +-(2**53 - 1)"


def snapshot(value: object, *, numbers: Numbers = "refuse", limits: JsonLimits = DEFAULT_LIMITS) -> Any:
    """Return a deep copy of ``value`` in the form :func:`parse_frame` returns.

    Whatever is not a JSON value (a float, a tuple, a subclass, a name that is not a string, a value that contains
    itself) becomes a :class:`RefusedPlace`. The value is not changed, and none of its methods is called.

    Raises:
        LocalProtocolError: ``numbers`` is not a mode.
    """
    check_mode(numbers)
    check_limits(limits)
    try:
        return _copy(value, numbers, limits.max_depth, set())
    except RecursionError:
        return RefusedPlace(reason=Reason.TOO_DEEP, detail=FULL_STACK, value=None)


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
        nearest = value if digits < _DIGITS_CEILING else f"an integer {shown}"  # no interpreter writes it in decimal
        return RefusedPlace(reason=Reason.INTEGER_OUT_OF_RANGE, detail=out_of_range(shown), value=nearest)
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
        nearest = value if math.isfinite(value) else repr(value)
        return RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail=f"{value!r} is not an integer", value=nearest)
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
    for number, kind in enumerate(nameless):
        shown = f"<{kind} {number}>"
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
        raise RemoteProtocolError(Reason.TOO_DEEP, FULL_STACK) from None


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
    for place, refused in refused_nodes(tree, at):
        yield place, refused.reason, refused.detail


def refused_nodes(tree: Any, at: Segments = ()) -> Iterator[tuple[Segments, RefusedPlace]]:
    """Yield every place in ``tree`` that has no canonical encoding, and what stands there.

    A path is made for such a place only: there may be a million others, and each may be a hundred deep.
    """
    way: list[str | int] = []
    stack: list[Iterator[tuple[Any, Any]]] = [iter([(None, tree)])]
    while stack:
        for segment, value in stack[-1]:
            kind = type(value)
            if kind is dict or kind is list:
                way.append(segment)
                if kind is dict:
                    for name in value:
                        if _has_lone_surrogate(name):
                            yield (*at, *way[1:], name), _lone_surrogate("the member name holds a lone surrogate", name)
                stack.append(iter(value.items() if kind is dict else enumerate(value)))
                break
            if kind is RefusedPlace:
                yield (*at, *[*way, segment][1:]), value
            elif kind is str and _has_lone_surrogate(value):
                yield (*at, *[*way, segment][1:]), _lone_surrogate("the string holds a lone surrogate", value)
        else:
            stack.pop()
            if way:
                way.pop()


def _lone_surrogate(detail: str, text: str) -> RefusedPlace:
    return RefusedPlace(reason=Reason.LONE_SURROGATE, detail=detail, value=text)


def wrong_type(expected: str, value: Any, *at: str | int) -> Refusal:
    """Return the refusal of ``value``, which stands at ``at`` where ``expected`` should stand.

    ``expected`` is the beginning of the sentence, for example ``"signatures must be an object"``.
    """
    if type(value) is RefusedPlace:
        return Refusal(value.reason, value.detail, *at)
    kind = _KINDS.get(type(value), f"a Python {type(value).__name__}")
    return Refusal(Reason.WRONG_TYPE, f"{expected}, not {kind}", *at)


def object_in(tree: Any, what: str, *at: str | int) -> dict[str, Any]:
    """Return ``tree``, which stands at ``at`` and must be an object. ``what`` it is begins the sentence if it is none.

    Raises:
        Refusal: it is none.
    """
    if type(tree) is not dict:
        raise wrong_type(f"{what} must be an object", tree, *at)
    return tree


_KINDS: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def raise_refused(tree: Any, error: Callable[..., E2EKeysError], at: Segments = ()) -> None:
    """Raise ``error`` for the first refused place in ``tree``, if there is one."""
    for place, reason, detail in refused_places(tree, at):
        raise error(reason, detail, path=json_pointer(place))


def _has_lone_surrogate(text: str) -> bool:
    return not text.isascii() and text != printable(text)
