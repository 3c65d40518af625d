"""Sets when each job is polled next, by the rules of `schedule`, and learns how long jobs take."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Final

from doitong_async.jobs import schedule
from doitong_async.jobs.durations import Durations
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.limits.admission import Admission
from doitong_async.types import Generation

ENOUGH: Final = 5
"""Jobs of a kind that must have ended until we use their mean: our choice."""


class Pacer:
    """Schedule polls, and learn how long jobs take; moments come in as arguments.

    Args:
        admission: its rate limiter knows what the plan has left.
        has_webhooks: whether webhooks report the ends, so that polls are only a safety net.
    """

    def __init__(self, admission: Admission, *, has_webhooks: bool) -> None:
        self._admission = admission
        self._has_webhooks = has_webhooks
        self.durations: Durations = Durations()

    def tick(self, tracked_jobs: Collection[TrackedJob], most: int, now: float) -> float:
        """Return the seconds between two polls, with at most `most` jobs in one request."""
        limiter = self._admission.limiter
        # With webhooks, the next poll asks only for those that are due.
        polled = sum(
            not self._has_webhooks or tracked.polls.due <= now + schedule.TICK for tracked in tracked_jobs
        )
        return schedule.tick(
            schedule.Load(
                rate=limiter.plan.requests_per_minute,
                slots=limiter.plan.concurrent_jobs,
                seconds=self.durations.mean(
                    ((tracked.kind, tracked.polls.waited_at - tracked.submitted) for tracked in tracked_jobs),
                    enough=self._enough,
                ),
                waiting=limiter.waiting,
                free=limiter.free,
                coming=limiter.coming(schedule.PARTS),
                requests=max(1, math.ceil(polled / most)),
                polls_count=limiter.polls_count,
            )
        )

    def begin(self, tracked: TrackedJob) -> None:
        """Schedule the first poll of a job: at once if it is resumed, as its webhook may be gone."""
        if tracked.submitted == tracked.begun:
            self._put_off(tracked, tracked.polls.due, tracked.begun)

    def polled(self, tracked: TrackedJob, now: float) -> None:
        """Schedule the next poll of a job, as one is sent now."""
        pause = max(tracked.options.poll_interval, schedule.spacing_after(tracked.polls.failed_polls))
        self._put_off(tracked, now + pause, now)
        polls = tracked.polls
        if now < polls.deadline:
            polls.due = min(polls.due, max(now + pause, polls.deadline - schedule.TICK))

    def missed(self, tracked: TrackedJob, now: float) -> None:
        """Schedule the next poll of a job after a poll brought nothing: earlier than the safety net would."""
        if self._has_webhooks:
            tracked.polls.due = min(tracked.polls.due, now + tracked.options.poll_interval)

    def saw(self, tracked: TrackedJob, before: Generation, now: float, *, is_pushed: bool) -> None:
        """Learn from an update of a job, and schedule a poll if the update leaves the output open.

        Args:
            tracked: with the update applied.
            before: what was known before the update.
            now: the moment.
            is_pushed: whether the service pushed the update when it happened.
        """
        if not tracked.last.status.is_terminal:
            tracked.polls.waited_at = now
            return
        if not before.status.is_terminal and tracked.submitted == tracked.begun:
            low = now if is_pushed else tracked.polls.waited_at
            # A safety-net poll comes so late that it says nothing about when the job ended.
            if is_pushed or not self._has_webhooks:
                self.durations.add(tracked.kind, low - tracked.submitted, now - tracked.submitted)
        self.missed(tracked, now)

    def hinted(self, tracked: TrackedJob, now: float) -> None:
        """Schedule a poll now: an update says that the job has ended, but not enough about it."""
        tracked.polls.due = min(tracked.polls.due, max(now, tracked.submitted + schedule.TICK))

    def await_until(self, tracked: TrackedJob, deadline: float, now: float) -> None:
        """Schedule a poll in time for a caller who waits less long than the safety net."""
        tracked.polls.deadline = deadline
        soon = max(now, tracked.submitted + schedule.TICK)
        tracked.polls.due = min(tracked.polls.due, max(soon, deadline - 2 * schedule.TICK))

    def polls(self, tracked_jobs: Iterable[TrackedJob], now: float, most: int) -> list[list[TrackedJob]]:
        """Return the polls to send now, of at most `most` jobs each.

        All jobs that may be polled go together, except those that would make the others fail.
        """
        joining, alone = [], []
        for tracked in tracked_jobs:
            if not tracked.polls.failed_polls:
                if schedule.may_join(tracked.submitted, now):
                    joining.append(tracked)
            elif tracked.polls.due <= now:
                alone.append([tracked])
        if self._has_webhooks:
            # One of a thousand jobs may be overdue: the others must not cost further requests.
            indices = schedule.chosen([tracked.polls.due for tracked in joining], now, most)
            joining = [joining[index] for index in indices]
        return [joining[first : first + most] for first in range(0, len(joining), most)] + alone

    @property
    def _enough(self) -> int:
        return min(ENOUGH, self._admission.limiter.plan.concurrent_jobs)

    def _put_off(self, tracked: TrackedJob, moment: float, now: float) -> None:
        """Make a job due at `moment`, or later as long as its webhook is likely to come."""
        tracked.polls.due = moment
        if self._has_webhooks and not tracked.last.status.is_terminal:
            mean = self.durations.mean([(tracked.kind, 0.0)], enough=self._enough)
            # The age of a resumed job may be unknown.
            since = tracked.submitted if math.isfinite(tracked.submitted) else tracked.begun
            patience = min(tracked.options.timeout, tracked.options.slot_expiry)
            tracked.polls.due = max(moment, since + schedule.safety_net_poll(now - since, mean, patience))
