"""aioresponses for any aiohttp version: odd answers and exceptions that no server can produce."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import aiohttp
from aioresponses import aioresponses

URL = "https://api.doitong.com/graphql"


class _Response(aiohttp.ClientResponse):
    """aiohttp 3.14 requires a stream writer, which aioresponses 0.7.9 does not know."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "stream_writer" in inspect.signature(aiohttp.ClientResponse).parameters:
            kwargs["stream_writer"] = SimpleNamespace(output_size=0)
        super().__init__(*args, **kwargs)


class OddAnswers(aioresponses):
    """`with OddAnswers() as odd: odd.answer(…)` sets the answer to the next POST to the API."""

    def answer(self, body: str | bytes = "", *, status: int = 200, **headers: str) -> None:
        """Answer once with this body."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.post(URL, body=body, status=status, headers=named, response_class=_Response)

    def fail(self, error: BaseException, *, is_sent: bool = True) -> None:
        """Raise this once instead of answering, as aiohttp does, before or after the request leaves."""

        async def callback(url: Any, **given: Any) -> None:
            if is_sent:
                body, writer = given["data"], _Writer()
                # aiohttp calls the first up to 3.11, the second from 3.12 on.
                is_old = not hasattr(aiohttp.BytesPayload, "write_with_length")
                await (body.write(writer) if is_old else body.write_with_length(writer, None))
            _RAISERS["raiser"](error)

        self.post(URL, callback=callback)


class _Writer:
    """Takes the bytes sent, and counts them as aiohttp's own writer does."""

    output_size = 0

    async def write(self, chunk: bytes) -> None:
        self.output_size += len(chunk)


# The client reads from the raising module whose exception it is.
_RAISERS: dict[str, Any] = {"__name__": "aiohttp.client"}
exec("def raiser(error): raise error", _RAISERS)
