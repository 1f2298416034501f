"""Servers sign the device keys they hand out, and nothing that could be taken for something else."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import (
    DeviceKeys,
    E2EKeysError,
    KeyId,
    KeysClaimResponse,
    KeysQueryResponse,
    LocalProtocolError,
    Reason,
    Rejection,
    ServerKeys,
    SignedJson,
    UserKeysQueryResponse,
)
from matrix_e2e_keys.legacy.countersigning import countersign_answer, countersign_device
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import device_keys, json_like_values

ALICE = SampleUser("@alice:a.example")
HERS, HIS = "a.example", "b.example:8448"
HER_KEY = sample_secret_key("server a").signer("ed25519:a_1")
HIS_KEY = sample_secret_key("server b").signer("ed25519:b_1")

PHONE = ALICE.device("PHONE", extra={"valid_after_ts": 1, "valid_until_ts": 2})
ODD = ALICE.device("ODD", extra={"more": 1})


class TestDevices:
    def test_a_server_signs_beside_all_others(self) -> None:
        signed = countersign_device(PHONE.signed, server_name=HERS, signer=HER_KEY)
        signed.verify(entity=HERS, key_id="ed25519:a_1", key=HER_KEY.public_key)
        assert signed == PHONE.signed
        assert signed.signatures == {**PHONE.signed.signatures, HERS: dict(signed.signatures[HERS])}
        PHONE.with_signed(signed).verify()

    def test_the_caller_still_has_what_he_had(self) -> None:
        before = PHONE.to_json()
        countersign_device(PHONE.signed, server_name=HERS, signer=HER_KEY)
        assert PHONE.to_json() == before

    def test_the_order_of_signatures_is_of_no_matter(self) -> None:
        hers = countersign_device(PHONE.signed, server_name=HERS, signer=HER_KEY)
        his = countersign_device(PHONE.signed, server_name=HIS, signer=HIS_KEY)
        both = countersign_device(hers, server_name=HIS, signer=HIS_KEY)
        assert both.to_json() == countersign_device(his, server_name=HERS, signer=HER_KEY).to_json()
        assert both.signatures.keys() == {"@alice:a.example", HERS, HIS}

    def test_to_sign_twice_changes_nothing(self) -> None:
        once = countersign_device(PHONE.signed, server_name=HERS, signer=HER_KEY)
        assert countersign_device(once, server_name=HERS, signer=HER_KEY).to_json() == once.to_json()

    def test_unsigned_is_kept(self) -> None:
        named = PHONE.signed.with_unsigned({"device_display_name": "x"})
        assert countersign_device(named, server_name=HERS, signer=HER_KEY).untrusted_unsigned == {
            "device_display_name": "x"
        }

    @given(device_keys())
    def test_a_device_is_signed_if_and_only_if_all_its_members_are_of_the_draft(self, device: DeviceKeys) -> None:
        draft = {"user_id", "device_id", "algorithms", "keys", "valid_after_ts", "valid_until_ts"}
        answer = KeysQueryResponse(device_keys={device.user_id: {device.device_id: device}})
        entry: Any = countersign_answer(answer, server_name=HERS, signer=HER_KEY).device_keys[device.user_id]
        signatures = entry[device.device_id].signed.signatures
        if device.signed.content.keys() <= draft:
            signed = countersign_device(device.signed, server_name=HERS, signer=HER_KEY)
            signed.verify(entity=HERS, key_id="ed25519:a_1", key=HER_KEY.public_key)
            assert signatures == signed.signatures
        else:
            with pytest.raises(LocalProtocolError):
                countersign_device(device.signed, server_name=HERS, signer=HER_KEY)
            assert signatures == device.signed.signatures

    def test_a_list_of_server_keys_is_not_signed_because_it_is_device_keys_too(self) -> None:
        """Who uploads device keys would have his own key signed as the server's.

        Attack 43: a signature over an object of one kind is not to be shown as one over another.
        """
        hostile = sample_secret_key("hostile").signer("ed25519:h")
        extra: dict[str, object] = {
            "server_name": HERS,
            "verify_keys": {
                str(signer.key_id): {"key": signer.public_key.to_base64()} for signer in (HER_KEY, hostile)
            },
            "old_verify_keys": {},
            "valid_until_ts": 2**50,
        }
        both = ALICE.device("PHONE", extra=extra).signed
        assert ServerKeys.from_json(both.to_json()).server_name == HERS
        with pytest.raises(LocalProtocolError) as refused:
            countersign_device(both, server_name=HERS, signer=HER_KEY)
        assert (refused.value.reason, refused.value.path) == (Reason.INVALID_VALUE, "/keys")

    @pytest.mark.parametrize("member", ["more", "server_name", "verify_keys", "method", "usage", "type", "key", ""])
    def test_a_member_that_is_none_of_device_keys_is_not_signed(self, member: str) -> None:
        with pytest.raises(LocalProtocolError, match="a server does not sign a member"):
            countersign_device(ALICE.device("X", extra={member: 1}).signed, server_name=HERS, signer=HER_KEY)

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"keys": None}, Reason.WRONG_TYPE, "/keys"),
            ({"keys": PHONE}, Reason.WRONG_TYPE, "/keys"),
            ({"keys": SignedJson.from_json({})}, Reason.MISSING_MEMBER, "/keys/user_id"),
            ({"keys": ALICE.master_key.signed}, Reason.MISSING_MEMBER, "/keys/device_id"),
            ({"server_name": "@alice:a.example"}, Reason.INVALID_IDENTIFIER, "/server_name"),
            ({"server_name": None}, Reason.WRONG_TYPE, "/server_name"),
            ({"signer": None}, Reason.WRONG_TYPE, "/signer"),
        ],
        ids=repr,
    )
    def test_what_cannot_be_signed_is_refused(self, change: Any, reason: Reason, path: str) -> None:
        arguments: dict[str, Any] = {"keys": PHONE.signed, "server_name": HERS, "signer": HER_KEY, **change}
        with pytest.raises(LocalProtocolError) as refused:
            countersign_device(arguments.pop("keys"), **arguments)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        for name in ("keys", "server_name", "signer"):
            arguments: dict[str, Any] = {"keys": PHONE.signed, "server_name": HERS, "signer": HER_KEY}
            arguments[name] = value
            with contextlib.suppress(E2EKeysError):
                countersign_device(arguments.pop("keys"), **arguments)
            with contextlib.suppress(E2EKeysError):
                arguments.pop("keys", None)
                countersign_answer(value, server_name=HERS, signer=HER_KEY)


class TestAnswers:
    @pytest.mark.parametrize("kind", [KeysQueryResponse, UserKeysQueryResponse])
    def test_every_device_is_signed_and_all_else_stays(self, kind: Any) -> None:
        body: dict[str, Any] = {
            "device_keys": {
                "@alice:a.example": {
                    "PHONE": PHONE.to_json(),
                    "TABLET": ALICE.device("TABLET").to_json(),
                    "ODD": ODD.to_json(),
                    "BROKEN": {"user_id": 7},
                },
                "@bob:a.example": {},
                "@carol:a.example": None,
            },
            "master_keys": {"@alice:a.example": ALICE.master_key.to_json()},
            "more": 1,
        }
        response = kind.from_json(body)
        answer = countersign_answer(response, server_name=HERS, signer=HER_KEY)

        assert type(answer) is kind
        devices = answer.device_keys["@alice:a.example"]
        assert list(devices) == ["PHONE", "TABLET", "ODD", "BROKEN"]
        for name in ("PHONE", "TABLET"):
            devices[name].signed.verify(entity=HERS, key_id="ed25519:a_1", key=HER_KEY.public_key)
            devices[name].verify()
        assert devices["ODD"].to_json() == ODD.to_json()
        assert type(devices["BROKEN"]) is Rejection
        assert type(answer.device_keys["@carol:a.example"]) is Rejection
        assert answer == response
        assert response.to_json()["device_keys"]["@alice:a.example"]["PHONE"] == PHONE.to_json()

        unsigned = answer.to_json()
        for device_id in ("PHONE", "TABLET"):
            del unsigned["device_keys"]["@alice:a.example"][device_id]["signatures"][HERS]
        assert unsigned == response.to_json()

    def test_a_map_that_is_none_stays(self) -> None:
        response = KeysQueryResponse.from_json({"device_keys": 7})
        answer = countersign_answer(response, server_name=HERS, signer=HER_KEY)
        assert answer.to_json() == response.to_json()

    @pytest.mark.parametrize("response", [None, {}, PHONE, KeysClaimResponse(one_time_keys={})])
    def test_other_answers_are_refused(self, response: Any) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            countersign_answer(response, server_name=HERS, signer=HER_KEY)
        assert (refused.value.reason, refused.value.path) == (Reason.WRONG_TYPE, "/response")

    def test_who_signs_is_checked_though_nothing_is_to_be_signed(self) -> None:
        empty = KeysQueryResponse()
        with pytest.raises(LocalProtocolError):
            countersign_answer(empty, server_name="a b", signer=HER_KEY)
        with pytest.raises(LocalProtocolError):
            countersign_answer(empty, server_name=HERS, signer=KeyId("ed25519", "x"))  # type: ignore[arg-type]
