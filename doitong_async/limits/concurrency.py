"""Holds submits back after a 429 about concurrent jobs, until jobs of ours end."""

from __future__ import annotations

from typing import Final

_DEFAULT_HOLD: Final = 5.0
"""Seconds to hold submits after a 429 about concurrent jobs, unless a job of ours ends before; doubled each
time, up to a minute."""
_LONGEST_HOLD: Final = 60.0
_CAREFUL_FOR: Final = 60.0
"""Seconds after a hold in which submits go one after the other: our choice."""


class ConcurrencyBackoff:
    """Holds submits while the service has too many jobs; moments are seconds of the loop's clock."""

    __slots__ = ("_careful_until", "_ended_jobs", "_rejections", "held_until", "submits_in_flight")

    def __init__(self, now: float) -> None:
        self.held_until: float = now
        self._careful_until = now
        self._ended_jobs = 0
        """Jobs that ended during the hold: each admits one submit."""
        self._rejections = 0
        self.submits_in_flight: int = 0

    def rejected(self, now: float, wait: float | None, jitter: float) -> None:
        """Hold submits: for `wait` seconds if the service said so, else twice as long as the last time."""
        if now >= self.held_until:
            self._rejections += 1
        usual = min(_DEFAULT_HOLD * 2 ** (self._rejections - 1), _LONGEST_HOLD)
        self.held_until = max(self.held_until, now + (usual if wait is None else wait) + jitter)
        self._careful_until = self.held_until + _CAREFUL_FOR
        self._ended_jobs = 0

    def accepted(self, now: float) -> None:
        """Forget earlier rejections, as a submit was accepted after the hold."""
        if now >= self.held_until:
            self._rejections = 0

    def job_ended(self) -> None:
        """Let one more submit go during the hold."""
        self._ended_jobs += 1

    def submit_sent(self, now: float) -> None:
        """Count a submit in flight."""
        self.submits_in_flight += 1
        if now < self.held_until:
            self._ended_jobs -= 1

    def submit_is_over(self) -> None:
        """Count a submit in flight no more."""
        self.submits_in_flight -= 1

    def blocks(self, now: float) -> bool:
        """Whether the next submit has to wait."""
        if now < self.held_until:
            return self._ended_jobs <= 0
        # One after the other, so that a crowded service rejects one submit and not all that wait.
        return now < self._careful_until and self.submits_in_flight > 0
