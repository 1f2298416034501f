"""Contents of events: what they have in common, whoever builds or receives them.

Facts:

* A content is a table of members. The same table reads one, checks one that our caller builds, and writes it.
* Members that the specification does not name are kept in ``extra``, and can never stand for one that it does name.
* What somebody else wrote is passed on as it is: fractions, large integers and lone surrogates may stand in the content
  of a message. What two readers could read differently (a member twice) or not at all (``NaN``, nested too deeply) may
  not. Where a key or an identifier is to be read, everything is strict.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, Final, Self, TypeVar

from attrs import field, frozen

from matrix_e2e_keys import unpadded_base64
from matrix_e2e_keys.endpoints.members import (
    Check,
    JsonView,
    called,
    extra_beside,
    frozen_map,
    json_object,
    opaque_string,
    optional,
    settle,
)
from matrix_e2e_keys.errors import (
    E2EKeysError,
    LocalProtocolError,
    Reason,
    Refusal,
    RemoteProtocolError,
    quoted,
    raised_as,
)
from matrix_e2e_keys.identifiers import parse_room_id, read_identifier
from matrix_e2e_keys.json_trees import JsonObject, object_in, refused_nodes, snapshot, thaw, wrong_type
from matrix_e2e_keys.keys import Curve25519PublicKey, Ed25519PublicKey

__all__ = [
    "EventContent",
    "Member",
    "Record",
    "bytes_of",
    "callers_own",
    "curve25519_member",
    "ed25519_member",
    "json_member",
    "mapping_of",
    "one_of",
    "passed_on",
    "read_members",
    "room_id",
    "secret_string",
    "some_string",
    "tree_of",
]

T = TypeVar("T")

_PASSED_ON: Final = frozenset(
    {Reason.NOT_AN_INTEGER, Reason.INTEGER_OUT_OF_RANGE, Reason.NEGATIVE_ZERO, Reason.LONE_SURROGATE}
)


def passed_on(tree: Any, *at: str | int) -> Any:
    """Return what stands in an event as plain values, whose meaning is somebody else's.

    Raises:
        Refusal: two readers could read it differently, or not at all.
    """
    for place, refused in refused_nodes(tree, at):
        # Of NaN, of what is infinite and of what is endless, only the text is left.
        is_nothing = type(refused.value) is str and refused.reason is not Reason.LONE_SURROGATE
        if refused.reason not in _PASSED_ON or is_nothing:
            raise Refusal(refused.reason, refused.detail, *place)
    return thaw(tree)


def tree_of(obj: object) -> Any:
    """Return a copy of what is to be read: parsed JSON, or the ``content`` of an event that was read before."""
    return snapshot(dict(obj) if type(obj) is JsonView else obj)


@contextlib.contextmanager
def callers_own(*at: str | int) -> Generator[None, None, None]:
    """Internal: what a method of our caller's own object raises inside is a refusal of the place ``at``."""
    try:
        yield
    except (Refusal, E2EKeysError):
        raise
    except Exception as error:  # noqa: BLE001 - a class that we do not know
        detail = f"{at[-1]} cannot be read: it raises a {type(error).__name__}"
        raise Refusal(Reason.INVALID_VALUE, detail, *at) from None


def mapping_of(check: Check[T]) -> Check[T]:
    """Return ``check`` for a mapping of any class, which is copied first."""

    def check_copy(value: object, *at: str | int) -> T:
        with callers_own(*at):
            copied = frozen_map(value, *at)
        return check(copied, *at)

    return check_copy


def _same(value: Any) -> Any:
    return value


@frozen
class Member:
    """A member of a content.

    Attributes:
        check: what may stand in the attribute.
        read: makes the attribute of what stands on the wire; it is checked afterwards.
        write: the other way round.
        is_required: whether it has to be there. Otherwise it may be ``None``.
        attribute: the name of the attribute, if it is not that of the member.
    """

    check: Check[Any]
    read: Check[Any] = passed_on
    write: Callable[[Any], Any] = _same
    is_required: bool = True
    attribute: str | None = None

    def settled(self, name: str) -> Check[Any]:
        """Return the check of the attribute; a refusal names the member ``name``."""
        return called(name, self.check if self.is_required else optional(self.check))


@frozen(kw_only=True)
class Record:
    """An object with members that the specification names, and others.

    Attributes:
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]]
    """The members that the specification names."""

    extra: Mapping[str, Any] = field(factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            **{member.attribute or name: member.settled(name) for name, member in self.members.items()},
            extra=mapping_of(extra_beside(*self.members)),
        )
        with raised_as(LocalProtocolError):
            self._check_whole()

    def _check_whole(self) -> None:
        """Check what concerns more than one member.

        Raises:
            Refusal: they do not go together.
        """

    @classmethod
    def read_tree(cls, tree: Any, what: str) -> Self:
        """Internal: read such an object from a tree. ``what`` it is begins the sentence if it is none.

        Raises:
            Refusal, LocalProtocolError: it is malformed.
        """
        return cls(**read_members(object_in(tree, what), cls.members))

    def to_json(self) -> JsonObject:
        """Return the object as plain values that the caller may change."""
        written: dict[str, Any] = thaw(dict(self.extra))
        for name, member in self.members.items():
            value = getattr(self, member.attribute or name)
            if value is not None:
                written[name] = member.write(value)
        return written


@frozen(kw_only=True)
class EventContent(Record):
    """The content of an event.

    Attributes:
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str]
    """The type of the events that have such a content."""

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read a content. The value given is not changed.

        Args:
            obj: parsed JSON, or the ``content`` of an event.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the content.
        """
        with raised_as(RemoteProtocolError):
            return cls.read_tree(tree_of(obj), f"the content of {cls.event_type}")


def read_members(tree: dict[str, Any], members: Mapping[str, Member], *at: str | int) -> dict[str, Any]:
    """Return the attributes that the members of an object stand for, and the rest of them as ``extra``.

    Raises:
        Refusal: a member is missing or malformed.
    """
    values: dict[str, Any] = {}
    for name, member in members.items():
        if name in tree:
            values[member.attribute or name] = member.read(tree[name], *at, name)
        elif member.is_required:
            raise Refusal(Reason.MISSING_MEMBER, f"there is no {name}", *at)
    values["extra"] = passed_on({name: value for name, value in tree.items() if name not in members}, *at)
    return values


# --------------------------------------------------------------------------------------------------------------
# What stands in members
# --------------------------------------------------------------------------------------------------------------


def some_string(value: object, *at: str | int) -> str:
    """Take a string that is not empty."""
    text = opaque_string(value, *at)
    if not text:
        raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} cannot be empty", *at)
    return text


def secret_string(value: object, *at: str | int) -> str:
    """Take a string that is a secret, and not to be quoted in any error: base64, or anything in ASCII, not empty."""
    if type(value) is not str:
        raise wrong_type(f"{at[-1]} must be a string", value, *at)
    if not value or not value.isascii():
        raise Refusal(Reason.INVALID_VALUE, f"{at[-1]} must be a text in ASCII, and not empty", *at)
    return value


def room_id(value: object, *at: str | int) -> str:
    """Take a room id."""
    return read_identifier(parse_room_id, value, *at)


def one_of(*texts: str) -> Check[str]:
    """Return a check for one of some texts."""

    def check(value: object, *at: str | int) -> str:
        text = opaque_string(value, *at)
        if text not in texts:
            raise Refusal(Reason.INVALID_VALUE, f"{quoted(text)} cannot be the {at[-1]}", *at)
        return text

    return check


def _key_member(kind: type[Any], is_required: bool) -> Member:
    def check(value: object, *at: str | int) -> Any:
        if type(value) is not kind:
            raise wrong_type(f"{at[-1]} must be of type {kind.__name__}", value, *at)
        return value

    def read(tree: Any, *at: str | int) -> Any:
        if type(tree) is not str:
            raise wrong_type(f"{at[-1]} must be a string", tree, *at)
        try:
            return kind.from_base64(tree)
        except RemoteProtocolError as error:
            raise Refusal(error.reason, error.detail, *at) from None

    return Member(check, read, lambda key: key.to_base64(), is_required)


def curve25519_member(*, is_required: bool = True) -> Member:
    """Return the member that holds a Curve25519 key in base64."""
    return _key_member(Curve25519PublicKey, is_required)


def ed25519_member(*, is_required: bool = True) -> Member:
    """Return the member that holds an Ed25519 key in base64."""
    return _key_member(Ed25519PublicKey, is_required)


def json_member(*, is_required: bool = True) -> Member:
    """Return the member that holds an object whose meaning is somebody else's."""
    return Member(mapping_of(json_object), write=lambda value: thaw(dict(value)), is_required=is_required)


def bytes_of(text: object, what: str, *at: str | int) -> bytes:
    """Return the bytes that a base64 text stands for; the text is not quoted.

    Raises:
        Refusal: it is none, or empty.
    """
    if type(text) is not str:
        raise wrong_type(f"{what} must be a string", text, *at)
    raw = unpadded_base64.decode(text)
    if not raw:
        raise Refusal(Reason.INVALID_BASE64, f"{what} is not unpadded base64, or empty", *at)
    return raw
