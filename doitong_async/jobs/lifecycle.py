"""Merges two snapshots of a job; a final status stays, whatever comes after it.

waiting ──▶ completed     terminal: nothing changes it any more, except that a poll may renew its URL
   │  ╲
   │   ╲──▶ failed, …     terminal
   └──▶ unknown status    waits, like any status that is not terminal
"""

from __future__ import annotations

import dataclasses
from typing import Any

from doitong_async.types import Generation


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
    }
    changes: Any = {name: value for name, value in known.items() if value != getattr(last, name)}
    # Most polls change nothing; a new snapshot would cost as much as reading the answer.
    return dataclasses.replace(last, **changes) if changes else last


def is_settled(job: Generation) -> bool:
    """Whether there is nothing left to wait for.

    A completed job without a URL is polled again: the reference says that `url` is null *until* completed,
    and an output that nobody can fetch was paid for in vain.
    """
    return job.status.is_failure or (job.status.is_success and job.url is not None)


def leaves_open(update: Generation) -> bool:
    """Whether an update says that a job is completed but not where its output is: a poll has to decide."""
    return update.status.is_success and update.url is None
