"""The strategies for messages produce what they say."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CLIENT_R0,
    CLIENT_V2_ALPHA,
    CLIENT_V3,
    CrossSigningKey,
    DeviceKeys,
    DeviceListUpdate,
    Dialect,
    DirectToDevice,
    Edu,
    KeysClaimRequest,
    KeysQueryResponse,
    KeysUploadRequest,
    MatrixError,
    OneTimeKey,
    Rejection,
    SendTransactionRequest,
    ServerKeys,
    SignatureFailure,
    SigningKeyUpdate,
    SyncKeys,
    UnknownEdu,
)
from matrix_e2e_keys.endpoints.members import JsonView
from matrix_e2e_keys.testing import message_strategies as messages

FIND = settings(max_examples=2000, database=None, phases=[Phase.generate])


def exists(strategy: st.SearchStrategy[Any], condition: Any) -> bool:
    """Whether the strategy produces, within reason, something of which the condition holds."""
    find(strategy, condition, settings=FIND)
    return True


def everything_in(value: Any) -> list[Any]:
    """All values that stand in the fields of a value, at any level."""
    found = [value]
    if attrs.has(type(value)) and type(value) not in (DeviceKeys, CrossSigningKey, OneTimeKey, ServerKeys, Rejection):
        for field in attrs.fields(type(value)):
            found += everything_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for member in value.values():
            found += everything_in(member)
    elif isinstance(value, tuple):
        for item in value:
            found += everything_in(item)
    return found


def holds_rejection(value: Any) -> bool:
    return any(type(found) is Rejection for found in everything_in(value))


STRATEGIES: dict[str, st.SearchStrategy[Any]] = {name: getattr(messages, name)() for name in messages.__all__}

WITHOUT_REJECTIONS = {
    "cross_signing_keys",
    "device_signing_upload_responses",
    "json_objects",
    "json_values",
    "keys_changes_requests",
    "keys_upload_responses",
    "matrix_errors",
    "one_time_keys",
    "send_to_device_responses",
    "server_keys",
    "server_keys_requests",
    "server_keys_responses",
    "send_transaction_responses",
    "signature_failures",
    "unknown_edus",
    "user_devices_requests",
    "user_interactive_auths",
}


@pytest.mark.parametrize("name", messages.__all__)
def test_each_says_what_it_produces(name: str) -> None:
    function = getattr(messages, name)
    assert inspect.getdoc(function)
    annotation = inspect.signature(function).return_annotation
    assert "SearchStrategy" in str(annotation)


@pytest.mark.parametrize("name", sorted(set(messages.__all__) - WITHOUT_REJECTIONS))
def test_something_is_set_aside(name: str) -> None:
    assert exists(STRATEGIES[name], holds_rejection)


@pytest.mark.parametrize("name", sorted(set(messages.__all__) - {"json_objects", "json_values"}))
def test_something_is_unknown(name: str) -> None:
    def holds_extra(value: Any) -> bool:
        return any(bool(getattr(found, "extra", None)) for found in everything_in(value))

    if any(hasattr(found, "extra") for found in everything_in(find(STRATEGIES[name], lambda _: True, settings=FIND))):
        assert exists(STRATEGIES[name], holds_extra)


@given(messages.json_values())
def test_json_values(value: Any) -> None:
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@given(messages.json_objects("a", "org.example"))
def test_json_objects(value: dict[str, Any]) -> None:
    assert not value.keys() & {"a", "org.example", "timeout", "failures"}


@pytest.mark.parametrize(
    "condition",
    [
        lambda value: type(value) is float,
        lambda value: type(value) is int and value > 2**53,
        lambda value: type(value) is str and not value.isascii() and value == "\ud800",
        lambda value: type(value) is dict and bool(value),
    ],
)
def test_json_values_are_of_all_kinds(condition: Any) -> None:
    assert exists(messages.json_values(), condition)


@given(messages.cross_signing_keys("self_signing", "user_signing"))
def test_cross_signing_keys(key: CrossSigningKey) -> None:
    assert key.usage in ("self_signing", "user_signing")


@given(messages.one_time_keys(bare=True))
def test_bare_one_time_keys(key: OneTimeKey) -> None:
    assert key.signed is None


@pytest.mark.parametrize(
    "condition",
    [
        lambda key: key.signed is None,
        lambda key: key.fallback,
        lambda key: key.public_key is None,
        lambda key: key.signed is not None and not key.signed.signatures,
        lambda key: key.signed is not None and key.signed.untrusted_unsigned is not None,
    ],
)
def test_one_time_keys_are_of_all_kinds(condition: Any) -> None:
    assert exists(messages.one_time_keys(), condition)


@given(messages.server_keys())
def test_server_keys_are_signed_by_themselves(document: ServerKeys) -> None:
    assert document.verify(server_name=document.server_name).verify_keys


@given(messages.keys_query_responses())
def test_devices_are_good_or_unsigned(response: KeysQueryResponse) -> None:
    for device in everything_in(response):
        if type(device) is DeviceKeys and device.signed.signatures:
            device.verify()


@given(messages.sync_keys(sliding=False))
def test_counts_are_said_in_sync_v2(keys: SyncKeys) -> None:
    assert "device_one_time_keys_count" in keys.to_sync_v2()


@pytest.mark.parametrize(
    "condition",
    [
        lambda keys: keys.one_time_key_counts is None,
        lambda keys: keys.one_time_key_counts == {},
        lambda keys: bool(keys.one_time_key_counts),
        lambda keys: keys.unused_fallback_key_types == (),
        lambda keys: keys.device_lists is not None and keys.device_lists.malformed,
    ],
)
def test_sync_keys_are_of_all_kinds(condition: Any) -> None:
    assert exists(messages.sync_keys(), condition)


@pytest.mark.parametrize("kind", [DeviceListUpdate, SigningKeyUpdate, DirectToDevice, UnknownEdu])
def test_edus_are_of_all_kinds(kind: type[Edu]) -> None:
    assert exists(messages.edus(), lambda edu: type(edu) is kind)


@pytest.mark.parametrize(
    "condition",
    [
        lambda failure: failure.error is not None and failure.message is None and failure.status is None,
        lambda failure: failure.message is not None and failure.status is not None and failure.error is None,
        lambda failure: failure == SignatureFailure(),
    ],
)
def test_signature_failures_are_of_both_forms(condition: Any) -> None:
    assert exists(messages.signature_failures(), condition)


@given(messages.matrix_errors())
def test_errors(error: MatrixError) -> None:
    assert 400 <= error.status <= 599
    assert error.user_interactive is None or error.status == 401


def test_errors_are_of_all_kinds() -> None:
    assert exists(messages.matrix_errors(), lambda error: error.user_interactive is not None)
    assert exists(messages.matrix_errors(), lambda error: error.retry_after_ms is not None)
    assert exists(messages.matrix_errors(), lambda error: error.errcode is None)


@pytest.mark.parametrize(("dialect", "has_one"), [(CLIENT_V3, False), (CLIENT_R0, False), (CLIENT_V2_ALPHA, True)])
@given(data=st.data())
def test_uploads_have_a_device_id_where_the_path_has_one(dialect: Dialect, has_one: bool, data: st.DataObject) -> None:
    request = data.draw(messages.keys_upload_requests(dialect=dialect))
    assert (request.device_id is not None) is has_one
    again = KeysUploadRequest.from_http(request.to_http(dialect))
    assert (again, again.device_id) == (request, request.device_id)


@pytest.mark.parametrize(("dialect", "usual"), [(CLIENT_V3, "signed_curve25519"), (CLIENT_V2_ALPHA, "curve25519")])
def test_what_is_claimed_is_what_the_dialect_has(dialect: Dialect, usual: str) -> None:
    def claims(request: KeysClaimRequest) -> bool:
        return any(usual in devices.values() for devices in request.asked.values())

    assert exists(messages.keys_claim_requests(dialect=dialect), claims)


@pytest.mark.parametrize("kind", [Rejection, JsonView])
def test_events_are_good_or_set_aside(kind: type[Any]) -> None:
    def holds(request: SendTransactionRequest) -> bool:
        return any(type(pdu) is kind for pdu in request.pdus)

    assert exists(messages.send_transaction_requests(), holds)


@pytest.mark.parametrize(
    "strategy",
    [
        messages.keys_upload_requests(dialect=CLIENT_V2_ALPHA),
        messages.keys_query_requests(dialect=CLIENT_V2_ALPHA),
        messages.keys_query_responses(dialect=CLIENT_V2_ALPHA),
        messages.keys_claim_requests(dialect=CLIENT_V2_ALPHA),
        messages.keys_claim_responses(dialect=CLIENT_V2_ALPHA),
    ],
)
@given(data=st.data())
def test_the_draft_of_2015_can_say_it(strategy: st.SearchStrategy[Any], data: st.DataObject) -> None:
    message = data.draw(strategy)
    body = json.loads(message.to_http(CLIENT_V2_ALPHA).body)
    assert not body.keys() & CLIENT_V2_ALPHA.lacks
