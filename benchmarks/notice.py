"""How long after a job's end at the server does its awaiter wake, and how many requests does that take?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from benchmarks import loops
from benchmarks.harness import canned_server, in_turn, percentile, workers
from benchmarks.report import Bar, Chart, Group, Report, Table, Target
from benchmarks.service import Service, served
from benchmarks.workload import Case, durations
from doitong_async import AsyncDoitong, Plan
from doitong_async.testing import run_virtual

OURS: Final = "doitong_async"
DOCUMENTED: Final = "documentation's loop"
AT_ONCE: Final = 10
"""Jobs."""
HOOKED: Final = "benchmarks.hooked:Takes"
PAUSE: Final = 0.005
"""Seconds between two webhooks."""
MOST_LATE: Final = 10.0
"""Milliseconds."""
ROOMY: Final = Plan.enterprise(requests_per_minute=600, concurrent_jobs=2 * AT_ONCE)
"""A plan on which neither of them ever waits to submit."""
TOGETHER: Final = Case(ROOMY, "image", AT_ONCE)
KEPT: Final = replace(TOGETHER, jobs=10 * AT_ONCE)
SCENES: Final[Mapping[str, Callable[[int], Sequence[float]]]] = {
    "ten jobs of 21 s": lambda _: [21.0] * AT_ONCE,
    "ten jobs at once": partial(durations, TOGETHER),
    "always ten in flight": partial(durations, KEPT),
}
"""The seconds of the jobs, by seed; all begin at once, and when one is over the next begins."""


@dataclass(frozen=True)
class Notice:
    """Seconds from each job's end to its awaiter's waking, and what was sent for all of them."""

    seconds: Sequence[float]
    submits: int
    looks: int
    refused: int


def run(*, quick: bool) -> Report:
    """Run both on the same jobs, in each scene."""
    seeds = range(2 if quick else 16)
    scenes = {name: measure([scene(seed) for seed in seeds]) for name, scene in SCENES.items()}
    return report(scenes, woken(20 if quick else 500))


def woken(webhooks: int) -> Mapping[str, float]:
    """Return in how many seconds webhooks wake who waits, in real time over loopback."""
    with canned_server(-1) as url, workers({OURS: HOOKED}, {"url": url, "pause": PAUSE}) as competitors:
        return in_turn(competitors, operations=webhooks, rounds=1)[OURS][0].more


def measure(sets: Sequence[Sequence[float]]) -> dict[str, Notice]:
    """Return what each made of the same jobs, all sets together."""
    return {
        DOCUMENTED: _together([run_documented(seconds) for seconds in sets]),
        OURS: _together([run_ours(seconds) for seconds in sets]),
    }


def _together(notices: Sequence[Notice]) -> Notice:
    seconds = [each for notice in notices for each in notice.seconds]
    sent = ((notice.submits, notice.looks, notice.refused) for notice in notices)
    submits, looks, refused = (sum(counts) for counts in zip(*sent, strict=True))
    return Notice(seconds, submits, looks, refused)


def run_ours(seconds: Sequence[float]) -> Notice:
    """Let the client make the jobs, over real sockets in virtual time."""

    async def main() -> Notice:
        service = Service(ROOMY, seconds)
        async with (
            served(service) as url,
            AsyncDoitong(api_key="benchmark-key", base_url=url, plan=ROOMY) as client,
        ):

            async def job(saw: loops.Saw) -> None:
                result = await client.generate("a picture")
                saw(int(result.id[4:]))

            return await _noticed(service, seconds, job)

    return run_virtual(main())


def run_documented(seconds: Sequence[float]) -> Notice:
    """Let each job have the documentation's loop."""

    async def main() -> Notice:
        service = Service(ROOMY, seconds)
        return await _noticed(service, seconds, lambda saw: loops.documented(service, saw))

    return loops.run_jumping(main())


async def _noticed(
    service: Service, seconds: Sequence[float], job: Callable[[loops.Saw], Awaitable[None]]
) -> Notice:
    late: list[float] = []
    left = iter(seconds)

    async def caller() -> None:
        for _ in left:
            await job(lambda number: late.append(loops.now() - service.ends[number]))

    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return Notice(late, service.submits, service.looks, service.refused)


def report(scenes: dict[str, dict[str, Notice]], woken: Mapping[str, float]) -> Report:
    """Return what was measured."""
    targets = []
    for name, of in scenes.items():
        median = _median(of[OURS]) / _median(of[DOCUMENTED])
        looks = of[OURS].looks / of[DOCUMENTED].looks
        targets.append(Target(f"{name}: median notice, over the loop's", 1.0, median))
        targets.append(Target(f"{name}: looks, over the loop's", 0.1, looks))
    late = woken["late_0.5"] * 1e3
    targets.append(Target("webhooks: from the request to the awaiter's waking, ms, median", MOST_LATE, late))
    groups = [
        Group(
            name,
            [Bar(who, each.looks / of[DOCUMENTED].looks) for who, each in of.items()],
        )
        for name, of in scenes.items()
    ]
    chart = Chart(
        "notice",
        "Status requests for noticing the same jobs, over the documentation's loop",
        "both notice an end within 2 s, and half of them within 1 s; less is better",
        groups,
    )
    return Report("notice", str(__doc__), [_table(scenes), _of_webhooks(woken)], targets, _DOUBTS, [chart])


def _median(notice: Notice) -> float:
    return percentile(notice.seconds, 0.5)


def _table(scenes: dict[str, dict[str, Notice]]) -> Table:
    rows = []
    for scene, of in scenes.items():
        for who, each in of.items():
            times = [f"{percentile(each.seconds, share):.2f}" for share in (0.5, 0.99, 1)]
            counts = [f"{value:,}" for value in (len(each.seconds), each.looks, each.submits, each.refused)]
            rows.append([f"{scene}: {who}", *times, *counts])
    head = ["", "notice s, median", "p99", "most", "jobs", "looks", "submits", "429s"]
    return Table("Virtual seconds, exact", head, rows)


def _of_webhooks(woken: Mapping[str, float]) -> Table:
    row = [f"{woken[f'late_{share}'] * 1e3:.2f}" for share in (0.5, 0.99, 1)]
    head = ["", "wake ms, median", "p99", "most"]
    return Table("Webhooks, real milliseconds from the receiver's getting the request", head, [[OURS, *row]])


_DOUBTS: Final = [
    "Requests take no time here, so that a notice is waiting for the next look and nothing else.",
    "One look for ten jobs is a tenth of the loop's ten as long as all ten are in flight. When the shorter "
    "ones are over, the loop looks for fewer jobs each 2 s, and one look is still one look: no polling that "
    "is as early as the loop can do with less.",
]
