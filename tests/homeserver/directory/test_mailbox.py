"""Messages to devices, until they are fetched."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given

from matrix_e2e_keys import LocalProtocolError
from matrix_e2e_keys.homeserver.directory.mailbox import Mailbox
from matrix_e2e_keys.testing.strategies import json_like_values

ALICE, BOB = "@alice:a.example", "@bob:a.example"


def event(number: int) -> dict[str, Any]:
    return {"sender": BOB, "type": "m.test", "content": {"n": number}}


def mailbox(*positions: int) -> Mailbox:
    made = Mailbox()
    for position in positions:
        made.put(ALICE, "PHONE", event(position), position=position)
    return made


class TestFetching:
    def test_nothing_at_first(self) -> None:
        assert Mailbox().fetch(ALICE, "PHONE", after=0) == ()

    def test_in_order_and_again_until_they_are_acknowledged(self) -> None:
        made = mailbox(1, 2, 3)
        for _ in range(2):
            assert made.fetch(ALICE, "PHONE", after=0) == (event(1), event(2), event(3))
        assert made.fetch(ALICE, "PHONE", after=2) == (event(3),)
        assert made.fetch(ALICE, "PHONE", after=0) == (event(3),)
        assert made.fetch(ALICE, "PHONE", after=3) == ()
        assert made.fetch(ALICE, "PHONE", after=0) == ()

    def test_each_device_has_its_own(self) -> None:
        made = mailbox(1)
        made.put(ALICE, "LAPTOP", event(2), position=2)
        made.put(BOB, "PHONE", event(3), position=3)
        assert made.fetch(ALICE, "LAPTOP", after=0) == (event(2),)
        assert made.fetch(BOB, "PHONE", after=0) == (event(3),)
        assert made.fetch(ALICE, "PHONE", after=9) == ()
        assert made.fetch(ALICE, "LAPTOP", after=0) == (event(2),)

    def test_what_is_kept_cannot_be_changed_from_outside(self) -> None:
        made, sent = Mailbox(), event(1)
        made.put(ALICE, "PHONE", sent, position=1)
        sent["content"]["n"] = 7
        made.fetch(ALICE, "PHONE", after=0)[0]["content"]["n"] = 8
        made.to_json()["waiting"][0]["event"]["content"]["n"] = 9
        assert made.fetch(ALICE, "PHONE", after=0) == (event(1),)

    def test_a_device_that_is_gone_gets_nothing(self) -> None:
        made = mailbox(1)
        made.put(ALICE, "LAPTOP", event(2), position=2)
        made.forget(ALICE, "PHONE")
        made.forget(ALICE, "PHONE")
        made.forget(BOB, "PHONE")
        assert made.fetch(ALICE, "PHONE", after=0) == ()
        assert made.fetch(ALICE, "LAPTOP", after=0) == (event(2),)


class TestWhatCameBefore:
    def test_a_name_is_new_once(self) -> None:
        made = Mailbox()
        assert [made.is_new(name) for name in ("a", "b", "a", "b", "c")] == [True, True, False, False, True]

    def test_the_oldest_names_are_forgotten(self) -> None:
        made = Mailbox()
        assert all(made.is_new(str(number)) for number in range(10_000))
        assert not made.is_new("0")
        assert made.is_new("10000")
        assert not made.is_new("1")
        assert made.is_new("0")
        assert made.is_new("1")


class TestStoring:
    def test_everything_comes_back(self) -> None:
        made = mailbox(1, 2)
        made.put(BOB, "PHONE", event(3), position=3)
        made.is_new("a")
        made.is_new("b")
        restored = Mailbox.from_json(json.loads(json.dumps(made.to_json())))
        assert restored.to_json() == made.to_json()
        assert restored.fetch(ALICE, "PHONE", after=1) == (event(2),)
        assert restored.fetch(BOB, "PHONE", after=0) == (event(3),)
        assert not restored.is_new("a")
        assert restored.is_new("c")

    @pytest.mark.parametrize(
        ("member", "value"),
        [("user_id", 7), ("device_id", None), ("event", []), ("event", "text"), ("position", "1"), ("position", True)],
    )
    def test_a_damaged_message_is_named(self, member: str, value: object) -> None:
        stored = mailbox(1, 2).to_json()
        stored["waiting"][1][member] = value
        with pytest.raises(LocalProtocolError) as caught:
            Mailbox.from_json(stored)
        assert caught.value.path == f"/waiting/1/{member}"

    @pytest.mark.parametrize(
        "damage", [{"version": 2}, {"version": None}, {"seen": [7]}, {"seen": {}}, {"waiting": {}}, {"waiting": [7]}]
    )
    def test_what_is_damaged_is_not_read(self, damage: dict[str, object]) -> None:
        with pytest.raises(LocalProtocolError):
            Mailbox.from_json({**mailbox(1).to_json(), **damage})

    @given(json_like_values())
    def test_nothing_else_is_raised(self, obj: object) -> None:
        damaged = mailbox(1).to_json()
        damaged["waiting"][0]["event"] = obj
        for stored in (
            obj,
            damaged,
            {"version": 1, "seen": [], "waiting": obj},
            {"version": 1, "seen": obj, "waiting": []},
        ):
            with contextlib.suppress(LocalProtocolError):
                Mailbox.from_json(stored)
