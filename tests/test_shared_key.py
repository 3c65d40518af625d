"""Several clients on one key, one after the other or at once: what one began binds the others."""

from __future__ import annotations

import asyncio
import gc

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
async def test_a_closed_client_leaves_its_slots_to_its_jobs() -> None:
    """They run on at the server: whoever opens next on the key waits for their greatest age."""
    async with with_emulator(emulator={"durations": 60.0}, slot_expiry=100.0) as (doitong, emulator):
        for number in range(10):
            await doitong.submit(f"fox {number}")
        await doitong.aclose()
        async with another(emulator, Plan.PRO) as second:
            await asyncio.gather(*(second.generate(f"hare {n}") for n in range(10)))
        assert emulator.world.most_at_once == 10


@virtual
async def test_a_job_in_doubt_does_not_block_the_key_for_good() -> None:
    """Its slot outlives the client that lost the answer, but not by more than it is worth."""
    async with plain(Plan.FREE, seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: "cut" if kind == "submit" and nth <= 3 else None
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.submit("a fox")
        await doitong.aclose()
        async with another(server, Plan.FREE, server.key) as second:
            await second.generate("a hare")
        assert 120.0 <= now() <= 140.0


@virtual
async def test_the_day_is_remembered_when_nobody_is_left() -> None:
    """However long the pause between two clients, while it is the same day."""
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
async def test_a_plan_that_is_only_assumed_narrows_nobody() -> None:
    """A client without a plan goes by the one that another gave."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url):
            await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(10)))
        assert emulator.world.most_at_once == 10


@pytest.mark.slow
@pytest.mark.parametrize(("allowed", "most"), [(9, 8), (5, 20), (1, 60)])
@virtual
async def test_a_crowded_service_refuses_a_few_and_starves_nobody(allowed: int, most: int) -> None:
    """Somebody else's jobs take places: we feel for what is left, one submit at a time, and lose none."""
    behaviour = Behaviour(over_concurrency="refuse")
    async with plain(behaviour=behaviour, seconds=6.0) as (doitong, server):
        server.concurrent_jobs = allowed
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(60)))
        refused = sum(request.status == 429 for request in server.requests)
        assert len(server.jobs) == 60
        assert refused <= most


@virtual
async def test_a_hold_is_over_soon_after_the_others_are_done() -> None:
    """Ten refusals at once are one refusal, not ten doublings of the wait."""
    async with plain(behaviour=Behaviour(over_concurrency="refuse"), seconds=6.0) as (doitong, server):
        server.concurrent_jobs = 1
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(10)]
        await asyncio.sleep(4)
        server.concurrent_jobs = 10
        await asyncio.gather(*work)
        assert now() <= 30.0


@virtual
async def test_submits_are_not_starved_by_those_who_refresh() -> None:
    """However many look by themselves, every other request may be a submit."""
    plan = Plan.enterprise(requests_per_minute=10, concurrent_jobs=5)
    async with with_emulator(plan, emulator={"durations": 1e6}) as (doitong, emulator):
        job = await doitong.submit("a fox")

        async def look_for_ever() -> None:
            while True:
                await job.refresh()

        looks = [asyncio.ensure_future(look_for_ever()) for _ in range(30)]
        await asyncio.sleep(70)
        before = now()
        await doitong.submit("a hare")
        assert now() - before <= 130
        assert emulator.world.count("poll") > 10
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


@pytest.mark.slow
@virtual
async def test_a_burst_leaves_requests_to_look_at_what_it_began() -> None:
    """With as many slots as requests, the first minute would else be over before a look is possible."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=60)
    async with with_emulator(plan, emulator={"durations": 6.0}, timeout=60.0) as (doitong, _):
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(120)))
        assert len(results) == 120


@virtual
async def test_a_look_that_closing_cuts_off_before_its_first_step_costs_no_token() -> None:
    """Its turn goes back: the window of the key is whole again a minute later."""
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
async def test_draining_a_client_that_hears_no_news_ends_soon() -> None:
    """The service does not know the status operation: once that is believed, waiting would bring nothing."""
    behaviour = Behaviour(introspection=False)
    async with plain(behaviour=behaviour, status_operation="look(id: ID!)") as (doitong, _):
        await doitong.submit("a fox")
        await asyncio.sleep(5)
        await doitong.aclose(drain=600.0)
        assert now() < 15.0


@virtual
async def test_credits_count_each_job_once() -> None:
    """Whatever is taken up again, and after a slot expired."""
    async with with_emulator(Plan.FREE, emulator={"durations": 50.0}, slot_expiry=20.0) as (doitong, _):
        job = await doitong.submit("a fox")
        await asyncio.sleep(30)
        assert doitong.stats().credits_spent == 20
        for _ in range(3):
            await doitong.job(job.token)
        assert doitong.stats().credits_spent == 20


def test_no_event_loop_is_kept_alive() -> None:
    """What was known of keys goes with the loop it was known on."""

    async def once() -> None:
        async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
            await doitong.generate("a fox")

    for _ in range(5):
        run_virtual(once())
    gc.collect()
    assert len(admission._LIMITERS) <= 1
