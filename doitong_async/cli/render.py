"""Shows the progress of one job, and the failure of any command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TextIO, cast

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from doitong_async.cli.exits import Exit
from doitong_async.cli.outputs import Saved, Steady, is_silent, silence
from doitong_async.cli.text import clean, hide_secrets
from doitong_async.cli.units import credit_words, short_span

FACTS: Final = ("job_id", "token", "idempotency_key", "request_id", "http_status", "code")
"""The fields that every failure has for machines, null or not."""


@dataclass(frozen=True, slots=True)
class StatusAt:
    """A status, and the seconds from the start until it was seen."""

    status: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """A completed job and its saved output."""

    id: str
    token: str
    statuses: Sequence[StatusAt]
    url: str
    provider: str | None
    type: str | None
    credit_cost: float | None
    seconds: float | None
    idempotency_key: str | None
    saved: Saved | None

    @property
    def summary(self) -> str:
        """How long it took, and what it cost."""
        cost = "cost unknown" if self.credit_cost is None else credit_words(self.credit_cost)
        return cost if self.seconds is None else f"{short_span(self.seconds)}, {cost}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandFailure:
    """Why a command failed, and what to do: advice, or a command to copy."""

    type: str
    message: str
    end: Exit
    facts: dict[str, Any] = field(default_factory=dict)
    advice: str | None = None
    next: str | None = None
    details: Sequence[str] = ()


class Notes:
    """Shows warnings and the log, by default on the standard error; a context manager during the wait."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what moves on the screen."""

    def note(self, text: str) -> None:
        """Show a warning, or a line of the log."""
        write_line(sys.stderr, clean(text))


class Renderer(Notes):
    """Shows what a command does; each of its kinds leaves out what it does not show.

    `result` is where the result alone goes, if that is not where the progress is shown.
    """

    result: TextIO | None = None

    def finish(self, report: JobReport) -> None:
        """Show the completed job, and write its result: the saved file, or else the URL."""
        self.done(report)
        if self.result is not None:
            write_line(self.result, clean(report.url if report.saved is None else report.saved.file or ""))

    def begin(self, prompt: str, idempotency_key: str) -> None:
        """Show that a request is about to be submitted."""

    def status(self, job_id: str, seen: StatusAt) -> None:
        """Show a job's new status."""

    def accepted(self, job_id: str, token: str) -> None:
        """Show that a submit created a job."""

    def happened(self, text: str) -> None:
        """Show anything else."""

    def done(self, outcome: JobReport) -> None:
        """Show the completed job."""


class Lines(Renderer):
    """Plain lines, one per event, each written at once, without colours."""

    def __init__(self, file: TextIO, result: TextIO | None = None) -> None:
        self._file = file
        self.result = result

    def begin(self, prompt: str, idempotency_key: str) -> None:
        self.happened(f"submitting {prompt!r} under idempotency key {idempotency_key}")

    def status(self, job_id: str, seen: StatusAt) -> None:
        self.happened(f"job {job_id} {seen.status}")

    def accepted(self, job_id: str, token: str) -> None:
        self.happened(f"job {job_id} token {token}")

    def happened(self, text: str) -> None:
        write_now(self._file, text)

    def done(self, outcome: JobReport) -> None:
        made_by = f", {outcome.provider}" if outcome.provider else ""
        self.happened(f"job {outcome.id} done: {outcome.summary}{made_by}")
        self.happened(f"url {outcome.url}")
        if outcome.saved is not None:
            self.happened(f"saved {outcome.saved.file or 'to stdout'}, {outcome.saved.size:,} bytes")


class Screen(Renderer):
    """A spinner with status and seconds, and a short summary at the end."""

    def __init__(self, file: TextIO, result: TextIO | None = None) -> None:
        self.result = result
        self._console = console_on(file)
        self._progress = Progress(
            SpinnerColumn(style="cyan"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("starting")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, prompt: str, idempotency_key: str) -> None:
        self._console.print(Text(clean(prompt), style="bold"), no_wrap=True, overflow="ellipsis")
        self._progress.update(self._task, description="submitting")

    def status(self, job_id: str, seen: StatusAt) -> None:
        self._progress.update(self._task, description=clean(f"job {job_id} {seen.status}"))

    def happened(self, text: str) -> None:
        self._console.print(Text(clean(text)), soft_wrap=True)

    def note(self, text: str) -> None:
        note_on(self._console, text)

    def done(self, outcome: JobReport) -> None:
        seen = " → ".join(f"{each.status} {each.seconds:.1f} s" for each in outcome.statuses)
        rows = {
            "job": outcome.id,
            "made by": outcome.provider or "",
            "status": seen,
            "took": outcome.summary,
            "url": outcome.url,
        }
        if outcome.saved is not None:
            rows["file"] = f"{outcome.saved.file or 'standard output'}  ({outcome.saved.size:,} bytes)"
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", justify="right", min_width=9)
        # Folded, not cut: a URL or a path without its end is useless.
        table.add_column(overflow="fold")
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(clean(value), style="green" if name == "file" else ""))
        self._progress.stop()
        self._console.print(table)


class Json(Renderer):
    """Silent until one JSON object at the end; notes go to the standard error."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def done(self, outcome: JobReport) -> None:
        seen = [{"status": each.status, "seconds": round(each.seconds, 3)} for each in outcome.statuses]
        write_json(
            self._file,
            {
                "id": outcome.id,
                "token": outcome.token,
                "status": "completed",
                "statuses": seen,
                "url": outcome.url,
                "provider": outcome.provider,
                "type": outcome.type,
                "credit_cost": outcome.credit_cost,
                "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
                "idempotency_key": outcome.idempotency_key,
                "file": outcome.saved.file if outcome.saved else None,
                "bytes": outcome.saved.size if outcome.saved else None,
            },
        )


def renderer_for(stdout: TextIO, stderr: TextIO, *, as_json: bool, is_stdout_taken: bool = False) -> Renderer:
    """Return the renderer that fits the streams: in a pipe, the result alone goes to the standard output.

    Args:
        stdout: the standard output.
        stderr: the standard error.
        as_json: whether the result is one JSON object.
        is_stdout_taken: whether the bytes of the output go to the standard output.
    """
    if as_json:
        return Json(stdout)
    if is_screen(stdout) and not is_stdout_taken:
        return Screen(stdout)
    result = None if is_stdout_taken else stdout
    return Screen(stderr, result) if is_screen(stderr) else Lines(stderr, result)


def say_failure(failure: CommandFailure, *, as_json: bool, is_stdout_taken: bool = False) -> None:
    """Report a failed command: to machines on the standard output, to people on the standard error.

    If that stream is gone, like a closed terminal, use the other, unless an output is there.
    """
    if as_json:
        facts_of = {"type": failure.type, "message": failure.message, "exit_code": int(failure.end)}
        more: dict[str, Any] = {"advice": failure.advice, "next": failure.next}
        if failure.details:
            more["details"] = list(failure.details)
        if write_json(sys.stdout, {"error": {**facts_of, **dict.fromkeys(FACTS), **failure.facts, **more}}):
            return
    facts = [f"{name.replace('_', ' ')} {value}" for name, value in failure.facts.items()]
    hints = {"next": failure.next or failure.advice, "facts": ", ".join(facts)}
    if not is_screen(sys.stderr):
        file = sys.stderr
        entries = [("error", failure.message), *(("error", each) for each in failure.details), *hints.items()]
        for name, text in entries:
            line = f"{name}: {clean(text or '')}"
            if text and not write_line(file, line) and not is_stdout_taken and file is sys.stderr:
                file = sys.stdout
                write_line(file, line)
        return
    console = console_on(sys.stderr)
    console.print(Text(f"✗ {clean(failure.message)}", style="red"), soft_wrap=True)
    for each in failure.details:
        console.print(Text(f"  {clean(each)}"), soft_wrap=True)
    for mark, text, style in (("→", hints["next"], "bold"), ("·", hints["facts"], "dim")):
        if text:
            console.print(Text(f"  {mark} {clean(text)}", style=style), soft_wrap=True)


def console_on(file: TextIO) -> Console:
    """Return a console that survives its stream."""
    return Console(file=cast(TextIO, Steady(file)), highlight=False, markup=False, emoji=False)


def note_on(console: Console, text: str) -> None:
    """Write a note above the console's live view; or to the standard error, if that is no terminal."""
    if sys.stderr.isatty():
        console.print(Text(clean(text), style="yellow"), soft_wrap=True)
    else:
        write_line(sys.stderr, clean(text))


def is_screen(file: TextIO) -> bool:
    """Whether a person sees this stream, on a terminal that can draw."""
    return file.isatty() and (file.encoding or "").lower().replace("-", "") == "utf8"


def write_line(file: TextIO, line: str) -> bool:
    """Write a line now, escaping letters that the stream lacks; a stream that fails is no failure.

    A report is worth less than the job: a full disk under a log must not end a batch.

    Returns:
        Whether the line was written.
    """
    if is_silent(file):
        return False
    encoding = file.encoding or "utf-8"
    try:
        file.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        file.flush()
    except OSError as error:
        silence(file)
        if not isinstance(error, BrokenPipeError) and file is not sys.stderr:
            write_line(sys.stderr, f"The output cannot be written any more: {error.strerror or error}.")
        return False
    return True


def write_now(file: TextIO, text: str) -> None:
    """Write a line with the time of day."""
    write_line(file, f"{time.strftime('%H:%M:%S')} {clean(text)}")


def write_json(file: TextIO, value: dict[str, Any]) -> bool:
    """Write one JSON object in ASCII, so that no letter of it acts on a terminal."""
    return write_line(file, json.dumps(_without_key(value)))


def _without_key(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_key(item) for name, item in value.items()}
    return hide_secrets(value) if isinstance(value, str) else value
