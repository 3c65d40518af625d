"""Lets items wait for the budget, and says why a batch submits no more."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable

from doitong_async.batch.item import ItemRecord, ItemState, PendingItem
from doitong_async.batch.source import Terms
from doitong_async.budget import BudgetTracker
from doitong_async.callbacks import Throw
from doitong_async.errors import BadRequestError, BudgetReachedError, DoitongError
from doitong_async.pricing import price_of


class Stopped(Exception):  # noqa: N818 - a signal between methods, never an error that a user sees
    """The batch was stopped, and this item was certainly not submitted."""


class StopReason:
    """Why a batch stopped submitting: the first reason counts, and waiters for the plan learn of it at once.

    Args:
        wake: called when the batch stops; sends away those who wait for the plan.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._stopped = asyncio.Event()
        self.why: DoitongError | None = None
        self.is_detached = False
        """Whether nobody takes items any more: running jobs are left to the service."""

    def stop(self, why: DoitongError) -> None:
        """Stop submitting; running jobs continue."""
        if self.why is None:
            self.why = copy.copy(why)
            # Other items get this error too, and the job and key of its origin are not theirs.
            self.why.job_id = self.why.token = self.why.idempotency_key = None
            self._stopped.set()
            self._wake()

    def not_sent(self) -> DoitongError | None:
        """Return why an item was not sent: the first reason, worded for that item."""
        why = copy.copy(self.why)
        if why is not None:
            why.outcome = "Nothing was sent for this item, and nothing was charged."
        return why

    async def stops_within(self, seconds: float) -> bool:
        """Wait up to `seconds`, and return whether the batch stopped."""
        try:
            async with asyncio.timeout(seconds):
                return await self._stopped.wait()
        except TimeoutError:
            return False


class Spending:
    """The budget of one batch, and the queue of items that wait for credits."""

    def __init__(self, terms: Terms, throw: Throw | None = None) -> None:
        self._terms = terms
        self.tracker: BudgetTracker = BudgetTracker(terms.budget, throw)
        self._queue = asyncio.Lock()
        self._changed = asyncio.Event()
        self._in_flight: set[str] = set()
        """Unsettled items of this run: they may turn out cheaper than their reservation."""

    def wake(self) -> None:
        """Wake the waiters to check the budget again."""
        self._changed.set()

    def carry(self, spent: float, unsettled: Iterable[ItemRecord]) -> None:
        """Carry over what earlier runs spent, and reserve what their unsettled items may cost."""
        for record in unsettled:
            if record.state is ItemState.MISSING and self._terms.retry_failed:
                # It is submitted again: what the lost job may have cost stays spent.
                continue
            reserved = record.may_cost
            self.tracker.keep(record.key, reserved)
            spent -= reserved + record.earlier_cost
            self.tracker.carry(record.earlier_cost)
        self.tracker.carry(spent)

    async def reserve(self, pending: PendingItem, stop_reason: StopReason) -> None:
        """Reserve the item's highest cost as soon as the budget allows.

        Raises:
            BudgetReachedError: if the budget never will, because all earlier items are settled.
            BadRequestError: if there is a budget and the price is unknown.
            Stopped: if the batch is stopped first.
        """
        price = price_of(pending.request, self._terms.price)
        pending.credits.reserved = None if price is None else price.high
        if self._terms.budget is None:
            self.tracker.reserve(pending.key, pending.credits.reserved or 0.0)
            return
        if pending.credits.reserved is None:
            raise BadRequestError(
                f"There is a budget, but no documented price for this {pending.request.type} of "
                f"{pending.request.provider}. Give price=…, the most credits that such a job costs."
            )
        # First come, first served: a cheap item must not overtake one that waits for credits.
        async with self._queue:
            while stop_reason.why is None and not self.tracker.reserve(pending.key, pending.credits.reserved):
                if not self._in_flight:
                    raise _reached(pending.credits.reserved, self.tracker.left)
                self._changed.clear()
                await self._changed.wait()
        if stop_reason.why is not None:
            raise Stopped
        self.begin(pending)

    def begin(self, pending: PendingItem) -> None:
        """Count an item as in flight: part of its reservation may come back."""
        self._in_flight.add(pending.key)

    def settle(self, pending: PendingItem, cost: float | None) -> None:
        """Count an item's cost; if the service does not say, its reservation."""
        if pending.credits.booked is None:
            pending.credits.booked = cost if cost is not None else pending.credits.reserved or 0.0
            self.tracker.settle(pending.key, pending.credits.booked)
        elif cost is not None:
            self.tracker.carry(cost - pending.credits.booked)
            pending.credits.booked = cost
        self._end(pending)

    def release(self, pending: PendingItem) -> None:
        """Release a reservation: nothing was charged."""
        if pending.credits.booked is None:
            self.tracker.release(pending.key)
        self._end(pending)

    def _end(self, pending: PendingItem) -> None:
        self._in_flight.discard(pending.key)
        self._changed.set()


def _reached(required: float, left: float) -> BudgetReachedError:
    return BudgetReachedError(
        f"The next item may cost {required:,g} credits, but only {left:,g} are left of the budget.",
        credits_required=required,
        credits_available=left,
    )
