"""Applies every update, polled or pushed by a webhook, to the jobs that a client follows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from doitong_async.callbacks import Throw
from doitong_async.clock import LATE
from doitong_async.events import Hook, JobFinished, JobLetGo, JobTracked, SlotExpired, StatusChanged
from doitong_async.jobs import lifecycle, schedule
from doitong_async.jobs.pacer import Pacer
from doitong_async.jobs.tracked import TrackedJob, not_found
from doitong_async.limits.facts import JobFacts
from doitong_async.limits.limiter import RateLimiter
from doitong_async.log import log
from doitong_async.types import Generation, JobStatus

VISIBLE_WITHIN: Final = 10.0
"""Seconds after its submit in which a job may still be unknown to the status query: our choice."""
MISSES: Final = 2
"""Polls in a row that must not know a job until we believe it: one may be a replica's glitch."""


class JobTracker:
    """The jobs that a client follows: applies every update, polled or pushed, and frees slots.

    Args:
        limiter: gives a resumed job its slot.
        pacer: learns from every update.
        notify: receives the events.
        on_begin: called with a job that is tracked from now on.
        on_change: called when a job's next poll may have to come earlier.
    """

    def __init__(
        self,
        limiter: RateLimiter,
        pacer: Pacer,
        notify: Hook,
        *,
        on_begin: Callable[[TrackedJob], None],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limiter = limiter
        self._pacer = pacer
        self._notify = notify
        self._on_begin = on_begin
        self._on_change = on_change
        self._tracked_jobs: dict[str, TrackedJob] = {}
        # One tracked job per id, even if it is let go and resumed: whoever holds it gets every update.
        self._let_go_of: WeakValueDictionary[str, TrackedJob] = WeakValueDictionary()
        self._unknown_statuses: set[JobStatus] = set()
        self.begun: float = 0.0
        """When the first of the jobs tracked now began."""

    def __iter__(self) -> Iterator[TrackedJob]:
        return iter(list(self._tracked_jobs.values()))

    def __len__(self) -> int:
        return len(self._tracked_jobs)

    def __contains__(self, job_id: object) -> bool:
        """Whether a job is in flight."""
        return job_id in self._tracked_jobs

    def get(self, job_id: str) -> TrackedJob | None:
        """Return a job in flight."""
        return self._tracked_jobs.get(job_id)

    def find(self, job_id: str) -> TrackedJob | None:
        """Return the tracked job, in flight or let go but still held by somebody."""
        return self._tracked_jobs.get(job_id) or self._let_go_of.get(job_id)

    def add(self, tracked: TrackedJob) -> None:
        """Track a job; one that has ended already is never polled."""
        if not tracked.is_ended:
            self._begin(tracked)
        if tracked.submitted == tracked.begun:
            # The status of a resumed job is a guess until the first poll.
            self._notify_status(tracked)
        _count_credits(tracked)
        self._follow(tracked)

    def resume(self, tracked: TrackedJob) -> None:
        """Track a job again that was let go before its end; it takes a slot without queueing."""
        if not tracked.is_ended and tracked.last.id not in self._tracked_jobs:
            tracked.slot = self._limiter.slot_at_once(tracked.last.id)
            tracked.begun = tracked.polls.asked_at = self._loop.time()
            tracked.polls.misses = tracked.polls.failed_polls = 0
            self._begin(tracked)
            self._follow(tracked)

    def observe(self, update: Generation) -> Throw | None:
        """Apply an update that no poll asked for; None if it is of no use, else what reaches the awaiter."""
        tracked = self.find(update.id)
        if tracked is None or lifecycle.is_settled(tracked.last):
            return None
        if lifecycle.leaves_open(update):
            # The body is only a hint: the poll that is due now decides what became of the job.
            self._pacer.hinted(tracked, self._loop.time())
            self._on_change()
        elif update.id in self._tracked_jobs:
            self.merge(tracked, update, is_pushed=True)
        else:
            self._observe_let_go(tracked, update)
        return tracked.throw

    def merge(self, tracked: TrackedJob, update: Generation, *, is_pushed: bool) -> None:
        """Apply an update of a job in flight; `is_pushed` says whether the service pushed it."""
        before, tracked.last = tracked.last, lifecycle.merge(tracked.last, update)
        self._pacer.saw(tracked, before, self._loop.time(), is_pushed=is_pushed)
        _count_credits(tracked)
        tracked.polls.last_failure, tracked.polls.misses, tracked.polls.failed_polls = None, 0, 0
        if tracked.last is before:
            return
        if tracked.last.status != before.status:
            self._notify_status(tracked)
        self._follow(tracked)
        tracked.wake()

    def miss(self, job_id: str) -> None:
        """Count a poll that did not know a job; after `MISSES` of them the job is given up."""
        tracked = self._tracked_jobs.get(job_id)
        if tracked is None:
            return
        tracked.polls.misses += 1
        self._pacer.missed(tracked, self._loop.time())
        if tracked.polls.misses >= MISSES and tracked.submitted + VISIBLE_WITHIN <= self._loop.time():
            self.lose(tracked)

    def lose(self, tracked: TrackedJob) -> None:
        """Give a job up, as the service does not know it."""
        tracked.terminal_error = partial(not_found, tracked)
        self._end(tracked)

    def let_go(self, tracked: TrackedJob) -> None:
        """Free the slot of a job and follow it no more; whoever still holds it gets late updates."""
        if self._is_let_go(tracked) and self._notify:
            self._notify.aside(JobLetGo(job_id=tracked.last.id), tracked.throw)

    def _is_let_go(self, tracked: TrackedJob) -> bool:
        """Free the slot of a job and follow it no more; return whether it was in flight.

        Unless the service says otherwise, it costs what is reserved for it.
        """
        was_in_flight = self._tracked_jobs.pop(tracked.last.id, None) is not None
        self._let_go_of[tracked.last.id] = tracked
        tracked.slot.release()
        if tracked.reservation is not None:
            tracked.reservation.settle(None)
        if tracked.expiry is not None:
            tracked.expiry.cancel()
        return was_in_flight

    def renew(self, tracked: TrackedJob, update: Generation) -> None:
        """Apply what a poll says of a job that is no longer in flight."""
        tracked.last = lifecycle.merge(tracked.last, update, is_asked=True)
        tracked.terminal_error = None
        _count_credits(tracked)

    def _observe_let_go(self, tracked: TrackedJob, update: Generation) -> None:
        """Apply a late update of a job that was let go before its end, for those that still hold it."""
        before, tracked.last = tracked.last, lifecycle.merge(tracked.last, update)
        # The job was believed lost, but this update proves otherwise.
        tracked.terminal_error = None
        _count_credits(tracked)
        if tracked.last.status != before.status:
            self._notify_status(tracked)
        self._follow(tracked)

    def _follow(self, tracked: TrackedJob) -> None:
        """Free the slot of a job that has ended, and let go of a job that needs no more updates."""
        if tracked.last.status.is_terminal:
            tracked.slot.release()
        if tracked.is_ended:
            self._end(tracked)

    def _begin(self, tracked: TrackedJob) -> None:
        if not self._tracked_jobs:
            self.begun = tracked.begun
        self._tracked_jobs[tracked.last.id] = tracked
        self._pacer.begin(tracked)
        tracked.expiry = self._loop.call_at(
            tracked.begun + tracked.options.slot_expiry, self._expire, tracked
        )
        self._limiter.follows(
            tracked.slot.id,
            JobFacts(
                tracked.last.id,
                tracked.kind.provider or tracked.last.provider,
                tracked.kind.version,
                tracked.kind.size,
                tracked.last.type,
                submitted=tracked.submitted,
                interval=tracked.options.poll_interval,
                status=str(tracked.last.status),
            ),
            until=tracked.begun + tracked.options.slot_expiry,
        )
        self._on_begin(tracked)
        if self._notify:
            begun = JobTracked(
                job_id=tracked.last.id,
                is_resumed=tracked.submitted != tracked.begun,
                provider=tracked.kind.provider,
                version=tracked.kind.version,
            )
            self._notify.aside(begun, tracked.throw)

    def _end(self, tracked: TrackedJob) -> None:
        was_in_flight = self._is_let_go(tracked)
        tracked.wake()
        if self._notify:
            finished = JobFinished(
                job_id=tracked.last.id,
                status=tracked.last.status,
                seconds=self._loop.time() - tracked.begun,
                credit_cost=tracked.last.credit_cost,
                provider=tracked.kind.provider,
                version=tracked.kind.version,
            )
            self._notify.aside(finished, tracked.throw)
            if was_in_flight:
                self._notify.aside(JobLetGo(job_id=tracked.last.id), tracked.throw)

    def _expire(self, tracked: TrackedJob) -> None:
        """Free a slot that expired, whatever becomes of the job."""
        now = self._loop.time()
        seconds = now - tracked.begun
        if tracked.expiry is not None and now > tracked.expiry.when() + LATE:
            # The loop stood still, and the job may have ended meanwhile: poll it first.
            tracked.polls.due = min(tracked.polls.due, now)
            self._on_change()
            tracked.expiry = self._loop.call_later(
                schedule.TICK + tracked.options.poll_timeout, self._expire, tracked
            )
            return
        if tracked.slot.is_held:
            tracked.slot.release()
            self._notify.aside(SlotExpired(job_id=tracked.last.id, seconds=seconds), tracked.throw)
        if tracked.is_awaited:
            # Keep polling for callers that wait longer than that; check again later whether any still do.
            tracked.expiry = self._loop.call_later(tracked.options.slot_expiry, self._expire, tracked)
            return
        self.let_go(tracked)
        log.warning(
            "Job %s was not seen to end within %.0f s; its slot is free again. Its token: %s",
            tracked.last.id,
            seconds,
            tracked.token,
        )

    def _notify_status(self, tracked: TrackedJob) -> None:
        status = tracked.last.status
        if self._notify:
            changed = StatusChanged(
                job_id=tracked.last.id,
                status=status,
                provider=tracked.kind.provider,
                version=tracked.kind.version,
            )
            self._notify.aside(changed, tracked.throw)
        if not status.is_known and status not in self._unknown_statuses:
            self._unknown_statuses.add(status)
            log.warning(
                "The service speaks of a status %r, which is not known here; it is waited on. "
                "If jobs end with it, name it in failure_statuses.",
                str(status),
            )


def _count_credits(tracked: TrackedJob) -> None:
    """Count what a job costs, once the service says so."""
    if tracked.reservation is not None and tracked.last.credit_cost is not None:
        tracked.reservation.settle(tracked.last.credit_cost)
