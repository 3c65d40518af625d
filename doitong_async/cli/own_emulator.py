"""An emulator in its own process beside a ledger, which outlives the batch that started it."""

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
"""Seconds without a request after which such an emulator exits."""
_CREDITS: Final = 1_000_000_000
_ANSWERS_WITHIN: Final = 2.0
_NAME: Final = "doitong-async"
_SECRETS: Final = {"DOITONG_API_KEY", "DOITONG_WEBHOOK_SECRET"}


@dataclass(frozen=True, slots=True)
class Address:
    """An emulator's address and process id."""

    url: str
    pid: int

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """Return the address in a file, or None if it has none."""
        try:
            fields = json.loads(path.read_bytes())
            return cls(str(fields["url"]), int(fields["pid"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, path: Path) -> None:
        """Write the address to a file atomically.

        Raises:
            CommandError: if it cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            temporary.write_text(json.dumps({"url": self.url, "pid": self.pid}) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror or error}.") from None

    @classmethod
    def forget(cls, path: Path, pid: int) -> None:
        """Remove the file, if it still holds this process's address."""
        known = cls.read(path)
        if known is not None and known.pid == pid:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def about(self) -> dict[str, Any]:
        """Return what the emulator reports about itself; empty if there is none."""
        return _ask("GET", f"{self.url}/_emulator") or {}

    def answers(self) -> bool:
        """Whether an emulator with this very process id answers."""
        return self.about().get("pid") == self.pid


@dataclass(frozen=True, slots=True)
class OwnEmulator:
    """The emulator of a batch, and the file beside its ledger that holds the address."""

    url: str
    address_file: Path

    @classmethod
    def found_or_started(cls, ledger: Path, plan: Plan, *, speed: float) -> Self:
        """Return the emulator of an earlier run on the same ledger, one at the usual port, or a new one.

        Args:
            ledger: the ledger beside which the address file is kept.
            plan: the limits of a new emulator.
            speed: how many times faster jobs finish on a new emulator.

        Raises:
            CommandError: if it does not start.
        """
        address_file = ledger.with_name(f"{ledger.name}.emulator")
        if (known := Address.read(address_file)) is not None and known.answers():
            return cls(known.url, address_file)
        usual = f"http://127.0.0.1:{EMULATOR_PORT}"
        if (_ask("GET", f"{usual}/_emulator") or {}).get("emulator") == _NAME:
            return cls(usual, address_file)
        _start(address_file, plan, speed)
        started = Address.read(address_file)
        if started is None:
            raise CommandError(f"The emulator started but left no address in {address_file}.")
        return cls(started.url, address_file)

    @staticmethod
    def stop(ledger: Path) -> None:
        """Stop the emulator that a batch started beside its ledger, if there is one."""
        address_file = ledger.with_name(f"{ledger.name}.emulator")
        known = Address.read(address_file)
        if known is None:
            return
        if known.answers():
            _ask("POST", f"{known.url}/_emulator/stop")
        with contextlib.suppress(OSError):
            address_file.unlink(missing_ok=True)


def _start(address_file: Path, plan: Plan, speed: float) -> None:
    """Start an emulator that survives Ctrl-C and the end of this process, and wait until it listens."""
    limits = {
        "--requests-per-minute": plan.requests_per_minute,
        "--concurrent-jobs": plan.concurrent_jobs,
        "--jobs-per-day": plan.jobs_per_day,
    }
    given = [word for name, value in limits.items() if value is not None for word in (name, str(value))]
    settings = ["--port", "0", "--credits", str(_CREDITS), "--speed", str(speed), "--until-idle", str(IDLE)]
    program = [sys.executable, "-m", "doitong_async.cli", "emulator", "--plan", plan.name]
    process = subprocess.Popen(
        [*program, *settings, *given, "--address-file", str(address_file.absolute())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        env=_environment(),
    )
    assert process.stdout is not None
    output = []
    with process.stdout:
        for line in process.stdout:
            if line.startswith("emulator on "):
                # Do not wait for it: it has to outlive this process.
                process.returncode = 0
                return
            output.append(line.strip())
    process.wait()
    raise CommandError(f"The emulator did not start: {' '.join(output) or 'it printed nothing'}")


def _environment() -> dict[str, str]:
    """Return the environment for a child process: without the user's key and webhook secret."""
    others = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return {**others, "DOITONG_WEBHOOK_SECRET": EMULATED_SECRET}


def _ask(method: str, url: str) -> dict[str, Any] | None:
    """Return an emulator's answer, or None if there is none."""
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
