"""The object `doitong.webhooks`: verifies webhooks, and passes their updates to the tracker."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from doitong_async.callbacks import Throw
from doitong_async.errors import ClientClosedError, ConfigurationError
from doitong_async.events import Hook, WebhookDropped, WebhookReceived
from doitong_async.secret import hidden
from doitong_async.types import Generation, with_failures
from doitong_async.webhooks.handler import READ_TIMEOUT, OnWebhook, WebhookHandler
from doitong_async.webhooks.hosts import OutputHosts
from doitong_async.webhooks.signature import Secrets, checked_secrets, parse, verify
from doitong_async.webhooks.unmatched import UnmatchedEvents

if TYPE_CHECKING:
    from aiohttp import web

    from doitong_async.webhooks.adapters import AsgiApp

Take: TypeAlias = Callable[[Generation], Throw | None]
"""Applies an update like one from a poll; None if the job is not tracked, else what reaches its awaiter."""


PassOn: TypeAlias = Callable[[Generation], Awaitable[None]]
"""Gives an update to the other processes on the key; returns once they will know."""

REMEMBERED: Final = 10_000
"""Recent jobs to remember, so that a late event of one is not kept as unmatched: our choice."""


class Webhooks:
    """`doitong.webhooks`: one endpoint for web applications and for queues of your own.

    It exists, and can be mounted, before the client is open. Until the client opens, and once it closes, the
    service is asked to send events again.

    Args:
        secrets: the webhook secret, or several during a rotation; None: no event can be verified.
        outputs: the hosts that outputs may come from.
        notify: receives an event for each webhook that was accepted or dropped.
        failure_words: further statuses that mean failure, in the form in which they are compared.

    Raises:
        ConfigurationError: if a secret is empty.
    """

    def __init__(
        self,
        secrets: Secrets | None,
        *,
        outputs: OutputHosts | None = None,
        notify: Hook | None = None,
        failure_words: frozenset[str] = frozenset(),
    ) -> None:
        secrets = hidden(secrets)
        self._secrets = None if secrets is None else checked_secrets(secrets)
        self._outputs = outputs or OutputHosts()
        self._notify = notify or Hook(None)
        self._failure_words = failure_words
        self._unmatched = UnmatchedEvents()
        self._known: dict[str, None] = {}
        self._open_on: tuple[Take, asyncio.AbstractEventLoop] | None = None
        self._pass_on: PassOn | None = None
        self._timer: asyncio.TimerHandle | None = None

    def aiohttp_app(
        self, *, on_event: OnWebhook | None = None, read_timeout: float = READ_TIMEOUT
    ) -> web.Application:
        """Return an aiohttp application that accepts webhooks: `app.add_subapp("/doitong", …)`.

        It accepts the POST under any path that reaches it: mounted or alone, behind a proxy that strips the
        prefix or one that does not. The signature decides.

        Args:
            on_event: a durable hook, sync or async, called with each snapshot before it is acknowledged. It
                also gets jobs that are unknown here, and repeated webhooks. If it fails, the service is asked
                to send the webhook again.
            read_timeout: seconds in which the whole body must arrive.

        Raises:
            ConfigurationError: if there is no webhook secret, or the timeout or the hook is invalid.
        """
        # Importing aiohttp takes an eighth of a second; only callers that need it pay for it.
        from doitong_async.webhooks import adapters

        return adapters.aiohttp_app(self._handler(on_event, read_timeout))

    def asgi_app(self, *, on_event: OnWebhook | None = None, read_timeout: float = READ_TIMEOUT) -> AsgiApp:
        """Return an ASGI application for webhooks: `app.mount("/doitong", …)` in FastAPI or Starlette.

        It accepts the POST under any path that reaches it, behind a proxy that strips a prefix or one that
        does not: the signature decides. Starlette redirects the path of a mount without its final slash, so
        the `webhook_url` must be `https://…/doitong/`, with the slash.

        Args:
            on_event: a durable hook, as for `aiohttp_app`.
            read_timeout: seconds in which the whole body must arrive.

        Raises:
            ConfigurationError: if there is no webhook secret, or the timeout or the hook is invalid.
        """
        from doitong_async.webhooks import adapters

        return adapters.asgi_app(self._handler(on_event, read_timeout))

    async def deliver(self, body: bytes, header: str | None) -> None:
        """Accept a webhook that arrived in another way, such as a queue; return once it is applied.

        Args:
            body: the raw bytes of the request, not yet parsed.
            header: its one `X-Doitong-Signature`, or None if there was none or several.

        Raises:
            WebhookSignatureError: if none of the secrets signed it; nothing was used.
            WebhookPayloadError: if it is signed but names no job.
            ClientClosedError: if the client is not open: deliver it again later.
            CoordinatorError: if it is about another process's job, and the coordinator cannot be reached:
                deliver it again later.
            ConfigurationError: if there is no webhook secret, or the client runs on another event loop.
        """
        await self.accept(body, header)

    async def accept(self, body: bytes, header: str | None) -> Generation:
        """Accept a webhook like `deliver`, and return its update, without what we do not trust."""
        if self._secrets is None:
            raise ConfigurationError(_NO_SECRET)
        verify(body, header, self._secrets)
        update = with_failures(self._outputs.believed(parse(body)), self._failure_words)
        if self._open_on is None:
            raise ClientClosedError("A webhook came while the client was not open.", job_id=update.id)
        take, loop = self._open_on
        if asyncio.get_running_loop() is not loop:
            raise ConfigurationError(
                "The client was opened on another event loop. Deliver its webhooks on that loop."
            )
        if (awaiter := take(update)) is not None:
            if self._notify:
                self._notify.aside(WebhookReceived(job_id=update.id, status=update.status), awaiter)
        elif update.id not in self._known:
            if self._pass_on is not None:
                # Before it is acknowledged: nobody sends it again.
                await self._pass_on(update)
                return update
            # Keep only the essentials of a large body: a poll can fetch the rest.
            is_large = len(body) > _LARGE
            self._keep(dataclasses.replace(update, metadata=None) if is_large else update, loop)
        return update

    def adopt(self, job_id: str) -> Generation | None:
        """Return and forget the unmatched events of a job, or None.

        Call this when tracking of a job begins; later events of the job are then never kept as unmatched.
        """
        self._known[job_id] = None
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        update = self._unmatched.adopt(job_id)
        if update is not None and self._notify:
            self._notify(WebhookReceived(job_id=job_id, status=update.status))
        return update

    def open(self, take: Take, pass_on: PassOn | None = None) -> None:
        """Accept events from now on, on the running loop; `pass_on` gets those of jobs that are not ours."""
        self._open_on = take, asyncio.get_running_loop()
        self._pass_on = pass_on

    def close(self) -> None:
        """Accept no more events, and drop the unmatched ones."""
        self._open_on = None
        self._known.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop(float("inf"))

    def _handler(self, on_event: OnWebhook | None, read_timeout: float) -> WebhookHandler:
        if self._secrets is None:
            raise ConfigurationError(_NO_SECRET)
        return WebhookHandler(self.accept, on_event, read_timeout=read_timeout)

    def _keep(self, update: Generation, loop: asyncio.AbstractEventLoop) -> None:
        evicted = self._unmatched.keep(update, loop.time())
        if evicted is not None:
            self._notify.aside(WebhookDropped(job_id=evicted))
        self._set_timer(loop)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        moment = self._unmatched.next_end
        if self._timer is None and moment is not None:
            self._timer = loop.call_at(moment, self._time_is_over, loop)

    def _time_is_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._drop(loop.time())
        self._set_timer(loop)

    def _drop(self, now: float) -> None:
        for job_id in self._unmatched.drop(now):
            self._notify.aside(WebhookDropped(job_id=job_id))


_LARGE: Final = 1 << 14
"""Bytes; a documented webhook has about 300."""
_NO_SECRET: Final = (
    "There is no webhook secret; give webhook_secret=… or set DOITONG_WEBHOOK_SECRET. Without it anybody "
    "could send events."
)
