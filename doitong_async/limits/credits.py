"""Reserves the credits of a budget for those who wait for them: first come, first served."""

from __future__ import annotations

import asyncio
from functools import partial

from doitong_async.budget import Budget, BudgetTracker, Reservation
from doitong_async.callbacks import Callback, Throw
from doitong_async.errors import BudgetReachedError
from doitong_async.limits.wait_queue import Position, Waiter, WaitQueue


class Credits:
    """The budget of a client or a batch, and the queue of submits that wait for it.

    A submit that does not fit waits while a job in flight may turn out cheaper than reserved, and no cheaper
    one overtakes it.

    Args:
        budget: what may be spent; None sets no bound, but everything is counted.
        whose: gets an exit such as KeyboardInterrupt out of `on_low`; without one, the loop does.
    """

    def __init__(self, budget: Budget | None, whose: Throw | None = None) -> None:
        self.tracker: BudgetTracker = BudgetTracker(budget, self.serve)
        self._whose = whose
        self._on_low = Callback(
            None if budget is None else budget.on_low, "on_low", lambda left: f"at {left:g} credits left"
        )
        self._queue: WaitQueue[Reservation] = WaitQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: dict[str, Reservation] = {}
        """Of submits that may have made a job, by key."""

    def at_once(self, most: float) -> Reservation | None:
        """Reserve credits now, if they are left and nobody waits."""
        if self._queue or not self.tracker.fits(most):
            return None
        reservation = self.tracker.reserve(most)
        self._check_low()
        return reservation

    def queue(self, most: float) -> Waiter[Reservation]:
        """Join the wait queue for credits; it ends with `BudgetReachedError` if they will not come."""
        self._loop = asyncio.get_running_loop()
        waiter = self._queue.join(Position(self._loop.time(), credits=most))
        self.serve()
        return waiter

    def serve(self) -> None:
        """Grant what fits now, to be called whenever credits come back or a waiter leaves."""
        if self._loop is not None and self._loop.is_closed():
            # Those who wait were left behind on it, and cannot be woken.
            return
        while (first := self._queue.first()) is not None:
            if self.tracker.fits(first.credits):
                self._queue.grant(partial(self.tracker.reserve, first.credits))
            elif not self.tracker.in_flight:
                self._send_away(first)
            else:
                break
        # Last: the callback may do anything, such as stop the batch of a waiter.
        self._check_low()

    def keep(self, key: str, reservation: Reservation) -> None:
        """Keep the reservation of a submit that may have made a job, until the submit is resumed.

        Args:
            key: by which it is found again.
            reservation: of the submit.
        """
        if key in self._kept:
            # Two submits under one key make one job at most.
            reservation.release()
            return
        self._kept[key] = reservation
        reservation.keep()

    def resume(self, key: str) -> Reservation | None:
        """Return the reservation that is kept under a key, if any, as in flight again."""
        if (reservation := self._kept.pop(key, None)) is not None:
            reservation.resume()
        return reservation

    def drop(self) -> None:
        """Forget who waited, and what was in flight, on an event loop that is closed."""
        self._queue, self._loop = WaitQueue(), None
        self.tracker.in_flight.clear()

    def _send_away(self, first: Position) -> None:
        self._queue.fail(partial(self._reached, first.credits), unless=lambda each: each is not first)

    def _reached(self, most: float) -> BudgetReachedError:
        left = self.tracker.left
        return BudgetReachedError(
            f"The next job may cost {most:,g} credits, but only {left:,g} are left of the budget.",
            credits_required=most,
            credits_available=left,
        )

    def _check_low(self) -> None:
        if (left := self.tracker.falls_low()) is not None:
            self._on_low.aside(left, self._whose)
