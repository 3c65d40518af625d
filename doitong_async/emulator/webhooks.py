"""A webhook as the service sends it: its body, its signature, its URL, and a record of it."""

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
    """One attempt to send a webhook, or why there was none; `at` is its start on the event loop's clock.

    `status` is the job's status in it. `outcome` is "taken" after any 2xx, "refused" after another answer,
    "unreachable" without one; "lost" by a fault and "forbidden" by its host were never sent and count as
    attempt 0. `http_status` is 0 without an answer, `fault` names its faults.
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
    """Return the documented body for the end of a job, or its body while the job ran."""
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
    """Return the bytes that are sent and signed."""
    return json.dumps(payload).encode()


def signature(body: bytes, secret: str) -> str:
    """Return the value of the header, assuming that it covers the raw body."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def address(url: object, hosts: Collection[str]) -> URL | None:
    """Return a webhook's URL; None if it is invalid, or neither on this machine nor on one of the hosts."""
    try:
        parsed = URL(url) if isinstance(url, str) else URL()
    except ValueError:
        return None
    is_allowed = parsed.scheme in _SCHEMES and parsed.host and (_is_here(parsed.host) or parsed.host in hosts)
    return parsed if is_allowed else None


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
