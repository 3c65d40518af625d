"""What an open client runs on: connections, gate and watcher, opened whole and closed whole."""

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
from doitong_async.events import SlotExpired
from doitong_async.hook import Hook, pass_on
from doitong_async.jobs import lifecycle
from doitong_async.jobs.durations import kind_of
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.poller import Poller
from doitong_async.jobs.status_poll import StatusPoll
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.jobs.tracker import TrackedJob
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
"""Seconds for which a job that may have been made keeps a slot: our choice, as an outage must not block a
plan for as long as a job that is known to run."""
MOST_KNOWN: Final = 256
"""Jobs that were made last, of which the idempotency key is remembered: our choice."""
SUBMITS_END_WITHIN: Final = 10.0
"""Seconds that closing waits for the answers of submits that are under way: our choice."""


class Closable(Protocol):
    """Something that runs on an open client, and has to end before it closes."""

    async def aclose(self) -> None:
        """End, and return when that is done."""

    def is_leaving(self, ledger: Path) -> bool:
        """Whether it ends, and lets go of that ledger then."""

    def drop(self) -> None:
        """Let go of what outlives its event loop, which is closed."""


class Runtime:
    """Everything that lives while a client is open; made on the loop it runs on."""

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
            raise ConfigurationError(
                f"session is {session!r}; expected an aiohttp.ClientSession that is open."
            )
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
        inquiry = StatusPoll(
            self.transport, self.admission, settings.status_operation, self.notify, settings.failure_words
        )
        self.poller = Poller(
            self.admission, inquiry, self.notify, has_webhooks=settings.webhook_url is not None
        )
        self._submitter = self.new_submitter(self.admission)
        self._callers = 0
        self._no_callers = asyncio.Event()
        self._under_way: set[asyncio.Task[AsyncJob]] = set()
        self._in_doubt: dict[str, tuple[Slot, asyncio.TimerHandle]] = {}
        self.is_closing = False
        self.batches: set[Closable] = set()
        """The batches that run on this; they are let go of before it closes."""

    def check_loop(self) -> None:
        """See that the running loop is the one that this was opened on.

        Raises:
            ConfigurationError: if it is another, or there is none.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if self.loop is not loop:
            raise ConfigurationError(
                "The client was opened on another event loop than this; open one on each, with `async with`."
            )

    def new_admission(self) -> Admission:
        """Return a way through the gate that can be closed alone, with all who wait there."""
        admission = Admission(self.limiter, self._user, self.notify)
        self._admissions.add(admission)
        return admission

    def new_submitter(self, admission: Admission) -> Submitter:
        """Return what sends submits by that way."""
        return Submitter(
            self.transport,
            admission,
            max_attempts=self.settings.max_attempts,
            resend_unanswered=self.settings.resend_unanswered,
            failure_words=self.settings.failure_words,
            notify=self.notify,
        )

    def forget(self, admission: Admission) -> None:
        """Close a way through the gate for good."""
        admission.close()
        self._admissions.discard(admission)

    def waiting(self) -> Counter[str]:
        """Return how many callers wait, by what they wait for."""
        return sum((admission.waiting() for admission in self._admissions), Counter())

    async def open(self) -> None:
        """Make the transport ready, then let webhooks in."""
        await self.transport.open()
        self._webhooks.open(self.poller.observe)

    async def drain(self, seconds: float) -> None:
        """Wait until no submit is under way and no job in flight, at most so many seconds."""
        deadline = self.loop.time() + seconds
        while (left := deadline - self.loop.time()) > 0:
            # A watcher that brings no news has nothing to be waited for.
            tracked_jobs = [] if self.poller.is_stopped else list(self.poller)
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
        """Read the answers of submits under way, wake whoever waits, and close what was opened."""
        self.is_closing = True
        try:
            await self._wait_for_ends()
        finally:
            # Whatever cut the waiting off, as the end of the loop does.
            for slot, timer in self._in_doubt.values():
                timer.cancel()
                slot.keep(timer.when())
            # First: what nobody takes any more must not be acknowledged.
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
        """Whether its event loop is closed: it can neither go on nor be closed in order."""
        return self.loop.is_closed()

    async def drop(self) -> None:
        """Let go of sockets and ledgers from another loop, as its own is closed."""
        self.is_closing = True
        for batch in list(self.batches):
            batch.drop()
        self._webhooks.close()
        for task in asyncio.all_tasks(self.loop):
            if task.get_name().startswith("doitong"):
                # Private, and only to spare the log: it will never be run to its end.
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # of both tasks, C and Python
        if self._owns_session:
            drop_sockets(self._session)
            await self._session.close()

    async def _wait_for_ends(self) -> None:
        # A batch that cannot close its ledger does not keep the client from closing.
        await asyncio.gather(*(batch.aclose() for batch in self.batches), return_exceptions=True)
        self.admission.close()
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=SUBMITS_END_WITHIN)
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)

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
        """Take a slot, submit, and watch the job that was made.

        A caller that leaves before anything was sent takes its request along. Once it is sent, the answer is
        read whatever becomes of the caller: it may be about a job that is paid for.

        Args:
            request: with the defaults filled in.
            idempotency_key: of this job alone.
            options: how long to wait for what.
            body: what was sent under this key before, to be sent again as it was; settings of today
                would make another of the same request, and the service a conflict of that.
            in_doubt: whether it was sent before under this key, perhaps by another process.
            before_sending: is awaited before each try, when nothing keeps it back any more; it is told
                the body, and whether a job may have been made by then.
            submits: another way than the client's own.
        """
        self._callers += 1
        bound = options.slot_timeout
        waits_until = None if bound is None else self.loop.time() + bound
        try:
            submits = submits or self._submitter
            # Before the slot is taken: a request that cannot be written leaves none behind.
            body = body or self._body(request)
            call = SubmitCall(body, idempotency_key, options, kind_of(request), waits_until)
            call.in_doubt, call.before_sending = in_doubt, before_sending
            # Nothing stands between the slot and the task that hands it to the job, or gives it back.
            slot = self._slot_in_doubt(idempotency_key)
            call.was_in_doubt = slot is not None
            slot = slot or await submits.admission.slot(
                timeout=options.slot_timeout, waits_for_day=options.wait_for_next_day
            )
            task = self.loop.create_task(self._submit(submits, call, slot), name="doitong submit")
            self._under_way.add(task)
            task.add_done_callback(partial(self._submit_is_over, call, slot))
            try:
                return await asyncio.shield(task)
            except BaseException as error:
                # A cancellation, most often; or its caller's coroutine was closed, or thrown into.
                if task.done() and not task.cancelled() and task.exception() is error:
                    raise
                call.is_abandoned = True
                if task.done():
                    # It ended in this very turn of the loop: its callback came before this.
                    _tell_of_abandoned(call, task)
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
        """Watch a job of another process; it takes a slot without queueing, or its submit's if in doubt."""
        with self.notify.in_order():
            tracked = self.poller.find(ref.id)
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
                self.poller.add(tracked)
            self.poller.resume(tracked)
        return self.job(tracked, options)

    def job(self, tracked: TrackedJob, options: Options | None = None) -> AsyncJob:
        """Return the awaitable face of a watch."""
        return AsyncJob(tracked, self.poller, self.downloads, (options or tracked.options).timeout)

    def remembered(self, done: Generation) -> Result:
        """Return the result of a job of an earlier run; where its output is now is asked if need be."""

        async def renew() -> Generation:
            ref = JobRef(done.id, done.type, done.provider)
            return await self.take_up(ref, Options()).refresh()

        return Result(done, self.downloads, renew=renew, is_remembered=True)

    async def _submit(self, submits: Submitter, call: SubmitCall, slot: Slot) -> AsyncJob:
        """Submit; whatever ends it, slot and log are in order before anybody, or the loop, hears of it."""
        made: Generation | None = None
        try:
            answered = await submits.submit(call)
            self._claim(answered.id, call.key)
            made = answered
            with self.notify.in_order():
                submits.tell(call, made)
                return self._watched(call, made, slot)
        except BaseException as error:
            if made is None:
                self._put_back(call, slot, error)
            else:
                self._leave(call, made, slot, error)
            raise

    def _put_back(self, call: SubmitCall, slot: Slot, error: BaseException | None) -> None:
        """Give back the slot of a submit that brought no job, or keep it where one may have been made."""
        is_in_doubt = isinstance(error, SubmitOutcomeUnknownError | ServerError)
        if is_in_doubt or call.in_doubt or call.was_in_doubt:
            self._hold_in_doubt(call.key, slot, min(call.options.slot_expiry, IN_DOUBT_FOR))
        else:
            slot.release()

    def _leave(self, call: SubmitCall, made: Generation, slot: Slot, error: BaseException) -> None:
        """Tell at least the log of a job that was made, and that its submit does not return."""
        tracked = self.poller.find(made.id)
        if tracked is None or tracked.slot is not slot:
            slot.keep(self.loop.time() + call.options.slot_expiry, made.id)
        what = f"{type(error).__name__}, {'is over' if made.status.is_terminal else 'goes on'}"
        token = write_token(JobRef(made.id, made.type, made.provider, int(wall_time())))
        log.warning("job %s, whose submit ended with %s: token %s", made.id, what, token)

    def _watched(self, call: SubmitCall, made: Generation, slot: Slot) -> AsyncJob:
        """Watch the job that a submit made, and return it."""
        update = self._webhooks.adopt(made.id)
        made = _with_update(made, update)
        tracked = self.poller.find(made.id)
        if tracked is not None and tracked.terminal_error is None:
            # The same key again: the job is known, and has a slot of its own if it needs one.
            slot.release()
            self.poller.resume(tracked)
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
            self.poller.add(tracked)
        if update is not None:
            self.poller.observe(update)
        return self.job(tracked, call.options)

    def _submit_is_over(self, call: SubmitCall, slot: Slot, task: asyncio.Task[AsyncJob]) -> None:
        self._under_way.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            # Before its first step.
            self._put_back(call, slot, None)
        if call.is_abandoned:
            pass_on(error)
            _tell_of_abandoned(call, task)

    def _claim(self, job_id: str, key: str) -> None:
        """Note which idempotency key made a job: one job for two keys would be paid once and sold twice.

        Raises:
            SubmitOutcomeUnknownError: if another key made it; what became of this one's job is not known.
        """
        made_by = self.limiter.made_by
        other = made_by.setdefault(job_id, key)
        if other != key:
            raise SubmitOutcomeUnknownError(
                f"The service answered with job {job_id}, which was made under another idempotency key: "
                f"{other}.",
                idempotency_key=key,
            )
        if len(made_by) > MOST_KNOWN + 2 * len(list(self.poller)):
            # Those that run are all kept, and of the others the last ones.
            ended = [job_id for job_id in made_by if self.poller.find(job_id) is None]
            for job_id in ended[: -MOST_KNOWN // 2]:
                del made_by[job_id]

    def _hold_in_doubt(self, key: str, slot: Slot, age: float) -> None:
        """Keep the slot of a job that may have been made for as long as most jobs would take."""
        if key in self._in_doubt:
            # Twice under one key is one job at most.
            slot.release()
            return
        log.warning("submit %s may have made a job: its slot is kept for %.0f s.", key, age)
        if self.loop.is_closed():
            # A submit that was collected after its loop: no timer will come back to it.
            slot.keep(self.loop.time() + age)
            return
        self._in_doubt[key] = slot, self.loop.call_later(age, self._let_go, key, age)

    def _slot_in_doubt(self, key: str | None) -> Slot | None:
        """Return the slot that the same submit holds already, if it is sent again under its key."""
        slot, timer = self._in_doubt.pop(key or "", (None, None))
        if timer is not None:
            timer.cancel()
        return slot

    def _let_go(self, key: str, age: float) -> None:
        slot, _ = self._in_doubt.pop(key)
        slot.release()
        self.notify.aside(SlotExpired(job_id=None, seconds=age))


def _tell_of_abandoned(call: SubmitCall, task: asyncio.Task[AsyncJob]) -> None:
    """Log what became of a submit that nobody waits for any more: no paid job may be unknown to everybody."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, SubmitOutcomeUnknownError | ServerError):
        # As text: a handler that keeps the record would keep the traceback, and all that hangs on it.
        log.warning("submit %s, whose caller was cancelled: %s", call.key, str(error))
    elif error is None and not task.cancelled():
        job = task.result()
        log.warning("job %s, whose caller was cancelled, goes on: token %s", job.id, job.token)


def _with_update(job: Generation, update: Generation | None) -> Generation:
    """Return what is known of a job with what a webhook told of it before it was known here."""
    return job if update is None or lifecycle.leaves_open(update) else lifecycle.merge(job, update)
