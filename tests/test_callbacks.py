"""What the user's callbacks raise, at every event: nothing is lost, and what is the user's arrives."""

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
from doitong_async.budget import BudgetTracker
from doitong_async.emulator import Emulator, PlanLimits
from doitong_async.emulator.world import World
from doitong_async.events import (
    Event,
    Hook,
    JobFinished,
    RequestSent,
    SlotExpired,
    StatusChanged,
    SubmitAttempted,
    WaitBegan,
    WaitEnded,
    WebhookReceived,
)
from doitong_async.jobs.job import AsyncJob
from doitong_async.limits.limiter import RateLimiter
from doitong_async.testing import run_virtual
from doitong_async.webhooks.handler import Response, WebhookHandler
from doitong_async.webhooks.serving import free_port, served
from tests.strides import offset
from tests.virtual import now, plain, until, virtual, with_emulator
from tests.webhooks.bodies import SECRET, signed, webhook_body
from tests.webhooks.test_handler import Endpoint, request

STRIDE = 3
"""Of the events at which a callback may raise, every third is tried."""
ONE = Plan.enterprise(requests_per_minute=20, concurrent_jobs=1)
MANY = Plan.enterprise(requests_per_minute=6_000, concurrent_jobs=4)
FAULTS = ["submit 2: cut-after", "submit 3: 429-minute retry-after=3", "poll 2: 502"]
EVENTS = {
    False: {RequestSent, SubmitAttempted, StatusChanged, JobFinished, WaitBegan, WaitEnded},
    True: {RequestSent, SubmitAttempted, StatusChanged, JobFinished, WaitBegan, WaitEnded, WebhookReceived},
}


class Mine(BaseException):
    """As `pytest.fail` raises it: no `Exception`."""


class Breaking:
    """An `on_event` that keeps events, and raises once, at the first one that is meant."""

    def __init__(self, error: BaseException, at: Callable[[Event], bool] | int) -> None:
        self.error = error
        self.at = at
        self.events: list[Event] = []
        self.raised_at: Event | None = None

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        is_meant = self.at(event) if callable(self.at) else len(self.events) > self.at
        if is_meant and self.raised_at is None:
            self.raised_at = event
            raise self.error


def in_the_loop() -> list[BaseException]:
    """Collect what reaches the exception handler of the loop."""
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    return errors


def is_at_rest(limiter: RateLimiter) -> bool:
    """Whether every slot and permit is back, and nobody stands in line."""
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
async def opened(
    on_event: Callable[[Event], object], *, webhooks: bool
) -> AsyncIterator[tuple[AsyncDoitong, World]]:
    """A client on a plan for one job at a time, and a service where an answer is lost and a poll fails."""
    limits = PlanLimits(ONE.requests_per_minute, ONE.concurrent_jobs, ONE.jobs_per_day)
    place = free_port()
    secret = "s" if webhooks else None
    url = f"http://127.0.0.1:{place.getsockname()[1]}/" if webhooks else None
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
        with place:
            async with contextlib.AsyncExitStack() as stack:
                if webhooks:
                    await stack.enter_async_context(served(doitong.webhooks.aiohttp_app(), place))
                yield await stack.enter_async_context(doitong), emulator.world


async def three_jobs(doitong: AsyncDoitong, ids: list[str]) -> list[Any]:
    """Make three things, one of them by a job that nobody awaits for a while, and return how each ended.

    The ids that a caller came to know are put into `ids`.
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


def untold(world: World, ids: list[str], log: str) -> set[str]:
    """Return the jobs that were charged, and that neither their caller nor the log was told of."""
    return {
        job.id
        for job in world.jobs.values()
        if job.id not in ids and job.id not in log and str(job.idempotency_key) not in log
    }


async def story(breaking: Breaking, log: Callable[[], str], *, webhooks: bool) -> None:
    """Let a callback raise once: all is told, all is given back, and what is the user's arrives."""
    loop_errors, ids = in_the_loop(), list[str]()
    async with asyncio.timeout(3_000), opened(breaking, webhooks=webhooks) as (doitong, world):
        limiter = doitong._running().limiter
        ends = await three_jobs(doitong, ids)
        where = f"raised at {breaking.raised_at}"
        assert untold(world, ids, log()) == set(), where
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
    """At whichever event: each job is told, slots and permits come back, the polling goes on."""
    number = offset(STRIDE)
    while True:
        caplog.clear()
        breaking = Breaking(kind("mine"), number)
        run_virtual(story(breaking, lambda: caplog.text, webhooks=webhooks))
        if breaking.raised_at is None:
            break
        number += STRIDE
    assert {type(event) for event in breaking.events} >= EVENTS[webhooks]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_leaves_the_loop_leaves_nothing_untold(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C within a callback, or `sys.exit()`: the loop is left at once, and each job was told by then."""
    worlds: list[World] = []
    ids: list[str]

    async def main() -> None:
        async with asyncio.timeout(3_000), opened(breaking, webhooks=False) as (doitong, world):
            worlds.append(world)
            await three_jobs(doitong, ids)

    number = offset(STRIDE)
    while True:
        caplog.clear()
        breaking, ids = Breaking(kind("mine"), number), []
        try:
            run_virtual(main())
        except kind:
            assert untold(worlds[-1], ids, caplog.text) == set(), f"raised at {breaking.raised_at}"
        else:
            assert breaking.raised_at is None
            break
        number += STRIDE
    # What was interrupted complains when it is collected, and not within another test.
    gc.collect()


# Where it goes


def at(kind: type[Event], /, **fields: object) -> Callable[[Event], bool]:
    """Mean an event by its kind and some of its fields."""
    return lambda event: (
        isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
    )


@virtual
async def test_a_job_is_watched_before_its_submit_is_told() -> None:
    """Whoever is told of the submit finds the job, and its slot is the job's."""
    known: list[list[AsyncJob]] = []

    def look(event: Event) -> None:
        if isinstance(event, SubmitAttempted):
            known.append(doitong.jobs())

    async with with_emulator(MANY, on_event=look) as (doitong, _):
        job = await doitong.submit("a fox")
        assert known == [[job]]


@virtual
async def test_events_of_a_submit_are_told_in_their_order() -> None:
    """Though all of them are told when the job is watched."""
    events: list[Event] = []
    async with with_emulator(MANY, emulator={"durations": 0.0}, on_event=events.append) as (doitong, _):
        await doitong.generate("a fox")
    assert [type(event) for event in events] == [RequestSent, SubmitAttempted, StatusChanged, JobFinished]


@pytest.mark.parametrize("kind", [SubmitAttempted, StatusChanged])
@virtual
async def test_what_is_raised_about_an_accepted_submit_comes_out_of_it(
    kind: type[Event], caplog: pytest.LogCaptureFixture
) -> None:
    """The job is told by the log, and goes on: its slot is its own until it ends."""
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
async def test_what_is_raised_before_a_submit_is_sent_leaves_nothing_taken() -> None:
    """Nothing was sent: slot and permit are back at once."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(RequestSent))) as (doitong, emulator):
        with pytest.raises(Mine):
            await doitong.submit("a fox")
        assert emulator.world.count("submit") == 0
        assert is_at_rest(doitong._running().limiter)
        assert doitong.stats().requests_left == MANY.requests_per_minute


@virtual
async def test_what_is_raised_when_a_job_may_have_been_made_leaves_its_slot_in_doubt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its key is told by the log; sent again under that key it has its slot, whatever is raised then."""
    told = Breaking(Mine(), at(SubmitAttempted, is_in_doubt=True))
    async with plain(MANY, on_event=told) as (doitong, server):
        server.script = lambda kind, nth: "cut-after" if kind == "submit" else None
        limiter = doitong._running().limiter
        with pytest.raises(Mine):
            await doitong.submit("a fox", idempotency_key="my-own-key")
        assert "my-own-key" in caplog.text
        assert (limiter.slots_taken, limiter.rate.in_flight) == (1, 0)
        told.at, told.raised_at = at(RequestSent), None
        with pytest.raises(Mine):
            await doitong.submit("a fox", idempotency_key="my-own-key")
        assert (limiter.slots_taken, limiter.rate.in_flight) == (1, 0)
        server.script = lambda kind, nth: None
        assert (await doitong.generate("a fox", idempotency_key="my-own-key")).id in server.jobs
        assert len(server.jobs) == 1
        assert is_at_rest(limiter)


@pytest.mark.parametrize("kind", [WaitBegan, WaitEnded])
@virtual
async def test_what_is_raised_about_a_wait_gives_the_slot_back(kind: type[Event]) -> None:
    """It comes out of the call that waited, and the next in line has the slot."""
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
async def test_what_is_raised_by_a_poll_comes_out_of_the_await_of_its_job() -> None:
    """Of one who awaits it, once; the other jobs of the same poll have their news."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(JobFinished))) as (doitong, _):
        jobs = [await doitong.submit(f"fox {n}") for n in range(3)]
        ends = await asyncio.gather(*(job.wait() for job in [*jobs, *jobs]), return_exceptions=True)
        assert [type(end) for end in ends].count(Mine) == 1
        assert [(await job).id for job in jobs] == [job.id for job in jobs]
        assert sum(isinstance(end, Result) for end in ends) == 5


@virtual
async def test_generate_tells_the_log_of_a_job_whose_news_raised(caplog: pytest.LogCaptureFixture) -> None:
    """Its caller has neither a result nor an error that names the job."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), at(JobFinished))) as (doitong, emulator):
        with pytest.raises(Mine):
            await doitong.generate("a fox")
        assert (
            f"job {next(iter(emulator.world.jobs))}, whose caller got Mine, is over: token dtj1."
            in caplog.text
        )


@pytest.mark.parametrize(
    "meant", [at(StatusChanged, status="completed"), at(RequestSent, kind="poll"), at(SlotExpired)]
)
def test_what_nobody_awaits_reaches_the_loop(meant: Callable[[Event], bool]) -> None:
    """The poll goes on, and so does the polling."""

    async def main() -> None:
        errors = in_the_loop()
        told = Breaking(Mine(), meant)
        seconds = {"durations": lambda number: 90.0 if number else 30.0}
        async with with_emulator(MANY, emulator=seconds, on_event=told, slot_expiry=60.0) as (doitong, _):
            jobs = [await doitong.submit("a fox"), await doitong.submit("a slow one")]
            await asyncio.sleep(100)
            assert errors == [told.error]
            assert jobs[0].status == "completed"
            assert (await jobs[1]).url

    run_virtual(main())


def of_the_poller(kind: type[Event]) -> Callable[[Event], bool]:
    """Tell an event of a kind that comes while the poller itself waits."""

    def is_it(event: Event) -> bool:
        task = asyncio.current_task()
        return isinstance(event, kind) and task is not None and task.get_name() == "doitong poller"

    return is_it


@pytest.mark.parametrize(
    "meant", [at(RequestSent, kind="poll"), of_the_poller(WaitBegan), of_the_poller(WaitEnded)]
)
def test_a_poll_of_which_something_is_raised_is_sent_all_the_same(meant: Callable[[Event], bool]) -> None:
    """At the moment at which it would be sent without it, on a plan on which a poll has to wait."""

    async def polls_at(on_event: Callable[[Event], object] | None) -> list[float]:
        two = Plan.enterprise(requests_per_minute=2, concurrent_jobs=2)
        async with with_emulator(two, on_event=on_event) as (doitong, emulator):
            jobs = [await doitong.submit("a fox"), await doitong.submit("a hare")]
            await asyncio.sleep(200)
            assert [job.status for job in jobs] == ["completed"] * 2
            assert is_at_rest(doitong._running().limiter)
            return [request.at for request in emulator.world.seen if request.kind == "poll"]

    async def main() -> None:
        errors, told = in_the_loop(), Breaking(Mine(), meant)
        assert await polls_at(told) == usual
        assert errors == [told.error]

    usual = run_virtual(polls_at(None))
    run_virtual(main())


@virtual
async def test_what_a_refresh_brings_comes_out_of_it() -> None:
    """It is a call of the user's own."""
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
async def test_what_a_webhook_brings_comes_out_of_the_await_of_its_job() -> None:
    """Not out of the request that brought it: it is acknowledged, as the news is in."""
    told = Breaking(Mine(), at(WebhookReceived))
    async with with_emulator(MANY, emulator={"durations": 99.0}, on_event=told, webhook_secret=SECRET) as (
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
async def test_a_job_that_is_taken_up_is_watched_though_its_news_raise() -> None:
    """`doitong.job` raises what its callback does, when the job has its slot."""
    async with with_emulator(MANY, emulator={"durations": 5.0}) as (doitong, emulator):
        token = (await doitong.submit("a fox")).token
        told = Breaking(Mine(), at(WebhookReceived))
        async with AsyncDoitong(
            api_key="another", base_url=emulator.url, on_event=told, webhook_secret="s"
        ) as other:
            other.webhooks._unmatched.keep((await doitong.job(token).refresh()), now())
            with pytest.raises(Mine):
                other.job(token)
            assert [job.token for job in other.jobs()] == [token]


def test_what_an_abandoned_submit_raises_reaches_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Its caller was cancelled, and awaits it no more."""

    async def main() -> None:
        errors = in_the_loop()
        told = Breaking(Mine(), at(SubmitAttempted))
        async with with_emulator(MANY, emulator={"faults": ["submit: latency 5"]}, on_event=told) as (
            doitong,
            emulator,
        ):
            submit = asyncio.ensure_future(doitong.submit("a fox"))
            await until(lambda: emulator.world.count("submit"))
            submit.cancel()
            await asyncio.sleep(10)
            assert errors == [told.error]
            assert next(iter(emulator.world.jobs)) in caplog.text

    run_virtual(main())


def test_what_is_thrown_at_one_who_leaves_reaches_the_loop() -> None:
    """Cancelled in the very turn of the loop in which it would have come out of its `await`."""

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


def test_draining_does_not_swallow_what_is_the_users() -> None:
    """It waits for jobs in the user's name, and goes on."""

    async def main() -> None:
        errors = in_the_loop()
        told = Breaking(Mine(), at(JobFinished))
        async with with_emulator(MANY, on_event=told) as (doitong, _):
            await doitong.submit("a fox")
            await doitong.aclose(drain=60)
        assert errors == [told.error]

    run_virtual(main())


def test_what_a_hook_of_the_users_own_session_raises_is_no_end_of_anything(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It comes out of a submit, in doubt, its key in the log; out of a poll it reaches the loop."""
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
    "meant",
    [
        *(at(RequestSent, kind="submit"), at(SubmitAttempted), at(StatusChanged, status="processing")),
        *(at(StatusChanged, status="completed"), at(JobFinished)),
    ],
)
@virtual
async def test_a_batch_raises_what_is_the_users(
    meant: Callable[[Event], bool], caplog: pytest.LogCaptureFixture
) -> None:
    """Out of the loop over its items; without a ledger the log tells of the job."""
    async with with_emulator(MANY, on_event=Breaking(Mine(), meant)) as (doitong, emulator):
        with pytest.raises(Mine):
            async for _ in doitong.generate_many(["a fox"]):
                pass
        assert untold(emulator.world, [], caplog.text) == set()
        await asyncio.sleep(200)
        assert is_at_rest(doitong._running().limiter)


def test_what_a_batch_that_was_left_raises_reaches_the_loop() -> None:
    """Nobody takes its items any more, while answers are still read."""

    async def main() -> None:
        errors, is_left = in_the_loop(), asyncio.Event()
        told = Breaking(Mine(), lambda event: isinstance(event, SubmitAttempted) and is_left.is_set())
        rules = {"faults": ["submit 2: latency 3"], "durations": 0.0}
        async with with_emulator(MANY, emulator=rules, on_event=told) as (doitong, _):
            batch = doitong.batch(["a fox", "a hare"])
            async with batch:
                async for _item in batch:
                    is_left.set()
                    break
            await asyncio.sleep(1)
            assert errors == [told.error]

    run_virtual(main())


@pytest.mark.parametrize("kind", [Mine, SystemExit])
def test_a_budget_that_is_low_raises_out_of_the_batch(kind: type[BaseException]) -> None:
    """What `on_low` raises ends no item's work; the loop over the items gets it."""

    def on_low(left: float) -> None:
        raise kind(left)

    async def main() -> None:
        async with with_emulator(MANY, emulator={"durations": 2.0}) as (doitong, emulator):
            boxes.append(emulator)
            budget = Budget(30, low_at=0.9, on_low=on_low)
            items = doitong.generate_many([{"prompt": "a fox", "width": 512, "height": 512}], budget=budget)
            async for _ in items:
                pass

    boxes: list[Emulator] = []
    with pytest.raises(kind):
        run_virtual(main())
    gc.collect()


def test_a_budget_without_a_loop_raises_where_it_is() -> None:
    """The purse has counted by then."""

    def on_low(left: float) -> None:
        raise Mine

    tracker = BudgetTracker(Budget(10, on_low=on_low))
    with pytest.raises(Mine):
        tracker.reserve("a", 10)
    assert tracker.reserved == 10


@pytest.mark.parametrize("kind", [RuntimeError, asyncio.CancelledError])
def test_what_on_low_raises_as_an_error_is_logged(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """And harms nothing."""

    def on_low(left: float) -> None:
        raise kind(left)

    assert BudgetTracker(Budget(10, on_low=on_low)).reserve("a", 10)
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
def test_a_callback_that_would_never_run_is_refused(callback: Any) -> None:
    """When the client or the budget is made, with a sentence that says how it is done."""
    says = "expected a function" if not callable(callback) else r"=queue\.put_nowait .*in your own task"
    with pytest.raises(ConfigurationError, match=f"on_event .*{says}"):
        AsyncDoitong(api_key="k", on_event=callback)
    with pytest.raises(ConfigurationError, match=f"on_low .*{says}"):
        Budget(10, on_low=callback)


@virtual
async def test_the_queue_that_the_error_speaks_of_works() -> None:
    """`on_event=queue.put_nowait`, and a task of the user's own."""
    queue: asyncio.Queue[Event] = asyncio.Queue()
    async with with_emulator(MANY, on_event=queue.put_nowait) as (doitong, _):
        await doitong.generate("a fox")
    assert queue.qsize() >= 5


@virtual
async def test_an_awaitable_that_a_callback_returns_is_closed_and_warned_about_once() -> None:
    """A coroutine would never run; a task or a future runs on its own, and is its owner's."""
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
async def test_a_log_that_cannot_be_written_harms_nothing() -> None:
    """The log of a broken callback is told by a handler of the user's, which may break as well."""

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
def test_a_durable_hook_that_fails_is_called_again(kind: type[BaseException], is_async: bool) -> None:
    """503, and the news are in; what is the user's reaches the loop when the service has its answer."""

    def broken(_: object) -> None:
        raise kind("mine")

    async def broken_later(_: object) -> None:
        raise kind("mine")

    async def main() -> None:
        errors, door = in_the_loop(), Endpoint()
        handler = WebhookHandler(door.accept, broken_later if is_async else broken)
        assert await handler.answer(request()) == Response(503)
        assert len(door.taken) == 1
        await asyncio.sleep(0)
        assert [type(error) for error in errors] == [Mine] * (kind is Mine)

    asyncio.run(main())


@pytest.mark.parametrize("callback", [7, a_generator, an_async_generator, functools.partial(a_generator)])
def test_a_durable_hook_that_would_never_run_is_refused(callback: Any) -> None:
    """It would be acknowledged, and nothing be done. An async one is awaited."""
    webhooks = AsyncDoitong(api_key="k", webhook_secret="s").webhooks
    for app in (webhooks.aiohttp_app, webhooks.asgi_app):
        with pytest.raises(ConfigurationError, match="on_event is"):
            app(on_event=callback)
        app(on_event=a_coroutine)


class _Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the log is down")


@virtual
async def test_a_log_handler_that_raises_harms_nothing() -> None:
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
