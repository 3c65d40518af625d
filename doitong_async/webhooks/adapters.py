"""Serve the webhook handler as an aiohttp sub-application or as an ASGI application of no framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

from aiohttp import web

from doitong_async.webhooks.handler import CutOffError, Request, Response, WebhookHandler
from doitong_async.webhooks.signature import SIGNATURE_HEADER

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANY: Final = ("", "/{path:(?s:.*)}")
"""The routes of every path: the mount's own and all below it, even with an escaped line break."""
_LINGERING: Final = 10.0
"""Seconds to drain the rest of a body, like aiohttp: until then its sender may not read the answer."""


def aiohttp_app(handler: WebhookHandler) -> web.Application:
    """Return an aiohttp application that accepts the POST under any path that reaches it."""

    async def answer(request: web.Request) -> web.Response:
        answer = await handler.answer(_of_aiohttp(request))
        response = web.Response(status=answer.status, headers=answer.headers)
        if not request.content.is_eof():
            await _end(request, response)
        return response

    app = web.Application()
    for path in _ANY:
        app.router.add_route("*", path, answer)
    return app


def asgi_app(handler: WebhookHandler) -> AsgiApp:
    """Return an ASGI application that accepts the POST under any path that reaches it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await _send(await handler.answer(_of_asgi(scope, receive)), send)
            case "lifespan":
                await _live(receive, send)
            case "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1000})

    return app


async def _end(request: web.Request, response: web.Response) -> None:
    """Answer a request whose body was not read, and drain the rest of it.

    aiohttp would do the same afterwards, but logs an error if the rest is broken, as by an odd encoding.
    """
    with suppress(Exception):
        await response.prepare(request)
        await response.write_eof()
        async with asyncio.timeout(_LINGERING):
            while not request.content.is_eof():
                await request.content.readany()
    if not request.content.is_eof():
        request.protocol.force_close()


def _of_aiohttp(request: web.Request) -> Request:
    async def read() -> bytes | None:
        return await request.content.readany() or None

    return Request(
        method=request.method,
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
        content_encoding=next(iter(_values(scope, "content-encoding")), None),
        # Nineteen digits are far too many bytes already.
        content_length=int(lengths[0][:19]) if lengths and lengths[0].isdecimal() else None,
        signatures=_values(scope, SIGNATURE_HEADER.lower()),
        read=read,
    )


def _values(scope: Scope, name: str) -> Sequence[str]:
    """Return every value of a header; ASGI gives names in lower case."""
    wanted = name.encode()
    return [value.decode("latin-1").strip(" \t") for key, value in scope["headers"] if key.lower() == wanted]


async def _send(answer: Response, send: Send) -> None:
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    if answer.status != 204:
        headers.append((b"content-length", b"0"))
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
    except Exception:
        # The sender is gone, or did not send HTTP: nobody is left to answer. A server that just noticed
        # closes the connection in the loop's next step, and complains about a missing answer until then.
        await asyncio.sleep(0)


async def _live(receive: Receive, send: Send) -> None:
    """Confirm startup and shutdown to a server that runs this alone: there is nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
