"""Grants what can be granted in a shared state: buries the dead, names the poller, and serves who waits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from doitong_async.limits.permits import Priority
from doitong_async.limits.plan import Plan
from doitong_async.limits.redis.shared import (
    MOST_UNMATCHED,
    NOBODY,
    Phase,
    Process,
    SharedKey,
    SharedPermit,
    SharedSlot,
)

DEAD_AFTER: Final = 10.0
"""Seconds without a sign of a process after which it counts as dead: our choice."""
POLLER_GONE_AFTER: Final = 4.0
"""Seconds without a sign of the poller after which another process polls: our choice."""


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs of life that Redis has of each process.

    Attributes:
        beats: when each was last heard of.
        steady_since: since when the observer itself has heard without a gap. Silence before that may have
            been Redis's own.
    """

    beats: Mapping[str, float]
    steady_since: float

    def silence(self, name: str, process: Process, now: float) -> float:
        """Return the seconds for which a process could have been heard, and was not."""
        return now - max(self.beats.get(name, -math.inf), process.seen, self.steady_since)


class Granting:
    """Serves the processes on a key at one moment, and changes its state by that.

    Args:
        key: the state.
        now: the moment, in seconds of Redis's clock.
        wall: the moment, in epoch seconds.
    """

    def __init__(self, key: SharedKey, now: float, wall: float) -> None:
        self._key = key
        self._now = now
        self._wall = wall

    def serve(self, me: str, signs: Signs) -> None:
        """Bury the dead, name the poller and grant all that can be granted now.

        Args:
            me: the process that does this; it is alive.
            signs: of life, from all processes.
        """
        key = self._key
        self._bury(me, signs)
        self._expire()
        self._elect(me, signs)
        plan = key.plan
        key.rate.limit = max(1, key.requests_per_minute - sum(key.lost.values()))
        key.day.limit = plan.jobs_per_day
        if key.restoring:
            # Others may have been granted what this state does not know.
            return
        while self._may_begin(plan) and (name := self._next_for_slot()) is not None:
            self._grant_slot(name)
        while self._grant_permit(plan):
            continue

    def next_moment(self, name: str) -> float | None:
        """Return the next moment at which a process may get more without any other event."""
        key, stated = self._key, self._key.processes[name].stated
        moments: list[float | None] = []
        if stated.wants or stated.submits:
            is_of_day = not key.day.has_room(self._wall)
            moments.append(self._now + key.day.next_begins(self._wall) - self._wall if is_of_day else None)
            moments += [slot.until for slot in key.slots.values()]
        if self._polls(name):
            moments.append(key.rate.next_moment(self._now, Priority.POLL, kept=0))
        if stated.submits:
            kept = self._kept_for_polls(key.plan)
            moments.append(key.rate.next_moment(self._now, Priority.SUBMIT, kept=kept))
        soon = (moment for moment in moments if moment is not None and self._now < moment < math.inf)
        return min(soon, default=None)

    def _bury(self, me: str, signs: Signs) -> None:
        key = self._key
        for name, process in list(key.processes.items()):
            if name == me or signs.silence(name, process, self._now) <= DEAD_AFTER:
                continue
            key.leave(name, self._now)
            if any(slot.owner == name for slot in key.slots.values()):
                # It may be cut off from Redis alone, and goes on to poll its jobs.
                key.lost[name] = share_of_the_lost(key.rate.limit, len(key.processes) + 1)

    def _expire(self) -> None:
        key = self._key
        for slot_id, slot in list(key.slots.items()):
            if slot.until <= self._now and slot.owner not in key.processes:
                # As far as is known, its submit made a job.
                key.count_job(slot_id, self._wall)
                del key.slots[slot_id]
        owners = {slot.owner for slot in key.slots.values()}
        key.lost = {name: share for name, share in key.lost.items() if name in owners}
        while key.unmatched:
            job_id, (until, _) = next(iter(key.unmatched.items()))
            if until > self._now and len(key.unmatched) <= MOST_UNMATCHED:
                break
            del key.unmatched[job_id]

    def _elect(self, me: str, signs: Signs) -> None:
        """Name the process that polls for all: one that gets no webhooks, if there is one."""
        key = self._key
        alive = [
            name
            for name, process in key.processes.items()
            if name == me or signs.silence(name, process, self._now) <= POLLER_GONE_AFTER
        ]
        polling = [name for name in alive if not key.processes[name].stated.has_webhooks] or alive
        if key.poller not in polling:
            key.poller = me if me in polling else next(iter(polling), NOBODY)

    def _new_id(self, name: str) -> str:
        """Return the id of a grant to a process, unlike any other, also in a state that was lost."""
        self._key.granted = max(self._key.granted + 1, round(self._now * 1_000))
        return f"{name}.{self._key.granted}"

    # Slots.

    def _may_begin(self, plan: Plan) -> bool:
        key = self._key
        to_come = (slot for slot in key.slots.values() if slot.phase in (Phase.RESERVED, Phase.SENT))
        key.day.reserving(sum(not slot.is_counted for slot in to_come))
        return key.taken < plan.concurrent_jobs and key.day.has_room(self._wall)

    def _next_for_slot(self) -> str | None:
        waiting = {name: each for name, each in self._key.processes.items() if each.stated.wants}
        return _first((process.slot_tag, name) for name, process in waiting.items())

    def _grant_slot(self, name: str) -> None:
        process = self._key.processes[name]
        self._key.slots[self._new_id(name)] = SharedSlot(name)
        self._key.served_slot = process.slot_tag
        process.slot_tag += 1
        process.stated = replace(process.stated, wants=process.stated.wants - 1)

    # Request permits.

    def _kept_for_polls(self, plan: Plan) -> int:
        if not self._key.polls_count:
            return 0
        taken = self._key.taken
        return self._key.rate.kept_for_polls(concurrent_jobs=plan.concurrent_jobs, slots_taken=taken)

    def _grant_permit(self, plan: Plan) -> bool:
        """Grant the next permit; return whether there was one to grant."""
        poll, submit = self._first_poll(), self._first_submit(plan)
        priority = self._key.rate.next(
            self._now,
            poll_waits_since=None if poll is None else poll[1],
            submit_waits=submit is not None,
            kept=self._kept_for_polls(plan),
        )
        if priority is Priority.POLL and poll is not None:
            self._grant_poll(poll[0])
        elif priority is Priority.SUBMIT and submit is not None:
            self._grant_submit(*submit)
        return priority is not None

    def _polls(self, name: str) -> list[tuple[float, bool]]:
        """Return who may poll in a process: for all if it is the poller, else only for themselves."""
        polls = self._key.processes[name].stated.polls
        return polls if name == self._key.poller else [poll for poll in polls if poll[1]]

    def _first_poll(self) -> tuple[str, float] | None:
        firsts = {name: min(polls)[0] for name in self._key.processes if (polls := self._polls(name))}
        first = _first((since, name) for name, since in firsts.items())
        return None if first is None else (first, firsts[first])

    def _grant_poll(self, name: str) -> None:
        number = self._key.rate.send(self._now, Priority.POLL)
        self._key.permits[self._new_id(name)] = SharedPermit(
            name, is_submit=False, number=number, at=self._now
        )
        process = self._key.processes[name]
        left = list(process.stated.polls)
        left.remove(min(self._polls(name)))
        process.stated = replace(process.stated, polls=left)

    def _first_submit(self, plan: Plan) -> tuple[str, str] | None:
        """Return who submits next, and in which slot."""
        key = self._key
        is_open, may_begin = key.rate.circuit.is_open(self._now), self._may_begin(plan)
        ready = {
            name: slot_id
            for name, process in key.processes.items()
            for slot_id, in_doubt, _ in reversed(process.stated.submits)
            # A slot that was taken back while its process stood still has to be free once more.
            if (in_doubt or not is_open) and (slot_id in key.slots or may_begin)
        }
        first = _first((key.processes[name].submit_tag, name) for name in ready)
        return None if first is None else (first, ready[first])

    def _grant_submit(self, name: str, slot_id: str) -> None:
        process = self._key.processes[name]
        number = self._key.rate.send(self._now, Priority.SUBMIT)
        self._key.permits[self._new_id(name)] = SharedPermit(
            name, is_submit=True, number=number, at=self._now, slot=slot_id
        )
        slot = self._key.slots.setdefault(slot_id, SharedSlot(name))
        # From now on it is kept whatever happens to its process.
        slot.phase = Phase.SENT if slot.phase is Phase.RESERVED else slot.phase
        slot.name = next(digest for each, _, digest in process.stated.submits if each == slot_id)
        self._key.served_submit = process.submit_tag
        process.submit_tag += 1
        left = [each for each in process.stated.submits if each[0] != slot_id]
        process.stated = replace(process.stated, submits=left)


def share_of_the_lost(requests_per_minute: int, processes: int) -> int:
    """Return the requests a minute with which a process that is cut off polls its jobs."""
    return max(1, requests_per_minute // (2 * processes))


def _first(candidates: Iterable[tuple[float, str]]) -> str | None:
    """Return the name with the smallest number."""
    first = min(candidates, default=None)
    return None if first is None else first[1]
