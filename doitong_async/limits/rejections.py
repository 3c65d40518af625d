"""Settles what a 429 means where headers leave it open: the minute's limit, or the day's."""

from __future__ import annotations

from functools import partial

from doitong_async.limits.headers import UNBELIEVED_WAIT, Limit, RateLimitHeaders, which_limit
from doitong_async.limits.plan import Plan
from doitong_async.transport.failure import Failure


class Rejections:
    """The 429s of one key, and the doubt that one of them may leave.

    If only the length of the wait suggests the daily limit, and the headers and our own count speak against
    it, a clock or a unit may be wrong. Then we assume the minute limit first, and the daily limit if a submit
    that was sent after the pause gets the same 429.

    Moments are seconds of the loop's clock.
    """

    __slots__ = ("_doubted_until",)

    def __init__(self) -> None:
        self._doubted_until: float | None = None
        """A submit that was sent after this moment and gets the same 429 proves the daily limit."""

    def accepted(self) -> None:
        """Forget the doubt, as a submit was accepted."""
        self._doubted_until = None

    def limit_of(
        self,
        failure: Failure,
        rate_limit: RateLimitHeaders,
        now: float,
        *,
        sent_at: float,
        is_submit: bool,
        jobs_in_flight: bool,
        plan: Plan,
        day_may_be_full: bool,
    ) -> Limit:
        """Return which limit a 429 is about.

        Args:
            failure: the 429.
            rate_limit: its headers.
            now: the moment.
            sent_at: when its request was sent.
            is_submit: whether that was a submit; a poll's 429 says nothing about jobs.
            jobs_in_flight: whether other jobs of ours are running.
            plan: the limits that we know.
            day_may_be_full: whether our own count leaves it open that the day's jobs are used up.
        """
        meant = partial(which_limit, failure.code, failure.message, rate_limit, jobs_in_flight=jobs_in_flight)
        limit, unless_day = meant(), meant(may_be_day=False)
        if limit is unless_day or day_may_be_full or not _is_of_minute(rate_limit, plan):
            return limit
        if not is_submit:
            return unless_day
        if self._doubted_until is None:
            self._doubted_until = now + UNBELIEVED_WAIT
        elif sent_at >= self._doubted_until:
            self._doubted_until = None
            return limit
        return unless_day


def _is_of_minute(rate_limit: RateLimitHeaders, plan: Plan) -> bool:
    """Whether the limit in the headers is that of requests a minute."""
    limit, per_day = rate_limit.limit, plan.jobs_per_day
    if limit is None:
        return False
    return limit <= plan.requests_per_minute or per_day is None or limit < per_day
