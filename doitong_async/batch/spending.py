"""Counts what the items of a batch reserve and spend, and says why a batch submits no more."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable

from doitong_async.batch.item import ItemRecord, ItemState, PendingItem
from doitong_async.batch.source import Terms
from doitong_async.budget import Reservation
from doitong_async.callbacks import Throw
from doitong_async.errors import DoitongError
from doitong_async.limits.admission import Admission
from doitong_async.limits.credits import Credits
from doitong_async.pricing import most_of


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
    """The budget of one batch, over all runs on its ledger."""

    def __init__(self, terms: Terms, throw: Throw | None = None) -> None:
        self._terms = terms
        self.credits: Credits = Credits(terms.budget, throw)

    def carry(self, spent: float, unsettled: Iterable[ItemRecord]) -> None:
        """Carry over what earlier runs spent, and reserve what their unsettled items may cost."""
        tracker = self.credits.tracker
        for record in unsettled:
            if record.state is ItemState.MISSING and self._terms.retry_failed:
                # It is submitted again: what the lost job may have cost stays spent.
                continue
            self.credits.keep(record.key, tracker.reserve(record.may_cost))
            spent -= record.may_cost + record.earlier_cost
            tracker.carry(record.earlier_cost)
        tracker.carry(spent)

    async def reserve(self, pending: PendingItem, admission: Admission) -> None:
        """Reserve the item's highest cost as soon as the budget allows.

        Raises:
            BudgetReachedError: if the budget never will, because all earlier items are settled.
            BadRequestError: if there is a budget and the price is unknown.
            ClientClosedError: if the batch is stopped first.
        """
        has_budget = self._terms.budget is not None
        pending.credits.most = most_of(pending.request, self._terms.price, has_budget=has_budget)
        with await admission.reservation(self.credits, pending.credits.most or 0.0) as reservation:
            pending.credits.reservation = reservation.hand_over()

    def resume(self, pending: PendingItem) -> None:
        """Take up what an earlier run reserved, or spent, for an item."""
        if pending.record is not None and pending.state is ItemState.DONE:
            pending.credits.reservation = self.credits.tracker.settled(pending.record.may_cost)
        else:
            pending.credits.reservation = self.credits.resume(pending.key) or Reservation()
