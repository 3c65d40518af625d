"""The table of plans and the sliding window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.emulator.limits import MINUTE, PLANS, PlanLimits, SlidingWindow, limits_of

gaps = st.lists(st.floats(0, 90) | st.sampled_from([0.0, 30.0, 60.0]), max_size=150)


@given(limit=st.integers(1, 12), gaps=gaps, start=st.floats(0, 1e6))
def test_window_never_admits_more_than_its_limit(limit: int, gaps: list[float], start: float) -> None:
    """For any arrivals, no 60 s hold more than R accepted requests."""
    window, now, taken = SlidingWindow(limit), start, []
    for gap in gaps:
        now += gap
        if window.take(now):
            taken.append(now)
    for earlier, later in zip(taken, taken[limit:], strict=False):
        assert earlier + MINUTE <= later


@given(limit=st.integers(1, 5), gaps=gaps, start=st.floats(0, 1e6))
def test_window_has_a_permit_when_it_says_so(limit: int, gaps: list[float], start: float) -> None:
    """A caller that waits until `frees_at` gets one despite float rounding; an earlier caller does not."""
    window, now = SlidingWindow(limit), start
    for gap in gaps:
        now += gap
        while not window.take(now):
            assert window.frees_at(now) > now
            now = window.frees_at(now)
            assert window.used(now) < limit


def test_a_permit_comes_back_after_exactly_a_minute() -> None:
    """A request at 7 s returns its permit at 67 s, not before."""
    window = SlidingWindow(1)
    assert window.take(7.0)
    assert not window.take(66.9)
    assert window.frees_at(66.9) == 67.0
    assert window.take(67.0)


def test_rejected_request_takes_no_permit() -> None:
    """Retries against a full window do not keep it full."""
    window = SlidingWindow(1)
    assert window.take(0.0)
    assert not any(window.take(float(second)) for second in range(1, 60))
    assert window.take(60.0)


def test_empty_window_frees_now() -> None:
    """Without taken permits there is nothing to wait for."""
    assert SlidingWindow(3).frees_at(5.0) == 5.0


@pytest.mark.parametrize(
    ("name", "numbers"), [("free", (10, 1, 100)), ("starter", (30, 3, 1_000)), ("pro", (60, 10, 10_000))]
)
def test_plans_are_the_documented_ones(name: str, numbers: tuple[int, int, int]) -> None:
    """The table is the documentation's; names are case-insensitive."""
    assert limits_of(name.upper()) == PLANS[name] == PlanLimits(*numbers)


def test_custom_limits_are_used_unchanged() -> None:
    """Such as those of an Enterprise plan."""
    own = PlanLimits(600, 100, None)
    assert limits_of(own) is own


def test_unknown_plan_is_rejected() -> None:
    """The error for a misspelt plan names the known ones."""
    with pytest.raises(ValueError, match="'gold' is none of free, starter, pro"):
        limits_of("gold")
