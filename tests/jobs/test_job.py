"""What a user can do with a job: await it, time out, cancel the wait, follow its updates, resume it."""

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
    """Return a whole HTTP response as bytes."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@virtual
async def test_several_tasks_can_await_one_job() -> None:
    """Each gets the result, and a finished job can be awaited again."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        results = await asyncio.gather(*(job.wait() for _ in range(20)))
        assert {result.id for result in [*results, await job]} == {job.id}
        assert emulator.world.charges == 1


@virtual
async def test_each_awaiter_of_a_failed_job_gets_its_own_error() -> None:
    """It carries what the server said; one error raised twice would collect both tracebacks."""
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


@pytest.mark.parametrize("status", ["aborted", "Timed-Out", "BLOCKED", "with drawn"])
@pytest.mark.parametrize("way", ["poll", "refresh", "submit", "webhook"])
@virtual
async def test_a_failure_status_ends_the_wait_however_it_arrives(status: str, way: str) -> None:
    """A known or configured failure status fails the job at once and frees its slot."""
    webhook_options: dict[str, Any] = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret": SECRET}
    webhook_options = webhook_options if way == "webhook" else {}
    async with plain(Plan.FREE, failure_statuses=["WITH-DRAWN"], **webhook_options) as (doitong, server):
        failed = f'"status": "{status}"'.encode()

        def fail(request: bytes, honest: bytes | None) -> bytes | None:
            whole = (honest or b"").replace(b'"status": "processing"', failed)
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
            assert (await job.refresh()).status == status
        if way == "webhook":
            body = webhook_body(job.id, status)
            await doitong.webhooks.deliver(body, signed(body))
        with pytest.raises(JobFailedError, match=status):
            await job
        assert now() == (2.0 if way == "poll" else 0.0)
        assert doitong.stats().slots_in_use == 0


@virtual
async def test_a_failed_job_that_nobody_awaits_prints_nothing() -> None:
    """The outcome is stored; a future with an unread exception would print it when collected."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: raw(FAILED) if kind == "poll" else None
        job = await doitong.submit("a square circle")
        await asyncio.sleep(10)
        assert job.status == JobStatus.FAILED
        del job
        gc.collect()


@virtual
async def test_a_timeout_carries_the_running_job() -> None:
    """The error is a TimeoutError; awaiting its job again finishes it at no extra charge."""
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
async def test_the_timeout_counts_from_the_accepted_submit() -> None:
    """Time in the queue for a slot does not count."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=1)
    async with with_emulator(plan, emulator={"durations": 50.0}, timeout=60.0) as (doitong, _):
        first, second = await asyncio.gather(doitong.generate("one"), doitong.generate("two"))
        assert first.id != second.id
        assert now() == 100.0


@pytest.mark.slow
@virtual
async def test_the_default_timeout_is_ten_minutes() -> None:
    """It counts from the submit, whenever the await begins; a second await gets another ten."""
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
async def test_a_cancelled_await_keeps_the_job_and_its_slot() -> None:
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
    """The first snapshot comes at once; the last one shows the end."""
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        statuses = [update.status async for update in job.updates()]
        assert statuses == ["processing", "completed"]
        assert [update.url is None async for update in job.updates()] == [False]


@virtual
async def test_updates_of_a_failed_job_end_with_its_failure() -> None:
    """The failure is the last snapshot, not an exception."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: raw(FAILED) if kind == "poll" else None
        job = await doitong.submit("a square circle")
        assert [update.status async for update in job.updates()] == ["processing", "failed"]


@virtual
async def test_updates_time_out() -> None:
    """A job that never ends does not hold its follower for ever."""
    async with with_emulator(emulator={"durations": 1e6}, timeout=20.0) as (doitong, _):
        job = await doitong.submit("never")
        with pytest.raises(JobTimeoutError):
            _ = [update async for update in job.updates()]
        assert now() == 20.0


@virtual
async def test_refresh_polls_now() -> None:
    """It sends one poll without waiting for the tick."""
    async with with_emulator(emulator={"durations": 0.5}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        assert (await job.refresh()).status == "processing"
        await asyncio.sleep(1)
        assert (await job.refresh()).status == "completed"
        assert now() == 1.0
        assert emulator.world.count("poll") == 2


@virtual
async def test_a_token_resumes_the_job_in_another_process() -> None:
    """The resumed job is polled at once, finishes there and is charged once."""
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
async def test_a_resumed_job_takes_a_slot_without_queueing() -> None:
    """It already runs at the service; no new job starts until the plan has a free slot."""
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
async def test_closing_wakes_every_awaiter_with_the_token() -> None:
    """Nobody hangs on a closed client, and the token in the error can resume the job."""
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
async def test_text_that_is_neither_an_id_nor_a_token_is_rejected_at_once() -> None:
    """A damaged token must not be polled as if it were an id."""
    async with with_emulator() as (doitong, emulator):
        for wrong in ("", " ", "dtj1.???", "dtj9.abc", "two\nlines"):
            with pytest.raises(BadRequestError):
                doitong.job(wrong)
        assert emulator.world.seen == type(emulator.world.seen)()


@virtual
async def test_a_completed_job_without_a_url_is_polled_until_it_has_one() -> None:
    """Its output is paid for but cannot be fetched yet; its slot is already free."""
    bare = raw(b'{"data":{"j0":{"id":"plain00001","status":"completed","url":null}}}')
    async with plain(Plan.FREE, seconds=3.0) as (doitong, server):
        server.script = lambda kind, nth: bare if kind == "poll" and nth <= 2 else None
        job = await doitong.submit("a fox")
        await asyncio.sleep(2.5)
        assert job.status == "completed"
        assert doitong.stats().slots_in_use == 0
        assert (await job).url


def test_the_repr_of_a_job_names_its_id_and_status() -> None:
    """It shows no secret."""

    async def poll() -> None:
        async with with_emulator(emulator={"durations": 3.0}) as (doitong, _):
            job = await doitong.submit("a fox")
            assert repr(job) == f"<AsyncJob {job.id!r} processing>"
            assert repr(await job).startswith(f"<Result {job.id!r} http://127.0.0.1:")

    virtual(poll)()


@pytest.mark.parametrize("timeout", [-1, float("nan"), "5", True])
@virtual
async def test_a_timeout_must_be_a_number_of_seconds(timeout: Any) -> None:
    """Anything else would wait for ever or fail later with a confusing error."""
    async with with_emulator() as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(BadRequestError, match="timeout is"):
            await job.wait(timeout=timeout)


@virtual
async def test_a_timeout_of_zero_returns_what_is_known_now() -> None:
    """A finished job returns its result; any other times out at once."""
    async with with_emulator(emulator={"durations": 3.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await job.wait(timeout=0)
        await job
        assert (await job.wait(timeout=0)).id == job.id


def test_a_job_can_be_awaited_only_on_its_own_loop() -> None:
    """On another loop it would hang; the error says so."""
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
async def test_a_view_applies_its_own_timeout() -> None:
    """It applies to a job that another view submitted, too."""
    async with with_emulator(emulator={"durations": 60.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        with pytest.raises(JobTimeoutError):
            await doitong.with_options(timeout=5.0).job(job.id)
        assert now() == 5.0
        assert (await job).id == job.id
