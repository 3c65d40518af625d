"""The door: to whom news goes, what is kept for a while, and what is not believed."""

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
from doitong_async.events import Event, WebhookDropped, WebhookReceived
from doitong_async.hook import Hook, Throw
from doitong_async.jobs import lifecycle
from doitong_async.testing import VirtualTimeLoop
from doitong_async.webhooks.endpoint import REMEMBERED, Webhooks
from doitong_async.webhooks.hosts import OutputHosts
from doitong_async.webhooks.unmatched import MOST
from tests.virtual import now, virtual
from tests.webhooks.letters import SECRET, letter, signed


class House:
    """A door, the jobs that are watched behind it, and what it said."""

    def __init__(self, *watched: str, secrets: Any = SECRET, is_open: bool = True, **settings: Any) -> None:
        self.jobs = {job_id: Generation(id=job_id, status=JobStatus.PROCESSING) for job_id in watched}
        self.events: list[tuple[float, Event]] = []
        notify = Hook(lambda event: self.events.append((now(), event)))
        self.door = Webhooks(secrets, notify=notify, **settings)
        for job_id in watched:
            assert self.door.adopt(job_id) is None
        if is_open:
            self.door.open(self.take)

    def take(self, update: Generation) -> Throw | None:
        """As the watcher does: merge news of what is watched, and let go of what is settled."""
        if update.id not in self.jobs or lifecycle.is_settled(self.jobs[update.id]):
            return None
        self.jobs[update.id] = lifecycle.merge(self.jobs[update.id], update)
        return lambda error: False

    async def hear(self, *bodies: bytes) -> None:
        """Deliver these, signed."""
        for body in bodies:
            await self.door.deliver(body, signed(body))

    @property
    def dropped(self) -> list[tuple[float, str]]:
        return [(at, event.job_id) for at, event in self.events if isinstance(event, WebhookDropped)]


@virtual
async def test_news_goes_to_the_watched_job() -> None:
    """At once, and is told of."""
    house = House("a", "b")
    await house.hear(letter("a"))
    assert (house.jobs["a"].status, house.jobs["a"].url) == (
        "completed",
        "https://cdn.doitong.com/outputs/a.jpg",
    )
    assert house.jobs["b"].status == "processing"
    assert house.events == [(0.0, WebhookReceived(job_id="a", status=JobStatus.COMPLETED))]


@virtual
async def test_a_failure_is_taken_as_such() -> None:
    """It is signed."""
    house = House("a")
    await house.hear(letter("a", "failed"))
    assert house.jobs["a"].status == "failed"


@virtual
async def test_replays_are_harmless() -> None:
    """The same again, or older news, changes nothing, is not kept, and is not told of as lost."""
    house = House("a")
    await house.hear(letter("a"))
    before = house.jobs["a"]
    await house.hear(letter("a"), letter("a", "processing"), letter("a", url="https://cdn.doitong.com/other"))
    assert house.jobs["a"] is before
    assert house.door.adopt("a") is None
    await asyncio.sleep(100)
    assert house.dropped == []


@virtual
async def test_a_url_elsewhere_is_not_used() -> None:
    """The job is over, and not settled: one look decides."""
    house = House("a")
    await house.hear(letter("a", url="https://evil.example/a.jpg"))
    assert (house.jobs["a"].status, house.jobs["a"].url) == ("completed", None)
    assert not lifecycle.is_settled(house.jobs["a"])
    update = house.door.accept(
        letter("a", url="http://127.0.0.1:1/a"), signed(letter("a", url="http://127.0.0.1:1/a"))
    )
    assert update.url is None


@virtual
async def test_loopback_is_believed_where_the_service_is() -> None:
    """An emulator's outputs are on this machine."""
    house = House("a", outputs=OutputHosts(loopback=True))
    await house.hear(letter("a", url="http://127.0.0.1:1/a"))
    assert house.jobs["a"].url == "http://127.0.0.1:1/a"


@virtual
async def test_early_news_is_kept_for_whoever_learns_of_the_job() -> None:
    """In any order; the end stays the end."""
    house = House()
    await house.hear(letter("a"), letter("a", "processing"))
    assert house.events == []
    adopted = house.door.adopt("a")
    assert adopted is not None
    assert (adopted.status, adopted.url) == ("completed", "https://cdn.doitong.com/outputs/a.jpg")
    assert house.door.adopt("a") is None
    await asyncio.sleep(100)
    assert house.dropped == []


@virtual
async def test_news_of_nobody_is_dropped_in_time() -> None:
    """After a minute each, with an event."""
    house = House()
    await house.hear(letter("a"))
    await asyncio.sleep(20)
    await house.hear(letter("b"), letter("a"))
    await asyncio.sleep(100)
    await house.hear(letter("c"))
    await asyncio.sleep(100)
    assert house.dropped == [(60.0, "a"), (80.0, "b"), (180.0, "c")]


@virtual
async def test_news_of_a_job_that_is_over_is_old() -> None:
    """It ended by a look, and its webhook comes late: nothing was lost, and nothing is told."""
    house = House("a")
    del house.jobs["a"]
    await house.hear(letter("a"))
    assert house.door.adopt("a") is None
    await asyncio.sleep(100)
    assert house.events == []


@virtual
async def test_what_is_kept_is_bounded() -> None:
    """The oldest gives way, with an event."""
    house = House()
    await house.hear(*(letter(f"j{n}") for n in range(MOST + 1)))
    assert house.dropped == [(0.0, "j0")]
    house.door.close()


@virtual
async def test_what_is_remembered_is_bounded() -> None:
    """Of the job that was known longest ago, late news is news of nobody."""
    house = House(*(f"w{n}" for n in range(REMEMBERED + 1)))
    house.jobs.clear()
    await house.hear(letter("w0"), letter("w1"))
    await asyncio.sleep(100)
    assert house.dropped == [(60.0, "w0")]


@virtual
async def test_until_it_is_open_nothing_is_taken() -> None:
    """Signed or not; and the same after it was closed, when what was kept is dropped."""
    house = House("a", is_open=False)
    with pytest.raises(ClientClosedError) as caught:
        await house.hear(letter("a"))
    assert caught.value.job_id == "a"
    with pytest.raises(WebhookSignatureError):
        await house.door.deliver(letter("a"), signed(b""))
    house.door.open(house.take)
    await house.hear(letter("b"))
    house.door.close()
    assert house.dropped == [(0.0, "b")]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert loop._next_timer() is None
    with pytest.raises(ClientClosedError):
        await house.hear(letter("a"))
    assert house.jobs["a"].status == "processing"
    house.door.open(house.take)
    await house.hear(letter("a"))
    assert house.jobs["a"].status == "completed"
    house.door.close()


def test_on_another_loop_nothing_is_taken() -> None:
    """The watcher is of one loop, and is not touched from another."""

    async def make() -> House:
        return House("a")

    house = asyncio.run(make())
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(house.hear(letter("a")))
    assert house.jobs["a"].status == "processing"


@virtual
async def test_what_is_wrong_is_raised() -> None:
    """To a queue of one's own, which has no statuses."""
    house = House("a")
    for header in (None, "", signed(b"")):
        with pytest.raises(WebhookSignatureError):
            await house.door.deliver(letter("a"), header)
    with pytest.raises(WebhookPayloadError):
        await house.hear(b"{}")
    assert house.events == []


@virtual
async def test_secrets_may_be_changed() -> None:
    """Each of several is good."""
    house = House("a", "b", secrets=["new", b"old"])
    for job_id, secret in (("a", "old"), ("b", "new")):
        await house.door.deliver(letter(job_id), signed(letter(job_id), secret))
    assert {job.status for job in house.jobs.values()} == {"completed"}


@virtual
async def test_without_a_secret_there_is_no_door() -> None:
    """It is told at once, with the setting and the variable, and nothing is taken."""
    house = House("a", secrets=None)
    body = letter("a")
    for call in (
        house.door.aiohttp_app,
        house.door.asgi_app,
        lambda: house.door.accept(body, signed(body, "")),
    ):
        with pytest.raises(ConfigurationError, match=r"webhook_secret=… or set DOITONG_WEBHOOK_SECRET"):
            call()
    with pytest.raises(ConfigurationError):
        await house.hear(body)
    with pytest.raises(ConfigurationError, match="webhook_secret is no secret"):
        Webhooks("")


def test_nothing_shows_the_secret() -> None:
    """Neither the door nor its receiver."""
    door = Webhooks(SECRET)
    assert SECRET not in repr(door) + repr(door.asgi_app()) + repr(door.aiohttp_app())


@given(st.binary(), st.none() | st.text())
def test_garbage_raises_only_our_errors(body: bytes, header: str | None) -> None:
    """And touches no job; signed garbage too."""

    async def run() -> None:
        house = House("a")
        with pytest.raises(WebhookSignatureError):
            await house.door.deliver(body, header)
        with pytest.raises(DoitongError):
            await house.hear(body)
        assert house.jobs["a"].status == "processing"

    asyncio.run(run())
