"""A sliding window that never lets more than `limit` requests into any 60 s, however the server counts."""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from heapq import merge
from itertools import chain, islice, repeat
from typing import Final

from doitong_async.limits.foreign import ForeignUsage

PERIOD: Final = 60.0
"""Seconds."""


class Window:
    """Tokens that are spent when a request is sent, and come back one period after its *answer*.

    The server counts a request at some moment between its sending and its answer. A token that comes back
    one period after the answer therefore never comes back before the server has forgotten the request.

    The service may report that its own window is shorter, or ends earlier. At a reset that it reports we free
    one token, unless one was freed meanwhile. The `Remaining` of the next answer tells how many more to free.

    Moments are seconds of one monotonic clock. The window stores the moment a token comes back, never the
    time that remains: a remainder that rounding leaves just short of its end would be waited for forever.
    """

    __slots__ = (
        "_asked_at",
        "_back_at",
        "_foreign",
        "_out",
        "_own",
        "_period",
        "_renewed_at",
        "_renews_at",
        "_sent",
        "_spent",
        "limit",
    )

    def __init__(self, limit: int, period: float = PERIOD) -> None:
        self.limit: int = limit
        self._period = period
        self._sent = 0
        self._own: deque[float] = deque()
        """When our own tokens come back, in ascending order."""
        self._foreign = ForeignUsage(period)
        self._spent = 0
        """How many tokens were ever spent, which is the number of the last request."""
        self._renews_at: float | None = None
        """The reset that the service reported, if no token has come back since."""
        self._asked_at = -math.inf
        """When a reset last let a request go although others had used up the window."""
        self._back_at = 0
        """The number of the last request before the most recent token came back."""
        self._renewed_at = math.inf
        """The number of the last request before the last reset, until a later one is answered."""
        self._out = 0
        """How many requests were in flight at that reset."""

    def free(self, now: float) -> int:
        """Return how many requests may be sent now."""
        return max(0, self._room(now))

    @property
    def is_renewed(self) -> bool:
        """Whether a reset came and nothing was sent since: the next answer says what is left."""
        return self._spent == self._renewed_at

    def _room(self, now: float) -> int:
        """Return the tokens that are free now; below zero if too many are out."""
        while self._own and self._own[0] <= now:
            self._own.popleft()
            self._came_back()
        theirs = self._theirs(now)
        room = self.limit - self._sent - len(self._own) - theirs
        if self._renews_at is None or now < self._renews_at:
            return room
        if room < 1 and theirs:
            # The token that comes back is as likely to be taken by others: try once a period.
            if now < self._asked_at + self._period:
                self._came_back()
                return room
            self._asked_at = now
        self._came_back()
        self._renewed_at, self._out = self._spent, self._sent
        return self._widen(now, 1)

    def _came_back(self) -> None:
        """Record that a token came back; this settles any reset that was reported earlier."""
        self._renews_at, self._back_at = None, self._spent

    def _widen(self, now: float, room: int) -> int:
        """Return tokens before their time until `room` are free, and return how many are free."""
        while (free := self.limit - self._sent - len(self._own) - self._theirs(now)) < room:
            if self._own:
                self._own.popleft()
            elif self._foreign:
                self._foreign.give_back_one(now)
            else:
                break
        return free

    def _theirs(self, now: float) -> int:
        """Return how many tokens other users of the key hold, if they go on at their rate."""
        if self._foreign.lapse(now):
            self._came_back()
        return self._foreign.tokens(now)

    def next_free(self, now: float, *, beside: int = 0) -> float | None:
        """Return the moment from which a request may be sent, or None if that depends on an answer.

        Args:
            now: a moment of the clock.
            beside: how many more tokens must be free then.
        """
        if self.free(now) > beside:
            return now
        # Count the tokens that must come back first; those in flight have no moment yet.
        count = self._theirs(now)
        needed = self._sent + len(self._own) + count - self.limit + beside
        theirs = repeat(self._foreign.until, count)
        moment = next(islice(merge(self._own, theirs), needed, None), None)
        if self._renews_at is None or self._sent >= self.limit:
            return moment
        return self._renews_at if moment is None else min(moment, self._renews_at)

    def coming(self, now: float, parts: int) -> list[int]:
        """Return how many tokens come back in each of `parts` equal parts of the next period."""
        counts = [0] * parts
        for moment in chain(self._own, repeat(self._foreign.until, self._theirs(now))):
            counts[max(0, min(parts - 1, int((moment - now) / self._period * parts)))] += 1
        # Requests in flight have no moment yet; theirs is about a whole period away.
        counts[-1] += self._sent
        return counts

    def back_at(self, now: float) -> list[float]:
        """Return when each of our tokens comes back, in ascending order; at the earliest, if in flight."""
        return [*self._own, *repeat(now + self._period, self._sent)]

    def sent_elsewhere(self, at: float) -> None:
        """Take a token for a request that was sent at a moment of the past, and answered at once."""
        insort(self._own, at + self._period)

    def spend(self) -> int:
        """Take a token for a request that is sent now, and return its number."""
        self._sent += 1
        self._spent += 1
        return self._spent

    def answered(self, now: float) -> None:
        """Record that a request was answered or is lost: its token comes back a period from now."""
        self._sent -= 1
        last = self._own[-1] if self._own else now
        self._own.append(max(last, now + self._period))

    def unsent(self) -> None:
        """Return a token at once: its request never left this machine."""
        self._sent -= 1
        if self._spent == self._renewed_at + 1:
            self._spent -= 1

    @property
    def in_flight(self) -> int:
        """How many requests are sent and not yet answered."""
        return self._sent

    def lower(self, remaining: int, now: float) -> bool:
        """Accept that fewer requests are left than we counted: somebody else uses the key.

        We do not know when the others sent theirs, and more are likely: their tokens stay reserved for a
        whole period after the last sign of them. A higher number than ours is ignored here.

        Returns:
            Whether the number was lower than ours.
        """
        excess = self.free(now) - max(0, remaining)
        if excess <= 0:
            if self._foreign and -excess * 2 <= self._theirs(now):
                # Most of their tokens are still taken.
                self._foreign.confirm(now)
            return False
        self._foreign.saw(self._theirs(now) + excess, now, of_ours=self._sent)
        return True

    def left(self, remaining: int, now: float, number: int | None = None) -> None:
        """Accept that more requests are left than we counted.

        That counts once per reset, and only from a request sent after it: the window is a new one then.
        Requests that the service may not have counted yet are subtracted.

        Args:
            remaining: what an answer says.
            now: the moment.
            number: of its request; None means the last one.
        """
        number = self._spent if number is None else number
        if number <= self._renewed_at:
            return
        others = self._out + max(0, self._spent - self._renewed_at - 1)
        self._renewed_at = math.inf
        if remaining:
            self._asked_at = -math.inf
        self._widen(now, min(remaining, self.limit) - int(others))

    def unsaid(self, now: float, number: int) -> None:
        """Record an accepted request whose answer names no `remaining`: after a reset one more may be sent.

        Args:
            now: the moment.
            number: of the request.
        """
        if number > self._renewed_at:
            self._renewed_at, self._out = self._spent, self._sent
            self._widen(now, 1)

    def renews(self, at: float, now: float, number: int | None = None) -> None:
        """Record a reset that the service reported: one more request may be sent from then on.

        Args:
            at: the moment of the reset.
            now: the moment.
            number: of the request whose answer says so; None means the last one.
        """
        self.free(now)
        if number is None or number > self._back_at:
            self._renews_at = at
