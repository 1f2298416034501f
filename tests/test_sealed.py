"""Types whose values only the library makes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from matrix_e2e_keys import LocalProtocolError, Reason, SignedJson
from matrix_e2e_keys.sealed import Sealed, constructor_of


@attrs.frozen
class Checked(metaclass=Sealed):
    value: int
    note: str


make_checked = constructor_of(Checked)


def test_the_library_makes_values() -> None:
    value = make_checked(1, "x")
    assert (value.value, value.note) == (1, "x")
    assert type(value) is Checked
    assert value == make_checked(1, "x")
    assert value != make_checked(2, "x")
    assert hash(value) == hash(make_checked(1, "x"))
    assert isinstance(value, Checked)


ATTEMPTS: dict[str, Any] = {
    "the constructor": lambda value: type(value)(1, "x"),
    "the constructor by keyword": lambda value: type(value)(value=1, note="x"),
    "the constructor without arguments": lambda value: type(value)(),
    "evolve": lambda value: attrs.evolve(value, value=2),
    "evolve without a change": attrs.evolve,
    "whatever subclass there is": lambda value: (
        [kind(1, "x") for kind in type(value).__subclasses__()] or type(value)()
    ),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_nobody_else_does(attempt: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        attempt(make_checked(1, "x"))
    assert caught.value.reason is Reason.INVALID_VALUE
    assert "Checked has no public constructor" in caught.value.detail


@pytest.mark.skipif(not hasattr(copy, "replace"), reason="copy.replace is new in Python 3.13")
def test_copy_replace_makes_none() -> None:
    with pytest.raises(LocalProtocolError):
        copy.replace(make_checked(1, "x"), value=2)  # type: ignore[attr-defined]


def test_there_are_no_subclasses() -> None:
    with pytest.raises(LocalProtocolError, match="Checked cannot be subclassed"):
        type("Forged", (Checked,), {})
    with pytest.raises(LocalProtocolError, match="cannot be subclassed"):
        type("Forged", (int, Checked), {})
    with pytest.raises(LocalProtocolError, match="SignedJson cannot be subclassed"):

        class Forged(SignedJson):
            pass


def test_values_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        make_checked(1, "x").value = 2
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        make_checked(1, "x").__class__ = object  # type: ignore[assignment]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del make_checked(1, "x").value


def test_a_copy_makes_no_new_statement() -> None:
    value = make_checked(1, "x")
    for again in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert again == value
        assert type(again) is Checked
