"""`doitong emulator`: runs the emulator until it is stopped, and prints how to reach it."""

from __future__ import annotations

import asyncio
import inspect
import json
import shlex
import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from doitong_async.cli.exits import CommandError
from doitong_async.cli.interrupts import handling_signals
from doitong_async.cli.options import (
    AnyPlanName,
    ConcurrentJobs,
    JobsPerDay,
    RequestsPerMinute,
    Speed,
    plan_of,
)
from doitong_async.cli.render import write_line
from doitong_async.cli.service import EMULATED_KEY, EMULATOR_PORT
from doitong_async.cli.text import clean
from doitong_async.limits.plan import Plan
from doitong_async.settings import secret_of_environment

if TYPE_CHECKING:
    from doitong_async.emulator import Emulator


EXAMPLES: Final = """[bold]Examples[/bold]
doitong emulator --plan pro --speed 10
doitong emulator --port 0 --credits 5 --over-concurrency queue
doitong emulator --fault "submit 3: cut-after" --fault "poll: 502 p=0.2 seed=7"
doitong emulator --fault help

Copy the export line that it prints into another terminal: every command and
program there then talks to the emulator. For webhooks, give both the same
secret: doitong emulator --webhook-secret S here, and there
DOITONG_WEBHOOK_SECRET=S with --webhook-url http://127.0.0.1:8001/ and
--webhook-port 8001.

[bold]Faults[/bold]
submit 3: cut-after        the third submit succeeds, its answer is lost
poll: 502 p=0.2 seed=7     one poll in five gets a gateway's HTML page
any 5-: 429-minute times=2 retry-after=5
job 1: fail charged=no     the first job fails, its credits come back
output: truncated every=3  every third download breaks off

While it runs, /_emulator/faults has its faults: GET lists them, PUT replaces
them by a JSON list of such texts, DELETE removes them."""


class OverConcurrency(StrEnum):
    """What the emulator does with a job beyond the plan's concurrency limit."""

    REFUSE = "refuse"
    QUEUE = "queue"


def emulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = EMULATOR_PORT,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    plan: Annotated[AnyPlanName, typer.Option(case_sensitive=False, help="Its limits.")] = AnyPlanName.FREE,
    requests_per_minute: RequestsPerMinute = None,
    concurrent_jobs: ConcurrentJobs = None,
    jobs_per_day: JobsPerDay = None,
    balance: Annotated[
        int, typer.Option("--credits", min=0, metavar="N", help="The credits of each key.")
    ] = 10_000,
    seed: Annotated[
        int | None, typer.Option(help="The same seed gives the same job ids; new ones by default.")
    ] = None,
    speed: Speed = 1.0,
    key: Annotated[
        str | None, typer.Option(help="The only key to accept, never a real one; any key by default.")
    ] = None,
    webhook_secret: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Signs the webhooks that it sends for jobs with a webhookUrl on this machine; none are sent "
            "without it.",
        ),
    ] = None,
    over_concurrency: Annotated[
        OverConcurrency, typer.Option(help="What to do with a job beyond the concurrency limit.")
    ] = OverConcurrency.REFUSE,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="TEXT",
            help='A fault to inject, such as "poll 2-4: latency 12"; repeatable. "help" lists all faults.',
        ),
    ] = None,
) -> None:
    """Emulate the Doitong API on this machine, to try things without a key, until Ctrl-C."""
    serve(
        plan=plan_of(
            plan,
            requests_per_minute=requests_per_minute,
            concurrent_jobs=concurrent_jobs,
            jobs_per_day=jobs_per_day,
        ),
        key=key,
        host=host,
        port=port,
        credits=balance,
        seed=seed,
        speed=speed,
        webhook_secret=webhook_secret,
        over_concurrency=over_concurrency.value,
        faults=faults or [],
    )


def serve(
    *, plan: Plan, key: str | None, webhook_secret: str | None, faults: Sequence[str], **settings: Any
) -> None:
    """Run an emulator until SIGINT or SIGTERM; or print the known faults if "help" is among them.

    Args:
        plan: the limits that it enforces.
        key: the only key to accept; any key by default.
        webhook_secret: signs webhooks; by default DOITONG_WEBHOOK_SECRET.
        faults: the faults to inject, in the text form of `doitong_async.emulator.faults`.
        **settings: further arguments of `doitong_async.emulator.Emulator`.

    Raises:
        CommandError: if a setting is invalid, the port is taken, or Pillow is missing.
    """
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key or not key):
        raise CommandError("--key is not a key; expected printable ASCII characters without spaces.")
    try:
        from doitong_async.emulator import Emulator, PlanLimits, parse_fault
    except ImportError as missing:
        raise CommandError(f"{missing}.") from None
    if "help" in faults:
        # The module that parses faults documents them; its tables are indented for the API reference.
        text = inspect.getdoc(sys.modules[parse_fault.__module__]) or ""
        write_line(sys.stdout, text.replace("\n    ", "\n"))
        return
    try:
        parsed = [parse_fault(text) for text in faults]
    except ValueError as error:
        raise CommandError(f"--fault: {error}. `doitong emulator --fault help` lists all faults.") from None
    limits = PlanLimits(plan.requests_per_minute, plan.concurrent_jobs, plan.jobs_per_day)
    if webhook_secret is not None and not webhook_secret.strip():
        raise CommandError("--webhook-secret is empty; expected the secret that the receiver has.")
    # With the same secret as the commands, its webhooks reach them.
    secret = webhook_secret or secret_of_environment("DOITONG_WEBHOOK_SECRET")
    emulator = Emulator(limits, key=key, faults=parsed, webhook_secret=secret, **settings)
    asyncio.run(_serve(emulator, plan.name, key or EMULATED_KEY, settings))


async def _serve(emulator: Emulator, plan: str, key: str, settings: dict[str, Any]) -> None:
    stopped = asyncio.Event()
    with handling_signals(stopped.set):
        try:
            await emulator.start()
        except (OSError, UnicodeError) as error:
            await emulator.stop()
            reason = getattr(error, "strerror", None) or error
            raise CommandError(
                f"The emulator cannot listen on {settings['host']} port {settings['port']}: {reason}. "
                "Choose another --port; 0 picks a free one."
            ) from None
        try:
            for line in (*_connection_lines(emulator.url, plan, key), *_fault_lines(emulator)):
                write_line(sys.stdout, line)
            await stopped.wait()
        finally:
            await emulator.stop()
            world = emulator.world
            counts = f"{world.count('submit')} submits, {world.count('poll')} polls"
            write_line(sys.stdout, f"stopped: {counts}, {world.charges} jobs charged")


def _connection_lines(url: str, plan: str, key: str) -> list[str]:
    # The only key ever printed: the emulator's own, which opens nothing else.
    environment = {"DOITONG_BASE_URL": url, "DOITONG_API_KEY": key, "DOITONG_PLAN": plan}
    if plan == AnyPlanName.ENTERPRISE:
        # This name alone does not give a program the limits.
        del environment["DOITONG_PLAN"]
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
    address, authorization = (
        shlex.quote(word) for word in (f"{url}/v1/text_to_image", f"Authorization: Bearer {key}")
    )
    return [
        clean(f"emulator on {url}, plan {plan}; Ctrl-C stops it"),
        f"export {exports}",
        f"curl -s {address} -H {authorization} -H 'Content-Type: application/json' "
        """-d '{"service": "flux-pro", "prompt": "A futuristic city"}'""",
    ]


def _fault_lines(emulator: Emulator) -> list[str]:
    """Return the faults in force, and a command to copy that sets them again."""
    texts = [str(fault) for fault in emulator.faults]
    if not texts:
        return []
    address, body = shlex.quote(f"{emulator.url}/_emulator/faults"), shlex.quote(json.dumps(texts))
    return [*(clean(f"fault {text}") for text in texts), f"curl -s -X PUT {address} -d {body}"]
