"""The REST transport: posts a submit to `/v1/text_to_image`, and gets the status of one job at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import aiohttp
from yarl import URL

from doitong_async.secret import Secret
from doitong_async.transport.calls import Caller
from doitong_async.transport.exchange import NoBody, RequestBody
from doitong_async.transport.failure import Failure
from doitong_async.transport.status import Get, Message
from doitong_async.transport.wire import Answer

CREATE: Final = "/v1/text_to_image"
"""Where jobs are submitted (reference, "Endpoints and keys")."""


class _BrokenError(Exception):
    """The connection of a request without a body broke; the cause says how."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a request, and keep aiohttp from sending it again: a poll has a permit for one request."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        # Not an error that aiohttp knows: it repeats a GET after those.
        raise _BrokenError from error


class RestTransport:
    """Send requests below `base_url`, and return each answer whole.

    Args:
        base_url: the root of the API.
        api_key: goes into the `X-API-Key` header of each request and nowhere else.
        session: sends the requests; its owner closes it.
        ssl: how to check the service's certificate, as aiohttp takes it.
        user_agent: the `User-Agent` header.
    """

    def __init__(
        self, *, base_url: str, api_key: str, session: aiohttp.ClientSession, ssl: Any, user_agent: str
    ) -> None:
        key = Secret(api_key)
        # As aiohttp spells it: a path is added to it that aiohttp must leave as it is.
        self._root = str(URL(base_url)).rstrip("/")
        self._session = session
        # aiohttp says them nowhere else, and those of a request replace them.
        self._middlewares: Sequence[Any] = getattr(session, "_middlewares", ())
        self._caller = Caller(("X-API-Key", key), api_key=key, ssl=ssl, user_agent=user_agent)

    async def open(self) -> None:
        """Do nothing: the owner of the session opened it."""

    async def close(self) -> None:
        """Do nothing: the owner of the session closes it."""

    async def send(
        self,
        message: Message,
        *,
        timeout: float,
        idempotency_key: str | None = None,
        on_doubt: Callable[[], None] | None = None,
    ) -> Answer | Failure:
        """Send one request and read its answer whole; see `Transport.send`."""
        if isinstance(message, Get):
            return await self._caller.call(partial(self._get, message.path), NoBody(), timeout=timeout)
        return await self._caller.call(
            self._post,
            RequestBody(message),
            timeout=timeout,
            idempotency_key=idempotency_key,
            on_doubt=on_doubt,
        )

    async def _post(self, payload: RequestBody, more: Mapping[str, Any]) -> None:
        await payload.exchange(await self._session.post(f"{self._root}{CREATE}", data=payload, **more))

    async def _get(self, path: str, payload: RequestBody, more: Mapping[str, Any]) -> None:
        # Encoded already: yarl would decode what an id may need.
        url = URL(f"{self._root}{path}", encoded=True)
        try:
            response = await self._session.get(url, middlewares=(_once, *self._middlewares), **more)
        except _BrokenError as error:
            broken = error.__cause__ or error
        else:
            await payload.exchange(response)
            return
        # Out here, where its own context stays.
        raise broken
