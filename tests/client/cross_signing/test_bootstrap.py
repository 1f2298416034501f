"""Setting up cross-signing: two uploads in order, whatever gets lost, and a look at what is served."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from matrix_e2e_keys import (
    DeviceKeys,
    DeviceSigningUploadRequest,
    DeviceSigningUploadResponse,
    E2EKeysError,
    HttpResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    QueryResult,
    Reason,
    SignaturesUploadRequest,
    SignaturesUploadResponse,
    UserInteractiveAuth,
    VerifiedDevice,
    check_query,
)
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState, BootstrapStep, CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ME = SampleUser("@me:a.example")
OTHER = SampleUser("@me:a.example", generation=1)
BOB = SampleUser("@bob:b.example")
SECRETS = CrossSigningSecrets(
    user_id=ME.user_id, **{role: ME.secret(role) for role in ("master", "self_signing", "user_signing")}
)
PHONE = ME.device("PHONE", cross_signed=False).verify()
SIGNER = ME.device_signer("PHONE")
MASTER = ME.master_public_key.to_base64()
MASTER_ID, SELF_SIGNING_ID = (
    f"ed25519:{ME.secret(role).public_key.to_base64()}" for role in ("master", "self_signing")
)

YES = DeviceSigningUploadResponse()
TAKEN = SignaturesUploadResponse()
ASKS = MatrixError.from_http(
    HttpResponse(status=401, body=b'{"session":"s1","flows":[{"stages":["m.login.password"]}],"params":{}}')
)
PASSWORD = {"password": "correct horse"}


def started(device: VerifiedDevice = PHONE) -> CrossSigningBootstrap:
    return CrossSigningBootstrap.start(SECRETS, device=device, device_signer=SIGNER)


def at(state: BootstrapState) -> CrossSigningBootstrap:
    """A set-up that has come as far as ``state``."""
    made = started()
    if state is BootstrapState.STORE_SECRETS:
        return made
    made.mark_stored()
    if state is BootstrapState.AUTHENTICATE:
        made.receive_error(sent(made).step_id, ASKS, 0)
    elif state is not BootstrapState.UPLOAD_KEYS:
        made.receive_response(sent(made).step_id, YES, 0)
        if state is not BootstrapState.UPLOAD_SIGNATURES:
            made.receive_response(sent(made).step_id, TAKEN, 0)
        if state is BootstrapState.DONE:
            made.confirm(served(made))
    assert made.state is state
    return made


def sent(made: CrossSigningBootstrap, now: int = 0) -> BootstrapStep:
    step = made.next_request(now)
    assert step is not None
    return step


def body(step: BootstrapStep) -> dict[str, Any]:
    return step.request.to_json()


def answer(made: CrossSigningBootstrap) -> dict[str, Any]:
    """What a server answers that has everything."""
    keys = body(sent(at(BootstrapState.UPLOAD_KEYS)))
    return {
        "device_keys": {ME.user_id: {"PHONE": made.device.keys.to_json()}},
        "master_keys": {ME.user_id: keys["master_key"]},
        "self_signing_keys": {ME.user_id: keys["self_signing_key"]},
        "user_signing_keys": {ME.user_id: keys["user_signing_key"]},
    }


def judged(obj: dict[str, Any], user_id: str = ME.user_id) -> QueryResult:
    return check_query(KeysQueryRequest.for_users([user_id]), KeysQueryResponse.from_json(obj), own_user_id=ME.user_id)


def served(made: CrossSigningBootstrap) -> QueryResult:
    return judged(answer(made))


def who_signed(obj: dict[str, Any]) -> dict[str, list[str]]:
    return {entity: [*by] for entity, by in obj.get("signatures", {}).items()}


class TestTheWay:
    def test_from_the_start_to_the_end(self) -> None:
        """Pains A1 and A2: two uploads, and the device is signed by its owner."""
        made = started()
        assert made.state is BootstrapState.STORE_SECRETS
        made.mark_stored()
        assert made.state is BootstrapState.UPLOAD_KEYS
        keys = sent(made)
        assert type(keys.request) is DeviceSigningUploadRequest
        assert made.receive_response(keys.step_id, YES, 0) is BootstrapState.UPLOAD_SIGNATURES
        signatures = sent(made)
        assert type(signatures.request) is SignaturesUploadRequest
        assert made.receive_response(signatures.step_id, TAKEN, 0) is BootstrapState.CONFIRM
        confirmation = made.confirm(served(made))
        assert (len(confirmation.served), confirmation.missing) == (4, ())
        assert made.state is BootstrapState.DONE

    def test_what_is_uploaded_first(self) -> None:
        uploaded = body(sent(at(BootstrapState.UPLOAD_KEYS)))
        assert sorted(uploaded) == ["master_key", "self_signing_key", "user_signing_key"]
        assert who_signed(uploaded["master_key"]) == {ME.user_id: ["ed25519:PHONE"]}
        assert who_signed(uploaded["self_signing_key"]) == {ME.user_id: [MASTER_ID]}
        assert who_signed(uploaded["user_signing_key"]) == {ME.user_id: [MASTER_ID]}
        made = started()
        assert made.identity.raw_keys == tuple(
            [ME.secret(role).public_key.raw for role in ("master", "self_signing", "user_signing")]
        )

    def test_what_is_uploaded_then(self) -> None:
        uploaded = body(sent(at(BootstrapState.UPLOAD_SIGNATURES)))
        assert [*uploaded] == [ME.user_id]
        assert sorted(uploaded[ME.user_id]) == sorted([MASTER, "PHONE"])
        assert who_signed(uploaded[ME.user_id]["PHONE"]) == {ME.user_id: [SELF_SIGNING_ID]}
        assert who_signed(uploaded[ME.user_id][MASTER]) == {ME.user_id: ["ed25519:PHONE"]}
        DeviceKeys.from_json(uploaded[ME.user_id]["PHONE"])

    def test_nothing_else_that_the_device_came_with(self) -> None:
        whole = OTHER.device("PHONE")
        given_device = whole.with_signed(whole.signed.with_unsigned({"device_display_name": "x"})).verify()
        made = started(given_device)
        obj = made.device.keys.to_json()
        assert "unsigned" not in obj
        assert {entity: {*by} for entity, by in obj["signatures"].items()} == {  # type: ignore[union-attr, attr-defined]
            ME.user_id: {"ed25519:PHONE", SELF_SIGNING_ID}
        }
        assert made.device.cross_signed_by == ME.secret("self_signing").public_key

    def test_nothing_before_the_secrets_are_stored(self) -> None:
        made = started()
        assert made.next_request_at() is None
        assert made.next_request(10**12) is None
        made.mark_stored()
        assert sent(made)

    @pytest.mark.parametrize("state", [state for state in BootstrapState if state is not BootstrapState.STORE_SECRETS])
    def test_stored_once_is_stored(self, state: BootstrapState) -> None:
        made = at(state)
        made.mark_stored()
        assert made.state is state

    def test_one_step_at_a_time(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        step = sent(made)
        assert (made.next_request(10**12), made.next_request_at()) == (None, None)
        made.receive_response(step.step_id, YES, 0)
        assert made.next_request_at() is not None

    @pytest.mark.parametrize("state", [BootstrapState.AUTHENTICATE, BootstrapState.CONFIRM, BootstrapState.DONE])
    def test_nothing_to_send(self, state: BootstrapState) -> None:
        made = at(state)
        assert (made.next_request(10**12), made.next_request_at()) == (None, None)


class TestWhatGetsLost:
    @pytest.mark.parametrize("state", [BootstrapState.UPLOAD_KEYS, BootstrapState.UPLOAD_SIGNATURES])
    def test_the_same_is_sent_again(self, state: BootstrapState) -> None:
        made = at(state)
        step = sent(made)
        assert made.receive_error(step.step_id, None, 1_000) is None
        assert made.state is state
        assert made.next_request_at() == 16_000
        assert made.next_request(15_999) is None
        again = sent(made, 16_000)
        assert again.step_id != step.step_id
        assert json.dumps(body(again)) == json.dumps(body(step))

    def test_delays_grow_and_end(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        made.receive_error(sent(made).step_id, None, 0)
        made.receive_error(sent(made, 15_000).step_id, None, 15_000)
        assert made.next_request_at() == 45_000
        made.receive_response(sent(made, 45_000).step_id, YES, 45_000)
        made.receive_error(sent(made, 45_000).step_id, None, 45_000)
        assert made.next_request_at() == 60_000

    def test_answers_to_other_steps_are_ignored(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        first = sent(made)
        made.receive_error(first.step_id, None, 0)
        for late in (
            lambda: made.receive_response(first.step_id, YES, 0),
            lambda: made.receive_response(first.step_id, TAKEN, 0),
            lambda: made.receive_error(first.step_id, ASKS, 0),
        ):
            late()
            assert (made.state, made.next_request_at()) == (BootstrapState.UPLOAD_KEYS, 15_000)
        second = sent(made, 15_000)
        made.receive_response(first.step_id, YES, 15_000)
        assert (made.state, made.next_request(10**12)) == (BootstrapState.UPLOAD_KEYS, None)
        made.receive_response(second.step_id, YES, 15_000)
        made.receive_response(second.step_id, YES, 15_000)
        assert made.state is BootstrapState.UPLOAD_SIGNATURES

    def test_a_refusal_is_told_and_tried_again(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        error = MatrixError(status=403, errcode="M_FORBIDDEN", error="Key ID in use")
        assert made.last_error is None
        assert made.receive_error(sent(made).step_id, error, 0) is None
        assert (made.state, made.last_error, made.next_request_at()) == (BootstrapState.UPLOAD_KEYS, error, 15_000)
        made.receive_error(sent(made, 15_000).step_id, None, 15_000)
        assert made.last_error is None
        made.receive_error(sent(made, 45_000).step_id, error, 45_000)
        made.receive_response(sent(made, 10**6).step_id, YES, 10**6)
        assert made.last_error is None

    def test_a_server_that_wants_one_to_wait(self) -> None:
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        error = MatrixError(status=429, errcode="M_LIMIT_EXCEEDED", retry_after_ms=60_000)
        made.receive_error(sent(made).step_id, error, 0)
        assert made.next_request_at() == 60_000

    def test_refused_signatures_are_no_success(self) -> None:
        """Pain A3: "200 OK" is no success."""
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        no = SignaturesUploadResponse.from_json({"failures": {ME.user_id: {"PHONE": {"errcode": "M_NOT_FOUND"}}}})
        step = sent(made)
        assert made.last_result is None
        assert made.receive_response(step.step_id, no, 0) is BootstrapState.UPLOAD_SIGNATURES
        assert made.last_result is not None
        assert [refused.name for refused in made.last_result.refused] == ["PHONE"]
        assert made.next_request_at() == 15_000
        again = sent(made, 15_000)
        assert body(again) == body(step)
        made.receive_response(again.step_id, TAKEN, 15_000)
        assert (made.state, made.last_result.is_complete) == (BootstrapState.CONFIRM, True)

    def test_an_answer_that_says_nothing_is_no_success(self) -> None:
        """Pain A3: if nobody knows what was refused, it is sent again."""
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        made.receive_error(sent(made).step_id, MatrixError(status=500), 0)
        unknown = SignaturesUploadResponse.from_json({"failures": 5})
        assert made.receive_response(sent(made, 15_000).step_id, unknown, 15_000) is BootstrapState.UPLOAD_SIGNATURES
        assert made.last_error is None
        assert made.next_request_at() == 45_000


class TestAuthentication:
    def test_the_server_asks_who_it_is(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        step = sent(made)
        asked = made.receive_error(step.step_id, ASKS, 0)
        assert type(asked) is UserInteractiveAuth
        assert (made.state, made.authentication) == (BootstrapState.AUTHENTICATE, asked)
        made.authenticate(asked.auth("m.login.password", PASSWORD))
        assert (made.state, made.authentication) == (BootstrapState.UPLOAD_KEYS, None)
        again = sent(made)
        proof = {"type": "m.login.password", "session": "s1", **PASSWORD}
        assert body(again) == {**body(step), "auth": proof}
        made.receive_response(again.step_id, YES, 0)
        assert made.state is BootstrapState.UPLOAD_SIGNATURES
        assert made._auth is None, "a password is kept longer than it is needed"
        made.upload_again()
        assert "auth" not in body(sent(made))

    def test_a_wrong_password(self) -> None:
        made = at(BootstrapState.AUTHENTICATE)
        made.authenticate(PASSWORD)
        assert made.receive_error(sent(made).step_id, ASKS, 0) == ASKS.user_interactive
        assert made.state is BootstrapState.AUTHENTICATE
        assert made.last_error == ASKS
        made.authenticate({"password": "another"})
        assert body(sent(made))["auth"] == {"password": "another"}

    @pytest.mark.parametrize("error", [None, MatrixError(status=429), MatrixError(status=500), MatrixError(status=502)])
    def test_a_proof_outlives_what_gets_lost(self, error: MatrixError | None) -> None:
        made = at(BootstrapState.AUTHENTICATE)
        made.authenticate(PASSWORD)
        made.receive_error(sent(made).step_id, error, 0)
        assert made.state is BootstrapState.UPLOAD_KEYS
        assert body(sent(made, 15_000))["auth"] == PASSWORD

    @pytest.mark.parametrize("status", [400, 403, 404, 499])
    def test_a_proof_that_is_refused_is_not_sent_again(self, status: int) -> None:
        made = at(BootstrapState.AUTHENTICATE)
        made.authenticate(PASSWORD)
        made.receive_error(sent(made).step_id, MatrixError(status=status), 0)
        assert "auth" not in body(sent(made, 15_000))

    def test_it_does_not_wait_for_a_delay(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        made.receive_error(sent(made).step_id, None, 0)
        made.receive_error(sent(made, 15_000).step_id, ASKS, 15_000)
        made.authenticate(PASSWORD)
        assert sent(made, 0)

    def test_signatures_need_no_proof(self) -> None:
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        assert made.receive_error(sent(made).step_id, ASKS, 0) is None
        assert (made.state, made.authentication) == (BootstrapState.UPLOAD_SIGNATURES, None)
        assert (made.last_error, made.next_request_at()) == (ASKS, 15_000)

    def test_a_token_that_is_none(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        assert made.receive_error(sent(made).step_id, MatrixError(status=401, errcode="M_UNKNOWN_TOKEN"), 0) is None
        assert made.state is BootstrapState.UPLOAD_KEYS

    def test_whoever_gives_up_begins_again(self) -> None:
        made = at(BootstrapState.AUTHENTICATE)
        made.upload_again()
        assert (made.state, made.authentication, made.last_error) == (BootstrapState.UPLOAD_KEYS, None, None)
        assert "auth" not in body(sent(made))

    def test_a_proof_is_copied_and_does_not_show(self) -> None:
        """Attack 24: neither in repr nor in what is stored."""
        made = at(BootstrapState.AUTHENTICATE)
        auth = {"password": "correct horse", "more": ["x"]}
        made.authenticate(auth)
        auth["password"] = "changed"
        step = sent(made)
        assert body(step)["auth"]["password"] == "correct horse"
        for shown in (repr(made), str(made), repr(step), json.dumps(made.to_json())):
            assert "correct horse" not in shown

    @pytest.mark.parametrize("state", [state for state in BootstrapState if state is not BootstrapState.AUTHENTICATE])
    def test_nobody_asked(self, state: BootstrapState) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            at(state).authenticate(PASSWORD)
        assert caught.value.reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("bad", [None, 5, "password", [], {5: 6}, {"x": object()}], ids=repr)
    def test_what_is_no_proof(self, bad: Any) -> None:
        made = at(BootstrapState.AUTHENTICATE)
        with pytest.raises(LocalProtocolError) as caught:
            made.authenticate(bad)
        assert caught.value.path.startswith("/auth")
        assert made.state is BootstrapState.AUTHENTICATE


class TestConfirming:
    @pytest.mark.parametrize(
        ("member", "missing"),
        [
            ("device_keys", {"PHONE": Reason.NOT_SERVED}),
            (
                "master_keys",
                {
                    "master": Reason.MISSING_MASTER_KEY,
                    "self_signing": Reason.MISSING_MASTER_KEY,
                    "user_signing": Reason.MISSING_MASTER_KEY,
                },
            ),
            (
                "self_signing_keys",
                {
                    "master": Reason.MISSING_SELF_SIGNING_KEY,
                    "self_signing": Reason.MISSING_SELF_SIGNING_KEY,
                    "user_signing": Reason.MISSING_SELF_SIGNING_KEY,
                },
            ),
            ("user_signing_keys", {"user_signing": Reason.NOT_SERVED}),
        ],
    )
    def test_a_whole_map_is_missing(self, member: str, missing: dict[str, Reason]) -> None:
        made = at(BootstrapState.CONFIRM)
        confirmation = made.confirm(judged({**answer(made), member: {}}))
        names = {ME.secret(role).public_key.to_base64(): role for role in ("master", "self_signing", "user_signing")}
        found = {names.get(it.signature.name, it.signature.name): it.reason for it in confirmation.missing}
        assert found == missing
        assert made.state is BootstrapState.CONFIRM

    def test_the_device_is_not_cross_signed_yet(self) -> None:
        """Pain A2: the device would be shown as not verified by its owner."""
        made = at(BootstrapState.CONFIRM)
        obj = answer(made)
        obj["device_keys"] = {ME.user_id: {"PHONE": PHONE.keys.to_json()}}
        (missing,) = made.confirm(judged(obj)).missing
        assert (missing.signature.name, missing.reason) == ("PHONE", Reason.MISSING_SIGNATURE)
        assert made.state is BootstrapState.CONFIRM
        made.confirm(served(made)).require_all()
        assert made.state is BootstrapState.DONE

    def test_the_device_did_not_sign_the_master_key(self) -> None:
        made = at(BootstrapState.CONFIRM)
        obj = answer(made)
        obj["master_keys"][ME.user_id]["signatures"] = {}
        (missing,) = made.confirm(judged(obj)).missing
        assert (missing.signature.name, missing.reason) == (MASTER, Reason.MISSING_SIGNATURE)
        assert missing.signature.key_id == "ed25519:PHONE"

    def test_somebody_else_has_replaced_the_identity(self) -> None:
        """Attacks 32 and 33: a consistent identity that is not one's own confirms nothing."""
        made = at(BootstrapState.CONFIRM)
        obj = {
            "device_keys": {ME.user_id: {"PHONE": OTHER.device("PHONE").to_json()}},
            "master_keys": {ME.user_id: OTHER.master_key.to_json()},
            "self_signing_keys": {ME.user_id: OTHER.self_signing_key.to_json()},
            "user_signing_keys": {ME.user_id: OTHER.user_signing_key.to_json()},
        }
        result = judged(obj)
        assert result.identities.accepted[ME.user_id]
        confirmation = made.confirm(result)
        assert confirmation.served == ()
        assert [it.reason for it in confirmation.missing] == [Reason.IDENTITY_CHANGED] * 3 + [Reason.MISSING_SIGNATURE]

    def test_done_is_not_forever(self) -> None:
        made = at(BootstrapState.DONE)
        assert not made.confirm(judged({"device_keys": {}})).is_complete
        assert made.state is BootstrapState.CONFIRM

    def test_an_answer_about_somebody_else(self) -> None:
        made = at(BootstrapState.CONFIRM)
        confirmation = made.confirm(judged({"device_keys": {}}, BOB.user_id))
        assert {it.reason for it in confirmation.missing} == {Reason.UNREQUESTED}

    @pytest.mark.parametrize(
        "state", [state for state in BootstrapState if state not in (BootstrapState.CONFIRM, BootstrapState.DONE)]
    )
    def test_too_early(self, state: BootstrapState) -> None:
        made = at(state)
        with pytest.raises(LocalProtocolError) as caught:
            made.confirm(served(made))
        assert caught.value.reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("state", [state for state in BootstrapState if state is not BootstrapState.STORE_SECRETS])
    def test_again_from_the_beginning(self, state: BootstrapState) -> None:
        made = at(state)
        first = body(sent(at(BootstrapState.UPLOAD_KEYS)))
        made.upload_again()
        assert made.state is BootstrapState.UPLOAD_KEYS
        assert body(sent(made)) == first

    def test_again_while_something_is_in_flight(self) -> None:
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        step = sent(made)
        made.upload_again()
        again = sent(made)
        made.receive_response(step.step_id, TAKEN, 0)
        assert made.state is BootstrapState.UPLOAD_KEYS
        made.receive_response(again.step_id, YES, 0)
        assert made.state is BootstrapState.UPLOAD_SIGNATURES

    def test_again_is_no_way_around_a_delay(self) -> None:
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        made.receive_error(sent(made).step_id, None, 0)
        made.upload_again()
        assert made.next_request_at() == 15_000

    def test_a_success_ends_the_delay(self) -> None:
        made = at(BootstrapState.UPLOAD_SIGNATURES)
        made.receive_error(sent(made).step_id, None, 0)
        made.receive_response(sent(made, 15_000).step_id, TAKEN, 15_000)
        made.upload_again()
        assert sent(made, 0)

    def test_not_again_before_the_secrets_are_stored(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            started().upload_again()
        assert caught.value.reason is Reason.WRONG_STATE


STORED: dict[str, Any] = at(BootstrapState.UPLOAD_SIGNATURES).to_json()


def altered(name: str, change: Any) -> dict[str, Any]:
    """What was stored, with a change to one of the objects in it."""
    stored = copy.deepcopy(STORED)
    change(stored[name])
    return stored


class TestStoring:
    @pytest.mark.parametrize("state", BootstrapState)
    def test_over_a_restart(self, state: BootstrapState) -> None:
        made = at(state)
        stored = made.to_json()
        again = CrossSigningBootstrap.from_json(json.loads(json.dumps(stored)))
        expected = {
            BootstrapState.STORE_SECRETS: BootstrapState.UPLOAD_KEYS,
            BootstrapState.AUTHENTICATE: BootstrapState.UPLOAD_KEYS,
        }.get(state, state)
        assert again.state is expected
        assert again.to_json() == stored
        assert (again.identity, again.device) == (made.identity, made.device)
        for each in (made, again):
            if state is not BootstrapState.STORE_SECRETS:
                each.upload_again()
            each.mark_stored()
        keys = sent(again)
        assert json.dumps(body(keys)) == json.dumps(body(sent(made)))
        again.receive_response(keys.step_id, YES, 0)
        assert json.dumps(body(sent(again))) == json.dumps(body(sent(at(BootstrapState.UPLOAD_SIGNATURES))))

    def test_no_private_key_is_stored(self) -> None:
        """Attack 24: not in base64, which is how a key would be stored."""
        made = started()
        shown = json.dumps(made.to_json()) + repr(made)
        assert not any(seed[:16] in shown for seed in SECRETS.export_seeds().values())
        assert repr(made) == "<CrossSigningBootstrap of '@me:a.example': store-secrets>"

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        stored = {member: value for member, value in STORED.items() if member != name}
        with pytest.raises(LocalProtocolError) as caught:
            CrossSigningBootstrap.from_json(stored)
        assert caught.value.path == f"/{name}"
        assert caught.value.reason is Reason.MISSING_MEMBER

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"version": 2}, "/version"),
            ({"state": "store-secrets"}, "/state"),
            ({"state": "authenticate"}, "/state"),
            ({"state": "elsewhere"}, "/state"),
            ({"state": 5}, "/state"),
            ({"state": []}, "/state"),
            ({"master_key": None}, "/master_key"),
            ({"master_key": STORED["device"]}, "/master_key/usage"),
            ({"master_key": STORED["self_signing_key"]}, "/master_key/usage"),
            ({"self_signing_key": STORED["user_signing_key"]}, "/self_signing_key/usage"),
            ({"self_signing_key": OTHER.self_signing_key.to_json()}, "/self_signing_key"),
            ({"user_signing_key": OTHER.user_signing_key.to_json()}, "/user_signing_key"),
            ({"user_signing_key": BOB.user_signing_key.to_json()}, "/user_signing_key/user_id"),
            ({"device": STORED["master_key"]}, "/device/device_id"),
            ({"device": PHONE.keys.to_json()}, "/device"),
            ({"device": OTHER.device("PHONE").to_json()}, "/device"),
            ({"device": BOB.device("PHONE").to_json()}, "/device"),
            ({"device": ME.device("LAPTOP").to_json()}, "/master_key"),
            (altered("device", lambda obj: obj.update(more=1)), "/device"),
            (altered("device", lambda obj: obj["signatures"][ME.user_id].pop("ed25519:PHONE")), "/device"),
            (altered("device", lambda obj: obj["signatures"][ME.user_id].update({SELF_SIGNING_ID: "x"})), "/device"),
            (altered("master_key", lambda obj: obj.pop("signatures")), "/master_key"),
            (
                altered("master_key", lambda obj: obj["signatures"][ME.user_id].update({"ed25519:PHONE": "x"})),
                "/master_key",
            ),
            (altered("self_signing_key", lambda obj: obj.pop("signatures")), "/self_signing_key"),
        ],
    )
    def test_what_was_not_stored_by_us(self, change: dict[str, Any], path: str) -> None:
        CrossSigningBootstrap.from_json(STORED)
        with pytest.raises(LocalProtocolError) as caught:
            CrossSigningBootstrap.from_json({**STORED, **change})
        assert caught.value.path.startswith(path)

    def test_what_was_added_is_not_sent(self) -> None:
        stored = copy.deepcopy(STORED)
        for name in ("master_key", "self_signing_key", "user_signing_key", "device"):
            stored[name]["unsigned"] = {"more": True}
            stored[name]["signatures"][ME.user_id]["ed25519:MORE"] = "more"
            stored[name]["signatures"][BOB.user_id] = {"ed25519:MORE": "more"}
        assert CrossSigningBootstrap.from_json(stored).to_json() == STORED

    def test_a_device_that_looks_like_a_key(self) -> None:
        """Attack 25: neither started nor restored."""
        signer = sample_secret_key("any").signer(MASTER_ID)
        keys = DeviceKeys.build(
            user_id=ME.user_id, device_id=MASTER, curve25519_key=sample_curve25519_key("any"), signer=signer
        )
        with pytest.raises(LocalProtocolError) as caught:
            CrossSigningBootstrap.start(SECRETS, device=keys.verify(), device_signer=signer)
        assert caught.value.reason is Reason.IDENTIFIER_COLLISION
        with pytest.raises(LocalProtocolError) as caught:
            CrossSigningBootstrap.from_json({**STORED, "device": keys.to_json()})
        assert (caught.value.reason, caught.value.path) == (Reason.IDENTIFIER_COLLISION, "/device")

    def test_what_is_given_is_not_changed(self) -> None:
        before = copy.deepcopy(STORED)
        CrossSigningBootstrap.from_json(STORED).mark_stored()
        assert before == STORED

    @given(json_like_values(), st.sampled_from([None, *STORED]))
    def test_no_foreign_exception(self, value: Any, name: str | None) -> None:
        with contextlib.suppress(E2EKeysError):
            CrossSigningBootstrap.from_json(value if name is None else {**copy.deepcopy(STORED), name: value})


class TestCallers:
    def test_there_is_no_other_way_to_make_one(self) -> None:
        make: Any = CrossSigningBootstrap
        with pytest.raises(LocalProtocolError):
            make()

    @pytest.mark.parametrize(
        ("arguments", "reason", "path"),
        [
            ({"secrets": None}, Reason.WRONG_TYPE, "/secrets"),
            ({"secrets": SECRETS.export_seeds()}, Reason.WRONG_TYPE, "/secrets"),
            ({"device": PHONE.keys}, Reason.WRONG_TYPE, "/device"),
            ({"device_signer": None}, Reason.WRONG_TYPE, "/signer"),
            ({"device_signer": ME.device_signer("LAPTOP")}, Reason.KEY_ID_NOT_DEVICE, "/device_signer"),
            ({"device_signer": BOB.device_signer("PHONE")}, Reason.PRIVATE_KEY_MISMATCH, "/device_signer"),
            (
                {"device": BOB.device("PHONE").verify(), "device_signer": BOB.device_signer("PHONE")},
                Reason.NOT_OWN_USER,
                "/device",
            ),
        ],
    )
    def test_the_start(self, arguments: dict[str, Any], reason: Reason, path: str) -> None:
        make: Any = CrossSigningBootstrap.start
        given_all = {"secrets": SECRETS, "device": PHONE, "device_signer": SIGNER, **arguments}
        with pytest.raises(LocalProtocolError) as caught:
            make(given_all.pop("secrets"), **given_all)
        assert (caught.value.reason, caught.value.path) == (reason, path)

    @pytest.mark.parametrize("missing", ["master", "self_signing", "user_signing"])
    def test_the_start_needs_all_private_keys(self, missing: str) -> None:
        secrets = attrs.evolve(SECRETS, **{missing: None})
        with pytest.raises(LocalProtocolError) as caught:
            CrossSigningBootstrap.start(secrets, device=PHONE, device_signer=SIGNER)
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_PRIVATE_KEY, f"/{missing}")

    def test_the_rest(self) -> None:
        made: Any = at(BootstrapState.UPLOAD_SIGNATURES)
        step = made.next_request(0)
        for call, path in (
            (lambda: made.next_request(None), "/now"),
            (lambda: made.next_request("0"), "/now"),
            (lambda: made.receive_response(step, TAKEN, 0), "/step_id"),
            (lambda: made.receive_response(True, TAKEN, 0), "/step_id"),
            (lambda: made.receive_response(step.step_id, {}, 0), "/response"),
            (lambda: made.receive_response(99, {}, 0), "/response"),
            (lambda: made.receive_error(99, "lost", 0), "/error"),
            (lambda: made.receive_response(step.step_id, YES, 0), "/response"),
            (lambda: made.receive_response(step.step_id, TAKEN, None), "/now"),
            (lambda: made.receive_error(step, None, 0), "/step_id"),
            (lambda: made.receive_error(step.step_id, ValueError(), 0), "/error"),
            (lambda: made.receive_error(step.step_id, None, 0.5), "/now"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path
        assert made.receive_response(step.step_id, TAKEN, 0) is BootstrapState.CONFIRM
        with pytest.raises(LocalProtocolError) as caught:
            made.confirm(None)
        assert (caught.value.path, made.state) == ("/result", BootstrapState.CONFIRM)

    def test_the_other_answer(self) -> None:
        made = at(BootstrapState.UPLOAD_KEYS)
        step = sent(made)
        with pytest.raises(LocalProtocolError) as caught:
            made.receive_response(step.step_id, TAKEN, 0)
        assert (caught.value.path, made.state) == ("/response", BootstrapState.UPLOAD_KEYS)
        assert made.receive_response(step.step_id, YES, 0) is BootstrapState.UPLOAD_SIGNATURES


# --------------------------------------------------------------------------------------------------------------
# Any order, any duplicate, any loss
# --------------------------------------------------------------------------------------------------------------

NAMES = ("master_key", "self_signing_key", "user_signing_key")


def content(obj: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}


class Server:
    """A homeserver with one user and one device. It asks for a password before it replaces keys."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.device: dict[str, Any] = PHONE.keys.to_json()
        self.strips = False
        self.session = 0

    def replace(self) -> None:
        """Somebody else sets up another identity."""
        self.keys = {name: getattr(OTHER, name).to_json() for name in NAMES}

    def upload_keys(self, request: dict[str, Any]) -> Any:
        auth = request.pop("auth", None)
        is_new = any(content(request[name]) != content(self.keys.get(name, {})) for name in NAMES)
        if self.keys and is_new and (auth is None or auth.get("session") != f"s{self.session}"):
            self.session += 1
            obj = {"session": f"s{self.session}", "flows": [{"stages": ["m.login.password"]}], "params": {}}
            return MatrixError.from_http(HttpResponse(status=401, body=json.dumps(obj).encode()))
        if is_new:
            self.keys = copy.deepcopy(request)
            if self.strips:
                self.keys["master_key"].pop("signatures")
        return YES

    def upload_signatures(self, request: dict[str, Any]) -> Any:
        failures: dict[str, Any] = {}
        for name, obj in request[ME.user_id].items():
            stored = self.device if name == "PHONE" else self.keys.get("master_key", {})
            signer = next(iter(self.keys.get("self_signing_key", {}).get("keys", {})), "")
            if content(obj) != content(stored) or (name == "PHONE" and signer not in obj["signatures"][ME.user_id]):
                failures[name] = {"errcode": "M_NOT_FOUND", "error": "Unknown device"}
            else:
                by_me = stored.setdefault("signatures", {}).setdefault(ME.user_id, {})
                for key_id, signature in obj["signatures"][ME.user_id].items():
                    by_me.setdefault(key_id, signature)
        return SignaturesUploadResponse.from_json({"failures": {ME.user_id: failures} if failures else {}})

    def answer(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "device_keys": {ME.user_id: {"PHONE": self.device}},
                **{f"{name}s": {ME.user_id: key} for name, key in self.keys.items()},
            }
        )


class Setup(RuleBasedStateMachine):
    """A server, a client, a network without manners, and somebody else who replaces the identity."""

    @initialize(strips=st.booleans())
    def begin(self, strips: bool) -> None:
        self.made = started()
        self.server = Server()
        self.server.strips = strips
        self.now = 0
        self.is_stored = False
        self.requests: list[BootstrapStep] = []
        self.responses: list[tuple[int, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.sent: dict[type, str] = {}

    @rule()
    def store(self) -> None:
        self.made.mark_stored()
        self.is_stored = True

    @rule()
    def send(self) -> None:
        step = self.made.next_request(self.now)
        if step is not None:
            assert self.is_stored
            assert self.made.next_request(10**15) is None
            request = body(step)
            request.pop("auth", None)
            assert json.dumps(request) == self.sent.setdefault(type(step.request), json.dumps(request))
            self.requests.append(step)

    @rule(data=st.data(), keep=st.booleans(), is_lost=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool, is_lost: bool) -> None:
        if self.requests:
            place = data.draw(st.integers(0, len(self.requests) - 1))
            step = self.requests[place] if keep else self.requests.pop(place)
            serve = (
                self.server.upload_keys
                if type(step.request) is DeviceSigningUploadRequest
                else self.server.upload_signatures
            )
            self.responses.append((step.step_id, None if is_lost else serve(body(step))))

    @rule(data=st.data(), keep=st.booleans())
    def receive(self, data: st.DataObject, keep: bool) -> None:
        if self.responses:
            place = data.draw(st.integers(0, len(self.responses) - 1))
            self.take(*(self.responses[place] if keep else self.responses.pop(place)))

    def take(self, step_id: int, response: Any) -> None:
        if response is None or isinstance(response, MatrixError):
            self.made.receive_error(step_id, response, self.now)
        else:
            self.made.receive_response(step_id, response, self.now)

    @rule(is_right=st.booleans())
    def authenticate(self, is_right: bool) -> None:
        asked = self.made.authentication
        assert (asked is None) is (self.made.state is not BootstrapState.AUTHENTICATE)
        if asked is not None:
            self.made.authenticate(asked.auth("m.login.password", PASSWORD) if is_right else PASSWORD)

    @rule()
    def ask(self) -> None:
        self.answers.append(self.server.answer())

    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        if self.made.state in (BootstrapState.CONFIRM, BootstrapState.DONE) and self.answers:
            obj = data.draw(st.sampled_from(self.answers))
            confirmation = self.made.confirm(judged(obj))
            assert confirmation.is_complete is (self.made.state is BootstrapState.DONE)
            device, master = obj["device_keys"][ME.user_id]["PHONE"], obj.get("master_keys", {}).get(ME.user_id, {})
            is_mine = MASTER_ID in master.get("keys", {})
            signed = is_mine and "ed25519:PHONE" in master.get("signatures", {}).get(ME.user_id, {})
            assert confirmation.is_complete is (signed and SELF_SIGNING_ID in device["signatures"][ME.user_id])

    @rule()
    def somebody_else_replaces_the_identity(self) -> None:
        self.server.replace()

    @rule(later=st.integers(0, 1_000_000))
    def wait(self, later: int) -> None:
        self.now += later

    @precondition(lambda self: self.is_stored)
    @rule()
    def restart(self) -> None:
        self.made = CrossSigningBootstrap.from_json(json.loads(json.dumps(self.made.to_json())))
        self.requests.clear()  # ids do not survive
        self.responses.clear()

    @precondition(lambda self: self.is_stored)
    @rule()
    def begin_again(self) -> None:
        self.made.upload_again()

    @invariant()
    def it_can_be_finished(self) -> None:
        if not hasattr(self, "made"):
            return
        state = copy.deepcopy((self.made, self.server, self.now))
        try:
            self.finish()
        finally:
            self.made, self.server, self.now = state

    def finish(self) -> None:
        self.made.mark_stored()
        for step in [self.made._in_flight] if self.made._in_flight is not None else []:
            self.made.receive_error(step.step_id, None, self.now)
        for _ in range(12):
            if self.made.state is BootstrapState.DONE:
                return
            if self.made.state is BootstrapState.CONFIRM:
                if not self.made.confirm(judged(self.server.answer())).is_complete:
                    self.made.upload_again()
                continue
            if self.made.authentication is not None:
                self.made.authenticate(self.made.authentication.auth("m.login.password", PASSWORD))
            self.now = max(self.now, self.made.next_request_at() or 0)
            step = sent(self.made, self.now)
            is_keys = type(step.request) is DeviceSigningUploadRequest
            self.take(
                step.step_id,
                (self.server.upload_keys if is_keys else self.server.upload_signatures)(body(step)),
            )
            if self.made.last_result is not None and self.made.last_result.refused:
                self.made.upload_again()
        pytest.fail(f"the set-up does not come to an end: {self.made.state}")


TestAnyOrder = Setup.TestCase
