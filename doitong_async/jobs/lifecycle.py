"""How a job's story goes on when news of it comes: in any order, late, or twice.

waiting ──▶ completed     terminal: nothing changes it any more, but that a poll may renew its URL
   │  ╲
   │   ╲──▶ failed, …     terminal
   └──▶ an unknown word   waits, like any other word that is not an end
"""

from __future__ import annotations

import dataclasses

from doitong_async.types import Generation


def merge(last: Generation, update: Generation, *, is_asked: bool = False) -> Generation:
    """Return what is known of a job after news of it; `last` itself if they change nothing.

    A terminal status stays. What was known once, such as the cost, is not forgotten because a later
    answer leaves it out.

    Args:
        last: what is known.
        news: what comes.
        is_asked: whether they are the answer to a poll, which is authenticated, of a job that was over.
    """
    if _is_old(last, update):
        return last
    status = last.status if last.status.is_terminal else update.status
    # The URL of a job that is over is the first one seen: late news must not swap the output. But URLs
    # expire, and who asks is told the new one.
    is_renewed = is_asked and last.status.is_success and update.status.is_success
    is_kept = last.status.is_terminal and not is_renewed
    url = last.url or update.url if is_kept else update.url or last.url
    merged = dataclasses.replace(
        last,
        status=status,
        url=url,
        type=last.type or update.type,
        provider=last.provider or update.provider,
        metadata=last.metadata if update.metadata is None else update.metadata,
        credit_cost=last.credit_cost if update.credit_cost is None else update.credit_cost,
        created_at=last.created_at or update.created_at,
    )
    return last if merged == last else merged


def _is_old(last: Generation, update: Generation) -> bool:
    """Whether the news are that nothing has happened, as most looks bring: told without building any."""
    return (
        update.status == last.status
        and (update.url is None or update.url == last.url)
        and (update.credit_cost is None or update.credit_cost == last.credit_cost)
        and (update.metadata is None or update.metadata == last.metadata)
        and (update.type is None or last.type is not None)
        and (update.provider is None or last.provider is not None)
        and (update.created_at is None or last.created_at is not None)
    )


def is_settled(job: Generation) -> bool:
    """Whether there is nothing left to wait for.

    A job that is completed but has no URL yet is looked at again: documented is that `url` is null
    *until* completed, and an output that nobody can fetch was paid for in vain.
    """
    return job.status.is_failure or (job.status.is_success and job.url is not None)


def leaves_open(update: Generation) -> bool:
    """Whether news say that a job is completed, and not where its output is: a look has to decide."""
    return update.status.is_success and update.url is None
