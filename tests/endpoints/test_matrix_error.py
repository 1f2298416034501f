"""Answers that say no: every one of them can be read, and comes out as it went in."""

from __future__ import annotations

import copy
import http
import json
import pickle
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import nested, with_frames_left
from matrix_e2e_keys import (
    AuthenticationFlow,
    E2EKeysError,
    HttpResponse,
    JsonLimits,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    RemoteProtocolError,
    UserInteractiveAuth,
    UserKeysQueryRequest,
    UserKeysQueryResponse,
    VerificationError,
)
from matrix_e2e_keys.testing.strategies import canonical_json_values

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAMED = ("errcode", "error", "retry_after_ms", "flows", "session", "params", "completed")


def answered(status: int = 400, body: bytes | str = b"", **headers: str) -> MatrixError:
    raw = body.encode() if isinstance(body, str) else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return MatrixError.from_http(HttpResponse(status=status, body=raw, headers=named))


class TestReading:
    def test_a_standard_error(self) -> None:
        body = b'{"errcode":"M_UNKNOWN_TOKEN","error":"Logged out","soft_logout":true}'
        error = answered(401, body)
        assert (error.status, error.errcode, error.error) == (401, "M_UNKNOWN_TOKEN", "Logged out")
        assert (error.retry_after_ms, error.user_interactive) == (None, None)
        assert error.extra == {"soft_logout": True}
        assert error.body == body
        assert (error.reason, error.path) == (Reason.ANSWERED_WITH_ERROR, "")
        assert isinstance(error, E2EKeysError)
        assert not isinstance(error, (LocalProtocolError, RemoteProtocolError))

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html><body>502 Bad Gateway</body></html>",
            b"not json",
            b"\xff\xfe",
            b'{"errcode": "M_X", "error": "\xff"}',
            b"[]",
            b'[{"errcode":"M_X"}]',
            b'"M_X"',
            b"5",
            b"null",
            b"true",
            b"NaN",
            b"{",
            b'{"errcode":"M_X"',
            b'{"errcode":"M_X"} x',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b"\xef\xbb\xbf{}",
        ],
        ids=lambda body: repr(body[:20]),
    )
    @pytest.mark.parametrize("status", [400, 401, 404, 500, 502, 599, 600, 999])
    def test_bodies_that_say_nothing(self, status: int, body: bytes) -> None:
        error = answered(status, body)
        assert error.status == status
        assert (error.errcode, error.error, error.retry_after_ms, error.user_interactive) == (None, "", None, None)
        assert error.extra == {}
        assert error.body == body
        assert str(error) == f"the answer is {status}: no text [answered-with-error]"

    @pytest.mark.parametrize("text", ["null", "5", "-0", "1.5", "true", "[]", "{}", '["M_X"]', '{"a":"M_X"}'])
    def test_members_of_the_wrong_type_say_nothing(self, text: str) -> None:
        assert answered(400, f'{{"errcode":{text},"error":"x"}}') == MatrixError(status=400, errcode=None, error="x")
        assert answered(400, f'{{"errcode":"x","error":{text}}}') == MatrixError(status=400, errcode="x")

    @pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400", "9" * 5000, "1.5", "-0", "-0.0", "9" * 30])
    def test_numbers_that_canonical_json_does_not_know(self, text: str) -> None:
        error = answered(400, f'{{"errcode":"M_X","error":"x","a":[{text}],"retry_after_ms":{text}}}')
        assert (error.errcode, error.error, error.retry_after_ms) == ("M_X", "x", None if text != "-0" else 0)
        json.dumps(error.to_json(), allow_nan=False)
        assert list(error.extra) == ["a"]

    def test_deep_nesting_costs_only_the_place(self) -> None:
        body = json.dumps({"errcode": "M_X", "error": "x", "a": nested(300, core=1)})
        error = answered(400, body)
        assert (error.errcode, error.error) == ("M_X", "x")
        assert MatrixError.from_http(error.to_http()) == error

    def test_a_member_twice_is_no_reason_to_know_nothing(self) -> None:
        error = answered(400, '{"errcode":"A","errcode":"B","x":1,"x":2}')
        assert error.errcode == "B"
        assert error.extra == {"x": 2}

    def test_lone_surrogates_become_text(self) -> None:
        error = answered(400, rb'{"errcode":"M_\ud800","error":"a\udfffb","x\ud800":"\ud800"}')
        assert (error.errcode, error.error) == ("M_\\ud800", "a\\udfffb")
        assert error.extra == {"x\ud800": "\ud800"}
        str(error).encode()
        assert MatrixError.from_http(error.to_http()) == error

    @pytest.mark.parametrize("status", [100, 199, 200, 204, 299, 300, 302, 399])
    def test_other_statuses_are_no_errors(self, status: int) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            MatrixError.from_http(HttpResponse(status=status, body=b'{"errcode":"M_X"}'))
        assert (caught.value.path, caught.value.reason) == ("/status", Reason.INVALID_VALUE)

    @pytest.mark.parametrize("response", [None, 400, b"{}", {}, (400, b"")], ids=repr)
    def test_what_is_no_answer(self, response: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            MatrixError.from_http(response)
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)

    @given(st.binary(max_size=40) | TEXT.map(str.encode), st.integers(400, 999), TEXT)
    def test_every_answer_can_be_read(self, body: bytes, status: int, header: str) -> None:
        error = answered(status, body, retry_after=header)
        assert (error.status, error.body) == (status, body)
        str(error).encode()
        error.to_http()

    @given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMED, canonical_json_values())))
    def test_every_object_can_be_read_and_written(self, tree: dict[str, Any]) -> None:
        error = answered(401, json.dumps(tree))
        assert MatrixError.from_http(error.to_http()) == error

    def test_near_the_recursion_limit(self) -> None:
        """attack 9: read, or refused as the other side's, however little of the stack is left."""
        body = json.dumps({"errcode": "M_X", "x": nested(110), "flows": [{"stages": [], "x": nested(110, of="dict")}]})
        response = HttpResponse(status=401, body=body.encode())
        outcomes = set()
        for left in range(60, 500, 3):
            try:
                with_frames_left(left, lambda: MatrixError.from_http(response))
            except (E2EKeysError, RecursionError, AssertionError) as error:
                outcomes.add(type(error).__name__)
            else:
                outcomes.add("good")
        assert "good" in outcomes
        assert outcomes <= {"good", "RemoteProtocolError"}


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("member", "delay"),
        [
            ("0", 0),
            ("1", 1),
            ("2000", 2000),
            ("9007199254740991", 9007199254740991),
            ("9007199254740992", None),
            ("1" + "0" * 40, None),
            ("-1", None),
            ("true", None),
            ("false", None),
            ("2000.0", None),
            ("2e3", None),
            ("1.5", None),
            ("NaN", None),
            ('"2000"', None),
            ("null", None),
            ("[2000]", None),
            ("{}", None),
        ],
    )
    def test_the_member(self, member: str, delay: int | None) -> None:
        body = f'{{"errcode":"M_LIMIT_EXCEEDED","error":"","retry_after_ms":{member}}}'
        assert answered(429, body).retry_after_ms == delay
        assert answered(429, body, retry_after="7").retry_after_ms == (7000 if delay is None else delay)
        assert "retry_after_ms" not in answered(429, body).extra

    @pytest.mark.parametrize(
        ("header", "delay"),
        [
            ("0", 0),
            ("3", 3000),
            ("0120", 120_000),
            ("9999999999", 9_999_999_999_000),
            ("10000000000", None),
            ("9" * 5000, None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            (" 1", None),
            ("1\n", None),
            ("1, 2", None),
            ("٣", None),
            ("²", None),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
            ("\ud800", None),
        ],
    )
    def test_the_header(self, header: str, delay: int | None) -> None:
        assert answered(429, "", retry_after=header).retry_after_ms == delay
        assert answered(503, "<html>", retry_after=header).retry_after_ms == delay

    @pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER", "rEtRy-aFtEr"])
    def test_the_name_of_the_header(self, name: str) -> None:
        response = HttpResponse(status=429, headers={name: "5", "x-retry-after": "6"})
        assert MatrixError.from_http(response).retry_after_ms == 5000

    @pytest.mark.parametrize(("delay", "seconds"), [(0, "0"), (1, "1"), (1000, "1"), (1001, "2"), (5500, "6")])
    def test_writing_rounds_up(self, delay: int, seconds: str) -> None:
        error = MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", error="slow", retry_after_ms=delay)
        answer = error.to_http()
        assert dict(answer.headers) == {"retry-after": seconds}
        assert json.loads(answer.body) == {"errcode": "M_LIMIT_EXCEEDED", "error": "slow", "retry_after_ms": delay}
        assert MatrixError.from_http(answer) == error

    def test_the_largest(self) -> None:
        error = MatrixError(status=429, retry_after_ms=2**53 - 1)
        assert MatrixError.from_http(error.to_http()) == error


FLOWS = [
    {"stages": ["example.type.foo", "example.type.bar"]},
    {"stages": ["example.type.foo", "example.type.baz"]},
]
PARAMS = {"example.type.baz": {"example_key": "foobar"}}
AUTH = UserInteractiveAuth(
    flows=(
        AuthenticationFlow(stages=("example.type.foo", "example.type.bar")),
        AuthenticationFlow(stages=("example.type.foo", "example.type.baz")),
    ),
    session="xxxxxx",
    params=PARAMS,
)
COMPLETED = UserInteractiveAuth(flows=AUTH.flows, session="xxxxxx", params=PARAMS, completed=("example.type.foo",))

QUESTIONS: dict[str, tuple[dict[str, Any], MatrixError]] = {
    "first": (
        {"flows": FLOWS, "params": PARAMS, "session": "xxxxxx"},
        MatrixError(status=401, errcode=None, user_interactive=AUTH),
    ),
    "with what is completed": (
        {"completed": ["example.type.foo"], "flows": FLOWS, "params": PARAMS, "session": "xxxxxx"},
        MatrixError(status=401, errcode=None, user_interactive=COMPLETED),
    ),
    "after a stage that failed": (
        {
            "errcode": "M_FORBIDDEN",
            "error": "Invalid password",
            "completed": ["example.type.foo"],
            "flows": FLOWS,
            "params": PARAMS,
            "session": "xxxxxx",
        },
        MatrixError(status=401, errcode="M_FORBIDDEN", error="Invalid password", user_interactive=COMPLETED),
    ),
    "with more beside it": (
        {"flows": FLOWS, "params": PARAMS, "session": "xxxxxx", "org.example": [1]},
        MatrixError(status=401, errcode=None, user_interactive=AUTH, extra={"org.example": [1]}),
    ),
}


class TestUserInteractive:
    @pytest.mark.parametrize(("body", "error"), QUESTIONS.values(), ids=QUESTIONS.keys())
    def test_the_bodies_of_the_specification(self, body: dict[str, Any], error: MatrixError) -> None:
        read = answered(401, json.dumps(body))
        assert read == error
        assert read.user_interactive == error.user_interactive
        assert json.loads(error.to_http().body) == body
        assert (read.errcode, read.error) == (body.get("errcode"), body.get("error", ""))
        assert not {"flows", "params", "session", "completed"} & read.extra.keys()

    @pytest.mark.parametrize(
        "change",
        [
            {"flows": "m.login.password"},
            {"flows": None},
            {"flows": {}},
            {"flows": 5},
            {"flows": ["m.login.password"]},
            {"flows": [{}]},
            {"flows": [{"stages": "m.login.password"}]},
            {"flows": [{"stages": None}]},
            {"flows": [{"stages": [5]}]},
            {"flows": [{"stages": ["\ud800"]}]},
            {"flows": [None, {"stages": ["x", {}]}, [], {"x": 1}]},
        ],
        ids=repr,
    )
    def test_what_is_none_of_it(self, change: dict[str, Any]) -> None:
        body = {"flows": FLOWS, "params": {}, "session": "x", "completed": [], "errcode": "M_X", "error": "y", **change}
        error = answered(401, json.dumps(body))
        assert error.user_interactive is None
        assert (error.errcode, error.error) == ("M_X", "y")
        assert error.extra == {name: body[name] for name in ("flows", "params", "session", "completed")}
        assert json.loads(error.to_http().body) == body

    @pytest.mark.parametrize(
        ("change", "read"),
        [
            ({"flows": [{"stages": []}, None]}, {"flows": [{"stages": []}]}),
            (
                {"flows": [5, {}, {"stages": [1]}, {"stages": ["b"], "x": [1.5]}, {"stages": ["\ud800"]}, FLOWS[0]]},
                {"flows": [{"stages": ["b"], "x": [1.5]}, FLOWS[0]]},
            ),
            ({"flows": []}, {"flows": []}),
            ({"session": None}, {}),
            ({"session": 5}, {}),
            ({"session": ["x"]}, {}),
            ({"session": {}}, {}),
            ({"session": ""}, {"session": ""}),
            ({"session": "a\ud800"}, {"session": "a\\ud800"}),
            ({"params": None}, {}),
            ({"params": []}, {}),
            ({"params": "x"}, {}),
            ({"params": {"\ud800": [1.5]}}, {"params": {"\ud800": [1.5]}}),
            ({"completed": None}, {}),
            ({"completed": "m.login.password"}, {}),
            ({"completed": {"a": 1}}, {}),
            ({"completed": [None, "a", 5, ["b"], "c\ud800"]}, {"completed": ["a", "c\\ud800"]}),
        ],
        ids=repr,
    )
    def test_what_is_malformed_beside_a_good_flow_is_left_out(
        self, change: dict[str, Any], read: dict[str, Any]
    ) -> None:
        error = answered(401, json.dumps({"flows": FLOWS, "errcode": "M_X", "error": "y", **change}))
        assert error.user_interactive is not None
        assert error.user_interactive.to_json() == {"flows": FLOWS, "params": {}, **read}
        assert (error.errcode, error.error, error.extra) == ("M_X", "y", {})
        assert MatrixError.from_http(error.to_http()) == error

    def test_without_flows(self) -> None:
        error = answered(401, '{"errcode":"M_MISSING_TOKEN","error":"","session":"x"}')
        assert error.user_interactive is None
        assert error.extra == {"session": "x"}

    @pytest.mark.parametrize("status", [400, 403, 500])
    def test_with_another_status_it_is_no_question(self, status: int) -> None:
        error = answered(status, json.dumps({"flows": FLOWS, "session": "x"}))
        assert error.user_interactive is None
        assert error.extra == {"flows": FLOWS, "session": "x"}

    def test_little_is_enough(self) -> None:
        error = answered(401, '{"flows":[{"stages":[]}],"session":null}')
        assert error.user_interactive == UserInteractiveAuth(flows=(AuthenticationFlow(stages=()),))
        assert error.user_interactive.session is None
        assert answered(401, '{"flows":[]}').user_interactive == UserInteractiveAuth(flows=())

    @pytest.mark.parametrize("status", [400, 403, 500])
    def test_a_question_has_status_401(self, status: int) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            MatrixError(status=status, user_interactive=AUTH)
        assert caught.value.reason is Reason.INVALID_VALUE

    def test_a_question_cannot_hide_in_extra(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            MatrixError(status=401, extra={"flows": FLOWS, "session": "x"})
        assert caught.value.path == "/extra/flows"


class TestMaking:
    def test_defaults(self) -> None:
        error = MatrixError(status=500)
        assert (error.status, error.errcode, error.error) == (500, "M_UNKNOWN", "")
        assert (error.retry_after_ms, error.user_interactive, error.body) == (None, None, b"")
        assert error.extra == {}
        answer = error.to_http()
        assert (answer.status, answer.body, dict(answer.headers)) == (500, b'{"errcode":"M_UNKNOWN","error":""}', {})

    def test_a_status_of_the_standard_library(self) -> None:
        error = MatrixError(status=http.HTTPStatus.NOT_FOUND)
        assert type(error.status) is int
        assert error == MatrixError(status=404)
        assert str(error).startswith("the answer is 404 M_UNKNOWN")

    def test_without_a_code(self) -> None:
        assert MatrixError(status=502, errcode=None).to_http().body == b"{}"
        assert MatrixError(status=502, errcode=None, error="x").to_json() == {"error": "x"}

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"status": 399}, "/status", Reason.INVALID_VALUE),
            ({"status": 1000}, "/status", Reason.INVALID_VALUE),
            ({"status": 200}, "/status", Reason.INVALID_VALUE),
            ({"status": True}, "/status", Reason.INVALID_VALUE),
            ({"status": "400"}, "/status", Reason.INVALID_VALUE),
            ({"status": 400.0}, "/status", Reason.INVALID_VALUE),
            ({"status": None}, "/status", Reason.INVALID_VALUE),
            ({"errcode": 5}, "/errcode", Reason.WRONG_TYPE),
            ({"errcode": b"M_X"}, "/errcode", Reason.WRONG_TYPE),
            ({"errcode": "\ud800"}, "/errcode", Reason.LONE_SURROGATE),
            ({"error": None}, "/error", Reason.WRONG_TYPE),
            ({"error": b"x"}, "/error", Reason.WRONG_TYPE),
            ({"error": "\udfff"}, "/error", Reason.LONE_SURROGATE),
            ({"retry_after_ms": -1}, "/retry_after_ms", Reason.INVALID_VALUE),
            ({"retry_after_ms": True}, "/retry_after_ms", Reason.WRONG_TYPE),
            ({"retry_after_ms": 1.0}, "/retry_after_ms", Reason.WRONG_TYPE),
            ({"retry_after_ms": "1"}, "/retry_after_ms", Reason.WRONG_TYPE),
            ({"retry_after_ms": 2**53}, "/retry_after_ms", Reason.INTEGER_OUT_OF_RANGE),
            ({"retry_after_ms": 2**13300}, "/retry_after_ms", Reason.INTEGER_OUT_OF_RANGE),
            ({"user_interactive": {}}, "/user_interactive", Reason.WRONG_TYPE),
            ({"user_interactive": AUTH.flows}, "/user_interactive", Reason.WRONG_TYPE),
            ({"extra": []}, "/extra", Reason.WRONG_TYPE),
            ({"extra": "x"}, "/extra", Reason.WRONG_TYPE),
            ({"extra": {5: 1}}, "/extra", Reason.WRONG_TYPE),
            ({"extra": {"a": object()}}, "/extra/a", Reason.NOT_A_JSON_VALUE),
            ({"extra": {"a": [float("nan")]}}, "/extra/a/0", Reason.NOT_AN_INTEGER),
            ({"extra": {"a": 2**13300}}, "/extra/a", Reason.INTEGER_OUT_OF_RANGE),
            ({"extra": {"errcode": "M_X"}}, "/extra/errcode", Reason.INVALID_VALUE),
            ({"extra": {"error": None}}, "/extra/error", Reason.INVALID_VALUE),
            ({"extra": {"retry_after_ms": 1}}, "/extra/retry_after_ms", Reason.INVALID_VALUE),
            (
                {"status": 401, "user_interactive": AUTH, "extra": {"flows": []}},
                "/extra/flows",
                Reason.INVALID_VALUE,
            ),
            (
                {"status": 401, "user_interactive": AUTH, "extra": {"session": "x"}},
                "/extra/session",
                Reason.INVALID_VALUE,
            ),
            ({"body": None}, "/body", Reason.WRONG_TYPE),
            ({"body": "{}"}, "/body", Reason.WRONG_TYPE),
            ({"body": bytearray(b"{}")}, "/body", Reason.WRONG_TYPE),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_bad_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            MatrixError(**{"status": 400, **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_later_changes_by_the_caller_do_not_show(self) -> None:
        inner = {"a": [1]}
        error = MatrixError(status=400, extra=MappingProxyType(inner))
        inner["a"].append(2)
        inner["b"] = []
        assert error.extra == {"a": [1]}
        error.to_json()["a"] = 5
        assert error.extra == {"a": [1]}
        with pytest.raises(TypeError):
            error.extra["a"] = 5  # type: ignore[index]

    @given(
        st.integers(400, 999),
        st.none() | TEXT,
        TEXT,
        st.none() | st.integers(0, 2**53 - 1),
        st.dictionaries(TEXT.filter(lambda name: name not in NAMED), canonical_json_values(), max_size=3),
    )
    def test_round_trip(
        self, status: int, errcode: str | None, error: str, delay: int | None, extra: dict[str, Any]
    ) -> None:
        made = MatrixError(status=status, errcode=errcode, error=error, retry_after_ms=delay, extra=extra)
        answer = made.to_http()
        read = MatrixError.from_http(answer)
        assert read == made
        assert (read.status, read.errcode, read.error, read.retry_after_ms) == (status, errcode, error, delay)
        assert read.extra == extra
        assert read.body == answer.body
        assert read.to_http() == answer


class TestAsValue:
    def test_equality(self) -> None:
        made = MatrixError(status=401, errcode="A", error="b", retry_after_ms=1, user_interactive=AUTH, extra={"x": 1})
        same = MatrixError(
            status=401, errcode="A", error="b", retry_after_ms=1, user_interactive=AUTH, extra={"x": 1}, body=b"y"
        )
        assert made == same
        assert hash(made) == hash(same)
        parts: dict[str, Any] = {
            "status": 401,
            "errcode": "A",
            "error": "b",
            "retry_after_ms": 1,
            "user_interactive": AUTH,
            "extra": {"x": 1},
        }
        others: list[dict[str, Any]] = [
            {"errcode": "B"},
            {"errcode": None},
            {"error": "c"},
            {"retry_after_ms": None},
            {"user_interactive": COMPLETED},
            {"user_interactive": None},
            {"extra": {"x": 2}},
        ]
        for change in others:
            assert MatrixError(**{**parts, **change}) != made
        assert MatrixError(status=400) != MatrixError(status=401)
        assert made != "x"
        assert made != LocalProtocolError(made.reason, made.detail)
        assert made.__eq__(None) is NotImplemented

    def test_text(self) -> None:
        error = MatrixError(status=403, errcode="M_FORBIDDEN", error="no ü")
        assert str(error) == "the answer is 403 M_FORBIDDEN: no ü [answered-with-error]"
        assert error.detail == "the answer is 403 M_FORBIDDEN: no ü"
        assert repr(error) == "<MatrixError 403 M_FORBIDDEN: 'no ü'>"
        assert repr(MatrixError(status=500, errcode=None)) == "<MatrixError 500 None: ''>"
        assert repr(MatrixError(status=400, errcode="M_X", error="it's\nso")) == ('<MatrixError 400 M_X: "it\'s\\nso">')
        assert str(MatrixError(status=500, errcode=None)) == "the answer is 500: no text [answered-with-error]"

    @pytest.mark.parametrize(
        "error",
        [
            MatrixError(status=500),
            MatrixError(status=599, errcode=None, error="ü", body=b"\xff<html>"),
            MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", error="x", retry_after_ms=1500),
            MatrixError(status=401, errcode=None, user_interactive=COMPLETED, extra={"a": [{"b": "\ud800"}]}),
            answered(401, json.dumps({"flows": "x", "errcode": "M_X"})),
            answered(429, "", retry_after="5"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_copies(self, error: MatrixError, again: Callable[[MatrixError], MatrixError]) -> None:
        copied = again(error)
        assert copied is not error
        assert type(copied) is MatrixError
        assert copied == error
        assert (copied.body, str(copied), copied.args) == (error.body, str(error), error.args)

    @pytest.mark.parametrize(
        "extra", [{"x": 10**40}, {"x": nested(127, core=[])}, {"x": "\ud83d\ude00"}], ids=["digits", "depth", "halves"]
    )
    def test_copies_lose_nothing(self, extra: dict[str, Any]) -> None:
        error = MatrixError(status=400, extra=extra)
        assert error.extra == extra
        assert copy.copy(error) == error
        assert pickle.loads(pickle.dumps(error)) == error

    def test_it_can_be_raised(self) -> None:
        with pytest.raises(MatrixError, match="M_X") as caught:
            KeysQueryResponse.from_http(HttpResponse(status=404, body=b'{"errcode":"M_X","error":"?"}'))
        assert caught.value == MatrixError(status=404, errcode="M_X", error="?")


class TestAnswering:
    @pytest.mark.parametrize(
        ("reason", "status", "errcode"),
        [
            (Reason.NOT_JSON, 400, "M_NOT_JSON"),
            (Reason.NOT_UTF8, 400, "M_NOT_JSON"),
            (Reason.WRONG_TYPE, 400, "M_BAD_JSON"),
            (Reason.TOO_DEEP, 400, "M_BAD_JSON"),
            (Reason.TOO_LARGE, 413, "M_TOO_LARGE"),
            (Reason.INVALID_IDENTIFIER, 400, "M_INVALID_PARAM"),
            (Reason.INVALID_ENCODING, 400, "M_INVALID_PARAM"),
            (Reason.REPEATED_PARAMETER, 400, "M_INVALID_PARAM"),
            (Reason.MISSING_PARAMETER, 400, "M_MISSING_PARAM"),
            (Reason.UNRECOGNIZED_ENDPOINT, 404, "M_UNRECOGNIZED"),
            (Reason.WRONG_METHOD, 405, "M_UNRECOGNIZED"),
        ],
    )
    def test_statuses_and_codes(self, reason: Reason, status: int, errcode: str) -> None:
        error = MatrixError.answering(RemoteProtocolError(reason, "why", path="/a"))
        assert error == MatrixError(status=status, errcode=errcode, error=f"why [{reason} at /a]")
        assert MatrixError.from_http(error.to_http()) == error

    def test_from_a_request(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryRequest.from_bytes(rb'{"device_keys":{"@a:b":["\ud800"]}}')
        answer = MatrixError.answering(caught.value).to_http()
        assert answer.status == 400
        assert json.loads(answer.body)["errcode"] == "M_BAD_JSON"
        assert "/device_keys/@a:b/0" in json.loads(answer.body)["error"]

    def test_text_that_cannot_be_encoded(self) -> None:
        error = MatrixError.answering(RemoteProtocolError(Reason.NOT_JSON, "\ud800"))
        assert error.error == "\\ud800 [not-json]"

    def test_a_signature_that_is_none(self) -> None:
        error = VerificationError(Reason.INVALID_SIGNATURE, "not \ud800", path="/a")
        assert MatrixError.answering(error) == MatrixError(
            status=400, errcode="M_INVALID_SIGNATURE", error="not \\ud800 [invalid-signature at /a]"
        )

    def test_an_answer_is_one_already(self) -> None:
        error = MatrixError(status=401, user_interactive=AUTH)
        assert MatrixError.answering(error) is error

    def test_of_our_own_fault_nothing_is_told(self) -> None:
        error = MatrixError.answering(LocalProtocolError(Reason.INVALID_VALUE, "secret", path="/secret"))
        assert error == MatrixError(status=500, errcode="M_UNKNOWN", error="Internal server error")
        assert b"secret" not in error.to_http().body


REFUSALS = {
    "with soft_logout": (401, b'{"errcode":"M_UNKNOWN_TOKEN","error":"secret","soft_logout":true}'),
    "with a delay": (429, b'{"errcode":"M_LIMIT_EXCEEDED","error":"secret","retry_after_ms":5000}'),
    "with a question": (401, b'{"flows":[{"stages":["secret"]}],"session":"secret"}'),
    "a web page": (502, b"<html>secret</html>"),
    "beyond the usual": (999, b'{"errcode":"M_SECRET"}'),
}


class TestOfAnotherServer:
    """What another server answered was not meant for whoever asks us at that moment."""

    @pytest.mark.parametrize(("status", "body"), REFUSALS.values(), ids=REFUSALS.keys())
    def test_a_refusal_is_not_passed_on(self, status: int, body: bytes) -> None:
        response = HttpResponse(status=status, body=body, headers={"retry-after": "9"})
        reads: list[Callable[[], object]] = [
            lambda: KeysQueryResponse.from_http(response),
            lambda: KeysQueryRequest(device_keys={}).read_answer(response),
        ]
        errors = [MatrixError.from_http(response)]
        for read in reads:
            with pytest.raises(MatrixError) as caught:
                read()
            errors.append(caught.value)
        for error in errors:
            assert (error.status, error.in_answer) == (status, True)
            answer = MatrixError.answering(error)
            assert answer is not error
            assert answer.in_answer is False
            http_answer = answer.to_http()
            assert (http_answer.status, dict(http_answer.headers)) == (502, {})
            assert http_answer.body == b'{"errcode":"M_UNKNOWN","error":"Another server refused"}'

    @pytest.mark.parametrize(
        ("status", "body", "reason", "detail"),
        [
            (200, b"<html>", Reason.NOT_JSON, None),
            (200, b"[]", Reason.WRONG_TYPE, "the answer must be an object, not an array [wrong-type]"),
            (200, b"{}", Reason.MISSING_MEMBER, "there is no device_keys [missing-member at /device_keys]"),
            (200, b" " * 60, Reason.TOO_LARGE, None),
            (301, b"{}", Reason.UNEXPECTED_STATUS, "an answer has no status 301 [unexpected-status]"),
        ],
        ids=["no JSON", "no object", "no answer", "too large", "moved"],
    )
    def test_nonsense_is_nobodys_fault_here(self, status: int, body: bytes, reason: Reason, detail: str | None) -> None:
        response, limits = HttpResponse(status=status, body=body), JsonLimits(max_bytes=50)
        reads: list[Callable[[], object]] = [
            lambda: UserKeysQueryResponse.from_http(response, limits=limits),
            lambda: UserKeysQueryRequest(device_keys={}).read_answer(response, limits=limits),
        ]
        for read in reads:
            with pytest.raises(RemoteProtocolError) as caught:
                read()
            error = caught.value
            assert (error.reason, error.in_answer, error.errcode, error.http_status) == (reason, True, "M_UNKNOWN", 502)
            answer = MatrixError.answering(error)
            assert (answer.status, answer.errcode, answer.extra, answer.retry_after_ms) == (502, "M_UNKNOWN", {}, None)
            assert answer.error == (detail or str(error))

    def test_what_was_read_off_a_request_is_told(self) -> None:
        for read in (KeysQueryRequest.from_bytes, KeysQueryResponse.from_bytes):
            with pytest.raises(RemoteProtocolError) as caught:
                read(b"[]")
            assert (caught.value.in_answer, caught.value.errcode, caught.value.http_status) == (
                False,
                "M_BAD_JSON",
                400,
            )

    def test_what_was_made_here_is_the_answer(self) -> None:
        error = MatrixError(status=401, errcode="M_UNKNOWN_TOKEN", extra={"soft_logout": True})
        assert error.in_answer is False
        assert MatrixError.answering(error) is error

    def test_it_is_no_part_of_equality(self) -> None:
        made = MatrixError(status=404, errcode="M_X", error="y")
        read = MatrixError.from_http(made.to_http())
        assert (made.in_answer, read.in_answer) == (False, True)
        assert read == made
        assert hash(read) == hash(made)

    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))],
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_copies_remember_it(self, again: Callable[[Any], Any]) -> None:
        for status, body in REFUSALS.values():
            assert again(answered(status, body)).in_answer is True
        assert again(MatrixError(status=400)).in_answer is False
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryResponse.from_http(HttpResponse(status=200, body=b"x"))
        copied = again(caught.value)
        assert (type(copied), copied.in_answer, copied.http_status) == (RemoteProtocolError, True, 502)
        assert str(copied) == str(caught.value)
        told = again(RemoteProtocolError(Reason.WRONG_TYPE, "x"))
        assert (told.in_answer, told.http_status) == (False, 400)

    @pytest.mark.parametrize("name", ["x", "params"])
    def test_every_answer_can_be_read_within_any_limits(self, name: str) -> None:
        body = json.dumps({"errcode": "M_X", "flows": [{"stages": []}], name: {"y": nested(390)}})
        error = MatrixError.from_http(HttpResponse(status=401, body=body.encode()), limits=JsonLimits(max_depth=400))
        assert (error.status, error.errcode) == (401, "M_X")
