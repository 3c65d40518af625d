"""What the service says of its limits, in headers, codes and words; little of it is documented."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Final

MINUTE_WAIT: Final = 90.0
"""Seconds: a longer reset of a minute's window is not believed."""
DAY_WAIT: Final = 86_400.0
"""Seconds: no reset or retry is believed to be further away."""

# A number of seconds since 1970 is above the one, a number of milliseconds above the other.
_EPOCH_SECONDS: Final = 1e9
_EPOCH_MILLISECONDS: Final = 1e11


class Limit(StrEnum):
    """Which limit of the plan a 429 means."""

    MINUTE = "minute"
    SLOT = "slot"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Word:
    """What one answer says: requests per window, those left, seconds to the reset, seconds to wait."""

    limit: int | None = None
    remaining: int | None = None
    reset_in: float | None = None
    retry_after: float | None = None


def read_word(headers: Mapping[str, str], wall: float) -> Word:
    """Read the headers of an answer.

    Args:
        headers: with lower-case names.
        wall: epoch seconds here; the answer's own `Date` is believed instead if it has one.
    """
    served = _http_date(headers.get("date"))
    now = wall if served is None else served
    return Word(
        limit=limit_of(headers),
        remaining=remaining_of(headers),
        reset_in=_seconds_until(headers.get("x-ratelimit-reset"), now),
        retry_after=_seconds_until(headers.get("retry-after"), now),
    )


def remaining_of(headers: Mapping[str, str]) -> int | None:
    """Return how many requests are left in the window, if the answer says so."""
    return _count(headers.get("x-ratelimit-remaining"))


def limit_of(headers: Mapping[str, str]) -> int | None:
    """Return how many requests the window holds, if the answer says so."""
    return _count(headers.get("x-ratelimit-limit"))


def which_limit(code: str | None, message: str, word: Word, *, jobs_in_flight: bool) -> Limit:
    """Return which limit a 429 means: by code and words, then by headers, then by our own counters."""
    said = f"{code or ''} {message}".lower()
    named = [limit for limit, words in _WORDS if any(each in said for each in words)]
    is_minute = word.remaining == 0 and word.reset_in is not None and word.reset_in <= MINUTE_WAIT
    if named and not (len(named) > 1 and is_minute):
        return named[0]
    if named:
        # A text that lists all limits: the headers say which of them it is.
        return Limit.MINUTE
    wait = word.retry_after or word.reset_in or 0.0
    if wait > 3600:
        return Limit.DAY
    # Requests are left, so it is not the minute that is used up.
    return Limit.SLOT if (word.remaining or 0) > 0 and jobs_in_flight else Limit.MINUTE


# The narrower words first: "rate limit exceeded: too many concurrent jobs" is about the jobs.
_WORDS: Final = (
    (Limit.SLOT, ("concurren", "simultaneous", "parallel", "at once", "in flight")),
    (Limit.DAY, ("daily", "per day", "per_day", "today")),
    (Limit.MINUTE, ("minute", "rpm")),
)


def wait_told(word: Word, *, limit: Limit) -> float | None:
    """Return the seconds to wait that the service told, within reason, or None if it told none."""
    if word.retry_after is not None:
        return min(word.retry_after, MINUTE_WAIT if limit is Limit.MINUTE else DAY_WAIT)
    if word.reset_in is None:
        return None
    if limit is Limit.MINUTE:
        return min(word.reset_in, MINUTE_WAIT)
    # The reset is documented for the window of requests; only one that is too far for that is the day's.
    return min(word.reset_in, DAY_WAIT) if limit is Limit.DAY and word.reset_in > MINUTE_WAIT else None


def _seconds_until(text: str | None, now: float) -> float | None:
    """Read epoch seconds, epoch milliseconds, seconds from now, ISO 8601 or an HTTP date."""
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        moment = _iso(text) or _http_date(text)
        return None if moment is None else max(0.0, moment - now)
    if not math.isfinite(number) or number < 0:
        return None
    if number > _EPOCH_MILLISECONDS:
        number /= 1000
    return max(0.0, number - now) if number > _EPOCH_SECONDS else number


def _iso(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _http_date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _count(text: str | None) -> int | None:
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdecimal() and len(stripped) < 10 else None
