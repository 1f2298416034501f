"""Hypothesis profiles, chosen with HYPOTHESIS_PROFILE.

By default each run looks at other examples. ``ci`` looks at the same ones each time: a change is not held up by what it
did not bring. ``nightly`` looks at many more.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=False
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("nightly", parent=settings.get_profile("default"), max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
