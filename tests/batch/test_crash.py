"""A batch that dies at its k-th await and runs again, for every k of a stride."""

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
PROMPTS = ["a red fox", "a blue whale", {"prompt": "a green frog", "key": "frog"}, "a red fox"]
STRIDE = 10
SHARDS = 2
"""Tests that share the moments, so that they can run at the same time."""


def new_emulator(**more: Any) -> Emulator:
    """An emulator that makes the same job of the same prompt, whenever it is asked."""
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
    """The names of everything that is kept, but for the ledger's own."""
    return sorted(path.name for path in disk.iterdir() if not path.name.startswith("ledger.db"))


async def lives_and_dies(emulator: Emulator, folder: Path, dies_at: int | None) -> bool:
    """Run the batch until its k-th await; False if it has fewer. What was on the disk then is on "second"."""
    return await lives_on(emulator, folder, lambda at_death: Life(dies_at, at_death))


async def lives_on(emulator: Emulator, folder: Path, make: Callable[[Callable[[], object]], Life]) -> bool:
    """Run the batch in a life, and if that ends early, run it again on the disk that it left."""
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
    # The next process knows nothing of this one's gate.
    admission._LIMITERS.clear()
    try:
        items = await run(emulator, second)
    finally:
        await life.bury()
    check(emulator, items, second)
    return True


def copy_disk(first: Path, second: Path) -> None:
    """Copy a disk as it is at one moment: the ledger's thread may be writing."""
    before: Any = None
    while before != (before := [_bytes_of(first / name) for name in ("ledger.db", "ledger.db-wal")]):
        shutil.rmtree(second, ignore_errors=True)
        shutil.copytree(first, second, copy_function=_copy_if_there)


def _bytes_of(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _copy_if_there(source: str, target: str) -> None:
    # What a thread was about to rename or remove is there or not, as on a disk whose machine lost its power.
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def check(emulator: Emulator, items: dict[str, tuple[Outcome, str]], disk: Path) -> None:
    """Every item is done, paid once, and its file is whole and alone."""
    assert Counter(outcome for outcome, _ in items.values()) == {Outcome.DONE: len(PROMPTS)}
    assert emulator.world.charges == len(PROMPTS)
    kept = files(disk)
    assert len(kept) == len(PROMPTS)
    assert sorted(hashlib.sha256((disk / name).read_bytes()).hexdigest() for name in kept) == sorted(
        digest for _, digest in items.values()
    )


@virtual
async def test_an_uninterrupted_run(tmp_path: Path) -> None:
    """What the others are compared with."""
    async with new_emulator() as emulator:
        items = await run(emulator, tmp_path)
        check(emulator, items, tmp_path)
        assert await run(emulator, tmp_path) == items
        assert emulator.world.charges == len(PROMPTS)


# A process that dies closes nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_dying_at_any_await_changes_nothing(shard: int, tmp_path: Path) -> None:
    """Killed at its k-th await and run again, the batch ends like one that was not."""
    number = 1 + offset(STRIDE // SHARDS) + shard * STRIDE // SHARDS
    while dies_and_is_run_again(number, tmp_path / str(number)):
        number += STRIDE
    # There were many places to die at.
    assert number > 60


def dies_and_is_run_again(number: int, folder: Path) -> bool:
    """One life and the next, in a loop of their own."""
    folder.mkdir()
    outcomes = []

    @virtual
    async def both() -> None:
        async with new_emulator() as emulator:
            outcomes.append(await lives_and_dies(emulator, folder, number))

    both()
    shutil.rmtree(folder)
    return outcomes[0]


# A process that dies closes nothing.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_any_prefix_of_the_ledger_resumes_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies when its k-th group of changes is on the disk, for every k."""
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
                monkeypatch.setattr(_Writer, "commit", dying(usual, number, life))
                return life

            async with new_emulator() as emulator:
                outcomes.append(await lives_on(emulator, folder, make))

        both()
        shutil.rmtree(folder)
        if not outcomes[0]:
            break
    assert number > 6


def dying(write: Callable[..., Any], groups: int, life: Life) -> Callable[..., Any]:
    """Write so many groups; with the last of them the process dies."""
    left = groups

    def commit(writer: _Writer, group: Sequence[Any]) -> Any:
        nonlocal left
        outcome = write(writer, group)
        left -= 1
        if left == 0:
            life.die()
        return outcome

    return commit
