"""A document piece by piece is the document: the same tree, or NotPlain and then the same tree or error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import E2EKeysError, JsonLimits, KeysQueryResponse
from matrix_e2e_keys.json_frames import parse_frame
from matrix_e2e_keys.json_pieces import NotPlain, Piece, parse_pieces, pieces_of
from matrix_e2e_keys.json_trees import DEFAULT_LIMITS, RefusedPlace
from matrix_e2e_keys.testing.strategies import canonical_json_values, keys_query_answers


def assembled(pieces: list[Piece]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for member, name, tree in pieces:
        if name is None:
            assert member not in whole
            whole[member] = tree
        else:
            assert name not in whole[member]
            whole[member][name] = tree
    return whole


def pieces(text: str | bytes) -> list[Piece]:
    return list(parse_pieces(text, limits=DEFAULT_LIMITS))


SPACED = ['{ "a" : { "b" : 1 , "c" : [ ] } , "d" : null }', ' {"a":\t{}\r\n}\n', "{\n\n}", '{"a":{"b":{"b":1}}}']


@pytest.mark.parametrize("text", [*SPACED, '{"a":1}', '{"":{"":0}}', '{"a":"{}"}', '{"a":"\\"","b":{"\\u0061":1}}'])
def test_plain_documents(text: str) -> None:
    assert assembled(pieces(text)) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "5",
        '"a"',
        "null",
        "{",
        "}",
        "{}}",
        "{} {}",
        '{"a"}',
        '{"a":}',
        '{"a":1,}',
        '{,"a":1}',
        '{"a":1 "b":2}',
        '{"a" 1}',
        "{1:2}",
        "{null:2}",
        '{"a":{"b":1}',
        '{"a":{"b":1,}}',
        '{"a":{"b" 1}}',
        '{"a":{1:1}}',
        '{"a":tru}',
        '{"a":1,"a":2}',
        '{"a":1,"\\u0061":2}',
        '{"a":{"b":1,"b":1}}',
        '{"a":1}\x00',
        '{"a":1}\u00a0',
        '{"a":\u00a01}',
        "{[]:1}",
        "{NaN:1}",
    ],
)
def test_documents_that_have_to_be_read_as_a_whole(text: str) -> None:
    with pytest.raises(NotPlain):
        pieces(text)


def test_marks_are_left_below_the_two_levels() -> None:
    whole = assembled(pieces('{"a": {"b": {"c": 1, "c": 2}, "d": 1.5}, "e": NaN}'))
    assert type(whole["a"]["b"]["c"]) is RefusedPlace
    assert type(whole["a"]["d"]) is RefusedPlace
    assert type(whole["e"]) is RefusedPlace


@pytest.mark.parametrize("text", [b"", b"\xff", b"\xef\xbb\xbf{}", b"[" * 2000, b'{"a": 1}' + b" " * 100])
def test_documents_refused_before_they_are_read(text: bytes) -> None:
    limits = JsonLimits(max_bytes=3000 if text.startswith(b"[") else 50)
    with pytest.raises(E2EKeysError) as whole:
        parse_frame(text, limits=limits)
    with pytest.raises(E2EKeysError) as piecewise:
        list(parse_pieces(text, limits=limits))
    assert str(piecewise.value) == str(whole.value)


def test_a_tree_is_taken_apart_and_emptied() -> None:
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": [3], "f": {}}
    copy = json.loads(json.dumps(tree))
    assert assembled(list(pieces_of(tree))) == copy
    assert tree == {}


@given(st.dictionaries(st.text(max_size=3), canonical_json_values()), st.booleans(), st.sampled_from([None, 1]))
def test_any_object(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    if not ascii_only:
        text = text.encode("utf-8", "replace").decode()
    assert assembled(pieces(text)) == parse_frame(text) == assembled(list(pieces_of(parse_frame(text))))


@given(st.text(alphabet='{}[]",:\\ \n0-1.ea\u00a0', max_size=30))
def test_json_soup(soup: str) -> None:
    """Either way of reading ends alike."""
    for text in (soup, f'{{"a":{soup}}}', f'{{"a":{{"b":{soup}}}}}', f'{{"a":{{"b":1}},"c":{soup}}}'):
        try:
            whole = parse_frame(text)
        except E2EKeysError as error:
            whole = type(error)
        try:
            piecewise: Any = assembled(pieces(text))
        except NotPlain:
            continue
        except E2EKeysError as error:
            piecewise = type(error)
        assert repr(piecewise) == repr(whole)


@given(keys_query_answers(), st.randoms(use_true_random=False))
def test_damaged_answers_are_read_alike(body: dict[str, Any], random: Any) -> None:
    """One byte of an answer is lost, doubled or replaced; both ways of reading give the same response or error."""
    text = bytearray(json.dumps(body).encode())
    for _ in range(8):
        damaged = bytearray(text)
        place = random.randrange(len(damaged))
        damaged[place : place + 1] = random.choice([b"", b'"', b"{", b"}", b",", b":", b"1.5", b"\\", b"\xff", b" "])
        assert read_one_way(bytes(damaged)) == read_the_other_way(bytes(damaged))


def read_one_way(body: bytes) -> Any:
    try:
        return repr(KeysQueryResponse.from_bytes(body))
    except E2EKeysError as error:
        return repr(error)


def read_the_other_way(body: bytes) -> Any:
    try:
        return repr(KeysQueryResponse._read_tree(parse_frame(body)))
    except E2EKeysError as error:
        return repr(error)
