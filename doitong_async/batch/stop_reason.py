"""Why a batch submits no more; waiters learn of it at once."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

from doitong_async.errors import DoitongError


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
