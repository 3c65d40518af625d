"""Unmatched events, of jobs not known yet: a few are kept for a while, in any order."""

from __future__ import annotations

from doitong_async import Generation, JobStatus
from doitong_async.webhooks.unmatched import UnmatchedEvents


def update(job_id: str, status: JobStatus = JobStatus.COMPLETED, url: str | None = None) -> Generation:
    return Generation(id=job_id, status=status, url=url)


def test_an_unmatched_event_is_adopted_once() -> None:
    """By its own job only."""
    unmatched = UnmatchedEvents()
    unmatched.keep(update("a"), 0.0)
    assert unmatched.adopt("b") is None
    assert unmatched.adopt("a") == update("a")
    assert unmatched.adopt("a") is None
    assert unmatched.next_end is None


def test_several_events_of_a_job_are_merged() -> None:
    """Like updates of a known job: an end stays, and known values are kept."""
    unmatched = UnmatchedEvents()
    for each in (update("a", url="u"), update("a"), update("a", JobStatus.PROCESSING)):
        unmatched.keep(each, 0.0)
    assert unmatched.adopt("a") == update("a", url="u")


def test_an_unmatched_event_is_dropped_in_time() -> None:
    """A fixed time after its first event, however often it repeats, and not before."""
    unmatched = UnmatchedEvents(seconds=60.0)
    unmatched.keep(update("a"), 0.0)
    unmatched.keep(update("b"), 10.0)
    unmatched.keep(update("a"), 50.0)
    assert unmatched.next_end == 60.0
    assert list(unmatched.drop(59.9)) == []
    assert list(unmatched.drop(60.0)) == ["a"]
    assert unmatched.next_end == 70.0
    assert list(unmatched.drop(1e9)) == ["b"]
    assert len(unmatched) == 0


def test_by_default_a_thousand_jobs_are_kept_for_a_minute() -> None:
    """A submit takes no longer, and no plan runs a thousand jobs at once."""
    unmatched = UnmatchedEvents()
    evicted = [unmatched.keep(update(str(number)), 0.0) for number in range(1_001)]
    assert evicted == [None] * 1_000 + ["0"]
    assert unmatched.next_end == 60.0


def test_the_number_of_kept_jobs_is_bounded() -> None:
    """The oldest is evicted; another event of a kept job evicts none."""
    unmatched = UnmatchedEvents(most=2)
    assert [unmatched.keep(update(job_id), 0.0) for job_id in "abacbd"] == [None, None, None, "a", None, "b"]
    assert len(unmatched) == 2
