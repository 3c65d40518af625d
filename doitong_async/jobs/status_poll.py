"""Polls many jobs in one request; splits one that fails, and finds the query's name if it is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from doitong_async.errors import BadRequestError
from doitong_async.events import Hook, RequestSent
from doitong_async.jobs.poll_size import PollSize
from doitong_async.limits.admission import Admission
from doitong_async.limits.permits import Priority, RequestPermit
from doitong_async.log import log
from doitong_async.transport import introspection
from doitong_async.transport.failure import Failure, FailureKind, failure_of
from doitong_async.transport.forms import graphql_body
from doitong_async.transport.status import (
    Message,
    StatusOperation,
    StatusPath,
    StatusQuery,
    most_in_one_poll,
    poll_message,
)
from doitong_async.transport.wire import Answer, PollAnswer, read_poll
from doitong_async.types import Generation, with_failures

if TYPE_CHECKING:
    from doitong_async.transport.calls import Transport


_ABOUT_THE_QUERY: Final = frozenset({FailureKind.BAD_REQUEST, FailureKind.SERVER, FailureKind.NOT_FOUND})
"""Failures that one job among many, or the number of jobs, may cause."""
_TOO_LARGE: Final = 413
_TOO_EARLY_OR_LATE: Final = frozenset({408, 425})

NO_SUCH_PATH: Final = frozenset({404, 405, 410})
"""What a server answers for a path that it does not have."""
_PASSING: Final = frozenset(
    {FailureKind.RATE_LIMIT, FailureKind.SERVER, FailureKind.AUTHENTICATION, FailureKind.CREDITS}
)
"""Failures of the introspection that say nothing about the schema: the next poll asks again."""


class _Standing(Enum):
    """What we know of the status operation."""

    UNPROVEN = auto()
    PROVEN = auto()
    """A poll found a job, or the schema has the operation: a failure now is about a job."""


@dataclass(slots=True)
class PollResult:
    """What a poll brought.

    `found` are jobs, `missing` ids that the service does not know, `unreadable` ids whose job could not be
    read, `spoilers` ids that fail even alone, `unaskable` ids that the status operation cannot take;
    `failure` is why the others are not here. `part` is how many jobs were answered at once after a poll of
    all together failed.
    """

    found: list[Generation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    spoilers: dict[str, Failure] = field(default_factory=dict)
    unaskable: dict[str, Failure] = field(default_factory=dict)
    failure: Failure | None = None
    part: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the poll brought nothing about any job."""
        return not (self.found or self.missing or self.unreadable)

    def add(self, other: PollResult) -> None:
        """Add the results of another poll."""
        self.found += other.found
        self.missing += other.missing
        self.unreadable |= other.unreadable
        self.spoilers |= other.spoilers
        self.unaskable |= other.unaskable
        self.failure = self.failure or other.failure
        self.came_in_parts(other.part)

    def came_in_parts(self, part: int | None) -> None:
        """Record that jobs were answered in parts of this size, if they were."""
        if part is not None:
            self.part = part if self.part is None else min(self.part, part)


class StatusPoll:
    """Poll the status of jobs, and learn the right status operation where the setting is wrong."""

    def __init__(
        self,
        transport: Transport,
        admission: Admission,
        query: StatusQuery,
        notify: Hook,
        failure_words: frozenset[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self._admission = admission
        self._query = query
        self._notify = notify
        self._failure_words = failure_words
        self._size = PollSize(most_in_one_poll(query))
        self._standing = _Standing.UNPROVEN

    @property
    def most(self) -> int:
        """How many jobs fit into one poll."""
        return self._size.most

    async def poll(
        self, ids: Sequence[str], *, timeout: float, permit: RequestPermit | None = None
    ) -> PollResult:
        """Poll these jobs, at most `timeout` seconds a request; the first request uses the given permit."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        result = await self._poll(ids, timeout, permit, is_hopeless=False)
        if result.failure is None and result.part is not None:
            self._size.went_in_parts(len(ids), result.part, asked_at=asked_at, now=loop.time())
        elif result.failure is None and not result.spoilers:
            self._size.went_whole(len(ids))
        return result

    async def _poll(
        self, ids: Sequence[str], timeout: float, permit: RequestPermit | None, *, is_hopeless: bool
    ) -> PollResult:
        """Poll; a hopeless poll is not halved, as every request just before it failed."""
        askable = [job_id for job_id in ids if self._query.value_of(job_id) is not None]
        if len(askable) < len(ids):
            return await self._poll_beside_unaskable(ids, askable, timeout, permit, is_hopeless=is_hopeless)
        answer = await self._ask(ids, timeout, permit)
        if isinstance(answer, PollAnswer):
            return await self._read(answer, timeout)
        if isinstance(self._query, StatusPath) and answer.http_status in NO_SUCH_PATH:
            return self._nothing_there(self._query, ids, answer)
        if not _is_about_the_query(answer):
            return PollResult(failure=answer)
        is_document_wrong = self._standing is _Standing.UNPROVEN and answer.is_of_document
        if isinstance(self._query, StatusOperation) and is_document_wrong:
            return await self._poll_by_another_name(
                self._query, ids, timeout, answer, is_hopeless=is_hopeless
            )
        if len(ids) == 1:
            is_missing = answer.kind is FailureKind.NOT_FOUND and not answer.is_of_document
            return PollResult(missing=list(ids)) if is_missing else PollResult(spoilers={ids[0]: answer})
        if is_hopeless:
            return PollResult(failure=answer)
        return await self._poll_in_halves(ids, timeout)

    async def _poll_beside_unaskable(
        self,
        ids: Sequence[str],
        askable: Sequence[str],
        timeout: float,
        permit: RequestPermit | None,
        *,
        is_hopeless: bool,
    ) -> PollResult:
        """Poll the ids that the operation can take; the others would make the whole query fail."""
        result = PollResult()
        if askable:
            result.add(await self._poll(askable, timeout, permit, is_hopeless=is_hopeless))
        odd = set(ids) - set(askable)
        result.unaskable |= {job_id: _unaskable(self._query, job_id) for job_id in ids if job_id in odd}
        return result

    async def _read(self, statuses: PollAnswer, timeout: float) -> PollResult:
        found = [with_failures(job, self._failure_words) for job in statuses.found]
        result = PollResult(found, list(statuses.missing), dict(statuses.unreadable))
        if result.found:
            self._standing = _Standing.PROVEN
        if statuses.unanswered:
            # A glitch, or a service without aliases, which answers some jobs and ignores the rest.
            result.came_in_parts(len(statuses.found) + len(statuses.missing) + len(statuses.unreadable))
            result.add(await self._poll(statuses.unanswered, timeout, None, is_hopeless=False))
        return result

    def _nothing_there(self, path: StatusPath, ids: Sequence[str], answer: Failure) -> PollResult:
        """Tell a job that the service does not know from a path that it does not have."""
        is_of_job = answer.is_listed or self._standing is _Standing.PROVEN
        if is_of_job and answer.kind in (FailureKind.NOT_FOUND, FailureKind.MISPLACED):
            return PollResult(missing=list(ids))
        if self._standing is _Standing.PROVEN:
            return PollResult(failure=answer)
        message = (
            f"The service has nothing at the status path {str(path)!r}, as far as is known: no job was found "
            f"there yet. {answer.message} Set status_path to the right one."
        )
        return PollResult(failure=replace(answer, kind=FailureKind.NO_OPERATION, message=message))

    async def _poll_in_halves(self, ids: Sequence[str], timeout: float) -> PollResult:
        half = (len(ids) + 1) // 2
        result = await self._poll(ids[:half], timeout, None, is_hopeless=False)
        if result.failure is not None and not _is_about_the_query(result.failure):
            return result
        # If nothing at all gets through, further halving would cost a request for every job.
        result.add(await self._poll(ids[half:], timeout, None, is_hopeless=result.is_empty))
        if len(result.found) == len(ids):
            # Every job can be polled, so their number was the cause.
            result.came_in_parts(half)
        if result.is_empty and result.spoilers and result.failure is None:
            # Every job failed, so none of them is to blame more than the others.
            result.failure, result.spoilers = next(iter(result.spoilers.values())), {}
        return result

    async def _poll_by_another_name(
        self,
        operation: StatusOperation,
        ids: Sequence[str],
        timeout: float,
        failure: Failure,
        *,
        is_hopeless: bool,
    ) -> PollResult:
        """Look up the status operation in the schema, as the document failed and never worked before."""
        with await self._admission.permit(Priority.POLL) as permit:
            answer = await self._send(graphql_body(introspection.DOCUMENT, {}), timeout, permit)
        if isinstance(answer, Failure):
            return PollResult(failure=answer)
        failed = failure_of(answer.status, answer.headers, answer.body, answer.excerpt)
        if failed is not None and failed.kind in _PASSING:
            self._obey(failed)
            return PollResult(failure=failed)
        candidates = introspection.status_candidates(answer.body)
        is_known = operation in candidates or introspection.has_query(answer.body, operation.field)
        if not is_known and not failure.is_of_field:
            # The failure names no field, so it may be about this one id, or pass by the next poll.
            return PollResult(failure=failure) if len(ids) > 1 else PollResult(spoilers={ids[0]: failure})
        if not is_known and len(candidates) != 1:
            message = _no_operation(operation, candidates, failure)
            return PollResult(failure=replace(failure, kind=FailureKind.NO_OPERATION, message=message))
        if not is_known:
            self._adopt(candidates[0])
        self._standing = _Standing.PROVEN
        return await self._poll(ids, timeout, None, is_hopeless=is_hopeless)

    def _adopt(self, operation: StatusOperation) -> None:
        log.warning(
            "The service does not know the status operation %r; its schema has %r, which is used now. "
            'Set status_operation="%s" to spare the detour.',
            str(self._query),
            str(operation),
            operation,
        )
        self._query = operation

    async def _ask(
        self, ids: Sequence[str], timeout: float, permit: RequestPermit | None
    ) -> PollAnswer | Failure:
        with permit or await self._admission.permit(Priority.POLL) as permit:
            try:
                message = poll_message(self._query, ids)
            except BadRequestError as error:
                # The id has characters that cannot be encoded.
                return Failure(FailureKind.BAD_REQUEST, error.message)
            # Aside: send the poll in any case, as other callers' jobs wait for it.
            self._notify.aside(RequestSent(kind="poll", jobs=len(ids)))
            with self._notify.request("poll", job_ids=tuple(ids)) as end:
                answer = await self._send(message, timeout, permit)
                statuses = answer if isinstance(answer, Failure) else read_poll(answer, ids)
                if isinstance(answer, Answer):
                    end.http_status = answer.status
                if isinstance(statuses, Failure):
                    end.failed(statuses)
        if isinstance(statuses, Failure):
            self._obey(statuses)
        return statuses

    def _obey(self, failure: Failure) -> None:
        """Make the rate limiter wait as the failed poll demands."""
        if failure.kind is FailureKind.RATE_LIMIT:
            self._admission.limiter.rate_limited(failure, is_submit=False)
        else:
            self._admission.limiter.delay_polls(failure)

    async def _send(self, message: Message, timeout: float, permit: RequestPermit) -> Answer | Failure:
        if permit.is_stale:
            permit.unsent()
            return Failure(FailureKind.NOT_SENT, "Not sent: the process stood still before it.")
        permit.sends()
        answer = await self._transport.send(message, timeout=timeout)
        if isinstance(answer, Answer):
            self._admission.observe_headers(answer.headers, permit, was_accepted=answer.status < 400)
        elif answer.kind is FailureKind.NOT_SENT:
            permit.unsent()
        return answer


def _is_about_the_query(failure: Failure) -> bool:
    """Whether a smaller query may succeed: the service itself said that this one is wrong, or too large.

    A page, a 5xx or an unreadable answer says nothing about it: the same query may succeed in the next poll.
    """
    if failure.http_status == _TOO_LARGE:
        return True
    is_outage = (failure.http_status or 0) >= 500 or failure.http_status in _TOO_EARLY_OR_LATE
    is_about_now = is_outage or "retry-after" in (failure.headers or {})
    return failure.kind in _ABOUT_THE_QUERY and failure.names_error and not is_about_now


def _unaskable(query: StatusQuery, job_id: str) -> Failure:
    if isinstance(query, StatusPath):
        return Failure(
            FailureKind.PROTOCOL,
            f"The status of job {job_id!r} cannot be asked for: this id can be no part of a path.",
        )
    return Failure(
        FailureKind.PROTOCOL,
        f"The status of job {job_id!r} cannot be asked for: the status operation {str(query)!r} takes a "
        "number, and this id is none that fits. Set status_operation to one that takes it, such as "
        f'"{query.field}({query.argument}: ID!)".',
    )


def _no_operation(asked: StatusOperation, candidates: Sequence[StatusOperation], failure: Failure) -> str:
    found = ", ".join(str(candidate) for candidate in candidates) or "none"
    return (
        f"The service does not know the status operation {str(asked)!r} ({failure.message}) "
        f"Query fields that take an id and return what generate returns: {found}. "
        "Set status_operation to the right one."
    )
