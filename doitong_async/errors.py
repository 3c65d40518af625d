"""Every error of this library, with what it means for the job and the money, and what to do.

DoitongError
├── ConfigurationError (ValueError)          a setting is wrong; nothing was sent, or jobs stay alive
├── BadRequestError (ValueError)             the request is wrong: found here, or HTTP 400
├── AuthenticationError                      HTTP 401
├── InsufficientCreditsError                 HTTP 402
├── RateLimitError                           a wait that the caller bounded was too long
│   └── DailyLimitError                      no more jobs today
├── ServerError                              HTTP 5xx on every attempt
├── ConnectionFailedError (ConnectionError)  no connection on any attempt, or it broke
├── ProtocolError                            an answer that cannot be understood
│   └── WebhookPayloadError                  a signed webhook without a readable job update
├── WebhookSignatureError                    a webhook without a valid signature
├── SubmitOutcomeUnknownError                sent, but it is unknown whether a job was made
├── JobFailedError                           the service says that the job failed (in `jobs.job`)
├── JobTimeoutError (TimeoutError)           the wait ended, the job continues (in `jobs.job`)
├── JobNotFoundError                         the service does not know the job
├── ClientClosedError                        the client is closed, or was never opened
├── CoordinatorError                         the coordinator of several processes does not answer
├── DownloadError                            the output could not be fetched or written
├── BudgetReachedError                       the budget does not cover the next job
└── LedgerError                              the ledger of a batch cannot be used
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar

from doitong_async.unicode import writable


class DoitongWarning(UserWarning):
    """The caller's own code probably contains a mistake; the call goes ahead all the same."""


class DoitongError(Exception):
    """The root of the tree; every error of this library is one. What it does not know is None.

    Attributes:
        job_id: the service's id of the job.
        token: resumes the job, here or in another process: `doitong.job(token)`.
        idempotency_key: the key under which the submit was sent.
        request_id: the service's `X-Request-Id` header, if it sends one (assumption).
        http_status: the status of the answer that caused this.
        code: `extensions.code` of the answer.
        retry_after: seconds from the answer until a retry makes sense, as the service asks or as we know.
    """

    outcome: str = ""
    """What happened to the job and to the money."""
    advice: str = ""
    """What to do next."""
    knows_of_jobs: ClassVar[bool] = False
    """Whether `outcome` is true of an accepted job too."""

    def __init__(
        self,
        message: str = "",
        *,
        job_id: str | None = None,
        token: str | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
        http_status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        message = writable(message)
        super().__init__(message)
        self.message = message
        self.job_id = job_id
        self.token = token
        self.idempotency_key = idempotency_key
        self.request_id = None if request_id is None else writable(request_id)
        self.http_status = http_status
        self.code = None if code is None else writable(code)
        self.retry_after = retry_after

    def __str__(self) -> str:
        parts = [self.message, self.outcome, self.advice]
        facts = [
            f"{name.replace('_', ' ')}: {value}"
            for name in ("job_id", "token", "idempotency_key", "request_id", "http_status", "code")
            if (value := getattr(self, name)) is not None
        ]
        text = " ".join(part for part in parts if part)
        return f"{text} [{', '.join(facts)}]" if facts else text

    def __reduce__(self) -> tuple[Any, ...]:
        # A live job belongs to a loop and a socket; its token is what travels.
        state = {name: value for name, value in self.__dict__.items() if name != "job"}
        return type(self), (self.message,), state


class ConfigurationError(DoitongError, ValueError):
    """A setting is missing or wrong; the message says which, and what is expected."""

    outcome = "Nothing was sent."


class BadRequestError(DoitongError, ValueError):
    """The request is malformed: found before sending, or answered with HTTP 400."""

    outcome = "No job was made, nothing was charged."
    advice = "Correct the request; the same one will fail again."


class AuthenticationError(DoitongError):
    """The API key is missing, wrong or not allowed to do this (HTTP 401 or 403)."""

    outcome = "Nothing was charged by this request; jobs that were already running stay alive."
    advice = "Check DOITONG_API_KEY, then resume running jobs by their token."


class InsufficientCreditsError(DoitongError):
    """The balance does not cover the job (HTTP 402), or another 402 came just before, and this was not sent.

    Attributes:
        credits_required: what the job would cost, if the service said so.
        credits_available: what is left, if the service said so.
    """

    outcome = "No job was made, nothing was charged."
    advice = "Buy credits, or ask for less."

    def __init__(
        self,
        message: str = "",
        *,
        credits_required: float | None = None,
        credits_available: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.credits_required = credits_required
        self.credits_available = credits_available


class RateLimitError(DoitongError):
    """A limit, of the plan or of a budget, would delay this call for longer than the caller allows.

    Attributes:
        limit: "slot", "minute", "day", "server" or "credits": what the call waited for.
    """

    outcome = "No job was made, nothing was charged."
    advice = "Try again later, or allow a longer wait (slot_timeout)."

    def __init__(self, message: str = "", *, limit: str = "server", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit


class DailyLimitError(RateLimitError):
    """The plan's jobs for the day are used up.

    Attributes:
        resets_at: when the next day begins (UTC; 00:00 is an assumption), or None.
    """

    advice = "Wait for the next day, or use a larger plan."

    def __init__(self, message: str = "", *, resets_at: datetime | None = None, **facts: Any) -> None:
        super().__init__(message, **{"limit": "day", **facts})
        self.resets_at = resets_at


class ServerError(DoitongError):
    """The service answered every attempt with HTTP 5xx."""

    outcome = "It is not known whether a job was made; under the same idempotency key it is not made twice."
    advice = "Try again later with the same idempotency_key."


class ConnectionFailedError(DoitongError, ConnectionError):
    """The connection could not be made, or it broke.

    Attributes:
        sent: whether bytes of the request may have reached the service.
    """

    outcome = "No job was made, nothing was charged."
    advice = "Check the network, the proxy and base_url, then try again."

    def __init__(self, message: str = "", *, sent: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.sent = sent
        if sent:
            self.outcome = "It is not known whether the request arrived."


class ProtocolError(DoitongError):
    """The service sent an answer that this library cannot read."""

    outcome = "A job that was already running stays alive."
    advice = "Check the base_url and status_operation settings; report the excerpt if the error persists."


class WebhookPayloadError(ProtocolError):
    """A signed webhook contains no readable job update."""

    advice = "Report it if the error persists; polling follows the job as without webhooks."


class WebhookSignatureError(DoitongError):
    """A webhook's signature does not prove that it comes from the service."""

    outcome = "Nothing was taken from the webhook; no job was touched."
    advice = "Check webhook_secret, and verify the raw body."


class SubmitOutcomeUnknownError(DoitongError):
    """A submit was sent, and it is unknown whether it made a job."""

    knows_of_jobs = True
    outcome = "A job may have been made and charged."
    advice = "Submit again with the same idempotency_key: a service that honours it does not charge twice."


class JobNotFoundError(DoitongError):
    """The service does not know the job, or no longer does."""

    knows_of_jobs = True
    outcome = "If the job was made, it is charged; this client no longer waits for it."
    advice = "Check the id, and that the API key belongs to the account that made the job."


class ClientClosedError(DoitongError):
    """The client is closed, was never opened, or was closed while this call waited."""

    knows_of_jobs = True
    outcome = "A job that has a token goes on at the service; without one, none was made."
    advice = "Open a client with `async with AsyncDoitong(…)`, and resume the job by its token."


class CoordinatorError(DoitongError):
    """The coordinator, through which several processes share the plan, cannot be reached or used."""

    outcome = "This was not sent, and nothing was charged for it; jobs that were already running stay alive."
    advice = "Check that the Redis server runs and can be reached (coordinator=, DOITONG_COORDINATOR)."


class DownloadError(DoitongError):
    """The output of a finished job could not be fetched or written.

    Attributes:
        is_remote: whether it could not be fetched; otherwise this machine could not write it, and the
            `__cause__` is the system's error.
    """

    knows_of_jobs = True
    outcome = "The job is done and paid; its output is still at its URL."
    advice = "Fetch it again: result.save(…), or doitong.job(job_id)."

    def __init__(self, message: str = "", *, is_remote: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.is_remote = is_remote


class BudgetReachedError(DoitongError):
    """The rest of a budget, of the client or of a batch, does not cover the next job.

    Attributes:
        credits_required: the most that the job may cost.
        credits_available: what is left of the budget.
    """

    outcome = "No job was made, nothing was charged."
    advice = "Raise the budget. A batch that is run again with its ledger pays for nothing twice."

    def __init__(
        self,
        message: str = "",
        *,
        credits_required: float | None = None,
        credits_available: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.credits_required = credits_required
        self.credits_available = credits_available


class LedgerError(DoitongError):
    """The ledger of a batch is in use, damaged, of another version, or cannot be written."""

    knows_of_jobs = True
    outcome = "Nothing was sent that the ledger does not know; jobs that were already running stay alive."
    advice = "Fix what is named above, then run the batch again: it resumes where it stopped."


E = TypeVar("E", bound=DoitongError)

_TRANSIENT: Final = (ServerError, ConnectionFailedError, RateLimitError, InsufficientCreditsError)


def about_job(error: E, *, job_id: str, token: str | None) -> E:
    """Make an error say that it is about an accepted job, and return it.

    Every error about an accepted job passes here, so that its receiver has the id and the token.

    Args:
        error: the error to raise; attributes that are set stay.
        job_id: of the accepted job.
        token: of the accepted job, if known.
    """
    error.job_id = error.job_id or job_id
    error.token = error.token or token
    if not error.knows_of_jobs:
        error.outcome = "The job goes on: this error changes neither the job nor its cost."
        if isinstance(error, _TRANSIENT):
            error.advice = "Await the job again, or resume it by its token later."
    return error
