"""Webhooks in an open client: they wake the awaiter, and safety-net polls catch what they miss."""

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

WITH_WEBHOOKS: dict[str, Any] = {"webhook_url": "http://127.0.0.1:9/", "webhook_secret": SECRET}
"""The settings of a client whose webhooks the tests deliver themselves."""
LARGE_PLAN = Plan.enterprise(requests_per_minute=3000, concurrent_jobs=1000)


async def deliver(doitong: AsyncDoitong, job_id: str, status: str = "completed", **fields: Any) -> None:
    """Deliver a signed webhook."""
    body = webhook_body(job_id, status, **fields)
    await doitong.webhooks.deliver(body, signed(body))


def crowded(**emulator: Any) -> dict[str, Any]:
    """Return the arguments of a client and an emulator that run a thousand jobs at once."""
    return {
        "plan": LARGE_PLAN,
        "webhooks": True,
        "emulator": {"durations": 6.0, "credits": 10**6, **emulator},
    }


@pytest.mark.parametrize("form", ["graphql", "graphql-flat", "rest"])
@virtual
async def test_a_webhook_wakes_the_awaiter_without_any_poll(form: Any) -> None:
    """At the moment the job ends, with everything a poll would bring, for one request, in every form."""
    events: list[Event] = []
    async with emulated(
        webhooks=True, transport=form, emulator={"durations": 5.5}, on_event=events.append
    ) as doitong:
        result = await doitong.generate("a fox")
        assert now() == 5.5
        # Neither the documented answer of the flat form nor a webhook names the cost.
        cost = None if form == "graphql-flat" else 20
        assert (result.credit_cost, result.provider) == (cost, "flux-pro")
        assert result.url
        assert await result.read()
    names = Counter(type(event).__name__ for event in events)
    assert (names["RequestSent"], names["WebhookReceived"], names["JobFinished"]) == (1, 1, 1)


@virtual
async def test_the_webhook_frees_the_slot() -> None:
    """Free runs one job at a time: eight jobs take exactly eight times as long as one."""
    async with emulated(plan=Plan.FREE, webhooks=True, emulator={"durations": 7.25}) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(8)))
        assert now() == 8 * 7.25


@pytest.mark.parametrize(
    ("place", "where"),
    [(None, ()), ("options.webhookUrl", ("options",)), ("input.hooks.done", ("input", "hooks"))],
)
@virtual
async def test_webhook_field_sets_where_the_url_is_sent(place: str | None, where: tuple[str, ...]) -> None:
    """Beside `type` by default, with each submit."""
    settings: dict[str, Any] = {} if place is None else {"webhook_field": place}
    sent_inputs: list[Any] = []
    async with with_emulator(**WITH_WEBHOOKS, **settings) as (doitong, _):
        runtime = doitong._running()
        send = runtime.transport.send

        async def record_and_send(body: bytes, **more: Any) -> Any:
            sent_inputs.append(json.loads(body)["variables"]["input"])
            return await send(body, **more)

        runtime.transport.send = record_and_send  # type: ignore[assignment,method-assign]
        await doitong.submit("a fox", width=512)
    (fields,) = sent_inputs
    assert fields["options"]["width"] == 512
    for name in where:
        fields = fields[name]
    assert fields["done" if place and place.endswith("done") else "webhookUrl"] == "http://127.0.0.1:9/"


@virtual
async def test_views_and_reopened_clients_share_one_endpoint() -> None:
    """The endpoint exists before the client opens and after it closes."""
    async with Emulator(durations=50.0) as emulator:
        doitong = AsyncDoitong(api_key="k", base_url=emulator.url, **WITH_WEBHOOKS)
        endpoint = doitong.webhooks
        assert endpoint is doitong.with_options(width=512).webhooks
        with pytest.raises(ClientClosedError):
            await deliver(doitong, "a")
        for _ in range(2):
            async with doitong:
                job = await doitong.submit("a fox")
                await deliver(doitong, job.id, url=f"{emulator.outputs_url}/{job.id}.jpg")
                assert (await job).id == job.id
            with pytest.raises(ClientClosedError):
                await deliver(doitong, "a")
        assert doitong.webhooks is endpoint


@virtual
async def test_a_closing_client_accepts_no_webhook() -> None:
    """The service must send it again; the awaiter gets the token."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 50.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(1)
        closing = asyncio.ensure_future(doitong.aclose())
        with pytest.raises(ClientClosedError):
            await waiting
        with pytest.raises(ClientClosedError):
            await deliver(doitong, job.id)
        await closing


@virtual
async def test_a_webhook_before_the_answer_to_the_submit_is_not_lost() -> None:
    """The service holds the answer back until it has sent the webhook."""
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
async def test_a_url_on_another_host_causes_one_poll_at_once() -> None:
    """A signed webhook may name any host, so the client does not use its URL."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}) as (doitong, emulator):
        job = await doitong.submit("a fox")
        await asyncio.sleep(7)
        await deliver(doitong, job.id, url="https://evil.example/fox.jpg")
        # The client takes neither URL nor status: a poll decides both.
        assert (job.status, job.last.url) == ("processing", None)
        result = await job
        assert now() == 7.0
        assert str(result.url).startswith(emulator.outputs_url)
        assert len(seen(emulator, "poll")) == 1


@virtual
async def test_the_poll_about_a_foreign_url_waits_until_two_seconds_after_the_submit() -> None:
    """While the service has no URL yet, polls come every 2 s, not as rarely as safety-net polls."""
    async with with_emulator(
        **WITH_WEBHOOKS, emulator={"durations": 1.0, "faults": ["poll 1-2: partial"]}
    ) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(0.5)
        await deliver(doitong, job.id, url="https://evil.example/fox.jpg")
        await job
        assert [poll.at for poll in seen(emulator, "poll")] == [2.0, 4.0, 6.0]


@virtual
async def test_a_forged_webhook_changes_nothing() -> None:
    """It is rejected, and the job goes on."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}) as (doitong, _):
        job = await doitong.submit("a fox")
        body = webhook_body(job.id, "failed")
        with pytest.raises(WebhookSignatureError):
            await doitong.webhooks.deliver(body, signed(body, "another"))
        assert job.status == "processing"
        assert (await job).url
        assert job.status == "completed"


@virtual
async def test_without_a_webhook_safety_net_polls_start_at_thirty_seconds() -> None:
    """Each then comes twice as late, while the duration of such jobs is unknown."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 200.0}) as (doitong, emulator):
        await doitong.generate("a fox")
        assert [poll.at for poll in seen(emulator, "poll")] == [30.0, 60.0, 120.0, 180.0, 240.0]


@virtual
async def test_a_known_mean_sets_the_first_safety_net_poll_to_four_times_it() -> None:
    """For a job of 3 s with a lost webhook it comes after 12 s."""
    rules = {"durations": 3.0, "faults": ["webhook 6: lost"]}
    async with emulated(plan=Plan.PRO, webhooks=True, emulator=rules) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(5)))
        assert now() == 3.0
        await doitong.generate("lost")
        assert now() == 15.0
        assert set(doitong.stats().mean_seconds.values()) == {3.0}


@virtual
async def test_a_lost_webhook_causes_no_timeout_and_no_slot_expiry() -> None:
    """The first safety-net poll comes before both."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}, timeout=20.0) as (doitong, _):
        await doitong.generate("a fox")
        assert now() == 16.0
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}, slot_expiry=12.0) as (doitong, _):
        begun = now()
        await doitong.generate("a fox")
        assert now() - begun == 8.0


@virtual
async def test_a_resumed_job_is_polled_at_once() -> None:
    """An earlier process may have received its webhook."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}) as (doitong, emulator):
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
async def test_a_resumed_job_gets_its_unmatched_event() -> None:
    """The endpoint keeps it for a while, so no poll is needed."""
    async with with_emulator(**WITH_WEBHOOKS, output_hosts=["cdn.doitong.com"]) as (doitong, emulator):
        await deliver(doitong, "from-elsewhere")
        result = await doitong.job("from-elsewhere")
        assert result.url == "https://cdn.doitong.com/outputs/from-elsewhere.jpg"
        assert doitong.stats().in_flight == 0
        assert not seen(emulator, "poll")


@virtual
async def test_a_late_webhook_reaches_a_job_dropped_at_slot_expiry() -> None:
    """Its handle gets the result without a poll or a slot."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 500.0}, slot_expiry=60.0) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(100)
        assert doitong.stats().in_flight == 0
        polls_before = len(seen(emulator, "poll"))
        await deliver(doitong, job.id)
        assert job.status == "completed"
        assert (await job).id == job.id
        assert (len(seen(emulator, "poll")), doitong._running().limiter.slots_taken) == (polls_before, 0)


@virtual
async def test_a_webhook_revives_a_job_that_a_poll_did_not_find() -> None:
    """The status query may be wrong; a signed webhook is not."""
    async with with_emulator(**WITH_WEBHOOKS) as (doitong, _):
        job = doitong.job("unknown-to-the-query")
        with pytest.raises(JobNotFoundError):
            await job
        await deliver(doitong, job.id, "processing")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        await deliver(doitong, job.id)
        assert (await waiting).url
        assert job.status == "completed"


@virtual
async def test_a_completed_job_awaited_again_holds_no_slot() -> None:
    """The poll that decides frees it."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0}, slot_expiry=3.0) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await asyncio.sleep(8)
        await deliver(doitong, job.id, url="https://evil.example/fox.jpg")
        waiting = asyncio.ensure_future(job.wait())
        await asyncio.sleep(0)
        assert str((await waiting).url).startswith(emulator.outputs_url)
        assert doitong._running().limiter.slots_taken == 0


@virtual
async def test_webhooks_work_without_a_status_query() -> None:
    """The query is undocumented, so webhooks must not depend on it."""
    async with plain(
        seconds=100.0,
        behaviour=Behaviour(status_field="task", introspection=False),
        timeout=70.0,
        **WITH_WEBHOOKS,
    ) as (doitong, _):
        first, second = await doitong.submit("one"), await doitong.submit("two")
        waiting = asyncio.ensure_future(first.wait())
        await asyncio.sleep(40)
        await deliver(doitong, first.id, url="http://127.0.0.1:1/one.jpg")
        assert (await waiting).url
        with pytest.raises(JobTimeoutError, match="status"):
            await second
        third = await doitong.submit("three")
        await deliver(doitong, third.id, "failed")
        assert third.status is JobStatus.FAILED


@pytest.mark.slow
@virtual
async def test_a_thousand_webhooks_at_once_all_arrive() -> None:
    """Each of a thousand jobs costs one request and gets one webhook."""
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
async def test_with_every_second_webhook_lost_safety_net_polls_bound_the_wait() -> None:
    """The wait is 30 s or four times the mean; one poll brings all overdue jobs."""
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
async def test_with_all_webhooks_lost_safety_net_polls_do_not_get_later() -> None:
    """A late poll does not show how long jobs take."""
    events: list[Event] = []
    rules = {"durations": 6.0, "faults": ["webhook: forged"], "credits": 10**6}
    async with emulated(webhooks=True, emulator=rules, on_event=events.append) as doitong:
        await asyncio.gather(*(doitong.generate(f"fox {n}") for n in range(60)))
        assert doitong.stats().mean_seconds == {}
    assert max(event.seconds for event in events if isinstance(event, JobFinished)) <= 32.0


@virtual
async def test_a_failing_callback_harms_nothing() -> None:
    """An exception in the user's callback cannot stop an update."""

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
def test_an_invalid_webhook_setting_is_rejected_at_once(wrong: dict[str, Any], says: str) -> None:
    """The error names the setting and shows no secret."""
    with pytest.raises(ConfigurationError, match=says) as caught:
        AsyncDoitong(**{"api_key": "k", "webhook_secret": SECRET, **wrong})
    assert SECRET not in str(caught.value)
    assert "pass" not in str(caught.value)


def test_a_secret_from_the_environment_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No repr contains it; an empty variable counts as none."""
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", SECRET)
    doitong = AsyncDoitong(api_key="k", webhook_url="https://example.com/doitong/")
    assert doitong.webhooks.aiohttp_app()
    shown = repr([doitong, doitong._shared.settings, doitong.webhooks, vars(doitong)])
    assert SECRET not in shown
    monkeypatch.setenv("DOITONG_WEBHOOK_SECRET", "")
    with pytest.raises(ConfigurationError, match="no webhook secret"):
        AsyncDoitong(api_key="k").webhooks.aiohttp_app()


@pytest.mark.parametrize("form", ["graphql", "rest"])
@virtual
async def test_a_resumed_job_is_polled_at_once_while_others_wait_for_slots(form: str) -> None:
    """The next safety-net poll is far off, and its webhook may have come already.

    Where each job has a poll of its own, jobs that wait for their webhooks do not delay it.
    """
    async with with_emulator(Plan.FREE, **WITH_WEBHOOKS, transport=form, emulator={"durations": 20.0}) as (
        doitong,
        emulator,
    ):
        first = await doitong.submit("runs")
        waiting = asyncio.ensure_future(doitong.submit("waits for its slot"))
        await asyncio.sleep(5)
        with pytest.raises(JobNotFoundError):
            await doitong.job("unknown").wait(timeout=12)
        assert seen(emulator, "poll")[0].at == 5.0
        await deliver(doitong, first.id)
        await deliver(doitong, (await waiting).id)


@virtual
async def test_a_safety_net_poll_takes_along_only_jobs_that_fit() -> None:
    """One of 250 jobs is overdue: one request, not three."""
    async with with_emulator(LARGE_PLAN, **WITH_WEBHOOKS, emulator={"durations": 100.0}) as (
        doitong,
        emulator,
    ):
        old = await doitong.submit("overdue")
        await asyncio.sleep(20)
        young = [await doitong.submit(f"fox {n}") for n in range(250)]
        await asyncio.sleep(15)
        assert [len(poll.ids) for poll in seen(emulator, "poll")] == [100]
        assert old.id in seen(emulator, "poll")[0].ids
        for job in (old, *young):
            await deliver(doitong, job.id)


@pytest.mark.parametrize("fault", ["poll 1: 502", "poll 1: partial", "job: late 31"])
@virtual
async def test_a_safety_net_poll_that_brings_nothing_is_repeated_soon(fault: str) -> None:
    """As soon as without webhooks, not at the next safety-net poll."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0, "faults": [fault]}) as (
        doitong,
        emulator,
    ):
        assert (await doitong.generate("a fox")).url
        assert [poll.at for poll in seen(emulator, "poll")] == [30.0, 32.0]


@virtual
async def test_a_poll_overrides_an_untrusted_completed() -> None:
    """The webhook said `completed` with a foreign URL; the job failed, and its duration is not learned."""
    async with with_emulator(
        **WITH_WEBHOOKS, emulator={"durations": 5.0, "faults": ["webhook: lost", "job 1: fail"]}
    ) as (
        doitong,
        emulator,
    ):
        job = await doitong.submit("a fox")
        await deliver(doitong, job.id, url="https://evil.example/fox.jpg")
        with pytest.raises(JobFailedError):
            await job
        assert doitong.stats().mean_seconds == {}
        assert len(seen(emulator, "poll")) < 5


@virtual
async def test_a_poll_comes_before_a_short_timeout() -> None:
    """The webhook is lost, but a poll precedes the deadline of `wait`."""
    async with with_emulator(**WITH_WEBHOOKS, emulator={"durations": 5.0, "faults": ["webhook: lost"]}) as (
        doitong,
        _,
    ):
        job = await doitong.submit("a fox")
        assert (await job.wait(timeout=20)).url
        assert now() <= 18


@virtual
async def test_a_refresh_without_a_url_is_followed_by_a_poll_soon() -> None:
    """The poller does not sleep until the next safety-net poll."""
    async with with_emulator(
        **WITH_WEBHOOKS, emulator={"durations": 5.0, "faults": ["webhook: lost", "poll 1: partial"]}
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
async def test_a_cancelled_hook_counts_as_failed() -> None:
    """The hook cancelled something of its own, not the request; the service sends again."""
    calls: list[int] = []

    async def cancelled_once(_: Generation) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise asyncio.CancelledError

    async with with_emulator(**WITH_WEBHOOKS) as (doitong, _):
        job = await doitong.submit("a fox")
        handler = doitong.webhooks._handler(cancelled_once, 1.0)
        update = await job.refresh()
        assert not await handler._is_kept(update)
        assert await handler._is_kept(update)


def test_no_error_shows_a_password() -> None:
    """Whatever else is wrong with the URL."""
    for url in ("ftp://user:hunter2@host/", "https://user:hunter2@ho st/"):
        with pytest.raises(ConfigurationError) as caught:
            AsyncDoitong(api_key="k", webhook_url=url, webhook_secret="s")
        assert "hunter2" not in str(caught.value)
