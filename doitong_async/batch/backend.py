"""What a batch records of its items, and where: here, nowhere."""

from __future__ import annotations

from collections.abc import Sequence

from doitong_async.batch.item import Glimpse, ItemRecord, ItemState, Row
from doitong_async.errors import DoitongError
from doitong_async.files import SavedFile


class LedgerBackend:
    """Stores the item records of a batch; each update names the state that it expects.

    This one stores nothing, for a batch that cannot be resumed.
    """

    owner: str = ""
    """The mark of the temporary files that the ledger's next run may remove."""

    @property
    def is_new(self) -> bool:
        """Whether this run created the ledger, so that no earlier run can have submitted an unknown item."""
        return True

    @property
    def name(self) -> str:
        """A name that is unique among ledgers."""
        return ""

    def find(self, key: str) -> ItemRecord | None:
        """Return an item's record."""
        return None

    def glance(self, key: str) -> Glimpse | None:
        """Return the few fields that say whether an item is done; faster than `find`."""
        return None

    def last_row(self) -> int:
        """Return the number of the last row, 0 if there is none."""
        return 0

    def rows_after(self, number: int, most: int) -> Sequence[Row]:
        """Return the next rows in order, at most so many; a finished item's that is damaged is left out."""
        return ()

    async def begin(
        self,
        key: str,
        *,
        attempt: int,
        digest: str,
        request: str,
        idempotency_key: str,
        body: str,
        reserved: float | None,
        file: str | None,
        at: float,
    ) -> None:
        """Record the intent to submit an item; it is on disk when this returns."""

    async def accept(
        self, key: str, *, attempt: int, job_id: str, status: str, cost: float | None, at: float, day: int
    ) -> None:
        """Record the job that a submit created."""

    def note(
        self,
        key: str,
        *,
        attempt: int,
        before: ItemState,
        state: ItemState,
        status: str,
        cost: float | None,
        url: str | None,
        at: float,
    ) -> None:
        """Record a status, and the state that follows from it, at the next write."""

    def count(self, items: int, *, others: int | None) -> None:
        """Record how many items the source of this run has, at the next write.

        Args:
            items: as far as they were read or counted.
            others: how many items of the ledger are not among them; None if the source was not read whole.
        """

    async def end(
        self,
        key: str,
        *,
        attempt: int,
        before: ItemState,
        state: ItemState,
        error: DoitongError | None = None,
        written: SavedFile | None = None,
        ended_at: float | None = None,
    ) -> None:
        """Record how an item ended, or (as `ItemState.OPEN`) withdraw its intent."""

    async def close(self) -> None:
        """Close what is open."""

    def drop(self) -> None:
        """Close what is open while the event loop closes."""
