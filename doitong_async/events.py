"""The events that `on_event` gets, and the counters of a client.

An `Exception` out of `on_event` is logged and harms nothing. Anything else, such as `KeyboardInterrupt` or a
test's failure, reaches you once the client's state is consistent: out of your own call, out of the `await` of
whoever waits for the job, or in the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from doitong_async.callbacks import Callback
from doitong_async.jobs.durations import JobKind
from doitong_async.log import log
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.types import JobStatus

__all__ = [
    "DownloadEnded",
    "Event",
    "JobFinished",
    "JobLetGo",
    "JobTracked",
    "LimitLowered",
    "PollFailed",
    "RequestEnded",
    "RequestSent",
    "SlotExpired",
    "Stats",
    "StatusChanged",
    "SubmitAttempted",
    "WaitBegan",
    "WaitEnded",
    "WaitReason",
    "WebhookDropped",
    "WebhookReceived",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSent:
    """A request is about to be sent; the one that reads the service's schema, if it is needed, has no event.

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
class RequestEnded:
    """A request that was sent is over: it was answered, failed, or was cut off.

    Attributes:
        kind: "submit" or "poll".
        seconds: from sending it to the end of its answer.
        http_status: of the answer; None if there was none.
        failure: the kind of failure, if it failed; both are None if it was cut off, as by closing the client.
        job_ids: the jobs that it asked for, or the one that it made.
        attempt: of a submit, counted from 1.
        idempotency_key: of a submit.
    """

    kind: Literal["submit", "poll"]
    seconds: float
    http_status: int | None = None
    failure: FailureKind | None = None
    job_ids: tuple[str, ...] = ()
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
class JobTracked:
    """A job is in flight from now on: it was submitted, or resumed.

    A job that had ended when its submit was answered never is.

    Attributes:
        job_id: the service's id.
        is_resumed: whether it was resumed by its id or token, or awaited again after it was let go.
        provider: as in the request; None for a resumed job.
        version: as in the request; None for a resumed job.
    """

    job_id: str
    is_resumed: bool
    provider: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLetGo:
    """A job is in flight no more; each `JobTracked` has one, after the `JobFinished` of a job that ended.

    A job without a `JobFinished` goes on at the service: its slot expired while nobody awaited it, or the
    client closed.
    """

    job_id: str


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


WaitReason: TypeAlias = Literal["slot", "minute", "day", "server", "credits", "coordinator"]
"""Why a call waits: for a slot, for a permit, for the next day, because the service asked for a pause, or
for credits: those that jobs in flight may leave of a budget; or, after a 402, for the answer to one submit
that finds out whether the account has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitBegan:
    """A call waits for the plan, or for credits.

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
        is_granted: whether it goes on; False if it timed out, was cancelled, or the client closed.
    """

    wait_id: int
    request: Literal["submit", "poll"]
    reason: WaitReason
    seconds: float
    is_granted: bool


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadEnded:
    """The download of an output is over: it is whole, failed, or was left.

    Attributes:
        job_id: of the job whose output it is.
        seconds: that it took, with its retries and its wait for one of the eight downloads at once.
        size: bytes that were read of the output.
        is_whole: whether these are all of it.
    """

    job_id: str
    seconds: float
    size: int
    is_whole: bool


Event: TypeAlias = (
    RequestSent
    | RequestEnded
    | SubmitAttempted
    | PollFailed
    | JobTracked
    | JobLetGo
    | StatusChanged
    | JobFinished
    | SlotExpired
    | WaitBegan
    | WaitEnded
    | LimitLowered
    | WebhookReceived
    | WebhookDropped
    | DownloadEnded
)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a client's counters.

    Attributes:
        in_flight: jobs submitted or resumed, and not known to have ended.
        slots_in_use: slots that jobs hold, for all clients on the key in this process.
        waiting: waiting callers, by reason: "slot", "minute", "day", "server", "credits" or "coordinator".
        requests_left: requests that the plan allows now, for all clients on the key in this process.
        mean_seconds: mean duration of jobs in seconds, by provider, version and size.
        credits_spent: credits that the jobs this client submitted cost, since it was made: as the service
            reported, and at their highest price where it did not.
        credits_reserved: credits set aside at the highest price, for jobs in flight whose cost is not
            known yet, and for submits in doubt.
        credits_available: the account's balance as the service last named it, or None. It names it with a
            402, and perhaps never.
        credits_available_age: seconds since then, or None.
    """

    in_flight: int
    slots_in_use: int
    waiting: Mapping[str, int]
    requests_left: int
    mean_seconds: Mapping[JobKind, float]
    credits_spent: float
    credits_reserved: float
    credits_available: float | None
    credits_available_age: float | None


@dataclass(slots=True)
class RequestEnd:
    """What becomes known of a request while it runs: the fields of `RequestEnded` of the same names."""

    job_ids: tuple[str, ...] = ()
    http_status: int | None = None
    failure: FailureKind | None = None

    def failed(self, failure: Failure) -> None:
        """Note that the request failed."""
        self.failure, self.http_status = failure.kind, failure.http_status or self.http_status


class Hook(Callback[Event]):
    """The user's `on_event`, and the debug lines of the log.

    `if hook: hook(SomethingHappened(…))` costs next to nothing where neither is wanted.
    """

    __slots__ = ()

    def __init__(self, function: Callable[[Event], object] | None) -> None:
        super().__init__(function, "on_event", lambda event: f"on {type(event).__name__}")

    def __bool__(self) -> bool:
        return super().__bool__() or log.isEnabledFor(logging.DEBUG)

    @contextmanager
    def request(
        self,
        kind: Literal["submit", "poll"],
        *,
        job_ids: tuple[str, ...] = (),
        attempt: int | None = None,
        idempotency_key: str | None = None,
    ) -> Iterator[RequestEnd]:
        """Emit `RequestEnded` at the end of the block, with what the block found out, however it ends."""
        loop = asyncio.get_running_loop()
        begun, end = loop.time(), RequestEnd(job_ids)
        try:
            yield end
        finally:
            if self:
                # Aside: the answer may be about a paid job, which is not tracked yet.
                self.aside(
                    RequestEnded(
                        kind=kind,
                        seconds=loop.time() - begun,
                        http_status=end.http_status,
                        failure=end.failure,
                        job_ids=end.job_ids,
                        attempt=attempt,
                        idempotency_key=idempotency_key,
                    )
                )

    def _error_of(self, value: Event) -> BaseException | None:
        if log.isEnabledFor(logging.DEBUG) and not _is_implied(value):
            log.debug("%s", line_of(value))
        return super()._error_of(value)


def line_of(event: Event) -> str:
    """Return an event as a line of the log: its name, and each field that is set.

    Without `message`, which may quote the service, and the service the prompt.
    """
    given = {field.name: getattr(event, field.name) for field in fields(event) if field.name != "message"}
    facts = (f"{name}={_shown(value)}" for name, value in given.items() if value not in (None, ()))
    return " ".join((type(event).__name__, *facts))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return str(round(value, 3))
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    # Ids and statuses are the service's: none may forge another line.
    return text if text.isprintable() and " " not in text else repr(text)


def _is_implied(event: Event) -> bool:
    """Whether another event of the same request is logged: of a poll its end, of a submit its attempt."""
    is_sent = isinstance(event, RequestSent) and event.kind == "poll"
    return is_sent or (isinstance(event, RequestEnded) and event.kind == "submit")
