"""What one command knows of its one job; it outlives the event loop, so that Ctrl-C can still tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from doitong_async import errors
from doitong_async.cli.exits import Exit, exit_of
from doitong_async.cli.outputs import Destination, Saved
from doitong_async.cli.render import FACTS, CommandFailure, Outcome, Renderer, StatusAt
from doitong_async.cli.service import Service
from doitong_async.cli.text import command_line
from doitong_async.errors import DoitongError
from doitong_async.events import Event, JobFinished, StatusChanged, SubmitAttempted
from doitong_async.jobs.job import AsyncJob
from doitong_async.result import Result

_SOME_FACTS: Final = ("credits_required", "credits_available", "limit", "retry_after")
# Where the library's advice is about Python, or a command line knows better.
_ADVICE: Final[dict[type[DoitongError], str]] = {
    errors.RateLimitError: "Try again later.",
    errors.ProtocolError: "Check --base-url (DOITONG_BASE_URL).",
    errors.ConnectionFailedError: "Check the network, the proxy and --base-url (DOITONG_BASE_URL).",
    errors.JobTimeoutError: "Allow a longer --timeout.",
    errors.DownloadError: "Try again.",
}
_WORTH_THE_SAME_KEY: Final = (errors.SubmitOutcomeUnknownError, errors.ServerError)
_LEAVES_THE_JOB: Final = (
    *(errors.JobTimeoutError, errors.DownloadError, errors.AuthenticationError),
    *(errors.ConfigurationError, errors.ProtocolError),
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
    """Whether a submit was begun of which it is not known that it made no job."""
    refusal: DoitongError | None = None
    """What became of a submit that was still under way at Ctrl-C."""
    statuses: list[StatusAt] = field(default_factory=list)
    seconds: float | None = None
    _begun: float | None = None

    def begin(self) -> None:
        """Count seconds, and listen to the client's events, from now on."""
        self._begun = asyncio.get_running_loop().time()

    def on_event(self, event: Event) -> None:
        """Take in what the client says."""
        if isinstance(event, SubmitAttempted):
            if event.failure is not None:
                what = "may have made a job" if event.is_in_doubt else "made no job"
                self.renderer.happened(f"try {event.number} {what}: {event.failure}")
        elif isinstance(event, StatusChanged) and self._begun is not None:
            self.statuses.append(
                StatusAt(event.status.value, asyncio.get_running_loop().time() - self._begun)
            )
            self.renderer.status(event.job_id, self.statuses[-1])
        elif isinstance(event, JobFinished):
            self.seconds = event.seconds

    def outcome(self, job: AsyncJob, result: Result, saved: Saved | None) -> Outcome:
        """Return what the command did."""
        return Outcome(
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
        """Return what to say of an error of the library."""
        facts = self._facts(error)
        follow = self._next(error)
        return CommandFailure(
            type=type(error).__name__,
            message=f"{error.message} {error.outcome}",
            end=exit_of(error),
            facts=facts,
            advice=None if follow else self._advice(error),
            next=follow,
        )

    def interruption(self) -> CommandFailure:
        """Return what to say at Ctrl-C: which job goes on, and how to take it up."""
        said, follow = self._fate()
        return CommandFailure(
            type="Interrupted",
            message=f"Interrupted. {said}",
            end=Exit.INTERRUPTED,
            facts=self._facts(self.refusal),
            next=follow,
        )

    def _fate(self) -> tuple[str, str | None]:
        if self.job is not None:
            state = "is over" if self.job.last.status.is_terminal else "goes on at the service and is charged"
            if self.service.has_own_emulator:
                return f"Job {self.job.id} ended with the emulator that this command had for its own.", None
            return f"Job {self.job.id} {state}.", self._resume()
        if self.refusal is not None:
            said = f"The submit under way failed: {self.refusal.message} {self.refusal.outcome}"
            return said, self._next(self.refusal)
        if self.may_be_sent and not self.service.has_own_emulator:
            return (
                "A submit was under way, and it is not known whether it made a job. "
                "Send it again under the same idempotency key to find out; it is not meant to charge twice.",
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
        if self.job is not None and isinstance(error, _LEAVES_THE_JOB):
            return self._resume()
        return self._again() if self.job is None and isinstance(error, _WORTH_THE_SAME_KEY) else None

    def _advice(self, error: DoitongError) -> str:
        if self.service.is_keyless and isinstance(error, errors.ConnectionFailedError):
            return "Start one with `doitong emulator`, or say with --base-url where it runs."
        if self.service.is_keyless and isinstance(error, errors.JobNotFoundError):
            return "Check the id. The emulator of `doitong generate --emulator` ends with that command."
        return _ADVICE.get(type(error), error.advice)

    def _resume(self) -> str:
        """Return the command that takes the job up."""
        if self.job is None or self.arguments[0] == "job":
            return command_line(self.arguments)
        options = {
            "-o": self.destination.name,
            "--base-url": self.service.base_url,
            "--plan": self.service.plan,
        }
        given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        return command_line(["job", self.job.token, *given])

    def _again(self) -> str:
        """Return the command that sends the same request under the same idempotency key."""
        command, *rest = self.arguments
        if any(word.partition("=")[0] == "--idempotency-key" for word in rest):
            return command_line(self.arguments)
        return command_line([command, "--idempotency-key", self.idempotency_key or "", *rest])
