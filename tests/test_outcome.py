"""The outcome of judging many entries at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from matrix_e2e_keys import LocalProtocolError, Notice, Partition, Reason, Rejection, RemoteProtocolError

FIRST = Rejection(path="/a", reason=Reason.WRONG_TYPE, detail="wrong", raw=[1.5])
SECOND = Rejection(path="/b", reason=Reason.UNREQUESTED, detail="nobody asked", user_id="@u:b", device_id="D")


def test_a_rejection_is_told_as_an_error() -> None:
    error = SECOND.to_error()
    assert type(error) is RemoteProtocolError
    assert (error.reason, error.detail, error.path) == (Reason.UNREQUESTED, "nobody asked", "/b")


def test_the_raw_entry_is_left_out_of_equality_and_repr() -> None:
    """attack 4: what the other side sent decides nothing and is shown only to who asks for it."""
    other = attrs.evolve(FIRST, raw={"secret": "x"})
    assert other == FIRST
    assert hash(FIRST) == hash(other)
    assert "secret" not in repr(other)
    assert attrs.evolve(FIRST, path="/c") != FIRST
    assert FIRST.raw == [1.5]


def test_the_raw_entry_is_a_copy() -> None:
    rejection = Rejection(path="/a", reason=Reason.WRONG_TYPE, detail="wrong", raw={"a": [1, {"b": None}], "c": 1.5})
    raw: Any = rejection.raw
    assert raw == {"a": [1, {"b": None}], "c": 1.5}
    raw["a"][1]["b"] = 2
    raw["a"].append(3)
    raw.clear()
    assert rejection.raw == {"a": [1, {"b": None}], "c": 1.5}
    assert rejection.raw is not rejection.raw
    assert SECOND.raw is None
    with pytest.raises(AttributeError):
        rejection.raw = None  # type: ignore[misc]


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), attrs.evolve],
    ids=["copy", "deepcopy", "pickle", "evolve"],
)
def test_copies_keep_the_raw_entry(again: Callable[[Any], Any]) -> None:
    copied = again(FIRST)
    assert (copied, copied.raw) == (FIRST, [1.5])


@pytest.mark.parametrize(
    "partition",
    [
        Partition(accepted={}),
        Partition(accepted={"a": 1}),
        Partition(accepted={"a": 1}, rejected=(FIRST,)),
        Partition(accepted={}, unsupported=(FIRST,)),
    ],
)
def test_a_partition_has_no_truth_value(partition: Partition[int]) -> None:
    """attack 15: a result that is truthy would be a guess."""
    for ask in (bool, lambda value: not value, lambda value: value and 1, lambda value: 1 if value else 2):
        with pytest.raises(LocalProtocolError) as caught:
            ask(partition)
        assert caught.value.reason is Reason.INVALID_VALUE


def test_require_all() -> None:
    accepted = {"a": 1}
    assert Partition(accepted=accepted).require_all() is accepted
    assert Partition(accepted=accepted, unsupported=(FIRST,)).require_all() is accepted
    with pytest.raises(RemoteProtocolError) as caught:
        Partition(accepted=accepted, rejected=(SECOND, FIRST)).require_all()
    assert caught.value.path == "/b"


def test_results_are_frozen() -> None:
    for value in (FIRST, Partition(accepted={}), Notice(path="", reason=Reason.KEY_REUSED, detail="")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.path = "x"  # type: ignore[misc,union-attr]


def test_a_notice_says_what_and_where() -> None:
    notice = Notice(path="/x", reason=Reason.KEY_REUSED, detail="twice")
    assert (notice.path, notice.reason, notice.detail) == ("/x", Reason.KEY_REUSED, "twice")
    assert notice == Notice(path="/x", reason=Reason.KEY_REUSED, detail="twice")
