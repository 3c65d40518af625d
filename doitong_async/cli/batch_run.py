"""Runs a batch once: its loop, its progress, Ctrl-C, and the gallery at the end."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from doitong_async.batch.batch import Batch
from doitong_async.batch.item import ItemRecord
from doitong_async.batch.ledger import Ledger
from doitong_async.budget import Budget
from doitong_async.cli.batch_render import BatchRenderer
from doitong_async.cli.exits import CommandError
from doitong_async.cli.gallery import Card, write_gallery
from doitong_async.cli.interrupts import handling_signals
from doitong_async.cli.progress import BatchProgress
from doitong_async.cli.prompts import Prompts
from doitong_async.cli.service import Service
from doitong_async.cli.summary import End
from doitong_async.cli.units import outcome_of, some, span
from doitong_async.client import AsyncDoitong
from doitong_async.errors import ClientClosedError, DoitongError, LedgerError
from doitong_async.events import Event, StatusChanged, SubmitAttempted
from doitong_async.files import remove_leftovers
from doitong_async.pricing import PriceArgument
from doitong_async.transport.failure import FailureKind

_AGAIN_LEAVES: Final = "leaves {} to the next run"
_AGAIN_ENDS: Final = "ends {} with this command's emulator"


_UNREACHABLE: Final = frozenset({FailureKind.NOT_SENT, FailureKind.UNANSWERED, FailureKind.GATEWAY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asks of a batch, checked."""

    prompts: Prompts
    service: Service
    out: Path
    ledger: Path
    budget: Budget | None
    price: PriceArgument
    retry_failed: bool
    verify: bool
    title: str


class Run:
    """Runs a batch once, from its first request to its gallery."""

    def __init__(self, order: Order, progress: BatchProgress, renderer: BatchRenderer) -> None:
        self._order = order
        self._progress = progress
        self._renderer = renderer
        self._signals = 0
        self._left_running = 0
        self._stopping: str | None = None
        self._is_unreachable = False
        self._detaching: asyncio.Future[None] | None = None
        self._tenth = 0
        self._doitong: AsyncDoitong | None = None

    async def to_end(self) -> End:
        """Run the batch, and return how it ended.

        Raises:
            CommandError: if the API key is missing.
            LedgerError, ConfigurationError: if it could not start.
        """
        loop, order = asyncio.get_running_loop(), self._order
        started_at = loop.time()
        async with order.service.opened(self._on_event) as doitong:
            self._doitong = doitong = doitong.with_options(wait_for_next_day=True)
            batch = doitong.batch(
                order.prompts,
                ledger=order.ledger,
                out=order.out,
                budget=order.budget,
                price=order.price,
                retry_failed=order.retry_failed,
                verify=order.verify,
            )
            with self._handling_signals(loop, doitong, batch), self._renderer:
                ticking = asyncio.create_task(self._tick(doitong, batch))
                try:
                    async with batch:
                        stopped = await self._consume(batch)
                finally:
                    ticking.cancel()
                    await asyncio.gather(ticking, return_exceptions=True)
        # A large gallery takes a moment, in which Ctrl-C must not lose the summary.
        with self._handling_signals(loop, None, None):
            gallery, trouble = await asyncio.to_thread(gallery_of, order.ledger, order.out, order.title)
        return End(
            progress=self._progress,
            spent=batch.progress().spent,
            seconds=loop.time() - started_at,
            stopped=stopped,
            signals=self._signals,
            left_running=self._left_running,
            is_trial=order.service.has_own_emulator,
            gallery=gallery,
            trouble=trouble,
        )

    async def _consume(self, batch: Batch) -> DoitongError | CommandError | None:
        """Take every item, and return why the batch stopped early, unless the user stopped it."""
        failure: DoitongError | CommandError | None = None
        try:
            async for item in batch:
                self._progress.take(item)
                self._renderer.item(item)
                if item.is_new:
                    self._render_each_tenth(batch)
        except (DoitongError, CommandError) as error:
            failure = error
        failure = failure or batch.progress().stopped
        return None if isinstance(failure, ClientClosedError) and self._signals else failure

    async def _tick(self, doitong: AsyncDoitong, batch: Batch) -> None:
        """Render the batch repeatedly; in lines, less often the longer nothing happens."""
        delay, before = self._renderer.interval, -1
        while True:
            await asyncio.sleep(delay)
            self._render(doitong, batch)
            now = sum(self._progress.outcomes.values())
            delay = self._renderer.interval if now != before else min(2 * delay, self._renderer.longest)
            before = now

    def _render_each_tenth(self, batch: Batch) -> None:
        share = 10 * (self._progress.done + self._progress.bad) // max(1, self._progress.total)
        if share > self._tenth and self._doitong is not None:
            self._tenth = share
            self._render(self._doitong, batch)

    def _render(self, doitong: AsyncDoitong, batch: Batch) -> None:
        moment = self._progress.moment(
            asyncio.get_running_loop().time(),
            batch.progress(),
            waiting=doitong.stats().waiting,
            is_unreachable=self._is_unreachable,
            stopping=self._stopping,
        )
        self._renderer.moment(moment)

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StatusChanged):
            self._is_unreachable = False
        elif isinstance(event, SubmitAttempted):
            self._is_unreachable = event.failure in _UNREACHABLE

    def _handling_signals(
        self, loop: asyncio.AbstractEventLoop, doitong: AsyncDoitong | None, batch: Batch | None
    ) -> AbstractContextManager[None]:
        """Drain the batch at the first Ctrl-C or SIGTERM, and leave it at the second."""

        def on_signal() -> None:
            self._signals += 1
            if batch is not None and doitong is not None:
                self._handle_signal(loop, doitong, batch)

        return handling_signals(on_signal)

    def _handle_signal(self, loop: asyncio.AbstractEventLoop, doitong: AsyncDoitong, batch: Batch) -> None:
        progress = batch.progress()
        running = progress.running + progress.fetching
        if self._signals == 1:
            batch.stop()
            known = [*doitong.stats().mean_seconds.values()]
            if rate := self._progress.rate(loop.time()):
                known.append(60.0 * running / rate)
            again = _AGAIN_ENDS if self._order.service.has_own_emulator else _AGAIN_LEAVES
            self._stopping = _draining(running, max(known, default=None), again)
            self._renderer.stopping(self._stopping)
        elif self._detaching is None:
            self._left_running = running
            jobs = some(running, "job")
            if self._order.service.has_own_emulator:
                self._stopping = f"Leaving {jobs}, which will end with this command's emulator."
            else:
                self._stopping = (
                    f"Leaving {jobs} to the next run; waiting up to 10 s for answers still to come."
                )
            self._renderer.stopping(self._stopping)
            self._detaching = asyncio.ensure_future(batch.aclose())
        self._render(doitong, batch)


def _draining(running: int, seconds: float | None, again: str) -> str:
    if not running:
        return "Stopping: nothing is running."
    how_long = "" if seconds is None else f", about {span(seconds)}"
    jobs, it = ("running job", "it") if running == 1 else (f"{running:,} running jobs", "them")
    return f"Stopping: waiting for the {jobs}{how_long}. Ctrl-C again {again.format(it)}."


def gallery_of(ledger: Path, out: Path, title: str) -> tuple[Path | None, str | None]:
    """Write the gallery of a batch from its ledger; return its path, or why there is none.

    Temporary files of earlier runs that were killed go with it, also where no batch had to run.
    """
    try:
        with Ledger.read(ledger) as reader:
            remove_leftovers(out, reader.owner)
            cards = map(card_of, reader.records())
            return write_gallery(out, cards, title=title, owner=reader.owner, left=reader.left()), None
    except LedgerError as error:
        return None, error.message
    except OSError as error:
        return None, f"The gallery in {out} cannot be written: {error.strerror or error}."


def card_of(record: ItemRecord) -> Card:
    """Return the gallery's card for an item."""
    fields = record.asked
    width, height = fields.get("width"), fields.get("height")
    return Card(
        key=record.key,
        prompt=str(fields.get("prompt") or ""),
        provider=str(fields.get("provider") or ""),
        outcome=outcome_of(record),
        credits=record.cost,
        seconds=record.seconds,
        file=record.output,
        size=(width, height) if isinstance(width, int) and isinstance(height, int) else None,
        job_id=record.job_id,
        reason=record.reason,
    )
