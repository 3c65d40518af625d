"""The commands and their options, as typer parses them and `--help` shows them."""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from typer.main import get_command

from doitong_async.cli import batch, emulation, planning, status, work
from doitong_async.cli.exits import MEANINGS, CommandError, Exit, exit_of
from doitong_async.cli.interrupts import hangup_as_before
from doitong_async.cli.job_progress import JobProgress
from doitong_async.cli.options import (
    AnyPlanName,
    AsJson,
    BaseUrl,
    ConcurrentJobs,
    JobsPerDay,
    PlanOption,
    RequestsPerMinute,
    Speed,
    Verbose,
    plan_of,
)
from doitong_async.cli.outputs import Destination
from doitong_async.cli.render import CommandFailure, renderer_for, say_failure
from doitong_async.cli.service import EMULATOR_PORT, Service
from doitong_async.errors import DoitongError
from doitong_async.types import as_request

# typer's usage errors are click's; whether typer bundles click depends on its version.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__base__


@dataclass(slots=True)
class Call:
    """One run of the command line: its arguments, and its progress once it has started."""

    arguments: Sequence[str]
    as_json: bool
    progress: JobProgress | None = None
    is_reported: bool = False
    """Whether the command itself reported how it ended."""

    def begin(
        self, service: Service, destination: Destination, *, as_json: bool, idempotency_key: str | None
    ) -> JobProgress:
        """Start a command and return its progress."""
        self.as_json = as_json
        if as_json and destination.is_stdout:
            raise CommandError("-o - and --json both want the standard output. Give one of them.")
        renderer = renderer_for(sys.stderr if destination.is_stdout else sys.stdout, as_json=as_json)
        self.progress = JobProgress(
            self.arguments, renderer, service, destination, idempotency_key or secrets.token_urlsafe(24)
        )
        destination.check()
        return self.progress

    def failure(self, error: BaseException) -> CommandFailure:
        """Return the failure that describes what ended the command."""
        if isinstance(error, DoitongError) and self.progress is not None:
            return self.progress.failure(error)
        if isinstance(error, CommandError):
            return CommandFailure(
                type="CommandError", message=error.message, end=error.end, details=error.details
            )
        if isinstance(error, DoitongError):
            return CommandFailure(
                type=type(error).__name__, message=error.message, end=exit_of(error), advice=error.advice
            )
        if isinstance(error, _USAGE_ERROR):
            path = error.ctx.command_path if error.ctx else "doitong"
            advice = f"See `{path} --help`."
            return CommandFailure(
                type="UsageError", message=error.format_message(), end=Exit.USAGE, advice=advice
            )
        if self.progress is not None:
            return self.progress.interruption()
        return CommandFailure(
            type="Interrupted", message="Interrupted. Nothing was sent.", end=Exit.INTERRUPTED
        )


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    with hangup_as_before():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    call = Call(arguments, as_json="--json" in options)
    words = status.NAME.split()
    if list(arguments[: len(words)]) == words:
        arguments = [status.NAME, *arguments[len(words) :]]
    command = get_command(app)
    try:
        code = command.main(
            args=list(arguments) or ["--help"], prog_name="doitong", standalone_mode=False, obj=call
        )
        if code != Exit.INTERRUPTED or call.is_reported:
            return int(code or Exit.OK) if arguments else Exit.USAGE
        # typer turns a KeyboardInterrupt into this exit code; older versions raise Abort.
        failure = call.failure(KeyboardInterrupt())
    except (CommandError, DoitongError, KeyboardInterrupt, typer.Abort, _USAGE_ERROR) as error:
        failure = call.failure(error)
    is_stdout_taken = call.progress is not None and call.progress.destination.is_stdout
    say_failure(failure, as_json=call.as_json, is_stdout_taken=is_stdout_taken)
    return failure.end


def _lines(text: str) -> str:
    """Return an epilog that keeps its line breaks: typer before 0.27.1 joins lines unless one is blank."""
    release = tuple(int(number) for number in re.findall(r"\d+", typer.__version__)[:3])
    return text if release >= (0, 27, 1) else text.replace("\n", "\n\n")


_EPILOG: Final = "\n".join(
    (
        "[bold]Try it without a key[/bold]",
        'doitong generate "a futuristic city with flying cars" --emulator -o city.jpg',
        "",
        "[bold]Environment[/bold]",
        "DOITONG_API_KEY   your API key; there is no option, because others can see arguments",
        "DOITONG_PLAN      free, starter or pro: the limits to keep; free by default",
        "DOITONG_BASE_URL  the base URL of another API, such as an emulator",
        "",
        "[bold]Exit codes[/bold]",
        *(f"{end.value:<5}{meaning}" for end, meaning in MEANINGS.items()),
    )
)
_GENERATE_EXAMPLES: Final = r"""[bold]Examples[/bold]
doitong generate "a red fox in the snow" -o fox.jpg
doitong generate "a red fox" --provider flux-ultra --width 1920 -o pictures/
doitong generate "waves" --provider kling --options '{"duration": 5}' --json
echo "a red fox" | doitong generate - -o - > fox.jpg

The API key is read only from DOITONG_API_KEY. Exit codes: doitong --help."""
_JOB_EXAMPLES: Final = """[bold]Examples[/bold]
doitong job dtj1.eyJpZCI6ImFiYzEyMyJ9 -o fox.jpg
doitong job abc123 --json

The API key is read only from DOITONG_API_KEY. Exit codes: doitong --help."""
_EMULATOR_EXAMPLES: Final = """[bold]Examples[/bold]
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

app: Final = typer.Typer(
    help="Pictures, video, avatars and speech from Doitong: every job paid once, none lost.",
    epilog=_lines(_EPILOG),
    rich_markup_mode="rich",
    # Tracebacks with locals could reveal the key.
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class OverConcurrency(StrEnum):
    """What the emulator does with a job beyond the plan's concurrency limit."""

    REFUSE = "refuse"
    QUEUE = "queue"


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


@app.command(epilog=_lines(_GENERATE_EXAMPLES))
def generate(
    context: typer.Context,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to make; - reads it from stdin.")
    ] = None,
    output: Output = None,
    provider: Annotated[str | None, typer.Option(help="The provider; flux-pro by default.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; 1024 by default.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; 1024 by default.")] = None,
    version: Annotated[str | None, typer.Option(help="A version of the provider's model.")] = None,
    quality: Annotated[str | None, typer.Option(help="Such as high.")] = None,
    kind: Annotated[
        str | None,
        typer.Option("--type", help="IMAGE, VIDEO, AVATAR or AUDIO; by default the provider's own type."),
    ] = None,
    more_input: Annotated[
        str | None, typer.Option("--input", metavar="JSON", help="Further input fields, a JSON object.")
    ] = None,
    more_options: Annotated[
        str | None,
        typer.Option("--options", metavar="JSON", help="Further options of the service, a JSON object."),
    ] = None,
    plan: PlanOption = None,
    base_url: BaseUrl = None,
    timeout: Timeout = None,
    idempotency_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The same key charges the same request once; random by default."),
    ] = None,
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Use a private emulator: no key, no network, no cost.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make one output, wait for it, and save it."""
    service = Service(base_url=base_url, plan=plan, timeout=timeout, has_own_emulator=emulator)
    progress = context.obj.begin(
        service, Destination(output), as_json=as_json, idempotency_key=idempotency_key
    )
    request = as_request(
        _read_prompt(prompt),
        provider=provider,
        width=width,
        height=height,
        version=version,
        quality=quality,
        type=kind,
        input=_read_object("--input", more_input),
        options=_read_object("--options", more_options),
    )
    work.run_to_end(progress, lambda: work.generate(progress, request), is_verbose=verbose)


@app.command(epilog=_lines(_JOB_EXAMPLES))
def job(
    context: typer.Context,
    id_or_token: Annotated[
        str, typer.Argument(metavar="ID_OR_TOKEN", help="The id or token that another command printed.")
    ],
    output: Output = None,
    plan: PlanOption = None,
    base_url: BaseUrl = None,
    timeout: Timeout = None,
    emulator: Annotated[
        bool,
        typer.Option(
            "--emulator",
            help="Use a running `doitong emulator`, at --base-url or else at "
            f"http://127.0.0.1:{EMULATOR_PORT}; no key is needed.",
        ),
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Resume a job that another command submitted: wait for it, and save it."""
    if emulator and base_url is None:
        base_url = f"http://127.0.0.1:{EMULATOR_PORT}"
    service = Service(base_url=base_url, plan=plan, timeout=timeout, is_keyless=emulator)
    progress = context.obj.begin(service, Destination(output), as_json=as_json, idempotency_key=None)
    progress.idempotency_key = None
    work.run_to_end(progress, lambda: work.take_up(progress, id_or_token), is_verbose=verbose)


@app.command(epilog=_lines(_EMULATOR_EXAMPLES))
def emulator(
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
            "without it.  [DOITONG_WEBHOOK_SECRET]",
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
    emulation.serve(
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


app.command("estimate", epilog=_lines(planning.EXAMPLES))(planning.estimate_file)
app.command("batch", epilog=_lines(batch.EXAMPLES))(batch.batch_file)
app.command(status.NAME, epilog=_lines(status.EXAMPLES))(status.show_status)


def _read_prompt(prompt: str | None) -> str | None:
    if prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise CommandError(
            f"The standard input is not UTF-8: {error.reason} at byte {error.start}."
        ) from None


def _read_object(option: str, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CommandError(f"{option} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CommandError(f"{option} is {text[:60]}; expected a JSON object such as '{{\"a\": 1}}'.")
    return value
