"""Sends one submit, and sends it again under its idempotency key or gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from doitong_async.budget import Reservation
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    DoitongError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.events import Hook, RequestEnd, RequestSent, SubmitAttempted
from doitong_async.jobs.durations import NO_KIND, JobKind
from doitong_async.limits.admission import Admission
from doitong_async.limits.headers import Limit, read_headers
from doitong_async.limits.permits import Priority, RequestPermit
from doitong_async.log import log
from doitong_async.settings import Options
from doitong_async.transport import wire
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.retry import DOUBTFUL, SILENT, RetryDecision, decide_retry
from doitong_async.types import Generation, JobStatus, with_failures
from doitong_async.waits import backoff_waits

if TYPE_CHECKING:
    from doitong_async.transport.calls import Transport


IN_PROGRESS_FOR: Final = 60.0
"""Seconds that a submit waits for the service to finish an earlier attempt under its key: our choice."""
_LONGEST_WAIT: Final = 60.0
"""Seconds; the documented waits are 1 s, 2 s, 4 s …"""


@dataclass(slots=True)
class SubmitCall:
    """One submit over all its attempts, each of which sends the same `body`, byte for byte.

    `waits_until` is the moment on the loop's clock until which the plan may delay it (None: no bound).
    `limit` is the limit that the last 429 named, `gives_up_at` the moment until which to wait for an earlier
    attempt in progress at the service.
    `number` counts all attempts, `attempts` those that met no 429. `in_doubt` is whether a job may have been
    made, `was_silent` whether an attempt brought no readable answer, `is_sending` whether one is in flight,
    `is_abandoned` whether the caller is gone. `before_sending` is awaited before each attempt, once it holds
    a permit, with the body and whether a job may have been made; an exception in it ends the submit.
    `was_in_doubt` is whether an earlier submit under the key left a slot in doubt. `reservation` is of the
    client's budget, `has_doubtful_credits` whether it was kept for an earlier submit under the key. `slot` is
    the id of the slot that the submit has.
    """

    body: bytes
    key: str
    options: Options
    kind: JobKind = NO_KIND
    media_type: str | None = None
    prompt: str | None = None
    waits_until: float | None = None
    limit: Limit | None = None
    gives_up_at: float | None = None
    number: int = 0
    attempts: int = 0
    in_doubt: bool = False
    was_silent: bool = False
    is_sending: bool = False
    is_abandoned: bool = False
    was_in_doubt: bool = False
    before_sending: Callable[[bytes, bool], Awaitable[None]] | None = None
    reservation: Reservation = field(default_factory=Reservation)
    has_doubtful_credits: bool = False
    slot: str = ""

    def doubt(self) -> None:
        """Note that a job may have been made."""
        self.in_doubt = True

    def seconds_left(self) -> float | None:
        """Return the seconds until `waits_until`, zero if it is past; None without a bound."""
        now = asyncio.get_running_loop().time()
        return None if self.waits_until is None else max(0.0, self.waits_until - now)

    def is_too_long(self, wait: float) -> bool:
        """Return whether a wait of so many seconds from now passes `waits_until`."""
        now = asyncio.get_running_loop().time()
        return self.waits_until is not None and now + wait > self.waits_until


class Submitter:
    """Sends submits, each with its retries.

    Args:
        transport: sends one request.
        admission: grants slots and request permits.
        max_attempts: how often a submit is sent at most, 429s not counted.
        resend_unanswered: whether to trust the service to honour idempotency keys.
        failure_words: more status words that mean failure, as `bare_word` returns them.
        notify: gets an event for every attempt; an exception in it ends the submit.
    """

    def __init__(
        self,
        transport: Transport,
        admission: Admission,
        *,
        max_attempts: int,
        resend_unanswered: bool,
        notify: Hook,
        failure_words: frozenset[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self.admission = admission
        self._max_attempts = max_attempts
        self._resend_unanswered = resend_unanswered
        self._notify = notify
        self._failure_words = failure_words

    async def submit(self, call: SubmitCall) -> Generation:
        """Carry out one submit and return the job that it made.

        A cancellation comes out as an error of this library, which says what may have been sent before. The
        caller passes the successful attempt to `report` once it tracks the job.

        Raises:
            DoitongError: see the tree in `errors`; it carries the idempotency key.
        """
        waits = backoff_waits(longest=_LONGEST_WAIT)
        while True:
            try:
                outcome = await self._attempt(call)
                if outcome is None:
                    continue
                if isinstance(outcome, Generation):
                    return outcome
                step = self._next_step(call, outcome, waits)
                self.report(call, outcome, retry_in=step if isinstance(step, float) else None)
                if not isinstance(step, float):
                    raise step
                if step:
                    await self.admission.sleep(step)
            except asyncio.CancelledError:
                cut = ClientClosedError("The submit was cut off.", idempotency_key=call.key)
                raise (_in_doubt(cut) if call.in_doubt else cut) from None
            except (ServerError, SubmitOutcomeUnknownError):
                raise
            except DoitongError as error:
                # Whatever ended it, an earlier attempt may have made a job.
                error.idempotency_key = call.key
                if not call.in_doubt:
                    raise
                raise _in_doubt(error) from (error.__cause__ or error)

    def _next_step(self, call: SubmitCall, failure: Failure, waits: Iterator[float]) -> float | DoitongError:
        """Return the seconds to wait before the next attempt, or the error to give up with."""
        decision = self._decide(call, failure)
        if decision is RetryDecision.WAIT and failure.kind is FailureKind.IN_PROGRESS:
            return _wait_for_key(failure, waits)
        if decision is RetryDecision.WAIT:
            return self._wait_for_limit(call)
        if decision is RetryDecision.RETRY:
            return self._back_off(call, failure, next(waits))
        return _error(failure, decision, call.key)

    def _decide(self, call: SubmitCall, failure: Failure) -> RetryDecision:
        now = asyncio.get_running_loop().time()
        if failure.kind is FailureKind.IN_PROGRESS and call.gives_up_at is None:
            call.gives_up_at = now + IN_PROGRESS_FOR
        decision = decide_retry(
            failure.kind,
            attempts=call.attempts,
            max_attempts=self._max_attempts,
            in_doubt=call.in_doubt,
            resend_unanswered=self._resend_unanswered,
            was_silent=call.was_silent,
            may_wait_for_key=call.gives_up_at is None or now < call.gives_up_at,
        )
        if call.is_abandoned and decision in (RetryDecision.RETRY, RetryDecision.WAIT):
            # Nobody waits for it: send nothing more on their behalf.
            return RetryDecision.IN_DOUBT if call.in_doubt else RetryDecision.FAIL
        return decision

    async def _attempt(self, call: SubmitCall) -> Generation | Failure | None:
        """Wait for a permit, send once, and return the outcome; None if the permit grew too old."""
        limiter = self.admission.limiter
        with await self.admission.permit(
            Priority.SUBMIT,
            timeout=call.seconds_left(),
            waits_for_day=call.options.wait_for_next_day,
            in_doubt=call.in_doubt,
            slot=call.slot,
            key=call.key,
        ) as permit:
            if call.before_sending is not None:
                await call.before_sending(call.body, call.in_doubt)
            if permit.is_stale:
                # The process stood still, and others may use what it was granted.
                return None
            if self._notify:
                self._notify(
                    RequestSent(kind="submit", jobs=1, attempt=call.number + 1, idempotency_key=call.key)
                )
            permit.sends()
            with self._notify.request("submit", attempt=call.number + 1, idempotency_key=call.key) as end:
                outcome = await self._send(call, permit, end)
                # Update the limiter before the permit ends: that lets the next submit go.
                if isinstance(outcome, Generation):
                    end.job_ids = (outcome.id,)
                    limiter.accepted(permit)
                elif outcome.kind is FailureKind.NOT_SENT:
                    permit.unsent()
                elif outcome.kind is FailureKind.RATE_LIMIT:
                    call.limit = limiter.rate_limited(outcome, permit)
                elif outcome.kind is FailureKind.CREDITS:
                    limiter.out_of_credits(outcome)
                if isinstance(outcome, Failure):
                    end.failed(outcome)
        if (
            isinstance(outcome, Failure)
            and outcome.kind in (FailureKind.CONFLICT, FailureKind.IN_PROGRESS)
            and outcome.job_id
            and call.in_doubt
        ):
            # This call used the key before, and the service names its job: that job is ours.
            outcome = Generation(id=outcome.job_id, status=JobStatus.PROCESSING)
        self._note(call, outcome)
        return outcome

    async def _send(self, call: SubmitCall, permit: RequestPermit, end: RequestEnd) -> Generation | Failure:
        call.is_sending = True
        try:
            answer = await self._transport.send(
                call.body,
                timeout=call.options.request_timeout,
                idempotency_key=call.key,
                on_doubt=call.doubt,
            )
        finally:
            call.is_sending = False
        if isinstance(answer, Failure):
            return answer
        end.http_status = answer.status
        self.admission.observe_headers(answer.headers, permit, was_accepted=answer.status < 400)
        outcome = wire.read_submit(answer)
        if isinstance(outcome, Failure) and outcome.kind is FailureKind.NOT_FOUND:
            # No job exists yet, so what the service did not find is something in the request.
            return replace(outcome, kind=FailureKind.BAD_REQUEST)
        if isinstance(outcome, Generation):
            return with_failures(_named(outcome, call), self._failure_words)
        return outcome

    def _note(self, call: SubmitCall, outcome: Generation | Failure) -> None:
        call.number += 1
        if isinstance(outcome, Failure):
            call.attempts += outcome.kind not in (FailureKind.RATE_LIMIT, FailureKind.IN_PROGRESS)
            call.in_doubt = call.in_doubt or outcome.kind in DOUBTFUL
            call.was_silent = call.was_silent or outcome.kind in SILENT

    def report(
        self, call: SubmitCall, outcome: Generation | Failure, *, retry_in: float | None = None
    ) -> None:
        """Emit the event for an attempt; for one that made a job, only once that job is tracked."""
        facts: dict[str, Any]
        if isinstance(outcome, Failure):
            log.info("submit %s, attempt %d: %s", call.key, call.number, outcome.message)
            facts = {
                "failure": outcome.kind,
                "message": outcome.message,
                "http_status": outcome.http_status,
                "code": outcome.code,
                "request_id": outcome.request_id,
                "retry_in": retry_in,
                "is_in_doubt": outcome.kind in DOUBTFUL,
            }
        else:
            facts = {"job_id": outcome.id}
        if self._notify:
            self._notify(
                SubmitAttempted(
                    idempotency_key=call.key,
                    attempt=call.number,
                    provider=call.kind.provider,
                    version=call.kind.version,
                    **facts,
                )
            )

    def _back_off(self, call: SubmitCall, failure: Failure, wait: float) -> float | DoitongError:
        """Return the wait of the backoff, or the longer one that the service asks for.

        If that is longer than the caller allows, return the error to give up with at once.
        """
        retry_after = _retry_after(failure)
        if retry_after is not None and call.is_too_long(retry_after):
            why = f"{failure.message} It asks to wait {retry_after:,.0f} s, longer than slot_timeout allows."
            decision = RetryDecision.IN_DOUBT if call.was_silent else RetryDecision.FAIL
            return _error(replace(failure, message=why), decision, call.key)
        return float(max(wait, retry_after or 0.0))

    def _wait_for_limit(self, call: SubmitCall) -> float | DoitongError:
        """Return the wait after a 429: zero, as the limiter delays the next permit; or until the next day."""
        limiter = self.admission.limiter
        if call.limit is not Limit.DAY:
            return 0.0
        wait = limiter.seconds_to_next_day()
        if call.options.wait_for_next_day and not call.is_too_long(wait):
            return wait
        return limiter.daily_limit()


def _named(job: Generation, call: SubmitCall) -> Generation:
    """Return a job with the type and provider of its request, which the flat forms' answers do not name."""
    if job.type is not None and job.provider is not None:
        return job
    return replace(job, type=job.type or call.media_type, provider=job.provider or call.kind.provider)


def _wait_for_key(failure: Failure, waits: Iterator[float]) -> float:
    """Return the seconds to wait for an earlier attempt: the `Retry-After`, capped, or else the backoff."""
    retry_after = read_headers(failure.headers or {}, wall_time()).retry_after
    return float(next(waits) if retry_after is None else min(retry_after, IN_PROGRESS_FOR))


def _retry_after(failure: Failure) -> float | None:
    """Return the seconds that the service asks to wait, capped."""
    return read_headers(failure.headers or {}, wall_time()).retry_in


def _error(failure: Failure, decision: RetryDecision, idempotency_key: str) -> DoitongError:
    error = failure.error(idempotency_key=idempotency_key)
    error.retry_after = _retry_after(failure)
    if decision is RetryDecision.FAIL or isinstance(error, SubmitOutcomeUnknownError):
        return error
    unknown = _in_doubt(error)
    # An error out of the user's code says more than ours with the same message.
    unknown.__cause__ = error.__cause__ or error
    return unknown


def _in_doubt(error: DoitongError) -> SubmitOutcomeUnknownError:
    unknown = SubmitOutcomeUnknownError(
        error.message,
        idempotency_key=error.idempotency_key,
        job_id=error.job_id,
        request_id=error.request_id,
        http_status=error.http_status,
        code=error.code,
    )
    unknown.retry_after = error.retry_after
    return unknown
