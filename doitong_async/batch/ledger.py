"""The ledger of a batch: written by one thread, in groups, and read where the batch runs."""

from __future__ import annotations

import asyncio
import copy
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from doitong_async.batch import promises, schema, sqlite
from doitong_async.batch.item_record import Glimpse, ItemRecord
from doitong_async.errors import DoitongError, LedgerError
from doitong_async.log import log

T = TypeVar("T")


@dataclass(slots=True)
class _Change:
    """One change that waits to be written; `is_urgent` if it has to be on the disk, whatever happens then.

    `what` names it in the log, should it fail when nobody waits for it any more.
    """

    what: str
    write: Callable[[sqlite3.Connection], None]
    is_urgent: bool
    written: asyncio.Future[None] | None


class Ledger:
    """An open ledger; made by `open`, on the loop that it is used on."""

    def __init__(
        self, path: Path, thread: ThreadPoolExecutor, writer: _Writer, reader: sqlite3.Connection
    ) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._writer = writer
        self._reader = reader
        self._waiting: list[_Change] = []
        self._is_due = False
        self._writing: asyncio.Future[list[Exception | None]] | None = None

    @classmethod
    async def open(cls, path: Path, *, service: str) -> Ledger:
        """Open a ledger, or make it.

        Args:
            path: of the file.
            service: which service its jobs are at: a ledger is of one alone.

        Raises:
            LedgerError: if it is in use, damaged, of another version or another service; it stays as it is.
        """
        # One lock for one file, by whatever names it goes.
        try:
            path = await asyncio.to_thread(path.resolve)
        except (OSError, RuntimeError, ValueError) as error:
            # A name that no file has, links in a circle, or no thread can be started.
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
            return cls(path, thread, writer, sqlite.reader(path))
        except BaseException:
            # The thread goes on when this is cancelled: what it opens, it closes, and that is waited for.
            closing = loop.run_in_executor(thread, writer.close)
            thread.shutdown(wait=False)
            while not closing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([closing])
            raise

    @property
    def is_new(self) -> bool:
        """Whether this run made it."""
        return self._writer.is_new

    @property
    def name(self) -> str:
        """Return what tells it from other ledgers: its path, without links."""
        return str(self.path)

    def find(self, key: str) -> ItemRecord | None:
        """Return what is known of an item: a few microseconds, so it is not worth a thread."""
        return self._read(sqlite.find, key)

    def body_of(self, key: str) -> str | None:
        """Return what was sent for an item that is in doubt."""
        return self._read(sqlite.body_of, key)

    def glance(self, key: str) -> Glimpse | None:
        """Return the few things that tell whether an item is done; quicker than `find`."""
        return self._read(sqlite.glance, key)

    def totals(self) -> sqlite.Totals:
        """Add up what the ledger has."""
        return self._read(sqlite.totals)

    def unsettled(self) -> list[ItemRecord]:
        """Return the items whose end is to come: no more than were in flight at once."""
        return self._read(lambda connection: list(sqlite.records(connection, unsettled=True)))

    def made_on(self, day: int) -> int:
        """Return how many jobs were made on a day of the service."""
        return self._read(sqlite.made_on, day)

    async def begin(self, key: str, **values: Any) -> None:
        """Write down the intent to submit an item; it is on the disk when this returns."""
        write = partial(sqlite.begin, key=key, **values)
        await self._write(f"the intent to submit {key!r}", write, is_urgent=True)

    async def accept(self, key: str, **values: Any) -> None:
        """Write down which job a submit made."""
        job_id = values["job_id"]
        await self._write(f"the job {job_id} of {key!r}", partial(sqlite.accept, key=key, **values))

    def note(self, key: str, **values: Any) -> None:
        """Write down a status that was seen, along with whatever is written next."""
        write = partial(sqlite.note, key=key, **values)
        self._waiting.append(_Change(f"the status of {key!r}", write, False, None))

    async def end(self, key: str, **values: Any) -> None:
        """Write down how an item ended, or that its intent is withdrawn."""
        await self._write(f"the end of {key!r}", partial(sqlite.end, key=key, **{**_NOTHING, **values}))

    async def close(self) -> None:
        """Write what waits, and let go of the file; another process may take it then."""
        self._start()
        while self._writing is not None:
            await asyncio.wait([self._writing])
            self._start()
        # Here, where it is read: SQLite crashes the process if one thread closes what another still uses.
        # And before the writer's: the last one moves the log into the ledger and removes it.
        self._reader.close()
        await self._loop.run_in_executor(self._thread, self._writer.close)
        self._thread.shutdown(wait=False)

    def drop(self) -> None:
        """Write what waits, and let go of the file, as the event loop is closed; its thread is not."""
        group, self._waiting = self._waiting, []
        with suppress(RuntimeError, sqlite3.Error):
            self._reader.close()
        with suppress(RuntimeError):
            self._thread.submit(self._writer.commit, group)
            self._thread.submit(self._writer.close).result()
        self._thread.shutdown(wait=False)

    def _read(self, read: Callable[..., T], *arguments: Any) -> T:
        try:
            if not self._reader.in_transaction:
                # One for whatever is read in this turn of the loop: beginning costs more than reading.
                self._reader.execute("BEGIN")
                self._loop.call_soon(self._end_reading)
            return read(self._reader, *arguments)
        except sqlite3.Error as error:
            raise sqlite.broken(self.path, error) from error

    def _end_reading(self) -> None:
        with suppress(sqlite3.Error):
            self._reader.execute("COMMIT")

    async def _write(
        self, what: str, write: Callable[[sqlite3.Connection], None], *, is_urgent: bool = False
    ) -> None:
        written = self._loop.create_future()
        self._waiting.append(_Change(what, write, is_urgent, written))
        if not self._is_due and self._writing is None:
            # Whoever has something to write in this turn of the loop is in the group.
            self._is_due = True
            self._loop.call_soon(self._start)
        await written

    def _start(self) -> None:
        self._is_due = False
        if self._writing is not None or not self._waiting:
            return
        group, self._waiting = self._waiting, []
        self._writing = self._loop.run_in_executor(self._thread, self._writer.commit, group)
        self._writing.add_done_callback(partial(self._is_written, group))

    def _is_written(self, group: Sequence[_Change], writing: asyncio.Future[list[Exception | None]]) -> None:
        self._writing = None
        for change, failure in zip(group, writing.result(), strict=True):
            # Each has an error of its own: what it is about is added to it.
            error = None if failure is None else self._error(failure)
            if change.written is None or change.written.done():
                if error is not None:
                    log.warning("%s is not written down: %s", change.what, error.message)
            elif error is None:
                change.written.set_result(None)
            else:
                change.written.set_exception(error)
        if any(change.written is not None for change in self._waiting):
            self._start()

    def _error(self, failure: Exception) -> DoitongError:
        return copy.copy(failure) if isinstance(failure, DoitongError) else sqlite.broken(self.path, failure)


_NOTHING: Final = dict.fromkeys(("reason", "file", "length", "sha256", "ended_at"))


class _Writer:
    """What the ledger's thread alone uses, from opening to closing: SQLite sees to that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = ExitStack()
        self._connection: sqlite3.Connection
        self._place: os.stat_result
        self.is_new = False
        self._changes = 0
        """How many are not in the ledger's file, but in its log."""
        self._most_changes = promises.EVERY

    def open(self, service: str) -> None:
        """Take the lock, and open the ledger or make it."""
        with ExitStack() as opened:
            opened.enter_context(closing(sqlite.lock(self._path)))
            self.is_new = not self._path.exists()
            self._connection = opened.enter_context(closing(sqlite.writer(self._path)))
            try:
                sqlite.check_service(self._connection, self._path, service)
                if sqlite.fact(self._connection, "service") is None:
                    sqlite.state_fact(self._connection, name="service", value=service)
                schema.bring_up_to_date(self._connection)
                self._place = self._path.stat()
                promises.begin(self._path, self._connection)
            except (OSError, sqlite3.Error) as error:
                raise sqlite.broken(self._path, error) from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Let go of the ledger, and then of the lock."""
        if self._changes:
            self._renew()
        self._opened.close()

    def commit(self, group: Sequence[_Change]) -> list[Exception | None]:
        """Write a group in one transaction, and return what failed: one that is refused spoils no other."""
        connection = self._connection
        try:
            # An intent is on the disk before its first byte is sent. What comes after it can be asked for
            # again, and is safe from a killed process, if not from a power cut, without waiting for the disk.
            is_urgent = any(change.is_urgent for change in group)
            connection.execute(f"PRAGMA synchronous = {'FULL' if is_urgent else 'NORMAL'}")
            if is_urgent:
                self._check_place()
            connection.execute("BEGIN IMMEDIATE")
            outcomes: list[Exception | None] = [_outcome(connection, change) for change in group]
            connection.execute("COMMIT")
        except Exception as error:
            # Whatever it was: each of them is told, and none waits for ever.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            return [error] * len(group)
        self._changes += len(group)
        if self._changes >= self._most_changes:
            self._renew()
        return outcomes

    def _renew(self) -> None:
        """Move the log into the ledger; where that cannot be, nothing is lost, and the log grows."""
        is_moved = False
        with suppress(sqlite3.Error):
            is_moved = promises.renew(self._connection, patience=promises.PATIENCE)
        self._changes, self._most_changes = (
            (0, promises.EVERY) if is_moved else (self._changes, self._changes + promises.RETRY)
        )

    def _check_place(self) -> None:
        """Make sure that what is written is still what the next run will read."""
        try:
            is_there = os.path.samestat(self._path.stat(), self._place)
        except OSError:
            is_there = False
        if not is_there:
            raise LedgerError(f"The ledger {self._path} was taken away while the batch ran; put it back.")


def _outcome(connection: sqlite3.Connection, change: _Change) -> DoitongError | None:
    try:
        change.write(connection)
    except DoitongError as refused:
        return refused
    except (ValueError, OverflowError) as error:
        # A number or a text of the service that no database holds: the first statement refused it.
        return LedgerError(f"The service said what cannot be written down: {error}.")
    return None
