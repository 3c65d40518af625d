"""The service as a pure world: keys, limits, jobs and credits over time, and a record of all requests.

Nothing here reads a clock or waits: the time comes in as `now`, and a job's status follows from it.
"""

import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush, nlargest
from typing import Literal

from doitong_async.emulator.api_errors import (
    TOO_MANY_A_DAY,
    TOO_MANY_A_MINUTE,
    TOO_MANY_AT_ONCE,
    UNKNOWN_KEY,
    ApiError,
)
from doitong_async.emulator.faults import Fault
from doitong_async.emulator.jobs import Durations, Job, draw_duration, draw_id
from doitong_async.emulator.limits import DAY, PlanLimits, SlidingWindow, limits_of
from doitong_async.emulator.orders import Order
from doitong_async.emulator.prices import price
from doitong_async.emulator.script import Faults
from doitong_async.emulator.webhooks import Posted

Kind = Literal["submit", "poll", "introspection", "output", "other"]
OverConcurrency = Literal["refuse", "queue"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the server saw it; `ids` are the jobs it created or asked for.

    `http_status` is 0 if the connection was cut; `fault` names the faults of the request or its jobs.
    """

    at: float
    kind: Kind
    http_status: int
    ids: tuple[str, ...]
    headers: Mapping[str, str]
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """Who sends an order, and how a repeated submit is recognised.

    `body` stands for the whole request; `place` distinguishes its orders, as an alias does.
    """

    key: str
    idempotency_key: str | None = None
    body: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Allowance:
    """The values of the rate-limit headers: requests per window, permits left, and the next one's return."""

    limit: int
    remaining: int
    frees_at: float


class Unfinished:
    """The running and queued jobs; each leaves when its end has come."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.most = 0

    def add(self, ends_at: float, now: float) -> None:
        heappush(self.ends, ends_at)
        self.most = max(self.most, self.count(now))

    def count(self, now: float) -> int:
        while self.ends and self.ends[0] <= now:
            heappop(self.ends)
        return len(self.ends)


@dataclass(slots=True)
class Account:
    """What the server stores for one API key."""

    balance: int
    window: SlidingWindow
    unfinished: Unfinished = field(default_factory=Unfinished)
    jobs_by_day: Counter[int] = field(default_factory=Counter)
    bodies: dict[str, str] = field(default_factory=dict)
    firsts: dict[tuple[str, str], Job] = field(default_factory=dict)
    returns: list[tuple[float, int]] = field(default_factory=list)
    """When an uncharged failed job gives back its credits, and how many."""

    def settle(self, now: float) -> None:
        """Give back the credits that are due."""
        while self.returns and self.returns[0][0] <= now:
            self.balance += heappop(self.returns)[1]


class World:
    """The state of the emulated service; equal seed and calls give an equal world."""

    def __init__(
        self,
        plan: str | PlanLimits = "free",
        *,
        credits: int = 10_000,  # noqa: A002 - the field's word; the site builtin is for interactive shells
        seed: int = 0,
        speed: float = 1.0,
        key: str | None = None,
        over_concurrency: OverConcurrency = "refuse",
        polls_count: bool = True,
        durations: Durations = None,
        keys_honoured: bool = True,
        faults: Iterable[Fault | str] = (),
        seen_kept: int = 100_000,
    ) -> None:
        self.limits = limits_of(plan)
        self.faults = Faults(faults)
        self.jobs: dict[str, Job] = {}
        self.seen: deque[Seen] = deque(maxlen=seen_kept)
        self.posted: deque[Posted] = deque(maxlen=seen_kept)
        self.charges = 0
        self.most_in_window = 0
        self._credits = credits
        self._seed = seed
        self._speed = speed
        self._key = key
        self._over_concurrency = over_concurrency
        self._polls_count = polls_count
        self._durations = durations
        self._keys_honoured = keys_honoured
        self._accounts: defaultdict[str, Account] = defaultdict(self._open)
        self._counts: Counter[Kind] = Counter()
        self._unfinished = Unfinished()
        self._counted = SlidingWindow(limit=None)

    @property
    def most_at_once(self) -> int:
        """The largest number of unfinished jobs at any time, over all keys."""
        return self._unfinished.most

    def balance(self, key: str) -> int:
        """Return a key's credits, as of its last request."""
        return self._accounts[key].balance

    def count(self, kind: Kind) -> int:
        """Return how many requests of a kind arrived, failed ones included."""
        return self._counts[kind]

    def record(self, seen: Seen) -> None:
        """Record a request."""
        self.seen.append(seen)
        self._counts[seen.kind] += 1

    def knows(self, key: str | None) -> bool:
        """Whether this key is valid."""
        return bool(key) and (self._key is None or key == self._key)

    def admit(self, key: str | None, kind: Kind, now: float) -> str:
        """Admit and count a request, and return its key, or raise an error."""
        if key is None or not self.knows(key):
            raise ApiError(*UNKNOWN_KEY)
        self._accounts[key].settle(now)
        if kind != "poll" or self._polls_count:
            if not self._accounts[key].window.take(now):
                raise ApiError(*TOO_MANY_A_MINUTE)
            self._counted.take(now)
            self.most_in_window = max(self.most_in_window, self._counted.used(now))
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
        first = _first_job(account, sender) if self._keys_honoured else None
        if first:
            return first
        cost = price(order.type, order.provider, order.width, order.height)
        self._check(account, cost, now, wall)
        job = self._make(order, sender, cost, now, wall)
        account.balance -= cost
        if not job.charged:
            heappush(account.returns, (job.ends_at, cost))
        account.jobs_by_day[int(wall // DAY)] += 1
        account.unfinished.add(job.ends_at, now)
        self._unfinished.add(job.ends_at, now)
        if sender.idempotency_key:
            account.bodies[sender.idempotency_key] = sender.body
            account.firsts[sender.idempotency_key, sender.place] = job
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
        return Account(self._credits, SlidingWindow(self.limits.requests_per_minute))

    def _check(self, account: Account, cost: int, now: float, wall: float) -> None:
        limits = self.limits
        running = account.unfinished.count(now)
        if self._over_concurrency == "refuse" and running >= limits.concurrent_jobs:
            raise ApiError(*TOO_MANY_AT_ONCE)
        today = account.jobs_by_day[int(wall // DAY)]
        if limits.jobs_per_day is not None and today >= limits.jobs_per_day:
            raise ApiError(*TOO_MANY_A_DAY)
        if cost > account.balance:
            raise ApiError(
                "INSUFFICIENT_CREDITS",
                "Insufficient credits for this operation",
                creditsRequired=cost,
                creditsAvailable=account.balance,
            )

    def _make(self, order: Order, sender: Submission, cost: int, now: float, wall: float) -> Job:
        number = len(self.jobs)
        # One generator per job: a job's id and duration must not depend on earlier jobs.
        rng = random.Random(f"{self._seed}:{number}")
        job_id = draw_id(rng)
        duration = draw_duration(rng, order.type, number, self._durations) / self._speed
        starts_at = self._slot_at(self._accounts[sender.key], now)
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

    def _slot_at(self, account: Account, now: float) -> float:
        """Return when a slot is free: the jobs that end last hold all slots until the first of them ends."""
        slots = self.limits.concurrent_jobs
        if account.unfinished.count(now) < slots:
            return now
        return nlargest(slots, account.unfinished.ends)[-1]


def _first_job(account: Account, sender: Submission) -> Job | None:
    if sender.idempotency_key is None:
        return None
    if account.bodies.get(sender.idempotency_key, sender.body) != sender.body:
        raise ApiError("IDEMPOTENCY_CONFLICT", "This Idempotency-Key was used with another request")
    return account.firsts.get((sender.idempotency_key, sender.place))
