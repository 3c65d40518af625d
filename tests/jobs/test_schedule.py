"""When to poll next: when the first job is due, never sooner than 2 s after the last poll."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async.jobs.schedule import (
    PARTS,
    TICK,
    Load,
    _ends_in,
    chosen,
    even_tick,
    may_join,
    next_tick,
    safety_net_poll,
    spacing,
    spacing_after,
    tick,
)

moments = st.integers(0, 10_000).map(lambda n: n / 8)


def load(**changes: Any) -> Load:
    """Return a busy moment on Pro, with these changes."""
    usual: dict[str, Any] = {
        "rate": 60,
        "slots": 10,
        "seconds": 6.0,
        "waiting": 200,
        "free": 0,
        "coming": [2, 3] * 12,
    }
    return Load(**{**usual, **changes})


def test_without_jobs_there_is_no_tick() -> None:
    """Nobody polls for nothing."""
    assert next_tick([], last=0.0, spacing=TICK) is None


@pytest.mark.parametrize(
    ("due", "last", "expected"),
    [([12.0], 0.0, 12.0), ([15.0, 11.0, 13.0], 0.0, 11.0), ([10.5], 10.0, 12.0), ([12.0], 10.0, 12.0)],
)
def test_the_next_tick_is_when_the_first_job_is_due_but_not_too_soon(
    due: list[float], last: float, expected: float
) -> None:
    """All jobs share one tick, at least two seconds after the last."""
    assert next_tick(due, last=last, spacing=TICK) == expected


@pytest.mark.parametrize(
    ("failed_polls", "seconds"),
    [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16), (5, 30), (8, 30), (9, 30), (10**9, 30)],
)
def test_a_job_that_fails_alone_is_polled_less_and_less_often(failed_polls: int, seconds: float) -> None:
    """The spacing doubles after each failure but the first, up to 30 s."""
    assert spacing_after(failed_polls) == seconds


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 2), (1, 2), (3, 2), (4, 4), (7, 4), (8, 8), (12, 16), (16, 30), (100, 30), (10**9, 30)],
)
def test_a_failing_service_is_polled_less_and_less_often(failures: int, seconds: float) -> None:
    """The first few failures change nothing; then the spacing doubles every four, up to 30 s."""
    assert spacing(TICK, failures) == seconds


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 12), (1, 2), (2, 4), (5, 10), (6, 12), (8, 12), (12, 16), (16, 30)]
)
def test_a_failed_poll_is_repeated_before_the_next_long_tick(failures: int, seconds: float) -> None:
    """On Free a tick is 12 s, long enough to leave a slot empty."""
    assert spacing(12.0, failures) == seconds


@pytest.mark.parametrize(
    ("last", "expected"), [(-100.0, 13.0), (3.0, 13.0), (5.0, 13.0), (11.0, 13.0), (11.5, 23.0), (13.0, 23.0)]
)
def test_ticks_stay_in_step_with_the_first_job(last: float, expected: float) -> None:
    """After a late or extra poll the next tick returns to the series, at least 2 s away."""
    assert next_tick([5.0], last=last, spacing=10.0, begun=3.0) == expected


def test_ticks_of_two_seconds_follow_the_last_poll() -> None:
    """They have no series to keep: no request comes back on it."""
    assert next_tick([5.0], last=11.5, spacing=TICK, begun=3.0) == 13.5


def test_a_poll_due_after_the_next_tick_keeps_its_time() -> None:
    """With webhooks a job may be due alone, off the series of ticks."""
    assert next_tick([27.5], last=5.0, spacing=10.0, begun=3.0) == 27.5


@settings(deadline=None, max_examples=100)
@given(st.lists(moments, min_size=1), moments, st.integers(2, 60))
def test_a_tick_is_never_too_soon_nor_later_than_necessary(
    due: list[float], last: float, spacing: int
) -> None:
    """The order of the jobs does not matter."""
    moment = next_tick(due, last=last, spacing=spacing)
    assert moment == max(min(due), last + spacing)
    assert moment == next_tick(reversed(due), last=last, spacing=spacing)


@pytest.mark.parametrize(
    ("rate", "slots", "seconds", "expected"),
    [(10, 1, 6.0, 12.0), (30, 3, 6.0, 6.0), (60, 10, 6.0, 10.0), (600, 100, 6.0, 2.0), (60, 10, 90.0, 2.0)],
)
def test_the_even_tick_balances_slots_and_requests(
    rate: int, slots: int, seconds: float, expected: float
) -> None:
    """It follows the formula of the design, divides a minute evenly and is never below 2 s."""
    every = even_tick(rate, slots, seconds)
    assert every == pytest.approx(expected, abs=0.01)
    if every > TICK:
        assert slots / (seconds + every / 2) == pytest.approx(rate / 60 - 1 / every, rel=0.05)
        assert 60 / every == pytest.approx(round(60 / every))


def test_the_tick_is_two_seconds_while_requests_are_plentiful() -> None:
    """Without a queue polls delay nobody; the tick grows only when few requests remain."""
    assert tick(load(seconds=None, free=60)) == TICK
    assert tick(load(waiting=0, free=30)) == TICK
    assert tick(load(waiting=0, free=29)) == TICK
    assert tick(load(rate=10, slots=1, waiting=0, free=5)) == TICK
    assert tick(load(rate=10, slots=1, waiting=0, free=4)) == 6.0
    assert tick(load(rate=10, slots=1, waiting=0, free=4, requests=3)) == 18.0


def test_an_unknown_mean_counts_as_the_balance_of_slots_and_requests() -> None:
    """On Pro that is 10 s: a long queue starts with a longer tick, a short one with 2 s."""
    many = load(seconds=None, waiting=290, free=50, coming=[0] * 23 + [10])
    assert tick(many) == tick(load(seconds=10.0, waiting=290, free=50, coming=[0] * 23 + [10])) == 5.0
    assert tick(load(seconds=None, waiting=5, free=50)) == TICK


def test_polls_that_cost_nothing_come_every_two_seconds() -> None:
    """Where status requests do not count against the minute, spacing them out saves nothing."""
    assert tick(load(polls_count=False)) == TICK


def test_a_long_queue_gets_the_even_tick_and_a_short_one_the_quick() -> None:
    """A spared request starts a job, if enough jobs wait to use it."""
    assert tick(load(waiting=1000)) == 10.0
    assert tick(load(waiting=5, free=40)) == TICK


def test_polls_that_take_many_requests_come_less_often() -> None:
    """A thousand jobs in flight take ten requests each time."""
    few, many = (even_tick(600, 1000, 120.0, requests) for requests in (1, 10))
    assert many > few
    assert 1000 / (120.0 + many / 2) == pytest.approx(600 / 60 - 10 / many, rel=0.05)


def test_the_longest_even_tick_is_a_minute() -> None:
    """After a minute every spent request is back."""
    assert even_tick(1, 1, 6.0) == 60.0


# When the queue ends


def test_slots_limit_how_fast_a_queue_ends() -> None:
    """With plenty of requests, each job holds its slot for 6 s plus half a tick."""
    plenty = load(waiting=100, free=1_000, coming=[0] * PARTS)
    assert _ends_in(plenty, 6.0, 2.0) == pytest.approx(100 / (10 / 7) + 1)
    assert _ends_in(plenty, 6.0, 4.0) == pytest.approx(100 / (10 / 8) + 2)


def test_requests_limit_how_fast_a_queue_ends() -> None:
    """With plenty of slots, polls take their share of one request a second, also beyond the horizon."""
    narrow = load(slots=1_000, coming=[60 / PARTS] * PARTS)
    share = 1_000 / (1_000 + (5.0 + 10.0 / 2) / 10.0)
    for waiting in (10, 10_000):
        ends = _ends_in(load(**{**vars_of(narrow), "waiting": waiting}), 5.0, 10.0)
        assert ends == pytest.approx(waiting / share + 5.0)


def test_spent_requests_come_back_a_minute_later() -> None:
    """Sixty requests start sixty jobs at once; the others wait for the next minute."""
    burst = {"slots": 1_000, "free": 60, "coming": [0] * PARTS}
    assert _ends_in(load(**burst, waiting=50), 5.0, 10.0) < 10.0
    assert 60.0 < _ends_in(load(**burst, waiting=70), 5.0, 10.0) < 70.0
    assert 120.0 < _ends_in(load(**burst, waiting=130), 5.0, 10.0) < 130.0


def test_a_queue_without_requests_never_ends() -> None:
    """No request comes back, so no further job can start."""
    assert _ends_in(load(coming=[0] * PARTS), 6.0, 2.0) == math.inf


def vars_of(any_load: Load) -> dict[str, Any]:
    return {field.name: getattr(any_load, field.name) for field in dataclasses.fields(any_load)}


@given(
    st.builds(
        Load,
        rate=st.integers(1, 10_000),
        slots=st.integers(1, 10_000),
        seconds=st.none() | st.floats(0.0, 1e4),
        waiting=st.integers(0, 10**6),
        free=st.integers(0, 10_000),
        coming=st.lists(st.integers(0, 100), min_size=PARTS, max_size=PARTS),
        requests=st.integers(1, 100),
        polls_count=st.booleans(),
    )
)
def test_a_tick_is_finite_and_at_least_two_seconds(any_load: Load) -> None:
    """Whatever the plan, the queue and the jobs."""
    assert TICK <= tick(any_load) < 10_000_000


@pytest.mark.parametrize(("now", "joins"), [(10.0, False), (11.999, False), (12.0, True), (99.0, True)])
def test_a_young_job_does_not_join(now: float, joins: bool) -> None:
    """It was accepted at 10 s; the documented loop waits two seconds before its first poll."""
    assert may_join(10.0, now) is joins


@pytest.mark.parametrize(
    ("age", "mean", "patience", "expected"),
    [
        (0.0, None, 600.0, 30.0),
        (0.0, 6.0, 600.0, 24.0),
        (24.0, 6.0, 600.0, 48.0),
        (25.0, 6.0, 600.0, 48.0),
        (48.0, 6.0, 600.0, 96.0),
        (96.0, 6.0, 600.0, 156.0),
        (156.0, 6.0, 600.0, 216.0),
        (1e6, 6.0, 600.0, 1_000_056.0),
        (0.0, 0.1, 600.0, 2.0),
        (0.0, 90.0, 600.0, 360.0),
        (360.0, 90.0, 600.0, 420.0),
        (0.0, 6.0, 20.0, 16.0),
        (0.0, None, 3.0, 2.0),
    ],
)
def test_safety_net_polls_become_rare(
    age: float, mean: float | None, patience: float, expected: float
) -> None:
    """The first comes after four times the mean, then each twice as late, at most a minute apart."""
    assert safety_net_poll(age, mean, patience) == expected


@settings(deadline=None, max_examples=200)
@given(moments, st.none() | st.integers(1, 4000).map(lambda n: n / 8), st.integers(1, 5000))
def test_a_safety_net_poll_is_never_too_soon_nor_over_a_minute_late(
    age: float, mean: float | None, patience: float
) -> None:
    """However old the job is, there is a next poll, and polls are 2 s apart."""
    after = safety_net_poll(age, mean, patience)
    first = safety_net_poll(0.0, mean, patience)
    assert first >= TICK
    assert age < after <= max(first, age + 60.0)
    assert safety_net_poll(after, mean, patience) - after >= TICK


def test_a_job_that_is_not_due_costs_no_request() -> None:
    """It joins a poll only if it fits into the same requests, the soonest due first."""
    due = [50.0, 10.0, 40.0, 9.0, 30.0]
    assert chosen(due, 8.0, 3) == []
    assert chosen(due, 10.0, 3) == [3, 1, 4]
    assert chosen(due, 10.0, 2) == [3, 1]
    assert chosen(due, 30.0, 2) == [3, 1, 4, 2]
    assert chosen([], 0.0, 3) == []
