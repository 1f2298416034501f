"""Cross-signing on one device: set up, verify, sign; and what is refused there."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from typing import Any, ClassVar
from unittest.mock import ANY

import pytest

from matrix_e2e_keys import (
    LIBSODIUM,
    CrossSigningKey,
    DeviceKeys,
    DeviceSigningUploadResponse,
    E2EKeysError,
    HttpResponse,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    MatrixError,
    Reason,
    SignaturesUploadResponse,
    UserIdentity,
    VerificationError,
    VerifiedDevice,
)
from matrix_e2e_keys.client.cross_signing.bootstrap import BootstrapState, CrossSigningBootstrap
from matrix_e2e_keys.client.cross_signing.own_signing import OwnSigning
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.cross_signing.signature_queue import SignatureQueue
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.users.changes import KeyChange
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key, sample_secret_key

ME = SampleUser("@me:a.example")
ME_AGAIN = SampleUser(ME.user_id, generation=1)
BOB = SampleUser("@bob:b.example")
BOB_AGAIN = SampleUser(BOB.user_id, generation=1)
ROLES = ("master", "self_signing", "user_signing")

PHONE = ME.device("PHONE", cross_signed=False)
LAPTOP = ME.device("LAPTOP", cross_signed=False)
LAPTOP_KEY = ME.device_signer("LAPTOP").public_key
PHONE_KEY = ME.device_signer("PHONE").public_key
BOBS = BOB.device("PHONE")
ASKS = MatrixError.from_http(
    HttpResponse(status=401, body=b'{"session":"s1","flows":[{"stages":["m.login.password"]}],"params":{}}')
)


def secrets_of(user: SampleUser, *roles: str) -> CrossSigningSecrets:
    return CrossSigningSecrets(user_id=user.user_id, **{role: user.secret(role) for role in roles or ROLES})


def identity_of(user: SampleUser) -> UserIdentity:
    return secrets_of(user).public_keys().identity()


def body(*users: tuple[SampleUser, Iterable[DeviceKeys]]) -> Any:
    return keys_query_answer(users, viewer=ME.user_id)


def told(made: OwnSigning, obj: Any) -> list[str]:
    """Have an answer judged and taken; return what has changed, in words."""
    request = KeysQueryRequest.for_users(obj["device_keys"])
    result = made.users.judge(request, KeysQueryResponse.from_json(obj))
    return words(made.users.take(result, obj["device_keys"]))


def words(changes: Iterable[KeyChange]) -> list[str]:
    return [
        f"{it.user_id} {it.before} -> {it.after}" if isinstance(it.after, IdentityState) else f"{it.user_id} {it.kind}"
        for it in changes
    ]


def fresh() -> OwnSigning:
    """A new device that has not heard of anything."""
    return OwnSigning(device=PHONE.verify(), signer=ME.device_signer("PHONE"), users=KnownUsers(own_user_id=ME.user_id))


def asked(user: SampleUser | None = None) -> OwnSigning:
    """A device that has asked the server: about oneself, and about Bob."""
    made = fresh()
    devices = {ME.user_id: {"PHONE": PHONE.to_json(), "LAPTOP": LAPTOP.to_json()}}
    if user is None:
        told(made, {"device_keys": devices})
        told(made, body((BOB, [BOBS])))
    else:
        told(made, body((user, [PHONE, LAPTOP]), (BOB, [BOBS])))
    return made


def ready(*roles: str) -> OwnSigning:
    """A device that has confirmed one's own identity, and has private keys."""
    made = asked(ME)
    made.users.confirm_own_identity(ME.master_public_key)
    made.use_secrets(secrets_of(ME, *roles))
    made.queue.withdraw_unless_by(())  # this device has been signed
    return made


def uploads(made: OwnSigning) -> dict[str, Any]:
    """What there is to upload."""
    outgoing = copy.deepcopy(made.queue).next_upload(10**12)
    return {} if outgoing is None else outgoing.request.to_json()


def who_signed(made: OwnSigning) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """User id and name of what there is to upload, and by whom it is signed, under which key id."""
    return {
        (user_id, name): [(entity, key_id) for entity, by in obj["signatures"].items() for key_id in by]
        for user_id, objects in uploads(made).items()
        for name, obj in objects.items()
    }


def key_id(user: SampleUser, role: str) -> str:
    return f"ed25519:{user.secret(role).public_key.to_base64()}"


def bobs_state(made: OwnSigning) -> str:
    return str(made.users.users[BOB.user_id].pin.state)


def refused(made: OwnSigning, call: Callable[[], object], kind: type[E2EKeysError] = LocalProtocolError) -> Any:
    """Why a call was refused. It has changed nothing."""
    before = made.users.to_json(), made.queue.to_json(), made.secrets, made.bootstrap, made.own_signature
    with pytest.raises(kind) as caught:
        call()
    assert (made.users.to_json(), made.queue.to_json(), made.secrets, made.bootstrap, made.own_signature) == before
    return caught.value


class TestSettingUp:
    def test_in_one_call(self) -> None:
        made = asked()
        secrets = secrets_of(ME)
        assert made.is_setting_up is False
        made.start_bootstrap(secrets)
        assert made.secrets is secrets
        assert made.is_setting_up
        assert made.bootstrap is not None
        assert made.bootstrap.state is BootstrapState.STORE_SECRETS
        assert made.bootstrap.identity == identity_of(ME)
        assert made.own_signature == PHONE
        assert made.own_signature is not None
        assert [*made.own_signature.signed.signatures[ME.user_id]] == [key_id(ME, "self_signing")]

    def test_how_long_it_is_under_way(self) -> None:
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        bootstrap = made.bootstrap
        assert bootstrap is not None
        bootstrap.mark_stored()
        assert made.is_setting_up
        bootstrap.receive_error(step_of(bootstrap), ASKS, 0)
        assert (bootstrap.state, made.is_setting_up) == (BootstrapState.AUTHENTICATE, True)
        made.authenticate({"type": "m.login.password", "session": "s1"})
        assert (bootstrap.state, made.is_setting_up) == (BootstrapState.UPLOAD_KEYS, True)
        step = bootstrap.next_request(0)
        assert step is not None
        assert step.request.to_json()["auth"] == {"type": "m.login.password", "session": "s1"}
        bootstrap.receive_response(step.step_id, DeviceSigningUploadResponse(), 0)
        assert (bootstrap.state, made.is_setting_up) == (BootstrapState.UPLOAD_SIGNATURES, False)
        bootstrap.receive_response(step_of(bootstrap), SignaturesUploadResponse(), 0)
        assert (bootstrap.state, made.is_setting_up) == (BootstrapState.CONFIRM, False)

    def test_not_before_the_server_has_been_asked(self) -> None:
        """An identity that may be there is not replaced."""
        made = fresh()
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME))).reason is Reason.WRONG_STATE
        told(made, body((BOB, [BOBS])))
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME))).reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("there", [ME, ME_AGAIN])
    def test_not_over_an_identity_that_is_there(self, there: SampleUser) -> None:
        made = asked(there)
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME))).reason is Reason.WRONG_STATE
        told(made, {"device_keys": {ME.user_id: {}}})
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME))).reason is Reason.WRONG_STATE, "it vanished"
        made.start_bootstrap(secrets_of(ME), reset=True)
        assert made.is_setting_up

    def test_not_twice(self) -> None:
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME_AGAIN))).reason is Reason.WRONG_STATE
        made.start_bootstrap(secrets_of(ME_AGAIN), reset=True)
        assert made.bootstrap is not None
        assert made.bootstrap.identity == identity_of(ME_AGAIN)

    def test_a_reset_needs_no_answer(self) -> None:
        made = fresh()
        made.start_bootstrap(secrets_of(ME), reset=True)
        assert made.is_setting_up

    @pytest.mark.parametrize(
        ("secrets", "reason"),
        [
            (secrets_of(ME, "master", "self_signing"), Reason.MISSING_PRIVATE_KEY),
            (secrets_of(ME, "master", "user_signing"), Reason.MISSING_PRIVATE_KEY),
            (secrets_of(BOB), Reason.NOT_OWN_USER),
            (None, Reason.WRONG_TYPE),
            ({}, Reason.WRONG_TYPE),
        ],
        ids=["no user-signing key", "no self-signing key", "another user's", "none", "another type"],
    )
    @pytest.mark.parametrize("reset", [False, True])
    def test_all_three_keys_of_one_s_own(self, secrets: Any, reason: Reason, reset: bool) -> None:
        made = asked()
        assert refused(made, lambda: made.start_bootstrap(secrets, reset=reset)).reason is reason

    @pytest.mark.parametrize("reset", [None, 1, "yes"])
    def test_yes_or_no(self, reset: Any) -> None:
        made = asked()
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME), reset=reset)).path == "/reset"

    def test_a_device_that_can_be_taken_for_a_key(self) -> None:
        """Attack 25: such a device sets up nothing."""
        name = ME.master_public_key.to_base64()
        made = OwnSigning(
            device=ME.device(name, cross_signed=False).verify(),
            signer=ME.device_signer(name),
            users=KnownUsers(own_user_id=ME.user_id),
        )
        error = refused(made, lambda: made.start_bootstrap(secrets_of(ME), reset=True))
        assert error.reason is Reason.IDENTIFIER_COLLISION

    def test_nobody_asked_for_a_proof(self) -> None:
        made = asked()
        assert refused(made, lambda: made.authenticate({})).reason is Reason.WRONG_STATE
        made.start_bootstrap(secrets_of(ME))
        assert refused(made, lambda: made.authenticate({})).reason is Reason.WRONG_STATE


def step_of(bootstrap: CrossSigningBootstrap) -> int:
    step = bootstrap.next_request(0)
    assert step is not None
    return step.step_id


class TestPrivateKeys:
    def test_after_the_identity_is_known(self) -> None:
        made = asked(ME)
        secrets = secrets_of(ME)
        assert words(made.use_secrets(secrets)) == ["@me:a.example pinned -> verified"]
        assert made.secrets is secrets
        assert made.users.own_master_key == ME.master_public_key
        assert made.use_secrets(secrets) == ()

    def test_before_the_identity_is_known(self) -> None:
        """It is confirmed when it is served, if it is that one."""
        made = fresh()
        assert made.use_secrets(secrets_of(ME)) == ()
        assert made.settle() == ((), ())
        assert made.users.own is None
        told(made, body((BOB, [BOBS])))
        assert made.settle() == ((), ())
        told(made, body((ME, [PHONE])))
        assert made.users.own is None
        changes, stale = made.settle()
        assert (words(changes), stale) == (["@me:a.example pinned -> verified"], ())
        assert made.users.own is not None
        assert made.settle() == ((), ())

    def test_what_is_confirmed_is_not_looked_at_again(self) -> None:
        """After every answer, everybody's signatures would have to be checked."""
        checks: list[int] = []

        class Counting:
            def verify_many(self, questions: Any) -> list[bool]:
                checks.append(len(questions))
                return LIBSODIUM.verify_many(questions)

        made = OwnSigning(
            device=PHONE.verify(),
            signer=ME.device_signer("PHONE"),
            users=KnownUsers(own_user_id=ME.user_id, verifier=Counting()),
        )
        told(made, body((ME, [PHONE]), (BOB, [BOBS])))
        made.use_secrets(secrets_of(ME))
        checks.clear()
        assert made.settle() == ((), ())
        assert checks == []

    def test_before_the_server_says_that_there_is_another_identity(self) -> None:
        """Attack 33: somebody has reset it. The private keys are of no use any more, and that is said."""
        made = fresh()
        made.use_secrets(secrets_of(ME))
        told(made, body((ME_AGAIN, [PHONE])))
        assert made.settle() == ((), ROLES)
        assert (made.secrets, made.own_signature, made.users.own) == (None, None, None)
        assert made.settle() == ((), ())

    def test_an_identity_that_the_server_makes_up_costs_nothing(self) -> None:
        """Attack 33: what was confirmed is kept, and its private keys and signatures on their way with it."""
        made = ready()
        made.verify_user(BOB.user_id, BOB.master_public_key)
        waiting = made.queue.waiting
        told(made, body((ME_AGAIN, [PHONE]), (BOB, [BOBS])))
        assert made.settle() == ((), ROLES)
        assert made.own_signature is None
        assert made.use_secrets(secrets_of(ME)) == (), "as after a restart"
        with pytest.raises(LocalProtocolError):
            made.verify_device("PHONE", PHONE_KEY)
        told(made, body((ME, [PHONE]), (BOB, [BOBS])))
        assert made.settle() == ((), ())
        assert made.secrets is not None
        assert made.secrets.is_complete
        assert made.queue.waiting >= waiting
        assert bobs_state(made) == "verified", "though the server never had the signature"

    def test_without_the_master_key_nothing_is_confirmed(self) -> None:
        """Attack 32: the other two are vouched for by a master key that nobody knows."""
        made = asked(ME)
        assert made.use_secrets(secrets_of(ME, "self_signing", "user_signing")) == ()
        assert made.settle() == ((), ())
        assert made.users.own is None
        assert refused(made, lambda: made.verify_user(BOB.user_id, BOB.master_public_key)).reason is Reason.WRONG_STATE

    @pytest.mark.parametrize("role", ROLES)
    def test_one_that_is_not_that_of_the_identity(self, role: str) -> None:
        made = asked(ME)
        keys = {**{it: ME.secret(it) for it in ROLES}, role: ME_AGAIN.secret(role)}
        secrets = CrossSigningSecrets(user_id=ME.user_id, **keys)
        error = refused(made, lambda: made.use_secrets(secrets), VerificationError)
        assert (error.reason, error.path) == (Reason.PRIVATE_KEY_MISMATCH, f"/{role}_key")

    @pytest.mark.parametrize("secrets", [None, {}, secrets_of(BOB), ANY], ids=["none", "seeds", "Bob's", "anything"])
    def test_only_one_s_own(self, secrets: Any) -> None:
        made = asked(ME)
        assert refused(made, lambda: made.use_secrets(secrets)).path == "/secrets"

    def test_some_of_them_are_dropped(self) -> None:
        made = ready()
        other = CrossSigningSecrets(
            user_id=ME.user_id,
            master=ME.secret("master"),
            self_signing=ME_AGAIN.secret("self_signing"),
            user_signing=ME.secret("user_signing"),
        )
        answer = body((ME, [PHONE]))
        answer["self_signing_keys"][ME.user_id] = other.public_keys().self_signing_key.to_json()
        told(made, answer)
        assert made.settle() == ((), ("self_signing",))
        assert made.secrets is not None
        assert {*made.secrets.export_seeds()} == {"m.cross_signing.master", "m.cross_signing.user_signing"}
        assert made.own_signature is None

    def test_export_and_import(self) -> None:
        """The private keys go through storage as seeds, and their public halves are checked."""
        seeds = json.loads(json.dumps(secrets_of(ME).export_seeds()))
        made = asked(ME)
        made.use_secrets(CrossSigningSecrets.from_seeds(ME.user_id, seeds))
        made.verify_device("LAPTOP", LAPTOP_KEY)
        other = asked(ME_AGAIN)
        refused(other, lambda: other.use_secrets(CrossSigningSecrets.from_seeds(ME.user_id, seeds)), VerificationError)

    def test_an_identity_that_was_another_one_in_between(self) -> None:
        """Attack 33: the private master key says that it is the right one, if the user hands it over again."""
        made = ready()
        told(made, body((ME_AGAIN, [PHONE])))
        assert made.settle() == ((), ROLES)
        told(made, body((ME, [PHONE])))
        assert made.settle() == ((), ())
        assert made.users.users[ME.user_id].pin.needs_approval
        assert words(made.use_secrets(secrets_of(ME))) == ["@me:a.example verification-violation -> verified"]

    def test_the_signature_for_this_device(self) -> None:
        made = fresh()
        made.use_secrets(secrets_of(ME, "master", "user_signing"))
        assert made.own_signature is None
        made.use_secrets(secrets_of(ME, "self_signing"))
        assert made.own_signature is not None
        made.own_signature.signed.verify(
            entity=ME.user_id,
            key_id=key_id(ME, "self_signing"),
            key=ME.secret("self_signing").public_key,
        )

    def test_a_device_that_can_be_taken_for_a_key(self) -> None:
        """Attack 25: nothing is signed, and nothing is kept."""
        name = ME.secret("self_signing").public_key.to_base64()
        made = OwnSigning(
            device=ME.device(name, cross_signed=False).verify(),
            signer=ME.device_signer(name),
            users=KnownUsers(own_user_id=ME.user_id),
        )
        assert refused(made, lambda: made.use_secrets(secrets_of(ME))).reason is Reason.IDENTIFIER_COLLISION

    def test_they_show_nowhere(self) -> None:
        """Attack 24: neither in what is printed, nor in what is stored, nor in what is refused."""
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        bootstrap = made.bootstrap
        assert bootstrap is not None
        bootstrap.mark_stored()
        bootstrap.receive_response(step_of(bootstrap), DeviceSigningUploadResponse(), 0)
        made.users.install_own_identity(identity_of(ME))
        made.verify_user(BOB.user_id, BOB.master_public_key)
        stored = json.dumps([made.users.to_json(), made.queue.to_json(), bootstrap.to_json()])
        error = refused(made, lambda: made.use_secrets(secrets_of(ME_AGAIN)), VerificationError)
        device_seed = ME.device_signer("PHONE").secret_key
        shown = [repr(made), str(made), stored, repr(made.secrets), repr(error), str(error)]
        assert "signer=" not in repr(made), "who knows what the signer of a caller shows"
        for key in (*(user.secret(role) for user in (ME, ME_AGAIN) for role in ROLES), device_seed):
            seed = key.export_base64()
            for start in range(len(seed) - 7):
                assert not any(seed[start : start + 8] in text for text in shown)


class TestWhileItIsSetUp:
    def reset(self) -> OwnSigning:
        """A device that has begun to replace an identity, before a restart, without its private keys."""
        made = asked(ME)
        made.start_bootstrap(secrets_of(ME_AGAIN), reset=True)
        assert made.bootstrap is not None
        made.bootstrap.mark_stored()
        again = OwnSigning(
            device=made.device,
            signer=made.signer,
            users=KnownUsers.from_json(made.users.to_json()),
            queue=SignatureQueue.from_json(made.queue.to_json()),
        )
        again.resets = made.resets
        again.bootstrap = CrossSigningBootstrap.from_json(json.loads(json.dumps(made.bootstrap.to_json())))
        assert (again.is_setting_up, again.secrets, again.own_signature) == (True, None, None)
        return again

    def test_the_new_private_keys_are_wanted(self) -> None:
        """What is known is the old identity. That is not the one that counts."""
        made = self.reset()
        assert made.settle() == ((), ())
        refused(made, lambda: made.use_secrets(secrets_of(ME)), VerificationError)
        secrets = secrets_of(ME_AGAIN)
        assert made.use_secrets(secrets) == ()
        assert made.settle() == ((), ())
        assert made.secrets is secrets
        assert made.own_signature is not None
        assert made.users.own is None

    @pytest.mark.parametrize("is_restarted", [False, True])
    def test_those_of_the_identity_that_it_replaces_are_not(self, is_restarted: bool) -> None:
        """That one was confirmed. But whoever stores its private keys does not have those that are uploaded."""
        made = self.reset() if is_restarted else ready()
        if is_restarted:
            made.users.confirm_own_identity(ME.master_public_key)
        else:
            made.start_bootstrap(secrets_of(ME_AGAIN), reset=True)
        error = refused(made, lambda: made.use_secrets(secrets_of(ME)), VerificationError)
        assert error.reason is Reason.PRIVATE_KEY_MISMATCH
        made.abandon_bootstrap()
        made.use_secrets(secrets_of(ME))

    def test_then_it_is_uploaded(self) -> None:
        made = self.reset()
        made.use_secrets(secrets_of(ME_AGAIN))
        bootstrap = made.bootstrap
        assert bootstrap is not None
        bootstrap.receive_response(step_of(bootstrap), DeviceSigningUploadResponse(), 0)
        made.users.install_own_identity(bootstrap.identity)
        assert made.settle() == ((), ())
        assert made.users.own_master_key == ME_AGAIN.master_public_key
        made.verify_device("LAPTOP", LAPTOP_KEY)
        assert who_signed(made) == {(ME.user_id, "LAPTOP"): [(ME.user_id, key_id(ME_AGAIN, "self_signing"))]}

    def test_with_the_new_keys_nothing_is_signed_before(self) -> None:
        """Attack 32: they do not belong to the identity that everybody sees."""
        made = asked(ME)
        made.users.confirm_own_identity(ME.master_public_key)
        made.start_bootstrap(secrets_of(ME_AGAIN), reset=True)
        for call in (
            lambda: made.verify_user(BOB.user_id, BOB.master_public_key),
            lambda: made.verify_device("LAPTOP", LAPTOP_KEY),
        ):
            assert refused(made, call).reason is Reason.WRONG_STATE


class TestDevices:
    def test_another_device(self) -> None:
        made = ready()
        made.verify_device("LAPTOP", LAPTOP_KEY)
        assert who_signed(made) == {(ME.user_id, "LAPTOP"): [(ME.user_id, key_id(ME, "self_signing"))]}
        assert DeviceKeys.from_json(uploads(made)[ME.user_id]["LAPTOP"]) == LAPTOP
        assert made.users.users[ME.user_id].cross_signed_devices == {"LAPTOP", "PHONE"}

    def test_this_device(self) -> None:
        made = ready()
        made.verify_device("PHONE", PHONE_KEY)
        assert who_signed(made) == {(ME.user_id, "PHONE"): [(ME.user_id, key_id(ME, "self_signing"))]}

    @pytest.mark.parametrize(
        ("device_id", "key"),
        [
            ("LAPTOP", PHONE_KEY),
            ("PHONE", LAPTOP_KEY),
            ("NEVER", LAPTOP_KEY),
            (LAPTOP_KEY.to_base64(), LAPTOP_KEY),
            ("LAPTOP", ME.master_public_key),
            ("", LAPTOP_KEY),
            (None, LAPTOP_KEY),
            ([], LAPTOP_KEY),
            (ANY, LAPTOP_KEY),
        ],
        ids=repr,
    )
    def test_the_key_that_was_compared_decides(self, device_id: Any, key: Any) -> None:
        """Attack 25: a device is named by its key; another key under its id is refused."""
        made = ready()
        error = refused(made, lambda: made.verify_device(device_id, key))
        assert (error.reason, error.path) == (Reason.SIGNING_KEY_CHANGED, "/device_id")

    @pytest.mark.parametrize("key", [None, ANY, LAPTOP_KEY.to_base64(), LAPTOP_KEY.raw], ids=repr)
    def test_a_key_is_needed(self, key: Any) -> None:
        """Attack 25: what claims to be equal to anything was not compared with anything."""
        made = ready()
        error = refused(made, lambda: made.verify_device("LAPTOP", key))
        assert (error.reason, error.path) == (Reason.WRONG_TYPE, "/ed25519_key")

    def test_a_device_of_somebody_else(self) -> None:
        """Attack 40: the self-signing key signs one's own devices only."""
        made = ready()
        told(made, body((BOB, [BOB.device("TABLET")])))
        error = refused(made, lambda: made.verify_device("TABLET", BOB.device_signer("TABLET").public_key))
        assert error.reason is Reason.SIGNING_KEY_CHANGED

    @pytest.mark.parametrize("roles", [("self_signing",), ROLES])
    def test_a_device_that_can_be_taken_for_a_key(self, roles: tuple[str, ...]) -> None:
        """Attack 25: also for one whose private half is not at hand."""
        made = fresh()
        thief = DeviceKeys.build(
            user_id=ME.user_id,
            device_id="THIEF",
            curve25519_key=sample_curve25519_key("thief"),
            signer=ME.secret("user_signing").signer("ed25519:THIEF"),
        )
        told(made, {"device_keys": {ME.user_id: {"THIEF": thief.to_json()}}})
        made.users.install_own_identity(identity_of(ME))
        made.use_secrets(secrets_of(ME, *roles))
        assert {*made.users.users[ME.user_id].devices} == {"THIEF"}
        error = refused(made, lambda: made.verify_device("THIEF", ME.secret("user_signing").public_key))
        assert error.reason is Reason.KEY_REUSED

    def test_what_is_needed(self) -> None:
        """Attack 32: one's own identity, confirmed; and the private key that belongs to it."""
        sign = lambda made: lambda: made.verify_device("LAPTOP", LAPTOP_KEY)  # noqa: E731
        for made, reason in (
            (fresh(), Reason.WRONG_STATE),
            (asked(), Reason.WRONG_STATE),
            (asked(ME), Reason.WRONG_STATE),
            (ready("master", "user_signing"), Reason.MISSING_PRIVATE_KEY),
        ):
            assert refused(made, sign(made)).reason is reason
        made = asked(ME)
        made.users.confirm_own_identity(ME.master_public_key)
        assert refused(made, sign(made)).reason is Reason.MISSING_PRIVATE_KEY
        made = ready()
        told(made, body((ME_AGAIN, [PHONE, LAPTOP])))
        assert refused(made, sign(made)).reason is Reason.WRONG_STATE
        made.users.confirm_own_identity(ME_AGAIN.master_public_key)
        assert refused(made, sign(made)).reason is Reason.MISSING_PRIVATE_KEY, "it is stale, whether settled or not"


class TestUsers:
    def test_the_first_time(self) -> None:
        made = ready()
        assert words(made.verify_user(BOB.user_id, BOB.master_public_key)) == ["@bob:b.example pinned -> verified"]
        name = (BOB.user_id, BOB.master_public_key.to_base64())
        assert who_signed(made) == {name: [(ME.user_id, key_id(ME, "user_signing"))]}
        assert CrossSigningKey.from_json(uploads(made)[BOB.user_id][name[1]]) == BOB.master_key
        assert made.verify_user(BOB.user_id, BOB.master_public_key) == ()

    def test_with_the_user_signing_key_alone(self) -> None:
        made = ready("user_signing")
        made.verify_user(BOB.user_id, BOB.master_public_key)
        assert bobs_state(made) == "verified"

    @pytest.mark.parametrize(
        ("seen", "before", "now"),
        [
            ([], "pinned", BOB),
            ([BOB_AGAIN], "pin-violation", BOB_AGAIN),
            ([BOB_AGAIN, BOB], "pinned", BOB),
            (["verify"], "verified", BOB),
            (["verify", BOB_AGAIN], "verification-violation", BOB_AGAIN),
            (["verify", BOB_AGAIN, BOB], "verification-violation", BOB),
            (["verify", ME_AGAIN], "verification-lost", BOB),
            (["verify", ME_AGAIN, BOB_AGAIN], "verification-violation", BOB_AGAIN),
        ],
        ids=lambda it: it if isinstance(it, str) else None,
    )
    def test_it_leads_out_of_every_state(self, seen: list[Any], before: str, now: SampleUser) -> None:
        """Attack 33: after a change, and after a change and back, the user is verified anew, and is verified then."""
        made = ready()
        for it in seen:
            if it == "verify":
                made.verify_user(BOB.user_id, BOB.master_public_key)
            else:
                told(made, body((it, [] if it.user_id == BOB.user_id else [PHONE, LAPTOP])))
        assert bobs_state(made) == before
        if ME_AGAIN in seen:
            made.settle()
            made.use_secrets(secrets_of(ME_AGAIN))
        other = BOB if now is BOB_AGAIN else BOB_AGAIN
        error = refused(made, lambda: made.verify_user(BOB.user_id, other.master_public_key))
        assert (error.reason, error.path) == (Reason.IDENTITY_CHANGED, "/master_key")
        changes = made.verify_user(BOB.user_id, now.master_public_key)
        assert words(changes) == ([] if before == "verified" else [f"@bob:b.example {before} -> verified"])
        assert bobs_state(made) == "verified"
        told(made, body((now, [])))
        assert bobs_state(made) == "verified", "whatever the server serves"

    @pytest.mark.parametrize(
        ("user_id", "key"),
        [
            (BOB.user_id, BOB_AGAIN.master_public_key),
            (BOB.user_id, BOB.secret("self_signing").public_key),
            (BOB.user_id, ME.master_public_key),
            ("@dave:d.example", BOB.master_public_key),
            (None, BOB.master_public_key),
            ([], BOB.master_public_key),
            (ANY, BOB.master_public_key),
        ],
        ids=repr,
    )
    def test_the_key_that_was_compared_decides(self, user_id: Any, key: Any) -> None:
        """Attack 25: a user is named by the master key; with another one, nothing is signed."""
        made = ready()
        error = refused(made, lambda: made.verify_user(user_id, key))
        assert (error.reason, error.path) == (Reason.IDENTITY_CHANGED, "/master_key")

    @pytest.mark.parametrize("key", [None, ANY, BOB.master_public_key.to_base64()], ids=repr)
    def test_a_key_is_needed(self, key: Any) -> None:
        """Attack 25: what claims to be equal to anything was not compared with anything."""
        made = ready()
        error = refused(made, lambda: made.verify_user(BOB.user_id, key))
        assert (error.reason, error.path) == (Reason.WRONG_TYPE, "/master_key")

    def test_a_user_with_a_device_that_can_be_taken_for_a_key(self) -> None:
        """Attack 25: "clients MUST refuse to verify" such a user."""
        made = ready()
        name = BOB.master_public_key.to_base64()
        told(made, body((BOB, [BOB.device(name, cross_signed=False)])))
        assert made.users.users[BOB.user_id].collision == name
        error = refused(made, lambda: made.verify_user(BOB.user_id, BOB.master_public_key))
        assert (error.reason, error.path) == (Reason.IDENTIFIER_COLLISION, "/user_id")
        told(made, body((BOB, [BOBS])))
        made.verify_user(BOB.user_id, BOB.master_public_key)
        assert bobs_state(made) == "verified"

    def test_a_user_without_an_identity(self) -> None:
        made = ready()
        told(made, {"device_keys": {"@dave:d.example": {}}})
        error = refused(made, lambda: made.verify_user("@dave:d.example", BOB.master_public_key))
        assert error.reason is Reason.IDENTITY_CHANGED

    def test_not_oneself(self) -> None:
        """Attack 40: one's own master key is signed by one's devices."""
        made = ready()
        error = refused(made, lambda: made.verify_user(ME.user_id, ME.master_public_key))
        assert error.reason is Reason.INVALID_VALUE

    def test_a_user_signing_key_that_is_not_served(self) -> None:
        """One does not sign with what nobody could trace back to one's master key."""
        made = fresh()
        answer = body((ME, [PHONE]), (BOB, [BOBS]))
        answer["user_signing_keys"] = {}
        told(made, answer)
        made.use_secrets(secrets_of(ME, "master", "self_signing"))
        made.secrets = secrets_of(ME)
        error = refused(made, lambda: made.verify_user(BOB.user_id, BOB.master_public_key))
        assert error.reason is Reason.MISSING_PRIVATE_KEY

    def test_what_is_needed(self) -> None:
        """Attack 32: nobody is verified by an identity that is not confirmed."""
        sign = lambda made: lambda: made.verify_user(BOB.user_id, BOB.master_public_key)  # noqa: E731
        for made, reason in (
            (fresh(), Reason.WRONG_STATE),
            (asked(), Reason.WRONG_STATE),
            (asked(ME), Reason.WRONG_STATE),
            (ready("master", "self_signing"), Reason.MISSING_PRIVATE_KEY),
        ):
            assert refused(made, sign(made)).reason is reason


class TestOneSOwnMasterKey:
    def test_this_device_signs_it(self) -> None:
        made = asked(ME)
        made.users.confirm_own_identity(ME.master_public_key)
        assert made.sign_own_master_key() == ()
        name = (ME.user_id, ME.master_public_key.to_base64())
        assert who_signed(made) == {name: [(ME.user_id, "ed25519:PHONE")]}
        uploaded = CrossSigningKey.from_json(uploads(made)[ME.user_id][name[1]])
        uploaded.signed.verify(entity=ME.user_id, key_id="ed25519:PHONE", key=PHONE_KEY)

    def test_not_before_it_is_confirmed(self) -> None:
        """Attack 32: the server's word for it is not enough."""
        for made in (fresh(), asked(), asked(ME)):
            assert refused(made, made.sign_own_master_key).reason is Reason.WRONG_STATE
        made = ready()
        told(made, body((ME_AGAIN, [PHONE])))
        assert refused(made, made.sign_own_master_key).reason is Reason.WRONG_STATE

    def test_one_that_was_another_one_in_between(self) -> None:
        made = ready()
        told(made, body((ME_AGAIN, [PHONE])))
        told(made, body((ME, [PHONE])))
        assert words(made.sign_own_master_key()) == ["@me:a.example verification-violation -> verified"]


class TestWhatIsSignedAtAll:
    def test_the_three_relationships_and_no_other(self) -> None:
        """Attack 40: one's devices by the self-signing key, one's master key by this device, others' by the third."""
        made = ready()
        for user in (ME, BOB, ME_AGAIN, BOB_AGAIN):
            keys = [user.secret(role).public_key for role in ROLES]
            devices = [user.device_signer(name).public_key for name in ("PHONE", "LAPTOP")]
            names = ["PHONE", "LAPTOP", *(key.to_base64() for key in (*keys, *devices))]
            for key in (*keys, *devices):
                for name in names:
                    attempt(made.verify_device, name, key)
                attempt(made.verify_user, user.user_id, key)
        made.sign_own_master_key()
        assert who_signed(made) == {
            (ME.user_id, "PHONE"): [(ME.user_id, key_id(ME, "self_signing"))],
            (ME.user_id, "LAPTOP"): [(ME.user_id, key_id(ME, "self_signing"))],
            (ME.user_id, ME.master_public_key.to_base64()): [(ME.user_id, "ed25519:PHONE")],
            (BOB.user_id, BOB.master_public_key.to_base64()): [(ME.user_id, key_id(ME, "user_signing"))],
        }

    def test_and_then_seen_to_be_served(self) -> None:
        """Pain A3: what was refused is read, and what was taken is looked for in a later answer."""
        made = ready()
        made.verify_device("LAPTOP", LAPTOP_KEY)
        made.sign_own_master_key()
        made.verify_user(BOB.user_id, BOB.master_public_key)
        master = ME.master_public_key.to_base64()
        outgoing = made.queue.next_upload(0)
        assert outgoing is not None
        result = made.queue.receive_response(
            outgoing.upload_id,
            SignaturesUploadResponse.from_json({"failures": {ME.user_id: {master: {"errcode": "M_FORBIDDEN"}}}}),
        )
        assert result is not None
        assert [(it.user_id, it.name) for it in result.refused] == [(ME.user_id, master)]
        served = uploads_as_served(outgoing.request.to_json(), skip=BOB.user_id)
        request = KeysQueryRequest.for_users([ME.user_id, BOB.user_id])
        judged = made.users.judge(request, KeysQueryResponse.from_json(served))
        confirmation = made.queue.confirm(judged, own_device=made.device)
        assert confirmation is not None
        assert [(it.user_id, it.name) for it in confirmation.served] == [(ME.user_id, "LAPTOP")]
        assert [it.signature.user_id for it in confirmation.missing] == [BOB.user_id]
        assert made.queue.unconfirmed == {(BOB.user_id, BOB.master_public_key.to_base64())}


def attempt(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except LocalProtocolError:
        return


def uploads_as_served(uploaded: dict[str, Any], skip: str) -> dict[str, Any]:
    """What a server answers that has kept the signatures but those on the keys of one user."""
    obj = body((ME, [PHONE, LAPTOP]), (BOB, [BOBS]))
    for user_id, objects in uploaded.items():
        for name, signed in objects.items() if user_id != skip else ():
            stored = obj["device_keys"][user_id].get(name, obj["master_keys"][user_id])
            stored.setdefault("signatures", {}).setdefault(ME.user_id, {}).update(signed["signatures"][ME.user_id])
    return obj


class TestMakingOne:
    @pytest.mark.parametrize(
        ("changes", "reason", "path"),
        [
            ({"device": PHONE}, Reason.WRONG_TYPE, "/device"),
            ({"signer": None}, Reason.WRONG_TYPE, "/signer"),
            ({"signer": ME.device_signer("LAPTOP")}, Reason.KEY_ID_NOT_DEVICE, "/signer"),
            ({"signer": sample_secret_key("x").signer("ed25519:PHONE")}, Reason.PRIVATE_KEY_MISMATCH, "/signer"),
            ({"users": None}, Reason.WRONG_TYPE, ""),
            ({"users": {}}, Reason.WRONG_TYPE, ""),
            ({"users": KnownUsers(own_user_id=BOB.user_id)}, Reason.NOT_OWN_USER, "/users"),
            ({"queue": None}, Reason.WRONG_TYPE, ""),
        ],
    )
    def test_the_parts_must_fit(self, changes: dict[str, Any], reason: Reason, path: str) -> None:
        parts: dict[str, Any] = {
            "device": PHONE.verify(),
            "signer": ME.device_signer("PHONE"),
            "users": KnownUsers(own_user_id=ME.user_id),
            "queue": SignatureQueue(),
        }
        OwnSigning(**parts)
        with pytest.raises(LocalProtocolError) as caught:
            OwnSigning(**{**parts, **changes})
        assert (caught.value.reason, caught.value.path) == (reason, path)

    def test_a_device_that_is_signed_by_others_too(self) -> None:
        """What this device uploads of itself holds its own signatures and no other."""
        by_bob = add_signature(PHONE.signed, entity=BOB.user_id, signer=BOB.device_signer("PHONE"))
        device: VerifiedDevice = PHONE.with_signed(by_bob).verify()
        made = OwnSigning(device=device, signer=ME.device_signer("PHONE"), users=KnownUsers(own_user_id=ME.user_id))
        made.start_bootstrap(secrets_of(ME), reset=True)
        assert made.own_signature is not None
        assert {entity: [*by] for entity, by in made.own_signature.signed.signatures.items()} == {
            ME.user_id: [key_id(ME, "self_signing")]
        }


class TestGivingUp:
    def test_without_private_keys_there_is_nothing_to_drop(self) -> None:
        assert asked(ME).settle() == ((), ())

    def test_a_set_up(self) -> None:
        made = asked()
        with pytest.raises(LocalProtocolError) as caught:
            made.abandon_bootstrap()
        assert caught.value.reason is Reason.WRONG_STATE
        made.start_bootstrap(secrets_of(ME))
        made.abandon_bootstrap()
        assert (made.bootstrap, made.secrets, made.own_signature, made.is_setting_up) == (None, None, None, False)
        made.start_bootstrap(secrets_of(ME_AGAIN))  # another one

    def test_not_once_the_server_has_the_keys(self) -> None:
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        assert made.bootstrap is not None
        made.bootstrap.mark_stored()
        step = made.bootstrap.next_request(0)
        assert step is not None
        made.bootstrap.receive_response(step.step_id, DeviceSigningUploadResponse(), 0)
        with pytest.raises(LocalProtocolError):
            made.abandon_bootstrap()

    def test_signatures_by_keys_that_were_replaced(self) -> None:
        made = ready()
        made.verify_device("LAPTOP", LAPTOP_KEY)
        made.verify_user(BOB.user_id, BOB.master_public_key)
        made.sign_own_master_key()
        assert len(made.queue.waiting) == 3
        made.settle()
        assert len(made.queue.waiting) == 3
        told(made, body((ME_AGAIN, [PHONE, LAPTOP])))
        made.settle()
        assert len(made.queue.waiting) == 3
        made.users.confirm_own_identity(ME_AGAIN.master_public_key)
        made.settle()
        assert {name for _, name in made.queue.waiting} == {ME.master_public_key.to_base64()}  # by this device

    def test_a_user_signing_key_that_is_left_out_makes_nothing_stale(self) -> None:
        """Attack 36, for keys: a server that hides a key cannot make one throw the private one away."""
        made = fresh()
        made.use_secrets(secrets_of(ME))
        obj = body((ME, [PHONE]))
        obj["user_signing_keys"] = {}
        told(made, obj)
        assert made.settle()[1] == ()
        assert made.secrets is not None
        assert made.secrets.is_complete
        with pytest.raises(LocalProtocolError):
            made.verify_user(BOB.user_id, BOB.master_public_key)


@pytest.mark.parametrize("roles", [None, "master", 5])
def test_roles_are_several(roles: Any) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        secrets_of(ME).without(roles)
    assert caught.value.path == "/roles"


class TestThisDevice:
    """A device whose owner's private key is at hand is signed, whenever that comes."""

    SIGNED: ClassVar = {(ME.user_id, "PHONE"): [(ME.user_id, key_id(ME, "self_signing"))]}

    def test_once_the_private_keys_are_at_hand(self) -> None:
        made = asked(ME)
        made.use_secrets(secrets_of(ME))
        assert who_signed(made) == self.SIGNED
        made.use_secrets(secrets_of(ME))
        made.settle()
        assert who_signed(made) == self.SIGNED

    def test_once_the_identity_is_confirmed(self) -> None:
        made = asked(ME)
        made.use_secrets(secrets_of(ME, "self_signing"))
        made.settle()
        assert who_signed(made) == {}
        made.users.confirm_own_identity(ME.master_public_key)
        made.settle()
        assert who_signed(made) == self.SIGNED

    @pytest.mark.parametrize(
        "served", [[], [ME.device("PHONE")], [ME.device("PHONE", extra={"x": 1}, cross_signed=False)]]
    )
    def test_only_if_that_is_what_is_missing(self, served: list[DeviceKeys]) -> None:
        made = fresh()
        told(made, body((ME, served)))
        made.use_secrets(secrets_of(ME))
        assert who_signed(made) == {}

    def test_not_twice_while_it_is_on_its_way(self) -> None:
        made = asked(ME)
        made.use_secrets(secrets_of(ME))
        outgoing = made.queue.next_upload(0)
        assert outgoing is not None
        made.queue.receive_response(outgoing.upload_id, SignaturesUploadResponse())
        told(made, body((ME, [PHONE])))  # not served yet
        made.settle()
        assert (made.queue.waiting, len(made.queue.unconfirmed)) == (frozenset(), 1)


class TestAnotherIdentityMeanwhile:
    def test_a_set_up_that_may_not_replace_it_is_given_up(self) -> None:
        """Two devices begin at once: the one that is later must not replace what the other has made."""
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        told(made, body((ME_AGAIN, [PHONE])))
        made.settle()
        assert (made.bootstrap, made.secrets) == (None, None)

    def test_its_own_keys_are_no_other_identity(self) -> None:
        made = asked()
        made.start_bootstrap(secrets_of(ME))
        told(made, body((ME, [PHONE])))
        made.settle()
        assert made.is_setting_up

    def test_one_that_is_refused_may_be_there(self) -> None:
        made = fresh()
        obj = body((ME, [PHONE]))
        obj["self_signing_keys"][ME.user_id]["signatures"] = {}
        told(made, obj)
        assert refused(made, lambda: made.start_bootstrap(secrets_of(ME_AGAIN))).reason is Reason.WRONG_STATE
        told(made, {"device_keys": {ME.user_id: {}}})
        made.start_bootstrap(secrets_of(ME_AGAIN))

    def test_the_private_keys_of_before_are_there_again(self) -> None:
        made = ready()
        before = made.secrets
        made.start_bootstrap(secrets_of(ME_AGAIN), reset=True)
        made.start_bootstrap(secrets_of(SampleUser(ME.user_id, generation=2)), reset=True)
        made.abandon_bootstrap()
        assert made.secrets is before
        made.verify_device("LAPTOP", LAPTOP_KEY)
