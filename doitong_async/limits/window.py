"""An exact sliding window: never more than so many requests in any 60 s, however the server counts them."""

from __future__ import annotations

import math
from collections import deque
from heapq import merge
from itertools import chain, islice, repeat
from typing import Final

PERIOD: Final = 60.0
"""Seconds."""
_LEAST_SPAN: Final = 5.0
"""Seconds: two answers that come at once tell nothing of how fast somebody else's requests come."""


class Window:
    """Tokens that are spent when a request is sent, and come back a period after its *answer*.

    The server counts a request at some moment between its sending and its answer. A token that is back
    one period after the answer is therefore never back before the server has forgotten the request.

    Moments are seconds of one clock that does not run backwards. A moment of return is kept as it is and
    waited for, never as a remaining time: rounding that just under its end would wait for ever.
    """

    __slots__ = (
        "_foreign",
        "_foreign_at_first",
        "_foreign_heard",
        "_foreign_since",
        "_foreign_until",
        "_own",
        "_period",
        "_sent",
        "limit",
    )

    def __init__(self, limit: int, period: float = PERIOD) -> None:
        self.limit = limit
        self._period = period
        self._sent = 0
        self._own: deque[float] = deque()
        """When our own tokens come back; in order, as answers are."""
        self._foreign = 0
        """Places that somebody else's requests were last heard to take."""
        self._foreign_at_first = 0
        self._foreign_since = 0.0
        self._foreign_heard = 0.0
        self._foreign_until = 0.0

    def free(self, now: float) -> int:
        """Return how many requests may be sent at this moment."""
        while self._own and self._own[0] <= now:
            self._own.popleft()
        return max(0, self.limit - self._sent - len(self._own) - self._theirs(now))

    def _theirs(self, now: float) -> int:
        """Return how many places somebody else's requests take, if they go on as they did."""
        # The moment of their return is kept, not the time since: rounding that would promise it too early.
        if now >= self._foreign_until:
            self._foreign = 0
        grown = self._foreign - self._foreign_at_first
        if grown <= 0:
            return self._foreign
        silence = now - self._foreign_heard
        span = min(self._period, max(_LEAST_SPAN, self._foreign_heard - self._foreign_since))
        rate = grown / span
        return max(self._foreign, math.ceil(min(rate * self._period, self._foreign + rate * silence)))

    def next_free(self, now: float, *, beside: int = 0) -> float | None:
        """Return the moment from which a request may be sent, or None while that hangs on an answer.

        Args:
            now: a moment of the clock.
            beside: how many more are to be left then.
        """
        if self.free(now) > beside:
            return now
        # So many must have come back until one more fits; those in flight have no moment yet.
        count = self._theirs(now)
        needed = self._sent + len(self._own) + count - self.limit + beside
        theirs = repeat(self._foreign_until, count)
        return next(islice(merge(self._own, theirs), needed, None), None)

    def coming(self, now: float, parts: int) -> list[int]:
        """Return how many tokens come back in each of so many equal parts of the next period."""
        counts = [0] * parts
        for moment in chain(self._own, repeat(self._foreign_until, self._theirs(now))):
            counts[max(0, min(parts - 1, int((moment - now) / self._period * parts)))] += 1
        # Those in flight have no moment yet; they are not far from a whole period away.
        counts[-1] += self._sent
        return counts

    def spend(self) -> None:
        """Take a token: a request is sent now."""
        self._sent += 1

    def answered(self, now: float) -> None:
        """Note that a request was answered, or is known to be lost: its token is back a period from now."""
        self._sent -= 1
        last = self._own[-1] if self._own else now
        self._own.append(max(last, now + self._period))

    def unsent(self) -> None:
        """Give a token back at once: its request never left this machine."""
        self._sent -= 1

    @property
    def in_flight(self) -> int:
        """How many requests are sent and not answered."""
        return self._sent

    def lower(self, remaining: int, now: float) -> bool:
        """Believe the server that fewer requests are left than we thought: somebody else uses the key.

        When theirs were sent is not known, and more of them are likely: their places are left to them for a
        whole period from the last news of them. More than we thought is never believed.

        Returns:
            Whether that was news.
        """
        excess = self.free(now) - max(0, remaining)
        if excess <= 0:
            return False
        theirs = self._theirs(now) + excess
        if not self._foreign:
            # Of what was there before nobody knows how fast it came.
            self._foreign_since, self._foreign_at_first = now, theirs
        self._foreign, self._foreign_heard, self._foreign_until = theirs, now, now + self._period
        return True
