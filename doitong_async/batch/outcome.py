"""What comes out of a batch: how each item ended, and how far the whole has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from doitong_async.errors import DoitongError
from doitong_async.result import Result
from doitong_async.types import GenerateRequest


class Outcome(StrEnum):
    """How an item of a batch ended."""

    DONE = "done"
    """Its job is completed, and its file is whole where one was wanted."""
    FAILED = "failed"
    """Its job failed, or its output could not be had; `error` says which."""
    REJECTED = "rejected"
    """The request cannot be; nothing was charged."""
    IN_DOUBT = "in_doubt"
    """A job of it may run and be paid; how it ended is not known. A ledger's next run takes it up."""
    SKIPPED = "skipped"
    """It was not submitted, as the batch came to its end before; nothing was charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One item of a batch at its end.

    Attributes:
        number: its place in this run, from 1.
        key: what it is known by in the ledger.
        request: with the client's defaults filled in; None for one that could not be read.
        outcome: how it ended.
        result: of a job that is done.
        error: why it is not done.
        file: where its output is, if the batch keeps outputs.
        is_new: whether it came of this run; False where the ledger knew it already.
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
class Progress:
    """How far a batch has come.

    Attributes:
        items: how many have ended, by their outcome.
        known: how many of the done were done before this run.
        running: jobs at the service, or on their way there.
        fetching: items whose job is done, and whose output is fetched or looked at.
        waiting: items that were read and wait for the plan or the budget.
        spent: credits, of earlier runs on the same ledger too.
        reserved: credits set aside for what is not settled yet.
        stopped: why no more is submitted, or None.
    """

    items: Mapping[Outcome, int]
    known: int
    running: int
    fetching: int
    waiting: int
    spent: float
    reserved: float
    stopped: DoitongError | None
