"""Hypothesis strategies and small tools that the tests of the lower floors share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

T = TypeVar("T")

MAX_SAFE = 2**53 - 1

modest = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
"""For properties whose one example costs little: as many examples as the profile says."""

few = settings(modest, max_examples=max(settings().max_examples // 3, 20))
"""For properties that sign, verify or run many calls per example."""

safe_text = st.text(max_size=8)
"""Text without lone surrogates."""

any_text = st.text(st.characters(), max_size=8) | st.sampled_from(["\ud800", "a\udfff", "\udc80b", "\x00", "\ufeff"])
"""Text that may hold lone surrogates."""

safe_integers = st.integers(-MAX_SAFE, MAX_SAFE)

safe_leaves = st.none() | st.booleans() | safe_integers | safe_text


def _containers(children: Any) -> Any:
    return st.lists(children, max_size=4) | st.dictionaries(safe_text, children, max_size=4)


safe_values = st.recursive(safe_leaves, _containers, max_leaves=12)
"""Every value that canonical JSON can represent."""

safe_objects = st.dictionaries(safe_text, safe_values, max_size=5)
"""Every object that canonical JSON can represent."""

wild_leaves = (
    safe_leaves
    | any_text
    | st.floats()
    | st.integers()
    | st.sampled_from([2**53, -(2**53), 10**400, 1.0, 0.0, -0.0, b"bytes", (), {1}, object, 1j, range(3)])
)


def _wild_containers(children: Any) -> Any:
    names = any_text | st.integers() | st.none() | st.booleans()
    return (
        st.lists(children, max_size=4)
        | st.dictionaries(any_text, children, max_size=4)
        | st.dictionaries(names, children, max_size=3)
        | st.lists(children, max_size=2).map(tuple)
    )


wild_values = st.recursive(wild_leaves, _wild_containers, max_leaves=12)
"""Values such as callers hand in by mistake: floats, tuples, names that are not strings, lone surrogates."""


def nested(levels: int, *, of: str = "list", core: Any = None) -> Any:
    """Return ``core`` inside ``levels`` lists or dicts."""
    value = core
    for _ in range(levels):
        value = [value] if of == "list" else {"a": value}
    return value


def with_frames_left(left: int, call: Callable[[], T]) -> T:
    """Return ``call()``, called where about ``left`` more Python frames fit on the stack."""
    frame, used = sys._getframe(), 0
    while frame is not None:
        frame, used = frame.f_back, used + 1

    def descend(levels: int) -> T:
        return call() if levels <= 0 else descend(levels - 1)

    return descend(sys.getrecursionlimit() - used - left)
