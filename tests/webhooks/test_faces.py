"""Both faces over real sockets: the same table of answers from aiohttp and from FastAPI under uvicorn."""

from __future__ import annotations

import asyncio
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
from doitong_async.hook import Throw
from doitong_async.webhooks.door import Webhooks
from doitong_async.webhooks.receiver import LARGEST_BODY
from tests.webhooks.letters import SECRET, letter, signed

BODY = letter()
PATH = "/hooks/doitong/"


class Service:
    """A service with a door that is mounted before it is open, and what came in."""

    def __init__(self) -> None:
        self.taken: list[Generation] = []
        self.kept: list[Generation] = []
        self.door = Webhooks(SECRET)
        self.port = 0

    def open(self) -> None:
        self.door.open(self.take)

    def take(self, news: Generation) -> Throw | None:
        self.taken.append(news)
        return lambda error: False

    async def keep(self, news: Generation) -> None:
        self.kept.append(news)

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
        "/hooks/doitong", service.door.aiohttp_app(on_event=service.keep, read_timeout=read_timeout)
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
async def served(app: Any, service: Service) -> AsyncIterator[None]:
    """Run an ASGI application under uvicorn, in this loop, on a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service.port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", access_log=False))
        running = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield
        finally:
            server.should_exit = True
            await running


@asynccontextmanager
async def under_fastapi(service: Service, read_timeout: float) -> AsyncIterator[None]:
    app = FastAPI()
    app.mount("/hooks/doitong", service.door.asgi_app(on_event=service.keep, read_timeout=read_timeout))
    async with served(app, service):
        yield


@asynccontextmanager
async def alone(service: Service, read_timeout: float) -> AsyncIterator[None]:
    """Without a framework; uvicorn's own `root_path` stands for the mount."""
    door = service.door.asgi_app(on_event=service.keep, read_timeout=read_timeout)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        is_there = scope["type"] == "http" and scope["path"].startswith("/hooks/doitong")
        await door({**scope, "root_path": "/hooks/doitong"} if is_there else scope, receive, send)

    async with served(app, service):
        yield


faces = pytest.mark.parametrize("face", [under_aiohttp, under_fastapi, alone], ids=lambda face: face.__name__)


@asynccontextmanager
async def serving(face: Any, *, is_open: bool = True, read_timeout: float = 10.0) -> AsyncIterator[Service]:
    service = Service()
    async with face(service, read_timeout):
        if is_open:
            service.open()
        yield service
    service.door.close()


def large(more: int) -> bytes:
    """A signed body of so many bytes more than the cap."""
    body = letter(pad="")
    return body.replace(b'"pad": ""', b'"pad": "' + b"x" * (LARGEST_BODY - len(body) + more) + b'"')


@faces
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
            "no type": await post(BODY, right, content_type=None),
            "compressed": await post(BODY, right, headers=("Content-Encoding: gzip",)),
            "unsigned": await post(BODY),
            "wrong": await post(BODY, signed(b"")),
            "malformed": await post(BODY, "sha256=\xff"),
            "twice": await post(BODY, right, right),
            "in one": await post(BODY, f"{right}, {right}"),
            "no JSON": await post(b"\xff", signed(b"\xff")),
            "no news": await post(b"{}", signed(b"{}")),
            "largest": await post(large(0), signed(large(0))),
        }
        assert {name: answer[0] for name, answer in answers.items()} == {
            **dict.fromkeys(["taken", "taken again", "largest"], 204),
            **dict.fromkeys(["method", "read"], 405),
            **dict.fromkeys(["text", "no type", "compressed"], 415),
            **dict.fromkeys(["unsigned", "wrong", "malformed", "twice", "in one"], 401),
            **dict.fromkeys(["no JSON", "no news"], 400),
        }
        assert answers["method"][1]["allow"] == "POST"
        assert {content for _, _, content in answers.values()} == {b""}
        assert [news.id for news in service.taken] == ["abc123xyz"] * 3
        assert service.kept == service.taken


@faces
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


@faces
@pytest.mark.asyncio
async def test_chunks_are_one_body(face: Any) -> None:
    """A sender need not announce its length."""
    async with serving(face) as service:
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
        answer = await service.post(chunked, signed(BODY), headers=("Transfer-Encoding: chunked",))
        assert (answer[0], len(service.taken)) == (204, 1)


@faces
@pytest.mark.asyncio
async def test_too_slow(face: Any) -> None:
    """Who sends half of it and then nothing is sent away."""
    async with serving(face, read_timeout=0.05) as service:
        answer = await service.post(BODY[:9], signed(BODY), length=len(BODY))
        assert (answer[0], service.taken) == (408, [])


@faces
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


@faces
@pytest.mark.asyncio
async def test_before_it_is_open_and_after(face: Any) -> None:
    """Mounted all the while; what is signed is asked for again, what is not is refused as ever."""
    async with serving(face, is_open=False) as service:
        statuses = [(await service.post(BODY, signed(BODY)))[0], (await service.post(BODY))[0]]
        service.open()
        statuses.append((await service.post(BODY, signed(BODY)))[0])
        service.door.close()
        statuses.append((await service.post(BODY, signed(BODY)))[0])
        assert statuses == [503, 401, 204, 503]


@faces
@pytest.mark.asyncio
async def test_nothing_else_is_served(face: Any) -> None:
    """Below the root there is nothing."""
    async with serving(face) as service:
        assert (await service.post(BODY, signed(BODY), path=f"{PATH}more"))[0] == 404


@pytest.mark.parametrize("face", [under_aiohttp, alone])
@pytest.mark.asyncio
async def test_the_slash_may_be_left_out(face: Any) -> None:
    """Where the framework does not redirect, as Starlette does."""
    async with serving(face) as service:
        assert (await service.post(BODY, signed(BODY), path=PATH.rstrip("/")))[0] == 204


@faces
@pytest.mark.asyncio
async def test_garbage_on_the_wire(face: Any) -> None:
    """What is no request is answered by the server, or not at all, and never with a 2xx."""
    async with serving(face) as service:
        status, _, _ = await service.send(b"POST garbage\r\n\r\n")
        assert status == 400
        assert service.taken == []


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


@pytest.mark.parametrize(
    ("path", "root_path", "status"),
    [
        ("/", None, 204),
        ("/", "", 204),
        ("", "", 204),
        ("/hooks/", "/hooks", 204),
        ("/hooks", "/hooks", 204),
        ("/hooks/", "/hooks/", 204),
        ("/", "/hooks", 204),
        ("", "/hooks", 204),
        ("/hooks/more", "/hooks", 404),
        ("/hooksmore", "/hooks", 404),
        ("/more", "", 404),
    ],
)
@pytest.mark.asyncio
async def test_its_root_is_where_it_is_mounted(path: str, root_path: str | None, status: int) -> None:
    """Whether the server leaves the mount in the path, as the specification says, or takes it out."""
    service = Service()
    service.open()
    sent = await ask(service.door.asgi_app(), http(path, root_path), {"type": "http.request", "body": BODY})
    assert sent[0]["status"] == status
    service.door.close()


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
        service.door.asgi_app(), http(content_length=length), {"type": "http.request", "body": BODY}
    )
    assert sent[0]["status"] == (413 if length.isascii() and length.isdigit() else 204)
    service.door.close()


@pytest.mark.asyncio
async def test_starlette_mounts_it_as_well() -> None:
    """As a route of its own."""
    service = Service()
    service.open()
    app = Starlette(routes=[Mount("/a", routes=[Mount("/b", app=service.door.asgi_app())])])
    sent = await ask(app, http("/a/b/"), {"type": "http.request", "body": BODY})
    assert sent[0]["status"] == 204
    service.door.close()


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
        start, end = await ask(service.door.asgi_app(), scope, *messages)
        assert start["status"] in (204, 400, 401, 405, 413, 415)
        assert end["type"] == "http.response.body"
        is_signed = (b"x-doitong-signature", signed(BODY).encode()) in headers
        assert start["status"] != 204 or (is_signed and service.taken)
        service.door.close()

    asyncio.run(run())
