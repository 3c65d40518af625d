"""The record of one batch item, and the decision what a run does with it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from enum import Enum, StrEnum, auto
from typing import Any, Final, NamedTuple

from doitong_async.types import GenerateRequest

KEY_LENGTH: Final = 16
"""Hexadecimal digits of a request's digest that form its item key, unless the user gives one."""


KEY_LIVES: Final = 86_400.0
"""Seconds for which the service remembers an idempotency key (assumption: 24 hours)."""


UNKNOWN: Final = "JobNotFoundError:"
"""Prefix of the reason of an item whose job the service did not know."""


class State(StrEnum):
    """How far an item has come, as the ledger records it."""

    OPEN = "open"
    """Nothing was sent: the intended submit certainly created no job."""
    INTENT = "intent"
    """A submit was about to be sent; whether it was is unknown."""
    SUBMITTED = "submitted"
    """A job was created; its end, or its file, is still to come."""
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """One row of the ledger.

    `number` counts items in the order of their first submit; `digest` and `request` identify the request;
    `attempt` counts the jobs that were intended for it, each under its own idempotency key. `reserved` and
    `cost` are credits, `earlier_cost` is the cost of earlier attempts. Times are epoch seconds. `file` is a
    name in the output folder, without its suffix until the item is done; `length` is its size in bytes.
    """

    number: int
    key: str
    digest: str
    request: str
    state: State
    attempt: int
    idempotency_key: str | None
    intended_at: float | None
    reserved: float | None
    job_id: str | None
    accepted_at: float | None
    status: str | None
    url: str | None
    cost: float | None
    earlier_cost: float
    reason: str | None
    file: str | None
    length: int | None
    sha256: str | None
    ended_at: float | None

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of the request."""
        request_fields: dict[str, Any] = json.loads(self.request)
        return request_fields

    @property
    def output(self) -> str | None:
        """The name of its file, once that is complete."""
        return self.file if self.state is State.DONE else None

    @property
    def may_cost(self) -> float:
        """Credits that its last attempt cost, or may cost, as far as the ledger knows."""
        return self.cost if self.cost is not None else self.reserved or 0.0

    @property
    def is_unknown(self) -> bool:
        """Whether the service did not know its job at the last poll: another key's jobs may be hidden."""
        return self.state is State.SUBMITTED and (self.reason or "").startswith(UNKNOWN)

    @property
    def seconds(self) -> float | None:
        """How long the job took, from its accepted submit to its end."""
        if self.ended_at is None or self.accepted_at is None:
            return None
        return max(0.0, self.ended_at - self.accepted_at)


class Glimpse(NamedTuple):
    """The few fields of a finished item; most items of a repeated batch need no more."""

    state: str
    digest: str
    job_id: str | None
    url: str | None
    cost: float | None
    file: str | None
    length: int | None


class Action(Enum):
    """What a run does with an item."""

    BEGIN = auto()
    """Submit it under a new idempotency key."""
    RESEND = auto()
    """Submit it again under the key of its intent: it may have a job."""
    TAKE_UP = auto()
    """Resume the job that was created."""
    FETCH = auto()
    """Its job is done; the file is missing or incomplete."""
    REPORT = auto()
    """It has ended: report it."""
    DOUBT = auto()
    """It may have been charged and cannot be checked: report that, and send nothing."""
    CLASH = auto()
    """The ledger has this item key with another request: reject it."""


def decide(
    record: ItemRecord | None,
    digest: str,
    *,
    wall: float,
    key_lives: float,
    may_resend: bool,
    retry_failed: bool,
    has_file: bool,
) -> Action:
    """Return what to do with an item.

    Args:
        record: the item's ledger record, if it has one.
        digest: the digest of the present request.
        wall: the time now, in epoch seconds.
        key_lives: seconds for which the service remembers an idempotency key (assumption).
        may_resend: whether the service is trusted to honour idempotency keys.
        retry_failed: whether to submit failed items again, and pay again.
        has_file: whether the file that the ledger names exists, or none is wanted.
    """
    if record is None:
        return Action.BEGIN
    if record.digest != digest:
        return Action.CLASH
    if record.state is State.INTENT:
        may_resend = may_resend and is_alive(record.intended_at or 0.0, wall, key_lives)
        return Action.RESEND if may_resend else Action.DOUBT
    if record.state in (State.FAILED, State.REJECTED):
        return Action.BEGIN if retry_failed else Action.REPORT
    if record.state is State.DONE:
        return Action.REPORT if has_file else Action.FETCH
    if record.state is State.SUBMITTED:
        return Action.BEGIN if record.is_unknown and retry_failed else Action.TAKE_UP
    return Action.BEGIN


def is_alive(intended_at: float, wall: float, key_lives: float) -> bool:
    """Whether the service still knows an idempotency key; a key from the future reveals a wrong clock."""
    return -_CLOCK_SLIP <= wall - intended_at < key_lives


_CLOCK_SLIP: Final = 300.0
"""Seconds by which a clock may be set back before a key is distrusted: our choice."""
_spell: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_FIELDS: Final = tuple(sorted(field.name for field in fields(GenerateRequest)))


def spelled(request: GenerateRequest) -> str:
    """Return a request as canonical JSON: equal requests give equal text."""
    given = {name: value for name in _FIELDS if (value := getattr(request, name)) is not None}
    return _spell(given)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a request's canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


def stem_of(key: str, request: GenerateRequest, *, is_given: bool) -> str:
    """Return the name, without suffix, of the file for an item's output.

    The name is unique even on case-insensitive file systems.

    Args:
        key: the item's key.
        request: its request.
        is_given: whether the user gave the key; otherwise words of the prompt precede it.
    """
    if not is_given:
        words = re.sub(r"[^a-z0-9]+", "-", (request.prompt or request.provider or "").lower())
        return f"{words[:40].strip('-')}-{key}".lstrip("-")
    plain = re.sub(r"[^a-z0-9_-]", "_", key.lower())[:100]
    is_safe = plain == key and plain not in _RESERVED
    return plain if is_safe else f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


# The batch's page is in the same folder; the other names are reserved on Windows.
_RESERVED: Final = {
    *("index", "con", "prn", "aux", "nul"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}
