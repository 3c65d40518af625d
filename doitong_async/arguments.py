"""The keyword arguments of the client's methods, as type checkers and editors see them, and their checks."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Collection, Mapping
from typing import Any, TypedDict

from pydantic import JsonValue

from doitong_async.errors import BadRequestError, ConfigurationError


class OptionArguments(TypedDict, total=False):
    """What may be given to the client, and changed for some calls by `with_options`.

    Keys:
        timeout: seconds that the wait for a job lasts, from its accepted submit; 600 by default.
        slot_timeout: seconds to wait for the plan before a submit goes, or for a service that asks to wait
            (`Retry-After`); None, the default: as it takes.
        wait_for_next_day: whether to wait where the jobs of the day are used up; else `DailyLimitError`.
        request_timeout: seconds that one try of a submit may take; 60 by default.
        poll_timeout: seconds that one status request may take; 10 by default.
        poll_interval: seconds between looks at a job, 2 at least and by default.
        lease_age: seconds after which a job that is not seen to end frees its slot; 600 by default.
        provider: for requests that name none; "flux-pro" by default.
        width: pixels, for pictures that name none; by default the service's own, 1024.
        height: pixels, for pictures that name none; by default the service's own, 1024.
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
    """Refuse keywords that are no options, without what was given for them: a misspelt `api_key` is a key.

    Args:
        options: the keywords as they came; they are emptied first, as their owner's frame is shown too.
        taker: what they were given to.
        fixed: the keywords that only the client itself takes.

    Raises:
        TypeError: if nobody knows one of them; it names the nearest that is known.
        ConfigurationError: if one is the client's, and no option.
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
    """Refuse keywords that are no fields of a request, without what was given for them.

    Args:
        fields: the keywords as they came; they are emptied first, as their owner's frame is shown too.
        taker: what they were given to.

    Raises:
        TypeError: if one is unknown; it names the nearest that is known.
    """
    unknown = sorted(fields.keys() - RequestArguments.__annotations__.keys())
    if unknown:
        fields.clear()
        near = difflib.get_close_matches(unknown[0], RequestArguments.__annotations__, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TypeError(f"{taker}() got an unexpected keyword argument {unknown[0]!r}.{hint}")


def checked_idempotency_key(key: str | None) -> str:
    """Return the key of one job; a random one, if there is none.

    Raises:
        BadRequestError: if it cannot be sent.
    """
    if key is None:
        return secrets.token_urlsafe(24)
    if not isinstance(key, str) or not key.strip() or not key.isascii() or not key.isprintable():
        raise BadRequestError(f"idempotency_key is {key!r}; expected printable ASCII characters.")
    return key
