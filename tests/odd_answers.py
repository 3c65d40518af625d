"""aioresponses on today's aiohttp: single odd answers and exceptions that no server can be made to give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiohttp
from aioresponses import aioresponses

URL = "https://api.doitong.com/graphql"


class _Response(aiohttp.ClientResponse):
    """aiohttp 3.14 asks for a stream writer, which aioresponses 0.7.9 does not know of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        nothing_written: Any = SimpleNamespace(output_size=0)
        super().__init__(*args, stream_writer=nothing_written, **kwargs)


class OddAnswers(aioresponses):
    """`with OddAnswers() as odd: odd.answer(…)`: what the next POST to the API brings."""

    def answer(self, body: str | bytes = "", *, status: int = 200, **headers: str) -> None:
        """Answer once with this body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.post(URL, body=body, status=status, headers=named, response_class=_Response)

    def fail(self, error: BaseException) -> None:
        """Raise this once instead of answering."""
        self.post(URL, exception=error)
