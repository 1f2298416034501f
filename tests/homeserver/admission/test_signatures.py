"""Admission of signatures: who may sign what, each signature judged for itself, nothing skipped in silence."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from attrs import evolve
from hypothesis import example, given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceSigningUploadRequest,
    E2EKeysError,
    LocalProtocolError,
    MatrixError,
    Reason,
    Rejection,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
    Signer,
    add_signature,
    merge_signatures,
)
from matrix_e2e_keys.homeserver.admission.device_signing import decide_device_signing_upload
from matrix_e2e_keys.homeserver.admission.signature_cases import SignatureJudgment
from matrix_e2e_keys.homeserver.admission.signature_roles import OwnKeys, Role, SigningKey
from matrix_e2e_keys.homeserver.admission.signatures import SignaturesDecision, decide_signatures_upload, signed_users
from matrix_e2e_keys.homeserver.decisions import Decision, Requester
from matrix_e2e_keys.homeserver.effects import (
    DeviceChanged,
    DropCrossSigningKey,
    DropSignaturesBy,
    IdentityChanged,
    SignedOthers,
    StoreCrossSigningKey,
    StoreDeviceKeys,
    StoreSignature,
)
from matrix_e2e_keys.homeserver.policies import COMPAT, SPEC, STRICT, Policy
from matrix_e2e_keys.homeserver.stored_keys import DeviceRecord, UserKeys, UserSignature
from matrix_e2e_keys.signing.signed_json import new_signed_json, parts_of
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values
from tests.json_strategies import few

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
A, B = ALICE.user_id, BOB.user_id
ASKING = Requester(user_id=A, device_id="PHONE")

M, S, U, D = "master", "self_signing", "user_signing", "device"
A_MASTER = ALICE.master_key.key_id.name
B_MASTER = BOB.master_key.key_id.name
GARBAGE = "A" * 86


def record(signed: SignedJson, name: str = "PHONE") -> DeviceRecord:
    return DeviceRecord(device_id=name, keys=signed)


PHONE = ALICE.device("PHONE", cross_signed=False).signed
LAPTOP = ALICE.device("LAPTOP", cross_signed=False).signed
MASTER = ALICE.master_key.signed
B_KEY = BOB.master_key.signed

VIEW = UserKeys(
    user_id=A,
    devices={"PHONE": record(PHONE), "LAPTOP": record(LAPTOP, "LAPTOP"), "KEYLESS": DeviceRecord(device_id="KEYLESS")},
    master_key=ALICE.master_key,
    self_signing_key=ALICE.self_signing_key,
    user_signing_key=ALICE.user_signing_key,
)
OTHERS = {B: BOB.master_key}


def signer(kind: str, user: SampleUser = ALICE) -> Signer:
    return user.device_signer("PHONE") if kind == D else user.secret(kind).cross_signer()


def signed(obj: SignedJson, *signers: Signer, user: str = A) -> SignedJson:
    for each in signers:
        obj = add_signature(obj, entity=user, signer=each)
    return obj


def with_texts(obj: SignedJson, texts: Mapping[str, str], user: str = A) -> SignedJson:
    """The object with signatures that may be anything."""
    signatures = {**(parts_of(obj).signatures or {}), user: dict(texts)}
    return new_signed_json(parts_of(obj)._replace(signatures=signatures))


def text_of(obj: SignedJson, key_id: str) -> str:
    return obj.signatures[A][key_id]


BY_SSK = signed(PHONE, signer(S))
BY_PHONE = signed(MASTER, signer(D))
BY_USK = signed(B_KEY, signer(U))
SSK = ALICE.self_signing_key.key_name
USK = ALICE.user_signing_key.key_name
USK_TEXT = text_of(BY_USK, USK)
THE_SIGNATURE = UserSignature(
    signer_id=A, signer_key_id=USK, user_id=B, master_key_id=BOB.master_key.key_name, signature=USK_TEXT
)


def request(objects: Mapping[str, Mapping[str, Any]]) -> SignaturesUploadRequest:
    return SignaturesUploadRequest(signed_objects=objects)


def decide(
    objects: Mapping[str, Mapping[str, Any]] | SignaturesUploadRequest,
    view: UserKeys = VIEW,
    policy: Policy = SPEC,
    others: Mapping[str, CrossSigningKey | None] = OTHERS,
    **more: Any,
) -> SignaturesDecision:
    asked = objects if isinstance(objects, SignaturesUploadRequest) else request(objects)
    return decide_signatures_upload(asked, requester=ASKING, stored=view, others=others, policy=policy, **more)


def failures(decision: Decision[SignaturesUploadResponse]) -> Any:
    """User id to target to error code and text, as the client reads it."""
    body: Any = decision.require().to_json()["failures"]
    return {
        user: {name: (failure["errcode"], failure["error"]) for name, failure in failed.items()}
        for user, failed in body.items()
    }


def reasons(decision: SignaturesDecision) -> list[tuple[str | None, Reason | None]]:
    return [(judgment.signer_key_id, judgment.reason) for judgment in decision.judgments]


INVALID = ("M_INVALID_SIGNATURE", "Invalid signature")
UNKNOWN = ("M_NOT_FOUND", "Unknown device")
MALFORMED = ("M_INVALID_PARAM", "Invalid parameter")


class TestWhoMaySignWhat:
    """Attack 40: of 4 kinds of signers, 4 kinds of targets and 2 owners, three cells are legal."""

    LEGAL = {(S, D, True), (D, M, True), (U, M, False)}  # noqa: RUF012

    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    @pytest.mark.parametrize(
        ("by", "target", "is_own"), list(itertools.product((D, M, S, U), (D, M, S, U), (True, False)))
    )
    def test_the_matrix(self, by: str, target: str, is_own: bool, policy: Policy) -> None:
        """Attack 40."""
        owner = ALICE if is_own else BOB
        obj = (
            owner.device("PHONE", cross_signed=False).signed if target == D else getattr(owner, f"{target}_key").signed
        )
        name = "PHONE" if target == D else getattr(owner, f"{target}_key").key_id.name
        bare = obj.without_signatures()
        decision = decide({owner.user_id: {name: signed(bare, signer(by))}}, policy=policy)
        if (by, target, is_own) in self.LEGAL:
            assert failures(decision) == {}
            assert len(decision.effects) == 2
            assert reasons(decision) == [(str(signer(by).key_id), None)]
        else:
            assert failures(decision) == {owner.user_id: {name: UNKNOWN if not is_own and target != M else INVALID}}
            assert decision.effects == ()
            assert all(reason is not None for _, reason in reasons(decision))

    @pytest.mark.parametrize("target", ["PHONE", A_MASTER, B_MASTER])
    @pytest.mark.parametrize("by", [D, M, S, U])
    def test_never_a_key_of_somebody_else(self, by: str, target: str) -> None:
        """Attack 40: under whatever name it is put."""
        owner, obj = {"PHONE": (A, PHONE), A_MASTER: (A, MASTER), B_MASTER: (B, B_KEY)}[target]
        bare = obj.without_signatures()
        for user in (A, B):
            decision = decide({owner: {target: signed(bare, signer(by, BOB), user=user)}})
            assert (failures(decision), decision.effects) == ({owner: {target: INVALID}}, ())

    def test_a_name_gives_no_other_key_than_the_stored_one(self) -> None:
        """Attack 25: under the id of the self-signing key, only that key has signed."""
        bare = PHONE.without_signatures()
        by_device = text_of(signed(bare, signer(D)), "ed25519:PHONE")
        decision = decide({A: {"PHONE": with_texts(bare, {SSK: by_device})}})
        assert (failures(decision), decision.effects) == ({A: {"PHONE": INVALID}}, ())

    @pytest.mark.parametrize("usage", [M, S, U])
    def test_a_device_that_is_called_like_a_cross_signing_key_is_no_target_and_no_signer(self, usage: str) -> None:
        """Attack 25: what could be two things is neither."""
        name = ALICE.secret(usage).public_key.to_base64()
        device = ALICE.device(name, cross_signed=False).signed
        view = evolve(VIEW, devices={**VIEW.devices, name: record(device, name)})
        for obj in (signed(device, signer(S)), signed(MASTER, signer(D))):
            decision = decide({A: {name: obj}}, view)
            assert failures(decision) == {A: {name: ("M_INVALID_PARAM", "Key ID in use")}}
            assert (reasons(decision), decision.effects) == ([(None, Reason.IDENTIFIER_COLLISION)], ())
        if usage == U:
            by_either = [signer(U), ALICE.device_signer(name)]
            for each in by_either:
                decision = decide({A: {A_MASTER: signed(MASTER, each)}, B: {B_MASTER: signed(B_KEY, each)}}, view)
                assert failures(decision) == {A: {A_MASTER: INVALID}, B: {B_MASTER: INVALID}}
                assert reasons(decision) == 2 * [(f"ed25519:{name}", Reason.IDENTIFIER_COLLISION)]

    def test_one_key_in_two_roles_signs_nothing(self) -> None:
        """Attack 29."""
        own = sample_secret_key(f"{A} PHONE")
        key = CrossSigningKey.build(user_id=A, usage="self_signing", public_key=own.public_key)
        decision = decide(
            {A: {"LAPTOP": signed(LAPTOP, own.cross_signer()), A_MASTER: BY_PHONE}}, evolve(VIEW, self_signing_key=key)
        )
        assert failures(decision) == {A: {"LAPTOP": INVALID, A_MASTER: INVALID}}
        assert reasons(decision)[1:] == [(key.key_name, Reason.KEY_REUSED), ("ed25519:PHONE", Reason.KEY_REUSED)]


class TestWhatIsStored:
    def test_a_device_with_its_new_signature(self) -> None:
        decision = decide({A: {"PHONE": BY_SSK}})
        stored, notice = decision.effects
        assert isinstance(stored, StoreDeviceKeys)
        assert (stored.user_id, stored.device_id, stored.keys.to_json()) == (A, "PHONE", BY_SSK.to_json())
        assert notice == DeviceChanged(user_id=A, device_id="PHONE")

    def test_the_own_master_key_with_signatures_by_devices(self) -> None:
        """B15: everybody may see them, so it is told as a change of the identity."""
        by_both = signed(MASTER, signer(D), ALICE.device_signer("LAPTOP"))
        decision = decide({A: {A_MASTER: by_both}})
        stored, notice = decision.effects
        assert isinstance(stored, StoreCrossSigningKey)
        assert (stored.user_id, stored.usage, stored.key.to_json()) == (A, "master", by_both.to_json())
        assert notice == IdentityChanged(user_id=A)

    def test_a_signature_on_somebody_else_apart(self) -> None:
        decision = decide({B: {B_MASTER: BY_USK}})
        assert decision.effects == (StoreSignature(signature=THE_SIGNATURE), SignedOthers(user_id=A, signed=(B,)))

    def test_one_notice_names_all_who_were_signed(self) -> None:
        carol = SampleUser("@carol:c.example")
        objects = {
            B: {B_MASTER: BY_USK},
            carol.user_id: {carol.master_key.key_id.name: signed(carol.master_key.signed, signer(U))},
        }
        decision = decide(objects, others={**OTHERS, carol.user_id: carol.master_key})
        assert decision.effects[2:] == (SignedOthers(user_id=A, signed=(B, carol.user_id)),)

    def test_everything_at_once_the_stores_first(self) -> None:
        decision = decide({A: {"PHONE": BY_SSK, A_MASTER: BY_PHONE}, B: {B_MASTER: BY_USK}})
        assert [type(effect) for effect in decision.effects] == [
            StoreDeviceKeys, StoreCrossSigningKey, StoreSignature, DeviceChanged, IdentityChanged, SignedOthers
        ]  # fmt: skip
        assert decision.answer == SignaturesUploadResponse()

    def test_only_the_signatures_come_from_the_request(self) -> None:
        """B18, B21: neither unsigned nor what others signed gets in."""
        stored = signed(PHONE.with_unsigned({"kept": 1}))
        sent = signed(BY_SSK, BOB.device_signer("X"), user=B).with_unsigned({"evil": 1})
        (effect, _) = decide({A: {"PHONE": sent}}, evolve(VIEW, devices={"PHONE": record(stored)})).effects
        assert isinstance(effect, StoreDeviceKeys)
        assert effect.keys.to_json() == BY_SSK.with_unsigned({"kept": 1}).to_json()

    def test_a_stale_signature_is_replaced(self) -> None:
        """B3: one of another time, over other bytes, does not keep the new one out."""
        texts = {**PHONE.signatures[A], SSK: GARBAGE}
        stale = evolve(VIEW, devices={"PHONE": record(with_texts(PHONE, texts))})
        (effect, _) = decide({A: {"PHONE": BY_SSK}}, stale).effects
        assert isinstance(effect, StoreDeviceKeys)
        assert effect.keys.to_json() == BY_SSK.to_json()
        stale = evolve(VIEW, signatures=(evolve(THE_SIGNATURE, signature=GARBAGE),))
        assert decide({B: {B_MASTER: BY_USK}}, stale).effects[0] == StoreSignature(signature=THE_SIGNATURE)

    def test_what_is_stored_already_is_not_stored_again(self) -> None:
        """B20: no duplicates, no notices, and no failure."""
        view = evolve(
            VIEW,
            devices={**VIEW.devices, "PHONE": record(BY_SSK)},
            master_key=ALICE.master_key.with_signed(BY_PHONE),
            signatures=(THE_SIGNATURE,),
        )
        decision = decide({A: {"PHONE": BY_SSK, A_MASTER: BY_PHONE}, B: {B_MASTER: BY_USK}}, view)
        assert (decision.answer, decision.effects) == (SignaturesUploadResponse(), ())
        assert [judgment.is_new for judgment in decision.judgments if judgment.reason is None] == [False] * 3

    def test_padding_makes_no_new_signature(self) -> None:
        """B20: stored as unpadded base64, and recognized."""
        padded = with_texts(PHONE, {SSK: text_of(BY_SSK, SSK) + "=="})
        (effect, _) = decide({A: {"PHONE": padded}}).effects
        assert isinstance(effect, StoreDeviceKeys)
        assert effect.keys.to_json() == BY_SSK.to_json()
        assert decide({A: {"PHONE": padded}}, evolve(VIEW, devices={"PHONE": record(BY_SSK)})).effects == ()

    def test_only_what_was_signed_of_that_master_key_counts_as_stored(self) -> None:
        for other in (evolve(THE_SIGNATURE, user_id="@x:x.example"), evolve(THE_SIGNATURE, master_key_id="ed25519:x")):
            assert len(decide({B: {B_MASTER: BY_USK}}, evolve(VIEW, signatures=(other,))).effects) == 2

    def test_nothing_is_changed(self) -> None:
        before = (PHONE.to_json(), MASTER.to_json(), BY_SSK.to_json())
        decide({A: {"PHONE": BY_SSK, A_MASTER: BY_PHONE}})
        assert (PHONE.to_json(), MASTER.to_json(), BY_SSK.to_json()) == before


class TestEachSignatureForItself:
    def test_good_ones_are_stored_beside_a_bad_one_that_is_named(self) -> None:
        """Attack 40: the target fails, and what was good is there."""
        texts = {**BY_PHONE.signatures[A], "ed25519:LAPTOP": GARBAGE}
        decision = decide({A: {A_MASTER: with_texts(MASTER, texts)}})
        assert failures(decision) == {A: {A_MASTER: INVALID}}
        assert reasons(decision) == [("ed25519:PHONE", None), ("ed25519:LAPTOP", Reason.INVALID_SIGNATURE)]
        (effect, _) = decision.effects
        assert isinstance(effect, StoreCrossSigningKey)
        assert effect.key.to_json() == BY_PHONE.to_json()

    def test_a_bad_one_in_the_place_of_a_stored_one(self) -> None:
        """B4: it fails, and the stored one stays."""
        view = evolve(
            VIEW,
            devices={"PHONE": record(BY_SSK)},
            master_key=ALICE.master_key.with_signed(BY_PHONE),
            signatures=(THE_SIGNATURE,),
        )
        bad = {
            A: {"PHONE": with_texts(PHONE, {SSK: GARBAGE}), A_MASTER: with_texts(MASTER, {"ed25519:PHONE": GARBAGE})},
            B: {B_MASTER: with_texts(B_KEY, {USK: GARBAGE})},
        }
        decision = decide(bad, view)
        assert failures(decision) == {A: {"PHONE": INVALID, A_MASTER: INVALID}, B: {B_MASTER: INVALID}}
        assert decision.effects == ()

    def test_those_the_object_has_anyway_are_no_failure(self) -> None:
        """Clients send them along: the own signature of the target, and what the server has."""
        stored = with_texts(MASTER, {"ed25519:GONE": GARBAGE})
        sent = signed(merge(stored, BY_PHONE), signer(M))
        decision = decide({A: {A_MASTER: sent}}, evolve(VIEW, master_key=ALICE.master_key.with_signed(stored)))
        assert failures(decision) == {}
        assert [(j.signer_key_id, j.reason, j.is_new) for j in decision.judgments] == [
            ("ed25519:GONE", Reason.MISSING_KEY, False),
            ("ed25519:PHONE", None, True),
            (f"ed25519:{A_MASTER}", Reason.WRONG_USAGE, False),
        ]
        assert len(decision.effects) == 2

    def test_those_the_object_has_anyway_are_no_success_alone(self) -> None:
        decision = decide({A: {"PHONE": PHONE, A_MASTER: signed(MASTER, signer(M))}})
        assert failures(decision) == {A: {"PHONE": INVALID, A_MASTER: INVALID}}

    def test_a_stored_one_that_is_bad_is_no_success_either(self) -> None:
        stale = with_texts(PHONE, {SSK: GARBAGE})
        decision = decide({A: {"PHONE": stale}}, evolve(VIEW, devices={"PHONE": record(stale)}))
        assert failures(decision) == {A: {"PHONE": INVALID}}

    def test_the_own_id_of_somebody_elses_key_is_a_new_signature(self) -> None:
        texts = {**BY_USK.signatures[A], f"ed25519:{B_MASTER}": GARBAGE}
        decision = decide({B: {B_MASTER: with_texts(B_KEY, texts)}})
        assert failures(decision) == {B: {B_MASTER: INVALID}}
        assert decision.effects[0] == StoreSignature(signature=THE_SIGNATURE)

    @pytest.mark.parametrize(
        ("key_id", "reason"),
        [
            ("nocolon", Reason.INVALID_KEY_ID),
            ("", Reason.INVALID_KEY_ID),
            (":", Reason.INVALID_KEY_ID),
            ("ed25519:", Reason.INVALID_KEY_ID),
            (":PHONE", Reason.INVALID_KEY_ID),
            ("curve25519:PHONE", Reason.UNSUPPORTED_ALGORITHM),
            ("ed25519:UNKNOWN", Reason.MISSING_KEY),
            ("ed25519:KEYLESS", Reason.MISSING_KEY),
            ("ed25519:PHONE:x", Reason.MISSING_KEY),
            ("ed25519:\ud800\x00", Reason.MISSING_KEY),
            ("ed25519:LAPTOP", Reason.WRONG_USAGE),
            (SSK, Reason.INVALID_SIGNATURE),
        ],
    )
    def test_whatever_the_key_id(self, key_id: str, reason: Reason) -> None:
        """B9, attack 49: a key id that is none fails its target and nothing else."""
        decision = decide({A: {"PHONE": with_texts(PHONE, {key_id: GARBAGE}), "LAPTOP": signed(LAPTOP, signer(S))}})
        assert failures(decision) == {A: {"PHONE": INVALID}}
        assert reasons(decision)[0] == (key_id, reason)
        assert DeviceChanged(user_id=A, device_id="LAPTOP") in decision.effects

    @pytest.mark.parametrize("text", ["", "!", "A", GARBAGE[:-1], GARBAGE + "A", "\ud800", "-" * 86])
    def test_whatever_the_text(self, text: str) -> None:
        decision = decide({A: {"PHONE": with_texts(PHONE, {SSK: text})}})
        assert (failures(decision), decision.effects) == ({A: {"PHONE": INVALID}}, ())

    @pytest.mark.parametrize(
        "objects",
        [
            PHONE.without_signatures(),
            with_texts(PHONE, {}),
            with_texts(PHONE.without_signatures(), {SSK: GARBAGE}, user=B),
        ],
    )
    def test_no_signature_at_all(self, objects: SignedJson) -> None:
        """Attack 40: an object without signatures of the requester is no success."""
        decision = decide({A: {"PHONE": objects}})
        assert (failures(decision), reasons(decision)) == ({A: {"PHONE": INVALID}}, [(None, Reason.MISSING_SIGNATURE)])

    def test_judgments_name_user_and_target(self) -> None:
        assert decide({B: {B_MASTER: BY_USK, "X": BY_USK}}).judgments == (
            SignatureJudgment(user_id=B, target=B_MASTER, signer_key_id=USK, reason=None, is_new=True),
            SignatureJudgment(user_id=B, target="X", signer_key_id=None, reason=Reason.MISSING_KEY, is_new=True),
        )


def merge(stored: SignedJson, sent: SignedJson) -> SignedJson:
    key = ALICE.master_key
    return merge_signatures(key.with_signed(stored), key.with_signed(sent)).signed


def changed(obj: SignedJson, *signers: Signer) -> SignedJson:
    return signed(SignedJson.from_json({**obj.content, "more": 1}), *signers)


WITHOUT_SSK = evolve(VIEW, self_signing_key=None)
WITHOUT_USK = evolve(VIEW, user_signing_key=None)
WITHOUT_MASTER = evolve(VIEW, master_key=None)
SHARED = sample_secret_key("shared")


class TestWhatFailsAsAWhole:
    @pytest.mark.parametrize(
        ("view", "objects", "failure", "reason"),
        [
            (VIEW, {A: {"PHONE": changed(PHONE, signer(S))}}, ("M_UNKNOWN", "Key does not match"), Reason.WOULD_CHANGE_KEYS),
            (VIEW, {A: {A_MASTER: changed(MASTER, signer(D))}}, ("M_UNKNOWN", "Key does not match"), Reason.WOULD_CHANGE_KEYS),
            (VIEW, {B: {B_MASTER: changed(B_KEY, signer(U))}}, ("M_UNKNOWN", "Key does not match"), Reason.WOULD_CHANGE_KEYS),
            (VIEW, {A: {"PHONE": signed(LAPTOP, signer(S))}}, ("M_UNKNOWN", "Key does not match"), Reason.WOULD_CHANGE_KEYS),
            (VIEW, {A: {"UNKNOWN": BY_SSK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {A: {"KEYLESS": BY_SSK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {A: {"": BY_SSK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {A: {"ed25519:PHONE": BY_SSK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {B: {"PHONE": BY_USK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {B: {BOB.master_key.key_name: BY_USK}}, UNKNOWN, Reason.MISSING_KEY),
            (VIEW, {"@x:x.example": {B_MASTER: BY_USK}}, ("M_NOT_FOUND", "No master key found for @x:x.example"), Reason.MISSING_MASTER_KEY),
            (WITHOUT_SSK, {A: {"PHONE": BY_SSK}}, ("M_NOT_FOUND", f"No self_signing key found for {A}"), Reason.MISSING_SELF_SIGNING_KEY),
            (WITHOUT_USK, {B: {B_MASTER: BY_USK}}, ("M_NOT_FOUND", f"No user_signing key found for {A}"), Reason.MISSING_KEY),
            (WITHOUT_MASTER, {A: {A_MASTER: BY_PHONE}}, ("M_NOT_FOUND", f"No master key found for {A}"), Reason.MISSING_MASTER_KEY),
            (VIEW, {A: {ALICE.self_signing_key.key_id.name: signed(ALICE.self_signing_key.signed, signer(M))}}, INVALID, Reason.WRONG_USAGE),
            (VIEW, {A: {ALICE.user_signing_key.key_id.name: signed(ALICE.user_signing_key.signed, signer(M))}}, INVALID, Reason.WRONG_USAGE),
        ],
    )  # fmt: skip
    def test_the_table(self, view: UserKeys, objects: Any, failure: tuple[str, str], reason: Reason) -> None:
        """Attack 40: no object but the stored ones, and no roles but the three."""
        ((user, targets),) = objects.items()
        ((name, _),) = targets.items()
        decision = decide(objects, view)
        assert failures(decision) == {user: {name: failure}}
        assert (reasons(decision), decision.effects) == ([(None, reason)], ())

    def test_devices_can_sign_without_a_self_signing_key(self) -> None:
        assert failures(decide({A: {A_MASTER: BY_PHONE}}, WITHOUT_SSK)) == {}

    @pytest.mark.parametrize(
        "key",
        [
            None,
            ALICE.master_key,
            BOB.user_signing_key,
            CrossSigningKey.from_json({"user_id": B, "usage": ["master"], "keys": {"new:abc": "abc"}}),
        ],
    )
    def test_a_master_key_of_somebody_else_that_is_none(self, key: CrossSigningKey | None) -> None:
        """Attack 40: whatever another server tells, only a master key of that user is signed."""
        obj = B_KEY if key is None else key.signed
        name = "x" if key is None else key.key_id.name
        decision = decide({B: {name: signed(obj, signer(U))}}, others={B: key})
        assert failures(decision) == {B: {name: ("M_NOT_FOUND", f"No master key found for {B}")}}

    def test_the_form_of_deployed_servers(self) -> None:
        objects = {A: {"PHONE": PHONE, "UNKNOWN": PHONE}}
        assert decide(objects, deployed_failures=True).require().to_json() == {
            "failures": {
                A: {
                    "PHONE": {"status": 400, "errcode": "M_INVALID_SIGNATURE", "message": "400: Invalid signature"},
                    "UNKNOWN": {"status": 404, "errcode": "M_NOT_FOUND", "message": "404: Unknown device"},
                }
            }
        }
        assert decide(objects).require().to_json() == {
            "failures": {
                A: {
                    "PHONE": {"errcode": "M_INVALID_SIGNATURE", "error": "Invalid signature"},
                    "UNKNOWN": {"errcode": "M_NOT_FOUND", "error": "Unknown device"},
                }
            }
        }

    def test_nothing(self) -> None:
        assert decide({}) == SignaturesDecision(answer=SignaturesUploadResponse())
        assert decide({A: {}, B: {}}) == SignaturesDecision(answer=SignaturesUploadResponse())


class TestMalformedEntries:
    @pytest.mark.parametrize("policy", [COMPAT, SPEC, STRICT])
    @pytest.mark.parametrize(
        "bad",
        ["null", "1", '"text"', "[]", '{"a":1.5}', '{"signatures":1}', '{"signatures":{"@a:b":1}}', '{"a":"\\ud800"}'],
    )
    def test_an_object_that_is_none_costs_no_other_target_anything(self, policy: Policy, bad: str) -> None:
        """B9: no server error, whatever stands there."""
        good = request({A: {"PHONE": BY_SSK}}).to_http().body.decode()[:-2]
        body = f'{good},"X":{bad}}},"{B}":{{"Y":{bad}}}}}'
        decision = decide(SignaturesUploadRequest.from_bytes(body), policy=policy)
        assert failures(decision) == {A: {"X": MALFORMED}, B: {"Y": MALFORMED}}
        assert len(decision.effects) == 2

    @pytest.mark.parametrize(
        ("user", "value", "expected"),
        [
            ("bob", {"X": {}, "Y": 1}, {"X": MALFORMED, "Y": MALFORMED}),
            ("bob", 1, {"": MALFORMED}),
            ("bob", {}, {"": MALFORMED}),
            ("@bob", {"X": BY_USK.to_json()}, {"X": MALFORMED}),
            ("", None, {"": MALFORMED}),
            (B, None, {"": MALFORMED}),
            (B, [1], {"": MALFORMED}),
            (A, "text", {"": MALFORMED}),
        ],
    )
    def test_a_user_who_is_none_and_a_users_entry_that_is_none(self, user: str, value: Any, expected: Any) -> None:
        """B9: each target that can be named fails, and nobody else."""
        other = {} if user == A else {A: {"PHONE": BY_SSK.to_json()}}
        decision = decide(SignaturesUploadRequest.from_json({**other, user: value}))
        assert failures(decision) == {user: expected}
        assert len(decision.effects) == (0 if user == A else 2)
        read = SignaturesUploadResponse.from_http(decision.to_http())
        assert [name for name, *_ in read.failed] == [user]

    def test_reasons_are_those_of_the_reader(self) -> None:
        decision = decide(SignaturesUploadRequest.from_json({"bob": {"X": {}}, A: {"PHONE": 1}}))
        assert reasons(decision) == [(None, Reason.INVALID_IDENTIFIER), (None, Reason.WRONG_TYPE)]

    def test_names_that_cannot_be_encoded_are_answered(self) -> None:
        body = (
            b'{"\\ud800":{"\\udfff":{}},"@a:a.example":{"\\ud800":{}},"@alice:a.example":{"\\ud800":{"signatures":{}}}}'
        )
        decision = decide(SignaturesUploadRequest.from_bytes(body))
        assert decision.to_http().status == 200
        assert len(failures(decision)) == 3

    def test_a_rejection_made_by_hand(self) -> None:
        made = Rejection(path="", reason=Reason.WRONG_TYPE, detail="", raw={1: 2, "X": 3})
        assert failures(decide({B: made})) == {B: {"X": MALFORMED}}  # type: ignore[dict-item]

    @few
    @given(
        st.dictionaries(
            st.sampled_from([A, B, "bob", "\ud800", ""]),
            json_like_values()
            | st.dictionaries(st.sampled_from(["PHONE", A_MASTER, B_MASTER, "\ud800"]), json_like_values()),
        ),
        st.sampled_from([COMPAT, SPEC, STRICT]),
        st.booleans(),
    )
    def test_any_body_is_answered(self, body: dict[str, Any], policy: Policy, deployed: bool) -> None:
        """Attack 54: nothing but a decision comes of it, which can be written and read."""
        asked = SignaturesUploadRequest.from_json(body)
        decision = decide(asked, policy=policy, deployed_failures=deployed)
        assert (decision.to_http().status, decision.effects) == (200, ())
        assert {judgment.user_id for judgment in decision.judgments} == set(failures_of(decision))

    @few
    @given(
        st.dictionaries(
            st.text(st.characters(), max_size=5) | st.sampled_from([SSK, "ed25519:PHONE"]),
            st.text(st.characters(), max_size=5),
        )
    )
    def test_any_signatures_are_judged(self, texts: dict[str, str]) -> None:
        decision = decide({A: {"PHONE": with_texts(PHONE, {**texts, "x": ""})}})
        assert [key_id for key_id, _ in reasons(decision)] == list({**texts, "x": ""})
        assert decision.effects == ()


def failures_of(decision: SignaturesDecision) -> list[str]:
    return list(decision.require().failures)


class TestLimits:
    """Attack 48."""

    def limited(self, **limits: int) -> Policy:
        return evolve(SPEC, limits=evolve(SPEC.limits, **limits))

    @pytest.mark.parametrize(("limit", "is_refused"), [(2, False), (1, True)])
    def test_users(self, limit: int, is_refused: bool) -> None:
        """Attack 48: one more than allowed refuses the request."""
        decision = decide({A: {"PHONE": BY_SSK}, B: {B_MASTER: BY_USK}}, policy=self.limited(users_per_request=limit))
        self.check(decision, is_refused, "Too many users")

    @pytest.mark.parametrize(("limit", "is_refused"), [(3, False), (2, True)])
    def test_targets(self, limit: int, is_refused: bool) -> None:
        """Attack 48: those that are malformed count too."""
        asked = SignaturesUploadRequest.from_json({A: {"PHONE": BY_SSK.to_json(), "LAPTOP": 1}, "bob": {"X": 1}})
        self.check(decide(asked, policy=self.limited(devices_per_request=limit)), is_refused, "Too many keys")

    def check(self, decision: SignaturesDecision, is_refused: bool, text: str) -> None:
        assert decision.is_refusal is is_refused
        if is_refused:
            assert decision == SignaturesDecision(answer=MatrixError(status=400, errcode="M_TOO_LARGE", error=text))

    @pytest.mark.parametrize(("limit", "is_refused"), [(3, False), (2, True)])
    def test_signatures_on_one_object(self, limit: int, is_refused: bool) -> None:
        """Attack 48: whoever made them; the other targets are none the worse."""
        sent = signed(BY_SSK, BOB.device_signer("X"), user=B)
        assert sum(map(len, sent.signatures.values())) == 3
        decision = decide(
            {A: {"PHONE": sent, "LAPTOP": signed(LAPTOP, signer(S))}}, policy=self.limited(signatures_per_object=limit)
        )
        expected = {A: {"PHONE": ("M_TOO_LARGE", "Too many signatures")}} if is_refused else {}
        assert failures(decision) == expected
        assert len(decision.effects) == (2 if is_refused else 4)

    @pytest.mark.parametrize(("limit", "is_refused"), [(3, False), (2, True)])
    def test_signatures_that_are_stored_count_too(self, limit: int, is_refused: bool) -> None:
        """Attack 48: an object does not grow by one signature at a time."""
        stored = with_texts(MASTER, {"ed25519:GONE": GARBAGE, "ed25519:PHONE": GARBAGE})
        view = evolve(VIEW, master_key=ALICE.master_key.with_signed(stored))
        sent = signed(MASTER, signer(D), ALICE.device_signer("LAPTOP"))
        decision = decide({A: {A_MASTER: sent}}, view, self.limited(signatures_per_object=limit))
        assert bool(failures(decision)) is is_refused


class TestSignedUsers:
    def test_those_whose_master_keys_are_needed(self) -> None:
        asked = SignaturesUploadRequest.from_json(
            {A: {"PHONE": {}}, B: {"X": {}}, "@c:c.example": {"X": 1, "Y": {}}, "@d:d.example": {}, "@e:e.example": {"X": 1}, "@f:f": 1, "g": {"X": {}}}
        )  # fmt: skip
        assert signed_users(asked, requester=ASKING) == (B, "@c:c.example")

    def test_wrong_arguments(self) -> None:
        with pytest.raises(LocalProtocolError, match="SignaturesUploadRequest"):
            signed_users(1, requester=ASKING)  # type: ignore[arg-type]
        with pytest.raises(LocalProtocolError, match="Requester"):
            signed_users(request({}), requester=1)  # type: ignore[arg-type]


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "path", "reason"),
        [
            *[({name: 1}, f"/{name}", Reason.WRONG_TYPE) for name in ("request", "requester", "stored", "others", "policy", "deployed_failures", "verifier")],
            ({"others": {B: 1}}, f"/others/{B}", Reason.WRONG_TYPE),
            ({"others": {1: None}}, "/others", Reason.WRONG_TYPE),
            ({"stored": UserKeys(user_id=B)}, "/stored", Reason.USER_ID_MISMATCH),
        ],
    )  # fmt: skip
    def test_wrong_ones(self, arguments: dict[str, Any], path: str, reason: Reason) -> None:
        right: dict[str, Any] = {"request": request({}), "requester": ASKING, "stored": VIEW}
        with pytest.raises(LocalProtocolError) as caught:
            decide_signatures_upload(**{**right, **arguments})
        assert (caught.value.path, caught.value.reason) == (path, reason)

    def test_all_questions_are_asked_at_once(self) -> None:
        asked: list[int] = []

        class Counting:
            def verify_many(self, checks: Sequence[Any], /) -> list[bool]:
                asked.append(len(checks))
                return [True] * len(checks)

        assert (
            failures(decide({A: {"PHONE": BY_SSK, A_MASTER: BY_PHONE}, B: {B_MASTER: BY_USK}}, verifier=Counting()))
            == {}
        )
        assert asked == [3]

    def test_by_default_nobody_elses_master_key_is_known(self) -> None:
        decision = decide_signatures_upload(request({B: {B_MASTER: BY_USK}}), requester=ASKING, stored=VIEW)
        assert failures(decision) == {B: {B_MASTER: ("M_NOT_FOUND", f"No master key found for {B}")}}

    def test_only_errors_of_this_library(self) -> None:
        calls: list[Callable[[], object]] = [
            lambda: decide_signatures_upload(None, requester=None, stored=None),  # type: ignore[arg-type]
            lambda: signed_users(None, requester=None),  # type: ignore[arg-type]
        ]
        for call in calls:
            with pytest.raises(E2EKeysError):
                call()


class TestRoles:
    def test_what_is_stored_decides(self) -> None:
        own = OwnKeys.of(VIEW)
        assert own.signer("ed25519:PHONE") == SigningKey(
            role=Role.DEVICE, raw=sample_secret_key(f"{A} PHONE").public_key.raw
        )
        for usage in (M, S, U):
            key = ALICE.secret(usage).public_key
            assert own.signer(f"ed25519:{key.to_base64()}") == SigningKey(role=Role(usage), raw=key.raw)

    @pytest.mark.parametrize(
        "keys",
        [
            {},
            {"keys": 1},
            {"keys": {"ed25519:PHONE": 1}},
            {"keys": {"ed25519:PHONE": "!"}},
            {"keys": {"ed25519:PHONE": "A" * 43}},  # of small order
            {"keys": {"ed25519:OTHER": sample_secret_key(f"{A} PHONE").public_key.to_base64()}},
        ],
    )
    def test_a_stored_device_whose_key_cannot_be_used_signs_nothing(self, keys: dict[str, Any]) -> None:
        """Attack 25: its key counts under its own name only."""
        own = OwnKeys.of(UserKeys(user_id=A, devices={"PHONE": record(SignedJson.from_json(keys))}))
        assert own.signer("ed25519:PHONE") is Reason.MISSING_KEY
        assert own.roles == {"PHONE": (Role.DEVICE,)}

    def test_a_cross_signing_key_of_another_algorithm_signs_nothing(self) -> None:
        key = CrossSigningKey.from_json({"user_id": A, "usage": ["self_signing"], "keys": {"new:abc": "abc"}})
        own = OwnKeys.of(evolve(VIEW, self_signing_key=key))
        assert own.signer("new:abc") is Reason.UNSUPPORTED_ALGORITHM
        assert own.signer("ed25519:abc") is Reason.MISSING_KEY


# --------------------------------------------------------------------------------------------------------------
# Any uploads, in any order
# --------------------------------------------------------------------------------------------------------------


def applied(view: UserKeys, effects: Sequence[Any]) -> UserKeys:
    """What is stored after a decision."""
    for effect in effects:
        if isinstance(effect, StoreDeviceKeys):
            view = evolve(view, devices={**view.devices, effect.device_id: record(effect.keys, effect.device_id)})
        elif isinstance(effect, StoreCrossSigningKey):
            stored: dict[str, Any] = {f"{effect.usage}_key": effect.key}
            view = evolve(view, **stored)
        elif isinstance(effect, DropCrossSigningKey):
            gone: dict[str, Any] = {f"{effect.usage}_key": None}
            view = evolve(view, **gone)
        elif isinstance(effect, StoreSignature):
            kept = tuple(made for made in view.signatures if made.user_id != effect.signature.user_id)
            view = evolve(view, signatures=(*kept, effect.signature))
        elif isinstance(effect, DropSignaturesBy):
            view = evolve(view, signatures=())
    return view


def check_consistent(view: UserKeys) -> None:
    """Every signature that is stored is one by a key of the right role that is still there."""
    master, self_signing, user_signing = view.master_key, view.self_signing_key, view.user_signing_key
    for key in (self_signing, user_signing):
        if key is not None:
            assert master is not None
            assert master.public_key is not None
            key.signed.verify(entity=A, key_id=master.key_id, key=master.public_key)
    for name, device in view.devices.items():
        made = {} if device.keys is None else dict(device.keys.signatures[A])
        made.pop(f"ed25519:{name}", None)
        if made and device.keys is not None:
            assert self_signing is not None
            assert self_signing.public_key is not None
            assert made.keys() == {self_signing.key_name}
            device.keys.verify(entity=A, key_id=self_signing.key_id, key=self_signing.public_key)
    if master is not None:
        for key_id in master.signed.signatures.get(A, {}):
            by_itself = master.public_key if key_id == master.key_name else None
            by_device = ALICE.device_signer(key_id.partition(":")[2]).public_key
            master.signed.verify(entity=A, key_id=key_id, key=by_itself or by_device)
    for signature in view.signatures:
        assert user_signing is not None
        assert user_signing.public_key is not None
        assert signature.signer_key_id == user_signing.key_name
        with_it = with_texts(B_KEY, {signature.signer_key_id: signature.signature})
        with_it.verify(entity=A, key_id=user_signing.key_id, key=user_signing.public_key)


GENERATIONS = [SampleUser(A, generation=number) for number in range(2)]
KEYS = {
    usage: [
        None,
        *(signed(getattr(user, f"{usage}_key").signed.without_signatures(), by.secret(M).cross_signer()).to_json()
          for user in GENERATIONS for by in GENERATIONS),
    ]
    for usage in (M, S, U)
}  # fmt: skip
SIGNERS = [GENERATIONS[0].device_signer("PHONE"), *(signer(usage, user) for user in GENERATIONS for usage in (M, S, U))]
TARGETS = [(A, "PHONE", PHONE), (A, "LAPTOP", LAPTOP), (B, B_MASTER, B_KEY)] + [
    (A, user.master_key.key_id.name, user.master_key.signed) for user in GENERATIONS
]

IDENTITIES = [{usage: getattr(user, f"{usage}_key").to_json() for usage in (M, S, U)} for user in GENERATIONS]
LEGAL = [
    *(((A, "PHONE", PHONE), [user.secret(S).cross_signer()], "") for user in GENERATIONS),
    *(((A, user.master_key.key_id.name, user.master_key.signed), [signer(D)], "") for user in GENERATIONS),
    *(((B, B_MASTER, B_KEY), [user.secret(U).cross_signer()], "") for user in GENERATIONS),
]

key_uploads = st.sampled_from(IDENTITIES) | st.fixed_dictionaries(
    {usage: st.sampled_from(keys) for usage, keys in KEYS.items()}
)
signature_uploads = st.sampled_from(LEGAL) | st.tuples(
    st.sampled_from(TARGETS),
    st.lists(st.sampled_from(SIGNERS), max_size=3),
    st.sampled_from(["", str(SIGNERS[2].key_id)]),
)


class TestAnyUploadsInAnyOrder:
    @few
    @given(st.lists(key_uploads | signature_uploads, min_size=6, max_size=20))
    @example([IDENTITIES[0], *LEGAL, IDENTITIES[1], *LEGAL, IDENTITIES[0]])
    def test_only_good_signatures_by_keys_that_are_there_are_stored(self, uploads: list[Any]) -> None:
        """Attacks 26, 40 and 54: what is stored is consistent at any time, and the same again changes nothing."""
        requester = evolve(ASKING, has_authenticated=True)
        view = UserKeys(user_id=A, devices=VIEW.devices)
        for upload in uploads:
            for attempt in range(2):
                decision: Decision[Any]
                if isinstance(upload, dict):
                    body = {f"{usage}_key": key for usage, key in upload.items() if key is not None}
                    asked = DeviceSigningUploadRequest.from_json(body)
                    decision = decide_device_signing_upload(asked, requester=requester, stored=view)
                else:
                    (user, name, obj), signers, bad = upload
                    sent = signed(obj, *signers)
                    sent = with_texts(sent, {**sent.signatures.get(A, {}), bad: GARBAGE}) if bad else sent
                    decision = decide({user: {name: sent}}, view)
                assert not (attempt and decision.effects)
                assert not (decision.is_refusal and decision.effects)
                view = applied(view, decision.effects)
                check_consistent(view)
