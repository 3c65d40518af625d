"""What does it take to wait for 100, 1,000 and 10,000 jobs: memory, CPU a look, lag of the event loop?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.harness import Worker, canned_server
from benchmarks.report import Bar, Chart, Group, Report, Table, Target

OURS: Final = "doitong_async"
TASKS: Final = "a task a job"
NOBODY: Final = "request, snapshot, awaiter"
PATHS: Final = {
    OURS: "benchmarks.waiting:OurJobs",
    TASKS: "benchmarks.waiting:SleepingTasks",
    NOBODY: "benchmarks.waiting:Nobody",
}
SIZES: Final = (100, 1_000, 10_000)
MOST_BYTES: Final = 1024
MOST_LAG: Final = 10.0
"""Milliseconds."""


@dataclass(frozen=True)
class Size:
    """What was measured with so many jobs: by competitor, then by name."""

    jobs: int
    memory: Mapping[str, Mapping[str, float]]
    time: Mapping[str, Mapping[str, float]]

    def beyond(self, name: str) -> float:
        """Return bytes a job beyond what is there in any case."""
        return self.memory[name]["bytes"] - self.memory[NOBODY]["bytes"]


def run(*, quick: bool) -> Report:
    """Measure each size; a quick run has one, on a clock that hurries, so that its lag says nothing."""
    return report([_measured(jobs, quick=quick) for jobs in (SIZES[:1] if quick else SIZES)])


def _measured(jobs: int, *, quick: bool) -> Size:
    speed, seconds = (20.0, 4.0) if quick else (1.0, 8.0)
    traced = {"traced": True, "speed": 20.0 if quick else 2.0, "seconds": seconds}
    timed = {"traced": False, "speed": speed, "seconds": seconds}
    with canned_server(-1) as url:
        memory = {name: _once(path, jobs, {"url": url, **traced}) for name, path in PATHS.items()}
        time = {name: _once(PATHS[name], jobs, {"url": url, **timed}) for name in (OURS, TASKS)}
    return Size(jobs, memory, time)


def _once(path: str, jobs: int, arguments: Mapping[str, object]) -> Mapping[str, float]:
    worker = Worker(path, arguments)
    try:
        return worker.round(jobs).more
    finally:
        worker.close()


def report(sizes: list[Size]) -> Report:
    """Return what was measured."""
    targets = [
        Target(
            f"{size.jobs:,} jobs: bytes a job beyond request, snapshot and awaiter",
            MOST_BYTES,
            size.beyond(OURS),
        )
        for size in sizes
    ]
    lag = sizes[-1].time[OURS]["lag_p99"] * 1e3
    targets.append(Target(f"{sizes[-1].jobs:,} jobs: lag of the event loop, p99, ms", MOST_LAG, lag))
    groups = [Group(f"{size.jobs:,} jobs", [_bar(size, name) for name in (TASKS, OURS)]) for size in sizes]
    chart = Chart(
        "in_flight",
        "Memory of a job in flight, beyond request, snapshot and awaiter",
        "bytes a job, counted by tracemalloc, connections included; less is better",
        groups,
        float(MOST_BYTES),
        "1 KiB",
    )
    return Report("in_flight", str(__doc__), [_memory(sizes), _time(sizes)], targets, _DOUBTS, [chart])


def _bar(size: Size, name: str) -> Bar:
    return Bar(name, max(0.0, size.beyond(name)), f"{size.beyond(name):,.0f}")


def _memory(sizes: list[Size]) -> Table:
    rows = []
    for size in sizes:
        for name in PATHS:
            held, rss = size.memory[name]["bytes"], size.time.get(name, {}).get("rss")
            beyond = "" if name == NOBODY else f"{size.beyond(name):,.0f}"
            rows.append(
                [f"{size.jobs:,}: {name}", f"{held:,.0f}", beyond, "" if rss is None else f"{rss:,.0f}"]
            )
    head = ["jobs", "bytes a job (tracemalloc)", "beyond request, snapshot, awaiter", "RSS, bytes a job"]
    return Table("Memory", head, rows)


def _time(sizes: list[Size]) -> Table:
    rows = []
    for size in sizes:
        for name, told in size.time.items():
            lag = [f"{told[what] * 1e3:,.1f}" for what in ("lag_p50", "lag_p99", "lag_most")]
            cost = [f"{told['cpu'] * 1e6:,.1f}", f"{told['looks']:,.0f}", f"{told['requests']:,.0f}"]
            rows.append([f"{size.jobs:,}: {name}", *cost, *lag])
    head = ["jobs", "CPU µs a look at a job", "looks", "requests", "lag ms, median", "p99", "most"]
    return Table("CPU of looks, and lag at even moments 5 ms apart", head, rows)


_DOUBTS: Final = [
    "Memory is over the target: some 600 bytes are the watch with its slot, its expiry and its place in the "
    "table (counted apart); the rest is the frames and the deadline timer of `await job`, which the awaiter "
    "it is compared with does without. Not tried yet: one frame and one timer for all awaiters.",
    "Lag is taken at even moments, and those that pass while the loop is busy count: a ticker that only "
    "looks at its own sleeps would hide them.",
    "The clock of the selector counts in whole milliseconds, so that even an idle loop is up to 1 ms late.",
    "Memory holds a share of the connections that looks and submits have opened; it tells with 100 jobs.",
]
