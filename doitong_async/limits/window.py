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

    The service may tell that its own window is shorter, or ends earlier: at a reset that it told one token is
    back, unless one came back by itself meanwhile, and what is left after a request that was sent since then
    says how many more.

    Moments are seconds of one clock that does not run backwards. A moment of return is kept as it is and
    waited for, never as a remaining time: rounding that just under its end would wait for ever.
    """

    __slots__ = (
        "_asked_at",
        "_back_at",
        "_foreign",
        "_foreign_at_first",
        "_foreign_heard",
        "_foreign_since",
        "_foreign_until",
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
        self._spent = 0
        """How many tokens were ever spent: the number of the last request."""
        self._renews_at: float | None = None
        """The reset that the service told, if no token came back since it did."""
        self._asked_at = -math.inf
        """When a reset last let a request go while somebody else's took places, and nothing was left then."""
        self._back_at = 0
        """The number of the last request before something came back last."""
        self._renewed_at = math.inf
        """The number of the last request before the last reset that came, until one after it is answered."""
        self._out = 0
        """How many requests were out when that reset came."""

    def free(self, now: float) -> int:
        """Return how many requests may be sent at this moment."""
        return max(0, self._room(now))

    @property
    def is_renewed(self) -> bool:
        """Whether a reset came, and nothing was sent since: the next answer tells what is left."""
        return self._spent == self._renewed_at

    def _room(self, now: float) -> int:
        """Let come back what comes back by now, and return what is free; below zero if too much is out."""
        while self._own and self._own[0] <= now:
            self._own.popleft()
            self._came_back()
        theirs = self._theirs(now)
        room = self.limit - self._sent - len(self._own) - theirs
        if self._renews_at is None or now < self._renews_at:
            return room
        if room < 1 and theirs:
            # A place that comes back is as likely theirs, and taken again: who found none asks once a period.
            if now < self._asked_at + self._period:
                self._came_back()
                return room
            self._asked_at = now
        self._came_back()
        self._renewed_at, self._out = self._spent, self._sent
        return self._widen(now, 1)

    def _came_back(self) -> None:
        """Note that something came back: it is what was told of before, or will be by who was out then."""
        self._renews_at, self._back_at = None, self._spent

    def _widen(self, now: float, room: int) -> int:
        """Let tokens come back before their time, until so many are free, and return how many are."""
        while (free := self.limit - self._sent - len(self._own) - self._theirs(now)) < room:
            if self._own:
                self._own.popleft()
            elif self._foreign:
                # How fast theirs come stays what it was.
                self._foreign, self._foreign_heard = self._theirs(now) - 1, now
                self._foreign_at_first -= 1
            else:
                break
        return free

    def _theirs(self, now: float) -> int:
        """Return how many places somebody else's requests take, if they go on as they did."""
        # The moment of their return is kept, not the time since: rounding that would promise it too early.
        if self._foreign and now >= self._foreign_until:
            self._foreign = 0
            self._came_back()
        grown = self._foreign - self._foreign_at_first
        if grown <= 0 or not self._foreign:
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
        moment = next(islice(merge(self._own, theirs), needed, None), None)
        if self._renews_at is None or self._sent >= self.limit:
            return moment
        return self._renews_at if moment is None else min(moment, self._renews_at)

    def coming(self, now: float, parts: int) -> list[int]:
        """Return how many tokens come back in each of so many equal parts of the next period."""
        counts = [0] * parts
        for moment in chain(self._own, repeat(self._foreign_until, self._theirs(now))):
            counts[max(0, min(parts - 1, int((moment - now) / self._period * parts)))] += 1
        # Those in flight have no moment yet; they are not far from a whole period away.
        counts[-1] += self._sent
        return counts

    def spend(self) -> int:
        """Take a token: a request is sent now. Return its number."""
        self._sent += 1
        self._spent += 1
        return self._spent

    def answered(self, now: float) -> None:
        """Note that a request was answered, or is known to be lost: its token is back a period from now."""
        self._sent -= 1
        last = self._own[-1] if self._own else now
        self._own.append(max(last, now + self._period))

    def unsent(self) -> None:
        """Give a token back at once: its request never left this machine."""
        self._sent -= 1
        if self._spent == self._renewed_at + 1:
            self._spent -= 1

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
            if self._foreign and -excess * 2 <= self._theirs(now):
                # Most of what they take is still taken.
                self._foreign_until = now + self._period
            return False
        theirs = self._theirs(now) + excess
        if not self._foreign:
            # Of what was there before nobody knows how fast it came.
            # Of our own requests in flight the server may have counted none yet: later answers tell of those.
            self._foreign_since, self._foreign_at_first = now, theirs + self._sent
        self._foreign, self._foreign_heard, self._foreign_until = theirs, now, now + self._period
        return True

    def left(self, remaining: int, now: float, number: int | None = None) -> None:
        """Take in how many requests the service has left, where that is more than we thought.

        It is believed once after a reset, of a request that was sent since: the window is another one then.
        Those that the service may not have counted by then are taken off.

        Args:
            remaining: what an answer says.
            now: the moment.
            number: of its request, None for the last one.
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
        """Note an accepted request whose answer does not say what is left: after a reset one more may go.

        Args:
            now: the moment.
            number: of the request.
        """
        if number > self._renewed_at:
            self._renewed_at, self._out = self._spent, self._sent
            self._widen(now, 1)

    def renews(self, at: float, now: float, number: int | None = None) -> None:
        """Note the reset that the service told: one more request may be sent from then on.

        Args:
            at: the moment of the reset.
            now: the moment.
            number: of the request whose answer says so, None for the last one.
        """
        self.free(now)
        if number is None or number > self._back_at:
            self._renews_at = at
