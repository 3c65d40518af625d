"""What a request with a webhook is answered: one handler for every server, which knows none of them.

    405   another method than POST                      413   a body of more than 1 MiB
    415   compressed                                    408   the body does not come in time
    401   no signature, several, or one that is wrong   400   signed, and names no job; or cut off
    503   the client is not open, or the hook failed    204   taken: the news is in, and the hook has run

The signature decides. Neither the path nor the type of the content is looked at: both are set by whoever
stands between here and the service, and the body shows what it is. What a sender without a signature can
cause is one debug line.

The service sends again what is not answered with 2xx, or it does not (reference, "Unknown"): news that is
taken twice changes nothing, and news that never comes is found by the next look.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from doitong_async.errors import (
    ConfigurationError,
    DoitongError,
    WebhookPayloadError,
    WebhookSignatureError,
)
from doitong_async.hook import checked_callback, is_from_user, raise_in_loop
from doitong_async.log import log
from doitong_async.types import Generation

LARGEST_BODY: Final = 1 << 20
"""Bytes; a documented webhook has about 300."""
READ_TIMEOUT: Final = 10.0
"""Seconds in which the whole body must come: our choice."""

OnWebhook: TypeAlias = Callable[[Generation], object]
"""The user's durable hook, sync or async: it may be called again with the same news."""


class CutOffError(Exception):
    """The sender left before the end of the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request as a server hands it over.

    `signatures` holds every value of the signature's header, in order. `read` gives the next piece of the
    body, and None at its end; it may raise `CutOffError`, or what its server raises for a broken body.
    """

    method: str
    content_encoding: str | None
    content_length: int | None
    signatures: Sequence[str]
    read: Callable[[], Awaitable[bytes | None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: never a body, as nobody learns anything here."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


class WebhookHandler:
    """Answers requests: checks them, hands the body in at the door, then runs the hook.

    Args:
        accept: takes a raw body and its header, and returns the news, or raises an error of this library.
        on_event: the durable hook; only when it has run is the webhook acknowledged.
        read_timeout: seconds in which the whole body must come.

    Raises:
        ConfigurationError: if the timeout is none, or the hook is no function.
    """

    def __init__(
        self,
        accept: Callable[[bytes, str | None], Generation],
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

    async def answer(self, request: Request) -> Answer:
        """Return what a request is answered; nothing but a cancellation is raised."""
        refused = _refused(request)
        if refused is not None:
            return refused
        try:
            async with asyncio.timeout(self._read_timeout):
                body = await _body(request)
        except TimeoutError:
            return Answer(408, {"Connection": "close"})
        except Exception as error:
            log.debug("a webhook was refused: its body cannot be read (%s)", type(error).__name__)
            return Answer(400, {"Connection": "close"})
        if body is None:
            return _too_large()
        return await self._take(body, request.signatures[0])

    async def _take(self, body: bytes, header: str) -> Answer:
        try:
            update = self._accept(body, header)
        except WebhookSignatureError:
            log.debug("a webhook was refused: its signature is wrong")
            return Answer(401)
        except WebhookPayloadError as error:
            log.warning("a signed webhook was refused: %s", error.message)
            return Answer(400)
        except DoitongError as error:
            log.info("a signed webhook was put off: %s", error.message)
            return Answer(503)
        except Exception:
            log.exception("a signed webhook could not be taken")
            return Answer(503)
        return Answer(204 if await self._is_kept(update) else 503)

    async def _is_kept(self, update: Generation) -> bool:
        """Run the hook, and tell whether it went well."""
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
                # This request was cancelled, and not something of the hook's own.
                raise
            log.exception(
                "on_event failed on a webhook of job %s; the service is asked to try again", update.id
            )
            if is_from_user(error):
                # When the service was answered, as far as the loop lives on.
                raise_in_loop(error)
            return False
        return True


def _refused(request: Request) -> Answer | None:
    """Return what is wrong with a request, as far as it shows before its body is read."""
    if request.method != "POST":
        return Answer(405, {"Allow": "POST"})
    if (request.content_encoding or "identity").lower() != "identity":
        # The signature covers the raw body, and some servers undo the compression before it is seen here.
        return Answer(415)
    if request.content_length is not None and request.content_length > LARGEST_BODY:
        return _too_large()
    if len(request.signatures) != 1:
        log.debug("a webhook was refused: it has %d signatures", len(request.signatures))
        return Answer(401)
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


def _too_large() -> Answer:
    return Answer(413, {"Connection": "close"})
