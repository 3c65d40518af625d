"""Whatever order answers, polls and webhooks come in, a job ends as with polling alone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doitong_async import AsyncDoitong, DoitongError, Generation, Plan
from doitong_async.emulator import Emulator
from doitong_async.events import Event
from doitong_async.webhooks.serving import free_port, served
from tests.virtual import virtual

SECRET = "whsec-any-order"
WEBHOOK_FAULTS = [
    *("lost", "late 3", "late 25", "late 90", "doubled", "overtaken 5", "outdated", "forged", "early 10"),
    *("down 1", "down 4"),
]
SUBMIT_FAULTS = ["latency 3", "latency 15", "cut-after", "502 handled=yes", "null handled=yes", "500"]
POLL_FAULTS = ["500", "null", "partial", "null-alias", "cut-after", "latency 15", "429-minute"]
JOB_FAULTS = ["fail", "late 5", "odd-status dreaming seconds=4"]


@dataclass(frozen=True)
class Scenario:
    """Everything that goes wrong in one run: faults, failing hooks, and impatient callers."""

    faults: list[str]
    hook_fails: int
    is_callback_broken: bool
    patience: list[float | None]
    timeout: float


def numbered(where: str, faults: list[str], most: int) -> st.SearchStrategy[list[str]]:
    """Draw which of the first events of a kind meet which fault."""
    pairs = st.dictionaries(st.integers(1, most), st.sampled_from(faults), max_size=most)
    return pairs.map(lambda drawn: [f"{where} {number}: {fault}" for number, fault in drawn.items()])


scenarios = st.builds(
    Scenario,
    faults=st.tuples(
        numbered("webhook", WEBHOOK_FAULTS, 4),
        numbered("webhook", WEBHOOK_FAULTS, 4),
        numbered("submit", SUBMIT_FAULTS, 5),
        numbered("poll", POLL_FAULTS, 5),
        numbered("job", JOB_FAULTS, 4),
    ).map(lambda lists: [fault for faults in lists for fault in faults]),
    hook_fails=st.integers(0, 5),
    is_callback_broken=st.booleans(),
    patience=st.lists(st.none() | st.integers(0, 60).map(lambda half: half / 2), min_size=1, max_size=4),
    timeout=st.sampled_from([5.0, 30.0, 600.0]),
)


async def run_callers(scenario: Scenario, emulator: Emulator, doitong: AsyncDoitong) -> None:
    """Run callers that may leave early or time out; each gets a result or one of our errors."""

    async def call(number: int, patience: float | None) -> object:
        async with asyncio.timeout(patience):
            return await doitong.generate(f"fox {number}", idempotency_key=f"key-{number}")

    outcomes = await asyncio.gather(
        *(call(number, patience) for number, patience in enumerate(scenario.patience)), return_exceptions=True
    )
    for error in outcomes:
        assert not isinstance(error, BaseException) or isinstance(error, DoitongError | TimeoutError), error


async def endings(doitong: AsyncDoitong, emulator: Emulator) -> dict[str, tuple[str, str | None]]:
    """Return how each job ended, as this client knows it."""
    found = {}
    patient = doitong.with_options(timeout=900)
    for job_id, job in list(emulator.world.jobs.items()):
        # Only this test knows a job before the service itself would find it.
        await asyncio.sleep(job.hidden_until - asyncio.get_running_loop().time())
        updates: list[Generation] = []
        while not updates or not updates[-1].status.is_terminal:
            updates = [update async for update in patient.job(job_id).updates()]
        found[job_id] = (str(updates[-1].status), updates[-1].url)
    return found


async def check(scenario: Scenario) -> None:
    """Run the scenario, and compare what the client knows at its end with a client that only polls."""
    failures = scenario.hook_fails
    kept: list[Generation] = []

    def keep(update: Generation) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError("the disk is full")
        kept.append(update)

    def raise_if_broken(_: Event) -> None:
        if scenario.is_callback_broken:
            raise RuntimeError("broken")

    with free_port() as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        rules: dict[str, Any] = {"durations": 6.0, "faults": scenario.faults, "webhook_secret": SECRET}
        async with Emulator("starter", **rules) as emulator:
            client_options: dict[str, Any] = {"api_key": "k", "base_url": emulator.url, "plan": Plan.STARTER}
            doitong = AsyncDoitong(
                webhook_url=url,
                webhook_secret=SECRET,
                on_event=raise_if_broken,
                timeout=scenario.timeout,
                **client_options,
            )
            async with served(doitong.webhooks.aiohttp_app(on_event=keep), listening), doitong:
                await run_callers(scenario, emulator, doitong)
                known = await endings(doitong, emulator)
                # The last webhooks are 90 s late, or the service sent them again and again.
                await asyncio.sleep(200)
                late = await endings(doitong, emulator)
                # If a caller left at once, the service made its job only afterwards.
                assert known.items() <= late.items()
                assert doitong._running().limiter.slots_taken == 0
            emulator.faults.clear()
            async with AsyncDoitong(**client_options) as polling:
                assert await endings(polling, emulator) == late
            taken = {posted.job_id for posted in emulator.posted if posted.outcome == "taken"}
            assert taken <= {update.id for update in kept}, (
                "a webhook was acknowledged, but the hook has not run"
            )


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scenarios)
def test_a_job_ends_as_with_polling_alone(scenario: Scenario) -> None:
    """For any faults of webhooks, submits, polls and hooks, any patience, any timeout."""
    virtual(check)(scenario)
