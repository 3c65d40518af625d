"""Takes one item from its intent to its file, and handles every way in which it can end."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.error_policy import outcome_of, stops_the_batch
from doitong_async.batch.item_record import Action, State, stem_of
from doitong_async.batch.outcome import Item, Outcome
from doitong_async.batch.pending import PendingItem, Phase, Terms
from doitong_async.batch.recall import in_doubt, kept, known
from doitong_async.batch.sending import Sending, free_stem
from doitong_async.batch.spending import Spending
from doitong_async.batch.stop_reason import Stopped, StopReason
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    DoitongError,
    LedgerError,
    SubmitOutcomeUnknownError,
    about_job,
)
from doitong_async.events import is_from_user
from doitong_async.files import SavedFile, in_thread
from doitong_async.jobs.job import AsyncJob
from doitong_async.log import log
from doitong_async.result import Result
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


class ItemWorker:
    """Processes items, one task each."""

    def __init__(
        self,
        runtime: Runtime,
        terms: Terms,
        backend: LedgerBackend,
        spending: Spending,
        stop_reason: StopReason,
        sending: Sending,
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._backend = backend
        self._spending = spending
        self._stop_reason = stop_reason
        self._sending = sending

    async def carry_out(self, pending: PendingItem) -> Item:
        """Process one item until it ends, and return it."""
        pending.phase = Phase.WAITING
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
            is_queued = self._stop_reason.why is not None and pending.job is None and not pending.is_in_doubt
            return await (self._skip(pending) if is_queued else self._fail(pending, error))
        except DoitongError as error:
            return await self._fail(pending, error)
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
            pending.phase = Phase.FETCHING
            result = known(pending.record, pending.request, self._runtime)
            if pending.action is Action.FETCH or not await self._has_same_bytes(pending):
                pending.action, pending.job = Action.FETCH, result.generation
            return result
        job = (
            self._resume(pending) if pending.action is Action.TAKE_UP else await self._sending.submit(pending)
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
        pending.phase = Phase.RUNNING
        self._spending.begin(pending)
        return self._runtime.take_up(pending.ref, self._terms.options)

    async def _wait(self, pending: PendingItem, job: AsyncJob) -> Result:
        last_url = None
        try:
            async for update in job.updates():
                is_change = (
                    pending.job is None or update.status != pending.job.status or update.url != last_url
                )
                pending.job, last_url = update, update.url
                if is_change:
                    self._note(pending, update)
            pending.ended_at = wall_time()
            return await job
        except BaseException as error:
            if is_from_user(error):
                # It ends the batch, which may have no ledger.
                log.warning("item %s: job %s is still running: token %s", pending.key, job.id, job.token)
            raise

    def _note(self, pending: PendingItem, seen: Generation) -> None:
        self._backend.note(
            pending.key,
            attempt=pending.attempt,
            status=str(seen.status),
            cost=seen.credit_cost,
            url=seen.url,
            at=wall_time(),
        )

    async def _fetch(self, pending: PendingItem, result: Result) -> SavedFile | None:
        """Fetch the output if it is wanted, and record that the item is done."""
        pending.phase = Phase.FETCHING
        written, before = None, State.DONE if pending.action is Action.FETCH else State.SUBMITTED
        if (out := self._terms.out) is not None:
            usual = stem_of(pending.key, pending.request, is_given=pending.is_key_given)
            stem = pending.stem or free_stem(out, usual)
            generation = result.generation
            written = await result.write(lambda suffix: out / f"{stem}{suffix}")
            if result.generation is not generation:
                # The URL had expired and was renewed.
                pending.job = result.generation
                self._note(pending, result.generation)
        await self._backend.end(
            pending.key,
            attempt=pending.attempt,
            before=before,
            state=State.DONE,
            file=written.path.name if written else None,
            length=written.length if written else None,
            sha256=written.sha256 if written else None,
            ended_at=pending.ended_at,
        )
        self._spending.settle(pending, result.credit_cost)
        return written

    async def _fail(self, pending: PendingItem, error: DoitongError) -> Item:
        """Record why an item is not done, stop the batch if the error concerns all, and return the item."""
        before = pending.written
        state, outcome = outcome_of(error, before, is_in_doubt=pending.is_in_doubt and pending.job is None)
        if stops_the_batch(error):
            self._stop_reason.stop(error)
        try:
            if before in (State.INTENT, State.SUBMITTED):
                await self._backend.end(
                    pending.key,
                    attempt=pending.attempt,
                    before=before,
                    state=state or before,
                    reason=f"{type(error).__name__}: {error.message}",
                    ended_at=pending.ended_at,
                )
        except LedgerError as failure:
            self._stop_reason.stop(failure)
        if outcome in (Outcome.SKIPPED, Outcome.REJECTED):
            self._spending.release(pending)
        else:
            self._spending.settle(pending, pending.job.credit_cost if pending.job else None)
        if outcome is Outcome.IN_DOUBT and pending.ref is None:
            error = in_doubt(error, pending.idempotency_key)
        return self._item(pending, outcome, error=error)

    async def _skip(self, pending: PendingItem) -> Item:
        """Return the item of a batch that was stopped before this item was submitted, or submitted again."""
        why = self._stop_reason.not_sent()
        if pending.is_in_doubt:
            self._spending.settle(pending, None)
            return self._item(pending, Outcome.IN_DOUBT, error=in_doubt(why, pending.idempotency_key))
        try:
            await self._sending.withdraw(pending, None)
        except LedgerError as failure:
            self._stop_reason.stop(failure)
        self._spending.release(pending)
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
