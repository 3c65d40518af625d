"""One rate limiter per key: clients on one event loop that use the same key share its limits."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from doitong_async.limits.limiter import RateLimiter
from doitong_async.limits.plan import Plan
from doitong_async.secret import Secret

_LIMITERS: Final[dict[asyncio.AbstractEventLoop, dict[str, RateLimiter]]] = {}


def limiter_of(api_key: str, base_url: str, plan: Plan, *, day_starts_at: float = 0.0) -> RateLimiter:
    """Return the rate limiter of this key on the running loop.

    It outlives its last client: the service has not forgotten that client's requests either.
    """
    api_key = Secret(api_key)
    # Threads with loops of their own may do the same at the same time.
    for closed in [loop for loop in list(_LIMITERS) if loop.is_closed()]:
        _LIMITERS.pop(closed, None)
    registry = _LIMITERS.setdefault(asyncio.get_running_loop(), {})
    # Keep only a digest of the key.
    name = hashlib.sha256(f"{base_url} {api_key}".encode()).hexdigest()
    for idle in [each for each, limiter in registry.items() if limiter.is_idle]:
        del registry[idle]
    limiter = registry.get(name)
    if limiter is None:
        limiter = registry[name] = RateLimiter(plan, day_starts_at=day_starts_at)
    return limiter
