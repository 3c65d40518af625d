"""The commands and their options, as typer parses them and `--help` shows them."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer import rich_utils
from typer.main import get_command

from doitong_async import __version__
from doitong_async.cli import batch, coordinator, doctor, emulator, estimate, generate, job, status
from doitong_async.cli.exits import MEANINGS, CommandError, Exit, exit_of
from doitong_async.cli.interrupts import hangup_as_before
from doitong_async.cli.job_progress import JobProgress
from doitong_async.cli.outputs import Destination
from doitong_async.cli.render import CommandFailure, renderer_for, say_failure, write_line
from doitong_async.cli.service import Service
from doitong_async.errors import DoitongError
from doitong_async.settings import new_idempotency_key

# typer's usage errors are click's; whether typer bundles click depends on its version.
_USAGE_ERROR: Final[Any] = typer.BadParameter.__base__
_NARROWEST: Final = 80
"""Columns that the help needs."""


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
        renderer = renderer_for(
            sys.stdout, sys.stderr, as_json=as_json, is_stdout_taken=destination.is_stdout
        )
        self.progress = JobProgress(
            self.arguments, renderer, service, destination, idempotency_key or new_idempotency_key()
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
    for name in (status.NAME, coordinator.NAME):
        words = name.split()
        if list(arguments[: len(words)]) == words:
            arguments = [name, *arguments[len(words) :]]
    command = get_command(app)
    # In a narrow terminal it is better to wrap the help than to cut the names of options.
    rich_utils.MAX_WIDTH = max(_NARROWEST, shutil.get_terminal_size().columns)
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
        "DOITONG_WEBHOOK_SECRET   what the service signs its webhooks with",
        "DOITONG_LOG       debug or info: what happens, on stderr; no prompt, no key",
        "DOITONG_COORDINATOR      the Redis server by which all processes on the key share the plan",
        "HTTPS_PROXY, NO_PROXY    the proxy to use, and the hosts to reach without it",
        "",
        "[bold]Exit codes[/bold]",
        *(f"{end.value:<5}{meaning}" for end, meaning in MEANINGS.items()),
    )
)
app: Final = typer.Typer(
    help="Pictures, video, avatars and speech from Doitong: every job paid once, none lost.",
    epilog=_lines(_EPILOG),
    rich_markup_mode="rich",
    # Tracebacks with locals could reveal the key.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        write_line(sys.stdout, f"doitong-async {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


for name, command, examples in (
    ("generate", generate.generate, generate.EXAMPLES),
    ("job", job.take_up, job.EXAMPLES),
    ("batch", batch.batch_file, batch.EXAMPLES),
    (status.NAME, status.show_status, status.EXAMPLES),
    ("estimate", estimate.estimate_file, estimate.EXAMPLES),
    ("doctor", doctor.diagnose, doctor.EXAMPLES),
    (coordinator.NAME, coordinator.show_coordinator, coordinator.EXAMPLES),
    ("emulator", emulator.emulate, emulator.EXAMPLES),
):
    app.command(name, epilog=_lines(examples))(command)
