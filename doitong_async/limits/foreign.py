"""Estimates what others send under the same API key, and spaces our requests."""

from __future__ import annotations

import math
from typing import Final

_LEAST_SPAN: Final = 5.0
"""Seconds: two answers that arrive together say nothing about how fast others send."""
_LONGEST_DELAY: Final = 1.0
"""Seconds that one request at most delays the next: our choice."""


class ForeignUsage:
    """Tokens that others hold: how many were last seen, and how many more their rate has taken since.

    Why their rate counts: beside somebody who sends 45 requests a minute, a hundred pictures on Pro met 16 to
    25 rejections (429) without it, and meet three to five with it, in the same time.

    Args:
        period: seconds of the window.
    """

    __slots__ = ("_count", "_first_count", "_first_seen", "_last_seen", "_period", "until")

    def __init__(self, period: float) -> None:
        self._period = period
        self._count = 0
        """Tokens that were last seen to count against the window."""
        self._first_count = 0
        self._first_seen = self._last_seen = 0.0
        self.until: float = 0.0
        """The moment from which their tokens are free, unless something shows more of them."""

    def __bool__(self) -> bool:
        return self._count > 0

    def lapse(self, now: float) -> bool:
        """Forget all of it once a period has passed without a sign; return whether that happened."""
        # Compare with the stored moment, not the elapsed time: rounding would release tokens too early.
        if not self._count or now < self.until:
            return False
        self._count = 0
        return True

    def tokens(self, now: float) -> int:
        """Return how many tokens others hold, if they go on at their rate."""
        if not self._count:
            return 0
        grown = self._count - self._first_count
        span = min(self._period, max(_LEAST_SPAN, self._last_seen - self._first_seen))
        rate = grown / span
        going_on = self._count + rate * (now - self._last_seen)
        return max(self._count, math.ceil(min(rate * self._period, going_on)))

    def saw(self, tokens: int, now: float, *, of_ours: int) -> None:
        """Record that others hold more tokens than we counted.

        Args:
            tokens: that others hold.
            now: the moment.
            of_ours: requests of ours that the service may not have counted yet; later answers include them.
        """
        if not self._count:
            # Nothing says how fast the requests before this one came.
            self._first_seen, self._first_count = now, tokens + of_ours
        self._count, self._last_seen = tokens, now
        self.confirm(now)

    def confirm(self, now: float) -> None:
        """Reserve their tokens for a whole period from now, as they are still taken."""
        self.until = now + self._period

    def give_back_one(self, now: float) -> None:
        """Take one token back before its time; their rate stays as estimated."""
        self._count, self._last_seen = self.tokens(now) - 1, now
        self._first_count -= 1


class Probing:
    """Delay each request until the one before it is answered, while others use up the key.

    Why: beside somebody who sends 15 requests a minute, a hundred pictures on Pro met up to six rejections
    (429) without it, and meet one or two with it, in the same time; requests sent together find the window
    full together.

    Moments are seconds of the loop's clock.
    """

    __slots__ = ("_sent_at", "contested_until")

    def __init__(self, now: float) -> None:
        self.contested_until: float = now
        self._sent_at = now - _LONGEST_DELAY

    def contest(self, until: float) -> None:
        """Record that others use up the key, and may do so until that moment."""
        self.contested_until = until

    def sent(self, now: float) -> None:
        """Record that a request is sent."""
        self._sent_at = now

    def next_moment(self, moment: float, *, in_flight: int) -> float:
        """Return from when a request may be sent that nothing else delays beyond `moment`.

        Args:
            moment: from when it may be sent otherwise.
            in_flight: how many requests are not answered yet.
        """
        if moment >= self.contested_until or not in_flight:
            return moment
        return max(moment, self._sent_at + _LONGEST_DELAY)
