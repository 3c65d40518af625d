"""Builds, opens and closes the parts of an open client."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp

from doitong_async.callbacks import pass_on
from doitong_async.clock import wall_time
from doitong_async.connections import session_of
from doitong_async.downloads import Downloads
from doitong_async.errors import ConfigurationError
from doitong_async.events import Hook, Stats
from doitong_async.forks import check_process
from doitong_async.jobs.job import AsyncJob
from doitong_async.jobs.poller import Poller
from doitong_async.jobs.status_poll import StatusPoll
from doitong_async.jobs.token import JobRef
from doitong_async.jobs.tracked import TrackedJob
from doitong_async.limits.admission import Admission, limiter_of
from doitong_async.limits.credits import Credits
from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.users import KeyUser
from doitong_async.resolver import GuardedResolver
from doitong_async.result import Result
from doitong_async.secret import name_of
from doitong_async.settings import Options, Settings
from doitong_async.submissions import SlotsInDoubt, Submissions, with_update
from doitong_async.submit import Submitter
from doitong_async.transport.calls import Transport
from doitong_async.transport.exchange import drop_sockets
from doitong_async.transport.forms import Form
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.transport.rest import RestTransport
from doitong_async.types import Generation, JobStatus
from doitong_async.urls import Places
from doitong_async.webhooks.endpoint import Webhooks

if TYPE_CHECKING:
    from doitong_async.limits.redis.limiter import SharedLimiter


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
        credits_: Credits,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self.settings = settings
        self.notify = notify
        self._webhooks = webhooks
        self.credits: Credits = credits_
        _check_session(session)
        self._user = KeyUser(settings.plan, settings.plan_is_assumed, settings.polls_count)
        self._shared: SharedLimiter | None = None
        if settings.coordinator is not None:
            self._shared = _shared_limiter(settings, self._user)
        self.owns_session: bool = session is None
        places = Places.of_service(
            settings.base_url, settings.output_hosts, allow_insecure_http=settings.allow_insecure_http
        )
        self._resolver = GuardedResolver(places)
        self._session = session or session_of(settings, self._resolver)
        self.limiter: RateLimiter = self._shared or limiter_of(
            settings.api_key.reveal(), settings.base_url, settings.plan, day_starts_at=settings.day_starts_at
        )
        self._admissions: set[Admission] = set()
        self.admission: Admission = self.new_admission()
        self.transport: Transport = self.new_transport(settings.form, settings.api_key.reveal())
        self.downloads: Downloads = Downloads(
            self._session,
            places=places,
            resolver=self._resolver,
            is_own_session=self.owns_session,
            ssl=settings.ssl,
            user_agent=settings.user_agent,
            max_bytes=settings.max_download_bytes,
            timeout=settings.download_timeout,
            min_rate=settings.min_download_rate,
            notify=notify,
        )
        self.poller: Poller = self._new_poller()
        self._in_doubt = SlotsInDoubt(notify)
        self.submissions: Submissions = Submissions(
            self.new_submitter(self.admission),
            self.poller,
            webhooks,
            self._in_doubt,
            credits_,
            notify=notify,
            settings=settings,
            downloads=self.downloads,
        )
        self.is_closing: bool = False
        self.batches: set[Closable] = set()
        """The running batches; they end before the runtime closes."""

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session that sends every request, the user's own or the client's."""
        return self._session

    def check_loop(self) -> None:
        """Check that the running loop is the one that the client was opened on, in this process.

        Raises:
            ConfigurationError: if it is another loop, or none runs, or the process was forked since.
        """
        check_process(self._pid)
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if self.loop is not loop:
            raise ConfigurationError(
                "The client was opened on another event loop. Open one client per loop, with `async with`."
            )

    def _new_poller(self) -> Poller:
        settings = self.settings
        status_poll = StatusPoll(
            self.transport, self.admission, settings.status_query, self.notify, settings.failure_words
        )
        poller = Poller(
            self.admission, status_poll, self.notify, has_webhooks=settings.webhook_url is not None
        )
        if self._shared is not None:
            poller.share(self._shared, settings.failure_words)
        return poller

    def new_transport(self, form: Form, api_key: str) -> Transport:
        """Return a transport for the calls of a form, with that key, over the session of this client."""
        transport = RestTransport if form is Form.REST else GraphQLTransport
        return transport(
            base_url=self.settings.base_url,
            api_key=api_key,
            session=self._session,
            ssl=self.settings.ssl,
            user_agent=self.settings.user_agent,
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

    def stats(self) -> Stats:
        """Return a snapshot of the counters."""
        tracker, circuit = self.credits.tracker, self.limiter.rate.circuit
        return Stats(
            in_flight=len(self.poller.tracker),
            slots_in_use=self.limiter.slots_taken,
            waiting={**self.waiting()},
            requests_left=self.limiter.free,
            mean_seconds=dict(self.poller.durations.means()),
            credits_spent=tracker.spent,
            credits_reserved=tracker.reserved,
            credits_available=circuit.available,
            credits_available_age=circuit.age(self.limiter.now()),
        )

    async def open(self) -> None:
        """Open the transport, join the other processes on the key, then accept webhooks.

        Raises:
            CoordinatorError: if the coordinator will not have us.
        """
        await self.transport.open()
        if self._shared is not None:
            try:
                await self._shared.link.open()
            except BaseException:
                await self.close()
                raise
        shared = self.poller.shared
        self._webhooks.open(self.poller.tracker.observe, None if shared is None else shared.pass_on)

    async def drain(self, seconds: float) -> None:
        """Wait until no submit and no job is in flight, for at most `seconds`."""
        deadline = self.loop.time() + seconds
        while (left := deadline - self.loop.time()) > 0:
            # A stopped poller brings no updates to wait for.
            tracked_jobs = [] if self.poller.is_stopped else list(self.poller.tracker)
            waits: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(self.job(tracked).wait(timeout=left)) for tracked in tracked_jobs
            ]
            if self.submissions.callers:
                waits.append(asyncio.ensure_future(self.submissions.no_callers()))
            if not waits:
                return
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
            self._in_doubt.close()
            # First: a webhook that nobody will process must not be acknowledged.
            self._webhooks.close()
            try:
                await self.poller.close()
            finally:
                try:
                    if self._shared is not None:
                        await self._shared.close()
                finally:
                    await self._close_connections()

    async def _close_connections(self) -> None:
        self.downloads.close()
        await self.transport.close()
        if self.owns_session:
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
        if self.owns_session:
            drop_sockets(self._session)
            await self._session.close()

    async def _wait_for_ends(self) -> None:
        # A batch that cannot close its ledger must not keep the client open.
        await asyncio.gather(*(batch.aclose() for batch in self.batches), return_exceptions=True)
        self.admission.close()
        await self.submissions.close()

    def take_up(self, ref: JobRef, options: Options, *, idempotency_key: str | None = None) -> AsyncJob:
        """Track a job of another process; it takes its submit's slot in doubt, or one without queueing.

        Another process pays for it, unless this one keeps credits for its submit in doubt.
        """
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
                    with_update(usual, update),
                    submitted=now - age,
                    begun=now,
                    epoch=ref.accepted_at,
                    options=options,
                    # A slot belongs to the remote job, so no block holds it here.
                    slot=self._in_doubt.take(idempotency_key) or self.limiter.slot_at_once(ref.id),
                    reservation=self.credits.resume(idempotency_key or ""),
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


def _shared_limiter(settings: Settings, user: KeyUser) -> SharedLimiter:
    """Return the rate limiter of a key that other processes use, too."""
    # Only who shares a key needs what knows Redis.
    from doitong_async.limits.redis.limiter import SharedLimiter
    from doitong_async.limits.redis.store import Store

    assert settings.coordinator is not None
    return SharedLimiter(
        user,
        Store(settings.coordinator.reveal(), name_of(settings.base_url, settings.api_key.reveal())),
        secrets.token_hex(4),
        day_starts_at=settings.day_starts_at,
        has_webhooks=settings.webhook_url is not None,
    )


def _check_session(session: object) -> None:
    """Check that the user's session, if there is one, can be used.

    Raises:
        ConfigurationError: if it is something else, or closed.
    """
    if session is not None and (not isinstance(session, aiohttp.ClientSession) or session.closed):
        raise ConfigurationError(f"session is {session!r}; expected an open aiohttp.ClientSession.")
