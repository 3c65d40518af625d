"""What the server stores for one API key: credits, permits, unfinished jobs and idempotency keys."""

from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush, nlargest

from doitong_async.emulator.api_errors import TOO_MANY_A_DAY, TOO_MANY_AT_ONCE, ApiError
from doitong_async.emulator.jobs import Job
from doitong_async.emulator.limits import DAY, PlanLimits, SlidingWindow


@dataclass(frozen=True, slots=True)
class Submission:
    """Who sends an order, and how a repeated submit is recognised.

    `body` stands for the whole request; `place` distinguishes its orders, as an alias does.
    """

    key: str
    idempotency_key: str | None = None
    body: str = ""
    place: str = ""


class Unfinished:
    """The running and queued jobs; each leaves when its end has come."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self.most: int = 0

    def add(self, ends_at: float, now: float) -> None:
        """Add a job."""
        heappush(self._ends, ends_at)
        self.most = max(self.most, self.count(now))

    def count(self, now: float) -> int:
        """Return how many jobs have not ended."""
        while self._ends and self._ends[0] <= now:
            heappop(self._ends)
        return len(self._ends)

    def slot_at(self, slots: int, now: float) -> float:
        """Return when a slot is free: the jobs that end last hold all slots until the first of them ends."""
        return now if self.count(now) < slots else nlargest(slots, self._ends)[-1]


@dataclass(slots=True)
class Account:
    """The credits and jobs of one API key."""

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

    def first_job(self, sender: Submission) -> Job | None:
        """Return the job of an earlier submit under the same idempotency key.

        Raises:
            ApiError: if that submit was another request.
        """
        if sender.idempotency_key is None:
            return None
        if self.bodies.get(sender.idempotency_key, sender.body) != sender.body:
            raise ApiError("IDEMPOTENCY_CONFLICT", "This Idempotency-Key was used with another request")
        return self.firsts.get((sender.idempotency_key, sender.place))

    def check(self, cost: int, limits: PlanLimits, *, may_queue: bool, now: float, wall: float) -> None:
        """Raise an error if a job of this cost exceeds the limits or the credits."""
        if not may_queue and self.unfinished.count(now) >= limits.concurrent_jobs:
            raise ApiError(*TOO_MANY_AT_ONCE)
        if limits.jobs_per_day is not None and self.jobs_by_day[int(wall // DAY)] >= limits.jobs_per_day:
            raise ApiError(*TOO_MANY_A_DAY)
        if cost > self.balance:
            raise ApiError(
                "INSUFFICIENT_CREDITS",
                "Insufficient credits for this operation",
                creditsRequired=cost,
                creditsAvailable=self.balance,
            )

    def add(self, job: Job, sender: Submission, now: float) -> None:
        """Charge a new job, and remember its idempotency key."""
        self.balance -= job.credit_cost
        if not job.charged:
            heappush(self.returns, (job.ends_at, job.credit_cost))
        self.jobs_by_day[int(job.created_wall // DAY)] += 1
        self.unfinished.add(job.ends_at, now)
        if sender.idempotency_key:
            self.bodies[sender.idempotency_key] = sender.body
            self.firsts[sender.idempotency_key, sender.place] = job
