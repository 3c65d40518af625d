"""Reads the answers of the service by their shape; nothing here sends anything."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from pydantic import ValidationError
from pydantic_core import from_json

from doitong_async.transport.failure import (
    Failure,
    FailureKind,
    as_mapping,
    errors_in,
    failure_of,
    was_executed,
)
from doitong_async.types import Generation, JobStatus
from doitong_async.unicode import is_unicode

EXCERPT: Final = 200
"""Characters of an answer that an error quotes."""

KEPT_HEADERS: Final = (
    "content-type",
    "date",
    "retry-after",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
)
"""The headers of an answer that the client reads; the others are dropped with the answer."""


# A codec opens its file at first use, when there may be no descriptor left.
codecs.lookup("utf-8-sig")


def read_text(raw: bytes) -> str:
    """Return the text of a body, with invalid UTF-8 replaced and without a byte order mark."""
    return raw.decode("utf-8-sig", "replace")


def read_json(raw: bytes) -> object:
    """Return the JSON in a body, or None; answers and webhooks are read alike.

    An odd value, such as a lone surrogate, must not cost the id beside it. NaN and infinities are
    read as Python's.
    """
    with suppress(ValueError):
        return from_json(raw)
    # Slower, and more forgiving.
    with suppress(ValueError, RecursionError):
        return json.loads(read_text(raw), parse_int=_number)
    return None


def _number(digits: str) -> int | None:
    try:
        return int(digits)
    except ValueError:
        # Python parses no integer of more than 4,300 digits.
        return None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the service, with everything that the client acts on.

    `headers` has lower-case names, `body` is the parsed JSON or None; nothing here holds the API key.
    """

    status: int
    headers: Mapping[str, str]
    body: object
    text: str

    @property
    def excerpt(self) -> str:
        """The beginning of the answer on one line, for errors."""
        # A parsed body has no escapes left in which a key could hide.
        text = self.text if self.body is None else json.dumps(self.body, ensure_ascii=False)
        return " ".join(text[:EXCERPT].split())


@dataclass(frozen=True, slots=True)
class PollAnswer:
    """What one status request returned.

    `found` are jobs, `missing` ids that the service says it does not know, `unanswered` ids that it ignored,
    as a service without aliases would, and `unreadable` ids whose fields failed, each with the reason.
    """

    found: Sequence[Generation]
    missing: Sequence[str]
    unanswered: Sequence[str]
    unreadable: Mapping[str, str]


def read_submit(answer: Answer) -> Generation | Failure:
    """Read the answer to a submit: the job it made, under any field name, or why there is none."""
    failure = _failure(answer)
    is_success = 200 <= answer.status < 300
    jobs = [job for value in _payloads(answer.body) if (job := read_generation(value)) is not None]
    is_partial = "data" in as_mapping(answer.body) and bool(errors_in(answer.body))
    is_conflict = failure is not None and failure.kind in (FailureKind.CONFLICT, FailureKind.IN_PROGRESS)
    if len(jobs) == 1 and (is_success or (is_partial and not is_conflict)):
        # Errors beside a job are about its fields; the job exists and is paid for.
        return jobs[0]
    if failure is not None and not is_conflict and _proves_a_charge(answer, failure):
        # Whatever the error says, even "Unauthorized": the mutation ran before it.
        return replace(
            failure,
            kind=FailureKind.PROTOCOL,
            message=f"The mutation ran, and its answer failed. {failure.message}",
        )
    if failure is not None and answer.status >= 500 and failure.kind in _CLEAR_NO:
        # A server that failed proves nothing, whatever else it says.
        return replace(failure, kind=FailureKind.SERVER)
    if not is_success:
        return failure or _unreadable(answer, "an answer without a meaning")
    return failure or _unreadable(answer, "no job with an id and a status" if not jobs else "several jobs")


_CLEAR_NO: Final = frozenset(
    {
        FailureKind.BAD_REQUEST,
        FailureKind.AUTHENTICATION,
        FailureKind.CREDITS,
        FailureKind.NOT_FOUND,
        FailureKind.MISPLACED,
    }
)


def _proves_a_charge(answer: Answer, failure: Failure) -> bool:
    """Whether an answer without a readable job shows that one may have been made."""
    if not was_executed(answer.body):
        return failure.job_id is not None and failure.kind in _CLEAR_NO
    return bool(errors_in(answer.body)) or failure.kind in _CLEAR_NO


def read_poll(answer: Answer, ids: Sequence[str]) -> PollAnswer | Failure:
    """Read the answer to a poll; each job is matched by its `id`, not by its alias."""
    failure = _failure(answer)
    if not 200 <= answer.status < 300:
        return failure or _unreadable(answer, "an answer without a meaning")
    data = as_mapping(as_mapping(answer.body).get("data"))
    failed = _errors_by_alias(answer.body)
    jobs = [job for value in _payloads(answer.body) if (job := read_generation(value)) is not None]
    aliases = {job_id: f"j{n}" for n, job_id in enumerate(ids)}
    # Of several jobs, an error may be about another one.
    all_errors = errors_in(answer.body) if len(ids) == 1 else []
    found = {
        job.id: _with_errors(job, all_errors or failed.get(aliases[job.id], []))
        for job in jobs
        if job.id in aliases
    }
    if len(ids) == 1 and len(data) == 1:
        # Another alias is no problem where no other job can be meant.
        data, failed = {"j0": next(iter(data.values()))}, {"j0": errors_in(answer.body)}
    rest = {job_id: alias for job_id, alias in aliases.items() if job_id not in found}
    unanswered = [job_id for job_id, alias in rest.items() if alias not in data]
    if len(unanswered) == len(ids):
        return failure or _unreadable(answer, "none of the jobs that were asked for")
    missing = [job_id for job_id, alias in rest.items() if _is_missing(alias, data, failed)]
    unreadable = {
        job_id: _reason(failed.get(alias) or failed.get(None, []))
        for job_id, alias in rest.items()
        if alias in data and job_id not in missing
    }
    return PollAnswer(list(found.values()), missing, unanswered, unreadable)


def read_generation(value: object) -> Generation | None:
    """Read one job by its shape, an object with an id; without a status, the URL decides."""
    fields = as_mapping(value)
    url = fields.get("url") or fields.get("videoUrl") or fields.get("audioUrl")
    status = fields.get("status")
    if not isinstance(status, str) or not status.strip() or not is_unicode(status):
        # The id is what is paid for; an invalid status counts as none.
        status = JobStatus.COMPLETED if url else JobStatus.PROCESSING
    try:
        return Generation(
            id=fields.get("id"),  # type: ignore[arg-type]  # pydantic checks what the service sent
            status=status,  # type: ignore[arg-type]
            url=url,  # type: ignore[arg-type]
            type=fields.get("type"),  # type: ignore[arg-type]
            provider=fields.get("provider") or fields.get("service"),  # type: ignore[arg-type]
            metadata=fields.get("metadata"),  # type: ignore[arg-type]
            credit_cost=fields.get("creditCost"),  # type: ignore[arg-type]
            created_at=fields.get("createdAt"),  # type: ignore[arg-type]
            extra=_extra(fields, url),  # type: ignore[arg-type]
        )
    except ValidationError:
        pass
    # The id is what is paid for: if another field is invalid, return the job by its id alone.
    try:
        return Generation(id=fields.get("id"), status=JobStatus.PROCESSING)  # type: ignore[arg-type]
    except ValidationError:
        return None


_READ: Final = frozenset(
    {"id", "status", "url", "type", "provider", "service", "metadata", "creditCost", "createdAt"}
)
_URLS: Final = frozenset({"videoUrl", "audioUrl"})


def _extra(fields: Mapping[str, object], url: object) -> dict[str, object]:
    """Return the fields that no other attribute has; of the URLs, those that are not the output's."""
    if fields.keys() <= _READ:
        return {}
    return {
        name: value
        for name, value in fields.items()
        if name not in _READ and not (name in _URLS and value in (None, url))
    }


def _failure(answer: Answer) -> Failure | None:
    if 200 <= answer.status < 300 and not errors_in(answer.body):
        return None
    return failure_of(answer.status, answer.headers, answer.body, answer.excerpt)


def _payloads(body: object) -> list[object]:
    """Return the values that may be jobs: those under `data`, or a REST body itself."""
    fields = as_mapping(body)
    if "data" not in fields:
        return [fields] if "id" in fields else _nested(fields)
    data = as_mapping(fields["data"])
    below: list[object] = [data] if "id" in data else list(data.values())
    # Beside data, an id alone is the request's, or the like.
    is_job = "id" in fields and ("url" in fields or isinstance(fields.get("status"), str))
    return [fields, *below] if is_job else below


def _nested(fields: Mapping[str, object]) -> list[object]:
    """Return the jobs one level below a REST body, of which none is documented; an error's id is no job's."""
    jobs = [as_mapping(value) for value in fields.values()]
    is_error = "error" in fields or "errors" in fields
    return [] if is_error else [job for job in jobs if "id" in job and ("status" in job or "url" in job)]


def _errors_by_alias(body: object) -> dict[object, list[object]]:
    """Return the errors by the first part of their path, the alias; those without a path under None."""
    by_alias: dict[object, list[object]] = {}
    for error in errors_in(body):
        path = as_mapping(error).get("path")
        alias = path[0] if isinstance(path, list) and path and isinstance(path[0], str) else None
        by_alias.setdefault(alias, []).append(error)
    return by_alias


def _with_errors(job: Generation, errors: Sequence[object]) -> Generation:
    """Return a job that failed with the errors beside it, which may say why."""
    is_over = job.status.is_failure or not job.status.is_known
    if not is_over or "errors" in job.extra or not errors:
        return job
    return replace(job, extra={**job.extra, "errors": errors})  # type: ignore[dict-item]  # parsed from JSON


def _is_missing(alias: str, data: Mapping[str, object], failed: Mapping[object, list[object]]) -> bool:
    """Whether the service does not know the job: a null with no error, or with a "not found"."""
    if alias not in data or data[alias] is not None:
        return False
    if was_executed({"errors": failed.get(alias, [])}):
        # A field of the job was not found; the job itself was.
        return False
    reasons = [
        failure_of(200, {}, {"errors": [error]}, "") for error in failed.get(alias) or failed.get(None, [])
    ]
    return all(reason is not None and reason.kind is FailureKind.NOT_FOUND for reason in reasons)


def _reason(errors: Sequence[object]) -> str:
    failure = failure_of(200, {}, {"errors": list(errors)}, "")
    return failure.message if failure else "The service answered without the fields of the job."


def _unreadable(answer: Answer, what: str) -> Failure:
    return Failure(
        kind=FailureKind.PROTOCOL,
        message=f"The service answered HTTP {answer.status} with {what}: {answer.excerpt or 'an empty body'}",
        http_status=answer.status,
        request_id=answer.headers.get("x-request-id"),
    )
