"""A batch that dies at its k-th await and runs again, for many k."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from doitong_async import AsyncDoitong, Plan
from doitong_async.batch.item import Outcome
from doitong_async.batch.ledger import _Writer
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.limits import admission
from tests.batch.mortal import Life
from tests.strides import offset
from tests.virtual import virtual

pytestmark = pytest.mark.slow

PLAN = Plan.enterprise(requests_per_minute=1000, concurrent_jobs=2)
PROMPTS: list[Any] = ["a red fox", "a blue whale", {"prompt": "a green frog", "key": "frog"}, "a red fox"]
STRIDE = 10
SHARDS = 2
"""Tests that divide the awaits among them, so that they can run in parallel."""


def new_emulator(**more: Any) -> Emulator:
    """Return an emulator that always makes the same job of the same prompt."""
    return Emulator(plan=PlanLimits(1000, 2, None), credits=1_000_000, durations=3.0, **more)


async def run(emulator: Emulator, disk: Path) -> dict[str, tuple[Outcome, str]]:
    """Run the batch to its end, and return each item's outcome and the hash of its file."""
    items = {}
    async with AsyncDoitong(api_key="k-mortal", base_url=emulator.url, plan=PLAN) as doitong:
        async for item in doitong.generate_many(PROMPTS, ledger=disk / "ledger.db", out=disk, budget=1_000):
            digest = hashlib.sha256(item.file.read_bytes()).hexdigest() if item.file else ""
            items[item.key] = item.outcome, digest
    return items


async def run_and_forget(emulator: Emulator, disk: Path) -> None:
    await run(emulator, disk)


def files(disk: Path) -> list[str]:
    """Return the names of all files but those of the ledger."""
    return sorted(path.name for path in disk.iterdir() if not path.name.startswith("ledger.db"))


async def run_and_die_at(emulator: Emulator, folder: Path, dies_at: int | None) -> bool:
    """Run the batch until its k-th await, then again on the copied disk; False if it ends before."""
    return await run_in_life(emulator, folder, lambda at_death: Life(dies_at, at_death))


async def run_in_life(emulator: Emulator, folder: Path, make: Callable[[Callable[[], object]], Life]) -> bool:
    """Run the batch in a life; if that ends early, run it again on the copy of its disk."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    life = make(partial(copy_disk, first, second))
    task = life.start(run_and_forget(emulator, first))
    dies = asyncio.ensure_future(life.died.wait())
    await asyncio.wait([task, dies], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        dies.cancel()
        task.result()
        return False
    # The next process has its own rate limiter.
    admission._LIMITERS.clear()
    try:
        items = await run(emulator, second)
    finally:
        await life.bury()
    check(emulator, items, second)
    return True


def copy_disk(first: Path, second: Path) -> None:
    """Copy the disk as it is at one moment, although the ledger's thread may be writing."""
    before: Any = None
    while before != (before := [_bytes_of(first / name) for name in ("ledger.db", "ledger.db-wal")]):
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(first, second, copy_function=_copy_if_there)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _copy_if_there(source: str, target: str) -> None:
    # A file that a thread is renaming or removing may be missing, as after a power failure.
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def check(emulator: Emulator, items: dict[str, tuple[Outcome, str]], disk: Path) -> None:
    """Assert that every item is done, paid for once, and has its own complete file."""
    assert Counter(outcome for outcome, _ in items.values()) == {Outcome.DONE: len(PROMPTS)}
    assert emulator.world.charges == len(PROMPTS)
    kept = files(disk)
    assert len(kept) == len(PROMPTS)
    assert sorted(hashlib.sha256((disk / name).read_bytes()).hexdigest() for name in kept) == sorted(
        digest for _, digest in items.values()
    )


@virtual
async def test_an_uninterrupted_run(tmp_path: Path) -> None:
    """The reference for the other tests."""
    async with new_emulator() as emulator:
        items = await run(emulator, tmp_path)
        check(emulator, items, tmp_path)
        assert await run(emulator, tmp_path) == items
        assert emulator.world.charges == len(PROMPTS)


# A process that dies closes no resources.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_dying_at_any_await_changes_nothing(shard: int, tmp_path: Path) -> None:
    """Killed at its k-th await and run again, the batch ends like an uninterrupted one."""
    number = 1 + offset(STRIDE // SHARDS) + shard * STRIDE // SHARDS
    while die_and_run_again(number, tmp_path / str(number)):
        number += STRIDE
    # The batch had many awaits.
    assert number > 60


def die_and_run_again(number: int, folder: Path) -> bool:
    """Run one life and the next in their own loop."""
    folder.mkdir()
    outcomes = []

    @virtual
    async def both() -> None:
        async with new_emulator() as emulator:
            outcomes.append(await run_and_die_at(emulator, folder, number))

    both()
    shutil.rmtree(folder)
    return outcomes[0]


# A process that dies closes no resources.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_any_prefix_of_the_ledger_resumes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies when its k-th group of changes is on disk, for every k."""
    usual = _Writer.commit
    number = 0
    while True:
        number += 1
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes: list[bool] = []

        @virtual
        async def both(number: int = number, folder: Path = folder, outcomes: list[bool] = outcomes) -> None:
            def make(at_death: Callable[[], object]) -> Life:
                life = Life(None, at_death)
                monkeypatch.setattr(_Writer, "commit", dying_commit(usual, number, life))
                return life

            async with new_emulator() as emulator:
                outcomes.append(await run_in_life(emulator, folder, make))

        both()
        shutil.rmtree(folder)
        if not outcomes[0]:
            break
    assert number > 6


def dying_commit(write: Callable[..., Any], groups: int, life: Life) -> Callable[..., Any]:
    """Return a commit that kills the process after it has written this many groups."""
    left = groups

    def commit(writer: _Writer, group: Sequence[Any]) -> Any:
        nonlocal left
        outcome = write(writer, group)
        left -= 1
        if left == 0:
            life.die()
        return outcome

    return commit
