"""Downloads outputs: without the API key, a few at once, and resumed only if the content is the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

import aiohttp
from yarl import URL

from doitong_async import media
from doitong_async.clock import wall_time
from doitong_async.decoding import CodingError
from doitong_async.errors import ClientClosedError, ConfigurationError, DoitongError, DownloadError
from doitong_async.events import DownloadEnded, Hook
from doitong_async.files import Start
from doitong_async.limits.headers import read_headers
from doitong_async.received import Announced, AttemptFailed, Received
from doitong_async.resolver import GuardedResolver
from doitong_async.transport.exchange import (
    cause_of,
    is_cancelled,
    proxy_answer,
    reason_here,
    too_long_header,
)
from doitong_async.types import Generation
from doitong_async.urls import Places, joined
from doitong_async.waits import backoff_waits

AT_ONCE: Final = 8
"""Concurrent downloads; the plan's limits do not cover them."""
MAX_ATTEMPTS: Final = 4
MAX_REDIRECTS: Final = 3
RATE_OVER: Final = 60.0
"""Seconds over which the download rate is measured: our choice."""
_CHUNK: Final = 1 << 18
_LONGEST_SILENCE: Final = 60.0
"""Seconds."""
_LONGEST_WAIT: Final = 30.0
"""Seconds between two attempts."""
_HEAD_WITHIN: Final = 90.0
"""Seconds to connect to a host and get its headers."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)
# 404 too: an output may reach its host a moment after the API names it.
_WORTH_A_RETRY: Final = (404, 408, 425, 429)


class Downloads:
    """Fetches the outputs of finished jobs.

    Args:
        session: sends the requests.
        places: the hosts that outputs may be fetched from.
        resolver: checks their addresses.
        is_own_session: whether the session resolves hosts with that resolver.
        ssl: a context, or True.
        user_agent: the `User-Agent` header.
        max_bytes: the largest output to read.
        timeout: seconds that one output may take, once it is among the concurrent downloads.
        min_rate: bytes a second below which an attempt fails.
        notify: receives an event for each download.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        places: Places,
        resolver: GuardedResolver,
        is_own_session: bool,
        ssl: Any,
        user_agent: str,
        max_bytes: int,
        timeout: float,
        min_rate: float,
        notify: Hook,
    ) -> None:
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._places = places
        self._resolver = resolver
        self._must_resolve = not is_own_session and _is_direct(session)
        self._ssl = ssl
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._min_rate = min_rate
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._is_closed = False
        self._reading: set[aiohttp.ClientResponse] = set()

    def close(self) -> None:
        """Reject new downloads and end those in flight: closing a session does not wake its readers."""
        self._is_closed = True
        for response in self._reading:
            response.content.set_exception(aiohttp.ClientConnectionError("The client was closed."))

    async def pieces(self, job: Generation, *, check: bool = True) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output of a job: a `Start`, then its bytes; another `Start` voids the bytes before it.

        A broken connection, a 5xx or a 429 is retried, after any `Retry-After` (ten minutes at most): from
        where it broke if a strong validator proves that the content is the same, else from the first byte.

        Args:
            job: a finished one.
            check: whether to reject an error page in place of a picture, video or audio file.

        Raises:
            DownloadError: if the output cannot be fetched whole, or is empty, too large, too slow or an error
                page.
            ClientClosedError: if the client is closed.
        """
        self._check_usable()
        begun, size, is_whole = self._loop.time(), 0, False
        try:
            async with aclosing(self._retried(job, check)) as pieces:
                async for piece in pieces:
                    size = 0 if isinstance(piece, Start) else size + len(piece)
                    yield piece
            is_whole = True
        finally:
            if self._notify:
                seconds = self._loop.time() - begun
                ended = DownloadEnded(job_id=job.id, seconds=seconds, size=size, is_whole=is_whole)
                self._notify.aside(ended)

    async def _retried(self, job: Generation, check: bool) -> AsyncGenerator[Start | bytes, None]:
        url = self._places.checked(job.url)
        last = AttemptFailed("")
        waits = backoff_waits(longest=_LONGEST_WAIT)
        async with self._slots:
            received = Received(job, url, self._loop.time() + self._timeout, check)
            for number in range(1, MAX_ATTEMPTS + 1):
                self._check_usable()
                try:
                    async with aclosing(self._attempt(received)) as pieces:
                        async for piece in pieces:
                            yield piece
                    return
                except AttemptFailed as why:
                    last = why
                if last.restart:
                    received.clear()
                self._check_deadline(received)
                if last.retry_after > received.deadline - self._loop.time():
                    message = (
                        f"{last} It asks to wait {last.retry_after:,.0f} s, which is past download_timeout."
                    )
                    raise DownloadError(message, http_status=last.status, is_remote=True) from last.cause
                if number < MAX_ATTEMPTS:
                    await asyncio.sleep(max(last.retry_after, next(waits)))
                    self._check_deadline(received)
        message = f"{last} That was attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS}."
        raise DownloadError(message, http_status=last.status, is_remote=True) from last.cause

    async def _attempt(self, received: Received) -> AsyncGenerator[Start | bytes, None]:
        response = await self._open(received)
        failure, cause, is_void = None, None, False
        self._reading.add(response)
        try:
            if response.status == 416:
                received.confirm_whole(response.headers, wall_time())
            else:
                announced = Announced.by(response.status, response.headers, wall_time())
                known = self._join(announced, received)
                async for chunk in self._chunks(response, received, announced):
                    fresh, known = chunk[known:], max(0, known - len(chunk))
                    if fresh:
                        for piece in self._take(fresh, received):
                            yield piece
        except (DoitongError, AttemptFailed):
            raise
        except CodingError as error:
            failure, is_void = str(error), True
        except (Exception, asyncio.CancelledError) as error:
            failure, cause = _failure(error), cause_of(error)
        finally:
            self._reading.discard(response)
            response.close()
        if failure is None:
            failure, is_void = received.what_is_missing()
        if failure is not None:
            self._check_usable()
            message = f"The download broke after {received.got:,} bytes ({failure})."
            raise AttemptFailed(message, cause, restart=is_void or not received.may_resume)
        if received.size == 0:
            raise AttemptFailed("The output is empty.", restart=True)
        if not received.is_begun:
            for piece in received.release_held():
                yield piece

    async def _open(self, received: Received) -> aiohttp.ClientResponse:
        url = received.url
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(url, received)
            is_known_whole = response.status == 416 and received.may_resume
            if response.status in (200, 206) or is_known_whole:
                return response
            location = response.headers.get("Location", "")
            response.close()
            if response.status not in _REDIRECTS:
                _raise_for_status(response)
            url = self._places.checked(joined(url, location))
        raise DownloadError(f"The output host redirects more than {MAX_REDIRECTS} times.", is_remote=True)

    async def _get(self, url: URL, received: Received) -> aiohttp.ClientResponse:
        headers = self._headers
        if received.may_resume and received.validator is not None:
            headers = {**headers, "Range": f"bytes={received.got}-", "If-Range": received.validator}
        host = url.raw_host or ""
        try:
            async with asyncio.timeout_at(min(received.deadline, self._loop.time() + _HEAD_WITHIN)):
                await self._resolver.check(host)
                if self._must_resolve:
                    await self._resolver.lookup(host)
                with self._resolver.fetching(host):
                    return await self._session.get(
                        url,
                        headers=headers,
                        allow_redirects=False,
                        auto_decompress=False,
                        raise_for_status=False,
                        ssl=self._ssl,
                        timeout=aiohttp.ClientTimeout(total=None, connect=30, sock_read=_LONGEST_SILENCE),
                    )
        except DoitongError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            failure, cause, header = _failure(error), cause_of(error), too_long_header(error)
            is_about_url = isinstance(error, ValueError) and cause is None
        if header is not None:
            raise DownloadError(f"The output cannot be read: {header}.", is_remote=True)
        if is_about_url:
            raise DownloadError(f"The URL of the output cannot be fetched ({failure}).", is_remote=True)
        self._check_deadline(received)
        raise AttemptFailed(f"The output host could not be reached ({failure}).", cause)

    def _check_usable(self) -> None:
        if self._is_closed:
            raise ClientClosedError("The client is closed.")
        if self._session.closed:
            raise DownloadError("The HTTP session that was given is closed.", is_remote=True)
        if self._loop is not asyncio.get_running_loop():
            raise ConfigurationError("The result belongs to a client on another event loop; read it there.")

    def _check_deadline(self, received: Received) -> None:
        if self._loop.time() >= received.deadline:
            raise DownloadError(
                f"The output did not arrive within download_timeout, {self._timeout:,g} s: "
                f"only {received.got:,} bytes did.",
                is_remote=True,
            )

    def _join(self, announced: Announced, received: Received) -> int:
        """Join an answer to the bytes read before, or restart; return how many of its bytes to skip."""
        if announced.total is not None and announced.total > self._max_bytes and not announced.codings:
            self._too_large()
        if announced.start <= received.got and received.fits(announced):
            received.resume(announced)
            return received.got - announced.start
        if announced.start > 0:
            raise AttemptFailed("The output changed while it was downloaded.", restart=True)
        received.begin(announced)
        return 0

    async def _chunks(
        self, response: aiohttp.ClientResponse, received: Received, announced: Announced
    ) -> AsyncGenerator[bytes, None]:
        """Yield a body in chunks, with timeouts of our own.

        A session that its owner closes drops aiohttp's timer and does not wake its readers.
        """
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        chunks = response.content.iter_chunked(_CHUNK)
        waited, came = 0.0, 0
        while True:
            before = self._loop.time()
            async with asyncio.timeout_at(min(before + _LONGEST_SILENCE, received.deadline)):
                chunk = await anext(chunks, b"")
            if not chunk:
                break
            waited, came = waited + self._loop.time() - before, came + len(chunk)
            if waited >= RATE_OVER:
                if came < waited * self._min_rate:
                    raise TimeoutError(f"slower than min_download_rate, {self._min_rate:,g} bytes a second")
                waited, came = 0.0, 0
            yield chunk
        if not announced.is_delimited and protocol is not None:
            # aiohttp takes a connection reset for the end of such a body.
            error = protocol.exception()
            if isinstance(error, aiohttp.ClientOSError):
                raise error

    def _take(self, chunk: bytes, received: Received) -> Iterator[Start | bytes]:
        received.got += len(chunk)
        if received.end is not None and received.got > received.end:
            raise AttemptFailed("The output host sent more than it announced.", restart=True)
        for data in received.decoder.feed(chunk):
            received.size += len(data)
            if received.size > self._max_bytes:
                self._too_large()
            if received.is_begun:
                yield data
                continue
            received.held += data
            if len(received.held) >= media.LEADING:
                yield from received.release_held()

    def _too_large(self) -> NoReturn:
        raise DownloadError(
            f"The output is larger than max_download_bytes, {self._max_bytes:,} bytes.", is_remote=True
        )


def _is_direct(session: aiohttp.ClientSession) -> bool:
    """Whether the user's session resolves hosts itself, without a proxy."""
    has_proxy = session.trust_env or getattr(session, "_default_proxy", None) is not None
    return type(session.connector) is aiohttp.TCPConnector and not has_proxy


def _failure(error: BaseException) -> str:
    """Return a short reason for an error; re-raise a cancellation that is meant for the caller."""
    if isinstance(error, asyncio.CancelledError) and is_cancelled():
        raise error
    text = str(error) if type(error) is TimeoutError else ""
    refused = proxy_answer(error)
    if refused is not None:
        return f"the proxy refused the connection: {refused}"
    return reason_here(error) or text or type(error).__name__


def _raise_for_status(response: aiohttp.ClientResponse) -> NoReturn:
    status = response.status
    if status in _WORTH_A_RETRY or status >= 500:
        message = f"The output host answered HTTP {status}."
        retry_after = read_headers(response.headers, wall_time()).retry_in or 0.0
        raise AttemptFailed(message, status=status, retry_after=retry_after)
    raise DownloadError("The output host rejected the request.", http_status=status, is_remote=True)
