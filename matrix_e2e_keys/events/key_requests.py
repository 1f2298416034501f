"""Asking one's other devices for a session key: ``m.room_key_request``.

Specification: client-server API, "Key requests", ``m.room_key_request``.

Facts:

* It is sent in the open. Who asks, only the device keys of ``requesting_device_id`` can tell, and the answer is
  encrypted for that device: "Clients should only send keys requested by the verified devices of the same user".
* ``sender_key`` "must not be read from". It is written for older clients, and called ``untrusted_sender_key`` here.
* What stands beside a cancellation does not matter, however malformed: a cancellation is not missed for it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Self

from attrs import frozen

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.endpoints.members import device_id, opaque_string
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal
from matrix_e2e_keys.events.contents import EventContent, Member, Record, room_id, some_string
from matrix_e2e_keys.events.shared_members import MEGOLM_ALGORITHM, enum_member, record_member
from matrix_e2e_keys.json_trees import object_in
from matrix_e2e_keys.keys import Curve25519PublicKey

__all__ = [
    "REQUEST_MEMBERS",
    "RequestAction",
    "RequestedKeyInfo",
    "RoomKeyRequestContent",
    "check_requested",
    "without_requested",
]


class RequestAction(enum.StrEnum):
    """What a request for a key or a secret does."""

    REQUEST = "request"
    """It asks."""
    CANCELLATION = "request_cancellation"
    """It takes back what was asked under the same ``request_id``."""


REQUEST_MEMBERS: Final[Mapping[str, Member]] = {
    "action": enum_member(RequestAction),
    "requesting_device_id": Member(device_id),
    "request_id": Member(some_string),
}
"""The members of every request."""


def without_requested(tree: Any, what: str, name: str) -> dict[str, Any]:
    """Return a request without the member that says what is asked for, if it is a cancellation.

    Raises:
        Refusal: it is no object.
    """
    members = object_in(tree, what)
    if members.get("action") == RequestAction.CANCELLATION.value:
        return {member: value for member, value in members.items() if member != name}
    return members


def check_requested(action: RequestAction, requested: object, name: str) -> None:
    """Check that a request says what it asks for, and that a cancellation does not.

    Raises:
        Refusal: it is otherwise.
    """
    if action is RequestAction.REQUEST and requested is None:
        raise Refusal(Reason.MISSING_MEMBER, f"there is no {name}, which a request needs")
    if action is RequestAction.CANCELLATION and requested is not None:
        raise Refusal(Reason.INVALID_VALUE, f"a cancellation has no {name}", name)


@frozen(kw_only=True)
class RequestedKeyInfo(Record):
    """Which key is asked for.

    Attributes:
        algorithm: ``m.megolm.v1.aes-sha2``.
        room_id: the room where the key is used.
        session_id: the session.
        untrusted_sender_key: what whoever asks says is the Olm identity key of the device that made the session.
            Deprecated: no session is looked up by it.
        extra: members that the specification does not name.
    """

    members: ClassVar[Mapping[str, Member]] = {
        "algorithm": MEGOLM_ALGORITHM,
        "room_id": Member(room_id),
        "session_id": Member(some_string),
        "sender_key": Member(opaque_string, is_required=False, attribute="untrusted_sender_key"),
    }

    algorithm: str = MEGOLM_V1
    room_id: str
    session_id: str
    untrusted_sender_key: str | None = None


@frozen(kw_only=True)
class RoomKeyRequestContent(EventContent):
    """The content of ``m.room_key_request``.

    Attributes:
        action: whether it asks, or takes back.
        requesting_device_id: the device that asks, according to the content.
        request_id: the name of the request. It is unique together with the device.
        body: which key is asked for; ``None`` in a cancellation.
        extra: members that the specification does not name.
    """

    event_type: ClassVar[str] = "m.room_key_request"
    members: ClassVar[Mapping[str, Member]] = {
        **REQUEST_MEMBERS,
        "body": record_member(RequestedKeyInfo, is_required=False),
    }

    action: RequestAction
    requesting_device_id: str
    request_id: str
    body: RequestedKeyInfo | None = None

    def _check_whole(self) -> None:
        # "Required when action is request."
        check_requested(self.action, self.body, "body")

    @classmethod
    def read_tree(cls, tree: Any, what: str) -> Self:
        """Internal: as with every record, but a cancellation is read without its body."""
        return super().read_tree(without_requested(tree, what, "body"), what)

    @classmethod
    def build(
        cls,
        *,
        request_id: str,
        requesting_device_id: str,
        room_id: str,
        session_id: str,
        sender_key: Curve25519PublicKey | None = None,
    ) -> Self:
        """Build a request.

        Args:
            request_id: a random text. Use it again if the same key is asked for again.
            requesting_device_id: this device.
            room_id: the room.
            session_id: the session.
            sender_key: ``sender_key`` of the event that cannot be read, if it has one. Deprecated.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        if sender_key is not None and type(sender_key) is not Curve25519PublicKey:
            raise LocalProtocolError(Reason.WRONG_TYPE, "a Curve25519PublicKey is needed", path="/sender_key")
        body = RequestedKeyInfo(
            room_id=room_id,
            session_id=session_id,
            untrusted_sender_key=None if sender_key is None else sender_key.to_base64(),
        )
        return cls(
            action=RequestAction.REQUEST,
            requesting_device_id=requesting_device_id,
            request_id=request_id,
            body=body,
        )

    @classmethod
    def build_cancellation(cls, *, request_id: str, requesting_device_id: str) -> Self:
        """Build what takes a request back.

        Args:
            request_id: that of the request.
            requesting_device_id: this device.

        Raises:
            LocalProtocolError: an argument has the wrong type, or is malformed.
        """
        return cls(action=RequestAction.CANCELLATION, requesting_device_id=requesting_device_id, request_id=request_id)
