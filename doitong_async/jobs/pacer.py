"""How soon each job is looked at: the rules of `schedule`, fed with what is known of gate and durations."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from doitong_async.jobs import schedule
from doitong_async.jobs.durations import Durations
from doitong_async.jobs.tracker import TrackedJob
from doitong_async.limits.admission import Admission
from doitong_async.types import Generation

ENOUGH: Final = 5
"""Jobs of a kind that must have been seen to end until their mean is believed: our choice."""


class Pacer:
    """Says when to look, and learns how long jobs take; moments come in as arguments.

    Args:
        entrance: whose gate tells what the plan has left.
        has_webhooks: whether the service tells of the ends, so that looks are only a safety net.
    """

    def __init__(self, admission: Admission, *, has_webhooks: bool) -> None:
        self._admission = admission
        self._has_webhooks = has_webhooks
        self.durations = Durations()

    def tick(self, tracked_jobs: Collection[TrackedJob], most: int) -> float:
        """Return the seconds between two looks, with so many jobs at most in one request."""
        limiter = self._admission.limiter
        return schedule.tick(
            schedule.Load(
                rate=limiter.plan.requests_per_minute,
                slots=limiter.plan.concurrent_jobs,
                seconds=self.durations.mean(
                    ((tracked.kind, tracked.waited_at - tracked.submitted) for tracked in tracked_jobs),
                    enough=self._enough,
                ),
                waiting=limiter.waiting,
                free=limiter.free,
                coming=limiter.coming(schedule.PARTS),
                requests=math.ceil(len(tracked_jobs) / most),
                polls_count=limiter.polls_count,
            )
        )

    def begin(self, tracked: TrackedJob) -> None:
        """Set when a job is looked at first: at once if it is taken up, as its news may be gone by."""
        if tracked.submitted == tracked.begun:
            self._put_off(tracked, tracked.due, tracked.begun)

    def polled(self, tracked: TrackedJob, now: float) -> None:
        """Set when a job is looked at next, as a look at it is sent now."""
        pause = max(tracked.options.poll_interval, schedule.spacing_after(tracked.failed_polls))
        self._put_off(tracked, now + pause, now)
        if now < tracked.deadline:
            tracked.due = min(tracked.due, max(now + pause, tracked.deadline - schedule.TICK))

    def missed(self, tracked: TrackedJob, now: float) -> None:
        """Set when a job is looked at next, as a look brought nothing: not as late as the net has it."""
        if self._has_webhooks:
            tracked.due = min(tracked.due, now + tracked.options.poll_interval)

    def saw(self, tracked: TrackedJob, before: Generation, now: float, *, is_pushed: bool) -> None:
        """Learn from news of a job, and set when it is looked at if the news leave the output open.

        Args:
            watch: with the news in it.
            before: what was known before them.
            now: the moment.
            is_told: whether the service told of its own accord, when it happened.
        """
        if not tracked.last.status.is_terminal:
            tracked.waited_at = now
            return
        if not before.status.is_terminal and tracked.submitted == tracked.begun:
            low = now if is_pushed else tracked.waited_at
            # A look in the safety net comes so late that it says nothing of the end.
            if is_pushed or not self._has_webhooks:
                self.durations.add(tracked.kind, low - tracked.submitted, now - tracked.submitted)
        self.missed(tracked, now)

    def hinted(self, tracked: TrackedJob, now: float) -> None:
        """Let a job be looked at now: it is said to be over, by news that are not enough."""
        tracked.due = min(tracked.due, max(now, tracked.submitted + schedule.TICK))

    def await_until(self, tracked: TrackedJob, deadline: float, now: float) -> None:
        """Set when a job is looked at, if somebody waits for it for less long than the net would."""
        tracked.deadline = deadline
        soon = max(now, tracked.submitted + schedule.TICK)
        tracked.due = min(tracked.due, max(soon, deadline - 2 * schedule.TICK))

    def joining(self, tracked_jobs: list[TrackedJob], now: float, most: int) -> list[TrackedJob]:
        """Return which of the jobs that may be looked at now are."""
        if not self._has_webhooks:
            return tracked_jobs
        # Of a thousand jobs one may be overdue: who is not must not cost a further request.
        places = schedule.chosen([tracked.due for tracked in tracked_jobs], now, most)
        return [tracked_jobs[place] for place in places]

    @property
    def _enough(self) -> int:
        return min(ENOUGH, self._admission.limiter.plan.concurrent_jobs)

    def _put_off(self, tracked: TrackedJob, moment: float, now: float) -> None:
        """Let a job be due at that moment; or later, as long as its webhook is likely to come."""
        tracked.due = moment
        if self._has_webhooks and not tracked.last.status.is_terminal:
            mean = self.durations.mean([(tracked.kind, 0.0)], enough=self._enough)
            # The age of a job that was taken up may not be known.
            since = tracked.submitted if math.isfinite(tracked.submitted) else tracked.begun
            patience = min(tracked.options.timeout, tracked.options.slot_expiry)
            tracked.due = max(moment, since + schedule.safety_net_poll(now - since, mean, patience))
