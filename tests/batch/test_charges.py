"""Every possible charge is reported: when the ledger fails, and when one job answers two submits."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from doitong_async import AsyncDoitong, Item, LedgerError, Outcome, SubmitOutcomeUnknownError
from doitong_async.batch import sqlite
from doitong_async.batch.item import ItemState
from doitong_async.batch.ledger import _Writer
from doitong_async.jobs.token import read_ref
from doitong_async.limits import admission
from tests.batch.test_ledger import accept, begin, end, opened, read
from tests.batch.test_runner import WIDE, all_of, outcomes
from tests.virtual import plain, until, virtual, with_emulator

FULL = sqlite3.OperationalError("database or disk is full")


def failing_commit(what: str, error: Exception) -> Callable[..., Any]:
    """Return a commit that fails for each group that has a change of this kind."""
    usual = _Writer.commit

    def commit(writer: _Writer, group: Any) -> Any:
        if any(change.what.startswith(what) for change in group):
            return [error] * len(group)
        return usual(writer, group)

    return commit


# One job, two idempotency keys


@virtual
async def test_a_job_is_not_recorded_under_two_idempotency_keys(tmp_path: Path) -> None:
    """Neither of two items nor of two attempts of one; under its own key it may be recorded again."""
    path = tmp_path / "l.db"
    ledger = await opened(path)
    await begin(ledger, "a", idempotency_key="i-a")
    await begin(ledger, "b", idempotency_key="i-b")
    await accept(ledger, "a", job_id="j")
    for _ in range(2):
        with pytest.raises(SubmitOutcomeUnknownError, match=r"i-b .* j, .* i-a:") as caught:
            await accept(ledger, "b", job_id="j")
        assert (caught.value.idempotency_key, caught.value.job_id) == ("i-b", "j")
    await end(ledger, "a", state=ItemState.FAILED)
    await begin(ledger, "a", attempt=1, idempotency_key="i-again")
    with pytest.raises(SubmitOutcomeUnknownError, match="i-a:"):
        await accept(ledger, "a", attempt=2, job_id="j")
    await accept(ledger, "a", attempt=2, job_id="another")
    await ledger.close()
    assert [record.state for record in read(path)] == [ItemState.SUBMITTED, ItemState.INTENT]
    with closing(sqlite.reader(path)) as reading:
        assert sqlite.made_on(reading, 7) == 2
    with closing(sqlite3.connect(path)) as tool, tool:
        # As if the process had died before the answer.
        tool.execute("UPDATE items SET state = 'intent', job_id = NULL WHERE key = 'a'")
    ledger = await opened(path)
    await accept(ledger, "a", attempt=2, job_id="another")
    await ledger.close()


def test_a_job_that_answers_a_second_submit_puts_the_second_item_in_doubt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds across processes; other items finish, and once the service is right the item is done."""

    def answer_with_the_first_job(raw: bytes, honest: bytes | None) -> bytes | None:
        return (honest or b"").replace(b"plain00002", b"plain00001") if b"mutation" in raw else honest

    @virtual
    async def test() -> None:
        async with plain(WIDE) as (doitong, server):
            await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
            server.rewrite = answer_with_the_first_job
            # The next process knows of earlier jobs only from the ledger.
            admission._LIMITERS.clear()
            async with AsyncDoitong(api_key=server.key, base_url=server.url, plan=WIDE) as other:
                items = await all_of(other.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db"))
            assert outcomes(items) == {Outcome.DONE: 2, Outcome.IN_DOUBT: 1}
            (error,) = [item.error for item in items if item.error]
            assert isinstance(error, SubmitOutcomeUnknownError)
            assert error.job_id == "plain00001"
            keys = [record.idempotency_key for record in read(tmp_path / "l.db")]
            assert error.idempotency_key == keys[1]
            assert str(keys[0]) in str(error)
            assert f"{keys[1]}" in caplog.text
            assert [record.state for record in read(tmp_path / "l.db")] == [
                ItemState.DONE,
                ItemState.INTENT,
                ItemState.DONE,
            ]
            server.rewrite = lambda raw, honest: honest
            items = await all_of(doitong.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db"))
            assert outcomes(items) == {Outcome.DONE: 3}
            assert len(server.jobs) == 3

    test()


# A ledger that fails


@pytest.mark.parametrize("error", [FULL, sqlite3.OperationalError("database is locked"), OSError(5, "I/O")])
def test_a_job_that_cannot_be_recorded_is_reported(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Item and log have its id, token and idempotency key; the next run resumes it."""
    prompts = [f"fox {number}" for number in range(4)]

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, emulator):
            with monkeypatch.context() as full:
                full.setattr(_Writer, "commit", failing_commit("the job", error))
                items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db"))
            made = emulator.world.charges
            assert made > 0
            reported = [item for item in items if item.outcome is Outcome.IN_DOUBT]
            assert sorted(job_ids(reported)) == sorted(emulator.world.jobs)
            keys = {record.idempotency_key for record in read(tmp_path / "l.db")}
            for item in reported:
                assert isinstance(item.error, LedgerError)
                assert item.error.idempotency_key in keys
                assert item.error.token is not None
                assert read_ref(item.error.token).id == item.error.job_id
                assert "othing was charged" not in str(item.error)
                for fact in (item.error.job_id, item.error.token, item.error.idempotency_key):
                    assert str(fact) in caplog.text
            assert len({item.error.idempotency_key for item in reported if item.error}) == len(reported)
            assert outcomes(items) == Counter({Outcome.IN_DOUBT: made, Outcome.SKIPPED: 4 - made})
            items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db"))
            assert outcomes(items) == {Outcome.DONE: 4}
            assert emulator.world.charges == 4

    test()


def job_ids(items: list[Item]) -> list[str]:
    return [item.error.job_id or "" for item in items if item.error]


@pytest.mark.slow
def test_an_end_that_cannot_be_recorded_names_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is paid, and perhaps recorded; skipped items never carry another item's job."""
    prompts = [f"fox {number}" for number in range(30)]

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, emulator):
            with monkeypatch.context() as full:
                full.setattr(_Writer, "commit", failing_commit("the end", FULL))
                batch = doitong.batch(prompts, ledger=tmp_path / "l.db", out=tmp_path)
                items = await all_of(batch)
            reported = [item for item in items if item.outcome is Outcome.IN_DOUBT]
            assert sorted(job_ids(reported)) == sorted(emulator.world.jobs)
            for item in reported:
                assert item.error is not None
                assert read_ref(item.error.token or "").id == item.error.job_id
            skipped = [item.error for item in items if item.outcome is Outcome.SKIPPED]
            assert skipped
            for error in (*skipped, batch.progress().stopped):
                assert error is not None
                assert error.job_id is error.token is error.idempotency_key is None
            items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
            assert outcomes(items) == {Outcome.DONE: 30}
            assert emulator.world.charges == 30

    test()


def test_a_job_that_nobody_awaits_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller left the batch while the ledger failed."""

    @virtual
    async def test() -> None:
        ledger = await opened(tmp_path / "l.db")
        await begin(ledger)
        with monkeypatch.context() as full:
            full.setattr(_Writer, "commit", failing_commit("the job", FULL))
            writing = asyncio.ensure_future(accept(ledger, job_id="paid-for"))
            await asyncio.sleep(0)
            writing.cancel()
            await asyncio.wait([writing])
            await until(lambda: ledger._writing is None and not ledger._waiting)
        await ledger.close()

    test()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "paid-for" in record.getMessage()
    assert "disk is full" in record.getMessage()


@virtual
async def test_every_caller_gets_an_error_if_writing_fails(tmp_path: Path) -> None:
    """Even an error that is not SQLite's leaves no caller waiting; each gets its own exception."""
    ledger = await opened(tmp_path / "l.db")

    class Unwritable:
        def __conform__(self, _: object) -> None:
            raise RuntimeError("nobody thought of this")

    reported = await asyncio.gather(
        begin(ledger, "a"), begin(ledger, "b", request=Unwritable()), return_exceptions=True
    )
    assert all(isinstance(error, LedgerError) for error in reported)
    (tmp_path / "l.db").rename(tmp_path / "away.db")
    reported = await asyncio.gather(begin(ledger, "a"), begin(ledger, "b"), return_exceptions=True)
    assert all("moved or deleted" in str(error) for error in reported)
    assert reported[0] is not reported[1]
    (tmp_path / "away.db").rename(tmp_path / "l.db")
    await begin(ledger, "a")
    await ledger.close()


@virtual
async def test_an_item_in_doubt_when_the_batch_stops_stays_in_doubt(tmp_path: Path) -> None:
    """Its error has the idempotency key, and does not say that no job was made."""
    async with with_emulator(WIDE, resend_unanswered=False, emulator={"faults": ["submit 1: cut-after"]}) as (
        doitong,
        emulator,
    ):
        await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
        (record,) = read(tmp_path / "l.db")
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=WIDE) as resending:
            batch = resending.batch(["a"], ledger=tmp_path / "l.db")
            running = asyncio.ensure_future(all_of(batch))
            await until(lambda: batch._flight.tasks)
            batch.stop()
            (item,) = await running
        assert item.outcome is Outcome.IN_DOUBT
        assert item.error is not None
        assert item.error.idempotency_key == record.idempotency_key
        assert "A job may have been made and charged." in str(item.error)
        assert "none was made" not in str(item.error)


@virtual
async def test_a_skipped_item_does_not_carry_the_key_of_another(tmp_path: Path) -> None:
    """One item's error stops the batch; the others never had a key."""
    async with with_emulator(WIDE, emulator={"credits": 60}) as (doitong, _):
        batch = doitong.batch([f"fox {number}" for number in range(20)], ledger=tmp_path / "l.db")
        items = await all_of(batch)
        errors = [item.error for item in items if item.error]
        keys = Counter(error.idempotency_key for error in errors)
        assert keys.pop(None) > 5
        assert set(keys.values()) == {1}
        stopped = batch.progress().stopped
        assert stopped is not None
        assert stopped.idempotency_key is None
