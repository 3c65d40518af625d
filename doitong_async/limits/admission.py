"""One client's waits for slots and request permits; they end when it closes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any, Final, Literal, TypeVar

from doitong_async.budget import Reservation
from doitong_async.clock import wall_time
from doitong_async.errors import ClientClosedError, CoordinatorError, RateLimitError
from doitong_async.events import Hook, LimitLowered, WaitBegan, WaitEnded, WaitReason
from doitong_async.limits.credits import Credits
from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.local_limiter import LocalLimiter
from doitong_async.limits.permits import Priority, RequestPermit, Slot
from doitong_async.limits.plan import Plan
from doitong_async.limits.users import KeyUser
from doitong_async.limits.wait_queue import Position, Returnable, Waiter
from doitong_async.log import log
from doitong_async.secret import Secret, name_of

T = TypeVar("T", bound=Returnable)
_WAIT_IDS: Final = count(1)
_LIMITERS: Final[dict[asyncio.AbstractEventLoop, dict[str, LocalLimiter]]] = {}


def limiter_of(api_key: str, base_url: str, plan: Plan, *, day_starts_at: float = 0.0) -> LocalLimiter:
    """Return the rate limiter of this key on the running loop.

    It outlives its last client: the service has not forgotten that client's requests either.
    """
    api_key = Secret(api_key)
    # Threads with loops of their own may do the same at the same time.
    for closed in [loop for loop in list(_LIMITERS) if loop.is_closed()]:
        _LIMITERS.pop(closed, None)
    registry = _LIMITERS.setdefault(asyncio.get_running_loop(), {})
    name = name_of(base_url, api_key)
    for idle in [each for each, limiter in registry.items() if limiter.is_idle]:
        del registry[idle]
    limiter = registry.get(name)
    if limiter is None:
        limiter = registry[name] = LocalLimiter(plan, day_starts_at=day_starts_at)
    return limiter


class Admission:
    """Wait for slots, credits and permits on behalf of a client; all clients on the key share the limiter."""

    def __init__(self, limiter: RateLimiter, user: KeyUser, notify: Hook) -> None:
        self.limiter = limiter
        self.user = user
        limiter.join(user)
        self._notify = notify
        self._waits: dict[Waiter[Any], Callable[[], WaitReason]] = {}
        self._closed = asyncio.Event()

    def waiting(self) -> Counter[str]:
        """Return how many callers wait, by reason."""
        return Counter(reason() for reason in self._waits.values())

    async def slot(self, *, timeout: float | None = None, waits_for_day: bool = False) -> Slot:
        """Wait for a slot, at most `timeout` seconds (None: without limit): `with await admission.slot()`.

        Raises:
            RateLimitError: if no slot was free by then.
            DailyLimitError: if the day's jobs are used up, unless `waits_for_day`.
            CoordinatorError: if the coordinator did not answer for that long, or for a minute.
            ClientClosedError: if the client closes first.
        """
        self._check_open()
        at_once = self.limiter.free_slot()
        position = Position(self.limiter.now(), waits_for_day)
        return at_once or await self._bounded(
            self.limiter.queue_for_slot(position), self._reason_of_slot, timeout
        )

    async def reservation(
        self, credits_: Credits, most: float, *, timeout: float | None = None
    ) -> Reservation:
        """Wait for credits of a budget, at most `timeout` seconds (None: without limit).

        Use it as `with await admission.reservation(…) as reservation`: no exception leaves them reserved.

        Raises:
            BudgetReachedError: if no job in flight can bring back as many as are needed.
            RateLimitError: if none had by then.
            ClientClosedError: if the client closes first.
        """
        self._check_open()
        at_once = credits_.at_once(most)
        if at_once is not None:
            return at_once
        try:
            return await self._bounded(credits_.queue(most), lambda: "credits", timeout)
        finally:
            # One who leaves may be all that kept the next one waiting.
            credits_.serve()

    async def permit(
        self,
        priority: Priority,
        *,
        timeout: float | None = None,
        waits_for_day: bool = False,
        in_doubt: bool = False,
        slot: str = "",
        key: str = "",
        is_asked: bool = False,
    ) -> RequestPermit:
        """Wait until one request may be sent, at most `timeout` seconds (None: without limit).

        Use it as `with await admission.permit(…) as permit`: no exception leaves it taken.

        Args:
            priority: of the request.
            timeout: seconds.
            waits_for_day: whether to wait for the next day if the service says that this one is over.
            in_doubt: whether the submit may have made a job already.
            slot: the id of the slot that the submit has.
            key: the idempotency key of the submit.
            is_asked: whether a caller asked for this poll, and it is none of the regular ones.

        Raises:
            RateLimitError: if it could not be sent by then.
            DailyLimitError: if the service says that the day's jobs are used up, unless `waits_for_day`.
            InsufficientCreditsError: if another submit got a 402 just now, unless `in_doubt`.
            CoordinatorError: if the coordinator did not answer for that long, or for a minute.
            ClientClosedError: if the client closes first.
        """
        self._check_open()
        at_once = self.limiter.permit_at_once(priority)
        position = Position(
            self.limiter.now(), waits_for_day, in_doubt=in_doubt, slot=slot, key=key, is_asked=is_asked
        )
        return at_once or await self._bounded(
            self.limiter.queue_for_permit(priority, position),
            partial(self._reason_of_permit, priority),
            timeout,
            is_poll=priority is Priority.POLL,
        )

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`.

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
        """End every wait, now and later, with an error; none of the waiters has sent anything."""
        if not self._closed.is_set():
            self.limiter.leave(self.user)
        self._closed.set()
        for waiting in self._waits:
            waiting.fail(_closed())

    def observe_headers(
        self, headers: Mapping[str, str], permit: RequestPermit, *, was_accepted: bool = False
    ) -> None:
        """Take in what the headers of an answer say about the limits.

        Args:
            headers: of the answer.
            permit: of its request.
            was_accepted: whether the answer is a success.
        """
        observed = self.limiter.observe_headers(headers, permit, was_accepted=was_accepted)
        limit, plan = observed.limit, self.limiter.plan
        if limit is None:
            return
        per_minute, warned_of = plan.requests_per_minute, self.user.warned_of
        if limit < per_minute and "lower" not in warned_of:
            warned_of.add("lower")
            log.warning(
                "The service says X-RateLimit-Limit: %d, and the plan %r allows %d requests a minute. "
                "The lower one applies. If it stays so, check your plan (plan=, --plan, DOITONG_PLAN).",
                limit,
                plan.name,
                per_minute,
            )
            # Aside: the answer that says so may be about a paid job, and is not read yet.
            self._notify.aside(LimitLowered(limit=limit, plan_limit=per_minute))
        if limit > per_minute and self.user.plan_is_assumed and "higher" not in warned_of:
            warned_of.add("higher")
            log.warning(
                "No plan was given, so the limits of %r apply, but the service allows %d requests a minute. "
                "Set the plan (plan=, --plan or DOITONG_PLAN) to use all of it.",
                plan.name,
                limit,
            )

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise _closed()

    def _reason_of_slot(self) -> WaitReason:
        if self.limiter.is_away:
            return "coordinator"
        return "day" if self.limiter.day.is_over(wall_time()) else "slot"

    def _reason_of_permit(self, priority: Priority) -> WaitReason:
        rate = self.limiter.rate
        if self.limiter.is_away:
            return "coordinator"
        if priority is Priority.SUBMIT and rate.circuit.is_probing():
            return "credits"
        return "server" if rate.is_held(self.limiter.now(), priority) else "minute"

    async def _bounded(
        self,
        waiting: Waiter[T],
        reason_now: Callable[[], WaitReason],
        timeout: float | None,
        *,
        is_poll: bool = False,
    ) -> T:
        # A poll belongs to no single caller: an exception in a callback about its wait must not end polling.
        notify = self._notify.aside if is_poll else self._notify
        with waiting:
            if waiting.is_over:
                return await waiting
            wait_id, reason = next(_WAIT_IDS), reason_now()
            request: Literal["submit", "poll"] = "poll" if is_poll else "submit"
            loop = asyncio.get_running_loop()
            begun, is_granted = loop.time(), False
            self._waits[waiting] = reason_now
            try:
                notify(WaitBegan(wait_id=wait_id, request=request, reason=reason))
                async with asyncio.timeout(timeout):
                    granted = await waiting
                is_granted = True
                return granted
            except TimeoutError:
                raise self._too_long(reason_now()) from None
            finally:
                del self._waits[waiting]
                # Not the running loop: a coroutine that is collected after its loop closed ends here, too.
                seconds = loop.time() - begun
                ended = WaitEnded(
                    wait_id=wait_id, request=request, reason=reason, seconds=seconds, is_granted=is_granted
                )
                notify(ended)

    def _too_long(self, reason: WaitReason) -> RateLimitError | CoordinatorError:
        if reason == "day":
            return self.limiter.daily_limit()
        if reason == "coordinator":
            return CoordinatorError("The wait timed out: the coordinator does not answer.")
        plan = self.limiter.plan
        limits = {
            "slot": f"the plan allows {plan.concurrent_jobs} jobs at once",
            "minute": f"the plan allows {plan.requests_per_minute} requests a minute",
            "server": "the service asked to wait",
            "credits": "other jobs may yet give credits back, or show that the account has some",
        }
        return RateLimitError(f"The wait timed out: {limits[reason]}.", limit=reason)


def _closed() -> ClientClosedError:
    return ClientClosedError("The client was closed while this call waited.")
