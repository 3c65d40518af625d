"""When the next request may be sent, and which one it is, step by step."""

from __future__ import annotations

import pytest

from doitong_async.limits.headers import Limit, RateLimitHeaders
from doitong_async.limits.permits import Priority
from doitong_async.limits.request_rate import OVERDUE_AFTER, RequestRate

NOTHING = RateLimitHeaders()


def send_and_answer(rate: RequestRate, now: float, priority: Priority = Priority.SUBMIT) -> None:
    """Send a request and have it answered at once."""
    number = rate.send(now, priority)
    rate.over(now, was_sent=True, is_submit=priority is Priority.SUBMIT, number=number)


def test_submits_go_first_and_overdue_polls_alternate_with_them() -> None:
    """Neither starves the other."""
    rate, late = RequestRate(60, 0.0), OVERDUE_AFTER

    def following(now: float, *, polls: bool = True, submits: bool = True) -> Priority | None:
        return rate.next(now, poll_waits_since=0.0 if polls else None, submit_waits=submits, kept=0)

    assert following(0.0, polls=False, submits=False) is None
    assert following(late - 0.1) is Priority.SUBMIT
    assert [following(late) for _ in range(4)] == [Priority.POLL, Priority.SUBMIT] * 2
    assert following(0.0, submits=False) is Priority.POLL


@pytest.mark.parametrize(
    ("limit", "jobs", "taken", "kept"),
    [(60, 10, 10, 0), (60, 60, 1, 0), (60, 60, 2, 6), (6, 6, 2, 1), (1, 6, 2, 0), (900, 900, 2, 30)],
)
def test_submits_leave_some_requests_to_polls_where_slots_are_plentiful(
    limit: int, jobs: int, taken: int, kept: int
) -> None:
    """As soon as there is something to poll."""
    assert RequestRate(limit, 0.0).kept_for_polls(concurrent_jobs=jobs, slots_taken=taken) == kept


def test_requests_kept_for_polls_delay_only_submits() -> None:
    """A submit waits until another request is free."""
    rate = RequestRate(2, 0.0)
    send_and_answer(rate, 0.0)
    assert rate.may_send(5.0, Priority.POLL, kept=1)
    assert not rate.may_send(5.0, Priority.SUBMIT, kept=1)
    assert rate.next_moment(5.0, Priority.SUBMIT, kept=1) == 60.0
    # It may be sent now, so it needs no timer.
    assert rate.next_moment(5.0, Priority.POLL, kept=1) is None


def test_a_429_about_the_minute_pauses_all_and_one_about_jobs_only_submits() -> None:
    """The pause includes the jitter; a caller that waits then waits for the service."""
    rate = RequestRate(60, 0.0)
    rate.rejected(Limit.MINUTE, NOTHING, 10.0, 0.0, 0.5)
    for priority in Priority:
        assert rate.is_held(10.4, priority)
        assert not rate.may_send(10.4, priority, kept=0)
        assert rate.next_moment(1.0, priority, kept=0) == 10.5
    rate.rejected(Limit.SLOT, NOTHING, 20.0, 10.5, 0.5)
    assert rate.may_send(10.5, Priority.POLL, kept=0)
    assert not rate.is_held(10.5, Priority.POLL)
    assert rate.is_held(30.9, Priority.SUBMIT)
    assert rate.next_moment(10.5, Priority.SUBMIT, kept=0) == 31.0


def test_a_429_without_a_wait_pauses_briefly_and_retry_after_sets_the_reset() -> None:
    """Retry-After sets it where no reset is given and no request remains."""
    rate = RequestRate(1, 0.0)
    rate.rejected(Limit.MINUTE, NOTHING, None, 0.0, 0.0)
    assert not rate.may_send(1.9, Priority.SUBMIT, kept=0)
    send_and_answer(rate, 2.0)
    rate.rejected(Limit.MINUTE, RateLimitHeaders(remaining=0), 6.0, 2.0, 0.0)
    assert rate.may_send(8.0, Priority.SUBMIT, kept=0)


def test_beside_other_users_requests_go_one_by_one() -> None:
    """An answer with fewer remaining requests than we count reveals them."""
    rate = RequestRate(60, 0.0)
    number = rate.send(0.0, Priority.SUBMIT)
    assert rate.may_send(0.0, Priority.SUBMIT, kept=0)
    rate.observe(RateLimitHeaders(remaining=30), 0.0, number, was_accepted=True)
    assert not rate.may_send(0.5, Priority.SUBMIT, kept=0)
    assert rate.next_moment(0.5, Priority.SUBMIT, kept=0) == 1.0
    rate.over(0.5, was_sent=True, is_submit=True, number=number)
    assert rate.may_send(0.5, Priority.SUBMIT, kept=0)
    assert not rate.is_fresh(59.9)


def test_retry_after_on_polls_delays_only_polls() -> None:
    """The longest one holds."""
    rate = RequestRate(60, 0.0)
    rate.delay_polls(20.0)
    rate.delay_polls(5.0)
    assert rate.may_send(0.0, Priority.SUBMIT, kept=0)
    assert rate.paused_until(Priority.POLL) == rate.next_moment(0.0, Priority.POLL, kept=0) == 20.0
    assert (rate.is_fresh(19.9), rate.is_fresh(20.0)) == (False, True)
