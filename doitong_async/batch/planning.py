"""Plans each request of a batch: either its item is known at once, or it is pending."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async.batch.asked import Asked, Reading
from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item_record import Action, Glimpse, ItemRecord, State, decide, stem_of
from doitong_async.batch.outcome import Item, Outcome
from doitong_async.batch.pending import PendingItem, Terms
from doitong_async.batch.recall import has_file, has_length, in_doubt, recorded, seen_done
from doitong_async.batch.sending import taken
from doitong_async.batch.stop_reason import StopReason
from doitong_async.clock import wall_time
from doitong_async.errors import BadRequestError, DoitongError, LedgerError
from doitong_async.log import log
from doitong_async.types import GenerateRequest

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


class Planner:
    """Reads requests in order, once each."""

    def __init__(
        self, runtime: Runtime, terms: Terms, backend: LedgerBackend, stop_reason: StopReason
    ) -> None:
        self._runtime = runtime
        self._terms = terms
        self._out = None if terms.out is None else str(terms.out)
        self._backend = backend
        self._stop_reason = stop_reason
        self._reading = Reading(terms.options)

    def close(self) -> None:
        """Forget the keys seen so far."""
        self._reading.close()

    def plan(self, number: int, given: object) -> PendingItem | Item:
        """Return the pending item for a request, or the finished item if there is nothing to do."""
        key = str(given.get("key") or f"item {number}") if isinstance(given, Mapping) else f"item {number}"
        try:
            asked = self._reading.read(number, given)
            key = asked.key
            glimpse = self._backend.glance(key)
            if (item := self._done(number, asked, glimpse)) is not None:
                return item
            record = None if glimpse is None else self._backend.find(key)
            if record is None:
                self._check_output_is_free(asked)
            action = self._action(record, asked.digest)
            if action is Action.CLASH and record is not None and record.state is State.INTENT:
                asked, action = self._as_sent(asked, record)
            if action is Action.CLASH and record is not None:
                return _clash(number, asked, record)
            sent = self._backend.body_of(key) if action is Action.RESEND else None
        except BadRequestError as error:
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=error)
        except LedgerError as error:
            self._stop_reason.stop(error)
            return Item(number=number, key=key, request=None, outcome=Outcome.SKIPPED, error=error)
        except (ValueError, RecursionError) as error:
            invalid = BadRequestError(f"The request cannot be written as JSON: {error}.")
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=invalid)
        pending = PendingItem(number, *asked, action, record)
        pending.body = None if sent is None else sent.encode()
        return self._at_once(pending) or pending

    def _done(self, number: int, asked: Asked, done: Glimpse | None) -> Item | None:
        """Return the item if it is done and its file exists; this costs one `stat`."""
        if done is None or done.state != State.DONE or done.digest != asked.digest or self._terms.verify:
            return None
        file = None
        if self._out is not None:
            if done.file is None:
                return None
            file = f"{self._out}{os.sep}{done.file}"
            if not has_length(file, done.length):
                return None
        return Item(
            number=number,
            key=asked.key,
            request=asked.request,
            outcome=Outcome.DONE,
            result=seen_done(done, asked.request, self._runtime),
            file=None if file is None else Path(file),
            is_new=False,
        )

    def _as_sent(self, asked: Asked, record: ItemRecord) -> tuple[Asked, Action]:
        """Return an item in doubt with the request that was sent, to be resent byte for byte."""
        log.warning(
            "item %r was submitted with another request and got no answer; resending that request under its "
            "idempotency key. To make the new one, give it its own item key.",
            record.key,
        )
        request = GenerateRequest(**record.asked)
        asked = asked._replace(request=request, text=record.request, digest=record.digest)
        return asked, self._action(record, record.digest)

    def _check_output_is_free(self, asked: Asked) -> None:
        """Check that an item is new if an earlier run created the ledger and the ledger does not know it.

        Raises:
            BadRequestError: if its output exists: an older copy of the ledger would submit everything again.
        """
        if self._terms.out is None or self._backend.is_new:
            return
        stem = stem_of(asked.key, asked.request, is_given=asked.is_key_given)
        if (path := taken(self._terms.out, stem)) is None:
            return
        error = BadRequestError(
            f"{path} exists, but this ledger does not know the item {asked.key!r}: another run may have "
            "made it and paid for it. Restore the ledger that knows it; to make it anyway, give the item "
            "another key, or the batch another folder."
        )
        error.outcome = "Nothing was sent for it."
        raise error

    def _action(self, record: ItemRecord | None, digest: str) -> Action:
        return decide(
            record,
            digest,
            wall=wall_time(),
            key_lives=self._terms.key_lives,
            may_resend=self._runtime.settings.resend_unanswered,
            retry_failed=self._terms.retry_failed,
            has_file=has_file(record, self._terms.out),
        )

    def _at_once(self, pending: PendingItem) -> Item | None:
        """Return the item if it needs no waiting: it has ended, or the batch was stopped."""
        record = pending.record
        is_report = pending.action is Action.REPORT
        if is_report and record is not None and record.state is State.DONE:
            # It has to be hashed; otherwise `_done` would have returned it.
            return None
        if is_report and record is not None:
            outcome = Outcome.REJECTED if record.state is State.REJECTED else Outcome.FAILED
            error: DoitongError = recorded(record)
        elif self._stop_reason.why is not None and pending.action in (Action.BEGIN, Action.RESEND):
            is_new = pending.action is Action.BEGIN
            outcome = Outcome.SKIPPED if is_new else Outcome.IN_DOUBT
            why = self._stop_reason.not_sent()
            error = why if is_new and why else in_doubt(why, pending.idempotency_key)
        else:
            return None
        return Item(
            number=pending.number,
            key=pending.key,
            request=pending.request,
            outcome=outcome,
            error=error,
            is_new=not is_report,
        )


def _clash(number: int, asked: Asked, record: ItemRecord) -> Item:
    """Return the rejected item of a key that the ledger has with another, perhaps charged, request."""
    message = f"The ledger has the item key {record.key!r} with another request"
    item = Item(number=number, key=asked.key, request=asked.request, outcome=Outcome.REJECTED)
    error = BadRequestError(f"{message}. Give the new one another key.")
    if record.state is State.SUBMITTED:
        error.outcome = "The new request was not sent; the earlier one has a job that is charged."
        error.job_id, error.idempotency_key = record.job_id, record.idempotency_key
    return replace(item, error=error)
