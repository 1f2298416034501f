"""m.room_key_request: requests, and cancellations that nothing can spoil."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from events.megolm_samples import CURVE, ROOM, without_dots
from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys.algorithms import MEGOLM_V1
from matrix_e2e_keys.errors import LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.key_requests import RequestAction, RequestedKeyInfo, RoomKeyRequestContent

R = Reason


def body(**members: Any) -> dict[str, Any]:
    return without_dots({"algorithm": MEGOLM_V1, "room_id": ROOM, "session_id": "session", **members})


def request(**members: Any) -> dict[str, Any]:
    known = {"action": "request", "requesting_device_id": "PHONE", "request_id": "1495474790150.19", "body": body()}
    return without_dots({**known, **members})


def cancellation(**members: Any) -> dict[str, Any]:
    return request(**{"action": "request_cancellation", "body": ..., **members})


def read(obj: object) -> RoomKeyRequestContent:
    return RoomKeyRequestContent.from_json(obj)


class TestReading:
    def test_a_request(self) -> None:
        obj = request(body=body(sender_key=CURVE.to_base64(), x=1.5), y=None)
        before = copy.deepcopy(obj)
        content = read(obj)
        assert obj == before
        assert (content.action, content.requesting_device_id) == (RequestAction.REQUEST, "PHONE")
        assert (content.request_id, content.extra) == ("1495474790150.19", {"y": None})
        assert content.body is not None
        assert (content.body.algorithm, content.body.room_id, content.body.session_id) == (MEGOLM_V1, ROOM, "session")
        assert content.body.extra == {"x": 1.5}
        written = json.dumps(content.to_json())
        assert json.loads(written) == obj
        assert read(json.loads(written)) == content
        assert type(content.to_json()["action"]) is str
        assert content.event_type == "m.room_key_request"

    @pytest.mark.parametrize("sender_key", [CURVE.to_base64(), "no key at all", ""])
    def test_the_sender_key_is_whatever_it_is(self, sender_key: str) -> None:
        """Attack 58: what names the sender outside of any encryption is called untrusted."""
        content = read(request(body=body(sender_key=sender_key)))
        assert content.body is not None
        assert content.body.untrusted_sender_key == sender_key
        assert not hasattr(content.body, "sender_key")

    def test_a_cancellation(self) -> None:
        content = read(cancellation(x=1))
        assert (content.action, content.body, content.extra) == (RequestAction.CANCELLATION, None, {"x": 1})
        assert content.to_json() == cancellation(x=1)

    @pytest.mark.parametrize("value", [body(), {}, None, 1, {"algorithm": "m.other"}, float("nan"), [[]]])
    def test_a_cancellation_is_not_missed_for_what_stands_beside_it(self, value: object) -> None:
        assert read(cancellation(body=value)) == read(cancellation())

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"action": ...}, ("", R.MISSING_MEMBER)),
            ({"action": "cancel_request"}, ("/action", R.INVALID_VALUE)),
            ({"action": 1}, ("/action", R.WRONG_TYPE)),
            ({"action": ["request"]}, ("/action", R.WRONG_TYPE)),
            ({"requesting_device_id": ...}, ("", R.MISSING_MEMBER)),
            ({"requesting_device_id": ""}, ("/requesting_device_id", R.INVALID_IDENTIFIER)),
            ({"request_id": ...}, ("", R.MISSING_MEMBER)),
            ({"request_id": ""}, ("/request_id", R.INVALID_VALUE)),
            ({"body": ...}, ("", R.MISSING_MEMBER)),
            ({"body": []}, ("/body", R.WRONG_TYPE)),
            ({"body": None}, ("/body", R.WRONG_TYPE)),
            ({"body": body(algorithm=...)}, ("/body", R.MISSING_MEMBER)),
            ({"body": body(algorithm="m.other", room_id=1)}, ("/body/algorithm", R.UNSUPPORTED_ALGORITHM)),
            ({"body": body(room_id=...)}, ("/body", R.MISSING_MEMBER)),
            ({"body": body(room_id="x")}, ("/body/room_id", R.INVALID_IDENTIFIER)),
            ({"body": body(session_id="")}, ("/body/session_id", R.INVALID_VALUE)),
            ({"body": body(sender_key=1)}, ("/body/sender_key", R.WRONG_TYPE)),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        assert refusal(lambda: read(request(**members)), RemoteProtocolError) == expected

    def test_whatever_is_handed_in(self) -> None:
        assert only_own_errors(read) == len(ODD)
        for name in request():
            only_own_errors(lambda value, name=name: read(request(**{name: value})))
            only_own_errors(lambda value, name=name: read(cancellation(**{name: value})))
        for name in body(sender_key="x"):
            only_own_errors(lambda value, name=name: read(request(body=body(**{name: value}))))


class TestBuilding:
    def test_a_request(self) -> None:
        build = RoomKeyRequestContent.build
        least = build(request_id="1495474790150.19", requesting_device_id="PHONE", room_id=ROOM, session_id="session")
        assert least.to_json() == request()
        most = build(
            request_id="1495474790150.19",
            requesting_device_id="PHONE",
            room_id=ROOM,
            session_id="session",
            sender_key=CURVE,
        )
        assert most.to_json() == request(body=body(sender_key=CURVE.to_base64()))

    def test_a_cancellation(self) -> None:
        built = RoomKeyRequestContent.build_cancellation(request_id="1495474790150.19", requesting_device_id="PHONE")
        assert built.to_json() == cancellation()

    def test_each_says_what_it_has_to(self) -> None:
        known: dict[str, Any] = {"requesting_device_id": "PHONE", "request_id": "1"}
        info = RequestedKeyInfo(room_id=ROOM, session_id="session")
        content = RoomKeyRequestContent
        assert refusal(lambda: content(action=RequestAction.REQUEST, **known), LocalProtocolError) == (
            "",
            R.MISSING_MEMBER,
        )
        assert refusal(lambda: content(action=RequestAction.CANCELLATION, body=info, **known), LocalProtocolError) == (
            "/body",
            R.INVALID_VALUE,
        )
        wrong: Any = "request"
        assert refusal(lambda: content(action=wrong, body=info, **known), LocalProtocolError) == (
            "/action",
            R.WRONG_TYPE,
        )

    @pytest.mark.parametrize("argument", ["request_id", "requesting_device_id", "room_id", "session_id", "sender_key"])
    def test_whatever_is_handed_in(self, argument: str) -> None:
        def build(value: object) -> object:
            known: dict[str, Any] = {"request_id": "1", "requesting_device_id": "P", "room_id": ROOM, "session_id": "s"}
            return RoomKeyRequestContent.build(**{**known, argument: value})

        only_own_errors(build)
        assert refusal(lambda: build(b"x"), LocalProtocolError) == (f"/{argument}", R.WRONG_TYPE)
        if argument.startswith("request"):

            def cancel(value: object) -> object:
                known: dict[str, Any] = {"request_id": "1", "requesting_device_id": "P"}
                return RoomKeyRequestContent.build_cancellation(**{**known, argument: value})

            only_own_errors(cancel)
            assert refusal(lambda: cancel(b"x"), LocalProtocolError) == (f"/{argument}", R.WRONG_TYPE)
