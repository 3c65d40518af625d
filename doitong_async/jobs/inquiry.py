"""Asking for the status of many jobs at once: in halves where refused, by another name where unknown."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from doitong_async.errors import ConfigurationError
from doitong_async.limits.entrance import Entrance
from doitong_async.limits.gate import Priority, Turn
from doitong_async.transport import introspection, wire
from doitong_async.transport.refusal import Kind, Refusal
from doitong_async.transport.wire import Answer, Looks, StatusOperation
from doitong_async.types import Generation

if TYPE_CHECKING:
    from doitong_async.transport.graphql import GraphQLTransport

_log: Final = logging.getLogger("doitong_async")

_ABOUT_THE_QUERY: Final = frozenset({Kind.BAD_REQUEST, Kind.PROTOCOL, Kind.SERVER, Kind.NOT_FOUND})
"""Refusals that one job among many, or the number of them, may be the reason of."""

_ADOPTED: Final = "adopted"
_IS_KNOWN: Final = "known"


@dataclass(slots=True)
class Report:
    """What a look brought: jobs found, ids that are not known, and why the rest is not here."""

    found: list[Generation] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    refusal: Refusal | None = None

    def add(self, other: Report) -> None:
        """Take over what another look brought."""
        self.found += other.found
        self.missing += other.missing
        self.refusal = self.refusal or other.refusal


class Inquiry:
    """Knows how this service is asked for a status, and learns it where the setting is wrong."""

    def __init__(self, transport: GraphQLTransport, entrance: Entrance, operation: StatusOperation) -> None:
        self._transport = transport
        self._entrance = entrance
        self._operation = operation
        self._most = wire.MOST_IN_ONE_LOOK
        self._verdict: str | None = None

    @property
    def most(self) -> int:
        """How many jobs fit into one look."""
        return self._most

    async def look(self, ids: Sequence[str], *, timeout: float, turn: Turn | None = None) -> Report:
        """Ask for these jobs, at most `timeout` seconds a request, the first one on the turn given.

        Raises:
            ConfigurationError: if the service does not know the status operation, nor a likely other one.
        """
        answer = await self._ask(ids, timeout, turn)
        if isinstance(answer, Refusal) and answer.kind is Kind.RATE_LIMIT:
            self._entrance.gate.refused(answer)
        if isinstance(answer, Looks):
            report = Report(list(answer.found), list(answer.missing))
            if answer.unanswered:
                report.add(await self.look(answer.unanswered, timeout=timeout))
            return report
        if answer.kind not in _ABOUT_THE_QUERY or (answer.http_status or 0) >= 500:
            return Report(refusal=answer)
        if _names_an_unknown_field(answer) or (len(ids) == 1 and answer.kind is Kind.BAD_REQUEST):
            return await self._look_by_another_name(ids, timeout, answer)
        if len(ids) == 1:
            return Report(missing=list(ids)) if answer.kind is Kind.NOT_FOUND else Report(refusal=answer)
        return await self._look_in_halves(ids, timeout)

    async def _look_in_halves(self, ids: Sequence[str], timeout: float) -> Report:
        half = (len(ids) + 1) // 2
        report = await self.look(ids[:half], timeout=timeout)
        if report.refusal is not None and not report.found and not report.missing:
            # Refused down to a single job: the next tick tries again, instead of asking for each one now.
            return report
        report.add(await self.look(ids[half:], timeout=timeout))
        if len(report.found) == len(ids):
            # All of them are well, so it was their number.
            self._most = min(self._most, half)
        return report

    async def _look_by_another_name(self, ids: Sequence[str], timeout: float, refused: Refusal) -> Report:
        if self._verdict is None:
            answer = await self._send(introspection.DOCUMENT, {}, timeout, None)
            if isinstance(answer, Refusal) or answer.status == 429 or answer.status >= 500:
                return Report(refusal=refused)
            self._verdict = self._judge(introspection.status_candidates(answer.body), refused)
            if self._verdict == _ADOPTED:
                return await self.look(ids, timeout=timeout)
        if self._verdict in (_ADOPTED, _IS_KNOWN):
            return Report(refusal=refused)
        raise ConfigurationError(self._verdict)

    def _judge(self, candidates: list[StatusOperation], refused: Refusal) -> str:
        """Return what the service's schema says of the setting: a mark, or the text of an error."""
        if self._operation in candidates:
            return _IS_KNOWN
        if len(candidates) == 1:
            self._adopt(candidates[0])
            return _ADOPTED
        found = ", ".join(str(candidate) for candidate in candidates) or "none"
        return (
            f"The service does not know the status operation {str(self._operation)!r} ({refused.message}) "
            f"Query fields that take an id and return what generate returns: {found}. "
            "Set status_operation to the right one."
        )

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
        answer = await self._send(document, wire.status_variables(ids), timeout, turn)
        return answer if isinstance(answer, Refusal) else wire.read_looks(answer, ids)

    async def _send(
        self, document: str, variables: dict[str, object], timeout: float, turn: Turn | None
    ) -> Answer | Refusal:
        turn = turn or await self._entrance.turn(Priority.LOOK)
        try:
            answer = await self._transport.send(document, variables, timeout=timeout)
            if isinstance(answer, Answer):
                self._entrance.heed(answer.headers)
            elif answer.kind is Kind.NOT_SENT:
                turn.unsent()
            return answer
        finally:
            turn.answered()


def _names_an_unknown_field(refused: Refusal) -> bool:
    said = refused.message.lower()
    return "cannot query field" in said or "unknown argument" in said
