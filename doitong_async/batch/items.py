"""Turns what a user gives for a batch item into a request."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from doitong_async.errors import BadRequestError
from doitong_async.types import GenerateRequest

FIELDS: Final = (*(each.name for each in fields(GenerateRequest)), "key")
"""Keys that a mapping may have: the fields of a request, and the user's item key."""
LONGEST_KEY: Final = 200
"""Characters."""


def read_item(given: object) -> tuple[str | None, GenerateRequest]:
    """Return the user's key of an item, if any, and its request.

    Args:
        given: a prompt, a mapping with `key` and the fields of `GenerateRequest`, or a `GenerateRequest`.

    Raises:
        BadRequestError: if the item is invalid.
    """
    if isinstance(given, GenerateRequest):
        return None, given
    if isinstance(given, str):
        return None, GenerateRequest(prompt=given)
    if not isinstance(given, Mapping):
        raise BadRequestError(
            f"An item is a {type(given).__name__}; expected a prompt, a mapping or a GenerateRequest."
        )
    for name in given:
        if name not in FIELDS:
            raise BadRequestError(unknown_field(name))
    more: dict[str, Any] = {name: value for name, value in given.items() if name != "key"}
    return _checked_key(given.get("key")), GenerateRequest(**more)


def unknown_field(name: object, *, what: str = "field") -> str:
    """Return the message about an unknown name, with the nearest known one.

    Args:
        name: the unknown name.
        what: what it names, such as a field or a column.
    """
    near = difflib.get_close_matches(str(name).strip().lower(), FIELDS, 1)
    advice = f"did you mean {near[0]!r}?" if near else f"expected some of {', '.join(FIELDS)}."
    return f"There is no {what} {name!r}; {advice}"


def _checked_key(key: object) -> str | None:
    if key is None:
        return None
    if not isinstance(key, str) or not key.strip() or not key.isprintable() or len(key) > LONGEST_KEY:
        shown = (
            f"{key[:40]!r}… ({len(key):,} characters)"
            if isinstance(key, str) and len(key) > 60
            else repr(key)
        )
        raise BadRequestError(
            f"key is {shown}; expected a printable text, not blank, of at most {LONGEST_KEY} characters."
        )
    return key
