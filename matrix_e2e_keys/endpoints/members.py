"""Members of requests and answers: what may stand in a field of one, checked and copied when the value is made.

Facts:

* The same checks serve a value that our caller builds and one that is decoded. Each takes what is to stand in a field
  and its place, and returns what will stand there, or raises :class:`~matrix_e2e_keys.errors.Refusal`. Who is to
  blame is decided above (:func:`~matrix_e2e_keys.errors.raised_as`).
* What a field holds cannot be changed by the caller afterwards.
* Members that the specification does not name are kept in ``extra``, and can never stand for one that it does name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, printable, quoted, raised_as
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import parse_device_id, parse_server_name, parse_user_id, read_identifier
from matrix_e2e_keys.json_trees import FULL_STACK, WIDEST_LIMITS, refused_places, snapshot, thaw, wrong_type

__all__ = [
    "Check",
    "JsonView",
    "boolean",
    "called",
    "count",
    "counts",
    "device_id",
    "extra_beside",
    "frozen_map",
    "instances",
    "integer",
    "items",
    "json_object",
    "json_value",
    "list_of",
    "map_of",
    "opaque_string",
    "optional",
    "path_segment",
    "server_name",
    "settle",
    "strings",
    "user_id",
    "user_ids",
]

T = TypeVar("T")

# Less than what can be read at most: what is passed on stands a few levels deep in a message.
_MAX_DEPTH: Final = WIDEST_LIMITS.max_depth - 16
_TOO_LONG: Final = 10**WIDEST_LIMITS.max_digits  # to be read again by whatever limits

Check: TypeAlias = Callable[..., T]
"""``check(value, *at)``: what will stand at ``at``, or a refusal."""


def settle(message: object, /, **checks: Check[Any]) -> None:
    """Check the fields of a frozen value that is being made, and put in what the checks return.

    Raises:
        LocalProtocolError: a field holds what it cannot hold; the path begins with its name on the wire.
    """
    with raised_as(LocalProtocolError):
        for name, check in checks.items():
            object.__setattr__(message, name, check(getattr(message, name), name))


def called(wire_name: str, check: Check[T]) -> Check[T]:
    """Return ``check`` for a field that has another name on the wire, which is the one to name in a refusal."""
    return lambda value, *at: check(value, wire_name, *at[1:])


def optional(check: Check[T]) -> Check[T | None]:
    """Return a check that also takes ``None``: the member is not there."""
    return lambda value, *at: None if value is None else check(value, *at)


# --------------------------------------------------------------------------------------------------------------
# Single values
# --------------------------------------------------------------------------------------------------------------


def opaque_string(value: object, *at: str | int) -> str:
    """Take any string that can be written in UTF-8."""
    if type(value) is not str:
        raise wrong_type(f"{at[-1]} must be a string", value, *at)
    if not value.isascii() and value != printable(value):
        raise Refusal(Reason.LONE_SURROGATE, "the string holds a lone surrogate", *at)
    return value


def path_segment(value: object, *at: str | int) -> str:
    """Take a string that can be a segment of a path. ``.`` and ``..`` are resolved on the way, encoded or not."""
    text = opaque_string(value, *at)
    if text in ("", ".", ".."):
        raise Refusal(Reason.INVALID_IDENTIFIER, f"{quoted(text)} cannot be a segment of a path", *at)
    return text


def user_id(value: object, *at: str | int) -> str:
    """Take a user id."""
    return read_identifier(parse_user_id, value, *at)


def server_name(value: object, *at: str | int) -> str:
    """Take a server name."""
    return read_identifier(parse_server_name, value, *at)


def device_id(value: object, *at: str | int) -> str:
    """Take a device id."""
    return read_identifier(parse_device_id, value, *at)


def boolean(value: object, *at: str | int) -> bool:
    """Take a boolean."""
    if type(value) is not bool:
        raise wrong_type(f"{at[-1]} must be a boolean", value, *at)
    return value


def integer(value: object, *at: str | int) -> int:
    """Take an integer that canonical JSON can represent."""
    if type(value) is not int:
        raise wrong_type(f"{at[-1]} must be an integer", value, *at)
    for place, reason, detail in refused_places(snapshot(value), at):
        raise Refusal(reason, detail, *place)
    return value


def count(value: object, *at: str | int) -> int:
    """Take an integer that is not negative: a number of things, or of milliseconds."""
    number = integer(value, *at)
    if number < 0:
        raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} cannot be negative", *at)
    return number


# --------------------------------------------------------------------------------------------------------------
# JSON that is passed on
# --------------------------------------------------------------------------------------------------------------


def json_object(value: object, *at: str | int) -> Mapping[str, Any]:
    """Take an object of any JSON values, as a copy. Fractions and lone surrogates in it are passed on."""
    mapping = frozen_map(value, *at)
    return JsonView({name: json_value(member, *at, name) for name, member in mapping.items()})


class JsonView(Mapping[str, Any]):
    """A JSON object that nobody can change: what one takes out of it is a copy.

    Its ``repr`` shows which members it has, and nothing of what they hold: that may be a secret.
    """

    __slots__ = ("_members",)

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def __getitem__(self, name: str) -> Any:
        return thaw(self._members[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __eq__(self, other: object) -> bool:
        return self._members == (other._members if type(other) is JsonView else other)

    __hash__ = None  # type: ignore[assignment]  # as of every mapping

    def __repr__(self) -> str:
        return f"<JsonView with the members {list(self._members)}>"


def json_value(value: object, *at: str | int) -> Any:
    """Take any JSON value, as a copy."""
    try:
        return _passed_on(value, _MAX_DEPTH)
    except Refusal as refusal:
        raise Refusal(refusal.reason, refusal.detail, *at, *refusal.at) from None
    except RecursionError:
        raise Refusal(Reason.TOO_DEEP, FULL_STACK, *at) from None


def _passed_on(value: Any, room: int) -> Any:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return value
    if kind is dict or kind is list:
        if room == 0:
            raise Refusal(Reason.TOO_DEEP, "nested too deeply, or the value contains itself")
        at: Any = None
        copied: Any = {} if kind is dict else []
        try:
            if kind is list:
                for item in value:
                    at = len(copied)
                    copied.append(_passed_on(item, room - 1))
            else:
                for name, member in value.items():
                    at = name if type(name) is str else f"<{type(name).__name__}>"
                    if at is not name:
                        raise Refusal(
                            Reason.NOT_A_JSON_VALUE, f"a member name is of type {type(name).__name__}, not str"
                        )
                    copied[name] = _passed_on(member, room - 1)
        except Refusal as refusal:
            raise Refusal(refusal.reason, refusal.detail, at, *refusal.at) from None
        return copied
    if kind is float and math.isfinite(value):
        return value
    if kind is int:
        if abs(value) >= _TOO_LONG:
            raise Refusal(Reason.INTEGER_OUT_OF_RANGE, "the integer is too long to be written")
        return value
    if kind is float:
        raise Refusal(Reason.NOT_AN_INTEGER, f"{value!r} is not a JSON number")
    raise Refusal(Reason.NOT_A_JSON_VALUE, f"a Python value of type {kind.__name__} is not a JSON value")


def extra_beside(*known: str) -> Check[Mapping[str, Any]]:
    """Return a check for the members that stand beside the ``known`` ones."""

    def check(value: object, *at: str | int) -> Mapping[str, Any]:
        members = json_object(value, *at)
        for name in known:
            if name in members:
                raise Refusal(
                    Reason.INVALID_VALUE, f"{quoted(name)} is a member that the specification names", *at, name
                )
        return members

    return check


# --------------------------------------------------------------------------------------------------------------
# Several
# --------------------------------------------------------------------------------------------------------------


def strings(value: object, *at: str | int) -> tuple[str, ...]:
    """Take several strings."""
    return list_of(opaque_string)(value, *at)


def user_ids(value: object, *at: str | int) -> tuple[str, ...]:
    """Take several user ids."""
    return list_of(user_id)(value, *at)


def items(value: object, *at: str | int) -> tuple[Any, ...]:
    """Take several things, of whatever kind. One string is not several."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise wrong_type(f"{at[-1]} must be an array", value, *at)
    return tuple(value)


def frozen_map(value: object, *at: str | int) -> Mapping[str, Any]:
    """Take a mapping with names, as a read-only copy."""
    if not isinstance(value, Mapping):
        raise wrong_type(f"{at[-1]} must be an object", value, *at)
    copied = dict(value)
    for name in copied:
        if type(name) is not str:
            raise wrong_type(f"a name in {at[-1]} must be a string", name, *at)
    return FrozenMap(copied)


def list_of(check: Check[T]) -> Check[tuple[T, ...]]:
    """Return a check for several things, each of which passes ``check``."""
    return lambda value, *at: tuple(check(item, *at, place) for place, item in enumerate(items(value, *at)))


def map_of(check: Check[T]) -> Check[Mapping[str, T]]:
    """Return a check for a mapping whose values pass ``check``."""
    return lambda value, *at: FrozenMap(
        {name: check(member, *at, name) for name, member in frozen_map(value, *at).items()}
    )


counts: Final[Check[Mapping[str, int]]] = map_of(count)


def instances(*kinds: type) -> Check[Any]:
    """Return a check for values of certain types of this library."""
    names = " or ".join(kind.__name__ for kind in kinds)

    def check(value: object, *at: str | int) -> object:
        if type(value) not in kinds:
            raise wrong_type(f"{at[-1]} must be {names}", value, *at)
        return value

    return check
