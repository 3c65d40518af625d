"""The endpoint: who gets an event, which events it keeps, and which it does not trust."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doitong_async import (
    ClientClosedError,
    ConfigurationError,
    DoitongError,
    Generation,
    JobStatus,
    WebhookPayloadError,
    WebhookSignatureError,
)
from doitong_async.callbacks import Throw
from doitong_async.events import Event, Hook, WebhookDropped, WebhookReceived
from doitong_async.jobs import lifecycle
from doitong_async.testing import VirtualTimeLoop
from doitong_async.webhooks.endpoint import REMEMBERED, Webhooks
from doitong_async.webhooks.hosts import OutputHosts
from doitong_async.webhooks.unmatched import MOST
from tests.virtual import now, virtual
from tests.webhooks.bodies import SECRET, signed, webhook_body


class Receiver:
    """An endpoint, the jobs tracked behind it, and its events."""

    def __init__(self, *tracked: str, secrets: Any = SECRET, is_open: bool = True, **settings: Any) -> None:
        self.jobs = {job_id: Generation(id=job_id, status=JobStatus.PROCESSING) for job_id in tracked}
        self.events: list[tuple[float, Event]] = []
        notify = Hook(lambda event: self.events.append((now(), event)))
        self.endpoint = Webhooks(secrets, notify=notify, **settings)
        for job_id in tracked:
            assert self.endpoint.adopt(job_id) is None
        if is_open:
            self.endpoint.open(self.take)

    def take(self, update: Generation) -> Throw | None:
        """Do what the poller does: merge updates of tracked jobs, and ignore settled ones."""
        if update.id not in self.jobs or lifecycle.is_settled(self.jobs[update.id]):
            return None
        self.jobs[update.id] = lifecycle.merge(self.jobs[update.id], update)
        return lambda error: False

    async def deliver(self, *bodies: bytes) -> None:
        """Deliver these bodies, signed."""
        for body in bodies:
            await self.endpoint.deliver(body, signed(body))

    @property
    def dropped(self) -> list[tuple[float, str]]:
        return [(at, event.job_id) for at, event in self.events if isinstance(event, WebhookDropped)]


@virtual
async def test_an_update_reaches_its_tracked_job() -> None:
    """At once, with an event; other jobs do not change."""
    receiver = Receiver("a", "b")
    await receiver.deliver(webhook_body("a"))
    assert (receiver.jobs["a"].status, receiver.jobs["a"].url) == (
        "completed",
        "https://cdn.doitong.com/outputs/a.jpg",
    )
    assert receiver.jobs["b"].status == "processing"
    assert receiver.events == [(0.0, WebhookReceived(job_id="a", status=JobStatus.COMPLETED))]


@virtual
async def test_a_signed_failure_is_trusted() -> None:
    """No poll confirms it."""
    receiver = Receiver("a")
    await receiver.deliver(webhook_body("a", "failed"))
    assert receiver.jobs["a"].status == "failed"


@virtual
async def test_replays_are_harmless() -> None:
    """A repeated or older event changes nothing, is not kept, and is not reported as dropped."""
    receiver = Receiver("a")
    await receiver.deliver(webhook_body("a"))
    before = receiver.jobs["a"]
    await receiver.deliver(
        webhook_body("a"),
        webhook_body("a", "processing"),
        webhook_body("a", url="https://cdn.doitong.com/other"),
    )
    assert receiver.jobs["a"] is before
    assert receiver.endpoint.adopt("a") is None
    await asyncio.sleep(100)
    assert receiver.dropped == []


@virtual
async def test_a_url_on_another_host_is_not_used() -> None:
    """The job has ended but is not settled: one poll decides."""
    receiver = Receiver("a")
    await receiver.deliver(webhook_body("a", url="https://evil.example/a.jpg"))
    assert (receiver.jobs["a"].status, receiver.jobs["a"].url) == ("completed", None)
    assert not lifecycle.is_settled(receiver.jobs["a"])
    update = await receiver.endpoint.accept(
        webhook_body("a", url="http://127.0.0.1:1/a"), signed(webhook_body("a", url="http://127.0.0.1:1/a"))
    )
    assert update.url is None


@virtual
async def test_loopback_urls_are_trusted_from_a_service_on_loopback() -> None:
    """An emulator's outputs are on this machine."""
    receiver = Receiver("a", outputs=OutputHosts(loopback=True))
    await receiver.deliver(webhook_body("a", url="http://127.0.0.1:1/a"))
    assert receiver.jobs["a"].url == "http://127.0.0.1:1/a"


@virtual
async def test_an_unmatched_event_is_kept_until_its_job_is_known() -> None:
    """Events may come in any order; the end stays the end."""
    receiver = Receiver()
    await receiver.deliver(webhook_body("a"), webhook_body("a", "processing"))
    assert receiver.events == []
    adopted = receiver.endpoint.adopt("a")
    assert adopted is not None
    assert (adopted.status, adopted.url) == ("completed", "https://cdn.doitong.com/outputs/a.jpg")
    assert receiver.endpoint.adopt("a") is None
    await asyncio.sleep(100)
    assert receiver.dropped == []


@virtual
async def test_unmatched_events_are_dropped_after_a_minute() -> None:
    """Each drop is an event."""
    receiver = Receiver()
    await receiver.deliver(webhook_body("a"))
    await asyncio.sleep(20)
    await receiver.deliver(webhook_body("b"), webhook_body("a"))
    await asyncio.sleep(100)
    await receiver.deliver(webhook_body("c"))
    await asyncio.sleep(100)
    assert receiver.dropped == [(60.0, "a"), (80.0, "b"), (180.0, "c")]


@virtual
async def test_a_late_event_of_a_finished_job_is_ignored() -> None:
    """A poll saw its end already, so nothing was lost and nothing is reported."""
    receiver = Receiver("a")
    del receiver.jobs["a"]
    await receiver.deliver(webhook_body("a"))
    assert receiver.endpoint.adopt("a") is None
    await asyncio.sleep(100)
    assert receiver.events == []


@virtual
async def test_the_number_of_unmatched_events_is_bounded() -> None:
    """The endpoint evicts the oldest, with an event."""
    receiver = Receiver()
    await receiver.deliver(*(webhook_body(f"j{n}") for n in range(MOST + 1)))
    assert receiver.dropped == [(0.0, "j0")]
    receiver.endpoint.close()


@virtual
async def test_the_number_of_remembered_jobs_is_bounded() -> None:
    """A late event of a forgotten job is unmatched."""
    receiver = Receiver(*(f"w{n}" for n in range(REMEMBERED + 1)))
    receiver.jobs.clear()
    await receiver.deliver(webhook_body("w0"), webhook_body("w1"))
    await asyncio.sleep(100)
    assert receiver.dropped == [(60.0, "w0")]


@virtual
async def test_a_closed_endpoint_accepts_nothing() -> None:
    """Neither before it opens nor after it closes; closing drops the events it kept."""
    receiver = Receiver("a", is_open=False)
    with pytest.raises(ClientClosedError) as caught:
        await receiver.deliver(webhook_body("a"))
    assert caught.value.job_id == "a"
    with pytest.raises(WebhookSignatureError):
        await receiver.endpoint.deliver(webhook_body("a"), signed(b""))
    receiver.endpoint.open(receiver.take)
    await receiver.deliver(webhook_body("b"))
    receiver.endpoint.close()
    assert receiver.dropped == [(0.0, "b")]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert loop._next_timer() is None
    with pytest.raises(ClientClosedError):
        await receiver.deliver(webhook_body("a"))
    assert receiver.jobs["a"].status == "processing"
    receiver.endpoint.open(receiver.take)
    await receiver.deliver(webhook_body("a"))
    assert receiver.jobs["a"].status == "completed"
    receiver.endpoint.close()


def test_on_another_loop_the_endpoint_accepts_nothing() -> None:
    """The poller belongs to one loop, and no other may touch it."""

    async def make() -> Receiver:
        return Receiver("a")

    receiver = asyncio.run(make())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(receiver.deliver(webhook_body("a")))
    assert receiver.jobs["a"].status == "processing"


@virtual
async def test_deliver_raises_what_is_wrong() -> None:
    """A caller with its own queue has no HTTP statuses."""
    receiver = Receiver("a")
    for header in (None, "", signed(b"")):
        with pytest.raises(WebhookSignatureError):
            await receiver.endpoint.deliver(webhook_body("a"), header)
    with pytest.raises(WebhookPayloadError):
        await receiver.deliver(b"{}")
    assert receiver.events == []


@virtual
async def test_several_secrets_are_valid_at_once() -> None:
    """So a secret can be rotated."""
    receiver = Receiver("a", "b", secrets=["new", b"old"])
    for job_id, secret in (("a", "old"), ("b", "new")):
        await receiver.endpoint.deliver(webhook_body(job_id), signed(webhook_body(job_id), secret))
    assert {job.status for job in receiver.jobs.values()} == {"completed"}


@virtual
async def test_without_a_secret_there_is_no_endpoint() -> None:
    """The error names the setting and the variable; nothing is accepted."""
    receiver = Receiver("a", secrets=None)
    body = webhook_body("a")
    for call in (receiver.endpoint.aiohttp_app, receiver.endpoint.asgi_app):
        with pytest.raises(ConfigurationError, match=r"webhook_secret=… or set DOITONG_WEBHOOK_SECRET"):
            call()
    with pytest.raises(ConfigurationError, match=r"webhook_secret=… or set DOITONG_WEBHOOK_SECRET"):
        await receiver.endpoint.accept(body, signed(body, ""))
    with pytest.raises(ConfigurationError):
        await receiver.deliver(body)
    with pytest.raises(ConfigurationError, match="webhook_secret is no secret"):
        Webhooks("")


def test_no_repr_shows_the_secret() -> None:
    """Neither the endpoint's nor its applications'."""
    endpoint = Webhooks(SECRET)
    assert SECRET not in repr(endpoint) + repr(endpoint.asgi_app()) + repr(endpoint.aiohttp_app())


@given(st.binary(), st.none() | st.text())
def test_garbage_raises_only_our_errors(body: bytes, header: str | None) -> None:
    """Signed or not, it changes no job."""

    async def run() -> None:
        receiver = Receiver("a")
        with pytest.raises(WebhookSignatureError):
            await receiver.endpoint.deliver(body, header)
        with pytest.raises(DoitongError):
            await receiver.deliver(body)
        assert receiver.jobs["a"].status == "processing"

    asyncio.run(run())
