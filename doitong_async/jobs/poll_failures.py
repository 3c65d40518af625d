"""Counts failed polls, and tells when those who wait for a job must learn why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from doitong_async.jobs.status_poll import NO_SUCH_PATH
from doitong_async.jobs.tracker import VISIBLE_WITHIN
from doitong_async.transport.failure import Failure, FailureKind

MIN_REJECTIONS: Final = 3
"""Polls in a row that must be rejected until waiters get the error: one may be a gateway's glitch."""
_REJECTIONS: Final = frozenset({FailureKind.AUTHENTICATION, FailureKind.NO_OPERATION})


class PollFailures:
    """The polls in a row that failed or were rejected; moments are of the loop's clock.

    Args:
        has_webhooks: whether webhooks report the ends of jobs.
    """

    __slots__ = ("_failed_at", "_has_webhooks", "_rejected_at", "_rejections", "in_a_row")

    def __init__(self, *, has_webhooks: bool) -> None:
        self._has_webhooks = has_webhooks
        self.in_a_row: int = 0
        """How many failed since the last that did not."""
        self._rejections = 0
        self._failed_at = self._rejected_at = -math.inf

    @property
    def is_deaf(self) -> bool:
        """Whether no update can come any more, as far as we know: every poll is rejected."""
        return self._rejections >= MIN_REJECTIONS and not self._has_webhooks

    def end(self) -> None:
        """Begin anew: a poll succeeded."""
        self.in_a_row = self._rejections = 0

    def note(self, failure: Failure, submitted: Sequence[float], asked_at: float, now: float) -> bool:
        """Count a failed poll, and return whether those who wait must learn of it.

        Args:
            failure: of the poll.
            submitted: when each of its jobs was submitted.
            asked_at: when it was sent.
            now: the moment.
        """
        if asked_at > self._failed_at:
            # Polls sent together meet the same glitch: they count as one.
            self.in_a_row, self._failed_at = self.in_a_row + 1, now
        # It may be the jobs that are not there yet, rather than the path that is wrong.
        is_early = failure.http_status in NO_SUCH_PATH and now < min(submitted) + VISIBLE_WITHIN
        is_believed = not is_early and self._is_believed(failure, asked_at, now)
        return failure.kind is FailureKind.UNUSABLE or is_believed

    def _is_believed(self, failure: Failure, asked_at: float, now: float) -> bool:
        """Whether enough polls were rejected: the key, or the query, is wrong."""
        if failure.kind not in _REJECTIONS:
            return False
        if asked_at > self._rejected_at:
            self._rejections, self._rejected_at = self._rejections + 1, now
        # Webhooks arrive even if the service does not know the query.
        has_other_updates = self._has_webhooks and failure.kind is FailureKind.NO_OPERATION
        return self._rejections >= MIN_REJECTIONS and not has_other_updates
