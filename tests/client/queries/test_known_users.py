"""Everybody's keys, and one's own identity, which decides about everybody else's."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import (
    LIBSODIUM,
    DeviceKeys,
    E2EKeysError,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    QueryResult,
    Reason,
    UserIdentity,
    VerificationError,
)
from matrix_e2e_keys.client.cross_signing.secrets import CrossSigningSecrets
from matrix_e2e_keys.client.queries.known_users import KnownUsers
from matrix_e2e_keys.client.queries.query import check_query
from matrix_e2e_keys.client.users.changes import KeyChange
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import LocalTrust
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

ME = SampleUser("@me:a.example")
ME_AGAIN = SampleUser(ME.user_id, generation=1)
BOB = SampleUser("@bob:b.example")
BOB_AGAIN = SampleUser(BOB.user_id, generation=1)
CAROL = SampleUser("@carol:c.example")
PHONE = ME.device("PHONE")


def secrets_of(user: SampleUser) -> CrossSigningSecrets:
    return CrossSigningSecrets(
        user_id=user.user_id, **{role: user.secret(role) for role in ("master", "self_signing", "user_signing")}
    )


def identity_of(user: SampleUser) -> UserIdentity:
    return secrets_of(user).public_keys().identity()


def body(*users: SampleUser, by: SampleUser | None = None, devices: Iterable[DeviceKeys] | None = None) -> Any:
    """An answer about users with one device each; ``by`` has verified all of them but oneself and Carol."""
    listed = [(user, [user.device("PHONE")] if devices is None else devices) for user in users]
    obj: Any = keys_query_answer(listed, viewer=ME.user_id)
    for user in users:
        if by is not None and user.user_id not in (ME.user_id, CAROL.user_id):
            obj["master_keys"][user.user_id] = by.verified(user.master_key).to_json()
    return obj


def judged(known: KnownUsers, obj: Any, **options: Any) -> QueryResult:
    request = KeysQueryRequest.for_users(obj["device_keys"])
    return known.judge(request, KeysQueryResponse.from_json(obj), **options)


def told(known: KnownUsers, obj: Any, news: Iterable[str] | None = None) -> list[str]:
    """Have an answer judged and taken; return what has changed, in words."""
    return words(known.take(judged(known, obj), list(obj["device_keys"]) if news is None else news))


def words(changes: Iterable[KeyChange]) -> list[str]:
    said = []
    for it in changes:
        if isinstance(it.after, IdentityState):
            said.append(f"{it.user_id} {it.before} -> {it.after}")
        else:
            said.append(f"{it.user_id} {it.kind}")
    return said


def states(known: KnownUsers) -> dict[str, str]:
    return {user_id.partition(":")[0][1:]: str(user.pin.state) for user_id, user in known.users.items()}


def restored(known: KnownUsers) -> KnownUsers:
    return KnownUsers.from_json(json.loads(json.dumps(known.to_json())))


def world() -> KnownUsers:
    """One's own identity is confirmed, Bob is verified, Carol is not."""
    known = KnownUsers(own_user_id=ME.user_id)
    told(known, body(ME, BOB, CAROL, by=ME))
    known.confirm_own_identity(ME.master_public_key)
    assert states(known) == {"me": "verified", "bob": "verified", "carol": "pinned"}
    return known


def refused(known: KnownUsers, call: Callable[[], object]) -> tuple[Reason, str]:
    """Why a call was refused, and where. It has changed nothing."""
    before = copy.deepcopy(known.to_json())
    with pytest.raises(LocalProtocolError) as caught:
        call()
    assert known.to_json() == before
    return caught.value.reason, caught.value.path


class Counting:
    """A verifier that counts."""

    def __init__(self) -> None:
        self.asked = 0

    def verify_many(self, checks: Any) -> list[bool]:
        self.asked += len(checks)
        return LIBSODIUM.verify_many(checks)


class TestWhatAServerSays:
    def test_nothing_is_known_at_first(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        assert (known.users, known.own, known.own_master_key) == ({}, None, None)

    def test_nothing_is_learned_by_judging(self) -> None:
        known = world()
        before = known.to_json()
        result = judged(known, body(ME_AGAIN, BOB_AGAIN))
        assert {*result.known} == {ME.user_id, BOB.user_id}
        assert known.to_json() == before

    def test_only_the_users_named_are_learned(self) -> None:
        known = world()
        result = judged(known, body(BOB_AGAIN, CAROL, devices=[]))
        changes = known.take(result, [CAROL.user_id])
        assert words(changes) == ["@carol:c.example device-removed"]
        assert states(known)["bob"] == "verified"
        assert {*known.users[BOB.user_id].devices} == {"PHONE"}
        assert known.take(result, []) == ()
        assert words(known.take(result, (user for user in [BOB.user_id, "@dave:d.example"])))[0] == (
            "@bob:b.example master-key-changed"
        )
        assert {*known.users} == {ME.user_id, BOB.user_id, CAROL.user_id}

    def test_who_was_not_asked_about_stays(self) -> None:
        known = world()
        told(known, body(CAROL, devices=[]))
        assert {*known.users[BOB.user_id].devices} == {"PHONE"}
        assert known.users[CAROL.user_id].devices == {}

    def test_the_users_are_not_for_the_caller_to_change(self) -> None:
        users: Any = world().users
        with pytest.raises(TypeError):
            users[BOB.user_id] = None

    def test_what_is_known_decides(self) -> None:
        """Attack 34: a signing key does not change."""
        known = world()
        thief = DeviceKeys.build(
            user_id=BOB.user_id,
            device_id="PHONE",
            curve25519_key=sample_curve25519_key("thief"),
            signer=sample_secret_key("thief").signer("ed25519:PHONE"),
        )
        before = known.users[BOB.user_id].devices["PHONE"].ed25519_key
        said = told(known, body(BOB, by=ME, devices=[thief]))
        assert said == ["@bob:b.example signing-key-changed"]
        assert known.users[BOB.user_id].devices["PHONE"].ed25519_key == before
        known.forget_device(BOB.user_id, "PHONE")
        assert told(known, body(BOB, by=ME, devices=[thief])) == ["@bob:b.example device-added"]
        assert known.users[BOB.user_id].devices["PHONE"].keys == thief

    def test_this_device(self) -> None:
        """Attack 36: it is compared with what was built here."""
        known = world()
        answer = body(ME, devices=[])
        assert [it.kind for it in judged(known, answer).changes] == ["device-removed"]
        result = judged(known, answer, own_device=PHONE)
        assert [it.kind for it in result.changes] == ["device-removed", "own-device-missing"]
        assert words(known.take(result, [ME.user_id])) == [
            "@me:a.example device-removed",
            "@me:a.example own-device-missing",
        ]

    def test_oneself_is_known_to_the_judge(self) -> None:
        """A user-signing key of anybody else is refused, whether one's own identity is confirmed or not."""
        known = KnownUsers(own_user_id=ME.user_id)
        answer = keys_query_answer([(BOB, [])], viewer=BOB.user_id)
        assert [it.reason for it in judged(known, answer).identities.rejected] == [Reason.NOT_OWN_USER]

    def test_the_verifier_is_asked(self) -> None:
        verifier = Counting()
        known = KnownUsers(own_user_id=ME.user_id, verifier=verifier)
        result = judged(known, body(ME, BOB, by=ME))
        assert verifier.asked == 2 * 2 + 2 + 1
        known.take(result, [ME.user_id, BOB.user_id])
        for call in (
            lambda: known.confirm_own_identity(ME.master_public_key),
            lambda: known.accept_identity(BOB.user_id, BOB.master_public_key),
            lambda: known.install_own_identity(identity_of(ME_AGAIN)),
            lambda: known.add_signatures(known.users[BOB.user_id].devices["PHONE"].keys),
            lambda: known.add_signatures(ME_AGAIN.verified(BOB.master_key)),
            lambda: KnownUsers.from_json(known.to_json(), verifier=verifier),
        ):
            before = verifier.asked
            call()
            assert verifier.asked > before
        assert KnownUsers.from_json(known.to_json(), verifier=verifier).verifier is verifier
        assert "Counting" not in repr(known)


class TestOneSOwnIdentity:
    def test_nobody_is_verified_before_it_is_confirmed(self) -> None:
        """Attack 32: the server's word for one's own identity is not enough."""
        known = KnownUsers(own_user_id=ME.user_id)
        told(known, body(ME, BOB, by=ME))
        assert (known.own, known.own_master_key) == (None, None)
        assert states(known) == {"me": "pinned", "bob": "pinned"}
        assert judged(known, body(ME, BOB, by=ME)).verified_users == frozenset()
        assert words(known.confirm_own_identity(ME.master_public_key)) == [
            "@me:a.example pinned -> verified",
            "@bob:b.example pinned -> verified",
        ]
        assert known.own == identity_of(ME).confirm_as_own(master_key=ME.master_public_key)
        assert known.own_master_key == ME.master_public_key
        assert judged(known, body(ME, BOB, by=ME)).verified_users == {BOB.user_id}

    def test_only_the_identity_that_is_served_can_be_confirmed(self) -> None:
        """Attack 32: with another key, or with none served, nothing is confirmed."""
        known = KnownUsers(own_user_id=ME.user_id)
        own_key = ME.master_public_key
        assert refused(known, lambda: known.confirm_own_identity(own_key)) == (Reason.INVALID_VALUE, "/user_id")
        told(known, {"device_keys": {ME.user_id: {}}})
        assert refused(known, lambda: known.confirm_own_identity(own_key)) == (Reason.IDENTITY_CHANGED, "/master_key")
        told(known, body(ME))
        for other in (ME_AGAIN.master_public_key, BOB.master_public_key, ME.secret("self_signing").public_key):
            assert refused(known, lambda key=other: known.confirm_own_identity(key)) == (  # type: ignore[misc]
                Reason.IDENTITY_CHANGED,
                "/master_key",
            )
        assert known.own is None

    def test_somebody_resets_it(self) -> None:
        """Attacks 32 and 33: everybody's verification is lost, and comes back when the new identity is confirmed."""
        known = world()
        assert told(known, body(ME_AGAIN)) == [
            "@me:a.example master-key-changed",
            "@me:a.example verified -> verification-violation",
            "@bob:b.example verified -> verification-lost",
        ]
        assert (known.own, known.own_master_key) == (None, ME.master_public_key)
        assert words(known.confirm_own_identity(ME_AGAIN.master_public_key)) == [
            "@me:a.example verification-violation -> verified"
        ]
        assert states(known) == {"me": "verified", "bob": "verification-lost", "carol": "pinned"}
        assert told(known, body(BOB, by=ME_AGAIN)) == ["@bob:b.example verification-lost -> verified"]

    def test_whom_the_new_identity_has_verified_already(self) -> None:
        known = world()
        told(known, body(BOB, by=ME_AGAIN))
        assert states(known)["bob"] == "verified", "what one has signed stays signed"
        answer = body(ME_AGAIN, BOB, by=ME_AGAIN)
        told(known, answer)
        assert states(known) == {"me": "verification-violation", "bob": "verification-lost", "carol": "pinned"}
        known.confirm_own_identity(ME_AGAIN.master_public_key)
        assert states(known) == {"me": "verified", "bob": "verified", "carol": "pinned"}

    def test_the_old_one_comes_back(self) -> None:
        """Attack 33: it vouches for others again, and somebody has to look at what has happened all the same."""
        known = world()
        told(known, body(ME_AGAIN))
        assert told(known, body(ME)) == [
            "@me:a.example master-key-changed",
            "@bob:b.example verification-lost -> verified",
        ]
        assert known.own is not None
        assert states(known)["me"] == "verification-violation"
        assert words(known.confirm_own_identity(ME.master_public_key)) == [
            "@me:a.example verification-violation -> verified"
        ]

    def test_a_reset_that_is_accepted_is_not_one_s_own_for_that(self) -> None:
        """Attack 32: to accept it is not to confirm it."""
        known = world()
        told(known, body(ME_AGAIN))
        assert words(known.accept_identity(ME.user_id, ME_AGAIN.master_public_key)) == [
            "@me:a.example verification-violation -> pinned"
        ]
        assert known.own is None
        assert states(known)["bob"] == "verification-lost"

    def test_an_answer_that_is_no_news_about_oneself_decides_nothing(self) -> None:
        """Attack 55: an older answer shows another identity of oneself. Nobody is judged by that."""
        known = world()
        before = states(known)
        said = told(known, body(ME_AGAIN, BOB, by=ME), news=[BOB.user_id])
        assert said == ["@bob:b.example verified -> verification-lost", "@bob:b.example verification-lost -> verified"]
        assert states(known) == before
        assert known.own is not None

    def test_an_older_user_signing_key_is_no_news_either(self) -> None:
        """Attack 32: whom only the user-signing key of an older answer has signed is not verified."""
        known = KnownUsers(own_user_id=ME.user_id)
        told(known, body(ME))
        known.confirm_own_identity(ME.master_public_key)
        other = CrossSigningSecrets(
            user_id=ME.user_id,
            master=ME.secret("master"),
            self_signing=ME.secret("self_signing"),
            user_signing=sample_secret_key("the user-signing key of before"),
        )
        answer = body(ME, BOB)
        answer["user_signing_keys"][ME.user_id] = other.public_keys().user_signing_key.to_json()
        answer["master_keys"][BOB.user_id] = other.sign_user(identity_of(BOB)).to_json()
        told(known, answer, news=[BOB.user_id])
        assert not known.users[BOB.user_id].pin.is_verified

    def test_one_s_own_that_is_not_served_any_more_counts(self) -> None:
        known = world()
        assert told(known, {"device_keys": {ME.user_id: {}}}) == [
            "@me:a.example identity-vanished",
            "@me:a.example device-removed",
        ]
        assert known.own is not None
        assert states(known)["bob"] == "verified"
        assert known.confirm_own_identity(ME.master_public_key) == ()
        assert known.users[ME.user_id].pin.is_vanished

    def test_confirming_again_changes_nothing(self) -> None:
        known = world()
        before = known.to_json()
        assert known.confirm_own_identity(ME.master_public_key) == ()
        assert known.to_json() == before


class TestAnIdentityOneHasMade:
    def test_the_first_one(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        assert words(known.install_own_identity(identity_of(ME))) == [
            "@me:a.example identity-added",
            "@me:a.example unknown -> verified",
        ]
        assert known.own == identity_of(ME).confirm_as_own(master_key=ME.master_public_key)
        assert known.users[ME.user_id].devices == {}

    def test_over_an_older_one(self) -> None:
        """The devices stay, and are not cross-signed by it; whom the old one had verified is not verified."""
        known = world()
        assert known.users[ME.user_id].cross_signed_devices == {"PHONE"}
        known.set_trust(ME.user_id, known.users[ME.user_id].devices["PHONE"].ed25519_key, LocalTrust.VERIFIED)
        assert words(known.install_own_identity(identity_of(ME_AGAIN))) == [
            "@me:a.example master-key-changed",
            "@me:a.example cross-signature-lost",
            "@bob:b.example verified -> verification-lost",
        ]
        oneself = known.users[ME.user_id]
        assert {*oneself.devices} == {"PHONE"}
        assert (oneself.cross_signed_devices, oneself.trust_of("PHONE")) == (frozenset(), LocalTrust.VERIFIED)
        assert known.own_master_key == ME_AGAIN.master_public_key
        assert states(known) == {"me": "verified", "bob": "verification-lost", "carol": "pinned"}

    def test_over_that_of_somebody_else(self) -> None:
        """Attack 33: the reset by another is over; what has changed is said once."""
        known = world()
        told(known, body(ME_AGAIN))
        assert words(known.install_own_identity(identity_of(ME))) == [
            "@me:a.example master-key-changed",
            "@me:a.example cross-signature-lost",
            "@me:a.example verification-violation -> verified",
            "@bob:b.example verification-lost -> verified",
        ]
        assert states(known) == {"me": "verified", "bob": "verified", "carol": "pinned"}

    def test_the_same_again(self) -> None:
        known = world()
        before = known.to_json()
        assert known.install_own_identity(known.users[ME.user_id].identity or identity_of(ME)) == ()
        assert known.to_json() == before

    def test_a_tombstone_and_a_collision_stay(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        told(known, body(ME))
        told(known, body(ME, devices=[]))
        known.install_own_identity(identity_of(ME_AGAIN))
        assert {*known.users[ME.user_id].removed_devices} == {"PHONE"}

    @pytest.mark.parametrize(
        ("identity", "reason"),
        [
            (identity_of(BOB), Reason.NOT_OWN_USER),
            (None, Reason.WRONG_TYPE),
            (ANY, Reason.WRONG_TYPE),
            (ME.master_key, Reason.WRONG_TYPE),
        ],
        ids=["another user", "none", "anything", "a key"],
    )
    def test_only_one_s_own(self, identity: Any, reason: Reason) -> None:
        known = world()
        assert refused(known, lambda: known.install_own_identity(identity)) == (reason, "/identity")


class TestWhatTheUserSays:
    def test_a_change_is_accepted(self) -> None:
        """Attack 33: communication stops until the user has seen the new key; what was verified is not any more."""
        known = world()
        told(known, body(BOB_AGAIN))
        assert known.users[BOB.user_id].pin.needs_approval
        bad = lambda: known.accept_identity(BOB.user_id, BOB.master_public_key)  # noqa: E731
        assert refused(known, bad) == (Reason.IDENTITY_CHANGED, "/master_key")
        assert words(known.accept_identity(BOB.user_id, BOB_AGAIN.master_public_key)) == [
            "@bob:b.example verification-violation -> pinned"
        ]
        assert known.accept_identity(BOB.user_id, BOB_AGAIN.master_public_key) == ()
        assert told(known, body(BOB_AGAIN)) == []

    def test_who_is_verified_stays_so(self) -> None:
        known = world()
        assert known.accept_identity(BOB.user_id, BOB.master_public_key) == ()
        assert states(known)["bob"] == "verified"

    def test_a_lost_verification_is_let_go(self) -> None:
        known = world()
        told(known, body(ME_AGAIN))
        assert words(known.accept_identity(BOB.user_id, BOB.master_public_key)) == [
            "@bob:b.example verification-lost -> pinned"
        ]

    def test_a_decision_about_a_device(self) -> None:
        known = world()
        key = known.users[BOB.user_id].devices["PHONE"].ed25519_key
        known.set_trust(BOB.user_id, key, LocalTrust.BLACKLISTED)
        assert known.users[BOB.user_id].trust_of("PHONE") is LocalTrust.BLACKLISTED
        assert known.users[CAROL.user_id].local_trust == {}
        told(known, body(BOB, by=ME))
        assert restored(known).users[BOB.user_id].trust_of("PHONE") is LocalTrust.BLACKLISTED

    def test_a_device_is_forgotten(self) -> None:
        known = world()
        known.forget_device(BOB.user_id, "PHONE")
        assert known.users[BOB.user_id].devices == {}
        assert known.users[BOB.user_id].removed_devices == {}
        assert {*known.users[CAROL.user_id].devices} == {"PHONE"}


class TestSignaturesOfOneSOwn:
    def test_a_device(self) -> None:
        """It counts at once, and the other signatures stay: those of the served copy, and those that are known."""
        known = KnownUsers(own_user_id=ME.user_id)
        other = {ME.user_id: {"ed25519:OTHER": "AAAA"}, BOB.user_id: {"ed25519:X": "AAAA"}}
        served = ME.device("PHONE", cross_signed=False)
        by_itself = served.signed.signatures[ME.user_id]["ed25519:PHONE"]
        decorated = served.to_json()
        decorated["signatures"] = {**other, ME.user_id: {**other[ME.user_id], "ed25519:PHONE": by_itself}}
        decorated["unsigned"] = {"device_display_name": "Phone"}
        told(known, body(ME, devices=[DeviceKeys.from_json(decorated)]))
        signed = secrets_of(ME).sign_device(known.users[ME.user_id].devices["PHONE"])
        assert known.add_signatures(signed) == ()
        device = known.users[ME.user_id].devices["PHONE"]
        assert device.is_cross_signed
        assert device.keys.untrusted_display_name == "Phone"
        assert device.keys.signed.signatures == {
            ME.user_id: {**signed.signed.signatures[ME.user_id], "ed25519:OTHER": "AAAA", "ed25519:PHONE": by_itself},
            BOB.user_id: {"ed25519:X": "AAAA"},
        }

    def test_the_other_devices_stay(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        told(known, body(ME, devices=[ME.device(name, cross_signed=False) for name in ("PHONE", "LAPTOP")]))
        known.add_signatures(secrets_of(ME).sign_device(known.users[ME.user_id].devices["PHONE"]))
        assert {*known.users[ME.user_id].devices} == {"PHONE", "LAPTOP"}
        assert known.users[ME.user_id].cross_signed_devices == {"PHONE"}

    def test_a_device_that_another_identity_signs_is_not_cross_signed(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        told(known, body(ME, devices=[ME.device("PHONE", cross_signed=False)]))
        known.add_signatures(ME_AGAIN.device("PHONE"))
        assert known.users[ME.user_id].cross_signed_devices == frozenset()

    def test_a_device_that_is_not_the_one_known(self) -> None:
        """Attack 25: what was signed is compared by its bytes, not by its name."""
        known = world()
        altered = ME.device("PHONE", extra={"note": 1})
        for key, where in (
            (altered, (Reason.INVALID_VALUE, "/key")),
            (ME.device("NEVER"), (Reason.INVALID_VALUE, "/key")),
            (SampleUser("@dave:d.example").device("PHONE"), (Reason.INVALID_VALUE, "/user_id")),
        ):
            assert refused(known, lambda key=key: known.add_signatures(key)) == where  # type: ignore[misc]

    def test_spoiled_signatures_change_nothing(self) -> None:
        known = world()
        spoiled = PHONE.to_json()
        spoiled["signatures"][ME.user_id]["ed25519:PHONE"] = "A" * 86
        before = known.to_json()
        with pytest.raises(VerificationError):
            known.add_signatures(DeviceKeys.from_json(spoiled))
        assert known.to_json() == before

    def test_a_user(self) -> None:
        known = world()
        decorated = CAROL.verified(CAROL.master_key).to_json()
        answer = body(CAROL)
        answer["master_keys"][CAROL.user_id] = decorated
        told(known, answer)
        assert words(known.add_signatures(secrets_of(ME).sign_user(identity_of(CAROL)))) == [
            "@carol:c.example pinned -> verified"
        ]
        identity = known.users[CAROL.user_id].identity
        assert identity is not None
        assert {*identity.master_key.signed.signatures} == {ME.user_id, CAROL.user_id}
        assert told(known, body(CAROL)) == [], "whatever the server serves"

    def test_a_user_by_an_identity_that_does_not_count(self) -> None:
        """Attack 32: the signature is kept, and nobody is verified by it."""
        known = world()
        assert known.add_signatures(ME_AGAIN.verified(CAROL.master_key)) == ()
        assert known.add_signatures(BOB.verified(CAROL.master_key)) == ()
        assert states(known)["carol"] == "pinned"
        told(known, body(BOB_AGAIN))
        assert known.add_signatures(CAROL.verified(BOB_AGAIN.master_key)) == ()
        assert states(known)["bob"] == "verification-violation", "nobody has accepted that"

    def test_a_master_key_that_is_not_the_one_known(self) -> None:
        """Attacks 25 and 33: it has changed since it was compared."""
        known = world()
        told(known, body(ME, devices=[]))
        for key in (ME.verified(BOB_AGAIN.master_key), BOB.self_signing_key, ME.user_signing_key):
            assert refused(known, lambda key=key: known.add_signatures(key)) == (  # type: ignore[misc]
                Reason.IDENTITY_CHANGED,
                "/key",
            )
        told(known, {"device_keys": {"@dave:d.example": {}}})
        dave = SampleUser("@dave:d.example").master_key
        assert refused(known, lambda: known.add_signatures(dave)) == (Reason.IDENTITY_CHANGED, "/key")

    def test_one_s_own_master_key(self) -> None:
        known = world()
        signed = secrets_of(ME).public_keys(ME.device_signer("PHONE")).master_key
        assert known.add_signatures(signed) == ()
        identity = known.users[ME.user_id].identity
        assert identity is not None
        assert {*identity.master_key.signed.signatures[ME.user_id]} == {"ed25519:PHONE"}
        assert states(known)["me"] == "verified"


STORED = world().to_json()


def damaged(*path: str, to: Any) -> Any:
    tree = copy.deepcopy(STORED)
    inner: Any = tree
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return tree


class TestStoring:
    def test_over_a_restart(self) -> None:
        known = world()
        told(known, body(CAROL, devices=[]))
        again = restored(known)
        assert again == known
        assert again.to_json() == known.to_json()
        assert again.own == known.own
        assert told(again, body(ME, BOB, CAROL, by=ME)) == ["@carol:c.example device-reappeared"]

    def test_before_anything_is_known(self) -> None:
        known = KnownUsers(own_user_id=ME.user_id)
        assert known.to_json() == {"version": 1, "own_user_id": ME.user_id, "own_master_key": None, "users": {}}
        assert restored(known) == known

    def test_no_private_key_is_in_it(self) -> None:
        text = json.dumps(STORED)
        for user in (ME, BOB, CAROL):
            for role in ("master", "self_signing", "user_signing"):
                assert user.secret(role).export_base64() not in text

    def test_signatures_are_checked_again(self) -> None:
        """Attack 32: storage does not make anybody trusted."""
        bobs = STORED["users"][BOB.user_id]
        obj = damaged("users", BOB.user_id, "identity", "self_signing_key", "signatures", to={})
        with pytest.raises(LocalProtocolError) as caught:
            KnownUsers.from_json(obj)
        assert caught.value.path.startswith(f"/users/{BOB.user_id}/identity".replace("~", "~0"))
        device = {**bobs["devices"]["PHONE"], "algorithms": ["m.other"]}
        with pytest.raises(LocalProtocolError) as caught:
            KnownUsers.from_json(damaged("users", BOB.user_id, "devices", "PHONE", to=device))
        assert caught.value.reason is Reason.INVALID_SIGNATURE

    @pytest.mark.parametrize(
        ("path", "value", "where"),
        [
            (["version"], 2, "/version"),
            (["own_user_id"], "me", "/own_user_id"),
            (["own_user_id"], None, "/own_user_id"),
            (["own_master_key"], "AAAA", "/own_master_key"),
            (["own_master_key"], 5, "/own_master_key"),
            (["users"], [], "/users"),
            (["users", BOB.user_id], None, "/users/@bob:b.example"),
            (["users", BOB.user_id], STORED["users"][CAROL.user_id], "/users/@bob:b.example"),
            (["users", "@x:a/b"], STORED["users"][CAROL.user_id], "/users/@x:a~1b"),
            (["users", BOB.user_id, "pin", "state"], "fine", "/users/@bob:b.example/pin/state"),
        ],
    )
    def test_damage_is_found(self, path: list[str], value: Any, where: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KnownUsers.from_json(damaged(*path, to=value))
        assert caught.value.path == where

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KnownUsers.from_json({member: value for member, value in STORED.items() if member != name})
        assert (caught.value.reason, caught.value.path) == (Reason.MISSING_MEMBER, f"/{name}")

    @given(json_like_values(), st.sampled_from([None, *STORED]))
    def test_no_foreign_exception(self, value: Any, name: str | None) -> None:
        with contextlib.suppress(E2EKeysError):
            KnownUsers.from_json(value if name is None else {**copy.deepcopy(STORED), name: value})


class TestCallers:
    @pytest.mark.parametrize(
        ("name", "arguments", "where"),
        [
            ("take", (None, []), "/result"),
            ("take", ("result", None), "/user_ids"),
            ("take", ("result", BOB.user_id), "/user_ids"),
            ("take", ("result", b"bob"), "/user_ids/0"),
            ("take", ("result", [BOB.user_id, 5]), "/user_ids/1"),
            ("take", ("result", [[]]), "/user_ids/0"),
            ("judge", (None, None), ""),
            ("confirm_own_identity", (None,), "/master_key"),
            ("confirm_own_identity", (ANY,), "/master_key"),
            ("accept_identity", (BOB.user_id, ANY), "/master_key"),
            ("accept_identity", (BOB.user_id, BOB.master_public_key.to_base64()), "/master_key"),
            ("accept_identity", ("@dave:d.example", BOB.master_public_key), "/user_id"),
            ("accept_identity", ([], BOB.master_public_key), "/user_id"),
            ("set_trust", ("@dave:d.example", BOB.master_public_key, LocalTrust.VERIFIED), "/user_id"),
            ("set_trust", (BOB.user_id, "PHONE", LocalTrust.VERIFIED), ""),
            ("set_trust", (BOB.user_id, BOB.master_public_key, "verified"), ""),
            ("forget_device", ("@dave:d.example", "PHONE"), "/user_id"),
            ("forget_device", (BOB.user_id, None), "/device_id"),
            ("add_signatures", (None,), "/key"),
            ("add_signatures", (PHONE.verify(),), "/key"),
        ],
    )
    def test_wrong_arguments(self, name: str, arguments: tuple[Any, ...], where: str) -> None:
        known = world()
        result = judged(known, body(BOB_AGAIN))
        given = [result if type(it) is str and it == "result" else it for it in arguments]
        assert refused(known, lambda: getattr(known, name)(*given))[1] == where

    def test_a_result_of_somebody_else_holds_nothing_to_learn(self) -> None:
        known = world()
        obj = body(BOB_AGAIN)
        result = check_query(KeysQueryRequest.for_users([BOB.user_id]), KeysQueryResponse.from_json(obj))
        assert known.take(result, [BOB.user_id]) == ()
        assert states(known)["bob"] == "verified"

    @pytest.mark.parametrize(
        ("arguments", "where"),
        [({"own_user_id": "me"}, "/own_user_id"), ({"own_user_id": None}, "/own_user_id")],
    )
    def test_making_one(self, arguments: Any, where: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            KnownUsers(**arguments)
        assert caught.value.path == where

    def test_a_verifier_is_needed(self) -> None:
        bad: Any = None
        with pytest.raises(LocalProtocolError):
            KnownUsers(own_user_id=ME.user_id, verifier=bad)
        with pytest.raises(LocalProtocolError):
            KnownUsers.from_json(STORED, verifier=bad)


def test_who_is_verified_follows_from_signatures_after_a_restart_too() -> None:
    """Attack 32: storage may say what it likes."""
    users = KnownUsers(own_user_id=ME.user_id)
    request = KeysQueryRequest.for_users([ME.user_id, BOB.user_id])
    body: Any = keys_query_answer([(ME, []), (BOB, [])], viewer=ME.user_id)
    body["master_keys"][BOB.user_id] = ME.verified(BOB.master_key).to_json()
    users.take(users.judge(request, KeysQueryResponse.from_json(body)), request.asked)
    users.confirm_own_identity(ME.master_public_key)
    state: Any = users.to_json()
    assert KnownUsers.from_json(state).users[BOB.user_id].pin.is_verified
    without_signature = json.loads(json.dumps(state))
    del without_signature["users"][BOB.user_id]["identity"]["master_key"]["signatures"]
    unconfirmed = {**state, "own_master_key": None}
    for damaged in (without_signature, unconfirmed):
        assert KnownUsers.from_json(damaged).users[BOB.user_id].pin.state is IdentityState.VERIFICATION_LOST


def test_what_the_user_decides_while_an_answer_is_judged_stays_decided() -> None:
    users = KnownUsers(own_user_id=ME.user_id)
    request = KeysQueryRequest.for_users([BOB.user_id])
    body: Any = keys_query_answer([(BOB, [BOB.device("PHONE")])])
    users.take(users.judge(request, KeysQueryResponse.from_json(body)), request.asked)
    judged = users.judge(request, KeysQueryResponse.from_json(body))
    users.set_trust(BOB.user_id, BOB.device_signer("PHONE").public_key, LocalTrust.BLACKLISTED)
    users.take(judged, request.asked)
    assert users.users[BOB.user_id].trust_of("PHONE") is LocalTrust.BLACKLISTED
