"""Transactions: EDUs about keys among others, events that are passed on, and what happens to EDUs that are none."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given

from json_strategies import nested, with_frames_left
from matrix_e2e_keys import (
    DeviceListUpdate,
    DirectToDevice,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    JsonLimits,
    LocalProtocolError,
    MatrixError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SendTransactionRequest,
    SendTransactionResponse,
    SigningKeyUpdate,
    UnknownEdu,
    find_endpoint,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
TYPING = {"edu_type": "m.typing", "content": {"room_id": "!r:a.example", "typing": True}}
UPDATE: dict[str, Any] = {
    "edu_type": "m.device_list_update",
    "content": {
        "user_id": ALICE.user_id,
        "device_id": "PHONE",
        "stream_id": 6,
        "prev_id": [5],
        "keys": ALICE.device("PHONE").to_json(),
    },
}
DEFAULT = JsonLimits()
PDU = {"type": "m.room.message", "depth": 3, "content": {"weight": 1.5}}
BODY: dict[str, Any] = {
    "origin": "a.example",
    "origin_server_ts": 1_532_991_320_875,
    "pdus": [PDU],
    "edus": [UPDATE, TYPING],
    "org.example": [1],
}


def changed(**members: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BODY), **members}


def without(name: str) -> dict[str, Any]:
    return {member: value for member, value in copy.deepcopy(BODY).items() if member != name}


def test_a_transaction() -> None:
    request = SendTransactionRequest.from_json(BODY, txn_id="t1/ü")
    assert (request.txn_id, request.origin, request.origin_server_ts) == ("t1/ü", "a.example", 1_532_991_320_875)
    update, typing = request.edus
    assert isinstance(update, DeviceListUpdate)
    assert (update.device_id, update.stream_id, update.prev_ids) == ("PHONE", 6, (5,))
    assert typing == UnknownEdu(edu_type="m.typing", content={"room_id": "!r:a.example", "typing": True})
    assert request.pdus == (PDU,)
    assert request.extra == {"org.example": [1]}
    assert request.to_json() == BODY

    http = request.to_http()
    assert (http.method, http.target) == ("PUT", "/_matrix/federation/v1/send/t1%2F%C3%BC")
    assert find_endpoint(http).endpoint.authentication == "server"
    incoming = read_request(http).request
    assert incoming == request
    assert incoming.to_json() == BODY  # type: ignore[attr-defined]


def test_what_is_made_here() -> None:
    request = SendTransactionRequest(
        txn_id="1",
        origin="a.example",
        origin_server_ts=0,
        edus=(
            SigningKeyUpdate(user_id=ALICE.user_id, master_key=ALICE.master_key),
            DirectToDevice(sender=ALICE.user_id, event_type="m.dummy", message_id="m", messages={}),
        ),
    )
    assert request.to_json() == {
        "origin": "a.example",
        "origin_server_ts": 0,
        "pdus": [],
        "edus": [
            {
                "edu_type": "m.signing_key_update",
                "content": {"user_id": ALICE.user_id, "master_key": ALICE.master_key.to_json()},
            },
            {
                "edu_type": "m.direct_to_device",
                "content": {"sender": ALICE.user_id, "type": "m.dummy", "message_id": "m", "messages": {}},
            },
        ],
    }
    assert SendTransactionRequest.from_http(request.to_http()) == request


def test_one_malformed_edu_costs_only_itself() -> None:
    bad = copy.deepcopy(UPDATE)
    bad["content"]["stream_id"] = "6"
    request = SendTransactionRequest.from_json(changed(edus=[bad, None, TYPING]), txn_id="1")
    first, second, third = request.edus
    assert isinstance(first, Rejection)
    assert (first.path, first.reason, first.raw) == ("/edus/0/content/stream_id", Reason.WRONG_TYPE, bad)
    assert isinstance(second, Rejection)
    assert (second.path, second.reason) == ("/edus/1", Reason.WRONG_TYPE)
    assert isinstance(third, UnknownEdu)
    assert request.to_json()["edus"] == [bad, None, TYPING]


@pytest.mark.parametrize(
    ("body", "path", "reason"),
    [
        ([], "", Reason.WRONG_TYPE),
        (without("origin"), "/origin", Reason.MISSING_MEMBER),
        (without("origin_server_ts"), "/origin_server_ts", Reason.MISSING_MEMBER),
        (without("pdus"), "/pdus", Reason.MISSING_MEMBER),
        (changed(origin="not a name"), "/origin", Reason.INVALID_IDENTIFIER),
        (changed(origin=None), "/origin", Reason.WRONG_TYPE),
        (changed(origin_server_ts="1"), "/origin_server_ts", Reason.WRONG_TYPE),
        (changed(origin_server_ts=1.5), "/origin_server_ts", Reason.NOT_AN_INTEGER),
        (changed(pdus={}), "/pdus", Reason.WRONG_TYPE),
        (changed(edus={}), "/edus", Reason.WRONG_TYPE),
        (changed(edus="x"), "/edus", Reason.WRONG_TYPE),
        (changed(edus=1.5), "/edus", Reason.NOT_AN_INTEGER),
        (changed(pdus=False), "/pdus", Reason.WRONG_TYPE),
        (changed(pdus=2**53), "/pdus", Reason.INTEGER_OUT_OF_RANGE),
        (changed(edus=[TYPING] * 101), "/edus", Reason.TOO_LARGE),
        (changed(edus=[None] * 101), "/edus", Reason.TOO_LARGE),
        (changed(pdus=[PDU] * 51), "/pdus", Reason.TOO_LARGE),
        (changed(pdus=[None] * 51), "/pdus", Reason.TOO_LARGE),
        # They are counted before anything is read.
        ({**without("origin"), "pdus": [PDU] * 51}, "/pdus", Reason.TOO_LARGE),
        ({**without("origin"), "edus": [None] * 101}, "/edus", Reason.TOO_LARGE),
    ],
    ids=lambda value: f"{value}"[-40:],
)
def test_frame_errors(body: Any, path: str, reason: Reason) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        SendTransactionRequest.from_json(body, txn_id="1")
    assert (caught.value.path, caught.value.reason) == (path, reason)
    expected = {Reason.INVALID_IDENTIFIER: (400, "M_INVALID_PARAM"), Reason.TOO_LARGE: (413, "M_TOO_LARGE")}
    assert (caught.value.http_status, caught.value.errcode) == expected.get(reason, (400, "M_BAD_JSON"))


def test_a_hundred_edus_and_none() -> None:
    assert len(SendTransactionRequest.from_json(changed(edus=[TYPING] * 100), txn_id="1").edus) == 100
    assert SendTransactionRequest.from_json(without("edus"), txn_id="1").edus == ()


def test_fifty_pdus_and_none() -> None:
    assert SendTransactionRequest.from_json(changed(pdus=[PDU] * 50), txn_id="1").pdus == (PDU,) * 50
    assert SendTransactionRequest.from_json(changed(pdus=[]), txn_id="1").pdus == ()


@pytest.mark.parametrize("name", ["edus", "pdus"])
def test_null_is_an_empty_list(name: str) -> None:
    request = SendTransactionRequest.from_json(changed(**{name: None}), txn_id="1")
    assert getattr(request, name) == ()
    assert request.to_json() == changed(**{name: []})


@pytest.mark.parametrize(("name", "most"), [("edus", 100), ("pdus", 50)])
def test_no_more_than_allowed_can_be_made(name: str, most: int) -> None:
    unit: Any = {"edus": UnknownEdu(edu_type="m.typing", content={}), "pdus": PDU}[name]
    parts: dict[str, Any] = {"txn_id": "1", "origin": "a.example", "origin_server_ts": 0}
    assert len(getattr(SendTransactionRequest(**parts, **{name: (unit,) * most}), name)) == most
    with pytest.raises(LocalProtocolError) as caught:
        SendTransactionRequest(**parts, **{name: iter([unit] * (most + 1))})
    assert (caught.value.path, caught.value.reason) == (f"/{name}", Reason.TOO_LARGE)
    assert caught.value.detail == f"a transaction holds at most {most} {name}, not {most + 1}"


def transaction(*pdus: str, limits: JsonLimits = DEFAULT) -> SendTransactionRequest:
    body = '{"origin":"a.example","origin_server_ts":0,"pdus":[' + ",".join(pdus) + "]}"
    return SendTransactionRequest.from_bytes(body, txn_id="1", limits=limits)


@pytest.mark.parametrize(
    ("pdu", "path", "reason", "written"),
    [
        ("null", "/pdus/1", Reason.WRONG_TYPE, None),
        ("5", "/pdus/1", Reason.WRONG_TYPE, 5),
        ('[{"a":1}]', "/pdus/1", Reason.WRONG_TYPE, [{"a": 1}]),
        ('"x"', "/pdus/1", Reason.WRONG_TYPE, "x"),
        ("1.5", "/pdus/1", Reason.NOT_AN_INTEGER, None),
        ('{"a":1,"a":1}', "/pdus/1/a", Reason.DUPLICATE_MEMBER, None),
        ('{"b":[{"c/d":1,"c/d":2}]}', "/pdus/1/b/0/c~1d", Reason.DUPLICATE_MEMBER, None),
        ('{"b":1.5,"a":{"x":2.5,"x":3.5}}', "/pdus/1/a/x", Reason.DUPLICATE_MEMBER, None),
        ('{"a":[0,1e400]}', "/pdus/1/a/1", Reason.NOT_AN_INTEGER, None),
        ('{"a":-1e400}', "/pdus/1/a", Reason.NOT_AN_INTEGER, None),
        ('{"a":NaN}', "/pdus/1/a", Reason.NOT_AN_INTEGER, None),
        ('{"a":' + "1" * 33 + "}", "/pdus/1/a", Reason.TOO_MANY_DIGITS, None),
        ('{"a":0.' + "1" * 32 + "}", "/pdus/1/a", Reason.TOO_MANY_DIGITS, None),
        ('{"a":' + "[" * 126 + "]" * 126 + "}", "/pdus/1/a" + "/0" * 125, Reason.TOO_DEEP, None),
    ],
    ids=lambda value: f"{value}"[:30],
)
def test_an_event_that_cannot_be_passed_on_is_set_aside(pdu: str, path: str, reason: Reason, written: Any) -> None:
    request = transaction('{"good":1}', pdu, '{"good":2.5}')
    first, rejection, third = request.pdus
    assert (first, third) == ({"good": 1}, {"good": 2.5})
    assert isinstance(rejection, Rejection)
    assert (rejection.path, rejection.reason) == (path, reason)
    assert request.to_json()["pdus"] == [{"good": 1}, written, {"good": 2.5}]
    again = SendTransactionRequest.from_http(request.to_http())
    assert [isinstance(it, Rejection) for it in again.pdus] == [False, True, False]


@pytest.mark.parametrize(
    "pdu",
    [
        "{}",
        '{"a":1.5,"b":[-0.0,1e+300,2.0,1e-7]}',
        '{"a":9007199254740992,"b":-9223372036854775808}',
        '{"a":' + "1" * 32 + "}",
        '{"\\ud800":"a\\udfff"}',
        '{"a":' + "[" * 125 + "]" * 125 + "}",
    ],
    ids=lambda value: value[:30],
)
def test_an_event_is_passed_on_as_it_is(pdu: str) -> None:
    request = transaction(pdu)
    assert not isinstance(request.pdus[0], Rejection)
    written = json.loads(request.to_http().body)["pdus"]
    assert repr(written) == repr([json.loads(pdu)])
    assert SendTransactionRequest.from_http(request.to_http()) == request


def test_an_event_from_a_parser_of_the_caller() -> None:
    pdus: list[Any] = [{"a": float("inf")}, {"a": 0.5}, {"a": (1,)}, {"b": {5: 1}}]
    first, second, third, fourth = SendTransactionRequest.from_json(changed(pdus=pdus), txn_id="1").pdus
    assert second == {"a": 0.5}
    facts = [(it.path, it.reason) for it in (first, third, fourth) if isinstance(it, Rejection)]
    assert facts == [
        ("/pdus/0/a", Reason.NOT_AN_INTEGER),
        ("/pdus/2/a", Reason.NOT_A_JSON_VALUE),
        ("/pdus/3/b/<int 0>", Reason.NOT_A_JSON_VALUE),
    ]


def test_an_event_that_is_too_deep_for_us_costs_only_itself() -> None:
    deep = '{"a":' + "[" * 390 + "]" * 390 + "}"
    first, second = transaction(deep, '{"good":1}', limits=JsonLimits(max_depth=400)).pdus
    assert isinstance(first, Rejection)
    assert first.reason is Reason.TOO_DEEP
    assert second == {"good": 1}


def test_near_the_recursion_limit() -> None:
    """attack 9: read, or refused as the other side's, however little of the stack is left."""
    body = json.dumps(changed(pdus=[{"a": nested(110)}, {"b": nested(110, of="dict")}]))
    outcomes = set()
    for left in range(60, 700, 5):
        try:
            with_frames_left(left, lambda: SendTransactionRequest.from_bytes(body, txn_id="1"))
        except (E2EKeysError, RecursionError, AssertionError) as error:
            outcomes.add(type(error).__name__)
        else:
            outcomes.add("good")
    assert "good" in outcomes
    assert outcomes <= {"good", "RemoteProtocolError"}


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"txn_id": ".."}, "/txn_id"),
        ({"txn_id": 5}, "/txn_id"),
        ({"origin": 5}, "/origin"),
        ({"origin_server_ts": True}, "/origin_server_ts"),
        ({"edus": [TYPING]}, "/edus/0"),
        ({"edus": "x"}, "/edus"),
        ({"pdus": {}}, "/pdus"),
        ({"pdus": [{"a": object()}]}, "/pdus/0/a"),
        ({"pdus": [{}, None]}, "/pdus/1"),
        ({"pdus": [5]}, "/pdus/0"),
        ({"pdus": "x"}, "/pdus"),
        ({"pdus": [{"a": [float("nan")]}]}, "/pdus/0/a/0"),
        ({"extra": {"edus": []}}, "/extra/edus"),
    ],
)
def test_bad_callers(members: dict[str, Any], path: str) -> None:
    good: dict[str, Any] = {"txn_id": "1", "origin": "a.example", "origin_server_ts": 0}
    SendTransactionRequest(**good)
    with pytest.raises(LocalProtocolError) as caught:
        SendTransactionRequest(**{**good, **members})
    assert caught.value.path == path


def test_nothing_can_be_changed_afterwards() -> None:
    body = copy.deepcopy(BODY)
    request = SendTransactionRequest.from_json(body, txn_id="1")
    body["pdus"][0]["depth"] = 9
    request.to_json()["pdus"][0]["depth"] = 9  # type: ignore[index, call-overload]
    assert request.to_json() == BODY
    made = SendTransactionRequest(txn_id="1", origin="a.example", origin_server_ts=0, pdus=(body["pdus"][0],))
    body["pdus"][0]["depth"] = 10
    made.pdus[0]["content"]["weight"] = 2
    assert made.pdus[0] == {**PDU, "depth": 9}


class TestAnswer:
    def test_both_directions(self) -> None:
        body = {"pdus": {"$a": {}, "$b": {"error": "no"}}, "x": 1.5}
        response = SendTransactionResponse.from_json(body)
        assert response.pdus == {"$a": {}, "$b": {"error": "no"}}
        assert response.extra == {"x": 1.5}
        assert response.to_json() == body
        assert SendTransactionResponse.from_http(response.to_http()) == response

    @pytest.mark.parametrize(
        ("body", "path", "reason"),
        [({}, "/pdus", Reason.MISSING_MEMBER), ({"pdus": []}, "/pdus", Reason.WRONG_TYPE), ([], "", Reason.WRONG_TYPE)],
    )
    def test_frame_errors(self, body: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SendTransactionResponse.from_bytes(json.dumps(body))
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_it_belongs_to_the_request(self) -> None:
        request = SendTransactionRequest(txn_id="1", origin="a.example", origin_server_ts=0)
        assert request.read_answer(HttpResponse(status=200, body=b'{"pdus":{}}')) == SendTransactionResponse()
        with pytest.raises(MatrixError):
            request.read_answer(HttpResponse(status=403, body=b"{}"))


@given(json_like_values(), json_like_values())
def test_no_foreign_exception(value: Any, edu: Any) -> None:
    for body in (value, changed(edus=value), changed(edus=[edu, TYPING]), changed(pdus=value), changed(x=value)):
        try:
            request = SendTransactionRequest.from_json(body, txn_id="1")
            request.to_http()
        except E2EKeysError:
            continue
        assert (
            SendTransactionRequest.from_http(
                HttpRequest(method="PUT", path="/_matrix/federation/v1/send/1", body=request.to_http().body)
            ).origin
            == request.origin
        )
