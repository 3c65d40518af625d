"""Both faces over real sockets: the same table of answers from aiohttp and from FastAPI under uvicorn."""

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
from doitong_async.events import Throw
from doitong_async.webhooks.endpoint import Webhooks
from doitong_async.webhooks.handler import LARGEST_BODY
from doitong_async.webhooks.serving import free_port
from doitong_async.webhooks.serving import served as served_by_us
from tests.webhooks.bodies import SECRET, signed, webhook_body

BODY = webhook_body()
ODD = b"\xef\xbb\xbf" + webhook_body(metadata={"prompt": "\ud83d"}, more=float("nan"))
PATH = "/hooks/doitong/"


class Service:
    """A service with an endpoint that is mounted before it is open, and what came in."""

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
        """Send one request by hand; return status, headers and body of the answer."""
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
    """Run an ASGI application under uvicorn, in this loop, on a port that is free."""
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
async def alone(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """Without a framework; uvicorn's own `root_path` stands for the mount."""
    inner = service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_there = scope["type"] == "http" and scope["path"].startswith("/hooks/doitong")
        await inner({**scope, "root_path": "/hooks/doitong"} if is_there else scope, receive, send)

    async with served(app, service):
        yield


adapters = pytest.mark.parametrize(
    "face", [under_aiohttp, under_fastapi, alone], ids=lambda face: face.__name__
)


@asynccontextmanager
async def serving(face: Any, *, is_open: bool = True, read_timeout: float = 10.0) -> AsyncIterator[Service]:
    service = Service()
    async with face(service, read_timeout):
        if is_open:
            service.open()
        yield service
    service.endpoint.close()


def large(more: int) -> bytes:
    """A signed body of so many bytes more than the cap."""
    body = webhook_body(pad="")
    return body.replace(b'"pad": ""', b'"pad": "' + b"x" * (LARGEST_BODY - len(body) + more) + b'"')


@adapters
@pytest.mark.asyncio
async def test_the_table_of_answers(face: Any) -> None:
    """From either, what the receiver's docstring says, with no body and no detail."""
    async with serving(face) as service:
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
            "no news": await post(b"{}", signed(b"{}")),
            "odd": await post(ODD, signed(ODD)),
            "largest": await post(large(0), signed(large(0))),
        }
        assert {name: answer[0] for name, answer in answers.items()} == {
            **dict.fromkeys(["taken", "taken again", "text", "a form", "no type", "odd", "largest"], 204),
            **dict.fromkeys(["method", "read"], 405),
            **dict.fromkeys(["compressed"], 415),
            **dict.fromkeys(["unsigned", "wrong", "malformed", "twice", "in one"], 401),
            **dict.fromkeys(["no JSON", "no news"], 400),
        }
        assert answers["method"][1]["allow"] == "POST"
        assert {content for _, _, content in answers.values()} == {b""}
        assert [update.id for update in service.taken] == ["abc123xyz"] * 7
        assert service.kept == service.taken


@adapters
@pytest.mark.parametrize("is_announced", [True, False])
@pytest.mark.asyncio
async def test_too_large(face: Any, is_announced: bool) -> None:
    """By what is announced, before a byte of it came; and by what comes, where nothing is announced."""
    async with serving(face) as service:
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
async def test_chunks_are_one_body(face: Any) -> None:
    """A sender need not announce its length."""
    async with serving(face) as service:
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        answer = await service.post(chunked, signed(BODY), headers=("Transfer-Encoding: chunked",))
        assert (answer[0], len(service.taken)) == (204, 1)


@adapters
@pytest.mark.asyncio
async def test_too_slow(face: Any) -> None:
    """Who sends half of it and then nothing is sent away."""
    async with serving(face, read_timeout=0.05) as service:
        answer = await service.post(BODY[:9], signed(BODY), length=len(BODY))
        assert (answer[0], service.taken) == (408, [])


@adapters
@pytest.mark.asyncio
async def test_cut_off(face: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Who hangs up in the middle harms nothing, and nobody complains."""
    async with serving(face) as service:
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
async def test_before_it_is_open_and_after(face: Any) -> None:
    """Mounted all the while; what is signed is asked for again, what is not is refused as ever."""
    async with serving(face, is_open=False) as service:
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
async def test_any_path_that_reaches_it_is_served(face: Any, path: str) -> None:
    """However the proxy in front writes it: the signature decides."""
    async with serving(face) as service:
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
    """A server that is told what its proxy strips, and leaves each path as it comes."""
    app = FastAPI()
    app.mount("/hooks", service.endpoint.asgi_app(on_event=service.keep, read_timeout=read_timeout))

    async def told(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/api"}, receive, send)

    async with served(told, service):
        yield


@asynccontextmanager
async def behind_a_root_path_of_uvicorn(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """uvicorn is told, as by `--root-path`, and puts it before each path."""
    app = Starlette(routes=[Mount("/hooks", app=service.endpoint.asgi_app(read_timeout=read_timeout))])
    async with served(app, service, root_path="/api"):
        yield


@asynccontextmanager
async def in_an_aiohttp_app_of_another(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """Below two prefixes."""
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
    in_an_aiohttp_app_of_another: ["/api/hooks", "/%61pi/h%6Foks/", "/api/hooks//", "/api/hooks/more"],
}


@pytest.mark.parametrize(
    ("face", "path"),
    [(face, path) for face, paths in ODD_MOUNTS.items() for path in paths],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
@pytest.mark.asyncio
async def test_it_is_reached_wherever_it_is_mounted(face: Any, path: str) -> None:
    """Alone, in an application of another, behind a proxy that strips its prefix or one that does not."""
    async with serving(face) as service:
        assert (await service.post(BODY, signed(BODY), path=path))[0] == 204
        assert len(service.taken) == 1


@pytest.mark.parametrize("face", [under_aiohttp, alone])
@pytest.mark.asyncio
async def test_the_slash_may_be_left_out(face: Any) -> None:
    """Where the framework does not redirect, as Starlette does."""
    async with serving(face) as service:
        assert (await service.post(BODY, signed(BODY), path=PATH.rstrip("/")))[0] == 204


@adapters
@pytest.mark.asyncio
async def test_garbage_on_the_wire(face: Any) -> None:
    """What is no request is answered by the server, or not at all, and never with a 2xx."""
    async with serving(face) as service:
        status, _, _ = await service.send(b"POST garbage\r\n\r\n")
        assert status == 400
        assert service.taken == []


HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
WRONG = f"X-Doitong-Signature: {signed(BODY, 'another')}\r\n".encode()
OF_STRANGERS = {
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


async def throw(port: int, sent: bytes, *, pieces: int = 1) -> None:
    """Send bytes, read what is answered, if anything, and hang up."""
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


def loud(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """What was logged above a debug line, but for what servers say themselves of what is no HTTP."""
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
async def test_strangers_make_no_noise(face: Any, pieces: int, caplog: pytest.LogCaptureFixture) -> None:
    """Odd bytes, odd headers and cut-off bodies: no line above debug of ours, none of a server's for us."""
    caplog.set_level(logging.DEBUG)
    async with serving(face) as service:
        for name, sent in OF_STRANGERS.items():
            await throw(service.port, sent, pieces=pieces)
            assert (name, loud(caplog)) == (name, [])
        assert service.taken == []
        assert (await service.post(BODY, signed(BODY)))[0] == 204


@pytest.mark.asyncio
async def test_a_server_of_ours_says_nothing_above_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Not of what is no HTTP either, of which aiohttp logs errors with tracebacks."""
    caplog.set_level(logging.DEBUG)
    async with serving(at_the_root_of_aiohttp) as service:
        for sent in (*OF_STRANGERS.values(), *NO_HTTP):
            await throw(service.port, sent)
    records = [record for record in caplog.records if record.name != "asyncio"]
    assert any(record.getMessage().startswith("Error handling request") for record in records)
    assert {(record.levelno, record.exc_info) for record in records} == {(logging.DEBUG, None)}


# ASGI by hand


async def ask(app: Any, scope: dict[str, Any], *messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Run an ASGI application on these messages; return what it sent."""
    left, sent = list(messages), []

    async def receive() -> dict[str, Any]:
        return left.pop(0) if left else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def http(path: str = "/", root_path: str | None = None, **headers: str) -> dict[str, Any]:
    """A POST that is signed, with further headers."""
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
async def test_path_and_root_path_decide_nothing(path: str, root_path: str | None) -> None:
    """Servers, frameworks and proxies differ in what of the mount they leave in either."""
    service = Service()
    service.open()
    sent = await ask(
        service.endpoint.asgi_app(), http(path, root_path), {"type": "http.request", "body": BODY}
    )
    assert sent[0]["status"] == 204
    service.endpoint.close()


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("the server's own")])
@pytest.mark.asyncio
async def test_whom_nobody_can_answer_any_more(error: Exception) -> None:
    """A server may raise when its sender is gone: it would log what we let through. Nothing is sent after."""
    tried: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        tried.append(message["type"])
        raise error

    service = Service()
    service.open()
    for scope in (http(), {**http(), "headers": []}):
        await service.endpoint.asgi_app()(scope, receive, send)
    service.endpoint.close()
    assert tried == ["http.response.start"] * 2
    assert service.taken == []


@pytest.mark.asyncio
async def test_middlewares_that_are_added_to_the_application_run() -> None:
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
async def test_lifespan_is_said_yes_to() -> None:
    """A server that runs it alone starts and stops it."""
    sent = await ask(
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
async def test_websockets_are_sent_away() -> None:
    """They are closed, as the specification has it for what is not wanted."""
    sent = await ask(
        Webhooks(SECRET).asgi_app(), {"type": "websocket", "path": "/"}, {"type": "websocket.connect"}
    )
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("length", ["9" * 9999, str(LARGEST_BODY + 1), "-1", "\u00b2", "x"])
@pytest.mark.asyncio
async def test_odd_lengths(length: str) -> None:
    """A server may pass them on; only what says too much is refused by them."""
    service = Service()
    service.open()
    sent = await ask(
        service.endpoint.asgi_app(), http(content_length=length), {"type": "http.request", "body": BODY}
    )
    assert sent[0]["status"] == (413 if length.isascii() and length.isdigit() else 204)
    service.endpoint.close()


@pytest.mark.asyncio
async def test_starlette_mounts_it_as_well() -> None:
    """As a route of its own."""
    service = Service()
    service.open()
    app = Starlette(routes=[Mount("/a", routes=[Mount("/b", app=service.endpoint.asgi_app())])])
    sent = await ask(app, http("/a/b/"), {"type": "http.request", "body": BODY})
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
def test_no_headers_break_it(
    method: str, headers: list[tuple[bytes, bytes]], messages: list[dict[str, Any]]
) -> None:
    """Whatever bytes a server hands on, there is one answer, and a 2xx only for what is signed."""

    async def run() -> None:
        service = Service()
        service.open()
        scope = {"type": "http", "method": method, "path": "/", "headers": headers}
        start, end = await ask(service.endpoint.asgi_app(), scope, *messages)
        assert start["status"] in (204, 400, 401, 405, 413, 415)
        assert end["type"] == "http.response.body"
        is_signed = (b"x-doitong-signature", signed(BODY).encode()) in headers
        assert start["status"] != 204 or (is_signed and service.taken)
        service.endpoint.close()

    asyncio.run(run())
