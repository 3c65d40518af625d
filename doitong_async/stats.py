"""How a client does at one moment, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stats:
    """How a client does at one moment.

    Attributes:
        in_flight: jobs submitted or taken up, and not seen to end.
        waiting: callers that wait, by what for: "slot", "minute", "day" or "server".
        requests_left: requests that the plan allows now, for all clients on the key in this process.
        mean_seconds: how long jobs took, by provider, version and size.
        credits_spent: what the jobs of this client cost, as far as the service told.
    """

    in_flight: int
    waiting: Mapping[str, int]
    requests_left: int
    mean_seconds: Mapping[str, float]
    credits_spent: float
