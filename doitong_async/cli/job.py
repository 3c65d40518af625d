"""`doitong job`: resumes a job that another command submitted."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from doitong_async.cli import run_job
from doitong_async.cli.options import (
    AsJson,
    BaseUrl,
    CoordinatorOption,
    Output,
    PlanOption,
    Proxy,
    Timeout,
    TransportOption,
    Verbose,
)
from doitong_async.cli.outputs import Destination
from doitong_async.cli.service import EMULATOR_PORT, Service

EXAMPLES: Final = """[bold]Examples[/bold]
doitong job dtj1.eyJpZCI6ImFiYzEyMyJ9 -o fox.jpg
doitong job abc123 --json

The API key is read only from DOITONG_API_KEY. Exit codes: doitong --help."""


def take_up(
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
    transport: TransportOption = None,
    proxy: Proxy = None,
    coordinator: CoordinatorOption = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Resume a job that another command submitted: wait for it, and save it."""
    if emulator and base_url is None:
        base_url = f"http://127.0.0.1:{EMULATOR_PORT}"
    service = Service(
        base_url=base_url,
        plan=plan,
        timeout=timeout,
        is_keyless=emulator,
        proxy=proxy,
        coordinator=coordinator,
        transport=transport,
    )
    progress = context.obj.begin(service, Destination(output), as_json=as_json, idempotency_key=None)
    progress.idempotency_key = None
    run_job.run_to_end(progress, lambda: run_job.take_up(progress, id_or_token), is_verbose=verbose)
