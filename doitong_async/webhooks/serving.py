"""A small aiohttp server for webhooks, for the command line and for tests."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

_BACKLOG = 4096


class _Quiet(logging.LoggerAdapter[logging.Logger]):
    """A log for aiohttp that never exceeds debug level: anybody can send something that is not HTTP."""

    def log(self, level: int, msg: object, *args: object, exc_info: object = None, **more: Any) -> None:
        super().log(min(level, logging.DEBUG), msg, *args, **more)


def free_port() -> socket.socket:
    """Return a socket on a free port of loopback, for a server whose address must be known before it runs."""
    return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def served(app: web.Application, place: socket.socket) -> AsyncIterator[None]:
    """Serve an application on a listening socket, such as one of `free_port`, without signal handlers and
    without logs above debug.
    """
    # Keep no connection alive: a test's virtual clock may jump minutes between two requests.
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_Quiet(logging.getLogger("doitong_async")),
        keepalive_timeout=0,
        shutdown_timeout=0.1,
        handle_signals=False,
    )
    await runner.setup()
    try:
        # A thousand jobs may end at once; past the backlog each webhook would wait a second.
        await web.SockSite(runner, place, backlog=_BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
