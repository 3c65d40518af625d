"""Runs checks for the tests, and says what they found."""

from __future__ import annotations

from collections.abc import Callable

from doitong_async import Assumption, CheckOutcome, CheckReport
from tests.plain_server import Behaviour

FREE = [
    each
    for each in Assumption
    if each
    not in (
        Assumption.IDEMPOTENCY,
        Assumption.VISIBLE,
        Assumption.STATUSES,
        Assumption.OUTPUT_HOST,
        Assumption.OUTPUT_EXPIRY,
    )
]
SOUND = Behaviour(date=True)
"""A plain server that leaves nothing to guess."""


def of_outcome(report: CheckReport, outcome: CheckOutcome) -> set[str]:
    """Return the assumptions with this outcome."""
    return {each.assumption.value for each in report.findings if each.outcome is outcome}


def failing(report: CheckReport) -> set[str]:
    """Return the assumptions that fail."""
    return of_outcome(report, CheckOutcome.FAILS)


def holding(report: CheckReport) -> set[str]:
    """Return the assumptions that hold."""
    return of_outcome(report, CheckOutcome.HOLDS)


Rewrite = Callable[[bytes, bytes | None], bytes | None]


def rewriting(*changes: tuple[bytes, bytes], of: bytes = b"") -> Rewrite:
    """Return a `rewrite` for the plain server: it replaces bytes in the answers to requests with `of`."""

    def rewrite(request: bytes, honest: bytes | None) -> bytes | None:
        if honest is None or of not in request:
            return honest
        head, _, body = honest.partition(b"\r\n\r\n")
        for old, new in changes:
            head, body = head.replace(old, new), body.replace(old, new)
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body

    return rewrite


def always(answer: bytes) -> Rewrite:
    """Return a `rewrite` for the plain server that answers every request alike."""
    return lambda request, honest: answer
