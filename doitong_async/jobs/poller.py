"""Poll all jobs in flight from one task, and apply every update, polled or pushed, in one place."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from doitong_async.clock import LATE
from doitong_async.errors import ClientClosedError
from doitong_async.events import Hook, JobFinished, SlotExpired, StatusChanged, Throw, own_task_is_over
from doitong_async.jobs import lifecycle, schedule
from doitong_async.jobs.pacer import Pacer
from doitong_async.jobs.status_poll import PollResult, StatusPoll
from doitong_async.jobs.tracker import MakeError, TrackedJob, closed, not_found
from doitong_async.limits.admission import Admission
from doitong_async.limits.permits import Priority, RequestPermit
from doitong_async.log import log
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.types import Generation, JobStatus

VISIBLE_WITHIN: Final = 10.0
"""Seconds after its submit in which a job may still be unknown to the status query: our choice."""
LANES: Final = 4
"""Polls of one tick that are in flight at once: our choice."""
MISSES: Final = 2
"""Polls in a row that must not know a job until we believe it: one may be a replica's glitch."""
STEPS: Final = 10
"""Steps in which we wait for the last poll of a job; a loop that stands still again uses up one of them."""
MIN_REJECTIONS: Final = 3
"""Polls in a row that must be rejected until waiters get the error: one may be a gateway's glitch."""
_REJECTIONS: Final = frozenset({FailureKind.AUTHENTICATION, FailureKind.NO_OPERATION})


class Poller:
    """Poll the jobs in flight until they end; start and close it on one running loop.

    Args:
        admission: grants request permits.
        status_poll: sends the polls.
        notify: receives the events.
        has_webhooks: whether webhooks report the ends, so that polls are only a safety net.
    """

    def __init__(
        self, admission: Admission, status_poll: StatusPoll, notify: Hook, *, has_webhooks: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._admission = admission
        self._status_poll = status_poll
        self._notify = notify
        self._has_webhooks = has_webhooks
        self._tracked_jobs: dict[str, TrackedJob] = {}
        # One tracked job per id, even if it is let go and resumed: whoever holds it gets every update.
        self._let_go_of: WeakValueDictionary[str, TrackedJob] = WeakValueDictionary()
        self._changed = asyncio.Event()
        self._last_tick = self._loop.time() - schedule.LONGEST_TICK
        self._rejected_at = self._failed_at = self._last_tick
        self._stood_still_at = -math.inf
        self._failures = self._rejections = 0
        self._begun = 0.0
        self._unknown_statuses: set[JobStatus] = set()
        self._pacer = Pacer(admission, has_webhooks=has_webhooks)
        self.durations = self._pacer.durations
        self.credits_spent = 0.0
        """What the jobs submitted here cost, as far as the service said."""
        self._sleeps_until: float | None = None
        self._stopped: MakeError | None = None
        self._polls: set[asyncio.Task[None]] = set()
        self._task = self._loop.create_task(self._run(), name="doitong poller")
        self._task.add_done_callback(own_task_is_over)

    def __iter__(self) -> Iterator[TrackedJob]:
        return iter(list(self._tracked_jobs.values()))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the poller, the only one on which its jobs can be awaited."""
        return self._loop

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
            self._count_credits(tracked)
        self._follow(tracked)

    def resume(self, tracked: TrackedJob) -> None:
        """Track a job again that was let go before its end; it takes a slot without queueing."""
        if not tracked.is_ended and tracked.last.id not in self._tracked_jobs:
            tracked.slot = self._admission.limiter.slot_at_once(tracked.last.id)
            tracked.begun = tracked.asked_at = self._loop.time()
            tracked.misses = tracked.failed_polls = 0
            self._begin(tracked)
            self._follow(tracked)

    @property
    def is_stopped(self) -> bool:
        """Whether no update can come any more, as far as we know: every poll is rejected."""
        is_deaf = self._rejections >= MIN_REJECTIONS and not self._has_webhooks
        return is_deaf or self._stopped is not None

    def check(self) -> None:
        """Raise what keeps this poller from bringing any update.

        Raises:
            ClientClosedError: if the client is closed.
        """
        if self._stopped is not None:
            raise self._stopped()

    def observe(self, update: Generation) -> Throw | None:
        """Apply an update that no poll asked for; None if it is of no use, else what reaches the awaiter."""
        tracked = self.find(update.id)
        if tracked is None or lifecycle.is_settled(tracked.last):
            return None
        if lifecycle.leaves_open(update):
            # The body is only a hint: the poll that is due now decides what became of the job.
            self._pacer.hinted(tracked, self._loop.time())
            self._changed.set()
        elif update.id in self._tracked_jobs:
            self._merge(tracked, update, is_pushed=True)
        else:
            self._observe_let_go(tracked, update)
        return tracked.throw

    def await_until(self, tracked: TrackedJob, deadline: float) -> None:
        """Record that a caller waits for a job until `deadline`: it is polled in time for that."""
        if self._has_webhooks:
            self._pacer.await_until(tracked, deadline, self._loop.time())
            self._changed.set()

    async def make_sure(self, tracked: TrackedJob, deadline: float) -> None:
        """Poll the job once after its deadline passed, unless a poll since then makes that needless.

        A deadline that passed while the event loop stood still (a stopped or suspended process, a debugger, a
        blocking call) says nothing about the job: nothing could poll it. This waits for one poll sent now, or
        for `poll_timeout` and the 2 s between two polls if none can be sent.

        Raises:
            DoitongError: the error that the job's waiters get.
        """
        self.check()
        now = self._loop.time()
        since = deadline if now > deadline + LATE else self._stood_still_at
        if tracked.asked_at >= since:
            return
        tracked.overdue += 1
        tracked.due = min(tracked.due, now)
        self._changed.set()
        step = (schedule.TICK + tracked.options.poll_timeout) / STEPS
        steps, until = STEPS, now + step
        try:
            while steps and not tracked.is_ended and tracked.asked_at < since:
                if not await tracked.next_update(until):
                    steps, until = steps - 1, self._loop.time() + step
        finally:
            tracked.overdue -= 1

    def _observe_let_go(self, tracked: TrackedJob, update: Generation) -> None:
        """Apply a late update of a job that was let go before its end, for those that still hold it."""
        before, tracked.last = tracked.last, lifecycle.merge(tracked.last, update)
        # The job was believed lost, but this update proves otherwise.
        tracked.terminal_error = None
        if tracked.last.status != before.status:
            self._notify_status(tracked)
        self._follow(tracked)

    def _merge(self, tracked: TrackedJob, update: Generation, *, is_pushed: bool) -> None:
        before, tracked.last = tracked.last, lifecycle.merge(tracked.last, update)
        self._pacer.saw(tracked, before, self._loop.time(), is_pushed=is_pushed)
        self._count_credits(tracked)
        tracked.last_failure, tracked.misses, tracked.failed_polls = None, 0, 0
        if tracked.last is before:
            return
        if tracked.last.status != before.status:
            self._notify_status(tracked)
        self._follow(tracked)
        tracked.wake()

    async def poll_now(self, tracked: TrackedJob) -> None:
        """Poll one job now, as soon as the plan allows a request.

        Raises:
            DoitongError: if the poll failed, saying why.
        """
        self.check()
        job_id = tracked.last.id
        result = await self._status_poll.poll([job_id], timeout=tracked.options.poll_timeout)
        # The result may change when to poll next.
        self._changed.set()
        with self._notify.in_order():
            self._take(result)
        failure = result.spoilers.get(job_id) or result.unaskable.get(job_id) or result.failure
        if failure is not None:
            raise failure.error_of_poll(job_id, tracked.token)
        if result.missing:
            raise not_found(tracked)
        if job_id in result.unreadable:
            raise Failure(FailureKind.PROTOCOL, result.unreadable[job_id]).error_of_poll(
                job_id, tracked.token
            )
        if job_id not in self._tracked_jobs:
            tracked.last = lifecycle.merge(tracked.last, result.found[0], is_asked=True)
            tracked.terminal_error = None

    async def close(self) -> None:
        """Stop polling and wake all waiters; the jobs go on at the service."""
        self._stopped = lambda: ClientClosedError("The client is closed.")
        tasks = [self._task, *self._polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for tracked in self:
            if not tracked.last.status.is_terminal:
                # The job goes on, and others may use the key: it keeps its slot until the slot expires.
                tracked.slot.keep(tracked.begun + tracked.options.slot_expiry, tracked.last.id)
            self._let_go(tracked)
            tracked.wake(partial(closed, tracked))

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            moment = self._next_moment()
            if moment is not None and moment <= self._loop.time():
                try:
                    await self._tick()
                except ClientClosedError:
                    return
                continue
            self._sleeps_until = moment
            timer = None if moment is None else self._loop.call_at(moment, self._changed.set)
            await self._changed.wait()
            if timer is not None:
                timer.cancel()
            if moment is not None and self._loop.time() > moment + LATE:
                self._stood_still_at = self._loop.time()

    def _next_moment(self) -> float | None:
        if self._stopped is not None:
            return None
        due = (tracked.due for tracked in self._tracked_jobs.values())
        if any(tracked.overdue for tracked in self._tracked_jobs.values()):
            return schedule.next_tick(due, last=self._last_tick, spacing=schedule.TICK)
        usual = self._pacer.tick(self._tracked_jobs.values(), self._status_poll.most)
        spacing = schedule.spacing(usual, self._failures)
        # After a failure, poll again soon, in step or not.
        begun = None if self._failures else self._begun
        return schedule.next_tick(due, last=self._last_tick, spacing=spacing, begun=begun)

    async def _tick(self) -> None:
        # A few at a time, so that a thousand answers do not keep the loop from everybody else.
        lanes = asyncio.Semaphore(LANES)
        with await self._admission.permit(Priority.POLL) as first:
            # Choose only now: jobs that became due while the permit was awaited join for free.
            for number, tracked_jobs in enumerate(self._polls_due()):
                await lanes.acquire()
                with await self._admission.permit(Priority.POLL) if number else first as permit:
                    # The poll's task holds it from here on.
                    self._send_poll(tracked_jobs, permit.hand_over(), lanes)

    def _polls_due(self) -> list[list[TrackedJob]]:
        """Return the polls to send now: all jobs together, except those that would make the others fail."""
        now, most = self._loop.time(), self._status_poll.most
        joining = [
            tracked
            for tracked in self
            if not tracked.failed_polls and schedule.may_join(tracked.submitted, now)
        ]
        alone = [[tracked] for tracked in self if tracked.failed_polls and tracked.due <= now]
        joining = self._pacer.joining(joining, now, most)
        return [joining[first : first + most] for first in range(0, len(joining), most)] + alone

    def _send_poll(
        self, tracked_jobs: Sequence[TrackedJob], permit: RequestPermit, lanes: asyncio.Semaphore
    ) -> None:
        self._last_tick = now = self._loop.time()
        for tracked in tracked_jobs:
            self._pacer.polled(tracked, now)
        # Not awaited: a slow answer delays no other tick.
        poll = self._loop.create_task(self._poll(tracked_jobs, permit), name="doitong poll")
        self._polls.add(poll)
        poll.add_done_callback(self._poll_is_over)
        # A task cancelled before its first step never enters the block that ends its permit.
        poll.add_done_callback(lambda _: permit.unsent())
        poll.add_done_callback(lambda _: lanes.release())

    async def _poll(self, tracked_jobs: Sequence[TrackedJob], permit: RequestPermit) -> None:
        timeout = max(tracked.options.poll_timeout for tracked in tracked_jobs)
        asked_at = self._loop.time()
        try:
            with permit:
                result = await self._status_poll.poll(
                    [tracked.last.id for tracked in tracked_jobs], timeout=timeout, permit=permit
                )
        except ClientClosedError:
            return
        self._take(result)
        if result.failure is not None:
            self._note_failure(tracked_jobs, result.failure, asked_at)
        for tracked in tracked_jobs:
            tracked.asked_at = max(tracked.asked_at, asked_at)
            if tracked.overdue:
                tracked.wake()
        # The result may change when to poll next.
        self._changed.set()

    def _poll_is_over(self, poll: asyncio.Task[None]) -> None:
        self._polls.discard(poll)
        own_task_is_over(poll)

    def _take(self, result: PollResult) -> None:
        for update in result.found:
            if (tracked := self._tracked_jobs.get(update.id)) is not None:
                self._merge(tracked, update, is_pushed=False)
        for job_id in result.missing:
            self._miss(job_id)
        for job_id, reason in result.unreadable.items():
            if (tracked := self._tracked_jobs.get(job_id)) is not None:
                tracked.last_failure = reason
                self._pacer.missed(tracked, self._loop.time())
        for job_id, failure in (result.spoilers | result.unaskable).items():
            if (tracked := self._tracked_jobs.get(job_id)) is not None:
                tracked.last_failure = failure.message
                tracked.failed_polls += 1
                tracked.due = self._loop.time() + schedule.spacing_after(tracked.failed_polls)
                if job_id in result.unaskable and not self._has_webhooks:
                    # No later poll can succeed, and nothing else would report the end.
                    tracked.wake(partial(failure.error_of_poll, job_id, tracked.token))
        if result.failure is None:
            self._failures = self._rejections = 0

    def _note_failure(self, tracked_jobs: Sequence[TrackedJob], failure: Failure, asked_at: float) -> None:
        """Record a failed poll; it changes nothing that lasts: polling goes on, at growing intervals."""
        if asked_at > self._failed_at:
            # Polls sent together meet the same glitch: they count as one.
            self._failures, self._failed_at = self._failures + 1, self._loop.time()
        log.info("poll of %d jobs: %s", len(tracked_jobs), failure.message)
        is_reported = failure.kind is FailureKind.UNUSABLE or self._is_believed(failure, asked_at)
        for tracked in tracked_jobs:
            tracked.last_failure = failure.message
            self._pacer.missed(tracked, self._loop.time())
            if is_reported:
                tracked.wake(partial(failure.error_of_poll, tracked.last.id, tracked.token))

    def _is_believed(self, failure: Failure, asked_at: float) -> bool:
        """Whether enough polls were rejected to tell the waiters: the key, or the query, is wrong."""
        if failure.kind not in _REJECTIONS:
            return False
        if asked_at > self._rejected_at:
            self._rejections, self._rejected_at = self._rejections + 1, self._loop.time()
        # Webhooks arrive even if the service does not know the query.
        has_other_updates = self._has_webhooks and failure.kind is FailureKind.NO_OPERATION
        return self._rejections >= MIN_REJECTIONS and not has_other_updates

    def _miss(self, job_id: str) -> None:
        tracked = self._tracked_jobs.get(job_id)
        if tracked is None:
            return
        tracked.misses += 1
        self._pacer.missed(tracked, self._loop.time())
        if tracked.misses >= MISSES and tracked.submitted + VISIBLE_WITHIN <= self._loop.time():
            tracked.terminal_error = partial(not_found, tracked)
            self._end(tracked)

    def _follow(self, tracked: TrackedJob) -> None:
        """Free the slot of a job that has ended, and let go of a job that needs no more updates."""
        if tracked.last.status.is_terminal:
            tracked.slot.release()
        if tracked.is_ended:
            self._end(tracked)

    def _begin(self, tracked: TrackedJob) -> None:
        if not self._tracked_jobs:
            self._begun = tracked.begun
        self._tracked_jobs[tracked.last.id] = tracked
        self._pacer.begin(tracked)
        tracked.expiry = self._loop.call_at(
            tracked.begun + tracked.options.slot_expiry, self._expire, tracked
        )
        # Every job is due some time; another one makes the next poll earlier only if no job waits to begin.
        is_earlier = self._sleeps_until is None or tracked.due < self._sleeps_until
        is_alone = self._sleeps_until is None or not self._admission.limiter.waiting
        if is_earlier and (is_alone or self._has_webhooks):
            self._changed.set()

    def _let_go(self, tracked: TrackedJob) -> None:
        self._tracked_jobs.pop(tracked.last.id, None)
        self._let_go_of[tracked.last.id] = tracked
        tracked.slot.release()
        if tracked.expiry is not None:
            tracked.expiry.cancel()

    def _count_credits(self, tracked: TrackedJob) -> None:
        if tracked.submitted == tracked.begun:
            cost = tracked.last.credit_cost or 0.0
            self.credits_spent += cost - tracked.counted_credits
            tracked.counted_credits = cost

    def _end(self, tracked: TrackedJob) -> None:
        self._let_go(tracked)
        tracked.wake()
        if self._notify:
            finished = JobFinished(
                job_id=tracked.last.id,
                status=tracked.last.status,
                seconds=self._loop.time() - tracked.begun,
                credit_cost=tracked.last.credit_cost,
            )
            self._notify.aside(finished, tracked.throw)

    def _expire(self, tracked: TrackedJob) -> None:
        """Free a slot that expired, whatever becomes of the job."""
        now = self._loop.time()
        seconds = now - tracked.begun
        if tracked.expiry is not None and now > tracked.expiry.when() + LATE:
            # The loop stood still, and the job may have ended meanwhile: poll it first.
            tracked.due = min(tracked.due, now)
            self._changed.set()
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
        self._let_go(tracked)
        log.warning(
            "Job %s was not seen to end within %.0f s; its slot is free again. Its token: %s",
            tracked.last.id,
            seconds,
            tracked.token,
        )

    def _notify_status(self, tracked: TrackedJob) -> None:
        status = tracked.last.status
        if self._notify:
            self._notify.aside(StatusChanged(job_id=tracked.last.id, status=status), tracked.throw)
        if not status.is_known and status not in self._unknown_statuses:
            self._unknown_statuses.add(status)
            log.warning(
                "The service speaks of a status %r, which is not known here; it is waited on. "
                "If jobs end with it, name it in failure_statuses.",
                str(status),
            )
