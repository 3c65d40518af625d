"""Tells the time of Redis's clock between two of its answers, and never runs ahead of it."""

from __future__ import annotations

import math
from typing import Final

_DRIFT: Final = 1e-4
"""How much faster or slower than Redis's clock ours may run, as a part of the time."""
STEADY_GAP: Final = 3.0
"""Seconds between two answers after which we cannot say what happened in between: our choice."""


class ServerClock:
    """Estimates Redis's clock from a clock of ours that counts the time in which the machine is suspended."""

    __slots__ = ("_ahead", "_answered", "spread", "steady_since")

    def __init__(self) -> None:
        self._ahead = -math.inf
        """Seconds by which Redis's clock is ahead of ours, at least."""
        self._answered = -math.inf
        """When Redis last answered, by our clock."""
        self.spread: float = 0.0
        """Seconds by which the estimate may be late."""
        self.steady_since: float = math.inf
        """Since when Redis has answered without a long gap, by its own clock."""

    @property
    def is_set(self) -> bool:
        """Whether Redis ever answered."""
        return math.isfinite(self._ahead)

    def answered(self, server: float, *, asked: float, now: float) -> None:
        """Learn from an answer of Redis.

        Args:
            server: the time that it says.
            asked: when it was asked, by our clock.
            now: the moment, by our clock.
        """
        gap = now - self._answered
        is_steady = gap <= STEADY_GAP and server - self.time(now) <= STEADY_GAP
        drifted = _DRIFT * gap if self.is_set else 0.0
        self._ahead = max(self._ahead - drifted, server - now)
        self._answered, self.spread = now, now - asked
        if not is_steady:
            self.steady_since = server

    def time(self, now: float) -> float:
        """Return Redis's time, or a little less, at a moment of our clock."""
        return now + self._ahead
