"""The client works with a server that is not the emulator, whatever it does where the reference is open."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    AuthenticationError,
    JobNotFoundError,
    JobTimeoutError,
    Plan,
    SubmitOutcomeUnknownError,
)
from tests.plain_server import JPEG, Behaviour
from tests.virtual import now, plain, virtual

BEHAVIOURS = [
    Behaviour(),
    Behaviour(answer_key="generateimage"),
    Behaviour(answer_key="generateImage"),
    Behaviour(errors_with_200=True),
    Behaviour(status_field="checkJobStatus", status_argument="jobId"),
    Behaviour(aliases=False),
    Behaviour(aliases_count_as_one=False),
    Behaviour(over_concurrency="refuse"),
    Behaviour(reset_unit="epoch_ms"),
    Behaviour(reset_unit="seconds"),
    Behaviour(reset_unit="iso"),
    Behaviour(rate_headers=False),
    Behaviour(polls_count=False),
    Behaviour(answer_key="generateimage", errors_with_200=True, status_field="job", rate_headers=False),
]


def differences(behaviour: Behaviour) -> str:
    """Name a behaviour by its differences from the default."""
    return (
        "-".join(
            f"{name}={value}" for name, value in vars(behaviour).items() if value != vars(Behaviour())[name]
        )
        or "plain"
    )


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=differences)
@virtual
async def test_every_behaviour_gives_the_pictures_and_charges_each_once(
    behaviour: Behaviour, tmp_path: Path
) -> None:
    """Ten prompts give ten whole files and ten jobs at the server."""
    plan = Plan.enterprise(requests_per_minute=120, concurrent_jobs=10)
    async with plain(plan, behaviour=behaviour) as (doitong, server):

        async def picture(number: int) -> Path:
            result = await doitong.generate(f"fox {number}")
            return await result.save(tmp_path / f"{number}.jpg")

        files = await asyncio.gather(*(picture(number) for number in range(10)))
        assert {file.read_bytes() for file in files} == {JPEG}
        assert len(server.jobs) == 10
        assert server.most_at_once() <= 10
        assert server.most_in_any_minute() <= 120
        assert all("k-plain" not in str(each.headers) for each in server.requests if each.kind == "output")


@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(errors_with_200=True)], ids=differences)
@virtual
async def test_errors_are_the_same_with_either_http_status(behaviour: Behaviour) -> None:
    """401 and an unknown job are understood with HTTP 200 and with the documented status."""
    async with plain(behaviour=behaviour) as (doitong, server):
        with pytest.raises(JobNotFoundError):
            await doitong.job("stranger")
        async with AsyncDoitong(api_key="wrong", base_url=server.url) as stranger:
            with pytest.raises(AuthenticationError):
                await stranger.generate("a fox")


@virtual
async def test_a_job_that_is_cancelled_timed_out_and_resumed_is_paid_once() -> None:
    """Whichever caller leaves, another one finishes the job."""
    async with plain(seconds=30.0) as (doitong, server):
        job = await doitong.submit("a fox")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(3)
        waiting.cancel()
        with pytest.raises(JobTimeoutError) as caught:
            await job.wait(timeout=5)
        assert caught.value.token is not None
        async with AsyncDoitong(api_key=server.key, base_url=server.url, plan=Plan.PRO) as restarted:
            assert (await restarted.job(caught.value.token)).id == job.id
        assert len(server.jobs) == 1


@virtual
async def test_a_lost_answer_costs_one_job() -> None:
    """The submit is sent again under its key, and the service replays its first answer."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
        assert (await doitong.generate("a fox")).id in server.jobs
        keys = {request.headers["idempotency-key"] for request in server.requests if request.kind == "submit"}
    assert len(server.jobs) == len(keys) == 1


@virtual
async def test_a_conflict_that_names_the_job_counts_as_a_replay() -> None:
    """Both are answers to a key that was used before."""
    async with plain(behaviour=Behaviour(conflict_on_replay=True)) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
        assert (await doitong.generate("a fox")).id in server.jobs
    assert len(server.jobs) == 1


@virtual
async def test_a_conflict_that_names_no_job_is_in_doubt() -> None:
    """The error has the key, and nothing is sent again."""
    async with plain(behaviour=Behaviour(conflict_on_replay=True, conflict_names_job=False)) as (
        doitong,
        server,
    ):
        server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox", idempotency_key="mine")
        assert caught.value.idempotency_key == "mine"
        assert sum(request.kind == "submit" for request in server.requests) == 2


@virtual
async def test_nothing_is_sent_twice_where_keys_are_ignored() -> None:
    """With `resend_unanswered=False` an unanswered submit is in doubt at once."""
    async with plain(behaviour=Behaviour(keys_honoured=False), resend_unanswered=False) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" else None
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox")
        assert caught.value.idempotency_key
        assert len(server.jobs) == 1
        assert now() < 1.0


@virtual
async def test_a_server_may_change_its_behaviour_between_requests() -> None:
    """The client reads each answer by itself."""
    async with plain(seconds=5.0) as (doitong, server):
        first = doitong.generate("one")
        server.behaviour = replace(server.behaviour, answer_key="generateimage")
        second: Any = doitong.generate("two")
        assert len({(await first).id, (await second).id}) == 2
