"""The values that enter and leave the emulated API: Call, Operation, Reply."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from doitong_async.emulator.api_errors import ApiError
from doitong_async.emulator.traffic import Kind


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
        """Return a header by its case-insensitive name."""
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
    """One HTTP answer; `ids` are the jobs it created or was asked for, faults set the rest."""

    status: int
    body: Mapping[str, Any]
    ids: tuple[str, ...] = ()
    content_type: str = "application/json"
    text: str | None = None
    """Sent instead of the body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to the rate-limit headers, or replacing them."""
    by_gateway: bool = False
    """Whether a gateway sent it, so that it lacks the rate-limit headers."""
    delay: float = 0.0
    cut: bool = False
    """Not sent at all: the connection is closed."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A call that was read but not executed: its kind is known before it is admitted."""

    kind: Kind
    run: Callable[[str], Reply]
    """Takes the API key of the admitted call."""


def error_reply(error: ApiError, status: int | None = None) -> Reply:
    """Return the reply to a call that failed as a whole."""
    return Reply(status or error.status, error.body())


def fingerprint(*parts: object) -> str:
    """Return one text for equal JSON values, whatever the order of their names."""
    return json.dumps(parts, sort_keys=True)
