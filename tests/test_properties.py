"""Each job is paid once and known to somebody, despite faults, callers that leave and restarts."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doitong_async import AsyncDoitong, DoitongError, Plan, Result, ServerError, SubmitOutcomeUnknownError
from doitong_async.emulator import Emulator
from doitong_async.jobs.token import read_ref
from tests.virtual import virtual

pytestmark = pytest.mark.slow

SUBMIT_FAULTS = [
    *(
        "500",
        "500 handled=yes",
        "502",
        "502 handled=yes",
        "null",
        "null handled=yes",
        "partial",
        "null-alias",
    ),
    *("cut-before", "cut-after", "latency 3", "latency 40"),
    *("429-minute retry-after=3", "429-concurrency", "429-minute"),
]
POLL_FAULTS = [
    "500",
    "502",
    "null",
    "partial",
    "null-alias",
    "cut-before",
    "cut-after",
    "latency 15",
    "429-minute",
]
JOB_FAULTS = ["late 5", "fail", "odd-status dreaming seconds=4"]


@dataclass(frozen=True)
class Caller:
    """One `generate`: when it begins, and after how many seconds its caller leaves, if at all."""

    begins: float
    patience: float | None


@dataclass(frozen=True)
class Scene:
    """Everything that goes wrong in one run."""

    callers: list[Caller]
    faults: list[str]
    closes_at: float


def numbered(where: str, faults: list[str], most: int) -> st.SearchStrategy[list[str]]:
    """Draw which of the first requests of a kind meet which fault."""
    pairs = st.dictionaries(st.integers(1, most), st.sampled_from(faults), max_size=most)
    return pairs.map(lambda drawn: [f"{where} {number}: {fault}" for number, fault in drawn.items()])


callers = st.builds(
    Caller,
    begins=st.integers(0, 24).map(lambda quarter: quarter / 4),
    patience=st.none() | st.integers(0, 120).map(lambda quarter: quarter / 4),
)
scenes = st.builds(
    Scene,
    callers=st.lists(callers, min_size=1, max_size=4),
    faults=st.tuples(
        numbered("submit", SUBMIT_FAULTS, 6), numbered("poll", POLL_FAULTS, 5), numbered("job", JOB_FAULTS, 3)
    ).map(lambda lists: [fault for faults in lists for fault in faults]),
    closes_at=st.integers(0, 240).map(lambda quarter: quarter / 4),
)


@dataclass
class Known:
    """What callers and the log know: jobs by id, and submits in doubt by key."""

    ids: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def take(self, outcome: Result | BaseException) -> None:
        """Record what one caller got."""
        if isinstance(outcome, Result):
            self.ids.add(outcome.id)
        elif isinstance(outcome, DoitongError):
            if outcome.job_id:
                self.ids.add(outcome.job_id)
            if outcome.token:
                self.ids.add(read_ref(outcome.token).id)
            if isinstance(outcome, ServerError | SubmitOutcomeUnknownError) and outcome.idempotency_key:
                self.keys.add(outcome.idempotency_key)
        else:
            assert isinstance(outcome, asyncio.CancelledError | TimeoutError), outcome

    def read(self, record: logging.LogRecord) -> None:
        """Record what a log line names, at the level that every user sees."""
        words = record.getMessage().replace(",", " ").split()
        self.ids |= {read_ref(word).id for word in words if word.startswith("dtj1.")}
        if words[0] == "submit":
            self.keys.add(words[1])


async def one_call(doitong: AsyncDoitong, number: int, caller: Caller) -> Result:
    """Generate with the patience of one caller."""
    await asyncio.sleep(caller.begins)
    async with asyncio.timeout(caller.patience):
        return await doitong.generate(f"fox {number}", idempotency_key=f"key-{number}")


async def play(scene: Scene, emulator: Emulator, known: Known, **arguments: Any) -> None:
    """Run the scene, and record what anybody could know of it afterwards."""
    outcomes: list[Any] = []
    async with AsyncDoitong(
        api_key="k", base_url=emulator.url, plan=Plan.STARTER, request_timeout=20.0, **arguments
    ) as doitong:
        calls = [
            asyncio.ensure_future(one_call(doitong, number, caller))
            for number, caller in enumerate(scene.callers)
        ]
        await asyncio.wait(calls, timeout=scene.closes_at)
        await doitong.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    for each in outcomes:
        known.take(each)


def read_log(known: Known) -> logging.Handler:
    """Read the library's warnings and errors as a user would see them."""

    class Reader(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            known.read(record)

    reader = Reader(logging.WARNING)
    logging.getLogger("doitong_async").addHandler(reader)
    return reader


async def check(scene: Scene, *, keys_honoured: bool) -> None:
    """Run a scene, then count at the server."""
    known = Known()
    reader = read_log(known)
    try:
        async with Emulator(
            "starter", faults=scene.faults, keys_honoured=keys_honoured, durations=6.0
        ) as emulator:
            await play(scene, emulator, known, resend_unanswered=keys_honoured)
            world = emulator.world
            paid = {job.id: job.idempotency_key for job in world.jobs.values()}
            assert max(Counter(paid.values()).values(), default=0) <= 1, "a request was paid for twice"
            unknown = {job for job, key in paid.items() if job not in known.ids and key not in known.keys}
            assert not unknown, "nobody knows a job that was paid for"
            assert known.ids <= paid.keys(), "a job is reported that was never made"
            await restart(emulator, paid)
            assert len(world.jobs) == len(paid)
    finally:
        logging.getLogger("doitong_async").removeHandler(reader)


async def restart(emulator: Emulator, paid: dict[str, str | None]) -> None:
    """Another process resumes the paid jobs by id and by key after the faults are over."""
    emulator.faults.clear()
    await asyncio.sleep(60)
    async with AsyncDoitong(api_key="k", base_url=emulator.url, plan=Plan.STARTER) as doitong:
        for job_id in paid:
            job = doitong.job(job_id)
            ends = [update.status async for update in job.updates()]
            assert ends[-1] in ("completed", "failed")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes)
def test_every_job_is_paid_once_and_known_to_somebody(scene: Scene) -> None:
    """With any faults on submits and polls, leaving and closing at any moment, and a restart afterwards."""
    virtual(check)(scene, keys_honoured=True)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenes)
def test_nothing_in_doubt_is_sent_again_where_keys_are_ignored(scene: Scene) -> None:
    """With `resend_unanswered=False` no job is paid twice even without keys, and the doubt is reported."""
    virtual(check)(scene, keys_honoured=False)
