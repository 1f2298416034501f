"""Names by rank: whatever is put in, changed and taken out, the lowest comes first, and nothing is left behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from matrix_e2e_keys.homeserver.device_streams.ranking import Ranking

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcde"), st.integers(0, 4)),
        st.tuples(st.sampled_from(["discard", "take"]), st.sampled_from("abcde"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_is_a_dict_of_which_the_lowest_is_taken(steps: list[tuple[str, str, int]]) -> None:
    made = Ranking()
    plain: dict[str, int] = {}
    for step, name, rank in steps:
        if step == "put":
            made.put(name, rank)
            plain[name] = rank
        elif step == "discard":
            made.discard(name)
            plain.pop(name, None)
        elif plain:
            first = min((rank, name) for name, rank in plain.items())[1]
            assert (made.first(), made.take()) == (first, first)
            del plain[first]
        assert made.lowest == min(plain.values(), default=None)


def test_what_is_gone_is_not_kept() -> None:
    made = Ranking()
    made.put("first", -1)
    for number in range(10_000):
        made.put("a", number)
        made.put(f"n{number}", number)
        made.discard(f"n{number}")
    assert len(made._heap) < 30
    assert (made.take(), made.take(), made.lowest) == ("first", "a", None)


def test_neither_is_what_is_taken_out_of_many() -> None:
    made = Ranking()
    made.put("first", -1)  # so that nothing else comes to the front
    for number in range(10_000):
        made.put(f"n{number}", number)
    for number in range(10_000):
        made.discard(f"n{number}")
    assert len(made._heap) < 30
    assert (made.take(), made.lowest) == ("first", None)


def test_the_same_rank_again_is_nothing_new() -> None:
    made = Ranking()
    for _ in range(5):
        made.put("a", 1)
    assert len(made._heap) == 1


def test_the_order_stays_when_what_is_gone_is_dropped() -> None:
    made = Ranking()
    for number in range(1000):
        made.put(f"n{number}", -number)
    for number in range(1000):
        if number % 100:
            made.discard(f"n{number}")
    assert [made.take() for _ in range(10)] == [f"n{number}" for number in range(900, -1, -100)]
