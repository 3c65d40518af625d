"""One item's way from its intent to its file, and what becomes of it where that breaks off."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import backoff

from doitong_async import errors
from doitong_async.batch.book import Book
from doitong_async.batch.entry import Action, State, stem_of
from doitong_async.batch.fate import concerns_all, fate_of
from doitong_async.batch.outcome import Item, Outcome
from doitong_async.batch.recall import kept, known
from doitong_async.batch.work import Phase, Terms, Work
from doitong_async.budget import Purse
from doitong_async.clock import wall_time
from doitong_async.credits import price_of
from doitong_async.errors import (
    BadRequestError,
    BudgetReachedError,
    DoitongError,
    LedgerError,
)
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.token import JobRef
from doitong_async.result import Result
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime

_log: Final = logging.getLogger("doitong_async")

OUTAGE: Final = 600.0
"""Seconds for which a batch bears that the service cannot be reached or only fails: our choice."""
_LONGEST_PAUSE: Final = 60.0
_BUFFER: Final = 1 << 20


class _Stopped(Exception):  # noqa: N818 - a signal between methods, never an error that anyone sees
    """The batch was stopped, and nothing of this item was sent in this run."""


class Errands:
    """Carries items out, one task each, until something stops the batch."""

    def __init__(
        self, runtime: Runtime, terms: Terms, book: Book, purse: Purse, on_change: Callable[[], None]
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._book = book
        self._purse = purse
        self._on_change = on_change
        self._budget_line = asyncio.Lock()
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self.stopped: DoitongError | None = None
        self.is_detached = False

    def stop(self, why: DoitongError) -> None:
        """Submit no more; what runs goes on. The first reason holds."""
        if self.stopped is None:
            self.stopped = copy.copy(why)
            self._stop.set()
            self._settled.set()
            self._on_change()

    async def carry_out(self, work: Work) -> Item:
        """Bring one item to its end, whatever that is."""
        work.phase = Phase.WAITING
        try:
            result = await self._result(work)
            path = await self._keep(work, result)
        except DoitongError as error:
            return await self._broke_off(work, error)
        except _Stopped:
            return await self._came_to_nothing(work)
        except asyncio.CancelledError:
            if self.stopped is None or self.is_detached or work.phase is not Phase.WAITING:
                raise
            return await self._came_to_nothing(work)
        return self._item(work, Outcome.DONE, result=result, file=path)

    async def _result(self, work: Work) -> Result:
        if work.action is Action.DOUBT:
            raise errors.SubmitOutcomeUnknownError(
                "A submit of this item was not answered, and its idempotency key is too old, or not trusted, "
                "to be sent again. Look at the service's own list of jobs; to make it all the same, give it "
                "another item key.",
                idempotency_key=work.idempotency_key,
            )
        if work.action is Action.REPORT and await asyncio.to_thread(self._is_same, work):
            assert work.entry is not None
            return known(work.entry, self._runtime)
        if work.action in (Action.REPORT, Action.FETCH):
            assert work.entry is not None
            work.action, work.phase = Action.FETCH, Phase.RUNNING
            work.job = (result := known(work.entry, self._runtime)).generation
            return result
        job = self._taken_up(work) if work.action is Action.TAKE_UP else await self._submit(work)
        return await self._wait(work, job)

    def _is_same(self, work: Work) -> bool:
        """Whether the bytes of a file are those that were written."""
        assert work.entry is not None
        if self._terms.out is None or work.entry.file is None:
            return True
        digest = hashlib.sha256()
        try:
            with (self._terms.out / work.entry.file).open("rb") as file:
                while chunk := file.read(_BUFFER):
                    digest.update(chunk)
        except OSError:
            return False
        return digest.hexdigest() == work.entry.sha256

    def _taken_up(self, work: Work) -> AsyncJob:
        assert work.entry is not None
        assert work.entry.job_id is not None
        accepted = work.entry.accepted_at
        ref = JobRef(
            work.entry.job_id,
            work.request.type,
            work.request.provider,
            None if accepted is None else int(accepted),
        )
        work.phase = Phase.RUNNING
        return self._runtime.take_up(ref, self._terms.options)

    async def _submit(self, work: Work) -> AsyncJob:
        """Submit under one idempotency key, through an outage too, and write down which job was made."""
        if self.stopped is not None:
            raise _Stopped
        if work.action is not Action.RESEND:
            await self._reserve(work)
        loop = asyncio.get_running_loop()
        in_doubt = work.action is Action.RESEND
        pauses = backoff.expo(factor=5, max_value=_LONGEST_PAUSE)
        next(pauses)  # backoff's sequences give their first value at the second step
        until: float | None = None
        while True:
            try:
                job = await self._runtime.submit(
                    work.request,
                    idempotency_key=work.idempotency_key,
                    options=self._terms.options,
                    in_doubt=in_doubt,
                    before_sending=partial(self._intend, work),
                )
                break
            except (errors.ConnectionFailedError, errors.ServerError, errors.SubmitOutcomeUnknownError) as e:
                if e.job_id is not None:
                    # The service knows this key, which nobody else can have, and names its job.
                    job = self._runtime.take_up(
                        JobRef(e.job_id), self._terms.options, idempotency_key=work.idempotency_key
                    )
                    break
                in_doubt = in_doubt or not isinstance(e, errors.ConnectionFailedError)
                until = until or loop.time() + OUTAGE
                if not self._is_worth_waiting(e, in_doubt=in_doubt, until=until):
                    raise
                if await self._is_stopped_within(backoff.full_jitter(next(pauses))):
                    raise
        await self._accept(work, job.last)
        return job

    def _is_worth_waiting(self, error: DoitongError, *, in_doubt: bool, until: float) -> bool:
        """Whether the same submit may be sent again after a while, as the service may be back then."""
        may_resend = not in_doubt or self._runtime.settings.resend_unanswered
        is_outage = error.http_status is None or error.http_status >= 500
        is_over = self._stop.is_set() or self.is_detached or asyncio.get_running_loop().time() >= until
        if may_resend and is_outage and not is_over:
            return True
        if is_outage and may_resend:
            self.stop(error)
        return False

    async def _is_stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._stop.wait()
        except TimeoutError:
            return False

    async def _reserve(self, work: Work) -> None:
        """Set aside what the item may cost at most, as soon as the budget allows.

        Raises:
            BudgetReachedError: if it never will, as all before it is settled.
            BadRequestError: if there is a budget and the price is not known.
        """
        price = price_of(work.request, self._terms.price)
        work.reserved = None if price is None else price.high
        if self._terms.budget is None:
            self._purse.reserve(work.key, work.reserved or 0.0)
            return
        if work.reserved is None:
            raise BadRequestError(
                f"There is a budget, and no price is documented for this {work.request.type} of "
                f"{work.request.provider}; give price=…, the credits that such a job costs at most."
            )
        # First come, first served: a cheap item does not overtake one that has to wait for its credits.
        async with self._budget_line:
            while self.stopped is None and not self._purse.reserve(work.key, work.reserved):
                if not self._purse.reserved:
                    raise BudgetReachedError(
                        f"The next item may cost {work.reserved:,g} credits, and {self._purse.left:,g} are "
                        "left of the budget.",
                        credits_required=work.reserved,
                        credits_available=self._purse.left,
                    )
                self._settled.clear()
                await self._settled.wait()

    async def _intend(self, work: Work) -> None:
        """Write the intent down; nothing of the item was sent when this begins."""
        if self.stopped is not None:
            raise _Stopped
        if not work.is_intended:
            await self._book.begin(
                work.key,
                attempt=work.attempt,
                digest=work.digest,
                request=work.text,
                idempotency_key=work.idempotency_key,
                reserved=work.reserved,
                at=wall_time(),
            )
            work.attempt += 1
            work.is_intended = True
        work.phase = Phase.SENDING
        self._on_change()

    async def _accept(self, work: Work, made: Generation) -> None:
        work.job = made
        wall = wall_time()
        await self._book.accept(
            work.key,
            attempt=work.attempt,
            job_id=made.id,
            status=str(made.status),
            cost=made.credit_cost,
            at=wall,
            day=self._runtime.gate.day.number(wall),
        )
        work.is_intended = False
        work.phase = Phase.RUNNING
        if made.url is not None:
            self._note(work, made)
        if made.credit_cost is not None:
            self._settle(work, made.credit_cost)
        if self.is_detached:
            raise asyncio.CancelledError

    async def _wait(self, work: Work, job: AsyncJob) -> Result:
        known = work.job
        async for update in job.updates():
            work.job = update
            if known is None or (update.status, update.url) != (known.status, known.url):
                self._note(work, update)
            known = update
        work.ended_at = wall_time()
        return await job

    def _note(self, work: Work, seen: Generation) -> None:
        self._book.note(
            work.key,
            attempt=work.attempt,
            status=str(seen.status),
            cost=seen.credit_cost,
            url=seen.url,
            at=wall_time(),
        )

    async def _keep(self, work: Work, result: Result) -> Path | None:
        """Fetch the output if it is wanted, and write down that the item is done."""
        if work.action is Action.REPORT:
            return kept(work.entry, self._terms.out)
        path: Path | None = None
        facts: dict[str, object] = {"ended_at": work.ended_at}
        if (out := self._terms.out) is not None:
            stem = stem_of(work.key, work.request, is_given=work.is_key_given)
            written = await result.write(lambda suffix: out / f"{stem}{suffix}")
            path = written.path
            facts |= {"file": path.name, "length": written.length, "sha256": written.sha256}
        before = State.DONE if work.action is Action.FETCH else State.SUBMITTED
        await self._end(work, before, State.DONE, **facts)
        self._settle(work, result.credit_cost)
        return path

    async def _end(self, work: Work, before: State, state: State, **facts: object) -> None:
        await self._book.end(work.key, attempt=work.attempt, before=before, state=state, **facts)  # type: ignore[arg-type]  # the columns of the ledger, checked there

    async def _broke_off(self, work: Work, error: DoitongError) -> Item:
        """Write down why an item is not done, stop the batch where that concerns all, and say so."""
        before = work.written
        state, outcome = fate_of(error, before)
        if concerns_all(error):
            self.stop(error)
        reason = f"{type(error).__name__}: {error.message}"
        try:
            if before in (State.INTENT, State.SUBMITTED):
                await self._end(work, before, state or before, reason=reason, ended_at=work.ended_at)
        except LedgerError as failure:
            self.stop(failure)
        if outcome in (Outcome.SKIPPED, Outcome.REJECTED):
            self._release(work)
        else:
            self._settle(work, work.job.credit_cost if work.job else None)
        return self._item(work, outcome, error=error)

    async def _came_to_nothing(self, work: Work) -> Item:
        """The batch was stopped before this item was submitted, or submitted again."""
        assert self.stopped is not None
        if work.action is not Action.RESEND:
            self._release(work)
        outcome = Outcome.IN_DOUBT if work.action is Action.RESEND else Outcome.SKIPPED
        return self._item(work, outcome, error=copy.copy(self.stopped))

    def _settle(self, work: Work, cost: float | None) -> None:
        """Count what an item cost; where that is not told, the most that it may."""
        if work.booked is None:
            work.booked = cost if cost is not None else work.reserved or 0.0
            self._purse.settle(work.key, work.booked)
        elif cost is not None:
            self._purse.carry(cost - work.booked)
            work.booked = cost
        self._settled.set()

    def _release(self, work: Work) -> None:
        if work.booked is None:
            self._purse.release(work.key)
        self._settled.set()

    def _item(
        self,
        work: Work,
        outcome: Outcome,
        *,
        result: Result | None = None,
        error: DoitongError | None = None,
        file: Path | None = None,
    ) -> Item:
        return Item(
            number=work.number,
            key=work.key,
            request=work.request,
            outcome=outcome,
            result=result,
            error=error,
            file=file,
            is_new=work.action is not Action.REPORT,
        )
