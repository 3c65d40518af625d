"""The plans' limits, and the exact sliding window that counts requests per minute."""

from collections import deque
from dataclasses import dataclass

MINUTE = 60.0
DAY = 86_400


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """The limits of one API key; `jobs_per_day=None` is no daily limit."""

    requests_per_minute: int
    concurrent_jobs: int
    jobs_per_day: int | None


PLANS = {
    "free": PlanLimits(10, 1, 100),
    "starter": PlanLimits(30, 3, 1_000),
    "pro": PlanLimits(60, 10, 10_000),
}


def limits_of(plan: str | PlanLimits) -> PlanLimits:
    """Return the limits of a plan given by its case-insensitive name, or by its numbers."""
    if isinstance(plan, PlanLimits):
        return plan
    try:
        return PLANS[plan.lower()]
    except KeyError:
        raise ValueError(f"plan {plan!r} is none of {', '.join(PLANS)}, and no PlanLimits") from None


class SlidingWindow:
    """At most `limit` requests in every `span` seconds; a permit taken at t comes back at t + span.

    It keeps the times of expiry, not of arrival: a caller that waits until `frees_at` then gets a permit,
    whatever the rounding of `t + span`.
    """

    def __init__(self, limit: int | None, span: float = MINUTE) -> None:
        self.limit = limit
        self.span = span
        self._expiries: deque[float] = deque()

    def used(self, now: float) -> int:
        """Return how many permits are taken at `now`."""
        while self._expiries and self._expiries[0] <= now:
            self._expiries.popleft()
        return len(self._expiries)

    def take(self, now: float) -> bool:
        """Take a permit if there is one; a rejected request takes none."""
        if self.limit is not None and self.used(now) >= self.limit:
            return False
        self._expiries.append(now + self.span)
        return True

    def frees_at(self, now: float) -> float:
        """Return when the next permit comes back; `now` if none is taken."""
        return self._expiries[0] if self.used(now) else now
