"""A batch whose coordinator goes away: it waits for minutes, then stops; nothing is lost or paid twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from doitong_async import CoordinatorError, Item, Outcome, Plan
from doitong_async.batch.ledger import Ledger
from doitong_async.batch.worker import OUTAGE
from doitong_async.emulator import Emulator
from tests.batch.test_runner import all_of, outcomes
from tests.fake_redis import FakeRedisServer
from tests.virtual import now, seen, until, virtual, with_emulator

pytestmark = pytest.mark.slow

PLAN = Plan.enterprise(requests_per_minute=600, concurrent_jobs=4)
PROMPTS = [f"fox {number}" for number in range(40)]


async def made_jobs(emulator: Emulator, count: int) -> None:
    """Wait until so many jobs were made."""
    while emulator.world.charges < count:  # noqa: ASYNC110 - the count is at a server, which sets no event
        await asyncio.sleep(0.1)


async def away(redis: FakeRedisServer, seconds: float) -> None:
    """Kill Redis, and start it with nothing in it."""
    redis.kill()
    await asyncio.sleep(seconds)
    redis.start()


@pytest.mark.parametrize("seconds", [30.0, 300.0])
def test_a_batch_survives_an_absence(seconds: float, tmp_path: Path) -> None:
    """Half a minute is waited out where each item is; after five minutes each asks once more."""

    @virtual
    async def run() -> None:
        redis = FakeRedisServer()
        async with with_emulator(PLAN, coordinator=redis.client()) as (doitong, emulator):
            items = asyncio.create_task(all_of(doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db")))
            await made_jobs(emulator, 10)
            await away(redis, seconds)
            assert outcomes(await items) == {Outcome.DONE: 40}
            assert emulator.world.charges == 40

    run()


@virtual
async def test_an_endless_absence_stops_the_batch(tmp_path: Path) -> None:
    """Jobs that ran are done, all others are skipped at once, and the next run makes them."""
    redis = FakeRedisServer()
    async with with_emulator(PLAN, coordinator=redis.client()) as (doitong, emulator):
        batch = doitong.batch(PROMPTS, ledger=tmp_path / "l.db")
        running = asyncio.create_task(all_of(batch))
        await made_jobs(emulator, 10)
        redis.kill()
        began, made = now(), emulator.world.charges
        items = await running
        assert OUTAGE < now() - began < OUTAGE + 200
        assert outcomes(items) == {Outcome.DONE: made, Outcome.SKIPPED: 40 - made}
        assert isinstance(batch.progress().stopped, CoordinatorError)
        skipped = [item for item in items if item.outcome is Outcome.SKIPPED]
        assert all(isinstance(item.error, CoordinatorError) for item in skipped)
        assert "Nothing was sent for this item" in str(skipped[-1].error)
        with Ledger.read(tmp_path / "l.db") as ledger:
            assert sum(1 for _ in ledger.records()) == made
        redis.start()
        assert outcomes(await all_of(doitong.generate_many(PROMPTS, ledger=tmp_path / "l.db"))) == {
            Outcome.DONE: 40
        }
        assert emulator.world.charges == 40


@virtual
async def test_a_submit_in_doubt_stays_in_doubt(tmp_path: Path) -> None:
    """It may have made a job, so it is none of the skipped; the next run sends it under the same key."""
    redis = FakeRedisServer()
    faults = ["submit 1-3: cut-after"]
    async with with_emulator(PLAN, coordinator=redis.client(), emulator={"faults": faults}) as (
        doitong,
        emulator,
    ):
        batch = doitong.batch(["a fox"], ledger=tmp_path / "l.db")
        running = asyncio.create_task(all_of(batch))
        await until(lambda: emulator.world.count("submit") == 1)
        redis.kill()
        (item,) = await running
        assert item.outcome is Outcome.IN_DOUBT
        assert isinstance(batch.progress().stopped, CoordinatorError)
        redis.start()
        (again,) = await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db"))
        assert again.outcome is Outcome.DONE
        assert emulator.world.charges == 1
        assert len({request.headers["Idempotency-Key"] for request in seen(emulator, "submit")}) == 1


@virtual
async def test_an_item_that_was_rejected_for_its_plan_is_skipped(tmp_path: Path) -> None:
    """Its intent is on disk, but a 429 says that no job was made."""
    redis = FakeRedisServer()
    rules: dict[str, Any] = {"faults": ["submit: 429-minute"]}
    async with with_emulator(PLAN, coordinator=redis.client(), emulator=rules) as (doitong, emulator):
        running = asyncio.create_task(all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db")))
        await until(lambda: emulator.world.count("submit") == 1)
        redis.kill()
        emulator.faults.clear()
        items: list[Item] = await running
        assert outcomes(items) == {Outcome.SKIPPED: 1}
        redis.start()
        items = await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1
