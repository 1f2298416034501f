"""Signatures that were uploaded: what the server says it took, and what it serves."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    E2EKeysError,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    QueryResult,
    Reason,
    Rejection,
    RemoteProtocolError,
    SignatureFailure,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    SignedJson,
    UserIdentity,
    VerificationError,
    check_query,
)
from matrix_e2e_keys.client.cross_signing.device_signing import sign_own_master_key
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.served import (
    SignatureConfirmation,
    UnservedSignature,
    UploadedSignature,
    confirm_signatures,
    verify_served_device,
)
from matrix_e2e_keys.client.cross_signing.signatures import (
    RefusedSignatures,
    SignaturesUploadResult,
    check_signatures_upload,
)
from matrix_e2e_keys.errors import json_pointer
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ME = SampleUser("@me:a.example")
BOB = SampleUser("@bob:b.example")
SECRETS = CrossSigningSecrets(
    user_id=ME.user_id, self_signing=ME.secret("self_signing"), user_signing=ME.secret("user_signing")
)
PHONE = ME.device("PHONE", cross_signed=False)
OWN_DEVICE = PHONE.verify()
MASTER = ME.master_public_key.to_base64()
BOBS_MASTER = BOB.master_public_key.to_base64()
SELF_SIGNING_ID = f"ed25519:{ME.secret('self_signing').public_key.to_base64()}"
USER_SIGNING_ID = f"ed25519:{ME.secret('user_signing').public_key.to_base64()}"

SIGNED_PHONE = SECRETS.sign_device(OWN_DEVICE)
SIGNED_MASTER = sign_own_master_key(ME.master_key, device=OWN_DEVICE, signer=ME.device_signer("PHONE"))
SIGNED_BOB = SECRETS.sign_user(UserIdentity.verify(master_key=BOB.master_key, self_signing_key=BOB.self_signing_key))
REQUEST = SignaturesUploadRequest.for_keys([SIGNED_PHONE, SIGNED_MASTER, SIGNED_BOB])

OF_PHONE = UploadedSignature(user_id=ME.user_id, name="PHONE", signed_by=ME.user_id, key_id=SELF_SIGNING_ID)
OF_MASTER = UploadedSignature(user_id=ME.user_id, name=MASTER, signed_by=ME.user_id, key_id="ed25519:PHONE")
OF_BOB = UploadedSignature(user_id=BOB.user_id, name=BOBS_MASTER, signed_by=ME.user_id, key_id=USER_SIGNING_ID)
ALL = (OF_PHONE, OF_MASTER, OF_BOB)


def refused(call: Callable[[], object]) -> tuple[Reason, str]:
    with pytest.raises(LocalProtocolError) as caught:
        call()
    return caught.value.reason, caught.value.path


class TestMerging:
    def test_signatures_come_beside_those_that_are_there(self) -> None:
        merged = merge_signatures(PHONE, SIGNED_PHONE)
        assert merged == PHONE
        assert {entity: {*by} for entity, by in merged.signed.signatures.items()} == {
            ME.user_id: {"ed25519:PHONE", SELF_SIGNING_ID}
        }
        assert [*PHONE.signed.signatures[ME.user_id]] == ["ed25519:PHONE"]
        assert merged.signed.signatures == merge_signatures(SIGNED_PHONE, PHONE).signed.signatures

    def test_unsigned_stays(self) -> None:
        named = PHONE.with_signed(PHONE.signed.with_unsigned({"device_display_name": "Phone"}))
        assert merge_signatures(named, SIGNED_PHONE).untrusted_display_name == "Phone"
        assert merge_signatures(SIGNED_PHONE, named).untrusted_display_name is None

    def test_a_signature_under_the_same_key_id_is_replaced(self) -> None:
        junk = SIGNED_BOB.to_json()
        junk["signatures"] = {ME.user_id: {USER_SIGNING_ID: "junk", "x:y": "kept"}, BOB.user_id: {"a:b": "kept"}}
        merged = merge_signatures(CrossSigningKey.from_json(junk), SIGNED_BOB)
        assert merged.to_json()["signatures"] == {
            ME.user_id: {USER_SIGNING_ID: SIGNED_BOB.signed.signatures[ME.user_id][USER_SIGNING_ID], "x:y": "kept"},
            BOB.user_id: {"a:b": "kept"},
        }

    def test_objects_without_signatures(self) -> None:
        bare = PHONE.with_signed(PHONE.signed.without_signatures())
        assert merge_signatures(bare, PHONE).signed.signatures == PHONE.signed.signatures
        assert merge_signatures(PHONE, bare).signed.signatures == PHONE.signed.signatures

    def test_other_bytes(self) -> None:
        assert refused(lambda: merge_signatures(PHONE, ME.device("LAPTOP")))[0] is Reason.INVALID_VALUE
        assert refused(lambda: merge_signatures(ME.master_key, SIGNED_BOB))[0] is Reason.INVALID_VALUE

    @pytest.mark.parametrize(
        ("key", "signed"), [(PHONE, SIGNED_BOB), (SIGNED_BOB, PHONE), (None, None), (PHONE.signed, PHONE.signed)]
    )
    def test_other_types(self, key: Any, signed: Any) -> None:
        assert refused(lambda: merge_signatures(key, signed))[0] is Reason.WRONG_TYPE


def answered(failures: Any) -> SignaturesUploadResult:
    return check_signatures_upload(REQUEST, SignaturesUploadResponse.from_json({"failures": failures}))


class TestWhatTheServerSays:
    def test_nothing_was_refused(self) -> None:
        for body in ({"failures": {}}, {}, {"failures": {ME.user_id: {}}}):
            result = check_signatures_upload(REQUEST, SignaturesUploadResponse.from_json(body))
            assert result.stored == {ME.user_id: {"PHONE", MASTER}, BOB.user_id: {BOBS_MASTER}}
            assert (result.refused, result.unknown, result.notices) == ((), {}, ())
            assert result.is_complete
            result.require_all()

    @pytest.mark.parametrize(
        "failure",
        [
            {"errcode": "M_INVALID_SIGNATURE", "error": "Invalid signature"},
            {"status": 400, "errcode": "M_INVALID_SIGNATURE", "message": "Invalid signature"},
        ],
    )
    def test_a_refusal_within_a_yes(self, failure: dict[str, Any]) -> None:
        """Pain A3: "200 OK" is no success."""
        result = answered({ME.user_id: {"PHONE": failure}})
        assert result.stored == {ME.user_id: {MASTER}, BOB.user_id: {BOBS_MASTER}}
        assert result.refused == (
            RefusedSignatures(user_id=ME.user_id, name="PHONE", failure=SignatureFailure(**failure)),
        )
        assert (result.is_complete, result.notices) == (False, ())
        with pytest.raises(RemoteProtocolError) as caught:
            result.require_all()
        error = caught.value
        assert (error.reason, error.path) == (Reason.ANSWERED_WITH_ERROR, f"/failures/{ME.user_id}/PHONE")
        assert error.in_answer
        assert "M_INVALID_SIGNATURE" in error.detail
        assert "Invalid signature" in error.detail

    def test_the_first_refusal_is_raised(self) -> None:
        result = answered({BOB.user_id: {BOBS_MASTER: {}}, ME.user_id: {MASTER: {}, "PHONE": {}}})
        assert result.stored == {}
        assert [(it.user_id, it.name) for it in result.refused] == [
            (BOB.user_id, BOBS_MASTER),
            (ME.user_id, MASTER),
            (ME.user_id, "PHONE"),
        ]
        with pytest.raises(RemoteProtocolError) as caught:
            result.require_all()
        assert caught.value.path == json_pointer(("failures", BOB.user_id, BOBS_MASTER))

    def test_a_malformed_failure_is_a_failure(self) -> None:
        result = answered({ME.user_id: {"PHONE": 5}})
        (it,) = result.refused
        assert isinstance(it.failure, Rejection)
        assert result.stored == {ME.user_id: {MASTER}, BOB.user_id: {BOBS_MASTER}}
        with pytest.raises(RemoteProtocolError, match="PHONE"):
            result.require_all()

    def test_a_malformed_failure_of_a_user_is_a_failure_of_everything(self) -> None:
        result = answered({ME.user_id: None})
        assert [(it.user_id, it.name) for it in result.refused] == [(ME.user_id, "PHONE"), (ME.user_id, MASTER)]
        assert result.stored == {BOB.user_id: {BOBS_MASTER}}

    @pytest.mark.parametrize("failures", [None, [], 5, "x"])
    def test_a_malformed_map_tells_nothing(self, failures: Any) -> None:
        """Pain A3: what nobody knows does not count as stored."""
        result = answered(failures)
        assert (result.stored, result.refused) == ({}, ())
        assert result.unknown == {ME.user_id: {"PHONE", MASTER}, BOB.user_id: {BOBS_MASTER}}
        assert [notice.path for notice in result.notices] == ["/failures"]
        assert not result.is_complete
        with pytest.raises(RemoteProtocolError) as caught:
            result.require_all()
        assert (caught.value.path, caught.value.in_answer) == ("/failures", True)

    def test_failures_of_what_was_never_uploaded(self) -> None:
        result = answered({ME.user_id: {"LAPTOP": {}}, "@eve:e.example": {"PHONE": {}}, "@carol:c.example": None})
        assert result.is_complete
        assert [(notice.path, notice.reason) for notice in result.notices] == [
            (f"/failures/{ME.user_id}/LAPTOP", Reason.UNREQUESTED),
            ("/failures/@eve:e.example/PHONE", Reason.UNREQUESTED),
            ("/failures/@carol:c.example", Reason.UNREQUESTED),
        ]

    def test_no_truth_value(self) -> None:
        """Attack 15: no result can be taken for a yes."""
        for failures in ({}, {ME.user_id: {"PHONE": {}}}):
            with pytest.raises(LocalProtocolError) as caught:
                bool(answered(failures))
            assert caught.value.reason is Reason.INVALID_VALUE

    def test_the_words_of_a_server_are_quoted(self) -> None:
        result = answered({ME.user_id: {"PHONE": {"errcode": "M\n" * 500, "error": "\x1b[31m" * 500}}})
        with pytest.raises(RemoteProtocolError) as caught:
            result.require_all()
        assert caught.value.detail.isprintable()
        assert len(caught.value.detail) < 300

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        with contextlib.suppress(E2EKeysError):
            check_signatures_upload(value, value)
        with contextlib.suppress(E2EKeysError):
            result = answered(value)
            uploaded = {(user, name) for user, names in REQUEST.signed_objects.items() for name in names}  # type: ignore[union-attr]
            sorted_out = [
                (user, name) for which in (result.stored, result.unknown) for user in which for name in which[user]
            ]
            sorted_out += [(it.user_id, it.name) for it in result.refused]
            assert sorted(sorted_out) == sorted(uploaded)


BARE = SIGNED_PHONE.signed.without_signatures()
UNLIKELY_REQUESTS = {
    "nothing": (SignaturesUploadRequest(signed_objects={}), Reason.INVALID_VALUE, "/request"),
    "nothing of a user": (SignaturesUploadRequest(signed_objects={ME.user_id: {}}), Reason.INVALID_VALUE, "/request"),
    "no signatures": (
        SignaturesUploadRequest(signed_objects={ME.user_id: {"PHONE": BARE}}),
        Reason.MISSING_SIGNATURE,
        f"/request/{ME.user_id}/PHONE",
    ),
    "no signatures by anybody": (
        SignaturesUploadRequest(
            signed_objects={ME.user_id: {"PHONE": SignedJson.from_json({**BARE.to_json(), "signatures": {"@a:b": {}}})}}
        ),
        Reason.MISSING_SIGNATURE,
        f"/request/{ME.user_id}/PHONE",
    ),
    "a malformed object": (
        SignaturesUploadRequest.from_json({ME.user_id: {"PHONE": 5}}),
        Reason.WRONG_TYPE,
        f"/request/{ME.user_id}/PHONE",
    ),
    "a malformed user": (
        SignaturesUploadRequest.from_json({ME.user_id: 5}),
        Reason.WRONG_TYPE,
        f"/request/{ME.user_id}",
    ),
    "no request": (REQUEST.to_json(), Reason.WRONG_TYPE, "/request"),
}


@pytest.mark.parametrize(("request_", "reason", "path"), UNLIKELY_REQUESTS.values(), ids=UNLIKELY_REQUESTS.keys())
def test_what_was_not_uploaded_cannot_be_judged(request_: Any, reason: Reason, path: str) -> None:
    """Attack 15: nothing is confirmed by having nothing to confirm."""
    calls: tuple[Callable[[], object], ...] = (
        lambda: check_signatures_upload(request_, SignaturesUploadResponse()),
        lambda: confirm_signatures(request_, served(), own_device=OWN_DEVICE),
    )
    for call in calls:
        assert refused(call) == (reason, path)


# --------------------------------------------------------------------------------------------------------------
# What is served
# --------------------------------------------------------------------------------------------------------------


def answer() -> dict[str, Any]:
    """An answer that serves everything that was uploaded."""
    body: dict[str, Any] = keys_query_answer(
        [(ME, [merge_signatures(PHONE, SIGNED_PHONE)]), (BOB, [BOB.device("DESK")])], viewer=ME.user_id
    )
    body["master_keys"] = {ME.user_id: SIGNED_MASTER.to_json(), BOB.user_id: SIGNED_BOB.to_json()}
    return body


def judged(body: dict[str, Any], users: Iterable[str] = (ME.user_id, BOB.user_id), **arguments: Any) -> QueryResult:
    request = KeysQueryRequest.for_users(users)
    return check_query(request, KeysQueryResponse.from_json(body), own_user_id=ME.user_id, **arguments)


def served(change: Callable[[dict[str, Any]], object] = lambda _: None) -> QueryResult:
    body = answer()
    change(body)
    return judged(body)


def reasons(confirmation: SignatureConfirmation) -> dict[UploadedSignature, Reason]:
    return {it.signature: it.reason for it in confirmation.missing}


def confirmed(result: QueryResult, **arguments: Any) -> SignatureConfirmation:
    return confirm_signatures(REQUEST, result, own_device=OWN_DEVICE, **arguments)


def signatures(body: dict[str, Any], *place: str) -> Any:
    for name in place:
        body = body[name]
    return body["signatures"][ME.user_id]


def resigned_phone(**members: Any) -> dict[str, Any]:
    """My phone with other members, correctly signed by itself and by my self-signing key."""
    device = DeviceKeys.build(
        user_id=ME.user_id,
        device_id="PHONE",
        curve25519_key=members.pop("curve25519_key", sample_curve25519_key(f"{ME.user_id} PHONE")),
        signer=members.pop("signer", ME.device_signer("PHONE")),
        extra=members,
    )
    signer = ME.secret("self_signing").cross_signer()
    return device.with_signed(add_signature(device.signed, entity=ME.user_id, signer=signer)).to_json()


def reset_bob(body: dict[str, Any]) -> None:
    bob = SampleUser(BOB.user_id, generation=1)
    body["master_keys"][BOB.user_id] = bob.master_key.to_json()
    body["self_signing_keys"][BOB.user_id] = bob.self_signing_key.to_json()


def extend_master(body: dict[str, Any]) -> None:
    """The same master key with another member, signed anew by the device."""
    key = CrossSigningKey.build(
        user_id=ME.user_id,
        usage="master",
        public_key=ME.master_public_key,
        signer=ME.device_signer("PHONE"),
        extra={"org.example": True},
    )
    body["master_keys"][ME.user_id] = key.to_json()


def collide(body: dict[str, Any]) -> None:
    device = DeviceKeys.build(
        user_id=ME.user_id,
        device_id=MASTER,
        curve25519_key=sample_curve25519_key("x"),
        signer=sample_secret_key("x").signer(f"ed25519:{MASTER}"),
    )
    body["device_keys"][ME.user_id][MASTER] = device.to_json()


GOOD_OF_OTHER = SIGNED_BOB.signed.signatures[ME.user_id][USER_SIGNING_ID]

CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], dict[UploadedSignature, Reason]]] = {
    "the signature on the device is gone": (
        lambda body: signatures(body, "device_keys", ME.user_id, "PHONE").pop(SELF_SIGNING_ID),
        {OF_PHONE: Reason.MISSING_SIGNATURE},
    ),
    "a stale signature is served on the device": (
        lambda body: signatures(body, "device_keys", ME.user_id, "PHONE").update({SELF_SIGNING_ID: GOOD_OF_OTHER}),
        {OF_PHONE: Reason.INVALID_SIGNATURE},
    ),
    "the signature on the device is no base64": (
        lambda body: signatures(body, "device_keys", ME.user_id, "PHONE").update({SELF_SIGNING_ID: "!"}),
        {OF_PHONE: Reason.INVALID_SIGNATURE},
    ),
    "the signature of the device is gone": (
        lambda body: body["master_keys"][ME.user_id].pop("signatures"),
        {OF_MASTER: Reason.MISSING_SIGNATURE},
    ),
    "the signature of the device is another": (
        lambda body: signatures(body, "master_keys", ME.user_id).update({"ed25519:PHONE": GOOD_OF_OTHER}),
        {OF_MASTER: Reason.INVALID_SIGNATURE},
    ),
    "the signature stands under another user": (
        lambda body: body["master_keys"][BOB.user_id].update(
            {"signatures": {BOB.user_id: {USER_SIGNING_ID: GOOD_OF_OTHER}}}
        ),
        {OF_BOB: Reason.MISSING_SIGNATURE},
    ),
    "the signature stands under another key id": (
        lambda body: body["master_keys"][BOB.user_id].update(
            {"signatures": {ME.user_id: {SELF_SIGNING_ID: GOOD_OF_OTHER}}}
        ),
        {OF_BOB: Reason.MISSING_SIGNATURE},
    ),
    "the device is gone": (lambda body: body["device_keys"][ME.user_id].clear(), {OF_PHONE: Reason.NOT_SERVED}),
    "all my devices are gone": (lambda body: body["device_keys"].pop(ME.user_id), {OF_PHONE: Reason.NOT_SERVED}),
    "my identity is gone": (
        lambda body: [body[name].pop(ME.user_id) for name in ("master_keys", "self_signing_keys", "user_signing_keys")],
        {OF_MASTER: Reason.NOT_SERVED},
    ),
    "bob is gone": (
        lambda body: [body[name].pop(BOB.user_id) for name in ("master_keys", "self_signing_keys")],
        {OF_BOB: Reason.NOT_SERVED},
    ),
    "bob has another identity": (reset_bob, {OF_BOB: Reason.IDENTITY_CHANGED}),
    "my master key says something else": (extend_master, {OF_MASTER: Reason.IDENTITY_CHANGED}),
    "the device says something else": (
        lambda body: body["device_keys"][ME.user_id].update(PHONE=resigned_phone(more=True)),
        {OF_PHONE: Reason.OWN_DEVICE_ALTERED},
    ),
    "the device has another signing key": (
        lambda body: body["device_keys"][ME.user_id].update(
            PHONE=resigned_phone(signer=sample_secret_key("other").signer("ed25519:PHONE"))
        ),
        {OF_PHONE: Reason.OWN_DEVICE_ALTERED},
    ),
    "the device did not sign itself": (
        lambda body: signatures(body, "device_keys", ME.user_id, "PHONE").pop("ed25519:PHONE"),
        {OF_PHONE: Reason.MISSING_SIGNATURE},
    ),
    "the device is malformed": (
        lambda body: body["device_keys"][ME.user_id].update(PHONE=5),
        {OF_PHONE: Reason.WRONG_TYPE},
    ),
    "my devices are malformed": (
        lambda body: body["device_keys"].update({ME.user_id: 5}),
        {OF_PHONE: Reason.WRONG_TYPE},
    ),
    "all devices are malformed": (lambda body: body.update(device_keys=5), {OF_PHONE: Reason.NOT_SERVED}),
    "bob's master key is malformed": (
        lambda body: body["master_keys"].update({BOB.user_id: 5}),
        {OF_BOB: Reason.WRONG_TYPE},
    ),
    "bob's self-signing key is refused": (
        lambda body: body["self_signing_keys"][BOB.user_id].pop("signatures"),
        {OF_BOB: Reason.SELF_SIGNING_KEY_REFUSED},
    ),
    "a device can be taken for my master key": (
        collide,
        {OF_PHONE: Reason.IDENTIFIER_COLLISION, OF_MASTER: Reason.IDENTIFIER_COLLISION},
    ),
    "bob's server is down": (
        lambda body: [
            *(body[name].pop(BOB.user_id) for name in ("device_keys", "master_keys", "self_signing_keys")),
            body["failures"].update({"b.example": {}}),
        ],
        {OF_BOB: Reason.NOT_SERVED},
    ),
}


class TestWhatIsServed:
    def test_everything(self) -> None:
        confirmation = confirmed(served())
        assert set(confirmation.served) == set(ALL)
        assert confirmation.missing == ()
        assert confirmation.is_complete
        confirmation.require_all()

    @pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
    def test_what_is_not(
        self, change: Callable[[dict[str, Any]], object], expected: dict[UploadedSignature, Reason]
    ) -> None:
        """Pain A3: only what is served counts. Attack 25: a blocked user confirms nothing."""
        confirmation = confirmed(served(change))
        assert reasons(confirmation) == expected
        assert set(confirmation.served) == set(ALL).difference(expected)
        assert not confirmation.is_complete
        with pytest.raises(VerificationError) as caught:
            confirmation.require_all()
        first = confirmation.missing[0]
        assert (caught.value.reason, caught.value.detail) == (first.reason, first.detail)

    def test_what_the_server_adds_does_no_harm(self) -> None:
        def add(body: dict[str, Any]) -> None:
            for place in (body["device_keys"][ME.user_id]["PHONE"], *body["master_keys"].values()):
                place["unsigned"] = {"device_display_name": "x"}
                place["signatures"].setdefault("@eve:e.example", {})["ed25519:x"] = "junk"
                place["signatures"][ME.user_id]["ed25519:JUNK"] = "junk"

        assert confirmed(served(add)).is_complete

    def test_only_what_was_uploaded_is_asked_for(self) -> None:
        """The requirement comes from what was uploaded: what is served beside it is nobody's business."""
        request = SignaturesUploadRequest.for_keys([SIGNED_BOB])
        empty: dict[str, Any] = {"device_keys": {}}
        assert confirm_signatures(request, served()).served == (OF_BOB,)
        assert reasons(confirm_signatures(request, judged(empty))) == {OF_BOB: Reason.NOT_SERVED}

    def test_users_nobody_asked_about(self) -> None:
        everybody = answer()
        bob = {
            name: {BOB.user_id: of_users[BOB.user_id]}
            for name, of_users in everybody.items()
            if BOB.user_id in of_users
        }
        for body in (everybody, bob):
            confirmation = confirmed(judged(body, [BOB.user_id]))
            assert reasons(confirmation) == {OF_PHONE: Reason.UNREQUESTED, OF_MASTER: Reason.UNREQUESTED}
            assert confirmation.served == (OF_BOB,)

    def test_not_yet_is_not_never(self) -> None:
        """The first answer after a change lacks one's own signature, the second one has it."""
        first = confirmed(served(lambda body: body["master_keys"].update({BOB.user_id: BOB.master_key.to_json()})))
        assert reasons(first) == {OF_BOB: Reason.MISSING_SIGNATURE}
        assert confirmed(served()).is_complete

    def test_what_is_remembered_is_not_what_is_served(self) -> None:
        """Pain A3: a signature that one knows, and that the server has lost."""
        own = UserIdentity.verify(
            master_key=ME.master_key, self_signing_key=ME.self_signing_key, user_signing_key=ME.user_signing_key
        ).confirm_as_own(master_key=ME.master_public_key)
        known = judged(answer(), own=own, known={}).known
        body = answer()
        body["master_keys"][BOB.user_id] = BOB.master_key.to_json()
        signatures(body, "device_keys", ME.user_id, "PHONE").pop(SELF_SIGNING_ID)
        again = judged(body, own=own, known=known)
        assert again.verified_users == {BOB.user_id}
        assert reasons(confirmed(again)) == {OF_BOB: Reason.MISSING_SIGNATURE, OF_PHONE: Reason.MISSING_SIGNATURE}

    def test_the_cross_signing_keys_themselves(self) -> None:
        keys = [ME.self_signing_key, ME.user_signing_key]
        request = SignaturesUploadRequest.for_keys(keys)
        assert confirm_signatures(request, served()).is_complete
        hidden = confirm_signatures(request, served(lambda body: body["user_signing_keys"].clear()))
        (missing,) = hidden.missing
        assert (missing.reason, missing.signature.name) == (Reason.NOT_SERVED, keys[1].key_id.name)

    def test_where_it_is_missing(self) -> None:
        confirmation = confirmed(served(lambda body: body["device_keys"][ME.user_id].clear()))
        (missing,) = confirmation.missing
        assert isinstance(missing, UnservedSignature)
        error = missing.to_error()
        assert error.path == json_pointer((ME.user_id, "PHONE", "signatures", ME.user_id, SELF_SIGNING_ID))
        assert "PHONE" in error.detail
        assert "devices" in error.detail

    def test_no_truth_value(self) -> None:
        """Attack 15: no result can be taken for a yes."""
        with pytest.raises(LocalProtocolError) as caught:
            bool(confirmed(served()))
        assert caught.value.reason is Reason.INVALID_VALUE

    def test_nothing_is_changed(self) -> None:
        body = answer()
        before = copy.deepcopy(body)
        confirmed(judged(body))
        assert body == before

    def test_a_verifier_is_asked(self) -> None:
        class No:
            def verify_many(self, checks: Any) -> list[bool]:
                return [False for _ in checks]

        assert not confirmed(served(), verifier=No()).served


class TestWhoSigned:
    def test_the_device_is_needed_if_it_signed(self) -> None:
        request = SignaturesUploadRequest.for_keys([SIGNED_MASTER])
        path = json_pointer(("request", ME.user_id, MASTER, "signatures", ME.user_id, "ed25519:PHONE"))
        for own_device in (None, ME.device("LAPTOP").verify(), BOB.device("PHONE").verify()):
            assert refused(lambda given=own_device: confirm_signatures(request, served(), own_device=given)) == (  # type: ignore[misc]
                Reason.MISSING_KEY,
                path,
            )
        confirm_signatures(request, served(), own_device=OWN_DEVICE).require_all()

    def test_another_device_of_that_name_is_not_the_signer(self) -> None:
        signer = sample_secret_key("other").signer("ed25519:PHONE")
        other = DeviceKeys.build(
            user_id=ME.user_id, device_id="PHONE", curve25519_key=sample_curve25519_key("x"), signer=signer
        ).verify()
        request = SignaturesUploadRequest.for_keys([SIGNED_MASTER])
        confirmation = confirm_signatures(request, served(), own_device=other)
        assert reasons(confirmation) == {OF_MASTER: Reason.INVALID_SIGNATURE}

    @pytest.mark.parametrize(
        ("key_id", "reason"),
        [
            ("ed25519:LAPTOP", Reason.MISSING_KEY),
            ("ed25519:!", Reason.MISSING_KEY),
            (f"{SELF_SIGNING_ID}=", Reason.MISSING_KEY),
            ("ed25519:AAAA", Reason.WRONG_LENGTH),
            (f"ed25519:{'A' * 43}", Reason.WEAK_KEY),
            (SELF_SIGNING_ID.replace("ed25519", "curve25519"), Reason.UNSUPPORTED_ALGORITHM),
            ("ed25519", Reason.INVALID_KEY_ID),
            ("ed25519:", Reason.INVALID_KEY_ID),
        ],
    )
    def test_signers_without_a_key(self, key_id: str, reason: Reason) -> None:
        """Attack 13: nobody but an Ed25519 key signs."""
        obj = SIGNED_PHONE.to_json()
        obj["signatures"] = {ME.user_id: {key_id: GOOD_OF_OTHER}}
        request = SignaturesUploadRequest(signed_objects={ME.user_id: {"PHONE": SignedJson.from_json(obj)}})
        found, path = refused(lambda: confirm_signatures(request, served(), own_device=OWN_DEVICE))
        assert found is reason
        assert path.startswith(f"/request/{ME.user_id}/PHONE/signatures/{ME.user_id}/")

    def test_whole_objects_can_be_confirmed_too(self) -> None:
        request = SignaturesUploadRequest.for_keys([merge_signatures(PHONE, SIGNED_PHONE)])
        assert len(confirm_signatures(request, served(), own_device=OWN_DEVICE).served) == 2

    @pytest.mark.parametrize("obj", [{}, {"usage": ["master"]}, {"user_id": 5, "usage": [{}], "keys": {}}])
    def test_what_is_no_key_at_all(self, obj: dict[str, Any]) -> None:
        signed = SignedJson.from_json({**obj, "signatures": {ME.user_id: {SELF_SIGNING_ID: "x"}}})
        request = SignaturesUploadRequest(signed_objects={ME.user_id: {"PHONE": signed}})
        assert refused(lambda: confirm_signatures(request, served()))[1].startswith(f"/request/{ME.user_id}/PHONE")

    def test_a_key_under_another_name_is_not_served_there(self) -> None:
        request = SignaturesUploadRequest(signed_objects={ME.user_id: {"LAPTOP": SIGNED_PHONE.signed}})
        (missing,) = confirm_signatures(request, served()).missing
        assert missing.reason is Reason.NOT_SERVED

    @pytest.mark.parametrize("bad", [None, 5, {}, REQUEST])
    def test_other_arguments(self, bad: Any) -> None:
        result = served()
        no_verifier: Any = bad
        for call, path in (
            (lambda: confirm_signatures(REQUEST, bad), "/result"),
            (lambda: confirm_signatures(REQUEST, result, own_device=bad or 5), "/own_device"),
            (lambda: confirm_signatures(REQUEST, judged({}), own_device=OWN_DEVICE, verifier=no_verifier), "/verifier"),
            (lambda: check_signatures_upload(REQUEST, bad), "/response"),
        ):
            assert refused(call) == (Reason.WRONG_TYPE, path)


ALTERED: dict[str, tuple[dict[str, Any], Reason]] = {
    "another curve25519 key": ({"curve25519_key": sample_curve25519_key("other")}, Reason.OWN_DEVICE_ALTERED),
    "another signing key": (
        {"signer": sample_secret_key("other").signer("ed25519:PHONE")},
        Reason.OWN_DEVICE_ALTERED,
    ),
    "another member": ({"org.example": 1}, Reason.OWN_DEVICE_ALTERED),
}


NO_GOOD_DEVICE = [
    name
    for name, (_, expected) in CHANGES.items()
    if OF_PHONE in expected
    and not name.endswith(("on the device", "on the device is gone", "on the device is no base64"))
]


class TestOneSOwnDevice:
    def test_as_it_was_uploaded(self) -> None:
        device = verify_served_device(PHONE, served())
        assert device.keys == PHONE
        assert device.is_cross_signed

    @pytest.mark.parametrize(("members", "reason"), ALTERED.values(), ids=ALTERED.keys())
    def test_altered(self, members: dict[str, Any], reason: Reason) -> None:
        """Pain A24: all keys and all members are compared, however well they are signed."""
        result = served(lambda body: body["device_keys"][ME.user_id].update(PHONE=resigned_phone(**members)))
        assert "PHONE" in result.devices.accepted[ME.user_id]
        with pytest.raises(VerificationError) as caught:
            verify_served_device(PHONE, result)
        assert caught.value.reason is reason

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            *((change, expected[OF_PHONE]) for name, (change, expected) in CHANGES.items() if name in NO_GOOD_DEVICE),
            (
                lambda body: signatures(body, "device_keys", ME.user_id, "PHONE").update({"ed25519:PHONE": "A" * 86}),
                Reason.INVALID_SIGNATURE,
            ),
        ],
        ids=[*NO_GOOD_DEVICE, "the device did not sign itself well"],
    )
    def test_not_served_as_uploaded(self, change: Callable[[dict[str, Any]], object], reason: Reason) -> None:
        """Pain A24: neither an absent device nor one without a good self-signature passes."""
        with pytest.raises(VerificationError) as caught:
            verify_served_device(PHONE, served(change))
        assert caught.value.reason is reason

    def test_whether_it_is_cross_signed_is_another_question(self) -> None:
        change, _ = CHANGES["the signature on the device is gone"]
        assert not verify_served_device(PHONE, served(change)).is_cross_signed

    def test_nobody_asked(self) -> None:
        with pytest.raises(VerificationError) as caught:
            verify_served_device(PHONE, judged(answer(), [BOB.user_id]))
        assert caught.value.reason is Reason.UNREQUESTED

    def test_other_arguments(self) -> None:
        call: Any = verify_served_device
        assert refused(lambda: call(OWN_DEVICE, served())) == (Reason.WRONG_TYPE, "/device_keys")
        assert refused(lambda: call(PHONE, answer())) == (Reason.WRONG_TYPE, "/result")


@given(json_like_values(), st.sampled_from(["device_keys", "master_keys", "self_signing_keys", "failures"]))
def test_no_foreign_exception(value: Any, name: str) -> None:
    for call in (
        lambda: confirmed(served(lambda body: body.update({name: value}))),
        lambda: verify_served_device(PHONE, served(lambda body: body.update({name: value}))),
        lambda: confirm_signatures(value, value, own_device=value),
        lambda: verify_served_device(value, value),
        lambda: merge_signatures(value, value),
    ):
        with contextlib.suppress(E2EKeysError):
            call()
