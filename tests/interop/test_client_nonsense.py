"""What our types cannot say: it is sent to a real homeserver as text, and set aside where we read it ourselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from attrs import fields

from interop.matrix_http import V3, MakeClient
from interop.people import Person, person_of
from matrix_e2e_keys import (
    DeviceSigningUploadRequest,
    HttpRequest,
    JsonObject,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SendToDeviceRequest,
    parse_json,
    read_request,
)

pytestmark = pytest.mark.interop

MALFORMED = {"M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM"}
"""Which of them it is differs between versions of the peer."""

UPLOAD = "/keys/upload"
QUERY = "/keys/query"
CLAIM = "/keys/claim"
SIGNING = "/keys/device_signing/upload"


# --------------------------------------------------------------------------------------------------------------
# What our types cannot say
# --------------------------------------------------------------------------------------------------------------

Build: TypeAlias = Callable[[], object]
Text: TypeAlias = Callable[[Person], Any]


def with_member(obj: JsonObject, **members: object) -> dict[str, object]:
    return {**obj, **members}


def two_keys(person: Person) -> JsonObject:
    keys = [person.public_text(usage) for usage in ("master", "self_signing")]
    content = person.cross_signing_key("master").signed.content
    return {**content, "keys": {f"ed25519:{key}": key for key in keys}}


def of_devices(devices: object) -> Text:
    return lambda person: {"device_keys": {person.user_id: devices}}


UNSPEAKABLE: list[tuple[str, str, Text, tuple[str, Reason], set[str]]] = [
    ("no JSON", UPLOAD, lambda _: "{", ("", Reason.NOT_JSON), {"M_NOT_JSON"}),
    ("an array", UPLOAD, lambda _: "[]", ("", Reason.WRONG_TYPE), {"M_BAD_JSON"}),
    ("null", UPLOAD, lambda _: {"device_keys": None}, ("/device_keys", Reason.WRONG_TYPE), MALFORMED),
    (
        "algorithms that are none",
        UPLOAD,
        lambda person: {"device_keys": with_member(person.device_keys().to_json(), algorithms="m.olm")},
        ("/device_keys/algorithms", Reason.WRONG_TYPE),
        MALFORMED,
    ),
    (
        "a key id without an algorithm",
        UPLOAD,
        lambda person: {"one_time_keys": {"AAAA": {"key": person.curve25519_key.to_base64(), "signatures": {}}}},
        ("/one_time_keys/AAAA", Reason.INVALID_KEY_ID),
        MALFORMED,
    ),
    ("no JSON", QUERY, lambda _: '{"device_keys":', ("", Reason.NOT_JSON), {"M_NOT_JSON"}),
    ("an array", QUERY, lambda _: "[]", ("", Reason.WRONG_TYPE), {"M_BAD_JSON"}),
    ("no device_keys", QUERY, lambda _: {}, ("/device_keys", Reason.MISSING_MEMBER), {"M_BAD_JSON"}),
    ("devices that are null", QUERY, of_devices(None), ("/device_keys/USER", Reason.WRONG_TYPE), {"M_BAD_JSON"}),
    ("devices that are one", QUERY, of_devices("DEVICE"), ("/device_keys/USER", Reason.WRONG_TYPE), {"M_BAD_JSON"}),
    ("devices that are a map", QUERY, of_devices({}), ("/device_keys/USER", Reason.WRONG_TYPE), {"M_BAD_JSON"}),
    ("no JSON", CLAIM, lambda _: "", ("", Reason.NOT_JSON), {"M_NOT_JSON"}),
    (
        "a user id that is none",
        CLAIM,
        lambda _: {"one_time_keys": {"alice": {"DEVICE": "signed_curve25519"}}},
        ("/one_time_keys/alice", Reason.INVALID_IDENTIFIER),
        {"M_INVALID_PARAM"},
    ),
    ("no JSON", SIGNING, lambda _: "nonsense", ("", Reason.NOT_JSON), {"M_NOT_JSON"}),
    (
        "a master key that is two",
        SIGNING,
        lambda person: {"master_key": two_keys(person)},
        ("/master_key/keys", Reason.TOO_MANY_KEYS),
        {"M_INVALID_PARAM"},
    ),
    (
        "a master key that is too short",
        SIGNING,
        lambda person: {
            "master_key": {"user_id": person.user_id, "usage": ["master"], "keys": {"ed25519:AAAA": "AAAA"}}
        },
        ("/master_key/keys/ed25519:AAAA", Reason.WRONG_LENGTH),
        {"M_INVALID_PARAM"},
    ),
    (
        "an array",
        "/keys/signatures/upload",
        lambda _: "[]",
        ("", Reason.WRONG_TYPE),
        {"M_BAD_JSON"},
    ),
]


@pytest.mark.parametrize(
    ("path", "text", "place", "errcodes"),
    [case[1:] for case in UNSPEAKABLE],
    ids=[f"{case[1][6:]}: {case[0]}" for case in UNSPEAKABLE],
)
def test_what_we_cannot_say_we_set_aside_and_the_server_refuses(
    new_client: MakeClient, path: str, text: Text, place: tuple[str, Reason], errcodes: set[str]
) -> None:
    client = new_client()
    body = text(person_of(client))
    raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    request = HttpRequest(method="POST", path=V3 + path, body=raw)

    assert reading_refuses(request) == (place[0].replace("USER", client.user_id), place[1])
    error = client.refused(request)
    assert error.status == 400
    assert error.errcode in errcodes


def reading_refuses(request: HttpRequest) -> tuple[str, Reason]:
    """Return place and reason of the one thing that we refuse or set aside in a request, and would send as it came."""
    try:
        read = read_request(request).request
    except RemoteProtocolError as error:
        return error.path, error.reason
    assert parse_json(read.to_http().body) == parse_json(request.body)
    kind: Any = type(read)
    (rejection,) = rejections_in([getattr(read, field.name) for field in fields(kind)])
    return rejection.path, rejection.reason


def rejections_in(value: object) -> list[Rejection]:
    if isinstance(value, Rejection):
        return [value]
    members = value if isinstance(value, list) else value.values() if hasattr(value, "values") else ()
    return [rejection for member in members for rejection in rejections_in(member)]


NONSENSE: list[tuple[Build, str, Reason]] = [
    (lambda: KeysUploadRequest(device_keys={}), "/device_keys", Reason.WRONG_TYPE),  # type: ignore[arg-type]
    (
        lambda: KeysUploadRequest(one_time_keys={"AAAA": "AAAA"}),  # type: ignore[dict-item]
        "/one_time_keys/AAAA",
        Reason.WRONG_TYPE,
    ),
    (lambda: KeysQueryRequest.for_users(["alice"]), "/device_keys/alice", Reason.INVALID_IDENTIFIER),
    (
        lambda: KeysQueryRequest(device_keys={"@a:b": "DEVICE"}),  # type: ignore[dict-item]
        "/device_keys/@a:b",
        Reason.WRONG_TYPE,
    ),
    (
        lambda: KeysQueryRequest(device_keys={"@a:b": None}),  # type: ignore[dict-item]
        "/device_keys/@a:b",
        Reason.WRONG_TYPE,
    ),
    (
        lambda: KeysClaimRequest.for_devices({"alice": ["DEVICE"]}),
        "/one_time_keys/alice",
        Reason.INVALID_IDENTIFIER,
    ),
    (lambda: DeviceSigningUploadRequest(master_key={}), "/master_key", Reason.WRONG_TYPE),  # type: ignore[arg-type]
    (
        lambda: SendToDeviceRequest(event_type="", txn_id="1", messages={}).to_http(),
        "/event_type",
        Reason.INVALID_IDENTIFIER,
    ),
]


@pytest.mark.parametrize(("build", "path", "reason"), NONSENSE)
def test_our_types_refuse_to_say_it(build: Build, path: str, reason: Reason) -> None:
    with pytest.raises(LocalProtocolError) as error:
        build()
    assert (error.value.path, error.value.reason) == (path, reason)


def test_a_user_id_that_is_none_is_not_answered(new_client: MakeClient) -> None:
    request = HttpRequest(method="POST", path=V3 + QUERY, body=b'{"device_keys":{"alice":[]}}')
    assert reading_refuses(request) == ("/device_keys/alice", Reason.INVALID_IDENTIFIER)
    answer = KeysQueryResponse.from_http(new_client().http.send(request))
    assert answer == KeysQueryResponse()
    assert read_request(request).request.asked == {}  # type: ignore[attr-defined]  # a KeysQueryRequest


def test_who_claims_nothing_gets_nothing(new_client: MakeClient) -> None:
    request = HttpRequest(method="POST", path=V3 + CLAIM, body=b"{}")
    assert reading_refuses(request) == ("/one_time_keys", Reason.MISSING_MEMBER)
    assert KeysClaimResponse.from_http(new_client().http.send(request)) == KeysClaimResponse()


def test_a_request_without_a_parameter_is_refused_by_both(new_client: MakeClient) -> None:
    client = new_client()
    for request, reason in (
        (HttpRequest(method="GET", path=f"{V3}/keys/changes", query="to=s1"), Reason.MISSING_PARAMETER),
        (HttpRequest(method="PUT", path=f"{V3}/sendToDevice/m.dummy/1", body=b"{}"), Reason.MISSING_MEMBER),
    ):
        assert reading_refuses(request)[1] is reason
        error = client.refused(request)
        assert error.status == 400
        assert error.errcode in MALFORMED
