"""Detects a ledger that was copied or restored without its SQLite log.

SQLite keeps the latest changes in a log beside the file (`run.db-wal`). A copy of the file alone is a sound
database without those changes: its items would be submitted again and paid again. Two facts reveal this.
`promised` is a mark that is in the file before anything else is written; `kept`, the same mark, is written
after it and stays in the log. So the file alone says "more is to come", and the log resolves it. A copy made
by SQLite, and a ledger whose log was moved into the file, have both.

Only `renew`, and the last connection to close, move the log into the file (a checkpoint):

- Before each checkpoint a new mark is promised. Of a page written several times, a checkpoint moves only the
  last version (tests/test_foreign.py). However a checkpoint is interrupted, by a kill, an error or a reader,
  the file then has either the old marks, or the new mark as promised but not kept.
- `kept` is written once all of the log is in the file. It is then the first page of a new log.
- If a reader blocked the checkpoint, the new promise is withdrawn: it is last in the log, so it is not in the
  file. If the checkpoint broke off, the promise stays, and the next `renew` continues with it.
- Closing renews first. The last page to move into the file is the one with the two facts.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from doitong_async.errors import LedgerError

EVERY: Final = 1_000
"""Changes after which the log is moved into the file: our choice."""
RETRY: Final = 250
"""Changes after which to try again when a reader blocked it: our choice."""
PATIENCE: Final = 0.1
"""Seconds for which a running batch waits for readers before it lets the log grow: our choice."""
PATIENCE_AT_FIRST: Final = 5.0
"""Seconds for which a batch waits for readers before it starts: our choice."""
_HEAD: Final = 32
_FRAME: Final = 24
"""Sizes in bytes of a log's header, and of the header of each page in it."""
_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_READ: Final = "SELECT name, value FROM facts WHERE name IN ('promised', 'kept')"
# Both at once, so that from the first promise on only one page changes.
_PROMISE: Final = """
INSERT INTO facts VALUES ('promised', ?), ('kept', ?) ON CONFLICT DO UPDATE SET value = excluded.value
"""


def log_of(path: Path) -> Path:
    """Return the path of a ledger's log."""
    return path.with_name(f"{path.name}-wal")


def has_log(path: Path) -> bool:
    """Whether a ledger has a log that SQLite would read.

    Its header and its first page have checksums (SQLite's file format, "The Write-Ahead Log"): SQLite ignores
    a log that is empty, cut short or corrupt.
    """
    try:
        with log_of(path).open("rb") as log:
            head = log.read(_HEAD)
            if len(head) < _HEAD or head[:4] not in _MAGIC:
                return False
            order: Literal["<", ">"] = ">" if head[3] & 1 else "<"
            (size,) = struct.unpack(">I", head[8:12])
            frame, following = log.read(_FRAME + size), log.read(_FRAME)
    except FileNotFoundError:
        return False
    sums = _summed(head[:24], (0, 0), order)
    if struct.pack(">II", *sums) != head[24:] or len(frame) < _FRAME + size:
        return False
    sums = _summed(frame[_FRAME:], _summed(frame[:8], sums, order), order)
    if frame[8:16] == head[16:24] and struct.pack(">II", *sums) == frame[16:24]:
        return True
    # Killed while SQLite restarted the log: what follows is the previous log, which is all in the file.
    before = struct.pack(">I", (struct.unpack(">I", head[16:20])[0] - 1) & 0xFFFFFFFF)
    return before in (frame[8:12], following[8:12])


def _summed(data: bytes, sums: tuple[int, int], order: Literal["<", ">"]) -> tuple[int, int]:
    """Continue the checksum of SQLite's logs."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Check that a ledger has the log that it needs.

    Raises:
        LedgerError: if its file says that more is to come, and there is no log.
    """
    promised, kept = _marks(connection)
    # The connection is open and was used: nobody else can remove the log now.
    if promised != kept and not has_log(path):
        log = log_of(path).name
        raise LedgerError(
            f"The ledger {path} is incomplete: it was copied, or left, without its log {log}, which has the "
            f"latest changes. Nothing was sent. Put {log} back beside it, or copy both files, best while no "
            f'batch runs; `sqlite3 {path.name} ".backup copy.db"` makes one file of both at any time.'
        )


def check_pair(path: Path, connection: sqlite3.Connection) -> None:
    """Check that a ledger and its log belong together; only while nobody writes.

    Raises:
        LedgerError: if the log continues another state of the file.
    """
    in_file = _marks_in_file(path)
    if in_file is not None and in_file[0] not in _marks(connection):
        raise LedgerError(
            f"The ledger {path} and its log {log_of(path).name} do not belong together: one of them was "
            "restored from another time. Nothing was sent. Restore both from the same copy."
        )


def begin(path: Path, connection: sqlite3.Connection) -> None:
    """Promise in the file itself that more is to come, before anything is written.

    Raises:
        LedgerError: if a reader keeps the promise from reaching the file.
    """
    if renew(connection, patience=PATIENCE_AT_FIRST):
        return
    in_file = _marks_in_file(path)
    if in_file is not None and in_file[0] == in_file[1]:
        raise LedgerError(
            f"Another program has been reading the ledger {path} for a while. Nothing was sent. Let that "
            "program end, then run the batch again."
        )


def renew(connection: sqlite3.Connection, *, patience: float) -> bool:
    """Move the log into the file, and return whether all of it is there; see the top of this module.

    Args:
        connection: the writer's connection.
        patience: seconds to wait for readers with an older view.

    Raises:
        sqlite3.Error: if the disk fails.
    """
    # Whatever level the last changes had, each step must be on disk before the next.
    connection.execute("PRAGMA synchronous = FULL")
    promised, kept = _marks(connection)
    is_new = promised == kept
    if is_new:
        promised = secrets.token_hex(8)
        connection.execute(_PROMISE, (promised, kept))
    with _busy_timeout(connection, patience):
        is_held_up, in_log, in_file = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    if is_held_up or in_log != in_file:
        if is_new:
            connection.execute(_PROMISE, (kept, kept))
        return False
    connection.execute(_PROMISE, (promised, promised))
    return True


@contextlib.contextmanager
def _busy_timeout(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Set how long a connection waits for others, then restore the usual time."""
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {seconds * 1_000:.0f}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}")


def _marks(connection: sqlite3.Connection) -> tuple[str, str]:
    """Return what is promised and what is kept; older versions of this library wrote neither."""
    facts = dict(connection.execute(_READ).fetchall())
    return facts.get("promised", ""), facts.get("kept", "")


def _marks_in_file(path: Path) -> tuple[str, str] | None:
    """Return what the file says without its log, or None if it is not a whole database."""
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as alone:
        try:
            return _marks(alone)
        except sqlite3.DatabaseError:
            return None
