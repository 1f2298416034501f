"""Mappings that nobody can change, and values made of them: they can be copied and pickled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_e2e_keys import (
    HttpResponse,
    KeysClaimRequest,
    KeysClaimResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    check_claim,
    check_query,
)
from matrix_e2e_keys.frozen_maps import FrozenMap
from matrix_e2e_keys.testing import message_strategies as messages
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer

ALICE = SampleUser("@alice:a.example")


def test_it_is_a_mapping() -> None:
    frozen: Any = FrozenMap({"a": 1, "b": [2]})
    assert isinstance(frozen, Mapping)
    assert (list(frozen), len(frozen), "a" in frozen, "c" in frozen) == (["a", "b"], 2, True, False)
    assert (frozen["a"], frozen.get("c"), frozen.get("c", 5)) == (1, None, 5)
    assert list(frozen.keys()) == ["a", "b"]
    assert list(frozen.values()) == [1, [2]]
    assert list(frozen.items()) == [("a", 1), ("b", [2])]
    assert repr(frozen) == "{'a': 1, 'b': [2]}"
    with pytest.raises(KeyError):
        frozen["c"]


def test_equality() -> None:
    frozen = FrozenMap({"a": 1})
    assert frozen == {"a": 1} == frozen
    assert frozen == FrozenMap({"a": 1})
    assert frozen == MappingProxyType({"a": 1})
    assert frozen != FrozenMap({"a": 2})
    assert frozen != {}
    assert frozen != [("a", 1)]


def test_nothing_changes_it() -> None:
    frozen: Any = FrozenMap({"a": 1})
    with pytest.raises(TypeError):
        frozen["a"] = 2
    with pytest.raises(TypeError):
        del frozen["a"]
    with pytest.raises(TypeError):
        hash(frozen)
    with pytest.raises(AttributeError):
        frozen.other = 1


MESSAGES = [
    messages.keys_upload_requests(),
    messages.keys_query_responses(),
    messages.keys_claim_responses(),
    messages.keys_changes_responses(),
    messages.device_signing_upload_requests(),
    messages.signatures_upload_requests(),
    messages.signatures_upload_responses(),
    messages.send_to_device_requests(),
    messages.sync_keys(),
    messages.user_keys_query_responses(),
    messages.user_devices_responses(),
    messages.server_keys_responses(),
    messages.send_transaction_requests(),
    messages.matrix_errors(),
]


@given(st.one_of(MESSAGES), st.integers(2, pickle.HIGHEST_PROTOCOL))
@settings(max_examples=settings.default.max_examples // 2)
def test_messages_can_be_copied_and_pickled(message: Any, protocol: int) -> None:
    for again in (copy.copy(message), copy.deepcopy(message), pickle.loads(pickle.dumps(message, protocol))):
        assert type(again) is type(message)
        assert again == message
        if hasattr(message, "to_json"):
            assert again.to_json() == message.to_json()


def test_results_can_be_copied_and_pickled() -> None:
    request = KeysQueryRequest.for_users([ALICE.user_id])
    response = KeysQueryResponse.from_json(keys_query_answer([(ALICE, [ALICE.device("PHONE")])]))
    queried = check_query(request, response)
    keys = {"signed_curve25519:A": ALICE.one_time_key("PHONE", "A")}
    claimed = check_claim(
        KeysClaimRequest.for_devices({ALICE.user_id: ["PHONE"]}),
        KeysClaimResponse(one_time_keys={ALICE.user_id: {"PHONE": keys}}),
        devices=queried.devices.accepted,
    )
    for result in (queried, claimed, HttpResponse(status=200, headers={"A": "b"})):
        for again in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
            assert again == result
