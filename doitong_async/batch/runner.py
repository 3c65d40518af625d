"""Runs a batch: reads requests as the plan can use them, and yields items as they end."""

from __future__ import annotations

import asyncio
import operator
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from doitong_async.batch.backend import LedgerBackend, NoLedger
from doitong_async.batch.ledger import Ledger
from doitong_async.batch.outcome import Item, Outcome, Progress
from doitong_async.batch.pending import PendingItem, Phase, Terms
from doitong_async.batch.planning import Planner
from doitong_async.batch.sending import Sending
from doitong_async.batch.spending import Spending
from doitong_async.batch.sqlite import service_of
from doitong_async.batch.stop_reason import StopReason
from doitong_async.batch.worker import ItemWorker
from doitong_async.clock import wall_time
from doitong_async.errors import (
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    LedgerError,
)
from doitong_async.events import pass_on
from doitong_async.log import log

if TYPE_CHECKING:
    from doitong_async.limits.admission import Admission
    from doitong_async.runtime import Runtime


Requests = Iterable[Any] | AsyncIterable[Any]

ANSWERS_WITHIN: Final = 10.0
"""Seconds that leaving a batch waits for the answers of submits in flight: our choice."""
_MOST_HELD: Final = 32
"""Most items, beyond those that the plan can run, that were read and not yet taken by the loop."""
_MANY_MINUTES: Final = 6
"""Minutes' worth of requests to expect when the source does not say how many will come."""


class Batch:
    """A batch that runs while you iterate it: `async for item in doitong.generate_many(…)`.

    Leaving the loop early detaches it: submitted jobs are recorded and continue at the service.
    """

    def __init__(self, runtime: Runtime, requests: Requests, terms: Terms, ledger: Path | None) -> None:
        is_many = isinstance(requests, Iterable | AsyncIterable)
        if not is_many or isinstance(requests, str | bytes | Mapping):
            raise BadRequestError(
                f"requests is a {type(requests).__name__}; expected an iterable or async iterable of "
                "prompts, mappings or GenerateRequest."
            )
        self._runtime = runtime
        self._requests = requests
        self._terms = terms
        self._ledger_path = ledger
        self._spending = Spending(terms, self._raise_in_loop)
        self._admission: Admission | None = None
        self._stop_reason = StopReason(self._wake)
        self._backend: LedgerBackend = NoLedger()
        self._opening: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], PendingItem] = {}
        self._reader: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None
        self._ended: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._closing: asyncio.Future[None] | None = None
        self._is_read = False
        """Whether to read no more."""
        self._is_left = False
        """Whether nobody takes items any more."""
        self._held = 0
        self._known = 0
        self._counts: Counter[Outcome] = Counter()
        self._most_ahead = 1

    def __aiter__(self) -> AsyncIterator[Item]:
        """Start the batch; it runs once.

        Raises, when it starts:
            LedgerError: if the ledger is in use, damaged, of another version or of another service.
            ConfigurationError: if the output folder cannot be written, or the batch ran before.
            ClientClosedError: if the client is closed, then or later.
        """
        return self._items()

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
        """Return the progress of the batch."""
        phases = Counter(pending.phase for pending in self._tasks.values())
        return Progress(
            items=dict(self._counts),
            known=self._known,
            running=phases[Phase.SENDING] + phases[Phase.RUNNING],
            fetching=phases[Phase.FETCHING],
            waiting=phases[Phase.READ] + phases[Phase.WAITING],
            spent=self._spending.tracker.spent,
            reserved=self._spending.tracker.reserved,
            stopped=self._stop_reason.why,
        )

    async def aclose(self) -> None:
        """Detach the batch: await and record the answers of submits in flight, and leave the jobs running."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._let_go())
        await asyncio.shield(self._closing)

    def drop(self) -> None:
        """Close the ledger while the event loop closes; submitted jobs continue at the service."""
        self._backend.drop()
        self._runtime.batches.discard(self)
        with suppress(RuntimeError):
            # The waiters vanished with the loop and cannot be woken.
            self._ended.put_nowait(ClientClosedError("The event loop of the batch is closed."))

    async def _items(self) -> AsyncGenerator[Item, None]:
        if self._opening is not None or self._closing is not None:
            raise ConfigurationError("This batch ran before; call generate_many again.")
        if self._runtime.loop is not asyncio.get_running_loop():
            raise ConfigurationError("The client of this batch is on another event loop; iterate it there.")
        self._opening = asyncio.create_task(self._open(), name="doitong batch opens")
        try:
            await asyncio.shield(self._opening)
            while (item := await self._ended.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                self._held -= 1
                self._changed.set()
                yield item
        finally:
            self._is_left = True
            await self.aclose()

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
        if self._ledger_path is not None:
            self._backend = ledger = await self._opened(self._ledger_path)
            spending.carry(ledger.totals().spent, ledger.unsettled())
            wall, day = wall_time(), self._runtime.limiter.day
            made = ledger.made_on(day.number(wall))
            day.carry(wall, made, source=ledger.name)
        # Its own admission: when the batch stops, its waiters can be sent away.
        self._admission = self._runtime.new_admission()
        if self._stop_reason.why is not None:
            self._admission.close()
        submits = self._runtime.new_submitter(self._admission)
        stop_reason, wake = self._stop_reason, self._changed.set
        sending = Sending(self._runtime, submits, terms, self._backend, spending, stop_reason, wake)
        worker = ItemWorker(self._runtime, terms, self._backend, spending, stop_reason, sending)
        self._reader = asyncio.create_task(self._read(worker), name="doitong batch reader")
        self._runner = asyncio.create_task(self._run(self._reader), name="doitong batch")

    async def _opened(self, path: Path) -> Ledger:
        service = service_of(self._runtime.settings.base_url)
        try:
            return await Ledger.open(path, service=service)
        except LedgerError:
            # A batch left by `break` still reads late answers for a moment; then it closes its ledger.
            leaving = [other for other in self._runtime.batches if other.is_leaving(path)]
            if not leaving:
                raise
            await asyncio.gather(*(other.aclose() for other in leaving))
            return await Ledger.open(path, service=service)

    def is_leaving(self, ledger: Path) -> bool:
        """Whether this batch closes that ledger soon; not while it waits for one itself."""
        is_open = self._opening is not None and self._opening.done()
        return is_open and self._closing is not None and self._ledger_path == ledger

    async def _read(self, worker: ItemWorker) -> None:
        """Read requests, no further ahead than the plan can use, and start each of them."""
        self._most_ahead = self._runtime.limiter.plan.concurrent_jobs
        number = 0
        requests = _each(self._requests)
        planner = Planner(self._runtime, self._terms, self._backend, self._stop_reason)
        try:
            while not self._is_read and await self._has_room():
                given = await anext(requests, _NO_MORE)
                if given is _NO_MORE:
                    break
                number += 1
                self._expect(number)
                self._take(planner, worker, number, given)
        finally:
            self._expect(None)
            planner.close()
            await requests.aclose()

    async def _run(self, reader: asyncio.Task[None]) -> None:
        """Wait for everything that was read, then signal the end, or the error that broke the reading."""
        await asyncio.wait([reader])
        while self._tasks:
            await asyncio.wait(self._tasks)
            # The callback that removes a finished task may still be due.
            await asyncio.sleep(0)
        if not self._stop_reason.is_detached:
            end: BaseException | None = None
            if not reader.cancelled():
                end = reader.exception()
            elif self._stop_reason.why is None:
                # Nobody stopped the batch: something inside the source was cancelled before its end.
                end = asyncio.CancelledError("The source of the requests was cancelled.")
            self._ended.put_nowait(end)

    async def _has_room(self) -> bool:
        """Wait until one more request may be read."""
        most_held = 4 * self._most_ahead + _MOST_HELD
        is_full = self._held >= most_held
        while True:
            ahead = sum(pending.is_ahead for pending in self._tasks.values())
            # Once full, it refills when half is taken, which saves a loop iteration per item.
            if ahead < self._most_ahead and self._held < (most_held // 2 if is_full else most_held):
                return True
            self._changed.clear()
            await self._changed.wait()

    def _expect(self, number: int | None) -> None:
        """Tell the rate limiter how many jobs will come, on which its pacing depends."""
        limiter = self._runtime.limiter
        if number is None:
            limiter.expect(self, 0)
            return
        fallback = limiter.plan.requests_per_minute * _MANY_MINUTES
        left = operator.length_hint(self._requests, number + fallback) - number
        limiter.expect(self, max(left, 1))

    def _take(self, planner: Planner, worker: ItemWorker, number: int, given: object) -> None:
        self._held += 1
        planned = planner.plan(number, given)
        if isinstance(planned, Item):
            self._put(planned)
            return
        task = asyncio.create_task(self._carry_out(worker, planned), name=f"doitong item {planned.key}")
        self._tasks[task] = planned
        task.add_done_callback(self._on_task_done)

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
        pending.phase = Phase.REPORTED
        self._put(item)

    def _put(self, item: Item) -> None:
        self._known += not item.is_new and item.outcome is Outcome.DONE
        self._counts[item.outcome] += 1
        self._ended.put_nowait(item)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._changed.set()
        if (
            not task.cancelled()
            and (error := task.exception()) is not None
            and not self._raise_in_loop(error)
        ):
            pass_on(error)

    def _raise_in_loop(self, error: BaseException) -> bool:
        """Raise an error from the loop over the items; False if the loop was left."""
        if not self._is_left:
            self._ended.put_nowait(error)
        return not self._is_left

    def _wake(self) -> None:
        if self._admission is not None:
            self._admission.close()
        self._spending.wake()
        self._changed.set()

    async def _let_go(self) -> None:
        try:
            if self._opening is not None:
                # What it opens has to be closed.
                await asyncio.gather(self._opening, return_exceptions=True)
            await self._wait_for_answers()
        finally:
            # Whatever interrupts the wait, such as the end of the loop: free the ledger for the next batch.
            tasks = [task for task in (self._reader, self._runner, *self._tasks) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._admission is not None:
                self._runtime.forget(self._admission)
            try:
                await self._backend.close()
            finally:
                self._requests = ()
                self._runtime.batches.discard(self)
                self._report_untaken()
                # For anyone who still awaits the next item.
                where = "the log" if self._ledger_path is None else "its ledger"
                closed = ClientClosedError(f"The batch was closed. Its jobs are recorded in {where}.")
                self._ended.put_nowait(closed)

    def _report_untaken(self) -> None:
        """Report what nobody took: errors of user code, and items, perhaps charged, that no ledger has."""
        while not self._ended.empty():
            item = self._ended.get_nowait()
            if isinstance(item, BaseException):
                pass_on(item)
            if self._ledger_path is not None or not isinstance(item, Item):
                continue
            if item.result is not None:
                url = item.result.url
                log.warning("nobody took item %r, whose job %s is done: %s", item.key, item.result.id, url)
            elif item.error is not None and (item.error.job_id or item.error.idempotency_key):
                log.warning("nobody took item %r: %s", item.key, str(item.error))

    async def _wait_for_answers(self) -> None:
        if self._runner is None or not self._runner.done():
            self._stop_reason.is_detached = True
            self.stop()
        for task in [task for task, pending in self._tasks.items() if pending.has_job]:
            task.cancel()
        # Answers still to come may be about charged jobs: record them. And let the source clean up.
        waits = [*self._tasks] if self._reader is None else [*self._tasks, self._reader]
        if waits:
            await asyncio.wait(waits, timeout=ANSWERS_WITHIN)


_NO_MORE: Final = object()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller runs on that loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _each(requests: Requests) -> AsyncGenerator[Any, None]:
    source = aiter(requests) if isinstance(requests, AsyncIterable) else iter(requests)
    try:
        if isinstance(source, AsyncIterator):
            async for given in source:
                yield given
        else:
            for given in source:
                yield given
    finally:
        # However early the batch was left, a generator may have to clean up.
        if isinstance(source, AsyncGenerator):
            await source.aclose()
        elif isinstance(source, Generator):
            source.close()


def _check_folder(folder: Path) -> None:
    """Create the output folder, and check that files can be written there.

    Raises:
        ConfigurationError: saying what is wrong with the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise _no_folder(folder, error) from None


def _no_folder(folder: Path, error: Exception) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or error
    return ConfigurationError(f"out is {str(folder)!r}, which cannot be written: {reason}. Nothing was sent.")
