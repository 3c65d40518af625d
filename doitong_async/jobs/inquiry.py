"""Asking for the status of many jobs at once: in halves where refused, by another name where unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from doitong_async.errors import BadRequestError
from doitong_async.events import CallSent
from doitong_async.hook import Hook
from doitong_async.jobs.poll_size import PollSize
from doitong_async.limits.entrance import Entrance
from doitong_async.limits.gate import Priority
from doitong_async.limits.grants import Turn
from doitong_async.log import log
from doitong_async.transport import introspection, wire
from doitong_async.transport.refusal import Kind, Refusal, refusal_of
from doitong_async.transport.wire import Answer, Looks, StatusOperation
from doitong_async.types import Generation, with_failures

if TYPE_CHECKING:
    from doitong_async.transport.graphql import GraphQLTransport


_ABOUT_THE_QUERY: Final = frozenset({Kind.BAD_REQUEST, Kind.SERVER, Kind.NOT_FOUND})
"""Refusals that one job among many, or the number of them, may be the reason of."""
_TOO_LARGE: Final = 413
_TOO_EARLY_OR_LATE: Final = frozenset({408, 425})

_PASSING: Final = frozenset({Kind.RATE_LIMIT, Kind.SERVER, Kind.AUTHENTICATION, Kind.CREDITS})
"""Refusals of the introspection that say nothing of the schema: it is asked again at the next look."""


class _Standing(Enum):
    """What is known of the status operation."""

    UNPROVEN = auto()
    PROVEN = auto()
    """A look brought a job, or the schema has the operation: what is refused now is refused for a job."""


@dataclass(slots=True)
class Report:
    """What a look brought.

    `found` are jobs, `missing` ids that are not known, `unreadable` ids whose job was there but could not be
    read, `spoilers` ids that were refused alone, `unaskable` ids for which the status operation has no place;
    `refusal` is why the rest is not here. `part` is how many
    jobs were answered at once where all together were not.
    """

    found: list[Generation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    spoilers: dict[str, Refusal] = field(default_factory=dict)
    unaskable: dict[str, Refusal] = field(default_factory=dict)
    refusal: Refusal | None = None
    part: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was learned of any job."""
        return not (self.found or self.missing or self.unreadable)

    def add(self, other: Report) -> None:
        """Take over what another look brought."""
        self.found += other.found
        self.missing += other.missing
        self.unreadable |= other.unreadable
        self.spoilers |= other.spoilers
        self.unaskable |= other.unaskable
        self.refusal = self.refusal or other.refusal
        self.came_in_parts(other.part)

    def came_in_parts(self, part: int | None) -> None:
        """Note that jobs came in parts of so many, if they did."""
        if part is not None:
            self.part = part if self.part is None else min(self.part, part)


class Inquiry:
    """Knows how this service is asked for a status, and learns it where the setting is wrong."""

    def __init__(
        self,
        transport: GraphQLTransport,
        entrance: Entrance,
        operation: StatusOperation,
        notify: Hook,
        failure_words: frozenset[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self._entrance = entrance
        self._operation = operation
        self._notify = notify
        self._failure_words = failure_words
        self._size = PollSize(wire.MOST_IN_ONE_LOOK)
        self._standing = _Standing.UNPROVEN

    @property
    def most(self) -> int:
        """How many jobs fit into one look."""
        return self._size.most

    async def look(self, ids: Sequence[str], *, timeout: float, turn: Turn | None = None) -> Report:
        """Ask for these jobs, at most `timeout` seconds a request, the first one on the turn given."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        report = await self._look(ids, timeout, turn, is_hopeless=False)
        if report.refusal is None and report.part is not None:
            self._size.went_in_parts(len(ids), report.part, asked_at=asked_at, now=loop.time())
        elif report.refusal is None and not report.spoilers:
            self._size.went_whole(len(ids))
        return report

    async def _look(
        self, ids: Sequence[str], timeout: float, turn: Turn | None, *, is_hopeless: bool
    ) -> Report:
        """Ask; a hopeless look is not halved, as everything that was asked just before was refused."""
        askable = [job_id for job_id in ids if self._operation.value_of(job_id) is not None]
        if len(askable) < len(ids):
            return await self._look_beside_unaskable(ids, askable, timeout, turn, is_hopeless=is_hopeless)
        answer = await self._ask(ids, timeout, turn)
        if isinstance(answer, Looks):
            return await self._read(answer, timeout)
        if not _is_about_the_query(answer):
            return Report(refusal=answer)
        if self._standing is _Standing.UNPROVEN and answer.is_of_document:
            return await self._look_by_another_name(ids, timeout, answer, is_hopeless=is_hopeless)
        if len(ids) == 1:
            is_missing = answer.kind is Kind.NOT_FOUND and not answer.is_of_document
            return Report(missing=list(ids)) if is_missing else Report(spoilers={ids[0]: answer})
        if is_hopeless:
            return Report(refusal=answer)
        return await self._look_in_halves(ids, timeout)

    async def _look_beside_unaskable(
        self,
        ids: Sequence[str],
        askable: Sequence[str],
        timeout: float,
        turn: Turn | None,
        *,
        is_hopeless: bool,
    ) -> Report:
        """Ask for those that can be asked for; the others would have the whole query refused."""
        report = Report()
        if askable:
            report.add(await self._look(askable, timeout, turn, is_hopeless=is_hopeless))
        elif turn is not None:
            turn.unsent()
        odd = set(ids) - set(askable)
        report.unaskable |= {job_id: _no_argument(self._operation, job_id) for job_id in ids if job_id in odd}
        return report

    async def _read(self, looks: Looks, timeout: float) -> Report:
        found = [with_failures(job, self._failure_words) for job in looks.found]
        report = Report(found, list(looks.missing), dict(looks.unreadable))
        if report.found:
            self._standing = _Standing.PROVEN
        if looks.unanswered:
            # A slip, or a service without aliases, which answers so many and passes over the rest.
            report.came_in_parts(len(looks.found) + len(looks.missing) + len(looks.unreadable))
            report.add(await self._look(looks.unanswered, timeout, None, is_hopeless=False))
        return report

    async def _look_in_halves(self, ids: Sequence[str], timeout: float) -> Report:
        half = (len(ids) + 1) // 2
        report = await self._look(ids[:half], timeout, None, is_hopeless=False)
        if report.refusal is not None and not _is_about_the_query(report.refusal):
            return report
        # Where nothing at all gets through, halving on would cost a request for every job.
        report.add(await self._look(ids[half:], timeout, None, is_hopeless=report.is_empty))
        if len(report.found) == len(ids):
            # All of them are well, so it was their number.
            report.came_in_parts(half)
        if report.is_empty and report.spoilers and report.refusal is None:
            # Refused one and all: no job of them is to blame more than the others.
            report.refusal, report.spoilers = next(iter(report.spoilers.values())), {}
        return report

    async def _look_by_another_name(
        self, ids: Sequence[str], timeout: float, refused: Refusal, *, is_hopeless: bool
    ) -> Report:
        """The document was refused, and the operation never worked: is it known at all? The schema says."""
        answer = await self._send(wire.encoded(introspection.DOCUMENT, {}), timeout, None)
        if isinstance(answer, Refusal):
            return Report(refusal=answer)
        said = refusal_of(answer.status, answer.headers, answer.body, answer.excerpt)
        if said is not None and said.kind in _PASSING:
            self._obey(said)
            return Report(refusal=said)
        candidates = introspection.status_candidates(answer.body)
        is_known = self._operation in candidates or introspection.has_query(
            answer.body, self._operation.field
        )
        if not is_known and not refused.is_of_field:
            # No word of a field, so it may be about this one id, or a slip that is over at the next poll.
            return Report(refusal=refused) if len(ids) > 1 else Report(spoilers={ids[0]: refused})
        if not is_known and len(candidates) != 1:
            message = _no_operation(self._operation, candidates, refused)
            return Report(refusal=replace(refused, kind=Kind.NO_OPERATION, message=message))
        if not is_known:
            self._adopt(candidates[0])
        self._standing = _Standing.PROVEN
        return await self._look(ids, timeout, None, is_hopeless=is_hopeless)

    def _adopt(self, operation: StatusOperation) -> None:
        log.warning(
            "The service does not know the status operation %r; its schema has %r, which is used now. "
            'Set status_operation="%s" to spare the detour.',
            str(self._operation),
            str(operation),
            operation,
        )
        self._operation = operation

    async def _ask(self, ids: Sequence[str], timeout: float, turn: Turn | None) -> Looks | Refusal:
        document = wire.status_document(self._operation, len(ids))
        turn = turn or await self._entrance.turn(Priority.LOOK)
        # The poll is sent all the same: other jobs than one caller's wait for it.
        self._notify.aside(CallSent(kind="look", jobs=len(ids)))
        try:
            body = wire.encoded(document, wire.status_variables(self._operation, ids))
        except BadRequestError as error:
            # An id that the service made of letters that are none.
            turn.unsent()
            return Refusal(Kind.BAD_REQUEST, error.message)
        answer = await self._send(body, timeout, turn)
        looks = answer if isinstance(answer, Refusal) else wire.read_looks(answer, ids)
        if isinstance(looks, Refusal):
            self._obey(looks)
        return looks

    def _obey(self, refusal: Refusal) -> None:
        """Let the gate wait as a refused look was told."""
        if refusal.kind is Kind.RATE_LIMIT:
            self._entrance.gate.refused(refusal, is_submit=False)
        else:
            self._entrance.gate.put_off_looks(refusal)

    async def _send(self, body: bytes, timeout: float, turn: Turn | None) -> Answer | Refusal:
        turn = turn or await self._entrance.turn(Priority.LOOK)
        try:
            answer = await self._transport.send(body, timeout=timeout)
            if isinstance(answer, Answer):
                self._entrance.heed(answer.headers, turn)
            elif answer.kind is Kind.NOT_SENT:
                turn.unsent()
            return answer
        finally:
            turn.answered()


def _is_about_the_query(refused: Refusal) -> bool:
    """Whether less of a query may be answered: the service itself said that it is wrong, or too large.

    A page, a 5xx and nonsense say nothing of it: the same query may well be answered by the next poll.
    """
    if refused.http_status == _TOO_LARGE:
        return True
    is_outage = (refused.http_status or 0) >= 500 or refused.http_status in _TOO_EARLY_OR_LATE
    is_about_now = is_outage or "retry-after" in (refused.headers or {})
    return refused.kind in _ABOUT_THE_QUERY and refused.names_error and not is_about_now


def _no_argument(operation: StatusOperation, job_id: str) -> Refusal:
    return Refusal(
        Kind.PROTOCOL,
        f"The status of job {job_id!r} cannot be asked for: the status operation {str(operation)!r} takes a "
        "number, and this id is none that fits. Set status_operation to one that takes it, such as "
        f'"{operation.field}({operation.argument}: ID!)".',
    )


def _no_operation(asked: StatusOperation, candidates: Sequence[StatusOperation], refused: Refusal) -> str:
    found = ", ".join(str(candidate) for candidate in candidates) or "none"
    return (
        f"The service does not know the status operation {str(asked)!r} ({refused.message}) "
        f"Query fields that take an id and return what generate returns: {found}. "
        "Set status_operation to the right one."
    )
