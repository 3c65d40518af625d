"""An order: the output that a job should make, read from any documented request form."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from doitong_async.emulator.api_errors import ApiError

DEFAULT_SIDE = 1024
LONGEST_SIDE = 16_384
LONGEST = 3_600


@dataclass(frozen=True, slots=True)
class Order:
    """The content of one job; `prompt` is the image's URL when a picture is animated."""

    type: str
    provider: str
    prompt: str
    width: int = DEFAULT_SIDE
    height: int = DEFAULT_SIDE
    duration: float | None = None
    webhook_url: str | None = None


def from_generate(given: Mapping[str, Any]) -> Order:
    """Read the input of `generate`: `type`, `provider`, and the nested `input` and `options`."""
    content = _mapping(given.get("input"), "input")
    options = _mapping(given.get("options"), "options")
    return Order(
        type=_text(given, "type"),
        provider=_text(given, "provider"),
        prompt=_text(content, "text", "image"),
        width=_side(options, "width"),
        height=_side(options, "height"),
        duration=_duration(options),
        webhook_url=given.get("webhookUrl"),
    )


def from_flat(media_type: str, given: Mapping[str, Any]) -> Order:
    """Read a flat form, GraphQL's older one or the REST body: `service` and `prompt` side by side."""
    return Order(
        type=media_type,
        provider=_text(given, "service"),
        prompt=_text(given, "prompt", "text", "imageUrl"),
        width=_side(given, "width"),
        height=_side(given, "height"),
        duration=_duration(given),
        webhook_url=given.get("webhookUrl"),
    )


def _mapping(value: object, name: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ApiError("BAD_USER_INPUT", f"{name} must be an object")
    return value


def _text(given: Mapping[str, Any], *names: str) -> str:
    value = next((given[name] for name in names if given.get(name) is not None), None)
    if not isinstance(value, str) or not value.strip():
        raise ApiError("BAD_USER_INPUT", f"{' or '.join(names)} is required, and must be a text")
    return value


def _side(given: Mapping[str, Any], name: str) -> int:
    value = given.get(name)
    if value is None:
        return DEFAULT_SIDE
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LONGEST_SIDE:
        raise ApiError("BAD_USER_INPUT", f"{name} must be a whole number of pixels from 1 to {LONGEST_SIDE}")
    return value


def _duration(given: Mapping[str, Any]) -> float | None:
    value = given.get("duration")
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= LONGEST:
        raise ApiError("BAD_USER_INPUT", f"duration must be a number of seconds, above 0 and up to {LONGEST}")
    return value
