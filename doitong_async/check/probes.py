"""Sends the free requests of a check, and the events to one's own receiver."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import aiohttp
from yarl import URL

from doitong_async.check.connection import was_sent
from doitong_async.check.observed import Observed, Probed, Reached, ReceiverSeen
from doitong_async.check.schema import Needed, Polled, fits, needed, polled, schema_of, suggested
from doitong_async.clock import wall_time
from doitong_async.errors import RateLimitError
from doitong_async.limits.permits import Priority
from doitong_async.runtime import Runtime
from doitong_async.secret import Secret
from doitong_async.settings import Settings
from doitong_async.transport.calls import Transport
from doitong_async.transport.failure import Failure, FailureKind
from doitong_async.transport.forms import Form, graphql_body
from doitong_async.transport.introspection import document_with_input
from doitong_async.transport.status import Get, Message, StatusOperation, StatusQuery, poll_message
from doitong_async.transport.wire import Answer
from doitong_async.webhooks.signature import SIGNATURE_HEADER, checked_secrets, sign

WITHIN: Final = 10.0
"""Seconds that one request may take: our choice."""
STRANGER: Final = "made-up-by-doitong-check"
"""A key that the service cannot have issued."""
_NOWHERE: Final = "/v1/doitong-check/"
"""A path at which no API has anything."""
_UNAUTHORIZED: Final = 401


class CutShortError(Exception):
    """No further request would tell more; the text says why."""


class Probes:
    """Sends the free requests, at most six, and stops where more would tell nothing.

    Args:
        runtime: has the transport, the session and the rate limiter.
        slot_timeout: seconds that a request may wait for the plan; None: without limit.
    """

    def __init__(self, runtime: Runtime, *, slot_timeout: float | None) -> None:
        self._runtime = runtime
        self._settings = runtime.settings
        self._slot_timeout = slot_timeout
        self._loop = asyncio.get_running_loop()
        self._seen = Observed(form=self._settings.form, single_id=ids_for(self._settings.status_query)[0])
        self.sent: int = 0
        """How many requests were sent."""

    async def observe(self) -> Observed:
        """Send the requests, and return what they brought."""
        try:
            poll = poll_message(self._settings.status_query, [self._seen.single_id])
            await self._ask(poll)
            await self._ask_other_protocol()
        except CutShortError as why:
            self._note(cut_short=str(why))
        except RateLimitError as error:
            self._note(cut_short=error.message)
        return self._seen

    async def _ask(self, poll: Message) -> None:
        """Ask as the client asks, with the user's key and with one that we made up."""
        single = await self._send(poll)
        self._note(single=single, single_path=poll.path if isinstance(poll, Get) else "")
        self._check_worth_going_on()
        if single.is_refused and single.answer is not None and single.answer.status == _UNAUTHORIZED:
            self._note(skipped="the key is refused")
            return
        needs = needed(self._settings.form)
        if needs is None:
            await self._ask_rest_again(poll)
        else:
            await self._ask_schema(single, needs)
        form, made_up = self._settings.form, Secret(STRANGER)
        self._note(stranger=await self._send_over(form, made_up, poll))
        self._check_worth_going_on()

    async def _ask_schema(self, single: Probed, needs: Needed) -> None:
        self._note(between=await self._send(graphql_body(document_with_input(needs.input_type), {})))
        self._check_worth_going_on()
        operation = self._operation_of_pair(single, needs)
        if operation is None:
            self._note(skipped="the right status operation is not known")
            return
        ids = ids_for(operation)
        self._note(second=await self._send(poll_message(operation, ids)), second_ids=ids)
        self._check_worth_going_on()

    async def _ask_rest_again(self, poll: Message) -> None:
        elsewhere = f"{_NOWHERE}{uuid.uuid4()}"
        self._note(between=await self._send(Get(elsewhere)), elsewhere=elsewhere)
        self._check_worth_going_on()
        self._note(second=await self._send(poll), second_ids=[self._seen.single_id])
        self._check_worth_going_on()

    async def _ask_other_protocol(self) -> None:
        """Poll where the key goes into the other header."""
        settings = self._settings
        form, query = Form.REST, cast(StatusQuery, settings.status_path)
        if settings.form is Form.REST:
            form, query = Form.GRAPHQL, settings.status_operation
        poll = poll_message(query, ids_for(query)[:1])
        other = await self._send_over(form, settings.api_key.reveal(), poll)
        self._note(other=other)
        self._check_worth_going_on()
        if other.answer is not None and not other.is_refused:
            self._note(other_stranger=await self._send_over(form, Secret(STRANGER), poll))

    def _operation_of_pair(self, single: Probed, needs: Needed) -> StatusOperation | None:
        """Return the operation that is set, or the one that the schema has instead, if that is clear."""
        asked, schema = self._settings.status_operation, schema_of(self._seen)
        is_known = schema is not None and fits(asked, schema, needs.mutation)
        if is_known or polled(single, self._seen.single_id) is Polled.WORKS:
            return asked
        found = suggested(asked, schema, needs.mutation)
        return found[0] if len(found) == 1 else None

    def _note(self, **brought: Any) -> None:
        """Keep what a request brought."""
        self._seen = replace(self._seen, **brought)

    def _check_worth_going_on(self) -> None:
        """Check that more requests would tell more.

        Raises:
            CutShortError: if they would not.
        """
        seen = self._seen
        mine = [each for each in (seen.single, seen.between, seen.second, seen.other) if each is not None]
        if any(_is_limited(each) for each in mine):
            raise CutShortError(
                "the service says that a limit is reached (HTTP 429); check again in a minute"
            )
        if seen.single is not None and seen.single.answer is None:
            why = "the first request had no answer" if was_sent(seen.single) else "no request got through"
            raise CutShortError(why)
        if not seen.is_of_api:
            raise CutShortError("what answers there is not the API")

    async def _send_over(self, form: Form, key: Secret, message: Message) -> Probed:
        """Send a request with a key in the header of a form."""
        transport = self._runtime.new_transport(form, key)
        await transport.open()
        try:
            return await self._send(message, transport, is_mine=key != STRANGER)
        finally:
            await transport.close()

    async def _send(
        self, message: Message, transport: Transport | None = None, *, is_mine: bool = True
    ) -> Probed:
        """Send a request as the client does, or over another transport; `is_mine` if with the user's key."""
        runtime = self._runtime
        with await runtime.admission.permit(
            Priority.POLL, timeout=self._slot_timeout, is_asked=True
        ) as permit:
            permit.sends()
            begun = self._loop.time()
            came = await (transport or runtime.transport).send(message, timeout=WITHIN)
            seconds = self._loop.time() - begun
            if isinstance(came, Failure) and came.kind is FailureKind.NOT_SENT:
                permit.unsent()
            else:
                self.sent += 1
            if isinstance(came, Answer) and is_mine:
                runtime.admission.observe_headers(came.headers, permit, was_accepted=came.status < 400)
        probed = Probed(came, wall_time(), seconds)
        if is_mine and (failure := probed.failure) is not None and _is_limited(probed):
            runtime.admission.limiter.rate_limited(failure, is_submit=False)
        return probed


async def send_events(session: aiohttp.ClientSession, settings: Settings) -> ReceiverSeen | None:
    """Send the receiver at `webhook_url` an event with a wrong signature, and then a signed one.

    Both are about a job that cannot exist and is still running: no receiver has anything to do for it.
    """
    if settings.webhook_url is None or settings.webhook_secret is None:
        return None
    event = {
        "id": f"doitong-check-{uuid.uuid4()}",
        "status": "processing",
        "url": None,
        "service": "doitong-check",
    }
    body = json.dumps(event).encode()
    secret, *_ = checked_secrets(settings.webhook_secret.reveal())

    async def send(key: str | bytes) -> Reached:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": settings.user_agent,
            SIGNATURE_HEADER: sign(body, key),
        }
        return await _post(session, settings, headers, body)

    forged = await send(secrets.token_urlsafe())
    if forged.status != _UNAUTHORIZED:
        return ReceiverSeen(forged=forged)
    signed = await send(secret)
    if signed.status is None:
        # The receiver may close the connection of the first event while the second one is on its way.
        signed = await send(secret)
    return ReceiverSeen(forged=forged, signed=signed)


async def _post(
    session: aiohttp.ClientSession, settings: Settings, headers: Mapping[str, str], body: bytes
) -> Reached:
    """Send an event to the receiver, following no redirect, and return what came of it."""
    url = URL(settings.webhook_url or "", encoded=True)
    more: dict[str, Any] = {"allow_redirects": False, "raise_for_status": False, "ssl": settings.ssl}
    try:
        async with asyncio.timeout(WITHIN), session.post(url, data=body, headers=headers, **more) as response:
            return Reached(response.status, response.headers.get("Location"))
    except TimeoutError:
        return Reached(None, reason=f"no answer in {WITHIN:.0f} s")
    except Exception as error:
        # A hook of the user's session may raise anything.
        return Reached(None, reason=str(getattr(error, "os_error", None) or type(error).__name__))


def ids_for(query: StatusQuery) -> Sequence[str]:
    """Return two job ids that cannot exist, in a form that the status query takes."""
    made_up = [str(uuid.uuid4()), str(uuid.uuid4())]
    return made_up if query.value_of(made_up[0]) is not None else ["-1", "-2"]


def _is_limited(probed: Probed) -> bool:
    return probed.failure is not None and probed.failure.kind is FailureKind.RATE_LIMIT
