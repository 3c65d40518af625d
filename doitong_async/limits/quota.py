"""The daily quota: how many jobs were made in this day of the service, and when the next day begins."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from doitong_async.errors import DailyLimitError

LENGTH: Final = 86_400.0
"""Seconds."""
_FAR_FROM_FULL: Final = 0.8
"""Share of the daily quota up to which other processes on the key are unlikely to have used the rest."""


class DailyQuota:
    """Count the jobs of each day; all moments are epoch seconds.

    Counts and limits are kept by day number, so that a wall clock that jumps ahead and back finds its day
    again.

    Args:
        limit: jobs a day, or None for no limit.
        starts_at: seconds after 00:00 UTC at which the service's day begins (assumption: 0).
    """

    __slots__ = ("_ends", "_made", "_reserved", "_starts_at", "_written", "limit")

    def __init__(self, limit: int | None, starts_at: float = 0.0) -> None:
        self.limit: int | None = limit
        self._starts_at = starts_at
        self._made: Counter[int] = Counter()
        self._reserved = 0
        self._ends: dict[int, float] = {}
        """By day in which the service said it: until when it accepts no more jobs."""
        self._written: Counter[tuple[str, int]] = Counter()
        """By ledger and day: how many of the ledger's jobs are counted here."""

    def is_over(self, wall: float) -> bool:
        """Whether the day's jobs are used up, by our count or by the service's."""
        is_used_up = self.limit is not None and self._made[self.number(wall)] >= self.limit
        return is_used_up or self.is_ended(wall)

    def made(self, wall: float) -> int:
        """Return how many jobs of this day are counted."""
        return self._made[self.number(wall)]

    def is_ended(self, wall: float) -> bool:
        """Whether the service said that it accepts no more jobs for now."""
        return self._ended_until(wall) is not None

    def has_room(self, wall: float) -> bool:
        """Whether one more job may begin; reserved jobs count, as they may yet be made."""
        made = self._made[self.number(wall)]
        is_full = self.limit is not None and made + self._reserved >= self.limit
        return not self.is_over(wall) and not is_full

    def is_far_from_full(self, wall: float) -> bool:
        """Whether so few jobs were made here that the quota is hardly used up."""
        return self.limit is None or self._made[self.number(wall)] < _FAR_FROM_FULL * self.limit

    def is_fresh(self, wall: float) -> bool:
        """Whether nothing of the day's quota is used."""
        return not self._made[self.number(wall)] and not self._reserved and not self.is_ended(wall)

    def next_begins(self, wall: float) -> float:
        """Return when jobs may begin again."""
        until = self._ended_until(wall)
        return (self.number(wall) + 1) * LENGTH + self._starts_at if until is None else until

    def error(self, wall: float, plan_name: str) -> DailyLimitError:
        """Return the error for callers that do not wait for the next day."""
        begins = self.next_begins(wall)
        is_ours = self.limit is not None and not self.is_ended(wall)
        why = f"the plan {plan_name!r} allows {self.limit} a day" if is_ours else "the service says so"
        return DailyLimitError(
            f"No more jobs today: {why}.",
            retry_after=begins - wall,
            resets_at=datetime.fromtimestamp(begins, UTC),
        )

    def number(self, wall: float) -> int:
        """Return the number of the current day: days since 1970, as the service begins them."""
        return int((wall - self._starts_at) // LENGTH)

    def carry(self, wall: float, made: int, *, source: str) -> None:
        """Count the jobs of this day that a ledger holds, except those already counted here."""
        number = self.number(wall)
        self._made[number] += max(0, made - self._written[source, number])
        self._written[source, number] = made

    def writes(self, wall: float, *, source: str) -> int:
        """Record that a job counted here goes into a ledger, and return the number of its day."""
        number = self.number(wall)
        self._written[source, number] += 1
        return number

    def reserve(self) -> None:
        """Reserve one job: its submit is about to be sent."""
        self._reserved += 1

    def reserving(self, jobs: int) -> None:
        """Set how many jobs are reserved, where they are counted elsewhere."""
        self._reserved = jobs

    def count(self, wall: float) -> None:
        """Count a job that was made, where reservations are counted elsewhere."""
        self._made[self.number(wall)] += 1

    def settle(self, wall: float, *, was_made: bool) -> None:
        """End a reservation; a job that was made counts for the day in which it was accepted."""
        self._reserved -= 1
        self._made[self.number(wall)] += was_made

    def end(self, until: float, *, said_at: float = 0.0) -> None:
        """Begin no more jobs before `until`: the service said so at `said_at`, a moment of the same clock."""
        number = self.number(said_at)
        self._ends[number] = max(self._ends.get(number, until), until)

    def _ended_until(self, wall: float) -> float | None:
        """Return until when the service accepts no more jobs, as it said today or before, or None."""
        today = self.number(wall)
        return max(
            (until for day, until in self._ends.items() if day <= today and wall < until), default=None
        )
