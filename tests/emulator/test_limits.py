"""The table of plans and the sliding window."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async.emulator.limits import MINUTE, PLANS, PlanLimits, SlidingWindow, limits_of

gaps = st.lists(st.floats(0, 90) | st.sampled_from([0.0, 30.0, 60.0]), max_size=150)


@given(limit=st.integers(1, 12), gaps=gaps, start=st.floats(0, 1e6))
def test_window_never_lets_more_than_its_limit_in(limit: int, gaps: list[float], start: float) -> None:
    """Whatever the arrivals, no 60 s hold more than R accepted requests."""
    window, now, taken = SlidingWindow(limit), start, []
    for gap in gaps:
        now += gap
        if window.take(now):
            taken.append(now)
    for earlier, later in zip(taken, taken[limit:], strict=False):
        assert earlier + MINUTE <= later


@given(limit=st.integers(1, 5), gaps=gaps, start=st.floats(0, 1e6))
def test_window_has_a_place_when_it_says_so(limit: int, gaps: list[float], start: float) -> None:
    """Who waits until `frees_at` is let in, whatever floats do; who comes any earlier is not."""
    window, now = SlidingWindow(limit), start
    for gap in gaps:
        now += gap
        while not window.take(now):
            assert window.frees_at(now) > now
            now = window.frees_at(now)
            assert window.used(now) < limit


def test_window_gives_a_place_back_after_exactly_a_minute() -> None:
    """A request at 7 s returns its permit at 67 s, not before."""
    window = SlidingWindow(1)
    assert window.take(7.0)
    assert not window.take(66.9)
    assert window.frees_at(66.9) == 67.0
    assert window.take(67.0)


def test_refused_request_takes_no_place() -> None:
    """Knocking at a full window does not keep it full."""
    window = SlidingWindow(1)
    assert window.take(0.0)
    assert not any(window.take(float(second)) for second in range(1, 60))
    assert window.take(60.0)


def test_empty_window_frees_now() -> None:
    """There is nothing to wait for when no permit is taken."""
    assert SlidingWindow(3).frees_at(5.0) == 5.0


@pytest.mark.parametrize(
    ("name", "numbers"), [("free", (10, 1, 100)), ("starter", (30, 3, 1_000)), ("pro", (60, 10, 10_000))]
)
def test_plans_are_the_documented_ones(name: str, numbers: tuple[int, int, int]) -> None:
    """The table is the documentation's; names are read in any case."""
    assert limits_of(name.upper()) == PLANS[name] == PlanLimits(*numbers)


def test_own_limits_pass_through() -> None:
    """Numbers of one's own, as for Enterprise, are taken as they are."""
    own = PlanLimits(600, 100, None)
    assert limits_of(own) is own


def test_unknown_plan_is_refused_by_name() -> None:
    """A misspelt plan is an error that names the known ones."""
    with pytest.raises(ValueError, match="'gold' is none of free, starter, pro"):
        limits_of("gold")
