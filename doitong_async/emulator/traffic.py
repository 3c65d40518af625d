"""A log of the requests that arrived, and how many came within one minute."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from doitong_async.emulator.limits import SlidingWindow

Kind = Literal["submit", "poll", "introspection", "output", "other"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the server saw it; `ids` are the jobs it created or asked for.

    `http_status` is 0 if the connection was cut; `fault` names the faults of the request or its jobs.
    """

    at: float
    kind: Kind
    http_status: int
    ids: tuple[str, ...]
    headers: Mapping[str, str]
    fault: str | None = None


class Traffic:
    """The latest requests, and counts of all."""

    def __init__(self, kept: int) -> None:
        self.seen: deque[Seen] = deque(maxlen=kept)
        self.counts: Counter[Kind] = Counter()
        self.most_in_window: int = 0
        self._window = SlidingWindow(limit=None)

    def record(self, seen: Seen) -> None:
        """Record a request."""
        self.seen.append(seen)
        self.counts[seen.kind] += 1

    def admit(self, now: float) -> None:
        """Count a request that used up a permit, whatever its key."""
        self._window.take(now)
        self.most_in_window = max(self.most_in_window, self._window.used(now))
