"""The two clocks of the servers: the event loop's, and the wall's."""

import asyncio
import time


def read_clocks() -> tuple[float, float]:
    """The event loop's time, and the seconds of the Unix epoch.

    A virtual-time loop brings its own `wall_time`, so that dates agree with its jumps.
    """
    loop = asyncio.get_running_loop()
    return loop.time(), getattr(loop, "wall_time", time.time)()
