"""The emulator's webhooks: what it sends, when, how often and where, as a test receiver sees them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from doitong_async.emulator import Emulator, Fault, PlanLimits
from doitong_async.emulator.webhooks import address
from tests.virtual import now, until, virtual

SECRET = "whsec-emulated"
SMALL = {"service": "flux-pro", "prompt": "a fox", "width": 64, "height": 64}
DOCUMENTED = {
    "id": "abc123xyz",
    "status": "completed",
    "url": "https://cdn.doitong.com/outputs/abc123xyz.jpg",
    "service": "flux-kontext",
    "createdAt": "2024-01-01T00:00:00Z",
    "completedAt": "2024-01-01T00:01:00Z",
    "metadata": {"duration": None, "width": 1920, "height": 1080},
}
"""wire/webhook-completed.json of the API's reference."""


class Receiver:
    """A receiver with scripted answers, which records what it received."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.received: list[tuple[float, dict[str, Any]]] = []
        self.requests: list[tuple[bytes, dict[str, str]]] = []
        self.url = ""

    @property
    def updates(self) -> list[tuple[str, str]]:
        """Return the ids and statuses in the order of arrival."""
        return [(payload["id"], payload["status"]) for _, payload in self.received]

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((body, dict(request.headers)))
        self.received.append((now(), json.loads(body)))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, headers={"Location": "/elsewhere"} if status == 302 else None)


@asynccontextmanager
async def listening(receiver: Receiver, *faults: Fault | str, **settings: Any) -> AsyncIterator[Emulator]:
    """Run an emulator with these faults, and a receiver for its webhooks."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/done"
    try:
        more = {"plan": PlanLimits(600, 100, None), "durations": 5.0, "webhook_secret": SECRET, **settings}
        async with Emulator(faults=faults, **more) as emulator:
            yield emulator
    finally:
        await runner.cleanup()


async def submit(emulator: Emulator, url: object, **more: object) -> str:
    """Make one job over REST; return its id."""
    body = {**SMALL, "webhookUrl": url, **more}
    there = f"{emulator.url}/v1/text_to_image"
    async with (
        ClientSession() as session,
        session.post(there, json=body, headers={"X-API-Key": "k"}) as answer,
    ):
        assert answer.status == 200
        return str((await answer.json())["id"])


def outcomes(emulator: Emulator) -> list[tuple[str, int, str, int]]:
    return [(each.status, each.attempt, each.outcome, each.http_status) for each in emulator.posted]


@virtual
async def test_a_webhook_is_sent_when_the_job_ends() -> None:
    """Once, at that moment, signed and in the documented form; and it is recorded."""
    receiver = Receiver()
    async with listening(receiver) as emulator:
        job_id = await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    ((at, payload),) = receiver.received
    ((body, headers),) = receiver.requests
    expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Doitong-Signature"] == f"sha256={expected}"
    assert headers["Content-Type"] == "application/json"
    assert at == 5.0
    assert list(payload) == list(DOCUMENTED)
    assert (payload["id"], payload["status"], payload["service"]) == (job_id, "completed", "flux-pro")
    assert payload["metadata"] == {"duration": None, "width": 64, "height": 64}
    assert (payload["createdAt"], payload["completedAt"]) == ("2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z")
    (posted,) = emulator.posted
    assert (posted.at, posted.job_id, posted.url, posted.fault) == (5.0, job_id, receiver.url, None)
    assert outcomes(emulator) == [("completed", 1, "taken", 200)]


@virtual
async def test_the_url_of_a_webhook_can_be_fetched_at_once() -> None:
    """A poll, too, shows that the job has ended."""
    receiver = Receiver()
    async with listening(receiver, durations=0.1 + 0.2) as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(1)
        async with ClientSession() as session, session.get(receiver.received[0][1]["url"]) as answer:
            assert answer.status == 200


@virtual
async def test_a_failed_job_sends_a_webhook_too() -> None:
    """Without a URL; its form is undocumented."""
    receiver = Receiver()
    async with listening(receiver, "job: fail") as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(6)
    payload = receiver.received[0][1]
    assert (payload["status"], payload["url"], payload["service"]) == ("failed", None, "flux-pro")


@virtual
async def test_graphql_orders_have_webhooks_too() -> None:
    """One per alias."""
    receiver = Receiver()
    async with listening(receiver) as emulator, ClientSession() as session:
        query = "mutation($i: GenerateInput!) { a: generate(input: $i) { id } b: generate(input: $i) { id } }"
        order = {"type": "IMAGE", "provider": "p", "input": {"text": "a fox"}, "webhookUrl": receiver.url}
        body, key = {"query": query, "variables": {"i": order}}, {"Authorization": "Bearer k"}
        async with session.post(f"{emulator.url}/graphql", json=body, headers=key) as answer:
            made = [each["id"] for each in (await answer.json())["data"].values()]
        await asyncio.sleep(6)
    assert sorted(receiver.updates) == sorted((job_id, "completed") for job_id in made)


@virtual
async def test_a_replayed_submit_sends_no_second_webhook() -> None:
    """It is the same job."""
    receiver = Receiver()
    async with listening(receiver) as emulator, ClientSession() as session:
        body, headers = {**SMALL, "webhookUrl": receiver.url}, {"X-API-Key": "k", "Idempotency-Key": "one"}
        for _ in range(2):
            await (await session.post(f"{emulator.url}/v1/text_to_image", json=body, headers=headers)).read()
        await asyncio.sleep(60)
    assert len(receiver.received) == 1


@virtual
async def test_a_job_without_an_address_or_an_end_sends_nothing() -> None:
    """Nor does it count as a webhook."""
    receiver = Receiver()
    async with listening(receiver, "job 2: stuck", "webhook 2: lost") as emulator:
        await submit(emulator, None)
        await submit(emulator, receiver.url)
        await submit(emulator, receiver.url)
        await asyncio.sleep(3600)
    assert receiver.received == []
    assert outcomes(emulator) == [("completed", 0, "lost", 0)]


@virtual
async def test_a_webhook_is_retried_until_it_is_accepted() -> None:
    """After 1 s, 2 s, 4 s; any 2xx accepts it, and a redirect is not followed."""
    receiver = Receiver(500, 302, 401, 204)
    async with listening(receiver) as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(3600)
    assert [at for at, _ in receiver.received] == [5.0, 6.0, 8.0, 12.0]
    assert len({body for body, _ in receiver.requests}) == 1
    assert outcomes(emulator) == [
        ("completed", 1, "refused", 500),
        ("completed", 2, "refused", 302),
        ("completed", 3, "refused", 401),
        ("completed", 4, "taken", 204),
    ]


@virtual
async def test_a_webhook_is_abandoned_after_its_last_attempt() -> None:
    """A receiver that always fails gets three attempts here."""
    receiver = Receiver(*[500] * 9)
    async with listening(receiver, webhook_attempts=3) as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(3600)
    assert [at for at, _ in receiver.received] == [5.0, 6.0, 8.0]


@virtual
async def test_speed_shortens_the_backoff() -> None:
    """As it shortens the jobs."""
    receiver = Receiver(500, 500)
    async with listening(receiver, speed=10.0, durations=10.0) as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    assert [at for at, _ in receiver.received] == pytest.approx([1.0, 1.1, 1.3])


@virtual
async def test_a_closed_port_is_retried_and_recorded() -> None:
    """The outcome of each attempt is "unreachable"."""
    async with listening(Receiver(), webhook_attempts=2) as emulator:
        await submit(emulator, "http://127.0.0.1:9/")
        await asyncio.sleep(60)
        assert outcomes(emulator) == [("completed", 1, "unreachable", 0), ("completed", 2, "unreachable", 0)]


@pytest.mark.parametrize("url", ["https://example.com/hook", "http://10.0.0.1/", "file:///etc/passwd", "", 5])
def test_no_webhook_goes_to_another_machine(url: object) -> None:
    """The record shows it as forbidden; a job without an address has no record."""

    @virtual
    async def run() -> None:
        async with listening(Receiver()) as emulator:
            await submit(emulator, url)
            await asyncio.sleep(60)
        assert outcomes(emulator) == ([("completed", 0, "forbidden", 0)] if url else [])

    run()


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("http://127.0.0.1:8000/a", True),
        ("http://127.9.9.9/", True),
        ("https://[::1]:1/", True),
        ("http://localhost/", True),
        ("http://LOCALHOST/", True),
        ("http://hooks.test/", True),
        ("http://a.hooks.test/", False),
        ("http://127.0.0.1@example.com/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://0.0.0.0/", False),
        ("ftp://127.0.0.1/", False),
        ("//127.0.0.1/", False),
        ("http://[", False),
        ("http:///", False),
    ],
)
def test_allowed_addresses(url: str, may: bool) -> None:
    """This machine and the named hosts, and no lookalikes."""
    assert (address(url, ["hooks.test"]) is not None) is may


@virtual
async def test_stopping_ends_every_webhook() -> None:
    """Those that wait for a job, for the next attempt, or for an answer."""
    writers: list[asyncio.StreamWriter] = []

    async def say_nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    there = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/"
    async with listening(Receiver(), durations=lambda number: [0.0, 0.0, 100.0][number]) as emulator:
        for url in ("http://127.0.0.1:9/", there, there):
            await submit(emulator, url)
        await until(lambda: writers)
    assert [each.outcome for each in emulator.posted] == ["unreachable"]
    silent.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("settings", [{"webhook_secret": ""}, {"webhook_secret": "s", "webhook_attempts": 0}])
def test_invalid_settings(settings: dict[str, Any]) -> None:
    """An empty secret cannot sign, and zero attempts cannot send."""
    with pytest.raises(ValueError, match="webhook_secret must not be empty"):
        Emulator(**settings)


# Faults


@virtual
async def test_lost_webhook() -> None:
    """Every second one is never sent; the others are."""
    receiver = Receiver()
    async with listening(receiver, "webhook 2-: lost every=2") as emulator:
        made = [await submit(emulator, receiver.url) for _ in range(4)]
        await asyncio.sleep(60)
    assert sorted(receiver.updates) == sorted([(made[0], "completed"), (made[2], "completed")])
    lost = [each for each in emulator.posted if each.outcome == "lost"]
    assert [each.fault for each in lost] == ["webhook 2-: lost every=2"] * 2


@virtual
async def test_late_webhook() -> None:
    """It comes as many seconds after the end as the fault says; infinitely late means never."""
    receiver = Receiver()
    async with listening(receiver, "webhook 1: late 20", "webhook 2: late inf") as emulator:
        made = [await submit(emulator, receiver.url) for _ in range(2)]
        await asyncio.sleep(3600)
    assert [(at, payload["id"]) for at, payload in receiver.received] == [(25.0, made[0])]


@virtual
async def test_doubled_webhook() -> None:
    """It comes twice, although the receiver accepted the first."""
    receiver = Receiver()
    async with listening(receiver, "webhook 1: doubled") as emulator:
        job_id = await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    assert receiver.updates == [(job_id, "completed")] * 2
    assert receiver.requests[0] == receiver.requests[1]


@virtual
async def test_overtaken_webhook() -> None:
    """The next job's comes first; without a next job, its own comes late."""
    receiver = Receiver()
    async with listening(receiver, "webhook 1: overtaken 30", "webhook 3: overtaken 10") as emulator:
        first = await submit(emulator, receiver.url)
        await asyncio.sleep(2)
        second = await submit(emulator, receiver.url)
        await asyncio.sleep(20)
        third = await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    assert [(at, payload["id"]) for at, payload in receiver.received] == [
        (7.0, second),
        (7.0, first),
        (37.0, third),
    ]


@virtual
async def test_outdated_webhook() -> None:
    """After the end comes a signed webhook that says the job still runs."""
    receiver = Receiver()
    async with listening(receiver, "webhook: outdated") as emulator:
        job_id = await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    assert receiver.updates == [(job_id, "completed"), (job_id, "processing")]
    assert (receiver.received[1][1]["url"], receiver.received[1][1]["completedAt"]) == (None, None)
    body, headers = receiver.requests[1]
    right = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Doitong-Signature"] == f"sha256={right}"


@virtual
async def test_forged_webhook() -> None:
    """It is well-formed and signed with another secret, at each attempt."""
    receiver = Receiver(401, 401)
    async with listening(receiver, "webhook: forged", webhook_attempts=2) as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    for body, headers in receiver.requests:
        scheme, _, digits = headers["X-Doitong-Signature"].partition("=")
        assert (scheme, len(digits)) == ("sha256", 64)
        assert digits != hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert outcomes(emulator) == [("completed", 1, "refused", 401), ("completed", 2, "refused", 401)]


@virtual
async def test_early_webhook() -> None:
    """The answer to the submit comes after the webhook."""
    receiver = Receiver()
    async with listening(receiver, "webhook 1: early 60") as emulator:
        job_id = await submit(emulator, receiver.url)
        assert now() == 5.0
        assert receiver.updates == [(job_id, "completed")]


@virtual
async def test_early_webhook_has_a_deadline() -> None:
    """A longer job is answered before its webhook; an endless job is answered at once."""
    receiver = Receiver()
    async with listening(receiver, "webhook: early 3", "job 2: stuck") as emulator:
        await submit(emulator, receiver.url)
        assert (now(), receiver.received) == (3.0, [])
        await submit(emulator, receiver.url)
        assert now() == 3.0


@virtual
async def test_stopping_releases_a_held_answer() -> None:
    """Its client does not hang, and nothing is logged."""
    receiver = Receiver()
    async with listening(receiver, "webhook: early inf", durations=1e5) as emulator:
        submitting = asyncio.create_task(submit(emulator, receiver.url))
        await until(lambda: emulator.world.jobs)
    await asyncio.gather(submitting, return_exceptions=True)
    assert submitting.done()
    assert receiver.received == []


@virtual
async def test_down_receiver() -> None:
    """The first attempts are unreachable, and the next one is accepted."""
    receiver = Receiver()
    async with listening(receiver, "webhook: down 2") as emulator:
        await submit(emulator, receiver.url)
        await asyncio.sleep(60)
    assert [at for at, _ in receiver.received] == [8.0]
    assert [(each.at, each.outcome) for each in emulator.posted] == [
        (5.0, "unreachable"),
        (6.0, "unreachable"),
        (8.0, "taken"),
    ]
