"""One item in progress, and the terms of its batch."""

from __future__ import annotations

import math
import os
import secrets
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from pathlib import Path, PurePath

from doitong_async.batch.item_record import Action, ItemRecord, State
from doitong_async.budget import Budget
from doitong_async.errors import ConfigurationError
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.pricing import PriceArgument, check_price
from doitong_async.settings import Options
from doitong_async.types import GenerateRequest, Generation


class Phase(Enum):
    """Where an item is, which decides how it can be stopped."""

    READ = auto()
    """Its task has not started."""
    WAITING = auto()
    """Nothing of it is in flight."""
    SENDING = auto()
    """Its submit is in flight: the answer may be about a job that is charged."""
    RUNNING = auto()
    """Its job is known and recorded."""
    FETCHING = auto()
    """Its job is done, and its output is being fetched or checked."""
    REPORTED = auto()
    """It has ended and was reported."""


@dataclass(slots=True, eq=False)
class PendingItem:
    """One item in progress.

    `text` is the request's canonical JSON, `digest` its hash; `record` is the ledger's record of it.
    `is_key_given` says whether the user named it. `attempt` is the last recorded attempt; `booked` the
    credits that the budget counts as spent for it, `reserved` the most that it may cost. `is_intended` says
    that its intent is recorded and nothing after it, `is_in_doubt` that an unknown job may exist. `stem` is
    the name of its file without suffix. `body` is the body sent, and resent, under its idempotency key: None
    until it is recorded.
    """

    number: int
    key: str
    is_key_given: bool
    request: GenerateRequest
    text: str
    digest: str
    action: Action
    record: ItemRecord | None
    idempotency_key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    phase: Phase = Phase.READ
    attempt: int = 0
    is_intended: bool = False
    is_in_doubt: bool = False
    intended_at: float | None = None
    stem: str | None = None
    body: bytes | None = None
    reserved: float | None = None
    booked: float | None = None
    job: Generation | None = None
    accepted_at: float | None = None
    ended_at: float | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether it was read and nothing was sent for it."""
        return self.phase in (Phase.READ, Phase.WAITING)

    @property
    def has_job(self) -> bool:
        """Whether its job is at the service, or done: it continues without this process."""
        return self.phase in (Phase.RUNNING, Phase.FETCHING)

    @property
    def ref(self) -> JobRef | None:
        """Its job, if known: of this run, or the latest of an earlier one."""
        earlier = None if self.record is None or self.action is Action.BEGIN else self.record.job_id
        job_id = earlier if self.job is None else self.job.id
        if job_id is None:
            return None
        accepted = None if self.accepted_at is None else int(self.accepted_at)
        return JobRef(job_id, self.request.type, self.request.provider, accepted)

    @property
    def token(self) -> str | None:
        """The token that resumes its job, if known."""
        return None if self.ref is None else write_token(self.ref)

    @property
    def written(self) -> State | None:
        """Its state in the ledger; None if nothing was ever sent for it."""
        if self.is_intended:
            return State.INTENT
        if not self.has_job and self.job is None:
            return None
        return State.DONE if self.action is Action.FETCH else State.SUBMITTED

    def __post_init__(self) -> None:
        if self.record is None:
            return
        self.attempt = self.record.attempt
        if self.action in (Action.RESEND, Action.TAKE_UP, Action.FETCH, Action.DOUBT):
            self.is_intended = self.is_in_doubt = self.action in (Action.RESEND, Action.DOUBT)
            self.idempotency_key = self.record.idempotency_key or self.idempotency_key
            self.intended_at, self.accepted_at = self.record.intended_at, self.record.accepted_at
            self.stem = self.record.file
            self.reserved = self.record.cost if self.record.cost is not None else self.record.reserved
        if self.record.state is State.DONE:
            # The total of earlier runs includes it; its file name has a suffix.
            self.booked = self.record.may_cost
            self.stem = None if self.record.file is None else PurePath(self.record.file).stem


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The arguments of a batch; see `AsyncDoitong.generate_many`."""

    out: Path | None
    budget: Budget | None
    price: PriceArgument
    retry_failed: bool
    verify: bool
    key_lives: float
    options: Options


def terms_of(
    options: Options,
    *,
    out: str | os.PathLike[str] | None,
    budget: float | Budget | None,
    price: PriceArgument,
    retry_failed: bool,
    verify: bool,
    key_lives: float,
) -> Terms:
    """Return the terms of a batch after checking them.

    Raises:
        ConfigurationError: naming the invalid argument.
    """
    check_price(price)
    is_number = isinstance(key_lives, int | float) and not isinstance(key_lives, bool)
    if not is_number or not 0 <= key_lives < math.inf:
        raise ConfigurationError(f"key_lives is {key_lives!r}; expected seconds, zero or more.")
    return Terms(
        out=None if out is None else Path(out),
        budget=budget if budget is None or isinstance(budget, Budget) else Budget(budget),
        price=price,
        retry_failed=retry_failed,
        verify=verify,
        key_lives=key_lives,
        # A batch waits for the plan without a limit.
        options=replace(options, slot_timeout=None),
    )
