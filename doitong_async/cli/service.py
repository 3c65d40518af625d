"""Which service a command speaks to: the real one, an emulator of its own, or one that runs already."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from doitong_async.cli.exits import CommandError, Exit
from doitong_async.client import AsyncDoitong
from doitong_async.events import Event
from doitong_async.limits.plan import Plan

EMULATOR_PORT: Final = 8000
"""Where `doitong emulator` listens if it is not told otherwise."""
EMULATED_KEY: Final = "emulated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the options say of the service, and of how long to wait for it (`timeout`, seconds)."""

    base_url: str | None = None
    plan: str | Plan | None = None
    timeout: float | None = None
    has_own_emulator: bool = False
    is_keyless: bool = False

    @asynccontextmanager
    async def opened(self, on_event: Callable[[Event], object]) -> AsyncIterator[AsyncDoitong]:
        """Yield an open client.

        Raises:
            CommandError: if the API key or Pillow is missing.
            ConfigurationError: naming the setting that cannot be.
        """
        arguments: dict[str, Any] = {"on_event": on_event}
        if self.timeout is not None:
            arguments["timeout"] = self.timeout
        if self.has_own_emulator:
            plan = self.plan or os.environ.get("DOITONG_PLAN") or Plan.PRO
            plan = plan if isinstance(plan, Plan) else Plan.named(plan)
            async with _emulated(plan, arguments) as doitong:
                yield doitong
            return
        arguments |= {"base_url": self.base_url, "plan": self.plan}
        if self.is_keyless:
            arguments["api_key"] = EMULATED_KEY
        elif not os.environ.get("DOITONG_API_KEY"):
            raise CommandError(
                "DOITONG_API_KEY is not set. Nothing was sent. Set it to your API key; to try without one, "
                "use --emulator.",
                Exit.CREDENTIALS,
            )
        async with AsyncDoitong(**arguments) as doitong:
            yield doitong


@asynccontextmanager
async def _emulated(plan: Plan, arguments: dict[str, Any]) -> AsyncIterator[AsyncDoitong]:
    try:
        from doitong_async.testing import emulated
    except ImportError as missing:
        raise CommandError(f"{missing}.") from None
    async with emulated(plan=plan, **arguments) as doitong:
        yield doitong
