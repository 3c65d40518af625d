"""What each error of the library means for an item and for its batch."""

from __future__ import annotations

import pytest

from doitong_async import errors
from doitong_async.batch.error_policy import outcome_of, stops_the_batch
from doitong_async.batch.item_record import State
from doitong_async.batch.outcome import Outcome
from doitong_async.jobs.job import JobFailedError, JobTimeoutError

ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.DoitongError) and kind is not errors.DoitongError
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("written", [None, State.INTENT, State.SUBMITTED, State.DONE])
def test_what_may_be_paid_is_never_called_skipped(
    kind: type[errors.DoitongError], written: State | None
) -> None:
    """An item whose job was made is failed or in doubt; only what was surely not made may begin anew."""
    state, outcome = outcome_of(kind("x"), written)
    if written in (State.SUBMITTED, State.DONE):
        assert outcome in (Outcome.FAILED, Outcome.IN_DOUBT)
        assert state in (None, State.FAILED)
    if state is State.OPEN:
        assert written is State.INTENT
        assert outcome is Outcome.SKIPPED
        assert "nothing was charged" in kind.outcome.lower() or "none was made" in kind.outcome


@pytest.mark.parametrize(
    ("error", "written", "expected"),
    [
        (errors.BadRequestError("x"), State.INTENT, (State.REJECTED, Outcome.REJECTED)),
        (errors.InsufficientCreditsError("x"), State.INTENT, (State.OPEN, Outcome.SKIPPED)),
        (errors.SubmitOutcomeUnknownError("x"), State.INTENT, (None, Outcome.IN_DOUBT)),
        (errors.ServerError("x"), State.INTENT, (None, Outcome.IN_DOUBT)),
        (errors.BudgetReachedError("x"), None, (None, Outcome.SKIPPED)),
        (JobFailedError("x"), State.SUBMITTED, (State.FAILED, Outcome.FAILED)),
        (JobTimeoutError("x"), State.SUBMITTED, (None, Outcome.IN_DOUBT)),
        (errors.DownloadError("x"), State.SUBMITTED, (None, Outcome.FAILED)),
    ],
)
def test_the_fate_of_an_item(
    error: errors.DoitongError, written: State | None, expected: tuple[State | None, Outcome]
) -> None:
    """A readable part of the table."""
    assert outcome_of(error, written) == expected


def test_what_stops_the_whole_batch() -> None:
    """The key, the credits, the day, the disk; not a bad prompt, a failed job or a download."""
    on_disk = errors.DownloadError("cannot be written")
    on_disk.__cause__ = OSError(28, "No space left on device")
    in_doubt = errors.SubmitOutcomeUnknownError("x")
    in_doubt.__cause__ = errors.InsufficientCreditsError("x")
    assert all(
        map(stops_the_batch, (on_disk, in_doubt, errors.AuthenticationError(), errors.DailyLimitError()))
    )
    assert not any(map(stops_the_batch, (errors.DownloadError(), JobFailedError(), errors.BadRequestError())))
