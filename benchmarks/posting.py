"""Sends signed webhooks from a process of its own: `python -m benchmarks.posting URL SECRET`.

Each line of stdin is a JSON list: seconds between two webhooks (0: as fast as they are answered), then the
ids of the jobs. It says "ready" when all are written and signed, and "done" when all are answered with 2xx.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import sys
from typing import Final
from urllib.parse import urlsplit

from benchmarks import wire

AT_ONCE: Final = 8
"""Connections, kept alive."""


def request(url: str, secret: str, job_id: str) -> bytes:
    """Return the bytes of one webhook in the documented form."""
    there = urlsplit(url)
    told = {
        "id": job_id,
        "status": "completed",
        "url": f"{wire.OUTPUTS}/{job_id}.jpg",
        "service": "flux-pro",
        "createdAt": wire.CREATED,
        "completedAt": "2026-01-01T00:01:00Z",
        "metadata": {"duration": None, "width": 1024, "height": 1024},
    }
    body = json.dumps(told).encode()
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    head = (
        f"POST {there.path or '/'} HTTP/1.1\r\nHost: {there.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Doitong-Signature: sha256={digest}\r\n\r\n"
    )
    return head.encode() + body


async def post(url: str, requests: list[bytes], pause: float) -> None:
    """Send them all; over one connection where there are pauses, else over eight at most."""
    left = iter(requests)

    async def lane() -> None:
        there = urlsplit(url)
        reader, writer = await asyncio.open_connection(there.hostname, there.port)
        for each in left:
            writer.write(each)
            status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
            assert status == b"204", status
            await asyncio.sleep(pause)
        writer.close()

    await asyncio.gather(*(lane() for _ in range(1 if pause else min(AT_ONCE, len(requests)))))


def main() -> None:
    """Do what each line of stdin asks for, until there are no more."""
    url, secret = sys.argv[1:]
    for line in sys.stdin:
        pause, ids = json.loads(line)
        requests = [request(url, secret, job_id) for job_id in ids]
        _say("ready")
        sys.stdin.readline()
        asyncio.run(post(url, requests, pause))
        _say("done")


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
