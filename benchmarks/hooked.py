"""Who takes webhooks, each in a process of its own: the receiver with all behind it, and a bare handler."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from benchmarks.competitors import KEY, Runs
from benchmarks.harness import ROOT, percentile
from doitong_async import AsyncDoitong, Plan

SECRET: Final = "benchmark-webhook-secret"
WIDE: Final = Plan.enterprise(requests_per_minute=1_000_000, concurrent_jobs=100_000)


class Hooked(Runs):
    """Takes webhooks from another process; a round is so many of them.

    Args:
        url: the API's root; jobs there end by webhooks alone.
        pause: seconds between two webhooks; 0: as fast as they are answered.
    """

    def __init__(self, *, url: str, pause: float) -> None:
        super().__init__(url=url)
        self._pause = pause
        self._came: dict[int, float] = {}

    async def open(self) -> None:
        """Listen, and start the sender."""
        place = socket.create_server(("127.0.0.1", 0))
        self._there = f"http://127.0.0.1:{place.getsockname()[1]}/"
        self._runner = web.AppRunner(await self.app(), access_log=None)
        await self._runner.setup()
        await web.SockSite(self._runner, place).start()
        self._sender = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.posting", self._there, SECRET),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def app(self) -> web.Application:
        """Return the application that takes them."""
        raise NotImplementedError

    async def start(self, number: int) -> list[str]:
        """Make so many jobs that are awaited, and return their ids."""
        raise NotImplementedError

    async def woken(self) -> list[float]:
        """Return when whoever waits for the jobs went on, once all have."""
        raise NotImplementedError

    async def round(self, operations: int) -> Mapping[str, float]:
        """Let so many come, and return what that took of CPU, and how long it took to wake (seconds)."""
        ids = await self.start(operations)
        await self._ask(json.dumps([self._pause, ids]), "ready")
        gc.collect()
        self._came.clear()
        cpu = time.process_time()
        await self._ask("go", "done")
        cpu = time.process_time() - cpu
        late = [at - came for at, came in zip(await self.woken(), self._came.values(), strict=False)]
        spread = {f"late_{share}": percentile(late, share) for share in (0.5, 0.99, 1)} if late else {}
        return {"cpu_each": cpu / operations, **spread}

    async def close(self) -> None:
        """End the sender, and listen no more."""
        assert self._sender.stdin is not None
        self._sender.stdin.close()
        await self._sender.wait()
        await self._runner.cleanup()

    async def _ask(self, line: str, answer: str) -> None:
        sender = self._sender
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(f"{line}\n".encode())
        told = await sender.stdout.readline()
        assert told.decode().strip() == answer, told


class Reads(Hooked):
    """A handler that reads the body and says 204: the HTTP server's own part."""

    async def app(self) -> web.Application:
        """Return the application that takes them."""

        async def read(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=204)

        app = web.Application()
        app.router.add_post("/", read)
        return app

    async def start(self, number: int) -> list[str]:
        """Make ids up, as long as those of jobs."""
        return [f"job-{n:09}" for n in range(number)]

    async def woken(self) -> list[float]:
        """Nobody waits."""
        return []


class Takes(Hooked):
    """The receiver of an open client, with an awaiter for each job."""

    async def app(self) -> web.Application:
        """Open a client, and return its receiver, in which the moment of each request is noted if asked."""
        self._client = AsyncDoitong(
            api_key=KEY, base_url=self.url, plan=WIDE, webhook_url=self._there, webhook_secret=SECRET
        )
        await self._client.__aenter__()
        app = self._client.webhooks.aiohttp_app()
        if self._pause:
            app.middlewares.insert(0, self._note)
        return app

    @web.middleware
    async def _note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._came[len(self._came)] = time.perf_counter()
        return await handler(request)

    async def start(self, number: int) -> list[str]:
        """Submit the jobs, and await each."""
        jobs = await asyncio.gather(*(self._client.submit(f"picture {n}") for n in range(number)))

        async def awaited(place: int) -> float:
            await jobs[place]
            return time.perf_counter()

        self._awaiters = [asyncio.create_task(awaited(place)) for place in range(number)]
        await asyncio.sleep(0)
        return [job.id for job in jobs]

    async def woken(self) -> list[float]:
        """Return when each awaiter went on, in the order in which the webhooks were sent."""
        return await asyncio.gather(*self._awaiters)

    async def close(self) -> None:
        """Close the client, too."""
        await super().close()
        await self._client.aclose()
