"""The results of a batch: each item's outcome, and the progress of the whole."""

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
    """Its job is completed, and its file is complete if one was wanted."""
    FAILED = "failed"
    """Its job failed, or its output could not be fetched; `error` says which."""
    REJECTED = "rejected"
    """The request is invalid; nothing was charged."""
    IN_DOUBT = "in_doubt"
    """It may have a job that runs and costs credits, with unknown end. The ledger's next run resumes it."""
    SKIPPED = "skipped"
    """It was not submitted because the batch ended first; nothing was charged."""


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
class Progress:
    """How far a batch has come.

    Attributes:
        items: how many have ended, by outcome.
        known: how many of the done were done before this run.
        running: jobs at the service, or being submitted.
        fetching: items whose job is done and whose output is being fetched or checked.
        waiting: items read that wait for the plan or the budget.
        spent: credits, including earlier runs on the same ledger.
        reserved: credits set aside for unsettled items.
        stopped: why the batch submits no more, or None.
    """

    items: Mapping[Outcome, int]
    known: int
    running: int
    fetching: int
    waiting: int
    spent: float
    reserved: float
    stopped: DoitongError | None
