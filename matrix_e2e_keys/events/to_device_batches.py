"""Messages to many devices, in requests of a size that servers take.

Specification: client-server API, "Send-to-Device messaging".

Facts:

* A request holds one message for each of several devices; what is for one device is never split.
* A server takes a transaction id once. Requests that are made anew from the same messages, whatever their order, are
  the same requests with the same ids, so that sending them again does no harm.
* A whole ``m.room.encrypted`` is its content, and the type ``m.room.encrypted`` beside it: here as the event type, in a
  room in the path of the request. To devices it is encrypted with Olm. A key that stood there in the open, all servers
  on the way would read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.endpoints.client_server.send_to_device import SendToDeviceRequest
from matrix_e2e_keys.endpoints.members import device_id, frozen_map, integer, path_segment, user_id
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, quoted, raised_as
from matrix_e2e_keys.events.contents import EventContent, callers_own
from matrix_e2e_keys.events.encrypted import ENCRYPTED, OlmEncryptedContent, read_encrypted_content
from matrix_e2e_keys.events.to_device_types import ENCRYPTED_ONLY

__all__ = ["MAX_MESSAGES", "to_device_requests"]

MAX_MESSAGES: Final = 250
"""How many messages a request holds by default."""


def to_device_requests(
    *,
    event_type: str,
    messages: Mapping[str, Mapping[str, EventContent | Mapping[str, Any]]],
    txn_id: str,
    max_messages: int = MAX_MESSAGES,
) -> tuple[SendToDeviceRequest, ...]:
    """Return the requests that send messages to devices.

    For the same content to many, use ``{user_id: dict.fromkeys(device_ids, content)}``.

    Args:
        event_type: the type of all the messages.
        messages: user id to device id, or ``*`` for all devices of the user, to content. A content is one of this
            library, or an object that canonical JSON can represent. That of an ``m.room.encrypted`` is encrypted with
            Olm, or with an algorithm that this library does not know.
        txn_id: an id that is not used for anything else, other messages included. The transaction id of each request
            is this one, a dot, and its number from 0 on.
        max_messages: how many messages a request holds at most.

    Returns:
        The requests, in the order of user ids and device ids. None if there are no messages.

    Raises:
        LocalProtocolError: an argument has the wrong type, or is malformed; a content is of another type of events, or
            of an ``m.room.encrypted`` that is not one to send to devices; or the type is one of those that hold secrets
            and are only sent inside of an ``m.room.encrypted``.
    """
    with raised_as(LocalProtocolError):
        if path_segment(event_type, "event_type") in ENCRYPTED_ONLY:
            raise Refusal(Reason.NOT_ENCRYPTED, f"{event_type} holds secrets, and must be encrypted", "event_type")
        path_segment(txn_id, "txn_id")
        if integer(max_messages, "max_messages") < 1:
            raise Refusal(Reason.INVALID_VALUE, "a request holds at least 1 message", "max_messages")
        listed = sorted(_listed(event_type, messages), key=lambda message: message[:2])
    batches = [listed[start : start + max_messages] for start in range(0, len(listed), max_messages)]
    return tuple(
        [
            SendToDeviceRequest(event_type=event_type, txn_id=f"{txn_id}.{number}", messages=_by_user(batch))
            for number, batch in enumerate(batches)
        ]
    )


_Message = tuple[str, str, Mapping[str, Any]]


def _listed(event_type: str, messages: object) -> list[_Message]:
    """Return the messages, each with the user and the device it is for."""
    listed: list[_Message] = []
    with callers_own("messages"):
        for user, devices in frozen_map(messages, "messages").items():
            user_id(user, "messages", user)
            for device, content in frozen_map(devices, "messages", user).items():
                device_id(device, "messages", user, device)
                listed.append((user, device, _written(event_type, content, "messages", user, device)))
    return listed


def _written(event_type: str, content: object, *at: str) -> Mapping[str, Any]:
    """Return a content as a mapping of plain values."""
    if isinstance(content, EventContent):
        if content.event_type != event_type:
            detail = f"this is the content of {quoted(content.event_type)}, not of {quoted(event_type)}"
            raise Refusal(Reason.INVALID_VALUE, detail, *at)
        written: Mapping[str, Any] = content.to_json()
    else:
        written = frozen_map(content, *at)
    if event_type == ENCRYPTED and type(content) is not OlmEncryptedContent:
        _check_encrypted(written, *at)
    return written


def _check_encrypted(content: Mapping[str, Any], *at: str) -> None:
    """Check that a content is one of an ``m.room.encrypted`` that is sent to devices."""
    if content.get("algorithm") == MEGOLM_V1:
        detail = f"what is encrypted with {MEGOLM_V1} is sent to rooms, and not to devices"
        raise Refusal(Reason.WRONG_ALGORITHM, detail, *at, "algorithm")
    with raised_as(LocalProtocolError, *at):
        read_encrypted_content(dict(content))


def _by_user(messages: list[_Message]) -> dict[str, dict[str, Mapping[str, Any]]]:
    users: dict[str, dict[str, Mapping[str, Any]]] = {}
    for user, device, content in messages:
        users.setdefault(user, {})[device] = content
    return users
