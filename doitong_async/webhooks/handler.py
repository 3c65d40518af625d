"""Answers a webhook request with a status, whatever the web server.

    405   method other than POST                        413   body of more than 1 MiB
    415   compressed                                    408   body too slow
    401   no signature, several, or a wrong one         400   signed but names no job; or cut off
    503   client not open, or the hook failed           204   accepted: applied, and the hook has run

The signature decides. The handler ignores the path and the content type: whatever stands between here and the
service sets both, and the body shows what it is. Without a signature, a sender can cause one debug line.

The service may or may not send again what is not answered with 2xx (reference, "Unknown"): an event that
arrives twice changes nothing, and the next poll makes up for one that never arrives.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from doitong_async.callbacks import checked_callback, is_from_user, raise_in_loop
from doitong_async.errors import (
    ConfigurationError,
    DoitongError,
    WebhookPayloadError,
    WebhookSignatureError,
)
from doitong_async.log import log
from doitong_async.types import Generation

LARGEST_BODY: Final = 1 << 20
"""Bytes; a documented webhook has about 300."""
READ_TIMEOUT: Final = 10.0
"""Seconds in which the whole body must arrive: our choice."""

OnWebhook: TypeAlias = Callable[[Generation], object]
"""The user's durable hook, sync or async: it may get the same update again."""


class CutOffError(Exception):
    """The sender disconnected before the end of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, independent of the server that received it.

    `signatures` holds every value of the signature header, in order. `read` returns the next chunk of the
    body, and None at its end; it may raise `CutOffError`, or what its server raises for a broken body.
    """

    method: str
    content_encoding: str | None
    content_length: int | None
    signatures: Sequence[str]
    read: Callable[[], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Response:
    """The response: never with a body, as it discloses nothing."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


class WebhookHandler:
    """Answer requests: check each one, pass its body to the endpoint, then run the hook.

    Args:
        accept: takes a raw body and its header, and returns the update, or raises an error of this library.
        on_event: the durable hook; the webhook is acknowledged only after it has run.
        read_timeout: seconds in which the whole body must arrive.

    Raises:
        ConfigurationError: if the timeout is invalid, or the hook is not a function.
    """

    def __init__(
        self,
        accept: Callable[[bytes, str | None], Awaitable[Generation]],
        on_event: OnWebhook | None = None,
        *,
        read_timeout: float = READ_TIMEOUT,
    ) -> None:
        if not isinstance(read_timeout, int | float) or not 0 < read_timeout < math.inf:
            raise ConfigurationError(
                f"read_timeout is {read_timeout!r}; expected seconds, a finite number above zero."
            )
        self._accept = accept
        self._on_event = checked_callback(on_event, "on_event", may_be_async=True)
        self._read_timeout = read_timeout

    async def answer(self, request: Request) -> Response:
        """Return the response to a request; raise nothing but a cancellation."""
        rejected = _rejected(request)
        if rejected is not None:
            return rejected
        try:
            async with asyncio.timeout(self._read_timeout):
                body = await _body(request)
        except TimeoutError:
            return Response(408, {"Connection": "close"})
        except Exception as error:
            log.debug("a webhook was rejected: its body cannot be read (%s)", type(error).__name__)
            return Response(400, {"Connection": "close"})
        if body is None:
            return _too_large()
        return await self._take(body, request.signatures[0])

    async def _take(self, body: bytes, header: str) -> Response:
        try:
            update = await self._accept(body, header)
        except WebhookSignatureError:
            log.debug("a webhook was rejected: its signature is wrong")
            return Response(401)
        except WebhookPayloadError as error:
            log.warning("a signed webhook was rejected: %s", error.message)
            return Response(400)
        except DoitongError as error:
            log.info("a signed webhook was deferred: %s", error.message)
            return Response(503)
        except Exception:
            log.exception("a signed webhook could not be accepted")
            return Response(503)
        return Response(204 if await self._is_kept(update) else 503)

    async def _is_kept(self, update: Generation) -> bool:
        """Run the hook, and return whether it succeeded."""
        try:
            if self._on_event is not None:
                result = self._on_event(update)
                if inspect.isawaitable(result):
                    await result
        except GeneratorExit:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling()):
                # The request was cancelled, not a task of the hook's own.
                raise
            log.exception(
                "on_event failed on a webhook of job %s; the service is asked to send it again", update.id
            )
            if is_from_user(error):
                # The loop raises it once the service has its answer.
                raise_in_loop(error)
            return False
        return True


def _rejected(request: Request) -> Response | None:
    """Return the response to an invalid request, as far as that shows before its body is read."""
    if request.method != "POST":
        return Response(405, {"Allow": "POST"})
    if (request.content_encoding or "identity").lower() != "identity":
        # The signature covers the raw body, and some servers decompress it before it arrives here.
        return Response(415)
    if request.content_length is not None and request.content_length > LARGEST_BODY:
        return _too_large()
    if len(request.signatures) != 1:
        log.debug("a webhook was rejected: it has %d signatures", len(request.signatures))
        return Response(401)
    return None


async def _body(request: Request) -> bytes | None:
    """Read the body; None if it is too large."""
    pieces, size = [], 0
    while (piece := await request.read()) is not None:
        size += len(piece)
        if size > LARGEST_BODY:
            return None
        pieces.append(piece)
    return b"".join(pieces)


def _too_large() -> Response:
    return Response(413, {"Connection": "close"})
