"""Fetching outputs: without the API key, a few at a time, resumed only where they are surely the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Final, NoReturn

import aiohttp
import backoff
from yarl import URL

from doitong_async import media
from doitong_async.clock import wall_time
from doitong_async.decoding import CodingError
from doitong_async.errors import ClientClosedError, ConfigurationError, DoitongError, DownloadError
from doitong_async.files import Start
from doitong_async.limits.headers import read_headers
from doitong_async.received import Announced, AttemptFailed, Received
from doitong_async.resolver import GuardedResolver
from doitong_async.transport.exchange import cause_of, is_cancelled, reason_here, too_long_header
from doitong_async.types import Generation
from doitong_async.urls import Places, joined

AT_ONCE: Final = 8
"""Downloads at the same time; they are outside the plan's limits."""
MAX_ATTEMPTS: Final = 4
MAX_REDIRECTS: Final = 3
RATE_OVER: Final = 60.0
"""Seconds of waiting for bytes over which their rate is measured: our choice."""
_CHUNK: Final = 1 << 18
_LONGEST_SILENCE: Final = 60.0
"""Seconds."""
_HEAD_WITHIN: Final = 90.0
"""Seconds that a host has to be reached and to answer, without the bytes of the output."""
_REDIRECTS: Final = (301, 302, 303, 307, 308)
# 404 too: an output host may know an output a moment later than the API does.
_WORTH_A_RETRY: Final = (404, 408, 425, 429)


class Downloads:
    """Fetches the outputs of finished jobs.

    Args:
        session: to send with.
        places: which hosts may be fetched from.
        resolver: checks their addresses.
        is_own_session: whether the session looks hosts up with that resolver.
        ssl: a context, or True.
        user_agent: the `User-Agent` header.
        max_bytes: the largest output that is read.
        timeout: seconds that one output may take, from the moment that it has its place.
        min_rate: bytes a second below which an attempt is given up.
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
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._session = session
        self._places = places
        self._resolver = resolver
        self._looks_up = not is_own_session and _is_direct(session)
        self._ssl = ssl
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._min_rate = min_rate
        self._room = asyncio.Semaphore(AT_ONCE)
        self._is_closed = False
        self._reading: set[aiohttp.ClientResponse] = set()

    def close(self) -> None:
        """Refuse further downloads, and end those under way: closing a session does not wake who reads."""
        self._is_closed = True
        for response in self._reading:
            response.content.set_exception(aiohttp.ClientConnectionError("The client was closed."))

    async def pieces(self, job: Generation, *, check: bool = True) -> AsyncGenerator[Start | bytes, None]:
        """Yield the output of a job: a `Start`, then its bytes; at another `Start` what came before is void.

        A broken connection, a 5xx or a 429 is tried again: from where it broke, if a strong validator proves
        that it is the same content, else from the first byte; and not before the end of a `Retry-After`, of
        which ten minutes are obeyed at most.

        Args:
            job: a finished one.
            check: whether an error page in the place of a picture, a video or a sound is refused.

        Raises:
            DownloadError: if it cannot be had whole, or is empty, too large, too slow or an error page.
            ClientClosedError: if the client is closed.
        """
        self._check_usable()
        url = self._places.checked(job.url)
        last = AttemptFailed("")
        pauses = backoff.expo(max_value=30)
        next(pauses)  # backoff's sequences give their first value at the second step
        async with self._room:
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
                if last.anew:
                    received.clear()
                self._check_deadline(received)
                if last.told > received.deadline - self._loop.time():
                    message = f"{last} It asks to wait {last.told:,.0f} s, which is past download_timeout."
                    raise DownloadError(message, http_status=last.status, is_remote=True) from last.cause
                if number < MAX_ATTEMPTS:
                    await asyncio.sleep(max(last.told, backoff.full_jitter(next(pauses))))
                    self._check_deadline(received)
        message = f"{last} That was attempt {MAX_ATTEMPTS} of {MAX_ATTEMPTS}."
        raise DownloadError(message, http_status=last.status, is_remote=True) from last.cause

    async def _attempt(self, received: Received) -> AsyncGenerator[Start | bytes, None]:
        response = await self._open(received)
        failure, cause, is_void = None, None, False
        self._reading.add(response)
        try:
            if response.status == 416:
                received.see_whole(response.headers, wall_time())
            else:
                told = Announced.by(response.status, response.headers, wall_time())
                known = self._join(told, received)
                async for chunk in self._chunks(response, received, told):
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
            raise AttemptFailed(message, cause, anew=is_void or not received.may_resume)
        if received.size == 0:
            raise AttemptFailed("The output is empty.", anew=True)
        if not received.is_begun:
            for piece in received.pass_on():
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
                _refused(response)
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
                if self._looks_up:
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
                f"The output did not come whole within download_timeout, {self._timeout:,g} s: "
                f"{received.got:,} bytes did.",
                is_remote=True,
            )

    def _join(self, told: Announced, received: Received) -> int:
        """Fit an answer to what was read before, or begin anew; return how many bytes of it are known."""
        if told.total is not None and told.total > self._max_bytes and not told.codings:
            self._too_large()
        if told.start <= received.got and received.fits(told):
            received.go_on(told)
            return received.got - told.start
        if told.start > 0:
            raise AttemptFailed("The output changed while it was downloaded.", anew=True)
        received.begin(told)
        return 0

    async def _chunks(
        self, response: aiohttp.ClientResponse, received: Received, told: Announced
    ) -> AsyncGenerator[bytes, None]:
        """Yield a body in chunks as they come; how long that takes is bounded here too.

        A session that its owner closes drops aiohttp's timer, and wakes nobody who reads.
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
        if not told.is_delimited and protocol is not None:
            # aiohttp takes a connection that was reset for the end of such a body.
            error = protocol.exception()
            if isinstance(error, aiohttp.ClientOSError):
                raise error

    def _take(self, chunk: bytes, received: Received) -> Iterator[Start | bytes]:
        received.got += len(chunk)
        if received.end is not None and received.got > received.end:
            raise AttemptFailed("The output host sent more than it said.", anew=True)
        for data in received.decoder.feed(chunk):
            received.size += len(data)
            if received.size > self._max_bytes:
                self._too_large()
            if received.is_begun:
                yield data
                continue
            received.held += data
            if len(received.held) >= media.LEADING:
                yield from received.pass_on()

    def _too_large(self) -> NoReturn:
        raise DownloadError(
            f"The output is larger than max_download_bytes, {self._max_bytes:,} bytes.", is_remote=True
        )


def _is_direct(session: aiohttp.ClientSession) -> bool:
    """Whether a session of the user's looks hosts up on this machine, and not a proxy for it."""
    has_proxy = session.trust_env or getattr(session, "_default_proxy", None) is not None
    return type(session.connector) is aiohttp.TCPConnector and not has_proxy


def _failure(error: BaseException) -> str:
    """Return what went wrong in a word or two; a cancellation that is meant for the caller is passed on."""
    if isinstance(error, asyncio.CancelledError) and is_cancelled():
        raise error
    said = str(error) if type(error) is TimeoutError else ""
    return reason_here(error) or said or type(error).__name__


def _refused(response: aiohttp.ClientResponse) -> NoReturn:
    status = response.status
    if status in _WORTH_A_RETRY or status >= 500:
        told = read_headers(response.headers, wall_time()).retry_in or 0.0
        raise AttemptFailed(f"The output host answered HTTP {status}.", status=status, told=told)
    raise DownloadError("The output host refused it.", http_status=status, is_remote=True)
