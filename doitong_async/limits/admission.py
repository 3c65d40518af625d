"""One client's way through the gate of its key: its waits can be asked about, and end when it closes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

from doitong_async.errors import ClientClosedError, RateLimitError
from doitong_async.events import LimitLowered, WaitBegan, WaitEnded
from doitong_async.hook import Hook
from doitong_async.limits.limiter import KeyUser, Priority, RateLimiter, Reason
from doitong_async.limits.permits import RequestPermit, Slot
from doitong_async.limits.wait_queue import Returnable, Waiter
from doitong_async.log import log

T = TypeVar("T", bound=Returnable)


class Admission:
    """What a client asks for slots and turns; other clients on the same key stand in the same lines."""

    def __init__(self, limiter: RateLimiter, user: KeyUser, notify: Hook) -> None:
        self.limiter = limiter
        self._user = user
        limiter.join(user)
        self._notify = notify
        self._waits: dict[Waiter[Any], Priority | None] = {}
        self._closed = asyncio.Event()

    def waiting(self) -> Counter[str]:
        """Return how many callers wait, by what they wait for."""
        return Counter(self.limiter.reason(priority) for priority in self._waits.values())

    async def slot(self, *, timeout: float | None = None, waits_for_day: bool = False) -> Slot:
        """Wait for a slot, at most `timeout` seconds (None: as long as it takes).

        Raises:
            RateLimitError: if no slot was free by then.
            DailyLimitError: if the jobs of the day are used up, unless `waits_for_day`.
            ClientClosedError: if the client closes first.
        """
        self._check_open()
        at_once = self.limiter.free_slot()
        return at_once or await self._bounded(
            self.limiter.queue_for_slot(waits_for_day=waits_for_day), None, timeout
        )

    async def permit(
        self, priority: Priority, *, timeout: float | None = None, waits_for_day: bool = False
    ) -> RequestPermit:
        """Wait until one request may be sent, at most `timeout` seconds (None: as long as it takes).

        Raises:
            RateLimitError: if it could not be sent by then.
            DailyLimitError: if the service says that the day is over, unless `waits_for_day`.
            ClientClosedError: if the client closes first.
        """
        self._check_open()
        at_once = self.limiter.permit_at_once(priority)
        return at_once or await self._bounded(
            self.limiter.queue_for_permit(priority, waits_for_day=waits_for_day), priority, timeout
        )

    async def sleep(self, seconds: float) -> None:
        """Wait some time.

        Raises:
            ClientClosedError: if the client closes first.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return
        raise _closed()

    def close(self) -> None:
        """Send away whoever waits here, now or later; nothing of theirs was sent."""
        if not self._closed.is_set():
            self.limiter.leave(self._user)
        self._closed.set()
        for waiting in self._waits:
            waiting.fail(_closed())

    def observe_headers(
        self, headers: Mapping[str, str], permit: RequestPermit | None = None, *, was_accepted: bool = False
    ) -> None:
        """Take in what the headers of an answer say of the limits.

        Args:
            headers: of the answer.
            permit: of its request; None for the last one.
            was_accepted: whether the answer is a success.
        """
        observed = self.limiter.observe_headers(headers, permit, was_accepted=was_accepted)
        limit, plan = observed.limit, self.limiter.plan
        if limit is None:
            return
        per_minute, told = plan.requests_per_minute, self._user.told
        if limit < per_minute and "lower" not in told:
            told.add("lower")
            log.warning(
                "The service says X-RateLimit-Limit: %d, and the plan %r allows %d requests a minute. "
                "The lower one is kept. If it stays so, check plan=… or DOITONG_PLAN.",
                limit,
                plan.name,
                per_minute,
            )
            self._notify(LimitLowered(told=limit, plan=per_minute))
        if limit > per_minute and self._user.plan_is_assumed and "higher" not in told:
            told.add("higher")
            log.warning(
                "No plan was given, so the limits of %r are kept; the service allows %d requests a minute. "
                "Say plan=… or set DOITONG_PLAN to be as fast as the plan is.",
                plan.name,
                limit,
            )

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise _closed()

    async def _bounded(self, waiting: Waiter[T], priority: Priority | None, timeout: float | None) -> T:
        # A poll is nobody's own call: what a callback raises about its wait must not end the polling.
        tell = self._notify.aside if priority is Priority.POLL else self._notify
        with waiting:
            if waiting.is_over:
                return await waiting
            reason = self.limiter.reason(priority)
            begun = asyncio.get_running_loop().time()
            self._waits[waiting] = priority
            try:
                tell(WaitBegan(reason=reason))
                async with asyncio.timeout(timeout):
                    return await waiting
            except TimeoutError:
                raise self._too_long(self.limiter.reason(priority)) from None
            finally:
                del self._waits[waiting]
                seconds = asyncio.get_running_loop().time() - begun
                tell(WaitEnded(reason=reason, seconds=seconds))

    def _too_long(self, reason: Reason) -> RateLimitError:
        if reason == "day":
            return self.limiter.daily_limit()
        plan = self.limiter.plan
        limits = {
            "slot": f"the plan allows {plan.concurrent_jobs} jobs at once",
            "minute": f"the plan allows {plan.requests_per_minute} requests a minute",
            "server": "the service asked to wait",
        }
        return RateLimitError(f"The wait that was allowed is over: {limits[reason]}.", limit=reason)


def _closed() -> ClientClosedError:
    return ClientClosedError("The client was closed while this call waited.")
