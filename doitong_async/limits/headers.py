"""What the service says of its limits, in headers, codes and words; little of it is documented."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

MINUTE_WAIT: Final = 90.0
"""Seconds: a longer reset of a minute's window is not believed."""
DAY_WAIT: Final = 86_400.0
"""Seconds: no reset or retry is believed to be further away."""
RETRY_WAIT: Final = 600.0
"""Seconds: a retry-after is obeyed so long at most, but for the day's: our choice, as `timeout` is."""
UNBELIEVED_WAIT: Final = 60.0
"""Seconds to wait for the minute's limit where what is told cannot be: the window's whole length."""
_DAY_FROM: Final = 3_600.0
"""Seconds: who has to wait longer has used up more than a minute's window, if the moment can be believed."""
_LATE: Final = 5.0
"""Seconds: a reset that is longer past is of a wrong clock; rounding and the way of an answer take less."""

# A number of seconds since 1970 is above the first; milliseconds, microseconds, nanoseconds above the next.
_EPOCH_SECONDS: Final = 1e9
_FINER_UNITS: Final = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))


class Limit(StrEnum):
    """Which limit of the plan a 429 means."""

    MINUTE = "minute"
    SLOT = "slot"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """What one answer says: requests per window, those left, seconds to the reset, seconds to wait.

    `reset_is_past` is whether the reset is so long over that it must be of a wrong clock.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_in: float | None = None
    retry_after: float | None = None
    reset_is_past: bool = False

    @property
    def renews_in(self) -> float | None:
        """Return the seconds until the window has room again, if that can be believed of a minute's."""
        if self.reset_in is None or self.reset_is_past or self.reset_in > MINUTE_WAIT:
            return None
        return self.reset_in

    @property
    def retry_in(self) -> float | None:
        """Return the seconds until the next attempt may be made, within reason; None: it tells none."""
        return None if self.retry_after is None else min(self.retry_after, RETRY_WAIT)


def read_headers(headers: Mapping[str, str], wall: float) -> RateLimitHeaders:
    """Read the headers of an answer: the one place that does.

    Args:
        headers: with lower-case names.
        wall: epoch seconds here; the answer's own `Date` is believed first if it has one.
    """
    served = _http_date(headers.get("date"))
    clocks = (wall,) if served is None else (served, wall)
    reset = _seconds_until(headers.get("x-ratelimit-reset"), clocks)
    retry = _seconds_until(headers.get("retry-after"), clocks, RETRY_WAIT)
    return RateLimitHeaders(
        limit=_count(headers.get("x-ratelimit-limit")),
        remaining=_count(headers.get("x-ratelimit-remaining")),
        reset_in=None if reset is None else max(0.0, reset),
        retry_after=None if retry is None else max(0.0, retry),
        reset_is_past=reset is not None and reset < -_LATE,
    )


def which_limit(
    code: str | None,
    message: str,
    rate_limit: RateLimitHeaders,
    *,
    jobs_in_flight: bool,
    may_be_day: bool = True,
) -> Limit:
    """Return which limit a 429 means: by code and words, then by headers, then by our own counters.

    Args:
        code: of the answer.
        message: of the answer.
        word: its headers.
        jobs_in_flight: whether jobs of ours run beside the one that was refused.
        may_be_day: whether a wait of hours is enough to call it the day's.
    """
    said = f"{code or ''} {message}".lower()
    named = [limit for limit, words in _WORDS if any(each in said for each in words)]
    is_minute = (
        rate_limit.remaining == 0 and rate_limit.reset_in is not None and rate_limit.reset_in <= MINUTE_WAIT
    )
    if named and not (len(named) > 1 and is_minute):
        return named[0]
    if named:
        # A text that lists all limits: the headers say which of them it is.
        return Limit.MINUTE
    wait = rate_limit.retry_after or rate_limit.reset_in or 0.0
    if wait > _DAY_FROM:
        return Limit.DAY if may_be_day else Limit.MINUTE
    # Requests are left, so it is not the minute that is used up.
    return Limit.SLOT if (rate_limit.remaining or 0) > 0 and jobs_in_flight else Limit.MINUTE


# The narrower words first: "rate limit exceeded: too many concurrent jobs" is about the jobs.
_WORDS: Final = (
    (Limit.SLOT, ("concurren", "simultaneous", "parallel", "at once", "in flight")),
    (Limit.DAY, ("daily", "per day", "per_day", "today")),
    (Limit.MINUTE, ("minute", "rpm")),
)


def requested_wait(rate_limit: RateLimitHeaders, *, limit: Limit) -> float | None:
    """Return the seconds to wait that the service told, within reason, or None if it told none."""
    if limit is Limit.DAY:
        # The reset is documented for the window of requests; only one that is too far for that is the day's.
        reset = rate_limit.reset_in if (rate_limit.reset_in or 0.0) > MINUTE_WAIT else None
        told = reset if rate_limit.retry_after is None else rate_limit.retry_after
        return None if told is None else min(told, DAY_WAIT)
    if limit is Limit.SLOT:
        return rate_limit.retry_in
    if rate_limit.retry_after is not None:
        return rate_limit.retry_after if rate_limit.retry_after <= RETRY_WAIT else UNBELIEVED_WAIT
    if rate_limit.reset_in is None:
        return None
    return UNBELIEVED_WAIT if rate_limit.renews_in is None else rate_limit.renews_in


def _seconds_until(text: str | None, clocks: Sequence[float], near: float = MINUTE_WAIT) -> float | None:
    """Read seconds from now, or a moment by the first clock that makes it near, else by the first of all.

    A moment that is past gives less than zero. Of two clocks a gateway may have set one wrong.
    """
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        moment = _iso(text)
        moment = _http_date(text) if moment is None else moment
    else:
        if not math.isfinite(number) or number < 0:
            return None
        if number <= _EPOCH_SECONDS:
            return number
        moment = number / next((per_second for above, per_second in _FINER_UNITS if number > above), 1.0)
    if moment is None:
        return None
    waits = [moment - now for now in clocks]
    return next((wait for wait in waits if -_LATE <= wait <= near), waits[0])


def _iso(text: str) -> float | None:
    try:
        return _utc(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        return None


def _http_date(text: str | None) -> float | None:
    try:
        return _utc(parsedate_to_datetime(text)) if text else None
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def _utc(moment: datetime) -> float:
    """Return epoch seconds; without a zone, as after "-0000", it is UTC, and not the zone of this machine."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _count(text: str | None) -> int | None:
    """Read a count; gateways append a window, as in "60;w=60" or "60, 60;w=60"."""
    match = re.match(r"\s*([0-9]{1,9})(\.0+)?\s*($|[,;])", text or "")
    return int(match[1]) if match else None
