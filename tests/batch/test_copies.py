"""Copies of a ledger, with and without its log: an incomplete one is rejected before a byte is sent."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from doitong_async import BadRequestError, LedgerError, Outcome
from doitong_async.batch import promises, sqlite
from tests.batch.test_ledger import accept, begin, end, opened, read
from tests.batch.test_runner import WIDE, all_of, outcomes
from tests.virtual import virtual, with_emulator

LOST = "without its log"


def copied(path: Path, to: Path, *, log: bool) -> Path:
    """Copy a ledger as `cp` does, with its log or without."""
    to.mkdir()
    for name in (path.name, f"{path.name}-wal") if log else (path.name,):
        if (path.parent / name).exists():
            shutil.copy(path.parent / name, to / name)
    return to / path.name


@contextmanager
def killed(folder: Path, *keys: str) -> Iterator[Path]:
    """Yield the files of a batch that was killed after it began these items."""
    folder.mkdir()

    @virtual
    async def run() -> None:
        ledger = await opened(folder / "live.db")
        for key in keys:
            await begin(ledger, key, idempotency_key=f"i-{key}")
        copied(folder / "live.db", folder / "dead", log=True)
        await ledger.close()

    run()
    yield folder / "dead" / "live.db"


def open_and_close(path: Path) -> list[str]:
    """Open a ledger as a batch does, and return the keys of its items."""

    async def both() -> list[str]:
        ledger = await opened(path)
        keys = [record.key for record in ledger.seen().records(unsettled=True)]
        await ledger.close()
        return keys

    return asyncio.run(both())


def test_the_file_of_a_running_batch_without_its_log_is_rejected(tmp_path: Path) -> None:
    """A batch and a reader both reject it, and not a byte changes."""
    with killed(tmp_path / "a", "one", "two") as path:
        alone = copied(path, tmp_path / "alone", log=False)
        before = alone.read_bytes()
        for use in (open_and_close, read):
            with pytest.raises(LedgerError, match=LOST) as rejected:
                use(alone)
            assert "live.db-wal" in str(rejected.value)
            assert "Nothing was sent" in str(rejected.value)
        assert alone.read_bytes() == before
        # A log that is empty or that SQLite ignores counts as missing.
        log = promises.log_of(path).read_bytes()
        flipped = bytes([*log[:20], log[20] ^ 1, *log[21:]])
        for odd in (b"", bytes(len(log)), log[:100], log[: 32 + 24 + 4_095], b"junk" * 2_000, flipped):
            promises.log_of(alone).write_bytes(odd)
            for use in (open_and_close, read):
                with pytest.raises(LedgerError, match=LOST):
                    use(alone)
        shutil.copy(promises.log_of(path), promises.log_of(alone))
        assert open_and_close(alone) == ["one", "two"]


def by_backup(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)


def by_vacuum(path: Path, to: Path) -> None:
    with closing(sqlite3.connect(path)) as source:
        source.execute("VACUUM INTO ?", (str(to),))


def by_both_files(path: Path, to: Path) -> None:
    shutil.copy(path, to)
    shutil.copy(promises.log_of(path), promises.log_of(to))


def by_moving_the_log_in(path: Path, to: Path) -> None:
    by_both_files(path, to)
    with closing(sqlite3.connect(to)) as tool:
        tool.execute("SELECT * FROM items").fetchall()
    assert not promises.log_of(to).exists()


@pytest.mark.parametrize("copy", [by_backup, by_vacuum, by_both_files, by_moving_the_log_in])
@pytest.mark.parametrize("is_killed", [True, False])
def test_a_complete_copy_is_opened(
    copy: Callable[[Path, Path], None], is_killed: bool, tmp_path: Path
) -> None:
    """Of a running or killed batch, whichever tool made it."""
    (tmp_path / "copies").mkdir()
    if is_killed:
        with killed(tmp_path / "a", "one", "two") as path:
            copy(path, tmp_path / "copies" / "copy.db")
    else:

        @virtual
        async def run() -> None:
            ledger = await opened(tmp_path / "l.db")
            await begin(ledger, "one")
            await begin(ledger, "two")
            await asyncio.to_thread(copy, tmp_path / "l.db", tmp_path / "copies" / "copy.db")
            await ledger.close()

        run()
    assert [record.key for record in read(tmp_path / "copies" / "copy.db")] == ["one", "two"]
    assert open_and_close(tmp_path / "copies" / "copy.db") == ["one", "two"]


def test_reading_the_ledger_of_a_killed_batch_leaves_its_log(tmp_path: Path) -> None:
    """Reading changes nothing in it."""
    with killed(tmp_path / "a", "one") as path:
        before = {file: file.read_bytes() for file in (path, promises.log_of(path))}
        assert [record.key for record in read(path)] == ["one"]
        assert {file: file.read_bytes() for file in before} == before


def test_a_closed_ledger_is_complete_without_a_log(tmp_path: Path) -> None:
    """So is one whose batch did nothing."""
    for _ in range(2):
        open_and_close(tmp_path / "l.db")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["l.db", "l.db.lock"]
        assert read(tmp_path / "l.db") == []


@pytest.mark.parametrize("is_old", ["file", "log"])
def test_a_file_and_a_log_of_different_times_are_rejected(is_old: str, tmp_path: Path) -> None:
    """SQLite would silently apply one to the other."""
    with killed(tmp_path / "a", "one") as path:
        early, late = copied(path, tmp_path / "early", log=True), tmp_path / "late"

    @virtual
    async def run() -> None:
        ledger = await opened(path)
        await begin(ledger, "two")
        copied(path, late, log=True)
        await ledger.close()

    run()
    mixed = tmp_path / "mixed.db"
    shutil.copy(early if is_old == "file" else late / early.name, mixed)
    shutil.copy(promises.log_of(early if is_old == "log" else late / early.name), promises.log_of(mixed))
    before = mixed.read_bytes()
    with pytest.raises(LedgerError, match=r"do not belong together|damaged"):
        open_and_close(mixed)
    assert mixed.read_bytes() == before


def test_a_log_without_its_file_is_rejected(tmp_path: Path) -> None:
    """A new ledger beside it would pay again for what the log knows."""
    with killed(tmp_path / "a", "one") as path:
        path.unlink()
        with pytest.raises(LedgerError, match="log"):
            open_and_close(path)
        assert not path.exists()


@contextmanager
def slow_reader(path: Path) -> Iterator[sqlite3.Connection]:
    """Read a ledger in a transaction that stays open, as a slow reader does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM items").fetchall()
        yield reader


def test_opening_waits_for_a_reader_that_blocks_the_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the error names it; nothing is written before the file says that its log must exist."""
    monkeypatch.setattr(promises, "PATIENCE_AT_FIRST", 0.0)
    open_and_close(tmp_path / "l.db")
    with slow_reader(tmp_path / "l.db"), pytest.raises(LedgerError, match="been reading the ledger"):
        open_and_close(tmp_path / "l.db")
    assert open_and_close(tmp_path / "l.db") == []
    with killed(tmp_path / "a", "one") as path, slow_reader(path):
        # This file says so already, so nothing has to wait.
        assert open_and_close(path) == ["one"]


class SnapshotConnection(sqlite3.Connection):
    """A writer's connection that copies the disk before and after each statement."""

    keep: Callable[[], None] = staticmethod(lambda: None)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        self.keep()
        cursor = super().execute(statement, *values)
        self.keep()
        return cursor

    def close(self) -> None:
        self.keep()
        super().close()


def connect_with_snapshots(connect: Any, path: Any, **more: Any) -> Any:
    """Open a connection, with snapshots if it is the writer's; readers open a URI."""
    is_writers = "uri" not in more and "lock" not in str(path)
    return connect(path, **more, **({"factory": SnapshotConnection} if is_writers else {}))


@pytest.mark.slow
@pytest.mark.parametrize("reads_at", [None, *range(0, 12, 3)])
def test_the_file_alone_never_passes_for_a_complete_ledger(
    reads_at: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any step, a copy is rejected or complete; with its log it always opens.

    A slow reader delays the moves from the log into the file.
    """
    live, kept = tmp_path / "live", tmp_path / "kept"
    live.mkdir()
    kept.mkdir()
    states: dict[tuple[bytes, bytes], None] = {}

    def keep() -> None:
        files = [live / "l.db", live / "l.db-wal"]
        data = [file.read_bytes() if file.exists() else b"" for file in files]
        if data[0]:
            states[data[0], data[1]] = None

    monkeypatch.setattr(promises, "EVERY", 4)
    monkeypatch.setattr(promises, "RETRY", 2)
    monkeypatch.setattr(promises, "PATIENCE", 0.0)
    connect = partial(connect_with_snapshots, sqlite3.connect)

    @virtual
    async def run() -> None:
        ledger = await opened(live / "l.db")
        reader: Any = None
        for number in range(12):
            if number == reads_at:
                reader = slow_reader(live / "l.db")
                reader.__enter__()
            if reads_at is not None and number == reads_at + 5:
                reader.__exit__(None, None, None)
            await begin(ledger, f"k{number}", idempotency_key=f"i{number}")
            await accept(ledger, f"k{number}", job_id=f"j{number}", day=number)
            await end(ledger, f"k{number}")
        if reads_at is not None and reads_at + 5 >= 12:
            reader.__exit__(None, None, None)
        await ledger.close()

    for _ in range(2):
        with monkeypatch.context() as watched:
            watched.setattr(SnapshotConnection, "keep", staticmethod(keep))
            watched.setattr(sqlite3, "connect", connect)
            run()
        (live / "l.db").rename(tmp_path / "first.db")
        shutil.copy(tmp_path / "first.db", live / "l.db")
        with closing(sqlite3.connect(live / "l.db")) as tool, tool:
            tool.execute("DELETE FROM items")
    rejected = check_states(list(states), kept)
    assert len(states) > 80
    assert rejected > 60


def test_only_one_page_moves_at_the_very_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several pages, the one that declares the file complete could move before the others."""
    files: list[bytes] = []
    connect = partial(connect_with_snapshots, sqlite3.connect)
    monkeypatch.setattr(
        SnapshotConnection, "keep", staticmethod(lambda: files.append((tmp_path / "l.db").read_bytes()))
    )

    @virtual
    async def run() -> None:
        with monkeypatch.context() as watched:
            watched.setattr(sqlite3, "connect", connect)
            ledger = await opened(tmp_path / "l.db")
        for number in range(30):
            await begin(ledger, f"k{number}", request="x" * 1_000)
        await ledger.close()

    open_and_close(tmp_path / "l.db")
    run()
    before, after = files[-1], (tmp_path / "l.db").read_bytes()
    assert len(before) == len(after) > 10 * 4096
    pages = range(0, len(after), 4096)
    assert sum(before[page : page + 4096] != after[page : page + 4096] for page in pages) == 1


def check_states(states: list[tuple[bytes, bytes]], folder: Path) -> int:
    """Assert that each moment's copies show all or nothing; return how many files alone were rejected."""
    rejected = 0
    for number, (file, log) in enumerate(states):
        place = folder / str(number)
        place.mkdir()
        (place / "alone.db").write_bytes(file)
        (place / "both.db").write_bytes(file)
        if log:
            (place / "both.db-wal").write_bytes(log)
        whole = read(place / "both.db")
        try:
            alone = read(place / "alone.db")
        except LedgerError:
            rejected += 1
        else:
            assert alone == whole
        sqlite._check(place / "both.db")
        shutil.rmtree(place)
    return rejected


# A batch on a copy


@pytest.mark.slow
@virtual
async def test_a_copy_without_its_log_pays_for_nothing_again(tmp_path: Path) -> None:
    """It is rejected; with its log beside it, the batch continues."""
    prompts = [f"fox {number}" for number in range(8)]
    async with with_emulator(WIDE) as (doitong, emulator):
        async for item in doitong.generate_many(prompts, ledger=tmp_path / "run.db", out=tmp_path / "out"):
            if item.number == 4:
                alone = copied(tmp_path / "run.db", tmp_path / "copy", log=False)
                log = promises.log_of(tmp_path / "run.db").read_bytes()
        made = emulator.world.charges
        with pytest.raises(LedgerError, match=LOST):
            await all_of(doitong.generate_many(prompts, ledger=alone, out=tmp_path / "out"))
        assert emulator.world.charges == made == 8
        promises.log_of(alone).write_bytes(log)
        items = await all_of(doitong.generate_many(prompts, ledger=alone, out=tmp_path / "other"))
        assert outcomes(items)[Outcome.DONE] >= 4
        assert emulator.world.charges < 16


@pytest.mark.slow
@virtual
async def test_a_picture_unknown_to_an_older_ledger_is_not_paid_for_again(tmp_path: Path) -> None:
    """Its file exists, so the item is rejected; known items are done, and new ones are made."""
    prompts: list[Any] = ["a", {"prompt": "b", "key": "own"}, "c"]
    out, ledger = tmp_path / "out", tmp_path / "l.db"
    async with with_emulator(WIDE) as (doitong, emulator):
        await all_of(doitong.generate_many(prompts[:1], ledger=ledger, out=out))
        shutil.copy(ledger, tmp_path / "older.db")
        await all_of(doitong.generate_many(prompts, ledger=ledger, out=out))
        assert emulator.world.charges == 3
        items = await all_of(doitong.generate_many([*prompts, "d"], ledger=tmp_path / "older.db", out=out))
        by_number = {item.number: item for item in items}
        ends = [by_number[number].outcome for number in (1, 2, 3, 4)]
        assert ends == [Outcome.DONE, Outcome.REJECTED, Outcome.REJECTED, Outcome.DONE]
        assert emulator.world.charges == 4
        rejected = by_number[2].error
        assert isinstance(rejected, BadRequestError)
        for word in (str(out / "own.jpg"), "'own'", "another folder", "Nothing was sent for it."):
            assert word in str(rejected)
        assert "nothing was charged" not in str(rejected)


@virtual
async def test_a_numbered_picture_unknown_to_an_older_ledger_is_found(tmp_path: Path) -> None:
    """Another ledger has the name itself, and that file tells nothing."""
    prompts = [{"prompt": "a fox", "key": "fox"}]
    out, ledger = tmp_path / "out", tmp_path / "l.db"
    async with with_emulator(WIDE) as (doitong, emulator):
        await all_of(doitong.generate_many(prompts, ledger=tmp_path / "other.db", out=out))
        await all_of(doitong.generate_many(["a whale"], ledger=ledger, out=out))
        shutil.copy(ledger, tmp_path / "older.db")
        await all_of(doitong.generate_many(prompts, ledger=ledger, out=out))
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "older.db", out=out))
        assert outcomes(items) == {Outcome.REJECTED: 1}
        assert str(out / "fox.2.jpg") in str(items[0].error)
        assert emulator.world.charges == 3


@virtual
async def test_batches_with_separate_ledgers_share_a_folder(tmp_path: Path) -> None:
    """A batch with a new ledger, or none, picks another name than an existing file."""
    async with with_emulator(WIDE) as (doitong, emulator):
        for number, ledger in enumerate((tmp_path / "1.db", tmp_path / "2.db", None), 1):
            items = await all_of(doitong.generate_many(["a", "b"], ledger=ledger, out=tmp_path / "out"))
            assert outcomes(items) == {Outcome.DONE: 2}
            assert emulator.world.charges == len(list((tmp_path / "out").iterdir())) == 2 * number
