"""Ctrl-C and SIGTERM as calls, for commands that have something to put in order first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def heeding(
    heed: Callable[[], None], numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[None]:
    """Call this at each Ctrl-C or SIGTERM, on the running loop, instead of ending the command."""
    loop = asyncio.get_running_loop()
    for number in numbers:
        # Elsewhere Ctrl-C comes as KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, heed)
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
