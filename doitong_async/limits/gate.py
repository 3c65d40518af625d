"""The one gate before every request of a key: slots for jobs, turns for requests, and the server's word."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final, Literal, TypeAlias

from doitong_async.clock import wall_time
from doitong_async.errors import DailyLimitError
from doitong_async.limits.day import Day
from doitong_async.limits.line import Line, Place, Waiting
from doitong_async.limits.plan import Plan
from doitong_async.limits.window import PERIOD, Window
from doitong_async.limits.word import Limit, read_word, remaining_of, wait_told, which_limit
from doitong_async.transport.refusal import Refusal

_log: Final = logging.getLogger("doitong_async")

OVERDUE_AFTER: Final = 4.0
"""Seconds that a look waits behind submits before it goes first: our choice, two documented ticks."""
_UNTOLD_PAUSE: Final = 2.0
"""Seconds to pause after a 429 that does not say how long."""
_UNTOLD_HOLD: Final = 5.0
"""Seconds until a submit that met too many jobs at once tries again, if no job of ours ends before; doubled
each time, up to a minute."""
_FEEL: Final = 1.0
"""Seconds that one request at most holds up the next where somebody else uses the key: our choice."""
_JITTER: Final = 1.0
"""Seconds over which those who were told the same moment spread."""
Reason: TypeAlias = Literal["slot", "minute", "day", "server"]


class Priority(Enum):
    """Who goes first when a turn is free; within one priority, who came first."""

    SUBMIT = auto()
    LOOK = auto()


class Lease:
    """A slot of the plan, held by a remote job from before its submit until its end is seen."""

    __slots__ = ("_gate", "_is_counted")

    def __init__(self, gate: Gate, *, is_counted: bool) -> None:
        self._gate: Gate | None = gate
        self._is_counted = is_counted

    @property
    def is_held(self) -> bool:
        """Whether the slot was not given back yet."""
        return self._gate is not None

    def job_is_made(self) -> None:
        """Count the job in its day: its submit was accepted."""
        self._settle(was_made=True)

    def release(self) -> None:
        """Give the slot back; a second time changes nothing."""
        if self._gate is not None:
            self._settle(was_made=False)
            gate, self._gate = self._gate, None
            gate._slot_is_back()

    give_back = release

    def _settle(self, *, was_made: bool) -> None:
        if self._is_counted and self._gate is not None:
            self._is_counted = False
            self._gate._day.settle(wall_time(), was_made=was_made)


class Turn:
    """The right to send one request now. It ends with the one or the other, and then changes nothing more."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate | None) -> None:
        self._gate = gate

    def answered(self) -> None:
        """Say that the request was answered, or is lost."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._turn_is_over(was_sent=True)

    def unsent(self) -> None:
        """Say that the request never left this machine."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._turn_is_over(was_sent=False)

    give_back = unsent


class Gate:
    """Keeps one key within its plan, for every client on this event loop that uses it.

    Args:
        plan: the limits.
        polls_count: whether looks take a turn of the minute (assumption: they do).
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    def __init__(self, plan: Plan, *, polls_count: bool = True, day_starts_at: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self.plan = plan
        self.polls_count = polls_count
        self._plans: list[Plan] = []
        self._slots_taken = 0
        self._day = Day(plan.jobs_per_day, day_starts_at)
        self._window = Window(plan.requests_per_minute)
        self._for_slot: Line[Lease] = Line()
        self._for_submit: Line[Turn] = Line()
        self._for_look: Line[Turn] = Line()
        self._paused_until = self._held_until = self._contested_until = self._loop.time()
        self._spent_at = self._loop.time() - _FEEL
        self._holds = 0
        self._timer: asyncio.TimerHandle | None = None
        self._warned_of: set[Limit] = set()

    @property
    def slots_taken(self) -> int:
        """How many slots are held by remote jobs; more than the plan has where jobs were taken up."""
        return self._slots_taken

    @property
    def waiting_for_slot(self) -> int:
        """How many callers stand in line for a slot."""
        return len(self._for_slot)

    @property
    def free(self) -> int:
        """How many requests may be sent now."""
        return self._window.free(self._loop.time())

    @property
    def next_free(self) -> float:
        """Seconds until one more request may be sent than now."""
        moment = self._window.next_return(self._loop.time())
        return max(0.0, moment - self._loop.time())

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it, and it holds nothing that a fresh gate would not know."""
        return not self._plans and not self._slots_taken and self.free == self.plan.requests_per_minute

    def join(self, plan: Plan) -> None:
        """Take a client in. Where clients say different plans for a key, the narrower limits hold."""
        self._plans.append(plan)
        self._keep_to(self._plans)

    def leave(self, plan: Plan) -> None:
        """Let a client go; what its requests took of the window stays taken."""
        self._plans.remove(plan)
        if self._plans:
            self._keep_to(self._plans)

    def _keep_to(self, plans: list[Plan]) -> None:
        days = [plan.jobs_per_day for plan in plans if plan.jobs_per_day is not None]
        narrowest = min(plans, key=lambda plan: plan.requests_per_minute)
        self.plan = replace(
            narrowest,
            concurrent_jobs=min(plan.concurrent_jobs for plan in plans),
            jobs_per_day=min(days, default=None),
        )
        self._window.limit = self.plan.requests_per_minute
        self._day.limit = self.plan.jobs_per_day
        self._serve(self._loop.time())

    def heed(self, headers: Mapping[str, str]) -> None:
        """Take in what an answer says is left: it may be less than we think, when others use the key too."""
        remaining = remaining_of(headers)
        now = self._loop.time()
        if remaining is not None and self._window.lower(remaining, now):
            self._contested_until = now + PERIOD

    def free_slot(self) -> Lease | None:
        """Take a slot now, if nobody stands in line and there is one."""
        is_full = self._for_slot or self._slots_taken >= self.plan.concurrent_jobs
        return None if is_full or self._day.is_over(wall_time()) else self._lease()

    def queue_for_slot(self, *, waits_for_day: bool) -> Waiting[Lease]:
        """Stand in line for a slot."""
        waiting = self._for_slot.enter(Place(self._loop.time(), waits_for_day))
        self._serve(self._loop.time())
        return waiting

    def turn_at_once(self, priority: Priority) -> Turn | None:
        """Return the right to send one request now, if nobody stands in line and nothing is in the way."""
        now = self._loop.time()
        if now < self._paused_until:
            return None
        if priority is Priority.LOOK and not self.polls_count:
            return Turn(None)
        is_held = priority is Priority.SUBMIT and now < self._held_until
        if is_held or self._for_submit or self._for_look or not self._may_spend(now):
            return None
        return self._spend()

    def queue_for_turn(self, priority: Priority) -> Waiting[Turn]:
        """Stand in line for the right to send one request."""
        line = self._for_submit if priority is Priority.SUBMIT else self._for_look
        waiting = line.enter(Place(self._loop.time()))
        self._serve(self._loop.time())
        return waiting

    def slot_at_once(self) -> Lease:
        """Take a slot without queueing: the remote job runs already, whether there is room or not."""
        self._slots_taken += 1
        return Lease(self, is_counted=False)

    def reason(self, waiting_for: Priority | None) -> Reason:
        """Return what keeps a caller waiting for a turn of this priority, or for a slot (None)."""
        if waiting_for is None:
            return "day" if self._day.is_over(wall_time()) else "slot"
        is_submit = waiting_for is Priority.SUBMIT
        told = max(self._paused_until, self._held_until) if is_submit else self._paused_until
        return "server" if self._loop.time() < told else "minute"

    def seconds_to_next_day(self) -> float:
        """Return how long it is until the service's next day."""
        wall = wall_time()
        return self._day.next_begins(wall) - wall

    def refused(self, refusal: Refusal) -> Limit:
        """Obey a 429, and return which limit it was about."""
        word = read_word(refusal.headers or {}, wall_time())
        # The refused submit holds a slot itself.
        limit = which_limit(refusal.code, refusal.message, word, jobs_in_flight=self._slots_taken > 1)
        if limit not in self._warned_of:
            self._warned_of.add(limit)
            _log.warning("The service says that a limit is reached (%s): %s", limit.value, refusal.message)
        told = wait_told(word, limit=limit)
        now = self._loop.time()
        spread = random.uniform(0, _JITTER)
        if limit is Limit.DAY:
            wall = wall_time()
            self._day.end(wall + told if told else self._day.next_begins(wall))
        elif limit is Limit.SLOT:
            usual = min(_UNTOLD_HOLD * 2**self._holds, 60.0)
            self._holds += 1
            self._held_until = now + (usual if told is None else told) + spread
        else:
            self._paused_until = max(self._paused_until, now + (told or _UNTOLD_PAUSE) + spread)
            self._contested_until = now + PERIOD
        self._serve(now)
        return limit

    def accepted(self) -> None:
        """Note that a submit was accepted: what held submits back is over."""
        self._holds = 0

    def daily_limit(self) -> DailyLimitError:
        """Return the error for whoever does not wait for the next day."""
        wall = wall_time()
        begins = self._day.next_begins(wall)
        return DailyLimitError(
            f"No more jobs today: the plan {self.plan.name!r} allows {self.plan.jobs_per_day} a day.",
            retry_after=begins - wall,
            resets_at=datetime.fromtimestamp(begins, UTC),
        )

    def _slot_is_back(self) -> None:
        self._slots_taken -= 1
        # A job of ours is over, so one more may run: a submit that was held may try again.
        self._held_until = now = self._loop.time()
        self._serve(now)

    def _turn_is_over(self, *, was_sent: bool) -> None:
        now = self._loop.time()
        if was_sent:
            self._window.answered(now)
        else:
            self._window.unsent()
        self._serve(now)

    def _serve(self, now: float) -> None:
        """Grant what can be granted, and come back at the next moment at which more can."""
        if self._timer is None and not (self._for_slot or self._for_submit or self._for_look):
            return
        self._serve_slots()
        while now >= self._paused_until and self._for_look and not self.polls_count:
            self._for_look.grant(lambda: Turn(None))
        while now >= self._paused_until and self._may_spend(now) and (line := self._next_line(now)):
            line.grant(self._spend)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        moment = self._next_moment(now)
        if moment is not None:
            self._timer = self._loop.call_at(moment, self._serve_later)

    def _serve_later(self) -> None:
        # A timer may fire a nanosecond early; then there is nothing to grant yet, and it is set again.
        self._serve(self._loop.time())

    def _serve_slots(self) -> None:
        while self._for_slot and self._slots_taken < self.plan.concurrent_jobs:
            if self._day.is_over(wall_time()):
                self._for_slot.refuse(self.daily_limit, unless=lambda place: place.waits_for_day)
                return
            self._for_slot.grant(self._lease)

    def _lease(self) -> Lease:
        self._slots_taken += 1
        self._day.reserve()
        return Lease(self, is_counted=True)

    def _may_spend(self, now: float) -> bool:
        """Whether the window has room; where others use the key, each answer is waited for, as it tells."""
        is_felt = now >= self._contested_until or not self._window.in_flight or now >= self._spent_at + _FEEL
        return is_felt and self._window.free(now) > 0

    def _spend(self) -> Turn:
        self._spent_at = self._loop.time()
        self._window.spend()
        return Turn(self)

    def _next_line(self, now: float) -> Line[Turn] | None:
        submits = self._for_submit if now >= self._held_until else None
        look = self._for_look.first()
        if look is not None and (not submits or look.since + OVERDUE_AFTER <= now):
            return self._for_look
        return submits or None

    def _next_moment(self, now: float) -> float | None:
        moments = []
        if self._for_slot and self._slots_taken < self.plan.concurrent_jobs:
            wall = wall_time()
            moments.append(now + max(0.0, self._day.next_begins(wall) - wall))
        free = self._window.next_free(now)
        if free == now and not self._may_spend(now):
            free = self._spent_at + _FEEL
        if self._for_look and not self.polls_count:
            moments.append(self._paused_until)
        elif self._for_look and free is not None:
            moments.append(max(free, self._paused_until))
        if free is not None and self._for_submit:
            moments.append(max(free, self._paused_until, self._held_until))
        return min(moments, default=None)
