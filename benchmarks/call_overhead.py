"""What CPU does one submit through the client cost, all included, with 32 in flight?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final

from benchmarks.harness import Sample, canned_server, in_turn, installed, spread, workers
from benchmarks.report import Bar, Chart, Group, Report, Table, Target

OURS: Final = "doitong_async"
BARE: Final = "bare aiohttp"
COMPETITORS: Final = {
    BARE: "benchmarks.competitors:BareCalls",
    OURS: "benchmarks.competitors:OurCalls",
    "gql as documented": "benchmarks.competitors:GqlCalls",
    "httpx": "benchmarks.competitors:HttpxCalls",
}
LIMIT: Final = 1.6
REACH: Final = 1.25


def run(*, quick: bool) -> Report:
    """Measure all competitors that are installed, a round each in turn."""
    left_out = [] if installed("httpx") else ["httpx"]
    there = {name: path for name, path in COMPETITORS.items() if name not in left_out}
    with canned_server(0) as url, workers(there, {"url": url}) as started:
        samples = in_turn(started, operations=96 if quick else 1600, rounds=1 if quick else 15)
    return report(samples, left_out)


def report(samples: Mapping[str, Sequence[Sample]], left_out: Sequence[str]) -> Report:
    """Return what the samples say."""
    cpu = {name: median(each.cpu_each for each in rounds) for name, rounds in samples.items()}
    others = [name for name in samples if name not in (OURS, BARE)]
    doubts = [f"{name} is not installed, so it is left out." for name in left_out] + _DOUBTS
    below = [Target(f"CPU of doitong_async over {name}", 1.0, cpu[OURS] / cpu[name]) for name in others]
    ratio = cpu[OURS] / cpu[BARE]
    targets = [
        Target("CPU of one submit, over bare aiohttp", LIMIT, ratio),
        Target("the same, to reach for", REACH, ratio),
        *below,
    ]
    group = Group("32 in flight", [Bar(name, cpu[name] / cpu[BARE]) for name in samples])
    chart = Chart(
        "call_overhead",
        "CPU of one submit, over a bare aiohttp POST",
        "the client's own process; less is better",
        [group],
        1.0,
        BARE,
    )
    return Report("call_overhead", str(__doc__), [_table(samples, cpu)], targets, doubts, [chart])


def _table(samples: Mapping[str, Sequence[Sample]], cpu: Mapping[str, float]) -> Table:
    rows = []
    least = min(each.cpu_each for each in samples[BARE])
    for name, rounds in samples.items():
        cost = spread([each.cpu_each * 1e6 for each in rounds])
        wall = median(each.wall_each for each in rounds) * 1e6
        ratios = [f"{cpu[name] / cpu[BARE]:.2f}", f"{cost.least / 1e6 / least:.2f}"]
        times = [f"{value:.0f}" for value in (cost.least, cost.median, cost.p99, wall)]
        rows.append([name, *ratios, *times, f"{rounds[-1].rss / 2**20:.0f}"])
    head = ["", "over bare, median", "over bare, least"]
    head += ["CPU µs, least", "median", "p99", "wall µs", "RSS MiB, most"]
    return Table(
        f"One submit, {len(samples[BARE])} rounds in turn of {samples[BARE][0].operations:,} calls",
        head,
        rows,
    )


_DOUBTS: Final = [
    "Over the target of 1.6, and spread thin: no function takes more than some 3 % (profile). The larger "
    "parts are gql's public `execute` with a timeout scope of its own, the task that outlives its caller, "
    "slot, request permit, checks and the snapshot. Tried, from 2.5: no wait queue and no events where "
    "nobody waits or listens, a request that is checked once. The task that outlives its caller keeps a paid "
    "job from being lost; the public way into gql keeps an update of gql from breaking submits.",
    "The server answers each submit with a finished job, so that no poll falls into what is measured.",
    "It is on the same machine and answers at once; the wall time holds its own time too, the CPU time not.",
    "httpx goes through its pool's connections again and again for each request (seen in a profile): with 8 "
    "calls in flight one takes less than half of what it takes with 32.",
    "Bare aiohttp sends the same ready-made bytes each time; whoever builds the body pays some µs more.",
]
