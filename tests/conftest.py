"""Settings for every test: no property test fails because the machine is slow, or by a random draw."""

from __future__ import annotations

import gc

import hypothesis

# An opening client imports it, and with it gql and aiohttp. Import it before `freeze` below, or each
# collection would go through all of their objects again.
import doitong_async.runtime  # noqa: F401

# Hypothesis needs seconds to build its tables on a busy machine; `python -m benchmarks` measures speed.
# A check must judge the change at hand, so it draws the same examples every time. To draw new ones, run
# `python -m pytest --hypothesis-profile=exploring`.
for name, is_repeatable in (("exploring", False), ("any machine", True)):
    hypothesis.settings.register_profile(
        name,
        deadline=None,
        derandomize=is_repeatable,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Exempt everything loaded so far from collection: many tests collect, to see what they leave behind."""
    gc.collect()
    gc.freeze()
