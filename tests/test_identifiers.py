"""Identifiers: the grammar of the appendix, the historical one for user ids, and nothing at all for device ids."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import any_text, modest, wild_values
from matrix_e2e_keys import (
    E2EKeysError,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    is_strict_user_id,
    is_user_id,
    parse_device_id,
    parse_room_id,
    parse_server_name,
    parse_user_id,
    server_name_of,
)
from matrix_e2e_keys.errors import Refusal
from matrix_e2e_keys.identifiers import check_user_ids, read_identifier
from matrix_e2e_keys.json_trees import RefusedPlace

SERVER_NAMES = {
    "a DNS name": "matrix.org",
    "a DNS name with port": "matrix.org:8888",
    "an IPv4 literal": "1.2.3.4",
    "an IPv4 literal with port": "1.2.3.4:1234",
    "an IPv6 literal": "[1234:5678::abcd]",
    "an IPv6 literal with port": "[1234:5678::abcd]:5678",
    "a label": "localhost",
    "capitals": "MATRIX.ORG",
    "the shortest IPv6 literal": "[::]",
    "an IPv4 address in IPv6": "[::ffff:1.2.3.4]",
    "port zero": "a:0",
    "the largest port": "a:65535",
    "leading zeros in a port": "a:00080",
    "the largest IPv4 literal": "255.255.255.255",
    "three numbers": "1.2.3",
    "five numbers": "1.2.3.4.5",
    "long numbers": "1.2.3.4444",
    "a trailing dot": "matrix.org.",
    "hyphens": "xn--e1afmkfd.example",
    "255 characters": "a" * 255,
}

NOT_SERVER_NAMES = {
    "nothing": "",
    "only a port": ":80",
    "an empty port": "a:",
    "a port of six digits": "a:123456",
    "a port out of range": "a:65536",
    "a port that is no number": "a:b",
    "a negative port": "a:-1",
    "digits that are not ASCII": "a:\u0661",
    "two ports": "a:1:2",
    "an IPv4 literal out of range": "1.2.3.256",
    "an IPv4 literal out of range with port": "999.2.3.4:80",
    "an IPv6 literal without brackets": "::1",
    "an open bracket": "[::1",
    "an empty literal": "[]",
    "text after the bracket": "[::1]x",
    "an empty port after the bracket": "[::1]:",
    "a wrong port after the bracket": "[::1]:70000",
    "an IPv4 address in brackets": "[1.2.3.4]",
    "a DNS name in brackets": "[matrix.org]",
    "a zone": "[fe80::1%eth0]",
    "too many groups": "[1:2:3:4:5:6:7:8:9]",
    "an IPv6 literal that is too long": "[" + "0:" * 30 + "]",
    "an underscore": "a_b",
    "a slash": "a/b",
    "a space": "a b",
    "a trailing newline": "a\n",
    "a NUL": "a\x00",
    "letters that are not ASCII": "bücher.example",
    "a lone surrogate": "\ud800",
    "256 characters": "a" * 256,
    "an at sign": "@a:b",
    "a percent sign": "a%2eb",
}


@pytest.mark.parametrize("text", SERVER_NAMES.values(), ids=SERVER_NAMES.keys())
def test_server_names(text: str) -> None:
    assert parse_server_name(text) == text
    if len(text) < 250:
        assert parse_user_id(f"@u:{text}") == f"@u:{text}"
        assert parse_user_id(f"@ü:{text}") == f"@ü:{text}"
        assert server_name_of(parse_user_id(f"@u:{text}")) == text


@pytest.mark.parametrize("text", NOT_SERVER_NAMES.values(), ids=NOT_SERVER_NAMES.keys())
def test_what_is_no_server_name(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_server_name(text)
    assert caught.value.reason is Reason.INVALID_IDENTIFIER
    assert not is_user_id(f"@u:{text}")
    assert not is_user_id(f"@ü:{text}")


STRICT_USER_IDS = {
    "usual": "@alice:example.org",
    "all characters": "@abcdefghijklmnopqrstuvwxyz0123456789._=-/+:b",
    "one character": "@a:b",
    "a dot": "@.:b",
    "IPv6": "@a:[::1]:8448",
    "IPv4": "@a:10.0.0.1",
    "255 bytes": "@" + "a" * 252 + ":b",
}

HISTORICAL_USER_IDS = {
    "capitals": "@Alice:example.org",
    "an empty localpart": "@:example.org",
    "punctuation": "@!\"#$%&'()*,;<>?@[\\]^`{|}~:b",
    "a space": "@a b:c",
    "a control character": "@\x01\x1f\n:c",
    "DEL": "@\x7f:c",
    "not ASCII": "@日本語:example.org",
    "astral": "@😀:b",
    "255 bytes, not ASCII": "@" + "é" * 126 + ":b",
    "bidirectional override": "@\u202ea:b",
    "another at sign": "@@a:b",
}

NOT_USER_IDS = {
    "nothing": "",
    "only the sigil": "@",
    "no sigil": "alice:example.org",
    "another sigil": "!alice:example.org",
    "no server name": "@alice",
    "an empty server name": "@alice:",
    "a NUL": "@a\x00b:c",
    "a NUL in an otherwise usual id": "@\x00:c",
    "a lone surrogate": "@\ud800:c",
    "256 bytes": "@" + "a" * 253 + ":b",
    "256 bytes that are not ASCII": "@" + "é" * 126 + ":bb",
    "few characters, many bytes": "@" + "😀" * 64 + ":b",
    "a space in front": " @a:b",
    "a newline at the end": "@a:b\n",
    "two colons": "@a:b:c",
    "a colon in the localpart": "@a:evil.example:good.example",
    "a megabyte": "@" + "a" * 10**6 + ":b",
    "a megabyte that is not ASCII": "@" + "é" * 10**6 + ":b",
    "text after an IPv6 literal": "@a:[::1]b",
    "an escaped colon": "@a%3ab",
}


@pytest.mark.parametrize("text", STRICT_USER_IDS.values(), ids=STRICT_USER_IDS.keys())
def test_user_ids_of_today(text: str) -> None:
    assert parse_user_id(text) == text
    assert is_user_id(text)
    assert is_strict_user_id(text)


@pytest.mark.parametrize("text", HISTORICAL_USER_IDS.values(), ids=HISTORICAL_USER_IDS.keys())
def test_user_ids_of_old(text: str) -> None:
    assert parse_user_id(text) == text
    assert is_user_id(text)
    assert not is_strict_user_id(text)


@pytest.mark.parametrize("text", NOT_USER_IDS.values(), ids=NOT_USER_IDS.keys())
def test_what_is_no_user_id(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_user_id(text)
    assert caught.value.reason is Reason.INVALID_IDENTIFIER
    assert len(str(caught.value)) < 400
    assert not is_user_id(text)
    assert not is_strict_user_id(text)


@modest
@given(st.text(st.characters(exclude_characters=":\x00", exclude_categories=["Cs"]), max_size=60))
def test_every_localpart_of_the_historical_grammar_is_taken(localpart: str) -> None:
    user_id = f"@{localpart}:b"
    assert is_user_id(user_id) == (len(user_id.encode()) <= 255)
    strict = bool(localpart) and set(localpart) <= set(string.ascii_lowercase + string.digits + "._=-/+")
    assert is_strict_user_id(user_id) is (strict and is_user_id(user_id))


@modest
@given(st.text("@:.[]az09AZ-_ \x00é", max_size=12))
def test_the_quick_way_decides_as_the_thorough_one(text: str) -> None:
    localpart, colon, server = text[1:].partition(":")
    try:
        parse_server_name(server)
    except RemoteProtocolError:
        good_server = False
    else:
        good_server = True
    assert is_user_id(text) == (text[:1] == "@" and bool(colon) and "\x00" not in localpart and good_server)


def test_the_domain_starts_at_the_first_colon() -> None:
    assert server_name_of(parse_user_id("@a:b:80")) == "b:80"
    assert server_name_of(parse_room_id("!a:[::1]:80")) == "[::1]:80"


@pytest.mark.parametrize("room_id", ["!opaque", "!a:", "!a:b c"])
def test_a_room_id_without_server_name(room_id: str) -> None:
    with pytest.raises(RemoteProtocolError):
        server_name_of(parse_room_id(room_id))


def test_server_names_are_case_sensitive() -> None:
    assert parse_user_id("@user:matrix.org") != parse_user_id("@user:MATRIX.ORG")


DEVICE_IDS = [
    "A",
    "JLAFKJWSCS",
    "R1.i=-E9Cq_uL^Nc",
    "guest_device",
    "a:b",
    ":",
    "/",
    "~",
    " ",
    "\x00",
    "é",
    "😀",
    "ab/+cd=",
    "x" * 512,
]


@pytest.mark.parametrize("text", DEVICE_IDS)
def test_device_ids_have_no_grammar(text: str) -> None:
    assert parse_device_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "\ud800", "a\udfff", "x" * 513, "é" * 257, "x" * 10**6], ids=lambda text: ascii(text)[:9]
)
def test_what_is_no_device_id(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_device_id(text)
    assert caught.value.reason is Reason.INVALID_IDENTIFIER


@pytest.mark.parametrize(
    "text", ["!a", "!a:b", "!" + "x" * 254, "!é:b", "!!", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"]
)
def test_room_ids(text: str) -> None:
    assert parse_room_id(text) == text


@pytest.mark.parametrize(
    "text", ["", "!", "a", "#a:b", "!a\x00", "!" + "x" * 255, "!\ud800", " !a"], ids=lambda text: ascii(text)[:9]
)
def test_what_is_no_room_id(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse_room_id(text)
    assert caught.value.reason is Reason.INVALID_IDENTIFIER


PARSERS: list[Callable[[Any], str]] = [parse_user_id, parse_device_id, parse_room_id, parse_server_name]


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize("value", [None, 1, True, b"@a:b", ["@a:b"], {"@a:b": 1}, 1.5, Text("@a:b")], ids=repr)
def test_identifiers_are_strings(parse: Callable[[Any], str], value: Any) -> None:
    """attack 12: a subclass of str may behave differently each time it is asked."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse(value)
    assert caught.value.reason is Reason.WRONG_TYPE
    assert not is_user_id(value)
    assert not is_strict_user_id(value)


@modest
@given(wild_values | any_text)
def test_any_value_is_taken_as_it_is_or_refused(value: Any) -> None:
    for parse in PARSERS:
        try:
            parsed = parse(value)
        except RemoteProtocolError as error:
            str(error).encode()
        else:
            parsed.encode()
            assert parsed is value


@modest
@given(wild_values | any_text)
def test_the_server_name_of_anything(value: Any) -> None:
    try:
        parse_server_name(server_name_of(value))
    except E2EKeysError as error:
        str(error).encode()


# -- What a caller gives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_ids", "expected"),
    [
        ([], []),
        (["@b:x", "@a:x", "@b:x"], ["@b:x", "@a:x"]),
        ((user_id for user_id in ("@b:x", "@a:x")), ["@b:x", "@a:x"]),
        ({"@b:x": 1, "@a:x": 2}, ["@b:x", "@a:x"]),
        (frozenset(["@a:x"]), ["@a:x"]),
    ],
    ids=["none", "twice", "one after the other", "a mapping", "a set"],
)
def test_user_ids_of_a_caller_each_once_in_their_order(given_ids: Any, expected: list[str]) -> None:
    assert check_user_ids(given_ids) == expected


@pytest.mark.parametrize(
    ("given_ids", "reason", "path"),
    [
        ("@a:x", Reason.WRONG_TYPE, "/user_ids"),
        (Text("@a:x"), Reason.WRONG_TYPE, "/user_ids"),
        (None, Reason.WRONG_TYPE, "/user_ids"),
        (5, Reason.WRONG_TYPE, "/user_ids"),
        (["@a:x", "a"], Reason.INVALID_IDENTIFIER, "/user_ids/1"),
        (["@a:x", "@a:x", None], Reason.INVALID_IDENTIFIER, "/user_ids/2"),
        ([[]], Reason.INVALID_IDENTIFIER, "/user_ids/0"),
        (b"@a:x", Reason.INVALID_IDENTIFIER, "/user_ids/0"),
        ([Text("@a:x")], Reason.INVALID_IDENTIFIER, "/user_ids/0"),
        (["\ud800"], Reason.INVALID_IDENTIFIER, "/user_ids/0"),
    ],
    ids=repr,
)
def test_what_are_no_user_ids_is_the_fault_of_the_caller(given_ids: Any, reason: Reason, path: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_user_ids(given_ids)
    assert (caught.value.reason, caught.value.path) == (reason, path)
    str(caught.value).encode()


# -- Inside a document -----------------------------------------------------------------------------------------


def test_read_identifier() -> None:
    assert read_identifier(parse_user_id, "@a:b", "user_id") == "@a:b"
    with pytest.raises(Refusal) as caught:
        read_identifier(parse_user_id, "a", "x", 1, "user_id")
    assert (caught.value.reason, caught.value.at) == (Reason.INVALID_IDENTIFIER, ("x", 1, "user_id"))
    with pytest.raises(Refusal) as caught:
        read_identifier(parse_user_id, None, "x", "user_id")
    assert (caught.value.reason, caught.value.at) == (Reason.WRONG_TYPE, ("x", "user_id"))
    assert caught.value.detail == "user_id must be a string, not null"


def test_read_identifier_passes_on_why_the_place_was_refused() -> None:
    place = RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail="why", value=1.5)
    with pytest.raises(Refusal) as caught:
        read_identifier(parse_device_id, place, "device_id")
    assert (caught.value.reason, caught.value.detail, caught.value.at) == (Reason.NOT_AN_INTEGER, "why", ("device_id",))
