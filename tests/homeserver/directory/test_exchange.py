"""Exchanges, requests to other servers, and what /sync says."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import E2EKeysError, HttpRequest, HttpResponse, LocalProtocolError, Reason, SyncKeys
from matrix_e2e_keys.homeserver.directory.values import Exchange, ServerRequest, SyncAnswer
from matrix_e2e_keys.testing.strategies import json_like_values

ASK = ServerRequest(server_name="b.example", request=HttpRequest(method="GET", path="/x"))
DONE = HttpResponse(status=200, body=b"{}")


def asking(seen: list[Any]) -> Exchange:
    def step(answers: Any, now: int) -> Exchange:
        seen.append((dict(answers), now))
        return Exchange(response=DONE)

    return Exchange(requests=(ASK,), step=step)


class TestProceeding:
    def test_answers_and_the_time_reach_the_next_step(self) -> None:
        seen: list[Any] = []
        after = asking(seen).proceed({"b.example": DONE, "c.example": None}, now=7)
        assert seen == [({"b.example": DONE, "c.example": None}, 7)]
        assert (after.response, after.requests) == (DONE, ())

    def test_answers_cannot_be_changed_later(self) -> None:
        kept: list[Any] = []

        def step(answers: Any, now: int) -> Exchange:
            kept.append(answers)
            return Exchange(response=DONE)

        answers: dict[str, HttpResponse | None] = {"b.example": DONE}
        Exchange(requests=(ASK,), step=step).proceed(answers, now=1)
        answers["b.example"] = None
        assert kept[0]["b.example"] == DONE

    def test_what_is_over_is_over(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            Exchange(response=DONE).proceed({}, now=1)
        assert caught.value.reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("answers", [None, [], "text", {7: DONE}, {"b.example": b"{}"}, {"b.example": 200}])
    def test_what_are_no_answers_is_refused(self, answers: Any) -> None:
        seen: list[Any] = []
        with pytest.raises(LocalProtocolError) as caught:
            asking(seen).proceed(answers, now=1)
        assert caught.value.path.startswith("/answers")
        assert seen == []

    @pytest.mark.parametrize("now", [None, 1.0, "1", True])
    def test_what_is_no_time_is_refused(self, now: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            asking([]).proceed({}, now=now)
        assert caught.value.path == "/now"

    @given(json_like_values(), json_like_values())
    def test_nothing_else_is_raised(self, answers: Any, now: Any) -> None:
        for given_answers, given_now in ((answers, 1), ({}, now), ({"b.example": answers}, 1)):
            with contextlib.suppress(E2EKeysError):
                asking([]).proceed(given_answers, now=given_now)

    def test_the_next_step_is_nobodys_business(self) -> None:
        assert "step" not in repr(asking([]))
        assert asking([]) == asking([])


class TestServerRequest:
    def test_waits_ten_seconds_by_default(self) -> None:
        assert (ASK.timeout_ms, ASK.authorization) == (10_000, ())


class TestSyncAnswer:
    def test_as_json(self) -> None:
        event = {"type": "m.test", "content": {"n": [1]}}
        answer = SyncAnswer(
            next_batch="s1",
            keys=SyncKeys(one_time_key_counts={"a": 1}, unused_fallback_key_types=("b",)),
            to_device=(event,),
        )
        body = answer.to_json()
        assert body == {
            "next_batch": "s1",
            "device_one_time_keys_count": {"a": 1},
            "device_unused_fallback_key_types": ["b"],
            "to_device": {"events": [event]},
        }
        body["to_device"]["events"][0]["content"]["n"].append(2)
        assert event["content"] == {"n": [1]}
