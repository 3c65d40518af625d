"""The REST transport: posts a submit to `/v1/text_to_image`, and gets the status of one job at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
        self._base_url = base_url
        self._session = session
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
            # Encoded already: yarl would decode what an id may need.
            url = URL(f"{self._base_url}{message.path}", encoded=True)

            async def get(payload: RequestBody, more: Mapping[str, Any]) -> None:
                await payload.exchange(await self._session.get(url, **more))

            return await self._caller.call(get, NoBody(), timeout=timeout)
        return await self._caller.call(
            self._post,
            RequestBody(message),
            timeout=timeout,
            idempotency_key=idempotency_key,
            on_doubt=on_doubt,
        )

    async def _post(self, payload: RequestBody, more: Mapping[str, Any]) -> None:
        await payload.exchange(await self._session.post(f"{self._base_url}{CREATE}", data=payload, **more))
