"""`doitong estimate`: the cost of a file of prompts, and the time that the plan takes for them."""

from __future__ import annotations

import sys
from typing import Any, Final

import typer

from doitong_async.batch.source import read_item
from doitong_async.cli.exits import CommandError
from doitong_async.cli.options import (
    AnyPlanOption,
    AsJson,
    CommentsOption,
    ConcurrentJobs,
    FormatOption,
    HeightOption,
    JobsPerDay,
    LimitOption,
    PriceOption,
    PromptFile,
    ProviderOption,
    RequestsPerMinute,
    WidthOption,
    plan_of,
    read_prices,
)
from doitong_async.cli.prompts import open_prompts
from doitong_async.cli.render import Notes, write_json, write_line
from doitong_async.cli.run_job import heard
from doitong_async.cli.text import clean
from doitong_async.errors import ConfigurationError
from doitong_async.pricing import Estimate, estimate

EXAMPLES: Final = """[bold]Examples[/bold]
doitong estimate prompts.txt --plan starter
doitong estimate shots.csv --price kling=100 --price veo3=250 --json
generate-prompts | doitong estimate - --limit 100

Nothing is sent, and no key is needed. Prices are the documented ones; give the
others with --price. Exit codes: doitong --help."""


def estimate_file(
    context: typer.Context,
    file: PromptFile,
    plan: AnyPlanOption = None,
    requests_per_minute: RequestsPerMinute = None,
    concurrent_jobs: ConcurrentJobs = None,
    jobs_per_day: JobsPerDay = None,
    provider: ProviderOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    price: PriceOption = None,
    limit: LimitOption = None,
    kind: FormatOption = None,
    comments: CommentsOption = False,
    as_json: AsJson = False,
) -> None:
    """Show what a file of prompts costs and how long it takes, without sending anything."""
    context.obj.as_json = as_json
    limits = plan_of(
        plan,
        requests_per_minute=requests_per_minute,
        concurrent_jobs=concurrent_jobs,
        jobs_per_day=jobs_per_day,
    )
    prices = read_prices(price)
    defaults = {"provider": provider, "width": width, "height": height}
    with (
        heard(Notes(), is_verbose=False),
        open_prompts(file, format=kind, defaults=defaults, limit=limit, comments=comments) as prompts,
    ):
        prompts.check()
        try:
            found = estimate((read_item(each)[1] for each in prompts), limits, price=prices)
        except ConfigurationError as error:
            raise CommandError(error.message) from None
    if as_json:
        write_json(sys.stdout, _facts(found))
    else:
        write_line(sys.stdout, clean(str(found)))


def _facts(found: Estimate) -> dict[str, Any]:
    plan = found.plan
    return {
        "jobs": found.jobs,
        "credits_low": found.low,
        "credits_high": found.high,
        "seconds": found.seconds,
        "days": found.days,
        "plan": {
            "name": plan.name,
            "requests_per_minute": plan.requests_per_minute,
            "concurrent_jobs": plan.concurrent_jobs,
            "jobs_per_day": plan.jobs_per_day,
        },
        "text": str(found),
    }
