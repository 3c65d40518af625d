"""Tells whether a request had left this machine when its exchange failed.

The one rule: an exception before the first byte of the request left is NOT_SENT; one after it, before the
answer is read whole, is UNANSWERED. The request's body knows which, as aiohttp asks it to write itself; the
class of the exception only chooses the message.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import LineTooLong

from doitong_async.transport.failure import Failure, FailureKind

MOST_BYTES: Final = 8 << 20
"""Most bytes that we read of one answer; 100 jobs take some 30 KB."""
LONGEST_HEADER: Final = 1 << 16
"""Most bytes of one header that our own session reads; aiohttp's default is 8,190."""

Reply: TypeAlias = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body, read whole."""


class RequestBody(aiohttp.BytesPayload):
    """The body of one request, which records how far the exchange got.

    From 3.12 on aiohttp sends the headers together with the body; before, the headers go one step earlier. A
    request without a byte of its body makes no job.
    """

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self._writers: list[AbstractStreamWriter] = []
        self._is_replaced = self._is_closed_unwritten = self._was_read = False
        self.reply: Reply | None = None
        """The answer, once it was read whole."""
        self.is_answered: bool = False

    @property
    def has_left(self) -> bool:
        """Whether any byte of the request can have left this machine."""
        # A writer counts what it hands to the socket; a hook may fail before that.
        is_written = any(writer.output_size for writer in self._writers)
        return is_written or self._is_replaced or self.is_answered

    async def as_bytes(self, *given: Any, **named: Any) -> bytes:
        """Return the body to a middleware, which may send it in a way of its own."""
        self._was_read = True
        return await super().as_bytes(*given, **named)

    def decode(self, *given: Any, **named: Any) -> str:
        """Return the body to a middleware, as `as_bytes` does."""
        self._was_read = True
        return super().decode(*given, **named)

    def may_have_left(self, error: BaseException, cause: BaseException | None) -> bool:
        """Whether any byte can have left, from this body or from a middleware's copy."""
        if self.has_left or not self._was_read or isinstance(error, aiohttp.ClientConnectorError):
            return self.has_left
        return cause is not None or self._is_closed_unwritten

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body; aiohttp up to 3.11 calls this."""
        self._writers.append(writer)
        await super().write(writer)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body; aiohttp from 3.12 on calls this."""
        self._writers.append(writer)
        await super().write_with_length(writer, content_length)

    def _close(self) -> None:
        # aiohttp closes a body after its request, but also when a middleware replaces it; then we cannot know
        # whether the replacement left.
        self._is_closed_unwritten |= not self._writers
        self._is_replaced |= sys.exception() is None and not self._writers

    async def exchange(self, response: aiohttp.ClientResponse) -> None:
        """Read the answer to this request whole."""
        self.is_answered = True
        try:
            raw = await _read(response)
            self.reply = response.status, response.headers, raw
            response.release()
        except BaseException:
            response.close()
            raise


_NOT_CONNECTED: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
)


class NoBody(RequestBody):
    """The lack of a body in a request such as a poll: nothing tells how far it got.

    So all but a connection that was never made, and a session that cannot send, count as sent.
    """

    def __init__(self) -> None:
        super().__init__(b"")

    def may_have_left(self, error: BaseException, cause: BaseException | None) -> bool:
        """Whether any byte can have left."""
        is_unsent = isinstance(error, _NOT_CONNECTED) or _is_about_the_session(error)
        return self.is_answered or not is_unsent


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if (
        "Content-Encoding" not in response.headers
        and (response.content_length or MOST_BYTES + 1) <= MOST_BYTES
    ):
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {MOST_BYTES:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def drop_sockets(session: aiohttp.ClientSession) -> None:
    """Close the sockets of a session whose event loop is closed, as no transport can do it any more.

    This reads private attributes. Without them a socket is closed when it is collected, with a
    ResourceWarning.
    """
    connector: Any = session.connector
    pooled = [protocol for pool in getattr(connector, "_conns", {}).values() for protocol, _ in pool]
    for protocol in (*pooled, *getattr(connector, "_acquired", ())):
        transport: Any = getattr(protocol, "transport", None)
        if (sock := getattr(transport, "_sock", None)) is not None:
            sock.close()
            transport._sock = None


def is_cancelled() -> bool:
    """Whether the running task is being cancelled; otherwise a CancelledError comes from a hook."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


# What an exception means.


_OF_THIS_MACHINE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
_LOCAL: Final = "The request did not leave this machine:"


def failure_of(error: BaseException, body: RequestBody) -> Failure:
    """Return what an exception of the session means for the request with this body."""
    cause = cause_of(error)
    if body.may_have_left(error, cause):
        message = f"The request was sent, but {_what_broke(error, cause)}."
        return Failure(FailureKind.UNANSWERED, message, cause=cause)
    name = type(error if cause is None else cause).__name__
    reason = reason_here(error)
    if reason is None and cause is not None:
        reason = f"a hook or middleware of the session raised {name}"
    if reason is not None:
        return Failure(FailureKind.NOT_SENT, f"{_LOCAL} {reason}.", cause=cause, is_local=True)
    if (refused := proxy_answer(error)) is not None:
        return Failure(FailureKind.NOT_SENT, f"The proxy refused the connection: {refused}.")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Failure(
            FailureKind.NOT_SENT,
            f"The service could not be reached ({getattr(error, 'os_error', None) or name}).",
        )
    if _is_about_the_session(error):
        what = (
            "is closed, or belongs to another event loop"
            if isinstance(error, RuntimeError)
            else "cannot send it, as it has credentials of its own (auth, netrc)"
        )
        return Failure(FailureKind.UNUSABLE, f"{_LOCAL} the HTTP session {what}.")
    return Failure(
        FailureKind.NOT_SENT, f"{_LOCAL} {name} was raised on the way to the network.", is_local=True
    )


def proxy_answer(error: BaseException) -> str | None:
    """Return what a proxy answered in place of a connection, such as "HTTP 407"; None if it did not."""
    for each in _chain(error):
        if isinstance(each, aiohttp.ClientHttpProxyError):
            return f"HTTP {each.status}"
    return None


def too_long_header(error: BaseException) -> str | None:
    """Return what to do about an answer whose header is too long for the session, or None."""
    for each in _chain(error):
        if isinstance(each, LineTooLong):
            is_ours = str(LONGEST_HEADER) in map(str, each.args[1:2])
            remedy = "" if is_ours else f"; open it with max_field_size={LONGEST_HEADER}"
            return f"the answer has a header longer than the session allows{remedy}"
    return None


def _what_broke(error: BaseException, cause: BaseException | None) -> str:
    if cause is not None:
        return f"a hook or middleware of the session raised {type(cause).__name__} before its answer was read"
    if (header := too_long_header(error)) is not None:
        return header
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return f"no answer came in time ({name})"
    if isinstance(error, aiohttp.ClientError | OSError):
        return f"the connection broke ({name})"
    return f"its answer could not be read here ({name})"


def reason_here(error: BaseException) -> str | None:
    """Return the resource that this machine lacks, if that caused the error."""
    for each in _chain(error):
        number = getattr(getattr(each, "os_error", each), "errno", None)
        if number in _OF_THIS_MACHINE:
            words = os.strerror(number)
            return f"{words[:1].lower()}{words[1:]}"
        if isinstance(each, MemoryError):
            return "out of memory"
    return None


def _is_about_the_session(error: BaseException) -> bool:
    """Whether aiohttp itself rejects this session; another attempt does not help."""
    packages = list(_packages(error.__traceback__))
    return isinstance(error, RuntimeError | ValueError) and packages[-1:] == ["aiohttp"]


# Whose exception it is.


_LIBRARIES: Final = {
    *("doitong_async", "gql", "aiohttp"),
    # Their own dependencies.
    *("anyio", "aiohappyeyeballs", "aiosignal", "attr", "frozenlist", "multidict", "propcache", "yarl"),
}
_STANDARD: Final = sys.stdlib_module_names - {"unittest"}


def cause_of(error: BaseException) -> BaseException | None:
    """Return the exception of the user's hook or middleware that caused this error, if any, fit to be shown.

    It keeps no library frames in its traceback and no library exceptions in its chain: those hold the headers
    of the request.
    """
    cause = next((each for each in _chain(error) if _is_of_user(each)), None)
    if cause is not None:
        _clean(cause, set())
    return cause


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__context__ if error.__cause__ is None else error.__cause__


def _is_of_user(error: BaseException) -> bool:
    """Whether the user's code raised the error, or called the standard library that did."""
    named = [package for package in _packages(error.__traceback__) if package not in _STANDARD]
    return bool(named) and named[-1] not in _LIBRARIES


def _packages(traceback: TracebackType | None) -> Iterator[str]:
    """Yield the package of each frame, the outermost first."""
    while traceback is not None:
        yield _package(traceback)
        traceback = traceback.tb_next


def _package(traceback: TracebackType) -> str:
    return str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]


def _clean(error: BaseException, seen: set[int]) -> None:
    seen.add(id(error))
    chained = (error.__cause__, error.__context__)
    kept = [each if each is not None and _is_of_user(each) else None for each in chained]
    is_hidden = error.__suppress_context__
    error.__traceback__ = _of_user(error.__traceback__)
    error.__cause__, error.__context__ = kept
    error.__suppress_context__ = is_hidden
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for each in (*kept, *parts):
        if each is not None and id(each) not in seen:
            _clean(each, seen)


def _of_user(traceback: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of libraries."""
    kept = []
    while traceback is not None:
        if _package(traceback) not in _LIBRARIES:
            kept.append(traceback)
        traceback = traceback.tb_next
    rest = None
    for each in reversed(kept):
        rest = TracebackType(rest, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return rest
