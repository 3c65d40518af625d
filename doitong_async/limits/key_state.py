"""What an API key has used of its plan, and what the service said about it: all that decides who may send."""

from __future__ import annotations

from doitong_async.limits.headers import Limit, RateLimitHeaders, requested_wait
from doitong_async.limits.plan import Plan
from doitong_async.limits.quota import DailyQuota
from doitong_async.limits.rejections import Rejections
from doitong_async.limits.request_rate import RequestRate
from doitong_async.transport.failure import Failure


class KeyState:
    """The requests and the day of one key; moments are seconds of the limiter's clock, `wall` epoch seconds.

    Args:
        plan: the limits.
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
        now: the moment.
    """

    __slots__ = ("day", "rate", "rejections")

    def __init__(self, plan: Plan, day_starts_at: float, now: float) -> None:
        self.day: DailyQuota = DailyQuota(plan.jobs_per_day, day_starts_at)
        self.rate: RequestRate = RequestRate(plan.requests_per_minute, now)
        self.rejections: Rejections = Rejections()

    def rejected(
        self,
        failure: Failure,
        rate_limit: RateLimitHeaders,
        now: float,
        wall: float,
        *,
        sent_at: float,
        is_submit: bool,
        jobs_in_flight: bool,
        plan: Plan,
        jitter: float,
    ) -> Limit:
        """Obey a 429, and return which limit it is about.

        Args:
            failure: the 429.
            rate_limit: its headers.
            now: the moment.
            wall: the moment, in epoch seconds.
            sent_at: when its request was sent.
            is_submit: whether it was a submit.
            jobs_in_flight: whether other jobs of ours are running.
            plan: the limits that we know.
            jitter: seconds to wait longer, so that not all come back at once.
        """
        limit = self.rejections.limit_of(
            failure,
            rate_limit,
            now,
            sent_at=sent_at,
            is_submit=is_submit,
            jobs_in_flight=jobs_in_flight,
            plan=plan,
            day_may_be_full=not self.day.is_far_from_full(wall),
        )
        wait = requested_wait(rate_limit, limit=limit)
        if limit is Limit.DAY:
            self.day.end(wall + wait if wait else self.day.next_begins(wall), said_at=wall)
        else:
            self.rate.rejected(limit, rate_limit, wait, now, jitter)
        return limit

    def accepted(self, now: float, *, sent_at: float) -> None:
        """Record that a submit was accepted, which ends a series of holds."""
        self.rejections.accepted()
        self.rate.accepted(now, sent_at=sent_at)
