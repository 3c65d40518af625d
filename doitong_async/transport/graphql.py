"""The GraphQL transport, the only file that uses gql: send a request, return its answer and headers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final, Unpack

import aiohttp
from gql import Client, GraphQLRequest
from gql.client import AsyncClientSession
from gql.transport.async_transport import AsyncTransport
from graphql import DocumentNode, ExecutionResult

from doitong_async.secret import Secret
from doitong_async.transport.calls import Transport, TransportArguments
from doitong_async.transport.exchange import RequestBody
from doitong_async.transport.status import Message

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


class GraphQLTransport(Transport):
    """Post requests to `{base_url}/graphql`, with the API key in `Authorization`."""

    def __init__(self, **given: Unpack[TransportArguments]) -> None:
        super().__init__(**given)
        posting = _Posting(f"{given['base_url']}/graphql", given["session"])
        # gql's own timeout of 10 s would count the wait for a connection.
        self._client = Client(transport=posting, execute_timeout=None)
        self._session: AsyncClientSession

    def _key_header(self, key: Secret) -> tuple[str, Secret]:
        return "Authorization", Secret(f"Bearer {key}")

    async def open(self) -> None:
        """Open the gql session."""
        self._session = await self._client.connect_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def close(self) -> None:
        """Close the gql session; the connections are the owner's to close."""
        await self._client.close_async()  # type: ignore[no-untyped-call]  # gql's own gap

    async def _exchange(self, message: Message, payload: RequestBody, more: Mapping[str, Any]) -> None:
        assert isinstance(message, bytes), "every GraphQL request is posted"
        await self._session.execute(_ANY_REQUEST, data=payload, **more)
