"""Kills real processes with SIGKILL at random; `python -m tests.batch.sigkill 1000` runs 1,000 rounds."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from doitong_async import AsyncDoitong, DownloadError, Item, Outcome, Plan
from doitong_async.emulator import Emulator, PlanLimits

ITEMS: Final = 8
KILLS: Final = 3
RUNS: Final = 4
UNFETCHED: Final = 3
"""The exit code of a run that could not download a picture."""
AT_ONCE: Final = 10
PLAN: Final = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=3)
FAULTS: Final = (
    *("submit: cut-before p=0.15 seed=1", "submit: cut-after p=0.25 seed=2", "poll: 502 p=0.1 seed=3"),
    *("output: truncated p=0.2 seed=4", "output: slow 0.5 p=0.3 seed=5"),
)
_PROCESSES: Final = multiprocessing.get_context("forkserver")


def victim(url: str, key: str, folder: str) -> None:
    """Run the batch to its end, in a process that may be killed earlier, and exit with how it ended."""
    asyncio.run(_run(url, key, Path(folder)))


async def _run(url: str, key: str, folder: Path) -> None:
    async with AsyncDoitong(api_key=key, base_url=url, plan=PLAN) as doitong:
        prompts = [f"a fox, number {number}" for number in range(ITEMS)]
        terms: dict[str, Any] = {"ledger": folder / "ledger.db", "out": folder / "out", "budget": 1_000}
        async with doitong.batch(prompts, **terms) as batch:
            items = [item async for item in batch]
    if [item.outcome for item in items] == [Outcome.DONE] * ITEMS:
        sys.exit(0)
    print(*(f"{key}: {item}" for item in items if item.error), sep="\n", file=sys.stderr)  # noqa: T201 - its report
    sys.exit(UNFETCHED if all(item.error is None or is_unfetched(item) for item in items) else 1)


def is_unfetched(item: Item) -> bool:
    """Whether the job is paid and every attempt to download its picture failed: the next run fetches it."""
    return item.outcome is Outcome.FAILED and isinstance(item.error, DownloadError)


async def rounds(count: int, seed: int) -> list[str]:
    """Run batches that are killed a few times each, and return what was wrong at their ends."""
    limits = PlanLimits(PLAN.requests_per_minute, PLAN.concurrent_jobs, None)
    # A kill leaves up to three jobs running; the service queues the next run's jobs behind them.
    async with Emulator(
        limits, credits=100_000, seed=seed, durations=1.0, over_concurrency="queue", faults=FAULTS
    ) as emulator:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> list[str]:
            async with room:
                with tempfile.TemporaryDirectory() as folder:
                    return await _round(
                        emulator, f"k-{seed}-{number}", Path(folder), random.Random(f"{seed} {number}")
                    )

        reports = await asyncio.gather(*(one(number) for number in range(count)))
    return [message for messages in reports for message in messages]


async def _round(emulator: Emulator, key: str, folder: Path, chance: random.Random) -> list[str]:
    for _ in range(KILLS):
        if await _run_victim(emulator.url, key, folder, dies_after=chance.uniform(0.0, 4.0)) is not None:
            break
    for _ in range(RUNS):
        # One download in 600 is truncated four times in a row; another run fetches it.
        code = await _run_victim(emulator.url, key, folder, dies_after=None)
        if code != UNFETCHED:
            break
    charged = sum(emulator.world._accounts[key].jobs_by_day.values())
    files = [path for path in (folder / "out").iterdir() if path.suffix == ".jpg"]
    left = [path.name for path in folder.rglob(".*")]
    whole = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files if _is_complete(path)}
    wrong = {
        f"exit code {code}": code != 0,
        f"{charged} jobs charged": charged != ITEMS,
        f"{len(files)} files": len(files) != ITEMS,
        f"{len(whole)} whole": len(whole) != ITEMS,
        f"left behind: {left}": left != [],
    }
    return [f"{key}: {message}" for message, is_wrong in wrong.items() if is_wrong]


def _is_complete(path: Path) -> bool:
    data = path.read_bytes()
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


async def _run_victim(url: str, key: str, folder: Path, *, dies_after: float | None) -> int | None:
    """Run a victim, and return its exit code, or None if it was killed."""
    process = _PROCESSES.Process(target=victim, args=(url, key, str(folder)))
    process.start()
    # Not in a thread: the emulator needs the threads to draw pictures.
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        async with asyncio.timeout(dies_after):
            await ended.wait()
        return process.exitcode
    except TimeoutError:
        return None
    finally:
        loop.remove_reader(process.sentinel)
        process.kill()
        process.join()
        process.close()


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    wrong = asyncio.run(rounds(how_many, seed))
    print(f"{how_many} rounds, seed {seed}: {len(wrong)} wrong", *wrong, sep="\n")  # noqa: T201 - its report
    sys.exit(bool(wrong))
