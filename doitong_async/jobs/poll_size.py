"""Learn how many jobs one poll may ask for: fewer if large polls keep failing, and later more again.

One odd answer changes nothing that lasts. We accept that a poll is too large after `PROOFS` polls in a row
that failed whole and succeeded in parts. From then on we try twice as many after some polls that succeed; if
those fail again, the next trial comes twice as late.
"""

from __future__ import annotations

import math
from typing import Final

PROOFS: Final = 3
"""Polls in a row that must fail whole and succeed in parts before we ask for less: our choice."""
FIRST_TRIAL: Final = 8
"""Polls of the accepted size that succeed until we try twice as many jobs: our choice."""
LAST_TRIAL: Final = 256
"""The most polls between two trials: our choice."""


class PollSize:
    """The most jobs that one poll asks for, learned from the answers; moments come in as arguments.

    Args:
        most: jobs per poll until failures suggest fewer.
    """

    __slots__ = ("_believed", "_ceiling", "_good", "_part", "_proofs", "_proved_at", "_trial_after", "most")

    def __init__(self, most: int) -> None:
        self.most: int = most
        self._ceiling = self._believed = most
        self._proofs = self._part = self._good = 0
        self._proved_at = -math.inf
        self._trial_after = FIRST_TRIAL

    def went_whole(self, asked: int) -> None:
        """Record that one request brought an answer for `asked` jobs."""
        if asked > self._part:
            self._proofs = self._part = 0
        if asked > self._believed:
            self._believed, self._trial_after = self.most, FIRST_TRIAL
        if asked < self.most or self.most == self._ceiling:
            return
        self._good += 1
        if self._good >= self._trial_after:
            self._good, self.most = 0, min(2 * self.most, self._ceiling)

    def went_in_parts(self, asked: int, part: int, *, asked_at: float, now: float) -> None:
        """Record that a poll of `asked` jobs failed whole, and succeeded in parts of `part` jobs.

        Args:
            asked: jobs in the request that failed, or that was answered only for some of them.
            part: jobs in the parts that were answered.
            asked_at: when it was sent; polls sent together meet the same glitch, and count as one.
            now: the moment.
        """
        if asked > self.most or asked_at <= self._proved_at:
            return
        self._proved_at = now
        if asked > self._believed:
            self.most, self._good = self._believed, 0
            self._trial_after = min(2 * self._trial_after, LAST_TRIAL)
            return
        self._proofs, self._part = self._proofs + 1, max(self._part, part)
        if self._proofs >= PROOFS:
            self.most = self._believed = max(1, self._part)
            self._proofs = self._part = self._good = 0
