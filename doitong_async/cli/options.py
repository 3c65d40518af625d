"""The options that several commands share, and the functions that parse them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from doitong_async.batch.source import FIELDS
from doitong_async.budget import Budget
from doitong_async.cli.exits import CommandError
from doitong_async.cli.formats import Format
from doitong_async.cli.units import credits_of
from doitong_async.errors import ConfigurationError
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument
from doitong_async.secret import hidden
from doitong_async.transport.forms import Form

_ENTERPRISE = "enterprise"


class PlanName(StrEnum):
    """The documented plans."""

    FREE = "free"
    STARTER = "starter"
    PRO = "pro"


class AnyPlanName(StrEnum):
    """The documented plans, and the one whose limits are agreed with the service."""

    FREE = "free"
    STARTER = "starter"
    PRO = "pro"
    ENTERPRISE = _ENTERPRISE


PlanOption = Annotated[
    PlanName | None,
    typer.Option(
        metavar="NAME", case_sensitive=False, help="Keep the limits of free, starter or pro.  [DOITONG_PLAN]"
    ),
]
AnyPlanOption = Annotated[
    AnyPlanName | None,
    typer.Option(
        "--plan",
        metavar="NAME",
        case_sensitive=False,
        help="Keep the limits of free (the default), starter, pro or enterprise.  [DOITONG_PLAN]",
    ),
]
RequestsPerMinute = Annotated[int | None, typer.Option(metavar="N", help="Overrides the plan's own number.")]
ConcurrentJobs = Annotated[int | None, typer.Option(metavar="N", help="Overrides the plan's own number.")]
JobsPerDay = Annotated[int | None, typer.Option(metavar="N", help="Overrides the plan's own number.")]
PromptFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help=f"A prompt per line; CSV with a header; JSONL; - reads the standard input. Columns and names: "
        f"{', '.join(FIELDS)}.",
    ),
]
CommentsOption = Annotated[bool, typer.Option("--comments", help='Skip lines of FILE that begin with "#".')]
FormatOption = Annotated[
    Format | None, typer.Option("--format", metavar="NAME", help="The format of FILE: lines, csv or jsonl.")
]
ProviderOption = Annotated[
    str | None, typer.Option(help="The provider of items that name none; flux-pro by default.")
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
        help="Credits per job, where none is documented; or for one provider's jobs; repeatable.",
    ),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(metavar="N", help="Credits to spend at most; of a batch, over all runs on its ledger."),
]
LowOption = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Say when this share of --budget is left; 0.1 by default, a tenth."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print exactly one JSON object, at the end, also for errors.")
]


def _check_speed(speed: float) -> float:
    if not 0 < speed < math.inf:
        raise CommandError(f"--speed is {speed}; expected a number above zero, 1 for real time.")
    return speed


Speed = Annotated[
    float,
    typer.Option(metavar="N", callback=_check_speed, help="How many times faster an emulator's jobs finish."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE|DIR|-",
        help="Save the output there; in a directory the file is named after the job; - writes to stdout. "
        "Without -o the command prints only the URL.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="How long to wait for the job; 600 by default."),
]
Proxy = Annotated[
    str | None,
    typer.Option(metavar="URL", help="A proxy for every request.  [HTTPS_PROXY, NO_PROXY]"),
]
CoordinatorOption = Annotated[
    str | None,
    typer.Option(
        "--coordinator",
        metavar="URL",
        # From here on no repr shows it: it may hold a password.
        callback=hidden,
        help="The Redis server by which all processes on the key share the plan.  [DOITONG_COORDINATOR]",
    ),
]
BaseUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="The base URL of another API.  [DOITONG_BASE_URL]")
]
TransportOption = Annotated[
    Form | None,
    typer.Option(
        "--transport",
        metavar="NAME",
        case_sensitive=False,
        help="The form of the calls: graphql (the default), graphql-flat or rest.  [DOITONG_TRANSPORT]",
    ),
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show retries and waits, on stderr.")]


def plan_of(
    name: str | None,
    *,
    requests_per_minute: int | None,
    concurrent_jobs: int | None,
    jobs_per_day: int | None,
) -> Plan:
    """Return the named plan, or DOITONG_PLAN, or free, with the given limits in place of its own.

    The plan `enterprise` needs the first two limits; it has no daily limit unless one is given.

    Raises:
        CommandError: if there is no such plan, or a limit is missing or below one.
    """
    limits = {
        "--requests-per-minute": requests_per_minute,
        "--concurrent-jobs": concurrent_jobs,
        "--jobs-per-day": jobs_per_day,
    }
    for option, limit in limits.items():
        if limit is not None and limit < 1:
            raise CommandError(f"{option} is {limit}; expected a whole number above zero.")
    named = (name or os.environ.get("DOITONG_PLAN") or Plan.FREE.name).strip().lower()
    if named == _ENTERPRISE:
        if requests_per_minute is None or concurrent_jobs is None:
            raise CommandError(
                "The limits of the plan enterprise are agreed with the service. Give them with "
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
        # typer rejected a wrong --plan earlier, so this name is from the environment.
        raise CommandError(
            f"The plan is {named!r} (DOITONG_PLAN); expected one of {', '.join(AnyPlanName)}."
        ) from None
    return replace(plan, **{limit: number for limit, number in given.items() if number is not None})


def read_prices(given: Sequence[str] | None) -> PriceArgument:
    """Return the value of `--price`: one number, or numbers by provider.

    Raises:
        CommandError: naming the wrong price.
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
            raise CommandError(f"--price is given twice for {provider}. Give it once.")
        by_provider[provider] = _credits(text, number)
    return by_provider.get("", by_provider or None)


def budget_of(credits_: float | None, low: float | None, say: Callable[[str], object]) -> Budget | None:
    """Return the budget of a command, which says once that it is low.

    Args:
        credits_: the value of `--budget`.
        low: the value of `--low`.
        say: shows a line.

    Raises:
        CommandError: if `--low` is no share, or is given alone.
        ConfigurationError: if `--budget` is no number of credits above zero.
    """
    if low is not None and not 0 <= low < 1:
        raise CommandError(f"--low is {low:g}; expected a share from 0 to below 1, such as 0.1.")
    if credits_ is None:
        if low is not None:
            raise CommandError("--low is a share of --budget. Give both, or none.")
        return None
    most = credits_of(credits_)
    line = "Low on credits: {} of the budget of {} are left."
    given: dict[str, float] = {} if low is None else {"low_at": low}
    return Budget(credits_, on_low=lambda left: say(line.format(credits_of(left), most)), **given)


def _credits(text: str, number: str) -> float:
    try:
        amount = float(number)
    except ValueError:
        amount = math.nan
    if not 0 <= amount < math.inf:
        raise CommandError(f"--price is {text}; expected credits, zero or more, or PROVIDER=N.")
    return amount
