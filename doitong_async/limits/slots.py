"""Counts the slots that are taken, also by jobs that nobody here tracks any more."""

from __future__ import annotations

from heapq import heapify, heappop, heappush


class SlotCount:
    """How many slots are taken; moments are seconds of the loop's clock.

    Args:
        limit: jobs at once.
    """

    __slots__ = ("_kept", "_taken", "limit")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._taken = 0
        self._kept: list[tuple[float, str]] = []
        """When the slots of jobs that nobody tracks any more expire, with the id of the job."""

    def taken(self, now: float) -> int:
        """Return how many are taken; more than the plan has if jobs were resumed."""
        while self._kept and self._kept[0][0] <= now:
            heappop(self._kept)
            self._taken -= 1
        return self._taken

    def has_free(self, now: float) -> bool:
        """Whether a job may begin."""
        return self.taken(now) < self.limit

    def next_expiry(self) -> float | None:
        """Return when the next of the kept slots expires."""
        return self._kept[0][0] if self._kept else None

    def take(self) -> None:
        """Take a slot for a job that is yet to be made."""
        self._taken += 1

    def take_for(self, job_id: str) -> None:
        """Take the slot of a job that is running: the one that was kept for it, or one more."""
        kept = next((kept for kept in self._kept if kept[1] == job_id != ""), None)
        if kept is None:
            self._taken += 1
        else:
            self._kept.remove(kept)
            heapify(self._kept)

    def give_back(self) -> None:
        """Return a slot."""
        self._taken -= 1

    def keep(self, until: float, job_id: str) -> None:
        """Return a slot at `until`, unless its job is resumed before that."""
        heappush(self._kept, (until, job_id))
