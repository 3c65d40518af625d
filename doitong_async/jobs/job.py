"""The awaitable job that a user holds: its status, its token, its result, and the errors it ends with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from doitong_async.errors import (
    BadRequestError,
    ConfigurationError,
    DoitongError,
    about_job,
)
from doitong_async.jobs import lifecycle
from doitong_async.jobs.poller import Poller
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.log import log
from doitong_async.result import Result
from doitong_async.types import Generation, JobStatus

if TYPE_CHECKING:
    from doitong_async.downloads import Downloads


class JobFailedError(DoitongError):
    """The service reports that the job failed.

    Attributes:
        generation: the last snapshot, with the service's own details.
    """

    knows_of_jobs = True
    outcome = "The job is over; count it as charged unless its credit_cost says otherwise (assumption)."
    advice = "Change the prompt or the provider and submit a new job."

    def __init__(self, message: str = "", *, generation: Generation | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.generation = generation


class JobTimeoutError(DoitongError, TimeoutError):
    """The wait for a job ended before the job did.

    Attributes:
        job: the job itself, to wait on (None after pickling: use the token).
        generation: the last snapshot.
    """

    knows_of_jobs = True
    outcome = "The job goes on at the service and is charged."
    advice = "Wait again on error.job, or later with doitong.job(error.token)."

    def __init__(
        self,
        message: str = "",
        *,
        job: AsyncJob | None = None,
        generation: Generation | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.job = job
        self.generation = generation


class AsyncJob:
    """A job at the service: await it for its result, as often and from as many tasks as you like.

    Cancelling an `await` leaves the job running and its slot taken; so does a timeout.
    """

    __slots__ = ("_downloads", "_poller", "_timeout", "_tracked")

    def __init__(self, tracked: TrackedJob, poller: Poller, downloads: Downloads, timeout: float) -> None:
        self._tracked = tracked
        self._poller = poller
        self._downloads = downloads
        self._timeout = timeout

    def __eq__(self, other: object) -> bool:
        """Two handles of one job are equal."""
        return self._tracked is other._tracked if isinstance(other, AsyncJob) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._tracked)

    def __repr__(self) -> str:
        if not hasattr(self, "_tracked"):
            return "<AsyncJob not made>"
        return f"<AsyncJob {self.id!r} {self.status.value}>"

    @property
    def id(self) -> str:
        """The service's id of the job."""
        return self._tracked.last.id

    @property
    def status(self) -> JobStatus:
        """The status last seen; `processing` for a resumed job that was not polled yet."""
        return self._tracked.last.status

    @property
    def last(self) -> Generation:
        """The newest snapshot; it is a value and does not change."""
        return self._tracked.last

    @property
    def token(self) -> str:
        """Resumes the job in another process: `doitong.job(token)`. It holds no secret."""
        return self._tracked.token

    def __await__(self) -> Generator[object, None, Result]:
        return self.wait().__await__()

    async def wait(self, *, timeout: float | None = None) -> Result:
        """Wait for the job to end, and return its result.

        Args:
            timeout: seconds from now. By default the client's `timeout`, counted from the moment the
                submit was accepted; a wait that begins after that has as many seconds again. If the event
                loop stood still meanwhile, one poll comes before the timeout, which may take `poll_timeout`
                and 2 s longer.

        Raises:
            JobFailedError: if the service says that the job failed.
            JobTimeoutError: if the time runs out first; the job goes on, and the error carries it.
            JobNotFoundError: if the service does not know the job.
            AuthenticationError: if the service rejects the key; the job goes on.
            ClientClosedError: if the client is closed; the error carries the token.
        """
        with self._named():
            deadline = self._deadline(timeout)
            self._poller.await_until(self._tracked, deadline)
            while not self._tracked.is_ended:
                self._check()
                if await self._tracked.next_update(deadline):
                    continue
                # A timeout of zero asks only for what is known now.
                if timeout != 0:
                    await self._poller.make_sure(self._tracked, deadline)
                if not self._tracked.is_ended:
                    raise self._timed_out(deadline)
            return self._outcome()

    async def updates(self) -> AsyncIterator[Generation]:
        """Yield the newest snapshot, then each one that differs from it, until the job ends.

        A slow consumer sees only the newest. A failed job ends the iteration like a completed one.

        Raises:
            JobTimeoutError, JobNotFoundError, AuthenticationError, ClientClosedError: as `wait` does.
        """
        with self._named():
            deadline = self._deadline(None)
            self._poller.await_until(self._tracked, deadline)
        seen: Generation | None = None
        while True:
            if self._tracked.last is not seen:
                seen = self._tracked.last
                yield seen
                continue
            with self._named():
                if self._tracked.terminal_error is not None:
                    raise self._tracked.terminal_error()
                if self._tracked.is_ended:
                    return
                self._check()
                if await self._tracked.next_update(deadline):
                    continue
                await self._poller.make_sure(self._tracked, deadline)
                if self._tracked.last is seen and not self._tracked.is_ended:
                    raise self._timed_out(deadline)

    async def refresh(self) -> Generation:
        """Poll the job now, without waiting for the next tick, and return the snapshot.

        The request counts against the plan like any other and waits for a permit.

        Raises:
            JobNotFoundError: if the service does not know the job.
            DoitongError: if the poll failed, saying why.
        """
        with self._named():
            self._check()
            await self._poller.poll_now(self._tracked)
            return self._tracked.last

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Add the id and the token of this job to every error."""
        try:
            yield
        except DoitongError as error:
            about_job(error, job_id=self.id, token=self.token)
            raise

    def _check(self) -> None:
        """Check that updates can come, and that the job is tracked."""
        if self._poller.loop is not asyncio.get_running_loop():
            raise ConfigurationError(
                "The job belongs to a client on another event loop; take it up there by its token, or here "
                "with a client of this loop."
            )
        self._poller.check()
        self._poller.tracker.resume(self._tracked)

    def _deadline(self, timeout: float | None) -> float:
        now = asyncio.get_running_loop().time()
        if timeout is not None:
            if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
                raise BadRequestError(f"timeout is {timeout!r}; expected seconds, zero or more.")
            return now + timeout
        usual = self._tracked.begun + self._timeout
        return usual if usual > now else now + self._timeout

    def _timed_out(self, deadline: float) -> JobTimeoutError:
        waited = deadline - self._tracked.begun
        failure = self._tracked.polls.last_failure
        why = f" The last poll failed: {failure}" if failure else ""
        return JobTimeoutError(
            f"Job {self.id} was still {self.status.value!r} after {waited:.0f} s.{why}",
            job=self,
            generation=self.last,
            job_id=self.id,
            token=self.token,
        )

    def _outcome(self) -> Result:
        if self._tracked.terminal_error is not None:
            raise self._tracked.terminal_error()
        last = self._tracked.last
        if last.status.is_failure:
            reason = lifecycle.reason_of(last)
            details = "" if reason is None else f" The service said: {reason[:300].rstrip('.')}."
            raise JobFailedError(
                f"Job {self.id} ended as {last.status.value!r}.{details}",
                generation=last,
                job_id=self.id,
                token=self.token,
            )
        return Result(last, self._downloads, self.token, renew=self.refresh, prompt=self._tracked.prompt)


@contextmanager
def logged_if_cancelled(job: AsyncJob) -> Iterator[None]:
    """Log a job that its caller leaves without a result and without an error that carries it."""
    try:
        yield
    except DoitongError:
        raise
    except BaseException as error:
        why = "was cancelled" if isinstance(error, asyncio.CancelledError) else f"got {type(error).__name__}"
        state = "is over" if job.status.is_terminal else "goes on"
        log.warning("job %s, whose caller %s, %s: token %s", job.id, why, state, job.token)
        raise
