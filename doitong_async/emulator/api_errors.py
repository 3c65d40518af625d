"""The service's errors: a code, an HTTP status, and the documented body."""

from typing import Any

STATUSES = {
    "BAD_USER_INPUT": 400,
    "UNAUTHENTICATED": 401,
    "INSUFFICIENT_CREDITS": 402,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "NOT_ACCEPTABLE": 406,
    "IDEMPOTENCY_CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMITED": 429,
    "CONCURRENCY_LIMITED": 429,
    "DAILY_LIMIT_EXCEEDED": 429,
    "INTERNAL_SERVER_ERROR": 500,
}
"""Of these codes only INSUFFICIENT_CREDITS is documented; the others are the emulator's own."""


UNKNOWN_KEY = ("UNAUTHENTICATED", "Missing or invalid API key")
TOO_MANY_A_MINUTE = ("RATE_LIMITED", "Rate limit exceeded: too many requests per minute")
TOO_MANY_AT_ONCE = ("CONCURRENCY_LIMITED", "Rate limit exceeded: too many concurrent jobs")
TOO_MANY_A_DAY = ("DAILY_LIMIT_EXCEEDED", "Rate limit exceeded: too many jobs today")
BROKEN = ("INTERNAL_SERVER_ERROR", "Internal server error, please retry")


class ApiError(Exception):
    """An error of the service; graphql-core copies `extensions` into the error it reports."""

    def __init__(self, code: str, message: str, **more: int) -> None:
        super().__init__(message)
        self.code = code
        self.status: int = STATUSES[code]
        self.extensions: dict[str, Any] = {"code": code, **more}

    def body(self) -> dict[str, Any]:
        """Return the documented error body."""
        return {"errors": [{"message": str(self), "extensions": self.extensions}]}
