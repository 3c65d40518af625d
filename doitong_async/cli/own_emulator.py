"""An emulator that is a process of its own beside a ledger, and outlives the batch that started it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from doitong_async.cli.exits import CommandError
from doitong_async.cli.service import EMULATED_SECRET, EMULATOR_PORT
from doitong_async.limits.plan import Plan

IDLE: Final = 600.0
"""Seconds without a request after which such an emulator ends by itself."""
_CREDITS: Final = 1_000_000_000
_ANSWERS_WITHIN: Final = 2.0
_NAME: Final = "doitong-async"
_SECRETS: Final = {"DOITONG_API_KEY", "DOITONG_WEBHOOK_SECRET"}


@dataclass(frozen=True, slots=True)
class Address:
    """Where an emulator listens, and which process it is."""

    url: str
    pid: int

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return what a file tells, or None if it tells nothing of the kind."""
        try:
            told = json.loads(path.read_bytes())
            return cls(str(told["url"]), int(told["pid"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Put the address into a file, which is never seen half written.

        Raises:
            CommandError: if it cannot be written.
        """
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            beside.write_text(json.dumps({"url": self.url, "pid": self.pid}) + "\n")
            beside.replace(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from None

    @classmethod
    def forget(cls, path: Path, pid: int) -> None:
        """Remove the file, if it still tells of this process."""
        known = cls.read(path)
        if known is not None and known.pid == pid:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def about(self) -> dict[str, Any]:
        """Return what the emulator there tells of itself; nothing, if there is none."""
        return _ask("GET", f"{self.url}/_emulator") or {}

    def answers(self) -> bool:
        """Whether this very process is an emulator, and alive."""
        return self.about().get("pid") == self.pid


@dataclass(frozen=True, slots=True)
class OwnEmulator:
    """The emulator that a batch uses; `beside` is the file of the one that stands beside its ledger."""

    url: str
    beside: Path

    @classmethod
    def found_or_started(cls, ledger: Path, plan: Plan, *, speed: float) -> Self:
        """Return the emulator of an earlier run on the same ledger, one at the usual port, or a new one.

        Args:
            ledger: beside which its address is kept.
            plan: the limits of a new one.
            speed: how many times faster than in reality jobs end at a new one.

        Raises:
            CommandError: if it does not start.
        """
        beside = ledger.with_name(f"{ledger.name}.emulator")
        if (known := Address.read(beside)) is not None and known.answers():
            return cls(known.url, beside)
        usual = f"http://127.0.0.1:{EMULATOR_PORT}"
        if (_ask("GET", f"{usual}/_emulator") or {}).get("emulator") == _NAME:
            return cls(usual, beside)
        _start(beside, plan, speed)
        started = Address.read(beside)
        if started is None:
            raise CommandError(f"The emulator started, and left no address in {beside}.")
        return cls(started.url, beside)

    @staticmethod
    def stop(ledger: Path) -> None:
        """Ask the emulator that a batch started beside its ledger, if there is one, to end."""
        beside = ledger.with_name(f"{ledger.name}.emulator")
        known = Address.read(beside)
        if known is None:
            return
        if known.answers():
            _ask("POST", f"{known.url}/_emulator/stop")
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _start(beside: Path, plan: Plan, speed: float) -> None:
    """Start an emulator that neither Ctrl-C nor the end of this process ends, and wait until it listens."""
    limits = {
        "--requests-per-minute": plan.requests_per_minute,
        "--concurrent-jobs": plan.concurrent_jobs,
        "--jobs-per-day": plan.jobs_per_day,
    }
    given = [word for name, value in limits.items() if value is not None for word in (name, str(value))]
    settings = ["--port", "0", "--credits", str(_CREDITS), "--speed", str(speed), "--until-idle", str(IDLE)]
    program = [sys.executable, "-m", "doitong_async.cli", "emulator", "--plan", plan.name]
    process = subprocess.Popen(
        [*program, *settings, *given, "--address-file", str(beside.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        env=_environment(),
    )
    assert process.stdout is not None
    said = []
    with process.stdout:
        for line in process.stdout:
            if line.startswith("emulator on "):
                # It is not waited for: it is to live longer than this.
                process.returncode = 0
                return
            said.append(line.strip())
    process.wait()
    raise CommandError(f"The emulator did not start: {' '.join(said) or 'it said nothing'}")


def _environment() -> dict[str, str]:
    """Return what a process of ours inherits: neither the key nor the webhook secret of the user."""
    others = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return {**others, "DOITONG_WEBHOOK_SECRET": EMULATED_SECRET}


def _ask(method: str, url: str) -> dict[str, Any] | None:
    """Return what an emulator answers, or None where there is none."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_ANSWERS_WITHIN)
    try:
        connection.request(method, parts.path)
        answer = json.loads(connection.getresponse().read(1 << 16))
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None
