"""Members that several contents have."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from attrs import frozen

from events.odd_values import ODD, only_own_errors, refusal
from matrix_e2e_keys.errors import LocalProtocolError, Reason, Refusal, RemoteProtocolError
from matrix_e2e_keys.events.contents import EventContent, Member, Record, some_string
from matrix_e2e_keys.events.shared_members import (
    MEGOLM_ALGORITHM,
    bytes_member,
    enum_member,
    plain_text,
    record_member,
    several,
)

R = Reason


class Color(enum.StrEnum):
    RED = "m.red"
    BLUE = "blue"


@frozen(kw_only=True)
class Inner(Record):
    members: ClassVar[Mapping[str, Member]] = {"name": Member(some_string)}

    name: str


@frozen(kw_only=True)
class Sample(EventContent):
    event_type: ClassVar[str] = "org.example.sample"
    members: ClassVar[Mapping[str, Member]] = {
        "algorithm": MEGOLM_ALGORITHM,
        "color": enum_member(Color),
        "inner": record_member(Inner),
        "maybe": record_member(Inner, is_required=False),
        "raw": bytes_member(3),
    }

    algorithm: str = "m.megolm.v1.aes-sha2"
    color: Color
    inner: Inner
    maybe: Inner | None = None
    raw: bytes


FULL: dict[str, Any] = {
    "algorithm": "m.megolm.v1.aes-sha2",
    "color": "m.red",
    "inner": {"name": "x", "y": 1.5},
    "maybe": {"name": "z"},
    "raw": "AAEC",
}


def test_comes_back() -> None:
    content = Sample.from_json(FULL)
    assert content == Sample(
        color=Color.RED, inner=Inner(name="x", extra={"y": 1.5}), maybe=Inner(name="z"), raw=b"\0\1\2"
    )
    assert content.to_json() == FULL
    assert type(content.to_json()["color"]) is str


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"algorithm": "M.megolm.v1.aes-sha2"}, ("/algorithm", R.UNSUPPORTED_ALGORITHM)),
        ({"algorithm": "x", "color": 1, "inner": None}, ("/algorithm", R.UNSUPPORTED_ALGORITHM)),
        ({"algorithm": None}, ("/algorithm", R.WRONG_TYPE)),
        ({"algorithm": ""}, ("/algorithm", R.INVALID_VALUE)),
        ({"color": "RED"}, ("/color", R.INVALID_VALUE)),
        ({"color": "red"}, ("/color", R.INVALID_VALUE)),
        ({"color": 1}, ("/color", R.WRONG_TYPE)),
        ({"inner": None}, ("/inner", R.WRONG_TYPE)),
        ({"inner": {}}, ("/inner", R.MISSING_MEMBER)),
        ({"inner": {"name": 1}}, ("/inner/name", R.WRONG_TYPE)),
        ({"maybe": {"name": ""}}, ("/maybe/name", R.INVALID_VALUE)),
        ({"maybe": {"name": "x", "y": {"z": float("nan")}}}, ("/maybe/y/z", R.NOT_AN_INTEGER)),
        ({"raw": "AAECAw"}, ("/raw", R.WRONG_LENGTH)),
        ({"raw": "AA-C"}, ("/raw", R.INVALID_BASE64)),
        ({"raw": 1}, ("/raw", R.WRONG_TYPE)),
    ],
)
def test_what_is_malformed(members: dict[str, Any], expected: tuple[str, Reason]) -> None:
    assert refusal(lambda: Sample.from_json({**FULL, **members}), RemoteProtocolError) == expected


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"algorithm": "x"}, ("/algorithm", R.UNSUPPORTED_ALGORITHM)),
        ({"color": "m.red"}, ("/color", R.WRONG_TYPE)),
        ({"inner": {"name": "x"}}, ("/inner", R.WRONG_TYPE)),
        ({"maybe": 1}, ("/maybe", R.WRONG_TYPE)),
        ({"raw": "AAEC"}, ("/raw", R.WRONG_TYPE)),
        ({"raw": bytearray(3)}, ("/raw", R.WRONG_TYPE)),
        ({"raw": bytes(4)}, ("/raw", R.WRONG_LENGTH)),
    ],
)
def test_what_cannot_be_built(members: dict[str, Any], expected: tuple[str, Reason]) -> None:
    good: dict[str, Any] = {"color": Color.RED, "inner": Inner(name="x"), "raw": bytes(3)}
    assert refusal(lambda: Sample(**{**good, **members}), LocalProtocolError) == expected


def test_whatever_is_handed_in() -> None:
    good: dict[str, Any] = {"color": Color.RED, "inner": Inner(name="x"), "raw": bytes(3)}
    for name in FULL:
        only_own_errors(lambda value, name=name: Sample.from_json({**FULL, name: value}))
        only_own_errors(lambda value, name=name: Sample(**{**good, name: value}))


def test_several_of_a_kind() -> None:
    check = several(Color, Inner)
    assert check(iter([Color.RED, Inner(name="x")]), "x") == (Color.RED, Inner(name="x"))
    with pytest.raises(Refusal) as caught:
        check([Color.RED, "m.red"], "x")
    assert (caught.value.at, caught.value.reason) == (("x", 1), R.WRONG_TYPE)
    for wrong in ("x", b"", {}, None, 1):
        with pytest.raises(Refusal) as caught:
            check(wrong, "x")
        assert (caught.value.at, caught.value.reason) == (("x",), R.WRONG_TYPE)


def test_the_text_of_an_enumeration() -> None:
    assert plain_text(Color.RED) == "m.red"
    assert type(plain_text(Color.RED)) is str
    for value in ODD:
        assert plain_text(value) is value
