"""A request in doubt is resent byte for byte, and its item key serves no other request."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    GenerateRequest,
    Item,
    Outcome,
)
from doitong_async.batch.item import ItemState
from doitong_async.batch.ledger import LedgerFile
from doitong_async.emulator import Emulator, PlanLimits
from tests.batch.test_ledger import accept, begin, end, opened, read
from tests.batch.test_runner import WIDE, all_of, outcomes
from tests.plain_server import PlainServer
from tests.virtual import plain, virtual, with_emulator

WEBHOOKS: dict[str, Any] = {
    "webhook_url": "https://one.example/hook",
    "webhook_secret": "a-secret-of-the-tests",
}
FOX = {"prompt": "a fox", "key": "fox"}


def bodies_at(server: PlainServer) -> list[bytes]:
    """Return the list to which the body of each submit is added."""
    bodies: list[bytes] = []

    def record_submit(raw: bytes, honest: bytes | None) -> bytes | None:
        if b"mutation" in raw:
            bodies.append(raw)
        return honest

    server.rewrite = record_submit
    return bodies


def body_in(ledger: Path) -> str | None:
    with closing(sqlite3.connect(ledger)) as tool:
        (body,) = tool.execute("SELECT body FROM items").fetchone()
    return None if body is None else str(body)


async def leave_in_doubt(emulator: Emulator, ledger: Path, **settings: Any) -> None:
    """Run a batch of one item whose job is made and whose answer is lost."""
    async with client_at(emulator, resend_unanswered=False, **settings) as doitong:
        items = await all_of(doitong.generate_many([FOX], ledger=ledger))
    assert outcomes(items) == {Outcome.IN_DOUBT: 1}
    assert emulator.world.charges == 1
    emulator.faults.clear()


def client_at(emulator: Emulator, **settings: Any) -> AsyncDoitong:
    return AsyncDoitong(
        **{"api_key": "k-test", "base_url": emulator.url, "plan": WIDE, **WEBHOOKS, **settings}
    )


def new_emulator() -> Emulator:
    """Return an emulator that always makes the same job of the same prompt."""
    return Emulator(plan=PlanLimits(6_000, 4, None), credits=10_000, faults=["submit 1: cut-after"])


@pytest.mark.parametrize(
    "changed",
    [
        {"webhook_url": "https://two.example/hook"},
        {"webhook_field": "options.webhookUrl"},
        {"webhook_url": None, "webhook_secret": None},
    ],
)
@virtual
async def test_changed_settings_do_not_change_a_resent_request(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    """The service knows the key with the earlier body, and answers with its job instead of a conflict."""
    async with new_emulator() as emulator:
        await leave_in_doubt(emulator, tmp_path / "l.db")
        assert "one.example" in (body_in(tmp_path / "l.db") or "")
        async with client_at(emulator, **changed) as doitong:
            items = await all_of(doitong.generate_many([FOX], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1
    assert body_in(tmp_path / "l.db") is None


@virtual
async def test_every_attempt_of_a_submit_sends_the_same_bytes(tmp_path: Path) -> None:
    """Within one submit, across an outage, and in the next run."""
    async with plain(WIDE, **WEBHOOKS) as (doitong, server):
        bodies = bodies_at(server)
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth < 6 else None
        items = await all_of(doitong.generate_many([FOX], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert len(bodies) == 6
        assert len(set(bodies)) == 1


def body_of(ledger: LedgerFile) -> str | None:
    record = ledger.find("k")
    return None if record is None else record.body


@virtual
async def test_a_body_is_kept_only_while_its_submit_is_in_doubt(tmp_path: Path) -> None:
    """It is the largest part of an item."""
    path = tmp_path / "l.db"
    ledger = await opened(path)
    await begin(ledger, body='{"a": "é"}')
    assert body_of(ledger) == '{"a": "é"}'
    await end(ledger, before=ItemState.INTENT, state=ItemState.INTENT)
    assert body_of(ledger) == '{"a": "é"}'
    await accept(ledger)
    assert body_of(ledger) is None
    await end(ledger, state=ItemState.FAILED)
    await begin(ledger, attempt=1, body="{}")
    assert body_of(ledger) == "{}"
    await end(ledger, attempt=2, before=ItemState.INTENT, state=ItemState.OPEN)
    assert body_of(ledger) is None
    await ledger.close()


@pytest.mark.parametrize("changed", [{"width": 512}, {"provider": "flux-ultra"}])
@virtual
async def test_another_request_under_a_key_in_doubt_gets_the_earlier_job(
    changed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The earlier job may be paid for: its request is resent byte for byte, and the new one is not sent."""
    async with new_emulator() as emulator:
        await leave_in_doubt(emulator, tmp_path / "l.db")
        (record,) = read(tmp_path / "l.db")
        async with client_at(emulator) as doitong:
            (item,) = await all_of(
                doitong.generate_many([{**FOX, **changed}], ledger=tmp_path / "l.db", budget=100)
            )
        assert item.outcome is Outcome.DONE
        assert item.request == GenerateRequest(**record.asked)
        assert "another request" in caplog.text
        assert emulator.world.charges == 1


@virtual
async def test_another_request_under_the_key_of_a_running_job_names_the_job(tmp_path: Path) -> None:
    """That job is charged, whatever happens to the new request."""
    async with with_emulator(WIDE) as (doitong, emulator):
        ledger = tmp_path / "l.db"
        await all_of(doitong.generate_many([FOX], ledger=ledger))
        with closing(sqlite3.connect(ledger)) as tool, tool:
            tool.execute("UPDATE items SET state = 'submitted'")
        item: Item
        (item,) = await all_of(doitong.generate_many([{**FOX, "width": 512}], ledger=ledger))
        assert item.error is not None
        assert item.error.job_id == next(iter(emulator.world.jobs))
        assert "othing was charged" not in str(item.error)


@virtual
async def test_a_request_that_cannot_be_encoded_takes_no_slot() -> None:
    """The error comes before a slot is taken or a byte sent."""
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    async with with_emulator(WIDE) as (doitong, emulator):
        with pytest.raises(BadRequestError, match="cannot be written as JSON"):
            await doitong.submit(GenerateRequest(prompt="a fox", options={"deep": deep}))
        assert doitong._running().limiter.slots_taken == 0
        assert emulator.world.count("submit") == 0
