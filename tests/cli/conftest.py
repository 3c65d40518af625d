"""Fixtures of the command line's tests: the environment, virtual time, and a server to talk to."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doitong_async.emulator import Emulator
from doitong_async.testing import run_virtual
from tests.cli.commands import KEY, Serve, Work
from tests.plain_server import PlainServer


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set a key and an empty working directory, and hide what the developer's shell has set."""
    hidden = ("DOITONG_COORDINATOR", "DOITONG_PLAN", "DOITONG_TRANSPORT", "DOITONG_WEBHOOK_SECRET")
    for name in (*hidden, "FORCE_COLOR", "NO_COLOR", "PYTHONWARNINGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOITONG_API_KEY", KEY)
    monkeypatch.setenv("DOITONG_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Restore Python's own SIGINT handler: tests that run in the background inherit "ignore"."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in virtual time: waiting takes none."""
    monkeypatch.setattr(asyncio, "run", run_virtual)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Run commands in virtual time, on one loop with a server whose address they are given."""

    def start(server: Emulator | PlainServer) -> None:
        async def with_server(work: Work) -> Any:
            async with server:
                monkeypatch.setenv("DOITONG_BASE_URL", server.url)
                return await work

        def run(work: Work) -> Any:
            return run_virtual(with_server(work))

        monkeypatch.setattr(asyncio, "run", run)

    yield start
    # An interrupted task complains when it is collected. Collect it here: within another test's `ast.parse`
    # it makes Python 3.11 fail with a SystemError.
    gc.collect()
