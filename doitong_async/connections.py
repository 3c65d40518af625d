"""The client's own aiohttp session, and how many connections it may open at once."""

from __future__ import annotations

from typing import Final

import aiohttp

from doitong_async.resolver import GuardedResolver
from doitong_async.settings import Settings
from doitong_async.transport.exchange import LONGEST_HEADER

try:
    import resource
except ImportError:  # on Windows
    _HAS_LIMITS = False
else:
    _HAS_LIMITS = True

MOST_CONNECTIONS: Final = 256
FEWEST_CONNECTIONS: Final = 12
"""Enough that eight downloads do not delay submits and polls."""
KEPT_FOR_FILES: Final = 32
"""File descriptors left to the rest of the process, on top of half of all: our choice."""


def most_connections() -> int:
    """Return how many connections may be open at once: each takes a file descriptor of the process."""
    if not _HAS_LIMITS:
        return MOST_CONNECTIONS
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, soft // 2 - KEPT_FOR_FILES))


def session_of(settings: Settings, resolver: GuardedResolver) -> aiohttp.ClientSession:
    """Return a session of our own."""
    return aiohttp.ClientSession(
        # The rate limiter bounds the requests; this only keeps a large plan's burst of submits from opening
        # a thousand sockets.
        connector=aiohttp.TCPConnector(limit=most_connections(), resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=settings.trust_env,
        proxy=None if settings.proxy is None else settings.proxy.reveal(),
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    )
