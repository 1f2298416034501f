"""Decisions: an answer with effects, or a refusal without any."""

from __future__ import annotations

import json
from typing import Any

import pytest

from matrix_e2e_keys import CLIENT_V2_ALPHA, KeysClaimResponse, KeysUploadResponse, LocalProtocolError, MatrixError
from matrix_e2e_keys.homeserver.decisions import Decision, Requester, check_requester, refuse

ANSWER = KeysUploadResponse(one_time_key_counts={"signed_curve25519": 1})


def test_an_answer() -> None:
    decision: Decision[KeysUploadResponse] = Decision(answer=ANSWER)
    assert (decision.is_refusal, decision.require(), decision.effects) == (False, ANSWER, ())
    assert decision.refusal is None
    assert decision.to_http() == ANSWER.to_http()


def test_an_answer_in_a_dialect() -> None:
    claim: Decision[KeysClaimResponse] = Decision(answer=KeysClaimResponse(failures={"a.example": {}}))
    assert "failures" in json.loads(claim.to_http().body)
    with pytest.raises(LocalProtocolError):
        claim.to_http(CLIENT_V2_ALPHA)


def test_a_refusal() -> None:
    decision = refuse(403, "M_FORBIDDEN", "Key ID in use")
    error = MatrixError(status=403, errcode="M_FORBIDDEN", error="Key ID in use")
    assert (decision.is_refusal, decision.answer, decision.effects) == (True, error, ())
    assert decision.refusal is decision.answer
    with pytest.raises(MatrixError) as caught:
        decision.require()
    assert caught.value == error
    for dialect in (None, CLIENT_V2_ALPHA):
        response = decision.to_http(dialect)
        assert response.status == 403
        assert json.loads(response.body) == {"errcode": "M_FORBIDDEN", "error": "Key ID in use"}


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ({"user_id": "alice"}, "/user_id"),
        ({"device_id": ""}, "/device_id"),
        ({"device_id": 5}, "/device_id"),
        ({"has_authenticated": None}, "/has_authenticated"),
        ({"is_application_service": 1}, "/is_application_service"),
    ],
)
def test_what_is_no_requester(members: dict[str, Any], path: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        Requester(**{"user_id": "@alice:a.example", **members})
    assert caught.value.path == path


def test_a_requester() -> None:
    requester = Requester(user_id="@alice:a.example")
    assert check_requester(requester) is requester
    assert (requester.device_id, requester.has_authenticated, requester.is_application_service) == (None, False, False)
    with pytest.raises(LocalProtocolError) as caught:
        check_requester("@alice:a.example")
    assert caught.value.path == "/requester"
