"""One gate a key: clients on one event loop that use the same key share what it allows."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from doitong_async.limits.gate import Gate
from doitong_async.limits.plan import Plan
from doitong_async.secret import Secret

_GATES: Final[dict[asyncio.AbstractEventLoop, dict[str, Gate]]] = {}


def gate_of(api_key: str, base_url: str, plan: Plan, *, day_starts_at: float = 0.0) -> Gate:
    """Return the gate of this key on the running loop.

    It is kept after its last client closed: the service has not forgotten that client's requests either.
    """
    api_key = Secret(api_key)
    # Other threads with loops of their own do the same at the same time.
    for closed in [loop for loop in list(_GATES) if loop.is_closed()]:
        _GATES.pop(closed, None)
    gates = _GATES.setdefault(asyncio.get_running_loop(), {})
    # Of the key only a digest is kept.
    name = hashlib.sha256(f"{base_url} {api_key}".encode()).hexdigest()
    for idle in [each for each, gate in gates.items() if gate.is_idle]:
        del gates[idle]
    gate = gates.get(name)
    if gate is None:
        gate = gates[name] = Gate(plan, day_starts_at=day_starts_at)
    return gate
