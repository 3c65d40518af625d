"""Soak in virtual time: twenty minutes on Pro with faults of every kind end as they began."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import random
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, get_args

import aiohttp
import pytest

from doitong_async import AsyncDoitong, AsyncJob, DoitongError, Plan, Result
from doitong_async.emulator import Emulator, Job, Seen, parse_fault
from doitong_async.emulator.faults import What
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.limits.permits import RequestPermit, Slot
from doitong_async.webhooks.serving import free_port, served
from tests.virtual import now, virtual, with_emulator

pytestmark = pytest.mark.slow

HALF: Final = 600.0
"""Seconds of full load in each half; then all jobs end and the census counts."""
CALLERS: Final = 25
"""Callers at the same time: two and a half per slot, so that some always wait."""
SLOT_EXPIRY: Final = 60.0
SECRET: Final = "whsec-soak"
REMEMBERED: Final = 64_000
"""Bytes that the memory of the last jobs and their keys (some 256 of them) may differ by."""
IDLE_CONNECTIONS: Final = 30
"""What the connection pool may grow by: the server's task, future and timer for each of 10 connections."""
FAULTS: Final = [
    "submit: 429-minute retry-after=3 p=0.01 seed=1",
    "submit: 429-minute p=0.01 seed=2",
    "submit: 429-concurrency retry-after=2 p=0.01 seed=3",
    "submit: 429-concurrency p=0.02 seed=4",
    "submit: 500 p=0.02 seed=5",
    "submit: 500 handled=yes p=0.02 seed=6",
    "submit: 502 p=0.02 seed=7",
    "submit: 502 handled=yes p=0.02 seed=8",
    "submit: 401 p=0.01 seed=9",
    "submit: cut-before p=0.02 seed=10",
    "submit: cut-after p=0.02 seed=11",
    "submit: null p=0.01 seed=12",
    "submit: null handled=yes p=0.01 seed=13",
    "submit: partial p=0.02 seed=14",
    "submit: null-alias p=0.01 seed=15",
    "submit: latency 4 p=0.03 seed=16",
    "submit: latency 30 p=0.01 seed=17",
    "poll: 429-minute retry-after=2 p=0.01 seed=20",
    "poll: 500 p=0.02 seed=21",
    "poll: 502 p=0.02 seed=22",
    "poll: 401 p=0.005 seed=23",
    "poll: cut-before p=0.02 seed=24",
    "poll: cut-after p=0.02 seed=25",
    "poll: null p=0.02 seed=26",
    "poll: partial p=0.03 seed=27",
    "poll: null-alias p=0.03 seed=28",
    "poll: latency 3 p=0.03 seed=29",
    "poll: latency 30 p=0.01 seed=30",
    "any: cut-before p=0.005 seed=31",
    "any: latency 1 p=0.01 seed=32",
    "output: latency 5 p=0.05 seed=40",
    "output: 500 p=0.1 seed=41",
    "output: 502 p=0.05 seed=42",
    "output: cut-before p=0.1 seed=43",
    "output: truncated p=0.1 seed=44",
    "output: slow 4 p=0.05 seed=45",
    "output: oversized 2000000 p=0.1 seed=46",
    "output: redirect p=0.05 seed=47",
    "output: html p=0.1 seed=48",
    "output: empty p=0.05 seed=49",
    "job: stuck p=0.005 seed=50 times=3",
    "job: fail p=0.03 seed=51",
    "job: fail charged=no p=0.02 seed=52",
    "job: odd-status dreaming seconds=5 p=0.03 seed=53",
    "job: late 5 p=0.05 seed=54",
]
OF_WEBHOOKS: Final = [
    "webhook: lost p=0.1 seed=60",
    "webhook: late 20 p=0.1 seed=61",
    "webhook: doubled p=0.1 seed=62",
    "webhook: overtaken 10 p=0.1 seed=63",
    "webhook: outdated p=0.1 seed=64",
    "webhook: forged p=0.05 seed=65",
    "webhook: early 5 p=0.05 seed=66",
    "webhook: down 2 p=0.1 seed=67",
]


@dataclass
class Outcomes:
    """What the callers got: results, errors, or a line in the log after they left."""

    began: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def result(self, result: Result) -> None:
        """Record a success."""
        self.ended["Result"] += 1
        self.ids.add(result.id)

    def error(self, error: Exception) -> None:
        """Record an error, and the job or the key that it names."""
        self.ended[type(error).__name__] += 1
        if isinstance(error, DoitongError):
            self.ids |= {error.job_id} - {None}  # type: ignore[arg-type]  # mypy keeps the None
            self.keys |= {error.idempotency_key} - {None}  # type: ignore[arg-type]


async def one_call(doitong: AsyncDoitong, number: int, outcomes: Outcomes) -> None:
    """Generate one picture: most callers wait, some leave early, some download the output."""
    outcomes.began += 1
    patience = random.uniform(0.2, 15.0) if number % 11 == 0 else None
    client = doitong.with_options(timeout=4.0) if number % 13 == 0 else doitong
    try:
        async with asyncio.timeout(patience):
            result = await client.generate(f"fox {number}", width=8, height=8)
            outcomes.result(result)
    except (DoitongError, TimeoutError) as error:
        outcomes.error(error)
        return
    if number % 8 == 0:
        await fetch(result, outcomes)


async def fetch(result: Result, outcomes: Outcomes) -> None:
    """Read the output; its error is no error of the job."""
    try:
        outcomes.fetched["bytes" if await result.read() else "nothing"] += 1
    except DoitongError as error:
        outcomes.fetched[type(error).__name__] += 1


async def supply(doitong: AsyncDoitong, numbers: Iterator[int], until: float, outcomes: Outcomes) -> None:
    """Call again and again until the time is over."""
    while now() < until:
        await one_call(doitong, next(numbers), outcomes)


async def full_load(
    doitong: AsyncDoitong, numbers: Iterator[int], outcomes: Outcomes, seconds: float
) -> None:
    """Keep every slot busy for `seconds`, then let everything end, even the slots of stuck jobs."""
    until = now() + seconds
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(supply(doitong, numbers, until, outcomes))
    await asyncio.sleep(2 * SLOT_EXPIRY + 1)


@dataclass(frozen=True)
class Census:
    """The client's objects at a quiet moment."""

    alive: Counter[str]
    slots_taken: int
    bytes_held: int


OURS: Final = (TrackedJob, RequestPermit, Slot, AsyncJob)
LIVES: Final = (*OURS, asyncio.Future, asyncio.Task, asyncio.TimerHandle)
# Leads out of the client: to the loop, the interpreter, the test. aiohttp's pool keeps as
# many idle connections as were ever in use at once, and ages them by the real clock, not by the loop's.
_OUTSIDE: Final = (
    aiohttp.BaseConnector,
    asyncio.AbstractEventLoop,
    types.ModuleType,
    types.FunctionType,
    type,
    contextvars.Context,
    logging.Logger,
)


def census(doitong: AsyncDoitong) -> Census:
    """Count live objects, and the bytes reachable from the open client."""
    gc.collect()
    alive = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, LIVES))
    runtime = doitong._running()
    return Census(alive, runtime.limiter.slots_taken, bytes_reachable(runtime))


def bytes_reachable(start: object) -> int:
    """Sum the sizes of everything reachable from here."""
    seen = {id(start)}
    queue, size = deque([start]), 0
    while queue:
        thing = queue.popleft()
        size += sys.getsizeof(thing)
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, _OUTSIDE):
                seen.add(id(other))
                queue.append(other)
    return size


def most_in_a_minute(requests: list[Seen]) -> int:
    """Return the greatest number of requests that came within any 60 seconds.

    Requests that a fault rejected before the server counted them took no room; one that the server rejected
    by its own count would be one too many. A loop may fire a timer a clock's resolution (1 ns) early, which
    no network shows.
    """
    window: deque[float] = deque()
    most = 0
    for request in requests:
        if is_rejected_by_a_fault(request):
            continue
        while window and window[0] + 60.0 <= request.at + 1e-6:
            window.popleft()
        window.append(request.at)
        most = max(most, len(window))
    return most


def most_at_once(jobs: list[Job]) -> int:
    """Return the greatest number of jobs that ran at once; a stuck job counts until its slot expires."""
    changes = [(job.created_at, 1) for job in jobs]
    changes += [(min(job.ends_at, job.created_at + SLOT_EXPIRY), -1) for job in jobs]
    running = most = 0
    # A job that ends in the moment in which another begins has freed its slot.
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


def to_api(emulator: Emulator) -> list[Seen]:
    """Return the requests that count against the plan."""
    return [request for request in emulator.world.seen if request.kind != "output"]


def is_rejected_by_a_fault(request: Seen) -> bool:
    """Whether a fault rejected it before the server counted it."""
    return request.http_status == 401 or (
        request.http_status == 429 and "429-minute" in (request.fault or "")
    )


@dataclass(frozen=True)
class Soak:
    """The counts of the time of load, and of the time after it."""

    outcomes: Outcomes
    jobs: list[Job]
    requests: list[Seen]
    faults_hit: set[str]
    halves: list[Census]
    log: str

    @property
    def trace(self) -> list[tuple[float, str, int]]:
        """Each request that the server saw, to compare two runs."""
        return [(seen.at, seen.kind, seen.http_status) for seen in self.requests]

    def knows(self, job: Job) -> bool:
        """Whether somebody knows the job, by its id or by its idempotency key."""
        key = job.idempotency_key or ""
        return (
            job.id in self.outcomes.ids or key in self.outcomes.keys or job.id in self.log or key in self.log
        )


async def soak(
    seed: int, caplog: pytest.LogCaptureFixture, half: float = HALF, *, webhooks: bool = False
) -> Soak:
    """Run two halves with a quiet moment after each, with webhooks or with polls alone."""
    random.seed(seed)
    caplog.clear()
    caplog.set_level(logging.WARNING)
    outcomes, numbers = Outcomes(), count(1)
    options: dict[str, Any] = {"timeout": SLOT_EXPIRY, "slot_expiry": SLOT_EXPIRY, "request_timeout": 10.0}
    # No wait takes that long unless a slot is lost; then the run fails instead of hanging.
    options["slot_timeout"] = 5 * SLOT_EXPIRY
    # The server queues excess jobs instead of rejecting them, so that it can count them.
    rules: dict[str, Any] = {"credits": 10**9, "faults": [*FAULTS], "over_concurrency": "queue", "seed": seed}
    halves = []
    async with contextlib.AsyncExitStack() as stack:
        if webhooks:
            listener = stack.enter_context(free_port())
            rules |= {"faults": [*FAULTS, *OF_WEBHOOKS], "webhook_secret": SECRET}
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            options |= {"webhook_url": url, "webhook_secret": SECRET}
        doitong, emulator = await stack.enter_async_context(
            with_emulator(Plan.PRO, emulator=rules, max_download_bytes=1_000_000, **options)
        )
        if webhooks:
            await stack.enter_async_context(served(doitong.webhooks.aiohttp_app(), listener))
        for _ in range(2):
            await full_load(doitong, numbers, outcomes, half)
            halves.append(census(doitong))
    return Soak(
        outcomes=outcomes,
        jobs=list(emulator.world.jobs.values()),
        requests=to_api(emulator),
        faults_hit=hits(emulator) | webhook_hits(emulator),
        halves=halves,
        log=caplog.text,
    )


def hits(emulator: Emulator) -> set[str]:
    """Return the faults that hit any request."""
    return {fault for seen in emulator.world.seen for fault in (seen.fault or "").split("; ") if fault}


def webhook_hits(emulator: Emulator) -> set[str]:
    """Return the faults that hit any webhook."""
    return {fault for posted in emulator.posted for fault in (posted.fault or "").split("; ") if fault}


def assert_plan_was_kept(ran: Soak) -> None:
    """The server never saw more requests or jobs than the plan allows, and the client used the whole plan."""
    assert most_in_a_minute(ran.requests) == 60
    assert most_at_once(ran.jobs) == 10


def assert_every_job_is_known(ran: Soak) -> None:
    """Every caller got an outcome, and somebody knows every charged job."""
    assert ran.outcomes.ended.total() == ran.outcomes.began
    assert [job for job in ran.jobs if job.charged and not ran.knows(job)] == []


def assert_nothing_was_paid_twice(ran: Soak) -> None:
    """At most one job per caller, and one per key."""
    assert max(Counter(job.prompt for job in ran.jobs).values()) == 1
    assert max(Counter(job.idempotency_key for job in ran.jobs).values()) == 1


def assert_it_ended_as_it_began(halves: list[Census]) -> None:
    """Nothing is left from the second half that the first did not leave, up to a constant."""
    first, second = halves
    assert (first.slots_taken, second.slots_taken) == (0, 0)
    assert (second.alive - first.alive).total() <= IDLE_CONNECTIONS
    assert [kind for kind in OURS if second.alive[kind.__name__]] == []
    assert second.bytes_held - first.bytes_held < REMEMBERED


def open_ends(loop: Any) -> tuple[int, int]:
    """Return how many timers and files the loop still waits for; one file is its own pipe."""
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]
    return len(timers), len(loop._selector.get_map())


@virtual
async def test_twenty_minutes_at_full_load_ends_as_it_began(caplog: pytest.LogCaptureFixture) -> None:
    """With faults of every kind the plan is kept, nothing is lost or paid twice, and nothing remains."""
    ran = await soak(7, caplog)
    assert now() >= 1200
    assert ran.outcomes.ended["Result"] > 240
    assert ran.outcomes.ended["RateLimitError"] == 0
    assert ran.faults_hit == {str(parse_fault(fault)) for fault in FAULTS}
    assert_plan_was_kept(ran)
    assert_every_job_is_known(ran)
    assert_nothing_was_paid_twice(ran)
    assert_it_ended_as_it_began(ran.halves)
    assert open_ends(asyncio.get_running_loop()) == (0, 1)


@virtual
async def test_twenty_minutes_of_faulty_webhooks_end_as_they_began(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Lost, late, doubled, reordered, forged, too early: the same holds, with more jobs in the time."""
    ran = await soak(8, caplog, webhooks=True)
    assert ran.outcomes.ended["Result"] > 240
    assert ran.outcomes.ended["RateLimitError"] == 0
    assert {str(parse_fault(fault)) for fault in OF_WEBHOOKS} <= ran.faults_hit
    assert_plan_was_kept(ran)
    assert_every_job_is_known(ran)
    assert_nothing_was_paid_twice(ran)
    assert_it_ended_as_it_began(ran.halves)
    assert open_ends(asyncio.get_running_loop()) == (0, 1)


def test_a_soak_is_repeatable(caplog: pytest.LogCaptureFixture) -> None:
    """The same seed gives the same requests at the same moments, so that a failure can be studied."""
    runs: list[Soak] = []

    async def run(seed: int) -> None:
        runs.append(await soak(seed, caplog, half=15.0))

    for seed in (1, 1, 2):
        virtual(run)(seed)
    one, same, other = (ran.trace for ran in runs)
    assert one == same != other


def test_faults_of_every_kind_are_in_the_mix() -> None:
    """Except the daily limit, after which there would be no load."""
    mixed = [parse_fault(fault) for fault in (*FAULTS, *OF_WEBHOOKS)]
    assert {fault.what for fault in mixed} == {*get_args(What)} - {"429-day"}
    assert "late" in {fault.what for fault in mixed if fault.where == "webhook"}
