"""What goes into the emulated API and what comes out, as values: Call, Errand, Reply."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.world import Kind


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; `now` is the event loop's clock, `wall` the Unix epoch, both in seconds."""

    method: str
    path: str
    now: float
    wall: float
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """A header by its name in any case."""
        name = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == name), None)

    @property
    def key(self) -> str | None:
        """The API key, from either of the documented headers."""
        scheme, _, token = (self.header("Authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else self.header("X-API-Key")

    def json(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        try:
            body = json.loads(self.body)
        except ValueError:
            raise ApiError("BAD_USER_INPUT", "The body is not JSON") from None
        if not isinstance(body, dict):
            raise ApiError("BAD_USER_INPUT", "The body is not a JSON object")
        return body


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer; `ids` are the jobs it made or was asked about, the rest is what faults make of it."""

    status: int
    body: Mapping[str, Any]
    ids: tuple[str, ...] = ()
    content_type: str = "application/json"
    text: str | None = None
    """Sent instead of the body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside the rate limit's, or instead of them."""
    by_gateway: bool = False
    """The service did not send it: it lacks the rate limit's headers."""
    delay: float = 0.0
    cut: bool = False
    """Not sent at all: the connection is closed."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A call that was read and not yet done: its kind is known before it is admitted."""

    kind: Kind
    run: Callable[[str], Reply]
    """Takes the API key, once it is admitted."""


def refusal(refused: ApiError, status: int | None = None) -> Reply:
    """The reply to a call that was refused as a whole."""
    return Reply(status or refused.status, refused.body())


def fingerprint(*parts: object) -> str:
    """One text for equal JSON values, in whatever order their names stand."""
    return json.dumps(parts, sort_keys=True)
