"""Jobs a day: how many were made in this day of the service, and when the next one begins."""

from __future__ import annotations

from collections import Counter
from typing import Final

LENGTH: Final = 86_400.0
"""Seconds."""


_FAR_FROM_FULL: Final = 0.8
"""The share of a day's jobs up to which other processes on the key are unlikely to have used the rest."""


class DailyQuota:
    """Counts the jobs of each day; all moments are epoch seconds.

    What is counted and told belongs to the number of its day, as the clock had it: one that jumped ahead and
    came back reads its own day again.

    Args:
        limit: jobs a day, or None for no limit.
        starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    __slots__ = ("_ends", "_made", "_reserved", "_starts_at", "_written", "limit")

    def __init__(self, limit: int | None, starts_at: float = 0.0) -> None:
        self.limit = limit
        self._starts_at = starts_at
        self._made: Counter[int] = Counter()
        self._reserved = 0
        self._ends: dict[int, float] = {}
        """By the number of the day in which the service said it: until when there are no more jobs."""
        self._written: Counter[tuple[str, int]] = Counter()
        """By ledger and day: how many of its jobs are counted here."""

    def is_over(self, wall: float) -> bool:
        """Whether the jobs of the day are used up, or the service said so."""
        is_used_up = self.limit is not None and self._made[self.number(wall)] >= self.limit
        return is_used_up or self.is_ended(wall)

    def is_ended(self, wall: float) -> bool:
        """Whether the service said that there are no more jobs for now."""
        return self._ended_until(wall) is not None

    def has_room(self, wall: float) -> bool:
        """Whether one more job may be begun; those under way count, as they may yet be made."""
        made = self._made[self.number(wall)]
        is_full = self.limit is not None and made + self._reserved >= self.limit
        return not self.is_over(wall) and not is_full

    def is_far_from_full(self, wall: float) -> bool:
        """Whether so few jobs were made here that the day is hardly used up."""
        return self.limit is None or self._made[self.number(wall)] < _FAR_FROM_FULL * self.limit

    def is_fresh(self, wall: float) -> bool:
        """Whether nothing of the day is used."""
        return not self._made[self.number(wall)] and not self._reserved and not self.is_ended(wall)

    def next_begins(self, wall: float) -> float:
        """Return when jobs may be begun again."""
        until = self._ended_until(wall)
        return (self.number(wall) + 1) * LENGTH + self._starts_at if until is None else until

    def number(self, wall: float) -> int:
        """Return the number of the day that it is: days since 1970, as the service begins them."""
        return int((wall - self._starts_at) // LENGTH)

    def carry(self, wall: float, made: int, *, told_by: str) -> None:
        """Count the jobs of this day that a ledger has, but for those that are counted here already."""
        number = self.number(wall)
        self._made[number] += max(0, made - self._written[told_by, number])
        self._written[told_by, number] = made

    def writes(self, wall: float, *, told_by: str) -> int:
        """Note that a job which is counted here goes into a ledger, and return the number of its day."""
        number = self.number(wall)
        self._written[told_by, number] += 1
        return number

    def reserve(self) -> None:
        """Set one job aside: its submit is about to be sent."""
        self._reserved += 1

    def settle(self, wall: float, *, was_made: bool) -> None:
        """Note what became of a job that was set aside; it counts for the day in which it was accepted."""
        self._reserved -= 1
        self._made[self.number(wall)] += was_made

    def end(self, until: float, *, said_at: float = 0.0) -> None:
        """Begin no more jobs before that moment: the service says so, at a moment of this same clock."""
        number = self.number(said_at)
        self._ends[number] = max(self._ends.get(number, until), until)

    def _ended_until(self, wall: float) -> float | None:
        """Return until when there are no more jobs, as the service said today or before; None: it did not."""
        today = self.number(wall)
        return max(
            (until for day, until in self._ends.items() if day <= today and wall < until), default=None
        )
