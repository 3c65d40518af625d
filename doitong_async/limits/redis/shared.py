"""What all processes on an API key have in common: one value that each of them reads, changes and replaces.

A process changes its copy with the same pure parts that a single process uses, and Redis takes the copy only
if nobody else was faster. So all decisions stand in one line, as if one process had made them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from doitong_async.limits.facts import JobFacts, Sight
from doitong_async.limits.key_state import KeyState
from doitong_async.limits.permits import IN_DOUBT_FOR
from doitong_async.limits.plan import Plan
from doitong_async.limits.users import KeyUser, narrowest

UNMATCHED_FOR: Final = 600.0
"""Seconds that the end of a job is kept which no process knows yet: our choice."""
MOST_UNMATCHED: Final = 1_000
NOBODY: Final = ""
"""The owner of a slot whose process left."""


class Phase(StrEnum):
    """The life of a slot: reserved → sent → running → ended."""

    RESERVED = "reserved"
    """Its submit was not sent: it is free again when its process dies."""
    SENT = "sent"
    """Its submit may have made a job."""
    RUNNING = "running"
    ENDED = "ended"
    """Its job has ended, which its process has yet to learn: it counts no more."""


@dataclass(slots=True)
class SharedSlot:
    """A slot of the plan; `until` is when it expires, `name` a digest of its submit's key while in doubt."""

    owner: str
    phase: Phase = Phase.RESERVED
    until: float = math.inf
    name: str = ""
    is_counted: bool = False
    job: JobFacts | None = None


@dataclass(slots=True)
class SharedPermit:
    """A request permit that was granted; `slot` is the one of its submit."""

    owner: str
    is_submit: bool
    number: int
    at: float
    slot: str = ""


@dataclass(slots=True)
class Stated:
    """What a process says of itself.

    Attributes:
        plan: that it was given, with the settings that go with it.
        has_webhooks: whether the ends of its jobs are pushed, so that it polls seldom.
        pid: of the process.
        wants: how many wait for a slot.
        submits: who waits to submit: the slot, whether a job may have been made, a digest of the key.
        polls: who waits to poll: since when, and whether it asks for itself and not as the poller.
        behind: jobs that its batches have yet to queue.
    """

    plan: KeyUser
    has_webhooks: bool = False
    pid: int = 0
    wants: int = 0
    submits: list[tuple[str, bool, str]] = field(default_factory=list)
    polls: list[tuple[float, bool]] = field(default_factory=list)
    behind: int = 0


@dataclass(slots=True)
class Process:
    """A process on the key: what it says of itself, and its place in the queues.

    The tags are those of start-time fair queueing: the one with the smallest is served next, and a process
    that begins to wait starts where the queue is, so that no process waits for another's whole backlog.
    """

    stated: Stated
    seen: float
    slot_tag: float = 0.0
    submit_tag: float = 0.0


class SharedKey(KeyState):
    """The state of a key for all its processes; moments are seconds of Redis's clock.

    Args:
        plan: of the process that begins it.
        day_starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
        now: the moment.
    """

    __slots__ = (
        *("granted", "lost", "permits", "poller", "processes", "reported", "restored_from", "restoring"),
        *("served_slot", "served_submit", "slots", "unmatched"),
    )

    def __init__(self, plan: Plan, day_starts_at: float, now: float) -> None:
        super().__init__(plan, day_starts_at, now)
        self.processes: dict[str, Process] = {}
        self.slots: dict[str, SharedSlot] = {}
        self.permits: dict[str, SharedPermit] = {}
        self.granted: int = 0
        """The number in the id of the last grant."""
        self.poller: str = NOBODY
        self.lost: dict[str, int] = {}
        """By process that died or is cut off: requests a minute that it may still send to poll its jobs."""
        self.reported: int | None = None
        """The requests a minute that the service last said."""
        self.restoring: list[str] = []
        """After Redis lost the state: the processes that have not said yet what they hold."""
        self.restored_from: int = 0
        """The number of the version that was put back then."""
        self.served_slot = self.served_submit = 0.0
        """The tags that were served last."""
        self.unmatched: dict[str, tuple[float, Sight]] = {}
        """The ends of jobs that no process knows yet, with the moment at which they are forgotten."""

    def become(self, other: SharedKey) -> None:
        """Take over another state, which must not be used any more."""
        for name in (*KeyState.__slots__, *SharedKey.__slots__):
            setattr(self, name, getattr(other, name))

    @property
    def plan(self) -> Plan:
        """The narrowest of the processes' plans."""
        return narrowest([process.stated.plan for process in self.processes.values()])

    @property
    def requests_per_minute(self) -> int:
        """The plan's requests a minute, or fewer if the service said so."""
        allowed = self.plan.requests_per_minute
        return min(allowed, self.reported or allowed)

    @property
    def polls_count(self) -> bool:
        """Whether polls count for any of the processes."""
        return any(process.stated.plan.polls_count for process in self.processes.values())

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return sum(slot.phase is not Phase.ENDED for slot in self.slots.values())

    @property
    def waiting(self) -> int:
        """How many jobs wait for a slot or a permit, or will be queued by a batch, in all processes."""
        return sum(self.waiting_in(name) for name in self.processes)

    def waiting_in(self, name: str) -> int:
        """How many of them are in one process, as it last said."""
        process = self.processes.get(name)
        if process is None:
            return 0
        return process.stated.wants + len(process.stated.submits) + process.stated.behind

    def running(self) -> Iterator[tuple[str, SharedSlot, JobFacts]]:
        """Yield the slots whose jobs run, each with its id and the job."""
        for slot_id, slot in self.slots.items():
            if slot.phase is Phase.RUNNING and slot.job is not None:
                yield slot_id, slot, slot.job

    def state(self, name: str, stated: Stated, now: float) -> None:
        """Record what a process says of itself; it need not have been known."""
        if name in self.restoring:
            self.restoring.remove(name)
        process = self.processes.get(name)
        if process is None:
            process = self.processes[name] = Process(Stated(stated.plan), now)
            self.lost.pop(name, None)
        if stated.wants and not process.stated.wants:
            process.slot_tag = max(self.served_slot + 1, process.slot_tag)
        if stated.submits and not process.stated.submits:
            process.submit_tag = max(self.served_submit + 1, process.submit_tag)
        process.stated = stated

    def hold(self, slot_id: str, held: SharedSlot) -> None:
        """Record a slot that must not be freed: its submit was sent, or it has a job.

        What others saw of its job stays. A job has one slot: where a living process has one for it, that is
        the one, and else the newest.
        """
        known, job_id = self.slots.get(slot_id), held.job and held.job.id
        if known is not None and known.owner != held.owner and known.owner in self.processes:
            return
        if known is not None and known.phase in (held.phase, Phase.ENDED) and (known.job or not held.job):
            known.owner, known.until, known.name = held.owner, held.until, held.name
            return
        others = {
            other_id: other
            for other_id, other in self.slots.items()
            if other_id != slot_id
            and (
                (other.job is not None and other.job.id == job_id)
                or (other.owner not in self.processes and other.name == held.name != "")
            )
        }
        if any(other.owner != held.owner and other.owner in self.processes for other in others.values()):
            self.slots.pop(slot_id, None)
            return
        for other_id in others:
            del self.slots[other_id]
        known = self.slots.setdefault(slot_id, replace(held, job=None))
        known.owner, known.until, known.name = held.owner, held.until, held.name
        known.is_counted = known.is_counted or held.is_counted
        if known.phase is not Phase.ENDED:
            known.phase = held.phase
        if held.job is None or known.job is not None:
            return
        known.job = replace(held.job)
        if (unmatched := self.unmatched.pop(held.job.id, None)) is not None:
            self.saw(unmatched[1], now=-math.inf)

    def release(self, slot_id: str, *, was_of_a_job: bool) -> None:
        """Free a slot; while submits are held, a job that ended admits one."""
        if self.slots.pop(slot_id, None) is not None and was_of_a_job:
            self.rate.job_ended()

    def report(self, limit: int) -> None:
        """Record the requests a minute that the service allows."""
        self.reported = limit

    def restore(self, name: str, number: int, now: float) -> None:
        """Put the state back that Redis lost.

        Args:
            name: the process that does it.
            number: of the version that it has.
            now: the moment: nobody could give a sign of life before.
        """
        self.restoring = [other for other in self.processes if other != name]
        self.restored_from = number
        for process in self.processes.values():
            process.seen = now

    def hold_permit(self, permit_id: str, held: SharedPermit) -> None:
        """Record a permit that was granted before Redis lost the state."""
        if permit_id not in self.permits:
            self.permits[permit_id] = held
            self.rate.send_again(is_submit=held.is_submit)

    def count_request(self, at: float) -> None:
        """Count a request that was sent without a permit."""
        self.rate.sent_elsewhere(at)

    def leave_slot(self, slot_id: str, until: float, name: str) -> None:
        """Leave a slot with a job, or a submit in doubt, that its process tracks no more."""
        slot = self.slots.get(slot_id)
        if slot is not None and slot.phase is Phase.ENDED:
            del self.slots[slot_id]
        elif slot is not None:
            slot.owner, slot.until, slot.name = NOBODY, until, name

    def count_job(self, slot_id: str, wall: float) -> None:
        """Count a job in its day, once."""
        slot = self.slots.get(slot_id)
        if slot is not None and not slot.is_counted:
            slot.is_counted = True
            self.day.count(wall)

    def permit_is_over(self, permit_id: str, now: float, *, was_sent: bool) -> None:
        """Take a permit back; if its request was not sent, neither was the submit in its slot."""
        permit = self.permits.pop(permit_id, None)
        if permit is None:
            return
        self.rate.over(now, was_sent=was_sent, is_submit=permit.is_submit, number=permit.number)
        slot = self.slots.get(permit.slot)
        if not was_sent and slot is not None and slot.phase is Phase.SENT:
            slot.phase = Phase.RESERVED

    def leave(self, name: str, now: float) -> None:
        """Remove a process that ends; its jobs go on."""
        self.processes.pop(name, None)
        self.poller = NOBODY if self.poller == name else self.poller
        self.restoring = [other for other in self.restoring if other != name]
        self.abandon(name, now)

    def saw(self, sight: Sight, *, now: float) -> None:
        """Record what a poll or a webhook said of a job, for its owner to learn."""
        found = next(
            (
                each
                for each in self.slots.items()
                if each[1].job is not None and each[1].job.id == sight.job_id
            ),
            None,
        )
        if found is None:
            if sight.is_over and not sight.is_missing and now > -math.inf:
                self.unmatched[sight.job_id] = now + UNMATCHED_FOR, sight
            return
        slot_id, slot = found
        job = slot.job
        assert job is not None
        if slot.phase is not Phase.ENDED:
            job.trouble = sight.trouble
            job.status, job.url = sight.status or job.status, sight.url or job.url
            job.cost = job.cost if sight.cost is None else sight.cost
            job.is_missing = sight.is_missing
        if sight.is_over:
            slot.phase = Phase.ENDED
            if slot.owner not in self.processes:
                del self.slots[slot_id]

    def abandon(self, name: str, now: float) -> None:
        """Take back what a process held, but not what the service may hold for it."""
        for permit_id, permit in list(self.permits.items()):
            if permit.owner == name:
                self.permit_is_over(permit_id, now, was_sent=True)
        for slot_id, slot in list(self.slots.items()):
            if slot.owner == name:
                if slot.phase in (Phase.RESERVED, Phase.ENDED):
                    del self.slots[slot_id]
                elif slot.phase is Phase.SENT:
                    slot.until = min(slot.until, now + IN_DOUBT_FOR)
