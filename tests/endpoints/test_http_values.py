"""Requests and answers as HTTP: what stands in a path or query is encoded once and decoded once."""

from __future__ import annotations

import http
import http.client
import json
import sys
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import nested, with_frames_left
from matrix_e2e_keys import (
    CLIENT_V2_ALPHA,
    E2EKeysError,
    HttpRequest,
    HttpResponse,
    KeysChangesRequest,
    KeysQueryRequest,
    KeysUploadRequest,
    LocalProtocolError,
    MatrixError,
    Reason,
    Rejection,
    RemoteProtocolError,
    SendToDeviceRequest,
    SendToDeviceResponse,
    ServerKeysRequest,
    UserDevicesRequest,
    find_endpoint,
    read_request,
)
from matrix_e2e_keys.endpoints.http_values import fill_template, join_query, match_template, parameters_of

QUERY = "/_matrix/client/v3/keys/query"
CHANGES = "/_matrix/client/v3/keys/changes"
SEND = "/_matrix/client/v3/sendToDevice/"
UPLOAD_2015 = "/_matrix/client/v2_alpha/keys/upload/"
DEVICES = "/_matrix/federation/v1/user/devices/"

ENCODED = {
    "usual": ("JLAFKJWSCS", "JLAFKJWSCS"),
    "unreserved": ("a-b_c.d~e", "a-b_c.d~e"),
    "slash": ("a/b", "a%2Fb"),
    "only slashes": ("//", "%2F%2F"),
    "looks encoded": ("%2F", "%252F"),
    "looks encoded twice": ("%252F", "%25252F"),
    "a space that looks encoded": ("a%20b", "a%2520b"),
    "space": ("a b", "a%20b"),
    "plus": ("a+b", "a%2Bb"),
    "percent": ("%", "%25"),
    "umlaut": ("ü", "%C3%BC"),
    "astral": ("\N{PILE OF POO}", "%F0%9F%92%A9"),
    "delimiters": ("?#;=&", "%3F%23%3B%3D%26"),
    "colon": (":", "%3A"),
    "user id": ("@a:b", "%40a%3Ab"),
    "braces": ("{txn_id}", "%7Btxn_id%7D"),
    "three dots": ("...", "..."),
    "dots and a slash": ("../x", "..%2Fx"),
    "NUL and line ends": ("\x00\r\n", "%00%0D%0A"),
}
"""A parameter, and how it stands on the wire."""

AS_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SEGMENTS = AS_TEXT.filter(lambda text: text not in ("", ".", ".."))


def send(event_type: str = "m.dummy", txn_id: str = "1") -> SendToDeviceRequest:
    return SendToDeviceRequest(event_type=event_type, txn_id=txn_id, messages={})


def received(path: str | bytes, *, method: str = "PUT", query: str = "", body: bytes = b'{"messages":{}}') -> Any:
    return read_request(HttpRequest(method=method, path=path, query=query, body=body)).request


class TestPathParameters:
    @pytest.mark.parametrize(("value", "encoded"), ENCODED.values(), ids=ENCODED.keys())
    def test_encoded_once(self, value: str, encoded: str) -> None:
        assert send(value, "1").to_http().path == f"{SEND}{encoded}/1"
        assert send("m.dummy", value).to_http().path == f"{SEND}m.dummy/{encoded}"
        assert KeysUploadRequest(device_id=value).to_http(CLIENT_V2_ALPHA).path == UPLOAD_2015 + encoded

    @pytest.mark.parametrize(("value", "encoded"), ENCODED.values(), ids=ENCODED.keys())
    def test_decoded_once(self, value: str, encoded: str) -> None:
        request = received(f"{SEND}{encoded}/{encoded}")
        assert (request.event_type, request.txn_id) == (value, value)
        assert received(UPLOAD_2015 + encoded, method="POST", body=b"{}").device_id == value

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("a+b", "a+b"),
            ("a:@!$&'()*,;=b", "a:@!$&'()*,;=b"),
            ("%c3%bC", "ü"),
            ("%61", "a"),
            ("%2E%2E%2E", "..."),
            (".a", ".a"),
            ("{txn_id}", "{txn_id}"),
        ],
    )
    def test_others_encode_less_or_more(self, path: str, value: str) -> None:
        assert received(f"{SEND}m.dummy/{path}").txn_id == value

    def test_of_the_federation(self) -> None:
        request = UserDevicesRequest(user_id="@a/b%2Fü:b.example:8448")
        assert request.to_http().path == DEVICES + "%40a%2Fb%252F%C3%BC%3Ab.example%3A8448"
        assert received(request.to_http().path, method="GET") == request

    @given(SEGMENTS, SEGMENTS)
    def test_round_trip(self, event_type: str, txn_id: str) -> None:
        request = send(event_type, txn_id)
        sent = request.to_http()
        assert sent.path.isascii()
        assert sent.path.count("/") == 6
        assert SendToDeviceRequest.from_http(sent) == request
        as_asgi = HttpRequest(method="PUT", path=sent.path.encode("ascii"), body=sent.body)
        assert SendToDeviceRequest.from_http(as_asgi) == request

    @pytest.mark.parametrize("value", ["", ".", ".."])
    def test_what_cannot_be_sent(self, value: str) -> None:
        makes: list[tuple[Callable[[], object], str, Reason]] = [
            (lambda: send(value), "/event_type", Reason.INVALID_IDENTIFIER),
            (lambda: send("m.dummy", value), "/txn_id", Reason.INVALID_IDENTIFIER),
            (lambda: fill_template("/a/{b}", {"b": value}), "/b", Reason.INVALID_IDENTIFIER),
        ]
        for make, path, reason in makes:
            with pytest.raises(LocalProtocolError) as caught:
                make()
            assert (caught.value.path, caught.value.reason) == (path, reason)
            assert caught.value.detail == f"'{value}' cannot be a segment of a path"

    @pytest.mark.parametrize("segment", [".", "..", "%2E", "%2e%2E", ".%2E", "%2e."])
    def test_what_would_have_been_resolved_on_the_way(self, segment: str) -> None:
        for path, at in ((f"{SEND}{segment}/1", "/event_type"), (f"{SEND}m.dummy/{segment}", "/txn_id")):
            with pytest.raises(RemoteProtocolError) as caught:
                received(path)
            assert (caught.value.path, caught.value.reason) == (at, Reason.INVALID_IDENTIFIER)
            assert (caught.value.http_status, caught.value.errcode) == (400, "M_INVALID_PARAM")

    @pytest.mark.parametrize("value", [".", ".."])
    def test_device_ids_that_cannot_be_sent(self, value: str) -> None:
        request = KeysUploadRequest(device_id=value)
        with pytest.raises(LocalProtocolError) as caught:
            request.to_http(CLIENT_V2_ALPHA)
        assert (caught.value.path, caught.value.reason) == ("/device_id", Reason.INVALID_IDENTIFIER)

    def test_a_lone_surrogate(self) -> None:
        builders: list[tuple[Callable[[], object], str, Reason]] = [
            (lambda: send("\ud800"), "/event_type", Reason.LONE_SURROGATE),
            (lambda: send("m.dummy", "a\udfff"), "/txn_id", Reason.LONE_SURROGATE),
            (lambda: KeysUploadRequest(device_id="\ud800"), "/device_id", Reason.INVALID_IDENTIFIER),
            (lambda: UserDevicesRequest(user_id="@\ud800:b"), "/user_id", Reason.INVALID_IDENTIFIER),
            (lambda: KeysChangesRequest(from_token="\ud800", to_token=""), "/from", Reason.LONE_SURROGATE),
            (lambda: KeysChangesRequest(from_token="", to_token="\ud800"), "/to", Reason.LONE_SURROGATE),
        ]
        for build, path, reason in builders:
            with pytest.raises(LocalProtocolError) as caught:
                build()
            assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        "segment", ["%", "%zz", "%2", "a%", "%%41", "%ff", "%C3", "%ED%A0%80", "%C0%AF", "ü", "%+1", "% 1", "\ud800"]
    )
    def test_what_is_not_encoded(self, segment: str) -> None:
        for path, at in (
            (f"{SEND}{segment}/1", "/event_type"),
            (f"{SEND}m.dummy/{segment}", "/txn_id"),
        ):
            with pytest.raises(RemoteProtocolError) as caught:
                received(path)
            assert (caught.value.path, caught.value.reason) == (at, Reason.INVALID_ENCODING)
            assert (caught.value.http_status, caught.value.errcode) == (400, "M_INVALID_PARAM")

    def test_raw_bytes_above_ascii(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            received((SEND + "m.dummy/ü").encode())
        assert (caught.value.path, caught.value.reason) == ("/txn_id", Reason.INVALID_ENCODING)


class TestTemplates:
    """Fields of requests hold no lone surrogates; whoever fills a template with something else is told."""

    def test_filled(self) -> None:
        assert fill_template("/a/{b}/{c_d}", {"b": "1/2", "c_d": "{b}", "e": None}) == "/a/1%2F2/%7Bb%7D"
        assert parameters_of("/a/{b}/{c_d}/e") == {"b", "c_d"}
        assert match_template("/a/{b}/{c_d}", "/a/1%2F2/%7Bb%7D") == {"b": "1/2", "c_d": "{b}"}
        assert join_query({"a": "1&2", "b": None, "c": ""}) == "a=1%262&c="

    def test_a_lone_surrogate(self) -> None:
        for fill in (lambda: fill_template("/{b}", {"b": "x\ud800"}), lambda: join_query({"a": "", "b": "\udfff"})):
            with pytest.raises(LocalProtocolError) as caught:
                fill()
            assert (caught.value.path, caught.value.reason) == ("/b", Reason.LONE_SURROGATE)


class TestFixedParts:
    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "//",
            "/_matrix/client/v3/keys",
            QUERY + "/",
            "/" + QUERY,
            QUERY + "/x",
            "/_matrix/client/v3/%6Beys/query",
            "/_matrix/client/v3/keys%2Fquery",
            "/_matrix/client/v3/./keys/query",
            "/_matrix/client/v3/x/../keys/query",
            "/_matrix/client/v3//keys/query",
            "/_matrix/client/v3/keys/Query",
            "/_matrix/client/v3/keys/query;x",
            "/_matrix/client/v1/keys/query",
            "/_matrix/client/unstable/keys/query",
            "/_matrix/federation/v2/user/keys/query",
            "/_matrix/key/v2/server/ed25519:1",
            "/_matrix/key/v2/server/",
            SEND + "m.dummy",
            SEND + "m.dummy/",
            SEND + "/1",
            SEND + "m.dummy/1/",
            UPLOAD_2015,
            UPLOAD_2015.rstrip("/"),
            "/_matrix/client/v3/keys/upload/DEVICE",
            DEVICES,
            "/_matrix/client/v3/kéys/query",
            "/\ud800",
            "",
            "*",
            "a",
            " /",
            "http://x/y",
            "https://a.example" + QUERY,
            "a.example:443",
            "http:" + QUERY,
            QUERY[1:],
            " " + QUERY,
            QUERY + "?",
            QUERY + "?a=b",
            QUERY + "#",
            SEND + "m.dummy/1?a",
            SEND + "m.dummy/1#a",
            SEND + "m?b/1",
            SEND + "m#b/1",
            "?",
            "#",
        ],
    )
    @pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
    def test_other_paths(self, path: str, method: str) -> None:
        request = HttpRequest(method=method, path=path)
        for read in (read_request, find_endpoint, KeysQueryRequest.from_http, SendToDeviceRequest.from_http):
            with pytest.raises(RemoteProtocolError) as caught:
                read(request)
            assert (caught.value.path, caught.value.reason) == ("", Reason.UNRECOGNIZED_ENDPOINT)
            assert (caught.value.http_status, caught.value.errcode) == (404, "M_UNRECOGNIZED")
            str(caught.value).encode()

    @pytest.mark.parametrize(
        "method",
        [
            "GET",
            "PUT",
            "HEAD",
            "OPTIONS",
            "post",
            "DELETE",
            "",
            "PO ST",
            "POST ",
            "POST\r\n",
            "PÖST",
            b"\xff",
        ],
    )
    def test_other_methods(self, method: Any) -> None:
        for read in (read_request, find_endpoint, KeysQueryRequest.from_http):
            with pytest.raises(RemoteProtocolError) as caught:
                read(HttpRequest(method=method, path=QUERY))
            assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_METHOD)
            assert (caught.value.http_status, caught.value.errcode) == (405, "M_UNRECOGNIZED")

    def test_the_sentence_about_a_method_can_be_encoded(self) -> None:
        for read in (read_request, find_endpoint, KeysQueryRequest.from_http):
            with pytest.raises(RemoteProtocolError) as caught:
                read(HttpRequest(method="\ud800", path=QUERY))
            assert (caught.value.path, caught.value.reason) == ("", Reason.WRONG_METHOD)
            str(caught.value).encode()

    def test_another_endpoint_than_the_class_stands_for(self) -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            KeysQueryRequest.from_http(HttpRequest(method="POST", path="/_matrix/client/v3/keys/claim"))
        assert (caught.value.reason, caught.value.http_status) == (Reason.UNRECOGNIZED_ENDPOINT, 404)


class TestQuery:
    @pytest.mark.parametrize(("value", "encoded"), ENCODED.values(), ids=ENCODED.keys())
    def test_encoded_and_decoded_once(self, value: str, encoded: str) -> None:
        request = KeysChangesRequest(from_token=value, to_token="t")
        sent = request.to_http()
        assert (sent.path, sent.query, sent.body) == (CHANGES, f"from={encoded}&to=t", b"")
        assert sent.target == f"{CHANGES}?from={encoded}&to=t"
        assert KeysChangesRequest.from_http(sent) == request

    @given(AS_TEXT, AS_TEXT)
    def test_round_trip(self, from_token: str, to_token: str) -> None:
        request = KeysChangesRequest(from_token=from_token, to_token=to_token)
        sent = request.to_http()
        assert sent.query.isascii()
        assert KeysChangesRequest.from_http(sent) == request
        again = HttpRequest.from_target(method="GET", target=sent.target.encode())
        assert again == sent

    @pytest.mark.parametrize(
        ("query", "tokens"),
        [
            ("from=a&to=b", ("a", "b")),
            ("to=b&from=a", ("a", "b")),
            ("from=a+b&to=%2B", ("a b", "+")),
            ("from=a=b&to=c=", ("a=b", "c=")),
            ("from=&to=", ("", "")),
            ("from&to", ("", "")),
            ("&&from=a&&to=b&", ("a", "b")),
            ("from=a&to=b&access_token=x&access_token=y&flag&=&%zz=%ff&ü=ü", ("a", "b")),
            ("from=a&to=b&From=c&from%20=d&user_id=%zz", ("a", "b")),
            ("fr%6Fm=a&%74%6f=b", ("a", "b")),
            ("from=a&to=b&fr%256Fm=c&+from=d&from%=e&%ffrom=f&%EF%BD%86rom=g&from%00=h", ("a", "b")),
            ("from=a?b/c&to=?", ("a?b/c", "?")),
            ("from=a&to=b&x=#&#=y&#", ("a", "b")),
        ],
    )
    def test_read(self, query: str, tokens: tuple[str, str]) -> None:
        request = received(CHANGES, method="GET", query=query, body=b"")
        assert (request.from_token, request.to_token) == tokens

    @pytest.mark.parametrize(
        ("query", "path", "reason", "errcode"),
        [
            ("", "/from", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=a", "/to", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("to=a", "/from", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=a;to=b", "/to", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=a&to=b&from=a", "/from", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("from=a&to=b&to", "/to", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("from=a&to=b&fr%6Fm=a", "/from", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("%66rom=a&to=b&fro%6D=a", "/from", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("from=a&t%6f=b&to=%zz", "/to", Reason.REPEATED_PARAMETER, "M_INVALID_PARAM"),
            ("from=a&t%6f=%zz", "/to", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=a#b&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=a&to=b#", "/to", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=a&#to=b", "/to", Reason.MISSING_PARAMETER, "M_MISSING_PARAM"),
            ("from=%&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=a&to=%zz", "/to", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=%ff&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=ü&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
            ("from=%ED%A0%80&to=b", "/from", Reason.INVALID_ENCODING, "M_INVALID_PARAM"),
        ],
    )
    def test_refused(self, query: str, path: str, reason: Reason, errcode: str) -> None:
        request = HttpRequest(method="GET", path=CHANGES, query=query)
        for read in (read_request, KeysChangesRequest.from_http):
            with pytest.raises(RemoteProtocolError) as caught:
                read(request)
            assert (caught.value.path, caught.value.reason) == (path, reason)
            assert (caught.value.http_status, caught.value.errcode) == (400, errcode)

    def test_a_query_that_nobody_asked_for_is_left_alone(self) -> None:
        body = b'{"device_keys":{}}'
        assert received(QUERY, method="POST", query="timeout=1&timeout=2&%zz", body=body).timeout is None
        assert received("/_matrix/key/v2/server", method="GET", query="x=%ff") == ServerKeysRequest()


class TestHttpRequest:
    def test_as_asgi_has_it(self) -> None:
        scope: dict[str, Any] = {
            "method": "GET",
            "path": "/_matrix/client/v3/keys/changes",
            "raw_path": b"/_matrix/client/v3/keys/changes",
            "query_string": b"from=a%2Fb&to=c+d",
        }
        request = HttpRequest(method=scope["method"], path=scope["raw_path"], query=scope["query_string"])
        assert (type(request.path), type(request.query)) == (str, str)
        assert request == HttpRequest(method="GET", path=CHANGES, query="from=a%2Fb&to=c+d", body=b"")
        assert KeysChangesRequest.from_http(request) == KeysChangesRequest(from_token="a/b", to_token="c d")

    def test_bytes_above_ascii_are_kept(self) -> None:
        request = HttpRequest(method="GET", path=b"/\xff", query=b"\xc3\xbc=1")
        assert (request.path, request.query) == ("/ÿ", "Ã¼=1")

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [
            ("/", "/", ""),
            ("/a%2Fb/c?d=e?f/g", "/a%2Fb/c", "d=e?f/g"),
            (b"/a?from=%C3%BC", "/a", "from=%C3%BC"),
            (b"/\xff?\xfe", "/ÿ", "þ"),
        ],
    )
    def test_from_target(self, target: str | bytes, path: str, query: str) -> None:
        request = HttpRequest.from_target(method="PUT", target=target, body=b"x")
        assert request == HttpRequest(method="PUT", path=path, query=query, body=b"x")
        assert request.target == (target if type(target) is str else target.decode("latin-1"))  # type: ignore[union-attr]

    def test_target_without_a_query(self) -> None:
        assert HttpRequest(method="GET", path="/a").target == "/a"
        assert HttpRequest(method="GET", path="/a", query="b").target == "/a?b"
        assert HttpRequest.from_target(method="GET", target="/a") == HttpRequest(method="GET", path="/a")

    def test_an_empty_query_is_no_query(self) -> None:
        assert HttpRequest.from_target(method="GET", target="/a?").target == "/a"
        assert HttpRequest(method="GET", path=b"/a", query=b"").target == "/a"

    def test_defaults_and_repr(self) -> None:
        request = HttpRequest(method="GET", path="/a")
        assert (request.query, request.body) == ("", b"")
        assert "secret" not in repr(HttpRequest(method="POST", path="/a", body=b"secret"))
        assert hash(request) == hash(HttpRequest(method="GET", path=b"/a"))

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"method": None}, "/method", Reason.WRONG_TYPE),
            ({"method": 5}, "/method", Reason.WRONG_TYPE),
            ({"method": bytearray(b"GET")}, "/method", Reason.WRONG_TYPE),
            ({"method": http.HTTPMethod.GET}, "/method", Reason.WRONG_TYPE),
            ({"path": None}, "/path", Reason.WRONG_TYPE),
            ({"path": bytearray(b"/a")}, "/path", Reason.WRONG_TYPE),
            ({"path": ["/a"]}, "/path", Reason.WRONG_TYPE),
            ({"query": None}, "/query", Reason.WRONG_TYPE),
            ({"query": {"a": "b"}}, "/query", Reason.WRONG_TYPE),
            ({"query": 5}, "/query", Reason.WRONG_TYPE),
            ({"body": None}, "/body", Reason.WRONG_TYPE),
            ({"body": "{}"}, "/body", Reason.WRONG_TYPE),
            ({"body": {}}, "/body", Reason.WRONG_TYPE),
            ({"body": bytearray(b"{}")}, "/body", Reason.WRONG_TYPE),
            ({"body": memoryview(b"{}")}, "/body", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            HttpRequest(**{"method": "GET", "path": "/a", **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"target": None}, "/target", Reason.WRONG_TYPE),
            ({"target": 5}, "/target", Reason.WRONG_TYPE),
            ({"target": bytearray(b"/a")}, "/target", Reason.WRONG_TYPE),
            ({"method": None}, "/method", Reason.WRONG_TYPE),
            ({"body": "x"}, "/body", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_arguments_of_from_target(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            HttpRequest.from_target(**{"method": "GET", "target": "/a", **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    @pytest.mark.parametrize(
        "target",
        [
            "",
            b"",
            "*",
            "?a",
            "?/a",
            "a/b",
            " /a",
            "http://x/y",
            b"a.example:443",
            "/a#b",
            "/a#b?c",
            "/a?b#c",
            "#",
            "\ud800",
            b"\xff",
        ],
        ids=repr,
    )
    def test_a_target_that_is_no_path(self, target: str | bytes) -> None:
        text = target if isinstance(target, str) else target.decode("latin-1")
        for method in ("GET", "OPTIONS", "CONNECT", "", b"\xff"):
            request = HttpRequest.from_target(method=method, target=target, body=b"{}")  # type: ignore[arg-type]
            assert request.target == text
            for read in (read_request, find_endpoint, KeysQueryRequest.from_http):
                with pytest.raises(RemoteProtocolError) as caught:
                    read(request)
                assert (caught.value.path, caught.value.reason) == ("", Reason.UNRECOGNIZED_ENDPOINT)
                assert (caught.value.http_status, caught.value.errcode) == (404, "M_UNRECOGNIZED")
                assert MatrixError.answering(caught.value).status == 404
                str(caught.value).encode()

    @pytest.mark.parametrize(
        "value", ["", "GET", "M-SEARCH", "G T", "GET\r\n", "GÉT", "\ud800", "/", "*", "a?b", "a#b"]
    )
    def test_whatever_was_received(self, value: str) -> None:
        request = HttpRequest(method=value, path=value, query=value)
        assert (request.method, request.path, request.query) == (value, value, value)

    def test_everything_but_the_body_may_be_bytes(self) -> None:
        request = HttpRequest(method=b"G\xffT", path=b"\xfe", query=b"\xfd#", body=b"\xfc")  # type: ignore[arg-type]
        assert (request.method, request.path, request.query, request.body) == ("GÿT", "þ", "ý#", b"\xfc")
        assert HttpRequest.from_target(method=b"PUT", target=b"/a").method == "PUT"  # type: ignore[arg-type]


class TestHttpResponse:
    def test_defaults(self) -> None:
        response = HttpResponse(status=200)
        assert (response.status, response.body, dict(response.headers)) == (200, b"", {})
        assert "secret" not in repr(HttpResponse(status=200, body=b"secret", headers={"set-cookie": "secret"}))

    def test_names_of_headers_are_in_lower_case(self) -> None:
        headers = {"Retry-After": "1", "X": "y"}
        response = HttpResponse(status=429, headers=MappingProxyType(headers))
        headers["later"] = "z"
        assert dict(response.headers) == {"retry-after": "1", "x": "y"}
        with pytest.raises(TypeError):
            response.headers["x"] = "z"  # type: ignore[index]

    def test_values_of_other_libraries(self) -> None:
        class Text(str):
            __slots__ = ()

        response = HttpResponse(status=http.HTTPStatus.OK, headers={Text("A"): Text("b")})
        assert type(response.status) is int
        assert [(type(name), type(text)) for name, text in response.headers.items()] == [(str, str)]
        assert response == HttpResponse(status=200, headers={"a": "b"})

    def test_headers_of_transports(self) -> None:
        message = http.client.HTTPMessage()
        message["Retry-After"] = "7"
        message["X-Y"] = "z"
        assert HttpResponse(status=429, headers=message).headers == {"retry-after": "7", "x-y": "z"}  # type: ignore[arg-type]

        class Text(str):
            __slots__ = ()

        class Pairs:
            """Headers with names that stand there twice, and that are no Mapping."""

            def items(self) -> list[tuple[str, str]]:
                return [(Text("A"), Text("1")), ("Retry-After", Text("5")), ("a", "2")]

        response = HttpResponse(status=429, headers=Pairs())  # type: ignore[arg-type]
        assert response.headers == {"a": "2", "retry-after": "5"}
        assert {type(part) for pair in response.headers.items() for part in pair} == {str}
        assert MatrixError.from_http(response).retry_after_ms == 5000

    @pytest.mark.parametrize("headers", [dict, SimpleNamespace(items=None), SimpleNamespace(items=lambda: 5)], ids=repr)
    def test_what_only_seems_to_have_items(self, headers: Any) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            HttpResponse(status=200, headers=headers)
        assert (caught.value.path, caught.value.reason) == ("/headers", Reason.WRONG_TYPE)

    @pytest.mark.parametrize("status", [100, 200, 599, 600, 999])
    def test_statuses(self, status: int) -> None:
        assert HttpResponse(status=status).status == status

    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            ({"status": 99}, "/status", Reason.INVALID_VALUE),
            ({"status": 1000}, "/status", Reason.INVALID_VALUE),
            ({"status": 0}, "/status", Reason.INVALID_VALUE),
            ({"status": -200}, "/status", Reason.INVALID_VALUE),
            ({"status": True}, "/status", Reason.INVALID_VALUE),
            ({"status": 200.0}, "/status", Reason.INVALID_VALUE),
            ({"status": "200"}, "/status", Reason.INVALID_VALUE),
            ({"status": None}, "/status", Reason.INVALID_VALUE),
            ({"body": None}, "/body", Reason.WRONG_TYPE),
            ({"body": "{}"}, "/body", Reason.WRONG_TYPE),
            ({"body": bytearray(b"{}")}, "/body", Reason.WRONG_TYPE),
            ({"headers": None}, "/headers", Reason.WRONG_TYPE),
            ({"headers": [("a", "b")]}, "/headers", Reason.WRONG_TYPE),
            ({"headers": {b"retry-after": "1"}}, "/headers", Reason.WRONG_TYPE),
            ({"headers": {"retry-after": b"1"}}, "/headers", Reason.WRONG_TYPE),
            ({"headers": {"retry-after": 1}}, "/headers", Reason.WRONG_TYPE),
            ({"headers": {"retry-after": ["1"]}}, "/headers", Reason.WRONG_TYPE),
        ],
        ids=repr,
    )
    def test_bad_arguments(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            HttpResponse(**{"status": 200, **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)


class TestBodies:
    def test_canonical_where_it_can_be(self) -> None:
        sent = KeysQueryRequest(device_keys={"@b:b": ("X",), "@a:b": ()}, extra={"ä": True, "a": "\n"}).to_http()
        assert sent.body == '{"a":"\\n","device_keys":{"@a:b":[],"@b:b":["X"]},"ä":true}'.encode()

    def test_what_canonical_json_cannot_carry_is_passed_on(self) -> None:
        response = SendToDeviceResponse(extra={"b": [1.5, 2**60], "a": "\ud800", "\udfff": None})
        body = response.to_http().body
        assert body == b'{"b":[1.5,1152921504606846976],"a":"\\ud800","\\udfff":null}'
        assert SendToDeviceResponse.from_bytes(body) == response

    def test_near_the_recursion_limit(self) -> None:
        """attack 9: a body or one of our errors, however little of the stack is left."""
        of_them: list[Any] = [
            SendToDeviceResponse(extra={"x": nested(110)}),
            SendToDeviceResponse(extra={"x": nested(110, of="dict", core="\ud800")}),
            MatrixError(status=400, extra={"x": nested(110), "y": "\ud800"}),
        ]
        for value in of_them:
            outcomes = set()
            for left in range(60, 420, 3):
                try:
                    with_frames_left(left, lambda value=value: value.to_http())  # type: ignore[misc]
                except E2EKeysError as error:
                    outcomes.add(str(error.reason))
                except (RecursionError, AssertionError) as error:
                    outcomes.add(type(error).__name__)
                else:
                    outcomes.add("good")
            assert outcomes == {"good", "too-deep"}

    def test_a_full_stack_while_encoding(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def overflow(*_: object, **__: object) -> str:
            raise RecursionError

        request = SendToDeviceResponse(extra={"a": "\ud800"})
        monkeypatch.setattr(json, "dumps", overflow)
        with pytest.raises(LocalProtocolError) as caught:
            request.to_http()
        assert (caught.value.path, caught.value.reason) == ("", Reason.TOO_DEEP)

    def test_an_integer_that_no_interpreter_writes(self) -> None:
        request = KeysUploadRequest.from_json({"one_time_keys": {"x": [10**5000]}})
        assert isinstance(request.one_time_keys["x"], Rejection)
        assert request.to_http().body == b'{"one_time_keys":{"x":["an integer of about 5000 digits"]}}'

    def test_an_integer_that_this_interpreter_does_not_write(self) -> None:
        response = SendToDeviceResponse(extra={"x": 10**700})
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(640)
        try:
            with pytest.raises(LocalProtocolError) as caught:
                response.to_http()
        finally:
            sys.set_int_max_str_digits(before)
        assert (caught.value.path, caught.value.reason) == ("", Reason.TOO_MANY_DIGITS)
        assert response.to_http().body == b'{"x":1' + b"0" * 700 + b"}"
