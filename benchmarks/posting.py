"""Signs and sends webhooks in the documented form."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from urllib.parse import urlsplit

from benchmarks import wire


async def post(url: str, secret: str, job_id: str) -> None:
    """Send the webhook of a completed job."""
    there = urlsplit(url)
    fields = {
        "id": job_id,
        "status": "completed",
        "url": f"{wire.OUTPUTS}/{job_id}.jpg",
        "service": "flux-pro",
        "createdAt": wire.CREATED,
        "completedAt": "2026-01-01T00:01:00Z",
        "metadata": {"duration": None, "width": 1024, "height": 1024},
    }
    body = json.dumps(fields).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {there.path or '/'} HTTP/1.1\r\nHost: {there.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Doitong-Signature: sha256={digest}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection(there.hostname, there.port)
    writer.write(head.encode() + body)
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    assert status == b"204", status
    writer.close()
