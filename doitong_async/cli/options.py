"""The options that several commands share, and what is made of them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from doitong_async.cli.exits import CommandError
from doitong_async.cli.formats import Format
from doitong_async.errors import ConfigurationError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument

_ENTERPRISE = "enterprise"


class PlanName(StrEnum):
    """The plans of the documented table."""

    FREE = "free"
    STARTER = "starter"
    PRO = "pro"


class AnyPlanName(StrEnum):
    """The plans of the documented table, and the one whose limits are agreed with the service."""

    FREE = "free"
    STARTER = "starter"
    PRO = "pro"
    ENTERPRISE = _ENTERPRISE


PlanOption = Annotated[
    PlanName | None,
    typer.Option(case_sensitive=False, help="Keep the limits of this plan.  [DOITONG_PLAN]"),
]
AnyPlanOption = Annotated[
    AnyPlanName | None,
    typer.Option(
        "--plan", case_sensitive=False, help="Keep the limits of this plan; free by default.  [DOITONG_PLAN]"
    ),
]
RequestsPerMinute = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="In place of the plan's own number.")
]
ConcurrentJobs = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="In place of the plan's own number.")
]
JobsPerDay = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="In place of the plan's own number.")
]
PromptFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="One prompt a line; .csv with a header; .jsonl; - reads the standard input."
    ),
]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="What FILE holds, where its name does not say it.")
]
ProviderOption = Annotated[
    str | None, typer.Option(help="Who makes what names no provider; flux-pro by default.")
]
WidthOption = Annotated[
    int | None, typer.Option(help="Pixels, for pictures that name none; 1024 by default.")
]
HeightOption = Annotated[
    int | None, typer.Option(help="Pixels, for pictures that name none; 1024 by default.")
]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N of FILE.")]
PriceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--price",
        metavar="N|PROVIDER=N",
        help="Credits of a job whose price is not documented; or of all jobs of one provider, repeatable.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object, at the end; errors too.")
]

BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The root of another API.  [DOITONG_BASE_URL]")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell retries and waits, on stderr.")]


def plan_of(
    name: str | None,
    *,
    requests_per_minute: int | None,
    concurrent_jobs: int | None,
    jobs_per_day: int | None,
) -> Plan:
    """Return the plan that was named, or DOITONG_PLAN, or free, with the limits that were given in its place.

    Of the plan `enterprise`, the first two limits have to be given; it has no limit a day unless one is.

    Raises:
        CommandError: if there is no such plan, or a limit is missing.
    """
    named = (name or os.environ.get("DOITONG_PLAN") or Plan.FREE.name).strip().lower()
    if named == _ENTERPRISE:
        if requests_per_minute is None or concurrent_jobs is None:
            raise CommandError(
                "The limits of the plan enterprise are agreed with the service: give them with "
                "--requests-per-minute and --concurrent-jobs."
            )
        return Plan.enterprise(
            requests_per_minute=requests_per_minute,
            concurrent_jobs=concurrent_jobs,
            jobs_per_day=jobs_per_day,
        )
    given: dict[str, Any] = {
        "requests_per_minute": requests_per_minute,
        "concurrent_jobs": concurrent_jobs,
        "jobs_per_day": jobs_per_day,
    }
    try:
        plan = Plan.named(named)
    except ConfigurationError:
        # An option that is wrong was refused before it came here.
        raise CommandError(
            f"The plan is {named!r} (DOITONG_PLAN); expected one of {', '.join(AnyPlanName)}."
        ) from None
    return replace(plan, **{limit: number for limit, number in given.items() if number is not None})


def read_prices(given: Sequence[str] | None) -> PriceArgument:
    """Return what `--price` said: one number, or numbers by provider.

    Raises:
        CommandError: saying what is wrong with which.
    """
    by_provider: dict[str, float] = {}
    for text in given or ():
        provider, _, number = text.rpartition("=")
        provider = provider.strip()
        if not provider and ("=" in text or len(given or ()) > 1):
            raise CommandError(
                f"--price is {text}; expected one number of credits, or PROVIDER=N as often as needed."
            )
        if provider in by_provider:
            raise CommandError(f"--price is given for {provider} twice; give it once.")
        by_provider[provider] = _credits(text, number)
    return by_provider.get("", by_provider or None)


def _credits(text: str, number: str) -> float:
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise CommandError(f"--price is {text}; expected credits as a number not below 0, or PROVIDER=N.")
    return amount
