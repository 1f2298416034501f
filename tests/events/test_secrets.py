"""m.secret.request, m.secret.send, m.dummy."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from events.megolm_samples import without_dots
from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys.errors import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.events.key_requests import RequestAction
from matrix_e2e_keys.events.secrets import DummyContent, SecretName, SecretRequestContent, SecretSendContent
from matrix_e2e_keys.json_frames import parse_frame

R = Reason
SECRET = "ThisIsASecretDon'tTellAnyone"


def request(**members: Any) -> dict[str, Any]:
    known = {
        "action": "request",
        "requesting_device_id": "PHONE",
        "request_id": "randomly_generated_id_9573",
        "name": "org.example.some.secret",
    }
    return without_dots({**known, **members})


def cancellation(**members: Any) -> dict[str, Any]:
    return request(**{"action": "request_cancellation", "name": ..., **members})


def sent(**members: Any) -> dict[str, Any]:
    return without_dots({"request_id": "randomly_generated_id_9573", "secret": SECRET, **members})


class TestRequest:
    def test_comes_back(self) -> None:
        obj = request(x=1.5)
        before = copy.deepcopy(obj)
        content = SecretRequestContent.from_json(obj)
        assert obj == before
        assert (content.action, content.name) == (RequestAction.REQUEST, "org.example.some.secret")
        assert (content.requesting_device_id, content.request_id) == ("PHONE", "randomly_generated_id_9573")
        assert content.extra == {"x": 1.5}
        assert json.loads(json.dumps(content.to_json())) == obj
        assert content.event_type == "m.secret.request"

    def test_a_cancellation(self) -> None:
        content = SecretRequestContent.from_json(cancellation())
        assert (content.action, content.name) == (RequestAction.CANCELLATION, None)
        assert content.to_json() == cancellation()

    @pytest.mark.parametrize("name", ["m.megolm_backup.v1", "", None, 1, [], float("nan")])
    def test_a_cancellation_is_not_missed_for_what_stands_beside_it(self, name: object) -> None:
        assert SecretRequestContent.from_json(cancellation(name=name)).to_json() == cancellation()

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"action": ...}, ("", R.MISSING_MEMBER)),
            ({"action": "share"}, ("/action", R.INVALID_VALUE)),
            ({"requesting_device_id": ...}, ("", R.MISSING_MEMBER)),
            ({"request_id": ...}, ("", R.MISSING_MEMBER)),
            ({"name": ...}, ("", R.MISSING_MEMBER)),
            ({"name": None}, ("", R.MISSING_MEMBER)),
            ({"name": ""}, ("/name", R.INVALID_VALUE)),
            ({"name": 1}, ("/name", R.WRONG_TYPE)),
        ],
    )
    def test_what_is_malformed(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        assert refusal(lambda: SecretRequestContent.from_json(request(**members)), RemoteProtocolError) == expected

    @pytest.mark.parametrize("name", [*SecretName, "org.example.some.secret"])
    def test_is_built(self, name: str) -> None:
        content = SecretRequestContent.build(
            name=name, request_id="randomly_generated_id_9573", requesting_device_id="PHONE"
        )
        assert content.to_json() == request(name=str(name))
        assert type(content.name) is str
        assert content.name == name

    def test_a_cancellation_is_built(self) -> None:
        build = SecretRequestContent.build_cancellation
        assert build(request_id="randomly_generated_id_9573", requesting_device_id="PHONE").to_json() == cancellation()
        known: dict[str, Any] = {"action": RequestAction.CANCELLATION, "requesting_device_id": "P", "request_id": "1"}
        expected = ("/name", R.INVALID_VALUE)
        assert refusal(lambda: SecretRequestContent(name="x", **known), LocalProtocolError) == expected

    def test_names_are_those_of_the_specification(self) -> None:
        cross_signing = {f"m.cross_signing.{key}" for key in ("master", "self_signing", "user_signing")}
        assert set(SecretName) == {*cross_signing, "m.megolm_backup.v1"}

    @pytest.mark.parametrize("argument", ["name", "request_id", "requesting_device_id"])
    def test_whatever_is_handed_in(self, argument: str) -> None:
        def build(value: object) -> object:
            known: dict[str, Any] = {"name": "x", "request_id": "1", "requesting_device_id": "P"}
            return SecretRequestContent.build(**{**known, argument: value})

        only_own_errors(build)
        assert refusal(lambda: build(b"x"), LocalProtocolError) == (f"/{argument}", R.WRONG_TYPE)
        assert only_own_errors(SecretRequestContent.from_json) == len(ODD)
        for name in request():
            only_own_errors(lambda value, name=name: SecretRequestContent.from_json(request(**{name: value})))


class TestSend:
    def test_comes_back(self) -> None:
        content = SecretSendContent.from_json(sent(x=[]))
        assert (content.request_id, content.secret) == ("randomly_generated_id_9573", SECRET)
        assert content.extra == {"x": []}
        assert content.to_json() == sent(x=[])
        assert content.event_type == "m.secret.send"
        assert SecretSendContent.build(request_id="randomly_generated_id_9573", secret=SECRET).to_json() == sent()

    @pytest.mark.parametrize("secret", ["x", "\N{PILE OF POO}", " "])
    def test_a_secret_is_any_text(self, secret: str) -> None:
        assert SecretSendContent.from_json(sent(secret=secret)).secret == secret

    @pytest.mark.parametrize(
        ("members", "expected"),
        [
            ({"request_id": ...}, ("", R.MISSING_MEMBER)),
            ({"request_id": ""}, ("/request_id", R.INVALID_VALUE)),
            ({"secret": ...}, ("", R.MISSING_MEMBER)),
            ({"secret": ""}, ("/secret", R.INVALID_VALUE)),
            ({"secret": None}, ("/secret", R.WRONG_TYPE)),
            ({"secret": [SECRET]}, ("/secret", R.WRONG_TYPE)),
            ({"secret": {SECRET: 1}}, ("/secret", R.WRONG_TYPE)),
            ({"secret": SECRET + "\ud800"}, ("/secret", R.LONE_SURROGATE)),
            ({"secret": 46913780246913780246}, ("/secret", R.WRONG_TYPE)),
            ({"secret": 469137.80246913}, ("/secret", R.WRONG_TYPE)),
        ],
    )
    def test_what_is_malformed_and_not_quoted(self, members: dict[str, Any], expected: tuple[str, Reason]) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            SecretSendContent.from_json(sent(**members))
        assert (caught.value.path, caught.value.reason) == expected
        assert "Secret" not in repr(caught.value)
        assert "469137" not in repr(caught.value)

    @pytest.mark.parametrize("literal", ["4691378024691378024691378024691378", "46913.780e1", f'"{SECRET}\\ud800"'])
    def test_nor_where_it_comes_out_of_a_parser(self, literal: str) -> None:
        for text in (f'{{"request_id": "x", "secret": {literal}}}', f'{{"secret": {literal}, "secret": {literal}}}'):
            with pytest.raises(E2EKeysError) as caught:
                SecretSendContent.from_json(parse_frame(text))
            assert "46913" not in repr(caught.value)
            assert "ASecret" not in repr(caught.value)

    def test_is_not_shown(self) -> None:
        content = SecretSendContent.from_json(sent())
        for shown in (repr(content), str(content), f"{content}"):
            assert "randomly" in shown
            assert "ASecret" not in shown

    @pytest.mark.parametrize("argument", ["request_id", "secret"])
    def test_whatever_is_handed_in(self, argument: str) -> None:
        def build(value: object) -> object:
            known: dict[str, Any] = {"request_id": "1", "secret": "x"}
            return SecretSendContent.build(**{**known, argument: value})

        only_own_errors(build)
        assert refusal(lambda: build(b"x"), LocalProtocolError) == (f"/{argument}", R.WRONG_TYPE)
        assert only_own_errors(SecretSendContent.from_json) == len(ODD)


class TestDummy:
    def test_says_nothing(self) -> None:
        assert DummyContent.build().to_json() == {}
        assert DummyContent.from_json({}) == DummyContent.build()
        assert DummyContent.event_type == "m.dummy"

    def test_keeps_what_it_does_not_know(self) -> None:
        assert DummyContent.from_json({"org.example": [1]}).to_json() == {"org.example": [1]}

    def test_is_an_object_all_the_same(self) -> None:
        assert refusal(lambda: DummyContent.from_json([]), RemoteProtocolError) == ("", R.WRONG_TYPE)
        only_own_errors(DummyContent.from_json)
