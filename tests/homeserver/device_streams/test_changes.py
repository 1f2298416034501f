"""What a client is told of changes, and of its own keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys import DeviceLists, LocalProtocolError
from matrix_e2e_keys.homeserver.device_streams.changes import device_list_changes, sync_keys
from matrix_e2e_keys.homeserver.stored_keys import FallbackKeyRecord

ME, BOB, CAROL, DAVE = "@me:a.example", "@bob:b.example", "@carol:c.example", "@dave:a.example"


def lists(**sets: Iterable[str]) -> tuple[list[str], list[str]]:
    arguments: Any = {"moved": (), "shared_before": (), "shared_now": (), **sets}
    found = device_list_changes(ME, **arguments)
    return list(found.changed), list(found.left)


class TestChanges:
    @pytest.mark.parametrize(
        ("sets", "changed", "left"),
        [
            ({}, [], []),
            ({"moved": [BOB], "shared_before": [BOB], "shared_now": [BOB]}, [BOB], []),
            ({"moved": [BOB]}, [], []),  # no room shared: of no interest
            ({"moved": [ME]}, [ME], []),  # oneself, without any room
            ({"shared_now": [BOB]}, [BOB], []),
            ({"shared_before": [BOB]}, [], [BOB]),
            ({"moved": [BOB], "shared_before": [BOB]}, [], [BOB]),  # moved, and left
            ({"shared_before": [BOB], "shared_now": [BOB]}, [], []),
            ({"shared_before": [BOB], "shared_now": [BOB], "newly_met": [BOB]}, [BOB], []),
            ({"newly_met": [BOB]}, [], []),  # met, and left again
            ({"shared_before": [BOB], "newly_met": [BOB]}, [], [BOB]),
            ({"shared_before": [ME], "shared_now": []}, [], []),
            ({"shared_now": [ME], "newly_met": [ME]}, [], []),
            ({"signed": [CAROL]}, [CAROL], []),
            ({"signed": [CAROL], "shared_before": [CAROL]}, [], [CAROL]),
            (
                {"moved": [DAVE, BOB, BOB], "shared_now": [DAVE, BOB, CAROL], "shared_before": [DAVE, BOB]},
                [BOB, CAROL, DAVE],
                [],
            ),
        ],
    )
    def test_who_is_in_which_list(self, sets: Any, changed: list[str], left: list[str]) -> None:
        assert lists(**sets) == (changed, left)

    def test_join_leave_join_is_a_change(self) -> None:
        before, now = [BOB], [BOB]
        assert lists(shared_before=before, shared_now=now, newly_met=[BOB]) == ([BOB], [])

    @given(st.lists(st.sets(st.sampled_from([ME, BOB, CAROL, DAVE])), min_size=5, max_size=5))
    def test_each_user_once_and_in_order(self, sets: list[set[str]]) -> None:
        moved, before, now, met, signed = sets
        changed, left = lists(moved=moved, shared_before=before, shared_now=now, newly_met=met, signed=signed)
        assert changed == sorted(set(changed) - set(left))
        assert left == sorted((before - now) - {ME})
        assert set(changed) <= (moved | now | signed)
        assert (signed - set(left)) | ((moved | met) & now - {ME}) <= set(changed)

    @pytest.mark.parametrize("name", ["moved", "shared_before", "shared_now", "newly_met", "signed", "viewer_id"])
    @pytest.mark.parametrize("value", [5, "@x:y", [5], ["x"], None])
    def test_wrong_arguments_are_the_callers_fault(self, name: str, value: Any) -> None:
        arguments: Any = {"viewer_id": ME, "moved": (), "shared_before": (), "shared_now": (), name: value}
        if name == "viewer_id" and value == "@x:y":
            return
        with pytest.raises(LocalProtocolError) as caught:
            device_list_changes(arguments.pop("viewer_id"), **arguments)
        assert caught.value.path.startswith(f"/{name}")


class TestSyncKeys:
    def test_zero_is_said(self) -> None:
        said = sync_keys({}, {})
        assert said.to_sync_v2() == {
            "device_one_time_keys_count": {"signed_curve25519": 0},
            "device_unused_fallback_key_types": [],
        }

    def test_other_algorithms_are_named_if_there_are_keys(self) -> None:
        said = sync_keys({"signed_curve25519": 3, "curve25519": 0, "x": 1}, {})
        assert said.one_time_key_counts == {"signed_curve25519": 3, "x": 1}

    def test_fallback_keys_that_were_not_used(self) -> None:
        def record(algorithm: str, *, is_used: bool) -> FallbackKeyRecord:
            return FallbackKeyRecord(key_id=f"{algorithm}:1", key="key", is_used=is_used)

        records = {"z": record("z", is_used=False), "a": record("a", is_used=False), "u": record("u", is_used=True)}
        assert sync_keys({}, records).unused_fallback_key_types == ("a", "z")

    def test_lists_are_passed_on(self) -> None:
        changed = DeviceLists(changed=(BOB,))
        assert sync_keys({}, {}, changed).device_lists == changed
        assert sync_keys({}, {}).device_lists is None

    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            ((5, {}, None), "/counts"),
            (({"x": -1}, {}, None), "/counts/x"),
            (({}, {"x": 5}, None), "/fallback_keys/x"),
            (({}, {}, 5), "/lists"),
        ],
    )
    def test_wrong_arguments_are_the_callers_fault(self, arguments: Any, path: str) -> None:
        with pytest.raises(LocalProtocolError) as caught:
            sync_keys(*arguments)
        assert caught.value.path == path


@pytest.mark.parametrize("name", ["moved", "shared_before", "shared_now", "newly_met", "signed"])
def test_of_a_mapping_the_users_are_its_names(name: str) -> None:
    base: dict[str, Any] = {"shared_now": [BOB], "shared_before": [BOB]}
    assert lists(**{**base, name: {CAROL: 5}}) == lists(**{**base, name: [CAROL]})


def test_a_name_in_a_mapping_that_is_no_user_id_is_refused() -> None:
    with pytest.raises(LocalProtocolError) as caught:
        lists(moved={BOB: 1, "x": 2})  # type: ignore[arg-type]
    assert caught.value.path == "/moved/1"
