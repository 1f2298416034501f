"""Maps that hold many people's data: one entry costs nothing but itself, and comes out as it went in."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    DeviceKeys,
    DeviceLists,
    DeviceSigningUploadRequest,
    KeysChangesResponse,
    KeysClaimResponse,
    KeysQueryResponse,
    KeysUploadRequest,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    Rejection,
    SendToDeviceRequest,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
    UserDevice,
    UserDevicesResponse,
    UserKeysClaimResponse,
    UserKeysQueryResponse,
)
from matrix_e2e_keys.endpoints.entries import EntryBatch
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
CURVE = sample_curve25519_key("x").to_base64()
SIGNED_KEY = ALICE.one_time_key("PHONE", "AAAAAQ")


def rejection(path: str, raw: object = None, reason: Reason = Reason.WRONG_TYPE) -> Rejection:
    return Rejection(path=path, reason=reason, detail="refused", raw=raw)


def facts(entry: Any) -> tuple[str, Reason, object, str | None, str | None]:
    assert type(entry) is Rejection
    return entry.path, entry.reason, entry.raw, entry.user_id, entry.device_id


class TestReading:
    def test_one_time_keys(self) -> None:
        body: dict[str, Any] = {
            "one_time_keys": {
                "signed_curve25519:AAAAAQ": SIGNED_KEY.to_json(),
                "curve25519:A/~": CURVE,
                "nocolon": CURVE,
                "curve25519:B": None,
                "signed_curve25519:C": {"key": 5, "signatures": {}},
            }
        }
        request = KeysUploadRequest.from_json(body)
        keys = request.one_time_keys
        assert keys["signed_curve25519:AAAAAQ"] == SIGNED_KEY
        assert type(keys["curve25519:A/~"]) is OneTimeKey
        assert facts(keys["nocolon"])[:2] == ("/one_time_keys/nocolon", Reason.INVALID_KEY_ID)
        assert facts(keys["curve25519:B"]) == (
            "/one_time_keys/curve25519:B",
            Reason.WRONG_TYPE,
            None,
            None,
            None,
        )
        assert facts(keys["signed_curve25519:C"])[:2] == ("/one_time_keys/signed_curve25519:C/key", Reason.WRONG_TYPE)
        assert request.to_json() == body

    def test_of_users_and_devices(self) -> None:
        body: dict[str, Any] = {
            "one_time_keys": {
                "nobody": {"D": 1},
                "@a:b": 5,
                "@alice:a.example": {"PHONE": {"signed_curve25519:AAAAAQ": SIGNED_KEY.to_json()}, "a/b": None},
                "@c:d": {"D": {"x:y": [], "curve25519:A": "!"}},
            },
            "failures": {},
        }
        response = KeysClaimResponse.from_json(body)
        keys: Any = response.one_time_keys
        assert facts(keys["nobody"]) == (
            "/one_time_keys/nobody",
            Reason.INVALID_IDENTIFIER,
            {"D": 1},
            "nobody",
            None,
        )
        assert facts(keys["@a:b"]) == ("/one_time_keys/@a:b", Reason.WRONG_TYPE, 5, "@a:b", None)
        assert keys["@alice:a.example"]["PHONE"] == {"signed_curve25519:AAAAAQ": SIGNED_KEY}
        assert facts(keys["@alice:a.example"]["a/b"]) == (
            "/one_time_keys/@alice:a.example/a~1b",
            Reason.WRONG_TYPE,
            None,
            "@alice:a.example",
            "a/b",
        )
        assert facts(keys["@c:d"]["D"]["x:y"]) == ("/one_time_keys/@c:d/D/x:y", Reason.WRONG_TYPE, [], "@c:d", "D")
        assert facts(keys["@c:d"]["D"]["curve25519:A"])[1] is Reason.INVALID_BASE64
        assert response.to_json() == body

    def test_what_a_value_made_of_an_entry_refuses(self) -> None:
        """The path of a constructor's error is followed into the entry, escapes and all."""
        response = UserDevicesResponse.from_json(
            {
                "user_id": "@a:b",
                "stream_id": 1,
                "devices": [{"device_id": 5}, {"device_id": "D", "device_display_name": True}, {"device_id": "D"}],
            }
        )
        assert facts(response.devices[0])[:3] == ("/devices/0/device_id", Reason.WRONG_TYPE, {"device_id": 5})
        assert facts(response.devices[1])[:2] == ("/devices/1/device_display_name", Reason.WRONG_TYPE)
        assert response.devices[2] == UserDevice(device_id="D")
        huge: dict[str, Any] = {"a/b~c": [10**5000]}
        failures = SignaturesUploadResponse.from_json({"failures": {"@a:b": {"x/y": {"error": 5}, "z": huge}}})
        of_user: Any = failures.failures["@a:b"]
        assert facts(of_user["x/y"]) == (
            "/failures/@a:b/x~1y/error",
            Reason.WRONG_TYPE,
            {"error": 5},
            "@a:b",
            None,
        )
        # An unknown member costs nothing: what no interpreter writes in decimal is described.
        assert of_user["z"].extra == {"a/b~c": ["an integer of about 5000 digits"]}

    def test_members_that_may_be_missing(self) -> None:
        assert KeysUploadRequest.from_json({}).device_keys is None
        good = ALICE.device("PHONE")
        assert KeysUploadRequest.from_json({"device_keys": good.to_json()}).device_keys == good
        assert facts(KeysUploadRequest.from_json({"device_keys": None}).device_keys)[:3] == (
            "/device_keys",
            Reason.WRONG_TYPE,
            None,
        )
        answer: dict[str, Any] = {"user_id": "@a:b", "stream_id": 1, "devices": [], "master_key": None}
        assert UserDevicesResponse.from_json(answer).master_key is None
        refused = UserDevicesResponse.from_json({**answer, "master_key": 5})
        assert facts(refused.master_key)[:3] == ("/master_key", Reason.WRONG_TYPE, 5)

    def test_keys_and_objects(self) -> None:
        request = DeviceSigningUploadRequest.from_json(
            {"master_key": ALICE.master_key.to_json(), "user_signing_key": 1}
        )
        assert request.master_key == ALICE.master_key
        assert facts(request.user_signing_key)[:2] == ("/user_signing_key", Reason.WRONG_TYPE)
        signed: dict[str, Any] = {"@a:b": {"D": {"x": 1}, "E": 5}, "@c:d": None, "nobody": {}}
        upload = SignaturesUploadRequest.from_json(signed)
        of_user: Any = upload.signed_objects["@a:b"]
        assert of_user["D"] == SignedJson.from_json({"x": 1})
        assert facts(of_user["E"]) == ("/@a:b/E", Reason.WRONG_TYPE, 5, "@a:b", None)
        assert facts(upload.signed_objects["@c:d"])[:2] == ("/@c:d", Reason.WRONG_TYPE)
        assert facts(upload.signed_objects["nobody"])[:2] == ("/nobody", Reason.INVALID_IDENTIFIER)
        assert upload.to_json() == signed

    def test_maps_that_are_none(self) -> None:
        request = KeysUploadRequest.from_json({"one_time_keys": [], "fallback_keys": None})
        assert (request.one_time_keys, request.fallback_keys) == ({}, {})
        assert [facts(entry)[:3] for entry in request.malformed] == [
            ("/one_time_keys", Reason.WRONG_TYPE, []),
            ("/fallback_keys", Reason.WRONG_TYPE, None),
        ]
        assert request.to_json() == {"one_time_keys": [], "fallback_keys": None}

    def test_lists_of_users(self) -> None:
        body: dict[str, Any] = {"changed": ["@a:b", 5, "nobody", "@c:d", None], "left": "x", "more": 1}
        response = KeysChangesResponse.from_json(body)
        assert (response.changed, response.left) == (("@a:b", "@c:d"), ())
        assert [facts(entry)[:3] for entry in response.malformed] == [
            ("/left", Reason.WRONG_TYPE, "x"),
            ("/changed/1", Reason.WRONG_TYPE, 5),
            ("/changed/2", Reason.INVALID_IDENTIFIER, "nobody"),
            ("/changed/4", Reason.WRONG_TYPE, None),
        ]
        assert response.to_json() == body
        assert KeysChangesResponse.from_json(response.to_json()) == response
        assert KeysChangesResponse.from_json({}) == KeysChangesResponse()

    @pytest.mark.parametrize("devices", [1, 63, 64, 65, 127, 128, 129, 300])
    def test_batches_of_any_size(self, devices: int) -> None:
        body: dict[str, Any] = keys_query_answer([(ALICE, []), (BOB, [BOB.device("X")])])
        good = ALICE.device("PHONE").to_json()
        entries: dict[str, Any] = {f"D{number}": good for number in range(devices)}
        entries[f"D{devices // 2}"] = None
        body["device_keys"][ALICE.user_id] = entries
        response = KeysQueryResponse.from_json(body)
        read: Any = response.device_keys[ALICE.user_id]
        assert list(read) == list(entries)
        for name, entry in read.items():
            if name == f"D{devices // 2}":
                assert facts(entry)[:2] == (f"/device_keys/@alice:a.example/{name}", Reason.WRONG_TYPE)
                assert facts(entry)[3:] == ("@alice:a.example", name)
            else:
                assert type(entry) is DeviceKeys
        of_bob: Any = response.device_keys[BOB.user_id]
        assert of_bob["X"] == BOB.device("X")

    def test_nothing_is_read_twice(self) -> None:
        seen: list[int] = []
        into: dict[str, Any] = {}

        def read(trees: Sequence[Any]) -> Sequence[Any]:
            seen.extend(trees)
            return [-tree for tree in trees]

        batch = EntryBatch(read)
        batch.add(into, {"a": 1, "b": 2}, "x")
        assert (seen, into) == ([], {})
        batch.add(into, {str(number): number for number in range(3, 301)}, "x")
        batch.add(into, {"c": 301}, "x")
        batch.read()
        batch.read()
        assert seen == list(range(1, 302))
        assert into["b"] == -2
        assert (into["300"], into["c"], len(into)) == (-300, -301, 301)

    def test_keys_of_users(self) -> None:
        body: dict[str, Any] = {"master_keys": {"@a:b": 5}, "device_keys": {}}
        entry = KeysQueryResponse.from_json(body).master_keys["@a:b"]
        assert facts(entry) == ("/master_keys/@a:b", Reason.WRONG_TYPE, 5, "@a:b", None)


class TestMaking:
    def test_only_a_rejection_stands_under_a_name_that_is_no_user_id(self) -> None:
        aside = rejection("/messages/nobody", raw={"x": 1})
        request = SendToDeviceRequest(event_type="m", txn_id="1", messages={"nobody": aside, "@a:b": {"D": aside}})
        assert request.messages["nobody"] is aside
        assert request.to_json() == {"messages": {"nobody": {"x": 1}, "@a:b": {"D": {"x": 1}}}}
        with pytest.raises(LocalProtocolError) as caught:
            SendToDeviceRequest(event_type="m", txn_id="1", messages={"nobody": {}})
        assert (caught.value.path, caught.value.reason) == ("/messages/nobody", Reason.INVALID_IDENTIFIER)

    @pytest.mark.parametrize(
        ("malformed", "path", "reason"),
        [
            (None, "/malformed", Reason.WRONG_TYPE),
            ([None], "/malformed/0", Reason.WRONG_TYPE),
            (["/changed"], "/malformed/0", Reason.WRONG_TYPE),
            ([rejection("/changed"), rejection("")], "/malformed/1", Reason.INVALID_VALUE),
            ([rejection("/")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/other")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("changed")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/changed/x")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/changed/-1")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/changed/1/2")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/changed/1234567890")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/changed/²")], "/malformed/0", Reason.INVALID_VALUE),
            ([rejection("/other/1")], "/malformed/0", Reason.INVALID_VALUE),
        ],
    )
    def test_what_is_malformed_is_named_by_rejections(self, malformed: Any, path: str, reason: Reason) -> None:
        for kind in (KeysChangesResponse, DeviceLists):
            with pytest.raises(LocalProtocolError) as caught:
                kind(malformed=malformed)
            assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("kind", "members", "name"),
        [
            (KeysChangesResponse, {"changed": ("@a:b",)}, "changed"),
            (KeysChangesResponse, {"changed": ("@a:b",), "left": ("@a:b",)}, "left"),
            (DeviceLists, {"left": ("@a:b",)}, "left"),
            (KeysUploadRequest, {"one_time_keys": {"x:y": rejection("/one_time_keys/x:y")}}, "one_time_keys"),
            (KeysUploadRequest, {"fallback_keys": {"x:y": rejection("/fallback_keys/x:y")}}, "fallback_keys"),
            (KeysQueryResponse, {"device_keys": {"@a:b": {}}}, "device_keys"),
            (KeysQueryResponse, {"master_keys": {"@a:b": rejection("/master_keys/@a:b")}}, "master_keys"),
            (KeysQueryResponse, {"failures": {"b": None}}, "failures"),
            (KeysClaimResponse, {"one_time_keys": {"@a:b": {}}}, "one_time_keys"),
            (KeysClaimResponse, {"failures": {"b": {}}}, "failures"),
            (SendToDeviceRequest, {"event_type": "m", "txn_id": "1", "messages": {"@a:b": {}}}, "messages"),
            (SignaturesUploadResponse, {"failures": {"@a:b": {}}}, "failures"),
            (
                UserKeysQueryResponse,
                {"self_signing_keys": {"x": rejection("/self_signing_keys/x")}},
                "self_signing_keys",
            ),
            (UserKeysClaimResponse, {"one_time_keys": {"@a:b": {}}}, "one_time_keys"),
            (
                UserDevicesResponse,
                {"user_id": "@a:b", "stream_id": 1, "devices": (UserDevice(device_id="D"),)},
                "devices",
            ),
        ],
    )
    def test_a_member_that_is_malformed_is_empty(self, kind: Any, members: dict[str, Any], name: str) -> None:
        malformed = (rejection(f"/{name}", 5),)
        with pytest.raises(LocalProtocolError) as caught:
            kind(**members, malformed=malformed)
        assert (caught.value.path, caught.value.reason) == ("/malformed/0", Reason.INVALID_VALUE)
        empty = kind(**{**members, name: () if type(members[name]) is tuple else {}}, malformed=malformed)
        assert empty.malformed == malformed
        assert empty.to_json()[name] == 5

    def test_entries_of_maps_are_not_malformed_members(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest(malformed=(rejection("/one_time_keys/0"),))
        assert (caught.value.path, caught.value.reason) == ("/malformed/0", Reason.INVALID_VALUE)

    def test_entries_of_lists_find_their_places(self) -> None:
        response = KeysChangesResponse(
            changed=[f"@{number}:b" for number in (1, 3, 4, 5, 6, 7, 8, 9)],  # type: ignore[arg-type]
            malformed=[rejection("/changed/10", 10), rejection("/changed/2", 2), rejection("/changed/0", 0)],  # type: ignore[arg-type]
        )
        assert [entry.path for entry in response.malformed] == ["/changed/0", "/changed/2", "/changed/10"]
        good = [f"@{number}:b" for number in range(11)]
        assert response.to_json() == {"changed": [0, good[1], 2, *good[3:10], 10], "left": []}

    @pytest.mark.parametrize(
        ("malformed", "path"),
        [
            (["/changed/1", "/changed/1"], "/malformed/1"),
            (["/changed/0", "/left/0", "/changed/1", "/left/0"], "/malformed/3"),
            (["/changed/1", "/changed/01"], "/malformed/1"),
            (["/changed/0", "/changed"], "/malformed/1"),
            (["/left", "/left/0"], "/malformed/1"),
            (["/left", "/left"], "/malformed/1"),
            (["/changed/3"], "/malformed"),
            (["/changed/0", "/changed/4"], "/malformed"),
            (["/changed/999999999"], "/malformed"),
            (["/left/1"], "/malformed"),
            (["/changed/0", "/left/0", "/left/2"], "/malformed"),
        ],
        ids=" ".join,
    )
    def test_entries_of_lists_stand_where_they_can(self, malformed: list[str], path: str) -> None:
        for kind in (KeysChangesResponse, DeviceLists):
            with pytest.raises(LocalProtocolError) as caught:
                kind(changed=("@a:b", "@c:d"), malformed=tuple(rejection(at) for at in malformed))
            assert (caught.value.path, caught.value.reason) == (path, Reason.INVALID_VALUE)

    @pytest.mark.parametrize(
        ("malformed", "written"),
        [
            (["/changed/2"], {"changed": ["@a:b", "@c:d", "/changed/2"], "left": []}),
            (["/changed/3", "/changed/0"], {"changed": ["/changed/0", "@a:b", "@c:d", "/changed/3"], "left": []}),
            (
                ["/left/1", "/changed/1", "/left/0"],
                {"changed": ["@a:b", "/changed/1", "@c:d"], "left": ["/left/0", "/left/1"]},
            ),
            (["/left", "/changed/1"], {"changed": ["@a:b", "/changed/1", "@c:d"], "left": "/left"}),
        ],
        ids=" ".join,
    )
    def test_the_last_place_there_is(self, malformed: list[str], written: dict[str, Any]) -> None:
        response = KeysChangesResponse(changed=("@a:b", "@c:d"), malformed=tuple(rejection(at, at) for at in malformed))
        assert response.to_json() == written

    @pytest.mark.parametrize("good", [0, 1])
    def test_many_malformed_entries_cost_no_more_each(self, good: int) -> None:
        """Ten times the entries take ten times the steps, to read and to write."""

        def lines(entries: int) -> int:
            body = {"changed": [5 if good == 0 or place % 2 else "@a:b" for place in range(entries)]}
            count = 0

            def trace(_frame: FrameType, event: str, _argument: object) -> Callable[..., Any]:
                nonlocal count
                count += event == "line"
                return trace

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                response = KeysChangesResponse.from_json(body)
                written = response.to_json()
            finally:
                sys.settrace(before)
            assert written == {**body, "left": []}
            return count

        lines(10)
        assert lines(2000) < 11 * lines(200)

    @pytest.mark.parametrize("path", ["/changed/", "/left/"])
    def test_an_empty_index(self, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesResponse(malformed=(rejection(path),))
        assert (caught.value.path, caught.value.reason) == ("/malformed/0", Reason.INVALID_VALUE)

    def test_a_path_begins_with_a_slash(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesResponse(malformed=(rejection("x/changed"),))
        assert (caught.value.path, caught.value.reason) == ("/malformed/0", Reason.INVALID_VALUE)

    def test_a_list_that_is_none_has_no_entries(self) -> None:
        with pytest.raises(LocalProtocolError):
            KeysChangesResponse(malformed=(rejection("/changed"), rejection("/changed/0"))).to_json()

    @pytest.mark.parametrize("path", [None, 5, b"/changed"], ids=repr)
    def test_a_path_is_text(self, path: Any) -> None:
        with pytest.raises(LocalProtocolError):
            KeysChangesResponse(malformed=(rejection(path),))


class TestWriting:
    @pytest.mark.parametrize(
        "reason",
        [
            Reason.DUPLICATE_MEMBER,
            Reason.NOT_AN_INTEGER,
            Reason.INTEGER_OUT_OF_RANGE,
            Reason.TOO_MANY_DIGITS,
            Reason.NEGATIVE_ZERO,
            Reason.LONE_SURROGATE,
            Reason.NOT_A_JSON_VALUE,
            Reason.TOO_DEEP,
        ],
    )
    def test_what_canonical_json_cannot_carry_is_null(self, reason: Reason) -> None:
        request = KeysUploadRequest(
            device_keys=rejection("/device_keys", {"x": 1}, reason),
            one_time_keys={"x:y": rejection("/one_time_keys/x:y", "z", reason)},
            malformed=(rejection("/fallback_keys", 5, reason),),
        )
        assert request.to_json() == {"device_keys": None, "one_time_keys": {"x:y": None}, "fallback_keys": None}

    @pytest.mark.parametrize("reason", [Reason.WRONG_TYPE, Reason.MISSING_MEMBER, Reason.INVALID_KEY_ID])
    def test_anything_else_is_written_as_it_came(self, reason: Reason) -> None:
        raw = {"x": [1, {"y": None}]}
        request = KeysUploadRequest(device_keys=rejection("/device_keys", raw, reason))
        written: Any = request.to_json()
        assert written == {"device_keys": {"x": [1, {"y": None}]}}
        written["device_keys"]["x"].clear()
        assert raw == {"x": [1, {"y": None}]}

    @pytest.mark.parametrize(
        ("sent", "reason"),
        [
            ('{"a":1,"a":2}', Reason.DUPLICATE_MEMBER),
            ('{"a":1.5}', Reason.NOT_AN_INTEGER),
            ('{"a":1e2}', Reason.NOT_AN_INTEGER),
            ('{"a":9007199254740992}', Reason.INTEGER_OUT_OF_RANGE),
            ('{"a":-0}', Reason.NEGATIVE_ZERO),
            ('{"a":"\\ud800"}', Reason.LONE_SURROGATE),
            ('{"a":' + "1" * 40 + "}", Reason.TOO_MANY_DIGITS),
            ('{"a":' + "[" * 130 + "]" * 130 + "}", Reason.TOO_DEEP),
        ],
    )
    def test_what_was_refused_is_refused_again(self, sent: str, reason: Reason) -> None:
        body = '{"messages":{"@a:b":{"D":' + sent + ',"E":{"good":1}}}}'
        request = SendToDeviceRequest.from_bytes(body, event_type="m", txn_id="1")
        of_user: Any = request.messages["@a:b"]
        assert facts(of_user["D"])[1] is reason
        assert of_user["E"] == {"good": 1}
        written = request.to_http().body
        assert json.loads(written) == {"messages": {"@a:b": {"D": None, "E": {"good": 1}}}}
        again: Any = SendToDeviceRequest.from_bytes(written, event_type="m", txn_id="1").messages["@a:b"]
        assert type(again["D"]) is Rejection

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        before = repr(value)
        for request in (
            KeysUploadRequest.from_json(
                {"device_keys": value, "one_time_keys": value, "fallback_keys": {"x:y": value}}
            ),
            SendToDeviceRequest.from_json({"messages": {"@a:b": value, "x": value}}, event_type="m", txn_id="1"),
            SignaturesUploadRequest.from_json({"@a:b": {"D": value}, "@c:d": value}),
        ):
            http = request.to_http()
            json.loads(http.body)
        assert repr(value) == before

    @pytest.mark.parametrize("raw", [object(), b"x", {1, 2}, [(), 1j]], ids=lambda raw: type(raw).__name__)
    def test_what_is_no_json_is_null(self, raw: object) -> None:
        request = KeysUploadRequest(device_keys=rejection("/device_keys", raw))
        assert request.to_http().body == b'{"device_keys":null}'
