"""Delays that double: 15 seconds to 15 minutes."""

from __future__ import annotations

import pytest

from matrix_e2e_keys import LocalProtocolError
from matrix_e2e_keys.back_off import BackOff, check_now, granted


def test_every_failure_doubles_the_delay() -> None:
    back_off = BackOff()
    now = 1000
    delays: list[int] = []
    for _ in range(9):
        back_off.failed("a.example", now)
        delays.append(back_off.ready_at("a.example") - now)
        now = back_off.ready_at("a.example")
    assert delays == [15_000, 30_000, 60_000, 120_000, 240_000, 480_000, 900_000, 900_000, 900_000]
    assert back_off.ready_at("b.example") < 0


def test_success_forgets() -> None:
    back_off = BackOff()
    for now in (0, 15_000):
        back_off.failed("a", now)
    back_off.succeeded("a")
    back_off.succeeded("nobody")
    assert back_off.ready_at("a") < 0
    back_off.failed("a", 100_000)
    assert back_off.ready_at("a") == 115_000


def test_a_failure_while_one_waits_counts_no_further() -> None:
    back_off = BackOff()
    back_off.failed("a", 0)
    back_off.failed("a", 5_000)
    assert back_off.ready_at("a") == 20_000
    back_off.failed("a", 20_000)
    assert back_off.ready_at("a") == 50_000


def test_at_least() -> None:
    back_off = BackOff()
    back_off.failed("a", 0, at_least_ms=60_000)
    assert back_off.ready_at("a") == 60_000
    back_off.failed("a", 1_000, at_least_ms=1)
    assert back_off.ready_at("a") == 60_000


@pytest.mark.parametrize("now", [None, "1", 1.0, True], ids=repr)
def test_a_time_is_an_integer(now: object) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        check_now(now)
    assert caught.value.path == "/now"


def test_what_a_server_wishes_for_is_granted_up_to_an_hour() -> None:
    assert [granted(wish) for wish in (None, 0, 5, 3_600_000, 2**53 - 1)] == [0, 0, 5, 3_600_000, 3_600_000]
