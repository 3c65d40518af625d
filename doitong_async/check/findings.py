"""What a check of the service found: one value per assumption, for programs and for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypedDict, Unpack


class SettingsToUse(TypedDict, total=False):
    """Arguments of `AsyncDoitong` that a finding may ask to change: `AsyncDoitong(**report.settings)`."""

    plan: str
    transport: Literal["graphql", "graphql-flat", "rest"]
    status_operation: str
    polls_count: bool
    resend_unanswered: bool
    webhook_field: str
    webhook_url: str
    output_hosts: Sequence[str]


class Assumption(StrEnum):
    """What a check finds out, each by one line of its report."""

    ADDRESS = "address"
    """The API answers at `base_url`."""
    DNS = "dns"
    """Its host has an address."""
    TLS = "tls"
    """Its certificate is valid here."""
    PROXY = "proxy"
    """A proxy, if one is set, lets requests through."""
    CLOCK = "clock"
    """This machine's clock agrees with the service's `Date`."""
    KEY = "key"
    """The service accepts the API key."""
    HEADER = "header"
    """It accepts the key in the header that the client uses."""
    GENERATE = "generate"
    """Its schema has the documented mutation, with the documented input and fields."""
    WEBHOOK_FIELD = "webhook_field"
    """Its schema takes the webhook's URL where the client puts it."""
    STATUS = "status"
    """It has the query field, or in REST the path, at which the client asks for a job's status."""
    ALIASES = "aliases"
    """It answers about several jobs in one request."""
    ALIAS_COST = "alias_cost"
    """Such a request counts as one."""
    POLLS_COUNT = "polls_count"
    """Polls count against the requests per minute, or do not, as the client is set."""
    PLAN = "plan"
    """`X-RateLimit-Limit` is what the plan allows."""
    RESET = "reset"
    """The client can read `X-RateLimit-Reset`."""
    WEBHOOK_URL = "webhook_url"
    """A receiver answers at `webhook_url`, seen from here."""
    WEBHOOK_SECRET = "webhook_secret"
    """There is a secret to verify webhooks with."""
    WEBHOOK_EVENT = "webhook_event"
    """The receiver takes a signed event, and refuses one with a wrong signature."""
    IDEMPOTENCY = "idempotency"
    """The same idempotency key with the same body gives the same job."""
    VISIBLE = "visible"
    """A poll knows a new job within 10 s."""
    STATUSES = "statuses"
    """The client knows every status word of the job."""
    OUTPUT_HOST = "output_host"
    """A webhook's URL on the output's host would be believed."""
    OUTPUT_EXPIRY = "output_expiry"
    """The output's URL has not expired when the job ends."""


class CheckOutcome(StrEnum):
    """What is known of an assumption."""

    HOLDS = "holds"
    FAILS = "fails"
    UNKNOWN = "unknown"
    """It cannot be told; the finding says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is known of one assumption.

    Attributes:
        assumption: what was checked.
        outcome: whether it holds.
        detail: what was seen, or why it cannot be told; for people.
        settings: the arguments of `AsyncDoitong` to use instead; empty if there are none.
        is_blocking: whether no job can be made until this is put right.
    """

    assumption: Assumption
    outcome: CheckOutcome
    detail: str
    settings: SettingsToUse = field(default_factory=SettingsToUse)
    is_blocking: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedJob:
    """A submit of a check that may have been charged.

    Attributes:
        idempotency_key: the key under which it was sent.
        job_id: of the job that it made; None if that is not known.
        token: resumes the job: `doitong.job(token)`.
        credit_cost: what it cost in credits; None if the service did not say.
    """

    idempotency_key: str
    job_id: str | None = None
    token: str | None = None
    credit_cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What `AsyncDoitong.check` found.

    Attributes:
        findings: one for each assumption that was checked, in the order in which to read them.
        requests: how many requests were sent to the API.
        jobs: the submits that may have been charged.
        cut_short: why not every request was sent; None if all were.
    """

    findings: Sequence[Finding]
    requests: int
    jobs: Sequence[CheckedJob] = ()
    cut_short: str | None = None

    @property
    def failing(self) -> Sequence[Finding]:
        """The findings about assumptions that fail."""
        return [each for each in self.findings if each.outcome is CheckOutcome.FAILS]

    @property
    def is_usable(self) -> bool:
        """Whether jobs can be made here and followed, once the settings are changed as the report says."""
        status = self.find(Assumption.STATUS)
        is_polled = status.outcome is CheckOutcome.HOLDS or bool(status.settings)
        return self.is_reached and is_polled

    @property
    def is_reached(self) -> bool:
        """Whether the API answers, and nothing is known to keep jobs from being made."""
        is_blocked = any(each.is_blocking for each in self.findings)
        return self.find(Assumption.ADDRESS).outcome is CheckOutcome.HOLDS and not is_blocked

    def find(self, assumption: Assumption) -> Finding:
        """Return the finding about an assumption."""
        return next(each for each in self.findings if each.assumption is assumption)

    @property
    def settings(self) -> SettingsToUse:
        """The arguments of `AsyncDoitong` to change, as in `AsyncDoitong(**report.settings)`."""
        settings = SettingsToUse()
        for each in self.findings:
            settings.update(each.settings)
        return settings

    @property
    def credits_spent(self) -> float:
        """What the jobs of the check cost in credits, as far as the service said."""
        return sum(each.credit_cost or 0.0 for each in self.jobs)


def holds(assumption: Assumption, detail: str) -> Finding:
    """Return the finding that an assumption holds."""
    return Finding(assumption=assumption, outcome=CheckOutcome.HOLDS, detail=detail)


def fails(
    assumption: Assumption, detail: str, *, is_blocking: bool = False, **settings: Unpack[SettingsToUse]
) -> Finding:
    """Return the finding that an assumption fails, with the settings to use instead."""
    return Finding(
        assumption=assumption,
        outcome=CheckOutcome.FAILS,
        detail=detail,
        settings=settings,
        is_blocking=is_blocking,
    )


def unknown(assumption: Assumption, why: str) -> Finding:
    """Return the finding that nothing can be told of an assumption, and why."""
    return Finding(assumption=assumption, outcome=CheckOutcome.UNKNOWN, detail=why)
