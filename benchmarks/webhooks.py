"""What does a webhook cost beyond the HTTP server: to verify it, to read it, and to wake who waits?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.harness import Sample, canned_server, in_turn, spread, workers
from benchmarks.report import Bar, Chart, Group, Report, Table, Target

OURS: Final = "doitong_async's receiver"
BARE: Final = "a handler that reads"
PATHS: Final = {OURS: "benchmarks.hooked:Takes", BARE: "benchmarks.hooked:Reads"}
MOST: Final = 150.0
"""Microseconds of CPU an event, beyond the server's own."""


def run(*, quick: bool) -> Report:
    """Let both take the same number of webhooks, in turn."""
    operations, rounds = (100, 1) if quick else (2_000, 15)
    with canned_server(-1) as url, workers(PATHS, {"url": url, "pause": 0.0}) as competitors:
        return report(in_turn(competitors, operations=operations, rounds=rounds))


def report(samples: Mapping[str, Sequence[Sample]]) -> Report:
    """Return what was measured."""
    each = {name: [sample.more["cpu_each"] * 1e6 for sample in of] for name, of in samples.items()}
    beyond = median(each[OURS]) - median(each[BARE])
    rows = []
    for name, values in each.items():
        told = spread(values)
        rows.append([name, *(f"{value:,.0f}" for value in (told.least, told.median, told.p99))])
    rows.append(["verify, parse and wake", "", f"{beyond:,.0f}", ""])
    table = Table("CPU µs a webhook", ["", "least", "median", "p99"], rows)
    targets = [Target("verify, parse and wake, CPU µs an event beyond the server's own", MOST, beyond)]
    chart = Chart(
        "webhooks",
        "CPU of a webhook",
        "µs, with a job awaited for each, and with a handler that only reads; less is better",
        [Group("a webhook", [Bar(name, median(values)) for name, values in each.items()])],
    )
    return Report("webhooks", str(__doc__), [table], targets, _DOUBTS, [chart])


_DOUBTS: Final = [
    "The difference of two medians: what the server itself needs is more than what it is asked for here, and "
    "its spread is in the result.",
    "The webhooks come over eight connections that are kept alive; a service that opens one for each costs "
    "the server more, and the receiver nothing.",
    "The sender is a process of its own, on the same machine.",
]
