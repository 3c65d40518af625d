"""The clients in this process that share an API key, and the narrowest of their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from doitong_async.limits.plan import Plan

MOST_KNOWN: Final = 256
"""Number of recent jobs whose idempotency key is remembered: our choice."""


@dataclass(frozen=True, slots=True)
class KeyUser:
    """A client that uses the rate limiter, and its settings for the key; `warned_of` is what it logged."""

    plan: Plan
    plan_is_assumed: bool = False
    polls_count: bool = True
    warned_of: set[str] = field(default_factory=set, compare=False)


class KeyUsers:
    """The clients on one key, the limits that follow, and which idempotency key made which recent job.

    Args:
        plan: the limits, until clients with other plans join.
    """

    __slots__ = ("_forget_at", "_made_by", "_reported_limit", "_users", "plan", "polls_count")

    def __init__(self, plan: Plan) -> None:
        self.plan: Plan = plan
        self.polls_count: bool = True
        """Whether polls count against the requests of a minute, for any of the clients."""
        self._users: list[KeyUser] = []
        self._reported_limit: int | None = None
        self._made_by: dict[str, tuple[str, KeyUser]] = {}
        """By job: the idempotency key that made it, and the client that submitted it."""
        self._forget_at = MOST_KNOWN

    def __len__(self) -> int:
        return len(self._users)

    @property
    def requests_per_minute(self) -> int:
        """The plan's requests a minute, or fewer if the service said so."""
        plan, reported = self.plan.requests_per_minute, self._reported_limit
        return plan if reported is None else max(1, min(reported, plan))

    def reported(self, limit: int) -> None:
        """Record the requests a minute that the service allows."""
        self._reported_limit = limit

    def join(self, user: KeyUser) -> None:
        """Add a client. Where clients state different plans for a key, the narrower limits apply."""
        self._users.append(user)
        self._apply_plans()

    def leave(self, user: KeyUser) -> None:
        """Remove a client; the limits outlive the last one."""
        self._users.remove(user)
        if self._users:
            self._apply_plans()
        else:
            self._made_by.clear()

    def knows(self, job_id: str) -> bool:
        """Whether it is remembered which key made a job."""
        return job_id in self._made_by

    def claim(self, job_id: str, key: str, *, user: KeyUser, is_known: Callable[[str], bool]) -> str:
        """Return the idempotency key that made a job: this one, unless it was an earlier one.

        Args:
            job_id: of the job.
            key: of the submit that was answered with it.
            user: the client that submitted it.
            is_known: whether this client still tracks a job, or somebody holds it. The most recent others are
                remembered, too; those of another client are for that one to forget.
        """
        maker, _ = self._made_by.setdefault(job_id, (key, user))
        if len(self._made_by) > self._forget_at:
            ended = [
                each for each, (_, of) in self._made_by.items() if self._may_forget(each, of, user, is_known)
            ]
            for each in ended[: -MOST_KNOWN // 2]:
                del self._made_by[each]
            # Not before as many new ones came as are left: else each submit would look through all of them.
            self._forget_at = MOST_KNOWN + 2 * len(self._made_by)
        return maker

    def _may_forget(self, job_id: str, of: KeyUser, user: KeyUser, is_known: Callable[[str], bool]) -> bool:
        # By identity: clients with equal settings are equal.
        is_left = all(of is not each for each in self._users)
        return is_left or (of is user and not is_known(job_id))

    def _apply_plans(self) -> None:
        self.plan = narrowest(self._users)
        self.polls_count = any(each.polls_count for each in self._users)


def narrowest(users: Sequence[KeyUser]) -> Plan:
    """Return the limits that apply where clients state different plans for a key: the narrower ones."""
    # An assumed plan does not narrow one that another client was given.
    plans = [each.plan for each in users if not each.plan_is_assumed]
    plans = plans or [each.plan for each in users]
    if all(plan == plans[0] for plan in plans):
        return plans[0]
    days = [plan.jobs_per_day for plan in plans if plan.jobs_per_day is not None]
    return replace(
        min(plans, key=lambda plan: plan.requests_per_minute),
        concurrent_jobs=min(plan.concurrent_jobs for plan in plans),
        jobs_per_day=min(days, default=None),
    )
