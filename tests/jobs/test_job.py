"""What a user can do with a job: await it, time it out, cancel the wait, follow it, take it up again."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    AsyncJob,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    JobFailedError,
    JobStatus,
    JobTimeoutError,
    Plan,
    Result,
)
from doitong_async.emulator import Emulator
from doitong_async.testing import VirtualTimeLoop, run_virtual
from tests.virtual import now, plain, virtual, with_emulator
from tests.webhooks.bodies import SECRET, signed, webhook_body

FAILED = (
    b'{"data":{"j0":{"id":"plain00001","status":"failed","url":null,'
    b'"metadata":{"reason":"the prompt is contradictory"},"creditCost":0}}}'
)


def raw(body: bytes, status: str = "200 OK") -> bytes:
    """Return an HTTP answer as bytes."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@virtual
async def test_many_can_await_one_job() -> None:
    """Each awaiter gets a result, and a job that is over can be awaited again."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        results = await asyncio.gather(*(job.wait() for _ in range(20)))
        assert {result.id for result in [*results, await job]} == {job.id}
        assert emulator.world.charges == 1


@virtual
async def test_each_awaiter_of_a_failed_job_has_an_error_of_its_own() -> None:
    """What the server said is in it; one error raised twice would collect the tracebacks of both."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: raw(FAILED) if kind == "poll" else None
        job = await doitong.submit("a square circle")
        errors = await asyncio.gather(job.wait(), job.wait(), return_exceptions=True)
        assert errors[0] is not errors[1]
        for error in errors:
            assert isinstance(error, JobFailedError)
            assert error.job_id == job.id
            assert error.generation == job.last
            assert "the prompt is contradictory" in str(error)
        assert job.last.credit_cost == 0


@pytest.mark.parametrize("word", ["aborted", "Timed-Out", "BLOCKED", "with drawn"])
@pytest.mark.parametrize("way", ["poll", "refresh", "submit", "webhook"])
@virtual
async def test_a_word_of_failure_ends_the_wait_whatever_brings_it(word: str, way: str) -> None:
    """Known to us, or by the setting: at once, as a failure, with the slot free again."""
    hooked: dict[str, Any] = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret": SECRET}
    hooked = hooked if way == "webhook" else {}
    async with plain(Plan.FREE, failure_statuses=["WITH-DRAWN"], **hooked) as (doitong, server):
        ended = f'"status": "{word}"'.encode()

        def fail(request: bytes, honest: bytes | None) -> bytes | None:
            whole = (honest or b"").replace(b'"status": "processing"', ended)
            head, _, body = whole.partition(b"\r\n\r\n")
            return (
                re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % len(body), head) + b"\r\n\r\n" + body
            )

        if way != "webhook":
            server.rewrite = lambda request, honest: (
                fail(request, honest) if way == "submit" or b"query Status" in request else honest
            )
        job = await doitong.submit("a square circle")
        if way == "refresh":
            assert (await job.refresh()).status == word
        if way == "webhook":
            body = webhook_body(job.id, word)
            await doitong.webhooks.deliver(body, signed(body))
        with pytest.raises(JobFailedError, match=word):
            await job
        assert now() == (2.0 if way == "poll" else 0.0)
        assert doitong.stats().slots_in_use == 0


@virtual
async def test_a_failed_job_that_nobody_awaits_prints_nothing() -> None:
    """The outcome is stored, not left in a future that complains when it is collected."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: raw(FAILED) if kind == "poll" else None
        job = await doitong.submit("a square circle")
        await asyncio.sleep(10)
        assert job.status == JobStatus.FAILED
        del job
        gc.collect()


@virtual
async def test_a_timeout_leaves_the_job_alive_and_carries_it() -> None:
    """The error is a TimeoutError, and the job in it can be awaited on; nothing is paid again."""
    async with with_emulator(emulator={"durations": 30.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        with pytest.raises(TimeoutError) as caught:
            await job.wait(timeout=5)
        error = caught.value
        assert isinstance(error, JobTimeoutError)
        assert (error.job, error.token, error.generation) == (job, job.token, job.last)
        assert now() == 5.0
        assert error.job is not None
        assert (await error.job).id == job.id
        assert emulator.world.charges == 1


@virtual
async def test_the_wait_is_counted_from_the_accepted_submit() -> None:
    """The time in the queue for a slot is no part of it."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=1)
    async with with_emulator(plan, emulator={"durations": 50.0}, timeout=60.0) as (doitong, _):
        first, second = await asyncio.gather(doitong.generate("one"), doitong.generate("two"))
        assert first.id != second.id
        assert now() == 100.0


@pytest.mark.slow
@virtual
async def test_the_default_wait_has_an_end() -> None:
    """Ten minutes after the submit, whenever the await begins; a later one has as long again."""
    async with with_emulator(emulator={"durations": 1e6}) as (doitong, _):
        job = await doitong.submit("never")
        await asyncio.sleep(100)
        with pytest.raises(JobTimeoutError):
            await job
        assert now() == 600.0
        with pytest.raises(JobTimeoutError):
            await job
        assert now() == 1200.0


@virtual
async def test_a_cancelled_await_leaves_job_and_slot_alone() -> None:
    """Cancelling frees nothing at the server, so it frees nothing here."""
    async with with_emulator(Plan.FREE, emulator={"durations": 30.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        wait = asyncio.ensure_future(job.wait())
        await asyncio.sleep(1)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert doitong.stats().slots_in_use == 1
        following = await doitong.submit("another")
        assert emulator.world.most_at_once == 1
        assert job.status == JobStatus.COMPLETED
        await following


@virtual
async def test_updates_yield_each_status_and_end_with_the_job() -> None:
    """The first snapshot comes at once, the last one is the end."""
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        statuses = [update.status async for update in job.updates()]
        assert statuses == ["processing", "completed"]
        assert [update.url is None async for update in job.updates()] == [False]


@virtual
async def test_updates_of_a_failed_job_end_like_any_other() -> None:
    """Following is not awaiting: the failure is the last snapshot, not an exception."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: raw(FAILED) if kind == "poll" else None
        job = await doitong.submit("a square circle")
        assert [update.status async for update in job.updates()] == ["processing", "failed"]


@virtual
async def test_updates_end_in_time() -> None:
    """A job that never ends does not hold its follower for ever."""
    async with with_emulator(emulator={"durations": 1e6}, timeout=20.0) as (doitong, _):
        job = await doitong.submit("never")
        with pytest.raises(JobTimeoutError):
            _ = [update async for update in job.updates()]
        assert now() == 20.0


@virtual
async def test_refresh_looks_now() -> None:
    """One look, without waiting for the tick."""
    async with with_emulator(emulator={"durations": 0.5}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        assert (await job.refresh()).status == "processing"
        await asyncio.sleep(1)
        assert (await job.refresh()).status == "completed"
        assert now() == 1.0
        assert emulator.world.count("poll") == 2


@virtual
async def test_a_token_takes_the_job_up_in_another_process() -> None:
    """After a restart the job is finished by somebody, and paid once; it is looked at immediately."""
    async with with_emulator(emulator={"durations": 30.0}) as (doitong, emulator):
        token = (await doitong.submit("a fox")).token
        await doitong.aclose()
        await asyncio.sleep(40)
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.PRO) as other:
            result = await other.job(token)
            assert isinstance(result, Result)
            assert (result.type, result.provider) == ("IMAGE", "flux-pro")
        assert now() == 40.0
        assert emulator.world.charges == 1


@virtual
async def test_a_job_taken_up_takes_a_slot_without_queueing() -> None:
    """It runs already; but no new one starts while the plan is full."""
    async with with_emulator(Plan.FREE, emulator={"durations": 30.0, "over_concurrency": "queue"}) as (
        doitong,
        emulator,
    ):
        tokens = [(await doitong.submit("a fox")).token]
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.FREE) as other:
            jobs = [other.job(tokens[0]), other.job(tokens[0])]
            assert other.stats().slots_in_use == 2
            assert {job.id for job in other.jobs()} == {jobs[0].id}
            await other.generate("next")
            assert jobs[0].status == "completed"


@virtual
async def test_closing_wakes_whoever_waits_with_the_token() -> None:
    """Nobody hangs on a closed client, and the job can be taken up again."""
    async with with_emulator(emulator={"durations": 30.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        waits = [asyncio.ensure_future(job.wait()) for _ in range(2)]
        await asyncio.sleep(1)
        await doitong.aclose()
        for error in await asyncio.gather(*waits, return_exceptions=True):
            assert isinstance(error, ClientClosedError)
            assert error.token == job.token
        with pytest.raises(ClientClosedError) as caught:
            await job
        assert caught.value.token == job.token


@virtual
async def test_what_is_no_id_and_no_token_is_refused_at_once() -> None:
    """A damaged token must not be polled for as if it were an id."""
    async with with_emulator() as (doitong, emulator):
        for wrong in ("", " ", "dtj1.???", "dtj9.abc", "two\nlines"):
            with pytest.raises(BadRequestError):
                doitong.job(wrong)
        assert emulator.world.seen == type(emulator.world.seen)()


@virtual
async def test_a_completed_job_without_a_url_is_looked_at_until_it_has_one() -> None:
    """An output that nobody can fetch was paid for in vain; the slot is free all the same."""
    bare = raw(b'{"data":{"j0":{"id":"plain00001","status":"completed","url":null}}}')
    async with plain(Plan.FREE, seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: bare if kind == "poll" and nth <= 2 else None
        job = await doitong.submit("a fox")
        await asyncio.sleep(2.5)
        assert job.status == "completed"
        assert doitong.stats().slots_in_use == 0
        assert (await job).url


def test_a_job_says_what_it_is() -> None:
    """The repr names id and status, and nothing that is secret."""

    async def poll() -> None:
        async with with_emulator(emulator={"durations": 3.0}) as (doitong, _):
            job = await doitong.submit("a fox")
            assert repr(job) == f"<AsyncJob {job.id!r} processing>"
            assert repr(await job).startswith(f"<Result {job.id!r} http://127.0.0.1:")

    virtual(poll)()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
@virtual
async def test_a_timeout_is_seconds(timeout: Any) -> None:
    """Anything else would wait for ever, or say nonsense afterwards."""
    async with with_emulator() as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(BadRequestError, match="timeout is"):
            await job.wait(timeout=timeout)


@virtual
async def test_a_timeout_of_nothing_asks_what_is_known_now() -> None:
    """Done or not, without waiting."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=0)
        await job
        assert (await job.wait(timeout=0)).id == job.id


def test_a_job_is_awaited_on_its_own_loop_alone() -> None:
    """Anywhere else it would hang; the error says where it can be taken up."""
    runner = asyncio.Runner(loop_factory=VirtualTimeLoop)

    async def begin() -> tuple[AsyncJob, AsyncDoitong, Emulator]:
        emulator = Emulator(durations=0.0)
        await emulator.start()
        client = await AsyncDoitong(api_key="k", base_url=emulator.url).__aenter__()
        return await client.submit("a fox"), client, emulator

    job, client, emulator = runner.run(begin())
    with pytest.raises(ConfigurationError, match="another event loop"):
        run_virtual(job.refresh())
    result = runner.run(job.wait())
    with pytest.raises(ConfigurationError, match="another event loop"):
        run_virtual(result.read())
    with pytest.raises(ConfigurationError, match="another event loop"):
        client.jobs()
    runner.run(client.aclose())
    runner.run(emulator.stop())
    runner.close()


@virtual
async def test_a_view_waits_by_its_own_timeout() -> None:
    """Also for a job that another view submitted."""
    async with with_emulator(emulator={"durations": 60.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await doitong.with_options(timeout=5.0).job(job.id)
        assert now() == 5.0
        assert (await job).id == job.id
