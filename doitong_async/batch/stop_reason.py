"""Why a batch submits no more, and whoever has to hear of it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

from doitong_async.errors import DoitongError


class Stopped(Exception):  # noqa: N818 - a signal between methods, never an error that anyone sees
    """The batch was stopped, and this item was surely not submitted."""


class StopReason:
    """The end of submitting: the first reason holds, and those who wait for the plan hear of it at once.

    Args:
        wake: is called when it comes; it sends those away who wait for the plan.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._came = asyncio.Event()
        self.why: DoitongError | None = None
        self.is_detached = False
        """Whether nobody takes items any more: what runs is left to the service."""

    def come(self, why: DoitongError) -> None:
        """Submit no more; what runs goes on."""
        if self.why is None:
            self.why = copy.copy(why)
            # It is told to others too: the job and the key of the one that it came of are not theirs.
            self.why.job_id = self.why.token = self.why.idempotency_key = None
            self._came.set()
            self._wake()

    def not_sent(self) -> DoitongError | None:
        """Return why an item was not sent: the first reason, as it is true of that item."""
        why = copy.copy(self.why)
        if why is not None:
            why.outcome = "Nothing was sent for this item, and nothing was charged."
        return why

    async def comes_within(self, seconds: float) -> bool:
        """Wait so long at most, and return whether it came."""
        try:
            async with asyncio.timeout(seconds):
                return await self._came.wait()
        except TimeoutError:
            return False
