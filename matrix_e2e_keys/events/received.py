"""Events as a server delivers them: messages to this device, and events of a room.

Specification: client-server API, "Syncing", "Send-to-Device messaging", "Room event format".

Facts:

* Everything here is the server's word, the ``sender`` as well. Who sent an event, only what comes out of its encryption
  can tell.
* One malformed event costs none of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import field, frozen

from matrix_e2e_keys.endpoints.entries import read_entry
from matrix_e2e_keys.endpoints.members import count, opaque_string, optional, user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError, raised_as
from matrix_e2e_keys.events.contents import Member, Record, json_member, some_string, tree_of
from matrix_e2e_keys.events.contents import room_id as _room_id
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import object_in, wrong_type
from matrix_e2e_keys.outcome import Rejection

__all__ = ["RoomEvent", "ToDeviceEvent", "ToDeviceEvents", "event_id"]

_AN_EVENT: Final = "an event"
_TO_DEVICE_MEMBER: Final = "to_device"
_DOCUMENTS: Final = (bytes, bytearray, str)

_MAX_EVENT_ID_BYTES: Final = 255


def event_id(value: object, *at: str | int) -> str:
    """Internal: take an event id. It "MUST NOT exceed 255 bytes"; nothing else is asked of it."""
    text = some_string(value, *at)
    if len(text.encode()) > _MAX_EVENT_ID_BYTES:
        raise Refusal(Reason.INVALID_IDENTIFIER, f"{at[-1]} has at most {_MAX_EVENT_ID_BYTES} bytes", *at)
    return text


_TO_DEVICE: Final[Mapping[str, Member]] = {
    "type": Member(some_string),
    "sender": Member(user_id),
    "content": json_member(),
}

_ROOM: Final[Mapping[str, Member]] = {
    **_TO_DEVICE,
    "room_id": Member(_room_id),
    "event_id": Member(event_id),
    "origin_server_ts": Member(count),
    "state_key": Member(opaque_string, is_required=False),
}


@frozen(kw_only=True)
class ToDeviceEvent(Record):
    """A message to this device.

    Attributes:
        type: the type of the event.
        sender: who sent it, according to the servers.
        content: the content, as it was received.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = _TO_DEVICE

    type: str
    sender: str
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read an event. The value given is not changed.

        Raises:
            RemoteProtocolError: it is malformed. ``path`` points into the event.
        """
        with raised_as(RemoteProtocolError):
            return cls.read_tree(tree_of(obj), _AN_EVENT)


def _read_to_device(tree: Any) -> ToDeviceEvent:
    return ToDeviceEvent.read_tree(tree, _AN_EVENT)


@frozen(kw_only=True)
class ToDeviceEvents:
    """The messages to this device in one answer of ``/sync``.

    Attributes:
        accepted: the events, in the order of the answer.
        rejected: what is no event, in the order of the answer.
    """

    accepted: tuple[ToDeviceEvent, ...] = ()
    rejected: tuple[Rejection, ...] = ()

    @classmethod
    def from_json(cls, obj: object) -> Self:
        """Read ``to_device`` of an answer of ``/sync``, or of the sliding sync extension: an object with ``events``.

        Raises:
            RemoteProtocolError: it is no such object. An event that is none stands among the rejected.
        """
        return cls._of(tree_of(obj))

    @classmethod
    def from_sync_v2(cls, body: object) -> Self:
        """Read the answer to ``GET /_matrix/client/v3/sync``. Other members than ``to_device`` are not looked at.

        Args:
            body: the whole answer, parsed by whatever parser the caller has, or its bytes.

        Raises:
            RemoteProtocolError: it, or ``to_device``, is malformed. An event that is none stands among the rejected.
        """
        return cls._found(body, _TO_DEVICE_MEMBER)

    @classmethod
    def from_sliding_sync(cls, body: object) -> Self:
        """Read the answer to a sliding sync: what stands at ``/extensions/to_device``, if anything does.

        Args:
            body: the whole answer, parsed by whatever parser the caller has, or its bytes.

        Raises:
            RemoteProtocolError: it, or something on the way, is malformed. An event that is none stands among the
                rejected.
        """
        return cls._found(body, "extensions", _TO_DEVICE_MEMBER)

    @classmethod
    def _found(cls, body: object, *way: str) -> Self:
        place: Any = parse_frame(body) if type(body) in _DOCUMENTS else body
        with raised_as(RemoteProtocolError):
            for level, name in enumerate(way):
                if name not in object_in(place, way[level - 1] if level else "the answer", *way[:level]):
                    return cls()
                place = place[name]
        return cls._of(tree_of(place), *way)

    @classmethod
    def _of(cls, tree: Any, *above: str) -> Self:
        with raised_as(RemoteProtocolError, *above):
            listed = object_in(tree, _TO_DEVICE_MEMBER).get("events", [])
            if type(listed) is not list:
                raise wrong_type("events must be an array", listed, "events")
        read = [read_entry(_read_to_device, tree, *above, "events", place) for place, tree in enumerate(listed)]
        return cls(
            accepted=tuple([event for event in read if type(event) is ToDeviceEvent]),
            rejected=tuple([event for event in read if type(event) is Rejection]),
        )


@frozen(kw_only=True)
class RoomEvent(Record):
    """An event of a room.

    Attributes:
        type: the type of the event.
        sender: who sent it, according to the servers.
        content: the content, as it was received.
        room_id: the room, according to the server that delivered it.
        event_id: the id of the event, of at most 255 bytes.
        origin_server_ts: when it was sent, in milliseconds since the epoch, according to the sender's server.
        state_key: what makes it a state event; ``None`` if it is none.
        extra: everything else, ``unsigned`` included.
    """

    members: ClassVar[Mapping[str, Member]] = _ROOM

    type: str
    sender: str
    content: Mapping[str, Any] = field(repr=False)
    room_id: str
    event_id: str
    origin_server_ts: int
    state_key: str | None = None

    @classmethod
    def from_json(cls, obj: object, *, room_id: str | None = None) -> Self:
        """Read an event. The value given is not changed.

        Args:
            obj: the event.
            room_id: the room under which it stood in an answer of ``/sync``, where events do not name their room.

        Raises:
            RemoteProtocolError: it is malformed, or names another room. ``path`` points into the event.
            LocalProtocolError: ``room_id`` is no room id.
        """
        with raised_as(LocalProtocolError):
            optional(_room_id)(room_id, "room_id")
        with raised_as(RemoteProtocolError):
            tree = object_in(tree_of(obj), _AN_EVENT)
            if room_id is not None:
                tree.setdefault("room_id", room_id)
            if tree.get("state_key", "") is None:
                raise wrong_type("state_key must be a string", None, "state_key")
            event = cls.read_tree(tree, _AN_EVENT)
            if room_id is not None and event.room_id != room_id:
                raise Refusal(Reason.ROOM_MISMATCH, "the event names another room than it stands in", "room_id")
        return event
