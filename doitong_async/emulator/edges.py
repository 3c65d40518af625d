"""Applies a fault while an answer is sent: a delay, a cut, a truncated or slow body."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import web

from doitong_async.emulator.faults import Fault

_PIECES = 20
_ZEROS = bytes(1 << 18)


class Waits:
    """The handlers that a fault delays; they end at once when the server stops."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Task[object]] = set()

    async def wait(self, seconds: float) -> None:
        """Wait in a handler; an infinite wait lasts until the server stops."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            if math.isinf(seconds):
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(seconds)
        finally:
            self._waiting.discard(task)

    async def end(self) -> None:
        """Cancel the waiting handlers; aiohttp forgets a handler whose client has gone."""
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def cut(request: web.BaseRequest) -> web.Response:
    """Close the connection without an answer; the returned response is never sent."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def send_oddly(
    request: web.BaseRequest, response: web.Response, fault: Fault, waits: Waits
) -> web.StreamResponse:
    """Send a response truncated, slow or oversized."""
    content = response.body or b""
    assert isinstance(content, bytes)
    stream = web.StreamResponse(status=response.status, headers=response.headers)
    if fault.announced:
        stream.content_length = fault.size if fault.what == "oversized" else len(content)
    # The client may disconnect at any moment.
    with suppress(ConnectionError):
        await stream.prepare(request)
        async for piece in _pieces(content, fault, waits):
            await stream.write(piece)
    if fault.what == "truncated" and request.transport is not None:
        # Not `abort`, which would lose bytes not sent yet.
        request.transport.close()
    return stream


async def _pieces(content: bytes, fault: Fault, waits: Waits) -> AsyncIterator[bytes]:
    match fault.what:
        case "truncated":
            yield content[: len(content) // 2]
        case "slow":
            size = math.ceil(len(content) / _PIECES)
            for index in range(_PIECES):
                await waits.wait(fault.seconds / _PIECES)
                yield content[index * size : (index + 1) * size]
        case _:
            yield content[: fault.size]
            for start in range(len(content), fault.size, len(_ZEROS)):
                yield _ZEROS[: fault.size - start]
