"""What to upload of one's own device; and a refused upload: which one-time key it was refused for."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    DeviceKeys,
    E2EKeysError,
    KeysUploadRequest,
    LocalProtocolError,
    MatrixError,
    OneTimeKey,
    OneTimeKeyConflict,
    Reason,
    Rejection,
    UserIdentity,
    one_time_key_conflict,
)
from matrix_e2e_keys.client.supply.upload import DeviceUploadPlan, DeviceUploadVerdict, plan_device_upload
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

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


# --------------------------------------------------------------------------------------------------------------
# Device keys
# --------------------------------------------------------------------------------------------------------------

IDENTITY = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
BARE_PHONE = ALICE.device("PHONE", cross_signed=False)
PHONE = ALICE.device("PHONE")
NEW_BARE_PHONE = ALICE.device("PHONE", cross_signed=False, extra={"version": 2})
NEW_PHONE = ALICE.device("PHONE", extra={"version": 2})
SSK = str(ALICE.secret("self_signing").cross_signer().key_id)
DEVICE_KEY = "ed25519:PHONE"


def without(device: DeviceKeys, key_id: str) -> DeviceKeys:
    return with_signature(device, key_id, None)


def with_signature(device: DeviceKeys, key_id: str, text: str | None, entity: str = ALICE.user_id) -> DeviceKeys:
    obj: Any = device.to_json()
    of_entity = obj["signatures"].setdefault(entity, {})
    of_entity.pop(key_id, None)
    if text is not None:
        of_entity[key_id] = text
    return DeviceKeys.from_json(obj)


def with_key(device: DeviceKeys, name: str, text: str | None) -> DeviceKeys:
    """The device with another key, signed by itself and by nobody else."""
    obj: Any = device.to_json()
    obj["keys"].pop(name, None)
    if text is not None:
        obj["keys"][name] = text
    changed = DeviceKeys.from_json(obj)
    signed = add_signature(
        changed.signed.without_signatures(), entity=ALICE.user_id, signer=ALICE.device_signer("PHONE")
    )
    return changed.with_signed(signed)


def of_another_owner(device_id: str = "PHONE", curve25519: str = "stranger") -> DeviceKeys:
    """A device of the same name with other keys, signed by itself."""
    return DeviceKeys.build(
        user_id=ALICE.user_id,
        device_id=device_id,
        curve25519_key=sample_curve25519_key(curve25519),
        signer=sample_secret_key("stranger").signer(f"ed25519:{device_id}"),
    )


def rejection(raw: object, *, user_id: str | None = ALICE.user_id, device_id: str | None = "PHONE") -> Rejection:
    return Rejection(path="", reason=Reason.WRONG_TYPE, detail="", raw=raw, user_id=user_id, device_id=device_id)


def signatures(plan: DeviceUploadPlan) -> set[tuple[str, str]]:
    assert plan.upload is not None
    return {(entity, key_id) for entity, by in plan.upload.signed.signatures.items() for key_id in by}


def check_plan(plan: DeviceUploadPlan, verdict: DeviceUploadVerdict, reason: Reason | None = None) -> None:
    assert (plan.verdict, plan.reason, plan.upload is not None) == (
        verdict,
        reason,
        verdict is DeviceUploadVerdict.UPLOAD,
    )
    assert plan.detail


BOTH = pytest.mark.parametrize("identity", [None, IDENTITY], ids=["any identity", "own identity"])


class TestWhatToUpload:
    @BOTH
    def test_a_new_device(self, identity: UserIdentity | None) -> None:
        plan = plan_device_upload(BARE_PHONE, None, identity=identity)
        check_plan(plan, DeviceUploadVerdict.UPLOAD)
        assert plan.upload is BARE_PHONE

    @BOTH
    @pytest.mark.parametrize(
        ("wanted", "served"),
        [(BARE_PHONE, BARE_PHONE), (PHONE, PHONE), (BARE_PHONE, PHONE)],
        ids=["bare", "signed", "the server has more"],
    )
    def test_the_server_has_it(self, wanted: DeviceKeys, served: DeviceKeys, identity: UserIdentity | None) -> None:
        check_plan(plan_device_upload(wanted, served, identity=identity), DeviceUploadVerdict.UNCHANGED)

    @BOTH
    def test_a_signature_is_added_to_those_the_server_has(self, identity: UserIdentity | None) -> None:
        plan = plan_device_upload(PHONE, BARE_PHONE, identity=identity)
        check_plan(plan, DeviceUploadVerdict.UPLOAD)
        assert plan.upload == PHONE
        assert signatures(plan) == {(ALICE.user_id, DEVICE_KEY), (ALICE.user_id, SSK)}

    def test_signatures_of_both_sides_are_united(self) -> None:
        theirs = with_signature(BARE_PHONE, "other:key", "theirs", "@bob:b.example")
        theirs = with_signature(theirs, "ed25519:x", "theirs")
        ours = with_signature(PHONE, "ed25519:x", "ours")
        plan = plan_device_upload(ours, theirs)
        check_plan(plan, DeviceUploadVerdict.UPLOAD)
        assert plan.upload is not None
        assert plan.upload.to_json()["signatures"] == {
            ALICE.user_id: {**ours.signed.signatures[ALICE.user_id], "ed25519:x": "ours"},
            "@bob:b.example": {"other:key": "theirs"},
        }
        assert "@bob:b.example" not in ours.signed.signatures

    def test_of_two_signatures_in_one_place_ours_is_uploaded(self) -> None:
        ours = with_signature(PHONE, "ed25519:x", "ours")
        plan = plan_device_upload(ours, with_signature(PHONE, "ed25519:x", "theirs"))
        check_plan(plan, DeviceUploadVerdict.UPLOAD)
        assert plan.upload is not None
        assert plan.upload.to_json() == ours.to_json()

    def test_with_an_identity_nothing_worthless_is_taken_over(self) -> None:
        theirs = with_signature(BARE_PHONE, "other:key", "theirs", "@bob:b.example")
        plan = plan_device_upload(PHONE, theirs, identity=IDENTITY)
        assert signatures(plan) == {(ALICE.user_id, DEVICE_KEY), (ALICE.user_id, SSK)}

    def test_with_an_identity_a_bad_cross_signature_is_none(self) -> None:
        bad = with_signature(BARE_PHONE, SSK, "AAAA")
        check_plan(plan_device_upload(bad, BARE_PHONE, identity=IDENTITY), DeviceUploadVerdict.UNCHANGED)
        check_plan(plan_device_upload(bad, BARE_PHONE), DeviceUploadVerdict.UPLOAD)
        repaired = plan_device_upload(PHONE, bad, identity=IDENTITY)
        check_plan(repaired, DeviceUploadVerdict.UPLOAD)
        assert repaired.upload is not None
        assert repaired.upload.verify(identity=IDENTITY).is_cross_signed

    @BOTH
    def test_something_else_than_the_keys_has_changed(self, identity: UserIdentity | None) -> None:
        for wanted, served in ((NEW_BARE_PHONE, BARE_PHONE), (NEW_PHONE, BARE_PHONE), (NEW_PHONE, PHONE)):
            plan = plan_device_upload(wanted, served, identity=identity)
            check_plan(plan, DeviceUploadVerdict.UPLOAD)
            assert plan.upload is wanted

    @BOTH
    def test_a_cross_signature_is_not_destroyed(self, identity: UserIdentity | None) -> None:
        plan = plan_device_upload(NEW_BARE_PHONE, PHONE, identity=identity)
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_LOSE_SIGNATURE)
        assert SSK in plan.detail

    def test_a_bad_signature_makes_up_for_no_good_one(self) -> None:
        wanted = with_signature(NEW_BARE_PHONE, SSK, "AAAA")
        plan = plan_device_upload(wanted, PHONE, identity=IDENTITY)
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_LOSE_SIGNATURE)
        check_plan(plan_device_upload(wanted, PHONE), DeviceUploadVerdict.UPLOAD)

    def test_only_a_signature_by_the_identity_is_worth_keeping(self) -> None:
        reset = SampleUser(ALICE.user_id, generation=1)
        identity = UserIdentity.verify(master_key=reset.master_key, self_signing_key=reset.self_signing_key)
        check_plan(plan_device_upload(NEW_BARE_PHONE, PHONE, identity=identity), DeviceUploadVerdict.UPLOAD)
        junk = with_signature(BARE_PHONE, SSK, PHONE.signed.signatures[ALICE.user_id][DEVICE_KEY])
        check_plan(plan_device_upload(NEW_BARE_PHONE, junk, identity=IDENTITY), DeviceUploadVerdict.UPLOAD)
        plan = plan_device_upload(NEW_BARE_PHONE, junk)
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_LOSE_SIGNATURE)

    def test_the_devices_own_id_under_another_entity_is_a_signature_of_another(self) -> None:
        served = with_signature(BARE_PHONE, DEVICE_KEY, "AAAA", "@bob:b.example")
        plan = plan_device_upload(NEW_BARE_PHONE, served)
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_LOSE_SIGNATURE)


class TestKeysNeverChange:
    @BOTH
    @pytest.mark.parametrize(
        "served",
        [
            of_another_owner(),
            of_another_owner(curve25519=f"{ALICE.user_id} PHONE"),
            with_key(PHONE, "curve25519:PHONE", sample_curve25519_key("other").to_base64()),
            with_key(PHONE, "curve448:PHONE", "another algorithm"),
            without(of_another_owner(), DEVICE_KEY),
        ],
        ids=["both", "ed25519", "curve25519", "one more", "not even signed"],
    )
    def test_other_identity_keys(self, served: DeviceKeys, identity: UserIdentity | None) -> None:
        for found in (served, rejection(served.to_json())):
            plan = plan_device_upload(PHONE, found, identity=identity)
            check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_CHANGE_KEYS)
            assert ":PHONE" in plan.detail

    def test_a_key_cannot_be_taken_away_but_one_can_be_added(self) -> None:
        more = with_key(PHONE, "curve448:PHONE", "another algorithm")
        less = with_key(PHONE, "curve25519:PHONE", None)
        check_plan(plan_device_upload(more, BARE_PHONE), DeviceUploadVerdict.UPLOAD)
        check_plan(plan_device_upload(BARE_PHONE, less), DeviceUploadVerdict.UPLOAD)
        for wanted, served in ((BARE_PHONE, more), (less, BARE_PHONE)):
            plan = plan_device_upload(wanted, served)
            check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_CHANGE_KEYS)

    def test_padding_makes_no_other_key(self) -> None:
        padded = with_key(BARE_PHONE, DEVICE_KEY, BARE_PHONE.keys[DEVICE_KEY] + "=")
        check_plan(plan_device_upload(BARE_PHONE, padded), DeviceUploadVerdict.UPLOAD)
        check_plan(plan_device_upload(padded, BARE_PHONE), DeviceUploadVerdict.UPLOAD)


class TestWhatNobodyAccepts:
    @BOTH
    @pytest.mark.parametrize("wanted", [BARE_PHONE, NEW_BARE_PHONE], ids=["the same", "another"])
    @pytest.mark.parametrize("text", [None, "AAAA"])
    def test_a_device_that_did_not_sign_itself(
        self, wanted: DeviceKeys, text: str | None, identity: UserIdentity | None
    ) -> None:
        served = with_signature(PHONE, DEVICE_KEY, text)
        for found in (served, rejection(served.to_json())):
            plan = plan_device_upload(wanted, found, identity=identity)
            check_plan(plan, DeviceUploadVerdict.UPLOAD)
            assert plan.upload is wanted

    @pytest.mark.parametrize(
        "raw",
        [
            None,
            5,
            [],
            {},
            {"keys": None},
            {"keys": []},
            {"keys": {DEVICE_KEY: 5, "curve25519:PHONE": None}},
            {"keys": {DEVICE_KEY: "short"}},
            {"keys": {DEVICE_KEY: "A"}},
            {"keys": {DEVICE_KEY: "\ud800"}},
            {"keys": {DEVICE_KEY: PHONE.keys[DEVICE_KEY]}},
            {"keys": {DEVICE_KEY: PHONE.keys[DEVICE_KEY] + "="}},
            {"keys": {"ed25519:TABLET": of_another_owner().keys[DEVICE_KEY], "curve448:PHONE": "x"}},
            {**PHONE.to_json(), "device_id": "TABLET"},
            {**with_key(PHONE, "curve448:PHONE", "x").to_json(), "user_id": "@bob:b.example"},
            ALICE.device("TABLET").to_json(),
            SampleUser("@bob:b.example").device("TABLET").to_json(),
        ],
        ids=lambda raw: str(raw)[:40],
    )
    def test_a_malformed_entry_holds_nothing_to_be_lost(self, raw: object) -> None:
        plan = plan_device_upload(BARE_PHONE, rejection(raw))
        check_plan(plan, DeviceUploadVerdict.UPLOAD)
        assert plan.upload is BARE_PHONE

    @pytest.mark.parametrize("name", [DEVICE_KEY, "curve25519:PHONE"])
    @pytest.mark.parametrize("written", ["{}", "{}=", "{}==", "!{}"])
    def test_keys_that_somebody_could_read_count(self, name: str, written: str) -> None:
        raw = {"keys": {name: written.format(of_another_owner().keys[name])}}
        plan = plan_device_upload(BARE_PHONE, rejection(raw))
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_CHANGE_KEYS)
        assert name in plan.detail

    def test_of_another_users_device_with_the_same_id_the_keys_count(self) -> None:
        raw = SampleUser("@bob:b.example").device("PHONE").to_json()
        plan = plan_device_upload(BARE_PHONE, rejection(raw))
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_CHANGE_KEYS)

    def test_what_was_rejected_for_something_else_is_judged_like_any_other(self) -> None:
        check_plan(plan_device_upload(PHONE, rejection(PHONE.to_json())), DeviceUploadVerdict.UNCHANGED)
        plan = plan_device_upload(NEW_BARE_PHONE, rejection(PHONE.to_json()))
        check_plan(plan, DeviceUploadVerdict.REFUSED, Reason.WOULD_LOSE_SIGNATURE)

    @given(json_like_values(), st.sampled_from(["", "keys", *PHONE.to_json()]))
    def test_no_foreign_exception_from_what_is_served(self, value: Any, name: str) -> None:
        raw = {**PHONE.to_json(), name: value} if name else value
        with contextlib.suppress(E2EKeysError):
            plan_device_upload(BARE_PHONE, rejection(raw))


class TestCallersOfThePlan:
    @pytest.mark.parametrize(
        ("change", "reason", "path"),
        [
            ({"device_keys": None}, Reason.WRONG_TYPE, "/device_keys"),
            ({"device_keys": PHONE.to_json()}, Reason.WRONG_TYPE, "/device_keys"),
            ({"device_keys": without(PHONE, DEVICE_KEY)}, Reason.MISSING_SIGNATURE, "/device_keys"),
            (
                {"device_keys": with_signature(PHONE, DEVICE_KEY, "AAAA")},
                Reason.INVALID_SIGNATURE,
                f"/device_keys/signatures/{ALICE.user_id}/{DEVICE_KEY}",
            ),
            ({"served": PHONE.to_json()}, Reason.WRONG_TYPE, "/served"),
            ({"served": ALICE.device("TABLET")}, Reason.DEVICE_ID_MISMATCH, "/served"),
            ({"served": SampleUser("@bob:b.example").device("PHONE")}, Reason.DEVICE_ID_MISMATCH, "/served"),
            ({"served": rejection({}, device_id=None)}, Reason.DEVICE_ID_MISMATCH, "/served"),
            ({"served": rejection({}, user_id="@bob:b.example")}, Reason.DEVICE_ID_MISMATCH, "/served"),
            ({"identity": ALICE.master_key}, Reason.WRONG_TYPE, "/identity"),
            ({"identity": "bob"}, Reason.USER_ID_MISMATCH, "/identity"),
            ({"verifier": 5}, Reason.WRONG_TYPE, "/verifier"),
        ],
    )
    def test_what_they_must_not_hand_over(self, change: dict[str, Any], reason: Reason, path: str) -> None:
        if change.get("identity") == "bob":
            bob = SampleUser("@bob:b.example")
            change = {"identity": UserIdentity.verify(master_key=bob.master_key, self_signing_key=bob.self_signing_key)}
        arguments: dict[str, Any] = {"device_keys": PHONE, "served": None, **change}
        with pytest.raises(LocalProtocolError) as caught:
            plan_device_upload(**arguments)
        assert (caught.value.reason, caught.value.path) == (reason, path)
