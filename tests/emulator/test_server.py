"""The servers over loopback: two origins, dates, outputs and their ranges, a clean shutdown."""

import asyncio
import errno
import io
import socket
import subprocess
import sys
from typing import Any

import pytest
from aiohttp import ClientSession
from PIL import Image

from doitong_async import AsyncDoitong
from doitong_async.emulator import Emulator
from doitong_async.testing import emulated
from tests.emulator.direct import A_FOX, GENERATE

KEY = {"Authorization": "Bearer secret"}


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as one:
        return one.connect_ex(("::1", 9)) in (0, errno.ECONNREFUSED)


async def submit(session: ClientSession, emulator: Emulator, given: object = A_FOX) -> dict[str, Any]:
    body = {"query": GENERATE, "variables": {"input": given}}
    async with session.post(f"{emulator.url}/graphql", json=body, headers=KEY) as response:
        assert response.status == 200
        made: dict[str, Any] = (await response.json())["data"]["generate"]
        return made


@pytest.mark.asyncio
async def test_job_from_submit_to_its_picture() -> None:
    """End to end on two origins; only the API's origin receives the key."""
    async with Emulator(durations=0.0) as emulator, ClientSession() as session:
        made = await submit(session, emulator)
        assert made["url"].startswith(emulator.outputs_url)
        async with session.get(made["url"]) as response:
            image = Image.open(io.BytesIO(await response.read()))
            assert (response.status, response.content_type) == (200, "image/jpeg")
            assert int(response.headers["Content-Length"]) > 1000
        assert image.size == (1024, 1024)
        submitted, fetched = emulator.world.seen
        assert (submitted.kind, fetched.kind, fetched.ids) == ("submit", "output", (made["id"],))
        assert submitted.headers["Authorization"] == "Bearer secret"
        assert "secret" not in str(fetched.headers)
    assert emulator.world.charges == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("media_type", "content_type"), [("VIDEO", "image/gif"), ("AUDIO", "audio/wav")])
async def test_other_outputs_have_their_content_type(media_type: str, content_type: str) -> None:
    """It fits the extension."""
    async with Emulator(durations=0.0) as emulator, ClientSession() as session:
        made = await submit(session, emulator, {**A_FOX, "type": media_type})
        async with session.get(made["url"]) as response:
            assert (response.status, response.content_type) == (200, content_type)


@pytest.mark.asyncio
async def test_output_can_be_fetched_in_parts() -> None:
    """Ranges as in HTTP, under one ETag; an If-Range of another file gives the whole output."""
    async with Emulator(durations=0.0) as emulator, ClientSession() as session:
        url = (await submit(session, emulator))["url"]

        async def get(**headers: str) -> tuple[int, bytes, str | None, str]:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with session.get(url, headers=named) as response:
                place = response.headers.get("Content-Range")
                return response.status, await response.read(), place, response.headers["ETag"]

        _, whole, _, etag = await get()
        size = len(whole)
        assert await get(Range="bytes=0-99") == (206, whole[:100], f"bytes 0-99/{size}", etag)
        assert await get(Range="bytes=100-") == (206, whole[100:], f"bytes 100-{size - 1}/{size}", etag)
        assert await get(Range="bytes=-50") == (
            206,
            whole[-50:],
            f"bytes {size - 50}-{size - 1}/{size}",
            etag,
        )
        assert await get(Range=f"bytes={size}-") == (416, b"", f"bytes */{size}", etag)
        assert await get(Range="lines=1-2") == (200, whole, None, etag)
        assert await get(Range="bytes=0-99", If_Range=etag) == (206, whole[:100], f"bytes 0-99/{size}", etag)
        assert await get(Range="bytes=0-99", If_Range='"other"') == (200, whole, None, etag)


@pytest.mark.asyncio
async def test_missing_outputs() -> None:
    """404 for an unfinished job, an unknown name or another folder; 405 for another method."""
    async with Emulator(durations=60.0) as emulator, ClientSession() as session:
        made = await submit(session, emulator)
        root = emulator.outputs_url.removesuffix("/outputs")
        for path in (f"/outputs/{made['id']}.jpg", "/outputs/nothing.jpg", "/nothing"):
            async with session.get(root + path) as response:
                assert response.status == 404
        async with session.put(f"{root}/outputs/x.jpg") as response:
            assert response.status == 405
        assert [seen.http_status for seen in emulator.world.seen] == [200, 404, 404, 404, 405]


@pytest.mark.asyncio
async def test_dates_follow_the_loops_wall_clock() -> None:
    """A virtual-time loop has its own; createdAt, Date and the reset agree with it."""
    loop = asyncio.get_running_loop()
    loop.wall_time = lambda: 1_704_067_200.0  # type: ignore[attr-defined] # a virtual-time loop has it
    async with Emulator() as emulator, ClientSession() as session:
        body = {"service": "flux-pro", "prompt": "a fox"}
        url = f"{emulator.url}/v1/text_to_image"
        async with session.post(url, json=body, headers=KEY) as response:
            assert (await response.json())["createdAt"] == "2024-01-01T00:00:00Z"
            assert response.headers["Date"] == "Mon, 01 Jan 2024 00:00:00 GMT"
            assert response.headers["X-RateLimit-Reset"] == "1704067260"
            assert response.headers["X-RateLimit-Remaining"] == "9"
        async with session.get(f"{emulator.outputs_url}/nothing.jpg") as response:
            assert response.headers["Date"] == "Mon, 01 Jan 2024 00:00:00 GMT"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
@pytest.mark.asyncio
async def test_an_ipv6_address_has_brackets() -> None:
    """A client can connect to both origins, and treats them as this machine."""
    async with (
        Emulator("pro", host="::1", durations=0.0) as emulator,
        AsyncDoitong(api_key="k", base_url=emulator.url) as doitong,
    ):
        assert emulator.url.startswith("http://[::1]:")
        assert emulator.outputs_url.startswith("http://[::1]:")
        result = await doitong.generate("a fox", width=64, height=64)
        assert result.url.startswith(emulator.outputs_url)
        assert await result.read()


async def job_ids(**settings: Any) -> list[str]:
    """Return the ids of two jobs on a new emulator."""
    async with emulated(emulator={"durations": 0.0, **settings}) as doitong:
        return [(await doitong.generate("a fox")).id for _ in range(2)]


@pytest.mark.asyncio
async def test_ids_are_new_at_each_start_unless_a_seed_is_given() -> None:
    """Otherwise a ledger of an earlier run would find other pictures under its ids."""
    assert len({*await job_ids(), *await job_ids()}) == 4
    assert await job_ids(seed=7) == await job_ids(seed=7)
    assert await job_ids(seed=0) != await job_ids(seed=7)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("0.0.0.0", "http://127.0.0.1:"),
        pytest.param(
            *("::", "http://[::1]:"),
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback"),
        ),
    ],
)
@pytest.mark.asyncio
async def test_url_of_a_wildcard_address_is_one_that_a_client_accepts(host: str, origin: str) -> None:
    """A client uses plain http for this machine only; the outputs are there as well."""
    async with emulated(emulator={"host": host, "durations": 0.0}) as doitong:
        assert doitong.emulator.url.startswith(origin)
        assert await (await doitong.generate("a fox")).read()


@pytest.mark.asyncio
async def test_body_over_a_mebibyte_is_rejected() -> None:
    """413, in the documented shape of an error."""
    async with Emulator() as emulator, ClientSession() as session:
        body = io.BytesIO(b"x" * (2 << 20))
        async with session.post(f"{emulator.url}/graphql", data=body, headers=KEY) as response:
            assert response.status == 413
            assert (await response.json())["errors"][0]["extensions"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.asyncio
async def test_stop_leaves_nothing() -> None:
    """No task and no address remains, even if a client keeps its connection; it can start again."""
    before = asyncio.all_tasks()
    emulator = Emulator(durations=0.0)
    for _ in range(2):
        async with ClientSession() as session:
            await emulator.start()
            await submit(session, emulator)
            await emulator.stop()
        assert asyncio.all_tasks() == before
        with pytest.raises(RuntimeError, match="before it is started"):
            _ = emulator.url


@pytest.mark.asyncio
async def test_failed_start_leaves_nothing() -> None:
    """A port in use is an error, and the other port is released."""
    async with Emulator() as emulator:
        taken = int(emulator.url.rpartition(":")[2])
        second = Emulator(outputs_port=taken)
        with pytest.raises(OSError, match="address already in use"):
            await second.__aenter__()
        with pytest.raises(RuntimeError):
            _ = second.url


@pytest.mark.slow
def test_missing_pillow_is_named() -> None:
    """With the command that installs it."""
    code = "import sys; sys.modules['PIL'] = None; import doitong_async.emulator"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert "pip install 'doitong-async[emulator]'" in ran.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize(("settings", "jobs"), [({}, 1), ({"keys_honoured": False}, 2)])
async def test_idempotency_keys_can_be_ignored(settings: dict[str, Any], jobs: int) -> None:
    """By an option; otherwise they are honoured."""
    async with (
        Emulator("pro", **settings) as emulator,
        ClientSession(headers={"Idempotency-Key": "1"}) as session,
    ):
        for _ in range(2):
            await submit(session, emulator)
        assert len(emulator.world.jobs) == jobs
