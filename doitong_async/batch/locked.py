"""Waits while another program holds the write lock of a ledger.

A backup or an editor may hold it for seconds. The jobs continue at the service meanwhile, so waiting costs
nothing, while giving up would end the batch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from doitong_async.errors import LedgerError
from doitong_async.log import log

EACH: Final = 1.0
"""Seconds that SQLite itself waits for a lock, in one attempt: our choice."""
MOST_ATTEMPTS: Final = 60
"""About a minute: our choice."""

T = TypeVar("T")


class LockWait:
    """Repeats what found the ledger locked; one for each ledger and its thread.

    Args:
        path: the ledger.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._most = MOST_ATTEMPTS

    def run(self, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns once the lock is free; it may run many times.

        After a minute in vain, the next waits are short until one succeeds: the batch ends by then.

        Raises:
            LedgerError: if the lock stays taken for about a minute.
        """
        for number in range(1, self._most + 1):
            try:
                result = attempt()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            else:
                self._most = MOST_ATTEMPTS
                return result
            if number == 1 < self._most:
                log.warning(
                    "another program is writing to the ledger %s; waiting for it, up to a minute", self._path
                )
        self._most = 1
        raise LedgerError(
            f"Another program has been writing to the ledger {self._path} for about a minute. Close it, then "
            "run the batch again."
        )
