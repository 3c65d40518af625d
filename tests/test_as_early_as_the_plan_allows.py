"""A hundred pictures on Pro, against a second server that counts for itself."""

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
    """Draw how long pictures take: a lognormal with median 6 s, as the design assumes."""
    rng = random.Random(seed)
    return [rng.lognormvariate(math.log(6.0), 0.35) for _ in range(JOBS)]


def lower_bound(seconds: list[float], plan: Plan) -> float:
    """Return the earliest end that any client could reach, by slots and by requests."""
    slots, rate = plan.concurrent_jobs, plan.requests_per_minute
    full = (len(seconds) - 1) // rate
    # Jobs that begin in the last window have to run in its slots; assume the shortest ones.
    last = sorted(seconds)[: len(seconds) - full * rate]
    rest = max(sum(last) / slots, max(last))
    return max(sum(seconds) / slots, max(seconds), 60.0 * full + rest)


async def make_all(doitong: AsyncDoitong) -> list[Result]:
    """Request all of them at once."""
    return await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(JOBS)))


def check_counts(server: PlainServer, results: list[Result]) -> None:
    """Count at the server: no job lost, none made twice, the plan kept."""
    assert {result.id for result in results} == server.jobs.keys()
    assert len(server.jobs) == JOBS
    assert server.most_at_once() <= 10


@pytest.mark.parametrize("seed", [1, 2, 3])
@virtual
async def test_a_hundred_pictures_on_pro(seed: int) -> None:
    """No 429, at most 60 requests in any 60 s, at most 10 jobs at once, within 1.75 of the lower bound."""
    times = durations(seed)
    async with plain(seconds=lambda number: times[number - 1]) as (doitong, server):
        results = await make_all(doitong)
        check_counts(server, results)
        assert {request.status for request in server.requests} == {200}
        assert server.most_in_any_minute() <= 60
        assert now() <= 1.75 * lower_bound(times, Plan.PRO)


@pytest.mark.parametrize("seed", [1, 2])
@virtual
async def test_a_hundred_pictures_beside_another_user_of_the_key(seed: int) -> None:
    """Another user takes half the rate: the client yields after a few 429s and loses no job."""
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
async def test_reset_headers_are_read_in_every_unit(unit: str, ahead: float | None, is_fixed: bool) -> None:
    """Nine pictures at six requests in six seconds; the server's clock may be hours off."""
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
async def test_a_short_window_does_not_hold_polls_for_a_minute() -> None:
    """The last answer left no requests, yet the client soon sees the end of a job of 100 s."""
    behaviour = Behaviour(period=6.0)
    async with plain(behaviour=behaviour, requests_per_minute=6, seconds=100.0) as (doitong, _):
        await doitong.generate("a fox")
        assert now() <= 112.0


@virtual
async def test_one_request_polls_ten_jobs_every_two_seconds() -> None:
    """It sees each end as early as one loop of 2 s per job would, with a fraction of the requests."""
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
    """Slots and requests belong to the key, so a second client knows what the first one sent."""
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
async def test_the_narrower_of_two_plans_for_one_key_holds() -> None:
    """One of the two is wrong, and nobody knows which, so both hold while both clients are open."""
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
async def test_requests_of_others_shrink_the_window_at_once() -> None:
    """A rate-limit header can take requests away from the window, but never add any."""
    async with plain(seconds=0.0) as (doitong, server):
        await doitong.generate("one")
        assert doitong.stats().requests_left == 59
        server.foreign_load(30)
        await asyncio.sleep(60)
        await doitong.generate("two")
        assert doitong.stats().requests_left <= 30


@virtual
async def test_stats_show_the_current_load() -> None:
    """Jobs in flight, waiters by what they wait for, requests left, mean durations, credits spent."""
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
async def test_polls_that_do_not_count_are_not_held_back() -> None:
    """With `polls_count=False` a window without requests left stops submits but no poll."""
    plan = Plan.enterprise(requests_per_minute=2, concurrent_jobs=2)
    async with (
        Emulator(plan="pro", durations=20.0) as emulator,
        AsyncDoitong(api_key="k", base_url=emulator.url, plan=plan, polls_count=False) as doitong,
    ):
        await asyncio.gather(doitong.generate("one"), doitong.generate("two"))
        assert now() == 20.0
        assert len(seen(emulator, "poll")) == 10


@virtual
async def test_a_queue_on_a_narrow_plan_is_polled_at_an_even_pace() -> None:
    """On Free, a poll every 12 s allows five jobs a minute; a poll every 2 s would allow two."""
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
