"""The adapters over real sockets: aiohttp and FastAPI under uvicorn give the same table of answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from doitong_async import Generation
from doitong_async.callbacks import Throw
from doitong_async.webhooks.endpoint import Webhooks
from doitong_async.webhooks.handler import LARGEST_BODY
from doitong_async.webhooks.serving import free_port
from doitong_async.webhooks.serving import served as served_by_us
from tests.webhooks.bodies import SECRET, signed, webhook_body

BODY = webhook_body()
ODD = b"\xef\xbb\xbf" + webhook_body(metadata={"prompt": "\ud83d"}, more=float("nan"))
PATH = "/hooks/doitong/"


class Service:
    """A service whose endpoint is mounted before it is open, and what the endpoint received."""

    def __init__(self) -> None:
        self.taken: list[Generation] = []
        self.kept: list[Generation] = []
        self.endpoint = Webhooks(SECRET)
        self.port = 0

    def open(self) -> None:
        self.endpoint.open(self.take)

    def take(self, update: Generation) -> Throw | None:
        self.taken.append(update)
        return lambda error: False

    async def keep(self, update: Generation) -> None:
        self.kept.append(update)

    async def post(
        self,
        body: bytes = BODY,
        *signatures: str,
        method: str = "POST",
        path: str = PATH,
        content_type: str | None = "application/json",
        headers: tuple[str, ...] = (),
        length: int | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one hand-written request; return status, headers and body of the answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        lines += [f"X-Doitong-Signature: {each}" for each in signatures]
        if content_type is not None:
            lines.append(f"Content-Type: {content_type}")
        if not any(line.startswith("Transfer-Encoding") for line in headers):
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        return await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def send(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send these bytes; return status, headers and body of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            named = {name.lower(): value for name, value in pairs}
            content = await reader.readexactly(int(named.get("content-length", "0")))
        finally:
            writer.close()
        return int(head[0].split()[1]), named, content


@asynccontextmanager
async def under_aiohttp(service: Service, read_timeout: float) -> AsyncIterator[None]:
    app = web.Application()
    app.add_subapp(
        "/hooks/doitong", service.endpoint.aiohttp_app(on_event=service.keep, read_timeout=read_timeout)
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served(app: Any, service: Service, **settings: Any) -> AsyncIterator[None]:
    """Run an ASGI application under uvicorn, in this loop, on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service.port = listening.getsockname()[1]
        config = uvicorn.Config(app, log_config=None, lifespan="on", access_log=False, **settings)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def under_fastapi(service: Service, read_timeout: float) -> AsyncIterator[None]:
    app = FastAPI()
    app.mount("/hooks/doitong", service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout))
    async with served(app, service):
        yield


@asynccontextmanager
async def without_framework(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """Serve the endpoint without a framework; uvicorn's own `root_path` stands for the mount."""
    inner = service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_mounted = scope["type"] == "http" and scope["path"].startswith("/hooks/doitong")
        await inner({**scope, "root_path": "/hooks/doitong"} if is_mounted else scope, receive, send)

    async with served(app, service):
        yield


adapters = pytest.mark.parametrize(
    "adapter", [under_aiohttp, under_fastapi, without_framework], ids=lambda adapter: adapter.__name__
)


@asynccontextmanager
async def serving(
    adapter: Any, *, is_open: bool = True, read_timeout: float = 10.0
) -> AsyncIterator[Service]:
    service = Service()
    async with adapter(service, read_timeout):
        if is_open:
            service.open()
        yield service
    service.endpoint.close()


def large(more: int) -> bytes:
    """Return a signed body this many bytes above the limit."""
    body = webhook_body(pad="")
    return body.replace(b'"pad": ""', b'"pad": "' + b"x" * (LARGEST_BODY - len(body) + more) + b'"')


@adapters
@pytest.mark.asyncio
async def test_the_table_of_answers(adapter: Any) -> None:
    """Each adapter gives the documented statuses, with no body and no detail."""
    async with serving(adapter) as service:
        right, post = signed(BODY), service.post
        answers = {
            "taken": await post(BODY, right),
            "taken again": await post(BODY, right, content_type="application/json; charset=utf-8"),
            "method": await post(BODY, right, method="PUT"),
            "read": await post(b"", method="GET"),
            "text": await post(BODY, right, content_type="text/plain"),
            "a form": await post(BODY, right, content_type="application/x-www-form-urlencoded"),
            "no type": await post(BODY, right, content_type=None),
            "compressed": await post(BODY, right, headers=("Content-Encoding: gzip",)),
            "unsigned": await post(BODY),
            "wrong": await post(BODY, signed(b"")),
            "malformed": await post(BODY, "sha256=\xff"),
            "twice": await post(BODY, right, right),
            "in one": await post(BODY, f"{right}, {right}"),
            "no JSON": await post(b"\xff", signed(b"\xff")),
            "no id": await post(b"{}", signed(b"{}")),
            "odd": await post(ODD, signed(ODD)),
            "largest": await post(large(0), signed(large(0))),
        }
        assert {name: answer[0] for name, answer in answers.items()} == {
            **dict.fromkeys(["taken", "taken again", "text", "a form", "no type", "odd", "largest"], 204),
            **dict.fromkeys(["method", "read"], 405),
            **dict.fromkeys(["compressed"], 415),
            **dict.fromkeys(["unsigned", "wrong", "malformed", "twice", "in one"], 401),
            **dict.fromkeys(["no JSON", "no id"], 400),
        }
        assert answers["method"][1]["allow"] == "POST"
        assert {content for _, _, content in answers.values()} == {b""}
        assert [update.id for update in service.taken] == ["abc123xyz"] * 7
        assert service.kept == service.taken


@adapters
@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.asyncio
async def test_a_body_that_is_too_large_is_rejected(adapter: Any, is_announced: bool) -> None:
    """By its announced length before any byte arrives, or by the bytes if it announces none."""
    async with serving(adapter) as service:
        if is_announced:
            answer = await service.post(b"", signed(b""), length=LARGEST_BODY + 1)
        else:
            body, size = large(1), 1 << 16
            pieces = [body[start : start + size] for start in range(0, len(body), size)]
            chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
            answer = await service.post(chunked, signed(body), headers=("Transfer-Encoding: chunked",))
        assert answer[0] == 413
        assert service.taken == []


@adapters
@pytest.mark.asyncio
async def test_a_chunked_body_is_accepted(adapter: Any) -> None:
    """A sender need not announce the length."""
    async with serving(adapter) as service:
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        answer = await service.post(chunked, signed(BODY), headers=("Transfer-Encoding: chunked",))
        assert (answer[0], len(service.taken)) == (204, 1)


@adapters
@pytest.mark.asyncio
async def test_a_sender_that_is_too_slow_gets_408(adapter: Any) -> None:
    """It sends half of the body and then nothing."""
    async with serving(adapter, read_timeout=0.05) as service:
        answer = await service.post(BODY[:9], signed(BODY), length=len(BODY))
        assert (answer[0], service.taken) == (408, [])


@adapters
@pytest.mark.asyncio
async def test_a_sender_that_hangs_up_does_no_harm(adapter: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged as an error, and the next request succeeds."""
    async with serving(adapter) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}X-Doitong-Signature: {signed(BODY)}\r\nContent-Length: 99\r\n\r\nhalf".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await service.post(BODY, signed(BODY)))[0] == 204
        assert len(service.taken) == 1
    assert [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []


@adapters
@pytest.mark.asyncio
async def test_a_closed_endpoint_asks_for_signed_events_again(adapter: Any) -> None:
    """It is mounted all the while; unsigned requests are still rejected."""
    async with serving(adapter, is_open=False) as service:
        statuses = [(await service.post(BODY, signed(BODY)))[0], (await service.post(BODY))[0]]
        service.open()
        statuses.append((await service.post(BODY, signed(BODY)))[0])
        service.endpoint.close()
        statuses.append((await service.post(BODY, signed(BODY)))[0])
        assert statuses == [503, 401, 204, 503]


ODD_PATHS = [f"{PATH}more", f"{PATH}/", f"{PATH}?a=%ff&b", "/hooks/d%6Fitong/", f"{PATH}%2F%0a"]


@adapters
@pytest.mark.parametrize("path", ODD_PATHS)
@pytest.mark.asyncio
async def test_any_path_that_reaches_the_endpoint_is_served(adapter: Any, path: str) -> None:
    """The signature decides, however a proxy writes the path."""
    async with serving(adapter) as service:
        answers = [await service.post(BODY, signed(BODY), path=path), await service.post(BODY, path=path)]
        assert [status for status, _, _ in answers] == [204, 401]


@asynccontextmanager
async def at_the_root_of_aiohttp(service: Service, read_timeout: float) -> AsyncIterator[None]:
    with free_port() as listening:
        service.port = listening.getsockname()[1]
        app = service.endpoint.aiohttp_app(on_event=service.keep, read_timeout=read_timeout)
        async with served_by_us(app, listening):
            yield


@asynccontextmanager
async def at_the_root_of_uvicorn(service: Service, read_timeout: float) -> AsyncIterator[None]:
    async with served(service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout), service):
        yield


@asynccontextmanager
async def behind_a_root_path(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """A server that knows which prefix its proxy strips, and leaves each path unchanged."""
    app = FastAPI()
    app.mount("/hooks", service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout))

    async def with_root_path(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/api"}, receive, send)

    async with served(with_root_path, service):
        yield


@asynccontextmanager
async def behind_a_root_path_of_uvicorn(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """uvicorn knows the prefix, as from `--root-path`, and puts it before each path."""
    app = Starlette(routes=[Mount("/hooks", app=service.endpoint.asgi_app(read_timeout=read_timeout))])
    async with served(app, service, root_path="/api"):
        yield


@asynccontextmanager
async def in_a_nested_aiohttp_app(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """Mount the endpoint below two prefixes."""
    outer, inner = web.Application(), web.Application()
    inner.add_subapp("/hooks", service.endpoint.aiohttp_app(read_timeout=read_timeout))
    outer.add_subapp("/api", inner)
    with free_port() as listening:
        service.port = listening.getsockname()[1]
        async with served_by_us(outer, listening):
            yield


ROOTS = ["/", "/hooks/doitong/", "/hooks/doitong", "//hooks//doitong//", "/h%6Foks/%2F/", "/hooks/?a=b"]
ODD_MOUNTS = {
    at_the_root_of_aiohttp: ROOTS,
    at_the_root_of_uvicorn: ROOTS,
    behind_a_root_path: ["/hooks/", "/api/hooks/", "/hooks//", "/api/hooks/more"],
    behind_a_root_path_of_uvicorn: ["/hooks/", "/hooks//"],
    in_a_nested_aiohttp_app: ["/api/hooks", "/%61pi/h%6Foks/", "/api/hooks//", "/api/hooks/more"],
}


@pytest.mark.parametrize(
    ("adapter", "path"),
    [(adapter, path) for adapter, paths in ODD_MOUNTS.items() for path in paths],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.asyncio
async def test_the_endpoint_is_reached_wherever_it_is_mounted(adapter: Any, path: str) -> None:
    """Alone, within another application, or behind a proxy that strips its prefix or keeps it."""
    async with serving(adapter) as service:
        assert (await service.post(BODY, signed(BODY), path=path))[0] == 204
        assert len(service.taken) == 1


@pytest.mark.parametrize("adapter", [under_aiohttp, without_framework])
@pytest.mark.asyncio
async def test_the_trailing_slash_is_optional(adapter: Any) -> None:
    """Starlette redirects instead."""
    async with serving(adapter) as service:
        assert (await service.post(BODY, signed(BODY), path=PATH.rstrip("/")))[0] == 204


@adapters
@pytest.mark.asyncio
async def test_garbage_on_the_wire_gets_no_success(adapter: Any) -> None:
    """The server answers it with an error or not at all."""
    async with serving(adapter) as service:
        status, _, _ = await service.send(b"POST garbage\r\n\r\n")
        assert status == 400
        assert service.taken == []


HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
WRONG = f"X-Doitong-Signature: {signed(BODY, 'another')}\r\n".encode()
FROM_STRANGERS = {
    "no signature": HEAD + b"Content-Length: 2\r\n\r\n{}",
    "a wrong one": HEAD + WRONG + b"Content-Length: 2\r\n\r\n{}",
    "no ASCII": HEAD + b"X-Doitong-Signature: sha256=\xff\xc3\xa9\r\nContent-Length: 2\r\n\r\n{}",
    "huge": HEAD + b"X-Doitong-Signature: " + b"a" * 8000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "no gzip": HEAD + WRONG + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "no gzip, not posted": HEAD.replace(b"POST", b"PUT")
    + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "odd headers": HEAD
    + WRONG
    + b"Host: [\r\nContent-Type: \xff;;\r\nCookie: =\xff;\r\nContent-Length: 0\r\n\r\n",
    "cut off": HEAD + WRONG + b"Content-Length: 99\r\n\r\n{",
    "cut off in a chunk": HEAD + WRONG + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    "no chunk, unsigned": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
    "no chunk": HEAD + WRONG + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
    "announced": HEAD + WRONG + b"Content-Length: 99999999\r\n\r\n" + b"x" * 99_999,
}
NO_HTTP = [b"\x16\x03\x01\x02\x00", b"POST garbage\r\n\r\n", HEAD + b"X: " + b"a" * 99_999 + b"\r\n\r\n"]


async def send_and_hang_up(port: int, sent: bytes, *, pieces: int = 1) -> None:
    """Send bytes, read the answer, if any, and hang up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    size = -(-len(sent) // pieces)
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(sent), size):
            writer.write(sent[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        await reader.read()
    writer.close()


def logged_above_debug(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Return what was logged above debug, except what a server logs itself about invalid HTTP."""
    return [
        (record.name, record.levelname, record.getMessage(), record.exc_info)
        for record in caplog.records
        if record.levelno > logging.DEBUG
        and not (record.name == "uvicorn.error" and record.levelno <= logging.WARNING)
        and "BadHttpMessage" not in str(record.exc_info)
    ]


@adapters
@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.asyncio
async def test_unsigned_requests_log_nothing_above_debug(
    adapter: Any, pieces: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither our own code nor a server on our behalf logs odd bytes, odd headers or cut-off bodies."""
    caplog.set_level(logging.DEBUG)
    async with serving(adapter) as service:
        for name, sent in FROM_STRANGERS.items():
            await send_and_hang_up(service.port, sent, pieces=pieces)
            assert (name, logged_above_debug(caplog)) == (name, [])
        assert service.taken == []
        assert (await service.post(BODY, signed(BODY)))[0] == 204


@pytest.mark.asyncio
async def test_our_own_server_logs_nothing_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Not even for invalid HTTP, which aiohttp logs as errors with tracebacks."""
    caplog.set_level(logging.DEBUG)
    async with serving(at_the_root_of_aiohttp) as service:
        for sent in (*FROM_STRANGERS.values(), *NO_HTTP):
            await send_and_hang_up(service.port, sent)
    records = [record for record in caplog.records if record.name != "asyncio"]
    assert any(record.getMessage().startswith("Error handling request") for record in records)
    assert {(record.levelno, record.exc_info) for record in records} == {(logging.DEBUG, None)}


# Hand-written ASGI


async def run_asgi(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Run an ASGI application on these messages; return what it sent."""
    left, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def http(path: str = "/", root_path: str | None = None, **headers: str) -> dict[str, Any]:
    """Return the scope of a signed POST, with further headers."""
    named = {"content_type": "application/json", "x_doitong_signature": signed(BODY), **headers}
    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": path,
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()],
    }
    return scope if root_path is None else {**scope, "root_path": root_path}


@pytest.mark.parametrize("root_path", [None, "", "/hooks", "/hooks/", "/api/hooks", "hooks", "/h\u00f6"])
@pytest.mark.parametrize("path", ["", "/", "/hooks", "/hooks/", "/hooks//more", "/api/api/hooks/", "/hooksm"])
@pytest.mark.asyncio
async def test_path_and_root_path_do_not_matter(path: str, root_path: str | None) -> None:
    """Servers, frameworks and proxies differ in which part of the mount they leave in each."""
    service = Service()
    service.open()
    sent = await run_asgi(
        service.endpoint.asgi_app(), http(path, root_path), {"type": "http.request", "body": BODY}
    )
    assert sent[0]["status"] == 204
    service.endpoint.close()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("the server's own")])
@pytest.mark.asyncio
async def test_a_sender_that_is_gone_raises_nothing(error: Exception) -> None:
    """A server may raise when we answer it, and would log what we let through; we send nothing more."""
    attempted: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        attempted.append(message["type"])
        raise error

    service = Service()
    service.open()
    for scope in (http(), {**http(), "headers": []}):
        await service.endpoint.asgi_app()(scope, receive, send)
    service.endpoint.close()
    assert attempted == ["http.response.start"] * 2
    assert service.taken == []


@pytest.mark.asyncio
async def test_middlewares_added_to_the_application_run() -> None:
    """It is an application like any other."""
    ran: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        ran.append(request.path)
        return await handler(request)

    service = Service()
    service.open()
    app = service.endpoint.aiohttp_app()
    app.middlewares.append(note)
    with free_port() as listening:
        service.port = listening.getsockname()[1]
        async with served_by_us(app, listening):
            assert (await service.post(BODY, signed(BODY)))[0] == 204
    assert ran == [PATH]
    service.endpoint.close()


@pytest.mark.asyncio
async def test_the_lifespan_protocol_is_answered() -> None:
    """A server that runs the application alone starts and stops it."""
    sent = await run_asgi(
        Webhooks(SECRET).asgi_app(),
        {"type": "lifespan"},
        {"type": "lifespan.startup"},
        {"type": "lifespan.shutdown"},
    )
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.asyncio
async def test_websockets_are_closed() -> None:
    """The ASGI specification asks for it."""
    sent = await run_asgi(
        Webhooks(SECRET).asgi_app(), {"type": "websocket", "path": "/"}, {"type": "websocket.connect"}
    )
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("length", ["9" * 9999, str(LARGEST_BODY + 1), "-1", "\u00b2", "x"])
@pytest.mark.asyncio
async def test_an_invalid_content_length_is_ignored(length: str) -> None:
    """Servers may pass on any; only one that is too large causes a 413."""
    service = Service()
    service.open()
    sent = await run_asgi(
        service.endpoint.asgi_app(), http(content_length=length), {"type": "http.request", "body": BODY}
    )
    assert sent[0]["status"] == (413 if length.isascii() and length.isdigit() else 204)
    service.endpoint.close()


@pytest.mark.asyncio
async def test_starlette_can_mount_the_endpoint() -> None:
    """In nested routes."""
    service = Service()
    service.open()
    app = Starlette(routes=[Mount("/a", routes=[Mount("/b", app=service.endpoint.asgi_app())])])
    sent = await run_asgi(app, http("/a/b/"), {"type": "http.request", "body": BODY})
    assert sent[0]["status"] == 204
    service.endpoint.close()


NAMES = st.sampled_from([b"x-doitong-signature", b"content-type", b"content-length", b"content-encoding"])
VALUES = st.binary(max_size=80) | st.sampled_from([signed(BODY).encode(), b"application/json", b"5"])
MESSAGES = st.builds(
    lambda body, more: {"type": "http.request", "body": body, "more_body": more},
    st.binary(max_size=40) | st.just(BODY),
    st.booleans(),
)


@given(st.sampled_from(["POST", "GET"]), st.lists(st.tuples(NAMES, VALUES), max_size=5), st.lists(MESSAGES))
def test_no_headers_break_the_adapter(
    method: str, headers: list[tuple[bytes, bytes]], messages: list[dict[str, Any]]
) -> None:
    """Whatever bytes a server passes on, there is one answer, and a 2xx only for a signed body."""

    async def run() -> None:
        service = Service()
        service.open()
        scope = {"type": "http", "method": method, "path": "/", "headers": headers}
        start, end = await run_asgi(service.endpoint.asgi_app(), scope, *messages)
        assert start["status"] in (204, 400, 401, 405, 413, 415)
        assert end["type"] == "http.response.body"
        is_signed = (b"x-doitong-signature", signed(BODY).encode()) in headers
        assert start["status"] != 204 or (is_signed and service.taken)
        service.endpoint.close()

    asyncio.run(run())
