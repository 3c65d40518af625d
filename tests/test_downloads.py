"""Outputs: fetched without the key, checked while they are read, on disk as a whole or not at all."""

from __future__ import annotations

import asyncio
import gzip
import io
import itertools
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from doitong_async import AsyncDoitong, DownloadError, Generation, JobStatus, Result
from doitong_async.batch.worker import stops_the_batch
from tests.plain_server import JPEG
from tests.virtual import now, plain, seen, virtual, with_emulator


def answer(body: bytes, *, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """Return an output host's answer as bytes; `length` may be false."""
    fields = {"Content_Type": "image/jpeg", "Content_Length": str(len(body) if length is None else length)}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {**fields, **headers}.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


async def fetched(odd: Callable[[int], bytes | str | None]) -> bytes:
    """Read one output from a host whose nth answer is odd."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: odd(nth) if kind == "output" else None
        return await (await doitong.generate("a fox")).read()


@virtual
async def test_a_picture_is_read_and_saved(tmp_path: Path) -> None:
    """It has the requested size and the same bytes both ways, and no other file appears."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a red fox", width=96, height=64)
        path = await result.save(tmp_path / "fox.jpg")
        assert path.read_bytes() == await result.read()
    assert Image.open(io.BytesIO(path.read_bytes())).size == (96, 64)
    assert list(tmp_path.iterdir()) == [path]


@virtual
async def test_a_file_in_a_directory_is_named_after_the_id(tmp_path: Path) -> None:
    """Its suffix follows from the first bytes; a missing directory is an error that names it."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox", width=8, height=8)
        assert await result.save(tmp_path) == tmp_path / f"{result.id}.jpg"
        assert await result.save(f"{tmp_path}/") == tmp_path / f"{result.id}.jpg"
        with pytest.raises(DownloadError, match="nowhere"):
            await result.save(tmp_path / "nowhere" / "fox.jpg")


@virtual
async def test_the_key_never_reaches_the_output_host(tmp_path: Path) -> None:
    """It is another origin, so neither key nor idempotency key is sent there."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, emulator):
        await (await doitong.generate("a fox", width=8, height=8)).save(tmp_path)
        (request,) = seen(emulator, "output")
    assert "k-test" not in str(dict(request.headers))
    assert not {"authorization", "x-api-key", "idempotency-key"} & {name.lower() for name in request.headers}


@virtual
async def test_video_and_speech_have_their_own_suffixes(tmp_path: Path) -> None:
    """The file must be what the job makes."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        video = await (await doitong.generate("waves", provider="kling")).save(tmp_path)
        speech = await (await doitong.generate("hello", provider="elevenlabs")).save(tmp_path)
    assert (video.suffix, speech.suffix) == (".gif", ".wav")


@virtual
async def test_a_broken_download_resumes_where_it_broke() -> None:
    """The host allows ranges, so the second request asks for the rest only."""
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
async def test_a_host_without_ranges_sends_the_whole_again() -> None:
    """The client skips what it has read, so the file does not get two beginnings."""
    half = len(JPEG) // 2
    assert (
        await fetched(lambda nth: answer(JPEG[:half], length=len(JPEG)) if nth == 1 else answer(JPEG)) == JPEG
    )


def part(start: int, end: int, total: int | str, body: bytes | None = None, **headers: Any) -> bytes:
    """Return a part of the picture as an answer; `body` may be other bytes."""
    return answer(
        JPEG[start:end] if body is None else body,
        status="206 Partial Content",
        Content_Range=f"bytes {start}-{end - 1}/{total}",
        **headers,
    )


def bare(body: bytes, *lines: str, status: str = "200 OK") -> bytes:
    """Return an answer that has only these headers."""
    return "\r\n".join([f"HTTP/1.1 {status}", "Content-Type: image/jpeg", *lines, "", ""]).encode() + body


def chunked(body: bytes, *lines: str, is_whole: bool = True) -> bytes:
    """Return an answer without a length, in one chunk; cut after its last byte unless `is_whole`."""
    coded = f"{len(body):x}\r\n".encode() + body + b"\r\n" + (b"0\r\n\r\n" if is_whole else b"")
    return bare(coded, "Transfer-Encoding: chunked", *lines)


OLD = "Wed, 21 Oct 2015 07:28:00 GMT"
V1, V2 = 'ETag: "v1"', 'ETag: "v2"'
ALL = len(JPEG)
OTHER = JPEG[:3] + bytes(ALL - 3)
"""Other bytes of the same length and kind."""
CUT = answer(JPEG[:100], length=ALL, ETag='"v1"')
WEAK = answer(OTHER[:100], length=ALL, ETag='W/"v1"')
NONE = answer(OTHER[:100], length=ALL)
GONE = bare(b"", f"Content-Range: bytes */{ALL}", "Content-Length: 0", status="416 Range Not Satisfiable")


@virtual
@pytest.mark.parametrize(
    ("answers", "ranges"),
    [
        # Proven to be the same output: the client asks for the rest.
        ([CUT, part(100, ALL, ALL, ETag='"v1"')], [None, 100]),
        ([CUT, part(100, ALL, "*", ETag='"v1"')], [None, 100]),
        ([CUT, part(50, ALL, ALL, ETag='"v1"')], [None, 100]),
        ([CUT, part(100, 150, ALL, ETag='"v1"'), part(150, ALL, ALL, ETag='"v1"')], [None, 100, 150]),
        ([CUT, answer(JPEG, ETag='"v1"')], [None, 100]),
        (
            [answer(JPEG[:100], length=ALL, Last_Modified=OLD), part(100, ALL, ALL, Last_Modified=OLD)],
            [None, 100],
        ),
        ([chunked(JPEG, V1, is_whole=False), GONE], [None, ALL]),
        ([chunked(JPEG[:99], V1, is_whole=False), part(99, ALL, "*", ETag='"v1"'), GONE], [None, 99, ALL]),
        # Not proven: the client starts at the first byte.
        ([NONE, answer(JPEG)], [None, None]),
        ([WEAK, answer(JPEG, ETag='W/"v1"')], [None, None]),
        ([CUT, answer(OTHER, ETag='"v2"')], [None, 100]),
        ([CUT, part(100, ALL, ALL, OTHER[100:], ETag='"v2"'), answer(JPEG)], [None, 100, None]),
        ([CUT, part(100, ALL, ALL, OTHER[100:]), answer(JPEG)], [None, 100, None]),
        (
            [CUT, part(100, ALL + 9, ALL + 9, OTHER[100:] + bytes(9), ETag='"v1"'), answer(JPEG)],
            [None, 100, None],
        ),
        ([CUT, part(200, ALL, ALL, ETag='"v1"'), answer(JPEG)], [None, 100, None]),
        ([CUT, bare(JPEG[100:], V1, status="206 Partial Content"), answer(JPEG)], [None, 100, None]),
        (
            [
                CUT,
                bare(JPEG[100:] + b"more", V1, f"Content-Range: bytes 100-{ALL - 1}/{ALL}", status="206 P"),
                answer(JPEG),
            ],
            [None, 100, None],
        ),
        ([CUT, GONE, answer(JPEG)], [None, 100, None]),
        ([chunked(JPEG[:99], is_whole=False), chunked(JPEG)], [None, None]),
        ([chunked(OTHER, is_whole=False), answer(JPEG)], [None, None]),
        ([part(0, 100, ALL), answer(JPEG)], [None, None]),
        ([part(100, ALL, ALL), answer(JPEG)], [None, None]),
        (
            [answer(JPEG[:100], length=ALL, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT"), answer(JPEG)],
            [None, None],
        ),
        ([answer(JPEG[:100], length=ALL, Last_Modified=OLD, Date=OLD), answer(JPEG)], [None, None]),
        ([answer(JPEG[:100], length=ALL, Last_Modified="yesterday"), answer(JPEG)], [None, None]),
    ],
)
async def test_a_broken_download_resumes_only_a_proven_match(
    answers: list[bytes], ranges: list[int | None], tmp_path: Path
) -> None:
    """Otherwise it restarts. No file joins two outputs, keeps old bytes or misses one."""
    for take in ("read", "save"):
        async with plain(seconds=0.0) as (doitong, server):
            server.script = lambda kind, nth: answers[nth - 1] if kind == "output" else None
            result = await doitong.generate("a fox")
            if take == "read":
                got = await result.read()
            else:
                got = (await result.save(tmp_path / "fox.jpg")).read_bytes()
            asked = [request.headers.get("range") for request in server.requests if request.kind == "output"]
        expected = OTHER if answers[-1] == answer(OTHER, ETag='"v2"') else JPEG
        assert got == expected
        assert asked == [None if start is None else f"bytes={start}-" for start in ranges]


@virtual
@pytest.mark.parametrize("body", [JPEG + bytes(1 << 20), b"\0" * (3 << 20)])
async def test_a_restart_discards_earlier_bytes(body: bytes, tmp_path: Path) -> None:
    """However many there were: the file, the bytes and the suffix start again."""
    first = answer(b"RIFF\0\0\0\0WAVE" + bytes(1 << 20), length=2 << 20)
    async with plain(seconds=0.0) as (doitong, server):
        script = [first, first, answer(body, Content_Type="x/y")] * 2
        server.script = lambda kind, nth: script[nth - 1] if kind == "output" else None
        result = await doitong.generate("a fox")
        assert await result.read() == body
        path = await result.save(tmp_path)
    assert path.read_bytes() == body
    assert path.suffix == (".jpg" if body.startswith(JPEG) else ".bin")
    assert list(tmp_path.iterdir()) == [path]


@virtual
@pytest.mark.parametrize(
    "odd",
    [
        answer(JPEG[:100], length=ALL),
        CUT,
        chunked(JPEG, is_whole=False),
        part(0, ALL, "*"),
        part(0, 100, ALL, ETag='"v1"'),
        part(100, ALL, ALL),
        bare(JPEG, "Content-Encoding: gzip", f"Content-Length: {ALL}"),
        answer(gzip.compress(JPEG, mtime=0)[:-4], Content_Encoding="gzip"),
        answer(gzip.compress(JPEG, mtime=0)[:-9], Content_Encoding="gzip"),
        answer(gzip.compress(JPEG, mtime=0) + b"more", Content_Encoding="gzip"),
        answer(gzip.compress(gzip.compress(JPEG, mtime=0)[:-4], mtime=0), Content_Encoding="gzip, gzip"),
        answer(gzip.compress(gzip.compress(JPEG, mtime=0), mtime=0), Content_Encoding="gzip"),
        answer(gzip.compress(JPEG, mtime=0)),
        answer(JPEG, Content_Encoding="br"),
        bare(chunked(JPEG).partition(b"\r\n\r\n")[2], "Transfer-Encoding: br, chunked"),
    ],
)
async def test_an_incomplete_output_leaves_no_file(odd: bytes, tmp_path: Path) -> None:
    """It is cut, has no reliable length, or has a coding that cannot be decoded."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: odd if kind == "output" else None
        result = await doitong.generate("a fox")
        with pytest.raises(DownloadError):
            await result.save(tmp_path / "fox.jpg")
        with pytest.raises(DownloadError):
            await result.read()
    assert list(tmp_path.iterdir()) == []


@virtual
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(JPEG, mtime=0), {"Content_Encoding": "gzip"}),
        (gzip.compress(gzip.compress(JPEG, mtime=0), mtime=0), {"Content_Encoding": "gzip, gzip"}),
        (zlib.compress(gzip.compress(JPEG, mtime=0)), {"Content_Encoding": "x-gzip, deflate"}),
        (JPEG, {"Content_Encoding": "identity"}),
        (JPEG, {"Content_Encoding": "aws-chunked"}),
    ],
)
async def test_an_unrequested_coding_is_decoded(body: bytes, headers: dict[str, Any]) -> None:
    """Every layer is decoded, and a download that broke starts again."""
    cut = answer(body[:50], length=len(body), ETag='"v1"', **headers)
    assert await fetched(lambda nth: cut if nth == 1 else answer(body, ETag='"v1"', **headers)) == JPEG


@virtual
async def test_a_small_body_that_decodes_to_too_much_is_rejected() -> None:
    """The cap applies to the decoded size, not to the bytes received."""
    bomb = answer(gzip.compress(bytes(4 << 20), mtime=0), Content_Encoding="gzip")
    async with plain(seconds=0.0, max_download_bytes=1 << 20) as (doitong, server):
        server.script = lambda kind, nth: bomb if kind == "output" else None
        with pytest.raises(DownloadError, match="larger than"):
            await (await doitong.generate("a fox")).read()


@virtual
@pytest.mark.parametrize("status", ["404 Not Found", "429 Too Many Requests", "500 Oops", "503 Busy"])
async def test_a_host_that_fails_briefly_is_retried(status: str) -> None:
    """An output host may know an output a moment later than the API does."""
    assert await fetched(lambda nth: answer(b"no", status=status) if nth <= 2 else None) == JPEG


@virtual
@pytest.mark.parametrize("status", ["429 Too Many Requests", "408 Slow", "425 Early", "500 Oops", "503 Busy"])
async def test_a_hosts_retry_after_is_obeyed(status: str) -> None:
    """The next attempt does not come before it, nor before the usual backoff."""
    retry_afters = {1: "20", 2: "Thu, 01 Jan 2026 00:00:50 GMT", 3: "9999999999"}
    busy = {nth: answer(b"no", status=status, Retry_After=text) for nth, text in retry_afters.items()}
    assert await fetched(busy.get) == JPEG
    assert now() == 50.0 + 600.0


@virtual
async def test_a_host_that_keeps_failing_ends_the_download() -> None:
    """After four attempts the error names the last failure; the job is done and paid."""
    with pytest.raises(DownloadError, match=r"HTTP 500.*attempt 4 of 4.*done and paid"):
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
        (answer(b"", status="403 Forbidden"), "rejected the request"),
        (answer(b"", status="302 Found", Location="http://example.org/x.jpg"), "not https"),
        (answer(b"", status="302 Found", Location="file:///etc/passwd"), "no address"),
        (answer(b"", status="302 Found", Location="/outputs/again.jpg"), "redirects more than 3"),
    ],
)
async def test_an_answer_that_is_no_output_leaves_no_file(odd: bytes, says: str, tmp_path: Path) -> None:
    """Truncated, empty, of the wrong kind, rejected, redirected from https to http: each is an error."""
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
async def test_an_output_above_the_cap_is_rejected_before_it_is_read() -> None:
    """The cap applies with and without an announced length."""
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
    """An earlier file under that name stays."""
    (tmp_path / "fox.jpg").write_bytes(b"old")
    async with plain(seconds=0.0) as (doitong, server):
        # A host that stops in the middle and keeps the connection open.
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
    """The plan does not limit downloads, but they have a limit of their own."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
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
    """The error is typed and names the job."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result: Result = await doitong.generate("a fox")
    with pytest.raises(Exception, match="client is closed") as caught:
        await result.read()
    assert getattr(caught.value, "job_id", None) == result.id


@virtual
async def test_a_short_range_answer_does_not_complete_the_file() -> None:
    """The answer to the range is complete in itself; the file is not."""
    first = answer(JPEG[:100], length=len(JPEG), ETag='"v"')
    short = answer(
        JPEG[100:150], status="206 Partial Content", ETag='"v"', Content_Range=f"bytes 100-149/{len(JPEG)}"
    )
    with pytest.raises(DownloadError, match="ended early"):
        await fetched(lambda nth: first if nth == 1 else short)


@virtual
async def test_an_impossible_file_name_is_a_download_error(tmp_path: Path) -> None:
    """A null byte in it raises no bare ValueError."""
    async with with_emulator(emulator={"durations": 0.0}) as (doitong, _):
        result = await doitong.generate("a fox", width=8, height=8)
        with pytest.raises(DownloadError, match="cannot be written"):
            await result.save(tmp_path / "a\0b.jpg")


@virtual
async def test_a_signed_url_behind_a_redirect_is_fetched_as_issued() -> None:
    """The signature covers its escapes."""
    signed = "fox.jpg?Signature=ab%2Fcd~EF__&Expires=1%7E&x=|{}'"
    asked: list[str] = []

    def moved(kind: str, nth: int) -> bytes | None:
        if kind != "output":
            return None
        location = f"/outputs/{signed}"
        return answer(JPEG) if nth > 1 else answer(b"", status="302 Found", Location=location)

    async with plain(seconds=0.0) as (doitong, server):
        server.script = moved
        server.rewrite = _of_same_length(b"plain00001.jpg", b"a%2Fb.jp?c=%7e")
        assert await (await doitong.generate("a fox")).read() == JPEG
        asked = [request.ids[0] for request in server.requests if request.kind == "output"]
    assert asked == ["a%2Fb.jp?c=%7e", signed]


def _of_same_length(old: bytes, new: bytes) -> Callable[[bytes, bytes | None], bytes | None]:
    assert len(old) == len(new)
    return lambda _, honest: honest and honest.replace(old, new)


@virtual
@pytest.mark.parametrize(
    "odd",
    [
        *(
            answer(b"", status="302 Found", Location=location)
            for location in ("http://[::1/", "//[::1/x", "https://a..b/")
        ),
        answer(b"", status="302 Found", Location=f"https://{'a' * 64}.example/"),
        answer(b"", status="302 Found", Location="https://h:99999/"),
        answer(b"", status="302 Found"),
        bare(JPEG, f"Content-Length: {'9' * 5_000}"),
        bare(JPEG, "Content-Length: -5"),
        bare(
            JPEG, f"Content-Range: bytes 0-9/{'9' * 5_000}", "Content-Length: 9", status="206 Partial Content"
        ),
        bare(
            JPEG,
            f"Content-Range: bytes {'9' * 5_000}-9/99",
            "Content-Length: 9",
            status="206 Partial Content",
        ),
        bare(JPEG, f"Content-Range: bytes 0-9/{'9' * 5_000}", "Content-Length: 9", status="416 No"),
        bare(JPEG, "X: " + "x" * 99_999),
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 99999 What\r\n\r\n",
    ],
)
async def test_a_download_raises_only_our_errors(odd: bytes, tmp_path: Path) -> None:
    """Whatever a host writes in its headers, the error is ours and names the job."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: odd if kind == "output" else None
        result = await doitong.generate("a fox")
        for taken in (result.read(), result.save(tmp_path), result.write(lambda suffix: tmp_path / "a")):
            with pytest.raises(DownloadError) as caught:
                await taken
            assert (caught.value.job_id, caught.value.is_remote) == (result.id, True)
            assert bool(caught.value.token)
    assert list(tmp_path.iterdir()) == []


@virtual
@pytest.mark.parametrize(
    "tag", ['"a\x0bb"', '"a\x00b"', '"\x7f"', 'W/"a"', "a", '"a" , "b"', '"é"', '"a\tb"']
)
async def test_an_odd_tag_is_never_sent_back(tag: str) -> None:
    """Only a strong validator is; nothing that could be read as another header."""
    cut = bare(JPEG[:100], f"Content-Length: {ALL}", f"ETag: {tag}")
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: cut if kind == "output" and nth == 1 else None
        result = await doitong.generate("a fox")
        try:
            assert await result.read() == JPEG
        except DownloadError:
            # aiohttp itself accepts no header with such a character.
            assert ord(min(tag)) < 32
        asked = [request.headers for request in server.requests if request.kind == "output"]
    assert not any("if-range" in headers or "range" in headers for headers in asked)


@virtual
async def test_an_error_in_a_hook_becomes_a_download_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even an unexpected one, with its cause; a cancellation passes through."""
    async with plain(seconds=0.0) as (doitong, _):
        result = await doitong.generate("a fox")
        downloads = doitong._running().downloads

        def broken(*_: object) -> None:
            raise LookupError("nobody thought of it")

        monkeypatch.setattr(downloads, "_check_usable", broken)
        with pytest.raises(DownloadError, match="LookupError") as caught:
            await result.read()
        assert isinstance(caught.value.__cause__, LookupError)
        assert caught.value.is_remote

        def cancelled(*_: object) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(downloads, "_check_usable", cancelled)
        with pytest.raises(asyncio.CancelledError):
            await result.read()


@virtual
async def test_an_error_in_a_hook_is_not_a_disk_error() -> None:
    """An `OSError` of the network must not stop a whole batch, as a full disk does."""

    async def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    config = aiohttp.TraceConfig()
    config.on_request_start.append(broken)
    async with plain(seconds=0.0) as (doitong, _):
        result = await doitong.generate("a fox")
        doitong._running()._session._trace_configs.append(config)
        config.freeze()
        with pytest.raises(DownloadError, match="attempt 4 of 4") as caught:
            await result.read()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.is_remote
    assert not stops_the_batch(caught.value)


@asynccontextmanager
async def dripping(seconds: float, *, length: int | None = None, head: bool = False) -> AsyncIterator[str]:
    """Yield the root of a host that sends one byte of the body, or of the head, every `seconds`."""

    dripping: list[asyncio.Task[Any] | None] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dripping.append(asyncio.current_task())
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            first = bare(JPEG[:3], *([] if length is None else [f"Content-Length: {length}"]))
            writer.write(b"H" if head else first)
            for byte in bare(b"")[1:] * 9 if head else itertools.repeat(0):
                await writer.drain()
                await asyncio.sleep(seconds)
                writer.write(bytes([byte]))
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for task in dripping:
                if task is not None:
                    task.cancel()
                    await task


def at(doitong: AsyncDoitong, url: str) -> Result:
    """Return a finished job with its output there."""
    done = Generation(id="slow", status=JobStatus.COMPLETED, url=url, type="IMAGE")
    return Result(done, doitong._running().downloads)


@virtual
@pytest.mark.parametrize("kind", ["no length", "a length", "head"])
async def test_slow_outputs_free_their_download_slots(kind: str) -> None:
    """Eight are slow; a ninth, healthy download starts within minutes."""
    length = 1 << 20 if kind == "a length" else None
    async with plain(seconds=0.0) as (doitong, _), dripping(50.0, length=length, head=kind == "head") as url:
        well = await doitong.generate("a fox")
        slow = [asyncio.ensure_future(at(doitong, f"{url}/x").read()) for _ in range(8)]
        await asyncio.sleep(1)
        assert await well.read() == JPEG
        assert now() < 600
        errors = await asyncio.gather(*slow, return_exceptions=True)
        assert all(isinstance(error, DownloadError) for error in errors)
        if kind != "head":
            assert all("min_download_rate, 1,000 bytes a second" in str(error) for error in errors)


@virtual
async def test_a_wait_past_the_total_timeout_does_not_start() -> None:
    """The host asks for ten minutes, but the caller allows half a minute."""
    script = {1: answer(b"no", status="503 Busy", Retry_After="600")}
    async with plain(download_timeout=30.0, seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: script.get(nth) if kind == "output" else None
        result = await doitong.generate("a fox")
        before = now()
        with pytest.raises(DownloadError, match="600 s, which is past download_timeout"):
            await result.read()
        assert now() == before


@virtual
async def test_the_minimum_rate_and_the_total_timeout_are_settings() -> None:
    """Without a minimum rate the timeout ends the download; each error names its setting."""
    async with (
        plain(seconds=0.0, min_download_rate=0, download_timeout=7_200) as (doitong, _),
        dripping(50.0) as url,
    ):
        with pytest.raises(DownloadError, match="download_timeout, 7,200 s"):
            await at(doitong, f"{url}/x").read()
        assert now() == pytest.approx(7_200, abs=1)


@virtual
async def test_the_timeout_covers_all_attempts_together() -> None:
    """The backoff counts, and so does a silent host."""
    async with plain(seconds=0.0, download_timeout=70) as (doitong, server):
        result = await doitong.generate("a fox")
        server.script = lambda kind, nth: b"hang" if kind == "output" else None
        with pytest.raises(DownloadError, match=r"download_timeout, 70 s: only 0 bytes"):
            await result.read()
        assert now() == pytest.approx(70, abs=1)


@virtual
async def test_a_slow_disk_is_not_a_slow_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only waiting for the host counts."""
    big = answer(JPEG + bytes(1 << 20))
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: big if kind == "output" else None
        result = await doitong.generate("a fox")
        async for _ in doitong._running().downloads.pieces(result.generation):
            await asyncio.sleep(100)
        assert sum(request.kind == "output" for request in server.requests) == 1


@virtual
async def test_a_connection_that_is_reset_is_not_the_end_of_a_body_without_a_length() -> None:
    """An orderly end is one: such a host has no other way to end a body."""
    resets = [True, True, False]

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        is_reset = resets.pop(0)
        writer.write(bare(JPEG[:100] if is_reset else JPEG))
        await writer.drain()
        await asyncio.sleep(1)
        if is_reset:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server, plain(seconds=0.0) as (doitong, _):
        port = server.sockets[0].getsockname()[1]
        assert await at(doitong, f"http://127.0.0.1:{port}/x").read() == JPEG
    assert resets == []


@virtual
@pytest.mark.parametrize(
    ("media", "body", "content_type", "name"),
    [
        ("MODEL_3D", b"glTF\x02\0\0\0rest", "text/html", ".glb"),
        ("MODEL_3D", b'{"asset": {"version": "2.0"}}', "model/gltf+json", ".gltf"),
        ("SUBTITLES", b"1\n00:00:01,000 --> 00:00:02,000\nhello", "application/x-subrip", ".srt"),
        ("SUBTITLES", b"WEBVTT\n", "text/plain", ".vtt"),
        ("JSON", b'{"error": "none"}', "application/json", ".json"),
        ("PAGE", b"<html></html>", "text/html", ".bin"),
        ("ARCHIVE", b"PK\x03\x04rest", "x", ".zip"),
        ("IMAGE", b"\xef\xbb\xbf<?xml version='1.0'?><!-- a --><svg/>", "text/plain", ".svg"),
        ("IMAGE", b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "", ".avif"),
        ("IMAGE", b"MZ\x90\0program", "application/x-msdownload", ".bin"),
        ("IMAGE", b"\0new kind", "image/png", ".png"),
    ],
)
async def test_the_suffix_is_ours_whatever_the_url_says(
    media: str, body: bytes, content_type: str, name: str, tmp_path: Path
) -> None:
    """By the bytes, else by a known content type, else .bin; a given name stays."""
    async with plain(seconds=0.0) as (doitong, server):
        server.script = lambda kind, nth: (
            answer(body, Content_Type=content_type) if kind == "output" else None
        )
        for ending in ("exe", "html", "sh", "py", "svg", "jpg"):
            url = f"{server.outputs_url}/outputs/x.{ending}"
            result = Result(
                Generation(id="j", status=JobStatus.COMPLETED, url=url, type=media),
                doitong._running().downloads,
            )
            assert await result.save(tmp_path) == tmp_path / f"j{name}"
            assert await result.save(tmp_path / "my.name") == tmp_path / "my.name"
    assert (tmp_path / "my.name").read_bytes() == (tmp_path / f"j{name}").read_bytes() == body


@virtual
async def test_a_rejected_output_can_be_read_raw(tmp_path: Path) -> None:
    """It is paid for, so the error says how."""
    page = answer(b"<html>hello</html>", Content_Type="text/html")
    packed = answer(gzip.compress(JPEG, mtime=0), Content_Encoding="br")
    for odd, body in ((page, b"<html>hello</html>"), (packed, gzip.compress(JPEG, mtime=0))):
        async with plain(seconds=0.0) as (doitong, server):
            server.script = lambda kind, nth, odd=odd: odd if kind == "output" else None  # type: ignore[misc]  # bound at once
            result = await doitong.generate("a fox")
            with pytest.raises(DownloadError, match=r"read\(check=False\)"):
                await result.read()
            assert await result.read(check=False) == body
            assert (await result.save(tmp_path / "a", check=False)).read_bytes() == body
            assert (await result.write(lambda suffix: tmp_path / "b", check=False)).length == len(body)


@virtual
async def test_a_users_file_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    """The service chose the id and so the name; only a file with the same bytes is ours."""
    (tmp_path / "plain00001.jpg").write_bytes(b"mine")
    (tmp_path / "plain00001.2.jpg").symlink_to("nowhere")
    async with plain(seconds=0.0) as (doitong, _):
        result = await doitong.generate("a fox")
        for _ in range(2):
            assert await result.save(tmp_path) == tmp_path / "plain00001.3.jpg"
    assert (tmp_path / "plain00001.jpg").read_bytes() == b"mine"
    assert len(list(tmp_path.iterdir())) == 3


@virtual
@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 250 + ".jpeg", "folder/" + "x" * 300, "file/x", "\0", "\ud800"]
)
async def test_an_impossible_path_is_an_error_before_anything_is_fetched(name: str, tmp_path: Path) -> None:
    """The error is ours and names the job."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    async with plain(seconds=0.0) as (doitong, server):
        result = await doitong.generate("a fox")
        if name == "x" * 250 + ".jpeg":
            assert (await result.save(tmp_path / name)).read_bytes() == JPEG
            return
        with pytest.raises(DownloadError, match="cannot be written") as caught:
            await result.save(f"{tmp_path}/{name}")
        assert (caught.value.job_id, caught.value.is_remote) == (result.id, False)
        assert sum(request.kind == "output" for request in server.requests) == 0


@virtual
async def test_a_thread_that_cannot_start_is_a_disk_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next file would fail as well, so a batch stops."""
    async with plain(seconds=0.0) as (doitong, _):
        result = await doitong.generate("a fox")

        def no_thread(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", no_thread)
        for taken in (
            result.save(tmp_path),
            result.save(tmp_path / "a.jpg"),
            result.write(lambda s: tmp_path / s),
        ):
            with pytest.raises(DownloadError, match="can't start new thread") as caught:
                await taken
            assert stops_the_batch(caught.value)
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
