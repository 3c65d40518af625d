"""The poller: what it polls, when, and at what cost, counted at the server."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import statistics
from itertools import pairwise
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    AuthenticationError,
    ConfigurationError,
    JobNotFoundError,
    JobStatus,
    JobTimeoutError,
    Plan,
)
from doitong_async.events import Event, JobFinished, PollFailed, SlotExpired, StatusChanged
from doitong_async.transport.failure import FailureKind
from tests.plain_server import HANG, Behaviour
from tests.virtual import now, plain, seen, virtual, with_emulator


@virtual
async def test_ten_jobs_cost_one_status_request_every_two_seconds() -> None:
    """Polls use up the plan: more jobs make no more requests, and none comes sooner than 2 s."""
    async with with_emulator(emulator={"durations": 20.0}) as (doitong, emulator):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(10)))
        statuses = seen(emulator, "poll")
    assert [len(poll.ids) for poll in statuses] == [10] * 10
    assert all(later.at - earlier.at >= 2.0 for earlier, later in pairwise(statuses))


@virtual
async def test_a_job_joins_the_first_tick_two_seconds_after_its_submit() -> None:
    """A job submitted between two ticks skips the next one."""
    async with with_emulator(emulator={"durations": 9.0}) as (doitong, emulator):
        first = await doitong.submit("first")
        await asyncio.sleep(1)
        second = await doitong.submit("second")
        await asyncio.gather(first, second)
        statuses = seen(emulator, "poll")
    assert [(poll.at, len(poll.ids)) for poll in statuses[:3]] == [(2.0, 1), (4.0, 2), (6.0, 2)]


@virtual
async def test_a_job_that_completes_at_once_is_never_polled() -> None:
    """The answer to the submit may already be the end."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, emulator):
        result = await doitong.generate("a fox")
        assert emulator.world.count("poll") == 0
    assert result.id


@pytest.mark.slow
@virtual
async def test_more_than_a_hundred_jobs_take_several_polls() -> None:
    """One status request holds at most 100 jobs."""
    plan = Plan.enterprise(requests_per_minute=10_000, concurrent_jobs=250)
    async with with_emulator(plan, emulator={"durations": 2.5}) as (doitong, emulator):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(250)))
        sizes = [len(poll.ids) for poll in seen(emulator, "poll")]
    assert max(sizes) == 100
    assert sum(sizes) == 500


@virtual
async def test_a_slow_answer_delays_no_other_poll() -> None:
    """While one poll hangs, the next ones are sent anyway."""
    async with plain(seconds=7.0) as (doitong, server):
        server.script = lambda kind, nth: HANG if (kind, nth) == ("poll", 1) else None
        await doitong.generate("a fox")
        assert [request.at for request in server.requests if request.kind == "poll"] == [2.0, 4.0, 6.0, 8.0]


@virtual
async def test_an_unknown_job_harms_no_other() -> None:
    """It ends with its own error at the first poll; the other jobs finish."""
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, emulator):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        with pytest.raises(JobNotFoundError) as caught:
            await doitong.job("no-such-job")
        assert caught.value.job_id == "no-such-job"
        assert [(await job).id for job in jobs] == [job.id for job in jobs]
        assert emulator.world.charges == 3


@virtual
async def test_a_service_without_aliases_is_polled_for_one_job_at_a_time() -> None:
    """Halving finds the size that works, and later polls keep to it."""
    async with plain(seconds=6.0, behaviour=Behaviour(aliases=False)) as (doitong, server):
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(4)))
        sizes = [
            len(request.ids)
            for request in server.requests
            if request.kind == "poll" and request.status == 200
        ]
    assert len({result.id for result in results}) == 4
    assert set(sizes) == {1}


@virtual
async def test_a_wrong_key_wakes_every_awaiter_and_loses_no_job() -> None:
    """On a 401 each awaiter gets its own error, and the jobs can be awaited again."""
    async with plain(seconds=6.0) as (doitong, server):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        right, server.key = server.key, "another"
        errors = await asyncio.gather(*jobs, return_exceptions=True)
        assert [type(error) for error in errors] == [AuthenticationError] * 3
        assert len({id(error) for error in errors}) == 3
        reported = [(error.job_id, error.token) for error in errors if isinstance(error, AuthenticationError)]
        assert reported == [(job.id, job.token) for job in jobs]
        assert sum(request.kind == "poll" for request in server.requests) == 3
        server.key = right
        assert [(await job).id for job in jobs] == [job.id for job in jobs]
        assert len(server.jobs) == 3


@virtual
async def test_a_renamed_status_field_is_found_by_one_introspection(caplog: pytest.LogCaptureFixture) -> None:
    """The status query is undocumented: the client reads the schema once and logs the setting to use."""
    async with with_emulator(emulator={"status_field": "jobStatus", "durations": 7.0}) as (doitong, emulator):
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(3)))
        assert emulator.world.count("introspection") == 1
    assert 'status_operation="jobStatus(id: ID!)"' in caplog.text


@virtual
async def test_without_a_fitting_status_field_the_error_names_the_setting() -> None:
    """It carries id and token, and polling goes on, so the job is not lost."""
    behaviour = Behaviour(introspection=False)
    async with plain(seconds=6.0, behaviour=behaviour, status_operation="wrong(id: ID!)") as (
        doitong,
        server,
    ):
        job = await doitong.submit("a fox")
        for _ in range(2):
            with pytest.raises(ConfigurationError, match="status_operation") as caught:
                await job
            assert (caught.value.job_id, caught.value.token) == (job.id, job.token)
            assert "No job was made" not in str(caught.value)
        assert [each.id for each in doitong.jobs()] == [job.id]
        assert sum(request.kind == "poll" for request in server.requests) == 4
        async with AsyncDoitong(api_key=server.key, base_url=server.url, plan=Plan.PRO) as corrected:
            assert (await corrected.job(job.token)).id == job.id


@virtual
async def test_an_unknown_status_keeps_the_wait_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    """A paid job is not lost over a new status."""
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        for status in ("dreaming", "processing", "dreaming"):
            update = dataclasses.replace(job.last, status=JobStatus(status))
            assert doitong._running().poller.tracker.observe(update)
        assert job.status == "dreaming"
        assert (await job).id == job.id
    assert caplog.text.count("dreaming") == 1


@virtual
async def test_a_slot_expires_at_its_maximum_age() -> None:
    """A job that never ends must not block a Free plan for good; an event reports it."""
    events: list[Event] = []
    rules: dict[str, Any] = {
        "durations": lambda number: 1e6 if number == 0 else 3.0,
        "over_concurrency": "queue",
    }
    options = {"timeout": 30.0, "slot_expiry": 60.0}
    async with with_emulator(Plan.FREE, emulator=rules, on_event=events.append, **options) as (doitong, _):
        stuck = await doitong.submit("never")
        with pytest.raises(JobTimeoutError):
            await stuck
        following = await doitong.submit("next")
        assert now() == 60.0
        assert SlotExpired(job_id=stuck.id, seconds=60.0) in events
        assert [job.id for job in doitong.jobs()] == [following.id]


@virtual
async def test_an_awaited_job_is_polled_past_slot_expiry() -> None:
    """Its slot is free by then, but somebody still waits."""
    async with with_emulator(Plan.FREE, emulator={"durations": 100.0}, slot_expiry=60.0) as (doitong, _):
        job = await doitong.submit("slow")
        assert (await job).id == job.id


@virtual
async def test_a_job_dropped_at_slot_expiry_can_be_awaited_again() -> None:
    """Awaiting it resumes it with a slot, without queueing."""
    async with with_emulator(Plan.FREE, emulator={"durations": 100.0}, slot_expiry=60.0) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("slow")
        await asyncio.sleep(90)
        assert doitong.jobs() == []
        assert (await job).id == job.id
        assert emulator.world.charges == 1


@virtual
async def test_events_follow_a_job_to_its_end() -> None:
    """Each status comes once, then the end with its seconds and its cost."""
    events: list[Event] = []
    async with with_emulator(emulator={"durations": 5.0}, on_event=events.append) as (doitong, _):
        job = await doitong.submit("a fox", width=512, height=512)
        await job
    assert [event for event in events if isinstance(event, StatusChanged | JobFinished)] == [
        StatusChanged(job_id=job.id, status=JobStatus.PROCESSING, provider="flux-pro"),
        StatusChanged(job_id=job.id, status=JobStatus.COMPLETED, provider="flux-pro"),
        JobFinished(
            job_id=job.id, status=JobStatus.COMPLETED, seconds=6.0, credit_cost=10, provider="flux-pro"
        ),
    ]


@virtual
async def test_a_failed_poll_is_an_event() -> None:
    """Its fields need no parsing; the job is polled again and ends as usual."""
    events: list[Event] = []
    rules = {"durations": 5.0, "faults": ["poll 1: 500"]}
    async with with_emulator(emulator=rules, on_event=events.append) as (doitong, _):
        await doitong.generate("a fox")
    (failed,) = (event for event in events if isinstance(event, PollFailed))
    assert (failed.jobs, failed.failure, failed.http_status) == (1, FailureKind.SERVER, 500)


@virtual
async def test_a_broken_callback_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a user's callback is logged, and the job ends as usual."""

    def broken(event: Event) -> None:
        raise RuntimeError("mine")

    async with with_emulator(emulator={"durations": 3.0}, on_event=broken) as (doitong, _):
        assert (await doitong.generate("a fox")).url
    assert "on_event failed" in caplog.text


@virtual
async def test_a_failing_service_is_polled_less_and_less_often() -> None:
    """A failed poll never ends the wait; the polls spread out, and the job ends as usual."""
    async with plain(seconds=6.0) as (doitong, server):
        server.script = lambda kind, nth: HTML_502 if kind == "poll" and nth <= 18 else None
        assert (await doitong.generate("a fox")).url
        statuses = [request.at for request in server.requests if request.kind == "poll"]
    waits = [later - earlier for earlier, later in pairwise(statuses)]
    assert waits == [*[2.0] * 3, *[4.0] * 4, *[8.0] * 4, *[16.0] * 4, *[30.0] * 3]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pattern", ["by chance", "six in a row"])
@virtual
async def test_six_failed_polls_out_of_ten_delay_no_job_for_long(seed: int, pattern: str) -> None:
    """Ten jobs on Pro meet 500s and HTML pages: the median delay stays below 10 s."""
    rng = random.Random(seed)

    def flaky(kind: str, nth: int) -> bytes | None:
        fails = rng.random() < 0.6 if pattern == "by chance" else (nth + seed) % 10 < 6
        return rng.choice([HTML_500, HTML_200]) if kind == "poll" and fails else None

    delays: list[float] = []
    async with plain(seconds=lambda number: 5.0 + 4.1 * number) as (doitong, server):
        server.script = flaky

        async def follow(number: int) -> None:
            result = await doitong.generate(f"fox {number}")
            delays.append(now() - server.jobs[result.id].ends)

        await asyncio.gather(*(follow(number) for number in range(10)))
    assert statistics.median(delays) <= 10.0


HTML_500 = b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"
HTML_200 = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


HTML_502 = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


@virtual
async def test_a_job_reported_missing_once_is_not_lost() -> None:
    """One null may come from a stale replica: it takes two in a row, and `refresh` still finds the job."""
    null = answer_json(b'{"data": {"j0": null}}')
    async with plain(seconds=60.0) as (doitong, server):
        job = await doitong.submit("a fox")
        await asyncio.sleep(20)
        server.script = lambda kind, nth: null if kind == "poll" and nth == 11 else None
        await asyncio.sleep(5)
        assert [each.id for each in doitong.jobs()] == [job.id]
        server.script = lambda kind, nth: null if kind == "poll" else None
        with pytest.raises(JobNotFoundError):
            await job
        server.script = lambda kind, nth: None
        assert (await job.refresh()).status == "processing"
        assert (await job).id == job.id


def answer_json(body: bytes) -> bytes:
    """Return a whole HTTP response as bytes."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@virtual
async def test_two_handles_share_one_tracked_job() -> None:
    """Resumed by token after slot expiry, the job wakes the old handle and the new one."""
    async with with_emulator(Plan.FREE, emulator={"durations": 100.0}, slot_expiry=60.0) as (doitong, _):
        old = await doitong.submit("slow")
        await asyncio.sleep(70)
        new = doitong.job(old.token)
        assert old == new
        assert len({old, new}) == 1
        results = await asyncio.gather(old, new)
        assert {result.id for result in results} == {old.id}
        assert doitong.stats().slots_in_use == 0
