"""A batch that was cancelled while it opened its ledger makes room for the next try."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from doitong_async import AsyncDoitong, Item, LedgerError, Outcome
from doitong_async.batch.batch import Batch
from doitong_async.batch.ledger import _Writer
from tests.virtual import until, virtual, with_emulator


class Slowly:
    """The first ledger opens, and then hesitates until it may go on.

    `asked` counts who found the ledger in use, and asked whether the first batch leaves.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        self.may_go_on = threading.Event()
        self.asked = 0
        usual, is_leaving = _Writer.open, Batch.is_leaving
        first: list[Batch] = []

        def slow(writer: _Writer, service: str) -> None:
            usual(writer, service)
            if not self.is_open.is_set():
                self.is_open.set()
                assert self.may_go_on.wait(30)

        def counted(batch: Batch, ledger: Path) -> bool:
            first.append(batch)
            self.asked += batch is first[0]
            return is_leaving(batch, ledger)

        monkeypatch.setattr(_Writer, "open", slow)
        monkeypatch.setattr(Batch, "is_leaving", counted)


async def run_one(doitong: AsyncDoitong, ledger: Path) -> list[Item]:
    async with doitong.batch(["a fox"], ledger=ledger) as batch:
        return [item async for item in batch]


@virtual
async def test_a_request_that_is_cancelled_and_tried_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second waits for the first, whose ledger it is, however the path is spelled."""
    slowly = Slowly(monkeypatch)
    ledger = tmp_path / "run.db"
    async with with_emulator() as (doitong, emulator):
        first = asyncio.create_task(run_one(doitong, ledger))
        await until(slowly.is_open.is_set)
        first.cancel()
        await asyncio.sleep(0)
        again = asyncio.create_task(run_one(doitong, tmp_path / "folder" / ".." / "run.db"))
        await until(lambda: slowly.asked)
        slowly.may_go_on.set()
        (item,) = await again
        assert item.outcome is Outcome.DONE
        with pytest.raises(asyncio.CancelledError):
            await first
        assert emulator.world.charges == 1
        assert doitong._running().batches == set()


@virtual
async def test_of_many_tries_only_the_last_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is cancelled while it waits for those before it; none waits for one that waits for it."""
    slowly = Slowly(monkeypatch)
    ledger = tmp_path / "run.db"
    async with with_emulator() as (doitong, emulator):
        tries = [asyncio.create_task(run_one(doitong, ledger))]
        await until(slowly.is_open.is_set)
        tries[0].cancel()
        for number in range(1, 4):
            await asyncio.sleep(0)
            tries.append(asyncio.create_task(run_one(doitong, ledger)))
            await until(lambda number=number: slowly.asked >= number)  # type: ignore[misc]  # bound at once
            tries[-1].cancel()
        await asyncio.sleep(0)
        last = asyncio.create_task(run_one(doitong, ledger))
        await until(lambda: slowly.asked >= 4)
        slowly.may_go_on.set()
        (item,) = await last
        assert item.outcome is Outcome.DONE
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert [type(each) for each in outcomes] == [asyncio.CancelledError] * 4
        assert emulator.world.charges == 1


@virtual
async def test_a_batch_that_runs_is_not_waited_for(tmp_path: Path) -> None:
    """It is in use, and says so."""
    async with (
        with_emulator() as (doitong, _),
        doitong.batch(["a fox"], ledger=tmp_path / "run.db"),
    ):
        with pytest.raises(LedgerError, match="in use"):
            await run_one(doitong, tmp_path / "run.db")
