"""Device keys that say when they may be used."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import OLM_V1, LocalProtocolError, Reason
from matrix_e2e_keys.legacy.validity_windows import Validity, legacy_device_keys, validity
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")

NOT_YET, VALID, EXPIRED, UNSTATED = Validity


class TestValidity:
    @pytest.mark.parametrize(
        ("stated", "now", "expected"),
        [
            ({}, 0, UNSTATED),
            ({"valid_after_ts": 10, "valid_until_ts": 20}, 9, NOT_YET),
            ({"valid_after_ts": 10, "valid_until_ts": 20}, 10, VALID),
            ({"valid_after_ts": 10, "valid_until_ts": 20}, 20, VALID),
            ({"valid_after_ts": 10, "valid_until_ts": 20}, 21, EXPIRED),
            ({"valid_after_ts": 10, "valid_until_ts": 10}, 10, VALID),
            ({"valid_after_ts": 0, "valid_until_ts": 0}, 0, VALID),
            ({"valid_after_ts": 0}, -1, NOT_YET),
            ({"valid_until_ts": 0}, 1, EXPIRED),
            ({"valid_after_ts": 10}, 9, NOT_YET),
            ({"valid_after_ts": 10}, 10, VALID),
            ({"valid_until_ts": 20}, 20, VALID),
            ({"valid_until_ts": 20}, 21, EXPIRED),
            ({"valid_after_ts": 20, "valid_until_ts": 10}, 0, EXPIRED),
            ({"valid_after_ts": 20, "valid_until_ts": 10}, 15, EXPIRED),
            ({"valid_after_ts": 20, "valid_until_ts": 10}, 25, EXPIRED),
            ({"valid_after_ts": "10", "valid_until_ts": True}, 0, UNSTATED),
            ({"valid_after_ts": None, "valid_until_ts": 20}, 0, VALID),
        ],
    )
    def test_what_is_stated_counts(self, stated: Any, now: int, expected: Validity) -> None:
        assert validity(ALICE.device("PHONE", extra=stated), now=now) is expected

    @pytest.mark.parametrize(
        ("device", "now", "path"),
        [(None, 0, "/device"), (ALICE.device("PHONE").signed, 0, "/device"), (ALICE.device("PHONE"), 1.5, "/now")],
    )
    def test_the_callers_mistakes_are_refused(self, device: Any, now: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            validity(device, now=now)
        assert (refused.value.reason, refused.value.path) == (Reason.WRONG_TYPE, path)


def build(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "user_id": "@alice:a.example",
        "device_id": "PHONE",
        "curve25519_key": sample_curve25519_key("phone"),
        "signer": ALICE.device_signer("PHONE"),
        "valid_after_ts": 10,
        "valid_until_ts": 20,
        **changes,
    }
    return legacy_device_keys(**arguments)


class TestBuilding:
    def test_the_times_are_signed(self) -> None:
        device = build()
        device.verify()
        assert device.signed.content == {
            "user_id": "@alice:a.example",
            "device_id": "PHONE",
            "algorithms": [OLM_V1],
            "keys": {
                "curve25519:PHONE": sample_curve25519_key("phone").to_base64(),
                "ed25519:PHONE": ALICE.device_signer("PHONE").public_key.to_base64(),
            },
            "valid_after_ts": 10,
            "valid_until_ts": 20,
        }
        assert (device.valid_after_ts, device.valid_until_ts) == (10, 20)
        assert build(algorithms=["x"]).algorithms == ("x",)
        assert validity(build(valid_after_ts=0, valid_until_ts=0), now=0) is VALID

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"valid_after_ts": None}, Reason.WRONG_TYPE, "/valid_after_ts"),
            ({"valid_after_ts": True}, Reason.WRONG_TYPE, "/valid_after_ts"),
            ({"valid_after_ts": -1}, Reason.INVALID_VALUE, "/valid_after_ts"),
            ({"valid_until_ts": 1.5}, Reason.WRONG_TYPE, "/valid_until_ts"),
            ({"valid_until_ts": 2**53}, Reason.INTEGER_OUT_OF_RANGE, "/valid_until_ts"),
            ({"valid_until_ts": 9}, Reason.INVALID_VALUE, "/valid_until_ts"),
            ({"user_id": "alice"}, Reason.INVALID_IDENTIFIER, "/user_id"),
        ],
    )
    def test_what_nobody_could_use_is_refused(self, change: Any, reason: Reason, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            build(**change)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        for name in ("user_id", "device_id", "curve25519_key", "signer", "valid_after_ts", "valid_until_ts"):
            with contextlib.suppress(LocalProtocolError):
                build(**{name: value})
        with contextlib.suppress(LocalProtocolError):
            validity(ALICE.device("PHONE"), now=value)
