"""What a server said of a device can be shown later, and nothing that it did not say."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import DeviceKeys, LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.legacy.audit_trail import AuditEntry
from matrix_e2e_keys.legacy.countersigning import countersign_device
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
HERS, HIS = "a.example", "b.example:8448"
HER_KEY = sample_secret_key("server a").signer("ed25519:a_1")
HIS_KEY = sample_secret_key("server b").signer("ed25519:b_1")
WITNESSES = {HERS: {"ed25519:a_1": HER_KEY.public_key}, HIS: {"ed25519:b_1": HIS_KEY.public_key}}
NOW = 1_700_000_000_000


def signed(device: DeviceKeys) -> DeviceKeys:
    for server_name, signer in ((HERS, HER_KEY), (HIS, HIS_KEY)):
        device = device.with_signed(countersign_device(device.signed, server_name=server_name, signer=signer))
    return device.with_signed(device.signed.with_unsigned({"device_display_name": "Phone"}))


PHONE = signed(ALICE.device("PHONE"))


def entry(device: Any = PHONE, **changes: Any) -> AuditEntry:
    arguments: dict[str, Any] = {"witnesses": WITNESSES, "seen_ts": NOW, **changes}
    return AuditEntry.build(device, **arguments)


ENTRY = entry()


class TestEntries:
    def test_an_entry_says_who_said_what_of_whom_and_when(self) -> None:
        assert (ENTRY.user_id, ENTRY.device_id, ENTRY.seen_ts) == ("@alice:a.example", "PHONE", NOW)
        assert ENTRY.witnesses == WITNESSES
        assert ENTRY.device == PHONE
        digest = hashlib.sha256(PHONE.signed.canonical).digest()
        assert ENTRY.digest == base64.b64encode(digest).decode().rstrip("=")
        assert repr(ENTRY) == "<AuditEntry of '@alice:a.example' 'PHONE', signed by ['a.example', 'b.example:8448']>"

    def test_what_nobody_signed_is_left_out(self) -> None:
        assert PHONE.untrusted_display_name == "Phone"
        assert ENTRY.device.untrusted_display_name is None
        assert "unsigned" not in ENTRY.to_json()["device_keys"]  # type: ignore[operator]

    def test_it_can_be_stored_and_shown(self) -> None:
        again = AuditEntry.from_json(json.loads(json.dumps(ENTRY.to_json())))
        assert again == ENTRY
        assert hash(again) == hash(ENTRY)
        assert again.witnesses == WITNESSES
        assert again.device.to_json() == ENTRY.device.to_json()

    def test_entries_are_equal_if_all_is(self) -> None:
        assert entry() == ENTRY
        assert entry(seen_ts=NOW + 1) != ENTRY
        assert entry(witnesses={HERS: WITNESSES[HERS]}) != ENTRY
        assert ENTRY.__eq__(ENTRY.to_json()) is NotImplemented

    def test_nobody_makes_one_but_by_a_check(self) -> None:
        with pytest.raises(LocalProtocolError):
            AuditEntry(PHONE, NOW, {})

    def test_two_stories_about_one_device_contradict_each_other(self) -> None:
        other = signed(ALICE.device("PHONE", extra={"valid_until_ts": 7}))
        assert ENTRY.contradicts(entry(other))
        assert ENTRY.contradicts(entry(other, witnesses={HIS: WITNESSES[HIS]}))
        assert not ENTRY.contradicts(entry(seen_ts=NOW + 1))
        assert not ENTRY.contradicts(entry(signed(ALICE.device("TABLET"))))
        assert not ENTRY.contradicts(entry(signed(SampleUser("@bob:a.example").device("PHONE"))))
        hers = entry(witnesses={HERS: WITNESSES[HERS]})
        assert not hers.contradicts(entry(other, witnesses={HIS: WITNESSES[HIS]}))
        with pytest.raises(LocalProtocolError):
            ENTRY.contradicts(PHONE)  # type: ignore[arg-type]


class TestBuilding:
    @pytest.mark.parametrize(
        "witnesses",
        [
            {HERS: {"ed25519:b_1": HIS_KEY.public_key}},
            {HERS: {"ed25519:a_1": HIS_KEY.public_key}},
            {**WITNESSES, "c.example": {"ed25519:a_1": HER_KEY.public_key}},
            {HERS: {**WITNESSES[HERS], "ed25519:a_2": HER_KEY.public_key}},
        ],
    )
    def test_who_did_not_sign_said_nothing(self, witnesses: Any) -> None:
        with pytest.raises(VerificationError):
            entry(witnesses=witnesses)

    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"device": None}, Reason.WRONG_TYPE, "/device"),
            ({"device": PHONE.signed}, Reason.WRONG_TYPE, "/device"),
            ({"seen_ts": 1.5}, Reason.WRONG_TYPE, "/seen_ts"),
            ({"seen_ts": -1}, Reason.INVALID_VALUE, "/seen_ts"),
            ({"witnesses": None}, Reason.WRONG_TYPE, "/witnesses"),
            ({"witnesses": {HERS: None}}, Reason.WRONG_TYPE, f"/witnesses/{HERS}"),
            ({"witnesses": {HERS: {"ed25519:a_1": "x"}}}, Reason.WRONG_TYPE, f"/witnesses/{HERS}/ed25519:a_1"),
            ({"witnesses": {}}, Reason.MISSING_KEY, "/witnesses"),
            ({"witnesses": {HERS: {}}}, Reason.MISSING_KEY, f"/witnesses/{HERS}"),
            ({"witnesses": {"a b": WITNESSES[HERS]}}, Reason.INVALID_IDENTIFIER, "/witnesses/a b"),
            ({"witnesses": {HERS: {"x": HER_KEY.public_key}}}, Reason.INVALID_KEY_ID, "/key_id"),
            ({"verifier": None}, Reason.WRONG_TYPE, "/verifier"),
        ],
        ids=repr,
    )
    def test_the_callers_mistakes_are_refused(self, change: Any, reason: Reason, path: str) -> None:
        with pytest.raises(LocalProtocolError) as refused:
            entry(**change)
        assert (refused.value.reason, refused.value.path) == (reason, path)

    def test_the_caller_cannot_change_what_was_given(self) -> None:
        mine = {HERS: dict(WITNESSES[HERS])}
        made = entry(witnesses=mine)
        mine[HERS].clear()
        mine["c.example"] = {}
        assert made.witnesses == {HERS: WITNESSES[HERS]}

    @given(json_like_values())
    def test_of_any_arguments_nothing_but_a_refusal_comes(self, value: Any) -> None:
        for name in ("device", "witnesses", "seen_ts"):
            with contextlib.suppress(LocalProtocolError):
                entry(**{name: value})
        with contextlib.suppress(LocalProtocolError):
            AuditEntry.from_json(value)


class TestReadingBack:
    @pytest.mark.parametrize(
        ("path", "value", "reason", "expected"),
        [
            (("version",), 2, Reason.INVALID_VALUE, "/version"),
            (("version",), None, Reason.WRONG_TYPE, "/version"),
            (("device_keys",), None, Reason.WRONG_TYPE, "/device_keys"),
            (("device_keys", "user_id"), 7, Reason.WRONG_TYPE, "/device_keys/user_id"),
            (("device_keys", "more"), 7, Reason.INVALID_SIGNATURE, f"/device_keys/signatures/{HERS}/ed25519:a_1"),
            (("device_keys", "signatures"), {}, Reason.MISSING_SIGNATURE, "/device_keys"),
            (("seen_ts",), "now", Reason.WRONG_TYPE, "/seen_ts"),
            (("seen_ts",), -1, Reason.INVALID_VALUE, "/seen_ts"),
            (("witnesses",), [], Reason.WRONG_TYPE, "/witnesses"),
            (("witnesses",), {}, Reason.MISSING_KEY, "/witnesses"),
            (("witnesses", HERS), [], Reason.WRONG_TYPE, f"/witnesses/{HERS}"),
            (("witnesses", HERS), {}, Reason.MISSING_KEY, f"/witnesses/{HERS}"),
            (("witnesses", HERS, "ed25519:a_1"), 7, Reason.WRONG_TYPE, f"/witnesses/{HERS}/ed25519:a_1"),
            (("witnesses", HERS, "ed25519:a_1"), "!", Reason.INVALID_BASE64, f"/witnesses/{HERS}/ed25519:a_1"),
            (
                ("witnesses", HERS, "ed25519:a_1"),
                HIS_KEY.public_key.to_base64(),
                Reason.INVALID_SIGNATURE,
                f"/device_keys/signatures/{HERS}/ed25519:a_1",
            ),
        ],
    )
    def test_what_was_damaged_is_refused(self, path: Any, value: Any, reason: Reason, expected: str) -> None:
        stored: Any = ENTRY.to_json()
        inner = stored
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value
        with pytest.raises(LocalProtocolError) as refused:
            AuditEntry.from_json(stored)
        assert (refused.value.reason, refused.value.path) == (reason, expected)

    @pytest.mark.parametrize("name", ["version", "device_keys", "seen_ts", "witnesses"])
    def test_what_is_gone_is_missed(self, name: str) -> None:
        stored = ENTRY.to_json()
        del stored[name]
        with pytest.raises(LocalProtocolError) as refused:
            AuditEntry.from_json(stored)
        assert (refused.value.reason, refused.value.path) == (Reason.MISSING_MEMBER, f"/{name}")
