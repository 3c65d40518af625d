"""What our correctness hangs on in libraries that are not ours: if one fails, read before you mend."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import itertools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiohttp
import backoff
import gql
import pydantic
import pytest
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from gql.client import AsyncClientSession
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError
from graphql import ExecutionResult
from pydantic_core import core_schema

from doitong_async.transport.exchange import drop_sockets
from tests.virtual import virtual

Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve one handler on loopback, and yield its root."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@virtual
async def test_gql_drops_the_status_of_an_answer_with_a_json_body() -> None:
    """Hence the transport of our own: a 500 with data counts as success, a 429 loses its reset."""

    async def oops(request: web.Request) -> web.Response:
        return web.json_response({"data": {"x": 1}}, status=500)

    async with serving(oops) as url, gql.Client(transport=AIOHTTPTransport(url)) as session:
        assert await session.execute(gql.gql("{ x }")) == {"x": 1}


@virtual
async def test_gql_raises_on_any_error_and_asserts_on_null_data() -> None:
    """Hence the answer rides in the data of the result, past both."""
    bodies = iter([{"data": {"a": 1, "b": None}, "errors": [{"message": "no b"}]}, {"data": None}])

    async def odd(request: web.Request) -> web.Response:
        return web.json_response(next(bodies))

    async with serving(odd) as url, gql.Client(transport=AIOHTTPTransport(url)) as session:
        with pytest.raises(TransportQueryError) as caught:
            await session.execute(gql.gql("{ a b }"))
        assert caught.value.data == {"a": 1, "b": None}
        with pytest.raises(AssertionError):
            await session.execute(gql.gql("{ a b }"))


@virtual
async def test_gql_hands_data_and_extra_arguments_through_untouched() -> None:
    """Our transport gets `extra_args` as they are, and what it returns as data comes out as it is."""
    marker = object()

    class Echo(AIOHTTPTransport):
        async def execute(self, request: Any, **kwargs: Any) -> Any:
            return ExecutionResult(data={"marker": marker, **kwargs})

    async with gql.Client(transport=Echo("http://127.0.0.1:9"), execute_timeout=None) as session:
        result = await session.execute(gql.GraphQLRequest("{ x }"), extra_args={"n": 1})
    assert result == {"marker": marker, "extra_args": {"n": 1}}


@virtual
async def test_gql_sends_by_a_method_that_a_session_of_our_own_replaces() -> None:
    """`_execute` is where gql adds its timeout; a session without it is all that ours differs by."""
    called: list[object] = []

    class Own(AsyncClientSession):
        async def _execute(self, request: Any, **kwargs: Any) -> Any:
            called.append(request)
            return ExecutionResult(data={"x": 1})

    session = Own(gql.Client(transport=AIOHTTPTransport("http://127.0.0.1:9")))
    request = gql.GraphQLRequest("{ x }")
    assert await session.execute(request) == {"x": 1}
    assert called == [request]


@virtual
async def test_gql_has_a_hidden_timeout_of_ten_seconds() -> None:
    """It counts the wait for a connection too; hence `execute_timeout=None` and a timeout of our own."""

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(11)
        return web.json_response({"data": {"x": 1}})

    async with serving(slow) as url:
        async with gql.Client(transport=AIOHTTPTransport(url)) as session:
            with pytest.raises(TimeoutError):
                await session.execute(gql.gql("{ x }"))
        async with gql.Client(transport=AIOHTTPTransport(url), execute_timeout=None) as session:
            assert await session.execute(gql.gql("{ x }")) == {"x": 1}


@virtual
async def test_gql_follows_a_redirect_with_the_post() -> None:
    """Hence `allow_redirects=False`: a mutation must not be sent to wherever an answer points."""
    seen: list[str] = []

    async def moved(request: web.Request) -> web.Response:
        seen.append(request.path)
        if request.path == "/":
            raise web.HTTPTemporaryRedirect("/elsewhere")
        return web.json_response({"data": {"x": 1}})

    async with serving(moved) as url, gql.Client(transport=AIOHTTPTransport(url)) as session:
        await session.execute(gql.gql("{ x }"))
    assert seen == ["/", "/elsewhere"]


@virtual
async def test_gql_chains_an_error_that_shows_the_key() -> None:
    """Hence no exception of theirs is a cause or a context of one of ours."""

    async def oops(request: web.Request) -> web.Response:
        return web.Response(text="<html>", status=502)

    transport = AIOHTTPTransport("", headers={"Authorization": "Bearer sk-secret"})
    async with serving(oops) as url:
        transport.url = url
        async with gql.Client(transport=transport) as session:
            with pytest.raises(Exception, match="502") as caught:
                await session.execute(gql.gql("{ x }"))
    assert "sk-secret" in repr(caught.value.__cause__)


@virtual
async def test_aiohttp_carries_other_headers_than_authorization_to_another_origin() -> None:
    """It drops `Authorization` there, but `X-API-Key` and `Idempotency-Key` go along."""
    seen: list[dict[str, str]] = []

    async def there(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.Response()

    async with serving(there) as elsewhere:

        async def here(request: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(elsewhere)

        headers = {"Authorization": "Bearer a", "X-API-Key": "b", "Idempotency-Key": "c"}
        async with serving(here) as url, aiohttp.ClientSession() as session:
            (await session.post(url, headers=headers)).close()
    (got,) = seen
    assert "Authorization" not in got
    assert (got["X-API-Key"], got["Idempotency-Key"]) == ("b", "c")


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the first request of a connection, and cut it at the second: the race of keep-alive."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    writer.close()


@virtual
async def test_aiohttp_sends_a_get_again_that_was_cut_but_never_a_post() -> None:
    """A submit is sent again by us, under its key, or not at all."""
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server:
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                assert (await session.get(url)).status == 200
        async with aiohttp.ClientSession() as session:
            assert (await session.post(url)).status == 200
            with pytest.raises(aiohttp.ServerDisconnectedError):
                await session.post(url)
        await settle_connections()


async def settle_connections() -> None:
    """Let the servers see that their clients are gone."""
    for _ in range(10):
        await asyncio.sleep(0)


@virtual
async def test_aiohttp_tells_a_connection_that_was_never_made_from_one_that_broke() -> None:
    """On it hangs what may be sent again without a key: nothing was sent before there was a connection."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(f"http://127.0.0.1:{port}/")
        server.close()
        await server.wait_closed()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post(f"http://127.0.0.1:{port}/")


FROM_3_12 = hasattr(aiohttp, "ClientMiddlewareType")


class Watched(aiohttp.BytesPayload):
    """A body that notes what had been handed to the socket when it was asked for, and how it was closed."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self.noted: list[object] = []
        self.writers: list[Any] = []

    async def write(self, writer: Any) -> None:
        self.noted.append(writer.output_size)
        self.writers.append(writer)
        await super().write(writer)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        self.noted.append(writer.output_size)
        self.writers.append(writer)
        await super().write_with_length(writer, content_length)

    def _close(self) -> None:
        self.noted.append(type(sys.exception()))


@virtual
async def test_aiohttp_asks_a_body_to_write_itself_right_before_the_first_byte_leaves() -> None:
    """On it hangs what is "sent". Up to 3.11 the headers go a step earlier: alone they make no job."""

    async def well(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    body = Watched(b"x" * 10)
    session = aiohttp.ClientSession()
    async with serving(well) as url, session, session.post(url, data=body) as sent:
        assert await sent.read() == b"x" * 10
    assert bool(body.noted[0]) is not FROM_3_12
    (writer,) = body.writers
    assert writer.output_size > 100


@virtual
async def test_aiohttp_never_asks_a_body_to_write_itself_without_a_connection() -> None:
    """So what is raised before was not sent; and it closes the body, if at all, while it handles that."""
    body = Watched(b"x")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.9:9", data=body)
    assert body.writers == []
    assert set(body.noted) <= {aiohttp.ClientConnectorError}


@virtual
@pytest.mark.skipif(not FROM_3_12, reason="aiohttp has middlewares from 3.12 on")
async def test_aiohttp_closes_a_body_that_a_middleware_replaces_outside_of_any_error() -> None:
    """By that it is known that the body that was sent is another."""

    async def other(request: Any, handler: Any) -> Any:
        await request.update_body(b"other")
        return await handler(request)

    async def well(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    body = Watched(b"x")
    session = aiohttp.ClientSession(middlewares=(other,))
    async with serving(well) as url, session, session.post(url, data=body) as sent:
        assert await sent.read() == b"other"
    assert body.writers == []
    assert body.noted == [type(None)]


@virtual
async def test_aiohttp_sends_a_masked_header_as_it_is_and_shows_it_masked() -> None:
    """On it hangs that no hook of a user's, and no frame of aiohttp's, shows the key."""

    class Masked(str):
        __slots__ = ()

        def __repr__(self) -> str:
            return "***"

    seen: list[str] = []
    shown: list[str] = []

    async def here(request: web.Request) -> web.Response:
        seen.append(request.headers["Authorization"])
        return web.Response()

    async def hook(session: Any, context: Any, params: Any) -> None:
        shown.append(f"{params!r} {dict(params.headers)!r} {params.headers.items()!r}")

    config = aiohttp.TraceConfig()
    config.on_request_start.append(hook)
    config.on_request_headers_sent.append(hook)
    config.on_request_end.append(hook)
    async with serving(here) as url, aiohttp.ClientSession(trace_configs=[config]) as session:
        response = await session.post(url, headers={"Authorization": Masked("Bearer sk-secret")})
        shown.append(repr(response.request_info))
        response.release()
    assert seen == ["Bearer sk-secret"]
    assert len(shown) == 4
    assert all("***" in each and "sk-secret" not in each for each in shown)


@virtual
async def test_aiohttp_says_in_the_causes_of_its_error_that_a_header_is_too_long() -> None:
    """Its message shows the header, and its class is that of any broken answer."""

    async def long(request: web.Request) -> web.Response:
        return web.Response(headers={"X-Long": "x" * 9000})

    async with serving(long) as url:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientResponseError) as caught:
                await session.post(url)
        error, chained = caught.value.__cause__, list[BaseException]()
        while error is not None:
            chained.append(error)
            error = error.__cause__ or error.__context__
        assert any(isinstance(each, LineTooLong) and "8190" in map(str, each.args) for each in chained)
        async with aiohttp.ClientSession(max_line_size=1 << 16, max_field_size=1 << 16) as session:
            assert (await session.post(url)).status == 200


def test_a_server_that_cuts_is_a_failed_connection_to_gql() -> None:
    """With nothing in it that tells whether the request was sent: hence aiohttp's own errors are read."""

    async def look() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, gql.Client(transport=AIOHTTPTransport(f"http://127.0.0.1:{port}")) as session:
            with pytest.raises(TransportConnectionFailed):
                await session.execute(gql.gql("{ x }"))

    virtual(look)()


def test_a_sequence_of_backoff_gives_its_first_value_at_the_second_step() -> None:
    """The first `next` only starts it."""
    assert list(itertools.islice(backoff.expo(max_value=5), 6)) == [None, 1, 2, 4, 5, 5]
    assert 0 <= backoff.full_jitter(3.0) <= 3.0


def test_pydantic_asks_an_enum_for_words_it_does_not_know() -> None:
    """On it hangs that an unknown status is kept."""

    class Word(enum.StrEnum):
        KNOWN = "known"

        @classmethod
        def _missing_(cls, value: object) -> Word:
            return cls.KNOWN

    assert pydantic.TypeAdapter(Word).validate_python("other") is Word.KNOWN


def test_pydantic_can_put_a_default_in_the_place_of_what_does_not_fit() -> None:
    """On it hangs that a bad `creditCost` loses no job."""

    class OrNone:
        def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
            return core_schema.with_default_schema(handler(source), default=None, on_error="default")

    adapter: pydantic.TypeAdapter[int | None] = pydantic.TypeAdapter(Annotated[int | None, OrNone()])
    assert adapter.validate_python("no number") is None


def test_a_session_whose_loop_is_closed_closes_on_another_and_its_sockets_are_found() -> None:
    """aiohttp then touches no transport, so that each socket is ours to close; asyncio complains of none."""

    async def ask() -> aiohttp.ClientSession:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text="yes")

        session = aiohttp.ClientSession()
        async with serving(answer) as root, session.get(root) as response:
            await response.read()
            await asyncio.sleep(0)
            assert response.connection is None
            (pool,) = session.connector._conns.values()  # type: ignore[union-attr]  # private
            assert pool[0][0].transport._sock.fileno() > 0  # type: ignore[union-attr]  # private
            kept.append(pool[0][0].transport)
            loop.stop()
            return session

    kept: list[Any] = []
    loop = asyncio.new_event_loop()
    task = loop.create_task(ask())
    loop.run_forever()
    loop.run_until_complete(task)
    loop.close()
    drop_sockets(task.result())
    assert kept.pop()._sock is None
    asyncio.run(task.result().close())
    del task
    gc.collect()


def test_a_task_of_a_closed_loop_can_be_dropped_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    """By a private flag of asyncio's own, which both kinds of tasks have."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.Event().wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert asyncio.all_tasks(loop) == {task}
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # private
    del task
    gc.collect()
    assert caplog.text == ""
