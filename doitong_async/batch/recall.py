"""What the ledger remembers of an item, as a run yields it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async import errors
from doitong_async.batch.entry import Entry, Glimpse, State
from doitong_async.errors import DoitongError, ServerError, SubmitOutcomeUnknownError
from doitong_async.result import Result
from doitong_async.types import GenerateRequest, Generation, JobStatus

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


def seen_done(done: Glimpse, request: GenerateRequest, runtime: Runtime) -> Result:
    """Return the result of an item that is done."""
    generation = Generation(
        id=done.job_id or "",
        status=JobStatus.COMPLETED,
        url=done.url,
        type=request.type,
        provider=request.provider,
        credit_cost=done.cost,
    )
    return runtime.remembered(generation)


def known(entry: Entry, request: GenerateRequest, runtime: Runtime) -> Result:
    """Return the result of an item that the ledger has as done."""
    facts = entry.job_id, entry.url, entry.cost, entry.output, entry.length
    return seen_done(Glimpse(entry.state, entry.digest, *facts), request, runtime)


def kept(entry: Entry | None, out: Path | None) -> Path | None:
    """Return where the output of an item is, that the ledger has as done."""
    return None if entry is None or entry.output is None or out is None else out / entry.output


def recorded(entry: Entry) -> DoitongError:
    """Return the error that the ledger has of an item."""
    name, _, message = (entry.reason or "").partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, DoitongError):
        return kind(message, job_id=entry.job_id)
    return errors.JobFailedError(entry.reason or "It failed.", job_id=entry.job_id)


def in_doubt(why: DoitongError | None, idempotency_key: str) -> DoitongError:
    """Return the error of an item that may have been charged: it holds the key, whatever ended the item."""
    if isinstance(why, SubmitOutcomeUnknownError | ServerError) and why.idempotency_key:
        return why
    message = "It ended before it was known whether a submit made a job"
    error = SubmitOutcomeUnknownError(
        f"{message}: {why.message}" if why else f"{message}.", idempotency_key=idempotency_key
    )
    error.__cause__ = why
    return error


def has_file(entry: Entry | None, out: Path | None) -> bool:
    """Whether the output of an item that is done stands in its place, or none is wanted or to be expected."""
    if entry is None or entry.state is not State.DONE or out is None:
        return True
    path = kept(entry, out)
    return path is not None and has_length(path, entry.length)


def has_length(path: str | Path, length: int | None) -> bool:
    """Whether a file is there and has so many bytes."""
    try:
        return os.stat(path).st_size == length
    except OSError:
        return False
