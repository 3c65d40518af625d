"""Many jobs that do not end, and somebody who waits for each: with this library, and as tasks that sleep."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import resource
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.clocks import HurryingLoop
from benchmarks.competitors import HEADERS, IN_FLIGHT, LOOK, ORDER, SUBMIT, Runs, client
from benchmarks.harness import percentile
from benchmarks.loops import POLL
from doitong_async import GenerateRequest, Generation, JobStatus

STEP: Final = 0.005
"""Seconds between two moments at which the loop is asked to be on time."""
WARM_UP: Final = 100
"""Jobs that run before anything is measured, so that connections and caches are there."""


class Waiter(Runs):
    """Holds jobs; a round starts so many more and says what they take.

    Args:
        url: the API's root.
        speed: how much faster the clock runs than the wall's.
        traced: whether bytes are counted one by one, which costs time; else CPU and lag are measured.
        seconds: how long CPU, and then lag, are measured, on the loop's clock.
    """

    def __init__(self, *, url: str, speed: float, traced: bool, seconds: float) -> None:
        super().__init__(url=url)
        self._speed = speed
        self._traced = traced
        self._seconds = seconds
        self._kept: list[object] = []
        self._awaiters: list[asyncio.Task[object]] = []

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop whose clock may hurry."""
        return HurryingLoop(self._speed)

    async def start(self, request: GenerateRequest) -> Awaitable[object]:
        """Start a job, and return what its awaiter awaits."""
        raise NotImplementedError

    async def open(self) -> None:
        """Connect, and let a hundred jobs be looked at."""
        self._counter = aiohttp.ClientSession()
        if self._traced:
            tracemalloc.start()
        await self._start(WARM_UP)
        await asyncio.sleep(1.5 * POLL)

    async def round(self, operations: int) -> Mapping[str, float]:
        """Start so many jobs, and measure while they run."""
        bytes_before, rss_before = _bytes(), _rss()
        await self._start(operations)
        await asyncio.sleep(1.5 * POLL)
        held = {"bytes": _bytes() - bytes_before, "rss": _rss() - rss_before}
        if self._traced:
            return {name: value / operations for name, value in held.items()}
        return {"rss": held["rss"] / operations, **await self._cpu_of_looks(), **await self._lag()}

    async def close(self) -> None:
        """Send the awaiters home."""
        for awaiter in self._awaiters:
            awaiter.cancel()
        await asyncio.gather(*self._awaiters, return_exceptions=True)
        await self._counter.close()

    async def _start(self, jobs: int) -> None:
        left = iter(range(jobs))

        async def caller() -> None:
            for number in left:
                request = GenerateRequest(prompt=f"picture {number} of a city", width=1024, height=1024)
                self._kept.append(request)
                self._awaiters.append(asyncio.create_task(_await(await self.start(request))))

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))

    async def _cpu_of_looks(self) -> dict[str, float]:
        before, cpu = await self._looks(), time.process_time()
        await asyncio.sleep(self._seconds)
        cpu, after = time.process_time() - cpu, await self._looks()
        looks = after["looks"] - before["looks"]
        return {
            "cpu": cpu / max(1, looks),
            "looks": looks,
            "requests": after["requests"] - before["requests"],
        }

    async def _looks(self) -> dict[str, int]:
        async with self._counter.get(f"{self.url}/counts") as response:
            counts: dict[str, int] = await response.json()
            return counts

    async def _lag(self) -> dict[str, float]:
        late = [seconds / self._speed for seconds in await lags(self._seconds)]
        return {"lag_p50": percentile(late, 0.5), "lag_p99": percentile(late, 0.99), "lag_most": max(late)}


async def lags(seconds: float, step: float = STEP) -> list[float]:
    """Return how late the running loop was at every one of many even moments.

    A moment that passes while the loop is busy counts as well: it was not served before the loop was free.
    """
    loop = asyncio.get_running_loop()
    start, late, number = loop.time(), list[float](), 1
    while number * step <= seconds:
        await asyncio.sleep(max(0.0, start + number * step - loop.time()))
        now = loop.time()
        while (due := start + number * step) <= now:
            late.append(now - due)
            number += 1
    return late


async def _await(what: Awaitable[object]) -> object:
    return await what


def _bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else 0


def _rss() -> int:
    pages = Path("/proc/self/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class OurJobs(Waiter):
    """doitong_async, and a task that awaits each job."""

    async def open(self) -> None:
        """Open the client."""
        self._client = await client(self.url, 1_000_000).__aenter__()
        await super().open()

    async def start(self, request: GenerateRequest) -> Awaitable[object]:
        """Start a job."""
        return await self._client.submit(request)

    async def close(self) -> None:
        """Close the client."""
        await super().close()
        await self._client.aclose()


class SleepingTasks(Waiter):
    """A task a job that sleeps and looks, in a loop, and another one that awaits it."""

    async def open(self) -> None:
        """Open the session."""
        self._session = aiohttp.ClientSession(headers=HEADERS)
        self._tasks: list[asyncio.Task[object]] = []
        await super().open()

    async def start(self, request: GenerateRequest) -> Awaitable[object]:
        """Start a job."""
        job = (await self._post(SUBMIT, ORDER))["generate"]
        self._tasks.append(asyncio.create_task(self._tracked(job)))
        return self._tasks[-1]

    async def _tracked(self, job: Any) -> object:
        while job["status"] == "processing":
            await asyncio.sleep(POLL)
            job = (await self._post(LOOK, {"id": job["id"]}))["generation"]
        return job

    async def _post(self, query: str, variables: Mapping[str, object]) -> Any:
        body = {"query": query, "variables": variables}
        async with self._session.post(f"{self.url}/graphql", json=body) as response:
            return (await response.json())["data"]

    async def close(self) -> None:
        """Close the session."""
        await super().close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()


class Nobody(Waiter):
    """What is there in any case: a request, a snapshot, and a task that awaits a future."""

    _numbers: Final = itertools.count()

    async def start(self, request: GenerateRequest) -> Awaitable[object]:
        """Start nothing."""
        await asyncio.sleep(0)
        number = next(self._numbers)
        made = Generation(
            id=f"job-{number:09}",
            status=JobStatus.PROCESSING,
            type="IMAGE",
            provider="flux-pro",
            metadata={"width": 1024, "height": 1024},
            credit_cost=20,
            created_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]  # as the wire brings it
        )
        self._kept.append(made)
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        return future
