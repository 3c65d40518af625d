"""Runs benchmarks: `python -m benchmarks [name …] [--quick] [--json FILE] [--plot DIR]`."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from typing import Final

from benchmarks.harness import stamp
from benchmarks.report import Report, as_markdown
from benchmarks.svg import drawn

NAMES: Final = ("call_overhead", "job_overhead", "makespan", "batch", "coordinator")
HERE: Final = Path(__file__).parent
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
    """Run what was asked for; unless it is quick, renew README, pictures and results.json here."""
    asked = _parsed(arguments)
    reports = []
    for name in asked.names or NAMES:
        reports.append(measured(name, quick=asked.quick))
        sys.stdout.write(as_markdown(reports[-1]) + "\n")
        sys.stdout.flush()
    if not asked.quick:
        readme = HERE / "README.md"
        readme.write_text(renewed(readme.read_text(), reports))
    if asked.json or not asked.quick:
        results = [asdict(report) for report in reports]
        (asked.json or HERE / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
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


def renewed(readme: str, reports: Sequence[Report]) -> str:
    """Return the README with new sections in place of those of the same name."""
    found = re.split(r"^(?=## )", readme, flags=re.MULTILINE)[1:]
    sections = {section.split()[1]: section.rstrip() + "\n" for section in found}
    sections |= {report.name: as_markdown(report) for report in reports}
    return "\n".join([_HEAD, *(sections[name] for name in NAMES if name in sections)])


if __name__ == "__main__":
    main()
