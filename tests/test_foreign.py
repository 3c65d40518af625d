"""Facts about other libraries that the client depends on; if one fails, read it before you fix code."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import gc
import gzip
import itertools
import shutil
import socket
import sqlite3
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import backoff
import gql
import pydantic
import pytest
import yarl
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from gql.transport.aiohttp import AIOHTTPTransport
from gql.transport.async_transport import AsyncTransport
from gql.transport.exceptions import TransportConnectionFailed, TransportQueryError
from graphql import DocumentNode, ExecutionResult
from pydantic_core import core_schema
from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from doitong_async.transport.exchange import drop_sockets
from tests.redis_server import RedisServer
from tests.virtual import now, settle, until, virtual

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
    """So the client has its own transport: gql takes a 500 with data for success and loses a 429's reset."""

    async def oops(request: web.Request) -> web.Response:
        return web.json_response({"data": {"x": 1}}, status=500)

    async with serving(oops) as url, gql.Client(transport=AIOHTTPTransport(url)) as session:
        assert await session.execute(gql.gql("{ x }")) == {"x": 1}


@virtual
async def test_gql_raises_on_any_error_and_asserts_on_null_data() -> None:
    """So our transport passes the answer around both, on the body of its request."""
    bodies = iter([{"data": {"a": 1, "b": None}, "errors": [{"message": "no b"}]}, {"data": None}])

    async def odd(request: web.Request) -> web.Response:
        return web.json_response(next(bodies))

    async with serving(odd) as url, gql.Client(transport=AIOHTTPTransport(url)) as session:
        with pytest.raises(TransportQueryError) as caught:
            await session.execute(gql.gql("{ a b }"))
        assert caught.value.data == {"a": 1, "b": None}
        with pytest.raises(AssertionError):
            await session.execute(gql.gql("{ a b }"))


class RecordingTransport(AsyncTransport):
    """A transport that records how gql uses it, and returns the answer it was given."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def connect(self) -> None:
        self.calls.append("connect")

    async def close(self) -> None:
        self.calls.append("close")

    async def execute(self, request: gql.GraphQLRequest, **post: Any) -> ExecutionResult:
        self.calls.append("execute")
        return ExecutionResult(data={"request": request, **post})

    def subscribe(self, request: gql.GraphQLRequest) -> AsyncGenerator[ExecutionResult, None]:
        raise NotImplementedError


@virtual
async def test_gql_takes_any_transport_and_hands_it_each_request_untouched() -> None:
    """So ours can post its own bytes: without a schema, gql reads neither document nor result."""
    transport = RecordingTransport()
    request = gql.GraphQLRequest(DocumentNode(definitions=()))
    post: dict[str, Any] = {"data": object(), "headers": {}, "timeout": object(), "ssl": True}
    async with gql.Client(transport=transport, execute_timeout=None) as session:
        assert await session.execute(request, **post) == {"request": request, **post}
    assert transport.calls == ["connect", "execute", "close"]


@virtual
async def test_gql_passes_a_cancellation_and_an_error_of_the_transport() -> None:
    """So the client knows why a request ended: both come out as raised, once."""

    class Raising(RecordingTransport):
        async def execute(self, request: gql.GraphQLRequest, **post: Any) -> ExecutionResult:
            self.calls.append("execute")
            raise post["error"]

    transport = Raising()
    request = gql.GraphQLRequest(DocumentNode(definitions=()))
    raised = [asyncio.CancelledError(), aiohttp.ServerDisconnectedError(), TimeoutError(), OSError()]
    async with gql.Client(transport=transport, execute_timeout=None) as session:
        for error in raised:
            with pytest.raises(type(error)) as caught:
                await session.execute(request, error=error)
            assert caught.value is error
            assert error.__cause__ is error.__context__ is None
    assert transport.calls.count("execute") == len(raised)


@virtual
async def test_gql_has_a_hidden_timeout_of_ten_seconds() -> None:
    """It includes the wait for a connection, hence `execute_timeout=None` and a timeout of our own."""

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
    """Hence `allow_redirects=False`: a mutation must not go wherever an answer points."""
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
    """So no gql exception is the cause or context of one of ours."""

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
async def test_aiohttp_sends_all_headers_but_authorization_to_another_origin() -> None:
    """It drops `Authorization`, but sends `X-API-Key` and `Idempotency-Key` along."""
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
    """Answer the first request of a connection and cut it at the second, as in the keep-alive race."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    writer.close()


@virtual
async def test_aiohttp_retries_a_cut_get_but_never_a_post() -> None:
    """So only the client itself sends a submit again, under its key."""
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
    """Let the servers notice that their clients have gone."""
    for _ in range(10):
        await asyncio.sleep(0)


@virtual
async def test_aiohttp_separates_a_failed_connection_from_a_broken_one() -> None:
    """Without a connection nothing was sent, so the request may be sent again without a key."""
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(f"http://127.0.0.1:{port}/")
        server.close()
        await server.wait_closed()
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post(f"http://127.0.0.1:{port}/")


class RecordedBody(aiohttp.BytesPayload):
    """A body that records what the socket had when it was asked to write, and how it was closed."""

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
    """That call is what the client counts as "sent"."""

    async def well(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    body = RecordedBody(b"x" * 10)
    session = aiohttp.ClientSession()
    async with serving(well) as url, session, session.post(url, data=body) as sent:
        assert await sent.read() == b"x" * 10
    assert not body.noted[0]
    (writer,) = body.writers
    assert writer.output_size > 100


@virtual
async def test_aiohttp_never_asks_a_body_to_write_itself_without_a_connection() -> None:
    """So an earlier error means that nothing was sent. aiohttp may close the body while handling it."""
    body = RecordedBody(b"x")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.post("http://127.0.0.9:9", data=body)
    assert body.writers == []
    assert set(body.noted) <= {aiohttp.ClientConnectorError}


@virtual
async def test_aiohttp_closes_a_replaced_body_outside_any_error() -> None:
    """This shows the client that a middleware sent another body."""

    async def other(request: Any, handler: Any) -> Any:
        await request.update_body(b"other")
        return await handler(request)

    async def well(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    body = RecordedBody(b"x")
    session = aiohttp.ClientSession(middlewares=(other,))
    async with serving(well) as url, session, session.post(url, data=body) as sent:
        assert await sent.read() == b"other"
    assert body.writers == []
    assert body.noted == [type(None)]


@virtual
async def test_aiohttp_sends_a_masked_header_as_it_is_and_shows_it_masked() -> None:
    """So no user hook and no frame of aiohttp shows the key."""

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
async def test_aiohttp_names_a_header_that_is_too_long_in_a_cause() -> None:
    """The message shows the header, and the class is that of any broken answer."""

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


@virtual
async def test_yarl_rewrites_escapes_unless_encoded_is_set() -> None:
    """With it, a signed URL is fetched as issued, since aiohttp sends such a URL unchanged."""
    asked: list[str] = []

    async def here(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response()

    target = "/a%2Fb/%7e/../c|d?x=ab%2Fcd~&y=%2b&z='{}'"
    assert yarl.URL(f"https://h{target}").raw_path_qs != target
    async with serving(here) as url, aiohttp.ClientSession() as session:
        await session.get(yarl.URL(f"{url}{target}", encoded=True))
    assert asked == [target]


@virtual
async def test_aiohttp_takes_a_reset_for_the_end_of_a_body_without_a_length() -> None:
    """So the client asks the connection for its error, which differs after an orderly end."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await writer.drain()
        await asyncio.sleep(1)
        if b"reset" in request:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    root = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, aiohttp.ClientSession() as session:
        for path, is_reset in (("reset", True), ("end", False)):
            response = await session.get(f"{root}/{path}")
            assert response.connection is not None
            protocol = response.connection.protocol
            assert await response.read() == b"half"
            assert protocol is not None
            assert isinstance(protocol.exception(), aiohttp.ClientOSError) is is_reset
        await settle_connections()


@virtual
async def test_aiohttp_accepts_cut_gzip_and_gzip_in_gzip() -> None:
    """So the client decodes outputs itself: aiohttp takes half a body for the whole, two layers for none."""
    body = gzip.compress(b"x" * 1000)
    bodies = iter([("gzip", body[:-8]), ("gzip, gzip", gzip.compress(body)), ("gzip", body)])

    async def packed(request: web.Request) -> web.Response:
        coding, data = next(bodies)
        return web.Response(body=data, headers={"Content-Encoding": coding})

    async with serving(packed) as url, aiohttp.ClientSession() as session:
        assert await (await session.get(url)).read() == b"x" * 1000
        assert await (await session.get(url)).read() == gzip.compress(body)
        assert await (await session.get(url, auto_decompress=False)).read() == body


@virtual
async def test_aiohttp_connects_to_the_very_addresses_that_its_resolver_returns() -> None:
    """It resolves names only, in the caller's context, and passes on what the resolver raises."""
    seen: list[tuple[str, str]] = []
    whose = contextvars.ContextVar("whose", default="")

    class Refused(Exception):  # noqa: N818 - it stands for one of our errors
        pass

    class Names(aiohttp.abc.AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[Any]:
            seen.append((host, whose.get()))
            if host == "refused.example":
                raise Refused
            given = {"hostname": host, "host": "127.0.0.1", "port": port}
            return [{**given, "family": socket.AF_INET, "proto": 0, "flags": 0}]

        async def close(self) -> None:
            pass

    async def well(request: web.Request) -> web.Response:
        return web.Response()

    connector = aiohttp.TCPConnector(resolver=Names())
    async with serving(well) as url, aiohttp.ClientSession(connector=connector) as session:
        whose.set("ours")
        assert (await session.get(url)).status == 200
        assert seen == []
        assert (await session.get(url.replace("127.0.0.1", "name.example"))).status == 200
        with pytest.raises(Refused):
            await session.get("https://refused.example/")
    assert seen == [("name.example", "ours"), ("refused.example", "ours")]


@virtual
async def test_aiohttp_shows_whether_a_session_uses_a_proxy() -> None:
    """That decides whether the client resolves names for a user's session."""
    async with aiohttp.ClientSession(proxy="http://127.0.0.1:9") as session:
        assert session._default_proxy is not None
    async with aiohttp.ClientSession(trust_env=True) as session:
        assert session.trust_env
        assert session._default_proxy is None
        assert type(session.connector) is aiohttp.TCPConnector


def test_gql_reports_a_cut_as_a_failed_connection() -> None:
    """It does not show whether the request was sent, so the client reads aiohttp's own errors."""

    async def request_once() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, gql.Client(transport=AIOHTTPTransport(f"http://127.0.0.1:{port}")) as session:
            with pytest.raises(TransportConnectionFailed):
                await session.execute(gql.gql("{ x }"))

    virtual(request_once)()


def test_asyncio_bounds_the_join_of_its_threads_by_the_loops_clock() -> None:
    """From 3.13 on, so the virtual-time loop counts that thread and sets no such timer."""
    timers: list[float] = []

    class RecordingLoop(asyncio.SelectorEventLoop):
        def call_at(self, when: float, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # mypy cannot match the stub's TypeVarTuple
            timers.append(when - self.time())
            return super().call_at(when, *args, **kwargs)

    with asyncio.Runner(loop_factory=RecordingLoop) as runner:
        runner.run(asyncio.to_thread(int))
    assert [round(seconds) for seconds in timers] == ([300] if sys.version_info >= (3, 13) else [])


def test_a_backoff_generator_yields_its_first_value_at_the_second_step() -> None:
    """The first `next` only starts it."""
    assert list(itertools.islice(backoff.expo(max_value=5), 6)) == [None, 1, 2, 4, 5, 5]
    assert 0 <= backoff.full_jitter(3.0) <= 3.0


def test_pydantic_asks_an_enum_for_unknown_values() -> None:
    """So an unknown status is kept."""

    class RateLimitHeaders(enum.StrEnum):
        KNOWN = "known"

        @classmethod
        def _missing_(cls, value: object) -> RateLimitHeaders:
            return cls.KNOWN

    assert pydantic.TypeAdapter(RateLimitHeaders).validate_python("other") is RateLimitHeaders.KNOWN


def test_pydantic_can_replace_an_invalid_value_by_a_default() -> None:
    """So a bad `creditCost` loses no job."""

    class OrNone:
        def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
            return core_schema.with_default_schema(handler(source), default=None, on_error="default")

    adapter: pydantic.TypeAdapter[int | None] = pydantic.TypeAdapter(Annotated[int | None, OrNone()])
    assert adapter.validate_python("no number") is None


@contextlib.contextmanager
def logged(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a database with two rows on one page, whose log only this test checkpoints."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("CREATE TABLE facts (name TEXT, value TEXT)")
        connection.execute("CREATE TABLE rest (value TEXT)")
        connection.execute("INSERT INTO facts VALUES ('promised', 'new'), ('kept', 'old')")
        assert connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
        yield connection


def in_file(path: Path, query: str = "SELECT value FROM facts") -> list[str]:
    """Read a database without its log."""
    address = f"{path.as_uri()}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(address, uri=True)) as alone:
        return [value for (value,) in alone.execute(query)]


def test_sqlite_reads_an_immutable_database_without_its_log(tmp_path: Path) -> None:
    """It shows what a copy of the file alone would contain."""
    with logged(tmp_path / "x.db") as writer:
        writer.execute("UPDATE facts SET value = 'new'")
        assert in_file(tmp_path / "x.db") == ["new", "old"]


def test_sqlite_checkpoints_the_last_version_of_a_page_or_none(tmp_path: Path) -> None:
    """So a checkpoint cut short by a reader leaves no kept promise in the file."""
    with (
        logged(tmp_path / "x.db") as writer,
        contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as reader,
    ):
        writer.execute("UPDATE facts SET value = 'new' WHERE name = 'kept'")
        writer.execute("INSERT INTO rest VALUES ('seen by the reader')")
        reader.execute("BEGIN")
        assert reader.execute("SELECT value FROM facts").fetchall() == [("new",), ("new",)]
        writer.execute("INSERT INTO rest VALUES ('not seen by the reader')")
        writer.execute("UPDATE facts SET value = 'newer' WHERE name = 'promised'")
        _, in_log, moved = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert 0 < moved < in_log
        assert in_file(tmp_path / "x.db") == ["new", "old"]
        assert in_file(tmp_path / "x.db", "SELECT value FROM rest") == []
        reader.rollback()
        writer.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert in_file(tmp_path / "x.db") == ["newer", "new"]


@pytest.mark.parametrize(("how", "stays"), [("mode=ro", True), ("mode=rw", False)])
def test_sqlite_removes_a_log_when_the_last_writer_closes(how: str, stays: bool, tmp_path: Path) -> None:
    """So a killed batch's ledger is read with `mode=ro`, and its log stays."""
    with logged(tmp_path / "x.db") as writer:
        writer.execute("UPDATE facts SET value = 'new'")
        for name in ("x.db", "x.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"dead-{name}")
    dead = tmp_path / "dead-x.db"
    with contextlib.closing(sqlite3.connect(f"{dead.as_uri()}?{how}", uri=True)) as reader:
        assert reader.execute("SELECT value FROM facts").fetchall() == [("new",), ("new",)]
    assert (tmp_path / "dead-x.db-wal").exists() is stays
    assert in_file(dead) == (["new", "old"] if stays else ["new", "new"])
    assert not (tmp_path / "x.db-wal").exists()


def test_a_session_of_a_closed_loop_closes_on_another_and_shows_its_sockets() -> None:
    """aiohttp then touches no transport, so the client closes each socket itself; asyncio stays silent."""

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


def test_a_task_of_a_closed_loop_can_be_dropped_silently(caplog: pytest.LogCaptureFixture) -> None:
    """A private flag of asyncio allows it, on both kinds of tasks."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.Event().wait())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert asyncio.all_tasks(loop) == {task}
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # private
    del task
    gc.collect()
    assert caplog.text == ""


def patient(url: str, **arguments: Any) -> Redis:
    """Return a client that waits for a second, and makes one attempt."""
    once = Retry(NoBackoff(), 0)
    return Redis.from_url(
        url, **{"socket_timeout": 1, "socket_connect_timeout": 1, "retry": once, **arguments}
    )


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answer each packet alike, or none: yield an address for redis-py, and what arrived there."""
    arrived: list[bytes] = []

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while packet := await reader.read(1 << 16):
            arrived.append(packet)
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    try:
        # No handshake: with the older protocol and without a name, redis-py sends the command alone.
        port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}/0?protocol=2", arrived
    finally:
        server.close()
        await settle_connections()


@virtual
async def test_redis_py_waits_a_minute_for_a_frozen_server_unless_it_is_told_otherwise() -> None:
    """So the coordinator sets the timeout and the retries itself; `from_url` makes no retries by default."""
    seconds: dict[str, float] = {}
    attempts: dict[str, int] = {}
    async with answering(b"") as (url, arrived):
        port = int(url.partition("?")[0].rpartition(":")[2].removesuffix("/0"))
        clients = {
            "by hand": Redis(host="127.0.0.1", port=port, protocol=2, driver_info=None),
            "by URL": Redis.from_url(url, driver_info=None),
            "ours": patient(url, driver_info=None),
        }
        for name, client in clients.items():
            arrived.clear()
            started = now()
            with pytest.raises(RedisTimeoutError):
                await client.ping()
            seconds[name], attempts[name] = now() - started, len(arrived)
            await client.aclose()
    assert attempts == {"by hand": 11, "by URL": 1, "ours": 1}
    assert 55 < seconds["by hand"] < 65
    assert (round(seconds["by URL"], 3), round(seconds["ours"], 3)) == (5.0, 1.0)


@virtual
async def test_redis_py_bounds_a_blocking_read_by_the_timeout_of_its_socket() -> None:
    """So the connection that reads the stream has none: what is asked of the server does not count."""
    async with answering(b"") as (url, _):
        bounded = patient(url, driver_info=None)
        with pytest.raises(RedisTimeoutError):
            await bounded.xread({"stream": "$"}, block=60_000)
        assert round(now(), 3) == 1.0
        await bounded.aclose()
        unbounded = patient(url, driver_info=None, socket_timeout=None)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unbounded.xread({"stream": "$"}, block=60_000), 3600)
        await unbounded.aclose()


@pytest.mark.asyncio
async def test_redis_wakes_a_blocking_read_once_its_stream_grows_and_by_an_error_when_it_dies() -> None:
    with RedisServer() as server:
        reader, writer = patient(server.url, socket_timeout=None), patient(server.url)
        await writer.xadd("stream", {"n": "1"}, id="1-1")
        assert await reader.xread({"stream": "0"}, block=0) == [[b"stream", [(b"1-1", {b"n": b"1"})]]]
        waiting = asyncio.ensure_future(reader.xread({"stream": "1-1"}, block=0))
        await until(lambda: "blocked_clients:1" in server.ask("INFO", "clients"))
        await writer.xadd("stream", {"n": "2"}, id="1-2")
        assert await waiting == [[b"stream", [(b"1-2", {b"n": b"2"})]]]

        waiting = asyncio.ensure_future(reader.xread({"stream": "$"}, block=0))
        await until(lambda: "blocked_clients:1" in server.ask("INFO", "clients"))
        server.kill()
        with pytest.raises(RedisConnectionError):
            await waiting
        await reader.aclose()
        await writer.aclose()


@pytest.mark.asyncio
async def test_redis_py_loads_a_script_again_that_the_server_forgot() -> None:
    with RedisServer() as server:
        client = patient(server.url)
        count = client.register_script("return redis.call('INCR', KEYS[1])")
        assert await count(keys=["x"]) == 1
        await client.script_flush()
        assert await count(keys=["x"]) == 2
        await client.aclose()


@pytest.mark.asyncio
async def test_redis_py_has_errors_of_its_own_for_a_refusal_and_for_a_dropped_connection() -> None:
    """They are none of Python's; and a connection of the pool that has died costs one command."""
    assert not issubclass(RedisConnectionError, OSError)
    assert not issubclass(RedisTimeoutError, TimeoutError)
    assert not issubclass(RedisTimeoutError, RedisConnectionError)
    with RedisServer() as server:
        client = patient(server.url)
        await client.ping()
        server.kill()
        server.start()
        with pytest.raises(RedisConnectionError):
            await client.ping()
        assert await client.ping()
        server.kill()
        with pytest.raises(RedisConnectionError):
            await client.ping()
        with pytest.raises(RedisConnectionError):
            await client.ping()
        await client.aclose()


@pytest.mark.asyncio
async def test_redis_py_keeps_answers_apart_when_a_command_is_cancelled() -> None:
    """It drops the connection, so the answer that nobody waits for is never taken for the next one's."""
    with RedisServer() as server:
        client = patient(server.url)
        await client.mset({"x": "1", "y": "2"})
        server.freeze()
        waiting = asyncio.ensure_future(client.get("x"))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        server.thaw()
        assert [await client.get("y"), await client.get("x")] == [b"2", b"1"]
        await client.aclose()


@virtual
async def test_redis_py_loses_a_cancellation_in_the_moment_of_sending_on_python_3_11() -> None:
    """Its `asyncio.wait_for` does. So whoever awaits a command asks afterwards whether it was cancelled."""
    async with answering(b"+PONG\r\n") as (url, _):
        client = patient(url, driver_info=None)
        await client.ping()
        waiting = asyncio.ensure_future(client.ping())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled() is (sys.version_info >= (3, 12))
        await client.aclose()


@pytest.mark.asyncio
async def test_redis_py_takes_user_password_and_tls_from_a_url_and_shows_no_password() -> None:
    client = patient("rediss://me:s3cr%2Ft@cache.example.com:6380/2")
    made = client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    assert isinstance(made, SSLConnection)
    assert (made.username, made.password, made.host, made.port, made.db) == (
        *("me", "s3cr/t"),
        *("cache.example.com", 6380, 2),
    )
    assert (made.cert_reqs.name, made.check_hostname) == ("CERT_REQUIRED", True)
    for shown in (client, client.connection_pool, made):
        assert "s3cr" not in f"{shown!r} {shown}"


@pytest.mark.asyncio
async def test_redis_py_tells_a_wrong_password_by_an_error_that_does_not_name_it() -> None:
    """That error is a ConnectionError, too: the coordinator has to ask for it first."""
    assert issubclass(AuthenticationError, RedisConnectionError)
    with RedisServer(password="s3cret") as server:
        right = patient(server.url)
        assert await right.ping()
        for url in (server.url.replace("s3cret", "wr0ng"), server.url.replace(":s3cret@", "")):
            wrong = patient(url)
            with pytest.raises(AuthenticationError) as refused:
                await wrong.ping()
            assert "wr0ng" not in f"{refused.value!r} {refused.value}"
            await wrong.aclose()
        server.kill()
        with pytest.raises(RedisConnectionError) as died:
            await right.ping()
        assert "s3cret" not in f"{died.value!r} {died.value}"
        await right.aclose()


def test_redis_py_names_a_part_of_a_password_that_is_not_escaped() -> None:
    """So its error about a URL is not chained to ours. And a database that is no number is the first one."""
    with pytest.raises(ValueError, match="'s3cr'"):
        Redis.from_url("redis://me:s3cr#t@cache.example.com/0")
    with pytest.raises(ValueError, match="must specify one of the following schemes"):
        Redis.from_url("http://cache.example.com/0")
    assert "db" not in Redis.from_url("redis://cache.example.com/first").connection_pool.connection_kwargs


@pytest.mark.asyncio
async def test_a_second_client_of_redis_py_can_be_made_with_other_timeouts_from_a_users() -> None:
    """By the pool's class and arguments, which are public; the user's own client stays as it is."""
    with RedisServer(password="s3cret") as server:
        users = Redis.from_url(server.url, decode_responses=True)
        pool = users.connection_pool
        arguments = pool.connection_kwargs | {"socket_timeout": None, "decode_responses": False}
        ours = Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **arguments))
        await users.set("x", "1")
        assert (await users.get("x"), await ours.get("x")) == ("1", b"1")
        await ours.aclose()
        await ours.connection_pool.disconnect()
        assert await users.get("x") == "1"
        await users.aclose()
