"""Cross-signing keys and identities."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given

from matrix_e2e_keys import (
    CrossSigningKey,
    E2EKeysError,
    Ed25519PublicKey,
    LocalProtocolError,
    OwnIdentity,
    Reason,
    RemoteProtocolError,
    UserIdentity,
    VerificationError,
)
from matrix_e2e_keys.testing.samples import SampleUser, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = SampleUser("@alice:a.example")
BOB = SampleUser("@bob:b.example")
ED = sample_secret_key("x").public_key.to_base64()
OTHER = sample_secret_key("y").public_key.to_base64()


def key(**changes: Any) -> dict[str, Any]:
    return {**ALICE.master_key.to_json(), **changes}


MALFORMED = {
    "null": (None, Reason.WRONG_TYPE, ""),
    "no user_id": ({"usage": ["master"], "keys": {}}, Reason.MISSING_MEMBER, "/user_id"),
    "no usage": ({"user_id": "@a:b", "keys": {}}, Reason.MISSING_MEMBER, "/usage"),
    "no keys": ({"user_id": "@a:b", "usage": ["master"]}, Reason.MISSING_MEMBER, "/keys"),
    "user_id null": (key(user_id=None), Reason.WRONG_TYPE, "/user_id"),
    "user_id no id": (key(user_id="x"), Reason.INVALID_IDENTIFIER, "/user_id"),
    # attack 28: usage confusion
    "usage string": (key(usage="not_a_master_key"), Reason.WRONG_TYPE, "/usage"),
    "usage object": (key(usage={"master": True}), Reason.WRONG_TYPE, "/usage"),
    "usage null": (key(usage=None), Reason.WRONG_TYPE, "/usage"),
    "usage nested": (key(usage=[["master"]]), Reason.WRONG_TYPE, "/usage/0"),
    "usage empty": (key(usage=[]), Reason.WRONG_USAGE, "/usage"),
    "usage two roles": (key(usage=["master", "self_signing"]), Reason.WRONG_USAGE, "/usage"),
    "usage twice": (key(usage=["master", "master"]), Reason.WRONG_USAGE, "/usage"),
    # attack 26: the key id is not the key
    "key id not the key": (
        key(keys={f"ed25519:{ED}": OTHER}),
        Reason.KEY_ID_NOT_KEY,
        f"/keys/ed25519:{ED}".replace(
            "/keys/ed25519:" + ED, "/keys/ed25519:" + ED.replace("~", "~0").replace("/", "~1")
        ),
    ),
    "key id a device": (key(keys={"ed25519:DEVICE": ED}), Reason.KEY_ID_NOT_KEY, "/keys/ed25519:DEVICE"),
    "key id empty name": (key(keys={"ed25519:": ""}), Reason.KEY_ID_NOT_KEY, "/keys/ed25519:"),
    "key id without colon": (key(keys={"ed25519": "ed25519"}), Reason.INVALID_KEY_ID, "/keys/ed25519"),
    "key id without algorithm": (key(keys={":x": "x"}), Reason.INVALID_KEY_ID, "/keys/:x"),
    # attack 27: several keys, or none
    "no key": (key(keys={}), Reason.MISSING_KEY, "/keys"),
    "two keys": (key(keys={f"ed25519:{ED}": ED, f"ed25519:{OTHER}": OTHER}), Reason.TOO_MANY_KEYS, "/keys"),
    "unknown first": (key(keys={"x:1": "1", f"ed25519:{ED}": ED}), Reason.TOO_MANY_KEYS, "/keys"),
    "unknown second": (key(keys={f"ed25519:{ED}": ED, "x:1": "1"}), Reason.TOO_MANY_KEYS, "/keys"),
    "keys array": (key(keys=[]), Reason.WRONG_TYPE, "/keys"),
    "key null": (key(keys={"ed25519:x": None}), Reason.WRONG_TYPE, "/keys/ed25519:x"),
    "not base64": (key(keys={"ed25519:!": "!"}), Reason.INVALID_BASE64, "/keys/ed25519:!"),
    "too short": (key(keys={"ed25519:AAAA": "AAAA"}), Reason.WRONG_LENGTH, "/keys/ed25519:AAAA"),
    "padded": (
        key(keys={"ed25519:AQID" + "A" * 39 + "=": "AQID" + "A" * 39 + "="}),
        Reason.INVALID_BASE64,
        "/keys/ed25519:AQID" + "A" * 39 + "=",
    ),
    "identity point": (
        key(keys={"ed25519:AQ" + "A" * 41: "AQ" + "A" * 41}),
        Reason.WEAK_KEY,
        "/keys/ed25519:AQ" + "A" * 41,
    ),
    "signatures": (key(signatures=5), Reason.WRONG_TYPE, "/signatures"),
    "float": (key(added=0.5), Reason.NOT_AN_INTEGER, "/added"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str) -> None:
    """attacks 26, 27, 28: what is not one key of one role under its own name."""
    obj, reason, path = MALFORMED[case]
    with pytest.raises(RemoteProtocolError) as caught:
        CrossSigningKey.from_json(obj)
    assert (caught.value.reason, caught.value.path) == (reason, path)


def test_members() -> None:
    master = ALICE.master_key
    assert (master.user_id, master.usage) == (ALICE.user_id, "master")
    assert master.public_key == ALICE.master_public_key
    assert str(master.key_id) == master.key_name == f"ed25519:{ALICE.master_public_key.to_base64()}"
    assert CrossSigningKey.from_json(master.to_json()) == master
    assert hash(CrossSigningKey.from_json(master.to_json())) == hash(master)
    assert master != ALICE.self_signing_key
    assert master != "x"
    assert ALICE.user_id in repr(master)


def test_unknown_members_and_unknown_algorithms_are_kept() -> None:
    obj = key(keys={"m.future:abc": "abc"}, added={"a": [1]})
    future = CrossSigningKey.from_json(obj)
    assert future.public_key is None
    assert future.to_json() == obj


class TestBuild:
    def test_extra_members_cannot_replace_known_ones(self) -> None:
        built = CrossSigningKey.build(
            user_id=ALICE.user_id,
            usage="master",
            public_key=ALICE.master_public_key,
            extra={"usage": ["user_signing"], "keys": {}, "signatures": {"x": {}}, "added": 1},
        )
        assert built.usage == "master"
        assert built.to_json()["added"] == 1
        assert not built.signed.signatures

    @pytest.mark.parametrize(
        "changes",
        [
            {"extra": 5},
            {"usage": "Master"},
            {"usage": "device"},
            {"public_key": ED},
            {"user_id": "x"},
            {"extra": {"a": 1.5}},
        ],
    )
    def test_bad_parts(self, changes: dict[str, Any]) -> None:
        parts: dict[str, Any] = {"user_id": ALICE.user_id, "usage": "master", "public_key": ALICE.master_public_key}
        with pytest.raises(LocalProtocolError):
            CrossSigningKey.build(**{**parts, **changes})

    def test_signatures_are_exchanged_over_the_same_bytes_only(self) -> None:
        with pytest.raises(LocalProtocolError):
            ALICE.master_key.with_signed(BOB.master_key.signed)


class TestIdentity:
    def test_keys_that_belong_together(self) -> None:
        identity = UserIdentity.verify(
            master_key=ALICE.master_key,
            self_signing_key=ALICE.self_signing_key,
            user_signing_key=ALICE.user_signing_key,
        )
        assert identity.user_id == ALICE.user_id
        assert identity.self_signing_public_key == ALICE.secret("self_signing").public_key
        assert len(identity.raw_keys) == 3
        assert ALICE.user_id in repr(identity)

    @pytest.mark.parametrize("role", ["self_signing", "user_signing"])
    @pytest.mark.parametrize("how", ["unsigned", "signed by itself", "signed by bob", "tampered", "garbage"])
    def test_a_key_that_the_master_key_did_not_sign(self, role: str, how: str) -> None:
        """attack 30: a subordinate key is nothing without the master key's signature."""
        good = {"self_signing": ALICE.self_signing_key, "user_signing": ALICE.user_signing_key}
        obj: Any = good[role].to_json()
        master_name = ALICE.master_key.key_name
        if how == "unsigned":
            obj["signatures"] = {}
        elif how == "signed by itself":
            secret = ALICE.secret(role)
            by_itself = CrossSigningKey.build(
                user_id=ALICE.user_id,
                usage=role,
                public_key=secret.public_key,
                signer=secret.cross_signer(),  # type: ignore[arg-type]
            )
            obj = by_itself.to_json()
            obj["signatures"][ALICE.user_id][master_name] = next(iter(obj["signatures"][ALICE.user_id].values()))
        elif how == "signed by bob":
            by_bob = good[role].signed.without_signatures()
            secret = BOB.secret("master")
            obj["signatures"] = {ALICE.user_id: {master_name: secret.sign(by_bob.canonical).to_base64()}}
        elif how == "tampered":
            obj["added"] = 1
        else:
            obj["signatures"][ALICE.user_id][master_name] = "garbage"
        keys = {**good, role: CrossSigningKey.from_json(obj)}
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(
                master_key=ALICE.master_key,
                self_signing_key=keys["self_signing"],
                user_signing_key=keys["user_signing"],
            )
        assert caught.value.reason in (Reason.MISSING_SIGNATURE, Reason.INVALID_SIGNATURE)
        assert caught.value.path.startswith(f"/{role}_key")

    def test_somebody_elses_keys(self) -> None:
        """attack 31: the owner must be the same everywhere."""
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=BOB.self_signing_key)
        assert (caught.value.reason, caught.value.path) == (Reason.USER_ID_MISMATCH, "/self_signing_key/user_id")

    def test_keys_in_the_wrong_role(self) -> None:
        """attack 28: a key for one role does not serve in another."""
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.user_signing_key)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_USAGE, "/self_signing_key/usage")
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(master_key=ALICE.self_signing_key, self_signing_key=ALICE.self_signing_key)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_USAGE, "/master_key/usage")

    @pytest.mark.parametrize("usage", ["Master", "MASTER", "master ", "", "self_signing"])
    def test_a_usage_that_only_looks_like_master(self, usage: str) -> None:
        """attack 28: case variants and the like."""
        master = CrossSigningKey.from_json(key(usage=[usage]))
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(master_key=master, self_signing_key=ALICE.self_signing_key)
        assert caught.value.reason is Reason.WRONG_USAGE

    def test_the_same_bytes_in_two_roles(self) -> None:
        """attack 29: one key must not be master and self-signing key at once."""
        secret = ALICE.secret("master")
        for role in ("self_signing", "user_signing"):
            same = CrossSigningKey.build(
                user_id=ALICE.user_id,
                usage=role,  # type: ignore[arg-type]
                public_key=secret.public_key,
                signer=secret.cross_signer(),
            )
            keys: dict[str, Any] = {"self_signing_key": ALICE.self_signing_key, f"{role}_key": same}
            with pytest.raises(VerificationError) as caught:
                UserIdentity.verify(master_key=ALICE.master_key, **keys)
            assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, f"/{role}_key/keys")

    def test_an_unknown_algorithm(self) -> None:
        future = CrossSigningKey.from_json(key(keys={"m.future:abc": "abc"}))
        with pytest.raises(VerificationError) as caught:
            UserIdentity.verify(master_key=future, self_signing_key=ALICE.self_signing_key)
        assert caught.value.reason is Reason.UNSUPPORTED_ALGORITHM

    @pytest.mark.parametrize("other", [None, "x", {}])
    def test_only_keys_make_an_identity(self, other: Any) -> None:
        with pytest.raises(LocalProtocolError):
            UserIdentity.verify(master_key=other, self_signing_key=ALICE.self_signing_key)
        with pytest.raises(LocalProtocolError):
            UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=other)
        own = identity_of(ALICE).confirm_as_own(master_key=ALICE.master_public_key)
        for others in (other, [other]):
            with pytest.raises(LocalProtocolError):
                own.verified_users(others)
        with pytest.raises(LocalProtocolError):
            own.verify_user(other)

    def test_no_public_constructor(self) -> None:
        identity = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
        with pytest.raises(LocalProtocolError):
            attrs.evolve(identity, master_key=BOB.master_key)
        with pytest.raises(LocalProtocolError):
            UserIdentity()
        with pytest.raises(LocalProtocolError):
            OwnIdentity(identity)


def identity_of(user: SampleUser, **keys: CrossSigningKey) -> UserIdentity:
    given = {
        "master_key": user.master_key,
        "self_signing_key": user.self_signing_key,
        "user_signing_key": user.user_signing_key,
    }
    return UserIdentity.verify(**{**given, **keys})


class TestTheSameIdentity:
    """An identity whose keys came in pieces: other signatures, or the user-signing key from somewhere else."""

    def test_the_master_key(self) -> None:
        assert identity_of(ALICE).master_public_key == ALICE.master_public_key

    def test_other_signatures_of_the_master_key(self) -> None:
        identity = identity_of(ALICE)
        signed = BOB.verified(ALICE.master_key).signed
        other = identity.with_master_signatures(signed)
        assert other == identity
        assert set(other.master_key.signed.signatures) == {BOB.user_id}
        assert identity.master_key.signed.signatures == {}
        assert (other.user_id, other.self_signing_public_key) == (ALICE.user_id, identity.self_signing_public_key)
        assert (other.self_signing_key, other.user_signing_key) == (ALICE.self_signing_key, ALICE.user_signing_key)

    @pytest.mark.parametrize(
        "other", [BOB.master_key.signed, ALICE.self_signing_key.signed, ALICE.master_key, None, {}]
    )
    def test_signatures_of_something_else(self, other: Any) -> None:
        """Attack 43: what was signed is the master key, and nothing else."""
        with pytest.raises(LocalProtocolError):
            identity_of(ALICE).with_master_signatures(other)

    def test_a_user_signing_key_from_elsewhere(self) -> None:
        whole = identity_of(ALICE)
        bare = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
        decorated = UserIdentity.verify(
            master_key=CrossSigningKey.from_json(key(added=1)), self_signing_key=ALICE.self_signing_key
        )
        assert bare.with_user_signing_key_of(whole) == whole
        assert whole.with_user_signing_key_of(bare) == bare
        made = decorated.with_user_signing_key_of(whole)
        assert (made.master_key, made.user_signing_key) == (decorated.master_key, ALICE.user_signing_key)
        assert made.self_signing_public_key == whole.self_signing_public_key
        again = UserIdentity.verify(
            master_key=made.master_key, self_signing_key=made.self_signing_key, user_signing_key=made.user_signing_key
        )
        assert again == made

    def test_the_same_master_key_must_have_vouched_for_it(self) -> None:
        """Attack 30: neither that of a reset identity, nor that of somebody who copied the master key."""
        bare = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
        master, self_signing = (
            CrossSigningKey.build(
                user_id=BOB.user_id,
                usage=usage,
                public_key=ALICE.secret(usage).public_key,
                signer=ALICE.secret("master").cross_signer(),
            )
            for usage in ("master", "self_signing")
        )
        copied = UserIdentity.verify(master_key=master, self_signing_key=self_signing)
        others: list[Any] = [identity_of(SampleUser(ALICE.user_id, generation=1)), identity_of(BOB), copied, None, "x"]
        for other in others:
            with pytest.raises(LocalProtocolError) as caught:
                bare.with_user_signing_key_of(other)
            assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/other")

    def test_one_key_in_two_roles_is_not_put_together(self) -> None:
        """Attack 29: what would be refused in one answer is refused in two."""
        same = CrossSigningKey.build(
            user_id=ALICE.user_id,
            usage="self_signing",
            public_key=ALICE.secret("user_signing").public_key,
            signer=ALICE.secret("master").cross_signer(),
        )
        with pytest.raises(LocalProtocolError) as caught:
            UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=same).with_user_signing_key_of(
                identity_of(ALICE)
            )
        assert (caught.value.reason, caught.value.path) == (Reason.KEY_REUSED, "/other")


class TestOwnIdentity:
    def test_the_chain_to_another_user(self) -> None:
        own = identity_of(ALICE).confirm_as_own(master_key=ALICE.master_public_key)
        bob = identity_of(BOB, master_key=ALICE.verified(BOB.master_key))
        own.verify_user(bob)
        assert own.verified_users([bob]) == {BOB.user_id}
        assert own.user_id == ALICE.user_id
        assert ALICE.user_id in repr(own)

    def test_every_link_counts(self) -> None:
        """attack 32: our confirmed master key, our user-signing key, the other's master key."""
        bob = identity_of(BOB, master_key=ALICE.verified(BOB.master_key))
        reset = SampleUser(ALICE.user_id, generation=1)
        with pytest.raises(VerificationError) as caught:
            identity_of(reset).confirm_as_own(master_key=ALICE.master_public_key)
        assert caught.value.reason is Reason.KEY_ID_NOT_KEY
        own_reset = identity_of(reset).confirm_as_own(master_key=reset.master_public_key)
        with pytest.raises(VerificationError) as caught:
            own_reset.verify_user(bob)
        assert caught.value.reason is Reason.MISSING_SIGNATURE
        own = identity_of(ALICE).confirm_as_own(master_key=ALICE.master_public_key)
        with pytest.raises(VerificationError):
            own.verify_user(identity_of(BOB))
        blind = UserIdentity.verify(master_key=ALICE.master_key, self_signing_key=ALICE.self_signing_key)
        own_blind = blind.confirm_as_own(master_key=ALICE.master_public_key)
        assert own_blind.verified_users([bob]) == frozenset()
        with pytest.raises(VerificationError) as caught:
            own_blind.verify_user(bob)
        assert caught.value.reason is Reason.MISSING_KEY

    def test_a_signature_under_the_right_name_by_the_wrong_key(self) -> None:
        own = identity_of(ALICE).confirm_as_own(master_key=ALICE.master_public_key)
        forged = BOB.secret("user_signing").sign(BOB.master_key.signed.canonical)
        signed = BOB.master_key.signed.with_signature(ALICE.user_id, ALICE.user_signing_key.key_id, forged)
        bob = identity_of(BOB, master_key=BOB.master_key.with_signed(signed))
        with pytest.raises(VerificationError) as caught:
            own.verify_user(bob)
        assert caught.value.reason is Reason.INVALID_SIGNATURE

    def test_the_known_master_key_is_a_key(self) -> None:
        with pytest.raises(LocalProtocolError):
            identity_of(ALICE).confirm_as_own(master_key=ALICE.master_public_key.to_base64())  # type: ignore[arg-type]


def test_a_key_of_mixed_order_is_a_policy() -> None:
    """attack 18: such a key verifies; refusing it is left to require_prime_order."""
    base_y = 4 * pow(5, -1, 2**255 - 19) % (2**255 - 19)
    mixed = Ed25519PublicKey((2**255 - 19 - base_y).to_bytes(32, "little"))
    with pytest.raises(RemoteProtocolError) as caught:
        mixed.require_prime_order()
    assert caught.value.reason is Reason.MIXED_ORDER_KEY
    ALICE.master_public_key.require_prime_order()


@given(json_like_values())
def test_no_foreign_exception(value: Any) -> None:
    for obj in (value, key(usage=value), key(keys=value), key(user_id=value), key(signatures=value)):
        try:
            CrossSigningKey.from_json(obj)
        except E2EKeysError:
            continue


def test_the_master_key_that_was_confirmed() -> None:
    alice = SampleUser("@alice:a.example")
    identity = UserIdentity.verify(master_key=alice.master_key, self_signing_key=alice.self_signing_key)
    own = identity.confirm_as_own(master_key=alice.master_public_key)
    assert own.master_public_key == identity.master_public_key == alice.master_public_key


def test_the_master_key_object_of_another_copy() -> None:
    alice, again = SampleUser("@alice:a.example"), SampleUser("@alice:a.example", generation=1)
    signer = alice.secret("master").cross_signer()
    other = CrossSigningKey.build(
        user_id=alice.user_id, usage="master", public_key=alice.master_public_key, signer=signer, extra={"added": 1}
    )
    identity = UserIdentity.verify(master_key=alice.master_key, self_signing_key=alice.self_signing_key)
    decorated = UserIdentity.verify(master_key=other, self_signing_key=alice.self_signing_key)
    assert decorated != identity
    assert decorated.with_master_key_of(identity) == identity
    stranger = UserIdentity.verify(master_key=again.master_key, self_signing_key=again.self_signing_key)
    for wrong in (stranger, None, alice.master_key):
        with pytest.raises(LocalProtocolError) as caught:
            decorated.with_master_key_of(wrong)  # type: ignore[arg-type]
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, "/other")
