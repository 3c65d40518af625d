"""Limits the credits that the contract may cost on the live service."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 250
"""Credits; a whole run reserves less, and should cost about half of what it reserves."""
PICTURE = 20
"""Credits reserved for a picture of 512 by 512; its documented price is 10, up to 1024 by 1024 at most 20."""


class BudgetError(Exception):
    """A case may cost more credits than are left."""


@dataclass(slots=True)
class BudgetTracker:
    """Counts the credits left; each case reserves its highest cost before it sends anything."""

    left: int = BUDGET

    def take(self, credits_: int) -> None:
        """Reserve credits.

        Raises:
            BudgetError: if fewer are left; then none are reserved.
        """
        if credits_ > self.left:
            raise BudgetError(
                f"This case may cost {credits_} credits; of the budget of {BUDGET}, {self.left} are left. "
                "Nothing was sent. The budget is in tests/contract/budget.py."
            )
        self.left -= credits_

    def settle(self, reserved: int, actual: float) -> None:
        """Subtract what a case cost beyond its reservation; what it cost less is not given back."""
        self.left -= max(0, round(actual) - reserved)
