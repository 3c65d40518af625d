"""A hundred pictures on Pro, against a server that is not ours and counts for itself."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter

import pytest

from doitong_async import AsyncDoitong, Plan, Result
from doitong_async.emulator import Emulator
from tests.plain_server import Behaviour, PlainServer
from tests.virtual import now, plain, seen, virtual, with_emulator

JOBS = 100


def durations(seed: int) -> list[float]:
    """Draw how long pictures take: a lognormal with median 6 s, as the design has it."""
    rng = random.Random(seed)
    return [rng.lognormvariate(math.log(6.0), 0.35) for _ in range(JOBS)]


def lower_bound(seconds: list[float], plan: Plan) -> float:
    """Return when nobody at all could be through earlier, by slots and by requests."""
    slots, rate = plan.concurrent_jobs, plan.requests_per_minute
    full = (len(seconds) - 1) // rate
    # What is begun in the last window has to run in its slots; the shortest jobs are the kindest guess.
    last = sorted(seconds)[: len(seconds) - full * rate]
    rest = max(sum(last) / slots, max(last))
    return max(sum(seconds) / slots, max(seconds), 60.0 * full + rest)


async def make_all(doitong: AsyncDoitong) -> list[Result]:
    """Ask for all of them at once."""
    return await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(JOBS)))


def check_counts(server: PlainServer, results: list[Result]) -> None:
    """Count at the server: none lost, none twice, the plan kept."""
    assert {result.id for result in results} == server.jobs.keys()
    assert len(server.jobs) == JOBS
    assert server.most_at_once() <= 10


@pytest.mark.parametrize("seed", [1, 2, 3])
@virtual
async def test_a_hundred_pictures_on_pro(seed: int) -> None:
    """No 429, at most 60 requests in any 60 s, never more than 10 at once, within 1.75 of the lower bound."""
    times = durations(seed)
    async with plain(seconds=lambda number: times[number - 1]) as (doitong, server):
        results = await make_all(doitong)
        check_counts(server, results)
        assert {request.status for request in server.requests} == {200}
        assert server.most_in_any_minute() <= 60
        assert now() <= 1.75 * lower_bound(times, Plan.PRO)


@pytest.mark.parametrize("seed", [1, 2])
@virtual
async def test_the_same_with_somebody_else_on_the_key(seed: int) -> None:
    """Half the rate is used by others: we yield, a few 429s at most, and none is lost."""
    times = durations(seed)
    async with plain(seconds=lambda number: times[number - 1]) as (doitong, server):
        server.foreign_load(30)
        results = await make_all(doitong)
        check_counts(server, results)
        statuses = Counter(request.status for request in server.requests)
        assert statuses[429] <= 5
        assert statuses.keys() <= {200, 429}


@pytest.mark.parametrize("unit", ["epoch_s", "epoch_ms", "seconds", "iso"])
@pytest.mark.parametrize("ahead", [None, 7_200.0, -10_800.0])
@pytest.mark.parametrize("is_fixed", [False, True])
@virtual
async def test_a_reset_that_the_service_tells_is_true(unit: str, ahead: float | None, is_fixed: bool) -> None:
    """Nine pictures at six requests in six seconds; its clock may be hours off, as its answers say."""
    behaviour = Behaviour(
        reset_unit=unit,
        period=6.0,
        fixed_windows=is_fixed,
        clock_ahead=ahead or 0.0,
        date=ahead is not None,
    )
    async with plain(behaviour=behaviour, requests_per_minute=6) as (doitong, server):
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(9)))
        assert {result.id for result in results} == server.jobs.keys()
        assert now() <= 20.0
        assert sum(request.status == 429 for request in server.requests) <= 3


@virtual
async def test_polls_of_a_service_with_a_short_window_wait_for_no_minute() -> None:
    """Long after the last answer that left nothing: a job of 100 s is seen to end soon."""
    behaviour = Behaviour(period=6.0)
    async with plain(behaviour=behaviour, requests_per_minute=6, seconds=100.0) as (doitong, _):
        await doitong.generate("a fox")
        assert now() <= 112.0


@virtual
async def test_ten_jobs_are_noticed_within_two_seconds_by_one_request_for_all() -> None:
    """As early as a loop of 2 s for each job would notice them, at a fraction of its requests."""
    times = durations(4)[:10]
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=20)
    async with with_emulator(plan, emulator={"durations": lambda number: times[number]}) as (
        doitong,
        emulator,
    ):

        async def notice(number: int) -> tuple[float, float]:
            result = await doitong.generate(f"fox {number}")
            return now(), emulator.world.jobs[result.id].ends_at

        noticed = await asyncio.gather(*(notice(number) for number in range(10)))
        assert [at for at, _ in noticed] == pytest.approx([2 * math.ceil(ended / 2) for _, ended in noticed])
        assert len(seen(emulator, "poll")) == math.ceil(max(times) / 2)


@virtual
async def test_two_clients_on_one_key_share_its_plan() -> None:
    """Slots and requests are the key's, not the client's; a second client of it knows what the first sent."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.PRO) as other:
            work = [client.generate(f"fox {n}") for n in range(40) for client in (doitong, other)]
            await asyncio.gather(*work)
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.PRO) as third:
            assert third.stats().requests_left < 60
            await third.generate("one more")
        world = emulator.world
        assert world.charges == 81
        assert world.most_at_once <= 10
        assert world.most_in_window <= 60
        assert {request.http_status for request in world.seen} == {200}


@virtual
async def test_two_plans_for_one_key_are_kept_both() -> None:
    """The narrower limits hold while both are open: one is wrong, and nobody knows which."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.STARTER):
            await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(12)))
            assert emulator.world.most_at_once == 3
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(12)))
        assert emulator.world.most_at_once == 10


@virtual
async def test_another_key_has_a_plan_of_its_own() -> None:
    """Tenants do not wait for each other."""
    async with with_emulator(Plan.FREE, emulator={"durations": 30.0}) as (doitong, emulator):
        await doitong.submit("mine")
        async with AsyncDoitong(api_key="k-other", base_url=emulator.url, plan=Plan.FREE) as other:
            await other.submit("theirs")
            assert now() == 0.0


@virtual
async def test_requests_that_others_spend_lower_the_window_at_once() -> None:
    """The header of every answer is believed where it says less than we thought, never where it says more."""
    async with plain(seconds=0.0) as (doitong, server):
        await doitong.generate("one")
        assert doitong.stats().requests_left == 59
        server.foreign_load(30)
        await asyncio.sleep(60)
        await doitong.generate("two")
        assert doitong.stats().requests_left <= 30


@virtual
async def test_stats_tell_what_is_going_on() -> None:
    """In flight, waiting and for what, requests left, mean durations, credits spent."""
    async with with_emulator(Plan.STARTER, emulator={"durations": 5.0}) as (doitong, _):
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}", width=512, height=512)) for n in range(5)]
        await asyncio.sleep(1)
        stats = doitong.stats()
        assert (stats.in_flight, stats.waiting, stats.requests_left) == (3, {"slot": 2}, 27)
        assert stats.slots_in_use == 3
        assert stats.mean_seconds == {}
        await asyncio.gather(*work)
        stats = doitong.stats()
        assert (stats.in_flight, stats.waiting, stats.credits_spent) == (0, {}, 50)
        ((kind, seconds),) = stats.mean_seconds.items()
        assert (kind.provider, kind.version, kind.size) == ("flux-pro", None, 512 * 512)
        assert seconds == pytest.approx(5.0, abs=1.0)


@virtual
async def test_looks_that_do_not_count_are_not_held_back() -> None:
    """With `polls_count=False` a window without requests left stops submits, but no look."""
    plan = Plan.enterprise(requests_per_minute=2, concurrent_jobs=2)
    async with (
        Emulator(plan="pro", durations=20.0) as emulator,
        AsyncDoitong(api_key="k", base_url=emulator.url, plan=plan, polls_count=False) as doitong,
    ):
        await asyncio.gather(doitong.generate("one"), doitong.generate("two"))
        assert now() == 20.0
        assert len(seen(emulator, "poll")) == 10


@virtual
async def test_a_queue_on_a_narrow_plan_is_looked_at_at_the_even_tick() -> None:
    """Free: 12 s between looks are five jobs a minute; every 2 s they would be two."""
    async with with_emulator(Plan.FREE, emulator={"durations": 6.0}, slot_timeout=None) as (
        doitong,
        emulator,
    ):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(20)))
        gaps = [
            later.at - earlier.at
            for earlier, later in zip(seen(emulator, "poll")[5:], seen(emulator, "poll")[6:], strict=False)
        ]
        assert now() < 20 * 60 / 4.5
        assert Counter(round(gap) for gap in gaps).most_common(1)[0][0] in (11, 12, 13)
