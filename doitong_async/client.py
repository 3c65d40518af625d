"""The client that the user holds: it opens, wires and closes everything else."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import ssl as tls
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

from doitong_async import __version__
from doitong_async.budget import Budget, as_budget
from doitong_async.check.findings import CheckReport
from doitong_async.errors import ClientClosedError, ConfigurationError
from doitong_async.events import Event, Hook, Stats
from doitong_async.jobs.job import AsyncJob, logged_if_cancelled
from doitong_async.jobs.token import read_ref
from doitong_async.limits.credits import Credits
from doitong_async.limits.plan import Plan
from doitong_async.log import log_as_asked
from doitong_async.pricing import Estimate, PriceArgument, estimate
from doitong_async.result import Result
from doitong_async.secret import hidden
from doitong_async.settings import (
    DOWNLOAD_TIMEOUT,
    KEY_LIVES,
    MIN_DOWNLOAD_RATE,
    STATUS_PATH,
    OptionArguments,
    Options,
    RequestArguments,
    Settings,
    check_fields,
    check_options,
    checked_idempotency_key,
    settle,
)
from doitong_async.types import GenerateRequest, as_request
from doitong_async.webhooks.endpoint import Webhooks
from doitong_async.webhooks.hosts import OutputHosts
from doitong_async.webhooks.signature import Secrets

if TYPE_CHECKING:
    import aiohttp
    from redis.asyncio import Redis

    from doitong_async.batch.batch import Batch
    from doitong_async.batch.item import Item
    from doitong_async.batch.source import BatchArguments, Requests
    from doitong_async.runtime import Runtime

USER_AGENT: Final = f"doitong-async/{__version__}"


class _Shared:
    """What a client shares with all its `with_options` views."""

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession | None,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        if session is not None and settings.proxy is not None:
            raise ConfigurationError(
                "proxy is for a session of the client's own; give yours to its constructor."
            )
        self.settings = settings
        self.session = session
        self.notify = Hook(on_event)
        self.credits = Credits(settings.budget)
        sealed = settings.webhook_secret
        self.webhooks = Webhooks(
            None if sealed is None else sealed.reveal(),
            outputs=OutputHosts.of_service(settings.output_hosts, settings.base_url),
            notify=self.notify,
            failure_words=settings.failure_words,
        )
        self.runtime: Runtime | None = None
        self.closing: asyncio.Future[None] | None = None
        self.was_closed = False

    async def drop_dead(self) -> None:
        """Drop a runtime whose event loop was closed before the client: it can no longer close itself."""
        if (runtime := self.runtime) is not None and runtime.is_dead:
            self.runtime = self.closing = None
            self.credits.drop()
            await runtime.drop()


class AsyncDoitong:
    """A client of Doitong: `async with AsyncDoitong(api_key="…", plan=Plan.PRO) as doitong: …`.

    Args:
        api_key: defaults to the environment variable DOITONG_API_KEY.
        plan: a `Plan` or its name; defaults to DOITONG_PLAN, then to `Plan.FREE`, the smallest.
        base_url: the root of the API; defaults to DOITONG_BASE_URL, then to https://api.doitong.com.
        transport: the documented form of the calls: "graphql", the default; "graphql-flat", the older
            mutations; or "rest", for pictures alone, which polls each job by itself. Defaults to
            DOITONG_TRANSPORT. What a form cannot carry is an error before anything is sent.
        status_operation: the query field that returns a job's status, as in "generation(id: ID!)"; with `Int`
            or `Int!`, ids are sent as numbers. Not documented: an assumption.
        status_path: with `transport="rest"`, the path that returns a job, as in "/v1/generations/{id}". Not
            documented: an assumption.
        failure_statuses: more status words that mean a job failed, such as ("withdrawn",), beside the known
            ones (an assumption). Case, "-", "_" and white space make no difference.
        polls_count: whether status polls count against the requests per minute (assumption: they do).
        day_starts_at: seconds after 00:00 UTC at which the plan's day begins (assumption: 0).
        max_attempts: the most times that a submit is sent, 429s not counted (reference, "Retries": 3).
        resend_unanswered: whether to resend a submit that may have arrived, under the same idempotency key.
            That the service honours the key outside the video pages is an assumption.
        max_download_bytes: the largest output to read.
        download_timeout: seconds that one output may take, retries included, once it is one of the eight
            downloads that run at once; an hour by default, our choice.
        min_download_rate: bytes a second, averaged over a minute, below which a download attempt fails; after
            four attempts the download fails. 1,000 by default, our choice; 0 sets no bound.
        session: your own aiohttp session to send with; the client does not close it.
        trust_env: whether to use the environment's proxies, HTTPS_PROXY and NO_PROXY (not with a session of
            your own).
        proxy: the URL of a proxy for every request, such as "http://user:password@proxy.example:3128" (not
            with a session of your own).
        ssl: a context with your own CA, or True for the system's.
        user_agent: the `User-Agent` header.
        allow_insecure_http: allows plain http for a `base_url` outside this machine, where the key can be
            read in transit, and for outputs on the API's host.
        budget: credits, or a `Budget`, for all jobs that this client submits, also in batches. The highest
            price of a job is reserved with its slot and settled by its `creditCost`; without one it counts in
            full, also if it fails. What does not fit waits while jobs in flight may turn out cheaper.
            Reopening the client changes nothing, and a job resumed by token is not counted again.
        price: credits for a job whose price is not documented, or by provider; with a budget it is needed.
        coordinator: the URL of a Redis server, such as "redis://cache:6379/0", or your own
            `redis.asyncio.Redis` with two connections or more, by which all processes on the API key share
            its plan, its polls and its webhooks; defaults to DOITONG_COORDINATOR, and False means none. All
            of them must use the same one. It needs `pip install 'doitong-async[redis]'`. Without one, each
            process believes it has the plan alone.
        on_event: a plain function that gets each value of `doitong_async.events` and must return quickly. To
            await something, put the events into a queue: `on_event=queue.put_nowait`. An exception in it
            harms nothing, see `doitong_async.events`.
        webhook_url: where the service reports the end of each job. It is sent with each submit, and polling
            becomes a safety net. It must lead to one of the handlers of `webhooks`.
        webhook_secret: what the service signs webhooks with, or several secrets during a rotation; defaults
            to DOITONG_WEBHOOK_SECRET.
        webhook_field: where the URL goes in the input of the mutation, as in "options.webhookUrl". Not
            documented for the general form: an assumption.
        output_hosts: the hosts whose URLs to accept from a webhook; "cdn.doitong.com" by default, and this
            machine if `base_url` is on it. Outputs are fetched from any public host, but from loopback,
            link-local and private addresses only if named here or if `base_url` is on such an address too.
            With a session of your own the client checks a host before the session connects, so it misses an
            address that changes in between; behind a proxy, the proxy resolves the host.
        **options: see `OptionArguments`.

    Raises:
        ConfigurationError: if a setting is invalid, such as an async `on_event`; the message names it.
        TypeError: if a keyword is misspelt; the message suggests the nearest one.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        plan: Plan | str | None = None,
        base_url: str | None = None,
        transport: Literal["graphql", "graphql-flat", "rest"] | None = None,
        status_operation: str = "generation(id: ID!)",
        status_path: str = STATUS_PATH,
        failure_statuses: Iterable[str] = (),
        polls_count: bool = True,
        day_starts_at: float = 0.0,
        max_attempts: int = 3,
        resend_unanswered: bool = True,
        max_download_bytes: int = 1 << 30,
        download_timeout: float = DOWNLOAD_TIMEOUT,
        min_download_rate: float = MIN_DOWNLOAD_RATE,
        session: aiohttp.ClientSession | None = None,
        trust_env: bool = False,
        proxy: str | None = None,
        ssl: tls.SSLContext | Literal[True] = True,
        user_agent: str = USER_AGENT,
        allow_insecure_http: bool = False,
        budget: float | Budget | None = None,
        price: PriceArgument = None,
        coordinator: str | Redis | Literal[False] | None = None,
        on_event: Callable[[Event], object] | None = None,
        webhook_url: str | None = None,
        webhook_secret: Secrets | None = None,
        webhook_field: str = "webhookUrl",
        output_hosts: Iterable[str] | None = None,
        **options: Unpack[OptionArguments],
    ) -> None:
        api_key, webhook_secret, proxy = hidden(api_key), hidden(webhook_secret), hidden(proxy)
        coordinator = hidden(coordinator) if isinstance(coordinator, str) else coordinator
        log_as_asked(os.environ.get("DOITONG_LOG", ""))
        check_options(options, taker="AsyncDoitong", fixed=_ARGUMENTS)
        settings = settle(
            api_key=api_key,
            base_url=base_url,
            plan=plan,
            transport=transport,
            status_operation=status_operation,
            status_path=status_path,
            failure_statuses=failure_statuses,
            allow_insecure_http=allow_insecure_http,
            polls_count=polls_count,
            day_starts_at=day_starts_at,
            max_attempts=max_attempts,
            resend_unanswered=resend_unanswered,
            max_download_bytes=max_download_bytes,
            download_timeout=download_timeout,
            min_download_rate=min_download_rate,
            trust_env=trust_env,
            proxy=proxy,
            ssl=ssl,
            user_agent=user_agent,
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
            webhook_field=webhook_field,
            output_hosts=output_hosts,
            budget=as_budget(budget),
            price=price,
            coordinator=coordinator,
        )
        self._options = Options(**options)
        self._shared = _Shared(settings, session, on_event)

    def __repr__(self) -> str:
        if not hasattr(self, "_shared"):
            return "<AsyncDoitong not made>"
        settings = self._shared.settings
        runtime = self._shared.runtime
        is_open = runtime is not None and not runtime.is_dead
        state = "open" if is_open else "closed" if self._shared.was_closed else "not open"
        return f"<AsyncDoitong {settings.base_url} {settings.plan.name} {state}>"

    async def __aenter__(self) -> Self:
        """Open the client on the running loop, also after the loop that it was open on has closed.

        Raises:
            ConfigurationError: if it is open already.
        """
        await self._shared.drop_dead()
        if self._shared.runtime is not None:
            raise ConfigurationError("The client is open already; `async with` it once.")
        # gql and aiohttp take a quarter of a second to import: code that only builds requests need not wait.
        from doitong_async.runtime import Runtime

        shared = self._shared
        runtime = Runtime(shared.settings, shared.session, shared.notify, shared.webhooks, shared.credits)
        await runtime.open()
        shared.runtime, shared.was_closed = runtime, False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> Self:
        """Open the client without a block, as in a notebook, and return it; end with `await client.aclose()`.

        Raises:
            ConfigurationError: if it is open already.
        """
        return await self.__aenter__()

    async def aclose(self, *, drain: float | None = None) -> None:
        """Close the client; callers that still wait get `ClientClosedError` with the job's token.

        Args:
            drain: seconds to wait first for submits and jobs in flight to end. None, the default, waits for
                no jobs, and at most 10 s for the answers to submits already sent.
        """
        shared = self._shared
        await shared.drop_dead()
        if (runtime := shared.runtime) is None:
            return
        runtime.check_loop()
        if drain is not None:
            await runtime.drain(drain)
        if shared.closing is None and shared.runtime is runtime:
            shared.closing = asyncio.ensure_future(self._close(runtime))
        # A cancelled caller leaves no half-closed client behind.
        if shared.closing is not None:
            await asyncio.shield(shared.closing)

    async def _close(self, runtime: Runtime) -> None:
        self._shared.was_closed = True
        try:
            await runtime.close()
        finally:
            self._shared.runtime = self._shared.closing = None

    def with_options(self, **options: Unpack[OptionArguments]) -> Self:
        """Return a view of this client with other options; it shares connections, limits and poller.

        Raises:
            ConfigurationError: if an option is invalid; the message names it.
            TypeError: if a keyword is misspelt.
        """
        check_options(options, taker="AsyncDoitong.with_options", fixed=_ARGUMENTS)
        view = type(self).__new__(type(self))
        view.__dict__.update(self.__dict__)
        view._options = dataclasses.replace(self._options, **options)
        return view

    @property
    def webhooks(self) -> Webhooks:
        """Takes webhooks from your web application or queue, even before the client is open."""
        return self._shared.webhooks

    async def generate(
        self,
        prompt: str | GenerateRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestArguments],
    ) -> Result:
        """Submit one job and wait for its result.

        Args:
            prompt: what to make, or a whole `GenerateRequest`.
            idempotency_key: by default a random one, made for this call.
            **fields: see `GenerateRequest`.

        Raises:
            BadRequestError: if the request is invalid, before anything is sent.
            DoitongError: as `submit` and `AsyncJob.wait` do.
        """
        check_fields(fields, taker="AsyncDoitong.generate")
        job = await self.submit(prompt, idempotency_key=idempotency_key, **fields)
        with logged_if_cancelled(job):
            return await job

    async def submit(
        self,
        prompt: str | GenerateRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestArguments],
    ) -> AsyncJob:
        """Start a job as soon as the plan has a slot for it, and return it without waiting for its end.

        If the caller is cancelled while the request is in flight, the client still reads the answer, tracks
        the job and logs its token.

        Args:
            prompt: what to make, or a whole `GenerateRequest`.
            idempotency_key: by default a random one, made for this call.
            **fields: see `GenerateRequest`.

        Raises:
            BadRequestError: if the request is invalid, before anything is sent, or the service rejects it.
            AuthenticationError, InsufficientCreditsError: if the service says so; nothing was charged. The
                second one also for 30 s after any 402; then one submit is sent, and the others wait for it.
            BudgetReachedError: if the client's budget does not cover it, and no job in flight changes that.
            RateLimitError: if there is no slot, permit or credit of the budget within `slot_timeout`.
            DailyLimitError: if the day's jobs are used up, unless `wait_for_next_day`.
            ConnectionFailedError: if the service cannot be reached.
            ServerError, SubmitOutcomeUnknownError: if it is unknown whether a job was made.
            ClientClosedError: if the client is not open, or closes during the wait.
        """
        check_fields(fields, taker="AsyncDoitong.submit")
        runtime = self._running()
        request = self._filled(as_request(prompt, **fields))
        return await runtime.submissions.submit(
            request, idempotency_key=checked_idempotency_key(idempotency_key), options=self._options
        )

    def job(self, id_or_token: str) -> AsyncJob:
        """Resume a job of this or another process; nothing is sent until the next poll.

        The job takes a slot without queueing, as it runs already; a job of this client stays as it is.

        Args:
            id_or_token: `job.token`, or the bare `job.id`.

        Raises:
            BadRequestError: if it is neither.
        """
        return self._running().take_up(read_ref(id_or_token), self._options)

    def batch(
        self,
        requests: Requests,
        *,
        ledger: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
        budget: float | Budget | None = None,
        price: PriceArgument = None,
        retry_failed: bool = False,
        verify: bool = False,
        key_lives: float = KEY_LIVES,
    ) -> Batch:
        """Return a batch to run: `async with doitong.batch(…) as batch`, and in it `async for item in batch`.

        It yields each item as it ends. Run it again with the same ledger and requests, and it resumes where
        it stopped: it makes no finished item twice and resumes submitted jobs. One bad item never ends it.

        Args:
            requests: an iterable or async iterable of prompts, mappings (`key` and fields of
                `GenerateRequest`) or `GenerateRequest`; read no further ahead than the plan can use.
            ledger: the file that lets the batch survive a crash; without one nothing is kept.
            out: the folder for the outputs; without one they are not downloaded. No file in it that is not
                the item's is ever replaced: the new name gets a number, as in `fox.2.jpg`.
            budget: credits, or a `Budget`, for all runs on the ledger; the client's own holds, too.
            price: credits for a job whose price is not documented, or by provider; by default the client's.
            retry_failed: whether to make failed items again, and pay for them again.
            verify: whether to hash the files of finished items, and download those that changed again; a
                changed file stays beside the new one.
            key_lives: seconds for which the service remembers an idempotency key (assumption: 24 hours).

        Raises:
            BadRequestError, ConfigurationError: if an argument is invalid; `Batch.__aenter__` lists the
                errors that come later.
            ClientClosedError: if the client is not open.
        """
        from doitong_async.batch.batch import Batch
        from doitong_async.batch.source import RequestSource, terms_of

        return Batch(
            self._running(),
            RequestSource(requests),
            terms_of(
                self._options,
                out=out,
                budget=budget,
                price=self._shared.settings.price if price is None else price,
                retry_failed=retry_failed,
                verify=verify,
                key_lives=key_lives,
            ),
            None if ledger is None else Path(ledger),
        )

    def generate_many(
        self, requests: Requests, **arguments: Unpack[BatchArguments]
    ) -> AsyncGenerator[Item, None]:
        """Run a batch: `async for item in doitong.generate_many(…)` yields each item as it ends.

        The short form of `batch`, for a loop that runs to its end: after a `break` the batch runs until
        Python has closed this generator. The arguments and the errors are those of `batch`.
        """
        return _items_of(self.batch(requests, **arguments))

    async def check(self, *, spend: float = 0.0) -> CheckReport:
        """Find out which assumptions about the service fail at this endpoint, and which settings to use.

        It sends at most six requests, which make no job: polls of ids that cannot exist, two of them with a
        key that we made up, and an introspection. Two test events go to `webhook_url`, if that is set.

        Args:
            spend: credits to spend on one or two of the cheapest jobs on top, 20 or 40; 0 makes none.

        Raises:
            ConfigurationError: if `spend` is no amount, or does not cover one job; nothing was sent.
            ClientClosedError: if the client is not open.
        """
        from doitong_async.check.run import run_check

        return await run_check(self._running(), self._options, spend=spend)

    def jobs(self) -> list[AsyncJob]:
        """Return the jobs in flight: submitted or resumed by this client, and not known to have ended."""
        runtime = self._running()
        return [runtime.job(tracked, self._options) for tracked in runtime.poller.tracker]

    def estimate(
        self, requests: Iterable[str | Mapping[str, Any] | GenerateRequest], *, price: PriceArgument = None
    ) -> Estimate:
        """Estimate the cost of requests and the time the plan needs for them; nothing is sent.

        Args:
            requests: prompts, mappings of `GenerateRequest`'s fields and `key`, or requests; read once.
            price: credits for a job whose price is not documented, or by provider; by default the client's.

        Raises:
            BadRequestError: if one of them is invalid.
            ConfigurationError: if one has no documented price and `price` gives none.
        """
        from doitong_async.batch.source import read_item

        settings, runtime = self._shared.settings, self._shared.runtime
        seen = runtime.poller.durations.means().values() if runtime else ()
        return estimate(
            (self._filled(read_item(each)[1]) for each in requests),
            settings.plan,
            price=settings.price if price is None else price,
            seconds=sum(seen) / len(seen) if seen else None,
            polls_count=settings.polls_count,
        )

    def _filled(self, request: GenerateRequest) -> GenerateRequest:
        options = self._options
        return request.with_defaults(provider=options.provider, width=options.width, height=options.height)

    def stats(self) -> Stats:
        """Return a snapshot of the client's counters."""
        return self._running().stats()

    def _running(self) -> Runtime:
        runtime = self._shared.runtime
        if self._shared.was_closed:
            raise ClientClosedError("The client is closed.")
        if runtime is None:
            raise _not_open("The client is not open yet.")
        if runtime.is_dead:
            raise _not_open("The event loop that the client was open on is closed.")
        runtime.check_loop()
        return runtime


_ARGUMENTS: Final = AsyncDoitong.__init__.__annotations__.keys() - {"options", "return"}


async def _items_of(batch: Batch) -> AsyncGenerator[Item, None]:
    async with batch:
        async for item in batch:
            yield item


def _not_open(message: str) -> ClientClosedError:
    """Return the error for a call that began before there was a client to make it."""
    error = ClientClosedError(message)
    error.outcome, error.advice = "", "Open it with `async with`, or `await client.open()`."
    return error
