"""The rate limiter of a key that many processes share: the same face as the one of a single process."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from doitong_async.clock import wall_time
from doitong_async.limits.facts import JobFacts, Sight
from doitong_async.limits.key_state import KeyState
from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.permits import Priority, RequestPermit, Slot, uncounted_poll
from doitong_async.limits.plan import Plan
from doitong_async.limits.redis.away import Absence
from doitong_async.limits.redis.granting import Granting
from doitong_async.limits.redis.link import Link, unreachable
from doitong_async.limits.redis.replica import Replica
from doitong_async.limits.redis.shared import Phase, SharedKey, SharedPermit, SharedSlot, Stated
from doitong_async.limits.redis.store import Store
from doitong_async.limits.users import KeyUser
from doitong_async.limits.wait_queue import Position
from doitong_async.log import log
from doitong_async.secret import digest

R = TypeVar("R")

FRESH_FOR: Final = 5.0
"""Seconds after which a grant may not be used any more: the process stood still, and counts as dead soon."""
_MOST_REMEMBERED: Final = 1_000
"""Permits whose end is remembered, in case Redis comes back with a state in which they are in use."""
_SOON: Final = 0.001
"""Seconds that a timer waits longer, as our estimate of Redis's clock is a little late."""


class SharedLimiter(RateLimiter):
    """Keep one key within its plan, for all processes that use the same Redis server.

    Each process has a copy of the state. What it wants and what it holds goes into the copy; then it grants
    what can be granted, to whichever process is next, and asks Redis to take the copy. If another process was
    faster, it begins again with that one's copy. What another granted to it, it finds there.

    Args:
        user: this process's plan, and the settings that go with it.
        store: keeps the state.
        name: of this process among the others, as long as the client is open.
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
        has_webhooks: whether webhooks report the ends of its jobs.
    """

    def __init__(
        self,
        user: KeyUser,
        store: Store,
        name: str,
        *,
        day_starts_at: float = 0.0,
        has_webhooks: bool = False,
    ) -> None:
        self._me = name
        self._user = user
        self._has_webhooks = has_webhooks
        key = SharedKey(user.plan, day_starts_at, 0.0)
        self._replica = Replica(store, name, key, prepare=self._prepare, adopt=self._adopt)
        self.link: Link = Link(store, self._replica, name, on_away=self._is_away, on_back=self._is_back)
        super().__init__(user.plan, key)
        self._held: dict[str, SharedSlot] = {}
        """Our slots."""
        self._permits: dict[str, SharedPermit] = {}
        """Our permits."""
        self._ended: dict[str, Callable[[SharedKey], None]] = {}
        """How our last permits ended."""
        self._taken_up = 0
        self._is_leaving = False
        self._away: Absence | None = None
        self.on_change: Callable[[SharedKey], None] = lambda _: None
        """Called with each newer state."""

    def now(self) -> float:
        """Return the time of Redis's clock, in seconds."""
        return self._replica.now()

    @property
    def shared(self) -> SharedKey:
        """The state of the key, as far as it is known here; only for reading."""
        return self._replica.key

    @property
    def plan(self) -> Plan:
        """The limits that apply: the narrowest of all processes."""
        return self.shared.plan if self.shared.processes else self._user.plan

    @property
    def polls_count(self) -> bool:
        """Whether polls count against the requests of a minute, for any of the processes."""
        return self.shared.polls_count if self.shared.processes else self._user.polls_count

    @property
    def slots_taken(self) -> int:
        """How many slots remote jobs hold, in all processes."""
        return self.shared.taken

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot or a permit, or will be queued by a batch, in all processes."""
        return self.shared.waiting - self.shared.waiting_in(self._me) + super().waiting

    @property
    def is_poller(self) -> bool:
        """Whether this process polls for all of them."""
        return self._away is None and self.shared.poller == self._me

    @property
    def is_away(self) -> bool:
        """Whether Redis cannot be reached."""
        return self._away is not None

    # What is wanted and held here.

    def _change(self, change: Callable[[KeyState], R]) -> R:
        return self._share(change)

    def _share(self, change: Callable[[SharedKey], R]) -> R:
        self.link.wanted.set()
        return self._replica.change(change)

    def _serve(self) -> None:
        self.link.wanted.set()

    _apply_limits = _serve

    def _reported(self, limit: int) -> None:
        self._share(partial(SharedKey.report, limit=limit))

    def free_slot(self) -> Slot | None:
        """Return None: only Redis can say whether a slot is free."""
        return None

    def permit_at_once(self, priority: Priority) -> RequestPermit | None:
        """Return a permit for a poll that does not count; all others have to be asked for."""
        is_free = priority is Priority.POLL and not self.polls_count
        may_send = is_free and self.now() >= self.rate.paused_until(priority)
        return uncounted_poll() if may_send else None

    def slot_at_once(self, job_id: str = "") -> Slot:
        """Take the slot of a job that is running: the one that it has, or one more."""
        for slot_id, slot, job in self.shared.running():
            if job.id == job_id and slot_id not in self._held:
                return self._take_up(slot_id, slot)
        self._taken_up += 1
        return self._take_up(f"{self._me}.r{self._taken_up}", SharedSlot(self._me, Phase.RUNNING))

    def kept_slot(self, key: str) -> Slot | None:
        """Take the slot that was left for a submit in doubt, to send it again under its key."""
        name = digest(key)
        for slot_id, slot in self.shared.slots.items():
            if slot.name == name and slot.owner not in self.shared.processes:
                return self._take_up(slot_id, slot)
        return None

    def _take_up(self, slot_id: str, slot: SharedSlot) -> Slot:
        self._held[slot_id] = replace(slot, owner=self._me, is_counted=True)
        self.link.wanted.set()
        return Slot(self, is_counted=False, slot_id=slot_id)

    def give_back_kept(self, job_id: str) -> None:
        """Do nothing: a job that gets a slot loses any other in the shared state."""

    def follows(self, slot_id: str, job: JobFacts, *, until: float) -> None:
        """Learn which job has a slot, so that others poll it, and free the slot if this process dies."""
        if (held := self._held.get(slot_id)) is not None:
            shift = self.now() - self._loop.time()
            job.submitted += shift
            held.phase, held.job, held.until = Phase.RUNNING, job, until + shift
            self.link.wanted.set()

    def slot_is_back(self, slot_id: str, *, was_of_a_job: bool) -> None:
        """Free a slot; while submits are held, a job that ended admits one."""
        self._held.pop(slot_id, None)
        self._share(partial(SharedKey.release, slot_id=slot_id, was_of_a_job=was_of_a_job))

    def slot_is_kept(self, slot_id: str, until: float, name: str) -> None:
        """Leave a slot until a moment of the loop's clock, or until its job is seen to end."""
        self._held.pop(slot_id, None)
        until += self.now() - self._loop.time()
        self._share(partial(SharedKey.leave_slot, slot_id=slot_id, until=until, name=digest(name)))

    def job_is_settled(self, slot_id: str, *, was_made: bool) -> None:
        """Count a job in its day."""
        if was_made and (held := self._held.get(slot_id)) is not None:
            held.is_counted = True
            self._share(partial(SharedKey.count_job, slot_id=slot_id, wall=wall_time()))

    def is_stale(self, permit: RequestPermit) -> bool:
        """Whether the process stood still since the grant, so that it may have been given to another."""
        return permit.number is not None and self.now() > permit.sent_at + FRESH_FOR

    def permit_is_over(self, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        """Take a permit back; `number` is its request's, or None if Redis knows nothing of it."""
        permit_id = next((name for name, each in self._permits.items() if each.number == number), None)
        if permit_id is None:
            return
        granted, now = self._permits.pop(permit_id), self._replica.now_at_most()
        over = partial(SharedKey.permit_is_over, permit_id=permit_id, now=now, was_sent=was_sent)
        self._share(_remembered(self._ended, permit_id, over))
        held = None if was_sent else self._held.get(granted.slot)
        if held is not None and held.phase is Phase.SENT:
            held.phase = Phase.RESERVED

    def publish(self, sight: Sight) -> None:
        """Tell the process that follows a job what a poll or a webhook said of it."""
        self._share(partial(SharedKey.saw, sight=sight, now=self.now()))

    async def close(self) -> None:
        """Leave the others; our jobs go on, and are polled by those who stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._is_leaving = True
        self._share(partial(SharedKey.leave, name=self._me, now=self.now()))
        await self.link.close()

    # The exchange with the others.

    def _prepare(self, key: SharedKey) -> None:
        """Write into a state what this process wants and holds, and grant what can be granted."""
        if self._is_leaving:
            return
        now, wall = self.now(), wall_time()
        self._send_away(now, wall)
        for permit_id, permit in self._permits.items() if self._me in key.restoring else ():
            key.hold_permit(permit_id, permit)
        key.state(self._me, self._statement(), now)
        for slot_id, slot in self._held.items():
            if slot.phase is not Phase.RESERVED:
                key.hold(slot_id, slot)
        Granting(key, now, wall).serve(self._me, self._replica.signs)

    def _statement(self) -> Stated:
        return Stated(
            self._user,
            has_webhooks=self._has_webhooks,
            pid=os.getpid(),
            wants=len(self._slot_queue),
            submits=[(each.slot, each.in_doubt, digest(each.key)) for each in self._submit_queue.positions()],
            polls=[(position.since, position.is_asked) for position in self._poll_queue.positions()],
            behind=sum(self._behind.values()),
        )

    def _adopt(self, key: SharedKey) -> None:
        """Take what a state grants to this process, and look again when more can be granted."""
        if self._me not in key.processes:
            return
        for slot_id, slot in list(key.slots.items()):
            if slot.owner == self._me and slot_id not in self._held:
                self._take_slot(slot_id, slot)
        ours = [each for each in key.permits.items() if each[1].owner == self._me]
        for permit_id, permit in ours:
            if permit_id in self._ended:
                # Redis came back with an older state.
                self._share(self._ended[permit_id])
            elif permit_id not in self._permits:
                self._take_permit(permit_id, permit)
        if key.poller != self._me:
            # The poller that this process was waits in vain: it has its own jobs to see to.
            self._poll_queue.fail(unreachable, unless=lambda position: position.is_asked)
        if not self.polls_count and self.now() >= self.rate.paused_until(Priority.POLL):
            while self._poll_queue:
                self._poll_queue.grant(uncounted_poll)
        _warn_of_other_plans(key.plan, self._user)
        self._set_timer(key)
        self.on_change(key)

    def _take_slot(self, slot_id: str, slot: SharedSlot) -> None:
        if slot.phase is not Phase.RESERVED:
            # Redis came back with an older state, in which we still had it.
            self._share(partial(SharedKey.leave_slot, slot_id=slot_id, until=slot.until, name=slot.name))
            return
        self._held[slot_id] = SharedSlot(self._me)
        make = partial(Slot, self, is_counted=True, slot_id=slot_id)
        if not self._slot_queue.grant_first(make, who=lambda _: True):
            # The one who waited for it has left.
            make().release()

    def _take_permit(self, permit_id: str, granted: SharedPermit) -> None:
        self._permits[permit_id] = granted
        make = partial(
            RequestPermit, self, is_submit=granted.is_submit, number=granted.number, sent_at=granted.at
        )
        if self.now() > granted.at + FRESH_FOR:
            # It may have been used before Redis lost what came after it.
            make().answered()
            return
        held = self._held.get(granted.slot)
        if held is not None and held.phase is Phase.RESERVED:
            held.phase, held.name = Phase.SENT, self.shared.slots[granted.slot].name
        queue = self._submit_queue if granted.is_submit else self._poll_queue
        if not queue.grant_first(make, who=partial(_is_for, granted, self.shared.poller == self._me)):
            make().unsent()

    def _set_timer(self, key: SharedKey) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self.now()
        moment = Granting(key, now, wall_time()).next_moment(self._me)
        if moment is not None:
            self._timer = self._loop.call_later(max(0.0, moment - now) + _SOON, self.link.wanted.set)

    # Without the others.

    def _is_away(self) -> None:
        """Let our own jobs be polled now and then, and end the waits that took too long."""
        now = self.now()
        if self._away is None:
            self._away = Absence(now, self.shared, self.plan)
            self.on_change(self.shared)
        poll = partial(RequestPermit, self, is_submit=False, sent_at=now)
        self._away.serve(now, self._slot_queue, self._submit_queue, self._poll_queue, poll)

    def _is_back(self) -> None:
        if self._away is not None:
            away, self._away = self._away, None
            for moment in away.sent:
                self._share(partial(SharedKey.count_request, at=moment))
            self.on_change(self.shared)


def _remembered(
    ended: dict[str, Callable[[SharedKey], None]], permit_id: str, over: Callable[[SharedKey], None]
) -> Callable[[SharedKey], None]:
    """Remember how a permit ended, as one of the last, and return that."""
    ended[permit_id] = over
    if len(ended) > _MOST_REMEMBERED:
        del ended[next(iter(ended))]
    return over


def _warn_of_other_plans(plan: Plan, user: KeyUser) -> None:
    """Say once that other processes were given a narrower plan than this one."""
    is_narrower = (plan.requests_per_minute, plan.concurrent_jobs) < (
        user.plan.requests_per_minute,
        user.plan.concurrent_jobs,
    )
    if is_narrower and "plans" not in user.warned_of:
        user.warned_of.add("plans")
        log.warning(
            "Another process on this API key was given the plan %r, and this one %r. The narrower limits "
            "apply while both are there: %d requests a minute, %d jobs at once.",
            plan.name,
            user.plan.name,
            plan.requests_per_minute,
            plan.concurrent_jobs,
        )


def _is_for(granted: SharedPermit, is_poller: bool, position: Position) -> bool:
    """Whether a permit was granted to this waiter."""
    if granted.is_submit:
        return position.slot == granted.slot
    return is_poller or position.is_asked
