"""What lives while a client is open: connections, rate limiter and poller, opened and closed together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp

from doitong_async.clock import wall_time
from doitong_async.connections import session_of
from doitong_async.downloads import Downloads
from doitong_async.errors import ConfigurationError, ServerError, SubmitOutcomeUnknownError
from doitong_async.events import Hook, SlotExpired, pass_on
from doitong_async.jobs import lifecycle
from doitong_async.jobs.durations import kind_of
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.poller import Poller
from doitong_async.jobs.status_poll import StatusPoll
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.limits.admission import Admission
from doitong_async.limits.limiter import KeyUser
from doitong_async.limits.permits import Slot
from doitong_async.limits.registry import limiter_of
from doitong_async.log import log
from doitong_async.resolver import GuardedResolver
from doitong_async.result import Result
from doitong_async.settings import Options, Settings
from doitong_async.submit import SubmitCall, Submitter
from doitong_async.transport import wire
from doitong_async.transport.exchange import drop_sockets
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.types import GenerateRequest, Generation, JobStatus
from doitong_async.urls import Places
from doitong_async.webhooks.endpoint import Webhooks

IN_DOUBT_FOR: Final = 120.0
"""Seconds that a submit in doubt keeps its slot: our choice. An outage must not block the plan for as long
as a job that is known to run."""
MOST_KNOWN: Final = 256
"""Number of recent jobs whose idempotency key is remembered: our choice."""
SUBMITS_END_WITHIN: Final = 10.0
"""Seconds that closing waits for the answers to submits in flight: our choice."""


class Closable(Protocol):
    """Something that runs on an open client and must end before the client closes."""

    async def aclose(self) -> None:
        """End, and return when done."""

    def is_leaving(self, ledger: Path) -> bool:
        """Whether it is ending and will release that ledger."""

    def drop(self) -> None:
        """Release what outlives its closed event loop."""


class Runtime:
    """Everything that lives while a client is open; create it on the loop it runs on."""

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession | None,
        notify: Hook,
        webhooks: Webhooks,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.settings = settings
        self.notify = notify
        self._webhooks = webhooks
        if session is not None and (not isinstance(session, aiohttp.ClientSession) or session.closed):
            raise ConfigurationError(f"session is {session!r}; expected an open aiohttp.ClientSession.")
        self._owns_session = session is None
        places = Places.of_service(
            settings.base_url, settings.output_hosts, allow_insecure_http=settings.allow_insecure_http
        )
        self._resolver = GuardedResolver(places)
        self._session = session or session_of(settings, self._resolver)
        self.limiter = limiter_of(
            settings.api_key.reveal(), settings.base_url, settings.plan, day_starts_at=settings.day_starts_at
        )
        self._user = KeyUser(settings.plan, settings.plan_is_assumed, settings.polls_count)
        self._admissions: set[Admission] = set()
        self.admission = self.new_admission()
        self.transport = GraphQLTransport(
            base_url=settings.base_url,
            api_key=settings.api_key.reveal(),
            session=self._session,
            ssl=settings.ssl,
            user_agent=settings.user_agent,
        )
        self.downloads = Downloads(
            self._session,
            places=places,
            resolver=self._resolver,
            is_own_session=self._owns_session,
            ssl=settings.ssl,
            user_agent=settings.user_agent,
            max_bytes=settings.max_download_bytes,
            timeout=settings.download_timeout,
            min_rate=settings.min_download_rate,
        )
        status_poll = StatusPoll(
            self.transport, self.admission, settings.status_operation, self.notify, settings.failure_words
        )
        self.poller = Poller(
            self.admission, status_poll, self.notify, has_webhooks=settings.webhook_url is not None
        )
        self._submitter = self.new_submitter(self.admission)
        self._callers = 0
        self._no_callers = asyncio.Event()
        self._submits_in_flight: set[asyncio.Task[AsyncJob]] = set()
        self._in_doubt: dict[str, tuple[Slot, asyncio.TimerHandle]] = {}
        self.is_closing = False
        self.batches: set[Closable] = set()
        """The running batches; they end before the runtime closes."""

    def check_loop(self) -> None:
        """Check that the running loop is the one that the client was opened on.

        Raises:
            ConfigurationError: if it is another loop, or none runs.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if self.loop is not loop:
            raise ConfigurationError(
                "The client was opened on another event loop. Open one client per loop, with `async with`."
            )

    def new_admission(self) -> Admission:
        """Return an admission to the rate limiter that can be closed on its own, with all its waiters."""
        admission = Admission(self.limiter, self._user, self.notify)
        self._admissions.add(admission)
        return admission

    def new_submitter(self, admission: Admission) -> Submitter:
        """Return a submitter that uses that admission."""
        return Submitter(
            self.transport,
            admission,
            max_attempts=self.settings.max_attempts,
            resend_unanswered=self.settings.resend_unanswered,
            failure_words=self.settings.failure_words,
            notify=self.notify,
        )

    def forget(self, admission: Admission) -> None:
        """Close an admission for good."""
        admission.close()
        self._admissions.discard(admission)

    def waiting(self) -> Counter[str]:
        """Return the number of waiting callers, by what they wait for."""
        return sum((admission.waiting() for admission in self._admissions), Counter())

    async def open(self) -> None:
        """Open the transport, then accept webhooks."""
        await self.transport.open()
        self._webhooks.open(self.poller.tracker.observe)

    async def drain(self, seconds: float) -> None:
        """Wait until no submit and no job is in flight, for at most `seconds`."""
        deadline = self.loop.time() + seconds
        while (left := deadline - self.loop.time()) > 0:
            # A stopped poller brings no updates to wait for.
            tracked_jobs = [] if self.poller.is_stopped else list(self.poller.tracker)
            waits_for_anything = bool(tracked_jobs or self._callers)
            jobs = [asyncio.ensure_future(self.job(tracked).wait(timeout=left)) for tracked in tracked_jobs]
            if not waits_for_anything:
                return
            self._no_callers.clear()
            waits: list[asyncio.Future[Any]] = [*jobs]
            if self._callers:
                waits.append(asyncio.ensure_future(self._no_callers.wait()))
            try:
                await asyncio.wait(waits, timeout=left)
            finally:
                for wait in waits:
                    wait.cancel()
                for end in await asyncio.gather(*waits, return_exceptions=True):
                    pass_on(end if isinstance(end, BaseException) else None)

    async def close(self) -> None:
        """Read the answers to submits in flight, wake all waiters and close what was opened."""
        self.is_closing = True
        try:
            await self._wait_for_ends()
        finally:
            # Even if the wait was cut short, as by the end of the loop.
            for slot, timer in self._in_doubt.values():
                timer.cancel()
                slot.keep(timer.when())
            # First: a webhook that nobody will process must not be acknowledged.
            self._webhooks.close()
            try:
                await self.poller.close()
            finally:
                self.downloads.close()
                await self.transport.close()
                if self._owns_session:
                    await self._session.close()
                await self._resolver.close()

    @property
    def is_dead(self) -> bool:
        """Whether its event loop is closed: it can neither go on nor close cleanly."""
        return self.loop.is_closed()

    async def drop(self) -> None:
        """Release sockets and ledgers from another loop, as its own is closed."""
        self.is_closing = True
        for batch in list(self.batches):
            batch.drop()
        self._webhooks.close()
        for task in asyncio.all_tasks(self.loop):
            if task.get_name().startswith("doitong"):
                # Private, but it keeps a task that can never finish from filling the log.
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # of both tasks, C and Python
        if self._owns_session:
            drop_sockets(self._session)
            await self._session.close()

    async def _wait_for_ends(self) -> None:
        # A batch that cannot close its ledger must not keep the client open.
        await asyncio.gather(*(batch.aclose() for batch in self.batches), return_exceptions=True)
        self.admission.close()
        if self._submits_in_flight:
            await asyncio.wait(self._submits_in_flight, timeout=SUBMITS_END_WITHIN)
            for task in self._submits_in_flight:
                task.cancel()
            await asyncio.gather(*self._submits_in_flight, return_exceptions=True)

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
    ) -> AsyncJob:
        """Take a slot, submit, and track the job.

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
        """
        self._callers += 1
        bound = options.slot_timeout
        waits_until = None if bound is None else self.loop.time() + bound
        try:
            submits = submits or self._submitter
            # Before the slot is taken: a request that cannot be encoded must not leave one behind.
            body = body or self._body(request)
            call = SubmitCall(body, idempotency_key, options, kind_of(request), waits_until)
            call.in_doubt, call.before_sending = in_doubt, before_sending
            # No await between the slot and the task that hands it to the job or releases it.
            slot = self._slot_in_doubt(idempotency_key)
            call.was_in_doubt = slot is not None
            slot = slot or await submits.admission.slot(
                timeout=options.slot_timeout, waits_for_day=options.wait_for_next_day
            )
            task = self.loop.create_task(self._submit(submits, call, slot), name="doitong submit")
            self._submits_in_flight.add(task)
            task.add_done_callback(partial(self._on_submit_done, call, slot))
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
                elif not call.is_sending and not self.loop.is_closed():
                    task.cancel()
                raise
        finally:
            self._callers -= 1
            if not self._callers:
                self._no_callers.set()

    def _body(self, request: GenerateRequest) -> bytes:
        settings = self.settings
        variables = wire.submit_variables(
            request, webhook_url=settings.webhook_url, webhook_field=settings.webhook_field
        )
        return wire.encoded(wire.GENERATE, variables)

    def take_up(self, ref: JobRef, options: Options, *, idempotency_key: str | None = None) -> AsyncJob:
        """Track a job of another process; it takes its submit's slot in doubt, or one without queueing."""
        with self.notify.in_order():
            tracked = self.poller.tracker.find(ref.id)
            if tracked is None or tracked.terminal_error is not None:
                now = self.loop.time()
                age = float("inf") if ref.accepted_at is None else max(0.0, wall_time() - ref.accepted_at)
                update = self._webhooks.adopt(ref.id)
                usual = Generation(
                    id=ref.id, status=JobStatus.PROCESSING, type=ref.type, provider=ref.provider
                )
                tracked = TrackedJob(
                    _with_update(usual, update),
                    submitted=now - age,
                    begun=now,
                    epoch=ref.accepted_at,
                    options=options,
                    slot=self._slot_in_doubt(idempotency_key) or self.limiter.slot_at_once(ref.id),
                )
                self.poller.tracker.add(tracked)
            self.poller.tracker.resume(tracked)
        return self.job(tracked, options)

    def job(self, tracked: TrackedJob, options: Options | None = None) -> AsyncJob:
        """Return the awaitable job for a tracked job."""
        return AsyncJob(tracked, self.poller, self.downloads, (options or tracked.options).timeout)

    def remembered(self, done: Generation) -> Result:
        """Return the result of a job of an earlier run; a poll renews its URL if needed."""

        async def renew() -> Generation:
            ref = JobRef(done.id, done.type, done.provider)
            return await self.take_up(ref, Options()).refresh()

        return Result(done, self.downloads, renew=renew, is_remembered=True)

    async def _submit(self, submits: Submitter, call: SubmitCall, slot: Slot) -> AsyncJob:
        """Submit; however it ends, the slot and the log are in order before anybody learns of it."""
        made: Generation | None = None
        try:
            answered = await submits.submit(call)
            self._claim(answered.id, call.key)
            made = answered
            with self.notify.in_order():
                submits.report(call, made)
                return self._track(call, made, slot)
        except BaseException as error:
            if made is None:
                self._release_or_hold(call, slot, error)
            else:
                self._log_made(call, made, slot, error)
            raise

    def _release_or_hold(self, call: SubmitCall, slot: Slot, error: BaseException | None) -> None:
        """Release the slot of a submit that made no job, or keep it if one may have been made."""
        is_in_doubt = isinstance(error, SubmitOutcomeUnknownError | ServerError)
        if is_in_doubt or call.in_doubt or call.was_in_doubt:
            self._hold_in_doubt(call.key, slot, min(call.options.slot_expiry, IN_DOUBT_FOR))
        else:
            slot.release()

    def _log_made(self, call: SubmitCall, made: Generation, slot: Slot, error: BaseException) -> None:
        """Log a job whose submit ended with an error after the job was made."""
        tracked = self.poller.tracker.find(made.id)
        if tracked is None or tracked.slot is not slot:
            slot.keep(self.loop.time() + call.options.slot_expiry, made.id)
        what = f"{type(error).__name__}, {'is over' if made.status.is_terminal else 'goes on'}"
        token = write_token(JobRef(made.id, made.type, made.provider, int(wall_time())))
        log.warning("job %s, whose submit ended with %s: token %s", made.id, what, token)

    def _track(self, call: SubmitCall, made: Generation, slot: Slot) -> AsyncJob:
        """Track the job that a submit made, and return it."""
        update = self._webhooks.adopt(made.id)
        made = _with_update(made, update)
        tracked = self.poller.tracker.find(made.id)
        if tracked is not None and tracked.terminal_error is None:
            # The same key again: the job is tracked already, and has its own slot if it needs one.
            slot.release()
            self.poller.tracker.resume(tracked)
        else:
            slot.job_is_made()
            now = self.loop.time()
            tracked = TrackedJob(
                made,
                submitted=now,
                begun=now,
                epoch=int(wall_time()),
                options=call.options,
                slot=slot,
                kind=call.kind,
            )
            self.poller.tracker.add(tracked)
        if update is not None:
            self.poller.tracker.observe(update)
        return self.job(tracked, call.options)

    def _on_submit_done(self, call: SubmitCall, slot: Slot, task: asyncio.Task[AsyncJob]) -> None:
        self._submits_in_flight.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            # Before its first step.
            self._release_or_hold(call, slot, None)
        if call.is_abandoned:
            pass_on(error)
            _log_abandoned(call, task)

    def _claim(self, job_id: str, key: str) -> None:
        """Note which idempotency key made a job, so that no job is returned for two keys.

        Raises:
            SubmitOutcomeUnknownError: if another key made it; the outcome for this key is unknown.
        """
        made_by = self.limiter.made_by
        other = made_by.setdefault(job_id, key)
        if other != key:
            raise SubmitOutcomeUnknownError(
                f"The service answered with job {job_id}, which was made under another idempotency key: "
                f"{other}.",
                idempotency_key=key,
            )
        if len(made_by) > MOST_KNOWN + 2 * len(self.poller.tracker):
            # Keep all running jobs, and the most recent of the others.
            ended = [job_id for job_id in made_by if self.poller.tracker.find(job_id) is None]
            for job_id in ended[: -MOST_KNOWN // 2]:
                del made_by[job_id]

    def _hold_in_doubt(self, key: str, slot: Slot, age: float) -> None:
        """Keep the slot of a submit in doubt for `age` seconds, as long as most jobs take."""
        if key in self._in_doubt:
            # Two submits under one key make one job at most.
            slot.release()
            return
        log.warning("submit %s may have made a job; keeping its slot for %.0f s.", key, age)
        if self.loop.is_closed():
            # The submit was garbage-collected after its loop closed: no timer will fire.
            slot.keep(self.loop.time() + age)
            return
        self._in_doubt[key] = slot, self.loop.call_later(age, self._expire_in_doubt, key, age)

    def _slot_in_doubt(self, key: str | None) -> Slot | None:
        """Return the slot that an earlier submit under this key still holds, if any."""
        slot, timer = self._in_doubt.pop(key or "", (None, None))
        if timer is not None:
            timer.cancel()
        return slot

    def _expire_in_doubt(self, key: str, age: float) -> None:
        slot, _ = self._in_doubt.pop(key)
        slot.release()
        self.notify.aside(SlotExpired(job_id=None, seconds=age, idempotency_key=key))


def _log_abandoned(call: SubmitCall, task: asyncio.Task[AsyncJob]) -> None:
    """Log the outcome of a submit whose caller is gone: no paid job may be unknown to everybody."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, SubmitOutcomeUnknownError | ServerError):
        # As text: a handler that keeps the record would keep the traceback and all it refers to.
        log.warning("submit %s, whose caller was cancelled: %s", call.key, str(error))
    elif error is None and not task.cancelled():
        job = task.result()
        log.warning("job %s, whose caller was cancelled, goes on: token %s", job.id, job.token)


def _with_update(job: Generation, update: Generation | None) -> Generation:
    """Merge a job with an update that a webhook brought before the job was known here."""
    return job if update is None or lifecycle.leaves_open(update) else lifecycle.merge(job, update)
