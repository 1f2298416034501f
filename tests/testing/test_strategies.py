"""The strategies produce what they say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    DeviceKeys,
    E2EKeysError,
    Ed25519SecretKey,
    KeysQueryResponse,
    encode_canonical_json,
    is_user_id,
    parse_device_id,
    parse_json,
    parse_server_name,
)
from matrix_e2e_keys.testing import strategies
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key


def test_samples_are_the_same_every_time() -> None:
    assert sample_secret_key("x").public_key == sample_secret_key("x").public_key
    assert sample_secret_key("x").public_key != sample_secret_key("y").public_key
    assert sample_curve25519_key("x") == sample_curve25519_key("x")
    assert SampleUser("@a:b").master_key != SampleUser("@a:b", generation=1).master_key


@given(strategies.canonical_json_values())
def test_canonical_json_values(value: Any) -> None:
    assert parse_json(encode_canonical_json(value)) == value


@given(strategies.canonical_json_objects())
def test_canonical_json_objects(value: Any) -> None:
    assert type(value) is dict
    assert not {"signatures", "unsigned"} & set(value)
    encode_canonical_json(value)


@given(strategies.user_ids(), strategies.device_ids(), strategies.server_names())
def test_identifiers(user_id: str, device_id: str, server_name: str) -> None:
    assert is_user_id(user_id)
    assert parse_device_id(device_id) == device_id
    assert parse_server_name(server_name) == server_name


@given(strategies.secret_keys())
def test_secret_keys(key: Ed25519SecretKey) -> None:
    assert type(key) is Ed25519SecretKey


@pytest.mark.parametrize("attack", sorted(strategies._ATTACKS))
@given(data=st.data())
def test_every_tampering_is_refused(attack: str, data: st.DataObject) -> None:
    user_id, device_id, obj = data.draw(strategies.tampered_device_keys(attack))
    try:
        device = DeviceKeys.from_json(obj)
        if (device.user_id, device.device_id) == (user_id, device_id):
            device.verify()
            pytest.fail(f"{attack}: accepted")
    except E2EKeysError:
        pass


@given(strategies.keys_query_answers())
def test_answers_are_answers(body: dict[str, Any]) -> None:
    assert KeysQueryResponse.from_json(body).malformed == ()
