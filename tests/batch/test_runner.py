"""Batches against the emulator: results, order and cost."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    BudgetReachedError,
    ClientClosedError,
    ConfigurationError,
    DailyLimitError,
    DownloadError,
    GenerateRequest,
    InsufficientCreditsError,
    Item,
    JobNotFoundError,
    LedgerError,
    Outcome,
    Plan,
    SubmitOutcomeUnknownError,
)
from doitong_async.batch import sqlite
from doitong_async.batch.batch import Batch
from doitong_async.batch.ledger import _Writer
from doitong_async.budget import Budget
from doitong_async.emulator import Emulator
from doitong_async.events import Event, RequestSent
from tests.plain_server import Behaviour
from tests.virtual import now, plain, seen, until, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)


async def all_of(batch: AsyncIterator[Item]) -> list[Item]:
    async with batch if isinstance(batch, Batch) else nullcontext():
        return [item async for item in batch]


def outcomes(items: list[Item]) -> Counter[Outcome]:
    return Counter(item.outcome for item in items)


@virtual
async def test_prompts_mappings_and_requests_become_files(tmp_path: Path) -> None:
    """Whatever is given, each item ends with its request, its result and its file."""
    by_key = {"prompt": "a whale", "key": "whale", "width": 512}
    given: list[Any] = ["a fox", by_key, GenerateRequest(prompt="a frog")]
    async with with_emulator(WIDE) as (doitong, emulator):
        items = await all_of(doitong.generate_many(given, out=tmp_path / "new" / "pictures"))
    assert outcomes(items) == {Outcome.DONE: 3}
    assert sorted(item.number for item in items) == [1, 2, 3]
    by_prompt = {item.request.prompt: item for item in items if item.request}
    whale = by_prompt["a whale"]
    assert whale.key == "whale"
    assert whale.file is not None
    assert whale.file.name == "whale.jpg"
    assert whale.request is not None
    assert (whale.request.width, whale.request.provider) == (512, "flux-pro")
    assert all(item.file is not None and item.file.stat().st_size > 1000 for item in items)
    assert all(item.result is not None and item.result.credit_cost for item in items)
    assert by_prompt["a fox"].file != by_prompt["a frog"].file
    assert emulator.world.charges == 3


@virtual
async def test_items_come_as_they_end() -> None:
    """A long job delays no other item."""
    async with with_emulator(WIDE, emulator={"durations": lambda number: 60.0 if number == 1 else 3.0}) as (
        doitong,
        _,
    ):
        moments = [now() async for _ in doitong.generate_many(f"fox {number}" for number in range(6))]
        assert moments[4] < 20 < 60 <= moments[5]


@pytest.mark.slow
@virtual
async def test_requests_are_read_no_further_ahead_than_the_plan_can_use() -> None:
    """At most as many as run, as many again that could start at once, and those that ended."""
    read = 0

    def prompts() -> Iterator[str]:
        nonlocal read
        for number in range(200):
            read += 1
            yield f"fox {number}"

    async with with_emulator(WIDE) as (doitong, emulator):
        ended = 0
        async for _ in doitong.generate_many(prompts()):
            ended += 1
            assert read <= ended + 3 * WIDE.concurrent_jobs
        assert ended == emulator.world.charges == 200


@virtual
async def test_a_slow_loop_slows_the_batch_down() -> None:
    """The batch stops making items when too many wait for the loop to take them."""
    async with with_emulator(WIDE) as (doitong, emulator):
        batch = doitong.batch(f"fox {number}" for number in range(500))
        async with batch:
            async for _ in batch:
                await asyncio.sleep(3600)
                break
        assert emulator.world.charges < 100


@virtual
async def test_an_async_source_may_be_slow() -> None:
    """While it waits, the items that were read finish."""

    async def prompts() -> AsyncIterator[dict[str, str]]:
        for number in range(3):
            yield {"prompt": f"fox {number}"}
            await asyncio.sleep(100)

    async with with_emulator(WIDE) as (doitong, _):
        moments = [now() async for _ in doitong.generate_many(prompts())]
    assert moments[0] < 20 < 100 < moments[1] < 120 < 200 < moments[2]


@virtual
async def test_one_bad_item_never_ends_the_batch() -> None:
    """It is rejected with its mistake, nothing is sent for it, and the other items are done."""
    given: list[Any] = ["", "fox", {"prompt": "x", "widht": 5}, 7, {"prompt": "y", "width": -1, "key": "y"}]
    async with with_emulator(WIDE) as (doitong, emulator):
        items = {item.number: item for item in await all_of(doitong.generate_many(given))}
        assert {number: item.outcome for number, item in items.items()} == {
            **dict.fromkeys((1, 3, 4, 5), Outcome.REJECTED),
            2: Outcome.DONE,
        }
        assert "widht" in str(items[3].error)
        assert items[5].key == "y"
        assert isinstance(items[1].error, BadRequestError)
        assert emulator.world.count("submit") == 1


@virtual
async def test_an_error_of_the_source_ends_the_loop_after_the_items_read() -> None:
    """The loop yields those first, then raises the error."""

    def prompts() -> Iterator[str]:
        yield "fox"
        raise OSError("the disk is gone")

    async with with_emulator(WIDE) as (doitong, _):
        items = aiter(doitong.generate_many(prompts()))
        assert (await anext(items)).outcome is Outcome.DONE
        with pytest.raises(OSError, match="the disk is gone"):
            await anext(items)


@virtual
async def test_the_same_prompt_twice_is_two_items(tmp_path: Path) -> None:
    """A counter distinguishes repeats, also when the batch runs again."""
    async with with_emulator(WIDE) as (doitong, emulator):
        for _ in range(2):
            items = await all_of(doitong.generate_many(["fox", "fox"], ledger=tmp_path / "l", out=tmp_path))
            assert len({item.key for item in items}) == len({item.file for item in items}) == 2
        assert emulator.world.charges == 2


@virtual
async def test_a_key_given_twice_is_rejected() -> None:
    """The first item with that key is made."""
    given = [{"prompt": "a", "key": "k"}, {"prompt": "b", "key": "k"}]
    async with with_emulator(WIDE) as (doitong, _):
        items = {item.number: item for item in await all_of(doitong.generate_many(given))}
        assert [items[1].outcome, items[2].outcome] == [Outcome.DONE, Outcome.REJECTED]
        assert "1 and 2" in str(items[2].error)


@virtual
async def test_finished_items_are_not_made_again(tmp_path: Path) -> None:
    """A second run sends no request and yields the same items; new items are added."""
    async with with_emulator(WIDE) as (doitong, emulator):
        first = await all_of(doitong.generate_many(["a", "b"], ledger=tmp_path / "l.db", out=tmp_path))
        requests = len(emulator.world.seen)
        again = await all_of(doitong.generate_many(["a", "b"], ledger=tmp_path / "l.db", out=tmp_path))
        assert len(emulator.world.seen) == requests
        assert {item.key: item.file for item in again} == {item.key: item.file for item in first}
        assert not any(item.is_new for item in again)
        assert all(item.result and item.result.credit_cost and item.result.url for item in again)
        more = await all_of(doitong.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db", out=tmp_path))
        assert [item.is_new for item in more].count(True) == 1
        assert emulator.world.charges == 3


@virtual
async def test_a_missing_file_is_downloaded_and_not_paid_for_again(tmp_path: Path) -> None:
    """So is a file of another length, and with `verify` one of other content."""
    async with with_emulator(WIDE) as (doitong, emulator):

        async def once(**more: Any) -> list[Item]:
            return await all_of(
                doitong.generate_many(list("abc"), ledger=tmp_path / "l.db", out=tmp_path, **more)
            )

        pictures = {item.key: item.file.read_bytes() for item in await once() if item.file}
        gone, cut, changed = [item.file for item in await once() if item.file]
        gone.unlink()
        cut.write_bytes(b"half")
        changed.write_bytes(bytes(changed.stat().st_size))
        submits = emulator.world.count("submit")
        batch = doitong.batch(list("abc"), ledger=tmp_path / "l.db", out=tmp_path, verify=True)
        items = await all_of(batch)
        assert {item.key: item.file.read_bytes() for item in items if item.file} == pictures
        assert all(item.is_new for item in items)
        assert emulator.world.count("submit") == submits == emulator.world.charges
        with closing(sqlite.reader(tmp_path / "l.db")) as reading:
            assert batch.progress().spent == sqlite.totals(reading).spent


@virtual
async def test_a_missing_file_with_an_expired_url_gets_a_new_url(tmp_path: Path) -> None:
    """No document says how long a URL lives; one poll asks for a new one, and a dead URL is an error."""
    async with with_emulator(WIDE) as (doitong, emulator):
        ledger = tmp_path / "l.db"

        async def after(change: str) -> Item:
            with closing(sqlite3.connect(ledger)) as connection, connection:
                connection.execute(f"UPDATE items SET {change}")
            [item] = await all_of(doitong.generate_many(["a"], ledger=ledger, out=tmp_path))
            return item

        [first] = await all_of(doitong.generate_many(["a"], ledger=ledger, out=tmp_path))
        assert first.file is not None
        picture = first.file.read_bytes()
        first.file.unlink()
        item = await after("url = url || '.gone'")
        assert item.outcome is Outcome.DONE
        assert first.file.read_bytes() == picture
        first.file.unlink()
        item = await after("url = url || '.gone', job_id = 'forgotten'")
        assert item.outcome is Outcome.FAILED
        assert isinstance(item.error, DownloadError)
        assert emulator.world.charges == emulator.world.count("submit") == 1
        await emulator.stop()
        before = now()
        item = await after("job_id = 'gone'")
        assert isinstance(item.error, DownloadError)
        assert now() - before < 60


@virtual
async def test_a_known_key_with_another_request_is_rejected(tmp_path: Path) -> None:
    """The ledger has the picture of the first request; the second is an error and costs nothing."""
    async with with_emulator(WIDE) as (doitong, emulator):
        await all_of(doitong.generate_many([{"prompt": "a", "key": "k"}], ledger=tmp_path / "l.db"))
        items = await all_of(doitong.generate_many([{"prompt": "b", "key": "k"}], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.REJECTED: 1}
        assert "another request" in str(items[0].error)
        assert emulator.world.charges == 1


@virtual
async def test_failed_items_are_retried_only_on_request(tmp_path: Path) -> None:
    """Each attempt is another paid job under another idempotency key."""
    async with with_emulator(WIDE, emulator={"faults": ["job 1: fail"]}) as (doitong, emulator):
        ledger = tmp_path / "l.db"
        first = await all_of(doitong.generate_many(["a"], ledger=ledger))
        again = await all_of(doitong.generate_many(["a"], ledger=ledger))
        assert outcomes(first) == outcomes(again) == {Outcome.FAILED: 1}
        assert type(first[0].error) is type(again[0].error)
        assert emulator.world.charges == 1
        third = await all_of(doitong.generate_many(["a"], ledger=ledger, retry_failed=True))
        assert outcomes(third) == {Outcome.DONE: 1}
        keys = [request.headers["Idempotency-Key"] for request in seen(emulator, "submit")]
        assert len(keys) == len(set(keys)) == 2
        with closing(sqlite.reader(ledger)) as reading:
            (record,) = sqlite.records(reading)
            assert (record.attempt, record.earlier_cost > 0) == (2, True)
            assert sqlite.totals(reading).spent == record.earlier_cost + (record.cost or 0)


@pytest.mark.slow
@virtual
async def test_leaving_the_loop_leaves_running_jobs_to_the_next_run(tmp_path: Path) -> None:
    """They are recorded, continue at the service, and the next run resumes them."""
    prompts = [f"fox {number}" for number in range(12)]
    async with with_emulator(WIDE) as (doitong, emulator):
        async for _ in doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path):
            break
        await until(lambda: not [task for task in asyncio.all_tasks() if "item" in task.get_name()])
        await asyncio.sleep(30)
        made = emulator.world.charges
        assert 4 <= made < 12
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
        assert outcomes(items) == {Outcome.DONE: 12}
        assert emulator.world.charges == 12


@virtual
async def test_leaving_waits_for_the_answers_of_submits(tmp_path: Path) -> None:
    """When the loop is left, the ledger has the jobs of the submits that were in flight."""
    async with with_emulator(WIDE, emulator={"faults": ["submit: latency 5"]}) as (doitong, emulator):
        batch = doitong.batch(["a", "b"], ledger=tmp_path / "l.db")
        running = asyncio.ensure_future(all_of(batch))
        await until(lambda: emulator.world.count("submit") == 2)
        running.cancel()
        await asyncio.wait([running])
        with closing(sqlite.reader(tmp_path / "l.db")) as reading:
            assert [record.state for record in sqlite.records(reading)] == ["submitted"] * 2


@virtual
async def test_closing_the_client_ends_the_loop(tmp_path: Path) -> None:
    """A caller that awaits the next item gets an error; the ledger is complete and unlocked."""
    async with with_emulator(WIDE) as (doitong, emulator):
        running = asyncio.ensure_future(all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db")))
        await until(lambda: emulator.world.charges == 1)
        await doitong.aclose()
        with pytest.raises(ClientClosedError):
            await running
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=WIDE) as other:
            items = await all_of(other.generate_many(["a"], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1


@virtual
async def test_stop_drains_the_batch(tmp_path: Path) -> None:
    """Running jobs end, waiting items are skipped, and nothing more is read or submitted."""
    async with with_emulator(WIDE) as (doitong, emulator):
        batch = doitong.batch((f"fox {n}" for n in range(100)), ledger=tmp_path / "l.db")
        items = []
        async with batch:
            async for item in batch:
                items.append(item)
                batch.stop()
        made = emulator.world.charges
        assert outcomes(items) == {Outcome.DONE: made, Outcome.SKIPPED: len(items) - made}
        assert 4 <= made <= 8
        assert isinstance(batch.progress().stopped, ClientClosedError)


@virtual
async def test_a_budget_is_used_up_and_never_exceeded(tmp_path: Path) -> None:
    """It reserves a job's highest cost and skips the rest, which a larger budget continues."""
    prompts = [f"fox {number}" for number in range(20)]
    lows: list[float] = []
    async with with_emulator(WIDE) as (doitong, emulator):
        budget = Budget(100, low_at=0.5, on_low=lows.append)
        batch = doitong.batch(prompts, ledger=tmp_path / "l.db", budget=budget)
        items = await all_of(batch)
        progress = batch.progress()
        assert 80 < progress.spent <= 100
        assert progress.reserved == 0
        assert outcomes(items)[Outcome.SKIPPED] == 20 - emulator.world.charges
        skipped = [item.error for item in items if item.outcome is Outcome.SKIPPED]
        assert all(isinstance(error, BudgetReachedError) for error in skipped)
        assert len(lows) == 1
        # The same budget has nothing left; a larger one continues the batch.
        made = emulator.world.charges
        await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", budget=100))
        assert emulator.world.charges == made
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", budget=1_000))
        assert outcomes(items) == {Outcome.DONE: 20}
        assert emulator.world.charges == 20


@virtual
async def test_a_budget_needs_a_price() -> None:
    """A kind without a documented price is rejected under a budget, unless its price is given."""
    video = [{"prompt": "waves", "provider": "kling"}]
    async with with_emulator(WIDE) as (doitong, emulator):
        items = await all_of(doitong.generate_many(video, budget=500))
        assert outcomes(items) == {Outcome.REJECTED: 1}
        assert "price=" in str(items[0].error)
        assert outcomes(await all_of(doitong.generate_many(video, budget=500, price=200))) == {
            Outcome.DONE: 1
        }
        assert emulator.world.charges == 1


@virtual
async def test_a_402_stops_every_submit(tmp_path: Path) -> None:
    """Each item gets the service's message; with new credits the batch continues."""
    prompts = [f"fox {number}" for number in range(30)]
    async with with_emulator(WIDE, emulator={"credits": 100}) as (doitong, emulator):
        batch = doitong.batch(prompts, ledger=tmp_path / "l.db")
        items = await all_of(batch)
        refused = [request for request in seen(emulator, "submit") if request.http_status == 402]
        assert 1 <= len(refused) <= WIDE.concurrent_jobs
        assert outcomes(items) == {
            Outcome.DONE: emulator.world.charges,
            Outcome.SKIPPED: 30 - emulator.world.charges,
        }
        stopped = batch.progress().stopped
        assert isinstance(stopped, InsufficientCreditsError)
        assert stopped.credits_available is not None
        with closing(sqlite.reader(tmp_path / "l.db")) as reading:
            assert not list(sqlite.records(reading, unsettled=True))
            assert "InsufficientCreditsError" in [record.error for record in sqlite.records(reading)]
        emulator.world._accounts["k-test"].balance = 10_000
        # After a 402 nothing is sent for half a minute, whoever asks.
        await asyncio.sleep(30)
        assert outcomes(await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db"))) == {
            Outcome.DONE: 30
        }
        assert emulator.world.charges == 30


@virtual
async def test_the_ledger_counts_the_day_across_processes(tmp_path: Path) -> None:
    """A second process on the same day submits the rest of the day's jobs, and not one more."""
    plan = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4, jobs_per_day=10)
    prompts = [f"fox {number}" for number in range(15)]
    async with Emulator(plan="pro", credits=10_000) as emulator:
        for number, expected in enumerate((6, 10)):
            # Another API key gets another rate limiter, as another process does; the ledger is the same.
            async with AsyncDoitong(api_key=f"k-{number}", base_url=emulator.url, plan=plan) as doitong:
                items = await all_of(
                    doitong.generate_many(prompts[: (number + 1) * 6], ledger=tmp_path / "l.db")
                )
            assert emulator.world.charges == expected
        assert isinstance(next(item.error for item in items if item.error), DailyLimitError)


@virtual
async def test_a_batch_waits_for_the_next_day_on_request() -> None:
    """25 jobs at ten a day take three days."""
    plan = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4, jobs_per_day=10)
    async with with_emulator(plan, wait_for_next_day=True) as (doitong, _):
        items = await all_of(doitong.generate_many(f"fox {number}" for number in range(25)))
        assert outcomes(items) == {Outcome.DONE: 25}
        assert 2 * 86_400 < now() < 2 * 86_400 + 3_600


@virtual
async def test_a_batch_survives_an_outage(tmp_path: Path) -> None:
    """After minutes of 502 each item is sent again under its idempotency key, and paid for once."""
    async with with_emulator(WIDE, emulator={"faults": ["submit 1-40: 502"]}) as (doitong, emulator):
        batch = doitong.batch(["a", "b", "c"], ledger=tmp_path / "l.db")
        items = asyncio.create_task(all_of(batch))
        # Between two attempts nothing runs, and the progress must show that.
        while (batch.progress().running, batch.progress().waiting) != (0, 3) or now() < 20:  # noqa: ASYNC110 - progress sets no event
            await asyncio.sleep(0.1)
        assert outcomes(await items) == {Outcome.DONE: 3}
        assert len({request.headers["Idempotency-Key"] for request in seen(emulator, "submit")}) == 3
        assert emulator.world.charges == 3


@virtual
async def test_a_batch_waits_as_long_as_retry_after_says(tmp_path: Path) -> None:
    """No attempt comes sooner, not even the one after an item's three attempts have failed."""
    busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 50\r\nContent-Length: 0\r\n\r\n"
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: busy if kind == "submit" and nth <= 4 else None
        items = await all_of(doitong.generate_many(["a fox"], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.DONE: 1}
        moments = [request.at for request in server.requests if request.kind == "submit"]
        assert moments == [0.0, 50.0, 100.0, 150.0, 200.0]


@virtual
async def test_a_clock_that_jumps_ahead_and_back_costs_no_later_day(tmp_path: Path) -> None:
    """Jobs made meanwhile count for that other day, in the ledger too; each day has its full number."""
    plan = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4, jobs_per_day=4)
    prompts = [f"fox {number}" for number in range(14)]
    loop = asyncio.get_running_loop()
    usual, ledger = loop.wall_time, tmp_path / "l.db"  # type: ignore[attr-defined]  # of the virtual loop

    def jump(days: int) -> None:
        loop.wall_time = lambda: usual() + days * 86_400  # type: ignore[attr-defined]  # of the virtual loop

    async with Emulator(plan="pro", credits=10_000) as emulator:
        # (key, days ahead, items requested, items done in the end): by one process, and then by another.
        for key, days, asked, done in (
            ("k-1", 0, 2, 2),
            ("k-1", 9, 5, 5),
            ("k-1", 0, 14, 7),
            ("k-1", 1, 14, 11),
            ("k-2", 9, 14, 12),
            ("k-2", 0, 14, 12),
            ("k-2", 2, 14, 14),
        ):
            jump(days)
            async with AsyncDoitong(api_key=key, base_url=emulator.url, plan=plan) as doitong:
                items = await all_of(doitong.generate_many(prompts[:asked], ledger=ledger))
            assert outcomes(items)[Outcome.DONE] == done
    jump(0)


@pytest.mark.slow
@virtual
async def test_an_endless_outage_stops_the_batch(tmp_path: Path) -> None:
    """After ten minutes it gives up: items that may have been sent are in doubt, the others skipped."""
    prompts = [f"fox {number}" for number in range(20)]
    async with with_emulator(WIDE, emulator={"faults": ["submit: 502"]}) as (doitong, emulator):
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db"))
        counts = outcomes(items)
        assert counts[Outcome.IN_DOUBT] + counts[Outcome.SKIPPED] == 20
        assert counts[Outcome.SKIPPED] > 0
        assert 600 < now() < 900
        emulator.faults.clear()
        again = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db"))
        assert outcomes(again) == {Outcome.DONE: 20}
        assert emulator.world.charges == 20


@pytest.mark.slow
@virtual
async def test_items_with_lost_answers_are_paid_for_once(tmp_path: Path) -> None:
    """Half of the answers are lost; each item is charged once, and has its file."""
    faults = ["submit: cut-after p=0.5 seed=3", "poll: 502 p=0.3 seed=5", "output: truncated every=3"]
    async with with_emulator(WIDE, emulator={"faults": faults}) as (doitong, emulator):
        prompts = [f"fox {number}" for number in range(30)]
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
        assert outcomes(items) == {Outcome.DONE: 30}
        assert emulator.world.charges == 30


@virtual
async def test_an_item_in_doubt_is_not_resent_if_keys_are_not_trusted(tmp_path: Path) -> None:
    """Neither in this run nor in the next one; the error has the idempotency key."""
    rules = {"faults": ["submit 1: cut-after"], "keys_honoured": False}
    async with with_emulator(WIDE, emulator=rules, resend_unanswered=False) as (doitong, emulator):
        for _ in range(2):
            items = await all_of(doitong.generate_many(["a", "b"], ledger=tmp_path / "l.db"))
            assert outcomes(items) == {Outcome.IN_DOUBT: 1, Outcome.DONE: 1}
            error = next(item.error for item in items if item.error)
            assert isinstance(error, SubmitOutcomeUnknownError)
            assert error.idempotency_key
        assert emulator.world.charges == 2


@virtual
async def test_an_intent_is_in_doubt_after_its_key_expires(tmp_path: Path) -> None:
    """A day later, the same submit under the same key might make a second job, so it is not sent."""
    async with with_emulator(WIDE, emulator={"faults": ["submit: 502 handled=yes"]}) as (doitong, emulator):
        running = asyncio.ensure_future(all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db")))
        await asyncio.sleep(15)
        running.cancel()
        await asyncio.wait([running])
        await asyncio.sleep(90_000)
        emulator.faults.clear()
        submits = emulator.world.count("submit")
        items = await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
        assert outcomes(items) == {Outcome.IN_DOUBT: 1}
        assert emulator.world.count("submit") == submits
        items = await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db", key_lives=100_000))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1


@pytest.mark.parametrize("names_job", [True, False])
def test_a_conflict_names_the_job_to_resume(names_job: bool, tmp_path: Path) -> None:
    """Another server answers a known key with a conflict; the next run resumes the job that it names."""

    @virtual
    async def test() -> None:
        behaviour = Behaviour(conflict_on_replay=True, conflict_names_job=names_job)
        async with plain(WIDE, behaviour=behaviour) as (doitong, server):
            await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
            # As if the process had died before the answer.
            with closing(sqlite3.connect(tmp_path / "l.db")) as ledger, ledger:
                ledger.execute("UPDATE items SET state = 'intent', job_id = NULL")
            items = await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
            assert outcomes(items) == {Outcome.DONE if names_job else Outcome.IN_DOUBT: 1}
            assert len(server.jobs) == 1

    test()


@virtual
async def test_nothing_is_sent_before_its_intent_is_on_the_disk(tmp_path: Path) -> None:
    """At the moment of each submit the ledger has its idempotency key."""
    intents: list[int] = []

    def count_intents(event: Event) -> None:
        if isinstance(event, RequestSent) and event.kind == "submit":
            with closing(sqlite.reader(tmp_path / "l.db")) as reading:
                intents.append(sum(sqlite.totals(reading).items.values()))

    async with with_emulator(Plan("one at a time", 6_000, 1), on_event=count_intents) as (doitong, _):
        await all_of(doitong.generate_many(["a", "b", "c"], ledger=tmp_path / "l.db"))
    assert intents == [1, 2, 3]


@virtual
async def test_a_ledger_in_use_is_rejected(tmp_path: Path) -> None:
    """Two batches on one ledger would pay twice; the second sends nothing."""
    async with with_emulator(WIDE) as (doitong, emulator):
        async with doitong.batch(["a"], ledger=tmp_path / "l.db") as first:
            await anext(first)
            with pytest.raises(LedgerError, match="in use"):
                await all_of(doitong.generate_many(["b"], ledger=tmp_path / "l.db"))
            assert emulator.world.count("submit") == 1
        await all_of(doitong.generate_many(["b"], ledger=tmp_path / "l.db"))


@virtual
async def test_a_ledger_of_another_service_is_rejected(tmp_path: Path) -> None:
    """This service does not know its jobs."""
    async with with_emulator(WIDE) as (doitong, _):
        await all_of(doitong.generate_many(["a"], ledger=tmp_path / "l.db"))
    async with AsyncDoitong(api_key="k", plan=WIDE) as real:
        with pytest.raises(LedgerError, match="an emulator"):
            await all_of(real.generate_many(["a"], ledger=tmp_path / "l.db"))


@virtual
async def test_a_job_that_another_key_cannot_see_is_kept(tmp_path: Path) -> None:
    """It is reported as failed and polled again; only `retry_failed` submits it again, and pays again."""
    async with with_emulator(WIDE) as (doitong, emulator):
        ledger, out = tmp_path / "l.db", tmp_path / "out"

        async def once(by: AsyncDoitong, **more: Any) -> list[Item]:
            return await all_of(by.generate_many(["a", "b"], ledger=ledger, out=out, **more))

        def forget_the_end() -> None:
            with closing(sqlite3.connect(ledger)) as connection, connection:
                connection.execute("UPDATE items SET state = 'submitted'")

        await once(doitong)
        forget_the_end()
        async with AsyncDoitong(api_key="of-another-account", base_url=emulator.url, plan=WIDE) as other:
            items = await once(other)
            assert outcomes(items) == {Outcome.FAILED: 2}
            assert all(isinstance(item.error, JobNotFoundError) for item in items)
            assert outcomes(await once(doitong)) == {Outcome.DONE: 2}
            assert emulator.world.charges == 2
            forget_the_end()
            await once(other)
            batch = other.batch(["a", "b"], ledger=ledger, out=out, retry_failed=True, budget=1_000)
            assert outcomes(await all_of(batch)) == {Outcome.DONE: 2}
        assert emulator.world.charges == 4
        with closing(sqlite.reader(ledger)) as reading:
            assert batch.progress().spent == sqlite.totals(reading).spent


@virtual
async def test_a_job_that_is_found_again_is_no_longer_missing(tmp_path: Path) -> None:
    """The next run resumes it, even with `retry_failed`, and does not pay again."""
    ledger = tmp_path / "l.db"
    async with with_emulator(WIDE, emulator={"durations": 60.0}) as (doitong, emulator):
        for number, left_after in enumerate((5, 20)):
            async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=WIDE) as process:
                running = asyncio.ensure_future(all_of(process.generate_many(["a"], ledger=ledger)))
                await asyncio.sleep(left_after)
                running.cancel()
                await asyncio.wait([running])
            with closing(sqlite3.connect(ledger)) as connection, connection:
                assert connection.execute("SELECT state FROM items").fetchone() == ("submitted",)
                if not number:
                    connection.execute("UPDATE items SET state = 'missing'")
        items = await all_of(doitong.generate_many(["a"], ledger=ledger, retry_failed=True))
        assert outcomes(items) == {Outcome.DONE: 1}
        assert emulator.world.charges == 1


@virtual
async def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    """The error comes before anything is sent."""
    (tmp_path / "file").write_text("not a folder")
    async with with_emulator(WIDE) as (doitong, emulator):
        with pytest.raises(ConfigurationError, match="Nothing was sent"):
            await all_of(doitong.generate_many(["a"], out=tmp_path / "file"))
        assert emulator.world.count("submit") == 0


@pytest.mark.slow
@virtual
async def test_a_full_disk_stops_the_batch_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture that did not fit is paid for: the next run downloads it and makes no other."""
    prompts = [f"fox {number}" for number in range(20)]
    async with with_emulator(WIDE) as (doitong, emulator):
        with monkeypatch.context() as full:
            full.setattr("doitong_async.files.Part.write", _no_space)
            items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
        made = emulator.world.charges
        assert outcomes(items) == {Outcome.FAILED: made, Outcome.SKIPPED: 20 - made}
        assert made <= 2 * WIDE.concurrent_jobs
        assert isinstance(items[-1].error, DownloadError)
        items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
        assert outcomes(items) == {Outcome.DONE: 20}
        assert emulator.world.charges == 20


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_a_ledger_on_a_full_disk_stops_the_batch_and_loses_nothing(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the k-th change on, writing fails: no submit goes out unrecorded, none is paid for twice."""

    @virtual
    async def test() -> None:
        prompts = [f"fox {each}" for each in range(6)]
        async with with_emulator(WIDE) as (doitong, emulator):
            with monkeypatch.context() as full:
                full.setattr(_Writer, "commit", full_after(number))
                items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
            assert outcomes(items)[Outcome.SKIPPED] + outcomes(items)[Outcome.IN_DOUBT] > 0
            assert any(isinstance(item.error, LedgerError) for item in items)
            items = await all_of(doitong.generate_many(prompts, ledger=tmp_path / "l.db", out=tmp_path))
            assert outcomes(items) == {Outcome.DONE: 6}
            assert emulator.world.charges == 6

    test()


def full_after(groups: int) -> Callable[..., Any]:
    """Return a commit that fails after it has written this many groups."""
    write, left = _Writer.commit, groups

    def commit(writer: _Writer, group: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            return [sqlite3.OperationalError("database or disk is full")] * len(group)
        return write(writer, group)

    return commit


@virtual
async def test_a_batch_runs_once() -> None:
    """A second loop over it is an error."""
    async with with_emulator(WIDE) as (doitong, _):
        batch = doitong.batch(["a"])
        await all_of(batch)
        with pytest.raises(ConfigurationError, match="ran before"):
            await all_of(batch)


@virtual
async def test_a_batch_that_is_never_run_leaves_nothing() -> None:
    """No task, no file, no warning."""
    async with with_emulator(WIDE) as (doitong, _):
        tasks = asyncio.all_tasks()
        doitong.batch(["a"])
        doitong.generate_many(["a"])
        gc.collect()
        assert asyncio.all_tasks() == tasks
        assert doitong._running().batches == set()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"requests": "one prompt"}, "requests"),
        ({"requests": 5}, "requests"),
        ({"budget": -1}, "budget"),
        ({"price": "much"}, "price"),
        ({"key_lives": float("nan")}, "key_lives"),
    ],
)
def test_a_bad_argument_is_named_at_once(arguments: dict[str, Any], named: str) -> None:
    """Before anything is read or sent."""

    @virtual
    async def test() -> None:
        async with with_emulator(WIDE) as (doitong, _):
            with pytest.raises((BadRequestError, ConfigurationError), match=named):
                doitong.generate_many(**{"requests": ["a"], **arguments})
            with pytest.raises((BadRequestError, ConfigurationError), match=named):
                doitong.batch(**{"requests": ["a"], **arguments})

    test()
