"""Makes the paid jobs of a check: at most two submits, each sent once, under one idempotency key."""

from __future__ import annotations

import asyncio
from typing import Final

from doitong_async.check.findings import CheckedJob
from doitong_async.check.paid import REQUEST, PaidSeen, Repeat, highest_price
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ConnectionFailedError,
    DoitongError,
    JobNotFoundError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.events import Event, Hook, RequestSent, SubmitAttempted
from doitong_async.jobs.job import AsyncJob, logged_if_cancelled
from doitong_async.jobs.schedule import TICK
from doitong_async.runtime import Runtime
from doitong_async.settings import Options, new_idempotency_key
from doitong_async.submit import Submitter
from doitong_async.transport.failure import FailureKind
from doitong_async.types import Generation

POLLED_FOR: Final = 30.0
"""Seconds for which polls ask for a new job before it counts as one that none knows: our choice."""
_CONFLICTS: Final = frozenset({FailureKind.CONFLICT, FailureKind.IN_PROGRESS})


class Watched:
    """Counts the requests of a check's jobs, and passes every event on to the user's `on_event`."""

    def __init__(self, notify: Hook) -> None:
        self._notify = notify
        self.requests: int = 0
        self.failure: FailureKind | None = None
        """Why the last attempt of a submit brought no job."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, RequestSent):
            self.requests += 1
        elif isinstance(event, SubmitAttempted):
            self.failure = event.failure
        self._notify(event)


class PaidJobs:
    """Submit the cheapest job, follow it to its end, and send the same submit again.

    Args:
        runtime: of the check alone, so that nobody else waits for its jobs.
        watched: gets the runtime's events.
        options: the timeouts to use.
        spend: the credits that both submits together may cost.
    """

    def __init__(self, runtime: Runtime, watched: Watched, options: Options, spend: float) -> None:
        self._runtime = runtime
        self._watched = watched
        self._options = options
        self._spend = spend
        self._loop = asyncio.get_running_loop()
        self._key = new_idempotency_key()
        self._request = REQUEST.with_defaults(provider=options.provider, width=None, height=None)
        self._seen = PaidSeen()

    async def run(self) -> PaidSeen:
        """Make the jobs, and return what they showed."""
        try:
            job = await self._submit(in_doubt=False)
        except DoitongError as error:
            self._note_failure(error)
            return self._seen
        with logged_if_cancelled(job):
            await self._follow(job)
            self._record(job)
            await self._repeat(job)
        return self._seen

    async def _submit(self, *, in_doubt: bool) -> AsyncJob:
        """Send the submit once: an attempt without an answer is not sent again."""
        runtime = self._runtime
        once = Submitter(
            runtime.transport,
            runtime.admission,
            max_attempts=1,
            resend_unanswered=False,
            failure_words=runtime.settings.failure_words,
            notify=runtime.notify,
        )
        return await runtime.submissions.submit(
            self._request,
            idempotency_key=self._key,
            options=self._options,
            in_doubt=in_doubt,
            submits=once,
        )

    async def _follow(self, job: AsyncJob) -> None:
        """Wait until a poll knows the job, and then for its end."""
        self._note_status(job.last)
        await self._wait_until_visible(job)
        try:
            async for update in job.updates():
                self._note_status(update)
                self._seen.url = update.url if update.status.is_success else None
        except DoitongError as error:
            self._seen.why = error.message
        self._seen.ended_at = wall_time()
        if job.status.is_failure:
            self._seen.why = f"the job ended as {job.status.value!r}"

    async def _wait_until_visible(self, job: AsyncJob) -> None:
        accepted_at = self._loop.time()
        while self._loop.time() - accepted_at <= POLLED_FOR:
            try:
                await job.refresh()
            except JobNotFoundError:
                self._seen.polled_for = self._loop.time() - accepted_at
            except DoitongError as error:
                self._seen.why = error.message
            else:
                self._seen.visible_after = self._loop.time() - accepted_at
                return
            await asyncio.sleep(TICK)

    def _note_status(self, update: Generation) -> None:
        if self._seen.statuses[-1:] != [update.status]:
            self._seen.statuses.append(update.status)

    async def _repeat(self, job: AsyncJob) -> None:
        """Send the same submit again, unless a second charge would exceed what may be spent."""
        if not job.status.is_terminal:
            self._seen.why = self._seen.why or "the first job was not seen to end"
            return
        most = max(highest_price(), job.last.credit_cost or 0.0)
        spent = most if job.last.credit_cost is None else job.last.credit_cost
        if spent + most > self._spend:
            self._seen.why = (
                f"the first job cost {spent:g} credits; if the key is not honoured, a second one may cost "
                f"{most:g}, more than is left of {self._spend:g}"
            )
            return
        try:
            again = await self._submit(in_doubt=True)
        except DoitongError as error:
            is_conflict = self._watched.failure in _CONFLICTS
            self._seen.repeat = Repeat.CONFLICT if is_conflict else Repeat.FAILED
            self._seen.why = error.message
            return
        self._seen.repeat = Repeat.SAME_JOB if again.id == job.id else Repeat.OTHER_JOB
        if again.id != job.id:
            self._record(again)

    def _record(self, job: AsyncJob) -> None:
        self._seen.jobs.append(
            CheckedJob(
                idempotency_key=self._key,
                job_id=job.id,
                token=job.token,
                credit_cost=job.last.credit_cost,
            )
        )

    def _note_failure(self, error: DoitongError) -> None:
        """Note a submit without a job, and record it if it may have been charged all the same."""
        self._seen.why = error.message
        is_unsent = isinstance(error, ConnectionFailedError) and not error.sent
        if (
            isinstance(error, SubmitOutcomeUnknownError | ServerError | ConnectionFailedError)
            and not is_unsent
        ):
            self._seen.jobs.append(CheckedJob(idempotency_key=self._key, job_id=error.job_id))
