"""The client as a user holds it: opened, used in every way, closed, and misused."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DoitongWarning,
    DownloadError,
    GenerateRequest,
    InsufficientCreditsError,
    Item,
    Outcome,
    Plan,
    RateLimitError,
    SubmitOutcomeUnknownError,
)
from doitong_async.emulator import Emulator
from doitong_async.testing import run_virtual
from tests.plain_server import HANG
from tests.virtual import now, plain, seen, until, virtual, with_emulator


@virtual
async def test_one_prompt_makes_one_picture() -> None:
    """A prompt goes in, a result comes out, and one job is charged."""
    async with with_emulator() as (doitong, emulator):
        result = await doitong.generate("a red fox", width=640, height=320)
        assert (result.type, result.provider) == ("IMAGE", "flux-pro")
        assert result.credit_cost is not None
        assert result.created_at is not None
        assert result.metadata == {"duration": None, "width": 640, "height": 320}
        assert emulator.world.charges == 1


@pytest.mark.slow
@virtual
async def test_a_thousand_jobs_at_once_keep_to_the_plan() -> None:
    """`gather` of 1,000 ends, and the server never sees more jobs or requests than the plan allows."""
    plan = Plan.enterprise(requests_per_minute=600, concurrent_jobs=40)
    async with with_emulator(plan) as (doitong, emulator):
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(1_000)))
        world = emulator.world
    assert len({result.id for result in results}) == 1_000
    assert world.charges == 1_000
    assert world.most_at_once <= 40
    assert world.most_in_window <= 600
    assert {request.http_status for request in world.seen} == {200}


@virtual
async def test_other_media_types_use_the_general_mutation() -> None:
    """Type, provider, input and options are sent unchanged; a prompt stands for the text."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, emulator):
        await doitong.generate("a sunrise", provider="kling", options={"duration": 5, "aspectRatio": "16:9"})
        await doitong.generate(type="AVATAR", provider="hedra", input={"text": "hello", "avatarId": "a-1"})
        await doitong.generate(GenerateRequest(prompt="hi", provider="elevenlabs", input={"voice": "v-1"}))
        made = [(job.type, job.provider, job.prompt) for job in emulator.world.jobs.values()]
    assert made == [
        ("VIDEO", "kling", "a sunrise"),
        ("AVATAR", "hedra", "hello"),
        ("AUDIO", "elevenlabs", "hi"),
    ]


@virtual
async def test_options_of_a_view_apply_to_its_calls_alone() -> None:
    """Each view has its own defaults; all views share connections, limits and job tracker."""
    async with with_emulator(Plan.FREE, emulator={"durations": 5.0}) as (doitong, emulator):
        view = doitong.with_options(provider="flux-krea", width=512, height=256)
        job = await view.submit("a fox")
        assert [each.id for each in doitong.jobs()] == [job.id]
        await doitong.generate("another")
        made = [(each.provider, each.width) for each in emulator.world.jobs.values()]
        assert made == [("flux-krea", 512), ("flux-pro", 1024)]
        assert emulator.world.most_at_once == 1
        await view.aclose()
        with pytest.raises(ClientClosedError):
            doitong.jobs()


@pytest.mark.parametrize("name", ["api_key", "base_url", "plan", "session"])
def test_a_view_cannot_change_what_is_shared(name: str) -> None:
    """Key, URL and plan belong to the whole client; the error lists what a view can change."""
    client = AsyncDoitong(api_key="k")
    with pytest.raises(ConfigurationError, match=f"cannot change {name}; it changes timeout"):
        client.with_options(**{name: "x"})  # type: ignore[arg-type]  # as without a type checker


@virtual
async def test_a_longer_poll_interval_is_kept() -> None:
    """`poll_interval` sets the seconds between the polls of a job."""
    async with with_emulator(emulator={"durations": 30.0}, poll_interval=10.0) as (doitong, emulator):
        await doitong.generate("a fox")
        assert [poll.at for poll in seen(emulator, "poll")] == [10.0, 20.0, 30.0]


@virtual
async def test_the_wait_for_a_slot_can_be_bounded() -> None:
    """By default it never ends; with `slot_timeout` it ends in an error, and nothing was sent."""
    async with with_emulator(Plan.FREE, emulator={"durations": 30.0}) as (doitong, emulator):
        await doitong.submit("first")
        with pytest.raises(RateLimitError, match="1 jobs at once") as caught:
            await doitong.with_options(slot_timeout=3.0).submit("second")
        assert caught.value.limit == "slot"
        assert now() == 3.0
        assert emulator.world.count("submit") == 1


@virtual
async def test_missing_credits_are_an_error_with_the_numbers() -> None:
    """The 402 is raised at once, with the credits required and available."""
    async with with_emulator(emulator={"credits": 5}) as (doitong, emulator):
        with pytest.raises(InsufficientCreditsError) as caught:
            await doitong.generate("a fox")
        assert (caught.value.credits_required, caught.value.credits_available) == (20, 5)
        assert emulator.world.count("submit") == 1


@virtual
async def test_a_bad_request_costs_no_request() -> None:
    """The error comes before a byte is sent."""
    async with with_emulator() as (doitong, emulator):
        with pytest.raises(BadRequestError, match="prompt"):
            await doitong.generate("  ")
        with pytest.raises(BadRequestError, match="put them inside"):
            await doitong.generate(GenerateRequest(prompt="x"), width=512)
        with pytest.raises(BadRequestError, match="idempotency_key"):
            await doitong.generate("x", idempotency_key="two\nlines")
        assert list(emulator.world.seen) == []


@virtual
async def test_the_answer_to_a_cancelled_submit_is_still_read(caplog: pytest.LogCaptureFixture) -> None:
    """The paid job stays known: it is tracked, and its token is in the log."""
    async with plain(seconds=6.0) as (doitong, server):
        submit = asyncio.ensure_future(doitong.submit("a fox"))
        await until(lambda: server.requests)
        submit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submit
        await asyncio.sleep(1)
        (job,) = doitong.jobs()
        assert job.token in caplog.text
        assert (await job).id in server.jobs


@virtual
async def test_cancelling_a_submit_that_waits_for_a_slot_leaves_nothing() -> None:
    """Nothing was sent, so there is no answer to read; the slot goes to the next waiter."""
    async with with_emulator(Plan.FREE, emulator={"durations": 5.0}) as (doitong, emulator):
        await doitong.submit("first")
        waiting = asyncio.ensure_future(doitong.submit("second"))
        third = asyncio.ensure_future(doitong.generate("third"))
        await asyncio.sleep(1)
        waiting.cancel()
        await third
        assert emulator.world.charges == 2


@virtual
async def test_closing_ends_the_wait_for_a_slot() -> None:
    """Those submits were not sent, and the error says so."""
    async with with_emulator(Plan.FREE, emulator={"durations": 50.0}) as (doitong, emulator):
        await doitong.submit("first")
        waiting = asyncio.ensure_future(doitong.submit("second"))
        await asyncio.sleep(1)
        await doitong.aclose()
        with pytest.raises(ClientClosedError):
            await waiting
        assert emulator.world.charges == 1


@virtual
async def test_closing_waits_for_a_submit_under_way(caplog: pytest.LogCaptureFixture) -> None:
    """It reads the answer, and the caller or the log gets the job's token."""
    async with plain(seconds=6.0) as (doitong, server):
        submit = asyncio.ensure_future(doitong.submit("a fox"))
        await until(lambda: server.requests)
        await doitong.aclose()
        assert (await submit).id in server.jobs


@virtual
async def test_draining_lets_the_jobs_end_first() -> None:
    """`aclose(drain=…)` waits for jobs in flight, but not longer than the given seconds."""
    async with with_emulator(emulator={"durations": lambda number: 5.0 if number == 0 else 1e6}) as (
        doitong,
        _,
    ):
        quick, endless = await doitong.submit("quick"), await doitong.submit("endless")
        await doitong.aclose(drain=20.0)
        assert now() == 20.0
        assert (quick.status, endless.status) == ("completed", "processing")
        assert (await quick).id == quick.id


@virtual
async def test_a_users_session_is_used_and_left_open() -> None:
    """Its settings do not affect the client: `raise_for_status` changes nothing here."""
    async with aiohttp.ClientSession(raise_for_status=True, headers={"X-Mine": "yes"}) as session:
        async with with_emulator(emulator={"durations": 0.0}, session=session) as (doitong, emulator):
            result = await doitong.generate("a fox", width=64, height=64)
            assert await result.read()
            assert all(request.headers["X-Mine"] == "yes" for request in emulator.world.seen)
        assert not session.closed


@virtual
async def test_a_session_with_credentials_is_an_error() -> None:
    """They would replace the key; the error names the setting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("me", "pass"))
    async with session, with_emulator(session=session) as (doitong, emulator):
        with pytest.raises(ConfigurationError, match="auth"):
            await doitong.generate("a fox")
        assert list(emulator.world.seen) == []


@virtual
async def test_the_user_agent_can_be_set() -> None:
    """The default names this library."""
    async with with_emulator(emulator={"durations": 0.0}, user_agent="atelier/2") as (doitong, emulator):
        await doitong.generate("a fox")
        assert seen(emulator, "submit")[0].headers["User-Agent"] == "atelier/2"


@virtual
async def test_a_users_ca_is_accepted() -> None:
    """Every connection gets it; over plain http it has nothing to check."""
    async with with_emulator(emulator={"durations": 0.0}, ssl=ssl.create_default_context()) as (doitong, _):
        assert (await doitong.generate("a fox")).id


@virtual
async def test_an_assumed_plan_that_is_too_narrow_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A client without a plan keeps to the narrowest, and logs once if the service allows more."""
    async with (
        Emulator(plan="pro", durations=0.0) as emulator,
        AsyncDoitong(api_key="k", base_url=emulator.url) as doitong,
    ):
        await doitong.generate("one")
        await doitong.generate("two")
    assert caplog.text.count("allows 60 requests a minute") == 1


@virtual
async def test_a_given_plan_is_never_questioned(caplog: pytest.LogCaptureFixture) -> None:
    """A share of a plan is narrower than the headers say, on purpose."""
    async with with_emulator(emulator={"durations": 0.0}, plan=Plan.PRO.share(6)) as (doitong, _):
        await doitong.generate("one")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_misusing_a_client_is_an_error() -> None:
    """Used before it opens, opened twice, used after it closed: each error says which."""

    async def misuse() -> None:
        client = AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9")
        with pytest.raises(ClientClosedError, match="not open yet"):
            await client.generate("a fox")
        async with client:
            with pytest.raises(ConfigurationError, match="open already"):
                await client.__aenter__()
        with pytest.raises(ClientClosedError, match="closed"):
            await client.generate("a fox")
        await client.aclose()

    virtual(misuse)()


def test_a_client_belongs_to_the_loop_it_was_opened_on() -> None:
    """On another loop it raises instead of hanging on sockets that nobody reads."""
    client = AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9")
    runner = asyncio.Runner()
    runner.run(client.__aenter__())
    with pytest.raises(ConfigurationError, match="another event loop"):
        run_virtual(client.generate("a fox"))
    runner.run(client.aclose())
    runner.close()


@contextmanager
def served_elsewhere() -> Iterator[str]:
    """Yield the root of an emulator on its own loop in a thread, which outlives the client's loops."""
    opened: queue.Queue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve() -> None:
        async with Emulator(plan="pro", durations=0.0) as emulator:
            end = asyncio.Event()
            opened.put((emulator.url, asyncio.get_running_loop(), end))
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, loop, end = opened.get(timeout=300)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("is_sudden", [False, True])
@pytest.mark.parametrize("with_batch", [False, True])
def test_a_client_whose_loop_died_opens_on_the_next_one(
    is_sudden: bool, with_batch: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes along its views and ledgers, without a warning about what stayed open on the closed loop."""
    prompts = [f"fox {number}" for number in range(6)]
    left: list[AsyncIterator[Item]] = []

    async def leave(client: AsyncDoitong) -> None:
        await client.__aenter__()
        await client.generate("a fox")
        if with_batch:
            left.append(aiter(client.generate_many(prompts, ledger=tmp_path / "l.db")))
            assert (await anext(left[0])).outcome is Outcome.DONE

    async def continue_on_next_loop(client: AsyncDoitong, view: AsyncDoitong) -> int:
        for use in (client.submit("too early"), view.generate("too early")):
            with pytest.raises(ClientClosedError, match="loop that the client was open on is closed"):
                await use
        async with view:
            assert (await client.generate("a hare")).id
            items = [item async for item in client.generate_many(prompts, ledger=tmp_path / "l.db")]
            with pytest.raises(ConfigurationError, match="open already"):
                await client.__aenter__()
        with pytest.raises(ClientClosedError, match="client is closed"):
            await client.generate("too late")
        return len([item for item in items if item.outcome is Outcome.DONE])

    with served_elsewhere() as url:
        client = AsyncDoitong(api_key="k-dead", base_url=url, plan=Plan.PRO)
        view = client.with_options(timeout=60.0)
        loop = asyncio.new_event_loop()
        if is_sudden:
            loop.run_until_complete(leave(client))
            loop.close()
        else:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(leave(client))
        assert repr(client).endswith("pro not open>")
        assert asyncio.run(continue_on_next_loop(client, view)) == 6
        assert repr(view).endswith("pro closed>")
        left.clear()
        gc.collect()
    # Warnings about submits that the end of the first loop cut off are allowed here.
    assert "Unclosed" not in caplog.text
    assert "destroyed" not in caplog.text


def test_a_client_whose_loop_died_can_be_closed_on_another() -> None:
    """It cannot end in order on the closed loop, yet it leaves nothing open."""

    async def closed(client: AsyncDoitong) -> None:
        await client.aclose()
        with pytest.raises(ClientClosedError):
            await client.generate("a fox")

    client = AsyncDoitong(api_key="k", base_url="http://127.0.0.1:9")
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.__aenter__())
    loop.close()
    asyncio.run(closed(client))
    gc.collect()


def test_two_runs_in_a_row_work() -> None:
    """Nothing of one event loop leaks into the next."""

    async def once() -> str:
        async with with_emulator(emulator={"durations": 0.0, "seed": 7}) as (doitong, _):
            return (await doitong.generate("a fox")).id

    assert asyncio.run(once()) == asyncio.run(once())


def test_the_key_is_in_no_repr() -> None:
    """No part of it is in the client's repr or its attributes."""
    client = AsyncDoitong(api_key="sk-very-secret", plan="pro")
    assert repr(client) == "<AsyncDoitong https://api.doitong.com pro not open>"
    assert "secret" not in repr(vars(client))


def test_a_version_of_another_provider_causes_a_warning() -> None:
    """It is sent anyway, since the catalog may be older than the service."""
    with pytest.warns(DoitongWarning, match="flux-kontext"):
        GenerateRequest(prompt="x", provider="flux-pro", version="flux-kontext-max")


@virtual
async def test_a_submit_that_is_not_sent_ends_with_its_caller() -> None:
    """Whether it waits for a permit or out a 429, no job is made for a caller that has left."""
    slow_down = b"HTTP/1.1 429 Slow\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n"
    async with plain(Plan.FREE, seconds=1.0) as (doitong, server):
        server.script = lambda kind, nth: slow_down if kind == "submit" else None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await doitong.generate("a fox")
        server.script = lambda kind, nth: None
        await asyncio.sleep(120)
        assert server.jobs == {}
        assert doitong._running().limiter.slots_taken == 0


@virtual
async def test_two_calls_with_one_key_share_one_job() -> None:
    """Both callers get it, and its slot is free afterwards."""
    async with plain(seconds=5.0) as (doitong, server):
        results = await asyncio.gather(*(doitong.generate("a fox", idempotency_key="one") for _ in range(2)))
        assert {result.id for result in results} == server.jobs.keys()
        assert doitong._running().limiter.slots_taken == 0


@virtual
async def test_closing_cuts_off_an_unanswered_submit() -> None:
    """After 10 s its caller gets an unknown outcome, not a cancellation."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: HANG
        submit = asyncio.ensure_future(doitong.submit("a fox", idempotency_key="mine"))
        await until(lambda: server.requests)
        await doitong.aclose()
        assert now() == 10.0
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await submit
        assert caught.value.idempotency_key == "mine"


@virtual
async def test_nothing_is_sent_after_closing_begins() -> None:
    """Neither new submits nor waiting ones."""
    async with plain(Plan.FREE, seconds=50.0) as (doitong, server):
        await doitong.submit("first")
        waiting = asyncio.ensure_future(doitong.submit("second"))
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(doitong.aclose())
        await asyncio.sleep(0)
        with pytest.raises(ClientClosedError):
            await doitong.submit("third")
        await closing
        with pytest.raises(ClientClosedError):
            await waiting
        assert len(server.jobs) == 1


@virtual
async def test_a_cancelled_close_continues_and_can_be_awaited_again() -> None:
    """It never leaves a half-closed client."""
    async with plain() as (doitong, server):
        server.script = lambda kind, nth: HANG
        submit = asyncio.ensure_future(doitong.submit("a fox"))
        await until(lambda: server.requests)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await doitong.aclose()
        await doitong.aclose()
        assert now() == 10.0
        with pytest.raises(SubmitOutcomeUnknownError):
            await submit


@virtual
async def test_draining_waits_for_submits_as_well() -> None:
    """Both those in the queue and those under way."""
    async with with_emulator(Plan.FREE, emulator={"durations": 3.0}) as (doitong, emulator):
        work = [asyncio.ensure_future(doitong.generate(f"fox {n}")) for n in range(3)]
        await asyncio.sleep(0)
        await doitong.aclose(drain=600.0)
        assert len({result.id for result in await asyncio.gather(*work)}) == 3
        assert emulator.world.charges == 3


@virtual
async def test_a_cancelled_generate_leaves_its_token_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise nobody would know the job."""
    async with with_emulator(emulator={"durations": 30.0}) as (doitong, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await doitong.generate("a fox")
        (job,) = doitong.jobs()
        assert job.token in caplog.text


@virtual
async def test_a_session_closed_by_its_owner_is_an_error() -> None:
    """Submits, polls and downloads raise it, and no job is lost."""
    session = aiohttp.ClientSession()
    async with with_emulator(emulator={"durations": 5.0}, session=session) as (doitong, emulator):
        done = await doitong.generate("one")
        job = await doitong.submit("two")
        await session.close()
        with pytest.raises(ConfigurationError, match="closed"):
            await doitong.generate("three")
        with pytest.raises(ConfigurationError, match="closed"):
            await job
        with pytest.raises(DownloadError, match="closed"):
            await done.read()
        assert emulator.world.charges == 2
    with pytest.raises(ConfigurationError, match="session"):
        await AsyncDoitong(api_key="k", session=session).__aenter__()


@virtual
async def test_an_environment_proxy_is_used_if_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes to the proxy, the only server that listens."""
    async with Emulator(durations=0.0) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        elsewhere = "http://127.0.0.9:9"
        async with AsyncDoitong(api_key="k", base_url=elsewhere, trust_env=True) as doitong:
            assert (await doitong.generate("a fox")).id
        assert proxy.world.charges == 1
        async with AsyncDoitong(api_key="k", base_url=elsewhere) as doitong:
            with pytest.raises(ConnectionFailedError):
                await doitong.generate("a fox")
