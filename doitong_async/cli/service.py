"""Checks the API key, and opens the client of a command."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from doitong_async.budget import Budget
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.client import AsyncDoitong
from doitong_async.errors import ConfigurationError
from doitong_async.events import Event
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument
from doitong_async.settings import checked_api_key, secret_of_environment
from doitong_async.transport.forms import Form

EMULATOR_PORT: Final = 8000
"""The default port of `doitong emulator`."""
EMULATED_KEY: Final = "emulated"
_EMULATED_SECRET: Final = "emulated"
"""Signs the webhooks of a command's own emulator, which never gets the user's secret."""
_EMULATED_CREDITS: Final = 1_000_000_000
_TRIAL_JOB: Final = 1.0
"""Seconds that a job takes on a command's own emulator: a trial shows how things go, not how long."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """The URL at which the service reaches this command, and the port on which it listens.

    Without a port the command does not listen: an application of the user's receives there.
    """

    url: str
    port: int | None = None

    @asynccontextmanager
    async def serving(self, doitong: AsyncDoitong) -> AsyncIterator[None]:
        """Receive webhooks for a client, on any path that a proxy uses.

        Raises:
            CommandError: if the port is not available.
        """
        if self.port is None:
            yield
            return
        # aiohttp takes an eighth of a second to import, which only a batch with webhooks should spend.
        from doitong_async.webhooks.serving import served

        try:
            listener = socket.create_server(("", self.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(
                f"Cannot listen on port {self.port} for webhooks: {reason}. Nothing was sent. Choose another "
                "--webhook-port."
            ) from None
        with listener:
            async with served(doitong.webhooks.aiohttp_app(), listener):
                yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The options about the service, and how long to wait for it (`timeout`, seconds).

    With `has_own_emulator` a command runs an emulator inside its own process, whose jobs end `speed` times
    faster, and uses no other server. `proxy` is the URL of a proxy; by default those of the environment.
    `transport` is the form of the calls; by default DOITONG_TRANSPORT. `coordinator` is the URL of the Redis
    server by which processes share the plan; by default DOITONG_COORDINATOR.
    `budget` and `price` are the client's.
    """

    base_url: str | None = None
    plan: str | Plan | None = None
    timeout: float | None = None
    has_own_emulator: bool = False
    speed: float = 1.0
    is_keyless: bool = False
    receiver: Receiver | None = None
    proxy: str | None = None
    transport: Form | None = None
    coordinator: str | None = None
    budget: Budget | None = None
    price: PriceArgument = None

    def __post_init__(self) -> None:
        if self.has_own_emulator and self.base_url is not None:
            raise CommandError("--emulator has its own address. Leave out --base-url, or --emulator.")
        if self.has_own_emulator and self.coordinator is not None:
            raise CommandError(
                "--emulator is for this command alone. Leave out --coordinator, or --emulator."
            )

    @asynccontextmanager
    async def opened(self, on_event: Callable[[Event], object]) -> AsyncIterator[AsyncDoitong]:
        """Yield an open client.

        Raises:
            CommandError: if the API key or Pillow is missing, or the port for webhooks is taken.
            ConfigurationError: naming the invalid setting.
        """
        arguments: dict[str, Any] = {"on_event": on_event, "budget": self.budget, "price": self.price}
        if self.timeout is not None:
            arguments["timeout"] = self.timeout
        if self.transport is not None:
            arguments["transport"] = self.transport
        if self.coordinator is not None:
            arguments["coordinator"] = self.coordinator
        if self.has_own_emulator:
            async with self._emulated(arguments) as doitong:
                yield doitong
            return
        # A proxy of the environment cannot reach an emulator on this machine.
        proxies = {"proxy": self.proxy, "trust_env": not self.is_keyless}
        arguments |= {"base_url": self.base_url, "plan": self.plan, **proxies}
        if self.is_keyless:
            arguments["api_key"] = EMULATED_KEY
        else:
            check_key()
        if self.receiver is not None:
            arguments["webhook_url"] = self.receiver.url
        doitong = AsyncDoitong(**arguments)
        async with AsyncExitStack() as stack:
            if self.receiver is not None:
                await stack.enter_async_context(self.receiver.serving(doitong))
            yield await stack.enter_async_context(doitong)

    @asynccontextmanager
    async def _emulated(self, arguments: dict[str, Any]) -> AsyncIterator[AsyncDoitong]:
        try:
            from doitong_async.testing import emulated
        except ImportError as missing:
            raise CommandError(f"{missing}.") from None
        plan = self.plan or os.environ.get("DOITONG_PLAN") or Plan.PRO
        plan = plan if isinstance(plan, Plan) else Plan.named(plan)
        emulator: dict[str, Any] = {
            "credits": _EMULATED_CREDITS,
            "speed": self.speed,
            "durations": _TRIAL_JOB,
        }
        if self.receiver is not None:
            emulator["webhook_secret"] = _EMULATED_SECRET
            arguments |= {"webhook_url": self.receiver.url, "webhook_secret": _EMULATED_SECRET}
        async with AsyncExitStack() as stack:
            doitong = await stack.enter_async_context(emulated(plan=plan, emulator=emulator, **arguments))
            if self.receiver is not None:
                await stack.enter_async_context(self.receiver.serving(doitong))
            yield doitong


def check_key() -> None:
    """Check that there is an API key.

    Raises:
        CommandError: if there is none, or it is none.
    """
    key = secret_of_environment("DOITONG_API_KEY")
    if key is None:
        raise CommandError(
            "DOITONG_API_KEY is not set. Nothing was sent. Set it to your API key; to try without one, "
            "use --emulator.",
            Exit.CREDENTIALS,
        )
    try:
        checked_api_key(key)
    except ConfigurationError:
        raise CommandError(
            "DOITONG_API_KEY is no key: expected printable ASCII without spaces. Nothing was sent.",
            Exit.CREDENTIALS,
        ) from None
