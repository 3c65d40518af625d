"""Carries one item out: from its recorded intent to its saved file, also when in doubt."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from doitong_async import errors
from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item import (
    UNSETTLED,
    Action,
    Item,
    ItemEvent,
    ItemState,
    Outcome,
    PendingItem,
    event_of,
    follow,
    is_alive,
)
from doitong_async.batch.planner import in_doubt, kept, known
from doitong_async.batch.source import Terms, free_stem, stem_of
from doitong_async.batch.spending import Spending, Stopped, StopReason
from doitong_async.callbacks import is_from_user
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    DoitongError,
    LedgerError,
    ProtocolError,
    SubmitOutcomeUnknownError,
    about_job,
)
from doitong_async.files import SavedFile, in_thread
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.token import JobRef
from doitong_async.log import log
from doitong_async.result import Result
from doitong_async.settings import new_idempotency_key
from doitong_async.types import Generation
from doitong_async.waits import backoff_waits

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime
    from doitong_async.submit import Submitter

OUTAGE: Final = 600.0
"""Seconds for which a batch endures an unreachable or failing service, or coordinator: our choice."""
_FIRST_WAIT: Final = 5.0
"""Seconds; likewise the next: our choice."""
_LONGEST_WAIT: Final = 60.0
_NO_DOUBT: Final = (errors.ConnectionFailedError, errors.CoordinatorError)
"""What leaves no submit in doubt, however often it is tried."""


class _OldKeyError(Exception):
    """The idempotency key is too old to be trusted, and nothing was sent under it."""


class Sender:
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
            self._spending.resume(pending)
        else:
            await self._spending.reserve(pending, self._submitter.admission)
        loop = asyncio.get_running_loop()
        waits = backoff_waits(first=_FIRST_WAIT, longest=_LONGEST_WAIT)
        until: float | None = None
        while True:
            try:
                job = await self._send(pending)
                break
            except _OldKeyError:
                await self.withdraw(pending, ItemEvent.EXPIRED)
                pending.idempotency_key, pending.body = new_idempotency_key(), None
            except (*_NO_DOUBT, errors.ServerError, SubmitOutcomeUnknownError) as e:
                if not isinstance(e, _NO_DOUBT):
                    pending.happen(ItemEvent.UNANSWERED)
                until = until or loop.time() + OUTAGE
                if not self._is_worth_waiting(pending, e, until):
                    raise
                pending.is_sending = False
                self._on_change()
                if await self._stop_reason.stops_within(max(e.retry_after or 0.0, next(waits))):
                    raise
        await self._accept(pending, job.last)
        return job

    async def withdraw(self, pending: PendingItem, event: ItemEvent) -> None:
        """Record that nothing was sent after all, if an intent is recorded."""
        if pending.state is ItemState.INTENT:
            pending.happen(event)
            await self._backend.end(
                pending.key, attempt=pending.attempt, before=ItemState.INTENT, state=pending.state
            )

    async def _send(self, pending: PendingItem) -> AsyncJob:
        try:
            return await self._runtime.submissions.submit(
                pending.request,
                idempotency_key=pending.idempotency_key,
                options=self._terms.options,
                body=pending.body,
                in_doubt=pending.state is ItemState.DOUBT,
                before_sending=partial(self._intend, pending),
                submits=self._submitter,
                most=pending.credits.most,
            )
        except SubmitOutcomeUnknownError as error:
            # A conflict, and nothing else: the service knows this key, which nobody else can have.
            if error.job_id is None or error.__cause__ is not None:
                raise
            ref = JobRef(error.job_id)
            return self._runtime.take_up(ref, self._terms.options, idempotency_key=pending.idempotency_key)

    def _is_worth_waiting(self, pending: PendingItem, error: DoitongError, until: float) -> bool:
        """Whether to send the same submit again later, in case the service, or the coordinator, recovers."""
        may_resend = pending.state is not ItemState.DOUBT or self._runtime.settings.resend_unanswered
        # A doubt without a failure of the network or the service behind it will not go away.
        cause = error if error.__cause__ is None else error.__cause__
        is_failure = not isinstance(cause, SubmitOutcomeUnknownError)
        is_outage = is_failure and (error.http_status is None or error.http_status >= 500)
        if not may_resend or not is_outage:
            return False
        if self._stop_reason.why is None and asyncio.get_running_loop().time() >= until:
            # Where only the coordinator is away, that is what to tell.
            self._stop_reason.stop(cause if isinstance(cause, errors.CoordinatorError) else error)
        return self._stop_reason.why is None

    async def _intend(self, pending: PendingItem, body: bytes, is_in_doubt: bool) -> None:
        """Record the intent and the body to be sent, or check that they may still be sent.

        Nothing is in flight when this starts.
        """
        is_too_old = not self._is_alive(pending)
        if is_in_doubt or pending.state is ItemState.DOUBT:
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
        if pending.state is ItemState.OPEN:
            await self._begin(pending, body)
            if self._stop_reason.why is not None:
                raise Stopped
        pending.is_sending = True
        self._on_change()

    def _is_alive(self, pending: PendingItem) -> bool:
        written = None if pending.state is ItemState.OPEN else pending.intended_at
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
            reserved=pending.credits.most,
            file=pending.stem,
            at=pending.intended_at,
        )
        pending.happen(ItemEvent.BEGUN)
        pending.attempt += 1
        pending.body = body

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
                day=self._runtime.limiter.writes(source=self._backend.name),
            )
        except DoitongError as error:
            about_job(error, job_id=made.id, token=pending.token)
            error.idempotency_key = pending.idempotency_key
            log.warning("could not record the job of item %r, which was created: %s", pending.key, str(error))
            raise
        pending.happen(ItemEvent.ACCEPTED)
        pending.is_sending = False
        if made.credit_cost is not None:
            pending.credits.reservation.settle(made.credit_cost)
        if self._stop_reason.is_detached:
            raise asyncio.CancelledError


class ItemWorker:
    """Processes items, one task each."""

    def __init__(
        self,
        runtime: Runtime,
        terms: Terms,
        backend: LedgerBackend,
        spending: Spending,
        stop_reason: StopReason,
        sender: Sender,
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._backend = backend
        self._spending = spending
        self._stop_reason = stop_reason
        self._sender = sender

    async def carry_out(self, pending: PendingItem) -> Item:
        """Process one item until it ends, and return it."""
        path = None
        try:
            result = await self._result(pending)
            if pending.action is Action.REPORT:
                path = kept(pending.record, self._terms.out)
            else:
                written = await self._fetch(pending, result)
                path = written.path if written else None
        except Stopped:
            return await self._skip(pending)
        except ClientClosedError as error:
            # The batch was stopped while the item waited in the queue.
            is_queued = (
                self._stop_reason.why is not None
                and pending.job is None
                and pending.state is not ItemState.DOUBT
            )
            return await (self._skip(pending) if is_queued else self._fail(pending, error))
        except DoitongError as error:
            return await self._fail(pending, error)
        except Exception as error:
            # Nobody foresaw it; yet it is about this item, and the others are fine.
            log.error("item %r broke; please report it", pending.key, exc_info=error)
            unforeseen = ProtocolError(f"The item broke unexpectedly: {type(error).__name__}: {error}.")
            unforeseen.__cause__ = error
            return await self._fail(pending, unforeseen)
        return replace(self._item(pending, Outcome.DONE, result=result), file=path)

    async def _result(self, pending: PendingItem) -> Result:
        if pending.action is Action.DOUBT:
            raise SubmitOutcomeUnknownError(
                "A submit of this item got no answer, and its idempotency key is too old, or not trusted, to "
                "be sent again. Look at the service's own list of jobs; to make it anyway, give it another "
                "item key.",
                idempotency_key=pending.idempotency_key,
            )
        if pending.action in (Action.REPORT, Action.FETCH):
            assert pending.record is not None
            result = known(pending.record, pending.request, self._runtime)
            if pending.action is Action.FETCH or not await self._has_same_bytes(pending):
                pending.action, pending.job = Action.FETCH, result.generation
                self._spending.resume(pending)
            return result
        job = (
            self._resume(pending) if pending.action is Action.TAKE_UP else await self._sender.submit(pending)
        )
        return await self._wait(pending, job)

    async def _has_same_bytes(self, pending: PendingItem) -> bool:
        """Whether a file still has the bytes that were written."""
        path = kept(pending.record, self._terms.out)
        if path is None or pending.record is None:
            return True
        return await in_thread(partial(_digest_of, path), path) == pending.record.sha256

    def _resume(self, pending: PendingItem) -> AsyncJob:
        assert pending.ref is not None
        self._spending.resume(pending)
        return self._runtime.take_up(pending.ref, self._terms.options)

    async def _wait(self, pending: PendingItem, job: AsyncJob) -> Result:
        last_url = None
        try:
            async for update in job.updates():
                is_change = (
                    pending.job is None or update.status != pending.job.status or update.url != last_url
                )
                # The first update of a resumed job may be no more than its token.
                is_seen = pending.job is not None or pending.action is not Action.TAKE_UP
                pending.job, last_url = update, update.url
                if is_change or (is_seen and pending.state is ItemState.MISSING):
                    self._note(pending, update, is_seen=is_seen)
            pending.ended_at = wall_time()
            return await job
        except BaseException as error:
            if is_from_user(error):
                # It ends the batch, which may have no ledger.
                log.warning("item %s: job %s is still running: token %s", pending.key, job.id, job.token)
            raise

    def _note(self, pending: PendingItem, seen: Generation, *, is_seen: bool = True) -> None:
        before = pending.state
        if is_seen:
            pending.happen(ItemEvent.SEEN)
        self._backend.note(
            pending.key,
            attempt=pending.attempt,
            before=before,
            state=pending.state,
            status=str(seen.status),
            cost=seen.credit_cost,
            url=seen.url,
            at=wall_time(),
        )

    async def _fetch(self, pending: PendingItem, result: Result) -> SavedFile | None:
        """Fetch the output if it is wanted, and record that the item is done."""
        written = None
        if (out := self._terms.out) is not None:
            usual = stem_of(pending.key, pending.request, is_given=pending.is_key_given)
            stem = pending.stem or free_stem(out, usual)
            generation = result.generation
            written = await result.write_beside(
                lambda suffix: out / f"{stem}{suffix}",
                is_resumed=pending.action in (Action.TAKE_UP, Action.FETCH),
                owner=self._backend.owner,
            )
            before = kept(pending.record, out)
            if before not in (None, written.path) and before.suffix == written.path.suffix:
                log.warning("%s is not as this batch wrote it: it stays, beside %s", before, written.path)
            if result.generation is not generation:
                # The URL had expired and was renewed.
                pending.job = result.generation
                self._note(pending, result.generation)
        state, _ = follow(pending.state, ItemEvent.FINISHED)
        await self._backend.end(
            pending.key,
            attempt=pending.attempt,
            before=pending.state,
            state=state,
            written=written,
            ended_at=pending.ended_at,
        )
        pending.state = state
        pending.credits.reservation.settle(result.credit_cost)
        return written

    async def _fail(self, pending: PendingItem, error: DoitongError) -> Item:
        """Record why an item is not done, stop the batch if the error concerns all, and return the item."""
        before = pending.state.recorded
        state, outcome = follow(pending.state, event_of(error))
        assert outcome is not None
        if stops_the_batch(error):
            self._stop_reason.stop(error)
        try:
            if before in UNSETTLED:
                await self._backend.end(
                    pending.key,
                    attempt=pending.attempt,
                    before=before,
                    state=state.recorded,
                    error=error,
                    ended_at=pending.ended_at,
                )
        except LedgerError as failure:
            self._stop_reason.stop(failure)
        if outcome in (Outcome.SKIPPED, Outcome.REJECTED):
            pending.credits.reservation.release()
        else:
            pending.credits.reservation.settle(pending.job.credit_cost if pending.job else None)
        if outcome is Outcome.IN_DOUBT and pending.ref is None:
            error = in_doubt(error, pending.idempotency_key)
        return self._item(pending, outcome, error=error)

    async def _skip(self, pending: PendingItem) -> Item:
        """Return the item of a batch that was stopped before this item was submitted, or submitted again."""
        why = self._stop_reason.not_sent()
        _, outcome = follow(pending.state, ItemEvent.STOPPED)
        if outcome is Outcome.IN_DOUBT:
            pending.credits.reservation.settle(None)
            return self._item(pending, outcome, error=in_doubt(why, pending.idempotency_key))
        try:
            await self._sender.withdraw(pending, ItemEvent.STOPPED)
        except LedgerError as failure:
            self._stop_reason.stop(failure)
        pending.credits.reservation.release()
        return self._item(pending, Outcome.SKIPPED, error=why)

    def _item(
        self,
        pending: PendingItem,
        outcome: Outcome,
        *,
        result: Result | None = None,
        error: DoitongError | None = None,
    ) -> Item:
        if error is not None and pending.ref is not None and outcome is not Outcome.SKIPPED:
            about_job(error, job_id=pending.ref.id, token=pending.token)
            error.idempotency_key = error.idempotency_key or pending.idempotency_key
        return Item(
            number=pending.number,
            key=pending.key,
            request=pending.request,
            outcome=outcome,
            result=result,
            error=error,
            is_new=pending.action is not Action.REPORT,
        )


def _digest_of(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


_CONCERNS_ALL: Final = (
    errors.AuthenticationError,
    errors.BudgetReachedError,
    errors.ClientClosedError,
    errors.ConfigurationError,
    errors.ConnectionFailedError,
    errors.CoordinatorError,
    errors.InsufficientCreditsError,
    errors.LedgerError,
    errors.RateLimitError,
)


def stops_the_batch(error: DoitongError) -> bool:
    """Whether the next item would fail in the same way."""
    if any(isinstance(each, _CONCERNS_ALL) for each in (error, error.__cause__)):
        return True
    # The disk rejected the file. A user's session hook may raise an OSError too.
    is_local = isinstance(error, errors.DownloadError) and not error.is_remote
    return is_local and isinstance(error.__cause__, OSError)
