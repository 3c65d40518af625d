"""What a benchmark has to say, as values that go into JSON, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Numbers as text, under one heading; the first column names the row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Target:
    """What was asked for before anything was measured: at most `limit`."""

    what: str
    limit: float
    measured: float

    @property
    def is_met(self) -> bool:
        """Whether it was reached, to the last digit that is shown."""
        return round(self.measured, 3) <= self.limit


@dataclass(frozen=True)
class Bar:
    """One value of a chart, or a note where there is none to compare."""

    competitor: str
    value: float | None
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Bars that belong together."""

    name: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """A chart of horizontal bars; its file is named for it. `reference` is a value to draw a line at."""

    name: str
    title: str
    subtitle: str
    groups: Sequence[Group]
    reference: float | None = None
    reference_name: str = ""


@dataclass(frozen=True)
class Report:
    """One benchmark's answer to its question."""

    name: str
    question: str
    tables: Sequence[Table]
    targets: Sequence[Target]
    doubts: Sequence[str]
    charts: Sequence[Chart] = ()
    seconds: float = 0.0
    stamp: str = ""


def as_markdown(report: Report) -> str:
    """Return a report as a section of Markdown."""
    parts = [f"## {report.name}", report.question]
    parts += [f"![{chart.title}]({chart.name}.svg)" for chart in report.charts]
    if report.targets:
        parts.append(
            _grid(["must reach", "at most", "measured", ""], [_told(target) for target in report.targets])
        )
    for table in report.tables:
        parts += [f"**{table.title}**", _grid(table.columns, table.rows)]
    if report.doubts:
        parts.append("Doubts:\n\n" + "\n".join(f"- {doubt}" for doubt in report.doubts))
    parts.append(f"*{report.stamp} Took {report.seconds:.0f} s: `python -m benchmarks {report.name}`.*")
    return "\n\n".join(parts) + "\n"


def _told(target: Target) -> list[str]:
    decision = "met" if target.is_met else "**missed**"
    return [target.what, f"{target.limit:g}", f"{target.measured:.3g}", decision]


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    sides = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, sides, *rows))
