"""Follows the way to the API without sending a request: a proxy, an address, a connection, a certificate."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from typing import Final
from urllib.request import getproxies, proxy_bypass

from doitong_async.check.observed import Route, Stage
from doitong_async.settings import Settings
from doitong_async.urls import split_http

CONNECT_WITHIN: Final = 10.0
"""Seconds: our choice."""
_PORTS: Final = {"http": 80, "https": 443}


def route_of(settings: Settings, *, has_own_session: bool, trust_env: bool) -> Route:
    """Return the way that requests take.

    Args:
        settings: of the client.
        has_own_session: whether the user's own session sends them.
        trust_env: whether the session uses the proxies of the environment.
    """
    host, port = _place(settings.base_url)
    proxy: str | None = None if settings.proxy is None else settings.proxy.reveal()
    if proxy is None and trust_env and not proxy_bypass(host):
        proxy = getproxies().get(settings.base_url.partition(":")[0])
    if proxy is None:
        return Route(host=host, port=port, has_own_session=has_own_session)
    host, port = _place(proxy)
    return Route(host=host, port=port, proxy=f"{host}:{port}", has_own_session=has_own_session)


async def followed(route: Route, settings: Settings) -> Route:
    """Return the route with the place where it breaks, tried with bare connections that send nothing."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            await loop.getaddrinfo(route.host, route.port)
    except OSError as error:
        return replace(route, broken=Stage.DNS, reason=_reason(error))
    if (trouble := await _connected(route, None)) is not None:
        return replace(route, broken=Stage.CONNECT, reason=_reason(trouble))
    if route.proxy is not None or not settings.base_url.startswith("https:"):
        return route
    context = ssl.create_default_context() if settings.ssl is True else settings.ssl
    if (trouble := await _connected(route, context)) is not None:
        return replace(route, broken=Stage.TLS, reason=_reason(trouble))
    return route


async def _connected(route: Route, context: ssl.SSLContext | None) -> OSError | None:
    """Connect and close again; return what kept it from that."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            _, writer = await asyncio.open_connection(route.host, route.port, ssl=context)
    except OSError as error:
        return error
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return None


def _place(url: str) -> tuple[str, int]:
    parts = split_http(url)
    if parts is None:
        return "", 0
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, TimeoutError):
        return f"no answer in {CONNECT_WITHIN:.0f} s"
    # Of a refused connection asyncio keeps the number, and replaces the system's words.
    known = None if error.errno is None or isinstance(error, socket.gaierror) else os.strerror(error.errno)
    return (known or error.strerror or type(error).__name__).lower()
