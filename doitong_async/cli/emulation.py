"""`doitong emulator`: runs the emulator until it is stopped, and prints how to reach it."""

from __future__ import annotations

import asyncio
import inspect
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from doitong_async.cli.exits import CommandError
from doitong_async.cli.interrupts import handling_signals
from doitong_async.cli.options import AnyPlanName
from doitong_async.cli.render import write_line
from doitong_async.cli.service import EMULATED_KEY
from doitong_async.cli.text import clean
from doitong_async.limits.plan import Plan
from doitong_async.settings import secret_of_environment

if TYPE_CHECKING:
    from doitong_async.emulator import Emulator


def serve(
    *, plan: Plan, key: str | None, webhook_secret: str | None, faults: Sequence[str], **settings: Any
) -> None:
    """Run an emulator until SIGINT or SIGTERM; or print the known faults if "help" is among them.

    Args:
        plan: the limits that it enforces.
        key: the only key to accept; any key by default.
        webhook_secret: signs webhooks; by default DOITONG_WEBHOOK_SECRET.
        faults: the faults to inject, in the text form of `doitong_async.emulator.faults`.
        **settings: further arguments of `doitong_async.emulator.Emulator`.

    Raises:
        CommandError: if a setting is invalid, the port is taken, or Pillow is missing.
    """
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise CommandError("--key is not a key; expected printable ASCII characters without spaces.")
    try:
        from doitong_async.emulator import Emulator, PlanLimits, parse_fault
    except ImportError as missing:
        raise CommandError(f"{missing}.") from None
    if "help" in faults:
        # The module that parses faults documents them.
        write_line(sys.stdout, inspect.getdoc(sys.modules[parse_fault.__module__]) or "")
        return
    try:
        parsed = [parse_fault(text) for text in faults]
    except ValueError as error:
        raise CommandError(f"--fault: {error}. `doitong emulator --fault help` lists all faults.") from None
    limits = PlanLimits(plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day)
    if webhook_secret is not None and not webhook_secret.strip():
        raise CommandError("--webhook-secret is empty; expected the secret that the receiver has.")
    # With the same secret as the commands, its webhooks reach them.
    secret = webhook_secret or secret_of_environment("DOITONG_WEBHOOK_SECRET")
    emulator = Emulator(limits, key=key, faults=parsed, webhook_secret=secret, **settings)
    asyncio.run(_serve(emulator, plan.name, key or EMULATED_KEY, settings))


async def _serve(emulator: Emulator, plan: str, key: str, settings: dict[str, Any]) -> None:
    stopped = asyncio.Event()
    with handling_signals(stopped.set):
        try:
            await emulator.start()
        except (OSError, UnicodeError) as error:
            await emulator.stop()
            reason = getattr(error, "strerror", None) or error
            raise CommandError(
                f"The emulator cannot listen on {settings['host']} port {settings['port']}: {reason}. "
                "Choose another --port; 0 picks a free one."
            ) from None
        try:
            for line in (*_connection_lines(emulator.url, plan, key), *_fault_lines(emulator)):
                write_line(sys.stdout, line)
            await stopped.wait()
        finally:
            await emulator.stop()
            world = emulator.world
            counts = f"{world.count('submit')} submits, {world.count('poll')} polls"
            write_line(sys.stdout, f"stopped: {counts}, {world.charges} jobs charged")


def _connection_lines(url: str, plan: str, key: str) -> list[str]:
    # The only key ever printed: the emulator's own, which opens nothing else.
    environment = {"DOITONG_BASE_URL": url, "DOITONG_API_KEY": key, "DOITONG_PLAN": plan}
    if plan == AnyPlanName.ENTERPRISE:
        # This name alone does not give a program the limits.
        del environment["DOITONG_PLAN"]
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    address, authorization = (
        shlex.quote(word) for word in (f"{url}/v1/text_to_image", f"Authorization: Bearer {key}")
    )
    return [
        clean(f"emulator on {url}, plan {plan}; Ctrl-C stops it"),
        f"export {exports}",
        f"curl -s {address} -H {authorization} -H 'Content-Type: application/json' "
        """-d '{"service": "flux-pro", "prompt": "A futuristic city"}'""",
    ]


def _fault_lines(emulator: Emulator) -> list[str]:
    """Return the faults in force, and a command to copy that sets them again."""
    texts = [str(fault) for fault in emulator.faults]
    if not texts:
        return []
    address, body = shlex.quote(f"{emulator.url}/_emulator/faults"), shlex.quote(json.dumps(texts))
    return [*(clean(f"fault {text}") for text in texts), f"curl -s -X PUT {address} -d {body}"]
