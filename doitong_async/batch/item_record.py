"""What is known of one item of a batch, and what that means for a new run of it: a rule over values."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from enum import Enum, StrEnum, auto
from typing import Any, Final, NamedTuple

from doitong_async.types import GenerateRequest

KEY_LENGTH: Final = 16
"""Hexadecimal digits of a request's digest that are its item key, if its user gives none."""


KEY_LIVES: Final = 86_400.0
"""Seconds for which the service knows an idempotency key (assumption: 24 hours)."""


UNKNOWN: Final = "JobNotFoundError:"
"""How the reason begins of an item whose job the service did not know."""


class State(StrEnum):
    """How far an item has come, as the ledger has it."""

    OPEN = "open"
    """Nothing of it is sent: the submit that was meant was surely refused."""
    INTENT = "intent"
    """A submit was about to be sent; nobody here knows whether it was."""
    SUBMITTED = "submitted"
    """A job was made, and its end, or its file, is still to come."""
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """One line of the ledger.

    `number` counts items in the order in which they were begun; `digest` and `request` say what was asked
    for; `attempt` counts the jobs that were meant to be made of it, each under an idempotency key of its own.
    `reserved` and `cost` are credits, `earlier_cost` is what earlier attempts cost. Moments are epoch
    seconds. `file` is a name in the folder of the outputs, of which the ending is missing until the item
    is done; `length` is its bytes.
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
        asked: dict[str, Any] = json.loads(self.request)
        return asked

    @property
    def output(self) -> str | None:
        """The name of its file, once that is whole."""
        return self.file if self.state is State.DONE else None

    @property
    def may_cost(self) -> float:
        """Credits that its last attempt cost as far as the ledger knows, or may cost."""
        return self.cost if self.cost is not None else self.reserved or 0.0

    @property
    def is_unknown(self) -> bool:
        """Whether the service did not know its job when it was last asked: another key may not see it."""
        return self.state is State.SUBMITTED and (self.reason or "").startswith(UNKNOWN)

    @property
    def seconds(self) -> float | None:
        """How long the job took, from its accepted submit to its end."""
        if self.ended_at is None or self.accepted_at is None:
            return None
        return max(0.0, self.ended_at - self.accepted_at)


class Glimpse(NamedTuple):
    """What there is to say of an item that is done: most of a batch that is run again is of these."""

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
    """Submit it again under the key of its intent: it may have been made."""
    TAKE_UP = auto()
    """Wait for the job that was made."""
    FETCH = auto()
    """Its job is done; the file is not there, or not whole."""
    REPORT = auto()
    """It is over: say so."""
    DOUBT = auto()
    """It may have been made and paid, and cannot be asked about: say so, and send nothing."""
    CLASH = auto()
    """The ledger knows this item key with another request: refuse."""


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
        entry: what the ledger has of it, if anything.
        digest: of the request that is asked for now.
        wall: now, in epoch seconds.
        key_lives: seconds for which the service knows an idempotency key (assumption).
        may_resend: whether the service is trusted to honour idempotency keys.
        retry_failed: whether what failed is made again, and paid again.
        has_file: whether the file that the ledger names stands in its place, or none is wanted.
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
    """Whether the service still knows an idempotency key; one of the future is of a clock that was wrong."""
    return -_CLOCK_SLIP <= wall - intended_at < key_lives


_CLOCK_SLIP: Final = 300.0
"""Seconds by which a clock may be set back without a key being distrusted: our choice."""
_spell: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode
_FIELDS: Final = tuple(sorted(field.name for field in fields(GenerateRequest)))


def spelled(request: GenerateRequest) -> str:
    """Return a request as JSON in one spelling: two that ask for the same are the same text."""
    given = {name: value for name in _FIELDS if (value := getattr(request, name)) is not None}
    return _spell(given)


def digest_of(text: str) -> str:
    """Return the SHA-256 of a request's one spelling."""
    return hashlib.sha256(text.encode()).hexdigest()


def stem_of(key: str, request: GenerateRequest, *, is_given: bool) -> str:
    """Return the name, without ending, of the file that an item's output is kept in.

    It tells items apart on file systems too that do not tell "A" from "a".

    Args:
        key: the item's.
        request: what is asked for.
        is_given: whether the key is its user's; else words of the prompt stand before it.
    """
    if not is_given:
        words = re.sub(r"[^a-z0-9]+", "-", (request.prompt or request.provider or "").lower())
        return f"{words[:40].strip('-')}-{key}".lstrip("-")
    plain = re.sub(r"[^a-z0-9_-]", "_", key.lower())[:100]
    is_safe = plain == key and plain not in _RESERVED
    return plain if is_safe else f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


# The page of the batch stands beside the files; the others are no names on Windows.
_RESERVED: Final = {
    *("index", "con", "prn", "aux", "nul"),
    *(f"{port}{number}" for port in ("com", "lpt") for number in range(10)),
}
