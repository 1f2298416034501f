"""EDUs as values: what each holds, what is set aside, and that every path leads to the place it names."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_pointers import at_pointer, changed, check_pointer, rejections_in
from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    DeviceListUpdate,
    DirectToDevice,
    E2EKeysError,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SigningKeyUpdate,
    UnknownEdu,
    read_edu,
    read_edus,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")


# --------------------------------------------------------------------------------------------------------------
# Tools: whether a path leads to what it names
# --------------------------------------------------------------------------------------------------------------


def test_the_tools_can_fail() -> None:
    document = {"a/b~c": [{"x": None}]}
    assert at_pointer(document, "") is document
    assert at_pointer(document, "/a~1b~0c/0/x") is None
    for path in ("/a", "/a~1b~0c/1", "/a~1b~0c/0/y", "/a~1b~0c/x", "/a~1b~0c/0/x/deeper"):
        with pytest.raises(LookupError):
            at_pointer(document, path)
        with pytest.raises(pytest.fail.Exception):
            check_pointer(document, Rejection(path=path, reason=Reason.WRONG_TYPE, detail=""))
    with pytest.raises(AssertionError):
        check_pointer(document, Rejection(path="/a~1b~0c/0/x", reason=Reason.MISSING_MEMBER, detail=""))
    check_pointer(document, Rejection(path="/a~1b~0c/0/y", reason=Reason.MISSING_MEMBER, detail=""))
    one, two = (Rejection(path=path, reason=Reason.WRONG_TYPE, detail="") for path in ("/1", "/2"))
    update = DeviceListUpdate(user_id="@a:b", device_id="D", stream_id=1, keys=two)
    assert list(rejections_in([{"x": one}, (update,), "text"])) == [one, two]


# --------------------------------------------------------------------------------------------------------------
# Good ones
# --------------------------------------------------------------------------------------------------------------


def device_list_update(**content: Any) -> dict[str, Any]:
    return {
        "edu_type": "m.device_list_update",
        "content": {"user_id": ALICE.user_id, "device_id": "PHONE", "stream_id": 6, **content},
    }


def signing_key_update(**content: Any) -> dict[str, Any]:
    return {"edu_type": "m.signing_key_update", "content": {"user_id": ALICE.user_id, **content}}


def direct_to_device(**content: Any) -> dict[str, Any]:
    return {
        "edu_type": "m.direct_to_device",
        "content": {
            "sender": ALICE.user_id,
            "type": "m.room.encrypted",
            "message_id": "m1",
            "messages": {},
            **content,
        },
    }


GOOD: dict[str, tuple[Any, dict[str, Any]]] = {
    "device list update, no more than needed": (
        DeviceListUpdate(user_id=ALICE.user_id, device_id="PHONE", stream_id=6),
        device_list_update(prev_id=[]),
    ),
    "device list update, everything": (
        DeviceListUpdate(
            user_id=ALICE.user_id,
            device_id="PHONE",
            stream_id=6,
            prev_ids=(4, 5),
            device_display_name="Mobile",
            keys=ALICE.device("PHONE"),
            extra={"org.example.hint": 0.5},
            beside={"origin": "a.example"},
        ),
        {
            **device_list_update(
                prev_id=[4, 5],
                device_display_name="Mobile",
                keys=ALICE.device("PHONE").to_json(),
                **{"org.example.hint": 0.5},
            ),
            "origin": "a.example",
        },
    ),
    "device list update, deleted": (
        DeviceListUpdate(user_id=ALICE.user_id, device_id="PHONE", stream_id=7, prev_ids=[6], deleted=True),  # type: ignore[arg-type]
        device_list_update(stream_id=7, prev_id=[6], deleted=True),
    ),
    "signing key update, no more than needed": (SigningKeyUpdate(user_id=ALICE.user_id), signing_key_update()),
    "signing key update, everything": (
        SigningKeyUpdate(
            user_id=ALICE.user_id,
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
            extra={"added": [None]},
            beside={"origin": "a.example"},
        ),
        {
            **signing_key_update(
                master_key=ALICE.master_key.to_json(), self_signing_key=ALICE.self_signing_key.to_json(), added=[None]
            ),
            "origin": "a.example",
        },
    ),
    "direct to device, to nobody": (
        DirectToDevice(sender=ALICE.user_id, event_type="m.room.encrypted", message_id="m1", messages={}),
        direct_to_device(),
    ),
    "direct to device, everything": (
        DirectToDevice(
            sender=ALICE.user_id,
            event_type="m.room.encrypted",
            message_id="m1",
            messages={BOB.user_id: {"*": {"body": "x"}, "a/b": {}}},
            extra={"added": 1},
            beside={"beside": {"x": 1.5}},
        ),
        {
            **direct_to_device(messages={BOB.user_id: {"*": {"body": "x"}, "a/b": {}}}, added=1),
            "beside": {"x": 1.5},
        },
    ),
    "typing": (
        UnknownEdu(edu_type="m.typing", content={"room_id": "!r:a", "typing": True, "f": 1.5}, beside={"n": None}),
        {"edu_type": "m.typing", "content": {"room_id": "!r:a", "typing": True, "f": 1.5}, "n": None},
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_both_directions(case: str) -> None:
    edu, body = GOOD[case]
    assert edu.to_json() == body
    assert read_edu(body) == edu
    assert read_edus([body, body]) == (edu, edu)
    assert edu.edu_type == body["edu_type"]


def test_types_of_what_is_read() -> None:
    device, keys, *_ = read_edus([GOOD["device list update, everything"][1], GOOD["signing key update, everything"][1]])
    assert type(device) is DeviceListUpdate
    assert type(device.keys) is DeviceKeys
    assert type(keys) is SigningKeyUpdate
    assert type(keys.master_key) is type(keys.self_signing_key) is CrossSigningKey
    assert (keys.master_key.usage, keys.self_signing_key.usage) == ("master", "self_signing")
    assert read_edus([]) == ()


def test_what_may_be_missing_in_a_device_list_update() -> None:
    update = read_edu(device_list_update())
    assert type(update) is DeviceListUpdate
    assert (update.prev_ids, update.deleted, update.device_display_name, update.keys) == ((), False, None, None)
    assert (update.extra, update.beside) == ({}, {})
    assert read_edu(device_list_update(deleted=False)) == update
    assert read_edu(device_list_update(prev_id=[])) == update
    assert read_edu(device_list_update(keys=None, device_display_name=None)) == update


def test_null_means_no_key() -> None:
    assert read_edu(signing_key_update(master_key=None, self_signing_key=None)) == SigningKeyUpdate(
        user_id=ALICE.user_id
    )


def test_a_leaked_user_signing_key_is_a_member_nobody_knows() -> None:
    leaked = ALICE.user_signing_key.to_json()
    update = read_edu(signing_key_update(user_signing_key=leaked))
    assert type(update) is SigningKeyUpdate
    assert update.extra == {"user_signing_key": leaked}
    assert not hasattr(update, "user_signing_key")


def test_a_message_id_of_more_than_32_characters_is_read() -> None:
    update = read_edu(direct_to_device(message_id="x" * 33))
    assert type(update) is DirectToDevice
    assert update.message_id == "x" * 33


# --------------------------------------------------------------------------------------------------------------
# Malformed ones
# --------------------------------------------------------------------------------------------------------------


def without(edu: dict[str, Any], name: str) -> dict[str, Any]:
    return {**edu, "content": {other: member for other, member in edu["content"].items() if other != name}}


MALFORMED: dict[str, tuple[Any, str, Reason]] = {
    "null": (None, "", Reason.WRONG_TYPE),
    "array": ([], "", Reason.WRONG_TYPE),
    "string": ("m.typing", "", Reason.WRONG_TYPE),
    "fraction": (1.5, "", Reason.NOT_AN_INTEGER),
    "no edu_type": ({"content": {}}, "/edu_type", Reason.MISSING_MEMBER),
    "edu_type null": ({"edu_type": None, "content": {}}, "/edu_type", Reason.WRONG_TYPE),
    "edu_type number": ({"edu_type": 5, "content": {}}, "/edu_type", Reason.WRONG_TYPE),
    "edu_type surrogate": ({"edu_type": "\ud800", "content": {}}, "/edu_type", Reason.LONE_SURROGATE),
    "no content": ({"edu_type": "m.typing"}, "/content", Reason.MISSING_MEMBER),
    "content null": ({"edu_type": "m.typing", "content": None}, "/content", Reason.WRONG_TYPE),
    "content array": ({"edu_type": "m.signing_key_update", "content": []}, "/content", Reason.WRONG_TYPE),
    "content fraction": ({"edu_type": "m.typing", "content": 0.5}, "/content", Reason.NOT_AN_INTEGER),
    # device lists
    "update, no user_id": (without(device_list_update(), "user_id"), "/content/user_id", Reason.MISSING_MEMBER),
    "update, no device_id": (without(device_list_update(), "device_id"), "/content/device_id", Reason.MISSING_MEMBER),
    "update, no stream_id": (without(device_list_update(), "stream_id"), "/content/stream_id", Reason.MISSING_MEMBER),
    "update, user_id null": (device_list_update(user_id=None), "/content/user_id", Reason.WRONG_TYPE),
    "update, user_id none": (device_list_update(user_id="alice"), "/content/user_id", Reason.INVALID_IDENTIFIER),
    "update, device_id empty": (device_list_update(device_id=""), "/content/device_id", Reason.INVALID_IDENTIFIER),
    "update, device_id number": (device_list_update(device_id=5), "/content/device_id", Reason.WRONG_TYPE),
    "update, stream_id string": (device_list_update(stream_id="6"), "/content/stream_id", Reason.WRONG_TYPE),
    "update, stream_id null": (device_list_update(stream_id=None), "/content/stream_id", Reason.WRONG_TYPE),
    "update, stream_id boolean": (device_list_update(stream_id=True), "/content/stream_id", Reason.WRONG_TYPE),
    "update, stream_id fraction": (device_list_update(stream_id=6.0), "/content/stream_id", Reason.NOT_AN_INTEGER),
    "update, stream_id huge": (
        device_list_update(stream_id=2**53),
        "/content/stream_id",
        Reason.INTEGER_OUT_OF_RANGE,
    ),
    "update, prev_id null": (device_list_update(prev_id=None), "/content/prev_id", Reason.WRONG_TYPE),
    "update, prev_id number": (device_list_update(prev_id=5), "/content/prev_id", Reason.WRONG_TYPE),
    "update, prev_id string": (device_list_update(prev_id="5"), "/content/prev_id", Reason.WRONG_TYPE),
    "update, prev_id object": (device_list_update(prev_id={"5": 5}), "/content/prev_id", Reason.WRONG_TYPE),
    "update, prev_id of strings": (device_list_update(prev_id=[4, "5"]), "/content/prev_id/1", Reason.WRONG_TYPE),
    "update, prev_id of booleans": (device_list_update(prev_id=[True]), "/content/prev_id/0", Reason.WRONG_TYPE),
    "update, prev_id fraction": (device_list_update(prev_id=[0.5]), "/content/prev_id/0", Reason.NOT_AN_INTEGER),
    "update, deleted null": (device_list_update(deleted=None), "/content/deleted", Reason.WRONG_TYPE),
    "update, deleted number": (device_list_update(deleted=1), "/content/deleted", Reason.WRONG_TYPE),
    "update, name number": (
        device_list_update(device_display_name=5),
        "/content/device_display_name",
        Reason.WRONG_TYPE,
    ),
    "update, name surrogate": (
        device_list_update(device_display_name="\udc00"),
        "/content/device_display_name",
        Reason.LONE_SURROGATE,
    ),
    # signing keys
    "keys, no user_id": (without(signing_key_update(), "user_id"), "/content/user_id", Reason.MISSING_MEMBER),
    "keys, user_id none": (signing_key_update(user_id="@a"), "/content/user_id", Reason.INVALID_IDENTIFIER),
    "keys, user_id array": (signing_key_update(user_id=[]), "/content/user_id", Reason.WRONG_TYPE),
    # messages
    "message, no sender": (without(direct_to_device(), "sender"), "/content/sender", Reason.MISSING_MEMBER),
    "message, no type": (without(direct_to_device(), "type"), "/content/type", Reason.MISSING_MEMBER),
    "message, no message_id": (without(direct_to_device(), "message_id"), "/content/message_id", Reason.MISSING_MEMBER),
    "message, no messages": (without(direct_to_device(), "messages"), "/content/messages", Reason.MISSING_MEMBER),
    "message, sender none": (direct_to_device(sender="alice"), "/content/sender", Reason.INVALID_IDENTIFIER),
    "message, type null": (direct_to_device(type=None), "/content/type", Reason.WRONG_TYPE),
    "message, type surrogate": (direct_to_device(type="\ud800"), "/content/type", Reason.LONE_SURROGATE),
    "message, message_id number": (direct_to_device(message_id=1), "/content/message_id", Reason.WRONG_TYPE),
    "message, messages null": (direct_to_device(messages=None), "/content/messages", Reason.WRONG_TYPE),
    "message, messages array": (direct_to_device(messages=[]), "/content/messages", Reason.WRONG_TYPE),
    "message, messages fraction": (direct_to_device(messages=0.5), "/content/messages", Reason.NOT_AN_INTEGER),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    edu, path, reason = MALFORMED[case]
    with pytest.raises(RemoteProtocolError) as caught:
        read_edu(edu)
    assert (caught.value.path, caught.value.reason) == (path, reason)
    errcode = "M_INVALID_PARAM" if reason is Reason.INVALID_IDENTIFIER else "M_BAD_JSON"
    assert (caught.value.errcode, caught.value.http_status) == (errcode, 400)
    check_pointer(edu, caught.value)


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_edu_costs_only_itself(case: str) -> None:
    edu, path, reason = MALFORMED[case]
    edus = [direct_to_device(), edu, {"edu_type": "m.typing", "content": {}}]
    first, set_aside, last = read_edus(edus)
    assert type(first) is DirectToDevice
    assert type(last) is UnknownEdu
    assert type(set_aside) is Rejection
    assert (set_aside.path, set_aside.reason) == (f"/edus/1{path}", reason)
    assert (set_aside.user_id, set_aside.device_id, set_aside.raw) == (None, None, edu)
    check_pointer({"edus": edus}, set_aside)


@pytest.mark.parametrize(
    ("edus", "reason"),
    [
        (None, Reason.WRONG_TYPE),
        ({}, Reason.WRONG_TYPE),
        ("[]", Reason.WRONG_TYPE),
        ((), Reason.NOT_A_JSON_VALUE),
        (1.5, Reason.NOT_AN_INTEGER),
    ],
    ids=repr,
)
def test_what_are_no_edus(edus: Any, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_edus(edus)
    assert (caught.value.path, caught.value.reason) == ("/edus", reason)
    assert (caught.value.errcode, caught.value.http_status) == ("M_BAD_JSON", 400)


def device(**changes: Any) -> dict[str, Any]:
    return {**ALICE.device("PHONE").to_json(), **changes}


def master(**changes: Any) -> dict[str, Any]:
    return {**ALICE.master_key.to_json(), **changes}


# name: the EDU; then, for each rejection in it, path, reason, user id, device id
INNER: dict[str, tuple[dict[str, Any], list[tuple[str, Reason, str | None, str | None]]]] = {
    "keys a string": (device_list_update(keys="x"), [("/content/keys", Reason.WRONG_TYPE, None, None)]),
    "keys empty": (device_list_update(keys={}), [("/content/keys/user_id", Reason.MISSING_MEMBER, None, None)]),
    "keys of nobody": (
        device_list_update(keys=device(user_id="x")),
        [("/content/keys/user_id", Reason.INVALID_IDENTIFIER, None, None)],
    ),
    "keys with a fraction": (
        device_list_update(keys=device(added={"a/b": [1.5]})),
        [("/content/keys/added/a~1b/0", Reason.NOT_AN_INTEGER, None, None)],
    ),
    "keys of another device": (
        device_list_update(keys=device(keys={"ed25519:LAPTOP": "x"})),
        [("/content/keys/keys/ed25519:LAPTOP", Reason.KEY_ID_NOT_DEVICE, None, None)],
    ),
    "master key array": (
        signing_key_update(master_key=[], self_signing_key=ALICE.self_signing_key.to_json()),
        [("/content/master_key", Reason.WRONG_TYPE, None, None)],
    ),
    "both keys": (
        signing_key_update(master_key=master(usage=[]), self_signing_key={"user_id": ALICE.user_id, "usage": ["x"]}),
        [
            ("/content/master_key/usage", Reason.WRONG_USAGE, None, None),
            ("/content/self_signing_key/keys", Reason.MISSING_MEMBER, None, None),
        ],
    ),
    "message null": (
        direct_to_device(messages={BOB.user_id: {"PHONE": None, "LAPTOP": {}}}),
        [("/content/messages/@bob:b.example/PHONE", Reason.WRONG_TYPE, BOB.user_id, "PHONE")],
    ),
    "message to an odd device": (
        direct_to_device(messages={BOB.user_id: {"a/b~c": "x"}}),
        [("/content/messages/@bob:b.example/a~1b~0c", Reason.WRONG_TYPE, BOB.user_id, "a/b~c")],
    ),
    "message with a fraction": (
        direct_to_device(messages={BOB.user_id: {"*": {"a": [{"b/c": 0.5}]}, "PHONE": {"a": 1}}}),
        [("/content/messages/@bob:b.example/*/a/0/b~1c", Reason.NOT_AN_INTEGER, BOB.user_id, "*")],
    ),
    "message with a surrogate": (
        direct_to_device(messages={BOB.user_id: {"PHONE": {"body": "\ud800"}}}),
        [("/content/messages/@bob:b.example/PHONE/body", Reason.LONE_SURROGATE, BOB.user_id, "PHONE")],
    ),
    "messages of a user a list": (
        direct_to_device(messages={BOB.user_id: ["PHONE"], ALICE.user_id: {"PHONE": {}}}),
        [("/content/messages/@bob:b.example", Reason.WRONG_TYPE, BOB.user_id, None)],
    ),
    "messages to nobody": (
        direct_to_device(messages={"bob": {"PHONE": {}}, BOB.user_id: {"PHONE": {}}}),
        [("/content/messages/bob", Reason.INVALID_IDENTIFIER, "bob", None)],
    ),
}


def as_found(rejections: Iterator[Rejection]) -> list[tuple[str, Reason, str | None, str | None]]:
    return [(found.path, found.reason, found.user_id, found.device_id) for found in rejections]


@pytest.mark.parametrize("case", INNER)
def test_a_malformed_entry_costs_only_itself(case: str) -> None:
    body, expected = INNER[case]
    edu = read_edu(body)
    assert as_found(rejections_in(edu)) == expected
    for rejection in rejections_in(edu):
        check_pointer(body, rejection)


@pytest.mark.parametrize("case", INNER)
def test_paths_begin_at_the_transaction(case: str) -> None:
    body, expected = INNER[case]
    edus = [None, direct_to_device(), body]
    *_, edu = read_edus(edus)
    assert type(edu) is not Rejection
    assert as_found(rejections_in(edu)) == [(f"/edus/2{path}", *rest) for path, *rest in expected]
    for rejection in rejections_in(edu):
        check_pointer({"edus": edus}, rejection)


def test_neighbours_of_malformed_entries_survive() -> None:
    update = read_edu(INNER["master key array"][0])
    assert type(update) is SigningKeyUpdate
    assert update.self_signing_key == ALICE.self_signing_key
    message = read_edu(INNER["message with a fraction"][0])
    assert type(message) is DirectToDevice
    assert message.messages[BOB.user_id]["PHONE"] == {"a": 1}  # type: ignore[index]
    message = read_edu(INNER["messages of a user a list"][0])
    assert type(message) is DirectToDevice
    assert message.messages[ALICE.user_id] == {"PHONE": {}}
    device_update = read_edu(INNER["keys of nobody"][0])
    assert type(device_update) is DeviceListUpdate
    assert (device_update.device_id, device_update.stream_id) == ("PHONE", 6)


class TestWhatWasRefused:
    @pytest.mark.parametrize("case", ["keys a string", "keys empty", "both keys", "message null", "messages to nobody"])
    def test_is_written_as_it_was_received(self, case: str) -> None:
        body, _ = INNER[case]
        written = read_edu(body).to_json()
        assert written["content"].items() >= body["content"].items()  # type: ignore[union-attr]

    def test_is_null_where_it_cannot_be_written(self) -> None:
        written = read_edu(INNER["message with a fraction"][0]).to_json()
        assert written["content"]["messages"] == {BOB.user_id: {"*": None, "PHONE": {"a": 1}}}  # type: ignore[index,call-overload]

    @pytest.mark.parametrize(
        "edu",
        [
            device_list_update(keys=device(added=1.5)),
            signing_key_update(master_key=master(added=1.5)),
            signing_key_update(self_signing_key={**ALICE.self_signing_key.to_json(), "added": 1.5}),
            direct_to_device(messages={BOB.user_id: {"*": {"added": 1.5}}}),
        ],
        ids=["keys", "master_key", "self_signing_key", "message"],
    )
    def test_is_refused_again(self, edu: dict[str, Any]) -> None:
        once = read_edu(edu)
        assert len(list(rejections_in(once))) == 1
        assert len(list(rejections_in(read_edu(once.to_json())))) == 1


# --------------------------------------------------------------------------------------------------------------
# Built here
# --------------------------------------------------------------------------------------------------------------

UPDATE: dict[str, Any] = {"user_id": ALICE.user_id, "device_id": "PHONE", "stream_id": 6}
MESSAGE: dict[str, Any] = {"sender": ALICE.user_id, "event_type": "x", "message_id": "m", "messages": {}}

BAD_PARTS: list[tuple[type[Any], dict[str, Any], str, Reason]] = [
    (DeviceListUpdate, {**UPDATE, "user_id": "x"}, "/user_id", Reason.INVALID_IDENTIFIER),
    (DeviceListUpdate, {**UPDATE, "device_id": None}, "/device_id", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "stream_id": "6"}, "/stream_id", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "stream_id": 2**53}, "/stream_id", Reason.INTEGER_OUT_OF_RANGE),
    (DeviceListUpdate, {**UPDATE, "prev_ids": 5}, "/prev_id", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "prev_ids": [5, None]}, "/prev_id/1", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "deleted": 1}, "/deleted", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "device_display_name": 1}, "/device_display_name", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "keys": {}}, "/keys", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "keys": ALICE.master_key}, "/keys", Reason.WRONG_TYPE),
    (DeviceListUpdate, {**UPDATE, "extra": {"prev_id": []}}, "/extra/prev_id", Reason.INVALID_VALUE),
    (DeviceListUpdate, {**UPDATE, "beside": {"content": {}}}, "/beside/content", Reason.INVALID_VALUE),
    (DeviceListUpdate, {**UPDATE, "extra": 5}, "/extra", Reason.WRONG_TYPE),
    (SigningKeyUpdate, {"user_id": 5}, "/user_id", Reason.WRONG_TYPE),
    (SigningKeyUpdate, {"user_id": "@a:b", "master_key": {}}, "/master_key", Reason.WRONG_TYPE),
    (SigningKeyUpdate, {"user_id": "@a:b", "self_signing_key": "x"}, "/self_signing_key", Reason.WRONG_TYPE),
    (SigningKeyUpdate, {"user_id": "@a:b", "extra": {"master_key": 1}}, "/extra/master_key", Reason.INVALID_VALUE),
    (SigningKeyUpdate, {"user_id": "@a:b", "beside": {"edu_type": ""}}, "/beside/edu_type", Reason.INVALID_VALUE),
    (DirectToDevice, {**MESSAGE, "sender": "x"}, "/sender", Reason.INVALID_IDENTIFIER),
    (DirectToDevice, {**MESSAGE, "event_type": None}, "/type", Reason.WRONG_TYPE),
    (DirectToDevice, {**MESSAGE, "message_id": 1}, "/message_id", Reason.WRONG_TYPE),
    (DirectToDevice, {**MESSAGE, "messages": []}, "/messages", Reason.WRONG_TYPE),
    (DirectToDevice, {**MESSAGE, "messages": {"bob": {}}}, "/messages/bob", Reason.INVALID_IDENTIFIER),
    (DirectToDevice, {**MESSAGE, "messages": {"@b:c": {"D": 1}}}, "/messages/@b:c/D", Reason.WRONG_TYPE),
    (DirectToDevice, {**MESSAGE, "messages": {"@b:c": {"D": {"x": 1.5}}}}, "/messages/@b:c/D/x", Reason.NOT_AN_INTEGER),
    (DirectToDevice, {**MESSAGE, "extra": {"type": 1}}, "/extra/type", Reason.INVALID_VALUE),
    (DirectToDevice, {**MESSAGE, "beside": {1: 1}}, "/beside", Reason.WRONG_TYPE),
    (UnknownEdu, {"edu_type": "m.direct_to_device", "content": {}}, "/edu_type", Reason.INVALID_VALUE),
    (UnknownEdu, {"edu_type": None, "content": {}}, "/edu_type", Reason.WRONG_TYPE),
    (UnknownEdu, {"edu_type": "x", "content": []}, "/content", Reason.WRONG_TYPE),
    (UnknownEdu, {"edu_type": "x", "content": {"a": object()}}, "/content/a", Reason.NOT_A_JSON_VALUE),
    (UnknownEdu, {"edu_type": "x", "content": {}, "beside": {"edu_type": 1}}, "/beside/edu_type", Reason.INVALID_VALUE),
]


@pytest.mark.parametrize(("kind", "parts", "path", "reason"), BAD_PARTS)
def test_constructors_check(kind: type[Any], parts: dict[str, Any], path: str, reason: Reason) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        kind(**parts)
    assert (caught.value.path, caught.value.reason) == (path, reason)


def test_later_changes_by_the_caller_do_not_show() -> None:
    content: dict[str, Any] = {"body": ["x"]}
    devices: dict[str, Any] = {"PHONE": content}
    extra: dict[str, Any] = {"a": [1]}
    edu = DirectToDevice(**{**MESSAGE, "messages": {BOB.user_id: devices}, "extra": extra})
    content["body"].append("y")
    devices["EVIL"] = {}
    extra["a"].append(2)
    assert edu.messages == {BOB.user_id: {"PHONE": {"body": ["x"]}}}
    assert edu.extra == {"a": [1]}
    edu.to_json()["content"]["a"].append(3)  # type: ignore[index,call-overload,union-attr]
    assert edu.to_json()["content"]["a"] == [1]  # type: ignore[index,call-overload]


def test_the_caller_keeps_his_objects() -> None:
    edus = [body for _, body in GOOD.values()] + [body for body, _ in INNER.values()]
    before = copy.deepcopy(edus)
    read = read_edus(edus)
    assert edus == before
    edus[1]["content"]["prev_id"].append(99)
    assert read[1].prev_ids == (4, 5)  # type: ignore[union-attr]
    edus[1]["content"]["prev_id"].pop()


# --------------------------------------------------------------------------------------------------------------
# Anything at all
# --------------------------------------------------------------------------------------------------------------

WHOLE = [
    GOOD[name][1]
    for name in ("device list update, everything", "signing key update, everything", "direct to device, everything")
]


@given(json_like_values())
def test_no_foreign_exception(value: Any) -> None:
    places: list[Any] = [value, {"edu_type": value, "content": {}}, {"edu_type": "m.typing", "content": value}]
    for edu in WHOLE:
        places += [{**edu, "content": value}, {**edu, "added": value}]
        places += [{**edu, "content": {**edu["content"], name: value}} for name in (*edu["content"], "new")]
    for place in places:
        before = repr(place)
        with contextlib.suppress(E2EKeysError):
            read_edu(place).to_json()
        (read,) = read_edus([place])
        if type(read) is not Rejection:
            read.to_json()
        with contextlib.suppress(E2EKeysError):
            read_edus(place)
        assert repr(place) == before


@given(st.data())
def test_every_path_leads_to_the_place_it_names(data: st.DataObject) -> None:
    edus = changed(data.draw, WHOLE)
    for rejection in rejections_in(read_edus(edus)):
        check_pointer({"edus": edus}, rejection)
    for edu in edus:
        try:
            found = list(rejections_in(read_edu(edu)))
        except RemoteProtocolError as error:
            check_pointer(edu, error)
        else:
            for rejection in found:
                check_pointer(edu, rejection)
