"""The task that sends the polls that are due, and handles what they bring."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from doitong_async.callbacks import own_task_is_over
from doitong_async.clock import LATE
from doitong_async.errors import ClientClosedError, CoordinatorError, DoitongError
from doitong_async.events import Hook, PollFailed
from doitong_async.forks import check_process
from doitong_async.jobs import schedule
from doitong_async.jobs.durations import Durations
from doitong_async.jobs.pacer import Pacer
from doitong_async.jobs.poll_failures import PollFailures
from doitong_async.jobs.status_poll import PollResult, StatusPoll
from doitong_async.jobs.tracked import MakeError, TrackedJob, closed, not_found
from doitong_async.jobs.tracker import JobTracker
from doitong_async.limits.admission import Admission
from doitong_async.limits.permits import Priority, RequestPermit
from doitong_async.log import log
from doitong_async.transport.failure import Failure, FailureKind

if TYPE_CHECKING:
    from doitong_async.jobs.shared_jobs import SharedJobs
    from doitong_async.limits.redis.limiter import SharedLimiter

LANES: Final = 4
"""Polls of one tick that are in flight at once: our choice."""
JOBS_AT_ONCE: Final = 32
"""Jobs that are polled at once if each has a poll of its own: our choice. With four at a time, answers that
take a second would hold up the plan."""
STEPS: Final = 10
"""Steps in which we wait for the last poll of a job; a loop that stands still again uses up one of them."""


class Poller:
    """Poll the jobs in flight until they end; start and close it on one running loop.

    Args:
        admission: grants request permits.
        status_poll: sends the polls.
        notify: receives the events.
        has_webhooks: whether webhooks report the ends, so that polls are only a safety net.
    """

    def __init__(
        self,
        admission: Admission,
        status_poll: StatusPoll,
        notify: Hook,
        *,
        has_webhooks: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._admission = admission
        self._status_poll = status_poll
        self._notify = notify
        self._has_webhooks = has_webhooks
        self._changed = asyncio.Event()
        self._last_tick = self._loop.time() - schedule.LONGEST_TICK
        self._stood_still_at = -math.inf
        self._failures = PollFailures(has_webhooks=has_webhooks)
        self._pacer = Pacer(admission, has_webhooks=has_webhooks)
        self.durations: Durations = self._pacer.durations
        self.tracker: JobTracker = JobTracker(
            admission.limiter, self._pacer, notify, on_begin=self._on_begin, on_change=self._changed.set
        )
        self.shared: SharedJobs | None = None
        """The jobs of other processes on the key, if it is shared."""
        self._sleeps_until: float | None = None
        self._stopped: MakeError | None = None
        self._polls: set[asyncio.Task[None]] = set()
        self._task = self._loop.create_task(self._run(), name="doitong poller")
        self._task.add_done_callback(own_task_is_over)

    def share(self, limiter: SharedLimiter, failure_words: frozenset[str]) -> None:
        """Poll for all processes on the key while this one is elected, and else leave it to the one that is.

        Args:
            limiter: has the state that they share.
            failure_words: further statuses that mean failure, in the form in which they are compared.
        """
        # Only who shares a key needs what knows Redis.
        from doitong_async.jobs.shared_jobs import SharedJobs

        of_poller = self.tracker, self._pacer, self.poll_now, self._changed.set
        self.shared = SharedJobs(limiter, failure_words, *of_poller)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the poller, the only one on which its jobs can be awaited."""
        return self._loop

    @property
    def is_stopped(self) -> bool:
        """Whether no update can come any more, as far as we know: every poll is rejected."""
        return self._failures.is_deaf or self._stopped is not None

    def check(self) -> None:
        """Raise what keeps this poller from bringing any update.

        Raises:
            ClientClosedError: if the client is closed.
            ConfigurationError: if it was opened in another process.
        """
        check_process(self._pid)
        if self._stopped is not None:
            raise self._stopped()

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
        if not self._is_polled(tracked):
            with suppress(TimeoutError, DoitongError):
                async with asyncio.timeout(schedule.TICK + tracked.options.poll_timeout):
                    await self.poll_now(tracked)
            return
        since = deadline if now > deadline + LATE else self._stood_still_at
        if tracked.polls.asked_at >= since:
            return
        tracked.polls.overdue += 1
        tracked.polls.due = min(tracked.polls.due, now)
        self._changed.set()
        step = (schedule.TICK + tracked.options.poll_timeout) / STEPS
        steps, until = STEPS, now + step
        try:
            while steps and not tracked.is_ended and tracked.polls.asked_at < since:
                if not await tracked.next_update(until):
                    steps, until = steps - 1, self._loop.time() + step
        finally:
            tracked.polls.overdue -= 1

    async def poll_now(self, tracked: TrackedJob) -> None:
        """Poll one job now, as soon as the plan allows a request.

        Raises:
            DoitongError: if the poll failed, saying why.
        """
        self.check()
        job_id = tracked.last.id
        with await self._admission.permit(Priority.POLL, is_asked=True) as permit:
            timeout = tracked.options.poll_timeout
            result = await self._status_poll.poll([job_id], timeout=timeout, permit=permit)
        # The result may change when to poll next.
        self._changed.set()
        with self._notify.in_order():
            self._take(result)
        if (error := _error_of(tracked, result)) is not None:
            raise error
        if job_id not in self.tracker:
            self.tracker.renew(tracked, result.found[0])

    def _is_polled(self, tracked: TrackedJob) -> bool:
        """Whether it is for this process to poll a job."""
        limiter = self._admission.limiter
        # The others know only of jobs that have a slot.
        return limiter.is_poller or limiter.is_away or not tracked.slot.is_held

    def _polled(self) -> list[TrackedJob]:
        """Return the jobs that this process polls: its own, and those of others if it is elected."""
        ours = [tracked for tracked in self.tracker if self._is_polled(tracked)]
        return ours if self.shared is None else [*ours, *self.shared.guests]

    def _on_begin(self, tracked: TrackedJob) -> None:
        """Poll earlier for a job that is tracked from now on, if that is of use."""
        # Every job is due some time; another one makes the next poll earlier only if no job waits to begin.
        is_earlier = self._sleeps_until is None or tracked.polls.due < self._sleeps_until
        is_alone = self._sleeps_until is None or not self._admission.limiter.waiting
        if is_earlier and (is_alone or self._has_webhooks):
            self._changed.set()

    async def close(self) -> None:
        """Stop polling and wake all waiters; the jobs go on at the service."""
        self._stopped = lambda: ClientClosedError("The client is closed.")
        if self.shared is not None:
            self.shared.close()
        tasks = [self._task, *self._polls]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for tracked in self.tracker:
            if not tracked.last.status.is_terminal:
                # The job goes on, and others may use the key: it keeps its slot until the slot expires.
                tracked.slot.keep(tracked.begun + tracked.options.slot_expiry, tracked.last.id)
            self.tracker.let_go(tracked)
            tracked.wake(partial(closed, tracked))

    async def _run(self) -> None:
        with suppress(ClientClosedError):
            while True:
                self._changed.clear()
                moment = self._next_moment()
                if moment is not None and moment <= self._loop.time():
                    # Where it was cut off for long, it waits for its next poll once more.
                    with suppress(CoordinatorError):
                        await self._tick()
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
        polled = self._polled()
        # Never sooner than `may_join` allows: a tick before that would send nothing, and come again at once.
        due = (max(tracked.polls.due, tracked.submitted + schedule.TICK) for tracked in polled)
        if any(tracked.polls.overdue for tracked in polled):
            return schedule.next_tick(due, last=self._last_tick, spacing=schedule.TICK)
        usual = self._pacer.tick(polled, self._status_poll.most, self._loop.time())
        spacing = schedule.spacing(usual, self._failures.in_a_row)
        begun = self.tracker.begun if self.shared is None else self.shared.begun(polled)
        # After a failure, poll again soon, in step or not.
        in_step = None if self._failures.in_a_row else begun
        return schedule.next_tick(due, last=self._last_tick, spacing=spacing, begun=in_step)

    async def _tick(self) -> None:
        # A few at a time, so that a thousand answers do not keep the loop from everybody else.
        lanes = asyncio.Semaphore(max(LANES, JOBS_AT_ONCE // self._status_poll.most))
        is_asked = not self._admission.limiter.is_poller
        with await self._admission.permit(Priority.POLL, is_asked=is_asked) as first:
            # Choose only now: jobs that became due while the permit was awaited join for free.
            polls = self._pacer.polls(self._polled(), self._loop.time(), self._status_poll.most)
            for number, tracked_jobs in enumerate(polls):
                await lanes.acquire()
                with (
                    await self._admission.permit(Priority.POLL, is_asked=is_asked) if number else first
                ) as permit:
                    # The poll's task holds it from here on.
                    self._send_poll(tracked_jobs, permit.hand_over(), lanes)

    def _send_poll(
        self, tracked_jobs: Sequence[TrackedJob], permit: RequestPermit, lanes: asyncio.Semaphore
    ) -> None:
        self._last_tick = now = self._loop.time()
        for tracked in tracked_jobs:
            self._pacer.polled(tracked, now)
        # Not awaited: a slow answer delays no other tick.
        poll = self._loop.create_task(self._poll(tracked_jobs, permit), name="doitong poll")
        self._polls.add(poll)
        poll.add_done_callback(self._polls.discard)
        poll.add_done_callback(own_task_is_over)
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
            tracked.polls.asked_at = max(tracked.polls.asked_at, asked_at)
            if tracked.polls.overdue:
                tracked.wake()
        # The result may change when to poll next.
        self._changed.set()

    def _take(self, result: PollResult) -> None:
        if self.shared is not None:
            self.shared.tell(result)
        get = self.tracker.get if self.shared is None else self.shared.get
        for update in result.found:
            if (tracked := self.tracker.get(update.id)) is not None:
                self.tracker.merge(tracked, update, is_pushed=False)
        for job_id in result.missing:
            self.tracker.miss(job_id)
        for job_id, reason in result.unreadable.items():
            if (tracked := get(job_id)) is not None:
                tracked.polls.last_failure = reason
                self._pacer.missed(tracked, self._loop.time())
        for job_id, failure in (result.spoilers | result.unaskable).items():
            if (tracked := get(job_id)) is not None:
                tracked.polls.last_failure = failure.message
                tracked.polls.failed_polls += 1
                tracked.polls.due = self._loop.time() + schedule.spacing_after(tracked.polls.failed_polls)
                if job_id in result.unaskable and not self._has_webhooks:
                    # No later poll can succeed, and nothing else would report the end.
                    tracked.wake(partial(failure.error_of_poll, job_id, tracked.token))
        if result.failure is None:
            self._failures.end()

    def _note_failure(self, tracked_jobs: Sequence[TrackedJob], failure: Failure, asked_at: float) -> None:
        """Record a failed poll; it changes nothing that lasts: polling goes on, at growing intervals."""
        log.info("poll of %d jobs: %s", len(tracked_jobs), failure.message)
        if self._notify:
            self._notify.aside(_event_of(failure, len(tracked_jobs)))
        is_reported = self._failures.note(
            failure, [tracked.submitted for tracked in tracked_jobs], asked_at, self._loop.time()
        )
        if is_reported and self.shared is not None:
            self.shared.tell_failure([tracked.last.id for tracked in tracked_jobs], failure)
        for tracked in tracked_jobs:
            tracked.polls.last_failure = failure.message
            self._pacer.missed(tracked, self._loop.time())
            if is_reported:
                tracked.wake(partial(failure.error_of_poll, tracked.last.id, tracked.token))


def _error_of(tracked: TrackedJob, result: PollResult) -> DoitongError | None:
    """Return why a poll of one job brought nothing, or None if it did."""
    job_id = tracked.last.id
    failure = result.spoilers.get(job_id) or result.unaskable.get(job_id) or result.failure
    if failure is None and job_id in result.unreadable:
        failure = Failure(FailureKind.PROTOCOL, result.unreadable[job_id])
    if failure is None:
        return not_found(tracked) if result.missing else None
    return failure.error_of_poll(job_id, tracked.token)


def _event_of(failure: Failure, jobs: int) -> PollFailed:
    return PollFailed(
        jobs=jobs,
        failure=failure.kind,
        message=failure.message,
        http_status=failure.http_status,
        code=failure.code,
        request_id=failure.request_id,
    )
