"""Wall-clock time, and deadlines that allow for an event loop that stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Final, Self

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


def elapsed_clock() -> Callable[[], float]:
    """Return a clock for the running loop that also counts the time in which the machine is suspended."""
    loop = asyncio.get_running_loop()
    if hasattr(loop, "wall_time") or not hasattr(time, "CLOCK_BOOTTIME"):
        return loop.time
    return partial(time.clock_gettime, time.CLOCK_BOOTTIME)


class RunningTimeout:
    """Bounds a block as `asyncio.timeout` does, without counting time in which the event loop stood still.

    A process that was stopped, suspended or blocked may find its deadline passed and the answer unread: it
    gets one more second to read it. The block ends with a TimeoutError if it takes longer.

    A class and not a generator: a closure that sets its own timer again refers to itself, and would keep the
    task of every request, with its job, until the garbage collector comes.

    Args:
        seconds: from the beginning of the block.
    """

    __slots__ = ("_bound", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> Self:
        self._bound = asyncio.timeout(None)
        await self._bound.__aenter__()
        self._set(asyncio.get_running_loop().time() + self._seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._bound.__aexit__(kind, error, traceback)

    def _set(self, moment: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(moment, self._ring, moment)

    def _ring(self, moment: float) -> None:
        now = asyncio.get_running_loop().time()
        if now > moment + LATE:
            self._set(now + _TO_CATCH_UP)
        else:
            self._bound.reschedule(now)
