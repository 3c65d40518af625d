"""The services that the contract is held against, and the one way to hold a case against them.

The emulator and the plain server run in virtual time. The live service takes part if and only if
DOITONG_LIVE is 1 and DOITONG_API_KEY is set: `DOITONG_LIVE=1 python -m pytest tests/contract`. Then
DOITONG_PLAN must name the key's plan (free by default), and DOITONG_BASE_URL may name another root.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from doitong_async import AsyncDoitong, Plan
from doitong_async.emulator import Emulator
from doitong_async.settings import DEFAULT_BASE_URL
from doitong_async.urls import is_loopback
from tests.contract.purse import PICTURE, BudgetTracker
from tests.plain_server import Behaviour, PlainServer
from tests.virtual import virtual

SIDE = 512
"""Pixels: the smallest picture that has a documented price, which is the lowest."""
GENERATE = (
    "mutation Generate($input: GenerateInput!) "
    "{ generate(input: $input) { id status type provider url metadata creditCost createdAt } }"
)
"""The documented mutation, written here once more: the contract does not trust the client's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer over raw HTTP."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def job(self) -> dict[str, Any]:
        """The job in it, by its shape: the documented bodies do not agree on the key above it."""
        found = [each for each in _objects(self.body) if "id" in each]
        assert len(found) == 1, self.body
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A service that listens: where it is, the key that opens it, the plan that the key has."""

    base_url: str
    key: str = field(repr=False)
    plan: Plan
    draws: bool = True
    """Whether its pictures have the size that was asked for; the plain server's is always the same pixel."""
    jobs: Callable[[], int] | None = None
    """How many jobs it made, where it can be asked."""
    costs: dict[str, float] = field(default_factory=dict, repr=False)
    """Credits by job, as far as answers told them."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if is_loopback(parts.hostname):
            return
        if not is_asked_for_live(os.environ):
            raise RuntimeError(f"{self.base_url} is not on this machine, and DOITONG_LIVE is not 1.")
        if parts.scheme != "https":
            raise RuntimeError(f"{self.base_url} is not https: the key could be read on the way.")

    @asynccontextmanager
    async def client(self, **arguments: Any) -> AsyncIterator[AsyncDoitong]:
        """Open the public client, for the smallest pictures."""
        given = {"api_key": self.key, "base_url": self.base_url, "plan": self.plan, **arguments}
        async with AsyncDoitong(width=SIDE, height=SIDE, on_event=self._note, **given) as doitong:
            yield doitong

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        """Send one POST as the documentation shows; an underscore in a header's name stands for a dash."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for _ in range(3):
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    self.base_url + path, json=body, headers=named, allow_redirects=False
                ) as response,
            ):
                answer = Answer(response.status, response.headers, await response.json(content_type=None))
            if answer.status != 429:
                break
            # The case before used up the minute, or its job is still running.
            await asyncio.sleep(60)
        for each in _objects(answer.body):
            if "id" in each and isinstance(each.get("creditCost"), int | float):
                self.costs[str(each["id"])] = each["creditCost"]
        return answer

    async def ask(self, query: str, variables: object = None, **headers: str) -> Answer:
        """Send one GraphQL document under the documented header."""
        body = {"query": query, "variables": variables or {}}
        return await self.post("/graphql", body, Authorization=f"Bearer {self.key}", **headers)

    def _note(self, event: object) -> None:
        cost, job_id = getattr(event, "credit_cost", None), getattr(event, "job_id", None)
        if cost is not None and job_id is not None:
            self.costs[job_id] = cost


Start = Callable[[], AbstractAsyncContextManager[Service]]


@dataclass(frozen=True, slots=True)
class Place:
    """A service that takes part: how to start it, and what it may cost."""

    name: str
    start: Start
    tracker: BudgetTracker | None = None
    """Only of the live service: there time and money are real."""


@asynccontextmanager
async def emulator() -> AsyncIterator[Service]:
    """Start the emulator, with one key that it knows."""
    async with Emulator("pro", key="k-contract") as server:
        yield Service(
            base_url=server.url, key="k-contract", plan=Plan.PRO, jobs=lambda: len(server.world.jobs)
        )


def plain(behaviour: Behaviour) -> Start:
    """Return how to start the server that is not ours, going this way where the reference is open."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Service]:
        async with PlainServer(behaviour=behaviour, requests_per_minute=60, jobs_per_day=10_000) as server:
            yield Service(
                base_url=server.url,
                key=server.key,
                plan=Plan.PRO,
                draws=False,
                jobs=lambda: len(server.jobs),
            )

    return start


@asynccontextmanager
async def live() -> AsyncIterator[Service]:
    """Give the live service, which runs already."""
    environment = os.environ
    yield Service(
        base_url=(environment.get("DOITONG_BASE_URL") or DEFAULT_BASE_URL).rstrip("/"),
        key=environment["DOITONG_API_KEY"],
        plan=Plan.named(environment.get("DOITONG_PLAN") or "free"),
    )


CONTRARY = Behaviour(
    answer_key="generateimage",
    errors_with_200=True,
    status_field="checkJobStatus",
    status_argument="jobId",
    aliases=False,
    conflict_on_replay=True,
    over_concurrency="refuse",
    reset_unit="seconds",
)
"""Wherever the reference is open, the other way than the plain server's usual one."""


def is_asked_for_live(environment: Mapping[str, str]) -> bool:
    """Whether requests may leave this machine, at the cost of credits."""
    return environment.get("DOITONG_LIVE") == "1" and bool(environment.get("DOITONG_API_KEY"))


def places(environment: Mapping[str, str]) -> list[Place]:
    """Return the services that take part."""
    local = [
        Place("emulator", emulator),
        Place("plain", plain(Behaviour())),
        Place("contrary", plain(CONTRARY)),
    ]
    return [*local, Place("live", live, BudgetTracker())] if is_asked_for_live(environment) else local


Case = Callable[[Service], Awaitable[None]]
CASES: dict[str, int] = {}
"""What each case may cost, in credits."""


def contract(*, pictures: int) -> Callable[[Case], Callable[[Place], None]]:
    """Make a test of a case: on the live service it runs in real time, and only if the purse has its credits.

    Args:
        pictures: how many the case makes at most, even where the service does not keep a promise.
    """

    def decorate(case: Case) -> Callable[[Place], None]:
        reserved = CASES[case.__name__] = pictures * PICTURE

        async def held(place: Place) -> None:
            async with place.start() as service:
                try:
                    await case(service)
                finally:
                    if place.tracker:
                        place.tracker.settle(reserved, sum(service.costs.values()))
                if service.jobs:
                    assert service.jobs() <= pictures
                    assert sum(service.costs.values()) <= reserved

        @functools.wraps(case)
        def run(service: Place) -> None:
            if service.tracker is None:
                virtual(held)(service)
                return
            service.tracker.take(reserved)
            asyncio.run(held(service))

        return run

    return decorate


def _objects(body: object) -> Iterator[dict[str, Any]]:
    """The objects that can be a job: a REST body itself, or what stands right below GraphQL's data."""
    if not isinstance(body, dict):
        return
    data = body.get("data")
    below = data.values() if isinstance(data, dict) else [body]
    yield from (each for each in below if isinstance(each, dict))
