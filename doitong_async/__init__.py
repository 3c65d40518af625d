"""Asyncio client for Doitong: pays for each job once, loses none and finishes as early as the plan allows."""

from doitong_async.batch.batch import Batch, Progress
from doitong_async.batch.item import Item, ItemRecord, Outcome
from doitong_async.batch.ledger import Ledger
from doitong_async.budget import Budget
from doitong_async.client import AsyncDoitong
from doitong_async.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetReachedError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DailyLimitError,
    DoitongError,
    DoitongWarning,
    DownloadError,
    InsufficientCreditsError,
    JobNotFoundError,
    LedgerError,
    ProtocolError,
    RateLimitError,
    ServerError,
    SubmitOutcomeUnknownError,
    WebhookPayloadError,
    WebhookSignatureError,
)
from doitong_async.events import Stats
from doitong_async.jobs.job import AsyncJob, JobFailedError, JobTimeoutError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import Estimate
from doitong_async.result import Result
from doitong_async.types import GenerateRequest, Generation, JobStatus, MediaType

__all__ = [
    "AsyncDoitong",
    "AsyncJob",
    "AuthenticationError",
    "BadRequestError",
    "Batch",
    "Budget",
    "BudgetReachedError",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DailyLimitError",
    "DoitongError",
    "DoitongWarning",
    "DownloadError",
    "Estimate",
    "GenerateRequest",
    "Generation",
    "InsufficientCreditsError",
    "Item",
    "ItemRecord",
    "JobFailedError",
    "JobNotFoundError",
    "JobStatus",
    "JobTimeoutError",
    "Ledger",
    "LedgerError",
    "MediaType",
    "Outcome",
    "Plan",
    "Progress",
    "ProtocolError",
    "RateLimitError",
    "Result",
    "ServerError",
    "Stats",
    "SubmitOutcomeUnknownError",
    "WebhookPayloadError",
    "WebhookSignatureError",
]
