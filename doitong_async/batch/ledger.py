"""The ledger of a batch: anybody may read it, and one thread writes it in groups."""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from doitong_async.batch import promises, sqlite
from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item import Glimpse, ItemRecord, Row
from doitong_async.batch.locked import LockWait
from doitong_async.batch.sqlite import LedgerTotals
from doitong_async.errors import DoitongError, LedgerError, ProtocolError
from doitong_async.files import new_owner
from doitong_async.log import log
from doitong_async.urls import is_here


def service_of(base_url: str) -> str:
    """Return a ledger's name for the service at a base URL: all emulators count as one."""
    return "an emulator" if is_here(base_url) else base_url


def move_log_in(path: Path, *, service: str) -> None:
    """Move what a killed batch left in a ledger's log into the ledger, and remove the log.

    A batch does so itself; this is for a caller that finds nothing to run. The log stays if a batch uses the
    ledger, or if the ledger cannot be written: reading it shows why.
    """
    with suppress(LedgerError, OSError):
        path = path.resolve()
        if promises.log_of(path).exists():
            writer = _Writer(path)
            writer.open(service)
            writer.close()


class Ledger:
    """A ledger opened for reading, safe beside a batch that writes it.

    `with Ledger.read("run.db") as ledger: …` reads one snapshot, whatever the batch writes meanwhile.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Open a ledger for reading; nothing in it changes.

        Raises:
            LedgerError: if it is missing, damaged, of another version or not a ledger.
        """
        with ExitStack() as opened:
            ledger = cls(Path(path), opened.enter_context(closing(sqlite.reader(Path(path)))))
            ledger._begin()
            # The first read fixes the snapshot.
            _ = ledger.service
            opened.pop_all()
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._connection.close()

    @property
    def service(self) -> str | None:
        """The service of its jobs: a base URL, or "an emulator"."""
        with self._reading() as connection:
            return sqlite.fact(connection, "service")

    @property
    def owner(self) -> str:
        """The mark of what is written for this ledger, such as its temporary files and its gallery."""
        with self._reading() as connection:
            return sqlite.fact(connection, "owner") or ""

    def check_service(self, service: str) -> None:
        """Check that the ledger's jobs are at this service.

        Raises:
            LedgerError: if they are at another one.
        """
        _check_service(self._path, self.service, service)

    def records(self, *, unsettled: bool = False) -> Iterator[ItemRecord]:
        """Yield every item's record in the order of first submits, or only the unsettled ones."""
        with self._reading() as connection:
            yield from sqlite.records(connection, unsettled=unsettled)

    def find(self, key: str) -> ItemRecord | None:
        """Return an item's record."""
        with self._reading() as connection:
            return sqlite.find(connection, key)

    def statuses(self, number: int) -> list[tuple[int, str, float]]:
        """Return each status of the item with that record number: attempt, status and epoch seconds."""
        with self._reading() as connection:
            return sqlite.statuses(connection, number)

    def totals(self) -> LedgerTotals:
        """Return the number of items by state, and the credits that are or may be spent."""
        with self._reading() as connection:
            return sqlite.totals(connection)

    def left(self) -> int:
        """Return how many items of the last run's source the ledger does not have, as far as is known."""
        with self._reading() as connection:
            return sqlite.left(connection)

    def made_on(self, day: int) -> int:
        """Return how many jobs were created on a day of the service, counted from 1970-01-01."""
        with self._reading() as connection:
            return sqlite.made_on(connection, day)

    def _glance(self, key: str) -> Glimpse | None:
        with self._reading() as connection:
            return sqlite.glance(connection, key)

    def _last_row(self) -> int:
        with self._reading() as connection:
            return sqlite.last_row(connection)

    def _rows_after(self, number: int, most: int) -> list[Row]:
        with self._reading() as connection:
            return sqlite.rows_after(connection, number, most)

    def _begin(self) -> bool:
        """Begin a snapshot, unless there is one; return whether there was none."""
        if self._connection.in_transaction:
            return False
        with self._reading() as connection:
            connection.execute("BEGIN")
        return True

    def _end(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._connection
        except sqlite3.Error as error:
            raise sqlite.broken(self._path, error) from error


@dataclass(slots=True)
class _Change:
    """One change to be written; `is_urgent` if it must survive a power cut.

    `what` names it in the log, in case it fails when nobody awaits it.
    """

    what: str
    write: Callable[[sqlite3.Connection], None]
    is_urgent: bool
    written: asyncio.Future[None] | None


class LedgerFile(LedgerBackend):
    """The ledger of a running batch; use it on the loop on which `open` created it."""

    def __init__(self, path: Path, thread: ThreadPoolExecutor, writer: _Writer, reader: Ledger) -> None:
        self.path = path
        self.owner = writer.owner
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._writer = writer
        self._reader = reader
        self._waiting: list[_Change] = []
        self._is_due = False
        self._writing: asyncio.Future[list[Exception | None]] | None = None

    @classmethod
    async def open(cls, path: Path, *, service: str) -> LedgerFile:
        """Open a ledger, or create it.

        Args:
            path: the ledger's file.
            service: the service of its jobs; a ledger belongs to one service.

        Raises:
            LedgerError: if it is in use, damaged, or of another version or service; the file stays unchanged.
        """
        # One lock per file, whatever path leads to it.
        try:
            path = await asyncio.to_thread(path.resolve)
        except (OSError, RuntimeError, ValueError) as error:
            # An invalid name, a circle of links, or no thread can be started.
            raise sqlite.broken(path, error) from error
        thread = ThreadPoolExecutor(1, thread_name_prefix="doitong ledger")
        writer = _Writer(path)
        loop = asyncio.get_running_loop()
        try:
            opening = loop.run_in_executor(thread, writer.open, service)
        except RuntimeError as error:
            # No thread can be started.
            thread.shutdown(wait=False)
            raise sqlite.broken(path, error) from error
        try:
            await asyncio.shield(opening)
            return cls(path, thread, writer, Ledger(path, sqlite.reader(path)))
        except BaseException:
            # The thread continues when this is cancelled; wait until it has closed what it opened.
            closing = loop.run_in_executor(thread, writer.close)
            thread.shutdown(wait=False)
            while not closing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([closing])
            raise

    @property
    def is_new(self) -> bool:
        """Whether this run created it."""
        return self._writer.is_new

    @property
    def name(self) -> str:
        """Return its path without links, which is unique among ledgers."""
        return str(self.path)

    def find(self, key: str) -> ItemRecord | None:
        """Return an item's record; a read takes microseconds, so it needs no thread."""
        return self.seen().find(key)

    def glance(self, key: str) -> Glimpse | None:
        """Return the few fields that say whether an item is done; faster than `find`."""
        return self.seen()._glance(key)

    def last_row(self) -> int:
        """Return the number of the last row, 0 if there is none."""
        return self.seen()._last_row()

    def rows_after(self, number: int, most: int) -> Sequence[Row]:
        """Return the next rows in order, at most so many; a finished item's that is damaged is left out."""
        return self.seen()._rows_after(number, most)

    def seen(self) -> Ledger:
        """Return the ledger to read in, up to the last change that was written.

        One snapshot serves a loop iteration: beginning it costs more than reading.
        """
        if self._reader._begin():
            self._loop.call_soon(self._reader._end)
        return self._reader

    async def begin(self, key: str, **values: Any) -> None:
        """Record the intent to submit an item; it is on disk when this returns."""
        write = partial(sqlite.begin, key=key, **values)
        await self._write(f"the intent to submit {key!r}", write, is_urgent=True)

    async def accept(self, key: str, **values: Any) -> None:
        """Record the job that a submit created."""
        job_id = values["job_id"]
        await self._write(f"the job {job_id} of {key!r}", partial(sqlite.accept, key=key, **values))

    def note(self, key: str, **values: Any) -> None:
        """Record a status, with the next write."""
        write = partial(sqlite.note, key=key, **values)
        self._waiting.append(_Change(f"the status of {key!r}", write, False, None))

    def count(self, items: int, *, others: int | None) -> None:
        """Record how many items the source of this run has, with the next write."""
        write = partial(sqlite.count, items=items, others=others)
        self._waiting.append(_Change("the number of items", write, False, None))

    async def end(self, key: str, **values: Any) -> None:
        """Record how an item ended, or withdraw its intent."""
        await self._write(f"the end of {key!r}", partial(sqlite.end, key=key, **values))

    async def close(self) -> None:
        """Write pending changes and release the file for other processes."""
        self._start()
        while self._writing is not None:
            await asyncio.wait([self._writing])
            self._start()
        # On the thread that reads: SQLite crashes if one thread closes what another uses. And before the
        # writer closes: the last one to close moves the log into the ledger and removes it.
        self._reader.close()
        await self._loop.run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=False)

    def drop(self) -> None:
        """Write pending changes and release the file while the event loop closes; the thread still runs."""
        group, self._waiting = self._waiting, []
        with suppress(RuntimeError, sqlite3.Error):
            self._reader.close()
        with suppress(RuntimeError):
            self._thread.submit(self._writer.commit, group)
            self._thread.submit(self._writer.close).result()
        self._thread.shutdown(wait=False)

    async def _write(
        self, what: str, write: Callable[[sqlite3.Connection], None], *, is_urgent: bool = False
    ) -> None:
        written = self._loop.create_future()
        self._waiting.append(_Change(what, write, is_urgent, written))
        if not self._is_due and self._writing is None:
            # All changes of one loop iteration form a group.
            self._is_due = True
            self._loop.call_soon(self._start)
        await written

    def _start(self) -> None:
        self._is_due = False
        if self._writing is not None or not self._waiting:
            return
        group, self._waiting = self._waiting, []
        self._writing = self._loop.run_in_executor(self._thread, self._writer.commit, group)
        self._writing.add_done_callback(partial(self._on_written, group))

    def _on_written(self, group: Sequence[_Change], writing: asyncio.Future[list[Exception | None]]) -> None:
        self._writing = None
        for change, failure in zip(group, writing.result(), strict=True):
            # Each gets its own error object, because callers add details to it.
            error = None if failure is None else self._error(failure)
            if change.written is None or change.written.done():
                if error is not None:
                    log.warning("could not record %s: %s", change.what, error.message)
            elif error is None:
                change.written.set_result(None)
            else:
                change.written.set_exception(error)
        if any(change.written is not None for change in self._waiting):
            self._start()

    def _error(self, failure: Exception) -> DoitongError:
        return copy.copy(failure) if isinstance(failure, DoitongError) else sqlite.broken(self.path, failure)


class _Writer:
    """What only the ledger's thread uses: SQLite insists on one thread from opening to closing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_wait = LockWait(path)
        self._opened = ExitStack()
        self._connection: sqlite3.Connection
        self._identity: os.stat_result
        self.is_new: bool = False
        self.owner: str = ""
        self._changes = 0
        """How many changes are in the log and not yet in the ledger's file."""
        self._most_changes = promises.EVERY

    def open(self, service: str) -> None:
        """Take the lock, then open or create the ledger."""
        with ExitStack() as opened:
            opened.enter_context(closing(sqlite.lock(self._path)))
            self.is_new = not self._path.exists()
            self._connection = opened.enter_context(closing(sqlite.writer(self._path)))
            try:
                known = sqlite.fact(self._connection, "service")
                _check_service(self._path, known, service)
                self._identity = self._path.stat()
                self._lock_wait.run(partial(self._begin, service if known is None else None))
            except (OSError, sqlite3.Error) as error:
                raise sqlite.broken(self._path, error) from error
            self._opened = opened.pop_all()

    def _begin(self, service: str | None) -> None:
        """Write the first changes; this may be repeated."""
        if service is not None:
            sqlite.state_fact(self._connection, name="service", value=service)
        self.owner = sqlite.fact(self._connection, "owner") or ""
        if not self.owner:
            self.owner = new_owner()
            sqlite.state_fact(self._connection, name="owner", value=self.owner)
        promises.begin(self._path, self._connection)

    def close(self) -> None:
        """Close the ledger, then release the lock."""
        if self._changes:
            self._renew()
        self._opened.close()

    def commit(self, group: Sequence[_Change]) -> list[Exception | None]:
        """Write a group in one transaction and return each change's error, if any; others are kept."""
        connection = self._connection
        try:
            # An intent must be on disk before its first byte is sent. Later changes can be polled again; they
            # survive a killed process, if not a power cut, without waiting for the disk.
            is_urgent = any(change.is_urgent for change in group)
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_urgent else 'NORMAL'}")
            if is_urgent:
                self._check_identity()
            self._lock_wait.run(partial(connection.execute, "BEGIN IMMEDIATE"))
            outcomes: list[Exception | None] = [_outcome(connection, change) for change in group]
            connection.execute("COMMIT")
        except Exception as error:
            # Whatever it was: every waiter gets an error, and none waits forever.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            return [error] * len(group)
        self._changes += len(group)
        if self._changes >= self._most_changes:
            self._renew()
        return outcomes

    def _renew(self) -> None:
        """Move the log into the ledger; if that is impossible, nothing is lost and the log grows."""
        is_moved = False
        with suppress(sqlite3.Error):
            is_moved = promises.renew(self._connection, patience=promises.PATIENCE)
        self._changes, self._most_changes = (
            (0, promises.EVERY) if is_moved else (self._changes, self._changes + promises.RETRY)
        )

    def _check_identity(self) -> None:
        """Check that the file being written is still the one that the next run will read."""
        try:
            is_same = os.path.samestat(self._path.stat(), self._identity)
        except OSError:
            is_same = False
        if not is_same:
            raise LedgerError(
                f"The ledger {self._path} was moved or deleted while the batch ran. "
                "Put it back, then run the batch again."
            )


_OF_ONE_VALUE: Final = (
    ValueError,
    OverflowError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
"""What SQLite raises for a single value: too large a number, too long a text, another type."""


def _outcome(connection: sqlite3.Connection, change: _Change) -> DoitongError | None:
    try:
        change.write(connection)
    except DoitongError as error:
        return error
    except _OF_ONE_VALUE as error:
        # Not a LedgerError, which would end the batch: the other items are fine. The first statement failed.
        return ProtocolError(f"The ledger cannot store a value of this item: {error}.")
    return None


def _check_service(path: Path, known: str | None, service: str) -> None:
    """Check that a ledger has no jobs at another service.

    Raises:
        LedgerError: if it has.
    """
    if known not in (None, service):
        raise LedgerError(
            f"The ledger {path} belongs to jobs at {known}, but this batch is for {service}. Nothing was "
            "sent. Give this batch its own ledger, or another folder."
        )
