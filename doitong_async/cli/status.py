"""`doitong batch status`: lists the items of a ledger, during a batch or later."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from doitong_async.batch.item import ItemRecord
from doitong_async.batch.ledger import Ledger
from doitong_async.cli.exits import CommandError
from doitong_async.cli.render import console_on, is_screen, write_json, write_line
from doitong_async.cli.text import clean
from doitong_async.cli.units import LEFT, credits_of, outcome_of, some

NAME: Final = "batch status"
LEDGER: Final = "ledger.db"
"""The ledger's file name in the output folder."""
EXAMPLES: Final = """[bold]Examples[/bold]
doitong batch status pictures
doitong batch status pictures/ledger.db | cut -f 1,5,8
doitong batch status pictures --json | jq -r 'select(.outcome == "failed") | .reason'

Nothing is sent, no key is needed, and a running batch is not disturbed. In a
pipe each line has, separated by tabs: key, prompt, provider, job id, outcome,
credits, seconds, file, SHA-256."""

# The widest each column gets on a screen; the prompt gets the rest. On a narrow screen the last columns here
# are dropped first.
_WIDTHS: Final = {
    "key": 18,
    "outcome": 8,
    "credits": 7,
    "seconds": 7,
    "file": 24,
    "provider": 12,
    "job id": 14,
    "sha-256": 12,
}
_ORDER: Final = ("key", "prompt", "provider", "job id", "outcome", "credits", "seconds", "file", "sha-256")
_NUMBERS: Final = ("credits", "seconds")
_STYLES: Final = {
    "done": "green",
    "failed": "red",
    "rejected": "red",
    "in_doubt": "yellow",
    "running": "cyan",
}
_NARROWEST_PROMPT: Final = 24


def show_status(
    context: typer.Context,
    ledger: Annotated[
        Path, typer.Argument(metavar="LEDGER", help="A ledger, or the folder with its ledger.db.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line and item, with everything known.")
    ] = False,
) -> None:
    """List the items of a batch from its ledger, one line each."""
    context.obj.as_json = as_json
    path = ledger / LEDGER if ledger.is_dir() else ledger
    if not path.is_file():
        raise CommandError(f"There is no ledger {path}; expected one, or the folder with its {LEDGER}.")
    found: Counter[str] = Counter()
    with Ledger.read(path) as reader:
        _show(_counted(reader.records(), found), sys.stdout, as_json=as_json)
        found[LEFT] += reader.left()
        spent = reader.totals().spent
    counts = (f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in sorted(found.items()) if count)
    items = some(found.total(), "item")
    summary = ", ".join(counts)
    write_line(sys.stderr, f"{items}{f': {summary}' if summary else ''}; {credits_of(spent)} credits")


def _counted(records: Iterable[ItemRecord], found: Counter[str]) -> Iterator[ItemRecord]:
    for record in records:
        found[outcome_of(record)] += 1
        yield record


def _show(rows: Iterable[ItemRecord], file: TextIO, *, as_json: bool) -> None:
    if as_json:
        for record in rows:
            write_json(file, _facts(record))
    elif is_screen(file):
        _draw(console_on(file), rows)
    else:
        for record in rows:
            cells = _cells(record)
            write_line(file, "\t".join(clean(cells[name]) for name in _ORDER))


def _facts(record: ItemRecord) -> dict[str, Any]:
    return {
        "key": record.key,
        "request": record.asked,
        "outcome": outcome_of(record),
        "state": str(record.state),
        "attempt": record.attempt,
        "idempotency_key": record.idempotency_key,
        "job_id": record.job_id,
        "status": record.status,
        "url": record.url,
        "credits": record.cost,
        "earlier_credits": record.earlier_cost,
        "reserved": record.reserved,
        "seconds": None if record.seconds is None else round(record.seconds, 3),
        "error": record.error,
        "reason": record.reason,
        "file": record.output,
        "bytes": record.length,
        "sha256": record.sha256,
    }


def _cells(record: ItemRecord) -> dict[str, str]:
    asked = record.asked
    return {
        "key": record.key,
        "prompt": str(asked.get("prompt") or ""),
        "provider": str(asked.get("provider") or ""),
        "job id": record.job_id or "",
        "outcome": outcome_of(record),
        "credits": "" if record.cost is None else f"{record.cost:g}",
        "seconds": "" if record.seconds is None else f"{record.seconds:.1f}",
        "file": record.output or "",
        "sha-256": record.sha256 or "",
    }


def _draw(console: Console, rows: Iterable[ItemRecord]) -> None:
    widths = _fitting(console.width)
    header = {name: name for name in _ORDER}
    console.print(_line(header, widths, style="dim"), no_wrap=True, crop=False)
    for record in rows:
        cells = _cells(record)
        style = _STYLES.get(cells["outcome"], "")
        cells["outcome"] = cells["outcome"].replace("_", " ")
        console.print(_line(cells, widths, outcome=style), no_wrap=True, crop=False)


def _fitting(width: int) -> dict[str, int]:
    """Return the columns that fit, in order, with their widths."""
    chosen: Sequence[str] = list(_WIDTHS)
    while len(chosen) > 2 and _taken(chosen) + _NARROWEST_PROMPT > width:
        chosen = chosen[:-1]
    prompt = max(1, width - _taken(chosen))
    return {
        name: prompt if name == "prompt" else _WIDTHS[name] for name in _ORDER if name in (*chosen, "prompt")
    }


def _taken(names: Sequence[str]) -> int:
    return sum(_WIDTHS[name] + 2 for name in names)


def _line(cells: dict[str, str], widths: dict[str, int], *, style: str = "", outcome: str = "") -> Text:
    line = Text(style=style)
    for name, width in widths.items():
        text = clean(cells[name])
        if cell_len(text) > width:
            text = set_cell_size(text, width - 1).rstrip() + "…"
        pad = " " * (width - cell_len(text))
        line.append(pad + text if name in _NUMBERS else text + pad, outcome if name == "outcome" else "")
        line.append("  ")
    line.rstrip()
    return line
