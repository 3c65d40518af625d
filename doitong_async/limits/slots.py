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
        """When the slots expire that no job here holds, with the job's id, or the key of its submit."""

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
        if not self.take_kept(job_id):
            self._taken += 1

    def take_kept(self, name: str) -> bool:
        """Take the slot that was kept under a job's id, or an idempotency key; False if there is none."""
        kept = next((kept for kept in self._kept if kept[1] == name != ""), None)
        if kept is None:
            return False
        self._kept.remove(kept)
        heapify(self._kept)
        return True

    def give_back(self) -> None:
        """Return a slot."""
        self._taken -= 1

    def keep(self, until: float, name: str) -> None:
        """Return a slot at `until`, unless it is taken under that name before."""
        heappush(self._kept, (until, name))
