"""The credits that the contract may cost on the live service, and not one more."""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 250
"""Credits; a whole run reserves less, and should really cost about half of what it reserves."""
PICTURE = 20
"""Credits reserved for a picture of 512 by 512: documented are 10, and 20 at most up to 1024 by 1024."""


class BudgetError(Exception):
    """A case may cost more than is left."""


@dataclass(slots=True)
class BudgetTracker:
    """What may be spent, in credits; a case takes what it may cost before anything is sent."""

    left: int = BUDGET

    def take(self, credits_: int) -> None:
        """Reserve credits.

        Raises:
            BudgetError: if there are not as many left; none are taken then.
        """
        if credits_ > self.left:
            raise BudgetError(
                f"This case may cost {credits_} credits; of the budget of {BUDGET}, {self.left} are left. "
                "Nothing was sent. The budget is in tests/contract/purse.py."
            )
        self.left -= credits_

    def settle(self, reserved: int, told: float) -> None:
        """Take also what a case cost beyond what it had reserved; what it did not need is not given back."""
        self.left -= max(0, round(told) - reserved)
