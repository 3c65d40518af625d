"""The one file that knows gql: one request out, one answer back with its own status and headers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp
from gql import Client, GraphQLRequest
from gql.transport.aiohttp import AIOHTTPTransport
from graphql import DocumentNode, ExecutionResult
from pydantic_core import from_json

from doitong_async.errors import ConfigurationError
from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.transport.wire import KEPT_HEADERS, Answer

MOST_BYTES: Final = 8 << 20
"""Bytes of one answer that are read at most; 100 jobs take some 30 KB."""
EXCERPT: Final = 200
"""Characters of an answer that an error shows."""

_NO_DOCUMENT: Final = DocumentNode(definitions=())


class _Text(GraphQLRequest):
    """A request whose text is sent as it was written: printing a parsed one again is most of gql's cost."""

    def __init__(self, text: str, variables: Mapping[str, object]) -> None:
        super().__init__(_NO_DOCUMENT, variable_values=dict(variables))
        self._text = text

    @property
    def payload(self) -> dict[str, Any]:
        return {"query": self._text, "variables": self.variable_values}


class _Keeping(AIOHTTPTransport):
    """gql's transport, but each answer keeps its status and headers, and no redirect is followed.

    The answer rides in the result's data, so that gql neither raises on its errors (their partial data
    and their status would be gone) nor asserts on `data: null`.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession, redact: Callable[[str], str]) -> None:
        super().__init__(url)
        self._shared = session
        self._redact = redact

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
            self.url, json=request.payload, allow_redirects=False, raise_for_status=False, **extra_args or {}
        ) as response:
            raw = await _read(response)
            return ExecutionResult(data={"answer": self._answer(response, raw)})

    def _answer(self, response: aiohttp.ClientResponse, raw: bytes) -> Answer:
        headers = {
            name: self._redact(value) for name in KEPT_HEADERS if (value := response.headers.get(name))
        }
        text = raw.decode("utf-8", "replace")
        clean = self._redact(text)
        try:
            body = from_json(raw if clean is text else clean, allow_inf_nan=False)
        except ValueError:
            body = None
        return Answer(response.status, headers, body, " ".join(clean[:EXCERPT].split()))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {MOST_BYTES:,} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


class GraphQLTransport:
    """Sends documents to `{base_url}/graphql`, and gives each answer back whole.

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
        self._headers = {"Authorization": f"Bearer {api_key}", "User-Agent": user_agent}
        self._ssl = ssl
        self._keeping = _Keeping(f"{base_url}/graphql", session, _redactor(api_key))
        self._client = Client(transport=self._keeping, execute_timeout=None)

    async def open(self) -> None:
        """Make it ready to send."""
        self._session = await self._client.connect_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def close(self) -> None:
        """End the gql session; the connections are the owner's to close."""
        await self._client.close_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def send(
        self,
        document: str,
        variables: Mapping[str, object],
        *,
        timeout: float,
        idempotency_key: str | None = None,
    ) -> Answer | Refusal:
        """Send one document and read its answer whole.

        Args:
            document: the GraphQL text.
            variables: its variables, as JSON.
            timeout: seconds from here to the last byte of the answer.
            idempotency_key: goes into the `Idempotency-Key` header.

        Returns:
            The answer, whatever its status; or a `Refusal` of kind `NOT_SENT` or `UNANSWERED`.

        Raises:
            ConfigurationError: if the session that carries the request cannot send it as it must be sent.
        """
        headers = self._headers
        if idempotency_key is not None:
            headers = {**headers, "Idempotency-Key": idempotency_key}
        extra = {"headers": headers, "timeout": aiohttp.ClientTimeout(total=timeout), "ssl": self._ssl}
        try:
            result = await self._session.execute(_Text(document, variables), extra_args=extra)
        except (
            aiohttp.ClientError,
            OSError,
            TimeoutError,
            ValueError,
            RuntimeError,
            asyncio.LimitOverrunError,
        ) as error:
            failure = _failure(error)
        else:
            answer: Answer = result["answer"]
            return answer
        # Raised out of the handler: the context of an aiohttp error shows the request's headers, the key too.
        if isinstance(failure, ConfigurationError):
            raise failure
        return failure


_NOT_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientHttpProxyError,
)


def _failure(error: Exception) -> Refusal | ConfigurationError:
    name = type(error).__name__
    if isinstance(error, _NOT_SENT):
        reason = getattr(error, "os_error", None) or name
        return Refusal(Kind.NOT_SENT, f"The service could not be reached ({reason}).")
    if isinstance(error, aiohttp.ClientError | OSError | asyncio.LimitOverrunError):
        what = "no answer came in time" if isinstance(error, TimeoutError) else "the connection broke"
        return Refusal(Kind.UNANSWERED, f"The request was sent, but {what} ({name}).")
    return ConfigurationError(f"The HTTP session cannot send the request ({name}); see its auth and netrc.")


def _redactor(secret: str) -> Callable[[str], str]:
    """Return what takes the key out of a text that the service sent; other texts come back as they are."""
    spellings = {secret, secret.replace("/", "\\/")}

    def redact(text: str) -> str:
        for spelling in spellings:
            if spelling in text:
                text = text.replace(spelling, "***")
        return text

    return redact
