"""Changes a reply as a fault says, before it is sent."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from doitong_async.emulator.api_errors import (
    BROKEN,
    TOO_MANY_A_DAY,
    TOO_MANY_A_MINUTE,
    TOO_MANY_AT_ONCE,
    UNKNOWN_KEY,
    ApiError,
)
from doitong_async.emulator.calls import Reply, error_reply
from doitong_async.emulator.faults import Fault

GATEWAY_PAGE = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    "<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
SIGN_IN_PAGE = "<html><body>Please sign in</body></html>"
_ERRORS = {
    "401": UNKNOWN_KEY,
    "429-minute": TOO_MANY_A_MINUTE,
    "429-concurrency": TOO_MANY_AT_ONCE,
    "429-day": TOO_MANY_A_DAY,
}
_NULLABLE = ("url", "videoUrl", "audioUrl", "metadata", "duration", "webhookUrl", "width", "height")


def imitated_error(fault: Fault) -> ApiError | None:
    """Return the error that a fault imitates, if any."""
    words = _ERRORS.get(fault.what)
    return ApiError(*words) if words else None


def is_left_undone(fault: Fault) -> bool:
    """Whether the fault keeps the request from being executed."""
    if fault.what in ("500", "502", "null"):
        return not fault.handled
    return fault.what in ("cut-before", "html")


def broken(reply: Reply, fault: Fault, *, graphql: bool) -> Reply:
    """Return the reply as a fault leaves it."""
    match fault.what:
        case "500":
            return replace(error_reply(ApiError(*BROKEN)), ids=reply.ids)
        case "502":
            return replace(reply, status=502, content_type="text/html", text=GATEWAY_PAGE, by_gateway=True)
        case "html":
            return replace(reply, status=200, content_type="text/html", text=SIGN_IN_PAGE, by_gateway=True)
        case "cut-before" | "cut-after":
            return replace(reply, cut=True)
        case "partial" if graphql:
            return _first_job(reply, _with_null_fields)
        case "partial":
            nothing = dict.fromkeys(_nullable(reply.body))
            return replace(reply, body={**reply.body, **nothing})
        case "null" if graphql:
            return replace(reply, status=200, body={"data": None, **ApiError(*BROKEN).body()})
        case "null-alias" if graphql:
            return _first_job(reply, lambda path, _: (None, [_error(path)]))
        case "null" | "null-alias":
            # A REST answer cannot hold an error beside its data.
            return replace(reply, status=200, text="null")
    return reply


_Change = Callable[[str, Mapping[str, Any]], tuple[Any, list[dict[str, Any]]]]


def _first_job(reply: Reply, change: _Change) -> Reply:
    """Return a GraphQL reply with its first job changed, if there is one, and the resulting errors."""
    data = reply.body.get("data") or {}
    for alias, value in data.items():
        if isinstance(value, Mapping):
            changed, errors = change(alias, value)
            errors = [*reply.body.get("errors", ()), *errors]
            return replace(reply, body={"data": {**data, alias: changed}, "errors": errors})
    return reply


def _with_null_fields(alias: str, job: Mapping[str, Any]) -> tuple[Any, list[dict[str, Any]]]:
    names = _nullable(job)
    return {**job, **dict.fromkeys(names)}, [_error(alias, name) for name in names]


def _nullable(job: Mapping[str, Any]) -> list[str]:
    return [name for name in _NULLABLE if name in job]


def _error(*path: str) -> dict[str, Any]:
    (error,) = ApiError(*BROKEN).body()["errors"]
    return {**error, "path": list(path)}
