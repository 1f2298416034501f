"""What ``/sync`` says about keys: whose devices changed, and which of one's own keys the server still holds.

Specification: client-server API, "End-to-end encryption", "Extensions to /sync"; MSC4186 for sliding sync.

Facts:

* "Nothing said" and "none" are different things, and the two kinds of sync say them differently. In ``/sync`` an absent
  ``device_one_time_keys_count`` means that there are none: "If the count for all algorithms is zero, servers MAY omit
  this parameter entirely". In sliding sync it means that nothing is said about them. A client that confuses the two
  uploads keys for ever, or never again. So there are two readings, and no default.
* An absent ``device_unused_fallback_key_types`` says nothing: older servers do not know fallback keys.
* Mind the spelling: ``device_one_time_keys_count`` here, ``one_time_key_counts`` in the answer to ``/keys/upload``.

Deviation: where a member has the wrong type, nothing is said by it, and it stands among the malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.client_server.keys_changes import read_lists, settle_lists, write_lists
from matrix_e2e_keys.endpoints.entries import malformed_members, write_malformed
from matrix_e2e_keys.endpoints.members import (
    Check,
    counts,
    instances,
    optional,
    settle,
    strings,
)
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, raised_as
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import JsonObject, object_in, snapshot
from matrix_e2e_keys.outcome import Rejection, rejected

__all__ = ["DeviceLists", "SyncKeys"]

_DEVICE_LISTS: Final = "device_lists"
_COUNTS: Final = "device_one_time_keys_count"
_TYPES: Final = "device_unused_fallback_key_types"
_MEMBERS: Final = (_DEVICE_LISTS, _COUNTS, _TYPES)
_FIELDS: Final = {_COUNTS: "one_time_key_counts", _TYPES: "unused_fallback_key_types"}


@frozen(kw_only=True)
class DeviceLists:
    """Whose devices changed.

    Attributes:
        changed: users whose devices or identity may have changed, or with whom one shares a room since.
        left: users with whom one shares no encrypted room any more.
        extra: members that the specification does not name.
        malformed: lists that are none, and entries of lists that are no user ids; paths begin at this object.
    """

    changed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict)
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle_lists(self)

    def to_json(self) -> JsonObject:
        """Return the object as it stands in ``/sync``."""
        return write_lists(self)


def _read_device_lists(tree: Any, name: str) -> DeviceLists:
    return DeviceLists(**read_lists(object_in(tree, name)))


_READ: Final[Mapping[str, Check[Any]]] = {_DEVICE_LISTS: _read_device_lists, _COUNTS: counts, _TYPES: strings}


@frozen(kw_only=True)
class SyncKeys:
    """What one answer to ``/sync`` says about keys. ``None`` means that it says nothing.

    Attributes:
        device_lists: whose devices changed.
        one_time_key_counts: algorithm to number of unclaimed one-time keys. An algorithm that is not listed has none.
        unused_fallback_key_types: the algorithms whose fallback key has not been used; of all others it has been used,
            or there is none.
        malformed: members of the wrong type.
    """

    device_lists: DeviceLists | None = None
    one_time_key_counts: Mapping[str, int] | None = None
    unused_fallback_key_types: tuple[str, ...] | None = None
    malformed: tuple[Rejection, ...] = ()

    def __attrs_post_init__(self) -> None:
        settle(
            self,
            device_lists=optional(instances(DeviceLists)),
            one_time_key_counts=optional(counts),
            unused_fallback_key_types=optional(strings),
            malformed=malformed_members(self, *_MEMBERS, fields=_FIELDS),
        )

    @classmethod
    def from_sync_v2(cls, body: object) -> Self:
        """Read the answer to ``GET /_matrix/client/v3/sync``. Other members than those of keys are not looked at.

        Args:
            body: the whole answer, parsed by whatever parser the caller has, or its bytes.

        Raises:
            RemoteProtocolError: it is not an object.
        """
        tree = _parsed(body)
        with raised_as(RemoteProtocolError):
            members = _members_of(tree)
        members.setdefault(_COUNTS, {})
        return cls._of(members)

    @classmethod
    def from_sliding_sync(cls, body: object) -> Self:
        """Read the answer to a sliding sync: what stands at ``/extensions/e2ee``, if anything does.

        Args:
            body: the whole answer, parsed by whatever parser the caller has, or its bytes.

        Raises:
            RemoteProtocolError: it, or something on the way, is not an object.
        """
        place: Any = _parsed(body)
        way: list[str] = []
        for name in ("extensions", "e2ee"):
            with raised_as(RemoteProtocolError, *way):
                object_in(place, "the answer")
            if name not in place:
                return cls()
            place = place[name]
            way.append(name)
        with raised_as(RemoteProtocolError, *way):
            return cls._of(_members_of(place))

    @classmethod
    def _of(cls, members: dict[str, Any]) -> Self:
        values: dict[str, Any] = {}
        malformed: list[Rejection] = []
        for name, tree in members.items():
            try:
                values[name] = _READ[name](tree, name)
            except Refusal as refusal:
                malformed.append(rejected(Refusal(refusal.reason, refusal.detail), tree, (name,)))
        return cls(
            device_lists=values.get(_DEVICE_LISTS),
            one_time_key_counts=values.get(_COUNTS),
            unused_fallback_key_types=values.get(_TYPES),
            malformed=tuple(malformed),
        )

    def to_sync_v2(self) -> JsonObject:
        """Return the members to put into an answer to ``/sync``.

        Raises:
            LocalProtocolError: the counts are ``None``. In ``/sync``, nothing said means that there are none.
        """
        body = self.to_sliding_sync()
        if _COUNTS not in body:
            raise LocalProtocolError(
                Reason.INVALID_VALUE, "/sync cannot leave the counts unsaid", path="/one_time_key_counts"
            )
        return body

    def to_sliding_sync(self) -> JsonObject:
        """Return the object to put at ``/extensions/e2ee`` in an answer to a sliding sync."""
        body: JsonObject = {}
        if self.device_lists is not None:
            body[_DEVICE_LISTS] = self.device_lists.to_json()
        if self.one_time_key_counts is not None:
            body[_COUNTS] = dict(self.one_time_key_counts)
        if self.unused_fallback_key_types is not None:
            body[_TYPES] = list(self.unused_fallback_key_types)
        return write_malformed(body, self.malformed)


def _parsed(body: object) -> Any:
    return parse_frame(body) if isinstance(body, bytes | bytearray | str) else body


def _members_of(body: object) -> dict[str, Any]:
    members = object_in(body, "the answer")
    return {name: snapshot(members[name]) for name in _MEMBERS if name in members}
