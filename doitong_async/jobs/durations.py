"""Keep running means of how long jobs take, by kind of job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from doitong_async.types import GenerateRequest


class JobKind(NamedTuple):
    """What jobs have in common that take about as long.

    Attributes:
        provider: as in the request.
        version: as in the request.
        size: of a picture, in pixels, rounded down to a power of two; None for other media.
    """

    provider: str | None
    version: str | None
    size: int | None


NO_KIND: Final = JobKind(None, None, None)
"""Of a job of which only the id is known."""

_MEMORY: Final = 20
"""How many of the last jobs make up most of the mean, so that it follows a service that slows down."""


def kind_of(request: GenerateRequest) -> JobKind:
    """Return the kind of job that a request makes."""
    pixels = (request.width or 1024) * (request.height or 1024)
    size = 1 << (pixels.bit_length() - 1) if request.type == "IMAGE" else None
    return JobKind(request.provider, request.version, size)


class Durations:
    """Running means of seconds, by kind of job."""

    def __init__(self) -> None:
        self._seen: dict[JobKind, tuple[int, float]] = {}

    def add(self, kind: JobKind, low: float, high: float) -> None:
        """Record a job that was seen running after `low` seconds, and ended after `high`.

        When it ended in between is unknown: take the middle, drawn towards the mean so far where possible.
        Both are equal if the service itself reported the end.
        """
        count, mean = self._seen.get(kind, (0, (low + high) / 2))
        seconds = ((low + high) / 2 + min(max(mean, low), high)) / 2
        self._seen[kind] = count + 1, mean + (seconds - mean) / min(count + 1, _MEMORY)

    def means(self) -> Mapping[JobKind, float]:
        """Return the mean seconds of every kind seen so far."""
        return {kind: mean for kind, (_, mean) in self._seen.items()}

    def mean(self, running: Iterable[tuple[JobKind, float]], *, enough: int) -> float | None:
        """Return the mean seconds that running jobs are likely to take, or None while too few were seen.

        Args:
            running: the kind of each job, and the seconds it is known to have run, which it takes at least.
            enough: how many of a kind must have ended; the first that end are the short ones.
        """
        known = {kind: mean for kind, (count, mean) in self._seen.items() if count >= enough}
        likely = [max(known[kind], age) for kind, age in running if kind in known]
        return sum(likely) / len(likely) if likely else None
