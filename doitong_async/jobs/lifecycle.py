"""Merges two snapshots of a job; a final status stays, whatever comes after it.

waiting ──▶ completed     terminal: nothing changes it any more, except that a poll may renew its URL
   │  ╲
   │   ╲──▶ failed, …     terminal
   └──▶ unknown status    waits, like any status that is not terminal
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from pydantic import JsonValue

from doitong_async.types import Generation, bare_word


def merge(last: Generation, update: Generation, *, is_asked: bool = False) -> Generation:
    """Return what is known of a job after an update; `last` itself if the update changes nothing.

    A terminal status stays. A known value, such as the cost, is kept if a later answer leaves it out.

    Args:
        last: what is known.
        update: what arrived.
        is_asked: whether it answers a poll, which is authenticated, of a job that had ended.
    """
    status = last.status if last.status.is_terminal else update.status
    # A finished job keeps its first URL: a late update must not swap the output. But URLs expire, and an
    # authenticated poll may renew one.
    is_renewed = is_asked and last.status.is_success and update.status.is_success
    is_kept = last.status.is_terminal and not is_renewed
    known = {
        "status": status,
        "url": last.url or update.url if is_kept else update.url or last.url,
        "type": last.type or update.type,
        "provider": last.provider or update.provider,
        "metadata": last.metadata if update.metadata is None else update.metadata,
        "credit_cost": last.credit_cost if update.credit_cost is None else update.credit_cost,
        "created_at": last.created_at or update.created_at,
        "extra": _merged(last.extra, update.extra),
    }
    changes: Any = {name: value for name, value in known.items() if value != getattr(last, name)}
    # Most polls change nothing; a new snapshot would cost as much as reading the answer.
    return dataclasses.replace(last, **changes) if changes else last


def _merged(last: dict[str, JsonValue], update: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return all fields of both; a null says nothing about a field that is known."""
    if not update:
        return last
    return last | {name: value for name, value in update.items() if value is not None or name not in last}


def is_settled(job: Generation) -> bool:
    """Whether there is nothing left to wait for.

    A completed job without a URL is polled again: the reference says that `url` is null *until* completed,
    and an output that nobody can fetch was paid for in vain.
    """
    return job.status.is_failure or (job.status.is_success and job.url is not None)


def reason_of(job: Generation) -> str | None:
    """Return what the service says about a failed job, wherever it put it; None if it says nothing."""
    metadata = job.metadata
    for place in (job.extra, metadata if isinstance(metadata, dict) else {}):
        if reasons := _reasons(place):
            return reasons
    return None if metadata is None else str(metadata)


_REASONS: Final = frozenset(
    {
        *("reason", "failurereason", "statusreason", "message", "errormessage", "failuremessage"),
        *("statusmessage", "error", "errors", "failure", "cause", "detail", "details"),
    }
)
"""Names of fields that say why a job failed, as `bare_word` returns them: usual ones, none is documented."""


def _reasons(place: dict[str, JsonValue]) -> str:
    return "; ".join(text for name in place if bare_word(name) in _REASONS and (text := _text(place[name])))


def _text(value: JsonValue) -> str:
    """Return the text in a field; of an object or a list, the texts that it holds under such names."""
    if isinstance(value, dict):
        return _reasons(value) or str(value)
    if isinstance(value, list):
        return "; ".join(filter(None, map(_text, value)))
    return "" if value is None else str(value)


def leaves_open(update: Generation) -> bool:
    """Whether an update says that a job is completed but not where its output is: a poll has to decide."""
    return update.status.is_success and update.url is None
