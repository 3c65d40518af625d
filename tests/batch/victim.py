"""One batch in a process of its own that is killed with SIGKILL: by whoever started it, or at its n-th step.

A step opens, links, renames or removes a file of the output folder, or lists the folder. So a process can die
between any two of them, in moments that no clock would hit.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from doitong_async import AsyncDoitong, DownloadError, Item, Outcome, Plan
from doitong_async.cli import main as doitong_command
from doitong_async.cli.exits import Exit

KILLED: Final = -signal.SIGKILL
"""The exit code of a process that was killed."""
UNFETCHED: Final = int(Exit.SOME_FAILED)
"""The exit code of a run that could not download a picture: the job is paid, and the next run fetches it."""
BUDGET: Final = 1_000
PLAN: Final = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=5)
_LIMITS: Final = ("--requests-per-minute", "6000", "--concurrent-jobs", "5", "--budget", str(BUDGET))
_ROOT: Final = Path(__file__).parents[2]
_STEPS: Final = {
    *("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "sqlite3.connect"),
}
"""Python's audit events, each raised before what it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Victim:
    """One batch: its prompts as JSON lines, its ledger and output folder, and who runs it.

    `is_command` says whether `doitong batch` does, or a program that uses the library.
    """

    prompts: Path
    ledger: Path
    out: Path
    is_command: bool = False

    @property
    def log(self) -> Path:
        """Where its last run wrote its standard error."""
        return self.prompts.with_suffix(".log")

    def write_prompts(self, prompts: Iterable[str | Mapping[str, str]]) -> None:
        """Write the prompts that each run reads."""
        self.prompts.write_text("".join(f"{json.dumps(prompt)}\n" for prompt in prompts))

    async def run(
        self, url: str, key: str, *, dies_after: float | None = None, dies_at: int | None = None
    ) -> int:
        """Run the batch in a process, and return its exit code: `KILLED` if it died before it ended.

        Args:
            url: the service's address.
            key: its API key.
            dies_after: seconds from its first step until it is killed.
            dies_at: the step at which it kills itself, counted from 1.
        """
        arguments = ("command" if self.is_command else "library", dies_at or 0)
        with self.log.open("w") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", __name__),
                *(str(each) for each in (*arguments, self.prompts, self.ledger, self.out)),
                cwd=_ROOT,
                env={**os.environ, "DOITONG_API_KEY": key, "DOITONG_BASE_URL": url},
                stdout=PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        # The line of its first step, or its end.
        await process.stdout.readline()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(dies_after):
                    await process.communicate()
        finally:
            # Once it has ended, its number may be another process's. If it ended a moment ago,
            # `process.kill()` would take its exit code away from asyncio.
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        return await process.wait()


def is_unfetched(item: Item) -> bool:
    """Whether the job is paid and every attempt to download its picture failed: the next run fetches it."""
    return item.outcome is Outcome.FAILED and isinstance(item.error, DownloadError)


async def run_library(prompts: Path, ledger: Path, out: Path) -> int:
    """Run the batch to its end as a program does, and return the exit code."""
    given = [json.loads(line) for line in prompts.read_text().splitlines()]
    async with (
        AsyncDoitong(plan=PLAN) as doitong,
        doitong.batch(given, ledger=ledger, out=out, budget=BUDGET) as batch,
    ):
        items = [item async for item in batch]
    failed = [item for item in items if item.outcome is not Outcome.DONE]
    if not failed and len(items) == len(given):
        return 0
    print(*failed, sep="\n", file=sys.stderr)  # noqa: T201 - its report
    return UNFETCHED if all(is_unfetched(item) for item in failed) else 1


def run_command(prompts: Path, ledger: Path, out: Path) -> int:
    """Run the batch to its end as `doitong batch` does, and return the exit code."""
    return doitong_command(["batch", str(prompts), "--out", str(out), "--ledger", str(ledger), *_LIMITS])


def die_at(step: int, folder: str) -> None:
    """Let this process kill itself before its `step`-th step in a folder; at the first, it prints a line."""
    steps = itertools.count(1)

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STEPS and any(folder in os.fsdecode(each) for each in arguments if _is_path(each)):
            number = next(steps)
            if number == 1:
                os.write(1, b"The first step.\n")
            if number == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(on_event)


def _is_path(argument: object) -> bool:
    return isinstance(argument, str | bytes | os.PathLike)


def main(by: str, dies_at: int, prompts: Path, ledger: Path, out: Path) -> int:
    """Run the batch in this process."""
    die_at(dies_at, str(out))
    if by == "command":
        return run_command(prompts, ledger, out)
    return asyncio.run(run_library(prompts, ledger, out))


if __name__ == "__main__":
    by, step, *paths = sys.argv[1:]
    sys.exit(main(by, int(step), *map(Path, paths)))
