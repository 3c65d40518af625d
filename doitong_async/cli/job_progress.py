"""What a command knows of its one job; it outlives the event loop, so that Ctrl-C can still report it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from doitong_async import errors
from doitong_async.cli.exits import Exit, exit_of
from doitong_async.cli.outputs import Destination, Saved
from doitong_async.cli.render import FACTS, CommandFailure, JobReport, Renderer, StatusAt
from doitong_async.cli.service import Service
from doitong_async.cli.text import command_line
from doitong_async.errors import DoitongError
from doitong_async.events import Event, JobFinished, StatusChanged, SubmitAttempted
from doitong_async.jobs.job import AsyncJob, JobTimeoutError
from doitong_async.result import Result

_SOME_FACTS: Final = ("credits_required", "credits_available", "limit", "retry_after")
# For errors whose own advice is about Python, or where the command line knows better.
_ADVICE: Final[dict[type[DoitongError], str]] = {
    errors.RateLimitError: "Try again later.",
    errors.ProtocolError: "Check --base-url (DOITONG_BASE_URL).",
    errors.CoordinatorError: "Check that the Redis server runs, and --coordinator (DOITONG_COORDINATOR).",
    errors.ConnectionFailedError: "Check the network, the proxy and --base-url (DOITONG_BASE_URL).",
    JobTimeoutError: "Allow a longer --timeout.",
    errors.DownloadError: "Try again.",
}
_WORTH_THE_SAME_KEY: Final = (errors.SubmitOutcomeUnknownError, errors.ServerError)
_JOB_REMAINS: Final = (
    *(JobTimeoutError, errors.DownloadError, errors.AuthenticationError),
    *(errors.ConfigurationError, errors.CoordinatorError, errors.ProtocolError),
)


@dataclass(slots=True)
class JobProgress:
    """The facts of one command, from its arguments on."""

    arguments: Sequence[str]
    renderer: Renderer
    service: Service
    destination: Destination
    idempotency_key: str | None = None
    job: AsyncJob | None = None
    may_be_sent: bool = False
    """Whether a submit was started that may have created a job."""
    submit_error: DoitongError | None = None
    """The error of a submit that was still in flight at Ctrl-C."""
    statuses: list[StatusAt] = field(default_factory=list)
    seconds: float | None = None
    _started_at: float | None = None

    def begin(self) -> None:
        """Start the clock and record the client's events from now on."""
        self._started_at = asyncio.get_running_loop().time()

    def on_event(self, event: Event) -> None:
        """Record an event of the client."""
        if isinstance(event, SubmitAttempted):
            if event.failure is not None:
                effect = "may have created a job" if event.is_in_doubt else "created no job"
                self.renderer.happened(f"attempt {event.attempt} {effect}: {event.message}")
        elif isinstance(event, StatusChanged) and self._started_at is not None:
            self.statuses.append(
                StatusAt(event.status.value, asyncio.get_running_loop().time() - self._started_at)
            )
            self.renderer.status(event.job_id, self.statuses[-1])
        elif isinstance(event, JobFinished):
            self.seconds = event.seconds

    def outcome(self, job: AsyncJob, result: Result, saved: Saved | None) -> JobReport:
        """Return the result of the command."""
        return JobReport(
            id=job.id,
            token=job.token,
            statuses=self.statuses,
            url=result.url,
            provider=result.provider,
            type=result.type,
            credit_cost=result.credit_cost,
            seconds=self.seconds,
            idempotency_key=self.idempotency_key,
            saved=saved,
        )

    def failure(self, error: DoitongError) -> CommandFailure:
        """Return the failure that describes an error of the library."""
        facts = self._facts(error)
        follow = self._next(error)
        return CommandFailure(
            type=type(error).__name__,
            message=" ".join((error.message, error.outcome, *before_again(error))),
            end=exit_of(error),
            facts=facts,
            advice=None if follow else self._advice(error),
            next=follow,
        )

    def interruption(self) -> CommandFailure:
        """Return the failure to report at Ctrl-C: which job continues, and how to resume it."""
        message, follow = self._job_state()
        return CommandFailure(
            type="Interrupted",
            message=f"Interrupted. {message}",
            end=Exit.INTERRUPTED,
            facts=self._facts(self.submit_error),
            next=follow,
        )

    def _job_state(self) -> tuple[str, str | None]:
        if self.job is not None:
            is_over = self.job.last.status.is_terminal
            state = "has ended" if is_over else "continues at the service and is charged"
            if self.service.has_own_emulator:
                return f"Job {self.job.id} ended with this command's private emulator.", None
            return f"Job {self.job.id} {state}.", self._resume()
        if self.submit_error is not None:
            message = f"The submit in flight failed: {self.submit_error.message} {self.submit_error.outcome}"
            return message, self._next(self.submit_error)
        if self.may_be_sent and not self.service.has_own_emulator:
            return (
                "A submit was in flight, and it is not known whether it created a job. Send it again under "
                "the same idempotency key to find out; the service should not charge twice.",
                self._again(),
            )
        return "Nothing was sent.", None

    def _facts(self, error: DoitongError | None) -> dict[str, Any]:
        facts = {name: getattr(error, name, None) for name in (*FACTS, *_SOME_FACTS)}
        if self.job is not None:
            facts |= {"job_id": self.job.id, "token": self.job.token}
        if self.job is not None or self.may_be_sent:
            facts["idempotency_key"] = self.idempotency_key
        return {name: value for name, value in facts.items() if value is not None}

    def _next(self, error: DoitongError) -> str | None:
        if self.service.has_own_emulator:
            return None
        if self.job is not None and isinstance(error, _JOB_REMAINS):
            return self._resume()
        return self._again() if self.job is None and isinstance(error, _WORTH_THE_SAME_KEY) else None

    def _advice(self, error: DoitongError) -> str:
        if self.service.is_keyless and isinstance(error, errors.ConnectionFailedError):
            return "Start one with `doitong emulator`, or give its address with --base-url."
        if self.service.is_keyless and isinstance(error, errors.JobNotFoundError):
            return "Check the id. The emulator of `doitong generate --emulator` ends with that command."
        return _ADVICE.get(type(error), error.advice)

    def _resume(self) -> str:
        """Return the command that resumes the job."""
        if self.job is None or self.arguments[0] == "job":
            return command_line(self.arguments)
        options = {
            "-o": self.destination.name,
            "--base-url": self.service.base_url,
            "--plan": self.service.plan,
            "--transport": self.service.transport,
            "--coordinator": self.service.coordinator,
        }
        given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        return command_line(["job", self.job.token, *given])

    def _again(self) -> str:
        """Return the command that sends the same request under the same idempotency key."""
        command, *rest = self.arguments
        if any(word.partition("=")[0] == "--idempotency-key" for word in rest):
            return command_line(self.arguments)
        return command_line([command, "--idempotency-key", self.idempotency_key or "", *rest])


def before_again(error: BaseException | None) -> list[str]:
    """Return what must be done before the same command can succeed, if anything is known."""
    is_of_key = isinstance(error, errors.AuthenticationError)
    return ["Set DOITONG_API_KEY to a valid key, then go on."] if is_of_key else []
