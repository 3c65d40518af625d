"""The ledger as a SQLite file: its schema, its statements, its lock and its checks."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from doitong_async.batch import locked, promises
from doitong_async.batch.damage import STATES, damage_of, seems_sound
from doitong_async.batch.item import (
    UNSETTLED,
    Glimpse,
    ItemEvent,
    ItemRecord,
    ItemState,
    Row,
    states_before,
)
from doitong_async.errors import DoitongError, LedgerError, SubmitOutcomeUnknownError
from doitong_async.files import Existing, SavedFile, remove_leftovers, writing
from doitong_async.unicode import writable

APPLICATION: Final = 0x444F4954
"""Marks the file as ours, in SQLite's own field for that ("DOIT")."""
VERSION: Final = 2


def _listed(states: tuple[ItemState, ...]) -> str:
    return ", ".join(f"'{state}'" for state in states)


_SCHEMA: Final = f"""
CREATE TABLE items (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    idempotency_key TEXT,
    intended_at REAL,
    reserved REAL,
    job_id TEXT,
    accepted_at REAL,
    status TEXT,
    url TEXT,
    cost REAL,
    earlier_cost REAL NOT NULL,
    error TEXT,
    reason TEXT,
    file TEXT,
    length INTEGER,
    sha256 TEXT,
    ended_at REAL,
    body TEXT
);
CREATE INDEX unsettled ON items (state) WHERE state IN ({_listed(UNSETTLED)});
CREATE TABLE statuses (
    item INTEGER NOT NULL, attempt INTEGER NOT NULL, status TEXT NOT NULL, at REAL NOT NULL
);
CREATE TABLE days (day INTEGER PRIMARY KEY, made INTEGER NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
-- Of all attempts, failed ones too: the service may answer the next submit with the job of an earlier one.
CREATE TABLE jobs (job_id TEXT PRIMARY KEY, idempotency_key TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS: Final = ", ".join(field.name for field in fields(ItemRecord))
# What an attempt cost, or may cost: the service's figure, or else the reservation.
_COST: Final = "CASE WHEN state IN ('open', 'rejected') THEN 0 ELSE coalesce(cost, reserved, 0) END"
_GLIMPSED: Final = "state, digest, job_id, url, cost, file, length, number"
_GLANCE: Final = f"SELECT {_GLIMPSED} FROM items WHERE key = ?"
_ROWS_AFTER: Final = f"SELECT key, request, {_GLIMPSED} FROM items WHERE number > ? ORDER BY number LIMIT ?"
_BEGIN_FIRST: Final = """
INSERT INTO items
    (key, digest, request, state, attempt, idempotency_key, intended_at, reserved, earlier_cost, file, body)
VALUES (:key, :digest, :request, 'intent', 1, :idempotency_key, :at, :reserved, 0, :file, :body)
ON CONFLICT DO NOTHING
"""
_BEGIN_AGAIN: Final = f"""
UPDATE items SET earlier_cost = earlier_cost + {_COST}, state = 'intent', attempt = attempt + 1,
    idempotency_key = :idempotency_key, intended_at = :at, reserved = :reserved, job_id = NULL,
    accepted_at = NULL, status = NULL, url = NULL, cost = NULL, error = NULL, reason = NULL, file = :file,
    length = NULL, sha256 = NULL, ended_at = NULL, body = :body
WHERE key = :key AND digest = :digest AND attempt = :attempt
    AND state IN ({_listed(states_before(ItemEvent.BEGUN))})
"""
_ACCEPT: Final = f"""
UPDATE items SET state = 'submitted', job_id = :job_id, accepted_at = :at, status = :status, cost = :cost,
    body = NULL
WHERE key = :key AND attempt = :attempt AND state IN ({_listed(states_before(ItemEvent.ACCEPTED))})
"""
_MADE: Final = """
INSERT INTO jobs SELECT :job_id, idempotency_key FROM items WHERE key = :key ON CONFLICT DO NOTHING
"""
_MADE_BY_ANOTHER: Final = """
SELECT items.idempotency_key, jobs.idempotency_key FROM items, jobs
WHERE items.key = :key AND jobs.job_id = :job_id AND jobs.idempotency_key <> items.idempotency_key
"""
_STATUS: Final = """
UPDATE items SET state = :state, status = :status, cost = coalesce(:cost, cost), url = coalesce(:url, url)
WHERE key = :key AND attempt = :attempt AND state = :before
"""
_NOTE: Final = """
INSERT INTO statuses SELECT number, attempt, :status, :at FROM items WHERE key = :key AND attempt = :attempt
"""
_END: Final = """
UPDATE items SET state = :state, error = :error, reason = :reason, file = coalesce(:file, file),
    length = :length, sha256 = :sha256, ended_at = coalesce(:ended_at, ended_at),
    body = CASE WHEN :state = 'intent' THEN body END
WHERE key = :key AND attempt = :attempt AND state = :before
"""


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """A ledger's totals: items by state, and credits that are or may be spent."""

    items: dict[ItemState, int]
    spent: float


def writer(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing, or create it; the caller holds the `lock`.

    Raises:
        LedgerError: if the file is damaged, of another version or not a ledger; it stays unchanged.
    """
    try:
        if path.exists():
            _check(path)
        elif promises.log_of(path).exists():
            raise LedgerError(f"The log {path}-wal has no ledger. Put {path.name} back beside it.")
        else:
            _make(path)
        connection = sqlite3.connect(path, timeout=locked.EACH, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        # Only `promises` moves the log into the file.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection
    except (OSError, sqlite3.Error) as error:
        raise broken(path, error) from error


def _make(path: Path) -> None:
    """Create an empty ledger: in memory first, so that a process that dies here leaves no half of one."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};")
        connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        data = connection.serialize()
    # There is no ledger yet that could name its owner; its path does, of which the caller has the lock.
    owner = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    remove_leftovers(path.parent, owner)
    with writing(path, existing=Existing.REPLACE, owner=owner) as part:
        part.opened().write(data)


def reader(path: Path) -> sqlite3.Connection:
    """Open the ledger for reading; another process may be writing.

    Raises:
        LedgerError: if it is missing, damaged, of another version or not a ledger.
    """
    try:
        if not path.is_file():
            raise LedgerError(f"There is no ledger {path}.")
        if promises.has_log(path):
            # A read-only connection leaves the log in place, also that of a killed batch.
            mode = "mode=ro"
        elif not os.access(path.parent, os.W_OK) and not promises.log_of(path).exists():
            # No log exists and none can be created, so nobody writes.
            mode = "mode=ro&immutable=1"
        else:
            # Not mode=ro: SQLite creates empty log files here, which must be removed.
            mode = "mode=rw"
        with contextlib.ExitStack() as opened:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
            opened.enter_context(contextlib.closing(connection))
            connection.execute("PRAGMA query_only = ON")
            _check_marks(path, connection)
            promises.check(path, connection)
            opened.pop_all()
        return connection
    except (OSError, sqlite3.Error) as error:
        raise broken(path, error) from error


def lock(path: Path) -> sqlite3.Connection:
    """Lock the ledger for this process, until the returned connection closes or the process dies.

    The lock is on a file beside the ledger: closing any descriptor of the ledger would drop a lock on it.

    Raises:
        LedgerError: if another process holds the lock, or the file cannot be created.
    """
    lock_file = path.with_name(f"{path.name}.lock")
    try:
        with contextlib.ExitStack() as opened:
            connection = sqlite3.connect(lock_file, timeout=0, isolation_level=None)
            opened.enter_context(contextlib.closing(connection))
            connection.execute("BEGIN EXCLUSIVE")
            opened.pop_all()
            return connection
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise _unlockable(path, error) from error
    except sqlite3.Error as error:
        raise _unlockable(path, error) from error
    raise LedgerError(
        f"The ledger {path} is in use by another batch. Nothing was sent. Wait for it to end, stop it, or "
        "give this one its own ledger."
    )


def broken(path: Path, error: Exception) -> LedgerError:
    """Return the LedgerError for an error of SQLite or of the disk."""
    reason = getattr(error, "strerror", None) or str(error)
    return LedgerError(f"The ledger {path} cannot be used: {reason}.")


def _unlockable(path: Path, error: sqlite3.Error) -> LedgerError:
    return LedgerError(
        f"The ledger {path} cannot be locked: {error} (it needs {path.name}.lock beside it). Nothing was "
        "sent. Check the folder and its permissions, or give --ledger or ledger= another path."
    )


def find(connection: sqlite3.Connection, key: str) -> ItemRecord | None:
    """Return the record of one item."""
    with _naming(f"of the item {key!r}"):
        row = connection.execute(f"SELECT {_COLUMNS} FROM items WHERE key = ?", (key,)).fetchone()
    return None if row is None else _record(row)


def glance(connection: sqlite3.Connection, key: str) -> Glimpse | None:
    """Return the few fields that say whether an item is done."""
    with _naming(f"of the item {key!r}"):
        row = connection.execute(_GLANCE, (key,)).fetchone()
    if row is None:
        return None
    glimpse = Glimpse(*row)
    if glimpse.state == ItemState.DONE and not seems_sound(glimpse):
        # Only such a glimpse is used; this checks the whole row, at a glimpse's price if it is sound.
        find(connection, key)
    return glimpse


def last_row(connection: sqlite3.Connection) -> int:
    """Return the number of the last row, 0 if there is none."""
    number: int = connection.execute("SELECT coalesce(max(number), 0) FROM items").fetchone()[0]
    return number


def rows_after(connection: sqlite3.Connection, number: int, most: int) -> list[Row]:
    """Return the next rows in order, at most so many; a finished item's that is damaged is left out."""
    cursor = connection.execute(_ROWS_AFTER, (number, most))
    rows: list[Row] = []
    # A row that cannot be read ends the page: whoever looks for it by its key says so.
    with contextlib.suppress(LedgerError), _naming(f"after the number {number}"):
        for key, request, *fields in cursor:
            glimpse = Glimpse(*fields)
            # Other rows are in the way of none: they have no job yet, or never had one.
            if glimpse.state != ItemState.DONE or seems_sound(glimpse):
                rows.append(Row(key, request, glimpse))
    return rows


def records(connection: sqlite3.Connection, *, unsettled: bool = False) -> Iterator[ItemRecord]:
    """Yield every record in the order of first submits, or only the unsettled ones."""
    where = f"WHERE state IN ({_listed(UNSETTLED)})" if unsettled else ""
    rows = connection.execute(f"SELECT {_COLUMNS} FROM items {where} ORDER BY number")
    after = "of the first item"
    while True:
        with _naming(after):
            row = rows.fetchone()
        if row is None:
            return
        record = _record(row)
        yield record
        after = f"after the item {record.key!r}"


def statuses(connection: sqlite3.Connection, number: int) -> list[tuple[int, str, float]]:
    """Return each recorded status of an item: attempt, status and epoch seconds."""
    query = "SELECT attempt, status, at FROM statuses WHERE item = ? ORDER BY rowid"
    rows: list[tuple[int, str, float]] = connection.execute(query, (number,)).fetchall()
    for attempt, status, at in rows:
        is_sound = isinstance(attempt, int) and isinstance(status, str) and isinstance(at, int | float)
        if not is_sound:
            raise LedgerError(f"The ledger is damaged: a status of the item number {number} is {status!r}.")
    return rows


def totals(connection: sqlite3.Connection) -> LedgerTotals:
    """Add up the ledger's items and credits."""
    query = f"SELECT state, count(*), sum(earlier_cost + {_COST}) FROM items GROUP BY state"
    rows = connection.execute(query).fetchall()
    if any(state not in STATES or not math.isfinite(cost) for state, _, cost in rows):
        for _ in records(connection):
            # Raises at the row that cannot be true, and names it.
            pass
        raise LedgerError("The ledger is damaged: its credits add up to no number.")
    return LedgerTotals(
        {ItemState(state): count for state, count, _ in rows}, float(sum(cost for *_, cost in rows))
    )


def count(connection: sqlite3.Connection, *, items: int, others: int | None) -> None:
    """Store how many items the last run's source has, and, if known, how many of the ledger's are others."""
    state_fact(connection, name="items", value=str(items))
    if others is not None:
        state_fact(connection, name="others", value=str(others))


def left(connection: sqlite3.Connection) -> int:
    """Return how many items of the last run's source have no row."""
    items, others = (fact(connection, name) or "0" for name in ("items", "others"))
    if not items.isdecimal() or not others.isdecimal():
        raise LedgerError(f"The ledger is damaged: it counts {items!r} items and {others!r} others.")
    rows: int = connection.execute("SELECT count(*) FROM items").fetchone()[0]
    return max(0, int(items) - max(0, rows - int(others)))


def made_on(connection: sqlite3.Connection, day: int) -> int:
    """Return how many jobs were created on that day of the service."""
    row = connection.execute("SELECT made FROM days WHERE day = ?", (day,)).fetchone()
    made = 0 if row is None else row[0]
    if not isinstance(made, int) or made < 0:
        raise LedgerError(f"The ledger is damaged: the jobs of day {day} are {made!r}.")
    return made


def fact(connection: sqlite3.Connection, name: str) -> str | None:
    """Return a fact about the whole ledger."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def state_fact(connection: sqlite3.Connection, *, name: str, value: str) -> None:
    """Store a fact about the whole ledger."""
    connection.execute(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
    )


def begin(connection: sqlite3.Connection, *, attempt: int, **values: Any) -> None:
    """Record the intent to submit an item; `attempt` is its last attempt, 0 for a new item."""
    if attempt:
        _swap(connection, _BEGIN_AGAIN, {"attempt": attempt, **values})
    else:
        _swap(connection, _BEGIN_FIRST, values)


def accept(connection: sqlite3.Connection, *, day: int, **values: Any) -> None:
    """Record that a submit created a job, and count it in its day.

    Raises:
        SubmitOutcomeUnknownError: if the job was created under another idempotency key: this submit may have
            created another job.
    """
    values = _storable(values)
    if (keys := connection.execute(_MADE_BY_ANOTHER, values).fetchone()) is not None:
        own, other = keys
        raise SubmitOutcomeUnknownError(
            f"The service answered the idempotency key {own} with the job {values['job_id']}, which the "
            f"ledger has under the idempotency key {other}: one job for two submits.",
            idempotency_key=own,
            job_id=values["job_id"],
        )
    _swap(connection, _ACCEPT, values)
    connection.execute(_MADE, values)
    connection.execute("INSERT INTO days VALUES (?, 1) ON CONFLICT DO UPDATE SET made = made + 1", (day,))
    connection.execute(_NOTE, values)


def note(connection: sqlite3.Connection, **values: Any) -> None:
    """Record a status, and the state that follows from it."""
    values = _storable(values)
    _swap(connection, _STATUS, values)
    connection.execute(_NOTE, values)


def end(
    connection: sqlite3.Connection,
    *,
    error: DoitongError | None = None,
    written: SavedFile | None = None,
    ended_at: float | None = None,
    **values: Any,
) -> None:
    """Record how an item ended, or withdraw its intent, if its state is still `before`."""
    more = {
        "error": None if error is None else type(error).__name__,
        "reason": None if error is None else error.message,
        "file": None if written is None else written.path.name,
        "length": None if written is None else written.length,
        "sha256": None if written is None else written.sha256,
        "ended_at": ended_at,
    }
    _swap(connection, _END, {**values, **more})


def _swap(connection: sqlite3.Connection, statement: str, values: dict[str, Any]) -> None:
    """Change a row from its expected state; leave a row in another state unchanged."""
    if connection.execute(statement, _storable(values)).rowcount != 1:
        raise LedgerError(
            f"The ledger's record of the item {values['key']!r} is not as this run left it: another "
            "program changed it."
        )


def damaged_row(key: object, damage: str) -> LedgerError:
    """Return the LedgerError about a row that cannot be true."""
    return LedgerError(
        f"The ledger is damaged: of the item {key!r}, {damage}. Restore a copy, or correct it."
    )


@contextlib.contextmanager
def _naming(which: str) -> Iterator[None]:
    """Name the row whose text SQLite cannot decode."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) is not None:
            # One of SQLite, not of Python's decoding.
            raise
        raise LedgerError(f"The ledger is damaged: the row {which} cannot be read: {error}.") from error


def _storable(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as SQLite can store them: its texts are UTF-8."""
    return {name: writable(value) if isinstance(value, str) else value for name, value in values.items()}


def _record(row: tuple[Any, ...]) -> ItemRecord:
    record = ItemRecord(**dict(zip(_NAMES, row, strict=True)))
    if (damage := damage_of(record)) is not None:
        raise damaged_row(record.key, damage)
    object.__setattr__(record, "state", ItemState(record.state))
    return record


_NAMES: Final = tuple(field.name for field in fields(ItemRecord))


def _check(path: Path) -> None:
    """Check that a ledger is sound, without changing a byte of it."""
    # Without a log there is nothing to wait for, and SQLite need not create log files.
    mode = "mode=ro" if promises.log_of(path).exists() else "mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)) as connection:
        _check_marks(path, connection)
        promises.check(path, connection)
        finding = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if finding == "ok":
            promises.check_pair(path, connection)
    if finding != "ok":
        raise LedgerError(
            f"The ledger {path} is damaged ({finding}) and was left unchanged. Restore a copy of it."
        )


def _check_marks(path: Path, connection: sqlite3.Connection) -> None:
    """Check that a file is a ledger that this library can read.

    Through SQLite, never through a descriptor of our own: closing one drops the locks that a writer in this
    process has on the file, and the next process to open the ledger would remove its log.
    """
    if not path.stat().st_size:
        raise LedgerError(
            f"The ledger {path} is empty: its records are lost. Restore a copy of it; or remove it, and its "
            "items are made again and paid again."
        )
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise LedgerError(
            f"{path} is not a ledger of doitong_async, or it is damaged; it was left unchanged."
        ) from None
    if application != APPLICATION:
        raise LedgerError(f"{path} is a database, but not a ledger of doitong_async; it was left unchanged.")
    if version != VERSION:
        raise LedgerError(
            f"The ledger {path} has version {version}, but this library writes version {VERSION}; it "
            "was left unchanged. Use the version of the library that created it."
        )
