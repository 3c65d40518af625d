"""The exit codes, and one table from errors to exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from doitong_async import errors
from doitong_async.jobs.job import JobFailedError, JobTimeoutError


class Exit(IntEnum):
    """The exit codes, as `doitong --help` documents them."""

    OK = 0
    USAGE = 2
    CREDENTIALS = 3
    CREDITS = 4
    LIMITS = 5
    JOB = 6
    TIMEOUT = 7
    SERVICE = 8
    UNKNOWN = 9
    DOWNLOAD = 10
    SOME_FAILED = 11
    BUDGET = 12
    SETTINGS = 13
    COORDINATOR = 14
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.OK: "done",
    Exit.USAGE: "the command, the request or a setting is wrong; no job was created",
    Exit.CREDENTIALS: "the API key is missing or invalid",
    Exit.CREDITS: "not enough credits",
    Exit.LIMITS: "a plan limit: too many requests, concurrent jobs or jobs today",
    Exit.JOB: "the job failed, or the service does not know it",
    Exit.TIMEOUT: "the wait timed out; the job is still running",
    Exit.SERVICE: "no connection, or the service answered with an error or an invalid answer",
    Exit.UNKNOWN: "it is not known whether a job was created: send again under the same key",
    Exit.DOWNLOAD: "the job is done and paid; its output could not be fetched or saved, or the ledger failed",
    Exit.SOME_FAILED: "a batch ended, and some of its items failed, were rejected or are in doubt",
    Exit.BUDGET: "the budget is reached; a batch resumes with a larger one",
    Exit.SETTINGS: "doctor: an assumption about the service fails; its report has the settings to use",
    Exit.COORDINATOR: "the coordinator cannot be reached or used; running jobs continue",
    Exit.INTERRUPTED: "Ctrl-C; submitted jobs continue",
}

OF_ERRORS: Final[dict[type[errors.DoitongError], Exit]] = {
    errors.ConfigurationError: Exit.USAGE,
    errors.BadRequestError: Exit.USAGE,
    errors.AuthenticationError: Exit.CREDENTIALS,
    errors.InsufficientCreditsError: Exit.CREDITS,
    errors.RateLimitError: Exit.LIMITS,
    errors.DailyLimitError: Exit.LIMITS,
    errors.ServerError: Exit.SERVICE,
    errors.ConnectionFailedError: Exit.SERVICE,
    errors.ProtocolError: Exit.SERVICE,
    errors.SubmitOutcomeUnknownError: Exit.UNKNOWN,
    JobFailedError: Exit.JOB,
    JobTimeoutError: Exit.TIMEOUT,
    errors.JobNotFoundError: Exit.JOB,
    # Only Ctrl-C closes the client of a command that still waits.
    errors.ClientClosedError: Exit.INTERRUPTED,
    errors.CoordinatorError: Exit.COORDINATOR,
    errors.DownloadError: Exit.DOWNLOAD,
    errors.BudgetReachedError: Exit.BUDGET,
    errors.LedgerError: Exit.DOWNLOAD,
    errors.WebhookSignatureError: Exit.SERVICE,
    errors.WebhookPayloadError: Exit.SERVICE,
}


class CommandError(Exception):
    """An error that the command line itself finds before anything is sent.

    Attributes:
        message: what is wrong.
        end: the exit code.
        details: single problems, such as the bad lines of a file, one per line.
    """

    def __init__(self, message: str, end: Exit = Exit.USAGE, *, details: Sequence[str] = ()) -> None:
        super().__init__("\n".join([message, *details]))
        self.message = message
        self.end = end
        self.details = details


def exit_of(error: errors.DoitongError) -> Exit:
    """Return the exit code of an error, from its nearest class in the table."""
    return next(OF_ERRORS[kind] for kind in type(error).__mro__ if kind in OF_ERRORS)
