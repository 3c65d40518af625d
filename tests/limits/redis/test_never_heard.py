"""A process that never hears of Redis lets time pass all the same: waits end, and its jobs are polled."""

from __future__ import annotations

import asyncio

import pytest

from doitong_async import AsyncDoitong, CoordinatorError
from doitong_async.emulator import Emulator
from doitong_async.limits.redis.away import PATIENCE
from tests.fake_redis import FakeRedisServer
from tests.virtual import now, virtual


@virtual
async def test_a_submit_ends_with_an_error_and_a_later_one_is_sent() -> None:
    """It waits for a minute; once Redis can be reached, all is as usual."""
    redis = FakeRedisServer()
    redis.kill()
    async with (
        Emulator(plan="pro", durations=3.0) as emulator,
        AsyncDoitong(api_key="k", plan="pro", base_url=emulator.url, coordinator=redis.client()) as doitong,
    ):
        with pytest.raises(CoordinatorError, match="does not answer"):
            await doitong.submit("a fox")
        assert PATIENCE <= now() <= PATIENCE + 2
        waiting = asyncio.ensure_future(doitong.generate("a hare"))
        await asyncio.sleep(20)
        assert emulator.charges == 0
        redis.start()
        await waiting
        assert emulator.charges == 1


@virtual
async def test_a_job_that_is_resumed_is_polled_to_its_end() -> None:
    """Its slot and its age are right once Redis is there."""
    redis = FakeRedisServer()
    async with Emulator(plan="pro", durations=lambda number: 40.0 * number) as emulator:
        async with AsyncDoitong(api_key="k", plan="pro", base_url=emulator.url) as doitong:
            token = (await doitong.submit("a fox")).token
            other = (await doitong.submit("a hare")).token
        redis.kill()
        async with AsyncDoitong(
            api_key="k", plan="pro", base_url=emulator.url, coordinator=redis.client()
        ) as doitong:
            # For a minute after the others would notice, they may use up all requests.
            assert (await doitong.job(token)).url
            assert 70 <= now() < 80
            resumed = doitong.job(other)
            redis.start()
            await resumed
            assert doitong.stats().slots_in_use == 0
