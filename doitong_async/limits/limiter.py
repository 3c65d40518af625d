"""The face of a key's rate limiter: its wait queues, and what the service says of its limits."""

from __future__ import annotations

import asyncio
import platform
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

from doitong_async.clock import wall_time
from doitong_async.errors import DailyLimitError
from doitong_async.limits.facts import JobFacts
from doitong_async.limits.headers import Limit, RateLimitHeaders, read_headers
from doitong_async.limits.key_state import KeyState
from doitong_async.limits.permits import Priority, RequestPermit, Slot
from doitong_async.limits.plan import Plan
from doitong_async.limits.quota import DailyQuota
from doitong_async.limits.request_rate import RequestRate
from doitong_async.limits.users import KeyUser, KeyUsers
from doitong_async.limits.wait_queue import Position, Returnable, Waiter, WaitQueue
from doitong_async.log import log
from doitong_async.secret import digest
from doitong_async.transport.failure import Failure

_JITTER: Final = 1.0
"""Seconds over which we spread requests that wait for the same moment."""

T = TypeVar("T", bound=Returnable)
R = TypeVar("R")


class RateLimiter(ABC):
    """Keep one key within its plan, for every client that uses it.

    Args:
        plan: the limits, until clients with other plans join.
        key: what is known of the key.
    """

    def __init__(self, plan: Plan, key: KeyState) -> None:
        self._loop = asyncio.get_running_loop()
        self._key = key
        self.users: KeyUsers = KeyUsers(plan)
        self._slot_queue: WaitQueue[Slot] = WaitQueue()
        self._submit_queue: WaitQueue[RequestPermit] = WaitQueue()
        self._poll_queue: WaitQueue[RequestPermit] = WaitQueue()
        self._timer: asyncio.TimerHandle | None = None
        self._behind: dict[object, int] = {}
        """By batch: how many jobs it has yet to queue."""
        self._warned_of: set[Limit] = set()

    def now(self) -> float:
        """Return the time of the limiter's clock, in seconds: here that of the loop."""
        return self._loop.time()

    @property
    def rate(self) -> RequestRate:
        """The requests of the key, which only the limiter changes."""
        return self._key.rate

    @property
    def day(self) -> DailyQuota:
        """The jobs of the key's day, which only the limiter changes."""
        return self._key.day

    def _change(self, change: Callable[[KeyState], R]) -> R:
        """Change what is known of the key, and return what the change returns."""
        return change(self._key)

    @property
    def plan(self) -> Plan:
        """The limits that apply."""
        return self.users.plan

    @property
    def polls_count(self) -> bool:
        """Whether polls count against the requests of a minute."""
        return self.users.polls_count

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
        return self.rate.free(self.now())

    def coming(self, parts: int) -> list[int]:
        """Return how many requests come back in each of `parts` equal parts of the next minute."""
        return self.rate.coming(self.now(), parts)

    def join(self, user: KeyUser) -> None:
        """Add a client. Where clients state different plans for a key, the narrower limits apply."""
        self.users.join(user)
        self._apply_limits()

    def leave(self, user: KeyUser) -> None:
        """Remove a client; the window still counts its requests."""
        self.users.leave(user)
        self._apply_limits()

    def carry(self, made: int, *, source: str) -> None:
        """Count the jobs of this day that a ledger holds, except those already counted here."""
        wall, name = wall_time(), _anonymous(source)
        self._change(lambda key: key.day.carry(wall, made, source=name))

    def writes(self, *, source: str) -> int:
        """Record that a job counted here goes into a ledger, and return the number of its day."""
        wall, name = wall_time(), _anonymous(source)
        return self._change(lambda key: key.day.writes(wall, source=name))

    def observe_headers(
        self, headers: Mapping[str, str], permit: RequestPermit, *, was_accepted: bool = False
    ) -> RateLimitHeaders:
        """Take in the rate-limit headers of an answer, and return them.

        Args:
            headers: of the answer.
            permit: of its request.
            was_accepted: whether the request succeeded, which shows that there was room.
        """
        rate_limit = read_headers(headers, wall_time())
        if rate_limit.limit is not None:
            self._reported(rate_limit.limit)
        now = self.now()
        self._change(lambda key: key.rate.observe(rate_limit, now, permit.number, was_accepted=was_accepted))
        return rate_limit

    def queue_for_slot(self, position: Position) -> Waiter[Slot]:
        """Join the wait queue for a slot."""
        return self._join(self._slot_queue, position)

    def queue_for_permit(self, priority: Priority, position: Position) -> Waiter[RequestPermit]:
        """Join the wait queue for a request permit."""
        return self._join(self._queue_of(priority), position)

    def delay_polls(self, failure: Failure) -> None:
        """Send no poll before the retry-after of a failed one has passed, whatever the failure."""
        retry_in = read_headers(failure.headers or {}, wall_time()).retry_in
        if retry_in is not None:
            until = self.now() + retry_in
            self._change(lambda key: key.rate.delay_polls(until))

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
        now, wall = self.now(), wall_time()
        rejected = partial(
            KeyState.rejected,
            failure=failure,
            rate_limit=read_headers(failure.headers or {}, wall),
            now=now,
            wall=wall,
            sent_at=now if permit is None else permit.sent_at,
            is_submit=is_submit,
            # The rejected submit holds a slot itself.
            jobs_in_flight=self.slots_taken > 1,
            plan=self.plan,
            jitter=random.uniform(0, _JITTER),
        )
        limit = self._change(rejected)
        if limit not in self._warned_of:
            self._warned_of.add(limit)
            log.warning("The service says that a limit is reached (%s): %s", limit.value, failure.message)
        self._serve()
        return limit

    def accepted(self, permit: RequestPermit) -> None:
        """Record that a submit was accepted, which ends a series of holds."""
        now = self.now()
        self._change(lambda key: key.accepted(now, sent_at=permit.sent_at))

    def out_of_credits(self, failure: Failure) -> None:
        """Obey a 402: from the end of its permit on, submits that are not in doubt are sent away."""
        now = self.now()
        self._change(lambda key: key.rate.circuit.rejected(failure, now))

    def daily_limit(self) -> DailyLimitError:
        """Return the error for callers that do not wait for the next day."""
        return self.day.error(wall_time(), self.plan.name)

    def _join(self, queue: WaitQueue[T], position: Position) -> Waiter[T]:
        waiter = queue.join(position)
        self._serve()
        return waiter

    def _queue_of(self, priority: Priority) -> WaitQueue[RequestPermit]:
        return self._submit_queue if priority is Priority.SUBMIT else self._poll_queue

    def _send_away(self, now: float, wall: float) -> None:
        """End the waits of those who would wait for a day, or for credits, that they do not wait for."""
        if self.day.is_over(wall):
            self._slot_queue.fail(self.daily_limit, unless=lambda position: position.waits_for_day)
        if self.day.is_ended(wall):
            self._submit_queue.fail(self.daily_limit, unless=lambda position: position.waits_for_day)
        if self.rate.circuit.is_open(now):
            # Who waits for a slot learns of it with the slot that the rejected submit frees.
            no_credits = partial(self.rate.circuit.error, now)
            self._submit_queue.fail(no_credits, unless=lambda position: position.in_doubt)

    @property
    @abstractmethod
    def slots_taken(self) -> int:
        """How many slots remote jobs hold; more than the plan has if jobs were resumed."""

    @property
    def is_poller(self) -> bool:
        """Whether this process polls all jobs of the key."""
        return True

    @property
    def is_away(self) -> bool:
        """Whether those who share the plan cannot be reached."""
        return False

    @abstractmethod
    def free_slot(self) -> Slot | None:
        """Take a slot now, if one is free and nobody waits."""

    @abstractmethod
    def slot_at_once(self, job_id: str = "") -> Slot:
        """Take a slot without queueing: the remote job is running already, so its slot is taken anyway."""

    @abstractmethod
    def kept_slot(self, key: str) -> Slot | None:
        """Take the slot that a closed client kept for a submit in doubt, to send it again under its key."""

    @abstractmethod
    def give_back_kept(self, job_id: str) -> None:
        """Return the slot that a closed client kept for a job which has one of its own again."""

    @abstractmethod
    def follows(self, slot_id: str, job: JobFacts, *, until: float) -> None:
        """Learn which job has a slot, until a moment of the loop's clock, for those who share the plan."""

    @abstractmethod
    def permit_at_once(self, priority: Priority) -> RequestPermit | None:
        """Return a permit to send one request now, or None if others wait or a limit forbids it."""

    @abstractmethod
    def slot_is_back(self, slot_id: str, *, was_of_a_job: bool) -> None:
        """Take a slot back; while submits are held, a job that ended admits one."""

    @abstractmethod
    def slot_is_kept(self, slot_id: str, until: float, name: str) -> None:
        """Take a slot back at a moment of the loop's clock, or earlier when its job is seen to end."""

    @abstractmethod
    def job_is_settled(self, slot_id: str, *, was_made: bool) -> None:
        """End the job's reservation of the day, and count the job if it was made."""

    @abstractmethod
    def is_stale(self, permit: RequestPermit) -> bool:
        """Whether a permit is too old to be used."""

    @abstractmethod
    def permit_is_over(self, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        """Take a permit back; `number` is its request's."""

    @abstractmethod
    def _serve(self) -> None:
        """Grant what can be granted now, and see to it that the rest is granted in time."""

    @abstractmethod
    def _apply_limits(self) -> None:
        """Apply the limits that follow from the plans of all clients."""

    @abstractmethod
    def _reported(self, limit: int) -> None:
        """Apply the limit of requests a minute that the service reports."""


def _anonymous(source: str) -> str:
    """Return a name for a file of this machine that tells others neither of them."""
    return digest(f"{platform.node()} {source}")
