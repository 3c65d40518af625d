"""Finds, from one or two paid jobs, what no free request shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final
from urllib.parse import parse_qs

from doitong_async import catalog
from doitong_async.check.findings import Assumption, CheckedJob, Finding, fails, holds, unknown
from doitong_async.errors import ConfigurationError
from doitong_async.pricing import is_amount, price_of
from doitong_async.settings import Settings
from doitong_async.types import GenerateRequest, JobStatus
from doitong_async.urls import split_http
from doitong_async.webhooks.hosts import DOCUMENTED, OutputHosts

REQUEST: Final = GenerateRequest(
    prompt="a plain grey square", provider=catalog.DEFAULT_PROVIDER, width=512, height=512
)
"""The cheapest job that has a documented price (reference, "Credits")."""
_SIGNED_AT: Final = "%Y%m%dT%H%M%SZ"


def highest_price() -> float:
    """Return the most credits that `REQUEST` may cost, as documented."""
    price = price_of(REQUEST)
    assert price is not None
    return price.high


def check_spend(spend: object) -> float:
    """Return the credits that a check may spend.

    Raises:
        ConfigurationError: if it is no amount, or too little for one job.
    """
    if not is_amount(spend) or spend < 0:
        raise ConfigurationError(f"spend is {spend!r}; expected credits, a finite number not below 0.")
    if 0 < spend < highest_price():
        raise ConfigurationError(
            f"spend is {spend:g}, and the cheapest job may cost {highest_price():g} credits. Allow "
            f"{highest_price():g} for one job or {2 * highest_price():g} for both, or leave it out."
        )
    return spend


class Repeat(Enum):
    """What came of sending the same submit again under the same idempotency key."""

    NOT_SENT = auto()
    SAME_JOB = auto()
    OTHER_JOB = auto()
    CONFLICT = auto()
    """The service refused the key, and named no job."""
    FAILED = auto()


@dataclass(slots=True, kw_only=True)
class PaidSeen:
    """What the paid jobs showed, filled in as they run.

    Attributes:
        jobs: every submit that may have been charged.
        visible_after: seconds from the accepted submit until a poll first knew the job; None if none did.
        polled_for: seconds for which polls asked for the job.
        statuses: the words seen, in order.
        url: of the output.
        ended_at: epoch seconds at which the job was seen to end.
        repeat: what came of the second submit.
        why: why there is no more to tell.
    """

    jobs: list[CheckedJob] = field(default_factory=list)
    visible_after: float | None = None
    polled_for: float = 0.0
    statuses: list[JobStatus] = field(default_factory=list)
    url: str | None = None
    ended_at: float = 0.0
    repeat: Repeat = Repeat.NOT_SENT
    why: str = ""


def paid_findings(seen: PaidSeen, settings: Settings, *, visible_within: float) -> list[Finding]:
    """Return what the paid jobs showed; `visible_within` is the seconds that the client allows a new job."""
    return [
        _idempotency(seen),
        _visible(seen, visible_within),
        _statuses(seen),
        _output_host(seen, settings),
        _output_expiry(seen),
    ]


def not_paid(why: str) -> list[Finding]:
    """Return that nothing can be told of what only paid jobs show."""
    return [unknown(each, why) for each in _PAID]


_PAID: Final = (
    Assumption.IDEMPOTENCY,
    Assumption.VISIBLE,
    Assumption.STATUSES,
    Assumption.OUTPUT_HOST,
    Assumption.OUTPUT_EXPIRY,
)


def _idempotency(seen: PaidSeen) -> Finding:
    if seen.repeat is Repeat.SAME_JOB:
        return holds(Assumption.IDEMPOTENCY, "the same key with the same body gave the same job")
    if seen.repeat is Repeat.OTHER_JOB:
        return fails(
            Assumption.IDEMPOTENCY,
            "the same key with the same body made a second job: an unanswered submit must not be sent again.",
            resend_unanswered=False,
        )
    if seen.repeat is Repeat.CONFLICT:
        return fails(
            Assumption.IDEMPOTENCY,
            f"the key keeps a second job from being made, but the answer does not name the first one: a job "
            f"whose submit is not answered ends in doubt. {seen.why}",
        )
    return unknown(Assumption.IDEMPOTENCY, seen.why or "the submit was not sent again")


def _visible(seen: PaidSeen, within: float) -> Finding:
    if seen.visible_after is None:
        if seen.polled_for <= within:
            return unknown(Assumption.VISIBLE, seen.why or "no poll was answered")
        return fails(
            Assumption.VISIBLE,
            f"no poll knew the job within {seen.polled_for:.0f} s of its submit; the client gives a job up "
            f"after {within:.0f} s. Check status_operation.",
        )
    after = f"a poll first knew the job {seen.visible_after:.1f} s after its submit"
    if seen.visible_after <= within:
        return holds(Assumption.VISIBLE, after)
    return fails(Assumption.VISIBLE, f"{after}; the client gives a job up after {within:.0f} s.")


def _statuses(seen: PaidSeen) -> Finding:
    words = " → ".join(seen.statuses)
    odd = [status for status in seen.statuses if not status.is_known and not status.is_failure]
    if odd:
        return fails(
            Assumption.STATUSES,
            f"{words}: the client does not know {', '.join(map(repr, map(str, odd)))} and waits on it. If "
            "jobs end with it, name it in failure_statuses.",
        )
    if not seen.statuses or not seen.statuses[-1].is_terminal:
        return unknown(Assumption.STATUSES, " ".join(filter(None, [words, seen.why or "no end was seen"])))
    return holds(Assumption.STATUSES, words)


def _output_host(seen: PaidSeen, settings: Settings) -> Finding:
    if seen.url is None:
        return unknown(Assumption.OUTPUT_HOST, seen.why or "there is no output")
    named = settings.output_hosts
    hosts = OutputHosts.of_service(named, settings.base_url)
    parts = split_http(seen.url)
    host = "" if parts is None else (parts.hostname or "")
    if hosts.allows(seen.url):
        return holds(Assumption.OUTPUT_HOST, f"outputs are on {host}")
    if parts is None or parts.scheme != "https":
        return fails(Assumption.OUTPUT_HOST, f"the output's URL is no https URL: {seen.url[:200]}")
    known = DOCUMENTED if named is None else (named,) if isinstance(named, str) else tuple(named)
    detail = f"outputs are on {host}, which a webhook's URL would not be believed for."
    return fails(Assumption.OUTPUT_HOST, detail, output_hosts=(*known, host))


def _output_expiry(seen: PaidSeen) -> Finding:
    if seen.url is None:
        return unknown(Assumption.OUTPUT_EXPIRY, seen.why or "there is no output")
    moment = expiry_of(seen.url)
    if moment is None:
        return unknown(Assumption.OUTPUT_EXPIRY, "the output's URL shows no expiry")
    left = moment - seen.ended_at
    if left <= 0:
        return fails(Assumption.OUTPUT_EXPIRY, "the output's URL had expired when the job was seen to end.")
    return holds(
        Assumption.OUTPUT_EXPIRY, f"the output's URL is valid for {left:,.0f} s: save outputs by then"
    )


def expiry_of(url: str) -> float | None:
    """Return the epoch second at which a URL expires, if its query says so as AWS or Google write it."""
    parts = split_http(url)
    query = (
        {} if parts is None else {name.lower(): values[0] for name, values in parse_qs(parts.query).items()}
    )
    for maker in ("x-amz", "x-goog"):
        signed_at, lasts = _moment(query.get(f"{maker}-date")), _seconds(query.get(f"{maker}-expires"))
        if signed_at is not None and lasts is not None:
            return signed_at + lasts
    return _seconds(query.get("expires"))


def _moment(text: str | None) -> float | None:
    try:
        return datetime.strptime(text or "", _SIGNED_AT).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isascii() and text.isdecimal() else None
