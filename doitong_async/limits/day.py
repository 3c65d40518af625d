"""Jobs a day: how many were made in this day of the service, and when the next one begins."""

from __future__ import annotations

from typing import Final

LENGTH: Final = 86_400.0
"""Seconds."""


class Day:
    """Counts the jobs of the current day; all moments are epoch seconds.

    Args:
        limit: jobs a day, or None for no limit.
        starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    __slots__ = ("_made", "_number", "_over_until", "_reserved", "_starts_at", "_told_by", "limit")

    def __init__(self, limit: int | None, starts_at: float = 0.0) -> None:
        self.limit = limit
        self._starts_at = starts_at
        self._number = 0
        self._made = 0
        self._reserved = 0
        self._over_until = 0.0
        self._told_by: set[str] = set()

    def is_over(self, wall: float) -> bool:
        """Whether the jobs of the day are used up, or the service said so."""
        self._turn_over(wall)
        is_used_up = self.limit is not None and self._made >= self.limit
        return is_used_up or self.is_ended(wall)

    def is_ended(self, wall: float) -> bool:
        """Whether the service said that there are no more jobs for now."""
        return wall < self._over_until

    def has_room(self, wall: float) -> bool:
        """Whether one more job may be begun; those under way count, as they may yet be made."""
        is_full = self.limit is not None and self._made + self._reserved >= self.limit
        return not self.is_over(wall) and not is_full

    def is_fresh(self, wall: float) -> bool:
        """Whether nothing of the day is used."""
        self._turn_over(wall)
        return not self._made and not self._reserved and not self.is_ended(wall)

    def next_begins(self, wall: float) -> float:
        """Return when jobs may be begun again."""
        self._turn_over(wall)
        if wall < self._over_until:
            return self._over_until
        return (self._number + 1) * LENGTH + self._starts_at

    def number(self, wall: float) -> int:
        """Return the number of the day that it is: days since 1970, as the service begins them."""
        self._turn_over(wall)
        return self._number

    def carry(self, wall: float, made: int, *, told_by: str) -> None:
        """Count jobs of this day that other processes made, as a ledger tells; once for each ledger."""
        self._turn_over(wall)
        if told_by not in self._told_by:
            self._told_by.add(told_by)
            self._made += made

    def reserve(self) -> None:
        """Set one job aside: its submit is about to be sent."""
        self._reserved += 1

    def settle(self, wall: float, *, was_made: bool) -> None:
        """Note what became of a job that was set aside; it counts for the day in which it was accepted."""
        self._turn_over(wall)
        self._reserved -= 1
        self._made += was_made

    def end(self, until: float) -> None:
        """Begin no more jobs before this moment: the service said so."""
        self._over_until = max(self._over_until, until)

    def _turn_over(self, wall: float) -> None:
        number = int((wall - self._starts_at) // LENGTH)
        # A clock that is set back does not give a day's jobs a second time.
        if number > self._number:
            self._number, self._made = number, 0
