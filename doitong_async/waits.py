"""The waits between attempts: exponential, with full jitter."""

from __future__ import annotations

from collections.abc import Iterator

import backoff


def backoff_waits(*, first: float = 1.0, longest: float) -> Iterator[float]:
    """Yield seconds without end, each a random part of a bound: `first`, twice that, and so on to `longest`.

    Args:
        first: seconds; the bound of the first wait.
        longest: seconds; no wait exceeds it.
    """
    bounds = backoff.expo(factor=first, max_value=longest)
    next(bounds)  # backoff's generators yield their first value at the second step
    for bound in bounds:
        yield backoff.full_jitter(bound)
