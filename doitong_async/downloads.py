"""Fetching outputs: without the API key, over https, a few at a time, resumed where they broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import urljoin, urlsplit

import aiohttp
import backoff

from doitong_async import media
from doitong_async.clock import wall_time
from doitong_async.errors import ClientClosedError, ConfigurationError, DoitongError, DownloadError
from doitong_async.limits.word import read_word
from doitong_async.settings import is_loopback
from doitong_async.transport.exchange import cause_of, is_cancelled, reason_here, too_long_header
from doitong_async.types import Generation

AT_ONCE: Final = 8
"""Downloads at the same time; they are outside the plan's limits."""
MAX_TRIES: Final = 4
MAX_REDIRECTS: Final = 3
_CHUNK: Final = 1 << 18
_LONGEST_SILENCE: Final = 60.0
"""Seconds."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)
# 404 too: an output host may know an output a moment later than the API does.
_WORTH_A_RETRY: Final = (404, 408, 425, 429)


@dataclass(slots=True)
class _Progress:
    """How far one download has come, over all its tries."""

    got: int = 0
    version: str | None = None
    """What the host says the file is, so that no two files are joined into one."""
    length: int | None = None
    head: bytes = b""
    content_type: str = ""
    is_encoded: bool = False
    """Whether the length counts other bytes than those that are read."""
    url: str = field(default="", repr=False)


class _TryAgain(Exception):  # noqa: N818 - a signal between two methods, never an error that anyone sees
    """This try brought no whole file, the next one may.

    `cause` is what a hook of the session raised, `told` the seconds that the output host asks to wait.
    """

    def __init__(self, why: str, cause: BaseException | None = None, told: float = 0.0) -> None:
        super().__init__(why)
        self.cause = cause
        self.told = told


class Downloads:
    """Fetches the outputs of finished jobs."""

    def __init__(self, session: aiohttp.ClientSession, *, ssl: Any, user_agent: str, max_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._ssl = ssl
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._max_bytes = max_bytes
        self._room = asyncio.Semaphore(AT_ONCE)
        self._is_closed = False
        self._reading: set[aiohttp.ClientResponse] = set()

    def close(self) -> None:
        """Refuse further downloads, and end those under way: closing a session does not wake who reads."""
        self._is_closed = True
        for response in self._reading:
            response.content.set_exception(aiohttp.ClientConnectionError("The client was closed."))

    async def chunks(self, job: Generation) -> AsyncGenerator[bytes, None]:
        """Yield the output of a job, checked as it is read; the first chunk holds its leading bytes.

        A broken connection, a 5xx or a 429 is tried again, from where it broke if the host allows ranges,
        and not before the end of a `Retry-After`, of which ten minutes are obeyed at most.

        Raises:
            DownloadError: if it cannot be had, is truncated, empty, too large or not what the job makes.
            ClientClosedError: if the client is closed.
        """
        self._check_usable(job)
        progress = _Progress(url=_checked_url(job.url, job))
        pauses = backoff.expo(max_value=30)
        next(pauses)  # backoff's sequences give their first value at the second step
        async with self._room:
            for number in range(1, MAX_TRIES + 1):
                self._check_usable(job)
                try:
                    async with aclosing(self._one_try(progress, job)) as chunks:
                        async for chunk in chunks:
                            yield chunk
                    return
                except _TryAgain as why:
                    reason, cause, told = str(why), why.cause, why.told
                if number < MAX_TRIES:
                    await asyncio.sleep(max(told, backoff.full_jitter(next(pauses))))
        raise DownloadError(f"{reason} That was try {MAX_TRIES} of {MAX_TRIES}.", job_id=job.id) from cause

    async def _one_try(self, progress: _Progress, job: Generation) -> AsyncGenerator[bytes, None]:
        response = await self._open(progress, job)
        held, failure, cause = b"", None, None
        self._reading.add(response)
        try:
            skip = self._join(response, progress, job)
            async for chunk in _pieces(response):
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                progress.got += len(fresh)
                if progress.got > self._max_bytes:
                    self._too_large(job)
                held += fresh
                if progress.got >= media.LEADING and held:
                    self._check_head(held, progress, job)
                    yield held
                    held = b""
        except DoitongError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            failure, cause = _failure(error), cause_of(error)
        finally:
            self._reading.discard(response)
            response.close()
        if failure is None and progress.got < (progress.length or 0) and not progress.is_encoded:
            failure = "it ended early"
        if failure is not None:
            self._check_usable(job)
            # What was read and not passed on is read again.
            progress.got -= len(held)
            raise _TryAgain(f"The download broke after {progress.got:,} bytes ({failure}).", cause)
        if progress.got == 0:
            raise _TryAgain("The output is empty.")
        if held:
            self._check_head(held, progress, job)
            yield held

    async def _open(self, progress: _Progress, job: Generation) -> aiohttp.ClientResponse:
        url = progress.url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(url, progress, job)
            if response.status in (200, 206):
                return response
            location = response.headers.get("Location", "")
            response.close()
            if response.status not in _REDIRECTS:
                _refused(response, job)
            url = _checked_url(urljoin(url, location), job)
        raise DownloadError(f"The output host redirects more than {MAX_REDIRECTS} times.", job_id=job.id)

    async def _get(self, url: str, progress: _Progress, job: Generation) -> aiohttp.ClientResponse:
        headers = self._headers
        if progress.got:
            headers = {**headers, "Range": f"bytes={progress.got}-"}
            if progress.version:
                headers["If-Range"] = progress.version
        try:
            return await self._session.get(
                url,
                headers=headers,
                allow_redirects=False,
                raise_for_status=False,
                ssl=self._ssl,
                timeout=aiohttp.ClientTimeout(total=None, connect=30, sock_read=_LONGEST_SILENCE),
            )
        except (Exception, asyncio.CancelledError) as error:
            failure, cause, header = _failure(error), cause_of(error), too_long_header(error)
        if header is not None:
            raise DownloadError(f"The output cannot be read: {header}.", job_id=job.id)
        raise _TryAgain(f"The output host could not be reached ({failure}).", cause)

    def _check_usable(self, job: Generation) -> None:
        if self._is_closed:
            raise ClientClosedError("The client is closed.", job_id=job.id)
        if self._session.closed:
            raise DownloadError("The HTTP session that was given is closed.", job_id=job.id)
        if self._loop is not asyncio.get_running_loop():
            raise ConfigurationError("The result belongs to a client on another event loop; read it there.")

    def _join(self, response: aiohttp.ClientResponse, progress: _Progress, job: Generation) -> int:
        """Fit an answer to what was read before, and return how many of its bytes are known already."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        version = None if version is None or version.startswith("W/") else version
        start, length = 0, response.content_length
        if response.status == 206:
            start, length = _range_of(response.headers.get("Content-Range", ""))
        if length is not None and length > self._max_bytes:
            self._too_large(job)
        if progress.got and (version, length) != (progress.version, progress.length):
            raise DownloadError("The output changed while it was downloaded.", job_id=job.id)
        if start > progress.got:
            raise DownloadError("The output host left a gap in the output.", job_id=job.id)
        progress.version, progress.length = version, length
        progress.content_type = response.headers.get("Content-Type", "")
        progress.is_encoded = "Content-Encoding" in response.headers
        return progress.got - start

    def _check_head(self, held: bytes, progress: _Progress, job: Generation) -> None:
        if progress.head:
            return
        progress.head = held[: media.LEADING]
        reason = media.why_not(progress.head, media=job.type, content_type=progress.content_type)
        if reason:
            raise DownloadError(f"The output is of the wrong kind: {reason}.", job_id=job.id)

    def _too_large(self, job: Generation) -> NoReturn:
        raise DownloadError(
            f"The output is larger than max_download_bytes, {self._max_bytes:,} bytes.", job_id=job.id
        )


async def _pieces(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """Yield a body in pieces; the time between them is bounded here too.

    A session that its owner closes drops aiohttp's timer, and wakes nobody who reads.
    """
    pieces = response.content.iter_chunked(_CHUNK)
    while True:
        async with asyncio.timeout(_LONGEST_SILENCE):
            piece = await anext(pieces, b"")
        if not piece:
            return
        yield piece


def _failure(error: BaseException) -> str:
    """Return what went wrong in a word or two; a cancellation that is meant for the caller is passed on."""
    if isinstance(error, asyncio.CancelledError) and is_cancelled():
        raise error
    return reason_here(error) or type(error).__name__


def _refused(response: aiohttp.ClientResponse, job: Generation) -> NoReturn:
    status = response.status
    if status in _WORTH_A_RETRY or status >= 500:
        told = read_word(response.headers, wall_time()).retry_in or 0.0
        raise _TryAgain(f"The output host answered HTTP {status}.", told=told)
    raise DownloadError("The output host refused it.", job_id=job.id, http_status=status)


def _range_of(header: str) -> tuple[int, int | None]:
    """Return first byte and whole length of a `Content-Range` such as "bytes 100-199/200"."""
    span, _, length = header.removeprefix("bytes ").partition("/")
    first = span.partition("-")[0]
    return (int(first) if first.isdecimal() else 0), (int(length) if length.isdecimal() else None)


def _checked_url(url: str | None, job: Generation) -> str:
    if url is None:
        raise DownloadError("The service gave no URL for this job.", job_id=job.id)
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        parts, host = None, None
    if parts is None or not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise DownloadError(f"The URL of the output is no address to fetch: {url[:200]!r}.", job_id=job.id)
    if parts.scheme == "http" and not is_loopback(host):
        raise DownloadError(f"The URL of the output is not https: {url[:200]!r}.", job_id=job.id)
    return url
