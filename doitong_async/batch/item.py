"""The life of a batch item: its states and events in one table, also for a submit in doubt.

`LIFE` says what may follow what. The planner, the worker, the ledger and `doitong batch status` all use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from pathlib import Path
from typing import Any, Final, NamedTuple

from doitong_async import errors
from doitong_async.budget import Reservation
from doitong_async.errors import DoitongError
from doitong_async.jobs.job import JobFailedError
from doitong_async.jobs.token import JobRef, write_token
from doitong_async.result import Result
from doitong_async.types import GenerateRequest, Generation, JobStatus


class ItemState(StrEnum):
    """How far an item has come."""

    OPEN = "open"
    """Nothing was sent, or what was sent certainly created no job."""
    INTENT = "intent"
    """A submit is about to be sent, or was; in the ledger it says no more than that."""
    DOUBT = "doubt"
    """A submit got no answer: a job may exist. In the ledger this is an intent."""
    SUBMITTED = "submitted"
    """A job was created; its end, or its file, is still to come."""
    MISSING = "missing"
    """A job was created, and the service does not know it, at least not for this API key."""
    DONE = "done"
    FAILED = "failed"
    REJECTED = "rejected"

    @property
    def recorded(self) -> ItemState:
        """This state, as the ledger has it."""
        return ItemState.INTENT if self is ItemState.DOUBT else self


class ItemEvent(Enum):
    """What can happen to an item."""

    RESUMED = auto()
    """A later run found it in the ledger."""
    BEGUN = auto()
    """The intent to submit it is on disk."""
    EXPIRED = auto()
    """Its idempotency key grew too old before anything was sent under it."""
    UNANSWERED = auto()
    """A submit may have reached the service and got no usable answer."""
    ACCEPTED = auto()
    """The service created its job."""
    SEEN = auto()
    """A poll found its job."""
    FINISHED = auto()
    """Its job is completed, and its file is complete if one is wanted."""
    STOPPED = auto()
    """The batch was stopped before it was submitted, or submitted again."""
    REFUSED = auto()
    """The request is invalid."""
    NO_JOB = auto()
    """An error that says that the service created no job."""
    JOB_FAILED = auto()
    """The service reports that the job failed."""
    NOT_FOUND = auto()
    """The service does not know the job."""
    NOT_FETCHED = auto()
    """The output could not be fetched or written; it is still at its URL."""
    ERROR = auto()
    """Any other error. It stands in for the events from `STOPPED` on where a state has no row for them."""


class Outcome(StrEnum):
    """How an item of a batch ended."""

    DONE = "done"
    """Its job is completed, and its file is complete if one was wanted."""
    FAILED = "failed"
    """Its job failed, or its output could not be fetched; `error` says which."""
    REJECTED = "rejected"
    """The request is invalid; nothing was charged."""
    IN_DOUBT = "in_doubt"
    """It may have a job that runs and costs credits, with unknown end. The ledger's next run resumes it."""
    SKIPPED = "skipped"
    """It was not submitted because the batch ended first; nothing was charged."""


LIFE: Final[Mapping[tuple[ItemState, ItemEvent], tuple[ItemState, Outcome | None]]] = {
    (ItemState.OPEN, ItemEvent.BEGUN): (ItemState.INTENT, None),
    (ItemState.OPEN, ItemEvent.REFUSED): (ItemState.OPEN, Outcome.REJECTED),
    (ItemState.OPEN, ItemEvent.ERROR): (ItemState.OPEN, Outcome.SKIPPED),
    #
    (ItemState.INTENT, ItemEvent.RESUMED): (ItemState.DOUBT, None),
    (ItemState.INTENT, ItemEvent.EXPIRED): (ItemState.OPEN, None),
    (ItemState.INTENT, ItemEvent.UNANSWERED): (ItemState.DOUBT, None),
    (ItemState.INTENT, ItemEvent.ACCEPTED): (ItemState.SUBMITTED, None),
    (ItemState.INTENT, ItemEvent.STOPPED): (ItemState.OPEN, Outcome.SKIPPED),
    (ItemState.INTENT, ItemEvent.NO_JOB): (ItemState.OPEN, Outcome.SKIPPED),
    (ItemState.INTENT, ItemEvent.REFUSED): (ItemState.REJECTED, Outcome.REJECTED),
    (ItemState.INTENT, ItemEvent.ERROR): (ItemState.INTENT, Outcome.IN_DOUBT),
    #
    (ItemState.DOUBT, ItemEvent.UNANSWERED): (ItemState.DOUBT, None),
    (ItemState.DOUBT, ItemEvent.ACCEPTED): (ItemState.SUBMITTED, None),
    (ItemState.DOUBT, ItemEvent.ERROR): (ItemState.DOUBT, Outcome.IN_DOUBT),
    #
    (ItemState.SUBMITTED, ItemEvent.RESUMED): (ItemState.SUBMITTED, None),
    (ItemState.SUBMITTED, ItemEvent.SEEN): (ItemState.SUBMITTED, None),
    (ItemState.SUBMITTED, ItemEvent.FINISHED): (ItemState.DONE, Outcome.DONE),
    (ItemState.SUBMITTED, ItemEvent.JOB_FAILED): (ItemState.FAILED, Outcome.FAILED),
    (ItemState.SUBMITTED, ItemEvent.NOT_FOUND): (ItemState.MISSING, Outcome.FAILED),
    (ItemState.SUBMITTED, ItemEvent.NOT_FETCHED): (ItemState.SUBMITTED, Outcome.FAILED),
    (ItemState.SUBMITTED, ItemEvent.ERROR): (ItemState.SUBMITTED, Outcome.IN_DOUBT),
    #
    (ItemState.MISSING, ItemEvent.RESUMED): (ItemState.MISSING, None),
    (ItemState.MISSING, ItemEvent.BEGUN): (ItemState.INTENT, None),
    (ItemState.MISSING, ItemEvent.SEEN): (ItemState.SUBMITTED, None),
    (ItemState.MISSING, ItemEvent.FINISHED): (ItemState.DONE, Outcome.DONE),
    (ItemState.MISSING, ItemEvent.JOB_FAILED): (ItemState.FAILED, Outcome.FAILED),
    (ItemState.MISSING, ItemEvent.NOT_FOUND): (ItemState.MISSING, Outcome.FAILED),
    (ItemState.MISSING, ItemEvent.NOT_FETCHED): (ItemState.SUBMITTED, Outcome.FAILED),
    (ItemState.MISSING, ItemEvent.ERROR): (ItemState.SUBMITTED, Outcome.IN_DOUBT),
    # Its file is gone, or is to be checked.
    (ItemState.DONE, ItemEvent.RESUMED): (ItemState.DONE, None),
    (ItemState.DONE, ItemEvent.SEEN): (ItemState.DONE, None),
    (ItemState.DONE, ItemEvent.FINISHED): (ItemState.DONE, Outcome.DONE),
    (ItemState.DONE, ItemEvent.JOB_FAILED): (ItemState.DONE, Outcome.FAILED),
    (ItemState.DONE, ItemEvent.NOT_FOUND): (ItemState.DONE, Outcome.FAILED),
    (ItemState.DONE, ItemEvent.NOT_FETCHED): (ItemState.DONE, Outcome.FAILED),
    (ItemState.DONE, ItemEvent.ERROR): (ItemState.DONE, Outcome.IN_DOUBT),
    # With `retry_failed`.
    (ItemState.FAILED, ItemEvent.BEGUN): (ItemState.INTENT, None),
    (ItemState.REJECTED, ItemEvent.BEGUN): (ItemState.INTENT, None),
}
"""What an event makes of an item: its next state, and its outcome if it has ended for this run."""

OUTCOMES: Final[Mapping[ItemState, Outcome | None]] = {
    ItemState.OPEN: Outcome.SKIPPED,
    ItemState.INTENT: Outcome.IN_DOUBT,
    ItemState.DOUBT: Outcome.IN_DOUBT,
    ItemState.SUBMITTED: None,
    ItemState.MISSING: Outcome.FAILED,
    ItemState.DONE: Outcome.DONE,
    ItemState.FAILED: Outcome.FAILED,
    ItemState.REJECTED: Outcome.REJECTED,
}
"""The outcome of an item that the ledger has in a state; None while its job runs."""
UNSETTLED: Final = (ItemState.INTENT, ItemState.SUBMITTED, ItemState.MISSING)
"""The states, as the ledger has them, of items whose cost may still change."""
_ERRORS: Final[Mapping[type[DoitongError], ItemEvent]] = {
    JobFailedError: ItemEvent.JOB_FAILED,
    # The job may belong to another account's key.
    errors.JobNotFoundError: ItemEvent.NOT_FOUND,
    errors.DownloadError: ItemEvent.NOT_FETCHED,
    errors.BadRequestError: ItemEvent.REFUSED,
    errors.AuthenticationError: ItemEvent.NO_JOB,
    errors.BudgetReachedError: ItemEvent.NO_JOB,
    errors.ClientClosedError: ItemEvent.NO_JOB,
    errors.ConnectionFailedError: ItemEvent.NO_JOB,
    errors.CoordinatorError: ItemEvent.NO_JOB,
    errors.InsufficientCreditsError: ItemEvent.NO_JOB,
    errors.RateLimitError: ItemEvent.NO_JOB,
}
_FALLS_BACK: Final = {ItemEvent.STOPPED, *_ERRORS.values()}


def follow(state: ItemState, event: ItemEvent) -> tuple[ItemState, Outcome | None]:
    """Return the next state, and the outcome if the item has ended for this run.

    Raises:
        KeyError: if the event cannot happen in this state.
    """
    row = LIFE.get((state, event))
    if row is None and event in _FALLS_BACK:
        row = LIFE.get((state, ItemEvent.ERROR))
    return LIFE[state, event] if row is None else row


def states_before(event: ItemEvent) -> tuple[ItemState, ...]:
    """Return the states, as the ledger has them, in which an event can happen."""
    return tuple(dict.fromkeys(state.recorded for state, each in LIFE if each is event))


def event_of(error: DoitongError) -> ItemEvent:
    """Return what an error means for its item."""
    return next((event for kind, event in _ERRORS.items() if isinstance(error, kind)), ItemEvent.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One finished item of a batch.

    Attributes:
        number: its number in this run, from 1.
        key: its key in the ledger.
        request: with the client's defaults filled in; None if it could not be read.
        outcome: how it ended.
        result: the result of a completed job.
        error: why it is not done.
        file: the path of its output, if the batch saves outputs.
        is_new: whether this run finished it; False if the ledger had it already.
    """

    number: int
    key: str
    request: GenerateRequest | None
    outcome: Outcome
    result: Result | None = None
    error: DoitongError | None = None
    file: Path | None = None
    is_new: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemRecord:
    """One row of the ledger.

    `number` counts items in the order of their first submit; `digest` and `request` identify the request;
    `attempt` counts the jobs that were intended for it, each under its own idempotency key. `reserved` and
    `cost` are credits, `earlier_cost` is the cost of earlier attempts. Times are epoch seconds. `error` is
    the class of the error that ended it, `reason` its message. `file` is a name in the output folder,
    without its suffix until the item is done; `length` is its size in bytes. `body` is what was sent for an
    item in doubt.
    """

    number: int
    key: str
    digest: str
    request: str
    state: ItemState
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
    error: str | None
    reason: str | None
    file: str | None
    length: int | None
    sha256: str | None
    ended_at: float | None
    body: str | None

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of the request.

        Raises:
            LedgerError: if its text is damaged.
        """
        try:
            request_fields = json.loads(self.request)
        except (ValueError, RecursionError) as error:
            raise errors.LedgerError(
                f"The ledger is damaged: the request of the item {self.key!r} cannot be read: {error}."
            ) from None
        if not isinstance(request_fields, dict):
            raise errors.LedgerError(
                f"The ledger is damaged: the request of the item {self.key!r} is {self.request!r:.100}."
            )
        return request_fields

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, as far as the ledger knows; None while its job runs."""
        return OUTCOMES[self.state]

    @property
    def output(self) -> str | None:
        """The name of its file, once that is complete."""
        return self.file if self.state is ItemState.DONE else None

    @property
    def may_cost(self) -> float:
        """Credits that its last attempt cost, or may cost, as far as the ledger knows."""
        return self.cost if self.cost is not None else self.reserved or 0.0

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
    number: int = 0
    """Of its row: items are numbered in the order of their first submits."""


class Row(NamedTuple):
    """What it takes to recognise a finished item without building its request."""

    key: str
    request: str
    glimpse: Glimpse


_CLOCK_SLIP: Final = 300.0
"""Seconds by which a clock may be set back before a key is distrusted: our choice."""


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
    match record.state:
        case ItemState.INTENT | ItemState.DOUBT:
            may_resend = may_resend and is_alive(record.intended_at or 0.0, wall, key_lives)
            return Action.RESEND if may_resend else Action.DOUBT
        case ItemState.SUBMITTED:
            return Action.TAKE_UP
        case ItemState.MISSING:
            return Action.BEGIN if retry_failed else Action.TAKE_UP
        case ItemState.DONE:
            return Action.REPORT if has_file else Action.FETCH
        case ItemState.FAILED | ItemState.REJECTED:
            return Action.BEGIN if retry_failed else Action.REPORT
        case ItemState.OPEN:
            return Action.BEGIN


def is_alive(intended_at: float, wall: float, key_lives: float) -> bool:
    """Whether the service still knows an idempotency key; a key from the future reveals a wrong clock."""
    return -_CLOCK_SLIP <= wall - intended_at < key_lives


@dataclass(slots=True)
class ItemCredits:
    """The most credits that an item costs, if that is known, and what the batch's budget reserves for it."""

    most: float | None = None
    reservation: Reservation = field(default_factory=Reservation)


@dataclass(slots=True, eq=False, kw_only=True)
class PendingItem:
    """One item in progress.

    `text` is the request's canonical JSON, `digest` its hash; `record` is the ledger's record of it.
    `is_key_given` says whether the user named it. `attempt` is the last recorded attempt.
    `is_sending` says that a submit is in flight, `is_reported` that the item has ended. `stem` is the name of
    its file without suffix. `body` is the body sent, and resent, under its idempotency key: None until it is
    recorded.
    """

    number: int
    key: str
    is_key_given: bool
    request: GenerateRequest
    text: str
    digest: str
    action: Action
    record: ItemRecord | None
    idempotency_key: str
    state: ItemState = ItemState.OPEN
    is_sending: bool = False
    is_reported: bool = False
    attempt: int = 0
    intended_at: float | None = None
    stem: str | None = None
    body: bytes | None = None
    credits: ItemCredits = field(default_factory=ItemCredits)
    job: Generation | None = None
    accepted_at: float | None = None
    ended_at: float | None = None

    def happen(self, event: ItemEvent) -> None:
        """Go on to the state that follows from an event which does not end the item."""
        self.state, _ = follow(self.state, event)

    @property
    def has_job(self) -> bool:
        """Whether its job is at the service, or done: it continues without this process."""
        return self.state in (ItemState.SUBMITTED, ItemState.MISSING, ItemState.DONE)

    @property
    def is_ahead(self) -> bool:
        """Whether it was read, and nothing of it is in flight."""
        return not (self.has_job or self.is_sending or self.is_reported)

    @property
    def is_fetching(self) -> bool:
        """Whether its job is done, and its output is being fetched or checked."""
        is_over = self.job is not None and self.job.status is JobStatus.COMPLETED
        return (self.state is ItemState.DONE or (self.has_job and is_over)) and not self.is_reported

    @property
    def is_running(self) -> bool:
        """Whether its submit is in flight, or its job is at the service."""
        return not (self.is_ahead or self.is_fetching or self.is_reported)

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
