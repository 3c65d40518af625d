"""Batches on the canned server: with a ledger, without one, and one that is nearly done."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.clocks import HurryingLoop
from benchmarks.competitors import IN_FLIGHT, KEY, Runs
from doitong_async import AsyncDoitong, GenerateRequest, Outcome, Plan
from doitong_async.batch import sqlite
from doitong_async.batch.ledger import _Writer
from doitong_async.batch.source import KEY_LENGTH, digest_of, spelled
from doitong_async.events import Event, RequestSent

PLAN: Final = Plan.enterprise(requests_per_minute=1_000_000, concurrent_jobs=IN_FLIGHT)
SPEED: Final = 100.0
"""So many times faster the clock runs: what is measured is CPU, and polls come every 2 s."""


class Batches(Runs):
    """A batch without a ledger."""

    def __init__(self, *, url: str) -> None:
        super().__init__(url=url)
        self.first_submit = 0.0
        self._begun = 0.0
        self._checkpoints = 0

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop whose clock hurries."""
        return HurryingLoop(SPEED)

    async def round(self, operations: int) -> Mapping[str, float]:
        """Run a batch of so many items."""
        with tempfile.TemporaryDirectory() as folder:
            return await self.batch(operations, Path(folder))

    async def batch(self, operations: int, folder: Path) -> Mapping[str, float]:
        """Run it without anything that remembers it."""
        await self.run(prompts(operations))
        return {}

    async def run(self, requests: Iterator[str], **arguments: Any) -> None:
        """Run a batch to its end; every item has to be done."""
        async with AsyncDoitong(
            api_key=KEY, base_url=self.url, plan=PLAN, on_event=self._on_event
        ) as doitong:
            self._begun = asyncio.get_running_loop().time()
            async for item in doitong.generate_many(requests, **arguments):
                # The canned server has no outputs: where files are kept, nothing is asked of what is new.
                if item.outcome is not Outcome.DONE and "out" not in arguments:
                    raise RuntimeError(f"item {item.number} is {item.outcome}: {item.error}")

    def _on_event(self, event: Event) -> None:
        if isinstance(event, RequestSent) and event.kind == "submit" and not self.first_submit:
            self.first_submit = (asyncio.get_running_loop().time() - self._begun) / SPEED


class Recorded(Batches):
    """A batch with a ledger, whose fsyncs are counted."""

    async def batch(self, operations: int, folder: Path) -> Mapping[str, float]:
        """Run it on a ledger of its own."""
        syncs = 0
        usual = _Writer.commit

        def counted(writer: _Writer, group: Sequence[Any]) -> Any:
            nonlocal syncs
            syncs += any(change.is_urgent for change in group)
            outcome = usual(writer, group)
            self._checkpoints = _checkpoints(folder / "ledger.db-wal")
            return outcome

        _Writer.commit = counted  # type: ignore[assignment,method-assign]  # counted where it is written
        try:
            await self.run(prompts(operations), ledger=folder / "ledger.db")
        finally:
            _Writer.commit = usual  # type: ignore[method-assign]  # as it was
        # Each checkpoint syncs the promise, the log, the file, the log's new head, and what was kept. The
        # last one is that of closing, which then moves one page more.
        return {"syncs": float(syncs + 5 * (self._checkpoints + 1) + 2)}


class Resumed(Batches):
    """A batch of which all but the last item is done, with a file each."""

    async def batch(self, operations: int, folder: Path) -> Mapping[str, float]:
        """Begin it again, and see how long it takes to its first submit."""
        await asyncio.to_thread(self._prepare, operations, folder)
        await self.run(prompts(operations), ledger=folder / "ledger.db", out=folder / "out")
        return {"first_submit": self.first_submit}

    def _prepare(self, operations: int, folder: Path) -> None:
        service = "an emulator"
        with closing(sqlite.writer(folder / "ledger.db")) as connection:
            sqlite.state_fact(connection, name="service", value=service)
            connection.execute("BEGIN")
            connection.executemany(_DONE, map(_done, prompts(operations - 1)))
            connection.execute("COMMIT")
            (folder / "out").mkdir()
            for (name,) in connection.execute("SELECT file FROM items"):
                (folder / "out" / name).write_bytes(b"x")


_DONE: Final = """
INSERT INTO items (key, digest, request, state, attempt, idempotency_key, intended_at, reserved, job_id,
    accepted_at, status, url, cost, earlier_cost, file, length, sha256, ended_at)
VALUES (?, ?, ?, 'done', 1, 'k', 1, 20, 'j', 2, 'completed', 'https://x/y.jpg', 15, 0, ?, 1, ?, 9)
"""


def _done(prompt: str) -> tuple[str, ...]:
    request = GenerateRequest(prompt=prompt).with_defaults(provider="flux-pro", width=None, height=None)
    text = spelled(request)
    digest = digest_of(text)
    key = digest[:KEY_LENGTH]
    return key, digest, text, f"{key}.jpg", hashlib.sha256(b"x").hexdigest()


def prompts(count: int) -> Iterator[str]:
    """Yield so many prompts, none of them kept."""
    return (f"a lighthouse in a storm, painting number {number}" for number in range(count))


def _checkpoints(log: Path) -> int:
    """Return how often the log began anew: the fourth number of its header (SQLite, "The WAL Header")."""
    try:
        with log.open("rb") as file:
            return int.from_bytes(file.read(16)[12:], "big")
    except FileNotFoundError:
        return 0
