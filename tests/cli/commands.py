"""Starts commands and the servers they talk to, for the tests of the command line."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from doitong_async.emulator import Emulator, Seen, parse_fault
from tests.plain_server import PlainServer, http

KEY = "sk-never-to-be-seen"
COMMAND = [sys.executable, "-m", "doitong_async"]
Serve = Callable[[Emulator | PlainServer], None]
Work = Coroutine[Any, Any, Any]


@contextmanager
def running(emulator: Emulator) -> Iterator[Emulator]:
    """Run an emulator in its own thread, for commands that run in their own processes."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(emulator.start(), loop).result()
        yield emulator
    finally:
        asyncio.run_coroutine_threadsafe(emulator.stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def spawn(*arguments: str, program: Sequence[str] = COMMAND, **more: Any) -> subprocess.Popen[str]:
    """Start the real command with its output in pipes."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.Popen([*program, *arguments], **pipes)


def wait_for(event: threading.Event, process: subprocess.Popen[str]) -> None:
    """Wait for an event that a process causes, however slow the machine; fail if the process ends first."""
    while not event.wait(0.05):
        assert process.poll() is None, process.communicate()


def size_of(picture: Path | io.BytesIO) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def json_answer(status: int, body: object) -> bytes:
    return http(status, json.dumps(body).encode(), "application/json", {})


def accepted_job(**fields: object) -> bytes:
    return json_answer(200, {"data": {"generate": {"id": "job1", "status": "processing", **fields}}})


def on(kind: str, reply: bytes | str) -> Callable[[str, int], bytes | str | None]:
    """Return a script for the plain server: this reply to every request of one kind."""
    return lambda seen, _: reply if seen == kind else None


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding: str = "utf-8"

    def isatty(self) -> bool:
        return True


def spawn_ignoring(signals: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    """Start the real command as nohup or a background shell does: it ignores these signals."""
    return spawn(*arguments, program=["sh", "-c", f"trap '' {signals}; exec \"$@\"", "sh", *COMMAND], **more)


def at_each_request(emulator: Emulator, act: Callable[[], object]) -> None:
    """Call `act` at each request, before its answer is sent."""
    record = emulator.world.record

    def recorded(seen: Seen) -> None:
        record(seen)
        act()

    emulator.world.record = recorded  # type: ignore[method-assign]


def at_submit(emulator: Emulator) -> threading.Event:
    """Return an event that is set when a submit arrives."""
    arrived = threading.Event()
    at_each_request(emulator, arrived.set)
    return arrived


SLOW_SUBMIT = parse_fault("submit: latency 1")
