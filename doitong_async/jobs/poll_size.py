"""How many jobs one poll asks for: fewer where that helped again and again, and then more once more.

One odd answer changes nothing that lasts. That so many jobs are too many for one request is believed after
`PROOFS` polls in a row that were refused whole and answered in parts. From then on twice as many are tried
after some polls that went well; where those are refused again, the next trial comes twice as late.
"""

from __future__ import annotations

import math
from typing import Final

PROOFS: Final = 3
"""Polls in a row that must be refused whole and answered in parts, until less is asked for: our choice."""
FIRST_TRIAL: Final = 8
"""Polls of the size believed that go well until twice as many jobs are tried: our choice."""
LAST_TRIAL: Final = 256
"""Polls between two trials at most: our choice."""


class PollSize:
    """The most jobs that one poll asks for, and what the answers taught of it; moments come in as arguments.

    Args:
        most: what a poll asks for as long as nothing speaks against it.
    """

    __slots__ = ("_believed", "_ceiling", "_good", "_part", "_proofs", "_proved_at", "_trial_after", "most")

    def __init__(self, most: int) -> None:
        self.most = self._ceiling = self._believed = most
        self._proofs = self._part = self._good = 0
        self._proved_at = -math.inf
        self._trial_after = FIRST_TRIAL

    def went_whole(self, asked: int) -> None:
        """Note that one request brought an answer for so many jobs."""
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
        """Note that so many jobs were refused in one request, and answered in parts of so many.

        Args:
            asked: jobs in the request that was refused, or answered for some of them alone.
            part: jobs in the parts that were answered.
            asked_at: when it was sent; polls of one moment meet the same slip, and count as one.
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
