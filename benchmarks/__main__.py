"""Runs benchmarks: `python -m benchmarks [name …] [--quick] [--json FILE] [--plot DIR]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.harness import stamp
from benchmarks.report import Report, as_markdown
from benchmarks.svg import drawn

NAMES: Final = ("call_overhead", "job_overhead", "makespan", "in_flight", "notice", "webhooks", "batch")
HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"
_HEAD: Final = """# Benchmarks

Written by `python -m benchmarks`, never by hand. Each module here opens with its question; all of them run,
with `--quick`, in the tests. What is exact (requests, virtual seconds, 429s, lost jobs) the tests assert;
what is timed is only reported, and holds for the machine it was timed on.

```sh
python -m benchmarks                       # all, and this file anew
python -m benchmarks makespan              # one, and its part of this file
python -m benchmarks --quick --plot /tmp   # small and rough; leaves this file alone
```
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for; unless it is quick, renew README, pictures and results beside this file."""
    asked = _parsed(arguments)
    reports = []
    for name in asked.names or NAMES:
        reports.append(measured(name, quick=asked.quick))
        sys.stdout.write(as_markdown(reports[-1]) + "\n")
        sys.stdout.flush()
    if not asked.quick:
        _renew(reports)
    if asked.json:
        asked.json.write_text(_as_json(reports))
    if asked.plot or not asked.quick:
        draw(reports, asked.plot or HERE)


def measured(name: str, *, quick: bool) -> Report:
    """Run one benchmark and stamp what it found."""
    started = time.perf_counter()
    report: Report = import_module(f"benchmarks.{name}").run(quick=quick)
    return replace(report, seconds=time.perf_counter() - started, stamp=stamp())


def draw(reports: Sequence[Report], folder: Path) -> None:
    """Write every chart into a folder, as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    for chart in (chart for report in reports for chart in report.charts):
        (folder / f"{chart.name}.svg").write_text(drawn(chart))


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="name", help=", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="small and rough: whether it runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write the pictures here")
    return parser.parse_args(arguments)


def _renew(reports: Sequence[Report]) -> None:
    """Put new results in the place of old ones, and write the README of all."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    known = {report.name: report for report in map(Report.from_json, old)}
    known |= {report.name: report for report in reports}
    kept = [known[name] for name in NAMES if name in known]
    RESULTS.write_text(_as_json(kept))
    (HERE / "README.md").write_text("\n".join([_HEAD, *map(as_markdown, kept)]))


def _as_json(reports: Sequence[Report]) -> str:
    return json.dumps([report.as_json() for report in reports], indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
