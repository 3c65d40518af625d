"""Runs a batch: reads requests as the plan can use them, and yields items as they end."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from doitong_async.batch.backend import LedgerBackend
from doitong_async.batch.item import Item, Outcome, PendingItem
from doitong_async.batch.ledger import LedgerFile, service_of
from doitong_async.batch.planner import Planner
from doitong_async.batch.source import RequestSource, Terms
from doitong_async.batch.spending import Spending, StopReason
from doitong_async.batch.worker import ItemWorker, Sender
from doitong_async.callbacks import pass_on
from doitong_async.clock import wall_time
from doitong_async.errors import (
    ClientClosedError,
    ConfigurationError,
    DoitongError,
    LedgerError,
)
from doitong_async.files import remove_leftovers
from doitong_async.log import log

if TYPE_CHECKING:
    from doitong_async.limits.admission import Admission
    from doitong_async.runtime import Runtime

ANSWERS_WITHIN: Final = 10.0
"""Seconds that leaving a batch waits for the answers of submits in flight: our choice."""
_MOST_HELD: Final = 32
"""Most items, beyond those that the plan can run, that were read and not yet taken by the loop."""
_MANY_MINUTES: Final = 6
"""Minutes' worth of requests to expect when the source does not say how many will come."""
_PROBE: Final = ".doitong.part"
"""A file that exists for a moment to see if a folder can be written. Not `tempfile`, whose names are random:
where a file needs a name, as on macOS, a killed process would leave one that no later run knows."""
_NO_MORE: Final = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a batch has come.

    Attributes:
        items: how many have ended, by outcome.
        known: how many of the done were done before this run.
        running: jobs at the service, or being submitted.
        fetching: items whose job is done and whose output is being fetched or checked.
        waiting: items read that wait for the plan or the budget.
        spent: credits, including earlier runs on the same ledger.
        reserved: credits set aside for unsettled items.
        stopped: why the batch submits no more, or None.
    """

    items: Mapping[Outcome, int]
    known: int
    running: int
    fetching: int
    waiting: int
    spent: float
    reserved: float
    stopped: DoitongError | None


class ItemsInFlight:
    """The items that were read: those in progress, one task each, and those that ended and were not taken.

    Args:
        pass_error: called with an exception that is no item's own.
    """

    def __init__(self, pass_error: Callable[[BaseException], None]) -> None:
        self._pass_error = pass_error
        self._pending: dict[asyncio.Task[None], PendingItem] = {}
        self._ended: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        self.changed: asyncio.Event = asyncio.Event()
        self.known: int = 0
        self.counts: Counter[Outcome] = Counter()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of the items in progress."""
        return [*self._pending]

    @property
    def items(self) -> list[PendingItem]:
        """The items in progress."""
        return [*self._pending.values()]

    @property
    def held(self) -> int:
        """How many items were read and not taken."""
        return sum(not pending.is_reported for pending in self._pending.values()) + self._ended.qsize()

    def start(self, pending: PendingItem, carry_out: Coroutine[Any, Any, None]) -> None:
        """Start an item's task."""
        task = asyncio.create_task(carry_out, name=f"doitong item {pending.key}")
        self._pending[task] = pending
        task.add_done_callback(self._on_task_done)

    def put(self, item: Item) -> None:
        """Add an item that ended."""
        self.known += not item.is_new and item.outcome is Outcome.DONE
        self.counts[item.outcome] += 1
        self._ended.put_nowait(item)

    def put_error(self, error: BaseException) -> None:
        """Raise an error from the next `take`."""
        self._ended.put_nowait(error)

    def put_end(self) -> None:
        """Say that nothing more comes."""
        self._ended.put_nowait(None)

    async def take(self) -> Item | None:
        """Wait for the next item that ends, and return it; None at the end, however often it is asked."""
        item = await self._ended.get()
        if item is None:
            self.put_end()
            return None
        if isinstance(item, BaseException):
            raise item
        self.changed.set()
        return item

    def report_untaken(self, *, are_recorded: bool) -> None:
        """Report what nobody took: errors of user code, and items, perhaps charged, that no ledger has."""
        while not self._ended.empty():
            item = self._ended.get_nowait()
            if isinstance(item, BaseException):
                pass_on(item)
            if are_recorded or not isinstance(item, Item):
                continue
            if item.result is not None:
                url = item.result.url
                log.warning("nobody took item %r, whose job %s is done: %s", item.key, item.result.id, url)
            elif item.error is not None and (item.error.job_id or item.error.idempotency_key):
                log.warning("nobody took item %r: %s", item.key, str(item.error))

    async def has_room(self, most_ahead: int) -> None:
        """Wait until one more request may be read: at most so many are ahead, or wait to be taken."""
        most_held = 4 * most_ahead + _MOST_HELD
        is_full = self.held >= most_held
        while True:
            ahead = sum(pending.is_ahead for pending in self._pending.values())
            # Once full, it refills when half is taken, which saves a loop iteration per item.
            if ahead < most_ahead and self.held < (most_held // 2 if is_full else most_held):
                return
            self.changed.clear()
            await self.changed.wait()

    def detach(self) -> None:
        """Cancel the tasks of items that go on without this process."""
        for task in [task for task, pending in self._pending.items() if pending.has_job]:
            task.cancel()

    async def wait(self) -> None:
        """Wait for all items in progress."""
        while self._pending:
            await asyncio.wait(self._pending)
            # The callback that removes a finished task may still be due.
            await asyncio.sleep(0)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        del self._pending[task]
        self.changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._pass_error(error)


class Batch:
    """A batch that runs inside its block: `async with doitong.batch(…) as batch: async for item in batch: …`.

    Leaving the block, also early, detaches it: the answers of submits in flight are awaited and recorded,
    submitted jobs continue at the service, and the ledger is closed.
    """

    def __init__(self, runtime: Runtime, source: RequestSource, terms: Terms, ledger: Path | None) -> None:
        self._runtime = runtime
        self._source = source
        self._terms = terms
        self._ledger_path = ledger
        self._spending = Spending(terms, self._raise_in_loop)
        self._stop_reason = StopReason(self._wake)
        self._flight = ItemsInFlight(self._pass_error)
        self._backend = LedgerBackend()
        self._admission: Admission | None = None
        self._opening: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None
        self._is_read = False
        """Whether to read no more."""
        self._is_left = False
        """Whether nobody takes items any more."""

    async def __aenter__(self) -> Self:
        """Open the ledger and start the batch; it runs once.

        Raises:
            LedgerError: if the ledger is in use, damaged, of another version or of another service.
            ConfigurationError: if the output folder cannot be written, or the batch ran before.
            ClientClosedError: if the client is closed.
        """
        if self._opening is not None or self._closing is not None:
            raise ConfigurationError("This batch ran before; make another one.")
        if self._runtime.loop is not asyncio.get_running_loop():
            raise ConfigurationError("The client of this batch is on another event loop; run it there.")
        self._opening = asyncio.create_task(self._open(), name="doitong batch opens")
        try:
            await asyncio.shield(self._opening)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        """Return the next item that ends.

        Raises:
            ConfigurationError: outside of the batch's block.
            ClientClosedError: if the batch, or its client, was closed before the last item.
        """
        if self._opening is None:
            raise ConfigurationError("The batch does not run: iterate it inside `async with … as batch`.")
        if (item := await self._flight.take()) is not None:
            return item
        if self._closing is not None:
            where = "the log" if self._ledger_path is None else "its ledger"
            raise ClientClosedError(f"The batch was closed. Its jobs are recorded in {where}.")
        raise StopAsyncIteration

    def stop(self) -> None:
        """Submit no more; the loop ends when the running jobs have ended. Safe to call from any thread."""
        if not _is_running(self._runtime.loop):
            self._runtime.loop.call_soon_threadsafe(self.stop)
            return
        self._stop_reason.stop(ClientClosedError("The batch was stopped before this item was submitted."))
        was_read, self._is_read = self._is_read, True
        # Only once: a second cancellation would cut off the source's own cleanup.
        if self._reader is not None and not was_read:
            self._reader.cancel()

    def progress(self) -> Progress:
        """Return the progress of the batch, also after its block."""
        items, tracker = self._flight.items, self._spending.credits.tracker
        return Progress(
            items=dict(self._flight.counts),
            known=self._flight.known,
            running=sum(item.is_running for item in items),
            fetching=sum(item.is_fetching for item in items),
            waiting=sum(item.is_ahead for item in items),
            spent=tracker.spent,
            reserved=tracker.reserved,
            stopped=self._stop_reason.why,
        )

    async def aclose(self) -> None:
        """Detach the batch, as leaving its block does; whoever takes its items gets `ClientClosedError`."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._let_go())
        await asyncio.shield(self._closing)

    def drop(self) -> None:
        """Close the ledger while the event loop closes; submitted jobs continue at the service."""
        self._backend.drop()
        self._runtime.batches.discard(self)
        with suppress(RuntimeError):
            # The waiters vanished with the loop and cannot be woken.
            self._flight.put_error(ClientClosedError("The event loop of the batch is closed."))

    def is_leaving(self, ledger: Path) -> bool:
        """Whether this batch closes that ledger soon, even if it is still opening it."""
        own = self._ledger_path
        return (
            self._closing is not None and own is not None and os.path.abspath(own) == os.path.abspath(ledger)
        )

    async def _open(self) -> None:
        if self._runtime.is_closing:
            raise ClientClosedError("The client is closed.")
        self._runtime.batches.add(self)
        terms, spending = self._terms, self._spending
        if terms.out is not None:
            try:
                await asyncio.to_thread(_check_folder, terms.out)
            except RuntimeError as error:
                # No thread can be started.
                raise _no_folder(terms.out, error) from None
        rows = 0
        if self._ledger_path is not None:
            self._backend = ledger = await self._opened(self._ledger_path)
            if terms.out is not None:
                await asyncio.to_thread(remove_leftovers, terms.out, ledger.owner)
            seen = ledger.seen()
            rows = sum(seen.totals().items.values())
            spending.carry(seen.totals().spent, [*seen.records(unsettled=True)])
            limiter = self._runtime.limiter
            limiter.carry(seen.made_on(limiter.day.number(wall_time())), source=ledger.name)
        # Its own admission: when the batch stops, its waiters can be sent away.
        self._admission = self._runtime.new_admission()
        if self._stop_reason.why is not None:
            self._admission.close()
        submits = self._runtime.new_submitter(self._admission)
        stop_reason, wake = self._stop_reason, self._flight.changed.set
        sender = Sender(self._runtime, submits, terms, self._backend, spending, stop_reason, wake)
        worker = ItemWorker(self._runtime, terms, self._backend, spending, stop_reason, sender)
        self._reader = asyncio.create_task(self._read(worker, rows), name="doitong batch reader")
        self._runner = asyncio.create_task(self._run(self._reader), name="doitong batch")

    async def _opened(self, path: Path) -> LedgerFile:
        service = service_of(self._runtime.settings.base_url)
        while True:
            try:
                return await LedgerFile.open(path, service=service)
            except LedgerError:
                # A batch that is being left still reads late answers; then it closes its ledger.
                leaving = [other for other in self._runtime.batches if other.is_leaving(path)]
                # One that leaves waits for no other, or two could wait for each other.
                if not leaving or self._closing is not None:
                    raise
            await asyncio.gather(*(other.aclose() for other in leaving))

    async def _read(self, worker: ItemWorker, rows: int) -> None:
        """Read requests, no further ahead than the plan can use, and start each of them.

        Args:
            worker: carries them out.
            rows: how many items the ledger had before.
        """
        number, most_ahead = 0, self._runtime.limiter.plan.concurrent_jobs
        requests = self._source.each()
        planner = Planner(self._runtime, self._terms, self._backend, self._stop_reason)
        planner.begin(self._source.left(0, fallback=0))
        is_whole = False
        try:
            while not self._is_read:
                await self._flight.has_room(most_ahead)
                if (given := await anext(requests, _NO_MORE)) is _NO_MORE:
                    is_whole = True
                    break
                number += 1
                self._expect(number)
                planned = planner.plan(number, given)
                if isinstance(planned, Item):
                    self._flight.put(planned)
                else:
                    self._flight.start(planned, self._carry_out(worker, planned))
        finally:
            self._expect(None)
            planner.close(rows if is_whole else None)
            await requests.aclose()

    def _expect(self, number: int | None) -> None:
        """Tell the rate limiter how many jobs will come, on which its pacing depends."""
        limiter = self._runtime.limiter
        if number is None:
            limiter.expect(self, 0)
            return
        many = limiter.plan.requests_per_minute * _MANY_MINUTES
        limiter.expect(self, max(self._source.left(number, fallback=many), 1))

    async def _run(self, reader: asyncio.Task[None]) -> None:
        """Wait for everything that was read, then signal the end, after the error that broke the reading."""
        await asyncio.wait([reader])
        await self._flight.wait()
        if self._stop_reason.is_detached:
            return
        end: BaseException | None = None
        if not reader.cancelled():
            end = reader.exception()
        elif self._stop_reason.why is None:
            # Nobody stopped the batch: something inside the source was cancelled before its end.
            end = asyncio.CancelledError("The source of the requests was cancelled.")
        if end is not None:
            self._flight.put_error(end)
        self._flight.put_end()

    async def _carry_out(self, worker: ItemWorker, pending: PendingItem) -> None:
        try:
            item = await worker.carry_out(pending)
        except BaseException:
            if self._ledger_path is None and pending.job is not None:
                # Nothing else records it.
                log.warning(
                    "left the batch of item %r while job %s runs: token %s",
                    pending.key,
                    pending.job.id,
                    pending.token,
                )
            raise
        pending.is_reported = True
        self._flight.put(item)

    def _pass_error(self, error: BaseException) -> None:
        if not self._raise_in_loop(error):
            pass_on(error)

    def _raise_in_loop(self, error: BaseException) -> bool:
        """Raise an error from the loop over the items; False if the loop was left."""
        if not self._is_left:
            self._flight.put_error(error)
        return not self._is_left

    def _wake(self) -> None:
        if self._admission is not None:
            self._admission.close()
        self._flight.changed.set()

    async def _leave(self) -> None:
        self._is_left = True
        await self.aclose()

    async def _let_go(self) -> None:
        try:
            if self._opening is not None:
                # What it opens has to be closed.
                await asyncio.gather(self._opening, return_exceptions=True)
            await self._wait_for_answers()
        finally:
            # Whatever interrupts the wait, such as the end of the loop: free the ledger for the next batch.
            tasks = [task for task in (self._reader, self._runner, *self._flight.tasks) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._admission is not None:
                self._runtime.forget(self._admission)
            try:
                await self._backend.close()
            finally:
                self._source.forget()
                self._runtime.batches.discard(self)
                self._flight.report_untaken(are_recorded=self._ledger_path is not None)
                # For anyone who still awaits the next item.
                self._flight.put_end()

    async def _wait_for_answers(self) -> None:
        if self._runner is None or not self._runner.done():
            self._stop_reason.is_detached = True
            self.stop()
        self._flight.detach()
        # Answers still to come may be about charged jobs: record them. And let the source clean up.
        waits = [*self._flight.tasks, *([] if self._reader is None else [self._reader])]
        if waits:
            await asyncio.wait(waits, timeout=ANSWERS_WITHIN)


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs on that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _check_folder(folder: Path) -> None:
    """Create the output folder, and check that files can be written there.

    Raises:
        ConfigurationError: saying what is wrong with the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / _PROBE
        with suppress(FileExistsError):
            probe.open("xb").close()
        probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise _no_folder(folder, error) from None


def _no_folder(folder: Path, error: Exception) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or error
    return ConfigurationError(f"out is {str(folder)!r}, which cannot be written: {reason}. Nothing was sent.")
