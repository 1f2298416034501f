"""Finding out which request came in."""

from __future__ import annotations

from typing import Any

import pytest

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    ENDPOINTS,
    FEDERATION_V1,
    KEY_V2,
    Authentication,
    DeviceSigningUploadRequest,
    Dialect,
    Endpoint,
    HttpRequest,
    HttpResponse,
    IncomingRequest,
    JsonLimits,
    KeysChangesRequest,
    KeysClaimRequest,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    LocalProtocolError,
    Match,
    MatrixError,
    Reason,
    RemoteProtocolError,
    Request,
    SendToDeviceRequest,
    ServerKeysRequest,
    SignaturesUploadRequest,
    UserDevicesRequest,
    UserKeysClaimRequest,
    UserKeysQueryRequest,
    find_endpoint,
    read_request,
)

ROUTES: list[tuple[str, str, bytes, Dialect, Request[Any]]] = [
    ("POST", "/_matrix/client/v3/keys/upload", b"{}", CLIENT_V3, KeysUploadRequest()),
    ("POST", "/_matrix/client/r0/keys/upload", b"{}", CLIENT_R0, KeysUploadRequest()),
    ("POST", "/_matrix/client/v2_alpha/keys/upload/a%2Fb", b"{}", CLIENT_V2_ALPHA, KeysUploadRequest(device_id="a/b")),
    (
        "POST",
        "/_matrix/client/v3/keys/query",
        b'{"device_keys":{"@a:b":[]}}',
        CLIENT_V3,
        KeysQueryRequest(device_keys={"@a:b": ()}),
    ),
    ("POST", "/_matrix/client/r0/keys/query", b'{"device_keys":{}}', CLIENT_R0, KeysQueryRequest(device_keys={})),
    (
        "POST",
        "/_matrix/client/v2_alpha/keys/query",
        b'{"device_keys":{}}',
        CLIENT_V2_ALPHA,
        KeysQueryRequest(device_keys={}),
    ),
    (
        "POST",
        "/_matrix/client/v3/keys/claim",
        b'{"one_time_keys":{"@a:b":{"D":"x"}}}',
        CLIENT_V3,
        KeysClaimRequest(one_time_keys={"@a:b": {"D": "x"}}),
    ),
    ("POST", "/_matrix/client/r0/keys/claim", b'{"one_time_keys":{}}', CLIENT_R0, KeysClaimRequest(one_time_keys={})),
    (
        "POST",
        "/_matrix/client/v2_alpha/keys/claim",
        b'{"one_time_keys":{}}',
        CLIENT_V2_ALPHA,
        KeysClaimRequest(one_time_keys={}),
    ),
    (
        "GET",
        "/_matrix/client/v3/keys/changes?to=b+c&from=a%2B",
        b"",
        CLIENT_V3,
        KeysChangesRequest(from_token="a+", to_token="b c"),
    ),
    (
        "GET",
        "/_matrix/client/r0/keys/changes?from=&to=b",
        b"",
        CLIENT_R0,
        KeysChangesRequest(from_token="", to_token="b"),
    ),
    ("POST", "/_matrix/client/v3/keys/device_signing/upload", b"{}", CLIENT_V3, DeviceSigningUploadRequest()),
    (
        "POST",
        "/_matrix/client/v3/keys/signatures/upload",
        b"{}",
        CLIENT_V3,
        SignaturesUploadRequest(signed_objects={}),
    ),
    (
        "PUT",
        "/_matrix/client/v3/sendToDevice/m.room%2Fx/%252F",
        b'{"messages":{}}',
        CLIENT_V3,
        SendToDeviceRequest(event_type="m.room/x", txn_id="%2F", messages={}),
    ),
    (
        "PUT",
        "/_matrix/client/r0/sendToDevice/m/1",
        b'{"messages":{}}',
        CLIENT_R0,
        SendToDeviceRequest(event_type="m", txn_id="1", messages={}),
    ),
    (
        "POST",
        "/_matrix/federation/v1/user/keys/query",
        b'{"device_keys":{}}',
        FEDERATION_V1,
        UserKeysQueryRequest(device_keys={}),
    ),
    (
        "POST",
        "/_matrix/federation/v1/user/keys/claim",
        b'{"one_time_keys":{}}',
        FEDERATION_V1,
        UserKeysClaimRequest(one_time_keys={}),
    ),
    (
        "GET",
        "/_matrix/federation/v1/user/devices/@a:b.example:8448",
        b"",
        FEDERATION_V1,
        UserDevicesRequest(user_id="@a:b.example:8448"),
    ),
    ("GET", "/_matrix/key/v2/server", b"", KEY_V2, ServerKeysRequest()),
]
"""Every endpoint in every dialect, as it stands on the wire."""


@pytest.mark.parametrize(
    ("method", "target", "body", "dialect", "request_"), ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES]
)
def test_every_endpoint_in_every_dialect(
    method: str, target: str, body: bytes, dialect: Dialect, request_: Request[Any]
) -> None:
    received = HttpRequest.from_target(method=method, target=target, body=body)
    incoming = read_request(received)
    assert incoming == IncomingRequest(request=request_, dialect=dialect)
    assert type(incoming.request) is type(request_)
    assert incoming.dialect is dialect
    assert type(request_).from_http(received) == request_


@pytest.mark.parametrize(("method", "target"), sorted({(row[0], row[1].partition("?")[0]) for row in ROUTES}))
def test_with_another_method(method: str, target: str) -> None:
    for other in {"GET", "POST", "PUT", "DELETE"} - {method}:
        with pytest.raises(RemoteProtocolError) as caught:
            read_request(HttpRequest(method=other, path=target))
        assert caught.value.reason is Reason.WRONG_METHOD
        answer = MatrixError.answering(caught.value)
        assert (answer.status, answer.errcode) == (405, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    "path",
    [
        "/_matrix/client/v2_alpha/keys/changes",
        "/_matrix/client/v2_alpha/keys/upload",
        "/_matrix/client/r0/keys/device_signing/upload",
        "/_matrix/client/r0/keys/signatures/upload",
        "/_matrix/client/v2_alpha/sendToDevice/m/1",
        "/_matrix/federation/v2/user/keys/query",
        "/_matrix/federation/v1/keys/query",
        "/_matrix/client/v3/user/devices/@a:b",
        "/_matrix/key/v1/server",
        "/_matrix/client/v3/sync",
    ],
)
def test_there_is_no_such_endpoint(path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        with pytest.raises(RemoteProtocolError) as caught:
            read_request(HttpRequest(method=method, path=path))
        answer = MatrixError.answering(caught.value)
        assert (answer.status, answer.errcode) == (404, "M_UNRECOGNIZED")


@pytest.mark.parametrize(
    ("method", "target", "body", "dialect", "request_"), ROUTES, ids=[f"{row[0]} {row[1]}" for row in ROUTES]
)
def test_what_was_found_before(method: str, target: str, body: bytes, dialect: Dialect, request_: Request[Any]) -> None:
    received = HttpRequest.from_target(method=method, target=target, body=body)
    match = find_endpoint(received)
    assert read_request(received, match=match) == IncomingRequest(request=request_, dialect=dialect)


def test_what_was_found_before_is_not_looked_for_again() -> None:
    match = find_endpoint(HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/upload/D"))
    assert match.endpoint.authentication is Authentication.ACCESS_TOKEN
    elsewhere = HttpRequest(method="POST", path="/elsewhere", body=b'{"x":1}')
    assert read_request(elsewhere, match=match) == IncomingRequest(
        request=KeysUploadRequest(device_id="D", extra={"x": 1}), dialect=CLIENT_V2_ALPHA
    )
    with pytest.raises(RemoteProtocolError) as caught:
        read_request(elsewhere, match=match, limits=JsonLimits(max_bytes=6))
    assert caught.value.reason is Reason.TOO_LARGE


OTHER_ENDPOINT = Endpoint(name="keys_forget", method="POST", paths={CLIENT_V3: "/keys/query"})
OTHER_OF_THE_SAME_NAME = Endpoint(name="keys_query", method="POST", paths={CLIENT_V3: "/keys/query"})


@pytest.mark.parametrize(
    "match",
    [
        "keys_query",
        b"",
        0,
        {},
        ENDPOINTS["keys_query"],
        Match,
        Match(endpoint=OTHER_ENDPOINT, dialect=CLIENT_V3, parameters={}),
        Match(endpoint=OTHER_OF_THE_SAME_NAME, dialect=CLIENT_V3, parameters={}),
    ],
    ids=[
        "text",
        "empty bytes",
        "zero",
        "dict",
        "endpoint",
        "class",
        "match of what is not in the table",
        "match of what only has the name",
    ],
)
def test_what_find_endpoint_did_not_return(match: Any) -> None:
    request = HttpRequest(method="POST", path="/_matrix/client/v3/keys/query", body=b'{"device_keys":{}}')
    with pytest.raises(LocalProtocolError) as caught:
        read_request(request, match=match)
    assert (caught.value.path, caught.value.reason) == ("/match", Reason.WRONG_TYPE)


WRONG_PARAMETERS: list[tuple[str, str, Any, str, Reason]] = [
    ("keys_upload", "v2_alpha", {}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("keys_upload", "v3", {"device_id": "D"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("keys_upload", "v2_alpha", {"device_id": "D", "x": "y"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("keys_upload", "v2_alpha", {"device_id": 5}, "/match/parameters/device_id", Reason.WRONG_TYPE),
    ("keys_upload", "v2_alpha", {"device_id": None}, "/match/parameters/device_id", Reason.WRONG_TYPE),
    ("keys_upload", "v2_alpha", {"device_id": "\ud800"}, "/match/parameters/device_id", Reason.LONE_SURROGATE),
    ("keys_upload", "v2_alpha", [("device_id", "D")], "/match/parameters", Reason.WRONG_TYPE),
    ("keys_upload", "v2_alpha", None, "/match/parameters", Reason.WRONG_TYPE),
    ("keys_upload", "v2_alpha", {5: "D"}, "/match/parameters", Reason.WRONG_TYPE),
    ("send_to_device", "v3", {"event_type": "m"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("send_to_device", "v3", {"event_type": "m", "txn": "1"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("send_to_device", "v3", {"event_type": "m", "txn_id": b"1"}, "/match/parameters/txn_id", Reason.WRONG_TYPE),
    ("user_devices", "v1", {"user": "@a:b"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("keys_changes", "v3", {"from": "a", "to": "b"}, "/match/parameters", Reason.MISSING_PARAMETER),
    ("server_keys", "key v2", "", "/match/parameters", Reason.WRONG_TYPE),
]


@pytest.mark.parametrize(("name", "dialect", "parameters", "path", "reason"), WRONG_PARAMETERS)
def test_a_match_with_other_parameters_than_those_of_the_path(
    name: str, dialect: str, parameters: Any, path: str, reason: Reason
) -> None:
    endpoint = ENDPOINTS[name]
    (spoken,) = [it for it in endpoint.paths if it.name == dialect]
    with pytest.raises(LocalProtocolError) as caught:
        Match(endpoint=endpoint, dialect=spoken, parameters=parameters)
    assert (caught.value.path, caught.value.reason) == (path.removeprefix("/match"), reason)


@pytest.mark.parametrize("dialect", [KEY_V2, "v3", 5, None], ids=["another", "text", "number", "none"])
def test_a_match_in_a_dialect_that_does_not_have_it(dialect: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Match(endpoint=ENDPOINTS["keys_query"], dialect=dialect, parameters={})
    assert (caught.value.path, caught.value.reason) == (
        "/dialect",
        Reason.NOT_IN_DIALECT if dialect is KEY_V2 else Reason.WRONG_TYPE,
    )


@pytest.mark.parametrize("endpoint", [None, "keys_query", 5], ids=repr)
def test_a_match_has_an_endpoint(endpoint: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Match(endpoint=endpoint, dialect=CLIENT_V3, parameters={})
    assert (caught.value.path, caught.value.reason) == ("/endpoint", Reason.WRONG_TYPE)


@pytest.mark.parametrize("request_", [None, b"{}", "/", HttpResponse(status=200)], ids=repr)
def test_what_is_no_request_beside_a_match(request_: Any) -> None:
    match = find_endpoint(HttpRequest(method="POST", path="/_matrix/client/v3/keys/query"))
    for read in (lambda: read_request(request_, match=match), lambda: KeysQueryRequest.from_match(match, request_)):
        with pytest.raises(LocalProtocolError) as caught:
            read()
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)


def test_limits_are_passed_on() -> None:
    body = b'{"device_keys":{"@a:b":[[[]]]}}'
    request = HttpRequest(method="POST", path="/_matrix/client/v3/keys/query", body=body)
    for limits, reason in (
        (JsonLimits(max_bytes=len(body) - 1), Reason.TOO_LARGE),
        (JsonLimits(max_depth=3), Reason.TOO_DEEP),
        (JsonLimits(), Reason.WRONG_TYPE),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            read_request(request, limits=limits)
        assert caught.value.reason is reason


def test_the_answer_is_in_the_same_dialect() -> None:
    request = HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/query", body=b'{"device_keys":{}}')
    incoming = read_request(request)
    assert KeysQueryResponse().to_http(incoming.dialect).body == b'{"device_keys":{}}'
