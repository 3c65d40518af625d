"""Stops submits while the account is out of credits, and lets one of them find out whether it still is."""

from __future__ import annotations

import math
from typing import Final

from doitong_async.errors import InsufficientCreditsError
from doitong_async.transport.failure import Failure

OPEN_FOR: Final = 30.0
"""Seconds after a 402 in which no new submit is sent: our choice."""
FORGOTTEN_AFTER: Final = 3_600.0
"""Seconds after which a 402 is forgotten, if no client uses the key any more: our choice."""


class CreditCircuit:
    """Decide for one key whether a submit may be sent; moments are seconds of the loop's clock.

    closed ──402──▶ open ──30 s──▶ half-open ──a submit──▶ probing ──accepted──▶ closed
                     ▲                 ▲                    │    │
                     │                 └──another answer────┘    │
                     └───────────────────402─────────────────────┘

    It does not compare prices: after a 402 for a dear job a cheap one waits, too.
    """

    __slots__ = ("_failure", "_named_at", "_opened_at", "_probe", "available")

    def __init__(self) -> None:
        self._failure: Failure | None = None
        """The last 402; None while the circuit is closed."""
        self._opened_at = -math.inf
        """When that 402 came."""
        self._probe: int | None = None
        """The number of the one submit that is out in a half-open circuit."""
        self.available: float | None = None
        """The balance that the service last named, in credits."""
        self._named_at = -math.inf

    def age(self, now: float) -> float | None:
        """Return how many seconds ago the service named the balance; None if it never did."""
        return None if self.available is None else now - self._named_at

    def is_open(self, now: float) -> bool:
        """Whether nothing new is sent."""
        return self._failure is not None and now < self._opened_at + OPEN_FOR

    def is_fresh(self, now: float) -> bool:
        """Whether it is closed, or was opened so long ago that nothing is left to learn from that."""
        return self._failure is None or now >= self._opened_at + FORGOTTEN_AFTER

    def is_probing(self) -> bool:
        """Whether every other submit waits for the answer to one."""
        return self._probe is not None

    def sends(self, number: int, now: float) -> None:
        """Record that a submit is sent; in a half-open circuit it is the probe."""
        if self._failure is not None and not self.is_open(now):
            self._probe = number

    def accepted(self, *, sent_at: float) -> None:
        """Close the circuit, as a submit was accepted that was sent after the 402."""
        if sent_at > self._opened_at:
            self._failure = self._probe = None

    def rejected(self, failure: Failure, now: float) -> None:
        """Open the circuit, as a submit got a 402."""
        self._failure, self._opened_at = failure, now
        if failure.credits_available is not None:
            self.available, self._named_at = failure.credits_available, now

    def over(self, number: int | None) -> None:
        """Record the end of a request; if it was the probe, the next submit is."""
        if number == self._probe:
            self._probe = None

    def error(self, now: float) -> InsufficientCreditsError:
        """Return the error for a submit that is not sent."""
        assert self._failure is not None
        again_in = max(0.0, self._opened_at + OPEN_FOR - now)
        error = InsufficientCreditsError(
            f"Not sent: {now - self._opened_at:.0f} s ago the service rejected another submit for lack of "
            f"credits. {self._failure.message}",
            credits_available=self._failure.credits_available,
            code=self._failure.code,
            retry_after=again_in,
        )
        error.outcome = "Nothing was sent, and nothing was charged."
        error.advice = f"Buy credits. In {math.ceil(again_in)} s one submit is sent to find out."
        return error
