"""Cross-signing keys that another server tells: which of them count."""

from __future__ import annotations

from typing import Any

import pytest

from matrix_e2e_keys import CrossSigningKey, LocalProtocolError, Reason, Rejection
from matrix_e2e_keys.homeserver.remote_identity import RemoteIdentity, signed_by_owner, verified_identity
from matrix_e2e_keys.homeserver.stored_keys import UserKeys
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser

BOB = SampleUser("@bob:b.example")
NEW_BOB = SampleUser("@bob:b.example", generation=1)
EVE = SampleUser("@eve:b.example")
MALFORMED = Rejection(path="/edus/3/content/master_key/keys", reason=Reason.TOO_MANY_KEYS, detail="two", raw={"a": 1})


def known(user: SampleUser = BOB) -> UserKeys:
    return UserKeys(user_id=BOB.user_id, master_key=user.master_key, self_signing_key=user.self_signing_key)


def judged(master: Any = None, self_signing: Any = None, before: UserKeys | None = None) -> RemoteIdentity:
    return verified_identity(BOB.user_id, master_key=master, self_signing_key=self_signing, known=before)


def reasons(identity: RemoteIdentity) -> list[tuple[str, Reason]]:
    return [(rejection.path, rejection.reason) for rejection in identity.refused]


def as_usage(user: SampleUser, usage: Any, key: str) -> CrossSigningKey:
    """A key of a user in a role that it may not have, signed by the master key."""
    return CrossSigningKey.build(
        user_id=user.user_id,
        usage=usage,
        public_key=user.secret(key).public_key,
        signer=user.secret("master").cross_signer(),
    )


class TestWhatCounts:
    def test_both_together(self) -> None:
        told = judged(BOB.master_key, BOB.self_signing_key)
        assert (told.master_key, told.self_signing_key) == (BOB.master_key, BOB.self_signing_key)
        assert (told.refused, told.is_replaced) == ((), False)

    def test_nothing_told_leaves_what_was_known(self) -> None:
        assert judged() == RemoteIdentity(master_key=None, self_signing_key=None, refused=(), is_replaced=False)
        told = judged(before=known())
        assert (told.master_key, told.self_signing_key) == (BOB.master_key, BOB.self_signing_key)
        assert (told.refused, told.is_replaced) == ((), False)

    def test_a_self_signing_key_alone_is_signed_by_the_known_master_key(self) -> None:
        told = judged(
            self_signing=BOB.self_signing_key, before=UserKeys(user_id=BOB.user_id, master_key=BOB.master_key)
        )
        assert (told.self_signing_key, told.refused) == (BOB.self_signing_key, ())

    def test_a_new_master_key_alone_ends_the_known_self_signing_key(self) -> None:
        told = judged(NEW_BOB.master_key, before=known())
        assert (told.master_key, told.self_signing_key) == (NEW_BOB.master_key, None)
        assert (told.refused, told.is_replaced) == ((), True)

    def test_the_same_master_key_alone_keeps_the_known_self_signing_key(self) -> None:
        told = judged(BOB.master_key, before=known())
        assert (told.self_signing_key, told.is_replaced) == (BOB.self_signing_key, False)

    def test_another_identity_is_a_replacement(self) -> None:
        told = judged(NEW_BOB.master_key, NEW_BOB.self_signing_key, before=known())
        assert (told.master_key, told.self_signing_key) == (NEW_BOB.master_key, NEW_BOB.self_signing_key)
        assert told.is_replaced

    def test_a_first_master_key_replaces_nothing(self) -> None:
        assert not judged(BOB.master_key, before=UserKeys(user_id=BOB.user_id)).is_replaced

    def test_the_signatures_that_are_told_take_the_place_of_the_known_ones(self) -> None:
        signed = BOB.master_key.with_signed(
            add_signature(BOB.master_key.signed, entity=BOB.user_id, signer=BOB.device_signer("D"))
        )
        told = judged(signed, before=known())
        assert told.master_key is not None
        assert dict(told.master_key.signed.signatures) == dict(signed.signed.signatures)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("master", "self_signing", "expected"),
        [
            (MALFORMED, None, [("/master_key", Reason.TOO_MANY_KEYS)]),
            (None, MALFORMED, [("/self_signing_key", Reason.TOO_MANY_KEYS)]),
            (EVE.master_key, None, [("/master_key/user_id", Reason.USER_ID_MISMATCH)]),
            (BOB.self_signing_key, None, [("/master_key/usage", Reason.WRONG_USAGE)]),
            (BOB.master_key, BOB.master_key, [("/self_signing_key/usage", Reason.WRONG_USAGE)]),
            (BOB.master_key, BOB.user_signing_key, [("/self_signing_key/usage", Reason.WRONG_USAGE)]),
            (BOB.master_key, EVE.self_signing_key, [("/self_signing_key/user_id", Reason.USER_ID_MISMATCH)]),
            (None, BOB.self_signing_key, [("/self_signing_key", Reason.MISSING_MASTER_KEY)]),
            (NEW_BOB.master_key, BOB.self_signing_key, [("/self_signing_key", Reason.MISSING_SIGNATURE)]),
            (
                BOB.master_key,
                as_usage(BOB, "self_signing", "master"),
                [("/self_signing_key/keys", Reason.KEY_REUSED)],
            ),
        ],
    )
    def test_it_is_named_and_does_not_count(self, master: Any, self_signing: Any, expected: Any) -> None:
        told = judged(master, self_signing)
        assert reasons(told) == expected
        assert told.self_signing_key is None
        assert (told.master_key is None) == (expected[0][0].startswith("/master_key") or master is None)
        assert {rejection.user_id for rejection in told.refused} == {BOB.user_id}

    def test_a_self_signing_key_without_a_signature(self) -> None:
        """Attack 30: nothing but the master key vouches for a self-signing key."""
        unsigned = BOB.self_signing_key.with_signed(BOB.self_signing_key.signed.without_signatures())
        assert reasons(judged(BOB.master_key, unsigned)) == [("/self_signing_key", Reason.MISSING_SIGNATURE)]

    def test_a_self_signing_key_with_a_signature_over_something_else(self) -> None:
        tree: dict[str, Any] = BOB.self_signing_key.to_json()
        tree["signatures"] = {BOB.user_id: {str(BOB.master_key.key_id): "A" * 86}}
        told = judged(BOB.master_key, CrossSigningKey.from_json(tree))
        ((path, reason),) = reasons(told)
        assert path.startswith(f"/self_signing_key/signatures/{BOB.user_id}/ed25519:")
        assert (reason, told.self_signing_key) == (Reason.INVALID_SIGNATURE, None)

    @pytest.mark.parametrize("usage", ["master", "self_signing"])
    def test_a_key_of_an_unknown_algorithm(self, usage: str) -> None:
        key = CrossSigningKey.from_json({"user_id": BOB.user_id, "usage": [usage], "keys": {"sphincs:x": "x"}})
        told = judged(**{"master" if usage == "master" else "self_signing": key})
        assert reasons(told) == [(f"/{usage}_key/keys", Reason.UNSUPPORTED_ALGORITHM)]
        assert (told.master_key, told.self_signing_key) == (None, None)

    def test_what_is_refused_leaves_what_was_known(self) -> None:
        told = judged(MALFORMED, MALFORMED, before=known())
        assert (told.master_key, told.self_signing_key) == (BOB.master_key, BOB.self_signing_key)
        assert len(told.refused) == 2
        assert not told.is_replaced
        assert told.refused[0].raw == {"a": 1}

    def test_a_known_master_key_of_an_unknown_algorithm_vouches_for_nothing(self) -> None:
        key = CrossSigningKey.from_json({"user_id": BOB.user_id, "usage": ["master"], "keys": {"sphincs:x": "x"}})
        told = judged(self_signing=BOB.self_signing_key, before=UserKeys(user_id=BOB.user_id, master_key=key))
        assert reasons(told) == [("/self_signing_key", Reason.MISSING_MASTER_KEY)]


class TestWhatIsKeptOnTheKeys:
    def test_signatures_by_others_and_what_is_unsigned_go(self) -> None:
        """Attack 53: nobody learns from a copy who has verified whom."""
        dressed = EVE.verified(BOB.verified(BOB.master_key))
        dressed = dressed.with_signed(dressed.signed.with_unsigned({"x": 1}))
        told = judged(dressed, BOB.self_signing_key)
        assert told.master_key is not None
        assert set(told.master_key.to_json()) == {"user_id", "usage", "keys", "signatures"}
        assert list(told.master_key.signed.signatures) == [BOB.user_id]
        assert EVE.user_id in dressed.signed.signatures, "the input was changed"

    def test_an_object_without_signatures_stays_one(self) -> None:
        assert signed_by_owner(BOB.master_key.signed, BOB.user_id).to_json() == BOB.master_key.to_json()
        only_others = signed_by_owner(EVE.verified(BOB.master_key).signed, BOB.user_id)
        assert "signatures" not in only_others.to_json()


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"user_id": 5}, "/user_id"),
            ({"user_id": "bob"}, "/user_id"),
            ({"master_key": {}}, "/master_key"),
            ({"self_signing_key": 5}, "/self_signing_key"),
            ({"known": 5}, "/known"),
            ({"known": UserKeys(user_id=EVE.user_id)}, "/known"),
            ({"verifier": 5}, "/verifier"),
        ],
    )
    def test_wrong_ones_are_the_callers_fault(self, change: Any, path: str) -> None:
        arguments: Any = {"user_id": BOB.user_id, "master_key": None, "self_signing_key": None, **change}
        with pytest.raises(LocalProtocolError) as caught:
            verified_identity(arguments.pop("user_id"), **arguments)
        assert caught.value.path == path

    def test_the_result_checks_itself(self) -> None:
        with pytest.raises(LocalProtocolError):
            RemoteIdentity(master_key=5, self_signing_key=None, refused=(), is_replaced=False)  # type: ignore[arg-type]
