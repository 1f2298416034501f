"""/keys/query as values: both directions, and what happens to entries that are no entries."""

from __future__ import annotations

import contextlib
import copy
import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    E2EKeysError,
    JsonLimits,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SignedJson,
    encode_canonical_json,
    parse_json,
)
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer
from matrix_e2e_keys.testing.strategies import json_like_values, keys_query_answers

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")


class TestRequest:
    def test_for_users(self) -> None:
        request = KeysQueryRequest.for_users(["@bob:b.example"], timeout=1000)
        assert request.to_json() == {"device_keys": {"@bob:b.example": []}, "timeout": 1000}
        assert KeysQueryRequest.from_json(request.to_json()) == request

    def test_for_devices(self) -> None:
        request = KeysQueryRequest.for_devices({"@bob:b.example": ["PHONE", "a/b"], "@c:d": []})
        assert request.to_json() == {"device_keys": {"@bob:b.example": ["PHONE", "a/b"], "@c:d": []}}

    def test_unknown_members_are_kept_and_shadow_nothing(self) -> None:
        request = KeysQueryRequest.from_json({"device_keys": {}, "token": "s1"})
        assert request.to_json() == {"device_keys": {}, "token": "s1"}
        with pytest.raises(LocalProtocolError) as caught:
            KeysQueryRequest(device_keys={"@a:b": ()}, extra={"device_keys": {}, "x": 1})
        assert caught.value.path == "/extra/device_keys"

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [
            ([], "", Reason.WRONG_TYPE),
            ({}, "/device_keys", Reason.MISSING_MEMBER),
            ({"device_keys": None}, "/device_keys", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": None}}, "/device_keys/@a:b", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": {"D": True}}}, "/device_keys/@a:b", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": "D"}}, "/device_keys/@a:b", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": ["D", 1]}}, "/device_keys/@a:b/1", Reason.WRONG_TYPE),
            ({"device_keys": {"@a:b": ["", "\ud800"]}}, "/device_keys/@a:b/1", Reason.LONE_SURROGATE),
            ({"device_keys": {}, "timeout": "1"}, "/timeout", Reason.WRONG_TYPE),
            ({"device_keys": {}, "timeout": None}, "/timeout", Reason.WRONG_TYPE),
            ({"device_keys": {}, "timeout": True}, "/timeout", Reason.WRONG_TYPE),
            ({"device_keys": {}, "timeout": -1}, "/timeout", Reason.INVALID_VALUE),
            ({"device_keys": {}, "timeout": 1.5}, "/timeout", Reason.NOT_AN_INTEGER),
        ],
    )
    def test_bad_bodies(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryRequest.from_json(body)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        assert (caught.value.http_status, caught.value.errcode) == (400, "M_BAD_JSON")

    def test_a_name_that_is_no_device_id_is_asked_for_in_vain(self) -> None:
        body = {"device_keys": {"@a:b": ["", "x" * 513, "D", "\x00", "D"]}}
        request = KeysQueryRequest.from_json(body)
        assert request.asked == {"@a:b": ("", "x" * 513, "D", "\x00", "D")}
        assert request == KeysQueryRequest.for_devices(body["device_keys"])
        assert request.to_json() == body
        assert KeysQueryRequest.from_http(request.to_http()) == request

    def test_a_name_that_is_no_user_id_is_set_aside(self) -> None:
        body = {"device_keys": {"bob": {"anything": 1}, "@a:b": ["D"]}}
        request = KeysQueryRequest.from_json(body)
        assert request.asked == {"@a:b": ("D",)}
        set_aside = request.device_keys["bob"]
        assert isinstance(set_aside, Rejection)
        assert (set_aside.path, set_aside.reason) == ("/device_keys/bob", Reason.INVALID_IDENTIFIER)
        assert request.to_json() == body

    def test_bad_bytes(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryRequest.from_bytes(b'{"device_keys": ')
        assert (caught.value.http_status, caught.value.errcode) == (400, "M_NOT_JSON")
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryRequest.from_bytes(b'{"device_keys": {}}', limits=JsonLimits(max_bytes=10))
        assert (caught.value.http_status, caught.value.errcode) == (413, "M_TOO_LARGE")
        assert KeysQueryRequest.from_bytes(b'{"device_keys": {}}').device_keys == {}

    @pytest.mark.parametrize("users", [["bob"], [None], [["@a:b"]], "@a:b", None, 5, [1.5], [b"@a:b"]], ids=repr)
    def test_bad_callers(self, users: Any) -> None:
        with pytest.raises(LocalProtocolError):
            KeysQueryRequest.for_users(users)

    @pytest.mark.parametrize("devices", [None, 5, [], {"@a:b": None}, {"@a:b": "D"}, {"@a:b": [1]}, {1: []}], ids=repr)
    def test_bad_callers_by_device(self, devices: Any) -> None:
        with pytest.raises(LocalProtocolError):
            KeysQueryRequest.for_devices(devices)

    @pytest.mark.parametrize("timeout", ["1", -1, 1.5, True])
    def test_bad_timeouts(self, timeout: Any) -> None:
        with pytest.raises(LocalProtocolError):
            KeysQueryRequest.for_users([], timeout=timeout)

    @pytest.mark.parametrize(
        "members",
        [
            {"device_keys": {"nonsense": ()}},
            {"device_keys": {"@a:b": [None]}},
            {"device_keys": {1: ()}},
            {"device_keys": {}, "timeout": -5},
            {"device_keys": {}, "timeout": "1"},
            {"device_keys": None},
        ],
        ids=repr,
    )
    def test_the_constructor_checks_too(self, members: Any) -> None:
        with pytest.raises(LocalProtocolError):
            KeysQueryRequest(**members)

    @pytest.mark.parametrize("limits", [None, 5, {}])
    def test_limits_are_limits(self, limits: Any) -> None:
        for read in (KeysQueryRequest.from_bytes, KeysQueryResponse.from_bytes, SignedJson.from_bytes, parse_json):
            with pytest.raises(LocalProtocolError):
                read(b"{}", limits=limits)
        with pytest.raises(LocalProtocolError):
            encode_canonical_json({}, limits=limits)

    def test_frozen(self) -> None:
        request = KeysQueryRequest.for_users(["@a:b"])
        with pytest.raises(TypeError):
            request.device_keys["@c:d"] = ()  # type: ignore[index]


def answer() -> dict[str, Any]:
    return keys_query_answer(
        [(ALICE, [ALICE.device("PHONE"), ALICE.device("a/b~c")]), (BOB, [BOB.device("X")])], viewer=ALICE.user_id
    )


class TestResponse:
    def test_decoding(self) -> None:
        response = KeysQueryResponse.from_json(answer())
        device = response.device_keys[ALICE.user_id]["PHONE"]  # type: ignore[index]
        assert type(device) is DeviceKeys
        assert type(response.master_keys[BOB.user_id]) is CrossSigningKey
        assert list(response.user_signing_keys) == [ALICE.user_id]
        assert response.user_ids == {ALICE.user_id, BOB.user_id}
        assert response.malformed == ()

    def test_a_homeserver_builds_one_from_models(self) -> None:
        built = KeysQueryResponse(
            device_keys={ALICE.user_id: {"PHONE": ALICE.device("PHONE")}, BOB.user_id: {}},
            master_keys={ALICE.user_id: ALICE.master_key},
            failures={"c.example": {"status": 503}},
            extra={"org.example": [1]},
        )
        body = built.to_json()
        assert KeysQueryResponse.from_json(body) == KeysQueryResponse.from_bytes(json.dumps(body))
        assert KeysQueryResponse.from_json(body).to_json() == body
        assert body["org.example"] == [1]
        assert body["failures"] == {"c.example": {"status": 503}}

    @pytest.mark.parametrize("entry", [None, {}, "x", 5], ids=repr)
    def test_only_models_and_rejections_stand_in_one(self, entry: Any) -> None:
        for members, path in (
            ({"device_keys": {ALICE.user_id: {"PHONE": entry}}}, "/device_keys/@alice:a.example/PHONE"),
            ({"master_keys": {ALICE.user_id: entry}}, "/master_keys/@alice:a.example"),
            ({"extra": {"failures": entry}}, "/extra/failures"),
            ({"device_keys": {"nobody": {}}}, "/device_keys/nobody"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                KeysQueryResponse(**members)
            assert caught.value.path == path

    @pytest.mark.parametrize("bad", [5, None, [], "x"], ids=repr)
    def test_only_maps_make_one(self, bad: Any) -> None:
        for name in ("device_keys", "master_keys", "failures", "extra"):
            with pytest.raises(LocalProtocolError):
                KeysQueryResponse(**{name: bad})
        with pytest.raises(LocalProtocolError):
            KeysQueryResponse(device_keys={"@a:b": bad})
        with pytest.raises(LocalProtocolError):
            KeysQueryResponse(malformed=bad or [None])  # type: ignore[list-item]
        with pytest.raises(LocalProtocolError):
            KeysQueryResponse(failures={5: bad})
        with pytest.raises(LocalProtocolError):
            KeysQueryResponse(master_keys={"@a:b": bad}).to_json()

    @given(keys_query_answers())
    def test_round_trip(self, body: dict[str, Any]) -> None:
        response = KeysQueryResponse.from_json(body)
        assert response.to_json() == body
        again = KeysQueryResponse.from_bytes(json.dumps(body))
        assert again == response
        assert again.to_json() == body

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff", b"<html>", b'{"errcode": "M_UNKNOWN_TOKEN", "error": ""}'],
        ids=repr,
    )
    def test_what_is_no_answer(self, body: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            KeysQueryResponse.from_bytes(body)

    def test_an_answer_about_nobody(self) -> None:
        assert KeysQueryResponse.from_bytes(b"{}") == KeysQueryResponse()

    @pytest.mark.parametrize("name", ["device_keys", "master_keys", "failures"])
    @pytest.mark.parametrize("value", [None, 5, "x", [], 1.5, True])
    def test_a_map_that_is_none_costs_only_itself(self, name: str, value: Any) -> None:
        body = {**answer(), name: value}
        response = KeysQueryResponse.from_json(body)
        assert [rejection.path for rejection in response.malformed] == [f"/{name}"]
        assert getattr(response, name) == {}
        assert response.to_json() == {**body, name: None if value == 1.5 else value}
        assert len(response.self_signing_keys) == 2

    @pytest.mark.parametrize("value", [None, 5, "x", [], True, {}], ids=repr)
    def test_an_entry_that_is_none_costs_only_itself(self, value: Any) -> None:
        body = answer()
        body["device_keys"][ALICE.user_id]["PHONE"] = value
        response = KeysQueryResponse.from_json(body)
        entry = response.device_keys[ALICE.user_id]["PHONE"]  # type: ignore[index]
        assert isinstance(entry, Rejection)
        assert entry.path.startswith("/device_keys/@alice:a.example/PHONE")
        assert (entry.user_id, entry.device_id, entry.raw) == (ALICE.user_id, "PHONE", value)
        assert type(response.device_keys[ALICE.user_id]["a/b~c"]) is DeviceKeys  # type: ignore[index]
        assert response.to_json() == body

    @pytest.mark.parametrize(
        ("signed", "sent"), [("null", '5,"x":null'), ('"1111111111111111111111111111111111111111"', "1" * 40)]
    )
    def test_what_was_refused_does_not_come_out_as_something_acceptable(self, signed: str, sent: str) -> None:
        device = ALICE.device("PHONE", extra={"x": json.loads(signed)})
        text = json.dumps({"device_keys": {ALICE.user_id: {"PHONE": device.to_json()}}}, separators=(",", ":"))
        response = KeysQueryResponse.from_bytes(text.replace(f'"x":{signed}', f'"x":{sent}'))
        assert isinstance(response.device_keys[ALICE.user_id]["PHONE"], Rejection)  # type: ignore[index]
        again = KeysQueryResponse.from_json(response.to_json())
        assert isinstance(again.device_keys[ALICE.user_id]["PHONE"], Rejection)  # type: ignore[index]
        json.dumps(response.to_json(), allow_nan=False)

    def test_what_cannot_be_written_is_not_written(self) -> None:
        body = '{"device_keys": {}, "failures": {"a": 1e400}, "x": [NaN, -Infinity], "y": ' + "9" * 5000 + "}"
        json.dumps(KeysQueryResponse.from_bytes(body).to_json(), allow_nan=False)
        json.dumps(KeysQueryResponse.from_json({"failures": {"a": float("inf")}}).to_json(), allow_nan=False)

    def test_later_changes_by_the_caller_do_not_show(self) -> None:
        inner: dict[str, Any] = {"PHONE": ALICE.device("PHONE")}
        failures: dict[str, Any] = {"down.example": {"status": 503}}
        response = KeysQueryResponse(device_keys={ALICE.user_id: MappingProxyType(inner)}, failures=failures)
        inner["EVIL"] = None
        failures["down.example"]["status"] = 200
        assert list(response.device_keys[ALICE.user_id]) == ["PHONE"]  # type: ignore[arg-type]
        assert response.failures == {"down.example": {"status": 503}}

    def test_paths_are_json_pointers(self) -> None:
        body = answer()
        body["device_keys"][ALICE.user_id]["a/b~c"]["user_id"] = None
        entry = KeysQueryResponse.from_json(body).device_keys[ALICE.user_id]["a/b~c"]  # type: ignore[index]
        assert isinstance(entry, Rejection)
        assert entry.path == "/device_keys/@alice:a.example/a~1b~0c/user_id"

    def test_a_user_whose_devices_are_no_map(self) -> None:
        body = answer()
        body["device_keys"][BOB.user_id] = None
        response = KeysQueryResponse.from_json(body)
        entry = response.device_keys[BOB.user_id]
        assert isinstance(entry, Rejection)
        assert (entry.path, entry.user_id, entry.device_id) == ("/device_keys/@bob:b.example", BOB.user_id, None)
        assert response.to_json() == body

    def test_more_devices_than_one_batch(self) -> None:
        body = keys_query_answer([(ALICE, [ALICE.device("PHONE")])])
        phone = body["device_keys"][ALICE.user_id]["PHONE"]  # type: ignore[index]
        many: dict[str, Any] = {f"D{number}": copy.deepcopy(phone) for number in range(700)}
        many["D300"] = None
        body["device_keys"] = {ALICE.user_id: many, BOB.user_id: {"X": BOB.device("X").to_json()}}
        response = KeysQueryResponse.from_json(body)
        devices = response.device_keys[ALICE.user_id]
        assert list(devices) == list(many)  # type: ignore[arg-type]
        assert [name for name, entry in devices.items() if isinstance(entry, Rejection)] == ["D300"]  # type: ignore[union-attr]
        assert type(response.device_keys[BOB.user_id]["X"]) is DeviceKeys  # type: ignore[index]

    def test_the_caller_keeps_his_object(self) -> None:
        body = answer()
        body["device_keys"][ALICE.user_id]["PHONE"]["added"] = 1.5
        before = copy.deepcopy(body)
        response = KeysQueryResponse.from_json(body)
        assert body == before
        body["device_keys"][BOB.user_id]["X"]["keys"].clear()
        assert response.device_keys[BOB.user_id]["X"].keys  # type: ignore[index, union-attr]

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        body = answer()
        places: list[Any] = [
            value,
            {**body, "device_keys": value},
            {**body, "device_keys": {ALICE.user_id: value}},
            {**body, "device_keys": {ALICE.user_id: {"PHONE": value}}},
            {**body, "failures": value},
            {**body, "master_keys": value},
            {**body, "self_signing_keys": {ALICE.user_id: value}},
            {**body, "added": value},
        ]
        for place in places:
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                KeysQueryResponse.from_json(place).to_json()
            assert repr(place) == before

    @given(st.binary(max_size=64) | st.text(max_size=64))
    def test_no_foreign_exception_on_bytes_and_text(self, body: Any) -> None:
        for read in (KeysQueryResponse.from_bytes, KeysQueryRequest.from_bytes):
            try:
                read(body)
            except E2EKeysError:
                continue
