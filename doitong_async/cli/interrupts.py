"""Ctrl-C, SIGTERM and SIGHUP as calls, for commands that have something to put in order first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Final

_HANGUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)
"""There is none on Windows."""


@contextlib.contextmanager
def heeding(
    observe_headers: Callable[[], None], numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[None]:
    """Call this at each Ctrl-C or SIGTERM, on the running loop, instead of ending the command.

    So it does at SIGHUP, unless that was ignored before, as by nohup. A terminal that goes may send it
    several times, and a service manager sends it with SIGTERM: together they count once, as nobody is
    impatient. From here on SIGHUP is ignored, see `hangup_as_before`.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    came: list[str] = []

    def stop() -> None:
        came.append("stop")
        if came != ["hangup", "stop"]:
            observe_headers()

    def hang_up() -> None:
        # Ctrl-C may be heeded by asyncio itself, which then cancels the task.
        if not came and not (task is not None and task.cancelling()):
            came.append("hangup")
            observe_headers()

    for number in numbers:
        # Elsewhere Ctrl-C comes as KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop)
    if _HANGUP is not None and (hears := signal.getsignal(_HANGUP) is not signal.SIG_IGN):
        # Not by the loop, which would let the next one end the process as soon as it gives the signal back.
        signal.signal(_HANGUP, lambda *_: loop.call_soon_threadsafe(hang_up))
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        if _HANGUP is not None and hears:
            signal.signal(_HANGUP, signal.SIG_IGN)


@contextlib.contextmanager
def hangup_as_before() -> Iterator[None]:
    """Let SIGHUP do in the end what it did before: what a command tells last must not be cut off by it."""
    before = None if _HANGUP is None else signal.getsignal(_HANGUP)
    try:
        yield
    finally:
        if _HANGUP is not None and before is not None and signal.getsignal(_HANGUP) is not before:
            signal.signal(_HANGUP, before)
