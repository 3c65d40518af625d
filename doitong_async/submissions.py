"""Takes a submit from its slot to a tracked job, even if its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from doitong_async.callbacks import pass_on
from doitong_async.clock import wall_time
from doitong_async.downloads import Downloads
from doitong_async.errors import ServerError, SubmitOutcomeUnknownError
from doitong_async.events import Hook, SlotExpired
from doitong_async.jobs import lifecycle
from doitong_async.jobs.durations import kind_of
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.poller import Poller
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.limits.credits import Credits
from doitong_async.limits.permits import IN_DOUBT_FOR, Slot
from doitong_async.log import log
from doitong_async.pricing import most_of
from doitong_async.settings import Options, Settings
from doitong_async.submit import SubmitCall, Submitter
from doitong_async.transport.forms import Form, is_sent_alike, submit_body
from doitong_async.types import GenerateRequest, Generation
from doitong_async.webhooks.endpoint import Webhooks

END_WITHIN: Final = 10.0
"""Seconds that closing waits for the answers to submits in flight: our choice."""


class SlotsInDoubt:
    """The slots of submits that may have made a job, by idempotency key, until they expire.

    Args:
        notify: gets an event for each slot that expires.
    """

    def __init__(self, notify: Hook) -> None:
        self._loop = asyncio.get_running_loop()
        self._notify = notify
        self._held: dict[str, tuple[Slot, asyncio.TimerHandle]] = {}

    def hold(self, key: str, slot: Slot, seconds: float) -> None:
        """Hold the slot of a submit for as long as most jobs take."""
        if key in self._held:
            # Two submits under one key make one job at most.
            slot.release()
            return
        log.warning("submit %s may have made a job; keeping its slot for %.0f s.", key, seconds)
        if self._loop.is_closed():
            # The submit was garbage-collected after its loop closed: no timer will fire.
            slot.keep(self._loop.time() + seconds, key)
            return
        self._held[key] = slot, self._loop.call_later(seconds, self._expire, key, seconds)

    def take(self, key: str | None) -> Slot | None:
        """Return the slot that an earlier submit under this key left, if any."""
        slot, timer = self._held.pop(key or "", (None, None))
        if timer is not None:
            timer.cancel()
        return slot

    def close(self) -> None:
        """Leave each slot taken until it would have expired."""
        for key, (slot, timer) in self._held.items():
            timer.cancel()
            slot.keep(timer.when(), key)

    def _expire(self, key: str, seconds: float) -> None:
        slot, _ = self._held.pop(key)
        slot.release()
        self._notify.aside(SlotExpired(job_id=None, seconds=seconds, idempotency_key=key))


class Submissions:
    """Submit requests, and read the answer of each that was sent, whatever becomes of its caller.

    Args:
        submitter: the client's own.
        poller: tracks the jobs that are made.
        webhooks: may have brought updates of them already.
        in_doubt: takes the slots of submits that may have made a job.
        credits_: the client's budget.
        notify: receives the events.
        settings: say which webhook a request asks for.
        downloads: fetches the outputs of the jobs.
    """

    def __init__(
        self,
        submitter: Submitter,
        poller: Poller,
        webhooks: Webhooks,
        in_doubt: SlotsInDoubt,
        credits_: Credits,
        *,
        notify: Hook,
        settings: Settings,
        downloads: Downloads,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._submitter = submitter
        self._poller = poller
        self._webhooks = webhooks
        self._in_doubt = in_doubt
        self._credits = credits_
        self._notify = notify
        self._settings = settings
        self._downloads = downloads
        self.in_flight: set[asyncio.Task[AsyncJob]] = set()
        self.callers: int = 0
        """How many callers wait for a slot, or for the outcome of their submit."""
        self._no_callers = asyncio.Event()

    async def no_callers(self) -> None:
        """Wait until no caller is left."""
        self._no_callers.clear()
        if self.callers:
            await self._no_callers.wait()

    async def close(self) -> None:
        """Wait for the answers to submits in flight, and cut off those that take too long."""
        if self.in_flight:
            await asyncio.wait(self.in_flight, timeout=END_WITHIN)
            for task in self.in_flight:
                task.cancel()
            await asyncio.gather(*self.in_flight, return_exceptions=True)

    async def submit(
        self,
        request: GenerateRequest,
        *,
        idempotency_key: str,
        options: Options,
        body: bytes | None = None,
        in_doubt: bool = False,
        before_sending: Callable[[bytes, bool], Awaitable[None]] | None = None,
        submits: Submitter | None = None,
        most: float | None = None,
    ) -> AsyncJob:
        """Take a slot, reserve credits, submit, and track the job.

        If the caller is cancelled before anything was sent, the submit ends too. Once it is sent, the answer
        is read whatever happens to the caller: it may be about a paid job.

        Args:
            request: with the defaults filled in.
            idempotency_key: of this job alone.
            options: the timeouts to use.
            body: what was sent under this key before, to resend byte for byte; today's settings could
                encode the request differently, and the service would report a conflict.
            in_doubt: whether it was sent before under this key, perhaps by another process.
            before_sending: awaited before each attempt, once it holds a permit, with the body and whether
                a job may have been made already.
            submits: a submitter to use instead of the client's own.
            most: credits that the job costs at most; by default its documented price, or the client's.
        """
        bound = options.slot_timeout
        if most is None:
            prices = self._settings.price
            most = most_of(request, prices, has_budget=self._settings.budget is not None)
        waits_until = None if bound is None else self._loop.time() + bound
        submits = submits or self._submitter
        call = SubmitCall(
            self._body(request) if body is None else self._checked(body, idempotency_key),
            idempotency_key,
            options,
            kind_of(request),
            request.type,
            request.prompt,
            waits_until,
            in_doubt=in_doubt,
            before_sending=before_sending,
        )
        with self._counted():
            earlier = self._in_doubt.take(idempotency_key)
            earlier = earlier or submits.admission.limiter.kept_slot(idempotency_key)
            call.was_in_doubt = earlier is not None
            with earlier or await submits.admission.slot(
                timeout=bound, waits_for_day=options.wait_for_next_day
            ) as slot:
                call.slot = slot.id
                # With a slot in hand: what waits for one spends nothing soon, and needs no credits yet.
                await self._reserve(submits, call, most or 0.0, slot)
                # A submit outlives its caller, so its task holds slot and credits from here on.
                task = self._start(submits, call, slot.hand_over())
            return await self._outcome(call, task)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.callers += 1
        try:
            yield
        finally:
            self.callers -= 1
            if not self.callers:
                self._no_callers.set()

    def _body(self, request: GenerateRequest) -> bytes:
        settings = self._settings
        return submit_body(
            settings.form, request, webhook_url=settings.webhook_url, webhook_field=settings.webhook_field
        )

    def _checked(self, body: bytes, idempotency_key: str) -> bytes:
        """Return a body that was sent before, if this client would send it to the same address.

        Raises:
            SubmitOutcomeUnknownError: if not: only under its own address does the service know its key.
        """
        form = self._settings.form
        if is_sent_alike(form, body):
            return body
        other = Form.GRAPHQL if form is Form.REST else Form.REST
        raise SubmitOutcomeUnknownError(
            f"It was sent by another transport than {form.value!r} and got no answer. To send it again under "
            f"its idempotency key, use the transport {other.value!r}.",
            idempotency_key=idempotency_key,
        )

    async def _reserve(self, submits: Submitter, call: SubmitCall, most: float, slot: Slot) -> None:
        """Reserve credits for a submit, unless they are kept for an earlier one under its key."""
        if (kept := self._credits.resume(call.key)) is not None:
            call.reservation, call.has_doubtful_credits = kept, True
            return
        try:
            with await submits.admission.reservation(
                self._credits, most, timeout=call.seconds_left()
            ) as reservation:
                call.reservation = reservation.hand_over()
        except BaseException:
            if call.was_in_doubt:
                self._hold_slot(call, slot)
            raise

    def _start(self, submits: Submitter, call: SubmitCall, slot: Slot) -> asyncio.Task[AsyncJob]:
        task = self._loop.create_task(self._submit(submits, call, slot), name="doitong submit")
        self.in_flight.add(task)
        task.add_done_callback(partial(self._on_submit_done, call, slot))
        return task

    async def _outcome(self, call: SubmitCall, task: asyncio.Task[AsyncJob]) -> AsyncJob:
        """Return what a submit made; if the caller leaves first, end it only if nothing was sent."""
        try:
            return await asyncio.shield(task)
        except BaseException as error:
            # Usually a cancellation; or the caller's coroutine was closed or thrown into.
            if task.done() and not task.cancelled() and task.exception() is error:
                raise
            call.is_abandoned = True
            if task.done():
                # It ended in this very iteration of the loop: its callback ran first.
                _log_abandoned(call, task)
            elif not call.is_sending and not self._loop.is_closed():
                task.cancel()
            raise

    async def _submit(self, submits: Submitter, call: SubmitCall, slot: Slot) -> AsyncJob:
        """Submit; however it ends, slot, credits and log are in order before anybody learns of it."""
        made: Generation | None = None
        with slot, call.reservation:
            try:
                answered = await submits.submit(call)
                was_known = self._claim(answered.id, call.key)
                made = answered
                if (earlier := self._credits.resume(call.key)) is not None:
                    # Another submit under this key got no answer: it made this job or none.
                    earlier.release()
                with self._notify.in_order():
                    submits.report(call, made)
                    return self._track(call, made, slot, is_counted=was_known)
            except BaseException as error:
                if made is None:
                    self._hold_if_in_doubt(call, slot, error)
                else:
                    self._log_made(call, made, slot, error)
                raise

    def _on_submit_done(self, call: SubmitCall, slot: Slot, task: asyncio.Task[AsyncJob]) -> None:
        self.in_flight.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            # Before its first step, so it never entered the block that returns its slot.
            with slot, call.reservation:
                self._hold_if_in_doubt(call, slot, None)
        if call.is_abandoned:
            pass_on(error)
            _log_abandoned(call, task)

    def _hold_if_in_doubt(self, call: SubmitCall, slot: Slot, error: BaseException | None) -> None:
        """Hand over slot and credits of a submit that ended without a job, if it may have made one."""
        is_in_doubt = isinstance(error, SubmitOutcomeUnknownError | ServerError) or call.in_doubt
        if is_in_doubt or call.has_doubtful_credits:
            self._credits.keep(call.key, call.reservation.hand_over())
        if is_in_doubt or call.was_in_doubt:
            self._hold_slot(call, slot)

    def _hold_slot(self, call: SubmitCall, slot: Slot) -> None:
        self._in_doubt.hold(call.key, slot.hand_over(), min(call.options.slot_expiry, IN_DOUBT_FOR))

    def _log_made(self, call: SubmitCall, made: Generation, slot: Slot, error: BaseException) -> None:
        """Log a job whose submit ended with an error after the job was made."""
        # Unless the tracked job has the slot: the job holds one at the service, whoever tracks it.
        slot.keep(self._loop.time() + call.options.slot_expiry, made.id)
        call.reservation.settle(made.credit_cost)
        what = f"{type(error).__name__}, {'is over' if made.status.is_terminal else 'goes on'}"
        token = write_token(JobRef(made.id, made.type, made.provider, int(wall_time())))
        log.warning("job %s, whose submit ended with %s: token %s", made.id, what, token)

    def _track(self, call: SubmitCall, made: Generation, slot: Slot, *, is_counted: bool) -> AsyncJob:
        """Track the job that a submit made, and return it; `is_counted` says whether its cost is counted."""
        update = self._webhooks.adopt(made.id)
        made = with_update(made, update)
        tracked = self._poller.tracker.find(made.id)
        if tracked is not None and tracked.terminal_error is None:
            # The same key again: the job is tracked already, and has its own slot if it needs one.
            slot.release()
            self._poller.tracker.resume(tracked)
        else:
            slot.job_is_made()
            # A closed client may have left one with this very job.
            self._submitter.admission.limiter.give_back_kept(made.id)
            now = self._loop.time()
            tracked = TrackedJob(
                made,
                submitted=now,
                begun=now,
                epoch=int(wall_time()),
                options=call.options,
                slot=slot.hand_over(),
                kind=call.kind,
                prompt=call.prompt,
                reservation=None if is_counted else call.reservation.hand_over(),
            )
            self._poller.tracker.add(tracked)
        if update is not None:
            self._poller.tracker.observe(update)
        return AsyncJob(tracked, self._poller, self._downloads, call.options.timeout)

    def _claim(self, job_id: str, key: str) -> bool:
        """Note which idempotency key made a job, so that no job is returned for two keys.

        Returns:
            Whether that was noted before.

        Raises:
            SubmitOutcomeUnknownError: if another key made it; the outcome for this key is unknown.
        """
        tracker = self._poller.tracker
        admission = self._submitter.admission
        was_known = admission.limiter.users.knows(job_id)
        other = admission.limiter.users.claim(
            job_id, key, user=admission.user, is_known=lambda each: tracker.find(each) is not None
        )
        if other != key:
            raise SubmitOutcomeUnknownError(
                f"The service answered with job {job_id}, which was made under another idempotency key: "
                f"{other}.",
                idempotency_key=key,
            )
        return was_known


def _log_abandoned(call: SubmitCall, task: asyncio.Task[AsyncJob]) -> None:
    """Log the outcome of a submit whose caller is gone: no paid job may be unknown to everybody."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, SubmitOutcomeUnknownError | ServerError):
        # As text: a handler that keeps the record would keep the traceback and all it refers to.
        log.warning("submit %s, whose caller was cancelled: %s", call.key, str(error))
    elif error is None and not task.cancelled():
        job = task.result()
        log.warning("job %s, whose caller was cancelled, goes on: token %s", job.id, job.token)


def with_update(job: Generation, update: Generation | None) -> Generation:
    """Merge a job with an update that a webhook brought before the job was known here."""
    return job if update is None or lifecycle.leaves_open(update) else lifecycle.merge(job, update)
