"""Reads answers about limits: which limit a 429 means, how long to wait, what is left."""

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
"""Seconds: a longer reset of the minute window is not credible."""
DAY_WAIT: Final = 86_400.0
"""Seconds: the longest reset or retry-after that is credible."""
RETRY_WAIT: Final = 600.0
"""Seconds: the longest retry-after we obey, except for the daily limit: our choice, like `timeout`."""
UNBELIEVED_WAIT: Final = 60.0
"""Seconds to wait for the minute limit when the stated wait is not credible: the whole window."""
_DAY_FROM: Final = 3_600.0
"""Seconds: a longer wait cannot be for the minute window, so it means the daily limit."""
_LATE: Final = 5.0
"""Seconds: a reset further in the past comes from a wrong clock; rounding and latency explain less."""

# Seconds since 1970 exceed the first; milliseconds, microseconds and nanoseconds exceed the others.
_EPOCH_SECONDS: Final = 1e9
_FINER_UNITS: Final = (
    (1e17, 1e9, "epoch nanoseconds"),
    (1e14, 1e6, "epoch microseconds"),
    (1e11, 1e3, "epoch milliseconds"),
)


class Limit(StrEnum):
    """The limit of the plan that a 429 is about."""

    MINUTE = "minute"
    SLOT = "slot"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """What one answer says: requests per window, requests left, seconds to the reset, seconds to wait.

    `reset_is_past` says that the reset is so far in the past that a clock must be wrong.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_in: float | None = None
    retry_after: float | None = None
    reset_is_past: bool = False

    @property
    def renews_in(self) -> float | None:
        """Return the seconds until the window has room again, or None if that is not credible."""
        if self.reset_in is None or self.reset_is_past or self.reset_in > MINUTE_WAIT:
            return None
        return self.reset_in

    @property
    def retry_in(self) -> float | None:
        """Return the seconds until the next attempt, at most `RETRY_WAIT`, or None if unknown."""
        return None if self.retry_after is None else min(self.retry_after, RETRY_WAIT)


def read_headers(headers: Mapping[str, str], wall: float) -> RateLimitHeaders:
    """Read the rate-limit headers of an answer; nothing else in the package does.

    Args:
        headers: with lower-case names.
        wall: epoch seconds here; the answer's own `Date`, if any, takes precedence.
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
    """Return which limit a 429 is about: by code and message, then by headers, then by our own counters.

    Args:
        code: of the answer.
        message: of the answer.
        rate_limit: the headers of the answer.
        jobs_in_flight: whether other jobs of ours are running.
        may_be_day: whether a wait of hours is enough to mean the daily limit.
    """
    text = f"{code or ''} {message}".lower()
    named = [limit for limit, phrases in _PHRASES if any(phrase in text for phrase in phrases)]
    is_minute = (
        rate_limit.remaining == 0 and rate_limit.reset_in is not None and rate_limit.reset_in <= MINUTE_WAIT
    )
    if named and not (len(named) > 1 and is_minute):
        return named[0]
    if named:
        # The message lists all limits, so the headers decide.
        return Limit.MINUTE
    wait = rate_limit.retry_after or rate_limit.reset_in or 0.0
    if wait > _DAY_FROM:
        return Limit.DAY if may_be_day else Limit.MINUTE
    # Requests are left, so the minute limit is not the cause.
    return Limit.SLOT if (rate_limit.remaining or 0) > 0 and jobs_in_flight else Limit.MINUTE


# Narrower phrases first: "rate limit exceeded: too many concurrent jobs" is about the jobs.
_PHRASES: Final = (
    (Limit.SLOT, ("concurren", "simultaneous", "parallel", "at once", "in flight")),
    (Limit.DAY, ("daily", "per day", "per_day", "today")),
    (Limit.MINUTE, ("minute", "rpm")),
)


def requested_wait(rate_limit: RateLimitHeaders, *, limit: Limit) -> float | None:
    """Return the seconds that the service asks us to wait, capped to what is credible, or None."""
    if limit is Limit.DAY:
        # The documented reset belongs to the minute window; only one that is too far off for it is the day's.
        reset = rate_limit.reset_in if (rate_limit.reset_in or 0.0) > MINUTE_WAIT else None
        wait = reset if rate_limit.retry_after is None else rate_limit.retry_after
        return None if wait is None else min(wait, DAY_WAIT)
    if limit is Limit.SLOT:
        return rate_limit.retry_in
    if rate_limit.retry_after is not None:
        return rate_limit.retry_after if rate_limit.retry_after <= RETRY_WAIT else UNBELIEVED_WAIT
    if rate_limit.reset_in is None:
        return None
    return UNBELIEVED_WAIT if rate_limit.renews_in is None else rate_limit.renews_in


def reset_spelling(headers: Mapping[str, str]) -> str | None:
    """Return how the reset is spelled, such as "epoch seconds"; None if it is missing or cannot be read.

    Args:
        headers: with lower-case names.
    """
    read = _read_moment(headers.get("x-ratelimit-reset") or "")
    return None if read is None else read[1]


def clock_ahead(headers: Mapping[str, str], wall: float) -> float | None:
    """Return the seconds by which this clock is ahead of the answer's `Date`; None without one.

    Args:
        headers: with lower-case names.
        wall: epoch seconds here when the service answered.
    """
    served = _http_date(headers.get("date"))
    # A `Date` has whole seconds, cut off.
    return None if served is None else wall - (served + 0.5)


def _seconds_until(text: str | None, clocks: Sequence[float], near: float = MINUTE_WAIT) -> float | None:
    """Parse a number of seconds, or a moment; return the seconds from now, negative if it is past.

    A moment is read by the first clock that makes it near, else by the first clock: either may be wrong.
    """
    read = _read_moment(text or "")
    if read is None:
        return None
    moment, spelling = read
    if spelling == _FROM_NOW:
        return moment
    waits = [moment - now for now in clocks]
    return next((wait for wait in waits if -_LATE <= wait <= near), waits[0])


_FROM_NOW: Final = "seconds from now"


def _read_moment(text: str) -> tuple[float, str] | None:
    """Return seconds from now or a moment in epoch seconds, and how it is spelled; None if it is neither."""
    try:
        number = float(text)
    except ValueError:
        moment, spelling = _iso(text), "ISO 8601"
        if moment is None:
            moment, spelling = _http_date(text), "an HTTP date"
        return None if moment is None else (moment, spelling)
    if not math.isfinite(number) or number < 0:
        return None
    if number <= _EPOCH_SECONDS:
        return number, _FROM_NOW
    finer = ((per_second, unit) for above, per_second, unit in _FINER_UNITS if number > above)
    per_second, unit = next(finer, (1.0, "epoch seconds"))
    return number / per_second, unit


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
    """Return epoch seconds; a moment without a zone (as after "-0000") is UTC, not the local zone."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _count(text: str | None) -> int | None:
    """Read a count; gateways append a window, as in "60;w=60" or "60, 60;w=60"."""
    match = re.match(r"\s*([0-9]{1,9})(\.0+)?\s*($|[,;])", text or "")
    return int(match[1]) if match else None
