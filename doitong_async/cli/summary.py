"""How a batch ended: its exit code, its message, and the command that continues it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doitong_async import errors
from doitong_async.batch.item import Outcome
from doitong_async.cli.exits import CommandError, Exit, exit_of
from doitong_async.cli.gallery import PAGE
from doitong_async.cli.job_progress import before_again
from doitong_async.cli.progress import BatchProgress
from doitong_async.cli.render import CommandFailure
from doitong_async.cli.text import command_line
from doitong_async.cli.units import credits_of, some
from doitong_async.errors import DoitongError

_STDIN = "-"
_SOME_FACTS = ("credits_required", "credits_available", "http_status", "code", "request_id", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The end of one run of a batch.

    Attributes:
        progress: the counts.
        spent: credits, over all runs.
        seconds: how long this run took.
        stopped: why it submitted no more, unless the user stopped it.
        signals: how often it was interrupted: once drains, twice leaves the running jobs.
        left_running: jobs left running at the service.
        is_trial: whether the service was an emulator that ended with this run.
        gallery: the page, if it was written; otherwise `trouble` says why not.
    """

    progress: BatchProgress
    spent: float
    seconds: float
    stopped: DoitongError | CommandError | None = None
    signals: int = 0
    left_running: int = 0
    is_trial: bool = False
    gallery: Path | None = None
    trouble: str | None = None

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM left something to do."""
        return self.signals > 1 or (self.signals == 1 and self.progress.left > 0)

    @property
    def code(self) -> Exit:
        """The exit code."""
        if self.is_interrupted:
            return Exit.INTERRUPTED
        if isinstance(self.stopped, CommandError):
            return self.stopped.end
        if isinstance(self.stopped, errors.SubmitOutcomeUnknownError):
            # The service was silent for so long that the batch gave up.
            return Exit.SERVICE
        if self.stopped is not None:
            return exit_of(self.stopped)
        if self.progress.bad or self.progress.left:
            return Exit.SOME_FAILED
        return Exit.DOWNLOAD if self.trouble else Exit.OK

    def failure(self, arguments: Sequence[str]) -> CommandFailure | None:
        """Return why it did not end well, and the command that continues it; None if it did."""
        if self.code is Exit.OK:
            return None
        kind, message = self._why()
        is_lost = self.is_trial and self.signals > 1
        return CommandFailure(
            type=kind,
            message=message + (_AGAIN if _STDIN in arguments and not is_lost else ""),
            end=self.code,
            facts=self._facts(),
            next=None if is_lost else command_line(self.again(arguments)),
        )

    def again(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments that continue this run."""
        words = list(arguments)
        if self.code is Exit.BUDGET:
            return _with_budget(words, math.ceil(self.spent + self.progress.needed))
        failed = self.progress.outcomes[Outcome.FAILED] + self.progress.outcomes[Outcome.REJECTED]
        failed -= self.progress.unfetched + self.progress.unknown
        if self.code is Exit.SOME_FAILED and failed and "--retry-failed" not in words:
            return [*words, "--retry-failed"]
        return words

    def _why(self) -> tuple[str, str]:
        progress = self.progress
        how_far = f"{progress.done:,} of {progress.total:,} done, {progress.left:,} left to do."
        if progress.unfetched:
            how_far += f" {progress.unfetched:,} are paid; the next run fetches their outputs."
        if self.is_interrupted:
            if self.signals > 1:
                is_one = self.left_running == 1
                verb, it = ("continues", "it") if is_one else ("continue", "them")
                jobs = some(self.left_running, "job")
                if self.is_trial:
                    rest = f"{jobs} ended with this command's emulator: a trial cannot be resumed."
                else:
                    rest = f"{jobs} {verb} at the service; the next run resumes {it}."
            else:
                rest = "The running jobs have ended."
            return "Interrupted", f"Interrupted: {how_far} {rest} The ledger has it all."
        if self.stopped is not None:
            message = " ".join((self.stopped.message, *before_again(self.stopped)))
            return type(self.stopped).__name__, f"{message} Stopped: {how_far} The ledger has it all."
        if progress.bad or progress.left:
            counts = {outcome.replace("_", " "): progress.outcomes[outcome] for outcome in _BAD}
            listing = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
            advice = _UNKNOWN_JOBS * (progress.unknown > 0)
            return "SomeFailed", f"{progress.done:,} of {progress.total:,} done, {listing}.{advice}"
        return "GalleryFailed", self.trouble or ""

    def _facts(self) -> dict[str, Any]:
        facts = {name: getattr(self.stopped, name, None) for name in _SOME_FACTS}
        return {name: value for name, value in facts.items() if value is not None}

    def as_json(self, arguments: Sequence[str], *, out: Path, ledger: Path) -> dict[str, Any]:
        """Return the summary for machines."""
        progress, failure = self.progress, self.failure(arguments)
        stopped = None
        if failure is not None:
            stopped = {"type": failure.type, "message": failure.message, **failure.facts}
        return {
            "total": progress.total,
            **{str(outcome): progress.outcomes[outcome] for outcome in (Outcome.DONE, *_BAD)},
            "left": progress.left,
            "done_before": progress.known[Outcome.DONE],
            "credits_spent": self.spent,
            "budget": progress.budget,
            "seconds": round(self.seconds, 3),
            "out": str(out),
            "ledger": str(ledger),
            "gallery": None if self.gallery is None else str(self.gallery),
            "stopped": stopped,
            "exit_code": int(self.code),
            "next": None if failure is None else failure.next,
        }

    def page(self) -> str:
        """Return where the gallery is, and why if it has not its usual name."""
        if self.gallery is None or self.gallery.name == PAGE:
            return str(self.gallery or "")
        return f"{self.gallery} ({PAGE} there is not the page of this ledger and was left alone)"

    def summary(self) -> str:
        """Return what was done, in one line."""
        progress = self.progress
        before = f" ({progress.known[Outcome.DONE]:,} before)" if progress.known[Outcome.DONE] else ""
        counts = {outcome: progress.outcomes[outcome] for outcome in _BAD}
        bad = "".join(
            f", {count:,} {str(outcome).replace('_', ' ')}" for outcome, count in counts.items() if count
        )
        left = f", {progress.left:,} left" if progress.left else ""
        budget = "" if progress.budget is None else f", {credits_of(progress.budget)} allowed"
        done = f"{progress.done:,} of {progress.total:,} done{before}{bad}{left}"
        return f"{done}; {credits_of(self.spent)} credits spent{budget}"


_UNKNOWN_JOBS = (
    " The service does not know some jobs: check that the API key belongs to the account that made them, and "
    "run the batch again. If they are lost for good, --retry-failed makes them again and pays again."
)
_BAD = (Outcome.FAILED, Outcome.REJECTED, Outcome.IN_DOUBT)
_AGAIN = " The prompts came from the standard input: pipe the same prompts into the same command."


def _with_budget(words: list[str], budget: int) -> list[str]:
    """Return arguments with a new `--budget`, however it was spelled."""
    changed: list[str] = []
    for word in words:
        if word.startswith("--budget="):
            word = f"--budget={budget}"
        elif changed and changed[-1] == "--budget":
            word = str(budget)
        changed.append(word)
    return changed
