"""Runs `doitong batch`, and reads what it printed and what its ledger holds, for the tests of batches."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from doitong_async.cli import main
from doitong_async.emulator import Emulator, PlanLimits
from tests.cli.commands import at_each_request

WIDE = ["--requests-per-minute", "6000", "--concurrent-jobs", "3"]
WIDE_LIMITS = PlanLimits(6000, 3, None)
Facts = dict[str, Any]


def write_prompts(count: int, name: str = "prompts.txt") -> None:
    Path(name).write_text("".join(f"a fox number {number}\n" for number in range(1, count + 1)))


def run_batch(*arguments: str, file: str = "prompts.txt") -> int:
    return main(["batch", file, "--out", "pictures", *arguments])


def printed_json(capsys: pytest.CaptureFixture[str]) -> Facts:
    """Return the one JSON object that a command printed."""
    facts: Facts = json.loads(capsys.readouterr().out)
    return facts


def batch_status(capsys: pytest.CaptureFixture[str]) -> list[Facts]:
    capsys.readouterr()
    assert main(["batch", "status", "pictures", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def after_jobs(emulator: Emulator, count: int) -> threading.Event:
    """Return an event that is set at the first request after the emulator has made this many jobs."""
    made = threading.Event()
    charges = 0

    def check() -> None:
        nonlocal charges
        if charges >= count:
            made.set()
        charges = emulator.world.charges

    at_each_request(emulator, check)
    return made


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port
