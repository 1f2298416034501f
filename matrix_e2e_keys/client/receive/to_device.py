"""The messages to this device in one answer of ``/sync``, sorted: what to decrypt, what to read, what to pass on.

Specification: client-server API, "Send-to-Device messaging", "m.olm.v1.curve25519-aes-sha2".

Facts:

* What came in the open is the word of the servers on the way. What carries a key or a secret is not taken from them.
* What came out of a ratchet has no typed content before :func:`~matrix_e2e_keys.check_olm_event` has accepted it.
* Events that this library knows nothing of are passed on untouched: those of verification, those of applications. They
  are ``other`` if they came in the open, and read as ``None`` if they were inside of an Olm message.
* An event that is refused costs none of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NoReturn, TypeVar

from attrs import define, evolve, field, frozen

from matrix_e2e_keys.client.receive.handed_in import own_identity_key
from matrix_e2e_keys.client.receive.olm_events import open_olm_event
from matrix_e2e_keys.client.receive.olm_judgments import DecryptedOlmEvent
from matrix_e2e_keys.endpoints.members import items
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError, json_pointer, raised_as
from matrix_e2e_keys.events.contents import callers_own
from matrix_e2e_keys.events.encrypted import ENCRYPTED, OlmEncryptedContent
from matrix_e2e_keys.events.received import ToDeviceEvent, ToDeviceEvents
from matrix_e2e_keys.events.to_device_types import ToDeviceContent, read_plaintext_content, read_to_device_content
from matrix_e2e_keys.models.device_keys import VerifiedDevice
from matrix_e2e_keys.outcome import Rejection

__all__ = ["EncryptedToDevice", "PlainToDevice", "SortedToDevice", "read_inside", "sort_to_device"]

T = TypeVar("T")

_EVENTS: Final = "events"


@frozen(kw_only=True)
class EncryptedToDevice:
    """An event to decrypt.

    Attributes:
        event: the event, for :func:`~matrix_e2e_keys.check_olm_event`.
        content: its content. ``content.my_ciphertext(own.curve25519_key)`` is what to decrypt, with the sessions of
            ``content.sender_key``.
    """

    event: ToDeviceEvent
    content: OlmEncryptedContent


@frozen(kw_only=True)
class PlainToDevice:
    """An event that came in the open, and may.

    Attributes:
        event: the event. Nobody but the servers on the way says who sent it.
        content: its content.
    """

    event: ToDeviceEvent
    content: ToDeviceContent


@frozen(kw_only=True)
class SortedToDevice:
    """The events of one answer, each in one place, and in the order of the answer there.

    Attributes:
        encrypted: what to decrypt.
        plain: what came in the open and is known.
        other: what came in the open and is not known.
        rejected: what is malformed; what is not encrypted and should be; and what is encrypted for others, or in a way
            that is not allowed. The path is one into ``to_device``, and begins with ``/events/<n>``, also if a whole
            answer was read.
    """

    encrypted: tuple[EncryptedToDevice, ...]
    plain: tuple[PlainToDevice, ...]
    other: tuple[ToDeviceEvent, ...]
    rejected: tuple[Rejection, ...]

    def __bool__(self) -> NoReturn:
        raise LocalProtocolError(
            Reason.INVALID_VALUE,
            "a SortedToDevice has no truth value: ask for .encrypted, .plain, .other or .rejected",
        )


def sort_to_device(events: ToDeviceEvents | Iterable[ToDeviceEvent], *, own: VerifiedDevice) -> SortedToDevice:
    """Sort the messages to this device.

    Args:
        events: what was read of an answer; or several events, whose numbers are then their places among these.
        own: this device.

    Returns:
        The events, each in one place. What was rejected when the answer was read stands among the rejected.

    Raises:
        LocalProtocolError: an argument has the wrong type. No event raises.
    """
    own_identity_key(own)
    sorter = _Sorter(own=own)
    for place, event in _placed(events):
        if isinstance(event, Rejection):
            sorter.rejected.append(event)
        else:
            sorter.sort(place, event)
    return SortedToDevice(
        encrypted=tuple(sorter.encrypted),
        plain=tuple(sorter.plain),
        other=tuple(sorter.other),
        rejected=tuple(sorter.rejected),
    )


def read_inside(event: DecryptedOlmEvent) -> ToDeviceContent | None:
    """Return the content of an event that came out of an Olm message and passed every check.

    Whether its sender may say such a thing is not asked here: that depends on what it is.

    Args:
        event: the event.

    Returns:
        The content; ``None`` if the type of the event is not known.

    Raises:
        RemoteProtocolError: the content is malformed, or about an algorithm that is not known. ``path`` points into
            the content.
        LocalProtocolError: the argument has the wrong type.
    """
    if type(event) is not DecryptedOlmEvent:
        raise LocalProtocolError(Reason.WRONG_TYPE, "a DecryptedOlmEvent is needed", path="/event")
    return read_to_device_content(event.type, event.content)


@define(kw_only=True)
class _Sorter:
    """What was sorted so far."""

    own: VerifiedDevice
    encrypted: list[EncryptedToDevice] = field(factory=list)
    plain: list[PlainToDevice] = field(factory=list)
    other: list[ToDeviceEvent] = field(factory=list)
    rejected: list[Rejection] = field(factory=list)

    def sort(self, place: int, event: ToDeviceEvent) -> None:
        """Put an event where it belongs."""
        try:
            if event.type == ENCRYPTED:
                opened = open_olm_event(event, own=self.own)
                self.encrypted.append(EncryptedToDevice(event=event, content=opened))
                return
            content = read_plaintext_content(event.type, event.content)
        except RemoteProtocolError as error:
            member = "type" if error.reason is Reason.NOT_ENCRYPTED else "content"
            path = json_pointer([_EVENTS, place, member]) + error.path
            self.rejected.append(Rejection(path=path, reason=error.reason, detail=error.detail, raw=event.to_json()))
            return
        if content is None:
            self.other.append(event)
        else:
            self.plain.append(PlainToDevice(event=event, content=content))


# In a whole answer, ``to_device`` stands somewhere.
_PLACE: Final = re.compile(r"(?:(?:/extensions)?/to_device)?(/events/(0|[1-9][0-9]{0,8})(?:/.*)?)", re.DOTALL)


def _placed(events: object) -> Iterator[tuple[int, ToDeviceEvent | Rejection]]:
    """Yield each event, or what stands in its place, with its number in the answer."""
    if type(events) is not ToDeviceEvents:
        yield from enumerate(_checked(events, ToDeviceEvent))
        return
    rejected: dict[int, list[Rejection]] = {}
    for rejection in _checked(events.rejected, Rejection):
        place = _PLACE.fullmatch(rejection.path) if type(rejection.path) is str else None
        if place is None:
            detail = "what was rejected is not an event among those of an answer"
            raise LocalProtocolError(Reason.INVALID_VALUE, detail, path="/events/rejected")
        rejected.setdefault(int(place[2]), []).append(evolve(rejection, path=place[1]))
    number = 0
    for event in _checked(events.accepted, ToDeviceEvent):
        while number in rejected:
            yield from [(number, rejection) for rejection in rejected.pop(number)]
            number += 1
        yield number, event
        number += 1
    for number, left in sorted(rejected.items()):
        yield from [(number, rejection) for rejection in left]


def _checked(several: object, kind: type[T]) -> tuple[T, ...]:
    with raised_as(LocalProtocolError), callers_own(_EVENTS):
        listed = items(several, _EVENTS)
    for place, item in enumerate(listed):
        if type(item) is not kind:
            detail = f"a {kind.__name__} is needed"
            raise LocalProtocolError(Reason.WRONG_TYPE, detail, path=json_pointer([_EVENTS, place]))
    return listed
