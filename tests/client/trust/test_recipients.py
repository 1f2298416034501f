"""Whom to send a room key to: each policy, each kind of device, and what stops it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys.algorithms import MEGOLM_V1, OLM_V1
from matrix_e2e_keys.client.queries.query import check_query
from matrix_e2e_keys.client.trust.recipients import (
    ProblemKind,
    RecipientPolicy,
    RecipientProblem,
    Recipients,
    select_recipients,
)
from matrix_e2e_keys.client.trust.trust import DeviceTrust, device_trust
from matrix_e2e_keys.client.users.identity import IdentityState
from matrix_e2e_keys.client.users.known_user import KnownUser, LocalTrust
from matrix_e2e_keys.endpoints.client_server.keys_query import KeysQueryRequest, KeysQueryResponse
from matrix_e2e_keys.errors import LocalProtocolError, Reason, VerificationError
from matrix_e2e_keys.events.withheld import WithheldCode
from matrix_e2e_keys.models.device_keys import DeviceKeys
from matrix_e2e_keys.models.user_identity import OwnIdentity, UserIdentity
from matrix_e2e_keys.signing.signers import add_signature
from matrix_e2e_keys.testing.samples import SampleUser, keys_query_answer, sample_curve25519_key
from matrix_e2e_keys.testing.strategies import json_like_values

ME = SampleUser("@me:a.example")
BOB = SampleUser("@bob:b.example")
CAROL = SampleUser("@carol:c.example")

ALL, CROSS_SIGNED, VERIFIED, NO_VIOLATION = RecipientPolicy
IS, CODE, KIND, LOCAL = IdentityState, WithheldCode, ProblemKind, LocalTrust

OWN: OwnIdentity = UserIdentity.verify(
    master_key=ME.master_key, self_signing_key=ME.self_signing_key, user_signing_key=ME.user_signing_key
).confirm_as_own(master_key=ME.master_public_key)


@frozen(kw_only=True)
class D:
    """A device as it is to be."""

    name: str = "PHONE"
    signed: bool = True
    olm: bool = True
    dehydrated: bool = False
    local: LocalTrust = LocalTrust.UNSET

    def of(self, user: SampleUser) -> DeviceKeys:
        keys = DeviceKeys.build(
            user_id=user.user_id,
            device_id=self.name,
            curve25519_key=sample_curve25519_key(f"{user.user_id} {self.name}"),
            signer=user.device_signer(self.name),
            algorithms=[OLM_V1, MEGOLM_V1] if self.olm else ["m.other"],
            extra={"dehydrated": True} if self.dehydrated else None,
        )
        if not self.signed:
            return keys
        signer = user.secret("self_signing").cross_signer()
        return keys.with_signed(add_signature(keys.signed, entity=user.user_id, signer=signer))


def learn(
    known: Mapping[str, KnownUser], user: SampleUser, devices: Iterable[DeviceKeys], *, verified: bool
) -> Mapping[str, KnownUser]:
    body: dict[str, Any] = keys_query_answer([(user, devices)], viewer=ME.user_id)
    if verified:
        body["master_keys"][user.user_id] = ME.verified(user.master_key).to_json()
    own = OWN if user.user_id != ME.user_id or verified else None
    request = KeysQueryRequest.for_users([user.user_id])
    return check_query(request, KeysQueryResponse.from_json(body), own=own, known=known).known


def a_user(user: SampleUser, state: IdentityState, *devices: D) -> KnownUser:
    """What is known of a user, after answers that lead to a state."""
    before = SampleUser(user.user_id, user.generation + 1)
    known: Mapping[str, KnownUser] = {}
    if state is IS.UNKNOWN:
        body = {"device_keys": {user.user_id: {device.name: device.of(user).to_json() for device in devices}}}
        request = KeysQueryRequest.for_users([user.user_id])
        known = check_query(request, KeysQueryResponse.from_json(body), known={}).known
    else:
        keys = [device.of(user) for device in devices]
        if state in (IS.PIN_VIOLATION, IS.VERIFICATION_VIOLATION):
            known = learn(known, before, [], verified=False)
            if state is IS.VERIFICATION_VIOLATION:
                pin = known[user.user_id].pin.observe(before.master_public_key, vouched_for=True)
                known = {user.user_id: known[user.user_id].with_pin(pin)}
        known = learn(known, user, keys, verified=state in (IS.VERIFIED, IS.VERIFICATION_LOST))
        if state is IS.VERIFICATION_LOST:
            pin = known[user.user_id].pin.review(vouched_for=False)
            known = {user.user_id: known[user.user_id].with_pin(pin)}
    made = known[user.user_id]
    assert made.pin.state is state
    assert set(made.devices) == {device.name for device in devices}
    for device in devices:
        assert made.devices[device.name].is_cross_signed is (device.signed and state is not IS.UNKNOWN)
        made = made.with_trust(made.devices[device.name].ed25519_key, device.local)
    return made


ONE, TWO = D(name="ONE"), D(name="TWO")


def myself(state: IdentityState = IS.VERIFIED, *devices: D) -> KnownUser:
    return a_user(ME, state, *(devices or (ONE, TWO)))


def select(policy: RecipientPolicy, *users: KnownUser, ask: Iterable[str] = (), **options: Any) -> Recipients:
    """Select among users, oneself known as well unless told."""
    known = {user.user_id: user for user in (myself(), *users)}
    arguments: dict[str, Any] = {"own_user_id": ME.user_id, "own_device_id": "ONE", **options}
    return select_recipients([*(user.user_id for user in users), *ask], known=known, policy=policy, **arguments)


def outcome(recipients: Recipients, user_id: str = BOB.user_id, device_id: str = "PHONE") -> object:
    """``None`` if the device gets the key, the code if not, ``"stopped"`` if nobody does."""
    if recipients.is_stopped:
        assert recipients.devices == recipients.withheld == {}
        return "stopped"
    if device_id in recipients.devices.get(user_id, {}):
        assert device_id not in recipients.withheld.get(user_id, {})
        assert recipients.devices[user_id][device_id].device_id == device_id
        return None
    return recipients.withheld[user_id][device_id]


GETS, NOT_VERIFIED, STOPS = None, CODE.UNVERIFIED, "stopped"
IN_EACH = {
    "verified, cross-signed": (IS.VERIFIED, D(), (GETS, GETS, GETS, GETS)),
    "verified, added by the server": (IS.VERIFIED, D(signed=False), (GETS, NOT_VERIFIED, NOT_VERIFIED, STOPS)),
    "pinned, cross-signed": (IS.PINNED, D(), (GETS, GETS, NOT_VERIFIED, GETS)),
    "pinned, added by the server": (IS.PINNED, D(signed=False), (GETS, NOT_VERIFIED, NOT_VERIFIED, GETS)),
    "no identity": (IS.UNKNOWN, D(), (GETS, NOT_VERIFIED, NOT_VERIFIED, GETS)),
    "verification lost, cross-signed": (IS.VERIFICATION_LOST, D(), (GETS, GETS, NOT_VERIFIED, GETS)),
    "verification lost, added": (IS.VERIFICATION_LOST, D(signed=False), (GETS, NOT_VERIFIED, NOT_VERIFIED, STOPS)),
    "pin violated, cross-signed": (IS.PIN_VIOLATION, D(), (GETS, STOPS, NOT_VERIFIED, STOPS)),
    "pin violated, added": (IS.PIN_VIOLATION, D(signed=False), (GETS, STOPS, NOT_VERIFIED, STOPS)),
    "verification violated": (IS.VERIFICATION_VIOLATION, D(), (GETS, STOPS, NOT_VERIFIED, STOPS)),
    "no olm": (IS.VERIFIED, D(olm=False), (CODE.NO_OLM,) * 4),
    "no olm, added": (IS.PINNED, D(olm=False, signed=False), (CODE.NO_OLM,) * 4),
    "no olm, verified by hand": (IS.PINNED, D(olm=False, local=LOCAL.VERIFIED), (CODE.NO_OLM,) * 4),
    "no olm, blacklisted": (IS.PINNED, D(olm=False, local=LOCAL.BLACKLISTED), (CODE.BLACKLISTED,) * 4),
    "blacklisted, verified owner": (IS.VERIFIED, D(local=LOCAL.BLACKLISTED), (CODE.BLACKLISTED,) * 4),
    "blacklisted, added": (IS.VERIFIED, D(signed=False, local=LOCAL.BLACKLISTED), (CODE.BLACKLISTED,) * 4),
    "blacklisted, pin violated": (
        IS.PIN_VIOLATION,
        D(local=LOCAL.BLACKLISTED),
        (CODE.BLACKLISTED, STOPS, CODE.BLACKLISTED, STOPS),
    ),
    "verified by hand, added": (IS.VERIFIED, D(signed=False, local=LOCAL.VERIFIED), (GETS,) * 4),
    "verified by hand, no identity": (IS.UNKNOWN, D(local=LOCAL.VERIFIED), (GETS,) * 4),
    "verified by hand, pin violated": (IS.PIN_VIOLATION, D(local=LOCAL.VERIFIED), (GETS, STOPS, GETS, STOPS)),
    "ignored, added": (IS.VERIFIED, D(signed=False, local=LOCAL.IGNORED), (GETS,) * 4),
    "ignored, no identity": (IS.UNKNOWN, D(local=LOCAL.IGNORED), (GETS,) * 4),
    "dehydrated, cross-signed": (IS.PINNED, D(dehydrated=True), (GETS, GETS, NOT_VERIFIED, GETS)),
    "dehydrated, verified": (IS.VERIFIED, D(dehydrated=True), (GETS,) * 4),
    "dehydrated, added": (IS.PINNED, D(dehydrated=True, signed=False), (NOT_VERIFIED,) * 4),
    "dehydrated, no identity": (IS.UNKNOWN, D(dehydrated=True), (NOT_VERIFIED,) * 4),
    "dehydrated, pin violated": (IS.PIN_VIOLATION, D(dehydrated=True), (NOT_VERIFIED, STOPS, NOT_VERIFIED, STOPS)),
    "dehydrated, verified by hand": (
        IS.PINNED,
        D(dehydrated=True, signed=False, local=LOCAL.VERIFIED),
        (GETS,) * 4,
    ),
    "dehydrated, ignored": (IS.PINNED, D(dehydrated=True, signed=False, local=LOCAL.IGNORED), (GETS,) * 4),
    "dehydrated, blacklisted": (IS.VERIFIED, D(dehydrated=True, local=LOCAL.BLACKLISTED), (CODE.BLACKLISTED,) * 4),
}


class TestEachDeviceUnderEachPolicy:
    @pytest.mark.parametrize("policy", RecipientPolicy)
    @pytest.mark.parametrize("case", IN_EACH)
    def test_gets_the_key_or_is_told_why_not(self, case: str, policy: RecipientPolicy) -> None:
        """Attack 35: what a server adds gets nothing where keys go to cross-signed or verified devices only."""
        state, device, expected = IN_EACH[case]
        assert outcome(select(policy, a_user(BOB, state, device))) == expected[list(RecipientPolicy).index(policy)]

    def test_devices_beside_each_other_each_get_their_own_answer(self) -> None:
        bob = a_user(BOB, IS.VERIFIED, D(), D(name="EVIL", signed=False), D(name="OLD", olm=False))
        carol = a_user(CAROL, IS.PINNED, D(), D(name="LOST", local=LOCAL.BLACKLISTED))
        result = select(VERIFIED, bob, carol)
        assert {user_id: set(of) for user_id, of in result.devices.items()} == {BOB.user_id: {"PHONE"}}
        assert result.devices[BOB.user_id]["PHONE"] is bob.devices["PHONE"]
        assert result.withheld == {
            BOB.user_id: {"EVIL": CODE.UNVERIFIED, "OLD": CODE.NO_OLM},
            CAROL.user_id: {"PHONE": CODE.UNVERIFIED, "LOST": CODE.BLACKLISTED},
        }

    def test_a_user_without_devices(self) -> None:
        result = select(ALL, a_user(BOB, IS.VERIFIED))
        assert (result.devices, result.withheld, result.unknown) == ({}, {}, frozenset())


class TestOneself:
    @pytest.mark.parametrize("policy", RecipientPolicy)
    def test_nothing_is_sent_to_this_device_and_the_key_to_the_others(self, policy: RecipientPolicy) -> None:
        result = select(policy, ask=[ME.user_id])
        assert {user_id: set(of) for user_id, of in result.devices.items()} == {ME.user_id: {"TWO"}}
        assert (result.withheld, result.problems) == ({}, ())

    def test_another_users_device_of_the_same_id_is_another(self) -> None:
        assert outcome(select(ALL, a_user(BOB, IS.PINNED, ONE)), device_id="ONE") is GETS

    def test_ones_other_devices_get_nothing_if_one_is_not_asked_about(self) -> None:
        assert select(ALL).devices == {}

    @pytest.mark.parametrize(
        ("policy", "expected"), [(ALL, GETS), (CROSS_SIGNED, NOT_VERIFIED), (VERIFIED, NOT_VERIFIED)]
    )
    def test_a_device_that_the_server_has_added_to_ones_own(self, policy: RecipientPolicy, expected: object) -> None:
        """Attack 35: one's own account is no exception."""
        me = myself(IS.VERIFIED, ONE, D(name="EVIL", signed=False))
        result = select(policy, me)
        assert outcome(result, ME.user_id, "EVIL") == expected
        assert result.problems == (
            RecipientProblem(
                kind=KIND.DEVICES_NOT_CROSS_SIGNED, user_id=ME.user_id, device_ids=frozenset(["EVIL"]), stops=False
            ),
        )
        assert select(NO_VIOLATION, me).is_stopped

    @pytest.mark.parametrize("policy", RecipientPolicy)
    @pytest.mark.parametrize("state", [IS.PIN_VIOLATION, IS.VERIFICATION_VIOLATION])
    def test_somebody_has_reset_ones_own_identity(self, policy: RecipientPolicy, state: IdentityState) -> None:
        """Attacks 32 and 33: all verification rests on one's own identity; nothing goes to Bob on its strength."""
        bob = a_user(BOB, IS.VERIFIED, D())
        me = myself(state)
        known = {BOB.user_id: bob, ME.user_id: me}
        result = select_recipients(
            [BOB.user_id], known=known, policy=policy, own_user_id=ME.user_id, own_device_id="ONE"
        )
        assert result.problems == (
            RecipientProblem(kind=KIND.IDENTITY_CHANGED, user_id=ME.user_id, stops=policy is not ALL),
        )
        assert outcome(result) == (GETS if policy is ALL else STOPS)

    def test_a_problem_of_ones_own_is_named_once(self) -> None:
        result = select(ALL, myself(IS.PIN_VIOLATION), ask=[ME.user_id])
        assert [problem.kind for problem in result.problems] == [KIND.IDENTITY_CHANGED]

    @pytest.mark.parametrize("policy", RecipientPolicy)
    def test_this_device_is_not_cross_signed(self, policy: RecipientPolicy) -> None:
        me = myself(IS.VERIFIED, D(name="ONE", signed=False), TWO)
        expected = RecipientProblem(
            kind=KIND.OWN_DEVICE_NOT_CROSS_SIGNED, user_id=ME.user_id, device_ids=frozenset(["ONE"]), stops=False
        )
        result = select(policy, me, a_user(BOB, IS.VERIFIED, D()))
        assert result.problems == ((expected,) if policy is CROSS_SIGNED else ())
        assert outcome(result) is GETS
        assert result.require() is result

    @pytest.mark.parametrize("known", [{}, {ME.user_id: KnownUser(user_id=ME.user_id)}])
    def test_this_device_is_not_known(self, known: dict[str, KnownUser]) -> None:
        result = select_recipients([], known=known, policy=CROSS_SIGNED, own_user_id=ME.user_id, own_device_id="ONE")
        assert [problem.kind for problem in result.problems] == [KIND.OWN_DEVICE_NOT_CROSS_SIGNED]


class TestProblems:
    @pytest.mark.parametrize("state", [IS.PIN_VIOLATION, IS.VERIFICATION_VIOLATION])
    @pytest.mark.parametrize("policy", RecipientPolicy)
    def test_a_changed_identity(self, policy: RecipientPolicy, state: IdentityState) -> None:
        """Attack 33: it is named under every policy, and stops all that do not look at verification alone."""
        stops = policy in (CROSS_SIGNED, NO_VIOLATION)
        result = select(policy, a_user(CAROL, IS.VERIFIED, D()), a_user(BOB, state, D()))
        assert result.problems == (RecipientProblem(kind=KIND.IDENTITY_CHANGED, user_id=BOB.user_id, stops=stops),)
        assert outcome(result, CAROL.user_id) == (STOPS if stops else GETS)

    def test_until_it_is_accepted(self) -> None:
        """Attack 33."""
        bob = a_user(BOB, IS.PIN_VIOLATION, D())
        accepted = bob.with_pin(bob.pin.accept(BOB.master_public_key))
        for policy in (CROSS_SIGNED, NO_VIOLATION):
            result = select(policy, accepted)
            assert (outcome(result), result.problems) == (GETS, ())

    @pytest.mark.parametrize("policy", RecipientPolicy)
    def test_a_device_id_that_is_also_a_key(self, policy: RecipientPolicy) -> None:
        """Attack 25: it is named under every policy."""
        bob = evolve(a_user(BOB, IS.VERIFIED, D()), collision="COLLIDING")
        stops = policy in (CROSS_SIGNED, NO_VIOLATION)
        result = select(policy, bob)
        assert result.problems == (
            RecipientProblem(
                kind=KIND.IDENTIFIER_COLLISION,
                user_id=BOB.user_id,
                device_ids=frozenset(["COLLIDING"]),
                stops=stops,
            ),
        )
        assert outcome(result) == (STOPS if stops else GETS)

    @pytest.mark.parametrize("policy", RecipientPolicy)
    def test_devices_that_a_verified_user_did_not_sign(self, policy: RecipientPolicy) -> None:
        bob = a_user(
            BOB,
            IS.VERIFIED,
            D(),
            D(name="X", signed=False),
            D(name="Y", signed=False, olm=False),
            *[D(name=str(it), signed=False, local=it) for it in LocalTrust if it is not LOCAL.UNSET],
        )
        result = select(policy, bob)
        assert result.problems == (
            RecipientProblem(
                kind=KIND.DEVICES_NOT_CROSS_SIGNED,
                user_id=BOB.user_id,
                device_ids=frozenset(["X", "Y"]),
                stops=policy is NO_VIOLATION,
            ),
        )

    def test_a_device_of_somebody_else_is_not_this_one_for_having_its_id(self) -> None:
        (problem,) = select(NO_VIOLATION, a_user(BOB, IS.VERIFIED, D(name="ONE", signed=False))).problems
        assert (problem.user_id, problem.device_ids) == (BOB.user_id, {"ONE"})

    @pytest.mark.parametrize("state", [IS.UNKNOWN, IS.PINNED])
    def test_devices_that_somebody_else_did_not_sign_are_no_problem(self, state: IdentityState) -> None:
        for policy in RecipientPolicy:
            assert select(policy, a_user(BOB, state, D(signed=False))).problems == ()

    def test_of_users_one_did_not_ask_about_are_not_named(self) -> None:
        bob = a_user(BOB, IS.PIN_VIOLATION, D())
        known = {BOB.user_id: bob, ME.user_id: myself()}
        result = select_recipients(
            [CAROL.user_id], known=known, policy=NO_VIOLATION, own_user_id=ME.user_id, own_device_id="ONE"
        )
        assert (result.problems, result.unknown) == ((), {CAROL.user_id})

    def test_ones_own_come_first(self) -> None:
        result = select(ALL, a_user(BOB, IS.PIN_VIOLATION), myself(IS.PIN_VIOLATION), a_user(CAROL, IS.PIN_VIOLATION))
        assert [problem.user_id for problem in result.problems] == [ME.user_id, BOB.user_id, CAROL.user_id]


class TestRequire:
    def test_returns_what_is_not_stopped(self) -> None:
        result = select(VERIFIED, a_user(BOB, IS.PIN_VIOLATION, D()))
        assert result.problems
        assert not result.is_stopped
        assert result.require() is result

    @pytest.mark.parametrize(
        ("bob", "reason"),
        [
            (a_user(BOB, IS.PIN_VIOLATION, D()), Reason.IDENTITY_CHANGED),
            (evolve(a_user(BOB, IS.PINNED, D()), collision="COLLIDING"), Reason.IDENTIFIER_COLLISION),
            (a_user(BOB, IS.VERIFIED, D(signed=False)), Reason.UNVERIFIED_DEVICE),
        ],
    )
    def test_raises_what_stops_it(self, bob: KnownUser, reason: Reason) -> None:
        result = select(NO_VIOLATION, bob, a_user(CAROL, IS.VERIFIED, D()))
        assert result.is_stopped
        assert result.devices == result.withheld == {}
        with pytest.raises(VerificationError) as caught:
            result.require()
        assert caught.value.reason is reason
        assert repr(BOB.user_id) in caught.value.detail
        assert result.problems[0].kind in caught.value.detail

    def test_raises_the_first_that_stops(self) -> None:
        problems = [
            RecipientProblem(kind=KIND.IDENTITY_CHANGED, user_id="@1:a", stops=False),
            RecipientProblem(kind=KIND.IDENTIFIER_COLLISION, user_id="@2:a", stops=True),
            RecipientProblem(kind=KIND.DEVICES_NOT_CROSS_SIGNED, user_id="@3:a", stops=True),
        ]
        result = evolve(select(ALL), problems=tuple(problems))
        with pytest.raises(VerificationError, match="@2:a"):
            result.require()

    @pytest.mark.parametrize("kind", ProblemKind)
    def test_has_a_reason_for_each_kind(self, kind: ProblemKind) -> None:
        result = evolve(select(ALL), problems=(RecipientProblem(kind=kind, user_id=BOB.user_id, stops=True),))
        with pytest.raises(VerificationError):
            result.require()


class TestWhoIsNotKnown:
    def test_unknown_and_outdated(self) -> None:
        result = select(
            ALL,
            a_user(BOB, IS.PINNED, D()),
            ask=[CAROL.user_id, CAROL.user_id],
            outdated={BOB.user_id, CAROL.user_id, "@else:where.example"},
        )
        assert (result.unknown, result.outdated) == ({CAROL.user_id}, {BOB.user_id, CAROL.user_id})
        assert set(result.devices) == {BOB.user_id}

    @pytest.mark.parametrize("outdated", [{BOB.user_id: 1}.keys(), {BOB.user_id}, frozenset([BOB.user_id])])
    def test_any_set_will_do(self, outdated: Any) -> None:
        result = select(ALL, a_user(BOB, IS.PINNED, D()), outdated=outdated)
        assert type(result.outdated) is frozenset
        assert type(result.unknown) is frozenset
        assert result.outdated == {BOB.user_id}

    def test_nobody_is_asked_about(self) -> None:
        result = select(ALL)
        assert (result.devices, result.withheld, result.problems) == ({}, {}, ())
        assert (result.unknown, result.outdated, result.is_stopped) == (frozenset(), frozenset(), False)

    def test_they_are_told_even_if_the_policy_stops(self) -> None:
        result = select(NO_VIOLATION, a_user(BOB, IS.PIN_VIOLATION, D()), ask=[CAROL.user_id], outdated={BOB.user_id})
        assert (result.is_stopped, result.unknown, result.outdated) == (True, {CAROL.user_id}, {BOB.user_id})

    def test_nobody_can_change_the_result(self) -> None:
        result = select(ALL, a_user(BOB, IS.PINNED, D(), D(name="BAD", local=LOCAL.BLACKLISTED)))
        for by_user in (result.devices, result.withheld):
            changeable: Any = by_user
            with pytest.raises(TypeError):
                changeable[CAROL.user_id] = {}
            with pytest.raises(TypeError):
                del changeable[BOB.user_id]["PHONE"]


# --------------------------------------------------------------------------------------------------------------
# Properties
# --------------------------------------------------------------------------------------------------------------

devices = st.lists(
    st.builds(
        D,
        name=st.sampled_from(["ONE", "TWO", "PHONE"]),
        signed=st.booleans(),
        olm=st.sampled_from([True, True, False]),
        dehydrated=st.sampled_from([False, False, True]),
        local=st.sampled_from([LOCAL.UNSET, LOCAL.UNSET, *LocalTrust]),
    ),
    max_size=3,
    unique_by=lambda device: device.name,
)


def users(user: SampleUser) -> st.SearchStrategy[KnownUser]:
    return st.builds(lambda state, of: a_user(user, state, *of), st.sampled_from(IdentityState), devices)


worlds = st.tuples(users(ME), users(BOB), users(CAROL)).map(lambda it: {user.user_id: user for user in it})


def pairs(by_user: Mapping[str, Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(user_id, device_id) for user_id, of in by_user.items() for device_id in of}


@given(worlds)
def test_no_policy_forgets_a_device_or_names_it_twice(known: dict[str, KnownUser]) -> None:
    everybody = pairs({user_id: user.devices for user_id, user in known.items()}) - {(ME.user_id, "ONE")}
    got: dict[RecipientPolicy, set[tuple[str, str]]] = {}
    for policy in RecipientPolicy:
        result = select_recipients(known, known=known, policy=policy, own_user_id=ME.user_id, own_device_id="ONE")
        sent, withheld = pairs(result.devices), pairs(result.withheld)
        assert not sent & withheld
        assert sent | withheld == (set() if result.is_stopped else everybody)
        assert result.is_stopped is any(problem.stops for problem in result.problems)
        for user_id, device_id in sent:
            user = known[user_id]
            assert user.trust_of(device_id) is not LOCAL.BLACKLISTED
            assert user.devices[device_id].supports_olm
            by_hand = user.trust_of(device_id) in (LOCAL.VERIFIED, LOCAL.IGNORED)
            if policy is VERIFIED:
                assert by_hand or device_trust(user, device_id) is DeviceTrust.VERIFIED
            if policy is CROSS_SIGNED:
                assert by_hand or user.devices[device_id].is_cross_signed
                assert not user.pin.needs_approval
            if user.devices[device_id].keys.is_dehydrated:
                assert by_hand or user.devices[device_id].is_cross_signed
        if not result.is_stopped:
            got[policy] = sent
    assert ALL in got
    for policy, sent in got.items():
        assert sent <= got[ALL]
        if policy is VERIFIED and CROSS_SIGNED in got:
            assert sent <= got[CROSS_SIGNED]
        if policy is NO_VIOLATION:
            assert sent == got[ALL]


class TestWrongTypes:
    @given(json_like_values())
    def test_for_every_argument(self, value: Any) -> None:
        good: dict[str, Any] = {
            "user_ids": [BOB.user_id],
            "known": {ME.user_id: KnownUser(user_id=ME.user_id)},
            "policy": ALL,
            "own_user_id": ME.user_id,
            "own_device_id": "ONE",
            "outdated": frozenset(),
        }
        for name, usual in good.items():
            if value == usual or (name.startswith("own_") and type(value) is str):
                continue
            if name in ("known", "user_ids") and value in ({}, [], (), b""):
                continue
            arguments = {**good, name: value}
            with pytest.raises(LocalProtocolError) as caught:
                select_recipients(arguments.pop("user_ids"), **arguments)
            assert caught.value.path.startswith(f"/{name}")

    @pytest.mark.parametrize("policy", [*map(str, RecipientPolicy), None, RecipientPolicy])
    def test_a_policy_has_to_be_named_as_one(self, policy: Any) -> None:
        """Attack 35: there is no policy that nobody knows, and none by default."""
        with pytest.raises(LocalProtocolError) as caught:
            select(policy)
        assert (caught.value.reason, caught.value.path) == (Reason.WRONG_TYPE, "/policy")

    def test_users_under_the_name_of_others(self) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            select_recipients(
                [], known={BOB.user_id: myself()}, policy=ALL, own_user_id=ME.user_id, own_device_id="ONE"
            )
        assert (caught.value.reason, caught.value.path) == (Reason.USER_ID_MISMATCH, "/known/@bob:b.example")
