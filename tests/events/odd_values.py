"""What callers hand in by mistake, and what attackers would hand in: for every argument of every function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from json_strategies import nested
from matrix_e2e_keys.errors import E2EKeysError, Reason, Refusal
from matrix_e2e_keys.json_trees import RefusedPlace
from matrix_e2e_keys.outcome import Rejection
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Names(Mapping[Any, Any]):
    """A mapping that is no dict."""

    def __init__(self, members: Mapping[Any, Any]) -> None:
        self._members = dict(members)

    def __getitem__(self, name: Any) -> Any:
        return self._members[name]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


class Hostile(Mapping[str, Any]):
    """A mapping whose methods raise."""

    def __getitem__(self, name: Any) -> Any:
        raise ValueError

    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise OSError

    def __contains__(self, name: object) -> bool:
        raise KeyError

    def __eq__(self, other: object) -> bool:
        raise RuntimeError

    def __hash__(self) -> int:
        raise RuntimeError

    def __repr__(self) -> str:
        return "<Hostile>"


class HalfHostile(Hostile):
    """A mapping that has names, and nothing under them."""

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Masked:
    """An object that does not tell its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise RuntimeError

    def __repr__(self) -> str:
        return "<Masked>"


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**53,
    10**5000,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "ü",
    Text("m.room.encrypted"),
    Number(0),
    b"",
    bytearray(b"x"),
    (),
    [],
    {},
    [[]],
    {1: 2},
    {"\ud800": "\ud800"},
    {"x": float("nan")},
    nested(500),
    nested(100_000),
    object(),
    int,
    Hostile(),
    HalfHostile(),
    Masked(),
    Names({"x": object()}),
    Names({Hostile: 1}),
    Rejection(path="", reason=Reason.WRONG_TYPE, detail=""),
    RefusedPlace(reason=Reason.NOT_AN_INTEGER, detail="", value=object()),
    sample_curve25519_key("x"),
    sample_secret_key("x"),
    SampleUser("@a:b").device("D"),
    SampleUser("@a:b").device("D").verify(),
]


def error_of(call: Callable[[], object]) -> E2EKeysError | None:
    """The error of this library that a call ends with, if it does. Anything else comes out."""
    try:
        call()
    except E2EKeysError as error:
        return error
    except Refusal:
        pytest.fail("an inner Refusal came out")
    return None


def only_own_errors(call: Callable[[Any], object]) -> int:
    """Call with each odd value; return how many were refused. Nothing foreign may come out."""
    refused = 0
    for value in ODD:
        error = error_of(lambda value=value: call(value))
        if error is not None:
            assert type(error) is not E2EKeysError
            assert str(error).isprintable()
            refused += 1
    return refused


def refusal(make: Callable[[], object], kind: type[E2EKeysError]) -> tuple[str, Reason]:
    """Where and why something is refused."""
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    return caught.value.path, caught.value.reason
