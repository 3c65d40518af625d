"""Decides what an error means for its item and for the whole batch."""

from __future__ import annotations

from typing import Final

from doitong_async import errors
from doitong_async.batch.item_record import State
from doitong_async.batch.outcome import Outcome
from doitong_async.errors import DoitongError
from doitong_async.jobs.job import JobFailedError

# The output is still at its URL; the job may belong to another account's key.
_MAY_SUCCEED_LATER: Final = (errors.DownloadError, errors.JobNotFoundError)
_NO_JOB_CREATED: Final = (
    errors.AuthenticationError,
    errors.ClientClosedError,
    errors.ConnectionFailedError,
    errors.InsufficientCreditsError,
    errors.RateLimitError,
)
_CONCERNS_ALL: Final = (
    errors.AuthenticationError,
    errors.BudgetReachedError,
    errors.ClientClosedError,
    errors.ConfigurationError,
    errors.ConnectionFailedError,
    errors.InsufficientCreditsError,
    errors.LedgerError,
    errors.RateLimitError,
)


def outcome_of(
    error: DoitongError, written: State | None, *, is_in_doubt: bool = False
) -> tuple[State | None, Outcome]:
    """Return the state that an item ends in (None: its present state), and its outcome.

    Args:
        error: what ended the item.
        written: the item's state in the ledger; None if nothing was ever sent for it.
        is_in_doubt: whether an earlier submit may have created a job.
    """
    if isinstance(error, JobFailedError):
        return State.FAILED, Outcome.FAILED
    if isinstance(error, _MAY_SUCCEED_LATER):
        return None, Outcome.FAILED
    if is_in_doubt:
        return None, Outcome.IN_DOUBT
    is_wrong = isinstance(error, errors.BadRequestError)
    if written is State.INTENT and is_wrong:
        return State.REJECTED, Outcome.REJECTED
    if written is State.INTENT and isinstance(error, _NO_JOB_CREATED):
        return State.OPEN, Outcome.SKIPPED
    if written is not None:
        return None, Outcome.IN_DOUBT
    return None, Outcome.REJECTED if is_wrong else Outcome.SKIPPED


def stops_the_batch(error: DoitongError) -> bool:
    """Whether the next item would fail in the same way."""
    if any(isinstance(each, _CONCERNS_ALL) for each in (error, error.__cause__)):
        return True
    # The disk rejected the file. A user's session hook may raise an OSError too.
    is_local = isinstance(error, errors.DownloadError) and not error.is_remote
    return is_local and isinstance(error.__cause__, OSError)
