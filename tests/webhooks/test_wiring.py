"""Webhooks in an open client: they wake who waits, and looks are only the net below them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from doitong_async import (
    AsyncDoitong,
    ClientClosedError,
    ConfigurationError,
    Generation,
    JobFailedError,
    JobNotFoundError,
    JobStatus,
    JobTimeoutError,
    Plan,
    WebhookSignatureError,
)
from doitong_async.emulator import Emulator
from doitong_async.events import Event, JobFinished, WebhookDropped, WebhookReceived
from doitong_async.testing import emulated
from tests.plain_server import Behaviour
from tests.virtual import now, plain, seen, virtual, with_emulator
from tests.webhooks.bodies import SECRET, signed, webhook_body

HOOKED: dict[str, Any] = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret": SECRET}
"""A client whose webhooks the tests deliver themselves."""
CROWD = Plan.enterprise(requests_per_minute=3000, concurrent_jobs=1000)


async def tell(doitong: AsyncDoitong, job_id: str, status: str = "completed", **fields: Any) -> None:
    """Deliver a signed webhook."""
    body = webhook_body(job_id, status, **fields)
    await doitong.webhooks.deliver(body, signed(body))


def crowded(**emulator: Any) -> dict[str, Any]:
    """Return the arguments of a client and an emulator on which a thousand jobs run at once."""
    return {"plan": CROWD, "webhooks": True, "emulator": {"durations": 6.0, "credits": 10**6, **emulator}}


@virtual
async def test_a_job_wakes_when_its_webhook_comes_and_is_never_looked_at() -> None:
    """At the moment of its end, with what a look would have brought, for one request."""
    events: list[Event] = []
    async with emulated(webhooks=True, emulator={"durations": 5.5}, on_event=events.append) as doitong:
        result = await doitong.generate("a fox")
        assert now() == 5.5
        assert (result.credit_cost, result.provider) == (20, "flux-pro")
        assert result.url
        assert await result.read()
    names = Counter(type(event).__name__ for event in events)
    assert (names["RequestSent"], names["WebhookReceived"], names["JobFinished"]) == (1, 1, 1)


@virtual
async def test_the_slot_is_free_at_the_webhook() -> None:
    """One at a time on Free: ten jobs take ten times as long as one, to the moment."""
    async with emulated(plan=Plan.FREE, webhooks=True, emulator={"durations": 7.25}) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        assert now() == 8 * 7.25


@pytest.mark.parametrize(
    ("place", "where"),
    [(None, ()), ("options.webhookUrl", ("options",)), ("input.hooks.done", ("input", "hooks"))],
)
@virtual
async def test_the_url_goes_out_where_the_setting_says(place: str | None, where: tuple[str, ...]) -> None:
    """Beside `type` by default, with each submit."""
    settings: dict[str, Any] = {} if place is None else {"webhook_field": place}
    seen_inputs: list[Any] = []
    async with with_emulator(**HOOKED, **settings) as (doitong, _):
        runtime = doitong._running()
        send = runtime.transport.send

        async def spied(body: bytes, **more: Any) -> Any:
            seen_inputs.append(json.loads(body)["variables"]["input"])
            return await send(body, **more)

        runtime.transport.send = spied  # type: ignore[method-assign]
        await doitong.submit("a fox", width=512)
    (fields,) = seen_inputs
    assert fields["options"]["width"] == 512
    for name in where:
        fields = fields[name]
    assert fields["done" if place and place.endswith("done") else "webhookUrl"] == "http://127.0.0.1:9/"


@virtual
async def test_views_and_whoever_opens_it_again_share_one_door() -> None:
    """It is there before the client is open, and after."""
    async with Emulator(durations=50.0) as emulator:
        doitong = AsyncDoitong(api_key="k", base_url=emulator.url, **HOOKED)
        endpoint = doitong.webhooks
        assert endpoint is doitong.with_options(width=512).webhooks
        with pytest.raises(ClientClosedError):
            await tell(doitong, "a")
        for _ in range(2):
            async with doitong:
                job = await doitong.submit("a fox")
                await tell(doitong, job.id, url=f"{emulator.outputs_url}/{job.id}.jpg")
                assert (await job).id == job.id
            with pytest.raises(ClientClosedError):
                await tell(doitong, "a")
        assert doitong.webhooks is endpoint


@virtual
async def test_no_webhook_is_taken_that_nobody_hears_of() -> None:
    """While the client closes, the service is asked to try again; who waits has the token."""
    async with with_emulator(**HOOKED, emulator={"durations": 50.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(doitong.aclose())
        with pytest.raises(ClientClosedError):
            await waiting
        with pytest.raises(ClientClosedError):
            await tell(doitong, job.id)
        await closing


@virtual
async def test_news_that_comes_before_the_answer_is_not_lost() -> None:
    """The webhook is faster than the answer to the submit, which is held back until it was sent."""
    events: list[Event] = []
    rules = {"durations": 2.0, "faults": ["webhook: early 10"]}
    async with emulated(webhooks=True, emulator=rules, on_event=events.append) as doitong:
        result = await doitong.generate("a fox")
        assert (now(), result.credit_cost) == (2.0, 20)
        assert doitong.stats().mean_seconds == {}
    assert [type(event) for event in events if isinstance(event, WebhookReceived | WebhookDropped)] == [
        WebhookReceived
    ]


@virtual
async def test_a_url_elsewhere_is_decided_by_one_look_at_once() -> None:
    """A signed webhook may name any host: its URL is not used."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(7)
        await tell(doitong, job.id, url="https://evil.example/fox.jpg")
        # Neither its URL nor its word is taken: a look decides both.
        assert (job.status, job.last.url) == ("processing", None)
        result = await job
        assert now() == 7.0
        assert str(result.url).startswith(emulator.outputs_url)
        assert len(seen(emulator, "poll")) == 1


@virtual
async def test_such_a_look_comes_no_sooner_than_two_seconds_after_the_submit() -> None:
    """And a service that has no URL yet is asked every 2 s, not as seldom as the net."""
    async with with_emulator(**HOOKED, emulator={"durations": 1.0, "faults": ["poll 1-2: partial"]}) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(0.5)
        await tell(doitong, job.id, url="https://evil.example/fox.jpg")
        await job
        assert [look.at for look in seen(emulator, "poll")] == [2.0, 4.0, 6.0]


@virtual
async def test_a_forged_webhook_changes_nothing() -> None:
    """401, and the job goes on."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        body = webhook_body(job.id, "failed")
        with pytest.raises(WebhookSignatureError):
            await doitong.webhooks.deliver(body, signed(body, "another"))
        assert job.status == "processing"
        assert (await job).url
        assert job.status == "completed"


@virtual
async def test_without_a_word_the_net_looks_at_thirty_seconds_then_twice_as_late() -> None:
    """While it is not known how long such jobs take."""
    async with with_emulator(**HOOKED, emulator={"durations": 200.0}) as (doitong, emulator):
        await doitong.generate("a fox")
        assert [look.at for look in seen(emulator, "poll")] == [30.0, 60.0, 120.0, 180.0, 240.0]


@virtual
async def test_once_the_mean_is_known_the_net_hangs_at_four_times_that() -> None:
    """Of a lost webhook of a job of 3 s one hears after 12 s."""
    rules = {"durations": 3.0, "faults": ["webhook 6: lost"]}
    async with emulated(plan=Plan.PRO, webhooks=True, emulator=rules) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(5)))
        assert now() == 3.0
        await doitong.generate("lost")
        assert now() == 15.0
        assert set(doitong.stats().mean_seconds.values()) == {3.0}


@virtual
async def test_a_lost_webhook_lets_nobody_time_out_nor_a_slot_grow_old() -> None:
    """The first look comes before both."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}, timeout=20.0) as (doitong, _):
        await doitong.generate("a fox")
        assert now() == 16.0
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}, slot_expiry=12.0) as (doitong, _):
        begun = now()
        await doitong.generate("a fox")
        assert now() - begun == 8.0


@virtual
async def test_a_job_taken_up_is_looked_at_at_once() -> None:
    """Its webhook may have come before, to a process that is gone."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        token, job_id = job.token, job.id
        await doitong.aclose()
        await asyncio.sleep(10)
        async with doitong:
            await doitong.job(token)
        async with doitong:
            await doitong.job(job_id)
        assert now() == 10.0
        assert len(seen(emulator, "poll")) == 2


@virtual
async def test_a_job_taken_up_hears_what_came_before() -> None:
    """News of a job that nobody watched yet is kept for a while."""
    async with with_emulator(**HOOKED, output_hosts=["cdn.doitong.com"]) as (doitong, emulator):
        await tell(doitong, "from-elsewhere")
        result = await doitong.job("from-elsewhere")
        assert result.url == "https://cdn.doitong.com/outputs/from-elsewhere.jpg"
        assert doitong.stats().in_flight == 0
        assert not seen(emulator, "poll")


@virtual
async def test_late_news_reaches_who_still_holds_a_job_that_was_let_go() -> None:
    """Its slot was free again at its greatest age; the result is there without a look."""
    async with with_emulator(**HOOKED, emulator={"durations": 500.0}, slot_expiry=60.0) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(100)
        assert doitong.stats().in_flight == 0
        looks = len(seen(emulator, "poll"))
        await tell(doitong, job.id)
        assert job.status == "completed"
        assert (await job).id == job.id
        assert (len(seen(emulator, "poll")), doitong._running().limiter.slots_taken) == (looks, 0)


@virtual
async def test_a_job_believed_lost_is_there_again_when_there_is_word_of_it() -> None:
    """A status query that does not know it may be wrong; a signed webhook is not."""
    async with with_emulator(**HOOKED) as (doitong, _):
        job = doitong.job("unknown-to-the-query")
        with pytest.raises(JobNotFoundError):
            await job
        await tell(doitong, job.id, "processing")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        await tell(doitong, job.id)
        assert (await waiting).url
        assert job.status == "completed"


@virtual
async def test_a_completed_job_that_is_waited_for_again_holds_no_slot() -> None:
    """The look that decides frees it."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0}, slot_expiry=3.0) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(8)
        await tell(doitong, job.id, url="https://evil.example/fox.jpg")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        assert str((await waiting).url).startswith(emulator.outputs_url)
        assert doitong._running().limiter.slots_taken == 0


@virtual
async def test_webhooks_go_on_where_the_status_query_is_not_known() -> None:
    """It is not documented: who has webhooks must not depend on it."""
    async with plain(
        seconds=100.0, behaviour=Behaviour(status_field="task", introspection=False), timeout=70.0, **HOOKED
    ) as (doitong, _):
        first, second = await doitong.submit("one"), await doitong.submit("two")
        waiting = asyncio.ensure_future(first.wait())
        await asyncio.sleep(40)
        await tell(doitong, first.id, url="http://127.0.0.1:1/one.jpg")
        assert (await waiting).url
        with pytest.raises(JobTimeoutError, match="status"):
            await second
        third = await doitong.submit("three")
        await tell(doitong, third.id, "failed")
        assert third.status is JobStatus.FAILED


@pytest.mark.slow
@virtual
async def test_a_thousand_webhooks_at_once_lose_none() -> None:
    """A thousand are awaited, a thousand come; each is one request and no more."""
    events: list[Event] = []
    async with emulated(**crowded(), on_event=events.append) as doitong:
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(1000)))
    assert len({result.id for result in results}) == 1000
    assert now() <= 8
    taken = [event for event in events if isinstance(event, WebhookReceived)]
    assert len({event.job_id for event in taken}) == len(taken) == 1000
    sent = Counter(type(event).__name__ for event in events)["RequestSent"]
    assert sent <= 1100


@virtual
async def test_with_every_second_webhook_lost_nothing_is_lost_nor_waits_longer_than_the_net() -> None:
    """Thirty seconds, or four times the mean; a look brings all that are overdue."""
    events: list[Event] = []
    rules = {"durations": 6.0, "faults": ["webhook: lost every=2"], "credits": 10**6}
    async with emulated(webhooks=True, emulator=rules, on_event=events.append) as doitong:
        results = await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(100)))
    assert len({result.id for result in results}) == 100
    waits = [event.seconds for event in events if isinstance(event, JobFinished)]
    assert len(waits) == 100
    assert max(waits) <= 30.0
    assert max(waits[50:]) <= 4 * 6.0 + 2.0
    assert sum(isinstance(event, WebhookReceived) for event in events) > 40


@virtual
async def test_with_all_webhooks_lost_the_net_does_not_grow() -> None:
    """What is seen late teaches nothing of how long jobs take."""
    events: list[Event] = []
    rules = {"durations": 6.0, "faults": ["webhook: forged"], "credits": 10**6}
    async with emulated(webhooks=True, emulator=rules, on_event=events.append) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(60)))
        assert doitong.stats().mean_seconds == {}
    assert max(event.seconds for event in events if isinstance(event, JobFinished)) <= 32.0


@virtual
async def test_a_failing_callback_harms_nothing() -> None:
    """The client's own hook is told, and cannot stop the news."""

    def broken(_: Event) -> None:
        raise RuntimeError("broken")

    async with emulated(webhooks=True, emulator={"durations": 3.0}, on_event=broken) as doitong:
        assert (await doitong.generate("a fox")).url
        assert now() == 3.0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"webhook_url": "http://example.com/"}, "https"),
        ({"webhook_url": "ftp://example.com/"}, "expected a public URL"),
        ({"webhook_url": "https://"}, "expected a public URL"),
        ({"webhook_url": "https://me:pass@example.com/"}, "user"),
        ({"webhook_url": "https://example.com/#here"}, "fragment"),
        ({"webhook_url": 7}, "expected a public URL"),
        ({"webhook_url": "https://example.com/", "webhook_secret": None}, "DOITONG_WEBHOOK_SECRET"),
        ({"webhook_secret": ""}, "webhook_secret"),
        ({"webhook_field": "options."}, "webhook_field"),
        ({"webhook_field": 3}, "webhook_field"),
        ({"output_hosts": ["https://cdn.example"]}, "output_hosts"),
    ],
)
def test_what_cannot_be_is_said_at_once(wrong: dict[str, Any], says: str) -> None:
    """Naming the setting, and showing no secret."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        AsyncDoitong(**{"api_key": "k", "webhook_secret": SECRET, **wrong})
    assert SECRET not in str(caught.value)
    assert "pass" not in str(caught.value)


def test_the_secret_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In no repr; an empty variable is none."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    doitong = AsyncDoitong(api_key="k", webhook_url="https://example.com/doitong/")
    assert doitong.webhooks.aiohttp_app()
    shown = repr([doitong, doitong._shared.settings, doitong.webhooks, vars(doitong)])
    assert SECRET not in shown
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", "")
    with pytest.raises(ConfigurationError, match="no webhook secret"):
        AsyncDoitong(api_key="k").webhooks.aiohttp_app()


@virtual
async def test_a_job_taken_up_is_looked_at_at_once_although_others_wait_for_slots() -> None:
    """The net of the others hangs far off; its news may be gone by."""
    async with with_emulator(Plan.FREE, **HOOKED, emulator={"durations": 20.0}) as (doitong, emulator):
        first = await doitong.submit("runs")
        waiting = asyncio.ensure_future(doitong.submit("waits for its slot"))
        await asyncio.sleep(5)
        with pytest.raises(JobNotFoundError):
            await doitong.job("unknown").wait(timeout=12)
        assert seen(emulator, "poll")[0].at == 5.0
        await tell(doitong, first.id)
        await tell(doitong, (await waiting).id)


@virtual
async def test_a_look_in_the_net_asks_only_for_as_many_as_fit_beside() -> None:
    """Of 250 jobs one is overdue: one request, and not three."""
    async with with_emulator(CROWD, **HOOKED, emulator={"durations": 100.0}) as (doitong, emulator):
        old = await doitong.submit("overdue")
        await asyncio.sleep(20)
        young = [await doitong.submit(f"fox {n}") for n in range(250)]
        await asyncio.sleep(15)
        assert [len(look.ids) for look in seen(emulator, "poll")] == [100]
        assert old.id in seen(emulator, "poll")[0].ids
        for job in (old, *young):
            await tell(doitong, job.id)


@pytest.mark.parametrize("fault", ["poll 1: 502", "poll 1: partial", "job: late 31"])
@virtual
async def test_a_look_in_the_net_that_brings_nothing_is_made_again_soon(fault: str) -> None:
    """As without webhooks, and not as late as the net would have it."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0, "faults": [fault]}) as (doitong, emulator):
        assert (await doitong.generate("a fox")).url
        assert [look.at for look in seen(emulator, "poll")] == [30.0, 32.0]


@virtual
async def test_a_hint_does_not_outlive_the_look_that_denies_it() -> None:
    """A signed `completed` with a foreign URL, of a job that failed: it failed, nothing is learned."""
    async with with_emulator(
        **HOOKED, emulator={"durations": 5.0, "faults": ["webhook: lost", "job 1: fail"]}
    ) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await tell(doitong, job.id, url="https://evil.example/fox.jpg")
        with pytest.raises(JobFailedError):
            await job
        assert doitong.stats().mean_seconds == {}
        assert len(seen(emulator, "poll")) < 5


@virtual
async def test_whoever_waits_for_less_long_than_the_net_is_served() -> None:
    """The webhook is lost: a look comes before the deadline that `wait` was given."""
    async with with_emulator(**HOOKED, emulator={"durations": 5.0, "faults": ["webhook: lost"]}) as (
        doitong,
        _,
    ):
        job = await doitong.submit("a fox")
        assert (await job.wait(timeout=20)).url
        assert now() <= 18


@virtual
async def test_a_refresh_that_leaves_the_output_open_is_followed_up() -> None:
    """The watcher does not sleep on until the net's next look."""
    async with with_emulator(
        **HOOKED, emulator={"durations": 5.0, "faults": ["webhook: lost", "poll 1: partial"]}
    ) as (
        doitong,
        _,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(8)
        await job.refresh()
        await job
        assert now() <= 12


@virtual
async def test_a_hook_that_is_cancelled_is_asked_again() -> None:
    """Something of the hook's own was cancelled, and not the request: 503, as for any failure."""
    calls: list[int] = []

    async def hook(_: Generation) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise asyncio.CancelledError

    async with with_emulator(**HOOKED) as (doitong, _):
        job = await doitong.submit("a fox")
        handler = doitong.webhooks._handler(hook, 1.0)
        update = await job.refresh()
        assert not await handler._is_kept(update)
        assert await handler._is_kept(update)


def test_no_error_shows_a_password() -> None:
    """Whatever else is wrong with the address."""
    for url in ("ftp://user:hunter2@host/", "https://user:hunter2@ho st/"):
        with pytest.raises(ConfigurationError) as caught:
            AsyncDoitong(api_key="k", webhook_url=url, webhook_secret="s")
        assert "hunter2" not in str(caught.value)
