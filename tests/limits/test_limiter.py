"""The rate limiter grants slots and permits first come, first served; cancelled callers lose nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doitong_async import ClientClosedError, DailyLimitError, Plan, RateLimitError
from doitong_async.events import Event, Hook, LimitLowered, WaitBegan, WaitEnded
from doitong_async.limits.admission import Admission
from doitong_async.limits.local_limiter import LocalLimiter
from doitong_async.limits.permits import Priority, RequestPermit
from doitong_async.limits.users import KeyUser
from doitong_async.transport.failure import Failure, FailureKind
from tests.virtual import now, settle, start, virtual

NARROW = Plan.enterprise(requests_per_minute=2, concurrent_jobs=1)


def new_admission(plan: Plan, *, polls_count: bool = True) -> Admission:
    """Return a client's admission to a new rate limiter."""
    return Admission(LocalLimiter(plan), KeyUser(plan, polls_count=polls_count), Hook(None))


def too_many(message: str, **headers: str) -> Failure:
    """Return a 429."""
    return Failure(FailureKind.RATE_LIMIT, message, http_status=429, headers=headers)


@virtual
async def test_slots_go_to_waiters_in_order() -> None:
    """However many wait, a returned slot goes to the first."""
    admission = new_admission(NARROW)
    slot = await admission.slot()
    order: list[int] = []

    async def take(number: int) -> None:
        mine = await admission.slot()
        order.append(number)
        mine.release()

    waiting = [start(take(number)) for number in range(5)]
    await settle()
    assert order == []
    slot.release()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    assert admission.limiter.slots_taken == 0


@virtual
async def test_a_slot_is_returned_once() -> None:
    """A second release must not create a slot."""
    admission = new_admission(NARROW)
    slot = await admission.slot()
    slot.release()
    slot.release()
    assert admission.limiter.slots_taken == 0


@virtual
async def test_a_slot_granted_to_a_cancelled_caller_goes_to_the_next() -> None:
    """The cancel may come in the very moment of the grant."""
    admission = new_admission(NARROW)
    slot = await admission.slot()
    cancelled, following = start(admission.slot()), start(admission.slot())
    await settle()
    slot.release()
    cancelled.cancel()
    (await following).release()
    assert admission.limiter.slots_taken == 0


@virtual
async def test_a_wait_for_a_slot_times_out() -> None:
    """The error names the limit, and the caller leaves the queue."""
    admission = new_admission(NARROW)
    slot = await admission.slot()
    with pytest.raises(RateLimitError):
        await admission.slot(timeout=3.0)
    assert now() == 3.0
    slot.release()
    assert (await admission.slot(timeout=3.0)).is_held


@virtual
async def test_permits_come_back_a_minute_after_the_answer() -> None:
    """Not after the sending: the server may count the request as late as it answers."""
    admission = new_admission(NARROW)
    first, second = await admission.permit(Priority.SUBMIT), await admission.permit(Priority.SUBMIT)
    first.answered()
    await asyncio.sleep(10)
    second.answered()
    (await admission.permit(Priority.SUBMIT)).answered()
    assert now() == 60.0
    (await admission.permit(Priority.SUBMIT)).answered()
    assert now() == 70.0


@virtual
async def test_an_unsent_request_costs_nothing() -> None:
    """Its permit is back at once."""
    admission = new_admission(NARROW)
    for _ in range(5):
        (await admission.permit(Priority.SUBMIT)).unsent()
    assert now() == 0.0


@virtual
async def test_submits_go_before_polls_but_an_overdue_poll_goes_first() -> None:
    """A poll may wait behind submits, but not for ever."""
    admission = new_admission(Plan.enterprise(requests_per_minute=1, concurrent_jobs=9))
    (await admission.permit(Priority.SUBMIT)).answered()
    order: list[str] = []

    async def take(name: str, priority: Priority) -> None:
        permit: RequestPermit = await admission.permit(priority)
        order.append(name)
        permit.answered()

    await asyncio.sleep(57)
    waiting = [start(take("poll", Priority.POLL)), start(take("submit 1", Priority.SUBMIT))]
    waiting.append(start(take("submit 2", Priority.SUBMIT)))
    await asyncio.gather(*waiting)
    assert order == ["submit 1", "poll", "submit 2"]


@virtual
async def test_a_permit_granted_to_a_cancelled_caller_is_not_spent() -> None:
    """It sent nothing, so the next waiter gets the permit at once."""
    admission = new_admission(Plan.enterprise(requests_per_minute=1, concurrent_jobs=9))
    held = await admission.permit(Priority.SUBMIT)
    cancelled, following = start(admission.permit(Priority.SUBMIT)), start(admission.permit(Priority.SUBMIT))
    await settle()
    held.unsent()
    cancelled.cancel()
    (await following).unsent()
    assert now() == 0.0


@virtual
async def test_uncounted_polls_overtake_waiting_submits() -> None:
    """They go at once and without a busy loop; only a pause holds them."""
    admission = Admission(LocalLimiter(NARROW), KeyUser(NARROW, polls_count=False), Hook(None))
    for _ in range(2):
        (await admission.permit(Priority.SUBMIT)).answered()
    submit = start(admission.permit(Priority.SUBMIT))
    await settle()
    (await admission.permit(Priority.POLL)).answered()
    assert now() == 0.0
    admission.limiter.rate_limited(too_many("per minute", **{"retry-after": "10"}))
    (await admission.permit(Priority.POLL)).answered()
    assert 10.0 <= now() <= 11.0
    (await submit).answered()
    assert now() == 60.0


@virtual
async def test_a_429_about_the_minute_pauses_everything() -> None:
    """Until the stated time plus some jitter, so that not all come back at once."""
    admission = new_admission(NARROW)
    assert (
        admission.limiter.rate_limited(too_many("requests per minute", **{"retry-after": "12"})) == "minute"
    )
    (await admission.permit(Priority.POLL)).answered()
    assert 12.0 <= now() <= 13.0


@virtual
async def test_a_429_without_details_pauses_briefly() -> None:
    """The next answer may say more."""
    admission = new_admission(NARROW)
    admission.limiter.rate_limited(too_many("slow down"))
    (await admission.permit(Priority.SUBMIT)).answered()
    assert 2.0 <= now() <= 3.0


@virtual
async def test_a_429_about_concurrent_jobs_holds_submits_until_a_job_ends() -> None:
    """Polls go on meanwhile: they see jobs end."""
    admission = new_admission(Plan.PRO)
    running, mine = await admission.slot(), await admission.slot()
    running.job_is_made()
    assert admission.limiter.rate_limited(too_many("too many concurrent jobs")) == "slot"
    submit = start(admission.permit(Priority.SUBMIT))
    (await admission.permit(Priority.POLL)).answered()
    await asyncio.sleep(1)
    assert now() == 1.0
    assert not submit.done()
    running.release()
    (await submit).answered()
    assert now() == 1.0
    mine.release()


@virtual
async def test_submits_held_by_another_processs_jobs_are_retried() -> None:
    """This process never sees those jobs end, so each hold ends by itself."""
    admission = new_admission(Plan.PRO)
    await admission.slot()
    waits = []
    for _ in range(4):
        begun = now()
        admission.limiter.rate_limited(too_many("too many concurrent jobs"))
        (await admission.permit(Priority.SUBMIT)).answered()
        waits.append(now() - begun)
    for wait, usual in zip(waits, (5, 10, 20, 40), strict=True):
        assert usual <= wait <= usual + 1


@virtual
async def test_a_full_day_is_an_error_that_says_when_the_next_begins() -> None:
    """The job beyond the limit is not even sent."""
    admission = new_admission(Plan.enterprise(requests_per_minute=60, concurrent_jobs=9, jobs_per_day=2))
    for _ in range(2):
        slot = await admission.slot()
        slot.job_is_made()
        slot.release()
    with pytest.raises(DailyLimitError, match="2 a day") as caught:
        await admission.slot()
    assert caught.value.retry_after == 86_400.0
    assert str(caught.value.resets_at) == "2026-01-02 00:00:00+00:00"


@virtual
async def test_a_waiter_for_the_next_day_starts_at_midnight() -> None:
    """The wait ends exactly with the day."""
    admission = new_admission(Plan.enterprise(requests_per_minute=60, concurrent_jobs=9, jobs_per_day=1))
    (await admission.slot()).job_is_made()
    await admission.slot(waits_for_day=True)
    assert now() == pytest.approx(86_400.0)


@virtual
async def test_a_submit_that_made_no_job_returns_its_share_of_the_day() -> None:
    """Only accepted jobs count."""
    admission = new_admission(Plan.enterprise(requests_per_minute=60, concurrent_jobs=9, jobs_per_day=1))
    (await admission.slot()).release()
    assert (await admission.slot()).is_held


@virtual
async def test_a_429_about_the_day_ends_it_until_the_reported_time() -> None:
    """A waiter gets an error with that time."""
    admission = new_admission(Plan.enterprise(requests_per_minute=60, concurrent_jobs=1))
    slot = await admission.slot()
    waiting = start(admission.slot())
    await settle()
    assert (
        admission.limiter.rate_limited(too_many("daily limit exceeded", **{"retry-after": "7200"})) == "day"
    )
    slot.release()
    with pytest.raises(DailyLimitError) as caught:
        await waiting
    assert caught.value.retry_after == pytest.approx(7200.0)


@virtual
async def test_waits_are_counted_and_reported_as_events() -> None:
    """Each event says what a caller waits for, and how long."""
    events: list[Event] = []
    admission = Admission(LocalLimiter(NARROW), KeyUser(NARROW), Hook(events.append))
    slot = await admission.slot()
    for _ in range(2):
        (await admission.permit(Priority.POLL)).answered()
    waits = [start(admission.slot()), start(admission.permit(Priority.SUBMIT))]
    await settle()
    assert admission.waiting() == {"slot": 1, "minute": 1}
    slot.release()
    await asyncio.gather(*waits)
    first, second = (event.wait_id for event in events if isinstance(event, WaitBegan))
    assert first != second
    assert events == [
        WaitBegan(wait_id=first, request="submit", reason="slot"),
        WaitBegan(wait_id=second, request="submit", reason="minute"),
        WaitEnded(wait_id=first, request="submit", reason="slot", seconds=0.0, is_granted=True),
        WaitEnded(wait_id=second, request="submit", reason="minute", seconds=60.0, is_granted=True),
    ]


@virtual
async def test_closing_wakes_every_waiter_with_an_error() -> None:
    """Whether it waits for a slot or for a permit."""
    admission = new_admission(Plan.enterprise(requests_per_minute=1, concurrent_jobs=1))
    await admission.slot()
    (await admission.permit(Priority.SUBMIT)).answered()
    waiting = [
        start(admission.slot()),
        start(admission.permit(Priority.SUBMIT)),
        start(admission.permit(Priority.POLL)),
    ]
    await settle()
    admission.close()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [ClientClosedError] * 3
    with pytest.raises(ClientClosedError):
        await admission.slot()


async def send(admission: Admission, **headers: str) -> None:
    """Send one submit, answered at once with these headers."""
    permit = await admission.permit(Priority.SUBMIT)
    admission.observe_headers({name.replace("_", "-"): value for name, value in headers.items()}, permit)
    permit.answered()


@virtual
async def test_after_a_reported_reset_nothing_waits_for_a_minute() -> None:
    """One request goes two seconds later, as resets are rounded; its answer says how many more may."""
    admission = new_admission(Plan.PRO)
    await send(admission, x_ratelimit_remaining="0", x_ratelimit_reset="6")
    sent_at = []
    for left in ("3", "2", "1", "0"):
        await send(admission, x_ratelimit_remaining=left, x_ratelimit_reset="6")
        sent_at.append(now())
    assert sent_at == [8.0] * 4
    await send(admission)
    assert now() == 16.0


@virtual
async def test_the_first_request_after_a_reset_may_be_a_submit() -> None:
    """Submits usually leave permits to polls, but with no poll waiting nothing else would go."""
    admission = new_admission(Plan.PRO)
    for _ in range(2):
        (await admission.slot()).job_is_made()
    await send(admission, x_ratelimit_limit="6", x_ratelimit_remaining="0", x_ratelimit_reset="6")
    await send(admission, x_ratelimit_limit="6", x_ratelimit_remaining="5", x_ratelimit_reset="6")
    assert now() == 8.0


@virtual
async def test_a_share_of_a_plan_takes_its_share_of_the_remaining_requests() -> None:
    """The rest belongs to the other workers on the key."""
    admission = new_admission(Plan.PRO.share(6))
    headers = {"x_ratelimit_limit": "60", "x_ratelimit_reset": "6"}
    await send(admission, **headers, x_ratelimit_remaining="0")
    await send(admission, **headers, x_ratelimit_remaining="30")
    assert (now(), admission.limiter.free) == (8.0, 5)


@virtual
async def test_a_limit_below_the_plan_is_obeyed_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning and one event per client, whichever clients come and go."""
    events: list[Event] = []
    user, limiter = KeyUser(Plan.PRO), LocalLimiter(Plan.PRO)
    admission = Admission(limiter, user, Hook(events.append))
    for _ in range(3):
        await send(admission, x_ratelimit_limit="6")
    batch = Admission(limiter, user, Hook(events.append))
    for _ in range(3):
        await send(batch, x_ratelimit_limit="6")
    assert limiter.free == 0
    batch.close()
    assert limiter.free == 0
    assert events == [LimitLowered(limit=6, plan_limit=60)]
    assert caplog.text.count("X-RateLimit-Limit: 6") == 1
    await send(admission, x_ratelimit_limit="60")
    assert limiter.free == 59


@virtual
async def test_retry_after_on_a_poll_delays_polls() -> None:
    """It does not delay submits; a waiting poll reports the reason."""
    admission = new_admission(Plan.PRO)
    admission.limiter.delay_polls(
        Failure(FailureKind.SERVER, "busy", http_status=503, headers={"retry-after": "20"})
    )
    admission.limiter.delay_polls(
        Failure(FailureKind.SERVER, "busy", http_status=503, headers={"retry-after": "5"})
    )
    admission.limiter.delay_polls(Failure(FailureKind.SERVER, "busy", http_status=503))
    poll = start(admission.permit(Priority.POLL))
    await settle()
    await send(admission)
    assert now() == 0.0
    assert admission.waiting() == {"server": 1}
    (await poll).answered()
    assert now() == 20.0


@virtual
async def test_retry_after_delays_uncounted_polls_too() -> None:
    """They cost nothing of the plan, but the service asked for the delay."""
    admission = Admission(LocalLimiter(NARROW), KeyUser(NARROW, polls_count=False), Hook(None))
    admission.limiter.delay_polls(Failure(FailureKind.SERVER, "busy", headers={"retry-after": "20"}))
    (await admission.permit(Priority.POLL)).answered()
    assert now() == 20.0


FAR = [
    {"x-ratelimit-reset": "2026-01-01T02:00:07"},
    {"x-ratelimit-reset": "1767232807"},
    {"x-ratelimit-reset": "1767232807000000"},
    {"x-ratelimit-reset": "Thu, 01 Jan 2026 02:00:07 -0000"},
    {"x-ratelimit-reset": "7207"},
    {"retry-after": "86400"},
    {"retry-after": "Thu, 01 Jan 2026 12:00:00 GMT"},
]


@pytest.mark.parametrize("far", FAR)
@virtual
async def test_a_429_with_hours_to_wait_is_about_the_day_only_the_second_time(
    far: dict[str, str],
) -> None:
    """A clock, a zone or a unit may be wrong: pausing a minute first costs no day."""
    admission = new_admission(Plan.PRO)
    failure = too_many("Too Many Requests", **{"x-ratelimit-limit": "60", **far})
    # A burst counts as one 429, and a poll's 429 says nothing about jobs.
    assert [admission.limiter.rate_limited(failure) for _ in range(3)] == ["minute"] * 3
    permit = await admission.permit(Priority.SUBMIT)
    permit.answered()
    assert 60.0 <= now() <= 61.0
    assert admission.limiter.rate_limited(failure, is_submit=False) == "minute"
    await asyncio.sleep(100)
    admission.limiter.accepted(permit)
    assert admission.limiter.rate_limited(failure) == "minute"
    await asyncio.sleep(62)
    assert admission.limiter.rate_limited(failure) == "day"
    with pytest.raises(DailyLimitError):
        await admission.slot()


@virtual
async def test_late_429s_of_one_burst_count_as_one() -> None:
    """The request left before the pause, however late its answer comes."""
    admission = new_admission(Plan.PRO)
    failure = too_many("Too Many Requests", **{"x-ratelimit-limit": "60", **FAR[0]})
    early, late = [await admission.permit(Priority.SUBMIT) for _ in range(2)]
    assert admission.limiter.rate_limited(failure, early) == "minute"
    early.answered()
    await asyncio.sleep(62)
    assert admission.limiter.rate_limited(failure, late) == "minute"
    late.answered()
    after = await admission.permit(Priority.SUBMIT)
    assert admission.limiter.rate_limited(failure, after) == "day"


@virtual
async def test_an_uncounted_poll_says_nothing_about_a_reset() -> None:
    """Its answer may come after the permit that it speaks of is back."""
    admission = new_admission(Plan.enterprise(requests_per_minute=2, concurrent_jobs=9), polls_count=False)
    await send(admission)
    await asyncio.sleep(30)
    await send(admission)
    poll = await admission.permit(Priority.POLL)
    await asyncio.sleep(30)
    await send(admission)
    admission.observe_headers({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"}, poll)
    poll.answered()
    await send(admission)
    assert now() == 90.0


@pytest.mark.parametrize(
    ("plan", "made", "message", "headers"),
    [
        (Plan.PRO, 0, "Too many jobs today", {"x-ratelimit-limit": "60"}),
        (Plan.PRO, 0, "Too Many Requests", {"x-ratelimit-limit": "10000"}),
        (Plan.PRO, 0, "Too Many Requests", {}),
        (Plan.FREE, 80, "Too Many Requests", {"x-ratelimit-limit": "10"}),
    ],
)
@virtual
async def test_a_429_about_the_day_is_trusted_at_once_with_more_evidence(
    plan: Plan, made: int, message: str, headers: dict[str, str]
) -> None:
    """Its message, its limit header, no limit at all, or a day that is nearly used up."""
    admission = new_admission(plan)
    for _ in range(made):
        slot = await admission.slot()
        slot.job_is_made()
        slot.release()
    assert admission.limiter.rate_limited(too_many(message, **{"retry-after": "7200"}, **headers)) == "day"


@virtual
async def test_a_limiter_stays_in_use_for_a_day_after_its_last_job() -> None:
    """It reads the loop's clock: a wall clock that jumps a day ahead and back loses no count."""
    admission = new_admission(Plan.PRO)
    slot = await admission.slot()
    slot.job_is_made()
    slot.release()
    admission.close()
    loop = asyncio.get_running_loop()
    limiter = admission.limiter
    assert isinstance(limiter, LocalLimiter)
    loop.wall_time = lambda: 1_767_225_600.0 + 5 * 86_400  # type: ignore[attr-defined]  # a clock that jumped
    assert not limiter.is_idle
    await asyncio.sleep(86_401)
    assert limiter.is_idle


@dataclass(frozen=True)
class Request:
    """One request of a scenario: when its caller comes, how long the answer takes, and what it says."""

    arrives_at: float
    takes: float
    counted: float
    remaining: int | None
    is_rejected: bool
    is_poll: bool
    is_sent: bool


requests = st.builds(
    Request,
    arrives_at=st.integers(0, 400).map(lambda half: half / 2),
    takes=st.sampled_from([0.0, 0.25, 3.0, 30.0]),
    counted=st.sampled_from([0.0, 0.5, 1.0]),
    remaining=st.none() | st.integers(0, 12),
    is_rejected=st.sampled_from([False] * 6 + [True]),
    is_poll=st.booleans(),
    is_sent=st.sampled_from([True] * 5 + [False]),
)


async def send_request(admission: Admission, request: Request, counted: list[float]) -> None:
    """Send one request; the server counts it somewhere between its sending and its answer."""
    await asyncio.sleep(request.arrives_at)
    permit = await admission.permit(Priority.POLL if request.is_poll else Priority.SUBMIT)
    if not request.is_sent:
        permit.unsent()
        return
    counted.append(now() + request.takes * request.counted)
    await asyncio.sleep(request.takes)
    if request.remaining is not None:
        admission.observe_headers({"x-ratelimit-remaining": str(request.remaining)}, permit)
    if request.is_rejected:
        admission.limiter.rate_limited(too_many("per minute", **{"x-ratelimit-reset": "7"}))
    permit.answered()


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(st.integers(1, 8), st.lists(requests, max_size=40))
def test_the_servers_window_never_overflows_and_every_wait_ends(rate: int, scenario: list[Request]) -> None:
    """For any requests, answers, headers and failures, wherever the server counts them."""

    async def run() -> None:
        admission = new_admission(Plan.enterprise(requests_per_minute=rate, concurrent_jobs=1))
        counted: list[float] = []
        async with asyncio.timeout(60.0 * 4 * (len(scenario) + 10)):
            await asyncio.gather(*(send_request(admission, request, counted) for request in scenario))
        counted.sort()
        # Compute it as the rate limiter does: the difference would be rounded once more.
        assert all(later >= earlier + 60.0 for earlier, later in zip(counted, counted[rate:], strict=False))

    virtual(run)()
