"""Keep webhook events of jobs that are unknown yet: one may arrive before the answer to its submit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from doitong_async.jobs import lifecycle
from doitong_async.types import Generation

MOST: Final = 1_000
"""Jobs whose unmatched events are kept: our choice."""
KEPT_FOR: Final = 60.0
"""Seconds to keep unmatched events of a job from the first on, as long as a submit may take: our choice."""


class UnmatchedEvents:
    """Events of unknown jobs, limited in number and age; moments come in as arguments."""

    def __init__(self, *, most: int = MOST, seconds: float = KEPT_FOR) -> None:
        self._most = most
        self._seconds = seconds
        # In the order in which they expire, as each keeps the moment of its first event.
        self._kept: dict[str, tuple[Generation, float]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def next_end(self) -> float | None:
        """The moment at which the next one expires, or None if there is none."""
        return next((ends for _, ends in self._kept.values()), None)

    def keep(self, update: Generation, now: float) -> str | None:
        """Keep an update, merged with what is kept of its job; return the job it evicted, if any."""
        last, ends = self._kept.get(update.id, (update, now + self._seconds))
        self._kept[update.id] = lifecycle.merge(last, update), ends
        return self._oldest() if len(self._kept) > self._most else None

    def adopt(self, job_id: str) -> Generation | None:
        """Return and forget what is kept of a job."""
        update, _ = self._kept.pop(job_id, (None, 0.0))
        return update

    def drop(self, now: float) -> Iterator[str]:
        """Forget, and yield, the jobs that have expired."""
        while (ends := self.next_end) is not None and ends <= now:
            yield self._oldest()

    def _oldest(self) -> str:
        job_id = next(iter(self._kept))
        del self._kept[job_id]
        return job_id
