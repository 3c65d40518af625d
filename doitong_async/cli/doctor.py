"""`doitong doctor`: tells which assumption about the service fails, before a credit is spent."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from doitong_async.check.findings import Assumption, CheckOutcome, CheckReport, Finding, SettingsToUse
from doitong_async.cli.batch import WebhookUrl
from doitong_async.cli.exits import CommandError, Exit
from doitong_async.cli.interrupts import interruptible
from doitong_async.cli.options import (
    AnyPlanOption,
    AsJson,
    BaseUrl,
    ConcurrentJobs,
    CoordinatorOption,
    JobsPerDay,
    Proxy,
    RequestsPerMinute,
    TransportOption,
    Verbose,
    plan_of,
)
from doitong_async.cli.render import (
    CommandFailure,
    Notes,
    console_on,
    is_screen,
    say_failure,
    write_json,
    write_line,
)
from doitong_async.cli.run_job import heard
from doitong_async.cli.service import Receiver, Service
from doitong_async.cli.text import clean, command_line
from doitong_async.cli.units import credit_words, some
from doitong_async.events import Event, RequestSent, SubmitAttempted

EXAMPLES: Final = """[bold]Examples[/bold]
doitong doctor --plan starter
doitong doctor --webhook-url https://example.com/doitong/
doitong doctor --spend 40 --json

Without --spend it makes no job. It sends at most six requests, through the
limits of the plan, and two events to the receiver at --webhook-url.

[bold]Exit codes[/bold]
0    nothing that could be told fails
13   something fails; the settings to use are printed
3    the API key is missing or refused
8    no API answers there, or it cannot be used as it is
5    a limit of the plan cut the check short
14   the coordinator cannot be reached or used
2    an option is wrong; nothing was sent"""

Spend = Annotated[
    float,
    typer.Option(
        metavar="CREDITS",
        help="Make up to two of the cheapest jobs, for at most so many credits: 40 for both.",
    ),
]
WebhookPort = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65_535,
        metavar="N",
        help="Receive the test events on this local port; without it, your own receiver must be running.",
    ),
]
_WORDS: Final = {
    CheckOutcome.HOLDS: ("holds", "green"),
    CheckOutcome.FAILS: ("fails", "red"),
    CheckOutcome.UNKNOWN: ("cannot be told", "yellow"),
}


@dataclass(slots=True)
class Submits:
    """What the check submitted, known as soon as it is sent: Ctrl-C may come at any moment."""

    notes: Notes
    requests: int = 0
    key: str | None = None
    job_ids: list[str] = field(default_factory=list)

    def on_event(self, event: Event) -> None:
        """Show each submit, and each job that it made."""
        if isinstance(event, RequestSent) and event.kind == "submit":
            again = " again" if self.key == event.idempotency_key else ""
            self.key = event.idempotency_key
            self.notes.note(f"submitting{again} under idempotency key {self.key}")
        elif isinstance(event, SubmitAttempted) and event.job_id not in (None, *self.job_ids):
            self.job_ids.append(event.job_id or "")
            self.notes.note(f"job {event.job_id} was made under it")

    def interruption(self) -> CommandFailure:
        """Return the failure to report at Ctrl-C."""
        if self.key is None:
            return CommandFailure(
                type="Interrupted", message="Interrupted. No job was made.", end=Exit.INTERRUPTED
            )
        made = (
            f"Made: {', '.join(self.job_ids)}." if self.job_ids else "It is not known whether one was made."
        )
        facts = {"idempotency_key": self.key}
        return CommandFailure(
            type="Interrupted",
            message=f"Interrupted. Up to two jobs may have been charged. {made}",
            end=Exit.INTERRUPTED,
            facts=facts | ({"job_id": self.job_ids[0]} if self.job_ids else {}),
            next=command_line(["job", self.job_ids[0]]) if self.job_ids else None,
        )


def diagnose(
    context: typer.Context,
    spend: Spend = 0.0,
    plan: AnyPlanOption = None,
    requests_per_minute: RequestsPerMinute = None,
    concurrent_jobs: ConcurrentJobs = None,
    jobs_per_day: JobsPerDay = None,
    transport: TransportOption = None,
    base_url: BaseUrl = None,
    proxy: Proxy = None,
    coordinator: CoordinatorOption = None,
    webhook_url: WebhookUrl = None,
    webhook_port: WebhookPort = None,
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Check a private emulator, to see what a sound service gives.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Tell which assumption about the service fails here, and which settings to use; free of charge."""
    context.obj.as_json = as_json
    if webhook_port is not None and webhook_url is None:
        raise CommandError("--webhook-port needs --webhook-url, the URL that leads to it. Nothing was sent.")
    numbers = (requests_per_minute, concurrent_jobs, jobs_per_day)
    limits = None
    if plan is not None or any(each is not None for each in numbers):
        limits = plan_of(
            plan,
            requests_per_minute=requests_per_minute,
            concurrent_jobs=concurrent_jobs,
            jobs_per_day=jobs_per_day,
        )
    receiver = None if webhook_url is None else Receiver(webhook_url, webhook_port)
    service = Service(
        base_url=base_url,
        plan=limits,
        proxy=proxy,
        coordinator=coordinator,
        receiver=receiver,
        transport=transport,
        has_own_emulator=emulator,
    )
    submits = Submits(Notes())
    try:
        with heard(submits.notes, is_verbose=verbose):
            report = asyncio.run(interruptible(lambda: _check(service, submits, spend)))
    except KeyboardInterrupt:
        context.obj.is_reported = True
        say_failure(submits.interruption(), as_json=as_json)
        return Exit.INTERRUPTED
    if as_json:
        write_json(sys.stdout, as_facts(report))
    else:
        show(report, spend)
    return exit_of_report(report)


async def _check(service: Service, submits: Submits, spend: float) -> CheckReport:
    async with service.opened(submits.on_event) as doitong:
        return await doitong.check(spend=spend)


def exit_of_report(report: CheckReport) -> Exit:
    """Return the exit code for what a check found."""
    if not report.is_reached:
        is_refused = report.find(Assumption.KEY).outcome is CheckOutcome.FAILS
        return Exit.CREDENTIALS if is_refused else Exit.SERVICE
    if report.failing:
        return Exit.SETTINGS
    if report.cut_short is not None:
        # The API answers, so only a limit can have done that.
        return Exit.LIMITS
    return Exit.OK if report.is_usable else Exit.SERVICE


def show(report: CheckReport, spend: float) -> None:
    """Show a report to people, one line for each assumption; `spend` is what might be spent."""
    rows = [(each, *_WORDS[each.outcome]) for each in report.findings]
    if is_screen(sys.stdout):
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for finding, word, style in rows:
            table.add_row(Text(word, style=style), finding.assumption.value, Text(clean(_text(finding))))
        console_on(sys.stdout).print(table)
    else:
        for finding, word, _ in rows:
            write_line(sys.stdout, f"{word:<15} {finding.assumption.value:<14} {clean(_text(finding))}")
    for line in _ending(report, spend):
        write_line(sys.stdout, clean(line))


def _text(finding: Finding) -> str:
    use = f" Use {written(finding.settings)}." if finding.settings else ""
    return f"{finding.detail}{use}"


def _ending(report: CheckReport, spend: float) -> list[str]:
    """Return the lines below the findings: what was sent and paid, and what to change."""
    lines = [f"{some(report.requests, 'request')} to the API."]
    if report.cut_short is not None:
        lines[0] += f" The check was cut short: {report.cut_short}."
    for job in report.jobs:
        cost = "cost unknown" if job.credit_cost is None else credit_words(job.credit_cost)
        made = "a job that may have been made" if job.job_id is None else f"job {job.job_id}, {cost}"
        token = "" if job.token is None else f", token {job.token}"
        lines.append(f"Paid: {made}, under idempotency key {job.idempotency_key}{token}")
    if not report.jobs and not spend:
        lines.append("What only a paid job shows is checked with --spend 40.")
    if report.settings:
        lines.append(f"Use: AsyncDoitong({written(report.settings)})")
    options = {"--plan": report.settings.get("plan"), "--transport": report.settings.get("transport")}
    given = " ".join(f"{name} {value}" for name, value in options.items() if value is not None)
    if given:
        lines.append(f"On the command line: {given}")
    return lines


def written(settings: SettingsToUse) -> str:
    """Return settings as Python writes keyword arguments."""
    shown = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
        for name, value in settings.items()
    }
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def as_facts(report: CheckReport) -> dict[str, Any]:
    """Return a report as JSON has it."""
    return {
        "is_usable": report.is_usable,
        "findings": [dataclasses.asdict(each) for each in report.findings],
        "settings": report.settings,
        "requests": report.requests,
        "jobs": [dataclasses.asdict(each) for each in report.jobs],
        "credits_spent": report.credits_spent,
        "cut_short": report.cut_short,
    }
