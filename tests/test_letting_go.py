"""Clients, batches and downloads end in every order, and the next may begin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import nullcontext
from pathlib import Path

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    ClientClosedError,
    ConfigurationError,
    DownloadError,
    Item,
    Outcome,
    Plan,
)
from doitong_async.batch.batch import Batch
from doitong_async.batch.ledger import LedgerFile
from doitong_async.emulator import Emulator
from doitong_async.files import Part, write_whole
from doitong_async.testing import run_virtual
from tests.virtual import now, until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
PROMPTS = [f"fox {number}" for number in range(6)]


async def outcomes_of(batch: AsyncIterator[Item]) -> set[Outcome]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return {item.outcome async for item in batch}


# Downloads


@virtual
async def test_closing_a_client_ends_its_downloads_at_once(tmp_path: Path) -> None:
    """Nobody will read the rest of the bytes."""
    async with with_emulator(WIDE, emulator={"faults": ["output: slow 30"]}) as (doitong, emulator):
        result = await doitong.generate("fox")
        saving = asyncio.create_task(result.save(tmp_path / "fox.jpg"))
        await until(lambda: emulator.world.count("output"))
        await asyncio.sleep(1)
        before = now()
        await doitong.aclose()
        with pytest.raises(ClientClosedError):
            await saving
        assert now() - before < 1
        assert list(tmp_path.iterdir()) == []


@virtual
async def test_closing_a_users_session_ends_its_downloads(tmp_path: Path) -> None:
    """aiohttp then drops its own timer and wakes nobody."""
    slow = {"faults": ["output: slow 30"]}
    async with (
        aiohttp.ClientSession() as session,
        with_emulator(WIDE, emulator=slow, session=session) as (doitong, emulator),
    ):
        result = await doitong.generate("fox")
        saving = asyncio.create_task(result.save(tmp_path / "fox.jpg"))
        await until(lambda: emulator.world.count("output"))
        await asyncio.sleep(1)
        await session.close()
        with pytest.raises(DownloadError, match="session that was given is closed"):
            await saving


def test_the_end_of_the_loop_waits_for_the_writer_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread left alone would make a file that nobody removes."""
    begun, may_go_on = threading.Event(), threading.Event()
    usual = Part.open

    def slowly(part: Part) -> None:
        begun.set()
        assert may_go_on.wait(300)
        usual(part)

    monkeypatch.setattr(Part, "open", slowly)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"

    async def main() -> None:
        tasks.append(asyncio.create_task(write_whole(tmp_path / "fox.jpg", chunks())))
        await asyncio.to_thread(begun.wait)
        # Cancels all tasks later than the loop itself does at its end.
        asyncio.get_running_loop().call_later(0.05, may_go_on.set)

    tasks: list[asyncio.Task[object]] = []
    asyncio.run(main())
    assert tasks[0].cancelled()
    assert list(tmp_path.iterdir()) == []


# Batches


@virtual
async def test_a_batch_on_a_closed_client_sends_nothing() -> None:
    """Not even while the session, the user's own, is still open."""
    async with (
        aiohttp.ClientSession() as session,
        with_emulator(WIDE, session=session) as (doitong, emulator),
    ):
        batch = doitong.batch(PROMPTS)
        await doitong.aclose()
        with pytest.raises(ClientClosedError):
            await outcomes_of(batch)
        assert emulator.world.count("submit") == 0


@virtual
async def test_a_batch_left_by_break_can_start_again_at_once(tmp_path: Path) -> None:
    """It waits for the ledger while the first run reads a late answer."""
    async with with_emulator(WIDE, emulator={"faults": ["submit 3: latency 3"]}) as (doitong, emulator):
        async for _ in doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db"):
            break
        assert await outcomes_of(doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db")) == {Outcome.DONE}
        assert emulator.world.charges == len(PROMPTS)


@pytest.mark.parametrize("how", ["break", "stop twice", "client closed"])
def test_a_source_can_clean_up(how: str) -> None:
    """Nothing cuts off its `finally`, which awaits, however the caller leaves the batch."""
    said: list[str] = []

    async def source() -> AsyncIterator[str]:
        try:
            while True:
                yield "fox"
        finally:
            await asyncio.sleep(1)
            said.append("in order")

    @virtual
    async def leaves() -> None:
        async with with_emulator(WIDE) as (doitong, _):
            batch = doitong.batch(source())
            async with batch:
                async for _ in batch:
                    if how == "break":
                        break
                    if how == "client closed":
                        await doitong.aclose()
                        break
                    batch.stop()
                    await asyncio.sleep(0.1)

    leaves()
    assert said == ["in order"]


@virtual
async def test_a_cancelled_source_does_not_count_as_read() -> None:
    """One of its own requests was cancelled, so more items were to come."""

    async def source() -> AsyncIterator[str]:
        yield "fox"
        raise asyncio.CancelledError

    async with with_emulator(WIDE) as (doitong, _):
        with pytest.raises(asyncio.CancelledError):
            await outcomes_of(doitong.generate_many(source()))


@virtual
async def test_a_batch_stays_on_the_loop_of_its_client() -> None:
    """Iterating it on another loop is an error; `stop` may come from any thread."""
    async with with_emulator(WIDE) as (doitong, emulator):
        batch = doitong.batch(PROMPTS)

        def elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(outcomes_of(batch))

        await asyncio.to_thread(elsewhere)
        assert emulator.world.count("submit") == 0
        taking = asyncio.create_task(outcomes_of(batch))
        await until(lambda: emulator.world.count("submit"))
        await asyncio.to_thread(batch.stop)
        assert Outcome.SKIPPED in await taking


def test_an_interrupt_while_a_batch_closes_frees_its_ledger(tmp_path: Path) -> None:
    """The user presses Ctrl-C twice, the second time while the batch waits for a late answer."""

    async def main() -> None:
        async with (
            Emulator("pro", faults=["submit: latency 60"]) as emulator,
            AsyncDoitong(api_key="k", base_url=emulator.url, plan=WIDE) as doitong,
        ):
            batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db")
            taking = asyncio.create_task(outcomes_of(batch))
            await until(lambda: emulator.world.count("submit"))
            taking.cancel()
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_soon(_interrupt)
            await asyncio.sleep(60)

    async def again() -> None:
        await (await LedgerFile.open(tmp_path / "l.db", service="an emulator")).close()

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())
    run_virtual(again())


def _interrupt() -> None:
    raise KeyboardInterrupt


# Clients


@virtual
async def test_a_slot_left_by_a_closed_client_is_free_when_its_job_ends() -> None:
    """The next client on the key resumes the job and takes no second slot for it."""
    one = Plan.enterprise(requests_per_minute=600, concurrent_jobs=1)
    async with with_emulator(one, emulator={"durations": 5.0}) as (doitong, emulator):
        token = (await doitong.submit("fox")).token
        await doitong.aclose()
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=one) as again:
            await again.job(token)
            before = now()
            await again.generate("another fox")
            assert now() - before < 10


@virtual
async def test_draining_and_closing_at_once_close_once() -> None:
    """The draining caller finds the client closed, and nothing is raised."""
    async with with_emulator(WIDE) as (doitong, _):
        await doitong.submit("fox")
        draining = asyncio.create_task(doitong.aclose(drain=60))
        await asyncio.sleep(0.2)
        await doitong.aclose()
        await draining
        assert repr(doitong).endswith("closed>")


@virtual
async def test_a_cancelled_drain_leaves_nothing_behind() -> None:
    """It leaves no task and no unread exception, which `virtual` would report."""
    async with with_emulator(WIDE) as (doitong, _):
        await doitong.submit("fox")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await doitong.aclose(drain=60)
