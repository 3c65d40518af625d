"""A client's budget: what is reserved, settled, released and waited for, counted at the server."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    Budget,
    BudgetReachedError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    InsufficientCreditsError,
    JobFailedError,
    Ledger,
    Outcome,
    Plan,
    RateLimitError,
    Result,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.settings import RequestArguments
from doitong_async.testing import run_virtual
from doitong_async.webhooks import sign
from tests.batch.test_runner import all_of, outcomes
from tests.plain_server import Behaviour, PlainServer, http
from tests.virtual import ends_of, now, plain, seen, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
SMALL: RequestArguments = {"width": 512, "height": 512}
"""A picture of 10 to 20 credits, which costs 10 at both servers."""


def counted(doitong: AsyncDoitong) -> tuple[float, float]:
    """Return the credits that a client spent and has reserved."""
    stats = doitong.stats()
    return stats.credits_spent, stats.credits_reserved


def rewriting(**fields: Any) -> Callable[[bytes, bytes | None], bytes | None]:
    """Return a rewrite that changes fields of every job in every answer; None takes a field out."""

    def rewrite(_: bytes, honest: bytes | None) -> bytes | None:
        answer = json.loads((honest or b"").partition(b"\r\n\r\n")[2])
        for job in (answer.get("data") or {}).values():
            job.update(fields)
        return http(200, json.dumps(answer).encode(), "application/json", {})

    return rewrite


@virtual
async def test_a_budget_is_used_up_and_never_exceeded() -> None:
    """Forty at once, of 10 to 20 credits each: the highest price is reserved, and the rest waits for it."""
    async with with_emulator(WIDE, budget=100) as (doitong, emulator):
        ends = await ends_of(*(doitong.generate(f"fox {n}", **SMALL) for n in range(40)))
        # The tenth does not start: ninety are spent, and it may cost twenty.
        assert ends == {Result: 9, BudgetReachedError: 31}
        assert emulator.world.charges == len(seen(emulator, "submit")) == 9
        assert counted(doitong) == (90, 0)
        assert doitong.stats().slots_in_use == 0
        with pytest.raises(BudgetReachedError, match="may cost 20 credits, but only 10 are left") as caught:
            await doitong.submit("a fox", **SMALL)
        assert (caught.value.credits_required, caught.value.credits_available) == (20, 10)


@given(
    budget=st.integers(10, 200),
    sides=st.lists(st.sampled_from([512, 768, 1024, 2048]), min_size=1, max_size=14),
    faults=st.lists(
        st.sampled_from(
            [
                *("job 2: fail", "job 3: fail charged=no", "submit 2: 502", "submit 3: cut-after"),
                *("submit 1: cut-before", "submit 4: 429-minute", "poll 1: 502", "submit: 502 handled=yes"),
                *("submit 5-: cut-after", "submit 2: 500 handled=yes", "job 1: stuck", "submit: latency 2"),
            ]
        ),
        unique=True,
        max_size=4,
    ),
    is_closed_early=st.booleans(),
)
@settings(max_examples=40)
def test_whatever_breaks_the_server_charges_no_more_than_the_budget(
    budget: int, sides: list[int], faults: list[str], is_closed_early: bool
) -> None:
    """And what is counted as spent and reserved covers what was charged."""

    async def main() -> None:
        emulator = {"durations": 3.0, "faults": faults, "seed": 1}
        async with with_emulator(WIDE, budget=budget, emulator=emulator) as (doitong, server):
            jobs = [
                asyncio.ensure_future(doitong.generate("a fox", width=side, height=side)) for side in sides
            ]
            if is_closed_early:
                await asyncio.sleep(1)
                await doitong.aclose()
            ends = await asyncio.gather(*jobs, return_exceptions=True)
            charged = sum(job.credit_cost for job in server.world.jobs.values() if job.charged)
            assert charged <= budget
            if is_closed_early:
                await doitong.open()
            spent, reserved = counted(doitong)
            assert charged <= spent + reserved <= budget
            assert not doitong._running().credits.tracker.in_flight
            in_doubt = [end for end in ends if isinstance(end, ServerError | SubmitOutcomeUnknownError)]
            assert reserved <= 50 * len(in_doubt)
            await doitong.aclose()

    run_virtual(main())


@virtual
async def test_a_client_without_a_budget_counts_as_well() -> None:
    """What is reserved at the highest price, and what it really cost."""
    async with plain(WIDE, seconds=3.0) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        job = await doitong.submit("a fox", **SMALL)
        assert counted(doitong) == (0, 20)
        server.rewrite = rewriting(creditCost=12)
        await job
        assert counted(doitong) == (12, 0)


@virtual
async def test_a_failed_job_counts_in_full_until_its_cost_is_known() -> None:
    """Whatever the poll that reports the failure says is taken; a later poll may say more."""
    async with plain(WIDE, seconds=0.0, budget=100) as (doitong, server):
        server.rewrite = rewriting(creditCost=None, status="failed")
        job = await doitong.submit("a fox", **SMALL)
        with pytest.raises(JobFailedError):
            await job
        assert counted(doitong) == (20, 0)
        server.rewrite = rewriting(creditCost=0, status="failed")
        await job.refresh()
        assert counted(doitong) == (0, 0)


@virtual
async def test_the_credits_of_a_failed_job_come_back_to_one_who_waits() -> None:
    """The job cost ten at first; its last poll says that it cost nothing."""
    async with plain(WIDE, seconds=3.0, budget=30) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        job = await doitong.submit("a fox", **SMALL)
        waiting = asyncio.ensure_future(doitong.submit("a hare", **SMALL))
        await asyncio.sleep(1)
        assert not waiting.done()
        server.rewrite = rewriting(creditCost=0, status="failed")
        with pytest.raises(JobFailedError):
            await job
        await waiting
        assert len(server.jobs) == 2


@virtual
async def test_a_webhook_settles_too() -> None:
    """It is as good as a poll, if it says what the job cost."""
    secret = "s" * 20
    async with plain(
        WIDE, seconds=300.0, budget=100, webhook_url="http://127.0.0.1:9/", webhook_secret=secret
    ) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        job = await doitong.submit("a fox", **SMALL)
        body = json.dumps({"id": job.id, "status": "failed", "creditCost": 3}).encode()
        await doitong.webhooks.deliver(body, sign(body, secret))
        assert counted(doitong) == (3, 0)


@virtual
async def test_a_late_webhook_corrects_the_cost_of_a_job_that_was_let_go() -> None:
    """It counted in full when its slot expired; whoever still holds the job gets what is said of it."""
    secret = "s" * 20
    hooks: Any = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret": secret}
    async with plain(WIDE, seconds=900.0, budget=100, slot_expiry=60.0, **hooks) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        job = await doitong.submit("a fox", **SMALL)
        await asyncio.sleep(70)
        assert counted(doitong) == (20, 0)
        body = json.dumps({"id": job.id, "status": "failed", "creditCost": 3}).encode()
        await doitong.webhooks.deliver(body, sign(body, secret))
        assert counted(doitong) == (3, 0)


@virtual
async def test_a_submit_in_doubt_keeps_its_reservation() -> None:
    """Under its key it is sent again and counted once, however often and whatever the budget has left."""
    async with plain(WIDE, seconds=0.0, budget=30) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth <= 3 else None
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox", **SMALL)
        await asyncio.sleep(600)
        assert counted(doitong) == (0, 20)
        with pytest.raises(BudgetReachedError):
            await doitong.generate("a hare", **SMALL)
        for _ in range(2):
            await doitong.generate("a fox", idempotency_key=caught.value.idempotency_key, **SMALL)
            assert counted(doitong) == (10, 0)
        assert len(server.jobs) == 1


@virtual
async def test_a_repeated_submit_that_ends_before_it_is_sent_is_still_in_doubt() -> None:
    """Its first one may have been charged, long after its slot expired."""
    plan = Plan.enterprise(requests_per_minute=3, concurrent_jobs=4)
    async with plain(plan, seconds=0.0, budget=100) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth <= 3 else None
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox", **SMALL)
        await asyncio.sleep(200)
        for number in range(3):
            await doitong.generate(f"hare {number}", **SMALL)
        hurried = doitong.with_options(slot_timeout=1.0)
        with pytest.raises(RateLimitError):
            await hurried.generate("a fox", idempotency_key=caught.value.idempotency_key, **SMALL)
        assert counted(doitong) == (30, 20)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http(400, b'{"errors": [{"message": "bad"}]}', "application/json", {}), BadRequestError),
        (http(402, b"", "application/json", {}), InsufficientCreditsError),
    ],
)
@virtual
async def test_a_rejected_submit_releases_its_reservation(answer: bytes, error: type[Exception]) -> None:
    """It certainly made no job."""
    async with plain(WIDE, budget=30) as (doitong, server):
        server.script = lambda kind, nth: answer if kind == "submit" else None
        with pytest.raises(error):
            await doitong.generate("a fox", **SMALL)
        assert counted(doitong) == (0, 0)


@virtual
async def test_a_submit_that_was_never_sent_releases_its_reservation() -> None:
    """As nobody listens."""
    async with AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9", budget=30) as doitong:
        with pytest.raises(ConnectionFailedError):
            await doitong.generate("a fox", **SMALL)
        assert counted(doitong) == (0, 0)


@pytest.mark.parametrize("is_at_once", [True, False])
@virtual
async def test_one_idempotency_key_counts_once(is_at_once: bool) -> None:
    """Both submits are of one job, whether it still runs, or has ended and is forgotten here."""
    async with plain(WIDE, seconds=3.0, budget=100) as (doitong, server):
        submits = [doitong.generate("a fox", idempotency_key="k-1", **SMALL) for _ in range(2)]
        if is_at_once:
            await asyncio.gather(*submits)
        else:
            for submit in submits:
                await submit
                gc.collect()
        assert len(server.jobs) == 1
        assert counted(doitong) == (10, 0)


@virtual
async def test_a_lost_answer_under_a_key_whose_job_is_known_counts_once() -> None:
    """Two submits at once: one was answered with the job, the other one not at all."""
    async with plain(WIDE, seconds=30.0, budget=100, max_attempts=1) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth == 1 else None
        ends = await ends_of(*(doitong.submit("a fox", idempotency_key="k-1", **SMALL) for _ in range(2)))
        assert ends[SubmitOutcomeUnknownError] == 1
        await doitong.submit("a fox", idempotency_key="k-1", **SMALL)
        assert len(server.jobs) == 1
        assert counted(doitong) == (10, 0)


@virtual
async def test_a_resumed_job_is_counted_by_the_client_that_made_it() -> None:
    """It has paid for it already; another client, or the same one later, only looks."""
    async with plain(WIDE, seconds=30.0, budget=100) as (doitong, server):
        job = await doitong.submit("a fox", **SMALL)
        async with AsyncDoitong(api_key=server.key, base_url=server.url, plan=WIDE, budget=5) as other:
            await other.job(job.token)
            assert counted(other) == (0, 0)
        await doitong.job(job.token)
        await doitong.aclose()
        async with doitong:
            await doitong.job(job.token)
            assert counted(doitong) == (10, 0)


@virtual
async def test_a_budget_outlives_the_closing_of_its_client() -> None:
    """A job that still ran counts in full, and the next block has the rest of the budget."""
    async with plain(WIDE, seconds=300.0, budget=30) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        await doitong.submit("a fox", **SMALL)
        waiting = asyncio.ensure_future(doitong.submit("a hare", **SMALL))
        await asyncio.sleep(1)
        await doitong.aclose()
        with pytest.raises(ClientClosedError):
            await waiting
        async with doitong:
            assert counted(doitong) == (20, 0)
            with pytest.raises(BudgetReachedError):
                await doitong.submit("a hare", **SMALL)


def test_a_budget_outlives_a_closed_event_loop() -> None:
    """Whoever waited on it is gone, and nobody waits for what was in flight there."""
    clients: list[AsyncDoitong] = []

    async def leave() -> None:
        async with PlainServer(seconds=300.0, rewrite=rewriting(creditCost=None)) as server:
            clients.append(doitong := AsyncDoitong(api_key=server.key, base_url=server.url, budget=50))
            await doitong.open()
            await doitong.submit("a fox", **SMALL)

    async def begin_anew() -> None:
        async with clients[0] as doitong:
            assert sum(counted(doitong)) == 20
            with pytest.raises(BudgetReachedError):
                await doitong.submit("a hare", width=2048, height=2048)

    run_virtual(leave())
    run_virtual(begin_anew())


@virtual
async def test_the_slot_of_a_doubt_stays_taken_when_its_next_submit_has_no_credits() -> None:
    """The first client lost the answer to a submit, whose job runs; the second one may not spend as much."""
    async with plain(Plan.FREE, seconds=60.0, max_attempts=1) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth == 1 else None
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.submit("a fox", idempotency_key="k-1", **SMALL)
        await doitong.aclose()
        async with AsyncDoitong(api_key=server.key, base_url=server.url, plan="free", budget=19) as poor:
            with pytest.raises(BudgetReachedError):
                await poor.submit("a fox", idempotency_key="k-1", **SMALL)
            assert poor.stats().slots_in_use == 1


@pytest.mark.parametrize("step", range(12))
@virtual
async def test_a_caller_who_leaves_takes_no_credits_along(step: int) -> None:
    """Cancelled before the submit is sent, it costs nothing; afterwards its answer is read and counted."""
    async with plain(WIDE, seconds=3.0, budget=100) as (doitong, server):
        caller = asyncio.ensure_future(doitong.generate("a fox", **SMALL))
        for _ in range(step):
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        await asyncio.sleep(30)
        assert counted(doitong) == (10.0 * len(server.jobs), 0)
        assert doitong.stats().slots_in_use == 0
        assert not doitong._running().credits.tracker.in_flight


@virtual
async def test_a_submit_that_ends_before_its_first_step_takes_no_credits_along() -> None:
    """Its caller's coroutine was closed, as by a generator that nobody reads any more."""
    async with plain(WIDE, budget=100) as (doitong, server):
        caller = doitong.submit("a fox", **SMALL)
        caller.send(None)
        assert counted(doitong) == (0, 20)
        caller.close()
        await asyncio.sleep(1)
        assert (counted(doitong), doitong.stats().slots_in_use) == ((0, 0), 0)
        assert server.requests == []


@virtual
async def test_a_job_that_cannot_be_tracked_is_counted_all_the_same() -> None:
    """It was made, whatever broke here."""
    async with plain(WIDE, budget=100) as (doitong, server):
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(doitong.webhooks, "adopt", lambda _: [][0])
            with pytest.raises(IndexError):
                await doitong.submit("a fox", **SMALL)
        assert len(server.jobs) == 1
        assert counted(doitong) == (10, 0)


@virtual
async def test_a_job_whose_slot_expires_counts_in_full_and_lets_others_go() -> None:
    """Nobody knows what became of it, so nobody waits for it; a late answer still corrects its cost."""
    async with plain(WIDE, seconds=900.0, budget=40, slot_expiry=60.0) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        job = await doitong.submit("a fox", **SMALL)
        waiting = asyncio.ensure_future(doitong.submit("a hare", width=2048, height=2048))
        with pytest.raises(BudgetReachedError):
            await waiting
        assert 60 <= now() <= 70
        assert counted(doitong) == (20, 0)
        server.rewrite = rewriting(creditCost=7)
        await job.refresh()
        assert counted(doitong) == (7, 0)


@virtual
async def test_a_wait_for_credits_ends_within_slot_timeout() -> None:
    """The error says that credits may come back, and nothing is left behind."""
    async with plain(WIDE, seconds=60.0, budget=30, slot_timeout=10.0) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        await doitong.submit("a fox", **SMALL)
        with pytest.raises(RateLimitError, match="give credits back") as caught:
            await doitong.submit("a hare", **SMALL)
        assert caught.value.limit == "credits"
        assert now() == 10.0
        assert (counted(doitong), doitong.stats().slots_in_use) == ((0, 20), 1)


@virtual
async def test_a_queue_of_a_thousand_does_not_make_the_budget_low() -> None:
    """Credits are reserved with a slot: what waits for one spends nothing yet."""
    lows: list[float] = []
    budget = Budget(1_000, on_low=lows.append)
    async with with_emulator(WIDE, budget=budget, emulator={"durations": 3.0}) as (doitong, _):
        waiting = [asyncio.ensure_future(doitong.generate(f"fox {n}", **SMALL)) for n in range(60)]
        await asyncio.sleep(1)
        assert counted(doitong)[1] <= 4 * 20
        await asyncio.gather(*waiting)
        assert (counted(doitong), lows) == ((600, 0), [])


@virtual
async def test_a_low_budget_is_reported_once() -> None:
    """With what is left, neither spent nor reserved."""
    lows: list[float] = []
    budget = Budget(100, low_at=0.5, on_low=lows.append)
    async with with_emulator(WIDE, budget=budget) as (doitong, _):
        for number in range(9):
            await doitong.generate(f"fox {number}", **SMALL)
        assert lows == [50]


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
@virtual
async def test_an_error_in_on_low_harms_no_job(kind: type[BaseException]) -> None:
    """It is logged; the job that made the budget low goes on."""

    def on_low(left: float) -> None:
        raise kind(left)

    async with with_emulator(WIDE, budget=Budget(20, on_low=on_low)) as (doitong, emulator):
        assert (await doitong.generate("a fox", **SMALL)).id in emulator.world.jobs
        assert doitong.stats().slots_in_use == 0


@virtual
async def test_a_job_without_a_price_needs_one_under_a_budget() -> None:
    """It is rejected before anything is sent; the client's `price` is its highest price then."""
    async with with_emulator(WIDE, budget=500) as (doitong, emulator):
        with pytest.raises(BadRequestError, match=r"no documented price for this kling VIDEO. Give price="):
            await doitong.generate("waves", provider="kling")
        assert len(seen(emulator, "submit")) == 0
        async with AsyncDoitong(
            api_key="k", base_url=emulator.url, plan=WIDE, budget=500, price={"kling": 300}
        ) as other:
            assert other.estimate([{"prompt": "waves", "provider": "kling"}]).high == 300
            job = await other.submit("waves", provider="kling")
            assert 0 < counted(other)[0] == job.last.credit_cost
        async with AsyncDoitong(
            api_key="k", base_url=emulator.url, plan=WIDE, budget=500, price=501
        ) as other:
            with pytest.raises(BudgetReachedError, match="may cost 501 credits"):
                await other.generate("waves", provider="kling")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"budget": 0}, "budget is 0; expected credits"),
        ({"budget": "much"}, "budget is 'much'"),
        ({"price": -1}, "price is -1; expected credits"),
        ({"price": {"kling": "dear"}}, r"price\['kling'\] is 'dear'"),
    ],
)
def test_budget_and_price_are_checked(arguments: dict[str, Any], complaint: str) -> None:
    """When the client is made."""
    with pytest.raises(ConfigurationError, match=complaint):
        AsyncDoitong(api_key="k", **arguments)


# A batch on a client with a budget


@virtual
async def test_a_batch_keeps_to_the_budget_of_its_client(tmp_path: Path) -> None:
    """It stops with the reason, as with a budget of its own; a client with a larger one resumes it."""
    prompts = [{"prompt": f"fox {number}", **SMALL} for number in range(20)]
    async with with_emulator(WIDE, budget=100) as (doitong, emulator):
        batch = doitong.batch(prompts, ledger=tmp_path / "l.db")
        items = await all_of(batch)
        assert outcomes(items) == {Outcome.DONE: 9, Outcome.SKIPPED: 11}
        assert isinstance(batch.progress().stopped, BudgetReachedError)
        assert (counted(doitong), batch.progress().spent) == ((90, 0), 90)
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=WIDE, budget=1_000) as other:
            batch = other.batch(prompts, ledger=tmp_path / "l.db")
            assert outcomes(await all_of(batch)) == {Outcome.DONE: 20}
            assert (counted(other), batch.progress().spent) == ((110, 0), 200)
        assert emulator.world.charges == 20


@pytest.mark.parametrize(("own", "of_client", "made"), [(60, 100, 5), (100, 60, 5), (60, 60, 5)])
@virtual
async def test_both_budgets_hold(own: int, of_client: int, made: int) -> None:
    """Whichever is smaller; and each counts every job once."""
    prompts = [{"prompt": f"fox {number}", **SMALL} for number in range(12)]
    async with with_emulator(WIDE, budget=of_client) as (doitong, emulator):
        batch = doitong.batch(prompts, budget=own)
        assert outcomes(await all_of(batch)) == {Outcome.DONE: made, Outcome.SKIPPED: 12 - made}
        assert emulator.world.charges == made
        assert counted(doitong) == (10 * made, 0)
        progress = batch.progress()
        assert (progress.spent, progress.reserved) == (10 * made, 0)


@virtual
async def test_a_batch_and_other_callers_share_the_budget_of_their_client() -> None:
    """Each waits for what the others may give back, and nobody waits for ever."""
    prompts = [{"prompt": f"fox {number}", **SMALL} for number in range(12)]
    async with with_emulator(WIDE, budget=120, emulator={"durations": 2.0}) as (doitong, emulator):
        running = asyncio.ensure_future(all_of(doitong.batch(prompts, budget=110)))
        others = [asyncio.ensure_future(doitong.generate(f"hare {n}", **SMALL)) for n in range(12)]
        items = await running
        await asyncio.wait(others)
        done = outcomes(items)[Outcome.DONE] + sum(other.exception() is None for other in others)
        assert done == emulator.world.charges == 11
        assert counted(doitong) == (110, 0)


@pytest.mark.parametrize(("own", "of_client"), [(30, None), (None, 30)])
@virtual
async def test_a_stopped_batch_waits_for_no_credits(own: float | None, of_client: float | None) -> None:
    """Neither for its client's nor for its own."""
    prompts = [{"prompt": f"fox {number}", **SMALL} for number in range(6)]
    async with plain(WIDE, seconds=60.0, budget=of_client) as (doitong, server):
        server.rewrite = rewriting(creditCost=None)
        batch = doitong.batch(prompts, budget=own)
        running = asyncio.ensure_future(all_of(batch))
        await asyncio.sleep(1)
        assert doitong.stats().waiting.get("credits", 0) > 0
        batch.stop()
        items = await running
        assert outcomes(items) == {Outcome.DONE: 1, Outcome.SKIPPED: len(items) - 1}
        assert len(server.jobs) == 1
        assert sum(counted(doitong)) == 20


@virtual
async def test_an_item_in_doubt_is_counted_by_both_budgets_until_it_is_known(tmp_path: Path) -> None:
    """The next run sends it again under its key, whatever is left, and both settle it."""
    prompts = [{"prompt": "a fox", **SMALL}]
    async with plain(WIDE, seconds=1.0, budget=20, resend_unanswered=False) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth == 1 else None
        (item,) = await all_of(doitong.batch(prompts, ledger=tmp_path / "l.db", budget=20))
        assert item.outcome is Outcome.IN_DOUBT
        assert counted(doitong) == (0, 20)
        async with AsyncDoitong(api_key=server.key, base_url=server.url, plan=WIDE, budget=20) as other:
            batch = other.batch(prompts, ledger=tmp_path / "l.db", budget=20)
            (item,) = await all_of(batch)
            assert item.outcome is Outcome.DONE
            assert (counted(other), batch.progress().spent) == ((10, 0), 10)
        assert len(server.jobs) == 1


@virtual
async def test_an_item_in_doubt_is_not_sent_again_beyond_the_budget(tmp_path: Path) -> None:
    """It stays in doubt, for a client that may spend as much as it may cost."""
    prompts = [{"prompt": "a fox", **SMALL}]
    async with plain(WIDE, seconds=1.0, resend_unanswered=False) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" and nth == 1 else None
        await all_of(doitong.batch(prompts, ledger=tmp_path / "l.db"))
        for budget, outcome, submits in ((19, Outcome.IN_DOUBT, 1), (20, Outcome.DONE, 2)):
            async with AsyncDoitong(
                api_key=server.key, base_url=server.url, plan=WIDE, budget=budget
            ) as other:
                (item,) = await all_of(other.batch(prompts, ledger=tmp_path / "l.db"))
            assert item.outcome is outcome
            assert sum(request.kind == "submit" for request in server.requests) == submits
        assert len(server.jobs) == 1


@virtual
async def test_a_job_that_only_a_conflict_names_has_the_credits_of_its_submit() -> None:
    """The service made it, yet answered that there were too many requests; then it knew the key."""
    behaviour = Behaviour(conflict_on_replay=True)
    async with plain(WIDE, behaviour=behaviour, seconds=3.0, budget=100) as (doitong, server):

        def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
            is_first = b"mutation" in request and len(server.requests) == 1
            return http(429, b"", "application/json", {"Retry-After": "1"}) if is_first else honest

        server.rewrite = rewrite
        (item,) = await all_of(doitong.batch([{"prompt": "a fox", **SMALL}]))
        assert item.outcome is Outcome.DONE
        assert len(server.jobs) == 1
        assert counted(doitong) == (10, 0)


@virtual
async def test_the_cost_of_an_item_of_an_earlier_run_is_corrected(tmp_path: Path) -> None:
    """Its file is gone and its URL expired, and the poll that renews it knows another cost."""
    prompts = [{"prompt": "a fox", **SMALL}]
    async with plain(WIDE, seconds=1.0) as (doitong, server):
        (item,) = await all_of(doitong.batch(prompts, ledger=tmp_path / "l.db", out=tmp_path))
        assert item.file is not None
        item.file.unlink()
        other = await doitong.generate("a hare")
        server.rewrite = rewriting(creditCost=4, url=other.url)
        server.script = lambda kind, nth: http(403, b"", "a/b", {}) if (kind, nth) == ("output", 2) else None
        batch = doitong.batch(prompts, ledger=tmp_path / "l.db", out=tmp_path)
        assert outcomes(await all_of(batch)) == {Outcome.DONE: 1}
        assert batch.progress().spent == 4
    with Ledger.read(tmp_path / "l.db") as ledger:
        assert ledger.totals().spent == 4


@virtual
async def test_an_item_that_waits_out_an_outage_was_not_sent_when_the_budget_is_gone(tmp_path: Path) -> None:
    """Nothing of it reached the service, so it is skipped and not in doubt."""
    async with AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9", plan=WIDE, budget=30) as doitong:
        batch = doitong.batch([{"prompt": "a fox", **SMALL}], ledger=tmp_path / "l.db")
        running = asyncio.ensure_future(all_of(batch))
        await asyncio.sleep(5)
        # As if other jobs had spent it meanwhile.
        doitong._running().credits.tracker.carry(30)
        (item,) = await running
        assert item.outcome is Outcome.SKIPPED
        assert isinstance(item.error, BudgetReachedError)


@virtual
async def test_the_price_of_a_batch_is_by_default_its_clients() -> None:
    """And its own takes precedence, for both budgets."""
    video = [{"prompt": "waves", "provider": "kling"}]
    async with with_emulator(WIDE, budget=500, price=200) as (doitong, emulator):
        assert outcomes(await all_of(doitong.batch(video, budget=500))) == {Outcome.DONE: 1}
        batch = doitong.batch(video, price=501)
        assert outcomes(await all_of(batch)) == {Outcome.SKIPPED: 1}
        assert isinstance(batch.progress().stopped, BudgetReachedError)
    async with with_emulator(WIDE, budget=500) as (doitong, emulator):
        (item,) = await all_of(doitong.batch(video))
        assert item.outcome is Outcome.REJECTED
        assert isinstance(item.error, BadRequestError)
        assert len(seen(emulator, "submit")) == 0
