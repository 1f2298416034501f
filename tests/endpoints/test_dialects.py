"""The table of endpoints, and what each dialect can say."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

import matrix_e2e_keys
from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    ENDPOINTS,
    FEDERATION_V1,
    KEY_V2,
    Authentication,
    BodyRequest,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    Dialect,
    HttpRequest,
    HttpResponse,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    Rejection,
    Request,
    Response,
    SendToDeviceRequest,
    SendToDeviceResponse,
    SendTransactionRequest,
    SendTransactionResponse,
    ServerKeys,
    ServerKeysRequest,
    ServerKeysResponse,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    UserDevicesRequest,
    UserDevicesResponse,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    find_endpoint,
    read_request,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key

ALICE = SampleUser("@alice:a.example")
SIGNED_KEY = ALICE.one_time_key("PHONE", "AAAAAQ")
CURVE = sample_curve25519_key("x").to_base64()
BARE_KEY = OneTimeKey.from_json("curve25519:AAAAAQ", CURVE)

TABLE: dict[str, tuple[str, dict[str, str], tuple[str, ...], str]] = {
    "keys_upload": (
        "POST",
        {
            "v3": "/_matrix/client/v3/keys/upload",
            "r0": "/_matrix/client/r0/keys/upload",
            "v2_alpha": "/_matrix/client/v2_alpha/keys/upload/{device_id}",
        },
        (),
        "access-token",
    ),
    "keys_query": (
        "POST",
        {
            "v3": "/_matrix/client/v3/keys/query",
            "r0": "/_matrix/client/r0/keys/query",
            "v2_alpha": "/_matrix/client/v2_alpha/keys/query",
        },
        (),
        "access-token",
    ),
    "keys_claim": (
        "POST",
        {
            "v3": "/_matrix/client/v3/keys/claim",
            "r0": "/_matrix/client/r0/keys/claim",
            "v2_alpha": "/_matrix/client/v2_alpha/keys/claim",
        },
        (),
        "access-token",
    ),
    "keys_changes": (
        "GET",
        {"v3": "/_matrix/client/v3/keys/changes", "r0": "/_matrix/client/r0/keys/changes"},
        ("from", "to"),
        "access-token",
    ),
    "device_signing_upload": (
        "POST",
        {"v3": "/_matrix/client/v3/keys/device_signing/upload"},
        (),
        "access-token",
    ),
    "signatures_upload": ("POST", {"v3": "/_matrix/client/v3/keys/signatures/upload"}, (), "access-token"),
    "send_to_device": (
        "PUT",
        {
            "v3": "/_matrix/client/v3/sendToDevice/{event_type}/{txn_id}",
            "r0": "/_matrix/client/r0/sendToDevice/{event_type}/{txn_id}",
        },
        (),
        "access-token",
    ),
    "user_keys_query": ("POST", {"v1": "/_matrix/federation/v1/user/keys/query"}, (), "server"),
    "user_keys_claim": ("POST", {"v1": "/_matrix/federation/v1/user/keys/claim"}, (), "server"),
    "user_devices": ("GET", {"v1": "/_matrix/federation/v1/user/devices/{user_id}"}, (), "server"),
    "send_transaction": ("PUT", {"v1": "/_matrix/federation/v1/send/{txn_id}"}, (), "server"),
    "server_keys": ("GET", {"key v2": "/_matrix/key/v2/server"}, (), "none"),
}
"""The specification, by hand: method, whole paths by dialect, query, authentication."""

DIALECTS = {dialect.name: dialect for dialect in (CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA, FEDERATION_V1, KEY_V2)}


def classes(kind: type) -> dict[str, type]:
    public = [getattr(matrix_e2e_keys, name) for name in matrix_e2e_keys.__all__]
    found = [value for value in public if isinstance(value, type) and issubclass(value, kind)]
    return {value.endpoint.name: value for value in found if value not in (Request, BodyRequest, Response)}


class TestTable:
    def test_names(self) -> None:
        assert list(ENDPOINTS) == list(TABLE)
        assert [endpoint.name for endpoint in ENDPOINTS.values()] == list(TABLE)

    @pytest.mark.parametrize("name", TABLE)
    def test_values(self, name: str) -> None:
        method, templates, query, authentication = TABLE[name]
        endpoint = ENDPOINTS[name]
        assert endpoint.method == method
        assert {dialect.name: endpoint.template(dialect) for dialect in endpoint.paths} == templates
        assert endpoint.query == query
        assert endpoint.authentication == authentication
        assert endpoint.template() == next(iter(templates.values()))
        assert endpoint.dialect().name == next(iter(templates))

    def test_dialects(self) -> None:
        assert {name: (dialect.prefix, dialect.bare_one_time_keys) for name, dialect in DIALECTS.items()} == {
            "v3": ("/_matrix/client/v3", False),
            "r0": ("/_matrix/client/r0", False),
            "v2_alpha": ("/_matrix/client/v2_alpha", True),
            "v1": ("/_matrix/federation/v1", False),
            "key v2": ("/_matrix/key/v2", False),
        }
        assert {name: set(dialect.lacks) for name, dialect in DIALECTS.items() if dialect.lacks} == {
            "v2_alpha": {
                "fallback_keys",
                "failures",
                "timeout",
                "master_keys",
                "self_signing_keys",
                "user_signing_keys",
            }
        }

    def test_the_table_is_read_only(self) -> None:
        with pytest.raises(TypeError):
            ENDPOINTS["x"] = ENDPOINTS["keys_query"]  # type: ignore[index]
        with pytest.raises(TypeError):
            ENDPOINTS["keys_query"].paths[FEDERATION_V1] = "/x"  # type: ignore[index]

    def test_kinds_of_authentication(self) -> None:
        assert [str(kind) for kind in Authentication] == ["access-token", "server", "none"]

    @pytest.mark.parametrize(
        ("name", "everywhere", "anywhere"),
        [
            ("keys_upload", set(), {"device_id"}),
            ("keys_query", set(), set()),
            ("send_to_device", {"event_type", "txn_id"}, {"event_type", "txn_id"}),
            ("user_devices", {"user_id"}, {"user_id"}),
        ],
    )
    def test_parameters(self, name: str, everywhere: set[str], anywhere: set[str]) -> None:
        assert ENDPOINTS[name].parameters == (everywhere, anywhere)

    def test_every_endpoint_has_its_classes(self) -> None:
        requests, responses = classes(Request), classes(Response)
        assert requests.keys() == responses.keys() == TABLE.keys()
        for name in TABLE:
            camel = "".join(part.capitalize() for part in name.split("_"))
            assert (requests[name].__name__, responses[name].__name__) == (f"{camel}Request", f"{camel}Response")
            assert requests[name].endpoint is responses[name].endpoint is ENDPOINTS[name]  # type: ignore[attr-defined]


MASTER = ALICE.master_key
SERVER_KEYS = ServerKeys.build(
    server_name="a.example",
    signers=[sample_secret_key("a.example").signer("ed25519:1")],
    valid_until_ts=1_000,
)

REQUESTS: dict[str, tuple[Request, str, dict[str, Any] | None]] = {
    "keys_upload": (KeysUploadRequest(), "", {}),
    "keys_query": (KeysQueryRequest(device_keys={"@a:b": ("D",)}), "", {"device_keys": {"@a:b": ["D"]}}),
    "keys_claim": (
        KeysClaimRequest(one_time_keys={"@a:b": {"D": "signed_curve25519"}}),
        "",
        {"one_time_keys": {"@a:b": {"D": "signed_curve25519"}}},
    ),
    "keys_changes": (KeysChangesRequest(from_token="s1/2", to_token=""), "from=s1%2F2&to=", None),
    "device_signing_upload": (DeviceSigningUploadRequest(master_key=MASTER), "", {"master_key": MASTER.to_json()}),
    "signatures_upload": (
        SignaturesUploadRequest.for_keys([ALICE.device("PHONE")]),
        "",
        {"@alice:a.example": {"PHONE": ALICE.device("PHONE").to_json()}},
    ),
    "send_to_device": (
        SendToDeviceRequest(event_type="m.x/y", txn_id="1 2", messages={"@a:b": {"*": {"c": 1}}}),
        "",
        {"messages": {"@a:b": {"*": {"c": 1}}}},
    ),
    "user_keys_query": (UserKeysQueryRequest(device_keys={"@a:b": ()}), "", {"device_keys": {"@a:b": []}}),
    "user_keys_claim": (
        UserKeysClaimRequest(one_time_keys={"@a:b": {"D": "x"}}),
        "",
        {"one_time_keys": {"@a:b": {"D": "x"}}},
    ),
    "user_devices": (UserDevicesRequest(user_id="@a/b:c"), "", None),
    "send_transaction": (
        SendTransactionRequest(txn_id="1 2", origin="a.example", origin_server_ts=7),
        "",
        {"origin": "a.example", "origin_server_ts": 7, "pdus": [], "edus": []},
    ),
    "server_keys": (ServerKeysRequest(), "", None),
}
"""A request to each endpoint, its query, and its body."""

FILLED = {"{device_id}": "D%2F1", "{event_type}": "m.x%2Fy", "{txn_id}": "1%202", "{user_id}": "%40a%2Fb%3Ac"}

RESPONSES: dict[str, tuple[Response, dict[str, Any]]] = {
    "keys_upload": (KeysUploadResponse(one_time_key_counts={"x": 1}), {"one_time_key_counts": {"x": 1}}),
    "keys_query": (
        KeysQueryResponse(device_keys={"@a:b": {}}),
        {
            "device_keys": {"@a:b": {}},
            "failures": {},
            "master_keys": {},
            "self_signing_keys": {},
            "user_signing_keys": {},
        },
    ),
    "keys_claim": (
        KeysClaimResponse(one_time_keys={"@a:b": {"D": {"curve25519:AAAAAQ": BARE_KEY}}}),
        {"failures": {}, "one_time_keys": {"@a:b": {"D": {"curve25519:AAAAAQ": CURVE}}}},
    ),
    "keys_changes": (KeysChangesResponse(changed=("@a:b",)), {"changed": ["@a:b"], "left": []}),
    "device_signing_upload": (DeviceSigningUploadResponse(), {}),
    "signatures_upload": (SignaturesUploadResponse(), {"failures": {}}),
    "send_to_device": (SendToDeviceResponse(), {}),
    "user_keys_query": (
        UserKeysQueryResponse(),
        {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}},
    ),
    "user_keys_claim": (UserKeysClaimResponse(), {"one_time_keys": {}}),
    "user_devices": (
        UserDevicesResponse(user_id="@a:b", stream_id=5, devices=()),
        {"devices": [], "stream_id": 5, "user_id": "@a:b"},
    ),
    "send_transaction": (SendTransactionResponse(), {"pdus": {}}),
    "server_keys": (ServerKeysResponse(server_keys=SERVER_KEYS), SERVER_KEYS.to_json()),
}

SPOKEN = [(name, dialect) for name, (_, templates, _, _) in TABLE.items() for dialect in templates]


class TestSpeaking:
    @pytest.mark.parametrize(("name", "dialect"), SPOKEN)
    def test_requests(self, name: str, dialect: str) -> None:
        request, query, body = REQUESTS[name]
        if (name, dialect) == ("keys_upload", "v2_alpha"):
            request = KeysUploadRequest(device_id="D/1")
        if (name, dialect) == ("keys_claim", "v2_alpha"):
            request = KeysClaimRequest(one_time_keys={"@a:b": {"D": "curve25519"}})
            body = {"one_time_keys": {"@a:b": {"D": "curve25519"}}}
        path = TABLE[name][1][dialect]
        for parameter, encoded in FILLED.items():
            path = path.replace(parameter, encoded)
        http = request.to_http(DIALECTS[dialect])
        assert (http.method, http.path, http.query) == (TABLE[name][0], path, query)
        assert (json.loads(http.body) if http.body else None) == body
        incoming = read_request(http)
        assert incoming.request == request
        assert type(incoming.request) is type(request)
        assert incoming.dialect is DIALECTS[dialect]
        assert type(request).from_http(http) == request

    @pytest.mark.parametrize("name", TABLE)
    def test_the_first_dialect_is_the_default(self, name: str) -> None:
        first = DIALECTS[next(iter(TABLE[name][1]))]
        assert REQUESTS[name][0].to_http() == REQUESTS[name][0].to_http(first)
        assert RESPONSES[name][0].to_http() == RESPONSES[name][0].to_http(first)

    @pytest.mark.parametrize(("name", "dialect"), SPOKEN)
    def test_answers_in_the_same_dialect(self, name: str, dialect: str) -> None:
        response, body = RESPONSES[name]
        http = response.to_http(DIALECTS[dialect])
        if dialect == "v2_alpha":
            body = {member: value for member, value in body.items() if member in ("device_keys", "one_time_keys")}
        if (name, dialect) == ("keys_upload", "v2_alpha"):
            body = {"one_time_key_counts": {"x": 1}}
        assert (http.status, json.loads(http.body), dict(http.headers)) == (200, body, {})
        assert type(response).from_http(http) == response

    @pytest.mark.parametrize(
        ("name", "dialect"),
        [(name, dialect) for name, (_, templates, _, _) in TABLE.items() for dialect in DIALECTS.keys() - templates],
    )
    def test_dialects_that_do_not_have_it(self, name: str, dialect: str) -> None:
        for say in (
            ENDPOINTS[name].template,
            ENDPOINTS[name].dialect,
            REQUESTS[name][0].to_http,
            RESPONSES[name][0].to_http,
        ):
            with pytest.raises(LocalProtocolError) as caught:
                say(DIALECTS[dialect])  # type: ignore[operator]
            assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)
            assert caught.value.detail == f"{dialect} has no {name}"

    def test_a_dialect_of_somebody_else(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            REQUESTS["keys_query"][0].to_http(Dialect(name="v4", prefix="/_matrix/client/v4"))
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)
        assert (
            REQUESTS["keys_query"][0]
            .to_http(Dialect(name="v3", prefix="/_matrix/client/v3"))
            .path.startswith("/_matrix/client/v3/")
        )

    @pytest.mark.parametrize("dialect", ["v3", b"v3", 3, [], {}, CLIENT_V3.prefix, Dialect, object()], ids=repr)
    def test_what_is_no_dialect(self, dialect: Any) -> None:
        for say in (
            ENDPOINTS["keys_query"].template,
            ENDPOINTS["keys_query"].dialect,
            REQUESTS["keys_query"][0].to_http,
            RESPONSES["keys_query"][0].to_http,
        ):
            with pytest.raises(LocalProtocolError) as caught:
                say(dialect)  # type: ignore[operator]
            assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.WRONG_TYPE)


class TestTheDraftOf2015:
    @pytest.mark.parametrize(
        ("message", "path"),
        [
            (KeysQueryRequest(device_keys={}, timeout=1), "/timeout"),
            (KeysClaimRequest(one_time_keys={}, timeout=1000), "/timeout"),
            (KeysClaimResponse(failures={"down.example": {}}), "/failures"),
            (KeysQueryResponse(failures={"down.example": {}}), "/failures"),
            (KeysQueryResponse(master_keys={ALICE.user_id: MASTER}), "/master_keys"),
            (KeysQueryResponse(self_signing_keys={ALICE.user_id: ALICE.self_signing_key}), "/self_signing_keys"),
            (KeysQueryResponse(user_signing_keys={ALICE.user_id: ALICE.user_signing_key}), "/user_signing_keys"),
            (
                KeysUploadRequest(device_id="D", fallback_keys={"curve25519:AAAAAQ": BARE_KEY}),
                "/fallback_keys",
            ),
            (
                KeysQueryResponse(
                    user_signing_keys={ALICE.user_id: ALICE.user_signing_key}, master_keys={ALICE.user_id: MASTER}
                ),
                "/master_keys",
            ),
        ],
        ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
    )
    def test_what_it_lacks_is_refused(self, message: Request | Response, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            message.to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == (path, Reason.NOT_IN_DIALECT)
        assert caught.value.detail == f"v2_alpha has no {path[1:]}"
        if isinstance(message, KeysUploadRequest):
            message = attrs.evolve(message, device_id=None)
        message.to_http(CLIENT_V3)
        message.to_http(CLIENT_R0)

    def test_what_it_lacks_is_left_out_where_it_is_empty(self) -> None:
        assert json.loads(KeysQueryResponse().to_http(CLIENT_V2_ALPHA).body) == {"device_keys": {}}
        assert json.loads(KeysClaimResponse().to_http(CLIENT_V2_ALPHA).body) == {"one_time_keys": {}}
        request = KeysUploadRequest(device_id="D", one_time_keys={"curve25519:AAAAAQ": BARE_KEY})
        assert json.loads(request.to_http(CLIENT_V2_ALPHA).body) == {"one_time_keys": {"curve25519:AAAAAQ": CURVE}}

    def test_a_timeout_of_zero_is_said_or_refused(self) -> None:
        for request in (KeysQueryRequest(device_keys={}, timeout=0), KeysClaimRequest(one_time_keys={}, timeout=0)):
            with pytest.raises(LocalProtocolError) as caught:
                request.to_http(CLIENT_V2_ALPHA)
            assert (caught.value.path, caught.value.reason) == ("/timeout", Reason.NOT_IN_DIALECT)

    def test_a_member_that_nobody_knows_is_none_of_them(self) -> None:
        request = KeysUploadRequest(device_id="D", extra={"timeout": 1, "failures": {}})
        assert json.loads(request.to_http(CLIENT_V2_ALPHA).body) == {"timeout": 1, "failures": {}}

    def test_what_it_lacks_is_kept_where_it_is_heard(self) -> None:
        body = b'{"device_keys":{},"timeout":7}'
        heard = read_request(HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/query", body=body))
        assert heard.request == KeysQueryRequest(device_keys={}, timeout=7)
        key = json.dumps({"fallback_keys": {"signed_curve25519:AAAAAQ": SIGNED_KEY.to_json()}}).encode()
        heard = read_request(HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/upload/D", body=key))
        assert heard.request == KeysUploadRequest(device_id="D", fallback_keys={"signed_curve25519:AAAAAQ": SIGNED_KEY})

    def test_an_upload_needs_a_device_id(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysUploadRequest().to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/device_id", Reason.MISSING_PARAMETER)

    @pytest.mark.parametrize(
        ("dialect", "name"), [(None, "v3"), (CLIENT_V3, "v3"), (CLIENT_R0, "r0")], ids=["default", "v3", "r0"]
    )
    def test_an_upload_in_newer_dialects_cannot_say_the_device_id(self, dialect: Dialect | None, name: str) -> None:
        for device in ("D", ".."):
            with pytest.raises(LocalProtocolError) as caught:
                KeysUploadRequest(device_id=device).to_http(dialect)
            assert (caught.value.path, caught.value.reason) == ("/device_id", Reason.NOT_IN_DIALECT)
            assert caught.value.detail == f"{name} has no device_id"
        http = KeysUploadRequest().to_http(dialect)
        assert (http.target, http.body) == (f"/_matrix/client/{name}/keys/upload", b"{}")
        assert read_request(http).request == KeysUploadRequest()

    def test_signed_one_time_keys_are_refused(self) -> None:
        uploaded = KeysUploadRequest(
            device_id="D",
            one_time_keys={"curve25519:AAAAAQ": BARE_KEY, "signed_curve25519:AAAAAQ": SIGNED_KEY},
        )
        claimed = KeysClaimResponse(
            one_time_keys={
                "nobody": Rejection(path="/one_time_keys/nobody", reason=Reason.INVALID_IDENTIFIER, detail=""),
                "@a:b": {"X": {}},
                "@alice:a.example": {"a/b~": {"signed_curve25519:AAAAAQ": SIGNED_KEY}},
            }
        )
        asked = KeysClaimRequest(one_time_keys={"@a:b": {"D": "curve25519", "a/b": "signed_curve25519"}})
        messages: list[tuple[Request | Response, str]] = [
            (asked, "/one_time_keys/@a:b/a~1b"),
            (uploaded, "/one_time_keys/signed_curve25519:AAAAAQ"),
            (claimed, "/one_time_keys/@alice:a.example/a~1b~0/signed_curve25519:AAAAAQ"),
        ]
        for message, path in messages:
            with pytest.raises(LocalProtocolError) as caught:
                message.to_http(CLIENT_V2_ALPHA)
            assert (caught.value.path, caught.value.reason) == (path, Reason.NOT_IN_DIALECT)
        attrs.evolve(uploaded, device_id=None).to_http(CLIENT_R0)
        claimed.to_http(CLIENT_R0)
        asked.to_http(CLIENT_R0)

    def test_bare_one_time_keys_are_said(self) -> None:
        claimed = KeysClaimResponse(one_time_keys={"@a:b": {"D": {"curve25519:AAAAAQ": BARE_KEY}}})
        http = claimed.to_http(CLIENT_V2_ALPHA)
        assert json.loads(http.body) == {"one_time_keys": {"@a:b": {"D": {"curve25519:AAAAAQ": CURVE}}}}
        assert KeysClaimResponse.from_http(http) == claimed


class TestFinding:
    def test_a_match(self) -> None:
        match = find_endpoint(HttpRequest(method="POST", path="/_matrix/client/v2_alpha/keys/upload/a%2Fb"))
        assert match.endpoint is ENDPOINTS["keys_upload"]
        assert match.dialect is CLIENT_V2_ALPHA
        assert match.parameters == {"device_id": "a/b"}
        assert KeysUploadRequest.from_match(
            match, HttpRequest(method="POST", path="/", body=b'{"x":1}')
        ) == KeysUploadRequest(device_id="a/b", extra={"x": 1})

    def test_a_match_of_another_endpoint_is_none(self) -> None:
        request = HttpRequest(method="POST", path="/_matrix/client/v3/keys/query", body=b'{"device_keys":{}}')
        match = find_endpoint(request)
        assert KeysQueryRequest.from_match(match, request) == KeysQueryRequest(device_keys={})
        wrong: list[Any] = [
            None,
            "keys_query",
            ENDPOINTS["keys_query"],
            attrs.evolve(match, endpoint=ENDPOINTS["keys_claim"]),
        ]
        for other in wrong:
            with pytest.raises(LocalProtocolError) as caught:
                KeysQueryRequest.from_match(other, request)
            assert (caught.value.path, caught.value.reason) == ("/match", Reason.WRONG_TYPE)
            assert caught.value.detail == "a Match of keys_query is needed"
        with pytest.raises(LocalProtocolError) as caught:
            ServerKeysRequest.from_match(match, request)
        assert (caught.value.path, caught.value.reason) == ("/match", Reason.WRONG_TYPE)
        assert caught.value.detail == "a Match of server_keys is needed"

    def test_one_endpoint(self) -> None:
        endpoint = ENDPOINTS["keys_changes"]
        match = endpoint.match(HttpRequest(method="GET", path="/_matrix/client/r0/keys/changes"))
        assert match is not None
        assert (match.endpoint, match.dialect, match.parameters) == (endpoint, CLIENT_R0, {})
        assert endpoint.match(HttpRequest(method="GET", path="/_matrix/client/v2_alpha/keys/changes")) is None

    @pytest.mark.parametrize("request_", [None, "/", b"", {}, HttpResponse(status=200)], ids=repr)
    def test_what_is_no_request(self, request_: Any) -> None:
        for read in (find_endpoint, read_request, KeysQueryRequest.from_http, ServerKeysRequest.from_http):
            with pytest.raises(LocalProtocolError) as caught:
                read(request_)
            assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)
