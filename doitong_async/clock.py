"""Wall-clock time, and deadlines that allow for an event loop that stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LATE: Final = 0.1
"""Seconds of delay of a timer that mean that the loop stood still and was not just busy: our choice."""
_TO_CATCH_UP: Final = 1.0
"""Seconds to read what arrived while the loop stood still: our choice."""


def wall_time() -> float:
    """Return epoch seconds; a virtual-time loop has its own `wall_time`."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        # A submit that is garbage-collected after its loop closed still logs its outcome.
        return time.time()
    now: float = getattr(loop, "wall_time", time.time)()
    return now


@asynccontextmanager
async def running_timeout(seconds: float) -> AsyncIterator[None]:
    """Bound a block as `asyncio.timeout` does, without counting time in which the event loop stood still.

    A process that was stopped, suspended or blocked may find its deadline passed and the answer unread: it
    gets one more second to read it.

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
