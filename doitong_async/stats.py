"""The counters of a client at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a client's counters.

    Attributes:
        in_flight: jobs submitted or resumed, and not known to have ended.
        waiting: waiting callers, by reason: "slot", "minute", "day" or "server".
        requests_left: requests that the plan allows now, for all clients on the key in this process.
        mean_seconds: mean duration of jobs in seconds, by provider, version and size.
        credits_spent: credits that this client's jobs cost, as far as the service reported.
    """

    in_flight: int
    waiting: Mapping[str, int]
    requests_left: int
    mean_seconds: Mapping[str, float]
    credits_spent: float
