"""Item keys: the user's own, or the request's digest with a counter for repeats, in constant memory."""

from __future__ import annotations

import re
import sqlite3

from doitong_async.batch.item_record import KEY_LENGTH
from doitong_async.errors import BadRequestError

_TABLE = "CREATE TABLE seen (key PRIMARY KEY, times INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID"
_SEE = "INSERT INTO seen VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times, number"


_MADE = re.compile(rf"([0-9a-f]{{{KEY_LENGTH}}})(?:-(\d{{1,9}}))?")


class ItemKeys:
    """Assigns each item of one run its key; the keys are kept in a temporary file, not in memory."""

    def __init__(self) -> None:
        # An empty name opens SQLite's own temporary database, which spills to a file and vanishes on close.
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute(_TABLE)
        # One endless transaction: nothing has to outlive this object.
        self._seen.execute("BEGIN")
        self._has_lookalikes = False
        """Whether a user gave a key that looks like a generated one."""

    def close(self) -> None:
        """Forget all keys."""
        self._seen.close()

    def key_of(self, given: str | None, digest: str, number: int) -> str:
        """Return the key of an item.

        Args:
            given: the user's own key, if any.
            digest: the digest of the request.
            number: the item's number in this run, from 1.

        Raises:
            BadRequestError: if the key occurred before in this run.
        """
        if given is not None:
            times, first = self._see(f"given {given}", number)
            lookalike = _MADE.fullmatch(given)
            if lookalike and times == 1:
                self._has_lookalikes = True
                times, first = self._find_generated(lookalike)
            if times > 1:
                raise _duplicate(given, first, number)
            return given
        times, _ = self._see(bytes.fromhex(digest), number)
        key = digest[:KEY_LENGTH] if times == 1 else f"{digest[:KEY_LENGTH]}-{times}"
        if self._has_lookalikes:
            seen = self._seen.execute("SELECT number FROM seen WHERE key = ?", (f"given {key}",)).fetchone()
            if seen is not None:
                raise _duplicate(key, seen[0], number)
        return key

    def _find_generated(self, given: re.Match[str]) -> tuple[int, int]:
        """Return 2 and the item's number if exactly this key was generated before; otherwise 1."""
        first = bytes.fromhex(given[1])
        between = first, first + b"\xff" * 32
        row = self._seen.execute(
            "SELECT times, number FROM seen WHERE key BETWEEN ? AND ?", between
        ).fetchone()
        is_made = row is not None and row[0] >= int(given[2] or 1)
        return (2, row[1]) if is_made else (1, 0)

    def _see(self, key: str | bytes, number: int) -> tuple[int, int]:
        row: tuple[int, int] = self._seen.execute(_SEE, (key, number)).fetchone()
        return row


def _duplicate(key: str, first: int, second: int) -> BadRequestError:
    return BadRequestError(
        f"The item key {key!r} is used twice, by the items {first} and {second}. Give each item its own key."
    )
