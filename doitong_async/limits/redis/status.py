"""Reads the shared state of a key without taking part, and says who uses it and what is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from doitong_async.clock import wall_time
from doitong_async.errors import CoordinatorError
from doitong_async.limits.permits import Priority
from doitong_async.limits.redis.codec import AnotherFormatError, DamagedError, loaded
from doitong_async.limits.redis.granting import DEAD_AFTER, Signs
from doitong_async.limits.redis.shared import Phase, SharedKey, SharedSlot
from doitong_async.limits.redis.store import Reply, Store, UnreachableError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStatus:
    """A process on the key.

    Attributes:
        id: its name among the others, as long as its client is open.
        pid: of the process, on its machine.
        seen_seconds_ago: when it was last heard of.
        is_silent: whether it has not been heard of for so long that it counts as dead.
        polls: whether it polls for all.
        reserved: slots whose submit was not sent yet.
        sent: slots whose submit may have made a job.
        running: slots with a job.
        waits_for_slot: how many jobs wait for a slot.
        waits_to_submit: how many have a slot, and wait to be submitted.
        behind: jobs that its batches have yet to queue.
    """

    id: str
    pid: int
    seen_seconds_ago: float
    is_silent: bool
    polls: bool
    reserved: int
    sent: int
    running: int
    waits_for_slot: int
    waits_to_submit: int
    behind: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus:
    """What the processes on a key use together.

    Attributes:
        processes: those on the key, as they joined.
        plan: the name of the narrowest plan; None, like its limits, if no process is there.
        slots_taken: by all of them, and by jobs of processes that are gone.
        concurrent_jobs: the plan's.
        orphans: slots of processes that are gone.
        requests_left: how many requests may be sent now; None if nobody uses the key.
        requests_per_minute: the plan's, or fewer if the service said so.
        withheld: requests a minute that are left to processes that died or are cut off, for their polls.
        lost_processes: how many those are.
        jobs_today: made in this day of the service, as far as is known.
        jobs_per_day: the plan's, or None.
        day_over_for: seconds until jobs may begin again, if the day's are used up, else zero.
        submits_held_for: seconds for which the service asked to send no submit; zero if it did not.
        polls_held_for: likewise, no poll.
        has_no_credits: whether the service said so, less than half a minute ago.
    """

    processes: tuple[ProcessStatus, ...] = ()
    plan: str | None = None
    slots_taken: int = 0
    concurrent_jobs: int | None = None
    orphans: int = 0
    requests_left: int | None = None
    requests_per_minute: int | None = None
    withheld: int = 0
    lost_processes: int = 0
    jobs_today: int = 0
    jobs_per_day: int | None = None
    day_over_for: float = 0.0
    submits_held_for: float = 0.0
    polls_held_for: float = 0.0
    has_no_credits: bool = False

    @property
    def is_used(self) -> bool:
        """Whether a process is on the key, or a job of one that is gone."""
        return bool(self.slots_taken) or not all(process.is_silent for process in self.processes)

    @property
    def poller(self) -> ProcessStatus | None:
        """The process that polls for all; None if there is none, or it is silent."""
        return next((process for process in self.processes if process.polls), None)


async def read_status(store: Store) -> KeyStatus:
    """Return who uses a key and what is left of its plan.

    Raises:
        CoordinatorError: if Redis does not answer, or another version of this library uses the key.
    """
    try:
        reply = await store.read()
        key = None if reply.state is None else loaded(reply.state)
    except UnreachableError as error:
        raise CoordinatorError(f"The coordinator cannot be reached: {error}") from None
    except AnotherFormatError:
        raise CoordinatorError(
            "Another version of this library uses the coordinator, in a format that this one cannot read."
        ) from None
    except DamagedError:
        raise CoordinatorError("What the coordinator has for this key cannot be read.") from None
    return KeyStatus() if key is None else _status(key, reply, wall_time())


def _status(key: SharedKey, reply: Reply, wall: float) -> KeyStatus:
    now = reply.now
    # Who only reads has heard nothing before; but Redis itself would have been silent for all.
    signs = Signs(reply.beats, 0.0)
    silences = {name: signs.silence(name, process, now) for name, process in key.processes.items()}
    silent = {name for name, silence in silences.items() if silence > DEAD_AFTER}
    here = key.processes.keys() - silent
    # As it will be once another process looks: it buries those that are silent.
    held = [slot for slot in key.slots.values() if _is_held(slot, now, has_owner=slot.owner in here)]
    phases = Counter((slot.owner, slot.phase) for slot in held)
    processes = tuple(
        ProcessStatus(
            id=name,
            pid=process.stated.pid,
            seen_seconds_ago=max(0.0, silences[name]),
            is_silent=name in silent,
            polls=name == key.poller and name not in silent,
            reserved=phases[name, Phase.RESERVED],
            sent=phases[name, Phase.SENT],
            running=phases[name, Phase.RUNNING],
            waits_for_slot=process.stated.wants,
            waits_to_submit=len(process.stated.submits),
            behind=process.stated.behind,
        )
        for name, process in key.processes.items()
    )
    found = KeyStatus(
        processes=processes,
        slots_taken=len(held),
        orphans=sum(slot.owner not in here for slot in held),
        requests_left=key.rate.free(now),
        withheld=sum(key.lost.values()),
        lost_processes=len(key.lost),
        jobs_today=key.day.made(wall),
        day_over_for=key.day.next_begins(wall) - wall if key.day.is_over(wall) else 0.0,
        submits_held_for=max(0.0, key.rate.held_until(Priority.SUBMIT) - now),
        polls_held_for=max(0.0, key.rate.held_until(Priority.POLL) - now),
        has_no_credits=key.rate.circuit.is_open(now),
    )
    if not key.processes:
        return found
    plan = key.plan
    return replace(
        found,
        plan=plan.name,
        concurrent_jobs=plan.concurrent_jobs,
        requests_per_minute=key.requests_per_minute,
        jobs_per_day=plan.jobs_per_day,
    )


def _is_held(slot: SharedSlot, now: float, *, has_owner: bool) -> bool:
    if slot.phase is Phase.ENDED:
        return False
    return has_owner or (slot.phase is not Phase.RESERVED and now < slot.until)
