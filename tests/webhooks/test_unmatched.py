"""News of jobs that are not known yet: kept for a while, few of them, in any order."""

from __future__ import annotations

from doitong_async import Generation, JobStatus
from doitong_async.webhooks.unmatched import UnmatchedEvents


def update(job_id: str, status: JobStatus = JobStatus.COMPLETED, url: str | None = None) -> Generation:
    return Generation(id=job_id, status=status, url=url)


def test_it_is_handed_over_once() -> None:
    """To whoever learns of the job."""
    early = UnmatchedEvents()
    early.keep(update("a"), 0.0)
    assert early.adopt("b") is None
    assert early.adopt("a") == update("a")
    assert early.adopt("a") is None
    assert early.next_end is None


def test_several_are_merged() -> None:
    """Like updates of a known job: an end stays, and known values are kept."""
    early = UnmatchedEvents()
    for each in (update("a", url="u"), update("a"), update("a", JobStatus.PROCESSING)):
        early.keep(each, 0.0)
    assert early.adopt("a") == update("a", url="u")


def test_it_is_dropped_in_time() -> None:
    """A fixed time after its first event, however often it repeats, and not before."""
    early = UnmatchedEvents(seconds=60.0)
    early.keep(update("a"), 0.0)
    early.keep(update("b"), 10.0)
    early.keep(update("a"), 50.0)
    assert early.next_end == 60.0
    assert list(early.drop(59.9)) == []
    assert list(early.drop(60.0)) == ["a"]
    assert early.next_end == 70.0
    assert list(early.drop(1e9)) == ["b"]
    assert len(early) == 0


def test_without_other_bounds_a_thousand_jobs_are_kept_for_a_minute() -> None:
    """A submit takes no longer, and a thousand are more than any plan has at once."""
    early = UnmatchedEvents()
    evicted = [early.keep(update(str(number)), 0.0) for number in range(1_001)]
    assert evicted == [None] * 1_000 + ["0"]
    assert early.next_end == 60.0


def test_it_is_bounded() -> None:
    """The oldest is evicted; a job that is kept already evicts none."""
    early = UnmatchedEvents(most=2)
    assert [early.keep(update(job_id), 0.0) for job_id in "abacbd"] == [None, None, None, "a", None, "b"]
    assert len(early) == 2
