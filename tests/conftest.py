"""What holds for every test: no property fails because the machine was slow, or by the luck of a draw."""

from __future__ import annotations

import gc

import hypothesis

# A client imports it when it opens, and with it gql and aiohttp: before everything is frozen below, or each
# collection would go through all of their objects again.
import doitong_async.runtime  # noqa: F401

# Building its tables takes seconds on a fresh clone of a busy machine; speed is for `python -m benchmarks`.
# And a check is of the change at hand, so it draws the same examples every time; new ones are looked for by
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
    """Leave what is loaded by now out of every collection: many tests collect, to see what they left."""
    gc.collect()
    gc.freeze()
