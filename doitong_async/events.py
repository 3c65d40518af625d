"""The events that `on_event` receives, as frozen values, for logs, metrics or a progress bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from doitong_async.types import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent:
    """A request is about to be sent: `kind` is "submit" or "poll", `jobs` the number of jobs it covers."""

    kind: str
    jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAttempted:
    """One attempt of a submit ended: `failure` is None if it made a job (tracked by now), else the reason.

    `is_in_doubt` is whether this attempt may have made a job all the same.
    """

    idempotency_key: str
    number: int
    job_id: str | None
    failure: str | None
    is_in_doubt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """The status of a job changed."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A job ended or was given up, `seconds` after this client began to wait for it."""

    job_id: str
    status: JobStatus
    seconds: float
    credit_cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotExpired:
    """A job held its slot until the slot expired; unless somebody awaits it, it is no longer tracked.

    `job_id` is None for a submit in doubt.
    """

    job_id: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan:
    """A call waits for the plan: `reason` is "slot", "minute", "day" or "server"."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded:
    """A call waited for `seconds` and now goes on or failed."""

    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitLowered:
    """The service sent a lower limit than the plan's, which applies from now on; emitted once.

    `limit` is its `X-RateLimit-Limit`, `plan_limit` the plan's requests a minute.
    """

    limit: int
    plan_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookReceived:
    """A signed webhook brought an update of a tracked job; the update may be old."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookDropped:
    """A signed webhook was dropped: its job did not become known here within the time it was kept."""

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
