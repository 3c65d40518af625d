"""What the items of a batch may cost and did cost, each set aside before its submit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from doitong_async.batch.item_record import ItemRecord
from doitong_async.batch.pending import PendingItem, Terms
from doitong_async.batch.stop_reason import Stopped, StopReason
from doitong_async.budget import BudgetTracker
from doitong_async.errors import BadRequestError, BudgetReachedError
from doitong_async.hook import Throw
from doitong_async.pricing import price_of


class Spending:
    """The purse of one batch, and the line of items that wait for their credits."""

    def __init__(self, terms: Terms, whose: Throw | None = None) -> None:
        self._terms = terms
        self.tracker = BudgetTracker(terms.budget, whose)
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()
        self._under_way: set[str] = set()
        """The items of this run that are not settled: they may turn out cheaper than was set aside."""

    def wake(self) -> None:
        """Let whoever waits for credits look again."""
        self._changed.set()

    def carry(self, spent: float, unsettled: Iterable[ItemRecord]) -> None:
        """Take over what earlier runs spent, and what may be spent for items whose end is to come."""
        for record in unsettled:
            if record.is_unknown and self._terms.retry_failed:
                # It is made anew: what the lost job may have cost stays spent.
                continue
            kept = record.may_cost
            self.tracker.keep(record.key, kept)
            spent -= kept + record.earlier_cost
            self.tracker.carry(record.earlier_cost)
        self.tracker.carry(spent)

    async def reserve(self, pending: PendingItem, stop_reason: StopReason) -> None:
        """Set aside what the item may cost at most, as soon as the budget allows.

        Raises:
            BudgetReachedError: if it never will, as all before it is settled.
            BadRequestError: if there is a budget and the price is not known.
            Stopped: if the batch is stopped first.
        """
        price = price_of(pending.request, self._terms.price)
        pending.reserved = None if price is None else price.high
        if self._terms.budget is None:
            self.tracker.reserve(pending.key, pending.reserved or 0.0)
            return
        if pending.reserved is None:
            raise BadRequestError(
                f"There is a budget, and no price is documented for this {pending.request.type} of "
                f"{pending.request.provider}; give price=…, the credits that such a job costs at most."
            )
        # First come, first served: a cheap item does not overtake one that has to wait for its credits.
        async with self._line:
            while stop_reason.why is None and not self.tracker.reserve(pending.key, pending.reserved):
                if not self._under_way:
                    raise _reached(pending.reserved, self.tracker.left)
                self._changed.clear()
                await self._changed.wait()
        if stop_reason.why is not None:
            raise Stopped
        self.begin(pending)

    def begin(self, pending: PendingItem) -> None:
        """Count an item as under way: what is set aside for it may come back."""
        self._under_way.add(pending.key)

    def settle(self, pending: PendingItem, cost: float | None) -> None:
        """Count what an item cost; where that is not told, the most that it may."""
        if pending.booked is None:
            pending.booked = cost if cost is not None else pending.reserved or 0.0
            self.tracker.settle(pending.key, pending.booked)
        elif cost is not None:
            self.tracker.carry(cost - pending.booked)
            pending.booked = cost
        self._end(pending)

    def release(self, pending: PendingItem) -> None:
        """Give back what was set aside: nothing was charged."""
        if pending.booked is None:
            self.tracker.release(pending.key)
        self._end(pending)

    def _end(self, pending: PendingItem) -> None:
        self._under_way.discard(pending.key)
        self._changed.set()


def _reached(required: float, left: float) -> BudgetReachedError:
    return BudgetReachedError(
        f"The next item may cost {required:,g} credits, and {left:,g} are left of the budget.",
        credits_required=required,
        credits_available=left,
    )
