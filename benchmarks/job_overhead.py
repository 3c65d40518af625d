"""What CPU does one whole job cost: a submit, five polls, the result; with 10, 100 and 1,000 in flight?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.harness import Sample, canned_server, in_turn, spread, workers
from benchmarks.report import Bar, Chart, Group, Report, Table, Target

OURS: Final = "doitong_async"
HAND_WRITTEN: Final = "hand-written loop"
COMPETITORS: Final = {
    HAND_WRITTEN: "benchmarks.competitors:HandWrittenJobs",
    OURS: "benchmarks.competitors:OurJobs",
    "gql as documented": "benchmarks.competitors:GqlJobs",
}
POLLS: Final = 5
LIMITS: Final = {10: 0.8, 100: 0.4, 1000: 0.4}
REACH: Final = 0.25
JOBS: Final = {10: 60, 100: 400, 1000: 2000}
"""Jobs in a round."""
SPEEDS: Final = {10: 50.0, 100: 20.0, 1000: 10.0}
"""How much faster the clock runs: so little that an aiohttp loop rests between two polls."""


def run(*, quick: bool) -> Report:
    """Measure all competitors at each number of jobs in flight, a round each in turn."""
    samples = {}
    for in_flight in (10,) if quick else LIMITS:
        with (
            canned_server(POLLS) as url,
            workers(COMPETITORS, {"url": url, "in_flight": in_flight, "speed": SPEEDS[in_flight]}) as started,
        ):
            jobs = in_flight if quick else JOBS[in_flight]
            samples[in_flight] = in_turn(started, operations=jobs, rounds=1 if quick else 5)
    return report(samples)


def report(samples: Mapping[int, Mapping[str, Sequence[Sample]]]) -> Report:
    """Return what the samples say."""
    targets, groups = [], []
    for in_flight, rounds in samples.items():
        over = {name: _cpu(each) / _cpu(rounds[HAND_WRITTEN]) for name, each in rounds.items()}
        said = f"{in_flight:,} in flight: CPU of one job, over the hand-written loop"
        targets.append(Target(said, LIMITS[in_flight], over[OURS]))
        targets.append(Target("the same, to reach for", REACH, over[OURS]))
        groups.append(
            Group(f"{in_flight:,} jobs in flight", [Bar(name, value) for name, value in over.items()])
        )
    chart = Chart(
        "job_overhead",
        "CPU of one whole job, over a hand-written aiohttp loop",
        "submit, five polls, result; the client's own process; less is better",
        groups,
        1.0,
        HAND_WRITTEN,
    )
    tables = [_table(in_flight, rounds) for in_flight, rounds in samples.items()]
    return Report("job_overhead", str(__doc__), tables, targets, _DOUBTS, [chart])


def _cpu(rounds: Sequence[Sample]) -> float:
    return median(each.cpu_each for each in rounds)


def _table(in_flight: int, samples: Mapping[str, Sequence[Sample]]) -> Table:
    rows = []
    for name, rounds in samples.items():
        cost = spread([each.cpu_each * 1e6 for each in rounds])
        ratio = _cpu(rounds) / _cpu(samples[HAND_WRITTEN])
        times = [f"{value:.0f}" for value in (cost.least, cost.median, cost.p99)]
        rows.append([name, f"{ratio:.2f}", *times, f"{rounds[-1].rss / 2**20:.0f}"])
    head = ["", "over hand-written", "CPU µs a job, least", "median", "p99", "RSS MiB, most"]
    any_rounds = samples[HAND_WRITTEN]
    title = f"{in_flight:,} in flight, {len(any_rounds)} rounds in turn of {any_rounds[0].operations:,} jobs"
    return Table(title, head, rows)


_DOUBTS: Final = [
    "Over the targets: half of a job's cost is its submit (see call_overhead), and at 10 in flight a poll is "
    "shared by ten only. Tried: updates that change nothing build nothing, statuses compared as plain words, "
    "the next tick worked out once a poll instead of once a job.",
    "The event loop's clock runs 10 to 50 times as fast, for all alike: waiting costs no CPU, so it is cut.",
    "A round's jobs begin together and end with their fifth poll, so they stay in step; jobs that straggle "
    "share polls less well, and at 10 in flight that tells.",
    "There is no wall time here: on a clock that hurries it says nothing.",
]
