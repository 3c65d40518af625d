"""The helpers for users' tests: time that jumps, and a client with its own emulator."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from doitong_async import Plan
from doitong_async.clock import wall_time
from doitong_async.testing import VirtualTimeLoop, emulated, run_virtual


def test_an_hour_takes_no_time() -> None:
    """The clock jumps to the next timer when nothing else is ready."""

    async def an_hour() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run_virtual(an_hour()) == 3600.0


def test_time_stands_still_while_a_thread_works() -> None:
    """The thread does real work, and no timer may overtake it."""

    async def work() -> float:
        sleeper = asyncio.ensure_future(asyncio.sleep(1000))
        await asyncio.to_thread(time.sleep, 0.05)
        moment = asyncio.get_running_loop().time()
        await sleeper
        return moment

    assert run_virtual(work()) == 0.0


def test_time_stands_still_while_threads_are_joined(recwarn: pytest.WarningsRecorder) -> None:
    """They are joined when a run ends, where asyncio would warn after 300 s by the loop's clock."""
    go = threading.Event()

    async def leave_a_thread() -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        # The loop drops the cancelled call; its thread runs on.
        loop.run_in_executor(None, go.wait, 5).cancel()
        await asyncio.sleep(0)
        threading.Timer(0.05, go.set).start()
        return loop

    assert run_virtual(leave_a_thread()).time() == 0.0
    assert go.is_set()
    assert list(recwarn) == []


def test_both_clocks_are_the_same_in_every_run() -> None:
    """A run is repeatable to the microsecond, dates included."""

    async def clocks() -> tuple[float, float]:
        await asyncio.sleep(1.5)
        return asyncio.get_running_loop().time(), wall_time()

    assert run_virtual(clocks()) == run_virtual(clocks()) == (1.5, 1_767_225_601.5)


def test_time_can_be_skipped() -> None:
    """As if the loop had been blocked: overdue timers then run once."""

    async def skip() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        sleeper = asyncio.ensure_future(asyncio.sleep(5))
        await asyncio.sleep(0)
        loop.skip(60)
        await sleeper
        return loop.time()

    assert run_virtual(skip()) == 60.0


def test_virtual_time_raises_before_it_would_hang() -> None:
    """After some hundred days asyncio's own arithmetic fails."""
    with pytest.raises(OverflowError, match="virtual time ends"):
        run_virtual(asyncio.sleep(1e8))


def test_a_client_with_its_own_emulator() -> None:
    """Both have the same plan, and further arguments go to the one or the other."""

    async def two() -> float:
        async with emulated(plan=Plan.FREE, emulator={"durations": 5.0}, timeout=60.0) as doitong:
            await asyncio.gather(doitong.generate("one"), doitong.generate("two"))
        return asyncio.get_running_loop().time()

    assert run_virtual(two()) >= 10.0


def test_a_test_can_assert_on_what_reached_the_emulator() -> None:
    """Requests, jobs and charges; a view of the client has the same emulator."""

    async def main() -> None:
        async with emulated(emulator={"durations": 1.0}) as doitong:
            job = await doitong.submit("a fox", idempotency_key="mine")
            await job
            emulator = doitong.with_options(timeout=5.0).emulator
            assert [each.id for each in emulator.jobs] == [job.id]
            assert emulator.charges == 1
            submit, *polls = emulator.requests
            assert (submit.kind, submit.headers["Idempotency-Key"]) == ("submit", "mine")
            assert {poll.kind for poll in polls} == {"poll"}

    run_virtual(main())
