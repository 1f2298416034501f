"""``KeyDirectory`` and a real homeserver, asked the same: where they differ, a table says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from interop.divergence_page import page
from interop.divergences import DIVERGENCES, FORMS, Divergence, Form, rows_of
from interop.model_steps import Steps
from interop.model_stories import (
    FORM_STORIES,
    STORIES,
    alike,
    good,
    replace,
    sign_master,
    sign_own,
    with_identity,
    with_keys,
)
from interop.model_world import Device, World, spoiled
from interop.synapse_server import SynapseServer

pytestmark = pytest.mark.interop

STEPS: Final = settings(
    max_examples=max(settings().max_examples // 6, 10),
    stateful_step_count=30,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
KINDS: Final = {"upload", "query", "claim", "device_signing", "signatures", "sync", "changes", "log_in", "rename"}


@pytest.fixture(scope="module")
def world(synapse: SynapseServer, other_synapse: SynapseServer) -> World:
    """Both pairs of servers."""
    return World(synapse, other_synapse)


class TestTheTable:
    def test_the_page_of_the_manual_is_made_of_it(self) -> None:
        manual = Path(__file__).parents[2] / "docs" / "divergences.md"
        if not manual.exists():
            pytest.skip("there is no manual beside the tests")
        assert manual.read_text() == page()

    def test_each_row_has_a_story_and_each_story_a_row(self) -> None:
        for rows, stories in ((DIVERGENCES, STORIES), (FORMS, FORM_STORIES)):
            names = [row.name for row in rows]
            assert len(set(names)) == len(names)
            assert set(names) == set(stories)

    @pytest.mark.parametrize("row", DIVERGENCES, ids=lambda row: row.name)
    def test_each_divergence_shows_in_its_story_and_no_other_does(self, world: World, row: Divergence) -> None:
        found = STORIES[row.name](world)
        assert found
        for seen in found:
            assert seen.kind == row.kind
            assert rows_of(seen) == {row.name}, seen
            assert seen.here.verdict == row.here.partition(",")[0]

    @pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
    def test_each_form_shows_in_its_story_and_counts_as_the_same(self, world: World, form: Form) -> None:
        (seen,) = FORM_STORIES[form.name](world)
        assert seen.kind == form.kind
        assert form.shows(seen), seen
        assert rows_of(seen) == set()


class TestStoriesWithoutDivergence:
    """What the steps in any order come to seldom."""

    def test_news_of_who_shares_a_room(self, world: World) -> None:
        device, other, stranger = with_identity(world), with_identity(world), with_keys(world)
        room = world.share_room(device, other)
        world.share_room(stranger)

        def tell(*changed: Device, left: tuple[Device, ...] = ()) -> None:
            for seen in other.catch_up():
                lists = alike(seen).here.body if seen.kind == "changes" else seen.here.body["device_lists"]
                assert set(lists["changed"]) == {one.user.user_id for one in changed}
                assert lists["left"] == [one.user.user_id for one in left]
            for one in (device, stranger):
                for seen in one.catch_up():
                    alike(seen)

        for one in (device, other, stranger):
            one.catch_up()
        good(device.upload({"device_keys": device.keys(more=1)}))
        tell(device)
        good(device.upload({"one_time_keys": device.one_time_key("A")}))
        tell()
        good(device.rename("PHONE", "Name"))
        tell(device)
        _, second = device.log_in("SECOND")
        assert second is not None
        tell(device)
        good(second.log_out())
        tell(device)
        good(stranger.upload({"device_keys": stranger.keys(more=1)}))
        tell()
        good(sign_own(other))
        tell(other)
        good(sign_master(other, device, "user_signing"))
        tell(device)
        replace(device)
        tell(device)
        room.leave(device)
        tell(left=(device,))
        good(device.upload({"device_keys": device.keys(more=2)}))
        tell()
        room.join(device)
        other_saw = [rows_of(seen) for seen in other.catch_up()]
        assert other_saw == [set(), set()]

    @pytest.mark.parametrize("server", [0, 1])
    def test_one_time_keys_and_then_the_fallback_key(self, world: World, server: int) -> None:
        device, other = with_keys(world), with_keys(world, server=server)
        for name in ("B", "A"):
            good(device.upload({"one_time_keys": device.one_time_key(name)}))
        good(device.upload({"fallback_keys": device.one_time_key("F", fallback=True)}))
        claimed = []
        for _ in range(4):
            seen = good(other.claim_of(device))
            claimed += list(seen.here.body["one_time_keys"][device.user.user_id]["PHONE"])
            alike(device.sync()[0])
        assert [name.partition(":")[2] for name in claimed] == ["B", "A", "F", "F"]
        good(device.upload({"fallback_keys": device.one_time_key("F", fallback=True)}))
        assert alike(device.sync()[0]).here.body["device_unused_fallback_key_types"] == []
        good(device.upload({"fallback_keys": device.one_time_key("G", fallback=True)}))
        assert alike(device.sync()[0]).here.body["device_unused_fallback_key_types"] == ["signed_curve25519"]

    def test_names_are_shown_to_users_of_the_same_server(self, world: World) -> None:
        device = world.new_user(display_name="Phone")
        good(device.upload({"device_keys": device.keys()}))
        shown = [
            good(one.query_of(device)).here.body["device_keys"][device.user.user_id]["PHONE"]["unsigned"]
            for one in (with_keys(world), with_keys(world, server=1))
        ]
        assert shown == [{"device_display_name": "Phone"}, {}]

    def test_whose_keys_are_uploaded(self, world: World) -> None:
        device = world.new_user()
        for changes in ({"user_id": "@somebody:example.org"}, {"device_id": "ELSEWHERE"}):
            seen = alike(device.upload({"device_keys": {**device.keys(), **changes}}))
            assert seen.here.verdict == "400 M_BAD_JSON"
            assert seen.here.body == seen.there.body

    def test_another_one_time_key_of_the_same_name(self, world: World) -> None:
        device = with_keys(world)
        good(device.upload({"one_time_keys": device.one_time_key("A")}))
        both = {**device.one_time_key("A", seed="other"), **device.one_time_key("B")}
        assert alike(device.upload({"one_time_keys": both})).here.verdict == "400 M_UNKNOWN"
        assert good(device.upload({})).here.body == {"one_time_key_counts": {"signed_curve25519": 1}}

    def test_another_identity_takes_the_password(self, world: World) -> None:
        device = with_identity(world)
        for role in ("master", "self_signing"):
            seen, new = device.log_in(device.user.public_key(role))
            assert (alike(seen).here.verdict, new) == ("400 M_FORBIDDEN", None)
        device.user.generation += 1
        wrong = {**device.password, "password": "wrong"}
        for auth, verdict in ((None, "401"), (wrong, "401 M_FORBIDDEN"), (device.password, "200")):
            assert alike(device.device_signing(device.user.identity(), auth=auth)).here.verdict == verdict
        good(device.query_of(device))

    def test_keys_that_the_master_key_has_not_signed(self, world: World) -> None:
        device = with_keys(world)
        for role in ("self_signing", "user_signing"):
            body = {**device.user.identity(), f"{role}_key": spoiled(device.user.key(role))}
            assert alike(device.device_signing(body)).here.verdict == "400 M_INVALID_SIGNATURE"
        good(device.query_of(device))

    def test_signatures_are_shown_to_whom_they_concern(self, world: World) -> None:
        device, other = with_identity(world), with_identity(world)
        good(sign_own(device))
        good(sign_master(device, other, "user_signing"))
        for one in (device, other, with_keys(world), with_keys(world, server=1)):
            good(one.query_of(device, other)) if one.user.server == 0 else good(one.query_of(device))


class TestStepsInAnyOrder:
    def test_both_sides_say_the_same_but_for_the_table(self, world: World) -> None:
        class Machine(Steps):
            taken: ClassVar[Counter[str]] = Counter()
            shown: ClassVar[Counter[str]] = Counter()

        Machine.world = world
        run_state_machine_as_test(Machine, settings=STEPS)  # type: ignore[no-untyped-call]
        assert set(Machine.taken) >= KINDS
