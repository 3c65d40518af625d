"""The rate limiter of a key that one process uses alone: it grants by what the pure parts decide."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from doitong_async.clock import wall_time
from doitong_async.limits.facts import JobFacts
from doitong_async.limits.key_state import KeyState
from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.permits import Priority, RequestPermit, Slot, uncounted_poll
from doitong_async.limits.plan import Plan
from doitong_async.limits.quota import LENGTH
from doitong_async.limits.slots import SlotCount


class LocalLimiter(RateLimiter):
    """Keep one key within its plan, for every client on this event loop that uses it.

    Args:
        plan: the limits, until clients with other plans join.
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    def __init__(self, plan: Plan, *, day_starts_at: float = 0.0) -> None:
        super().__init__(plan, KeyState(plan, day_starts_at, asyncio.get_running_loop().time()))
        self._slots = SlotCount(plan.concurrent_jobs)
        self._made_at = -math.inf
        """When the last job was made."""

    @property
    def slots_taken(self) -> int:
        """How many slots remote jobs hold; more than the plan has if jobs were resumed."""
        return self._slots.taken(self.now())

    @property
    def is_idle(self) -> bool:
        """Whether no client uses it, and it knows nothing that a new rate limiter would not know."""
        now = self.now()
        # Use the loop's clock: the wall clock may be a day ahead and come back.
        has_day = now < self._made_at + LENGTH or not self.day.is_fresh(wall_time())
        return not (self.users or self.slots_taken or has_day) and self.rate.is_fresh(now)

    def _apply_limits(self) -> None:
        self._key.rate.limit = self.users.requests_per_minute
        self._key.day.limit = self.plan.jobs_per_day
        self._slots.limit = self.plan.concurrent_jobs
        self._serve()

    def _reported(self, limit: int) -> None:
        self.users.reported(limit)
        self._key.rate.limit = self.users.requests_per_minute

    def free_slot(self) -> Slot | None:
        """Take a slot now, if one is free and nobody waits."""
        is_free = not self._slot_queue and self._slots.has_free(self.now())
        return self._take_slot() if is_free and self.day.has_room(wall_time()) else None

    def slot_at_once(self, job_id: str = "") -> Slot:
        """Take a slot without queueing: the remote job is running already, so its slot is taken anyway."""
        self._slots.take_for(job_id)
        return Slot(self, is_counted=False)

    def follows(self, slot_id: str, job: JobFacts, *, until: float) -> None:
        """Do nothing: nobody else has to know which job has a slot."""

    def kept_slot(self, key: str) -> Slot | None:
        """Take the slot that a closed client kept for a submit in doubt, to send it again under its key."""
        return Slot(self, is_counted=False) if self._slots.take_kept(key) else None

    def give_back_kept(self, job_id: str) -> None:
        """Return the slot that a closed client kept for a job which has one of its own again."""
        if self._slots.take_kept(job_id):
            self._slots.give_back()
            self._serve()

    def permit_at_once(self, priority: Priority) -> RequestPermit | None:
        """Return a permit to send one request now, or None if others wait or a limit forbids it."""
        now = self.now()
        if priority is Priority.POLL and not self.polls_count:
            return None if now < self.rate.paused_until(priority) else uncounted_poll()
        is_barred = priority is Priority.SUBMIT and self.rate.circuit.is_open(now)
        if is_barred or self._submit_queue or self._poll_queue:
            return None
        may_send = self.rate.may_send(now, priority, kept=self._kept_for_polls())
        return self._permit(priority) if may_send else None

    def slot_is_back(self, slot_id: str, *, was_of_a_job: bool) -> None:
        """Take a slot back; while submits are held, a job that ended admits one."""
        self._slots.give_back()
        if was_of_a_job:
            self.rate.job_ended()
        self._serve()

    def slot_is_kept(self, slot_id: str, until: float, name: str) -> None:
        """Take a slot back at `until`, or earlier when its job is resumed and ends."""
        self._slots.keep(until, name)

    def job_is_settled(self, slot_id: str, *, was_made: bool) -> None:
        """End the job's reservation of the day, and count the job if it was made."""
        self.day.settle(wall_time(), was_made=was_made)
        if was_made:
            self._made_at = self.now()
        self._serve()

    def is_stale(self, permit: RequestPermit) -> bool:
        """Whether a permit is too old to be used: never, as this process alone grants it."""
        return False

    def permit_is_over(self, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        """Take a permit back; `number` is its request's."""
        self.rate.over(self.now(), was_sent=was_sent, is_submit=is_submit, number=number)
        self._serve()

    def _serve(self) -> None:
        """Grant what can be granted now, and set the timer for the next moment at which more can be.

        A timer may fire a nanosecond early; then nothing can be granted yet, and this sets it again.
        """
        if self._timer is None and not (self._slot_queue or self._submit_queue or self._poll_queue):
            return
        if self._loop.is_closed():
            return
        now = self.now()
        self._serve_slots(now)
        while self._poll_queue and not self.polls_count and now >= self.rate.paused_until(Priority.POLL):
            self._poll_queue.grant(uncounted_poll)
        while (priority := self._next(now)) is not None:
            self._queue_of(priority).grant(partial(self._permit, priority))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._next_moment(now)
        if moment is not None:
            self._timer = self._loop.call_at(moment, self._serve)

    def _serve_slots(self, now: float) -> None:
        wall = wall_time()
        self._send_away(now, wall)
        while self._slot_queue and self._slots.has_free(now) and self.day.has_room(wall):
            self._slot_queue.grant(self._take_slot)

    def _take_slot(self) -> Slot:
        self._slots.take()
        self.day.reserve()
        return Slot(self, is_counted=True)

    def _next(self, now: float) -> Priority | None:
        poll = self._poll_queue.first()
        return self.rate.next(
            now,
            poll_waits_since=None if poll is None else poll.since,
            submit_waits=bool(self._submit_queue),
            kept=self._kept_for_polls(),
        )

    def _kept_for_polls(self) -> int:
        if not self.polls_count:
            return 0
        return self.rate.kept_for_polls(concurrent_jobs=self._slots.limit, slots_taken=self.slots_taken)

    def _permit(self, priority: Priority) -> RequestPermit:
        now = self.now()
        number = self.rate.send(now, priority)
        return RequestPermit(self, is_submit=priority is Priority.SUBMIT, number=number, sent_at=now)

    def _next_moment(self, now: float) -> float | None:
        """Return the next moment at which more can be granted without any other event."""
        moments: list[float | None] = []
        if self._slot_queue:
            moments.append(now + self.seconds_to_next_day() if self._slots.has_free(now) else None)
            moments.append(self._slots.next_expiry())
        if self._poll_queue and not self.polls_count:
            moments.append(self.rate.paused_until(Priority.POLL))
        elif self._poll_queue:
            moments.append(self.rate.next_moment(now, Priority.POLL, kept=0))
        if self._submit_queue:
            moments.append(self.rate.next_moment(now, Priority.SUBMIT, kept=self._kept_for_polls()))
        # What could be granted now was granted; only another event can change the rest.
        return min((moment for moment in moments if moment is not None and moment > now), default=None)
