"""What happened, as frozen values, for `on_event`: logs, metrics, a progress bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from doitong_async.types import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent:
    """A request is sent now: `kind` is "submit" or "poll", `jobs` how many it is about."""

    kind: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAttempted:
    """One try of a submit ended: `failure` is None if it made a job (which is watched by now), else why not.

    `is_in_doubt` is whether this try may have made a job all the same.
    """

    idempotency_key: str
    number: int
    job_id: str | None
    failure: str | None
    is_in_doubt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """A job was seen in another status than before."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A job was seen to be over, or lost, so many seconds after this client began to wait for it."""

    job_id: str
    status: JobStatus
    seconds: float
    credit_cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotExpired:
    """A job held its slot for its greatest age without being seen to end; unless awaited, it is let go.

    `job_id` is None for a job that was only in doubt.
    """

    job_id: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan:
    """A call waits for the plan: `reason` is "slot", "minute", "day" or "server"."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded:
    """A call waited so many seconds, and goes on or was sent away."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLowered:
    """The service told a lower limit than the plan's, which is kept from now on; this is told once.

    `told` is its `X-RateLimit-Limit`, `plan` the plan's requests a minute.
    """

    told: int
    plan: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceived:
    """A signed webhook brought news of a job that is waited for; it may be old news."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDropped:
    """A signed webhook was about a job that this client did not come to know within the time it was kept."""

    job_id: str


Event: TypeAlias = (
    RequestSent
    | SubmitAttempted
    | StatusChanged
    | JobFinished
    | SlotExpired
    | WaitBegan
    | WaitEnded
    | LimitLowered
    | WebhookReceived
    | WebhookDropped
)
