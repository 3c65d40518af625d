"""Says what is wrong with a row of a ledger that somebody edited, or that is damaged.

SQLite stores any type in any column, and a row may be edited by hand. So every row that is read passes
through `damage_of`, which names what cannot be true: a job without its id could be paid twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final

from doitong_async.batch.item import Glimpse, ItemRecord, ItemState

STATES: Final = frozenset(str(state) for state in ItemState if state is state.recorded)
"""The states that a ledger can have."""
_LATEST: Final = 1e11
"""Epoch seconds, in the year 5138: a time after it is none."""
_TEXTS: Final = ("digest", "request")
_OPTIONAL_TEXTS: Final = ("idempotency_key", "job_id", "status", "url", "error", "reason", "sha256", "body")
_TIMES: Final = ("intended_at", "accepted_at", "ended_at")
_CREDITS: Final = ("reserved", "cost")
_HAS_JOB: Final = (ItemState.SUBMITTED, ItemState.MISSING, ItemState.DONE)
_NEEDED: Final[Mapping[ItemState, tuple[str, ...]]] = {
    ItemState.INTENT: ("idempotency_key", "intended_at"),
    **dict.fromkeys(_HAS_JOB, ("idempotency_key", "job_id")),
}
"""What a row must have in a state."""


def damage_of(record: ItemRecord) -> str | None:
    """Return what is wrong with a record, in words; None if it is sound.

    The text of its request is checked where it is read: `ItemRecord.asked`.
    """
    if not _is_text(record.key):
        return f"its key is {record.key!r}"
    if record.state not in STATES:
        return f"its state is {record.state!r}"
    state = ItemState(record.state)
    checks = (
        (_TEXTS, _is_text),
        (_OPTIONAL_TEXTS, lambda value: value is None or isinstance(value, str)),
        (_TIMES, lambda value: value is None or _is_amount(value, most=_LATEST)),
        (_CREDITS, lambda value: value is None or _is_amount(value)),
        (("earlier_cost",), _is_amount),
        (("attempt",), lambda value: _is_count(value) and value >= 1),
        (("length",), lambda value: value is None or _is_count(value)),
        (("file",), _is_file_name),
        (("body",), lambda value: value is None or _is_object(value)),
        (_NEEDED.get(state, ()), lambda value: value not in (None, "")),
    )
    for names, is_sound in checks:
        for name in names:
            if not is_sound(value := getattr(record, name)):
                return f"its {name} is {value!r:.100}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_amount(value: object, *, most: float = math.inf) -> bool:
    return isinstance(value, int | float) and 0 <= value <= most and math.isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and value >= 0


def _is_object(value: object) -> bool:
    """Whether a text is a JSON object, as every body is that was sent."""
    try:
        return isinstance(json.loads(str(value)), dict)
    except (ValueError, RecursionError):
        return False


def _is_file_name(value: object) -> bool:
    """Whether a file is in the output folder: another path could be anybody's."""
    return value is None or (_is_text(value) and PurePath(str(value)).name == value)


def seems_sound(done: Glimpse) -> bool:
    """Whether what was glimpsed of a finished item can be true; if not, `damage_of` says why."""
    cost, file = done.cost, done.file
    return (
        type(done.job_id) is str
        and done.job_id != ""
        and type(done.digest) is str
        and isinstance(done.url, str | None)
        and isinstance(done.length, int | None)
        and (file is None or (type(file) is str and "/" not in file))
        and (cost is None or (isinstance(cost, int | float) and 0 <= cost < math.inf))
    )
