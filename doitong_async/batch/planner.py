"""Decides what to do with each request of a batch: report it as done, or carry it out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.in_step import InStep
from doitong_async.batch.item import (
    Action,
    Glimpse,
    Item,
    ItemEvent,
    ItemRecord,
    ItemState,
    Outcome,
    PendingItem,
    decide,
    follow,
)
from doitong_async.batch.source import Asked, Reading, Terms, output_of, stem_of
from doitong_async.batch.spending import StopReason
from doitong_async.clock import wall_time
from doitong_async.errors import (
    BadRequestError,
    DoitongError,
    LedgerError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.jobs.job import JobFailedError
from doitong_async.log import log
from doitong_async.result import Result
from doitong_async.settings import new_idempotency_key
from doitong_async.types import GenerateRequest, Generation, JobStatus

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


class Planner:
    """Reads requests in order, once each."""

    def __init__(
        self, runtime: Runtime, terms: Terms, backend: LedgerBackend, stop_reason: StopReason
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._out = None if terms.out is None else str(terms.out)
        self._backend = backend
        self._stop_reason = stop_reason
        self._reading = Reading(terms.options)
        self._in_step = InStep(backend, self._reading, terms.options)
        self._size = self._read = self._recorded = 0
        """How many items the source has, as far as it says; were read; and of these, were in the ledger."""

    def begin(self, size: int) -> None:
        """Record how many items the source has, for whoever reads the ledger of a batch that was killed."""
        self._size = size
        if size:
            self._backend.count(size, others=None)

    def close(self, rows: int | None) -> None:
        """Record how many items there were, and forget their keys.

        Args:
            rows: how many items the ledger had before; None if the source was not read whole.
        """
        self._reading.close()
        if rows is None:
            self._backend.count(max(self._read, self._size), others=None)
        else:
            self._backend.count(self._read, others=rows - self._recorded)

    def plan(self, number: int, given: object) -> PendingItem | Item:
        """Return the pending item for a request, or the finished item if there is nothing to do."""
        self._read = number
        key = str(given.get("key") or f"item {number}") if isinstance(given, Mapping) else f"item {number}"
        try:
            done = self._in_step.take(number, given)
            asked = self._reading.read(number, given) if done is None else done[0]
            key = asked.key
            glimpse = self._glance(key) if done is None else done[1]
            self._recorded += glimpse is not None
            if (item := self._done(number, asked, glimpse)) is not None:
                return item
            record = None if glimpse is None else self._backend.find(key)
            if record is None:
                self._check_output_is_free(asked)
            action = self._action(record, asked.digest)
            if action is Action.CLASH and record is not None and record.state is ItemState.INTENT:
                asked, action = self._as_sent(asked, record)
            if action is Action.CLASH and record is not None:
                return _clash(number, asked, record)
        except BadRequestError as error:
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=error)
        except LedgerError as error:
            self._stop_reason.stop(error)
            return Item(number=number, key=key, request=None, outcome=Outcome.SKIPPED, error=error)
        except (ValueError, RecursionError) as error:
            invalid = BadRequestError(f"The request cannot be written as JSON: {error}.")
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=invalid)
        pending = _pending(number, asked, action, record)
        return self._at_once(pending) or pending

    def _glance(self, key: str) -> Glimpse | None:
        if (glimpse := self._backend.glance(key)) is not None:
            self._in_step.took(glimpse.number)
        return glimpse

    def _done(self, number: int, asked: Asked, done: Glimpse | None) -> Item | None:
        """Return the item if it is done and its file exists; this costs one `stat`."""
        if done is None or done.state != ItemState.DONE or done.digest != asked.digest or self._terms.verify:
            return None
        file = None
        if self._out is not None:
            if done.file is None:
                return None
            file = f"{self._out}{os.sep}{done.file}"
            if not has_length(file, done.length):
                return None
        return Item(
            number=number,
            key=asked.key,
            request=asked.request,
            outcome=Outcome.DONE,
            result=seen_done(done, asked.request, self._runtime),
            file=None if file is None else Path(file),
            is_new=False,
        )

    def _as_sent(self, asked: Asked, record: ItemRecord) -> tuple[Asked, Action]:
        """Return an item in doubt with the request that was sent, to be resent byte for byte."""
        log.warning(
            "item %r was submitted with another request and got no answer; resending that request under its "
            "idempotency key. To make the new one, give it its own item key.",
            record.key,
        )
        try:
            request = GenerateRequest(**record.asked)
        except (TypeError, BadRequestError) as error:
            raise LedgerError(
                f"The ledger is damaged: the request of the item {record.key!r} is none: {error}"
            ) from None
        asked = asked._replace(request=request, text=record.request, digest=record.digest)
        return asked, self._action(record, record.digest)

    def _check_output_is_free(self, asked: Asked) -> None:
        """Check that an item is new if an earlier run created the ledger and the ledger does not know it.

        Raises:
            BadRequestError: if this ledger may have written its output: an older copy of the ledger would
                submit everything again.
        """
        if self._terms.out is None or self._backend.is_new:
            return
        stem = stem_of(asked.key, asked.request, is_given=asked.is_key_given)
        if (path := output_of(self._terms.out, stem, self._backend.owner)) is None:
            return
        error = BadRequestError(
            f"{path} exists, but this ledger does not know the item {asked.key!r}: another run may have "
            "made it and paid for it. Restore the ledger that knows it; to make it anyway, give the item "
            "another key, or the batch another folder."
        )
        error.outcome = "Nothing was sent for it."
        raise error

    def _action(self, record: ItemRecord | None, digest: str) -> Action:
        return decide(
            record,
            digest,
            wall=wall_time(),
            key_lives=self._terms.key_lives,
            may_resend=self._runtime.settings.resend_unanswered,
            retry_failed=self._terms.retry_failed,
            has_file=has_file(record, self._terms.out),
        )

    def _at_once(self, pending: PendingItem) -> Item | None:
        """Return the item if it needs no waiting: it has ended, or the batch was stopped."""
        record = pending.record
        is_report = pending.action is Action.REPORT
        if is_report and record is not None and record.state is ItemState.DONE:
            # It has to be hashed; otherwise `_done` would have returned it.
            return None
        if is_report and record is not None:
            outcome = record.outcome
            error: DoitongError | None = _recorded(record)
        elif self._stop_reason.why is not None and pending.action in (Action.BEGIN, Action.RESEND):
            _, outcome = follow(pending.state, ItemEvent.STOPPED)
            error = self._stop_reason.not_sent()
            if outcome is Outcome.IN_DOUBT:
                error = in_doubt(error, pending.idempotency_key)
        else:
            return None
        assert outcome is not None
        return Item(
            number=pending.number,
            key=pending.key,
            request=pending.request,
            outcome=outcome,
            error=error,
            is_new=not is_report,
        )


def _pending(number: int, asked: Asked, action: Action, record: ItemRecord | None) -> PendingItem:
    """Return the pending item with what the ledger has of its present attempt."""
    pending = PendingItem(
        number=number,
        **asked._asdict(),
        action=action,
        record=record,
        idempotency_key=new_idempotency_key(),
    )
    if record is None:
        return pending
    pending.attempt = record.attempt
    if action is Action.BEGIN:
        return pending
    pending.state = record.state
    if action is not Action.REPORT:
        pending.happen(ItemEvent.RESUMED)
    pending.idempotency_key = record.idempotency_key or pending.idempotency_key
    pending.intended_at, pending.accepted_at = record.intended_at, record.accepted_at
    pending.body = None if record.body is None else record.body.encode()
    pending.credits.most, pending.stem = record.reserved, record.file
    if record.state is ItemState.DONE:
        # Its file name has a suffix.
        pending.stem = None if record.file is None else PurePath(record.file).stem
    return pending


def _clash(number: int, asked: Asked, record: ItemRecord) -> Item:
    """Return the rejected item of a key that the ledger has with another, perhaps charged, request."""
    message = f"The ledger has the item key {record.key!r} with another request"
    error = BadRequestError(f"{message}. Give the new one another key.")
    if record.state in (ItemState.SUBMITTED, ItemState.MISSING):
        error.outcome = "The new request was not sent; the earlier one has a job that is charged."
        error.job_id, error.idempotency_key = record.job_id, record.idempotency_key
    return Item(number=number, key=asked.key, request=asked.request, outcome=Outcome.REJECTED, error=error)


def seen_done(done: Glimpse, request: GenerateRequest, runtime: Runtime) -> Result:
    """Return the result of a finished item."""
    generation = Generation(
        id=done.job_id or "",
        status=JobStatus.COMPLETED,
        url=done.url,
        type=request.type,
        provider=request.provider,
        credit_cost=done.cost,
    )
    return runtime.remembered(generation)


def known(record: ItemRecord, request: GenerateRequest, runtime: Runtime) -> Result:
    """Return the result of an item that the ledger has as done."""
    facts = record.job_id, record.url, record.cost, record.output, record.length
    return seen_done(Glimpse(record.state, record.digest, *facts), request, runtime)


def kept(record: ItemRecord | None, out: Path | None) -> Path | None:
    """Return the path of the output of an item that the ledger has as done."""
    return None if record is None or record.output is None or out is None else out / record.output


_RECORDED: Final[Mapping[ItemState, type[DoitongError]]] = {
    ItemState.FAILED: JobFailedError,
    ItemState.REJECTED: BadRequestError,
}


def _recorded(record: ItemRecord) -> DoitongError:
    """Return the error of an item that has ended without an output."""
    return _RECORDED[record.state](record.reason or "It failed.", job_id=record.job_id)


def in_doubt(why: DoitongError | None, idempotency_key: str) -> DoitongError:
    """Return the error of an item that may have been charged: it always holds the idempotency key."""
    if isinstance(why, SubmitOutcomeUnknownError | ServerError) and why.idempotency_key:
        return why
    message = "The item ended before it was known whether a submit created a job"
    error = SubmitOutcomeUnknownError(
        f"{message}: {why.message}" if why else f"{message}.", idempotency_key=idempotency_key
    )
    error.__cause__ = why
    return error


def has_file(record: ItemRecord | None, out: Path | None) -> bool:
    """Whether a finished item's output exists, or none is wanted or expected."""
    if record is None or record.state is not ItemState.DONE or out is None:
        return True
    path = kept(record, out)
    return path is not None and has_length(path, record.length)


def has_length(path: str | Path, length: int | None) -> bool:
    """Whether a file exists and has this many bytes."""
    try:
        return os.stat(path).st_size == length
    except OSError:
        return False
