"""What a client remembers from one /keys/query answer to the next, and what it is told has changed."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import (
    LIBSODIUM,
    CachingVerifier,
    CrossSigningKey,
    DeviceKeys,
    KeysQueryRequest,
    KeysQueryResponse,
    LocalProtocolError,
    OwnIdentity,
    QueryResult,
    Reason,
    UserAnswer,
    UserIdentity,
    check_query,
)
from matrix_e2e_keys.client.users.changes import ChangeKind, KeyChange, review_identities
from matrix_e2e_keys.client.users.identity import IdentityPin, IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key, sample_secret_key

ME = SampleUser("@me:a.example")
BOB = SampleUser("@bob:b.example")
CAROL = SampleUser("@carol:c.example")
ME_AGAIN, BOB_AGAIN = SampleUser(ME.user_id, generation=1), SampleUser(BOB.user_id, generation=1)
PHONE, LAPTOP = BOB.device("PHONE"), BOB.device("LAPTOP")

Known = Mapping[str, KnownUser]


@functools.cache
def device(
    user: SampleUser, device_id: str, *, key: int = 0, curve: int = 0, note: int = 0, by: SampleUser | None = None
) -> DeviceKeys:
    """A device with the keys of some number, cross-signed by an identity."""
    keys = DeviceKeys.build(
        user_id=user.user_id,
        device_id=device_id,
        curve25519_key=sample_curve25519_key(f"{user.user_id} {device_id} {curve}"),
        signer=sample_secret_key(f"{user.user_id} {device_id} {key}").signer(f"ed25519:{device_id}"),
        extra={"note": note} if note else None,
    )
    if by is None:
        return keys
    signer = by.secret("self_signing").cross_signer()
    return keys.with_signed(add_signature(keys.signed, entity=user.user_id, signer=signer))


def answer(*users: tuple[SampleUser, Iterable[DeviceKeys]], viewer: str = ME.user_id) -> dict[str, Any]:
    return keys_query_answer(users, viewer=viewer)


def without_identity(body: dict[str, Any], user: SampleUser) -> dict[str, Any]:
    for name in ("master_keys", "self_signing_keys", "user_signing_keys"):
        body[name].pop(user.user_id, None)
    return body


def learn(body: Any, known: Known | None, *, asked: Any = None, **options: Any) -> QueryResult:
    """Have an answer judged: about all devices of the users it names, or what else was asked."""
    request = (
        KeysQueryRequest.for_devices(asked)
        if isinstance(asked, dict)
        else KeysQueryRequest.for_users(asked or body["device_keys"])
    )
    before = None if known is None else {user_id: user.to_json() for user_id, user in known.items()}
    result = check_query(request, KeysQueryResponse.from_json(body), known=known, **options)
    assert before == (None if known is None else {user_id: user.to_json() for user_id, user in known.items()})
    for user in result.known.values():
        again = KnownUser.from_json(json.loads(json.dumps(user.to_json())))
        assert again == user, "what is known is the same after a restart"
        assert again.to_json() == user.to_json()
    return result


def first(*users: tuple[SampleUser, Iterable[DeviceKeys]], **options: Any) -> Known:
    """What is known after the first answer."""
    return learn(answer(*users), {}, **options).known


def own_of(user: SampleUser) -> OwnIdentity:
    identity = UserIdentity.verify(
        master_key=user.master_key, self_signing_key=user.self_signing_key, user_signing_key=user.user_signing_key
    )
    return identity.confirm_as_own(master_key=user.master_public_key)


def kinds(changes: QueryResult | Iterable[KeyChange]) -> list[str]:
    """The changes, in words: the kind, and the device if it is about one."""
    listed = changes.changes if isinstance(changes, QueryResult) else changes
    return [str(it.kind) if it.device_id is None else f"{it.kind} {it.device_id}" for it in listed]


def states(known: Known) -> dict[str, str]:
    return {user_id: str(user.pin.state) for user_id, user in known.items()}


def signed_by(user: SampleUser, *signers: SampleUser) -> dict[str, Any]:
    """The master key of a user, with the signatures of those who have verified it."""
    key = user.master_key
    for signer in signers:
        key = signer.verified(key)
    return key.to_json()


class TestTheFirstAnswer:
    def test_everything_is_new(self) -> None:
        result = learn(answer((BOB, [PHONE, BOB.device("OLD", cross_signed=False)])), {})
        bob = result.known[BOB.user_id]
        assert bob.devices == result.devices.accepted[BOB.user_id]
        assert bob.cross_signed_devices == {"PHONE"}
        assert bob.identity == result.identities.accepted[BOB.user_id]
        assert bob.pin == IdentityPin().observe(BOB.master_public_key, vouched_for=False)
        assert (bob.removed_devices, bob.local_trust, bob.collision) == ({}, {}, None)
        assert kinds(result) == [
            "identity-added",
            "identity-state-changed",
            "device-added PHONE",
            "device-added OLD",
        ]
        added, state, phone, _ = result.changes
        assert (added.before, added.after) == (None, bob.identity)
        assert (state.before, state.after) == (IdentityState.UNKNOWN, IdentityState.PINNED)
        assert (phone.user_id, phone.before, phone.after) == (BOB.user_id, None, bob.devices["PHONE"])
        assert phone.detail == "the device 'PHONE' of '@bob:b.example' is new"

    def test_the_same_again_changes_nothing(self) -> None:
        known = first((BOB, [PHONE, LAPTOP]))
        result = learn(answer((BOB, [LAPTOP, PHONE])), known)
        assert result.changes == ()
        assert result.known == known

    def test_only_who_was_asked_about_is_learned(self) -> None:
        known = first((BOB, [PHONE]))
        result = learn(answer((BOB, []), (CAROL, [CAROL.device("X")])), known, asked=[CAROL.user_id])
        assert set(result.known) == {CAROL.user_id}
        assert {change.user_id for change in result.changes} == {CAROL.user_id}

    def test_without_memory_nothing_is_remembered(self) -> None:
        result = learn(answer((BOB, [PHONE])), None)
        assert (result.known, result.changes) == ({}, ())
        assert set(result.devices.accepted[BOB.user_id]) == {"PHONE"}

    def test_a_user_with_nothing(self) -> None:
        result = learn({"device_keys": {BOB.user_id: {}}}, {})
        assert result.known == {BOB.user_id: KnownUser(user_id=BOB.user_id)}
        assert result.changes == ()


class TestDevices:
    def test_added_and_removed(self) -> None:
        """Attack 36: nobody's device comes or goes unseen."""
        known = first((BOB, [PHONE]))
        result = learn(answer((BOB, [LAPTOP])), known)
        bob = result.known[BOB.user_id]
        assert set(bob.devices) == {"LAPTOP"}
        assert bob.removed_devices == {"PHONE": PHONE.ed25519_key}
        assert kinds(result) == ["device-removed PHONE", "device-added LAPTOP"]
        assert (result.changes[0].before, result.changes[0].after) == (known[BOB.user_id].devices["PHONE"], None)

    def test_a_device_of_the_server_is_added_and_not_cross_signed(self) -> None:
        """Attack 35: it is there, it is named, and the owner's identity has not signed it."""
        known = first((BOB, [PHONE]))
        result = learn(answer((BOB, [PHONE, BOB.device("EVIL", cross_signed=False)])), known)
        assert kinds(result) == ["device-added EVIL"]
        assert result.known[BOB.user_id].cross_signed_devices == {"PHONE"}

    def test_no_devices_any_more(self) -> None:
        result = learn(answer((BOB, [])), first((BOB, [PHONE, LAPTOP])))
        assert kinds(result) == ["device-removed PHONE", "device-removed LAPTOP"]
        assert set(result.known[BOB.user_id].removed_devices) == {"PHONE", "LAPTOP"}

    def test_it_comes_back(self) -> None:
        """Attack 36: with the key it had."""
        known = first((BOB, [PHONE]))
        gone = learn(answer((BOB, [])), known).known
        result = learn(answer((BOB, [PHONE])), gone)
        assert kinds(result) == ["device-reappeared PHONE"]
        assert result.known == known

    def test_it_comes_back_with_another_key(self) -> None:
        """Attacks 34 and 36: gone in one answer and back in the next is no way around the known key."""
        known = first((BOB, [PHONE]))
        known = {BOB.user_id: known[BOB.user_id].with_trust(PHONE.ed25519_key, LocalTrust.VERIFIED)}  # type: ignore[arg-type]
        gone = learn(answer((BOB, [])), known).known
        gone = learn(answer((BOB, [LAPTOP])), gone).known
        other = device(BOB, "PHONE", key=7)
        result = learn(answer((BOB, [other, LAPTOP])), gone)
        bob = result.known[BOB.user_id]
        assert kinds(result) == ["device-replaced PHONE"]
        assert bob.devices["PHONE"].keys == other
        assert bob.removed_devices == {}
        assert bob.trust_of("PHONE") is LocalTrust.UNSET
        assert learn(answer((BOB, [PHONE, LAPTOP])), result.known).known == result.known

    def test_a_tombstone_is_of_the_last_key(self) -> None:
        """Attack 34: there and back again through two absences."""
        other = device(BOB, "PHONE", key=7)
        known = first((BOB, [PHONE]))
        seen = []
        for devices in ([], [other], [], [PHONE], [], [PHONE]):
            result = learn(answer((BOB, devices)), known)
            known = result.known
            seen += kinds(result)
        assert seen == [
            "device-removed PHONE",
            "device-replaced PHONE",
            "device-removed PHONE",
            "device-replaced PHONE",
            "device-removed PHONE",
            "device-reappeared PHONE",
        ]

    def test_another_signing_key_is_refused(self) -> None:
        """Attack 34: the known device stays, whoever cross-signed the other one, and however often it is served."""
        known = first((BOB, [PHONE]))
        other = device(BOB, "PHONE", key=7, by=BOB)
        for _ in range(2):
            result = learn(answer((BOB, [other, LAPTOP])), known)
            assert [(it.path, it.reason) for it in result.devices.rejected] == [
                ("/device_keys/@bob:b.example/PHONE/keys/ed25519:PHONE", Reason.SIGNING_KEY_CHANGED)
            ]
            assert set(result.devices.accepted[BOB.user_id]) == {"LAPTOP"}
            assert result.known[BOB.user_id].devices["PHONE"] == known[BOB.user_id].devices["PHONE"]
            (change,) = [it for it in result.changes if it.device_id == "PHONE"]
            assert change.kind is ChangeKind.SIGNING_KEY_CHANGED
            assert change.before == known[BOB.user_id].devices["PHONE"]
            assert change.after == other.verify(identity=result.identities.accepted[BOB.user_id])
            assert result.users[BOB.user_id] is UserAnswer.DEVICES
            known = result.known

    def test_another_signing_key_by_somebody_who_has_none_is_no_change(self) -> None:
        """A device that did not sign itself says nothing."""
        known = first((BOB, [PHONE]))
        body = answer((BOB, [device(BOB, "PHONE", key=7)]))
        body["device_keys"][BOB.user_id]["PHONE"]["signatures"] = {}
        result = learn(body, known)
        assert (result.changes, result.known) == ((), known)

    def test_the_user_makes_room(self) -> None:
        """Attack 34: then the new key is a new device."""
        known = first((BOB, [PHONE]))
        cleared = {BOB.user_id: known[BOB.user_id].without_device("PHONE")}
        result = learn(answer((BOB, [device(BOB, "PHONE", key=7)])), cleared)
        assert kinds(result) == ["device-added PHONE"]

    def test_another_olm_key_is_taken_and_named(self) -> None:
        """Attack 34: the device signed that itself."""
        known = first((BOB, [device(BOB, "PHONE")]))
        other = device(BOB, "PHONE", curve=7, note=1)
        result = learn(answer((BOB, [other])), known)
        assert kinds(result) == ["curve25519-changed PHONE"]
        assert result.known[BOB.user_id].devices["PHONE"].keys == other
        (change,) = result.changes
        assert (change.before, change.after) == (
            known[BOB.user_id].devices["PHONE"],
            result.known[BOB.user_id].devices["PHONE"],
        )

    def test_another_content_is_taken_and_named(self) -> None:
        """Attack 42: an older version that the device signed is taken, since nothing says how old it is. It is named."""
        older, newer = device(BOB, "PHONE", note=1), device(BOB, "PHONE", note=2)
        known = first((BOB, [newer]))
        result = learn(answer((BOB, [older])), known)
        assert kinds(result) == ["device-changed PHONE"]
        assert result.known[BOB.user_id].devices["PHONE"].keys == older

    def test_the_display_name_is_no_change(self) -> None:
        known = first((BOB, [PHONE]))
        body = answer((BOB, [PHONE]))
        body["device_keys"][BOB.user_id]["PHONE"]["unsigned"] = {"device_display_name": "new"}
        result = learn(body, known)
        assert result.changes == ()
        assert result.known[BOB.user_id].devices["PHONE"].keys.untrusted_display_name == "new"

    def test_cross_signed_and_not_any_more(self) -> None:
        bare, signed = device(BOB, "PHONE"), device(BOB, "PHONE", by=BOB)
        known = first((BOB, [bare]))
        result = learn(answer((BOB, [signed])), known)
        assert kinds(result) == ["cross-signed PHONE"]
        result = learn(answer((BOB, [bare])), result.known)
        assert kinds(result) == ["cross-signature-lost PHONE"]
        assert result.known[BOB.user_id].cross_signed_devices == set()

    def test_what_the_user_decided_stays(self) -> None:
        """Attack 34: over answers, and over an absence."""
        key = PHONE.verify().ed25519_key
        known: Known = {BOB.user_id: first((BOB, [PHONE]))[BOB.user_id].with_trust(key, LocalTrust.BLACKLISTED)}
        for devices in ([PHONE, LAPTOP], [], [PHONE]):
            known = learn(answer((BOB, devices)), known).known
            assert known[BOB.user_id].local_trust == {key: LocalTrust.BLACKLISTED}
        assert known[BOB.user_id].trust_of("PHONE") is LocalTrust.BLACKLISTED

    def test_two_things_at_once(self) -> None:
        known = first((BOB, [device(BOB, "PHONE")]))
        result = learn(answer((BOB, [device(BOB, "PHONE", note=1, by=BOB)])), known)
        assert kinds(result) == ["device-changed PHONE", "cross-signed PHONE"]


SILENT: dict[str, dict[str, Any]] = {
    "server failed": {"failures": {"b.example": {}}},
    "unanswered": {},
    "malformed user": {"device_keys": {BOB.user_id: None}},
    "another malformed user": {"device_keys": {BOB.user_id: [PHONE.to_json()]}},
    "malformed map": {"device_keys": 5},
    "everything malformed": {"device_keys": 5, "master_keys": 5, "self_signing_keys": [], "failures": 5},
}


class TestRefusedIsNotGone:
    @pytest.mark.parametrize(
        "entry", [None, {}, 5, {"user_id": BOB.user_id}, LAPTOP.to_json()], ids=lambda it: str(it)[:20]
    )
    def test_a_malformed_device(self, entry: Any) -> None:
        """Attack 36: a server that spoils a device does not delete it."""
        known = first((BOB, [PHONE]))
        body = answer((BOB, [PHONE]))
        body["device_keys"][BOB.user_id]["PHONE"] = entry
        result = learn(body, known)
        assert result.devices.accepted == {}
        assert (result.changes, result.known) == ((), known)

    def test_a_tampered_device(self) -> None:
        """Attack 36: nor if it spoils a signature."""
        known = first((BOB, [PHONE]))
        body = answer((BOB, [PHONE]))
        body["device_keys"][BOB.user_id]["PHONE"]["algorithms"] = []
        result = learn(body, known)
        assert (result.changes, result.known) == ((), known)

    def test_an_unsupported_device(self) -> None:
        known = first((BOB, [PHONE]))
        body = answer((BOB, [PHONE]))
        body["device_keys"][BOB.user_id]["PHONE"]["keys"] = {"m.future:PHONE": "x"}
        result = learn(body, known)
        assert len(result.devices.unsupported) == 1
        assert (result.changes, result.known) == ((), known)

    def test_a_removed_device_that_is_refused_stays_removed(self) -> None:
        known = learn(answer((BOB, [])), first((BOB, [PHONE]))).known
        body = answer((BOB, [PHONE]))
        body["device_keys"][BOB.user_id]["PHONE"]["signatures"] = {}
        result = learn(body, known)
        assert (result.changes, result.known) == ((), known)

    @pytest.mark.parametrize("asked", [[BOB.user_id], {BOB.user_id: ["PHONE"]}], ids=["all", "one device"])
    @pytest.mark.parametrize("how", SILENT)
    def test_no_answer_is_not_gone(self, how: str, asked: Any) -> None:
        """Attack 36: nothing follows from what is not an answer, about devices and about the identity."""
        known = first((BOB, [PHONE, LAPTOP]))
        result = learn({"device_keys": {}, **SILENT[how]}, known, asked=asked)
        assert (result.changes, result.known) == ((), known)
        nobody = learn({"device_keys": {}, **SILENT[how]}, {}, asked=asked)
        assert nobody.known == {BOB.user_id: KnownUser(user_id=BOB.user_id)}

    def test_only_what_was_asked_for_can_be_gone(self) -> None:
        known = first((BOB, [PHONE, LAPTOP, BOB.device("TABLET")]))
        body = answer((BOB, [PHONE]))
        result = learn(body, known, asked={BOB.user_id: ["PHONE", "LAPTOP"]})
        assert kinds(result) == ["device-removed LAPTOP"]
        assert set(result.known[BOB.user_id].devices) == {"PHONE", "TABLET"}

    def test_what_was_not_asked_for_is_not_learned(self) -> None:
        known = first((BOB, [PHONE]))
        body = answer((BOB, [PHONE, LAPTOP, device(BOB, "TABLET")]))
        result = learn(body, known, asked={BOB.user_id: ["PHONE", "LAPTOP"]})
        assert kinds(result) == ["device-added LAPTOP"]
        result = learn(body, {}, asked={BOB.user_id: ["TABLET"]})
        assert set(result.known[BOB.user_id].devices) == {"TABLET"}


class TestOwnDevice:
    MINE = ME.device("MINE")

    def ask(self, devices: Iterable[DeviceKeys], known: Known | None = None, **options: Any) -> QueryResult:
        options = {"own_device": self.MINE, **options}
        return learn(answer((ME, devices)), {} if known is None else known, **options)

    def test_served_as_it_is(self) -> None:
        result = self.ask([self.MINE])
        assert kinds(result) == ["identity-added", "identity-state-changed", "device-added MINE"]
        assert self.ask([self.MINE], result.known).changes == ()

    def test_missing(self) -> None:
        """Attack 36: the server hides this device."""
        known = self.ask([self.MINE]).known
        assert kinds(self.ask([ME.device("OTHER")], known)) == [
            "device-removed MINE",
            "device-added OTHER",
            "own-device-missing MINE",
        ]
        change = self.ask([]).changes[-1]
        assert (change.kind, change.user_id, change.device_id) == (ChangeKind.OWN_DEVICE_MISSING, ME.user_id, "MINE")
        assert (change.before, change.after) == (None, None)

    def test_not_asked_for_is_not_missing(self) -> None:
        for body, asked in (
            (answer((ME, [])), {ME.user_id: ["OTHER"]}),
            ({"device_keys": {}, "failures": {}}, [ME.user_id]),
            ({"device_keys": {ME.user_id: 5}}, [ME.user_id]),
            (answer((BOB, [])), [BOB.user_id]),
        ):
            result = learn(body, {}, asked=asked, own_device=self.MINE)
            assert not [kind for kind in kinds(result) if kind.startswith("own-device")]

    @pytest.mark.parametrize("is_known", [False, True])
    @pytest.mark.parametrize("what", ["curve", "key"])
    def test_altered(self, what: str, is_known: bool) -> None:
        """Attack 36: whatever key it is; even if somebody signed it with the right one."""
        mine = device(ME, "MINE", by=ME)
        served = device(ME, "MINE", by=ME, **{what: 7})
        known = self.ask([mine], own_device=mine).known if is_known else {}
        result = self.ask([served], known, own_device=mine)
        assert [(it.path, it.reason) for it in result.devices.rejected] == [
            ("/device_keys/@me:a.example/MINE/keys", Reason.OWN_DEVICE_ALTERED)
        ]
        expected = ["own-device-altered MINE"]
        if is_known and what == "key":
            expected.insert(0, "signing-key-changed MINE")
        assert [kind for kind in kinds(result) if "MINE" in kind] == expected
        assert result.changes[-1].after == served.verify(identity=result.identities.accepted[ME.user_id])
        assert (known if is_known else {ME.user_id: result.known[ME.user_id]}) == result.known
        assert ("MINE" in result.known[ME.user_id].devices) is is_known

    def test_another_key_beside_the_two(self) -> None:
        """Attack 36: all keys count, those of unknown algorithms too."""
        served = DeviceKeys.from_json({**self.MINE.to_json(), "keys": {**self.MINE.keys, "m.future:MINE": "x"}})
        served = served.with_signed(add_signature(served.signed, entity=ME.user_id, signer=ME.device_signer("MINE")))
        result = self.ask([served])
        assert kinds(result)[-1] == "own-device-altered MINE"

    def test_refused_for_something_else(self) -> None:
        """Attack 36: spoiled is as good as altered."""
        body = answer((ME, [self.MINE]))
        body["device_keys"][ME.user_id]["MINE"]["added"] = 1
        known = self.ask([self.MINE]).known
        result = learn(body, known, own_device=self.MINE)
        assert kinds(result) == ["own-device-altered MINE"]
        assert result.changes[0].after is None
        assert result.known == known

    def test_outdated(self) -> None:
        newer = device(ME, "MINE", note=1, by=ME)
        older = device(ME, "MINE", by=ME)
        result = self.ask([older], own_device=newer)
        assert kinds(result)[-1] == "own-device-outdated MINE"
        assert result.changes[-1].after == result.known[ME.user_id].devices["MINE"]
        assert result.devices.rejected == ()

    def test_only_under_the_own_name(self) -> None:
        """Another user may have a device of the same id, and oneself others."""
        body = answer((ME, [self.MINE, ME.device("OTHER")]), (BOB, [BOB.device("MINE")]))
        result = learn(body, {}, own_device=self.MINE)
        assert result.devices.rejected == ()
        assert not [kind for kind in kinds(result) if kind.startswith("own-device")]

    def test_oneself_knows_better_than_ones_memory(self) -> None:
        """Whatever was served before: these are the keys of this device, so they are taken."""
        older = device(ME, "MINE", key=8, by=ME)
        known = learn(answer((ME, [older])), {}).known
        result = learn(answer((ME, [self.MINE])), known, own_device=self.MINE)
        assert result.devices.rejected == ()
        assert [it.kind for it in result.changes] == [ChangeKind.DEVICE_REPLACED]
        assert result.known[ME.user_id].devices["MINE"].keys == self.MINE

    def test_it_is_refused_without_memory_too(self) -> None:
        """Attack 36."""
        result = learn(answer((ME, [device(ME, "MINE", key=7)])), None, own_device=self.MINE)
        assert [it.reason for it in result.devices.rejected] == [Reason.OWN_DEVICE_ALTERED]
        assert (result.known, result.changes) == ({}, ())

    def test_it_says_who_one_is(self) -> None:
        body = answer((BOB, []), viewer=BOB.user_id)
        result = learn(body, {}, own_device=self.MINE)
        assert [it.reason for it in result.identities.rejected] == [Reason.NOT_OWN_USER]


class TestIdentities:
    def test_a_reset(self) -> None:
        """Attacks 33 and 42: another master key is a violation; the older identity is one again once this is accepted."""
        known = first((BOB, [PHONE]))
        result = learn(answer((BOB_AGAIN, [PHONE])), known)
        bob = result.known[BOB.user_id]
        assert kinds(result) == [
            "master-key-changed",
            "identity-state-changed",
            "cross-signature-lost PHONE",
        ]
        assert (result.changes[0].before, result.changes[0].after) == (known[BOB.user_id].identity, bob.identity)
        assert (result.changes[1].before, result.changes[1].after) == (
            IdentityState.PINNED,
            IdentityState.PIN_VIOLATION,
        )
        assert bob.pin.needs_approval
        assert bob.pin.pinned == BOB.master_public_key
        accepted = {BOB.user_id: bob.with_pin(bob.pin.accept(BOB_AGAIN.master_public_key))}
        assert states(accepted) == {BOB.user_id: "pinned"}
        replayed = learn(answer((BOB, [PHONE])), accepted)
        assert states(replayed.known) == {BOB.user_id: "pin-violation"}
        assert replayed.known[BOB.user_id].pin.pinned == BOB_AGAIN.master_public_key

    def test_a_rollback_within_one_master_key_cannot_be_seen(self) -> None:
        """Attack 42: the master key vouches for both self-signing keys, and nothing says which one is newer."""
        newer = CrossSigningKey.build(
            user_id=BOB.user_id,
            usage="self_signing",
            public_key=sample_secret_key("newer").public_key,
            signer=BOB.secret("master").cross_signer(),
        )
        body = answer((BOB, [PHONE]))
        body["self_signing_keys"][BOB.user_id] = newer.to_json()
        known = learn(body, {}).known
        assert known[BOB.user_id].cross_signed_devices == set()
        result = learn(answer((BOB, [PHONE])), known)
        assert kinds(result) == ["self-signing-key-changed", "cross-signed PHONE"]
        assert states(result.known) == {BOB.user_id: "pinned"}

    def test_a_new_self_signing_key_is_asked_about_what_is_not_served(self) -> None:
        """Devices that the answer does not hold, or that it spoils, are judged by the new key as well."""
        known = first((BOB, [PHONE, LAPTOP, BOB.device("TABLET")]))
        newer = sample_secret_key("newer")
        body = answer((BOB, [PHONE, LAPTOP]))
        body["self_signing_keys"][BOB.user_id] = CrossSigningKey.build(
            user_id=BOB.user_id,
            usage="self_signing",
            public_key=newer.public_key,
            signer=BOB.secret("master").cross_signer(),
        ).to_json()
        both = PHONE.with_signed(add_signature(PHONE.signed, entity=BOB.user_id, signer=newer.cross_signer()))
        body["device_keys"][BOB.user_id] = {"PHONE": both.to_json(), "LAPTOP": None}
        result = learn(body, known, asked={BOB.user_id: ["PHONE", "LAPTOP"]})
        assert kinds(result) == [
            "self-signing-key-changed",
            "cross-signature-lost LAPTOP",
            "cross-signature-lost TABLET",
        ]
        assert result.known[BOB.user_id].cross_signed_devices == {"PHONE"}

    def test_vanished_and_back(self) -> None:
        """Attack 33: an identity that is not served is not reset, and what it signed stays signed."""
        known = first((BOB, [PHONE]))
        for _ in range(2):
            result = learn(without_identity(answer((BOB, [PHONE, LAPTOP])), BOB), known)
            bob = result.known[BOB.user_id]
            expected = [] if known[BOB.user_id].pin.is_vanished else ["identity-vanished", "device-added LAPTOP"]
            assert kinds(result) == expected
            assert (bob.identity, bob.pin.is_vanished, bob.pin.state) == (
                known[BOB.user_id].identity,
                True,
                IdentityState.PINNED,
            )
            assert bob.cross_signed_devices == {"PHONE", "LAPTOP"}
            known = result.known
        back = learn(answer((BOB, [PHONE, LAPTOP])), known)
        assert kinds(back) == ["identity-reappeared"]
        assert not back.known[BOB.user_id].pin.is_vanished

    def test_vanished_and_back_with_another_key(self) -> None:
        """Attack 33: to leave it out in between is no way around the pin."""
        known = learn(without_identity(answer((BOB, [PHONE])), BOB), first((BOB, [PHONE]))).known
        result = learn(answer((BOB_AGAIN, [PHONE])), known)
        assert kinds(result)[:3] == ["master-key-changed", "identity-reappeared", "identity-state-changed"]
        assert states(result.known) == {BOB.user_id: "pin-violation"}

    def test_a_violation_does_not_vanish(self) -> None:
        """Attack 33."""
        known = learn(answer((BOB_AGAIN, [])), first((BOB, []))).known
        result = learn(without_identity(answer((BOB, [])), BOB), known)
        assert kinds(result) == ["identity-vanished"]
        assert result.known[BOB.user_id].pin.needs_approval

    def test_never_there_is_not_vanished(self) -> None:
        result = learn(without_identity(answer((BOB, [PHONE])), BOB), {})
        assert kinds(result) == ["device-added PHONE"]
        assert result.known[BOB.user_id].pin == IdentityPin()
        assert kinds(learn(answer((BOB, [PHONE])), result.known)) == [
            "identity-added",
            "identity-state-changed",
            "cross-signed PHONE",
        ]

    @pytest.mark.parametrize(
        "spoil",
        [
            {"master_keys": {BOB.user_id: None}},
            {"self_signing_keys": {BOB.user_id: None}},
            {"self_signing_keys": {BOB.user_id: BOB_AGAIN.self_signing_key.to_json()}},
            {"master_keys": {BOB.user_id: BOB_AGAIN.master_key.to_json()}},
            {"master_keys": {}},
            {"self_signing_keys": {}},
            {"master_keys": 5, "self_signing_keys": {}},
            {"master_keys": {}, "self_signing_keys": []},
            {"master_keys": {}, "self_signing_keys": {}, "user_signing_keys": 5},
            {"master_keys": {}, "self_signing_keys": {}, "user_signing_keys": {BOB.user_id: None}},
            {"master_keys": {}, "self_signing_keys": {}, "failures": {"b.example": {}}},
        ],
        ids=lambda spoil: str(spoil)[:50],
    )
    def test_a_refused_identity_is_neither_gone_nor_changed(self, spoil: dict[str, Any]) -> None:
        """Attack 33: one that is malformed, incomplete, inconsistent, or could not be seen."""
        known = first((BOB, [PHONE]))
        result = learn({**answer((BOB, [PHONE, LAPTOP])), **spoil}, known)
        assert BOB.user_id not in result.identities.accepted
        assert kinds(result) == ["device-added LAPTOP"]
        bob = result.known[BOB.user_id]
        assert (bob.identity, bob.pin) == (known[BOB.user_id].identity, known[BOB.user_id].pin)
        assert bob.cross_signed_devices == {"PHONE", "LAPTOP"}, "the known identity says so"

    def test_who_else_failed_does_not_matter(self) -> None:
        body = {**without_identity(answer((BOB, [PHONE])), BOB), "failures": {"c.example": {}}}
        assert kinds(learn(body, first((BOB, [PHONE])))) == ["identity-vanished"]

    def test_a_master_key_that_the_server_decorates_is_the_same(self) -> None:
        """Nobody signs a master key but those who verify it, so anybody can add to it."""
        known = first((BOB, [PHONE]), (ME, []))
        body = answer((BOB, [PHONE]), (ME, []))
        for user in (BOB, ME):
            body["master_keys"][user.user_id]["added"] = 1
        without_usk = copy.deepcopy(body)
        del without_usk["user_signing_keys"]
        result = learn(without_usk, known)
        assert kinds(result) == ["master-key-altered", "master-key-altered"]
        assert states(result.known) == {BOB.user_id: "pinned", ME.user_id: "pinned"}
        bob = result.known[BOB.user_id].identity
        assert bob is not None
        assert bob.master_key == BOB.master_key
        identity = result.known[ME.user_id].identity
        assert identity is not None
        assert identity.user_signing_key == ME.user_signing_key

    def test_another_user_signing_key(self) -> None:
        known = first((ME, []))
        body = answer((ME, []))
        newer = CrossSigningKey.build(
            user_id=ME.user_id,
            usage="user_signing",
            public_key=sample_secret_key("newer").public_key,
            signer=ME.secret("master").cross_signer(),
        )
        body["user_signing_keys"][ME.user_id] = newer.to_json()
        result = learn(body, known)
        assert kinds(result) == ["user-signing-key-changed"]
        assert states(result.known) == {ME.user_id: "pinned"}

    def test_a_user_signing_key_that_is_not_served_is_kept(self) -> None:
        known = first((ME, []))
        result = learn(answer((ME, []), viewer=""), known)
        assert (result.changes, result.known) == ((), known)
        again = learn(answer((ME_AGAIN, []), viewer=""), known)
        identity = again.known[ME.user_id].identity
        assert identity is not None
        assert identity.user_signing_key is None

    def test_a_known_user_signing_key_that_is_the_self_signing_key_now(self) -> None:
        """Attack 29: no identity is put together of two answers that would be refused in one."""
        known = first((BOB, []), own_user_id=None)
        known = learn(answer((BOB, []), viewer=BOB.user_id), known).known
        body = answer((BOB, []), viewer="")
        same = CrossSigningKey.build(
            user_id=BOB.user_id,
            usage="self_signing",
            public_key=BOB.secret("user_signing").public_key,
            signer=BOB.secret("master").cross_signer(),
        )
        body["self_signing_keys"][BOB.user_id] = same.to_json()
        result = learn(body, known)
        assert kinds(result) == ["self-signing-key-changed"]
        identity = result.known[BOB.user_id].identity
        assert identity is not None
        assert (identity.self_signing_key, identity.user_signing_key) == (same, None)


class TestVerification:
    """Oneself, with an identity that one has confirmed, and Bob, whom one has verified."""

    OWN = own_of(ME)

    def body(self, *signers: SampleUser, me: SampleUser = ME, bob: SampleUser = BOB) -> dict[str, Any]:
        body = answer((me, []), (bob, [PHONE]))
        body["master_keys"][BOB.user_id] = signed_by(bob, *signers)
        return body

    def known(self) -> Known:
        known = learn(self.body(ME), {}, own=self.OWN).known
        assert states(known) == {ME.user_id: "verified", BOB.user_id: "verified"}
        return known

    def test_the_chain(self) -> None:
        """Attack 32: one's own confirmed master key, one's user-signing key, the other's master key."""
        result = learn(self.body(ME), {}, own=self.OWN)
        assert result.verified_users == {BOB.user_id}
        assert states(result.known) == {ME.user_id: "verified", BOB.user_id: "verified"}
        for options, body in (
            ({}, self.body(ME)),
            ({"own": self.OWN}, self.body()),
            ({"own": self.OWN}, self.body(ME_AGAIN)),
            ({"own": own_of(ME_AGAIN)}, self.body(ME, me=ME_AGAIN)),
        ):
            broken = learn(body, {}, **options)
            assert broken.verified_users == frozenset()
            assert states(broken.known)[BOB.user_id] == "pinned"

    def test_a_forged_signature(self) -> None:
        """Attack 32: under the name of one's user-signing key, by another one."""
        body = self.body()
        forged = BOB.secret("user_signing").sign(BOB.master_key.signed.canonical).to_base64()
        body["master_keys"][BOB.user_id]["signatures"] = {ME.user_id: {ME.user_signing_key.key_name: forged}}
        assert states(learn(body, {}, own=self.OWN).known)[BOB.user_id] == "pinned"

    def test_verified_and_then_changed(self) -> None:
        """Attack 33: a state of its own, that does not heal when the old key comes back."""
        result = learn(self.body(bob=BOB_AGAIN), self.known(), own=self.OWN)
        assert kinds(result) == ["master-key-changed", "identity-state-changed", "cross-signature-lost PHONE"]
        assert states(result.known)[BOB.user_id] == "verification-violation"
        back = learn(self.body(ME), result.known, own=self.OWN)
        assert back.verified_users == {BOB.user_id}, "so the signatures say"
        assert states(back.known)[BOB.user_id] == "verification-violation"
        anew = learn(self.body(ME, bob=BOB_AGAIN), back.known, own=self.OWN)
        assert states(anew.known)[BOB.user_id] == "verified"

    def test_a_signature_that_is_left_out(self) -> None:
        """Attack 33: a server that forgets that one has verified somebody does not undo it, over restarts too."""
        known = self.known()
        for _ in range(2):
            result = learn(self.body(CAROL), known, own=self.OWN)
            assert result.changes == ()
            assert result.verified_users == {BOB.user_id}
            assert states(result.known)[BOB.user_id] == "verified"
            identity = result.known[BOB.user_id].identity
            assert identity is not None
            assert set(identity.master_key.signed.signatures) == {CAROL.user_id, ME.user_id}
            known = {
                user_id: KnownUser.from_json(json.loads(json.dumps(user.to_json())))
                for user_id, user in result.known.items()
            }

    @pytest.mark.parametrize("served", ["AAAA", "!", "A" * 86])
    def test_a_signature_that_is_spoiled(self, served: str) -> None:
        body = self.body()
        body["master_keys"][BOB.user_id]["signatures"] = {ME.user_id: {ME.user_signing_key.key_name: served}}
        result = learn(body, self.known(), own=self.OWN)
        assert result.changes == ()
        assert result.verified_users == {BOB.user_id}

    def test_what_is_known_of_a_signature_is_checked(self) -> None:
        """Attack 32: a signature that was never good is not made good by being known."""
        name = ME.user_signing_key.key_name
        for text in ("!", "A" * 86, BOB.secret("master").sign(b"x").to_base64()):
            body = self.body()
            body["master_keys"][BOB.user_id]["signatures"] = {ME.user_id: {name: text}}
            known = learn(body, {}, own=self.OWN).known
            result = learn(self.body(), known, own=self.OWN)
            assert result.verified_users == frozenset()
            assert states(result.known)[BOB.user_id] == "pinned"

    def test_a_signature_stays_with_its_master_key(self) -> None:
        """Attack 33: what one has signed is not carried over to another master key, or to another user."""
        result = learn(self.body(bob=BOB_AGAIN), self.known(), own=self.OWN)
        assert result.verified_users == frozenset()
        identity = result.known[BOB.user_id].identity
        assert identity is not None
        assert identity.master_key.signed.signatures == {}

    def test_others_that_are_not_known_are_not_helped(self) -> None:
        known = {ME.user_id: self.known()[ME.user_id]}
        result = learn(self.body(), known, own=self.OWN)
        assert states(result.known)[BOB.user_id] == "pinned"

    def test_no_own_identity_vouches_for_nobody(self) -> None:
        result = learn(self.body(ME), self.known())
        assert states(result.known) == {ME.user_id: "verification-lost", BOB.user_id: "verification-lost"}
        assert kinds(result) == ["identity-state-changed", "identity-state-changed"]
        back = learn(self.body(ME), result.known, own=self.OWN)
        assert states(back.known) == {ME.user_id: "verified", BOB.user_id: "verified"}

    def test_an_own_identity_without_a_user_signing_key(self) -> None:
        blind = UserIdentity.verify(master_key=ME.master_key, self_signing_key=ME.self_signing_key)
        own = blind.confirm_as_own(master_key=ME.master_public_key)
        known = self.known()
        body = self.body(ME)
        del body["user_signing_keys"]
        result = learn(body, known, own=own)
        assert states(result.known) == {ME.user_id: "verified", BOB.user_id: "verification-lost"}
        served = learn(self.body(ME), known, own=own)
        assert served.verified_users == {BOB.user_id}, "the answer holds it, and one's master key vouches for it"

    def test_an_answer_without_the_own_user_signing_key(self) -> None:
        body = self.body(ME)
        del body["user_signing_keys"]
        result = learn(body, self.known(), own=self.OWN)
        assert result.changes == ()
        assert result.verified_users == {BOB.user_id}

    def test_another_own_user_signing_key(self) -> None:
        """Attack 32: what the older one has signed does not count any more. That is no violation."""
        newer = sample_secret_key("newer")
        body = self.body(ME)
        body["user_signing_keys"][ME.user_id] = CrossSigningKey.build(
            user_id=ME.user_id,
            usage="user_signing",
            public_key=newer.public_key,
            signer=ME.secret("master").cross_signer(),
        ).to_json()
        result = learn(body, self.known(), own=self.OWN)
        assert kinds(result) == ["user-signing-key-changed", "identity-state-changed"]
        assert states(result.known) == {ME.user_id: "verified", BOB.user_id: "verification-lost"}

    def test_somebody_has_reset_oneself(self) -> None:
        """Attacks 32 and 33: everybody loses their verification, which is no violation; that of oneself is one."""
        result = learn(self.body(ME, me=ME_AGAIN), self.known(), own=self.OWN)
        assert result.verified_users == frozenset()
        assert states(result.known) == {ME.user_id: "verification-violation", BOB.user_id: "verification-lost"}
        assert not result.known[BOB.user_id].pin.needs_approval
        assert kinds(result) == [
            "master-key-changed",
            "identity-state-changed",
            "identity-state-changed",
        ]

    def test_oneself_has_reset_oneself(self) -> None:
        """Attack 32: with the new identity confirmed, others are as verified as that has signed them."""
        own = own_of(ME_AGAIN)
        result = learn(self.body(ME, me=ME_AGAIN), self.known(), own=own)
        assert states(result.known) == {ME.user_id: "verified", BOB.user_id: "verification-lost"}
        signed = learn(self.body(ME, ME_AGAIN, me=ME_AGAIN), result.known, own=own)
        assert states(signed.known) == {ME.user_id: "verified", BOB.user_id: "verified"}

    def test_an_own_identity_that_is_refused_is_still_ones_own(self) -> None:
        body = self.body(ME)
        body["self_signing_keys"][ME.user_id] = None
        result = learn(body, self.known(), own=self.OWN)
        assert result.changes == ()
        assert result.verified_users == {BOB.user_id}

    def test_reviewing_who_was_not_asked_about(self) -> None:
        """Attack 32: after one's own identity changed, nobody stays verified whom it has not signed."""
        known = {**self.known(), **first((CAROL, []))}
        known[CAROL.user_id] = learn(without_identity(answer((CAROL, [])), CAROL), known).known[CAROL.user_id]
        changed, changes = review_identities(known, own_of(ME_AGAIN), LIBSODIUM)
        assert states(changed) == {ME.user_id: "verification-lost", BOB.user_id: "verification-lost"}
        assert kinds(changes) == ["identity-state-changed", "identity-state-changed"]
        assert (changes[1].before, changes[1].after) == (IdentityState.VERIFIED, IdentityState.VERIFICATION_LOST)
        assert changed[BOB.user_id].devices == known[BOB.user_id].devices
        assert review_identities(known, self.OWN, LIBSODIUM) == ({}, [])
        assert review_identities({**known, **changed}, self.OWN, LIBSODIUM)[0] == {
            user_id: known[user_id] for user_id in changed
        }
        assert states(review_identities(known, None, LIBSODIUM)[0]) == states(changed)
        assert review_identities({BOB.user_id: KnownUser(user_id=BOB.user_id)}, None, LIBSODIUM) == ({}, [])


class TestWhatAServerLeavesOutOrAdds:
    """Attack 33: silence, and decoration, undo no verification."""

    LISTENER = BOB.device("LISTENER", cross_signed=False)

    def verified(self) -> Known:
        body = answer((ME, []), (BOB, [PHONE]))
        body["master_keys"][BOB.user_id] = ME.verified(BOB.master_key).to_json()
        known = learn(body, {}, own=own_of(ME)).known
        assert states(known)[BOB.user_id] == "verified"
        return known

    def test_a_master_key_with_something_added(self) -> None:
        known = self.verified()
        body = answer((BOB, [PHONE, self.LISTENER]))
        body["master_keys"][BOB.user_id]["added"] = 1
        result = learn(body, known, own=own_of(ME))
        assert kinds(result) == ["master-key-altered", "device-added LISTENER"]
        assert states(result.known) == {BOB.user_id: "verified"}
        assert result.verified_users == {BOB.user_id}
        assert result.known[BOB.user_id].identity == known[BOB.user_id].identity
        again = learn(answer((BOB, [PHONE, self.LISTENER])), result.known, own=own_of(ME))
        assert states(again.known) == {BOB.user_id: "verified"}

    def test_a_new_self_signing_key_under_a_master_key_with_something_added(self) -> None:
        known = self.verified()
        newer = CrossSigningKey.build(
            user_id=BOB.user_id,
            usage="self_signing",
            public_key=sample_secret_key("newer").public_key,
            signer=BOB.secret("master").cross_signer(),
        )
        body = answer((BOB, [PHONE]))
        body["master_keys"][BOB.user_id]["added"] = 1
        body["self_signing_keys"][BOB.user_id] = newer.to_json()
        bob = learn(body, known, own=own_of(ME)).known[BOB.user_id]
        assert bob.identity is not None
        assert (bob.identity.master_key, bob.identity.self_signing_key) == (BOB.master_key, newer)
        assert bob.cross_signed_devices == frozenset()

    def test_a_signature_while_one_s_own_identity_is_another_one(self) -> None:
        known = self.verified()
        result = learn(answer((ME_AGAIN, []), (BOB, [PHONE])), known, own=own_of(ME))
        assert states(result.known)[BOB.user_id] == "verification-lost"
        unsaid = learn(answer((ME, []), (BOB, [PHONE])), result.known, own_user_id=ME.user_id)
        changed, _ = review_identities(unsaid.known, own_of(ME), LIBSODIUM)
        assert states(changed)[BOB.user_id] == "verified"

    def test_nonsense_in_the_place_of_a_signature(self) -> None:
        known = self.verified()
        body = answer((BOB, [PHONE]))
        usk = ME.user_signing_key.key_name
        body["master_keys"][BOB.user_id]["signatures"] = {ME.user_id: {usk: "x"}}
        result = learn(body, known, own=own_of(ME))
        assert states(result.known) == {BOB.user_id: "verified"}
        junk = learn(body, {}, own=own_of(ME)).known
        assert states(learn(answer((BOB, [PHONE])), junk, own=own_of(ME)).known) == {BOB.user_id: "pinned"}

    def test_devices_that_were_there_are_remembered_up_to_a_number(self) -> None:
        known = first((BOB, [PHONE]))
        many = {f"D{number}": PHONE.verify().ed25519_key for number in range(1000)}
        bob = attrs.evolve(known[BOB.user_id], removed_devices=many)
        after = learn(answer((BOB, [])), {BOB.user_id: bob}).known[BOB.user_id]
        assert len(after.removed_devices) == 1000
        assert "PHONE" in after.removed_devices
        assert "D0" not in after.removed_devices


class TestCollisions:
    """Attack 25, in two answers: a device id that is a cross-signing key, one of which is known already."""

    MASTER = BOB.master_public_key.to_base64()
    EVIL = BOB.device(MASTER)

    def test_in_one_answer(self) -> None:
        known = first((BOB, [PHONE]))
        result = learn(answer((BOB, [PHONE, LAPTOP, self.EVIL])), known)
        (change,) = result.changes
        assert (change.kind, change.device_id) == (ChangeKind.IDENTIFIER_COLLISION, self.MASTER)
        assert learn(answer((BOB, [PHONE, LAPTOP, self.EVIL])), result.known).changes == ()
        assert result.known == {
            BOB.user_id: attrs.evolve(known[BOB.user_id], collision=self.MASTER, has_refused_identity=True)
        }
        over = learn(answer((BOB, [PHONE])), result.known)
        assert over.known == known

    @pytest.mark.parametrize("role", ["master", "self_signing", "user_signing"])
    def test_the_key_is_known_and_not_served(self, role: str) -> None:
        """Attack 25."""
        known = first((ME, []))
        text = ME.secret(role).public_key.to_base64()
        result = learn(without_identity(answer((ME, [ME.device(text)])), ME), known)
        assert [it.reason for it in result.devices.rejected] == [Reason.IDENTIFIER_COLLISION]
        assert result.known[ME.user_id].collision == text
        assert result.known[ME.user_id].devices == {}

    @pytest.mark.parametrize("how", ["not asked for", "malformed", "not answered"])
    def test_the_device_is_known_and_not_served(self, how: str) -> None:
        """Attack 25."""
        known = learn(without_identity(answer((BOB, [self.EVIL])), BOB), {}).known
        body: Any = answer((BOB, [PHONE]))
        if how != "not asked for":
            body["device_keys"] = {BOB.user_id: None} if how == "malformed" else {}
        result = learn(body, known, asked={BOB.user_id: ["PHONE"] if how == "not asked for" else []})
        assert BOB.user_id not in result.identities.accepted
        assert {it.reason for it in result.identities.rejected} == {Reason.IDENTIFIER_COLLISION}
        bob = result.known[BOB.user_id]
        assert (bob.collision, bob.identity, set(bob.devices)) == (self.MASTER, None, {self.MASTER})

    @pytest.mark.parametrize("asked", [[BOB.user_id], {BOB.user_id: ["PHONE", MASTER]}], ids=["all", "by id"])
    def test_a_known_device_that_is_gone_collides_with_nothing(self, asked: Any) -> None:
        known = learn(without_identity(answer((BOB, [self.EVIL])), BOB), {}).known
        result = learn(answer((BOB, [PHONE])), known, asked=asked)
        assert result.known[BOB.user_id].collision is None
        assert BOB.user_id in result.identities.accepted
        assert kinds(result)[-2:] == [f"device-removed {self.MASTER}", "device-added PHONE"]

    def test_a_refused_device_collides_until_it_is_gone(self) -> None:
        """Attack 25: what was refused is not known as a device; its id is."""
        known = first((BOB, [self.EVIL]))
        assert (known[BOB.user_id].devices, known[BOB.user_id].collision) == ({}, self.MASTER)
        for body in (answer((BOB, [PHONE])), without_identity(answer((BOB, [PHONE])), BOB)):
            result = learn(body, known, asked={BOB.user_id: ["PHONE"]})
            assert result.known[BOB.user_id].collision == self.MASTER
            assert result.known[BOB.user_id].identity is None
        for asked in ([BOB.user_id], {BOB.user_id: ["PHONE", self.MASTER]}):
            result = learn(answer((BOB, [PHONE])), known, asked=asked)
            assert result.known[BOB.user_id].collision is None
            assert result.known[BOB.user_id].identity is not None

    def test_no_answer_changes_nothing_about_it(self) -> None:
        known = first((BOB, [self.EVIL]))
        silent: list[dict[str, Any]] = [{"device_keys": {}}, {"device_keys": {BOB.user_id: None}}]
        for body in silent:
            assert learn(body, known, asked=[BOB.user_id]).known == known

    def test_a_device_key_that_is_a_known_cross_signing_key(self) -> None:
        """Attack 29: the key itself, not its name."""
        known = first((BOB, [PHONE]))
        evil = DeviceKeys.build(
            user_id=BOB.user_id,
            device_id="EVIL",
            curve25519_key=sample_curve25519_key("evil"),
            signer=BOB.secret("self_signing").signer("ed25519:EVIL"),
        )
        result = learn(without_identity(answer((BOB, [PHONE, evil])), BOB), known)
        assert [it.reason for it in result.devices.rejected] == [Reason.KEY_REUSED]
        assert set(result.known[BOB.user_id].devices) == {"PHONE"}

    def test_a_long_device_id_that_is_no_key(self) -> None:
        plain = BOB.device("x" * 50)
        result = learn(answer((BOB, [plain])), first((BOB, [plain])), asked={BOB.user_id: ["PHONE"]})
        assert result.known[BOB.user_id].collision is None


class TestChanges:
    def test_what_they_say(self) -> None:
        """Each in a sentence, with the user or the device in it."""
        known = first((BOB, [PHONE]))
        for body in (answer((BOB_AGAIN, [LAPTOP])), without_identity(answer((BOB, [])), BOB)):
            for change in learn(body, known).changes:
                assert BOB.user_id in change.detail
                assert (change.device_id or "") in change.detail
                assert change.detail[-1] != "."

    def test_names_of_servers_are_quoted(self) -> None:
        result = learn(answer((BOB, [BOB.device("a\nb" + "x" * 200)])), {})
        assert "\n" not in result.changes[-1].detail
        assert len(result.changes[-1].detail) < 200

    def test_keys_are_not_in_the_repr(self) -> None:
        change = learn(answer((BOB, [PHONE])), {}).changes[-1]
        assert "before" not in repr(change)
        assert "after" not in repr(change)

    def test_the_kinds_are_stable(self) -> None:
        assert {str(kind) for kind in ChangeKind} == {kind.name.lower().replace("_", "-") for kind in ChangeKind}


class TestCallers:
    @pytest.mark.parametrize(
        ("options", "reason", "path"),
        [
            ({"known": []}, Reason.WRONG_TYPE, "/known"),
            ({"known": {BOB.user_id: None}}, Reason.WRONG_TYPE, "/known"),
            ({"known": {BOB.user_id: KnownUser(user_id=ME.user_id)}}, Reason.USER_ID_MISMATCH, "/known/@bob:b.example"),
            ({"own_device": PHONE.to_json()}, Reason.INVALID_VALUE, "/own_device"),
            ({"own_device": PHONE.verify()}, Reason.INVALID_VALUE, "/own_device"),
            ({"own_device": PHONE, "own_user_id": ME.user_id}, Reason.INVALID_VALUE, "/own_device"),
            ({"own_device": PHONE, "own": own_of(ME)}, Reason.INVALID_VALUE, "/own_device"),
            ({"own": ME}, Reason.INVALID_VALUE, "/own"),
            ({"own": own_of(ME), "own_user_id": BOB.user_id}, Reason.INVALID_VALUE, "/own"),
        ],
    )
    def test_what_is_known_and_who_one_is(self, options: Any, reason: Reason, path: str) -> None:
        request, response = KeysQueryRequest.for_users([BOB.user_id]), KeysQueryResponse.from_json(answer((BOB, [])))
        with pytest.raises(LocalProtocolError) as caught:
            check_query(request, response, **options)
        assert (caught.value.reason, caught.value.path) == (reason, path)

    def test_all_of_oneself_agree(self) -> None:
        mine = ME.device("MINE")
        result = learn(answer((ME, [mine])), {}, own=own_of(ME), own_device=mine, own_user_id=ME.user_id)
        assert states(result.known) == {ME.user_id: "verified"}

    def test_memory_alone_asks_no_question(self) -> None:
        """If nothing has changed, nothing more is asked than without memory."""
        asked: list[int] = []

        class Counting:
            def verify_many(self, checks: Any) -> list[bool]:
                asked.append(len(checks))
                return LIBSODIUM.verify_many(checks)

        body = answer((ME, [ME.device("MINE")]), (BOB, [PHONE, LAPTOP]))
        body["master_keys"][BOB.user_id] = signed_by(BOB, ME)
        request, response = KeysQueryRequest.for_users(body["device_keys"]), KeysQueryResponse.from_json(body)
        known = learn(body, {}, own=own_of(ME)).known
        check_query(request, response, own=own_of(ME), verifier=Counting())
        plain = sum(asked)
        asked.clear()
        check_query(request, response, own=own_of(ME), known=known, verifier=Counting())
        assert sum(asked) == plain


# --------------------------------------------------------------------------------------------------------------
# Any answers, in any order, against a simple model
# --------------------------------------------------------------------------------------------------------------

USERS = [ME.user_id, BOB.user_id, CAROL.user_id]
DEVICES = ["D1", "D2"]
CACHE = CachingVerifier(inner=LIBSODIUM)


@attrs.define
class Truth:
    """What the server has of one user."""

    generation: int = 0
    devices: dict[str, tuple[int, int, int | None]] = attrs.field(factory=dict)  # key, Olm key, cross-signed by
    spoiled: set[str] = attrs.field(factory=set)
    signatures: set[int] = attrs.field(factory=set)  # generations of oneself that have signed the master key


@attrs.define
class Expected:
    """What a client must know of one user."""

    devices: dict[str, tuple[int, int, int | None]] = attrs.field(factory=dict)
    removed: dict[str, int] = attrs.field(factory=dict)
    generation: int | None = None
    pinned: int | None = None
    was_verified: bool = False
    violated: bool = False
    verified: bool = False
    vanished: bool = False
    signatures: set[int] = attrs.field(factory=set)

    @property
    def cross_signed(self) -> set[str]:
        return {name for name, (_, _, by) in self.devices.items() if by is not None and by == self.generation}

    @property
    def state(self) -> str:
        if self.generation is None:
            return "unknown"
        if self.violated:
            return "verification-violation" if self.was_verified else "pin-violation"
        if self.verified:
            return "verified"
        return "verification-lost" if self.was_verified else "pinned"

    def see(self, generation: int, vouched_for: bool) -> None:
        latched = self.violated and self.was_verified and generation == self.pinned
        if vouched_for and not latched:
            self.violated, self.pinned, self.was_verified, self.verified = False, generation, True, True
        else:
            self.verified = False
            if self.pinned is None:
                self.pinned = generation
            elif generation != self.pinned:
                self.violated = True
            elif not self.was_verified:
                self.violated = False
        self.generation, self.vanished = generation, False


def differences(before: Expected, after: Expected, refused: set[str]) -> set[str]:
    """What must be reported, from what was known and what is known."""
    found = {f"signing-key-changed {name}" for name in refused}
    for name in before.devices.keys() | after.devices.keys():
        old, new = before.devices.get(name), after.devices.get(name)
        if old is None:
            assert new is not None
            if name not in before.removed:
                found.add(f"device-added {name}")
            else:
                same = before.removed[name] == new[0]
                found.add(f"device-reappeared {name}" if same else f"device-replaced {name}")
        elif new is None:
            found.add(f"device-removed {name}")
        else:
            if old[1] != new[1]:
                found.add(f"curve25519-changed {name}")
            if (name in before.cross_signed) != (name in after.cross_signed):
                found.add(f"cross-signed {name}" if name in after.cross_signed else f"cross-signature-lost {name}")
    if before.generation != after.generation:
        found.add("identity-added" if before.generation is None else "master-key-changed")
    if before.vanished != after.vanished:
        found.add("identity-vanished" if after.vanished else "identity-reappeared")
    if before.state != after.state:
        found.add("identity-state-changed")
    return found


class Memory(RuleBasedStateMachine):
    """A server with three users, who change, and a client that stores what it is told and restarts at any time."""

    @initialize()
    def begin(self) -> None:
        self.server = {user_id: Truth() for user_id in USERS}
        self.known: dict[str, KnownUser] = {}
        self.expected: dict[str, Expected] = {}
        self.own: int | None = 0  # the generation of oneself that one has confirmed

    users = st.sampled_from(USERS)
    names = st.sampled_from(DEVICES)

    @rule(user_id=users, name=names, by_owner=st.booleans(), key=st.integers(0, 1), curve=st.integers(0, 1))
    def set_device(self, user_id: str, name: str, by_owner: bool, key: int, curve: int) -> None:
        truth = self.server[user_id]
        truth.devices[name] = (key, curve, truth.generation if by_owner else None)

    @rule(user_id=users, name=names)
    def log_out(self, user_id: str, name: str) -> None:
        self.server[user_id].devices.pop(name, None)

    @rule(user_id=users, name=names)
    def spoil(self, user_id: str, name: str) -> None:
        self.server[user_id].spoiled ^= {name}

    @rule(user_id=users, generation=st.integers(0, 1))
    def reset_identity(self, user_id: str, generation: int) -> None:
        truth = self.server[user_id]
        if truth.generation != generation:
            truth.generation, truth.signatures = generation, set()

    @rule(user_id=st.sampled_from(USERS[1:]), keep=st.booleans())
    def verify_user(self, user_id: str, keep: bool) -> None:
        truth = self.server[user_id]
        truth.signatures = truth.signatures | {self.server[ME.user_id].generation} if keep else set()

    @rule(is_there=st.booleans())
    def confirm_oneself(self, is_there: bool) -> None:
        self.own = self.server[ME.user_id].generation if is_there else None

    @rule(user_id=users)
    def accept(self, user_id: str) -> None:
        user = self.known.get(user_id)
        if user is None or user.pin.current is None:
            return
        self.known[user_id] = user.with_pin(user.pin.accept(user.pin.current))
        expected = self.expected[user_id]
        expected.pinned, expected.was_verified = expected.generation, False
        expected.violated = expected.verified = False

    @rule(
        asked=st.sets(users, min_size=1),
        only=st.none() | st.sets(names, min_size=1),
        how=st.dictionaries(users, st.sampled_from(["failed", "malformed", "unanswered"]), max_size=1),
        identities=st.dictionaries(users, st.sampled_from(["absent", "refused"]), max_size=2),
    )
    def ask(self, asked: set[str], only: set[str] | None, how: dict[str, str], identities: dict[str, str]) -> None:
        body: dict[str, Any] = {
            "device_keys": {},
            "failures": {user_id.partition(":")[2]: {} for user_id, word in how.items() if word == "failed"},
            "master_keys": {},
            "self_signing_keys": {},
            "user_signing_keys": {},
        }
        for user_id in sorted(asked):
            self.serve(body, user_id, only, how.get(user_id, ""), identities.get(user_id, ""))
        own = None if self.own is None else own_of(SampleUser(ME.user_id, generation=self.own))
        before = copy.deepcopy(self.expected)
        self.expect(sorted(asked), only, how, identities)
        request = KeysQueryRequest.for_devices({user_id: sorted(only or ()) for user_id in sorted(asked)})
        result = check_query(
            request,
            KeysQueryResponse.from_json(body),
            known=self.known,
            own=own,
            own_user_id=ME.user_id,
            verifier=CACHE,
        )
        assert set(result.known) == asked
        self.check_changes(result, before, asked, only, how)
        self.known |= result.known

    def serve(self, body: dict[str, Any], user_id: str, only: set[str] | None, how: str, identity: str) -> None:
        truth = self.server[user_id]
        if how:
            if how == "malformed":
                body["device_keys"][user_id] = None
            return
        user = SampleUser(user_id, generation=truth.generation)
        of_user = body["device_keys"][user_id] = {}
        for name, (key, curve, by) in truth.devices.items():
            if only is None or name in only:
                signer = None if by is None else SampleUser(user_id, generation=by)
                of_user[name] = device(SampleUser(user_id), name, key=key, curve=curve, by=signer).to_json()
                if name in truth.spoiled:
                    of_user[name]["added"] = 1
        if identity == "absent":
            return
        signers = [SampleUser(ME.user_id, generation=number) for number in sorted(truth.signatures)]
        body["master_keys"][user_id] = signed_by(user, *signers)
        body["self_signing_keys"][user_id] = user.self_signing_key.to_json()
        if identity == "refused":
            body["self_signing_keys"][user_id]["added"] = 1
        if user_id == ME.user_id:
            body["user_signing_keys"][user_id] = user.user_signing_key.to_json()

    def expect(self, asked: list[str], only: set[str] | None, how: dict[str, str], identities: dict[str, str]) -> None:
        """Work out what has to be known from here on."""
        shown = {user_id for user_id in asked if user_id not in how and user_id not in identities}
        own = self.own
        if ME.user_id in shown and own is not None and self.server[ME.user_id].generation != own:
            own = None
        for user_id in asked:
            expected, truth = self.expected.setdefault(user_id, Expected()), self.server[user_id]
            if user_id in how:
                continue
            if user_id in shown:
                signatures = set(truth.signatures)
                # What one signed oneself is not undone by leaving it out, be it known yet that it was oneself.
                if own not in signatures and expected.generation == truth.generation:
                    signatures |= expected.signatures
                vouched_for = own is not None and (user_id == ME.user_id or own in signatures)
                expected.see(truth.generation, vouched_for)
                expected.signatures = signatures
            elif identities.get(user_id) == "absent" and expected.generation is not None:
                expected.vanished = True
            for name in DEVICES if only is None else only:
                old, new = expected.devices.get(name), truth.devices.get(name)
                if new is None:
                    if old is not None:
                        expected.removed[name] = expected.devices.pop(name)[0]
                elif name not in truth.spoiled and (old is None or old[0] == new[0]):
                    expected.devices[name] = new
                    expected.removed.pop(name, None)

    def check_changes(
        self,
        result: QueryResult,
        before: dict[str, Expected],
        asked: set[str],
        only: set[str] | None,
        how: dict[str, str],
    ) -> None:
        """The changes are exactly the difference, and who asks for nobody hears of nobody."""
        for user_id in asked:
            old, truth = before.get(user_id, Expected()), self.server[user_id]
            refused = {
                name
                for name, (key, _, _) in truth.devices.items()
                if user_id not in how
                and name not in truth.spoiled
                and (only is None or name in only)
                and name in old.devices
                and old.devices[name][0] != key
            }
            found = kinds(change for change in result.changes if change.user_id == user_id)
            assert len(found) == len(set(found))
            assert set(found) == differences(old, self.expected[user_id], refused)
            removed = {name for name in old.devices if name not in result.known[user_id].devices}
            assert user_id not in how or not removed, "nothing is gone unless an answer leaves it out"
        assert {change.user_id for change in result.changes} <= asked

    @rule()
    def restart(self) -> None:
        stored = json.loads(json.dumps({user_id: user.to_json() for user_id, user in self.known.items()}))
        again = {user_id: KnownUser.from_json(user, verifier=CACHE) for user_id, user in stored.items()}
        assert again == self.known
        assert {user_id: user.to_json() for user_id, user in again.items()} == stored
        self.known = again

    @invariant()
    def what_is_known_is_what_must_be_known(self) -> None:
        if not hasattr(self, "known"):
            return
        assert set(self.known) == set(self.expected)
        for user_id, user in self.known.items():
            expected = self.expected[user_id]
            assert set(user.devices) == set(expected.devices)
            for name, (key, curve, _) in expected.devices.items():
                assert user.devices[name].keys == device(SampleUser(user_id), name, key=key, curve=curve)
            assert set(user.removed_devices) == set(expected.removed)
            for name, key in expected.removed.items():
                assert user.removed_devices[name] == device(SampleUser(user_id), name, key=key).ed25519_key
            assert user.cross_signed_devices == expected.cross_signed
            assert user.pin.state == expected.state
            assert user.pin.is_vanished == expected.vanished
            keys = [
                None if number is None else SampleUser(user_id, generation=number).master_public_key
                for number in (expected.generation, expected.pinned)
            ]
            assert [user.pin.current, user.pin.pinned] == keys
            assert user.collision is None


TestAnyAnswers = Memory.TestCase
TestAnyAnswers.settings = settings(stateful_step_count=30)
