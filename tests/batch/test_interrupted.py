"""Batches that are interrupted or given odd input: no item is lost, and none is paid for twice."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    Item,
    LedgerError,
    Outcome,
    Plan,
)
from doitong_async.batch import sqlite
from doitong_async.batch.batch import Batch
from doitong_async.batch.item import ItemState
from doitong_async.batch.source import digest_of, spelled
from doitong_async.emulator import Emulator
from doitong_async.limits import admission
from doitong_async.testing import VirtualTimeLoop
from doitong_async.types import GenerateRequest
from tests.strides import offset
from tests.virtual import now, plain, until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
PROMPTS = [f"fox {number}" for number in range(8)]


async def all_of(batch: AsyncIterator[Item]) -> list[Item]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return [item async for item in batch]


def outcomes(items: list[Item]) -> Counter[Outcome]:
    return Counter(item.outcome for item in items)


def states(path: Path) -> Counter[ItemState]:
    with closing(sqlite.reader(path)) as reading:
        return Counter(record.state for record in sqlite.records(reading))


@virtual
async def test_an_item_in_doubt_stays_in_doubt_on_a_day_without_jobs(tmp_path: Path) -> None:
    """Its job was made and the answer lost; the item keeps its idempotency key until it can be resent."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=1, jobs_per_day=1)
    ledger = tmp_path / "l.db"
    async with Emulator(plan="pro", credits=10_000, faults=["submit 1-9: cut-after"]) as emulator:
        for number, prompts in enumerate((["a"], ["b"], ["a", "b"], ["a", "b"])):
            # Each run simulates a new process; the ledger counts the day's jobs.
            admission._LIMITERS.clear()
            async with AsyncDoitong(api_key="k", base_url=emulator.url, plan=plan) as doitong:
                batch = doitong.batch(prompts, ledger=ledger)
                if number == 0:
                    running = asyncio.ensure_future(all_of(batch))
                    await asyncio.sleep(8)
                    running.cancel()
                    await asyncio.wait([running])
                    emulator.faults.clear()
                    assert states(ledger) == {ItemState.INTENT: 1}
                    continue
                items = {item.request.prompt: item for item in await all_of(batch) if item.request}
            if number == 2:
                assert items["a"].outcome in (Outcome.IN_DOUBT, Outcome.DONE)
                await asyncio.sleep(50_000)
        assert {item.outcome for item in items.values()} <= {Outcome.DONE, Outcome.IN_DOUBT}
        assert emulator.world.charges == 2


@virtual
async def test_a_run_does_not_resend_under_an_expired_key(tmp_path: Path) -> None:
    """The machine sleeps for three days in the middle of a submit; its job may exist, so it is not resent."""
    async with with_emulator(WIDE, emulator={"faults": ["submit 1: cut-after"], "keys_honoured": False}) as (
        doitong,
        emulator,
    ):
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        running = asyncio.ensure_future(all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db")))
        await until(lambda: emulator.world.count("submit") == 1)
        loop._epoch += 3 * 86_400
        items = await running
        assert outcomes(items) == {Outcome.IN_DOUBT: 1}
        assert emulator.world.charges == 1


@virtual
async def test_a_key_that_expires_in_the_wait_queue_is_replaced(tmp_path: Path) -> None:
    """No submit under it has made a job, so the item begins again under a new key and is made once."""
    async with with_emulator(WIDE, wait_for_next_day=True, emulator={"faults": ["submit 1: 429-day"]}) as (
        doitong,
        emulator,
    ):
        items = await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db", key_lives=3_600))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1
        keys = {seen.headers["Idempotency-Key"] for seen in emulator.world.seen if seen.kind == "submit"}
        assert len(keys) == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stop", "aclose", "cancel"])
def test_an_interrupt_at_any_step_loses_nothing(how: str, tmp_path: Path) -> None:
    """No intent of an unsent submit is left, and no item is paid for twice."""
    step = 1 + offset(23)
    while _interrupt_at(step, how, tmp_path / str(step)):
        step += 23
    assert step > 60


def _interrupt_at(step: int, how: str, folder: Path) -> bool:
    folder.mkdir()
    was_running = []

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, emulator):
            batch = doitong.batch(PROMPTS, ledger=folder / "l.db", budget=1_000)
            running = asyncio.ensure_future(all_of(batch))
            for _ in range(step):
                await asyncio.sleep(0)
                # Time advances too, so that the steps cover the whole batch.
                if _ % 20 == 19:
                    await asyncio.sleep(1)
            was_running.append(not running.done())
            if how == "stop":
                batch.stop()
                items = await running
                assert outcomes(items)[Outcome.DONE] == emulator.world.charges
                assert set(outcomes(items)) <= {Outcome.DONE, Outcome.SKIPPED}
            else:
                running.cancel() if how == "cancel" else await batch.aclose()
                await asyncio.gather(running, return_exceptions=True)
                await batch.aclose()
            if (folder / "l.db").exists():
                # Each recorded submit reached the service, and its answer is recorded too.
                assert states(folder / "l.db")[ItemState.INTENT] == 0
            made = emulator.world.charges
            items = await all_of(doitong.generate_many(PROMPTS, ledger=folder / "l.db", budget=1_000))
            assert outcomes(items) == {Outcome.DONE: 8}
            assert made <= emulator.world.charges == 8

    test()
    shutil.rmtree(folder)
    return was_running[0]


@virtual
async def test_stop_cancels_the_wait_for_the_next_day(tmp_path: Path) -> None:
    """No job is made after it, and the loop ends now instead of in a day."""
    faults = ["submit: 429-day"]
    async with with_emulator(WIDE, wait_for_next_day=True, emulator={"faults": faults}) as (
        doitong,
        emulator,
    ):
        batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db")
        running = asyncio.ensure_future(all_of(batch))
        await asyncio.sleep(60)
        batch.stop()
        items = await running
        assert now() < 70
        assert set(outcomes(items)) == {Outcome.SKIPPED}
        assert emulator.world.charges == 0
        assert states(tmp_path / "l.db")[ItemState.INTENT] == 0


@virtual
async def test_stop_before_the_start_submits_nothing() -> None:
    """It works while the ledger opens, or earlier."""
    async with with_emulator(WIDE) as (doitong, emulator):
        batch = doitong.batch(PROMPTS)
        batch.stop()
        assert await all_of(batch) == []
        assert emulator.world.count("submit") == 0


@pytest.mark.slow
@virtual
async def test_stop_keeps_finished_items_done(tmp_path: Path) -> None:
    """Items whose files are being hashed stay done."""
    async with with_emulator(WIDE) as (doitong, _):
        await all_of(doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db", out=tmp_path))
        batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db", out=tmp_path, verify=True)
        running = asyncio.ensure_future(all_of(batch))
        await until(lambda: batch._flight.tasks)
        batch.stop()
        assert set(outcomes(await running)) == {Outcome.DONE}


@virtual
async def test_a_batch_allows_one_loop() -> None:
    """Two loops over it at once would pay twice."""
    async with with_emulator(WIDE) as (doitong, emulator):
        batch = doitong.batch(PROMPTS)
        results = await asyncio.gather(all_of(batch), all_of(batch), return_exceptions=True)
        assert [type(each) for each in results] == [list, ConfigurationError]
        async with doitong.batch(PROMPTS) as shared:
            items = await asyncio.gather(*(anext(shared) for _ in PROMPTS))
            assert len({item.number for item in items}) == 8
            assert [item async for item in shared] == [item async for item in shared] == []
        assert emulator.world.charges == 16


@pytest.mark.parametrize("steps", range(6))
def test_closing_during_the_start_releases_the_ledger(steps: int, tmp_path: Path) -> None:
    """Another batch can use it at once."""

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, _):
            batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db")
            running = asyncio.ensure_future(all_of(batch))
            for _ in range(steps):
                await asyncio.sleep(0)
            await batch.aclose()
            await asyncio.wait([running])
            assert isinstance(running.exception(), ClientClosedError | ConfigurationError)
            assert outcomes(await all_of(doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db"))) == {
                Outcome.DONE: 8
            }

    test()


@virtual
async def test_an_async_generator_is_closed_with_its_batch() -> None:
    """Its cleanup runs when the batch is left."""
    closed = []

    async def prompts() -> AsyncIterator[str]:
        try:
            for prompt in PROMPTS * 10:
                yield prompt
        finally:
            closed.append(True)

    async with with_emulator(WIDE) as (doitong, _):
        batch = doitong.batch(prompts())
        async with batch:
            async for _ in batch:
                break
        assert closed


@pytest.mark.parametrize("cost", ["-1000", "1e999", "NaN", "1" + "0" * 30, '"much"', "null"])
def test_an_invalid_cost_counts_as_the_highest(cost: str, tmp_path: Path) -> None:
    """The most that the job may cost is counted instead; no false cost makes the budget larger."""

    def rewrite(_: bytes, honest: bytes | None) -> bytes | None:
        head, _, body = (honest or b"").partition(b"\r\n\r\n")
        body = re.sub(rb'"creditCost": *[0-9]+', b'"creditCost": ' + cost.encode(), body)
        head = re.sub(rb"(?i)content-length: *[0-9]+", b"Content-Length: %d" % len(body), head)
        return head + b"\r\n\r\n" + body

    @virtual
    async def test() -> None:
        async with plain(WIDE) as (doitong, server):
            server.rewrite = rewrite
            for _ in range(2):
                batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db", budget=100)
                items = await all_of(batch)
                assert batch.progress().spent <= 100
            assert outcomes(items)[Outcome.DONE] == len(server.jobs) == 5

    test()


@virtual
async def test_a_resumed_run_uses_its_budget_like_an_uninterrupted_one(tmp_path: Path) -> None:
    """A resumed item may cost less than its reservation, and the next item waits for the difference."""
    async with with_emulator(WIDE) as (doitong, _):
        cost = (await doitong.generate("a fox")).credit_cost or 0
        for number in range(2):
            ledger = tmp_path / f"{number}.db"
            batch = doitong.batch(PROMPTS, ledger=ledger, budget=3 * cost + 20)
            if number:
                running = asyncio.ensure_future(all_of(batch))
                await asyncio.sleep(1)
                running.cancel()
                await asyncio.wait([running])
                batch = doitong.batch(PROMPTS, ledger=ledger, budget=3 * cost + 20)
            items = await all_of(batch)
            done = outcomes(items)[Outcome.DONE]
            assert (done + 1) * cost + 20 > 3 * cost + 20 >= done * cost


@virtual
async def test_a_mapping_is_not_a_list_of_requests() -> None:
    """Otherwise each of its keys would become a paid job."""
    async with with_emulator(WIDE) as (doitong, _):
        with pytest.raises(BadRequestError, match="dict"):
            doitong.generate_many({"prompt": "a fox", "width": 512})


@virtual
async def test_text_that_cannot_be_encoded_is_rejected() -> None:
    """One bad item never ends the batch."""
    given: list[Any] = [{"prompt": "a", "provider": "\ud83d"}, {"prompt": "a", "quality": "\ud83d"}, "fox"]
    async with with_emulator(WIDE) as (doitong, _):
        items = await all_of(doitong.generate_many(given))
        assert outcomes(items) == {Outcome.REJECTED: 2, Outcome.DONE: 1}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_given_key_that_equals_a_generated_key_is_a_duplicate(is_first: bool) -> None:
    """The second of the two items is rejected, whichever it is."""

    @virtual
    async def test() -> None:
        request = GenerateRequest(prompt="fox").with_defaults(provider="flux-pro", width=None, height=None)
        own = {"prompt": "whale", "key": digest_of(spelled(request))[:16]}
        async with with_emulator(WIDE) as (doitong, _):
            given: list[Any] = [own, "fox"] if is_first else ["fox", own]
            items = await all_of(doitong.generate_many(given))
            assert {item.number: item.outcome for item in items} == {1: Outcome.DONE, 2: Outcome.REJECTED}

    test()


@virtual
async def test_a_foreign_file_is_never_overwritten(tmp_path: Path) -> None:
    """A run without a ledger, or with another ledger, picks another name in the same folder."""
    (tmp_path / "fox.png").write_bytes(b"a photograph")
    given = [{"prompt": "a fox", "key": "fox"}]
    async with with_emulator(WIDE) as (doitong, _):
        files = []
        for ledger in (None, None, tmp_path / "one.db", tmp_path / "two.db", tmp_path / "two.db"):
            (item,) = await all_of(doitong.generate_many(given, ledger=ledger, out=tmp_path))
            assert item.file is not None
            files.append(item.file.name)
        assert files == ["fox.2.jpg", "fox.3.jpg", "fox.4.jpg", "fox.5.jpg", "fox.5.jpg"]
        assert (tmp_path / "fox.png").read_bytes() == b"a photograph"


@virtual
async def test_a_ledger_has_one_lock_under_every_name(tmp_path: Path) -> None:
    """A symbolic link does not get around it."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "l.db")
    async with with_emulator(WIDE) as (doitong, _), doitong.batch(["a"], ledger=tmp_path / "l.db") as first:
        await anext(first)
        with pytest.raises(LedgerError, match="in use"):
            await all_of(doitong.generate_many(["a"], ledger=tmp_path / "elsewhere" / "link.db"))


@virtual
async def test_a_ledger_that_is_moved_stops_the_batch(tmp_path: Path) -> None:
    """The batch submits nothing more that the next run would not know of."""
    async with with_emulator(WIDE) as (doitong, emulator):
        items: list[Item] = []
        async for item in doitong.generate_many([f"fox {n}" for n in range(40)], ledger=tmp_path / "l.db"):
            if not items:
                (tmp_path / "l.db").rename(tmp_path / "moved.db")
            items.append(item)
        assert any(isinstance(item.error, LedgerError) for item in items)
        assert emulator.world.charges <= 3 * WIDE.concurrent_jobs
