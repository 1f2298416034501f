"""What is said of servers that fail."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    E2EKeysError,
    HttpResponse,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    RemoteProtocolError,
    UserKeysQueryResponse,
    VerificationError,
)
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure, usable
from matrix_e2e_keys.testing.strategies import json_like_values


class TestServerFailure:
    def test_no_answer(self) -> None:
        assert ServerFailure.timed_out().to_json() == {"status": 503, "message": "The server has not answered"}

    def test_what_is_said_here_is_said(self) -> None:
        error = MatrixError(status=404, errcode="M_NOT_FOUND", error="no such thing")
        expected = {"status": 404, "errcode": "M_NOT_FOUND", "message": "no such thing"}
        assert ServerFailure.of(error).to_json() == expected

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503])
    @pytest.mark.parametrize("body", [b'{"errcode":"M_CALL_US","error":"call us"}', b'{"retry_after_ms":7}', b"<html>"])
    def test_of_a_refusal_nothing_but_the_status_is_passed_on(self, status: int, body: bytes) -> None:
        error = MatrixError.from_http(HttpResponse(status=status, body=body))
        assert ServerFailure.of(error).to_json() == {"status": status, "message": "The server has refused"}

    @pytest.mark.parametrize("detail", ["it is no JSON", "e" * 1000, "call us"])
    def test_of_an_answer_that_cannot_be_read_it_is_said_why(self, detail: str) -> None:
        """The detail may quote the answer."""
        failure = ServerFailure.of(RemoteProtocolError(Reason.NOT_JSON, detail))
        assert (failure.status, failure.errcode) == (502, None)
        assert failure.message == "The answer cannot be read (not-json)"

    @pytest.mark.parametrize(
        "error", [LocalProtocolError(Reason.INVALID_VALUE, "inside"), VerificationError(Reason.MISSING_KEY, "inside")]
    )
    def test_our_own_faults_are_not_told(self, error: E2EKeysError) -> None:
        assert ServerFailure.of(error) == ServerFailure(status=500, message="Internal server error")

    @given(detail=st.text(st.characters(), max_size=300))
    def test_whatever_the_text_it_can_be_sent(self, detail: str) -> None:
        failure = ServerFailure.of(RemoteProtocolError(Reason.NOT_JSON, detail))
        KeysQueryResponse(failures={"b.example": failure.to_json()}).to_http()

    @given(junk=json_like_values())
    def test_only_errors_of_this_library_leave(self, junk: Any) -> None:
        with pytest.raises(LocalProtocolError):
            ServerFailure.of(junk)
        for name in ("status", "errcode", "message"):
            with contextlib.suppress(LocalProtocolError):
                ServerFailure(**{name: junk})

    def test_an_answer_without_entries_is_none(self) -> None:
        """Else it would look as if nobody had any devices."""
        good = UserKeysQueryResponse()
        failure = ServerFailure(status=403)
        assert usable(None, "device_keys") == ServerFailure.timed_out()
        assert usable(failure, "device_keys") is failure
        assert usable(good, "device_keys") is good
        bad = UserKeysQueryResponse.from_bytes(b'{"device_keys":[],"master_keys":7}')
        assert usable(bad, "device_keys") == ServerFailure(status=502, message="The answer cannot be read (wrong-type)")
        beside = UserKeysQueryResponse.from_bytes(b'{"device_keys":{},"master_keys":7}')
        assert beside.malformed
        assert usable(beside, "device_keys") is beside

    @pytest.mark.parametrize("status", [399, 200, True, "503"])
    def test_the_status_is_one_of_an_error(self, status: Any) -> None:
        with pytest.raises(LocalProtocolError):
            ServerFailure(status=status)
        assert ServerFailure(status=400).status == 400
