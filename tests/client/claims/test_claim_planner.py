"""Claims: who is asked for a key, when, what becomes of it; and answers in any order, twice, late or never."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import (
    ClaimResult,
    Curve25519PublicKey,
    DeviceKeys,
    E2EKeysError,
    KeysClaimResponse,
    LocalProtocolError,
    OneTimeKey,
    Reason,
    VerifiedDevice,
    VerifiedOneTimeKey,
    check_claim,
)
from matrix_e2e_keys.client.claims.claim_planner import ClaimPlanner, OutgoingClaim
from matrix_e2e_keys.signing.verifiers import LIBSODIUM
from matrix_e2e_keys.testing.samples import SampleUser, sample_curve25519_key, sample_secret_key
from matrix_e2e_keys.testing.strategies import json_like_values

HOUR = 3_600_000

Name = tuple[str, str]


def device(name: Name, generation: int = 0, *, curve: int = 0, **arguments: Any) -> VerifiedDevice:
    """A device; another generation has another ed25519 key, another curve another curve25519 key."""
    user_id, device_id = name
    return DeviceKeys.build(
        user_id=user_id,
        device_id=device_id,
        curve25519_key=sample_curve25519_key(f"{name} {generation} {curve}"),
        signer=sample_secret_key(f"{name} {generation}").signer(f"ed25519:{device_id}"),
        **arguments,
    ).verify()


X: Name = ("@bob:b.example", "X")
Y: Name = ("@bob:b.example", "Y")
DAVE: Name = ("@dave:b.example", "X")
CAROL: Name = ("@carol:c.example", "X")
D = {name: device(name) for name in (X, Y, DAVE, CAROL)}
NO_OLM: Name = ("@old:b.example", "OLD")
WITHOUT_OLM = device(NO_OLM, algorithms=["m.megolm.v1.aes-sha2"])

_numbers = itertools.count()


def one_time_key(
    of: VerifiedDevice, generation: int = 0, *, name: str | None = None, fallback: bool = False
) -> OneTimeKey:
    """A key that the device has signed, a fresh one unless it is named."""
    name = name or f"fresh {next(_numbers)}"
    signer = sample_secret_key(f"{(of.user_id, of.device_id)} {generation}").signer(f"ed25519:{of.device_id}")
    return OneTimeKey.build(
        key_id="signed_curve25519:A",
        key=sample_curve25519_key(name),
        user_id=of.user_id,
        signer=signer,
        fallback=fallback,
    )


def judged(
    claim: OutgoingClaim,
    *,
    without: Iterable[Name] = (),
    failed: Iterable[str] = (),
    keys: Mapping[Name, OneTimeKey] | None = None,
    malformed: Iterable[Name] = (),
    was_used: Callable[[Curve25519PublicKey], bool] | None = None,
    generation: int = 0,
) -> ClaimResult:
    """What an answer amounts to: everybody has a fresh key, except as told."""
    given_keys = keys or {}
    body: dict[str, dict[str, Any]] = {}
    for user_id, of in claim.devices.items():
        for device_id, asked in of.items():
            name = (user_id, device_id)
            if name in malformed:
                body.setdefault(user_id, {})[device_id] = None
            elif name not in without:
                key = given_keys.get(name) or one_time_key(asked, generation)
                body.setdefault(user_id, {})[device_id] = {"signed_curve25519:A": key.to_json()}
    answer = KeysClaimResponse.from_json({"one_time_keys": body, "failures": {server: {} for server in failed}})
    return check_claim(claim.request, answer, devices=claim.devices, was_used=was_used)


def names(keys: Mapping[str, Iterable[str]] | None) -> set[Name]:
    return {(user_id, device_id) for user_id, of in (keys or {}).items() for device_id in of}


def asked(claim: OutgoingClaim | None) -> set[Name] | None:
    """Whom a claim asks for."""
    if claim is None:
        return None
    assert {user_id: list(of) for user_id, of in claim.request.asked.items()} == {
        user_id: list(of) for user_id, of in claim.devices.items()
    }
    return names(claim.request.asked)


def planner(*wanted: Name) -> ClaimPlanner:
    made = ClaimPlanner()
    made.want(D[name] for name in wanted)
    return made


def claim_of(made: ClaimPlanner, now: int = 0, **arguments: Any) -> OutgoingClaim:
    claim = made.next_claim(now, **arguments)
    assert claim is not None
    return claim


def obtain(made: ClaimPlanner, now: int = 0, **arguments: Any) -> Mapping[str, Mapping[str, VerifiedOneTimeKey]]:
    """Claim, and be answered."""
    claim = claim_of(made, now)
    return made.receive_result(claim.claim_id, judged(claim, **arguments), now)


class TestWhoIsWanted:
    def test_until_a_session_is_opened(self) -> None:
        made = planner(X, Y)
        assert made.wanted == {X, Y}
        assert names(obtain(made)) == {X, Y}
        assert made.wanted == {X, Y}
        made.session_opened(D[X])
        assert made.wanted == {Y}
        made.session_opened(D[X])
        made.session_opened(D[Y])
        assert (made.wanted, made.next_claim(10**9)) == (frozenset(), None)

    def test_until_it_is_unwanted(self) -> None:
        made = planner(X, Y)
        made.unwant([X, CAROL, ("nobody", "\ud800")])
        assert made.wanted == {Y}
        assert asked(made.next_claim(0)) == {Y}

    def test_wanting_again_changes_nothing(self) -> None:
        made = planner(X, Y)
        obtain(made, without=[Y])
        made.want([D[X], D[Y]])
        assert made.wanted == {X, Y}
        assert (made.next_claim(14_999), made.next_claim_at()) == (None, 15_000)

    def test_a_session_that_the_device_began_will_do(self) -> None:
        made = planner(X, Y)
        claim = claim_of(made)
        made.session_opened(D[X])
        assert names(made.receive_result(claim.claim_id, judged(claim), 0)) == {Y}

    def test_what_is_claimed(self) -> None:
        made = planner(DAVE, Y, CAROL, X)
        claim = claim_of(made)
        assert claim.request.to_json() == {
            "one_time_keys": {
                "@bob:b.example": {"X": "signed_curve25519", "Y": "signed_curve25519"},
                "@carol:c.example": {"X": "signed_curve25519"},
                "@dave:b.example": {"X": "signed_curve25519"},
            },
            "timeout": 10_000,
        }
        assert list(claim.request.one_time_keys) == ["@bob:b.example", "@carol:c.example", "@dave:b.example"]
        assert list(claim.request.one_time_keys["@bob:b.example"]) == ["X", "Y"]
        assert claim.devices["@dave:b.example"]["X"] is D[DAVE]

    def test_the_server_may_choose_how_long_it_waits(self) -> None:
        assert claim_of(planner(X), timeout_ms=None).request.timeout is None
        assert claim_of(planner(X), timeout_ms=0).request.timeout == 0


class TestWithoutOlm:
    @pytest.mark.parametrize("algorithms", [[], ["m.megolm.v1.aes-sha2"]])
    def test_is_never_asked_for(self, algorithms: list[str]) -> None:
        made = planner(X)
        without = device(NO_OLM, algorithms=algorithms)
        made.want([without])
        assert (made.wanted, made.without_session) == ({X, NO_OLM}, {NO_OLM})
        assert asked(made.next_claim(0)) == {X}
        assert (made.next_claim(0), made.next_claim_at()) == (None, None)
        assert not made.renew(without, 0)
        made.unwant([NO_OLM])
        assert made.without_session == frozenset()
        assert not made.renew(without, 0)
        assert made.wanted == {X}

    def test_who_learns_it_is_asked_for(self) -> None:
        made = ClaimPlanner()
        made.want([WITHOUT_OLM])
        able = device(NO_OLM)
        made.want([able])
        assert claim_of(made).devices[NO_OLM[0]][NO_OLM[1]] is able
        assert made.without_session == frozenset()


class TestOneKeyAtATime:
    def test_nobody_is_claimed_twice_in_flight(self) -> None:
        made = planner(X, Y, CAROL)
        first, second = claim_of(made, max_devices=2), claim_of(made, max_devices=2)
        assert (asked(first), asked(second)) == ({X, Y}, {CAROL})
        assert (made.next_claim(0), made.next_claim_at()) == (None, None)
        made.unwant([X])
        made.want([D[X]])
        assert made.next_claim(0) is None
        assert names(made.receive_result(first.claim_id, judged(first), 0)) == {X, Y}

    def test_500_devices_at_a_time(self) -> None:
        made = ClaimPlanner()
        many = SampleUser("@many:b.example")
        made.want(many.device(f"D{number}").verify() for number in range(501))
        assert len(asked(made.next_claim(0)) or ()) == 500
        assert len(asked(made.next_claim(0)) or ()) == 1
        assert made.next_claim(0) is None

    def test_nothing_is_claimed_while_nothing_was_said_of_a_key(self) -> None:
        made = planner(X)
        assert names(obtain(made)) == {X}
        made.want([D[X]])
        assert (made.next_claim(10**9), made.next_claim_at()) == (None, None)
        made.session_failed(D[X], 10**9)
        assert made.next_claim_at() == 10**9 + 15_000

    def test_who_is_unwanted_settles_a_key(self) -> None:
        made = planner(X)
        obtain(made)
        made.unwant([X])
        made.session_failed(D[X], 0)
        made.want([D[X]])
        made.session_failed(D[X], 0)
        assert asked(made.next_claim(0)) == {X}

    def test_an_answer_counts_once(self) -> None:
        made = planner(X)
        claim = claim_of(made)
        result = judged(claim)
        assert names(made.receive_result(claim.claim_id, result, 0)) == {X}
        for claim_id in (claim.claim_id, 999, -1):
            assert made.receive_result(claim_id, result, 0) == {}
        made.receive_failure(claim.claim_id, 0)
        made.want([D[Y]])
        assert made.next_claim_at() is not None
        assert asked(made.next_claim(0)) == {Y}

    def test_an_answer_that_counts_no_more_resets_no_delay(self) -> None:
        made = planner(X, Y)
        first, second = claim_of(made, max_devices=1), claim_of(made, max_devices=1)
        made.receive_result(first.claim_id, judged(first), 0)
        made.receive_failure(second.claim_id, 0, retry_after_ms=1)
        made.receive_result(first.claim_id, judged(first), 0)
        assert made.next_claim_at() == 15_000

    def test_who_is_not_wanted_any_more_gets_no_key(self) -> None:
        made = planner(X, Y)
        claim = claim_of(made)
        made.unwant([X])
        result = judged(claim)
        assert names(made.receive_result(claim.claim_id, result, 0)) == {Y}
        unused = result.keys.accepted[X[0]][X[1]]
        assert not made.was_used(unused.public_key)

    def test_what_is_given_cannot_be_changed(self) -> None:
        made = planner(X)
        claim: Any = claim_of(made)
        keys: Any = made.receive_result(claim.claim_id, judged(claim), 0)
        for mapping in (claim.devices, claim.devices[X[0]], keys, keys[X[0]]):
            with pytest.raises(TypeError):
                mapping["x"] = None


OTHER_KEYS = {
    "both": (device(X, 1), 1),
    "ed25519": (
        DeviceKeys.build(
            user_id=X[0],
            device_id=X[1],
            curve25519_key=sample_curve25519_key(f"{X} 0 0"),
            signer=sample_secret_key(f"{X} 1").signer("ed25519:X"),
        ).verify(),
        1,
    ),
    "curve25519": (device(X, 0, curve=1), 0),
}


class TestChangedKeys:
    @pytest.mark.parametrize("which", OTHER_KEYS)
    def test_a_key_for_the_older_is_none_for_the_newer(self, which: str) -> None:
        newer, generation = OTHER_KEYS[which]
        made = planner(X, Y)
        older_claim = claim_of(made)
        made.want([newer])
        assert made.wanted == {X, Y}
        assert made.next_claim(0) is None  # nobody is claimed twice in flight
        assert names(made.receive_result(older_claim.claim_id, judged(older_claim), 0)) == {Y}
        assert made.without_session == frozenset()
        claim = claim_of(made)
        assert claim.devices == {X[0]: {X[1]: newer}}
        keys = made.receive_result(claim.claim_id, judged(claim, generation=generation), 0)
        assert keys[X[0]][X[1]].device is newer

    @pytest.mark.parametrize("which", OTHER_KEYS)
    def test_nor_if_it_was_judged_by_the_newer(self, which: str) -> None:
        newer, generation = OTHER_KEYS[which]
        made = planner(X)
        claim = claim_of(made)
        answer = KeysClaimResponse.from_json(
            {"one_time_keys": {X[0]: {X[1]: {"signed_curve25519:A": one_time_key(newer, generation).to_json()}}}}
        )
        result = check_claim(claim.request, answer, devices={X[0]: {X[1]: newer}})
        assert names(result.keys.accepted) == {X}
        twin = copy.deepcopy(made)
        twin.want([newer])
        assert twin.receive_result(claim.claim_id, result, 0) == {}
        assert asked(twin.next_claim(0)) == {X}
        assert made.receive_result(claim.claim_id, result, 0) == {}
        assert (made.without_session, made.next_claim_at()) == ({X}, 15_000)

    def test_a_new_device_owes_nothing(self) -> None:
        made = planner(X)
        obtain(made)
        newer = device(X, 1)
        made.want([newer])
        for call in (made.session_opened, lambda older: made.session_failed(older, 0)):
            call(D[X])
            assert (made.wanted, made.without_session) == ({X}, frozenset())
        claim = claim_of(made)
        made.receive_result(claim.claim_id, judged(claim, without=[X]), 0)
        assert (made.without_session, made.next_claim_at()) == ({X}, 15_000)
        made.want([device(X, 2)])
        assert (made.without_session, made.next_claim(0) is None) == (frozenset(), False)

    def test_other_signatures_are_no_other_keys(self) -> None:
        made = planner(X)
        claim = claim_of(made)
        signed_anew = device(X, extra={"weight": 5})
        made.want([signed_anew])
        keys = made.receive_result(claim.claim_id, judged(claim), 0)
        assert names(keys) == {X}
        made.session_failed(signed_anew, 0)
        assert claim_of(made, 15_000).devices[X[0]][X[1]] is signed_anew

    def test_the_last_of_several_counts(self) -> None:
        made = ClaimPlanner()
        made.want([device(X, 1), D[X]])
        assert claim_of(made).devices == {X[0]: {X[1]: D[X]}}


class TestDelays:
    def test_a_server_that_fails_delays_its_own_users(self) -> None:
        made = planner(X, CAROL)
        assert names(obtain(made, 1000, without=[X], failed=["b.example"])) == {CAROL}
        assert made.without_session == {X}
        made.want([D[Y], D[DAVE]])
        assert (made.next_claim(15_999), made.next_claim_at()) == (None, 16_000)
        assert names(obtain(made, 16_000, without=[X, Y, DAVE], failed=["b.example"])) == set()
        assert made.next_claim_at() == 46_000
        assert names(obtain(made, 46_000)) == {X, Y, DAVE}
        made.session_opened(D[Y])
        made.want([D[Y]])
        assert made.next_claim_at() is not None
        assert names(obtain(made, 46_000, without=[Y], failed=["b.example"])) == set()
        assert made.next_claim_at() == 61_000

    def test_a_server_that_fails_for_some_has_failed(self) -> None:
        made = planner(X, Y, DAVE)
        assert names(obtain(made, without=[Y, DAVE], failed=["b.example"])) == {X}
        assert (made.next_claim(14_999), made.next_claim_at()) == (None, 15_000)

    def test_a_server_that_was_not_reached_says_nothing_of_its_devices(self) -> None:
        made = planner(X, Y)
        first, second = claim_of(made, max_devices=1), claim_of(made, max_devices=1)
        made.receive_result(first.claim_id, judged(first, without=[X], failed=["b.example"]), 0)
        assert made.next_claim_at() == 15_000
        made.receive_result(second.claim_id, judged(second), 1)
        assert asked(made.next_claim(1)) == {X}

    def test_the_first_that_is_ready_is_not_kept_waiting(self) -> None:
        made = planner(X, CAROL)
        first, second = claim_of(made, max_devices=1), claim_of(made, max_devices=1)
        made.receive_result(second.claim_id, judged(second, without=[CAROL]), 0)
        made.receive_result(first.claim_id, judged(first, without=[X]), 5000)
        assert made.next_claim_at() == 15_000
        assert asked(made.next_claim(15_000)) == {CAROL}
        assert made.next_claim_at() == 20_000

    def test_that_a_device_has_no_key_left_is_an_answer_of_its_server(self) -> None:
        made = planner(X, Y)
        obtain(made, without=[X, Y], failed=["b.example"])
        obtain(made, 15_000, without=[X, Y])
        made.want([D[DAVE]])
        assert asked(made.next_claim(15_000)) == {DAVE}
        made.session_opened(D[X])
        made.want([D[X]])
        claim = claim_of(made, 15_000)
        assert asked(claim) == {X}
        made.receive_result(claim.claim_id, judged(claim, without=[X], failed=["b.example"]), 15_000)
        assert made.next_claim_at() == 30_000

    @pytest.mark.parametrize("how", ["without", "malformed", "used"])
    def test_a_device_without_a_good_key_delays_itself(self, how: str) -> None:
        made = planner(X, Y, CAROL)
        key = one_time_key(D[X], name="used")
        assert key.public_key is not None
        used = {key.public_key}
        arguments: Any = {"keys": {X: key}, "was_used": used.__contains__} if how == "used" else {how: [X]}
        assert names(obtain(made, **arguments)) == {Y, CAROL}
        assert made.without_session == {X}
        assert (made.next_claim(14_999), made.next_claim_at()) == (None, 15_000)
        assert names(obtain(made, 15_000, **arguments)) == set()
        assert made.next_claim_at() == 45_000
        assert names(obtain(made, 45_000)) == {X}
        assert made.without_session == frozenset()

    def test_an_answer_that_says_nothing_delays_everybody_it_was_about(self) -> None:
        made = planner(X, Y)
        claim = claim_of(made)
        result = check_claim(
            claim.request, KeysClaimResponse.from_json({"one_time_keys": 5, "failures": 5}), devices=claim.devices
        )
        assert made.receive_result(claim.claim_id, result, 0) == {}
        assert made.without_session == {X, Y}
        assert made.next_claim_at() == 15_000
        made.want([D[DAVE]])
        assert asked(made.next_claim(0)) == {DAVE}

    def test_a_failed_claim_delays_everybody(self) -> None:
        made = planner(X)
        claim = claim_of(made)
        made.receive_failure(claim.claim_id, 0, retry_after_ms=60_000)
        assert made.without_session == frozenset()
        made.want([D[CAROL]])
        assert made.next_claim(59_999) is None
        assert names(obtain(made, 60_000)) == {X, CAROL}
        made.want([D[Y]])
        assert made.next_claim(60_000) is not None

    def test_a_failed_claim_delays_by_itself(self) -> None:
        made = planner(X)
        made.receive_failure(claim_of(made).claim_id, 0)
        assert (made.next_claim(14_999), made.next_claim_at()) == (None, 15_000)
        made.receive_failure(claim_of(made, 15_000).claim_id, 15_000)
        assert made.next_claim_at() == 45_000

    def test_an_answer_ends_the_delay_of_everybody(self) -> None:
        made = planner(X, CAROL)
        first, second = claim_of(made, max_devices=1), claim_of(made, max_devices=1)
        made.receive_failure(first.claim_id, 0, retry_after_ms=1)
        assert made.next_claim(1) is None
        made.receive_result(second.claim_id, judged(second, without=[CAROL]), 1)
        third = claim_of(made, 1)
        assert asked(third) == {X}
        made.receive_failure(third.claim_id, 1, retry_after_ms=1)
        assert made.next_claim_at() == 15_001

    def test_a_device_that_the_server_cannot_digest_costs_the_others_a_while(self) -> None:
        """Half as many are asked for after each failure, and one that fails alone waits by itself."""
        made = ClaimPlanner()
        made.want(SampleUser(f"@u{number}:x.example").device("D", cross_signed=False).verify() for number in range(8))
        now, poisoned = 0, "@u3:x.example"
        for _ in range(30):
            now = max(now, made.next_claim_at() or now)
            while (claim := made.next_claim(now)) is not None:
                if poisoned in claim.request.asked:
                    made.receive_failure(claim.claim_id, now)
                else:
                    body = {
                        user_id: {"D": {"signed_curve25519:A": SampleUser(user_id).one_time_key("D", "A").to_json()}}
                        for user_id in claim.request.asked
                    }
                    answer = KeysClaimResponse.from_json({"one_time_keys": body})
                    result = check_claim(claim.request, answer, devices=claim.devices)
                    for of in made.receive_result(claim.claim_id, result, now).values():
                        for key in of.values():
                            made.session_opened(key.device)
        assert {user_id for user_id, _ in made.wanted} == {poisoned}

    def test_a_failed_claim_counts_once(self) -> None:
        made = planner(X)
        claim = claim_of(made)
        made.receive_failure(claim.claim_id, 0)
        made.receive_failure(claim.claim_id, 20_000)
        assert made.next_claim_at() == 15_000

    def test_keys_of_which_nothing_came_delay_longer_and_longer(self) -> None:
        made = planner(X)
        now = 0
        delays = []
        for _ in range(3):
            assert names(obtain(made, now)) == {X}
            assert made.without_session == frozenset()
            for _ in range(2):
                made.session_failed(D[X], now)
            assert made.without_session == {X}
            at = made.next_claim_at()
            assert at is not None
            delays.append(at - now)
            now = at
        assert delays == [15_000, 30_000, 60_000]
        obtain(made, now)
        made.session_opened(D[X])
        made.want([D[X]])
        obtain(made, now)
        made.session_failed(D[X], now)
        assert made.next_claim_at() == now + 15_000

    def test_only_a_key_that_was_handed_out_can_fail(self) -> None:
        made = planner(X)
        made.session_failed(D[X], 0)
        made.session_failed(D[Y], 0)
        assert (asked(made.next_claim(0)), made.without_session) == ({X}, frozenset())
        made.session_failed(D[X], 0)
        assert made.without_session == frozenset()

    def test_who_is_unwanted_is_forgotten(self) -> None:
        made = planner(X)
        obtain(made, without=[X])
        made.unwant([X])
        made.want([D[X]])
        assert asked(made.next_claim(0)) == {X}


class TestRenewal:
    def test_at_most_once_an_hour(self) -> None:
        """Whoever sends garbage does not have one key after the other claimed."""
        made = ClaimPlanner()
        assert made.renew(D[X], 1000)
        assert made.wanted == {X}
        assert not made.renew(D[X], 1000)
        made.session_opened(D[X])
        assert not made.renew(D[X], 1000 + HOUR - 1)
        assert made.wanted == frozenset()
        assert made.renew(D[Y], 1000)
        assert made.renew(D[X], 1000 + HOUR)
        assert made.wanted == {X, Y}

    def test_an_hour_after_a_key_was_handed_out(self) -> None:
        made = ClaimPlanner()
        assert made.renew(D[X], 0)
        obtain(made, 2 * HOUR)
        made.session_opened(D[X])
        assert not made.renew(D[X], 3 * HOUR - 1)
        assert made.renew(D[X], 3 * HOUR)

    def test_an_hour_after_the_first_session(self) -> None:
        made = planner(X, Y)
        obtain(made, 5000, without=[Y])
        made.session_opened(D[X])
        made.unwant([Y])
        assert not made.renew(D[X], 5000 + HOUR - 1)
        assert made.renew(D[Y], 5000)

    def test_who_is_wanted_needs_no_renewal(self) -> None:
        made = planner(X)
        assert not made.renew(D[X], 0)
        made.unwant([X])
        assert made.renew(D[X], 0)

    def test_under_other_keys_it_is_another_device(self) -> None:
        made = planner(X)
        newer = device(X, 1)
        assert made.renew(newer, 0)
        assert claim_of(made).devices == {X[0]: {X[1]: newer}}
        assert not made.renew(D[X], 1)

    def test_the_failures_of_a_device_that_had_other_keys_do_not_delay_it(self) -> None:
        made = planner(X)
        obtain(made, without=[X])
        assert made.next_claim_at() == 15_000
        assert made.renew(device(X, 1), 0)
        assert (asked(made.next_claim(0)), made.without_session) == ({X}, frozenset())

    def test_a_clock_that_is_set_back(self) -> None:
        made = ClaimPlanner()
        assert made.renew(D[X], 100 * HOUR)
        made.session_opened(D[X])
        assert not made.renew(D[X], 99 * HOUR + 1)
        assert made.renew(D[X], 99 * HOUR)

    def test_what_is_older_than_an_hour_is_not_kept(self) -> None:
        made = ClaimPlanner()
        made.renew(D[X], 0)
        made.renew(D[Y], 1)
        made.want([D[CAROL]])
        obtain(made, HOUR, without=[X, Y])
        assert made.to_json()["begun"] == {Y[0]: {Y[1]: 1}, CAROL[0]: {CAROL[1]: HOUR}}
        assert restarted(made).wanted == {X, Y}


def restarted(made: ClaimPlanner) -> ClaimPlanner:
    """The same after a restart."""
    return ClaimPlanner.from_json(json.loads(json.dumps(made.to_json())))


class TestRenewalOverARestart:
    """The message that has shown that a session is broken is gone: nobody else knows that the device is wanted."""

    def test_it_is_still_wanted(self) -> None:
        made = planner(Y)
        made.renew(D[X], 5000)
        again = restarted(restarted(made))
        assert again.wanted == {X}
        assert claim_of(again).devices == {X[0]: {X[1]: D[X]}}
        assert not again.renew(D[X], 5000 + 2 * HOUR), "it is wanted anyway"
        assert again.wanted == {X}

    def test_until_a_session_is_opened(self) -> None:
        """A crash after the key was handed out, and before the session was stored."""
        made = ClaimPlanner()
        made.renew(D[X], 0)
        claim = claim_of(made)
        made = restarted(made)
        assert names(made.receive_result(claim.claim_id, judged(claim), 0)) == set()
        assert names(obtain(made, 7)) == {X}
        made = restarted(made)
        assert names(obtain(made, 8)) == {X}
        made.session_opened(D[X])
        made = restarted(made)
        assert (made.wanted, made.renew(D[X], 7 + HOUR)) == (frozenset(), False)
        assert made.renew(D[X], 8 + HOUR)

    def test_also_if_nothing_came_of_a_key(self) -> None:
        made = ClaimPlanner()
        made.renew(D[X], 0)
        obtain(made, 0)
        made.session_failed(D[X], 0)
        assert restarted(made).wanted == {X}

    def test_also_if_it_was_wanted_anyway(self) -> None:
        made = planner(X, Y)
        assert not made.renew(D[X], 0)
        assert restarted(made).wanted == {X}
        made.want([D[X]])
        assert restarted(made).wanted == {X}

    def test_not_if_it_is_not_needed_any_more(self) -> None:
        made = ClaimPlanner()
        made.renew(D[X], 0)
        made.renew(D[Y], 0)
        made.unwant([X])
        made.want([device(Y, 1)])
        assert restarted(made).wanted == frozenset()

    def test_only_what_was_begun_costs_an_hour(self) -> None:
        made = planner(Y)
        made.renew(D[X], 0)
        obtain(made, 0, without=[X])
        made.unwant([X])
        assert made.renew(D[X], 1), "no key was handed out"
        obtain(made, 20_000)
        made.session_failed(D[X], 20_000)
        made.unwant([X])
        assert not made.renew(D[X], 20_001)
        made.want([D[X]])
        made.renew(D[X], 20_002)
        made.unwant([X])
        assert not made.renew(D[X], 20_003)

    def test_signatures_are_checked_again(self) -> None:
        class Nobody:
            def verify_many(self, questions: Any) -> list[bool]:
                return [False for _ in questions]

        made = ClaimPlanner()
        made.renew(D[X], 0)
        assert ClaimPlanner.from_json(made.to_json(), verifier=LIBSODIUM).wanted == {X}
        verifiers: list[tuple[Any, str]] = [(Nobody(), f"/renewals/0/signatures/{X[0]}/ed25519:X"), (5, "/verifier")]
        for verifier, path in verifiers:
            with pytest.raises(LocalProtocolError) as caught:
                ClaimPlanner.from_json(made.to_json(), verifier=verifier)
            assert caught.value.path == path


def public(key: OneTimeKey) -> Curve25519PublicKey:
    assert key.public_key is not None
    return key.public_key


class TestUsedKeys:
    def test_a_one_time_key_is_handed_out_once(self) -> None:
        """Attack 46: over a restart as well."""
        key = one_time_key(D[X], name="once")
        made = planner(X)
        assert not made.was_used(public(key))
        claim = claim_of(made)
        result = judged(claim, keys={X: key}, was_used=made.was_used)
        assert not made.was_used(public(key))
        assert names(made.receive_result(claim.claim_id, result, 0)) == {X}
        assert made.was_used(public(key))
        for again in (made, ClaimPlanner.from_json(json.loads(json.dumps(made.to_json())))):
            again.unwant([X])
            again.want([D[X]])
            claim = claim_of(again)
            result = judged(claim, keys={X: key}, was_used=again.was_used)
            assert [it.reason for it in result.keys.rejected] == [Reason.KEY_REUSED]
            assert again.receive_result(claim.claim_id, result, 0) == {}
            assert again.next_claim_at() == 15_000

    def test_even_if_it_was_judged_before(self) -> None:
        """Attack 46: two claims side by side, or a judge who was not told what was used."""
        shared = {name: one_time_key(D[name], name="shared") for name in (X, Y, CAROL)}
        made = planner(X, Y, CAROL)
        first, second = claim_of(made, max_devices=2), claim_of(made)
        results = [judged(claim, keys=shared, was_used=made.was_used) for claim in (first, second)]
        assert [len(names(result.keys.accepted)) for result in results] == [2, 1]
        assert names(made.receive_result(first.claim_id, results[0], 0)) == {X}
        assert names(made.receive_result(second.claim_id, results[1], 0)) == set()
        assert made.without_session == {Y, CAROL}
        assert made.next_claim_at() == 15_000

    def test_a_fallback_key_may_come_again(self) -> None:
        key = one_time_key(D[X], name="fallback", fallback=True)
        made = planner(X)
        for now in (0, 15_000):
            assert names(obtain(made, now, keys={X: key}, was_used=made.was_used)) == {X}
            made.session_failed(D[X], now)
        assert not made.was_used(public(key))

    def test_a_fallback_key_may_be_a_key_that_was_used(self) -> None:
        made = planner(X)
        obtain(made, keys={X: one_time_key(D[X], name="both")})
        made.session_failed(D[X], 0)
        assert names(obtain(made, 15_000, keys={X: one_time_key(D[X], name="both", fallback=True)})) == {X}

    def test_the_newest_10_000_are_known(self) -> None:
        numbered = [Curve25519PublicKey((2**200 + number).to_bytes(32, "little")) for number in range(10_001)]
        texts = [key.to_base64() for key in numbered]
        full = ClaimPlanner.from_json({"version": 1, "used": texts[:10_000], "begun": {}, "renewals": []})
        assert full.to_json()["used"] == texts[:10_000]
        full.want([D[X]])
        key = one_time_key(D[X], name="one more")
        obtain(full, keys={X: key})
        assert full.to_json()["used"] == [*texts[1:10_000], public(key).to_base64()]
        assert (full.was_used(numbered[0]), full.was_used(numbered[1])) == (False, True)
        more = ClaimPlanner.from_json({"version": 1, "used": texts, "begun": {}, "renewals": []})
        assert more.to_json()["used"] == texts[1:]


KEY = sample_curve25519_key("stored").to_base64()
RENEWED = D[DAVE].keys.to_json()
STORED: dict[str, Any] = {
    "version": 1,
    "used": [KEY],
    "begun": {X[0]: {"X": 5}, CAROL[0]: {"X": 7, "Y": -1}},
    "renewals": [RENEWED],
}


class TestStoring:
    def test_over_a_restart(self) -> None:
        made = planner(X, Y, CAROL)
        key = one_time_key(D[X], name="kept")
        obtain(made, 7, keys={X: key}, without=[Y, CAROL])
        made.renew(D[DAVE], 9)
        claim_of(made, 9)
        stored = made.to_json()
        assert stored == {
            "version": 1,
            "used": [public(key).to_base64()],
            "begun": {X[0]: {"X": 7}, DAVE[0]: {"X": 9}},
            "renewals": [D[DAVE].keys.to_json()],
        }
        again = ClaimPlanner.from_json(json.loads(json.dumps(stored)))
        assert again.to_json() == stored
        assert (again.wanted, again.without_session) == ({DAVE}, frozenset())
        assert again.was_used(public(key))
        assert not again.renew(D[X], 6 + HOUR)
        assert again.renew(D[X], 7 + HOUR)
        again.want([D[Y]])
        assert asked(again.next_claim(9)) == {X, Y, DAVE}

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"version": 2}, "/version"),
            ({"version": None}, "/version"),
            ({"used": {}}, "/used"),
            ({"used": [5]}, "/used/0"),
            ({"used": [KEY, "short"]}, "/used/1"),
            ({"used": ["A" * 43]}, "/used/0"),
            ({"begun": []}, "/begun"),
            ({"begun": {"bob": {}}}, "/begun/bob"),
            ({"begun": {X[0]: 5}}, "/begun/@bob:b.example"),
            ({"begun": {X[0]: {"": 5}}}, "/begun/@bob:b.example/"),
            ({"begun": {X[0]: {"a/b": None}}}, "/begun/@bob:b.example/a~1b"),
            ({"begun": {X[0]: {"X": True}}}, "/begun/@bob:b.example/X"),
            ({"begun": {X[0]: {"X": 1.5}}}, "/begun/@bob:b.example/X"),
            ({"renewals": {}}, "/renewals"),
            ({"renewals": [5]}, "/renewals/0"),
            ({"renewals": [RENEWED, {}]}, "/renewals/1/user_id"),
            ({"renewals": [RENEWED, RENEWED]}, "/renewals/1"),
            ({"renewals": [{**RENEWED, "signatures": {}}]}, "/renewals/0"),
            ({"renewals": [{**RENEWED, "user_id": X[0]}]}, "/renewals/0"),
            ({"renewals": [WITHOUT_OLM.keys.to_json()]}, "/renewals/0"),
        ],
    )
    def test_what_was_not_stored_by_us(self, change: dict[str, Any], path: str) -> None:
        assert ClaimPlanner.from_json(STORED).to_json() == STORED
        with pytest.raises(LocalProtocolError) as caught:
            ClaimPlanner.from_json({**STORED, **change})
        assert caught.value.path == path

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        obj = {member: value for member, value in STORED.items() if member != name}
        with pytest.raises(LocalProtocolError) as caught:
            ClaimPlanner.from_json(obj)
        assert (caught.value.path, caught.value.reason) == (f"/{name}", Reason.MISSING_MEMBER)

    @given(json_like_values(), st.sampled_from([None, *STORED]))
    def test_no_foreign_exception(self, value: Any, name: str | None) -> None:
        with contextlib.suppress(E2EKeysError):
            ClaimPlanner.from_json(value if name is None else {**copy.deepcopy(STORED), name: value})


class TestCallers:
    def test_what_has_the_wrong_type_is_refused_and_changes_nothing(self) -> None:
        made: Any = planner(X, Y)
        claim = claim_of(made, max_devices=1)
        result = judged(claim)
        before = repr(made)
        unverified = D[X].keys
        for call, path in (
            (lambda: made.want(None), "/devices"),
            (lambda: made.want(D[X]), "/devices"),
            (lambda: made.want([D[CAROL], unverified]), "/devices/1"),
            (lambda: made.want("ab"), "/devices/0"),
            (lambda: made.unwant(None), "/names"),
            (lambda: made.unwant(5), "/names"),
            (lambda: made.unwant([X, "XY"]), "/names/1"),
            (lambda: made.unwant([X, (*X, "")]), "/names/1"),
            (lambda: made.unwant([X, (X[0], None)]), "/names/1"),
            (lambda: made.unwant([list(X)]), "/names/0"),
            (lambda: made.unwant([()]), "/names/0"),
            (lambda: made.unwant([D[X]]), "/names/0"),
            (lambda: made.renew(unverified, 0), "/device"),
            (lambda: made.renew(D[CAROL], "0"), "/now"),
            (lambda: made.next_claim(None), "/now"),
            (lambda: made.next_claim(True), "/now"),
            (lambda: made.next_claim(0, max_devices=0), "/max_devices"),
            (lambda: made.next_claim(0, max_devices=True), "/max_devices"),
            (lambda: made.next_claim(0, max_devices="1"), "/max_devices"),
            (lambda: made.next_claim(0, timeout_ms=-1), "/timeout_ms"),
            (lambda: made.next_claim(0, timeout_ms=2**53), "/timeout_ms"),
            (lambda: made.next_claim(0, timeout_ms=1.5), "/timeout_ms"),
            (lambda: made.next_claim(0, timeout_ms=True), "/timeout_ms"),
            (lambda: made.was_used(D[X].ed25519_key), "/key"),
            (lambda: made.was_used([]), "/key"),
            (lambda: made.receive_result([], result, 0), "/claim_id"),
            (lambda: made.receive_result(True, result, 0), "/claim_id"),
            (lambda: made.receive_result(claim, result, 0), "/claim_id"),
            (lambda: made.receive_result(claim.claim_id, KeysClaimResponse(), 0), "/result"),
            (lambda: made.receive_result(claim.claim_id, result, None), "/now"),
            (lambda: made.receive_failure(None, 0), "/claim_id"),
            (lambda: made.receive_failure(claim.claim_id, 0.5), "/now"),
            (lambda: made.receive_failure(claim.claim_id, 0, retry_after_ms="1"), "/retry_after_ms"),
            (lambda: made.receive_failure(claim.claim_id, 0, retry_after_ms=True), "/retry_after_ms"),
            (lambda: made.session_opened(X), "/device"),
            (lambda: made.session_failed(None, 0), "/device"),
            (lambda: made.session_failed(D[X], None), "/now"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path
        assert repr(made) == before
        assert (made.wanted, made.next_claim_at() is None) == ({X, Y}, False)
        assert made.to_json() == {"version": 1, "used": [], "begun": {}, "renewals": []}
        assert names(made.receive_result(claim.claim_id, result, 0)) == {X}

    def test_a_clock_is_asked_for_even_if_nothing_is_due(self) -> None:
        made: Any = ClaimPlanner()
        for arguments in ({"now": None}, {"now": 0, "timeout_ms": -1}, {"now": 0, "max_devices": 0}):
            with pytest.raises(LocalProtocolError):
                made.next_claim(**arguments)


# --------------------------------------------------------------------------------------------------------------
# Any order, any duplicate, any loss
# --------------------------------------------------------------------------------------------------------------

NAMES = [X, Y, DAVE, CAROL]
GENERATIONS = {(name, generation): device(name, generation) for name in NAMES for generation in (0, 1)}
generations = st.sampled_from(sorted(GENERATIONS))


class Claims(RuleBasedStateMachine):
    """Devices whose keys change, a server that hands out keys twice, and a network without manners."""

    @initialize()
    def begin(self) -> None:
        self.planner = ClaimPlanner()
        self.now = 0
        self.wanted: dict[Name, int] = {}  # which generation
        self.unsettled: dict[Name, int] = {}  # a key was handed out, and nothing said of it
        self.failed: set[Name] = set()  # whose last answer, or last key, was no good
        self.in_flight: dict[int, set[Name]] = {}
        self.answers: list[tuple[int, ClaimResult, dict[Name, int]]] = []
        self.handed_out: set[bytes] = set()
        self.begun: dict[Name, int] = {}
        self.renewals: set[Name] = set()  # what is wanted after a restart as well
        self.planned: set[Name] = set()  # renewals for which no key was handed out so far
        self.number = 0
        self.wait_at_most = 900_000
        for name in NAMES:
            self.want((name, 0))

    def due(self) -> set[Name]:
        """Whom the planner would ask for at this time."""
        return asked(copy.deepcopy(self.planner).next_claim(self.now)) or set()

    @rule(which=generations)
    def want(self, which: tuple[Name, int]) -> None:
        self.planner.want([GENERATIONS[which]])
        self._wants(*which)

    def _wants(self, name: Name, generation: int) -> None:
        if self.wanted.get(name) != generation:
            self._forgets(name)
        self.wanted[name] = generation

    def _forgets(self, name: Name) -> None:
        self.wanted.pop(name, None)
        self.unsettled.pop(name, None)
        self.failed.discard(name)
        self.renewals.discard(name)
        self.planned.discard(name)

    @rule(name=st.sampled_from(NAMES))
    def unwant(self, name: Name) -> None:
        self.planner.unwant([name])
        if name in self.planned:
            del self.begun[name]
        self._forgets(name)

    @rule(which=generations)
    def renew(self, which: tuple[Name, int]) -> None:
        name, generation = which
        too_early = name in self.begun and self.now - self.begun[name] < HOUR
        expected = self.wanted.get(name) != generation and not too_early
        assert self.planner.renew(GENERATIONS[which], self.now) is expected
        if expected:
            self.begun[name] = self.now
            self._wants(name, generation)
            self.planned.add(name)
        if self.wanted.get(name) == generation:
            self.renewals.add(name)

    @rule(
        max_devices=st.integers(1, 4),
        silent=st.sets(st.sampled_from(NAMES), max_size=2),
        down=st.sets(st.sampled_from(["b.example", "c.example"]), max_size=1),
        again=st.booleans(),
        fallback=st.sets(st.sampled_from(NAMES), max_size=1),
        told=st.booleans(),
    )
    def ask(
        self, max_devices: int, silent: set[Name], down: set[str], again: bool, fallback: set[Name], told: bool
    ) -> None:
        claim = self.planner.next_claim(self.now, max_devices=max_devices)
        if claim is None:
            return
        of = asked(claim)
        assert of is not None
        assert 1 <= len(of) <= max_devices
        assert of <= self.wanted.keys() - self.unsettled.keys()
        assert not any(of & others for others in self.in_flight.values())
        self.in_flight[claim.claim_id] = of
        generation = {name: self.wanted[name] for name in of}
        keys = {}
        for name in of:
            self.number += 1
            keys[name] = one_time_key(
                GENERATIONS[name, generation[name]],
                generation[name],
                name=f"{name} fallback" if name in fallback else f"{name} {0 if again else self.number}",
                fallback=name in fallback,
            )
        without = silent | {name for name in of if name[0].partition(":")[2] in down}
        was_used = self.planner.was_used if told else None
        result = judged(claim, without=without, failed=down, keys=keys, was_used=was_used)
        self.answers.append((claim.claim_id, result, generation))

    @rule(data=st.data(), keep=st.booleans())
    def answer(self, data: st.DataObject, keep: bool) -> None:
        if not self.answers:
            return
        place = data.draw(st.integers(0, len(self.answers) - 1))
        claim_id, result, generation = self.answers[place] if keep else self.answers.pop(place)
        is_first = self.in_flight.pop(claim_id, None) is not None
        keys = self.planner.receive_result(claim_id, result, self.now)
        expected = {
            name
            for name in names(result.keys.accepted)
            if is_first
            and self.wanted.get(name) == generation[name]
            and (
                result.keys.accepted[name[0]][name[1]].is_fallback
                or result.keys.accepted[name[0]][name[1]].public_key.raw not in self.handed_out
            )
        }
        assert names(keys) == expected
        for name in expected:
            key = keys[name[0]][name[1]]
            assert key.device == GENERATIONS[name, self.wanted[name]]
            if not key.is_fallback:
                assert key.public_key.raw not in self.handed_out
                self.handed_out.add(key.public_key.raw)
            self.unsettled[name] = self.wanted[name]
            self.begun[name] = self.now
            self.planned.discard(name)
        if is_first:
            nothing = {name for name, of in generation.items() if self.wanted.get(name) == of} - expected
            assert not nothing & self.due()
            self.failed |= nothing

    @rule(data=st.data(), retry_after_ms=st.none() | st.integers(-1, 2_000_000))
    def lose(self, data: st.DataObject, retry_after_ms: int | None) -> None:
        if self.answers:
            claim_id, _, _ = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
            is_first = self.in_flight.pop(claim_id, None) is not None
            self.planner.receive_failure(claim_id, self.now, retry_after_ms=retry_after_ms)
            self.wait_at_most = max(self.wait_at_most, retry_after_ms or 0)
            assert not (is_first and self.due())

    @rule(data=st.data(), good=st.booleans())
    def use(self, data: st.DataObject, good: bool) -> None:
        if self.unsettled:
            which = data.draw(st.sampled_from(sorted(self.unsettled.items())))
            (self.open if good else self.fail)(which)

    @rule(which=generations)
    def open(self, which: tuple[Name, int]) -> None:
        self.planner.session_opened(GENERATIONS[which])
        name, generation = which
        if self.wanted.get(name) == generation:
            self._forgets(name)

    @rule(which=generations)
    def fail(self, which: tuple[Name, int]) -> None:
        self.planner.session_failed(GENERATIONS[which], self.now)
        name, generation = which
        if self.unsettled.get(name) == generation:
            del self.unsettled[name]
            assert name not in self.due()
            self.failed.add(name)

    @rule(later=st.integers(0, 1_000_000))
    def wait(self, later: int) -> None:
        self.now += later

    @rule()
    def restart(self) -> None:
        self.planner = ClaimPlanner.from_json(json.loads(json.dumps(self.planner.to_json())))
        self.in_flight.clear()
        self.answers.clear()
        self.unsettled.clear()
        self.failed.clear()
        self.planned.clear()
        for name in self.wanted.keys() - self.renewals:
            self._forgets(name)

    @invariant()
    def what_is_wanted_is_what_was_wanted(self) -> None:
        if hasattr(self, "planner"):
            assert self.planner.wanted == self.wanted.keys()
            assert self.planner.without_session == self.failed - self.unsettled.keys()

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        if not hasattr(self, "planner"):
            return
        at = self.planner.next_claim_at()
        in_flight = {name for of in self.in_flight.values() for name in of}
        idle = self.wanted.keys() - self.unsettled.keys() - in_flight
        assert (at is None) == (not idle)
        if at is not None:
            assert at <= self.now + self.wait_at_most
            assert (copy.deepcopy(self.planner).next_claim(max(at, self.now))) is not None
            if at > self.now:
                assert copy.deepcopy(self.planner).next_claim(at - 1) is None

    def teardown(self) -> None:
        """When all is well, everything that is wanted is obtained."""
        if not hasattr(self, "planner"):
            return
        for claim_id in self.in_flight:
            self.planner.receive_failure(claim_id, self.now)
        for name, generation in self.unsettled.items():
            self.planner.session_failed(GENERATIONS[name, generation], self.now)
        for _ in range(len(NAMES)):
            at = self.planner.next_claim_at()
            if at is None:
                break
            claim = claim_of(self.planner, max(at, self.now))
            keys = {
                name: one_time_key(GENERATIONS[name, self.wanted[name]], self.wanted[name])
                for name in asked(claim) or ()
            }
            obtained = self.planner.receive_result(claim.claim_id, judged(claim, keys=keys), max(at, self.now))
            assert names(obtained) == keys.keys()
            for of in obtained.values():
                for key in of.values():
                    self.planner.session_opened(key.device)
        assert self.planner.wanted == frozenset()


TestAnyOrder = Claims.TestCase
