"""The event loop stood still: a suspended process, a debugger, a blocking call of the user's."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from doitong_async import JobTimeoutError, Plan
from doitong_async.batch.item import Outcome
from doitong_async.testing import VirtualTimeLoop
from tests.plain_server import HANG, PlainServer
from tests.virtual import now, plain, seen, virtual, with_emulator

HTML_502 = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


def stand_still(seconds: float) -> None:
    """Let time pass as `time.sleep` does: the loop runs nothing meanwhile."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop.skip(seconds)


def polls(server: PlainServer) -> list[float]:
    """Return when the server was polled."""
    return [request.at for request in server.requests if request.kind == "poll"]


@pytest.mark.parametrize("timeout", [0.5, 1.0, 3.9, 4.0, 5.95, 6.0])
@pytest.mark.parametrize("begins_at", [0.0, 1.0])
@virtual
async def test_a_deadline_that_passed_meanwhile_waits_for_one_poll(timeout: float, begins_at: float) -> None:
    """The job ended while nobody could ask: one poll brings its result."""
    async with plain(seconds=begins_at + 0.3) as (doitong, server):
        job = await doitong.submit("a fox")
        wait = asyncio.ensure_future(job.wait(timeout=timeout + begins_at))
        await asyncio.sleep(begins_at)
        stand_still(6.0)
        assert (await wait).id == job.id
        assert polls(server) == [begins_at + 6.0]


@virtual
async def test_a_deadline_soon_after_a_standstill_waits_for_the_first_answer() -> None:
    """The first poll is in flight at the deadline, since none could be sent earlier."""
    async with plain(seconds=3.0) as (doitong, server):
        job = await doitong.submit("a fox")
        wait = asyncio.ensure_future(job.wait(timeout=6.05))
        await asyncio.sleep(0)
        server.script = lambda kind, nth: HANG if nth == 1 and kind == "poll" else None
        stand_still(6.0)
        assert (await wait).id == job.id
        assert polls(server) == [6.0, 8.0]


@virtual
async def test_many_deadlines_cost_one_poll() -> None:
    """Whether all jobs ended meanwhile or none did."""
    for seconds in (3.0, 100.0):
        async with plain(seconds=seconds) as (doitong, server):
            jobs = [await doitong.submit(f"fox {n}") for n in range(10)]
            begun = now()
            waits = [asyncio.ensure_future(job.wait(timeout=4)) for job in jobs for _ in range(2)]
            await asyncio.sleep(0)
            stand_still(6.0)
            ended = await asyncio.gather(*waits, return_exceptions=True)
            assert len(polls(server)) == 1
            assert now() == begun + 6.0
            is_over = [not isinstance(each, JobTimeoutError) for each in ended]
            assert is_over == [seconds == 3.0] * 20


@virtual
async def test_a_failed_poll_ends_the_extra_wait() -> None:
    """The timeout names the failure of that poll."""
    async with plain(seconds=3.0) as (doitong, server):
        job = await doitong.submit("a fox")
        server.script = lambda kind, nth: HTML_502 if kind == "poll" else None
        wait = asyncio.ensure_future(job.wait(timeout=4))
        await asyncio.sleep(0)
        stand_still(6.0)
        with pytest.raises(JobTimeoutError, match="502"):
            await wait
        assert now() == 6.0


@virtual
async def test_a_poll_that_cannot_be_sent_ends_the_extra_wait() -> None:
    """The wait grows by at most `poll_timeout` and the 2 s between two polls."""
    plan = Plan.enterprise(requests_per_minute=1, concurrent_jobs=1)
    async with plain(plan, seconds=3.0, poll_timeout=5.0) as (doitong, server):
        job = await doitong.submit("a fox")
        wait = asyncio.ensure_future(job.wait(timeout=4))
        await asyncio.sleep(0)
        stand_still(6.0)
        with pytest.raises(JobTimeoutError):
            await wait
        assert now() == pytest.approx(13.0)
        assert polls(server) == []
        assert (await job).id == job.id


@virtual
async def test_repeated_standstills_do_not_prevent_the_poll() -> None:
    """Several blocking calls in a row, each longer than a poll may take."""
    async with plain(seconds=3.0, poll_timeout=5.0) as (doitong, server):
        job = await doitong.submit("a fox")
        wait = asyncio.ensure_future(job.wait(timeout=4))
        for _ in range(4):
            await asyncio.sleep(0)
            stand_still(8.0)
        assert (await wait).id == job.id
        assert len(polls(server)) <= 2


@virtual
async def test_an_ordinary_timeout_is_not_extended() -> None:
    """It comes on the second and sends no poll, however old the last one is."""
    async with with_emulator(Plan.FREE, emulator={"durations": 100.0}, slot_timeout=None) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        following = [asyncio.ensure_future(doitong.submit(f"fox {n}")) for n in range(20)]
        for number in range(8):
            with pytest.raises(JobTimeoutError):
                await job.wait(timeout=1)
            assert now() == number + 1.0
        assert len(seen(emulator, "poll")) <= 1
        for each in following:
            each.cancel()
        await asyncio.gather(*following, return_exceptions=True)


@virtual
async def test_a_timeout_of_zero_waits_for_no_poll() -> None:
    """It asks only for what is known already."""
    async with plain(seconds=3.0) as (doitong, server):
        job = await doitong.submit("a fox")
        stand_still(6.0)
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=0)
        assert polls(server) == []
        assert (await job).id == job.id


@virtual
async def test_a_standstill_leaves_no_batch_item_in_doubt(tmp_path: Path) -> None:
    """An item whose job ended meanwhile is done."""
    async with plain(seconds=3.0, timeout=4.0) as (doitong, server):
        batch = doitong.generate_many([f"fox {n}" for n in range(3)], ledger=tmp_path / "ledger.db")

        async def block() -> None:
            await asyncio.sleep(1.0)
            stand_still(6.0)

        blocking = asyncio.ensure_future(block())
        assert [item.outcome async for item in batch] == [Outcome.DONE] * 3
        await blocking
        assert len(server.jobs) == 3


@virtual
async def test_updates_follow_a_job_across_a_standstill() -> None:
    """The last snapshot is its end, not a timeout."""
    async with plain(seconds=3.0, timeout=4.0) as (doitong, _):
        job = await doitong.submit("a fox")
        statuses: list[str] = []
        async for update in job.updates():
            if not statuses:
                await asyncio.sleep(0)
                stand_still(6.0)
            statuses.append(str(update.status))
        assert statuses == ["processing", "completed"]


@virtual
async def test_a_slot_that_expired_meanwhile_is_kept_until_the_next_poll(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client sees the job end, although nobody awaits it, instead of dropping it."""
    caplog.set_level(logging.WARNING)
    async with plain(seconds=30.0, slot_expiry=60.0) as (doitong, _):
        job = await doitong.submit("a fox")
        await asyncio.sleep(1)
        stand_still(100.0)
        await asyncio.sleep(1)
        assert job.status == "completed"
        assert "was not seen to end" not in caplog.text
        stuck = await doitong.submit("never", width=512)
        assert doitong.stats().slots_in_use == 1
        assert [each.id for each in doitong.jobs()] == [stuck.id]


@virtual
async def test_a_late_wait_for_a_young_job_does_not_spin() -> None:
    """A job is not polled in its first 2 s, however late its waiter is; the loop goes on meanwhile."""
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        waiting = asyncio.create_task(job.wait(timeout=0.3))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.skip(0.6)
        with pytest.raises(JobTimeoutError):
            await waiting
        assert (await job).id == job.id
