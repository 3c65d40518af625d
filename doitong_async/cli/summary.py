"""How a batch ended: its exit code, why it stopped, and how to go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doitong_async import errors
from doitong_async.batch.outcome import Outcome
from doitong_async.cli.exits import CommandError, Exit, exit_of
from doitong_async.cli.progress import BatchProgress, credits_of, some
from doitong_async.cli.render import CommandFailure
from doitong_async.cli.text import command_line
from doitong_async.errors import DoitongError

_STDIN = "-"
_SOME_FACTS = ("credits_required", "credits_available", "http_status", "code", "request_id", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What came of one run of a batch.

    Attributes:
        tally: what was counted.
        spent: credits, over all runs.
        seconds: how long this run took.
        stopped: why no more was submitted, where that was not asked for.
        signals: how often it was interrupted: once drains, twice leaves what runs.
        left_running: jobs that were left at the service.
        gallery: the page, if it was written; else `trouble` says why not.
    """

    progress: BatchProgress
    spent: float
    seconds: float
    stopped: DoitongError | CommandError | None = None
    signals: int = 0
    left_running: int = 0
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

    @property
    def is_all_over(self) -> bool:
        """Whether the same command would find nothing to do."""
        asked_again = self.progress.unfetched + self.progress.unknown
        to_come = self.progress.left + asked_again + self.progress.outcomes[Outcome.IN_DOUBT]
        return not to_come and self.signals < 2

    def failure(self, arguments: Sequence[str]) -> CommandFailure | None:
        """Return why it did not come to a good end, and the command that goes on; None if it did."""
        if self.code is Exit.OK:
            return None
        kind, message = self._why()
        return CommandFailure(
            type=kind,
            message=message + (_AGAIN if _STDIN in arguments else ""),
            end=self.code,
            facts=self._facts(),
            next=command_line(self.again(arguments)),
        )

    def again(self, arguments: Sequence[str]) -> list[str]:
        """Return the arguments that go on where this run was."""
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
            how_far += f" {progress.unfetched:,} are paid, and their outputs are fetched by the next run."
        if self.is_interrupted:
            if self.signals > 1:
                is_one = self.left_running == 1
                goes, it = ("goes", "it") if is_one else ("go", "them")
                jobs = some(self.left_running, "job")
                fate = f"{jobs} {goes} on at the service, and the next run takes {it} up."
            else:
                fate = "What ran has ended."
            return "Interrupted", f"Interrupted: {how_far} {fate} The ledger remembers."
        if self.stopped is not None:
            message = self.stopped.message
            return type(self.stopped).__name__, f"{message} Stopped: {how_far} The ledger remembers."
        if progress.bad or progress.left:
            counts = {outcome.replace("_", " "): progress.outcomes[outcome] for outcome in _BAD}
            said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
            advice = _OF_ANOTHER * (progress.unknown > 0)
            return "SomeFailed", f"{progress.done:,} of {progress.total:,} done, {said}.{advice}"
        return "GalleryFailed", self.trouble or ""

    def _facts(self) -> dict[str, Any]:
        facts = {name: getattr(self.stopped, name, None) for name in _SOME_FACTS}
        return {name: value for name, value in facts.items() if value is not None}

    def as_json(self, arguments: Sequence[str], *, out: Path, ledger: Path) -> dict[str, Any]:
        """Return what a machine is told of it."""
        progress, failure = self.progress, self.failure(arguments)
        told = None
        if failure is not None:
            told = {"type": failure.type, "message": failure.message, **failure.facts}
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
            "stopped": told,
            "exit_code": int(self.code),
            "next": None if failure is None else failure.next,
        }

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


_OF_ANOTHER = (
    " The service does not know some jobs: see that the API key is of the account that made them, and run "
    "the batch again. If they are lost for good, --retry-failed makes them again and pays again."
)
_BAD = (Outcome.FAILED, Outcome.REJECTED, Outcome.IN_DOUBT)
_AGAIN = " The prompts came from the standard input: pipe the same ones into the same command."


def _with_budget(words: list[str], budget: int) -> list[str]:
    """Return arguments with another `--budget`, however it was spelled."""
    changed: list[str] = []
    for word in words:
        if word.startswith("--budget="):
            word = f"--budget={budget}"
        elif changed and changed[-1] == "--budget":
            word = str(budget)
        changed.append(word)
    return changed
