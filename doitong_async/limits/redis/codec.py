"""The shared state of a key as text: JSON that holds no key, secret, prompt or header."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import fields
from typing import Any, Final

from doitong_async.limits.facts import JobFacts, Sight
from doitong_async.limits.plan import Plan
from doitong_async.limits.redis.shared import (
    Phase,
    Process,
    SharedKey,
    SharedPermit,
    SharedSlot,
    Stated,
)
from doitong_async.limits.users import KeyUser
from doitong_async.transport.failure import Failure, FailureKind

FORMAT: Final = 1
"""Of the text; to be raised with each change of what it holds."""


class AnotherFormatError(Exception):
    """The text was written by another version of this library."""


class DamagedError(Exception):
    """The text is no state of a key."""


def dumped(key: SharedKey) -> str:
    """Return the state as text."""
    processes = {
        name: [_row(process, "seen", "slot_tag", "submit_tag"), _stated(process.stated)]
        for name, process in key.processes.items()
    }
    value = {
        "format": FORMAT,
        "processes": processes,
        "slots": {name: [*_row(slot)[:-1], slot.job and _row(slot.job)] for name, slot in key.slots.items()},
        "permits": {name: _row(permit) for name, permit in key.permits.items()},
        "unmatched": {name: [until, _row(sight)] for name, (until, sight) in key.unmatched.items()},
        **{name: getattr(key, name) for name in _PLAIN},
        **{name: _packed(getattr(key, name)) for name in _PARTS},
    }
    return json.dumps(value, separators=(",", ":"))


def loaded(text: str) -> SharedKey:
    """Return the state from text.

    Raises:
        AnotherFormatError: if another version of this library wrote it.
        DamagedError: if it is none.
    """
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise AnotherFormatError
        return _key_of(value)
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError from error


def _key_of(value: dict[str, Any]) -> SharedKey:
    key = SharedKey(Plan.FREE, 0.0, 0.0)
    for name, (row, stated) in value["processes"].items():
        key.processes[name] = Process(_of_stated(stated), *row)
    for name, (owner, phase, until, doubt, is_counted, job) in value["slots"].items():
        facts = None if job is None else JobFacts(*[*job[:-1], _pair(job[-1])])
        key.slots[name] = SharedSlot(owner, Phase(phase), until, doubt, is_counted, facts)
    key.permits = {name: SharedPermit(*row) for name, row in value["permits"].items()}
    for name, (until, row) in value["unmatched"].items():
        key.unmatched[name] = until, Sight(*[*row[:-1], _pair(row[-1])])
    for name in _PLAIN:
        setattr(key, name, value[name])
    for name in _PARTS:
        _unpack(getattr(key, name), value[name])
    return key


_PLAIN: Final = (
    "granted",
    "poller",
    "lost",
    "reported",
    "restored_from",
    "restoring",
    "served_slot",
    "served_submit",
)
_PARTS: Final = ("rate", "day", "rejections")


def _row(record: Any, *names: str) -> list[Any]:
    return [getattr(record, name) for name in names or (field.name for field in fields(record))]


def _stated(stated: Stated) -> list[Any]:
    user, plan = stated.plan, stated.plan.plan
    limits = [plan.name, plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day]
    return [[*limits, user.plan_is_assumed, user.polls_count], *_row(stated)[1:]]


def _of_stated(row: list[Any]) -> Stated:
    (*limits, is_assumed, polls_count), has_webhooks, pid, wants, submits, polls, behind = row
    user = KeyUser(Plan(*limits), is_assumed, polls_count)
    pairs = [tuple(each) for each in submits], [tuple(each) for each in polls]
    return Stated(user, has_webhooks, pid, wants, *pairs, behind)


def _pair(value: list[Any] | None) -> tuple[str, int | None] | None:
    return None if value is None else (value[0], value[1])


def _packed(value: Any) -> Any:
    """Return the state of one of the pure parts: an object by its slots, a mapping as pairs."""
    if value is None or isinstance(value, float | int | str):
        return value
    if isinstance(value, Failure):
        # Its message may quote the request.
        return {"code": value.code, "http_status": value.http_status, "available": value.credits_available}
    if isinstance(value, dict):
        return [[name, each] for name, each in value.items()]
    if isinstance(value, deque):
        return list(value)
    if hasattr(value, "__slots__"):
        return {name: _packed(getattr(value, name)) for name in value.__slots__}
    return value


def _unpack(part: Any, packed: dict[str, Any]) -> None:
    """Fill a new part with a state."""
    for name, value in packed.items():
        old = getattr(part, name)
        if hasattr(old, "__slots__") and isinstance(value, dict):
            _unpack(old, value)
        elif isinstance(old, dict):
            pairs = {tuple(name) if isinstance(name, list) else name: each for name, each in value}
            setattr(part, name, type(old)(pairs))
        elif isinstance(old, deque):
            setattr(part, name, deque(value))
        elif isinstance(value, dict):
            setattr(part, name, _of_credits(**value))
        else:
            setattr(part, name, value)


def _of_credits(code: str | None, http_status: int | None, available: float | None) -> Failure:
    message = "The service says that the account has too few credits."
    return Failure(FailureKind.CREDITS, message, http_status, code, credits_available=available)
