"""Decides whether a failed submit is sent again, from its failure alone."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from doitong_async.transport.failure import FailureKind


class RetryDecision(Enum):
    """What follows a submit that returned no job."""

    RETRY = auto()
    """Send again under the same key, after the next wait of the backoff."""
    WAIT = auto()
    """Send again when the service allows; this does not count as an attempt."""
    FAIL = auto()
    """Raise the service's own error."""
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
"""Failures after which we do not know whether a job was made."""
SILENT: Final = frozenset({FailureKind.UNANSWERED, FailureKind.PROTOCOL})
"""Those among them in which the service did not even report a failure."""

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
        attempts: how often it was sent so far, 429s not counted.
        max_attempts: how often it may be sent (reference, "Retries": at most 3).
        in_doubt: whether this attempt, or an earlier one, may have made a job.
        resend_unanswered: whether we trust the service to honour idempotency keys (assumption).
        was_silent: whether an attempt brought no readable answer, not even a 5xx.
        may_wait_for_key: whether the service may get more time to finish an earlier attempt.
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
    # A 5xx is the service's own report; only silence or an unreadable answer leaves the outcome unknown.
    if kind in (FailureKind.SERVER, FailureKind.GATEWAY) and not was_silent:
        return RetryDecision.FAIL
    return RetryDecision.IN_DOUBT if in_doubt else RetryDecision.FAIL
