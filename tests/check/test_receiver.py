"""Webhooks: a signed test event through one's own receiver, and what keeps it from arriving."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from doitong_async import Assumption, AsyncDoitong, CheckOutcome, Finding, Generation
from doitong_async.check.observed import Reached, ReceiverSeen
from doitong_async.check.receiver import receiver_findings
from doitong_async.testing import emulated
from doitong_async.webhooks.serving import free_port, served
from tests.plain_server import http, read_request
from tests.virtual import virtual, with_emulator
from tests.webhooks.bodies import SECRET

WEBHOOKS = (Assumption.WEBHOOK_URL, Assumption.WEBHOOK_SECRET, Assumption.WEBHOOK_EVENT)


async def findings_of(doitong: AsyncDoitong) -> list[Finding]:
    """Return what a check finds about webhooks."""
    report = await doitong.check()
    return [report.find(each) for each in WEBHOOKS]


def outcomes(findings: Sequence[Finding]) -> list[str]:
    """Return their outcomes."""
    return [each.outcome.value for each in findings]


@asynccontextmanager
async def receiving(app: web.Application, *, path: str = "/") -> AsyncIterator[str]:
    """Serve an application, and yield its URL."""
    with free_port() as listener:
        async with served(app, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}{path}"


@asynccontextmanager
async def answering(answer: bytes, arrived: list[str] | None = None) -> AsyncIterator[str]:
    """Answer every request with the same bytes, and yield the URL; `arrived` collects the requests."""

    async def converse(reader: StreamReader, writer: StreamWriter) -> None:
        request = await read_request(reader)
        if arrived is not None:
            arrived.append(str(request))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(converse, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"


@virtual
async def test_a_receiver_that_takes_a_signed_event_holds() -> None:
    """Over HTTP, through the client's own handler; the service is sent no URL."""
    async with emulated(webhooks=True) as doitong:
        assert outcomes(await findings_of(doitong)) == ["holds", "holds", "holds"]
        assert doitong.emulator.jobs == []


@virtual
async def test_the_test_event_is_about_no_job_and_disturbs_none() -> None:
    """The durable hook gets it once, as a job that runs; a real job's webhook arrives as ever."""
    updates: list[Generation] = []
    with free_port() as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        rules = {"webhook_secret": SECRET, "durations": 6.0}
        async with (
            with_emulator(emulator=rules, webhook_url=url, webhook_secret=SECRET) as (doitong, _),
            served(doitong.webhooks.aiohttp_app(on_event=updates.append), listener),
        ):
            job = await doitong.submit("a fox")
            await doitong.check()
            (event,) = updates
            assert (event.status, event.url) == ("processing", None)
            assert event.id.startswith("doitong-check-")
            assert (await job).id == job.id
    assert [update.id for update in updates[1:]] == [job.id]


@virtual
async def test_without_a_url_nothing_is_sent_and_nothing_told() -> None:
    """Webhooks are not in use."""
    async with with_emulator() as (doitong, _):
        findings = await findings_of(doitong)
    assert outcomes(findings) == ["unknown"] * 3
    assert "webhook_url is not set" in findings[0].detail


@virtual
async def test_a_receiver_with_another_secret_is_found() -> None:
    """It refuses both events."""
    async with AsyncDoitong(api_key="k", webhook_secret="another") as other:
        app = other.webhooks.aiohttp_app()
        async with (
            receiving(app) as url,
            with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
        ):
            findings = await findings_of(doitong)
    assert outcomes(findings) == ["holds", "holds", "fails"]
    assert "DOITONG_WEBHOOK_SECRET" in findings[2].detail


@virtual
async def test_during_a_rotation_the_first_secret_signs() -> None:
    """The service signs with the new one from some moment on."""
    async with AsyncDoitong(api_key="k", webhook_secret="new") as other:
        app = other.webhooks.aiohttp_app()
        async with (
            receiving(app) as url,
            with_emulator(webhook_url=url, webhook_secret=["new", "old"]) as (doitong, _),
        ):
            assert outcomes(await findings_of(doitong)) == ["holds"] * 3


@virtual
async def test_a_receiver_whose_client_is_not_open_cannot_be_told() -> None:
    """It asks to send the event later."""
    other = AsyncDoitong(api_key="k", webhook_secret=SECRET)
    async with (
        receiving(other.webhooks.aiohttp_app()) as url,
        with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
    ):
        findings = await findings_of(doitong)
    assert outcomes(findings) == ["holds", "holds", "unknown"]
    assert "HTTP 503" in findings[2].detail


@pytest.mark.parametrize("status", [200, 204])
@virtual
async def test_what_accepts_a_forged_event_is_found(status: int) -> None:
    """It verifies nothing, so it is no receiver of this library."""
    async with (
        answering(http(status, b"", "text/html", {})) as url,
        with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
    ):
        findings = await findings_of(doitong)
    assert outcomes(findings) == ["unknown", "holds", "fails"]
    assert "wrong signature" in findings[2].detail


@pytest.mark.parametrize("status", [404, 405, 500, 403])
@virtual
async def test_a_place_without_a_receiver_is_found(status: int) -> None:
    """Something answers there, but no receiver is mounted: it is sent no signed event."""
    arrived: list[str] = []
    async with (
        answering(http(status, b"", "text/html", {}), arrived) as url,
        with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
    ):
        findings = await findings_of(doitong)
    assert outcomes(findings) == ["fails", "holds", "unknown"]
    assert f"HTTP {status}" in findings[0].detail
    assert len(arrived) == 1


@virtual
async def test_a_port_at_which_nobody_listens_is_found() -> None:
    """It may be that the user's application does not run."""
    with free_port() as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}/"
    async with with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _):
        findings = await findings_of(doitong)
    assert outcomes(findings) == ["fails", "holds", "unknown"]
    assert "Is your receiver running?" in findings[0].detail


@virtual
async def test_a_mount_without_its_final_slash_is_found() -> None:
    """Starlette redirects there; the setting to use has the slash."""
    moved = http(307, b"", "text/html", {"Location": "http://127.0.0.1/doitong/"})
    async with answering(moved) as root:
        url = f"{root}doitong"
        async with with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _):
            findings = await findings_of(doitong)
    assert outcomes(findings) == ["fails", "holds", "unknown"]
    assert findings[0].settings == {"webhook_url": f"{url}/"}


@virtual
async def test_a_redirect_to_elsewhere_is_found_and_not_followed() -> None:
    """Where it leads is for the user to judge."""
    moved = http(302, b"", "text/html", {"Location": "https://elsewhere.example/"})
    async with (
        answering(moved) as url,
        with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
    ):
        findings = await findings_of(doitong)
    assert (findings[0].outcome, findings[0].settings) == (CheckOutcome.FAILS, {})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8001/", "https://10.0.0.7/doitong/"])
def test_an_address_that_the_service_cannot_reach_is_found(url: str) -> None:
    """Even where it answers from here."""
    doitong = AsyncDoitong(api_key="k", webhook_url=url, webhook_secret=SECRET)
    seen = ReceiverSeen(forged=Reached(401), signed=Reached(204))
    findings = receiver_findings(seen, doitong._shared.settings)
    assert outcomes(findings) == ["fails", "holds", "holds"]
    assert "which the service cannot reach" in findings[0].detail


@virtual
async def test_the_events_do_not_carry_the_key() -> None:
    """It belongs to the API alone."""
    arrived: list[str] = []
    async with (
        answering(http(401, b"", "text/html", {}), arrived) as url,
        with_emulator(webhook_url=url, webhook_secret=SECRET) as (doitong, _),
    ):
        await doitong.check()
    assert len(arrived) == 2
    assert "k-test" not in "".join(arrived)
    assert SECRET not in "".join(arrived)
