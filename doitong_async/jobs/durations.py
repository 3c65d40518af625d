"""How long jobs take, by what they make: a running mean of what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from doitong_async.types import GenerateRequest

JobKind: TypeAlias = str
"""Jobs of one kind take about as long: the provider, the version, the size in steps of double the pixels."""

_MEMORY: Final = 20
"""So many of the last jobs make up most of the mean: a service that slows down is noticed."""


def kind_of(request: GenerateRequest) -> JobKind:
    """Return the kind of job that a request makes."""
    pixels = (request.width or 1024) * (request.height or 1024)
    size = f"{pixels.bit_length()} bits of pixels" if request.type == "IMAGE" else ""
    return " ".join(part for part in (request.provider, request.version, size) if part)


class Durations:
    """Running means of seconds, by kind of job."""

    def __init__(self) -> None:
        self._seen: dict[JobKind, tuple[int, float]] = {}

    def add(self, kind: JobKind, low: float, high: float) -> None:
        """Note that a job was seen to run after so many seconds, and to be over after so many more.

        Where in between is not known: half the way, drawn towards the mean so far where that is possible.
        Both are the same where the service itself told of the end.
        """
        count, mean = self._seen.get(kind, (0, (low + high) / 2))
        seconds = ((low + high) / 2 + min(max(mean, low), high)) / 2
        self._seen[kind] = count + 1, mean + (seconds - mean) / min(count + 1, _MEMORY)

    def means(self) -> Mapping[JobKind, float]:
        """Return the mean seconds of every kind that was seen."""
        return {kind: mean for kind, (_, mean) in self._seen.items()}

    def mean(self, running: Iterable[tuple[JobKind, float]], *, enough: int) -> float | None:
        """Return the mean seconds that running jobs are likely to take, or None while too few were seen.

        Args:
            running: their kinds, and for how many seconds each is known to have run: it takes no less.
            enough: how many of a kind must have been seen to end; the first that end are the short ones.
        """
        known = {kind: mean for kind, (count, mean) in self._seen.items() if count >= enough}
        likely = [max(known[kind], age) for kind, age in running if kind in known]
        return sum(likely) / len(likely) if likely else None
