"""Follows jobs across processes: polls those of others while elected, and applies what others saw of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from functools import partial
from typing import Any, Final

from doitong_async.callbacks import own_task_is_over
from doitong_async.errors import DoitongError
from doitong_async.events import Hook
from doitong_async.jobs import lifecycle
from doitong_async.jobs.durations import JobKind
from doitong_async.jobs.pacer import Pacer
from doitong_async.jobs.status_poll import PollResult
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.jobs.tracker import JobTracker
from doitong_async.limits.facts import JobFacts, Sight
from doitong_async.limits.permits import Slot
from doitong_async.limits.redis.limiter import SharedLimiter
from doitong_async.limits.redis.shared import SharedKey
from doitong_async.settings import Options
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.types import Generation, JobStatus, with_failures

_FOR_EVER: Final = 1e9
"""Seconds; how long the jobs of others are polled is for the shared state to say."""


class SharedJobs:
    """The jobs of other processes that this one polls, and the news of its own that others bring.

    Args:
        limiter: has the shared state.
        failure_words: further statuses that mean failure, in the form in which they are compared.
        tracker: follows the jobs of this process.
        pacer: schedules the polls.
        ask: polls one job of this process by itself.
        on_change: called when there are other jobs to poll.
    """

    def __init__(
        self,
        limiter: SharedLimiter,
        failure_words: frozenset[str],
        tracker: JobTracker,
        pacer: Pacer,
        ask: Callable[[TrackedJob], Coroutine[Any, Any, None]],
        on_change: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limiter = limiter
        self._tracker = tracker
        self._ask = ask
        self._on_change = on_change
        self._failure_words = failure_words
        # No events: these jobs are none of this client's.
        self.guests: JobTracker = JobTracker(
            limiter, pacer, Hook(None), on_begin=lambda _: on_change(), on_change=on_change
        )
        self._published: dict[str, Sight] = {}
        """What was last told of each guest."""
        self._begun: float | None = None
        self._asking: dict[str, asyncio.Task[None]] = {}
        limiter.on_change = self._observe

    def get(self, job_id: str) -> TrackedJob | None:
        """Return a job in flight, ours or another's that is polled here."""
        return self._tracker.get(job_id) or self.guests.get(job_id)

    def begun(self, polled: Collection[TrackedJob]) -> float:
        """Return since when there have been jobs to poll, without a break: polls keep in step with that."""
        if not polled:
            self._begun = None
            return 0.0
        if self._begun is None:
            self._begun = min(tracked.begun for tracked in polled)
        return self._begun

    def close(self) -> None:
        """Ask for no more jobs, and follow no guest."""
        self._limiter.on_change = lambda _: None
        for task in self._asking.values():
            task.cancel()
        for guest in self.guests:
            self.guests.let_go(guest)

    def tell(self, result: PollResult) -> None:
        """Tell the others what a poll brought of their jobs, and follow those no more that have ended."""
        for update in result.found:
            if (guest := self.guests.get(update.id)) is not None:
                self.guests.merge(guest, update, is_pushed=False)
                self._publish(sight_of(guest.last))
        for job_id in result.missing:
            guest = self.guests.get(job_id)
            self.guests.miss(job_id)
            if guest is not None and guest.terminal_error is not None:
                self._publish(Sight(job_id, is_over=True, is_missing=True))
        for job_id, failure in result.unaskable.items():
            self.tell_failure([job_id], failure)

    async def pass_on(self, update: Generation) -> None:
        """Tell the others what a webhook said of a job that is none of ours; return once they will know.

        Raises:
            CoordinatorError: if the coordinator does not answer.
        """
        self._limiter.publish(sight_of(update))
        await self._limiter.link.flush()

    def tell_failure(self, job_ids: Iterable[str], failure: Failure) -> None:
        """Tell the others why polls of their jobs fail."""
        for job_id in job_ids:
            if job_id in self.guests:
                self._publish(Sight(job_id, trouble=(failure.kind.value, failure.http_status)))

    def _publish(self, sight: Sight) -> None:
        if self._published.get(sight.job_id) != sight:
            self._limiter.publish(sight)
        if sight.is_over:
            # Whoever takes it up later has to be told again.
            self._published.pop(sight.job_id, None)
        else:
            self._published[sight.job_id] = sight

    def _observe(self, key: SharedKey) -> None:
        """Look at a newer state: apply what is new of our jobs, and learn which others to poll."""
        for slot in list(key.slots.values()):
            if slot.job is not None and (tracked := self._tracker.get(slot.job.id)) is not None:
                self._apply(tracked, slot.job)
        polled = {} if not self._limiter.is_poller else {job.id: job for _, _, job in key.running()}
        for guest in self.guests:
            if guest.last.id not in polled or guest.last.id in self._tracker:
                self.guests.let_go(guest)
                self._published.pop(guest.last.id, None)
        for job in polled.values():
            if job.id not in self._tracker and job.id not in self.guests:
                self.guests.add(self._guest(job))
        self._on_change()

    def _guest(self, job: JobFacts) -> TrackedJob:
        now = self._loop.time()
        options = Options(poll_interval=job.interval, slot_expiry=_FOR_EVER, timeout=_FOR_EVER)
        submitted = job.submitted - self._limiter.now() + now
        last = Generation(id=job.id, status=JobStatus(job.status), type=job.media, provider=job.provider)
        return TrackedJob(
            with_failures(last, self._failure_words),
            submitted=submitted,
            begun=submitted,
            epoch=None,
            options=options,
            slot=Slot(None, is_counted=False),
            kind=JobKind(job.provider, job.version, job.size),
        )

    def _apply(self, tracked: TrackedJob, job: JobFacts) -> None:
        """Apply what another process saw of a job of ours."""
        if job.is_missing:
            self._tracker.lose(tracked)
            return
        if job.trouble is not None:
            kind, http_status = job.trouble
            message = f"The polls of another process fail ({kind}, HTTP {http_status or 'unknown'})."
            if tracked.polls.last_failure != message:
                tracked.polls.last_failure = message
                failure = Failure(FailureKind(kind), message, http_status)
                tracked.wake(partial(failure.error_of_poll, job.id, tracked.token))
        seen = Generation(id=job.id, status=JobStatus(job.status), url=job.url, credit_cost=job.cost)
        update = with_failures(seen, self._failure_words)
        if lifecycle.merge(tracked.last, update) == tracked.last:
            return
        if update.status.is_failure or lifecycle.leaves_open(update):
            # Others tell no reason of a failure, as it may quote the prompt: ask the service.
            self._ask_for(tracked, update)
        else:
            self._tracker.merge(tracked, update, is_pushed=True)

    def _ask_for(self, tracked: TrackedJob, update: Generation) -> None:
        if tracked.last.id not in self._asking:
            task = self._loop.create_task(self._asked(tracked, update), name="doitong poll")
            self._asking[tracked.last.id] = task
            task.add_done_callback(lambda _: self._asking.pop(tracked.last.id, None))
            task.add_done_callback(own_task_is_over)

    async def _asked(self, tracked: TrackedJob, update: Generation) -> None:
        try:
            await self._ask(tracked)
        except DoitongError as error:
            # Without its reason, then.
            tracked.polls.last_failure = error.message
        if not tracked.is_ended and tracked.last.id in self._tracker:
            self._tracker.merge(tracked, update, is_pushed=True)


def sight_of(update: Generation) -> Sight:
    """Return what others may know of an update."""
    is_over = lifecycle.is_settled(update)
    return Sight(update.id, str(update.status), update.url, update.credit_cost, is_over=is_over)
