"""Faults over loopback: late and cut answers, broken outputs, and a clean shutdown afterwards."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import (
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
)

from doitong_async.emulator import Emulator
from tests.emulator.direct import A_FOX, GENERATE
from tests.virtual import now, until, virtual

SECRET = "sk-very-secret"
KEY = {"Authorization": f"Bearer {SECRET}", "X-API-Key": SECRET}
SMALL = {**A_FOX, "options": {"width": 64, "height": 64}}
SUBMIT = {"query": GENERATE, "variables": {"input": SMALL}}


@asynccontextmanager
async def serving(*faults: str) -> AsyncIterator[tuple[Emulator, ClientSession]]:
    """Run an emulator with these faults, whose jobs complete at once."""
    async with Emulator("pro", durations=0.0, faults=faults) as emulator, ClientSession() as session:
        yield emulator, session


async def submit(emulator: Emulator, session: ClientSession) -> ClientResponse:
    async with session.post(f"{emulator.url}/graphql", json=SUBMIT, headers=KEY) as response:
        await response.read()
        return response


async def picture(emulator: Emulator, session: ClientSession) -> str:
    answer = await (await submit(emulator, session)).json()
    return str(answer["data"]["generate"]["url"])


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the server logs a complaint."""
    yield
    assert [record for record in caplog.records if record.name.startswith("aiohttp")] == []


@virtual
async def test_late_answer_shows_the_moment_of_the_request() -> None:
    """The job is made at once, and answered late."""
    async with serving("submit: latency 30") as (emulator, session):
        submitting = asyncio.create_task(submit(emulator, session))
        await until(lambda: emulator.world.jobs)
        assert now() < 1
        assert (await submitting).status == 200
        assert 30 <= now() < 31
        assert emulator.world.seen[0].at < 1


@virtual
async def test_502_is_sent_as_html() -> None:
    """With the gateway's page as its body."""
    async with serving("submit: 502") as (emulator, session):
        response = await submit(emulator, session)
        assert (response.status, response.content_type) == (502, "text/html")
        assert "<h1>502 Bad Gateway</h1>" in await response.text()
        assert "X-RateLimit-Limit" not in response.headers


@virtual
async def test_429_is_sent_with_its_headers() -> None:
    """Retry-After, and the usual ones."""
    async with serving("submit: 429-minute retry-after=5") as (emulator, session):
        response = await submit(emulator, session)
        assert response.status == 429
        assert (response.headers["Retry-After"], response.headers["X-RateLimit-Remaining"]) == ("5", "0")


@pytest.mark.parametrize(("text", "jobs"), [("cut-before", 0), ("cut-after", 1)])
def test_connection_is_cut(text: str, jobs: int) -> None:
    """Before the job is made, or after; the next request succeeds."""

    @virtual
    async def run() -> None:
        async with serving(f"submit 1: {text}", "submit 1: latency 2") as (emulator, session):
            with pytest.raises(ServerDisconnectedError):
                await submit(emulator, session)
            assert (len(emulator.world.jobs), now() >= 2) == (jobs, True)
            assert (await submit(emulator, session)).status == 200

    run()


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("seconds", ["3600", "inf"])
def test_stop_does_not_wait_for_late_answers(leaves: bool, seconds: str) -> None:
    """Whether their clients still wait or have left."""

    @virtual
    async def run() -> None:
        async with ClientSession() as session:
            async with Emulator(faults=[f"submit: latency {seconds}"]) as emulator:
                submitting = asyncio.create_task(submit(emulator, session))
                await until(lambda: emulator.world.seen)
                if leaves:
                    submitting.cancel()
                    await asyncio.wait([submitting])
                    await asyncio.sleep(1)
            if not leaves:
                with pytest.raises(ServerDisconnectedError):
                    await submitting
        assert now() < 2

    run()


@virtual
async def test_closed_connection_can_be_cut() -> None:
    """A client may leave before the cut."""
    async with serving("submit 1: latency 5", "submit 1: cut-after") as (emulator, session):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(submit(emulator, session), 1)
        await asyncio.sleep(10)
        assert (await submit(emulator, session)).status == 200
        assert len(emulator.world.jobs) == 2


@virtual
async def test_output_is_truncated() -> None:
    """Its header announces the full length; the rest can be fetched as a range."""
    async with serving("output 1: truncated") as (emulator, session):
        url = await picture(emulator, session)
        async with session.get(url) as response:
            length = int(response.headers["Content-Length"])
            got = await response.content.readexactly(length // 2)
            with pytest.raises(ClientPayloadError):
                await response.content.readany()
        assert response.status == 200
        async with session.get(url, headers={"Range": f"bytes={len(got)}-"}) as response:
            got += await response.read()
        async with session.get(url) as response:
            assert got == await response.read()


@virtual
async def test_output_is_slow() -> None:
    """It comes piece by piece, and complete."""
    async with serving("output 1: slow 40") as (emulator, session):
        url = await picture(emulator, session)
        async with session.get(url) as response:
            await response.content.readany()
            assert now() < 5
            await response.read()
            assert 38 <= now() < 41
        whole = [await (await session.get(url)).read() for _ in range(2)]
        assert whole[0] == whole[1]


@virtual
async def test_slow_output_has_all_bytes() -> None:
    """No piece is lost, not even the last one."""
    async with serving("output 1: slow 1") as (emulator, session):
        url = await picture(emulator, session)
        slow, quick = [await (await session.get(url)).read() for _ in range(2)]
        assert slow == quick


@pytest.mark.parametrize(("announced", "length"), [("yes", "1000000"), ("no", None)])
def test_output_is_oversized(announced: str, length: str | None) -> None:
    """The picture is followed by zeros, with or without an announced length."""

    @virtual
    async def run() -> None:
        async with serving(f"output 1: oversized 1000000 announced={announced}") as (emulator, session):
            url = await picture(emulator, session)
            async with session.get(url) as response:
                assert (response.headers.get("Content-Length"), response.content_type) == (
                    length,
                    "image/jpeg",
                )
                content = await response.read()
            async with session.get(url) as response:
                assert content == (await response.read()).ljust(1_000_000, b"\0")

    run()


@virtual
async def test_oversized_output_may_be_shorter_than_the_picture() -> None:
    """It has exactly the number of bytes that the fault says."""
    async with serving("output 1: oversized 10") as (emulator, session):
        response = await session.get(await picture(emulator, session))
        assert len(await response.read()) == 10


@virtual
async def test_client_may_leave_an_endless_output() -> None:
    """Nothing is logged, and nothing keeps running."""
    async with serving("output 1: oversized") as (emulator, session):
        response = await session.get(await picture(emulator, session))
        await response.content.readany()
        response.close()
        assert (await submit(emulator, session)).status == 200


@virtual
async def test_output_redirects_once() -> None:
    """To itself by default, and each redirect counts."""
    async with serving("output: redirect times=2") as (emulator, session):
        url = await picture(emulator, session)
        for _ in range(2):
            async with session.get(url) as response:
                assert (response.status, len(response.history)) == (200, 1)
                assert response.content_type == "image/jpeg"
        assert [seen.http_status for seen in emulator.world.seen] == [200, 302, 200, 302, 200]


@virtual
async def test_output_redirects_to_the_given_target() -> None:
    """To another URL, or to itself in a loop."""
    async with serving("output 1: redirect https://elsewhere.example/x", "output 2-: redirect ?round") as (
        emulator,
        session,
    ):
        url = await picture(emulator, session)
        for place in ("https://elsewhere.example/x", "?round", "?round"):
            async with session.get(url, allow_redirects=False) as response:
                assert (response.status, response.headers["Location"]) == (302, place)


@pytest.mark.parametrize(
    ("text", "status", "content_type", "start"),
    [
        ("500", 500, "text/plain", b"500"),
        ("502", 502, "text/html", b"<html>"),
        ("html", 200, "text/html", b"<html>"),
        ("empty", 200, "image/jpeg", b""),
    ],
)
def test_output_is_replaced(text: str, status: int, content_type: str, start: bytes) -> None:
    """The record has the status that was sent."""

    @virtual
    async def run() -> None:
        async with serving(f"output: {text}") as (emulator, session):
            async with session.get(await picture(emulator, session)) as response:
                content = await response.read()
                assert (response.status, response.content_type) == (status, content_type)
            assert content.startswith(start)
            assert bool(content) == bool(start)
            seen = emulator.world.seen[-1]
            assert (seen.http_status, seen.fault) == (status, f"output: {text}")

    run()


@virtual
async def test_output_is_late_and_then_cut() -> None:
    """Like the answers of the API."""
    async with serving("output: latency 5", "output: cut-before") as (emulator, session):
        url = await picture(emulator, session)
        with pytest.raises(ServerDisconnectedError):
            # Another session: aiohttp retries a GET on a connection that was used before.
            async with ClientSession() as other:
                await other.get(url)
        seen = emulator.world.seen[-1]
        assert now() >= 5
        assert (seen.http_status, seen.fault) == (0, "output: latency 5; output: cut-before")


@virtual
async def test_head_has_no_body_to_break() -> None:
    """This fault does not change its answer."""
    async with serving("output: truncated") as (emulator, session):
        response = await session.head(await picture(emulator, session))
        assert (response.status, await response.read()) == (200, b"")


@virtual
async def test_stop_ends_a_slow_output() -> None:
    """In the middle of it."""
    async with ClientSession(timeout=ClientTimeout(total=None)) as session:
        async with Emulator(durations=0.0, faults=["output: slow 3600"]) as emulator:
            response = await session.get(await picture(emulator, session))
        with pytest.raises(ClientPayloadError):
            await response.read()
        assert now() < 500


@virtual
async def test_key_is_never_echoed() -> None:
    """Neither by the API nor by the outputs, whatever goes wrong."""
    odd = ["500", "502", "redirect", "html", "empty", "slow 1", "oversized 9999"]
    async with serving(*(f"output {number}: {text}" for number, text in enumerate(odd, 1))) as (
        emulator,
        session,
    ):
        url = await picture(emulator, session)
        for _ in odd:
            async with session.get(url, headers=KEY, allow_redirects=False) as response:
                assert SECRET.encode() not in await response.read()
                assert SECRET not in str(response.headers)
