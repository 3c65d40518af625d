"""The loops that are written without a library, as plain asyncio code on a service in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from benchmarks.clocks import JumpingLoop
from benchmarks.schedules import Run
from benchmarks.service import MINUTE, RefusedError, Service
from doitong_async import Plan

POLL: Final = 2.0
"""Seconds between two polls in the documented loop."""
RETRIES: Final = (1.0, 2.0, 4.0)
"""Seconds before each further try after an error; "at most 3 tries", read in the loop's favour."""

T = TypeVar("T")


def now() -> float:
    """Return the moment of the running loop's clock."""
    return asyncio.get_running_loop().time()


async def documented(service: Service) -> None:
    """One job as the documentation shows it: poll every 2 s; after an error again in 1, 2 and 4 s."""
    job = await _tried(lambda: service.submit(now()))
    done = False
    while not done:
        await asyncio.sleep(POLL)
        (done,) = await _tried(lambda: service.poll(now(), [job]))


async def _tried(call: Callable[[], T]) -> T:
    for wait in RETRIES:
        try:
            return call()
        except RefusedError:
            await asyncio.sleep(wait)
    return call()


class Pace:
    """At most so many requests in any 60 s: each waits, in its order, for the one a window before it."""

    def __init__(self, limit: int) -> None:
        self._next = deque([0.0] * limit)

    async def permit(self) -> None:
        """Wait until one request may be sent."""
        moment = max(self._next.popleft(), now())
        self._next.append(moment + MINUTE)
        if moment > now():
            # `call_at`, not a sleep: a sum that is rounded just below the moment would be refused.
            waiter = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_at(moment, waiter.set_result, None)
            await waiter


async def paced(service: Service, pace: Pace) -> None:
    """One job with a request for each poll, every one of them paced."""
    await pace.permit()
    job = service.submit(now())
    done = False
    while not done:
        await asyncio.sleep(POLL)
        await pace.permit()
        (done,) = service.poll(now(), [job])


def run_documented(plan: Plan, seconds: Sequence[float]) -> Run:
    """All jobs at once, each in the documentation's loop."""
    return _run(plan, seconds, lambda service: lambda: documented(service))


def run_semaphore(plan: Plan, seconds: Sequence[float]) -> Run:
    """The documentation's loop, under a semaphore of the plan's jobs at once."""

    def job(service: Service) -> Callable[[], Awaitable[None]]:
        return _under(plan, lambda: documented(service))

    return _run(plan, seconds, job)


def run_paced(plan: Plan, seconds: Sequence[float]) -> Run:
    """A loop a job under a semaphore, with every request paced to the plan."""

    def job(service: Service) -> Callable[[], Awaitable[None]]:
        pace = Pace(plan.requests_per_minute)
        return _under(plan, lambda: paced(service, pace))

    return _run(plan, seconds, job)


def _under(plan: Plan, job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    semaphore = asyncio.Semaphore(plan.concurrent_jobs)

    async def guarded() -> None:
        async with semaphore:
            await job()

    return guarded


def _run(
    plan: Plan, seconds: Sequence[float], job_on: Callable[[Service], Callable[[], Awaitable[None]]]
) -> Run:
    service = Service(plan, seconds)

    async def main() -> Run:
        job = job_on(service)
        ended = await asyncio.gather(*(job() for _ in seconds), return_exceptions=True)
        return outcome(service, ended, now())

    return run_jumping(main())


def outcome(service: Service, ended: Sequence[object], at: float) -> Run:
    """Return what became of jobs that were gathered with their exceptions."""
    lost = sum(isinstance(each, BaseException) for each in ended)
    got = len(ended) - lost
    return Run(at, service.submits, service.polls, service.refused, lost, len(service.ends) - got)


def run_jumping(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that uses no socket to its end, in virtual time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)
