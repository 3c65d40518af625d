"""Several processes share a key: they finish as early as one, within its limits, and lose nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    ConfigurationError,
    CoordinatorError,
    DailyLimitError,
    DoitongError,
    JobFailedError,
    Plan,
)
from tests.fake_redis import FakeRedisServer
from tests.plain_server import Behaviour, http
from tests.several import fleet, limiter_of, runtime_of, state_of
from tests.virtual import now, plain, settle, start, until, virtual
from tests.webhooks.bodies import SECRET, signed, webhook_body

STRICT = Behaviour(over_concurrency="refuse")
"""A server that refuses a job too many, so that the test sees it."""
ENTERPRISE = Plan.enterprise(requests_per_minute=300, concurrent_jobs=40)


def spread(least: float, most: float) -> Callable[[int], float]:
    """Return how long each job takes, by its number: alike in each run."""
    return lambda number: random.Random(number).uniform(least, most)


async def alone(plan: Plan, jobs: int, seconds: Callable[[int], float]) -> tuple[float, int]:
    """Return the seconds and the polls that one process with the plan for itself needs."""
    async with plain(plan, seconds=seconds, behaviour=STRICT) as (doitong, server):
        begun = now()
        await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(jobs)))
        return now() - begun, sum(request.kind == "poll" for request in server.requests)


async def made_by(doitong: AsyncDoitong, jobs: int) -> None:
    """Make so many pictures in one process."""
    await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(jobs)))


@pytest.mark.parametrize(
    ("plan", "each", "seconds"),
    [
        pytest.param(Plan.PRO, 30, spread(4, 8), marks=pytest.mark.slow),
        (Plan.STARTER, 10, spread(4, 8)),
        (Plan.FREE, 4, spread(4, 8)),
        pytest.param(Plan.PRO, 5, spread(60, 120), marks=pytest.mark.slow),
        pytest.param(ENTERPRISE, 50, spread(4, 8), marks=pytest.mark.slow),
    ],
    ids=["pro", "starter", "free", "video", "enterprise"],
)
@virtual
async def test_four_processes_finish_as_early_as_one(
    plan: Plan, each: int, seconds: Callable[[int], float]
) -> None:
    """Without a refusal, with as many polls, and within the limits at the server."""
    makespan, polls = await alone(plan, 4 * each, seconds)
    async with fleet(4, plan, seconds=seconds, behaviour=STRICT) as (several, processes):
        begun = now()
        await asyncio.gather(*(made_by(doitong, each) for doitong in processes))
        assert now() - begun <= 1.05 * makespan
        assert abs(several.polls - polls) <= max(3, 0.1 * polls)
        assert several.refusals == 0
        assert several.charged == 4 * each
        assert several.server.most_in_any_minute() <= plan.requests_per_minute
        assert several.server.most_at_once() <= plan.concurrent_jobs


@pytest.mark.slow
@virtual
async def test_one_job_does_not_wait_behind_the_batch_of_another_process() -> None:
    """A hundred in one process, one in each of three others: those take their place at once."""
    makespan, _ = await alone(Plan.PRO, 103, spread(4, 8))
    async with fleet(4, seconds=spread(4, 8), behaviour=STRICT) as (several, (big, *small)):
        begun = now()
        batch = start(made_by(big, 100))
        await asyncio.sleep(20)
        asked = now()
        await asyncio.gather(*(made_by(doitong, 1) for doitong in small))
        assert now() - asked <= 45
        await batch
        assert now() - begun <= 1.1 * makespan
        assert several.refusals == 0


@pytest.mark.slow
@virtual
async def test_the_poller_dies_and_another_polls() -> None:
    """Twice; the jobs of the dead are polled, too, and their slots come back."""
    async with fleet(4, seconds=spread(4, 8), behaviour=STRICT) as (several, processes):
        work = {doitong: [start(doitong.generate(f"fox {n}")) for n in range(20)] for doitong in processes}
        for _ in range(2):
            await asyncio.sleep(15)
            await several.kill(several.poller)
        alive = [doitong for doitong in processes if doitong not in several.dead]
        await asyncio.gather(*(task for doitong in alive for task in work[doitong]))
        assert several.refusals == 0
        # A submit that was in flight may have made a job: its slot is kept a while longer.
        await asyncio.sleep(130)
        assert state_of(alive[0]).slots == {}
        for doitong in several.dead:
            for task in work[doitong]:
                task.cancel()
                with suppress(asyncio.CancelledError, DoitongError):
                    await task


@virtual
async def test_the_slots_of_a_dead_process_come_back_as_its_jobs_end() -> None:
    """Ten jobs ran; ten more of another process wait for them, and none is refused."""
    async with fleet(2, seconds=20.0, behaviour=STRICT) as (several, (first, second)):
        jobs = [await first.submit(f"fox {number}") for number in range(10)]
        await asyncio.sleep(3)
        await several.kill(first)
        await asyncio.gather(*(second.generate(f"hare {number}") for number in range(10)))
        assert several.refusals == 0
        assert several.server.most_at_once() == 10
        assert (await second.job(jobs[0].token)).url
        assert several.charged == 20


@virtual
async def test_a_job_that_is_taken_up_keeps_its_slot() -> None:
    """In another process, by its token: it counts once."""
    async with fleet(2, seconds=60.0) as (several, (first, second)):
        job = await first.submit("a fox")
        await asyncio.sleep(3)
        await several.kill(first)
        resumed = second.job(job.token)
        await asyncio.sleep(15)
        (slot,) = state_of(second).slots.values()
        assert slot.owner in state_of(second).processes
        await resumed
        await asyncio.sleep(2)
        assert state_of(second).slots == {}
        assert several.charged == 1


def with_metadata(_: bytes, honest: bytes | None) -> bytes:
    """Answer a poll with metadata that the submit's answer did not have."""
    body = (honest or b"").partition(b"\r\n\r\n")[2]
    body = re.sub(rb'"metadata": {[^}]*}', b'"metadata": {"duration": 6.0}', body)
    return http(200, body, "application/json", {})


@virtual
async def test_a_result_that_another_process_polled_is_the_same() -> None:
    """Its URL and cost come by way of Redis; why a job failed, and its metadata, by a poll of one's own."""
    async with fleet(2) as (several, processes):
        (other,) = (doitong for doitong in processes if doitong is not several.poller)
        result = await other.generate("a fox")
        assert await result.read()
        assert result.generation.credit_cost is not None
        several.server.rewrite = with_metadata
        before = len(several.server.requests)
        refreshed = await other.job(result.generation.id).refresh()
        assert len(several.server.requests) == before + 1
        assert (refreshed.url, refreshed.credit_cost) == (result.url, result.generation.credit_cost)
        assert refreshed.metadata == {"duration": 6.0}


@virtual
async def test_a_process_that_does_not_poll_learns_why_a_job_failed() -> None:
    """The reason may quote the prompt, so that it is not told at Redis."""
    async with fleet(2) as (several, processes):

        def failing(_: bytes, honest: bytes | None) -> bytes | None:
            body = (honest or b"").partition(b"\r\n\r\n")[2].replace(b'"completed"', b'"failed"')
            body = body.replace(b'"metadata": {', b'"metadata": {"reason": "too foxy", ')
            return http(200, body, "application/json", {})

        several.server.rewrite = failing
        (other,) = (doitong for doitong in processes if doitong is not several.poller)
        with pytest.raises(JobFailedError, match="too foxy"):
            await other.generate("a fox")


@pytest.mark.slow
@virtual
async def test_redis_dies_twice_and_comes_back_empty() -> None:
    """Each process has the whole state, so that nothing is forgotten."""
    async with fleet(4, seconds=spread(4, 8), behaviour=STRICT) as (several, processes):
        work = start(asyncio.gather(*(made_by(doitong, 20) for doitong in processes)))
        for seconds in (1, 8):
            await asyncio.sleep(12)
            several.redis.kill()
            await asyncio.sleep(seconds)
            several.redis.start()
        await work
        assert several.refusals == 0
        assert several.charged == 80
        assert several.server.most_in_any_minute() <= 60
        assert several.server.most_at_once() <= 10


@virtual
async def test_redis_stands_still() -> None:
    """For twenty seconds: nobody is taken for dead when it goes on."""
    async with fleet(3, seconds=spread(4, 8), behaviour=STRICT) as (several, processes):
        work = start(asyncio.gather(*(made_by(doitong, 10) for doitong in processes)))
        await asyncio.sleep(8)
        several.redis.freeze()
        await asyncio.sleep(20)
        several.redis.thaw()
        await asyncio.sleep(1.5)
        assert len(state_of(processes[0]).processes) == 3
        await work
        assert several.refusals == 0
        assert several.charged == 30


@pytest.mark.slow
@virtual
async def test_a_process_that_is_cut_off_polls_its_own_jobs() -> None:
    """Within the limits of all: the others withhold its share until its jobs have ended, or it is back."""
    async with fleet(2, seconds=40.0, behaviour=STRICT) as (several, (first, second)):
        jobs = [await first.submit(f"fox {number}") for number in range(5)]
        busy = start(made_by(second, 40))
        await asyncio.sleep(5)
        several.cables[first].is_cut = True
        waits = start(first.generate("a hare"))
        await asyncio.gather(*(job.wait() for job in jobs))
        assert limiter_of(first).is_away
        with pytest.raises(CoordinatorError, match="does not answer"):
            await waits
        several.cables[first].is_cut = False
        await busy
        await first.generate("a hare")
        assert several.refusals == 0
        assert several.server.most_in_any_minute() <= 60
        assert several.server.most_at_once() <= 10


@virtual
async def test_who_waits_learns_after_a_minute_that_redis_is_gone() -> None:
    """Not before, as it may come back; a shorter bound of the caller's own holds."""
    async with fleet(1) as (several, (doitong,)):
        several.redis.kill()
        begun = now()
        with pytest.raises(CoordinatorError) as caught:
            await doitong.generate("a fox")
        assert 58 <= now() - begun <= 63
        assert "nothing was charged" in str(caught.value)
        begun = now()
        waits = start(doitong.with_options(slot_timeout=5).generate("a fox"))
        await asyncio.sleep(1)
        assert doitong.stats().waiting == {"coordinator": 1}
        with pytest.raises(CoordinatorError, match="timed out"):
            await waits
        assert now() - begun <= 6
        several.redis.start()
        await doitong.generate("a fox")
        assert several.charged == 1


@virtual
async def test_a_day_counts_for_all() -> None:
    """Its jobs are counted at Redis, also after their process left."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=5, jobs_per_day=3)
    async with fleet(2, plan) as (several, (first, second)):
        await made_by(first, 2)
        await first.aclose()
        await second.generate("a fox")
        with pytest.raises(DailyLimitError):
            await second.generate("a hare")
        assert several.charged == 3


@virtual
async def test_a_pause_that_one_is_told_holds_for_all() -> None:
    """A 429 with a retry-after: the others send nothing either."""
    async with fleet(2) as (several, (first, second)):
        refused = b"HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\nRetry-After: 30\r\n\r\n"
        several.server.script = lambda kind, nth: refused if kind == "submit" and nth == 1 else None
        work = start(first.generate("a fox"))
        await until(lambda: several.server.requests)
        await asyncio.sleep(1)
        await second.generate("a hare")
        await work
        submits = [request.at for request in several.server.requests if request.kind == "submit"]
        assert submits[1] - submits[0] >= 30


@virtual
async def test_the_narrower_of_two_plans_holds(caplog: pytest.LogCaptureFixture) -> None:
    """As long as both processes live; who has the wider one is told once."""
    async with fleet(1) as (several, (first,)):
        second = await several.join(plan=Plan.STARTER)
        await first.generate("a fox")
        assert limiter_of(first).plan.concurrent_jobs == 3
        await second.aclose()
        await first.generate("a hare")
        assert limiter_of(first).plan.concurrent_jobs == 10
    (record,) = (each for each in caplog.records if "given the plan" in each.message)
    assert "'starter'" in record.message


async def everything_at(redis: FakeRedisServer) -> str:
    """Return all that is at Redis, as text."""
    client = redis.client()
    texts = []
    for name in await client.keys():
        is_stream = await client.type(name) == b"stream"
        texts.append(repr((name, await (client.xrange(name) if is_stream else client.hgetall(name)))))
    await client.aclose()
    return " ".join(texts)


@virtual
async def test_redis_learns_no_secret_and_no_prompt() -> None:
    """Nor a header: not while jobs run, fail or wait, and not from a 402."""
    everything = ""
    async with fleet(2, seconds=3.0) as (several, processes):
        error = {"message": "a secret fox costs more", "extensions": {"code": "INSUFFICIENT_CREDITS"}}
        poor = http(
            402, json.dumps({"errors": [error]}).encode(), "application/json", {"X-Odd-Header": "odd-value"}
        )
        several.server.script = lambda kind, nth: poor if kind == "submit" and nth == 3 else None
        work = [start(each.generate("a secret fox")) for each in processes for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0.5)
            everything += await everything_at(several.redis)
        await asyncio.gather(*work, return_exceptions=True)
        assert state_of(processes[0]).rate.circuit.is_open(limiter_of(processes[0]).now())
    assert "plain00001" in everything
    for secret in ("secret fox", several.server.key, "odd-value", "Odd-Header", "k-plain"):
        assert secret not in everything


@virtual
async def test_everything_is_forgotten_when_nobody_uses_the_key() -> None:
    """After two days; the day of the service is over by then."""
    async with fleet(1) as (several, (doitong,)):
        await doitong.generate("a fox")
        await doitong.aclose()
        client = several.redis.client()
        assert len(await client.keys()) in (2, 3)
        await asyncio.sleep(2 * 86_400 + 1)
        assert await client.keys() == []
        await client.aclose()


@virtual
async def test_a_server_that_may_drop_keys_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Its policy is asked for at the beginning."""
    async with fleet(0) as (several, _):
        several.redis.eviction = "allkeys-lru"
        await several.join()
    assert "maxmemory-policy is allkeys-lru" in caplog.text


@virtual
async def test_another_version_at_the_coordinator_is_an_error() -> None:
    """Its state may mean something else."""
    async with fleet(1) as (several, (doitong,)):
        await doitong.generate("a fox")
        await doitong.aclose()
        client = several.redis.client()
        (name,) = await client.keys("*:state")
        state = await client.hget(name, "state")
        assert isinstance(state, bytes)
        state = state.replace(b'"format":1', b'"format":99')
        await client.hset(name, "state", state)
        with pytest.raises(CoordinatorError, match="same version"):
            await several.join()
        await client.aclose()


@virtual
async def test_damage_at_redis_is_made_good() -> None:
    """Somebody overwrote the state: a process that has it puts it back."""
    async with fleet(2) as (several, (first, second)):
        job = await first.submit("a fox")
        await asyncio.sleep(1.5)
        client = several.redis.client()
        (name,) = await client.keys("*:state")
        await client.hset(name, mapping={"state": "gibberish", "version": "1.x"})
        await job
        await second.generate("a hare")
        assert several.refusals == 0
        await client.aclose()


@virtual
async def test_a_client_that_opens_while_redis_is_away_waits_for_it() -> None:
    """A service starts without it, and works once it is there."""
    async with fleet(0) as (several, _):
        several.redis.kill()
        doitong = await several.join()
        work = start(doitong.generate("a fox"))
        await asyncio.sleep(10)
        several.redis.start()
        assert (await work).url


@virtual
async def test_closing_while_redis_is_away_does_not_hang(caplog: pytest.LogCaptureFixture) -> None:
    """What is left to say is lost; the others free it in time."""
    async with fleet(2) as (several, (first, second)):
        await first.submit("a fox")
        several.cables[first].is_cut = True
        begun = now()
        await first.aclose()
        assert now() - begun <= 5
        await made_by(second, 10)
        assert several.refusals == 0
        await settle()


def test_what_is_no_redis_is_refused_at_once() -> None:
    """Before anything is opened; a password in it is not shown."""
    for wrong in ("cache:6379", "http://cache:6379/0", "redis://", 6379, object()):
        with pytest.raises(DoitongError, match="not the address of a Redis server"):
            AsyncDoitong(api_key="k", coordinator=wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(DoitongError) as caught:
        AsyncDoitong(api_key="k", coordinator="http://user:hunter2@cache/0")
    assert "hunter2" not in str(caught.value)
    logging.getLogger("doitong_async").debug("%r", AsyncDoitong(api_key="k", coordinator="redis://cache"))


@virtual
async def test_a_submit_that_its_process_died_over_is_sent_again_in_its_slot() -> None:
    """By the successor, under the same key: the slot in doubt blocks nobody for two minutes."""
    async with fleet(1, Plan.FREE, seconds=3.0, behaviour=STRICT) as (several, (first,)):
        several.server.pause = lambda kind, nth: 30.0 if kind == "submit" and nth == 1 else 0.0
        lost = start(first.submit("a fox", idempotency_key="key-of-a-fox"))
        await until(lambda: several.server.requests)
        await several.kill(first)
        second = await several.join()
        await asyncio.sleep(12)
        begun = now()
        assert (await second.generate("a fox", idempotency_key="key-of-a-fox")).url
        assert now() - begun <= 20
        assert several.charged == 1
        lost.cancel()
        with suppress(asyncio.CancelledError, DoitongError):
            await lost


@pytest.mark.slow
@virtual
async def test_an_older_copy_never_wins() -> None:
    """Redis dies just after a burst of grants: whoever comes back first, nothing is granted twice."""
    async with fleet(4, seconds=20.0, behaviour=STRICT) as (several, processes):
        work = [start(made_by(doitong, 5)) for doitong in processes]
        await until(lambda: len(several.server.requests) >= 5)
        several.redis.kill()
        await asyncio.sleep(1)
        several.redis.start()
        await asyncio.gather(*work)
        assert several.refusals == 0
        assert several.server.most_at_once() <= 10
        assert several.charged == 20


@virtual
async def test_two_processes_may_follow_one_job() -> None:
    """It keeps one slot; both learn of its end, and they do not contend for it at Redis meanwhile."""
    async with fleet(3, seconds=30.0) as (several, processes):
        first, second = (each for each in processes if each is not several.poller)
        job = await first.submit("a fox")
        await asyncio.sleep(2)
        resumed = second.job(job.token)
        await asyncio.sleep(1)
        before = several.redis.calls
        await asyncio.sleep(10)
        assert several.redis.calls - before < 200
        assert len(state_of(first).slots) == 1
        await asyncio.gather(job.wait(), resumed.wait())
        assert now() < 40
        await asyncio.sleep(2)
        assert state_of(first).slots == {}


@virtual
async def test_two_processes_may_submit_under_one_key() -> None:
    """The service makes one job, which has one slot."""
    async with fleet(3, seconds=30.0) as (several, processes):
        both = [each for each in processes if each is not several.poller]
        jobs = await asyncio.gather(*(each.submit("a fox", idempotency_key="one") for each in both))
        await asyncio.sleep(1)
        before = several.redis.calls
        await asyncio.sleep(10)
        assert several.redis.calls - before < 200
        assert len(state_of(both[0]).slots) == 1
        await asyncio.gather(*(job.wait() for job in jobs))
        assert now() < 40
        assert several.charged == 1


@virtual
async def test_a_job_that_had_ended_is_taken_up_elsewhere() -> None:
    """The poller says again what it said before; and it remembers nothing of jobs that are over."""
    async with fleet(3) as (several, processes):
        first, second = (each for each in processes if each is not several.poller)
        job = await first.submit("a fox")
        await job
        begun = now()
        assert (await second.job(job.token)).url
        assert now() - begun <= 5
        shared = runtime_of(several.poller).poller.shared
        assert shared is not None
        assert shared._published == {}


@virtual
async def test_who_opens_while_redis_is_away_waits_a_minute() -> None:
    """Although it never heard of Redis's clock; a job taken up there is polled in the end."""
    async with fleet(1) as (several, (first,)):
        job = await first.submit("a fox")
        several.redis.kill()
        second = await several.join()
        begun = now()
        resumed = start(second.job(job.token).wait(timeout=120))
        with pytest.raises(CoordinatorError):
            await second.generate("a hare")
        assert 58 <= now() - begun <= 63
        assert (await resumed).url
        several.redis.start()


@virtual
async def test_a_process_that_is_back_begins_jobs_at_once() -> None:
    """The slots that it has from before it was taken for dead are its own still."""
    async with fleet(2, seconds=200.0) as (several, (first, _)):
        for number in range(8):
            await first.submit(f"fox {number}")
        several.cables[first].is_cut = True
        await asyncio.sleep(20)
        several.cables[first].is_cut = False
        await asyncio.sleep(2)
        begun = now()
        await first.submit("a hare")
        assert now() - begun < 0.5
        assert len(state_of(first).slots) == 9


WEBHOOKS: dict[str, Any] = {"webhook_url": "https://example.org/doitong", "webhook_secret": SECRET}


@virtual
async def test_a_webhook_wakes_whoever_waits() -> None:
    """Whichever process receives it; it is acknowledged once the others will know."""
    async with fleet(2, seconds=300.0, **WEBHOOKS) as (several, (first, second)):
        job = await first.submit("a fox")
        waits = start(job.wait())
        await asyncio.sleep(1)
        url = f"{several.server.outputs_url}/outputs/{job.id}.jpg"
        body, begun = webhook_body(job.id, url=url), now()
        await second.webhooks.deliver(body, signed(body))
        assert (await waits).url == url
        assert now() - begun < 0.05


@virtual
async def test_a_webhook_may_come_before_anybody_knows_its_job() -> None:
    """It is kept at Redis until the answer to the submit names the job."""
    async with fleet(2, seconds=300.0, **WEBHOOKS) as (several, (first, second)):
        url = f"{several.server.outputs_url}/outputs/plain00001.jpg"
        body = webhook_body("plain00001", url=url)
        await second.webhooks.deliver(body, signed(body))
        assert (await first.generate("a fox")).url == url
        assert now() < 1


@virtual
async def test_a_webhook_while_redis_is_away() -> None:
    """A job that is known here ends; for any other the service is asked to send it again."""
    async with fleet(2, seconds=300.0, **WEBHOOKS) as (several, (first, second)):
        job = await first.submit("a fox")
        await asyncio.sleep(1)
        several.redis.kill()
        await asyncio.sleep(3)
        body = webhook_body(job.id, url=f"{several.server.outputs_url}/outputs/{job.id}.jpg")
        with pytest.raises(CoordinatorError):
            await second.webhooks.deliver(body, signed(body))
        await first.webhooks.deliver(body, signed(body))
        assert (await job).url
        several.redis.start()
        await asyncio.sleep(3)
        assert state_of(second).slots == {}


@virtual
async def test_who_gets_no_webhooks_polls() -> None:
    """A process that has them polls too seldom for the others."""
    async with fleet(1, **WEBHOOKS) as (several, (first,)):
        assert limiter_of(first).is_poller
        several.arguments.clear()
        second = await several.join()
        await second.generate("a fox")
        assert limiter_of(second).is_poller
        assert now() <= 10


FORKED = """
import asyncio, os, sys
from doitong_async import AsyncDoitong, ConfigurationError
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
doitong = AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9")
loop.run_until_complete(doitong.open())
if os.fork() == 0:
    try:
        loop.run_until_complete(doitong.submit("a fox"))
    except ConfigurationError as error:
        print(error, flush=True)
        os._exit(0)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.wait()[1]))
loop.run_until_complete(doitong.aclose())
"""


@pytest.mark.slow
def test_a_client_that_was_opened_before_a_fork_says_so() -> None:
    """As gunicorn with --preload does it: the sockets belong to the other process."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    said, code = ran.stdout.splitlines()
    assert "opened before this process was forked" in said
    assert code == "0"


@virtual
async def test_a_url_with_an_unknown_option_is_an_error_at_once() -> None:
    """And leaves nothing open."""
    doitong = AsyncDoitong(api_key="k", coordinator="redis://127.0.0.1:1/0?bogus=1")
    with pytest.raises(ConfigurationError, match="coordinator cannot be used"):
        await doitong.open()


@virtual
async def test_redis_learns_no_path_of_a_ledger(tmp_path: Path) -> None:
    """Its jobs of the day are counted under a digest of host and path."""
    async with fleet(1) as (several, (doitong,)):
        async with doitong.batch(["a fox"], ledger=tmp_path / "fox.db") as batch:
            async for _ in batch:
                assert str(tmp_path) not in await everything_at(several.redis)
        await asyncio.sleep(2)
        assert str(tmp_path) not in await everything_at(several.redis)
        assert state_of(doitong).day._written


@virtual
async def test_without_the_extra_an_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing open."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'doitong-async\[redis\]'"):
        await AsyncDoitong(api_key="k", coordinator="redis://127.0.0.1:1/0").open()
