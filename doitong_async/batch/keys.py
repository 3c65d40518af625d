"""Item keys: the user's own, or the request's digest with a counter for repeats; memory stays flat."""

from __future__ import annotations

import sqlite3

from doitong_async.batch.entry import KEY_LENGTH
from doitong_async.errors import BadRequestError

_TABLE = (
    "CREATE TABLE seen (key TEXT PRIMARY KEY, times INTEGER NOT NULL, number INTEGER NOT NULL) WITHOUT ROWID"
)
_SEE = "INSERT INTO seen VALUES (?, 1, ?) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times, number"


class ItemKeys:
    """Gives every item of one run its key; what was given is kept in a temporary file, not in memory."""

    def __init__(self) -> None:
        # An empty name is a database of SQLite's own, which spills to a file that vanishes with it.
        self._seen = sqlite3.connect("", isolation_level=None)
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute(_TABLE)
        # One transaction that never ends: nothing of it has to outlive this object.
        self._seen.execute("BEGIN")

    def close(self) -> None:
        """Forget them all."""
        self._seen.close()

    def key_of(self, given: str | None, digest: str, number: int) -> str:
        """Return the key of an item.

        Args:
            given: the user's own key, if there is one.
            digest: of the request.
            number: the item's place in this run, from 1.

        Raises:
            BadRequestError: if the user's key was given before, in this run.
        """
        if given is not None:
            times, first = self._see(f"given {given}", number)
            if times > 1:
                raise BadRequestError(
                    f"The item key {given!r} is given twice, to the items {first} and {number}; "
                    "give each item a key of its own."
                )
            return given
        times, _ = self._see(digest, number)
        key = digest[:KEY_LENGTH]
        return key if times == 1 else f"{key}-{times}"

    def _see(self, key: str, number: int) -> tuple[int, int]:
        row: tuple[int, int] = self._seen.execute(_SEE, (key, number)).fetchone()
        return row
