"""Merges two snapshots of a job; a final status stays, whatever comes after it.

waiting ──▶ completed     terminal: nothing changes it any more, except that a poll may renew its URL
   │  ╲
   │   ╲──▶ failed, …     terminal
   └──▶ unknown status    waits, like any status that is not terminal
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
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
    # What was said while the job ran is older than its end, even if it arrives later.
    is_late = last.status.is_terminal and not update.status.is_terminal
    older, newer = (update, last) if is_late else (last, update)
    known = {
        "status": status,
        "url": last.url or update.url if is_kept else update.url or last.url,
        "type": last.type or update.type,
        "provider": last.provider or update.provider,
        "metadata": older.metadata if newer.metadata is None else newer.metadata,
        "credit_cost": older.credit_cost if newer.credit_cost is None else newer.credit_cost,
        "created_at": last.created_at or update.created_at,
        "extra": _merged(older.extra, newer.extra),
    }
    changes: Any = {name: value for name, value in known.items() if not _is_same(value, getattr(last, name))}
    # Most polls change nothing; a new snapshot would cost as much as reading the answer.
    return dataclasses.replace(last, **changes) if changes else last


def _merged(older: dict[str, JsonValue], newer: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return all fields of both; a null says nothing about a field that is known."""
    if not newer:
        return older
    return older | {name: value for name, value in newer.items() if value is not None or name not in older}


def _is_same(one: object, other: object) -> bool:
    """Whether two values say the same; a NaN in them equals nothing, not even itself."""
    return one == other or repr(one) == repr(other)


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
    return str(metadata) if metadata else None


_REASONS: Final = frozenset(
    {
        *("reason", "failurereason", "statusreason", "message", "errormessage", "failuremessage"),
        *("statusmessage", "error", "errors", "failure", "cause", "detail", "details"),
    }
)
"""Names of fields that say why a job failed, as `bare_word` returns them: usual ones, none is documented."""


_DEEPEST: Final = 8
"""Objects and lists within each other in which a reason is looked for."""


def _reasons(place: dict[str, JsonValue], depth: int = _DEEPEST) -> str:
    return _joined(_text(value, depth) for name, value in place.items() if bare_word(name) in _REASONS)


def _text(value: JsonValue, depth: int) -> str:
    """Return the text in a field; of an object or a list, the texts that it holds under such names."""
    if not value or value is True or depth == 0:
        # That there is an error is known.
        return ""
    if isinstance(value, dict):
        return _reasons(value, depth - 1) or str(value)
    if isinstance(value, list):
        return _joined(_text(each, depth - 1) for each in value)
    return " ".join(str(value).split())


def _joined(texts: Iterable[str]) -> str:
    """Return texts as one, each once."""
    return "; ".join(dict.fromkeys(filter(None, texts)))


def leaves_open(update: Generation) -> bool:
    """Whether an update says that a job is completed but not where its output is: a poll has to decide."""
    return update.status.is_success and update.url is None
