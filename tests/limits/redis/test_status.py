"""The status of a shared key says what its processes use, and leaves no trace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doitong_async import AsyncDoitong, CoordinatorError, Plan
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.limits.redis.status import KeyStatus, read_status
from doitong_async.limits.redis.store import Store
from doitong_async.secret import name_of
from tests.fake_redis import FakeRedisServer
from tests.virtual import ends_of, virtual

KEY = "k-test"
PLAN = Plan.enterprise(requests_per_minute=60, concurrent_jobs=3, jobs_per_day=100)


class Scene:
    """A service and a Redis, with clients that share a key."""

    def __init__(self, emulator: Emulator, redis: FakeRedisServer) -> None:
        self.emulator = emulator
        self.redis = redis

    def client(self, **arguments: Any) -> AsyncDoitong:
        """Return a client on the key."""
        return AsyncDoitong(
            **{
                "api_key": KEY,
                "base_url": self.emulator.url,
                "plan": PLAN,
                "coordinator": self.redis.client(),
                **arguments,
            }
        )

    async def status(self) -> KeyStatus:
        """Return the status, as somebody reads it who takes no part."""
        client = self.redis.client()
        try:
            return await read_status(Store(client, name_of(self.emulator.url, KEY)))
        finally:
            await client.aclose()


@asynccontextmanager
async def scene(**emulator: Any) -> AsyncIterator[Scene]:
    """Yield a service whose jobs take a minute."""
    limits = PlanLimits(60, 3, 100)
    async with Emulator(**{"plan": limits, "credits": 1e6, "durations": 60.0, **emulator}) as server:
        yield Scene(server, FakeRedisServer())


@virtual
async def test_nobody_uses_a_key_at_first() -> None:
    async with scene() as here:
        found = await here.status()
        assert found == KeyStatus()
        assert not found.is_used
        assert found.poller is None


@virtual
async def test_slots_waiters_and_what_is_left() -> None:
    """Two processes with five jobs: three run, two wait, and one process polls for all."""
    async with scene() as here, here.client() as first, here.client() as second:
        jobs = [asyncio.ensure_future(first.generate(f"fox {number}")) for number in range(4)]
        await asyncio.sleep(0.5)
        jobs.append(asyncio.ensure_future(second.generate("a hare")))
        await asyncio.sleep(1.5)
        found = await here.status()
        assert (found.slots_taken, found.concurrent_jobs, found.orphans) == (3, 3, 0)
        assert [(each.running, each.waits_for_slot) for each in found.processes] == [(3, 1), (0, 1)]
        assert (found.jobs_today, found.jobs_per_day) == (3, 100)
        assert found.requests_per_minute == 60
        assert found.requests_left == 60 - len(here.emulator.world.seen)
        assert [each.polls for each in found.processes].count(True) == 1
        assert found.poller in found.processes
        assert all(each.seen_seconds_ago <= 1.1 and not each.is_silent for each in found.processes)
        assert (found.submits_held_for, found.polls_held_for, found.day_over_for) == (0, 0, 0)
        await asyncio.gather(*jobs)


@virtual
async def test_reading_leaves_no_trace() -> None:
    """No sign of life, no other version of the state, and no key where there was none."""
    async with scene() as here:
        await here.status()
        assert await here.redis.client().keys("*") == []
        async with here.client():
            client = here.redis.client()
            names: list[Any] = await client.keys("*")
            before = {name: await client.hgetall(name) for name in names if not name.endswith(b"news")}
            await here.status()
            assert {name: await client.hgetall(name) for name in before} == before
            await client.aclose()


@virtual
async def test_a_process_that_is_cut_off_is_gone_for_the_others() -> None:
    """Its jobs are orphans until they end; the requests that it may still send are withheld."""
    async with scene() as here, here.client() as first:
        redis = FakeRedisServer.client(here.redis)
        cut = here.client(coordinator=redis)
        async with cut:
            await cut.submit("a fox")
            await asyncio.sleep(1)

            async def unreachable(*_: object, **__: object) -> None:
                raise ConnectionError("cut off")

            redis.execute_command = unreachable  # type: ignore[method-assign]  # as a cable that is pulled
            await asyncio.sleep(5)
            assert [each.is_silent for each in (await here.status()).processes] == [False, False]
            await asyncio.sleep(8)
            found = await here.status()
            assert len(found.processes) == 1
            assert (found.slots_taken, found.orphans) == (1, 1)
            assert found.lost_processes == 1
            assert found.withheld == 15
        assert first.stats().slots_in_use == 1


@virtual
async def test_when_all_are_gone_their_jobs_stay_until_their_slots_expire() -> None:
    """Nobody is there to free them; whoever reads counts as the next process will."""
    async with scene(durations=1e6) as here:
        async with here.client(slot_expiry=120.0) as doitong:
            await doitong.submit("a fox")
        found = await here.status()
        assert (found.processes, found.slots_taken, found.orphans) == ((), 1, 1)
        assert (found.plan, found.concurrent_jobs, found.requests_per_minute) == (None, None, None)
        assert found.is_used
        await asyncio.sleep(130)
        assert not (await here.status()).is_used


@virtual
async def test_what_the_service_asked_for() -> None:
    """A 429 about requests holds submits and polls."""
    async with scene(faults=["submit 1: 429-minute"]) as here, here.client() as doitong:
        job = asyncio.ensure_future(doitong.submit("a fox"))
        await asyncio.sleep(1)
        found = await here.status()
        assert found.submits_held_for > 1
        assert found.polls_held_for > 1
        await job


@virtual
async def test_no_more_jobs_today() -> None:
    """The day's jobs are used up: the status says until when."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=3, jobs_per_day=1)
    async with scene(durations=1.0) as here, here.client(plan=plan) as doitong:
        await doitong.generate("a fox")
        await asyncio.sleep(1)
        found = await here.status()
        assert (found.jobs_today, found.jobs_per_day) == (1, 1)
        assert 86_000 < found.day_over_for < 86_400


@virtual
async def test_no_credits() -> None:
    async with scene(credits=0) as here, here.client() as doitong:
        await ends_of(doitong.generate("a fox"))
        await asyncio.sleep(1)
        assert (await here.status()).has_no_credits


@virtual
async def test_a_server_that_is_away_is_an_error() -> None:
    async with scene() as here:
        here.redis.kill()
        with pytest.raises(CoordinatorError, match="cannot be reached"):
            await here.status()


@pytest.mark.parametrize(
    ("state", "message"),
    [('{"format": 999}', "Another version"), ("{", "cannot be read"), ("[]", "cannot be")],
)
def test_a_state_that_cannot_be_read_is_an_error(state: str, message: str) -> None:
    @virtual
    async def run() -> None:
        async with scene() as here:
            client = here.redis.client()
            name = name_of(here.emulator.url, KEY)
            await client.hset(f"doitong:{{{name}}}:state", mapping={"version": "1.x", "state": state})
            await client.aclose()
            with pytest.raises(CoordinatorError, match=message):
                await here.status()

    run()
