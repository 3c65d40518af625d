"""The machine sleeps, the clock jumps, the loop is blocked: no look is missed for long, no burst follows."""

from __future__ import annotations

import asyncio

import pytest

from doitong_async import JobTimeoutError
from doitong_async.testing import VirtualTimeLoop
from tests.virtual import now, seen, virtual, with_emulator


def block(seconds: float) -> None:
    """Let time pass without the loop having a chance to run, as a blocking call or a sleeping laptop does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.skip(seconds)


@virtual
async def test_after_a_block_the_next_look_comes_at_once_and_alone() -> None:
    """Fifteen ticks were missed; one look makes up for all of them."""
    async with with_emulator(emulator={"durations": 6.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(1)
        block(30)
        await job
        assert now() == 31.0
        assert [poll.at for poll in seen(emulator, "poll")] == [31.0]


@virtual
async def test_the_ticks_go_on_as_before_after_a_block() -> None:
    """Two seconds apart, from the look that came late."""
    async with with_emulator(emulator={"durations": 40.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(3)
        block(30)
        await job
        assert [poll.at for poll in seen(emulator, "poll")] == [2.0, 33.0, 35.0, 37.0, 39.0, 41.0]


@virtual
async def test_a_deadline_that_passes_in_a_block_is_seen() -> None:
    """The wait ends, late by no more than the block; the job can be awaited on."""
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
async def test_turns_that_came_back_in_a_block_are_no_burst_at_the_server() -> None:
    """However long nothing ran, the server's window never holds more than the plan."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(120)]
        for _ in range(6):
            await asyncio.sleep(5)
            block(45)
        await asyncio.gather(*work)
        assert emulator.world.most_in_window <= 60
        assert {request.http_status for request in emulator.world.seen} == {200}
