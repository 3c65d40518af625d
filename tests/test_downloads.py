"""Outputs: fetched without the key, checked as they are read, whole on the disk or not there at all."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from doitong_async import DownloadError, Result
from tests.plain_server import JPEG
from tests.virtual import boxed, now, plain, seen, virtual


def answer(body: bytes, *, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """Return an output host's answer as bytes; `length` may lie."""
    fields = {"Content_Type": "image/jpeg", "Content_Length": str(len(body) if length is None else length)}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**fields, **headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


async def fetched(odd: Callable[[int], bytes | str | None]) -> bytes:
    """Read one output from a host that answers the nth request in an odd way."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: odd(nth) if kind == "output" else None
        return await (await doitong.generate("a fox")).read()


@virtual
async def test_a_picture_is_read_and_saved(tmp_path: Path) -> None:
    """A real picture of the asked size, the same bytes both ways, nothing else beside it."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a red fox", width=96, height=64)
        path = await result.save(tmp_path / "fox.jpg")
        assert path.read_bytes() == await result.read()
    assert Image.open(io.BytesIO(path.read_bytes())).size == (96, 64)
    assert list(tmp_path.iterdir()) == [path]


@virtual
async def test_a_directory_takes_a_name_made_of_the_id(tmp_path: Path) -> None:
    """With the ending that the first bytes tell; a missing directory is an error that names it."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox", width=8, height=8)
        assert await result.save(tmp_path) == tmp_path / f"{result.id}.jpg"
        assert await result.save(f"{tmp_path}/") == tmp_path / f"{result.id}.jpg"
        with pytest.raises(DownloadError, match="nowhere"):
            await result.save(tmp_path / "nowhere" / "fox.jpg")


@virtual
async def test_the_key_never_reaches_the_output_host(tmp_path: Path) -> None:
    """It is another origin: neither key nor idempotency key is sent there."""
    async with boxed(box={"durations": 0.0}) as (doitong, emulator):
        await (await doitong.generate("a fox", width=8, height=8)).save(tmp_path)
        (request,) = seen(emulator, "output")
    assert "k-box" not in str(dict(request.headers))
    assert not {"authorization", "x-api-key", "idempotency-key"} & {name.lower() for name in request.headers}


@virtual
async def test_video_and_speech_have_their_own_endings(tmp_path: Path) -> None:
    """What the job makes is what the file must be."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        video = await (await doitong.generate("waves", provider="kling")).save(tmp_path)
        speech = await (await doitong.generate("hello", provider="elevenlabs")).save(tmp_path)
    assert (video.suffix, speech.suffix) == (".gif", ".wav")


@virtual
async def test_a_download_that_breaks_goes_on_where_it_broke() -> None:
    """The host allows ranges: the second request asks for the rest only."""
    half = len(JPEG) // 2
    rest = answer(
        JPEG[half:],
        status="206 Partial Content",
        ETag='"v1"',
        Content_Range=f"bytes {half}-{len(JPEG) - 1}/{len(JPEG)}",
    )
    ranges: list[str | None] = []
    async with plain(seconds=0.0) as (doitong, server):
        parts = [answer(JPEG[:half], length=len(JPEG), ETag='"v1"'), rest]
        server.script = lambda kind, nth: parts[nth - 1] if kind == "output" else None
        assert await (await doitong.generate("a fox")).read() == JPEG
        ranges = [request.headers.get("range") for request in server.requests if request.kind == "output"]
    assert ranges == [None, f"bytes={half}-"]


@virtual
async def test_a_host_without_ranges_sends_it_all_again() -> None:
    """What was read before is skipped, so that the file is not joined of two beginnings."""
    half = len(JPEG) // 2
    assert (
        await fetched(lambda nth: answer(JPEG[:half], length=len(JPEG)) if nth == 1 else answer(JPEG)) == JPEG
    )


@virtual
async def test_an_output_that_changes_meanwhile_is_refused() -> None:
    """Two versions are never joined into one file."""
    cut = answer(JPEG[:100], length=len(JPEG), ETag='"v1"')
    with pytest.raises(DownloadError, match="changed"):
        await fetched(lambda nth: cut if nth == 1 else answer(JPEG, ETag='"v2"'))


@virtual
@pytest.mark.parametrize("status", ["404 Not Found", "429 Too Many Requests", "500 Oops", "503 Busy"])
async def test_a_host_that_fails_for_a_moment_is_asked_again(status: str) -> None:
    """An output host may know an output a moment later than the API does."""
    assert await fetched(lambda nth: answer(b"no", status=status) if nth <= 2 else None) == JPEG


@virtual
@pytest.mark.parametrize("status", ["429 Too Many Requests", "408 Slow", "425 Early", "500 Oops", "503 Busy"])
async def test_a_host_that_asks_to_wait_is_obeyed(status: str) -> None:
    """The next attempt is not before it, nor before the pause that is usual."""
    told = {1: "20", 2: "Thu, 01 Jan 2026 00:00:50 GMT", 3: "9999999999"}
    busy = {nth: answer(b"no", status=status, Retry_After=text) for nth, text in told.items()}
    assert await fetched(busy.get) == JPEG
    assert now() == 50.0 + 600.0


@virtual
async def test_a_host_that_keeps_failing_is_given_up() -> None:
    """After four tries the error says what the last one brought; the job is done and paid."""
    with pytest.raises(DownloadError, match=r"HTTP 500.*try 4 of 4.*done and paid"):
        await fetched(lambda nth: answer(b"", status="500 Oops"))
    assert now() < 10.0


@virtual
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (answer(b""), "empty"),
        (answer(JPEG[:-50], length=len(JPEG)), "broke after"),
        (answer(b"<html>sorry</html>", Content_Type="text/html"), "text"),
        (answer(b'{"errors": []}', Content_Type="application/json"), "text"),
        (answer(b"RIFF\x00\x00\x00\x00WAVEfmt and so on"), "audio"),
        (answer(b"", status="403 Forbidden"), "refused"),
        (answer(b"", status="302 Found", Location="http://example.org/x.jpg"), "not https"),
        (answer(b"", status="302 Found", Location="file:///etc/passwd"), "no address"),
        (answer(b"", status="302 Found", Location="/outputs/again.jpg"), "redirects more than 3"),
    ],
)
async def test_what_is_not_the_output_is_an_error_and_leaves_no_file(
    odd: bytes, says: str, tmp_path: Path
) -> None:
    """Truncated, empty, of the wrong kind, refused, redirected out of https: never a file."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: odd if kind == "output" else None
        result = await doitong.generate("a fox")
        with pytest.raises(DownloadError, match=says) as caught:
            await result.save(tmp_path / "fox.jpg")
        assert caught.value.job_id == result.id
    assert list(tmp_path.iterdir()) == []


@virtual
async def test_a_redirect_is_followed_a_few_times_and_without_the_key() -> None:
    """An output host may keep its files elsewhere."""
    moved = answer(b"", status="302 Found", Location="/outputs/plain00001.jpg")
    assert await fetched(lambda nth: moved if nth == 1 else None) == JPEG


@virtual
async def test_an_output_above_the_cap_is_refused_before_it_is_read() -> None:
    """The cap holds for what is announced, and for what comes unannounced."""
    async with plain(seconds=0.0, max_download_bytes=100) as (doitong, server):
        result = await doitong.generate("a fox")
        with pytest.raises(DownloadError, match="larger than max_download_bytes, 100 bytes"):
            await result.read()
        unannounced = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG
        server.script = lambda kind, nth: unannounced
        with pytest.raises(DownloadError, match="larger than"):
            await result.read()


@virtual
async def test_a_cancelled_save_leaves_nothing_behind(tmp_path: Path) -> None:
    """What stood there before stands there still."""
    (tmp_path / "fox.jpg").write_bytes(b"old")
    async with plain(seconds=0.0) as (doitong, server):
        # A host that stops in the middle and keeps the line open.
        slow = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 9999999\r\n\r\n" + JPEG * 3
        server.script = lambda kind, nth: slow if kind == "output" else None
        result = await doitong.generate("a fox")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await result.save(tmp_path / "fox.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["fox.jpg"]
    assert (tmp_path / "fox.jpg").read_bytes() == b"old"


@virtual
async def test_many_downloads_run_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are outside the plan's limits, but not without limit of their own."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        results = [await doitong.generate(f"fox {n}", width=8, height=8) for n in range(20)]
        running = most = 0
        session = doitong._running()._session
        real = session.get

        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                return await real(*args, **kwargs)
            finally:
                running -= 1

        monkeypatch.setattr(session, "get", counted)
        await asyncio.gather(*(result.read() for result in results))
    assert 1 < most <= 8


@virtual
async def test_a_closed_client_downloads_nothing() -> None:
    """The error is typed, and says which job it was."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        result: Result = await doitong.generate("a fox")
    with pytest.raises(Exception, match="client is closed") as caught:
        await result.read()
    assert getattr(caught.value, "job_id", None) == result.id


@virtual
async def test_a_part_that_ends_early_is_not_the_whole() -> None:
    """The answer to a range is complete in itself; the file is not."""
    first = answer(JPEG[:100], length=len(JPEG), ETag='"v"')
    short = answer(
        JPEG[100:150], status="206 Partial Content", ETag='"v"', Content_Range=f"bytes 100-149/{len(JPEG)}"
    )
    with pytest.raises(DownloadError, match="ended early"):
        await fetched(lambda nth: first if nth == 1 else short)


@virtual
async def test_a_name_that_no_file_can_have_is_an_error_of_ours(tmp_path: Path) -> None:
    """A null byte in it is not a ValueError from somewhere below."""
    async with boxed(box={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox", width=8, height=8)
        with pytest.raises(DownloadError, match="cannot be written"):
            await result.save(tmp_path / "a\0b.jpg")
