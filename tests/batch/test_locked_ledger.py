"""Another program holds the ledger's write lock: a backup, or a database editor."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from doitong_async import LedgerError, Outcome, Plan
from doitong_async.batch import locked
from doitong_async.log import log
from tests.virtual import until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt takes ten milliseconds of the wall clock instead of a second; there are as many."""
    monkeypatch.setattr(locked, "EACH", 0.01)


class Editor:
    """Another program: it holds the lock until it is released, on a thread of its own choice."""

    def __init__(self, ledger: Path) -> None:
        self._connection = sqlite3.connect(ledger, isolation_level=None, check_same_thread=False)

    def lock(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


@contextmanager
def warnings_of_a_lock(on_first: threading.Event | None = None) -> Iterator[list[str]]:
    """Collect the warnings about a lock."""
    lines: list[str] = []

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "another program is writing" in record.getMessage():
                lines.append(record.getMessage())
                if on_first is not None:
                    on_first.set()

    handler = Collecting()
    log.logger.addHandler(handler)
    try:
        yield lines
    finally:
        log.logger.removeHandler(handler)


@virtual
async def test_a_lock_is_waited_for_and_said_once(tmp_path: Path) -> None:
    """Every item is done, although the lock was taken in the middle of the batch."""
    ledger, is_said = tmp_path / "run.db", threading.Event()
    async with with_emulator(WIDE) as (doitong, emulator):
        with warnings_of_a_lock(is_said) as lines:
            async with doitong.batch([f"fox {number}" for number in range(12)], ledger=ledger) as batch:
                items = [await anext(batch)]
                with closing(Editor(ledger)) as editor:
                    editor.lock()
                    await until(is_said.is_set)
                    editor.release()
                    items += [item async for item in batch]
        assert [item.outcome for item in items] == [Outcome.DONE] * 12
        assert emulator.world.charges == 12
        assert len(lines) == 1


@virtual
async def test_a_lock_at_the_start_is_waited_for(tmp_path: Path) -> None:
    """Opening a ledger writes, too."""
    ledger, is_said = tmp_path / "run.db", threading.Event()
    async with with_emulator(WIDE) as (doitong, emulator):
        async with doitong.batch(["a fox"], ledger=ledger) as batch:
            assert [item.outcome async for item in batch] == [Outcome.DONE]
        with closing(Editor(ledger)) as editor, warnings_of_a_lock(is_said):
            editor.lock()

            def release() -> None:
                is_said.wait(30)
                editor.release()

            releasing = threading.Thread(target=release)
            releasing.start()
            async with doitong.batch(["a whale"], ledger=ledger) as batch:
                assert [item.outcome async for item in batch] == [Outcome.DONE]
            releasing.join()
        assert is_said.is_set()
        assert emulator.world.charges == 2


@virtual
async def test_a_lock_that_stays_stops_the_batch(tmp_path: Path) -> None:
    """After about a minute the batch says so; the next run continues it, and pays nothing twice."""
    ledger = tmp_path / "run.db"
    prompts = [f"fox {number}" for number in range(12)]
    async with with_emulator(WIDE) as (doitong, emulator):
        with warnings_of_a_lock() as lines:
            async with doitong.batch(prompts, ledger=ledger) as batch:
                items = [await anext(batch)]
                with closing(Editor(ledger)) as editor:
                    editor.lock()
                    items += [item async for item in batch]
                    editor.release()
        assert len(items) == 12
        stopped = batch.progress().stopped
        assert isinstance(stopped, LedgerError)
        assert "for about a minute" in stopped.message
        assert len(lines) == 1
        async with doitong.batch(prompts, ledger=ledger) as again:
            assert [item.outcome async for item in again] == [Outcome.DONE] * 12
        assert emulator.world.charges == 12
