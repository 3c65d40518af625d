"""The process of one competitor: `python -m benchmarks.worker MODULE:CLASS ARGUMENTS`; rounds on stdin."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol


class Competitor(Protocol):
    """Who does a round of operations, and may say more about it than what it cost."""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop to run on."""

    async def open(self) -> None:
        """Make everything ready that is not measured."""

    async def round(self, operations: int) -> Mapping[str, float]:
        """Do so many operations."""

    async def close(self) -> None:
        """Leave nothing open."""


def main() -> None:
    """Make the competitor, then do each round that a line of stdin asks for, until there are no more."""
    # Until glibc's allocator has seen a large block go, every receive of 256 KiB costs an mmap.
    bytes(1 << 20)
    module, name = sys.argv[1].split(":")
    make: Callable[..., Competitor] = getattr(import_module(module), name)
    competitor = make(**json.loads(sys.argv[2]))
    with asyncio.Runner(loop_factory=competitor.new_loop) as runner:
        runner.run(competitor.open())
        for line in sys.stdin:
            measured = _measured(runner, competitor, int(line))
            sys.stdout.write(json.dumps(measured) + "\n")
            sys.stdout.flush()
        runner.run(competitor.close())


def _measured(runner: asyncio.Runner, competitor: Competitor, operations: int) -> dict[str, object]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    more = runner.run(competitor.round(operations))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    # Linux counts in KiB, macOS in bytes.
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"cpu": cpu, "wall": wall, "operations": operations, "rss": rss, "more": dict(more)}


if __name__ == "__main__":
    main()
