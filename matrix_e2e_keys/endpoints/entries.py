"""Entries of maps that hold many people's data: each is read, set aside and written for itself.

Facts:

* An entry that is not well formed becomes a :class:`~matrix_e2e_keys.Rejection` in its place, and the entries beside
  it are none the worse.
* A rejected entry is written as it was received, so that it is refused again. Where canonical JSON cannot carry it (a
  duplicate member, a fraction), ``null`` stands in its place: what was refused must not come out as something that
  is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from matrix_e2e_keys.endpoints.members import Check, frozen_map, items, json_value
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.identifiers import is_user_id
from matrix_e2e_keys.json_trees import JsonObject, thaw, wrong_type
from matrix_e2e_keys.models.cross_signing import CrossSigningKey, read_cross_signing_keys
from matrix_e2e_keys.models.device_keys import DeviceKeys, read_device_keys
from matrix_e2e_keys.models.one_time_keys import read_one_time_key
from matrix_e2e_keys.outcome import Rejection, rejected
from matrix_e2e_keys.signing.signed_json import SignedJson, new_signed_json, read_signed_objects

__all__ = [
    "EntryBatch",
    "Read",
    "list_member",
    "malformed_members",
    "not_a_user_id",
    "or_rejection",
    "raw_of",
    "read_cross_signing_key",
    "read_device",
    "read_entry",
    "read_member",
    "read_one_time_keys",
    "read_optional",
    "read_signed_object",
    "read_user_ids",
    "read_users",
    "rejected_user_entry",
    "user_entries",
    "write_entries",
    "write_entry",
    "write_malformed",
    "write_members",
    "write_optional",
]

T = TypeVar("T")

Read: TypeAlias = Callable[[Any], T]
"""Makes a value of a tree, or raises :class:`~matrix_e2e_keys.errors.Refusal`."""

_BATCH: Final = 64


# --------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------


def read_entry(read: Read[T], tree: Any, *at: str | int, user: str | None = None, device: str | None = None) -> Any:
    """Return ``read(tree)``; what it refuses becomes the rejection of the entry, which stands at ``at``."""
    try:
        return read(tree)
    except Refusal as refusal:
        return rejected(refusal, tree, at, user_id=user, device_id=device)
    except LocalProtocolError as error:  # from a value that was made of the tree
        where = [name.replace("~1", "/").replace("~0", "~") for name in error.path.split("/")[1:]]
        return rejected(Refusal(error.reason, error.detail, *where), tree, at, user_id=user, device_id=device)


def or_rejection(check: Check[Any]) -> Check[Any]:
    """Return a check that takes a rejection too, wherever ``check`` takes an entry."""
    return lambda value, *at: value if type(value) is Rejection else check(value, *at)


def read_device(tree: Any) -> DeviceKeys:
    """Read one device keys object."""
    return _only(read_device_keys([tree]))


def not_a_user_id(name: str, *at: str | int) -> Refusal:
    """Return the refusal of a name that stands where a user id should stand."""
    return Refusal(Reason.INVALID_IDENTIFIER, f"{quoted(name)} is not a user id", *at)


def user_entries(check: Check[Any]) -> Check[Mapping[str, Any]]:
    """Return a check for a map from user ids, whose values pass ``check`` or are rejections.

    A name that is no user id belongs to nobody, so only a rejection can stand under it.
    """

    def check_users(value: object, *at: str | int) -> Mapping[str, Any]:
        users: dict[str, Any] = {}
        for name, of_user in frozen_map(value, *at).items():
            if type(of_user) is Rejection:
                users[name] = of_user
            elif is_user_id(name):
                users[name] = check(of_user, *at, name)
            else:
                raise not_a_user_id(name, *at, name)
        return FrozenMap(users)

    return check_users


def read_signed_object(tree: Any) -> SignedJson:
    """Read any signed object."""
    return new_signed_json(_only(read_signed_objects([tree])))


def read_cross_signing_key(tree: Any) -> CrossSigningKey:
    """Read one cross-signing key."""
    return _only(read_cross_signing_keys([tree]))


def _only(outcomes: Sequence[T | Refusal]) -> T:
    (outcome,) = outcomes
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


def read_optional(
    read: Read[T], tree: dict[str, Any], name: str, *above: str | int, null_is_absent: bool = False
) -> Any:
    """Read the member ``name`` of an object, ``None`` if it is not there.

    Args:
        read: makes a value of the member.
        tree: the object.
        name: the member.
        above: where the object stands.
        null_is_absent: whether ``null`` means that it is not there. Otherwise it is refused.
    """
    if name not in tree or (null_is_absent and tree[name] is None):
        return None
    return read_entry(read, tree[name], *above, name)


def read_member(
    tree: dict[str, Any], name: str, read: Callable[[dict[str, Any], str], T], malformed: list[Rejection]
) -> T | dict[str, Any]:
    """Read a member that is a map of entries. What is not even a map is ``malformed``, and counts as empty."""
    value = tree.get(name, {})
    if type(value) is dict:
        return read(value, name)
    malformed.append(rejected(wrong_type(f"{name} must be an object", value), value, (name,)))
    return {}


def read_users(value: dict[str, Any], read: Callable[..., Any], *at: str | int) -> dict[str, Any]:
    """Read a map from user ids, which stands at ``at``, with ``read(tree, user=user_id)``.

    One entry costs nothing but itself.
    """
    users: dict[str, Any] = {}
    for user, tree in value.items():
        if is_user_id(user):
            users[user] = read_entry(partial(read, user=user), tree, *at, user, user=user)
        else:
            users[user] = rejected(not_a_user_id(user), tree, (*at, user), user_id=user)
    return users


def read_one_time_keys(tree: dict[str, Any], *at: str, user: str | None = None, device: str | None = None) -> Any:
    """Read a map from key ids to one-time or fallback keys, which stands at ``at``."""
    return {
        key_id: read_entry(
            partial(read_one_time_key, key_id),
            value,
            *at,
            key_id,
            user=user,
            device=device,
        )
        for key_id, value in tree.items()
    }


class EntryBatch:
    """Entries that wait to be read: many at once for speed, not so many that the processor's cache cannot hold them."""

    def __init__(self, read: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        self._read = read
        self._waiting: list[tuple[dict[str, Any], tuple[str, ...], str, Any]] = []

    def add(self, into: dict[str, Any], trees: dict[str, Any], *at: str) -> None:
        """Take over entries that stand at ``at``. What they are will be found in ``into``, under the same names."""
        self._waiting += [(into, at, name, tree) for name, tree in trees.items()]
        if len(self._waiting) >= _BATCH:
            self.read()

    def read(self) -> None:
        """Read what waits."""
        for start in range(0, len(self._waiting), 2 * _BATCH):
            part = self._waiting[start : start + 2 * _BATCH]
            outcomes = self._read([tree for _, _, _, tree in part])
            for (into, at, name, tree), outcome in zip(part, outcomes, strict=True):
                into[name] = rejected_user_entry(outcome, tree, *at, name) if isinstance(outcome, Refusal) else outcome
        self._waiting.clear()


def rejected_user_entry(refusal: Refusal, tree: Any, *at: str) -> Rejection:
    """Return the rejection of the entry ``tree``, which stands at ``at``: map, user id, device id."""
    return rejected(
        refusal,
        tree,
        at,
        user_id=at[1] if len(at) > 1 else None,
        device_id=at[2] if len(at) > 2 else None,
    )


def list_member(value: Any, name: str, malformed: list[Rejection]) -> list[Any]:
    """Return a member that is a list. What is none is ``malformed``, and counts as empty."""
    if type(value) is list:
        return value
    malformed.append(rejected(wrong_type(f"{name} must be an array", value), value, (name,)))
    return []


def read_user_ids(tree: dict[str, Any], name: str, malformed: list[Rejection]) -> tuple[str, ...]:
    """Read a list of user ids, none if it is not there. An entry that is no user id is ``malformed``."""
    users: list[str] = []
    for place, item in enumerate(list_member(tree.get(name, []), name, malformed)):
        if is_user_id(item):
            users.append(item)
        else:
            refusal = not_a_user_id(item) if type(item) is str else wrong_type("a user id must be a string", item)
            malformed.append(rejected(refusal, item, (name, place)))
    return tuple(users)


# --------------------------------------------------------------------------------------------------------------
# Writing
# --------------------------------------------------------------------------------------------------------------

_NOT_CANONICAL: Final = frozenset(
    {
        Reason.DUPLICATE_MEMBER,
        Reason.NOT_AN_INTEGER,
        Reason.INTEGER_OUT_OF_RANGE,
        Reason.TOO_MANY_DIGITS,
        Reason.NEGATIVE_ZERO,
        Reason.LONE_SURROGATE,
        Reason.NOT_A_JSON_VALUE,
        Reason.TOO_DEEP,
    }
)


def write_entry(entry: Any, *, refused: Any = None) -> Any:
    """Return an entry as JSON: a model, a rejection, or plain JSON.

    ``refused`` is what to write for a rejection that cannot be written, if ``null`` would be taken for "not there".
    """
    if type(entry) is not Rejection:
        return entry.to_json() if hasattr(entry, "to_json") else thaw(entry)
    if entry.reason in _NOT_CANONICAL:
        return refused
    try:
        return json_value(entry.raw)
    except Refusal:  # made by hand
        return refused


def write_entries(entries: Any) -> Any:
    """Return a map of entries, or of maps of entries, as JSON."""
    if isinstance(entries, Mapping):
        return {name: write_entries(entry) for name, entry in entries.items()}
    return write_entry(entries)


def raw_of(entries: Any) -> Any:
    """Return a map of entries, or one of them, as it was received or as it would be sent, rejections included."""
    if isinstance(entries, Mapping):
        return {name: raw_of(entry) for name, entry in entries.items()}
    return entries.raw if isinstance(entries, Rejection) else entries.to_json()


def write_members(body: JsonObject, message: object, *names: str) -> JsonObject:
    """Put the maps of entries called ``names`` into ``body``; what is malformed stands where it was received."""
    for name in names:
        body[name] = write_entries(getattr(message, name))
    return write_malformed(body, getattr(message, "malformed", ()))


def write_optional(body: JsonObject, message: object, *names: str, refused: Any = None) -> JsonObject:
    """Put those entries called ``names`` into ``body`` that are there; for ``refused``, see :func:`write_entry`."""
    for name in names:
        entry = getattr(message, name)
        if entry is not None:
            body[name] = write_entry(entry, refused=refused)
    return body


def write_malformed(body: JsonObject, malformed: Sequence[Rejection]) -> JsonObject:
    """Put back into ``body`` what was malformed: whole members, and entries of lists."""
    of_lists: dict[str, dict[int, Rejection]] = {}
    for rejection in malformed:
        _, name, *index = rejection.path.split("/")
        if index:
            of_lists.setdefault(name, {})[int(index[0])] = rejection
        else:
            body[name] = write_entry(rejection)
    for name, rejections in of_lists.items():
        good: Any = iter(body[name])  # type: ignore[arg-type]  # a list is there
        body[name] = [
            write_entry(rejections[place]) if place in rejections else next(good)
            for place in range(len(body[name]) + len(rejections))  # type: ignore[arg-type]
        ]
    return body


def malformed_members(
    message: object, *names: str, lists: Sequence[str] = (), fields: Mapping[str, str] = FrozenMap({})
) -> Callable[..., tuple[Rejection, ...]]:
    """Return a check for what was malformed in ``message``, to be made after all others.

    Members called ``names`` may be, which are empty then; and entries of those that are ``lists``. Those of one list
    stand in the order of the list, so that each finds its place again. ``fields`` tells what a member is called in
    the message, if not by its name.
    """

    def check(value: object, *at: str | int) -> tuple[Rejection, ...]:
        kept = items(value, *at)
        seen: dict[str, set[int]] = {}
        for place, rejection in enumerate(kept):
            if type(rejection) is not Rejection:
                raise wrong_type("what is malformed is named by rejections", rejection, *at, place)
            member = _MEMBER.fullmatch(rejection.path) if type(rejection.path) is str else None
            name, index = ("", None) if member is None else member.groups()
            indices = seen.setdefault(name, set())
            is_known = name in (names if index is None else lists)
            if index is None:
                is_free = not indices and not getattr(message, fields.get(name, name), ())
            else:
                is_free = indices.isdisjoint((-1, int(index)))
            if not is_known or not is_free:
                raise Refusal(Reason.INVALID_VALUE, f"{quoted(rejection.path)} is not the path of a member", *at, place)
            indices.add(-1 if index is None else int(index))
        for name, indices in seen.items():
            if indices != {-1} and max(indices) >= len(getattr(message, name)) + len(indices):
                raise Refusal(Reason.INVALID_VALUE, f"there are not so many entries in {name}", *at)
        return tuple(sorted(kept, key=_index))

    return check


_MEMBER: Final = re.compile(r"/([a-z_]+)(?:/([0-9]{1,9}))?")


def _index(rejection: Rejection) -> int:
    index = rejection.path.split("/")[2:]
    return int(index[0]) if index else -1
