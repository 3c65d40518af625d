"""Several clients on one key, at once or one after the other, share what they know of it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from doitong_async import AsyncDoitong, DailyLimitError, Plan, SubmitOutcomeUnknownError
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.limits import admission
from doitong_async.testing import run_virtual
from tests.plain_server import Behaviour, PlainServer
from tests.virtual import now, plain, virtual, with_emulator


def another(server: Emulator | PlainServer, plan: Plan, key: str = "k-test") -> AsyncDoitong:
    """Return a further client on the same key."""
    return AsyncDoitong(api_key=key, base_url=server.url, plan=plan)


@virtual
async def test_jobs_of_a_closed_client_keep_their_slots() -> None:
    """They run on at the server, so the next client on the key waits until their slots expire."""
    async with with_emulator(emulator={"durations": 60.0}, slot_expiry=100.0) as (doitong, emulator):
        for number in range(10):
            await doitong.submit(f"fox {number}")
        await doitong.aclose()
        async with another(emulator, Plan.PRO) as second:
            await asyncio.gather(*(second.generate(f"hare {n}") for n in range(10)))
        assert emulator.world.most_at_once == 10


@virtual
async def test_a_job_in_doubt_does_not_block_the_key_for_good() -> None:
    """Its slot outlives the client that lost the answer, but not past the slot expiry."""
    async with plain(Plan.FREE, seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: "cut" if kind == "submit" and nth <= 3 else None
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.submit("a fox")
        await doitong.aclose()
        async with another(server, Plan.FREE, server.key) as second:
            await second.generate("a hare")
        assert 120.0 <= now() <= 140.0


@virtual
async def test_the_daily_count_outlives_the_clients() -> None:
    """However long the key is unused, the count holds until the day ends."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=5, jobs_per_day=1)
    async with Emulator(plan=PlanLimits(60, 5, None), durations=0.0) as emulator:
        async with another(emulator, plan) as first:
            await first.generate("a fox")
        await asyncio.sleep(600)
        async with another(emulator, plan) as second:
            with pytest.raises(DailyLimitError, match="1 a day"):
                await second.generate("a hare")
        assert emulator.world.charges == 1


@virtual
async def test_an_assumed_plan_narrows_no_other_client() -> None:
    """A client without a plan uses the plan that another client gave."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url):
            await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(10)))
        assert emulator.world.most_at_once == 10


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "most"), [(9, 8), (5, 20), (1, 60)])
@virtual
async def test_a_crowded_service_rejects_a_few_and_starves_nobody(allowed: int, most: int) -> None:
    """Another user's jobs fill slots: the client probes with one submit at a time and loses no job."""
    behaviour = Behaviour(over_concurrency="refuse")
    async with plain(behaviour=behaviour, seconds=6.0) as (doitong, server):
        server.concurrent_jobs = allowed
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(60)))
        rejected = sum(request.status == 429 for request in server.requests)
        assert len(server.jobs) == 60
        assert rejected <= most


@virtual
async def test_submits_resume_soon_after_the_other_jobs_end() -> None:
    """Ten rejections at once count as one and double the wait only once."""
    async with plain(behaviour=Behaviour(over_concurrency="refuse"), seconds=6.0) as (doitong, server):
        server.concurrent_jobs = 1
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(10)]
        await asyncio.sleep(4)
        server.concurrent_jobs = 10
        await asyncio.gather(*work)
        assert now() <= 30.0


@virtual
async def test_refreshes_do_not_starve_submits() -> None:
    """However many callers refresh, every other request may be a submit."""
    plan = Plan.enterprise(requests_per_minute=10, concurrent_jobs=5)
    async with with_emulator(plan, emulator={"durations": 1e6}) as (doitong, emulator):
        job = await doitong.submit("a fox")

        async def refresh_for_ever() -> None:
            while True:
                await job.refresh()

        refreshes = [asyncio.ensure_future(refresh_for_ever()) for _ in range(30)]
        await asyncio.sleep(70)
        before = now()
        await doitong.submit("a hare")
        assert now() - before <= 130
        assert emulator.world.count("poll") > 10
        for task in refreshes:
            task.cancel()
        await asyncio.gather(*refreshes, return_exceptions=True)


@pytest.mark.slow
@virtual
async def test_a_burst_of_submits_leaves_requests_for_polls() -> None:
    """With as many slots as requests, the submits would otherwise use up the first minute."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=60)
    async with with_emulator(plan, emulator={"durations": 6.0}, timeout=60.0) as (doitong, _):
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(120)))
        assert len(results) == 120


@virtual
async def test_a_poll_cut_off_by_closing_costs_no_permit() -> None:
    """It had not started, so its permit comes back: a minute later the key's window is whole again."""
    async with with_emulator(emulator={"durations": 30.0}) as (doitong, emulator):
        await doitong.submit("a fox")
        loop = asyncio.get_running_loop()
        closing: list[asyncio.Future[None]] = []
        loop.call_at(2.0, lambda: closing.append(asyncio.ensure_future(doitong.aclose())))
        await asyncio.sleep(3)
        await closing[0]
        await asyncio.sleep(120)
        async with another(emulator, Plan.PRO) as second:
            assert second.stats().requests_left == 60


@virtual
async def test_draining_ends_soon_without_a_status_operation() -> None:
    """Once the client believes that the service does not know the operation, it stops waiting."""
    behaviour = Behaviour(introspection=False)
    async with plain(behaviour=behaviour, status_operation="look(id: ID!)") as (doitong, _):
        await doitong.submit("a fox")
        await asyncio.sleep(5)
        await doitong.aclose(drain=600.0)
        assert now() < 15.0


@virtual
async def test_credits_count_each_job_once() -> None:
    """Even if jobs are resumed or their slots expire."""
    async with with_emulator(Plan.FREE, emulator={"durations": 50.0}, slot_expiry=20.0) as (doitong, _):
        job = await doitong.submit("a fox")
        await asyncio.sleep(30)
        assert doitong.stats().credits_spent == 20
        for _ in range(3):
            await doitong.job(job.token)
        assert doitong.stats().credits_spent == 20


def test_a_closed_event_loop_is_not_kept_alive() -> None:
    """What clients know of a key disappears with the loop."""

    async def once() -> None:
        async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
            await doitong.generate("a fox")

    for _ in range(5):
        run_virtual(once())
    gc.collect()
    assert len(admission._LIMITERS) <= 1


@virtual
async def test_a_job_that_a_new_client_gets_by_its_key_has_one_slot() -> None:
    """The closed client left its slot with the job; the answer to the same key shows that it is this job."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=2)
    async with with_emulator(plan, emulator={"durations": 5.0}) as (doitong, emulator):
        await doitong.submit("a fox", idempotency_key="mine")
        await doitong.aclose()
        async with doitong:
            job = await doitong.submit("a fox", idempotency_key="mine")
            assert doitong.stats().slots_in_use == 1
            await job
            assert doitong.stats().slots_in_use == 0
        assert emulator.charges == 1


@virtual
async def test_a_submit_in_doubt_finds_its_slot_after_its_client_was_closed() -> None:
    """On a plan of one job it would wait for the slot of its own job."""
    settings: dict[str, Any] = {"resend_unanswered": False, "slot_timeout": 5.0}
    rules = {"durations": 300.0, "faults": ["submit 1: cut-after"]}
    async with with_emulator(Plan.FREE, emulator=rules, **settings) as (doitong, emulator):
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.submit("a fox", idempotency_key="mine")
        await doitong.aclose()
        async with doitong:
            await doitong.submit("a fox", idempotency_key="mine")
            assert doitong.stats().slots_in_use == 1
        assert emulator.charges == 1
