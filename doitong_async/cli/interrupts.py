"""Turns Ctrl-C, SIGTERM and SIGHUP into calls, for commands that must clean up first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, TypeVar

T = TypeVar("T")
_HANGUP: Final[signal.Signals | None] = getattr(signal, "SIGHUP", None)
"""Windows has none."""


@contextlib.contextmanager
def handling_signals(
    on_signal: Callable[[], None], numbers: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)
) -> Iterator[None]:
    """Call `on_signal` at each Ctrl-C or SIGTERM, on the running loop, instead of ending the command.

    SIGHUP does the same, unless it was ignored before, as under nohup. A closing terminal may send it several
    times, and a service manager sends it along with SIGTERM: together they count once, because no user is
    insisting. From here on SIGHUP is ignored; see `hangup_as_before`.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[str] = []

    def stop() -> None:
        received.append("stop")
        if received != ["hangup", "stop"]:
            on_signal()

    def hang_up() -> None:
        # asyncio itself may handle Ctrl-C by cancelling the task.
        if not received and not (task is not None and task.cancelling()):
            received.append("hangup")
            on_signal()

    for number in numbers:
        # On other platforms Ctrl-C raises KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop)
    if _HANGUP is not None and (handles_hangup := signal.getsignal(_HANGUP) is not signal.SIG_IGN):
        # Not through the loop: once it gives the signal back, the next SIGHUP would end the process.
        signal.signal(_HANGUP, lambda *_: loop.call_soon_threadsafe(hang_up))
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(NotImplementedError):
                loop.remove_signal_handler(number)
        if _HANGUP is not None and handles_hangup:
            signal.signal(_HANGUP, signal.SIG_IGN)


async def interruptible(run: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command, and treat SIGTERM and SIGHUP like Ctrl-C: what it paid for is shown before it ends.

    Raises:
        KeyboardInterrupt: at any of them, once the command has cleaned up.
    """
    task = asyncio.current_task()
    assert task is not None
    is_interrupted = False

    def interrupt() -> None:
        # Do not send SIGINT to ourselves: a command in the background ignores it.
        nonlocal is_interrupted
        if task.cancelling():
            raise KeyboardInterrupt
        is_interrupted = True
        task.cancel()

    with handling_signals(interrupt, [signal.SIGTERM]):
        try:
            return await run()
        except asyncio.CancelledError:
            if is_interrupted:
                raise KeyboardInterrupt from None
            raise


@contextlib.contextmanager
def hangup_as_before() -> Iterator[None]:
    """Restore SIGHUP only at the end: it must not cut off the last output of a command."""
    before = None if _HANGUP is None else signal.getsignal(_HANGUP)
    try:
        yield
    finally:
        if _HANGUP is not None and before is not None and signal.getsignal(_HANGUP) is not before:
            signal.signal(_HANGUP, before)
