"""HTTP/1.1 and the API's JSON, as thin as a server can be that must cost less than what it measures."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Answer = Callable[[bytes, bytes], bytes]
"""From the head and the body of a request to the bytes of its whole answer."""

CREATED: Final = "2026-01-01T00:00:00Z"
OUTPUTS: Final = "http://127.0.0.1:9/outputs"

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_FIELD: Final = re.compile(r"(?:(\w+)\s*:\s*)?\bgeneration\s*\(\s*id\s*:\s*\$(\w+)")


class Http(asyncio.Protocol):
    """One connection, kept alive; requests come with a Content-Length or without a body."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole; keep what is not."""
        rest = self._rest + data if self._rest else data
        while (end := rest.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(rest, 0, end)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(rest) < whole:
                break
            self._transport.write(self._answer(rest[:end], rest[end + 4 : whole]))
            rest = rest[whole:]
        self._rest = rest


def response(body: bytes, status: int = 200, headers: str = "") -> bytes:
    """Return the bytes of a JSON answer; each line of `headers` ends with CRLF."""
    head = f"HTTP/1.1 {status} \r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{headers}\r\n".encode() + body


def snapshot(job_id: str, *, is_done: bool) -> str:
    """Return a job as JSON, with the fields that the documented mutation asks for."""
    status, url = ("completed", f'"{OUTPUTS}/{job_id}.jpg"') if is_done else ("processing", "null")
    return (
        f'{{"id":"{job_id}","status":"{status}","url":{url},"type":"IMAGE","provider":"flux-pro",'
        f'"metadata":{{"width":1024,"height":1024}},"creditCost":20,"createdAt":"{CREATED}"}}'
    )


def is_submit(body: bytes) -> bool:
    """Whether a GraphQL request makes something, told by its first letters."""
    return b"mutation" in body[:32]


@lru_cache(maxsize=1000)
def asked(query: str) -> tuple[tuple[str, str], ...]:
    """Return what a status query asks for: the key to answer under, and the variable with the id."""
    return tuple((alias or "generation", variable) for alias, variable in _FIELD.findall(query))
