"""The events that `on_event` gets, and the counters of a client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from doitong_async.callbacks import Callback
from doitong_async.jobs.durations import JobKind
from doitong_async.transport.failure import FailureKind
from doitong_async.types import JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent:
    """A request is about to be sent.

    Attributes:
        kind: "submit" or "poll".
        jobs: how many jobs it covers.
        attempt: of a submit, counted from 1.
        idempotency_key: of a submit.
    """

    kind: Literal["submit", "poll"]
    jobs: int
    attempt: int | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAttempted:
    """One attempt of a submit ended, with a job that is tracked by now, or with a failure.

    Attributes:
        idempotency_key: the same for all attempts of a submit.
        attempt: counted from 1.
        provider: as in the request.
        version: as in the request.
        job_id: of the job that it made.
        failure: the kind of failure; None if it made a job.
        message: about the failure, for people.
        http_status: of the failed answer, if there was one.
        code: `extensions.code` of the failed answer.
        request_id: the `X-Request-Id` of the failed answer (assumption).
        retry_in: seconds until the next attempt, before any wait for the plan; None if there is none.
        is_in_doubt: whether this attempt may have made a job in spite of its failure.
    """

    idempotency_key: str
    attempt: int
    provider: str | None
    version: str | None
    job_id: str | None = None
    failure: FailureKind | None = None
    message: str | None = None
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None
    retry_in: float | None = None
    is_in_doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PollFailed:
    """A status poll failed; it changes nothing about its jobs, which are polled again.

    Attributes:
        jobs: how many it asked for.
        failure: the kind of failure.
        message: about the failure, for people.
        http_status: of the failed answer, if there was one.
        code: `extensions.code` of the failed answer.
        request_id: the `X-Request-Id` of the failed answer (assumption).
    """

    jobs: int
    failure: FailureKind
    message: str
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChanged:
    """The status of a job changed; `provider` and `version` are None for a resumed job."""

    job_id: str
    status: JobStatus
    provider: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A job ended or was given up.

    Attributes:
        job_id: the service's id.
        status: the last one seen.
        seconds: since this client began to wait for it.
        credit_cost: credits, if the service said so.
        provider: as in the request; None for a resumed job.
        version: as in the request; None for a resumed job.
    """

    job_id: str
    status: JobStatus
    seconds: float
    credit_cost: float | None
    provider: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotExpired:
    """A job held its slot until the slot expired; unless somebody awaits it, it is no longer tracked.

    Attributes:
        job_id: None for a submit in doubt.
        seconds: for which the slot was held.
        idempotency_key: of a submit in doubt.
    """

    job_id: str | None
    seconds: float
    idempotency_key: str | None = None


WaitReason: TypeAlias = Literal["slot", "minute", "day", "server"]
"""Why a call waits: for a slot, for a permit, for the next day, or because the service asked for a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan:
    """A call waits for the plan.

    Attributes:
        wait_id: the same in the event of its end; unique in this process.
        request: what waits, a "submit" or a "poll".
        reason: why it waits.
    """

    wait_id: int
    request: Literal["submit", "poll"]
    reason: WaitReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEnded:
    """A call that waited goes on, or failed.

    Attributes:
        wait_id: the same as in the event of its beginning.
        request: what waited, a "submit" or a "poll".
        reason: why it waited at first.
        seconds: for which it waited.
    """

    wait_id: int
    request: Literal["submit", "poll"]
    reason: WaitReason
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
    | PollFailed
    | StatusChanged
    | JobFinished
    | SlotExpired
    | WaitBegan
    | WaitEnded
    | LimitLowered
    | WebhookReceived
    | WebhookDropped
)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a client's counters.

    Attributes:
        in_flight: jobs submitted or resumed, and not known to have ended.
        slots_in_use: slots that jobs hold, for all clients on the key in this process.
        waiting: waiting callers, by reason: "slot", "minute", "day" or "server".
        requests_left: requests that the plan allows now, for all clients on the key in this process.
        mean_seconds: mean duration of jobs in seconds, by provider, version and size.
        credits_spent: credits that this client's jobs cost, as far as the service reported.
    """

    in_flight: int
    slots_in_use: int
    waiting: Mapping[str, int]
    requests_left: int
    mean_seconds: Mapping[JobKind, float]
    credits_spent: float


class Hook(Callback[Event]):
    """The user's `on_event`; `if hook: hook(SomethingHappened(…))` costs nothing where there is none."""

    __slots__ = ()

    def __init__(self, function: Callable[[Event], object] | None) -> None:
        super().__init__(function, "on_event", lambda event: f"on {type(event).__name__}")
