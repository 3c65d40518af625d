"""The daily quota: jobs are reserved, counted, and reset at the service's midnight."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from doitong_async.limits.quota import LENGTH, DailyQuota

MIDNIGHT = 20_000 * LENGTH


def make_job(day: DailyQuota, wall: float) -> None:
    """Reserve one job and have it accepted."""
    day.reserve()
    day.settle(wall, was_made=True)


def test_a_day_is_over_when_its_jobs_are_used_up() -> None:
    """The next day begins at midnight."""
    day = DailyQuota(2)
    for _ in range(2):
        assert not day.is_over(MIDNIGHT + 10)
        make_job(day, MIDNIGHT + 10)
    assert day.is_over(MIDNIGHT + 10)
    assert day.next_begins(MIDNIGHT + 10) == MIDNIGHT + LENGTH
    assert not day.is_over(MIDNIGHT + LENGTH)


def test_a_reserved_job_counts_until_its_submit_fails() -> None:
    """Two submits at once must not share the last job of a day."""
    day = DailyQuota(1)
    day.reserve()
    assert not day.has_room(MIDNIGHT)
    assert not day.is_over(MIDNIGHT)
    day.settle(MIDNIGHT, was_made=False)
    assert day.has_room(MIDNIGHT)


def test_a_job_counts_for_the_day_that_accepted_it() -> None:
    """The service counts it that way."""
    day = DailyQuota(1)
    assert not day.is_over(MIDNIGHT - 1)
    day.reserve()
    day.settle(MIDNIGHT + 1, was_made=True)
    assert day.is_over(MIDNIGHT + 1)


def test_a_day_may_begin_at_another_hour() -> None:
    """00:00 UTC is an assumption."""
    day = DailyQuota(1, starts_at=8 * 3600)
    make_job(day, MIDNIGHT + 7 * 3600)
    assert day.is_over(MIDNIGHT + 7.9 * 3600)
    assert not day.is_over(MIDNIGHT + 8 * 3600)


def test_without_a_limit_no_day_is_over_until_the_service_says_so() -> None:
    """Enterprise is unlimited, but a 429 is trusted."""
    day = DailyQuota(None)
    for _ in range(1000):
        make_job(day, MIDNIGHT)
    assert not day.is_over(MIDNIGHT)
    day.end(MIDNIGHT + 100)
    assert day.is_over(MIDNIGHT + 99)
    assert day.next_begins(MIDNIGHT + 99) == MIDNIGHT + 100
    assert not day.is_over(MIDNIGHT + 100)


def test_a_clock_set_back_returns_to_its_own_days_count() -> None:
    """Jobs count for the day the clock showed and for no other, before, after or between."""
    day = DailyQuota(1)
    make_job(day, MIDNIGHT)
    assert day.is_over(MIDNIGHT + 10)
    make_job(day, MIDNIGHT + 5 * LENGTH)
    assert day.is_over(MIDNIGHT + 5 * LENGTH)
    # The clock is set back.
    assert day.is_over(MIDNIGHT + 20)
    assert day.next_begins(MIDNIGHT + 20) == MIDNIGHT + LENGTH
    assert [day.has_room(MIDNIGHT + number * LENGTH) for number in range(-1, 5)] == [
        *(True, False, True, True, True, True)
    ]
    assert day.number(MIDNIGHT + 5 * LENGTH) - day.number(MIDNIGHT) == 5


def test_a_429_on_a_future_day_does_not_end_today() -> None:
    """The 429 came while the clock was ahead, and is void once the clock is set back."""
    day = DailyQuota(None)
    wrong = MIDNIGHT + 5 * LENGTH
    day.end(wrong + 100, said_at=wrong)
    assert day.is_ended(wrong + 99)
    assert not day.is_ended(MIDNIGHT)
    day.end(MIDNIGHT + 100, said_at=MIDNIGHT)
    day.end(MIDNIGHT + 50, said_at=MIDNIGHT)
    assert day.next_begins(MIDNIGHT + 10) == MIDNIGHT + 100


def test_a_ledger_is_counted_once_a_day() -> None:
    """Jobs made and written here do not count again; jobs that others wrote since do."""
    day = DailyQuota(10)
    day.carry(MIDNIGHT, 4, source="a")
    for _ in range(2):
        make_job(day, MIDNIGHT)
        day.writes(MIDNIGHT, source="a")
    day.carry(MIDNIGHT, 6, source="a")
    day.carry(MIDNIGHT, 1, source="b")
    assert day.has_room(MIDNIGHT)
    day.carry(MIDNIGHT, 9, source="a")
    assert day.is_over(MIDNIGHT)
    # Another day of the same ledger, as after it was first opened with a wrong clock.
    day.carry(MIDNIGHT + LENGTH, 10, source="a")
    assert day.is_over(MIDNIGHT + LENGTH)


def test_a_day_is_far_from_full_until_most_of_its_jobs_are_made() -> None:
    """Others are unlikely to have used the rest; an unlimited day is always far from full."""
    day = DailyQuota(10)
    for _ in range(8):
        assert day.is_far_from_full(MIDNIGHT)
        make_job(day, MIDNIGHT)
    assert not day.is_far_from_full(MIDNIGHT)
    assert DailyQuota(None).is_far_from_full(MIDNIGHT)


def test_a_day_is_fresh_until_it_is_used() -> None:
    """A reserved job, an accepted job or a 429 uses it; the next day is fresh again."""
    day = DailyQuota(10)
    assert day.is_fresh(MIDNIGHT)
    day.reserve()
    assert not day.is_fresh(MIDNIGHT)
    day.settle(MIDNIGHT, was_made=False)
    assert day.is_fresh(MIDNIGHT)
    make_job(day, MIDNIGHT)
    assert not day.is_fresh(MIDNIGHT)
    assert day.is_fresh(MIDNIGHT + LENGTH)
    day.end(MIDNIGHT + 2 * LENGTH, said_at=MIDNIGHT + LENGTH)
    assert not day.is_fresh(MIDNIGHT + LENGTH)


def test_the_error_says_who_set_the_limit_and_when_the_next_day_begins() -> None:
    """It gives the time in seconds from now and as a date."""
    day = DailyQuota(2, starts_at=3_600.0)
    error = day.error(MIDNIGHT + 3_610, "free")
    assert error.message == "No more jobs today: the plan 'free' allows 2 a day."
    assert error.retry_after == LENGTH - 10
    assert error.resets_at == datetime.fromtimestamp(MIDNIGHT + LENGTH + 3_600, UTC)
    day.end(MIDNIGHT + 7_200, said_at=MIDNIGHT + 3_610)
    error = day.error(MIDNIGHT + 3_610, "free")
    assert (error.message, error.retry_after) == ("No more jobs today: the service says so.", 3_590)
    assert "the service says so" in DailyQuota(None).error(MIDNIGHT, "enterprise").message


def test_reserved_jobs_count_with_those_made() -> None:
    """Without a limit there is always room, until the service says otherwise."""
    day = DailyQuota(3)
    make_job(day, MIDNIGHT)
    day.reserve()
    assert day.has_room(MIDNIGHT)
    day.reserve()
    assert not day.has_room(MIDNIGHT)
    unlimited = DailyQuota(None)
    unlimited.reserve()
    assert unlimited.has_room(MIDNIGHT)
    unlimited.end(MIDNIGHT + 10, said_at=MIDNIGHT)
    assert not unlimited.has_room(MIDNIGHT)


def test_a_ledger_with_fewer_jobs_than_written_reduces_no_count() -> None:
    """A restored copy may hold fewer; the number of the day marks its rows."""
    day = DailyQuota(2)
    for _ in range(2):
        make_job(day, MIDNIGHT)
        assert day.writes(MIDNIGHT, source="a") == day.number(MIDNIGHT) == 20_000
    day.carry(MIDNIGHT, 1, source="a")
    assert day.is_over(MIDNIGHT)


@given(st.integers(1, 5), st.lists(st.tuples(st.floats(0, 40_000), st.booleans()), max_size=60))
def test_no_day_ever_exceeds_its_limit(limit: int, steps: list[tuple[float, bool]]) -> None:
    """For any sequence of times and outcomes, counted by the service's own days."""
    day, wall, made = DailyQuota(limit), MIDNIGHT, dict[int, int]()
    for seconds, was_made in steps:
        wall += seconds
        if day.has_room(wall):
            day.reserve()
            day.settle(wall, was_made=was_made)
            made[int(wall // LENGTH)] = made.get(int(wall // LENGTH), 0) + was_made
    assert all(count <= limit for count in made.values())
