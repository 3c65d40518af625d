"""The one file that knows gql: one request out, one answer back with its own status and headers."""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

import aiohttp
from gql import Client, GraphQLRequest
from gql.client import AsyncClientSession
from gql.transport.aiohttp import AIOHTTPTransport
from graphql import DocumentNode, ExecutionResult
from pydantic_core import from_json

from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.transport.wire import KEPT_HEADERS, Answer

MOST_BYTES: Final = 8 << 20
"""Bytes of one answer that are read at most; 100 jobs take some 30 KB."""

SHORTEST_KEY: Final = 12
"""Characters; our assumption of what no real key is shorter than."""

_NOTHING: Final = GraphQLRequest(DocumentNode(definitions=()))
"""What gql is given to carry; the bytes of the request ride in the arguments beside it."""


class _Keeping(AIOHTTPTransport):
    """gql's transport, but each answer keeps its status and headers, and no redirect is followed.

    The answer rides in the result's data, so that gql neither raises on its errors (their partial data
    and their status would be gone) nor asserts on `data: null`.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, redactor: _Redactor) -> None:
        super().__init__(url)
        self._shared = session
        self._redactor = redactor

    async def connect(self) -> None:
        self.session = self._shared

    async def close(self) -> None:
        # Who opened the session closes it.
        self.session = None

    async def execute(
        self,
        request: GraphQLRequest,
        *,
        extra_args: dict[str, Any] | None = None,
        upload_files: bool = False,
    ) -> ExecutionResult:
        async with self._shared.post(
            self.url, allow_redirects=False, raise_for_status=False, **extra_args or {}
        ) as response:
            raw = await _read(response)
            return ExecutionResult(data={"answer": self._answer(response, raw)})

    def _answer(self, response: aiohttp.ClientResponse, raw: bytes) -> Answer:
        headers = {
            name: self._redactor.text(value)
            for name in KEPT_HEADERS
            if (value := response.headers.get(name)) is not None
        }
        text = raw.decode("utf-8-sig", "replace")
        body = self._redactor.body(_parsed(raw, text), text)
        return Answer(response.status, headers, body, self._redactor.text(text))


def _parsed(raw: bytes, text: str) -> object:
    try:
        return from_json(raw)
    except ValueError:
        pass
    try:
        # Slower, and more forgiving: a lone surrogate in a field must not cost the id beside it.
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if (
        "Content-Encoding" not in response.headers
        and (response.content_length or MOST_BYTES + 1) <= MOST_BYTES
    ):
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {MOST_BYTES:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


class _Session(AsyncClientSession):
    """gql's session without its timeout, which costs as much as all the rest of it even where it is off."""

    async def _execute(
        self,
        request: GraphQLRequest,
        *,
        serialize_variables: bool | None = None,
        parse_result: bool | None = None,
        **kwargs: Any,
    ) -> ExecutionResult:
        result: ExecutionResult = await self.transport.execute(request, **kwargs)
        return result


class GraphQLTransport:
    """Sends requests to `{base_url}/graphql`, and gives each answer back whole.

    Args:
        base_url: the root of the API.
        api_key: goes into the `Authorization` header of each request and nowhere else.
        session: carries the requests; it is not closed here.
        ssl: how the service's certificate is checked, as aiohttp takes it.
        user_agent: the `User-Agent` header.
    """

    def __init__(
        self, *, base_url: str, api_key: str, session: aiohttp.ClientSession, ssl: Any, user_agent: str
    ) -> None:
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "User-Agent": user_agent,
        }
        self._ssl = ssl
        self._keeping = _Keeping(f"{base_url}/graphql", session, _Redactor(api_key))
        self._session = _Session(Client(transport=self._keeping))

    async def open(self) -> None:
        """Make it ready to send."""
        await self._session.connect()  # type: ignore[no-untyped-call]  # gql's own gap

    async def close(self) -> None:
        """End the gql session; the connections are the owner's to close."""
        await self._session.close()  # type: ignore[no-untyped-call]  # gql's own gap

    async def send(
        self, body: bytes, *, timeout: float, idempotency_key: str | None = None
    ) -> Answer | Refusal:
        """Send one request and read its answer whole.

        Args:
            body: the request as JSON (`wire.encoded`), sent as it is.
            timeout: seconds from here to the last byte of the answer.
            idempotency_key: goes into the `Idempotency-Key` header.

        Returns:
            The answer, whatever its status; or a `Refusal` of kind NOT_SENT, UNANSWERED or UNUSABLE.
        """
        headers = self._headers
        if idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": idempotency_key}
        extra = {"data": body, "headers": headers, "timeout": _limits(timeout), "ssl": self._ssl}
        try:
            result = await self._session.execute(_NOTHING, extra_args=extra)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            # As a value: the context of an aiohttp error shows the request's headers, the key too.
            return _failure(error)
        answer: Answer = result["answer"]
        return answer


@lru_cache(maxsize=64)
def _limits(timeout: float) -> aiohttp.ClientTimeout:
    # A connection that is not made by half of the time was surely not used to send anything.
    return aiohttp.ClientTimeout(total=timeout, connect=timeout / 2)


_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
)


def _failure(error: Exception) -> Refusal:
    name = type(error).__name__
    if isinstance(error, _NOT_SENT):
        reason = getattr(error, "os_error", None) or name
        return Refusal(Kind.NOT_SENT, f"The service could not be reached ({reason}).")
    if isinstance(error, aiohttp.ClientError | OSError):
        what = "no answer came in time" if isinstance(error, TimeoutError) else "the connection broke"
        return Refusal(Kind.UNANSWERED, f"The request was sent, but {what} ({name}).")
    if isinstance(error, RuntimeError):
        return Refusal(Kind.UNUSABLE, "The HTTP session is closed, or belongs to another event loop.")
    return Refusal(
        Kind.UNUSABLE,
        "The HTTP session cannot send the request: it has credentials of its own (auth, netrc).",
    )


_JSON_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")


class _Redactor:
    """Takes the key out of what the service sends, should it echo it.

    A key shorter than any real one is left alone: it would be found in words that are not it.
    """

    def __init__(self, key: str) -> None:
        self._key = key if len(key) >= SHORTEST_KEY else None
        self._escaped = key.replace("/", "\\/")

    def text(self, text: str) -> str:
        """Return a text without the key; one that spells it in other letters is withheld whole."""
        if self._key is None:
            return text
        if self._key in text or self._escaped in text:
            text = text.replace(self._key, "***").replace(self._escaped, "***")
        return "(withheld: it spells the API key)" if self._is_spelled_in(text) else text

    def body(self, body: object, text: str) -> object:
        """Return a parsed body without the key; `text` is what it was parsed from."""
        if self._key is None or not (self._key in text or self._is_spelled_in(text)):
            return body
        return self._walked(body)

    def _is_spelled_in(self, text: str) -> bool:
        """Whether the text has the key in JSON's, HTML's or a URL's escapes."""
        if self._key is None or not any(mark in text for mark in ("\\", "&", "%")):
            return False
        plain = _JSON_ESCAPE.sub(lambda match: chr(int(match[1], 16)), text).replace("\\/", "/")
        return any(self._key in spelled for spelled in (plain, html.unescape(plain), unquote(plain)))

    def _walked(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walked(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self._walked(item) for name, item in value.items()}
        return value
