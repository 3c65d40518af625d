"""Names of outputs: each item has its own, and no file that is not the item's is replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import AsyncDoitong, Item, Outcome, Plan
from doitong_async.batch.batch import Batch
from doitong_async.batch.source import stem_of
from doitong_async.files import numbered
from doitong_async.types import GenerateRequest
from tests.virtual import plain, until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
FOX = GenerateRequest(prompt="a fox")


async def all_of(batch: AsyncIterator[Item]) -> list[Item]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return [item async for item in batch]


async def run(
    doitong: AsyncDoitong, given: list[Any], ledger: Path, **more: Any
) -> dict[str, tuple[str, bool]]:
    """Run a batch, check that it is done, and return each item's file and whether this run wrote it."""
    items = await all_of(doitong.generate_many(given, ledger=ledger, out=ledger.parent, **more))
    assert {item.outcome for item in items} == {Outcome.DONE}
    return {item.key: (item.file.name, item.is_new) for item in items if item.file}


@virtual
async def test_a_key_that_looks_like_a_numbered_name_keeps_its_own(tmp_path: Path) -> None:
    """`fox` gets a number because its name is taken, and that is not the name of `fox-2`; reruns rest."""
    (tmp_path / "fox.jpg").write_bytes(b"a photograph")
    prompts = [{"prompt": "a fox", "key": "fox"}, {"prompt": "a whale", "key": "fox-2"}]
    async with with_emulator(WIDE) as (doitong, _):
        first = await run(doitong, prompts, tmp_path / "l.db")
        assert first == {"fox": ("fox.2.jpg", True), "fox-2": ("fox-2.jpg", True)}
        for _ in range(2):
            again = await run(doitong, prompts, tmp_path / "l.db", verify=True)
            assert again == {key: (name, False) for key, (name, _) in first.items()}
    assert (tmp_path / "fox.jpg").read_bytes() == b"a photograph"


@virtual
async def test_a_prompt_given_twice_in_a_folder_that_another_ledger_used(tmp_path: Path) -> None:
    """Four items, four files, and each ledger finds its own again."""
    async with with_emulator(WIDE) as (doitong, _):
        runs = [await run(doitong, ["a fox", "a fox"], tmp_path / name) for name in ("a.db", "b.db") * 2]
    assert len({name for each in runs for name, _ in each.values()}) == 4
    assert [is_new for each in runs for _, is_new in each.values()] == [True] * 4 + [False] * 4


@virtual
async def test_two_batches_at_once_in_one_folder_share_no_file(tmp_path: Path) -> None:
    """The service answers all jobs with the same bytes, so that nothing but the names tells them apart."""
    prompts = [{"prompt": f"fox {number}", "key": f"fox-{number}"} for number in range(6)]
    ledgers = [tmp_path / "a.db", tmp_path / "b.db", tmp_path / "c.db"]
    async with plain(WIDE, seconds=1.0) as (doitong, _):
        runs = await asyncio.gather(*(run(doitong, prompts, ledger) for ledger in ledgers))
        again = [await run(doitong, prompts, ledger, verify=True) for ledger in ledgers]
    assert len({name for each in runs for name, _ in each.values()}) == 18
    assert again == [{key: (name, False) for key, (name, _) in each.items()} for each in runs]


@virtual
async def test_a_name_that_another_ledger_took_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    """The file was deleted, and the other batch found its name free: both go on in peace."""
    prompts = {"a.db": [{"prompt": "a fox", "key": "fox"}], "b.db": [{"prompt": "a whale", "key": "fox"}]}
    async with with_emulator(WIDE) as (doitong, _):
        await run(doitong, prompts["a.db"], tmp_path / "a.db")
        (tmp_path / "fox.jpg").unlink()
        for ledger, name, is_new in (
            *(("b.db", "fox.jpg", True), ("a.db", "fox.2.jpg", True)),
            *(("b.db", "fox.jpg", False), ("a.db", "fox.2.jpg", False)),
        ):
            again = await run(doitong, prompts[ledger], tmp_path / ledger, verify=True)
            assert again == {"fox": (name, is_new)}


@virtual
async def test_a_batch_goes_on_where_another_ledger_took_its_names_meanwhile(tmp_path: Path) -> None:
    """Nothing of it was lost: what the other ledger wrote tells nothing about this one."""
    prompts = [{"prompt": f"fox {number}", "key": f"fox-{number}"} for number in range(3)]
    async with with_emulator(WIDE) as (doitong, emulator):
        await run(doitong, prompts[:1], tmp_path / "a.db")
        for _ in range(2):
            await run(doitong, prompts, tmp_path / "b.db")
            names = {name for name, _ in (await run(doitong, prompts, tmp_path / "a.db")).values()}
        assert names == {"fox-0.jpg", "fox-1.2.jpg", "fox-2.2.jpg"}
        assert emulator.world.charges == 6


@virtual
async def test_a_job_that_is_resumed_takes_no_other_ledger_s_file_for_its_own(tmp_path: Path) -> None:
    """Both planned the same name, and the service made the same bytes for both."""
    prompts = [{"prompt": "a fox", "key": "fox"}]
    async with plain(WIDE, seconds=3.0) as (doitong, server):
        async with doitong.batch(prompts, ledger=tmp_path / "a.db", out=tmp_path):
            await until(lambda: server.jobs)
        runs = [await run(doitong, prompts, tmp_path / name) for name in ("b.db", "a.db") * 2]
    assert [name for each in runs for name, _ in each.values()] == ["fox.jpg", "fox.2.jpg"] * 2
    assert len(server.jobs) == 2


@virtual
async def test_a_picture_that_was_edited_stays_and_half_a_copy_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's work is kept beside the output, and that is said; half a copy is made whole."""
    prompts = [{"prompt": "a fox", "key": "fox"}, {"prompt": "a whale", "key": "whale"}]
    async with with_emulator(WIDE) as (doitong, _):
        await run(doitong, prompts, tmp_path / "l.db")
        whole = (tmp_path / "whale.jpg").read_bytes()
        (tmp_path / "whale.jpg").write_bytes(whole[:1000])
        (tmp_path / "fox.jpg").write_bytes(b"edited")
        again = await run(doitong, prompts, tmp_path / "l.db")
    assert again == {"fox": ("fox.2.jpg", True), "whale": ("whale.jpg", True)}
    assert (tmp_path / "fox.jpg").read_bytes() == b"edited"
    assert (tmp_path / "whale.jpg").read_bytes() == whole
    fox = tmp_path / "fox.jpg"
    assert caplog.messages == [
        f"{fox} is not as this batch wrote it: it stays, beside {tmp_path / 'fox.2.jpg'}"
    ]


KEYS = st.text("fox-_.2A", min_size=1, max_size=6) | st.text(min_size=1, max_size=20)


@given(KEYS, KEYS)
def test_no_item_s_numbered_name_is_another_item_s(one: str, other: str) -> None:
    """However often a name is taken, the next one belongs to the same item."""
    names = [stem_of(key, FOX, is_given=True) for key in (one, other)]
    sets = [{path.name for path in islice(numbered(Path(name)), 9)} for name in names]
    assert (sets[0] & sets[1] == set()) is (one != other)


@pytest.mark.parametrize("key", ["0123456789abcdef", "0123456789abcdef-3"])
def test_a_key_that_copies_a_name_of_ours_is_another_name(key: str) -> None:
    """The user read the name of a file, and gave it to another item as its key."""
    ours = stem_of(key, FOX, is_given=False)
    assert ours == f"a-fox-{key}"
    assert stem_of(ours, FOX, is_given=True) != ours
    hashed = stem_of("A Fox", FOX, is_given=True)
    assert stem_of(hashed, FOX, is_given=True) != hashed


@pytest.mark.parametrize("key", ["index", "ledger", "con", "lpt1"])
def test_a_reserved_name_is_no_output_s(key: str) -> None:
    """The page, the ledger, and what Windows keeps for itself."""
    assert stem_of(key, FOX, is_given=True).startswith(f"{key}-")
