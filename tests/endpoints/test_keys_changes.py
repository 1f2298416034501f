"""/keys/changes as values: two tokens, two lists, and what in the lists is no user id."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    E2EKeysError,
    HttpRequest,
    KeysChangesRequest,
    KeysChangesResponse,
    LocalProtocolError,
    Reason,
    Rejection,
    RemoteProtocolError,
)
from matrix_e2e_keys.testing.strategies import json_like_values

PATH = "/_matrix/client/v3/keys/changes"


def rejection(path: str, raw: object = None) -> Rejection:
    return Rejection(path=path, reason=Reason.WRONG_TYPE, detail="", raw=raw)


class TestRequest:
    def test_both_directions(self) -> None:
        request = KeysChangesRequest(from_token="s1_2&a=b", to_token="s 3+/")
        sent = request.to_http()
        assert (sent.method, sent.path, sent.body) == ("GET", PATH, b"")
        assert sent.query == "from=s1_2%26a%3Db&to=s%203%2B%2F"
        assert request.to_http(CLIENT_R0).path == "/_matrix/client/r0/keys/changes"
        assert KeysChangesRequest.from_http(sent) == request

    def test_a_body_and_other_parameters_are_left_alone(self) -> None:
        for body in (b"", b"{}", b"nonsense"):
            request = HttpRequest(method="GET", path=PATH, query="to=b&x=%zz&from=a", body=body)
            assert KeysChangesRequest.from_http(request) == KeysChangesRequest(from_token="a", to_token="b")

    @pytest.mark.parametrize(
        ("query", "path", "reason", "errcode"),
        [
            ("", "/from", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("to=b", "/from", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=a", "/to", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=a&from=a&to=b", "/from", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("from=%zz&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=a&to=%ff", "/to", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
        ],
    )
    def test_bad_queries(self, query: str, path: str, reason: Reason, errcode: str) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysChangesRequest.from_http(HttpRequest(method="GET", path=PATH, query=query))
        error = caught.value
        assert (error.path, error.reason, error.errcode, error.http_status) == (path, reason, errcode, 400)

    def test_another_method(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysChangesRequest.from_http(HttpRequest(method="POST", path=PATH, query="from=a&to=b"))
        error = caught.value
        assert (error.reason, error.errcode, error.http_status) == (Reason.WRONG_METHOD, "M_UNRECOGNIZED", 405)

    def test_the_draft_of_2015_has_none(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesRequest(from_token="a", to_token="b").to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/dialect", Reason.NOT_IN_DIALECT)

    @pytest.mark.parametrize("token", [None, 5, b"a", ["a"]], ids=repr)
    def test_bad_callers(self, token: Any) -> None:
        for members, path in (
            ({"from_token": token, "to_token": "b"}, "/from"),
            ({"from_token": "a", "to_token": token}, "/to"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                KeysChangesRequest(**members)
            assert (caught.value.path, caught.value.reason) == (path, Reason.WRONG_TYPE)
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesRequest(from_token="\ud800", to_token="b")
        assert (caught.value.path, caught.value.reason) == ("/from", Reason.LONE_SURROGATE)


class TestResponse:
    def test_both_directions(self) -> None:
        response = KeysChangesResponse(changed=["@a:b", "@c:d"], left=iter(["@e:f"]))  # type: ignore[arg-type]
        body = {"changed": ["@a:b", "@c:d"], "left": ["@e:f"]}
        assert response.to_json() == body
        assert KeysChangesResponse.from_json(body) == response
        assert (response.changed, response.left) == (("@a:b", "@c:d"), ("@e:f",))

    def test_missing_lists_are_empty(self) -> None:
        assert KeysChangesResponse.from_bytes(b"{}") == KeysChangesResponse()
        assert KeysChangesResponse().to_json() == {"changed": [], "left": []}

    @pytest.mark.parametrize("body", [None, [], "x", 5, True], ids=repr)
    def test_what_is_no_answer(self, body: Any) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysChangesResponse.from_json(body)
        assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_TYPE)

    @pytest.mark.parametrize("name", ["changed", "left"])
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, Reason.WRONG_TYPE),
            ({}, Reason.WRONG_TYPE),
            ({"@a:b": True}, Reason.WRONG_TYPE),
            ("@a:b", Reason.WRONG_TYPE),
            (5, Reason.WRONG_TYPE),
            (1.5, Reason.NOT_AN_INTEGER),
        ],
        ids=repr,
    )
    def test_a_list_that_is_none_costs_only_itself(self, name: str, value: Any, reason: Reason) -> None:
        body = {"changed": ["@a:b"], "left": ["@a:b"], name: value}
        response = KeysChangesResponse.from_json(body)
        (found,) = response.malformed
        assert (found.path, found.reason, found.raw) == (f"/{name}", reason, value)
        assert getattr(response, name) == ()
        assert response.changed + response.left == ("@a:b",)
        assert response.to_json() == {**body, name: None if value == 1.5 else value}

    def test_entries_that_are_no_user_ids_cost_only_themselves(self) -> None:
        body = {"changed": [None, "@a:b", "bob", 1.5, "@c:d", {"a": []}], "left": ["@e:f", "@\ud800:b"]}
        response = KeysChangesResponse.from_json(body)
        assert (response.changed, response.left) == (("@a:b", "@c:d"), ("@e:f",))
        assert [(found.path, found.reason, found.raw) for found in response.malformed] == [
            ("/changed/0", Reason.WRONG_TYPE, None),
            ("/left/1", Reason.INVALID_IDENTIFIER, "@\ud800:b"),
            ("/changed/2", Reason.INVALID_IDENTIFIER, "bob"),
            ("/changed/3", Reason.NOT_AN_INTEGER, 1.5),
            ("/changed/5", Reason.WRONG_TYPE, {"a": []}),
        ]
        assert all((found.user_id, found.device_id) == (None, None) for found in response.malformed)
        assert response.to_json() == {
            "changed": [None, "@a:b", "bob", None, "@c:d", {"a": []}],
            "left": ["@e:f", "@\ud800:b"],
        }

    def test_more_entries_than_ten(self) -> None:
        body = {"changed": [None if place % 2 else f"@u{place}:b" for place in range(25)], "left": []}
        response = KeysChangesResponse.from_json(body)
        assert [found.path for found in response.malformed] == [f"/changed/{place}" for place in range(1, 25, 2)]
        assert response.to_json() == body

    def test_a_list_that_stands_there_twice(self) -> None:
        response = KeysChangesResponse.from_bytes(b'{"changed": ["@a:b"], "changed": ["@c:d"], "left": ["@e:f"]}')
        (found,) = response.malformed
        assert (found.path, found.reason) == ("/changed", Reason.DUPLICATE_MEMBER)
        assert (response.changed, response.left) == ((), ("@e:f",))
        assert response.to_json() == {"changed": None, "left": ["@e:f"]}

    @pytest.mark.parametrize(
        ("members", "path", "reason"),
        [
            ({"changed": "@a:b"}, "/changed", Reason.WRONG_TYPE),
            ({"changed": {"@a:b": True}}, "/changed", Reason.WRONG_TYPE),
            ({"changed": None}, "/changed", Reason.WRONG_TYPE),
            ({"left": ["@a:b", "bob"]}, "/left/1", Reason.INVALID_IDENTIFIER),
            ({"left": [None]}, "/left/0", Reason.WRONG_TYPE),
            ({"malformed": "x"}, "/malformed", Reason.WRONG_TYPE),
            ({"malformed": [rejection("/changed"), "x"]}, "/malformed/1", Reason.WRONG_TYPE),
            ({"malformed": [rejection("")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("changed")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/x")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/changed/x")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/changed/-1")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/changed/0/1")]}, "/malformed/0", Reason.INVALID_VALUE),
            ({"malformed": [rejection("/x/0")]}, "/malformed/0", Reason.INVALID_VALUE),
        ],
        ids=repr,
    )
    def test_bad_callers(self, members: Any, path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesResponse(**members)
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_what_is_malformed_finds_its_place_in_any_order(self) -> None:
        response = KeysChangesResponse(
            changed=("@a:b",), malformed=(rejection("/changed/2", 2), rejection("/changed/0", 0))
        )
        assert response.to_json() == {"changed": [0, "@a:b", 2], "left": []}

    def test_a_list_and_an_entry_of_it_cannot_both_be_malformed(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KeysChangesResponse(malformed=(rejection("/changed", 5), rejection("/changed/0", 5))).to_json()
        assert caught.value.path.startswith("/malformed")

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for place in (value, {"changed": value}, {"left": [value, "@a:b"]}, {"x": value}):
            before = repr(place)
            with contextlib.suppress(E2EKeysError):
                response = KeysChangesResponse.from_json(place)
                json.loads(response.to_http().body)
            assert repr(place) == before
