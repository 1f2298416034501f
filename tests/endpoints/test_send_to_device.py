"""/sendToDevice as values: contents for devices, and what cannot be passed on."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    E2EKeysError,
    HttpRequest,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SendToDeviceRequest,
    SendToDeviceResponse,
)
from matrix_e2e_keys.testing.strategies import json_like_values

PARAMETERS = {"event_type": "m.room.encrypted", "txn_id": "t/1"}


def body() -> dict[str, Any]:
    return {
        "messages": {
            "@alice:a.example": {"*": {"action": "request", "n": [1, None]}, "a/b~c": {}},
            "@bob:b.example": {},
        }
    }


class TestRequest:
    def test_both_directions(self) -> None:
        request = SendToDeviceRequest(event_type="m.room.encrypted", txn_id="t/1", messages=body()["messages"])
        assert request.to_json() == body()
        sent = request.to_http()
        assert (sent.method, sent.target) == ("PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/t%2F1")
        assert json.loads(sent.body) == body()
        assert request.to_http(CLIENT_R0).path == "/_matrix/client/r0/sendToDevice/m.room.encrypted/t%2F1"
        assert SendToDeviceRequest.from_http(sent) == request
        assert SendToDeviceRequest.from_json(body(), **PARAMETERS) == request
        assert SendToDeviceRequest.from_bytes(json.dumps(body()), **PARAMETERS) == request
        assert request.messages["@alice:a.example"]["*"] == {"action": "request", "n": [1, None]}  # type: ignore[index]

    def test_the_draft_of_2015_has_none(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SendToDeviceRequest(event_type="m.x", txn_id="1", messages={}).to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"event_type": ""}, "/event_type", Reason.INVALID_IDENTIFIER),
            ({"txn_id": ""}, "/txn_id", Reason.INVALID_IDENTIFIER),
            ({"txn_id": "."}, "/txn_id", Reason.INVALID_IDENTIFIER),
            ({"event_type": ".."}, "/event_type", Reason.INVALID_IDENTIFIER),
        ],
    )
    def test_what_cannot_stand_in_a_path(self, members: dict[str, str], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SendToDeviceRequest(**{**PARAMETERS, **members}, messages={})
        assert (caught.value.path, caught.value.reason) == (path, reason)
        with pytest.raises(RemoteProtocolError) as remote:
            SendToDeviceRequest.from_json({"messages": {}}, **{**PARAMETERS, **members})
        assert (remote.value.path, remote.value.reason) == (path, reason)
        assert (remote.value.http_status, remote.value.errcode) == (400, "M_INVALID_PARAM")

    @pytest.mark.parametrize(
        ("parameters", "path", "reason"),
        [
            ({"event_type": "m.x"}, "/txn_id", Reason.MISSING_PARAMETER),
            ({"txn_id": "1"}, "/event_type", Reason.MISSING_PARAMETER),
            ({**PARAMETERS, "device_id": "D"}, "", Reason.INVALID_VALUE),
        ],
    )
    def test_bad_parameters(self, parameters: dict[str, str], path: str, reason: Reason) -> None:
        for read in (
            lambda: SendToDeviceRequest.from_bytes(json.dumps(body()), **parameters),
            lambda: SendToDeviceRequest.from_json(body(), **parameters),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("sent", "path", "reason", "errcode"),
        [
            (b"[]", "", Reason.WRONG_TYPE, "M_BAD_JSON"),
            (b"{}", "/messages", Reason.MISSING_MEMBER, "M_BAD_JSON"),
            (b'{"message": {}}', "/messages", Reason.MISSING_MEMBER, "M_BAD_JSON"),
            (b"", "", Reason.NOT_JSON, "M_NOT_JSON"),
            (b"\xff", "", Reason.NOT_UTF8, "M_NOT_JSON"),
        ],
    )
    def test_what_is_no_frame(self, sent: bytes, path: str, reason: Reason, errcode: str) -> None:
        for read in (
            lambda: SendToDeviceRequest.from_bytes(sent, **PARAMETERS),
            lambda: SendToDeviceRequest.from_http(
                HttpRequest(method="PUT", path="/_matrix/client/v3/sendToDevice/m.x/1", body=sent)
            ),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            error = caught.value
            assert (error.path, error.reason, error.errcode, error.http_status) == (path, reason, errcode, 400)

    @pytest.mark.parametrize("value", [None, [], "x", 5, True, 1.5], ids=repr)
    def test_messages_that_are_no_map_are_set_aside(self, value: Any) -> None:
        request = SendToDeviceRequest.from_json({"messages": value, "x": 1}, **PARAMETERS)
        (rejection,) = request.malformed
        reason = Reason.NOT_AN_INTEGER if value == 1.5 else Reason.WRONG_TYPE
        assert (rejection.path, rejection.reason, rejection.raw) == ("/messages", reason, value)
        assert request.messages == {}
        assert request.to_json() == {"messages": None if value == 1.5 else value, "x": 1}

    @pytest.mark.parametrize(
        ("place", "entry", "path", "reason", "device"),
        [
            (("@c:d",), None, "/@c:d", Reason.WRONG_TYPE, None),
            (("@c:d",), [], "/@c:d", Reason.WRONG_TYPE, None),
            (("bob",), {"*": {}}, "/bob", Reason.INVALID_IDENTIFIER, None),
            (("@alice:a.example", "x/y"), None, "/@alice:a.example/x~1y", Reason.WRONG_TYPE, "x/y"),
            (("@alice:a.example", "*"), "x", "/@alice:a.example/*", Reason.WRONG_TYPE, "*"),
            (("@alice:a.example", "*"), [{}], "/@alice:a.example/*", Reason.WRONG_TYPE, "*"),
            (("@alice:a.example", "*"), {"a": [1.5]}, "/@alice:a.example/*/a/0", Reason.NOT_AN_INTEGER, "*"),
            (("@alice:a.example", "*"), {"a": 2**53}, "/@alice:a.example/*/a", Reason.INTEGER_OUT_OF_RANGE, "*"),
            (("@alice:a.example", "*"), {"a": "\ud800"}, "/@alice:a.example/*/a", Reason.LONE_SURROGATE, "*"),
        ],
        ids=repr,
    )
    def test_an_entry_that_is_none_costs_only_itself(
        self, place: tuple[str, ...], entry: Any, path: str, reason: Reason, device: str | None
    ) -> None:
        sent = body()
        at = sent["messages"]
        for name in place[:-1]:
            at = at[name]
        at[place[-1]] = entry
        request = SendToDeviceRequest.from_json(sent, **PARAMETERS)
        found: Any = request.messages
        for name in place:
            found = found[name]
        assert isinstance(found, Rejection)
        assert (found.path, found.reason) == (f"/messages{path}", reason)
        assert (found.user_id, found.device_id, found.raw) == (place[0], device, entry)
        assert request.messages["@bob:b.example"] == {}
        assert request.messages["@alice:a.example"]["a/b~c"] == {}  # type: ignore[index]
        assert request.malformed == ()
        if reason not in (Reason.WRONG_TYPE, Reason.INVALID_IDENTIFIER):
            at[place[-1]] = None
        assert request.to_json() == sent

    @pytest.mark.parametrize(
        ("entry", "inside", "reason"),
        [
            ('{"a": 1, "a": 2}', "/a", Reason.DUPLICATE_MEMBER),
            ('{"a": -0}', "/a", Reason.NEGATIVE_ZERO),
            ('{"a": NaN}', "/a", Reason.NOT_AN_INTEGER),
            ('{"a": 1e400}', "/a", Reason.NOT_AN_INTEGER),
            ('{"\\ud800": 1}', "/\\ud800", Reason.LONE_SURROGATE),
            ('{"a": ' + "[" * 200 + "]" * 200 + "}", "/a" + "/0" * 124, Reason.TOO_DEEP),
        ],
    )
    def test_a_fault_of_the_bytes_costs_only_the_content_it_stands_in(
        self, entry: str, inside: str, reason: Reason
    ) -> None:
        sent = body()
        sent["messages"]["@alice:a.example"]["*"] = "HERE"
        request = SendToDeviceRequest.from_bytes(json.dumps(sent).replace('"HERE"', entry), **PARAMETERS)
        messages: Any = request.messages["@alice:a.example"]
        assert (messages["*"].path, messages["*"].reason) == (f"/messages/@alice:a.example/*{inside}", reason)
        assert messages["a/b~c"] == {}
        sent["messages"]["@alice:a.example"]["*"] = None
        assert request.to_json() == sent

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"event_type": None}, "/event_type", Reason.WRONG_TYPE),
            ({"event_type": "\ud800"}, "/event_type", Reason.LONE_SURROGATE),
            ({"txn_id": 5}, "/txn_id", Reason.WRONG_TYPE),
            ({"messages": None}, "/messages", Reason.WRONG_TYPE),
            ({"messages": {"bob": {}}}, "/messages/bob", Reason.INVALID_IDENTIFIER),
            ({"messages": {"@a:b": None}}, "/messages/@a:b", Reason.WRONG_TYPE),
            ({"messages": {"@a:b": {"D": None}}}, "/messages/@a:b/D", Reason.WRONG_TYPE),
            ({"messages": {"@a:b": {"D": {5: 1}}}}, "/messages/@a:b/D", Reason.WRONG_TYPE),
            ({"messages": {"@a:b": {"D": {"x": 1.5}}}}, "/messages/@a:b/D/x", Reason.NOT_AN_INTEGER),
            ({"messages": {"@a:b": {"D": {"x": [b""]}}}}, "/messages/@a:b/D/x/0", Reason.NOT_A_JSON_VALUE),
            ({"messages": {"@a:b": {"D": {"\ud800": 1}}}}, "/messages/@a:b/D/\\ud800", Reason.LONE_SURROGATE),
            ({"malformed": 5}, "/malformed", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            SendToDeviceRequest(**{**PARAMETERS, "messages": {}, **members})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (
            value,
            {"messages": value},
            {"messages": {"@a:b": value}},
            {"messages": {"@a:b": {"D": value}}},
            {"messages": {"@a:b": {"D": {"x": value}}}},
            {**body(), "x": value},
        ):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                SendToDeviceRequest.from_json(place, **PARAMETERS).to_http()
            assert repr(place) == before


class TestResponse:
    def test_both_directions(self) -> None:
        assert SendToDeviceResponse().to_json() == {}
        assert SendToDeviceResponse.from_bytes(b"{}") == SendToDeviceResponse()
        assert SendToDeviceResponse.from_json({"messages": {}}).to_json() == {"messages": {}}

    @pytest.mark.parametrize("sent", [b"[]", b"null", b"5"])
    def test_what_is_no_answer(self, sent: bytes) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SendToDeviceResponse.from_bytes(sent)
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)
