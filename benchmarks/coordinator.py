"""What do processes on one key reach by way of Redis, in real time, whatever dies, stops or is cut off?"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import aiohttp

from benchmarks.harness import ROOT
from benchmarks.part import SETTINGS, client_of
from benchmarks.processes import Counts, Part, Scene, scene
from benchmarks.report import Report, Table, Target
from benchmarks.workload import Case, durations
from doitong_async import Plan
from doitong_async.limits.permits import Priority
from doitong_async.webhooks.serving import free_port
from tests.redis_server import Proxy, RedisServer

SECRET: Final = "benchmark-webhook-secret"
WIDE: Final = Plan.enterprise(requests_per_minute=60_000, concurrent_jobs=1_000)
"""Where nobody has to wait for the plan."""
MOST_SECONDS: Final = 1.05
MOST_DISTURBED: Final = 1.2
MOST_MIXED: Final = 1.1
MOST_POLLS: Final = 0.1
MOST_FORGOTTEN: Final = 3
"""429s, after Redis was emptied twice."""
LATEST_SINGLE: Final = 45.0
LATEST_NOTICE: Final = 0.5
MEDIAN_NOTICE: Final = 0.05
MOST_ACQUIRE: Final = 2.0
MOST_OPERATION: Final = 1.0


@dataclass(frozen=True)
class Sizes:
    """How much there is to do in each row, and when it is disturbed; times in seconds."""

    plan: Plan = Plan.PRO
    pace: float = 1.0
    """Factor of the jobs' durations."""
    processes: int = 4
    each: int = 75
    gap: float = 12.0
    """Between two disturbances."""
    freezes: Sequence[float] = (8.0, 30.0, 130.0)
    restarts: Sequence[tuple[float, float]] = ((40.0, 3.0), (100.0, 0.0))
    """How long to wait until Redis is killed, and how long it is away."""
    many: int = 200
    singles: int = 3
    cut_items: int = 40
    cut: float = 60.0
    orphan_pace: float = 2.5
    """Factor of the durations of jobs whose process is killed: it has to be noticed while they run."""
    workers: int = 4
    requests: int = 40
    acquires: int = 1_000
    waiters: int = 10_000
    watched: float = 30.0
    stagger: float = 5.0
    """Between the beginnings of two rows: they run side by side."""


QUICK: Final = Sizes(
    plan=Plan.enterprise(requests_per_minute=600, concurrent_jobs=4),
    pace=1 / 6,
    processes=2,
    each=4,
    gap=1.0,
    freezes=(0.5,),
    restarts=((0.5, 0.2), (0.5, 0.0)),
    many=6,
    singles=1,
    cut_items=4,
    cut=1.5,
    orphan_pace=0.6,
    workers=2,
    requests=6,
    acquires=30,
    waiters=100,
    watched=1.5,
    stagger=0.0,
)


@dataclass
class Run:
    """One run: what was counted, and what else was seen, by name."""

    name: str
    counts: Counts
    seen: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def run(*, quick: bool) -> Report:
    """Run every row; a quick run has so few jobs that only its exact numbers say something."""
    sizes = QUICK if quick else Sizes()
    return report(sizes, *asyncio.run(_measure(sizes)))


async def _measure(sizes: Sizes) -> tuple[dict[str, Run], dict[str, float]]:
    rows = [alone, mixed_alone, together, disturbed, emptied, mixed, cut_off, orphaned]
    # A plan of one request a second leaves the machine idle, so these run side by side.
    measured = await asyncio.gather(
        *(_later(number * sizes.stagger, row, sizes) for number, row in enumerate(rows))
    )
    # What is timed in milliseconds has the machine to itself.
    measured.append(await notified(sizes))
    return {each.name: each for each in measured}, {
        "acquire": await acquired(sizes),
        "operation": await waited(sizes),
    }


async def _later(seconds: float, row: Callable[[Sizes], Any], sizes: Sizes) -> Run:
    await asyncio.sleep(seconds)
    measured: Run = await row(sizes)
    return measured


def _seconds(sizes: Sizes, pace: float = 0.0) -> Callable[[int], float]:
    """Return how long the n-th job of a service takes: the same for every row."""
    all_of_them = durations(Case(sizes.plan, "image", 1_000), 0)
    return lambda number: all_of_them[(number - 1) % len(all_of_them)] * (pace or sizes.pace)


ALONE: Final = "one process, no coordinator"
MIXED_ALONE: Final = "one process, as many as one large batch and the single jobs"
TOGETHER: Final = "several processes"
DISTURBED: Final = "the poller and a holder killed, one frozen"
EMPTIED: Final = "Redis killed twice, and started empty"
MIXED: Final = "a large batch, and single jobs of others"
CUT_OFF: Final = "one process cut off from Redis"
ORPHANED: Final = "killed with all slots taken; as many jobs from another"
NOTIFIED: Final = "uvicorn with webhooks"


async def alone(sizes: Sizes, *, name: str = ALONE, items: int = 0) -> Run:
    """Let one process do all, as it would without the others."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=False) as here:
        part = await here.open(items or sizes.processes * sizes.each)
        part.go()
        return Run(name, await here.finish())


async def mixed_alone(sizes: Sizes) -> Run:
    """Let one process do what `mixed` spreads over several."""
    return await alone(sizes, name=MIXED_ALONE, items=sizes.many + sizes.singles)


async def together(sizes: Sizes, *, is_coordinated: bool = True) -> Run:
    """Let several processes share the work; without a coordinator each believes it has the plan alone."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=is_coordinated) as here:
        await _begin(here, sizes)
        return Run(TOGETHER, await here.finish())


async def _begin(here: Scene, sizes: Sizes) -> None:
    await asyncio.gather(*(here.open(sizes.each) for _ in range(sizes.processes)))
    for part in here.parts:
        part.go()


async def disturbed(sizes: Sizes) -> Run:
    """Kill who polls, kill who holds slots, and freeze one for ever longer."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=True) as here:
        await _begin(here, sizes)
        happened: list[str] = []
        frozen: list[tuple[Part, float, float]] = []
        disturbing = asyncio.create_task(_disturb(here, sizes, happened, frozen))
        try:
            counts = await here.finish()
            if not disturbing.done():
                happened.append("the work was done before the rest")
        finally:
            disturbing.cancel()
            await asyncio.wait([disturbing])
        if not disturbing.cancelled() and (error := disturbing.exception()):
            raise error
        alone = sum(_alone_in(here, *each) for each in frozen)
        return Run(DISTURBED, counts, {"frozen": alone}, ", ".join(happened))


def _alone_in(here: Scene, part: Part, began: float, ended: float) -> float:
    """Return the seconds for which only a frozen process had anything left to do."""
    others = [at for each in here.parts if each is not part for at in each.done.values()]
    return max(0.0, ended - max(began, *others))


async def _disturb(
    here: Scene, sizes: Sizes, happened: list[str], frozen: list[tuple[Part, float, float]]
) -> None:
    async def kill_poller() -> None:
        await asyncio.sleep(sizes.gap)
        await (await here.poller()).replace()
        happened.append("poller killed")

    async def freeze(part: Part, seconds: float) -> None:
        began = time.monotonic()
        await part.freeze(seconds)
        frozen.append((part, began, time.monotonic()))
        happened.append(f"frozen {seconds:g} s")

    async def other() -> Part:
        await asyncio.sleep(sizes.gap)
        return await here.holder(besides=[await here.poller()])

    await kill_poller()
    await asyncio.sleep(sizes.gap)
    await freeze(await here.poller(), sizes.freezes[0])
    await (await other()).replace()
    happened.append("holder killed")
    for seconds in sizes.freezes[1:-1]:
        await freeze(await other(), seconds)
    if len(sizes.freezes) > 1:
        await kill_poller()
        await freeze(await other(), sizes.freezes[-1])


async def emptied(sizes: Sizes) -> Run:
    """Kill Redis twice; what it knew is gone."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=True) as here:
        await _begin(here, sizes)
        for wait, away in sizes.restarts:
            await asyncio.sleep(wait)
            await here.restart_redis(away=away)
        return Run(EMPTIED, await here.finish())


async def mixed(sizes: Sizes) -> Run:
    """Let single jobs of others come while one process has a large batch."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=True) as here:
        large = await here.open(sizes.many)
        singles = [await here.open(1, has_ledger=False) for _ in range(sizes.singles)]
        large.go()
        for part in singles:
            await asyncio.sleep(2 * sizes.gap)
            part.go()
        counts = await here.finish()
        latest = max(at - part.called for part in singles for at in part.done.values())
        return Run(MIXED, counts, {"latest": latest}, f"single jobs done within {latest:.1f} s")


async def cut_off(sizes: Sizes) -> Run:
    """Cut one of two processes off from Redis, while it still reaches the service."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=True) as here:
        assert here.redis is not None
        async with Proxy(here.redis.port) as proxy:
            cut = await here.open(sizes.cut_items, through=proxy)
            await here.open(sizes.cut_items)
            for part in here.parts:
                part.go()
            await asyncio.sleep(sizes.gap)
            began = time.monotonic()
            proxy.cut("stall")
            await asyncio.sleep(sizes.cut)
            ended = time.monotonic()
            await proxy.mend()
            counts = await here.finish()
        noticed = [at for at in cut.done.values() if began < at <= ended]
        jobs = [here.server.jobs[job] for job in cut.jobs]
        in_flight = [job for job in jobs if job.created <= began < job.ends]
        late = [cut.done[cut.jobs[job.id]] - job.ends for job in in_flight]
        note = (
            f"{len(in_flight)} jobs in flight, noticed at most {max(late, default=0.0):.1f} s after their end"
        )
        return Run(CUT_OFF, counts, note=f"{note}; {len(noticed)} ends noticed in the {sizes.cut:g} s")


async def orphaned(sizes: Sizes) -> Run:
    """Kill a process whose jobs run, let another submit as many, and take the orphans up by the ledger."""
    async with scene(sizes.plan, _seconds(sizes, sizes.orphan_pace), is_coordinated=True) as here:
        first, second = (
            await here.open(sizes.plan.concurrent_jobs),
            await here.open(sizes.plan.concurrent_jobs),
        )
        first.go()
        # Once all are polled, all are known to run.
        while not any(len(each.ids) == first.items for each in here.server.requests):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await first.kill()
        second.go()
        await second.finish()
        orphans, others = list(here.server.jobs.values())[: first.items], list(here.server.jobs.values())
        others = others[first.items :]
        free = sorted(job.ends for job in orphans)
        back = [job.created - at for job, at in zip(others, free, strict=True)]
        await first.open()
        first.go()
        counts = await here.finish()
        note = (
            f"a slot was taken again {median(back):.1f} s after its orphan's end, {max(back):.1f} s at most"
        )
        return Run(ORPHANED, counts, {"back": max(back)}, note)


@asynccontextmanager
async def _web(here: Scene, workers: int) -> AsyncIterator[str]:
    """Run the web service, and yield its address once every worker answers."""
    with free_port() as place:
        port = place.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = {**here.client, "webhook_url": f"{url}/doitong/", "webhook_secret": SECRET}
    process: Process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "benchmarks.web:app", "--port", str(port)),
        *("--workers", str(workers), "--log-level", "warning"),
        cwd=ROOT,
        env={**os.environ, SETTINGS: json.dumps(settings)},
        stdin=DEVNULL,
    )
    try:
        async with _session() as session:
            seen: set[int] = set()

            async def ask() -> None:
                with suppress(aiohttp.ClientConnectionError):
                    async with session.get(f"{url}/worker") as answer:
                        seen.add(await answer.json())

            while len(seen) < workers:
                # Many at once: of one alone it may always be the same worker that is quickest.
                await asyncio.gather(*(ask() for _ in range(8 * workers)))
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


def _session() -> aiohttp.ClientSession:
    # A connection for each request, so that every worker gets some.
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout()
    )


async def notified(sizes: Sizes) -> Run:
    """Let a web service's requests wait for webhooks, of which each reaches any of its workers."""
    async with (
        scene(sizes.plan, _seconds(sizes), is_coordinated=True, webhook_secret=SECRET) as here,
        _web(here, sizes.workers) as url,
        _session() as session,
    ):

        async def ask(number: int) -> dict[str, Any]:
            async with session.get(
                f"{url}/picture", params={"prompt": f"a fox, painting {number}"}
            ) as answer:
                answer.raise_for_status()
                told: dict[str, Any] = await answer.json()
                return told

        answers = await asyncio.gather(*(ask(number) for number in range(sizes.requests)))
        late = [each["noticed"] - here.server.jobs[each["job"]].ends for each in answers]
        counts = here.counts()
        ended = max(each["noticed"] for each in answers)
        begun = min(job.created for job in here.server.jobs.values())
        workers = len({each["worker"] for each in answers})
        counts = Counts(
            **{
                **vars(counts),
                "items": sizes.requests,
                "lost": sizes.requests - len(answers),
                "seconds": ended - begun,
            }
        )
        return Run(
            NOTIFIED,
            counts,
            {"median": median(late), "worst": max(late)},
            f"noticed after {median(late) * 1e3:.0f} ms, at most {max(late) * 1e3:.0f}, by {workers} workers",
        )


async def acquired(sizes: Sizes) -> float:
    """Return the milliseconds until a slot and a permit are there, for one who waits alone: the median."""
    async with scene(WIDE, _seconds(sizes), is_coordinated=True) as here:
        async with client_of(**here.client) as doitong:
            admission = doitong._running().admission
            took = []
            for _ in range(sizes.acquires):
                began = time.perf_counter()
                with (
                    await admission.slot() as slot,
                    await admission.permit(Priority.SUBMIT, slot=slot.id),
                ):
                    took.append(time.perf_counter() - began)
        return median(took) * 1e3


async def waited(sizes: Sizes) -> float:
    """Return the milliseconds that Redis needs for one call of the script, while that many callers wait."""
    async with scene(sizes.plan, _seconds(sizes), is_coordinated=True) as here:
        assert here.redis is not None
        each = sizes.waiters // sizes.processes
        for _ in range(sizes.processes):
            await here.open(each, has_ledger=False)
        for part in here.parts:
            part.go()
        await asyncio.sleep(sizes.watched)
        here.redis.ask("CONFIG", "RESETSTAT")
        await asyncio.sleep(sizes.watched)
        return milliseconds_a_call(here.redis)


def milliseconds_a_call(redis: RedisServer) -> float:
    """Return what a script call took at Redis since its counts were reset."""
    told = redis.ask("INFO", "commandstats")
    found = re.findall(r"cmdstat_evalsha:calls=(\d+),usec=(\d+)", told)
    return sum(int(usec) for _, usec in found) / max(1, sum(int(calls) for calls, _ in found)) / 1e3


def report(sizes: Sizes, runs: Mapping[str, Run], timed: Mapping[str, float]) -> Report:
    """Return what was measured."""
    base = runs[ALONE].counts
    rows = [
        [
            each.name,
            *(f"{getattr(each.counts, name):,}" for name in ("items", "charged", "lost", "submits", "polls")),
            *(f"{value:,}" for value in (each.counts.refused, each.counts.in_a_minute, each.counts.at_once)),
            f"{each.counts.seconds:,.1f}",
            str(each.counts.errors),
        ]
        for each in runs.values()
    ]
    head = ["", "items", "jobs charged", "lost", "submits", "polls", "429s", "requests in any minute"]
    notes = [[each.name, each.note] for each in runs.values() if each.note]
    return Report(
        "coordinator",
        str(__doc__),
        [
            Table(
                "Counted at the service", [*head, "jobs at once", "seconds", "processes that failed"], rows
            ),
            Table("What happened", ["", ""], notes),
        ],
        [
            *_targets_of_time(sizes, runs, base),
            *_targets_of_counts(sizes, runs),
            *_targets_of_redis(sizes, timed),
        ],
        _DOUBTS,
    )


def _targets_of_time(sizes: Sizes, runs: Mapping[str, Run], base: Counts) -> list[Target]:
    shared, harmed, mixture = runs[TOGETHER].counts, runs[DISTURBED], runs[MIXED]
    share = f"{sizes.processes} × {sizes.each}"
    beside = harmed.counts.seconds - harmed.seen["frozen"]
    return [
        Target(f"{share}: makespan over one process's", MOST_SECONDS, shared.seconds / base.seconds),
        Target(f"{share}: polls over one process's, off by", MOST_POLLS, abs(shared.polls / base.polls - 1)),
        Target(f"{DISTURBED}: the same, beside the frozen time", MOST_DISTURBED, beside / base.seconds),
        Target(f"{MIXED}: s to the end of a single job", LATEST_SINGLE, mixture.seen["latest"]),
        Target(
            f"{MIXED}: makespan over one process's",
            MOST_MIXED,
            mixture.counts.seconds / runs[MIXED_ALONE].counts.seconds,
        ),
        Target(f"{NOTIFIED}: s from webhook to notice, median", MEDIAN_NOTICE, runs[NOTIFIED].seen["median"]),
        Target(f"{NOTIFIED}: s from webhook to notice, worst", LATEST_NOTICE, runs[NOTIFIED].seen["worst"]),
    ]


def _targets_of_counts(sizes: Sizes, runs: Mapping[str, Run]) -> list[Target]:
    ours = [each for each in runs.values() if each.name != EMPTIED]
    every = [each.counts for each in runs.values()]
    return [
        Target("429s, all rows but the next", 0, sum(each.counts.refused for each in ours)),
        Target(f"{EMPTIED}: 429s", MOST_FORGOTTEN, runs[EMPTIED].counts.refused),
        Target("items lost, all rows", 0, sum(each.lost for each in every)),
        Target("jobs paid twice, all rows", 0, sum(each.paid_twice for each in every)),
        Target("processes that ended by an error, all rows", 0, sum(each.errors for each in every)),
        Target(
            "requests in any minute, at most",
            sizes.plan.requests_per_minute,
            max(each.counts.in_a_minute for each in ours),
        ),
        Target("jobs at once, at most", sizes.plan.concurrent_jobs, max(each.at_once for each in every)),
    ]


def _targets_of_redis(sizes: Sizes, timed: Mapping[str, float]) -> list[Target]:
    waiting = f"{sizes.waiters:,} callers wait: ms a script call at Redis"
    return [
        Target("a slot and a permit, one waiter: ms, median", MOST_ACQUIRE, timed["acquire"]),
        Target(waiting, MOST_OPERATION, timed["operation"]),
    ]


_DOUBTS: Final = [
    "The rows that count run side by side, each with a service, a Redis and processes of its own: the plan "
    "leaves the machine idle. What is timed in milliseconds runs alone.",
    "The service is that of the tests (`tests/plain_server.py`), written from the reference and not the "
    "emulator. It refuses a job past the plan's concurrency; one refused for the minute takes no place.",
    "The durations are chosen (lognormal, sigma 0.35, median 6 s; of the orphans 15 s).",
    "Seconds are from the first submit at the service to the last end that a process noticed. A process that "
    "is killed has a successor at once, which takes a second or two to start; nothing is taken off for it.",
    "Of the time frozen only that is taken off in which no other process had anything left to do.",
    "A notice is counted from the moment in which the service's job ends, which sends the webhook then.",
    "Who polls is read from the state at Redis; by the time it is killed it may be another.",
]
