"""The ledger on disk: what it keeps, whom it admits, and what it rejects without changing it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from doitong_async import AsyncDoitong, ConfigurationError, JobFailedError, Ledger, LedgerError
from doitong_async.batch import promises, sqlite
from doitong_async.batch.item import ItemRecord, ItemState
from doitong_async.batch.ledger import LedgerFile, _Writer
from doitong_async.files import SavedFile
from tests.virtual import virtual


async def opened(path: Path, service: str = "https://api.doitong.com") -> LedgerFile:
    return await LedgerFile.open(path, service=service)


async def begin(ledger: LedgerFile, key: str = "k", **changed: Any) -> None:
    usual = {
        "attempt": 0,
        "digest": "d",
        "request": "{}",
        "idempotency_key": "i",
        "body": '{"query": "q"}',
        "file": "k",
        "reserved": 20.0,
        "at": 1.0,
    }
    await ledger.begin(key, **{**usual, **changed})


async def accept(ledger: LedgerFile, key: str = "k", **changed: Any) -> None:
    usual = {"attempt": 1, "job_id": "j", "status": "processing", "cost": 15.0, "at": 2.0, "day": 7}
    await ledger.accept(key, **{**usual, **changed})


async def end(ledger: LedgerFile, key: str = "k", **changed: Any) -> None:
    usual = {"attempt": 1, "before": ItemState.SUBMITTED, "state": ItemState.DONE, "ended_at": 8.0}
    await ledger.end(key, **{**usual, **changed})


def note(ledger: LedgerFile, key: str = "k", **changed: Any) -> None:
    usual = {
        "attempt": 1,
        "before": ItemState.SUBMITTED,
        "state": ItemState.SUBMITTED,
        "cost": None,
        "url": None,
    }
    ledger.note(key, **{**usual, **changed})


def read(path: Path) -> list[ItemRecord]:
    with closing(sqlite.reader(path)) as reading:
        return list(sqlite.records(reading))


@virtual
async def test_an_item_from_its_intent_to_its_end(tmp_path: Path) -> None:
    """The next process that opens the ledger finds each step."""
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    assert ledger.find("k") == read(tmp_path / "l.db")[0]
    assert [record.key for record in ledger.seen().records(unsettled=True)] == ["k"]
    await accept(ledger)
    note(ledger, status="completed", cost=17.0, url="u", at=7.5)
    await end(ledger, written=SavedFile(Path("k.jpg"), 3, "s"))
    await ledger.close()
    (record,) = read(tmp_path / "l.db")
    assert (record.state, record.job_id, record.cost, record.url) == (ItemState.DONE, "j", 17.0, "u")
    assert (record.file, record.length, record.sha256, record.seconds) == ("k.jpg", 3, "s", 6.0)
    with closing(sqlite.reader(tmp_path / "l.db")) as reading:
        assert sqlite.statuses(reading, record.number) == [(1, "processing", 2.0), (1, "completed", 7.5)]
        assert sqlite.made_on(reading, 7) == 1
        assert sqlite.totals(reading) == sqlite.LedgerTotals({ItemState.DONE: 1}, 17.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.db", "l.db.lock"]


@virtual
async def test_a_change_must_follow_the_recorded_state(tmp_path: Path) -> None:
    """Begun twice, accepted without an intent, ended in another attempt: an error, and nothing changes."""
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    before = read(tmp_path / "l.db")
    for change in (
        begin(ledger),
        begin(ledger, attempt=1),
        end(ledger),
        accept(ledger, attempt=2),
        accept(ledger, "other"),
        end(ledger, before=ItemState.INTENT, attempt=2),
    ):
        with pytest.raises(LedgerError, match="changed it"):
            await change
    assert read(tmp_path / "l.db") == before
    with closing(sqlite.reader(tmp_path / "l.db")) as reading:
        assert sqlite.made_on(reading, 7) == 0
    await ledger.close()


@virtual
async def test_a_rejected_change_does_not_affect_the_others_of_its_group(tmp_path: Path) -> None:
    """One commit writes all of them."""
    ledger = await opened(tmp_path / "l.db")
    results = await asyncio.gather(
        begin(ledger, "a"), accept(ledger, "nobody"), begin(ledger, "b"), return_exceptions=True
    )
    assert [type(each) for each in results] == [type(None), LedgerError, type(None)]
    assert [record.key for record in read(tmp_path / "l.db")] == ["a", "b"]
    await ledger.close()


@virtual
async def test_earlier_attempts_count_as_spent(tmp_path: Path) -> None:
    """The cost of a failed attempt adds to the next one's; a withdrawn intent costs nothing."""
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    await accept(ledger)
    await end(ledger, state=ItemState.FAILED, error=JobFailedError("no"))
    await begin(ledger, attempt=1, idempotency_key="second")
    assert ledger.seen().totals().spent == 15.0 + 20.0
    await end(ledger, attempt=2, before=ItemState.INTENT, state=ItemState.OPEN)
    assert ledger.seen().totals().spent == 15.0
    record = ledger.find("k")
    assert record is not None
    assert (record.attempt, record.idempotency_key, record.job_id) == (2, "second", None)
    await ledger.close()


@virtual
async def test_closing_right_after_reading_uses_each_connection_on_its_own_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite crashes a process in which one thread closes a connection while another ends its reading."""
    used: dict[str, set[int]] = {"reader": set(), "writer": set()}

    class Watched(sqlite3.Connection):
        role = "writer"

        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            self.role = "reader" if "query_only" in statement else self.role
            used[self.role].add(threading.get_ident())
            return super().execute(statement, *values)

        def close(self) -> None:
            used[self.role].add(threading.get_ident())
            super().close()

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Watched))
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    assert ledger.find("k") is not None
    await ledger.close()
    await asyncio.sleep(0)
    assert used["reader"] == {threading.get_ident()}
    assert len(used["writer"]) == 1
    assert used["writer"] != used["reader"]


@pytest.mark.slow
@virtual
async def test_a_reading_process_leaves_the_log_in_place(tmp_path: Path) -> None:
    """If the writer had lost its file lock, the reader would close the ledger like its last user.

    Then SQLite removes the log, the batch writes to a file without a name, and a kill loses what it wrote.
    """
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger, "before")
    assert ledger.find("before") is not None
    assert await asyncio.to_thread(keys_in_another_process, tmp_path / "l.db") == ["before"]
    await begin(ledger, "after")
    assert (tmp_path / "l.db-wal").exists()
    assert await asyncio.to_thread(keys_in_another_process, tmp_path / "l.db") == ["before", "after"]
    await ledger.close()


def keys_in_another_process(path: Path) -> list[str]:
    """Return the keys that another process reads in a ledger."""
    code = (
        "import sys, pathlib, contextlib; from doitong_async.batch import sqlite\n"
        "with contextlib.closing(sqlite.reader(pathlib.Path(sys.argv[1]))) as reading:\n"
        "    print(*(entry.key for entry in sqlite.records(reading)))"
    )
    return subprocess.check_output([sys.executable, "-c", code, path], encoding="utf-8").split()


@virtual
async def test_only_an_intent_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group with an intent commits with synchronous=FULL: one fsync for all of its intents."""
    levels: list[int] = []
    commit = _Writer.commit

    def watched(writer: Any, group: Any) -> Any:
        outcome = commit(writer, group)
        levels.append(writer._connection.execute("PRAGMA synchronous").fetchone()[0])
        return outcome

    monkeypatch.setattr(_Writer, "commit", watched)
    ledger = await opened(tmp_path / "l.db")
    await asyncio.gather(*(begin(ledger, f"k{number}") for number in range(10)))
    await accept(ledger, "k1")
    await end(ledger, "k1")
    await ledger.close()
    assert levels == [2, 1, 1]


@virtual
async def test_closing_writes_the_notes(tmp_path: Path) -> None:
    """A note waits for the next group, and closing must not lose it."""
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    await accept(ledger)
    note(ledger, status="running", at=3.0)
    await ledger.close()
    assert read(tmp_path / "l.db")[0].status == "running"


@virtual
async def test_a_ledger_admits_one_batch(tmp_path: Path) -> None:
    """A second batch is rejected, even in this process; a reader is not."""
    ledger = await opened(tmp_path / "l.db")
    with pytest.raises(LedgerError, match="in use by another batch"):
        await opened(tmp_path / "l.db")
    assert read(tmp_path / "l.db") == []
    await ledger.close()
    await (await opened(tmp_path / "l.db")).close()


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    """A ledger is rejected while another process has it, and opens after that process is killed."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from doitong_async.batch.ledger import LedgerFile\n"
        "async def main():\n"
        "    await LedgerFile.open(pathlib.Path(sys.argv[1]), service='s')\n"
        "    print('open', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "l.db"
    arguments = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(LedgerError, match="in use"):
            asyncio.run(opened(path, "s"))
        process.kill()

    async def again() -> None:
        await (await opened(path, "s")).close()

    asyncio.run(again())


@virtual
async def test_a_ledger_belongs_to_one_service(tmp_path: Path) -> None:
    """No other service knows its jobs."""
    await (await opened(tmp_path / "l.db", "https://one.example")).close()
    with pytest.raises(LedgerError, match=r"one\.example"):
        await opened(tmp_path / "l.db", "https://two.example")


def complete_ledger(tmp_path: Path) -> bytes:
    """Return the bytes of a ledger with 300 items."""

    async def make() -> None:
        ledger = await opened(tmp_path / "complete.db")
        await asyncio.gather(*(begin(ledger, f"k{number}", request="x" * 300) for number in range(300)))
        await ledger.close()

    asyncio.run(make())
    return (tmp_path / "complete.db").read_bytes()


@pytest.mark.parametrize(
    "damage", ["text", "cut", "scribbled", "version", "another program's", "half a header"]
)
def test_a_damaged_ledger_is_rejected_and_unchanged(damage: str, tmp_path: Path) -> None:
    """A clear error, not a byte changed, and no lock kept."""
    data, path = complete_ledger(tmp_path), tmp_path / "l.db"
    damaged = {
        "text": b"a shopping list, kept under this name for years\n" * 20,
        "cut": data[: len(data) // 2],
        "scribbled": data[:8192] + os.urandom(8192) + data[16384:],
        "version": data[:60] + (9).to_bytes(4, "big") + data[64:],
        "another program's": data[:68] + (1).to_bytes(4, "big") + data[72:],
        "half a header": data[:50],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(LedgerError, match=r"left unchanged|cannot be used"):
        asyncio.run(opened(path))
    assert path.read_bytes() == damaged
    path.unlink()
    asyncio.run(_open_and_close(path))


async def _open_and_close(path: Path) -> None:
    await (await opened(path)).close()


def test_a_ledger_of_version_1_is_rejected_and_unchanged(tmp_path: Path) -> None:
    """Version 1 recorded a missing job in prose only; `version_1.sql` makes such a ledger."""
    path = tmp_path / "l.db"
    with closing(sqlite3.connect(path)) as tool:
        tool.executescript(f"PRAGMA application_id = {sqlite.APPLICATION}; PRAGMA user_version = 1;")
        tool.executescript((Path(__file__).parent / "version_1.sql").read_text())
    before = path.read_bytes()
    for use in (lambda: asyncio.run(opened(path, "an emulator")), lambda: Ledger.read(path)):
        with pytest.raises(LedgerError, match=r"has version 1, .* writes version 2; it was left unchanged"):
            use()
    assert path.read_bytes() == before
    assert not promises.log_of(path).exists()


@virtual
async def test_a_reader_beside_a_batch_has_one_snapshot(tmp_path: Path) -> None:
    """Records, totals, statuses and the service stay as they were when it opened the ledger."""
    ledger = await opened(tmp_path / "l.db")
    await begin(ledger)
    await accept(ledger)
    with Ledger.read(tmp_path / "l.db") as reader:
        await end(ledger)
        await begin(ledger, "later")
        (record,) = reader.records()
        assert (record.state, record.outcome) == (ItemState.SUBMITTED, None)
        assert reader.find("k") == record
        assert reader.statuses(record.number) == [(1, "processing", 2.0)]
        assert reader.totals() == sqlite.LedgerTotals({ItemState.SUBMITTED: 1}, 15.0)
        assert (reader.service, reader.made_on(7)) == ("https://api.doitong.com", 1)
    with Ledger.read(str(tmp_path / "l.db")) as reader:
        assert [record.state for record in reader.records()] == [ItemState.DONE, ItemState.INTENT]
    await ledger.close()


def test_an_empty_file_is_not_a_new_ledger(tmp_path: Path) -> None:
    """A full disk or an aborted copy may have truncated it, and all would be paid for again."""
    (tmp_path / "l.db").touch()
    with pytest.raises(LedgerError, match="is empty: its records are lost"):
        asyncio.run(_open_and_close(tmp_path / "l.db"))
    assert (tmp_path / "l.db").stat().st_size == 0


def test_a_ledger_in_a_read_only_folder_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a mounted backup: reading makes no log file there."""
    asyncio.run(_open_and_close(tmp_path / "l.db"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    before = sorted(tmp_path.iterdir())
    with closing(sqlite.reader(tmp_path / "l.db")) as reading:
        assert list(sqlite.records(reading)) == []
        assert sorted(tmp_path.iterdir()) == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """It is not created."""
    with pytest.raises(LedgerError, match="nowhere"):
        asyncio.run(opened(tmp_path / "nowhere" / "l.db"))
    with pytest.raises(LedgerError, match="no ledger"):
        sqlite.reader(tmp_path / "l.db")


@virtual
@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 254, "file/l.db", "circle/l.db", "a\0b", "\ud800", "folder"]
)
async def test_an_invalid_name_is_a_ledger_error(name: str, tmp_path: Path) -> None:
    """Whatever error the operating system raises for it."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(LedgerError, match="cannot be"):
        await opened(tmp_path / name)
    async with AsyncDoitong(api_key="k") as doitong:
        with pytest.raises(LedgerError, match="cannot be"):
            _ = [item async for item in doitong.generate_many(["a fox"], ledger=tmp_path / name)]
        if name not in ("folder", "x" * 254):
            with pytest.raises(ConfigurationError, match="cannot be written"):
                _ = [item async for item in doitong.generate_many(["a fox"], out=tmp_path / name)]


@virtual
async def test_a_thread_that_cannot_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation that needs it raises its own error, and nothing is left open."""

    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    loop = asyncio.get_running_loop()
    async with AsyncDoitong(api_key="k") as doitong:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(LedgerError, match="can't start new thread"):
            await opened(tmp_path / "l.db")
        with pytest.raises(ConfigurationError, match="can't start new thread"):
            _ = [item async for item in doitong.generate_many(["a fox"], out=tmp_path / "out")]
        monkeypatch.undo()
        # The pool's thread can resolve the name, but no second one can open the ledger.
        await loop.run_in_executor(None, int)
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(LedgerError, match="can't start new thread"):
            await opened(tmp_path / "l.db")
        monkeypatch.undo()
    await (await opened(tmp_path / "l.db")).close()


@virtual
async def test_a_cancelled_opening_releases_the_ledger(tmp_path: Path) -> None:
    """The thread that opens it closes it again."""
    task = asyncio.ensure_future(opened(tmp_path / "l.db"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(1)
    ledger = await opened(tmp_path / "l.db")
    assert list(ledger.seen().records(unsettled=True)) == []
    await ledger.close()


@virtual
async def test_a_full_disk_fails_each_caller_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each caller gets its own error; with space on the disk the ledger continues."""
    ledger = await opened(tmp_path / "l.db")
    with monkeypatch.context() as full:
        full.setattr(sqlite, "_BEGIN_FIRST", "INSERT INTO no_such_table VALUES (:key)")
        results = await asyncio.gather(begin(ledger, "a"), begin(ledger, "b"), return_exceptions=True)
    assert all(isinstance(each, LedgerError) for each in results)
    assert results[0] is not results[1]
    assert read(tmp_path / "l.db") == []
    await begin(ledger, "a")
    await ledger.close()
    assert len(read(tmp_path / "l.db")) == 1
