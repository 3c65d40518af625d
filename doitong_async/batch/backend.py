"""Where a batch writes down what it does: a ledger, or nowhere."""

from __future__ import annotations

from typing import Any, Protocol

from doitong_async.batch.item_record import Glimpse, ItemRecord, State


class LedgerBackend(Protocol):
    """Where a batch writes down what it does; each change is from what the line is known to be."""

    @property
    def is_new(self) -> bool:
        """Whether this run made it: what it does not know, no earlier run on it can have made."""

    @property
    def name(self) -> str:
        """Return what tells it from other ledgers."""

    def find(self, key: str) -> ItemRecord | None:
        """Return what is known of an item."""

    def body_of(self, key: str) -> str | None:
        """Return what was sent for an item that is in doubt, if that is kept."""

    def glance(self, key: str) -> Glimpse | None:
        """Return the few things that tell whether an item is done; quicker than `find`."""

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
        """Write down the intent to submit an item; it is on the disk when this returns."""

    async def accept(
        self, key: str, *, attempt: int, job_id: str, status: str, cost: float | None, at: float, day: int
    ) -> None:
        """Write down which job a submit made."""

    def note(
        self, key: str, *, attempt: int, status: str, cost: float | None, url: str | None, at: float
    ) -> None:
        """Write down a status that was seen, soon."""

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
        """Write down how an item ended, or (as `State.OPEN`) that its intent is withdrawn."""

    async def close(self) -> None:
        """Let go of whatever is open."""

    def drop(self) -> None:
        """Let go of whatever is open, as the event loop is closed."""


class NoLedger:
    """No ledger: a batch that cannot be taken up again."""

    is_new = True
    name = ""

    def find(self, key: str) -> ItemRecord | None:
        """Know nothing."""
        return None

    def body_of(self, key: str) -> str | None:
        """Know nothing."""
        return None

    def glance(self, key: str) -> Glimpse | None:
        """Know nothing."""
        return None

    async def begin(self, key: str, **_: Any) -> None:
        """Write nothing down."""

    async def accept(self, key: str, **_: Any) -> None:
        """Write nothing down."""

    def note(self, key: str, **_: Any) -> None:
        """Write nothing down."""

    async def end(self, key: str, **_: Any) -> None:
        """Write nothing down."""

    async def close(self) -> None:
        """Leave nothing open."""

    def drop(self) -> None:
        """Have nothing to let go of."""
