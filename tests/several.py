"""Several processes on one key, each a client of its own on this loop, with a Redis and a plain server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from doitong_async import AsyncDoitong, Plan
from doitong_async.limits.redis.limiter import SharedLimiter
from doitong_async.limits.redis.shared import SharedKey
from doitong_async.runtime import Runtime
from tests.fake_redis import FakeRedisServer
from tests.plain_server import Behaviour, PlainServer


class Cable:
    """A client's way to Redis, which can be cut."""

    def __init__(self, redis: FakeRedisServer) -> None:
        self._client = redis.client()
        self.is_cut = False

    def register_script(self, script: str) -> Any:
        """Return the script, which fails while the cable is cut."""
        registered = self._client.register_script(script)

        async def call(**arguments: Any) -> Any:
            self._check()
            answer = await registered(**arguments)
            self._check()
            return answer

        return call

    async def xread(self, *arguments: Any, **options: Any) -> Any:
        """Read a stream."""
        self._check()
        return await self._client.xread(*arguments, **options)

    async def xrevrange(self, *arguments: Any, **options: Any) -> Any:
        """Read the end of a stream."""
        self._check()
        return await self._client.xrevrange(*arguments, **options)

    async def info(self, section: str) -> Any:
        """Ask what kind of server it is."""
        self._check()
        return await self._client.info(section)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _check(self) -> None:
        if self.is_cut:
            raise RedisConnectionError("The cable is cut.")


@dataclass
class Fleet:
    """The processes on a key."""

    server: PlainServer
    redis: FakeRedisServer
    plan: Plan
    arguments: dict[str, Any]
    cables: dict[AsyncDoitong, Cable] = field(default_factory=dict)
    dead: list[AsyncDoitong] = field(default_factory=list)

    async def join(self, **arguments: Any) -> AsyncDoitong:
        """Open a client, as another process would."""
        cable = Cable(self.redis)
        settings = {
            "api_key": self.server.key,
            "base_url": self.server.url,
            "plan": self.plan,
            "coordinator": cable,
        }
        doitong = await AsyncDoitong(**{**settings, **self.arguments, **arguments}).open()
        self.cables[doitong] = cable
        return doitong

    async def kill(self, doitong: AsyncDoitong) -> None:
        """Let a process die: it says nothing more to anybody."""
        runtime = runtime_of(doitong)
        self.cables[doitong].is_cut = True
        await runtime.session.close()
        self.dead.append(doitong)

    @property
    def poller(self) -> AsyncDoitong:
        """The process that polls for all."""
        return next(each for each in self.cables if each not in self.dead and limiter_of(each).is_poller)

    @property
    def polls(self) -> int:
        """How many polls the server saw."""
        return sum(request.kind == "poll" for request in self.server.requests)

    @property
    def refusals(self) -> int:
        """How many requests it refused for a limit."""
        return sum(request.meant == 429 for request in self.server.requests)

    @property
    def charged(self) -> int:
        """How many jobs it charged."""
        return len(self.server.jobs)


def runtime_of(doitong: AsyncDoitong) -> Runtime:
    """Return what lives in an open client."""
    runtime = doitong._shared.runtime
    assert runtime is not None
    return runtime


def limiter_of(doitong: AsyncDoitong) -> SharedLimiter:
    """Return the rate limiter of a client that shares its key."""
    limiter = runtime_of(doitong).limiter
    assert isinstance(limiter, SharedLimiter)
    return limiter


def state_of(doitong: AsyncDoitong) -> SharedKey:
    """Return the shared state as that client knows it."""
    return limiter_of(doitong).shared


@asynccontextmanager
async def fleet(
    processes: int,
    plan: Plan = Plan.PRO,
    *,
    seconds: Callable[[int], float] | float = 6.0,
    behaviour: Behaviour | None = None,
    **arguments: Any,
) -> AsyncIterator[tuple[Fleet, list[AsyncDoitong]]]:
    """Yield so many open clients on one key; all that are left close at the end."""
    server = PlainServer(
        behaviour=behaviour or Behaviour(),
        requests_per_minute=plan.requests_per_minute,
        concurrent_jobs=plan.concurrent_jobs,
        jobs_per_day=plan.jobs_per_day,
        seconds=seconds,
    )
    async with server:
        several = Fleet(server, FakeRedisServer(), plan, arguments)
        yield several, [await several.join() for _ in range(processes)]
        await asyncio.gather(*(doitong.aclose() for doitong in several.cables))
