"""What an error means for its item and for the whole batch: a rule over values."""

from __future__ import annotations

from typing import Final

from doitong_async import errors
from doitong_async.batch.entry import State
from doitong_async.batch.outcome import Outcome
from doitong_async.errors import DoitongError

_IS_OVER: Final = (errors.JobFailedError, errors.JobNotFoundError)
_MAY_BE_MADE: Final = (errors.SubmitOutcomeUnknownError, errors.ServerError, errors.LedgerError)
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


def fate_of(error: DoitongError, written: State | None) -> tuple[State | None, Outcome]:
    """Return the state that an item ends in (None: the one it is in), and its outcome.

    Args:
        error: what its errand ended with.
        written: the state it is in; None if nothing of it was sent, ever.
    """
    if isinstance(error, _IS_OVER):
        return State.FAILED, Outcome.FAILED
    if isinstance(error, errors.DownloadError):
        return None, Outcome.FAILED
    if written is State.INTENT and not isinstance(error, _MAY_BE_MADE):
        # The service said no, or was never reached.
        is_wrong = isinstance(error, errors.BadRequestError)
        return (State.REJECTED, Outcome.REJECTED) if is_wrong else (State.OPEN, Outcome.SKIPPED)
    if written is not None:
        return None, Outcome.IN_DOUBT
    return None, Outcome.REJECTED if isinstance(error, errors.BadRequestError) else Outcome.SKIPPED


def concerns_all(error: DoitongError) -> bool:
    """Whether the next item would fare no better."""
    if any(isinstance(each, _GENERAL) for each in (error, error.__cause__)):
        return True
    # The disk, and not the service, refused the file.
    return isinstance(error, errors.DownloadError) and isinstance(error.__cause__, OSError)
