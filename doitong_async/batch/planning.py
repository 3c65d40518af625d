"""What is to be done with each request of a batch: told at once where it is known, or else work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from doitong_async.batch.asked import Asked, Reading
from doitong_async.batch.book import Book
from doitong_async.batch.entry import Action, Entry, Glimpse, State, decide, stem_of
from doitong_async.batch.halt import Halt
from doitong_async.batch.outcome import Item, Outcome
from doitong_async.batch.recall import has_file, has_length, in_doubt, recorded, seen_done
from doitong_async.batch.sending import taken
from doitong_async.batch.work import Terms, Work
from doitong_async.clock import wall_time
from doitong_async.errors import BadRequestError, DoitongError, LedgerError
from doitong_async.log import log
from doitong_async.types import GenerateRequest

if TYPE_CHECKING:
    from doitong_async.runtime import Runtime


class Planner:
    """Reads requests in their order, once each."""

    def __init__(self, runtime: Runtime, terms: Terms, book: Book, halt: Halt) -> None:
        self._runtime = runtime
        self._terms = terms
        self._out = None if terms.out is None else str(terms.out)
        self._book = book
        self._halt = halt
        self._reading = Reading(terms.options)

    def close(self) -> None:
        """Forget which keys there were."""
        self._reading.close()

    def plan(self, number: int, given: object) -> Work | Item:
        """Return the work that a request makes, or its item if there is nothing to do."""
        key = str(given.get("key") or f"item {number}") if isinstance(given, Mapping) else f"item {number}"
        try:
            asked = self._reading.read(number, given)
            key = asked.key
            glimpse = self._book.glance(key)
            if (item := self._done(number, asked, glimpse)) is not None:
                return item
            entry = None if glimpse is None else self._book.find(key)
            if entry is None:
                self._check_unknown(asked)
            action = self._action(entry, asked.digest)
            if action is Action.CLASH and entry is not None and entry.state is State.INTENT:
                asked, action = self._as_it_was_sent(asked, entry)
            if action is Action.CLASH and entry is not None:
                return _clash(number, asked, entry)
            sent = self._book.body_of(key) if action is Action.RESEND else None
        except BadRequestError as error:
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=error)
        except LedgerError as error:
            self._halt.come(error)
            return Item(number=number, key=key, request=None, outcome=Outcome.SKIPPED, error=error)
        except (ValueError, RecursionError) as error:
            wrong = BadRequestError(f"The request cannot be written as JSON: {error}.")
            return Item(number=number, key=key, request=None, outcome=Outcome.REJECTED, error=wrong)
        work = Work(number, *asked, action, entry)
        work.body = None if sent is None else sent.encode()
        return self._at_once(work) or work

    def _done(self, number: int, asked: Asked, done: Glimpse | None) -> Item | None:
        """Return the item if it is done and its file is there: it takes no more than a look."""
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

    def _as_it_was_sent(self, asked: Asked, entry: Entry) -> tuple[Asked, Action]:
        """Return an item in doubt with the request that was sent: it is asked for again, byte for byte."""
        log.warning(
            "item %r was submitted with another request, and was not answered: that one is sent again under "
            "its key. To make the new one, give it a key of its own.",
            entry.key,
        )
        request = GenerateRequest(**entry.asked)
        asked = asked._replace(request=request, text=entry.request, digest=entry.digest)
        return asked, self._action(entry, entry.digest)

    def _check_unknown(self, asked: Asked) -> None:
        """Make sure that an item is new, if the ledger that does not know it is from an earlier run.

        Raises:
            BadRequestError: if its output lies there: an older copy of the ledger would have all made twice.
        """
        if self._terms.out is None or self._book.is_new:
            return
        stem = stem_of(asked.key, asked.request, is_given=asked.is_key_given)
        if (place := taken(self._terms.out, stem)) is None:
            return
        error = BadRequestError(
            f"{place} lies there already, and this ledger does not know the item {asked.key!r}: another run "
            "may have made it and paid for it. Restore the ledger that knows it; or, to make it all the "
            "same, give the item another key, or the batch another folder."
        )
        error.outcome = "Nothing was sent for it."
        raise error

    def _action(self, entry: Entry | None, digest: str) -> Action:
        return decide(
            entry,
            digest,
            wall=wall_time(),
            key_lives=self._terms.key_lives,
            may_resend=self._runtime.settings.resend_unanswered,
            retry_failed=self._terms.retry_failed,
            has_file=has_file(entry, self._terms.out),
        )

    def _at_once(self, work: Work) -> Item | None:
        """Return the item if it takes no time: it is over, or the batch is."""
        entry = work.entry
        is_report = work.action is Action.REPORT
        if is_report and entry is not None and entry.state is State.DONE:
            # To be hashed, or else it would have been told already.
            return None
        if is_report and entry is not None:
            outcome = Outcome.REJECTED if entry.state is State.REJECTED else Outcome.FAILED
            error: DoitongError = recorded(entry)
        elif self._halt.why is not None and work.action in (Action.BEGIN, Action.RESEND):
            is_new = work.action is Action.BEGIN
            outcome = Outcome.SKIPPED if is_new else Outcome.IN_DOUBT
            why = self._halt.not_sent()
            error = why if is_new and why else in_doubt(why, work.idempotency_key)
        else:
            return None
        return Item(
            number=work.number,
            key=work.key,
            request=work.request,
            outcome=outcome,
            error=error,
            is_new=not is_report,
        )


def _clash(number: int, asked: Asked, entry: Entry) -> Item:
    """Return the item of a key that the ledger knows with another request; that one may be paid for."""
    said = f"The ledger knows the item key {entry.key!r} with another request"
    item = Item(number=number, key=asked.key, request=asked.request, outcome=Outcome.REJECTED)
    error = BadRequestError(f"{said}; give the new one another key.")
    if entry.state is State.SUBMITTED:
        error.outcome = "The new one was not sent; the job of the earlier one is made and charged."
        error.job_id, error.idempotency_key = entry.job_id, entry.idempotency_key
    return replace(item, error=error)
