"""Rebuilds an item's result or error from its ledger record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async import errors
from doitong_async.batch.item_record import Glimpse, ItemRecord, State
from doitong_async.errors import DoitongError, ServerError, SubmitOutcomeUnknownError
from doitong_async.jobs.job import JobFailedError
from doitong_async.result import Result
from doitong_async.types import GenerateRequest, Generation, JobStatus

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


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


def recorded(record: ItemRecord) -> DoitongError:
    """Return the error that the ledger recorded for an item."""
    name, _, message = (record.reason or "").partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DoitongError):
        return kind(message, job_id=record.job_id)
    return JobFailedError(record.reason or "It failed.", job_id=record.job_id)


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
    if record is None or record.state is not State.DONE or out is None:
        return True
    path = kept(record, out)
    return path is not None and has_length(path, record.length)


def has_length(path: str | Path, length: int | None) -> bool:
    """Whether a file exists and has this many bytes."""
    try:
        return os.stat(path).st_size == length
    except OSError:
        return False
