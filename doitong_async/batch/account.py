"""What the items of a batch may cost and did cost, each set aside before its submit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from doitong_async.batch.entry import Entry
from doitong_async.batch.halt import Halt, Stopped
from doitong_async.batch.work import Terms, Work
from doitong_async.budget import Purse
from doitong_async.errors import BadRequestError, BudgetReachedError
from doitong_async.hook import Throw
from doitong_async.pricing import price_of


class Account:
    """The purse of one batch, and the line of items that wait for their credits."""

    def __init__(self, terms: Terms, whose: Throw | None = None) -> None:
        self._terms = terms
        self.purse = Purse(terms.budget, whose)
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()
        self._under_way: set[str] = set()
        """The items of this run that are not settled: they may turn out cheaper than was set aside."""

    def wake(self) -> None:
        """Let whoever waits for credits look again."""
        self._changed.set()

    def carry(self, spent: float, unsettled: Iterable[Entry]) -> None:
        """Take over what earlier runs spent, and what may be spent for items whose end is to come."""
        for entry in unsettled:
            if entry.is_unknown and self._terms.retry_failed:
                # It is made anew: what the lost job may have cost stays spent.
                continue
            kept = entry.may_cost
            self.purse.keep(entry.key, kept)
            spent -= kept + entry.earlier_cost
            self.purse.carry(entry.earlier_cost)
        self.purse.carry(spent)

    async def reserve(self, work: Work, halt: Halt) -> None:
        """Set aside what the item may cost at most, as soon as the budget allows.

        Raises:
            BudgetReachedError: if it never will, as all before it is settled.
            BadRequestError: if there is a budget and the price is not known.
            Stopped: if the batch is stopped first.
        """
        price = price_of(work.request, self._terms.price)
        work.reserved = None if price is None else price.high
        if self._terms.budget is None:
            self.purse.reserve(work.key, work.reserved or 0.0)
            return
        if work.reserved is None:
            raise BadRequestError(
                f"There is a budget, and no price is documented for this {work.request.type} of "
                f"{work.request.provider}; give price=…, the credits that such a job costs at most."
            )
        # First come, first served: a cheap item does not overtake one that has to wait for its credits.
        async with self._line:
            while halt.why is None and not self.purse.reserve(work.key, work.reserved):
                if not self._under_way:
                    raise _reached(work.reserved, self.purse.left)
                self._changed.clear()
                await self._changed.wait()
        if halt.why is not None:
            raise Stopped
        self.begin(work)

    def begin(self, work: Work) -> None:
        """Count an item as under way: what is set aside for it may come back."""
        self._under_way.add(work.key)

    def settle(self, work: Work, cost: float | None) -> None:
        """Count what an item cost; where that is not told, the most that it may."""
        if work.booked is None:
            work.booked = cost if cost is not None else work.reserved or 0.0
            self.purse.settle(work.key, work.booked)
        elif cost is not None:
            self.purse.carry(cost - work.booked)
            work.booked = cost
        self._end(work)

    def release(self, work: Work) -> None:
        """Give back what was set aside: nothing was charged."""
        if work.booked is None:
            self.purse.release(work.key)
        self._end(work)

    def _end(self, work: Work) -> None:
        self._under_way.discard(work.key)
        self._changed.set()


def _reached(required: float, left: float) -> BudgetReachedError:
    return BudgetReachedError(
        f"The next item may cost {required:,g} credits, and {left:,g} are left of the budget.",
        credits_required=required,
        credits_available=left,
    )
