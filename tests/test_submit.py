"""One submit and its attempts: what is sent again, under which key, how often, and how it ends."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from doitong_async import (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DailyLimitError,
    InsufficientCreditsError,
    Plan,
    RateLimitError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.emulator import PlanLimits
from doitong_async.events import Event, RequestSent, SlotExpired, SubmitAttempted
from doitong_async.transport.failure import FailureKind
from tests.plain_server import HANG, PlainServer
from tests.virtual import now, plain, until, virtual, with_emulator


def http(status: str, body: str = "", **headers: str) -> bytes:
    """Return an HTTP answer as bytes."""
    named = {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in named.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", body]).encode()


def submits(server: PlainServer) -> list[tuple[float, str]]:
    """Return when submits came, and under which key."""
    return [(each.at, each.headers["idempotency-key"]) for each in server.requests if each.kind == "submit"]


def odd(*answers: bytes | str | None) -> Any:
    """Return a script: the first submits get these answers, the rest are answered normally."""
    return lambda kind, nth: answers[nth - 1] if kind == "submit" and nth <= len(answers) else None


HTML_502 = http("502 Bad Gateway", "<html>Bad Gateway</html>", Content_Type="text/html")


@pytest.mark.parametrize(
    "answer",
    [
        HTML_502,
        http("500 Internal Server Error", '{"errors": [{"message": "Internal Server Error"}]}'),
        http("500 Internal Server Error", '{"data": {"generate": {"id": "x", "status": "completed"}}}'),
        http("200 OK", '{"data": null}'),
        http("200 OK", '{"data": {"generate": {"status": "processing"}}}'),
        http("200 OK", '{"data": {"generate": {"id": {"a": 1}, "status": 7}}}'),
        http("200 OK", "[1, 2]"),
        http("200 OK", "not json"),
        "cut",
        "cut-after",
    ],
)
@virtual
async def test_a_submit_in_doubt_is_retried_under_its_key(answer: bytes | str) -> None:
    """Whatever happened, the second attempt makes the job or finds it: one charge, one key."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = odd(answer)
        assert (await doitong.generate("a fox")).id in server.jobs
        keys = {key for _, key in submits(server)}
        assert len(server.jobs) == len(keys) == 1
        assert len(submits(server)) == 2


@virtual
async def test_backoff_is_one_second_then_two_with_full_jitter() -> None:
    """As documented: three attempts, then the error of the last one."""
    async with plain() as (doitong, server):
        server.script = odd(*[HTML_502] * 9)
        with pytest.raises(ServerError, match="502") as caught:
            await doitong.generate("a fox")
        moments = [at for at, _ in submits(server)]
        assert len(moments) == 3
        assert 0 <= moments[1] - moments[0] <= 1
        assert 0 <= moments[2] - moments[1] <= 2
        assert caught.value.idempotency_key == submits(server)[0][1]


@virtual
async def test_no_answer_at_all_leaves_the_outcome_unknown() -> None:
    """The error has the key, under which the same submit finds the job that was made."""
    async with plain(seconds=0.0, request_timeout=5.0) as (doitong, server):
        server.script = odd(*["cut-after"] * 3)
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox")
        assert len(server.jobs) == 1
        result = await doitong.generate("a fox", idempotency_key=caught.value.idempotency_key)
        assert result.id in server.jobs
        assert len(server.jobs) == 1


@virtual
async def test_a_hanging_submit_ends_in_time() -> None:
    """`request_timeout` ends each attempt."""
    async with plain(request_timeout=5.0, max_attempts=1) as (doitong, server):
        server.script = odd(HANG)
        with pytest.raises(SubmitOutcomeUnknownError, match="no answer came in time"):
            await doitong.generate("a fox")
        assert 5.0 <= now() <= 6.0


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http("400 Bad Request", '{"errors": [{"message": "bad input"}]}'), BadRequestError),
        (http("401 Unauthorized", '{"errors": [{"message": "who?"}]}'), AuthenticationError),
        (http("403 Forbidden", '{"errors": [{"message": "no"}]}'), AuthenticationError),
        (http("402 Payment Required"), InsufficientCreditsError),
        (http("404 Not Found"), ConfigurationError),
        (http("307 Temporary Redirect", Location="https://elsewhere.example/graphql"), ConfigurationError),
        (
            http("200 OK", '{"errors": [{"message": "x", "extensions": {"code": "UNAUTHENTICATED"}}]}'),
            AuthenticationError,
        ),
    ],
)
@virtual
async def test_a_clear_rejection_is_raised_at_once(answer: bytes, error: type[Exception]) -> None:
    """After one request, as a typed error, with the slot free again."""
    async with plain() as (doitong, server):
        server.script = odd(answer)
        with pytest.raises(error):
            await doitong.generate("a fox")
        assert len(submits(server)) == 1
        assert doitong._running().limiter.slots_taken == 0


@virtual
async def test_a_rejection_after_a_lost_answer_is_still_in_doubt() -> None:
    """The first attempt may have made a job; the clear rejection of the second is only the cause."""
    async with plain() as (doitong, server):
        server.script = odd("cut-after", http("401 Unauthorized"))
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox")
        assert isinstance(caught.value.__cause__, AuthenticationError)
        assert len(server.jobs) == 1


@virtual
async def test_an_unsent_submit_says_that_no_job_was_made() -> None:
    """Nothing listens: three attempts, and no doubt."""
    async with plain(base_url="http://127.0.0.1:9") as (doitong, server):
        with pytest.raises(ConnectionFailedError, match="No job was made") as caught:
            await doitong.generate("a fox")
        assert not caught.value.sent
        assert not server.requests


@virtual
async def test_a_429_uses_no_attempt_and_fails_no_job() -> None:
    """However many come, the submit waits for Retry-After and is sent again."""
    slow_down = http("429 Too Many Requests", Retry_After="5")
    async with plain(seconds=0.0) as (doitong, server):
        server.script = odd(*[slow_down] * 8)
        assert (await doitong.generate("a fox")).id
        moments = [at for at, _ in submits(server)]
        assert len(moments) == 9
        assert all(5 <= later - earlier <= 6.1 for earlier, later in pairwise(moments))


@pytest.mark.parametrize("retry_after", ["60", "3"])
@virtual
async def test_the_wait_on_429s_can_be_bounded(retry_after: str) -> None:
    """With `slot_timeout` it ends in an error that names what it waited for; no job was made."""
    slow_down = http("429 Too Many Requests", Retry_After=retry_after)
    async with plain(slot_timeout=10.0) as (doitong, server):
        server.script = odd(*[slow_down] * 80)
        with pytest.raises(RateLimitError) as caught:
            await doitong.generate("a fox")
        assert caught.value.limit == "server"
        assert caught.value.idempotency_key
        assert now() == 10.0


@virtual
async def test_the_daily_limit_holds_by_our_own_count() -> None:
    """A submit that would be rejected is not sent, and the error says when the next day begins."""
    plan = Plan.enterprise(requests_per_minute=60, concurrent_jobs=9, jobs_per_day=2)
    async with with_emulator(plan, emulator={"durations": 0.0}) as (doitong, emulator):
        await doitong.generate("one")
        await doitong.generate("two")
        with pytest.raises(DailyLimitError) as caught:
            await doitong.generate("three")
        assert caught.value.resets_at is not None
        assert emulator.world.count("submit") == 2
        await doitong.with_options(wait_for_next_day=True).generate("three")
        assert now() == pytest.approx(86_400.0)


@virtual
async def test_the_daily_limit_holds_by_the_servers_count() -> None:
    """Another user spent the key's jobs: the client believes the 429, and jobs in flight still end."""
    limits = {"plan": PlanLimits(60, 9, 1), "durations": 5.0}
    async with with_emulator(Plan.PRO, emulator=limits) as (doitong, emulator):
        first = await doitong.submit("one")
        with pytest.raises(DailyLimitError):
            await doitong.generate("two")
        with pytest.raises(DailyLimitError):
            await doitong.generate("three")
        assert emulator.world.count("submit") == 2
        assert (await first).id == first.id
        await doitong.with_options(wait_for_next_day=True).generate("two")
        assert 86_400.0 <= now() <= 86_410.0
        assert emulator.world.count("submit") == 3


@virtual
async def test_every_attempt_is_an_event() -> None:
    """It has its number, its key and its result, in fields that need no parsing."""
    events: list[Event] = []
    async with plain(seconds=0.0, on_event=events.append) as (doitong, server):
        server.script = odd(HTML_502, "cut-after")
        job = await doitong.submit("a fox", provider="flux-pro", version="2", idempotency_key="mine")
    attempts = [event for event in events if isinstance(event, SubmitAttempted)]
    assert [(event.attempt, event.idempotency_key, event.job_id) for event in attempts] == [
        (1, "mine", None),
        (2, "mine", None),
        (3, "mine", job.id),
    ]
    assert [event.is_in_doubt for event in attempts] == [True, True, False]
    assert {(event.provider, event.version) for event in attempts} == {("flux-pro", "2")}
    failures = [FailureKind.SERVER, FailureKind.UNANSWERED, None]
    assert [event.failure for event in attempts] == failures
    assert [event.http_status for event in attempts] == [502, None, None]
    assert [event.retry_in is not None for event in attempts] == [True, True, False]
    sent = [event for event in events if isinstance(event, RequestSent) and event.kind == "submit"]
    assert [(event.attempt, event.idempotency_key) for event in sent] == [
        (1, "mine"),
        (2, "mine"),
        (3, "mine"),
    ]


@virtual
async def test_the_slot_of_a_submit_in_doubt_expires_and_names_the_key() -> None:
    """The job's id is unknown, so only the key shows which submit it was."""
    events: list[Event] = []
    async with plain(seconds=0.0, on_event=events.append, max_attempts=1) as (doitong, server):
        server.script = odd("cut-after")
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.submit("a fox", idempotency_key="mine")
        assert doitong.stats().slots_in_use == 1
        await asyncio.sleep(121)
        assert doitong.stats().slots_in_use == 0
    expired = SlotExpired(job_id=None, seconds=120.0, idempotency_key="mine")
    assert [event for event in events if isinstance(event, SlotExpired)] == [expired]


@virtual
async def test_an_event_says_when_the_next_attempt_comes_if_any() -> None:
    """It has the seconds that the service asked for; after the last failure it has none."""
    events: list[Event] = []
    async with plain(seconds=0.0, on_event=events.append) as (doitong, server):
        busy = http("503 Busy", Retry_After="90")
        server.script = odd(busy, busy, busy)
        with pytest.raises(ServerError):
            await doitong.submit("a fox")
    attempts = [event for event in events if isinstance(event, SubmitAttempted)]
    assert [event.retry_in for event in attempts] == [90.0, 90.0, None]


@virtual
async def test_closing_between_two_attempts_says_what_is_known() -> None:
    """After an attempt in doubt the outcome is unknown; after a 429 no job was made."""
    for answer, error in ((HTML_502, SubmitOutcomeUnknownError), (http("429 Slow Down"), ClientClosedError)):
        async with plain() as (doitong, server):
            server.script = odd(*[answer] * 3)
            submit = asyncio.ensure_future(doitong.submit("a fox", idempotency_key="mine"))
            await until(lambda: server.requests)
            await doitong.aclose()
            with pytest.raises(error) as caught:
                await submit
            assert caught.value.idempotency_key == "mine"


@virtual
async def test_a_job_in_doubt_keeps_its_slot_until_found_or_expired() -> None:
    """It may run at the service; the same submit under its key takes over the slot."""
    async with plain(Plan.FREE, seconds=1.0, slot_expiry=100.0, request_timeout=2.0) as (doitong, server):
        server.script = odd(*["cut-after"] * 3)
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.generate("a fox")
        in_doubt = now()
        with pytest.raises(RateLimitError):
            await doitong.with_options(slot_timeout=5.0).generate("a hare")
        await doitong.generate("a fox", idempotency_key=caught.value.idempotency_key)
        assert doitong._running().limiter.slots_taken == 0
        server.script = lambda kind, nth: "cut" if kind == "submit" else None
        with pytest.raises(SubmitOutcomeUnknownError):
            await doitong.generate("a wolf")
        server.script = lambda kind, nth: None
        await doitong.generate("a hare")
        assert now() >= in_doubt + 100.0


@virtual
async def test_a_conflict_over_the_callers_own_key_returns_no_job() -> None:
    """Another request may have made the job it names, so the error reports it."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, emulator):
        cat = await doitong.generate("a cat", idempotency_key="mine")
        with pytest.raises(SubmitOutcomeUnknownError, match="another request"):
            await doitong.generate("a dog", idempotency_key="mine")
        assert list(emulator.world.jobs) == [cat.id]


@virtual
async def test_closing_while_a_retry_waits_for_a_permit_is_in_doubt() -> None:
    """The first attempt made a job: "no job was made" would be a lie."""
    plan = Plan.enterprise(requests_per_minute=1, concurrent_jobs=5)
    async with plain(plan, requests_per_minute=60) as (doitong, server):
        server.script = odd("cut-after")
        submit = asyncio.ensure_future(doitong.submit("a fox"))
        await asyncio.sleep(10)
        await doitong.aclose()
        with pytest.raises(SubmitOutcomeUnknownError):
            await submit
        assert len(server.jobs) == 1


@virtual
async def test_a_not_found_answer_to_a_submit_is_a_bad_request() -> None:
    """No job exists yet that could be missing."""
    unknown = '{"errors": [{"message": "Provider nope not found", "extensions": {"code": "NOT_FOUND"}}]}'
    async with plain() as (doitong, server):
        server.script = odd(http("200 OK", unknown))
        with pytest.raises(BadRequestError, match="nope"):
            await doitong.generate("a fox", provider="nope")


@virtual
async def test_a_prompt_about_rate_limits_is_no_rate_limit() -> None:
    """The first words of the message decide; the service may quote a prompt after them."""
    quoted = '{"errors": [{"message": "Bad Request: the prompt \'a rate limit sign\' is refused"}]}'
    async with plain() as (doitong, server):
        server.script = odd(http("200 OK", quoted))
        with pytest.raises(BadRequestError):
            await doitong.generate("a rate limit sign")
        assert len(submits(server)) == 1


@virtual
async def test_a_job_made_before_a_5xx_keeps_its_slot() -> None:
    """Three 5xx, one of them after the job was made: a plan for one job gets no second one meanwhile."""
    faults = ["submit 1: 500 handled=yes", "submit 2-3: 500"]
    async with with_emulator(Plan.FREE, emulator={"durations": 60.0, "faults": faults}) as (
        doitong,
        emulator,
    ):
        with pytest.raises(ServerError):
            await doitong.submit("a fox")
        await doitong.submit("a hare")
        assert now() >= 120.0
        assert emulator.world.most_at_once == 1


BUSY = [
    "408 Request Timeout",
    "425 Too Early",
    "500 Internal Server Error",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "200 OK",
]


@pytest.mark.parametrize("status", BUSY)
@virtual
async def test_a_submit_obeys_retry_after_on_every_status(status: str) -> None:
    """The next attempt does not come before it, and not much later."""
    body = '{"errors": [{"message": "busy"}]}'
    async with plain(seconds=0.0) as (doitong, server):
        server.script = odd(http(status, body, Retry_After="20"), http(status, body, Retry_After="0"))
        await doitong.generate("a fox")
        moments = [at for at, _ in submits(server)]
        assert moments[1] == 20.0
        # Never less than the documented backoff.
        assert 20.0 <= moments[2] <= 22.0
        assert len(server.jobs) == 1


@virtual
async def test_a_retry_after_beyond_slot_timeout_fails_at_once() -> None:
    """No attempt comes before the service is ready, and none waits longer than `slot_timeout`."""
    async with plain(slot_timeout=10.0) as (doitong, server):
        server.script = odd(*[http("503 Busy", Retry_After="20")] * 3)
        with pytest.raises(ServerError, match="asks to wait 20 s") as caught:
            await doitong.generate("a fox")
        assert now() <= 10.0
        assert len(submits(server)) == 1
        assert caught.value.retry_after == 20.0
        assert caught.value.idempotency_key == submits(server)[0][1]
        server.script = odd("cut", *[http("503 Busy", Retry_After="20")] * 3)
        server._counts.clear()
        with pytest.raises(SubmitOutcomeUnknownError, match="asks to wait 20 s"):
            await doitong.generate("a hare")


@virtual
async def test_an_unreasonable_retry_after_is_capped() -> None:
    """The client waits at most ten minutes."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = odd(http("503 Busy", Retry_After="9999999999999"))
        await doitong.generate("a fox")
        assert submits(server)[1][0] == 600.0


@virtual
async def test_a_clock_that_is_hours_off_costs_a_minute_not_a_day() -> None:
    """A gateway puts the reset of a per-minute 429 two hours ahead."""
    far = http(
        "429 Too Many Requests",
        X_RateLimit_Limit="60",
        X_RateLimit_Reset="2026-01-01T02:00:07",
        Retry_After="",
    )
    async with plain(seconds=0.0) as (doitong, server):
        server.script = odd(far)
        await doitong.generate("a fox")
        assert 60.0 <= submits(server)[1][0] <= 61.0
        server.script, server._counts = odd(far, far), server._counts.__class__()
        with pytest.raises(DailyLimitError):
            await doitong.generate("a hare")
        assert 120.0 <= now() <= 123.0


@virtual
async def test_the_bound_of_the_caller_holds_for_the_next_day_as_well() -> None:
    """The service says that the day is full: no wait of hours begins that is longer than `slot_timeout`."""
    settings: dict[str, Any] = {"wait_for_next_day": True, "slot_timeout": 10.0}
    async with with_emulator(emulator={"faults": ["submit 1: 429-day"]}, **settings) as (doitong, _):
        with pytest.raises(DailyLimitError):
            await doitong.submit("a fox")
        assert now() <= 10.0
        assert doitong.stats().slots_in_use == 0
