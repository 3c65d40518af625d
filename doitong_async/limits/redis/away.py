"""Decides when a process that is cut off from Redis may poll its own jobs, within the limits of all."""

from __future__ import annotations

from typing import Final

from doitong_async.limits.plan import Plan
from doitong_async.limits.redis.granting import DEAD_AFTER, share_of_the_lost
from doitong_async.limits.redis.shared import SharedKey

_PERIOD: Final = 60.0


class AwayPolls:
    """The polls of one absence; moments are seconds of Redis's clock, as far as it can be told.

    The others withhold a share of the requests for a process that they hear no more, from `DEAD_AFTER` on. By
    then they may have used all of them. So each poll waits until one request more than that has come back.

    Args:
        since: when Redis was last heard of.
        key: the state at that time.
        plan: the limits.
    """

    def __init__(self, since: float, key: SharedKey, plan: Plan) -> None:
        self.since: float = since
        self.begins: float = since + DEAD_AFTER
        self._back = [moment for moment in key.rate.back_at(since) if moment > self.begins]
        self._spacing = _PERIOD / share_of_the_lost(plan.requests_per_minute, len(key.processes) or 1)
        self.sent: list[float] = []
        """When each was sent."""

    def next_moment(self) -> float:
        """Return when the next poll may be sent."""
        number = len(self.sent)
        is_known = number < len(self._back)
        free = self._back[number] if is_known else self.begins + _PERIOD
        return max(self.begins, free, self.sent[-1] + self._spacing if self.sent else 0.0)

    def send(self, now: float) -> None:
        """Record that one is sent."""
        self.sent.append(now)
