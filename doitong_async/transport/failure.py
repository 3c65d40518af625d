"""Classifies a failed answer, and makes the public error of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Any, Final

from doitong_async import errors


class FailureKind(StrEnum):
    """The kind of a failure: all that a decision about it needs; its text is its name in lower case."""

    BAD_REQUEST = auto()
    AUTHENTICATION = auto()
    CREDITS = auto()
    RATE_LIMIT = auto()
    NOT_FOUND = auto()
    CONFLICT = auto()
    IN_PROGRESS = auto()
    """The service is still processing an earlier attempt under the same idempotency key."""
    SERVER = auto()
    GATEWAY = auto()
    """A page in place of the API's answer: it says nothing about the key, the credits or the job."""
    PROTOCOL = auto()
    MISPLACED = auto()
    """HTTP says that nothing exists at this address: the address is wrong, not the request."""
    NO_OPERATION = auto()
    """The service does not know the status query."""
    UNUSABLE = auto()
    """The HTTP session cannot send the requests as we need them sent."""
    NOT_SENT = auto()
    UNANSWERED = auto()


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure as a value: decisions, events and errors are made from it."""

    kind: FailureKind
    message: str
    http_status: int | None = None
    code: str | None = None
    request_id: str | None = None
    job_id: str | None = None
    headers: Mapping[str, str] | None = None
    is_of_document: bool = False
    """Whether the whole document was rejected before any of it ran, as for an unknown field."""
    is_of_field: bool = False
    """Whether the message is about a field, as when the service does not know one."""
    names_error: bool = False
    """Whether the answer is JSON that names an error, and not a page or other text, as from a gateway."""
    is_listed: bool = False
    """Whether the error stands in the documented list `errors`, as only the API itself writes it."""
    credits_required: float | None = None
    credits_available: float | None = None
    is_local: bool = False
    """Whether this machine is why nothing was sent, not the network or the service."""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception that the user's code raised, such as a hook of their session."""

    def error_of_poll(self, job_id: str, token: str) -> errors.DoitongError:
        """Return the public error for a failed poll of a job; the poll changes nothing about the job."""
        return errors.about_job(self.error(job_id=job_id), job_id=job_id, token=token)

    def error(self, *, idempotency_key: str | None = None, job_id: str | None = None) -> errors.DoitongError:
        """Return the public error for this failure."""
        error = self._error(idempotency_key, job_id)
        if isinstance(error, errors.ConfigurationError):
            # Found out by a request, and not before one.
            error.outcome = "No job was made by this; jobs that were already running stay alive."
            error.advice = "Correct the setting named above."
            if self.kind is FailureKind.MISPLACED:
                error.advice = "Check base_url and transport."
        if self.cause is not None:
            error.__cause__ = self.cause
        if self.is_local:
            error.advice = "Fix the named problem on this machine, then try again."
        return error

    def _error(self, idempotency_key: str | None, job_id: str | None) -> errors.DoitongError:
        facts: dict[str, Any] = {
            "http_status": self.http_status,
            "code": self.code,
            "request_id": self.request_id,
            "idempotency_key": idempotency_key,
            "job_id": job_id or self.job_id,
        }
        if self.kind is FailureKind.CREDITS:
            return errors.InsufficientCreditsError(
                self.message,
                credits_required=self.credits_required,
                credits_available=self.credits_available,
                **facts,
            )
        if self.kind in (FailureKind.NOT_SENT, FailureKind.UNANSWERED):
            return errors.ConnectionFailedError(
                self.message, sent=self.kind is FailureKind.UNANSWERED, **facts
            )
        return _ERRORS[self.kind](self.message, **facts)


_ERRORS: Final[dict[FailureKind, type[errors.DoitongError]]] = {
    FailureKind.BAD_REQUEST: errors.BadRequestError,
    FailureKind.AUTHENTICATION: errors.AuthenticationError,
    FailureKind.RATE_LIMIT: errors.RateLimitError,
    FailureKind.NOT_FOUND: errors.JobNotFoundError,
    FailureKind.CONFLICT: errors.SubmitOutcomeUnknownError,
    FailureKind.IN_PROGRESS: errors.SubmitOutcomeUnknownError,
    FailureKind.SERVER: errors.ServerError,
    FailureKind.GATEWAY: errors.ServerError,
    FailureKind.PROTOCOL: errors.ProtocolError,
    FailureKind.MISPLACED: errors.ConfigurationError,
    FailureKind.NO_OPERATION: errors.ConfigurationError,
    FailureKind.UNUSABLE: errors.ConfigurationError,
}

_CREDIT_WORDS: Final = (
    # Only the code INSUFFICIENT_CREDITS is documented; the rest are assumptions from other services.
    re.compile(
        r"\b(?:insufficient|not (?:have )?enough|out of|lack(?:s|ing)?)(?: \w+){0,2} (?:credit|balance|fund)"
    ),
    re.compile(r"\b(?:no|zero)(?: remaining| more)? credits?\b(?! (?:was|were|has|have|will))"),
    re.compile(r"\bcredits?(?: \w+){0,2} (?:exhausted|depleted|used up|too low)\b"),
    re.compile(r"\bbalance(?: is)? too low\b"),
    re.compile(r"\binsufficient(?: \w+)? quota\b"),
    re.compile(r"\bpayment required\b|\bbilling (?:hard limit|not active)"),
    re.compile(r"\bexceeded your current quota\b(?!.*(?:minute|day|daily|concurren|requests))"),
)
"""Messages that mean insufficient credits, in lower case and without punctuation."""
_CREDIT_CODES: Final = (
    {"CREDIT"},
    {"CREDITS"},
    {"BALANCE"},
    {"FUNDS"},
    {"INSUFFICIENT", "QUOTA"},
    {"PAYMENT", "REQUIRED"},
    {"BILLING"},
)
"""Words that together, in a code, mean insufficient credits; all but INSUFFICIENT_CREDITS are assumptions."""

# None of these is documented. They are usual in GraphQL servers, or come from the documented error table; a
# code that is not here decides nothing.
_CODES: Final = {
    "UNAUTHENTICATED": FailureKind.AUTHENTICATION,
    "UNAUTHORIZED": FailureKind.AUTHENTICATION,
    "FORBIDDEN": FailureKind.AUTHENTICATION,
    "INVALID_API_KEY": FailureKind.AUTHENTICATION,
    "BAD_REQUEST": FailureKind.BAD_REQUEST,
    "BAD_USER_INPUT": FailureKind.BAD_REQUEST,
    "GRAPHQL_PARSE_FAILED": FailureKind.BAD_REQUEST,
    "GRAPHQL_VALIDATION_FAILED": FailureKind.BAD_REQUEST,
    "VALIDATION_ERROR": FailureKind.BAD_REQUEST,
    "NOT_FOUND": FailureKind.NOT_FOUND,
    "TOO_MANY_REQUESTS": FailureKind.RATE_LIMIT,
    "INTERNAL_SERVER_ERROR": FailureKind.SERVER,
    "SERVICE_UNAVAILABLE": FailureKind.SERVER,
}
_PARTS_OF_CODES: Final = (
    ("RATE_LIMIT", FailureKind.RATE_LIMIT),
    ("CONCURREN", FailureKind.RATE_LIMIT),
    ("DAILY", FailureKind.RATE_LIMIT),
    ("QUOTA", FailureKind.RATE_LIMIT),
    ("IDEMPOTEN", FailureKind.CONFLICT),
    ("CONFLICT", FailureKind.CONFLICT),
    ("NOT_FOUND", FailureKind.NOT_FOUND),
)
_CODE_FIELDS: Final = ("code", "type", "errorType", "errorCode", "reason")
_OTHER_REQUEST: Final = re.compile(r"\bdifferent\b|\banother\b|mismatch|not match|reuse|\bused\b")
_QUOTED: Final = re.compile(r"\"[^\"]*\"|`[^`]*`|“[^”]*”|‘[^’]*’|«[^»]*»|(?<!\w)'[^']*'")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STATUSES: Final = {
    400: FailureKind.BAD_REQUEST,
    401: FailureKind.AUTHENTICATION,
    402: FailureKind.CREDITS,
    403: FailureKind.AUTHENTICATION,
    404: FailureKind.MISPLACED,
    405: FailureKind.MISPLACED,
    408: FailureKind.SERVER,
    409: FailureKind.CONFLICT,
    410: FailureKind.MISPLACED,
    413: FailureKind.BAD_REQUEST,
    415: FailureKind.BAD_REQUEST,
    422: FailureKind.BAD_REQUEST,
    425: FailureKind.SERVER,
    429: FailureKind.RATE_LIMIT,
}
_IN_PROGRESS_WORDS: Final = (
    "in progress",
    "in flight",
    "key in use",
    "processing",
    "being processed",
    "outstanding",
    "pending",
    "locked",
)
_MESSAGES: Final = (
    ("unauthorized", FailureKind.AUTHENTICATION),
    ("invalid api key", FailureKind.AUTHENTICATION),
    ("missing api key", FailureKind.AUTHENTICATION),
    ("too many requests", FailureKind.RATE_LIMIT),
    ("rate limit", FailureKind.RATE_LIMIT),
    ("cannot query field", FailureKind.BAD_REQUEST),
    ("unknown argument", FailureKind.BAD_REQUEST),
    ("bad request", FailureKind.BAD_REQUEST),
    ("not found", FailureKind.NOT_FOUND),
    ("idempotency", FailureKind.CONFLICT),
)


def failure_of(status: int, headers: Mapping[str, str], body: object, excerpt: str) -> Failure | None:
    """Return why the request failed, or None if the answer reports no failure.

    An error counts with HTTP 200 as with the documented statuses: the code says most, then the status, then
    the message.
    """
    error = next(iter(errors_in(body)), None)
    if error is None and 200 <= status < 300:
        return None
    fields = as_mapping(error)
    extensions = as_mapping(fields.get("extensions"))
    codes = [code for name in _CODE_FIELDS for at in (extensions, fields) if (code := _text(at.get(name)))]
    message = _text(fields.get("message")) or _text(fields.get("detail"))
    message = message or (error if isinstance(error, str) else None)
    required, available = (
        _number(extensions.get("creditsRequired")),
        _number(extensions.get("creditsAvailable")),
    )
    is_page = error is None and _is_page(body, headers, excerpt)
    kind = _kind(status, codes, message, is_page=is_page, is_empty=not excerpt and body is None)
    if error is body and kind is FailureKind.SERVER and 200 <= status < 300:
        # The body merely has a message: nothing says that it is an error.
        return None
    if (
        kind is not FailureKind.CREDITS
        and required is not None
        and available is not None
        and required > available
    ):
        kind = FailureKind.CREDITS
    if kind is FailureKind.CONFLICT and _is_in_progress(codes, message, headers):
        kind = FailureKind.IN_PROGRESS
    return Failure(
        kind=kind,
        message=_sentence(status, message, headers, excerpt),
        http_status=status,
        code=next(iter(codes), None),
        request_id=headers.get("x-request-id"),
        job_id=_named_job(body, fields, is_conflict=kind in (FailureKind.CONFLICT, FailureKind.IN_PROGRESS)),
        headers=headers,
        is_of_document="data" not in as_mapping(body) and "path" not in fields,
        is_of_field="field" in (message or "").lower(),
        names_error=error is not None,
        is_listed=isinstance(as_mapping(body).get("errors"), list),
        credits_required=required,
        credits_available=available,
    )


def was_executed(body: object) -> bool:
    """Whether the errors of a mutation prove that it ran: a job may have been made, whatever they say.

    GraphQL runs the root field first: an error *below* it, or beside what it returned, comes later.
    """
    if isinstance(body, list):
        return any(map(was_executed, body))
    fields = as_mapping(body)
    data = fields.get("data")
    values = list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else [data]
    is_a_job = "data" not in fields and fields.get("id") and ("url" in fields or "creditCost" in fields)
    return bool(is_a_job) or any(value is not None for value in values) or _has_deep_path(errors_in(body))


def _has_deep_path(value: object, depth: int = 4) -> bool:
    """Whether an error, or one within it, has a path below a root field."""
    if isinstance(value, list):
        return any(_has_deep_path(each, depth) for each in value)
    fields = as_mapping(value)
    if depth == 0 or not fields:
        return False
    return _is_below_the_root(fields.get("path")) or any(
        _has_deep_path(each, depth - 1) for each in fields.values() if isinstance(each, dict | list)
    )


def _is_below_the_root(path: object) -> bool:
    # Against the specification, some servers join the path: "generate.creditCost".
    parts = path if isinstance(path, list) else [path]
    steps = [step for part in parts for step in re.split(r"[./\[\]>-]+", str(part)) if step]
    # A path into the variables says where the request is wrong.
    return path is not None and len(steps) > 1 and steps[0].lower().lstrip("$") not in _SENT


_SENT: Final = {"input", "variables", "variable", "args", "arguments", "argument", "query", "body", "params"}


def as_mapping(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def errors_in(body: object) -> list[object]:
    """Return the errors in an answer: GraphQL's list, or the single error of other services."""
    fields = as_mapping(body)
    listed = fields.get("errors")
    if isinstance(listed, list) and listed:
        return listed
    alone = fields.get("error") or listed
    if not alone and "data" not in fields and "id" not in fields:
        # REST services and gateways put the error at the top level.
        alone = fields if _text(fields.get("message")) or _text(fields.get("detail")) else None
    return [alone] if alone else []


def _kind(
    status: int, codes: Sequence[str], message: str | None, *, is_page: bool, is_empty: bool
) -> FailureKind:
    by_code = next((kind for code in codes if (kind := _kind_of_code(code)) is not None), None)
    by_words = _kind_of_words(message)
    if by_code not in (None, FailureKind.AUTHENTICATION):
        return by_code
    if by_words is FailureKind.CREDITS and status < 500 and _is_plain(message, status):
        return by_words
    if by_code is not None:
        return by_code
    if 300 <= status < 400:
        # 307 and 308 ask for the same request elsewhere; the others may come after it was executed.
        return FailureKind.MISPLACED if status >= 307 else FailureKind.GATEWAY
    if status < 500 and status not in (408, 425, 429) and (is_page or (is_empty and status == 403)):
        return FailureKind.GATEWAY
    if not 200 <= status < 300:
        return _STATUSES.get(status) or (FailureKind.SERVER if status >= 500 else FailureKind.PROTOCOL)
    # An unknown error: whether a job was made is unknown too.
    return by_words or FailureKind.SERVER


def _kind_of_words(message: str | None) -> FailureKind | None:
    """Return what a message means, by its first known words; what it quotes may be a prompt."""
    text = _unquoted(message)
    found = [(text.find(words), kind) for words, kind in _MESSAGES if words in text]
    found += [(at.start(), FailureKind.CREDITS) for words in _CREDIT_WORDS if (at := words.search(text))]
    return min(found, key=lambda each: each[0])[1] if found else None


def _unquoted(message: str | None) -> str:
    """Return a message in lower case, without quoted parts and punctuation."""
    text = (message or "").strip()
    if len(text) > 1 and text[0] in "\"'`" and text[-1] == text[0] and text.count(text[0]) == 2:
        # The whole message is in quotes, so nothing in it is a quotation.
        text = text[1:-1]
    return _as_words(_QUOTED.sub(" ", text))


def _is_plain(message: str | None, status: int) -> bool:
    """Whether a message is the service's own sentence, where the status says that the request is wrong.

    Such a message may continue with the prompt, unquoted.
    """
    if status not in (400, 413, 415, 422):
        return True
    return not re.search(r"[:(]|prompt|text|content|policy", message or "", re.IGNORECASE)


def _kind_of_code(code: str) -> FailureKind | None:
    name = _as_words(code).upper().replace(" ", "_")
    if len(name) == 3 and name.isdecimal():
        return _STATUSES.get(int(name)) or (FailureKind.SERVER if int(name) >= 500 else None)
    if any(words <= set(name.split("_")) for words in _CREDIT_CODES):
        return FailureKind.CREDITS
    return _CODES.get(name) or next((kind for part, kind in _PARTS_OF_CODES if part in name), None)


def _as_words(code: str) -> str:
    """Return a code such as "InsufficientQuota" or "insufficient-quota" as "insufficient quota"."""
    return " ".join(re.split(r"[\W_]+", _CAMEL.sub(" ", code))).strip().lower()


def _is_in_progress(codes: Sequence[str], message: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a conflict over a key will pass: the service says so, or says when to retry."""
    text = " ".join([*map(_as_words, codes), _as_words(message or "")])
    if any(words in text for words in _IN_PROGRESS_WORDS):
        return True
    return "retry-after" in headers and not _OTHER_REQUEST.search(text)


def _is_page(body: object, headers: Mapping[str, str], excerpt: str) -> bool:
    """Whether an answer is not JSON but a page, such as one from a gateway or proxy."""
    return not isinstance(body, dict | list) and bool(excerpt or "html" in headers.get("content-type", ""))


def _sentence(status: int, message: str | None, headers: Mapping[str, str], excerpt: str) -> str:
    if message:
        return f"The service said: {message[:300]!r}."
    if 300 <= status < 400:
        return f"The service answered with a redirect (HTTP {status}), which is never followed with the key."
    kind = headers.get("content-type", "no content type").partition(";")[0]
    return f"The service answered HTTP {status} ({kind}): {excerpt or 'an empty body'}"


def _named_job(body: object, error: Mapping[str, object], *, is_conflict: bool) -> str | None:
    """Return the id of the job that an error names, in any of the usual fields."""
    whole, extensions = as_mapping(body), as_mapping(error.get("extensions"))
    data = as_mapping(whole.get("data"))
    named = [as_mapping(value).get("id") for value in data.values()]
    if is_conflict:
        named.append(extensions.get("id"))
        # In REST, the job itself may be the answer. An id without the fields of a job may be the error's.
        named += [each.get("id") for each in (data, whole) if "url" in each or "creditCost" in each]
    named += [each.get(name) for each in (extensions, error, whole) for name in ("jobId", "generationId")]
    return next((text for value in named if (text := _text(value)) is not None), None)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and str(value) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
