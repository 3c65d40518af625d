"""The receiver's two faces: a sub-application of aiohttp, and an ASGI application of no framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from doitong_async.webhooks.receiver import Answer, CutOffError, Receiver, Request
from doitong_async.webhooks.signature import SIGNATURE_HEADER

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_AT_ITS_ROOT: Final = ("", "/")


def aiohttp_app(receiver: Receiver) -> web.Application:
    """Return an aiohttp application that takes the POST at its root."""

    async def answer(request: web.Request) -> web.Response:
        answer = await receiver.answer(_of_aiohttp(request))
        return web.Response(status=answer.status, headers=answer.headers)

    app = web.Application()
    for path in _AT_ITS_ROOT:
        app.router.add_route("*", path, answer)
    return app


def asgi_app(receiver: Receiver) -> AsgiApp:
    """Return an ASGI application that takes the POST at its root, wherever it is mounted."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                is_here = _path_of(scope) in _AT_ITS_ROOT
                await _send(await receiver.answer(_of_asgi(scope, receive)) if is_here else Answer(404), send)
            case "lifespan":
                await _live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})

    return app


def _of_aiohttp(request: web.Request) -> Request:
    async def read() -> bytes | None:
        try:
            return await request.content.readany() or None
        except (web.RequestPayloadError, HttpProcessingError, ConnectionError):
            raise CutOffError from None

    return Request(
        method=request.method,
        content_type=request.headers.get("Content-Type"),
        content_encoding=request.headers.get("Content-Encoding"),
        content_length=request.content_length,
        signatures=request.headers.getall(SIGNATURE_HEADER, []),
        read=read,
    )


def _of_asgi(scope: Scope, receive: Receive) -> Request:
    is_over = False

    async def read() -> bytes | None:
        nonlocal is_over
        if is_over:
            return None
        message = await receive()
        if message["type"] != "http.request":
            raise CutOffError
        is_over = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    lengths = _values(scope, "content-length")
    return Request(
        method=scope["method"],
        content_type=next(iter(_values(scope, "content-type")), None),
        content_encoding=next(iter(_values(scope, "content-encoding")), None),
        # Nineteen digits are far too many bytes already, however many more there are.
        content_length=int(lengths[0][:19]) if lengths and lengths[0].isdecimal() else None,
        signatures=_values(scope, SIGNATURE_HEADER.lower()),
        read=read,
    )


def _values(scope: Scope, name: str) -> Sequence[str]:
    """Return every value of a header; ASGI gives names in lower case."""
    wanted = name.encode()
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key.lower() == wanted]


def _path_of(scope: Scope) -> str:
    """Return the path below the mount; by the specification `path` holds `root_path`, some servers differ."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path.removeprefix(root)) if f"{path}/".startswith(f"{root}/") else str(path)


async def _send(answer: Answer, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    if answer.status != 204:
        headers.append((b"content-length", b"0"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def _live(receive: Receive, send: Send) -> None:
    """Say yes to a server that runs this alone: there is nothing to start or to stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
