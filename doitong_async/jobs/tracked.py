"""The state of one job in this process: its last snapshot, slot, polls and waiters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from doitong_async.budget import Reservation
from doitong_async.callbacks import raise_in_loop
from doitong_async.errors import ClientClosedError, DoitongError, JobNotFoundError
from doitong_async.jobs import lifecycle
from doitong_async.jobs.durations import NO_KIND, JobKind
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.limits.permits import Slot
from doitong_async.settings import Options
from doitong_async.types import Generation

MakeError: TypeAlias = Callable[[], DoitongError]
"""Makes an error afresh for each awaiter: an error that is raised twice collects the tracebacks of both."""


@dataclass(slots=True)
class PollState:
    """When a job is polled next, and what its polls brought; all moments are of the loop's clock.

    Attributes:
        due: when to poll it next.
        waited_at: when it was last known not to have ended.
        asked_at: when the last poll that was answered, or failed, was sent.
        deadline: until when a caller waits for it, as far as known.
        overdue: the callers whose deadline has passed and who wait for one more poll.
        misses: polls in a row that did not know it.
        failed_polls: polls in a row that failed for it alone.
        last_failure: what the last poll failed with, for people.
    """

    due: float
    waited_at: float
    asked_at: float
    deadline: float = 0.0
    overdue: int = 0
    misses: int = 0
    failed_polls: int = 0
    last_failure: str | None = None


class TrackedJob:
    """One remote job in this process: its last snapshot, its slot, its awaiters.

    `submitted` and `begun` are moments of the loop's clock: when the submit was accepted, and when the wait
    began; they differ only for a resumed job. `epoch` is `submitted` as an epoch second. `kind` groups jobs
    that take about as long. `prompt` is None for a resumed job. `reservation` is of the client's budget; None
    if another client made the job, or its cost is counted already.
    """

    __slots__ = (
        "__weakref__",
        "_thrown",
        "_waiters",
        "begun",
        "epoch",
        "expiry",
        "kind",
        "last",
        "options",
        "polls",
        "prompt",
        "reservation",
        "slot",
        "submitted",
        "terminal_error",
    )

    def __init__(
        self,
        last: Generation,
        *,
        submitted: float,
        begun: float,
        epoch: int | None,
        options: Options,
        slot: Slot,
        kind: JobKind = NO_KIND,
        prompt: str | None = None,
        reservation: Reservation | None = None,
    ) -> None:
        self.last: Generation = last
        self.submitted: float = submitted
        self.begun: float = begun
        self.epoch: int | None = epoch
        self.options: Options = options
        self.slot: Slot = slot
        self.kind: JobKind = kind
        self.prompt: str | None = prompt
        self.polls: PollState = PollState(submitted + options.poll_interval, submitted, begun)
        self.reservation: Reservation | None = reservation
        self.expiry: asyncio.TimerHandle | None = None
        self.terminal_error: MakeError | None = None
        self._thrown: list[BaseException] = []
        self._waiters: set[asyncio.Future[MakeError | bool]] | None = None

    @property
    def token(self) -> str:
        """Return the token that resumes the job, in this process or another."""
        return write_token(JobRef(self.last.id, self.last.type, self.last.provider, self.epoch))

    @property
    def is_ended(self) -> bool:
        """Whether nothing more is to come: the job has ended, or the service does not know it."""
        return self.terminal_error is not None or lifecycle.is_settled(self.last)

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits for an update right now."""
        return bool(self._waiters)

    async def next_update(self, deadline: float) -> bool:
        """Wait for an update of the job; False if the deadline (a moment of the loop's clock) came first.

        Raises:
            DoitongError: the one passed to `wake`.
            BaseException: the one passed to `throw`.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[MakeError | bool] = loop.create_future()
        waiters = self._waiters = set() if self._waiters is None else self._waiters
        waiters.add(waiter)
        timer = loop.call_at(deadline, _notify_waiter, waiter, False)
        thrown = None
        try:
            update = await waiter
            thrown = self._thrown.pop(0) if self._thrown else None
        finally:
            timer.cancel()
            waiters.discard(waiter)
            if not waiters:
                self._leave()
        if thrown is not None:
            raise thrown
        if not isinstance(update, bool):
            raise update()
        return update

    def wake(self, error: MakeError | None = None) -> None:
        """Wake all waiters because there is an update, or an error."""
        for waiter in self._waiters or ():
            _notify_waiter(waiter, True if error is None else error)

    def throw(self, error: BaseException) -> bool:
        """Raise an error of the user's own in one of the waiters; False if nobody waits."""
        if not self._waiters:
            return False
        self._thrown.append(error)
        self.wake()
        return True

    def _leave(self) -> None:
        """Clean up after the last waiter, and raise in the loop what no waiter has raised."""
        self._waiters = None
        thrown, self._thrown = self._thrown, []
        for error in thrown:
            raise_in_loop(error)


def _notify_waiter(waiter: asyncio.Future[MakeError | bool], what: MakeError | bool) -> None:
    # An error travels as a result: an exception set on a future that its awaiter left would be printed.
    if not waiter.done():
        waiter.set_result(what)


def not_found(tracked: TrackedJob) -> JobNotFoundError:
    """Return the error for a job that the service does not know."""
    return JobNotFoundError("The service does not know the job.", job_id=tracked.last.id, token=tracked.token)


def closed(tracked: TrackedJob) -> ClientClosedError:
    """Return the error for callers that still wait when the client closes."""
    return ClientClosedError("The client was closed.", job_id=tracked.last.id, token=tracked.token)
