"""Which limit a 429 is about, where a clock or a unit may be wrong."""

from __future__ import annotations

from doitong_async import Plan
from doitong_async.limits.headers import UNBELIEVED_WAIT, Limit, RateLimitHeaders
from doitong_async.limits.rejections import Rejections
from doitong_async.transport.failure import Failure, FailureKind

HOURS = RateLimitHeaders(limit=60, retry_after=7200.0)


def limit_of_429(
    rejections: Rejections,
    now: float,
    *,
    sent_at: float | None = None,
    headers: RateLimitHeaders = HOURS,
    message: str = "Too Many Requests",
    is_submit: bool = True,
    day_may_be_full: bool = False,
) -> Limit:
    """Return the limit that a 429 on Pro counts against."""
    return rejections.limit_of(
        Failure(FailureKind.RATE_LIMIT, message, http_status=429),
        headers,
        now,
        sent_at=now if sent_at is None else sent_at,
        is_submit=is_submit,
        jobs_in_flight=False,
        plan=Plan.PRO,
        day_may_be_full=day_may_be_full,
    )


def test_a_wait_of_hours_is_trusted_at_the_second_429() -> None:
    """Its submit must have left after the first pause; then the doubt starts over."""
    rejections = Rejections()
    assert limit_of_429(rejections, 0.0) is Limit.MINUTE
    assert limit_of_429(rejections, 70.0, sent_at=1.0) is Limit.MINUTE
    assert limit_of_429(rejections, UNBELIEVED_WAIT, is_submit=False) is Limit.MINUTE
    assert limit_of_429(rejections, UNBELIEVED_WAIT) is Limit.DAY
    assert limit_of_429(rejections, 99.0) is Limit.MINUTE


def test_an_accepted_submit_ends_the_doubt() -> None:
    """It proves that the wait was wrong."""
    rejections = Rejections()
    limit_of_429(rejections, 0.0)
    rejections.accepted()
    assert limit_of_429(rejections, 99.0) is Limit.MINUTE


def test_other_evidence_for_the_day_is_trusted_at_once() -> None:
    """The message, the limit in the headers, or our own count."""
    no_limit, of_day = (
        RateLimitHeaders(retry_after=7200.0),
        RateLimitHeaders(limit=10_000, retry_after=7200.0),
    )
    assert limit_of_429(Rejections(), 0.0, message="Too many jobs today") is Limit.DAY
    assert limit_of_429(Rejections(), 0.0, headers=no_limit) is Limit.DAY
    assert limit_of_429(Rejections(), 0.0, headers=of_day) is Limit.DAY
    assert limit_of_429(Rejections(), 0.0, day_may_be_full=True) is Limit.DAY
