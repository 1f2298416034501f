"""What all requests and answers have in common: statuses, limits, parameters, who is to blame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matrix_e2e_keys
from matrix_e2e_keys import (
    CLIENT_V2_ALPHA,
    ENDPOINTS,
    BodyRequest,
    DeviceSigningUploadResponse,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    JsonLimits,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    RemoteProtocolError,
    Request,
    Response,
    SendToDeviceRequest,
    SendToDeviceResponse,
    ServerKeysRequest,
    SignaturesUploadResponse,
    UserDevicesRequest,
    UserKeysQueryResponse,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser

BASES: tuple[type, ...] = (Request, BodyRequest, Response)
PUBLIC = [getattr(matrix_e2e_keys, name) for name in matrix_e2e_keys.__all__]
CLASSES = [value for value in PUBLIC if isinstance(value, type) and value not in BASES]
REQUESTS: list[Any] = [kind for kind in CLASSES if issubclass(kind, Request)]
BODY_REQUESTS: list[Any] = [kind for kind in CLASSES if issubclass(kind, BodyRequest)]
RESPONSES: list[Any] = [kind for kind in CLASSES if issubclass(kind, Response)]

PATHS = {
    "keys_upload": "/_matrix/client/v3/keys/upload",
    "keys_query": "/_matrix/client/v3/keys/query",
    "keys_claim": "/_matrix/client/v3/keys/claim",
    "keys_changes": "/_matrix/client/v3/keys/changes",
    "device_signing_upload": "/_matrix/client/v3/keys/device_signing/upload",
    "signatures_upload": "/_matrix/client/v3/keys/signatures/upload",
    "send_to_device": "/_matrix/client/v3/sendToDevice/m.dummy/1",
    "user_keys_query": "/_matrix/federation/v1/user/keys/query",
    "user_keys_claim": "/_matrix/federation/v1/user/keys/claim",
    "user_devices": "/_matrix/federation/v1/user/devices/%40a:b",
    "send_transaction": "/_matrix/federation/v1/send/1",
    "server_keys": "/_matrix/key/v2/server",
}
METHODS = {
    "keys_changes": "GET",
    "send_to_device": "PUT",
    "user_devices": "GET",
    "send_transaction": "PUT",
    "server_keys": "GET",
}
PARAMETERS = {"send_to_device": {"event_type": "m.dummy", "txn_id": "1"}, "send_transaction": {"txn_id": "1"}}


def http_of(kind: Any, body: bytes = b"{}", query: str = "from=a&to=b") -> HttpRequest:
    name = kind.endpoint.name
    return HttpRequest(method=METHODS.get(name, "POST"), path=PATHS[name], query=query, body=body)


def facts(caught: Any) -> tuple[str, Reason]:
    return caught.value.path, caught.value.reason


class TestStatuses:
    @pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("status", [100, 101, 199, 300, 301, 304, 399])
    def test_neither_yes_nor_no(self, kind: Any, status: int) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            kind.from_http(HttpResponse(status=status, body=b"{}"))
        assert facts(caught) == ("", Reason.UNEXPECTED_STATUS)
        assert caught.value.detail == f"an answer has no status {status}"
        assert (caught.value.in_answer, caught.value.http_status, caught.value.errcode) == (True, 502, "M_UNKNOWN")

    @pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize("status", [400, 401, 404, 499, 500, 599, 600, 700, 999])
    def test_no(self, kind: Any, status: int) -> None:
        with pytest.raises(MatrixError) as caught:
            kind.from_http(HttpResponse(status=status, body=b'{"errcode":"M_X","error":"y"}'))
        assert caught.value == MatrixError(status=status, errcode="M_X", error="y")

    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    def test_yes(self, status: int) -> None:
        response = HttpResponse(status=status, body=b'{"changed":["@a:b"]}')
        assert KeysChangesResponse.from_http(response) == KeysChangesResponse(changed=("@a:b",))

    @pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", Reason.NOT_JSON),
            (b"<html>", Reason.NOT_JSON),
            (b"\xff", Reason.NOT_UTF8),
            (b"[]", Reason.WRONG_TYPE),
            (b"null", Reason.WRONG_TYPE),
            (b'"x"', Reason.WRONG_TYPE),
            (b"1.5", Reason.NOT_AN_INTEGER),
        ],
    )
    def test_yes_without_an_answer(self, kind: Any, body: bytes, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            kind.from_http(HttpResponse(status=200, body=body))
        assert facts(caught) == ("", reason)
        assert (caught.value.in_answer, caught.value.http_status, caught.value.errcode) == (True, 502, "M_UNKNOWN")

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (KeysChangesResponse, {"errcode": "M_X", "error": "y"}),
            (SignaturesUploadResponse, {"errcode": "M_X"}),
            (DeviceSigningUploadResponse, {"errcode": None}),
            (SendToDeviceResponse, {"x": 1, "errcode": ["M_X"]}),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_an_error_with_the_status_of_an_answer(self, kind: Any, body: dict[str, Any]) -> None:
        for read in (
            lambda: kind.from_json(body),
            lambda: kind.from_bytes(json.dumps(body)),
            lambda: kind.from_http(HttpResponse(status=200, body=json.dumps(body).encode())),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            assert facts(caught) == ("/errcode", Reason.NOT_AN_ANSWER)
            assert caught.value.detail == "an error with the status of an answer"
        assert (caught.value.in_answer, caught.value.http_status, caught.value.errcode) == (True, 502, "M_UNKNOWN")

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            (KeysChangesResponse, {"errcode": "M_X", "changed": []}),
            (KeysChangesResponse, {"errcode": "M_X", "left": None}),
            (SignaturesUploadResponse, {"errcode": "M_X", "failures": {}}),
            (SendToDeviceResponse, {"error": "y", "Errcode": "M_X"}),
            (DeviceSigningUploadResponse, {"error": "y"}),
        ],
    )
    def test_what_says_more_than_an_error_code_is_an_answer(self, kind: Any, body: dict[str, Any]) -> None:
        response = kind.from_json(body)
        assert {name: response.to_json()[name] for name in body} == body

    @pytest.mark.parametrize("response", [None, 200, b"{}", {}, HttpRequest(method="GET", path="/")], ids=repr)
    def test_what_is_no_answer(self, response: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysQueryResponse.from_http(response)
        assert facts(caught) == ("", Reason.WRONG_TYPE)

    def test_an_answer_is_written_with_status_200(self) -> None:
        answer = KeysUploadResponse(one_time_key_counts={"x": 1}).to_http()
        assert answer == HttpResponse(status=200, body=b'{"one_time_key_counts":{"x":1}}')


class TestReadAnswer:
    @pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
    def test_the_class_of_the_answers(self, kind: Any) -> None:
        assert kind.answer_type().__name__ == kind.__name__.replace("Request", "Response")
        assert kind.answer_type().endpoint is kind.endpoint

    def test_reading(self) -> None:
        request = KeysChangesRequest(from_token="a", to_token="b")
        answer = request.read_answer(HttpResponse(status=200, body=b'{"left":["@a:b"]}'))
        assert answer == KeysChangesResponse(left=("@a:b",))
        with pytest.raises(MatrixError):
            request.read_answer(HttpResponse(status=404))
        with pytest.raises(RemoteProtocolError) as caught:
            request.read_answer(HttpResponse(status=200, body=b'{"left":[]}'), limits=JsonLimits(max_bytes=5))
        assert facts(caught) == ("", Reason.TOO_LARGE)
        assert (caught.value.in_answer, caught.value.http_status, caught.value.errcode) == (True, 502, "M_UNKNOWN")


class TestLimits:
    @pytest.mark.parametrize("kind", BODY_REQUESTS, ids=lambda kind: kind.__name__)
    def test_a_request_that_is_too_large(self, kind: Any) -> None:
        request = http_of(kind, b'{"x":"' + b"y" * 100 + b'"}')
        limits = JsonLimits(max_bytes=50)
        parameters = PARAMETERS.get(kind.endpoint.name, {})
        reads: list[Callable[[], object]] = [
            lambda: read_request(request, limits=limits),
            lambda: kind.from_http(request, limits=limits),
            lambda: kind.from_bytes(request.body, limits=limits, **parameters),
        ]
        for read in reads:
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            assert facts(caught) == ("", Reason.TOO_LARGE)
            assert (caught.value.http_status, caught.value.errcode) == (413, "M_TOO_LARGE")

    @pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
    def test_an_answer_that_is_too_large(self, kind: Any) -> None:
        response = HttpResponse(status=200, body=b'{"x":"' + b"y" * 100 + b'"}')
        with pytest.raises(RemoteProtocolError) as caught:
            kind.from_http(response, limits=JsonLimits(max_bytes=50))
        assert facts(caught) == ("", Reason.TOO_LARGE)

    @pytest.mark.parametrize("limits", [None, 5, {}, JsonLimits, "x"], ids=repr)
    @pytest.mark.parametrize("kind", BODY_REQUESTS, ids=lambda kind: kind.__name__)
    def test_limits_of_requests_are_limits(self, kind: Any, limits: Any) -> None:
        request = http_of(kind)
        parameters = PARAMETERS.get(kind.endpoint.name, {})
        reads: list[Callable[[], object]] = [
            lambda: read_request(request, limits=limits),
            lambda: kind.from_http(request, limits=limits),
            lambda: kind.from_bytes(b"{}", limits=limits, **parameters),
        ]
        for read in reads:
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert facts(caught) == ("/limits", Reason.WRONG_TYPE)

    @pytest.mark.parametrize("limits", [None, 5, {}], ids=repr)
    @pytest.mark.parametrize("kind", RESPONSES, ids=lambda kind: kind.__name__)
    def test_limits_of_answers_are_limits(self, kind: Any, limits: Any) -> None:
        for read in (
            lambda: kind.from_http(HttpResponse(status=200, body=b"{}"), limits=limits),
            lambda: kind.from_bytes(b"{}", limits=limits),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert facts(caught) == ("/limits", Reason.WRONG_TYPE)

    @pytest.mark.parametrize("limits", [None, 5, {}], ids=repr)
    @pytest.mark.parametrize(
        "kind", [KeysChangesRequest, UserDevicesRequest, ServerKeysRequest], ids=lambda kind: kind.__name__
    )
    def test_limits_of_requests_without_a_body_are_limits(self, kind: Any, limits: Any) -> None:
        request = http_of(kind, b"")
        for read in (
            lambda: read_request(request, limits=limits),
            lambda: kind.from_http(request, limits=limits),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert facts(caught) == ("/limits", Reason.WRONG_TYPE)

    @pytest.mark.parametrize("limits", [None, 5, {}], ids=repr)
    def test_limits_of_refusals_are_limits(self, limits: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysQueryResponse.from_http(HttpResponse(status=404), limits=limits)
        assert facts(caught) == ("/limits", Reason.WRONG_TYPE)

    def test_a_refusal_that_is_too_large_says_nothing(self) -> None:
        body = b'{"errcode":"M_X","error":"' + b"y" * 100 + b'"}'
        with pytest.raises(MatrixError) as caught:
            KeysQueryResponse.from_http(HttpResponse(status=404, body=body), limits=JsonLimits(max_bytes=50))
        assert caught.value == MatrixError(status=404, errcode=None)


class TestRequests:
    @pytest.mark.parametrize("kind", BODY_REQUESTS, ids=lambda kind: kind.__name__)
    @pytest.mark.parametrize(
        ("body", "reason", "errcode"),
        [
            (b"", Reason.NOT_JSON, "M_NOT_JSON"),
            (b"{", Reason.NOT_JSON, "M_NOT_JSON"),
            (b"\xff", Reason.NOT_UTF8, "M_NOT_JSON"),
            (b"[]", Reason.WRONG_TYPE, "M_BAD_JSON"),
            (b"null", Reason.WRONG_TYPE, "M_BAD_JSON"),
        ],
    )
    def test_bodies_that_are_none(self, kind: Any, body: bytes, reason: Reason, errcode: str) -> None:
        for read in (kind.from_http, read_request):
            with pytest.raises(RemoteProtocolError) as caught:
                read(http_of(kind, body))
            assert facts(caught) == ("", reason)
            assert (caught.value.http_status, caught.value.errcode) == (400, errcode)

    @pytest.mark.parametrize(
        ("kind", "path"),
        [(KeysQueryRequest, "/device_keys"), (SendToDeviceRequest, "/messages")],
        ids=lambda value: getattr(value, "__name__", value),
    )
    def test_a_member_that_must_be_there(self, kind: Any, path: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            kind.from_http(http_of(kind))
        assert facts(caught) == (path, Reason.MISSING_MEMBER)
        assert caught.value.errcode == "M_BAD_JSON"

    def test_an_answer_that_lacks_what_must_be_there(self) -> None:
        for kind, path in ((KeysUploadResponse, "/one_time_key_counts"), (UserKeysQueryResponse, "/device_keys")):
            with pytest.raises(RemoteProtocolError) as caught:
                kind.from_json({})
            assert facts(caught) == (path, Reason.MISSING_MEMBER)

    def test_members_of_the_wrong_kind_are_the_other_sides_fault(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysUploadResponse.from_json({"one_time_key_counts": {"x": -1}})
        assert facts(caught) == ("/one_time_key_counts/x", Reason.INVALID_VALUE)
        with pytest.raises(RemoteProtocolError) as caught:
            read_request(HttpRequest(method="GET", path="/_matrix/federation/v1/user/devices/bob"))
        assert facts(caught) == ("/user_id", Reason.INVALID_IDENTIFIER)
        assert (caught.value.http_status, caught.value.errcode) == (400, "M_INVALID_PARAM")
        with pytest.raises(RemoteProtocolError) as caught:
            read_request(
                HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/upload/" + "x" * 513, body=b"{}")
            )
        assert facts(caught) == ("/device_id", Reason.INVALID_IDENTIFIER)

    def test_a_body_where_none_is_needed_is_left_alone(self) -> None:
        request = http_of(KeysChangesRequest, b"\xff")
        assert KeysChangesRequest.from_http(request) == KeysChangesRequest(from_token="a", to_token="b")
        assert ServerKeysRequest().to_http().body == b""

    @pytest.mark.parametrize("body", [None, 5, {}, [], object()], ids=repr)
    def test_what_is_no_body(self, body: Any) -> None:
        for kind in (KeysQueryRequest, KeysQueryResponse, SendToDeviceResponse):
            with pytest.raises(LocalProtocolError) as caught:
                kind.from_bytes(body)
            assert facts(caught) == ("", Reason.WRONG_TYPE)

    def test_text_is_a_body_too(self) -> None:
        assert KeysQueryRequest.from_bytes('{"device_keys":{}}') == KeysQueryRequest(device_keys={})
        assert SendToDeviceResponse.from_bytes('{"x":"ü"}') == SendToDeviceResponse(extra={"x": "ü"})

    def test_members_that_nobody_knows_are_kept(self) -> None:
        request = KeysUploadRequest.from_http(http_of(KeysUploadRequest, b'{"b":[1.5],"a":null}'))
        assert request.extra == {"b": [1.5], "a": None}
        assert json.loads(request.to_http().body) == {"b": [1.5], "a": None}


class TestParameters:
    def test_given_by_a_server_with_its_own_router(self) -> None:
        expected = SendToDeviceRequest(event_type="a/b", txn_id="%2F", messages={})
        body = {"messages": {}}
        assert SendToDeviceRequest.from_json(body, event_type="a/b", txn_id="%2F") == expected
        assert SendToDeviceRequest.from_bytes(json.dumps(body), event_type="a/b", txn_id="%2F") == expected
        assert KeysUploadRequest.from_json({}, device_id="a/b") == KeysUploadRequest(device_id="a/b")
        assert KeysUploadRequest.from_bytes(b"{}") == KeysUploadRequest()

    @pytest.mark.parametrize(
        ("kind", "parameters", "path", "reason"),
        [
            (SendToDeviceRequest, {"event_type": "m"}, "/txn_id", Reason.MISSING_PARAMETER),
            (SendToDeviceRequest, {"txn_id": "1"}, "/event_type", Reason.MISSING_PARAMETER),
            (SendToDeviceRequest, {}, "/event_type", Reason.MISSING_PARAMETER),
            (SendToDeviceRequest, {"z": "1", "a": "2"}, "/event_type", Reason.MISSING_PARAMETER),
            (
                SendToDeviceRequest,
                {"txn_id": "1", "event_type": "m", "device_id": "D"},
                "",
                Reason.INVALID_VALUE,
            ),
            (KeysQueryRequest, {"device_id": "D"}, "", Reason.INVALID_VALUE),
            (KeysUploadRequest, {"user_id": "D"}, "", Reason.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_missing_and_unknown(self, kind: Any, parameters: dict[str, str], path: str, reason: Reason) -> None:
        for read in (lambda: kind.from_bytes(b"{}", **parameters), lambda: kind.from_json({}, **parameters)):
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert facts(caught) == (path, reason)

    def test_the_unknown_are_named_in_order(self) -> None:
        for _ in range(3):
            with pytest.raises(LocalProtocolError) as caught:
                KeysUploadRequest.from_bytes(b"{}", z="1", b="2", device_id="D", a="3", c="4")
            assert caught.value.detail == "there is no parameter 'a'"

    def test_a_value_that_the_other_side_may_have_sent(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysUploadRequest.from_json({}, device_id="")
        assert facts(caught) == ("/device_id", Reason.INVALID_IDENTIFIER)
        for name in ("event_type", "txn_id"):
            for value in ("", ".", ".."):
                with pytest.raises(RemoteProtocolError) as caught:
                    SendToDeviceRequest.from_json({"messages": {}}, **{"event_type": "m", "txn_id": "1", name: value})
                assert facts(caught) == (f"/{name}", Reason.INVALID_IDENTIFIER)
                assert (caught.value.http_status, caught.value.errcode) == (400, "M_INVALID_PARAM")

    @pytest.mark.parametrize("value", [5, b"D", ["D"]], ids=repr)
    def test_a_value_that_nobody_can_have_sent(self, value: Any) -> None:
        for read in (
            lambda: KeysUploadRequest.from_json({}, device_id=value),
            lambda: KeysUploadRequest.from_bytes(b"{}", device_id=value),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                read()
            assert facts(caught) == ("/device_id", Reason.WRONG_TYPE)


class TestBases:
    def test_they_stand_for_nothing(self) -> None:
        calls: list[Callable[[], object]] = [
            Request.answer_type,
            lambda: BodyRequest().to_json(),
            lambda: Response().to_json(),
        ]
        for call in calls:
            with pytest.raises(NotImplementedError):
                call()

    def test_a_class_without_its_reading(self) -> None:
        class Unread(BodyRequest[Any]):
            endpoint = ENDPOINTS["keys_query"]

        class Unanswered(Response):
            endpoint = ENDPOINTS["keys_query"]

        for kind in (Unread, Unanswered):
            with pytest.raises(NotImplementedError):
                kind.from_json({})

    def test_an_answer_without_what_a_dialect_lacks(self) -> None:
        query = KeysQueryResponse(
            device_keys={"@a:b": {}},
            master_keys={"@a:b": SampleUser("@a:b").master_key},
            failures={"b": {}},
            extra={"x": 1},
        )
        with pytest.raises(LocalProtocolError):
            query.to_http(CLIENT_V2_ALPHA)
        said = query.as_in(CLIENT_V2_ALPHA)
        assert json.loads(said.to_http(CLIENT_V2_ALPHA).body) == {"device_keys": {"@a:b": {}}, "x": 1}
        assert query.as_in() == query
        uploaded = KeysUploadResponse(one_time_key_counts={"a": 1})
        assert uploaded.as_in(CLIENT_V2_ALPHA) == uploaded
        with pytest.raises(LocalProtocolError):
            KeysChangesResponse().as_in(CLIENT_V2_ALPHA)

    def test_nothing_to_refuse_in_a_dialect(self) -> None:
        assert SendToDeviceResponse().to_http(None).body == b"{}"
        with pytest.raises(LocalProtocolError) as caught:
            SendToDeviceResponse().to_http(CLIENT_V2_ALPHA)
        assert facts(caught) == ("/dialect", Reason.NOT_IN_DIALECT)


WORDS = st.sampled_from(
    ["_matrix", "client", "federation", "v3", "keys", "query", "upload", "sendToDevice", "%2F", "%zz", "", "..", "ü"]
)
ANY_PATHS = (
    st.sampled_from(sorted(PATHS.values()))
    | st.lists(WORDS, max_size=7).map(lambda words: "/" + "/".join(words))
    | st.text(st.characters(), max_size=10)
    | st.tuples(
        st.sampled_from(["/_matrix/client/v3/sendToDevice/", "/_matrix/client/v2_alpha/keys/upload/"]),
        st.text(st.characters(), max_size=8),
    ).map("".join)
)
ANY_QUERIES = (
    st.sampled_from(["", "from=a&to=b", "from=a", "from=%zz&to=%ff", "from=a&from=b&to"])
    | st.text(st.characters(), max_size=12)
    | st.text("fromt=&%+;#?0a", max_size=20)
)
BODY_TEXTS = (
    st.sampled_from(
        [
            b"",
            b"{}",
            b'{"device_keys":{"@a:b":[]}}',
            b'{"device_keys":{"@a:b":{"D":{"keys":{}}}},"failures":5}',
            b'{"one_time_keys":{"@a:b":{"D":"x"}}}',
            b'{"one_time_keys":{"@a:b":{"D":{"x:y":"z"}},"z":NaN}}',
            b'{"messages":{"@a:b":{"*":{"x":1e400}}}}',
            b'{"flows":[{"stages":["x"]}],"errcode":"\\ud800"}',
            b'{"user_id":"@a:b","stream_id":1,"devices":[1,{}]}',
            b'{"changed":[1,"@a:b"],"left":{}}',
            b'{"master_key":{"user_id":"@a:b","usage":["master"],"keys":{"ed25519:x":"y"}}}',
        ]
    )
    | st.binary(max_size=32)
    | st.text('{}[]":,0e-1 \\u', max_size=32).map(str.encode)
)


class TestNoForeignException:
    @given(st.sampled_from(["GET", "POST", "PUT", "X"]), ANY_PATHS, ANY_QUERIES, BODY_TEXTS)
    def test_requests(self, method: str, path: str, query: str, body: bytes) -> None:
        request = HttpRequest(method=method, path=path, query=query, body=body)
        for read in (read_request, *(kind.from_http for kind in REQUESTS)):
            try:
                read(request)
            except RemoteProtocolError as error:
                MatrixError.answering(error).to_http()
                str(error).encode()

    @given(st.sampled_from(REQUESTS), ANY_QUERIES, BODY_TEXTS)
    def test_requests_that_are_found(self, kind: Any, query: str, body: bytes) -> None:
        try:
            request = kind.from_http(http_of(kind, body, query))
        except RemoteProtocolError as error:
            assert error.http_status in (400, 413)  # noqa: PT017
        else:  # what canonical JSON cannot carry becomes null, once and for all
            again = kind.from_http(request.to_http())
            assert kind.from_http(again.to_http()) == again

    @given(st.integers(100, 999) | st.just(200), BODY_TEXTS, st.dictionaries(st.text(max_size=12), st.text(max_size=4)))
    def test_answers(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        response = HttpResponse(status=status, body=body, headers=headers)
        for kind in RESPONSES:
            try:
                answer = kind.from_http(response)
            except (RemoteProtocolError, MatrixError) as error:
                str(error).encode()
            else:
                again = kind.from_http(answer.to_http())
                assert kind.from_http(again.to_http()) == again

    @given(
        st.integers(-1, 1100),
        ANY_PATHS,
        ANY_QUERIES,
        st.text(st.characters(), max_size=4),
    )
    def test_arguments(self, status: int, path: str, query: str, method: str) -> None:
        for make in (
            lambda: HttpResponse(status=status),
            lambda: MatrixError(status=status, error=query),
        ):
            try:
                make()
            except LocalProtocolError:
                continue
        for request in (
            HttpRequest(method=method, path=path, query=query),
            HttpRequest.from_target(method=method, target=path + query),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                read_request(request)  # no endpoint has such a method
            assert caught.value.http_status in (400, 404, 405)

    @given(BODY_TEXTS, st.integers(400, 999))
    def test_refusals(self, body: bytes, status: int) -> None:
        error = MatrixError.from_http(HttpResponse(status=status, body=body))
        assert isinstance(error, E2EKeysError)
        assert MatrixError.from_http(error.to_http()) == error
