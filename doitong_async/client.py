"""What the user holds: opens, wires, closes."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import ssl as tls
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack

from doitong_async.arguments import (
    OptionArguments,
    RequestArguments,
    check_fields,
    check_options,
    checked_idempotency_key,
)
from doitong_async.batch.item_record import KEY_LIVES
from doitong_async.batch.items import read_item
from doitong_async.batch.pending import terms_of
from doitong_async.batch.runner import Batch, Requests
from doitong_async.budget import Budget
from doitong_async.errors import ClientClosedError, ConfigurationError
from doitong_async.events import Event
from doitong_async.hook import Hook
from doitong_async.jobs.job import AsyncJob, told_to_the_log
from doitong_async.jobs.token import read_ref
from doitong_async.limits.plan import Plan
from doitong_async.pricing import Estimate, PriceArgument, estimate
from doitong_async.result import Result
from doitong_async.secret import hidden
from doitong_async.settings import DOWNLOAD_TIMEOUT, MIN_DOWNLOAD_RATE, Options, Settings, settle
from doitong_async.stats import Stats
from doitong_async.types import GenerateRequest, as_request
from doitong_async.webhooks.endpoint import Webhooks
from doitong_async.webhooks.hosts import OutputHosts
from doitong_async.webhooks.signature import Secrets

if TYPE_CHECKING:
    import aiohttp

    from doitong_async.runtime import Runtime

USER_AGENT: Final = "doitong-async/0.1.0"


class _Shared:
    """What a client and all its `with_options` views have in common."""

    def __init__(
        self,
        settings: Settings,
        session: aiohttp.ClientSession | None,
        on_event: Callable[[Event], object] | None,
    ) -> None:
        self.settings = settings
        self.session = session
        self.notify = Hook(on_event)
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
        """Drop what was open on an event loop that was closed before the client: nothing there can end."""
        if (runtime := self.runtime) is not None and runtime.is_dead:
            self.runtime = self.closing = None
            await runtime.drop()


class AsyncDoitong:
    """A client of Doitong: `async with AsyncDoitong(api_key="…", plan=Plan.PRO) as doitong: …`.

    Args:
        api_key: or the environment's DOITONG_API_KEY.
        plan: a `Plan` or its name, or DOITONG_PLAN; `Plan.FREE` by default, the narrowest.
        base_url: the root of the API, or DOITONG_BASE_URL; https://api.doitong.com by default.
        status_operation: the query field that tells a job's status, as in "generation(id: ID!)"; with `Int`
            or `Int!` ids are sent as numbers. Not documented: an assumption.
        failure_statuses: further status words that end a job as failed, such as ("withdrawn",), beside those
            that are known (an assumption); case, "-", "_" and white space make no difference.
        polls_count: whether status requests count against the requests per minute (assumption: they do).
        day_starts_at: seconds after 00:00 UTC at which the day of the plan begins (assumption: 0).
        max_tries: how often a submit is sent at most, 429s not counted (reference, "Retries": 3).
        resend_unanswered: whether a submit that may have arrived is sent again under the same idempotency
            key. That the service honours the key outside the video pages is an assumption.
        max_download_bytes: the largest output that is read.
        download_timeout: seconds that one output may take, retries included, from when it has its place among
            the eight that are fetched at once; an hour by default, our choice.
        min_download_rate: bytes a second, over a minute, below which an output is asked for again; after four
            attempts it is given up. 1,000 by default, our choice; 0 is no bound.
        session: an aiohttp session of your own to send with; it is not closed here.
        trust_env: whether the proxy settings of the environment are used (not with a session of your own).
        ssl: a context with your own CA, or True for the system's.
        user_agent: the `User-Agent` header.
        allow_insecure_http: lets `base_url` be plain http outside this machine, where the key can be read,
            and outputs on the host of the API too.
        on_event: a plain function, called with each value of `doitong_async.events`; it must return quickly.
            To await something, let it put events into a queue: `on_event=queue.put_nowait`. What it raises
            harms nothing, see `doitong_async.hook`.
        webhook_url: where the service tells the end of each job; goes out with each submit, and looks become
            a safety net. It leads to one of the faces of `webhooks`.
        webhook_secret: what the service signs webhooks with, or several while it is changed; or
            DOITONG_WEBHOOK_SECRET.
        webhook_field: where the URL goes in the input of the mutation, as in "options.webhookUrl". Not
            documented for the general form: an assumption.
        output_hosts: the hosts whose URLs are believed when a webhook names them; "cdn.doitong.com" by
            default. With a `base_url` on this machine this machine is one of them. Outputs are fetched from
            any public host; on loopback, link-local and private addresses only if they are named here, or
            `base_url` is on such an address too. With a session of your own a host is looked up before it
            connects: an address that changes in between is not seen; behind a proxy, the proxy looks up.
        **options: see `OptionArguments`.

    Raises:
        ConfigurationError: naming the setting that cannot be, such as an `on_event` that is async.
        TypeError: if a keyword is misspelt; the nearest right one is named.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        plan: Plan | str | None = None,
        base_url: str | None = None,
        status_operation: str = "generation(id: ID!)",
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
        ssl: tls.SSLContext | Literal[True] = True,
        user_agent: str = USER_AGENT,
        allow_insecure_http: bool = False,
        on_event: Callable[[Event], object] | None = None,
        webhook_url: str | None = None,
        webhook_secret: Secrets | None = None,
        webhook_field: str = "webhookUrl",
        output_hosts: Iterable[str] | None = None,
        **options: Unpack[OptionArguments],
    ) -> None:
        api_key, webhook_secret = hidden(api_key), hidden(webhook_secret)
        check_options(options, taker="AsyncDoitong", fixed=_ARGUMENTS)
        settings = settle(
            api_key=api_key,
            base_url=base_url,
            plan=plan,
            status_operation=status_operation,
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
            ssl=ssl,
            user_agent=user_agent,
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
            webhook_field=webhook_field,
            output_hosts=output_hosts,
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
        """Open the client on the running loop; again, too, if the loop that it was open on is closed.

        Raises:
            ConfigurationError: if it is open.
        """
        await self._shared.drop_dead()
        if self._shared.runtime is not None:
            raise ConfigurationError("The client is open already; `async with` it once.")
        # gql and aiohttp take a quarter of a second to import: whoever only builds requests need not wait.
        from doitong_async.runtime import Runtime

        shared = self._shared
        runtime = Runtime(shared.settings, shared.session, shared.notify, shared.webhooks)
        await runtime.open()
        shared.runtime, shared.was_closed = runtime, False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, drain: float | None = None) -> None:
        """Close the client; whoever still waits gets `ClientClosedError` with the job's token.

        Args:
            drain: seconds to wait first for submits under way and jobs in flight to end; None, the default,
                does not wait for jobs, and 10 s at most for answers of submits that were sent.
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
        # A caller that is cancelled leaves no half-closed client behind.
        if shared.closing is not None:
            await asyncio.shield(shared.closing)

    async def _close(self, runtime: Runtime) -> None:
        self._shared.was_closed = True
        try:
            await runtime.close()
        finally:
            self._shared.runtime = self._shared.closing = None

    def with_options(self, **options: Unpack[OptionArguments]) -> AsyncDoitong:
        """Return a view of this client with other options; it shares connections, limits and watcher.

        Raises:
            ConfigurationError: naming the option that cannot be.
            TypeError: if a keyword is misspelt.
        """
        check_options(options, taker="AsyncDoitong.with_options", fixed=_ARGUMENTS)
        view = AsyncDoitong.__new__(type(self))
        view._options = dataclasses.replace(self._options, **options)
        view._shared = self._shared
        return view

    @property
    def webhooks(self) -> Webhooks:
        """Where webhooks come in, by a web application or a queue of yours; before it is open, too."""
        return self._shared.webhooks

    async def generate(
        self,
        prompt: str | GenerateRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestArguments],
    ) -> Result:
        """Make one thing and wait for it.

        Args:
            prompt: what to make, or a whole `GenerateRequest`.
            idempotency_key: by default a random one, made for this call.
            **fields: see `GenerateRequest`.

        Raises:
            BadRequestError: if the request cannot be, before anything is sent.
            DoitongError: as `submit` and `AsyncJob.wait` do.
        """
        check_fields(fields, taker="AsyncDoitong.generate")
        job = await self.submit(prompt, idempotency_key=idempotency_key, **fields)
        with told_to_the_log(job):
            return await job

    async def submit(
        self,
        prompt: str | GenerateRequest | None = None,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[RequestArguments],
    ) -> AsyncJob:
        """Start a job as soon as the plan has a slot for it, and return it without waiting for its end.

        When the caller is cancelled while the request is under way, its answer is still read, and the job is
        watched and logged with its token.

        Args:
            prompt: what to make, or a whole `GenerateRequest`.
            idempotency_key: by default a random one, made for this call.
            **fields: see `GenerateRequest`.

        Raises:
            BadRequestError: if the request cannot be, before anything is sent, or the service refuses it.
            AuthenticationError, InsufficientCreditsError: if the service says so; nothing was charged.
            RateLimitError: if the plan does not let it go within `slot_timeout`.
            DailyLimitError: if the jobs of the day are used up, unless `wait_for_next_day`.
            ConnectionFailedError: if the service cannot be reached.
            ServerError, SubmitOutcomeUnknownError: if it is not known whether a job was made.
            ClientClosedError: if the client is not open, or is closed while this waits.
        """
        check_fields(fields, taker="AsyncDoitong.submit")
        runtime = self._running()
        request = self._filled(as_request(prompt, **fields))
        return await runtime.submit(
            request, idempotency_key=checked_idempotency_key(idempotency_key), options=self._options
        )

    def job(self, id_or_token: str) -> AsyncJob:
        """Take up a job of this or another process; nothing is sent until the next look.

        It takes a slot without queueing, as it runs already; a job of this client stays what it is.

        Args:
            id_or_token: `job.token`, or the bare `job.id`.

        Raises:
            BadRequestError: if it is neither.
        """
        return self._running().take_up(read_ref(id_or_token), self._options)

    def generate_many(
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
        """Make many things: `async for item in doitong.generate_many(…)` yields each item as it ends.

        Run again with the same ledger and the same requests it goes on where it was, whatever broke it off:
        what is done is not made again, what was submitted is taken up. One bad item never ends it.

        Args:
            requests: an iterable or async iterable of prompts, mappings (`key` and fields of
                `GenerateRequest`) or `GenerateRequest`; read no further ahead than the plan can use.
            ledger: the file that makes the batch survive; without one nothing is remembered.
            out: the folder for the outputs; without one they are not fetched.
            budget: credits that may be spent over all runs on the ledger, or a `Budget`.
            price: credits of a job whose price is not documented; or credits by provider.
            retry_failed: whether items that failed are made again, and paid again.
            verify: whether files of items that are done are hashed, and fetched again if they changed.
            key_lives: seconds for which the service knows an idempotency key (assumption: 24 hours).

        Raises:
            BadRequestError, ConfigurationError: if an argument cannot be; what can be wrong later is told
                at `Batch.__aiter__`.
            ClientClosedError: if the client is not open.
        """
        return Batch(
            self._running(),
            requests,
            terms_of(
                self._options,
                out=out,
                budget=budget,
                price=price,
                retry_failed=retry_failed,
                verify=verify,
                key_lives=key_lives,
            ),
            None if ledger is None else Path(ledger),
        )

    def jobs(self) -> list[AsyncJob]:
        """Return the jobs in flight: submitted or taken up by this client, and not seen to end."""
        runtime = self._running()
        return [runtime.job(tracked, self._options) for tracked in runtime.poller]

    def estimate(
        self, requests: Iterable[str | Mapping[str, Any] | GenerateRequest], *, price: PriceArgument = None
    ) -> Estimate:
        """Return what requests cost and how long the plan takes for them; nothing is sent.

        Args:
            requests: prompts, mappings of `GenerateRequest`'s fields and `key`, or requests; read once.
            price: credits of each job whose price is not documented, or credits by provider.

        Raises:
            BadRequestError: if one of them cannot be.
            ConfigurationError: if one has no documented price and `price` does not say it.
        """
        settings, runtime = self._shared.settings, self._shared.runtime
        seen = runtime.poller.durations.means().values() if runtime else ()
        return estimate(
            (self._filled(read_item(each)[1]) for each in requests),
            settings.plan,
            price=price,
            seconds=statistics.fmean(seen) if seen else None,
            polls_count=settings.polls_count,
        )

    def _filled(self, request: GenerateRequest) -> GenerateRequest:
        options = self._options
        return request.with_defaults(provider=options.provider, width=options.width, height=options.height)

    def stats(self) -> Stats:
        """Return how the client does right now."""
        runtime = self._running()
        return Stats(
            in_flight=len(list(runtime.poller)),
            waiting={**runtime.waiting()},
            requests_left=runtime.limiter.free,
            mean_seconds=dict(runtime.poller.durations.means()),
            credits_spent=runtime.poller.credits_spent,
        )

    def _running(self) -> Runtime:
        runtime = self._shared.runtime
        if self._shared.was_closed:
            raise ClientClosedError("The client is closed.")
        if runtime is None:
            raise ClientClosedError("The client is not open yet.")
        if runtime.is_dead:
            raise ClientClosedError(
                "The event loop that the client was open on is closed; open it on this one."
            )
        runtime.check_loop()
        return runtime


_ARGUMENTS: Final = AsyncDoitong.__init__.__annotations__.keys() - {"options", "return"}
