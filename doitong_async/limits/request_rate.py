"""Decides whether a submit or a poll may be sent now, and when the next one may."""

from __future__ import annotations

from typing import Final

from doitong_async.limits.circuit import CreditCircuit
from doitong_async.limits.concurrency import ConcurrencyBackoff
from doitong_async.limits.foreign import Probing
from doitong_async.limits.headers import Limit, RateLimitHeaders
from doitong_async.limits.permits import Priority
from doitong_async.limits.window import PERIOD, Window

OVERDUE_AFTER: Final = 4.0
"""Seconds that a poll waits behind submits before it goes first: our choice, two documented ticks."""
_DEFAULT_PAUSE: Final = 2.0
"""Seconds to pause after a 429 that does not say how long."""
_ROUNDING: Final = 2.0
"""Seconds by which a reset may come later than stated: it is rounded, and clocks differ a little."""
_MOST_KEPT: Final = 30
"""Requests a minute that we reserve for polls at most: as many as the documented loop of one job takes."""


class RequestRate:
    """Decide for one key when a submit or a poll may be sent; moments are seconds of the loop's clock.

    Submits go before polls, but every other time a poll that waited too long goes first; and submits leave a
    few requests to polls (`kept`, see `kept_for_polls`).

    Args:
        limit: requests in any minute.
        now: the moment.
    """

    __slots__ = (
        *("_concurrency", "_paused_until", "_poll_went_first", "_polls_from", "_probing", "_window"),
        "circuit",
    )

    def __init__(self, limit: int, now: float) -> None:
        self._window = Window(limit)
        self._concurrency = ConcurrencyBackoff(now)
        self._probing = Probing(now)
        self.circuit: CreditCircuit = CreditCircuit()
        """Whether the account has credits."""
        self._paused_until = now
        self._polls_from = now
        """From when the service accepts polls again, by its retry-after."""
        self._poll_went_first = False

    @property
    def limit(self) -> int:
        """How many requests may be sent in any minute."""
        return self._window.limit

    @limit.setter
    def limit(self, limit: int) -> None:
        self._window.limit = limit

    @property
    def in_flight(self) -> int:
        """How many requests that count are not answered yet."""
        return self._window.in_flight

    @property
    def submits_in_flight(self) -> int:
        """How many submits are not answered yet."""
        return self._concurrency.submits_in_flight

    def free(self, now: float) -> int:
        """Return how many requests the window allows."""
        return self._window.free(now)

    def coming(self, now: float, parts: int) -> list[int]:
        """Return how many requests come back in each of `parts` equal parts of the next minute."""
        return self._window.coming(now, parts)

    def back_at(self, now: float) -> list[float]:
        """Return when the requests that count come back; for those in flight, the earliest moment."""
        return self._window.back_at(now)

    def sent_elsewhere(self, at: float) -> None:
        """Count a request that was sent without a permit of ours."""
        self._window.sent_elsewhere(at)

    def is_fresh(self, now: float) -> bool:
        """Whether nothing is known that a new one would not know."""
        held_until = max(self._concurrency.held_until, self._probing.contested_until)
        is_quiet = now >= max(self._paused_until, self._polls_from, held_until)
        return is_quiet and self.circuit.is_fresh(now) and self._window.free(now) == self._window.limit

    def kept_for_polls(self, *, concurrent_jobs: int, slots_taken: int) -> int:
        """Return how many requests submits leave for polls, where a burst could use up a whole minute."""
        limit = self._window.limit
        is_wide = concurrent_jobs * 2 >= limit > 1
        return max(1, min(limit // 10, _MOST_KEPT)) if is_wide and slots_taken > 1 else 0

    def paused_until(self, priority: Priority) -> float:
        """Return until when the service asked us to send no request of this priority."""
        is_poll = priority is Priority.POLL
        return max(self._paused_until, self._polls_from) if is_poll else self._paused_until

    def held_until(self, priority: Priority) -> float:
        """Return until when the service asked us to wait, with requests or with further jobs."""
        until = self.paused_until(priority)
        return max(until, self._concurrency.held_until) if priority is Priority.SUBMIT else until

    def is_held(self, now: float, priority: Priority) -> bool:
        """Whether the service asked to wait, and not only the window."""
        return now < self.held_until(priority)

    def may_send(self, now: float, priority: Priority, *, kept: int) -> bool:
        """Whether a request may be sent now."""
        probes_from = self._probing.next_moment(now, in_flight=self.in_flight)
        if now < max(self.paused_until(priority), probes_from):
            return False
        free = self._window.free(now)
        if priority is Priority.POLL:
            return free > 0
        if self.circuit.is_probing():
            return False
        # The first answer after a reset says how many more may go; a submit must not wait for a poll to ask.
        return not self._concurrency.blocks(now) and free > (0 if self._window.is_renewed else kept)

    def next(
        self, now: float, *, poll_waits_since: float | None, submit_waits: bool, kept: int
    ) -> Priority | None:
        """Return who may send a request now, of those that wait, or None.

        Args:
            now: the moment.
            poll_waits_since: when the first poll in the queue joined it; None if none waits.
            submit_waits: whether a submit waits.
            kept: requests that submits leave for polls.
        """
        may_submit = submit_waits and self.may_send(now, Priority.SUBMIT, kept=kept)
        if poll_waits_since is not None and self.may_send(now, Priority.POLL, kept=kept):
            is_overdue = poll_waits_since + OVERDUE_AFTER <= now and not self._poll_went_first
            if is_overdue or not may_submit:
                self._poll_went_first = may_submit
                return Priority.POLL
        self._poll_went_first = False
        return Priority.SUBMIT if may_submit else None

    def next_moment(self, now: float, priority: Priority, *, kept: int) -> float | None:
        """Return the next moment at which one that waits may be sent, or None if that depends on an answer.

        What may be sent now was sent, so that it, too, depends on an answer.
        """
        is_submit = priority is Priority.SUBMIT
        free = self._window.next_free(now, beside=kept if is_submit else 0)
        if free is None:
            return None
        other = self._concurrency.held_until if is_submit else self._polls_from
        moment = self._probing.next_moment(max(free, other), in_flight=self.in_flight)
        moment = max(moment, self._paused_until)
        return moment if moment > now else None

    def send(self, now: float, priority: Priority) -> int:
        """Take a token for a request that is sent now, and return its number."""
        self._probing.sent(now)
        number = self._window.spend()
        if priority is Priority.SUBMIT:
            self._concurrency.submit_sent(now)
            self.circuit.sends(number, now)
        return number

    def send_again(self, *, is_submit: bool) -> None:
        """Take a token for a request in flight that was forgotten."""
        self._window.spend()
        if is_submit:
            self._concurrency.submits_in_flight += 1

    def over(self, now: float, *, was_sent: bool, is_submit: bool, number: int | None) -> None:
        """Record that a request was answered or is lost, or that it never left this machine."""
        if is_submit:
            self._concurrency.submit_is_over()
            self.circuit.over(number)
        if was_sent:
            self._window.answered(now)
        else:
            self._window.unsent()

    def accepted(self, now: float, *, sent_at: float) -> None:
        """Record that a submit was accepted, which ends a series of holds."""
        self._concurrency.accepted(now)
        self.circuit.accepted(sent_at=sent_at)

    def job_ended(self) -> None:
        """Let one more submit go while submits are held."""
        self._concurrency.job_ended()

    def observe(
        self, rate_limit: RateLimitHeaders, now: float, number: int | None, *, was_accepted: bool
    ) -> None:
        """Take in the rate-limit headers of an answer.

        They may leave less than we count, if others use the key too; more counts only after a reset.

        Args:
            rate_limit: the headers.
            now: the moment.
            number: of its request; None if that does not count, so that its answer may be older than what we
                know.
            was_accepted: whether the request succeeded, which shows that there was room.
        """
        window = self._window
        if rate_limit.remaining is None:
            if was_accepted and number is not None:
                window.unsaid(now, number)
            return
        if window.lower(rate_limit.remaining, now):
            self._probing.contest(now + PERIOD)
        if number is None:
            return
        # Workers that share a plan also share what is left.
        share = window.limit / max(window.limit, rate_limit.limit or 0)
        window.left(int(rate_limit.remaining * share), now, number)
        if rate_limit.renews_in is not None:
            window.renews(now + rate_limit.renews_in + _ROUNDING, now, number)

    def rejected(
        self, limit: Limit, rate_limit: RateLimitHeaders, wait: float | None, now: float, jitter: float
    ) -> None:
        """Wait after a 429 about concurrent jobs, or else about requests.

        Args:
            limit: that the 429 is about.
            rate_limit: its headers.
            wait: seconds that the service asks for; None if it does not say.
            now: the moment.
            jitter: seconds to wait longer, so that not all come back at once.
        """
        if limit is Limit.SLOT:
            self._concurrency.rejected(now, wait, jitter)
            return
        self._paused_until = max(self._paused_until, now + (wait or _DEFAULT_PAUSE) + jitter)
        self._probing.contest(now + PERIOD)
        if wait and rate_limit.remaining == 0 and rate_limit.renews_in is None:
            # A retry-after without a reset states the reset, too.
            self._window.renews(now + wait, now)

    def delay_polls(self, until: float) -> None:
        """Send no poll before that moment."""
        self._polls_from = max(self._polls_from, until)
