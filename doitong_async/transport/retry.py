"""Whether a submit is sent again: a rule over what went wrong, never over who asks."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from doitong_async.transport.failure import FailureKind


class RetryDecision(Enum):
    """What follows a submit that brought no job."""

    RETRY = auto()
    """Send again under the same key, after the next wait of the sequence."""
    WAIT = auto()
    """Send again when the service allows; it does not count as an attempt."""
    FAIL = auto()
    """The service said why; raise that."""
    IN_DOUBT = auto()
    """A job may have been made: raise SubmitOutcomeUnknownError."""


DOUBTFUL: Final = frozenset(
    {
        FailureKind.UNANSWERED,
        FailureKind.PROTOCOL,
        FailureKind.SERVER,
        FailureKind.GATEWAY,
        FailureKind.IN_PROGRESS,
    }
)
"""After these nobody here knows whether a job was made."""
SILENT: Final = frozenset({FailureKind.UNANSWERED, FailureKind.PROTOCOL})
"""Of these, the ones in which the service did not even say that it failed."""

_RETRIED: Final = (DOUBTFUL - {FailureKind.IN_PROGRESS}) | {FailureKind.NOT_SENT}


def decide_retry(
    kind: FailureKind,
    *,
    attempts: int,
    max_attempts: int,
    in_doubt: bool,
    resend_unanswered: bool,
    was_silent: bool = False,
    may_wait_for_key: bool = True,
) -> RetryDecision:
    """Return what to do after a submit failed.

    Args:
        kind: what went wrong this time.
        tries: how often it was sent so far, 429s not counted.
        max_tries: how often it may be sent (reference, "Retries": at most 3).
        in_doubt: whether an earlier try, or this one, may have made a job.
        resend_unanswered: whether the service is trusted to honour idempotency keys (assumption).
        was_silent: whether an attempt brought no answer that could be understood, not even a 5xx.
        may_wait_for_key: whether the service may still be given time to end an earlier attempt.
    """
    if kind is FailureKind.RATE_LIMIT:
        return RetryDecision.WAIT
    if kind is FailureKind.IN_PROGRESS and resend_unanswered and may_wait_for_key:
        return RetryDecision.WAIT
    if kind in (FailureKind.CONFLICT, FailureKind.IN_PROGRESS):
        return RetryDecision.IN_DOUBT
    may_resend = kind is FailureKind.NOT_SENT or resend_unanswered
    if kind in _RETRIED and may_resend and attempts < max_attempts:
        return RetryDecision.RETRY
    # A service that answered 5xx said so itself; only silence and nonsense leave the caller with a riddle.
    if kind in (FailureKind.SERVER, FailureKind.GATEWAY) and not was_silent:
        return RetryDecision.FAIL
    return RetryDecision.IN_DOUBT if in_doubt else RetryDecision.FAIL
