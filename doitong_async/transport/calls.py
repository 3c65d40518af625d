"""Sends one request and reads its answer whole, without the API key in it, whatever the protocol."""

from __future__ import annotations

import asyncio
import html
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypedDict, Unpack
from urllib.parse import unquote

import aiohttp

from doitong_async.clock import RunningTimeout
from doitong_async.secret import Secret
from doitong_async.transport.exchange import NoBody, Reply, RequestBody, failure_of, is_cancelled
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.status import Get, Message
from doitong_async.transport.wire import KEPT_HEADERS, Answer, read_json, read_text

SHORTEST_KEY: Final = 12
"""Characters; we assume that no real key is shorter."""


class TransportArguments(TypedDict):
    """What a transport is made from: see `Transport`."""

    base_url: str
    api_key: str
    session: aiohttp.ClientSession
    ssl: Any
    user_agent: str


class Transport(ABC):
    """Sends the requests of one protocol, and returns each answer whole.

    Args:
        base_url: the root of the API.
        api_key: goes into the protocol's own header of each request, and nowhere else.
        session: sends the requests; its owner closes it.
        ssl: how to check the service's certificate, as aiohttp takes it.
        user_agent: the `User-Agent` header.
    """

    def __init__(self, **given: Unpack[TransportArguments]) -> None:
        key = Secret(given["api_key"])
        name, value = self._key_header(key)
        self._headers = {name: value, "Content-Type": "application/json", "User-Agent": given["user_agent"]}
        self._ssl = given["ssl"]
        self._redactor = _Redactor(key)

    @abstractmethod
    def _key_header(self, key: Secret) -> tuple[str, Secret]:
        """Return the header that takes the API key, and its value."""

    @abstractmethod
    async def _exchange(self, message: Message, payload: RequestBody, more: Mapping[str, Any]) -> None:
        """Send a request with these arguments of aiohttp, and leave the answer with its body, `payload`."""

    async def open(self) -> None:  # noqa: B027 - not every protocol has a session of its own
        """Get ready to send; the owner of the session opened it."""

    async def close(self) -> None:  # noqa: B027 - the same
        """Send no more; the owner of the session closes it."""

    async def send(
        self,
        message: Message,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        on_doubt: Callable[[], None] | None = None,
    ) -> Answer | Failure:
        """Send one request and read its answer whole.

        Args:
            message: the body to post, sent unchanged; or the path to get.
            timeout: seconds from now to the last byte of the answer.
            idempotency_key: goes into the `Idempotency-Key` header.
            on_doubt: called if this call is cancelled, or ended by an exit, after the request left.

        Returns:
            The answer, whatever its status; or a `Failure` of kind NOT_SENT, UNANSWERED or UNUSABLE, or of
            PROTOCOL if the answer cannot be read.
        """
        payload = NoBody() if isinstance(message, Get) else RequestBody(message)
        headers = self._headers
        if idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": idempotency_key}
        more = {
            "headers": headers,
            "timeout": _connecting(timeout),
            "ssl": self._ssl,
            "allow_redirects": False,
            "raise_for_status": False,
        }
        try:
            async with RunningTimeout(timeout):
                await self._exchange(message, payload, more)
        except BaseException as error:
            is_exit = not isinstance(error, Exception | asyncio.CancelledError)
            if is_exit or (isinstance(error, asyncio.CancelledError) and is_cancelled()):
                if payload.has_left and on_doubt is not None:
                    on_doubt()
                raise
            # A value, not an exception: the context of an aiohttp error shows the request's headers.
            failure = failure_of(error, payload)
        # An answer that was read whole is never lost, whatever is raised after it.
        reply = payload.reply
        return failure if reply is None else self._answer(reply)

    def _answer(self, reply: Reply) -> Answer | Failure:
        """Read an answer without importing or opening anything, and without raising."""
        status, given, raw = reply
        try:
            headers = {
                name: self._redactor.text(value)
                for name in KEPT_HEADERS
                if (value := given.get(name)) is not None
            }
            text, body = read_text(raw), read_json(raw)
            shown = self._redactor.text(text)
            if shown != text:
                body = self._redactor.body(body)
            return Answer(status, headers, body, shown)
        except Exception as error:
            name = type(error).__name__
        return Failure(FailureKind.PROTOCOL, f"The answer arrived but cannot be read here ({name}).", status)


@lru_cache(maxsize=64)
def _connecting(timeout: float) -> aiohttp.ClientTimeout:
    # A connection that took more than half of the time surely sent nothing.
    return aiohttp.ClientTimeout(total=None, connect=timeout / 2)


_JSON_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")


class _Redactor:
    """Remove the key from what the service sends, should it echo it.

    This answers a service or gateway that shows the `Authorization` header in its error page, escaped as
    JSON, HTML or percent-encoded. A key shorter than any real one is left in: it would match ordinary words.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key if len(key) >= SHORTEST_KEY else None

    def text(self, text: str) -> str:
        """Return a text without the key; a text that holds it in escaped form is withheld whole."""
        if self._key is None:
            return text
        text = text.replace(self._key, "***")
        if any(self._key in plain for plain in _unescaped(text)):
            return "(withheld: it contains the API key)"
        return text

    def body(self, body: object) -> object:
        """Return a parsed body without the key."""
        if isinstance(body, str):
            return self.text(body)
        if isinstance(body, list):
            return [self.body(item) for item in body]
        if isinstance(body, dict):
            return {self.text(name): self.body(value) for name, value in body.items()}
        return body


def _unescaped(text: str) -> tuple[str, ...]:
    """Return what a text says without JSON's escapes, and then without HTML's or a URL's."""
    if not any(mark in text for mark in ("\\", "&", "%")):
        return ()
    plain = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
    return plain, html.unescape(plain), unquote(plain)
