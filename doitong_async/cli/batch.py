"""`doitong batch`: a file of prompts made into files, with a ledger, a budget and a gallery."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from doitong_async.batch.outcome import Outcome
from doitong_async.batch.sqlite import service_of
from doitong_async.budget import Budget
from doitong_async.cli.batch_render import BatchRenderer, renderer_for, title_of
from doitong_async.cli.batch_run import Order, Run, gallery_of
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.cli.options import (
    AnyPlanOption,
    AsJson,
    BaseUrl,
    ConcurrentJobs,
    FormatOption,
    HeightOption,
    JobsPerDay,
    LimitOption,
    PriceOption,
    PromptFile,
    ProviderOption,
    RequestsPerMinute,
    Verbose,
    WidthOption,
    plan_of,
    read_prices,
)
from doitong_async.cli.own_emulator import OwnEmulator
from doitong_async.cli.preflight import Preflight, preflight_of
from doitong_async.cli.progress import BatchProgress
from doitong_async.cli.prompts import Checked, Prompts, open_prompts
from doitong_async.cli.render import say_failure
from doitong_async.cli.service import Receiver, Service
from doitong_async.cli.status import LEDGER
from doitong_async.cli.summary import End
from doitong_async.cli.work import heard
from doitong_async.limits.plan import Plan
from doitong_async.pricing import PriceArgument
from doitong_async.settings import root_of, secret_of_environment

EXAMPLES: Final = """[bold]Examples[/bold]
doitong batch prompts.txt --out trial --emulator
doitong batch prompts.txt --out pictures --plan starter --budget 5000
doitong batch shots.csv --out shots --price kling=100 --dry-run
doitong batch status pictures

Killed, or stopped by Ctrl-C, it goes on where it was when the same command is
given again: the ledger knows what is done, what runs, and what was paid.
Ctrl-C once waits for the jobs that run, twice leaves them to the next run.
pictures/index.html shows what was made.

[bold]How it ends[/bold]
0    every item is done
11   some items failed, were rejected or are in doubt; see --retry-failed
12   the budget is reached: the same command with a larger --budget
130  stopped by Ctrl-C, SIGTERM or SIGHUP: the same command
3    the API key is missing or not accepted
4    the service says that the credits are used up
5    a limit of the plan that waiting does not help against
8    the service could not be reached for ten minutes
10   the disk or the ledger failed
2    the command or a line of FILE is wrong; nothing was sent"""

Out = Annotated[
    Path, typer.Option("-o", "--out", metavar="DIR", help="Where pictures, ledger and gallery go.")
]
LedgerOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What makes the batch survive; DIR/ledger.db by default."),
]
BudgetOption = Annotated[
    float | None,
    typer.Option(metavar="N", help="Credits that may be spent, over all runs on the ledger."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check FILE and tell what it costs; nothing is sent.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Make again, and pay again, what failed before.")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hash the files that are there; fetch again what changed.")
]
EmulatorOption = Annotated[
    bool,
    typer.Option(
        "--emulator", help="Use an emulator beside the ledger, started if need be: no key, no cost."
    ),
]
Speed = Annotated[
    float, typer.Option(metavar="N", help="Jobs of an emulator that is started end so many times faster.")
]

WebhookUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="The public URL at which the service tells of ends.  [DOITONG_WEBHOOK_SECRET]"
    ),
]
WebhookPort = Annotated[
    int | None,
    typer.Option(min=1, max=65_535, metavar="N", help="Where this command listens for that meanwhile."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What the options say, read and checked."""

    limits: Plan
    budget: Budget | None
    price: PriceArgument
    out: Path
    ledger: Path
    title: str
    dry_run: bool
    retry_failed: bool
    verify: bool
    has_emulator: bool
    speed: float
    base_url: str | None
    receiver: Receiver | None


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
    price: PriceOption = None,
    provider: ProviderOption = None,
    width: WidthOption = None,
    height: HeightOption = None,
    limit: LimitOption = None,
    kind: FormatOption = None,
    dry_run: DryRun = False,
    retry_failed: RetryFailed = False,
    verify: Verify = False,
    emulator: EmulatorOption = False,
    speed: Speed = 1.0,
    base_url: BaseUrl = None,
    webhook_url: WebhookUrl = None,
    webhook_port: WebhookPort = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Make what a file of prompts asks for, each thing once, through crashes too."""
    context.obj.as_json = as_json
    wish = _Wish(
        limits=_limits(plan, emulator, requests_per_minute, concurrent_jobs, jobs_per_day),
        budget=None if budget is None else Budget(budget),
        price=read_prices(price),
        out=out,
        ledger=ledger or out / LEDGER,
        title=title_of(file, out),
        dry_run=dry_run,
        retry_failed=retry_failed,
        verify=verify,
        has_emulator=emulator,
        speed=speed,
        base_url=base_url,
        receiver=_receiver(webhook_url, webhook_port),
    )
    renderer = renderer_for(sys.stdout, as_json=as_json)
    defaults = {"provider": provider, "width": width, "height": height}
    with (
        heard(renderer, is_verbose=verbose),
        open_prompts(file, format=kind, defaults=defaults, limit=limit) as prompts,
    ):
        end = _end_of(wish, prompts, renderer)
    if end is None:
        return Exit.OK
    if end.is_all_over:
        OwnEmulator.stop(wish.ledger)
    return _told(context.obj, end, renderer, out=out, ledger=wish.ledger)


def _limits(
    plan: str | None,
    has_emulator: bool,
    requests_per_minute: int | None,
    concurrent_jobs: int | None,
    jobs_per_day: int | None,
) -> Plan:
    # An emulator costs nothing: it is as wide as `generate --emulator` has it.
    return plan_of(
        plan or os.environ.get("DOITONG_PLAN") or (Plan.PRO.name if has_emulator else None),
        requests_per_minute=requests_per_minute,
        concurrent_jobs=concurrent_jobs,
        jobs_per_day=jobs_per_day,
    )


def _end_of(wish: _Wish, prompts: Prompts, renderer: BatchRenderer) -> End | None:
    """Check everything, then run the batch if there is something to do; a dry run has no end."""
    checked = prompts.check()
    preflight = preflight_of(
        prompts,
        ledger=wish.ledger,
        service=_named(wish),
        out=wish.out,
        plan=wish.limits,
        price=wish.price,
        retry_failed=wish.retry_failed,
        wall=time.time(),
    )
    if preflight.unpriced is not None and (wish.budget is not None or wish.dry_run):
        raise CommandError(f"{preflight.unpriced} On the command line: --price. Nothing was sent.")
    most = None if wish.budget is None else wish.budget.credits
    progress = BatchProgress(preflight.items, wish.limits, most, wish.price)
    renderer.say(_beginning(wish.title, checked, preflight))
    if wish.dry_run:
        renderer.facts(_estimated(preflight))
        return None
    if preflight.is_over and not wish.verify:
        return _nothing_to_do(preflight, progress, wish.ledger, wish.out, wish.title)
    order = Order(
        prompts=prompts,
        service=_service(wish, renderer),
        out=wish.out,
        ledger=wish.ledger,
        budget=wish.budget,
        price=wish.price,
        retry_failed=wish.retry_failed,
        verify=wish.verify,
        title=wish.title,
    )
    return asyncio.run(Run(order, progress, renderer).to_end())


def _told(call: Any, end: End, renderer: BatchRenderer, *, out: Path, ledger: Path) -> Exit:
    """Say how it ended, and return the exit code."""
    call.is_told = True
    renderer.end(end)
    renderer.facts(end.as_json(call.arguments, out=out, ledger=ledger))
    failure = end.failure(call.arguments)
    if failure is not None and not call.as_json:
        say_failure(failure, as_json=False)
    return end.code


def _receiver(url: str | None, port: int | None) -> Receiver | None:
    if url is None and port is None:
        return None
    if url is None or port is None:
        raise CommandError(
            "--webhook-url and --webhook-port belong together: where the service reaches this machine, and "
            "where this command listens on it. Nothing was sent."
        )
    if secret_of_environment("DOITONG_WEBHOOK_SECRET") is None:
        raise CommandError(
            "DOITONG_WEBHOOK_SECRET is not set. Nothing was sent. Without it no webhook can be told from a "
            "forged one."
        )
    return Receiver(url, port)


def _named(wish: _Wish) -> str:
    """Return what a ledger of this batch calls its service."""
    if wish.has_emulator and wish.base_url is None:
        return service_of("http://localhost")
    return service_of(root_of(wish.base_url))


def _service(wish: _Wish, renderer: BatchRenderer) -> Service:
    base_url, ledger, plan = wish.base_url, wish.ledger, wish.limits
    if not wish.has_emulator:
        return Service(base_url=base_url, plan=plan, receiver=wish.receiver)
    if base_url is None:
        try:
            ledger.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(
                f"{ledger.parent} cannot be made: {error.strerror or error}. Nothing was sent."
            ) from None
        base_url = OwnEmulator.found_or_started(ledger, plan, speed=wish.speed).url
        renderer.say(f"emulator on {base_url}")
    return Service(base_url=base_url, plan=plan, is_keyless=True, receiver=wish.receiver)


def _beginning(title: str, checked: Checked, preflight: Preflight) -> str:
    """Return what is before the batch: what is done, what is to do, what it costs and how long it takes."""
    of = f" of {checked.total:,}" if checked.items != checked.total else ""
    words = [f"{title}: {checked.items:,}{of} {'prompt' if checked.total == 1 else 'prompts'}"]
    words += [
        f"{count:,} {outcome.replace('_', ' ')} before" for outcome, count in preflight.over.items() if count
    ]
    if preflight.under_way:
        words.append(f"{preflight.under_way:,} begun before")
    said = ", ".join(words)
    if preflight.is_over:
        return f"{said}. Nothing is left to do."
    if not preflight.to_begin:
        return f"{said}, none to begin."
    if preflight.cost is None:
        return f"{said}, {preflight.to_begin:,} to begin, of which not every price is known."
    return f"{said}. To begin: {preflight.cost}"


def _nothing_to_do(preflight: Preflight, progress: BatchProgress, ledger: Path, out: Path, title: str) -> End:
    """Return the end of a batch that is over already."""
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
