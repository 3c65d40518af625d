"""The service as a pure world: keys, limits, jobs and credits over time, and a record of all requests.

Nothing here reads a clock or waits: the time comes in as `now`, and a job's status follows from it.
"""

import math
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from doitong_async.emulator.accounts import Account, Submission, Unfinished
from doitong_async.emulator.api_errors import TOO_MANY_A_MINUTE, UNKNOWN_KEY, ApiError
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.jobs import Durations, Job, draw_duration, draw_id
from doitong_async.emulator.limits import PlanLimits, SlidingWindow, limits_of
from doitong_async.emulator.orders import Order
from doitong_async.emulator.prices import price
from doitong_async.emulator.script import Faults
from doitong_async.emulator.traffic import Kind, Seen, Traffic

OverConcurrency = Literal["refuse", "queue"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the service behaves, besides its limits and faults; see `doitong_async.emulator.Emulator`."""

    credits: int = 10_000
    seed: int = 0
    run: str = ""
    """Makes the ids of this run differ from those of others; empty if they follow from the seed alone."""
    speed: float = 1.0
    key: str | None = None
    over_concurrency: OverConcurrency = "refuse"
    polls_count: bool = True
    durations: Durations = None
    keys_honoured: bool = True
    seen_kept: int = 100_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """The values of the rate-limit headers: requests per window, permits left, and the next one's return."""

    limit: int
    remaining: int
    frees_at: float


class World:
    """The state of the emulated service; equal seed and calls give an equal world."""

    def __init__(
        self,
        plan: str | PlanLimits = "free",
        rules: Rules | None = None,
        *,
        faults: Iterable[Fault | str] = (),
    ) -> None:
        self.limits: PlanLimits = limits_of(plan)
        self.faults: Faults = Faults(faults)
        self.jobs: dict[str, Job] = {}
        self.charges: int = 0
        self._rules = rules or Rules()
        self._accounts: defaultdict[str, Account] = defaultdict(self._open)
        self._unfinished = Unfinished()
        self._traffic = Traffic(self._rules.seen_kept)

    @property
    def most_at_once(self) -> int:
        """The largest number of unfinished jobs at any time, over all keys."""
        return self._unfinished.most

    @property
    def most_in_window(self) -> int:
        """The largest number of requests that used up a permit within any window, over all keys."""
        return self._traffic.most_in_window

    @property
    def seen(self) -> deque[Seen]:
        """The latest requests, failed ones included."""
        return self._traffic.seen

    def balance(self, key: str) -> int:
        """Return a key's credits, as of its last request."""
        return self._accounts[key].balance

    def count(self, kind: Kind) -> int:
        """Return how many requests of a kind arrived, failed ones included."""
        return self._traffic.counts[kind]

    def record(self, seen: Seen) -> None:
        """Record a request."""
        self._traffic.record(seen)

    def knows(self, key: str | None) -> bool:
        """Whether this key is valid."""
        return bool(key) and (self._rules.key is None or key == self._rules.key)

    def admit(self, key: str | None, kind: Kind, now: float) -> str:
        """Admit and count a request, and return its key, or raise an error."""
        if key is None or not self.knows(key):
            raise ApiError(*UNKNOWN_KEY)
        self._accounts[key].settle(now)
        if kind != "poll" or self._rules.polls_count:
            if not self._accounts[key].window.take(now):
                raise ApiError(*TOO_MANY_A_MINUTE)
            self._traffic.admit(now)
        return key

    def allowance(self, key: str, now: float) -> Allowance:
        """Return what is left of a key's requests per minute."""
        window = self._accounts[key].window
        limit = self.limits.requests_per_minute
        return Allowance(limit, limit - window.used(now), window.frees_at(now))

    def submit(self, order: Order, sender: Submission, now: float, wall: float) -> Job:
        """Accept an order and charge it; a known idempotency key returns its first job instead."""
        account = self._accounts[sender.key]
        account.settle(now)
        first = account.first_job(sender) if self._rules.keys_honoured else None
        if first:
            return first
        cost = price(order.type, order.provider, order.width, order.height)
        may_queue = self._rules.over_concurrency == "queue"
        account.check(cost, self.limits, may_queue=may_queue, now=now, wall=wall)
        job = self._make(order, sender, cost, now, wall)
        account.add(job, sender, now)
        self._unfinished.add(job.ends_at, now)
        self.jobs[job.id] = job
        self.charges += job.charged
        return job

    def poll(self, key: str, job_id: str, now: float) -> Job:
        """Return the job with this id, if it belongs to this key and is visible."""
        job = self.jobs.get(job_id)
        if job is None or job.key != key or now < job.hidden_until:
            raise ApiError("NOT_FOUND", f"There is no generation {job_id!r}")
        return job

    def jobs_since(self, made: int) -> list[Job]:
        """Return the jobs created after the first `made` jobs."""
        newest = reversed(self.jobs.values())
        return [next(newest) for _ in range(len(self.jobs) - made)][::-1]

    def faults_since(self, made: int) -> Iterator[Fault]:
        """Return the faults of the jobs created after the first `made` jobs."""
        return (fault for job in self.jobs_since(made) for fault in job.faults)

    def output(self, file_name: str, now: float) -> Job | None:
        """Return the finished job whose output has this name."""
        job = self.jobs.get(file_name.partition(".")[0])
        if job is None or job.file_name != file_name or job.status_at(now) != "completed":
            return None
        return job

    def _open(self) -> Account:
        return Account(self._rules.credits, SlidingWindow(self.limits.requests_per_minute))

    def _make(self, order: Order, sender: Submission, cost: int, now: float, wall: float) -> Job:
        number, rules = len(self.jobs), self._rules
        # One generator per job: a job's id and duration must not depend on earlier jobs.
        rng = random.Random(f"{rules.seed}:{number}")
        job_id = draw_id(rng)
        if rules.run:
            # A ledger may hold the ids of an earlier run: under them it would find other pictures now.
            job_id = draw_id(random.Random(f"{rules.run}:{number}"))
        duration = draw_duration(rng, order.type, number, rules.durations) / rules.speed
        starts_at = self._accounts[sender.key].unfinished.slot_at(self.limits.concurrent_jobs, now)
        faults = {fault.what: fault for fault in self.faults.of_job(number + 1)}
        odd, late, fail = faults.get("odd-status"), faults.get("late"), faults.get("fail")
        over_at = math.inf if "stuck" in faults else starts_at + duration
        ends_at = over_at + odd.seconds if odd else over_at
        return Job(
            number=number,
            id=job_id,
            order=order,
            key=sender.key,
            idempotency_key=sender.idempotency_key,
            credit_cost=cost,
            # A job that never ends does not fail either.
            charged=fail is None or fail.charged or math.isinf(ends_at),
            created_at=now,
            starts_at=starts_at,
            ends_at=ends_at,
            created_wall=wall,
            hidden_until=now + late.seconds if late else -math.inf,
            odd_word=odd.word if odd else "",
            odd_from=over_at if odd else math.inf,
            fails=fail is not None,
            faults=tuple(faults.values()),
        )
