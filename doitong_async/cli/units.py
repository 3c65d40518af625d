"""Writes durations, credits and counts for people."""

from __future__ import annotations

from typing import Final

from doitong_async.batch.item import ItemRecord, Outcome

RUNNING: Final = "running"
"""Stands for an outcome while an item has none."""
LEFT: Final = "left"
"""What was not submitted: a run, the status and the gallery use this one word for it."""


def outcome_of(record: ItemRecord) -> str:
    """Return how far an item is, in one word."""
    return LEFT if record.outcome is Outcome.SKIPPED else str(record.outcome or RUNNING)


def span(seconds: float) -> str:
    """Return a duration in at most two units, such as "2 h 10 min"."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 10:
        whole, rest = divmod(round(seconds), 60)
        return f"{whole} min {rest} s" if rest else f"{whole} min"
    if minutes < 59.5:
        return f"{minutes:.0f} min"
    hours, rest = divmod(round(minutes), 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def credits_of(amount: float) -> str:
    """Return credits with no more decimals than needed."""
    return f"{amount:,.2f}".rstrip("0").rstrip(".")


def credit_words(amount: float) -> str:
    """Return credits with their noun."""
    number = credits_of(amount)
    return f"{number} credit" if number == "1" else f"{number} credits"


def some(count: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def short_span(seconds: float) -> str:
    """Return a duration like `span`, but with a decimal if it is short, as those of single jobs are."""
    return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s" if seconds < 599.5 else span(seconds)
