"""The GraphQL transport, the only file that uses gql: send a request, return its answer and headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

import aiohttp
from gql import Client, GraphQLRequest
from gql.client import AsyncClientSession
from gql.transport.async_transport import AsyncTransport
from graphql import DocumentNode, ExecutionResult

from doitong_async.secret import Secret
from doitong_async.transport.calls import Caller
from doitong_async.transport.exchange import RequestBody
from doitong_async.transport.failure import Failure
from doitong_async.transport.status import Message
from doitong_async.transport.wire import Answer

_ANY_REQUEST: Final = GraphQLRequest(DocumentNode(definitions=()))


class _Posting(AsyncTransport):
    """Post the body of each request as it is, and leave the answer with that body.

    gql's own transport for aiohttp drops the status of an answer, keeps the headers of the last one for all,
    raises on errors, which loses partial data, and follows redirects.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def connect(self) -> None:
        """Do nothing: the owner of the session opened it."""

    async def close(self) -> None:
        """Do nothing: the owner of the session closes it."""

    async def execute(self, request: GraphQLRequest, **post: Any) -> ExecutionResult:
        """Post `data`, a `RequestBody`; the document is not used."""
        body: RequestBody = post["data"]
        response = await self._session.post(self._url, **post)
        await body.exchange(response)
        return ExecutionResult(data={})

    def subscribe(self, request: GraphQLRequest) -> AsyncGenerator[ExecutionResult, None]:
        """Raise: the service has no subscriptions."""
        raise NotImplementedError


class GraphQLTransport:
    """Send requests to `{base_url}/graphql`, and return each answer whole.

    Args:
        base_url: the root of the API.
        api_key: goes into the `Authorization` header of each request and nowhere else.
        session: sends the requests; its owner closes it.
        ssl: how to check the service's certificate, as aiohttp takes it.
        user_agent: the `User-Agent` header.
    """

    def __init__(
        self, *, base_url: str, api_key: str, session: aiohttp.ClientSession, ssl: Any, user_agent: str
    ) -> None:
        key = Secret(api_key)
        self._caller = Caller(
            ("Authorization", Secret(f"Bearer {key}")), api_key=key, ssl=ssl, user_agent=user_agent
        )
        # gql's own timeout of 10 s would count the wait for a connection.
        self._client = Client(transport=_Posting(f"{base_url}/graphql", session), execute_timeout=None)
        self._session: AsyncClientSession

    async def open(self) -> None:
        """Open the gql session."""
        self._session = await self._client.connect_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def close(self) -> None:
        """Close the gql session; the connections are the owner's to close."""
        await self._client.close_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def send(
        self,
        message: Message,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        on_doubt: Callable[[], None] | None = None,
    ) -> Answer | Failure:
        """Post one request and read its answer whole; see `Transport.send`."""
        assert isinstance(message, bytes), "every GraphQL request is posted"
        return await self._caller.call(
            self._execute,
            RequestBody(message),
            timeout=timeout,
            idempotency_key=idempotency_key,
            on_doubt=on_doubt,
        )

    async def _execute(self, payload: RequestBody, post: Mapping[str, Any]) -> None:
        await self._session.execute(_ANY_REQUEST, data=payload, **post)
