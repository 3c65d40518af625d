"""Whether a ledger's file says all that was begun, or only together with its log, which a copy may lack.

SQLite keeps what was written last in a log beside the file (`run.db-wal`). A copy of the file alone is a
sound database that knows too little: what it does not know would be made again and paid again. Two facts
tell. `promised` is a mark that is in the file itself before anything more is written; `kept`, the same mark,
is written after it and stays in the log. So the file alone says "more is to come", and the log resolves it.
A copy that SQLite made, and a ledger whose log somebody moved into the file, have both.

The log is moved into the file (a checkpoint) only by `renew`, and by whoever closes the ledger last:

- Before each checkpoint a new mark is promised. Of a page that was written several times, a checkpoint moves
  the last version alone (tests/test_foreign.py). So the page with the two facts gets into the file as
  "promised, not kept" or not at all, however a checkpoint is cut short: by a kill, an error, or a reader
  whose view it must not run ahead of. What the file has is the old promise, not kept, or the new one.
- `kept` is written when all of the log is in the file. It then stands at the head of a log that begins anew.
- Where a reader held the checkpoint up, the new promise is withdrawn: it is the last thing in the log, so it
  is not in the file. Where it broke off, the promise stays, and the next `renew` goes on with it.
- Closing renews first. What is moved into the file at the very end is the page with the two facts.
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
"""Changes after which it is tried again where a reader held it up: our choice."""
PATIENCE: Final = 0.1
"""Seconds for which a running batch waits for readers, before it lets the log grow: our choice."""
PATIENCE_AT_FIRST: Final = 5.0
"""Seconds for which a batch waits for readers before it begins: our choice."""
_HEAD: Final = 32
_FRAME: Final = 24
"""Bytes of the heads of a log and of each page in it."""
_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_READ: Final = "SELECT name, value FROM facts WHERE name IN ('promised', 'kept')"
# Both at once, so that from the first promise on nothing changes but one page.
_PROMISE: Final = """
INSERT INTO facts VALUES ('promised', ?), ('kept', ?) ON CONFLICT DO UPDATE SET value = excluded.value
"""


def log_of(path: Path) -> Path:
    """Return where the log of a ledger is."""
    return path.with_name(f"{path.name}-wal")


def has_log(path: Path) -> bool:
    """Whether there is a log beside a ledger that SQLite takes anything from.

    Its head and its first page have checksums (SQLite's file format, "The Write-Ahead Log"): a log that is
    empty, cut short or of other bytes is ignored by SQLite, and is as good as none.
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
    # Killed as SQLite began the log anew: what follows is of the log before, which is all in the file.
    before = struct.pack(">I", (struct.unpack(">I", head[16:20])[0] - 1) & 0xFFFFFFFF)
    return before in (frame[8:12], following[8:12])


def _summed(data: bytes, sums: tuple[int, int], order: Literal["<", ">"]) -> tuple[int, int]:
    """Go on with the checksum of SQLite's logs."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return first, second


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Make sure that a ledger is not without the log that it needs.

    Raises:
        LedgerError: if its file says that more is to come, and there is no log.
    """
    promised, kept = _marks(connection)
    # The connection is open and was used: nobody else removes the log any more.
    if promised != kept and not has_log(path):
        log = log_of(path).name
        raise LedgerError(
            f"The ledger {path} is not whole: it was copied, or left, without its log {log}, which has what "
            f"was written last. Nothing was sent. Put {log} back beside it, or copy both files, best while "
            f'no batch runs; `sqlite3 {path.name} ".backup copy.db"` makes one file of both at any time.'
        )


def check_pair(path: Path, connection: sqlite3.Connection) -> None:
    """Make sure that a ledger and its log are of one time; only while nobody writes.

    Raises:
        LedgerError: if the log goes on from another state of the file.
    """
    in_file = _marks_in_file(path)
    if in_file is not None and in_file[0] not in _marks(connection):
        raise LedgerError(
            f"The ledger {path} and its log {log_of(path).name} do not belong together: one of them was put "
            "back from another time. Nothing was sent. Restore both from the same copy."
        )


def begin(path: Path, connection: sqlite3.Connection) -> None:
    """Promise that more is to come, in the file itself, before anything is written.

    Raises:
        LedgerError: if a reader keeps the promise from getting there.
    """
    if renew(connection, patience=PATIENCE_AT_FIRST):
        return
    in_file = _marks_in_file(path)
    if in_file is not None and in_file[0] == in_file[1]:
        raise LedgerError(
            f"The ledger {path} is being read by another program, and has been for a while. Nothing was "
            "sent. Let that program end, then run the batch again."
        )


def renew(connection: sqlite3.Connection, *, patience: float) -> bool:
    """Move the log into the file, and return whether all of it is there; see above.

    Args:
        connection: the writer's.
        patience: seconds to wait for readers whose view is of before.

    Raises:
        sqlite3.Error: if the disk does not let it.
    """
    # Whatever level the last changes had: each step is on the disk before the next.
    connection.execute("PRAGMA synchronous = FULL")
    promised, kept = _marks(connection)
    is_new = promised == kept
    if is_new:
        promised = secrets.token_hex(8)
        connection.execute(_PROMISE, (promised, kept))
    with _waiting(connection, patience):
        is_held_up, in_log, in_file = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    if is_held_up or in_log != in_file:
        if is_new:
            connection.execute(_PROMISE, (kept, kept))
        return False
    connection.execute(_PROMISE, (promised, promised))
    return True


@contextlib.contextmanager
def _waiting(connection: sqlite3.Connection, seconds: float) -> Iterator[None]:
    """Let a connection wait so long for others, and then as long as before."""
    (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {seconds * 1_000:.0f}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {usual}")


def _marks(connection: sqlite3.Connection) -> tuple[str, str]:
    """Return what is promised and what is kept; an older version of this library wrote neither."""
    facts = dict(connection.execute(_READ).fetchall())
    return facts.get("promised", ""), facts.get("kept", "")


def _marks_in_file(path: Path) -> tuple[str, str] | None:
    """Return what the file says without its log, or None if it is no whole database without it."""
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as alone:
        try:
            return _marks(alone)
        except sqlite3.DatabaseError:
            return None
