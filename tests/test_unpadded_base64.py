"""Unpadded base64: one text for each value, except that correct padding is tolerated."""

from __future__ import annotations

import base64
import string

import pytest
import unpaddedbase64
from hypothesis import given
from hypothesis import strategies as st

from json_strategies import any_text, modest
from matrix_e2e_keys.unpadded_base64 import decode, decode_fixed, decode_loosely, decode_seed, encode

ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

EXAMPLES = {
    b"": "",
    b"f": "Zg",
    b"fo": "Zm8",
    b"foo": "Zm9v",
    b"foob": "Zm9vYg",
    b"fooba": "Zm9vYmE",
    b"foobar": "Zm9vYmFy",
}

SAMPLES = {f"{size} bytes": bytes(range(100, 100 + size)) for size in (0, 1, 2, 3, 4, 5, 6, 32, 64)}


@pytest.mark.parametrize(("raw", "text"), EXAMPLES.items())
def test_the_examples_of_the_specification(raw: bytes, text: str) -> None:
    assert encode(raw) == text
    assert decode(text) == raw


@modest
@given(st.binary(max_size=100))
def test_decoding_undoes_encoding_with_and_without_padding(raw: bytes) -> None:
    assert decode(encode(raw)) == raw
    assert decode(base64.b64encode(raw).decode()) == raw
    assert encode(raw) == base64.b64encode(raw).decode().rstrip("=")


def assert_refused_or_identical(text: str, original: str, raw: bytes) -> None:
    """Whatever decodes is the one text of its value, perhaps with correct padding."""
    decoded = decode(text)
    if decoded is None:
        return
    padded = base64.b64encode(decoded).decode()
    assert text in (padded, padded.rstrip("="))
    if text.rstrip("=") != original:
        assert decoded != raw


FOREIGN = "-_=.,!~ \t\n\r\x0b\x0c\x00\x7f\x80\xa0©\u0391\u2028\ufeff\uff21🙂\ud800" + '"\\'


@pytest.mark.parametrize("raw", SAMPLES.values(), ids=SAMPLES.keys())
def test_every_single_change_is_refused_or_means_something_else(raw: bytes) -> None:
    """attack 1: all substitutions, insertions and deletions of one character."""
    original = encode(raw)
    for place in range(len(original) + 1):
        for character in ALPHABET + FOREIGN:
            assert_refused_or_identical(original[:place] + character + original[place:], original, raw)
            if place < len(original) and character != original[place]:
                changed = original[:place] + character + original[place + 1 :]
                assert_refused_or_identical(changed, original, raw)
                if character in FOREIGN and character != "=":
                    assert decode(changed) is None
        if place < len(original):
            assert_refused_or_identical(original[:place] + original[place + 1 :], original, raw)


@pytest.mark.parametrize("raw", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("foreign", [*FOREIGN.replace("=", ""), "!!!!", "\x00" * 4, "\r\n", "--__", "    "])
def test_foreign_characters_are_refused_anywhere(raw: bytes, foreign: str) -> None:
    """attack 1: a lenient decoder skips them, so that many texts stand for one value."""
    original = encode(raw)
    for place in range(len(original) + 1):
        assert decode(original[:place] + foreign + original[place:]) is None


@pytest.mark.parametrize("size", [1, 2, 4, 5, 31, 32, 64])
def test_spare_bits_are_refused(size: int) -> None:
    """attack 1: the 3 or 15 other last characters that stand for the same bytes."""
    original = encode(bytes(range(size)))
    spare_bits = 4 if size % 3 == 1 else 2
    last = ALPHABET.index(original[-1])
    assert last % (1 << spare_bits) == 0
    for bits in range(1, 1 << spare_bits):
        variant = original[:-1] + ALPHABET[last + bits]
        assert unpaddedbase64.decode_base64(variant) == bytes(range(size))  # what makes this an attack
        assert decode(variant) is None
        assert decode(variant + "=" * (-len(variant) % 4)) is None
        assert decode_fixed([variant], size) == [None]


MALFORMED = {
    "padding where none belongs": "Zm9v=",
    "padding where none belongs, twice": "Zm9v==",
    "a whole block of padding": "Zm9v====",
    "too little padding": "Zg=",
    "too much padding": "Zg===",
    "too much padding for two": "Zm8==",
    "only padding": "=",
    "only padding, twice": "==",
    "only padding, a block": "====",
    "data after padding": "YQ==YQ==",
    "data after padding without more": "YQ==YQ",
    "padding in front": "==YQ",
    "padding in the middle": "Y=Q",
    "one character": "Z",
    "five characters": "Zm9vY",
    "one character and padding": "Z===",
    "url-safe minus": "-___",
    "url-safe underscore": "_w",
    "mixed alphabets": "+/-_",
    "a newline at the end": "Zm9v\n",
    "a carriage return and newline": "Zm9v\r\n",
    "a space in front": " Zm9v",
    "four bangs in front": "!!!!Zm9v",
    "four NULs": "\x00\x00\x00\x00Zm9v",
    "letters that are not ASCII": "ＺｍｇＶ",
    "digits that are not ASCII": "Zm9\u0669",
    "a lone surrogate": "Zm9\ud800",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_texts_are_refused(text: str) -> None:
    """attack 1: padding, whitespace, alphabets, NUL."""
    assert decode(text) is None
    assert decode_fixed([text], 3) == [None]
    assert decode_fixed([text], 1) == [None]


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [None, 1, True, b"Zm9v", bytearray(b"Zm9v"), ["Zm9v"], {"Zm9v": 1}, 1.5, Text("Zm9v")]
)
def test_what_is_not_a_string_is_not_base64(value: object) -> None:
    """attack 12: neither bytes nor a subclass of str."""
    assert decode(value) is None
    assert decode_seed(value) is None  # type: ignore[arg-type]


def test_a_length_is_that_of_the_bytes() -> None:
    """attack 20: the padded text of 32 bytes has 44 characters, and so has the unpadded one of 33."""
    assert decode_fixed([encode(bytes(32)), encode(bytes(32)) + "=", encode(bytes(33))], 32) == [
        bytes(32),
        bytes(32),
        None,
    ]


# -- Many at once ----------------------------------------------------------------------------------------------


def one_by_one(texts: list[object], size: int) -> list[bytes | None]:
    decoded = [decode(text) for text in texts]
    return [raw if raw is not None and len(raw) == size else None for raw in decoded]


@pytest.mark.parametrize("size", [1, 2, 3, 31, 32, 33, 64])
def test_decode_fixed_takes_a_good_batch(size: int) -> None:
    raws = [bytes([number % 256] * size) for number in range(600)]
    assert decode_fixed([encode(raw) for raw in raws], size) == raws


@pytest.mark.parametrize("size", [1, 2, 3, 32, 64])
@pytest.mark.parametrize("place", [0, 1, 299])
def test_one_bad_text_costs_only_itself(size: int, place: int) -> None:
    """attack 1: in a batch, the spare bits and characters of each text count."""
    good = bytes([255] * size)
    text = encode(good)
    bad: list[object] = [
        text[:-1],
        text + "A",
        text + "\n",
        "!" * len(text),
        "-" * len(text),
        None,
        1,
        b"x",
        "",
        text + "====",
    ]
    if size % 3:
        bad.append(text[:-1] + ALPHABET[ALPHABET.index(text[-1]) + 1])
    for other in bad:
        texts: list[object] = [text] * 300
        texts[place] = other
        decoded = decode_fixed(texts, size)
        assert decoded == one_by_one(texts, size)
        assert decoded[place] is None
        assert decoded.count(good) == 299


def test_two_wrong_lengths_that_add_up_are_both_refused() -> None:
    """attack 1: characters cannot move from one text to its neighbor."""
    text = encode(bytes(32))
    assert decode_fixed([text[:-1], text + "A"], 32) == [None, None]
    assert decode_fixed([text + "A", text[:-1], text], 32) == [None, None, bytes(32)]


base64_like = st.text(ALPHABET + "=-_ \n", max_size=12) | st.binary(max_size=5).map(encode) | any_text


@modest
@given(st.lists(base64_like | st.none() | st.integers() | st.binary(max_size=3), max_size=8), st.integers(1, 5))
def test_decode_fixed_is_decode_one_by_one(texts: list[object], size: int) -> None:
    assert decode_fixed(texts, size) == one_by_one(texts, size)


@modest
@given(st.integers(1, 4), st.data())
def test_decode_fixed_is_decode_one_by_one_for_the_right_length(size: int, data: st.DataObject) -> None:
    length = (size * 4 + 2) // 3
    texts: list[object] = list(data.draw(st.lists(st.text("ABQgw/", min_size=length, max_size=length), max_size=6)))
    assert decode_fixed(texts, size) == one_by_one(texts, size)


def test_decode_fixed_of_nothing() -> None:
    assert decode_fixed([], 32) == []


# -- Lenient readings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 32])
def test_a_seed_may_have_spare_bits(size: int) -> None:
    text = encode(bytes(range(size)))
    assert decode_seed(text) == bytes(range(size))
    assert decode_seed(text + "=" * (-len(text) % 4)) == bytes(range(size))
    if size % 3:
        assert decode_seed(text[:-1] + ALPHABET[ALPHABET.index(text[-1]) + 1]) == bytes(range(size))


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_seed_is_otherwise_read_as_strictly(text: str) -> None:
    """attack 1: only the spare bits are forgiven, as decode_seed says."""
    assert decode_seed(text) is None


LOOSE = {
    "plain": ("Zm9v", b"foo"),
    "spare bits": ("Zh", b"f"),
    "padding": ("Zg==", b"f"),
    "url-safe": ("-_", b"\xfb"),
    "junk": ("Zm!!!!9v", b"foo"),
    "nothing": ("", b""),
    "impossible length": ("Z", None),
    "padding in the middle": ("Zg==Zg", b"f\x06`"),
    "space and line end": ("Z m9\nv", b"foo"),
    "not ASCII": ("Zm9v\u0669", b"foo"),
    "a lone surrogate": ("\ud800", b""),
}


@pytest.mark.parametrize(("text", "expected"), LOOSE.values(), ids=LOOSE.keys())
def test_a_loose_reading(text: str, expected: bytes | None) -> None:
    assert decode_loosely(text) == expected


@modest
@given(base64_like)
def test_a_loose_reading_agrees_with_the_strict_one_and_never_fails(text: str) -> None:
    loose, strict = decode_loosely(text), decode(text)
    assert strict is None or loose == strict
