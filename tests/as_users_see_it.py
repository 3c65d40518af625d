"""The public API with its exact types, free of `Any`; only type-checked, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import assert_type

from doitong_async import (
    AsyncDoitong,
    AsyncJob,
    Budget,
    Estimate,
    GenerateRequest,
    Generation,
    Item,
    JobFailedError,
    JobStatus,
    JobTimeoutError,
    Plan,
    Result,
)
from doitong_async.events import Event, JobFinished
from doitong_async.testing import EmulatedDoitong, emulated


def on_event(event: Event) -> None:
    """Match on what happened."""
    if isinstance(event, JobFinished):
        assert_type(event.seconds, float)
        assert_type(event.status, JobStatus)


async def one_job(doitong: AsyncDoitong) -> None:
    """Submit, follow, await and save one job."""
    job = await doitong.submit("a red fox", provider="flux-kontext", version="flux-kontext-max")
    assert_type(job, AsyncJob)
    assert_type(job.id, str)
    assert_type(job.status, JobStatus)
    assert_type(job.last, Generation)
    assert_type(job.token, str)
    async for update in job.updates():
        assert_type(update.url, str | None)
    assert_type(await job, Result)
    assert_type(await job.wait(timeout=3), Result)
    assert_type(await job.refresh(), Generation)
    result = await doitong.generate(GenerateRequest(prompt="a fox", width=512))
    assert_type(result.url, str)
    assert_type(result.created_at, datetime | None)
    assert_type(await result.save("fox.jpg"), Path)
    assert_type(await result.read(), bytes)


def a_plan(doitong: AsyncDoitong) -> None:
    """Estimate, and set a budget."""
    found = doitong.estimate(["a fox", {"prompt": "waves", "provider": "kling"}], price={"kling": 100})
    assert_type(found, Estimate)
    assert_type(found.high, float)
    assert_type(Budget(found.high, low_at=0.2, on_low=print).credits, float)


async def a_batch(doitong: AsyncDoitong) -> None:
    """Prompts, mappings and requests are items; anything else is refused before it runs."""
    prompts: list[str] = ["a fox"]
    async with doitong.batch(prompts, ledger="run.db") as batch:
        async for item in batch:
            assert_type(item, Item)
    mixed: list[str | dict[str, int | str] | GenerateRequest] = ["a fox", {"prompt": "b", "width": 512}]
    assert_type(doitong.generate_many(mixed), AsyncGenerator[Item, None])
    doitong.generate_many([1])  # type: ignore[list-item]  # as it should be


async def many_jobs() -> None:
    """Gather results, make a view, resume a job."""
    async with AsyncDoitong(api_key="k", plan=Plan.PRO, timeout=60.0, on_event=on_event) as doitong:
        assert_type(doitong, AsyncDoitong)
        assert_type(doitong.with_options(provider="flux-krea", width=512), AsyncDoitong)
        assert_type(doitong.jobs(), list[AsyncJob])
        assert_type(doitong.job("abc123xyz"), AsyncJob)
        results = await asyncio.gather(*(doitong.generate(prompt) for prompt in ("a", "b")))
        assert_type(results, list[Result])
    async with emulated(plan=Plan.STARTER) as emulated_doitong:
        assert_type(emulated_doitong, EmulatedDoitong)
        assert_type(emulated_doitong.with_options(timeout=5.0), EmulatedDoitong)
        assert_type(emulated_doitong.emulator.charges, int)


async def errors(job: AsyncJob) -> None:
    """Read what an error knows."""
    try:
        await job
    except JobTimeoutError as error:
        assert_type(error.job, AsyncJob | None)
        assert_type(error.token, str | None)
    except JobFailedError as error:
        assert_type(error.generation, Generation | None)


async def mistakes(doitong: AsyncDoitong) -> None:
    """A type checker finds these mistakes before anything is sent; one that it misses fails the check."""
    await doitong.generate("a fox", wdith=512)  # type: ignore[call-arg]  # a slip of the pen
    await doitong.generate("a fox", width="512")  # type: ignore[arg-type]  # pixels are numbers
    doitong.with_options(api_key="k")  # type: ignore[call-arg]  # shared by all views
