"""A service that keeps a plan's limits and counts: a value for simulations, served for the client."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from typing import Final, Literal

from benchmarks import posting, wire
from doitong_async import Plan
from doitong_async.testing import VirtualTimeLoop

MINUTE: Final = 60.0
DAY: Final = 86_400.0
Limit = Literal["minute", "slot", "day"]

_SAID: Final = {
    "minute": "Too Many Requests: rate limit exceeded (requests per minute)",
    "slot": "Too Many Requests: concurrent jobs exceeded",
    "day": "Too Many Requests: jobs per day exceeded",
}


class RefusedError(Exception):
    """A 429, and which limit it is about."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(limit)
        self.limit = limit


class Service:
    """One key on one plan; the n-th job it accepts takes the n-th duration, whoever submits it.

    A request that finds no place in the window takes none; one refused for a slot has taken its place.
    """

    def __init__(self, plan: Plan, durations: Sequence[float]) -> None:
        self.plan = plan
        self.ends: list[float] = []
        self.submits = self.polls = self.refused = 0
        self.most_in_window = self.most_at_once = 0
        self._durations = durations
        self._window: deque[float] = deque()
        self._unfinished: list[float] = []
        self._days: dict[int, int] = {}

    def submit(self, now: float) -> int:
        """Accept a job and return its number, counted from 0."""
        self.submits += 1
        self._admit(now)
        while self._unfinished and self._unfinished[0] <= now:
            heappop(self._unfinished)
        if len(self._unfinished) >= self.plan.concurrent_jobs:
            self._refuse("slot")
        day = int(now // DAY)
        if self.plan.jobs_per_day is not None and self._days.get(day, 0) >= self.plan.jobs_per_day:
            self._refuse("day")
        self._days[day] = self._days.get(day, 0) + 1
        self.ends.append(now + self._durations[len(self.ends)])
        heappush(self._unfinished, self.ends[-1])
        self.most_at_once = max(self.most_at_once, len(self._unfinished))
        return len(self.ends) - 1

    def poll(self, now: float, jobs: Sequence[int]) -> list[bool]:
        """Return for each of the jobs whether it is completed: one request, however many they are."""
        self.polls += 1
        self._admit(now)
        return [self.ends[job] <= now for job in jobs]

    def in_window(self, now: float) -> int:
        """Return how many requests the last 60 seconds hold."""
        while self._window and self._window[0] <= now:
            self._window.popleft()
        return len(self._window)

    def frees_at(self, now: float) -> float:
        """Return when the next place that is taken in the window comes back."""
        return self._window[0] if self.in_window(now) else now

    def opens(self, now: float, requests: int = 1) -> float:
        """Return the first moment from `now`, or from a later one, at which there is room for so many."""
        # Only read: until that later moment has come, its places are taken.
        taken = [moment for moment in self._window if moment > now]
        over = len(taken) + requests - self.plan.requests_per_minute
        return taken[over - 1] if over > 0 else now

    def _admit(self, now: float) -> None:
        if self.in_window(now) >= self.plan.requests_per_minute:
            self._refuse("minute")
        self._window.append(now + MINUTE)
        self.most_in_window = max(self.most_in_window, len(self._window))

    def _refuse(self, limit: Limit) -> None:
        self.refused += 1
        raise RefusedError(limit)


class _Front:
    """Speaks for a service: GraphQL in, JSON and the rate limit's headers out."""

    def __init__(self, service: Service, loop: VirtualTimeLoop, secret: str, glitches: float) -> None:
        self._service = service
        self._loop = loop
        self._secret = secret
        self._glitches = glitches
        self._random = random.Random(7)
        self.owed: set[asyncio.Task[None]] = set()

    def answer(self, _: bytes, body: bytes) -> bytes:
        now = self._loop.time()
        is_odd = not wire.is_submit(body) and self._random.random() < self._glitches
        return self._odd(body, now) if is_odd else self._honest(body, now)

    def _odd(self, body: bytes, now: float) -> bytes:
        """Answer a poll as a service does that has a bad moment: by a page, by an error, or in part."""
        what = self._random.choice(("page", "error", "part"))
        if what == "part":
            request = json.loads(body)
            keys = [key for key, _ in wire.asked(request["query"])]
            data = json.loads(self._told(body, now))["data"]
            kept = {key: data[key] for key in keys[: (len(keys) + 1) // 2]}
            return wire.response(json.dumps({"data": kept}).encode(), 200, self._headers(now))
        self._service.poll(now, [])
        if what == "page":
            return wire.response(b"<html>Just a moment</html>", 200, self._headers(now))
        passing = {"data": None, "errors": [{"message": "Something went wrong"}]}
        return wire.response(json.dumps(passing).encode(), 200, self._headers(now))

    def _honest(self, body: bytes, now: float) -> bytes:
        try:
            told, status = self._told(body, now).encode(), 200
        except RefusedError as refused:
            error = {"message": _SAID[refused.limit], "extensions": {"code": "RATE_LIMITED"}}
            told, status = json.dumps({"errors": [error]}).encode(), 429
        return wire.response(told, status, self._headers(now))

    def _told(self, body: bytes, now: float) -> str:
        if wire.is_submit(body):
            job = self._service.submit(now)
            if url := json.loads(body)["variables"]["input"].get("webhookUrl"):
                self.owed.add(asyncio.ensure_future(self._tell(url, job)))
            return f'{{"data":{{"generate":{wire.snapshot(f"job-{job:05}", is_done=False)}}}}}'
        request = json.loads(body)
        ids = [(key, request["variables"][name]) for key, name in wire.asked(request["query"])]
        done = self._service.poll(now, [int(job_id[4:]) for _, job_id in ids])
        shown = (
            f'"{key}":{wire.snapshot(job_id, is_done=is_done)}'
            for (key, job_id), is_done in zip(ids, done, strict=True)
        )
        return f'{{"data":{{{",".join(shown)}}}}}'

    async def _tell(self, url: str, job: int) -> None:
        """Send the webhook of a job when it ends."""
        ended = self._loop.create_future()
        self._loop.call_at(self._service.ends[job], ended.set_result, None)
        await ended
        await posting.post(url, self._secret, f"job-{job:05}")

    def _headers(self, now: float) -> str:
        limit = self._service.plan.requests_per_minute
        reset = math.ceil(self._loop.wall_time() + self._service.frees_at(now) - now)
        left = limit - self._service.in_window(now)
        named = {"Limit": limit, "Remaining": left, "Reset": reset}
        return "".join(f"X-RateLimit-{name}: {value}\r\n" for name, value in named.items())


@asynccontextmanager
async def served(service: Service, *, secret: str = "", glitches: float = 0.0) -> AsyncIterator[str]:
    """Serve on the running virtual-time loop, and yield the root of the API.

    Jobs that have a `webhookUrl` end with a webhook, signed with the secret. Of the polls a share of
    `glitches` is answered by a page with status 200, by an error, or for half of the jobs.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    front = _Front(service, loop, secret, glitches)
    server = await loop.create_server(lambda: wire.Http(front.answer), "127.0.0.1", 0, backlog=4096)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        await asyncio.gather(*front.owed)
        server.close()
        # The turns in which connections that the client closed let go of their sockets.
        for _ in range(4):
            await asyncio.sleep(0)
