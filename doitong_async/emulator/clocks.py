"""The servers' two clocks: the event loop's, and the wall clock."""

import asyncio
import time


def read_clocks() -> tuple[float, float]:
    """Return the event loop's time, and the seconds since the Unix epoch.

    A virtual-time loop has its own `wall_time`, so that dates follow its jumps.
    """
    loop = asyncio.get_running_loop()
    return loop.time(), getattr(loop, "wall_time", time.time)()
