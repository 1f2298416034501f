"""Device lists: who is tracked, who is outdated, and answers in any order, twice, late or never."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from matrix_e2e_keys import (
    DeviceLists,
    DeviceListTracker,
    E2EKeysError,
    KeysChangesRequest,
    KeysChangesResponse,
    KeysQueryResponse,
    LocalProtocolError,
    OutgoingQuery,
    QueryResult,
    Reason,
    SyncKeys,
    check_query,
)
from matrix_e2e_keys.testing.strategies import json_like_values

ME = "@me:a.example"
BOB = "@bob:b.example"
CAROL = "@carol:c.example"
DAVE = "@dave:c.example"


def result(
    query: OutgoingQuery, *, without: Iterable[str] = (), failed: Iterable[str] = (), malformed: Iterable[str] = ()
) -> QueryResult:
    """What an answer amounts to: everybody has no devices, except as told."""
    body: dict[str, Any] = {
        "device_keys": {user: None if user in malformed else {} for user in query.request.asked if user not in without},
        "failures": {server: {} for server in failed},
    }
    return check_query(query.request, KeysQueryResponse.from_json(body))


def users(query: OutgoingQuery | None) -> set[str] | None:
    return None if query is None else set(query.request.asked)


def sync(*changed: str, left: Iterable[str] = ()) -> SyncKeys:
    return SyncKeys.from_sync_v2({"device_lists": {"changed": list(changed), "left": list(left)}})


def tracker(*tracked: str) -> DeviceListTracker:
    """A tracker that knows everybody's devices, and stands at the token s1."""
    made = DeviceListTracker(own_user_id=ME)
    made.track(tracked)
    made.receive_sync(SyncKeys(), since=None, next_batch="s1")
    query = made.next_query(0)
    assert query is not None
    made.receive_result(query.query_id, result(query), 0)
    assert made.outdated == set()
    return made


class TestWhoIsTracked:
    def test_oneself_always(self) -> None:
        made = DeviceListTracker(own_user_id=ME)
        assert (made.tracked, made.outdated) == ({ME}, {ME})
        made.untrack([ME, BOB])
        assert made.tracked == {ME}

    def test_tracking_again_changes_nothing(self) -> None:
        made = tracker(BOB)
        made.track([BOB, CAROL, CAROL])
        assert (made.tracked, made.outdated) == ({ME, BOB, CAROL}, {CAROL})

    def test_changed_and_left(self) -> None:
        made = tracker(BOB, CAROL)
        made.receive_sync(sync(BOB, "@stranger:x.example", left=[CAROL]), since="s1", next_batch="s2")
        assert (made.tracked, made.outdated) == ({ME, BOB}, {BOB})

    def test_changed_and_left_at_once_stays(self) -> None:
        made = tracker(BOB)
        made.receive_sync(sync(BOB, left=[BOB, ME]), since="s1", next_batch="s2")
        assert (made.tracked, made.outdated) == ({ME, BOB}, {BOB})

    def test_nothing_said_is_nothing_changed(self) -> None:
        made = tracker(BOB)
        made.receive_sync(SyncKeys(), since="s1", next_batch="s2")
        assert made.outdated == set()

    def test_a_message_from_a_device_nobody_knows(self) -> None:
        made = tracker(BOB, CAROL)
        made.mark_outdated([BOB])
        assert made.outdated == {BOB}

    @pytest.mark.parametrize(
        "keys",
        [
            SyncKeys.from_sync_v2({"device_lists": 5}),
            SyncKeys.from_sync_v2({"device_lists": {"changed": [5]}}),
            SyncKeys.from_sync_v2({"device_lists": {"changed": {}}}),
        ],
    )
    def test_a_malformed_list_of_changes_makes_everybody_outdated(self, keys: SyncKeys) -> None:
        made = tracker(BOB)
        made.receive_sync(keys, since="s1", next_batch="s2")
        assert made.outdated == {ME, BOB}

    def test_a_malformed_list_of_who_left_does_not(self) -> None:
        made = tracker(BOB, CAROL)
        keys = SyncKeys.from_sync_v2({"device_lists": {"changed": [BOB], "left": [5]}})
        made.receive_sync(keys, since="s1", next_batch="s2")
        assert made.outdated == {BOB}


class TestQueries:
    def test_each_user_once_in_flight(self) -> None:
        made = DeviceListTracker(own_user_id=ME)
        made.track([BOB, CAROL])
        first = made.next_query(0, max_users=2)
        second = made.next_query(0, max_users=2)
        assert users(first) == {ME, BOB}
        assert users(second) == {CAROL}
        assert made.next_query(0) is None
        assert made.next_query_at() is None
        assert made.outdated == {ME, BOB, CAROL}
        assert first is not None
        assert made.receive_result(first.query_id, result(first), 0) == {ME, BOB}
        assert made.outdated == {CAROL}

    def test_250_users_at_a_time(self) -> None:
        made = DeviceListTracker(own_user_id=ME)
        made.track(f"@u{number}:x" for number in range(600))
        sizes = []
        while (query := made.next_query(0)) is not None:
            sizes.append(len(query.request.asked))
        assert sizes == [250, 250, 101]

    def test_a_change_while_the_query_is_in_flight(self) -> None:
        """Attack 55: the answer is taken, and the user stays outdated."""
        made = tracker(BOB)
        made.mark_outdated([BOB])
        query = made.next_query(0)
        assert query is not None
        made.receive_sync(sync(BOB), since="s1", next_batch="s2")
        assert made.next_query(0) is None
        assert made.receive_result(query.query_id, result(query), 0) == {BOB}
        assert made.outdated == {BOB}
        again = made.next_query(0)
        assert users(again) == {BOB}
        assert again is not None
        made.receive_result(again.query_id, result(again), 0)
        assert made.outdated == set()

    def test_an_older_answer_never_replaces_a_newer_one(self) -> None:
        """Attack 55: in whatever order they arrive."""
        made = tracker(BOB, CAROL)
        older = made.query_now([BOB, CAROL])
        newer = made.query_now([BOB])
        assert made.receive_result(newer.query_id, result(newer), 0) == {BOB}
        assert made.receive_result(older.query_id, result(older), 0) == {CAROL}

    def test_an_older_answer_does_not_hide_a_change(self) -> None:
        made = tracker(BOB)
        older = made.query_now([BOB])
        made.mark_outdated([BOB])
        assert made.receive_result(older.query_id, result(older), 0) == {BOB}
        assert made.outdated == {BOB}

    def test_what_one_knows_better_is_not_overwritten(self) -> None:
        """Attack 55: an answer to what was asked before an upload says what was there before it."""
        made = tracker(BOB, CAROL)
        older = made.query_now([ME, BOB])
        made.supersede([ME, ME])
        assert made.outdated == {ME}
        assert made.next_query(0) is None, "the question is still in flight"
        newer = made.query_now([ME])
        assert made.receive_result(older.query_id, result(older), 0) == {BOB}
        assert made.outdated == {ME}
        assert made.receive_result(newer.query_id, result(newer), 0) == {ME}
        assert made.outdated == set()

    def test_what_one_knows_better_is_asked_for_all_the_same(self) -> None:
        made = tracker(BOB)
        older = made.query_now([BOB])
        made.supersede([BOB, "@stranger:x.example"])
        assert (made.tracked, made.outdated) == ({ME, BOB}, {BOB})
        assert made.receive_result(older.query_id, result(older), 0) == set()
        again = made.next_query(0)
        assert users(again) == {BOB}
        assert again is not None
        made.supersede([BOB])
        assert made.receive_result(again.query_id, result(again), 0) == set()
        assert DeviceListTracker.from_json(made.to_json()).outdated == {BOB}

    def test_an_answer_counts_once(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        assert made.receive_result(query.query_id, result(query), 0) == {BOB}
        assert made.receive_result(query.query_id, result(query), 0) == set()
        assert made.receive_result(999, result(query), 0) == set()
        made.receive_failure(query.query_id, 0)
        assert made.next_query_at() is None

    def test_who_left_meanwhile_is_not_stored(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.untrack([BOB])
        assert made.receive_result(query.query_id, result(query), 0) == set()

    def test_who_left_and_came_back_is_asked_again(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.untrack([BOB])
        made.track([BOB])
        made.receive_result(query.query_id, result(query), 0)
        assert made.outdated == {BOB}

    def test_only_tracked_users_are_asked_about(self) -> None:
        made = tracker()
        with pytest.raises(LocalProtocolError) as caught:
            made.query_now([ME, BOB])
        assert caught.value.path == "/user_ids/@bob:b.example"
        assert made.next_query_at() is None


class TestDoubts:
    """Somebody says that there are more devices, and may be lying."""

    def test_the_user_is_asked_about(self) -> None:
        made = tracker(BOB, CAROL)
        made.doubt([BOB, "@stranger:x.example"])
        assert (made.outdated, made.to_be_asked) == ({BOB}, {BOB})

    def test_a_query_that_is_under_way_does_not_answer_it(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.doubt([BOB])
        made.receive_result(query.query_id, result(query), 0)
        assert made.outdated == {BOB}

    def test_a_server_that_does_not_answer_keeps_its_time(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.receive_result(query.query_id, result(query, without=[BOB]), 0)
        made.doubt([BOB])
        assert made.next_query(0) is None
        made.mark_outdated([BOB])
        assert made.next_query(0) is not None

    def test_what_is_no_user_id(self) -> None:
        made = tracker(BOB)
        with pytest.raises(LocalProtocolError):
            made.doubt([BOB, "x"])
        assert made.outdated == set()

    def test_to_be_asked_also_later(self) -> None:
        made = tracker(BOB, CAROL)
        made.ask_again([CAROL], 5)
        made.mark_outdated([BOB])
        assert (made.outdated, made.to_be_asked) == ({BOB}, {BOB, CAROL})
        assert DeviceListTracker.from_json(made.to_json()).outdated == {BOB, CAROL}


class TestAskingAgain:
    def test_at_that_time_and_once(self) -> None:
        made = tracker(BOB, CAROL)
        made.ask_again([BOB, "@stranger:x.example"], 5)
        assert (made.outdated, made.next_query_at(), made.next_query(4)) == (set(), 5, None)
        query = made.next_query(5)
        assert query is not None
        assert (users(query), made.outdated, made.next_query_at()) == ({BOB}, {BOB}, None)
        assert made.receive_result(query.query_id, result(query), 5) == {BOB}
        assert (made.outdated, made.next_query_at()) == (set(), None)

    def test_the_last_time_counts(self) -> None:
        made = tracker(BOB)
        made.ask_again([BOB], 5)
        made.ask_again([BOB], 7)
        assert made.next_query_at() == 7

    def test_an_answer_before_makes_up_for_it(self) -> None:
        made = tracker(BOB)
        made.ask_again([BOB], 5)
        query = made.query_now([BOB])
        assert (made.next_query_at(), made.next_query(5)) == (None, None)
        made.receive_result(query.query_id, result(query), 6)
        assert made.next_query_at() is None

    def test_an_answer_that_says_nothing_does_not(self) -> None:
        made = tracker(BOB)
        made.ask_again([BOB], 20_000)
        query = made.query_now([BOB])
        made.receive_result(query.query_id, result(query, without=[BOB]), 0)
        assert (made.outdated, made.next_query_at()) == (set(), 20_000)

    def test_whoever_is_outdated_is_asked_about_at_once(self) -> None:
        made = tracker(BOB)
        made.ask_again([BOB], 5)
        made.mark_outdated([BOB])
        assert users(made.next_query(0)) == {BOB}

    def test_not_before_the_server_can_be_asked(self) -> None:
        made = tracker(BOB)
        made.receive_failure(made.query_now([BOB]).query_id, 0)
        made.ask_again([BOB], 5)
        assert (made.next_query_at(), made.next_query(14_999)) == (15_000, None)
        assert users(made.next_query(15_000)) == {BOB}

    def test_whoever_has_left_is_not_asked_about(self) -> None:
        made = tracker(BOB)
        made.ask_again([BOB], 5)
        made.untrack([BOB])
        assert made.next_query_at() is None

    def test_one_user_costs_the_others_a_while(self) -> None:
        made = tracker(BOB, CAROL)
        made.mark_outdated([BOB])
        made.ask_again([CAROL], 5)
        query = made.next_query(5, max_users=1)
        assert query is not None
        assert users(query) == {BOB}
        made.receive_failure(query.query_id, 5)
        assert users(made.next_query(15_005)) == {CAROL}

    def test_after_a_restart_at_once(self) -> None:
        made = tracker(BOB, CAROL)
        made.ask_again([BOB], 5)
        again = DeviceListTracker.from_json(json.loads(json.dumps(made.to_json())))
        assert again.outdated == {BOB}


class TestDelays:
    def test_a_server_that_fails_delays_its_own_users(self) -> None:
        made = tracker(BOB, CAROL, DAVE)
        made.mark_outdated([BOB, CAROL, DAVE])
        query = made.next_query(1000)
        assert query is not None
        fresh = made.receive_result(query.query_id, result(query, without=[CAROL, DAVE], failed=["c.example"]), 1000)
        assert fresh == {BOB}
        assert made.outdated == {CAROL, DAVE}
        assert made.next_query(15_999) is None
        assert made.next_query_at() == 16_000
        again = made.next_query(16_000)
        assert users(again) == {CAROL, DAVE}
        assert again is not None
        made.receive_result(again.query_id, result(again, without=[CAROL, DAVE], failed=["c.example"]), 16_000)
        assert made.next_query_at() == 46_000
        third = made.next_query(46_000)
        assert third is not None
        made.receive_result(third.query_id, result(third), 46_000)
        assert made.outdated == set()
        made.mark_outdated([CAROL])
        assert users(made.next_query(46_000)) == {CAROL}

    @pytest.mark.parametrize("how", ["without", "malformed"])
    def test_nothing_follows_from_an_answer_that_says_nothing(self, how: str) -> None:
        made = tracker(BOB, CAROL)
        made.mark_outdated([BOB, CAROL])
        query = made.next_query(0)
        assert query is not None
        arguments: Any = {how: [BOB]}
        assert made.receive_result(query.query_id, result(query, **arguments), 0) == {CAROL}
        assert made.outdated == {BOB}
        assert made.next_query_at() == 15_000
        made.mark_outdated([BOB])
        assert users(made.next_query(1)) == {BOB}

    def test_a_failed_query_delays_everybody(self) -> None:
        made = tracker(BOB)
        made.mark_outdated([BOB])
        query = made.next_query(0)
        assert query is not None
        made.receive_failure(query.query_id, 0, retry_after_ms=60_000)
        made.track([CAROL])
        assert made.next_query(59_999) is None
        again = made.next_query(60_000)
        assert users(again) == {BOB, CAROL}
        assert again is not None
        made.receive_result(again.query_id, result(again), 60_000)
        made.mark_outdated([BOB])
        assert users(made.next_query(60_000)) == {BOB}

    def test_what_is_asked_now_does_not_wait(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.receive_failure(query.query_id, 0)
        assert users(made.query_now([BOB])) == {BOB}


class TestWhatAServerCannotDigest:
    def test_one_user_costs_the_others_a_while(self) -> None:
        """Half as many are asked about after each failure, and one who fails alone waits by himself."""
        made = DeviceListTracker(own_user_id=ME)
        everybody = {f"@u{number}:x.example" for number in range(20)}
        made.track(everybody)
        now, poisoned = 0, "@u7:x.example"
        for _ in range(40):
            now = max(now, made.next_query_at() or now)
            while (query := made.next_query(now)) is not None:
                if poisoned in query.request.asked:
                    made.receive_failure(query.query_id, now)
                else:
                    made.receive_result(query.query_id, result(query), now)
        assert made.outdated == {poisoned}

    def test_a_server_that_wants_one_to_wait_is_asked_about_as_many(self) -> None:
        made = DeviceListTracker(own_user_id=ME)
        made.track([BOB, CAROL])
        query = made.next_query(0)
        assert query is not None
        made.receive_failure(query.query_id, 0, retry_after_ms=2**53)
        assert made.next_query_at() == 3_600_000
        assert users(made.next_query(3_600_000)) == {ME, BOB, CAROL}

    def test_what_was_asked_before_somebody_came_back_is_no_news(self) -> None:
        made = tracker(BOB)
        query = made.query_now([BOB])
        made.untrack([BOB])
        made.track([BOB])
        assert made.receive_result(query.query_id, result(query), 0) == frozenset()
        assert BOB in made.outdated


class TestTheStream:
    def test_a_gap_is_filled(self) -> None:
        made = tracker(BOB, CAROL, DAVE)
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        request = made.next_changes()
        assert request == KeysChangesRequest(from_token="s1", to_token="s5")
        assert made.outdated == set()
        made.receive_changes(request, KeysChangesResponse(changed=(BOB,), left=(CAROL, BOB)))
        assert (made.tracked, made.outdated) == ({ME, BOB, DAVE}, {BOB})
        assert made.next_changes() is None

    def test_the_stream_goes_on_meanwhile(self) -> None:
        made = tracker(BOB, CAROL)
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        request = made.next_changes()
        assert request is not None
        made.receive_sync(sync(CAROL), since="s5", next_batch="s6")
        assert made.next_changes() == request
        made.receive_changes(request, KeysChangesResponse(left=(CAROL, BOB)))
        assert made.tracked == {ME, CAROL}
        assert made.outdated == {CAROL}
        assert made.next_changes() is None

    def test_a_second_gap_makes_one_of_both(self) -> None:
        made = tracker(BOB, CAROL)
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        first = made.next_changes()
        made.receive_sync(SyncKeys(), since=None, next_batch="s9")
        second = made.next_changes()
        assert second == KeysChangesRequest(from_token="s1", to_token="s9")
        assert first is not None
        made.receive_changes(first, KeysChangesResponse(changed=(BOB,), left=(CAROL,)))
        assert (made.next_changes(), made.outdated, made.tracked) == (second, {BOB}, {ME, BOB, CAROL})

    def test_a_refusal_makes_everybody_outdated(self) -> None:
        made = tracker(BOB)
        made.give_up_changes()
        assert made.outdated == set()
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        made.give_up_changes()
        assert (made.next_changes(), made.outdated) == (None, {ME, BOB})

    def test_malformed_changes(self) -> None:
        made = tracker(BOB)
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        request = made.next_changes()
        assert request is not None
        made.receive_changes(request, KeysChangesResponse.from_json({"changed": [None], "left": []}))
        assert (made.next_changes(), made.outdated) == (None, {ME, BOB})

    def test_the_same_answer_twice_is_no_gap(self) -> None:
        made = tracker(BOB)
        for _ in range(2):
            made.receive_sync(sync(BOB), since="s1", next_batch="s2")
        assert made.next_changes() is None
        assert made.outdated == {BOB}

    def test_a_sliding_sync_that_begins_anew(self) -> None:
        made = tracker(BOB)
        made.receive_sync(SyncKeys(), since=None, next_batch="p1")
        made.mark_all_outdated()
        assert (made.next_changes(), made.outdated) == (None, {ME, BOB})

    def test_before_the_first_answer_nothing_is_known(self) -> None:
        made = DeviceListTracker(own_user_id=ME)
        query = made.next_query(0)
        assert query is not None
        made.receive_result(query.query_id, result(query), 0)
        assert made.outdated == set()
        made.receive_sync(SyncKeys(), since=None, next_batch="s1")
        assert (made.outdated, made.next_changes()) == ({ME}, None)


STORED: dict[str, Any] = {
    "version": 1,
    "own_user_id": ME,
    "users": {ME: {"outdated": False}, BOB: {"outdated": True}},
    "token": "s2",
    "gap": ["s1", "s2"],
}


class TestStoring:
    def test_over_a_restart(self) -> None:
        made = tracker(BOB, CAROL)
        made.mark_outdated([BOB])
        made.receive_sync(SyncKeys(), since=None, next_batch="s5")
        made.next_query(0)
        stored = made.to_json()
        assert stored == {
            "version": 1,
            "own_user_id": ME,
            "users": {ME: {"outdated": False}, BOB: {"outdated": True}, CAROL: {"outdated": False}},
            "token": "s5",
            "gap": ["s1", "s5"],
        }
        again = DeviceListTracker.from_json(json.loads(json.dumps(stored)))
        assert (again.tracked, again.outdated) == ({ME, BOB, CAROL}, {BOB})
        assert again.to_json() == stored
        assert users(again.next_query(0)) == {BOB}
        request = again.next_changes()
        assert request is not None
        again.receive_sync(SyncKeys(), since="s5", next_batch="s6")
        again.receive_changes(request, KeysChangesResponse(changed=(CAROL,)))
        assert (again.outdated, again.next_changes()) == ({BOB, CAROL}, None)

    @pytest.mark.parametrize(
        ("change", "path"),
        [
            ({"version": 2}, "/version"),
            ({"version": None}, "/version"),
            ({"own_user_id": "me"}, "/own_user_id"),
            ({"own_user_id": 5}, "/own_user_id"),
            ({"users": []}, "/users"),
            ({"users": {"bob": {"outdated": True}}}, "/user_ids/0"),
            ({"users": {BOB: None}}, "/users/@bob:b.example"),
            ({"users": {BOB: {}}}, "/users/@bob:b.example/outdated"),
            ({"users": {BOB: {"outdated": 1}}}, "/users/@bob:b.example/outdated"),
            ({"token": 5}, "/token"),
            ({"gap": ["s1"]}, "/gap"),
            ({"gap": ["s1", None]}, "/gap"),
            ({"gap": "s1"}, "/gap"),
        ],
    )
    def test_what_was_not_stored_by_us(self, change: dict[str, Any], path: str) -> None:
        DeviceListTracker.from_json(STORED)
        with pytest.raises(LocalProtocolError) as caught:
            DeviceListTracker.from_json({**STORED, **change})
        assert caught.value.path == path

    @pytest.mark.parametrize("name", STORED)
    def test_every_member_is_needed(self, name: str) -> None:
        obj = {member: value for member, value in STORED.items() if member != name}
        with pytest.raises(LocalProtocolError) as caught:
            DeviceListTracker.from_json(obj)
        assert (caught.value.path, caught.value.reason) == (f"/{name}", Reason.MISSING_MEMBER)

    @given(json_like_values(), st.sampled_from([None, *STORED]))
    def test_no_foreign_exception(self, value: Any, name: str | None) -> None:
        with contextlib.suppress(E2EKeysError):
            DeviceListTracker.from_json(value if name is None else {**copy.deepcopy(STORED), name: value})


class TestCallers:
    @pytest.mark.parametrize("bad", [5, None, BOB, [5], ["bob"]], ids=repr)
    @pytest.mark.parametrize("name", ["track", "untrack", "mark_outdated", "supersede", "query_now"])
    def test_user_ids(self, name: str, bad: Any) -> None:
        made = tracker(BOB)
        before = made.to_json()
        with pytest.raises(LocalProtocolError) as caught:
            getattr(made, name)(bad)
        assert caught.value.path.startswith("/user_ids")
        assert made.to_json() == before

    def test_the_rest(self) -> None:
        made: Any = tracker(BOB)
        query = made.query_now([BOB])
        for call, path in (
            (lambda: DeviceListTracker(own_user_id="me"), "/own_user_id"),
            (lambda: made.receive_sync(None, since="s1", next_batch="s2"), "/keys"),
            (lambda: made.receive_sync(DeviceLists(), since="s1", next_batch="s2"), "/keys"),
            (lambda: made.receive_sync(SyncKeys(), since=5, next_batch="s2"), "/since"),
            (lambda: made.receive_sync(SyncKeys(), since="s1", next_batch=None), "/next_batch"),
            (lambda: made.receive_changes(None, KeysChangesResponse()), ""),
            (lambda: made.receive_changes(KeysChangesRequest(from_token="", to_token=""), None), ""),
            (lambda: made.ask_again([BOB], "0"), "/now"),
            (lambda: made.ask_again(BOB, 0), "/user_ids"),
            (lambda: made.next_query("0"), "/now"),
            (lambda: made.next_query(0, max_users=0), "/max_users"),
            (lambda: made.next_query(0, max_users=True), "/max_users"),
            (lambda: made.receive_result(query.query_id, KeysQueryResponse(), 0), "/result"),
            (lambda: made.receive_result(query.query_id, result(query), None), "/now"),
            (lambda: made.receive_failure(query.query_id, 0, retry_after_ms="1"), "/retry_after_ms"),
            (lambda: made.receive_failure(query.query_id, 1.5), "/now"),
            (lambda: made.receive_failure([], 0), "/query_id"),
            (lambda: made.receive_result(query, result(query), 0), "/query_id"),
        ):
            with pytest.raises(LocalProtocolError) as caught:
                call()
            assert caught.value.path == path
        assert made.receive_result(query.query_id, result(query), 0) == {BOB}

    def test_a_clock_is_asked_for_even_if_nothing_is_due(self) -> None:
        made: Any = tracker()
        with pytest.raises(LocalProtocolError):
            made.next_query(None)


# --------------------------------------------------------------------------------------------------------------
# Any order, any duplicate, any loss
# --------------------------------------------------------------------------------------------------------------

PEOPLE = [ME, BOB, CAROL, DAVE]


class Lists(RuleBasedStateMachine):
    """A server whose users change, a client that stores what the tracker tells it to, and a network without manners.

    What a client has stored of a user who is tracked and not outdated is what the server has.
    """

    @initialize()
    def begin(self) -> None:
        self.tracker = DeviceListTracker(own_user_id=ME)
        self.now = 0
        self.versions = dict.fromkeys(PEOPLE, 0)  # the server's truth
        self.log: list[tuple[int, str]] = []  # who changed, in the order of the stream
        self.stored: dict[str, int] = {}
        self.position: int | None = None  # where the client is in the stream
        self.answers: list[tuple[OutgoingQuery, dict[str, int], set[str]]] = []
        self.superseded: list[tuple[OutgoingQuery, str]] = []  # what was asked about whom before one knew better
        self.again: set[str] = set()  # whom to ask about once more

    @rule(user=st.sampled_from(PEOPLE))
    def change(self, user: str) -> None:
        self.versions[user] += 1
        self.log.append((len(self.log), user))

    @rule(user=st.sampled_from(PEOPLE))
    def share_a_room(self, user: str) -> None:
        self.tracker.track([user])

    @rule(user=st.sampled_from(PEOPLE))
    def leave_the_room(self, user: str) -> None:
        self.tracker.untrack([user])
        self.again &= self.tracker.tracked

    @rule(user=st.sampled_from(PEOPLE), at=st.integers(0, 2_000_000))
    def ask_again(self, user: str, at: int) -> None:
        self.tracker.ask_again([user], at)
        self.again |= {user} & self.tracker.tracked

    @rule(user=st.sampled_from(PEOPLE))
    def know_better(self, user: str) -> None:
        """One has changed something oneself: the server and the client have it, and every answer of before is old."""
        if user in self.tracker.tracked:
            self.change(user)
            self.stored[user] = self.versions[user]
            self.tracker.supersede([user])
            self.superseded += [(query, user) for query, _, _ in self.answers]

    @rule()
    def sync(self) -> None:
        changed = () if self.position is None else {user for _, user in self.log[self.position :]}
        since = None if self.position is None else f"s{self.position}"
        self.tracker.receive_sync(sync(*changed), since=since, next_batch=f"s{len(self.log)}")
        self.position = len(self.log)

    @rule()
    def sync_afresh(self) -> None:
        self.position = None
        self.sync()

    @rule(refused=st.booleans())
    def fill_the_gap(self, refused: bool) -> None:
        request = self.tracker.next_changes()
        if request is None:
            return
        if refused:
            self.tracker.give_up_changes()
            return
        changed = {user for _, user in self.log[int(request.from_token[1:]) : int(request.to_token[1:])]}
        self.tracker.receive_changes(request, KeysChangesResponse(changed=tuple(changed)))

    @rule(max_users=st.integers(1, 3), silent=st.sets(st.sampled_from(PEOPLE)))
    def ask(self, max_users: int, silent: set[str]) -> None:
        due = self.tracker.next_query_at()
        query = self.tracker.next_query(self.now, max_users=max_users)
        assert (query is not None) is (due is not None and due <= self.now), "the time of the next query is wrong"
        if query is not None:
            self.answers.append((query, dict(self.versions), silent))

    @rule(silent=st.sets(st.sampled_from(PEOPLE)))
    def ask_now(self, silent: set[str]) -> None:
        query = self.tracker.query_now(sorted(self.tracker.tracked))
        self.answers.append((query, dict(self.versions), silent))

    @rule(data=st.data(), keep=st.booleans())
    def answer(self, data: st.DataObject, keep: bool) -> None:
        if not self.answers:
            return
        place = data.draw(st.integers(0, len(self.answers) - 1))
        query, versions, silent = self.answers[place] if keep else self.answers.pop(place)
        failed = {"c.example"} if CAROL in silent else ()
        fresh = self.tracker.receive_result(query.query_id, result(query, without=silent, failed=failed), self.now)
        assert fresh <= self.tracker.tracked & set(query.request.asked) - silent
        assert not any(asked is query and user in fresh for asked, user in self.superseded)
        for user in fresh:
            assert versions[user] >= self.stored.get(user, 0), "an older answer was to be stored"
            self.stored[user] = versions[user]
        self.again -= fresh

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.answers:
            query, _, _ = self.answers.pop(data.draw(st.integers(0, len(self.answers) - 1)))
            self.tracker.receive_failure(query.query_id, self.now)

    @rule(later=st.integers(0, 1_000_000))
    def wait(self, later: int) -> None:
        self.now += later

    @rule()
    def restart(self) -> None:
        self.tracker = DeviceListTracker.from_json(json.loads(json.dumps(self.tracker.to_json())))
        self.answers.clear()

    @invariant()
    def what_is_not_outdated_is_what_the_server_had(self) -> None:
        if not hasattr(self, "tracker") or self.position is None or self.tracker.next_changes() is not None:
            return
        unseen = {user for _, user in self.log[self.position :]}
        for user in self.tracker.tracked - self.tracker.outdated - unseen:
            assert self.stored[user] == self.versions[user]

    @invariant()
    def everybody_is_asked_in_the_end(self) -> None:
        if not hasattr(self, "tracker"):
            return
        other = copy.deepcopy(self.tracker)
        in_flight = {user for query, _, _ in self.answers for user in query.request.asked}
        due: set[str] = set()
        while (query := other.next_query(10**12)) is not None:
            due |= set(query.request.asked)
        assert self.tracker.outdated | self.again <= due | in_flight
        assert due <= self.tracker.outdated | self.again


TestAnyOrder = Lists.TestCase
