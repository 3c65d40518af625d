"""When to look next: the earliest wish, never sooner than 2 s after the last look."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.jobs.schedule import LONGEST_TICK, TICK, may_join, next_tick

moments = st.integers(0, 10_000).map(lambda n: n / 8)


def test_without_jobs_there_is_no_tick() -> None:
    """Nobody is asked about nothing."""
    assert next_tick([], last=0.0, failures=0) is None


@pytest.mark.parametrize(
    ("due", "last", "expected"),
    [([12.0], 0.0, 12.0), ([15.0, 11.0, 13.0], 0.0, 11.0), ([10.5], 10.0, 12.0), ([12.0], 10.0, 12.0)],
)
def test_the_earliest_wish_is_granted_but_not_too_soon(
    due: list[float], last: float, expected: float
) -> None:
    """One tick for all of them, two seconds apart."""
    assert next_tick(due, last=last, failures=0) == expected


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (8, 30), (9, 30), (10**9, 30)]
)
def test_a_failing_service_is_asked_less_and_less(failures: int, seconds: float) -> None:
    """Twice as long after each failure but the first, up to half a minute, however long it lasts."""
    assert next_tick([0.0], last=100.0, failures=failures) == 100.0 + seconds


@settings(deadline=None, max_examples=100)
@given(st.lists(moments, min_size=1), moments, st.integers(0, 20))
def test_a_tick_is_never_too_soon_and_never_later_than_it_must(
    due: list[float], last: float, failures: int
) -> None:
    """It depends on no order, and more failures never make it sooner."""
    tick = next_tick(due, last=last, failures=failures)
    assert tick is not None
    assert tick >= max(min(due), last + TICK)
    assert tick <= max(min(due), last + LONGEST_TICK)
    assert tick == next_tick(reversed(due), last=last, failures=failures)
    later = next_tick(due, last=last, failures=failures + 1)
    assert later is not None
    assert later >= tick


@pytest.mark.parametrize(("now", "joins"), [(10.0, False), (11.999, False), (12.0, True), (99.0, True)])
def test_a_young_job_does_not_join(now: float, joins: bool) -> None:
    """It was accepted at 10 s; the documented loop waits two seconds before its first look."""
    assert may_join(10.0, now) is joins
