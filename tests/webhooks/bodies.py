"""Webhook bodies for tests, signed without the help of the library."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

SECRET = "whsec-fox-and-hound"
DOCUMENTED: dict[str, Any] = {
    "id": "abc123xyz",
    "status": "completed",
    "url": "https://cdn.doitong.com/outputs/abc123xyz.jpg",
    "service": "flux-kontext",
    "createdAt": "2024-01-01T00:00:00Z",
    "completedAt": "2024-01-01T00:01:00Z",
    "metadata": {"duration": None, "width": 1920, "height": 1080},
}
"""wire/webhook-completed.json of the API's reference."""


def webhook_body(job_id: str = "abc123xyz", status: str = "completed", **fields: Any) -> bytes:
    """Return a body in the documented form, with a URL only if it is completed."""
    url = f"https://cdn.doitong.com/outputs/{job_id}.jpg" if status == "completed" else None
    return json.dumps({**DOCUMENTED, "id": job_id, "status": status, "url": url, **fields}).encode()


def signed(body: bytes, secret: str | bytes = SECRET) -> str:
    """Return the signature header for a body."""
    key = secret.encode() if isinstance(secret, str) else secret
    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
