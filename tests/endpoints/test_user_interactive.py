"""What a homeserver asks for before it believes that it is the user."""

from __future__ import annotations

from typing import Any

import pytest

from matrix_e2e_keys import AuthenticationFlow, LocalProtocolError, Reason, UserInteractiveAuth

PASSWORD = AuthenticationFlow(stages=("m.login.password",))


class TestFlow:
    def test_written(self) -> None:
        flow = AuthenticationFlow(stages=["a", "b"], extra={"x": [1]})  # type: ignore[arg-type]
        assert flow.stages == ("a", "b")
        assert flow.to_json() == {"x": [1], "stages": ["a", "b"]}
        assert AuthenticationFlow(stages=()).to_json() == {"stages": []}

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"stages": None}, "/stages", Reason.WRONG_TYPE),
            ({"stages": "m.login.password"}, "/stages", Reason.WRONG_TYPE),
            ({"stages": b"m.login.password"}, "/stages", Reason.WRONG_TYPE),
            ({"stages": {"m.login.password": 1}}, "/stages", Reason.WRONG_TYPE),
            ({"stages": 5}, "/stages", Reason.WRONG_TYPE),
            ({"stages": ["a", 5]}, "/stages/1", Reason.WRONG_TYPE),
            ({"stages": ["\ud800"]}, "/stages/0", Reason.LONE_SURROGATE),
            ({"stages": [], "extra": None}, "/extra", Reason.WRONG_TYPE),
            ({"stages": [], "extra": {"stages": []}}, "/extra/stages", Reason.INVALID_VALUE),
            ({"stages": [], "extra": {"x": {1}}}, "/extra/x", Reason.NOT_A_JSON_VALUE),
        ],
        ids=repr,
    )
    def test_bad_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            AuthenticationFlow(**arguments)
        assert (caught.value.path, caught.value.reason) == (path, reason)


class TestQuestion:
    def test_written(self) -> None:
        params = {"m.login.terms": {"policies": {}}}
        auth = UserInteractiveAuth(flows=(PASSWORD,), session="s", params=params, completed=("x",))
        assert auth.to_json() == {
            "flows": [{"stages": ["m.login.password"]}],
            "params": {"m.login.terms": {"policies": {}}},
            "session": "s",
            "completed": ["x"],
        }
        params["m.login.terms"]["policies"] = {"changed": 1}  # type: ignore[dict-item]
        assert auth.params == {"m.login.terms": {"policies": {}}}

    def test_what_is_not_there_is_not_written(self) -> None:
        assert UserInteractiveAuth(flows=()).to_json() == {"flows": [], "params": {}}
        assert UserInteractiveAuth(flows=(), session="").to_json() == {"flows": [], "params": {}, "session": ""}

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"flows": None}, "/flows", Reason.WRONG_TYPE),
            ({"flows": PASSWORD}, "/flows", Reason.WRONG_TYPE),
            ({"flows": "x"}, "/flows", Reason.WRONG_TYPE),
            ({"flows": [PASSWORD, None]}, "/flows/1", Reason.WRONG_TYPE),
            ({"flows": [{"stages": []}]}, "/flows/0", Reason.WRONG_TYPE),
            ({"session": 5}, "/session", Reason.WRONG_TYPE),
            ({"session": "\ud800"}, "/session", Reason.LONE_SURROGATE),
            ({"params": None}, "/params", Reason.WRONG_TYPE),
            ({"params": []}, "/params", Reason.WRONG_TYPE),
            ({"params": {1: 2}}, "/params", Reason.WRONG_TYPE),
            ({"params": {"a/b": [()]}}, "/params/a~1b/0", Reason.NOT_A_JSON_VALUE),
            ({"completed": None}, "/completed", Reason.WRONG_TYPE),
            ({"completed": "x"}, "/completed", Reason.WRONG_TYPE),
            ({"completed": [None]}, "/completed/0", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserInteractiveAuth(**{"flows": (PASSWORD,), **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)


class TestProof:
    def test_what_to_send(self) -> None:
        auth = UserInteractiveAuth(flows=(PASSWORD,), session="s")
        credentials = {"identifier": {"type": "m.id.user", "user": "alice"}, "password": "secret"}
        proof = auth.auth("m.login.password", credentials)
        assert proof == {
            "type": "m.login.password",
            "session": "s",
            "identifier": {"type": "m.id.user", "user": "alice"},
            "password": "secret",
        }
        proof["identifier"]["user"] = "mallory"  # type: ignore[index, call-overload]
        assert credentials["identifier"] == {"type": "m.id.user", "user": "alice"}

    def test_without_credentials_or_session(self) -> None:
        assert UserInteractiveAuth(flows=()).auth("m.login.dummy") == {"type": "m.login.dummy"}
        assert UserInteractiveAuth(flows=(), session="").auth("x", {}) == {"type": "x", "session": ""}

    def test_credentials_replace_neither_type_nor_session(self) -> None:
        auth = UserInteractiveAuth(flows=(), session="s")
        assert auth.auth("x", {"type": "y", "session": "z"}) == {"type": "x", "session": "s"}

    @pytest.mark.parametrize(
        ("stage", "credentials", "path", "reason"),
        [
            (None, None, "/stage", Reason.WRONG_TYPE),
            (5, None, "/stage", Reason.WRONG_TYPE),
            (b"x", None, "/stage", Reason.WRONG_TYPE),
            ("\ud800", None, "/stage", Reason.LONE_SURROGATE),
            ("x", "password", "/credentials", Reason.WRONG_TYPE),
            ("x", [("password", "x")], "/credentials", Reason.WRONG_TYPE),
            ("x", {5: "x"}, "/credentials", Reason.WRONG_TYPE),
            ("x", {"password": b"x"}, "/credentials/password", Reason.NOT_A_JSON_VALUE),
            ("x", {"password": float("inf")}, "/credentials/password", Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_bad_arguments(self, stage: Any, credentials: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserInteractiveAuth(flows=()).auth(stage, credentials)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize("credentials", [[], "", b"", 0, False, ()], ids=repr)
    def test_what_is_empty_is_no_mapping(self, credentials: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            UserInteractiveAuth(flows=()).auth("x", credentials)
        assert (caught.value.path, caught.value.reason) == ("/credentials", Reason.WRONG_TYPE)
