"""user/devices as values: ids in paths, devices with and without keys, and what happens to entries that are none."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_pointers import changed, check_pointer, rejections_in
from matrix_e2e_keys import (
    FEDERATION_V1,
    CrossSigningKey,
    DeviceKeys,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    UserDevice,
    UserDevicesRequest,
    UserDevicesResponse,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values, user_ids

ALICE = SampleUser("@alice:a.example")
PREFIX = "/_matrix/federation/v1/user/devices/"


class TestRequest:
    @pytest.mark.parametrize(
        ("user_id", "segment"),
        [
            ("@alice:a.example", "%40alice%3Aa.example"),
            ("@alice:a.example:8448", "%40alice%3Aa.example%3A8448"),
            ("@alice:[::1]:8448", "%40alice%3A%5B%3A%3A1%5D%3A8448"),
            ("@:a.example", "%40%3Aa.example"),
            ("@a/b:a.example", "%40a%2Fb%3Aa.example"),
            ("@a%2Fb:a.example", "%40a%252Fb%3Aa.example"),
            ("@100%:a.example", "%40100%25%3Aa.example"),
            ("@two words:a.example", "%40two%20words%3Aa.example"),
            ("@a+b:a.example", "%40a%2Bb%3Aa.example"),
            ("@who?:a.example", "%40who%3F%3Aa.example"),
            ("@no#1:a.example", "%40no%231%3Aa.example"),
            ("@../..:a.example", "%40..%2F..%3Aa.example"),
            ("@\u00e9\u4e2d:a.example", "%40%C3%A9%E4%B8%AD%3Aa.example"),
            ("@a~b_c-d.e:a.example", "%40a~b_c-d.e%3Aa.example"),
        ],
    )
    def test_user_ids_in_paths(self, user_id: str, segment: str) -> None:
        request = UserDevicesRequest(user_id=user_id)
        sent = request.to_http()
        assert (sent.method, sent.target, sent.body) == ("GET", PREFIX + segment, b"")
        assert UserDevicesRequest.from_http(sent) == request
        received = read_request(sent)
        assert (received.request, received.dialect) == (request, FEDERATION_V1)

    @pytest.mark.parametrize(
        ("segment", "user_id"),
        [
            ("@alice:a.example", "@alice:a.example"),  # nothing here must be encoded
            ("%40alice%3aa.example", "@alice:a.example"),
            ("@a+b:a.example", "@a+b:a.example"),  # a plus is a plus, in a path
            ("%40%61lice:a.example", "@alice:a.example"),
        ],
    )
    def test_other_ways_to_encode(self, segment: str, user_id: str) -> None:
        assert UserDevicesRequest.from_http(HttpRequest(method="GET", path=PREFIX + segment)).user_id == user_id

    @given(user_ids())
    def test_every_user_id_comes_back(self, user_id: str) -> None:
        if len(user_id.encode()) <= 255:
            request = UserDevicesRequest(user_id=user_id)
            assert UserDevicesRequest.from_http(request.to_http()) == request

    @pytest.mark.parametrize(
        ("path", "at", "reason", "errcode", "status"),
        [
            (PREFIX + "alice", "/user_id", Reason.INVALID_IDENTIFIER, "M_INVALID_PARAM", 400),
            (PREFIX + "%40alice", "/user_id", Reason.INVALID_IDENTIFIER, "M_INVALID_PARAM", 400),
            (PREFIX + "%2540alice%253Aa.example", "/user_id", Reason.INVALID_IDENTIFIER, "M_INVALID_PARAM", 400),
            (PREFIX + "@a%00:a.example", "/user_id", Reason.INVALID_IDENTIFIER, "M_INVALID_PARAM", 400),
            (PREFIX + "@100%:a.example", "/user_id", Reason.INVALID_ENCODING, "M_INVALID_PARAM", 400),
            (PREFIX + "@%FF:a.example", "/user_id", Reason.INVALID_ENCODING, "M_INVALID_PARAM", 400),
            (PREFIX + "@%ED%A0%80:a.example", "/user_id", Reason.INVALID_ENCODING, "M_INVALID_PARAM", 400),
            (PREFIX + "@\u00e9:a.example", "/user_id", Reason.INVALID_ENCODING, "M_INVALID_PARAM", 400),
            (PREFIX + "@a/b:a.example", "", Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
            (PREFIX, "", Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
            (PREFIX[:-1], "", Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
            (PREFIX + "@a:b/", "", Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
            ("/_matrix/client/v3/user/devices/@a:b", "", Reason.UNRECOGNIZED_ENDPOINT, "M_UNRECOGNIZED", 404),
        ],
    )
    def test_bad_paths(self, path: str, at: str, reason: Reason, errcode: str, status: int) -> None:
        for read in (UserDevicesRequest.from_http, read_request):
            with pytest.raises(RemoteProtocolError) as caught:
                read(HttpRequest(method="GET", path=path))
            assert (caught.value.path, caught.value.reason) == (at, reason)
            assert (caught.value.errcode, caught.value.http_status) == (errcode, status)

    def test_another_method(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserDevicesRequest.from_http(HttpRequest(method="POST", path=PREFIX + "@a:b"))
        assert (caught.value.reason, caught.value.errcode) == (Reason.WRONG_METHOD, "M_UNRECOGNIZED")
        assert caught.value.http_status == 405

    @pytest.mark.parametrize(
        ("user_id", "reason"),
        [("alice", Reason.INVALID_IDENTIFIER), (None, Reason.WRONG_TYPE), ("@\ud800:b", Reason.INVALID_IDENTIFIER)],
    )
    def test_bad_callers(self, user_id: Any, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserDevicesRequest(user_id=user_id)
        assert (caught.value.path, caught.value.reason) == ("/user_id", reason)


def answer() -> dict[str, Any]:
    return {
        "user_id": ALICE.user_id,
        "stream_id": 5,
        "devices": [
            {"device_id": "PHONE", "keys": ALICE.device("PHONE").to_json(), "device_display_name": "Alice's phone"},
            {"device_id": "a/b~c", "keys": ALICE.device("a/b~c").to_json(), "org.example.seen": 0.5},
            {"device_id": "WEB"},
        ],
        "master_key": ALICE.master_key.to_json(),
        "self_signing_key": ALICE.self_signing_key.to_json(),
        "org.example.hint": [1.5],
    }


def changed_answer(**members: Any) -> dict[str, Any]:
    return {**answer(), **members}


def with_device(entry: Any) -> dict[str, Any]:
    body = answer()
    body["devices"][1] = entry
    return body


def keys(**changes: Any) -> dict[str, Any]:
    return {"device_id": "PHONE", "keys": {**ALICE.device("PHONE").to_json(), **changes}}


class TestResponse:
    def test_both_directions(self) -> None:
        built = UserDevicesResponse(
            user_id=ALICE.user_id,
            stream_id=5,
            devices=(
                UserDevice(device_id="PHONE", keys=ALICE.device("PHONE"), device_display_name="Alice's phone"),
                UserDevice(device_id="a/b~c", keys=ALICE.device("a/b~c"), extra={"org.example.seen": 0.5}),
                UserDevice(device_id="WEB"),
            ),
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
            extra={"org.example.hint": [1.5]},
        )
        assert built.to_json() == answer()
        assert UserDevicesResponse.from_json(answer()) == built
        assert UserDevicesResponse.from_bytes(json.dumps(answer())) == built
        assert UserDevicesResponse.from_http(built.to_http()) == built
        assert UserDevicesRequest.answer_type() is UserDevicesResponse
        assert UserDevicesRequest(user_id=ALICE.user_id).read_answer(built.to_http()) == built

    def test_types_of_what_is_read(self) -> None:
        response = UserDevicesResponse.from_json(answer())
        phone, odd, web = response.devices
        assert type(phone) is type(odd) is type(web) is UserDevice
        assert type(phone.keys) is DeviceKeys
        assert phone.device_display_name == "Alice's phone"
        assert (web.keys, web.device_display_name) == (None, None)
        assert type(response.master_key) is type(response.self_signing_key) is CrossSigningKey
        assert response.malformed == ()

    def test_no_more_than_needed(self) -> None:
        body = {"user_id": ALICE.user_id, "stream_id": 0, "devices": []}
        response = UserDevicesResponse.from_json(body)
        assert response == UserDevicesResponse(user_id=ALICE.user_id, stream_id=0, devices=())
        assert response.to_json() == body

    def test_null_means_none(self) -> None:
        body = changed_answer(
            master_key=None,
            self_signing_key=None,
            devices=[{"device_id": "WEB", "keys": None, "device_display_name": None}],
        )
        response = UserDevicesResponse.from_json(body)
        assert (response.master_key, response.self_signing_key) == (None, None)
        assert response.devices == (UserDevice(device_id="WEB"),)
        assert response.to_json() == {
            "user_id": ALICE.user_id,
            "stream_id": 5,
            "devices": [{"device_id": "WEB"}],
            "org.example.hint": [1.5],
        }

    def test_a_leaked_user_signing_key_is_a_member_nobody_knows(self) -> None:
        leaked = ALICE.user_signing_key.to_json()
        response = UserDevicesResponse.from_json(changed_answer(user_signing_key=leaked))
        assert response.extra["user_signing_key"] == leaked
        assert not hasattr(response, "user_signing_key")

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({}, "/devices", Reason.MISSING_MEMBER),
            ({"devices": [], "stream_id": 1}, "/user_id", Reason.MISSING_MEMBER),
            ({"devices": [], "user_id": "@a:b"}, "/stream_id", Reason.MISSING_MEMBER),
            (changed_answer(user_id=None), "/user_id", Reason.WRONG_TYPE),
            (changed_answer(user_id="alice"), "/user_id", Reason.INVALID_IDENTIFIER),
            (changed_answer(user_id=1.5), "/user_id", Reason.NOT_AN_INTEGER),
            (changed_answer(stream_id="5"), "/stream_id", Reason.WRONG_TYPE),
            (changed_answer(stream_id=None), "/stream_id", Reason.WRONG_TYPE),
            (changed_answer(stream_id=True), "/stream_id", Reason.WRONG_TYPE),
            (changed_answer(stream_id=5.0), "/stream_id", Reason.NOT_AN_INTEGER),
            (changed_answer(stream_id=2**53), "/stream_id", Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_frame_errors(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserDevicesResponse.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        check_pointer(body, caught.value)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            ({}, Reason.WRONG_TYPE),
            ("x", Reason.WRONG_TYPE),
            (5, Reason.WRONG_TYPE),
            (1.5, Reason.NOT_AN_INTEGER),
        ],
    )
    def test_devices_that_are_no_list(self, value: Any, reason: Reason) -> None:
        body = changed_answer(devices=value)
        response = UserDevicesResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.malformed == (rejection,)
        assert (rejection.path, rejection.reason, rejection.raw) == ("/devices", reason, value)
        assert (rejection.user_id, rejection.device_id) == (None, None)
        assert (response.devices, response.master_key) == ((), ALICE.master_key)
        assert response.to_json() == {**body, "devices": None if value == 1.5 else value}
        assert UserDevicesResponse.from_json(response.to_json()).malformed[0].path == "/devices"

    @pytest.mark.parametrize(
        ("entry", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ("PHONE", "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            (1.5, "", Reason.NOT_AN_INTEGER),
            ({}, "/device_id", Reason.MISSING_MEMBER),
            ({"device_id": None}, "/device_id", Reason.WRONG_TYPE),
            ({"device_id": ""}, "/device_id", Reason.INVALID_IDENTIFIER),
            ({"device_id": "D", "device_display_name": 5}, "/device_display_name", Reason.WRONG_TYPE),
            ({"device_id": "D", "device_display_name": "\ud800"}, "/device_display_name", Reason.LONE_SURROGATE),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_a_device_that_is_none_costs_only_itself(self, entry: Any, path: str, reason: Reason) -> None:
        body = with_device(entry)
        response = UserDevicesResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.devices[1] is rejection
        assert (rejection.path, rejection.reason, rejection.raw) == (f"/devices/1{path}", reason, entry)
        assert (rejection.user_id, rejection.device_id) == (None, None)
        check_pointer(body, rejection)
        assert response.devices[0].device_id == "PHONE"
        assert response.devices[2] == UserDevice(device_id="WEB")
        (again,) = rejections_in(UserDevicesResponse.from_json(response.to_json()))
        assert again.path.startswith("/devices/1")

    @pytest.mark.parametrize(
        ("entry", "path", "reason"),
        [
            ({"device_id": "PHONE", "keys": "x"}, "", Reason.WRONG_TYPE),
            ({"device_id": "PHONE", "keys": []}, "", Reason.WRONG_TYPE),
            ({"device_id": "PHONE", "keys": {}}, "/user_id", Reason.MISSING_MEMBER),
            (keys(user_id="x"), "/user_id", Reason.INVALID_IDENTIFIER),
            (keys(algorithms=["x", 1]), "/algorithms/1", Reason.WRONG_TYPE),
            (keys(keys={"ed25519:PHONE": "!"}), "/keys/ed25519:PHONE", Reason.INVALID_BASE64),
            (keys(signatures=[]), "/signatures", Reason.WRONG_TYPE),
            (keys(added={"a/b": [1.5]}), "/added/a~1b/0", Reason.NOT_AN_INTEGER),
        ],
        ids=lambda value: f"{value}"[-40:],
    )
    def test_keys_that_are_none_leave_the_device(self, entry: Any, path: str, reason: Reason) -> None:
        body = with_device(entry)
        response = UserDevicesResponse.from_json(body)
        (rejection,) = rejections_in(response)
        device = response.devices[1]
        assert type(device) is UserDevice
        assert (device.device_id, device.keys) == ("PHONE", rejection)
        assert (rejection.path, rejection.reason, rejection.raw) == (f"/devices/1/keys{path}", reason, entry["keys"])
        check_pointer(body, rejection)
        assert type(response.devices[0].keys) is DeviceKeys  # type: ignore[union-attr]
        (again,) = rejections_in(UserDevicesResponse.from_json(response.to_json()))
        assert again.path.startswith("/devices/1/keys")

    @pytest.mark.parametrize("name", ["master_key", "self_signing_key"])
    @pytest.mark.parametrize(
        ("value", "path", "reason"),
        [
            ("x", "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({}, "/user_id", Reason.MISSING_MEMBER),
            ({**ALICE.master_key.to_json(), "usage": []}, "/usage", Reason.WRONG_USAGE),
            ({**ALICE.master_key.to_json(), "keys": {"ed25519:x": "y"}}, "/keys/ed25519:x", Reason.KEY_ID_NOT_KEY),
            ({**ALICE.master_key.to_json(), "x": [0.5]}, "/x/0", Reason.NOT_AN_INTEGER),
            (1.5, "", Reason.NOT_AN_INTEGER),
        ],
        ids=lambda value: f"{value}"[-40:],
    )
    def test_a_key_that_is_none_costs_only_itself(self, name: str, value: Any, path: str, reason: Reason) -> None:
        body = changed_answer(**{name: value})
        response = UserDevicesResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert getattr(response, name) is rejection
        assert (rejection.path, rejection.reason, rejection.raw) == (f"/{name}{path}", reason, value)
        assert (rejection.user_id, rejection.device_id) == (None, None)
        check_pointer(body, rejection)
        assert len(response.devices) == 3
        (again,) = rejections_in(UserDevicesResponse.from_json(response.to_json()))
        assert again.path.startswith(f"/{name}")

    def test_a_member_twice(self) -> None:
        text = json.dumps(answer()).replace('"device_id": "PHONE"', '"device_id": "PHONE", "device_id": "PHONE"')
        response = UserDevicesResponse.from_bytes(text)
        first, *others = response.devices
        assert type(first) is Rejection
        assert (first.path, first.reason) == ("/devices/0/device_id", Reason.DUPLICATE_MEMBER)
        assert [device.device_id for device in others] == ["a/b~c", "WEB"]
        assert UserDevicesResponse.from_json(response.to_json()).devices[0].reason is Reason.WRONG_TYPE  # type: ignore[union-attr]
        with pytest.raises(RemoteProtocolError) as caught:
            UserDevicesResponse.from_bytes('{"stream_id": 1, "stream_id": 1, "user_id": "@a:b", "devices": []}')
        assert (caught.value.path, caught.value.reason) == ("/stream_id", Reason.DUPLICATE_MEMBER)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"user_id": "x"}, "/user_id", Reason.INVALID_IDENTIFIER),
            ({"stream_id": "5"}, "/stream_id", Reason.WRONG_TYPE),
            ({"stream_id": 2**53}, "/stream_id", Reason.INTEGER_OUT_OF_RANGE),
            ({"devices": None}, "/devices", Reason.WRONG_TYPE),
            ({"devices": {"D": UserDevice(device_id="D")}}, "/devices", Reason.WRONG_TYPE),
            ({"devices": [UserDevice(device_id="D"), {}]}, "/devices/1", Reason.WRONG_TYPE),
            ({"master_key": {}}, "/master_key", Reason.WRONG_TYPE),
            ({"self_signing_key": ALICE.device("D")}, "/self_signing_key", Reason.WRONG_TYPE),
            ({"extra": {"master_key": None}}, "/extra/master_key", Reason.INVALID_VALUE),
            ({"malformed": [None]}, "/malformed/0", Reason.WRONG_TYPE),
            (
                {"malformed": [Rejection(path="/devices/0", reason=Reason.WRONG_TYPE, detail="")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_the_constructor_checks_too(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        parts: dict[str, Any] = {"user_id": ALICE.user_id, "stream_id": 1, "devices": ()}
        with pytest.raises(LocalProtocolError) as caught:
            UserDevicesResponse(**{**parts, **members})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"device_id": ""}, "/device_id", Reason.INVALID_IDENTIFIER),
            ({"device_id": None}, "/device_id", Reason.WRONG_TYPE),
            ({"keys": {}}, "/keys", Reason.WRONG_TYPE),
            ({"keys": ALICE.master_key}, "/keys", Reason.WRONG_TYPE),
            ({"device_display_name": b"x"}, "/device_display_name", Reason.WRONG_TYPE),
            ({"extra": {"keys": None}}, "/extra/keys", Reason.INVALID_VALUE),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_the_constructor_of_a_device_checks_too(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserDevice(**{"device_id": "D", **members})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_what_is_no_answer(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserDevicesResponse.from_http(HttpResponse(status=200, body=b"<html>"))
        assert caught.value.reason is Reason.NOT_JSON
        with pytest.raises(RemoteProtocolError) as caught:
            UserDevicesResponse.from_http(HttpResponse(status=302, body=b"{}"))
        assert caught.value.reason is Reason.UNEXPECTED_STATUS

    def test_the_caller_keeps_his_object(self) -> None:
        body = with_device({"device_id": "D", "keys": {"x": 1.5}})
        before = copy.deepcopy(body)
        response = UserDevicesResponse.from_json(body)
        assert body == before
        body["devices"].clear()
        body["org.example.hint"].clear()
        assert len(response.devices) == 3
        assert response.extra == {"org.example.hint": [1.5]}

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        places: list[Any] = [value, with_device(value), with_device({"device_id": "D", "keys": value})]
        places += [changed_answer(**{name: value}) for name in (*answer(), "new")]
        places += [with_device({"device_id": "D", name: value}) for name in ("device_id", "device_display_name", "new")]
        for place in places:
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                UserDevicesResponse.from_json(place).to_json()
            assert repr(place) == before

    @given(st.data())
    def test_every_path_leads_to_the_place_it_names(self, data: st.DataObject) -> None:
        body = changed(data.draw, answer())
        try:
            found = list(rejections_in(UserDevicesResponse.from_json(body)))
        except RemoteProtocolError as error:
            check_pointer(body, error)
        else:
            for rejection in found:
                check_pointer(body, rejection)
