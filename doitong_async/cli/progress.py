"""Counts the items of a batch as they end: rate, reason to wait, time left."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from doitong_async.batch.batch import Progress
from doitong_async.batch.item import Item, Outcome
from doitong_async.errors import DownloadError, JobNotFoundError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument, price_of

BAD: Final = (Outcome.FAILED, Outcome.REJECTED, Outcome.IN_DOUBT)
_HORIZON: Final = 300.0
"""Seconds over which the rate is measured."""
_SOONEST: Final = 5.0
"""Seconds before which a rate would be a guess."""
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The state of a batch at one moment.

    Attributes:
        total: items in the file.
        done: items that are done, `before` of them before this run.
        bad: items that failed, were rejected or are in doubt.
        running: jobs at the service, or being submitted.
        fetching: items whose output is being fetched.
        why: what items wait for, in words; None if nothing waits.
        spent, reserved: credits; `budget` is the most to spend.
        rate: items per minute; None until known.
        left: seconds left; None if unknown.
        stopping: the message while the batch stops early.
    """

    total: int
    done: int
    before: int
    bad: int
    running: int
    fetching: int
    why: str | None
    spent: float
    reserved: float
    budget: float | None
    rate: float | None
    left: float | None
    stopping: str | None

    @property
    def ended(self) -> int:
        """How many items have ended."""
        return self.done + self.bad

    @property
    def waiting(self) -> int:
        """How many items have neither ended nor reached the service."""
        return max(0, self.total - self.ended - self.running - self.fetching)


@dataclass(slots=True)
class BatchProgress:
    """Counts the items of one run.

    `needed` is what the skipped items may cost, as far as prices are known. Of the failed items, `unfetched`
    have a job that is done and paid: the next run fetches their outputs; `unknown` have a job that the
    service does not know, at least to this key: the next run polls it again.
    """

    total: int
    plan: Plan
    budget: float | None
    price: PriceArgument
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    known: Counter[Outcome] = field(default_factory=Counter)
    needed: float = 0.0
    unfetched: int = 0
    unknown: int = 0
    _ended: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, item: Item) -> None:
        """Count an item that ended."""
        self.outcomes[item.outcome] += 1
        if not item.is_new:
            self.known[item.outcome] += 1
        self.unfetched += isinstance(item.error, DownloadError)
        self.unknown += isinstance(item.error, JobNotFoundError)
        if item.outcome is Outcome.SKIPPED and item.request is not None:
            price = price_of(item.request, self.price)
            self.needed += 0.0 if price is None else price.high

    @property
    def done(self) -> int:
        """How many are done."""
        return self.outcomes[Outcome.DONE]

    @property
    def bad(self) -> int:
        """How many failed, were rejected or are in doubt."""
        return sum(self.outcomes[outcome] for outcome in BAD)

    @property
    def left(self) -> int:
        """How many were not submitted."""
        return self.total - self.done - self.bad

    def moment(
        self,
        now: float,
        progress: Progress,
        *,
        waiting: Mapping[str, int],
        is_unreachable: bool,
        stopping: str | None,
    ) -> Moment:
        """Return the state of the batch.

        Args:
            now: the loop's clock, in seconds.
            progress: the batch's own progress.
            waiting: how many callers wait, by reason, as in `Stats.waiting`.
            is_unreachable: whether the last submit got no answer.
            stopping: the message about an early stop.
        """
        left = max(0, self.left)
        rate = self.rate(now)
        waits = max(0, left - progress.running - progress.fetching)
        why = None
        if waits and stopping is None:
            why = reason(waiting, self.plan, is_unreachable=is_unreachable)
        return Moment(
            total=self.total,
            done=self.done,
            before=self.known[Outcome.DONE],
            bad=self.bad,
            running=progress.running,
            fetching=progress.fetching,
            why=why,
            spent=progress.spent,
            reserved=progress.reserved,
            budget=self.budget,
            rate=rate,
            left=self._time_left(left, waits, rate, is_today="day" not in waiting),
            stopping=stopping,
        )

    def rate(self, now: float) -> float | None:
        """Return how many items end per minute, of late; None until known."""
        fresh = sum(self.outcomes.values()) - sum(self.known.values()) - self.outcomes[Outcome.SKIPPED]
        self._ended.append((now, fresh))
        while len(self._ended) > 2 and now - self._ended[1][0] >= _HORIZON:
            self._ended.popleft()
        then, before = self._ended[0]
        if now - then < _SOONEST or fresh == before:
            return None
        return 60.0 * (fresh - before) / (now - then)

    def _time_left(self, left: int, waits: int, rate: float | None, *, is_today: bool) -> float | None:
        if not left:
            return 0.0
        daily = self.plan.jobs_per_day
        if not is_today or (daily is not None and waits > daily):
            # The daily limit decides, not this minute's rate.
            return _DAY * (1 if daily is None else math.ceil(waits / daily))
        if rate is not None:
            return 60.0 * left / rate
        return _least(waits, self.plan) or None


def _least(jobs: int, plan: Plan) -> float:
    """Return the fewest seconds that the plan allows for so many jobs within a day."""
    minutes = (jobs - 1) // plan.requests_per_minute if jobs else 0
    return 60.0 * minutes


def reason(waiting: Mapping[str, int], plan: Plan, *, is_unreachable: bool) -> str | None:
    """Return in plain words what most items wait for.

    Args:
        waiting: how many callers wait, by reason, as in `Stats.waiting`.
        plan: the plan's limits.
        is_unreachable: whether the last submit got no answer.
    """
    if is_unreachable and not waiting.keys() & {"minute", "server", "day"}:
        return "for the service, which is unreachable"
    if not waiting:
        return None
    most = max(waiting, key=lambda name: waiting[name])
    day = "" if plan.jobs_per_day is None else f" ({plan.jobs_per_day:,} a day)"
    minute = f"({plan.requests_per_minute:,} requests a minute)"
    return {
        "slot": f"for a job to end ({plan.concurrent_jobs:,} at once)",
        "minute": f"for the next minute {minute}",
        "day": f"for the next day{day}",
        "server": "for a pause that the service requested",
        "credits": "for credits that are reserved",
        "coordinator": "for the coordinator, which does not answer",
    }.get(most, f"for {most}")
