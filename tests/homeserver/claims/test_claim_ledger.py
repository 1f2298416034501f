"""The claim ledger: nobody uses up a device's one-time keys, nobody claims without end, nobody is locked out."""

from __future__ import annotations

import contextlib
import copy
import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import E2EKeysError, LocalProtocolError, MatrixError, Reason
from matrix_e2e_keys.homeserver.claims.claim_ledger import ClaimLedger, ClaimsSpent
from matrix_e2e_keys.homeserver.claims.local_claims import (
    DeviceKeyPool,
    KeyWanted,
    PooledKey,
    decide_claims,
)
from matrix_e2e_keys.homeserver.effects import TakeOneTimeKey
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE = "@alice:a.example"
EVE = "@eve:a.example"
FAR = "far.example"
PHONE = "PHONE"
HOUR = 3_600_000


def want(device_id: str = PHONE, user_id: str = ALICE, algorithm: str = "x", **more: Any) -> KeyWanted:
    return KeyWanted(user_id=user_id, device_id=device_id, algorithm=algorithm, **more)


def fallback_only(device_id: str = PHONE) -> KeyWanted:
    return want(device_id, allows_one_time_key=False)


def ledger(per_device: int = 2, per_window: int = 5, window_ms: int = 1000) -> ClaimLedger:
    return ClaimLedger(keys_per_device=per_device, keys_per_window=per_window, window_ms=window_ms)


def restored(of: ClaimLedger, change: Callable[[Any], Any] = lambda tree: tree) -> ClaimLedger:
    """The same ledger after a restart, or with what was stored changed."""
    tree = json.loads(json.dumps(of.to_json()))
    changed = change(tree)
    return ClaimLedger.from_json(
        tree if changed is None else changed,
        keys_per_device=of.keys_per_device,
        keys_per_window=of.keys_per_window,
        window_ms=of.window_ms,
    )


def claimants(of: ClaimLedger) -> list[str]:
    """Who is remembered, in what order."""
    tree: Any = of.to_json()
    return list(tree["claimants"])


def refused(of: ClaimLedger, claimant: str, wanted: list[KeyWanted], now: int) -> MatrixError:
    """The refusal, after which the ledger is what it was before."""
    before = of.to_json()
    with pytest.raises(MatrixError) as caught:
        of.grant(claimant, wanted, now)
    assert of.to_json() == before
    return caught.value


class TestOneDevice:
    def test_has_so_many_one_time_keys_for_a_claimant_and_then_only_its_fallback_key(self) -> None:
        """Attack 47: exactly so many, in one request or in several."""
        made = ledger(per_device=2)
        assert made.grant(EVE, [want()] * 3, 0) == (want(), want(), fallback_only())
        assert made.grant(EVE, [want("TABLET"), want()], 1) == (want("TABLET"), fallback_only())

    def test_is_another_device_if_it_is_another_users(self) -> None:
        made = ledger(per_device=1)
        wanted = (want(), want(user_id=EVE))
        assert made.grant(FAR, wanted, 0) == wanted

    def test_is_the_same_device_whatever_the_algorithm(self) -> None:
        made = ledger(per_device=1)
        assert [key.allows_one_time_key for key in made.grant(EVE, [want(algorithm="a"), want(algorithm="b")], 0)] == [
            True,
            False,
        ]

    def test_has_as_many_for_every_other_claimant(self) -> None:
        made = ledger(per_device=1)
        for claimant in (EVE, FAR, "@eve:b.example", f"{FAR}:8448", "[::1]"):
            assert made.grant(claimant, [want(), want()], 0) == (want(), fallback_only())

    def test_what_allows_no_one_time_key_before_does_not_count_as_one(self) -> None:
        made = ledger(per_device=1)
        assert made.grant(EVE, [fallback_only(), want(), want()], 0) == (fallback_only(), want(), fallback_only())
        assert made.spent(EVE, 0) == ClaimsSpent(keys=3, one_time_keys={(ALICE, PHONE): 1}, ends_at=1000)

    def test_may_have_none_for_anybody(self) -> None:
        assert ledger(per_device=0).grant(EVE, [want()], 0) == (fallback_only(),)

    def test_ten_in_an_hour_unless_told_otherwise(self) -> None:
        made = ClaimLedger()
        assert made.grant(EVE, [want()] * 11, 0) == (*[want()] * 10, fallback_only())
        assert made.grant(EVE, [want()], HOUR - 1) == (fallback_only(),)
        assert made.grant(EVE, [want()], HOUR) == (want(),)

    def test_keeps_keys_for_others_and_its_fallback_key_is_marked(self) -> None:
        """Attack 47: who claims again and again gets so many, then the fallback key; the next one still gets one."""
        made = ledger(per_device=3, per_window=100)
        keys = tuple(PooledKey(key_id=f"x:{number}", key=f"key {number}", uploaded=1) for number in range(8))
        record = FallbackKeyRecord(key_id="x:f", key="fallback")
        got: Counter[str] = Counter()
        for now in range(10):
            pools = {(ALICE, PHONE): DeviceKeyPool(one_time_keys=keys, fallback_keys={"x": record})}
            claims = decide_claims(made.grant(EVE, [want()], now), pools=pools)
            gone = {effect.key_id for effect in claims.effects if isinstance(effect, TakeOneTimeKey)}
            keys = tuple(key for key in keys if key.key_id not in gone)
            got.update(key.key_id for key in claims.keys)
        assert got == {"x:0": 1, "x:1": 1, "x:2": 1, "x:f": 7}
        pools = {(ALICE, PHONE): DeviceKeyPool(one_time_keys=keys)}
        assert [key.key_id for key in decide_claims(made.grant(FAR, [want()], 10), pools=pools).keys] == ["x:3"]


class TestAWindow:
    def test_has_so_many_keys_in_all_and_then_one_waits(self) -> None:
        """Attack 47: exactly so many, of however many devices."""
        made = ledger(per_device=1, per_window=5)
        made.grant(EVE, [want(str(number)) for number in range(3)], 100)
        error = refused(made, EVE, [want(str(number)) for number in range(3)], 300)
        assert error == MatrixError(
            status=429, errcode="M_LIMIT_EXCEEDED", error="Too many keys claimed", retry_after_ms=800
        )
        assert made.grant(EVE, [want("3"), want("4")], 300) == (want("3"), want("4"))
        assert made.spent(EVE, 300).keys == 5
        assert refused(made, EVE, [want("5")], 1099).retry_after_ms == 1
        assert made.grant(EVE, [want("5")], 1100) == (want("5"),)
        assert made.spent(EVE, 1100) == ClaimsSpent(keys=1, one_time_keys={(ALICE, "5"): 1}, ends_at=2100)

    def test_counts_fallback_keys_too(self) -> None:
        made = ledger(per_device=0, per_window=2)
        made.grant(EVE, [want(), fallback_only()], 0)
        assert refused(made, EVE, [fallback_only()], 0).status == 429

    def test_costs_nobody_else_anything(self) -> None:
        made = ledger(per_window=1)
        made.grant(EVE, [want()], 0)
        refused(made, EVE, [want()], 0)
        assert made.grant(FAR, [want()], 0) == (want(),)

    def test_is_too_small_for_some_requests_for_good(self) -> None:
        made = ledger(per_window=5)
        assert refused(made, EVE, [want()] * 6, 0) == MatrixError(
            status=400, errcode="M_TOO_LARGE", error="More than 5 keys cannot be claimed at once"
        )
        made.grant(EVE, [want()] * 5, 0)
        assert refused(made, EVE, [want()] * 6, 0).status == 400

    def test_ten_thousand_in_an_hour_unless_told_otherwise(self) -> None:
        made = ClaimLedger()
        assert len(made.grant(EVE, [want()] * 10_000, 0)) == 10_000
        assert refused(made, EVE, [want()], 1).retry_after_ms == HOUR - 1
        assert made.grant(EVE, [want()], HOUR)

    def test_begins_with_the_first_claim(self) -> None:
        made = ledger()
        assert made.grant(EVE, [], 0) == ()
        assert made.spent(EVE, 0) == ClaimsSpent(keys=0, one_time_keys={}, ends_at=None)
        made.grant(EVE, [want()], 500)
        made.grant(EVE, [want()], 900)
        assert made.spent(EVE, 1499).ends_at == 1500
        assert made.spent(EVE, 1500) == ClaimsSpent()

    def test_that_is_full_does_not_refuse_what_wants_nothing(self) -> None:
        made = ledger(per_window=1)
        made.grant(EVE, [want()], 0)
        assert made.grant(EVE, [], 0) == ()

    def test_shows_a_copy_of_what_was_spent(self) -> None:
        made = ledger()
        made.grant(EVE, [want()], 0)
        before = made.spent(EVE, 0)
        made.grant(EVE, [want()], 0)
        assert dict(before.one_time_keys) == {(ALICE, PHONE): 1}
        assert dict(made.spent(EVE, 0).one_time_keys) == {(ALICE, PHONE): 2}


class TestAClockThatIsSetBack:
    def test_by_little_gives_nothing_for_free(self) -> None:
        made = ledger(per_device=1, per_window=2)
        made.grant(EVE, [want()], 5000)
        assert made.grant(EVE, [want()], 4001) == (fallback_only(),)
        assert refused(made, EVE, [want()], 4001).retry_after_ms == 1999

    def test_by_much_locks_nobody_out(self) -> None:
        made = ledger(per_device=1, per_window=1)
        made.grant(EVE, [want()], 10**15)
        assert made.grant(EVE, [want()], 10**15 - 1000) == (want(),)
        assert made.spent(EVE, 10**15 - 1000).ends_at == 10**15
        assert made.grant(EVE, [want()], -5) == (want(),)

    @given(st.integers(), st.integers(-5000, 5000), st.integers(1, 2**52))
    def test_nobody_waits_longer_than_two_windows(self, began: int, later: int, window_ms: int) -> None:
        made = ledger(per_window=1, window_ms=window_ms)
        made.grant(EVE, [want()], began)
        now = began + later * window_ms // 2000
        with contextlib.suppress(MatrixError):
            made.grant(EVE, [want()], now)
            return
        delay = refused(made, EVE, [want()], now).retry_after_ms or 0
        assert 0 < delay < 2 * window_ms
        made.grant(EVE, [want()], now + delay)


class TestMemory:
    def test_of_windows_that_have_passed_is_forgotten(self) -> None:
        made = ledger(window_ms=1000)
        for number in range(5000):
            made.grant(f"@u{number}:a.example", [want()], number)
        assert len(claimants(made)) == 1000
        made.grant(EVE, [want()], 100_000)
        assert claimants(made) == [EVE]

    def test_is_one_whose_beginning_is_found_at_once(self) -> None:
        """Attack 47: what many claimants leave behind costs each of them the same. A dict passes all its holes."""
        made = ledger(window_ms=1000)
        for number in range(20):
            made.grant(f"@u{number}:a.example", [want()], 0)
        for each in (made, restored(made)):
            assert type(each._windows) is OrderedDict
            each.grant(EVE, [want()], 1000)
            assert claimants(each) == [EVE]
            assert type(each._windows) is OrderedDict

    def test_keeps_who_claims_again_and_again_in_order(self) -> None:
        made = ledger(window_ms=1000)
        made.grant(EVE, [want()], 0)
        made.grant(FAR, [want()], 400)
        made.grant(EVE, [want()], 500)
        made.grant(EVE, [want()], 1000)
        assert claimants(made) == [FAR, EVE]
        made.grant("third.example", [want()], 1400)
        assert claimants(made) == [EVE, "third.example"]

    def test_of_windows_that_a_clock_left_in_the_future_is_forgotten(self) -> None:
        made = ledger(window_ms=1000)
        made.grant(EVE, [want()], 10**15)
        made.grant(FAR, [want()], 0)
        assert claimants(made) == [FAR]

    def test_one_whose_window_has_ended_and_is_still_remembered_begins_anew(self) -> None:
        made = ledger(per_window=1, window_ms=1000)
        made.grant(FAR, [want()], 900)  # stands before the other, and has not ended
        made.grant(EVE, [want()], 0)
        made.grant("third.example", [want()], 500)
        made.grant(EVE, [want()], 1000)
        assert claimants(made) == [FAR, "third.example", EVE]
        assert made.spent(EVE, 1000).ends_at == 2000

    @pytest.mark.parametrize("device_id", ["", "x" * 513, "\ud800"])
    def test_is_not_spent_on_what_is_no_device_id(self, device_id: str) -> None:
        """Attack 49: nobody has such a device, so there is nothing to save."""
        made = ledger(per_device=1)
        assert made.grant(EVE, [want(device_id)] * 3, 0) == (want(device_id),) * 3
        assert made.spent(EVE, 0) == ClaimsSpent(keys=3, one_time_keys={}, ends_at=1000)
        assert restored(made) == made

    def test_of_a_claimant_is_as_large_as_a_window_at_most(self) -> None:
        made = ledger(per_device=1, per_window=50)
        for number in range(200):
            with contextlib.suppress(MatrixError):
                made.grant(EVE, [want(str(number)), want(str(-number))], 0)
        assert len(made.spent(EVE, 0).one_time_keys) <= 50


class TestRestart:
    def test_changes_nothing(self) -> None:
        made = ledger()
        made.grant(EVE, [want(), want("TABLET"), want(user_id=EVE), want("\x00~/")], -7)
        made.grant(FAR, [want(), want()], 3)
        again = restored(made)
        assert again == made
        assert again.to_json() == made.to_json()
        assert again.grant(EVE, [want()], 10) == made.grant(EVE, [want()], 10)

    def test_limits_are_those_of_now(self) -> None:
        made = ledger(per_device=2, per_window=5)
        made.grant(EVE, [want()] * 3, 0)
        tree = made.to_json()
        generous = ClaimLedger.from_json(tree)
        assert generous.grant(EVE, [want()], 1500) == (want(),)
        stricter = ClaimLedger.from_json(tree, keys_per_device=1, keys_per_window=3, window_ms=2000)
        assert refused(stricter, EVE, [want()], 1500).retry_after_ms == 500

    def test_the_order_of_an_object_does_not_matter(self) -> None:
        made = ledger(window_ms=1000)
        made.grant(EVE, [want()], 0)
        made.grant(FAR, [want()], 400)

        def turned(tree: Any) -> None:
            tree["claimants"] = dict(reversed(tree["claimants"].items()))

        again = restored(made, turned)
        again.grant("third.example", [want()], 1000)
        assert claimants(again) == [FAR, "third.example"]

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("", []),
            ("", {5: 5}),
            ("/version", 2),
            ("/version", True),
            ("/claimants", []),
            ("/claimants/nobody!", {}),
            ("/claimants/@eve:a.example", None),
            ("/claimants/@eve:a.example/began", 1.5),
            ("/claimants/@eve:a.example/keys", None),
            ("/claimants/@eve:a.example/keys", 1),
            ("/claimants/@eve:a.example/one_time_keys", []),
            ("/claimants/@eve:a.example/one_time_keys/alice", {}),
            ("/claimants/@eve:a.example/one_time_keys/@alice:a.example", []),
            ("/claimants/@eve:a.example/one_time_keys/@alice:a.example/PHONE", 0),
            ("/claimants/@eve:a.example/one_time_keys/@alice:a.example/PHONE", True),
            ("/claimants/@eve:a.example/one_time_keys/@alice:a.example/", 1),
            ("/claimants/@eve:a.example/one_time_keys/@alice:a.example/" + "x" * 513, 1),
        ],
    )
    def test_damage_is_found_and_named(self, path: str, value: Any) -> None:
        made = ledger()
        made.grant(EVE, [want(), want()], 0)
        tree = made.to_json()
        *above, last = path.split("/")[1:] or [""]
        place: Any = tree
        for name in above:
            place = place[name]
        if path:
            place[last] = value
        with pytest.raises(LocalProtocolError) as caught:
            ClaimLedger.from_json(tree if path else value)
        assert caught.value.path == path

    @pytest.mark.parametrize("keys", [0, -1])
    def test_a_window_without_keys_is_damage(self, keys: int) -> None:
        made = ledger(per_device=0)
        made.grant(EVE, [want()], 0)

        def change(tree: Any) -> None:
            tree["claimants"][EVE]["keys"] = keys

        with pytest.raises(LocalProtocolError) as caught:
            restored(made, change)
        assert (caught.value.reason, caught.value.path) == (Reason.INVALID_VALUE, f"/claimants/{EVE}/keys")

    @given(json_like_values())
    def test_anything_else_is_refused(self, value: Any) -> None:
        for tree in (
            value,
            {"version": 1, "claimants": value},
            {"version": 1, "claimants": {EVE: value}},
            {"version": 1, "claimants": {EVE: {"began": 0, "keys": 9, "one_time_keys": value}}},
            {"version": 1, "claimants": {EVE: {"began": 0, "keys": 9, "one_time_keys": {ALICE: value}}}},
        ):
            with contextlib.suppress(E2EKeysError):
                ClaimLedger.from_json(tree)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "reason", "path"),
        [
            ((5, [], 0), Reason.WRONG_TYPE, "/claimant"),
            (("", [], 0), Reason.INVALID_IDENTIFIER, "/claimant"),
            (("@eve", [], 0), Reason.INVALID_IDENTIFIER, "/claimant"),
            (("a b", [], 0), Reason.INVALID_IDENTIFIER, "/claimant"),
            ((EVE, None, 0), Reason.WRONG_TYPE, "/wanted"),
            ((EVE, [want(), None], 0), Reason.WRONG_TYPE, "/wanted/1"),
            ((EVE, [], "0"), Reason.WRONG_TYPE, "/now"),
            ((EVE, [], True), Reason.WRONG_TYPE, "/now"),
            ((EVE, [want()], 0.5), Reason.WRONG_TYPE, "/now"),
        ],
    )
    def test_of_the_wrong_type_are_refused_and_nothing_is_counted(
        self, arguments: Any, reason: Reason, path: str
    ) -> None:
        made = ledger()
        with pytest.raises(LocalProtocolError) as caught:
            made.grant(*arguments)
        assert (caught.value.reason, caught.value.path) == (reason, path)
        assert made == ledger()

    @pytest.mark.parametrize(("claimant", "now", "path"), [(None, 0, "/claimant"), (EVE, None, "/now")])
    def test_of_a_question_are_checked(self, claimant: Any, now: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            ledger().spent(claimant, now)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [
            ({"keys_per_device": -1}, Reason.INVALID_VALUE),
            ({"keys_per_window": 0}, Reason.INVALID_VALUE),
            ({"window_ms": 0}, Reason.INVALID_VALUE),
            ({"window_ms": 2**52 + 1}, Reason.INVALID_VALUE),
            ({"keys_per_device": True}, Reason.WRONG_TYPE),
            ({"keys_per_window": 1.5}, Reason.WRONG_TYPE),
            ({"window_ms": None}, Reason.WRONG_TYPE),
        ],
    )
    def test_limits_are_checked(self, limits: dict[str, Any], reason: Reason) -> None:
        for make in (ClaimLedger, lambda **given: ClaimLedger.from_json(ClaimLedger().to_json(), **given)):
            with pytest.raises(LocalProtocolError) as caught:
                make(**limits)
            assert (caught.value.reason, caught.value.path) == (reason, f"/{next(iter(limits))}")
        ClaimLedger(keys_per_device=0, keys_per_window=1, window_ms=1)
        ClaimLedger(window_ms=2**52)

    @given(json_like_values(), json_like_values(), json_like_values())
    def test_of_any_kind_cause_no_other_error(self, one: Any, two: Any, three: Any) -> None:
        made = ledger()
        for call in (
            lambda: made.grant(one, two, three),
            lambda: made.grant(EVE, one, two),
            lambda: made.grant(EVE, [want()], one),
            lambda: made.spent(one, two),
            lambda: ClaimLedger(keys_per_device=one, keys_per_window=two, window_ms=three),
        ):
            with contextlib.suppress(E2EKeysError):
                call()

    def test_what_is_wanted_is_not_changed(self) -> None:
        wanted = [want(), want()]
        before = copy.deepcopy(wanted)
        ledger(per_device=1).grant(EVE, wanted, 0)
        assert wanted == before


# --------------------------------------------------------------------------------------------------------------
# Any number of claimants, at any time
# --------------------------------------------------------------------------------------------------------------

CLAIMANTS = [EVE, FAR]
DEVICES = ["A", "B"]


class Claims(RuleBasedStateMachine):
    """Claimants who claim as fast as they can, a clock that is sometimes set back, and a server that restarts.

    The model remembers every grant.
    """

    @initialize()
    def begin(self) -> None:
        self.ledger = ledger(per_device=2, per_window=5, window_ms=1000)
        self.now = 0
        self.grants: list[tuple[int, str, KeyWanted]] = []
        self.clock_was_set_back = False

    @rule(claimant=st.sampled_from(CLAIMANTS), devices=st.lists(st.sampled_from(DEVICES), max_size=6))
    def claim(self, claimant: str, devices: list[str]) -> None:
        wanted = [want(device) for device in devices]
        before = self.ledger.spent(claimant, self.now)
        if before.keys + len(wanted) > 5:
            if wanted:
                assert (refused(self.ledger, claimant, wanted, self.now).retry_after_ms or 0) < 2000
            return
        granted = self.ledger.grant(claimant, wanted, self.now)
        assert [key.device_id for key in granted] == devices
        spent = self.ledger.spent(claimant, self.now)
        assert spent.keys == before.keys + len(wanted)
        for device in DEVICES:
            had = before.one_time_keys.get((ALICE, device), 0)
            allowed = sum(key.allows_one_time_key for key in granted if key.device_id == device)
            assert allowed == min(devices.count(device), 2 - had)
            assert spent.one_time_keys.get((ALICE, device), 0) == had + allowed
        self.grants += [(self.now, claimant, key) for key in granted]

    @rule(later=st.integers(0, 1500))
    def wait(self, later: int) -> None:
        self.now += later

    @rule(earlier=st.integers(1, 5000))
    def set_the_clock_back(self, earlier: int) -> None:
        self.now -= earlier
        self.clock_was_set_back = True

    @rule()
    def restart(self) -> None:
        self.ledger = restored(self.ledger)

    @invariant()
    def no_time_sees_more_than_two_windows(self) -> None:
        if not hasattr(self, "ledger") or self.clock_was_set_back:
            return
        for claimant in CLAIMANTS:
            recent = [key for at, who, key in self.grants if who == claimant and self.now - at < 1000]
            assert len(recent) <= 10
            for device in DEVICES:
                assert sum(key.allows_one_time_key for key in recent if key.device_id == device) <= 4


TestClaims = Claims.TestCase
