"""Asking for the status of many jobs at once: in halves where refused, by another name where unknown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from doitong_async.events import CallSent
from doitong_async.hook import Hook
from doitong_async.limits.entrance import Entrance
from doitong_async.limits.gate import Priority
from doitong_async.limits.grants import Turn
from doitong_async.transport import introspection, wire
from doitong_async.transport.refusal import Kind, Refusal, refusal_of
from doitong_async.transport.wire import Answer, Looks, StatusOperation
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.transport.graphql import GraphQLTransport

_log: Final = logging.getLogger("doitong_async")

_ABOUT_THE_QUERY: Final = frozenset({Kind.BAD_REQUEST, Kind.PROTOCOL, Kind.SERVER, Kind.NOT_FOUND})
"""Refusals that one job among many, or the number of them, may be the reason of."""


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
    read, `spoilers` ids that were refused alone; `refusal` is why the rest is not here.
    """

    found: list[Generation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    spoilers: dict[str, Refusal] = field(default_factory=dict)
    refusal: Refusal | None = None

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
        self.refusal = self.refusal or other.refusal


class Inquiry:
    """Knows how this service is asked for a status, and learns it where the setting is wrong."""

    def __init__(
        self,
        transport: GraphQLTransport,
        entrance: Entrance,
        operation: StatusOperation,
        notify: Hook,
    ) -> None:
        self._transport = transport
        self._entrance = entrance
        self._operation = operation
        self._notify = notify
        self._most = wire.MOST_IN_ONE_LOOK
        self._standing = _Standing.UNPROVEN

    @property
    def most(self) -> int:
        """How many jobs fit into one look."""
        return self._most

    async def look(self, ids: Sequence[str], *, timeout: float, turn: Turn | None = None) -> Report:
        """Ask for these jobs, at most `timeout` seconds a request, the first one on the turn given."""
        return await self._look(ids, timeout, turn, is_hopeless=False)

    async def _look(
        self, ids: Sequence[str], timeout: float, turn: Turn | None, *, is_hopeless: bool
    ) -> Report:
        """Ask; a hopeless look is not halved, as everything that was asked just before was refused."""
        answer = await self._ask(ids, timeout, turn)
        if isinstance(answer, Looks):
            return await self._read(answer, timeout)
        if answer.kind not in _ABOUT_THE_QUERY or _is_about_now(answer):
            return Report(refusal=answer)
        if self._standing is _Standing.UNPROVEN and answer.is_of_document:
            return await self._look_by_another_name(ids, timeout, answer, is_hopeless=is_hopeless)
        if len(ids) == 1:
            is_missing = answer.kind is Kind.NOT_FOUND and not answer.is_of_document
            return Report(missing=list(ids)) if is_missing else Report(spoilers={ids[0]: answer})
        if is_hopeless:
            return Report(refusal=answer)
        return await self._look_in_halves(ids, timeout)

    async def _read(self, looks: Looks, timeout: float) -> Report:
        report = Report(list(looks.found), list(looks.missing), dict(looks.unreadable))
        if report.found:
            self._standing = _Standing.PROVEN
        if looks.unanswered:
            # A service without aliases: it answers so many and passes over the rest.
            told = len(looks.found) + len(looks.missing) + len(looks.unreadable)
            self._most = min(self._most, max(1, told))
            for first in range(0, len(looks.unanswered), self._most):
                report.add(await self.look(looks.unanswered[first : first + self._most], timeout=timeout))
        return report

    async def _look_in_halves(self, ids: Sequence[str], timeout: float) -> Report:
        half = (len(ids) + 1) // 2
        report = await self._look(ids[:half], timeout, None, is_hopeless=False)
        if report.refusal is not None and report.refusal.kind not in _ABOUT_THE_QUERY:
            return report
        # Where nothing at all gets through, halving on would cost a request for every job.
        report.add(await self._look(ids[half:], timeout, None, is_hopeless=report.is_empty))
        if len(report.found) == len(ids):
            # All of them are well, so it was their number.
            self._most = min(self._most, half)
        if report.is_empty and report.spoilers and report.refusal is None:
            # Refused one and all: no job of them is to blame more than the others.
            report.refusal, report.spoilers = next(iter(report.spoilers.values())), {}
        return report

    async def _look_by_another_name(
        self, ids: Sequence[str], timeout: float, refused: Refusal, *, is_hopeless: bool
    ) -> Report:
        """The document was refused, and the operation never worked: is it known at all? The schema says."""
        answer = await self._send(introspection.DOCUMENT, {}, timeout, None)
        if isinstance(answer, Refusal):
            return Report(refusal=answer)
        said = refusal_of(answer.status, answer.headers, answer.body, answer.excerpt)
        if said is not None and said.kind in _PASSING:
            self._obey(said)
            return Report(refusal=said)
        candidates = introspection.status_candidates(answer.body)
        if not refused.is_of_field and self._operation not in candidates:
            # No word of a field, so it may be about this one id, or a slip that is over at the next poll.
            return Report(refusal=refused) if len(ids) > 1 else Report(spoilers={ids[0]: refused})
        if self._operation not in candidates and len(candidates) != 1:
            message = _no_operation(self._operation, candidates, refused)
            return Report(refusal=replace(refused, kind=Kind.NO_OPERATION, message=message))
        if self._operation not in candidates:
            self._adopt(candidates[0])
        self._standing = _Standing.PROVEN
        return await self._look(ids, timeout, None, is_hopeless=is_hopeless)

    def _adopt(self, operation: StatusOperation) -> None:
        _log.warning(
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
        self._notify(CallSent(kind="look", jobs=len(ids)))
        answer = await self._send(document, wire.status_variables(ids), timeout, turn)
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

    async def _send(
        self, document: str, variables: dict[str, object], timeout: float, turn: Turn | None
    ) -> Answer | Refusal:
        turn = turn or await self._entrance.turn(Priority.LOOK)
        try:
            answer = await self._transport.send(document, variables, timeout=timeout)
            if isinstance(answer, Answer):
                self._entrance.heed(answer.headers, turn)
            elif answer.kind is Kind.NOT_SENT:
                turn.unsent()
            return answer
        finally:
            turn.answered()


def _is_about_now(refusal: Refusal) -> bool:
    """Whether a look was refused for its moment: it may be answered later, and no half of it now."""
    status = refusal.http_status or 0
    return status >= 500 or status in (408, 425) or "retry-after" in (refusal.headers or {})


def _no_operation(asked: StatusOperation, candidates: Sequence[StatusOperation], refused: Refusal) -> str:
    found = ", ".join(str(candidate) for candidate in candidates) or "none"
    return (
        f"The service does not know the status operation {str(asked)!r} ({refused.message}) "
        f"Query fields that take an id and return what generate returns: {found}. "
        "Set status_operation to the right one."
    )
