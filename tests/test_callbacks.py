"""What user callbacks raise, at every event: no job is lost, and the user's exception arrives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    Budget,
    ConfigurationError,
    DoitongWarning,
    Plan,
    Result,
    SubmitOutcomeUnknownError,
)
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.emulator.world import World
from doitong_async.events import (
    Event,
    Hook,
    JobFinished,
    JobLetGo,
    JobTracked,
    LimitLowered,
    RequestEnded,
    RequestSent,
    SlotExpired,
    StatusChanged,
    SubmitAttempted,
    WaitBegan,
    WaitEnded,
    WebhookReceived,
)
from doitong_async.jobs.job import AsyncJob
from doitong_async.limits.credits import Credits
from doitong_async.limits.limiter import RateLimiter
from doitong_async.testing import run_virtual
from doitong_async.webhooks.handler import Response, WebhookHandler
from doitong_async.webhooks.serving import free_port, served
from tests.strides import offset
from tests.virtual import now, plain, until, virtual, with_emulator
from tests.webhooks.bodies import SECRET, signed, webhook_body
from tests.webhooks.test_handler import Endpoint, request

STRIDE = 3
"""Of the events at which a callback may raise, the sweep takes every third."""
ONE = Plan.enterprise(requests_per_minute=20, concurrent_jobs=1)
MANY = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
FAULTS = ["submit 2: cut-after", "submit 3: 429-minute retry-after=3", "poll 2: 502"]
OF_A_JOB = {
    *(RequestSent, RequestEnded, SubmitAttempted, JobTracked, StatusChanged, JobFinished, JobLetGo),
    *(WaitBegan, WaitEnded),
}
EVENTS = {
    False: OF_A_JOB,
    True: {*OF_A_JOB, WebhookReceived},
}


class Mine(BaseException):
    """Derives from BaseException, as what `pytest.fail` raises."""


class Breaking:
    """An `on_event` that keeps events and raises once, at the first one that matches."""

    def __init__(self, error: BaseException, at: Callable[[Event], bool] | int) -> None:
        self.error = error
        self.at = at
        self.events: list[Event] = []
        self.raised_at: Event | None = None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        is_match = self.at(event) if callable(self.at) else len(self.events) > self.at
        if is_match and self.raised_at is None:
            self.raised_at = event
            raise self.error


def in_the_loop() -> list[BaseException]:
    """Collect what reaches the loop's exception handler."""
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    return errors


def is_at_rest(limiter: RateLimiter) -> bool:
    """Whether every slot and permit is back, and nobody waits for one."""
    return (
        limiter.slots_taken,
        limiter.rate.in_flight,
        limiter.waiting,
        limiter.rate.submits_in_flight,
    ) == (
        0,
        0,
        0,
        0,
    )


# Every event, every error


@contextlib.asynccontextmanager
async def open_client(
    on_event: Callable[[Event], object], *, webhooks: bool
) -> AsyncIterator[tuple[AsyncDoitong, World]]:
    """Yield a client with one slot and a service that loses an answer and fails a poll."""
    limits = PlanLimits(ONE.requests_per_minute, ONE.concurrent_jobs, ONE.jobs_per_day)
    listener = free_port()
    secret = "s" if webhooks else None
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/" if webhooks else None
    emulator = Emulator(limits, durations=4.5, faults=FAULTS, over_concurrency="queue", webhook_secret=secret)
    async with emulator:
        doitong = AsyncDoitong(
            api_key="k",
            base_url=emulator.url,
            plan=ONE,
            on_event=on_event,
            webhook_url=url,
            webhook_secret=secret,
        )
        with listener:
            async with contextlib.AsyncExitStack() as stack:
                if webhooks:
                    await stack.enter_async_context(served(doitong.webhooks.aiohttp_app(), listener))
                yield await stack.enter_async_context(doitong), emulator.world


async def three_jobs(doitong: AsyncDoitong, ids: list[str]) -> list[Any]:
    """Make three jobs, one of which nobody awaits for a while, and return how each ended.

    The ids that the callers got are put into `ids`.
    """

    async def submit_and_wait() -> str:
        job = await doitong.submit("hare")
        ids.append(job.id)
        await asyncio.sleep(30)
        return (await job).id

    async def generate(number: int) -> str:
        ids.append((await doitong.generate(f"fox {number}")).id)
        return ids[-1]

    return await asyncio.gather(submit_and_wait(), *map(generate, range(2)), return_exceptions=True)


def unreported(world: World, ids: list[str], log: str) -> set[str]:
    """Return the charged jobs that neither their caller nor the log knows."""
    return {
        job.id
        for job in world.jobs.values()
        if job.id not in ids and job.id not in log and str(job.idempotency_key) not in log
    }


async def raise_once(breaking: Breaking, log: Callable[[], str], *, webhooks: bool) -> None:
    """Raise once: every job is reported, every slot comes back, and the user's exception arrives."""
    loop_errors, ids = in_the_loop(), list[str]()
    async with asyncio.timeout(3_000), open_client(breaking, webhooks=webhooks) as (doitong, world):
        limiter = doitong._running().limiter
        ends = await three_jobs(doitong, ids)
        where = f"raised at {breaking.raised_at}"
        assert unreported(world, ids, log()) == set(), where
        # Longer than a slot is kept in doubt.
        await asyncio.sleep(200)
        assert is_at_rest(limiter), where
        breaking.at = lambda _: False
        assert (await doitong.generate("the poller is alive")).url
        assert is_at_rest(limiter), where
    thrown = [each for each in [*ends, *loop_errors] if each is breaking.error]
    if breaking.raised_at is None:
        assert not thrown
    elif isinstance(breaking.error, Mine):
        assert len(thrown) == 1, where
    else:
        assert [type(end) for end in ends] == [str] * 3, where
        assert "on_event failed" in log()
    assert [each for each in loop_errors if each is not breaking.error] == [], where


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "webhooks"),
    [(asyncio.CancelledError, False), (RuntimeError, True), (Mine, False), (Mine, True)],
)
def test_a_callback_that_raises_loses_nothing(
    kind: type[BaseException], webhooks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At any event: each job is reported, slots and permits come back, polling continues."""
    number = offset(STRIDE)
    while True:
        caplog.clear()
        breaking = Breaking(kind("mine"), number)
        run_virtual(raise_once(breaking, lambda: caplog.text, webhooks=webhooks))
        if breaking.raised_at is None:
            break
        number += STRIDE
    assert {type(event) for event in breaking.events} >= EVENTS[webhooks]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_leaving_the_loop_leaves_no_job_unreported(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C or `sys.exit()` in a callback leaves the loop at once, after every job was reported."""
    worlds: list[World] = []
    ids: list[str]

    async def main() -> None:
        async with asyncio.timeout(3_000), open_client(breaking, webhooks=False) as (doitong, world):
            worlds.append(world)
            await three_jobs(doitong, ids)

    number = offset(STRIDE)
    while True:
        caplog.clear()
        breaking, ids = Breaking(kind("mine"), number), []
        try:
            run_virtual(main())
        except kind:
            assert unreported(worlds[-1], ids, caplog.text) == set(), f"raised at {breaking.raised_at}"
        else:
            assert breaking.raised_at is None
            break
        number += STRIDE
    # Interrupted tasks complain when they are collected; that must not happen in another test.
    gc.collect()


# Where the exception goes


def at(kind: type[Event], /, **fields: object) -> Callable[[Event], bool]:
    """Match an event by its kind and some of its fields."""
    return lambda event: (
        isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
    )


@virtual
async def test_a_job_is_tracked_before_its_submit_is_reported() -> None:
    """A callback that gets the submit finds the job, and the job has its slot."""
    known: list[list[AsyncJob]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, SubmitAttempted):
            known.append(doitong.jobs())

    async with with_emulator(MANY, on_event=on_event) as (doitong, _):
        job = await doitong.submit("a fox")
        assert known == [[job]]


@virtual
async def test_events_of_a_submit_come_in_order() -> None:
    """Even though all of them come once the job is tracked."""
    events: list[Event] = []
    async with with_emulator(MANY, emulator={"durations": 0.0}, on_event=events.append) as (doitong, _):
        await doitong.generate("a fox")
    assert [type(event) for event in events] == [
        RequestSent,
        RequestEnded,
        SubmitAttempted,
        StatusChanged,
        JobFinished,
    ]


@pytest.mark.parametrize("kind", [SubmitAttempted, JobTracked, StatusChanged])
@virtual
async def test_an_exception_about_an_accepted_submit_comes_out_of_it(
    kind: type[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the job, which runs on and keeps its slot until it ends."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(kind))) as (doitong, emulator):
        with pytest.raises(Mine):
            await doitong.submit("a fox")
        [job] = doitong.jobs()
        assert [job.id] == list(emulator.world.jobs)
        assert job.token in caplog.text
        assert doitong.stats().slots_in_use == 1
        assert (await job).url
        assert is_at_rest(doitong._running().limiter)


@virtual
async def test_an_exception_before_a_submit_is_sent_frees_everything() -> None:
    """Nothing was sent, so slot and permit come back at once."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(RequestSent))) as (doitong, emulator):
        with pytest.raises(Mine):
            await doitong.submit("a fox")
        assert emulator.world.count("submit") == 0
        assert is_at_rest(doitong._running().limiter)
        assert doitong.stats().requests_left == MANY.requests_per_minute


@virtual
async def test_an_exception_while_in_doubt_keeps_the_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the key. A submit with that key takes over the slot, even if the callback raises again."""
    breaking = Breaking(Mine(), at(SubmitAttempted, is_in_doubt=True))
    async with plain(MANY, on_event=breaking) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" else None
        limiter = doitong._running().limiter
        with pytest.raises(Mine):
            await doitong.submit("a fox", idempotency_key="my-own-key")
        assert "my-own-key" in caplog.text
        assert (limiter.slots_taken, limiter.rate.in_flight) == (1, 0)
        breaking.at, breaking.raised_at = at(RequestSent), None
        with pytest.raises(Mine):
            await doitong.submit("a fox", idempotency_key="my-own-key")
        assert (limiter.slots_taken, limiter.rate.in_flight) == (1, 0)
        server.script = lambda kind, nth: None
        assert (await doitong.generate("a fox", idempotency_key="my-own-key")).id in server.jobs
        assert len(server.jobs) == 1
        assert is_at_rest(limiter)


@pytest.mark.parametrize("kind", [WaitBegan, WaitEnded])
@virtual
async def test_an_exception_about_a_wait_gives_the_slot_back(kind: type[Event]) -> None:
    """It comes out of the call that waited, and the next waiter gets the slot."""
    async with with_emulator(ONE, on_event=Breaking(Mine(), at(kind, reason="slot"))) as (doitong, emulator):
        await doitong.submit("the first")
        ends = await asyncio.gather(
            doitong.generate("a fox"), doitong.generate("a hare"), return_exceptions=True
        )
        assert isinstance(ends[0], Mine)
        assert not isinstance(ends[1], BaseException)
        assert is_at_rest(doitong._running().limiter)
        assert emulator.world.charges == 2


@virtual
async def test_an_exception_during_a_poll_comes_out_of_the_await_of_its_job() -> None:
    """One caller gets it, once; the other jobs of that poll get their updates."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(JobFinished))) as (doitong, _):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        ends = await asyncio.gather(*(job.wait() for job in [*jobs, *jobs]), return_exceptions=True)
        assert [type(end) for end in ends].count(Mine) == 1
        assert [(await job).id for job in jobs] == [job.id for job in jobs]
        assert sum(isinstance(end, Result) for end in ends) == 5


@virtual
async def test_generate_logs_a_job_whose_update_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Its caller gets neither a result nor an error that names the job."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(JobFinished))) as (doitong, emulator):
        with pytest.raises(Mine):
            await doitong.generate("a fox")
        assert (
            f"job {next(iter(emulator.world.jobs))}, whose caller got Mine, is over: token dtj1."
            in caplog.text
        )


@pytest.mark.parametrize(
    "matching", [at(StatusChanged, status="completed"), at(RequestSent, kind="poll"), at(SlotExpired)]
)
def test_an_exception_that_nobody_awaits_reaches_the_loop(matching: Callable[[Event], bool]) -> None:
    """That poll continues, and so does polling."""

    async def main() -> None:
        errors = in_the_loop()
        breaking = Breaking(Mine(), matching)
        seconds = {"durations": lambda number: 90.0 if number else 30.0}
        async with with_emulator(MANY, emulator=seconds, on_event=breaking, slot_expiry=60.0) as (doitong, _):
            jobs = [await doitong.submit("a fox"), await doitong.submit("a slow one")]
            await asyncio.sleep(100)
            assert errors == [breaking.error]
            assert jobs[0].status == "completed"
            assert (await jobs[1]).url

    run_virtual(main())


def of_the_poller(kind: type[Event]) -> Callable[[Event], bool]:
    """Match an event that comes while the poller itself waits."""

    def matches(event: Event) -> bool:
        task = asyncio.current_task()
        return isinstance(event, kind) and task is not None and task.get_name() == "doitong poller"

    return matches


@pytest.mark.parametrize(
    "matching", [at(RequestSent, kind="poll"), of_the_poller(WaitBegan), of_the_poller(WaitEnded)]
)
def test_a_poll_is_sent_although_a_callback_raises(matching: Callable[[Event], bool]) -> None:
    """At the same moment as without the exception, on a plan where polls have to wait."""

    async def polls_at(on_event: Callable[[Event], object] | None) -> list[float]:
        two = Plan.enterprise(requests_per_minute=2, concurrent_jobs=2)
        async with with_emulator(two, on_event=on_event) as (doitong, emulator):
            jobs = [await doitong.submit("a fox"), await doitong.submit("a hare")]
            await asyncio.sleep(200)
            assert [job.status for job in jobs] == ["completed"] * 2
            assert is_at_rest(doitong._running().limiter)
            return [request.at for request in emulator.world.seen if request.kind == "poll"]

    async def main() -> None:
        errors, breaking = in_the_loop(), Breaking(Mine(), matching)
        assert await polls_at(breaking) == usual
        assert errors == [breaking.error]

    usual = run_virtual(polls_at(None))
    run_virtual(main())


@virtual
async def test_an_exception_during_a_refresh_comes_out_of_it() -> None:
    """The user called it."""
    async with with_emulator(
        MANY, emulator={"durations": 1.0}, on_event=Breaking(Mine(), at(JobFinished))
    ) as (
        doitong,
        _,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(1.5)
        with pytest.raises(Mine):
            await job.refresh()
        assert job.status == "completed"


@virtual
async def test_an_exception_during_a_webhook_comes_out_of_the_await_of_its_job() -> None:
    """The delivery itself is acknowledged, because the update was taken."""
    breaking = Breaking(Mine(), at(WebhookReceived))
    async with with_emulator(
        MANY, emulator={"durations": 99.0}, on_event=breaking, webhook_secret=SECRET
    ) as (
        doitong,
        _,
    ):
        job = await doitong.submit("a fox")
        waits = asyncio.ensure_future(job.wait())
        await asyncio.sleep(1)
        body = webhook_body(job.id)
        await doitong.webhooks.deliver(body, signed(body))
        with pytest.raises(Mine):
            await waits
        assert job.status == "completed"


@virtual
async def test_a_resumed_job_is_tracked_although_its_update_raises() -> None:
    """`doitong.job` raises what the callback raised, after the job has its slot."""
    async with with_emulator(MANY, emulator={"durations": 5.0}) as (doitong, emulator):
        token = (await doitong.submit("a fox")).token
        breaking = Breaking(Mine(), at(WebhookReceived))
        async with AsyncDoitong(
            api_key="another", base_url=emulator.url, on_event=breaking, webhook_secret="s"
        ) as other:
            other.webhooks._unmatched.keep((await doitong.job(token).refresh()), now())
            with pytest.raises(Mine):
                other.job(token)
            assert [job.token for job in other.jobs()] == [token]


def test_an_exception_of_an_abandoned_submit_reaches_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Its caller was cancelled and no longer awaits it."""

    async def main() -> None:
        errors = in_the_loop()
        breaking = Breaking(Mine(), at(SubmitAttempted))
        async with with_emulator(MANY, emulator={"faults": ["submit: latency 5"]}, on_event=breaking) as (
            doitong,
            emulator,
        ):
            submit = asyncio.ensure_future(doitong.submit("a fox"))
            await until(lambda: emulator.world.count("submit"))
            submit.cancel()
            await asyncio.sleep(10)
            assert errors == [breaking.error]
            assert next(iter(emulator.world.jobs)) in caplog.text

    run_virtual(main())


def test_an_exception_for_a_cancelled_caller_reaches_the_loop() -> None:
    """The cancel comes in the very loop step in which its `await` would have raised."""

    async def main() -> None:
        errors = in_the_loop()
        async with with_emulator(MANY) as (doitong, _):
            job = await doitong.submit("a fox")
            waits = asyncio.ensure_future(job.wait())
            await asyncio.sleep(1)
            error = Mine()
            assert job._tracked.throw(error)
            waits.cancel()
            await asyncio.wait([waits])
            await asyncio.sleep(0)
            assert (waits.cancelled(), errors) == (True, [error])
            assert not job._tracked.throw(error)

    run_virtual(main())


def test_draining_does_not_swallow_the_users_exception() -> None:
    """It waits for jobs on the user's behalf, and finishes."""

    async def main() -> None:
        errors = in_the_loop()
        breaking = Breaking(Mine(), at(JobFinished))
        async with with_emulator(MANY, on_event=breaking) as (doitong, _):
            await doitong.submit("a fox")
            await doitong.aclose(drain=60)
        assert errors == [breaking.error]

    run_virtual(main())


def test_an_exception_in_a_hook_of_the_users_session_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It leaves a submit in doubt, with its key in the log; from a poll it reaches the loop."""
    breaks_at: list[str] = []

    async def answered(_: object, __: object, end: aiohttp.TraceRequestEndParams) -> None:
        kind = "submit" if "Idempotency-Key" in end.response.request_info.headers else "poll"
        if kind in breaks_at:
            breaks_at.remove(kind)
            raise Mine

    async def main() -> None:
        errors, trace = in_the_loop(), aiohttp.TraceConfig()
        trace.on_request_end.append(answered)
        async with (
            aiohttp.ClientSession(trace_configs=[trace]) as session,
            with_emulator(MANY, session=session) as (doitong, emulator),
        ):
            breaks_at.append("submit")
            with pytest.raises(Mine):
                await doitong.submit("a fox", idempotency_key="my-own-key")
            assert "my-own-key" in caplog.text
            assert doitong.stats().slots_in_use == emulator.world.charges == 1
            breaks_at.append("poll")
            assert (await doitong.generate("a fox", idempotency_key="my-own-key")).url
            assert [type(error) for error in errors] == [Mine]
            assert emulator.world.charges == 1
            assert is_at_rest(doitong._running().limiter)

    run_virtual(main())


# Batches


@pytest.mark.parametrize(
    "matching",
    [
        *(at(RequestSent, kind="submit"), at(SubmitAttempted), at(StatusChanged, status="processing")),
        *(at(StatusChanged, status="completed"), at(JobFinished)),
    ],
)
@virtual
async def test_a_batch_raises_the_users_exception(
    matching: Callable[[Event], bool], caplog: pytest.LogCaptureFixture
) -> None:
    """The loop over its items raises it; without a ledger the log names the job."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), matching)) as (doitong, emulator):
        with pytest.raises(Mine):
            async for _ in doitong.generate_many(["a fox"]):
                pass
        assert unreported(emulator.world, [], caplog.text) == set()
        await asyncio.sleep(200)
        assert is_at_rest(doitong._running().limiter)


def test_an_exception_in_an_abandoned_batch_reaches_the_loop() -> None:
    """Nobody takes its items any more, but it still reads answers."""

    async def main() -> None:
        errors, is_left = in_the_loop(), asyncio.Event()
        breaking = Breaking(Mine(), lambda event: isinstance(event, SubmitAttempted) and is_left.is_set())
        rules = {"faults": ["submit 2: latency 3"], "durations": 0.0}
        async with with_emulator(MANY, emulator=rules, on_event=breaking) as (doitong, _):
            batch = doitong.batch(["a fox", "a hare"])
            async with batch:
                async for _item in batch:
                    is_left.set()
                    break
            await asyncio.sleep(1)
            assert errors == [breaking.error]

    run_virtual(main())


@pytest.mark.parametrize("kind", [Mine, SystemExit])
def test_an_exception_in_on_low_comes_out_of_the_batch(kind: type[BaseException]) -> None:
    """It interrupts no item; the loop over the items raises it."""

    def on_low(left: float) -> None:
        raise kind(left)

    async def main() -> None:
        async with with_emulator(MANY, emulator={"durations": 2.0}) as (doitong, emulator):
            emulators.append(emulator)
            budget = Budget(30, low_at=0.9, on_low=on_low)
            items = doitong.generate_many([{"prompt": "a fox", "width": 512, "height": 512}], budget=budget)
            async for _ in items:
                pass

    emulators: list[Emulator] = []
    with pytest.raises(kind):
        run_virtual(main())
    gc.collect()


def test_an_exception_in_on_low_comes_out_where_no_loop_runs() -> None:
    """The credits are counted by then."""

    def on_low(left: float) -> None:
        raise Mine

    credits_ = Credits(Budget(10, on_low=on_low))
    with pytest.raises(Mine):
        credits_.at_once(10)
    assert credits_.tracker.reserved == 10


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError])
def test_an_error_in_on_low_is_logged(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """It does no other harm."""

    def on_low(left: float) -> None:
        raise kind(left)

    assert Credits(Budget(10, on_low=on_low)).at_once(10)
    assert "on_low failed at 0 credits left" in caplog.text


# Async callbacks


async def a_coroutine(_: object) -> None:
    """Never run."""


async def an_async_generator(_: object) -> AsyncGenerator[int, None]:
    yield 1


def a_generator(_: object) -> Iterator[int]:
    yield 1


class Awaited:
    async def __call__(self, _: object) -> None:
        """Never run."""

    async def method(self, _: object) -> None:
        """Never run."""


NEVER_RUN = [
    *(a_coroutine, an_async_generator, a_generator, Awaited(), Awaited().method),
    *(functools.partial(a_coroutine), functools.partial(functools.partial(Awaited())), asyncio.Queue.put),
]


@pytest.mark.parametrize("callback", [*NEVER_RUN, 7, "print"])
def test_an_async_callback_is_an_error(callback: Any) -> None:
    """It would never run: client and budget raise at once and say what to do instead."""
    says = "expected a function" if not callable(callback) else r"=queue\.put_nowait .*in your own task"
    with pytest.raises(ConfigurationError, match=f"on_event .*{says}"):
        AsyncDoitong(api_key="k", on_event=callback)
    with pytest.raises(ConfigurationError, match=f"on_low .*{says}"):
        Budget(10, on_low=callback)


@virtual
async def test_the_queue_that_the_error_suggests_works() -> None:
    """`on_event=queue.put_nowait`, read by a task of the user's."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    async with with_emulator(MANY, on_event=queue.put_nowait) as (doitong, _):
        await doitong.generate("a fox")
    assert queue.qsize() >= 5


@virtual
async def test_an_awaitable_that_a_callback_returns_is_closed_and_warned_about_once() -> None:
    """A coroutine would never run; a task or a future runs by itself and belongs to its owner."""
    hook = Hook(lambda _: a_coroutine(_))
    with pytest.warns(DoitongWarning, match="on_event returned a coroutine, which nobody awaits") as seen:
        hook(RequestSent(kind="poll", jobs=1))
    hook(RequestSent(kind="poll", jobs=1))
    hook.aside(RequestSent(kind="poll", jobs=1))
    assert len(seen) == 1
    with pytest.warns(DoitongWarning, match="async_generator"):
        Hook(lambda _: an_async_generator(_))(RequestSent(kind="poll", jobs=1))
    task = asyncio.ensure_future(a_coroutine(None))
    Hook(lambda _: task)(RequestSent(kind="poll", jobs=1))
    await task


@virtual
async def test_a_broken_log_handler_does_no_harm() -> None:
    """The user's handler for the log of a broken callback may break as well."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("no space left")

    handler = Broken(logging.ERROR)
    logging.getLogger("doitong_async").addHandler(handler)
    try:
        async with with_emulator(MANY, on_event=Breaking(RuntimeError("mine"), at(StatusChanged))) as (
            doitong,
            _,
        ):
            assert (await doitong.generate("a fox")).url
    finally:
        logging.getLogger("doitong_async").removeHandler(handler)


# The durable hook of webhooks


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError, Mine])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failed_durable_hook_is_called_again(kind: type[BaseException], is_async: bool) -> None:
    """The service gets 503, the update is taken, and the user's exception then reaches the loop."""

    def broken(_: object) -> None:
        raise kind("mine")

    async def broken_later(_: object) -> None:
        raise kind("mine")

    async def main() -> None:
        errors, endpoint = in_the_loop(), Endpoint()
        handler = WebhookHandler(endpoint.accept, broken_later if is_async else broken)
        assert await handler.answer(request()) == Response(503)
        assert len(endpoint.taken) == 1
        await asyncio.sleep(0)
        assert [type(error) for error in errors] == [Mine] * (kind is Mine)

    asyncio.run(main())


@pytest.mark.parametrize("callback", [7, a_generator, an_async_generator, functools.partial(a_generator)])
def test_a_durable_hook_that_would_never_run_is_an_error(callback: Any) -> None:
    """Its webhook would be acknowledged with nothing done. An async hook is awaited."""
    webhooks = AsyncDoitong(api_key="k", webhook_secret="s").webhooks
    for app in (webhooks.aiohttp_app, webhooks.asgi_app):
        with pytest.raises(ConfigurationError, match="on_event is"):
            app(on_event=callback)
        app(on_event=a_coroutine)


class _Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the log is down")


@virtual
async def test_a_submit_in_doubt_survives_a_broken_log_handler() -> None:
    """The key is in the error, and the slot comes back."""
    handler = _Broken()
    logging.getLogger("doitong_async").addHandler(handler)
    try:
        async with plain(Plan.FREE, seconds=1.0, max_attempts=1) as (doitong, server):
            server.script = lambda kind, nth: "cut-after" if (kind, nth) == ("submit", 1) else None
            with pytest.raises(SubmitOutcomeUnknownError) as caught:
                await doitong.generate("a fox", idempotency_key="mine")
            assert caught.value.idempotency_key == "mine"
            assert (await doitong.generate("a hare")).id in server.jobs
    finally:
        logging.getLogger("doitong_async").removeHandler(handler)


@virtual
async def test_an_event_about_the_limits_cannot_lose_the_job_of_its_answer() -> None:
    """The header comes with the answer to a submit, which is about a paid job."""
    raised: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    limits = PlanLimits(30, 10, 1_000)
    callback = Breaking(Mine(), at(LimitLowered))
    async with with_emulator(MANY, emulator={"plan": limits, "durations": 3.0}, on_event=callback) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        assert (await job).id == job.id
        assert emulator.charges == 1
    assert [type(error) for error in raised] == [Mine]
