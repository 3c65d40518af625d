"""Runs an async test in virtual time and checks that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec

from doitong_async import AsyncDoitong, Plan
from doitong_async.emulator import Emulator, PlanLimits, Seen
from doitong_async.testing import run_virtual
from tests.plain_server import Behaviour, PlainServer

P = ParamSpec("P")


def virtual(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an async test sync: an hour of waiting takes no time, and it must leave nothing running."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def checked() -> None:
            complaints: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await test(*args, **kwargs)
            await asyncio.sleep(0)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            # A future whose exception nobody read complains when it is collected.
            gc.collect()
            assert complaints == []
            assert not {task for task in left if not task.done()}

        run_virtual(checked())

    return run


def now() -> float:
    """Return the time of the running loop's clock."""
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def with_emulator(
    plan: Plan = Plan.PRO, *, emulator: dict[str, Any] | None = None, **arguments: Any
) -> AsyncIterator[tuple[AsyncDoitong, Emulator]]:
    """Yield a client and its emulator, so that the test can count at the server."""
    limits = PlanLimits(plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day)
    async with (
        Emulator(**{"plan": limits, "credits": 1_000_000, **(emulator or {})}) as server,
        AsyncDoitong(**{"api_key": "k-test", "base_url": server.url, "plan": plan, **arguments}) as doitong,
    ):
        yield doitong, server


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


def start(coroutine: Any) -> asyncio.Task[Any]:
    """Start waiting in the background."""
    return asyncio.ensure_future(coroutine)


async def until(condition: Callable[[], object]) -> None:
    """Yield to other tasks until a condition holds; time stands still meanwhile."""
    while not condition():  # noqa: ASYNC110 - the condition is at a server, which sets no event
        await asyncio.sleep(0)


async def ends_of(*waiting: Awaitable[Any]) -> Counter[type]:
    """Wait for all of them, and count how they end."""
    return Counter(type(end) for end in await asyncio.gather(*waiting, return_exceptions=True))


def seen(emulator: Emulator, kind: str) -> list[Seen]:
    """Return the requests of one kind that the emulator saw."""
    return [request for request in emulator.world.seen if request.kind == kind]


@asynccontextmanager
async def plain(
    plan: Plan = Plan.PRO,
    *,
    behaviour: Behaviour | None = None,
    seconds: Callable[[int], float] | float = 6.0,
    requests_per_minute: int | None = None,
    **arguments: Any,
) -> AsyncIterator[tuple[AsyncDoitong, PlainServer]]:
    """Yield a client and a plain server on the same plan."""
    server = PlainServer(
        behaviour=behaviour or Behaviour(),
        requests_per_minute=requests_per_minute or plan.requests_per_minute,
        concurrent_jobs=plan.concurrent_jobs,
        jobs_per_day=plan.jobs_per_day,
        seconds=seconds,
    )
    async with (
        server,
        AsyncDoitong(**{"api_key": server.key, "base_url": server.url, "plan": plan, **arguments}) as doitong,
    ):
        yield doitong, server
