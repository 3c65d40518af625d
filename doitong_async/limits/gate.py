"""The one gate before every request: slots for jobs, turns for requests, first come first served."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from doitong_async.errors import ClientClosedError, RateLimitError
from doitong_async.limits.plan import Plan
from doitong_async.limits.window import Window

_log: Final = logging.getLogger("doitong_async")

OVERDUE_AFTER: Final = 4.0
"""Seconds that a look waits behind submits before it goes first: our choice, two documented ticks."""


class Priority(Enum):
    """Who goes first when a turn is free; within one priority, who came first."""

    SUBMIT = auto()
    LOOK = auto()


class Lease:
    """A slot of the plan, held by a remote job from before its submit until its end is seen."""

    __slots__ = ("_give_back",)

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    @property
    def is_held(self) -> bool:
        """Whether the slot was not given back yet."""
        return self._give_back is not None

    def release(self) -> None:
        """Give the slot back; a second time changes nothing."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()


class Turn:
    """The right to send one request now. It ends with the one or the other, and then changes nothing more."""

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[bool], None]) -> None:
        self._end: Callable[[bool], None] | None = end

    def answered(self) -> None:
        """Say that the request was answered, or is lost."""
        self._finish(True)

    def unsent(self) -> None:
        """Say that the request never left this machine."""
        self._finish(False)

    release = unsent

    def _finish(self, was_sent: bool) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(was_sent)


T = TypeVar("T", Lease, Turn)


class _Queue(Generic[T]):
    """Callers that wait for a lease or a turn, in the order they came."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[asyncio.Future[T], float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    def waiting_since(self) -> float:
        """Return when the first of them came."""
        return next(iter(self._waiters.values()))

    def enter(self, now: float) -> asyncio.Future[T]:
        """Stand in line."""
        waiter: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = now
        return waiter

    async def wait(self, waiter: asyncio.Future[T]) -> T:
        """Wait in line. What was granted to a caller that is gone by then goes back."""
        try:
            return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().release()
            raise
        finally:
            self._waiters.pop(waiter, None)

    def grant(self, make: Callable[[], T]) -> None:
        """Give the first in line what it waits for, unless it left at this very moment."""
        waiter, _ = self._waiters.popitem(last=False)
        if not waiter.done():
            waiter.set_result(make())

    def fail(self, error: Callable[[], Exception]) -> None:
        """Send everybody away."""
        while self._waiters:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_exception(error())


class Gate:
    """Keeps one key within its plan: `concurrent_jobs` slots, `requests_per_minute` turns."""

    def __init__(self, plan: Plan, *, plan_is_assumed: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._plan = plan
        self._plan_is_assumed = plan_is_assumed
        self._slots = plan.concurrent_jobs
        self._slots_taken = 0
        self._for_slot: _Queue[Lease] = _Queue()
        self._window = Window(plan.requests_per_minute)
        self._for_submit: _Queue[Turn] = _Queue()
        self._for_look: _Queue[Turn] = _Queue()
        self._paused_until = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def slots_taken(self) -> int:
        """How many slots are held by remote jobs; more than the plan has where jobs were taken up."""
        return self._slots_taken

    async def slot(self, timeout: float | None = None) -> Lease:
        """Wait for a slot, at most `timeout` seconds (None: as long as it takes).

        Raises:
            RateLimitError: if no slot was free by then.
        """
        if self._slots_taken < self._slots and not self._for_slot:
            return self.slot_at_once()
        try:
            async with asyncio.timeout(timeout):
                return await self._for_slot.wait(self._for_slot.enter(self._loop.time()))
        except TimeoutError:
            raise RateLimitError(
                f"No slot was free within {timeout:g} s: the plan allows {self._slots} jobs at once.",
                limit="slot",
            ) from None

    def slot_at_once(self) -> Lease:
        """Take a slot without queueing: the remote job runs already, whether there is room or not."""
        self._slots_taken += 1
        return Lease(self._slot_is_back)

    async def turn(self, priority: Priority) -> Turn:
        """Wait until one request may be sent."""
        queue = self._for_submit if priority is Priority.SUBMIT else self._for_look
        waiter = queue.enter(self._loop.time())
        self._serve_turns(self._loop.time())
        return await queue.wait(waiter)

    def pause(self, until: float) -> None:
        """Send nothing before this moment of the loop's clock: the service said so."""
        self._paused_until = max(self._paused_until, until)

    def heed(self, headers: Mapping[str, str]) -> None:
        """Take in what an answer's headers say of the limits."""
        limit = headers.get("x-ratelimit-limit", "")
        if self._plan_is_assumed and limit.isdecimal() and int(limit) > self._plan.requests_per_minute:
            self._plan_is_assumed = False
            _log.warning(
                "No plan was given, so the limits of %r are kept; the service allows %s requests a minute. "
                "Say plan=… or set DOITONG_PLAN to be as fast as the plan is.",
                self._plan.name,
                limit,
            )

    def close(self) -> None:
        """Send away whoever waits; nothing of theirs was sent."""
        for queue in (self._for_slot, self._for_submit, self._for_look):
            queue.fail(
                lambda: ClientClosedError("The client was closed while this call waited for its turn.")
            )
        if self._timer is not None:
            self._timer.cancel()

    def _slot_is_back(self) -> None:
        self._slots_taken -= 1
        while self._for_slot and self._slots_taken < self._slots:
            self._for_slot.grant(self.slot_at_once)

    def _turn_is_over(self, was_sent: bool) -> None:
        if was_sent:
            self._window.answered(self._loop.time())
        else:
            self._window.unsent()
        self._serve_turns(self._loop.time())

    def _spend(self) -> Turn:
        self._window.spend()
        return Turn(self._turn_is_over)

    def _serve_turns(self, now: float) -> None:
        while now >= self._paused_until and self._window.free(now) and (queue := self._next_queue(now)):
            queue.grant(self._spend)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._window.next_free(now)
        if moment is not None and (self._for_submit or self._for_look):
            moment = max(moment, self._paused_until)
            # The moment itself is handed on: a timer may fire a rounding error before it.
            self._timer = self._loop.call_at(moment, self._serve_turns, moment)

    def _next_queue(self, now: float) -> _Queue[Turn] | None:
        look_is_overdue = self._for_look and self._for_look.waiting_since() + OVERDUE_AFTER <= now
        queues = (self._for_look, self._for_submit) if look_is_overdue else (self._for_submit, self._for_look)
        return next((queue for queue in queues if queue), None)
