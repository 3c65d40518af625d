"""What metrics need: each request, job, wait and download has its beginning and its end."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeVar

import pytest

from doitong_async import AsyncDoitong, DownloadError, Plan, RateLimitError
from doitong_async.events import (
    DownloadEnded,
    Event,
    JobFinished,
    JobLetGo,
    JobTracked,
    RequestEnded,
    RequestSent,
    WaitEnded,
    line_of,
)
from doitong_async.testing import emulated
from doitong_async.transport.failure import FailureKind
from tests.plain_server import JPEG
from tests.virtual import plain, until, virtual, with_emulator

E = TypeVar("E")
ONE = Plan.enterprise(requests_per_minute=600, concurrent_jobs=1)


def of(kind: type[E], events: list[Event]) -> list[E]:
    """Return the events of one kind."""
    return [event for event in events if isinstance(event, kind)]


@virtual
async def test_each_request_that_the_service_saw_is_ended_with_its_status() -> None:
    """Submits and polls, retries and failures included."""
    events: list[Event] = []
    faults = ["submit 2: 500", "poll 2: 502"]
    async with with_emulator(emulator={"durations": 5.0, "faults": faults}, on_event=events.append) as (
        doitong,
        emulator,
    ):
        await asyncio.gather(*(doitong.generate(f"fox {number}") for number in range(3)))
    ended = of(RequestEnded, events)
    assert Counter(event.kind for event in ended) == Counter(seen.kind for seen in emulator.requests)
    assert {(event.kind, event.http_status, event.failure) for event in ended} == {
        ("submit", 200, None),
        ("submit", 500, FailureKind.SERVER),
        ("poll", 200, None),
        ("poll", 502, FailureKind.SERVER),
    }


@virtual
async def test_the_end_of_a_request_names_its_jobs() -> None:
    """A submit the job that it made, with its key; a poll those it asked for, with the seconds it took."""
    events: list[Event] = []
    rules = {"durations": 3.0, "faults": ["poll 1: latency 0.5"]}
    async with with_emulator(emulator=rules, on_event=events.append) as (doitong, _):
        job = await doitong.submit("a fox", idempotency_key="mine")
        await job
    submit, slow, _ = of(RequestEnded, events)
    assert (submit.job_ids, submit.attempt, submit.idempotency_key) == ((job.id,), 1, "mine")
    assert (slow.job_ids, slow.seconds) == ((job.id,), 0.5)


@virtual
async def test_a_request_without_an_answer_has_a_failure_and_no_status() -> None:
    """The service closed the connection."""
    events: list[Event] = []
    async with plain(seconds=0.0, on_event=events.append) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
        await doitong.generate("a fox")
    first = of(RequestEnded, events)[0]
    assert (first.http_status, first.failure) == (None, FailureKind.UNANSWERED)


@virtual
async def test_a_request_that_closing_cuts_off_is_ended() -> None:
    """It has neither a status nor a failure, as nobody knows how it would have ended."""
    events: list[Event] = []
    rules = {"faults": ["submit: latency inf"]}
    async with with_emulator(emulator=rules, on_event=events.append) as (doitong, emulator):
        submit = asyncio.ensure_future(doitong.submit("a fox"))
        await until(lambda: emulator.world.count("submit"))
        await doitong.aclose()
        await asyncio.gather(submit, return_exceptions=True)
    (ended,) = of(RequestEnded, events)
    assert (ended.kind, ended.http_status, ended.failure, ended.seconds) == ("submit", None, None, 10.0)
    assert len(of(RequestSent, events)) == 1


@virtual
async def test_each_tracked_job_is_let_go_once_after_its_end() -> None:
    """Their difference is the number of jobs in flight."""
    events: list[Event] = []
    async with with_emulator(emulator={"durations": 5.0}, on_event=events.append) as (doitong, _):
        job = await doitong.submit("a fox")
        assert of(JobTracked, events) == [JobTracked(job_id=job.id, is_resumed=False, provider="flux-pro")]
        assert of(JobLetGo, events) == []
        await job
    assert [type(event) for event in events[-2:]] == [JobFinished, JobLetGo]
    assert of(JobLetGo, events) == [JobLetGo(job_id=job.id)]


@virtual
async def test_a_resumed_job_is_tracked_too() -> None:
    """By another client, which did not submit it."""
    events: list[Event] = []
    async with with_emulator(emulator={"durations": 5.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(1)
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, on_event=events.append) as other:
            other.job(job.token)
            assert of(JobTracked, events) == [JobTracked(job_id=job.id, is_resumed=True)]


@virtual
async def test_a_job_that_the_client_leaves_at_the_service_is_let_go() -> None:
    """When it closes."""
    events: list[Event] = []
    async with with_emulator(on_event=events.append) as (doitong, _):
        job = await doitong.submit("a fox")
    assert of(JobLetGo, events) == [JobLetGo(job_id=job.id)]
    assert of(JobFinished, events) == []


@virtual
async def test_a_job_whose_slot_expired_is_let_go_and_tracked_again_for_who_awaits_it() -> None:
    """Beginnings and ends stay in pairs."""
    events: list[Event] = []
    rules = {"faults": ["job: stuck"]}
    async with with_emulator(emulator=rules, slot_expiry=30.0, on_event=events.append) as (doitong, _):
        job = await doitong.submit("a fox")
        await asyncio.sleep(31)
        assert of(JobLetGo, events) == [JobLetGo(job_id=job.id)]
        waiting = asyncio.ensure_future(job.wait(timeout=5))
        await asyncio.sleep(1)
        assert of(JobTracked, events)[-1] == JobTracked(job_id=job.id, is_resumed=True, provider="flux-pro")
        await asyncio.gather(waiting, return_exceptions=True)
    assert len(of(JobTracked, events)) == len(of(JobLetGo, events)) == 2


@virtual
async def test_a_wait_that_was_given_up_says_so() -> None:
    """By its timeout, or because its caller left."""
    events: list[Event] = []
    async with with_emulator(ONE, emulator={"durations": 9.0}, on_event=events.append) as (doitong, _):
        job = await doitong.submit("the first")
        with pytest.raises(RateLimitError):
            await doitong.with_options(slot_timeout=1.0).submit("too late")
        leaving = asyncio.ensure_future(doitong.submit("left"))
        await asyncio.sleep(1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await asyncio.gather(doitong.submit("the second"), job)
    waits = [(event.seconds, event.is_granted) for event in of(WaitEnded, events)]
    assert waits == [(1.0, False), (1.0, False), (8.0, True)]


@virtual
async def test_a_download_is_ended_with_its_size() -> None:
    """That of the output, even if a part was fetched twice; and with the seconds of its retries."""
    events: list[Event] = []
    async with plain(seconds=0.0, on_event=events.append) as (doitong, server):
        picture = JPEG + bytes(100_000)
        whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(picture)}\r\n\r\n".encode() + picture
        answers = {("output", 1): whole[:-1], ("output", 2): whole}
        server.script = lambda kind, nth: answers.get((kind, nth))
        result = await doitong.generate("a fox")
        assert await result.read() == picture
    (ended,) = of(DownloadEnded, events)
    assert (ended.job_id, ended.size, ended.is_whole) == (result.id, len(picture), True)
    assert ended.seconds > 0


@virtual
async def test_a_download_that_failed_or_was_left_is_not_whole() -> None:
    """An error page; and a reader that wants only the first piece."""
    events: list[Event] = []
    async with emulated(emulator={"faults": ["output 1: html"]}, on_event=events.append) as doitong:
        result = await doitong.generate("a fox")
        with pytest.raises(DownloadError):
            await result.read()
        chunks = result.chunks()
        first = await anext(chunks)
        await chunks.aclose()
    assert [event.is_whole for event in of(DownloadEnded, events)] == [False, False]
    assert of(DownloadEnded, events)[1].size == len(first)


def test_a_line_of_the_log_cannot_be_forged() -> None:
    """A service that sends line breaks gets them quoted."""
    line = line_of(JobLetGo(job_id="a\nb"))
    assert line == "JobLetGo job_id='a\\nb'"
