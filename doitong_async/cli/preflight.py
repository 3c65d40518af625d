"""Counts what a ledger already has of a file of prompts, before anything is sent."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from doitong_async.batch.item import UNSETTLED, Action, ItemRecord, Outcome, decide
from doitong_async.batch.ledger import Ledger
from doitong_async.batch.planner import has_file
from doitong_async.batch.source import Asked, Reading
from doitong_async.cli.exits import CommandError
from doitong_async.cli.prompts import KEPT, Prompts
from doitong_async.errors import ConfigurationError, LedgerError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import Estimate, PriceArgument, estimate
from doitong_async.settings import KEY_LIVES, Options
from doitong_async.types import GenerateRequest


@dataclass(slots=True)
class Preflight:
    """What is done, and what is left to do.

    Attributes:
        items: how many items the file has, within its limit.
        over: how many have ended already, by outcome.
        under_way: how many were started and will be resumed.
        unsettled: how many jobs of the ledger are not known to have ended, of any file of prompts.
        to_begin: how many will be submitted.
        spent: credits, according to the ledger.
        cost: the cost and time of those to be submitted; None if a price is unknown.
        unpriced: the message about that price.
    """

    items: int = 0
    over: Counter[Outcome] = field(default_factory=Counter)
    under_way: int = 0
    unsettled: int = 0
    to_begin: int = 0
    spent: float = 0.0
    cost: Estimate | None = None
    unpriced: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return not self.under_way and not self.to_begin


def preflight_of(
    prompts: Prompts,
    *,
    ledger: Path,
    service: str,
    out: Path,
    plan: Plan,
    price: PriceArgument,
    retry_failed: bool,
    wall: float,
) -> Preflight:
    """Compare a checked file of prompts with a ledger, which need not exist; `wall` is the time now.

    `service` is the ledger's name for the service.

    Raises:
        CommandError: if the ledger has an item key with another request.
        LedgerError: if the ledger is damaged, of another version or service, or not a ledger.
    """
    found = Preflight()
    with contextlib.ExitStack() as opened:
        reader = None
        if _exists(ledger):
            reader = opened.enter_context(Ledger.read(ledger))
            reader.check_service(service)
            totals = reader.totals()
            found.spent = totals.spent
            found.unsettled = sum(totals.items.get(state, 0) for state in UNSETTLED)
        items = _Items(found, reader, out, retry_failed=retry_failed)
        try:
            found.cost = estimate(items.to_begin(prompts, wall), plan, price=price)
        except ConfigurationError as error:
            found.unpriced = error.message
    if items.clashes:
        limited = f"; here are the first {KEPT}" if len(items.clashes) < items.clashing else ""
        raise CommandError(
            f"The ledger {ledger} has {items.clashing:,} of the item keys with another request{limited}. "
            "Nothing was sent. Give new items other keys, or this batch its own ledger.",
            details=items.clashes,
        )
    return found


class _Items:
    """Iterates over the items once, counts them, and yields the requests to be submitted."""

    def __init__(self, found: Preflight, reader: Ledger | None, out: Path, *, retry_failed: bool) -> None:
        self._found = found
        self._reader = reader
        self._out = out
        self._retry_failed = retry_failed
        self.clashing = 0
        self.clashes: list[str] = []

    def to_begin(self, prompts: Prompts, wall: float) -> Iterator[GenerateRequest]:
        """Yield the requests to be submitted."""
        with contextlib.closing(Reading(Options())) as reading:
            for number, given in enumerate(prompts, 1):
                self._found.items = number
                asked = reading.read(number, given)
                record = None if self._reader is None else self._reader.find(asked.key)
                if self._count(record, asked, wall):
                    yield asked.request

    def _count(self, record: ItemRecord | None, asked: Asked, wall: float) -> bool:
        """Count an item, and return whether to submit it."""
        action = decide(
            record,
            asked.digest,
            wall=wall,
            key_lives=KEY_LIVES,
            may_resend=True,
            retry_failed=self._retry_failed,
            has_file=has_file(record, self._out),
        )
        found = self._found
        if action is Action.BEGIN:
            found.to_begin += 1
            return True
        if action is Action.CLASH:
            self.clashing += 1
            if len(self.clashes) < KEPT:
                self.clashes.append(f"item {found.items:,}: the key {asked.key!r}")
        elif action is Action.DOUBT:
            found.over[Outcome.IN_DOUBT] += 1
        elif action is Action.REPORT and record is not None and record.outcome is not None:
            found.over[record.outcome] += 1
        else:
            found.under_way += 1
        return False


def _exists(ledger: Path) -> bool:
    try:
        return ledger.exists()
    except OSError as error:
        raise LedgerError(f"The ledger {ledger} cannot be used: {error.strerror or error}.") from error
