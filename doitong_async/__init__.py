"""Asyncio client for Doitong: pays for each job once, loses none and finishes as early as the plan allows.

Public are the names in `__all__` here, and these modules with all that has no underscore in them:

- `doitong_async.events`: what `on_event` receives.
- `doitong_async.webhooks`: check, read and sign webhooks without a client.
- `doitong_async.testing`: a client on its own emulator, and virtual time, for your own tests.
- `doitong_async.testing.fixtures`: the same as pytest fixtures.
- `doitong_async.emulator`: the emulated service itself.
- `doitong_async.emulator.faults`: the faults that it can show, as lines of text.
- `doitong_async.otel`: OpenTelemetry spans of jobs.

Everything else is internal and may change at any time.
"""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Final

from doitong_async.budget import Budget
from doitong_async.check.findings import (
    Assumption,
    CheckedJob,
    CheckOutcome,
    CheckReport,
    Finding,
    SettingsToUse,
)
from doitong_async.client import AsyncDoitong
from doitong_async.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetReachedError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    CoordinatorError,
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
from doitong_async.files import SavedFile
from doitong_async.jobs.durations import JobKind
from doitong_async.jobs.job import AsyncJob, JobFailedError, JobTimeoutError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import Estimate
from doitong_async.result import Result
from doitong_async.settings import OptionArguments, RequestArguments
from doitong_async.transport.failure import FailureKind
from doitong_async.types import GenerateRequest, Generation, JobStatus, MediaType
from doitong_async.webhooks.endpoint import Webhooks

if TYPE_CHECKING:
    from doitong_async.batch.batch import Batch, Progress
    from doitong_async.batch.item import Item, ItemRecord, ItemState, Outcome
    from doitong_async.batch.ledger import Ledger
    from doitong_async.batch.source import BatchArguments
    from doitong_async.batch.sqlite import LedgerTotals

__all__ = [
    "Assumption",
    "AsyncDoitong",
    "AsyncJob",
    "AuthenticationError",
    "BadRequestError",
    "Batch",
    "BatchArguments",
    "Budget",
    "BudgetReachedError",
    "CheckOutcome",
    "CheckReport",
    "CheckedJob",
    "ClientClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "CoordinatorError",
    "DailyLimitError",
    "DoitongError",
    "DoitongWarning",
    "DownloadError",
    "Estimate",
    "FailureKind",
    "Finding",
    "GenerateRequest",
    "Generation",
    "InsufficientCreditsError",
    "Item",
    "ItemRecord",
    "ItemState",
    "JobFailedError",
    "JobKind",
    "JobNotFoundError",
    "JobStatus",
    "JobTimeoutError",
    "Ledger",
    "LedgerError",
    "LedgerTotals",
    "MediaType",
    "OptionArguments",
    "Outcome",
    "Plan",
    "Progress",
    "ProtocolError",
    "RateLimitError",
    "RequestArguments",
    "Result",
    "SavedFile",
    "ServerError",
    "SettingsToUse",
    "Stats",
    "SubmitOutcomeUnknownError",
    "WebhookPayloadError",
    "WebhookSignatureError",
    "Webhooks",
]

# Batches and SQLite are a quarter of the package's own import time: they load at first use.
_OF_BATCHES: Final = {
    **dict.fromkeys(("Batch", "Progress"), "batch.batch"),
    **dict.fromkeys(("Item", "ItemRecord", "ItemState", "Outcome"), "batch.item"),
    "Ledger": "batch.ledger",
    "BatchArguments": "batch.source",
    "LedgerTotals": "batch.sqlite",
}

if not TYPE_CHECKING:
    # Type checkers would take any name for one of these.

    def __getattr__(name: str) -> object:
        if name not in _OF_BATCHES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_OF_BATCHES[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
