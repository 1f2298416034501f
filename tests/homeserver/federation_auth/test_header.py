"""The header of the scheme X-Matrix: what may stand in one, what it means, and what it costs."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matrix_e2e_keys import E2EKeysError, LocalProtocolError, Reason, RemoteProtocolError
from matrix_e2e_keys.homeserver.federation_auth.header import XMatrixHeader, is_x_matrix, parse_authorization
from matrix_e2e_keys.testing.strategies import json_like_values

NEEDED = 'origin="a.example",key="ed25519:1",sig="abc"'
PLAIN = XMatrixHeader(origin="a.example", key_id="ed25519:1", signature="abc")

TCHARS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
VALUES = st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"]) | st.just("\t"), max_size=20)
NAMES = st.text(st.sampled_from(TCHARS), min_size=1, max_size=6).filter(
    lambda name: name not in ("origin", "destination", "key", "sig", "signature")
)


class TestReading:
    @pytest.mark.parametrize(
        "header",
        [
            f"X-Matrix {NEEDED}",
            f"x-mATRIX {NEEDED}",
            f"X-Matrix    {NEEDED}",
            f" \tX-Matrix {NEEDED} \t",
            'X-Matrix sig="abc",key="ed25519:1",origin="a.example"',
            'X-Matrix ORIGIN="a.example",Key="ed25519:1",sIG="abc"',
            "X-Matrix origin=a.example,key=ed25519:1,sig=abc",
            'X-Matrix origin = "a.example" , key\t=\t"ed25519:1"\t,\tsig="abc"',
            f"X-Matrix ,, ,\t{NEEDED}, ,,",
            'X-Matrix origin="\\a\\.example",key="ed25519\\:1",sig="\\abc"',
            'X-Matrix origin="a.example",key="ed25519:1",signature="abc"',
            'X-Matrix origin="a.example",key="ed25519:1",signature="abc",sig="abc"',
        ],
    )
    def test_however_it_is_written_it_means_the_same(self, header: str) -> None:
        assert parse_authorization(header) == PLAIN
        assert parse_authorization(header.encode()) == PLAIN
        assert is_x_matrix(header)

    @pytest.mark.parametrize(
        ("written", "value"),
        [
            ('"s,ig"', "s,ig"),
            ('"a\\"b"', 'a"b'),
            ('"a\\\\"', "a\\"),
            ('"\\\\,key="', "\\,key="),
            ('""', ""),
            ('" a\tb "', " a\tb "),
            ('"\xe9\\\xe9"', "\xe9\xe9"),
            ("a:b:c", "a:b:c"),
            (":", ":"),
            (TCHARS, TCHARS),
        ],
    )
    def test_a_value_is_cut_and_unescaped_as_in_rfc_9110(self, written: str, value: str) -> None:
        header = parse_authorization(f'X-Matrix origin="a.example",key="ed25519:1",sig={written}')
        assert header.signature == value

    def test_a_destination_is_there_or_not(self) -> None:
        assert PLAIN.destination is None
        assert parse_authorization(f'X-Matrix {NEEDED},destination="b.example:1"').destination == "b.example:1"
        assert parse_authorization(f'X-Matrix {NEEDED},destination=""').destination == ""

    def test_what_nobody_knows_is_kept_and_changes_nothing(self) -> None:
        header = parse_authorization(f'X-Matrix More="\\",origin=",{NEEDED},x=y')
        assert header == XMatrixHeader(
            origin="a.example", key_id="ed25519:1", signature="abc", extra={"more": '",origin=', "x": "y"}
        )

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("", Reason.INVALID_VALUE),
            ("Bearer abc", Reason.INVALID_VALUE),
            (f"X-Matrixx {NEEDED}", Reason.INVALID_VALUE),
            (f"XX-Matrix {NEEDED}", Reason.INVALID_VALUE),
            (f"X-Matr\u0131x {NEEDED}", Reason.INVALID_VALUE),
            ("X-Matrix", Reason.MISSING_PARAMETER),
            ("X-Matrix ", Reason.MISSING_PARAMETER),
            ("X-Matrix  , ,", Reason.MISSING_PARAMETER),
            (f"X-Matrix\t{NEEDED}", Reason.INVALID_VALUE),
            (f"X-Matrix,{NEEDED}", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED};", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED} more=x", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},more", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},more=", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},=more", Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\\"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\\', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more=x"y"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x"y', Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},more=x/y", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},more=[::1]", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},mo:re=x", Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\ny"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\x00y"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\\\ny"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\\\x00y"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\\\u0100y"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="x\x7fy"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="\u0100"', Reason.INVALID_VALUE),
            (f'X-Matrix {NEEDED},more="\udc80"', Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED}\n", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED}, X-Matrix {NEEDED}", Reason.INVALID_VALUE),
            (f"X-Matrix {NEEDED},{NEEDED}", Reason.REPEATED_PARAMETER),
            (f'X-Matrix {NEEDED},ORIGIN="a.example"', Reason.REPEATED_PARAMETER),
            (f"X-Matrix {NEEDED},more=1,more=1", Reason.REPEATED_PARAMETER),
            (f"X-Matrix {NEEDED},signature=abd", Reason.REPEATED_PARAMETER),
            (f"X-Matrix {NEEDED},signature=abc,signature=abc", Reason.REPEATED_PARAMETER),
            ('X-Matrix key="ed25519:1",sig="abc"', Reason.MISSING_PARAMETER),
            ('X-Matrix origin="a.example",sig="abc"', Reason.MISSING_PARAMETER),
            ('X-Matrix origin="a.example",key="ed25519:1"', Reason.MISSING_PARAMETER),
        ],
    )
    def test_what_is_not_one_header_of_the_scheme_is_refused(self, header: str, reason: Reason) -> None:
        with pytest.raises(RemoteProtocolError) as refused:
            parse_authorization(header)
        assert refused.value.reason is reason

    def test_a_refusal_says_from_where_on_it_is_malformed(self) -> None:
        with pytest.raises(RemoteProtocolError, match="malformed from character 8 on"):
            parse_authorization(f"X-Matrix\t{NEEDED}")
        with pytest.raises(RemoteProtocolError, match="malformed from character 14 on"):
            parse_authorization("X-Matrix a=b, c d")

    @pytest.mark.parametrize("header", [None, 7, ["X-Matrix"], bytearray(b"X-Matrix")])
    def test_what_is_no_text_is_the_callers_mistake(self, header: Any) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            parse_authorization(header)
        assert (refused.value.reason, refused.value.path) == (Reason.WRONG_TYPE, "/header")

    @pytest.mark.parametrize("header", ["X-Matrixx a=b", "X-Matri", "Bearer X-Matrix", "", "X Matrix"])
    def test_other_schemes_are_told_apart(self, header: str) -> None:
        assert not is_x_matrix(header)

    @given(st.text(max_size=60) | st.text(st.sampled_from('xX-MatrixORIGIN=",\\ \t:key'), max_size=60))
    @example('X-Matrix origin="')
    def test_of_any_text_nothing_but_a_refusal_comes(self, text: str) -> None:
        for header in (text, f"X-Matrix {text}", f"X-Matrix {NEEDED},{text}"):
            with contextlib.suppress(RemoteProtocolError):
                assert parse_authorization(header) == parse_authorization(parse_authorization(header).to_header())


class TestSize:
    def test_the_longest_header_has_8192_characters(self) -> None:
        start = f"X-Matrix {NEEDED},more="
        longest = start + "x" * (8192 - len(start))
        assert parse_authorization(longest).extra["more"].startswith("xxx")
        with pytest.raises(RemoteProtocolError) as refused:
            parse_authorization(longest + "x")
        assert refused.value.reason is Reason.TOO_LARGE

    def test_a_header_that_nobody_would_read_is_not_written(self) -> None:
        room = 8192 - len(PLAIN.to_header())
        longest = XMatrixHeader(origin="a.example", key_id="ed25519:1", signature="abc" + "d" * room)
        assert len(longest.to_header()) == 8192
        with pytest.raises(LocalProtocolError) as refused:
            XMatrixHeader(origin="a.example", key_id="ed25519:1", signature="abc" + "d" * (room + 1)).to_header()
        assert refused.value.reason is Reason.TOO_LARGE

    @pytest.mark.parametrize("piece", ['"', "\\", ",", "=", " ", "\t", "a", 'a="', 'a="\\', '\\"', ", ", "a ", "a=b,"])
    def test_hostile_text_costs_no_more_than_its_length(self, piece: str) -> None:
        """A header of 1 MB is refused for its length; one that is just short enough is read once, from left to right."""
        started = time.perf_counter()
        for start in ("X-Matrix ", 'X-Matrix a="', "X-Matrix", ""):
            for size in (8_000, 1_000_000):
                with pytest.raises(RemoteProtocolError):
                    parse_authorization(start + piece * (size // len(piece)))
        assert time.perf_counter() - started < 1


class TestWriting:
    def test_every_value_is_quoted_and_names_are_in_lower_case(self) -> None:
        header = XMatrixHeader(origin="a", destination="b:2", key_id="ed25519:1", signature="s", extra={"x": "y z"})
        assert header.to_header() == 'X-Matrix origin="a",destination="b:2",key="ed25519:1",sig="s",x="y z"'
        assert PLAIN.to_header() == f"X-Matrix {NEEDED}"

    def test_a_backslash_is_only_where_there_is_no_other_way(self) -> None:
        header = XMatrixHeader(origin='a"b\\c,=', key_id="", signature="")
        assert header.to_header() == 'X-Matrix origin="a\\"b\\\\c,=",key="",sig=""'

    @given(
        st.builds(
            XMatrixHeader,
            origin=VALUES,
            key_id=VALUES,
            signature=VALUES,
            destination=st.none() | VALUES,
            extra=st.dictionaries(NAMES, VALUES, max_size=4),
        )
    )
    def test_what_is_written_is_read_again(self, header: XMatrixHeader) -> None:
        assert parse_authorization(header.to_header()) == header
        assert parse_authorization(header.to_header().encode("latin-1")) == header

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"origin": "a\nb"}, Reason.INVALID_VALUE, "/origin"),
            ({"origin": None}, Reason.WRONG_TYPE, "/origin"),
            ({"key_id": "\x7f"}, Reason.INVALID_VALUE, "/key_id"),
            ({"signature": "\u0100"}, Reason.INVALID_VALUE, "/signature"),
            ({"signature": "\udc80"}, Reason.INVALID_VALUE, "/signature"),
            ({"destination": "\r"}, Reason.INVALID_VALUE, "/destination"),
            ({"destination": 7}, Reason.WRONG_TYPE, "/destination"),
            ({"extra": {"sig": "x"}}, Reason.INVALID_VALUE, "/extra/sig"),
            ({"extra": {"signature": "x"}}, Reason.INVALID_VALUE, "/extra/signature"),
            ({"extra": {"More": "x"}}, Reason.INVALID_VALUE, "/extra/More"),
            ({"extra": {"": "x"}}, Reason.INVALID_VALUE, "/extra/"),
            ({"extra": {"a b": "x"}}, Reason.INVALID_VALUE, "/extra/a b"),
            ({"extra": {"more": "\n"}}, Reason.INVALID_VALUE, "/extra/more"),
            ({"extra": {"more": 7}}, Reason.WRONG_TYPE, "/extra/more"),
            ({"extra": {7: "x"}}, Reason.WRONG_TYPE, "/extra"),
            ({"extra": 7}, Reason.WRONG_TYPE, "/extra"),
        ],
    )
    def test_what_cannot_stand_in_a_header_is_refused(self, change: Any, reason: Reason, path: str) -> None:
        parts: dict[str, Any] = {"origin": "a", "key_id": "b", "signature": "c", **change}
        with pytest.raises(LocalProtocolError) as refused:
            XMatrixHeader(**parts)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    def test_the_caller_cannot_change_what_was_given(self) -> None:
        extra = {"x": "y"}
        header = XMatrixHeader(origin="a", key_id="b", signature="c", extra=extra)
        extra["x"] = "z"
        assert header.extra == {"x": "y"}

    @given(json_like_values(), json_like_values())
    def test_of_any_values_nothing_but_a_refusal_comes(self, one: Any, other: Any) -> None:
        with contextlib.suppress(E2EKeysError):
            XMatrixHeader(origin=one, key_id="b", signature="c", destination=other)
        with contextlib.suppress(E2EKeysError):
            XMatrixHeader(origin="a", key_id=one, signature=other, extra=one)
