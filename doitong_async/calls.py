"""One submit: wait for its turn, send, judge what came back, send again under the same key or give up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Final

import backoff

from doitong_async.errors import DoitongError, SubmitOutcomeUnknownError
from doitong_async.events import Event, SubmitTried
from doitong_async.limits.gate import Gate, Priority
from doitong_async.transport import wire
from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.transport.retry import DOUBTFUL, Verdict, judge
from doitong_async.types import GenerateRequest, Generation, JobStatus

if TYPE_CHECKING:
    from doitong_async.transport.graphql import GraphQLTransport

_log: Final = logging.getLogger("doitong_async")


class Submits:
    """Sends submits; each is one mutation, however often it takes."""

    def __init__(
        self,
        transport: GraphQLTransport,
        gate: Gate,
        *,
        max_tries: int,
        resend_unanswered: bool,
        notify: Callable[[Event], None],
    ) -> None:
        self._transport = transport
        self._gate = gate
        self._max_tries = max_tries
        self._resend_unanswered = resend_unanswered
        self._notify = notify

    async def submit(self, request: GenerateRequest, *, idempotency_key: str, timeout: float) -> Generation:
        """Submit one request, each try at most `timeout` seconds, and return the job that was made of it.

        Raises:
            DoitongError: as the tree in `errors` says; it carries the idempotency key.
        """
        variables = wire.submit_variables(request)
        pauses = _pauses()
        tries, number, in_doubt = 0, 0, False
        while True:
            outcome = await self._try(variables, idempotency_key, timeout)
            number += 1
            job_id = outcome.id if isinstance(outcome, Generation) else outcome.job_id
            failure = outcome.message if isinstance(outcome, Refusal) else None
            self._notify(
                SubmitTried(idempotency_key=idempotency_key, number=number, job_id=job_id, failure=failure)
            )
            if isinstance(outcome, Generation):
                return outcome
            if outcome.kind is Kind.CONFLICT and outcome.job_id is not None:
                # The key was used before, and the service says for which job: that one is ours.
                return Generation(id=outcome.job_id, status=JobStatus.PROCESSING)
            tries += outcome.kind is not Kind.RATE_LIMIT
            in_doubt = in_doubt or outcome.kind in DOUBTFUL
            verdict = judge(
                outcome.kind,
                tries=tries,
                max_tries=self._max_tries,
                in_doubt=in_doubt,
                resend_unanswered=self._resend_unanswered,
            )
            if verdict in (Verdict.FAIL, Verdict.IN_DOUBT):
                raise _error(outcome, verdict, idempotency_key)
            pause = next(pauses)
            _log.info("submit %s: %s Again in %.1f s.", idempotency_key, outcome.message, pause)
            await asyncio.sleep(pause)

    async def _try(self, variables: dict[str, object], key: str, timeout: float) -> Generation | Refusal:
        turn = await self._gate.turn(Priority.SUBMIT)
        try:
            answer = await self._transport.send(
                wire.GENERATE, variables, timeout=timeout, idempotency_key=key
            )
            if isinstance(answer, Refusal):
                if answer.kind is Kind.NOT_SENT:
                    turn.unsent()
                return answer
            self._gate.heed(answer.headers)
            return wire.read_submit(answer)
        finally:
            turn.answered()


def _pauses() -> Generator[float, None, None]:
    """The documented waits, 1 s, 2 s, 4 s …, each spread over its whole length."""
    waits = backoff.expo(max_value=60)
    next(waits)  # backoff's sequences give their first value at the second step
    for wait in waits:
        yield backoff.full_jitter(wait)


def _error(refusal: Refusal, verdict: Verdict, idempotency_key: str) -> DoitongError:
    error = refusal.error(idempotency_key=idempotency_key)
    if verdict is Verdict.FAIL or isinstance(error, SubmitOutcomeUnknownError):
        return error
    unknown = SubmitOutcomeUnknownError(
        refusal.message,
        idempotency_key=idempotency_key,
        request_id=refusal.request_id,
        http_status=refusal.http_status,
        code=refusal.code,
    )
    unknown.__cause__ = error
    return unknown
