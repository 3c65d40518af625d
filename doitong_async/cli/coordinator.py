"""`doitong coordinator status`: shows which processes share the plan, what they use, and what is left."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from doitong_async.cli.exits import CommandError
from doitong_async.cli.options import AsJson, BaseUrl, CoordinatorOption
from doitong_async.cli.render import console_on, is_screen, write_json, write_line
from doitong_async.cli.service import check_key
from doitong_async.cli.units import short_span
from doitong_async.limits.redis.status import KeyStatus, ProcessStatus, read_status
from doitong_async.limits.redis.store import Store
from doitong_async.secret import Sealed, name_of
from doitong_async.settings import checked_coordinator, root_of, secret_of_environment

NAME: Final = "coordinator status"
EXAMPLES: Final = """[bold]Examples[/bold]
doitong coordinator status --coordinator redis://cache:6379/0
doitong coordinator status --json | jq '.processes[] | select(.polls) | .pid'

It only reads: no process notices, and nothing is sent to the service. The
API key, from DOITONG_API_KEY, says whose plan is meant. A process is heard of
every second; after ten seconds without it counts as dead. Jobs wait for a
slot, then for a permit; batches queue the others later. A URL that holds a
password belongs into DOITONG_COORDINATOR, as others can see arguments.

[bold]Exit codes[/bold]
0    shown, or nobody uses the key
14   the coordinator cannot be reached or used
3    the API key is missing or invalid
2    an option is wrong, or no coordinator is given"""
_NOBODY: Final = "Nobody uses this key at the coordinator."
_COLUMNS: Final = (
    "process",
    "pid",
    "heard",
    "reserved",
    "sent",
    "running",
    "for slot",
    "for permit",
    "queued",
)
_FIRST_COUNT: Final = 3
_SOON: Final = 3_600.0
"""Seconds up to which a moment needs no date."""


def show_coordinator(
    context: typer.Context,
    coordinator: CoordinatorOption = None,
    base_url: BaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show which processes share the plan of the API key, and what they use of it."""
    context.obj.as_json = as_json
    server = checked_coordinator(coordinator)
    if server is None:
        raise CommandError("No coordinator is given. Give --coordinator, or set DOITONG_COORDINATOR.")
    check_key()
    found = asyncio.run(_read(server, root_of(base_url)))
    if as_json:
        write_json(sys.stdout, as_facts(found))
    elif found.is_used:
        show(found, now=time.time())
    else:
        write_line(sys.stdout, _NOBODY)


async def _read(server: Sealed[Any], base_url: str) -> KeyStatus:
    store = Store(server.reveal(), name_of(base_url, secret_of_environment("DOITONG_API_KEY") or ""))
    try:
        return await read_status(store)
    finally:
        await store.aclose()


def as_facts(found: KeyStatus) -> dict[str, Any]:
    """Return a status as JSON has it."""
    facts = dataclasses.asdict(found)
    poller = None if found.poller is None else found.poller.id
    return {"poller": poller, **facts, "processes": [_process(each) for each in found.processes]}


def _process(process: ProcessStatus) -> dict[str, Any]:
    return {
        "id": process.id,
        "pid": process.pid,
        "seen_seconds_ago": round(process.seen_seconds_ago, 3),
        "is_silent": process.is_silent,
        "polls": process.polls,
        "slots": {"reserved": process.reserved, "sent": process.sent, "running": process.running},
        "waiting": {"slot": process.waits_for_slot, "submit": process.waits_to_submit},
        "behind": process.behind,
    }


def show(found: KeyStatus, *, now: float) -> None:
    """Show a status to people; `now` is the time of day, in epoch seconds."""
    facts = list(_facts(found, now))
    header, *rows = _padded([_cells(each) for each in found.processes])
    if not is_screen(sys.stdout):
        for name, text in facts:
            write_line(sys.stdout, f"{name:<9} {text}")
        for line in [header, *rows] if rows else []:
            write_line(sys.stdout, line.rstrip())
        return
    console = console_on(sys.stdout)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, text in facts:
        grid.add_row(name, text)
    console.print(grid)
    if rows:
        console.print()
        console.print(Text(header, style="dim"), no_wrap=True, crop=False)
    for process, row in zip(found.processes, rows, strict=True):
        style = "green" if process.polls else "yellow" if process.is_silent else ""
        console.print(Text(row.rstrip(), style=style), no_wrap=True, crop=False)


def _facts(found: KeyStatus, now: float) -> Iterator[tuple[str, str]]:
    """Yield what all processes have in common, each fact with its name."""
    orphans = f", {found.orphans:,} of them by jobs whose process is gone" if found.orphans else ""
    yield "slots", f"{found.slots_taken:,}{_of(found.concurrent_jobs)} taken{orphans}"
    lost = "1 process" if found.lost_processes == 1 else f"{found.lost_processes:,} processes"
    withheld = f", {found.withheld:,} withheld for {lost} out of reach" if found.withheld else ""
    left = 0 if found.requests_left is None else found.requests_left
    yield "requests", f"{left:,}{_of(found.requests_per_minute)} left in this minute{withheld}"
    yield "jobs", f"{found.jobs_today:,}{_of(found.jobs_per_day)} made today"
    if found.day_over_for:
        yield "day", f"no more jobs until {_moment(now, found.day_over_for)}"
    for what, seconds in (("submits", found.submits_held_for), ("polls", found.polls_held_for)):
        if seconds:
            yield what, f"the service asked to wait until {_moment(now, seconds)}"
    if found.has_no_credits:
        yield "credits", "the service says that there are too few"
    poller = found.poller
    yield "poller", "nobody" if poller is None else f"{poller.id}, process id {poller.pid}"


def _of(limit: int | None) -> str:
    return "" if limit is None else f" of {limit:,}"


def _moment(now: float, seconds: float) -> str:
    at = time.localtime(now + seconds)
    shown = "%H:%M:%S" if seconds < _SOON else "%Y-%m-%d %H:%M"
    return f"{time.strftime(shown, at)}, in {short_span(seconds)}"


def _cells(process: ProcessStatus) -> list[str]:
    counts = (
        *(process.reserved, process.sent, process.running),
        *(process.waits_for_slot, process.waits_to_submit, process.behind),
    )
    mark = "polls" if process.polls else "silent" if process.is_silent else ""
    heard = short_span(process.seen_seconds_ago)
    return [process.id, str(process.pid), heard, *(f"{count:,}" for count in counts), mark]


def _padded(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a header and the rows as lines, without the counts that are zero for all."""
    columns = list(zip((*_COLUMNS, ""), *rows, strict=True))
    shown = [
        column for number, column in enumerate(columns) if number < _FIRST_COUNT or set(column[1:]) != {"0"}
    ]
    widths = [max(map(len, column)) for column in shown]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        for line in zip(*shown, strict=True)
    ]
