"""The services that the contract tests, and how to run a case against them.

The emulator and the plain server run in virtual time. The live service takes part if and only if
DOITONG_LIVE is 1 and DOITONG_API_KEY is set: `DOITONG_LIVE=1 python -m pytest tests/contract`. Then
DOITONG_PLAN must name the key's plan (free by default); DOITONG_BASE_URL may name another root, and
DOITONG_TRANSPORT another form of the calls.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from doitong_async import AsyncDoitong, Plan
from doitong_async.emulator import Emulator
from doitong_async.settings import DEFAULT_BASE_URL
from doitong_async.urls import is_loopback
from tests.contract.budget import PICTURE, BudgetTracker
from tests.plain_server import Behaviour, PlainServer
from tests.virtual import virtual

FORMS = ("graphql", "graphql-flat", "rest")
SIDE = 512
"""Pixels: the smallest picture that has a documented price, which is the lowest."""
GENERATE = (
    "mutation Generate($input: GenerateInput!) "
    "{ generate(input: $input) { id status type provider url metadata creditCost createdAt } }"
)
"""The documented mutation; the contract does not trust the client's own copy."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer over raw HTTP."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def job(self) -> dict[str, Any]:
        """The job in it, found by its shape: the documented bodies disagree on the key above it."""
        found = [each for each in _objects(self.body) if "id" in each]
        assert len(found) == 1, self.body
        return found[0]


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service: its address, a key for it, and the key's plan."""

    base_url: str
    key: str = field(repr=False)
    plan: Plan
    form: str = "graphql"
    """The form of the client's calls."""
    draws: bool = True
    """Whether its pictures have the requested size; the plain server's are always the same pixel."""
    jobs: Callable[[], int] | None = None
    """Returns how many jobs it made; None if it cannot know."""
    costs: dict[str, float] = field(default_factory=dict, repr=False)
    """The credits of each job whose cost an answer named."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if is_loopback(parts.hostname):
            return
        if not is_live_requested(os.environ):
            raise RuntimeError(f"{self.base_url} is not on this machine, and DOITONG_LIVE is not 1.")
        if parts.scheme != "https":
            raise RuntimeError(f"{self.base_url} is not https: the key could be read on the way.")

    @asynccontextmanager
    async def client(self, **arguments: Any) -> AsyncIterator[AsyncDoitong]:
        """Open the public client with the smallest picture size."""
        given: dict[str, Any] = {"api_key": self.key, "base_url": self.base_url, "plan": self.plan}
        given |= {"transport": self.form, **arguments}
        async with AsyncDoitong(width=SIDE, height=SIDE, on_event=self._note, **given) as doitong:
            yield doitong

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        """Send one POST as the documentation shows; an underscore in a header's name becomes a dash."""
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
            # The previous case used up the minute, or its job is still running.
            await asyncio.sleep(60)
        for each in _objects(answer.body):
            if "id" in each and isinstance(each.get("creditCost"), int | float):
                self.costs[str(each["id"])] = each["creditCost"]
        return answer

    async def ask(self, query: str, variables: object = None, **headers: str) -> Answer:
        """Send one GraphQL document with the documented authorization header."""
        body = {"query": query, "variables": variables or {}}
        return await self.post("/graphql", body, Authorization=f"Bearer {self.key}", **headers)

    def _note(self, event: object) -> None:
        cost, job_id = getattr(event, "credit_cost", None), getattr(event, "job_id", None)
        if cost is not None and job_id is not None:
            self.costs[job_id] = cost


Start = Callable[[], AbstractAsyncContextManager[Service]]


@dataclass(frozen=True, slots=True)
class Target:
    """A service under test: how to start it, and what it may cost."""

    name: str
    start: Start
    form: str | None = None
    """The form of the client's calls; None leaves it to the service."""
    tracker: BudgetTracker | None = None
    """Only for the live service, where time and money are real."""


@asynccontextmanager
async def emulator() -> AsyncIterator[Service]:
    """Start the emulator with one known key."""
    async with Emulator("pro", key="k-contract") as server:
        yield Service(
            base_url=server.url, key="k-contract", plan=Plan.PRO, jobs=lambda: len(server.world.jobs)
        )


def plain(behaviour: Behaviour) -> Start:
    """Return a function that starts the plain server with this behaviour where the reference is open."""

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
    """Describe the live service, which is already running."""
    environment = os.environ
    yield Service(
        base_url=(environment.get("DOITONG_BASE_URL") or DEFAULT_BASE_URL).rstrip("/"),
        key=environment["DOITONG_API_KEY"],
        plan=Plan.named(environment.get("DOITONG_PLAN") or "free"),
        form=environment.get("DOITONG_TRANSPORT") or "graphql",
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
"""The opposite of the plain server's default wherever the reference leaves the behaviour open."""


def is_live_requested(environment: Mapping[str, str]) -> bool:
    """Whether requests may leave this machine and cost credits."""
    return environment.get("DOITONG_LIVE") == "1" and bool(environment.get("DOITONG_API_KEY"))


def targets(environment: Mapping[str, str]) -> list[Target]:
    """Return the services under test, those of this machine in each form of the calls."""
    servers = {"emulator": emulator, "plain": plain(Behaviour()), "contrary": plain(CONTRARY)}
    local = [Target(f"{name} {form}", start, form) for name, start in servers.items() for form in FORMS]
    live_too = [Target("live", live, tracker=BudgetTracker())] if is_live_requested(environment) else []
    return local + live_too


Case = Callable[[Service], Awaitable[None]]
CASES: dict[str, int] = {}
"""The highest cost of each case, in credits."""


def contract(*, pictures: int) -> Callable[[Case], Callable[[Target], None]]:
    """Make a test of a case; on the live service it runs in real time, if the budget has enough credits.

    Args:
        pictures: how many the case makes at most, even if the service breaks a promise.
    """

    def decorate(case: Case) -> Callable[[Target], None]:
        reserved = CASES[case.__name__] = pictures * PICTURE

        async def run_case(target: Target) -> None:
            async with target.start() as service:
                form = target.form or service.form
                try:
                    await case(replace(service, form=form))
                finally:
                    if target.tracker:
                        target.tracker.settle(reserved, sum(service.costs.values()))
                if service.jobs:
                    assert service.jobs() <= pictures
                    assert sum(service.costs.values()) <= reserved

        @functools.wraps(case)
        def run(service: Target) -> None:
            if service.tracker is None:
                virtual(run_case)(service)
                return
            service.tracker.take(reserved)
            asyncio.run(run_case(service))

        return run

    return decorate


def _objects(body: object) -> Iterator[dict[str, Any]]:
    """Yield the objects that can be a job: a REST body itself, or the values of GraphQL's data."""
    if not isinstance(body, dict):
        return
    data = body.get("data")
    below = data.values() if isinstance(data, dict) else [body]
    yield from (each for each in below if isinstance(each, dict))
