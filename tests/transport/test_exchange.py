"""What was written decides whether a request was sent, wherever a session's own code may raise."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import aiohttp
import pytest

from doitong_async import (
    AsyncDoitong,
    ConfigurationError,
    ConnectionFailedError,
    DownloadError,
    Plan,
    SubmitOutcomeUnknownError,
)
from doitong_async.transport.exchange import LONGEST_HEADER, RequestBody
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.graphql import GraphQLTransport
from doitong_async.transport.wire import Answer
from tests.plain_server import JPEG
from tests.test_key_sweep import EchoServer, http, job_with
from tests.virtual import seen, until, virtual, with_emulator

KEY = "sk-very/secret-0123456789"
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"data": {}}'
BEFORE = [
    "on_request_start",
    "on_connection_create_start",
    "on_request_headers_sent",
    "on_request_chunk_sent",
]
AFTER = ["on_request_end", "on_response_chunk_received"]
"""aiohttp writes headers and body together, after it has called every hook of the sending."""


class HookError(Exception):
    """An exception from the user's code."""


@asynccontextmanager
async def listening(answer: bytes | None = ANSWER) -> AsyncIterator[tuple[str, bytearray]]:
    """Serve one raw answer on loopback; yield its URL and all bytes received. None: never answer."""
    received = bytearray()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while piece := await reader.read(1 << 16):
            received.extend(piece)
            if answer is not None and received.endswith(b"}"):
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server:
        yield f"http://{host}:{port}", received
        for writer in writers:
            writer.close()
    for _ in range(5):
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(url: str, session: aiohttp.ClientSession) -> AsyncIterator[GraphQLTransport]:
    transport = GraphQLTransport(base_url=url, api_key=KEY, session=session, ssl=True, user_agent="test")
    await transport.open()
    yield transport
    await transport.close()


async def send(transport: GraphQLTransport, **more: Any) -> Answer | Failure:
    return await transport.send(b'{"query": "query { x }"}', timeout=5, idempotency_key="i-1", **more)


def raising_trace(name: str, error: BaseException | type[BaseException] = HookError) -> aiohttp.TraceConfig:
    """Return a trace configuration with one hook that raises."""
    config = aiohttp.TraceConfig()

    async def hook(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        raise error

    getattr(config, name).append(hook)
    return config


def frames_of(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


# Hooks and middlewares.


@pytest.mark.slow
@virtual
@pytest.mark.parametrize(
    "raised", [HookError, KeyError, aiohttp.ClientError, OSError, asyncio.CancelledError]
)
@pytest.mark.parametrize("name", [*BEFORE, *AFTER])
async def test_whether_bytes_left_decides_and_not_what_a_hook_raised(
    name: str, raised: type[BaseException]
) -> None:
    """A cancellation that the hook raises itself counts like any error."""
    async with (
        listening() as (url, received),
        aiohttp.ClientSession(trace_configs=[raising_trace(name, raised)]) as user,
    ):
        async with opened(url, user) as transport:
            failure = await send(transport)
        is_sent = name in AFTER
        if is_sent:
            await until(lambda: received)
        assert bool(received) is is_sent
    assert isinstance(failure, Failure)
    assert failure.kind is (FailureKind.UNANSWERED if is_sent else FailureKind.NOT_SENT)
    if (raised, name) == (asyncio.CancelledError, "on_request_chunk_sent"):
        # It ends aiohttp's own writing task, which reports nothing back.
        return
    assert failure.is_local is not is_sent
    assert raised.__name__ in failure.message
    cause = failure.error().__cause__
    assert type(cause) is raised
    assert cause.__context__ is cause.__cause__ is None
    assert frames_of(cause) == ["hook"]


@virtual
async def test_the_error_of_a_mocked_hook_is_the_cause_too() -> None:
    """A mock has no frame of its own in the traceback."""
    config = aiohttp.TraceConfig()
    config.on_request_end.append(AsyncMock(side_effect=HookError("mocked")))
    session = aiohttp.ClientSession(trace_configs=[config])
    async with listening() as (url, _), session as user, opened(url, user) as transport:
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert isinstance(failure.cause, HookError)


Handler = Callable[[Any], Awaitable[Any]]


async def raises_before(request: Any, handler: Handler) -> Any:
    raise HookError("before")


async def raises_after(request: Any, handler: Handler) -> Any:
    await handler(request)
    raise HookError("after") from KeyError("inner")


async def replaces_and_raises(request: Any, handler: Handler) -> Any:
    await request.update_body(b'{"query": "query { y }"}')
    await handler(request)
    raise HookError("after")


async def replaces_silently(request: Any, handler: Handler) -> Any:
    await request.update_body(b'{"query": "query { y }"}')
    return await handler(request)


async def wraps_the_error(request: Any, handler: Handler) -> Any:
    try:
        return await handler(request)
    except aiohttp.ClientError as error:
        raise HookError("wrapped") from error


async def replaces_while_it_handles_an_error(request: Any, handler: Handler) -> Any:
    try:
        raise KeyError("no signature in the cache")
    except KeyError:
        await request.update_body(bytes(await request.body.as_bytes()))
    await handler(request)
    raise HookError("after")


async def sends_by_its_own_session(request: Any, handler: Handler) -> Any:
    async with aiohttp.ClientSession() as other:
        await other.post(request.url, data=await request.body.as_bytes())
    raise HookError("after")


MIDDLEWARES = [
    (replaces_while_it_handles_an_error, True),
    (sends_by_its_own_session, True),
    (raises_before, False),
    (raises_after, True),
    (replaces_and_raises, True),
    (replaces_silently, True),
    (wraps_the_error, True),
]


@virtual
@pytest.mark.parametrize(
    ("middleware", "is_sent"), MIDDLEWARES, ids=lambda each: getattr(each, "__name__", "")
)
async def test_whether_bytes_left_decides_and_not_what_a_middleware_raised(
    middleware: Any, is_sent: bool
) -> None:
    """If it sends a body other than ours, nobody here can see it leave, so it may have been sent."""
    is_broken = middleware in (replaces_silently, wraps_the_error)
    answer = b"no HTTP\r\n\r\n" if is_broken else ANSWER
    async with listening(answer) as (url, received), aiohttp.ClientSession(middlewares=(middleware,)) as user:
        async with opened(url, user) as transport:
            failure = await send(transport)
        assert bool(received) is is_sent
    assert isinstance(failure, Failure)
    assert failure.kind is (FailureKind.UNANSWERED if is_sent else FailureKind.NOT_SENT)
    cause = failure.error().__cause__
    if middleware is replaces_silently:
        assert cause is None
        return
    assert isinstance(cause, HookError)
    assert frames_of(cause) == [middleware.__name__]
    assert cause.__context__ is None
    # Its own cause stays; a cause from aiohttp would show the request's headers.
    assert isinstance(cause.__cause__, KeyError) or cause.__cause__ is None


@virtual
async def test_an_error_after_the_answer_was_read_does_not_lose_it() -> None:
    """For example an error while the connection is released."""
    async with listening() as (url, _), aiohttp.ClientSession() as user:

        class RaisesOnRelease(aiohttp.ClientResponse):
            def release(self) -> Any:
                raise HookError

        user._response_class = RaisesOnRelease
        async with opened(url, user) as transport:
            answer = await send(transport)
    assert isinstance(answer, Answer)
    assert answer.body == {"data": {}}


@virtual
async def test_an_answer_that_we_fail_to_read_is_a_protocol_failure() -> None:
    """An exception while reading it must not lose a submit."""
    async with listening() as (url, _), aiohttp.ClientSession() as user, opened(url, user) as transport:
        transport._redactor = None  # type: ignore[assignment]
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert (failure.kind, failure.http_status) == (FailureKind.PROTOCOL, 200)


# Cancellation and exit.


@virtual
async def test_a_cancellation_propagates_and_reports_doubt() -> None:
    """It reports doubt only if the request was sent."""
    doubts: list[str] = []
    async with (
        listening(None) as (url, received),
        aiohttp.ClientSession() as user,
        opened(url, user) as transport,
    ):
        sent = asyncio.ensure_future(send(transport, on_doubt=lambda: doubts.append("sent")))
        await until(lambda: received)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent
        assert doubts == ["sent"]
    async with listening(None) as (url, received):
        blocked = aiohttp.ClientSession(trace_configs=[waiting_trace("on_request_headers_sent")])
        async with blocked as user, opened(url, user) as transport:
            waiting = asyncio.ensure_future(send(transport, on_doubt=lambda: doubts.append("not sent")))
            for _ in range(50):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
    assert doubts == ["sent"]


def waiting_trace(name: str) -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()

    async def hook(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        await asyncio.Event().wait()

    getattr(config, name).append(hook)
    return config


class Exit(BaseException):
    """A BaseException such as `pytest.fail` raises."""


@virtual
async def test_an_exit_propagates_and_reports_doubt() -> None:
    """It must not turn into an error of ours."""
    doubts: list[str] = []
    for name in ("on_request_start", "on_request_end"):
        session = aiohttp.ClientSession(trace_configs=[raising_trace(name, Exit)])
        async with listening() as (url, _), session as user, opened(url, user) as transport:
            with pytest.raises(Exit):
                await send(transport, on_doubt=lambda name=name: doubts.append(name))
    assert doubts == ["on_request_end"]


# Local resources.


@virtual
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_a_missing_local_resource_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error blames neither the service nor the network, since neither was reached."""

    def no_socket(*_: object, **__: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    async with listening() as (url, _), aiohttp.ClientSession() as user, opened(url, user) as transport:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", no_socket)
            failure = await send(transport)
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.NOT_SENT
    reason = os.strerror(number)
    assert failure.message == f"The request did not leave this machine: {reason[0].lower()}{reason[1:]}."
    error = failure.error()
    assert isinstance(error, ConnectionFailedError)
    assert not error.sent
    assert "network" not in str(error)


@virtual
async def test_an_unusable_session_is_a_configuration_error() -> None:
    """A closed session does not recover by retrying."""
    async with listening() as (url, received):
        closed = aiohttp.ClientSession()
        await closed.close()
        async with opened(url, closed) as transport:
            failure = await send(transport)
        assert isinstance(failure, Failure)
        assert isinstance(failure.error(), ConfigurationError)
        assert "closed" in failure.message
        assert not received


# Long headers.


def long_answer(length: int) -> bytes:
    return ANSWER.replace(b"\r\n\r\n", b"\r\nX-Long: " + b"x" * length + b"\r\n\r\n")


@virtual
async def test_an_overlong_header_names_the_session_setting() -> None:
    """The request was sent; the error says how to open the session."""
    async with listening(long_answer(9000)) as (url, _):
        async with aiohttp.ClientSession() as user, opened(url, user) as transport:
            failure = await send(transport)
        assert isinstance(failure, Failure)
        assert failure.kind is FailureKind.UNANSWERED
        assert "open it with max_field_size=65536" in failure.message
        async with (
            aiohttp.ClientSession(max_field_size=1 << 16) as user,
            opened(url, user) as transport,
        ):
            assert isinstance(await send(transport), Answer)
    async with (
        listening(long_answer(LONGEST_HEADER + 1)) as (url, _),
        aiohttp.ClientSession(max_field_size=1 << 16) as user,
        opened(url, user) as transport,
    ):
        failure = await send(transport)
    assert isinstance(failure, Failure)
    assert "max_field_size" not in failure.message


@virtual
async def test_a_long_header_loses_no_job() -> None:
    """Our own session reads it; with a user's session, submit, poll and download name the setting."""
    long = {"X_Long": "x" * 9000}
    is_long = {"submit": True, "poll": True, "get": True}

    def answer(kind: str, key: str) -> bytes:
        more = long if is_long[kind] else {}
        if kind == "get":
            return http("", Content_Type="image/jpeg", Content_Length=str(len(JPEG)), **more) + JPEG
        url = json.dumps(f"{server.url}/fox.jpg")
        return http(job_with(status='"completed"' if kind == "poll" else '"processing"', url=url), **more)

    def client(session: aiohttp.ClientSession | None) -> AsyncDoitong:
        return AsyncDoitong(api_key=KEY, base_url=server.url, plan=Plan.PRO, session=session, timeout=10)

    setting = "open it with max_field_size=65536"
    async with EchoServer(answer) as server:
        async with client(None) as doitong:
            assert await (await doitong.generate("a fox")).read() == JPEG
        async with aiohttp.ClientSession() as session, client(session) as doitong:
            with pytest.raises(SubmitOutcomeUnknownError, match=setting) as caught:
                await doitong.submit("a fox", idempotency_key="i-fox")
            assert caught.value.idempotency_key == "i-fox"
            is_long["submit"] = False
            job = await doitong.submit("a fox", idempotency_key="i-fox")
            with pytest.raises(ConnectionFailedError, match=setting):
                await job.refresh()
            is_long["poll"] = False
            with pytest.raises(DownloadError, match=setting):
                await (await job).read()


# Up to the caller.


@virtual
@pytest.mark.parametrize("name", AFTER)
async def test_a_hook_that_breaks_a_sent_submit_leaves_it_in_doubt(name: str) -> None:
    """The job was made; the error carries its key and, as its cause, the hook's exception."""
    session = aiohttp.ClientSession(trace_configs=[raising_trace(name)])
    async with session, with_emulator(session=session) as (doitong, emulator):
        with pytest.raises(SubmitOutcomeUnknownError) as caught:
            await doitong.submit("a fox", idempotency_key="i-fox")
        assert emulator.world.charges == 1
    assert caught.value.idempotency_key == "i-fox"
    assert "HookError" in caught.value.message
    assert isinstance(caught.value.__cause__, HookError)


@virtual
async def test_a_hook_that_stops_a_submit_costs_nothing() -> None:
    """The error names the hook's exception as its cause."""
    session = aiohttp.ClientSession(trace_configs=[raising_trace("on_request_start")])
    async with session, with_emulator(session=session) as (doitong, emulator):
        with pytest.raises(ConnectionFailedError, match="nothing was charged") as caught:
            await doitong.submit("a fox")
        assert emulator.world.charges == 0
    assert isinstance(caught.value.__cause__, HookError)


@virtual
async def test_a_hook_that_breaks_polls_loses_no_job() -> None:
    """The poller survives, and sees the job end as soon as the hook recovers."""
    broken = 3
    config = aiohttp.TraceConfig()

    async def hook(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        nonlocal broken
        if b"mutation" not in context.trace_request_ctx and broken:
            broken -= 1
            raise (KeyError, asyncio.CancelledError, HookError)[broken]

    async def remember_body(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        context.trace_request_ctx = params.chunk

    config.on_request_chunk_sent.append(remember_body)
    config.on_request_end.append(hook)
    session = aiohttp.ClientSession(trace_configs=[config])
    async with session, with_emulator(emulator={"durations": 3.0}, session=session) as (doitong, emulator):
        result = await doitong.generate("a fox", width=8, height=8)
        assert result.url
        assert emulator.world.charges == 1
        assert len(seen(emulator, "poll")) >= 4
    assert broken == 0


@virtual
async def test_an_exit_from_a_hook_leaves_the_key_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The job may run, and only its key can find it."""
    session = aiohttp.ClientSession(trace_configs=[raising_trace("on_request_end", Exit)])
    async with session, with_emulator(session=session) as (doitong, emulator):
        with pytest.raises(Exit):
            await doitong.submit("a fox", idempotency_key="i-fox")
        assert emulator.world.charges == 1
    assert "i-fox may have made a job" in caplog.text


@virtual
async def test_the_exception_of_a_hook_is_the_cause_of_a_failed_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job is done; another call fetches its output again."""
    config = aiohttp.TraceConfig()

    async def hook(session: aiohttp.ClientSession, context: Any, params: Any) -> None:
        if params.method == "GET":
            raise HookError

    config.on_request_end.append(hook)
    session = aiohttp.ClientSession(trace_configs=[config])
    async with session, with_emulator(emulator={"durations": 0.0}, session=session) as (doitong, _):
        result = await doitong.generate("a fox", width=8, height=8)
        with pytest.raises(DownloadError, match="HookError") as caught:
            await result.read()
    assert isinstance(caught.value.__cause__, HookError)
    assert frames_of(caught.value.__cause__) == ["hook"]


def test_a_request_body_can_still_be_read() -> None:
    """A middleware that signs it finds the bytes."""
    assert RequestBody(b"{}").decode() == "{}"
    assert RequestBody(b"{}").size == 2
