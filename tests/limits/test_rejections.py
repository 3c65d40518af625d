"""Which limit a 429 is about, where a clock or a unit may be wrong."""

from __future__ import annotations

from doitong_async import Plan
from doitong_async.limits.headers import UNBELIEVED_WAIT, Limit, RateLimitHeaders
from doitong_async.limits.rejections import Rejections
from doitong_async.transport.failure import Failure, FailureKind

HOURS = RateLimitHeaders(limit=60, retry_after=7200.0)


def rejected(
    rejections: Rejections,
    now: float,
    *,
    sent_at: float | None = None,
    headers: RateLimitHeaders = HOURS,
    message: str = "Too Many Requests",
    is_submit: bool = True,
    day_may_be_full: bool = False,
) -> Limit:
    """Return the limit that a 429 on Pro is taken to be about."""
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


def test_hours_to_wait_are_believed_at_the_second_429() -> None:
    """Of a submit that was sent after the first pause; then the doubt begins anew."""
    rejections = Rejections()
    assert rejected(rejections, 0.0) is Limit.MINUTE
    assert rejected(rejections, 70.0, sent_at=1.0) is Limit.MINUTE
    assert rejected(rejections, UNBELIEVED_WAIT, is_submit=False) is Limit.MINUTE
    assert rejected(rejections, UNBELIEVED_WAIT) is Limit.DAY
    assert rejected(rejections, 99.0) is Limit.MINUTE


def test_a_submit_that_is_accepted_ends_the_doubt() -> None:
    """The wait was nonsense."""
    rejections = Rejections()
    rejected(rejections, 0.0)
    rejections.accepted()
    assert rejected(rejections, 99.0) is Limit.MINUTE


def test_what_else_speaks_of_the_day_is_believed_at_once() -> None:
    """The message, the limit in the headers, or our own count."""
    no_limit, of_day = (
        RateLimitHeaders(retry_after=7200.0),
        RateLimitHeaders(limit=10_000, retry_after=7200.0),
    )
    assert rejected(Rejections(), 0.0, message="Too many jobs today") is Limit.DAY
    assert rejected(Rejections(), 0.0, headers=no_limit) is Limit.DAY
    assert rejected(Rejections(), 0.0, headers=of_day) is Limit.DAY
    assert rejected(Rejections(), 0.0, day_may_be_full=True) is Limit.DAY
