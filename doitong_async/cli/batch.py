"""`doitong batch`: its options, checks and dry run, and the report at its end."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from doitong_async.batch.item import Outcome
from doitong_async.batch.ledger import move_log_in, service_of
from doitong_async.budget import Budget
from doitong_async.cli.batch_render import BatchRenderer, renderer_for, title_of
from doitong_async.cli.batch_run import Order, Run, gallery_of
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.cli.options import (
    AnyPlanOption,
    AsJson,
    BaseUrl,
    BudgetOption,
    CommentsOption,
    ConcurrentJobs,
    CoordinatorOption,
    FormatOption,
    HeightOption,
    JobsPerDay,
    LimitOption,
    LowOption,
    PriceOption,
    PromptFile,
    ProviderOption,
    Proxy,
    RequestsPerMinute,
    Speed,
    TransportOption,
    Verbose,
    WidthOption,
    budget_of,
    plan_of,
    read_prices,
)
from doitong_async.cli.preflight import Preflight, preflight_of
from doitong_async.cli.progress import BatchProgress
from doitong_async.cli.prompts import Checked, Prompts, open_prompts
from doitong_async.cli.render import say_failure
from doitong_async.cli.run_job import heard
from doitong_async.cli.service import Receiver, Service
from doitong_async.cli.status import LEDGER
from doitong_async.cli.summary import End
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument
from doitong_async.settings import form_of, root_of, secret_of_environment

EXAMPLES: Final = """[bold]Examples[/bold]
doitong batch prompts.txt --out trial --emulator
doitong batch prompts.txt --out pictures --plan starter --budget 5000
doitong batch shots.csv --out shots --price kling=100 --dry-run
doitong batch status pictures

Before the first large batch, `doitong doctor` checks the service for free.
After a kill or Ctrl-C, give the same command again to continue: the ledger
knows what is done, what is running, and what was paid. Ctrl-C once waits for
the running jobs; twice leaves them to the next run. pictures/index.html shows
the results. Only a trial with --emulator cannot resume running jobs.

[bold]Exit codes[/bold]
0    every item is done
11   some items failed, were rejected or are in doubt; see --retry-failed
12   the budget is reached: repeat the command with a larger --budget
130  stopped by Ctrl-C, SIGTERM or SIGHUP: repeat the command
3    the API key is missing or invalid
4    the account has no credits left
5    a plan limit that waiting does not lift
8    the service was unreachable for ten minutes
14   the coordinator was unreachable for ten minutes
10   the disk or the ledger failed
2    the command or a line of FILE is wrong; nothing was sent"""

Out = Annotated[
    Path, typer.Option("-o", "--out", metavar="DIR", help="The folder for outputs, ledger and gallery.")
]
LedgerOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The record that lets a batch resume; DIR/ledger.db by default."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check FILE and show its cost; send nothing.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Submit failed items again, and pay again.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash the existing files; fetch changed ones again, beside them.")
]
EmulatorOption = Annotated[
    bool,
    typer.Option("--emulator", help="A trial at a private emulator, which ends with it: no key, no cost."),
]

WebhookUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The public URL for the service's webhooks."),
]
WebhookPort = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, metavar="N", help="The local port that receives the webhooks."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arguments:
    """The options, parsed and checked."""

    limits: Plan
    budget: Budget | None
    price: PriceArgument
    out: Path
    ledger: Path
    title: str
    dry_run: bool
    retry_failed: bool
    verify: bool
    service: Service


def batch_file(
    context: typer.Context,
    file: PromptFile,
    out: Out,
    ledger: LedgerOption = None,
    plan: AnyPlanOption = None,
    requests_per_minute: RequestsPerMinute = None,
    concurrent_jobs: ConcurrentJobs = None,
    jobs_per_day: JobsPerDay = None,
    budget: BudgetOption = None,
    low: LowOption = None,
    price: PriceOption = None,
    provider: ProviderOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    limit: LimitOption = None,
    kind: FormatOption = None,
    comments: CommentsOption = False,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    verify: Verify = False,
    emulator: EmulatorOption = False,
    speed: Speed = 1.0,
    base_url: BaseUrl = None,
    transport: TransportOption = None,
    proxy: Proxy = None,
    coordinator: CoordinatorOption = None,
    webhook_url: WebhookUrl = None,
    webhook_port: WebhookPort = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Make the outputs for a file of prompts, each paid once, even through crashes."""
    context.obj.as_json = as_json
    limits = _limits(plan, emulator, requests_per_minute, concurrent_jobs, jobs_per_day)
    renderer = renderer_for(sys.stdout, sys.stderr, as_json=as_json)
    arguments = _Arguments(
        limits=limits,
        budget=budget_of(budget, low, renderer.note),
        price=read_prices(price),
        out=out,
        ledger=ledger or out / LEDGER,
        title=title_of(file, out),
        dry_run=dry_run,
        retry_failed=retry_failed,
        verify=verify,
        service=Service(
            base_url=base_url,
            plan=limits,
            has_own_emulator=emulator,
            speed=speed,
            proxy=proxy,
            coordinator=coordinator,
            transport=transport,
            receiver=_receiver(webhook_url, webhook_port, has_emulator=emulator),
        ),
    )
    defaults = {"provider": provider, "width": width, "height": height}
    with (
        heard(renderer, is_verbose=verbose),
        open_prompts(file, format=kind, defaults=defaults, limit=limit, comments=comments) as prompts,
    ):
        end = _end_of(arguments, prompts, renderer)
    return Exit.OK if end is None else _report(context.obj, end, renderer, out, arguments.ledger)


def _limits(
    plan: str | None,
    has_emulator: bool,
    requests_per_minute: int | None,
    concurrent_jobs: int | None,
    jobs_per_day: int | None,
) -> Plan:
    # An emulator costs nothing, so it gets the same plan as `generate --emulator`.
    return plan_of(
        plan or os.environ.get("DOITONG_PLAN") or (Plan.PRO.name if has_emulator else None),
        requests_per_minute=requests_per_minute,
        concurrent_jobs=concurrent_jobs,
        jobs_per_day=jobs_per_day,
    )


def _end_of(arguments: _Arguments, prompts: Prompts, renderer: BatchRenderer) -> End | None:
    """Check everything, then run the batch if there is something to do; None after a dry run."""
    checked = prompts.check(form_of(arguments.service.transport))
    if (line := prompts.seems_commented()) is not None:
        renderer.note(
            f"The first line begins with # and is paid for like any prompt: {line[:60]!r}. "
            "If it is a comment, stop here, and add --comments."
        )
    preflight = preflight_of(
        prompts,
        ledger=arguments.ledger,
        service=_named(arguments.service),
        out=arguments.out,
        plan=arguments.limits,
        price=arguments.price,
        retry_failed=arguments.retry_failed,
        wall=time.time(),
    )
    if preflight.unpriced is not None and (arguments.budget is not None or arguments.dry_run):
        raise CommandError(f"{preflight.unpriced} On the command line: --price. Nothing was sent.")
    most = None if arguments.budget is None else arguments.budget.credits
    progress = BatchProgress(preflight.items, arguments.limits, most, arguments.price)
    beginning = _beginning(arguments.title, checked, preflight)
    (renderer.report if arguments.dry_run else renderer.say)(beginning)
    if arguments.dry_run:
        if not arguments.service.has_own_emulator:
            renderer.report(
                "Before you pay: `doitong doctor` checks the service and your settings, for free."
            )
        renderer.facts(_estimated(preflight))
        return None
    if arguments.service.has_own_emulator and (preflight.unsettled or preflight.under_way):
        raise CommandError(_NOT_RESUMED.format(arguments.ledger))
    if preflight.is_over and not arguments.verify:
        move_log_in(arguments.ledger, service=_named(arguments.service))
        return _nothing_to_do(preflight, progress, arguments.ledger, arguments.out, arguments.title)
    order = Order(
        prompts=prompts,
        service=arguments.service,
        out=arguments.out,
        ledger=arguments.ledger,
        budget=arguments.budget,
        price=arguments.price,
        retry_failed=arguments.retry_failed,
        verify=arguments.verify,
        title=arguments.title,
    )
    return asyncio.run(Run(order, progress, renderer).to_end())


def _report(call: Any, end: End, renderer: BatchRenderer, out: Path, ledger: Path) -> Exit:
    """Report how the batch ended, and return the exit code."""
    call.is_reported = True
    renderer.end(end)
    renderer.facts(end.as_json(call.arguments, out=out, ledger=ledger))
    failure = end.failure(call.arguments)
    if failure is not None and not call.as_json:
        say_failure(failure, as_json=False)
    return end.code


_NOT_RESUMED: Final = (
    "A trial cannot be resumed: the ledger {} has jobs that only an earlier emulator knew, and --emulator "
    "starts a new one. Nothing was sent, and the ledger is unchanged. Begin again with another --out. To try "
    "resuming, run `doitong emulator` in another terminal, copy the export line that it prints to this one, "
    "and leave out --emulator."
)


def _receiver(url: str | None, port: int | None, *, has_emulator: bool) -> Receiver | None:
    if url is None and port is None:
        return None
    if url is None or port is None:
        raise CommandError(
            "--webhook-url and --webhook-port belong together: the URL at which the service reaches this "
            "machine, and the port on which this command listens. Nothing was sent. Give both.",
        )
    if not has_emulator and secret_of_environment("DOITONG_WEBHOOK_SECRET") is None:
        raise CommandError(
            "DOITONG_WEBHOOK_SECRET is not set, so webhooks cannot be verified. Nothing was sent. Set it to "
            "your webhook secret."
        )
    return Receiver(url, port)


def _named(service: Service) -> str:
    """Return the ledger's name for this batch's service."""
    return service_of("http://localhost" if service.has_own_emulator else root_of(service.base_url))


def _beginning(title: str, checked: Checked, preflight: Preflight) -> str:
    """Return the line before the batch: what is done, what is left, what it costs and how long it takes."""
    of = f" of {checked.total:,}" if checked.items != checked.total else ""
    parts = [f"{title}: {checked.items:,}{of} {'prompt' if checked.total == 1 else 'prompts'}"]
    parts += [
        f"{count:,} {outcome.replace('_', ' ')} before" for outcome, count in preflight.over.items() if count
    ]
    if preflight.under_way:
        parts.append(f"{preflight.under_way:,} in progress before")
    text = ", ".join(parts)
    if preflight.is_over:
        return f"{text}. Nothing is left to do."
    if not preflight.to_begin:
        return f"{text}, none to submit."
    if preflight.cost is None:
        return f"{text}, {preflight.to_begin:,} to submit, of which not every price is known."
    return f"{text}. To submit: {preflight.cost}"


def _nothing_to_do(preflight: Preflight, progress: BatchProgress, ledger: Path, out: Path, title: str) -> End:
    """Return the end of a batch that has nothing left to do."""
    progress.outcomes.update(preflight.over)
    progress.known.update(preflight.over)
    gallery, trouble = gallery_of(ledger, out, title)
    return End(progress=progress, spent=preflight.spent, seconds=0.0, gallery=gallery, trouble=trouble)


def _estimated(preflight: Preflight) -> dict[str, Any]:
    cost = preflight.cost
    return {
        "total": preflight.items,
        "done_before": preflight.over[Outcome.DONE],
        "begun_before": preflight.under_way,
        "to_begin": preflight.to_begin,
        "credits_low": None if cost is None else cost.low,
        "credits_high": None if cost is None else cost.high,
        "credits_spent": preflight.spent,
        "seconds": None if cost is None else cost.seconds,
        "days": None if cost is None else cost.days,
        "text": "" if cost is None else str(cost),
    }
