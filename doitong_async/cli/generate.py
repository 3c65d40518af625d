"""`doitong generate`: makes one output, waits for it, and saves it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

import typer

from doitong_async.cli import run_job
from doitong_async.cli.exits import CommandError
from doitong_async.cli.options import (
    AsJson,
    BaseUrl,
    BudgetOption,
    CoordinatorOption,
    LowOption,
    Output,
    PlanOption,
    PriceOption,
    Proxy,
    Timeout,
    TransportOption,
    Verbose,
    budget_of,
    read_prices,
)
from doitong_async.cli.outputs import Destination
from doitong_async.cli.service import Service
from doitong_async.types import as_request

EXAMPLES: Final = r"""[bold]Examples[/bold]
doitong generate "a red fox in the snow" -o fox.jpg
doitong generate "a red fox" --provider flux-ultra --width 1920 -o pictures/
doitong generate "waves" --provider kling --options '{"duration": 5}' --json
echo "a red fox" | doitong generate - -o - > fox.jpg

[bold]A good prompt[/bold]
Be specific about visual elements, style and mood.
Give lighting, camera angle and composition.
Avoid contradictory requests.

The API key is read only from DOITONG_API_KEY. Exit codes: doitong --help."""


KeyOption = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="The same key charges the same request once; random by default."),
]


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
    budget: BudgetOption = None,
    low: LowOption = None,
    price: PriceOption = None,
    plan: PlanOption = None,
    base_url: BaseUrl = None,
    timeout: Timeout = None,
    idempotency_key: KeyOption = None,
    emulator: Annotated[
        bool, typer.Option("--emulator", help="Use a private emulator: no key, no network, no cost.")
    ] = False,
    transport: TransportOption = None,
    proxy: Proxy = None,
    coordinator: CoordinatorOption = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Make one output, wait for it, and save it."""
    service = Service(
        base_url=base_url,
        plan=plan,
        timeout=timeout,
        has_own_emulator=emulator,
        proxy=proxy,
        coordinator=coordinator,
        transport=transport,
        budget=budget_of(budget, low, lambda line: progress.renderer.note(line)),
        price=read_prices(price),
    )
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
    run_job.run_to_end(progress, lambda: run_job.generate(progress, request), is_verbose=verbose)


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
