"""The interface through which a batch records its items, and a backend that records nothing."""

from __future__ import annotations

from typing import Any, Protocol

from doitong_async.batch.item_record import Glimpse, ItemRecord, State


class LedgerBackend(Protocol):
    """Stores the item records of a batch; each update names the state that it expects."""

    @property
    def is_new(self) -> bool:
        """Whether this run created the ledger, so that no earlier run can have submitted an unknown item."""

    @property
    def name(self) -> str:
        """Return a name that is unique among ledgers."""

    def find(self, key: str) -> ItemRecord | None:
        """Return an item's record."""

    def body_of(self, key: str) -> str | None:
        """Return the body that was sent for an item in doubt, if the ledger has it."""

    def glance(self, key: str) -> Glimpse | None:
        """Return the few fields that say whether an item is done; faster than `find`."""

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
        self, key: str, *, attempt: int, status: str, cost: float | None, url: str | None, at: float
    ) -> None:
        """Record a status, at the next write."""

    async def end(
        self,
        key: str,
        *,
        attempt: int,
        before: State,
        state: State,
        reason: str | None = None,
        file: str | None = None,
        length: int | None = None,
        sha256: str | None = None,
        ended_at: float | None = None,
    ) -> None:
        """Record how an item ended, or (as `State.OPEN`) withdraw its intent."""

    async def close(self) -> None:
        """Close what is open."""

    def drop(self) -> None:
        """Close what is open while the event loop closes."""


class NoLedger:
    """No ledger: the batch cannot be resumed."""

    is_new = True
    name = ""

    def find(self, key: str) -> ItemRecord | None:
        """Return None."""
        return None

    def body_of(self, key: str) -> str | None:
        """Return None."""
        return None

    def glance(self, key: str) -> Glimpse | None:
        """Return None."""
        return None

    async def begin(self, key: str, **_: Any) -> None:
        """Record nothing."""

    async def accept(self, key: str, **_: Any) -> None:
        """Record nothing."""

    def note(self, key: str, **_: Any) -> None:
        """Record nothing."""

    async def end(self, key: str, **_: Any) -> None:
        """Record nothing."""

    async def close(self) -> None:
        """Close nothing."""

    def drop(self) -> None:
        """Close nothing."""
