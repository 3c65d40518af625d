"""The calendar, as the running event loop sees it."""

from __future__ import annotations

import asyncio
import time


def wall_time() -> float:
    """Return epoch seconds; a virtual-time loop brings a `wall_time` of its own."""
    loop = asyncio.get_running_loop()
    now: float = getattr(loop, "wall_time", time.time)()
    return now
