"""Helps to test code that uses this library: a client on its own emulator, and a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from doitong_async.client import AsyncDoitong
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.limits.plan import Plan
from doitong_async.secret import hidden
from doitong_async.settings import OptionArguments
from doitong_async.webhooks.serving import free_port, served

__all__ = ["EmulatedDoitong", "VirtualTimeLoop", "emulated", "run_virtual"]

_T = TypeVar("_T")
_LONGEST: Final = 1e7
"""Virtual seconds, 115 days: at 2^24 s asyncio's 1 ns resolution is lost in rounding, and no timer fires."""
_PATIENCE: Final = 0.0005
"""Real seconds that the loop waits for the network before it jumps: loopback may lag a little."""

_SECRETS: Final = {"api_key", "key", "webhook_secret"}
_PLAIN: Final = (AsyncDoitong.__init__.__annotations__ | OptionArguments.__annotations__).keys() - _SECRETS


class EmulatedDoitong(AsyncDoitong):
    """A client and the `emulator` it speaks to, to assert on its `requests`, `jobs` and `charges`."""

    emulator: Emulator


@asynccontextmanager
async def emulated(
    *,
    plan: Plan = Plan.PRO,
    webhooks: bool = False,
    emulator: dict[str, Any] | None = None,
    **arguments: Any,
) -> AsyncIterator[EmulatedDoitong]:
    """Yield a client on its own emulator, `doitong.emulator`: no key, no network, no cost.

    Args:
        plan: the plan of both client and emulator.
        webhooks: whether the emulator reports the end of each job by webhook, to an endpoint on loopback.
        emulator: more arguments of `doitong_async.emulator.Emulator`.
        **arguments: more arguments of `AsyncDoitong`.
    """
    emulator = {
        name: hidden(value) if name in _SECRETS else value for name, value in (emulator or {}).items()
    }
    arguments = {name: _shown(name, value) for name, value in arguments.items()}
    limits = PlanLimits(plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day)
    settings: dict[str, Any] = {"plan": limits}
    # The environment may name a coordinator, which has nothing to do with this emulator.
    given: dict[str, Any] = {"api_key": "emulated", "plan": plan, "coordinator": False}
    async with contextlib.AsyncExitStack() as stack:
        if webhooks:
            listener = free_port()
            stack.callback(listener.close)
            settings["webhook_secret"] = given["webhook_secret"] = "emulated"
            given["webhook_url"] = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server = await stack.enter_async_context(Emulator(**{**settings, **emulator}))
        doitong = EmulatedDoitong(**{**given, "base_url": server.url, **arguments})
        doitong.emulator = server
        if webhooks:
            await stack.enter_async_context(served(doitong.webhooks.aiohttp_app(), listener))
        yield await stack.enter_async_context(doitong)


def _shown(name: str, value: Any) -> Any:
    """Return an argument, hidden unless its name is known to be no secret: a name may be misspelt."""
    return value if name in _PLAIN else hidden(value)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer whenever nothing is ready.

    It drives real sockets on loopback (use 127.0.0.1, not a name) and does not jump while a thread runs.
    Both clocks start at fixed moments, so that a run is repeatable to the microsecond.
    """

    def __init__(self, *, epoch: float = 1_767_225_600.0) -> None:
        self._virtual = 0.0
        self._epoch = epoch
        self._threads = 0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._virtual

    def wall_time(self) -> float:
        """Return the virtual wall clock, in epoch seconds; it starts at 2026-01-01 00:00 UTC."""
        return self._epoch + self._virtual

    def skip(self, seconds: float) -> None:
        """Let time pass while nothing runs, as if the loop were blocked or the machine asleep."""
        self._virtual += seconds

    def run_in_executor(  # type: ignore[override]  # mypy cannot match the stub's TypeVarTuple
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run a function in a thread; virtual time stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._on_thread_done)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads to end, in real time: from 3.13 on asyncio times it by this clock.

        Args:
            timeout: seconds of virtual time, which stands still meanwhile.
        """
        self._threads += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1

    def _on_thread_done(self, _: asyncio.Future[Any]) -> None:
        self._threads -= 1

    def _next_timer(self) -> float | None:
        # asyncio's own heap; it has just removed cancelled timers from the top.
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]  # private, since ever
        return timers[0].when() if timers else None


class _Jumping(selectors.DefaultSelector):
    """Selects ready sockets; if there are none, virtual time jumps to the next timer."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        moment = self._loop._next_timer()
        if self._loop._threads or moment is None:
            # The loop waits for a thread, a signal or another process, in real time.
            return super().select(0.05)
        ready = super().select(_PATIENCE)
        if not ready:
            if moment > _LONGEST:
                raise OverflowError(
                    f"virtual time ends after {_LONGEST:,.0f} s: beyond that asyncio's clock is too coarse"
                )
            self._loop._virtual = max(self._loop._virtual, moment)
        return ready


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end on a `VirtualTimeLoop`; an hour of waiting takes no time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
