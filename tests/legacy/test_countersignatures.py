"""What servers signed of device keys, found out by a client."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given

from matrix_e2e_keys import (
    DeviceKeys,
    Ed25519Signature,
    LocalProtocolError,
    OldVerifyKey,
    Reason,
    ServerKeys,
    Signer,
    VerificationError,
    VerifiedServerKeys,
)
from matrix_e2e_keys.legacy.countersignatures import Countersignature, Countersignatures, check_countersignatures
from matrix_e2e_keys.legacy.countersigning import countersign_device
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
HERS, HIS = "a.example", "b.example:8448"
HER_KEY = sample_secret_key("server a").signer("ed25519:a_1")
HER_OTHER = sample_secret_key("server a, too").signer("ed25519:a_2")
HER_OLD = sample_secret_key("server a, before").signer("ed25519:a_0")
HIS_KEY = sample_secret_key("server b").signer("ed25519:b_1")
BOGUS = Ed25519Signature(bytes(64))

GOOD, MISSING, BAD, UNKNOWN = Countersignature


def published(server_name: str, *signers: Signer) -> VerifiedServerKeys:
    old = {"ed25519:a_0": OldVerifyKey(HER_OLD.public_key, 1)}
    document = ServerKeys.build(server_name=server_name, signers=signers, valid_until_ts=1, old_verify_keys=old)
    return document.verify(server_name=server_name)


HER_KEYS, HIS_KEYS = published(HERS, HER_KEY, HER_OTHER), published(HIS, HIS_KEY)


def signed(device: DeviceKeys, *by: tuple[str, Signer]) -> DeviceKeys:
    for server_name, signer in by:
        device = device.with_signed(countersign_device(device.signed, server_name=server_name, signer=signer))
    return device


PHONE = ALICE.device("PHONE")
BOTH = signed(PHONE, (HERS, HER_KEY), (HIS, HIS_KEY))


def check(device: DeviceKeys = BOTH, **changes: Any) -> Countersignatures:
    arguments: dict[str, Any] = {
        "device_server": HERS,
        "device_server_keys": HER_KEYS,
        "querying_server": HIS,
        "querying_server_keys": HIS_KEYS,
        **changes,
    }
    return check_countersignatures(device, **arguments)


def verdicts(device: DeviceKeys = BOTH, **changes: Any) -> tuple[Countersignature, Countersignature]:
    found = check(device, **changes)
    return found.by_device_server, found.by_querying_server


def with_bogus(device: DeviceKeys, server_name: str, key_id: str) -> DeviceKeys:
    return device.with_signed(device.signed.with_signature(server_name, key_id, BOGUS))


class TestVerdicts:
    def test_both_have_signed(self) -> None:
        assert check() == Countersignatures(
            device_server=HERS, querying_server=HIS, by_device_server=GOOD, by_querying_server=GOOD
        )
        check().require()

    @pytest.mark.parametrize(
        ("device", "expected"),
        [
            (PHONE, (MISSING, MISSING)),
            (signed(PHONE, (HERS, HER_KEY)), (GOOD, MISSING)),
            (signed(PHONE, (HIS, HIS_KEY)), (MISSING, GOOD)),
            (signed(PHONE, (HERS, HER_KEY), (HERS, HER_OTHER)), (GOOD, MISSING)),
            (with_bogus(BOTH, HERS, "ed25519:a_1"), (BAD, GOOD)),
            (with_bogus(BOTH, HERS, "ed25519:a_2"), (BAD, GOOD)),
            (with_bogus(BOTH, HIS, "ed25519:b_1"), (GOOD, BAD)),
            (with_bogus(BOTH, HERS, "ed25519:x"), (GOOD, GOOD)),
            (with_bogus(BOTH, "c.example", "ed25519:a_1"), (GOOD, GOOD)),
            (with_bogus(PHONE, HERS, "ed25519:x"), (UNKNOWN, MISSING)),
            (with_bogus(PHONE, HIS, "ed25519:x"), (MISSING, UNKNOWN)),
            (signed(PHONE, (HERS, HIS_KEY), (HIS, HER_KEY)), (UNKNOWN, UNKNOWN)),
            (signed(PHONE, (HERS, HER_OLD)), (UNKNOWN, MISSING)),
        ],
    )
    def test_each_server_is_judged_for_itself(self, device: DeviceKeys, expected: Any) -> None:
        assert verdicts(device) == expected

    def test_a_signature_is_over_these_bytes(self) -> None:
        other = ALICE.device("PHONE", extra={"valid_until_ts": 7})
        moved = other.to_json()
        moved["signatures"] = BOTH.to_json()["signatures"]
        assert verdicts(DeviceKeys.from_json(moved)) == (BAD, BAD)

    @pytest.mark.parametrize("signatures", [{HERS: {}}, {HERS: {"ed25519:a_1": "!"}}, {HERS: {"ed25519:a_1": ""}}])
    def test_what_is_no_signature_is_none_or_bad(self, signatures: Any) -> None:
        device = DeviceKeys.from_json({**PHONE.to_json(), "signatures": signatures})
        assert verdicts(device) == (BAD if signatures[HERS] else MISSING, MISSING)

    def test_where_both_servers_are_one_one_signature_serves(self) -> None:
        one = {"querying_server": HERS, "querying_server_keys": HER_KEYS}
        assert verdicts(signed(PHONE, (HERS, HER_KEY)), **one) == (GOOD, GOOD)
        assert verdicts(PHONE, **one) == (MISSING, MISSING)

    def test_a_server_cannot_vouch_for_the_users_of_another(self) -> None:
        """Attack 53: what is signed must be of the signer's own user."""
        mallory = SampleUser("@mallory:evil.example").device("PHONE")
        assert verdicts(signed(mallory, (HERS, HER_KEY), (HIS, HIS_KEY))) == (BAD, GOOD)
        assert verdicts(mallory) == (MISSING, MISSING)

    def test_keys_may_be_given_one_by_one_also_those_of_before(self) -> None:
        old = {"ed25519:a_0": HER_OLD.public_key}
        assert verdicts(signed(PHONE, (HERS, HER_OLD)), device_server_keys=old) == (GOOD, MISSING)
        assert verdicts(device_server_keys={}, querying_server_keys={}) == (UNKNOWN, UNKNOWN)

    def test_no_more_than_the_known_keys_are_verified(self) -> None:
        """Attack 39: signatures may be many."""
        asked: list[int] = []

        class Counting:
            def verify_many(self, checks: Any) -> list[bool]:
                asked.append(len(checks))
                return [True for _ in checks]

        device = BOTH
        for number in range(300):
            device = with_bogus(device, HERS, f"ed25519:{number}")
        assert verdicts(device, verifier=Counting()) == (GOOD, GOOD)
        assert asked == [1, 1]

    def test_no_trust_derives_from_it(self) -> None:
        """A server that makes up a device signs it as well, and nobody takes the device for a verified one."""
        made_up = {"user_id": ALICE.user_id, "device_id": "EVIL", "algorithms": [], "keys": {}}
        device = signed(DeviceKeys.from_json(made_up), (HERS, HER_KEY), (HIS, HIS_KEY))
        assert verdicts(device) == (GOOD, GOOD)
        with pytest.raises(VerificationError):
            device.verify()


class TestRequiring:
    @pytest.mark.parametrize(
        ("verdict", "reason", "text"),
        [
            (MISSING, Reason.MISSING_SIGNATURE, "has not signed the device keys"),
            (BAD, Reason.INVALID_SIGNATURE, "has not signed these device keys"),
            (UNKNOWN, Reason.MISSING_KEY, "has signed the device keys with keys that are not known"),
        ],
    )
    def test_both_must_be_good(self, verdict: Countersignature, reason: Reason, text: str) -> None:
        for change, who in (({"by_device_server": verdict}, HERS), ({"by_querying_server": verdict}, HIS)):
            with pytest.raises(VerificationError) as refused:
                evolve(check(), **change).require()
            assert (refused.value.reason, refused.value.detail) == (reason, f"{who!r} {text}")


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"device": None}, Reason.WRONG_TYPE, "/device"),
            ({"device": PHONE.signed}, Reason.WRONG_TYPE, "/device"),
            ({"device_server": None}, Reason.WRONG_TYPE, "/device_server"),
            ({"device_server": "a b"}, Reason.INVALID_IDENTIFIER, "/device_server"),
            ({"querying_server": "a b"}, Reason.INVALID_IDENTIFIER, "/querying_server"),
            ({"device_server_keys": None}, Reason.WRONG_TYPE, "/device_server_keys"),
            ({"querying_server_keys": {"ed25519:x": "y"}}, Reason.WRONG_TYPE, "/querying_server_keys/ed25519:x"),
            ({"device_server_keys": HIS_KEYS}, Reason.SERVER_NAME_MISMATCH, "/device_server_keys"),
            ({"querying_server_keys": HER_KEYS}, Reason.SERVER_NAME_MISMATCH, "/querying_server_keys"),
            ({"verifier": None, "device": PHONE}, Reason.WRONG_TYPE, "/verifier"),
        ],
        ids=repr,
    )
    def test_the_callers_mistakes_are_refused(self, change: Any, reason: Reason, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            check(**change)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        for name in ("device", "device_server", "device_server_keys", "querying_server", "querying_server_keys"):
            with contextlib.suppress(LocalProtocolError):
                check(**{name: value})
