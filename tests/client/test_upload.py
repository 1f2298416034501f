"""A refused upload: which one-time key it was refused for, and whether the server holds the same key."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    KeysUploadRequest,
    LocalProtocolError,
    MatrixError,
    OneTimeKey,
    OneTimeKeyConflict,
    one_time_key_conflict,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key

ALICE = SampleUser("@alice:a.example")
ID = "signed_curve25519:AAAAAQ"
UPLOADED = ALICE.one_time_key("PHONE", "AAAAAQ")
OTHER = ALICE.one_time_key("TABLET", "AAAAAQ")
BARE = OneTimeKey.from_json("curve25519:B", sample_curve25519_key("b").to_base64())
REQUEST = KeysUploadRequest.for_keys(one_time_keys=[UPLOADED, BARE])


def refusal(key_id: str, held: Any, new: str = "{'key': 'x'}") -> MatrixError:
    old = held if type(held) is str else json.dumps(held)
    return MatrixError(status=400, error=f"One time key {key_id} already exists. Old key: {old}; new key: {new}")


def test_another_key() -> None:
    conflict = one_time_key_conflict(REQUEST, refusal(ID, OTHER.to_json()))
    assert conflict == OneTimeKeyConflict(uploaded=UPLOADED, held=OTHER)
    assert (conflict.key_id, conflict.is_same_key) == (ID, False)


def test_the_same_key_with_something_else_around_it() -> None:
    held = {**UPLOADED.to_json(), "added": 1}  # type: ignore[dict-item]
    conflict = one_time_key_conflict(REQUEST, refusal(ID, held))
    assert conflict is not None
    assert conflict.is_same_key
    assert conflict.held is not None
    assert conflict.held != UPLOADED


def test_bare_strings() -> None:
    other = sample_curve25519_key("c").to_base64()
    conflict = one_time_key_conflict(REQUEST, refusal("curve25519:B", f'"{other}"', new=BARE.key))
    assert conflict is not None
    assert (conflict.uploaded, conflict.is_same_key) == (BARE, False)
    assert conflict.held == OneTimeKey.from_json("curve25519:B", other)


@pytest.mark.parametrize(
    "held",
    [
        "",
        "nonsense",
        "{",
        "null",
        "[]",
        '"a bare string"',
        '{"key":"x"}',
        '{"key":1.5}',
        '{"key":"a","key":"b"}',
        "NaN",
        '"\\ud800"',
        "[" * 2000 + "]" * 2000,
        "[" * 200_000,
        "1" * 5000,
    ],
    ids=lambda text: text[:20],
)
def test_what_the_server_holds_cannot_be_read(held: str) -> None:
    """attack 9, among others: the conflict is known all the same."""
    conflict = one_time_key_conflict(REQUEST, refusal(ID, held))
    assert conflict == OneTimeKeyConflict(uploaded=UPLOADED, held=None)
    assert not conflict.is_same_key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Something else",
        f"one time key {ID} already exists. Old key: {{}}; new key: {{}}",
        f" One time key {ID} already exists. Old key: {{}}; new key: {{}}",
        f"One time key {ID} already exists.",
        "One time key signed_curve25519:ZZZZ already exists. Old key: {}; new key: {}",
        "One time key  already exists. Old key: {}; new key: {}",
    ],
)
def test_something_else(text: str) -> None:
    assert one_time_key_conflict(REQUEST, MatrixError(status=400, error=text)) is None


def test_a_key_that_was_set_aside_was_never_ours() -> None:
    request = KeysUploadRequest.from_json({"one_time_keys": {ID: None}})
    assert one_time_key_conflict(request, refusal(ID, OTHER.to_json())) is None


def test_bad_callers() -> None:
    error = refusal(ID, OTHER.to_json())
    bad: list[tuple[Any, Any]] = [(None, error), (REQUEST, None), (REQUEST.to_json(), error), (REQUEST, error.error)]
    for request, answer in bad:
        with pytest.raises(LocalProtocolError):
            one_time_key_conflict(request, answer)


@given(st.text())
def test_no_foreign_exception(text: str) -> None:
    for error in (refusal(ID, text.encode("utf-8", "replace").decode()), refusal(ID, UPLOADED.to_json(), "x")):
        assert isinstance(one_time_key_conflict(REQUEST, error), OneTimeKeyConflict)
