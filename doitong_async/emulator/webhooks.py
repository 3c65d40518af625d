"""A webhook as the service sends it: its body, its signature, where it may go, and a record of it."""

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from yarl import URL

from doitong_async.emulator.jobs import Job, iso

Outcome = Literal["taken", "refused", "unreachable", "lost", "forbidden"]

SIGNATURE = "X-Doitong-Signature"
_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True)
class Posted:
    """One try to send a webhook, or why there was none; `at` is when it began, by the event loop's clock.

    `status` is what it says of the job. `outcome` is "taken" after any 2xx, "refused" after another answer,
    "unreachable" without one; "lost" by a fault and "forbidden" by its host were never sent, as try 0.
    `http_status` is 0 without an answer, `fault` names the faults that hit it.
    """

    at: float
    job_id: str
    url: str
    status: str
    attempt: int
    outcome: Outcome
    http_status: int = 0
    fault: str | None = None


def payload_of(job: Job, outputs_url: str, *, is_outdated: bool = False) -> dict[str, object]:
    """The documented body for the end of a job, or what it would have been while the job ran."""
    fields = job.fields_at(job.ends_at, outputs_url)
    over = iso(job.created_wall + job.ends_at - job.created_at)
    return {
        "id": job.id,
        "status": "processing" if is_outdated else fields["status"],
        "url": None if is_outdated else fields["url"],
        "service": job.provider,
        "createdAt": fields["createdAt"],
        "completedAt": None if is_outdated else over,
        "metadata": fields["metadata"],
    }


def written(payload: dict[str, object]) -> bytes:
    """The bytes that are sent, and signed."""
    return json.dumps(payload).encode()


def signature(body: bytes, secret: str) -> str:
    """The value of the header, by the assumption that it covers the raw body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def address(url: object, hosts: Collection[str]) -> URL | None:
    """Where a webhook goes; None if that is no URL, or neither this machine nor one of the hosts."""
    try:
        there = URL(url) if isinstance(url, str) else URL()
    except ValueError:
        return None
    is_ours = there.scheme in _SCHEMES and there.host and (_is_here(there.host) or there.host in hosts)
    return there if is_ours else None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
