"""A row that somebody edited, or that is damaged, is named; nothing is sent or paid on its word."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from doitong_async import AsyncDoitong, Item, LedgerError
from doitong_async.batch.ledger import Ledger
from doitong_async.cli.batch_run import card_of, gallery_of
from tests.virtual import virtual, with_emulator

DAMAGE = {
    "the request is no JSON": "request = '{\"prompt\": '",
    "the request is a list": "request = '[1]'",
    "the request is no text": "request = x'ff'",
    "the request is no UTF-8": "request = CAST(x'ff' AS TEXT)",
    "the state is unknown": "state = 'finished'",
    "the state is a doubt": "state = 'doubt'",
    "the attempt is none": "attempt = 0",
    "the attempt is a word": "attempt = 'two'",
    "the cost is a word": "cost = 'much'",
    "the cost is endless": "cost = 9e999",
    "the cost is negative": "earlier_cost = -1",
    "the time is a word": "ended_at = 'noon'",
    "the time is past all time": "accepted_at = 1e300",
    "the cost of the job is negative": "cost = -1",
    "the URL is no text": "url = x'00'",
    "the job is none": "job_id = NULL",
    "the job is empty": "job_id = ''",
    "the job is no text": "job_id = x'00'",
    "an intent has no key": "state = 'intent', idempotency_key = NULL",
    "an intent has no time": "state = 'intent', intended_at = NULL",
    "the body of an intent is no JSON": "state = 'intent', body = '{'",
    "the body of an intent is a list": "state = 'intent', body = '[]'",
    "the file is no text": "file = x'00'",
    "the file is elsewhere": "file = '../fox.jpg'",
    "the length is a word": "length = 'long'",
    "the key is no text": "key = x'00'",
}
OF_ONE_JOB = {"prompt": "a fox", "key": "fox"}


async def run_one(doitong: AsyncDoitong, ledger: Path) -> list[Item]:
    async with doitong.batch([OF_ONE_JOB], ledger=ledger, out=ledger.parent) as batch:
        return [item async for item in batch]


def edit(ledger: Path, statement: str) -> None:
    with closing(sqlite3.connect(ledger)) as tool, tool:
        tool.execute(statement)


def reads(ledger: Path) -> list[Callable[[Ledger], object]]:
    return [
        lambda reader: [record.asked for record in reader.records()],
        lambda reader: [card_of(record) for record in reader.records()],
    ]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_named(tmp_path: Path, damage: str) -> None:
    """By whoever reads it: a run, the status, the gallery. The run sends nothing."""
    ledger = tmp_path / "run.db"

    @virtual
    async def run() -> None:
        async with with_emulator() as (doitong, emulator):
            await run_one(doitong, ledger)
            edit(ledger, f"UPDATE items SET {DAMAGE[damage]} WHERE key = 'fox'")
            with Ledger.read(ledger) as reader:
                for read in reads(ledger):
                    with pytest.raises(LedgerError, match="damaged") as raised:
                        read(reader)
                    assert "item" in raised.value.message
            page, trouble = gallery_of(ledger, tmp_path, "damaged")
            assert page is None
            assert "damaged" in str(trouble)
            # Of a finished item a run reads only what it needs, so it may not notice.
            with suppress(LedgerError):
                (item,) = await run_one(doitong, ledger)
                # Without its key the row is of no item, and the file could be anybody's.
                is_named = isinstance(item.error, LedgerError) or "key" in damage
                assert item.error is None or is_named
            assert emulator.world.charges == 1

    run()


@virtual
async def test_a_damaged_row_does_not_hide_whose_it_is(tmp_path: Path) -> None:
    """The message has the key of the item, and what is wrong with it."""
    ledger = tmp_path / "run.db"
    async with with_emulator() as (doitong, _):
        await run_one(doitong, ledger)
    edit(ledger, "UPDATE items SET request = '{' WHERE key = 'fox'")
    with Ledger.read(ledger) as reader:
        (record,) = reader.records()
        with pytest.raises(LedgerError, match="of the item 'fox' cannot be read"):
            _ = record.asked
    edit(ledger, "UPDATE items SET request = '{}', attempt = 'two' WHERE key = 'fox'")
    with Ledger.read(ledger) as reader, pytest.raises(LedgerError, match="'fox', its attempt is 'two'"):
        reader.find("fox")


@pytest.mark.parametrize(
    ("statement", "read"),
    [
        ("UPDATE items SET state = 'finished'", Ledger.totals),
        ("UPDATE days SET made = 'many'", lambda ledger: ledger.made_on(_day(ledger))),
        ("UPDATE statuses SET at = 'noon'", lambda ledger: ledger.statuses(1)),
        ("UPDATE statuses SET status = x'ff'", lambda ledger: ledger.statuses(1)),
    ],
)
def test_other_tables(tmp_path: Path, statement: str, read: Callable[[Ledger], object]) -> None:
    """A total, a day or a status that cannot be true is a LedgerError too."""
    ledger = tmp_path / "run.db"

    @virtual
    async def run() -> None:
        async with with_emulator() as (doitong, _):
            await run_one(doitong, ledger)
        edit(ledger, statement)
        with Ledger.read(ledger) as reader, pytest.raises(LedgerError, match="damaged"):
            read(reader)

    run()


def _day(ledger: Ledger) -> int:
    row = ledger._connection.execute("SELECT day FROM days").fetchone()
    return int(row[0])
