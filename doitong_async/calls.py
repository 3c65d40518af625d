"""One submit: wait for its turn, send, judge what came back, send again under the same key or give up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import backoff

from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    DoitongError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.events import CallSent, SubmitTried
from doitong_async.hook import Hook
from doitong_async.jobs.durations import JobKind
from doitong_async.limits.entrance import Entrance
from doitong_async.limits.gate import Priority
from doitong_async.limits.grants import Turn
from doitong_async.limits.word import Limit, read_word
from doitong_async.log import log
from doitong_async.settings import Options
from doitong_async.transport import wire
from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.transport.retry import DOUBTFUL, SILENT, Verdict, judge
from doitong_async.types import Generation, JobStatus, with_failures

if TYPE_CHECKING:
    from doitong_async.transport.graphql import GraphQLTransport


IN_PROGRESS_FOR: Final = 60.0
"""Seconds that a submit waits for an earlier attempt under its key to end at the service: our choice."""


@dataclass(slots=True)
class Submit:
    """One submit over all its tries, each of which sends the same `body`, byte for byte.

    `waits_until` is the moment of the loop's clock until which the plan may hold it up (None: for ever).
    `limit` is the one that the last 429 was about, `gives_up_at` the moment until which an earlier attempt
    may be in progress at the service.
    `number` counts tries, `tries` those that were no 429. `in_doubt` is whether a job may have been made,
    `was_silent` whether a try brought nothing that could be understood, `is_sending` whether one is under
    way, `is_abandoned` whether the caller is gone. `before_sending` is awaited before each try, when it is
    the call's turn, and told the body and whether a job may have been made; what it raises ends the submit.
    `was_in_doubt` is whether an earlier submit under the key left a slot in doubt.
    """

    body: bytes
    key: str
    options: Options
    kind: JobKind = ""
    waits_until: float | None = None
    limit: Limit | None = None
    gives_up_at: float | None = None
    number: int = 0
    tries: int = 0
    in_doubt: bool = False
    was_silent: bool = False
    is_sending: bool = False
    is_abandoned: bool = False
    was_in_doubt: bool = False
    before_sending: Callable[[bytes, bool], Awaitable[None]] | None = None

    def doubt(self) -> None:
        """Note that a job may have been made."""
        self.in_doubt = True


class Submits:
    """Sends submits; each is one mutation, however often it takes.

    Args:
        transport: sends one request.
        entrance: says when.
        max_tries: how often a submit is sent at most, 429s not counted.
        resend_unanswered: whether the service is trusted to honour idempotency keys.
        failure_words: further status words that are failures, as they are compared.
        notify: is told of every try; what it raises comes out of the submit.
    """

    def __init__(
        self,
        transport: GraphQLTransport,
        entrance: Entrance,
        *,
        max_tries: int,
        resend_unanswered: bool,
        notify: Hook,
        failure_words: frozenset[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self.entrance = entrance
        self._max_tries = max_tries
        self._resend_unanswered = resend_unanswered
        self._notify = notify
        self._failure_words = failure_words

    async def submit(self, call: Submit) -> Generation:
        """Carry out one submit and return the job that was made of it.

        Whoever cancels this gets an error like any other: only then is it known what was sent before.

        `tell` tells of the try that made the job, when its caller has put the job in order.

        Raises:
            DoitongError: as the tree in `errors` says; it carries the idempotency key.
        """
        pauses = _pauses()
        while True:
            try:
                outcome = await self._try(call)
                if isinstance(outcome, Generation):
                    return outcome
                verdict = self._judge(call, outcome)
                if verdict is Verdict.WAIT and outcome.kind is Kind.IN_PROGRESS:
                    await self.entrance.sleep(_wait_for_key(outcome, pauses))
                elif verdict is Verdict.WAIT:
                    await self._obey(call)
                elif verdict is Verdict.AGAIN:
                    await self._back_off(call, outcome, next(pauses))
                else:
                    raise _error(outcome, verdict, call.key)
            except asyncio.CancelledError:
                cut = ClientClosedError("The submit was cut off.", idempotency_key=call.key)
                raise (_in_doubt(cut) if call.in_doubt else cut) from None
            except (ServerError, SubmitOutcomeUnknownError):
                raise
            except DoitongError as error:
                # Whatever ended it now, an earlier try may have made a job.
                error.idempotency_key = call.key
                if not call.in_doubt:
                    raise
                raise _in_doubt(error) from (error.__cause__ or error)

    def _judge(self, call: Submit, refused: Refusal) -> Verdict:
        now = asyncio.get_running_loop().time()
        if refused.kind is Kind.IN_PROGRESS and call.gives_up_at is None:
            call.gives_up_at = now + IN_PROGRESS_FOR
        verdict = judge(
            refused.kind,
            tries=call.tries,
            max_tries=self._max_tries,
            in_doubt=call.in_doubt,
            resend_unanswered=self._resend_unanswered,
            was_silent=call.was_silent,
            may_wait_for_key=call.gives_up_at is None or now < call.gives_up_at,
        )
        if call.is_abandoned and verdict in (Verdict.AGAIN, Verdict.WAIT):
            # Nobody waits for it any more: nothing further is sent in their name.
            return Verdict.IN_DOUBT if call.in_doubt else Verdict.FAIL
        return verdict

    async def _try(self, call: Submit) -> Generation | Refusal:
        """Send once, when it is its turn, and tell what came of it."""
        now = asyncio.get_running_loop().time()
        left = None if call.waits_until is None else max(0.0, call.waits_until - now)
        turn = await self.entrance.turn(
            Priority.SUBMIT, timeout=left, waits_for_day=call.options.wait_for_next_day
        )
        gate = self.entrance.gate
        try:
            if call.before_sending is not None:
                await call.before_sending(call.body, call.in_doubt)
            if self._notify:
                self._notify(CallSent(kind="submit", jobs=1))
        except BaseException:
            turn.unsent()
            raise
        try:
            outcome = await self._send(call, turn)
            # The gate hears of it before the turn is over, as that lets the next submit go.
            if isinstance(outcome, Generation):
                gate.accepted()
            elif outcome.kind is Kind.NOT_SENT:
                turn.unsent()
            elif outcome.kind is Kind.RATE_LIMIT:
                call.limit = gate.refused(outcome)
        finally:
            turn.answered()
        if (
            isinstance(outcome, Refusal)
            and outcome.kind in (Kind.CONFLICT, Kind.IN_PROGRESS)
            and outcome.job_id
            and call.in_doubt
        ):
            # This very call used the key before, and the service says for which job: that one is ours.
            outcome = Generation(id=outcome.job_id, status=JobStatus.PROCESSING)
        self._note(call, outcome)
        return outcome

    async def _send(self, call: Submit, turn: Turn) -> Generation | Refusal:
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
        if isinstance(answer, Refusal):
            return answer
        self.entrance.heed(answer.headers, turn)
        outcome = wire.read_submit(answer)
        if isinstance(outcome, Refusal) and outcome.kind is Kind.NOT_FOUND:
            # There is no job yet that could be missing: what was asked for is.
            return replace(outcome, kind=Kind.BAD_REQUEST)
        if isinstance(outcome, Generation):
            return with_failures(outcome, self._failure_words)
        return outcome

    def _note(self, call: Submit, outcome: Generation | Refusal) -> None:
        call.number += 1
        refused = outcome if isinstance(outcome, Refusal) else None
        if refused is not None:
            call.tries += refused.kind not in (Kind.RATE_LIMIT, Kind.IN_PROGRESS)
            call.in_doubt = call.in_doubt or refused.kind in DOUBTFUL
            call.was_silent = call.was_silent or refused.kind in SILENT
            log.info("submit %s, try %d: %s", call.key, call.number, refused.message)
            self.tell(call, refused)

    def tell(self, call: Submit, outcome: Generation | Refusal) -> None:
        """Tell the user of a try; of one that made a job only when that job is watched."""
        refused = outcome if isinstance(outcome, Refusal) else None
        if self._notify:
            self._notify(
                SubmitTried(
                    idempotency_key=call.key,
                    number=call.number,
                    job_id=outcome.id if isinstance(outcome, Generation) else None,
                    failure=refused.message if refused else None,
                    is_in_doubt=refused is not None and refused.kind in DOUBTFUL,
                )
            )

    async def _back_off(self, call: Submit, refused: Refusal, pause: float) -> None:
        """Wait for the next attempt: by backoff, and as long as the service asks.

        Raises:
            DoitongError: at once, if that is longer than the caller allows.
        """
        told = _told(refused)
        is_bounded = told is not None and call.waits_until is not None
        if is_bounded and asyncio.get_running_loop().time() + (told or 0.0) > (call.waits_until or 0.0):
            why = (
                f"{refused.message} It asks to wait {told:,.0f} s, which is longer than slot_timeout allows."
            )
            verdict = Verdict.IN_DOUBT if call.was_silent else Verdict.FAIL
            raise _error(replace(refused, message=why), verdict, call.key)
        await self.entrance.sleep(max(pause, told or 0.0))

    async def _obey(self, call: Submit) -> None:
        """Wait as a 429 says: the gate holds the next turn back, but the next day is for us to wait for."""
        gate = self.entrance.gate
        if call.limit is not Limit.DAY:
            return
        if not call.options.wait_for_next_day:
            raise gate.daily_limit()
        await self.entrance.sleep(gate.seconds_to_next_day())


def _wait_for_key(refused: Refusal, pauses: Generator[float, None, None]) -> float:
    """Return the seconds to wait for an earlier attempt: as told, within reason, or by backoff."""
    told = read_word(refused.headers or {}, wall_time()).retry_after
    return next(pauses) if told is None else min(told, IN_PROGRESS_FOR)


def _told(refused: Refusal) -> float | None:
    """Return the seconds that the service asks to wait, within reason."""
    return read_word(refused.headers or {}, wall_time()).retry_in


def _pauses() -> Generator[float, None, None]:
    """The documented waits, 1 s, 2 s, 4 s …, each spread over its whole length."""
    waits = backoff.expo(max_value=60)
    next(waits)  # backoff's sequences give their first value at the second step
    for wait in waits:
        yield backoff.full_jitter(wait)


def _error(refusal: Refusal, verdict: Verdict, idempotency_key: str) -> DoitongError:
    error = refusal.error(idempotency_key=idempotency_key)
    error.retry_after = _told(refusal)
    if verdict is Verdict.FAIL or isinstance(error, SubmitOutcomeUnknownError):
        return error
    unknown = _in_doubt(error)
    # What code of the user's raised says more than an error of ours with the same words.
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
