"""What holds for every test: no property fails because the machine was slow."""

from __future__ import annotations

import hypothesis

# Building its tables takes seconds on a fresh clone of a busy machine; speed is for `python -m benchmarks`.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
