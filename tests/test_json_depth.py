"""How deeply a JSON text is nested: exact for JSON, never too small for anything else, never recursive."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import modest, safe_values
from matrix_e2e_keys.errors import Reason, RemoteProtocolError
from matrix_e2e_keys.json_depth import CUT, MAX_FRAME_DEPTH, cut_deep_places, depth


def naive_depth(text: str) -> int:
    """Walk over the characters, one at a time."""
    deepest = level = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


EXACT = {
    "nothing": ("", 0),
    "a number": ("1", 0),
    "a string": ('"x"', 0),
    "an empty string": ('""', 0),
    "an empty array": ("[]", 1),
    "an empty object": ("{}", 1),
    "siblings": ("[[],[],[]]", 2),
    "both kinds": ('{"a":[{}]}', 3),
    "brackets in a string": ('["[[[{{{"]', 1),
    "closing brackets in a string": ('[["]]]]"]]', 2),
    "brackets in two strings": ('["[","]"]', 1),
    "brackets in a name": ('{"[[[":1}', 1),
    "an escaped quote before brackets": (r'["\"[[["]', 1),
    "escaped quotes on both sides of a bracket": (r'["\"[\""]', 1),
    "escaped quotes around many brackets": (r'["\"[[[\"", "\\\"{{{\""]', 1),
    "an escaped backslash at the end": (r'["\\",[]]', 2),
    "an escaped backslash, then brackets in a string": (r'["\\","[[["]', 1),
    "an escaped bracket": (r'["\u005b[[["]', 1),
    "six deep": ("[" * 6 + "]" * 6, 6),
    "a string inside brackets that would merge": ('["",[""],""]', 2),
    "a newline in a string": ('["\n[[["]', 1),
    "fifteen": ("[" * 15 + "]" * 15, 15),
    "sixteen": ("[" * 16 + "]" * 16, 16),
    "seventeen": ("[" * 17 + "]" * 17, 17),
    "seventeen with siblings": ("[[]," * 17 + "[]" + "]" * 17, 18),
    "the frame limit": ("[" * MAX_FRAME_DEPTH + "]" * MAX_FRAME_DEPTH, MAX_FRAME_DEPTH),
    "one over the frame limit": ("[" * (MAX_FRAME_DEPTH + 1) + "]" * (MAX_FRAME_DEPTH + 1), MAX_FRAME_DEPTH + 1),
}


@pytest.mark.parametrize(("text", "expected"), EXACT.values(), ids=EXACT.keys())
def test_depth_of_json(text: str, expected: int) -> None:
    assert naive_depth(text) == expected
    assert depth(text.encode()) == expected


NOT_JSON = {
    "an unterminated string": '["[[[',
    "an unterminated escape": '["\\',
    "a backslash outside a string": '[[\\"[[[[',
    "closing first": "]]][[[",
    "only closing": "]" * 40,
    "closing first, then more than sixteen": "]" * 3 + "[" * 20,
    "kinds that do not match": "[{]}[{",
    "three quotes": '"""[[[',
    "open only": "[" * 30,
}


@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON.keys())
def test_depth_of_what_is_not_json_is_never_too_small(text: str) -> None:
    assert depth(text.encode()) >= naive_depth(text)


@modest
@given(safe_values, st.booleans(), st.sampled_from([None, 1]))
def test_depth_is_exact_for_json(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps([value, '"[{\\', ["]}"]], ensure_ascii=ascii_only, indent=indent)
    assert depth(text.encode()) == naive_depth(text)


@modest
@given(st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", '""', '"["', '"]"', '"\\"', ",", "a", "\n"])))
def test_depth_of_soup_is_never_too_small(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert depth(text.encode()) >= naive_depth(text)


@modest
@given(st.lists(st.sampled_from(["[", '"[[["', '""', ",", r'"\"[\""', r'"\\"']), max_size=40), st.integers(0, 40))
def test_depth_of_balanced_soup_is_exact(pieces: list[str], extra: int) -> None:
    opened = "".join(pieces) + "[" * extra
    text = opened + "]" * naive_depth(opened)
    assert depth(text.encode()) == naive_depth(text)


@modest
@given(st.binary(max_size=200))
def test_depth_of_arbitrary_bytes_is_never_too_small(raw: bytes) -> None:
    assert depth(raw) >= naive_depth(raw.decode("latin-1"))


BOMBS = {
    "arrays": b"[" * 10**6,
    "objects": b'{"a":' * 10**6,
    "both kinds": b'[{"":' * 500_000,
    "closed": b"[" * 500_000 + b"]" * 500_000,
    "with siblings": b"[[]," * 250_000,
    "with escapes": b'["\\"",' * 150_000,
}


@pytest.mark.parametrize("raw", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_found_without_recursion(raw: bytes) -> None:
    """attack 9: a million opening brackets."""
    assert depth(raw) > MAX_FRAME_DEPTH


LINEAR = {
    "quotes": b'"' * 2_000_001,
    "escapes": b'"' + b"\\" * 2_000_001,
    "escaped quotes": b'\\"' * 1_000_001,
    "closing brackets": b"]" * 2_000_000,
    "alternating": b"[]" * 1_000_000,
    "outward": b"][" * 1_000_000,
}


@pytest.mark.parametrize("raw", LINEAR.values(), ids=LINEAR.keys())
def test_no_text_makes_the_search_slow(raw: bytes) -> None:
    """attack 9: time grows with the length only; anything quadratic would take minutes here."""
    start = time.perf_counter()
    depth(raw)
    assert time.perf_counter() - start < 10


# -- Cutting ---------------------------------------------------------------------------------------------------


CUTS = {
    "nothing to cut": ('{"a":[1]}', 2, '{"a":[1]}'),
    "an empty array": ("[[]]", 1, f"[{CUT}]"),
    "the whole": ("[[1]]", 0, CUT),
    "one of two": ('{"a":[[1]],"b":[2]}', 2, f'{{"a":[{CUT}],"b":[2]}}'),
    "two places": ("[[1],2,{}]", 1, f"[{CUT},2,{CUT}]"),
    "brackets in a string stay": ('["[[[[",[1]]', 1, f'["[[[[",{CUT}]'),
    "brackets in a string in the cut place": ('[["]]]]"],3]', 1, f"[{CUT},3]"),
    "an escaped quote in the cut place": (r'[["\"]"],3]', 1, f"[{CUT},3]"),
    "text after the end": ("[[1]] ", 1, f"[{CUT}] "),
}


@pytest.mark.parametrize(("text", "max_depth", "expected"), CUTS.values(), ids=CUTS.keys())
def test_cut(text: str, max_depth: int, expected: str) -> None:
    assert cut_deep_places(text, max_depth) == expected


def reference_cut(value: Any, room: int) -> Any:
    if isinstance(value, (dict, list)) and room == 0:
        return "cut!"
    if isinstance(value, dict):
        return {name: reference_cut(member, room - 1) for name, member in value.items()}
    return [reference_cut(item, room - 1) for item in value] if isinstance(value, list) else value


@modest
@given(safe_values, st.integers(0, 5), st.booleans())
def test_cut_against_a_reference(value: Any, max_depth: int, ascii_only: bool) -> None:
    document = [value, {'"[': [[['\\"]']]]}]
    text = json.dumps(document, ensure_ascii=ascii_only)
    cut = json.loads(cut_deep_places(text, max_depth), parse_float=lambda literal: {CUT: "cut!"}[literal])
    assert cut == reference_cut(document, max_depth)


@pytest.mark.parametrize("text", ["[" * 300, "[[[]", "[]]", '[["]]', "]" * 3])
def test_brackets_that_do_not_match_are_not_json(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        cut_deep_places(text, 2)
    assert caught.value.reason is Reason.NOT_JSON


@pytest.mark.parametrize("levels", [MAX_FRAME_DEPTH, MAX_FRAME_DEPTH + 1, MAX_FRAME_DEPTH + 2, 10**6])
@pytest.mark.parametrize("closed", [True, False])
def test_a_frame_beyond_the_frame_limit_is_refused(levels: int, closed: bool) -> None:
    """attack 9: beyond the frame limit the document itself is at fault."""
    text = "[" * levels + "]" * levels * closed
    if levels <= MAX_FRAME_DEPTH and closed:
        assert cut_deep_places(text, 5) == "[" * 5 + CUT + "]" * 5
        return
    with pytest.raises(RemoteProtocolError) as caught:
        cut_deep_places(text, 5)
    assert caught.value.reason is (Reason.TOO_DEEP if levels > MAX_FRAME_DEPTH else Reason.NOT_JSON)


def test_a_text_of_unterminated_strings_is_cut_in_linear_time() -> None:
    """attack 9: no quote makes the search start over."""
    start = time.perf_counter()
    cut_deep_places('"' + '\\"' * 1_000_000, 2)
    cut_deep_places('""' * 200_000, 2)
    assert time.perf_counter() - start < 10
