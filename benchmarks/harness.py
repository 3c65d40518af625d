"""One way to measure for all: competitors in processes of their own, rounds in turn, few numbers."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LIBRARIES: Final = ("doitong-async", "aiohttp", "gql", "httpx", "pydantic")


@dataclass(frozen=True)
class Sample:
    """One round of one competitor: seconds of its own CPU and of the wall's clock, and what it did."""

    cpu: float
    wall: float
    operations: int
    rss: int
    more: Mapping[str, float]

    @property
    def cpu_each(self) -> float:
        """Seconds of CPU an operation."""
        return self.cpu / self.operations

    @property
    def wall_each(self) -> float:
        """Seconds of wall time an operation."""
        return self.wall / self.operations


@dataclass(frozen=True)
class Spread:
    """A few numbers about many."""

    least: float
    median: float
    p99: float


def spread(values: Sequence[float]) -> Spread:
    """Return least, median and 99th percentile; of fewer than a hundred values that is the greatest.

    Raises:
        ValueError: if there are none.
    """
    if not values:
        raise ValueError("no values, no spread")
    return Spread(min(values), median(values), percentile(values, 0.99))


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that at least this share of all do not exceed."""
    ordered = sorted(values)
    place = max(0, -(-int(share * 1e9) * len(ordered) // 10**9) - 1)
    return ordered[min(place, len(ordered) - 1)]


class Worker:
    """A competitor in a process of its own, which does a round whenever it is told to.

    Args:
        competitor: its class, as "module:name".
        arguments: what it is made with.
    """

    def __init__(self, competitor: str, arguments: Mapping[str, object]) -> None:
        self._process = _start("benchmarks.worker", competitor, json.dumps(arguments))

    def round(self, operations: int) -> Sample:
        """Do so many operations and return what they cost."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{operations}\n")
        self._process.stdin.flush()
        return Sample(**_answer(self._process))

    def close(self) -> None:
        """Let the process end."""
        _stop(self._process)


def in_turn(
    competitors: Mapping[str, Worker], *, operations: int, rounds: int, warm_up: int = 1
) -> dict[str, list[Sample]]:
    """Let every competitor do a round, then every one the next: what disturbs the machine disturbs all.

    Rounds that warm up are not in what is returned.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in competitors}
    for number in range(warm_up + rounds):
        for name, worker in competitors.items():
            sample = worker.round(operations)
            if number >= warm_up:
                samples[name].append(sample)
    return samples


@contextmanager
def workers(competitors: Mapping[str, str], arguments: Mapping[str, object]) -> Iterator[dict[str, Worker]]:
    """Start a process for each competitor, all with the same arguments."""
    with ExitStack() as stack:
        started = {}
        for name, competitor in competitors.items():
            started[name] = Worker(competitor, arguments)
            stack.callback(started[name].close)
        yield started


@contextmanager
def canned_server(polls: int) -> Iterator[str]:
    """Start the server that costs nearly nothing, and yield the root of its API; see `benchmarks.canned`."""
    process = _start("benchmarks.canned", str(polls))
    try:
        yield _answer(process)["url"]
    finally:
        _stop(process)


def _start(module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}; its words are above")
    told: dict[str, Any] = json.loads(line)
    return told


def _stop(process: subprocess.Popen[str]) -> None:
    with process:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def stamp() -> str:
    """Return what was measured with, where and when."""
    versions = ", ".join(f"{name} {installed(name)}" for name in LIBRARIES if installed(name))
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{day}; Python {platform.python_version()}, {versions}; {_machine()}."


def installed(library: str) -> str | None:
    """Return the version of a library, or None if it is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _machine() -> str:
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
