"""Which events there are, how each is read, and which are never taken in the open."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest

from events.megolm_samples import CURVE, ROOM, forwarded, room_key, withheld
from events.odd_values import ODD, only_own_errors, refusal
from events.test_encrypted_files import file
from events.test_key_requests import request as key_request
from events.test_secrets import request as secret_request
from events.test_secrets import sent
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.key_bundles import RoomKeyBundleContent
from matrix_e2e_keys.events.key_requests import RoomKeyRequestContent
from matrix_e2e_keys.events.received import ToDeviceEvent
from matrix_e2e_keys.events.room_keys import ForwardedRoomKeyContent, RoomKeyContent
from matrix_e2e_keys.events.secrets import DummyContent, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.events.to_device_types import (
    ENCRYPTED_ONLY,
    PLAINTEXT_ALLOWED,
    TO_DEVICE_CONTENTS,
    read_plaintext_content,
    read_to_device_content,
)
from matrix_e2e_keys.events.withheld import RoomKeyWithheldContent

R = Reason

# type: class of the content, such a content, whether it is taken in the open
TYPES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "m.room_key": (RoomKeyContent, room_key(), False),
    "m.forwarded_room_key": (ForwardedRoomKeyContent, forwarded(), False),
    "m.room_key_bundle": (RoomKeyBundleContent, {"room_id": ROOM, "file": file()}, False),
    "m.secret.send": (SecretSendContent, sent(), False),
    "m.room_key.withheld": (RoomKeyWithheldContent, withheld(), True),
    "org.matrix.room_key.withheld": (RoomKeyWithheldContent, withheld(), True),
    "m.room_key_request": (RoomKeyRequestContent, key_request(), True),
    "m.secret.request": (SecretRequestContent, secret_request(), True),
    "m.dummy": (DummyContent, {}, True),
}
UNKNOWN = ["m.key.verification.start", "m.room.encrypted", "M.ROOM_KEY", "m.room_key ", "", "org.matrix.room_key"]


def test_these_and_no_others() -> None:
    assert {name: kind for name, (kind, _, _) in TYPES.items()} == TO_DEVICE_CONTENTS
    assert {name for name, (_, _, is_open) in TYPES.items() if is_open} == PLAINTEXT_ALLOWED
    assert {name for name, (_, _, is_open) in TYPES.items() if not is_open} == ENCRYPTED_ONLY


@pytest.mark.parametrize("event_type", TYPES)
def test_what_was_encrypted_is_read(event_type: str) -> None:
    kind, obj, _ = TYPES[event_type]
    content = read_to_device_content(event_type, obj)
    assert type(content) is kind
    assert content == kind.from_json(obj)


@pytest.mark.parametrize("event_type", TYPES)
def test_what_carries_a_key_or_a_secret_is_refused_in_the_open(event_type: str) -> None:
    kind, obj, is_open = TYPES[event_type]
    if is_open:
        assert read_plaintext_content(event_type, obj) == kind.from_json(obj)
    else:
        for content in (obj, {}, None):
            read = partial(read_plaintext_content, event_type, content)
            assert refusal(read, RemoteProtocolError) == ("", R.NOT_ENCRYPTED)


@pytest.mark.parametrize("read", [read_to_device_content, read_plaintext_content])
@pytest.mark.parametrize("event_type", UNKNOWN)
def test_a_type_that_is_not_known_is_nothing(read: Callable[[str, object], object], event_type: str) -> None:
    for content in ({}, None, room_key()):
        assert read(event_type, content) is None


@pytest.mark.parametrize("event_type", PLAINTEXT_ALLOWED)
def test_the_content_of_an_event_is_read_as_it_is(event_type: str) -> None:
    kind, obj, _ = TYPES[event_type]
    event = ToDeviceEvent.from_json({"type": event_type, "sender": "@a:b.example", "content": obj})
    assert read_plaintext_content(event.type, event.content) == kind.from_json(obj)


@pytest.mark.parametrize("read", [read_to_device_content, read_plaintext_content])
def test_whatever_is_handed_in(read: Callable[[Any, Any], object]) -> None:
    texts = [value for value in ODD if type(value) is str]
    assert only_own_errors(lambda value: read(value, {})) == len(ODD) - len(texts)
    assert refusal(lambda: read(b"m.dummy", {}), LocalProtocolError) == ("/event_type", R.WRONG_TYPE)
    for event_type in TYPES:
        only_own_errors(lambda value, event_type=event_type: read(event_type, value))


def test_the_fault_of_a_content_is_the_senders() -> None:
    make = lambda: read_to_device_content("m.room_key", room_key(room_id=1))  # noqa: E731
    assert refusal(make, RemoteProtocolError) == ("/room_id", R.WRONG_TYPE)
    assert refusal(lambda: read_plaintext_content("m.dummy", []), RemoteProtocolError) == ("", R.WRONG_TYPE)


def test_what_is_built_is_read() -> None:
    built = RoomKeyWithheldContent.build(code="m.no_olm", sender_key=CURVE)
    assert read_plaintext_content("m.room_key.withheld", built.to_json()) == built


def test_nobody_changes_the_table() -> None:
    with pytest.raises(TypeError):
        cast("Any", TO_DEVICE_CONTENTS)["m.dummy"] = RoomKeyContent
