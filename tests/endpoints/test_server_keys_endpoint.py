"""The keys of a server as request and answer."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_pointers import changed, check_pointer
from matrix_e2e_keys import (
    KEY_V2,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    RemoteProtocolError,
    ServerKeys,
    ServerKeysRequest,
    ServerKeysResponse,
    read_request,
)
from matrix_e2e_keys.testing.samples import sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

SIGNER = sample_secret_key("a.example 1").signer("ed25519:a_1")
DOCUMENT = ServerKeys.build(server_name="a.example", signers=[SIGNER], valid_until_ts=1_700_000_000_000)


def body(**changes: Any) -> dict[str, Any]:
    return {**DOCUMENT.to_json(), **changes}


class TestRequest:
    def test_http(self) -> None:
        sent = ServerKeysRequest().to_http()
        assert (sent.method, sent.target, sent.body) == ("GET", "/_matrix/key/v2/server", b"")
        assert ServerKeysRequest.from_http(sent) == ServerKeysRequest()
        assert read_request(sent).dialect is KEY_V2
        assert read_request(sent).request == ServerKeysRequest()

    @pytest.mark.parametrize(
        ("method", "path", "reason", "status"),
        [
            ("POST", "/_matrix/key/v2/server", Reason.WRONG_METHOD, 405),
            ("GET", "/_matrix/key/v2/server/ed25519:1", Reason.UNRECOGNIZED_ENDPOINT, 404),
            ("GET", "/_matrix/key/v1/server", Reason.UNRECOGNIZED_ENDPOINT, 404),
        ],
    )
    def test_other_requests(self, method: str, path: str, reason: Reason, status: int) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            ServerKeysRequest.from_http(HttpRequest(method=method, path=path))
        assert (caught.value.reason, caught.value.errcode) == (reason, "M_UNRECOGNIZED")
        assert caught.value.http_status == status


class TestResponse:
    def test_both_directions(self) -> None:
        response = ServerKeysResponse(server_keys=DOCUMENT)
        assert response.to_json() == DOCUMENT.to_json()
        assert ServerKeysResponse.from_json(body()) == response
        assert ServerKeysResponse.from_bytes(json.dumps(body())) == response
        received = ServerKeysResponse.from_http(response.to_http())
        assert received == response == ServerKeysRequest().read_answer(response.to_http())
        assert ServerKeysRequest.answer_type() is ServerKeysResponse
        assert received.server_keys.verify(server_name="a.example").document == DOCUMENT

    def test_signatures_come_back(self) -> None:
        read = ServerKeysResponse.from_json(body(signatures={"notary.example": {"ed25519:x": "y"}}))
        assert read.to_json()["signatures"] == {"notary.example": {"ed25519:x": "y"}}

    @pytest.mark.parametrize(
        ("document", "path", "reason"),
        [
            (None, "", Reason.WRONG_TYPE),
            ([], "", Reason.WRONG_TYPE),
            ({}, "/server_name", Reason.MISSING_MEMBER),
            (body(server_name="a b"), "/server_name", Reason.INVALID_IDENTIFIER),
            (body(verify_keys=None), "/verify_keys", Reason.WRONG_TYPE),
            (body(verify_keys={"ed25519:a/b": {"key": "!"}}), "/verify_keys/ed25519:a~1b/key", Reason.INVALID_BASE64),
            (body(valid_until_ts=1.5), "/valid_until_ts", Reason.NOT_AN_INTEGER),
            (body(added=[0, 0.5]), "/added/1", Reason.NOT_AN_INTEGER),
        ],
        ids=lambda value: f"{value}"[:40],
    )
    def test_one_malformed_part_refuses_the_whole(self, document: Any, path: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            ServerKeysResponse.from_json(document)
        assert (caught.value.path, caught.value.reason) == (path, reason)
        check_pointer(document, caught.value)

    def test_a_member_twice(self) -> None:
        text = json.dumps(body()).replace('"valid_until_ts"', '"valid_until_ts": 1, "valid_until_ts"')
        with pytest.raises(RemoteProtocolError) as caught:
            ServerKeysResponse.from_bytes(text)
        assert (caught.value.path, caught.value.reason) == ("/valid_until_ts", Reason.DUPLICATE_MEMBER)

    def test_a_server_that_refuses(self) -> None:
        with pytest.raises(MatrixError) as caught:
            ServerKeysResponse.from_http(HttpResponse(status=502, body=b"<html>"))
        assert caught.value.status == 502

    @pytest.mark.parametrize("document", [None, {}, DOCUMENT.to_json(), DOCUMENT.signed])
    def test_only_a_document_stands_in_one(self, document: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            ServerKeysResponse(server_keys=document)
        assert (caught.value.path, caught.value.reason) == ("/server_keys", Reason.WRONG_TYPE)

    def test_a_verified_document_is_not_what_stands_in_one(self) -> None:
        with pytest.raises(LocalProtocolError):
            ServerKeysResponse(server_keys=DOCUMENT.verify(server_name="a.example"))  # type: ignore[arg-type]

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for document in (value, *(body(**{name: value}) for name in (*body(), "old_verify_keys", "new"))):
            before = repr(document)
            with contextlib.suppress(E2EKeysError):
                ServerKeysResponse.from_json(document).to_json()
            assert repr(document) == before

    @given(st.data())
    def test_every_path_leads_to_the_place_it_names(self, data: st.DataObject) -> None:
        document = changed(data.draw, body(old_verify_keys={"ed25519:0": {"key": "A" * 43, "expired_ts": 1}}))
        before = copy.deepcopy(document)
        try:
            ServerKeysResponse.from_json(document)
        except RemoteProtocolError as error:
            check_pointer(document, error)
        assert document == before
