"""One's own cross-signing keys: made, kept, compared with what is served, and signed with."""

from __future__ import annotations

import base64
import contextlib
import copy
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    CrossSigningKey,
    DeviceKeys,
    E2EKeysError,
    Ed25519SecretKey,
    LocalProtocolError,
    Reason,
    SignaturesUploadRequest,
    UserIdentity,
    VerificationError,
    VerifiedDevice,
)
from matrix_e2e_keys.client.cross_signing.device_signing import sign_own_master_key
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningKeys, CrossSigningSecrets
from matrix_e2e_keys.models.merged_signatures import merge_signatures
from matrix_e2e_keys.signing.signers import Signer
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values
from matrix_e2e_keys.unpadded_base64 import encode

ME = SampleUser("@me:a.example")
RESET = SampleUser("@me:a.example", generation=1)
BOB = SampleUser("@bob:b.example")
ROLES = ("master", "self_signing", "user_signing")


def secrets_of(user: SampleUser, *roles: str) -> CrossSigningSecrets:
    return CrossSigningSecrets(user_id=user.user_id, **{role: user.secret(role) for role in roles or ROLES})


def identity_of(user: SampleUser, *, without_user_signing_key: bool = False) -> UserIdentity:
    return UserIdentity.verify(
        master_key=user.master_key,
        self_signing_key=user.self_signing_key,
        user_signing_key=None if without_user_signing_key else user.user_signing_key,
    )


def device_of(user: SampleUser, device_id: str = "PHONE", **arguments: Any) -> VerifiedDevice:
    return user.device(device_id, **arguments).verify(identity=identity_of(user))


def device_named(device_id: str, secret: Ed25519SecretKey | None = None) -> tuple[VerifiedDevice, Signer]:
    """A device of mine whose id or signing key is chosen by somebody with something in mind."""
    signer = (secret or sample_secret_key("any")).signer(f"ed25519:{device_id}")
    keys = DeviceKeys.build(
        user_id=ME.user_id, device_id=device_id, curve25519_key=sample_curve25519_key("any"), signer=signer
    )
    return keys.verify(), signer


def refused(call: Callable[[], object]) -> tuple[Reason, str]:
    with pytest.raises(LocalProtocolError) as caught:
        call()
    return caught.value.reason, caught.value.path


class TestMaking:
    def test_fresh_keys_are_complete_and_never_the_same(self) -> None:
        made, other = CrossSigningSecrets.generate(ME.user_id), CrossSigningSecrets.generate(ME.user_id)
        assert made.is_complete
        seeds = [*made.export_seeds().values(), *other.export_seeds().values()]
        assert len(set(seeds)) == 6

    def test_the_public_halves_belong_together(self) -> None:
        keys = secrets_of(ME).public_keys()
        assert keys == CrossSigningKeys(
            master_key=ME.master_key, self_signing_key=ME.self_signing_key, user_signing_key=ME.user_signing_key
        )
        assert keys.identity() == identity_of(ME)
        assert keys.master_key.signed.signatures == {}
        master = f"ed25519:{ME.master_public_key.to_base64()}"
        for key in (keys.self_signing_key, keys.user_signing_key):
            assert {entity: [*by] for entity, by in key.signed.signatures.items()} == {ME.user_id: [master]}

    def test_the_device_signs_the_master_key(self) -> None:
        key = secrets_of(ME).public_keys(ME.device_signer("PHONE")).master_key
        assert {entity: [*by] for entity, by in key.signed.signatures.items()} == {ME.user_id: ["ed25519:PHONE"]}
        key.signed.verify(entity=ME.user_id, key_id="ed25519:PHONE", key=ME.device_signer("PHONE").public_key)

    def test_the_upload_holds_the_three_keys(self) -> None:
        keys = secrets_of(ME).public_keys(ME.device_signer("PHONE"))
        assert keys.upload_request().to_json() == {
            "master_key": keys.master_key.to_json(),
            "self_signing_key": keys.self_signing_key.to_json(),
            "user_signing_key": keys.user_signing_key.to_json(),
        }

    def test_keys_that_do_not_belong_together_are_no_identity(self) -> None:
        keys = CrossSigningKeys(
            master_key=RESET.master_key, self_signing_key=ME.self_signing_key, user_signing_key=ME.user_signing_key
        )
        with pytest.raises(VerificationError):
            keys.identity()

    @pytest.mark.parametrize("missing", ROLES)
    def test_public_keys_need_all_private_keys(self, missing: str) -> None:
        secrets = secrets_of(ME, *(role for role in ROLES if role != missing))
        assert not secrets.is_complete
        assert refused(secrets.public_keys) == (Reason.MISSING_PRIVATE_KEY, f"/{missing}")

    @pytest.mark.parametrize("name", ["master_key", "self_signing_key", "user_signing_key"])
    def test_public_keys_are_checked(self, name: str) -> None:
        keys: dict[str, Any] = attrs.asdict(secrets_of(ME).public_keys(), recurse=False)
        assert refused(lambda: CrossSigningKeys(**{**keys, name: None})) == (Reason.WRONG_TYPE, f"/{name}")


class TestKeeping:
    @pytest.mark.parametrize("roles", [(), ("master",), ("self_signing", "user_signing"), ROLES])
    def test_there_and_back(self, roles: tuple[str, ...]) -> None:
        secrets = CrossSigningSecrets(user_id=ME.user_id, **{role: ME.secret(role) for role in roles})
        seeds = secrets.export_seeds()
        assert seeds == {f"m.cross_signing.{role}": ME.secret(role).export_base64() for role in roles}
        again = CrossSigningSecrets.from_seeds(ME.user_id, seeds)
        assert again.export_seeds() == seeds
        assert again.is_complete is (roles == ROLES)

    def test_a_seed_in_each_role(self) -> None:
        seeds = {f"m.cross_signing.{role}": ME.secret(role).export_base64() for role in ROLES}
        assert CrossSigningSecrets.from_seeds(ME.user_id, seeds).public_keys() == secrets_of(ME).public_keys()

    @pytest.mark.parametrize(("first", "second"), [(0, 1), (0, 2), (1, 2)])
    def test_one_key_has_one_role(self, first: int, second: int) -> None:
        """Attack 29: the same bytes in two roles."""
        secret = ME.secret("master")
        given = {ROLES[first]: secret, ROLES[second]: Ed25519SecretKey.from_base64(secret.export_base64())}
        assert refused(lambda: CrossSigningSecrets(user_id=ME.user_id, **given)) == (
            Reason.KEY_REUSED,
            f"/{ROLES[second]}",
        )
        seeds = {f"m.cross_signing.{role}": secret.export_base64() for role in given}
        assert refused(lambda: CrossSigningSecrets.from_seeds(ME.user_id, seeds))[0] is Reason.KEY_REUSED

    @pytest.mark.parametrize(
        ("seeds", "reason", "path"),
        [
            (None, Reason.WRONG_TYPE, "/seeds"),
            (["m.cross_signing.master"], Reason.WRONG_TYPE, "/seeds"),
            ({"master": "A" * 43}, Reason.INVALID_VALUE, "/seeds"),
            ({"m.cross_signing": "A" * 43}, Reason.INVALID_VALUE, "/seeds"),
            ({5: "A" * 43}, Reason.INVALID_VALUE, "/seeds"),
            ({(): "A" * 43}, Reason.INVALID_VALUE, "/seeds"),
            ({"m.cross_signing.master": "A" * 42}, Reason.WRONG_LENGTH, "/seeds/m.cross_signing.master"),
            ({"m.cross_signing.self_signing": "!"}, Reason.INVALID_BASE64, "/seeds/m.cross_signing.self_signing"),
            ({"m.cross_signing.user_signing": None}, Reason.INVALID_BASE64, "/seeds/m.cross_signing.user_signing"),
        ],
        ids=repr,
    )
    def test_what_is_no_seed(self, seeds: Any, reason: Reason, path: str) -> None:
        assert refused(lambda: CrossSigningSecrets.from_seeds(ME.user_id, seeds)) == (reason, path)

    def test_names_that_cannot_even_be_looked_up(self) -> None:
        class Odd(Mapping[Any, Any]):
            def __getitem__(self, name: Any) -> Any:
                return "A" * 43

            def __iter__(self) -> Iterator[Any]:
                return iter([["m.cross_signing.master"]])

            def __len__(self) -> int:
                return 1

        assert refused(lambda: CrossSigningSecrets.from_seeds(ME.user_id, Odd())) == (Reason.INVALID_VALUE, "/seeds")

    @pytest.mark.parametrize("name", ROLES)
    @pytest.mark.parametrize("bad", ["A" * 43, b"\0" * 32, 5, ME.secret("master").cross_signer()], ids=type)
    def test_what_is_no_private_key(self, name: str, bad: Any) -> None:
        assert refused(lambda: CrossSigningSecrets(user_id=ME.user_id, **{name: bad})) == (
            Reason.WRONG_TYPE,
            f"/{name}",
        )

    @pytest.mark.parametrize("user_id", ["me", None, 5])
    def test_whose_keys(self, user_id: Any) -> None:
        for make in (
            lambda: CrossSigningSecrets(user_id=user_id),
            lambda: CrossSigningSecrets.generate(user_id),
            lambda: CrossSigningSecrets.from_seeds(user_id, {}),
        ):
            assert refused(make)[1] == "/user_id"

    @given(json_like_values())
    def test_no_foreign_exception(self, value: Any) -> None:
        for call in (
            lambda: CrossSigningSecrets.from_seeds(value, {}),
            lambda: CrossSigningSecrets.from_seeds(ME.user_id, value),
            lambda: CrossSigningSecrets.from_seeds(ME.user_id, {"m.cross_signing.master": value}),
            lambda: secrets_of(ME).sign_device(value),
            lambda: secrets_of(ME).sign_user(value),
            lambda: secrets_of(ME).check_against(value),
            lambda: secrets_of(ME).public_keys(value),
            lambda: sign_own_master_key(value, device=value, signer=value),
        ):
            with contextlib.suppress(E2EKeysError):
                call()


SEED_NAMES = [f"m.cross_signing.{role}" for role in ROLES]
SECRETS = secrets_of(ME)


def leaks(text: str) -> list[str]:
    """Return what in ``text`` gives away eight bytes of one of the seeds."""
    found: list[str] = []
    for role in ROLES:
        seed = base64.b64decode(ME.secret(role).export_base64() + "=")
        windows = [seed[at : at + 8] for at in range(len(seed) - 7)]
        shown = [each for it in windows for each in (it.decode("latin-1"), it.hex(), repr(it)[2:-1], str([*it])[1:-1])]
        for at in range(3):
            whole = base64.b64encode(seed[at:]).decode()
            shown += [whole[start : start + 10] for start in range(len(whole) - 12)]
        found += [it for it in shown if it in text or it.upper() in text]
    return found


def or_refusal(make: Callable[[], str]) -> str:
    try:
        return make()
    except LocalProtocolError as error:
        return str(error)


def logged(value: object) -> str:
    stream = io.StringIO()
    logger = logging.Logger("test")
    logger.addHandler(logging.StreamHandler(stream))
    logger.error("%s %r %s", value, value, [value], exc_info=True)
    return stream.getvalue()


def in_a_traceback(value: object) -> str:
    try:
        raise ValueError(value)
    except ValueError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        return "".join(shown.format()) + logged(value)


WAYS_OUT: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "str": str,
    "format": lambda value: f"{value} {value!s} {value!r} {value!a}",
    "inside a list": lambda value: f"{[value]} { ({'a': value}) }",
    "logging": logged,
    "traceback": in_a_traceback,
    "pickle": lambda value: or_refusal(lambda: pickle.dumps(value).decode("latin-1")),
    "copy": lambda value: or_refusal(lambda: repr(copy.copy(value)) + repr(copy.deepcopy(value))),
    "vars": lambda value: str({name: repr(getattr(value, name)) for name in dir(value) if not name.startswith("__")}),
    "asdict": lambda value: str(attrs.asdict(value)),
    "astuple": lambda value: str(attrs.astuple(value)),
}


class TestSecrets:
    def test_the_search_finds_secrets(self) -> None:
        """Attack 24: the search itself."""
        for seed in SECRETS.export_seeds().values():
            assert leaks(f"<{seed[4:30]}>")
            assert leaks(base64.b64decode(seed + "=").hex())
        assert not leaks(ME.master_public_key.to_base64())

    @pytest.mark.parametrize("way", WAYS_OUT.values(), ids=WAYS_OUT.keys())
    def test_no_secret_shows(self, way: Callable[[Any], str]) -> None:
        """Attack 24: in raw, hexadecimal or base64, eight bytes at a time."""
        assert leaks(way(SECRETS)) == []

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_they_are_not_pickled(self, protocol: int) -> None:
        """Attack 24: also not inside something else."""
        for value in (SECRETS, [SECRETS]):
            with pytest.raises(LocalProtocolError):
                pickle.dumps(value, protocol)

    def test_they_are_not_copied(self) -> None:
        """Attack 24: copy goes the way of pickle."""
        for make in (copy.copy, copy.deepcopy):
            with pytest.raises(LocalProtocolError):
                make(SECRETS)

    @pytest.mark.parametrize("name", SEED_NAMES)
    def test_errors_do_not_quote_a_seed(self, name: str) -> None:
        """Attack 24: a malformed seed may be most of a good one, and name and seed may have been exchanged."""
        seed = SECRETS.export_seeds()[name]
        for seeds in ({name: seed + "AAAA"}, {name: seed[:-1]}, {name: seed + "!"}, {seed: name}, {seed: seed}):
            with pytest.raises(LocalProtocolError) as caught:
                CrossSigningSecrets.from_seeds(ME.user_id, seeds)
            assert leaks("".join(traceback.format_exception(caught.value)) + repr(caught.value.args)) == []

    def test_what_does_show(self) -> None:
        assert repr(SECRETS) == "<CrossSigningSecrets of '@me:a.example': master, self_signing, user_signing>"
        assert repr(CrossSigningSecrets(user_id=ME.user_id)) == "<CrossSigningSecrets of '@me:a.example': none>"

    def test_they_have_no_equality(self) -> None:
        assert secrets_of(ME) != secrets_of(ME)


class TestWhetherTheyAreStillTheUsersKeys:
    def test_the_same_identity(self) -> None:
        secrets = secrets_of(ME)
        secrets.check_against(identity_of(ME))
        assert secrets.stale_against(identity_of(ME)) == ()
        assert secrets.matching(identity_of(ME)).export_seeds() == secrets.export_seeds()

    @pytest.mark.parametrize("role", ROLES)
    def test_somebody_has_reset_the_identity(self, role: str) -> None:
        secrets = secrets_of(ME, role)
        assert secrets.stale_against(identity_of(RESET)) == (role,)
        assert secrets.matching(identity_of(RESET)).export_seeds() == {}
        with pytest.raises(VerificationError) as caught:
            secrets.check_against(identity_of(RESET))
        assert (caught.value.reason, caught.value.path) == (Reason.PRIVATE_KEY_MISMATCH, f"/{role}_key")
        assert role in caught.value.detail
        secrets.check_against(identity_of(ME))

    def test_one_key_was_replaced_under_the_same_master_key(self) -> None:
        key = CrossSigningKey.build(
            user_id=ME.user_id,
            usage="self_signing",
            public_key=RESET.secret("self_signing").public_key,
            signer=ME.secret("master").cross_signer(),
        )
        identity = UserIdentity.verify(
            master_key=ME.master_key, self_signing_key=key, user_signing_key=ME.user_signing_key
        )
        assert secrets_of(ME).stale_against(identity) == ("self_signing",)
        left = secrets_of(ME).matching(identity)
        assert [*left.export_seeds()] == ["m.cross_signing.master", "m.cross_signing.user_signing"]
        left.check_against(identity)

    def test_roles_do_not_stand_for_each_other(self) -> None:
        secrets = CrossSigningSecrets(
            user_id=ME.user_id, master=ME.secret("self_signing"), self_signing=ME.secret("master")
        )
        assert secrets.stale_against(identity_of(ME)) == ("master", "self_signing")

    def test_an_identity_without_the_key(self) -> None:
        identity = identity_of(ME, without_user_signing_key=True)
        assert secrets_of(ME).stale_against(identity) == ("user_signing",)
        secrets_of(ME, "master", "self_signing").check_against(identity)

    @pytest.mark.parametrize("name", ["check_against", "stale_against", "matching"])
    def test_other_arguments(self, name: str) -> None:
        secrets: Any = secrets_of(ME)
        method = getattr(secrets, name)
        assert refused(lambda: method(ME.master_key)) == (Reason.WRONG_TYPE, "/identity")
        assert refused(lambda: method(identity_of(BOB))) == (Reason.USER_ID_MISMATCH, "/identity")


class TestSigning:
    def test_one_s_own_device(self) -> None:
        device = device_of(ME, cross_signed=False, extra={"org.example": ["kept"]})
        signed = secrets_of(ME, "self_signing").sign_device(device)
        assert signed == device.keys
        merge_signatures(device.keys, signed).verify(identity=identity_of(ME))
        merged = merge_signatures(device.keys, signed).verify(identity=identity_of(ME))
        assert merged.cross_signed_by == ME.secret("self_signing").public_key
        assert not device.is_cross_signed

    def test_another_user(self) -> None:
        """Attack 32: and only one's own identity can say so."""
        signed = secrets_of(ME, "user_signing").sign_user(identity_of(BOB))
        bob = UserIdentity.verify(
            master_key=merge_signatures(BOB.master_key, signed), self_signing_key=BOB.self_signing_key
        )
        mine = identity_of(ME).confirm_as_own(master_key=ME.master_public_key)
        mine.verify_user(bob)
        without = UserIdentity.verify(master_key=BOB.master_key, self_signing_key=BOB.self_signing_key)
        for own, other in (
            (identity_of(RESET).confirm_as_own(master_key=RESET.master_public_key), bob),
            (mine, identity_of(SampleUser(BOB.user_id, generation=1))),
            (mine, without),
        ):
            with pytest.raises(VerificationError):
                own.verify_user(other)

    def test_one_s_own_master_key(self) -> None:
        signer = ME.device_signer("PHONE")
        signed = sign_own_master_key(ME.master_key, device=device_of(ME), signer=signer)
        assert signed == ME.master_key
        signed.signed.verify(entity=ME.user_id, key_id="ed25519:PHONE", key=signer.public_key)

    def test_nothing_but_the_new_signature_comes_out(self) -> None:
        unsigned: dict[str, object] = {"device_display_name": "Phone"}
        phone = ME.device("PHONE")
        device = phone.with_signed(phone.signed.with_unsigned(unsigned)).verify()
        master = ME.master_key.with_signed(ME.verified(ME.master_key).signed.with_unsigned(unsigned))
        bobs = BOB.master_key.with_signed(RESET.verified(BOB.master_key).signed.with_unsigned(unsigned))
        bob = UserIdentity.verify(master_key=bobs, self_signing_key=BOB.self_signing_key)
        before = [device.keys.to_json(), master.to_json(), bobs.to_json()]
        for signed, key_id in (
            (secrets_of(ME).sign_device(device), ME.secret("self_signing").cross_signer().key_id),
            (secrets_of(ME).sign_user(bob), ME.secret("user_signing").cross_signer().key_id),
            (sign_own_master_key(master, device=device, signer=ME.device_signer("PHONE")), "ed25519:PHONE"),
        ):
            obj: dict[str, Any] = signed.to_json()
            assert "unsigned" not in obj
            assert {entity: [*by] for entity, by in obj["signatures"].items()} == {ME.user_id: [str(key_id)]}
        assert [device.keys.to_json(), master.to_json(), bobs.to_json()] == before

    def test_that_is_what_is_uploaded(self) -> None:
        request = SignaturesUploadRequest.for_keys(
            [secrets_of(ME).sign_device(device_of(ME)), secrets_of(ME).sign_user(identity_of(BOB))]
        )
        names = {user_id: [*of_user] for user_id, of_user in request.to_json().items() if isinstance(of_user, dict)}
        assert names == {ME.user_id: ["PHONE"], BOB.user_id: [BOB.master_public_key.to_base64()]}

    @pytest.mark.parametrize(
        ("role", "call"),
        [
            ("self_signing", lambda secrets: secrets.sign_device(device_of(ME))),
            ("user_signing", lambda secrets: secrets.sign_user(identity_of(BOB))),
        ],
    )
    def test_with_the_right_private_key_only(self, role: str, call: Callable[[CrossSigningSecrets], object]) -> None:
        call(secrets_of(ME, role))
        others = secrets_of(ME, *(each for each in ROLES if each != role))
        assert refused(lambda: call(others)) == (Reason.MISSING_PRIVATE_KEY, f"/{role}")


KINDS = ("device", *ROLES)


def things(user: SampleUser, kind: str) -> list[Any]:
    """Everything that somebody may hand over in order to have that key of a user signed."""
    if kind == "device":
        return [device_of(user), device_of(user).keys, user.device_signer("PHONE")]
    key = getattr(user, f"{kind}_key")
    whole = [identity_of(user), identity_of(user).confirm_as_own(master_key=user.master_public_key)]
    return [key, user.secret(kind), *(whole if kind == "master" else [])]


SIGNERS: dict[str, Callable[[Any], DeviceKeys | CrossSigningKey]] = {
    "self_signing": lambda thing: secrets_of(ME).sign_device(thing),
    "user_signing": lambda thing: secrets_of(ME).sign_user(thing),
    "device": lambda thing: sign_own_master_key(thing, device=device_of(ME), signer=ME.device_signer("PHONE")),
}
LEGAL = {("self_signing", "device", ME), ("user_signing", "master", BOB), ("device", "master", ME)}


class TestWhoSignsWhom:
    @pytest.mark.parametrize("user", [ME, BOB], ids=["mine", "bob's"])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("signer", SIGNERS)
    def test_three_relationships_and_no_other(self, signer: str, kind: str, user: SampleUser) -> None:
        """Attack 40: no other signing relationship ever leaves this client."""
        signed = 0
        for thing in things(user, kind):
            with contextlib.suppress(LocalProtocolError):
                key = SIGNERS[signer](thing)
                signed += 1
                assert key.user_id == user.user_id
                assert getattr(key, "usage", "device") == kind
        assert signed == ((signer, kind, user) in LEGAL)

    def test_devices_of_others(self) -> None:
        assert refused(lambda: secrets_of(ME).sign_device(device_of(BOB))) == (Reason.NOT_OWN_USER, "/device")
        call: Any = secrets_of(ME).sign_device
        assert refused(lambda: call(ME.device("PHONE"))) == (Reason.WRONG_TYPE, "/device")

    def test_users_who_are_none(self) -> None:
        assert refused(lambda: secrets_of(ME).sign_user(identity_of(ME))) == (Reason.INVALID_VALUE, "/identity")
        assert refused(lambda: secrets_of(ME).sign_user(identity_of(RESET))) == (Reason.INVALID_VALUE, "/identity")
        call: Any = secrets_of(ME).sign_user
        assert refused(lambda: call(BOB.master_key)) == (Reason.WRONG_TYPE, "/identity")

    @pytest.mark.parametrize("role", ROLES)
    def test_another_user_with_one_of_my_keys(self, role: str) -> None:
        """Attack 29: the same bytes under two names."""
        master = CrossSigningKey.build(user_id=BOB.user_id, usage="master", public_key=ME.secret(role).public_key)
        below = CrossSigningKey.build(
            user_id=BOB.user_id,
            usage="self_signing",
            public_key=BOB.secret("self_signing").public_key,
            signer=ME.secret(role).cross_signer(),
        )
        bob = UserIdentity.verify(master_key=master, self_signing_key=below)
        assert refused(lambda: secrets_of(ME).sign_user(bob)) == (Reason.KEY_REUSED, "/identity")

    @pytest.mark.parametrize(
        ("key", "device", "signer", "reason", "path"),
        [
            (None, device_of(ME), ME.device_signer("PHONE"), Reason.WRONG_TYPE, "/master_key"),
            (identity_of(ME), device_of(ME), ME.device_signer("PHONE"), Reason.WRONG_TYPE, "/master_key"),
            (ME.master_key, ME.device("PHONE"), ME.device_signer("PHONE"), Reason.WRONG_TYPE, "/device"),
            (ME.master_key, device_of(ME), ME.secret("master"), Reason.WRONG_TYPE, "/signer"),
            (ME.master_key, device_of(ME), ME.device_signer("LAPTOP"), Reason.KEY_ID_NOT_DEVICE, "/signer"),
            (ME.master_key, device_of(ME), ME.secret("master").cross_signer(), Reason.KEY_ID_NOT_DEVICE, "/signer"),
            (ME.master_key, device_of(ME), BOB.device_signer("PHONE"), Reason.PRIVATE_KEY_MISMATCH, "/signer"),
            (ME.self_signing_key, device_of(ME), ME.device_signer("PHONE"), Reason.WRONG_USAGE, "/master_key"),
            (BOB.master_key, device_of(ME), ME.device_signer("PHONE"), Reason.NOT_OWN_USER, "/master_key"),
            (
                CrossSigningKey.from_json({"user_id": ME.user_id, "usage": ["master"], "keys": {"x:A": "A"}}),
                device_of(ME),
                ME.device_signer("PHONE"),
                Reason.UNSUPPORTED_ALGORITHM,
                "/master_key",
            ),
        ],
    )
    def test_what_a_device_does_not_sign(self, key: Any, device: Any, signer: Any, reason: Reason, path: str) -> None:
        assert refused(lambda: sign_own_master_key(key, device=device, signer=signer)) == (reason, path)


def spellings(role: str) -> list[str]:
    """Device ids that somebody may take for a key."""
    text = ME.secret(role).public_key.to_base64()
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    spare = text[:-1] + last[last.index(text[-1]) + 1]  # another last character, with the same 32 bytes
    return [text, text + "=", spare, text.translate(str.maketrans("+/", "-_")), text[:9] + " \n!" + text[9:]]


class TestDevicesThatLookLikeKeys:
    @pytest.mark.parametrize("role", ROLES)
    @pytest.mark.parametrize("spelling", range(5))
    def test_a_device_id_that_is_a_key_of_mine(self, role: str, spelling: int) -> None:
        """Attack 25: by bytes, and by what the most lenient decoder reads."""
        device, signer = device_named(spellings(role)[spelling])
        secrets = secrets_of(ME)
        assert refused(lambda: secrets.sign_device(device)) == (Reason.IDENTIFIER_COLLISION, "/device")
        assert refused(lambda: secrets.public_keys(signer)) == (Reason.IDENTIFIER_COLLISION, "/device_signer")
        if role == "master":
            assert refused(lambda: sign_own_master_key(ME.master_key, device=device, signer=signer)) == (
                Reason.IDENTIFIER_COLLISION,
                "/signer",
            )

    def test_a_device_id_that_is_a_key_of_somebody_else(self) -> None:
        device, signer = device_named(BOB.master_public_key.to_base64())
        secrets_of(ME).sign_device(device)
        secrets_of(ME).public_keys(signer)

    @pytest.mark.parametrize("role", ROLES)
    def test_a_device_that_has_a_key_of_mine(self, role: str) -> None:
        """Attack 29: the same bytes as a device and as a cross-signing key."""
        device, signer = device_named("PHONE", ME.secret(role))
        assert refused(lambda: secrets_of(ME).sign_device(device)) == (Reason.KEY_REUSED, "/device")
        assert refused(lambda: secrets_of(ME).public_keys(signer)) == (Reason.KEY_REUSED, "/device_signer")
        if role == "master":
            assert refused(lambda: sign_own_master_key(ME.master_key, device=device, signer=signer)) == (
                Reason.KEY_REUSED,
                "/signer",
            )

    def test_signers_that_are_no_devices(self) -> None:
        """Attack 13: nothing but an Ed25519 key signs."""
        assert refused(lambda: secrets_of(ME).public_keys(ME.secret("master").cross_signer()))[0] is (
            Reason.IDENTIFIER_COLLISION
        )
        call: Any = secrets_of(ME).public_keys
        assert refused(lambda: call("ed25519:PHONE"))[0] is Reason.WRONG_TYPE
        signer = ME.device_signer("PHONE")
        other = attrs.evolve(signer, key_id=attrs.evolve(signer.key_id, algorithm="curve25519"))
        assert refused(lambda: secrets_of(ME).public_keys(other)) == (Reason.UNSUPPORTED_ALGORITHM, "/device_signer")

    def test_an_identifier_of_the_same_length_is_fine(self) -> None:
        device, _ = device_named(encode(b"\1" * 32))
        secrets_of(ME).sign_device(device)


@given(st.sampled_from(ROLES), st.binary(min_size=32, max_size=32))
def test_any_seed_is_kept(role: str, seed: bytes) -> None:
    seeds = {f"m.cross_signing.{role}": encode(seed)}
    assert CrossSigningSecrets.from_seeds(ME.user_id, seeds).export_seeds() == seeds
