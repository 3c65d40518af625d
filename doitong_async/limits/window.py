"""An exact sliding window: never more than so many requests in any 60 s, however the server counts them."""

from __future__ import annotations

from collections import deque
from typing import Final

PERIOD: Final = 60.0
"""Seconds."""


class Window:
    """Tokens that are spent when a request is sent, and come back a period after its *answer*.

    The server counts a request at some moment between its sending and its answer. A token that is back
    one period after the answer is therefore never back before the server has forgotten the request.

    Moments are seconds of one clock that does not run backwards. A moment of return is kept as it is and
    waited for, never as a remaining time: rounding that just under its end would wait for ever.
    """

    __slots__ = ("_limit", "_period", "_returns", "_sent")

    def __init__(self, limit: int, period: float = PERIOD) -> None:
        self._limit = limit
        self._period = period
        self._sent = 0
        self._returns: deque[float] = deque()

    def free(self, now: float) -> int:
        """Return how many requests may be sent at this moment."""
        while self._returns and self._returns[0] <= now:
            self._returns.popleft()
        return max(0, self._limit - self._sent - len(self._returns))

    def next_free(self, now: float) -> float | None:
        """Return the moment from which a request may be sent, or None while that hangs on an answer."""
        if self.free(now):
            return now
        # So many must have come back until one more fits; those in flight have no moment yet.
        needed = self._sent + len(self._returns) - self._limit
        return self._returns[needed] if needed < len(self._returns) else None

    def spend(self) -> None:
        """Take a token: a request is sent now."""
        self._sent += 1

    def answered(self, now: float) -> None:
        """Note that a request was answered, or is known to be lost: its token is back a period from now."""
        self._sent -= 1
        last = self._returns[-1] if self._returns else now
        self._returns.append(max(last, now + self._period))

    def unsent(self) -> None:
        """Give a token back at once: its request never left this machine."""
        self._sent -= 1
