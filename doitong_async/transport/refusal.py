"""Why the service did not do what it was asked, read from status, code and message alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from doitong_async import errors


class Kind(Enum):
    """What sort of failure it was: all that a decision about it needs."""

    BAD_REQUEST = auto()
    AUTHENTICATION = auto()
    CREDITS = auto()
    RATE_LIMIT = auto()
    NOT_FOUND = auto()
    CONFLICT = auto()
    SERVER = auto()
    PROTOCOL = auto()
    MISPLACED = auto()
    """HTTP says that there is nothing of the kind here: the address is wrong, not the request."""
    UNUSABLE = auto()
    """The session that carries the requests cannot send them as they must be sent."""
    NOT_SENT = auto()
    UNANSWERED = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failure as a value: what a rule decides on, and what an error is made of."""

    kind: Kind
    message: str
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None
    job_id: str | None = None
    headers: Mapping[str, str] | None = None
    is_of_document: bool = False
    """Whether the whole document was refused, before any of it was done, as an unknown field is."""
    credits_required: float | None = None
    credits_available: float | None = None
    is_local: bool = False
    """Whether this machine is why nothing was sent, and not the network or the service."""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    """What code of the user's raised, such as a hook of their session."""

    def error_of_look(self, job_id: str) -> errors.DoitongError:
        """Return the public error that says this of a look at a job, which changes nothing about it."""
        error = self.error(job_id=job_id)
        if self.kind is not Kind.NOT_FOUND:
            error.outcome = "The job goes on: a look changes nothing about it, nor about its cost."
        return error

    def error(self, *, idempotency_key: str | None = None, job_id: str | None = None) -> errors.DoitongError:
        """Return the public error that says this."""
        error = self._error(idempotency_key, job_id)
        if self.cause is not None:
            error.__cause__ = self.cause
        if self.is_local:
            error.advice = "Mend what is named on this machine, then try again."
        return error

    def _error(self, idempotency_key: str | None, job_id: str | None) -> errors.DoitongError:
        facts: dict[str, Any] = {
            "http_status": self.http_status,
            "code": self.code,
            "request_id": self.request_id,
            "idempotency_key": idempotency_key,
            "job_id": job_id or self.job_id,
        }
        if self.kind is Kind.CREDITS:
            return errors.InsufficientCreditsError(
                self.message,
                credits_required=self.credits_required,
                credits_available=self.credits_available,
                **facts,
            )
        if self.kind in (Kind.NOT_SENT, Kind.UNANSWERED):
            return errors.ConnectionFailedError(self.message, sent=self.kind is Kind.UNANSWERED, **facts)
        return _ERRORS[self.kind](self.message, **facts)


_ERRORS: Final[dict[Kind, type[errors.DoitongError]]] = {
    Kind.BAD_REQUEST: errors.BadRequestError,
    Kind.AUTHENTICATION: errors.AuthenticationError,
    Kind.RATE_LIMIT: errors.RateLimitError,
    Kind.NOT_FOUND: errors.JobNotFoundError,
    Kind.CONFLICT: errors.SubmitOutcomeUnknownError,
    Kind.SERVER: errors.ServerError,
    Kind.PROTOCOL: errors.ProtocolError,
    Kind.MISPLACED: errors.ConfigurationError,
    Kind.UNUSABLE: errors.ConfigurationError,
}

# Only INSUFFICIENT_CREDITS is documented. The others are what GraphQL servers say of themselves, and the
# names of the documented error table; a word that is not here decides nothing.
_CODES: Final = {
    "INSUFFICIENT_CREDITS": Kind.CREDITS,
    "PAYMENT_REQUIRED": Kind.CREDITS,
    "UNAUTHENTICATED": Kind.AUTHENTICATION,
    "UNAUTHORIZED": Kind.AUTHENTICATION,
    "FORBIDDEN": Kind.AUTHENTICATION,
    "INVALID_API_KEY": Kind.AUTHENTICATION,
    "BAD_REQUEST": Kind.BAD_REQUEST,
    "BAD_USER_INPUT": Kind.BAD_REQUEST,
    "GRAPHQL_PARSE_FAILED": Kind.BAD_REQUEST,
    "GRAPHQL_VALIDATION_FAILED": Kind.BAD_REQUEST,
    "VALIDATION_ERROR": Kind.BAD_REQUEST,
    "NOT_FOUND": Kind.NOT_FOUND,
    "TOO_MANY_REQUESTS": Kind.RATE_LIMIT,
    "INTERNAL_SERVER_ERROR": Kind.SERVER,
    "SERVICE_UNAVAILABLE": Kind.SERVER,
}
_PARTS_OF_CODES: Final = (
    ("RATE_LIMIT", Kind.RATE_LIMIT),
    ("CONCURREN", Kind.RATE_LIMIT),
    ("DAILY", Kind.RATE_LIMIT),
    ("QUOTA", Kind.RATE_LIMIT),
    ("IDEMPOTEN", Kind.CONFLICT),
    ("CONFLICT", Kind.CONFLICT),
    ("NOT_FOUND", Kind.NOT_FOUND),
)
_STATUSES: Final = {
    400: Kind.BAD_REQUEST,
    401: Kind.AUTHENTICATION,
    402: Kind.CREDITS,
    403: Kind.AUTHENTICATION,
    404: Kind.MISPLACED,
    405: Kind.MISPLACED,
    408: Kind.SERVER,
    409: Kind.CONFLICT,
    410: Kind.MISPLACED,
    413: Kind.BAD_REQUEST,
    415: Kind.BAD_REQUEST,
    422: Kind.BAD_REQUEST,
    425: Kind.SERVER,
    429: Kind.RATE_LIMIT,
}
_MESSAGES: Final = (
    ("insufficient credits", Kind.CREDITS),
    ("payment required", Kind.CREDITS),
    ("unauthorized", Kind.AUTHENTICATION),
    ("invalid api key", Kind.AUTHENTICATION),
    ("missing api key", Kind.AUTHENTICATION),
    ("too many requests", Kind.RATE_LIMIT),
    ("rate limit", Kind.RATE_LIMIT),
    ("cannot query field", Kind.BAD_REQUEST),
    ("unknown argument", Kind.BAD_REQUEST),
    ("bad request", Kind.BAD_REQUEST),
    ("not found", Kind.NOT_FOUND),
    ("idempotency", Kind.CONFLICT),
)


def refusal_of(status: int, headers: Mapping[str, str], body: object, excerpt: str) -> Refusal | None:
    """Return why the service refused, or None if the answer says nothing of a failure.

    An error is understood with HTTP 200 as with the status of the documented table: the code says most,
    then the status, then the message.
    """
    error = next(iter(errors_in(body)), None)
    if error is None and 200 <= status < 300:
        return None
    fields = as_mapping(error)
    extensions = as_mapping(fields.get("extensions"))
    code = _text(extensions.get("code")) or _text(fields.get("code"))
    said = _text(fields.get("message")) or (error if isinstance(error, str) else None)
    return Refusal(
        kind=_kind(status, code, said),
        message=_sentence(status, said, headers, excerpt),
        http_status=status,
        code=code,
        request_id=headers.get("x-request-id"),
        job_id=_named_job(body, extensions),
        headers=headers,
        is_of_document="data" not in as_mapping(body) and "path" not in fields,
        credits_required=_number(extensions.get("creditsRequired")),
        credits_available=_number(extensions.get("creditsAvailable")),
    )


def as_mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def errors_in(body: object) -> list[object]:
    """Return what an answer says of failures: GraphQL's list, or one error as others spell it."""
    fields = as_mapping(body)
    listed = fields.get("errors")
    if isinstance(listed, list) and listed:
        return listed
    alone = fields.get("error") or listed
    return [alone] if alone else []


def _kind(status: int, code: str | None, said: str | None) -> Kind:
    by_code = _kind_of_code(code) if code else None
    if by_code is not None:
        return by_code
    if 300 <= status < 400:
        return Kind.MISPLACED
    if not 200 <= status < 300:
        return _STATUSES.get(status) or (Kind.SERVER if status >= 500 else Kind.PROTOCOL)
    # The words that come first: what follows them may be a prompt that is quoted.
    text = (said or "").lower()
    places = [(text.find(words), kind) for words, kind in _MESSAGES if words in text]
    # An error that nothing is known of: whether a job was made is not known either.
    return min(places, key=lambda place: place[0])[1] if places else Kind.SERVER


def _kind_of_code(code: str) -> Kind | None:
    word = code.strip().upper().replace("-", "_").replace(" ", "_")
    if len(word) == 3 and word.isdecimal():
        return _STATUSES.get(int(word)) or (Kind.SERVER if int(word) >= 500 else None)
    return _CODES.get(word) or next((kind for part, kind in _PARTS_OF_CODES if part in word), None)


def _sentence(status: int, said: str | None, headers: Mapping[str, str], excerpt: str) -> str:
    if said:
        return f"The service said: {said[:300]!r}."
    if 300 <= status < 400:
        return f"The service answered with a redirect (HTTP {status}), which is never followed with the key."
    kind = headers.get("content-type", "no content type").partition(";")[0]
    return f"The service answered HTTP {status} ({kind}): {excerpt or 'an empty body'}"


def _named_job(body: object, extensions: Mapping[str, object]) -> str | None:
    """Return the job that a conflict names, wherever it names it."""
    data = as_mapping(as_mapping(body).get("data"))
    jobs = [as_mapping(value).get("id") for value in data.values()]
    named = [*jobs, *(extensions.get(name) for name in ("id", "jobId", "generationId"))]
    return next((text for value in named if (text := _text(value)) is not None), None)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
