"""Sends webhooks when jobs end, retries until one is accepted, and applies faults."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from yarl import URL

from doitong_async.emulator.faults import Fault, What
from doitong_async.emulator.jobs import Job
from doitong_async.emulator.script import Faults
from doitong_async.emulator.webhooks import (
    SIGNATURE,
    Outcome,
    Posted,
    address,
    payload_of,
    signature,
    written,
)

_FIRST_PAUSE = 1.0
_KEPT = 100_000
_TIMEOUT = ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class _Webhook:
    """The webhook of one job: its URL and its faults."""

    job: Job
    url: URL | None
    faults: Mapping[What, Fault]

    @property
    def due(self) -> float:
        return self.job.ends_at + (self.faults["late"].seconds if "late" in self.faults else 0.0)

    @property
    def down_for(self) -> int:
        return self.faults["down"].attempts if "down" in self.faults else 0


class Sender:
    """Sends a webhook for each job with a `webhookUrl`; without a secret it sends none."""

    def __init__(
        self,
        faults: Faults,
        outputs_url: Callable[[], str],
        *,
        secret: str | None,
        attempts: int,
        hosts: Collection[str],
        speed: float,
    ) -> None:
        if secret == "" or attempts < 1:
            raise ValueError("webhook_secret must not be empty, and webhook_attempts must be at least 1")
        self.posted: deque[Posted] = deque(maxlen=_KEPT)
        self._faults = faults
        self._outputs_url = outputs_url
        self._secret = secret
        self._attempts = attempts
        self._hosts = hosts
        self._speed = speed
        self._tasks: set[asyncio.Task[None]] = set()
        self._overtaken: set[asyncio.Future[None]] = set()
        self._session: ClientSession | None = None

    async def send(self, jobs: Iterable[Job]) -> None:
        """Schedule the webhooks of new jobs, and wait for those that must be early."""
        early = []
        for job in jobs:
            if self._secret is None or not job.order.webhook_url:
                continue
            faults = {fault.what: fault for fault in self._faults.of_webhook()}
            webhook = _Webhook(job, address(job.order.webhook_url, self._hosts), faults)
            if math.isinf(webhook.due):
                continue
            task = asyncio.create_task(self._deliver_all(webhook, self._secret), name="emulator webhook")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if "early" in faults:
                early.append((task, faults["early"].seconds))
        for task, seconds in early:
            await asyncio.wait([task], timeout=_finite(seconds))

    async def end(self) -> None:
        """Stop sending, and close what is open."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _deliver_all(self, webhook: _Webhook, secret: str) -> None:
        """Deliver one job's webhook, from the end of the job to the last attempt."""
        await _until(webhook.due)
        if "overtaken" in webhook.faults:
            await self._wait_for_another(webhook.faults["overtaken"].seconds)
        payload = payload_of(webhook.job, self._outputs_url())
        if webhook.url is None or "lost" in webhook.faults:
            self._record(webhook, payload, "forbidden" if webhook.url is None else "lost")
            return
        if "forged" in webhook.faults:
            # Keep the type of the secret: a class that masks itself must mask what is derived from it.
            secret = type(secret)(f"not {secret}")
        for _ in range(2 if "doubled" in webhook.faults else 1):
            await self._deliver(webhook, webhook.url, payload, secret)
        if "outdated" in webhook.faults:
            outdated = payload_of(webhook.job, self._outputs_url(), is_outdated=True)
            await self._deliver(webhook, webhook.url, outdated, secret)
        for waiting in self._overtaken:
            if not waiting.done():
                waiting.set_result(None)

    async def _wait_for_another(self, seconds: float) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._overtaken.add(waiting)
        try:
            await asyncio.wait([waiting], timeout=_finite(seconds))
        finally:
            self._overtaken.discard(waiting)

    async def _deliver(self, webhook: _Webhook, url: URL, payload: dict[str, object], secret: str) -> None:
        """Retry until the webhook is accepted, with the backoff that the documentation uses for retries."""
        body = written(payload)
        headers = {"Content-Type": "application/json", SIGNATURE: signature(body, secret)}
        for attempt in range(1, self._attempts + 1):
            if attempt > 1:
                await asyncio.sleep(_FIRST_PAUSE * 2 ** (attempt - 2) / self._speed)
            at = asyncio.get_running_loop().time()
            http_status = 0 if attempt <= webhook.down_for else await self._post(url, body, headers)
            is_accepted = 200 <= http_status < 300
            outcome: Outcome = "taken" if is_accepted else "refused" if http_status else "unreachable"
            self._record(webhook, payload, outcome, at=at, attempt=attempt, http_status=http_status)
            if is_accepted:
                return

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status of the answer, or 0 if there was none."""
        if self._session is None:
            # One connection each: a kept one may close between two posts, when no test expects it.
            connector = TCPConnector(force_close=True, limit=0)
            self._session = ClientSession(connector=connector, cookie_jar=DummyCookieJar(), timeout=_TIMEOUT)
        # A redirect would lead to a host that `address` has not checked.
        post = self._session.post(url, data=body, headers=headers, allow_redirects=False)
        try:
            async with post as response:
                return response.status
        except (ClientError, OSError, TimeoutError):
            return 0

    def _record(
        self,
        webhook: _Webhook,
        payload: Mapping[str, object],
        outcome: Outcome,
        *,
        at: float | None = None,
        attempt: int = 0,
        http_status: int = 0,
    ) -> None:
        self.posted.append(
            Posted(
                at=asyncio.get_running_loop().time() if at is None else at,
                job_id=webhook.job.id,
                url=str(webhook.job.order.webhook_url),
                status=str(payload["status"]),
                attempt=attempt,
                outcome=outcome,
                http_status=http_status,
                fault="; ".join(map(str, webhook.faults.values())) or None,
            )
        )


async def _until(moment: float) -> None:
    """Wait until a time of the loop's clock; `sleep` might end a rounding error early."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(moment):
            await asyncio.get_running_loop().create_future()


def _finite(seconds: float) -> float | None:
    return None if math.isinf(seconds) else seconds
