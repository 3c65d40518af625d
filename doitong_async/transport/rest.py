"""The REST transport: posts a submit to `/v1/text_to_image`, and gets the status of one job at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import aiohttp
from yarl import URL

from doitong_async.secret import Secret
from doitong_async.transport.calls import Transport, TransportArguments
from doitong_async.transport.exchange import RequestBody
from doitong_async.transport.status import Get, Message

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


class RestTransport(Transport):
    """Send requests below `base_url`, with the API key in `X-API-Key`."""

    def __init__(self, **given: Unpack[TransportArguments]) -> None:
        super().__init__(**given)
        # As aiohttp spells it: a path is added to it that aiohttp must leave as it is.
        self._root = str(URL(given["base_url"])).rstrip("/")
        self._session = given["session"]
        # aiohttp says them nowhere else, and those of a request replace them.
        self._middlewares: Sequence[Any] = getattr(self._session, "_middlewares", ())

    def _key_header(self, key: Secret) -> tuple[str, Secret]:
        return "X-API-Key", key

    async def _exchange(self, message: Message, payload: RequestBody, more: Mapping[str, Any]) -> None:
        if isinstance(message, Get):
            await self._get(message.path, payload, more)
            return
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
