"""The emulator as a program: it listens until it is told to stop, and says how to reach it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any

from doitong_async.cli.exits import CommandError
from doitong_async.cli.report import write_line
from doitong_async.cli.service import EMULATED_KEY
from doitong_async.cli.text import clean

if TYPE_CHECKING:
    from doitong_async.emulator import Emulator


def serve(*, plan: str, key: str | None, **settings: Any) -> None:
    """Run an emulator until SIGINT or SIGTERM.

    Args:
        plan: free, starter or pro.
        key: the one that is accepted; by default any.
        **settings: further arguments of `doitong_async.emulator.Emulator`.

    Raises:
        CommandError: if a setting cannot be, the port is taken, or Pillow is missing.
    """
    if not 0 < settings["speed"] < math.inf:
        raise CommandError(f"--speed is {settings['speed']}; expected a number above zero, 1 for real time.")
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise CommandError("--key is no key: expected printable ASCII characters without spaces.")
    try:
        from doitong_async.emulator import Emulator
    except ImportError as missing:
        raise CommandError(f"{missing}.") from None
    asyncio.run(_serve(Emulator(plan, key=key, **settings), plan, key or EMULATED_KEY, settings))


async def _serve(emulator: Emulator, plan: str, key: str, settings: dict[str, Any]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Elsewhere Ctrl-C comes as KeyboardInterrupt.
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    try:
        await emulator.start()
    except (OSError, UnicodeError) as error:
        await emulator.stop()
        reason = getattr(error, "strerror", None) or error
        raise CommandError(
            f"The emulator cannot listen on {settings['host']} port {settings['port']}: {reason}. "
            "Choose another --port; 0 takes any that is free."
        ) from None
    try:
        for line in _how_to_reach(emulator.url, plan, key):
            write_line(sys.stdout, line)
        await stopped.wait()
    finally:
        await emulator.stop()
        world = emulator.world
        counts = f"{world.count('submit')} submits, {world.count('poll')} looks"
        write_line(sys.stdout, f"stopped: {counts}, {world.charges} jobs charged")


def _how_to_reach(url: str, plan: str, key: str) -> list[str]:
    # The only key that is ever printed: the emulator's own, which opens nothing else.
    environment = {"DOITONG_BASE_URL": url, "DOITONG_API_KEY": key, "DOITONG_PLAN": plan}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    authorization = shlex.quote(f"Authorization: Bearer {key}")
    return [
        clean(f"emulator on {url}, plan {plan}; Ctrl-C stops it"),
        f"export {exports}",
        f"curl -s {url}/v1/text_to_image -H {authorization} -H 'Content-Type: application/json' "
        """-d '{"service": "flux-pro", "prompt": "A futuristic city"}'""",
    ]
