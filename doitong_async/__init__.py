"""Asyncio client for Doitong: every job paid once, none lost, as early as the plan allows."""

from doitong_async.client import AsyncDoitong, Stats
from doitong_async.errors import (
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DailyLimitError,
    DoitongError,
    DoitongWarning,
    DownloadError,
    InsufficientCreditsError,
    JobFailedError,
    JobNotFoundError,
    JobTimeoutError,
    ProtocolError,
    RateLimitError,
    ServerError,
    SubmitOutcomeUnknownError,
)
from doitong_async.jobs.job import AsyncJob
from doitong_async.limits.plan import Plan
from doitong_async.result import Result
from doitong_async.types import GenerateRequest, Generation, JobStatus, MediaType

__all__ = [
    "AsyncDoitong",
    "AsyncJob",
    "AuthenticationError",
    "BadRequestError",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DailyLimitError",
    "DoitongError",
    "DoitongWarning",
    "DownloadError",
    "GenerateRequest",
    "Generation",
    "InsufficientCreditsError",
    "JobFailedError",
    "JobNotFoundError",
    "JobStatus",
    "JobTimeoutError",
    "MediaType",
    "Plan",
    "ProtocolError",
    "RateLimitError",
    "Result",
    "ServerError",
    "Stats",
    "SubmitOutcomeUnknownError",
]
