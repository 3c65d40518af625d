"""The calendar and the deadlines of the running event loop, which may have stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LATE: Final = 0.1
"""Seconds by which a timer rings late if the event loop stood still, and was not just busy: our choice."""
_TO_CATCH_UP: Final = 1.0
"""Seconds in which what came while the loop stood still can be read: our choice."""


def wall_time() -> float:
    """Return epoch seconds; a virtual-time loop brings a `wall_time` of its own."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # A submit that is collected after its loop died still says what became of it.
        return time.time()
    now: float = getattr(loop, "wall_time", time.time)()
    return now


@asynccontextmanager
async def running_timeout(seconds: float) -> AsyncIterator[None]:
    """Bound a block as `asyncio.timeout` does, but not by time in which the event loop stood still.

    A process that was stopped, suspended or blocked finds its deadline passed and the answer there, unread:
    it has a second more to read it.

    Raises:
        TimeoutError: if the block takes longer.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def ring(moment: float) -> None:
        nonlocal timer
        now = loop.time()
        if now > moment + LATE:
            timer = loop.call_at(now + _TO_CATCH_UP, ring, now + _TO_CATCH_UP)
        else:
            bound.reschedule(now)

    async with asyncio.timeout(None) as bound:
        end = loop.time() + seconds
        timer = loop.call_at(end, ring, end)
        try:
            yield
        finally:
            timer.cancel()
