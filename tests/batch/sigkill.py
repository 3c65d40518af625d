"""Kills real processes with SIGKILL at random; `python -m tests.batch.sigkill 1000` runs 1,000 rounds."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
import tempfile
from pathlib import Path
from typing import Final

from doitong_async.emulator import Emulator, PlanLimits
from tests.batch.victim import KILLED, PLAN, UNFETCHED, Victim

ITEMS: Final = 8
KILLS: Final = 3
RUNS: Final = 4
AT_ONCE: Final = 10
FAULTS: Final = (
    *("submit: cut-before p=0.15 seed=1", "submit: cut-after p=0.25 seed=2", "poll: 502 p=0.1 seed=3"),
    *("output: truncated p=0.2 seed=4", "output: slow 0.5 p=0.3 seed=5"),
)


async def rounds(count: int, seed: int) -> list[str]:
    """Run batches that are killed a few times each, and return what was wrong at their ends."""
    limits = PlanLimits(PLAN.requests_per_minute, PLAN.concurrent_jobs, None)
    # A kill leaves up to five jobs running; the service queues the next run's jobs behind them.
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
    out = folder / "out"
    batch = Victim(prompts=folder / "prompts.jsonl", ledger=folder / "ledger.db", out=out)
    batch.write_prompts([f"a fox, number {number}" for number in range(ITEMS)])
    for _ in range(KILLS):
        if await batch.run(emulator.url, key, dies_after=chance.uniform(0.0, 4.0)) != KILLED:
            break
    for _ in range(RUNS):
        # One download in 600 is truncated four times in a row; another run fetches it.
        code = await batch.run(emulator.url, key)
        if code != UNFETCHED:
            break
    charged = sum(emulator.world._accounts[key].jobs_by_day.values())
    files = [path for path in out.iterdir() if path.suffix == ".jpg"]
    left = [path.name for path in folder.rglob(".*")]
    whole = {hashlib.sha256(path.read_bytes()).hexdigest() for path in files if _is_complete(path)}
    wrong = {
        f"exit code {code}: {batch.log.read_text()}": code != 0,
        f"{charged} jobs charged": charged != ITEMS,
        f"{len(files)} files": len(files) != ITEMS,
        f"{len(whole)} whole": len(whole) != ITEMS,
        f"left behind: {left}": left != [],
    }
    return [f"{key}: {message}" for message, is_wrong in wrong.items() if is_wrong]


def _is_complete(path: Path) -> bool:
    data = path.read_bytes()
    return data.startswith(b"\xff\xd8") and data.endswith(b"\xff\xd9")


if __name__ == "__main__":
    how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    wrong = asyncio.run(rounds(how_many, seed))
    print(f"{how_many} rounds, seed {seed}: {len(wrong)} wrong", *wrong, sep="\n")  # noqa: T201 - its report
    sys.exit(bool(wrong))
