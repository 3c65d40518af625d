"""What does a ledger cost an item, does memory grow with the batch, and how soon does a resumed one go on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.harness import Sample, Worker, canned_server
from benchmarks.report import Report, Table, Target

POLLS: Final = 2
"""How often the canned server's jobs are polled until they are completed."""
PATHS: Final = {
    "without a ledger": "benchmarks.batches:Batches",
    "with a ledger": "benchmarks.batches:Recorded",
}
MOST_CPU: Final = 0.2
"""Milliseconds an item."""
MOST_SYNCS: Final = 2.0
MOST_MEMORY: Final = 1.2
MOST_SECONDS: Final = 3.0


@dataclass(frozen=True)
class Sizes:
    """How many items a batch of each question has."""

    cost: int
    rounds: int
    few: int
    many: int
    resumed: int


def run(*, quick: bool) -> Report:
    """Answer each question; a quick run has so few items that only its exact numbers say something."""
    sizes = Sizes(60, 1, 30, 120, 500) if quick else Sizes(2_000, 5, 1_000, 100_000, 100_000)
    with canned_server(POLLS) as url:
        cost = _costs(url, sizes)
        memory = {size: _alone("benchmarks.batches:Recorded", url, size) for size in (sizes.few, sizes.many)}
        resumed = _alone("benchmarks.batches:Resumed", url, sizes.resumed)
    return report(sizes, cost, memory, resumed)


def _costs(url: str, sizes: Sizes) -> Mapping[str, list[Sample]]:
    workers = {name: Worker(path, {"url": url}) for name, path in PATHS.items()}
    samples: dict[str, list[Sample]] = {name: [] for name in PATHS}
    try:
        for number in range(1 + sizes.rounds):
            for name, worker in workers.items():
                sample = worker.round(sizes.cost)
                if number:
                    samples[name].append(sample)
    finally:
        for worker in workers.values():
            worker.close()
    return samples


def _alone(path: str, url: str, items: int) -> Sample:
    worker = Worker(path, {"url": url})
    try:
        return worker.round(items)
    finally:
        worker.close()


def report(
    sizes: Sizes, cost: Mapping[str, list[Sample]], memory: Mapping[int, Sample], resumed: Sample
) -> Report:
    """Return what was measured."""
    each = {name: median(sample.cpu_each for sample in samples) * 1e3 for name, samples in cost.items()}
    ledger = each["with a ledger"] - each["without a ledger"]
    syncs = median(sample.more["syncs"] / sample.operations for sample in cost["with a ledger"])
    grown = memory[sizes.many].rss / memory[sizes.few].rss
    first = resumed.more["first_submit"]
    targets = [
        Target("CPU of the ledger, ms an item", MOST_CPU, ledger),
        Target("fsyncs an item", MOST_SYNCS, syncs),
        Target(f"memory of {sizes.many:,} items, over that of {sizes.few:,}", MOST_MEMORY, grown),
        Target(f"{sizes.resumed:,} items, all done but the last: s to its submit", MOST_SECONDS, first),
    ]
    rows = [[name, f"{value:.3f}", f"{len(cost[name])} × {sizes.cost:,}"] for name, value in each.items()]
    sized = [
        [f"{size:,}", f"{sample.rss / 2**20:,.1f}", f"{sample.cpu_each * 1e3:.3f}"]
        for size, sample in memory.items()
    ]
    tables = [
        Table("A whole item: CPU", ["batch", "ms an item, median", "rounds × items"], rows),
        Table("Memory, the ledger included", ["items", "RSS at most, MiB", "CPU, ms an item"], sized),
    ]
    return Report("batch", str(__doc__), tables, targets, _DOUBTS)


_DOUBTS: Final = [
    "An item is three groups of changes, its intent, its answer and its end, and each group is a turn "
    "of the ledger's thread: the more items go in step, the more share one. One alone, with nobody to "
    "share with, costs 0.5 ms; on a busy machine 0.37 ms an item was measured here. A wait of 50 ms for"
    " company was tried, and cost more than it saved.",
    "The CPU of the ledger is the difference of two medians, each of a whole item.",
    "A resumed batch compares each item with the next row of the ledger, and checks its file and, before "
    "it is trusted, the whole ledger. Counted is from the call to the event of the first submit, in code; "
    "the command line reads its file twice before, to check and to estimate it. The files are one byte long.",
    "fsyncs are counted as SQLite's documentation has them: one for each group that is written with "
    "synchronous=FULL, five for each checkpoint, of which the header of the log tells the number. Items "
    "that begin together share theirs; one alone has one, and its share of a checkpoint.",
    "No outputs are fetched in these batches.",
]
