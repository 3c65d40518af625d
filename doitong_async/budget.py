"""What a batch may spend, and how much of it is spent, reserved and left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from doitong_async.callbacks import Callback, Throw, checked_callback
from doitong_async.errors import ConfigurationError
from doitong_async.pricing import is_amount


@dataclass(frozen=True, slots=True)
class Budget:
    """What a batch may spend.

    Args:
        credits: the most to spend; a job is submitted only if its highest price is still left.
        low_at: the share of the budget at which to call `on_low`; 0.1 is a tenth.
        on_low: a plain function, called once with the credits left when they fall to that share; it must
            return quickly. An exception in it harms nothing.

    Raises:
        ConfigurationError: if `credits` or `low_at` is out of range, or `on_low` is no plain function.
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
    """Tracks a budget: credits spent, reserved for jobs in flight, and left.

    It counts in millionths of a credit, so that no sum depends on the order of its terms.

    Args:
        budget: what may be spent; None sets no bound, but everything is counted.
        whose: gets an exit such as KeyboardInterrupt out of `on_low`, and raises it in the batch's loop.
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
        """Credits that finished jobs cost."""
        return _credits(self._spent)

    @property
    def reserved(self) -> float:
        """Credits reserved for jobs in flight."""
        return _credits(self._reserved)

    @property
    def left(self) -> float:
        """Credits neither spent nor reserved, below zero if jobs cost more than expected."""
        return math.inf if self._all is None else _credits(self._all - self._spent - self._reserved)

    def reserve(self, item: str, credits: float) -> bool:  # noqa: A002 - the field's word
        """Reserve credits for an item, replacing its earlier reservation.

        Returns:
            False if too few are left; then nothing changes.
        """
        amount = _exact(credits)
        reserved = self._reserved - self._of.get(item, 0) + amount
        if self._all is not None and self._spent + reserved > self._all:
            return False
        self._of[item], self._reserved = amount, reserved
        self._check_low()
        return True

    def keep(self, item: str, amount: float) -> None:
        """Reserve credits for an item whatever is left: they may be spent already."""
        self._reserved += _exact(amount) - self._of.get(item, 0)
        self._of[item] = _exact(amount)
        self._check_low()

    def settle(self, item: str, cost: float | None) -> None:
        """Count an item as spent, at its actual cost, even above its reservation.

        An item without a reservation was settled or released before: nothing changes.

        Args:
            item: the item's key.
            cost: credits, as the service reported; None or an invalid amount counts as the reservation.
        """
        reserved_before = self._of.pop(item, None)
        if reserved_before is None:
            return
        self._reserved -= reserved_before
        is_valid = cost is not None and math.isfinite(cost) and cost >= 0
        self._spent += _exact(cost) if is_valid and cost is not None else reserved_before
        self._check_low()

    def release(self, item: str) -> None:
        """Release an item's reservation, as nothing was charged for it."""
        self._reserved -= self._of.pop(item, 0)

    def carry(self, spent: float) -> None:
        """Count credits that earlier runs of the same batch spent."""
        self._spent += _exact(spent)
        self._check_low()

    def _check_low(self) -> None:
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
