"""Who does the same calls and jobs without this library, and with it: each runs in a process of its own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import gql
from gql.transport.aiohttp import AIOHTTPTransport

from benchmarks.clocks import HurryingLoop
from benchmarks.loops import POLL
from doitong_async import AsyncDoitong, Plan

if TYPE_CHECKING:
    import httpx

IN_FLIGHT: Final = 32
"""Calls at once."""
TIMEOUT: Final = 60.0
"""Seconds for one request."""
KEY: Final = "benchmark-key-0123456789"
AGENT: Final = "doitong-benchmark/1.0"
HEADERS: Final = {
    "Authorization": f"Bearer {KEY}",
    "User-Agent": AGENT,
    "Content-Type": "application/json",
    "Idempotency-Key": "benchmark-idempotency-key-000000",
}
FIELDS: Final = "id status type provider url metadata creditCost createdAt"
SUBMIT: Final = f"mutation Generate($input: GenerateInput!) {{ generate(input: $input) {{ {FIELDS} }} }}"
STATUS: Final = "query Status($id: ID!) { generation(id: $id) { id status url metadata creditCost } }"
PROMPT: Final = "A futuristic city with flying cars and neon lights"
ORDER: Final = {
    "input": {
        "type": "IMAGE",
        "provider": "flux-pro",
        "input": {"text": PROMPT},
        "options": {"width": 1024, "height": 1024},
    }
}
SUBMIT_BODY: Final = json.dumps({"query": SUBMIT, "variables": ORDER}).encode()


class Runs:
    """What all of them share: where the API is, a loop, and nothing to say beside what it cost."""

    def __init__(self, *, url: str) -> None:
        self.url = url

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop to run on."""
        return asyncio.new_event_loop()

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""


class Calls(Runs):
    """One submit after the other, 32 of them in flight."""

    async def round(self, operations: int) -> Mapping[str, float]:
        """Do so many calls; the 32 callers share them."""
        left = itertools.repeat(None, operations)

        async def caller() -> None:
            for _ in left:
                await self.call()

        await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
        return {}

    async def call(self) -> None:
        """Submit once, and read what was answered."""
        raise NotImplementedError


class BareCalls(Calls):
    """aiohttp alone: bytes out, JSON in, with the connector that doitong_async has."""

    async def open(self) -> None:
        """Open the session."""
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        self._timeout = aiohttp.ClientTimeout(total=TIMEOUT, connect=TIMEOUT / 2)

    async def call(self) -> None:
        """Submit once."""
        async with self._session.post(
            f"{self.url}/graphql", data=SUBMIT_BODY, headers=HEADERS, timeout=self._timeout
        ) as response:
            _ = json.loads(await response.read())["data"]["generate"]["id"]

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()


class GqlCalls(Calls):
    """gql as its documentation shows it: a document parsed for each call, a session kept open."""

    async def open(self) -> None:
        """Open the session."""
        transport = AIOHTTPTransport(url=f"{self.url}/graphql", headers=HEADERS)
        # No end by gql's own clock, which counts on a clock that hurries; it costs a little too.
        self._client = gql.Client(transport=transport, execute_timeout=None)
        self._session: Any = await self._client.connect_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def call(self) -> None:
        """Submit once."""
        request = gql.gql(SUBMIT)
        request.variable_values = ORDER
        _ = (await self._session.execute(request))["generate"]["id"]

    async def close(self) -> None:
        """Close the session."""
        await self._client.close_async()  # type: ignore[no-untyped-call]  # gql's own gap


class HttpxCalls(Calls):
    """httpx as its documentation shows it, but that it may keep a connection for each call in flight."""

    async def open(self) -> None:
        """Open the client."""
        import httpx  # an extra of the benchmarks: whoever has it not does without this competitor

        # By default it keeps 20 connections, and would open new ones all the time.
        limits = httpx.Limits(max_keepalive_connections=IN_FLIGHT)
        self._client: httpx.AsyncClient = httpx.AsyncClient(headers=HEADERS, timeout=TIMEOUT, limits=limits)

    async def call(self) -> None:
        """Submit once."""
        response = await self._client.post(f"{self.url}/graphql", json={"query": SUBMIT, "variables": ORDER})
        _ = response.json()["data"]["generate"]["id"]

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


def client(url: str, jobs: int) -> AsyncDoitong:
    """Return a client on a plan that never holds it up before so many jobs run at once."""
    plan = Plan.enterprise(requests_per_minute=100_000_000, concurrent_jobs=jobs)
    long = {"timeout": 1e6, "slot_expiry": 1e6, "request_timeout": TIMEOUT * 10, "poll_timeout": TIMEOUT * 10}
    return AsyncDoitong(api_key=KEY, base_url=url, plan=plan, user_agent=AGENT, **long)  # type: ignore[arg-type]


class OurCalls(Calls):
    """doitong_async, with all that it does for a submit: slot, window, idempotency key, snapshot, watch."""

    async def open(self) -> None:
        """Open the client."""
        self._client = await client(self.url, 1000).__aenter__()

    async def call(self) -> None:
        """Submit once."""
        _ = (await self._client.submit(PROMPT, width=1024, height=1024)).id

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()


class Jobs(Runs):
    """Whole jobs: submit, poll until it is over; so many in flight, on a clock that hurries."""

    def __init__(self, *, url: str, in_flight: int, speed: float) -> None:
        super().__init__(url=url)
        self.in_flight = in_flight
        self._speed = speed

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop whose clock hurries, so that 2 s between polls are not waited for."""
        return HurryingLoop(self._speed)

    async def round(self, operations: int) -> Mapping[str, float]:
        """Do so many jobs, under a semaphore."""
        semaphore = asyncio.Semaphore(self.in_flight)

        async def guarded() -> None:
            async with semaphore:
                await self.job()

        await asyncio.gather(*(guarded() for _ in range(operations)))
        return {}

    async def job(self) -> None:
        """Do one job."""
        raise NotImplementedError


class HandWrittenJobs(Jobs):
    """An aiohttp loop as one writes it by hand, with a request for each poll."""

    async def open(self) -> None:
        """Open the session."""
        self._session = aiohttp.ClientSession(headers=HEADERS)

    async def job(self) -> None:
        """Do one job."""
        job = (await self._post(SUBMIT, ORDER))["generate"]
        while job["status"] == "processing":
            await asyncio.sleep(POLL)
            job = (await self._post(STATUS, {"id": job["id"]}))["generation"]

    async def _post(self, query: str, variables: Mapping[str, object]) -> Any:
        body = {"query": query, "variables": variables}
        async with self._session.post(f"{self.url}/graphql", json=body) as response:
            return (await response.json())["data"]

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()


class GqlJobs(Jobs):
    """The same loop with gql as its documentation shows it."""

    async def open(self) -> None:
        """Open the session."""
        self._gql = GqlCalls(url=self.url)
        await self._gql.open()

    async def job(self) -> None:
        """Do one job."""
        job = (await self._execute(SUBMIT, ORDER))["generate"]
        while job["status"] == "processing":
            await asyncio.sleep(POLL)
            job = (await self._execute(STATUS, {"id": job["id"]}))["generation"]

    async def _execute(self, query: str, variables: dict[str, Any]) -> Any:
        request = gql.gql(query)
        request.variable_values = variables
        return await self._gql._session.execute(request)

    async def close(self) -> None:
        """Close the session."""
        await self._gql.close()


class OurJobs(Jobs):
    """doitong_async: `generate`, and the plan is the semaphore."""

    async def open(self) -> None:
        """Open the client."""
        self._client = await client(self.url, self.in_flight).__aenter__()

    async def round(self, operations: int) -> Mapping[str, float]:
        """Do so many jobs, all asked for at once."""
        jobs = (self._client.generate(PROMPT, width=1024, height=1024) for _ in range(operations))
        await asyncio.gather(*jobs)
        return {}

    async def close(self) -> None:
        """Close the client."""
        await self._client.aclose()
