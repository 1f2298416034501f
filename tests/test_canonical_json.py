"""Canonical JSON: the specification's examples, and everything that has more than one plausible encoding refused."""

from __future__ import annotations

import copy
import enum
import json
from collections import OrderedDict, UserDict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import MAX_SAFE, modest, nested, safe_objects, safe_values, wild_values, with_frames_left
from matrix_e2e_keys import (
    JsonLimits,
    LocalProtocolError,
    Reason,
    RemoteProtocolError,
    SignedJson,
    encode_canonical_json,
    parse_json,
)
from matrix_e2e_keys.canonical_json import encode_objects, encode_tree
from matrix_e2e_keys.errors import E2EKeysError
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_trees import RefusedPlace, snapshot


def specification_encoding(value: Any) -> bytes:
    """The Python code in the appendix."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("UTF-8")


# -- Examples of the specification -----------------------------------------------------------------------------

NESTED = (
    '{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name": "John Doe", '
    '"three_pids": [{"medium": "email", "address": "john.doe@example.org"}, '
    '{"medium": "msisdn", "address": "123456789"}]}}}'
)
NESTED_CANONICAL = (
    '{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":'
    '[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},'
    '"success":true}}'
)

EXAMPLES = {
    "an empty object": ("{}", "{}"),
    "whitespace": ('{\n    "one": 1,\n    "two": "Two"\n}', '{"one":1,"two":"Two"}'),
    "order": ('{\n    "b": "2",\n    "a": "1"\n}', '{"a":"1","b":"2"}'),
    "order without whitespace": ('{"b":"2","a":"1"}', '{"a":"1","b":"2"}'),
    "nested": (
        NESTED,
        NESTED_CANONICAL,
    ),
    "not ASCII": ('{"a": "日本語"}', '{"a":"日本語"}'),
    "order of names that are not ASCII": ('{"本": 2, "日": 1}', '{"日":1,"本":2}'),
    "an escape": (r'{"a": "\u65E5"}', '{"a":"日"}'),
    "null": ('{"a": null}', '{"a":null}'),
}


@pytest.mark.parametrize(("document", "canonical"), EXAMPLES.values(), ids=EXAMPLES.keys())
@pytest.mark.parametrize("as_bytes", [True, False])
def test_the_examples_of_the_specification(document: str, canonical: str, as_bytes: bool) -> None:
    value = parse_json(document.encode() if as_bytes else document)
    assert encode_canonical_json(value) == canonical.encode()


def test_the_last_example_is_followed_only_on_demand() -> None:
    """attack 7: -0 and exponents."""
    document = '{"a": -0, "b": 1e10}'
    assert encode_canonical_json(parse_json(document, numbers="normalise")) == b'{"a":0,"b":10000000000}'
    with pytest.raises(RemoteProtocolError) as caught:
        parse_json(document)
    assert (caught.value.reason, caught.value.path) == (Reason.NEGATIVE_ZERO, "/a")


# -- attack 11: order and escapes ------------------------------------------------------------------------------

ESCAPES = {
    **{chr(code): f"\\u{code:04x}" for code in range(32)},
    "\b": r"\b",
    "\t": r"\t",
    "\n": r"\n",
    "\f": r"\f",
    "\r": r"\r",
    '"': r"\"",
    "\\": r"\\",
    "/": "/",
    "\x7f": "\x7f",
    "\x80": "\x80",
    "\u2028": "\u2028",
    "\u2029": "\u2029",
    "\ufeff": "\ufeff",
    "\uffff": "\uffff",
    "😀": "😀",
    "e\u0301": "e\u0301",
    "é": "é",
}


@pytest.mark.parametrize(("text", "escaped"), ESCAPES.items(), ids=[ascii(text) for text in ESCAPES])
def test_escapes(text: str, escaped: str) -> None:
    """attack 11: one escape for each control character, none for anything else."""
    assert encode_canonical_json(text) == f'"{escaped}"'.encode()
    assert encode_canonical_json({text: 1}) == f'{{"{escaped}":1}}'.encode()
    assert parse_json(f'["{escaped}"]') == [text]


def test_normal_forms_stay_apart() -> None:
    """attack 11: NFC and NFD are two names."""
    assert encode_canonical_json({"é": 1, "e\u0301": 2}) == '{"e\u0301":2,"é":1}'.encode()


def test_names_are_sorted_by_code_point() -> None:
    """attack 11: not by UTF-16 code unit, which would put the emoji first."""
    assert encode_canonical_json({"😀": 1, "｡": 2}) == '{"｡":2,"😀":1}'.encode()
    assert (
        encode_canonical_json({"b": 1, "B": 2, "": 3, "aa": 4, "a": 5, "é": 6})
        == '{"":3,"B":2,"a":5,"aa":4,"b":1,"é":6}'.encode()
    )
    assert encode_canonical_json({"a": {"z": 1, "y": [{"x": 1, "w": 2}]}}) == b'{"a":{"y":[{"w":2,"x":1}],"z":1}}'


def test_escaped_and_literal_text_are_the_same_value() -> None:
    """attack 10: a pair of escapes is the character it stands for."""
    assert parse_json(r'{"\ud83d\ude00": "\u0041\/"}') == parse_json('{"😀": "A/"}') == {"😀": "A/"}


# -- attack 6: duplicates --------------------------------------------------------------------------------------

SAME_NAMES = {
    "equal": ('"a"', '"a"'),
    "one escaped": ('"a"', r'"\u0061"'),
    "escaped in two ways": (r'"\u00e9"', r'"\u00E9"'),
    "escaped solidus": ('"/"', r'"\/"'),
    "astral": ('"😀"', r'"\ud83d\ude00"'),
    "empty": ('""', '""'),
    "signatures": ('"signatures"', r'"signature\u0073"'),
}


@pytest.mark.parametrize("levels", range(1, 6))
@pytest.mark.parametrize(("first", "second"), SAME_NAMES.values(), ids=SAME_NAMES.keys())
def test_duplicate_members_are_refused(first: str, second: str, levels: int) -> None:
    """attack 6: at depth 1 to 5, also when names are equal only after unescaping."""
    document = '{"x":' * (levels - 1) + f'{{{first}:1,"other":2,{second}:1}}' + "}" * (levels - 1)
    with pytest.raises(RemoteProtocolError) as caught:
        parse_json(document)
    assert caught.value.reason is Reason.DUPLICATE_MEMBER
    name = json.loads(first).replace("~", "~0").replace("/", "~1")
    assert caught.value.path == "/x" * (levels - 1) + f"/{name}"


def test_duplicates_in_an_array_are_refused_with_their_index() -> None:
    """attack 6: inside arrays."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_json('[{"a":1},[{"a":1,"a":1}]]')
    assert (caught.value.reason, caught.value.path) == (Reason.DUPLICATE_MEMBER, "/1/0/a")


# -- attacks 7 and 8: numbers ----------------------------------------------------------------------------------

GOOD_INTEGERS = {"0": 0, "1": 1, "-1": -1, "10": 10, str(MAX_SAFE): MAX_SAFE, str(-MAX_SAFE): -MAX_SAFE}


@pytest.mark.parametrize(("token", "value"), GOOD_INTEGERS.items())
def test_integers_in_range(token: str, value: int) -> None:
    """attack 8: +-(2**53 - 1) are the ends."""
    assert parse_json(token) == value
    assert parse_json(token, numbers="normalise") == value
    assert encode_canonical_json(value) == token.encode()
    assert encode_canonical_json(value, numbers="normalise") == token.encode()


BAD_NUMBERS = {
    "-0": Reason.NEGATIVE_ZERO,
    "1.0": Reason.NOT_AN_INTEGER,
    "-0.0": Reason.NOT_AN_INTEGER,
    "0.0": Reason.NOT_AN_INTEGER,
    "0.5": Reason.NOT_AN_INTEGER,
    "1e3": Reason.NOT_AN_INTEGER,
    "1E3": Reason.NOT_AN_INTEGER,
    "1e-3": Reason.NOT_AN_INTEGER,
    "0e0": Reason.NOT_AN_INTEGER,
    "1E400": Reason.NOT_AN_INTEGER,
    "-1E+400": Reason.NOT_AN_INTEGER,
    "1.5e1": Reason.NOT_AN_INTEGER,
    "NaN": Reason.NOT_AN_INTEGER,
    "Infinity": Reason.NOT_AN_INTEGER,
    "-Infinity": Reason.NOT_AN_INTEGER,
    str(2**53): Reason.INTEGER_OUT_OF_RANGE,
    str(-(2**53)): Reason.INTEGER_OUT_OF_RANGE,
    str(2**63): Reason.INTEGER_OUT_OF_RANGE,
    "1" + "0" * 30: Reason.INTEGER_OUT_OF_RANGE,
    "9" * 32: Reason.INTEGER_OUT_OF_RANGE,
    "9" * 33: Reason.TOO_MANY_DIGITS,
    "-" + "9" * 32: Reason.TOO_MANY_DIGITS,
    "0." + "0" * 31: Reason.TOO_MANY_DIGITS,
    "1e" + "0" * 40: Reason.TOO_MANY_DIGITS,
}


@pytest.mark.parametrize(("token", "reason"), BAD_NUMBERS.items(), ids=[token[:12] for token in BAD_NUMBERS])
def test_number_tokens_that_are_refused(token: str, reason: Reason) -> None:
    """attack 7: floats, exponents, -0, NaN, Infinity; attack 8: integers out of range."""
    for document, path in ((token, ""), (f'{{"a":[0,{token}]}}', "/a/1")):
        with pytest.raises(RemoteProtocolError) as caught:
            parse_json(document)
        assert (caught.value.reason, caught.value.path) == (reason, path)


@pytest.mark.parametrize(
    "token", ["01", "-01", "+1", ".5", "1.", "1e", "0x10", "1_000", "--1", "nan", "infinity", "٣", "１"]
)
@pytest.mark.parametrize("numbers", ["refuse", "normalise"])
def test_what_is_no_number_in_json(token: str, numbers: Any) -> None:
    """attack 7: tokens that some readers take."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_json(token, numbers=numbers)
    assert caught.value.reason is Reason.NOT_JSON


NORMALISED = {
    "-0": 0,
    "-0.0": 0,
    "0.0": 0,
    "0e5": 0,
    "-0e-5": 0,
    "1.0": 1,
    "1e3": 1000,
    "1E+3": 1000,
    "-1e3": -1000,
    "10e-1": 1,
    "1.5e1": 15,
    "1200e-2": 12,
    "9007199254740991.0": MAX_SAFE,
    "-9.007199254740991e15": -MAX_SAFE,
    "0e9999999999": 0,
}


@pytest.mark.parametrize(("token", "value"), NORMALISED.items())
def test_normalise_takes_what_stands_for_an_integer_in_range(token: str, value: int) -> None:
    """attack 7: the mode that follows the appendix's example."""
    parsed = parse_json(token, numbers="normalise")
    assert parsed == value
    assert type(parsed) is int
    assert encode_canonical_json(parsed) == str(value).encode()


NOT_NORMALISED = {
    "0.5": Reason.NOT_AN_INTEGER,
    "1e-3": Reason.NOT_AN_INTEGER,
    "1.0000000000000000000000001": Reason.NOT_AN_INTEGER,
    "9007199254740992.0": Reason.NOT_AN_INTEGER,
    "9007199254740991.5": Reason.NOT_AN_INTEGER,
    "1e16": Reason.NOT_AN_INTEGER,
    "1e400": Reason.NOT_AN_INTEGER,
    "1e9999999999": Reason.NOT_AN_INTEGER,
    "1e99999999999999999999": Reason.NOT_AN_INTEGER,
    "1e-400": Reason.NOT_AN_INTEGER,
    "1e-9999999": Reason.NOT_AN_INTEGER,
    "1e-99999999999999999999": Reason.NOT_AN_INTEGER,
    "1.00000000000000000001e-999999": Reason.NOT_AN_INTEGER,
    "NaN": Reason.NOT_AN_INTEGER,
    "Infinity": Reason.NOT_AN_INTEGER,
    "9007199254740992": Reason.INTEGER_OUT_OF_RANGE,
    "0." + "0" * 31: Reason.TOO_MANY_DIGITS,
}


@pytest.mark.parametrize(("token", "reason"), NOT_NORMALISED.items(), ids=[token[:32] for token in NOT_NORMALISED])
def test_normalise_never_rounds(token: str, reason: Reason) -> None:
    """attack 7: a number that is not an integer in range is refused in this mode too."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_json(token, numbers="normalise")
    assert caught.value.reason is reason


@modest
@given(st.integers(-(10**19), 10**19), st.integers(-12, 12))
def test_normalise_against_exact_fractions(digits: int, exponent: int) -> None:
    exact = Fraction(digits) * Fraction(10) ** exponent
    expected = int(exact) if exact.denominator == 1 and abs(exact) <= MAX_SAFE else None
    for token in (f"{digits}e{exponent}", f"{digits}.0E{exponent:+}"):
        try:
            assert parse_json(token, numbers="normalise") == expected
        except RemoteProtocolError:
            assert expected is None


FLOATS = [
    (0.0, 0),
    (-0.0, 0),
    (1.0, 1),
    (-3.0, -3),
    (1e10, 10**10),
    (float(MAX_SAFE), MAX_SAFE),
    (-float(MAX_SAFE), -MAX_SAFE),
]


@pytest.mark.parametrize(("value", "integer"), FLOATS)
def test_normalise_takes_floats_of_a_caller(value: float, integer: int) -> None:
    assert encode_canonical_json([value], numbers="normalise") == f"[{integer}]".encode()
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json([value])
    assert (caught.value.reason, caught.value.path) == (Reason.NOT_AN_INTEGER, "/0")


@pytest.mark.parametrize("value", [0.5, 1e16, 2.0**53, 1e300, 5e-324, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("numbers", ["refuse", "normalise"])
def test_other_floats_are_refused(value: float, numbers: Any) -> None:
    """attack 7: the encoder takes no float."""
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json({"a": value}, numbers=numbers)
    assert (caught.value.reason, caught.value.path) == (Reason.NOT_AN_INTEGER, "/a")


@pytest.mark.parametrize(
    "value",
    [2**53, -(2**53), 10**30, 10**39, 10**40, 10**5000, -(10**5000), 1 << 10**7],
    ids=lambda value: f"{value.bit_length()} bits",
)
def test_the_encoder_refuses_integers_out_of_range(value: int) -> None:
    """attack 8: also those too long to convert."""
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(["x", value])
    assert (caught.value.reason, caught.value.path) == (Reason.INTEGER_OUT_OF_RANGE, "/1")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("numbers", ["", "normalize", None, 1, [], "REFUSE"])
def test_an_unknown_mode_is_refused(numbers: Any) -> None:
    """attack 7: a misspelt mode is no mode."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_json("1", numbers=numbers)
    assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/numbers")
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(1, numbers=numbers)
    assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/numbers")


# -- attack 10: encodings --------------------------------------------------------------------------------------

NOT_UTF8 = {
    "a lone continuation byte": b'"\x80"',
    "a truncated character": b'"\xe2\x82"',
    "Latin-1": b'"\xe9"',
    "an overlong solidus": b'"\xc0\xaf"',
    "an overlong NUL": b'"\xc0\x80"',
    "CESU-8": b'"\xed\xa0\xbd\xed\xb8\x80"',
    "an encoded surrogate": b'"\xed\xa0\x80"',
    "beyond Unicode": b'"\xf4\x90\x80\x80"',
    "UTF-16 with byte order mark": '{"a":1}'.encode("utf-16"),
    "UTF-16 big-endian with byte order mark": b"\xfe\xff" + '{"a":1}'.encode("utf-16-be"),
    "UTF-32 with byte order mark": '{"a":1}'.encode("utf-32"),
    "0xff": b"\xff",
}


@pytest.mark.parametrize("document", NOT_UTF8.values(), ids=NOT_UTF8.keys())
def test_what_is_not_utf8_is_refused(document: bytes) -> None:
    """attack 10: overlong forms, CESU-8, UTF-16."""
    for data in (document, bytearray(document)):
        with pytest.raises(RemoteProtocolError) as caught:
            parse_json(data)  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.errcode) == (Reason.NOT_UTF8, "M_NOT_JSON")


NOT_JSON = {
    "nothing": "",
    "whitespace": " \n",
    "a byte order mark": "\ufeff{}",
    "only a byte order mark": "\ufeff",
    "UTF-16 without byte order mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-16 big-endian without byte order mark": '{"a":1}'.encode("utf-16-be"),
    "UTF-32 without byte order mark": '{"a":1}'.encode("utf-32-le"),
    "a NUL": "\x00",
    "a NUL after the end": "{}\x00",
    "a control character in a string": '"\x1f"',
    "a newline in a string": '"\n"',
    "a NUL in a string": '"\x00"',
    "an unknown escape": r'"\x41"',
    "a short escape": r'"\u12"',
    "single quotes": "{'a':1}",
    "no quotes": "{a:1}",
    "a trailing comma": "[1,]",
    "a trailing comma in an object": '{"a":1,}',
    "a comment": "[1/*x*/]",
    "two documents": "{} {}",
    "text after the end": "{}x",
    "a name that is a number": "{1:1}",
    "a capital constant": "True",
    "an unterminated string": '"abc',
    "an unterminated array": "[1",
    "brackets that do not match": "[1}",
    "a vertical tab": "\x0b1",
    "a no-break space": "\xa01",
    "an ideographic space": "\u30001",
}


def test_a_byte_order_mark_is_named() -> None:
    """attack 10: whoever sends one is told what is wrong."""
    for data in ("\ufeff{}", b"\xef\xbb\xbf{}"):
        with pytest.raises(RemoteProtocolError, match="byte order mark"):
            parse_json(data)


@pytest.mark.parametrize("document", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_what_is_not_json_is_refused(document: str | bytes) -> None:
    """attack 10: byte order marks and UTF-16 are not taken by guessing."""
    raw = document if isinstance(document, bytes) else document.encode()
    for data in (document, raw, bytearray(raw)):
        with pytest.raises(RemoteProtocolError) as caught:
            parse_json(data)  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.path) == (Reason.NOT_JSON, "")


LONE_SURROGATES = {
    "high": r"\ud800",
    "low": r"\udfff",
    "high at the end": r"a\udbff",
    "low before high": r"\ude00\ud83d",
    "two high": r"\ud83d\ud83d\ude00",
    "high, then text": r"\ud83dx",
}


@pytest.mark.parametrize("escape", LONE_SURROGATES.values(), ids=LONE_SURROGATES.keys())
def test_lone_surrogates_are_refused(escape: str) -> None:
    """attack 10: in values and in names, read or built, escaped or literal."""
    literal = json.loads(f'"{escape}"')
    cases: list[tuple[str, Any]] = [
        (f'["x","{escape}"]', ["x", literal]),
        (f'{{"a":{{"{escape}":1}}}}', {"a": {literal: 1}}),
        (f'["x","{literal}"]', ["x", literal]),
    ]
    for document, value in cases:
        with pytest.raises(RemoteProtocolError) as remote:
            parse_json(document)
        assert remote.value.reason is Reason.LONE_SURROGATE
        with pytest.raises(LocalProtocolError) as local:
            encode_canonical_json(value)
        assert local.value.reason is Reason.LONE_SURROGATE
        assert local.value.path == remote.value.path
        assert remote.value.path.startswith(("/1", "/a/"))
        str(remote.value).encode()  # can be shown


# -- attack 12: Python types -----------------------------------------------------------------------------------


class Number(enum.IntEnum):
    ONE = 1


class Name(enum.StrEnum):
    A = "a"


class Text(str):
    __slots__ = ()


class Integer(int):
    pass


class Mapping(dict):  # type: ignore[type-arg]
    pass


class Sequence(list):  # type: ignore[type-arg]
    pass


class Pair(NamedTuple):
    a: int


class Liar:
    """Claims to be what it is not."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return dict

    def items(self) -> list[tuple[str, int]]:
        return [("a", 1)]


FOREIGN = {
    "a tuple": (1,),
    "a named tuple": Pair(1),
    "a set": {1},
    "bytes": b"a",
    "a bytearray": bytearray(b"a"),
    "a Decimal": Decimal(1),
    "a Fraction": Fraction(1),
    "a complex number": 1j,
    "an IntEnum": Number.ONE,
    "a StrEnum": Name.A,
    "a str subclass": Text("a"),
    "an int subclass": Integer(1),
    "a dict subclass": Mapping(a=1),
    "a list subclass": Sequence([1]),
    "an OrderedDict": OrderedDict(a=1),
    "a UserDict": UserDict(a=1),
    "a generator": (x for x in ()),
    "a type": dict,
    "an object": object(),
    "an object that lies": Liar(),
    "an ellipsis": ...,
}


@pytest.mark.parametrize("value", FOREIGN.values(), ids=FOREIGN.keys())
def test_only_exact_types_are_encoded(value: Any) -> None:
    """attack 12: whatever has more than one plausible encoding is refused."""
    for place, path in ((value, ""), ([0, value], "/1"), ({"a": {"b/c": value}}, "/a/b~1c")):
        with pytest.raises(LocalProtocolError) as caught:
            encode_canonical_json(place)
        assert (caught.value.reason, caught.value.path) == (Reason.NOT_A_JSON_VALUE, path)


@pytest.mark.parametrize("name", [1, None, True, 1.5, b"a", ("a",), Text("a"), Name.A], ids=repr)
@pytest.mark.parametrize(
    "others", [{}, {"a": 1}, {"1": 2, "null": 3, "true": 4}, {"<int>": 1, "<NoneType>": 1, "<Text>": 1}]
)
@pytest.mark.parametrize("first", [True, False])
def test_names_that_are_not_strings_are_refused(name: Any, others: dict[Any, Any], first: bool) -> None:
    """attack 12: 1, None and True do not become names, whatever other names stand beside them."""
    value = {name: 0, **others} if first else {**others, name: 0}
    if name in others:  # a str subclass that equals another name
        return
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(value)
    assert caught.value.reason is Reason.NOT_A_JSON_VALUE


@pytest.mark.parametrize("kind", [bool, int, float, bytes, tuple, type(None)])
def test_no_other_name_hides_a_name_that_is_not_a_string(kind: type) -> None:
    """attack 12: a name in angle brackets is an ordinary name."""
    name = kind() if kind is not type(None) else None
    with pytest.raises(LocalProtocolError):
        encode_canonical_json({name: 1, f"<{kind.__name__} 0>": 2})


def test_booleans_are_not_integers() -> None:
    """attack 12: true stays true."""
    assert encode_canonical_json([True, False, 1, 0]) == b"[true,false,1,0]"
    assert [type(item) for item in parse_json("[true,false,1,0]")] == [bool, bool, int, int]


@pytest.mark.parametrize("data", [None, 1, ["{}"], {}, memoryview(b"{}"), 1.5, object()])
def test_json_is_read_from_bytes_or_text_only(data: Any) -> None:
    """attack 12: anything else is our caller's mistake."""
    with pytest.raises(LocalProtocolError) as caught:
        parse_json(data)
    assert caught.value.reason is Reason.WRONG_TYPE


# -- attack 9: depth -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["list", "dict"])
def test_depth_limits_of_the_encoder(of: str) -> None:
    """attack 9: 128 by default, counted alike in both directions."""
    good = nested(128, of=of)
    encoded = encode_canonical_json(good)
    assert parse_json(encoded) == good
    over = nested(129, of=of)
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(over)
    assert caught.value.reason is Reason.TOO_DEEP
    with pytest.raises(RemoteProtocolError) as remote:
        parse_json(specification_encoding(over))
    assert remote.value.reason is Reason.TOO_DEEP
    assert remote.value.path == caught.value.path == ("/0" if of == "list" else "/a") * 128


@pytest.mark.parametrize("max_depth", [1, 2, 5])
def test_other_depth_limits(max_depth: int) -> None:
    limits = JsonLimits(max_depth=max_depth)
    assert encode_canonical_json(nested(max_depth), limits=limits)
    assert parse_json("[" * max_depth + "]" * max_depth, limits=limits) == nested(max_depth - 1, core=[])
    with pytest.raises(LocalProtocolError):
        encode_canonical_json(nested(max_depth + 1), limits=limits)
    with pytest.raises(RemoteProtocolError):
        parse_json("[" * (max_depth + 1) + "]" * (max_depth + 1), limits=limits)


def test_an_endless_value_is_refused() -> None:
    """attack 9: a list that contains itself."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(endless)
    assert caught.value.reason is Reason.TOO_DEEP
    name: dict[str, Any] = {}
    name["a"] = {"b": name}
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(name)
    assert caught.value.reason is Reason.TOO_DEEP


@pytest.mark.parametrize("of", ["list", "dict"])
def test_a_value_of_a_million_levels_is_refused(of: str) -> None:
    """attack 9: without RecursionError."""
    bomb = nested(10**6, of=of)
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json(bomb)
    assert caught.value.reason is Reason.TOO_DEEP
    while bomb:  # taken apart here, since the interpreter would recurse
        bomb = bomb.pop() if of == "list" else bomb.popitem()[1]


@pytest.mark.parametrize("of", ["list", "dict"])
def test_near_the_recursion_limit(of: str) -> None:
    """attack 9: with any number of frames left there is a result or one of our errors."""
    value = nested(120, of=of)
    document = specification_encoding(value)
    outcomes = {outcome_near_the_limit(left, lambda: encode_canonical_json(value)) for left in range(40, 420)}
    assert document in outcomes
    assert outcomes <= {document, Reason.TOO_DEEP}
    parsed = {str(outcome_near_the_limit(left, lambda: parse_json(document))) for left in range(40, 420)}
    assert str(value) in parsed
    assert parsed <= {str(value), str(Reason.TOO_DEEP)}


def outcome_near_the_limit(left: int, call: Callable[[], Any]) -> Any:
    try:
        return with_frames_left(left, call)
    except E2EKeysError as error:
        return error.reason
    except (RecursionError, AssertionError) as error:
        return type(error).__name__  # without a traceback of a thousand frames


def test_a_full_stack_while_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """attack 9: the encoder may recurse where the copy did not."""

    def overflow(_value: object) -> bytes:
        raise RecursionError

    monkeypatch.setattr(canonicaljson, "encode_canonical_json", overflow)
    with pytest.raises(LocalProtocolError) as caught:
        encode_canonical_json({"a": 1})
    assert caught.value.reason is Reason.TOO_DEEP
    with pytest.raises(RemoteProtocolError) as remote:
        SignedJson.from_json({"a": 1})
    assert remote.value.reason is Reason.TOO_DEEP


def test_size_limits() -> None:
    limits = JsonLimits(max_bytes=8)
    assert encode_canonical_json("äää", limits=limits) == '"äää"'.encode()
    assert parse_json('"äää"', limits=limits) == "äää"
    with pytest.raises(LocalProtocolError) as local:
        encode_canonical_json("äääa", limits=limits)
    assert local.value.reason is Reason.TOO_LARGE
    for document in ('"äääa"', '"äääa"'.encode()):
        with pytest.raises(RemoteProtocolError) as remote:
            parse_json(document, limits=limits)
        assert (remote.value.reason, remote.value.errcode, remote.value.http_status) == (
            Reason.TOO_LARGE,
            "M_TOO_LARGE",
            413,
        )


# -- Properties ------------------------------------------------------------------------------------------------


@modest
@given(safe_values)
def test_parse_undoes_encode(value: Any) -> None:
    encoded = encode_canonical_json(value)
    assert parse_json(encoded) == value
    assert encoded == specification_encoding(value)
    assert encode_canonical_json(parse_json(encoded)) == encoded


@modest
@given(safe_values, st.booleans(), st.sampled_from([None, 2]))
def test_formatting_does_not_matter(value: Any, ascii_only: bool, indent: int | None) -> None:
    document = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert encode_canonical_json(parse_json(document)) == encode_canonical_json(value)
    assert encode_canonical_json(parse_json(document, numbers="normalise")) == encode_canonical_json(value)


@modest
@given(wild_values, st.sampled_from(["refuse", "normalise"]))
def test_any_value_is_encoded_or_refused_and_never_changed(value: Any, numbers: Any) -> None:
    """attack 12: only our errors, and the input stays as it was."""
    before = repr(value)
    try:
        encoded = encode_canonical_json(value, numbers=numbers)
    except LocalProtocolError as error:
        str(error).encode()
        error.path.encode()
    else:
        assert encode_canonical_json(parse_json(encoded)) == encoded
        if numbers == "refuse":
            assert parse_json(encoded) == value
    assert repr(value) == before


json_like = st.lists(
    st.sampled_from(
        [*'[]{}":,0123456789.-eE \\', "null", "true", '"a":', "\\u", "ud800", "\ufeff", "\ud800", "é", "NaN"]
    ),
    max_size=25,
).map("".join)


@modest
@given(json_like | st.text(st.characters(), max_size=30), st.sampled_from(["refuse", "normalise"]))
def test_any_text_is_parsed_or_refused(text: str, numbers: Any) -> None:
    try:
        value = parse_json(text, numbers=numbers)
    except RemoteProtocolError as error:
        str(error).encode()
    else:
        assert json.loads(text) == value
        assert parse_json(encode_canonical_json(value)) == value


@modest
@given(st.binary(max_size=40) | json_like.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except RemoteProtocolError:
        return
    assert json.loads(raw.decode()) == value


@modest
@given(safe_objects, st.data())
def test_the_encoding_tells_values_apart(value: dict[str, Any], data: st.DataObject) -> None:
    other = data.draw(safe_objects)
    same = json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)  # 1 == True in Python
    assert (encode_canonical_json(value) == encode_canonical_json(other)) is same


@modest
@given(safe_values)
def test_what_was_parsed_belongs_to_the_caller(value: Any) -> None:
    document = encode_canonical_json([value])
    first = parse_json(document)
    assert isinstance(first, list)
    first.append("changed")
    assert parse_json(document) == [value]


# -- Trees and batches -----------------------------------------------------------------------------------------

UNENCODABLE = {
    "a refused place": {"a": RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail="", value=1.5)},
    "a lone surrogate": {"a": "\ud800"},
    "a name with a lone surrogate": {"\ud800": 1},
    "a refused place in a list": {"a": [None, RefusedPlace(reason=Reason.TOO_DEEP, detail="", value=None)]},
}


@pytest.mark.parametrize("tree", UNENCODABLE.values(), ids=UNENCODABLE.keys())
def test_a_tree_with_a_refused_place_has_no_encoding(tree: Any) -> None:
    assert encode_tree(tree) is None
    good = {"b": 1}
    assert encode_objects([good, tree, good]) == [b'{"b":1}', None, b'{"b":1}']


TRICKY = [
    {},
    {"a": [1, None, 2]},
    {"a": [{}, None, {}]},
    {"a": [None, None, None, None]},
    {"a": ",null,"},
    {",null,": ",null,"},
    {"a": "},null,{"},
    {"a": None, "b": None},
    {"a": [[], None, []]},
    {"a": "é", "é": None},
    {"a": '"},null,{"'},
]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 11, 64, 127, 128, 129, 257])
def test_batches_of_objects_with_null_in_them(size: int) -> None:
    objects = [TRICKY[index % len(TRICKY)] for index in range(size)]
    assert encode_objects(objects) == [specification_encoding(value) for value in objects]


@pytest.mark.parametrize("plain", range(1, 70, 4))
def test_one_object_with_null_between_others(plain: int) -> None:
    objects: list[dict[str, Any]] = [{"n": number} for number in range(plain)]
    for value in TRICKY:
        mixed = [*objects, value, *objects]
        assert encode_objects(mixed) == [specification_encoding(item) for item in mixed]


wild_trees = st.dictionaries(
    st.text(st.characters(), max_size=3),
    st.recursive(
        st.none() | st.sampled_from([",null,", "\ud800", "},null,{", 1.5, 2**53, 1]) | st.integers(0, 9),
        lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from("ab"), children, max_size=2),
        max_leaves=6,
    ).map(snapshot),
    max_size=3,
)


@modest
@given(st.lists(wild_trees, max_size=6), st.integers(0, 70))
def test_encode_objects_is_encode_tree_one_by_one(trees: list[dict[str, Any]], padding: int) -> None:
    trees = [{"p": None}] * padding + trees
    assert encode_objects(trees) == [encode_tree(tree) for tree in trees]


@modest
@given(safe_objects)
def test_encoding_changes_no_tree(value: dict[str, Any]) -> None:
    before = copy.deepcopy(value)
    encode_objects([value, value])
    encode_tree(value)
    assert value == before
    assert encode_tree(parse_frame(encode_canonical_json(value))) == encode_canonical_json(value)
