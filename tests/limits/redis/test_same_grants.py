"""One process at Redis is granted what a process alone is granted, in the same order and at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from doitong_async import DailyLimitError, Plan
from doitong_async.events import Hook
from doitong_async.limits.admission import Admission
from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.local_limiter import LocalLimiter
from doitong_async.limits.permits import Priority, RequestPermit, Slot
from doitong_async.limits.redis.limiter import SharedLimiter
from doitong_async.limits.redis.store import Store
from doitong_async.limits.users import KeyUser
from doitong_async.testing import run_virtual
from doitong_async.transport.failure import Failure, FailureKind
from tests.fake_redis import FakeRedisServer
from tests.virtual import now

Grant: TypeAlias = tuple[int, str, float]

STEP = 1 / 64
"""Seconds between two moments at which something happens: exact also in the microseconds of Redis."""


@dataclass(frozen=True)
class Call:
    """A poll, or a submit with its job: when it comes, how long its answer takes, and what it says."""

    is_poll: bool
    arrives_at: float
    takes: float
    runs: float
    is_sent: bool
    remaining: int | None
    limit: str | None


calls = st.builds(
    Call,
    is_poll=st.booleans(),
    arrives_at=st.integers(0, 200).map(float),
    takes=st.sampled_from([0.25, 3.0, 30.0]),
    runs=st.sampled_from([0.0, 6.0, 70.0]),
    is_sent=st.sampled_from([True] * 5 + [False]),
    remaining=st.none() | st.integers(0, 12),
    limit=st.sampled_from([None] * 8 + ["per minute", "concurrent jobs", "daily limit"]),
)


async def carry_out(admission: Admission, number: int, call: Call, grants: list[Grant]) -> None:
    """Make one call, and record what it is granted; no two calls come at one moment."""
    await asyncio.sleep(call.arrives_at + number * STEP)
    slot = Slot(None, is_counted=False)
    try:
        if not call.is_poll:
            slot = await admission.slot()
            grants.append((number, "slot", now()))
        priority = Priority.POLL if call.is_poll else Priority.SUBMIT
        with slot, await admission.permit(priority, slot=slot.id) as permit:
            grants.append((number, "permit", now()))
            if call.is_sent:
                await send(admission, call, permit, slot)
    except DailyLimitError:
        grants.append((number, "day", now()))


async def send(admission: Admission, call: Call, permit: RequestPermit, slot: Slot) -> None:
    """Send a request, and let its job run."""
    permit.sends()
    await asyncio.sleep(call.takes)
    if call.remaining is not None:
        headers = {"x-ratelimit-remaining": str(call.remaining), "x-ratelimit-reset": "7"}
        admission.observe_headers(headers, permit)
    if call.limit is not None:
        failure = Failure(FailureKind.RATE_LIMIT, f"Too many requests: {call.limit}.", 429)
        admission.limiter.rate_limited(failure, permit, is_submit=not call.is_poll)
        return
    permit.answered()
    slot.job_is_made()
    await asyncio.sleep(call.runs)


def granted(make: Callable[[Plan], RateLimiter], plan: Plan, scenario: list[Call]) -> list[Grant]:
    """Return what a rate limiter grants in a scenario."""
    grants: list[Grant] = []

    async def run() -> None:
        limiter = make(plan)
        if isinstance(limiter, SharedLimiter):
            await limiter.link.open()
        admission = Admission(limiter, KeyUser(plan), Hook(None))
        async with asyncio.timeout(600.0 * (len(scenario) + 2)):
            await asyncio.gather(*(carry_out(admission, *each, grants) for each in enumerate(scenario)))
        admission.close()
        if isinstance(limiter, SharedLimiter):
            await limiter.close()

    # Both wait as long after a 429, and wake at the very moment.
    with (
        patch("doitong_async.limits.limiter.random.uniform", return_value=32 * STEP),
        patch("doitong_async.limits.redis.limiter._SOON", 0.0),
    ):
        run_virtual(run())
    # At one moment, either may notice its grant first.
    return sorted(grants, key=lambda grant: (round(grant[2] / STEP), grant))


def at_redis(plan: Plan) -> SharedLimiter:
    """Return the rate limiter of the only process at a Redis of its own."""
    return SharedLimiter(KeyUser(plan), Store(FakeRedisServer().client(), "digest"), "me")


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.integers(1, 4), st.none() | st.integers(1, 9), st.lists(calls, max_size=15))
@example(3, 2, None, [Call(False, 0.0, 0.25, 6.0, True, None, None)] * 12)
@example(3, 2, 4, [Call(number % 3 == 0, number, 3.0, 6.0, True, None, None) for number in range(12)])
def test_the_same_calls_get_the_same_grants(
    rate: int, jobs: int, day: int | None, scenario: list[Call]
) -> None:
    """For any calls, answers, headers, 429s and daily limits."""
    plan = Plan.enterprise(requests_per_minute=rate, concurrent_jobs=jobs, jobs_per_day=day)
    alone, shared = granted(LocalLimiter, plan, scenario), granted(at_redis, plan, scenario)
    assert [grant[:2] for grant in shared] == [grant[:2] for grant in alone]
    assert all(abs(one[2] - other[2]) < STEP for one, other in zip(alone, shared, strict=True))
