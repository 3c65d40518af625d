"""An account out of credits: few submits meet the 402, the others are not sent, and one finds out later."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    InsufficientCreditsError,
    Outcome,
    Plan,
    Result,
    SubmitOutcomeUnknownError,
)
from doitong_async.limits import admission
from tests.batch.test_runner import all_of, outcomes
from tests.plain_server import HANG, Behaviour, http
from tests.virtual import ends_of, now, plain, seen, virtual, with_emulator

WIDE = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)


@virtual
async def test_of_a_hundred_submits_those_in_flight_meet_the_402_and_the_others_are_not_sent() -> None:
    """Credits for two: two jobs, eight 402s, and nothing for the other ninety, as the plan has ten slots."""
    async with with_emulator(emulator={"credits": 45}) as (doitong, emulator):
        waiting = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(100)]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert len(seen(emulator, "submit")) == 10
        assert emulator.world.charges == 2
        assert Counter(map(type, ends)) == {Result: 2, InsufficientCreditsError: 98}
        errors = [end for end in ends if isinstance(end, InsufficientCreditsError)]
        assert Counter(error.http_status for error in errors) == {402: 8, None: 90}
        for error in errors:
            is_sent = error.http_status is not None
            assert error.credits_available == 5
            assert error.credits_required == (20 if is_sent else None)
            assert ("Not sent" in str(error)) != is_sent
            assert "othing was charged" in str(error)
            assert (error.retry_after is None) == is_sent


@pytest.mark.parametrize("errors_with_200", [False, True])
@virtual
async def test_those_who_wait_for_the_minute_learn_at_once_too(errors_with_200: bool) -> None:
    """They hold a slot already, and would have waited for the better part of a minute."""
    plan = Plan.enterprise(requests_per_minute=5, concurrent_jobs=50)
    behaviour = Behaviour(errors_with_200=errors_with_200)
    body = {"errors": [{"message": "no", "extensions": {"code": "INSUFFICIENT_CREDITS"}}]}
    rejected = http(200 if errors_with_200 else 402, json.dumps(body).encode(), "application/json", {})
    async with plain(plan, behaviour=behaviour) as (doitong, server):
        server.script = lambda kind, nth: rejected if kind == "submit" else None
        ends = await ends_of(*(doitong.submit(f"fox {n}") for n in range(30)))
        assert ends == {InsufficientCreditsError: 30}
        assert len(server.requests) <= 5
        assert now() == 0.0
        assert doitong.stats().slots_in_use == 0


@virtual
async def test_after_half_a_minute_one_submit_finds_out() -> None:
    """Until then nothing is sent; then one submit is, and its 402 sends the others away again."""
    async with with_emulator(emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        await asyncio.sleep(29.9)
        assert await ends_of(*(doitong.generate("a fox") for _ in range(20))) == {
            InsufficientCreditsError: 20
        }
        assert len(seen(emulator, "submit")) == 1
        await asyncio.sleep(0.1)
        assert await ends_of(*(doitong.generate("a fox") for _ in range(20))) == {
            InsufficientCreditsError: 20
        }
        assert len(seen(emulator, "submit")) == 2
        await asyncio.sleep(29.9)
        with pytest.raises(InsufficientCreditsError, match="Not sent"):
            await doitong.generate("a fox")
        assert doitong.stats().slots_in_use == 0


@virtual
async def test_once_a_probe_is_accepted_those_who_waited_for_its_answer_are_sent() -> None:
    """They come while it is out, and wait for as long as it takes."""
    async with with_emulator(emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        emulator.world._accounts["k-test"].balance = 10_000
        await asyncio.sleep(30)
        emulator.faults.extend(["submit: latency 3"])
        waiting = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(30)]
        await asyncio.sleep(2)
        assert len(seen(emulator, "submit")) == 2
        assert doitong.stats().waiting == {"credits": 9, "slot": 20}
        await asyncio.gather(*waiting)
        assert emulator.world.charges == 30
        assert emulator.world.most_at_once <= 10


@pytest.mark.parametrize("answer", [HANG, "cut", http(400, b'{"errors": [{"message": "bad"}]}', "a/b", {})])
@virtual
async def test_a_probe_that_tells_nothing_is_followed_by_the_next(answer: bytes | str) -> None:
    """It may hang, break off, or be wrong by itself."""
    async with plain(WIDE, seconds=1.0, request_timeout=5.0, max_attempts=1) as (doitong, server):
        answers: dict[int, bytes | str] = {1: http(402, b"", "application/json", {}), 2: answer}
        server.script = lambda kind, nth: answers.get(nth) if kind == "submit" else None
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        await asyncio.sleep(30)
        ends = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(4)), return_exceptions=True)
        assert [type(end) for end in ends[1:]] == [Result] * 3
        assert isinstance(ends[0], BadRequestError | SubmitOutcomeUnknownError)


@virtual
async def test_a_probe_whose_caller_leaves_is_followed_by_the_next() -> None:
    """Nothing was sent for it yet."""
    plan = Plan.enterprise(requests_per_minute=1, concurrent_jobs=4)
    async with with_emulator(plan, emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError):
            await doitong.submit("a fox")
        emulator.world._accounts["k-test"].balance = 10_000
        await asyncio.sleep(30)
        waiting = [asyncio.ensure_future(doitong.submit(f"fox {n}")) for n in range(2)]
        await asyncio.sleep(10)
        waiting[0].cancel()
        assert (await waiting[1]).id in emulator.world.jobs
        assert emulator.world.charges == 1


@virtual
async def test_a_submit_in_doubt_is_resent_while_the_circuit_is_open() -> None:
    """It may have been charged already: its answer brings a job, and not another charge."""
    async with plain(WIDE, seconds=1.0) as (doitong, server):
        answers: dict[int, bytes | str] = {1: "cut-after", 2: http(402, b"", "application/json", {})}
        server.script = lambda kind, nth: answers.get(nth) if kind == "submit" else None
        first, second = await asyncio.gather(
            doitong.generate("a fox"), doitong.generate("a hare"), return_exceptions=True
        )
        assert isinstance(first, Result)
        assert isinstance(second, InsufficientCreditsError)
        assert now() < 10
        assert len(server.jobs) == 1


@virtual
async def test_clients_of_one_key_share_the_circuit() -> None:
    """Also one that opens after the others have closed; another key has an account of its own."""
    async with with_emulator(emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        await doitong.aclose()
        for key, submits in (("k-test", 1), ("k-other", 2)):
            async with AsyncDoitong(api_key=key, base_url=emulator.url, plan=Plan.PRO) as other:
                with pytest.raises(InsufficientCreditsError):
                    await other.generate("a fox")
            assert len(seen(emulator, "submit")) == submits
        await asyncio.sleep(600)
        async with AsyncDoitong(api_key="k-test", base_url=emulator.url, plan=Plan.PRO) as later:
            await ends_of(*(later.generate("a fox") for _ in range(9)))
        assert len(seen(emulator, "submit")) == 3


@virtual
async def test_the_key_of_a_402_is_forgotten_in_the_end() -> None:
    """A service with many users does not remember each of their keys."""
    async with with_emulator(emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        await doitong.aclose()
        await asyncio.sleep(3_700)
        async with AsyncDoitong(api_key="k-other", base_url=emulator.url, plan=Plan.PRO):
            assert len(admission._LIMITERS[asyncio.get_running_loop()]) == 1


@virtual
async def test_stats_tell_the_balance_that_the_service_last_named() -> None:
    """And how old that is; before, nobody knows."""
    async with with_emulator(emulator={"credits": 25}) as (doitong, _):
        await doitong.generate("a fox")
        assert (doitong.stats().credits_available, doitong.stats().credits_available_age) == (None, None)
        with pytest.raises(InsufficientCreditsError):
            await doitong.generate("a fox")
        await asyncio.sleep(12)
        assert (doitong.stats().credits_available, doitong.stats().credits_available_age) == (5, 12)


@virtual
async def test_a_batch_stops_when_the_account_is_out_of_credits() -> None:
    """With the service's message, whichever item learns of it first."""
    async with with_emulator(WIDE, emulator={"credits": 45}) as (doitong, emulator):
        batch = doitong.batch([f"fox {number}" for number in range(30)])
        items = await all_of(batch)
        assert outcomes(items) == {Outcome.DONE: 2, Outcome.SKIPPED: 28}
        assert len(seen(emulator, "submit")) <= WIDE.concurrent_jobs + 2
        stopped = batch.progress().stopped
        assert isinstance(stopped, InsufficientCreditsError)
        assert (stopped.credits_available, stopped.code) == (5, "INSUFFICIENT_CREDITS")
        assert "Insufficient credits for this operation" in str(stopped)
        assert doitong.stats().slots_in_use == 0
