"""user/keys/query as values: both directions, and what happens to entries that are no entries."""

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
    JsonLimits,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:a.example")


class TestRequest:
    def test_for_devices(self) -> None:
        request = UserKeysQueryRequest.for_devices({"@a/b:a.example": ["PHONE", "a/b"], "@c:d": []})
        body = {"device_keys": {"@a/b:a.example": ["PHONE", "a/b"], "@c:d": []}}
        assert request.to_json() == body
        assert UserKeysQueryRequest.from_json(body) == request
        assert UserKeysQueryRequest.from_bytes(json.dumps(body)) == request
        assert request.asked == {"@a/b:a.example": ("PHONE", "a/b"), "@c:d": ()}

    @pytest.mark.parametrize(
        "users",
        [["@a:b", "@c:d"], ("@a:b", "@c:d"), iter(["@a:b", "@c:d"]), {"@a:b": ["D"], "@c:d": None}],
        ids=lambda users: type(users).__name__,
    )
    def test_for_users(self, users: Any) -> None:
        request = UserKeysQueryRequest.for_users(users)
        assert request == UserKeysQueryRequest(device_keys={"@a:b": (), "@c:d": ()})
        assert request.to_json() == {"device_keys": {"@a:b": [], "@c:d": []}}

    def test_for_no_users(self) -> None:
        assert UserKeysQueryRequest.for_users([]).to_json() == {"device_keys": {}}
        assert UserKeysQueryRequest.for_users(["@a:b", "@a:b"]).asked == {"@a:b": ()}

    @pytest.mark.parametrize(
        ("users", "path", "reason"),
        [
            (None, "/device_keys", Reason.WRONG_TYPE),
            (5, "/device_keys", Reason.WRONG_TYPE),
            ("@a:b", "/device_keys", Reason.WRONG_TYPE),
            (b"@a:b", "/device_keys", Reason.WRONG_TYPE),
            (["@a:b", 5], "/device_keys/1", Reason.WRONG_TYPE),
            ([["@a:b"]], "/device_keys/0", Reason.WRONG_TYPE),
            ({5: []}, "/device_keys/0", Reason.WRONG_TYPE),
            (["@a:b", "bob"], "/device_keys/bob", Reason.INVALID_IDENTIFIER),
        ],
        ids=repr,
    )
    def test_bad_callers_by_user(self, users: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysQueryRequest.for_users(users)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_http(self) -> None:
        request = UserKeysQueryRequest(device_keys={"@c:d": ()}, extra={"added": 0.5})
        sent = request.to_http()
        assert (sent.method, sent.target) == ("POST", "/_matrix/federation/v1/user/keys/query")
        assert json.loads(sent.body) == {"device_keys": {"@c:d": []}, "added": 0.5}
        assert UserKeysQueryRequest.from_http(sent) == request
        received = read_request(sent)
        assert (received.request, received.dialect) == (request, FEDERATION_V1)

    def test_a_name_that_is_no_device_id_is_asked_for_in_vain(self) -> None:
        body = {"device_keys": {"@a:b": ["", "x" * 513]}}
        request = UserKeysQueryRequest.from_json(body)
        assert request.asked == {"@a:b": ("", "x" * 513)}
        assert request.to_json() == body

    def test_a_timeout_is_a_member_nobody_knows(self) -> None:
        request = UserKeysQueryRequest.from_json({"device_keys": {}, "timeout": "soon"})
        assert request.extra == {"timeout": "soon"}
        assert not hasattr(request, "timeout")

    @pytest.mark.parametrize(
        ("body", "path", "reason", "errcode"),
        [
            ([], "", Reason.WRONG_TYPE, "M_BAD_JSON"),
            (None, "", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({}, "/device_keys", Reason.MISSING_MEMBER, "M_BAD_JSON"),
            ({"device_keys": None}, "/device_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": []}, "/device_keys", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": 0.5}, "/device_keys", Reason.NOT_AN_INTEGER, "M_BAD_JSON"),
            ({"device_keys": {"@a:b": None}}, "/device_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": {"@a:b": {"D": True}}}, "/device_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": {"@a:b": "D"}}, "/device_keys/@a:b", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": {"@a/~:b": ["D", 1]}}, "/device_keys/@a~1~0:b/1", Reason.WRONG_TYPE, "M_BAD_JSON"),
            ({"device_keys": {"@a:b": ["", "\ud800"]}}, "/device_keys/@a:b/1", Reason.LONE_SURROGATE, "M_BAD_JSON"),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_bad_bodies(self, body: Any, path: str, reason: Reason, errcode: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysQueryRequest.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        assert (caught.value.errcode, caught.value.http_status) == (errcode, 400)
        check_pointer(body, caught.value)

    @pytest.mark.parametrize(
        ("body", "reason", "errcode", "status"),
        [
            (b"", Reason.NOT_JSON, "M_NOT_JSON", 400),
            (b'{"device_keys": ', Reason.NOT_JSON, "M_NOT_JSON", 400),
            (b"\xff", Reason.NOT_UTF8, "M_NOT_JSON", 400),
            (b'{"device_keys": {}}' + b" " * 100, Reason.TOO_LARGE, "M_TOO_LARGE", 413),
            (b'{"device_keys": {}, "device_keys": {}}', Reason.DUPLICATE_MEMBER, "M_BAD_JSON", 400),
        ],
    )
    def test_bad_bytes(self, body: bytes, reason: Reason, errcode: str, status: int) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysQueryRequest.from_bytes(body, limits=JsonLimits(max_bytes=100))
        assert caught.value.reason is reason
        assert (caught.value.errcode, caught.value.http_status) == (errcode, status)

    def test_another_method(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysQueryRequest.from_http(
                HttpRequest(method="GET", path="/_matrix/federation/v1/user/keys/query", body=b"{}")
            )
        assert (caught.value.reason, caught.value.http_status) == (Reason.WRONG_METHOD, 405)

    def test_a_name_that_is_no_user_id_is_set_aside(self) -> None:
        body = {"device_keys": {"a/b": {"anything": 1}, "@a:b": ["D"]}}
        request = UserKeysQueryRequest.from_json(body)
        assert request.asked == {"@a:b": ("D",)}
        set_aside = request.device_keys["a/b"]
        assert type(set_aside) is Rejection
        assert (set_aside.path, set_aside.reason) == ("/device_keys/a~1b", Reason.INVALID_IDENTIFIER)
        assert (set_aside.user_id, set_aside.device_id, set_aside.raw) == ("a/b", None, {"anything": 1})
        check_pointer(body, set_aside)
        assert request.to_json() == body

    @pytest.mark.parametrize(
        ("devices", "path", "reason"),
        [
            (None, "/device_keys", Reason.WRONG_TYPE),
            ([], "/device_keys", Reason.WRONG_TYPE),
            ({"bob": []}, "/device_keys/bob", Reason.INVALID_IDENTIFIER),
            ({"@a:b": "D"}, "/device_keys/@a:b", Reason.WRONG_TYPE),
            ({"@a:b": [1]}, "/device_keys/@a:b/0", Reason.WRONG_TYPE),
            ({1: []}, "/device_keys", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, devices: Any, path: str, reason: Reason) -> None:
        for build in (UserKeysQueryRequest.for_devices, lambda asked: UserKeysQueryRequest(device_keys=asked)):
            with pytest.raises(LocalProtocolError) as caught:
                build(devices)
            assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_extra_members_shadow_nothing(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysQueryRequest(device_keys={}, extra={"device_keys": {}})
        assert (caught.value.path, caught.value.reason) == ("/extra/device_keys", Reason.INVALID_VALUE)

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (value, {"device_keys": value}, {"device_keys": {"@a:b": value}}, {"device_keys": {}, "x": value}):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                UserKeysQueryRequest.from_json(place).to_json()
            assert repr(place) == before


def answer() -> dict[str, Any]:
    return {
        "device_keys": {
            ALICE.user_id: {
                "PHONE": ALICE.device("PHONE").to_json(),
                "a/b~c": {
                    **ALICE.device("a/b~c").to_json(),
                    "unsigned": {"device_display_name": "odd"},
                },
            },
            BOB.user_id: {},
        },
        "master_keys": {ALICE.user_id: ALICE.master_key.to_json(), BOB.user_id: BOB.master_key.to_json()},
        "self_signing_keys": {ALICE.user_id: ALICE.self_signing_key.to_json()},
        "org.example.hint": [0.5],
    }


def with_device(entry: Any) -> dict[str, Any]:
    body = answer()
    body["device_keys"][ALICE.user_id]["a/b~c"] = entry
    return body


def device(**changes: Any) -> dict[str, Any]:
    return {**ALICE.device("a/b~c").to_json(), **changes}


class TestResponse:
    def test_both_directions(self) -> None:
        built = UserKeysQueryResponse(
            device_keys={
                ALICE.user_id: {
                    "PHONE": ALICE.device("PHONE"),
                    "a/b~c": DeviceKeys.from_json(device(unsigned={"device_display_name": "odd"})),
                },
                BOB.user_id: {},
            },
            master_keys={ALICE.user_id: ALICE.master_key, BOB.user_id: BOB.master_key},
            self_signing_keys={ALICE.user_id: ALICE.self_signing_key},
            extra={"org.example.hint": [0.5]},
        )
        assert built.to_json() == answer()
        assert UserKeysQueryResponse.from_json(answer()) == built
        assert UserKeysQueryResponse.from_bytes(json.dumps(answer())) == built
        assert UserKeysQueryResponse.from_http(built.to_http()) == built
        assert UserKeysQueryRequest.answer_type() is UserKeysQueryResponse
        assert UserKeysQueryRequest.for_devices({}).read_answer(built.to_http()) == built

    def test_types_of_what_is_read(self) -> None:
        response = UserKeysQueryResponse.from_json(answer())
        odd = response.device_keys[ALICE.user_id]["a/b~c"]  # type: ignore[index]
        assert type(odd) is DeviceKeys
        assert odd.untrusted_display_name == "odd"
        assert response.device_keys[BOB.user_id] == {}
        assert type(response.master_keys[BOB.user_id]) is CrossSigningKey
        assert type(response.self_signing_keys[ALICE.user_id]) is CrossSigningKey
        assert response.malformed == ()

    def test_only_device_keys_must_be_there(self) -> None:
        response = UserKeysQueryResponse.from_json({"device_keys": {}})
        assert response == UserKeysQueryResponse()
        assert response.to_json() == {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}

    def test_leaked_user_signing_keys_are_a_member_nobody_knows(self) -> None:
        leaked = {ALICE.user_id: ALICE.user_signing_key.to_json(), "nobody": [0.5]}
        body = {**answer(), "user_signing_keys": leaked}
        response = UserKeysQueryResponse.from_json(body)
        assert response.extra["user_signing_keys"] == leaked
        assert not hasattr(response, "user_signing_keys")
        assert list(rejections_in(response)) == []
        assert response.to_json() == body
        assert UserKeysQueryResponse.from_bytes(json.dumps(body)) == response

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            (1.5, "", Reason.NOT_AN_INTEGER),
            ({}, "/device_keys", Reason.MISSING_MEMBER),
            ({"master_keys": {}}, "/device_keys", Reason.MISSING_MEMBER),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_frame_errors(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            UserKeysQueryResponse.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        check_pointer(body, caught.value)

    @pytest.mark.parametrize("name", ["device_keys", "master_keys", "self_signing_keys"])
    @pytest.mark.parametrize("value", [None, [], "x", 5, True, 1.5], ids=repr)
    def test_a_map_that_is_none_costs_only_itself(self, name: str, value: Any) -> None:
        body = {**answer(), name: value}
        response = UserKeysQueryResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.malformed == (rejection,)
        assert rejection.path == f"/{name}"
        assert rejection.reason is (Reason.NOT_AN_INTEGER if value == 1.5 else Reason.WRONG_TYPE)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (None, None, value)
        assert getattr(response, name) == {}
        assert (
            len(response.device_keys) + len(response.master_keys) + len(response.self_signing_keys)
            == {
                "device_keys": 3,
                "master_keys": 3,
                "self_signing_keys": 4,
            }[name]
        )
        assert response.to_json() == {**body, name: None if value == 1.5 else value}

    @pytest.mark.parametrize(
        ("entry", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ("x", "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            (1.5, "", Reason.NOT_AN_INTEGER),
            ({}, "/user_id", Reason.MISSING_MEMBER),
            (device(user_id=5), "/user_id", Reason.WRONG_TYPE),
            (device(device_id=""), "/device_id", Reason.INVALID_IDENTIFIER),
            (device(algorithms=[None]), "/algorithms/0", Reason.WRONG_TYPE),
            (device(keys={"ed25519:a/b~c": "!"}), "/keys/ed25519:a~1b~0c", Reason.INVALID_BASE64),
            (device(keys={"ed25519:PHONE": "!"}), "/keys/ed25519:PHONE", Reason.KEY_ID_NOT_DEVICE),
            (device(signatures={"@a:b": []}), "/signatures/@a:b", Reason.WRONG_TYPE),
            (device(added=[0.5]), "/added/0", Reason.NOT_AN_INTEGER),
            (device(added={"x/y": 2**53}), "/added/x~1y", Reason.INTEGER_OUT_OF_RANGE),
        ],
        ids=lambda value: f"{value}"[-40:],
    )
    def test_a_device_that_is_none_costs_only_itself(self, entry: Any, path: str, reason: Reason) -> None:
        body = with_device(entry)
        response = UserKeysQueryResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.device_keys[ALICE.user_id]["a/b~c"] is rejection  # type: ignore[index]
        assert rejection.path == f"/device_keys/@alice:a.example/a~1b~0c{path}"
        assert (rejection.reason, rejection.raw) == (reason, entry)
        assert (rejection.user_id, rejection.device_id) == (ALICE.user_id, "a/b~c")
        check_pointer(body, rejection)
        assert response.device_keys[ALICE.user_id]["PHONE"] == ALICE.device("PHONE")  # type: ignore[index]
        assert response.device_keys[BOB.user_id] == {}
        (again,) = rejections_in(UserKeysQueryResponse.from_json(response.to_json()))
        assert again.path.startswith("/device_keys/@alice:a.example/a~1b~0c")

    @pytest.mark.parametrize("value", [None, [], "x", 5], ids=repr)
    def test_a_user_whose_devices_are_no_map(self, value: Any) -> None:
        body = answer()
        body["device_keys"][BOB.user_id] = value
        response = UserKeysQueryResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert response.device_keys[BOB.user_id] is rejection
        assert (rejection.path, rejection.reason) == ("/device_keys/@bob:a.example", Reason.WRONG_TYPE)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (BOB.user_id, None, value)
        check_pointer(body, rejection)
        assert response.to_json() == body

    @pytest.mark.parametrize("name", ["master_keys", "self_signing_keys"])
    @pytest.mark.parametrize(
        ("value", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({}, "/user_id", Reason.MISSING_MEMBER),
            ({**ALICE.master_key.to_json(), "usage": ["x", 1]}, "/usage/1", Reason.WRONG_TYPE),
            ({**ALICE.master_key.to_json(), "keys": {}}, "/keys", Reason.MISSING_KEY),
            ({**ALICE.master_key.to_json(), "added": 0.5}, "/added", Reason.NOT_AN_INTEGER),
        ],
        ids=lambda value: f"{value}"[-40:],
    )
    def test_a_key_that_is_none_costs_only_itself(self, name: str, value: Any, path: str, reason: Reason) -> None:
        body = answer()
        body[name] = {ALICE.user_id: value, BOB.user_id: BOB.master_key.to_json()}
        response = UserKeysQueryResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert getattr(response, name) == {ALICE.user_id: rejection, BOB.user_id: BOB.master_key}
        assert (rejection.path, rejection.reason) == (f"/{name}/@alice:a.example{path}", reason)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (ALICE.user_id, None, value)
        check_pointer(body, rejection)
        assert len(list(rejections_in(UserKeysQueryResponse.from_json(response.to_json())))) == 1

    @pytest.mark.parametrize("name", ["device_keys", "master_keys", "self_signing_keys"])
    def test_a_name_that_is_no_user_id(self, name: str) -> None:
        body = answer()
        body[name]["a/b"] = {"PHONE": {}}
        response = UserKeysQueryResponse.from_json(body)
        (rejection,) = rejections_in(response)
        assert (rejection.path, rejection.reason) == (f"/{name}/a~1b", Reason.INVALID_IDENTIFIER)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == ("a/b", None, {"PHONE": {}})
        check_pointer(body, rejection)
        assert response.to_json() == body

    def test_a_member_twice(self) -> None:
        text = (
            '{"device_keys": {"@a:b": {"D": {}, "D": {}}, "@c:d": {}, "@c:d": {}}, "master_keys": 1, "master_keys": 1}'
        )
        response = UserKeysQueryResponse.from_bytes(text)
        assert [(found.path, found.reason) for found in rejections_in(response)] == [
            ("/device_keys/@a:b/D", Reason.DUPLICATE_MEMBER),
            ("/device_keys/@c:d", Reason.DUPLICATE_MEMBER),
            ("/master_keys", Reason.DUPLICATE_MEMBER),
        ]
        assert response.to_json() == {
            "device_keys": {"@a:b": {"D": None}, "@c:d": None},
            "master_keys": None,
            "self_signing_keys": {},
        }

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"device_keys": None}, "/device_keys", Reason.WRONG_TYPE),
            ({"device_keys": {"nobody": {}}}, "/device_keys/nobody", Reason.INVALID_IDENTIFIER),
            ({"device_keys": {"@a:b": None}}, "/device_keys/@a:b", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": {"D": {}}}}, "/device_keys/@a:b/D", Reason.WRONG_TYPE),
            ({"master_keys": {"@a:b": ALICE.device("D")}}, "/master_keys/@a:b", Reason.WRONG_TYPE),
            ({"self_signing_keys": []}, "/self_signing_keys", Reason.WRONG_TYPE),
            ({"extra": {"master_keys": {}}}, "/extra/master_keys", Reason.INVALID_VALUE),
            ({"malformed": 5}, "/malformed", Reason.WRONG_TYPE),
            (
                {"malformed": [Rejection(path="/user_signing_keys", reason=Reason.WRONG_TYPE, detail="")]},
                "/malformed/0",
                Reason.INVALID_VALUE,
            ),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_the_constructor_checks_too(self, members: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserKeysQueryResponse(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_the_caller_keeps_his_object(self) -> None:
        body = with_device(device(added=0.5))
        before = copy.deepcopy(body)
        response = UserKeysQueryResponse.from_json(body)
        assert body == before
        body["device_keys"][ALICE.user_id].clear()
        body["org.example.hint"].clear()
        assert list(response.device_keys[ALICE.user_id]) == ["PHONE", "a/b~c"]  # type: ignore[arg-type]
        assert response.extra == {"org.example.hint": [0.5]}

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        places: list[Any] = [value, with_device(value), {**answer(), "device_keys": {ALICE.user_id: value}}]
        places += [{**answer(), name: value} for name in (*answer(), "user_signing_keys")]
        places += [{**answer(), "master_keys": {ALICE.user_id: value}}]
        for place in places:
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                UserKeysQueryResponse.from_json(place).to_json()
            assert repr(place) == before

    @given(st.data())
    def test_every_path_leads_to_the_place_it_names(self, data: st.DataObject) -> None:
        body = changed(data.draw, answer())
        try:
            found = list(rejections_in(UserKeysQueryResponse.from_json(body)))
        except RemoteProtocolError as error:
            check_pointer(body, error)
        else:
            for rejection in found:
                check_pointer(body, rejection)
