"""The keyword arguments of the client's methods, typed for checkers and editors, and their checks."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from pydantic import JsonValue

from doitong_async.errors import BadRequestError, ConfigurationError


class OptionArguments(TypedDict, total=False):
    """Options of the client, which `with_options` can change for some calls.

    Keys:
        timeout: seconds to wait for a job, from its accepted submit; 600 by default.
        slot_timeout: seconds that a submit may wait for the plan or for a service that asks to wait
            (`Retry-After`); None, the default, sets no bound.
        wait_for_next_day: whether to wait when the day's jobs are used up; else `DailyLimitError`.
        request_timeout: seconds that one attempt of a submit may take; 60 by default.
        poll_timeout: seconds that one status poll may take; 10 by default.
        poll_interval: seconds between polls of a job; at least 2, the default.
        slot_expiry: seconds after which a job not known to have ended frees its slot; 600 by default.
        provider: for requests that name none; "flux-pro" by default.
        width: pixels, for pictures that give none; by default the service's own, 1024.
        height: pixels, for pictures that give none; by default the service's own, 1024.
    """

    timeout: float
    slot_timeout: float | None
    wait_for_next_day: bool
    request_timeout: float
    poll_timeout: float
    poll_interval: float
    slot_expiry: float
    provider: str
    width: int | None
    height: int | None


class RequestArguments(TypedDict, total=False):
    """The fields of `GenerateRequest` other than the prompt."""

    provider: str | None
    width: int | None
    height: int | None
    version: str | None
    quality: str | None
    type: str | None
    input: Mapping[str, JsonValue] | None
    options: Mapping[str, JsonValue] | None


def check_options(options: Any, *, taker: str, fixed: Collection[str]) -> None:
    """Reject keywords that are no options, without showing their values: a misspelt `api_key` holds the key.

    Args:
        options: the keywords as passed; emptied before an error, as a traceback shows the caller's frame too.
        taker: the name of the function they were passed to.
        fixed: the keywords that only the client itself takes.

    Raises:
        TypeError: if a keyword is unknown; the message suggests the nearest known one.
        ConfigurationError: if a keyword belongs to the client and is no option.
    """
    unknown = sorted(options.keys() - OptionArguments.__annotations__.keys())
    if not unknown:
        return
    options.clear()
    misspelt = next((name for name in unknown if name not in fixed), None)
    if misspelt is not None:
        near = difflib.get_close_matches(misspelt, [*fixed, *OptionArguments.__annotations__], 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{taker}() got an unexpected keyword argument {misspelt!r}.{hint}")
    raise ConfigurationError(
        f"with_options cannot change {', '.join(unknown)}; it changes "
        f"{', '.join(OptionArguments.__annotations__)}. Open another client for the rest."
    )


def check_fields(fields: Any, *, taker: str) -> None:
    """Reject keywords that are no fields of a request, without showing their values.

    Args:
        fields: the keywords as passed; emptied before an error, as a traceback shows the caller's frame too.
        taker: the name of the function they were passed to.

    Raises:
        TypeError: if a keyword is unknown; the message suggests the nearest known one.
    """
    unknown = sorted(fields.keys() - RequestArguments.__annotations__.keys())
    if unknown:
        fields.clear()
        near = difflib.get_close_matches(unknown[0], RequestArguments.__annotations__, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{taker}() got an unexpected keyword argument {unknown[0]!r}.{hint}")


def checked_idempotency_key(key: str | None) -> str:
    """Return the idempotency key of one job, a random one if none is given.

    Raises:
        BadRequestError: if it cannot be sent.
    """
    if key is None:
        return secrets.token_urlsafe(24)
    if not isinstance(key, str) or not key.strip() or not key.isascii() or not key.isprintable():
        raise BadRequestError(f"idempotency_key is {key!r}; expected printable ASCII characters.")
    return key
