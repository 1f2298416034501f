"""Members that several contents have: what is not in all of them, and not in one of them alone.

Specification: client-server API, "Messaging Algorithms".

Facts:

* A content that names another algorithm than Megolm is well formed, and not looked into: what its other members mean,
  the algorithm would say.
* Enumerations are plain strings on the wire.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.endpoints.members import Check, instances, items, list_of
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.events.contents import Member, Record, bytes_of, callers_own, some_string
from matrix_e2e_keys.json_trees import wrong_type

__all__ = [
    "MEGOLM_ALGORITHM",
    "bytes_member",
    "enum_member",
    "plain_text",
    "record_member",
    "several",
]


def _megolm(value: object, *at: str | int) -> str:
    text = some_string(value, *at)
    if text != MEGOLM_V1:
        raise Refusal(Reason.UNSUPPORTED_ALGORITHM, f"the algorithm {quoted(text)} is not known", *at)
    return text


# The reading checks it as well, so that nothing that stands behind it is read first.
MEGOLM_ALGORITHM: Final = Member(_megolm, _megolm)
"""The ``algorithm`` of what is about a Megolm session."""


def record_member(kind: type[Record], *, is_required: bool = True) -> Member:
    """Return the member that holds an object with members of its own."""

    def read(tree: Any, *at: str | int) -> Any:
        with raised_as(LocalProtocolError, *at):
            return kind.read_tree(tree, str(at[-1]))

    return Member(instances(kind), read, lambda record: record.to_json(), is_required)


def enum_member(kind: type[enum.StrEnum]) -> Member:
    """Return the member that holds one of the texts of an enumeration."""

    def read(tree: Any, *at: str | int) -> Any:
        text = some_string(tree, *at)
        if text not in {known.value for known in kind}:
            raise Refusal(Reason.INVALID_VALUE, f"{quoted(text)} cannot be the {at[-1]}", *at)
        return kind(text)

    return Member(instances(kind), read, lambda known: known.value)


def bytes_member(
    size: int,
    *,
    decode: Callable[..., bytes] = bytes_of,
    encode: Callable[[bytes], str] = unpadded_base64.encode,
) -> Member:
    """Return the member that holds a certain number of bytes in base64. Neither is quoted in any error.

    Args:
        size: how many bytes.
        decode: ``decode(text, what, *at)``: the bytes, or a refusal.
        encode: the other way round.
    """

    def check(value: object, *at: str | int) -> bytes:
        if type(value) is not bytes:
            raise wrong_type(f"{at[-1]} must be bytes", value, *at)
        if len(value) != size:
            raise Refusal(Reason.WRONG_LENGTH, f"{at[-1]} has {size} bytes, not {len(value)}", *at)
        return value

    return Member(check, lambda tree, *at: decode(tree, str(at[-1]), *at), encode)


def several(*kinds: type) -> Check[tuple[Any, ...]]:
    """Return a check for several values of certain types of this library, in any iterable of our caller."""
    check = list_of(instances(*kinds))

    def check_copy(value: object, *at: str | int) -> tuple[Any, ...]:
        with callers_own(*at):
            copied = items(value, *at)
        return check(copied, *at)

    return check_copy


def plain_text(value: object) -> object:
    """Return the text that a member of an enumeration stands for; anything else as it is."""
    return value.value if issubclass(type(value), enum.StrEnum) else value  # type: ignore[attr-defined]
