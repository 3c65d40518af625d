"""When to look at the jobs in flight: one tick for all of them, never sooner than 2 s after the last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TICK: Final = 2.0
"""Seconds between two looks in the documented loop."""
LONGEST_TICK: Final = 30.0
"""Seconds between two looks at a service that keeps failing: our choice."""


def next_tick(due: Iterable[float], *, last: float, failures: int) -> float | None:
    """Return the moment of the next tick, or None if there is no job to look at.

    Args:
        due: when each job wants to be looked at next.
        last: when the last look was sent.
        failures: how many looks in a row brought nothing: see `spacing`.
    """
    earliest = min(due, default=None)
    if earliest is None:
        return None
    return max(earliest, last + spacing(failures))


def spacing(failures: int) -> float:
    """Return the seconds until the next look after so many in a row that brought nothing.

    One failure changes nothing, as the next look may well succeed; each further one doubles the wait.
    """
    return float(min(TICK * 2 ** max(0, min(failures, 8) - 1), LONGEST_TICK))


def may_join(accepted: float, now: float) -> bool:
    """Whether a job joins a tick that comes now: no job is looked at sooner than 2 s after its submit."""
    return accepted + TICK <= now
