"""The ledger's file: one SQLite database, of one process at a time, and refused where it is not sound."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from doitong_async.batch import promises, schema
from doitong_async.batch.item_record import UNKNOWN, Glimpse, ItemRecord, State
from doitong_async.errors import LedgerError, SubmitOutcomeUnknownError
from doitong_async.settings import is_loopback

_COLUMNS: Final = ", ".join(field.name for field in fields(ItemRecord))
# What an attempt cost, or may cost: what the service told, else what was set aside for it.
_COST: Final = "CASE WHEN state IN ('open', 'rejected') THEN 0 ELSE coalesce(cost, reserved, 0) END"
_GLANCE: Final = "SELECT state, digest, job_id, url, cost, file, length FROM items WHERE key = ?"
_BEGIN_FIRST: Final = """
INSERT INTO items
    (key, digest, request, state, attempt, idempotency_key, intended_at, reserved, earlier_cost, file, body)
VALUES (:key, :digest, :request, 'intent', 1, :idempotency_key, :at, :reserved, 0, :file, :body)
ON CONFLICT DO NOTHING
"""
_BEGIN_AGAIN: Final = f"""
UPDATE items SET earlier_cost = earlier_cost + {_COST}, state = 'intent', attempt = attempt + 1,
    idempotency_key = :idempotency_key, intended_at = :at, reserved = :reserved, job_id = NULL,
    accepted_at = NULL, status = NULL, url = NULL, cost = NULL, reason = NULL, file = :file, length = NULL,
    sha256 = NULL, ended_at = NULL, body = :body
WHERE key = :key AND digest = :digest AND attempt = :attempt AND (state IN ('open', 'failed', 'rejected')
    OR (state = 'submitted' AND reason LIKE '{UNKNOWN}%'))
"""
_ACCEPT: Final = """
UPDATE items SET state = 'submitted', job_id = :job_id, accepted_at = :at, status = :status, cost = :cost,
    body = NULL
WHERE key = :key AND attempt = :attempt AND state = 'intent'
"""
_MADE: Final = """
INSERT INTO jobs SELECT :job_id, idempotency_key FROM items WHERE key = :key ON CONFLICT DO NOTHING
"""
_MADE_BY_ANOTHER: Final = """
SELECT items.idempotency_key, jobs.idempotency_key FROM items, jobs
WHERE items.key = :key AND jobs.job_id = :job_id AND jobs.idempotency_key <> items.idempotency_key
"""
_STATUS: Final = """
UPDATE items SET status = :status, cost = coalesce(:cost, cost), url = coalesce(:url, url)
WHERE key = :key AND attempt = :attempt AND state = 'submitted'
"""
_NOTE: Final = """
INSERT INTO statuses SELECT number, attempt, :status, :at FROM items WHERE key = :key AND attempt = :attempt
"""
_END: Final = """
UPDATE items SET state = :state, reason = :reason, file = coalesce(:file, file), length = :length,
    sha256 = :sha256, ended_at = coalesce(:ended_at, ended_at),
    body = CASE WHEN :state = 'intent' THEN body END
WHERE key = :key AND attempt = :attempt AND state = :before
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """What a ledger adds up to: items by state, and credits that are spent or may be."""

    items: dict[State, int]
    spent: float


def writer(path: Path) -> sqlite3.Connection:
    """Open the ledger for writing, or make it; whoever calls this holds the `lock`.

    Raises:
        LedgerError: if the file is damaged, of another version or no ledger; it is left as it is.
    """
    try:
        if path.exists():
            _check(path)
        elif promises.log_of(path).exists():
            raise LedgerError(
                f"There is a log {path}-wal without its ledger; put {path.name} back beside it."
            )
        else:
            schema.make(path)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        # The log is moved into the file as `promises` says, and never by the way.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection
    except (OSError, sqlite3.Error) as error:
        raise broken(path, error) from error


def reader(path: Path) -> sqlite3.Connection:
    """Open the ledger for reading; another process may be writing.

    Raises:
        LedgerError: if it is not there, damaged, of another version or no ledger.
    """
    try:
        if not path.is_file():
            raise LedgerError(f"There is no ledger {path}.")
        if promises.has_log(path):
            # Whoever may only read leaves a log where it is, that of a batch that was killed too.
            how = "mode=ro"
        elif not os.access(path.parent, os.W_OK) and not promises.log_of(path).exists():
            # No file of a log can be made, and none is there: nobody writes.
            how = "mode=ro&immutable=1"
        else:
            # Not mode=ro: the empty files of a log are made here, and have to be removed.
            how = "mode=rw"
        with contextlib.ExitStack() as opened:
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None)
            opened.enter_context(contextlib.closing(connection))
            connection.execute("PRAGMA query_only = ON")
            _check_marks(path, connection)
            promises.check(path, connection)
            opened.pop_all()
        return connection
    except (OSError, sqlite3.Error) as error:
        raise broken(path, error) from error


def lock(path: Path) -> sqlite3.Connection:
    """Take the ledger for this process, until the returned connection is closed or the process is dead.

    The lock is on a file beside the ledger: closing any descriptor of the ledger would drop one on itself.

    Raises:
        LedgerError: if another process has it, or the file cannot be made.
    """
    side = path.with_name(f"{path.name}.lock")
    try:
        with contextlib.ExitStack() as opened:
            held = sqlite3.connect(side, timeout=0, isolation_level=None)
            opened.enter_context(contextlib.closing(held))
            held.execute("BEGIN EXCLUSIVE")
            opened.pop_all()
            return held
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise _unlockable(path, error) from error
    except sqlite3.Error as error:
        raise _unlockable(path, error) from error
    raise LedgerError(
        f"The ledger {path} is in use by another batch. Nothing was sent. Wait for it to end, stop it, or "
        "give this one a ledger of its own."
    )


def broken(path: Path, error: Exception) -> LedgerError:
    """Return what to raise for an error of SQLite or of the disk."""
    said = getattr(error, "strerror", None) or str(error)
    return LedgerError(f"The ledger {path} cannot be used: {said}.")


def _unlockable(path: Path, error: sqlite3.Error) -> LedgerError:
    return LedgerError(
        f"The ledger {path} cannot be locked: {error} ({path.name}.lock beside it has to be written). "
        "Nothing was sent. Look at the folder and its permissions, or give --ledger or ledger= another place."
    )


def find(connection: sqlite3.Connection, key: str) -> ItemRecord | None:
    """Return the line of one item."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM items WHERE key = ?", (key,)).fetchone()
    return None if row is None else _entry(row)


def body_of(connection: sqlite3.Connection, key: str) -> str | None:
    """Return what was sent for an item that is in doubt; an older version of this library kept none."""
    row = connection.execute("SELECT body FROM items WHERE key = ?", (key,)).fetchone()
    return None if row is None else row[0]


def glance(connection: sqlite3.Connection, key: str) -> Glimpse | None:
    """Return the few things that tell whether an item is done."""
    row = connection.execute(_GLANCE, (key,)).fetchone()
    return None if row is None else Glimpse(*row)


def records(connection: sqlite3.Connection, *, unsettled: bool = False) -> Iterator[ItemRecord]:
    """Yield every line in the order in which items were begun, or those alone whose end is to come."""
    where = "WHERE state IN ('intent', 'submitted')" if unsettled else ""
    for row in connection.execute(f"SELECT {_COLUMNS} FROM items {where} ORDER BY number"):
        yield _entry(row)


def statuses(connection: sqlite3.Connection, number: int) -> list[tuple[int, str, float]]:
    """Return each status that was seen of an item: attempt, word and epoch second."""
    asked = "SELECT attempt, status, at FROM statuses WHERE item = ? ORDER BY rowid"
    return connection.execute(asked, (number,)).fetchall()


def totals(connection: sqlite3.Connection) -> Totals:
    """Add up the ledger."""
    asked = f"SELECT state, count(*), sum(earlier_cost + {_COST}) FROM items GROUP BY state"
    rows = connection.execute(asked).fetchall()
    return Totals({State(state): count for state, count, _ in rows}, float(sum(cost for *_, cost in rows)))


def made_on(connection: sqlite3.Connection, day: int) -> int:
    """Return how many jobs were made on that day of the service."""
    row = connection.execute("SELECT made FROM days WHERE day = ?", (day,)).fetchone()
    return 0 if row is None else int(row[0])


def service_of(base_url: str) -> str:
    """Return what a ledger calls the service at a root: one emulator is as good as another."""
    return "an emulator" if is_loopback(urlsplit(base_url).hostname) else base_url


def check_service(connection: sqlite3.Connection, path: Path, service: str) -> None:
    """Make sure that the jobs of a ledger are at this service.

    Raises:
        LedgerError: if they are at another.
    """
    if (of := fact(connection, "service")) not in (None, service):
        raise LedgerError(
            f"The ledger {path} is of jobs at {of}, and this is a batch for {service}. Nothing was sent. "
            "Give this batch a ledger of its own, or another folder."
        )


def fact(connection: sqlite3.Connection, name: str) -> str | None:
    """Return one fact about the whole ledger."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def state_fact(connection: sqlite3.Connection, *, name: str, value: str) -> None:
    """Write down a fact about the whole ledger."""
    connection.execute(
        "INSERT INTO facts VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (name, value)
    )


def begin(connection: sqlite3.Connection, *, attempt: int, **values: Any) -> None:
    """Write down the intent to submit an item: its `attempt` so far, 0 for one that is new."""
    if attempt:
        _swap(connection, _BEGIN_AGAIN, {"attempt": attempt, **values})
    else:
        _swap(connection, _BEGIN_FIRST, values)


def accept(connection: sqlite3.Connection, *, day: int, **values: Any) -> None:
    """Write down that a submit made a job, and count it in its day.

    Raises:
        SubmitOutcomeUnknownError: if the job was made under another idempotency key: a job of its own may
            have been made for this one too.
    """
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
    """Write down a status that was seen."""
    _swap(connection, _STATUS, values)
    connection.execute(_NOTE, values)


def end(connection: sqlite3.Connection, **values: Any) -> None:
    """Write down how an item ended, or that its intent is withdrawn, if it is in the state `before` still."""
    _swap(connection, _END, values)


def _swap(connection: sqlite3.Connection, statement: str, values: dict[str, Any]) -> None:
    """Change one line from what it is known to be; a line that is something else is left as it is."""
    if connection.execute(statement, values).rowcount != 1:
        raise LedgerError(
            f"The item {values['key']!r} is not in the ledger as it was left: somebody changed it."
        )


def _entry(row: tuple[Any, ...]) -> ItemRecord:
    record = ItemRecord(**dict(zip(_NAMES, row, strict=True)))
    try:
        object.__setattr__(record, "state", State(record.state))
    except ValueError:
        raise LedgerError(f"The ledger is damaged: the item {record.key!r} is {record.state!r}.") from None
    return record


_NAMES: Final = tuple(field.name for field in fields(ItemRecord))


def _check(path: Path) -> None:
    """Make sure that a ledger is whole, without changing a byte of it."""
    # Without a log there is nothing to wait for, and no file of a log has to be made.
    how = "mode=ro" if promises.log_of(path).exists() else "mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as looking:
        _check_marks(path, looking)
        promises.check(path, looking)
        said = looking.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if said == "ok":
            promises.check_pair(path, looking)
    if said != "ok":
        raise LedgerError(
            f"The ledger {path} is damaged ({said}); it is left as it is. Restore a copy of it."
        )


def _check_marks(path: Path, connection: sqlite3.Connection) -> None:
    """Make sure that a file is a ledger that this library can read.

    By SQLite, never by a descriptor of our own: closing one drops the locks that a writer of this process has
    on the file, and the next process to look at the ledger takes the log away from under it.
    """
    if not path.stat().st_size:
        raise LedgerError(
            f"The ledger {path} is empty: what it knew is lost. Restore a copy of it; or remove it, and what "
            "was made is made again and paid again."
        )
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise LedgerError(
            f"{path} is no ledger of doitong_async, or a damaged one; it is left as it is."
        ) from None
    if application != schema.APPLICATION:
        raise LedgerError(f"{path} is a database, and no ledger of doitong_async; it is left as it is.")
    if version != schema.VERSION:
        raise LedgerError(
            f"The ledger {path} is of version {version}, this library writes version {schema.VERSION}; it is "
            "left as it is. Use the version of the library that made it."
        )
