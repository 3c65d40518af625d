"""What may be spent, and how much of it is spent, reserved and left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from doitong_async.callbacks import checked_callback
from doitong_async.errors import ConfigurationError
from doitong_async.pricing import is_amount


@dataclass(frozen=True, slots=True)
class Budget:
    """What a client or a batch may spend.

    Args:
        credits: the most to spend; a job is submitted only if its highest price is still left.
        low_at: the share of the budget at which to call `on_low`; 0.1 is a tenth.
        on_low: a plain function, called once with the credits left, neither spent nor reserved, when they
            fall to that share; it must return quickly. An exception in it harms nothing.

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


def as_budget(given: float | Budget | None) -> Budget | None:
    """Return a budget as given, or one of so many credits.

    Raises:
        ConfigurationError: if it is no number of credits.
    """
    return given if given is None or isinstance(given, Budget) else Budget(given)


class Reservation:
    """Credits set aside for one job, from before its submit until its cost is known.

    `with reservation: …` releases it, unless the block handed it over. Settled, it counts as spent, at the
    cost reported last or else in full; then no release undoes it. Once it is released or handed over, later
    calls change nothing.
    """

    __slots__ = ("_is_settled", "_parts", "_tracker")

    def __init__(
        self, tracker: BudgetTracker | None = None, parts: int = 0, *, is_settled: bool = False
    ) -> None:
        self._tracker = tracker
        self._parts = parts
        self._is_settled = is_settled

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def hand_over(self) -> Reservation:
        """Return the reservation for its next holder; this one holds it no more."""
        reservation = Reservation(self._tracker, self._parts, is_settled=self._is_settled)
        if self._tracker is not None:
            self._tracker.replace(self, reservation)
        self._tracker = None
        return reservation

    def settle(self, cost: float | None) -> None:
        """Count it as spent; a later call corrects the cost.

        Args:
            cost: credits, as the service reported; None or an invalid amount leaves what counts so far.
        """
        is_valid = cost is not None and math.isfinite(cost) and cost >= 0
        parts = _exact(cost) if is_valid and cost is not None else self._parts
        if self._tracker is None or (self._is_settled and parts == self._parts):
            return
        reserved, spent = (0, self._parts) if self._is_settled else (self._parts, 0)
        self._is_settled, self._parts = True, parts
        self._tracker.count(self, reserved=-reserved, spent=parts - spent)

    def keep(self) -> None:
        """Leave it reserved with a submit in doubt, on which nobody should wait."""
        if self._tracker is not None:
            self._tracker.count(self)

    def resume(self) -> None:
        """Count it as in flight again: its submit is repeated, or its job was found."""
        if self._tracker is not None and not self._is_settled:
            self._tracker.in_flight.add(self)

    def release(self) -> None:
        """Return it, as nothing was charged."""
        if self._tracker is not None and not self._is_settled:
            tracker, self._tracker = self._tracker, None
            tracker.count(self, reserved=-self._parts)

    give_back = release


class BudgetTracker:
    """Tracks a budget: credits spent, reserved for jobs, and left.

    It counts in millionths of a credit, so that no sum depends on the order of its terms.

    Args:
        budget: what may be spent; None sets no bound, but everything is counted.
        on_change: called whenever credits may have come back, or are counted that nobody reserved here.
    """

    def __init__(self, budget: Budget | None, on_change: Callable[[], None] = lambda: None) -> None:
        self._budget = budget
        self._on_change = on_change
        self._all = None if budget is None else _exact(budget.credits)
        self._spent = 0
        self._reserved = 0
        self.in_flight: set[Reservation] = set()
        """Reservations that may come back: their jobs may turn out cheaper, or never be made."""
        self._was_low = False

    @property
    def spent(self) -> float:
        """Credits that jobs cost, as far as the service reported; in full where it did not."""
        return _credits(self._spent)

    @property
    def reserved(self) -> float:
        """Credits reserved for jobs whose cost is not known, and for submits in doubt."""
        return _credits(self._reserved)

    @property
    def left(self) -> float:
        """Credits neither spent nor reserved, below zero if jobs cost more than expected."""
        return math.inf if self._all is None else _credits(self._all - self._spent - self._reserved)

    def fits(self, amount: float) -> bool:
        """Whether so many credits are left."""
        return self._all is None or self._spent + self._reserved + _exact(amount) <= self._all

    def reserve(self, amount: float) -> Reservation:
        """Reserve credits for a job in flight, whatever is left."""
        reservation = Reservation(self, _exact(amount))
        self._reserved += _exact(amount)
        self.in_flight.add(reservation)
        return reservation

    def settled(self, amount: float) -> Reservation:
        """Return the reservation of a job whose cost is counted already, to correct it later."""
        return Reservation(self, _exact(amount), is_settled=True)

    def carry(self, spent: float) -> None:
        """Count credits that earlier runs of the same batch spent."""
        self._spent += _exact(spent)
        self._on_change()

    def falls_low(self) -> float | None:
        """Return the credits left, the first time that they are down to the budget's share; else None."""
        if self._budget is None or self._all is None or self._was_low:
            return None
        left = self._all - self._spent - self._reserved
        self._was_low = left <= self._budget.low_at * self._all
        return _credits(left) if self._was_low else None

    def replace(self, reservation: Reservation, successor: Reservation) -> None:
        """Count one reservation in another's place."""
        if reservation in self.in_flight:
            self.in_flight.remove(reservation)
            self.in_flight.add(successor)

    def count(self, reservation: Reservation, *, reserved: int = 0, spent: int = 0) -> None:
        """Count what became of a reservation that comes back no more, in millionths of a credit."""
        self.in_flight.discard(reservation)
        self._reserved += reserved
        self._spent += spent
        self._on_change()


_PARTS: Final = 1_000_000


def _exact(amount: float) -> int:
    whole = math.floor(amount)
    return whole * _PARTS + round((amount - whole) * _PARTS)


def _credits(parts: int) -> float:
    return parts / _PARTS
