"""Devices without keys are named, and never taken for devices that encrypt."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    DeviceKeys,
    KeysQueryResponse,
    LocalProtocolError,
    Reason,
    Rejection,
    UserKeysQueryResponse,
    VerificationError,
)
from matrix_e2e_keys.legacy.countersigning import countersign_device
from matrix_e2e_keys.legacy.keyless_devices import keyless_device, with_keyless_devices
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import device_ids, json_like_values, user_ids

ALICE, BOB, CAROL = "@alice:a.example", "@bob:a.example", "@carol:a.example"
PHONE = SampleUser(ALICE).device("PHONE")


class TestOne:
    def test_it_has_no_algorithms_and_no_keys(self) -> None:
        device = keyless_device(ALICE, "OLD")
        assert device.to_json() == {"user_id": ALICE, "device_id": "OLD", "algorithms": [], "keys": {}}
        assert not device.supports_olm
        assert (device.ed25519_key, device.curve25519_key) == (None, None)

    @given(user_ids(), device_ids())
    def test_it_is_read_as_device_keys_and_never_verified(self, user_id: str, device_id: str) -> None:
        device = keyless_device(user_id, device_id)
        assert DeviceKeys.from_json(device.to_json()) == device
        with pytest.raises(VerificationError) as refused:
            device.verify()
        assert refused.value.reason is Reason.MISSING_KEY

    def test_a_signature_does_not_make_a_device_of_it(self) -> None:
        signer = sample_secret_key("server").signer("ed25519:1")
        device = keyless_device(ALICE, "OLD")
        countersigned = device.with_signed(countersign_device(device.signed, server_name="a.example", signer=signer))
        own = SampleUser(ALICE).device_signer("OLD")
        claimed = countersigned.signed.with_signature(ALICE, "ed25519:OLD", own.sign(device.signed.canonical))
        with pytest.raises(VerificationError):
            countersigned.with_signed(claimed).verify()

    @pytest.mark.parametrize(
        ("user_id", "device_id", "path"),
        [("alice", "X", "/user_id"), (None, "X", "/user_id"), (ALICE, "", "/device_id"), (ALICE, 7, "/device_id")],
    )
    def test_what_is_no_id_is_refused(self, user_id: Any, device_id: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            keyless_device(user_id, device_id)
        assert refused.value.path == path


class TestAnswers:
    @pytest.mark.parametrize("kind", [KeysQueryResponse, UserKeysQueryResponse])
    def test_devices_that_are_not_named_are_added(self, kind: Any) -> None:
        response = kind.from_json({"device_keys": {ALICE: {"PHONE": PHONE.to_json(), "BROKEN": 7}, CAROL: None}})
        asked = {ALICE: ["OLD", "PHONE", "BROKEN"], BOB: iter(["TV"]), CAROL: ["X"]}
        answer = with_keyless_devices(response, asked)

        assert type(answer) is kind
        assert answer.device_keys[ALICE]["PHONE"].to_json() == PHONE.to_json()
        assert type(answer.device_keys[ALICE]["BROKEN"]) is Rejection
        assert answer.device_keys[ALICE]["OLD"] == keyless_device(ALICE, "OLD")
        assert list(answer.device_keys[ALICE]) == ["PHONE", "BROKEN", "OLD"]
        assert answer.device_keys[BOB] == {"TV": keyless_device(BOB, "TV")}
        assert type(answer.device_keys[CAROL]) is Rejection
        assert response.device_keys[ALICE].keys() == {"PHONE", "BROKEN"}

    def test_a_user_without_devices_has_none(self) -> None:
        answer = with_keyless_devices(KeysQueryResponse(), {ALICE: []})
        assert answer.device_keys == {ALICE: {}}
        assert with_keyless_devices(answer, {}) == answer

    @pytest.mark.parametrize(
        ("asked", "path"),
        [
            (None, "/device_ids"),
            ({ALICE: None}, f"/device_ids/{ALICE}"),
            ({ALICE: "X"}, f"/device_ids/{ALICE}"),
            ({ALICE: ["X", ""]}, f"/device_ids/{ALICE}/1"),
            ({"alice": ["X"]}, "/device_ids/alice"),
            ({"alice": []}, "/device_ids/alice"),
        ],
    )
    def test_what_is_no_id_is_refused(self, asked: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            with_keyless_devices(KeysQueryResponse(), asked)
        assert refused.value.path == path

    def test_other_answers_are_refused(self) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            with_keyless_devices(PHONE, {})  # type: ignore[type-var]
        assert (refused.value.reason, refused.value.path) == (Reason.WRONG_TYPE, "/response")

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        with contextlib.suppress(LocalProtocolError):
            with_keyless_devices(KeysQueryResponse(), value)
        with contextlib.suppress(LocalProtocolError):
            keyless_device(value, value)
