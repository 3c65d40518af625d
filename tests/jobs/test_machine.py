"""The machine sleeps, the clock jumps or the loop is blocked: polls resume soon and without a burst."""

from __future__ import annotations

import asyncio

import pytest

from doitong_async import JobTimeoutError
from doitong_async.testing import VirtualTimeLoop
from tests.virtual import now, seen, virtual, with_emulator


def block(seconds: float) -> None:
    """Let time pass while the loop cannot run, as a blocking call or a sleeping laptop does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.skip(seconds)


@virtual
async def test_a_block_is_followed_by_a_single_poll_at_once() -> None:
    """It missed fifteen ticks; one poll makes up for all of them."""
    async with with_emulator(emulator={"durations": 6.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(1)
        block(30)
        await job
        assert now() == 31.0
        assert [poll.at for poll in seen(emulator, "poll")] == [31.0]


@virtual
async def test_the_ticks_continue_after_a_block() -> None:
    """They come two seconds apart, counted from the late poll."""
    async with with_emulator(emulator={"durations": 40.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(3)
        block(30)
        await job
        assert [poll.at for poll in seen(emulator, "poll")] == [2.0, 33.0, 35.0, 37.0, 39.0, 41.0]


@virtual
async def test_a_deadline_that_passes_during_a_block_ends_the_wait() -> None:
    """The timeout is late by no more than the block; the job can be awaited again."""
    async with with_emulator(emulator={"durations": 100.0}, timeout=20.0) as (doitong, _):
        job = await doitong.submit("a fox")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(5)
        block(30)
        with pytest.raises(JobTimeoutError):
            await waiting
        assert now() == 35.0
        assert (await job.wait(timeout=100)).id == job.id


@virtual
async def test_permits_returned_during_a_block_cause_no_burst() -> None:
    """However long nothing ran, the server's window never holds more requests than the plan allows."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(120)]
        for _ in range(6):
            await asyncio.sleep(5)
            block(45)
        await asyncio.gather(*work)
        assert emulator.world.most_in_window <= 60
        assert {request.http_status for request in emulator.world.seen} == {200}
