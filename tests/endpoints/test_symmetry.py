"""Whatever is sent is read as what it was: every message, every dialect, every level; and nobody changes it later."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    ENDPOINTS,
    AuthenticationFlow,
    BodyRequest,
    DeviceLists,
    DeviceListUpdate,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    Dialect,
    DirectToDevice,
    Edu,
    JsonLimits,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    KeysUploadResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    Request,
    Response,
    SendToDeviceRequest,
    SendToDeviceResponse,
    SendTransactionRequest,
    SendTransactionResponse,
    ServerKeysRequest,
    ServerKeysResponse,
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SigningKeyUpdate,
    SyncKeys,
    UnknownEdu,
    UserDevice,
    UserDevicesRequest,
    UserDevicesResponse,
    UserInteractiveAuth,
    UserKeysClaimRequest,
    UserKeysClaimResponse,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    read_edu,
    read_edus,
    read_request,
)
from matrix_e2e_keys.testing import message_strategies as messages
from matrix_e2e_keys.testing.samples import SampleUser

ALICE = SampleUser("@alice:a.example")

REQUESTS: dict[type[Request], Callable[..., st.SearchStrategy[Any]]] = {
    KeysUploadRequest: messages.keys_upload_requests,
    KeysQueryRequest: messages.keys_query_requests,
    KeysClaimRequest: messages.keys_claim_requests,
    KeysChangesRequest: messages.keys_changes_requests,
    DeviceSigningUploadRequest: messages.device_signing_upload_requests,
    SignaturesUploadRequest: messages.signatures_upload_requests,
    SendToDeviceRequest: messages.send_to_device_requests,
    UserKeysQueryRequest: messages.user_keys_query_requests,
    UserKeysClaimRequest: messages.user_keys_claim_requests,
    UserDevicesRequest: messages.user_devices_requests,
    SendTransactionRequest: messages.send_transaction_requests,
    ServerKeysRequest: messages.server_keys_requests,
}

RESPONSES: dict[type[Response], Callable[..., st.SearchStrategy[Any]]] = {
    KeysUploadResponse: messages.keys_upload_responses,
    KeysQueryResponse: messages.keys_query_responses,
    KeysClaimResponse: messages.keys_claim_responses,
    KeysChangesResponse: messages.keys_changes_responses,
    DeviceSigningUploadResponse: messages.device_signing_upload_responses,
    SignaturesUploadResponse: messages.signatures_upload_responses,
    SendToDeviceResponse: messages.send_to_device_responses,
    UserKeysQueryResponse: messages.user_keys_query_responses,
    UserKeysClaimResponse: messages.user_keys_claim_responses,
    UserDevicesResponse: messages.user_devices_responses,
    SendTransactionResponse: messages.send_transaction_responses,
    ServerKeysResponse: messages.server_keys_responses,
}

# Those of which the draft of 2015 can say less.
SINCE_2015 = {KeysUploadRequest, KeysQueryRequest, KeysQueryResponse, KeysClaimRequest, KeysClaimResponse}

DIALECTS: dict[str, tuple[Dialect, ...]] = {
    "keys_upload": (CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA),
    "keys_query": (CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA),
    "keys_claim": (CLIENT_V3, CLIENT_R0, CLIENT_V2_ALPHA),
    "keys_changes": (CLIENT_V3, CLIENT_R0),
    "send_to_device": (CLIENT_V3, CLIENT_R0),
}

OTHER_VALUES: dict[type[Any], Callable[[], st.SearchStrategy[Any]]] = {
    SignatureFailure: messages.signature_failures,
    DeviceLists: messages.device_lists,
    SyncKeys: messages.sync_keys,
    DeviceListUpdate: messages.device_list_updates,
    SigningKeyUpdate: messages.signing_key_updates,
    DirectToDevice: messages.direct_to_device_edus,
    UnknownEdu: messages.unknown_edus,
    UserInteractiveAuth: messages.user_interactive_auths,
    UserDevice: lambda: messages.user_devices_responses().flatmap(
        lambda answer: st.sampled_from(
            [d for d in answer.devices if type(d) is UserDevice] or [UserDevice(device_id="D")]
        )
    ),
    AuthenticationFlow: lambda: messages.user_interactive_auths().map(
        lambda auth: auth.flows[0] if auth.flows else AuthenticationFlow(stages=("m.login.dummy",))
    ),
}

EVERYTHING: dict[type[Any], Callable[..., st.SearchStrategy[Any]]] = {**REQUESTS, **RESPONSES, **OTHER_VALUES}

# There are some seventy kinds of values, in three dialects: a third of the usual examples of each.
FEWER = settings(max_examples=settings.default.max_examples // 3)


def in_every_dialect(
    strategies: Mapping[type[Any], Callable[..., st.SearchStrategy[Any]]],
) -> list[Any]:
    """One parameter for each class and each dialect: the class, what it says in the dialect, the dialect."""
    found: list[Any] = []
    for kind, strategy in strategies.items():
        for dialect in DIALECTS.get(kind.endpoint.name, (None,)):
            values = strategy(dialect=dialect) if dialect is not None and kind in SINCE_2015 else strategy()
            found.append(
                pytest.param(kind, values, dialect, id=f"{kind.__name__} {dialect.name if dialect else 'only'}")
            )
    return found


def written(value: Any) -> str:
    """Everything a value says, in a form in which 1, 1.0 and True are different things."""
    return json.dumps(value.to_json(), sort_keys=True) if hasattr(value, "to_json") else repr(value)


WIDEST = JsonLimits(max_depth=400, max_digits=4000)


def nested(depth: int) -> Any:
    """As many arrays, one in the other."""
    return functools.reduce(lambda inner, _: [inner], range(depth), 1)


def same(value: Any, other: Any) -> bool:
    """Equality of models leaves signatures and ``unsigned`` out; this does not."""
    return type(value) is type(other) and bool(value == other) and written(value) == written(other)


class TestRoundTrip:
    def test_nothing_is_left_out(self) -> None:
        assert {kind.endpoint.name for kind in REQUESTS} == {kind.endpoint.name for kind in RESPONSES} == set(ENDPOINTS)
        for name, endpoint in ENDPOINTS.items():
            assert len(endpoint.paths) == len(DIALECTS.get(name, (None,))), name

    def test_each_request_knows_its_answer(self) -> None:
        answers = {kind.endpoint.name: kind for kind in RESPONSES}
        assert {kind: kind.answer_type() for kind in REQUESTS} == {
            kind: answers[kind.endpoint.name] for kind in REQUESTS
        }

    @pytest.mark.parametrize(("kind", "values", "dialect"), in_every_dialect(REQUESTS))
    @FEWER
    @given(data=st.data())
    def test_requests(
        self, kind: type[Request], values: st.SearchStrategy[Any], dialect: Dialect | None, data: st.DataObject
    ) -> None:
        request = data.draw(values)
        assert type(request) is kind
        http = request.to_http(dialect)
        assert http == request.to_http(dialect)
        assert same(kind.from_http(http), request)
        incoming = read_request(http)
        assert same(incoming.request, request)
        assert incoming.dialect is (kind.endpoint.dialect() if dialect is None else dialect)
        if isinstance(request, BodyRequest):
            _, names = kind.endpoint.parameters
            parameters = {name: getattr(request, name) for name in names if getattr(request, name) is not None}
            body = request.to_json()
            for again in (
                type(request).from_json(body, **parameters),
                type(request).from_bytes(http.body, **parameters),
                type(request).from_bytes(json.dumps(body, indent=1), **parameters),
            ):
                assert same(again, request)

    @pytest.mark.parametrize(("kind", "values", "dialect"), in_every_dialect(RESPONSES))
    @FEWER
    @given(data=st.data())
    def test_responses(
        self, kind: type[Response], values: st.SearchStrategy[Any], dialect: Dialect | None, data: st.DataObject
    ) -> None:
        response = data.draw(values)
        assert type(response) is kind
        http = response.to_http(dialect)
        assert http.status == 200
        body = response.to_json()
        for again in (
            kind.from_http(http),
            kind.from_json(body),
            kind.from_bytes(http.body),
            kind.from_bytes(json.dumps(body, indent=1)),
        ):
            assert same(again, response)

    @given(messages.edus())
    def test_edus(self, edu: Edu) -> None:
        assert same(read_edu(edu.to_json()), edu)
        (again,) = read_edus([edu.to_json()])  # the paths of what was set aside begin elsewhere
        assert (type(again), written(again)) == (type(edu), written(edu))

    @given(messages.sync_keys(sliding=False))
    def test_sync_v2(self, keys: SyncKeys) -> None:
        assert SyncKeys.from_sync_v2({"next_batch": "s1", **keys.to_sync_v2()}) == keys
        again = SyncKeys.from_sync_v2(keys.to_sync_v2()).to_sync_v2()
        assert json.dumps(again, sort_keys=True) == json.dumps(keys.to_sync_v2(), sort_keys=True)

    @given(messages.sync_keys())
    def test_sliding_sync(self, keys: SyncKeys) -> None:
        body = {"pos": "1", "extensions": {"e2ee": keys.to_sliding_sync()}}
        assert SyncKeys.from_sliding_sync(body) == keys
        again = SyncKeys.from_sliding_sync(body).to_sliding_sync()
        assert json.dumps(again, sort_keys=True) == json.dumps(keys.to_sliding_sync(), sort_keys=True)

    @given(messages.matrix_errors())
    def test_errors(self, error: MatrixError) -> None:
        assert same(MatrixError.from_http(error.to_http()), error)

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(nested(128), id="deeper than the usual limits"),
            pytest.param(10**40, id="longer than the usual limits"),
            pytest.param(10**3999, id="as long as any limits"),
            pytest.param(nested(384), id="as deep as can be"),
        ],
    )
    def test_an_extra_comes_back(self, value: Any) -> None:
        request = KeysQueryRequest(device_keys={}, extra={"x": value})
        assert same(KeysQueryRequest.from_http(request.to_http(), limits=WIDEST), request)

    @pytest.mark.parametrize("value", [nested(385), nested(400), nested(401), 10**4000], ids=lambda v: type(v).__name__)
    def test_an_extra_that_could_not_come_back_is_refused(self, value: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysQueryRequest(device_keys={}, extra={"x": value})
        assert caught.value.path.startswith("/extra/x")

    @pytest.mark.parametrize("kind", [DeviceSigningUploadResponse, SendToDeviceResponse])
    def test_an_answer_that_would_be_read_as_an_error_is_refused(self, kind: type[Any]) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            kind(extra={"errcode": "M_X"})
        assert (caught.value.path, caught.value.reason) == ("/extra/errcode", Reason.INVALID_VALUE)


# --------------------------------------------------------------------------------------------------------------
# Unknown members
# --------------------------------------------------------------------------------------------------------------

UNKNOWN: dict[str, Any] = {"org.example": {"a/b~c": [1.5, None, True, 2**60, "\ud800", {}]}, "": []}


def device(**more: Any) -> dict[str, Any]:
    return {**ALICE.device("PHONE", extra={"org.example.signed": [1]}).to_json(), **more}


def master(**more: Any) -> dict[str, Any]:
    return {**ALICE.master_key.to_json(), "org.example.signed": {"a": [1]}, **more}


def one_time_key(**more: Any) -> dict[str, Any]:
    value = ALICE.one_time_key("PHONE", "AAAAAQ").to_json()
    assert type(value) is dict
    return {**value, "org.example.signed": "x", **more}


OTK = "signed_curve25519:AAAAAQ"

BODIES_OF_REQUESTS: list[tuple[str, type[BodyRequest], dict[str, str], dict[str, Any]]] = [
    ("upload", KeysUploadRequest, {}, UNKNOWN),
    ("upload, device keys", KeysUploadRequest, {}, {"device_keys": device()}),
    ("upload, unsigned", KeysUploadRequest, {}, {"device_keys": device(unsigned=UNKNOWN)}),
    ("upload, one-time key", KeysUploadRequest, {}, {"one_time_keys": {OTK: one_time_key(unsigned=UNKNOWN)}}),
    ("upload, fallback key", KeysUploadRequest, {}, {"fallback_keys": {OTK: one_time_key(fallback=True)}}),
    ("query", KeysQueryRequest, {}, {"device_keys": {}, **UNKNOWN}),
    ("claim", KeysClaimRequest, {}, {"one_time_keys": {}, **UNKNOWN}),
    ("signing keys", DeviceSigningUploadRequest, {}, UNKNOWN),
    ("signing keys, key", DeviceSigningUploadRequest, {}, {"master_key": master(unsigned=UNKNOWN)}),
    ("signing keys, auth", DeviceSigningUploadRequest, {}, {"auth": UNKNOWN}),
    ("signatures", SignaturesUploadRequest, {}, {"@alice:a.example": {"PHONE": device(unsigned=UNKNOWN)}}),
    (
        "signatures, an object that is no key",
        SignaturesUploadRequest,
        {},
        {"@alice:a.example": {"X": {"a": 1, "unsigned": UNKNOWN}}},
    ),
    ("to-device", SendToDeviceRequest, {"event_type": "m.x", "txn_id": "1"}, {"messages": {}, **UNKNOWN}),
    (
        "to-device, content",
        SendToDeviceRequest,
        {"event_type": "m.x", "txn_id": "1"},
        {"messages": {"@alice:a.example": {"*": {"org.example": {"a/b~c": [1, None]}}}}},
    ),
    (
        "transaction",
        SendTransactionRequest,
        {"txn_id": "1"},
        {"origin": "a.example", "origin_server_ts": 0, "pdus": [UNKNOWN], "edus": [], **UNKNOWN},
    ),
    ("federation query", UserKeysQueryRequest, {}, {"device_keys": {}, "timeout": 5, **UNKNOWN}),
    ("federation claim", UserKeysClaimRequest, {}, {"one_time_keys": {}, "timeout": 5, **UNKNOWN}),
]

EMPTY_QUERY: dict[str, Any] = {
    "device_keys": {},
    "failures": {},
    "master_keys": {},
    "self_signing_keys": {},
    "user_signing_keys": {},
}
EMPTY_FEDERATION_QUERY: dict[str, Any] = {"device_keys": {}, "master_keys": {}, "self_signing_keys": {}}
EMPTY_DEVICES: dict[str, Any] = {"user_id": "@alice:a.example", "stream_id": 1, "devices": []}

BODIES_OF_RESPONSES: list[tuple[str, type[Response], dict[str, Any]]] = [
    ("upload", KeysUploadResponse, {"one_time_key_counts": {}, **UNKNOWN}),
    ("query", KeysQueryResponse, {**EMPTY_QUERY, **UNKNOWN}),
    (
        "query, device keys and unsigned",
        KeysQueryResponse,
        {**EMPTY_QUERY, "device_keys": {"@alice:a.example": {"PHONE": device(unsigned=UNKNOWN)}}},
    ),
    ("query, failures", KeysQueryResponse, {**EMPTY_QUERY, "failures": {"b.example": UNKNOWN, "c": None}}),
    (
        "query, master key",
        KeysQueryResponse,
        {**EMPTY_QUERY, "master_keys": {"@alice:a.example": master(unsigned=UNKNOWN)}},
    ),
    ("claim", KeysClaimResponse, {"one_time_keys": {}, "failures": {}, **UNKNOWN}),
    ("claim, failures", KeysClaimResponse, {"one_time_keys": {}, "failures": {"b.example": UNKNOWN, "c": 5}}),
    (
        "claim, one-time key",
        KeysClaimResponse,
        {"one_time_keys": {"@a:b": {"D": {OTK: one_time_key(unsigned=UNKNOWN)}}}, "failures": {}},
    ),
    ("changes", KeysChangesResponse, {"changed": [], "left": [], **UNKNOWN}),
    ("signing keys", DeviceSigningUploadResponse, UNKNOWN),
    ("signatures", SignaturesUploadResponse, {"failures": {}, **UNKNOWN}),
    (
        "signatures, failure",
        SignaturesUploadResponse,
        {"failures": {"@a:b": {"D": {"errcode": "M_UNKNOWN", "error": "", **UNKNOWN}, "E": UNKNOWN}}},
    ),
    ("to-device", SendToDeviceResponse, UNKNOWN),
    ("transaction", SendTransactionResponse, {"pdus": {"$a": UNKNOWN}, **UNKNOWN}),
    ("federation query", UserKeysQueryResponse, {**EMPTY_FEDERATION_QUERY, "user_signing_keys": {}, **UNKNOWN}),
    (
        "federation query, device keys",
        UserKeysQueryResponse,
        {**EMPTY_FEDERATION_QUERY, "device_keys": {"@alice:a.example": {"PHONE": device(unsigned=UNKNOWN)}}},
    ),
    ("federation claim", UserKeysClaimResponse, {"one_time_keys": {}, "failures": {}, **UNKNOWN}),
    ("devices", UserDevicesResponse, {**EMPTY_DEVICES, **UNKNOWN}),
    ("devices, device", UserDevicesResponse, {**EMPTY_DEVICES, "devices": [{"device_id": "PHONE", **UNKNOWN}]}),
    (
        "devices, keys",
        UserDevicesResponse,
        {**EMPTY_DEVICES, "devices": [{"device_id": "PHONE", "keys": device(unsigned=UNKNOWN)}]},
    ),
    ("devices, master key", UserDevicesResponse, {**EMPTY_DEVICES, "master_key": master(unsigned=UNKNOWN)}),
    (
        "server keys",
        ServerKeysResponse,
        {
            "server_name": "a.example",
            "verify_keys": {"org.example:1": {"key": "?", "x": [1]}},
            "valid_until_ts": 1,
            "org.example": {"a/b~c": [1]},
            "unsigned": UNKNOWN,
        },
    ),
]

EDUS: list[tuple[str, dict[str, Any]]] = [
    (
        "device list update",
        {
            "edu_type": "m.device_list_update",
            "content": {"user_id": "@a:b", "device_id": "D", "stream_id": 1, "prev_id": [], **UNKNOWN},
            "origin": "b",
            **UNKNOWN,
        },
    ),
    (
        "device list update, keys",
        {
            "edu_type": "m.device_list_update",
            "content": {
                "user_id": "@alice:a.example",
                "device_id": "PHONE",
                "stream_id": 1,
                "prev_id": [],
                "keys": device(unsigned=UNKNOWN),
            },
        },
    ),
    ("signing key update", {"edu_type": "m.signing_key_update", "content": {"user_id": "@a:b", **UNKNOWN}, **UNKNOWN}),
    (
        "signing key update, key",
        {
            "edu_type": "m.signing_key_update",
            "content": {"user_id": "@alice:a.example", "master_key": master(unsigned=UNKNOWN)},
        },
    ),
    (
        "direct to device",
        {
            "edu_type": "m.direct_to_device",
            "content": {"sender": "@a:b", "type": "m.x", "message_id": "1", "messages": {}, **UNKNOWN},
            **UNKNOWN,
        },
    ),
    ("unknown", {"edu_type": "org.example", "content": UNKNOWN, **UNKNOWN}),
]


def as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


class TestUnknownMembers:
    @pytest.mark.parametrize(
        ("kind", "parameters", "body"), [pytest.param(*case[1:], id=case[0]) for case in BODIES_OF_REQUESTS]
    )
    def test_in_requests(self, kind: type[BodyRequest], parameters: dict[str, str], body: dict[str, Any]) -> None:
        before = as_json(body)
        assert as_json(kind.from_json(body, **parameters).to_json()) == before
        assert as_json(kind.from_bytes(before, **parameters).to_json()) == before
        assert as_json(body) == before

    @pytest.mark.parametrize(("kind", "body"), [pytest.param(*case[1:], id=case[0]) for case in BODIES_OF_RESPONSES])
    def test_in_responses(self, kind: type[Response], body: dict[str, Any]) -> None:
        before = as_json(body)
        assert as_json(kind.from_json(body).to_json()) == before
        assert as_json(kind.from_bytes(before).to_json()) == before
        assert as_json(body) == before

    @pytest.mark.parametrize("body", [pytest.param(case[1], id=case[0]) for case in EDUS])
    def test_in_edus(self, body: dict[str, Any]) -> None:
        before = as_json(body)
        assert as_json(read_edu(body).to_json()) == before
        assert as_json(body) == before

    def test_in_device_lists(self) -> None:
        body = {"device_lists": {"changed": [], "left": ["@a:b"], **UNKNOWN}, "device_one_time_keys_count": {}}
        assert as_json(SyncKeys.from_sync_v2(body).to_sync_v2()) == as_json(body)

    def test_in_errors_and_flows(self) -> None:
        body = {
            "errcode": "M_FORBIDDEN",
            "error": "",
            "flows": [{"stages": ["m.login.dummy"], **UNKNOWN}],
            "params": {"m.login.dummy": UNKNOWN},
            **UNKNOWN,
        }
        error = MatrixError.from_http(attrs.evolve(MatrixError(status=401).to_http(), body=json.dumps(body).encode()))
        assert as_json(error.to_json()) == as_json(body)
        assert as_json(MatrixError.from_http(error.to_http()).to_json()) == as_json(body)


KNOWN: list[tuple[type[Any], str, dict[str, Any], tuple[str, ...]]] = [
    (KeysUploadRequest, "extra", {}, ("device_keys", "one_time_keys", "fallback_keys")),
    (KeysUploadResponse, "extra", {"one_time_key_counts": {}}, ("one_time_key_counts",)),
    (KeysQueryRequest, "extra", {"device_keys": {}}, ("device_keys", "timeout")),
    (
        KeysQueryResponse,
        "extra",
        {},
        ("device_keys", "master_keys", "self_signing_keys", "user_signing_keys", "failures"),
    ),
    (KeysClaimRequest, "extra", {"one_time_keys": {}}, ("one_time_keys", "timeout")),
    (KeysClaimResponse, "extra", {}, ("one_time_keys", "failures")),
    (KeysChangesResponse, "extra", {}, ("changed", "left")),
    (DeviceSigningUploadRequest, "extra", {}, ("master_key", "self_signing_key", "user_signing_key", "auth")),
    (SignatureFailure, "extra", {}, ("errcode", "error", "message", "status")),
    (SignaturesUploadResponse, "extra", {}, ("failures",)),
    (SendToDeviceRequest, "extra", {"event_type": "m.x", "txn_id": "1", "messages": {}}, ("messages",)),
    (
        SendTransactionRequest,
        "extra",
        {"txn_id": "1", "origin": "a.example", "origin_server_ts": 0},
        ("origin", "origin_server_ts", "pdus", "edus"),
    ),
    (SendTransactionResponse, "extra", {}, ("pdus",)),
    (DeviceLists, "extra", {}, ("changed", "left")),
    (UserKeysQueryRequest, "extra", {"device_keys": {}}, ("device_keys",)),
    (UserKeysQueryResponse, "extra", {}, ("device_keys", "master_keys", "self_signing_keys")),
    (UserKeysClaimRequest, "extra", {"one_time_keys": {}}, ("one_time_keys",)),
    (UserKeysClaimResponse, "extra", {}, ("one_time_keys",)),
    (UserDevice, "extra", {"device_id": "D"}, ("device_id", "keys", "device_display_name")),
    (
        UserDevicesResponse,
        "extra",
        {"user_id": "@a:b", "stream_id": 1, "devices": ()},
        ("user_id", "stream_id", "devices", "master_key", "self_signing_key"),
    ),
    (
        DeviceListUpdate,
        "extra",
        {"user_id": "@a:b", "device_id": "D", "stream_id": 1},
        ("user_id", "device_id", "stream_id", "prev_id", "deleted", "device_display_name", "keys"),
    ),
    (
        DeviceListUpdate,
        "beside",
        {"user_id": "@a:b", "device_id": "D", "stream_id": 1},
        ("edu_type", "content"),
    ),
    (SigningKeyUpdate, "extra", {"user_id": "@a:b"}, ("user_id", "master_key", "self_signing_key")),
    (SigningKeyUpdate, "beside", {"user_id": "@a:b"}, ("edu_type", "content")),
    (
        DirectToDevice,
        "extra",
        {"sender": "@a:b", "event_type": "m.x", "message_id": "1", "messages": {}},
        ("sender", "type", "message_id", "messages"),
    ),
    (
        DirectToDevice,
        "beside",
        {"sender": "@a:b", "event_type": "m.x", "message_id": "1", "messages": {}},
        ("edu_type", "content"),
    ),
    (UnknownEdu, "beside", {"edu_type": "m.typing", "content": {}}, ("edu_type", "content")),
    (AuthenticationFlow, "extra", {"stages": ()}, ("stages",)),
    (MatrixError, "extra", {"status": 400}, ("errcode", "error", "retry_after_ms")),
    (
        MatrixError,
        "extra",
        {"status": 401, "user_interactive": UserInteractiveAuth(flows=())},
        ("errcode", "error", "retry_after_ms", "flows", "session", "params", "completed"),
    ),
]

ANY_NAME: list[type[Any]] = [DeviceSigningUploadResponse, SendToDeviceResponse]


class TestExtraStandsForNothing:
    @pytest.mark.parametrize(
        ("kind", "where", "members", "name"),
        [
            pytest.param(kind, where, members, name, id=f"{kind.__name__}.{where} {name} {len(members)}")
            for kind, where, members, names in KNOWN
            for name in names
        ],
    )
    @pytest.mark.parametrize("value", [None, {}], ids=repr)
    def test_a_known_member_in_it_is_refused(
        self, kind: type[Any], where: str, members: dict[str, Any], name: str, value: Any
    ) -> None:
        assert getattr(kind(**members, **{where: {"x": value}}), where) == {"x": value}
        with pytest.raises(LocalProtocolError) as caught:
            kind(**members, **{where: {"x": 1, name: value}})
        assert (caught.value.path, caught.value.reason) == (f"/{where}/{name}", Reason.INVALID_VALUE)

    def test_every_class_is_asked(self) -> None:
        asked = {(kind, where) for kind, where, _, _ in KNOWN} | {(kind, "extra") for kind in ANY_NAME}
        there = {
            (kind, field.name)
            for kind in EVERYTHING
            for field in attrs.fields(kind)
            if field.name in ("extra", "beside")
        }
        assert asked - {(MatrixError, "extra")} == there

    @pytest.mark.parametrize("kind", [kind for kind, where, _, _ in KNOWN if where == "extra"] + ANY_NAME)
    @pytest.mark.parametrize(
        ("extra", "path", "reason"),
        [
            (5, "/extra", Reason.WRONG_TYPE),
            ([], "/extra", Reason.WRONG_TYPE),
            ({5: 1}, "/extra", Reason.WRONG_TYPE),
            ({"x": object()}, "/extra/x", Reason.NOT_A_JSON_VALUE),
            ({"x": [{"y": (1,)}]}, "/extra/x/0/y", Reason.NOT_A_JSON_VALUE),
            ({"x": float("nan")}, "/extra/x", Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_what_is_no_json_is_refused(self, kind: type[Any], extra: Any, path: str, reason: Reason) -> None:
        members = next((members for known, _, members, _ in KNOWN if known is kind), {})
        with pytest.raises(LocalProtocolError) as caught:
            kind(**members, extra=extra)
        assert (caught.value.path, caught.value.reason) == (path, reason)


# --------------------------------------------------------------------------------------------------------------
# Later changes
# --------------------------------------------------------------------------------------------------------------


def scribble(value: Any) -> None:
    """Change every dict and list in a value that belongs to the caller."""
    if type(value) is dict:
        for member in value.values():
            scribble(member)
        value["scribbled"] = None
    elif type(value) is list:
        for item in value:
            scribble(item)
        value.append(None)


def loose(value: Any) -> Any:
    """The same value in dicts and lists; models stay what they are."""
    if isinstance(value, Mapping):
        return {name: loose(member) for name, member in value.items()}
    return [loose(item) for item in value] if type(value) in (tuple, list) else value


def check_read_only(value: Any) -> None:
    """Maps of entries can be changed at no level, and lists of entries are tuples."""
    if isinstance(value, Mapping):
        with pytest.raises(TypeError):
            value["scribbled"] = None  # type: ignore[index]
        for member in value.values():
            if not isinstance(member, list | dict):  # JSON that is passed on; see below
                check_read_only(member)
    assert type(value) is not list


@pytest.mark.parametrize("kind", EVERYTHING, ids=lambda kind: kind.__name__)
@FEWER
@given(data=st.data())
def test_nobody_changes_a_value(kind: type[Any], data: st.DataObject) -> None:
    value = data.draw(EVERYTHING[kind]())

    # By what it was made of.
    members = {field.name: loose(getattr(value, field.name)) for field in attrs.fields(kind)}
    made = kind(**members)
    assert same(made, value)
    scribble(members)
    assert same(made, value)

    # By what it was read from.
    if issubclass(kind, BodyRequest | Response):
        names = kind.endpoint.parameters[1] if issubclass(kind, BodyRequest) else ()
        body = value.to_json()
        read = kind.from_json(body, **{name: getattr(value, name) for name in names if getattr(value, name)})
        scribble(body)
        assert same(read, value)

    # By what it gave away.
    before = repr(value)
    for method in ("to_json", "to_sliding_sync"):
        if hasattr(value, method):
            body = getattr(value, method)()
            kept = copy.deepcopy(body)
            scribble(body)
            assert getattr(value, method)() == kept
    assert repr(value) == before

    # By its fields.
    for field in attrs.fields(kind):
        check_read_only(getattr(value, field.name))
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, field.name, None)


@pytest.mark.parametrize(
    ("kind", "name", "members"),
    [
        (KeysQueryResponse, "extra", {}),
        (KeysQueryResponse, "failures", {}),
        (DeviceSigningUploadRequest, "auth", {}),
        (UnknownEdu, "content", {"edu_type": "m.typing"}),
    ],
)
def test_nobody_changes_what_stands_inside_json_that_is_passed_on(
    kind: type[Any], name: str, members: dict[str, Any]
) -> None:
    value = kind(**members, **{name: {"x": {"y": 1}}})
    with contextlib.suppress(TypeError):
        getattr(value, name)["x"]["y"] = 2
    assert getattr(value, name) == {"x": {"y": 1}}
