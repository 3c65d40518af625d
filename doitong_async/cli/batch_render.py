"""Shows a batch: as a live view on a screen, as occasional lines in a pipe, as JSON at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Self, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from doitong_async.batch.item import Item, Outcome
from doitong_async.cli.progress import Moment
from doitong_async.cli.render import Notes, console_on, is_screen, note_on, write_json, write_line, write_now
from doitong_async.cli.summary import End
from doitong_async.cli.text import clean
from doitong_async.cli.units import credits_of, span

_EVERY: Final = 10.0
"""Seconds between lines in a pipe."""
_AT_LEAST_EVERY: Final = 600.0
_DRAWN_EVERY: Final = 0.25
_BAR: Final = 60


class BatchRenderer(Notes):
    """Shows a batch; each of its kinds leaves out what it does not show.

    `interval` is the seconds between moments, `longest` the most seconds while nothing happens.
    """

    interval = _EVERY
    longest = _AT_LEAST_EVERY

    def say(self, text: str) -> None:
        """Show a line of text."""

    def report(self, text: str) -> None:
        """Show a text that is the command's result."""
        self.say(text)

    def stopping(self, text: str) -> None:
        """Show that the batch stops early; later moments show it too."""

    def item(self, item: Item) -> None:
        """Show an item that ended."""

    def moment(self, moment: Moment) -> None:
        """Show how the batch is doing."""

    def end(self, end: End) -> None:
        """Show how the batch ended."""

    def facts(self, facts: dict[str, Any]) -> None:
        """Write the one object for machines."""


class BatchLines(BatchRenderer):
    """Timestamped plain lines, each written at once; the result without a time, on a stream of its own."""

    def __init__(self, file: TextIO, result: TextIO) -> None:
        self._file = file
        self._result = result

    def say(self, text: str) -> None:
        write_now(self._file, text)

    def stopping(self, text: str) -> None:
        self.say(text)

    def item(self, item: Item) -> None:
        if (text := trouble_of(item)) is not None:
            self.say(text)

    def moment(self, moment: Moment) -> None:
        parts = [f"{moment.ended:,} of {moment.total:,}: {moment.done:,} done"]
        parts += [f"{count:,} {name}" for name, count in (("not done", moment.bad),) if count]
        parts.append(f"{moment.running:,} running")
        parts += [f"{moment.fetching:,} fetching"] * (moment.fetching > 0)
        if moment.waiting:
            parts.append(f"{moment.waiting:,} waiting{f' {moment.why}' if moment.why else ''}")
        self.say("; ".join((", ".join(parts), f"credits {_credits(moment)}", *_pace(moment))))

    def report(self, text: str) -> None:
        write_line(self._result, clean(text))

    def end(self, end: End) -> None:
        self.report(f"{end.summary()}; {span(end.seconds)}")
        if end.gallery is not None:
            self.report(f"gallery {end.page()}")


class BatchScreen(BatchRenderer):
    """A view of a few lines, redrawn in place, with a line above it for each item that went wrong."""

    interval = _DRAWN_EVERY
    longest = _DRAWN_EVERY

    def __init__(self, file: TextIO) -> None:
        self._console = console_on(file)
        self._view = View()
        self._live = Live(
            self._view,
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(Text(clean(text)))

    def note(self, text: str) -> None:
        note_on(self._console, text)

    def item(self, item: Item) -> None:
        if (text := trouble_of(item)) is not None:
            self._console.print(Text(f"✗ {clean(text)}", style="red"))

    def moment(self, moment: Moment) -> None:
        self._view.moment = moment
        self._live.refresh()

    def end(self, end: End) -> None:
        self._live.stop()
        is_good = end.failure([]) is None
        mark, style = ("✓", "green") if is_good else ("·", "")
        self._console.print(Text(f"{mark} {end.summary()}; {span(end.seconds)}", style=style), soft_wrap=True)
        if end.gallery is not None:
            page = clean(end.page())
            self._console.print(Text.assemble(("  gallery  ", "dim"), page), soft_wrap=True)


class BatchJson(BatchRenderer):
    """Silent until one JSON object at the end; notes go to the standard error."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def facts(self, facts: dict[str, Any]) -> None:
        write_json(self._file, facts)


class View:
    """The live view of the present moment, as wide as the screen allows."""

    def __init__(self) -> None:
        self.moment: Moment | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the view."""
        now = self.moment
        if now is None:
            return
        share = f" {100 * now.ended // max(1, now.total)} %"
        bar = ProgressBar(
            total=max(1, now.total), completed=now.ended, width=min(_BAR, options.max_width - len(share))
        )
        top = Table.grid()
        top.add_row(bar, share)
        yield top
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        before = f"  ({now.before:,} before)" if now.before else ""
        table.add_row("done", Text(f"{now.done:,} of {now.total:,}{before}", style="green"))
        if now.bad:
            table.add_row("not done", Text(f"{now.bad:,}", style="red"))
        table.add_row("running", f"{now.running:,}{f', {now.fetching:,} fetching' * (now.fetching > 0)}")
        if now.waiting:
            name = "waiting" if now.stopping is None else "left"
            table.add_row(name, f"{now.waiting:,}  {now.why or ''}")
        table.add_row("credits", _credits(now))
        if pace := _pace(now):
            table.add_row("pace", ", ".join(pace))
        yield table
        if now.stopping:
            yield Text(clean(now.stopping), style="yellow")
        # Keep the last line short: a terminal writes ^C after it.
        yield Text("Ctrl-C again leaves" if now.stopping else "Ctrl-C stops; nothing is lost", style="dim")


def renderer_for(stdout: TextIO, stderr: TextIO, *, as_json: bool) -> BatchRenderer:
    """Return the renderer that fits the streams: in a pipe, the result alone goes to the standard output."""
    if as_json:
        return BatchJson(stdout)
    return BatchScreen(stdout) if is_screen(stdout) else BatchLines(stderr, stdout)


def trouble_of(item: Item) -> str | None:
    """Return a line about an item that went wrong in this run, or None."""
    if item.outcome in (Outcome.DONE, Outcome.SKIPPED) or not item.is_new:
        return None
    cause = "" if item.error is None else f": {type(item.error).__name__}: {item.error.message}"
    return f"{item.outcome.replace('_', ' ')} {item.key}{cause}"


def _credits(moment: Moment) -> str:
    reserved = f", {credits_of(moment.reserved)} reserved" if moment.reserved else ""
    budget = "" if moment.budget is None else f" of {credits_of(moment.budget)}"
    return f"{credits_of(moment.spent)} spent{budget}{reserved}"


def _pace(moment: Moment) -> list[str]:
    parts = [] if moment.rate is None else [f"{moment.rate:.1f} a minute"]
    if moment.left is not None and moment.stopping is None and moment.left > 0:
        parts.append(f"about {span(moment.left)} left")
    return parts


def title_of(file: str, out: Path) -> str:
    """Return the name of a batch."""
    return out.absolute().name if file == "-" else Path(file).name
