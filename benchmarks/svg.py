"""Charts of horizontal bars as small SVGs that need nothing else, readable on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Final

from benchmarks.report import Bar, Chart, Group

OURS: Final = "doitong_async"

_WIDTH: Final = 880
_MARGIN: Final = 28
_GUTTER: Final = 36
_NAMES: Final = 152
_VALUES: Final = 46
_ROW: Final = 23
_BAR: Final = 15
_TOP: Final = 84
_HEADING: Final = 28
_BELOW: Final = 22

_STYLE: Final = """
  svg { color-scheme: light dark; }
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
  .paper { fill: #ffffff; stroke: #e3e6eb; }
  text { fill: #3b4350; }
  .title { font-size: 17px; font-weight: 600; fill: #14181f; }
  .soft { fill: #687180; }
  .group { font-weight: 600; fill: #14181f; }
  .bar { fill: #b9c1cd; }
  .ours .bar { fill: #2f6fed; }
  .ours text { fill: #1f57c8; font-weight: 600; }
  .lost { fill: #c2382b; }
  .lost, .value { stroke: #ffffff; stroke-width: 5px; paint-order: stroke; }
  .line { stroke: #14181f; stroke-width: 1; stroke-dasharray: 2 3; opacity: .55; }
  .axis { stroke: #c9cfd8; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #12161c; stroke: #2a313b; }
    text { fill: #c3cad5; }
    .title, .group { fill: #f2f5f9; }
    .soft { fill: #8d97a6; }
    .bar { fill: #4a5462; }
    .ours .bar { fill: #5b93ff; }
    .ours text { fill: #8cb4ff; }
    .lost { fill: #ff8376; }
    .lost, .value { stroke: #12161c; }
    .line { stroke: #f2f5f9; }
    .axis { stroke: #39424e; }
  }"""


def drawn(chart: Chart) -> str:
    """Return a chart as the text of an SVG file."""
    columns = 1 if len(chart.groups) % 2 else 2
    width = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GUTTER) // columns
    rows = [chart.groups[first : first + columns] for first in range(0, len(chart.groups), columns)]
    longest = [max(len(group.bars) for group in row) for row in rows]
    heights = [_HEADING + _ROW * bars + _BELOW for bars in longest]
    height = _TOP + sum(heights) + (14 if chart.reference is not None else 0)
    body = list[str]()
    for number, row in enumerate(rows):
        top = _TOP + sum(heights[:number])
        for column, group in enumerate(row):
            body += _panel(chart, group, _MARGIN + column * (width + _GUTTER), top, width)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(chart.title)}">'
    )
    return "\n".join([head, f"<style>{_STYLE}\n</style>", *_frame(chart, height), *body, "</svg>"]) + "\n"


def _frame(chart: Chart, height: int) -> Iterator[str]:
    yield f'<rect class="paper" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="10"/>'
    yield _text(_MARGIN, 36, chart.title, "title")
    yield _text(_MARGIN, 58, chart.subtitle, "soft")
    if chart.reference is not None:
        x, y = _MARGIN, height - 18
        yield f'<line class="line" x1="{x}" y1="{y - 4}" x2="{x + 22}" y2="{y - 4}"/>'
        yield _text(x + 30, y, chart.reference_name, "soft")


def _panel(chart: Chart, group: Group, left: int, top: int, width: int) -> Iterator[str]:
    start, first, scale = left + _NAMES, top + _HEADING, _scale(chart, width)
    bottom = first + _ROW * len(group.bars)
    yield _text(left, top + 14, group.name, "group")
    yield f'<line class="axis" x1="{start}" y1="{first - 4}" x2="{start}" y2="{bottom - 2}"/>'
    for number, bar in enumerate(group.bars):
        yield from _bar(bar, start, first + _ROW * number, scale)
    if chart.reference is not None:
        x = start + chart.reference * scale
        yield f'<line class="line" x1="{x:.1f}" y1="{first - 4}" x2="{x:.1f}" y2="{bottom - 2}"/>'
    for number, bar in enumerate(group.bars):
        yield from _words(bar, start, first + _ROW * number + _BAR - 3, scale)


def _bar(bar: Bar, start: int, top: int, scale: float) -> Iterator[str]:
    if bar.value is not None:
        width = max(1.0, bar.value * scale)
        shape = f'<rect class="bar" x="{start}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
        yield f'<g class="{_kind(bar)}">{shape}</g>'


def _words(bar: Bar, start: int, base: int, scale: float) -> Iterator[str]:
    yield f'<g class="{_kind(bar)}">'
    yield _text(start - 8, base, bar.competitor, "name", anchor="end")
    if bar.value is None:
        yield _text(start + 8, base, bar.note, "lost")
    else:
        yield _text(start + bar.value * scale + 6, base, bar.note or f"{bar.value:.2f}", "value")
    yield "</g>"


def _kind(bar: Bar) -> str:
    return "ours" if bar.competitor == OURS else "other"


def _scale(chart: Chart, width: int) -> float:
    values = [bar.value for group in chart.groups for bar in group.bars if bar.value is not None]
    return (width - _NAMES - _VALUES) / max([*values, 1e-9])


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
