"""A ledger knows how many items its last run had, and so how many are left."""

from __future__ import annotations

from collections.abc import Iterable
from operator import length_hint
from pathlib import Path

import pytest

from doitong_async import AsyncDoitong, BudgetReachedError, Plan
from doitong_async.batch.item import ItemState
from doitong_async.batch.ledger import Ledger
from doitong_async.cli import main
from doitong_async.cli.batch_run import gallery_of
from doitong_async.cli.prompts import open_prompts
from tests.virtual import virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=2)


def prompts(count: int, of: str = "fox") -> list[str]:
    return [f"a {of} {number}" for number in range(count)]


async def run(
    doitong: AsyncDoitong, given: Iterable[str], ledger: Path, *, budget: float | None = None
) -> None:
    async with doitong.batch(given, ledger=ledger, out=ledger.parent, budget=budget) as batch:
        async for _ in batch:
            pass
    assert budget is None or isinstance(batch.progress().stopped, BudgetReachedError)


def left_in(ledger: Path) -> int:
    with Ledger.read(ledger) as reader:
        return reader.left()


@pytest.mark.parametrize("is_counted", [True, False])
@virtual
async def test_a_batch_that_a_budget_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_counted: bool
) -> None:
    """The status and the gallery know the total and what is left, whether the source has a length or not."""
    ledger = tmp_path / "ledger.db"
    given = prompts(10) if is_counted else (prompt for prompt in prompts(10))
    async with with_emulator(WIDE) as (doitong, emulator):
        await run(doitong, given, ledger, budget=130)
        made = emulator.world.charges
        assert 0 < made < 10
        assert left_in(ledger) == 10 - made
        assert main(["batch", "status", str(ledger)]) == 0
        assert f"10 items: {made} done, {10 - made} left;" in capsys.readouterr().err
        page, _ = gallery_of(ledger, tmp_path, "foxes")
        assert page is not None
        totals = page.read_text("utf-8")
        assert "10 items" in totals
        assert f"<b>{10 - made}</b> left" in totals
        assert "<b>10</b> all" in totals
        await run(doitong, prompts(10), ledger)
        assert left_in(ledger) == 0
        assert main(["batch", "status", str(ledger)]) == 0
        assert "10 items: 10 done;" in capsys.readouterr().err


@virtual
async def test_items_of_other_sources_are_not_taken_for_its_own(tmp_path: Path) -> None:
    """A ledger may have the items of several sources."""
    ledger = tmp_path / "ledger.db"
    async with with_emulator(WIDE) as (doitong, emulator):
        await run(doitong, prompts(5, "whale"), ledger)
        spent = emulator.world.charges
        assert left_in(ledger) == 0
        with Ledger.read(ledger) as reader:
            paid = reader.totals().spent
        await run(doitong, prompts(8), ledger, budget=paid + 90)
        assert left_in(ledger) == 8 - (emulator.world.charges - spent) > 0


@virtual
async def test_a_batch_that_was_left_early(tmp_path: Path) -> None:
    """As far as its source was counted: a list has a length."""
    ledger = tmp_path / "ledger.db"
    async with with_emulator(WIDE) as (doitong, emulator):
        async with doitong.batch(prompts(50), ledger=ledger) as batch:
            await anext(batch)
            with Ledger.read(ledger) as reader:
                assert reader.left() == 50 - sum(reader.totals().items.values())
        with Ledger.read(ledger) as reader:
            items = reader.totals().items
            withdrawn = items.get(ItemState.OPEN, 0)
            assert reader.left() + withdrawn == 50 - emulator.world.charges


def test_the_command_line_knows_the_total_from_its_check(tmp_path: Path) -> None:
    """So the ledger has it even if the run is interrupted before the end of the file."""
    file = tmp_path / "prompts.txt"
    file.write_text("a fox\na whale\na frog\n")
    with open_prompts(str(file), format=None, defaults={}, limit=2) as given:
        assert length_hint(given, 7) == 7
        given.check()
        assert length_hint(given, 7) == 2
