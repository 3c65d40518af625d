"""What a process does while it is cut off from Redis: its own jobs are polled, within the limits of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from doitong_async.limits.permits import RequestPermit, Slot
from doitong_async.limits.plan import Plan
from doitong_async.limits.redis.granting import DEAD_AFTER, share_of_the_lost
from doitong_async.limits.redis.link import unreachable
from doitong_async.limits.redis.shared import SharedKey
from doitong_async.limits.wait_queue import Position, WaitQueue
from doitong_async.limits.window import PERIOD

PATIENCE: Final = 60.0
"""Seconds for which callers wait while Redis cannot be reached: our choice."""


class Absence:
    """One time without Redis; moments are seconds of its clock, as far as that can be told.

    The others withhold a share of the requests for a process that they hear no more, from `DEAD_AFTER` on. By
    then they may have used all of them. So each poll waits until one request more than that has come back.

    Args:
        since: when Redis was last heard of.
        key: the state at that time.
        plan: the limits.
    """

    __slots__ = ("_back", "_begins", "_since", "_spacing", "sent")

    def __init__(self, since: float, key: SharedKey, plan: Plan) -> None:
        self._since = since
        self._begins = since + DEAD_AFTER
        self._back = [moment for moment in key.rate.back_at(since) if moment > self._begins]
        self._spacing = PERIOD / share_of_the_lost(plan.requests_per_minute, len(key.processes) or 1)
        self.sent: list[float] = []
        """When each poll was sent."""

    def next_moment(self) -> float:
        """Return when the next poll may be sent."""
        number = len(self.sent)
        is_known = number < len(self._back)
        free = self._back[number] if is_known else self._begins + PERIOD
        return max(self._begins, free, self.sent[-1] + self._spacing if self.sent else 0.0)

    def serve(
        self,
        now: float,
        slots: WaitQueue[Slot],
        submits: WaitQueue[RequestPermit],
        polls: WaitQueue[RequestPermit],
        poll: Callable[[], RequestPermit],
    ) -> None:
        """End the waits that took too long, and let a poll go if it may.

        Args:
            now: the moment.
            slots: who waits for a slot.
            submits: who waits to submit.
            polls: who waits to poll.
            poll: makes the permit.
        """

        def may_wait(position: Position) -> bool:
            return now < max(position.since, self._since) + PATIENCE

        slots.fail(unreachable, unless=may_wait)
        submits.fail(unreachable, unless=may_wait)
        # The poller itself goes on as long as it has jobs.
        polls.fail(unreachable, unless=lambda position: not position.is_asked or may_wait(position))
        if polls and now >= self.next_moment():
            self.sent.append(now)
            polls.grant(poll)
