"""What a batch may spend, and the account of what it did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from doitong_async.errors import ConfigurationError
from doitong_async.hook import Callback, Throw, checked_callback
from doitong_async.pricing import is_amount


@dataclass(frozen=True, slots=True)
class Budget:
    """What a batch may spend.

    Args:
        credits: the most that may be spent; a job is submitted only if its highest price is still left.
        low_at: the share of the budget at which `on_low` is called; 0.1 is a tenth.
        on_low: a plain function, called once with the credits left, when no more than that share is neither
            spent nor reserved; it must return quickly. What it raises harms nothing.

    Raises:
        ConfigurationError: if there is nothing to spend, the share is none, or `on_low` no plain function.
    """

    credits: float
    low_at: float = field(default=0.1, kw_only=True)
    on_low: Callable[[float], object] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not is_amount(self.credits) or self.credits <= 0:
            raise ConfigurationError(
                f"budget is {self.credits!r}; expected credits, a finite number above zero."
            )
        if not is_amount(self.low_at) or not 0 <= self.low_at < 1:
            raise ConfigurationError(
                f"low_at is {self.low_at!r}; expected a share from 0 to below 1, such as 0.1."
            )
        checked_callback(self.on_low, "on_low")


class BudgetTracker:
    """The account of a budget: what is spent, what is reserved for jobs under way, what is left.

    It counts in millionths of a credit, so that the order of things changes no sum.

    Args:
        budget: what may be spent; None sets no bound, and all is counted as ever.
        whose: raises what `on_low` leaves for the user, out of the wait of whoever runs the batch.
    """

    def __init__(self, budget: Budget | None, whose: Throw | None = None) -> None:
        self._budget = budget
        self._whose = whose
        self._on_low = Callback(
            None if budget is None else budget.on_low, "on_low", lambda left: f"at {left:g} credits left"
        )
        self._all = None if budget is None else _exact(budget.credits)
        self._spent = 0
        self._reserved = 0
        self._of: dict[str, int] = {}
        self._was_low = False

    @property
    def spent(self) -> float:
        """Credits that ended jobs cost."""
        return _credits(self._spent)

    @property
    def reserved(self) -> float:
        """Credits kept for jobs under way."""
        return _credits(self._reserved)

    @property
    def left(self) -> float:
        """Credits neither spent nor reserved, below zero if jobs cost more than was expected."""
        return math.inf if self._all is None else _credits(self._all - self._spent - self._reserved)

    def reserve(self, item: str, credits: float) -> bool:  # noqa: A002 - the field's word
        """Keep credits for an item, in place of what was kept for it before.

        Returns:
            False if they are not left; then nothing is changed.
        """
        amount = _exact(credits)
        reserved = self._reserved - self._of.get(item, 0) + amount
        if self._all is not None and self._spent + reserved > self._all:
            return False
        self._of[item], self._reserved = amount, reserved
        self._see()
        return True

    def keep(self, item: str, amount: float) -> None:
        """Keep credits for an item whatever is left: they may be spent already."""
        self._reserved += _exact(amount) - self._of.get(item, 0)
        self._of[item] = _exact(amount)
        self._see()

    def settle(self, item: str, cost: float | None) -> None:
        """Count an item as spent, by what it really cost, be it more than was kept.

        An item for which nothing is kept was settled or released before: nothing is changed.

        Args:
            item: which.
            cost: credits, as the service said; None, or what is no amount, counts as what was kept.
        """
        kept = self._of.pop(item, None)
        if kept is None:
            return
        self._reserved -= kept
        is_told = cost is not None and math.isfinite(cost) and cost >= 0
        self._spent += _exact(cost) if is_told and cost is not None else kept
        self._see()

    def release(self, item: str) -> None:
        """Give back what is kept for an item, as nothing was charged for it."""
        self._reserved -= self._of.pop(item, 0)

    def carry(self, spent: float) -> None:
        """Count credits that earlier runs of the same batch spent."""
        self._spent += _exact(spent)
        self._see()

    def _see(self) -> None:
        if self._budget is None or self._all is None or self._was_low:
            return
        left = self._all - self._spent - self._reserved
        if left > self._budget.low_at * self._all:
            return
        self._was_low = True
        self._on_low.aside(_credits(left), self._whose)


_PARTS: Final = 1_000_000


def _exact(amount: float) -> int:
    whole = math.floor(amount)
    return whole * _PARTS + round((amount - whole) * _PARTS)


def _credits(parts: int) -> float:
    return parts / _PARTS
