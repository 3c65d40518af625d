"""One item's way from its intent to its file, and what becomes of it where that breaks off."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async.batch.account import Account
from doitong_async.batch.book import Book
from doitong_async.batch.entry import Action, State, stem_of
from doitong_async.batch.fate import concerns_all, fate_of
from doitong_async.batch.halt import Halt, Stopped
from doitong_async.batch.outcome import Item, Outcome
from doitong_async.batch.recall import in_doubt, kept, known
from doitong_async.batch.sending import Sending, free_stem
from doitong_async.batch.work import Phase, Terms, Work
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    DoitongError,
    LedgerError,
    SubmitOutcomeUnknownError,
    about_job,
)
from doitong_async.files import Written, in_thread
from doitong_async.hook import is_from_user
from doitong_async.jobs.job import AsyncJob
from doitong_async.log import log
from doitong_async.result import Result
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


class Errands:
    """Carries items out, one task each."""

    def __init__(
        self, runtime: Runtime, terms: Terms, book: Book, account: Account, halt: Halt, sending: Sending
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._book = book
        self._account = account
        self._halt = halt
        self._sending = sending

    async def carry_out(self, work: Work) -> Item:
        """Bring one item to its end, whatever that is."""
        work.phase = Phase.WAITING
        path = None
        try:
            result = await self._result(work)
            if work.action is Action.REPORT:
                path = kept(work.entry, self._terms.out)
            else:
                written = await self._fetch(work, result)
                path = written.path if written else None
        except Stopped:
            return await self._came_to_nothing(work)
        except ClientClosedError as error:
            # The batch was stopped while the item stood in line.
            is_in_line = self._halt.why is not None and work.job is None and not work.is_in_doubt
            return await (self._came_to_nothing(work) if is_in_line else self._broke_off(work, error))
        except DoitongError as error:
            return await self._broke_off(work, error)
        return replace(self._item(work, Outcome.DONE, result=result), file=path)

    async def _result(self, work: Work) -> Result:
        if work.action is Action.DOUBT:
            raise SubmitOutcomeUnknownError(
                "A submit of this item was not answered, and its idempotency key is too old, or not trusted, "
                "to be sent again. Look at the service's own list of jobs; to make it all the same, give it "
                "another item key.",
                idempotency_key=work.idempotency_key,
            )
        if work.action in (Action.REPORT, Action.FETCH):
            assert work.entry is not None
            work.phase = Phase.FETCHING
            result = known(work.entry, work.request, self._runtime)
            if work.action is Action.FETCH or not await self._has_same_bytes(work):
                work.action, work.job = Action.FETCH, result.generation
            return result
        job = self._taken_up(work) if work.action is Action.TAKE_UP else await self._sending.submit(work)
        return await self._wait(work, job)

    async def _has_same_bytes(self, work: Work) -> bool:
        """Whether the bytes of a file are those that were written."""
        path = kept(work.entry, self._terms.out)
        if path is None or work.entry is None:
            return True
        return await in_thread(partial(_digest_of, path), path) == work.entry.sha256

    def _taken_up(self, work: Work) -> AsyncJob:
        assert work.ref is not None
        work.phase = Phase.RUNNING
        self._account.begin(work)
        return self._runtime.take_up(work.ref, self._terms.options)

    async def _wait(self, work: Work, job: AsyncJob) -> Result:
        told = None
        try:
            async for update in job.updates():
                is_news = work.job is None or update.status != work.job.status or update.url != told
                work.job, told = update, update.url
                if is_news:
                    self._note(work, update)
            work.ended_at = wall_time()
            return await job
        except BaseException as error:
            if is_from_user(error):
                # It ends the batch, which may have no ledger.
                log.warning("job %s of item %s goes on: token %s", job.id, work.key, job.token)
            raise

    def _note(self, work: Work, seen: Generation) -> None:
        self._book.note(
            work.key,
            attempt=work.attempt,
            status=str(seen.status),
            cost=seen.credit_cost,
            url=seen.url,
            at=wall_time(),
        )

    async def _fetch(self, work: Work, result: Result) -> Written | None:
        """Fetch the output if it is wanted, and write down that the item is done."""
        work.phase = Phase.FETCHING
        written, before = None, State.DONE if work.action is Action.FETCH else State.SUBMITTED
        if (out := self._terms.out) is not None:
            usual = stem_of(work.key, work.request, is_given=work.is_key_given)
            stem = work.stem or free_stem(out, usual)
            told = result.generation
            written = await result.write(lambda suffix: out / f"{stem}{suffix}")
            if result.generation is not told:
                # Its URL had expired.
                work.job = result.generation
                self._note(work, result.generation)
        await self._book.end(
            work.key,
            attempt=work.attempt,
            before=before,
            state=State.DONE,
            file=written.path.name if written else None,
            length=written.length if written else None,
            sha256=written.sha256 if written else None,
            ended_at=work.ended_at,
        )
        self._account.settle(work, result.credit_cost)
        return written

    async def _broke_off(self, work: Work, error: DoitongError) -> Item:
        """Write down why an item is not done, stop the batch where that concerns all, and say so."""
        before = work.written
        state, outcome = fate_of(error, before, is_in_doubt=work.is_in_doubt and work.job is None)
        if concerns_all(error):
            self._halt.come(error)
        try:
            if before in (State.INTENT, State.SUBMITTED):
                await self._book.end(
                    work.key,
                    attempt=work.attempt,
                    before=before,
                    state=state or before,
                    reason=f"{type(error).__name__}: {error.message}",
                    ended_at=work.ended_at,
                )
        except LedgerError as failure:
            self._halt.come(failure)
        if outcome in (Outcome.SKIPPED, Outcome.REJECTED):
            self._account.release(work)
        else:
            self._account.settle(work, work.job.credit_cost if work.job else None)
        if outcome is Outcome.IN_DOUBT and work.ref is None:
            error = in_doubt(error, work.idempotency_key)
        return self._item(work, outcome, error=error)

    async def _came_to_nothing(self, work: Work) -> Item:
        """The batch was stopped before this item was submitted, or submitted again."""
        why = self._halt.not_sent()
        if work.is_in_doubt:
            self._account.settle(work, None)
            return self._item(work, Outcome.IN_DOUBT, error=in_doubt(why, work.idempotency_key))
        try:
            await self._sending.withdraw(work, None)
        except LedgerError as failure:
            self._halt.come(failure)
        self._account.release(work)
        return self._item(work, Outcome.SKIPPED, error=why)

    def _item(
        self,
        work: Work,
        outcome: Outcome,
        *,
        result: Result | None = None,
        error: DoitongError | None = None,
    ) -> Item:
        if error is not None and work.ref is not None and outcome is not Outcome.SKIPPED:
            about_job(error, job_id=work.ref.id, token=work.token)
            error.idempotency_key = error.idempotency_key or work.idempotency_key
        return Item(
            number=work.number,
            key=work.key,
            request=work.request,
            outcome=outcome,
            result=result,
            error=error,
            is_new=work.action is not Action.REPORT,
        )


def _digest_of(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
