"""/keys/device_signing/upload as values: three keys, each for itself, and the proof that goes with them."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    AuthenticationFlow,
    CrossSigningKey,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    E2EKeysError,
    LocalProtocolError,
    MatrixError,
    Reason,
    Rejection,
    RemoteProtocolError,
    UserInteractiveAuth,
)
from matrix_e2e_keys.testing.samples import SampleUser
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
MASTER = ALICE.master_key
SELF_SIGNING = ALICE.self_signing_key
USER_SIGNING = ALICE.user_signing_key
NAMES = ("master_key", "self_signing_key", "user_signing_key")


def body() -> dict[str, Any]:
    return {
        "master_key": MASTER.to_json(),
        "self_signing_key": SELF_SIGNING.to_json(),
        "user_signing_key": USER_SIGNING.to_json(),
    }


def full() -> DeviceSigningUploadRequest:
    return DeviceSigningUploadRequest(master_key=MASTER, self_signing_key=SELF_SIGNING, user_signing_key=USER_SIGNING)


class TestRequest:
    def test_both_directions(self) -> None:
        assert full().to_json() == body()
        read = DeviceSigningUploadRequest.from_bytes(json.dumps(body()))
        assert read == full()
        assert type(read.master_key) is CrossSigningKey
        sent = full().to_http()
        assert (sent.method, sent.target) == ("POST", "/_matrix/client/v3/keys/device_signing/upload")
        with pytest.raises(LocalProtocolError) as caught:
            full().to_http(CLIENT_R0)
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize("name", NAMES)
    def test_each_key_may_be_missing(self, name: str) -> None:
        sent = body()
        del sent[name]
        request = DeviceSigningUploadRequest.from_json(sent)
        assert getattr(request, name) is None
        assert request.to_json() == sent
        assert DeviceSigningUploadRequest.from_json({name: body()[name]}).to_json() == {name: body()[name]}

    def test_nothing_at_all(self) -> None:
        assert DeviceSigningUploadRequest.from_bytes(b"{}") == DeviceSigningUploadRequest()
        assert DeviceSigningUploadRequest().to_http().body == b"{}"

    def test_asked_for_a_proof_one_sends_the_same_again(self) -> None:
        asked = MatrixError(
            status=401,
            errcode=None,
            user_interactive=UserInteractiveAuth(
                flows=(AuthenticationFlow(stages=("m.login.password",)),), session="xyz"
            ),
        )
        with pytest.raises(MatrixError) as caught:
            DeviceSigningUploadResponse.from_http(asked.to_http())
        user_interactive = caught.value.user_interactive
        assert user_interactive is not None
        request = DeviceSigningUploadRequest(master_key=MASTER, extra={"x": 1})
        again = request.with_auth(user_interactive.auth("m.login.password", {"password": "hunter2"}))
        assert again.to_json() == {
            "master_key": MASTER.to_json(),
            "auth": {"type": "m.login.password", "password": "hunter2", "session": "xyz"},
            "x": 1,
        }
        assert request.auth is None
        assert DeviceSigningUploadRequest.from_http(again.to_http()) == again

    def test_a_password_is_not_shown(self) -> None:
        request = full().with_auth({"type": "m.login.password", "password": "hunter2"})
        assert "hunter2" not in repr(request)
        assert "hunter2" not in repr(request.to_http())
        assert request != full()

    @pytest.mark.parametrize(
        ("auth", "path", "reason"),
        [
            (5, "/auth", Reason.WRONG_TYPE),
            ([], "/auth", Reason.WRONG_TYPE),
            ("x", "/auth", Reason.WRONG_TYPE),
            ({5: 1}, "/auth", Reason.WRONG_TYPE),
            ({"x": object()}, "/auth/x", Reason.NOT_A_JSON_VALUE),
            ({"x": {"y": float("nan")}}, "/auth/x/y", Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_a_proof_is_a_json_object(self, auth: Any, path: str, reason: Reason) -> None:
        for make in (lambda: full().with_auth(auth), lambda: DeviceSigningUploadRequest(auth=auth)):
            with pytest.raises(LocalProtocolError) as caught:
                make()
            assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("sent", "path", "reason"),
        [
            (b"[]", "", Reason.WRONG_TYPE),
            (b"null", "", Reason.WRONG_TYPE),
            (b'{"auth": []}', "/auth", Reason.WRONG_TYPE),
            (b'{"auth": "x"}', "/auth", Reason.WRONG_TYPE),
            (b'{"auth": 5}', "/auth", Reason.WRONG_TYPE),
            (b'{"auth": null}', "/auth", Reason.WRONG_TYPE),
            (b'{"auth": {"session": "a"}, "auth": {"session": "b"}}', "/auth", Reason.DUPLICATE_MEMBER),
        ],
    )
    def test_bad_bodies(self, sent: bytes, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            DeviceSigningUploadRequest.from_bytes(sent)
        error = caught.value
        assert (error.path, error.reason, error.errcode, error.http_status) == (path, reason, "M_BAD_JSON", 400)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        ("change", "inside", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ("x", "", Reason.WRONG_TYPE),
            ({}, "/user_id", Reason.MISSING_MEMBER),
            ({"user_id": "@a:b", "usage": ["master"]}, "/keys", Reason.MISSING_MEMBER),
            ({"user_id": "alice", "usage": ["master"], "keys": {}}, "/user_id", Reason.INVALID_IDENTIFIER),
            ({"user_id": "@a:b", "usage": "master", "keys": {}}, "/usage", Reason.WRONG_TYPE),
            ({"user_id": "@a:b", "usage": [], "keys": {}}, "/usage", Reason.WRONG_USAGE),
            ({"user_id": "@a:b", "usage": ["x", 5], "keys": {}}, "/usage/1", Reason.WRONG_TYPE),
            ({"user_id": "@a:b", "usage": ["x"], "keys": {}}, "/keys", Reason.MISSING_KEY),
            ({"user_id": "@a:b", "usage": ["x"], "keys": {"a:b": "b", "c:d": "d"}}, "/keys", Reason.TOO_MANY_KEYS),
            ({"user_id": "@a:b", "usage": ["x"], "keys": {"a/b": "b"}}, "/keys/a~1b", Reason.INVALID_KEY_ID),
            ({"user_id": "@a:b", "usage": ["x"], "keys": {"a:b": "c"}}, "/keys/a:b", Reason.KEY_ID_NOT_KEY),
            ({"signatures": 5}, "/signatures", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_a_malformed_key_is_set_aside(self, name: str, change: Any, inside: str, reason: Reason) -> None:
        sent = {**body(), name: change}
        request = DeviceSigningUploadRequest.from_json(sent)
        rejection = getattr(request, name)
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/{name}{inside}", reason)
        assert (rejection.user_id, rejection.device_id, rejection.raw) == (None, None, change)
        kept = [getattr(request, other) for other in NAMES if other != name]
        assert all(type(key) is CrossSigningKey for key in kept)
        assert request.to_json() == sent

    @pytest.mark.parametrize(
        ("entry", "inside", "reason"),
        [
            ('{"user_id": "@a:b", "user_id": "@a:b"}', "/user_id", Reason.DUPLICATE_MEMBER),
            ('{"user_id": "@a:b", "x": 1.5}', "/x", Reason.NOT_AN_INTEGER),
            ('{"user_id": "@a:b", "x": "\\udfff"}', "/x", Reason.LONE_SURROGATE),
            ('{"user_id": "@a:b", "x": ' + "[" * 200 + "]" * 200 + "}", "/x" + "/0" * 126, Reason.TOO_DEEP),
        ],
    )
    def test_a_fault_of_the_bytes_costs_only_the_key_it_stands_in(
        self, entry: str, inside: str, reason: Reason
    ) -> None:
        text = json.dumps({**body(), "self_signing_key": "HERE"}).replace('"HERE"', entry)
        request = DeviceSigningUploadRequest.from_bytes(text)
        rejection = request.self_signing_key
        assert isinstance(rejection, Rejection)
        assert (rejection.path, rejection.reason) == (f"/self_signing_key{inside}", reason)
        assert (request.master_key, request.user_signing_key) == (MASTER, USER_SIGNING)
        assert request.to_json() == {**body(), "self_signing_key": None}

    def test_a_key_that_stands_there_twice(self) -> None:
        request = DeviceSigningUploadRequest.from_bytes('{"master_key": {}, "master_key": {}}')
        assert isinstance(request.master_key, Rejection)
        assert (request.master_key.path, request.master_key.reason) == ("/master_key", Reason.DUPLICATE_MEMBER)

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("key", [{}, "x", 5, MASTER.to_json(), ALICE.device("PHONE")], ids=repr)
    def test_bad_callers(self, name: str, key: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            DeviceSigningUploadRequest(**{name: key})
        assert (caught.value.path, caught.value.reason) == (f"/{name}", Reason.WRONG_TYPE)

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (value, {**body(), "master_key": value}, {**body(), "auth": value}, {"auth": {"x": value}}):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                DeviceSigningUploadRequest.from_json(place).to_http()
            assert repr(place) == before


class TestResponse:
    def test_both_directions(self) -> None:
        assert DeviceSigningUploadResponse().to_json() == {}
        assert DeviceSigningUploadResponse.from_bytes(b"{}") == DeviceSigningUploadResponse()
        assert DeviceSigningUploadResponse.from_json({"x": [1.5]}).extra == {"x": [1.5]}
        assert DeviceSigningUploadResponse().to_http().body == b"{}"

    @pytest.mark.parametrize("sent", [b"[]", b"null", b"5", b'"x"'])
    def test_what_is_no_answer(self, sent: bytes) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            DeviceSigningUploadResponse.from_bytes(sent)
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)
