"""Processes on one key, the service that counts what they do, and the Redis between them, to disturb each."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import Redis

from benchmarks.harness import ROOT
from doitong_async import Plan
from doitong_async.limits.redis.codec import loaded
from tests.plain_server import Behaviour, PlainServer
from tests.redis_server import Proxy, RedisServer

_PATIENCE: Final = 900.0
"""Seconds after which a process that has not ended is a failure."""
_MOST_SUCCESSORS: Final = 5
"""Of a process that ended by an error of its own."""


@dataclass(frozen=True)
class Counts:
    """What one run did: as the service counted it, and as the processes noticed it."""

    items: int
    lost: int
    charged: int
    submits: int
    polls: int
    refused: int
    in_a_minute: int
    at_once: int
    seconds: float
    errors: int

    @property
    def paid_twice(self) -> int:
        """Jobs beyond one an item."""
        return max(0, self.charged - self.items)


@dataclass(frozen=True)
class Status:
    """What the coordinator says: which process polls, and how many slots each has, by process id."""

    poller: int | None
    slots: Mapping[int, int]


class Part:
    """A process with its share of the work, and its successors: each goes on where the last one stopped."""

    def __init__(
        self, scene: Scene, name: str, items: int, *, has_ledger: bool, redis_url: str | None
    ) -> None:
        self.name = name
        self.items = items
        self.done: dict[str, float] = {}
        """When each item's end was noticed first."""
        self.jobs: dict[str, str] = {}
        """The item of each job, as far as it was reported."""
        self.called = 0.0
        self.errors = 0
        self._process: Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._arguments = {
            **scene.client,
            "coordinator": redis_url,
            "name": name,
            "items": items,
            "ledger": str(scene.folder / f"{name}.db") if has_ledger else None,
        }
        self._words = scene.folder / f"{name}.log"

    @property
    def pid(self) -> int:
        """The process that does the work now."""
        assert self._process is not None
        return self._process.pid

    @property
    def words(self) -> str:
        """The end of what the last process wrote on its standard error."""
        return self._words.read_text()[-2000:]

    async def open(self) -> None:
        """Start the process, and wait until its client is open."""
        self._opened.clear()
        with self._words.open("ab") as words:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.part", json.dumps(self._arguments)),
                cwd=ROOT,
                stdin=PIPE,
                stdout=PIPE,
                stderr=words,
            )
        self._reader = asyncio.create_task(self._read(self._process))
        opened = asyncio.create_task(self._opened.wait())
        await asyncio.wait([opened, self._reader], return_when=asyncio.FIRST_COMPLETED)
        if not opened.done():
            opened.cancel()
            raise RuntimeError(f"{self.name} did not open:\n{self.words}")

    def go(self) -> None:
        """Let it begin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def kill(self) -> None:
        """End the process with SIGKILL, frozen or not."""
        if self._process is not None and self._reader is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            await asyncio.wait([self._reader])

    async def replace(self) -> None:
        """Kill the process, and let a successor go on with what is left."""
        await self.kill()
        await self.open()
        self.go()

    async def freeze(self, seconds: float) -> None:
        """Stop the process for so long."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    async def finish(self) -> None:
        """Wait until all is done; a process that ends by an error of its own is followed by another one."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                process, reader = self._process, self._reader
                assert process is not None
                assert reader is not None
                # Not `await reader`: whoever gives up here would end it for the next one, too.
                await asyncio.wait([reader])
                code = await process.wait()
                if code == 0:
                    return
                if process is not self._process or code == -signal.SIGKILL:
                    # It was killed; who did that starts the next one.
                    await self._opened.wait()
                    await asyncio.sleep(0.01)
                    continue
                self.errors += 1
                if self.errors > _MOST_SUCCESSORS or self._arguments["ledger"] is None:
                    raise RuntimeError(f"{self.name} ended with {code}:\n{self.words}")
                await self.open()
                self.go()

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            event = json.loads(line)
            match event["what"]:
                case "open":
                    self._opened.set()
                case "called":
                    self.called = self.called or event["at"]
                case "done":
                    self.done.setdefault(event["key"], event["at"])
                    self.jobs[event["job"]] = event["key"]


@dataclass
class Scene:
    """One key on a plan: its service, maybe a Redis, and the processes that share the key."""

    plan: Plan
    server: PlainServer
    redis: RedisServer | None
    folder: Path
    parts: list[Part] = field(default_factory=list)

    @property
    def client(self) -> dict[str, Any]:
        """The arguments of every client, as JSON takes them."""
        plan = self.plan
        limits = [plan.name, plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day]
        return {"url": self.server.url, "key": self.server.key, "plan": limits, "coordinator": self.redis_url}

    @property
    def redis_url(self) -> str | None:
        """The coordinator's address."""
        return self.redis.url if self.redis else None

    async def open(self, items: int, *, has_ledger: bool = True, through: Proxy | None = None) -> Part:
        """Add a process with so many items, and open it."""
        url = through.url if through else self.redis_url
        part = Part(self, f"part{len(self.parts)}", items, has_ledger=has_ledger, redis_url=url)
        self.parts.append(part)
        await part.open()
        return part

    async def finish(self) -> Counts:
        """Wait until all processes have done their work, and count."""
        await asyncio.gather(*(part.finish() for part in self.parts))
        return self.counts()

    def counts(self) -> Counts:
        """Return what was done so far."""
        requests = self.server.requests
        kinds = Counter(each.kind for each in requests)
        begun = min((each.at for each in requests if each.kind == "submit"), default=0.0)
        ended = max((at for part in self.parts for at in part.done.values()), default=begun)
        items = sum(part.items for part in self.parts)
        return Counts(
            items=items,
            lost=items - sum(len(part.done) for part in self.parts),
            charged=len(self.server.jobs),
            submits=kinds["submit"],
            polls=kinds["poll"],
            refused=sum(each.meant == 429 for each in requests),
            in_a_minute=self.server.most_in_any_minute(),
            at_once=self.server.most_at_once(),
            seconds=ended - begun,
            errors=sum(part.errors for part in self.parts),
        )

    def status(self) -> Status:
        """Read the coordinator's state where it is: a command would take a second of the machine."""
        assert self.redis is not None
        with Redis.from_url(self.redis.url, socket_timeout=5.0) as client:
            names = client.keys("doitong:*:state")
            text = client.hget(names[0], "state") if names else None
        if text is None:
            return Status(None, {})
        key = loaded(text.decode())
        pids = {name: process.stated.pid for name, process in key.processes.items()}
        slots = Counter(pids[slot.owner] for slot in key.slots.values() if slot.owner in pids)
        return Status(pids.get(key.poller), slots)

    async def poller(self, *, besides: Sequence[Part] = ()) -> Part:
        """Return the process that polls for all, once there is one that is none of those."""
        while True:
            asked = self.status()
            for part in self.parts:
                if part.pid == asked.poller and part not in besides:
                    return part
            await asyncio.sleep(0.1)

    async def holder(self, *, besides: Sequence[Part] = ()) -> Part:
        """Return the process with the most slots among the others, once one has any."""
        while True:
            slots = self.status().slots
            holding = [part for part in self.parts if slots.get(part.pid) and part not in besides]
            if holding:
                return max(holding, key=lambda part: slots[part.pid])
            await asyncio.sleep(0.1)

    async def restart_redis(self, *, away: float) -> None:
        """Kill Redis, and start it again with nothing in it."""
        assert self.redis is not None
        await asyncio.to_thread(self.redis.kill)
        await asyncio.sleep(away)
        await asyncio.to_thread(self.redis.start)


@asynccontextmanager
async def scene(
    plan: Plan,
    seconds: Callable[[int], float],
    *,
    is_coordinated: bool,
    webhook_secret: str | None = None,
) -> AsyncIterator[Scene]:
    """Yield a service on that plan that refuses what is too much, with a Redis; all ends with the block."""
    server = PlainServer(
        behaviour=Behaviour(over_concurrency="refuse"),
        requests_per_minute=plan.requests_per_minute,
        concurrent_jobs=plan.concurrent_jobs,
        jobs_per_day=plan.jobs_per_day,
        seconds=seconds,
        webhook_secret=webhook_secret,
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await stack.enter_async_context(server)
        redis = stack.enter_context(RedisServer()) if is_coordinated else None
        made = Scene(plan, server, redis, folder)
        try:
            yield made
        finally:
            for part in made.parts:
                await part.kill()
