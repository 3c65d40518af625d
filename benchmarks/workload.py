"""What there is to do: cases of plan and kind, the durations of their jobs, and the bound below all."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.service import DAY, MINUTE
from doitong_async import Plan

MEDIANS: Final = {"image": 6.0, "video": 90.0}
"""Seconds; chosen, as the service does not say."""
SIGMA: Final = 0.35
"""Of the lognormal distribution: the emulator's own, restated."""
ENTERPRISE: Final = Plan.enterprise(requests_per_minute=600, concurrent_jobs=100)


@dataclass(frozen=True)
class Case:
    """So many jobs of one kind on one plan."""

    plan: Plan
    kind: str
    jobs: int

    @property
    def name(self) -> str:
        """How tables and charts call it."""
        return f"{self.plan.name.capitalize()}, {self.jobs:,} {self.kind}s"


CASES: Final = tuple(
    Case(plan, kind, jobs)
    for kind in MEDIANS
    for plan, jobs in ((Plan.FREE, 100), (Plan.STARTER, 100), (Plan.PRO, 300), (ENTERPRISE, 1000))
)


def durations(case: Case, seed: int) -> list[float]:
    """Return the seconds of each job, the same for every competitor."""
    rng = random.Random(f"{seed}:{case.kind}")
    return [rng.lognormvariate(math.log(MEDIANS[case.kind]), SIGMA) for _ in range(case.jobs)]


def lower_bound(plan: Plan, seconds: Sequence[float]) -> float:
    """Return the seconds that no schedule can go below, polls or not: the design's four terms."""
    slots, jobs = plan.concurrent_jobs, len(seconds)

    def run(part: Sequence[float]) -> float:
        return max(sum(part) / slots, max(part))

    windows = (jobs - 1) // plan.requests_per_minute
    bounds = [run(seconds), MINUTE * windows + run(seconds[windows * plan.requests_per_minute :])]
    if plan.jobs_per_day is not None:
        bounds.append(DAY * ((jobs - 1) // plan.jobs_per_day) + min(seconds))
    return max(bounds)
