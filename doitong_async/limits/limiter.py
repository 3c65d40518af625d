"""The rate limiter of a key: grants slots to jobs and permits to requests, and obeys the service."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, auto
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Final

from doitong_async.clock import wall_time
from doitong_async.errors import DailyLimitError
from doitong_async.events import WaitReason
from doitong_async.limits.concurrency import ConcurrencyBackoff
from doitong_async.limits.headers import (
    UNBELIEVED_WAIT,
    Limit,
    RateLimitHeaders,
    read_headers,
    requested_wait,
    which_limit,
)
from doitong_async.limits.permits import RequestPermit, Slot
from doitong_async.limits.plan import Plan
from doitong_async.limits.quota import LENGTH, DailyQuota
from doitong_async.limits.wait_queue import Position, Waiter, WaitQueue
from doitong_async.limits.window import PERIOD, Window
from doitong_async.log import log
from doitong_async.transport.failure import Failure

OVERDUE_AFTER: Final = 4.0
"""Seconds that a poll waits behind submits before it goes first: our choice, two documented ticks."""
_DEFAULT_PAUSE: Final = 2.0
"""Seconds to pause after a 429 that does not say how long."""
_PROBE_WAIT: Final = 1.0
"""Seconds that one request at most delays the next while somebody else uses the key: our choice."""
_JITTER: Final = 1.0
"""Seconds over which we spread requests that wait for the same moment."""
_ROUNDING: Final = 2.0
"""Seconds by which a reset may come later than stated: it is rounded, and clocks differ a little."""
_MOST_KEPT: Final = 30
"""Requests a minute that we reserve for polls at most: as many as the documented loop of one job takes."""


class Priority(Enum):
    """Who gets the next permit; within one priority, first come, first served."""

    SUBMIT = auto()
    POLL = auto()


@dataclass(frozen=True, slots=True)
class KeyUser:
    """A client that uses the rate limiter, and its settings for the key; `warned_of` is what it logged."""

    plan: Plan
    plan_is_assumed: bool = False
    polls_count: bool = True
    warned_of: set[str] = field(default_factory=set, compare=False)


class RateLimiter:
    """Keep one key within its plan, for every client on this event loop that uses it.

    Args:
        plan: the limits, until clients with other plans join.
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    def __init__(self, plan: Plan, *, day_starts_at: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.plan = plan
        self.polls_count = True
        self._users: list[KeyUser] = []
        self._slots_taken = 0
        self._kept: list[tuple[float, str]] = []
        """When the slots of jobs that nobody tracks any more expire, with the id of the job."""
        self.day = DailyQuota(plan.jobs_per_day, day_starts_at)
        self._window = Window(plan.requests_per_minute)
        self._slot_queue: WaitQueue[Slot] = WaitQueue()
        self._submit_queue: WaitQueue[RequestPermit] = WaitQueue()
        self._poll_queue: WaitQueue[RequestPermit] = WaitQueue()
        self._paused_until = self._contested_until = self._loop.time()
        self._concurrency = ConcurrencyBackoff(self._loop.time())
        self._polls_from = self._loop.time()
        """From when the service accepts polls again, by its retry-after."""
        self._spent_at = self._loop.time() - _PROBE_WAIT
        self._made_at = -math.inf
        self._reported_limit: int | None = None
        self.made_by: dict[str, str] = {}
        """The idempotency keys of the most recent jobs, whichever open client submitted them."""
        self._doubted_until: float | None = None
        """From when we believe a 429 that looks like the daily limit and was taken for the minute's."""
        self._poll_went_first = False
        self._behind: dict[object, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warned_of: set[Limit] = set()

    @property
    def slots_taken(self) -> int:
        """How many slots remote jobs hold; more than the plan has if jobs were resumed."""
        while self._kept and self._kept[0][0] <= self._loop.time():
            heappop(self._kept)
            self._slots_taken -= 1
        return self._slots_taken

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot or a permit, or will be queued by a batch."""
        return len(self._slot_queue) + len(self._submit_queue) + sum(self._behind.values())

    def expect(self, batch: object, jobs: int) -> None:
        """Record how many jobs a batch has yet to queue; 0 once it has queued all."""
        self._behind[batch] = jobs
        if not jobs:
            del self._behind[batch]

    @property
    def free(self) -> int:
        """How many requests the window allows now."""
        return self._window.free(self._loop.time())

    def coming(self, parts: int) -> list[int]:
        """Return how many requests come back in each of `parts` equal parts of the next minute."""
        return self._window.coming(self._loop.time(), parts)

    @property
    def is_idle(self) -> bool:
        """Whether no client uses it, and it knows nothing that a new rate limiter would not know."""
        now = self._loop.time()
        is_quiet = now >= max(
            self._paused_until, self._concurrency.held_until, self._contested_until, self._polls_from
        )
        # Use the loop's clock: the wall clock may be a day ahead and come back.
        has_day = now < self._made_at + LENGTH or not self.day.is_fresh(wall_time())
        is_unused = not self._users and not self.slots_taken and not has_day
        return is_unused and is_quiet and self.free == self._window.limit

    def join(self, user: KeyUser) -> None:
        """Add a client. Where clients state different plans for a key, the narrower limits apply."""
        self._users.append(user)
        self._apply_plans()

    def leave(self, user: KeyUser) -> None:
        """Remove a client; the window still counts its requests."""
        self._users.remove(user)
        if self._users:
            self._apply_plans()
        else:
            self.made_by.clear()

    def _apply_plans(self) -> None:
        # An assumed plan does not narrow one that another client was given.
        plans = [each.plan for each in self._users if not each.plan_is_assumed]
        plans = plans or [each.plan for each in self._users]
        days = [plan.jobs_per_day for plan in plans if plan.jobs_per_day is not None]
        self.plan = replace(
            min(plans, key=lambda plan: plan.requests_per_minute),
            concurrent_jobs=min(plan.concurrent_jobs for plan in plans),
            jobs_per_day=min(days, default=None),
        )
        self.polls_count = any(each.polls_count for each in self._users)
        self._window.limit = self._narrower(self._reported_limit)
        self.day.limit = self.plan.jobs_per_day
        self._serve(self._loop.time())

    def _narrower(self, reported: int | None) -> int:
        plan = self.plan.requests_per_minute
        return plan if reported is None else max(1, min(reported, plan))

    def observe_headers(
        self, headers: Mapping[str, str], permit: RequestPermit | None = None, *, was_accepted: bool = False
    ) -> RateLimitHeaders:
        """Take in the rate-limit headers of an answer, and return them.

        They may leave less than we count, if others use the key too; more counts only after a reset.

        Args:
            headers: of the answer.
            permit: of its request; None means the last one.
            was_accepted: whether the request succeeded, which shows that there was room.
        """
        rate_limit, now = read_headers(headers, wall_time()), self._loop.time()
        if rate_limit.limit is not None:
            self._reported_limit, self._window.limit = rate_limit.limit, self._narrower(rate_limit.limit)
        number = None if permit is None else permit.number
        if rate_limit.remaining is None:
            if was_accepted and number is not None:
                self._window.unsaid(now, number)
            return rate_limit
        if self._window.lower(rate_limit.remaining, now):
            self._contested_until = now + PERIOD
        # A poll that does not count has no number, so its answer may be older than what we know.
        if permit is None or number is not None:
            # Workers that share a plan also share what is left.
            share = self._window.limit / max(self._window.limit, rate_limit.limit or 0)
            self._window.left(int(rate_limit.remaining * share), now, number)
            if rate_limit.renews_in is not None:
                at = now + rate_limit.renews_in + _ROUNDING
                self._window.renews(at, now, number)
        return rate_limit

    def free_slot(self) -> Slot | None:
        """Take a slot now, if one is free and nobody waits."""
        is_full = self._slot_queue or self.slots_taken >= self.plan.concurrent_jobs
        return None if is_full or not self.day.has_room(wall_time()) else self._take_slot()

    def queue_for_slot(self, *, waits_for_day: bool) -> Waiter[Slot]:
        """Join the wait queue for a slot."""
        waiting = self._slot_queue.join(Position(self._loop.time(), waits_for_day))
        self._serve(self._loop.time())
        return waiting

    def slot_at_once(self, job_id: str = "") -> Slot:
        """Take a slot without queueing: the remote job is running already, so its slot is taken anyway."""
        of_it = next((kept for kept in self._kept if kept[1] == job_id != ""), None)
        if of_it is None:
            self._slots_taken += 1
        else:
            # A client that closed left the slot with this very job.
            self._kept.remove(of_it)
            heapify(self._kept)
        return Slot(self, is_counted=False)

    def permit_at_once(self, priority: Priority) -> RequestPermit | None:
        """Return a permit to send one request now, or None if others wait or a limit forbids it."""
        now = self._loop.time()
        if now < self._paused(priority):
            return None
        if priority is Priority.POLL and not self.polls_count:
            return RequestPermit(None, is_submit=False)
        if self._submit_queue or self._poll_queue or not self._may_spend(now, priority):
            return None
        return self._spend(priority)

    def queue_for_permit(self, priority: Priority, *, waits_for_day: bool = False) -> Waiter[RequestPermit]:
        """Join the wait queue for a request permit."""
        queue = self._submit_queue if priority is Priority.SUBMIT else self._poll_queue
        waiting = queue.join(Position(self._loop.time(), waits_for_day))
        self._serve(self._loop.time())
        return waiting

    def reason(self, waiting_for: Priority | None) -> WaitReason:
        """Return why a caller waits for a permit of this priority, or for a slot (None)."""
        if waiting_for is None:
            return "day" if self.day.is_over(wall_time()) else "slot"
        paused_until = self._paused(waiting_for)
        if waiting_for is Priority.SUBMIT:
            paused_until = max(paused_until, self._concurrency.held_until)
        return "server" if self._loop.time() < paused_until else "minute"

    def delay_polls(self, failure: Failure) -> None:
        """Send no poll before the retry-after of a failed one has passed, whatever the failure."""
        retry_in = read_headers(failure.headers or {}, wall_time()).retry_in
        if retry_in is not None:
            self._polls_from = max(self._polls_from, self._loop.time() + retry_in)

    def _paused(self, priority: Priority) -> float:
        """Return until when the service asked us to send no request of this priority."""
        is_poll = priority is Priority.POLL
        return max(self._paused_until, self._polls_from) if is_poll else self._paused_until

    def seconds_to_next_day(self) -> float:
        """Return the seconds until the service's next day."""
        wall = wall_time()
        return self.day.next_begins(wall) - wall

    def rate_limited(
        self, failure: Failure, permit: RequestPermit | None = None, *, is_submit: bool = True
    ) -> Limit:
        """Obey a 429, and return which limit it is about.

        Args:
            failure: the 429.
            permit: of its request; None means one sent just now.
            is_submit: whether it was a submit.
        """
        now, wall = self._loop.time(), wall_time()
        rate_limit = read_headers(failure.headers or {}, wall)
        sent_at = now if permit is None else permit.sent_at
        limit = self._limit_meant(failure, rate_limit, sent_at, is_submit=is_submit)
        if limit not in self._warned_of:
            self._warned_of.add(limit)
            log.warning("The service says that a limit is reached (%s): %s", limit.value, failure.message)
        wait = requested_wait(rate_limit, limit=limit)
        if limit is Limit.DAY:
            self.day.end(wall + wait if wait else self.day.next_begins(wall), said_at=wall)
        elif limit is Limit.SLOT:
            self._concurrency.rejected(now, wait, random.uniform(0, _JITTER))
        else:
            spread = random.uniform(0, _JITTER)
            self._paused_until = max(self._paused_until, now + (wait or _DEFAULT_PAUSE) + spread)
            self._contested_until = now + PERIOD
            if wait and rate_limit.remaining == 0 and rate_limit.renews_in is None:
                # A retry-after without a reset states the reset, too.
                self._window.renews(now + wait, now)
        self._serve(now)
        return limit

    def _limit_meant(
        self, failure: Failure, rate_limit: RateLimitHeaders, sent_at: float, *, is_submit: bool
    ) -> Limit:
        """Return which limit a 429 is about.

        If only the length of the wait suggests the daily limit, and the headers and our own count speak
        against it, a clock or a unit may be wrong. Then we assume the minute limit first, and the daily
        limit if a submit that was sent after the pause gets the same 429.
        """
        # The rejected submit holds a slot itself.
        meant = partial(
            which_limit, failure.code, failure.message, rate_limit, jobs_in_flight=self._slots_taken > 1
        )
        limit, unless_day = meant(), meant(may_be_day=False)
        if (
            limit is unless_day
            or not self._is_of_minute(rate_limit)
            or not self.day.is_far_from_full(wall_time())
        ):
            return limit
        if self._doubted_until is not None and sent_at >= self._doubted_until and is_submit:
            self._doubted_until = None
            return limit
        if self._doubted_until is None and is_submit:
            self._doubted_until = self._loop.time() + UNBELIEVED_WAIT
        return unless_day

    def _is_of_minute(self, rate_limit: RateLimitHeaders) -> bool:
        """Whether the limit in the headers is that of requests a minute."""
        if rate_limit.limit is None:
            return False
        per_day = self.plan.jobs_per_day
        return (
            rate_limit.limit <= self.plan.requests_per_minute or per_day is None or rate_limit.limit < per_day
        )

    def accepted(self) -> None:
        """Record that a submit was accepted, which ends a series of holds."""
        self._doubted_until = None
        self._concurrency.accepted(self._loop.time())

    def daily_limit(self) -> DailyLimitError:
        """Return the error for callers that do not wait for the next day."""
        wall = wall_time()
        begins = self.day.next_begins(wall)
        per_day = self.plan.jobs_per_day
        is_ours = per_day is not None and not self.day.is_ended(wall)
        why = f"the plan {self.plan.name!r} allows {per_day} a day" if is_ours else "the service says so"
        return DailyLimitError(
            f"No more jobs today: {why}.",
            retry_after=begins - wall,
            resets_at=datetime.fromtimestamp(begins, UTC),
        )

    def slot_is_back(self, *, was_of_a_job: bool) -> None:
        """Take a slot back; while submits are held, a job that ended admits one."""
        self._slots_taken -= 1
        if was_of_a_job:
            self._concurrency.job_ended()
        self._serve(self._loop.time())

    def slot_is_kept(self, until: float, job_id: str = "") -> None:
        """Take a slot back at `until`, or earlier when its job is resumed and ends."""
        heappush(self._kept, (until, job_id))

    def job_is_settled(self, *, was_made: bool) -> None:
        """End the job's reservation of the day, and count the job if it was made."""
        self.day.settle(wall_time(), was_made=was_made)
        if was_made:
            self._made_at = self._loop.time()
        self._serve(self._loop.time())

    def permit_is_over(self, *, was_sent: bool, is_submit: bool) -> None:
        """Take a permit back."""
        now = self._loop.time()
        if is_submit:
            self._concurrency.submit_is_over()
        if was_sent:
            self._window.answered(now)
        else:
            self._window.unsent()
        self._serve(now)

    def _serve(self, now: float) -> None:
        """Grant what can be granted now, and set the timer for the next moment at which more can be."""
        if self._timer is None and not (self._slot_queue or self._submit_queue or self._poll_queue):
            return
        if self._loop.is_closed():
            return
        self._serve_slots()
        while now >= self._paused(Priority.POLL) and self._poll_queue and not self.polls_count:
            self._poll_queue.grant(lambda: RequestPermit(None, is_submit=False))
        while now >= self._paused_until and (priority := self._next(now)) is not None:
            queue = self._submit_queue if priority is Priority.SUBMIT else self._poll_queue
            queue.grant(lambda priority=priority: self._spend(priority))  # type: ignore[misc]  # bound at once
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._next_moment(now)
        if moment is not None:
            self._timer = self._loop.call_at(moment, self._serve_later)

    def _serve_later(self) -> None:
        # A timer may fire a nanosecond early; then nothing can be granted yet, and `_serve` sets it again.
        self._serve(self._loop.time())

    def _serve_slots(self) -> None:
        wall = wall_time()
        if self.day.is_over(wall):
            self._slot_queue.fail(self.daily_limit, unless=lambda position: position.waits_for_day)
        if self.day.is_ended(wall):
            self._submit_queue.fail(self.daily_limit, unless=lambda position: position.waits_for_day)
        while self._slot_queue and self._has_slot() and self.day.has_room(wall):
            self._slot_queue.grant(self._take_slot)

    def _has_slot(self) -> bool:
        return self.slots_taken < self.plan.concurrent_jobs

    def _take_slot(self) -> Slot:
        self._slots_taken += 1
        self.day.reserve()
        return Slot(self, is_counted=True)

    def _next(self, now: float) -> Priority | None:
        """Return who may send a request now: submits, but every other time an overdue poll goes first."""
        poll = self._poll_queue.first() if now >= self._polls_from else None
        may_poll = poll is not None and self._may_spend(now, Priority.POLL)
        may_submit = bool(self._submit_queue) and self._may_spend(now, Priority.SUBMIT)
        is_overdue = poll is not None and poll.since + OVERDUE_AFTER <= now and not self._poll_went_first
        if may_poll and (is_overdue or not may_submit):
            self._poll_went_first = may_submit
            return Priority.POLL
        self._poll_went_first = False
        return Priority.SUBMIT if may_submit else None

    def _may_spend(self, now: float, priority: Priority) -> bool:
        """Whether a request may be sent now; submits leave a few for polls."""
        # While others use the key, wait for each answer: it says what they left.
        may_send = (
            now >= self._contested_until or not self._window.in_flight or now >= self._spent_at + _PROBE_WAIT
        )
        if not may_send:
            return False
        if priority is Priority.POLL:
            return self._window.free(now) > 0
        free = self._window.free(now)
        # The first answer after a reset says how many more may go; a submit must not wait for a poll to ask.
        return not self._concurrency.blocks(now) and free > (
            0 if self._window.is_renewed else self._kept_for_polls()
        )

    def _kept_for_polls(self) -> int:
        """Return how many requests submits leave for polls, where a burst could use up a whole minute."""
        is_wide = self.plan.concurrent_jobs * 2 >= self._window.limit > 1
        if not is_wide or not self.polls_count or self._slots_taken < 2:
            return 0
        return max(1, min(self._window.limit // 10, _MOST_KEPT))

    def _spend(self, priority: Priority) -> RequestPermit:
        now = self._loop.time()
        is_submit = priority is Priority.SUBMIT
        self._spent_at = now
        if is_submit:
            self._concurrency.submit_sent(now)
        return RequestPermit(self, is_submit=is_submit, number=self._window.spend(), sent_at=now)

    def _next_moment(self, now: float) -> float | None:
        """Return the next moment at which more can be granted without any other event."""
        moments: list[float | None] = []
        if self._slot_queue and self._has_slot():
            moments.append(now + max(0.0, self.seconds_to_next_day()))
        if self._slot_queue and self._kept:
            moments.append(self._kept[0][0])
        if self._poll_queue:
            free = now if not self.polls_count else self._window.next_free(now)
            moments.append(None if free is None else self._after_probe(max(free, self._polls_from)))
        if self._submit_queue:
            free = self._window.next_free(now, beside=self._kept_for_polls())
            held_until = max(now, self._concurrency.held_until)
            moments.append(None if free is None else self._after_probe(max(free, held_until)))
        later = [moment for moment in moments if moment is not None]
        # What could be granted now was granted; only another event can change the rest.
        return min(
            (max(moment, self._paused_until) for moment in later if moment > now or self._paused_until > now),
            default=None,
        )

    def _after_probe(self, moment: float | None) -> float | None:
        """Return the moment, or the later one at which a request in flight no longer delays the next."""
        if moment is None or moment >= self._contested_until or not self._window.in_flight:
            return moment
        return max(moment, self._spent_at + _PROBE_WAIT)
