"""What a plan allows: the documented table, and shares of a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from doitong_async.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Plan:
    """The limits of one API key (reference, "Plans").

    Args:
        name: of the plan.
        requests_per_minute: requests in any 60 seconds; status requests count too (assumption).
        concurrent_jobs: unfinished jobs at once.
        jobs_per_day: jobs in a UTC day (assumption), or None for no limit.

    Raises:
        ConfigurationError: if a limit is not a whole number above zero.
    """

    name: str
    requests_per_minute: int
    concurrent_jobs: int
    jobs_per_day: int | None = None

    FREE: ClassVar[Plan]
    STARTER: ClassVar[Plan]
    PRO: ClassVar[Plan]

    def __post_init__(self) -> None:
        for field in ("requests_per_minute", "concurrent_jobs", "jobs_per_day"):
            value = getattr(self, field)
            if value is None and field == "jobs_per_day":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{field} is {value!r}; expected a whole number above zero.")

    @classmethod
    def enterprise(
        cls, *, requests_per_minute: int, concurrent_jobs: int, jobs_per_day: int | None = None
    ) -> Plan:
        """Return an Enterprise plan, whose limits you agree with the service.

        Raises:
            ConfigurationError: if a limit is not a whole number above zero.
        """
        return cls("enterprise", requests_per_minute, concurrent_jobs, jobs_per_day)

    @classmethod
    def named(cls, name: str) -> Plan:
        """Return the plan with this name in the documented table, in any case.

        Raises:
            ConfigurationError: if the table has no such plan.
        """
        plans = {plan.name: plan for plan in (cls.FREE, cls.STARTER, cls.PRO)}
        try:
            return plans[name.strip().lower()]
        except KeyError:
            raise ConfigurationError(
                f"plan is {name!r}; expected one of {', '.join(plans)}, or Plan.enterprise(…) in code."
            ) from None

    def share(self, n: int) -> Plan:
        """Return the share of each of `n` workers on one key, so that together they stay within the plan.

        Raises:
            ConfigurationError: if the plan is too small to be shared by `n` workers.
        """
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ConfigurationError(f"share({n!r}): expected a whole number of workers above zero.")
        limits = (self.requests_per_minute, self.concurrent_jobs, self.jobs_per_day)
        if any(limit is not None and limit < n for limit in limits):
            day = "any number of" if self.jobs_per_day is None else f"{self.jobs_per_day:,}"
            raise ConfigurationError(
                f"The plan {self.name!r} cannot be shared by {n} workers: it allows {self.concurrent_jobs} "
                f"jobs at once, {self.requests_per_minute} requests a minute and {day} jobs a day. "
                "Use fewer workers."
            )
        return dataclasses.replace(
            self,
            requests_per_minute=self.requests_per_minute // n,
            concurrent_jobs=self.concurrent_jobs // n,
            jobs_per_day=None if self.jobs_per_day is None else self.jobs_per_day // n,
        )


Plan.FREE = Plan("free", 10, 1, 100)
Plan.STARTER = Plan("starter", 30, 3, 1_000)
Plan.PRO = Plan("pro", 60, 10, 10_000)
