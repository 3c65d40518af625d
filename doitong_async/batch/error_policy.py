"""What an error means for its item and for the whole batch: a rule over values."""

from __future__ import annotations

from typing import Final

from doitong_async import errors
from doitong_async.batch.item_record import State
from doitong_async.batch.outcome import Outcome
from doitong_async.errors import DoitongError

# The output is still at its URL; and the job may be one that the key of another account made.
_IS_TO_BE_ASKED_AGAIN: Final = (errors.DownloadError, errors.JobNotFoundError)
_SURELY_NOT_MADE: Final = (
    errors.AuthenticationError,
    errors.ClientClosedError,
    errors.ConnectionFailedError,
    errors.InsufficientCreditsError,
    errors.RateLimitError,
)
_GENERAL: Final = (
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
    """Return the state that an item ends in (None: the one it is in), and its outcome.

    Args:
        error: what its errand ended with.
        written: the state it is in; None if nothing of it was sent, ever.
        is_in_doubt: whether an earlier submit of it may have made a job.
    """
    if isinstance(error, errors.JobFailedError):
        return State.FAILED, Outcome.FAILED
    if isinstance(error, _IS_TO_BE_ASKED_AGAIN):
        return None, Outcome.FAILED
    if is_in_doubt:
        return None, Outcome.IN_DOUBT
    is_wrong = isinstance(error, errors.BadRequestError)
    if written is State.INTENT and is_wrong:
        return State.REJECTED, Outcome.REJECTED
    if written is State.INTENT and isinstance(error, _SURELY_NOT_MADE):
        return State.OPEN, Outcome.SKIPPED
    if written is not None:
        return None, Outcome.IN_DOUBT
    return None, Outcome.REJECTED if is_wrong else Outcome.SKIPPED


def stops_the_batch(error: DoitongError) -> bool:
    """Whether the next item would fare no better."""
    if any(isinstance(each, _GENERAL) for each in (error, error.__cause__)):
        return True
    # The disk refused the file. What a hook of the session raised may be an OSError, too.
    is_local = isinstance(error, errors.DownloadError) and not error.is_remote
    return is_local and isinstance(error.__cause__, OSError)
