"""The README's Celery recipe on a real Redis: a task that is killed with SIGKILL pays once.

Nothing waits for the visibility timeout: the tests make the deliveries in Redis older.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import Process, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.plain_server import PlainServer
from tests.redis_server import RedisServer
from tests.test_readme import CELERY

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0
"""Seconds for what takes two on an idle machine: the bound of a test that fails."""


@dataclass(eq=False, kw_only=True)
class Service(PlainServer):
    """A server that may make the job of its first submit and never end the answer."""

    holds_back: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pause = self._pause
        self._held_back = asyncio.Event()

    async def answer_held_back(self) -> None:
        """Wait until the first job is made, and its answer held back."""
        async with asyncio.timeout(PATIENCE):
            await self._held_back.wait()

    def _pause(self, kind: str, nth: int) -> float:
        if not self.holds_back or kind != "submit" or nth > 1:
            return 0.0
        self._held_back.set()
        return 3_600.0

    def submits(self) -> Counter[str]:
        """Return how many submits came with each idempotency key."""
        return Counter(seen.headers["idempotency-key"] for seen in self.requests if seen.kind == "submit")

    def outputs(self) -> dict[str | None, str]:
        """Return the output of each job that was charged, by its idempotency key."""
        return {job.key: f"{self.outputs_url}/outputs/{job.id}.jpg" for job in self.jobs.values()}


@dataclass
class Queue:
    """The recipe as pictures.py in a folder, the Redis it uses, and the workers that were started."""

    folder: Path
    service: Service
    redis: Redis
    visibility_timeout: int
    ends: AsyncExitStack

    async def start_worker(self, processes: int = 1) -> Process:
        """Start a worker in a process group of its own."""
        worker = ("worker", "--concurrency", str(processes), "--without-mingle")
        return await self._start("-m", "celery", "-A", "pictures", *worker)

    async def send(self, task_id: str) -> None:
        """Send a task, from a process of its own."""
        code = f"from pictures import picture; picture.apply_async(['a {task_id}'], task_id='{task_id}')"
        sender = await self._start("-c", code)
        async with asyncio.timeout(PATIENCE):
            assert await sender.wait() == 0, self._log.read_text()

    async def reaches(self, task_id: str, state: str) -> Any:
        """Wait until a task is in a state, which sends no event, and return what is stored with it."""
        stored: dict[str, Any] = {}
        try:
            async with asyncio.timeout(PATIENCE):
                while stored.get("status") != state:
                    await asyncio.sleep(0.02)
                    stored = json.loads(await self.redis.get(f"celery-task-meta-{task_id}") or "{}")
        except TimeoutError:
            pytest.fail(f"{task_id} is at {stored}\n{self._log.read_text()}")
        return stored["result"]

    async def pass_visibility_timeout(self) -> None:
        """Make the deliveries older: as it starts, a worker repeats those that nobody acknowledged."""
        deliveries: Any = await self.redis.zrange("unacked_index", 0, -1, withscores=True)
        older = {delivery: at - self.visibility_timeout for delivery, at in deliveries}
        await self.redis.zadd("unacked_index", older)

    @property
    def _log(self) -> Path:
        return self.folder / "celery.log"

    async def _start(self, *arguments: str) -> Process:
        log = self.ends.enter_context(self._log.open("a"))
        service = {"DOITONG_API_KEY": self.service.key, "DOITONG_BASE_URL": self.service.url}
        process = await create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **service},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.ends.push_async_callback(kill, process)
        return process


def only_child(worker: Process) -> int:
    """Return the one process of a worker's pool."""
    (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return int(child)


async def kill(worker: Process) -> None:
    """Kill a worker and the processes of its pool with SIGKILL, unless that was done."""
    if worker.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
    await worker.wait()


@asynccontextmanager
async def recipe(folder: Path, service: Service) -> AsyncIterator[Queue]:
    """Write the recipe to a folder, with a Redis on this machine for the one that it names."""
    async with AsyncExitStack() as ends:
        await ends.enter_async_context(service)
        port = ends.enter_context(RedisServer()).port
        code = CELERY.replace("//cache:6379/", f"//127.0.0.1:{port}/")
        (folder / "pictures.py").write_text(code)
        (url,) = set(re.findall(r'broker="(redis://.*?)"', code))
        redis = await ends.enter_async_context(Redis.from_url(url))
        (timeout,) = re.findall(r'"visibility_timeout": (\d+)', code)
        yield Queue(folder, service, redis, int(timeout), ends)


def test_a_killed_worker_resumes_and_pays_once(tmp_path: Path) -> None:
    """It dies while one job runs, and while the answer about another one is on its way."""

    async def main() -> None:
        async with recipe(tmp_path, Service(seconds=4.0, holds_back=True)) as queue:
            worker = await queue.start_worker(processes=2)
            await queue.send("fox")
            await queue.service.answer_held_back()
            await queue.send("hare")
            await queue.reaches("hare", "SUBMITTED")
            await kill(worker)
            await queue.pass_visibility_timeout()
            await queue.start_worker(processes=2)
            ended = {task: await queue.reaches(task, "SUCCESS") for task in ("fox", "hare")}
            assert ended == queue.service.outputs()
            assert queue.service.submits() == {"fox": 2, "hare": 1}

    asyncio.run(main())


def test_a_killed_process_of_a_living_worker_resumes_and_pays_once(tmp_path: Path) -> None:
    """As when memory runs out; the worker runs the task in its next process, and nothing has to time out."""

    async def main() -> None:
        async with recipe(tmp_path, Service(seconds=2.0)) as queue:
            worker = await queue.start_worker()
            await queue.send("fox")
            await queue.reaches("fox", "SUBMITTED")
            os.kill(only_child(worker), signal.SIGKILL)
            assert {"fox": await queue.reaches("fox", "SUCCESS")} == queue.service.outputs()
            assert queue.service.submits() == {"fox": 1}

    asyncio.run(main())


def test_two_workers_at_one_task_pay_once(tmp_path: Path) -> None:
    """The visibility timeout passes while the first one waits for the answer to its submit."""

    async def main() -> None:
        async with recipe(tmp_path, Service(seconds=0.0, holds_back=True)) as queue:
            await queue.start_worker()
            await queue.send("fox")
            await queue.service.answer_held_back()
            await queue.pass_visibility_timeout()
            await queue.start_worker()
            assert {"fox": await queue.reaches("fox", "SUCCESS")} == queue.service.outputs()
            assert queue.service.submits() == {"fox": 2}

    asyncio.run(main())


def test_a_failed_task_that_is_sent_again_under_its_id_gets_its_job(tmp_path: Path) -> None:
    """No attempt of its submit was answered, so it failed in doubt; its job had been made by the first."""

    def lose_answers(kind: str, nth: int) -> str | None:
        return "cut-after" if kind == "submit" and nth <= 3 else None

    async def main() -> None:
        async with recipe(tmp_path, Service(seconds=0.0, script=lose_answers)) as queue:
            await queue.start_worker()
            await queue.send("fox")
            failure = await queue.reaches("fox", "FAILURE")
            assert failure["exc_type"] == "SubmitOutcomeUnknownError"
            await queue.send("fox")
            assert {"fox": await queue.reaches("fox", "SUCCESS")} == queue.service.outputs()
            assert queue.service.submits() == {"fox": 4}

    asyncio.run(main())
