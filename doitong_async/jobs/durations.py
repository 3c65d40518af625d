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

    def add(self, kind: JobKind, seconds: float) -> None:
        """Note how long a job took."""
        count, mean = self._seen.get(kind, (0, 0.0))
        weight = 1 / min(count + 1, _MEMORY)
        self._seen[kind] = count + 1, mean + (seconds - mean) * weight

    def means(self) -> Mapping[JobKind, float]:
        """Return the mean seconds of every kind that was seen."""
        return {kind: mean for kind, (_, mean) in self._seen.items()}

    def mean(self, kinds: Iterable[JobKind]) -> float | None:
        """Return the mean seconds of jobs of these kinds, as far as they were seen; None if none was."""
        seen = [self._seen[kind][1] for kind in kinds if kind in self._seen]
        return sum(seen) / len(seen) if seen else None
