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
    VerificationError,
)
from matrix_e2e_keys.homeserver.fan_out.failures import ServerFailure
from matrix_e2e_keys.testing.strategies import json_like_values


class TestServerFailure:
    def test_no_answer(self) -> None:
        assert ServerFailure.timed_out().to_json() == {"status": 503, "message": "The server has not answered"}

    def test_a_refusal_is_passed_on(self) -> None:
        error = MatrixError(status=404, errcode="M_NOT_FOUND", error="no such thing")
        expected = {"status": 404, "errcode": "M_NOT_FOUND", "message": "no such thing"}
        assert ServerFailure.of(error).to_json() == expected

    def test_a_refusal_without_an_error_code(self) -> None:
        error = MatrixError.from_http(HttpResponse(status=502, body=b"<html>"))
        assert ServerFailure.of(error).to_json() == {"status": 502, "message": ""}

    def test_long_texts_are_shortened(self) -> None:
        failure = ServerFailure.of(MatrixError(status=400, errcode="M" * 1000, error="e" * 1000))
        assert (failure.errcode, failure.message) == ("M" * 200, "e" * 200)
        failure = ServerFailure.of(RemoteProtocolError(Reason.NOT_JSON, "e" * 1000))
        assert len(failure.message) == 200

    def test_an_answer_that_cannot_be_read(self) -> None:
        failure = ServerFailure.of(RemoteProtocolError(Reason.NOT_JSON, "it is no JSON"))
        assert (failure.status, failure.errcode) == (502, None)
        assert failure.message == "The answer cannot be read: it is no JSON [not-json]"

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

    @pytest.mark.parametrize("status", [399, 200, True, "503"])
    def test_the_status_is_one_of_an_error(self, status: Any) -> None:
        with pytest.raises(LocalProtocolError):
            ServerFailure(status=status)
        assert ServerFailure(status=400).status == 400
