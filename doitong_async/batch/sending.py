"""Submits one item: records the intent, retries through an outage, and records the job."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import backoff

from doitong_async import errors, media
from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item_record import Action, State, is_alive, stem_of
from doitong_async.batch.pending import PendingItem, Phase, Terms
from doitong_async.batch.spending import Spending
from doitong_async.batch.stop_reason import Stopped, StopReason
from doitong_async.clock import wall_time
from doitong_async.errors import DoitongError, SubmitOutcomeUnknownError, about_job
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.token import JobRef
from doitong_async.log import log
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime
    from doitong_async.submit import Submitter

OUTAGE: Final = 600.0
"""Seconds for which a batch endures an unreachable or failing service: our choice."""
_MAX_DELAY: Final = 60.0


class _OldKeyError(Exception):
    """The idempotency key is too old to be trusted, and nothing was sent under it."""


class Sending:
    """Submits items, each under one idempotency key that is on disk before its first byte is sent."""

    def __init__(
        self,
        runtime: Runtime,
        submits: Submitter,
        terms: Terms,
        backend: LedgerBackend,
        spending: Spending,
        stop_reason: StopReason,
        on_change: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._submitter = submits
        self._terms = terms
        self._backend = backend
        self._spending = spending
        self._stop_reason = stop_reason
        self._on_change = on_change

    async def submit(self, pending: PendingItem) -> AsyncJob:
        """Submit an item, retrying through an outage, and record its job.

        Raises:
            Stopped: if the batch is stopped before anything is sent.
            DoitongError: as `AsyncDoitong.submit` does.
        """
        if self._stop_reason.why is not None:
            raise Stopped
        if pending.action is Action.RESEND:
            self._spending.begin(pending)
        else:
            await self._spending.reserve(pending, self._stop_reason)
        loop = asyncio.get_running_loop()
        delays = backoff.expo(factor=5, max_value=_MAX_DELAY)
        next(delays)  # backoff's generators give their first value at the second step
        until: float | None = None
        while True:
            try:
                job = await self._send(pending)
                break
            except _OldKeyError:
                await self.withdraw(pending, None)
                pending.idempotency_key, pending.body = secrets.token_urlsafe(24), None
            except (errors.ConnectionFailedError, errors.ServerError, SubmitOutcomeUnknownError) as e:
                pending.is_in_doubt |= not isinstance(e, errors.ConnectionFailedError)
                until = until or loop.time() + OUTAGE
                if not self._is_worth_waiting(pending, e, until):
                    raise
                pending.phase = Phase.WAITING
                self._on_change()
                if await self._stop_reason.stops_within(
                    max(e.retry_after or 0.0, backoff.full_jitter(next(delays)))
                ):
                    raise
        await self._accept(pending, job.last)
        return job

    async def withdraw(self, pending: PendingItem, reason: str | None) -> None:
        """Record that nothing was sent after all, if an intent is recorded."""
        if pending.is_intended:
            pending.is_intended = False
            await self._backend.end(
                pending.key, attempt=pending.attempt, before=State.INTENT, state=State.OPEN, reason=reason
            )

    async def _send(self, pending: PendingItem) -> AsyncJob:
        try:
            return await self._runtime.submit(
                pending.request,
                idempotency_key=pending.idempotency_key,
                options=self._terms.options,
                body=pending.body,
                in_doubt=pending.is_in_doubt,
                before_sending=partial(self._intend, pending),
                submits=self._submitter,
            )
        except SubmitOutcomeUnknownError as error:
            # A conflict, and nothing else: the service knows this key, which nobody else can have.
            if error.job_id is None or error.__cause__ is not None:
                raise
            ref = JobRef(error.job_id)
            return self._runtime.take_up(ref, self._terms.options, idempotency_key=pending.idempotency_key)

    def _is_worth_waiting(self, pending: PendingItem, error: DoitongError, until: float) -> bool:
        """Whether to send the same submit again later, in case the service recovers."""
        may_resend = not pending.is_in_doubt or self._runtime.settings.resend_unanswered
        # A doubt without a failure of the network or the service behind it will not go away.
        cause = error if error.__cause__ is None else error.__cause__
        is_failure = not isinstance(cause, SubmitOutcomeUnknownError)
        is_outage = is_failure and (error.http_status is None or error.http_status >= 500)
        if not may_resend or not is_outage:
            return False
        if self._stop_reason.why is None and asyncio.get_running_loop().time() >= until:
            self._stop_reason.stop(error)
        return self._stop_reason.why is None

    async def _intend(self, pending: PendingItem, body: bytes, in_doubt: bool) -> None:
        """Record the intent and the body to be sent, or check that they may still be sent.

        Nothing is in flight when this starts.
        """
        is_too_old = not self._is_alive(pending)
        if in_doubt or pending.is_in_doubt:
            if is_too_old:
                raise SubmitOutcomeUnknownError(
                    "It is not known whether a submit created a job, and its idempotency key is too old to "
                    "be sent again.",
                    idempotency_key=pending.idempotency_key,
                )
        elif self._stop_reason.why is not None:
            raise Stopped
        elif is_too_old:
            raise _OldKeyError
        if not pending.is_intended:
            await self._begin(pending, body)
            if self._stop_reason.why is not None:
                raise Stopped
        pending.phase = Phase.SENDING
        self._on_change()

    def _is_alive(self, pending: PendingItem) -> bool:
        written = pending.intended_at if pending.is_intended else None
        return written is None or is_alive(written, wall_time(), self._terms.key_lives)

    async def _begin(self, pending: PendingItem, body: bytes) -> None:
        pending.intended_at = wall_time()
        if self._terms.out is not None:
            stem = stem_of(pending.key, pending.request, is_given=pending.is_key_given)
            pending.stem = free_stem(self._terms.out, stem)
        await self._backend.begin(
            pending.key,
            attempt=pending.attempt,
            digest=pending.digest,
            request=pending.text,
            idempotency_key=pending.idempotency_key,
            body=body.decode(),
            reserved=pending.reserved,
            file=pending.stem,
            at=pending.intended_at,
        )
        pending.attempt += 1
        pending.is_intended, pending.body = True, body

    async def _accept(self, pending: PendingItem, made: Generation) -> None:
        """Record which job was created; if that fails, raise an error that has the job's id and token."""
        pending.job = made
        pending.accepted_at = wall = wall_time()
        try:
            await self._backend.accept(
                pending.key,
                attempt=pending.attempt,
                job_id=made.id,
                status=str(made.status),
                cost=made.credit_cost,
                at=wall,
                day=self._runtime.limiter.day.writes(wall, source=self._backend.name),
            )
        except DoitongError as error:
            about_job(error, job_id=made.id, token=pending.token)
            error.idempotency_key = pending.idempotency_key
            log.warning("could not record the job of item %r, which was created: %s", pending.key, str(error))
            raise
        pending.is_intended = False
        pending.phase = Phase.RUNNING
        if made.credit_cost is not None:
            self._spending.settle(pending, made.credit_cost)
        if self._stop_reason.is_detached:
            raise asyncio.CancelledError


def taken(folder: Path, stem: str) -> Path | None:
    """Return the output under a name, whatever its suffix; None if there is none."""
    paths = (folder / f"{stem}{suffix}" for suffix in media.SUFFIXES)
    return next((path for path in paths if os.path.lexists(path)), None)


def free_stem(folder: Path, stem: str) -> str:
    """Return a name that no file has: an existing output may be somebody's, and paid for."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    return next(name for name in names if taken(folder, name) is None)
